"""A box of an image as a FITS file: stored values, keywords kept, world coordinates moved.

`origin` has NumPy's order of axes; `starts` is the same in FITS order, NAXIS1 first.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io.fits import Card, Header

from dask_fits.exceptions import FitsFormatError
from dask_fits.file.hdu import HDU
from dask_fits.file.whole_hdus import read_hdus
from dask_fits.format.checksum import encode_checksum, sum32
from dask_fits.format.header import BLOCK
from dask_fits.writing.cards import comment_of, drop_cards, format_card, header_bytes
from dask_fits.writing.pixel_keywords import (
    PIXEL_TABLES,
    move_pixel_keywords,
    positions_of,
    subtract_starts,
    wcs_cards_of,
    with_value,
)
from dask_fits.writing.world import tables_of

Bytes = bytes | memoryview

_MANDATORY = re.compile(r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT")
"""Keywords that describe the data unit, which are written anew."""

_PRIMARY_PIXELS = re.compile(
    _MANDATORY.pattern + r"|GROUPS|BSCALE|BZERO|BLANK|(?:PTYPE|PSCAL|PZERO)\d+"
)
"""Keywords that a primary header loses with its pixels."""

_EXTEND = re.compile("EXTEND")
"""The keyword of a primary header that announces extensions."""


def box_to_fits(hdu: HDU, stored: npt.NDArray[Any], origin: Sequence[int]) -> bytes:
    """Make the bytes of a FITS file of a box of an image.

    The pixels are written as they are stored, beside the header's own BSCALE, BZERO and BLANK, so
    that they are read back as they would be read from the original. CRPIXn of every WCS, LTVn and
    CNPIXn move with the pixels; CHECKSUM and DATASUM are computed anew if the header has them;
    other keywords stay. An image that is an extension comes after its file's primary header, and
    before the HDUs that its WCS refers to.

    Parameters
    ----------
    hdu : HDU
        The image.
    stored : array
        The box's pixels, from ``hdu.reader(mask_and_scale=False)``.
    origin : sequence of int
        Pixel of the image that is the box's first, along each axis in NumPy order; negative if the
        box reaches over the edge.

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
        An HDU that the WCS refers to cannot be read.

    Examples
    --------
    >>> import dask_fits
    >>> hdu = dask_fits.open("tests/data/m13.fits")[0]
    >>> pixels = hdu.reader(mask_and_scale=False)[100:110, 200:220]
    >>> len(box_to_fits(hdu, pixels, (100, 200)))
    5760
    """
    return boxes_to_fits([(Template.of(hdu), stored, origin)])


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The content of an image's HDU besides its pixels, prepared once for many boxes of it."""

    hdu: HDU
    header: Header
    tables: tuple[HDU, ...]
    """The HDUs that some WCS of the header refers to, in the order of the file."""
    contents: tuple[bytes, ...]
    """The bytes of these HDUs."""
    card_bytes: dict[int, bytes]
    """The formatted cards of the header that are kept, by the `id` of the card: the header keeps
    them alive, so no other card has the same."""

    @classmethod
    def of(cls, hdu: HDU) -> Template:
        """Read the header and the tables; errors are those of `box_to_fits`."""
        header = hdu.original_header()
        if "ZIMAGE" in header:
            raise FitsFormatError(f"{hdu.where}: the header of the image cannot be restored")
        tables = tuple(tables_of(hdu, header))
        kept = drop_cards(header.cards, _MANDATORY)
        card_bytes = {id(card): format_card(card, hdu.where) for card in kept}
        return cls(hdu, header, tables, tuple(read_hdus(tables)), card_bytes)

    def box_hdu(
        self, stored: npt.NDArray[Any], origin: Sequence[int], *, extended: bool
    ) -> list[Bytes]:
        """Make the bytes of the HDU of a box; `extended` if other HDUs follow it."""
        hdu = self.hdu
        reader = hdu.reader(mask_and_scale=False)
        if stored.ndim != reader.ndim or len(origin) != reader.ndim or stored.dtype != reader.dtype:
            raise ValueError(
                f"{hdu.where}: expected stored values of type {reader.dtype} along {reader.ndim} "
                f"axes, found {stored.dtype} along {stored.ndim} axes from {tuple(origin)}"
            )
        cards = self.box_cards(stored.dtype, stored.shape, origin, extended=extended)
        pixels = np.ascontiguousarray(stored, stored.dtype.newbyteorder(">"))
        return _hdu_bytes(cards, pixels.reshape(-1).view(np.uint8).data, hdu, self.card_bytes)

    def box_cards(
        self,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        origin: Sequence[int],
        *,
        extended: bool,
    ) -> list[Card]:
        """Make the cards of a box.

        Parameters
        ----------
        dtype : numpy.dtype
            Type of the stored values.
        shape : tuple of int
            Shape of the box, NumPy order.
        origin : sequence of int
            Pixel of the image that is the box's first.
        extended : bool
            Whether other HDUs follow it.
        """
        cards = _image_cards(self.hdu, self.header, dtype, shape)
        move_pixel_keywords(cards, _fits_order(origin), self.hdu.where)
        if self.hdu.index == 0 and extended:
            _set_extend(cards)
        return cards

    def moved_tables(self, origin: Sequence[int]) -> dict[int, bytes]:
        """Return the bytes of the tables for a box, by their index in the file."""
        return {
            table.index: b"".join(_table_bytes(table, content, _fits_order(origin)))
            for table, content in zip(self.tables, self.contents, strict=True)
        }


