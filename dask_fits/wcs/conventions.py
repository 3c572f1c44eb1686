"""Plate solutions, IRAF's WAT keywords and records of distortions, checked before wcslib sees them.

It takes these conventions over without a look at how many axes there are, what is missing or how
much is asked for, and writes beyond its memory where that is wrong.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from dask_fits.exceptions import FitsFormatError
from dask_fits.format.header import parse_value
from dask_fits.wcs.keywords import WcsCard, is_lookup

_PLATE = re.compile(
    r"CNPIX[12]|PPO[36]|[XY]PIXELSZ|PLTRA[HMS]|PLTDECSN|PLTDEC[DMS]|PLATEID|AMD[XY]\d{1,2}"
)
"""A plate solution of the Digitized Sky Survey."""

_PLATE_NEEDS = frozenset(
    [
        *("CNPIX1", "CNPIX2", "PPO3", "PPO6", "XPIXELSZ", "YPIXELSZ"),
        *("PLTRAH", "PLTRAM", "PLTRAS", "PLTDECSN", "PLTDECD", "PLTDECM", "PLTDECS"),
        *("AMDX1", "AMDX2", "AMDX3", "AMDY1", "AMDY2", "AMDY3"),
    ]
)
"""What it cannot do without: wcslib takes 0 for what is missing."""

_BEYOND = re.compile(r"AMD[XY](?:1[4-9]|[2-9]\d)")
"""Coefficients for which wcslib has no place."""

_WAT = re.compile(r"WAT([12])_(\d{3})")
_WAT_LENGTH = 68
_MOST_TERMS = 20
"""Order of a polynomial of TNX or ZPX at most, along one axis; real ones have up to 6."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[Ee][+-]?\d{1,2})?"
_SURFACE = re.compile(rf'[^"]*"((?:{_NUMBER} )+)')
"""What comes first in quotes: a polynomial's kind, orders and cross terms, range, coefficients."""

_RECORD = re.compile(r" *'([A-Za-z_][A-Za-z_0-9.]*): +(" + _NUMBER + r") *' *(?:/.*)?")
_RECORDED = re.compile(r"(D[PQ])(\d{1,2})([A-Z]?)")
_KINDS = ("LOOKUP", "POLYNOMIAL", "TPD", "TPV")
"""Distortions that have records; wcslib takes others only as what it made of other keywords."""

_MOST_PARAMETERS = 1000
"""Terms or parameters of a distortion at most."""

_MOST_INDEX = 59
"""Number of a coefficient of a distortion at most: as TPD has them."""

_STRING = re.compile(r" *'((?:[^']|'')*)'")
_AXIS = re.compile(
    r"(?:WCSAXES[A-Z]?|NAXIS)|C[A-Z]{4}(\d{1,2})[A-Z]?|(?:PC|CD)(\d{1,2})_(\d{1,2})[A-Z]?"
)


def settle_conventions(cards: Sequence[WcsCard], letter: str, where: str) -> list[WcsCard]:
    """Check the cards of these conventions, and leave out what says nothing.

    Parameters
    ----------
    cards : sequence of WcsCard
        Those of `settled`.
    letter : str
        Of an alternate WCS; empty for the primary one, which alone they are of.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A keyword has a value that cannot be used, or one that is needed is missing.
    """
    try:
        axes = _axes(cards)
        found, has_plate = _plate(cards, letter, axes)
        found, has_surface = _surfaces(found, letter, axes)
        found = _records(found, axes)
    except ValueError as error:
        raise FitsFormatError(f"{where}: the keywords make no WCS: {error}") from error
    has_sequent = any(card.keyword.startswith(("CQDIS", "DQ")) for card in found)
    if has_plate + has_surface + has_sequent > 1:
        raise FitsFormatError(
            f"{where}: the keywords make no WCS: found two distortions of one axis, expected "
            "one of a plate solution (PLTRAH, ...), WAT1_001 and CQDISi"
        )
    lookups = [card for card in found if is_lookup(card)]
    if lookups and (has_plate or has_surface):
        # wcslib makes another axis of it, and then has a table without one.
        raise FitsFormatError(
            f"{where}: the keywords make no WCS: {lookups[0].keyword}: found "
            f"{lookups[0].field.strip()}, expected no table of coordinates beside a plate solution "
            "(PLTRAH, ...) or WAT1_001"
        )
    return found


