"""The cards that make a WCS, checked and repaired before astropy sees them.

wcslib ignores a keyword whose value it cannot read and takes its default, which is 0 for most; it
reads 1.0D1 as 1; it skips the card after one without a value; and over some headers it ends the
process or allocates all of the memory. So every card is checked here first (FITS Standard 4.0,
sections 4.2, 8):

    header -> wcs_cards -> repair_cards -> conventions.repair_conventions -> astropy
              which matter  one by one     those that depend on each other
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from dask_fits.exceptions import FitsFormatError
from dask_fits.format.header import CARD, NUMBER, card_keywords, parse_value

_WCS_KEYWORD = re.compile(
    r"NAXIS|WCS|CRPIX|PC\d|CD\d|CDELT|CROTA|CUNIT|CTYPE|CRVAL|CNAME|CRDER|CSYER|CZPHS|CPERI|CUBEFACE|"
    r"PV\d|PS\d|PROJP|LON|LAT|RADE|EQUI|EPOCH|SPECSYS|SSYS|VEL|ZSOU|VSOU|REST|OBSGEO|OBSORB|"
    r"TIM|TREF|PLEPH|DATE|MJD|JD|[JB]EPOCH|TSTART|TSTOP|XPOSURE|TELAPSE|"
    r"CPDIS|CPERR|CQDIS|CQERR|DP|DQ|DVERR|D2IM|AXISCORR|[AB]P?_|WAT|"
    r"PLT|PLATE|AMD|PPO|CNPIX|[XY]PIXEL|RSUN|DSUN|CRL|HGL|C_RADIUS|BLON|BLAT|BDIS",
    re.IGNORECASE,
)
"""Beginnings of the keywords that wcslib's parser of headers or astropy's WCS reads, and of some
more; `A_RADIUS` and `B_RADIUS` look like SIP's."""

_CRASHING_KEYWORD = re.compile(
    r"AMD|PLT|PPO|CNPIX|[XY]PIXELSZ|WAT|[AB]P?_|D[PQ]|C[PQ]DIS", re.IGNORECASE
)
"""Beginnings of the keywords over which wcslib ends the process if no value follows them."""

_MOST_CARDS = 10_000
"""Highest number of cards of a WCS; astropy takes some 0.1 ms for each."""

_MOST_AXES = 32
"""Highest number of axes of a WCS of wcslib."""

_MOST_VERSION = 99_999
"""Highest EXTVER or EXTLEVEL of a table of coordinates, and number of an axis in it."""

_MOST_ORDER = 9
"""Highest order of a SIP polynomial: that of the convention, whose keywords have one digit for it
(Shupe et al. 2005, ASP Conf. 347, 491). astropy takes minutes for one of thousands."""

_MOST_INT = (1 << 31) - 1
"""Highest whole number that wcslib reads."""

TEXT_LENGTH = 68
"""Characters between the quotes of a card, at most."""

_VALUE_CARD = re.compile(r" *([A-Z0-9_-]{1,8}) *=(?: (.*)|$)", re.IGNORECASE)
"""A card with a value indicator, be it in the wrong columns: keyword and value field."""

_QUOTED_TEXT = re.compile(r" *'((?:[^']|'')*)' *(?:/.*)?")
"""The value field of a text, and its comment."""

_PLAIN_NUMBER = re.compile(r"[A-Z0-9_-]+ *= +[+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d{1,2})? *(?:/.*)?")
"""A card with a number as wcslib reads it, if its value indicator is in the right columns."""

_EQUINOX = re.compile(
    r"(?:EQUINOX|EPOCH)[A-Z]? *= *(?:'? *[JB](\d{4}(?:\.\d*)?) *'?|'? *\d+[-/]\d+[-/].*) *(?:/.*)?"
)
"""A card with an equinox as people write it, J2000, whose year is a group; or with a date, which is
no equinox."""

_LETTERED_KEYWORD = re.compile(
    r"(?:(?:CRPIX|CRVAL|CDELT|CROTA|CUNIT|CTYPE|CNAME|CRDER|CSYER|CZPHS|CPERI)\d{1,2}"
    r"|(?:PC|CD|PV|PS)\d{1,3}_\d{1,3}|LONPOLE|LATPOLE|EQUINOX|RADESYS|RESTFRQ|RESTWAV|SPECSYS"
    r"|SSYSOBS|SSYSSRC|VELOSYS|VELANGL|ZSOURCE|VSOURCE|WCSNAME|WCSAXES|EPOCH|VELREF"
    r"|C[PQ](?:DIS|ERR)\d{1,2}|D[PQ]\d{1,2}|DVERR)([A-Z]?)"
)
"""Keywords that end in the letter of an alternate WCS, which is the group."""

