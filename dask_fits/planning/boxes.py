"""Many boxes of one image, planned as one read that fetches no byte twice. Pure.

Three boxes of an image whose rows lie one after the other in the file (B is in a and in b)::

    image row 0   . a a a . . . . . .      row    the pixels of one box in one image row
              1   . a B B b b . c c c      run    rows that overlap in the file, merged: aBBbb
              2   . . b b b b . c c c      range  runs that are fetched together, gaps included
              3   . . . . . . . . . .      piece  rows of one box in one range: ccc and ccc

A range holds pieces of several boxes, and a box is cut into pieces where its ranges end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dask_fits._typing import Integers
from dask_fits.ranges.byte_range import ByteRange, Coalescing, coalesce_runs

BATCH_BYTES = 64 * 1024 * 1024
"""Bytes that one task fetches, unless a single range has more."""

BATCH_RANGES = 256
"""Ranges that one task fetches."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes of pixels within an image, each of at least one pixel."""

    first: Integers
    """(n, ndim): first pixel of each, NumPy order."""
    stop: Integers
    """(n, ndim): end of each, exclusive."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, numbers: Integers) -> Boxes:
        """Pick the boxes of these numbers."""
        return Boxes(self.first[numbers], self.stop[numbers])


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a grid that boxes cover, box by box, each box's in C order."""

    grid_index: Integers
    """Index of each cell in the flattened grid."""
    box: Integers
    """Number of the box that each belongs to."""
    box_index: Integers
    """Index of each in its flattened box."""


def cells(boxes: Boxes, shape: tuple[int, ...]) -> Cells:
    """List the cells of a grid of this shape that boxes cover."""
    lengths = boxes.stop - boxes.first
    counts = lengths.prod(axis=1)
    box = np.repeat(np.arange(len(boxes)), counts)
    # Count from 0 anew in each box.
    box_index = np.arange(len(box)) - np.repeat(np.cumsum(counts) - counts, counts)
    grid_index = np.zeros(len(box), np.int64)
    # As np.unravel_index does for one shape: here each box has a shape of its own.
    rest = box_index
    for axis in reversed(range(len(shape))):
        rest, offset = np.divmod(rest, lengths[box, axis])
        grid_index += (boxes.first[box, axis] + offset) * math.prod(shape[axis + 1 :])
    return Cells(grid_index, box, box_index)


@dataclass(frozen=True, slots=True, eq=False)
class MergedRuns:
    """Runs of bytes, those that overlap merged into one."""

    starts: Integers
    """First byte of each, ascending."""
    stops: Integers
    """End of each, exclusive."""
    order: Integers
    """Positions of the given runs, in the order of their starts."""
    firsts: Integers
    """Merged run ``i`` holds the given runs ``order[firsts[i]:firsts[i + 1]]``."""


def merge_runs(starts: Integers, nbytes: Integers, *, touching: bool) -> MergedRuns:
    """Merge runs of bytes that overlap, and if `touching` those without a gap between them.

    Parameters
    ----------
    starts, nbytes : (n,) int64 array
        First byte and length of each, in any order; at least one.
    touching : bool
    """
    order = np.argsort(starts, kind="stable")
    ascending = starts[order]
    # The end of everything up to each run: an earlier one may reach further than the last.
    reach = np.maximum.accumulate(ascending + nbytes[order])
    apart = ascending[1:] > reach[:-1] if touching else ascending[1:] >= reach[:-1]
    firsts = np.flatnonzero(np.concatenate(([True], apart)))
    ends = np.append(firsts[1:], len(order))
    return MergedRuns(starts=ascending[firsts], stops=reach[ends - 1], order=order, firsts=firsts)


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Runs of consecutive image rows of a box that lie in one byte range, NAXIS1 pixels apart."""

    box: Integers
    """Number of the box of each piece."""
    start: Integers
    """First byte of each in the file."""
    rows: Integers
    """Number of rows of each."""
    width: Integers
    """Pixels in each row of it."""
    corner: Integers
    """(n, ndim - 1): its first row in its box, along all axes but the last."""
    bounds: Integers
    """Range ``i`` holds the pieces ``bounds[i]:bounds[i + 1]``."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxPlan:
    """The byte ranges that hold boxes of an uncompressed image, or some of the ranges."""

    ranges: tuple[ByteRange, ...]
    """Ascending; no two of them overlap."""
    useful: Integers
    """Bytes of each that hold wanted pixels."""
    pieces: Pieces

    def part(self, low: int, high: int) -> BoxPlan:
        """Take the ranges ``low:high`` alone."""
        if (low, high) == (0, len(self.ranges)):
            return self
        pieces = self.pieces
        first = pieces.bounds[low]
        last = pieces.bounds[high]
        return BoxPlan(
            self.ranges[low:high],
            self.useful[low:high],
            Pieces(
                box=pieces.box[first:last],
                start=pieces.start[first:last],
                rows=pieces.rows[first:last],
                width=pieces.width[first:last],
                corner=pieces.corner[first:last],
                bounds=pieces.bounds[low : high + 1] - first,
            ),
        )


