"""gzip files (RFC 1952), of one member or several, and the members of zip archives."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any

from dask_fits.streams.decoder import CutStreamError, StreamError
from dask_fits.streams.inflate import InflateErrors, crc32, gzip_inflator, raw_inflator

_MAGIC = b"\x1f\x8b\x08"
"""The bytes that a gzip member begins with; the third one means DEFLATE."""

_HEADER_SIZE = 10
_HEADER = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]", re.DOTALL)
"""What a member begins with: among other bytes, as little as one in 1e11 of them looks like it."""

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
"""Flags in a header for the fields that follow it."""

_MAX_HEADER = 256 * 1024
"""Bytes of a header beyond which it is damaged: the extra field has 64 KiB at most."""

_SLICE = 128 * 1024
"""Packed bytes that are inflated at a time: the library copies those that are left each time."""

_RECENT = 8
"""Slices that are searched for another member if one has no end. What follows the end of a member
passes for a part of it for one block or two, some 20 kB, until it makes no sense."""

_PIECE = 1024 * 1024
"""Bytes of an unpacked piece at most."""

_RECORD = 2880
"""Bytes. A FITS file is whole records of as many."""


class GzipDecoder:
    """The decoding of a gzip file; see `StreamDecoder`.

    Zeros behind the last member, and anything else that is no member, are ignored, as by gzip(1).
    """

    batch = 0

    def __init__(self) -> None:
        self.length = 0
        self.verified = 0
        self.ended = False
        # Packed bytes that are inflated at a time.
        self._slice = _SLICE
        self._members = 0
        # Of the member that has begun; None between members.
        self._inflator: Any = None
        # Bytes of the header of a member, as long as more of them are to come.
        self._kept = b""
        # Packed bytes that were taken.
        self._taken = 0
        # The last packed bytes of the member that has begun.
        self._recent: deque[bytes] = deque(maxlen=_RECENT)

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Yield what the next packed bytes unpack to; see `StreamDecoder`."""
        position = 0
        while position < len(data):
            rest: memoryview | bytes = data[position : position + self._slice]
            position += len(rest)
            self._taken += len(rest)
            while len(rest) and not self.ended:
                if self._inflator is None:
                    rest = self._begin_member(bytes(rest))
                else:
                    rest = yield from self._inflate(rest)

    def finish(self) -> Iterator[bytes]:
        """Raise if the last member has not ended; see `StreamDecoder`."""
        if self._kept.startswith(_MAGIC):
            message = f"gzip member {self._members + 1}: the stream ends within its header"
            raise CutStreamError(message, self.verified)
        if self._inflator is not None:
            message = f"gzip member {self._members}: the stream ends before the member does"
            # A changed bit can hide the end of a member that is whole, and then all bytes from
            # there on are wrong. Only if nothing speaks for that, the file has been cut.
            is_cut = not self._hides_member() and not self._has_trailer()
            raise CutStreamError(message, self.length if is_cut else self.verified)
        return iter(())

    def _begin_member(self, rest: bytes) -> bytes:
        """Make an inflator if these bytes begin a member; return those that are to be inflated."""
        rest = self._kept + (rest if self._kept else rest.lstrip(b"\0"))
        self._kept = b""
        if not rest.startswith(_MAGIC[: len(rest)]):
            self.ended = True
        elif not _has_header(rest):
            # ISA-L takes some headers for damaged if they come in pieces.
            self._kept = rest
            return b""
        else:
            self._inflator = gzip_inflator()
            self._members += 1
            self._recent.clear()
        return rest

    def _inflate(self, rest: memoryview | bytes) -> Generator[bytes, None, bytes]:
        """Yield what packed bytes inflate to; return those behind the end of the member."""
        inflator = self._inflator
        for piece in _inflate(inflator, rest, f"gzip member {self._members}"):
            self.length += len(piece)
            yield piece
        if not inflator.eof:
            self._recent.append(bytes(rest))
            return b""
        # It has compared the check sum and the length.
        self.verified = self.length
        self._inflator = None
        return bytes(inflator.unused_data)

    def _hides_member(self) -> bool:
        """Return whether the last packed bytes have what looks like the beginning of a member."""
        content = b"".join(self._recent)
        # At the very beginning of the member there is its own.
        at = content.find(_MAGIC, 1)
        while at >= 0 and not _HEADER.match(content, at):
            at = content.find(_MAGIC, at + 1)
        return at >= 0

    def _has_trailer(self) -> bool:
        """Return whether the last bytes are likely a member's length, modulo 2**32 (ISIZE)."""
        isize = int.from_bytes(b"".join(self._recent)[-4:], "little")
        inflated = self.length - self.verified
        difference = (isize - inflated) % (1 << 32)
        is_near = min(difference, (1 << 32) - difference) <= inflated // 64
        return is_near or (self.verified + isize) % _RECORD == 0


def _inflate(inflator: Any, rest: memoryview | bytes, unit: str) -> Iterator[bytes]:
    """Yield what packed bytes inflate to, in pieces, until they or the stream end."""
    piece = b""
    # A full piece may have more behind it, though no packed byte is left.
    while (len(rest) or len(piece) == _PIECE) and not inflator.eof:
        try:
            piece = inflator.decompress(rest, _PIECE)
        except InflateErrors as error:
            raise StreamError(f"{unit}: {error}") from error
        rest = inflator.unconsumed_tail
        if piece:
            yield piece


def _has_header(data: bytes) -> bool:
    """Return whether bytes hold the whole header of the member that they begin (RFC 1952, 2.3)."""
    if len(data) < _HEADER_SIZE:
        return False
    flags = data[3]
    end = _HEADER_SIZE
    if flags & _FEXTRA:
        end += 2 + int.from_bytes(data[end : end + 2], "little")
    for text in (_FNAME, _FCOMMENT):
        if flags & text:
            # An end that is not found is -1, so that the sum is 0: then there is none, or not yet.
            end = data.find(b"\0", end) + 1 or len(data) + 1
    end += 2 if flags & _FHCRC else 0
    # Nobody names a file at such length: what is wrong is for the inflator to find out.
    return len(data) >= min(end, _MAX_HEADER)


class ZipMemberDecoder:
    """The decoding of one member of a zip archive, deflated or stored; see `StreamDecoder`.

    Parameters
    ----------
    deflated : bool
    size, crc : int
        Length and CRC-32 of the unpacked member, as the archive's directory has them.
    """

    batch = 0

    def __init__(self, *, deflated: bool, size: int, crc: int) -> None:
        self.length = 0
        self.verified = 0
        self.ended = False
        self._size = size
        self._crc = crc
        self._found_crc = 0
        self._inflator = raw_inflator() if deflated else None

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Yield what the next packed bytes unpack to; see `StreamDecoder`."""
        for start in range(0, len(data), _SLICE):
            for piece in self._inflate(data[start : start + _SLICE]):
                self._found_crc = crc32(piece, self._found_crc)
                self.length += len(piece)
                if self.length > self._size:
                    raise StreamError(f"found more than the {self._size} bytes of the zip member")
                yield piece

    def _inflate(self, rest: memoryview) -> Iterator[bytes]:
        if self._inflator is None:
            return iter((bytes(rest),))
        return _inflate(self._inflator, rest, "zip member")

    def finish(self) -> Iterator[bytes]:
        """Compare length and check sum with those of the directory; see `StreamDecoder`."""
        if self.length != self._size or self._found_crc != self._crc:
            raise StreamError(
                f"zip member: found {self.length} bytes with CRC {self._found_crc:08x}, expected "
                f"{self._size} with {self._crc:08x}"
            )
        self.verified = self.length
        return iter(())