_REQUIRED_NUMBER = re.compile(
    r"(?:(?:CRPIX|CRVAL|CDELT|CROTA)\d{1,2}|(?:PC|CD|PV)\d{1,3}_\d{1,3})[A-Z]?|(?:PC|CD)\d{6}"
    r"|PROJP\d|CNPIX[12]|PPO[36]|[XY]PIXELSZ|PLTRA[HMS]|PLTDEC[DMS]|AMD[XY]\d{1,2}"
    r"|[AB]P?_(?:ORDER|\d{1,2}_\d{1,2})"
)
"""Keywords that must have a number if they are present: pixels depend on it."""

_DEFAULTED_NUMBER = re.compile(
    r"(?:LONPOLE|LATPOLE|EQUINOX|EPOCH|RESTFRQ|RESTWAV|WCSAXES)[A-Z]?|RESTFREQ"
)
"""Keywords of numbers for which the Standard has a default if they are undefined."""

_INFORMATIVE_NUMBER = re.compile(
    r"(?:VELREF|VELOSYS|VELANGL|ZSOURCE|VSOURCE|(?:CRDER|CSYER|CZPHS|CPERI|C[PQ]ERR)\d{1,2}|DVERR)[A-Z]?"
    r"|D2IMERR\d|AXISCORR|MJD-(?:OBS|BEG|AVG|END)|M?JDREF[IF]?|[JB]EPOCH|TSTART|TSTOP|XPOSURE|TELAPSE"
    r"|TIM(?:SYER|RDER|EDEL|EPIXR|EOFFS)|OBSGEO-[XYZLBH]|[AB]_DMAX|RSUN_REF|DSUN_OBS|CRLN_OBS"
    r"|HG(?:LN|LT)_OBS|[ABC]_RADIUS|B(?:LON|LAT|DIS)_OBS"
)
"""Keywords of numbers on which no pixel's position depends: wcslib ignores a value that is no
number, and astropy warns of it."""

_INTEGER_KEYWORD = re.compile(r"WCSAXES[A-Z]?|VELREF[A-Z]?|[AB]P?_ORDER|M?JDREFI|AXISCORR")
"""Keywords whose number wcslib reads only without a decimal point."""

_TEXT_KEYWORD = re.compile(r"(?:CTYPE|C[PQ]DIS)\d{1,2}[A-Z]?|D2IMDIS\d|PS\d{1,2}_\d{1,2}[A-Z]?")
"""Keywords whose value astropy takes for a text without a check."""

_SIP_COEFFICIENT = re.compile(r"([AB]P?)_\d{1,2}_\d{1,2}")
"""Keywords of SIP's coefficients; without an order their values may be anything."""

IRRELEVANT = re.compile(
    r"DATE|MJD|JDREF|JD-|[JB]EPOCH|TIM|TREF|TSTART|TSTOP|TELAPSE|XPOSURE|PLEPH|OBSGEO|OBSORB|"
    r"WCSNAME|CNAME|CRDER|CSYER"
)
"""Beginnings of keywords on which no position of a pixel on the sky depends."""

_TIME_AXIS = re.compile(
    r"CTYPE\d+[A-Z]?= *'(?:TIME|UTC|UT1|UT|TAI|IAT|TT|TDT|ET|TDB|TCB|TCG|GPS|LOCAL) *'"
)
"""The CTYPEn of an axis of time (FITS Standard 4.0, table 30)."""

_REFERS = re.compile(r"CPDIS|CQDIS|D2IM")
"""Beginnings of keywords that refer to tables in other HDUs."""

_PRINTABLE = {n: " " if n < 32 else "?" for n in [*range(32), *range(127, 256)]}
"""Control characters to blanks, and what is not ASCII to question marks, as astropy does."""

Role: TypeAlias = Literal["required", "defaulted", "informative", "other"]
"""What a keyword's number is needed for; "other" keywords need not have a number."""

_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("required", _REQUIRED_NUMBER),
    ("defaulted", _DEFAULTED_NUMBER),
    ("informative", _INFORMATIVE_NUMBER),
)


@dataclass(frozen=True, slots=True)
class WcsCard:
    """A header card, split at its value indicator."""

    keyword: str
    """The keyword in upper case; empty if the card has no value."""
    field: str
    """The value field: all that follows the value indicator."""
    text: str
    """The whole card, up to 80 characters."""


