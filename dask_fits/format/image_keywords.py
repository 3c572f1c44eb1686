"""The keywords that describe an image, and a compressed one with Z before them."""

from __future__ import annotations

import math

from dask_fits.format.header import RawHeader
from dask_fits.format.scaling import STORED_DTYPES, Scaling

_MAX_NAXIS = 999
"""Standard 4.0, section 4.4.1.1."""

_MAX_NDIM = 64
"""Axes that a NumPy array can have."""

_MAX_PIXELS = (1 << 63) // 8 - 1
"""Pixels that NumPy can count the bytes of, whatever their type."""


def read_axes(header: RawHeader, *, prefix: str = "") -> tuple[int, ...]:
    """Read NAXISn, in FITS order."""
    keyword = f"{prefix}NAXIS"
    naxis = header.integer(keyword)
    if not 0 <= naxis <= _MAX_NAXIS:
        raise header.bad(keyword, naxis, f"0 to {_MAX_NAXIS}")
    axes = tuple(header.integer(f"{keyword}{n}") for n in range(1, naxis + 1))
    for n, length in enumerate(axes, 1):
        if length < 0:
            raise header.bad(f"{keyword}{n}", length, "0 or more")
    return axes


def image_shape(axes: tuple[int, ...], header: RawHeader, *, prefix: str = "") -> tuple[int, ...]:
    """Give the shape of an image of these NAXISn, in NumPy order; ``()`` where NAXIS = 0."""
    most = _MAX_NDIM - len(prefix)  # tiles are another axis while they are decoded
    if len(axes) > most:
        raise header.bad(f"{prefix}NAXIS", len(axes), f"at most {most} axes")
    if math.prod(filter(None, axes)) > _MAX_PIXELS:  # with an axis of length 0 the others may lie
        raise header.bad(f"{prefix}NAXISn", axes, f"at most {_MAX_PIXELS} pixels")
    return axes[::-1]


def read_bitpix(header: RawHeader, *, prefix: str = "") -> int:
    """Read BITPIX."""
    keyword = f"{prefix}BITPIX"
    bitpix = header.integer(keyword)
    if bitpix not in STORED_DTYPES:
        raise header.bad(keyword, bitpix, "one of " + ", ".join(map(str, STORED_DTYPES)))
    return bitpix


def read_scaling(header: RawHeader, bitpix: int, *, blank: int | None) -> Scaling:
    """Read BSCALE and BZERO."""
    bscale = read_number(header, "BSCALE", default=1)
    return Scaling(bitpix, bscale, read_number(header, "BZERO", default=0), blank)


def read_number(header: RawHeader, keyword: str, *, default: float) -> float:
    """Read a finite number."""
    value = header.value(keyword) if keyword in header else default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise header.bad(keyword, value, "a number")
    return value


def read_blank(header: RawHeader, keyword: str) -> int | None:
    """Read BLANK or ZBLANK; None where it is absent or no integer."""
    value = header.value(keyword)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
