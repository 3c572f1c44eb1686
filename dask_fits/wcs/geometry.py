"""Conversion between positions on the sky and pixels of an image, through astropy's WCS.

Pixels are x, y from 0, in the order of FITS. Two orders of axes meet here:

    wcs axis    0, 1, ... naxis - 1    in the order of CTYPEn; `wcs.wcs.lng` and `.lat` are such
    image axis  0, 1, ... ndim - 1     NumPy order: wcs axis n is image axis ndim - 1 - n
"""

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
    """Find the axes of an image that span the sky; the last two if none do.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ndim : int
        Number of axes of the image.

    Returns
    -------
    y, x : int
        Axes in NumPy order, ``y < x``.
    """
    if wcs.has_celestial:
        low, high = sorted((wcs.wcs.lng, wcs.wcs.lat))
        # A WCS may have more axes than its image.
        if high < ndim:
            return ndim - 1 - high, ndim - 1 - low
    return ndim - 2, ndim - 1


def celestial_of(wcs: WCS) -> WCS:
    """Return a celestial WCS with only the two axes that span the sky.

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
        raise FitsFormatError(
            f"WCS: astropy cannot separate its celestial axes: {one_line(error)}"
        ) from error


def to_pixels(
    wcs: WCS, positions: SkyCoord, image: Extent | None = None, part: Extent | None = None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of positions on the sky, distortions included.

    As `astropy.wcs.utils.skycoord_to_pixel`, which however gives y before x if the latitude is the
    first of the WCS's axes, and the pixel within 180 degrees of the reference point if the image
    has another one of the same position.

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
        Counted from 0, along the two axes of `sky_axes`; NaN if the projection has no such
        position, or the distortion cannot be inverted there.

    Raises
    ------
    FitsFormatError
        The WCS is not celestial, or of a frame to which astropy cannot transform without access to
        the network.
    """
    if not wcs.has_celestial:
        raise FitsFormatError("WCS: expected celestial coordinates, found none")
    lon, lat = in_frame_of(wcs, positions)
    lon_unit = angular_unit(wcs, wcs.wcs.lng)
    lat_unit = angular_unit(wcs, wcs.wcs.lat)
    return from_sky(wcs, lon.to_value(lon_unit), lat.to_value(lat_unit), image, part)


def angular_unit(wcs: WCS, axis: int) -> u.UnitBase:
    """Return the unit of a WCS axis that spans the sky; raise FitsFormatError if it is no angle."""
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
        pixels: Any = _add_missing_table(sky).all_world2pix(*world, 0)
    except NoConvergence as error:
        # The others have converged, and need not suffer.
        pixels = np.where(_find_unconverged(error), np.nan, error.best_solution.T)
        pixels = pixels.reshape(2, *np.shape(lon))
    x, y = (np.asarray(values, np.float64) for values in pixels)
    if image is not None:
        flat = np.stack([x.reshape(-1), y.reshape(-1)])
        nearest = nearest_pixels(sky, flat, image, part)
        x, y = (values.reshape(x.shape) for values in nearest)
    return x, y


def to_sky(
    wcs: WCS, pixels: Sequence[npt.NDArray[np.float64]], image: Extent
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Find the longitudes and latitudes of pixels, in the frame and the units of the WCS itself.

    They are astropy's; beyond native longitudes of 180 degrees, where astropy finds none, they are
    those of the projection; see `dask_fits.wcs.turns.complete_sky`.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    pixels : sequence of (n,) arrays
        Pixels along each axis of the WCS, from 0.
    image : Extent
        Extent of the image, along the two axes that span the sky.

    Returns
    -------
    lon, lat : (n,) arrays
        NaN if the projection has no such pixel.
    """
    world = wcs.pixel_to_world_values(*pixels)
    axes = sorted((wcs.wcs.lng, wcs.wcs.lat))
    sky_world = np.stack([world[axis] for axis in axes])
    if np.isnan(sky_world).any() and not _depend_on_others(wcs, axes):
        sky_pixels = np.stack([pixels[axis] for axis in axes])
        sky_world = complete_sky(celestial_of(wcs), sky_pixels, sky_world, image)
    return sky_world[axes.index(wcs.wcs.lng)], sky_world[axes.index(wcs.wcs.lat)]


def _depend_on_others(wcs: WCS, axes: Sequence[int]) -> bool:
    """Return whether world coordinates along some axes depend on pixels along the others."""
    others = [axis for axis in range(wcs.naxis) if axis not in axes]
    return bool((wcs.wcs.get_pc()[axes] != 0)[:, others].any())


def _add_missing_table(wcs: WCS) -> WCS:
    """Add a table of zeros if only one axis has a detector's: else astropy ignores that."""
    if (wcs.det2im1 is None) == (wcs.det2im2 is None):
        return wcs
    completed = wcs.deepcopy()
    zeros = DistortionLookupTable(np.zeros((1, 1), np.float32), (0, 0), (0, 0), (1, 1))
    setattr(completed, "det2im1" if completed.det2im1 is None else "det2im2", zeros)
    return completed


def _find_unconverged(error: NoConvergence) -> npt.NDArray[np.bool_]:
    """Return which positions did not converge."""
    unconverged = np.zeros(len(error.best_solution), bool)
    for positions in (error.divergent, error.slow_conv):
        if positions is not None:
            unconverged[positions] = True
    return unconverged


def check_copies(wcs: WCS, where: str) -> None:
    """Raise FitsFormatError if astropy cannot copy a WCS, without which no positions are found.

    That is so of polynomials (TPV, TPD) in a cube: wcslib copies them for two axes only.
    """
    try:
        copy.deepcopy(wcs.wcs)
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{where}: astropy cannot copy the WCS: {one_line(error)}") from error
