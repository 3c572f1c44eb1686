"""Many boxes of one image, planned as one read: what several of them want is fetched once. Pure."""

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

    def take(self, which: Integers) -> Boxes:
        """Pick some of them."""
        return Boxes(self.first[which], self.stop[which])


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of a grid that boxes cover, box by box, each box's in C order."""

    flat: Integers
    """Index of each cell in the flattened grid."""
    owner: Integers
    """Box of each."""
    local: Integers
    """Index of each in its flattened box."""


def cells(boxes: Boxes, shape: tuple[int, ...]) -> Cells:
    """List the cells of a grid of this shape that boxes cover."""
    lengths = boxes.stop - boxes.first
    counts = lengths.prod(axis=1)
    owner = np.repeat(np.arange(len(boxes)), counts)
    local = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    flat = np.zeros(len(owner), np.int64)
    rest = local
    for axis in reversed(range(len(shape))):
        rest, digit = np.divmod(rest, lengths[owner, axis])
        flat += (boxes.first[owner, axis] + digit) * math.prod(shape[axis + 1 :])
    return Cells(flat, owner, local)


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Rows of boxes, as they lie in byte ranges: one below the other, at the length of a row."""

    box: Integers
    """Box of each piece."""
    start: Integers
    """First byte of each in the file."""
    rows: Integers
    """Number of rows of each."""
    width: Integers
    """Pixels in each row of it."""
    corner: Integers
    """(n, ndim - 1): where in its box it belongs, along all axes but the last."""
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
        whole, first, last = self.pieces, self.pieces.bounds[low], self.pieces.bounds[high]
        return BoxPlan(
            self.ranges[low:high],
            self.useful[low:high],
            Pieces(
                whole.box[first:last],
                whole.start[first:last],
                whole.rows[first:last],
                whole.width[first:last],
                whole.corner[first:last],
                whole.bounds[low : high + 1] - first,
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
    rows = cells(Boxes(boxes.first[:, :-1], boxes.stop[:, :-1]), shape[:-1])
    widths = (boxes.stop - boxes.first)[:, -1]
    starts = offset + (rows.flat * shape[-1] + boxes.first[rows.owner, -1]) * itemsize
    order = np.argsort(starts, kind="stable")
    # Runs that overlap are one; such that touch can still be cut apart.
    ascending = starts[order]
    reach = np.maximum.accumulate(ascending + widths[rows.owner[order]] * itemsize)
    firsts = np.flatnonzero(np.concatenate(([True], ascending[1:] >= reach[:-1])))
    run_starts, run_stops = ascending[firsts], reach[np.append(firsts[1:], len(order)) - 1]
    bounds = coalesce_runs(run_starts, run_stops - run_starts, limits)
    range_starts = run_starts[bounds[:-1]]
    ranges = zip(range_starts.tolist(), run_stops[bounds[1:] - 1].tolist(), strict=True)
    useful = np.add.reduceat(run_stops - run_starts, bounds[:-1])
    holder = np.searchsorted(range_starts, starts, side="right") - 1
    return BoxPlan(
        tuple(ByteRange(start, stop) for start, stop in ranges),
        useful,
        _pieces(boxes, rows, starts, holder, len(useful)),
    )


def _pieces(boxes: Boxes, rows: Cells, starts: Integers, holder: Integers, count: int) -> Pieces:
    """Join neighbouring rows of a box that lie in one range."""
    outer = (boxes.stop - boxes.first)[:, :-1]
    below = outer[rows.owner, -1] if outer.shape[1] else np.ones_like(rows.owner)
    breaks = (np.diff(rows.owner, prepend=-1) != 0) | (np.diff(holder, prepend=-1) != 0)
    firsts = np.flatnonzero(breaks | (rows.local % below == 0))
    lengths = np.diff(np.append(firsts, len(starts)))
    firsts_by_range = np.argsort(holder[firsts], kind="stable")
    firsts, lengths = firsts[firsts_by_range], lengths[firsts_by_range]
    owner = rows.owner[firsts]
    corner = np.empty((len(firsts), outer.shape[1]), np.int64)
    rest = rows.local[firsts]
    for axis in reversed(range(outer.shape[1])):
        rest, corner[:, axis] = np.divmod(rest, outer[owner, axis])
    width = (boxes.stop - boxes.first)[owner, -1]
    bounds = np.searchsorted(holder[firsts], np.arange(count + 1))
    return Pieces(owner, starts[firsts], lengths, width, corner, bounds)


def batches(ranges: Sequence[ByteRange], *, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Divide ranges among tasks: the first range of each, and the one after its last.

    Parameters
    ----------
    ranges : sequence of ByteRange
    most : int, optional
        Bytes of a task, unless a single range has more; by default `BATCH_BYTES`.
    """
    most = BATCH_BYTES if most is None else most
    low, nbytes = 0, 0
    for index, wanted in enumerate(ranges):
        nbytes += wanted.nbytes
        if index > low and (nbytes > most or index - low == BATCH_RANGES):
            yield low, index
            low, nbytes = index, wanted.nbytes
    if low < len(ranges):
        yield low, len(ranges)
