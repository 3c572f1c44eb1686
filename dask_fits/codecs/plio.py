"""PLIO_1: line lists of IRAF masks (FITS Standard 4.0, section 10.4.3)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.compiled import Scalar, kernel

_PLIO_REASONS = (
    "the PLIO_1 line list is no whole number of 16-bit words",
    "the PLIO_1 line list is shorter than a header",
    "the PLIO_1 line list is said to be longer than its bytes",
    "the PLIO_1 line list is said to begin outside of itself",
    "the PLIO_1 line list ends within an instruction",
)
_ODD, _NO_HEADER, _LENGTH, _START, _CUT = range(len(_PLIO_REASONS))
"""Status of a damaged tile: an index in `_PLIO_REASONS`."""

# One bit for each of the instructions 0 to 7: what it does with the value (`high`) and the pixels.
_ADDS = 0b0100_0100
_SUBTRACTS = 0b1000_1000
_RUNS = 0b0011_0001
_DOTS = 0b1100_0000
_FILLS = 0b0001_0000
_TAILS = 0b1111_0000

_SPAN = 8
"""Pixels that are written whatever the length of a run: less than a mispredicted branch costs."""


@kernel(inline="always")
def _read_word(data: Bytes, index: Scalar) -> Scalar:
    """Read the big-endian word at `index`, signed."""
    at = np.uint64(index) * np.uint64(2)
    return np.int64(np.int16((np.uint16(data[at]) << 8) | data[at + np.uint64(1)]))


@kernel()
def _draw(data: Bytes, row: npt.NDArray[np.int32], at: int, length: int) -> int:
    """Carry out the instructions of words `at` to `length`; return a status, or -1."""
    npix = len(row)
    done = 0
    high = np.int64(1)
    while at < length and done < npix:
        # The upper 4 bits of a word are an instruction, the lower 12 its count.
        word = _read_word(data, at)
        at += 1
        code = (word >> 12) & 15
        count = word & 4095
        # Instruction 1 sets the value, to 27 bits with the word after it.
        if code == 1:
            if at >= length:
                return _CUT
            high = count + (_read_word(data, at) << 12)
            at += 1
            continue
        # Which instruction comes next cannot be foreseen, so none of the others branches on it:
        # each changes the value by its count, then writes a run of pixels whose last one, the
        # tail, may differ. Any of the three may be nothing.
        high += count * (((_ADDS >> code) & 1) - ((_SUBTRACTS >> code) & 1))
        run = count * ((_RUNS >> code) & 1) + ((_DOTS >> code) & 1)
        fill = np.int32(high * ((_FILLS >> code) & 1))
        tail = np.int32(high * ((_TAILS >> code) & 1))
        stop = done + run
        if run <= _SPAN and done + _SPAN <= npix:
            for i in range(_SPAN):
                row[np.uint64(done + i)] = fill  # those beyond the run are overwritten
        else:
            # A run that goes on behind the tile is cut off, and its tail with it.
            if stop > npix:
                stop = npix
                tail = fill
            for i in range(np.uint64(done), np.uint64(stop)):
                row[i] = fill
        # Without a run this writes a pixel that the next instruction, or the end, overwrites.
        row[np.uint64(max(stop - 1, done))] = tail
        done = stop
    # Pixels that the list does not reach.
    row[done:] = 0
    return -1


@kernel()
def _decode_plio_tile(data: Bytes, row: npt.NDArray[np.int32]) -> Scalar:
    """Decode one tile; return a status, or -1."""
    words = len(data) // 2
    # The header has one of two forms: word 2 is the length of the list, or is not positive, and
    # then words 3 and 4 are the length and word 1 is where it begins.
    is_long = words >= 3 and _read_word(data, 2) <= 0
    if len(data) % 2:
        return _ODD
    if words < (5 if is_long else 3):
        return _NO_HEADER
    if is_long:
        length = (_read_word(data, 4) << 15) + _read_word(data, 3)
        at = _read_word(data, 1)
    else:
        length = _read_word(data, 2)
        at = np.int64(3)
    if length > words:
        return _LENGTH
    # An empty list has no instructions, wherever they are said to begin.
    if length <= 0:
        length = at = np.int64(3)
    if at < 3 or at > length:
        return _START
    return _draw(data, row, at, length)


@kernel(
    "int64(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1])"
)
def _decode_plio_tiles(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
) -> Scalar:
    """Decode tiles; return -1 if none is damaged.

    Of the first damaged one it is ``tile * len(_PLIO_REASONS) + status``.
    """
    for tile in range(len(starts)):
        coded = data[starts[tile] : starts[tile] + lengths[tile]]
        status = _decode_plio_tile(coded, values[tile])
        if status >= 0:
            return tile * len(_PLIO_REASONS) + status
    return -1


def decode(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
) -> None:
    """Decode a batch of tiles.

    Parameters
    ----------
    data, starts, lengths, values
        As for every decoder; pixels that a list does not reach are 0.
    """
    status = _decode_plio_tiles(data, starts, lengths, values)
    if status >= 0:
        tile, reason = divmod(status, len(_PLIO_REASONS))
        raise DecodeError(tile, _PLIO_REASONS[reason])
