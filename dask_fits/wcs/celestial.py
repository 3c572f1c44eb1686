"""The celestial axes of a header by themselves: they find positions, whatever the others are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from astropy.io import fits

_LONGITUDE = re.compile(r"(?:RA|[A-Z]LON|[A-Z]{2}LN)(?:-+[A-Z0-9]{3}(?:-SIP)?)?")
_LATITUDE = re.compile(r"(?:DEC|[A-Z]LAT|[A-Z]{2}LT)(?:-+[A-Z0-9]{3}(?:-SIP)?)?")
"""CTYPEn of a celestial axis (FITS Standard 4.0, section 8.3)."""

_OF_AXES = re.compile(
    r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI|CPDIS|CPERR|"
    r"CQDIS|CQERR|D2IMDIS|D2IMERR|DP|DQ|D2IM|PC|CD|PV|PS)(\d+)(_\d+)?([A-Z]?)(?:\..*)?"
)
"""Keywords of an axis, or of two, and the letter of an alternate WCS."""

_DISTORTION = re.compile(r"[AB]P?_ORDER|C[PQ]DIS\d+|D2IMDIS\d+|AXISCORR")
"""Keywords of distortions, which astropy knows along the first two axes only."""

_MATRIX = re.compile(r"(PC|CD)(?:(\d+)_(\d+)|(\d{3})(\d{3}))")
"""Elements of the matrix from pixels to the world, as they are written now and as they were."""

_OF_OTHERS = re.compile(
    r"WCSAXES[A-Z]?|REST(?:FRQ|FREQ|WAV)[A-Z]?|SPECSYS[A-Z]?|SSYS(?:OBS|SRC)[A-Z]?|"
    r"VEL(?:REF|OSYS|ANGL)[A-Z]?|[ZV]SOU(?:RCE)?[A-Z]?|"
    r"PLT\w*|PLATE\w*|AMD\w*|PPO\d+|CNPIX\d|[XY]PIXELSZ"
)
"""Keywords of spectra, and of a solution of a photographic plate: CTYPEn tells another one."""


def celestial_part(header: fits.Header) -> tuple[fits.Header, tuple[int, int]] | None:
    """Make a header of the two celestial axes of another one's primary WCS.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Of an image, with NAXISn.

    Returns
    -------
    header : astropy.io.fits.Header
        Its axes 1 and 2 are the celestial ones, in their order.
    axes : (int, int)
        Which axes these are in the other one, from 1.

    None where there are not two, where they depend on pixels along other axes, or have a distortion
    that is not astropy's.
    """
    axes = _axes(header)
    if axes is None or (axes != (1, 2) and any(map(_DISTORTION.fullmatch, header))):
        return None
    number = {axes[0]: 1, axes[1]: 2}
    cards = [fits.Card("NAXIS", 2)]
    for card in header.cards:
        if match := _MATRIX.fullmatch(card.keyword):
            world, pixel = (int(n) for n in match.groups()[1:] if n)
            if world in number and pixel in number:
                keyword = f"{match[1]}{number[world]}_{number[pixel]}"
                cards.append(fits.Card(keyword, card.value, card.comment))
            elif world in number and card.value:
                return None
        elif match := _OF_AXES.fullmatch(card.keyword):
            if (axis := int(match[2])) in number and not match[4]:
                cards.append(_renumbered(card, match, number[axis]))
        elif card.keyword != "NAXIS" and not _OF_OTHERS.fullmatch(card.keyword):
            cards.append(card)
    return fits.Header(cards), axes


def _renumbered(card: fits.Card, match: re.Match[str], axis: int) -> fits.Card:
    """Give a card of one axis the number that this has now."""
    if int(match[2]) == axis:
        return card
    return fits.Card(f"{match[1]}{axis}{match[3] or ''}", card.value, card.comment)


def _axes(header: fits.Header) -> tuple[int, int] | None:
    """Find the axes of longitude and latitude, in their order; None where there is not one each."""
    longitudes, latitudes = [], []
    for number, name in _ctypes(header):
        if _LONGITUDE.fullmatch(name):
            longitudes.append(number)
        elif _LATITUDE.fullmatch(name):
            latitudes.append(number)
    if len(longitudes) != 1 or len(latitudes) != 1:
        return None
    first, second = sorted(longitudes + latitudes)
    return first, second


def _ctypes(header: fits.Header) -> Iterator[tuple[int, str]]:
    for keyword in header:
        if match := re.fullmatch(r"CTYPE(\d+)", keyword):
            yield int(match[1]), str(header[keyword]).strip().upper()
