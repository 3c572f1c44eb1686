"""Where images are on the grid of a mosaic: boxes that are generous, since tasks look exactly.

A box is that of the points of an image's outline. That is not enough where the output's map is cut
or turns round: at its poles, at the seam of maps of the whole sky, and where points have no place
on it. Images that may be there are told by circles on the sky.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.wcs.footprints import OUTLINE, SIDES
from dask_fits.wcs.mapping import Grid, PixelMap
from dask_fits.wcs.sphere import (
    Floats,
    angles_of,
    circle_around,
    rotation_to_icrs,
    unit_vectors_of,
)
from dask_fits.wcs.turns import CYLINDRICAL, ZENITHAL

Box = tuple[tuple[int, int], tuple[int, int]]
"""Rows and columns of the output: begin, and end outside of it."""

_WIDE = np.deg2rad(40)
"""Radius of an image, in radians, from which its outline does not tell where it is."""

_MARGIN = 4.0
"""Pixels of the output that are added to a box."""

_LINES = 33
"""Lines of points along each side of an image that is looked at within."""

_SAMPLES = 5
"""Points along each side of a box of the output that tell its circle on the sky."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Where n images are on an output grid."""

    boxes: Floats
    """(n, 4): lowest and highest y, lowest and highest x; infinite where only circles tell."""
    centres: Floats
    """(n, 3): unit vectors of the circles around the images, in the output's frame."""
    radii: Floats
    """(n,): radii of these circles, in radians."""

    def boxes_on(self, shape: tuple[int, int]) -> Integers:
        """Return the boxes clipped to the grid, (n, 4): begin and end along y and x."""
        height, width = shape
        low = np.floor(self.boxes[:, [0, 2]]) + 0.0
        high = np.ceil(self.boxes[:, [1, 3]]) + 1.0
        limits = np.array([height, width])
        low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
        return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).astype(np.int64)

    def take(self, positions: Sequence[int]) -> Outlines:
        """Return the outlines of some images."""
        chosen = list(positions)
        return Outlines(self.boxes[chosen], self.centres[chosen], self.radii[chosen])

    def reaching(self, box: Box, grid: Callable[[], Grid]) -> Integers:
        """Return the images that may reach into a box of the output, in their order.

        Parameters
        ----------
        box : Box
        grid : callable
            Returns the output's grid, which is needed for images that only circles tell.
        """
        reach = touch(self.boxes, box)
        unbound = reach & np.isinf(self.boxes[:, 3])
        if unbound.any():
            centre, radius = _circle(box, grid())
            along = np.clip(self.centres[unbound] @ centre, -1, 1)
            reach[unbound] = np.arccos(along) <= self.radii[unbound] + radius
        return np.flatnonzero(reach)


def touch(boxes: Floats, box: Box) -> npt.NDArray[np.bool_]:
    """Return which boxes of images, (..., 4), have a pixel in common with a box of the grid."""
    (top, bottom), (left, right) = box
    low_y, high_y, low_x, high_x = np.moveaxis(boxes, -1, 0)
    reach = (high_y >= top - 0.5) & (low_y < bottom + 0.5)
    return np.asarray(reach & (high_x >= left - 0.5) & (low_x < right + 0.5))


def find_outlines(output: Grid, points: Floats, sides: Integers) -> Outlines:
    """Find where images are on an output grid.

    Parameters
    ----------
    output : Grid
        Of a frame whose way to ICRS is a rotation, or of ICRS.
    points, sides : arrays
        Those of `Footprints`; NaN where the place of an image is not known.

    Returns
    -------
    Outlines
        Images whose place is not known are everywhere.
    """
    rotation = None if output.frame is None else rotation_to_icrs(output.frame)
    if rotation is None:
        return everywhere(len(points))
    vectors = points @ rotation  # of (n, points, 3), from ICRS to the output's frame
    outline = vectors[:, OUTLINE]
    centres = vectors[:, 0]
    with np.errstate(invalid="ignore"):
        along = np.clip(np.einsum("npk,nk->np", outline, centres), -1, 1)
        radii = np.arccos(along).max(axis=1) * 1.1
        # In a wide image what is farthest from its centre need not be on the outline.
        is_narrow = radii < _WIDE
    known = np.isfinite(radii) & (sides > 0).all(axis=1)
    radii = np.where(known & is_narrow, radii, np.pi)
    centres = np.where(known[:, None], centres, 0.0)
    boxes = np.tile([-np.inf, np.inf], (len(points), 2))
    # On facets, or where the map repeats itself, one box does not tell where an image is.
    may_be_bound = known & (output.kind != "facets") & ~_repeats(output)
    bound = np.flatnonzero(may_be_bound & ~_are_cut(output, centres, radii))
    if len(bound):
        boxes[bound] = _boxes(output, outline[bound])
    boxes[np.isnan(boxes).any(axis=1)] = [-np.inf, np.inf, -np.inf, np.inf]
    return Outlines(boxes, centres, radii)


