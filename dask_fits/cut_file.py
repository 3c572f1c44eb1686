"""A cutout as a FITS file: stored values, keywords kept, world coordinates moved with them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io.fits import Card, Header
from astropy.io.fits.card import Undefined

from dask_fits.checksum import encoded, sum32
from dask_fits.exceptions import FitsFormatError, NotAnImageError
from dask_fits.file import HDU
from dask_fits.format.header import BLOCK, CARD
from dask_fits.format.scaling import Scaling
from dask_fits.wcs_tables import read_hdus, table_keys

Bytes = bytes | memoryview

_IN_PIXELS = ("WCSDVARR", "D2IMARR")
"""Tables that count in pixels of the image, by CRVALn."""

_WCS = re.compile(r"(?:CTYPE|CRVAL|CDELT|CRPIX)\d+([A-Z]?)|(?:PC|CD)\d+_\d+([A-Z]?)")
"""Keywords that make a WCS, the letter of an alternate one at their end."""

_OF_AN_IMAGE = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT")
"""Keywords that say what follows a header, which is written anew."""

_OF_A_PRIMARY_IMAGE = re.compile(
    _OF_AN_IMAGE.pattern + r"|GROUPS|BSCALE|BZERO|BLANK|(?:PTYPE|PSCAL|PZERO)\d+"
)
"""Keywords that a primary header loses with its pixels."""


def cut_fits(hdu: HDU, stored: npt.NDArray[Any], origin: Sequence[int]) -> bytes:
    """Make a FITS file of a box of an image.

    The pixels are written as they are stored, beside the header's own BSCALE, BZERO and BLANK, so
    that they are read back as they would be read from the original. CRPIXn of every WCS, LTVn and
    CNPIXn move with the pixels; CHECKSUM and DATASUM are computed anew where they were; other
    keywords stay. An image that is an extension comes after its file's primary header, and before
    the HDUs that its WCS refers to.

    Parameters
    ----------
    hdu : HDU
        The image.
    stored : array
        The box's pixels, from ``hdu.reader(mask_and_scale=False)``.
    origin : sequence of int
        Pixel of the image that is the box's first, along each axis in NumPy order; negative where
        the box reaches over the edge.

    Returns
    -------
    bytes
        A whole file. A compressed image becomes a plain one.

    Raises
    ------
    FitsFormatError
        A keyword that must be changed or written cannot be understood.
    ValueError
        The array is not one of the image's stored values, or has another number of axes.
    NotAnImageError, UnsupportedHduError
        The HDU has no pixels that can be read.
    TruncatedFileError, FileChangedError, StorageError
        An HDU that the WCS refers to cannot be had.

    Examples
    --------
    >>> import dask_fits
    >>> hdu = dask_fits.open("tests/data/m13.fits")[0]
    >>> pixels = hdu.reader(mask_and_scale=False)[100:110, 200:220]
    >>> len(cut_fits(hdu, pixels, (100, 200)))
    5760
    """
    reader = hdu.reader(mask_and_scale=False)
    if stored.ndim != reader.ndim or len(origin) != reader.ndim or stored.dtype != reader.dtype:
        raise ValueError(
            f"{_where(hdu)}: expected stored values of type {reader.dtype} along {reader.ndim} "
            f"axes, found {stored.dtype} along {stored.ndim} axes from {tuple(origin)}"
        )
    header = hdu.header
    if "ZIMAGE" in header:
        raise FitsFormatError(f"{_where(hdu)}: the header of the image cannot be restored")
    starts = [int(start) for start in reversed(origin)]
    tables = _tables(hdu, header)
    cards = _image_cards(hdu, header, stored)
    _move(cards, starts, hdu)
    if hdu.index == 0 and tables:
        _say_extend(cards)
    pixels = np.ascontiguousarray(stored, stored.dtype.newbyteorder(">"))
    units = [_unit(cards, pixels.reshape(-1).view(np.uint8).data, hdu)]
    pairs = zip(tables, read_hdus(tables), strict=True)
    units += [_table(table, content, starts) for table, content in pairs]
    if tables and tables[0].index == 0:
        units[:2] = reversed(units[:2])
    elif hdu.index:
        units.insert(0, _primary(hdu.file[0]))
    return b"".join(piece for unit in units for piece in unit)


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
        raise NotAnImageError(f"{_where(hdu)}: expected an image, found {hdu.kind}")
    scaling = hdu.layout.image.scaling
    try:
        if scaling.bitpix < 0:
            return _stored_float(scaling, math.nan if value is None else float(value))
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return _stored_blank(scaling)
        return _stored_integer(scaling, value)
    except ValueError as error:
        raise ValueError(f"{_where(hdu)}: {error}") from None


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


def _where(hdu: HDU) -> str:
    return f"{hdu.store.name}: HDU {hdu.index} ({hdu.name or 'unnamed'})"


def _tables(hdu: HDU, header: Header) -> list[HDU]:
    """Find the HDUs that some WCS of a header refers to, in the order in which they lie."""
    letters = {"", *(letter for _, letter in _of_wcs(header.cards))}
    keys = {key for letter in letters for key in table_keys(header, letter)}
    found = {hdu.file[key].index: hdu.file[key] for key in keys if key in hdu.file}
    return [found[index] for index in sorted(found) if index != hdu.index]


def _image_cards(hdu: HDU, header: Header, stored: npt.NDArray[Any]) -> list[Card]:
    """Make the cards of the box's header: those that every image has first, then what was there."""
    primary = hdu.index == 0
    values: dict[str, Any] = {"SIMPLE": True} if primary else {"XTENSION": "IMAGE"}
    values["BITPIX"] = stored.dtype.itemsize * (-8 if stored.dtype.kind == "f" else 8)
    values["NAXIS"] = stored.ndim
    values |= {f"NAXIS{n}": length for n, length in enumerate(reversed(stored.shape), 1)}
    for keyword, value in (("PCOUNT", 0), ("GCOUNT", 1)):
        if not primary or keyword in header:
            values[keyword] = value
    rest = _without(header.cards, _OF_AN_IMAGE)
    if not primary:  # of a compressed image that was a primary one
        rest = _without(rest, re.compile("EXTEND"))
    return _leading(header, values) + rest


