"""Targets: the positions of many cutouts, and the boxes around them on one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits._typing import Integers
from dask_fits.cutout import corners, overlap
from dask_fits.wcs.frames import frame_of
from dask_fits.wcs.geometry import celestial_of, to_pixels
from dask_fits.wcs.sphere import to_icrs_vectors
from dask_fits.wcs.turns import Extent

_WIDE = np.deg2rad(60)
"""Radius of an image, in radians, from which on no position is excluded by its distance."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Positions on the sky, or in pixels of every image; one that is not finite is on no image."""

    sky: SkyCoord | None
    """(n,) positions; None if they are pixels."""
    pixels: npt.NDArray[np.float64] | None
    """(n, 2) pixel coordinates x, y; None if they are on the sky."""
    vectors: npt.NDArray[np.float64] | None
    """(n, 3) unit vectors in ICRS; None if astropy cannot transform the positions to ICRS."""
    finite: npt.NDArray[np.bool_]
    """(n,): whether both coordinates of a position are finite."""

    def __len__(self) -> int:
        return len(self.finite)

    def describe(self, position: int) -> str:
        """Return the coordinates of one position as text, for messages."""
        if self.sky is None:
            return str(np.asarray(self.pixels)[position].tolist())
        return str(self.sky[position].to_string())


@dataclass(frozen=True, slots=True, eq=False)
class PlacedBoxes:
    """Boxes around some of the positions, on one image."""

    positions: Integers
    """(n,): position of each box, ascending."""
    first: Integers
    """(n, 2): first pixel of each box, along y and x; it may lie off the image."""
    on: npt.NDArray[np.bool_]
    """(n,): whether the box has a pixel on the image."""
    whole: npt.NDArray[np.bool_]
    """(n,): whether all of the box is on the image."""


def as_targets(positions: SkyCoord | npt.ArrayLike) -> Targets:
    """Return the positions that `dask_fits.cutouts` takes as Targets.

    Raises
    ------
    ValueError
        They are neither a SkyCoord nor pairs of numbers.
    """
    if isinstance(positions, SkyCoord):
        sky = positions.reshape(-1)
        sphere = sky.spherical
        finite = np.isfinite(sphere.lon.value) & np.isfinite(sphere.lat.value)
        return Targets(sky, None, _unit_vectors(sky), finite)
    pixels = np.asarray(positions, np.float64)
    if pixels.ndim == 1 and pixels.size in (0, 2):
        pixels = pixels.reshape(-1, 2)
    if pixels.ndim != 2 or pixels.shape[1] != 2:
        raise ValueError(
            "positions: expected a SkyCoord or an (n, 2) array of pixel coordinates x, y, "
            f"found an array of shape {pixels.shape}"
        )
    return Targets(None, pixels, None, np.asarray(np.isfinite(pixels).all(axis=1)))


def _unit_vectors(sky: SkyCoord) -> npt.NDArray[np.float64] | None:
    """Return (n, 3) unit vectors in ICRS; None if astropy cannot transform to ICRS offline."""
    try:
        return to_icrs_vectors(sky.frame)
    except ValueError:
        return None


def place_boxes(
    targets: Targets, wcs: WCS | None, image_shape: tuple[int, int], box_shape: tuple[int, int]
) -> PlacedBoxes:
    """Place boxes on an image: around all pixel positions, or around those on its part of the sky.

    Parameters
    ----------
    targets : Targets
    wcs : astropy.wcs.WCS, optional
        The WCS of the image; positions in pixels need none.
    image_shape, box_shape : (int, int)
        Height and width of the image, and of the boxes.

    Returns
    -------
    PlacedBoxes
        For positions in pixels a box for each of them; for positions on the sky those boxes alone
        that have a pixel on the image.

    Raises
    ------
    ValueError
        Positions are on the sky and the WCS is not celestial.
    """
    image_lengths = np.array(image_shape)
    if targets.sky is None:
        x, y = np.asarray(targets.pixels).T
        first = corners(x, y, box_shape)
        on, whole = overlap(first, box_shape, image_lengths)
        return PlacedBoxes(np.arange(len(targets)), first, on, whole)
    if wcs is None or not wcs.has_celestial:
        raise ValueError("WCS: expected celestial coordinates, found none")
    positions = np.flatnonzero(_are_near(targets, wcs, image_shape, box_shape) & targets.finite)
    if not len(positions):
        return PlacedBoxes(positions, np.empty((0, 2), np.int64), *np.empty((2, 0), bool))
    x, y = to_pixels(wcs, targets.sky[positions], Extent.of(*image_shape).for_boxes())
    first = corners(x, y, box_shape)
    on, whole = overlap(first, box_shape, image_lengths)
    return PlacedBoxes(positions[on], first[on], on[on], whole[on])


def _are_near(
    targets: Targets, wcs: WCS, image_shape: tuple[int, int], box_shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Return for each position whether it is within a circle around the image and half a box.

    It spares the work of inverting distortions, which far from an image lead anywhere.
    """
    everywhere = np.ones(len(targets), bool)
    if targets.vectors is None:
        return everywhere
    sky = celestial_of(wcs)
    # The centres of boxes lie on the image, or as far off it as half a box reaches. Edges, middle
    # and outermost centres along x and y make a grid of 5 x 5 pixels.
    samples = (
        [-0.5 - side / 2, -0.5, length / 2 - 0.5, length - 0.5, length - 0.5 + side / 2]
        for length, side in zip(image_shape[::-1], box_shape[::-1], strict=True)
    )
    x, y = (axis.ravel() for axis in np.meshgrid(*samples, indexing="ij"))
    grid = _pixels_to_unit_vectors(sky, x, y)
    if grid is None:
        return everywhere
    # One product of matrices for all positions: the cosine of an angle is that of unit vectors.
    centre = grid[len(grid) // 2]
    radius = float(np.arccos(np.clip(grid @ centre, -1, 1)).max())
    # Between the samples an edge may bulge, hence a tenth more, and a pixel for tiny images.
    scales = proj_plane_pixel_scales(sky)
    pixel = max((scales[n] * u.Unit(sky.wcs.cunit[n])).to_value(u.rad) for n in range(2))
    reach = 1.1 * radius + pixel
    # On a wide image 25 pixels say little about the others. A NaN is no small radius either.
    if not reach < _WIDE:
        return everywhere
    near: npt.NDArray[np.bool_] = targets.vectors @ centre >= np.cos(reach)
    return near


def _pixels_to_unit_vectors(
    sky: WCS, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Return the unit vectors in ICRS of pixels; None if one of them has no place on the sky."""
    world = sky.all_pix2world(x, y, 0)
    if not np.isfinite(world).all():
        return None
    lon, lat = (world[n] * u.Unit(sky.wcs.cunit[n]) for n in (sky.wcs.lng, sky.wcs.lat))
    return _unit_vectors(SkyCoord(lon, lat, frame=frame_of(sky)))
