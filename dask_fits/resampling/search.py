"""The search for positions in an input image, which are as exact as they need to be.

A patch is what positions are found for: what a point gets depends on its patch and the two WCSs
alone, never on what is computed together with it. So results do not depend on chunks, to the bit;
astropy's inverse of a distortion gives one point what depends on the others of the call.

    cells of 32 points    cubics between nodes, where differences of the nodes show that these do
    cells of 8            the same, in what is left
    points                one by one, in what is left of that: at limbs, seams and poles, and
                          everywhere if a WCS is not known to be smooth
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dask_fits._typing import Integers
from dask_fits.resampling.positions import (
    PATCH,
    Booleans,
    Cells,
    Floats,
    Patch,
    Points,
    Torn,
)
from dask_fits.wcs.mapping import PixelMap

STEPS = (32, 8)
"""Pixels between two nodes, of coarse and of fine cells."""

TOLERANCE = 2e-5
"""Pixels of the input by which interpolated positions may be off, as far as differences show."""

_AROUND = 2
"""Nodes beyond the patch on each side."""

_SMALL = 4096
"""Points of a patch up to which all are found one by one, without nodes."""

_COARSE = 0.5
"""Degrees of a pixel of the output from which they are, too: nodes may be beside the sky alone if a
whole one is in a few pixels."""

_AT_ONCE = 1 << 18
"""Points that astropy is asked for at a time: it takes some hundred bytes for each."""

_STEPS_BETWEEN = 3
"""Steps from a point to the nodes of its stencil, at most."""

_MARGIN = 2.0
"""Pixels beside the image up to which points are found, at least."""

_TABLES_REACH = 8.0
"""Pixels that tables of distortions may move what lies between two nodes."""

_ENCLOSED = 0.2
"""Part of a pixel's size by which the middle of its corners may be off its centre. If one of them
is on the other side of a map it is a quarter."""


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
        found: list[Cells] = []
        if not self._is_coarse:
            for step in STEPS:
                cells, todo = self._interpolated(step, todo)
                if cells is not None:
                    found.append(cells)
                todo = self._near_on_sky(step, todo)
                if not todo.any():
                    break
        else:
            todo = self._near_on_sky(STEPS[-1], todo)
        rows, columns, positions = self._one_by_one(todo)
        if not found and not len(rows):
            return None
        torn = self._torn(rows, columns, positions) if self.points == "corners" else None
        return Patch(tuple(found), rows, columns, positions, torn)

    def _interpolated(self, step: int, todo: Booleans) -> tuple[Cells | None, Booleans]:
        """Find the cells of a step that can be interpolated, and those that are left."""
        wanted = self._wanted(step, todo)
        y, x = _node_grid(step)
        nodes = self._find(y.ravel(), x.ravel()).reshape(2, *y.shape)
        known = np.asarray(np.isfinite(nodes).all(axis=0))
        stencils = _stencils(known)
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
        cells = Cells(step, nodes, used, low, high) if used.any() else None
        return cells, wanted & ~good

    def _wanted(self, step: int, todo: Booleans) -> Booleans:
        """Divide cells into those of a step, of which there are points."""
        count = PATCH // step
        repeats = count // len(todo)
        wanted = np.repeat(np.repeat(todo, repeats, 0), repeats, 1)
        wanted &= (np.arange(count) * step < self.size[0])[:, None]
        wanted &= np.arange(count) * step < self.size[1]
        return wanted

    @property
    def _is_coarse(self) -> bool:
        """Whether a whole sky may be in a few pixels."""
        is_small = self.size[0] * self.size[1] <= _SMALL
        return is_small or self.way.output.largest_side > _COARSE

    def _near_on_sky(self, step: int, todo: Booleans) -> Booleans:
        """Find the cells of a step whose sky may be on the image, among those that are left.

        That is told by a circle around the image: an input may have no positions at nodes, and an
        image between them.
        """
        wanted = self._wanted(step, todo)
        if not wanted.any():
            return wanted
        y, x = _node_grid(step)
        directions = self.way.directions(self._pixels(y.ravel(), x.ravel())).reshape(*y.shape, 3)
        centre, radius = self.way.circle
        blank = np.asarray(np.isnan(directions).any(axis=2))
        if blank.all():
            return wanted if self._is_coarse else np.zeros_like(wanted)
        # Of neighbours, whichever are farthest apart.
        chords = [np.linalg.norm(np.diff(directions, axis=axis), axis=2) for axis in (0, 1)]
        farthest = max(np.nanmax(each, initial=0.0) for each in chords)
        reach = _STEPS_BETWEEN * 2 * np.arcsin(min(farthest / 2, 1.0))
        with np.errstate(invalid="ignore"):
            near = np.asarray(directions @ centre >= np.cos(min(radius + reach, np.pi)))
        found = _stencils(near).any(axis=(2, 3))
        if self._is_coarse:
            found |= _stencils(blank).all(axis=(2, 3))
        return np.asarray(wanted & found)

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
        found = np.empty((2, len(rows)))
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found[:, part] = self.way.positions(self._pixels(rows[part], columns[part]))
        return found

    def _pixels(self, rows: Integers, columns: Integers) -> Floats:
        """Return the pixels x, y of the output, (2, n), of points."""
        offset = -0.5 if self.points == "corners" else 0.0
        return np.stack([columns + (self.origin[1] + offset), rows + (self.origin[0] + offset)])

    def _is_near(self, low: Floats, high: Floats, margin: float = _MARGIN) -> Booleans:
        """Return which of (2, ...) bounds of x and y reach onto the image, or near it."""
        height, width = self.way.input.shape
        with np.errstate(invalid="ignore"):
            x = (high[0] >= -0.5 - margin) & (low[0] <= width - 0.5 + margin)
            y = (high[1] >= -0.5 - margin) & (low[1] <= height - 0.5 + margin)
        return np.asarray(x & y)


def _stencils(nodes: Booleans) -> Booleans:
    """Return the 4 x 4 nodes around each cell, (m, m, 4, 4)."""
    return sliding_window_view(nodes[1:-1, 1:-1], (4, 4))


def _node_grid(step: int) -> tuple[Integers, Integers]:
    """Return the rows and columns of the nodes of a step, (n, n), from the patch's first."""
    along = np.arange(-_AROUND, PATCH // step + _AROUND + 1) * step
    y, x = np.meshgrid(along, along, indexing="ij")
    return y, x


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
