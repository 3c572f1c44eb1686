"""Lazy Dask arrays over the readers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import cast

import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.utils import parse_bytes

from dask_fits._typing import Chunks, Key
from dask_fits.arrays.banded import (
    BandedArray,
    bands_for,
    chunk_limit,
    plan_selection,
    warn_if_costly,
)
from dask_fits.arrays.computations import watch_computations
from dask_fits.arrays.windowed import array_name
from dask_fits.exceptions import FitsFormatError
from dask_fits.planning.bands import Window
from dask_fits.planning.chunks import ReadPlan, chunk_boxes, count_chunks
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.reader import HduReader, PixelReader

MAX_CHUNKS = 1 << 24
"""Limit for the number of chunks of an array: a list of more would fill the memory."""


def to_dask(reader: HduReader, chunks: Chunks = "auto") -> da.Array:
    """Make a lazy Dask array of the pixels of an image HDU; see `HDU.to_dask`.

    Chunks that share bytes of the file are divided out of bands that are read once.
    """
    window = Window.whole(chunk_grid(reader, chunks))
    bands = bands_for(reader, window)
    if bands is None:
        return array_of_window(reader, window, name=array_name(reader, window))
    warn_if_costly(reader, window, bands)
    return BandedArray.of(reader, window, bands)


def lazy_array(reader: PixelReader, chunks: Chunks = "auto") -> da.Array:
    """Make a lazy Dask array of a reader's pixels, each chunk read by itself."""
    window = Window.whole(chunk_grid(reader, chunks))
    return array_of_window(reader, window, name=array_name(reader, window))


def array_of_window(reader: PixelReader, window: Window, *, name: str) -> da.Array:
    """Make the Dask array of a whole image, each chunk read by itself."""
    watch_computations()
    array: da.Array = da.from_array(
        reader,
        chunks=window.chunks,
        name=name,
        # With these four, Dask hands slices on to the reader, and the graph stays small.
        inline_array=True,
        asarray=True,
        lock=False,
        fancy=True,
        meta=np.empty((0,) * reader.ndim, reader.dtype),
    )
    return array


def plan(reader: HduReader, *, key: Key = ..., chunks: Chunks = None) -> ReadPlan:
    """Plan the reads of a selection; reads no pixels; see `HDU.plan`."""
    selection = select(key, reader.shape)
    if chunks is None:
        return reader.plan(selection.indices)
    reader.check(selection)
    window = Window.whole(chunk_grid(reader, chunks))
    if bands_for(reader, window) is not None:
        return plan_selection(reader, window, selection)
    whole = _whole_chunk_axes(key, selection)
    return ReadPlan.of_chunks(
        reader.plan(axes) for axes in chunk_boxes(selection.indices, window.chunks, whole=whole)
    )


def _whole_chunk_axes(key: Key, selection: Selection) -> Collection[int]:
    """Return the axes along which Dask reads whole chunks, as it cannot pass on such a key."""
    items = key if isinstance(key, tuple) else (key,)
    if any(item is None or (isinstance(item, slice) and (item.step or 1) < 0) for item in items):
        return range(len(selection.indices))
    return () if selection.listed is None else (selection.listed,)


def chunk_grid(
    reader: PixelReader,
    chunks: Chunks = "auto",
    *,
    contiguous_chunk: Callable[[int], tuple[int, ...]] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Resolve the `chunks` argument of `to_dask` to the lengths of chunks along each axis.

    Parameters
    ----------
    reader : PixelReader
    chunks : int, "auto", None, or a tuple or mapping of these and of tuples of int
    contiguous_chunk : callable, optional
        Returns the shape of ``"auto"`` chunks of at most some bytes; by default the reader's.
    """
    limit = chunk_limit()
    if isinstance(chunks, str) and chunks != "auto":
        limit = int(parse_bytes(chunks))
    contiguous = (contiguous_chunk or reader.contiguous_chunk)(limit)
    _check_count(contiguous, reader, limit)
    if isinstance(chunks, str):
        return _normalize(contiguous, reader)
    _check_count(chunks, reader, limit)
    previous = _normalize(contiguous, reader)
    if 0 in reader.shape:  # Dask divides by the size of a chunk to find an axis left to it
        chunks = _replace_auto(chunks)
    # With contiguous ones as the previous chunks, Dask keeps an axis that is left to it contiguous.
    return _normalize(chunks, reader, previous_chunks=previous)


def _check_count(chunks: Chunks, reader: PixelReader, limit: int) -> None:
    """Raise FitsFormatError if there would be more chunks than can be listed."""
    shape = reader.shape
    count = count_chunks(chunks, shape, itemsize=reader.dtype.itemsize, limit=limit)
    if count <= MAX_CHUNKS:
        return
    # Most likely NAXISn is damaged: if the file is too short for its last pixel, that is said.
    reader.check(Selection.of_box(tuple(range(length)[-1:] for length in shape)))
    raise FitsFormatError(
        f"chunks: found {count:.0f} of them in an image of shape {shape}, "
        f"expected at most {MAX_CHUNKS}"
    )


def _replace_auto(chunks: Chunks) -> Chunks:
    """Replace ``"auto"`` for some axes by all of the axis."""
    if isinstance(chunks, Mapping):
        return {axis: -1 if part == "auto" else part for axis, part in chunks.items()}
    if isinstance(chunks, (tuple, list)):
        return tuple(-1 if part == "auto" else part for part in chunks)
    return chunks


def _normalize(
    chunks: Chunks,
    reader: PixelReader,
    previous_chunks: tuple[tuple[int, ...], ...] | None = None,
) -> tuple[tuple[int, ...], ...]:
    """Resolve chunks by Dask's rules to lengths along each axis."""
    grid = normalize_chunks(
        chunks, shape=reader.shape, dtype=reader.dtype, previous_chunks=previous_chunks
    )
    return cast("tuple[tuple[int, ...], ...]", grid)
