"""CRC-32C of a file, from those of its parts: Google Cloud Storage tells it of each object.

A check sum of this kind is linear: bytes that come behind a part change its check sum as if they
were zeros, and then by their own. `n` zeros are a matrix of 32 x 32 bits, which is made by squaring
that of one zero bit (as in zlib's ``crc32_combine``).
"""

from __future__ import annotations

import base64

_POLYNOMIAL = 0x82F63B78
"""Of Castagnoli, its bits reversed (RFC 3720, section 12.1)."""

Matrix = list[int]
"""Columns of a matrix of bits, each as a number."""


def combine(first: int, second: int, second_length: int) -> int:
    """Return the check sum of some bytes and `second_length` others behind them."""
    square = [_POLYNOMIAL, *(1 << bit for bit in range(31))]  # one zero bit
    bits = 8 * second_length
    while bits:
        if bits & 1:
            first = _times(square, first)
        square = [_times(square, column) for column in square]
        bits >>= 1
    return first ^ second


def from_base64(text: str) -> int:
    """Return the check sum that Google Cloud Storage writes in base64, big-endian."""
    return int.from_bytes(base64.b64decode(text), "big")


def _times(matrix: Matrix, vector: int) -> int:
    """Multiply a matrix by a vector of bits."""
    product = 0
    for column in matrix:
        if not vector:
            break
        if vector & 1:
            product ^= column
        vector >>= 1
    return product
