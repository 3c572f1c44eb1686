"""A cutout as a FITS file: stored values, keywords kept, world coordinates moved with them."""

from __future__ import annotations

import copy
import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io.fits import Card, Header
from astropy.io.fits.card import Undefined

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.file.hdu import HDU
from dask_fits.file.whole_hdus import read_hdus
from dask_fits.format.checksum import encoded, sum32
from dask_fits.format.header import BLOCK, CARD
from dask_fits.wcs.tables import table_keys

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
    return cut_file([(Template.of(hdu), stored, origin)])


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """What is written of an image besides its pixels, made once for many boxes of it."""

    hdu: HDU
    header: Header
    tables: tuple[HDU, ...]
    """The HDUs that some WCS of the header refers to, in the order in which they lie."""
    contents: tuple[bytes, ...]
    """These HDUs, whole."""
    texts: dict[int, bytes]
    """Text of each card of the header that is kept, by the card's identity."""

    @classmethod
    def of(cls, hdu: HDU) -> Template:
        """Read what is needed; errors are those of `cut_fits`."""
        header = hdu.original_header()
        if "ZIMAGE" in header:
            raise FitsFormatError(f"{hdu.where}: the header of the image cannot be restored")
        tables = tuple(_tables(hdu, header))
        kept = _without(header.cards, _OF_AN_IMAGE)
        texts = {id(card): _image(card, hdu) for card in kept}
        return cls(hdu, header, tables, tuple(read_hdus(tables)), texts)

    def image(
        self, stored: npt.NDArray[Any], origin: Sequence[int], *, extended: bool
    ) -> list[Bytes]:
        """Make the HDU of a box; `extended`: others follow."""
        hdu, reader = self.hdu, self.hdu.reader(mask_and_scale=False)
        if stored.ndim != reader.ndim or len(origin) != reader.ndim or stored.dtype != reader.dtype:
            raise ValueError(
                f"{hdu.where}: expected stored values of type {reader.dtype} along {reader.ndim} "
                f"axes, found {stored.dtype} along {stored.ndim} axes from {tuple(origin)}"
            )
        cards = _image_cards(hdu, self.header, stored)
        _move(cards, [int(start) for start in reversed(origin)], hdu)
        if hdu.index == 0 and extended:
            _say_extend(cards)
        pixels = np.ascontiguousarray(stored, stored.dtype.newbyteorder(">"))
        return _unit(cards, pixels.reshape(-1).view(np.uint8).data, hdu, self.texts)


def cut_file(parts: Sequence[tuple[Template, npt.NDArray[Any], Sequence[int]]]) -> bytes:
    """Make a FITS file of boxes of several images of one file; see `cut_fits`.

    Parameters
    ----------
    parts : sequence of (Template, array, sequence of int)
        For each image its template, the box's pixels and their origin.
    """
    units: dict[int, list[Bytes]] = {}
    tables: dict[int, list[Bytes]] = {}
    for template, _, origin in parts:
        starts = [int(start) for start in reversed(origin)]
        for table, content in zip(template.tables, template.contents, strict=True):
            tables.setdefault(table.index, _table(table, content, starts))
    extended = bool(tables) or len(parts) > 1
    for template, stored, origin in parts:
        units[template.hdu.index] = template.image(stored, origin, extended=extended)
    if 0 not in units and 0 not in tables:
        units[0] = _primary(parts[0][0].hdu.file[0])
    ordered = [tables.pop(0)] if 0 in tables and 0 not in units else []
    ordered += [units[index] for index in sorted(units)]
    ordered += [tables[index] for index in sorted(tables) if index not in units]
    return b"".join(piece for unit in ordered for piece in unit)


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
    header = hdu.original_header()
    cards = _leading(header, {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0})
    cards += _without(header.cards, _OF_A_PRIMARY_IMAGE)
    _say_extend(cards)
    return _unit(cards, b"", hdu)


def _leading(header: Header, values: dict[str, Any]) -> list[Card]:
    """Make cards, with the comments that their keywords had."""
    return [Card(k, v, _comment(header, k) if k in header else None) for k, v in values.items()]


