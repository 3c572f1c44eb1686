"""The stored value of a physical fill value, for pixels outside the image."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dask_fits.exceptions import NotAnImageError
from dask_fits.file.hdu import HDU
from dask_fits.format.scaling import Scaling


def stored_fill(hdu: HDU, value: Fraction | float | None) -> int | float:
    """Return the stored value for pixels outside the image, from their physical value.

    Parameters
    ----------
    hdu : HDU
        The image.
    value : Fraction, float or None
        Physical value; None and NaN are an undefined pixel, which is BLANK for integers.

    Returns
    -------
    int or float
        For floats the nearest one, for integers the one that has exactly this physical value, if
        BSCALE and BZERO are taken as the decimal numbers that Python prints.

    Raises
    ------
    ValueError
        No stored value has this physical value.
    NotAnImageError
        The HDU has no pixels.
    """
    if hdu.layout.image is None:
        raise NotAnImageError(f"{hdu.where}: expected an image, found {hdu.kind}")
    scaling = hdu.layout.image.scaling
    try:
        if scaling.bitpix < 0:
            return _stored_float(scaling, math.nan if value is None else float(value))
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _stored_blank(scaling)
        return _stored_integer(scaling, value)
    except ValueError as error:
        raise ValueError(f"{hdu.where}: {error}") from None


def _stored_float(scaling: Scaling, value: float) -> float:
    """Return the stored float that is nearest to a physical value."""
    with np.errstate(all="ignore"):
        stored = np.divide(value - scaling.bzero, scaling.bscale).astype(scaling.stored)
    if math.isfinite(value) and not np.isfinite(stored):
        raise ValueError(f"{value} is beyond what pixels of type {scaling.dtype} hold")
    return float(stored)


def _stored_blank(scaling: Scaling) -> int:
    """Return BLANK, if pixels can have it."""
    limits = np.iinfo(scaling.stored)
    if scaling.blank is None or not limits.min <= scaling.blank <= limits.max:
        raise ValueError("integers without BLANK have no undefined pixels; a number is needed")
    return scaling.blank


def _stored_integer(scaling: Scaling, value: Fraction | float) -> int:
    """Return the stored integer that has exactly a physical value."""
    limits = np.iinfo(scaling.stored)
    stored = None
    if scaling.bscale and math.isfinite(value):
        # In fractions, for which 0.1 is a tenth: as floats few values would be met exactly.
        physical = _decimal(value)
        stored = (physical - _decimal(scaling.bzero)) / _decimal(scaling.bscale)
    if stored is None or stored.denominator > 1 or not limits.min <= stored <= limits.max:
        raise ValueError(
            f"no stored integer of {8 * scaling.stored.itemsize} bits stands for {float(value)}, "
            f"with BSCALE = {scaling.bscale} and BZERO = {scaling.bzero}"
        )
    if stored == scaling.blank:
        raise ValueError(f"{float(value)} is stored as {stored}, which is BLANK")
    return int(stored)


def _decimal(number: Fraction | float) -> Fraction:
    """Return a number exactly as Python prints it in decimal."""
    return number if isinstance(number, Fraction) else Fraction(repr(number))
