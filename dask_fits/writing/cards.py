"""Cards of headers: which are kept, and their bytes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping

from astropy.io.fits import Card, Header

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.format.header import BLOCK, CARD

_CONTROLS = bytes(range(32)) + b"\x7f"

_CONTROLS_TO_BLANKS = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))


def drop_cards(cards: Iterable[Card], keywords: re.Pattern[str]) -> list[Card]:
    """Return the cards whose keyword does not match."""
    return [card for card in cards if not keywords.fullmatch(card.keyword)]


def comment_of(header: Header, keyword: str) -> str | None:
    """Return the comment of a keyword; None if astropy cannot parse the card."""
    try:
        return str(header.comments[keyword])
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on)
        return None


def header_bytes(
    cards: Iterable[Card], where: str, card_bytes: Mapping[int, bytes] | None = None
) -> bytes:
    """Make the blocks of a header.

    Parameters
    ----------
    cards : iterable of Card
    where : str
        File and HDU, for messages.
    card_bytes : mapping of int to bytes, optional
        The cards that are formatted already, by their `id`.
    """
    done = {} if card_bytes is None else card_bytes
    text = b"".join(done.get(id(card)) or format_card(card, where) for card in cards)
    text += b"END".ljust(CARD)
    return text + b" " * (-len(text) % BLOCK)


def format_card(card: Card, where: str) -> bytes:
    """Make the bytes of a card, corrected where astropy can: 80, or more if it is continued."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            card.verify("silentfix+ignore")
            text = str(card)
    except Exception as error:  # astropy raises whatever it stumbles on
        message = f"cannot be written: {one_line(error)}"
        raise FitsFormatError(f"{where}: {card.keyword}: {message}") from error
    # A header is printable ASCII, and nothing else.
    raw = text.encode("ascii", "replace").translate(_CONTROLS_TO_BLANKS)
    return raw + b" " * (-len(raw) % CARD)
