"""The Dask array of a stack, each of whose tasks carries its own frames alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import Task
from dask.array.core import Array
from dask.typing import Key as DaskKey

from dask_fits._typing import Chunks, Integers, Key
from dask_fits.arrays.banded import narrow
from dask_fits.arrays.lazy import array_of_window, chunk_grid
from dask_fits.arrays.windowed import WindowedArray, WindowLayer, array_name
from dask_fits.planning.band_reads import Index
from dask_fits.planning.bands import Box, Window, spans_of
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.reader import PixelReader
from dask_fits.stacks.reader import StackReader


def stack_array(
    reader: StackReader, chunks: Chunks = "auto", *, like: PixelReader | None = None
) -> da.Array:
    """Make the lazy Dask array of a stack; reads nothing.

    Parameters
    ----------
    reader : StackReader
    chunks : int, "auto", None, or a tuple or mapping of these and of tuples of int
        As Dask takes them, axis 0 being the frames. ``"auto"``: as many whole frames as
        ``array.chunk-size`` has room for, at most 1000.
    like : PixelReader, optional
        One of the frames: frames that are too large for a chunk are cut into the contiguous chunks
        that this one has. By default bands of rows.

    Returns
    -------
    dask.array.Array
        A selection of it, however many follow one another, reads the wanted pixels of the wanted
        frames alone.

    Raises
    ------
    ValueError
        The stack's type cannot hold the fill value.
    FitsFormatError
        There would be more chunks than can be listed.
    """
    _check_fill_value(reader)
    window = _whole_window(reader, chunks, like)
    name = _stack_name(reader, window)
    if da.Array is not Array:  # with array.query-planning, Dask takes no layers but its own
        return array_of_window(reader, window, name=name)
    return WindowedArray.of_layer(StackLayer(name, reader, window))


def plan_stack(
    reader: StackReader, chunks: Chunks = "auto", *, key: Key = ..., like: PixelReader | None = None
) -> ReadPlan:
    """Plan the reads of a selection of a stack's array, chunk by chunk; reads no pixels.

    It asks the frames for their readers, which may take requests. Parameters are those of
    `stack_array`, and the key of a selection.
    """
    window = _whole_window(reader, chunks, like)
    layer, _ = StackLayer("", reader, window).narrow(select(key, reader.shape))
    return ReadPlan.of_chunks(layer.plans())


class StackLayer(WindowLayer[StackReader]):
    """The tasks of the chunks of a stack."""

    def narrow(self, selection: Selection) -> tuple[StackLayer, tuple[Any, ...] | None]:
        """Return the layer of a part of the stack; see `WindowLayer`."""
        reader, window, without_list = _take_list(self.reader, self.window, selection)
        window, dask_key = narrow(window, without_list)
        if reader is self.reader and window == self.window:
            return self, dask_key
        return StackLayer(_stack_name(reader, window), reader, window), dask_key

    def plans(self) -> Iterable[ReadPlan]:
        """Plan the read of each chunk."""
        for box in self._boxes(self._chunk_indices()).values():
            reader, key = self.read_of(box)
            if all(low < high for low, high in box):
                yield reader.plan(select(key, reader.shape).indices)

    def _make_tasks(self, indices: Iterable[Index]) -> dict[DaskKey, Task]:
        """Make the tasks of some chunks, which share nothing."""
        boxes = {self._chunk_key(index): box for index, box in self._boxes(indices).items()}
        return {key: self._read_task(key, box) for key, box in boxes.items()}

    def _boxes(self, indices: Iterable[Index]) -> dict[Index, Box]:
        """Find the boxes of the window that some chunks are."""
        spans = spans_of(self.window.chunks)
        return {
            index: tuple(along[number] for along, number in zip(spans, index, strict=True))
            for index in indices
        }

    def read_of(self, box: Box) -> tuple[StackReader, tuple[slice | int, ...]]:
        """Return a reader of a box's own frames, and the key by which the box is read."""
        reader = self.reader
        key = list(self.window.key(box))
        for axis, indices in enumerate(self.window.indices(box)):
            # Indices that were picked one by one are many; those of the box will do.
            if axis == 0 or (reader.picked and reader.picked[axis - 1] is not None):
                reader = reader.take(axis, indices)
                key[axis] = slice(0, len(indices), 1) if self.window.kept[axis] else 0
        return reader, tuple(key)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: for a part of a stack, the part's frames."""
        state = {**self.__dict__}
        state.pop("_all_tasks", None)  # which are made anew when they are needed
        frames, *others = self.window.axis_ranges
        if len(frames) < len(self.reader.frames):
            state["reader"] = self.reader.take(0, frames)
            state["window"] = replace(self.window, axis_ranges=(range(len(frames)), *others))
        return state