def _axes(cards: Sequence[WcsCard]) -> int:
    """Count the axes that wcslib takes: up to the highest that any card is of."""
    found = 0
    for card in cards:
        if match := _AXIS.fullmatch(card.keyword):
            numbers = [int(number) for number in match.groups() if number]
            value = parse_value(card.field) if not numbers else None
            found = max([found, *numbers, value if isinstance(value, int) else 0])
    return found


def _plate(cards: Sequence[WcsCard], letter: str, axes: int) -> tuple[list[WcsCard], bool]:
    """Leave out a plate solution that is not whole, and pad its sign as wcslib expects it."""
    plate = {card.keyword for card in cards if _PLATE.fullmatch(card.keyword)}
    others = [card for card in cards if card.keyword not in plate]
    if letter or not plate >= _PLATE_NEEDS:
        return others, False
    beyond = [card for card in cards if _BEYOND.fullmatch(card.keyword)]
    for card in beyond:
        if parse_value(card.field) != 0:
            raise ValueError(
                f"{card.keyword}: found {card.field.strip()}, expected 0 beyond AMDX13"
            )
    if axes > 2:
        raise ValueError(f"found {axes} axes, expected 2 for a plate solution (PLTRAH, AMDX1, ...)")
    signs = [card for card in cards if card.keyword == "PLTDECSN"]
    match = _STRING.match(signs[-1].field)
    if match is None or match[1].strip() not in ("+", "-", ""):
        raise ValueError(f"PLTDECSN: found {signs[-1].field.strip()}, expected '+' or '-'")
    sign = WcsCard("PLTDECSN", f" '{match[1]:<8}'", f"PLTDECSN= '{match[1].strip():<8}'")
    kept = [card for card in cards if card not in beyond]
    return [sign if card.keyword == "PLTDECSN" else card for card in kept], True


def _surfaces(cards: Sequence[WcsCard], letter: str, axes: int) -> tuple[list[WcsCard], bool]:
    """Leave out WAT cards that are of no TNX or ZPX projection, and check those that are."""
    texts: dict[int, dict[int, str]] = defaultdict(dict)
    others = []
    for card in cards:
        match = _WAT.fullmatch(card.keyword)
        if match is None:
            others.append(card)
            continue
        text = _STRING.match(card.field)
        if text is None:
            raise ValueError(f"{card.keyword}: found {card.field.strip()}, expected a text")
        texts[int(match[1])][int(match[2])] = text[1]
    kinds = [_kind(texts[axis].get(1, "")) for axis in (1, 2)]
    if letter or not {"tnx", "zpx"} & {*kinds}:
        # wcslib counts their axes, though it needs no more of them.
        return [
            *others,
            *(_card(f"WAT{axis}_001", "wtype=none") for axis in sorted(texts) if texts[axis]),
        ], False
    if kinds[0] != kinds[1]:
        raise ValueError(f"WAT1_001, WAT2_001: found {kinds}, expected tnx or zpx for both")
    if axes > 2:
        raise ValueError(f"WAT1_001: found {axes} axes, expected 2 for {kinds[0]}")
    for axis in (1, 2):
        others += _surface(axis, texts[axis])
    return others, True


def _kind(text: str) -> str:
    match = re.match(r"wtype=(\w+)", text)
    return match[1] if match else ""


