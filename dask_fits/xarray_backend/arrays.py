"""The pixels of an image as xarray takes them from an engine: lazy, picklable, safe in threads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache, partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from xarray.backends import BackendArray
from xarray.core import indexing

from dask_fits.arrays.banded import BandedArray, bands_of, narrow, warn_of
from dask_fits.arrays.computations import watch_computations
from dask_fits.concurrency.cancellation import CancelScope
from dask_fits.planning.bands import Window
from dask_fits.planning.selection import Selection, select, select_outer
from dask_fits.readers.reader import HduReader
from dask_fits.storage.transfer import TransferConfig

TOKEN = "dask_token"  # noqa: S105 (Dask's)
"""Key of a variable's encoding: what its pixels are, the version of the file included."""


@lru_cache(maxsize=1)
def _loaders(process: int) -> ThreadPoolExecutor:
    """Threads in which `load_async` waits for pixels; each begins when it is needed."""
    del process  # it is in the key: a forked process has none of the threads of its parent
    return ThreadPoolExecutor(TransferConfig().max_concurrency, thread_name_prefix="dask_fits")


class LazyArray(BackendArray):
    """An array whose values are had as they are asked for, along each axis by itself (outer)."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype

    def take(self, selection: Selection) -> Any:
        """Get the values of a selection."""
        raise NotImplementedError

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Get just what a key needs."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take
        )

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        """Get it in a thread, so that the requests of several variables overlap."""
        with CancelScope.within_current():
            get = partial(copy_context().run, self.__getitem__, key)
            return await asyncio.get_running_loop().run_in_executor(_loaders(os.getpid()), get)

    def _take(self, key: tuple[Any, ...]) -> Any:
        return self.take(select_outer(key, self.shape))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} shape={self.shape} dtype={self.dtype}>"


class FitsArray(LazyArray):
    """The pixels of a reader."""

    __slots__ = ("_reader",)

    def __init__(self, reader: HduReader) -> None:
        super().__init__(reader.shape, reader.dtype)
        self._reader = reader

    @property
    def reader(self) -> HduReader:
        """What reads them."""
        return self._reader

    def take(self, selection: Selection) -> Any:
        """Read the pixels of a selection."""
        return self._reader.read(selection)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return ("dask_fits.FitsArray", self._reader.__dask_tokenize__())


class FitsVariable(xr.Variable):
    """A variable whose Dask arrays fetch no byte twice, and have the file's version in their names.

    xarray names what ``open_dataset(chunks=...)`` makes by the URL and the options, and of local
    files the time of modification. A remote file that was replaced, or another setting of Dask for
    the size of chunks, would give arrays with the names of those before, and a cluster that still
    holds these would hand out the old pixels. The name is made before the engine can say anything,
    and given to `xarray.Variable.chunk`: so this one adds to it. Chunks that share bytes are
    divided out of bands, as those of `dask_fits.arrays.lazy.to_dask`.
    """

    __slots__ = ()

    def chunk(self, chunks: Any = {}, **options: Any) -> xr.Variable:  # type: ignore[override] # noqa: B006 (xarray's)
        """Make a Dask array of it; see `xarray.Variable.chunk`."""
        watch_computations()
        given = options.get("from_array_kwargs") or {}
        if given.get("name") and TOKEN in self.encoding:
            name = f"{given['name']}-{tokenize(self.encoding[TOKEN], str(chunks))}"
            options["from_array_kwargs"] = {**given, "name": name}
        found: xr.Variable = super().chunk(chunks, **options).to_base_variable()
        banded = _banded(self._data, found.data)
        return found if banded is None else found._replace(data=banded)


def _banded(lazy: Any, chunked: Any) -> da.Array | None:
    """Divide chunks out of bands where they share bytes; the name stays xarray's."""
    while isinstance(lazy, (indexing.MemoryCachedArray, indexing.CopyOnWriteArray)):
        lazy = lazy.array
    if not isinstance(lazy, indexing.LazilyIndexedArray) or not isinstance(chunked, da.Array):
        return None
    image, key = lazy.array, lazy.key.tuple
    if not isinstance(image, FitsArray) or any(isinstance(item, np.ndarray) for item in key):
        return None
    whole = Window.whole(tuple((length,) for length in image.shape))
    part, rest = narrow(whole, select(key, image.shape))
    if rest is not None:
        return None
    window = part.rechunk(chunked.chunks)
    bands = bands_of(image.reader, window)
    if bands is None:
        return None
    warn_of(image.reader, window, bands)
    return BandedArray.of(image.reader, window, bands, chunked.name)


def lazy_variable(
    dims: tuple[str, ...],
    array: LazyArray,
    attrs: Mapping[Any, Any],
    encoding: Mapping[Any, Any],
) -> FitsVariable:
    """Make a variable of a lazy array, and note in its encoding what it is."""
    encoding = {**encoding, TOKEN: tokenize(array)}
    return FitsVariable(dims, indexing.LazilyIndexedArray(array), dict(attrs), encoding)


def renewed(known: xr.Variable, array: LazyArray, name: str, dims: tuple[str, ...]) -> xr.Variable:
    """Make a variable of a lazy array in the place of one that is known.

    What is known stays where it is of the same values, loaded or not. Else the new one is a Dask
    array where the known one is, in chunks of the same lengths.
    """
    found = lazy_variable(dims, array, known.attrs, known.encoding)
    if known.encoding.get(TOKEN) == found.encoding[TOKEN]:
        return known
    if not known.chunks:
        return found
    lengths = {dim: max(known.chunksizes[dim]) for dim in dims if dim in known.dims}
    return found.chunk(lengths, from_array_kwargs={"name": name})
