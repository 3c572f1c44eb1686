"""Checksums of an HDU: DATASUM and CHECKSUM (FITS Standard 4.0, section 4.4.2.7 and appendix J)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

_WORD_MASK = (1 << 32) - 1
"""The 32 bits of a word."""

_PUNCTUATION = frozenset(b":;<=>?@[\\]^_`")
"""Characters between the digits and the letters of ASCII, which CHECKSUM does without."""


def sum32(data: bytes | memoryview, before: int = 0) -> int:
    """Add up bytes as big-endian 32-bit words in ones' complement.

    Parameters
    ----------
    data : bytes or memoryview of bytes
        Filled up with zeros to whole words.
    before : int
        Sum of the bytes that precede these.

    Examples
    --------
    >>> sum32(bytes.fromhex("ffffffff00000002"))
    2
    """
    words = len(data) // 4
    total = before + int(np.frombuffer(data, ">u4", words).sum(dtype=np.uint64))
    total += int.from_bytes(bytes(data[4 * words :]).ljust(4, b"\0"), "big")
    return _fold(total)


def add_sums(sums: Iterable[int]) -> int:
    """Add up the sums of parts of some bytes, as of `sum_of_values`."""
    return _fold(sum(sums))


def sum_of_values(values: npt.NDArray[Any], start: int) -> int:
    """Add up values as `sum32` adds up their bytes, big-endian, at their place in a data unit.

    Parameters
    ----------
    values : contiguous array
        In native byte order, which is quicker than swapping them first.
    start : int
        Bytes of the data unit before them. They need not begin, nor end, with a whole word.

    Examples
    --------
    >>> sum_of_values(np.array([1, 2, 3], np.int16), 2) == sum32(bytes.fromhex("0000000100020003"))
    True
    """
    flat = values.reshape(-1)
    itemsize = values.dtype.itemsize
    if itemsize >= 4:
        # A word of a native integer has the value of the same word of a big-endian one; the order
        # of the two words of a longer one does not matter.
        return _fold(int(flat.view(np.uint32).sum(dtype=np.uint64)))
    total = 0
    unsigned = flat.view(f"u{itemsize}")
    count = 4 // itemsize
    for n in range(count):
        total += int(unsigned[n::count].sum(dtype=np.uint64)) << (8 * itemsize * (count - 1 - n))
    # To begin k bytes later in a word is to divide by 2^8k modulo 2^32 - 1: a rotation of the bits.
    shift = 8 * (start % 4)
    total = _fold(total)
    return ((total >> shift) | (total << (32 - shift))) & _WORD_MASK


def _fold(total: int) -> int:
    """Reduce a sum in ones' complement: carries out of the highest bit come in at the lowest."""
    while total > _WORD_MASK:
        total = (total & _WORD_MASK) + (total >> 32)
    return total


def encode_checksum(total: int) -> str:
    """Return the value of CHECKSUM that brings the sum of an HDU, now `total`, to zero.

    The complement's bytes are cut into four characters each, which add up to the byte and an
    offset; pairs of characters are moved apart until none is punctuation.
    """
    text = bytearray(16)
    for byte_index, byte in enumerate((~total & _WORD_MASK).to_bytes(4, "big")):
        parts = [ord("0") + byte // 4 + part for part in (byte % 4, 0, 0, 0)]
        while _PUNCTUATION.intersection(parts):
            for first in (0, 2):
                if _PUNCTUATION.intersection(parts[first : first + 2]):
                    parts[first] += 1
                    parts[first + 1] -= 1
        # Four words of characters: each byte's parts stand at its place in all of them.
        text[byte_index::4] = bytes(parts)
    # The value begins in column 12 of its card, a byte before a whole word.
    return (text[-1:] + text[:-1]).decode("ascii")
