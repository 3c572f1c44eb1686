"""The stored value that stands for a physical one, for pixels that no image has."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from dask_fits.exceptions import NotAnImageError
from dask_fits.file.hdu import HDU
from dask_fits.format.scaling import Scaling


def stored_fill(hdu: HDU, value: Fraction | float | None) -> int | float:
    """Find the stored value that stands for a physical one, for pixels off the image.

    Parameters
    ----------
    hdu : HDU
        The image.
    value : Fraction, float or None
        Physical value; None and NaN are an undefined pixel, which of integers is BLANK.

    Returns
    -------
    int or float
        Of floats the nearest one, of integers the one that has exactly this physical value, where
        BSCALE and BZERO are the decimal numbers that they are printed as.

    Raises
    ------
    ValueError
        No stored value stands for it.
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
    with np.errstate(all="ignore"):
        found = np.divide(value - scaling.bzero, scaling.bscale).astype(scaling.stored)
    if math.isfinite(value) and not np.isfinite(found):
        raise ValueError(f"{value} is beyond what pixels of type {scaling.dtype} hold")
    return float(found)


def _stored_blank(scaling: Scaling) -> int:
    limits = np.iinfo(scaling.stored)
    if scaling.blank is None or not limits.min <= scaling.blank <= limits.max:
        raise ValueError("integers without BLANK have no undefined pixels; a number is needed")
    return scaling.blank


def _stored_integer(scaling: Scaling, value: Fraction | float) -> int:
    limits = np.iinfo(scaling.stored)
    found = None
    if scaling.bscale and math.isfinite(value):
        exact, bscale, bzero = (
            number if isinstance(number, Fraction) else Fraction(repr(number))
            for number in (value, scaling.bscale, scaling.bzero)
        )
        found = (exact - bzero) / bscale
    if found is None or found.denominator > 1 or not limits.min <= found <= limits.max:
        raise ValueError(
            f"no stored integer of {8 * scaling.stored.itemsize} bits stands for {float(value)}, "
            f"with BSCALE = {scaling.bscale} and BZERO = {scaling.bzero}"
        )
    if found == scaling.blank:
        raise ValueError(f"{float(value)} is stored as {found}, which is BLANK")
    return int(found)
