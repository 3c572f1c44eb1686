"""World coordinates out of an image's header, and the tables that it refers to."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from dask_fits.exceptions import FitsFormatError, TruncatedFileError, one_line
from dask_fits.format.header import CARD
from dask_fits.wcs.conventions import settle_conventions
from dask_fits.wcs.keywords import settled, wcs_cards
from dask_fits.wcs.quiet import without_log
from dask_fits.wcs.tables import REFERRING, check_coordinate_tables, table_keys

ReadTables = Callable[[Collection[tuple[str, int]]], bytes]
"""Reads HDUs of the image's file, by EXTNAME in upper case and EXTVER, as far as the file has them:
they make a FITS file."""


@dataclass(frozen=True, slots=True, eq=False)
class WcsHeader:
    """What the WCS of an image is made of: keywords, and a way to the HDUs that they refer to."""

    cards: tuple[str, ...]
    """The cards that a WCS may depend on, NAXISn among them."""
    where: str
    """The file and the HDU, for messages."""
    read_tables: ReadTables

    @classmethod
    def of(
        cls,
        header: bytes,
        shape: tuple[int, ...] | None,
        *,
        compressed: bool,
        where: str,
        read_tables: ReadTables,
    ) -> WcsHeader:
        """Pick the cards of an HDU's header.

        Parameters
        ----------
        header : bytes
            The header's blocks.
        shape : tuple of int or None
            Of the image, NumPy order; None if it is no image.
        compressed : bool
            Whether the header is that of a table that holds a tile-compressed image.
        where, read_tables
            The fields.
        """
        cards = wcs_cards(header.decode("latin-1"))
        if shape is not None:
            # NAXISn of a compressed image's header are the table's; any may be there twice.
            axes = [("NAXIS", len(shape))]
            axes += [(f"NAXIS{n}", length) for n, length in enumerate(reversed(shape), 1)]
            own = [f"{keyword:<8}= {length:>20}".ljust(CARD) for keyword, length in axes]
            begin = "NAXIS" if compressed else tuple(card[:8] for card in own)
            cards = own + [card for card in cards if not card.startswith(begin)]
        return cls(tuple(cards), where, read_tables)


def read_wcs(header: WcsHeader, key: str = " ") -> WCS:
    """Make a WCS, with the tables of the file's other HDUs that it refers to.

    The tables are read here: of -TAB coordinates (FITS Standard 4.0, section 8.2), and of
    distortions by lookup table (CPDISn = 'LOOKUP', D2IMDISn), as HST has them.

    Parameters
    ----------
    header : WcsHeader
    key : str
        Letter of an alternate WCS; a blank for the primary one.

    Raises
    ------
    FitsFormatError
        The keywords make no WCS, or refer to an HDU that the file does not have.
    TruncatedFileError, FileChangedError, StorageError
        Such an HDU cannot be read.
    """
    letter, where = key.strip(), header.where
    text = _settled(header.cards, letter, where)
    return _make(text, _tables(header, text, letter), letter, where)


def _settled(cards: Iterable[str], letter: str, where: str) -> str:
    """Make a header of cards of which astropy can make a WCS, or raise FitsFormatError."""
    found = settle_conventions(settled(cards, letter, where), letter, where)
    return "".join([*(card.text.ljust(CARD) for card in found), "END".ljust(CARD)])


def _tables(header: WcsHeader, text: str, letter: str) -> bytes:
    """Read the HDUs that a WCS refers to: a FITS file, empty if there are none."""
    if not any(word in text for word in REFERRING):
        return b""
    keys = table_keys(fits.Header.fromstring(text), letter)
    return header.read_tables(keys) if keys else b""


def _make(text: str, content: bytes, letter: str, where: str) -> WCS:
    """Make a WCS of checked cards, and of the FITS file with the tables that they refer to."""
    try:
        tables = fits.HDUList.fromstring(content) if content else None
        if tables:
            check_coordinate_tables(fits.Header.fromstring(text), letter, tables, where)
        with without_log():
            wcs = WCS(text.encode("ascii"), fobj=tables, key=letter or " ")
        # Parameters of some projections are looked at when a first pixel is transformed.
        wcs.wcs.p2s(np.ones((1, wcs.naxis)), 1)
    except FitsFormatError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        what = f"alternate WCS {letter!r}" if letter else "WCS"
        raise FitsFormatError(f"{where}: the keywords make no {what}: {one_line(error)}") from error
    return wcs


@dataclass(frozen=True, slots=True)
class WcsText:
    """A `WcsHeader` as text that can be kept anywhere, its tables included.

    Its numbers have all of their digits; those of a pickled `astropy.wcs.WCS` are rounded, and a
    pixel found with it is off by up to some 1e-9 of an image's side.
    """

    cards: str
    """The keywords that a WCS may depend on, NAXISn among them: a card on each line."""
    tables: str
    """Base 64 of a FITS file of the HDUs that they refer to; mostly empty."""

    @classmethod
    def of(cls, header: WcsHeader) -> WcsText:
        """Take the text of an image's keywords; reads the HDUs that they refer to.

        Raises
        ------
        FileChangedError, StorageError
            Such an HDU cannot be read.
        """
        try:
            content = _tables(header, _settled(header.cards, "", header.where), "")
        except (FitsFormatError, TruncatedFileError):
            content = b""  # `wcs` tells why there is none
        cards = "\n".join(map(str.rstrip, header.cards))
        return cls(cards, base64.b64encode(content).decode("ascii"))

    def header(self, where: str) -> WcsHeader:
        """Make the keywords again; `where` is for messages."""
        content = base64.b64decode(self.tables)
        return WcsHeader(tuple(self.cards.split("\n")), where, lambda _: content)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, NumPy order."""
        lengths: dict[int, int] = {}
        for axis, length in _NAXIS.findall(self.cards):
            lengths.setdefault(int(axis or 0), int(length))
        # The WCS may have more axes, and there may be lengths of these.
        return tuple(lengths[axis] for axis in range(lengths[0], 0, -1))

    def wcs(self, where: str) -> WCS:
        """Make the WCS, that of `HDU.wcs` to the bit; `where` is for messages.

        Raises
        ------
        FitsFormatError
            The keywords make none.
        """
        return read_wcs(self.header(where))


_NAXIS = re.compile(r"^NAXIS([1-9]\d*)? *= *(\d+)", re.MULTILINE)


def card_lines(header: fits.Header) -> str:
    """Write a header as text with a card on each line, most without the blanks at its end.

    `astropy.io.fits.Header.fromstring` makes the header again, with a line feed for ``sep``. It
    puts cards that are continued together as they are, so those keep their length.
    """
    lines = [line for card in header.cards for line in _lines(card)]
    continues = [line.startswith("CONTINUE") for line in [*lines, ""]]
    return "\n".join(
        line if continues[n] or continues[n + 1] else line.rstrip() for n, line in enumerate(lines)
    )


def _lines(card: fits.Card) -> list[str]:
    try:
        text = str(card)
    except (fits.VerifyError, ValueError):
        text = f"COMMENT {card.keyword}: astropy cannot write what it says".ljust(CARD)
    return [text[start : start + CARD] for start in range(0, len(text), CARD)]
