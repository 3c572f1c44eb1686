"""The keywords of a header that make a WCS: checked, and mended where their meaning is clear.

wcslib leaves a keyword out that it cannot read, and its default counts, which is 0 for most; it
reads 1.0D1 as 1; behind a card without a value it leaves out the next one; and there are headers
over which it ends the process or asks for all of the memory. So each card is looked at here before
astropy sees it (FITS Standard 4.0, sections 4.2, 8).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dask_fits.exceptions import FitsFormatError
from dask_fits.format.header import parse_value

_RELEVANT = re.compile(
    r"NAXIS|WCS|CRPIX|PC\d|CD\d|CDELT|CROTA|CUNIT|CTYPE|CRVAL|CNAME|CRDER|CSYER|CZPHS|CPERI|CUBEFACE|"
    r"PV\d|PS\d|PROJP|LON|LAT|RADE|EQUI|EPOCH|SPECSYS|SSYS|VEL|ZSOU|VSOU|REST|OBSGEO|OBSORB|"
    r"TIM|TREF|PLEPH|DATE|MJD|JD|[JB]EPOCH|TSTART|TSTOP|XPOSURE|TELAPSE|"
    r"CPDIS|CPERR|CQDIS|CQERR|DP|DQ|DVERR|D2IM|AXISCORR|[AB]P?_|WAT|"
    r"PLT|PLATE|AMD|PPO|CNPIX|[XY]PIXEL|RSUN|DSUN|CRL|HGL|C_RADIUS|BLON|BLAT|BDIS",
    re.IGNORECASE,
)
"""How the keywords begin that wcslib's parser of headers, or astropy's WCS around it, looks at, and
some more; `A_RADIUS` and `B_RADIUS` look like SIP's."""

_MOST_CARDS = 10_000
"""Cards that a WCS is made of at most; astropy takes some 0.1 ms for each."""

_MOST_AXES = 32
"""Axes that a WCS of wcslib has at most."""

_INT = (1 << 31) - 1
"""Highest whole number that wcslib takes."""

_MOST_VERSION = 99_999
"""EXTVER of a table of coordinates, its EXTLEVEL, or number of an axis in it, at most."""

_MOST_ORDER = 9
"""Order of a SIP polynomial at most: that of the convention, whose keywords have one digit for it
(Shupe et al. 2005, ASP Conf. 347, 491). astropy takes minutes for one of thousands."""

_CARD = re.compile(r" *([A-Z0-9_-]{1,8}) *=(?: (.*)|$)", re.IGNORECASE)

_LETTERED = re.compile(
    r"(?:(?:CRPIX|CRVAL|CDELT|CROTA|CUNIT|CTYPE|CNAME|CRDER|CSYER|CZPHS|CPERI)\d{1,2}"
    r"|(?:PC|CD|PV|PS)\d{1,3}_\d{1,3}|LONPOLE|LATPOLE|EQUINOX|RADESYS|RESTFRQ|RESTWAV|SPECSYS"
    r"|SSYSOBS|SSYSSRC|VELOSYS|VELANGL|ZSOURCE|VSOURCE|WCSNAME|WCSAXES|EPOCH|VELREF"
    r"|C[PQ](?:DIS|ERR)\d{1,2}|D[PQ]\d{1,2}|DVERR)([A-Z]?)"
)
"""Keywords that end in the letter of an alternate WCS."""

_NEEDED = re.compile(
    r"(?:(?:CRPIX|CRVAL|CDELT|CROTA)\d{1,2}|(?:PC|CD|PV)\d{1,3}_\d{1,3})[A-Z]?|(?:PC|CD)\d{6}"
    r"|PROJP\d|CNPIX[12]|PPO[36]|[XY]PIXELSZ|PLTRA[HMS]|PLTDEC[DMS]|AMD[XY]\d{1,2}"
    r"|[AB]P?_(?:ORDER|\d{1,2}_\d{1,2})"
)
"""Numbers that a WCS cannot do without where their keyword is there."""

_COEFFICIENT = re.compile(r"([AB]P?)_\d{1,2}_\d{1,2}")
"""Of SIP; where there is no order, they may be anything."""

