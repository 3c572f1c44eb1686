"""Many positions, and which of them have a cutout on an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits._typing import Integers
from dask_fits.cutout import corners, overlap
from dask_fits.wcs.frames import check_offline, frame_of
from dask_fits.wcs.geometry import celestial_of, to_pixels
from dask_fits.wcs.turns import Extent

_WIDE = np.deg2rad(60)
"""Radius of an image from which on all positions are looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Positions on the sky, or in pixels of whatever image. One that is not finite is on none."""

    sky: SkyCoord | None
    """(n,) positions; None where they are pixels."""
    pixels: npt.NDArray[np.float64] | None
    """(n, 2) pixel coordinates x, y; None where they are on the sky."""
    vectors: npt.NDArray[np.float64] | None
    """(n, 3) unit vectors in ICRS; None where astropy knows no way there."""
    finite: npt.NDArray[np.bool_]
    """(n,): whether a position is one."""

    def __len__(self) -> int:
        return len(self.finite)

    def told(self, number: int) -> str:
        """Say what one of them is, for messages."""
        if self.sky is None:
            return str(np.asarray(self.pixels)[number].tolist())
        return str(self.sky[number].to_string())


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Boxes around some of the positions, on one image."""

    positions: Integers
    """Which of the positions, ascending."""
    first: Integers
    """(n, 2): first pixel of each box, along y and x; it may lie off the image."""
    on: npt.NDArray[np.bool_]
    """Whether the box has a pixel on the image."""
    whole: npt.NDArray[np.bool_]
    """Whether all of it is."""


def as_targets(positions: Any) -> Targets:
    """Take positions as `dask_fits.cutouts` does.

    Raises
    ------
    ValueError
        They are neither a SkyCoord nor pairs of numbers.
    """
    if isinstance(positions, SkyCoord):
        sky = positions.reshape(-1)
        sphere = sky.spherical
        finite = np.isfinite(sphere.lon.value) & np.isfinite(sphere.lat.value)
        return Targets(sky, None, _vectors(sky), finite)
    pixels = np.asarray(positions, np.float64)
    if pixels.ndim == 1 and pixels.size in (0, 2):
        pixels = pixels.reshape(-1, 2)
    if pixels.ndim != 2 or pixels.shape[1] != 2:
        raise ValueError(
            "positions: expected a SkyCoord or an (n, 2) array of pixel coordinates x, y, "
            f"found an array of shape {pixels.shape}"
        )
    return Targets(None, pixels, None, np.asarray(np.isfinite(pixels).all(axis=1)))


def _vectors(sky: SkyCoord) -> npt.NDArray[np.float64] | None:
    try:
        check_offline(sky.frame)
        found = sky.icrs.represent_as("unitspherical").to_cartesian().xyz.value.T
    except Exception:  # noqa: BLE001 (some frames lack what the way to ICRS needs, or it is online)
        return None
    return np.asarray(found, np.float64)


def place_boxes(
    targets: Targets, wcs: WCS | None, image: tuple[int, int], shape: tuple[int, int]
) -> Placed:
    """Place boxes on an image: around positions on the sky that it may hold; around all pixels.

    Parameters
    ----------
    targets : Targets
    wcs : astropy.wcs.WCS, optional
        Of the image; positions in pixels need none.
    image, shape : (int, int)
        Height and width of the image, and of the boxes.

    Raises
    ------
    ValueError
        Positions are on the sky and the WCS is not celestial.
    """
    lengths = np.array(image)
    if targets.sky is None:
        numbers = np.arange(len(targets))
        x, y = np.asarray(targets.pixels).T
    else:
        if wcs is None or not wcs.has_celestial:
            raise ValueError("WCS: expected celestial coordinates, found none")
        numbers = np.flatnonzero(_near(targets, wcs, image, shape) & targets.finite)
        if not len(numbers):
            return Placed(numbers, np.empty((0, 2), np.int64), *np.empty((2, 0), bool))
        x, y = to_pixels(wcs, targets.sky[numbers], Extent.of(*image).for_boxes())
    first = corners(x, y, shape)
    on, whole = overlap(first, shape, lengths)
    if targets.sky is None:
        return Placed(numbers, first, on, whole)
    return Placed(numbers[on], first[on], on[on], whole[on])


def _near(
    targets: Targets, wcs: WCS, image: tuple[int, int], shape: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Tell which positions are within a circle around the image and half a box.

    It spares the work of inverting distortions, which far from an image lead anywhere.
    """
    everywhere = np.ones(len(targets), bool)
    if targets.vectors is None:
        return everywhere
    sky = celestial_of(wcs)
    # Where centres may lie: on the image, or as far off it as half a box reaches.
    lines = (
        [-0.5 - side / 2, -0.5, length / 2 - 0.5, length - 0.5, length - 0.5 + side / 2]
        for length, side in zip(image[::-1], shape[::-1], strict=True)
    )
    grid = _directions(sky, *(along.ravel() for along in np.meshgrid(*lines, indexing="ij")))
    if grid is None:
        return everywhere
    centre = grid[len(grid) // 2]
    radius = float(np.arccos(np.clip(grid @ centre, -1, 1)).max())
    scales = proj_plane_pixel_scales(sky)
    scale = max((scales[n] * u.Unit(sky.wcs.cunit[n])).to_value(u.rad) for n in range(2))
    reach = 1.1 * radius + scale
    if not reach < _WIDE:
        return everywhere
    found: npt.NDArray[np.bool_] = targets.vectors @ centre >= np.cos(reach)
    return found


def _directions(
    sky: WCS, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Find the unit vectors in ICRS of pixels; None where one has no place on the sky."""
    world = sky.all_pix2world(x, y, 0)
    if not np.isfinite(world).all():
        return None
    lon, lat = (world[n] * u.Unit(sky.wcs.cunit[n]) for n in (sky.wcs.lng, sky.wcs.lat))
    return _vectors(SkyCoord(lon, lat, frame=frame_of(sky)))
