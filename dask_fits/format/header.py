"""The header of one HDU: 2880-byte blocks of 80-character cards (FITS Standard 4.0, section 3.3.1).

Only the cards that say where the data are and how to read them are parsed here, and only when they
are looked up; the whole text is kept for whoever wants every keyword.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dask_fits.exceptions import FitsFormatError, printable

BLOCK = 2880
"""Bytes in a FITS block."""

CARD = 80
"""Bytes in a header card."""

MAX_HEADER = 6000 * BLOCK
"""Bytes. A header that has no END card by then is taken for damaged."""

Value = bool | int | float | str | None

_NOT_TEXT = re.compile(rb"[^\t\n\r\x20-\x7e]")
_MAX_STRANGE = 3
"""Keywords that are not text in one read of a header. Where pixels begin, nearly all are."""

_MAX_FOUND = 200
"""Characters of a value that a message shows."""

_STRUCTURAL = (
    r"B(?:ITPIX|SCALE|ZERO|LANK)|EXT(?:NAME|VER|LEVEL)|G(?:COUNT|ROUPS)|INHERIT|NAXIS[0-9]*|PCOUNT"
    r"|SIMPLE|T(?:FIELDS|HEAP|(?:TYPE|FORM)[0-9]+)|XTENSION|Z(?:IMAGE|CMPTYPE|BITPIX|NAXIS[0-9]*"
    r"|(?:TILE|NAME|VAL)[0-9]+|QUANTIZ|DITHER0|BLANK|SCALE|ZERO|MASKCMP)"
)
# The value indicator belongs in columns 9 and 10, but writers have put it right after the keyword.
# Nothing here looks beyond a card, however the text goes on: a header is read in linear time.
_CARD_START = rf"(?=.{{8}}= |[^\s=]{{1,8}}= )\s*({_STRUCTURAL})\s*= "
_END_START = r"(?-i:END[ \0]{77})"
# One match runs over all the cards between two structural ones: 3 times as fast as a loop.
_NEXT_CARD = re.compile(
    rf"(?:(?!{_CARD_START}|{_END_START}).{{80}})*+{_CARD_START}", re.IGNORECASE | re.DOTALL
)
# END with something behind it that belongs to no longer keyword, such as END=, END / or a tab.
_ODD_END = re.compile(rb"END(?![A-Za-z0-9_-])")
_STRING = re.compile(r" *'((?:[^']|'')*+)'")
NUMBER = re.compile(r"([+-]?) *((?:\.\d+|\d+(?:\.\d*)?))(?: *[DdEe] *([+-]? *\d+))?")
"""A number of a card: sign, digits and exponent."""


@dataclass(frozen=True, slots=True)
class RawHeader:
    """The bytes of one header and its structural cards."""

    text: bytes
    """Whole blocks, from the first card to the padding after END."""
    where: str
    """File and HDU, for messages."""
    cards: dict[str, int]
    """Position in `text` of each structural keyword's card."""

    @property
    def nbytes(self) -> int:
        """Length of the header, a multiple of 2880 bytes."""
        return len(self.text)

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.cards

    def value(self, keyword: str) -> Value:
        """Value of a structural keyword; None where it is absent or undefined.

        Raises
        ------
        FitsFormatError
            The card holds something that is no FITS value (Standard 4.0, section 4.2).
        """
        position = self.cards.get(keyword)
        if position is None:
            return None
        image = self.text[position : position + CARD].decode("latin-1")
        field = image[image.index("=") + 1 :]
        try:
            value = parse_value(field)
        except ValueError:
            raise self.bad(keyword, field.strip(), "a FITS value") from None
        if isinstance(value, str) and value.endswith("&"):
            return self._continued(value, position + CARD)
        return value

    def integer(self, keyword: str, *, default: int | None = None) -> int:
        """Value of an integer keyword; `default`, where there is one, stands for a missing card."""
        value = self.value(keyword)
        if keyword not in self.cards:
            if default is None:
                raise FitsFormatError(f"{self.where}: {keyword} is missing; expected an integer")
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(keyword, value, "an integer")
        return value

    def bad(self, keyword: str, found: object, expected: str) -> FitsFormatError:
        """Build the error for a keyword whose value cannot be used."""
        shown = "an undefined value" if found is None else printable(repr(found), most=_MAX_FOUND)
        return FitsFormatError(f"{self.where}: {keyword}: found {shown}, expected {expected}")

    def _continued(self, value: str, position: int) -> str:
        # The long-string convention, Standard 4.0, section 4.2.1.2.
        parts = [value]
        while parts[-1].endswith("&"):
            image = self.text[position : position + CARD].decode("latin-1")
            match = _STRING.match(image[8:])
            if not image.startswith("CONTINUE") or match is None:
                break
            parts[-1] = parts[-1][:-1]
            parts.append(_unquoted(match))
            position += CARD
        return "".join(parts)