_WITH_DEFAULT = re.compile(
    r"(?:LONPOLE|LATPOLE|EQUINOX|EPOCH|RESTFRQ|RESTWAV|WCSAXES)[A-Z]?|RESTFREQ"
)
"""Numbers for which the Standard has a default where they are undefined."""

_TOLD = re.compile(
    r"(?:VELREF|VELOSYS|VELANGL|ZSOURCE|VSOURCE|(?:CRDER|CSYER|CZPHS|CPERI|C[PQ]ERR)\d{1,2}|DVERR)[A-Z]?"
    r"|D2IMERR\d|AXISCORR|MJD-(?:OBS|BEG|AVG|END)|M?JDREF[IF]?|[JB]EPOCH|TSTART|TSTOP|XPOSURE|TELAPSE"
    r"|TIM(?:SYER|RDER|EDEL|EPIXR|EOFFS)|OBSGEO-[XYZLBH]|[AB]_DMAX|RSUN_REF|DSUN_OBS|CRLN_OBS"
    r"|HG(?:LN|LT)_OBS|[ABC]_RADIUS|B(?:LON|LAT|DIS)_OBS"
)
"""Numbers on which no pixel's place depends: one that is none is left out, as astropy tells."""

_EQUINOX = re.compile(
    r"(?:EQUINOX|EPOCH)[A-Z]? *= *(?:'? *[JB](\d{4}(?:\.\d*)?) *'?|'? *\d+[-/]\d+[-/].*) *(?:/.*)?"
)
"""An equinox as people write it, J2000; and a date, which is none."""

_TEXTUAL = re.compile(r"(?:CTYPE|C[PQ]DIS)\d{1,2}[A-Z]?|D2IMDIS\d|PS\d{1,2}_\d{1,2}[A-Z]?")
"""Texts that astropy takes for granted."""

_WHOLE = re.compile(r"WCSAXES[A-Z]?|VELREF[A-Z]?|[AB]P?_ORDER|M?JDREFI|AXISCORR")
"""Numbers that wcslib takes without a decimal point only."""

_PLAIN = re.compile(r"[A-Z0-9_-]+ *= +([+-]?(?:\d+\.?\d*|\.\d+)(?:E[+-]?\d{1,2})?) *(?:/.*)?")
"""A number as wcslib reads it, of columns that are right."""

_TEXT = re.compile(r" *'((?:[^']|'')*)' *(?:/.*)?")


@dataclass(frozen=True, slots=True)
class WcsCard:
    """A card, and what it says."""

    keyword: str
    """In upper case; empty where the card has no value."""
    field: str
    """What follows the value indicator."""
    text: str
    """All of it, up to 80 characters."""


_ENDING = re.compile(r"AMD|PLT|PPO|CNPIX|[XY]PIXELSZ|WAT|[AB]P?_|D[PQ]|C[PQ]DIS", re.IGNORECASE)
"""How keywords begin over which wcslib ends the process if there is no value behind them."""


def wcs_cards(header: str) -> list[str]:
    """Pick the cards of a header that a WCS may depend on; of a long one astropy is slow.

    Parameters
    ----------
    header : str
        Cards of 80 characters, in Latin 1.
    """
    kept, continued = [], False
    for start in range(0, len(header), 80):
        card = header[start : start + 80]
        if not (continued and card.startswith("CONTINUE")):
            continued = _RELEVANT.match(card) is not None
        if continued:
            kept.append(card.translate(_PRINTABLE))
    return kept


_PRINTABLE = {n: " " if n < 32 else "?" for n in [*range(32), *range(127, 256)]}
"""As astropy does: what is not ASCII becomes a question mark."""