@dataclass(frozen=True, slots=True)
class _KeywordKind:
    """The meaning of a keyword."""

    letter: str | None
    """Letter of its WCS, empty for the primary one; None if the keyword is of all of them."""
    role: Role
    is_integer: bool
    """Whether its number must be a whole one."""


def invalid_wcs(where: str, problem: object, kind: str = "WCS") -> FitsFormatError:
    """Build the error for keywords of which no WCS can be made.

    Parameters
    ----------
    where : str
        File and HDU.
    problem : object
        The reason: a text, or an error that has one.
    kind : str
        A name of the WCS.
    """
    return FitsFormatError(f"{where}: the keywords make no {kind}: {problem}")


def wcs_cards(header: bytes) -> list[str]:
    """Pick the cards of a header that a WCS may depend on; of a long one astropy is slow.

    Parameters
    ----------
    header : bytes
        Cards of 80 characters.
    """
    kept: list[str] = []
    is_kept = False
    for number, keyword in enumerate(card_keywords(header)):
        # A CONTINUE card goes with the card that it continues.
        if not (is_kept and keyword == b"CONTINUE"):
            is_kept = _is_wcs_keyword(keyword)
        if is_kept:
            card = header[number * CARD : (number + 1) * CARD].decode("latin-1")
            plain = card.isascii() and card.isprintable()
            kept.append(card if plain else card.translate(_PRINTABLE))
    return kept


@lru_cache(maxsize=4096)
def _is_wcs_keyword(keyword: bytes) -> bool:
    """Return whether a WCS may depend on a keyword; cached, since headers have the same ones."""
    return _WCS_KEYWORD.match(keyword.decode("latin-1")) is not None


def repair_cards(cards: Iterable[str], letter: str, where: str) -> list[WcsCard]:
    """Check the cards of a WCS, and repair those whose meaning is clear.

    Cards of other alternate WCS are left out, and so are damaged cards of the primary WCS if
    another one is requested.

    Parameters
    ----------
    cards : iterable of str
        The result of `wcs_cards`.
    letter : str
        Letter of an alternate WCS; empty for the primary one.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A keyword has a value that cannot be used.
    """
    split_cards = [_split_card(card) for card in _drop_stray_continuations(cards)]
    candidates = _select_wcs(split_cards, letter, where)
    candidates = _drop_primary_lookups(candidates, letter)
    candidates = _drop_undefined(candidates)
    if len(candidates) > _MOST_CARDS:
        raise invalid_wcs(
            where,
            f"expected at most {_MOST_CARDS} cards of world coordinates, found {len(candidates)}",
        )
    repaired = []
    for card in _drop_ignored(candidates, letter):
        try:
            repaired.append(_repair_card(card))
        except ValueError as error:
            # An alternate WCS does without the damaged card of the primary one.
            if _keyword_kind(card.keyword).letter in (None, letter):
                raise invalid_wcs(where, error) from error
    _check_lookup_axes(repaired, letter, where)
    return repaired


def _drop_stray_continuations(cards: Iterable[str]) -> list[str]:
    """Leave out the CONTINUE cards that hold no text, or follow no text that is continued."""
    kept: list[str] = []
    for card in cards:
        if card.startswith("CONTINUE"):
            previous = kept[-1].rstrip() if kept else ""
            if not (previous.endswith("&'") and _QUOTED_TEXT.fullmatch(card[8:])):
                continue
        kept.append(card)
    return kept


def _split_card(card: str) -> WcsCard:
    """Split a card into keyword and value field, wherever its value indicator is."""
    match = _VALUE_CARD.match(card)
    if match is None:
        return WcsCard("", "", card)
    return WcsCard(match[1].upper(), match[2] or "", card)


@lru_cache(maxsize=4096)
def _keyword_kind(keyword: str) -> _KeywordKind:
    """Look up what a keyword means; a header has the same ones as the next, so it is cached."""
    match = _LETTERED_KEYWORD.fullmatch(keyword)
    letter = match[1] if match else None
    role: Role = next((role for role, pattern in _ROLES if pattern.fullmatch(keyword)), "other")
    return _KeywordKind(letter, role, _INTEGER_KEYWORD.fullmatch(keyword) is not None)


def letter_of(keyword: str) -> str:
    """Return the letter of the alternate WCS that a keyword belongs to; empty if to none."""
    return _keyword_kind(keyword).letter or ""


