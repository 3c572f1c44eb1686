"""bzip2, block by block: the blocks of a stream are independent, and threads unpack them at once.

A stream is bits, the first of a byte being its highest. Its blocks begin at any bit, with a magic
number of 48 bits, and no block tells how long it is: it ends where the next magic begins::

    BZh9 | block magic, CRC, ... | block magic, CRC, ... | end magic, CRC of all | 0 bits to a byte

Another stream may follow, and its blocks are added to those before.
"""

from __future__ import annotations

import bz2
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import TypeAlias

import numpy as np

from dask_fits.streams.decoder import CutStreamError, StreamError

_BLOCK = 0x314159265359
_END = 0x177245385090

_MAGIC_BITS = 48
_CRC_BITS = 32

_PIECE = 1 << 20
"""Unpacked bytes that are yielded at once, from a block that has been checked."""

_HEADER = b"BZh9"
"""Of a file of one block. Blocks of other levels are smaller, and do not mind."""

_CUT = "the bzip2 stream ends early"

_BAD_BLOCK = (OSError, EOFError, ValueError)
"""What bz2 raises."""

_Ahead: TypeAlias = dict[tuple[int, int], Future[bytes]]
"""Blocks that threads unpack before it is their turn, by their first bit and the one behind."""


def _magic_keys() -> list[tuple[int, int, bytes]]:
    """Return each magic at each bit of a byte, and the five bytes after that byte."""
    mask = (1 << 40) - 1
    return [
        (magic, bit, ((magic >> bit) & mask).to_bytes(5, "big"))
        for magic in (_BLOCK, _END)
        for bit in range(8)
    ]


_MAGIC_KEYS = _magic_keys()


_BATCH = 8 * 1024 * 1024
"""Packed bytes that have blocks for some threads."""


_MIN_BATCH = 512 * 1024
"""Packed bytes that have too few blocks for threads to be worth it: what is read for a header."""