def plan_boxes(
    boxes: Boxes, *, shape: tuple[int, ...], itemsize: int, offset: int, limits: Coalescing
) -> BoxPlan:
    """Find the byte ranges that hold boxes of pixels, and where in them each box lies.

    Parameters
    ----------
    boxes : Boxes
        They may overlap.
    shape : tuple of int
        Shape of the whole array.
    itemsize, offset : int
        Bytes in a pixel, and before the first pixel in the file.
    limits : Coalescing
    """
    # In the grid of all axes but the last, a cell of a box is one of its rows of pixels.
    rows = cells(Boxes(boxes.first[:, :-1], boxes.stop[:, :-1]), shape[:-1])
    widths = (boxes.stop - boxes.first)[:, -1]
    row_starts = offset + (rows.grid_index * shape[-1] + boxes.first[rows.box, -1]) * itemsize
    # Rows that touch stay apart, so that a range may end between them.
    runs = merge_runs(row_starts, widths[rows.box] * itemsize, touching=False)
    run_bytes = runs.stops - runs.starts
    bounds = coalesce_runs(runs.starts, run_bytes, limits)
    range_starts = runs.starts[bounds[:-1]]
    range_stops = runs.stops[bounds[1:] - 1]
    # Ranges do not overlap: a row lies in the last one that begins before it.
    range_of_row = np.searchsorted(range_starts, row_starts, side="right") - 1
    return BoxPlan(
        ranges=tuple(map(ByteRange, range_starts.tolist(), range_stops.tolist())),
        useful=np.add.reduceat(run_bytes, bounds[:-1]),
        pieces=_join_rows(boxes, rows, row_starts, range_of_row, len(range_starts)),
    )


def _join_rows(
    boxes: Boxes, rows: Cells, row_starts: Integers, range_of_row: Integers, ranges: int
) -> Pieces:
    """Join neighbouring rows of a box that lie in the same one of so many ranges."""
    lengths = boxes.stop - boxes.first
    outer = lengths[:, :-1]
    # Rows lie one below the other as long as only the last of the outer axes advances: an image
    # row apart. Images of one axis have single rows.
    height = outer[rows.box, -1] if outer.shape[1] else np.ones_like(rows.box)
    breaks = (np.diff(rows.box, prepend=-1) != 0) | (np.diff(range_of_row, prepend=-1) != 0)
    first_rows = np.flatnonzero(breaks | (rows.box_index % height == 0))
    row_counts = np.diff(np.append(first_rows, len(row_starts)))
    # Found box by box, they are wanted range by range, in the order in which ranges are read.
    by_range = np.argsort(range_of_row[first_rows], kind="stable")
    first_rows = first_rows[by_range]
    box = rows.box[first_rows]
    # The index of the first row in its flattened box, taken apart along the outer axes.
    corner = np.empty((len(first_rows), outer.shape[1]), np.int64)
    rest = rows.box_index[first_rows]
    for axis in reversed(range(outer.shape[1])):
        rest, corner[:, axis] = np.divmod(rest, outer[box, axis])
    return Pieces(
        box=box,
        start=row_starts[first_rows],
        rows=row_counts[by_range],
        width=lengths[box, -1],
        corner=corner,
        bounds=np.searchsorted(range_of_row[first_rows], np.arange(ranges + 1)),
    )


def batches(ranges: Sequence[ByteRange], *, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Divide ranges among tasks: yield the position of the first range of each, and of its end.

    Parameters
    ----------
    ranges : sequence of ByteRange
    most : int, optional
        Bytes of a task, unless a single range has more; by default `BATCH_BYTES`.
    """
    most = BATCH_BYTES if most is None else most
    low = 0
    nbytes = 0
    for index, byte_range in enumerate(ranges):
        nbytes += byte_range.nbytes
        if index > low and (nbytes > most or index - low == BATCH_RANGES):
            yield low, index
            low = index
            nbytes = byte_range.nbytes
    if low < len(ranges):
        yield low, len(ranges)
