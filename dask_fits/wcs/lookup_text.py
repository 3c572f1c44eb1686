"""Distortions by lookup table of astropy's WCS, as cards and HDUs.

The convention is that of the FITS Distortion Paper (Calabretta et al. 2004): CPDISn = 'LOOKUP', and
DPn with a table of the EXTNAME WCSDVARR; STScI's D2IMDISn in the same form, with D2IMARR.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable

LOOKUP_NAMES = ("WCSDVARR", "D2IMARR")
"""EXTNAMEs of tables of distortions."""

_Tables = tuple[str, str, str, tuple[DistortionLookupTable | None, ...]]


def lookup_cards(wcs: WCS) -> list[str]:
    """Return the cards by which a header refers to the tables of `lookup_hdus`."""
    return [
        card
        for kind, record, _, tables in _kinds(wcs)
        for axis, table in enumerate(tables, 1)
        if table is not None
        for card in (
            f"{f'{kind}{axis}':<8}= 'LOOKUP  '",
            f"{f'{record}{axis}':<8}= 'EXTVER: {axis}'",
            f"{f'{record}{axis}':<8}= 'NAXES: 2'",
            f"{f'{record}{axis}':<8}= 'AXIS.1: 1'",
            f"{f'{record}{axis}':<8}= 'AXIS.2: 2'",
        )
    ]


def lookup_hdus(wcs: WCS) -> bytes:
    """Return the bytes of the HDUs of the tables: the EXTVER of each is the axis."""
    made = [
        _hdu(table, name, axis)
        for _, _, name, tables in _kinds(wcs)
        for axis, table in enumerate(tables, 1)
        if table is not None
    ]
    if not made:
        return b""
    file = io.BytesIO()
    primary = fits.PrimaryHDU()
    fits.HDUList([primary, *made]).writeto(file)
    return file.getvalue()[len(primary.header.tostring()) :]


def _kinds(wcs: WCS) -> Iterator[_Tables]:
    """Yield the keywords, the EXTNAME and the tables of both kinds of distortion."""
    yield "CPDIS", "DP", "WCSDVARR", (wcs.cpdis1, wcs.cpdis2)
    yield "D2IMDIS", "D2IM", "D2IMARR", (wcs.det2im1, wcs.det2im2)


def _hdu(table: DistortionLookupTable, name: str, axis: int) -> fits.ImageHDU:
    """Make the HDU of a table."""
    hdu = fits.ImageHDU(table.data, name=name, ver=axis)
    for keyword, values in (("CRPIX", table.crpix), ("CRVAL", table.crval), ("CDELT", table.cdelt)):
        for n, value in enumerate(values, 1):
            hdu.header[f"{keyword}{n}"] = float(value)
    return hdu
