"""HCOMPRESS_1: an H-transform whose bit planes are quadtrees (FITS Standard 4.0, section 10.4.4).

A stream holds the sum of the pixels, and the other coefficients of a two-dimensional Haar transform
(White, Postman & Lattanzi 1992) in four quadrants: one with all coarse levels, three with the
differences of the finest one. The magnitudes of a quadrant come as bit planes, each cut in blocks
of 2 x 2 coefficients, whose bits make a code. The signs of what is not zero come last.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.compiled import kernel
from dask_fits.codecs.errors import DecodeError

_Bytes = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint64]
_Numbers = npt.NDArray[np.int64]
_Stream = tuple[_Words, int]
"""The bits after the header, and how many there are."""

# Kernels tell a position in the stream, or one of these minus 16 times the bits that were found.
_SHORT, _MAGIC, _SHAPE, _PLANES, _FORM, _END = range(-1, -7, -1)

_HEADER = 25
_MAX_PLANES = 63  # with the sign that makes 64 bits

_ONE, _TWO, _15, _63 = (np.uint64(number) for number in (1, 2, 15, 63))
_16_BITS = np.uint64(0xFFFF)

_CODES = {
    "000": 1, "001": 2, "010": 4, "011": 8, "1000": 3, "1001": 5, "1010": 10, "1011": 12,
    "1100": 15, "11010": 6, "11011": 7, "11100": 9, "11101": 11, "11110": 13, "111110": 0,
    "111111": 14,
}  # fmt: skip


def _pair_table() -> npt.NDArray[np.uint16]:
    """Tabulate what the next bits of the stream give a pair of neighbours.

    Bits 0-3 are the left one's code, 4-7 the right one's, 8-11 how many bits these take. There is
    one part for each set of neighbours that have a code: none, right, left, both.
    """
    first = {}
    for text, code in _CODES.items():
        free = 6 - len(text)
        for rest in range(1 << free):
            first[(int(text, 2) << free) | rest] = code, len(text)
    one = [first[bits] for bits in range(64)]
    both = []
    for bits in range(4096):
        right, right_size = one[bits >> 6]
        left, left_size = one[(bits >> (6 - right_size)) & 63]
        both.append(left | (right << 4) | ((right_size + left_size) << 8))
    only_right = [(code << 4) | (size << 8) for code, size in one]
    only_left = [code | (size << 8) for code, size in one]
    return np.array([0, 0, *only_right, *only_left, *both], np.uint16)


_PAIRS = _pair_table()
_PART_STARTS = np.array([0, 2, 66, 130], np.uint64)
_PART_SHIFTS = np.array([63, 58, 58, 52], np.uint64)
_LEFT = 2


@kernel()
def _peek(words: _Words, at: int) -> Any:
    """Tell the 64 bits that start at a bit position."""
    word, bit = np.uint64(at) >> np.uint64(6), np.uint64(at) & _63
    return (words[word] << bit) | ((words[word + _ONE] >> _ONE) >> (_63 - bit))


@kernel()
def _pair(bits: Any, which: int) -> Any:
    return np.int64(_PAIRS[_PART_STARTS[which] + (bits >> _PART_SHIFTS[which])])


@kernel()
def _number(coded: _Bytes, first: int, nbytes: int) -> Any:
    """Read a big-endian signed number."""
    number, unused = np.uint64(0), 64 - 8 * nbytes
    for i in range(first, first + nbytes):
        number = (number << np.uint64(8)) | np.uint64(coded[i])
    return np.int64(number << np.uint64(unused)) >> unused


@kernel()
def _fill_words(coded: _Bytes, words: _Words) -> None:
    """Copy what follows the header, and zeros after it: a peek may look beyond the end."""
    whole = (len(coded) - _HEADER) >> 3
    for i in range(whole):
        words[i] = np.uint64(_number(coded, _HEADER + 8 * i, 8))
    words[whole : whole + 3] = np.uint64(0)
    for i in range(_HEADER + 8 * whole, len(coded)):
        words[whole] |= np.uint64(coded[i]) << np.uint64(56 - 8 * (i - _HEADER - 8 * whole))


@kernel()
def _expand(stream: _Stream, at: int, codes: _Bytes, grid: tuple[int, int, int, int, int]) -> Any:
    """Read one level of a quadtree: a code for each bit that is set in the level above.

    Codes come from the last to the first. The rows of a level have an even length.
    """
    words, size = stream
    parents, parent_stride, children, height, width = grid
    stride = width + (width & 1)
    bits, left = np.uint64(0), 0
    for row in range(height - 1, -1, -1):
        shift = 0 if row & 1 else 2
        inside = 2 if width & 1 else 3
        parent_row, child_row = parents + (row >> 1) * parent_stride, children + row * stride
        for column in range((stride >> 1) - 1, -1, -1):
            which = (np.int64(codes[np.uint64(parent_row + column)]) >> shift) & inside
            inside = 3
            child = np.uint64(child_row + 2 * column)
            if which == 0:
                codes[child] = codes[child + _ONE] = 0
                continue
            if left < 12:
                if at > size:
                    return _SHORT
                bits, left = _peek(words, at), 64
            pair = _pair(bits, which)
            codes[child], codes[child + _ONE] = pair & 15, (pair >> 4) & 15
            bits <<= np.uint64(pair >> 8)
            left -= pair >> 8
            at += pair >> 8
    return at


@kernel()
def _read_tree(stream: _Stream, at: int, codes: _Bytes, shape: tuple[int, int]) -> Any:
    """Read a quadtree down to blocks; tell the position after it and where in `codes` they are."""
    height, width = max(shape[0], 1), max(shape[1], 1)  # an empty quadrant has a tree nevertheless
    depth = 0
    while (1 << depth) < max(height, width):
        depth += 1
    pair = _pair(_peek(stream[0], at), _LEFT)
    here, there, stride = 0, len(codes) >> 1, 1
    codes[here] = pair & 15
    at += pair >> 8
    for level in range(depth - 1, -1, -1):
        rows = (height + (1 << level) - 1) >> level
        columns = (width + (1 << level) - 1) >> level
        at = _expand(stream, at, codes, (here, stride, there, rows, columns))
        if at < 0:
            break
        here, there, stride = there, here, columns + (columns & 1)
    return at, here


@kernel()
def _add_tree(
    blocks: _Words, codes: _Bytes, first: int, shape: tuple[int, int], shift: Any
) -> None:
    """Add a tree's blocks to those of the planes before."""
    height, width = shape
    stride = width + (width & 1)
    for row in range(height):
        line = codes[first + row * stride : first + row * stride + width]
        out = blocks[row * width : (row + 1) * width]
        for column in range(width):
            out[column] |= np.uint64(line[column]) << shift


