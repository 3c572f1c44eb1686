"""The codes of compress(1) to bytes, from any state to the next: a kernel for numba."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.compiled import Scalar, kernel

Links: TypeAlias = npt.NDArray[np.uint32]
"""By code: the code of all bytes but the last, in the upper 24 bits, and the last byte."""

Counts: TypeAlias = npt.NDArray[np.uint16]
"""By code: how many bytes it stands for."""

NEEDS_CODES, NEEDS_ROOM, BAD_CODE = range(3)
"""Why the kernel returns: the data are used up, the values are full, or a code has no meaning."""

STATE_SIZE = 9
(
    POSITION,  # the first bit of the data that has not been read
    GROUP,  # the bit, maybe of earlier data, at which the codes of this width begin
    WIDTH,  # bits of a code
    FREE,  # the lowest code without a meaning
    OLD,  # the code before, or -1 where it does not count
    MAX_BITS,  # so many codes can have a meaning, as a power of 2
    CLEAR,  # the code that takes all meanings away, or -1
    COUNT,  # bytes that the kernel has written
    CODE,  # the one that is bad
) = range(STATE_SIZE)
"""What the numbers of a state are."""

MARGIN = 2
"""Bytes behind the packed ones, which are loaded with a code and do not matter."""

MAX_CODES = 1 << 16

_FIRST_WIDTH = 9
_LITERALS = 256


@kernel(inline="always")
def _read_code(data: Bytes, position: Scalar, width: Scalar) -> Scalar:
    """Return the code at a bit, the first bit of a byte being its lowest."""
    at = np.uint64(position >> 3)
    word = (
        np.uint32(data[at])
        | (np.uint32(data[at + np.uint64(1)]) << np.uint32(8))
        | (np.uint32(data[at + np.uint64(2)]) << np.uint32(16))
    )
    return np.int64((word >> np.uint32(position & 7)) & np.uint32((1 << width) - 1))


@kernel(inline="always")
def _align(position: Scalar, group: Scalar, width: Scalar) -> Scalar:
    """Return where the next group of 8 codes begins, as the writer fills groups up."""
    bits = 8 * width
    return group + (position - group + bits - 1) // bits * bits


@kernel(inline="always")
def _write_string(links: Links, code: Scalar, values: Bytes, last: Scalar) -> Scalar:
    """Write the bytes of a code, which end at `last`; return the first one.

    A link leads to a lower code, so this ends, after as many steps as the code has bytes.
    """
    at = np.uint64(last)
    link = np.uint32(code)
    while link >= np.uint32(_LITERALS):
        entry = links[np.uint64(link)]
        values[at] = np.uint8(entry & np.uint32(255))
        at -= np.uint64(1)
        link = entry >> np.uint32(8)
    values[at] = np.uint8(link)
    return np.int64(link)


@kernel(
    "int64(Array(uint8, 1, 'C', readonly=True), uint8[::1], uint32[::1], uint16[::1], int64[::1])"
)
def decode_codes(
    data: Bytes, values: Bytes, links: Links, counts: Counts, state: Integers
) -> Scalar:
    """Decode codes until there are no more of them, or no room.

    Parameters
    ----------
    data
        Packed bytes, and `MARGIN` more.
    values
        Where the unpacked bytes go: room for 65536 at least, which is more than a code stands for.
    links, counts
        By code, `MAX_CODES` of them. Those of bytes have their counts.
    state
        As after the call before. `POSITION` and `GROUP` are of these data.
    """
    nbits = 8 * (len(data) - MARGIN)
    position, group, width = state[POSITION], state[GROUP], state[WIDTH]
    free, old, clear = state[FREE], state[OLD], state[CLEAR]
    limit = 1 << state[MAX_BITS]
    # Where 9 bits are all, compress(1) goes on to 10 nevertheless when all codes have a meaning.
    max_width = max(state[MAX_BITS], _FIRST_WIDTH + 1)
    count = np.int64(0)
    status = NEEDS_CODES
    while position + width <= nbits:
        code = _read_code(data, position, width)
        if code == clear:
            position = group = _align(position + width, group, width)
            width = _FIRST_WIDTH
            free = clear + 1
            old = np.int64(-1)
            continue
        # The code that gets its meaning now is the string before, and its first byte once more.
        is_new = code == free and old >= 0 and free < limit
        if code >= free and not is_new:
            state[CODE] = code
            status = BAD_CODE
            break
        length = np.int64(counts[old]) + 1 if is_new else np.int64(counts[code])
        if count + length > len(values):
            status = NEEDS_ROOM
            break
        position += width
        count += length
        if is_new:
            first = _write_string(links, old, values, count - 2)
            values[count - 1] = np.uint8(first)
        else:
            first = _write_string(links, code, values, count - 1)
        if old >= 0 and free < limit:
            links[free] = np.uint32((old << 8) | first)
            counts[free] = np.uint16(counts[old] + 1)
            free += 1
            if free == 1 << width and width < max_width:
                position = group = _align(position, group, width)
                width += 1
        old = code
    state[POSITION], state[GROUP], state[WIDTH] = position, group, width
    state[FREE], state[OLD], state[COUNT] = free, old, count
    return status
