"""Lazy Dask arrays over the readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.utils import parse_bytes

from dask_fits._typing import Chunks, Key
from dask_fits.arrays.banded import (
    BandedArray,
    array_name,
    bands_of,
    chunk_limit,
    read_plan,
    warn_of,
)
from dask_fits.arrays.computations import watch_computations
from dask_fits.exceptions import FitsFormatError
from dask_fits.planning.bands import Window
from dask_fits.planning.chunks import ReadPlan, chunk_boxes, count_chunks
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.reader import HduReader, PixelReader

MAX_CHUNKS = 1 << 24
"""Chunks that an array may have: a list of more would fill the memory."""


def to_dask(reader: HduReader, chunks: Chunks = "auto") -> da.Array:
    """Make a lazy Dask array of the pixels of an image HDU; see `HDU.to_dask`.

    Chunks that share bytes of the file are divided out of bands that are read once.
    """
    window = Window.whole(chunk_grid(reader, chunks))
    bands = bands_of(reader, window)
    if bands is None:
        return _of_window(reader, window)
    warn_of(reader, window, bands)
    return BandedArray.of(reader, window, bands)


def lazy_array(reader: PixelReader, chunks: Chunks = "auto") -> da.Array:
    """Make a lazy Dask array of a reader's pixels, each chunk read by itself."""
    return _of_window(reader, Window.whole(chunk_grid(reader, chunks)))


def _of_window(reader: PixelReader, window: Window) -> da.Array:
    watch_computations()
    array: da.Array = da.from_array(
        reader,
        chunks=window.chunks,
        name=array_name(reader, window),
        inline_array=True,
        asarray=True,
        lock=False,
        fancy=True,
        meta=np.empty((0,) * reader.ndim, reader.dtype),
    )
    return array


def plan(reader: HduReader, *, key: Key = ..., chunks: Chunks = None) -> ReadPlan:
    """Tell what reading a selection costs; reads no pixels; see `HDU.plan`."""
    selection = select(key, reader.shape)
    if chunks is None:
        return reader.plan(selection.indices)
    reader.check(selection)
    window = Window.whole(chunk_grid(reader, chunks))
    if bands_of(reader, window) is not None:
        return read_plan(reader, window, selection)
    whole = _read_whole(key, selection)
    return ReadPlan.of_chunks(
        reader.plan(axes) for axes in chunk_boxes(selection.indices, window.chunks, whole=whole)
    )


def _read_whole(key: Key, selection: Selection) -> Collection[int]:
    """Axes along which Dask reads whole chunks, because it cannot pass the key on to the reader."""
    items = key if isinstance(key, tuple) else (key,)
    if any(item is None or (isinstance(item, slice) and (item.step or 1) < 0) for item in items):
        return range(len(selection.indices))
    return () if selection.listed is None else (selection.listed,)


def chunk_grid(reader: PixelReader, chunks: Chunks = "auto") -> tuple[tuple[int, ...], ...]:
    """Resolve `chunks` as `to_dask` takes it: chunk lengths along each axis."""
    limit = chunk_limit()
    if isinstance(chunks, str) and chunks != "auto":
        chunks, limit = "auto", parse_bytes(chunks)
    contiguous = reader.contiguous_chunk(limit)
    for asked in [contiguous] if isinstance(chunks, str) else [contiguous, chunks]:
        _check_count(asked, reader, limit)
    whole = _normalized(contiguous, reader)
    if isinstance(chunks, str):
        return whole
    if 0 in reader.shape:  # Dask divides by the size of a chunk to find an axis left to it
        chunks = _without_auto(chunks)
    # With contiguous ones as the previous chunks, Dask keeps an axis that is left to it contiguous.
    return _normalized(chunks, reader, previous_chunks=whole)


def _check_count(chunks: Chunks, reader: PixelReader, limit: int) -> None:
    """Raise where there would be more chunks than can be listed."""
    shape = reader.shape
    count = count_chunks(chunks, shape, itemsize=reader.dtype.itemsize, limit=limit)
    if count <= MAX_CHUNKS:
        return
    # Most likely it is no image at all, but a damaged NAXISn.
    reader.check(Selection.of_box(tuple(range(length)[-1:] for length in shape)))
    raise FitsFormatError(
        f"chunks: found {count:.0f} of them in an image of shape {shape}, "
        f"expected at most {MAX_CHUNKS}"
    )


def _without_auto(chunks: Chunks) -> Any:
    if isinstance(chunks, Mapping):
        return {axis: -1 if part == "auto" else part for axis, part in chunks.items()}
    if isinstance(chunks, (tuple, list)):
        return tuple(-1 if part == "auto" else part for part in chunks)
    return chunks


def _normalized(
    chunks: Chunks, reader: PixelReader, **previous: Any
) -> tuple[tuple[int, ...], ...]:
    grid = normalize_chunks(chunks, shape=reader.shape, dtype=reader.dtype, **previous)
    return cast("tuple[tuple[int, ...], ...]", grid)
