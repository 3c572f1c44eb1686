"""HCOMPRESS_1: an H-transform whose bit planes are quadtrees (FITS Standard 4.0, section 10.4.4).

A stream holds the sum of the pixels, and the other coefficients of a two-dimensional Haar transform
(White, Postman & Lattanzi 1992) in four quadrants: one with all coarse levels, three with the
differences of the finest one. The magnitudes of a quadrant come as bit planes, each cut in blocks
of 2 x 2 coefficients, whose bits make a code. The signs of what is not zero come last::

    header    magic | shape | scale | sum | 3 numbers of planes    25 bytes
    planes    of 4 quadrants, each: form (4 bits) | codes          form 0: all, of 4 bits each
                                                                   form 15: a quadtree of codes
    end mark  4 bits, 0; the next byte begins
    signs     a bit for each coefficient that is not zero

    coefs     | sum, coarse levels | dy |      quadrants 0 and 1
              | dx                 | dc |      quadrants 2 and 3

In a quadtree a code says which of the four below it are not zero. The stream has a code of 1 to 6
bits for each of these, from the last to the first, level by level down to the blocks.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.compiled import Scalar, Word, kernel

_Words = npt.NDArray[np.uint64]

_Stream = tuple[_Words, int]
"""The bits after the header, and how many there are."""

_Scratch = tuple[_Words, Bytes]
"""Memory for the blocks of a quadrant, 16 planes in each, and for two levels of a quadtree."""

_Box = tuple[int, int, int, int]
"""Top, left, height and width of a quadrant in the coefficients."""

_SHORT, _MAGIC, _SHAPE, _PLANES, _FORM, _END = range(-1, -7, -1)
"""Status of a damaged tile. Kernels return a position in the stream, which is 0 or more, or one of
these; from the last two they subtract 16 times the bits that were found."""

_HEADER_BYTES = 25

_MAX_PLANES = 63
"""Bit planes at most: with the sign that makes 64 bits."""

_ONE, _TWO, _15, _63 = (np.uint64(number) for number in (1, 2, 15, 63))
_16_BITS = np.uint64(0xFFFF)

_CODES = {
    "000": 1,
    "001": 2,
    "010": 4,
    "011": 8,
    "1000": 3,
    "1001": 5,
    "1010": 10,
    "1011": 12,
    "1100": 15,
    "11010": 6,
    "11011": 7,
    "11100": 9,
    "11101": 11,
    "11110": 13,
    "111110": 0,
    "111111": 14,
}
"""Bits in the stream to the code that they stand for, of a quadtree."""

_LONGEST_CODE = 6
"""Bits."""


def _tabulate_pairs() -> npt.NDArray[np.uint16]:
    """Tabulate the codes of a pair of neighbours, by the next bits of the stream.

    Bits 0-3 of an entry are the left one's code, 4-7 the right one's, 8-11 how many bits of the
    stream these take. There is one part for each set of neighbours that have a code: none, right,
    left, both.
    """
    # All numbers of 6 bits that begin with a code stand for it.
    coded = {}
    for text, code in _CODES.items():
        free = _LONGEST_CODE - len(text)
        for rest in range(1 << free):
            coded[(int(text, 2) << free) | rest] = (code, len(text))
    single = [coded[bits] for bits in range(64)]
    only_right = [(code << 4) | (size << 8) for code, size in single]
    only_left = [code | (size << 8) for code, size in single]
    # Of both, the right one's code comes first: codes run from the last to the first.
    both = []
    for bits in range(4096):
        right, right_size = single[bits >> 6]
        left, left_size = single[(bits >> (6 - right_size)) & 63]
        both.append(left | (right << 4) | ((right_size + left_size) << 8))
    # The part for none has two equal entries: a shift by 63 leaves one bit, a shift by 64 has no
    # meaning.
    return np.array([0, 0, *only_right, *only_left, *both], np.uint16)


_PAIRS = _tabulate_pairs()
_PART_STARTS = np.array([0, 2, 66, 130], np.uint64)
_PART_SHIFTS = np.array([63, 58, 58, 52], np.uint64)
_LEFT = 2
"""Index of the part in which the left neighbour alone has a code."""


@kernel()
def _peek(words: _Words, at: int) -> Scalar:
    """Return the 64 bits that start at a bit position."""
    word = np.uint64(at) >> np.uint64(6)
    bit = np.uint64(at) & _63
    # The second word is shifted in two steps, since a shift by 64 has no meaning.
    return (words[word] << bit) | ((words[word + _ONE] >> _ONE) >> (_63 - bit))


@kernel()
def _decode_pair(bits: Word, which: int) -> Scalar:
    """Look up the codes of a pair of neighbours, of which `which` have one."""
    return np.int64(_PAIRS[_PART_STARTS[which] + (bits >> _PART_SHIFTS[which])])


@kernel()
def _read_number(coded: Bytes, first: int, nbytes: int) -> Scalar:
    """Read a big-endian signed number."""
    number = np.uint64(0)
    for i in range(first, first + nbytes):
        number = (number << np.uint64(8)) | np.uint64(coded[i])
    # Up and down again, which spreads the sign.
    unused = 64 - 8 * nbytes
    return np.int64(number << np.uint64(unused)) >> unused


@kernel()
def _fill_words(coded: Bytes, words: _Words) -> None:
    """Copy the bytes after the header, and zeros after them: a peek may look beyond the end."""
    whole = (len(coded) - _HEADER_BYTES) >> 3
    for i in range(whole):
        words[i] = np.uint64(_read_number(coded, _HEADER_BYTES + 8 * i, 8))
    words[whole : whole + 3] = np.uint64(0)
    for i in range(_HEADER_BYTES + 8 * whole, len(coded)):
        shift = np.uint64(56 - 8 * (i - _HEADER_BYTES - 8 * whole))
        words[whole] |= np.uint64(coded[i]) << shift


@kernel()
def _expand(stream: _Stream, at: int, codes: Bytes, grid: tuple[int, int, int, int, int]) -> Scalar:
    """Read one level of a quadtree: a code for each bit that is set in the level above.

    Codes come from the last to the first. The rows of a level have an even length.

    Parameters
    ----------
    stream, at
        Bits, and the position of the first code.
    codes : uint8 array
        Both levels.
    grid : tuple of int
        Index in `codes` of the first parent, and length of the rows of parents; index of the first
        child, and height and width of the level of children.
    """
    words, size = stream
    parents, parent_stride, children, height, width = grid
    stride = width + (width & 1)
    bits = np.uint64(0)
    left = 0  # of `bits`
    for row in range(height - 1, -1, -1):
        # The upper two bits of a parent are for its children in an even row, the lower two for
        # those in an odd one.
        shift = 0 if row & 1 else 2
        # In a level of odd width the last pair of a row has a left child only.
        inside = 2 if width & 1 else 3
        parent_row = parents + (row >> 1) * parent_stride
        child_row = children + row * stride
        for column in range((stride >> 1) - 1, -1, -1):
            which = (np.int64(codes[np.uint64(parent_row + column)]) >> shift) & inside
            inside = 3
            child = np.uint64(child_row + 2 * column)
            if which == 0:
                codes[child] = codes[child + _ONE] = 0
                continue
            # A pair takes 12 bits at most.
            if left < 12:
                if at > size:
                    return _SHORT
                bits = _peek(words, at)
                left = 64
            pair = _decode_pair(bits, which)
            codes[child] = pair & 15
            codes[child + _ONE] = (pair >> 4) & 15
            pair_bits = pair >> 8
            bits <<= np.uint64(pair_bits)
            left -= pair_bits
            at += pair_bits
    return at


@kernel()
def _read_tree(stream: _Stream, at: int, codes: Bytes, shape: tuple[int, int]) -> Scalar:
    """Read a quadtree; return the position after it, and the index in `codes` of its blocks.

    The levels lie in the two halves of `codes` in turn; the blocks are the last one.
    """
    # An empty quadrant has a tree nevertheless.
    height = max(shape[0], 1)
    width = max(shape[1], 1)
    depth = 0
    while (1 << depth) < max(height, width):
        depth += 1
    # The root is a single code.
    pair = _decode_pair(_peek(stream[0], at), _LEFT)
    here = 0
    there = len(codes) >> 1
    stride = 1
    codes[here] = pair & 15
    at += pair >> 8
    for level in range(depth - 1, -1, -1):
        rows = (height + (1 << level) - 1) >> level
        columns = (width + (1 << level) - 1) >> level
        at = _expand(stream, at, codes, (here, stride, there, rows, columns))
        if at < 0:
            break
        here, there = there, here
        stride = columns + (columns & 1)
    return at, here


@kernel()
def _add_tree(
    blocks: _Words, codes: Bytes, first: int, shape: tuple[int, int], shift: Word
) -> None:
    """Add the blocks of a tree, which begin at `first`, to those of the planes before."""
    height, width = shape
    stride = width + (width & 1)
    for row in range(height):
        line = codes[first + row * stride : first + row * stride + width]
        out = blocks[row * width : (row + 1) * width]
        for column in range(width):
            out[column] |= np.uint64(line[column]) << shift


@kernel()
def _add_plain(words: _Words, at: int, blocks: _Words, count: int, shift: Word) -> None:
    """Add blocks that are written one after another to those of the planes before."""
    for i in range((count + 15) >> 4):  # sixteen at a time: there is room for some more
        bits = _peek(words, at + 64 * i)
        first = np.uint64(16 * i)
        for k in range(16):
            blocks[first + np.uint64(k)] |= ((bits >> np.uint64(60 - 4 * k)) & _15) << shift


@kernel()
def _transpose_codes(block: Word) -> Scalar:
    """Turn 16 codes of 4 bits to 4 numbers of 16 bits: a transpose, by swaps of larger parts."""
    swap = ((block >> np.uint64(3)) ^ block) & np.uint64(0x0A0A0A0A0A0A0A0A)
    block ^= swap ^ (swap << np.uint64(3))
    swap = ((block >> np.uint64(6)) ^ block) & np.uint64(0x00CC00CC00CC00CC)
    block ^= swap ^ (swap << np.uint64(6))
    swap = ((block >> np.uint64(12)) ^ block) & np.uint64(0x0000F0F00000F0F0)
    block ^= swap ^ (swap << np.uint64(12))
    swap = ((block >> np.uint64(24)) ^ block) & np.uint64(0x00000000FF00FF00)
    return block ^ swap ^ (swap << np.uint64(24))


@kernel()
def _add_bits(blocks: _Words, coefs: Integers, box: _Box, plane: int) -> None:
    """Add 16 bit planes of a quadrant, `plane` the lowest, to the coefficients in its box."""
    top, left, height, width = box
    half = (width + 1) >> 1
    for row in range(height):
        # A block gives two coefficients of an even row, and two of the odd row below.
        line = blocks[(row >> 1) * half : ((row >> 1) + 1) * half]
        out = coefs[top + row, left : left + width]
        shift = np.uint64(0 if row & 1 else 32)
        for j in range(np.uint64(width >> 1)):
            bits = _transpose_codes(line[j]) >> shift
            out[_TWO * j] |= np.int64((bits >> np.uint64(16)) & _16_BITS) << plane
            out[_TWO * j + _ONE] |= np.int64(bits & _16_BITS) << plane
        if width & 1:
            bits = _transpose_codes(line[half - 1]) >> shift
            out[width - 1] |= np.int64((bits >> np.uint64(16)) & _16_BITS) << plane


@kernel()
def _read_quadrant(
    stream: _Stream,
    at: int,
    planes: int,
    scratch: _Scratch,
    coefs: Integers,
    box: _Box,
) -> Scalar:
    """Read the bit planes of a quadrant, the highest first; return the position after them."""
    words, size = stream
    blocks, codes = scratch
    shape = ((box[2] + 1) >> 1, (box[3] + 1) >> 1)
    count = shape[0] * shape[1]
    blocks[:count] = np.uint64(0)
    for plane in range(planes - 1, -1, -1):
        if at + 4 > size:
            return _SHORT
        form = np.int64(_peek(words, at) >> np.uint64(60))
        at += 4
        # Where the plane's 4 bits lie in each block.
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
        # A block has room for 16 planes.
        if plane & 15 == 0:
            _add_bits(blocks, coefs, box, plane)
            blocks[:count] = np.uint64(0)
    return at


@kernel()
def _apply_signs(stream: _Stream, at: Scalar, coefs: Integers, scale: int) -> Scalar:
    """Read a sign for each coefficient that is not zero, and undo the division by `scale`."""
    words, size = stream
    # A peek has the signs of 64 coefficients, however many of them are not zero.
    for first in range(0, len(coefs), 64):
        if at > size:
            return _SHORT
        bits = _peek(words, at)
        group = coefs[first : first + 64]
        for i in range(len(group)):
            # Without branches: `sign` is -1 or 0, and its bit is used up if there is one to read.
            sign = -np.int64(bits >> _63)
            signed = np.int64(group[i] != 0)
            group[i] = ((group[i] ^ sign) - sign) * scale
            bits <<= np.uint64(signed)
            at += signed
    return at if at <= size else _SHORT


@kernel()
def _nudge(
    difference: Scalar, target: Scalar, bounds: tuple[Scalar, Scalar], bits: int, limit: int
) -> Scalar:
    """Move a difference by up to `limit` towards ``target / 2**bits``, which is kept in bounds."""
    low, high = bounds
    if low >= high:
        return difference
    step = max(min(target, high), low) - (difference << bits)
    # A division that rounds towards zero.
    step = (step + ((step >> 63) & ((1 << bits) - 1))) >> bits
    return difference + max(min(step, limit), -limit)


@kernel()
def _nudge_slope(
    difference: Scalar, before: Scalar, here: Scalar, after: Scalar, limit: int
) -> Scalar:
    """Smooth a difference along one axis, given the means of three blocks in a row."""
    low = min(here - before, after - here)
    high = max(here - before, after - here)
    # The bounds leave room only if the means rise, or fall, twice in a row.
    bounds = (min(high, 0) << 2, max(low, 0) << 2)
    return _nudge(difference, after - before, bounds, 3, limit)


@kernel()
def _smooth(means: Integers, coefs: Integers, right: int, limit: int) -> None:
    """Move the differences of a level towards those of an interpolation of the means."""
    height, width = means.shape
    for i in range(height):
        here = means[i]
        dy = coefs[i, width:right]
        # Along the row; blocks at the edge have no neighbours to interpolate between.
        for j in range(1, width - 1):
            dy[j] = _nudge_slope(dy[j], here[j - 1], here[j], here[j + 1], limit)
        if i == 0 or i >= height - 1:
            continue
        # Along the column.
        before = means[i - 1]
        after = means[i + 1]
        dx = coefs[height + i, :width]
        dc = coefs[height + i, width:right]
        for j in range(width):
            dx[j] = _nudge_slope(dx[j], before[j], here[j], after[j], limit)
        # Along the diagonals, within bounds that the slopes just smoothed leave.
        for j in range(1, width - 1):
            a = before[j - 1] - here[j]
            b = here[j] - before[j + 1]
            c = here[j] - after[j - 1]
            d = after[j + 1] - here[j]
            along = (dx[j] + dy[j]) << 1
            across = (dx[j] - dy[j]) << 1
            low = max(min(a, 0) + along, min(b, 0) - across, min(c, 0) + across, min(d, 0) - along)
            high = min(max(a, 0) + along, max(b, 0) - across, max(c, 0) + across, max(d, 0) - along)
            dc[j] = _nudge(dc[j], a + b + c + d, (low << 4, high << 4), 6, limit)


@kernel()
def _round(number: Scalar, unit: Scalar) -> Scalar:
    """Round to a multiple of a power of 2, halves away from zero."""
    half = unit >> 1
    return (number + half + ((number >> 63) & -np.int64(half > 0))) & -unit


@kernel()
def _invert_block(
    mean: Scalar, dx: Scalar, dy: Scalar, dc: Scalar, level: int, lower: Scalar
) -> Scalar:
    """Undo the transform of a block of 2 x 2; return its upper or lower two values.

    Bits of the mean and the differences that follow from those of the others are not stored.
    """
    low_bit = np.int64(1) << level
    high_bit = np.int64(2) << level
    dc = _round(dc, low_bit)
    dx = _round(dx, high_bit)
    dy = _round(dy, high_bit)
    # The lowest bit of all four is the same: that of dc. By it dx and dy were rounded away from 0.
    low = dc & low_bit
    dx -= (low ^ (dx >> 63)) - (dx >> 63)
    dy -= (low ^ (dy >> 63)) - (dy >> 63)
    # The next bit of the mean is such that those of all four have an even sum.
    high = (dc ^ dx ^ dy) & high_bit
    mean += low + (high if mean < 0 and low == 0 else -high)
    side = mean + (dx if lower else -dx)
    cross = dy + (dc if lower else -dc)
    # The sums are 4 times a pixel at the finest level, and twice a value at the others.
    shift = 1 if level else 2
    return (side - cross) >> shift, (side + cross) >> shift


@kernel()
def _invert_level(means: Integers, coefs: Integers, out: npt.NDArray[Any], level: int) -> None:
    """Undo one level of the transform: the means of blocks to their values."""
    height, width = out.shape
    rows, columns = means.shape
    none = np.zeros(columns, np.int64)
    for row in range(height):  # one row at a time: a loop with two outputs is not vectorized
        i = row >> 1
        lower = row & 1
        line = out[row]
        mean = means[i]
        dy = coefs[i, columns:width]
        # The last row of an odd height is half a block, without differences to the row below.
        dx = none
        dc = none
        if i < height >> 1:
            dx = coefs[rows + i, :columns]
            dc = coefs[rows + i, columns:width]
        for j in range(np.uint64(width >> 1)):
            pair = _invert_block(mean[j], dx[j], dy[j], dc[j], level, lower)
            line[_TWO * j], line[_TWO * j + _ONE] = pair
        # So is the last column of an odd width.
        if width & 1:
            last = columns - 1
            pair = _invert_block(mean[last], dx[last], none[0], none[0], level, lower)
            line[width - 1] = pair[0]


@kernel()
def _invert(coefs: Integers, means: Integers, values: npt.NDArray[np.int32], limit: int) -> None:
    """Undo the transform from the coarsest level to the pixels.

    The means of the levels lie in the two halves of `means` in turn.
    """
    height, width = coefs.shape
    levels = 0
    while (1 << levels) < max(height, width):
        levels += 1
    if levels == 0:
        values[0, 0] = coefs[0, 0]
        return
    here = 0
    there = len(means) >> 1
    rows = 1
    columns = 1
    means[here] = _round(coefs[0, 0], np.int64(2) << levels)
    for level in range(levels - 1, -1, -1):
        coarse = means[here : here + rows * columns].reshape(rows, columns)
        rows = (height + (1 << level) - 1) >> level
        columns = (width + (1 << level) - 1) >> level
        if limit > 0:
            _smooth(coarse, coefs, columns, limit)
        if level > 0:
            fine = means[there : there + rows * columns].reshape(rows, columns)
            _invert_level(coarse, coefs, fine, level)
        else:
            _invert_level(coarse, coefs, values, level)
        here, there = there, here


@kernel()
def _check_header(coded: Bytes, npix: int) -> Scalar:
    """Return the status of a tile whose header is damaged, else its length."""
    if len(coded) < _HEADER_BYTES:
        return _SHORT
    if coded[0] != 0xDD or coded[1] != 0x99:
        return _MAGIC
    height = _read_number(coded, 2, 4)
    width = _read_number(coded, 6, 4)
    if height < 1 or width < 1 or height * width != npix:
        return _SHAPE
    return _PLANES if max(coded[22], coded[23], coded[24]) > _MAX_PLANES else _HEADER_BYTES


@kernel()
def _read_coefs(
    coded: Bytes, words: _Words, scratch: _Scratch, coefs: Integers, scale: int
) -> Scalar:
    """Read the coefficients of the transform; return the position after them."""
    height, width = coefs.shape
    top = (height + 1) >> 1
    left = (width + 1) >> 1
    _fill_words(coded, words)
    stream = (words, 8 * (len(coded) - _HEADER_BYTES))
    at = 0
    for quadrant in range(4):
        below = quadrant >> 1
        beside = quadrant & 1
        quadrant_height = (height + 1 - below) >> 1
        quadrant_width = (width + 1 - beside) >> 1
        box = (top * below, left * beside, quadrant_height, quadrant_width)
        # The header has one number of planes for quadrants 1 and 2.
        planes = np.int64(coded[22 + below + beside])
        at = _read_quadrant(stream, at, planes, scratch, coefs, box)
        if at < 0:
            return at
    if at + 4 > stream[1]:
        return _SHORT
    mark = np.int64(_peek(words, at) >> np.uint64(60))
    if mark != 0:
        return _END - 16 * mark
    # Behind the mark, of 4 bits, the signs begin with a whole byte.
    return _apply_signs(stream, (at + 11) & -8, coefs.reshape(height * width), scale)


@kernel()
def _count_scratch(height: int, width: int) -> Scalar:
    """Count the memory for a tile: values of a level, blocks of a quadrant, and their codes."""
    # The largest quadrant is the first.
    quadrant_height = (height + 1) >> 1
    quadrant_width = (width + 1) >> 1
    rows = (quadrant_height + 1) >> 1
    columns = (quadrant_width + 1) >> 1
    return quadrant_height * quadrant_width, rows * columns, rows * (columns + 1)


@kernel()
def _measure_tiles(data: Bytes, starts: Integers, lengths: Integers, npix: int) -> Scalar:
    """Check the headers of tiles, up to the first damaged one.

    Returns how many are good, the status of the one after them, the bytes of the longest, and the
    most that each part of `_count_scratch` comes to.
    """
    longest = level = blocks = codes = np.int64(0)
    for tile in range(len(starts)):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        status = np.int64(_check_header(coded, npix))
        if status < 0:
            return tile, status, longest, level, blocks, codes
        longest = max(longest, lengths[tile])
        needed = _count_scratch(_read_number(coded, 2, 4), _read_number(coded, 6, 4))
        level = max(level, needed[0])
        blocks = max(blocks, needed[1])
        codes = max(codes, needed[2])
    return len(starts), np.int64(0), longest, level, blocks, codes


@kernel(
    "UniTuple(int64, 2)(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1], int64)"
)
def _decode_hcompress_tiles(
    data: Bytes, starts: Integers, lengths: Integers, values: npt.NDArray[np.int32], smooth: int
) -> Scalar:
    """Decode tiles; return the index and the status, negative, of the first damaged one.

    Without a damaged one the status is 0.
    """
    npix = values.shape[1]
    good, status, longest, level, blocks, codes = _measure_tiles(data, starts, lengths, npix)
    # A damaged size may promise any number of pixels: no memory before one tile is good.
    if good == 0:
        return 0, status
    # One set of memory for all tiles. Peeks and blocks of 16 may reach beyond the end of each.
    words = np.empty(longest // 8 + 3, np.uint64)
    scratch = (np.empty(blocks + 17, np.uint64), np.empty(2 * codes + 16, np.uint8))
    flat = np.empty(npix, np.int64)
    means = np.empty(2 * level + 8, np.int64)
    for tile in range(good):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        height = _read_number(coded, 2, 4)
        width = _read_number(coded, 6, 4)
        scale = max(_read_number(coded, 10, 4), np.int64(1))
        flat[:] = 0
        coefs = flat.reshape(height, width)
        position = _read_coefs(coded, words, scratch, coefs, scale)
        if position < 0:
            return tile, np.int64(position)
        # The first coefficient is not in the planes but in the header: the sum of the pixels.
        flat[0] = _read_number(coded, 14, 8) * scale
        limit = scale >> 1 if smooth else np.int64(0)
        _invert(coefs, means, values[tile].reshape(height, width), limit)
    return good, status


def _explain(header: bytes, status: int, npix: int) -> str:
    """Return the text for a status."""
    bits = -status >> 4
    height, width = struct.unpack_from(">ii", header.ljust(_HEADER_BYTES), 2)
    return {
        _SHORT: "the compressed bytes end early",
        _MAGIC: f"found magic bytes 0x{header[:2].hex()}, expected 0xdd99",
        _SHAPE: f"found {height} x {width} pixels in the stream, expected {npix} in the tile",
        _PLANES: f"found {max(header[22:], default=0)} bit planes, expected at most {_MAX_PLANES}",
        _FORM: f"found code 0x{bits:x} before a bit plane, expected 0x0 or 0xf",
        _END: f"found end mark 0x{bits:x} after the bit planes, expected 0x0",
    }[-(-status & 15)]


def decode(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
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
        Whether to smooth the steps that a lossy compression left.
    """
    tile, status = _decode_hcompress_tiles(data, starts, lengths, values, int(smooth))
    if status < 0:
        header = data[starts[tile] : starts[tile] + min(lengths[tile], _HEADER_BYTES)].tobytes()
        raise DecodeError(tile, _explain(header, status, values.shape[1]))