def _comment(header: Header, keyword: str) -> str | None:
    """Get the comment of a keyword; None where astropy cannot tell it, of a damaged card."""
    try:
        return str(header.comments[keyword])
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on)
        return None


def _without(cards: Iterable[Card], keywords: re.Pattern[str]) -> list[Card]:
    return [card for card in cards if not keywords.fullmatch(card.keyword)]


def _say_extend(cards: list[Card]) -> None:
    """Tell that extensions follow a primary header."""
    found = [n for n, card in enumerate(cards) if card.keyword == "EXTEND"]
    for n in found:
        cards[n] = _with(cards[n], value=True)
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
    for n, card in enumerate(cards):
        if card.keyword in ("CNPIX1", "CNPIX2") and len(starts) > 1:
            place = _number(card, hdu) + starts[int(card.keyword[-1]) - 1]
            cards[n] = _with(card, value=place)


def _subtract(
    cards: list[Card], keyword: str, starts: list[int], hdu: HDU, *, after: int | None
) -> None:
    """Subtract the origin from a keyword of each axis; where it is missing it was 0."""
    place = len(cards) if after is None else after + 1
    for axis, start in enumerate(starts, 1):
        name = keyword.format(axis)
        found = [n for n, card in enumerate(cards) if card.keyword == name]
        if not start:
            continue
        for n in found:
            cards[n] = _with(cards[n], value=_number(cards[n], hdu) - start)
        if not found:
            cards.insert(place, Card(name, -start))
            place += 1


def _with(card: Card, *, value: Any) -> Card:
    """Give a card another value; the card itself is its template's, and stays."""
    found = copy.copy(card)
    found.value = value
    return found


def _number(card: Card, hdu: HDU) -> int | float:
    """Get the number of a card; one without a value stands for 0."""
    try:
        value = card.value
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{hdu.where}: {card.keyword}: {error}") from error
    if isinstance(value, Undefined):
        return 0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise FitsFormatError(
            f"{hdu.where}: {card.keyword}: found {value!r}, expected a number of pixels"
        )
    number: int | float = value
    return number


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


def _unit(
    cards: list[Card], data: Bytes, hdu: HDU, texts: dict[int, bytes] | None = None
) -> list[Bytes]:
    """Make the bytes of an HDU, in pieces, with right checksums where it has some."""
    texts = {} if texts is None else texts
    total = sum32(data)
    if sums := [card for card in cards if card.keyword == "DATASUM"]:
        cards = _replaced(cards, sums, Card("DATASUM", str(total), "data unit checksum"))
    if sums := [card for card in cards if card.keyword == "CHECKSUM"]:
        # The sum of the whole HDU is to be zero, so it is taken with a CHECKSUM of zeros.
        card = Card("CHECKSUM", "0" * 16, "HDU checksum")
        cards = _replaced(cards, sums, card)
        card.value = encoded(sum32(_text(cards, hdu, texts), total))
    return [_text(cards, hdu, texts), data, bytes(-len(data) % BLOCK)]


def _replaced(cards: list[Card], old: list[Card], new: Card) -> list[Card]:
    """Put a card in the place of the first of some others."""
    kept = [card for card in cards if card is old[0] or not any(card is other for other in old)]
    return [new if card is old[0] else card for card in kept]


def _text(cards: list[Card], hdu: HDU, texts: dict[int, bytes]) -> bytes:
    """Make the blocks of a header, with what can be mended in its cards.

    `texts` keeps what has been made of cards of the image's own header.
    """
    text = b"".join(texts.get(id(card)) or _image(card, hdu) for card in cards) + b"END".ljust(CARD)
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
        said = f"cannot be written: {one_line(error)}"
        raise FitsFormatError(f"{hdu.where}: {card.keyword}: {said}") from error
    text = image.encode("ascii", "replace").translate(_UNPRINTABLE)
    return text + b" " * (-len(text) % CARD)
