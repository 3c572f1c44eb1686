"""Plate solutions, IRAF's WAT keywords and records of distortions, checked before wcslib sees them.

wcslib takes these conventions over without a check of the number of axes, of what is missing or of
how much memory it takes, and writes beyond its memory if that is wrong. Only the records may be of
an alternate WCS:

    CNPIX1, PLTRAH, AMDX1 ...    plate solution of the Digitized Sky Survey
    WAT1_001, WAT2_001 ...       IRAF's TNX and ZPX: text over many cards, a polynomial in quotes
    CPDIS1 = 'LOOKUP', DP1 = 'AXIS.1: 1' ...    a distortion, and its records of field and number
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from dask_fits.format.header import parse_value
from dask_fits.wcs.keywords import TEXT_LENGTH, WcsCard, invalid_wcs, is_lookup

_PLATE_KEYWORD = re.compile(
    r"CNPIX[12]|PPO[36]|[XY]PIXELSZ|PLTRA[HMS]|PLTDECSN|PLTDEC[DMS]|PLATEID|AMD[XY]\d{1,2}"
)
"""Keywords of a plate solution of the Digitized Sky Survey."""

_PLATE_PIXELS = frozenset({"CNPIX1", "CNPIX2", "PPO3", "PPO6", "XPIXELSZ", "YPIXELSZ"})
_PLATE_RIGHT_ASCENSION = frozenset({"PLTRAH", "PLTRAM", "PLTRAS"})
_PLATE_DECLINATION = frozenset({"PLTDECSN", "PLTDECD", "PLTDECM", "PLTDECS"})
_PLATE_COEFFICIENTS = frozenset({"AMDX1", "AMDX2", "AMDX3", "AMDY1", "AMDY2", "AMDY3"})

_PLATE_REQUIRED = _PLATE_PIXELS | _PLATE_RIGHT_ASCENSION | _PLATE_DECLINATION | _PLATE_COEFFICIENTS
"""Keywords that a plate solution must have: wcslib takes 0 for a missing one."""

_PLATE_EXCESS = re.compile(r"AMD[XY](?:1[4-9]|[2-9]\d)")
"""Coefficients of a plate solution beyond those that wcslib has memory for."""

_WAT = re.compile(r"WAT([12])_(\d{3})")
"""Axis, and number of a card among those of the axis, from 1."""

_MOST_TERMS = 20
"""Highest order of a polynomial of TNX or ZPX along one axis; real ones have up to 6."""

_WCSLIB_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d{1,2})?"

_POLYNOMIAL = re.compile(rf'[^"]*"((?:{_WCSLIB_NUMBER} )+)')
"""The first text in quotes: a polynomial's kind, orders and cross terms, its range in two pairs of
numbers, and its coefficients."""

_RECORD_KEYWORD = re.compile(r"(D[PQ])(\d{1,2})([A-Z]?)")
"""Keyword of a distortion's record: DP or DQ, axis, letter of an alternate WCS."""

_RECORD = re.compile(r" *'([A-Za-z_][A-Za-z_0-9.]*): +(" + _WCSLIB_NUMBER + r") *' *(?:/.*)?")
"""The value field of a record: field and number."""

_DISTORTION_KINDS = ("LOOKUP", "POLYNOMIAL", "TPD", "TPV")
"""Kinds of distortions that have records; wcslib makes the others itself, of other keywords."""

_MOST_PARAMETERS = 1000
"""Highest number of terms or parameters of a distortion."""

_MOST_INDEX = 59
"""Highest number of a distortion's coefficient: as TPD has them."""

_TEXT_START = re.compile(r" *'((?:[^']|'')*)'")
"""A text at the beginning of a value field."""

_AXIS_NUMBERS = re.compile(
    r"(?:WCSAXES[A-Z]?|NAXIS)|C[A-Z]{4}(\d{1,2})[A-Z]?|(?:PC|CD)(\d{1,2})_(\d{1,2})[A-Z]?"
)
"""Keywords by which wcslib counts axes, by their value or by the numbers in them."""


def repair_conventions(cards: Sequence[WcsCard], letter: str, where: str) -> list[WcsCard]:
    """Check the cards of these conventions; drop those without effect, and repair PLTDECSN.

    Parameters
    ----------
    cards : sequence of WcsCard
        The result of `repair_cards`.
    letter : str
        Letter of an alternate WCS, for which plate solutions and WAT cards do not count; empty for
        the primary one.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A keyword has a value that cannot be used, or one that is needed is missing.
    """
    try:
        axis_count = _count_axes(cards)
        kept, has_plate = _repair_plate(cards, letter, axis_count)
        kept, has_wat = _check_wat(kept, letter, axis_count)
        kept = _check_records(kept, axis_count)
    except ValueError as error:
        raise invalid_wcs(where, error) from error
    _check_combination(kept, where, has_plate=has_plate, has_wat=has_wat)
    return kept


