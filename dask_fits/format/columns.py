"""Columns of a binary table: TTYPEn and TFORMn (FITS Standard 4.0, section 7.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dask_fits.format.header import RawHeader

_MAX_TFIELDS = 999
"""Standard 4.0, section 7.3.1."""

_ELEMENTS = {
    "B": ">u1",
    "I": ">i2",
    "J": ">i4",
    "K": ">i8",
    "E": ">f4",
    "D": ">f8",
}
"""Letter of TFORMn to the NumPy type of an element (Standard 4.0, table 18)."""

_NO_NUMBERS = {"L": 1, "A": 1, "C": 8, "M": 16}
"""Letter of TFORMn to the bytes of an element, of the types that hold no real numbers."""

_DESCRIPTORS = {"P": (">u4", (2,)), "Q": (">i8", (2,))}
"""Letter of TFORMn to the NumPy type of a descriptor (section 7.3.5): number of elements, and
their byte in the heap. Those of P are read as unsigned, for heaps of more than 2 GiB."""

_TFORM = re.compile(
    r"\s*(?P<repeat>\d{0,18})(?:(?P<descriptor>[PQ])(?P<element>[A-Z])?|(?P<letter>[LXBIJKAEDCM]))"
)


@dataclass(frozen=True, slots=True)
class Format:
    """Content of a column in a row of the table, from TFORMn."""

    nbytes: int
    """Bytes in a row."""
    dtype: str | tuple[str, tuple[int]] | None
    """NumPy type: of a number, or of a descriptor; None if a row holds neither."""
    element: str = ""
    """NumPy type of an element of a variable-length array; empty if that is no real number."""
    variable: bool = False
    """Whether the row holds the descriptor of a variable-length array."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a binary table."""

    number: int
    """The n of TFORMn, from 1."""
    name: str
    """TTYPEn without blanks around it; empty if there is none."""
    tform: str
    """TFORMn as it is written."""
    offset: int
    """Bytes before it in a row."""
    format: Format


def read_columns(header: RawHeader) -> Iterator[Column]:
    """Read TTYPEn and TFORMn, column by column: each can be checked before the next is parsed.

    Raises
    ------
    FitsFormatError
        A keyword is missing or cannot be used.
    """
    count = header.integer("TFIELDS")
    if not 0 <= count <= _MAX_TFIELDS:
        raise header.keyword_error("TFIELDS", count, f"0 to {_MAX_TFIELDS}")
    offset = 0
    for n in range(1, count + 1):
        tform = header.value(f"TFORM{n}")
        name = header.value(f"TTYPE{n}")
        column_format = parse_tform(tform) if isinstance(tform, str) else None
        if not isinstance(tform, str) or column_format is None:
            raise header.keyword_error(f"TFORM{n}", tform, "the format of a column, such as 1PB")
        yield Column(
            number=n,
            name=name.strip() if isinstance(name, str) else "",
            tform=tform,
            offset=offset,
            format=column_format,
        )
        offset += column_format.nbytes


def parse_tform(tform: str) -> Format | None:
    """Parse a value of TFORMn; None if it is no format of a column.

    Examples
    --------
    >>> parse_tform("1PJ(400)")
    Format(nbytes=8, dtype=('>u4', (2,)), element='>i4', variable=True)
    >>> parse_tform("D")
    Format(nbytes=8, dtype='>f8', element='', variable=False)
    """
    match = _TFORM.match(tform)
    if match is None:
        return None
    repeat = int(match["repeat"] or 1)
    letter = match["letter"]
    if letter is None:
        # A row holds one descriptor, or none if the repeat count is 0. Without the letter of an
        # element, as some writers have it, the array is of bytes.
        return Format(
            nbytes=(8 if match["descriptor"] == "P" else 16) * min(repeat, 1),
            dtype=_DESCRIPTORS[match["descriptor"]],
            element=_ELEMENTS.get(match["element"] or "B", ""),
            variable=True,
        )
    if letter == "X":  # bits
        return Format((repeat + 7) // 8, None)
    if letter in _NO_NUMBERS:
        return Format(repeat * _NO_NUMBERS[letter], None)
    element = _ELEMENTS[letter]
    nbytes = repeat * np.dtype(element).itemsize
    # Several elements in a row are an array of fixed length, and no number.
    return Format(nbytes, element if repeat == 1 else None)
