"""What users may change of an HDU, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dask_fits.concurrency.process_lock import ProcessLock

if TYPE_CHECKING:
    import dask.array as da
    from astropy.io import fits


class InMemory:
    """What users may change of an HDU: its header and its lazy pixels, the same at each access.

    It stays with the object in this process: a copy by pickle, such as one in a task, is empty.
    """

    __slots__ = ("_array", "_header", "_lock", "_name")

    def __init__(self) -> None:
        self._header: fits.Header | None = None
        self._array: da.Array | None = None
        self._name = ""
        self._lock = ProcessLock()

    def __reduce__(self) -> tuple[type[InMemory], tuple[()]]:
        return InMemory, ()

    def header(self, parse: Callable[[], fits.Header]) -> fits.Header:
        """Return the header, parsed when it is first asked for."""
        with self._lock:
            if self._header is None:
                self._header = parse()
            return self._header

    def array(self, fresh: da.Array) -> da.Array:
        """Return the array that was given before; the new one while nobody has assigned to it.

        Dask gives an array another name when something is assigned to it. One that nobody has
        assigned to makes way for one in other chunks, after a change of Dask's settings.
        """
        with self._lock:
            known = self._array
            if known is None or (known.name == self._name != fresh.name):
                known, self._name = fresh, fresh.name
                self._array = known
            return known