def boxes_to_fits(boxes: Sequence[tuple[Template, npt.NDArray[Any], Sequence[int]]]) -> bytes:
    """Make the bytes of a FITS file of boxes of several images of one file; see `box_to_fits`.

    Parameters
    ----------
    boxes : sequence of (Template, array, sequence of int)
        For each image its template, the box's pixels and their origin.
    """
    # Both by the HDU's index in the original file, whose order the new file keeps.
    images: dict[int, list[Bytes]] = {}
    tables: dict[int, list[Bytes]] = {}
    for template, _, origin in boxes:
        for table, content in zip(template.tables, template.contents, strict=True):
            # Images that share a table share its position: that of the first box.
            tables.setdefault(table.index, _table_bytes(table, content, _fits_order(origin)))
    extended = bool(tables) or len(boxes) > 1
    for template, stored, origin in boxes:
        images[template.hdu.index] = template.box_hdu(stored, origin, extended=extended)
    if 0 not in images and 0 not in tables:
        images[0] = primary_hdu(boxes[0][0].hdu.file[0])

    # A table that is the primary HDU has to come first, the others follow the images. An HDU that
    # is a box as well as a table is written as the box.
    ordered = [tables.pop(0)] if 0 in tables and 0 not in images else []
    ordered += [images[index] for index in sorted(images)]
    ordered += [tables[index] for index in sorted(tables) if index not in images]
    return b"".join(piece for pieces in ordered for piece in pieces)


def _fits_order(origin: Sequence[int]) -> list[int]:
    """Return the origin of a box as plain integers in FITS order of axes."""
    return [int(start) for start in reversed(origin)]