def _check_combination(
    cards: Sequence[WcsCard], where: str, *, has_plate: bool, has_wat: bool
) -> None:
    """Raise FitsFormatError if conventions exclude each other: of two, wcslib makes CQDISi too."""
    has_sequent = any(card.keyword.startswith(("CQDIS", "DQ")) for card in cards)
    if has_plate + has_wat + has_sequent > 1:
        raise invalid_wcs(
            where,
            "found two distortions of one axis, expected one of a plate solution (PLTRAH, ...), "
            "WAT1_001 and CQDISi",
        )
    lookups = [card for card in cards if is_lookup(card)]
    if lookups and (has_plate or has_wat):
        # wcslib replaces the axis, and then has a table without one.
        raise invalid_wcs(
            where,
            f"{lookups[0].keyword}: found {lookups[0].field.strip()}, expected no table of "
            "coordinates beside a plate solution (PLTRAH, ...) or WAT1_001",
        )


def _count_axes(cards: Sequence[WcsCard]) -> int:
    """Count the axes as wcslib does: up to the highest that any card is of."""
    count = 0
    for card in cards:
        if match := _AXIS_NUMBERS.fullmatch(card.keyword):
            numbers = [int(number) for number in match.groups() if number]
            value = None if numbers else parse_value(card.field)
            count = max([count, *numbers, value if isinstance(value, int) else 0])
    return count


def _repair_plate(
    cards: Sequence[WcsCard], letter: str, axis_count: int
) -> tuple[list[WcsCard], bool]:
    """Drop an incomplete plate solution, or pad the sign of a complete one as wcslib expects it.

    Returns
    -------
    cards : list of WcsCard
    has_plate : bool
        Whether a plate solution is left in them.
    """
    plate_keywords = {card.keyword for card in cards if _PLATE_KEYWORD.fullmatch(card.keyword)}
    # Camera software writes XPIXELSZ beside an ordinary WCS.
    if letter or not plate_keywords >= _PLATE_REQUIRED:
        return [card for card in cards if card.keyword not in plate_keywords], False
    excess = [card for card in cards if _PLATE_EXCESS.fullmatch(card.keyword)]
    for card in excess:
        if parse_value(card.field) != 0:
            raise ValueError(
                f"{card.keyword}: found {card.field.strip()}, expected 0 beyond AMDX13"
            )
    if axis_count > 2:
        raise ValueError(
            f"found {axis_count} axes, expected 2 for a plate solution (PLTRAH, AMDX1, ...)"
        )
    # Of several cards the last one counts. wcslib expects the sign padded to 8 characters.
    sign = [card for card in cards if card.keyword == "PLTDECSN"][-1]
    match = _TEXT_START.match(sign.field)
    if match is None or match[1].strip() not in ("+", "-", ""):
        raise ValueError(f"PLTDECSN: found {sign.field.strip()}, expected '+' or '-'")
    padded = WcsCard("PLTDECSN", f" '{match[1]:<8}'", f"PLTDECSN= '{match[1].strip():<8}'")
    kept = [card for card in cards if card not in excess]
    return [padded if card.keyword == "PLTDECSN" else card for card in kept], True


def _check_wat(
    cards: Sequence[WcsCard], letter: str, axis_count: int
) -> tuple[list[WcsCard], bool]:
    """Drop the text of WAT cards that are of no TNX or ZPX projection, and check those that are.

    Returns
    -------
    cards : list of WcsCard
        WAT cards come last.
    has_wat : bool
        Whether they make a projection.
    """
    texts, kept = _split_wat(cards)
    kinds = [_parse_wtype(texts[axis].get(1, "")) for axis in (1, 2)]
    if letter or not {"tnx", "zpx"} & {*kinds}:
        # wcslib counts the axes of WAT cards, but needs nothing else of them.
        for axis in sorted(texts):
            if texts[axis]:
                kept.append(_wat_card(f"WAT{axis}_001", "wtype=none"))
        return kept, False
    if kinds[0] != kinds[1]:
        raise ValueError(f"WAT1_001, WAT2_001: found {kinds}, expected tnx or zpx for both")
    if axis_count > 2:
        raise ValueError(f"WAT1_001: found {axis_count} axes, expected 2 for {kinds[0]}")
    for axis in (1, 2):
        kept += _check_wat_axis(axis, texts[axis])
    return kept, True


def _split_wat(
    cards: Sequence[WcsCard],
) -> tuple[defaultdict[int, dict[int, str]], list[WcsCard]]:
    """Return the texts of WAT cards by axis and number, and the other cards."""
    texts: defaultdict[int, dict[int, str]] = defaultdict(dict)
    others = []
    for card in cards:
        match = _WAT.fullmatch(card.keyword)
        if match is None:
            others.append(card)
            continue
        text = _TEXT_START.match(card.field)
        if text is None:
            raise ValueError(f"{card.keyword}: found {card.field.strip()}, expected a text")
        texts[int(match[1])][int(match[2])] = text[1]
    return texts, others


def _parse_wtype(text: str) -> str:
    """Return the kind of projection that the first WAT text of an axis begins with."""
    match = re.match(r"wtype=(\w+)", text)
    return match[1] if match else ""


