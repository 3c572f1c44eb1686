"""Chunk grids, and selections -> byte ranges: pure planning, no I/O."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.planning.selection import Indices
from dask_fits.ranges.byte_range import ByteRange, Coalescing, coalesce_runs, split_range


def contiguous_chunk_shape(shape: tuple[int, ...], *, itemsize: int, limit: int) -> tuple[int, ...]:
    """Shape of the largest chunk of at most `limit` bytes that is contiguous in the file.

    Full-width bands of rows; for a cube whole planes. Never less than one element.

    Parameters
    ----------
    shape : tuple of int
        Array shape, NumPy order.
    itemsize, limit : int
        Bytes in an element, and in a chunk.

    Examples
    --------
    >>> contiguous_chunk_shape((100, 4096, 4096), itemsize=4, limit=128 * 2**20)
    (2, 4096, 4096)
    >>> contiguous_chunk_shape((4096, 4096), itemsize=4, limit=2**20)
    (64, 4096)
    """
    if 0 in shape:
        return shape
    chunk = [1] * len(shape)
    inner = itemsize
    for axis in reversed(range(len(shape))):
        chunk[axis] = min(shape[axis], max(limit // inner, 1))
        if chunk[axis] < shape[axis]:
            break
        inner *= shape[axis]
    return tuple(chunk)


def count_chunks(chunks: Any, shape: tuple[int, ...], *, itemsize: int, limit: int) -> float:
    """Count the chunks that a specification makes, before there is a list of them.

    Parameters
    ----------
    chunks : int, "auto", None, or a tuple or mapping of these and of tuples of int
        As Dask takes them. What Dask refuses may be counted anyhow.
    shape : tuple of int
        Shape of the array, NumPy order.
    itemsize, limit : int
        Bytes in an element, and in a chunk where an axis is left to Dask.

    Returns
    -------
    float
        Exact where no axis is left to Dask; otherwise about as many as there will be.

    Examples
    --------
    >>> count_chunks((1, -1), (2**40, 8), itemsize=4, limit=2**27)
    1099511627776.0
    """
    if isinstance(chunks, Mapping):
        parts = [chunks.get(axis, chunks.get(axis - len(shape))) for axis in range(len(shape))]
    else:
        parts = list(chunks) if isinstance(chunks, (tuple, list)) else [chunks] * len(shape)
    count, left, nbytes = 1.0, 1.0, float(itemsize)
    for part, length in zip(parts, shape, strict=False):
        if isinstance(part, str):  # "auto", or a size
            left *= length
        elif isinstance(part, (tuple, list)):
            count *= len(part)
            nbytes *= length / max(len(part), 1)
        elif isinstance(part, (int, np.integer)) and part > 0:
            count *= -(-length // int(part))
            nbytes *= min(int(part), length)
        else:
            nbytes *= length
    return count * max(min(left, left * nbytes / limit), 1)


_NO_GAP = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ReadCost:
    """What a read costs, as far as is known without reading anything."""

    nbytes: int
    """Bytes fetched; of a compressed image, those of the pixels that are decoded."""
    requests: int
    """Ranges that are fetched, before they are cut into parts."""
    gap: int
    """Bytes between two of them, at least; of a compressed image, of the pixels between."""


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What a read costs, known before anything is read."""

    ranges: tuple[ByteRange, ...]
    """The byte ranges that are fetched: one request each."""
    useful_bytes: int
    """Bytes among them that hold wanted pixels; of a compressed image, the tiles that do."""
    chunks: tuple[ReadPlan, ...] = field(default=(), repr=False)
    """One plan for each read of a chunked array: of a Dask chunk that is touched, or of a band that
    several chunks share."""

    @property
    def requests(self) -> int:
        """Number of range requests."""
        return len(self.ranges)

    @property
    def bytes(self) -> int:
        """Bytes fetched."""
        return sum(r.nbytes for r in self.ranges)

    @property
    def over_read(self) -> float:
        """Bytes fetched for each useful byte; 1.0 where nothing is wasted."""
        return self.bytes / self.useful_bytes if self.useful_bytes else 1.0

    @classmethod
    def of_chunks(cls, chunks: Iterable[ReadPlan]) -> ReadPlan:
        """Add up the plans of a Dask array's chunks."""
        parts = tuple(chunks)
        ranges = tuple(r for part in parts for r in part.ranges)
        return cls(ranges, sum(part.useful_bytes for part in parts), parts)

    def __repr__(self) -> str:
        return (
            f"<ReadPlan: {self.requests} requests, {self.bytes} bytes, "
            f"{self.useful_bytes} useful, over-read {self.over_read:.2f}x>"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The runs of wanted pixels of one box, and which of them are fetched together.

    The runs lie in the order of the box's pixels, all of one length.
    """

    starts: npt.NDArray[np.int64]
    """Position in the file of each run's first byte, ascending."""
    count: int
    """Wanted pixels in each run."""
    step: int
    """From one wanted pixel of a run to the next, in pixels; 1 where the run has no gaps."""
    itemsize: int
    """Bytes in a pixel."""
    bounds: npt.NDArray[np.int64]
    """Range ``i`` holds the runs ``bounds[i]:bounds[i + 1]``."""

    @property
    def nbytes(self) -> int:
        """Bytes from the start to the end of a run, gaps included."""
        return _span(self.count, self.step) * self.itemsize

    @property
    def are_solid(self) -> bool:
        """Whether each range is one run without gaps: every byte fetched is wanted, in order."""
        return self.step == 1 and len(self.bounds) == len(self.starts) + 1

    @property
    def ranges(self) -> tuple[ByteRange, ...]:
        """The byte ranges to fetch, ascending."""
        firsts = self.starts[self.bounds[:-1]].tolist()
        lasts = self.starts[self.bounds[1:] - 1].tolist()
        return tuple(
            ByteRange(first, last + self.nbytes) for first, last in zip(firsts, lasts, strict=True)
        )

    @property
    def cost(self) -> ReadCost:
        """What reading the box costs."""
        starts = self.starts[self.bounds[:-1]]
        stops = self.starts[self.bounds[1:] - 1] + self.nbytes
        gap = int((starts[1:] - stops[:-1]).min(initial=_NO_GAP))
        return ReadCost(int((stops - starts).sum()), len(starts), gap)

    def plan(self, *, part_size: int | None) -> ReadPlan:
        """Tell what reading the box costs, where a range is fetched in parts of `part_size`."""
        parts = tuple(part for whole in self.ranges for part in split_range(whole, part_size))
        return ReadPlan(parts, len(self.starts) * self.count * self.itemsize)


def plan_box(
    indices: tuple[Indices, ...],
    *,
    shape: tuple[int, ...],
    itemsize: int,
    offset: int,
    limits: Coalescing,
) -> Runs:
    """Find the runs of bytes that hold a box of pixels.

    Parameters
    ----------
    indices : tuple of range or int64 array
        Wanted indices along each axis, ascending, NumPy order.
    shape : tuple of int
        Shape of the whole array.
    itemsize, offset : int
        Bytes in a pixel, and before the first pixel in the file.
    limits : Coalescing
    """
    if any(len(axis) == 0 for axis in indices):
        return Runs(np.empty(0, np.int64), 0, 1, itemsize, np.zeros(1, np.int64))
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    outer, count, step = _inner_run(indices, shape, itemsize, limits)
    starts = np.full((1,) * outer, offset, np.int64)
    for axis in range(outer):
        along = np.asarray(indices[axis], np.int64) * (strides[axis] * itemsize)
        starts = starts + along.reshape((-1,) + (1,) * (outer - axis - 1))
    inner_start = sum(int(indices[axis][0]) * strides[axis] for axis in range(outer, len(indices)))
    starts = starts.reshape(-1) + inner_start * itemsize
    bounds = coalesce_runs(starts, _span(count, step) * itemsize, limits)
    return Runs(starts, count, step, itemsize, bounds)


def _inner_run(
    indices: tuple[Indices, ...], shape: tuple[int, ...], itemsize: int, limits: Coalescing
) -> tuple[int, int, int]:
    """Split the axes: how many lie outside a run, and the run's pixel count and step."""
    outer, count = len(indices), 1
    while outer and len(indices[outer - 1]) == shape[outer - 1]:
        outer -= 1
        count *= shape[outer]
    if outer == 0:
        return 0, count, 1
    edge = indices[outer - 1]
    if isinstance(edge, range):
        if edge.step == 1:
            return outer - 1, count * len(edge), 1
        if outer == len(indices) and _bridges(edge, itemsize, limits):
            return outer - 1, len(edge), edge.step
    return outer, count, 1


def _bridges(edge: range, itemsize: int, limits: Coalescing) -> bool:
    gap = (edge.step - 1) * itemsize
    most = limits.max_gap if len(edge) > limits.few else limits.small_gap
    return gap <= most and _span(len(edge), edge.step) * itemsize <= limits.max_bridged


def _span(count: int, step: int) -> int:
    return (count - 1) * step + 1 if count else 0


def chunk_boxes(
    indices: tuple[Indices, ...], chunks: tuple[tuple[int, ...], ...], *, whole: Collection[int]
) -> Iterator[tuple[Indices, ...]]:
    """Cut a box along a chunk grid: what is read of each chunk that the box touches.

    Parameters
    ----------
    indices : tuple of range or int64 array
        Wanted indices along each axis of the whole array.
    chunks : tuple of tuple of int
        Chunk lengths along each axis, as Dask gives them.
    whole : collection of int
        Axes along which a chunk that is touched is read from end to end.
    """
    pieces = [
        list(_cut(axis, lengths, whole=number in whole))
        for number, (axis, lengths) in enumerate(zip(indices, chunks, strict=True))
    ]
    yield from itertools.product(*pieces)


def _cut(axis: Indices, lengths: tuple[int, ...], *, whole: bool) -> Iterator[Indices]:
    start = 0
    for length in lengths:
        low, high = bisect_left(axis, start), bisect_left(axis, start + length)
        if low < high:
            yield range(start, start + length) if whole else axis[low:high]
        start += length
