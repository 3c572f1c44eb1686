"""Dask arrays whose chunks share bytes of the file, which are read once, in bands.

Tasks are made when Dask knows which chunks are computed, since that decides which of them share a
read; see `dask_fits.planning.band_reads.divide`::

    chunks    |  a  |   b   |    c    |   d   |    a and c are computed, c lies in two bands
    boxes     |===================|===|            each is read once, by a "fits-band" task
    pieces    |=====|       |=====|                a is cut out of the first box; so is a piece of c
                                                   ("fits-piece"), which is joined with the second
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from math import prod
from typing import Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask import config
from dask._task_spec import Task, TaskRef
from dask.array.core import Array
from dask.base import tokenize
from dask.typing import Key as DaskKey
from dask.utils import format_bytes, parse_bytes

from dask_fits.arrays.windowed import WindowedArray, WindowLayer, array_name
from dask_fits.planning.band_reads import Index, Part, divide
from dask_fits.planning.bands import (
    Bands,
    Box,
    Costs,
    Window,
    bounding_box,
    find_bands,
    suggest_chunk_shape,
)
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.selection import Selection
from dask_fits.readers.reader import HduReader

HELD_CHUNKS = 8
"""Memory that a full read or write holds at most, if it can, as a multiple of Dask's
array.chunk-size."""


def chunk_limit() -> int:
    """Return Dask's limit for the size of a chunk, in bytes."""
    return int(parse_bytes(config.get("array.chunk-size")))


def bands_for(reader: HduReader, window: Window) -> Bands | None:
    """Find the bands in which a window's chunks are best read; None if they share no bytes."""
    if da.Array is not Array:  # with array.query-planning, Dask takes no layers but its own
        return None
    limit = chunk_limit()
    largest_chunk = prod(window.longest) * reader.dtype.itemsize
    return find_bands(
        window,
        _read_costs(reader),
        limit=max(limit, largest_chunk),
        most=HELD_CHUNKS * limit,
    )


def _read_costs(reader: HduReader) -> Costs:
    """Return the costs by which bands are chosen for a reader."""
    store = reader.store
    return Costs(
        estimate=reader.estimate,
        itemsize=reader.dtype.itemsize,
        tile=reader.tile,
        limits=store.coalescing,
        is_sequential=store.is_sequential,
    )


class BandLayer(WindowLayer[HduReader]):
    """The tasks of chunks that are divided out of bands."""

    def __init__(self, name: str, reader: HduReader, window: Window, bands: Bands | None) -> None:
        super().__init__(name, reader, window)
        self.bands = bands

    def narrow(self, selection: Selection) -> tuple[BandLayer, tuple[Any, ...] | None]:
        """Return the layer of a part of the window; see `WindowLayer`."""
        window, dask_key = narrow(self.window, selection)
        if window == self.window:
            return self, dask_key
        name = array_name(self.reader, window)
        return BandLayer(name, self.reader, window, bands_for(self.reader, window)), dask_key

    def _make_tasks(self, indices: Iterable[Index]) -> dict[DaskKey, Task]:
        """Make tasks that read bands and chunks, and tasks that cut chunks out of bands."""
        token = tokenize(self.reader)
        tasks: dict[DaskKey, Task] = {}
        parts_of_chunks = divide(self.window, self.bands, indices, _read_costs(self.reader))
        for index, parts in parts_of_chunks.items():
            key = self._chunk_key(index)
            if len(parts) > 1:
                # The chunk lies in several bands.
                pieces = [self._add_piece(tasks, token, part) for part in parts]
                tasks[key] = self._join_task(key, [part.box for part in parts], pieces)
            elif parts[0].source == parts[0].box:
                # Nothing else is in the read: without a task for the band, Dask can still pass a
                # slice of the chunk on to the reader.
                tasks[key] = self._read_task(key, parts[0].box)
            else:
                # The piece is the whole chunk, so it gets the chunk's key.
                self._add_piece(tasks, token, parts[0], key)
        return tasks

    def _add_piece(
        self, tasks: dict[DaskKey, Task], token: str, part: Part, key: DaskKey | None = None
    ) -> DaskKey:
        """Add the tasks of a piece of a chunk, and return the key of the one that has its pixels.

        They are named by their pixels: whatever reads the same box has the same name for it.
        """
        band: DaskKey = (f"fits-band-{token}", *self._box_numbers(part.source))
        if band not in tasks:
            tasks[band] = self._read_task(band, part.source)
        if part.source == part.box:
            return band
        if key is None:
            key = (
                f"fits-piece-{token}",
                *self._box_numbers(part.source),
                *self._box_numbers(part.box),
            )
        within_band = self.window.key_within(part.box, part.source)
        tasks[key] = Task(key, _cut_piece, TaskRef(band), within_band)
        return key

    def _join_task(self, key: DaskKey, boxes: list[Box], pieces: list[DaskKey]) -> Task:
        """Make the task that joins a chunk of pieces, which are boxes of the window."""
        chunk = bounding_box(boxes)
        shape = tuple(item.stop for item in self.window.key_within(chunk, chunk))
        within_chunk = [self.window.key_within(box, chunk) for box in boxes]
        return Task(key, partial(_join_pieces, shape, within_chunk), *map(TaskRef, pieces))

    def _box_numbers(self, box: Box) -> tuple[int, ...]:
        """Return the pixels of a box in numbers; a step of 0 stands for an axis that is dropped.

        In indices of the image, since arrays of other windows have the same name for them.
        """
        axes = zip(self.window.indices(box), self.window.kept, strict=True)
        return tuple(
            number
            for indices, kept in axes
            for number in (indices.start, indices.stop, indices.step if kept else 0)
        )


