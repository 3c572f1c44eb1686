"""The header of one HDU: 2880-byte blocks of 80-character cards (FITS Standard 4.0, section 3.3.1).

A header is raw bytes (`raw`); a card is 80 of them, decoded (`card`). Only the structural cards,
which say where the data lie and how to read them, are indexed here; their values are parsed when
they are looked up. The raw bytes are kept for callers that need every keyword.

    byte      0        8  10                          80
    card      KEYWORD  =  value / comment             next card ...
                          |---- field, as parse_value takes it
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from dask_fits.exceptions import FitsFormatError, printable

BLOCK = 2880
"""Bytes in a FITS block."""

CARD = 80
"""Bytes in a header card."""

MAX_HEADER = 6000 * BLOCK
"""Bytes. A header without an END card up to here is taken for damaged."""

Value = bool | int | float | str | None
"""Value of a card; None if it is undefined."""

_NOT_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e]")
_MAX_STRANGE = 3
"""Keywords that are not text, tolerated in one read of a header. Of pixels nearly all are none."""

_MAX_VALUE_SHOWN = 200
"""Characters of a value that a message shows."""

_STRUCTURAL = (
    r"B(?:ITPIX|SCALE|ZERO|LANK)|EXT(?:NAME|VER|LEVEL)|G(?:COUNT|ROUPS)|INHERIT|NAXIS[0-9]*|PCOUNT"
    r"|SIMPLE|T(?:FIELDS|HEAP|(?:TYPE|FORM)[0-9]+)|XTENSION|Z(?:IMAGE|CMPTYPE|BITPIX|NAXIS[0-9]*"
    r"|(?:TILE|NAME|VAL)[0-9]+|QUANTIZ|DITHER0|BLANK|SCALE|ZERO|MASKCMP)"
)
# The value indicator belongs in columns 9 and 10, but some writers put it right after the keyword.
# No pattern looks beyond its card, so that a header is indexed in linear time.
_CARD_START = rf"(?=.{{8}}= |[^\s=]{{1,8}}= )\s*({_STRUCTURAL})\s*= "
_END_START = r"(?-i:END[ \0]{77})"
# One match runs over all the cards between two structural ones: 3 times as fast as a loop.
_NEXT_CARD = re.compile(
    rf"(?:(?!{_CARD_START}|{_END_START}).{{80}})*+{_CARD_START}", re.IGNORECASE | re.DOTALL
)
# END followed by something that does not make it a longer keyword, such as END=, END / or a tab.
_ODD_END = re.compile(rb"END(?![A-Za-z0-9_-])")
_CARD_PARTS = np.dtype([("keyword", "S8"), ("rest", "V72")])
_STRING = re.compile(r" *'((?:[^']|'')*+)'")
NUMBER = re.compile(r"([+-]?) *((?:\.\d+|\d+(?:\.\d*)?))(?: *[DdEe] *([+-]? *\d+))?")
"""A number of a card: sign, digits and exponent."""


@dataclass(frozen=True, slots=True)
class RawHeader:
    """The raw bytes of one header and the places of its structural cards."""

    raw: bytes
    """Whole blocks, from the first card to the padding after END."""
    where: str
    """File and HDU, for messages."""
    cards: dict[str, int]
    """Byte of `raw` at which the card of each structural keyword begins."""

    @property
    def nbytes(self) -> int:
        """Length of the header, a multiple of 2880 bytes."""
        return len(self.raw)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.cards

    def value(self, keyword: str) -> Value:
        """Return the value of a structural keyword; None if it is absent or undefined.

        Raises
        ------
        FitsFormatError
            The card holds something that is no FITS value (Standard 4.0, section 4.2).
        """
        position = self.cards.get(keyword)
        if position is None:
            return None
        card = self._card_at(position)
        field = card[card.index("=") + 1 :]
        try:
            value = parse_value(field)
        except ValueError:
            raise self.keyword_error(keyword, field.strip(), "a FITS value") from None
        if isinstance(value, str) and value.endswith("&"):
            return self._join_continued(value, position + CARD)
        return value

    def integer(self, keyword: str, *, default: int | None = None) -> int:
        """Return the value of an integer keyword.

        A missing card has the value `default`, and is an error if that is None.
        """
        value = self.value(keyword)
        if keyword not in self.cards:
            if default is None:
                raise FitsFormatError(f"{self.where}: {keyword} is missing; expected an integer")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.keyword_error(keyword, value, "an integer")
        return value

    def keyword_error(self, keyword: str, found: object, expected: str) -> FitsFormatError:
        """Return the error for a keyword whose value cannot be used."""
        shown = (
            "an undefined value" if found is None else printable(repr(found), most=_MAX_VALUE_SHOWN)
        )
        return FitsFormatError(f"{self.where}: {keyword}: found {shown}, expected {expected}")

    def structure(self) -> bytes:
        """Return the structural cards alone: a header of the same meaning, for `parse_header`."""
        cards = [
            self.raw[start : self._end_of_card(start)] for start in sorted(self.cards.values())
        ]
        return b"".join([*cards, b"END".ljust(CARD)])

    def _end_of_card(self, start: int) -> int:
        """Return the end of the card that begins at a byte, or of the last that continues it."""
        stop = start + CARD
        while self.raw.startswith(b"CONTINUE", stop):
            stop += CARD
        return stop

    def _card_at(self, position: int) -> str:
        """Return the card that begins at a byte, decoded."""
        return self.raw[position : position + CARD].decode("latin-1")

    def _join_continued(self, value: str, position: int) -> str:
        """Append the CONTINUE cards from `position` on to a string (Standard 4.0, 4.2.1.2)."""
        parts = [value]
        while parts[-1].endswith("&"):
            card = self._card_at(position)
            match = _STRING.match(card[8:])
            # An & that no CONTINUE card follows belongs to the string.
            if not card.startswith("CONTINUE") or match is None:
                break
            parts[-1] = parts[-1][:-1]
            parts.append(_unquote(match))
            position += CARD
        return "".join(parts)


def parse_value(field: str) -> Value:
    """Parse the field behind the value indicator of a card, in fixed or free format.

    Raises
    ------
    ValueError
        The field holds no FITS value (Standard 4.0, section 4.2).

    Examples
    --------
    >>> parse_value("                  -32 / bits per pixel")
    -32
    >>> parse_value(" 'O''Hara  ' / observer"), parse_value("1.5D3"), parse_value("  T")
    ("O'Hara", 1500.0, True)
    """
    # A string goes first, since a slash within it begins no comment.
    string = _STRING.match(field)
    if string:
        return _unquote(string)
    text = field.split("/", 1)[0].strip()
    if not text:
        return None
    if text in ("T", "F"):
        return text == "T"
    number = NUMBER.fullmatch(text)
    if number is None:
        raise ValueError(f"not a FITS value: {text!r}")
    sign, digits, exponent = number.groups()
    if exponent is None and "." not in digits:
        return int(sign + digits)
    # The pattern lets blanks and a D for double precision through, which float() refuses.
    return float(f"{sign}{digits}e{(exponent or '0').replace(' ', '')}")


def card_keywords(raw: bytes) -> list[bytes]:
    """Return the first eight bytes of each card, without NULs at their ends."""
    keywords: list[bytes] = np.frombuffer(raw, _CARD_PARTS)["keyword"].tolist()
    return keywords


def find_end(raw: bytes, *, start: int) -> int | None:
    """Find the END card: END alone, or with something behind it before blank cards.

    Parameters
    ----------
    raw : bytes
        A header from its first card on, perhaps with more after it.
    start : int
        Byte to search from, a multiple of 2880.

    Returns
    -------
    int or None
        Length of the header up to the end of the block that holds END; None if there is no END.
    """
    position = _find_end_card(raw, start)
    return None if position is None else _block_end(position)


def _find_end_card(raw: bytes, start: int) -> int | None:
    """Return the byte at which the END card begins, searched from `start` on."""
    position = raw.find(b"END", start)
    while position >= 0:
        if position % CARD == 0:
            card_end = position + CARD
            # Some writers pad the END card with NULs. Whatever follows a blank one is padding.
            if not raw[position + 3 : card_end].strip(b" \0"):
                return position
            # Text behind END is only let pass if the rest of the block shows that the header ends.
            padding = raw[card_end : _block_end(position)]
            if padding and not padding.strip(b" \0") and _ODD_END.match(raw, position):
                return position
        # On from the next card: END within a value or a comment is none.
        position = raw.find(b"END", position - position % CARD + CARD)
    return None


def _block_end(position: int) -> int:
    """Return the end of the block that holds the byte at `position`."""
    return position - position % BLOCK + BLOCK


def find_odd_end(raw: bytes) -> int | None:
    """Find an END card with something behind it, in a header that nothing better ends.

    Parameters
    ----------
    raw : bytes
        A header from its first card on, in which `find_end` finds no END card.

    Returns
    -------
    int or None
        Length of the header up to the end of the block that holds the card; None if there is no
        such card, or the cards before it are no header.
    """
    for match in _ODD_END.finditer(raw):
        position = match.start()
        if position % CARD == 0:
            cards = parse_header(raw[:position], where="").cards
            is_header = "BITPIX" in cards and "NAXIS" in cards
            return _block_end(position) if is_header else None
    return None


def replace_odd_end(raw: bytes) -> bytes:
    """Replace an END card with something behind it by the Standard's, and pad the block.

    Parameters
    ----------
    raw : bytes
        The whole blocks of a header, of the length that `find_end` or `find_odd_end` returns.
    """
    last_block = len(raw) - BLOCK
    position = _find_end_card(raw, last_block)
    if position is None:
        cards = range(last_block, len(raw), CARD)
        position = next(card for card in cards if _ODD_END.match(raw, card))
    elif not raw[position + 3 : position + CARD].strip(b" \0"):
        return raw
    return raw[:position] + b"END".ljust(len(raw) - position)


_CONTROLS = bytes.maketrans(bytes([*range(9), *range(10, 32), 127]), b" ".ljust(32, b"?"))
"""NULs to blanks, and other control characters but tabs to question marks."""


def replace_controls(raw: bytes) -> bytes:
    """Replace the control characters of a header, as astropy does with bytes beyond ASCII.

    Astropy refuses some cards for them and shows others unchanged, even on a terminal.
    """
    return raw.translate(_CONTROLS)


def check_text(raw: bytes, *, start: int, where: str) -> None:
    """Raise if the keywords from byte `start` on are not text, so that no pixels are read as cards.

    Non-text bytes are tolerated in values and comments, and in up to three keywords: real headers
    have them.
    """
    strange = []
    for position in range(start, len(raw) - CARD + 1, CARD):
        keyword = raw[position : position + 8]
        if _NOT_TEXT.search(keyword) and keyword.strip(b" \0"):
            strange.append((keyword, position))
            if len(strange) > _MAX_STRANGE:
                raise FitsFormatError(
                    f"{where}: no END card: found {strange[0][0]!r} at byte {strange[0][1]} of "
                    "the header, expected a keyword"
                )


def parse_header(raw: bytes, *, where: str) -> RawHeader:
    """Index the structural cards of a header.

    Parameters
    ----------
    raw : bytes
        The whole blocks of one header.
    where : str
        File and HDU, for messages.
    """
    cards: dict[str, int] = {}
    text = raw.decode("latin-1")  # one character a byte: positions are those of `raw`
    position = 0
    while match := _NEXT_CARD.match(text, position):
        # The match ends with the value indicator, within the card that it found.
        position = match.end() - match.end() % CARD
        keyword = match[2].upper()
        if not _keeps_earlier_card(keyword, cards, text):
            cards[keyword] = position
        position += CARD
    return RawHeader(raw, where, cards)


def _keeps_earlier_card(keyword: str, cards: dict[str, int], text: str) -> bool:
    """Return whether a repeated keyword keeps the value of its earlier card.

    Of two cards with one keyword astropy takes the last for the data and the first for the name,
    except for the name that compressors put before the image's own. This does the same, so that
    the same pixels have the same name.
    """
    if keyword not in ("EXTNAME", "EXTVER") or keyword not in cards:
        return False
    earlier = cards[keyword]
    return "'COMPRESSED_IMAGE'" not in text[earlier : earlier + CARD]


def _unquote(string: re.Match[str]) -> str:
    """Return the content of a string: without doubled quotes, and trailing blanks."""
    return string.group(1).replace("''", "'").rstrip()
