"""PLIO_1: line lists of IRAF masks (FITS Standard 4.0, section 10.4.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.compiled import kernel
from dask_fits.codecs.errors import DecodeError

_REASONS = (
    "the PLIO_1 line list is no whole number of 16-bit words",
    "the PLIO_1 line list is shorter than a header",
    "the PLIO_1 line list is said to be longer than its bytes",
    "the PLIO_1 line list is said to begin outside of itself",
    "the PLIO_1 line list ends within an instruction",
)
_ODD, _HEADER, _LENGTH, _START, _CUT = range(len(_REASONS))
# One bit for each of the instructions 0 to 7: what it does.
_ADDS, _SUBTRACTS = 0b0100_0100, 0b1000_1000
_RUNS, _DOTS = 0b0011_0001, 0b1100_0000
_FILLS, _TAILS = 0b0001_0000, 0b1111_0000
_SPAN = 8
"""Pixels that are written whatever the length of a run: less than a mispredicted branch costs."""


@kernel(inline="always")
def _word(data: npt.NDArray[np.uint8], index: Any) -> Any:
    at = np.uint64(index) * np.uint64(2)
    return np.int64(np.int16((np.uint16(data[at]) << 8) | data[at + np.uint64(1)]))


@kernel()
def _draw(data: npt.NDArray[np.uint8], row: npt.NDArray[np.int32], at: int, length: int) -> int:
    """Carry out the instructions of words `at` to `length`; tell what is wrong, or -1."""
    npix, done = len(row), 0
    high = np.int64(1)
    while at < length and done < npix:
        word = _word(data, at)
        at += 1
        code, count = (word >> 12) & 15, word & 4095
        if code == 1:
            if at >= length:
                return _CUT
            high = count + (_word(data, at) << 12)
            at += 1
            continue
        # Which instruction comes next cannot be foreseen, so none of this branches on it.
        high += count * (((_ADDS >> code) & 1) - ((_SUBTRACTS >> code) & 1))
        run = count * ((_RUNS >> code) & 1) + ((_DOTS >> code) & 1)
        fill = np.int32(high * ((_FILLS >> code) & 1))
        tail = np.int32(high * ((_TAILS >> code) & 1))
        stop = done + run
        if run <= _SPAN and done + _SPAN <= npix:
            for i in range(_SPAN):
                row[np.uint64(done + i)] = fill  # those beyond the run are overwritten
        else:
            if stop > npix:
                stop, tail = npix, fill
            for i in range(np.uint64(done), np.uint64(stop)):
                row[i] = fill
        row[np.uint64(max(stop - 1, done))] = tail
        done = stop
    row[done:] = 0
    return -1


@kernel()
def _decode_tile(data: npt.NDArray[np.uint8], row: npt.NDArray[np.int32]) -> Any:
    words = len(data) // 2
    is_long = words >= 3 and _word(data, 2) <= 0
    if len(data) % 2:
        return _ODD
    if words < (5 if is_long else 3):
        return _HEADER
    length, at = _word(data, 2), np.int64(3)
    if is_long:
        length, at = (_word(data, 4) << 15) + _word(data, 3), _word(data, 1)
    if length > words:
        return _LENGTH
    if length <= 0:
        length = at = np.int64(3)
    if at < 3 or at > length:
        return _START
    return _draw(data, row, at, length)


@kernel(
    "int64(Array(uint8, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True),"
    " Array(int64, 1, 'C', readonly=True), int32[:, ::1])"
)
def _decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
) -> Any:
    for tile in range(len(starts)):
        wrong = _decode_tile(data[starts[tile] : starts[tile] + lengths[tile]], values[tile])
        if wrong >= 0:
            return tile * len(_REASONS) + wrong
    return -1


def decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.int32],
) -> None:
    """Decode a batch of tiles.

    Parameters
    ----------
    data, starts, lengths, values
        As for every decoder; pixels that a list does not reach are 0.
    """
    status = _decode(data, starts, lengths, values)
    if status >= 0:
        raise DecodeError(status // len(_REASONS), _REASONS[status % len(_REASONS)])
