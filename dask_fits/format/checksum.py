"""Checksums of an HDU: DATASUM and CHECKSUM (FITS Standard 4.0, section 4.4.2.7 and appendix J)."""

from __future__ import annotations

import numpy as np

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
    # Ones' complement: the carry out of the highest bit comes in again at the lowest.
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
