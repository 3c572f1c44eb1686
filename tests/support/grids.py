"""Grids of pixels on the sky, and astropy's way from the pixels of one to those of another."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from dask_fits.wcs.mapping import Grid

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Keywords = dict[str, Any]
Shape = tuple[int, int]

EQUATORIAL = ("RA--", "DEC-")
GALACTIC = ("GLON", "GLAT")

PARAMETERS: dict[str, Keywords] = {
    "AZP": {"PV2_1": 2.0, "PV2_2": 30.0},
    "SZP": {"PV2_1": 2.0, "PV2_2": 30.0, "PV2_3": 60.0},
    "ZPN": {"PV2_1": 1.0, "PV2_3": -0.1},
    "AIR": {"PV2_1": 45.0},
    "CYP": {"PV2_1": 1.0, "PV2_2": 0.8},
    "COP": {"PV2_1": 45.0},
    "COE": {"PV2_1": 45.0},
    "COD": {"PV2_1": 45.0},
    "COO": {"PV2_1": 45.0, "PV2_2": 10.0},
    "BON": {"PV2_1": 45.0},
}
"""Parameters of the projections that need some."""

SIP_TERMS: Keywords = {
    "A_ORDER": 3,
    "A_2_0": 2e-6,
    "A_1_1": 1e-6,
    "A_0_2": -1.5e-6,
    "A_3_0": 2e-9,
    "B_ORDER": 3,
    "B_2_0": -1e-6,
    "B_0_2": 2e-6,
    "B_2_1": 1e-9,
    "B_0_3": 2e-9,
}
"""Polynomials that move the corners of an image of 1000 pixels by some pixels."""

SIP_INVERSE: Keywords = {"AP_ORDER": 2, "AP_2_0": -2e-6, "BP_ORDER": 2, "BP_0_2": -2e-6}
"""A coarse inverse of them."""

EDGE = 1e-6
"""Pixels from the edge of an image within which a position is on it as well as off it."""


def sky_keywords(
    projection: str,
    crval: tuple[float, float],
    crpix: tuple[float, float],
    scale: float,
    *,
    names: tuple[str, str] = EQUATORIAL,
    turned: float = 0.0,
    **more: Any,
) -> Keywords:
    """Keywords of square pixels; the scale and the angle by which they are turned in degrees."""
    cosine, sine = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    turning = {"PC1_1": cosine, "PC1_2": -sine, "PC2_1": sine, "PC2_2": cosine}
    return {
        "CTYPE1": f"{names[0]}-{projection}",
        "CTYPE2": f"{names[1]}-{projection}",
        "CRVAL1": crval[0],
        "CRVAL2": crval[1],
        "CRPIX1": crpix[0],
        "CRPIX2": crpix[1],
        "CDELT1": -scale,
        "CDELT2": scale,
        **(turning if turned else {}),
        **PARAMETERS.get(projection[:3], {}),
        **more,
    }


def sip_keywords(
    crval: tuple[float, float], crpix: tuple[float, float], scale: float, **more: Any
) -> Keywords:
    """Keywords of an image with SIP."""
    return sky_keywords("TAN-SIP", crval, crpix, scale, **(SIP_TERMS | more))


def field(
    projection: str, crval: tuple[float, float], scale: float, shape: Shape, **more: Any
) -> Grid:
    """A grid with a position at its middle."""
    middle = ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    return grid_of(sky_keywords(projection, crval, middle, scale, **more), shape)


def latitude_first(cards: Keywords) -> Keywords:
    """The same axes the other way round: pixels x of the one are pixels y of the other."""
    other = str.maketrans("12", "21")
    turned = ("CTYPE", "CRVAL", "CRPIX", "CDELT", "PC", "CD")
    found = {}
    for keyword, value in cards.items():
        if keyword.startswith("PV"):  # a parameter of an axis keeps its own number
            found[f"PV{keyword[2].translate(other)}{keyword[3:]}"] = value
        else:
            found[keyword.translate(other) if keyword.startswith(turned) else keyword] = value
    return found


def grid_of(cards: Keywords | fits.Header, shape: Shape, where: str = "an image") -> Grid:
    """The grid of a header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Grid(WCS(fits.Header(cards)), shape, where)


def positions_by_astropy(output: Grid, target: Grid, pixels: Floats) -> Floats:
    """Find the pixels of a target at (2, n) pixels x, y of an output by astropy.

    Those of a distorted target are found one by one: astropy gives a point of many what depends on
    the others. NaN where the way back misses by more than a pixel, as reproject has it.
    """
    found = _one_way(output.wcs, target.wcs, pixels)
    back = _one_way(target.wcs, output.wcs, found)
    with np.errstate(invalid="ignore"):
        found[:, ~(np.abs(back - pixels) <= 1).all(axis=0)] = np.nan
    return found


def _one_way(start: WCS, end: WCS, pixels: Floats) -> Floats:
    """What `astropy.wcs.utils.pixel_to_pixel` does."""
    found = np.full(pixels.shape, np.nan)
    known = np.isfinite(pixels).all(axis=0)
    if not known.any():
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sky: SkyCoord = start.pixel_to_world(*pixels[:, known])
        sky = sky.transform_to(wcs_to_celestial_frame(end)).represent_as("unitspherical")
        world = np.full((2, known.sum()), np.nan)
        world[end.wcs.lng], world[end.wcs.lat] = sky.lon.deg, sky.lat.deg
        if _has_iteration(end):
            found[:, known] = np.array([_one_point(end, point) for point in world.T]).T
        else:
            found[:, known] = end.world_to_pixel_values(*world)
    return found


def _one_point(wcs: WCS, world: Floats) -> tuple[float, float]:
    """The pixel of one position; NaN if it has none."""
    if not np.isfinite(world).all():
        return np.nan, np.nan
    x, y = wcs.world_to_pixel_values(*world)
    return float(x), float(y)


def _has_iteration(wcs: WCS) -> bool:
    """Whether astropy looks for the pixels of positions step by step, for many points together."""
    tables = (wcs.sip, wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)
    return any(table is not None for table in tables)


def on_image(positions: Floats, shape: Shape, margin: float = 0.0) -> Booleans:
    """Where (2, ...) positions x, y are on an image, or on what a margin adds to it."""
    limits = np.array(shape[::-1]).reshape(2, *[1] * (positions.ndim - 1))
    with np.errstate(invalid="ignore"):
        inside = (positions >= -0.5 - margin) & (positions <= limits - 0.5 + margin)
    return np.asarray(inside.all(axis=0))


def assert_same_positions(found: Floats, expected: Floats, shape: Shape, tolerance: float) -> None:
    """That the same points are on an image, and at the same place."""
    lost = on_image(expected, shape, -EDGE) & ~on_image(found, shape)
    invented = on_image(found, shape, -EDGE) & ~on_image(expected, shape)
    assert not lost.any(), f"{lost.sum()} lost, such as {expected[:, lost][:, 0]}"
    assert not invented.any(), f"{invented.sum()} invented, such as {found[:, invented][:, 0]}"
    both = on_image(expected, shape) & on_image(found, shape)
    if both.any():
        assert np.abs(found - expected)[:, both].max() <= tolerance


def all_pixels(shape: Shape, first: float = 0.0) -> Floats:
    """Pixels x, y of a grid, (2, n), row by row; from -0.5 on the corners of its pixels."""
    more = int(first < 0)
    y, x = np.mgrid[: shape[0] + more, : shape[1] + more] + first
    return np.stack([x.ravel(), y.ravel()])
