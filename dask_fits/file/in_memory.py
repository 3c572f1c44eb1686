"""The header and the array of an HDU that users may change, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dask_fits.concurrency.process_lock import ProcessLock

if TYPE_CHECKING:
    import dask.array as da
    from astropy.io import fits


class InMemory:
    """The header and the lazy pixels of an HDU, which are the same objects at each access.

    They stay with the HDU in this process: a copy by pickle, such as one in a task, is empty.
    """

    __slots__ = ("_array", "_header", "_lock", "_original_name")

    def __init__(self) -> None:
        self._header: fits.Header | None = None
        self._array: da.Array | None = None
        # Of the array before any assignment to it.
        self._original_name = ""
        self._lock = ProcessLock()

    def __reduce__(self) -> tuple[type[InMemory], tuple[()]]:
        return InMemory, ()

    def header(self, parse: Callable[[], fits.Header]) -> fits.Header:
        """Return the header, which is parsed at the first access."""
        with self._lock:
            if self._header is None:
                self._header = parse()
            return self._header

    def array(self, fresh: da.Array) -> da.Array:
        """Return the array of the first access, unless a fresh one may take its place.

        Dask renames an array when something is assigned to it. An array without assignments is
        replaced by a fresh one in other chunks, after a change of Dask's settings.
        """
        with self._lock:
            array = self._array
            if array is None or (array.name == self._original_name != fresh.name):
                array = fresh
                self._array = array
                self._original_name = array.name
            return array
