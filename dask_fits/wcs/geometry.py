"""Where on an image positions of the sky are, and the other way round; through astropy's WCS."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS, DistortionLookupTable, NoConvergence

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.wcs.frames import in_frame_of
from dask_fits.wcs.turns import Extent, complete_sky, nearest_pixels


def sky_axes(wcs: WCS, ndim: int) -> tuple[int, int]:
    """Find the axes of an image that span the sky; the last two where none do.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ndim : int
        Axes of the image.

    Returns
    -------
    y, x : int
        Axes in NumPy order, ``y < x``.
    """
    if wcs.has_celestial:
        along = sorted((wcs.wcs.lng, wcs.wcs.lat))
        if along[1] < ndim:
            return ndim - 1 - along[1], ndim - 1 - along[0]
    return ndim - 2, ndim - 1


def celestial_of(wcs: WCS) -> WCS:
    """Leave all axes of a celestial WCS out but those that span the sky.

    Raises
    ------
    FitsFormatError
        They are not separate from the others.
    """
    if wcs.naxis == 2:
        return wcs
    try:
        return wcs.celestial
    except Exception as error:  # astropy raises whatever it stumbles on
        said = f"WCS: astropy cannot separate its celestial axes: {one_line(error)}"
        raise FitsFormatError(said) from error


def to_pixels(
    wcs: WCS, positions: SkyCoord, image: Extent | None = None, part: Extent | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of positions on the sky, distortions included.

    As `astropy.wcs.utils.skycoord_to_pixel`, which however gives y before x where the latitude is
    the first of the WCS's axes, and the pixel within 180 degrees of the reference point where the
    image has another one of the same position.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    positions : SkyCoord
    image, part : Extent, optional
        The image, and what is left of it, which decide among pixels that are a turn of the native
        longitude apart; see `dask_fits.wcs.turns.nearest_pixels`. Without it they are astropy's.

    Returns
    -------
    x, y : float64 arrays of the shape of `positions`
        Counted from 0, along the two axes of `sky_axes`; NaN where the projection has no such
        position, or the distortion cannot be inverted there.

    Raises
    ------
    FitsFormatError
        The WCS is not celestial, or of a frame that astropy cannot transform to without a look at
        the network.
    """
    if not wcs.has_celestial:
        raise FitsFormatError("WCS: expected celestial coordinates, found none")
    lon, lat = in_frame_of(wcs, positions)
    units = [angular_unit(wcs, axis) for axis in (wcs.wcs.lng, wcs.wcs.lat)]
    return from_sky(wcs, lon.to_value(units[0]), lat.to_value(units[1]), image, part)


def angular_unit(wcs: WCS, axis: int) -> u.UnitBase:
    """Find the unit of an axis, from 0, that spans the sky; raise FitsFormatError if it cannot."""
    unit = u.Unit(wcs.wcs.cunit[axis])
    if unit.physical_type != "angle":
        raise FitsFormatError(f"WCS: CUNIT{axis + 1}: found {str(unit)!r}, expected an angle")
    return unit


def from_sky(
    wcs: WCS,
    lon: npt.NDArray[Any],
    lat: npt.NDArray[Any],
    image: Extent | None = None,
    part: Extent | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of longitudes and latitudes, in the frame and the units of the WCS itself.

    `image` and `part` are those of `to_pixels`.

    Returns
    -------
    x, y : float64 arrays
        As for `to_pixels`.
    """
    sky = celestial_of(wcs)
    world = (lat, lon) if sky.wcs.lng > sky.wcs.lat else (lon, lat)
    try:
        found: Any = _with_both_tables(sky).all_world2pix(*world, 0)
    except NoConvergence as error:
        found = np.where(_lost(error), np.nan, error.best_solution.T).reshape(2, *np.shape(lon))
    x, y = (np.asarray(values, np.float64) for values in found)
    if image is not None:
        shape = x.shape
        pixels = nearest_pixels(sky, np.stack([x.reshape(-1), y.reshape(-1)]), image, part)
        x, y = (values.reshape(shape) for values in pixels)
    return x, y


def to_sky(
    wcs: WCS, pixels: Sequence[npt.NDArray[np.float64]], image: Extent
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the longitudes and latitudes of pixels, in the frame and the units of the WCS itself.

    They are astropy's, and beyond native longitudes of 180 degrees, which astropy has not, those
    of the projection; see `dask_fits.wcs.turns.complete_sky`.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    pixels : sequence of (n,) arrays
        Along each axis of the WCS, from 0.
    image : Extent
        Of the image, along the two axes that span the sky.

    Returns
    -------
    lon, lat : (n,) arrays
        NaN where the projection has no such pixel.
    """
    world = wcs.pixel_to_world_values(*pixels)
    axes = sorted((wcs.wcs.lng, wcs.wcs.lat))
    found = np.stack([world[axis] for axis in axes])
    if np.isnan(found).any() and not (wcs.wcs.get_pc()[axes] != 0)[:, _others(wcs, axes)].any():
        sky = celestial_of(wcs)
        found = complete_sky(sky, np.stack([pixels[axis] for axis in axes]), found, image)
    return found[axes.index(wcs.wcs.lng)], found[axes.index(wcs.wcs.lat)]


def _others(wcs: WCS, axes: Sequence[int]) -> list[int]:
    return [axis for axis in range(wcs.naxis) if axis not in axes]


def _with_both_tables(wcs: WCS) -> WCS:
    """Add a table of zeros where only one axis has one: astropy else sees no distortion at all."""
    if (wcs.det2im1 is None) == (wcs.det2im2 is None):
        return wcs
    found = wcs.deepcopy()
    nothing = DistortionLookupTable(np.zeros((1, 1), np.float32), (0, 0), (0, 0), (1, 1))
    setattr(found, "det2im1" if found.det2im1 is None else "det2im2", nothing)
    return found


def _lost(error: NoConvergence) -> npt.NDArray[np.bool_]:
    """Tell which positions did not converge."""
    lost = np.zeros(len(error.best_solution), bool)
    for some in (error.divergent, error.slow_conv):
        if some is not None:
            lost[some] = True
    return lost


def check_copies(wcs: WCS, where: str) -> None:
    """Raise FitsFormatError where astropy cannot copy a WCS, without which no positions are found.

    That is so of polynomials (TPV, TPD) in a cube: wcslib copies them for two axes only.
    """
    try:
        copy.deepcopy(wcs.wcs)
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{where}: astropy cannot copy the WCS: {one_line(error)}") from error
