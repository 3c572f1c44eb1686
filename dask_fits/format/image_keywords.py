"""The keywords that describe an image; those of a compressed one have the prefix Z."""

from __future__ import annotations

import math

from dask_fits.format.header import RawHeader
from dask_fits.format.scaling import STORED_DTYPES, Scaling

_MAX_NAXIS = 999
"""Standard 4.0, section 4.4.1.1."""

_MAX_NDIM = 64
"""Axes of a NumPy array at most."""

_MAX_PIXELS = (1 << 63) // 8 - 1
"""Pixels of an image at most: NumPy counts the bytes of an array, 8 to a pixel, in 63 bits."""


def read_lengths(header: RawHeader, *, prefix: str = "") -> tuple[int, ...]:
    """Read NAXISn, the lengths of the axes, in FITS order."""
    keyword = f"{prefix}NAXIS"
    naxis = header.integer(keyword)
    if not 0 <= naxis <= _MAX_NAXIS:
        raise header.keyword_error(keyword, naxis, f"0 to {_MAX_NAXIS}")
    lengths = tuple(header.integer(f"{keyword}{n}") for n in range(1, naxis + 1))
    for n, length in enumerate(lengths, 1):
        if length < 0:
            raise header.keyword_error(f"{keyword}{n}", length, "0 or more")
    return lengths


def image_shape(
    lengths: tuple[int, ...], header: RawHeader, *, prefix: str = ""
) -> tuple[int, ...]:
    """Return the shape of an image with these NAXISn, in NumPy order; ``()`` if NAXIS = 0."""
    # Compressed images (prefix Z) need an axis more: decoding puts the tiles along it.
    max_ndim = _MAX_NDIM - len(prefix)
    if len(lengths) > max_ndim:
        raise header.keyword_error(f"{prefix}NAXIS", len(lengths), f"at most {max_ndim} axes")
    # NumPy's limit holds for the other axes even if one has length 0.
    if math.prod(filter(None, lengths)) > _MAX_PIXELS:
        raise header.keyword_error(f"{prefix}NAXISn", lengths, f"at most {_MAX_PIXELS} pixels")
    return lengths[::-1]


def read_bitpix(header: RawHeader, *, prefix: str = "") -> int:
    """Read BITPIX."""
    keyword = f"{prefix}BITPIX"
    bitpix = header.integer(keyword)
    if bitpix not in STORED_DTYPES:
        raise header.keyword_error(keyword, bitpix, "one of " + ", ".join(map(str, STORED_DTYPES)))
    return bitpix


def read_scaling(header: RawHeader, bitpix: int, *, blank: int | None) -> Scaling:
    """Read BSCALE and BZERO, and join them with BITPIX and BLANK."""
    bscale = read_number(header, "BSCALE", default=1)
    bzero = read_number(header, "BZERO", default=0)
    return Scaling(bitpix, bscale, bzero, blank)


def read_number(header: RawHeader, keyword: str, *, default: float) -> float:
    """Read a keyword that holds a finite number; `default` if it is absent."""
    value = header.value(keyword) if keyword in header else default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise header.keyword_error(keyword, value, "a number")
    return value


def read_blank(header: RawHeader, keyword: str) -> int | None:
    """Read BLANK or ZBLANK; None if it is absent or no integer."""
    value = header.value(keyword)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