def settled(cards: Iterable[str], letter: str, where: str) -> list[WcsCard]:
    """Check the cards that a WCS is made of, and mend them.

    Cards of other WCS are left out, and those of the primary one where they are damaged and it is
    not the one that is asked for.

    Parameters
    ----------
    cards : iterable of str
        As `wcs_cards` finds them.
    letter : str
        Of an alternate WCS; empty for the primary one.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A keyword has a value that cannot be used.
    """
    found = _of_letter([_split(card) for card in _continued(cards)], letter, where)
    found = [card for card in _without_other_lookup(found, letter) if not _says_nothing(card)]
    if len(found) > _MOST_CARDS:
        raise FitsFormatError(
            f"{where}: the keywords make no WCS: expected at most {_MOST_CARDS} cards of world "
            f"coordinates, found {len(found)}"
        )
    orders = {card.keyword for card in found if card.keyword.endswith("_ORDER")}
    has_equinox = any(card.keyword == f"EQUINOX{letter}" for card in found)
    kept = []
    for card in found:
        if card.keyword == f"EPOCH{letter}" and has_equinox:
            continue  # it does not count then, and may be a date
        match = _COEFFICIENT.fullmatch(card.keyword)
        if match is not None and f"{match[1]}_ORDER" not in orders:
            continue  # it counts for nothing then
        if not card.keyword and _ENDING.match(card.text):
            continue  # it is a comment
        try:
            kept.append(_settled(card))
        except ValueError as error:
            if _kind(card.keyword).letter in (None, letter):
                raise FitsFormatError(f"{where}: the keywords make no WCS: {error}") from error
    _check_lookup(kept, letter, where)
    return kept


def _says_nothing(card: WcsCard) -> bool:
    """Tell whether a keyword is undefined and may be: wcslib then leaves out the next card."""
    is_undefined = card.keyword and not card.field.split("/", 1)[0].strip()
    return bool(is_undefined) and _kind(card.keyword).role != "needed"


def _continued(cards: Iterable[str]) -> list[str]:
    """Leave out cards that continue what is no text, or hold none."""
    kept: list[str] = []
    for card in cards:
        if card.startswith("CONTINUE"):
            before = kept[-1].rstrip() if kept else ""
            if not (before.endswith("&'") and _TEXT.fullmatch(card[8:])):
                continue
        kept.append(card)
    return kept