class _PackedBits:
    """Packed bytes from the first one on that is needed still, and where magics are among them.

    Positions are bits from the beginning of the file on.
    """

    __slots__ = ("_bytes", "_dropped", "_searched", "magics")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._dropped = 0  # bytes of the file before these
        self._searched = 0  # all magics are known that begin in a byte of the file before this one
        self.magics: deque[int] = deque()

    def append(self, data: memoryview) -> None:
        """Take bytes, and search them for magics."""
        self._bytes += data
        first = max(self._searched - self._dropped, 0)
        behind = len(self._bytes) - 6  # a magic is in 7 bytes, unless it begins with its first one
        if behind <= first:
            return
        for magic, bit, key in _MAGIC_KEYS:
            at = self._bytes.find(key, first + 1, behind + 5)
            while at >= 0:
                position = 8 * (self._dropped + at - 1) + bit
                if self.read(position, _MAGIC_BITS) == magic:
                    self.magics.append(position)
                at = self._bytes.find(key, at + 1, behind + 5)
        self.magics = deque(sorted(self.magics))
        self._searched = self._dropped + behind

    def has_searched(self, position: int) -> bool:
        """Whether a magic that begins at a position is known."""
        return position // 8 < self._searched

    def has(self, position: int) -> bool:
        """Whether all bits before a position are there."""
        return position <= 8 * (self._dropped + len(self._bytes))

    def read(self, position: int, nbits: int) -> int:
        """Return bits that are there as a number."""
        whole = int.from_bytes(self.cut(position, position + nbits), "big")
        return (whole >> (-(position + nbits) % 8)) & ((1 << nbits) - 1)

    def cut(self, start: int, stop: int) -> bytes:
        """Return the bytes that hold the bits `start` to `stop`."""
        return bytes(self._bytes[start // 8 - self._dropped : (stop + 7) // 8 - self._dropped])

    def drop(self, position: int) -> None:
        """Forget the bytes and the magics before a position."""
        while self.magics and self.magics[0] < position:
            self.magics.popleft()
        count = min(position // 8 - self._dropped, len(self._bytes))
        del self._bytes[:count]
        self._dropped += count


def _unpack_block(packed: bytes, skip: int, nbits: int) -> bytes:
    """Unpack the block that is `nbits` bits from bit `skip` on, as a bzip2 file of its own."""
    raw = np.frombuffer(packed, np.uint8)
    shifted = raw << skip
    shifted[:-1] |= raw[1:] >> (8 - skip)
    whole, rest = divmod(nbits, 8)
    # Behind the bits that fill no byte: the end, with the CRC of a stream that has this block only.
    crc = int.from_bytes(shifted[6:10].tobytes(), "big")
    tail = (int(shifted[whole]) >> (8 - rest)) if rest else 0
    tail = (tail << (_MAGIC_BITS + _CRC_BITS)) | (_END << _CRC_BITS) | crc
    padding = -nbits % 8
    size = (rest + _MAGIC_BITS + _CRC_BITS + padding) // 8
    # This compares the CRC of the block, and that there is nothing between the block and the end.
    return bz2.decompress(
        b"".join((_HEADER, shifted[:whole].tobytes(), (tail << padding).to_bytes(size, "big")))
    )


class Bzip2Decoder:
    """Unpack a bzip2 file, or several of them one after the other, in threads.

    All bytes that are yielded are verified: those of a block once its CRC has been compared. What
    is left of a block that is cut is not yielded, as nothing would verify it. Bytes behind the last
    stream are ignored if they do not begin as another one does.

    Parameters
    ----------
    threads
        How many unpack blocks, of those that are whole within the data of one call. One more block
        than that is in memory; it has 900 kB and rarely more, but may have 46 MB if nearly all of
        its bytes are the same.
    """

    batch = _BATCH

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._bits = _PackedBits()
        self._at = 0  # the first bit that is not unpacked yet
        self._blocks = 0
        self._streams = 0
        self._in_stream = False
        self._crc = 0  # of the blocks of this stream so far
        self._reason: str | None = None  # why the next block, up to the first magic, is none
        self.length = 0
        self.ended = False

    @property
    def verified(self) -> int:
        """Bytes of these, from the first on, whose check sum has been compared: all."""
        return self.length

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Take the next packed bytes; yield the blocks that are whole now, in pieces.

        Raises
        ------
        StreamError
            A header, a block or the check sum of a stream is damaged.
        """
        if self.ended:
            return
        self._bits.append(data)
        if self._threads == 1 or len(data) < _MIN_BATCH:
            yield from self._decode_blocks(None)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            yield from self._decode_blocks(pool)

    def finish(self) -> Iterator[bytes]:
        """Yield nothing: whole blocks have been yielded, and others cannot be verified.

        Raises
        ------
        CutStreamError
            A stream has not ended.
        StreamError
            The last block is damaged.
        """
        if self._reason is not None:
            raise StreamError(f"block {self._blocks + 1}: {self._reason}")
        if self._in_stream:
            raise CutStreamError(f"block {self._blocks + 1}: {_CUT}")
        # Bytes that are the beginning of a header: no others are kept between two streams.
        if not self.ended and (not self._streams or self._bits.cut(self._at, self._at + 8)):
            raise CutStreamError(_CUT)
        self.ended = True
        yield from ()

    def _decode_blocks(self, pool: ThreadPoolExecutor | None) -> Iterator[bytes]:
        """Yield the blocks that are whole."""
        ahead: _Ahead = {}
        while self._seek_block():
            if pool is not None:
                self._look_ahead(pool, ahead)
            block = self._decode_block(ahead)
            if block is None:
                return
            for start in range(0, len(block), _PIECE):
                piece = block[start : start + _PIECE]
                self.length += len(piece)
                yield piece
            del block  # before the next one is in memory

    def _seek_block(self) -> bool:
        """Go on to the next block; return whether there is one, and a magic behind it."""
        while not self.ended:
            if not self._in_stream:
                if not self._read_header():
                    return False
                continue
            if not self._bits.has_searched(self._at):
                return False
            magics = self._bits.magics
            if not magics or magics[0] != self._at:
                raise StreamError(f"block {self._blocks + 1}: no magic number, and so no block")
            if self._bits.read(self._at, _MAGIC_BITS) == _BLOCK:
                return len(magics) > 1
            if not self._read_end():
                return False
        return False

    def _read_header(self) -> bool:
        """Go behind the header of a stream, or end where there is none; return if it came whole."""
        header = self._bits.cut(self._at, self._at + 8 * len(_HEADER))
        if not (b"BZh".startswith(header[:3]) and header[3:] in b"123456789"):
            if not self._streams:
                raise StreamError(
                    f"found {header!r}, expected BZh1 to BZh9, which bzip2 begins with"
                )
            self.ended = True
            self._bits = _PackedBits()
        elif len(header) < len(_HEADER):
            return False
        else:
            self._streams += 1
            self._in_stream = True
            self._crc = 0
            self._go_to(self._at + 8 * len(_HEADER))
        return True

    def _read_end(self) -> bool:
        """Go behind the end of a stream; return whether it came whole."""
        behind = self._at + _MAGIC_BITS + _CRC_BITS
        if not self._bits.has(behind):
            return False
        crc = self._bits.read(self._at + _MAGIC_BITS, _CRC_BITS)
        if crc != self._crc:
            raise StreamError(
                f"found the check sum {self._crc:08x} of all blocks up to block {self._blocks},"
                f" expected {crc:08x}"
            )
        self._in_stream = False
        self._go_to(behind + -behind % 8)
        return True

    def _look_ahead(self, pool: ThreadPoolExecutor, ahead: _Ahead) -> None:
        """Have threads unpack the next blocks, if there are several."""
        if len(self._bits.magics) < 3:
            return
        for start, stop in pairwise(islice(self._bits.magics, self._threads + 2)):
            if (start, stop) in ahead or self._bits.read(start, _MAGIC_BITS) == _END:
                continue
            packed = self._bits.cut(start, stop)
            ahead[start, stop] = pool.submit(_unpack_block, packed, start % 8, stop - start)

    def _decode_block(self, ahead: _Ahead) -> bytes | None:
        """Unpack the block that comes next; return None if it takes more bytes to know its end.

        Bits of a block may happen to be a magic: once in 2**48. If those up to the next magic are
        no block, those up to the one after it may be.
        """
        start, *stops = islice(self._bits.magics, 3)
        if self._reason is None:
            try:
                return self._unpack(start, stops[0], ahead)
            except _BAD_BLOCK as error:
                self._reason = str(error)
        if len(stops) == 1:
            return None
        try:
            return self._unpack(start, stops[1], ahead)
        except _BAD_BLOCK:
            raise StreamError(f"block {self._blocks + 1}: {self._reason}") from None

    def _unpack(self, start: int, stop: int, ahead: _Ahead) -> bytes:
        """Unpack the block from `start` to `stop`, and go behind it."""
        future = ahead.pop((start, stop), None)
        if future is None:
            block = _unpack_block(self._bits.cut(start, stop), start % 8, stop - start)
        else:
            block = future.result()
        crc = self._bits.read(start + _MAGIC_BITS, _CRC_BITS)
        self._crc = ((self._crc << 1 | self._crc >> 31) & 0xFFFFFFFF) ^ crc
        self._reason = None
        self._blocks += 1
        self._go_to(stop)
        return block

    def _go_to(self, position: int) -> None:
        """Have all bits before a position behind."""
        self._at = position
        self._bits.drop(position)
