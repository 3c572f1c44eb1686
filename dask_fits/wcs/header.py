"""World coordinates of an image, from its header and from the tables to which that refers."""

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
from dask_fits.wcs.conventions import repair_conventions
from dask_fits.wcs.keywords import invalid_wcs, repair_cards, wcs_cards
from dask_fits.wcs.quiet import without_log
from dask_fits.wcs.tables import TABLE_MARKERS, TableKey, check_coordinate_tables, table_keys

ReadTables = Callable[[Collection[TableKey]], bytes]
"""A function that reads HDUs of the image's file, and returns those that exist as a FITS file."""

_NAXIS = re.compile(r"^NAXIS([1-9]\d*)? *= *(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class WcsHeader:
    """The keywords of an image's WCS, and a way to the HDUs to which they refer."""

    cards: tuple[str, ...]
    """The cards that a WCS may depend on, NAXISn among them."""
    where: str
    """The file and the HDU, for messages."""
    read_tables: ReadTables
    """A function that reads the HDUs."""

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
            Shape of the image, NumPy order; None if the HDU holds none.
        compressed : bool
            Whether the header is that of a table that holds a tile-compressed image.
        where, read_tables
            The fields.
        """
        cards = wcs_cards(header)
        if shape is not None:
            # NAXISn of a compressed image's header are the table's; any may be there twice.
            axes = [("NAXIS", len(shape))]
            axes += [(f"NAXIS{n}", length) for n, length in enumerate(reversed(shape), 1)]
            naxis_cards = [f"{keyword:<8}= {length:>20}".ljust(CARD) for keyword, length in axes]
            replaced = "NAXIS" if compressed else tuple(card[:8] for card in naxis_cards)
            cards = naxis_cards + [card for card in cards if not card.startswith(replaced)]
        return cls(tuple(cards), where, read_tables)


def read_wcs(header: WcsHeader, key: str = " ") -> WCS:
    """Make a WCS, with the tables of the file's other HDUs to which it refers.

    The tables are read here: those of -TAB coordinates (FITS Standard 4.0, section 8.2), and of
    distortions by lookup table (CPDISn = 'LOOKUP', D2IMDISn), as in files of HST.

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
    letter = key.strip()
    text = _repair_header(header.cards, letter, header.where)
    tables = _load_tables(header, text, letter)
    return _make_wcs(text, tables, letter, header.where)


def _repair_header(cards: Iterable[str], letter: str, where: str) -> str:
    """Return the text of a header of which astropy can make a WCS, or raise FitsFormatError."""
    repaired = repair_cards(cards, letter, where)
    repaired = repair_conventions(repaired, letter, where)
    texts = [card.text.ljust(CARD) for card in repaired]
    return "".join([*texts, "END".ljust(CARD)])


def _load_tables(header: WcsHeader, text: str, letter: str) -> bytes:
    """Read the HDUs to which a WCS refers; return a FITS file, empty if there are none."""
    # Of most headers this spares astropy's parsing.
    if not any(marker in text for marker in TABLE_MARKERS):
        return b""
    keys = table_keys(fits.Header.fromstring(text), letter)
    return header.read_tables(keys) if keys else b""


def _make_wcs(text: str, tables: bytes, letter: str, where: str) -> WCS:
    """Make a WCS of repaired cards, and of a FITS file with the tables to which they refer."""
    try:
        hdus = fits.HDUList.fromstring(tables) if tables else None
        if hdus:
            check_coordinate_tables(fits.Header.fromstring(text), letter, hdus, where)
        with without_log():
            wcs = WCS(text.encode("ascii"), fobj=hdus, key=letter or " ")
        # wcslib checks the parameters of some projections when it transforms the first pixel.
        wcs.wcs.p2s(np.ones((1, wcs.naxis)), 1)
    except FitsFormatError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        kind = f"alternate WCS {letter!r}" if letter else "WCS"
        raise invalid_wcs(where, one_line(error), kind) from error
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
    """A FITS file of the HDUs to which they refer, in base 64; empty if there are none."""

    @classmethod
    def of(cls, header: WcsHeader) -> WcsText:
        """Take the text of an image's keywords, and read the HDUs to which they refer.

        Raises
        ------
        FileChangedError, StorageError
            Such an HDU cannot be read.
        """
        content = b""
        # Most refer to nothing, which is seen before their cards are repaired.
        if any(marker in card for card in header.cards for marker in TABLE_MARKERS):
            try:
                text = _repair_header(header.cards, "", header.where)
                content = _load_tables(header, text, "")
            except (FitsFormatError, TruncatedFileError):
                pass  # `wcs` raises the reason
        cards = "\n".join(map(str.rstrip, header.cards))
        return cls(cards, base64.b64encode(content).decode("ascii"))

    def header(self, where: str) -> WcsHeader:
        """Make the `WcsHeader` again; `where` is the file and the HDU, for messages."""
        content = self.table_file()
        return WcsHeader(tuple(self.cards.split("\n")), where, lambda _: content)

    def table_file(self) -> bytes:
        """Return the FITS file of the tables; nothing if there are none."""
        return base64.b64decode(self.tables)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image, NumPy order."""
        lengths: dict[int, int] = {}
        for axis, length in _NAXIS.findall(self.cards):
            lengths.setdefault(int(axis or 0), int(length))
        # The WCS may have more axes than the image, and lengths of them may be among the cards.
        return tuple(lengths[axis] for axis in range(lengths[0], 0, -1))

    def wcs(self, where: str) -> WCS:
        """Make the WCS, equal to `HDU.wcs` to the bit.

        Parameters
        ----------
        where : str
            File and HDU, for messages.

        Raises
        ------
        FitsFormatError
            The keywords make none.
        """
        return read_wcs(self.header(where))


def card_lines(header: fits.Header) -> str:
    """Write a header as text with a card on each line, most without the blanks at its end.

    `astropy.io.fits.Header.fromstring` makes the header again, with a line feed for ``sep``. It
    joins cards that continue each other as they are, so those keep their length.
    """
    lines = [line for card in header.cards for line in _card_images(card)]
    # One more than there are lines, so that each line has a next one.
    continues = [line.startswith("CONTINUE") for line in [*lines, ""]]
    return "\n".join(
        line if continues[n] or continues[n + 1] else line.rstrip() for n, line in enumerate(lines)
    )


def _card_images(card: fits.Card) -> list[str]:
    """Return the images of 80 characters of a card and of those that continue it."""
    try:
        text = str(card)
    except (fits.VerifyError, ValueError):
        text = f"COMMENT {card.keyword}: astropy cannot write what it says".ljust(CARD)
    return [text[start : start + CARD] for start in range(0, len(text), CARD)]