def _primary(hdu: HDU) -> list[Bytes]:
    """Make a file's primary header, without data."""
    header = hdu.header
    cards = _leading(header, {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0})
    cards += _without(header.cards, _OF_A_PRIMARY_IMAGE)
    _say_extend(cards)
    return _unit(cards, b"", hdu)


def _leading(header: Header, values: dict[str, Any]) -> list[Card]:
    """Make cards, with the comments that their keywords had."""
    return [Card(k, v, header.comments[k] if k in header else None) for k, v in values.items()]


def _without(cards: Iterable[Card], keywords: re.Pattern[str]) -> list[Card]:
    return [card for card in cards if not keywords.fullmatch(card.keyword)]


def _say_extend(cards: list[Card]) -> None:
    """Tell that extensions follow a primary header."""
    found = [card for card in cards if card.keyword == "EXTEND"]
    for card in found:
        card.value = True
    if not found:
        leading = sum(bool(_OF_AN_IMAGE.fullmatch(card.keyword)) for card in cards)
        cards.insert(leading, Card("EXTEND", value=True))


def _of_wcs(cards: Iterable[Card]) -> list[tuple[int, str]]:
    """Find the keywords that make a WCS: where they are, and the letter; empty for the primary."""
    matches = ((n, _WCS.fullmatch(card.keyword)) for n, card in enumerate(cards))
    return [(n, match[1] or match[2] or "") for n, match in matches if match]


def _move(cards: list[Card], starts: list[int], hdu: HDU) -> None:
    """Move the keywords that count in pixels of the image; `starts` is the origin in FITS order."""
    for letter in sorted({"", *(letter for _, letter in _of_wcs(cards))}):
        # A WCS without CRPIXn has its reference at 0. An image without a WCS has pixel coordinates
        # for world coordinates, and keeps those that it had.
        places = [n for n, found in _of_wcs(cards) if found == letter]
        _subtract(cards, f"CRPIX{{}}{letter}", starts, hdu, after=max(places, default=None))
    # Logical = LTM * physical + LTV (IRAF): LTV counts in pixels of the image, whatever LTM is.
    places = [n for n, card in enumerate(cards) if re.fullmatch(r"LT[MV]\d+\S*", card.keyword)]
    if places:
        _subtract(cards, "LTV{}", starts, hdu, after=max(places))
    # The plate solutions of digitized sky surveys count from the corner of the plate.
    for card in cards:
        if card.keyword in ("CNPIX1", "CNPIX2") and len(starts) > 1:
            card.value = _number(card, hdu) + starts[int(card.keyword[-1]) - 1]