def _split(card: str) -> WcsCard:
    match = _CARD.match(card)
    if match is None:
        return WcsCard("", "", card)
    return WcsCard(match[1].upper(), match[2] or "", card)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a keyword stands for."""

    letter: str | None
    """Of the WCS that it is of, empty for the primary one; None if it may be of any."""
    role: str
    """"needed", "default", "told" or "other"."""
    whole: bool
    """Whether its number is a whole one."""


@lru_cache(maxsize=4096)
def _kind(keyword: str) -> _Kind:
    match = _LETTERED.fullmatch(keyword)
    roles = (
        ("needed", _NEEDED),
        ("default", _WITH_DEFAULT),
        ("told", _TOLD),
    )
    role = next((name for name, pattern in roles if pattern.fullmatch(keyword)), "other")
    return _Kind(match[1] if match else None, role, _WHOLE.fullmatch(keyword) is not None)


def _of_letter(cards: Sequence[WcsCard], letter: str, where: str) -> list[WcsCard]:
    """Leave out cards of other alternate WCS."""
    letters = [_kind(card.keyword).letter for card in cards]
    if not {*letters} & {"", letter} and (others := {*letters} - {None}):
        raise FitsFormatError(
            f"{where}: the keywords make no WCS: found alternate WCS "
            f"{', '.join(map(str, sorted(others, key=str)))} only"
        )
    wanted = (None, "", letter)
    return [card for card, own in zip(cards, letters, strict=True) if own in wanted]


def _settled(card: WcsCard) -> WcsCard:
    """Check one card, and mend it.

    Raises
    ------
    ValueError
        Its value cannot be used.
    """
    kind = _kind(card.keyword)
    if kind.role == "other":
        return _quoted(card)
    if card.text[8:10] == "= " and _PLAIN.fullmatch(card.text) and not kind.whole:
        return card
    if (match := _EQUINOX.fullmatch(card.text)) is not None:
        return _with(card, float(match[1])) if match[1] else _quoted(card)
    value = _number(card)
    if value is None:
        if kind.role == "told":
            return _quoted(card)
        raise _bad(card, "a number")
    if kind.whole and kind.role == "told" and not (value == int(value) and abs(value) <= _INT):
        return card
    if kind.whole and kind.role != "told":
        _check_whole(card, value)
    return _with(card, value)


def _check_whole(card: WcsCard, value: float) -> None:
    """Raise where astropy would hang over a number, or end the process."""
    most = _MOST_ORDER if card.keyword.endswith("_ORDER") else _MOST_AXES
    if value != int(value) or not 0 <= value <= most:
        raise _bad(card, f"a whole number from 0 to {most}")


def _number(card: WcsCard) -> float | None:
    """Value of a card that holds a finite number, else None."""
    try:
        value = parse_value(card.field)
    except ValueError:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def _bad(card: WcsCard, expected: str) -> ValueError:
    found = card.field if _TEXT.fullmatch(card.field) else card.field.split("/", 1)[0]
    shown = found.strip() or "an undefined value"
    return ValueError(f"{card.keyword}: found {shown}, expected {expected}")


def _with(card: WcsCard, value: float) -> WcsCard:
    """Write a number as wcslib reads it, with the digits that it has."""
    match = _DIGITS.match(card.field)
    text = str(value)
    if _kind(card.keyword).whole:
        text = str(int(value))
    elif match is not None:
        sign, digits, exponent = match.groups()
        text = sign + digits + (f"E{exponent.replace(' ', '')}" if exponent else "")
        text = text if len(text) <= _LONGEST else repr(float(value)).upper()
    return WcsCard(card.keyword, f" {text}", f"{card.keyword:<8}= {text:>20}")


_LONGEST = 68
"""Characters of a value that a card has room for, with quotes around it."""

_DIGITS = re.compile(r" *([+-]?) *(\d+\.?\d*|\.\d+)(?: *[DdEe] *([+-]? *\d+))?")


def _quoted(card: WcsCard) -> WcsCard:
    """Put quotes around a text that has none, as astropy does when it hands a header on.

    Raises
    ------
    ValueError
        It is a number, and must be a text.
    """
    if not card.keyword or _TEXT.fullmatch(card.field):
        return card
    try:
        value = parse_value(card.field)
    except ValueError:
        text = card.field.split(" /", 1)[0].strip().replace("'", "''")[:_LONGEST]
        if text.count("'") % 2:
            text = text[:-1]  # half of a quote
        return WcsCard(card.keyword, f" '{text}'", f"{card.keyword:<8}= '{text:<8}'")
    if value is not None and _TEXTUAL.fullmatch(card.keyword):
        raise _bad(card, "a text")
    return card


def _without_other_lookup(cards: Sequence[WcsCard], letter: str) -> list[WcsCard]:
    """Leave out that axes of the primary WCS are looked up (-TAB) if it is not the one wanted."""
    if not letter:
        return [*cards]
    return [card for card in cards if not (is_lookup(card) and _kind(card.keyword).letter == "")]


def is_lookup(card: WcsCard) -> bool:
    """Tell whether a card is the CTYPEn of an axis whose coordinates are in a table (-TAB)."""
    return card.keyword.startswith("CTYPE") and "-TAB" in card.field


def _check_lookup(cards: Sequence[WcsCard], letter: str, where: str) -> None:
    """Raise where the axes of a -TAB table are not each there once: wcslib trusts that they are."""
    values = {card.keyword: card for card in cards}
    tables = defaultdict(list)
    for card in cards:
        match = re.fullmatch(rf"CTYPE(\d+){letter}", card.keyword)
        if match and is_lookup(values[card.keyword]):
            found = [_parameter(values, f"PV{match[1]}_{m}{letter}", where) for m in (1, 2, 3)]
            names = [values.get(f"PS{match[1]}_{m}{letter}") for m in (0, 1)]
            key = *(card and _text_of(card) for card in names), *found[:2]
            tables[key].append((found[2], match[1]))
    for axes in tables.values():
        numbers = sorted({*axes})
        if [number for number, _ in numbers] != [*range(1, len(numbers) + 1)]:
            told = ", ".join(f"PV{n}_3{letter} = {number}" for number, n in numbers)
            raise FitsFormatError(
                f"{where}: the keywords make no WCS: {told}: expected each axis of the table once"
            )


def _text_of(card: WcsCard) -> str:
    match = _TEXT.fullmatch(card.field)
    return match[1].rstrip() if match else card.field.strip()


def _parameter(values: Mapping[str, WcsCard], keyword: str, where: str) -> int:
    """Value of a parameter of a -TAB axis, by default 1."""
    card = values.get(keyword)
    value = None if card is None else _number(card)
    if card is None or value is None:
        return 1
    if not (value == int(value) and 0 < value <= _MOST_VERSION):
        said = _bad(card, f"1 to {_MOST_VERSION}")
        raise FitsFormatError(f"{where}: the keywords make no WCS: {said}")
    return int(value)