def parse_value(field: str) -> Value:
    """Parse what follows the value indicator of a card, in fixed or free format.

    Raises
    ------
    ValueError
        It is no FITS value (Standard 4.0, section 4.2).

    Examples
    --------
    >>> parse_value("                  -32 / bits per pixel")
    -32
    >>> parse_value(" 'O''Hara  ' / observer"), parse_value("1.5D3"), parse_value("  T")
    ("O'Hara", 1500.0, True)
    """
    string = _STRING.match(field)
    if string:
        return _unquoted(string)
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
    return float(f"{sign}{digits}e{(exponent or '0').replace(' ', '')}")


def find_end(text: bytes, *, start: int) -> int | None:
    """Find the END card: END alone, or with something behind it before blank cards.

    Parameters
    ----------
    text : bytes
        A header from its first card on, perhaps with more after it.
    start : int
        Where to look from, a multiple of 2880.

    Returns
    -------
    int or None
        Length of the header up to the end of the block that holds END; None where it is not there.
    """
    position = _end_card(text, start)
    return None if position is None else position - position % BLOCK + BLOCK


def _end_card(text: bytes, start: int) -> int | None:
    position = text.find(b"END", start)
    while position >= 0:
        if position % CARD == 0:
            after = position + CARD
            # Writers have padded the END card with NULs; what follows it in its block is no header.
            if not text[position + 3 : after].strip(b" \0"):
                return position
            rest = text[after : position - position % BLOCK + BLOCK]
            if rest and not rest.strip(b" \0") and _ODD_END.match(text, position):
                return position
        position = text.find(b"END", position - position % CARD + CARD)
    return None


def find_odd_end(text: bytes) -> int | None:
    """Find an END card with something behind it, where nothing better ends a header.

    Parameters
    ----------
    text : bytes
        A header from its first card on, in which `find_end` finds no END card.

    Returns
    -------
    int or None
        Length of the header up to the end of the block that holds the card; None where there is
        none, or the cards before it are no header.
    """
    for match in _ODD_END.finditer(text):
        position = match.start()
        if position % CARD == 0:
            cards = parse_header(text[:position], where="").cards
            whole = "BITPIX" in cards and "NAXIS" in cards
            return position - position % BLOCK + BLOCK if whole else None
    return None


def with_plain_end(text: bytes) -> bytes:
    """Put the END card of the Standard, and its padding, in the place of an odd one.

    Parameters
    ----------
    text : bytes
        The whole blocks of a header, as `find_end` or `find_odd_end` told its length.
    """
    last = len(text) - BLOCK
    end = _end_card(text, last)
    if end is None:
        end = next(at for at in range(last, len(text), CARD) if _ODD_END.match(text, at))
    elif not text[end + 3 : end + CARD].strip(b" \0"):
        return text
    return text[:end] + b"END".ljust(len(text) - end)


_CONTROLS = bytes.maketrans(bytes([*range(9), *range(10, 32), 127]), b" ".ljust(32, b"?"))
"""NULs to blanks, and other control characters but tabs to question marks."""


def without_controls(text: bytes) -> bytes:
    """Take the control characters out of a header, as astropy does with bytes beyond ASCII.

    Astropy refuses some cards for them and shows others as they are, to a terminal too.
    """
    return text.translate(_CONTROLS)


def check_text(text: bytes, *, start: int, where: str) -> None:
    """Raise where the keywords from `start` on are not text, so that pixels are not read as cards.

    Stray bytes in values, comments and now and then a keyword are let pass: real headers have them.
    """
    strange = []
    for position in range(start, len(text) - CARD + 1, CARD):
        keyword = text[position : position + 8]
        if _NOT_TEXT.search(keyword) and keyword.strip(b" \0"):
            strange.append((keyword, position))
            if len(strange) > _MAX_STRANGE:
                raise FitsFormatError(
                    f"{where}: no END card: found {strange[0][0]!r} at byte {strange[0][1]} of "
                    "the header, expected a keyword"
                )


def parse_header(text: bytes, *, where: str) -> RawHeader:
    """Index the structural cards of a header.

    Parameters
    ----------
    text : bytes
        The whole blocks of one header.
    where : str
        File and HDU, for messages.
    """
    cards: dict[str, int] = {}
    image = text.decode("latin-1")
    position = 0
    while match := _NEXT_CARD.match(image, position):
        name, position = match[2].upper(), match.end() - match.end() % CARD
        if not _is_settled(name, cards, image):
            cards[name] = position
        position += CARD
    return RawHeader(text, where, cards)


def _is_settled(name: str, cards: dict[str, int], image: str) -> bool:
    """Whether an earlier card with this keyword stands.

    Of two cards with one keyword astropy takes the last for the data and the first for the name,
    except for the name that compressors put before the image's own. So does this, for the same
    pixels to come out under the same name.
    """
    if name not in ("EXTNAME", "EXTVER") or name not in cards:
        return False
    return "'COMPRESSED_IMAGE'" not in image[cards[name] : cards[name] + CARD]


def _unquoted(match: re.Match[str]) -> str:
    return match.group(1).replace("''", "'").rstrip()
