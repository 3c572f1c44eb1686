"""The WCS of a box of an image, and of evenly spaced pixels of it.

Pixel p of the image, from 1 as CRPIX counts, is pixel q of the result; its first pixel is `origin`
of the image, from 0, and there are `step` pixels of the image from one to the next:

    q = (p - origin - 1) / step + 1

NumPy order is the reverse of the order of FITS, which the keywords have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS, DistortionLookupTable, Sip

Floats = npt.NDArray[np.float64]

_SIP_POLYNOMIALS = (("a", 0), ("b", 1), ("ap", 0), ("bp", 1))
"""The polynomials of SIP, and the axis along which each moves a pixel."""

_TABLES_OF_AXIS = (("cpdis1", "det2im1"), ("cpdis2", "det2im2"))
"""The attributes with distortion tables, of the first and the second axis."""


def moved(wcs: WCS, origin: Sequence[int], shape: tuple[int, ...]) -> WCS:
    """Make the WCS of a box of pixels.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        WCS of the image.
    origin : sequence of int
        Pixel of the image that is the box's first, along each axis in NumPy order.
    shape : tuple of int
        Shape of the box, NumPy order.
    """
    return resampled(wcs, origin, (1,) * len(origin), shape)


def resampled(
    wcs: WCS, origin: Sequence[float], step: Sequence[float], shape: tuple[int, ...]
) -> WCS:
    """Make the WCS of evenly spaced pixels of an image: of every second one, or of bins of them.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        WCS of the image.
    origin, step : sequence of float
        Pixel of the image that is the first along each axis, and from one to the next, in
        NumPy order.
    shape : tuple of int
        Shape of the result, NumPy order.
    """
    # In the order of FITS; the WCS may have fewer axes than the image, or more.
    first = np.zeros(wcs.naxis)
    scale = np.ones(wcs.naxis)
    for axis, (start, stride) in enumerate(zip(reversed(origin), reversed(step), strict=True)):
        if axis < wcs.naxis:
            first[axis] = start
            scale[axis] = stride
    result = wcs.deepcopy()
    result.wcs.crpix = _resample_position(wcs.wcs.crpix, first, scale)
    # Without a change the matrix keeps the form that the header gives it.
    if (scale != 1).any():
        _scale_matrix(result, scale)
    result.array_shape = shape if wcs.naxis == len(shape) else None
    # Distortions are of the first two axes.
    if wcs.sip is not None:
        result.sip = _resample_sip(wcs.sip, first[:2], scale[:2])
    for axis, names in enumerate(_TABLES_OF_AXIS):
        for name in names:
            if (table := getattr(wcs, name)) is not None:
                setattr(result, name, _resample_table(table, axis, first[:2], scale[:2]))
    return result


def _resample_position(position: Floats, first: Floats, scale: Floats) -> Floats:
    """Return where a position, which counts from 1, is among evenly spaced pixels."""
    offset: Floats = position - first
    # The same formula, but exact if nothing is scaled.
    return np.where(scale == 1, offset, (offset - 1) / scale + 1)


def _scale_matrix(wcs: WCS, scale: Floats) -> None:
    """Make the pixels of a WCS larger along each axis, in place."""
    if wcs.wcs.has_cd():
        wcs.wcs.cd *= scale
        return
    matrix = wcs.wcs.get_pc() * scale
    # `get_pc` includes the rotation of CROTAn, which must not count twice.
    if wcs.wcs.has_crota():
        del wcs.wcs.crota
    wcs.wcs.pc = matrix


def _resample_sip(sip: Sip, first: Floats, scale: Floats) -> Sip:
    """Make the SIP polynomials of evenly spaced pixels."""
    polynomials = []
    for name, axis in _SIP_POLYNOMIALS:
        coefficients = getattr(sip, name)
        if coefficients is not None:
            # The term of x^p y^q moves pixels of the image, by pixels of the image.
            p, q = np.indices(coefficients.shape)
            coefficients = coefficients * (scale[0] ** p * scale[1] ** q / scale[axis])
        polynomials.append(coefficients)
    return Sip(*polynomials, _resample_position(sip.crpix, first, scale))


def _resample_table(
    table: DistortionLookupTable, axis: int, first: Floats, scale: Floats
) -> DistortionLookupTable:
    """Make a distortion table of evenly spaced pixels: it counts in pixels, and holds pixels."""
    crval = tuple(_resample_position(table.crval, first, scale))
    cdelt = tuple(np.asarray(table.cdelt) / scale)
    data = np.float32(table.data / scale[axis])
    return DistortionLookupTable(data, table.crpix, crval, cdelt)
