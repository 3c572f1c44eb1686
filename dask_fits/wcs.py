"""World coordinates of an HDU, through astropy's WCS; the only importer of astropy.wcs."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import ConvertError, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable, NoConvergence, Sip
from astropy.wcs.utils import (
    proj_plane_pixel_scales,
    skycoord_to_pixel,
    wcs_to_celestial_frame,
)

from dask_fits.exceptions import FitsFormatError
from dask_fits.file import HDU
from dask_fits.format.header import BLOCK, CARD
from dask_fits.format.tiles import TiledLayout
from dask_fits.wcs_tables import check_coordinate_tables, read_tables

_RELEVANT = re.compile(
    rb"NAXIS|WCS|CRPIX|PC\d|CD\d|CDELT|CROTA|CUNIT|CTYPE|CRVAL|CNAME|CRDER|CSYER|CZPHS|CPERI|CUBEFACE|"
    rb"PV\d|PS\d|PROJP|LON|LAT|RADE|EQUI|EPOCH|SPECSYS|SSYS|VEL|ZSOU|VSOU|REST|OBSGEO|OBSORB|"
    rb"TIM|TREF|PLEPH|DATE|MJD|JD|[JB]EPOCH|TSTART|TSTOP|XPOSURE|TELAPSE|"
    rb"CPDIS|CPERR|CQDIS|CQERR|DP|DQ|DVERR|D2IM|AXISCORR|[AB]P?_|WAT|"
    rb"PLT|PLATE|AMD|PPO|CNPIX|[XY]PIXEL|RSUN|DSUN|CRL|HGL|C_RADIUS|BLON|BLAT|BDIS",
    re.IGNORECASE,
)
"""How the keywords begin that wcslib's parser of headers, or astropy's WCS around it, looks at, and
some more; `A_RADIUS` and `B_RADIUS` look like SIP's."""

_MOST_AXES = 32
"""Axes that a WCS of wcslib has at most."""


def read_wcs(hdu: HDU, key: str = " ") -> WCS:
    """Make the WCS of an HDU, with the tables of the file's other HDUs that it refers to.

    Those are read here: of -TAB coordinates (FITS Standard 4.0, section 8.2), and of distortions by
    lookup table (CPDISn = 'LOOKUP', D2IMDISn), as HST has them.

    Parameters
    ----------
    hdu : HDU
    key : str
        Letter of an alternate WCS; a blank for the primary one.

    Raises
    ------
    FitsFormatError
        The keywords make no WCS, or refer to an HDU that the file does not have.
    TruncatedFileError, FileChangedError, StorageError
        Such an HDU cannot be had.
    """
    header, letter = _wcs_header(hdu), key.strip()
    _check_axes(header, letter, hdu.where)
    tables = read_tables(hdu, header, letter)
    check_coordinate_tables(header, letter, tables, hdu.where)
    try:
        return WCS(header, fobj=tables, key=key or " ")
    except Exception as error:  # astropy raises whatever it stumbles on
        what = f"alternate WCS {key!r}" if letter else "WCS"
        said = " ".join(str(error).split()) or type(error).__name__
        raise FitsFormatError(f"{hdu.where}: the keywords make no {what}: {said}") from error


def _wcs_header(hdu: HDU) -> fits.Header:
    """Make a header of the keywords that a WCS may depend on; of a long one astropy is slow."""
    text = hdu.header_text
    kept, continued = [], False
    for start in range(0, len(text), CARD):
        card = text[start : start + CARD]
        if not (continued and card.startswith(b"CONTINUE")):
            continued = _RELEVANT.match(card) is not None
        if continued:
            kept.append(card)
    content = b"".join([*kept, b"END".ljust(CARD)])
    content += b" " * (-len(content) % BLOCK)
    header = fits.Header.fromfile(io.BytesIO(content))
    if isinstance(hdu.layout.image, TiledLayout):
        # Its keywords are the image's, but for those of the table that it is in.
        del header["NAXIS*"]
        shape = hdu.layout.image.shape
        axes = [("NAXIS", len(shape))]
        axes += [(f"NAXIS{n}", length) for n, length in enumerate(reversed(shape), 1)]
        header = fits.Header([*(fits.Card(*axis) for axis in axes), *header.cards])
    return header


def _check_axes(header: fits.Header, key: str, where: str) -> None:
    """Raise where WCSAXES is so large that astropy hangs over it, or ends the process."""
    axes = header.get(f"WCSAXES{key}", 0)
    if isinstance(axes, int) and axes > _MOST_AXES:
        raise FitsFormatError(
            f"{where}: the keywords make no WCS: WCSAXES{key} = {axes}, expected at most "
            f"{_MOST_AXES}, which is what astropy takes"
        )


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