def positional_cards(text: str) -> tuple[str, ...] | None:
    """Return what the positions of pixels depend on, of cards with a line each.

    None if they depend on other HDUs, which may differ though the cards do not.
    """
    cards = [_split_card(card) for card in text.split("\n")]
    if any(_REFERS.match(card.keyword) or is_lookup(card) for card in cards):
        return None
    # An axis of time counts from a date.
    has_time = any(_TIME_AXIS.match(f"{card.keyword}={card.field}") for card in cards)
    return tuple(
        f"{card.keyword}={card.field.partition(' /')[0].strip()}"
        for card in cards
        if card.keyword and (has_time or not IRRELEVANT.match(card.keyword))
    )


def _select_wcs(cards: Sequence[WcsCard], letter: str, where: str) -> list[WcsCard]:
    """Leave out the cards of alternate WCS other than the requested one."""
    letters = [_keyword_kind(card.keyword).letter for card in cards]
    present = {card_letter for card_letter in letters if card_letter is not None}
    # Beside a primary WCS astropy itself says that the requested one is missing.
    if present and not present & {"", letter}:
        raise invalid_wcs(where, f"found alternate WCS {', '.join(sorted(present))} only")
    kept_letters = (None, "", letter)
    return [
        card
        for card, card_letter in zip(cards, letters, strict=True)
        if card_letter in kept_letters
    ]


def _drop_primary_lookups(cards: Sequence[WcsCard], letter: str) -> list[WcsCard]:
    """Leave out CTYPEn of -TAB axes of the primary WCS if another one is requested."""
    if not letter:
        return [*cards]
    return [
        card for card in cards if not (is_lookup(card) and _keyword_kind(card.keyword).letter == "")
    ]


def is_lookup(card: WcsCard) -> bool:
    """Return whether a card is the CTYPEn of an axis whose coordinates are in a table (-TAB)."""
    return card.keyword.startswith("CTYPE") and "-TAB" in card.field


def _drop_undefined(cards: Sequence[WcsCard]) -> list[WcsCard]:
    """Leave out keywords that are undefined and may be: wcslib would skip the next card."""
    return [
        card
        for card in cards
        if not card.keyword
        or card.field.split("/", 1)[0].strip()
        or _keyword_kind(card.keyword).role == "required"
    ]


def _drop_ignored(cards: Sequence[WcsCard], letter: str) -> list[WcsCard]:
    """Leave out cards whose value does not count, so that a damaged one does no harm."""
    orders = {card.keyword for card in cards if card.keyword.endswith("_ORDER")}
    has_equinox = any(card.keyword == f"EQUINOX{letter}" for card in cards)
    kept = []
    for card in cards:
        # EQUINOX takes precedence, and EPOCH may be a date.
        if card.keyword == f"EPOCH{letter}" and has_equinox:
            continue
        # SIP's coefficients count only with an order.
        match = _SIP_COEFFICIENT.fullmatch(card.keyword)
        if match is not None and f"{match[1]}_ORDER" not in orders:
            continue
        # A card without a value is a comment, which wcslib takes for a keyword nevertheless.
        if not card.keyword and _CRASHING_KEYWORD.match(card.text):
            continue
        kept.append(card)
    return kept


def _repair_card(card: WcsCard) -> WcsCard:
    """Check one card, and write its value as wcslib reads it.

    Raises
    ------
    ValueError
        Its value cannot be used.
    """
    kind = _keyword_kind(card.keyword)
    if kind.role == "other":
        return _quote_text(card)
    # Nearly all numbers are written well; these need not be parsed.
    if card.text[8:10] == "= " and _PLAIN_NUMBER.fullmatch(card.text) and not kind.is_integer:
        return card
    if (match := _EQUINOX.fullmatch(card.text)) is not None:
        # A date becomes a text, which wcslib ignores; the default counts then.
        return _write_number(card, float(match[1])) if match[1] else _quote_text(card)
    value = _parse_number(card)
    if value is None:
        if kind.role == "informative":
            return _quote_text(card)
        raise _bad_value(card, "a number")
    if kind.is_integer:
        if kind.role != "informative":
            _check_integer(card, value)
        elif value != int(value) or abs(value) > _MOST_INT:
            # wcslib ignores it as it is; its digits might be more than a card holds.
            return card
    return _write_number(card, value)


def _check_integer(card: WcsCard, value: float) -> None:
    """Raise ValueError if astropy would hang over a number of axes or an order, or crash."""
    most = _MOST_ORDER if card.keyword.endswith("_ORDER") else _MOST_AXES
    if value != int(value) or not 0 <= value <= most:
        raise _bad_value(card, f"a whole number from 0 to {most}")


