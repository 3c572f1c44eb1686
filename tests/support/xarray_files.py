"""Files for xarray, and their axes."""

from __future__ import annotations

from typing import Any

from astropy.io import fits
from astropy.wcs import WCS

from tests.support.worlds import Keywords

SHAPE = (12, 16)


def sky(ra: float = 150.0, shape: tuple[int, int] = SHAPE, **keywords: Any) -> fits.Header:
    """The header of a TAN image with pixels of a second of arc."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, 2.0]
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600]
    header = wcs.to_header()
    header.update(keywords)
    return header


def axis(
    n: int, ctype: str, crval: float = 2.0, cdelt: float = 0.25, cunit: str = "", crpix: float = 3.0
) -> Keywords:
    """Keywords of one axis."""
    found = {"CTYPE": ctype, "CRVAL": crval, "CDELT": cdelt, "CUNIT": cunit, "CRPIX": crpix}
    return {f"{key}{n}": value for key, value in found.items()}
