"""RICE_1: pixel differences in Rice's code (FITS Standard 4.0, section 10.4.1).

A stream is the first pixel as it is, then blocks of differences. Each block begins with a few bits,
its kind: 0, all its differences are zero; the largest, they come as they are; otherwise they come
in two parts, and the kind tells how many bits the lower one has, plus 1. The upper part is as many
0 bits as it counts, and a 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.compiled import kernel, leading_zeros
from dask_fits.codecs.errors import DecodeError

_REASONS = ("the RICE_1 stream ends early", "the RICE_1 stream has a block of no known kind")
_SHORT, _KIND = range(len(_REASONS))
_ONE = np.uint64(1)
_GROUP = 4
"""Pixels that are decoded before it is asked whether the bits at hand sufficed."""
_STRIP = 1024
"""Pixels that stay in the nearest cache from one step to the next."""


@kernel()
def _last_bytes(data: npt.NDArray[np.uint8], at: Any) -> Any:
    """Tell the bytes from `at` on, fewer than 8, as the top of a big-endian number."""
    if at >= len(data):
        return np.uint64(0)
    word = np.uint64(0)
    for i in range(at, len(data)):
        word = (word << np.uint64(8)) | np.uint64(data[np.uint64(i)])
    return word << np.uint64(8 * (at + 8 - len(data)))


@kernel(inline="always")
def _refill(data: npt.NDArray[np.uint8], at: Any, window: Any, count: Any) -> Any:
    """Have 56 to 63 bits at hand: the top `count` bits of `window`, which end before byte `at`.

    What lies beyond the end of the stream is taken for zeros.
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
def _seek(data: npt.NDArray[np.uint8], position: Any) -> Any:
    """Have at least 49 bits at hand from a bit position on."""
    skip = position & 7
    at, window, count = _refill(data, position >> 3, np.uint64(0), np.int64(0))
    return at, window << np.uint64(skip), count - skip


@kernel()
def _long_code(data: npt.NDArray[np.uint8], position: Any, nlow: Any) -> Any:
    """Read a code of any length; tell it and the position after it."""
    upper = np.int64(0)
    _, window, count = _seek(data, position)
    while window >> np.uint64(64 - count) == 0 and position < 8 * len(data):
        upper += count
        position += count
        _, window, count = _seek(data, position)
    zeros = np.int64(leading_zeros(window))
    upper += zeros
    position += zeros + 1
    _, window, _ = _seek(data, position)
    lower = (window >> _ONE) >> (np.uint64(63) - nlow)  # shifts by 64 have no meaning
    return (np.uint64(upper) << nlow) | lower, position + np.int64(nlow)


@kernel()
def _add_up(row: npt.NDArray[np.int32], last: Any, bytepix: int) -> Any:
    """Turn codes into pixels; tell the last.

    The codes 0, 1, 2, 3, 4 mean 0, -1, 1, -2, 2 more than the pixel before.
    """
    for i in range(len(row)):  # a loop of its own can be SIMD
        code = np.uint32(row[i])
        row[i] = np.int32((code >> np.uint32(1)) ^ (np.uint32(0) - (code & np.uint32(1))))
    pixel = np.uint32(last)
    for i in range(len(row)):
        pixel += np.uint32(row[i])
        row[i] = np.int32(pixel)
    if bytepix == 1:
        for i in range(len(row)):
            row[i] = np.int32(np.uint8(row[i]))
    elif bytepix == 2:
        for i in range(len(row)):
            row[i] = np.int32(np.int16(row[i]))
    return row[-1]


@kernel()
def _first_pixel(data: npt.NDArray[np.uint8], bytepix: int) -> Any:
    if bytepix == 1:
        return np.int32(data[0])
    if bytepix == 2:
        return np.int32(np.int16((np.uint16(data[0]) << 8) | data[1]))
    return np.int32(_seek(data, np.int64(0))[1] >> np.uint64(32))


@kernel()
def _decode_tile(  # noqa: C901, PLR0912, PLR0915 (calls would cost more than what they do)
    data: npt.NDArray[np.uint8], row: npt.NDArray[np.int32], blocksize: int, bytepix: int
) -> Any:
    """Decode one tile; tell what is wrong, or -1."""
    if len(data) < bytepix:
        return _SHORT
    last = _first_pixel(data, bytepix)
    nbits = 8 * bytepix
    kind_nbits, raw_kind = (3, 7) if bytepix == 1 else (4, 15) if bytepix == 2 else (5, 26)
    at, window, count = _seek(data, nbits)
    pixel = added = 0  # in between lie codes that are not pixels yet
    while pixel < len(row):
        stop = min(pixel + blocksize, len(row))
        at, window, count = _refill(data, at, window, count)
        kind = np.int64(window >> np.uint64(64 - kind_nbits))
        window <<= np.uint64(kind_nbits)
        count -= kind_nbits
        if pixel > added and (kind == 0 or pixel >= added + _STRIP):
            last = _add_up(row[added:pixel], last, bytepix)
            added = pixel
        if kind == 0:
            while stop < len(row):  # there seldom is only one
                at, window, count = _refill(data, at, window, count)
                if window >> np.uint64(64 - kind_nbits) != 0:
                    break
                window <<= np.uint64(kind_nbits)
                count -= kind_nbits
                stop = min(stop + blocksize, len(row))
            row[pixel:stop] = last
            pixel = added = stop
        elif kind == raw_kind:
            while pixel < stop:
                at, window, count = _refill(data, at, window, count)
                row[np.uint64(pixel)] = np.int32(window >> np.uint64(64 - nbits))
                window <<= np.uint64(nbits)
                count -= nbits
                pixel += 1
        elif kind < raw_kind:
            nlow = np.uint64(kind - 1)
            drop = np.uint64(63) - nlow
            while pixel + _GROUP <= stop:
                at, window, count = _refill(data, at, window, count)
                word, left = window, count
                for i in range(_GROUP):
                    zeros = leading_zeros(word)
                    left -= np.int64(zeros) + kind
                    word <<= zeros & np.uint64(63)
                    lower = word >> drop  # with the 1 that ends the upper part at its top
                    word <<= nlow + _ONE
                    row[np.uint64(pixel + i)] = np.int32(((zeros - _ONE) << nlow) + lower)
                if left < 0:
                    break
                window, count = word, left
                pixel += _GROUP
            while pixel < stop:
                at, window, count = _refill(data, at, window, count)
                zeros = leading_zeros(window)
                if np.int64(zeros) + kind <= count:
                    count -= np.int64(zeros) + kind
                    window <<= zeros
                    code = ((zeros - _ONE) << nlow) + (window >> drop)
                    window <<= nlow + _ONE
                else:
                    code, position = _long_code(data, 8 * at - count, nlow)
                    if position > 8 * len(data):
                        return _SHORT
                    at, window, count = _seek(data, position)
                row[np.uint64(pixel)] = np.int32(code)
                pixel += 1
        if 8 * at - count > 8 * len(data):
            return _SHORT
        if kind > raw_kind:
            return _KIND
    if pixel > added:
        _add_up(row[added:], last, bytepix)
    return -1


@kernel(
    "int64(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1], int64, int64)"
)
def _decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
    blocksize: int,
    bytepix: int,
) -> Any:
    for tile in range(len(starts)):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        wrong = _decode_tile(coded, values[tile], blocksize, bytepix)
        if wrong >= 0:
            return tile * len(_REASONS) + wrong
    return -1


def decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
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
    status = _decode(data, starts, lengths, values, blocksize, bytepix)
    if status >= 0:
        raise DecodeError(status // len(_REASONS), _REASONS[status % len(_REASONS)])