def _image_cards(
    hdu: HDU, header: Header, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> list[Card]:
    """Make the cards of a box's header: the mandatory ones, then the others of the image."""
    primary = hdu.index == 0
    # The FITS Standard prescribes the order of these (4.0, sections 4.4.1.1 and 4.4.1.2).
    values: dict[str, Any] = {"SIMPLE": True} if primary else {"XTENSION": "IMAGE"}
    values["BITPIX"] = dtype.itemsize * (-8 if dtype.kind == "f" else 8)
    values["NAXIS"] = len(shape)
    values |= {f"NAXIS{n}": length for n, length in enumerate(reversed(shape), 1)}
    # An extension must have these two; a primary header keeps them if it has them.
    for keyword, value in (("PCOUNT", 0), ("GCOUNT", 1)):
        if not primary or keyword in header:
            values[keyword] = value
    others = drop_cards(header.cards, _MANDATORY)
    if not primary:
        # A compressed image that was once a primary one brings its EXTEND along.
        others = drop_cards(others, _EXTEND)
    return _mandatory_cards(header, values) + others


def primary_hdu(hdu: HDU) -> list[Bytes]:
    """Make the bytes of a primary HDU without data, from a file's primary HDU."""
    header = hdu.original_header()
    cards = _mandatory_cards(header, {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0})
    cards += drop_cards(header.cards, _PRIMARY_PIXELS)
    _set_extend(cards)
    return _hdu_bytes(cards, b"", hdu)


def _mandatory_cards(header: Header, values: dict[str, Any]) -> list[Card]:
    """Make cards of new values, with the comments that their keywords have in the header."""
    return [
        Card(keyword, value, comment_of(header, keyword) if keyword in header else None)
        for keyword, value in values.items()
    ]


def _set_extend(cards: list[Card]) -> None:
    """Set EXTEND in a primary header, which extensions follow."""
    positions = positions_of(cards, "EXTEND")
    for position in positions:
        cards[position] = with_value(cards[position], value=True)
    if not positions:
        mandatory = sum(bool(_MANDATORY.fullmatch(card.keyword)) for card in cards)
        cards.insert(mandatory, Card("EXTEND", value=True))


def _table_bytes(hdu: HDU, content: bytes, starts: list[int]) -> list[Bytes]:
    """Copy an HDU that a WCS refers to, moving a table that counts in pixels of the image."""
    if hdu.name.strip().upper() not in PIXEL_TABLES or not any(starts):
        return [content]
    # The header as it is in the file, of a tile-compressed HDU too: its data unit is copied.
    cards = list(Header.fromfile(io.BytesIO(hdu.header_text)).cards)
    positions = [position for position, _ in wcs_cards_of(cards)]
    # The table has an axis for each axis of the image that it distorts, from the first on.
    axes = starts[: len(hdu.shape or ())]
    subtract_starts(cards, "CRVAL{}", axes, hdu.where, after=max(positions, default=None))
    return _hdu_bytes(cards, content[hdu.header_range.nbytes :], hdu)


def _hdu_bytes(
    cards: list[Card], data: Bytes, hdu: HDU, card_bytes: dict[int, bytes] | None = None
) -> list[Bytes]:
    """Make the bytes of an HDU, in pieces, with right checksums if it has some.

    Parameters
    ----------
    cards : list of Card
        The header's cards.
    data : bytes or memoryview
        The data unit, big-endian, with or without its padding.
    hdu : HDU
        For messages.
    card_bytes : dict of int to bytes, optional
        Cards that are formatted already; see `Template.card_bytes`.
    """
    card_bytes = {} if card_bytes is None else card_bytes
    # DATASUM first: CHECKSUM covers the header, DATASUM's card among it.
    data_sum = sum32(data)
    if sum_cards := [card for card in cards if card.keyword == "DATASUM"]:
        new = Card("DATASUM", str(data_sum), "data unit checksum")
        cards = _replace_cards(cards, sum_cards, new)
    if sum_cards := [card for card in cards if card.keyword == "CHECKSUM"]:
        # The sum of the whole HDU is to be zero, so it is taken with a CHECKSUM of zeros.
        new = Card("CHECKSUM", "0" * 16, "HDU checksum")
        cards = _replace_cards(cards, sum_cards, new)
        new.value = encode_checksum(sum32(header_bytes(cards, hdu.where, card_bytes), data_sum))
    return [header_bytes(cards, hdu.where, card_bytes), data, bytes(-len(data) % BLOCK)]


def _replace_cards(cards: list[Card], old: list[Card], new: Card) -> list[Card]:
    """Replace the first of some cards by a new one, and drop the others."""
    # By identity: astropy's cards have no equality of their own, and a damaged one may not parse.
    kept = [card for card in cards if card is old[0] or not any(card is other for other in old)]
    return [new if card is old[0] else card for card in kept]
