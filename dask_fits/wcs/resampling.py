"""The WCS of a box of an image, and of every n-th of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS, DistortionLookupTable, Sip


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
    return resampled(wcs, origin, (1,) * len(origin), shape)


def resampled(
    wcs: WCS, origin: Sequence[float], step: Sequence[float], shape: tuple[int, ...]
) -> WCS:
    """Make the WCS of evenly spaced pixels of an image: of every second one, or of bins of them.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Of the image.
    origin, step : sequence of float
        Pixel of the image that is the first along each axis, and from one to the next, in
        NumPy order.
    shape : tuple of int
        Of what is made, NumPy order.
    """
    found = wcs.deepcopy()
    by, scale = np.zeros(wcs.naxis), np.ones(wcs.naxis)
    for axis, (start, stride) in enumerate(zip(reversed(origin), reversed(step), strict=True)):
        if axis < wcs.naxis:
            by[axis], scale[axis] = start, stride
    found.wcs.crpix = _among(wcs.wcs.crpix, by, scale)
    if (scale != 1).any():
        _scale(found, scale)
    found.array_shape = shape if wcs.naxis == len(shape) else None
    if wcs.sip is not None:
        found.sip = _resampled_sip(wcs.sip, by[:2], scale[:2])
    # Tables of distortions count in pixels of the image, too, and hold pixels.
    for axis, names in enumerate((("cpdis1", "det2im1"), ("cpdis2", "det2im2"))):
        for name in names:
            if (table := getattr(wcs, name)) is not None:
                crval = tuple(_among(table.crval, by[:2], scale[:2]))
                cdelt = tuple(np.asarray(table.cdelt) / scale[:2])
                data = np.float32(table.data / scale[axis])
                setattr(found, name, DistortionLookupTable(data, table.crpix, crval, cdelt))
    return found


def _among(
    position: Any, by: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Find where a position, which counts from 1, is among evenly spaced pixels."""
    moved_by: npt.NDArray[np.float64] = position - by
    return np.where(scale == 1, moved_by, (moved_by - 1) / scale + 1)


def _scale(wcs: WCS, scale: npt.NDArray[np.float64]) -> None:
    """Make the pixels larger along each axis."""
    if wcs.wcs.has_cd():
        wcs.wcs.cd *= scale
        return
    matrix = wcs.wcs.get_pc() * scale
    if wcs.wcs.has_crota():
        del wcs.wcs.crota
    wcs.wcs.pc = matrix


def _resampled_sip(sip: Sip, by: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> Sip:
    """Make the SIP polynomials of evenly spaced pixels."""

    def scaled(coefficients: Any, axis: int) -> Any:
        if coefficients is None:
            return None
        x, y = np.indices(coefficients.shape)
        return coefficients * (scale[0] ** x * scale[1] ** y / scale[axis])

    crpix = _among(sip.crpix, by, scale)
    return Sip(*(scaled(getattr(sip, name), axis) for name, axis in _SIP), crpix)


_SIP = (("a", 0), ("b", 1), ("ap", 0), ("bp", 1))
"""The polynomials of SIP, and the axis along which each moves a pixel."""