def _check_wat_axis(axis: int, texts: Mapping[int, str]) -> list[WcsCard]:
    """Check the WAT texts of one axis, by their numbers; return their cards."""
    pieces = [texts[n] for n in range(1, len(texts) + 1) if n in texts]
    if len(pieces) != len(texts) or len(pieces) > 99:
        raise ValueError(f"WAT{axis}_: found {sorted(texts)}, expected 001 to 099 without gaps")
    # Each piece fills its card: FITS drops the blanks at the end of a text, which may count here.
    _check_polynomial(axis, "".join(piece.ljust(TEXT_LENGTH) for piece in pieces))
    return [_wat_card(f"WAT{axis}_{n:03d}", piece) for n, piece in enumerate(pieces, 1)]


def _check_polynomial(axis: int, text: str) -> None:
    """Raise ValueError unless a WAT text has a polynomial with as many coefficients as it says."""
    match = _POLYNOMIAL.match(text)
    numbers = [float(number) for number in match[1].split()] if match else []
    if len(numbers) < 8 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"WAT{axis}_001: found no polynomial in quotes, expected one")
    kind, x_order, y_order, cross = (int(number) for number in numbers[:4])
    if (
        kind not in (1, 2, 3)
        or cross not in (0, 1, 2)
        or not (0 < x_order <= _MOST_TERMS and 0 < y_order <= _MOST_TERMS)
    ):
        raise ValueError(
            f"WAT{axis}_001: found a polynomial of kind {kind}, orders {x_order} and {y_order}, "
            f"cross terms {cross}; expected 1 to 3, 1 to {_MOST_TERMS}, 0 to 2"
        )
    # Kind, two orders, cross terms and the range come first; wcslib reads on without a check.
    found = len(numbers) - 8
    expected = _count_terms(x_order, y_order, cross)
    if found < expected:
        raise ValueError(f"WAT{axis}_001: found {found} coefficients, expected {expected}")


def _count_terms(x_order: int, y_order: int, cross: int) -> int:
    """Count the coefficients of a polynomial with no, all (1) or half (2) of its cross terms."""
    if cross == 0:
        return x_order + y_order - 1
    if cross == 1:
        return x_order * y_order
    # Half: the terms whose order is lower than the higher of the two.
    most = max(x_order, y_order)
    return sum(x + y < most for y in range(y_order) for x in range(x_order))


def _wat_card(keyword: str, text: str) -> WcsCard:
    """Write a WAT card."""
    return WcsCard(keyword, f" '{text}'", f"{keyword:<8}= '{text:<{TEXT_LENGTH}}'")


def _check_records(cards: Sequence[WcsCard], axis_count: int) -> list[WcsCard]:
    """Drop the records of axes that have no distortion, and check the others."""
    distortions = _find_distortions(cards)
    kept = []
    seen = set()
    for card in cards:
        match = _RECORD_KEYWORD.fullmatch(card.keyword)
        if match is not None:
            # DP1 belongs to CPDIS1, DQ1 to CQDIS1.
            if f"C{match[1][1]}DIS{match[2]}{match[3]}" not in distortions:
                continue
            field = _check_record(card, axis_count)
            if (card.keyword, field) in seen:
                raise ValueError(f"{card.keyword}: found {field} twice")
            seen.add((card.keyword, field))
        kept.append(card)
    return kept


def _find_distortions(cards: Sequence[WcsCard]) -> set[str]:
    """Return the keywords of distortions; raise ValueError if one is of a kind without records."""
    distortions = set()
    for card in cards:
        if card.keyword.startswith(("CPDIS", "CQDIS")):
            distortions.add(card.keyword)
            match = _TEXT_START.match(card.field)
            if match is not None and match[1].strip().upper() not in _DISTORTION_KINDS:
                raise ValueError(
                    f"{card.keyword}: found {match[1].strip()}, expected one of "
                    f"{', '.join(_DISTORTION_KINDS)}"
                )
    return distortions


def _check_record(card: WcsCard, axis_count: int) -> str:
    """Check a record of a distortion; return its field."""
    match = _RECORD.fullmatch(card.field)
    if match is None:
        raise ValueError(
            f"{card.keyword}: found {card.field.split('/', 1)[0].strip()}, expected a record of a "
            "field and a number, such as 'AXIS.1: 1'"
        )
    field = match[1]
    value = float(match[2])
    if any(int(number) > _MOST_INDEX for number in re.findall(r"\d+", field)):
        raise ValueError(f"{card.keyword}: found {field}, expected numbers of up to {_MOST_INDEX}")
    # Counts make wcslib allocate; coefficients may be any number.
    highest = _highest_count(field, max(axis_count, 2))
    if highest is not None and not (value == int(value) and 0 <= value <= highest):
        raise ValueError(f"{card.keyword}: found {field} = {match[2]}, expected at most {highest}")
    return field


def _highest_count(field: str, axis_count: int) -> int | None:
    """Return the highest value of a field that counts something; None if it is a coefficient."""
    if field == "NAXES" or re.fullmatch(r"AXIS\.\d+", field):
        return axis_count
    if field in ("NAUX", "NTERMS", "NPARM", "NKPARM", "EXTVER") or re.search(r"\.N\w+$", field):
        return _MOST_PARAMETERS
    return None
