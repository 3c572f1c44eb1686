"""The celestial axes of a header by themselves: they find positions, whatever the others are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from astropy.io import fits

_LONGITUDE = re.compile(r"(?:RA|[A-Z]LON|[A-Z]{2}LN)(?:-+[A-Z0-9]{3}(?:-SIP)?)?")
"""CTYPEn of a celestial longitude (FITS Standard 4.0, section 8.3)."""

_LATITUDE = re.compile(r"(?:DEC|[A-Z]LAT|[A-Z]{2}LT)(?:-+[A-Z0-9]{3}(?:-SIP)?)?")
"""CTYPEn of a celestial latitude."""

_AXIS_KEYWORD = re.compile(
    r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA|CNAME|CRDER|CSYER|CZPHS|CPERI|CPDIS|CPERR|"
    r"CQDIS|CQERR|D2IMDIS|D2IMERR|DP|DQ|D2IM|PC|CD|PV|PS)(\d+)(_\d+)?([A-Z]?)(?:\..*)?"
)
"""Keywords of an axis: what they begin with, the axis, a second number, the letter of an alternate
WCS."""

_DISTORTION_KEYWORD = re.compile(r"[AB]P?_ORDER|C[PQ]DIS\d+|D2IMDIS\d+|AXISCORR")
"""Keywords of distortions, which astropy knows along the first two axes only."""

_MATRIX_KEYWORD = re.compile(r"(PC|CD)(?:(\d+)_(\d+)|(\d{3})(\d{3}))")
"""Elements of the matrix from pixels to the world, as they are written now and as they were."""

_OTHER_KEYWORD = re.compile(
    r"WCSAXES[A-Z]?|REST(?:FRQ|FREQ|WAV)[A-Z]?|SPECSYS[A-Z]?|SSYS(?:OBS|SRC)[A-Z]?|"
    r"VEL(?:REF|OSYS|ANGL)[A-Z]?|[ZV]SOU(?:RCE)?[A-Z]?|"
    r"PLT\w*|PLATE\w*|AMD\w*|PPO\d+|CNPIX\d|[XY]PIXELSZ"
)
"""Keywords of other axes without a number: of spectra, and of a photographic plate, whose solution
is another one than that of CTYPEn."""


def celestial_part(header: fits.Header) -> tuple[fits.Header, tuple[int, int]] | None:
    """Make a header of the two celestial axes of another one's primary WCS.

    Parameters
    ----------
    header : astropy.io.fits.Header
        Header of an image, with NAXISn.

    Returns
    -------
    part : astropy.io.fits.Header
        Its axes 1 and 2 are the celestial ones, in their order.
    axes : (int, int)
        The numbers of these axes in `header`, from 1.

    The result is None if there are not two such axes, if they depend on pixels along other axes, or
    if they have a distortion that is not astropy's.
    """
    axes = _find_celestial_axes(header)
    if axes is None or (axes != (1, 2) and any(map(_DISTORTION_KEYWORD.fullmatch, header))):
        return None
    new_axis = {axes[0]: 1, axes[1]: 2}
    cards = [fits.Card("NAXIS", 2)]
    for card in header.cards:
        # PC and CD are also keywords of an axis, so they come first.
        if match := _MATRIX_KEYWORD.fullmatch(card.keyword):
            world, pixel = (int(number) for number in match.groups()[1:] if number)
            if world in new_axis and pixel in new_axis:
                keyword = f"{match[1]}{new_axis[world]}_{new_axis[pixel]}"
                cards.append(fits.Card(keyword, card.value, card.comment))
            elif world in new_axis and card.value:
                return None  # it depends on pixels along another axis
        elif match := _AXIS_KEYWORD.fullmatch(card.keyword):
            if (axis := int(match[2])) in new_axis and not match[4]:
                cards.append(_renumber_card(card, match, new_axis[axis]))
        elif card.keyword != "NAXIS" and not _OTHER_KEYWORD.fullmatch(card.keyword):
            cards.append(card)
    return fits.Header(cards), axes


def _renumber_card(card: fits.Card, match: re.Match[str], axis: int) -> fits.Card:
    """Give a card of one axis, of which `match` is the keyword, another number."""
    if int(match[2]) == axis:
        return card
    return fits.Card(f"{match[1]}{axis}{match[3] or ''}", card.value, card.comment)


def _find_celestial_axes(header: fits.Header) -> tuple[int, int] | None:
    """Find the axes of longitude and latitude, in their order; None unless there is one of each."""
    longitudes = []
    latitudes = []
    for axis, name in _iterate_ctypes(header):
        if _LONGITUDE.fullmatch(name):
            longitudes.append(axis)
        elif _LATITUDE.fullmatch(name):
            latitudes.append(axis)
    if len(longitudes) != 1 or len(latitudes) != 1:
        return None
    first, second = sorted(longitudes + latitudes)
    return first, second


def _iterate_ctypes(header: fits.Header) -> Iterator[tuple[int, str]]:
    """Yield the axes of the primary WCS, and their CTYPEn in upper case."""
    for keyword in header:
        if match := re.fullmatch(r"CTYPE(\d+)", keyword):
            yield int(match[1]), str(header[keyword]).strip().upper()
