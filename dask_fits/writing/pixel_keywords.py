"""Keywords that count in pixels of an image, moved to those of a box of it.

::

    pixel of the image     1 2 3 4 5 6 7 8 9
    pixel of the box             1 2 3 4          origin: 3, the pixels before the box
    reference pixel                  ^            CRPIX1 of the image: 6, of the box: 6 - 3
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable

from astropy.io.fits import Card
from astropy.io.fits.card import Undefined

from dask_fits.exceptions import FitsFormatError

PIXEL_TABLES = ("WCSDVARR", "D2IMARR")
"""EXTNAMEs of distortion tables whose CRVALn count in pixels of the image."""

_WCS = re.compile(r"(?:CTYPE|CRVAL|CDELT|CRPIX)\d+([A-Z]?)|(?:PC|CD)\d+_\d+([A-Z]?)")
"""Keywords of a WCS; an alternate one has a letter at their end."""

_LTM_LTV = re.compile(r"LT[MV]\d+\S*")
"""Keywords of IRAF's physical coordinates."""


def wcs_cards_of(cards: Iterable[Card]) -> list[tuple[int, str]]:
    """Find the cards of all WCS: the position and the letter of each; empty for the primary WCS."""
    matches = ((position, _WCS.fullmatch(card.keyword)) for position, card in enumerate(cards))
    return [(position, match[1] or match[2] or "") for position, match in matches if match]


def move_pixel_keywords(cards: list[Card], starts: list[int], where: str) -> None:
    """Move the keywords that count in pixels of the image, in place.

    Parameters
    ----------
    cards : list of Card
        The header's cards.
    starts : list of int
        Pixel of the image that is the first of the box, along each axis in FITS order.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A keyword that must be changed cannot be understood.
    """
    for letter in sorted({"", *(letter for _, letter in wcs_cards_of(cards))}):
        # A WCS without CRPIXn has its reference at 0. An image without a WCS has pixel coordinates
        # for world coordinates, and keeps those that it had.
        positions = [position for position, other in wcs_cards_of(cards) if other == letter]
        last = max(positions, default=None)
        subtract_starts(cards, f"CRPIX{{}}{letter}", starts, where, after=last)

    # Logical = LTM * physical + LTV (IRAF): LTV counts in pixels of the image, whatever LTM is. An
    # image without either has no physical coordinates to keep.
    positions = [n for n, card in enumerate(cards) if _LTM_LTV.fullmatch(card.keyword)]
    if positions:
        subtract_starts(cards, "LTV{}", starts, where, after=max(positions))

    # The plate solutions of digitized sky surveys add CNPIXn, the image's first pixel on the plate,
    # to pixels: so it grows by what CRPIXn loses. They are of the first two axes.
    for position, card in enumerate(cards):
        if card.keyword in ("CNPIX1", "CNPIX2") and len(starts) > 1:
            corner = _pixel_number(card, where) + starts[int(card.keyword[-1]) - 1]
            cards[position] = with_value(card, value=corner)


def subtract_starts(
    cards: list[Card], keyword: str, starts: list[int], where: str, *, after: int | None
) -> None:
    """Subtract the origin from a keyword of each axis; a missing one has the value 0.

    Parameters
    ----------
    cards : list of Card
        The header's cards, changed in place.
    keyword : str
        Format of the keyword, for the number of the axis.
    starts : list of int
        The origin in FITS order.
    where : str
        File and HDU, for messages.
    after : int or None
        Position of the card behind which missing keywords are inserted; None for the end.
    """
    insertion = len(cards) if after is None else after + 1
    for axis, start in enumerate(starts, 1):
        # A card that does not change keeps its text, also one that cannot be understood.
        if not start:
            continue
        name = keyword.format(axis)
        positions = positions_of(cards, name)
        for position in positions:
            value = _pixel_number(cards[position], where) - start
            cards[position] = with_value(cards[position], value=value)
        if not positions:
            cards.insert(insertion, Card(name, -start))
            insertion += 1


def _pixel_number(card: Card, where: str) -> int | float:
    """Return the value of a card that counts pixels; 0 for one without a value."""
    try:
        value = card.value
    except Exception as error:  # astropy raises whatever it stumbles on
        raise FitsFormatError(f"{where}: {card.keyword}: {error}") from error
    if isinstance(value, Undefined):
        return 0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise FitsFormatError(
            f"{where}: {card.keyword}: found {value!r}, expected a number of pixels"
        )
    number: int | float = value
    return number


def with_value(card: Card, *, value: float) -> Card:
    """Return a copy of a card with another value; the card itself belongs to a template."""
    changed = copy.copy(card)
    changed.value = value
    return changed


def positions_of(cards: Iterable[Card], keyword: str) -> list[int]:
    """Find the positions of a keyword, which a damaged header may have more than once."""
    return [position for position, card in enumerate(cards) if card.keyword == keyword]
