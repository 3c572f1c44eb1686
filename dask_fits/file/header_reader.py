"""The header of one HDU, read from where it begins until its END card."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

from dask_fits.exceptions import FitsFormatError, FitsWarning, TruncatedHeaderError
from dask_fits.format.header import (
    BLOCK,
    MAX_HEADER,
    check_text,
    find_end,
    find_odd_end,
    parse_header,
    with_plain_end,
)
from dask_fits.format.header_text import HeaderText
from dask_fits.format.layout import HduLayout, hdu_layout
from dask_fits.format.tiles import TiledLayout
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store

HEADER_READ = 20 * BLOCK
"""Bytes of the first read of a header (57,600: 719 cards); each further read doubles."""

MAX_TILE_TABLE = 40 * 1024
"""Bytes. A tile table up to this length is kept with the header with which it was fetched, and goes
with the tasks."""

_PACKED = "; a file compressed as a whole has no byte ranges to read: unpack it first"
_PAGE = "; the server may have answered with a web page"
_NOT_FITS = {
    **dict.fromkeys((b"\x1f\x8b", b"BZh", b"\x1f\x9d", b"PK\x03\x04", b"\xfd7zXZ"), _PACKED),
    **dict.fromkeys((b"<!", b"<html", b"<HTML", b"<?xml"), _PAGE),
}
"""What files that are taken for FITS begin with, and what to say of them."""


@dataclass(frozen=True, slots=True)
class HeaderRead:
    """An HDU whose header has been read."""

    layout: HduLayout
    text: HeaderText
    table: bytes | None
    """The tile table of a compressed image, if it is short and came with the header."""
    ahead: bytes
    """What was read of the next headers, where the data between are small."""


def read_header(store: Store, start: int, ahead: bytes, *, index: int) -> HeaderRead | None:
    """Read the header of an HDU.

    Parameters
    ----------
    store : Store
    start : int
        Byte of the file at which it begins.
    ahead : bytes
        What has been read of the file from there on.
    index : int
        Position of the HDU in the file, from 0.

    Returns
    -------
    HeaderRead or None
        None if the bytes at `start`, which are not a file's first, begin no HDU.

    Raises
    ------
    FitsFormatError
        The header cannot be understood.
    """
    size = store.version.size
    where = f"{store.name}: HDU {index}"
    text = ahead or _fetch(store, start, HEADER_READ)
    if index == 0:
        _check_is_fits(text, where)
    elif text[:8].upper() != b"XTENSION":
        if text.strip(b"\0 "):
            warn(f"{where}: {size - start} bytes after the last HDU are not FITS; ignored")
        return None
    text, length = _complete(store, start, text, where)
    return _parse(store, start, text, length, index=index)


def _complete(store: Store, start: int, text: bytes, where: str) -> tuple[bytes, int]:
    """Read on until END: the bytes read, and how many of them are the header.

    Where the file ends within the last block of a header, they are fewer than that.
    """
    searched, read = 0, HEADER_READ
    while (length := find_end(text, start=searched)) is None:
        whole = len(text) - len(text) % BLOCK
        try:
            check_text(text[:whole], start=searched, where=where)
            _check_more(store.version.size, start, len(text), where)
        except FitsFormatError:
            if (length := find_odd_end(text)) is None:
                raise
            return text, length
        searched = whole
        read = min(2 * read, MAX_HEADER - len(text))
        text += _fetch(store, start + len(text), read)
    for position in range(BLOCK, length, BLOCK):
        if text.startswith(b"XTENSION", position):
            if (length := find_odd_end(text[:position])) is None:
                raise FitsFormatError(
                    f"{where}: no END card: found the next XTENSION at byte {position} of the "
                    "header, expected END before it"
                )
            break
    return text, length


def _check_more(size: int, start: int, read: int, where: str) -> None:
    """Raise if there is no more to be read of a header at `start`, in a file of `size` bytes."""
    found = f"{where}: found no END card in {read} bytes of header, expected one"
    if start + read >= size:
        raise TruncatedHeaderError(f"{found}; the file is truncated: it ends at byte {size}")
    if read >= MAX_HEADER:
        raise FitsFormatError(found)


def _fetch(store: Store, start: int, count: int) -> bytes:
    wanted = ByteRange(start, min(start + count, store.version.size))
    if not wanted.nbytes:
        return b""
    return b"".join(bytes(data) for _, data in store.read_ranges([wanted], whole=True))


def _parse(store: Store, start: int, text: bytes, length: int, *, index: int) -> HeaderRead:
    """Understand the header that `text` begins with, `length` bytes of whole blocks."""
    size = store.version.size
    where = f"{store.name}: HDU {index}"
    header = parse_header(with_plain_end(text[:length].ljust(length)), where=where)
    layout = hdu_layout(header, index=index, start=start, file_size=size)
    if length > len(text) and layout.data_range.nbytes:
        raise TruncatedHeaderError(
            f"{where}: the file ends inside the header: found {len(text)} bytes, expected {length}"
        )
    if not header.text.startswith(text[:length]):
        warn(f"{where}: found more than END in the END card, expected blanks")
    _check_end(layout, size, where)
    ahead = text[layout.next_header - start :]
    return HeaderRead(
        layout=layout,
        text=HeaderText(header.text),
        table=_tile_table(layout, text[length:]),
        ahead=ahead if len(ahead) >= BLOCK else b"",
    )


def _check_is_fits(first: bytes, where: str) -> None:
    if not first:
        raise FitsFormatError(f"{where}: the file is empty, expected a FITS file")
    if first[:8].rstrip(b" =").upper() == b"SIMPLE":
        return
    hint = next((hint for magic, hint in _NOT_FITS.items() if first.lstrip().startswith(magic)), "")
    raise FitsFormatError(
        f"{where}: not a FITS file: found {first[:24]!r}, expected the keyword SIMPLE{hint}"
    )


def _tile_table(layout: HduLayout, ahead: bytes) -> bytes | None:
    """Take the table of a compressed image, if it is short and came with the header."""
    if not isinstance(layout.image, TiledLayout):
        return None
    nbytes = layout.image.table.nbytes
    return ahead[:nbytes] if nbytes <= min(MAX_TILE_TABLE, len(ahead)) else None


def _check_end(layout: HduLayout, size: int, where: str) -> None:
    stop = layout.data_range.stop
    if stop > size:
        warn(f"{where}: the file is truncated: it ends at byte {size}, the data at byte {stop}")
    elif layout.next_header > size:
        warn(f"{where}: the last block is not padded to {BLOCK} bytes")


warn = partial(warnings.warn, category=FitsWarning, stacklevel=2)
"""Warn of a file that is not as it should be, and can be read."""
