"""Positions in an input image of the points of an output grid, as exact as they need to be.

The output grid is divided into patches of `PATCH` pixels, anchored at its first pixel, and a patch
is what positions are found for: what a point gets depends on its patch and the two WCSs alone,
never on what is computed together with it. So results do not depend on chunks, to the bit;
astropy's inverse of a distortion gives one point what depends on the others of the call.

    cells of 32 points    cubics between nodes, where differences of the nodes show that these do
    cells of 8            the same, in what is left
    points                one by one, in what is left of that: at limbs, seams and poles, and
                          everywhere if a WCS is not known to be smooth

Points are the centres of pixels, or their corners for exact areas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from dask_fits._typing import Integers
from dask_fits.wcs.mapping import PixelMap

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

PATCH = 512
"""Pixels of the output along each side of a patch."""

STEPS = (32, 8)
"""Pixels between two nodes, of coarse and of fine cells."""

TOLERANCE = 2e-5
"""Pixels of the input by which interpolated positions may be off, as far as differences show."""

_AROUND = 2
"""Nodes beyond the patch on each side."""

_SMALL = 4096
"""Points of a patch up to which all are found one by one: an output of a whole sky in a few pixels
may have nodes beside the sky alone."""

_MARGIN = 2.0
"""Pixels beside the image up to which points are found, at least."""

_TABLES_REACH = 8.0
"""Pixels that tables of distortions may move what lies between two nodes."""

_ENCLOSED = 0.2
"""Part of a pixel's size by which the middle of its corners may be off its centre. If one of them
is on the other side of a map it is a quarter."""

Points = Literal["centres", "corners"]
"""Which points of pixels are looked for."""

Interpolate = Callable[[Floats, int, Booleans, tuple[int, int], Floats], None]
"""A kernel that fills points between nodes; see `dask_fits.resampling.sampling.interpolate`."""


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """Which points of a rectangle have positions, and between which bounds these are."""

    begin: Integers
    end: Integers
    """(2,): first point along y and x, and the one after the last, from the patch's first."""
    low: Floats
    high: Floats
    """(2,): bounds of x and y in the input."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Nodes at one distance, and the cells between them that are interpolated."""

    step: int
    nodes: Floats
    """(2, n, n): x and y in the input; the first two along each axis are before the patch."""
    used: Booleans
    """(m, m): the cells whose points are found by these nodes."""
    low: Floats
    high: Floats
    """(2, m, m): bounds of x and y within each cell."""

    def reach(self, first: tuple[int, int], shape: tuple[int, int]) -> Reach | None:
        """Find out which points of a rectangle are in cells that are interpolated."""
        last = len(self.used) - 1  # which the last corners of a patch belong to
        top, left = (min(start // self.step, last) for start in first)
        bottom, right = (
            min((start + size - 1) // self.step, last) + 1
            for start, size in zip(first, shape, strict=True)
        )
        used = self.used[top:bottom, left:right]
        rows, columns = np.nonzero(used)
        if not len(rows):
            return None
        numbers = np.stack([rows + top, columns + left])
        begin, end = numbers.min(1) * self.step, (numbers.max(1) + 1) * self.step
        end += numbers.max(1) == last
        low = self.low[:, top:bottom, left:right][:, used].min(1)
        high = self.high[:, top:bottom, left:right][:, used].max(1)
        return Reach(begin, end, low, high)


@dataclass(frozen=True, slots=True, eq=False)
class Torn:
    """Pixels whose corners lie on both sides of a seam of the input's map.

    What they have in common with the image is in two places, and not within their corners.
    """

    rows: Integers
    columns: Integers
    """(n,): counted from the patch's first pixel."""
    centres: Floats
    """(2, n): positions of their centres; NaN where there is none."""

    def within(self, first: tuple[int, int], shape: tuple[int, ...]) -> Torn:
        """Take those of a rectangle of pixels, counted from its first."""
        inside = _are_within(self.rows, self.columns, first, shape)
        rows, columns = self.rows[inside] - first[0], self.columns[inside] - first[1]
        return Torn(rows, columns, self.centres[:, inside])


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Positions in an input of the points of one patch of the output."""

    cells: tuple[_Cells, ...]
    rows: Integers
    columns: Integers
    """(n,): points that were found one by one, counted from the patch's first."""
    found: Floats
    """(2, n): their positions."""
    torn: Torn | None = None
    """Of corners, the pixels that these do not enclose."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays, nearly."""
        cells = sum(each.nodes.nbytes + 3 * each.low.nbytes for each in self.cells)
        return cells + 2 * self.found.nbytes

    def fill(self, first: tuple[int, int], out: Floats, interpolate: Interpolate) -> None:
        """Fill in the positions of a rectangle of points; NaN where there is none near the image.

        Parameters
        ----------
        first : (int, int)
            The first point, y and x from the patch's first.
        out : (2, h, w) array
            x and y.
        interpolate : callable
            The kernel.
        """
        out[:] = np.nan
        for cells in self.cells:
            interpolate(cells.nodes, cells.step, cells.used, first, out)
        inside = self._within(first, out.shape[1:])
        rows, columns = self.rows[inside] - first[0], self.columns[inside] - first[1]
        out[:, rows, columns] = self.found[:, inside]

    def reach(self, first: tuple[int, int], shape: tuple[int, int]) -> Reach | None:
        """Find out what of a rectangle of points has positions; None if nothing has.

        Parameters
        ----------
        first : (int, int)
            The first point, y and x from the patch's first.
        shape : (int, int)
            Points along y and x.
        """
        found = [each for cells in self.cells if (each := cells.reach(first, shape)) is not None]
        inside = self._within(first, shape)
        if inside.any():
            points = np.stack([self.rows[inside], self.columns[inside]])
            positions = self.found[:, inside]
            found.append(
                Reach(points.min(1), points.max(1) + 1, positions.min(1), positions.max(1))
            )
        return _joined(found, first, shape) if found else None

    def _within(self, first: tuple[int, int], shape: tuple[int, ...]) -> Booleans:
        """Return which of the points that were found one by one are in a rectangle."""
        return _are_within(self.rows, self.columns, first, shape)


def find_positions(way: PixelMap, number: tuple[int, int], points: Points) -> Patch | None:
    """Find the positions of a patch in an input image.

    Parameters
    ----------
    way : PixelMap
    number : (int, int)
        The patch, counted along y and x.
    points : "centres" or "corners"
        Corners are half a pixel before the centres, and one more along each axis.

    Returns
    -------
    Patch or None
        None if no point of the patch is on the image or near it.
    """
    return _Search(way, (number[0] * PATCH, number[1] * PATCH), points).patch()


@dataclass(slots=True, eq=False)
class _Search:
    """The search for the positions of one patch."""

    way: PixelMap
    origin: tuple[int, int]
    """Its first pixel, y and x."""
    points: Points
    size: tuple[int, int] = field(init=False)
    """Points of the output along y and x that the patch has."""

    def __post_init__(self) -> None:
        more = int(self.points == "corners")
        height, width = self.way.output.shape
        self.size = (
            min(PATCH, height - self.origin[0]) + more,
            min(PATCH, width - self.origin[1]) + more,
        )

    def patch(self) -> Patch | None:
        """Find the positions."""
        todo = np.ones((1, 1), bool)  # of the whole patch
        found: list[_Cells] = []
        if self.size[0] * self.size[1] > _SMALL:
            for step in STEPS:
                cells, todo = self._interpolated(step, todo)
                if cells is not None:
                    found.append(cells)
                if not todo.any():
                    break
        rows, columns, positions = self._one_by_one(todo)
        if not found and not len(rows):
            return None
        torn = self._torn(rows, columns, positions) if self.points == "corners" else None
        return Patch(tuple(found), rows, columns, positions, torn)

    def _interpolated(self, step: int, todo: Booleans) -> tuple[_Cells | None, Booleans]:
        """Find the cells of a step that can be interpolated, and those that are left."""
        count = PATCH // step
        repeats = count // len(todo)
        wanted = np.repeat(np.repeat(todo, repeats, 0), repeats, 1)
        wanted &= (np.arange(count) * step < self.size[0])[:, None]
        wanted &= np.arange(count) * step < self.size[1]
        along = np.arange(-_AROUND, count + _AROUND + 1) * step
        y, x = np.meshgrid(along, along, indexing="ij")
        nodes = self._find(y.ravel(), x.ravel()).reshape(2, len(along), len(along))
        known = np.asarray(np.isfinite(nodes).all(axis=0))
        stencils = sliding_window_view(known[1:-1, 1:-1], (4, 4))
        # A stencil without any position is beside the sky.
        wanted &= stencils.any(axis=(2, 3))
        low, high = _cell_bounds(nodes)
        if self.way.kind != "smooth":
            # Kinks show nowhere, so nothing is interpolated; what is far off is left out.
            if self.way.kind == "tables":
                reach = (high - low) + _TABLES_REACH
                wanted &= self._is_near(low - reach, high + reach) | np.isnan(low).any(axis=0)
            return None, wanted
        good = np.asarray(wanted & stencils.all(axis=(2, 3)) & (_estimate(nodes) < TOLERANCE))
        near = self._is_near(low, high)
        if self.points == "corners":  # a pixel may be on the image with its last corners alone
            near = _dilated(near)
        used = good & near
        cells = _Cells(step, nodes, used, low, high) if used.any() else None
        return cells, wanted & ~good

    def _one_by_one(self, todo: Booleans) -> tuple[Integers, Integers, Floats]:
        """Find the positions of the points of cells; those that are off the image are left out."""
        if not todo.any():
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((2, 0))
        step = PATCH // len(todo)
        of_rows, of_columns = (
            np.minimum(np.arange(size) // step, len(todo) - 1) for size in self.size
        )
        rows, columns = np.nonzero(todo[of_rows][:, of_columns])
        positions = self._find(rows, columns)
        if self.points == "corners":  # of which all four of a pixel are needed
            kept = np.isfinite(positions).all(axis=0)
        else:
            kept = self._is_near(positions, positions, 0.0)
        return rows[kept], columns[kept], positions[:, kept]

    def _torn(self, rows: Integers, columns: Integers, positions: Floats) -> Torn | None:
        """Find the pixels whose corners were found one by one and do not enclose their centre."""
        if not len(rows):
            return None
        grid = np.full((2, *self.size), np.nan)
        grid[:, rows, columns] = positions
        corners = np.stack([grid[:, :-1, :-1], grid[:, 1:, :-1], grid[:, 1:, 1:], grid[:, :-1, 1:]])
        y, x = np.nonzero(np.isfinite(corners).all(axis=(0, 1)))
        if not len(y):
            return None
        pixels = np.stack([x + self.origin[1], y + self.origin[0]])
        centres = self.way.positions(pixels.astype(np.float64))
        apart = self.way.without_turns(corners[:, :, y, x] - centres)
        size = np.hypot(apart[:, 0], apart[:, 1]).max(axis=0)
        off = np.hypot(*apart.mean(axis=0))
        torn = ~(off <= _ENCLOSED * size)
        return Torn(y[torn], x[torn], centres[:, torn]) if torn.any() else None

    def _find(self, rows: Integers, columns: Integers) -> Floats:
        """Find the positions of points, counted from the patch's first."""
        if not len(rows):
            return np.empty((2, 0))
        offset = -0.5 if self.points == "corners" else 0.0
        x, y = columns + (self.origin[1] + offset), rows + (self.origin[0] + offset)
        return self.way.positions(np.stack([x, y]))

    def _is_near(self, low: Floats, high: Floats, margin: float = _MARGIN) -> Booleans:
        """Return which of (2, ...) bounds of x and y reach onto the image, or near it."""
        height, width = self.way.input.shape
        with np.errstate(invalid="ignore"):
            x = (high[0] >= -0.5 - margin) & (low[0] <= width - 0.5 + margin)
            y = (high[1] >= -0.5 - margin) & (low[1] <= height - 0.5 + margin)
        return np.asarray(x & y)


def _are_within(
    rows: Integers, columns: Integers, first: tuple[int, int], shape: tuple[int, ...]
) -> Booleans:
    """Return which points are in a rectangle."""
    in_rows = (rows >= first[0]) & (rows < first[0] + shape[0])
    return np.asarray(in_rows & (columns >= first[1]) & (columns < first[1] + shape[1]))


def _joined(parts: list[Reach], first: tuple[int, int], shape: tuple[int, int]) -> Reach:
    """Join what several kinds of points reach, within a rectangle."""
    begin = np.min([part.begin for part in parts], axis=0)
    end = np.max([part.end for part in parts], axis=0)
    return Reach(
        np.maximum(begin, first),
        np.minimum(end, np.add(first, shape)),
        np.min([part.low for part in parts], axis=0),
        np.max([part.high for part in parts], axis=0),
    )


def _cell_bounds(nodes: Floats) -> tuple[Floats, Floats]:
    """Return bounds of x and y, (2, m, m) each, of the cells of a patch.

    Between its four nodes a cubic bulges by about an eighth of the second differences.
    """
    inner = nodes[:, _AROUND:-_AROUND, _AROUND:-_AROUND]
    corners = np.stack([inner[:, :-1, :-1], inner[:, 1:, :-1], inner[:, :-1, 1:], inner[:, 1:, 1:]])
    down = np.abs(np.diff(nodes, 2, axis=1))[:, 1:-1, _AROUND:-_AROUND]
    across = np.abs(np.diff(nodes, 2, axis=2))[:, _AROUND:-_AROUND, 1:-1]
    bulge = _worst_of_cells(down) + _worst_of_cells(across)
    return corners.min(axis=0) - bulge / 4, corners.max(axis=0) + bulge / 4


def _estimate(nodes: Floats) -> Floats:
    """Estimate by how much cubics are off in each cell, (m, m): NaN where nodes are missing.

    Between its nodes a cubic through four of them is off by at most 3/128 of the fourth difference.
    Differences are taken along both axes: those of a conformal map cancel in the middle of a cell.
    """
    down = np.abs(np.diff(nodes, 4, axis=1))[:, :, _AROUND:-_AROUND]
    across = np.abs(np.diff(nodes, 4, axis=2))[:, _AROUND:-_AROUND]
    worst = _worst_of_cells(down) + _worst_of_cells(across)
    return np.asarray(worst.max(axis=0) * (3 / 128))


def _worst_of_cells(values: Floats) -> Floats:
    """Return the largest of the values at the four nodes of each cell, (2, m, m)."""
    rows = np.maximum(values[:, :-1], values[:, 1:])
    return np.maximum(rows[:, :, :-1], rows[:, :, 1:])


def _dilated(cells: Booleans) -> Booleans:
    """Return cells and their eight neighbours."""
    return np.asarray(sliding_window_view(np.pad(cells, 1), (3, 3)).any(axis=(2, 3)))