def to_pixels(wcs: WCS, positions: SkyCoord) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Find the pixels of positions on the sky, distortions included.

    As `astropy.wcs.utils.skycoord_to_pixel`, which however gives y before x where the latitude is
    the first of the WCS's axes.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial.
    positions : SkyCoord

    Returns
    -------
    x, y : float64 arrays of the shape of `positions`
        Counted from 0, along the two axes of `sky_axes`; NaN where the projection has no such
        position, or the distortion cannot be inverted there.

    Raises
    ------
    ValueError
        The WCS is not celestial, or of a frame that astropy cannot transform to.
    """
    try:
        found: Any = _two_axes(wcs, positions) if wcs.naxis == 2 else _more_axes(wcs, positions)
    except NoConvergence as error:
        found = np.where(_lost(error), np.nan, error.best_solution.T).reshape(2, *positions.shape)
    except (
        ConvertError,
        TypeError,
        NotImplementedError,
    ) as error:  # of planets, and what astropy lacks of them
        raise ValueError(f"WCS: astropy cannot transform to its frame: {error}") from error
    x, y = (np.asarray(values, np.float64) for values in found)
    return x, y


def _two_axes(wcs: WCS, positions: SkyCoord) -> Sequence[Any]:
    if not wcs.has_celestial:
        raise ValueError("WCS: expected celestial coordinates, found none")
    found = positions.transform_to(wcs_to_celestial_frame(wcs))
    try:
        lon, lat = found.data.lon, found.data.lat
    except AttributeError:  # it is not spherical
        lon, lat = found.spherical.lon, found.spherical.lat
    world = (lat, lon) if wcs.wcs.lng > wcs.wcs.lat else (lon, lat)
    units = [u.Unit(unit) for unit in wcs.wcs.cunit]
    values = (value.to_value(unit) for value, unit in zip(world, units, strict=True))
    pixels: Sequence[Any] = _with_both_tables(wcs).all_world2pix(*values, 0)
    return pixels


def _more_axes(wcs: WCS, positions: SkyCoord) -> Sequence[Any]:
    # It puts the longitude first, and the pixel axes likewise.
    found: Sequence[Any] = skycoord_to_pixel(positions, wcs, mode="all")
    return found[::-1] if wcs.wcs.lng > wcs.wcs.lat else found


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


def size_in_pixels(size: Any, wcs: WCS) -> tuple[int, int]:
    """Resolve the size of a cutout as `astropy.nddata.Cutout2D` does.

    Parameters
    ----------
    size : number, Quantity, or two of them
        Height and width, in pixels or as angles.
    wcs : astropy.wcs.WCS
        Tells the pixels in an angle.

    Returns
    -------
    height, width : int

    Raises
    ------
    ValueError
        It is not one or two finite lengths of at least one pixel.
    """
    height, width = (_length(side, axis, wcs) for axis, side in enumerate(_sides(size)))
    return height, width


def is_angular(size: Any) -> bool:
    """Whether a size needs a WCS to be resolved: one of its sides is an angle."""
    return any(
        isinstance(side, u.Quantity) and side.unit.physical_type == "angle" for side in _sides(size)
    )


def _sides(size: Any) -> Sequence[Any]:
    """Take height and width apart."""
    if np.isscalar(size):
        return [size, size]
    if isinstance(size, u.Quantity) and size.size == 1:
        return [size.reshape(()), size.reshape(())]
    sides = list(size)
    if len(sides) != 2:
        raise ValueError(f"size: expected one or two lengths, found {len(sides)}")
    return sides


def _length(side: Any, axis: int, wcs: WCS) -> int:
    pixels = side
    if isinstance(side, u.Quantity):
        if side.unit == u.pixel:
            pixels = side.value
        elif side.unit.physical_type == "angle":
            if not wcs.has_celestial:
                raise ValueError("size: an angle needs celestial coordinates; give it in pixels")
            # Cutout2D counts the height by the scale of the first axis, and the width by that of
            # the second.
            sky = wcs.celestial if wcs.naxis > 2 else wcs
            scale = u.Quantity(proj_plane_pixel_scales(sky)[axis], sky.wcs.cunit[axis])
            pixels = (side / scale).decompose().value
        else:
            raise ValueError(f"size: expected pixels or an angle, found {side.unit}")
    if not isinstance(pixels, int) and not np.isfinite(pixels):
        raise ValueError(f"size: expected a finite length, found {side}")
    found = pixels if isinstance(pixels, int) else int(np.round(pixels))
    if found < 1:
        raise ValueError(f"size: expected at least one pixel, found {side}")
    return found


def moved(wcs: WCS, origin: Sequence[int], shape: tuple[int, ...]) -> WCS:
    """Make the WCS of a box of pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the image.
    origin : sequence of int
        Pixel of the image that is the box's first, along each axis in NumPy order.
    shape : tuple of int
        Of the box, NumPy order.
    """
    found = wcs.deepcopy()
    by = np.zeros(wcs.naxis)
    for axis, start in enumerate(reversed(origin[-wcs.naxis :])):
        by[axis] = start
    found.wcs.crpix -= by
    found.array_shape = shape if wcs.naxis == len(shape) else None
    if wcs.sip is not None:
        sip = wcs.sip
        found.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - by[:2])
    # Tables of distortions count in pixels of the image, too.
    for name in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        if (table := getattr(wcs, name)) is not None:
            crval = tuple(np.subtract(table.crval, by[:2]))
            setattr(found, name, DistortionLookupTable(table.data, table.crpix, crval, table.cdelt))
    return found
