"""Lazy arrays and variables for xarray: picklable, and safe in threads."""

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

from dask_fits.arrays.banded import BandedArray, bands_for, narrow, warn_if_costly
from dask_fits.arrays.computations import watch_computations
from dask_fits.concurrency.cancellation import CancelScope
from dask_fits.planning.bands import Window
from dask_fits.planning.selection import Selection, select, select_outer
from dask_fits.readers.reader import HduReader
from dask_fits.storage.transfer import TransferConfig

TOKEN = "dask_token"  # noqa: S105 (Dask's)
"""Key of a variable's encoding: a token of its pixels and of the file's version."""


@lru_cache(maxsize=1)
def _loaders(process: int) -> ThreadPoolExecutor:
    """Return the threads in which `load_async` waits for pixels, each started on demand."""
    del process  # a key of the cache: a forked process has none of the threads of its parent
    return ThreadPoolExecutor(TransferConfig().max_concurrency, thread_name_prefix="dask_fits")


class LazyArray(BackendArray):
    """Lazy array with outer (orthogonal) indexing."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype

    def take(self, selection: Selection) -> Any:
        """Return the values of a selection."""
        raise NotImplementedError

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the values of a key; reads no others."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._take_outer
        )

    async def async_getitem(self, key: indexing.ExplicitIndexer) -> Any:
        """Return the values of a key from a thread, so that requests of several variables overlap.

        If waiting for them fails or is cancelled, so are the reads.
        """
        with CancelScope.within_current():
            get = partial(copy_context().run, self.__getitem__, key)
            return await asyncio.get_running_loop().run_in_executor(_loaders(os.getpid()), get)

    def _take_outer(self, key: tuple[Any, ...]) -> Any:
        """Return the values of an outer key, as xarray writes it."""
        return self.take(select_outer(key, self.shape))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} shape={self.shape} dtype={self.dtype}>"


class FitsArray(LazyArray):
    """Lazy array of the pixels of a reader."""

    __slots__ = ("_reader",)

    def __init__(self, reader: HduReader) -> None:
        super().__init__(reader.shape, reader.dtype)
        self._reader = reader

    @property
    def reader(self) -> HduReader:
        """The reader of the pixels."""
        return self._reader

    def take(self, selection: Selection) -> Any:
        """Read the pixels of a selection."""
        return self._reader.read(selection)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return ("dask_fits.FitsArray", self._reader.__dask_tokenize__())


class FitsVariable(xr.Variable):
    """Variable whose Dask arrays fetch no byte twice, and have the file's version in their names.

    xarray names the arrays of ``open_dataset(chunks=...)`` by the URL and the options, and for
    local files the time of modification. A remote file that was replaced, or another setting of
    Dask for the size of chunks, would give arrays with the names of those before, and a cluster
    that still holds these would return the old pixels. xarray makes the name before it calls the
    engine, and passes it to `xarray.Variable.chunk`: so this class adds to it there. Chunks that
    share bytes are divided out of bands, as those of `dask_fits.arrays.lazy.to_dask`.
    """

    __slots__ = ()

    def chunk(self, chunks: Any = {}, **options: Any) -> xr.Variable:  # type: ignore[override] # noqa: B006 (xarray's)
        """Return the variable with a Dask array; see `xarray.Variable.chunk`."""
        watch_computations()
        array_options = options.get("from_array_kwargs") or {}
        if array_options.get("name") and TOKEN in self.encoding:
            name = f"{array_options['name']}-{tokenize(self.encoding[TOKEN], str(chunks))}"
            options["from_array_kwargs"] = {**array_options, "name": name}
        chunked: xr.Variable = super().chunk(chunks, **options).to_base_variable()
        banded = _divide_out_of_bands(self._data, chunked.data)
        return chunked if banded is None else chunked._replace(data=banded)


def _divide_out_of_bands(lazy: object, chunked: object) -> da.Array | None:
    """Return the array whose chunks are divided out of bands; its name stays xarray's.

    None if the chunks share no bytes, or the variable is anything but a part of an image that is
    not loaded yet.

    Parameters
    ----------
    lazy : array-like
        The data of the variable: xarray's wrappers around a `FitsArray`.
    chunked : array-like
        xarray's Dask array of them.
    """
    while isinstance(lazy, (indexing.MemoryCachedArray, indexing.CopyOnWriteArray)):
        lazy = lazy.array
    if not isinstance(lazy, indexing.LazilyIndexedArray) or not isinstance(chunked, da.Array):
        return None
    image = lazy.array
    key = lazy.key.tuple
    if not isinstance(image, FitsArray) or any(isinstance(item, np.ndarray) for item in key):
        return None
    # The key of the lazy array makes a window of the image, which xarray's chunks divide.
    whole = Window.whole(tuple((length,) for length in image.shape))
    part, dask_key = narrow(whole, select(key, image.shape))
    if dask_key is not None:
        return None
    window = part.rechunk(chunked.chunks)
    bands = bands_for(image.reader, window)
    if bands is None:
        return None
    warn_if_costly(image.reader, window, bands)
    return BandedArray.of(image.reader, window, bands, chunked.name)


def lazy_variable(
    dims: tuple[str, ...],
    array: LazyArray,
    attrs: Mapping[Any, Any],
    encoding: Mapping[Any, Any],
) -> FitsVariable:
    """Make a variable of a lazy array, with the array's token in its encoding."""
    encoding = {**encoding, TOKEN: tokenize(array)}
    return FitsVariable(dims, indexing.LazilyIndexedArray(array), dict(attrs), encoding)


def replace_variable(
    old: xr.Variable, array: LazyArray, name: str, dims: tuple[str, ...]
) -> xr.Variable:
    """Make a variable of a lazy array to replace another one.

    The old one stays if it has the same values, loaded or not. Else the new one is a Dask array if
    the old one is, in chunks of the same lengths.
    """
    new = lazy_variable(dims, array, old.attrs, old.encoding)
    if old.encoding.get(TOKEN) == new.encoding[TOKEN]:
        return old
    if not old.chunks:
        return new
    lengths = {dim: max(old.chunksizes[dim]) for dim in dims if dim in old.dims}
    return new.chunk(lengths, from_array_kwargs={"name": name})
