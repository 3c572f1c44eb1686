"""RICE_1: pixel differences in Rice's code (FITS Standard 4.0, section 10.4.1).

A stream is the first pixel as it is, then blocks of differences. Each block begins with a few bits,
its kind: 0, all its differences are zero; the largest, they come as they are; otherwise they come
in two parts, and the kind tells how many bits the lower one has, plus 1. The upper part is as many
0 bits as it counts, and a 1::

    first pixel | kind | code code ... | kind | code code ... |      a code: 000...1 | lower bits

Bits are taken from the top of a window of 64, into which whole bytes are filled from below::

    window  [ count bits at hand ..................| zeros or bits that are read again ]
    data                                           ^ at: the first byte that is not at hand
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.compiled import Scalar, Word, kernel, leading_zeros

_RICE_REASONS = ("the RICE_1 stream ends early", "the RICE_1 stream has a block of no known kind")
_ENDS_EARLY, _UNKNOWN_KIND = range(len(_RICE_REASONS))
"""Status of a damaged tile: an index in `_RICE_REASONS`."""

_ONE = np.uint64(1)

_GROUP = 4
"""Pixels that are decoded before it is checked whether the bits at hand sufficed."""

_STRIP = 1024
"""Pixels that stay in the nearest cache from one step to the next."""


@kernel()
def _last_bytes(data: Bytes, at: Scalar) -> Scalar:
    """Return the bytes from `at` on, fewer than 8, as the top of a big-endian number."""
    if at >= len(data):
        return np.uint64(0)
    word = np.uint64(0)
    for i in range(at, len(data)):
        word = (word << np.uint64(8)) | np.uint64(data[np.uint64(i)])
    return word << np.uint64(8 * (at + 8 - len(data)))


@kernel(inline="always")
def _refill(data: Bytes, at: Scalar, window: Word, count: Scalar) -> Scalar:
    """Fill the window up to 56 to 63 bits; return `at`, `window` and `count`.

    The top `count` bits of `window`, which end before byte `at`, are kept. Behind the end of the
    stream there are zeros.
    """
    if at + 8 <= len(data):
        i = np.uint64(at)  # a signed index would be tried for being negative
        word = (  # becomes one load
            (np.uint64(data[i]) << np.uint64(56))
            | (np.uint64(data[i + np.uint64(1)]) << np.uint64(48))
            | (np.uint64(data[i + np.uint64(2)]) << np.uint64(40))
            | (np.uint64(data[i + np.uint64(3)]) << np.uint64(32))
            | (np.uint64(data[i + np.uint64(4)]) << np.uint64(24))
            | (np.uint64(data[i + np.uint64(5)]) << np.uint64(16))
            | (np.uint64(data[i + np.uint64(6)]) << np.uint64(8))
            | np.uint64(data[i + np.uint64(7)])
        )
    else:
        word = _last_bytes(data, at)
    # The last bits of `word` that find no room as whole bytes are read again the next time.
    return at + ((63 - count) >> 3), window | (word >> np.uint64(count)), count | 56


@kernel()
def _seek(data: Bytes, position: Scalar) -> Scalar:
    """Fill a window with at least 49 bits from a bit position on; return as `_refill` does."""
    skip = position & 7
    at, window, count = _refill(data, position >> 3, np.uint64(0), np.int64(0))
    return at, window << np.uint64(skip), count - skip


@kernel()
def _read_long_code(data: Bytes, position: Scalar, nlow: Word) -> Scalar:
    """Read a code of any length at a bit position; return it and the position after it."""
    # The upper part: zeros, window by window, up to a 1.
    upper = np.int64(0)
    _, window, count = _seek(data, position)
    while window >> np.uint64(64 - count) == 0 and position < 8 * len(data):
        upper += count
        position += count
        _, window, count = _seek(data, position)
    zeros = np.int64(leading_zeros(window))
    upper += zeros
    position += zeros + 1
    # The lower part, which may lie in the next window.
    _, window, _ = _seek(data, position)
    lower = (window >> _ONE) >> (np.uint64(63) - nlow)  # shifts by 64 have no meaning
    return (np.uint64(upper) << nlow) | lower, position + np.int64(nlow)


@kernel()
def _add_up(row: npt.NDArray[np.int32], last: Scalar, bytepix: int) -> Scalar:
    """Turn codes into pixels in place, after the pixel `last`; return the new last one.

    The codes 0, 1, 2, 3, 4 mean 0, -1, 1, -2, 2 more than the pixel before.
    """
    for i in range(len(row)):  # a loop of its own can be SIMD
        code = np.uint32(row[i])
        row[i] = np.int32((code >> np.uint32(1)) ^ (np.uint32(0) - (code & np.uint32(1))))
    pixel = np.uint32(last)
    for i in range(len(row)):
        pixel += np.uint32(row[i])
        row[i] = np.int32(pixel)
    # Sums wrap around at the size of a coded pixel: unsigned of one byte, signed of two.
    if bytepix == 1:
        for i in range(len(row)):
            row[i] = np.int32(np.uint8(row[i]))
    elif bytepix == 2:
        for i in range(len(row)):
            row[i] = np.int32(np.int16(row[i]))
    return row[-1]


@kernel()
def _read_first_pixel(data: Bytes, bytepix: int) -> Scalar:
    """Read the first pixel, which is stored as it is."""
    if bytepix == 1:
        return np.int32(data[0])
    if bytepix == 2:
        return np.int32(np.int16((np.uint16(data[0]) << 8) | data[1]))
    return np.int32(_seek(data, np.int64(0))[1] >> np.uint64(32))


@kernel()
def _decode_rice_tile(  # noqa: C901, PLR0912, PLR0915 (calls would cost more than what they do)
    data: Bytes, row: npt.NDArray[np.int32], blocksize: int, bytepix: int
) -> Scalar:
    """Decode one tile; return a status, or -1."""
    if len(data) < bytepix:
        return _ENDS_EARLY
    last = _read_first_pixel(data, bytepix)
    nbits = 8 * bytepix
    kind_nbits, raw_kind = (3, 7) if bytepix == 1 else (4, 15) if bytepix == 2 else (5, 26)
    at, window, count = _seek(data, nbits)
    pixel = added = 0  # row[added:pixel] holds codes that are not pixels yet
    while pixel < len(row):
        # The kind of the next block.
        stop = min(pixel + blocksize, len(row))
        at, window, count = _refill(data, at, window, count)
        kind = np.int64(window >> np.uint64(64 - kind_nbits))
        window <<= np.uint64(kind_nbits)
        count -= kind_nbits
        # Codes become pixels while they are in cache, and before the last pixel is repeated.
        if pixel > added and (kind == 0 or pixel >= added + _STRIP):
            last = _add_up(row[added:pixel], last, bytepix)
            added = pixel
        if kind == 0:
            # Blocks of zero differences repeat the last pixel, and seldom come alone: look ahead.
            while stop < len(row):
                at, window, count = _refill(data, at, window, count)
                if window >> np.uint64(64 - kind_nbits) != 0:
                    break
                window <<= np.uint64(kind_nbits)
                count -= kind_nbits
                stop = min(stop + blocksize, len(row))
            row[pixel:stop] = last
            pixel = added = stop
        elif kind == raw_kind:
            # Codes as they are, of a pixel's bits each.
            while pixel < stop:
                at, window, count = _refill(data, at, window, count)
                row[np.uint64(pixel)] = np.int32(window >> np.uint64(64 - nbits))
                window <<= np.uint64(nbits)
                count -= nbits
                pixel += 1
        elif kind < raw_kind:
            nlow = np.uint64(kind - 1)
            drop = np.uint64(63) - nlow
            # Codes in two parts: groups of them from one window, as long as it has the bits. A
            # group is decoded in copies of the window, so that it can be dropped if it has not.
            while pixel + _GROUP <= stop:
                at, window, count = _refill(data, at, window, count)
                word = window
                left = count
                for i in range(_GROUP):
                    zeros = leading_zeros(word)
                    left -= np.int64(zeros) + kind
                    word <<= zeros & np.uint64(63)
                    lower = word >> drop  # with the 1 that ends the upper part at its top
                    word <<= nlow + _ONE
                    # That 1 counts for 1 << nlow: one less in the upper part.
                    row[np.uint64(pixel + i)] = np.int32(((zeros - _ONE) << nlow) + lower)
                if left < 0:
                    break
                window = word
                count = left
                pixel += _GROUP
            # The rest of the block, code by code: long ones, and those that make no group.
            while pixel < stop:
                at, window, count = _refill(data, at, window, count)
                zeros = leading_zeros(window)
                if np.int64(zeros) + kind <= count:
                    count -= np.int64(zeros) + kind
                    window <<= zeros
                    code = ((zeros - _ONE) << nlow) + (window >> drop)
                    window <<= nlow + _ONE
                else:
                    code, position = _read_long_code(data, 8 * at - count, nlow)
                    if position > 8 * len(data):
                        return _ENDS_EARLY
                    at, window, count = _seek(data, position)
                row[np.uint64(pixel)] = np.int32(code)
                pixel += 1
        # A stream that ends within a block went on with zeros; this finds it out once a block.
        if 8 * at - count > 8 * len(data):
            return _ENDS_EARLY
        if kind > raw_kind:
            return _UNKNOWN_KIND
    if pixel > added:
        _add_up(row[added:], last, bytepix)
    return -1


@kernel(
    "int64(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1], int64, int64)"
)
def _decode_rice_tiles(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
    blocksize: int,
    bytepix: int,
) -> Scalar:
    """Decode tiles; return -1 if none is damaged.

    Of the first damaged one it is ``tile * len(_RICE_REASONS) + status``.
    """
    for tile in range(len(starts)):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        status = _decode_rice_tile(coded, values[tile], blocksize, bytepix)
        if status >= 0:
            return tile * len(_RICE_REASONS) + status
    return -1


def decode(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
    *,
    blocksize: int,
    bytepix: int,
) -> None:
    """Decode a batch of tiles.

    Parameters
    ----------
    data, starts, lengths, values
        As for every decoder; `values` is int32, whatever the size of the coded pixels.
    blocksize : int
        Pixels in a block, 1 or more.
    bytepix : int
        Bytes in a coded pixel: 1 (unsigned), 2 or 4.
    """
    if blocksize < 1 or bytepix not in (1, 2, 4):
        raise ValueError(f"no RICE_1 code has {blocksize=} and {bytepix=}")
    blocksize = min(blocksize, values.shape[1])
    status = _decode_rice_tiles(data, starts, lengths, values, blocksize, bytepix)
    if status >= 0:
        tile, reason = divmod(status, len(_RICE_REASONS))
        raise DecodeError(tile, _RICE_REASONS[reason])
