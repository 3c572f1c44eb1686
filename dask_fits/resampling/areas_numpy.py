"""Sampling over areas, without numba. The function is that of `dask_fits.resampling.areas`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers

Floats: TypeAlias = npt.NDArray[np.float64]
Booleans: TypeAlias = npt.NDArray[np.bool_]
Image: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]

FINE = 24.0
"""Rows of corners are rounded to what float64 resolves near this, 2**-48 pixels: differences are
exact then, and the edges of a quadrilateral add up to exactly 0 in pixels beside it."""

TINY = 1e-300
"""A divisor in the place of 0."""

_BLOCK = 1 << 14
"""Quadrilaterals, and pixels of the input, that are worked on at a time: they stay in cache."""


def check_corners(corners: Floats, value: Floats, fraction: Floats) -> None:
    """Raise a ValueError if there are not all corners of the output pixels."""
    height, width = value.shape
    if fraction.shape != value.shape or corners.shape != (2, height + 1, width + 1):
        raise ValueError(f"{corners.shape=} and {fraction.shape=} do not fit {value.shape=}")


def area(
    src: Image,
    origin: Pair,
    shape: Pair,
    corners: Floats,
    value: Floats,
    fraction: Floats,
    *,
    flux: bool = False,
    squared: bool = False,
    turn: tuple[float, float] = (0.0, 0.0),
) -> int:
    """Weigh pixels by the areas in which quadrilaterals overlap them."""
    check_corners(corners, value, fraction)
    missing = 0
    step = max(1, _BLOCK // max(1, value.shape[1]))
    for start in range(0, value.shape[0], step):
        rows = slice(start, start + step)
        part = corners[:, start : start + step + 1]
        around = (part[:, :-1, :-1], part[:, :-1, 1:], part[:, 1:, 1:], part[:, 1:, :-1])
        quads = np.array([corner.reshape(2, -1) for corner in around]).swapaxes(0, 1)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            (overlap, total, beside), sizes = _measure(src, origin, shape, quads, turn, squared)
            if not flux:
                total = total / (overlap * overlap if squared else overlap)
            covered = np.where(overlap > 0.0, overlap / sizes, 0.0)
        total[(overlap == 0.0) | (beside > 0.0)] = np.nan
        value[rows] = total.reshape(value[rows].shape)
        fraction[rows] = covered.reshape(value[rows].shape)
        missing += int(beside.sum())
    return missing


def _measure(
    src: Image, origin: Pair, shape: Pair, quads: Floats, turn: tuple[float, float], squared: bool
) -> tuple[Floats, Floats]:
    """Return the sums of `_overlap` for quadrilaterals at all of their places, and their sizes."""
    quads, wrapped = _unwrapped(quads, turn)
    sizes = _sizes(quads)
    sums = np.zeros((3, len(sizes)))
    covered = np.flatnonzero(np.isfinite(sizes))
    sums[:, covered] = _overlap(src, origin, shape, quads[..., covered], squared)
    again = covered[wrapped[covered]]
    for sign in (-1.0, 1.0):
        shift = sign * np.array(turn)[:, np.newaxis, np.newaxis]
        sums[:, again] += _overlap(src, origin, shape, quads[..., again] + shift, squared)
    return sums, np.abs(sizes)


def _unwrapped(quads: Floats, turn: tuple[float, float]) -> tuple[Floats, Booleans]:
    """Bring corners to the turn of the first one; tell which quadrilaterals had others."""
    if turn[0] == 0.0 and turn[1] == 0.0:
        return quads, np.zeros(quads.shape[2], bool)
    period = np.array(turn)[:, np.newaxis, np.newaxis]
    along = ((quads - quads[:, :1]) * period).sum(axis=0) / (period * period).sum()
    turns = np.floor(along + 0.5)
    return quads - turns * period, (turns != 0.0).any(axis=0)


def _sizes(quads: Floats) -> Floats:
    """Return the areas; negative if the corners go round the other way."""
    x, y = quads
    sizes: Floats = 0.5 * ((x[2] - x[0]) * (y[3] - y[1]) - (x[3] - x[1]) * (y[2] - y[0]))
    return sizes


def _overlap(src: Image, origin: Pair, shape: Pair, quads: Floats, squared: bool) -> Floats:
    """Return sums over the pixels that each of (2, 4, n) quadrilaterals overlaps.

    Returns
    -------
    (3, n) array
        The areas of overlap; these, or their squares, times the values; and pixels beside `src`.
    """
    left, widths = _range(quads[0], shape[1])
    top, heights = _range(quads[1], shape[0])
    heights[widths == 0] = 0
    signs = np.sign(_sizes(quads))
    sums = np.zeros((3, quads.shape[2]))
    for some in _groups(heights):
        # A line is a row of the pixels around a quadrilateral.
        quad, row = _expand(heights[some])
        quad += some.start
        x = (quads[0][:, quad] + 0.5) - left[quad]
        y = (((quads[1][:, quad] + 0.5) - top[quad]) + FINE) - FINE
        edges = _cut(x, y, row)
        edges[2] *= signs[quad]
        firsts = top[quad] + row - origin[0], left[quad] - origin[1]
        terms = _sum_lines(src, firsts, widths[quad], edges, squared)
        sums[:, some] = _add_up(quad - some.start, terms, some.stop - some.start)
    return sums


def _sum_lines(
    src: Image, firsts: tuple[Integers, Integers], counts: Integers, edges: Floats, squared: bool
) -> Floats:
    """Return the sums of `_overlap` for each line; it begins at `firsts`, rows and columns."""
    sums = np.zeros((3, len(counts)))
    for some in _groups(counts):
        line, column = _expand(counts[some])
        line += some.start
        areas = _shares(edges[:, :, line], column)
        here = areas > 0.0
        line, column, areas = line[here], column[here], areas[here]
        terms = _terms(src, firsts[0][line], firsts[1][line] + column, areas, squared)
        sums[:, some] = _add_up(line - some.start, terms, some.stop - some.start)
    return sums


def _terms(
    src: Image, rows: Integers, columns: Integers, areas: Floats, squared: bool
) -> tuple[Floats, Floats, Floats]:
    """Return what pixels add to the sums of `_overlap`."""
    inside = (rows >= 0) & (rows < src.shape[0]) & (columns >= 0) & (columns < src.shape[1])
    values = np.full(len(areas), np.nan)
    values[inside] = src[rows[inside], columns[inside]]
    empty = np.isnan(values)
    weights = areas * areas if squared else areas
    return (
        np.where(empty, 0.0, areas),
        np.where(empty, 0.0, weights * values),
        np.where(inside, 0.0, 1.0),
    )


def _range(x: Floats, size: int) -> tuple[Integers, Integers]:
    """Return the first pixel of the image that each quadrilateral may touch, and how many."""
    first = np.clip(np.floor(x.min(axis=0) + 0.5), 0, size).astype(np.int64)
    stop = np.clip(np.ceil(x.max(axis=0) + 0.5), 0, size).astype(np.int64)
    return first, np.maximum(stop - first, 0)


def _groups(counts: Integers) -> Iterator[slice]:
    """Divide items so that each group has one at least, and counts of a block if it has more."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _BLOCK, "right")))
        yield slice(start, stop)
        start = stop


