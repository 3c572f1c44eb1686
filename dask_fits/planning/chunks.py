"""Chunk shapes, and the byte ranges of a box of an uncompressed image. Pure.

The pixels of a box are *runs* of one length, each contiguous in the file or evenly spaced there;
runs with small gaps between them are fetched as one *range*, a range in *parts* of one request::

    rows of the image     . . . . . . . . . . . .     NAXIS1 = 12
    the box [:, 2:6]      . . a a a a . . . . . .     run 0 -+
                          . . b b b b . . . . . .     run 1 -+  one range, from the first a to the
                          . . c c c c . . . . . .     run 2 -+  last c, the gaps of 8 read over
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dask_fits._typing import AxisChunks, Chunks, Integers
from dask_fits.planning.selection import Indices
from dask_fits.ranges.byte_range import ByteRange, Coalescing, coalesce_runs


def contiguous_chunk_shape(shape: tuple[int, ...], *, itemsize: int, limit: int) -> tuple[int, ...]:
    """Return the shape of the largest contiguous chunk in the file of at most `limit` bytes.

    That is a band of rows of full width, or of whole planes of a cube; never less than one element.

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


def count_chunks(chunks: Chunks, shape: tuple[int, ...], *, itemsize: int, limit: int) -> float:
    """Count the chunks that a specification makes, before there is a list of them.

    Parameters
    ----------
    chunks : int, "auto", None, or a tuple or mapping of these and of tuples of int
        As Dask takes them. What Dask refuses may be counted anyhow.
    shape : tuple of int
        Shape of the array, NumPy order.
    itemsize, limit : int
        Bytes in an element, and in a chunk if Dask chooses its length along an axis.

    Returns
    -------
    float
        Exact if Dask chooses no axis; otherwise about as many as there will be.

    Examples
    --------
    >>> count_chunks((1, -1), (2**40, 8), itemsize=4, limit=2**27)
    1099511627776.0
    """
    count = 1.0
    auto_elements = 1.0
    chunk_bytes = float(itemsize)
    for axis_chunks, length in zip(_chunks_by_axis(chunks, len(shape)), shape, strict=False):
        if isinstance(axis_chunks, str):  # "auto", or a size
            auto_elements *= length
        elif isinstance(axis_chunks, (tuple, list)):
            count *= len(axis_chunks)
            chunk_bytes *= length / max(len(axis_chunks), 1)
        elif isinstance(axis_chunks, (int, np.integer)) and axis_chunks > 0:
            count *= -(-length // int(axis_chunks))
            chunk_bytes *= min(int(axis_chunks), length)
        else:
            chunk_bytes *= length
    # Dask cuts the axes left to it so that a chunk has about `limit` bytes: never below an element.
    return count * max(min(auto_elements, auto_elements * chunk_bytes / limit), 1)


def _chunks_by_axis(chunks: Chunks, ndim: int) -> list[AxisChunks | Sequence[AxisChunks]]:
    """Write a specification out, axis by axis; a mapping may count axes from the end."""
    if isinstance(chunks, Mapping):
        return [chunks.get(axis, chunks.get(axis - ndim)) for axis in range(ndim)]
    if isinstance(chunks, (tuple, list)):
        return list(chunks)
    return [chunks] * ndim


_NO_GAP = (1 << 63) - 1
"""Gap of a read of one range: larger than any."""


@dataclass(frozen=True, slots=True)
class ReadCost:
    """The cost of a read, as far as it is known without reading anything."""

    nbytes: int
    """Bytes fetched; for a compressed image, those of the pixels that are decoded."""
    requests: int
    """Number of ranges fetched, before they are cut into parts."""
    gap: int
    """Bytes of the smallest gap between two of them; for a compressed image, of its pixels."""

    @classmethod
    def of_whole_file(cls, nbytes: int) -> ReadCost:
        """Return the cost of any read of a file that is only read as a whole."""
        return cls(nbytes, requests=1, gap=_NO_GAP)


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """The requests of a read, known before anything is read."""

    ranges: tuple[ByteRange, ...]
    """The byte ranges that are fetched: one request each."""
    useful_bytes: int
    """Bytes among them that hold wanted pixels; for a compressed image, bytes of tiles that do."""
    chunks: tuple[ReadPlan, ...] = field(default=(), repr=False)
    """One plan for each read of a chunked array: of a Dask chunk that is touched, or of a band that
    several chunks share."""
    packing: str = ""
    """How the file is compressed as a whole, such as "gzip"; empty if it is not. The ranges are
    those of the packed bytes then, of which a process that has read the file lately fetches none;
    `useful_bytes` are unpacked ones."""
    by_index: bool = False
    """Whether the file is compressed as a whole and parts of it are read by an index."""

    @property
    def requests(self) -> int:
        """Number of range requests."""
        return len(self.ranges)

    @property
    def bytes(self) -> int:
        """Bytes fetched."""
        return sum(part.nbytes for part in self.ranges)

    @property
    def over_read(self) -> float:
        """Bytes fetched for each useful byte; 1.0 if nothing is wasted."""
        return self.bytes / self.useful_bytes if self.useful_bytes else 1.0

    @classmethod
    def of_chunks(cls, chunks: Iterable[ReadPlan]) -> ReadPlan:
        """Add up the plans of a Dask array's chunks."""
        plans = tuple(chunks)
        ranges = tuple(part for plan in plans for part in plan.ranges)
        return cls(
            ranges,
            sum(plan.useful_bytes for plan in plans),
            plans,
            packing=plans[0].packing if plans else "",
            by_index=any(plan.by_index for plan in plans),
        )

    def __repr__(self) -> str:
        index = "by an index" if self.by_index else "without an index"
        packed = f" of {self.packing} {index}" if self.packing else ""
        return (
            f"<ReadPlan: {self.requests} requests, {self.bytes} bytes{packed}, "
            f"{self.useful_bytes} useful, over-read {self.over_read:.2f}x>"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The runs of wanted pixels of one box, and which of them are fetched together.

    The runs lie in the order of the box's pixels, all of one length.
    """

    starts: Integers
    """Position in the file of each run's first byte, ascending."""
    count: int
    """Wanted pixels in each run."""
    step: int
    """From one wanted pixel of a run to the next, in pixels; 1 if the run has no gaps."""
    itemsize: int
    """Bytes in a pixel."""
    bounds: Integers
    """Range ``i`` holds the runs ``bounds[i]:bounds[i + 1]``."""

    @property
    def nbytes(self) -> int:
        """Bytes from the start to the end of a run, gaps included."""
        return _run_pixels(self.count, self.step) * self.itemsize

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
        """The cost of reading the box."""
        starts = self.starts[self.bounds[:-1]]
        stops = self.starts[self.bounds[1:] - 1] + self.nbytes
        return ReadCost(
            nbytes=int((stops - starts).sum()),
            requests=len(starts),
            gap=int((starts[1:] - stops[:-1]).min(initial=_NO_GAP)),
        )

    @property
    def useful_bytes(self) -> int:
        """Bytes of wanted pixels."""
        return len(self.starts) * self.count * self.itemsize


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
        return Runs(
            starts=np.empty(0, np.int64),
            count=0,
            step=1,
            itemsize=itemsize,
            bounds=np.zeros(1, np.int64),
        )
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    outer, count, step = _inner_run(indices, shape, itemsize, limits)
    # One start for each combination of indices of the outer axes: their byte offsets are added up
    # by broadcasting, each along an axis of its own, so that `starts` is in the box's order.
    starts = np.full((1,) * outer, offset, np.int64)
    for axis in range(outer):
        offsets = np.asarray(indices[axis], np.int64) * (strides[axis] * itemsize)
        starts = starts + offsets.reshape((-1,) + (1,) * (outer - axis - 1))
    # Within the run's own axes all runs begin at the same pixel.
    first_pixel = sum(int(indices[axis][0]) * strides[axis] for axis in range(outer, len(indices)))
    starts = starts.reshape(-1) + first_pixel * itemsize
    bounds = coalesce_runs(starts, _run_pixels(count, step) * itemsize, limits)
    return Runs(starts, count, step, itemsize, bounds)


def _inner_run(
    indices: tuple[Indices, ...], shape: tuple[int, ...], itemsize: int, limits: Coalescing
) -> tuple[int, int, int]:
    """Return how many axes lie outside a run, and the run's count of wanted pixels and its step."""
    outer = len(indices)
    count = 1
    # The last axes that are wanted from end to end are contiguous, and so is every band of them.
    while outer and len(indices[outer - 1]) == shape[outer - 1]:
        outer -= 1
        count *= shape[outer]
    if outer == 0:
        return 0, count, 1
    # The next axis lengthens the run if it is one piece, or if its gaps are small and no full axis
    # follows: then the wanted pixels are evenly spaced.
    axis = indices[outer - 1]
    if isinstance(axis, range):
        if axis.step == 1:
            return outer - 1, count * len(axis), 1
        if outer == len(indices) and _are_gaps_read(axis, itemsize, limits):
            return outer - 1, len(axis), axis.step
    return outer, count, 1


def _are_gaps_read(axis: range, itemsize: int, limits: Coalescing) -> bool:
    """Return whether the gaps between every n-th pixel are read over, to spare requests."""
    gap = (axis.step - 1) * itemsize
    max_gap = limits.max_gap if len(axis) > limits.connections else limits.small_gap
    return gap <= max_gap and _run_pixels(len(axis), axis.step) * itemsize <= limits.max_bridged


def _run_pixels(count: int, step: int) -> int:
    """Count the pixels from the first to the last of `count`, those between included."""
    return (count - 1) * step + 1 if count else 0


def chunk_boxes(
    indices: tuple[Indices, ...], chunks: tuple[tuple[int, ...], ...], *, whole: Collection[int]
) -> Iterator[tuple[Indices, ...]]:
    """Cut a box along a chunk grid: the indices that are read of each chunk that the box touches.

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
        list(_split_indices(axis, lengths, whole=number in whole))
        for number, (axis, lengths) in enumerate(zip(indices, chunks, strict=True))
    ]
    yield from itertools.product(*pieces)


def _split_indices(axis: Indices, lengths: tuple[int, ...], *, whole: bool) -> Iterator[Indices]:
    """Split the indices along an axis by chunks, without the chunks that have none of them."""
    start = 0
    for length in lengths:
        low = bisect_left(axis, start)
        high = bisect_left(axis, start + length)
        if low < high:
            yield range(start, start + length) if whole else axis[low:high]
        start += length
