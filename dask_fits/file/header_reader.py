"""Reading the header of one HDU, from its first byte to its END card."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from dask_fits.exceptions import FitsFormatError, FitsWarning, TruncatedHeaderError
from dask_fits.format.header import (
    BLOCK,
    MAX_HEADER,
    check_text,
    find_end,
    find_odd_end,
    parse_header,
    replace_odd_end,
)
from dask_fits.format.header_text import HeaderText
from dask_fits.format.layout import HduLayout, hdu_layout
from dask_fits.format.tiles import TiledLayout
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store

HEADER_READ = 20 * BLOCK
"""Size of the first read of a header, in bytes (57,600: 719 cards and END); the others double."""

MAX_TILE_TABLE = 40 * 1024
"""Tile tables up to this size, in bytes, are kept if they were fetched together with the header;
they are then part of each task."""

_PAGE = "; the server may have answered with a web page"
_MAGIC_HINTS = {
    **dict.fromkeys((b"<!", b"<html", b"<HTML", b"<?xml"), _PAGE),
}
"""First bytes of files that are mistaken for FITS, and hints for the message about them."""


@dataclass(frozen=True, slots=True)
class HeaderRead:
    """The header of an HDU, and the bytes that were read together with it."""

    layout: HduLayout
    text: HeaderText
    tile_table: bytes | None
    """The tile table of a compressed image, if it is short and came with the header."""
    read_ahead: bytes
    """Bytes from the next header on, if the data unit is so small that some were read."""


def read_header(store: Store, start: int, read_ahead: bytes, *, index: int) -> HeaderRead | None:
    """Read the header of an HDU.

    Parameters
    ----------
    store : Store
    start : int
        Byte of the file at which the header begins.
    read_ahead : bytes
        Bytes of the file from there on that have been read already.
    index : int
        Position of the HDU in the file, from 0.

    Returns
    -------
    HeaderRead or None
        None if there is no HDU at `start`, behind the last one.

    Raises
    ------
    FitsFormatError
        The header cannot be understood.
    """
    where = f"{store.name}: HDU {index}"
    text = read_ahead or store.peek(start, HEADER_READ)
    if index == 0:
        _check_is_fits(text, where)
    elif text[:8].upper() != b"XTENSION":
        if text.strip(b"\0 "):
            # The length of a file that is compressed as a whole is not known.
            count = "" if store.packing else f"{store.max_size - start} "
            warn(f"{where}: {count}bytes after the last HDU are not FITS; ignored")
        return None
    text, length = _read_to_end(store, start, text, where)
    return _parse(store, start, text, length, index=index)


def _read_to_end(store: Store, start: int, text: bytes, where: str) -> tuple[bytes, int]:
    """Read on until the END card.

    Returns
    -------
    text : bytes
        All bytes from `start` on that have been read.
    length : int
        Length of the header, in whole blocks. More than that of `text`, if the file ends within the
        last block.
    """
    searched = 0
    read_size = HEADER_READ
    while (length := find_end(text, start=searched)) is None:
        whole_blocks = len(text) - len(text) % BLOCK
        try:
            # If END is missing, reading on would read pixels: bytes that are no keywords stop it.
            check_text(text[:whole_blocks], start=searched, where=where)
            _check_can_continue(store.max_size, start, len(text), where)
            # Reads double, so that a long header takes few requests and a short one few bytes.
            read_size = min(2 * read_size, MAX_HEADER - len(text))
            if not (more := store.peek(start + len(text), read_size)):
                _check_can_continue(start + len(text), start, len(text), where)
        except FitsFormatError:
            # An END card with something behind it counts only if no proper one follows.
            if (length := find_odd_end(text)) is None:
                raise
            return text, length
        searched = whole_blocks
        text += more

    # If the next header begins before it, END belongs to that one.
    for position in range(BLOCK, length, BLOCK):
        if text.startswith(b"XTENSION", position):
            if (length := find_odd_end(text[:position])) is None:
                raise FitsFormatError(
                    f"{where}: no END card: found the next XTENSION at byte {position} of the "
                    "header, expected END before it"
                )
            break
    return text, length


def _check_can_continue(size: int, start: int, read: int, where: str) -> None:
    """Raise if a header at `start`, of which `read` bytes have been read, cannot be longer.

    Parameters
    ----------
    size : int
        Size of the file, in bytes.
    start : int
        Byte of the file at which the header begins.
    read : int
        Number of bytes of the header that have been read.
    where : str
        The file and the HDU, for messages.
    """
    message = f"{where}: found no END card in {read} bytes of header, expected one"
    if start + read >= size:
        raise TruncatedHeaderError(f"{message}; the file is truncated: it ends at byte {size}")
    if read >= MAX_HEADER:
        raise FitsFormatError(message)


def _parse(store: Store, start: int, text: bytes, length: int, *, index: int) -> HeaderRead:
    """Parse the header that `text` begins with, `length` bytes of whole blocks."""
    size = store.max_size
    where = f"{store.name}: HDU {index}"
    header = parse_header(replace_odd_end(text[:length].ljust(length)), where=where)
    # The padding of the last block may be missing.
    header_range = ByteRange(start, max(start, min(start + header.nbytes, size)))
    layout = hdu_layout(header, index=index, header_range=header_range, file_size=size)
    if length > len(text) and layout.data_range.nbytes:
        raise TruncatedHeaderError(
            f"{where}: the file ends inside the header: found {len(text)} bytes, expected {length}"
        )
    if not header.raw.startswith(text[:length]):
        warn(f"{where}: found more than END in the END card, expected blanks")
    warn_if_truncated(layout, size, where)
    read_ahead = text[layout.next_header - start :]
    return HeaderRead(
        layout=layout,
        text=HeaderText(header),
        tile_table=_tile_table(layout, text[length:]),
        read_ahead=read_ahead if len(read_ahead) >= BLOCK else b"",
    )


def _check_is_fits(first: bytes, where: str) -> None:
    """Raise FitsFormatError if a file's first bytes are not those of a FITS file."""
    if not first:
        raise FitsFormatError(f"{where}: the file is empty, expected a FITS file")
    if first[:8].rstrip(b" =").upper() == b"SIMPLE":
        return
    content = first.lstrip()
    hint = next((hint for magic, hint in _MAGIC_HINTS.items() if content.startswith(magic)), "")
    raise FitsFormatError(
        f"{where}: not a FITS file: found {first[:24]!r}, expected the keyword SIMPLE{hint}"
    )


def _tile_table(layout: HduLayout, data: bytes) -> bytes | None:
    """Return the table of a compressed image, if it is short and among the data that were read."""
    if not isinstance(layout.image, TiledLayout):
        return None
    nbytes = layout.image.table.nbytes
    return data[:nbytes] if nbytes <= min(MAX_TILE_TABLE, len(data)) else None


def warn_if_truncated(layout: HduLayout, size: int, where: str) -> None:
    """Warn if the file of `size` bytes ends within the data unit or its padding."""
    stop = layout.data_range.stop
    if stop > size:
        warn(f"{where}: the file is truncated: it ends at byte {size}, the data at byte {stop}")
    elif layout.next_header > size:
        warn(f"{where}: the last block is not padded to {BLOCK} bytes")


_are_told = ContextVar("_are_told", default=True)
"""Whether this thread warns of what it finds in files."""


def warn(message: str) -> None:
    """Warn that a file departs from the FITS Standard, but can be read."""
    if _are_told.get():
        warnings.warn(message, category=FitsWarning, stacklevel=3)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Warn of nothing in this thread: for who notes what there is to say, of ten thousand files."""
    token = _are_told.set(False)
    try:
        yield
    finally:
        _are_told.reset(token)