def _subtract(
    cards: list[Card], keyword: str, starts: list[int], hdu: HDU, *, after: int | None
) -> None:
    """Subtract the origin from a keyword of each axis; where it is missing it was 0."""
    place = len(cards) if after is None else after + 1
    for axis, start in enumerate(starts, 1):
        name = keyword.format(axis)
        found = [card for card in cards if card.keyword == name]
        if not start:
            continue
        for card in found:
            card.value = _number(card, hdu) - start
        if not found:
            cards.insert(place, Card(name, -start))
            place += 1


def _number(card: Card, hdu: HDU) -> int | float:
    """Get the number of a card; one without a value stands for 0."""
    try:
        value = card.value
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{_where(hdu)}: {card.keyword}: {error}") from error
    if isinstance(value, Undefined):
        return 0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FitsFormatError(
            f"{_where(hdu)}: {card.keyword}: found {value!r}, expected a number of pixels"
        )
    return value


def _table(hdu: HDU, content: bytes, starts: list[int]) -> list[Bytes]:
    """Copy an HDU that a WCS refers to; a table that counts in pixels moves with them."""
    if hdu.name.strip().upper() not in _IN_PIXELS or not any(starts):
        return [content]
    # The header as it is in the file: of a compressed table not the image's, but its own.
    cards = list(Header.fromfile(io.BytesIO(hdu.header_text)).cards)
    places = [n for n, _ in _of_wcs(cards)]
    axes = starts[: len(hdu.shape or ())]
    _subtract(cards, "CRVAL{}", axes, hdu, after=max(places, default=None))
    return _unit(cards, content[hdu.header_range.nbytes :], hdu)


def _unit(cards: list[Card], data: Bytes, hdu: HDU) -> list[Bytes]:
    """Make the bytes of an HDU, in pieces, with right checksums where it has some."""
    total = sum32(data)
    if sums := [card for card in cards if card.keyword == "DATASUM"]:
        cards = _replaced(cards, sums, Card("DATASUM", str(total), "data unit checksum"))
    if sums := [card for card in cards if card.keyword == "CHECKSUM"]:
        # The sum of the whole HDU is to be zero, so it is taken with a CHECKSUM of zeros.
        card = Card("CHECKSUM", "0" * 16, "HDU checksum")
        cards = _replaced(cards, sums, card)
        card.value = encoded(sum32(_text(cards, hdu), total))
    return [_text(cards, hdu), data, bytes(-len(data) % BLOCK)]


def _replaced(cards: list[Card], old: list[Card], new: Card) -> list[Card]:
    """Put a card in the place of the first of some others."""
    kept = [card for card in cards if card is old[0] or not any(card is other for other in old)]
    return [new if card is old[0] else card for card in kept]


def _text(cards: list[Card], hdu: HDU) -> bytes:
    """Make the blocks of a header, with what can be mended in its cards."""
    text = b"".join(_image(card, hdu) for card in cards) + b"END".ljust(CARD)
    return text + b" " * (-len(text) % BLOCK)


_UNPRINTABLE = bytes.maketrans(bytes(range(32)) + b"\x7f", b" " * 33)


def _image(card: Card, hdu: HDU) -> bytes:
    """Make the text of a card: 80 bytes, or a multiple of them where it is continued."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            card.verify("silentfix+ignore")
            image = str(card)
    except Exception as error:  # astropy raises whatever it stumbles on
        said = " ".join(str(error).split()) or type(error).__name__
        raise FitsFormatError(
            f"{_where(hdu)}: {card.keyword}: cannot be written: {said}"
        ) from error
    text = image.encode("ascii", "replace").translate(_UNPRINTABLE)
    return text + b" " * (-len(text) % CARD)
