"""Positions in an input image of the points of an output grid.

The output grid is divided into patches of `PATCH` pixels, anchored at its first pixel. A patch has
cells, whose points are interpolated between nodes, and points that were found one by one; `search`
finds them. Points are the centres of pixels, or their corners for exact areas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

PATCH = 1024
"""Pixels of the output along each side of a patch."""

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
class Cells:
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
    """(n,): row by row, counted from the patch's first pixel."""
    centres: Floats
    """(2, n): positions of their centres; NaN where there is none."""

    def within(self, first: tuple[int, int], shape: tuple[int, ...]) -> Torn:
        """Take those of a rectangle of pixels, counted from its first."""
        inside = _points_within(self.rows, self.columns, first, shape)
        rows, columns = self.rows[inside] - first[0], self.columns[inside] - first[1]
        return Torn(rows, columns, self.centres[:, inside])


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Positions in an input of the points of one patch of the output."""

    cells: tuple[Cells, ...]
    rows: Integers
    columns: Integers
    """(n,): points that were found one by one, row by row, counted from the patch's first."""
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
        inside = _points_within(self.rows, self.columns, first, out.shape[1:])
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
        inside = _points_within(self.rows, self.columns, first, shape)
        if len(inside):
            points = np.stack([self.rows[inside], self.columns[inside]])
            positions = self.found[:, inside]
            found.append(
                Reach(points.min(1), points.max(1) + 1, positions.min(1), positions.max(1))
            )
        return _joined(found, first, shape) if found else None


def _points_within(
    rows: Integers, columns: Integers, first: tuple[int, int], shape: tuple[int, ...]
) -> Integers:
    """Return which of some points, that come row by row, are in a rectangle: their indices."""
    begin, end = np.searchsorted(rows, (first[0], first[0] + shape[0]))
    along = columns[begin:end] - first[1]
    return np.asarray(begin + np.flatnonzero((along >= 0) & (along < shape[1])))


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
