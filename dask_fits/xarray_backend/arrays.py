"""The pixels of an image as xarray takes them from an engine: lazy, picklable, safe in threads."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from dask_fits.format.selection import select_outer
from dask_fits.readers.reader import PixelReader
from dask_fits.storage.transfer import TransferConfig

TOKEN = "dask_token"  # noqa: S105 (Dask's)
"""Key of a variable's encoding: what its pixels are, the version of the file included."""

_LOADERS = ThreadPoolExecutor(TransferConfig().max_concurrency, thread_name_prefix="dask_fits")
"""Threads in which `load_async` waits for pixels; each begins when it is needed."""


class FitsArray(BackendArray):
    """The pixels of a reader, indexed along each axis by itself (outer indexing)."""

    __slots__ = ("_reader", "dtype", "shape")

    def __init__(self, reader: PixelReader) -> None:
        self._reader = reader
        self.shape = reader.shape
        self.dtype = reader.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read just what a key needs."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        """Read in a thread, so that the requests of several variables overlap."""
        return await asyncio.get_running_loop().run_in_executor(_LOADERS, self.__getitem__, key)

    def _read(self, key: tuple[Any, ...]) -> Any:
        return self._reader.read(select_outer(key, self.shape))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return ("dask_fits.FitsArray", self._reader.__dask_tokenize__())

    def __repr__(self) -> str:
        return f"<FitsArray shape={self.shape} dtype={self.dtype}>"


class FitsVariable(xr.Variable):
    """A variable whose Dask arrays are named by the file's version, too.

    xarray names what ``open_dataset(chunks=...)`` makes by the URL and the options, and of local
    files the time of modification. A remote file that was replaced would give arrays with the
    names of those before, and a cluster that still holds these would hand out the old pixels. The
    name is made before the engine can say anything, and given to `xarray.Variable.chunk`: so this
    one adds to it.
    """

    __slots__ = ()

    def chunk(self, chunks: Any = {}, **options: Any) -> xr.Variable:  # type: ignore[override] # noqa: B006 (xarray's)
        """Make a Dask array of it; see `xarray.Variable.chunk`."""
        given = options.get("from_array_kwargs") or {}
        if given.get("name") and TOKEN in self.encoding:
            name = f"{given['name']}-{self.encoding[TOKEN]}"
            options["from_array_kwargs"] = {**given, "name": name}
        return super().chunk(chunks, **options).to_base_variable()


def lazy_variable(
    dims: tuple[str, ...], reader: PixelReader, attrs: dict[str, Any], encoding: dict[str, Any]
) -> FitsVariable:
    """Make a variable of a reader's pixels; reads nothing."""
    return FitsVariable(dims, indexing.LazilyIndexedArray(FitsArray(reader)), attrs, encoding)