def _expand(counts: Integers) -> tuple[Integers, Integers]:
    """Count from 0 for each item up to its count; return the items, and the numbers."""
    item = np.repeat(np.arange(len(counts)), counts)
    return item, np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)


def _add_up(item: Integers, terms: Sequence[Floats] | Floats, size: int) -> Floats:
    """Add up terms by the item that they belong to, in their order."""
    return np.array([np.bincount(item, term, size) for term in terms])


def _cut(x: Floats, y: Floats, row: Integers) -> Floats:
    """Cut the edges of quadrilaterals, (4, n) corners, to a row of pixels each.

    Returns
    -------
    (3, 4, n) array
        Of the part within the row: its lowest and highest x, and the y of its end less that of its
        start.
    """
    next_x, next_y = np.roll(x, -1, axis=0), np.roll(y, -1, axis=0)
    rise = next_y - y
    slope = (next_x - x) / np.where(rise != 0.0, rise, 1.0)
    start, end = np.clip(y, row, row + 1.0), np.clip(next_y, row, row + 1.0)
    at_start, at_end = x + (start - y) * slope, x + (end - y) * slope
    return np.array([np.minimum(at_start, at_end), np.maximum(at_start, at_end), end - start])


def _shares(edges: Floats, column: Integers) -> Floats:
    """Return the areas of pixels left of edges; those of edges that go up less those of others."""
    low, high = edges[0] - column, edges[1] - column
    start, end = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    inside = end - start
    # The mean of x along the edge, within the pixel: a trapezium, and what is right of the pixel.
    mean = start + inside * (0.5 * inside + np.maximum(high - 1.0, 0.0)) / np.maximum(
        high - low, TINY
    )
    terms = edges[2] * mean
    shares: Floats = (terms[0] + terms[1]) + (terms[2] + terms[3])
    return shares