def _whole_window(reader: StackReader, chunks: Chunks, like: PixelReader | None) -> Window:
    """Cut a stack into chunks."""
    contiguous_chunk = partial(_contiguous_chunk, reader, like)
    return Window.whole(chunk_grid(reader, chunks, contiguous_chunk=contiguous_chunk))


def _contiguous_chunk(reader: StackReader, like: PixelReader | None, limit: int) -> tuple[int, ...]:
    """Return the shape of chunks of at most `limit` bytes: whole frames, or a part of one."""
    chunk = reader.contiguous_chunk(limit)
    if like is None or chunk[1:] == reader.frame_shape:
        return chunk
    # The limit is for pixels of the stack's type.
    return (1, *like.contiguous_chunk(limit * like.dtype.itemsize // reader.dtype.itemsize))


def _stack_name(reader: StackReader, window: Window) -> str:
    return array_name(reader, window, prefix="fits-stack")


def _check_fill_value(reader: StackReader) -> None:
    """Raise ValueError if pixels of the stack cannot have the fill value."""
    fill_value = reader.fill_value
    if fill_value is None or reader.dtype.kind not in "iu":
        return
    limits = np.iinfo(reader.dtype)
    if not (limits.min <= fill_value <= limits.max and fill_value == int(fill_value)):
        raise ValueError(
            f"fill_value: found {fill_value}, expected an integer from {limits.min} to "
            f"{limits.max} for a stack of {reader.dtype} pixels"
        )


def _take_list(
    reader: StackReader, window: Window, selection: Selection
) -> tuple[StackReader, Window, Selection]:
    """Take what a selection takes with a list, which Dask would take of whole chunks.

    Returns
    -------
    reader, window
        Of the listed indices, ascending and each once.
    selection : Selection
        What is left of the selection: a list that puts them in their order and repeats them, if
        the list does.
    """
    listed = selection.listed
    if listed is None:
        return reader, window, selection
    axis = [number for number, kept in enumerate(window.kept) if kept][listed]
    positions = selection.indices[listed]
    if isinstance(positions, range):
        lengths = itertools.compress(window.lengths, window.kept)
        parts = [positions if n == listed else range(length) for n, length in enumerate(lengths)]
        window = window.narrow(parts, [True] * len(parts))
    else:
        along = window.axis_ranges[axis]
        reader = reader.take(axis, along.start + along.step * positions)
        axis_ranges, chunks = list(window.axis_ranges), list(window.chunks)
        axis_ranges[axis] = range(len(positions))
        chunks[axis] = _count_listed(positions, chunks[axis])
        window = Window(tuple(axis_ranges), tuple(chunks), window.kept)
    return reader, window, _without_gaps(selection, listed)


def _count_listed(positions: Integers, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Count the positions that are listed of each chunk; chunks without any are left out."""
    reached = np.searchsorted(positions, np.cumsum(lengths))
    counts = np.diff(reached, prepend=0)
    return tuple(counts[counts > 0].tolist())


def _without_gaps(selection: Selection, listed: int) -> Selection:
    """Return a selection after what it lists was taken, of which it has to find the order."""
    count = len(selection.indices[listed])
    indices = list(selection.indices)
    indices[listed] = range(count)
    selection = replace(selection, indices=tuple(indices))
    order = next(item for item in selection.key if isinstance(item, np.ndarray))
    if not np.array_equal(order, np.arange(count)):
        return selection
    # Dask leaves the axis where it is, beside integers as well.
    key = tuple(slice(None) if item is order else item for item in selection.key)
    return replace(selection, key=key, listed=None)