def everywhere(count: int) -> Outlines:
    """Return the outlines of images of which it is not known where they are."""
    boxes = np.tile([-np.inf, np.inf], (count, 2))
    return Outlines(boxes, np.zeros((count, 3)), np.full(count, np.pi))


def outline_by(way: PixelMap) -> Floats | None:
    """Find the box of one image on the output by its own way there; None if that cannot tell.

    Raises
    ------
    FitsFormatError
        There is no way.
    """
    height, width = way.input.shape
    x, y = np.linspace(-0.5, width - 0.5, _LINES), np.linspace(-0.5, height - 0.5, _LINES)
    grid = np.stack(np.meshgrid(x, y))
    pixels = PixelMap(way.input, way.output).positions(grid.reshape(2, -1)).reshape(grid.shape)
    if not np.isfinite(pixels).all():
        return None
    size = np.ptp(pixels, axis=(1, 2)) / 4
    for axis in (1, 2):
        # Where the output's map is cut, on the image, neighbours are far apart.
        if (np.abs(np.diff(pixels, axis=axis)).max(axis=(1, 2)) > size).any():
            return None
    low = pixels.min(axis=(1, 2)) - size - _MARGIN
    high = pixels.max(axis=(1, 2)) + size + _MARGIN
    if way.output.repeats(low, high):
        return None
    return np.array([low[1], high[1], low[0], high[0]])


def _circle(box: Box, grid: Grid) -> tuple[Floats, float]:
    """Return a circle around a box on the sky: its centre, and its radius in radians."""
    (top, bottom), (left, right) = box
    y = np.linspace(top - 0.5, bottom - 0.5, _SAMPLES)
    x = np.linspace(left - 0.5, right - 0.5, _SAMPLES)
    pixels = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    vectors = unit_vectors_of(*np.deg2rad(grid.to_sky(pixels)))
    found = circle_around(vectors) if np.isfinite(vectors).all() else None
    if found is None:
        return np.array([1.0, 0.0, 0.0]), np.pi
    centre, radius = found
    # A box bulges beyond its corners, and a cell of the samples holds what lies between them.
    return centre, 2 * radius if radius < _WIDE else np.pi


def _boxes(output: Grid, outline: Floats) -> Floats:
    """Return the boxes of (n, points, 3) outlines in the output's frame."""
    sky = np.rad2deg(np.stack(angles_of(outline.reshape(-1, 3))))
    pixels = output.from_sky(sky).reshape(2, *outline.shape[:2])
    # Between two points an edge bulges by about an eighth of the second differences.
    bends = np.abs(pixels - (np.roll(pixels, 1, axis=2) + np.roll(pixels, -1, axis=2)) / 2)
    bends[:, :, ::SIDES] = 0  # corners
    margin = 2 * bends.max(axis=2) + _MARGIN
    low, high = pixels.min(axis=2) - margin, pixels.max(axis=2) + margin
    return np.stack([low[1], high[1], low[0], high[0]], axis=1)


def _are_cut(output: Grid, centres: Floats, radii: Floats) -> npt.NDArray[np.bool_]:
    """Return which circles reach a pole or the seam of the output's map."""
    lon, lat = angles_of(centres)
    wcs = output.wcs.wcs
    world = np.empty((len(centres), 2))
    world[:, wcs.lng], world[:, wcs.lat] = np.rad2deg(lon), np.rad2deg(lat)
    native = wcs.s2p(world, 0)
    phi, theta = np.deg2rad(native["phi"]), np.deg2rad(native["theta"])
    if wcs.cel.prj.category == ZENITHAL:
        # The pole is the middle of such a map, and around the other one it is cut.
        return np.asarray((theta + np.pi / 2 <= radii) | ~np.isfinite(theta))
    at_pole = np.pi / 2 - np.abs(theta) <= radii
    with np.errstate(divide="ignore", invalid="ignore"):
        half_width = np.arcsin(np.clip(np.sin(radii) / np.cos(theta), -1, 1))
    at_seam = np.abs(phi) + half_width >= np.pi
    return np.asarray(at_pole | at_seam | ~np.isfinite(theta))


def _repeats(output: Grid) -> bool:
    """Return whether a map is of more than the whole sky, as cylindrical ones may be.

    A degree more or less does not count: images at its seam are told by circles anyway.
    """
    wcs = output.wcs.wcs
    if wcs.cel.prj.category != CYLINDRICAL:
        return False
    along = np.abs(output.wcs.pixel_scale_matrix[wcs.lng]) @ np.array(output.shape[::-1])
    return bool(along > 361)


def with_boxes(outlines: Outlines, boxes: Mapping[int, Floats]) -> Outlines:
    """Put boxes that were found one by one into outlines, by the position of their image."""
    changed = outlines.boxes.copy()
    for position, box in boxes.items():
        changed[position] = box
    return replace(outlines, boxes=changed)