def _parse_number(card: WcsCard) -> float | None:
    """Return the value of a card that holds a finite number; None for any other."""
    try:
        value = parse_value(card.field)
    except ValueError:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def _bad_value(card: WcsCard, expected: str) -> ValueError:
    """Build the error for a card whose value cannot be used."""
    found = card.field if _QUOTED_TEXT.fullmatch(card.field) else card.field.split("/", 1)[0]
    shown = found.strip() or "an undefined value"
    return ValueError(f"{card.keyword}: found {shown}, expected {expected}")


def _write_number(card: WcsCard, value: float) -> WcsCard:
    """Write a number as wcslib reads it, with the digits that the card has."""
    match = NUMBER.match(card.field.lstrip(" "))
    if _keyword_kind(card.keyword).is_integer:
        text = str(int(value))
    elif match is None:
        text = str(value)
    else:
        # wcslib reads no exponent with a D, nor a blank within a number.
        sign, digits, exponent = match.groups()
        text = sign + digits + (f"E{exponent.replace(' ', '')}" if exponent else "")
        text = text if len(text) <= TEXT_LENGTH else repr(float(value)).upper()
    return WcsCard(card.keyword, f" {text}", f"{card.keyword:<8}= {text:>20}")


def _quote_text(card: WcsCard) -> WcsCard:
    """Put quotes around a text that has none, as astropy does when it hands a header on.

    Raises
    ------
    ValueError
        It is a number, and must be a text.
    """
    if not card.keyword or _QUOTED_TEXT.fullmatch(card.field):
        return card
    try:
        value = parse_value(card.field)
    except ValueError:
        text = card.field.split(" /", 1)[0].strip().replace("'", "''")[:TEXT_LENGTH]
        if text.count("'") % 2:
            text = text[:-1]  # the cut went through a pair of quotes
        return WcsCard(card.keyword, f" '{text}'", f"{card.keyword:<8}= '{text:<8}'")
    if value is not None and _TEXT_KEYWORD.fullmatch(card.keyword):
        raise _bad_value(card, "a text")
    return card


def _check_lookup_axes(cards: Sequence[WcsCard], letter: str, where: str) -> None:
    """Raise FitsFormatError unless each axis of a -TAB table is there once: wcslib trusts it is."""
    # Of several cards with one keyword the last one counts.
    card_of = {card.keyword: card for card in cards}
    axes_of_table: dict[tuple[str | int | None, ...], set[tuple[int, str]]] = defaultdict(set)
    for card in cards:
        match = re.fullmatch(rf"CTYPE(\d+){letter}", card.keyword)
        if not match or not is_lookup(card_of[card.keyword]):
            continue
        n = match[1]
        version = _lookup_parameter(card_of, f"PV{n}_1{letter}", where)
        level = _lookup_parameter(card_of, f"PV{n}_2{letter}", where)
        table_axis = _lookup_parameter(card_of, f"PV{n}_3{letter}", where)
        name = _lookup_name(card_of, f"PS{n}_0{letter}")
        column = _lookup_name(card_of, f"PS{n}_1{letter}")
        axes_of_table[name, column, version, level].add((table_axis, n))
    for axes in axes_of_table.values():
        ordered = sorted(axes)
        if [table_axis for table_axis, _ in ordered] != [*range(1, len(ordered) + 1)]:
            found = ", ".join(f"PV{n}_3{letter} = {table_axis}" for table_axis, n in ordered)
            raise invalid_wcs(where, f"{found}: expected each axis of the table once")


def _lookup_name(card_of: Mapping[str, WcsCard], keyword: str) -> str | None:
    """Return the text of a parameter of a -TAB axis, without blanks at its end; None if absent."""
    card = card_of.get(keyword)
    if card is None:
        return None
    match = _QUOTED_TEXT.fullmatch(card.field)
    return match[1].rstrip() if match else card.field.strip()


def _lookup_parameter(card_of: Mapping[str, WcsCard], keyword: str, where: str) -> int:
    """Return the value of a numeric parameter of a -TAB axis, by default 1."""
    card = card_of.get(keyword)
    value = None if card is None else _parse_number(card)
    if card is None or value is None:
        return 1
    if not (value == int(value) and 0 < value <= _MOST_VERSION):
        raise invalid_wcs(where, _bad_value(card, f"1 to {_MOST_VERSION}"))
    return int(value)