def _cut_piece(band: npt.NDArray[Any], key: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Cut a piece out of a band: a copy, which does not keep the band in memory."""
    return band[key].copy()


def _join_pieces(
    shape: tuple[int, ...], keys: list[tuple[slice, ...]], *pieces: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Join a chunk of this shape of pieces; `keys` are those of each in the chunk."""
    chunk = np.empty(shape, pieces[0].dtype)
    for key, piece in zip(keys, pieces, strict=True):
        chunk[key] = piece
    return chunk


class BandedArray(WindowedArray):
    """A Dask array whose chunks share bytes of a file."""

    __slots__ = ()

    @classmethod
    def of(
        cls, reader: HduReader, window: Window, bands: Bands | None, name: str | None = None
    ) -> BandedArray:
        """Make the array of a window of an image."""
        name = name or array_name(reader, window)
        return cls.of_layer(BandLayer(name, reader, window, bands))


def narrow(window: Window, selection: Selection) -> tuple[Window, tuple[Any, ...] | None]:
    """Narrow a window to the integers and slices of a selection.

    Parameters
    ----------
    window : Window
        The window of an array.
    selection : Selection
        A selection of that array.

    Returns
    -------
    window : Window
        The part of the window that the integers and slices take.
    key : tuple or None
        The key that Dask applies to the array of that part, for lists and for axes that are new or
        reversed; None if there is nothing left to do.
    """
    array_lengths = list(itertools.compress(window.lengths, window.kept))
    axes: list[range] = []
    axes_kept: list[bool] = []
    dask_key: list[Any] = []
    for item in _expand_ellipsis(selection):
        if item is None:
            dask_key.append(None)
            continue
        indices = selection.indices[len(axes)]
        # Beside a list, an integer is left to Dask, whose rules for the two together apply.
        is_kept = not isinstance(item, int) or selection.listed is not None
        if isinstance(item, np.ndarray) and len(indices):
            # A list is taken by Dask, chunk by chunk, from the whole axis.
            dask_key.append(np.asarray(indices)[item])
            indices = range(array_lengths[len(axes)])
        elif isinstance(item, np.ndarray):
            # An empty list leaves nothing to take from the axis, which is empty already.
            dask_key.append(slice(None))
        elif is_kept:
            # The slice that reverses an axis, or all of it; or 0, of an axis with one pixel.
            dask_key.append(item)
        axes_kept.append(is_kept)
        axes.append(cast("range", indices))
    is_done = all(isinstance(item, slice) and item == slice(None) for item in dask_key)
    return window.narrow(axes, axes_kept), None if is_done else tuple(dask_key)


def _expand_ellipsis(selection: Selection) -> Iterator[Any]:
    """Iterate over the items of a selection's key, with slices in the place of an ellipsis."""
    explicit = sum(item is not None and item is not Ellipsis for item in selection.key)
    for item in selection.key:
        if item is Ellipsis:
            yield from [slice(None)] * (len(selection.indices) - explicit)
        else:
            yield item


def plan_selection(reader: HduReader, window: Window, selection: Selection) -> ReadPlan:
    """Plan the reads of a selection of a window's array, whose chunks share bytes."""
    part, _ = narrow(window, selection)
    chunk_indices: list[Iterable[int]] = [range(len(lengths)) for lengths in part.chunks]
    listed = selection.listed
    if listed is not None:
        # Dask reads the chunks that have an item of the list, whole along this axis.
        indices = np.asarray(selection.indices[listed], np.int64)
        touched = np.searchsorted(np.cumsum(part.chunks[listed]), indices, "right")
        chunk_indices[listed] = np.unique(touched).tolist()
    parts_of_chunks = divide(
        part, bands_for(reader, part), itertools.product(*chunk_indices), _read_costs(reader)
    )
    # Chunks of one band have the same source, which is read once.
    boxes = dict.fromkeys(piece.source for pieces in parts_of_chunks.values() for piece in pieces)
    return ReadPlan.of_chunks(
        reader.plan(part.indices(box)) for box in boxes if all(low < high for low, high in box)
    )


def warn_if_costly(reader: HduReader, window: Window, bands: Bands) -> None:
    """Warn if a full read holds much memory at once, or fetches bytes more than once."""
    limit = chunk_limit()
    if bands.over_read > 1:
        cost = f"fetches a byte up to {bands.over_read:.3g} times"
    elif bands.held > HELD_CHUNKS * limit:
        cost = f"holds {format_bytes(bands.held)} at once"
    else:
        return
    warnings.warn(
        f"{reader.where}: chunks of {window.longest} cut through what lies together in the file: "
        f"a full read {cost}, where Dask's array.chunk-size is {format_bytes(limit)}; chunks such "
        f"as {suggest_chunk_shape(window, bands, _read_costs(reader))} do not",
        da.PerformanceWarning,
        stacklevel=4,  # the caller of `HDU.to_dask`
    )