@kernel()
def _add_plain(words: _Words, at: int, blocks: _Words, count: int, shift: Any) -> None:
    """Add blocks that are written one after another to those of the planes before."""
    for i in range((count + 15) >> 4):  # sixteen at a time: there is room for some more
        bits = _peek(words, at + 64 * i)
        first = np.uint64(16 * i)
        for k in range(16):
            blocks[first + np.uint64(k)] |= ((bits >> np.uint64(60 - 4 * k)) & _15) << shift


@kernel()
def _transposed(block: Any) -> Any:
    """Turn 16 codes of 4 bits to 4 numbers of 16 bits."""
    swap = ((block >> np.uint64(3)) ^ block) & np.uint64(0x0A0A0A0A0A0A0A0A)
    block ^= swap ^ (swap << np.uint64(3))
    swap = ((block >> np.uint64(6)) ^ block) & np.uint64(0x00CC00CC00CC00CC)
    block ^= swap ^ (swap << np.uint64(6))
    swap = ((block >> np.uint64(12)) ^ block) & np.uint64(0x0000F0F00000F0F0)
    block ^= swap ^ (swap << np.uint64(12))
    swap = ((block >> np.uint64(24)) ^ block) & np.uint64(0x00000000FF00FF00)
    return block ^ swap ^ (swap << np.uint64(24))


@kernel()
def _add_bits(blocks: _Words, coefs: _Numbers, box: tuple[int, int, int, int], plane: int) -> None:
    """Put 16 bit planes of a quadrant's blocks where their coefficients lie."""
    top, left, height, width = box
    half = (width + 1) >> 1
    for row in range(height):
        line = blocks[(row >> 1) * half : ((row >> 1) + 1) * half]
        out = coefs[top + row, left : left + width]
        shift = np.uint64(0 if row & 1 else 32)
        for j in range(np.uint64(width >> 1)):
            bits = _transposed(line[j]) >> shift
            out[_TWO * j] |= np.int64((bits >> np.uint64(16)) & _16_BITS) << plane
            out[_TWO * j + _ONE] |= np.int64(bits & _16_BITS) << plane
        if width & 1:
            bits = _transposed(line[half - 1]) >> shift
            out[width - 1] |= np.int64((bits >> np.uint64(16)) & _16_BITS) << plane