def _surface(axis: int, texts: Mapping[int, str]) -> list[WcsCard]:
    """Check the polynomial of one axis; the cards that it is made of."""
    pieces = [texts[n] for n in range(1, len(texts) + 1) if n in texts]
    if len(pieces) != len(texts) or len(pieces) > 99:
        raise ValueError(f"WAT{axis}_: found {sorted(texts)}, expected 001 to 099 without gaps")
    whole = "".join(piece.ljust(_WAT_LENGTH) for piece in pieces)
    match = _SURFACE.match(whole)
    numbers = [float(number) for number in match[1].split()] if match else []
    if len(numbers) < 8 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"WAT{axis}_001: found no polynomial in quotes, expected one")
    kind, x, y, cross = (int(number) for number in numbers[:4])
    if (
        kind not in (1, 2, 3)
        or cross not in (0, 1, 2)
        or not (0 < x <= _MOST_TERMS and 0 < y <= _MOST_TERMS)
    ):
        raise ValueError(
            f"WAT{axis}_001: found a polynomial of kind {kind}, orders {x} and {y}, cross terms "
            f"{cross}; expected 1 to 3, 1 to {_MOST_TERMS}, 0 to 2"
        )
    terms = x * y if cross == 1 else x + y - 1 if cross == 0 else _half(x, y)
    if len(numbers) < 8 + terms:
        raise ValueError(f"WAT{axis}_001: found {len(numbers) - 8} coefficients, expected {terms}")
    return [_card(f"WAT{axis}_{n:03d}", piece) for n, piece in enumerate(pieces, 1)]


def _half(x: int, y: int) -> int:
    """Count the terms whose order is lower than the higher of the two."""
    return sum(m + n < max(x, y) for n in range(y) for m in range(x))


def _card(keyword: str, text: str) -> WcsCard:
    return WcsCard(keyword, f" '{text}'", f"{keyword:<8}= '{text:<{_WAT_LENGTH}}'")


def _records(cards: Sequence[WcsCard], axes: int) -> list[WcsCard]:
    """Leave out records of axes that have no distortion, and check the others."""
    distorted = set()
    for card in cards:
        if card.keyword.startswith(("CPDIS", "CQDIS")):
            distorted.add(card.keyword)
            kind = _STRING.match(card.field)
            if kind is not None and kind[1].strip().upper() not in _KINDS:
                raise ValueError(
                    f"{card.keyword}: found {kind[1].strip()}, expected one of {', '.join(_KINDS)}"
                )
    found, known = [], set()
    for card in cards:
        match = _RECORDED.fullmatch(card.keyword)
        if match is not None:
            if f"C{match[1][1]}DIS{match[2]}{match[3]}" not in distorted:
                continue
            field = _check_record(card, axes)
            if (card.keyword, field) in known:
                raise ValueError(f"{card.keyword}: found {field} twice")
            known.add((card.keyword, field))
        found.append(card)
    return found


def _check_record(card: WcsCard, axes: int) -> str:
    """Check a record of a distortion; its field."""
    match = _RECORD.fullmatch(card.field)
    if match is None:
        raise ValueError(
            f"{card.keyword}: found {card.field.split('/', 1)[0].strip()}, expected a record of a "
            "field and a number, such as 'AXIS.1: 1'"
        )
    field, value = match[1], float(match[2])
    if any(int(number) > _MOST_INDEX for number in re.findall(r"\d+", field)):
        raise ValueError(f"{card.keyword}: found {field}, expected numbers of up to {_MOST_INDEX}")
    most = _most(field, max(axes, 2))
    if most is not None and not (value == int(value) and 0 <= value <= most):
        raise ValueError(f"{card.keyword}: found {field} = {match[2]}, expected at most {most}")
    return field


def _most(field: str, axes: int) -> int | None:
    """Highest number that a field may have; None where it is any number."""
    if field == "NAXES" or re.fullmatch(r"AXIS\.\d+", field):
        return axes
    if field in ("NAUX", "NTERMS", "NPARM", "NKPARM", "EXTVER") or re.search(r"\.N\w+$", field):
        return _MOST_PARAMETERS
    return None
