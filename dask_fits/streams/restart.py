"""Restarting the inflation of a DEFLATE stream (RFC 1951) at the beginning of one of its blocks.

A block begins at any bit of a byte, and refers to the 32 KiB of output before it, the window. The
stream cannot be shifted so that the block begins with a byte: a block that is stored, not
compressed, begins with a byte of the file as it is. So blocks that inflate to nothing are put in
front, which end at the very bit::

    file      ...|.....bbb|bbbbbbbb|bbbbbbbb|...      a block that begins at bit 5 of a byte
    restart  pppp|pppppbbb|bbbbbbbb|bbbbbbbb|...      p: empty blocks
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.streams.inflate import InflateErrors, raw_inflator

WINDOW = 32 * 1024
"""Bytes of output that a block may refer to."""

_BLANK = bytes(WINDOW)
"""A window that is as good as any other to find out how long the output is."""

_STEP = 8 * 1024
"""Packed bytes in which blocks are looked for at a time."""

_PIECE = 1024 * 1024
"""Bytes of a piece of output at most."""

_SLICE = 64 * 1024
"""Packed bytes that are inflated at a time: the library copies those that are left each time."""

_PROBE = 2 * 1024
"""Packed bytes that are inflated to see whether there is a block at all."""

_PROVEN = 1024
"""Bytes of output that must be right before a block counts."""

_PROVEN_STORED = 66_000
"""The same of a stored block, which has up to 65,535 bytes: only the next one proves that it is."""

_DYNAMIC, _STORED = 2, 0
"""Types of blocks: with Huffman codes of their own, and not compressed (RFC 1951, 3.2.3)."""


def _bits(number: int, count: int) -> list[int]:
    """List the bits of a number, the lowest first, as DEFLATE has them."""
    return [(number >> bit) & 1 for bit in range(count)]


def _empty_dynamic_block() -> list[int]:
    """List the bits of a block with codes of its own that inflates to nothing: an odd number."""
    # Two codes of one bit each, for the literal 0 and for the end of the block (256), and one for
    # distances. The lengths are coded by two codes of one bit: 1 is itself, 18 a run of zeros.
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    lengths = [1 if symbol in (1, 18) else 0 for symbol in order]
    one, zeros = [0], [1]
    block = [0, *_bits(_DYNAMIC, 2), *_bits(0, 5), *_bits(0, 5), *_bits(len(order) - 4, 4)]
    for length in lengths:
        block += _bits(length, 3)
    # 0: 1; 1 to 138 and 139 to 255: 0; 256: 1; distance 0: 1.
    block += one + zeros + _bits(138 - 11, 7) + zeros + _bits(117 - 11, 7) + one + one
    return [*block, 1]


def _empty_blocks(bit: int) -> tuple[bytes, int]:
    """Return blocks that inflate to nothing and end before a bit of a byte: bytes, and the rest."""
    fixed = [0, *_bits(1, 2), *_bits(0, 7)]
    blocks = _empty_dynamic_block() if bit % 2 else []
    while len(blocks) % 8 != bit:
        blocks += fixed
    number = sum(value << place for place, value in enumerate(blocks))
    whole = len(blocks) // 8
    return number.to_bytes(whole + 1, "little")[:whole], number >> (8 * whole)


_PREFIXES = [_empty_blocks(bit) for bit in range(8)]
"""For each bit of a byte: what is put in front of a stream that begins there."""


def stream_from_bit(data: memoryview | bytes, bit: int) -> bytes:
    """Return a stream that is to be inflated from a bit of its first byte on."""
    if bit == 0:
        return bytes(data)
    prefix, rest = _PREFIXES[bit]
    first = rest | (data[0] & (0xFF << bit) & 0xFF)
    return b"".join((prefix, bytes([first]), data[1:]))


def find_restart(packed: bytes, before: bytes, output: bytes) -> tuple[int, int] | None:
    """Find a block at which the inflation of a piece of a stream can be restarted.

    A candidate is looked for among the bits, and counts only if inflating from it gives the very
    bytes that inflating from the start of the stream gave.

    Parameters
    ----------
    packed : bytes
        A piece of the stream, which does not end it.
    before : bytes
        Output before that of the piece: the last 32 KiB, or all.
    output : bytes
        Output of the piece.

    Returns
    -------
    bit, start : int, or None
        Position of the block in the piece, in bits, and of its output in that of the piece.
    """
    for low in range(0, len(packed), _STEP):
        for bit in _candidates(packed, low, min(low + _STEP, len(packed))).tolist():
            start = _verify(packed, bit, before, output)
            if start is not None:
                return bit, start
    return None


def _verify(packed: bytes, bit: int, before: bytes, output: bytes) -> int | None:
    """Return the position of a block's output; None if there is no block at this bit."""
    byte, bit_of_byte = divmod(bit, 8)
    rest = memoryview(packed)[byte:]
    try:
        # By zlib, which finds out about most false ones sooner than ISA-L.
        probe = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_BLANK)
        probe.decompress(stream_from_bit(rest[:_PROBE], bit_of_byte))
        stream = stream_from_bit(rest, bit_of_byte)
        length = len(raw_inflator(_BLANK).decompress(stream, len(output) + 1))
        start = len(output) - length
        block_type = (int.from_bytes(packed[byte : byte + 2], "little") >> (bit_of_byte + 1)) & 3
        if start < 0 or length < (_PROVEN_STORED if block_type == _STORED else _PROVEN):
            return None
        window = (
            (before + output[:start])[-WINDOW:]
            if start < WINDOW
            else output[start - WINDOW : start]
        )
        found = raw_inflator(window).decompress(stream, len(output) + 1)
    except InflateErrors:
        return None
    return start if found == output[start:] else None