@kernel()
def _read_quadrant(
    stream: _Stream,
    at: int,
    planes: int,
    scratch: tuple[_Words, _Bytes],
    coefs: _Numbers,
    box: tuple[int, int, int, int],
) -> Any:
    """Read the bit planes of a quadrant, the highest first; tell the position after them."""
    (words, size), (blocks, codes) = stream, scratch
    shape = (box[2] + 1) >> 1, (box[3] + 1) >> 1
    count = shape[0] * shape[1]
    blocks[:count] = np.uint64(0)
    for plane in range(planes - 1, -1, -1):
        if at + 4 > size:
            return _SHORT
        form = np.int64(_peek(words, at) >> np.uint64(60))
        at += 4
        shift = np.uint64(4 * (plane & 15))
        if form == 0:
            if at + 4 * count > size:
                return _SHORT
            _add_plain(words, at, blocks, count, shift)
            at += 4 * count
        elif form == 15:
            at, first = _read_tree(stream, at, codes, shape)
            if at < 0 or at > size:
                return _SHORT
            _add_tree(blocks, codes, first, shape, shift)
        else:
            return _FORM - 16 * form
        if plane & 15 == 0:  # a block has room for 16 planes
            _add_bits(blocks, coefs, box, plane)
            blocks[:count] = np.uint64(0)
    return at


@kernel()
def _apply_signs(stream: _Stream, at: Any, coefs: _Numbers, scale: int) -> Any:
    """Read a sign for each coefficient that is not zero, and undo the division by `scale`."""
    words, size = stream
    for first in range(0, len(coefs), 64):
        if at > size:
            return _SHORT
        bits = _peek(words, at)
        some = coefs[first : first + 64]
        for i in range(len(some)):
            sign, signed = -np.int64(bits >> _63), np.int64(some[i] != 0)
            some[i] = ((some[i] ^ sign) - sign) * scale
            bits <<= np.uint64(signed)
            at += signed
    return at if at <= size else _SHORT


@kernel()
def _nudged(difference: Any, wanted: Any, bounds: tuple[Any, Any], bits: int, limit: int) -> Any:
    """Move a difference by up to `limit` towards ``wanted / 2**bits``, which is kept in bounds."""
    low, high = bounds
    if low >= high:
        return difference
    step = max(min(wanted, high), low) - (difference << bits)
    step = (step + ((step >> 63) & ((1 << bits) - 1))) >> bits
    return difference + max(min(step, limit), -limit)


@kernel()
def _slope(difference: Any, before: Any, here: Any, after: Any, limit: int) -> Any:
    """Smooth a difference along one axis, given the means of three blocks in a row."""
    low, high = min(here - before, after - here), max(here - before, after - here)
    return _nudged(difference, after - before, (min(high, 0) << 2, max(low, 0) << 2), 3, limit)


@kernel()
def _smooth(means: _Numbers, coefs: _Numbers, right: int, limit: int) -> None:
    """Move the differences of a level towards what an interpolation of the means gives."""
    height, width = means.shape
    for i in range(height):
        here, dy = means[i], coefs[i, width:right]
        for j in range(1, width - 1):
            dy[j] = _slope(dy[j], here[j - 1], here[j], here[j + 1], limit)
        if i == 0 or i >= height - 1:
            continue
        before, after = means[i - 1], means[i + 1]
        dx, dc = coefs[height + i, :width], coefs[height + i, width:right]
        for j in range(width):
            dx[j] = _slope(dx[j], before[j], here[j], after[j], limit)
        for j in range(1, width - 1):
            a, b = before[j - 1] - here[j], here[j] - before[j + 1]
            c, d = here[j] - after[j - 1], after[j + 1] - here[j]
            along, across = (dx[j] + dy[j]) << 1, (dx[j] - dy[j]) << 1
            low = max(min(a, 0) + along, min(b, 0) - across, min(c, 0) + across, min(d, 0) - along)
            high = min(max(a, 0) + along, max(b, 0) - across, max(c, 0) + across, max(d, 0) - along)
            dc[j] = _nudged(dc[j], a + b + c + d, (low << 4, high << 4), 6, limit)


@kernel()
def _rounded(number: Any, unit: Any) -> Any:
    """Round to a multiple of a power of 2, halves away from zero."""
    half = unit >> 1
    return (number + half + ((number >> 63) & -np.int64(half > 0))) & -unit


@kernel()
def _halves(mean: Any, dx: Any, dy: Any, dc: Any, level: int, lower: Any) -> Any:
    """Undo the transform of a block: tell its upper or lower two values.

    The lowest bits of mean and differences were not stored where others tell them.
    """
    low_bit, high_bit = np.int64(1) << level, np.int64(2) << level
    dc, dx, dy = _rounded(dc, low_bit), _rounded(dx, high_bit), _rounded(dy, high_bit)
    low = dc & low_bit
    dx -= (low ^ (dx >> 63)) - (dx >> 63)
    dy -= (low ^ (dy >> 63)) - (dy >> 63)
    high = (dc ^ dx ^ dy) & high_bit
    mean += low + (high if mean < 0 and low == 0 else -high)
    side, cross = mean + (dx if lower else -dx), dy + (dc if lower else -dc)
    shift = 1 if level else 2
    return (side - cross) >> shift, (side + cross) >> shift


@kernel()
def _merge(means: _Numbers, coefs: _Numbers, out: npt.NDArray[Any], level: int) -> None:
    """Undo one level of the transform."""
    height, width = out.shape
    rows, columns = means.shape
    none = np.zeros(columns, np.int64)
    for row in range(height):  # one row at a time: a loop with two outputs is not vectorized
        i, lower = row >> 1, row & 1
        line, mean, dy = out[row], means[i], coefs[i, columns:width]
        dx, dc = none, none
        if i < height >> 1:
            dx, dc = coefs[rows + i, :columns], coefs[rows + i, columns:width]
        for j in range(np.uint64(width >> 1)):
            pair = _halves(mean[j], dx[j], dy[j], dc[j], level, lower)
            line[_TWO * j], line[_TWO * j + _ONE] = pair
        if width & 1:
            last = columns - 1
            line[width - 1] = _halves(mean[last], dx[last], none[0], none[0], level, lower)[0]


@kernel()
def _invert(coefs: _Numbers, means: _Numbers, values: npt.NDArray[np.int32], limit: int) -> None:
    """Undo the transform from the coarsest level to the pixels."""
    height, width = coefs.shape
    levels = 0
    while (1 << levels) < max(height, width):
        levels += 1
    if levels == 0:
        values[0, 0] = coefs[0, 0]
        return
    here, there, rows, columns = 0, len(means) >> 1, 1, 1
    means[here] = _rounded(coefs[0, 0], np.int64(2) << levels)
    for level in range(levels - 1, -1, -1):
        known = means[here : here + rows * columns].reshape(rows, columns)
        rows = (height + (1 << level) - 1) >> level
        columns = (width + (1 << level) - 1) >> level
        if limit > 0:
            _smooth(known, coefs, columns, limit)
        if level > 0:
            found = means[there : there + rows * columns].reshape(rows, columns)
            _merge(known, coefs, found, level)
        else:
            _merge(known, coefs, values, level)
        here, there = there, here


@kernel()
def _checked_header(coded: _Bytes, npix: int) -> Any:
    if len(coded) < _HEADER:
        return _SHORT
    if coded[0] != 0xDD or coded[1] != 0x99:
        return _MAGIC
    height, width = _number(coded, 2, 4), _number(coded, 6, 4)
    if height < 1 or width < 1 or height * width != npix:
        return _SHAPE
    return _PLANES if max(coded[22], coded[23], coded[24]) > _MAX_PLANES else _HEADER