def _candidates(packed: bytes, low: int, high: int) -> Integers:
    """Find bits from byte `low` to `high` that look like the header of a block that is not last."""
    found = [_dynamic_candidates(packed, low, high), _stored_candidates(packed, low, high)]
    return np.unique(np.concatenate(found))


def _dynamic_candidates(packed: bytes, low: int, high: int) -> Integers:
    """Find what looks like a block with codes of its own: a complete code for their lengths."""
    # A header has up to 3 + 14 + 19 * 3 bits.
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)[low : high + 10], bitorder="little")
    count = min((high - low) * 8, len(bits) - 80)
    if count <= 0:
        return np.empty(0, np.int64)

    def at(place: int) -> npt.NDArray[np.uint8]:
        return bits[place : place + count]

    # Not the last block (0), and its type (2, the lower bit first).
    fits = (at(0) | at(1) | (at(2) ^ 1)) == 0
    # At most 286 codes for literals and 30 for distances: HLIT and HDIST are at most 29.
    fits &= (at(4) & at(5) & at(6) & at(7)) == 0
    fits &= (at(9) & at(10) & at(11) & at(12)) == 0
    place = np.flatnonzero(fits)
    # The lengths of HCLEN + 4 codes, 3 bits each, must make a complete code (Kraft's sum is 1).
    hclen = 4 + sum(bits[place + 13 + bit].astype(np.int64) << bit for bit in range(4))
    weights = np.array([0, 64, 32, 16, 8, 4, 2, 1], np.int64)
    triples = bits[:-2] | (bits[1:-1] << 1) | (bits[2:] << 2)
    kraft = np.zeros(len(place), np.int64)
    for number in range(19):
        where = np.minimum(place + 17 + 3 * number, len(triples) - 1)
        kraft += np.where(number < hclen, weights[triples[where]], 0)
    found: Integers = place[kraft == 128] + low * 8
    return found


def _stored_candidates(packed: bytes, low: int, high: int) -> Integers:
    """Find what looks like a stored block: its length, then the complement of that."""
    data = np.frombuffer(packed, np.uint8)[low : high + 5]
    if len(data) <= 5:
        return np.empty(0, np.int64)
    # Behind three bits of header that are zeros stand zeros up to the end of the byte. From
    # whichever of them one begins, the header is the same: take the last three bits.
    fits = (data[1:-3] ^ data[3:-1]) & (data[2:-2] ^ data[4:]) == 0xFF
    fits &= data[:-4] < 1 << 5
    bits: Integers = np.flatnonzero(fits).astype(np.int64) * 8 + (low * 8 + 5)
    return bits


def inflate_from(data: memoryview, bit: int, window: bytes, size: int) -> Iterator[bytes]:
    """Inflate a stream from a block on.

    Parameters
    ----------
    data : memoryview
        The stream from the byte on in which the block begins.
    bit : int
        Bit of this byte at which it begins.
    window : bytes
        The output before it.
    size : int
        Bytes of output, which may end within a block.

    Yields
    ------
    bytes
        The output; fewer bytes than `size` if the data end before.
    """
    inflator: Any = raw_inflator(window)
    # The first byte by itself, so that the others are not copied.
    rest: memoryview | bytes = stream_from_bit(data[:1], bit)
    position = 1
    piece = b""
    while size and not inflator.eof:
        if not len(rest) and len(piece) < _PIECE:
            if position >= len(data):
                return
            rest = data[position : position + _SLICE]
            position += len(rest)
        piece = inflator.decompress(rest, min(size, _PIECE))
        rest = inflator.unconsumed_tail
        size -= len(piece)
        if piece:
            yield piece