@kernel()
def _read_coefs(
    coded: _Bytes, words: _Words, scratch: tuple[_Words, _Bytes], coefs: _Numbers, scale: int
) -> Any:
    """Read the coefficients of the transform; tell the position after them."""
    height, width = coefs.shape
    top, left = (height + 1) >> 1, (width + 1) >> 1
    _fill_words(coded, words)
    stream, at = (words, 8 * (len(coded) - _HEADER)), 0
    for quadrant in range(4):
        below, beside = quadrant >> 1, quadrant & 1
        quadrant_height, quadrant_width = (height + 1 - below) >> 1, (width + 1 - beside) >> 1
        box = (top * below, left * beside, quadrant_height, quadrant_width)
        at = _read_quadrant(stream, at, np.int64(coded[22 + below + beside]), scratch, coefs, box)
        if at < 0:
            return at
    if at + 4 > stream[1]:
        return _SHORT
    mark = np.int64(_peek(words, at) >> np.uint64(60))
    if mark != 0:
        return _END - 16 * mark
    return _apply_signs(stream, (at + 11) & -8, coefs.reshape(height * width), scale)


@kernel()
def _sizes(height: int, width: int) -> Any:
    """Count what a tile needs: values of a level, blocks of a quadrant, and their codes."""
    below, beside = (height + 1) >> 1, (width + 1) >> 1  # which are those of the largest quadrant
    rows, columns = (below + 1) >> 1, (beside + 1) >> 1
    return below * beside, rows * columns, rows * (columns + 1)


@kernel(
    "UniTuple(int64, 2)(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1], int64)"
)
def _decode(
    data: _Bytes, starts: _Numbers, lengths: _Numbers, values: npt.NDArray[np.int32], smooth: int
) -> Any:
    """Decode the tiles; tell the first bad one and what is wrong with it."""
    npix, longest, good, bad = values.shape[1], np.int64(0), 0, np.int64(0)
    level = blocks = codes = np.int64(0)
    while good < len(starts):
        bad = np.int64(_checked_header(data[starts[good] : starts[good] + lengths[good]], npix))
        if bad < 0:
            break
        longest = max(longest, lengths[good])
        height, width = _number(data, starts[good] + 2, 4), _number(data, starts[good] + 6, 4)
        needed = _sizes(height, width)
        level, blocks, codes = max(level, needed[0]), max(blocks, needed[1]), max(codes, needed[2])
        good += 1
    if good == 0:  # before there is memory for as many pixels as a damaged size has
        return 0, bad
    words = np.empty(longest // 8 + 3, np.uint64)
    scratch = np.empty(blocks + 17, np.uint64), np.empty(2 * codes + 16, np.uint8)
    flat, means = np.empty(npix, np.int64), np.empty(2 * level + 8, np.int64)
    for tile in range(good):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        height, width = _number(coded, 2, 4), _number(coded, 6, 4)
        scale = max(_number(coded, 10, 4), np.int64(1))
        flat[:] = 0
        coefs = flat.reshape(height, width)
        status = _read_coefs(coded, words, scratch, coefs, scale)
        if status < 0:
            return tile, np.int64(status)
        flat[0] = _number(coded, 14, 8) * scale
        limit = scale >> 1 if smooth else np.int64(0)
        _invert(coefs, means, values[tile].reshape(height, width), limit)
    return good, bad


def _reason(header: bytes, status: int, npix: int) -> str:
    found = -status >> 4
    height, width = struct.unpack_from(">ii", header.ljust(_HEADER), 2)
    return {
        _SHORT: "the compressed bytes end early",
        _MAGIC: f"found magic bytes 0x{header[:2].hex()}, expected 0xdd99",
        _SHAPE: f"found {height} x {width} pixels in the stream, expected {npix} in the tile",
        _PLANES: f"found {max(header[22:], default=0)} bit planes, expected at most {_MAX_PLANES}",
        _FORM: f"found code 0x{found:x} before a bit plane, expected 0x0 or 0xf",
        _END: f"found end mark 0x{found:x} after the bit planes, expected 0x0",
    }[-(-status & 15)]


def decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
    *,
    smooth: bool,
) -> None:
    """Decode a batch of tiles.

    Parameters
    ----------
    data, starts, lengths, values
        As for every decoder; `values` is int32, and what is beyond its range wraps around.
    smooth : bool
        Whether to smooth what a lossy compression rounded off.
    """
    tile, status = _decode(data, starts, lengths, values, int(smooth))
    if status < 0:
        header = data[starts[tile] : starts[tile] + min(lengths[tile], _HEADER)].tobytes()
        raise DecodeError(tile, _reason(header, status, values.shape[1]))
