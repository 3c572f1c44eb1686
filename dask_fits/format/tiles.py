"""The ZIMAGE convention: an image cut into tiles, each compressed into a row of a binary table.

FITS Standard 4.0, section 10. Each row points at its tile's bytes in the heap after the table, by
the descriptor of a variable-length array (section 7.3.5).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_fits.exceptions import UnsupportedHduError
from dask_fits.format.header import RawHeader
from dask_fits.format.image_keywords import (
    read_bitpix,
    read_blank,
    read_number,
    read_scaling,
)
from dask_fits.format.scaling import STORED_DTYPES, Scaling
from dask_fits.ranges.byte_range import ByteRange

SOURCES = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
"""Columns that may hold a tile; the first one that is not empty does (section 10.1.3)."""

Algorithm = Literal["RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS"]
"""ZCMPTYPE (section 10.4)."""

_ALGORITHMS: dict[str, Algorithm] = {
    "RICE_1": "RICE_1",
    "RICE_ONE": "RICE_1",
    "GZIP_1": "GZIP_1",
    "GZIP_2": "GZIP_2",
    "PLIO_1": "PLIO_1",
    "HCOMPRESS_1": "HCOMPRESS_1",
    "NOCOMPRESS": "NOCOMPRESS",
}

_DITHERS = {"NO_DITHER": 0, "NONE": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}
"""ZQUANTIZ (section 10.2); NONE is what fpack writes for what is not quantized."""

_ELEMENTS = dict(zip("BIJKED", (">u1", ">i2", ">i4", ">i8", ">f4", ">f8"), strict=True))
"""Letter of TFORMn to the type of an element (Standard 4.0, table 18)."""

_OTHERS = {"L": 1, "A": 1, "C": 8, "M": 16}
"""Letter of TFORMn to the bytes of an element, of the types that hold no pixels."""

_TFORM = re.compile(r"\s*(\d{0,18})(?:([PQ])([A-Z])?|([LXBIJKAEDCM]))")

_MAX_ROW = (1 << 31) - 1
"""Bytes in a row: what NumPy takes."""

_MAX_TILE = (1 << 31) - 1
"""Pixels in a tile: what the decoders count in 32 bits."""


@dataclass(frozen=True, slots=True)
class Compression:
    """How the pixels of a tile became bytes: ZCMPTYPE, and ZNAMEi with ZVALi (section 10.4)."""

    algorithm: Algorithm
    blocksize: int = 32
    """Pixels in a block of RICE_1."""
    bytepix: int = 4
    """Bytes in a pixel of RICE_1."""
    smooth: bool = False
    """Whether HCOMPRESS_1 smooths the pixels."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """How the floats of an image became integers (section 10.2)."""

    dither: int
    """0 none, 1 and 2: SUBTRACTIVE_DITHER_1 and _2."""
    seed: int
    """ZDITHER0."""
    scale: float | None
    """ZSCALE of all tiles; None where it is a column."""
    zero: float | None
    """ZZERO of all tiles; None where it is a column."""
    blank: int | None
    """Integer that stands for NaN; None where there is none, or it is a column."""


@dataclass(frozen=True, slots=True)
class TiledLayout:
    """Where the tiles of a compressed image lie and how they are stored."""

    hdu: int
    """Index of the HDU, for messages."""
    shape: tuple[int, ...]
    """Array shape, NumPy order: the last axis varies fastest."""
    tile: tuple[int, ...]
    """Shape of a tile, NumPy order, nowhere longer than the image; edge tiles may be smaller."""
    scaling: Scaling
    """From the integers or floats that the tiles hold, once unquantized, to physical values."""
    compression: Compression
    quantization: Quantization | None
    """None where the tiles hold the image's own values."""
    fill: int | None
    """What the undefined pixels of an integer image get, where ZBLANK is a column."""
    table: ByteRange
    """The rows of the table, one for each tile, in the order of the tiles."""
    heap: ByteRange
    """What the descriptors point into."""
    row: np.dtype[Any]
    """Type of a row: the descriptors and the ZSCALE, ZZERO and ZBLANK columns that there are."""
    elements: tuple[tuple[str, str], ...]
    """Type of an element of each column of compressed bytes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as read."""
        return self.scaling.dtype

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along each axis, NumPy order."""
        return _grid(self.shape, self.tile)


def tiled_layout(
    header: RawHeader, index: int, shape: tuple[int, ...], data: ByteRange
) -> TiledLayout:
    """Work out the layout of a tile-compressed image.

    Parameters
    ----------
    header : RawHeader
        Header of the binary table.
    index : int
        Position of the HDU in the file, from 0.
    shape : tuple of int
        ZNAXISn, in NumPy order.
    data : ByteRange
        The data unit.

    Raises
    ------
    FitsFormatError
        A keyword is missing or cannot be used.
    UnsupportedHduError
        The tiles cannot be decoded.
    """
    bitpix = read_bitpix(header, prefix="Z")
    tile = _tile(header, shape)
    columns = _columns(header)
    blank = _image_blank(header, bitpix, columns)
    scaling = read_scaling(header, bitpix, blank=blank)
    compression = _compression(header)
    if "NULL_PIXEL_MASK" in columns:
        raise _unsupported(header, "ZMASKCMP", "an image without a NULL_PIXEL_MASK column")
    if not any(source in columns for source in SOURCES):
        raise header.bad("TTYPEn", ", ".join(columns), f"one of {', '.join(SOURCES)}")
    row_bytes, rows = header.integer("NAXIS1"), header.integer("NAXIS2")
    tiles = math.prod(_grid(shape, tile))
    if rows != tiles:
        raise header.bad("NAXIS2", rows, f"{tiles}: a row for each tile of ZNAXISn and ZTILEn")
    if row_bytes > _MAX_ROW:
        raise header.bad("NAXIS1", row_bytes, f"at most {_MAX_ROW}")
    width = sum(column.nbytes for column in columns.values())
    if width != row_bytes:
        raise header.bad("NAXIS1", row_bytes, f"{width}, the sum of the columns of TFORMn")
    table = ByteRange(data.start, data.start + rows * row_bytes)
    if table.nbytes > data.nbytes:
        raise header.bad("GCOUNT", header.value("GCOUNT"), "1")
    theap = header.integer("THEAP", default=table.nbytes)
    if not table.nbytes <= theap <= data.nbytes:
        raise header.bad("THEAP", theap, f"{table.nbytes} to {data.nbytes}")
    known = {name: columns[name] for name in (*SOURCES, *_NUMBERS) if name in columns}
    return TiledLayout(
        hdu=index,
        shape=shape,
        tile=tile,
        scaling=scaling,
        compression=compression,
        quantization=_quantization(header, bitpix, columns),
        fill=blank if "ZBLANK" in columns else None,
        table=table,
        heap=ByteRange(data.start + theap, data.stop),
        row=np.dtype(
            {
                "names": list(known),
                "formats": [column.format for column in known.values()],
                "offsets": [column.offset for column in known.values()],
                "itemsize": row_bytes,
            }
        ),
        elements=tuple((name, known[name].element) for name in SOURCES if name in known),
    )


_INTEGERS = (">u1", ">i2", ">i4", ">i8")
_NUMBERS = {
    "ZSCALE": (*_INTEGERS, ">f4", ">f8"),
    "ZZERO": (*_INTEGERS, ">f4", ">f8"),
    "ZBLANK": _INTEGERS,
}
"""Columns of numbers, and the types that they may have."""


@dataclass(frozen=True, slots=True)
class _Column:
    offset: int
    """Bytes before it in a row."""
    nbytes: int
    format: Any
    """NumPy type of what a row holds."""
    element: str = ""
    """NumPy type of an element of a variable-length array; none where it can be no pixel."""
    variable: bool = False


def _columns(header: RawHeader) -> dict[str, _Column]:
    """Read TTYPEn and TFORMn: the columns by name, in upper case."""
    columns: dict[str, _Column] = {}
    fields = header.integer("TFIELDS")
    if not 0 <= fields <= 999:
        raise header.bad("TFIELDS", fields, "0 to 999")
    offset = 0
    for n in range(1, fields + 1):
        form, name = header.value(f"TFORM{n}"), header.value(f"TTYPE{n}")
        match = _TFORM.match(form) if isinstance(form, str) else None
        if match is None:
            raise header.bad(f"TFORM{n}", form, "the format of a column, such as 1PB")
        column = _column(match, offset)
        name = name.strip().upper() if isinstance(name, str) and name.strip() else f"COLUMN {n}"
        if name in SOURCES and not (column.variable and column.nbytes and column.element):
            raise header.bad(f"TFORM{n}", form, f"a variable-length array of numbers for {name}")
        if name in _NUMBERS and (column.variable or column.format not in _NUMBERS[name]):
            raise header.bad(f"TFORM{n}", form, f"a number for {name}")
        if name in columns and name in (*SOURCES, *_NUMBERS):
            raise header.bad(f"TTYPE{n}", name, "a name that no other column has")
        columns[f"{name} {n}" if name in columns else name] = column
        offset += column.nbytes
    return columns


def _column(match: re.Match[str], offset: int) -> _Column:
    repeat = int(match[1] or 1)
    if match[2]:  # descriptors are unsigned: heaps of more than 2 GiB are pointed into by P
        format_ = (">u4" if match[2] == "P" else ">i8", (2,))
        nbytes = (8 if match[2] == "P" else 16) * min(repeat, 1)
        return _Column(offset, nbytes, format_, _ELEMENTS.get(match[3] or "B", ""), variable=True)
    if match[4] == "X":
        return _Column(offset, (repeat + 7) // 8, None)
    if match[4] in _OTHERS:
        return _Column(offset, repeat * _OTHERS[match[4]], None)
    element = _ELEMENTS[match[4]]
    size = repeat * np.dtype(element).itemsize
    return _Column(offset, size, element if repeat == 1 else None)


def _tile(header: RawHeader, shape: tuple[int, ...]) -> tuple[int, ...]:
    tile = []
    for n, length in enumerate(shape[::-1], 1):  # section 10.1.2: rows, where nothing is said
        found = header.integer(f"ZTILE{n}", default=max(length, 1) if n == 1 else 1)
        if found < 1:
            raise header.bad(f"ZTILE{n}", found, "1 or more")
        tile.append(min(found, max(length, 1)))
    if math.prod(tile) > _MAX_TILE:
        what = header.bad("ZTILEn", tuple(tile), f"at most {_MAX_TILE} pixels in a tile")
        raise UnsupportedHduError(str(what))
    return tuple(tile[::-1])


def _grid(shape: tuple[int, ...], tile: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-length // step) for length, step in zip(shape, tile, strict=True))


def _compression(header: RawHeader) -> Compression:
    found = header.value("ZCMPTYPE")
    if not isinstance(found, str):
        raise header.bad("ZCMPTYPE", found, "the name of an algorithm")
    algorithm = _ALGORITHMS.get(found.strip().upper())
    if algorithm is None:
        raise _unsupported(header, "ZCMPTYPE", "one of " + ", ".join(_ALGORITHMS))
    numbers = _parameters(header)
    blocksize = _parameter(header, numbers, "BLOCKSIZE", default=32)
    if algorithm == "RICE_1" and not 1 <= blocksize <= _MAX_TILE:
        raise header.bad("BLOCKSIZE (ZNAMEi, ZVALi)", blocksize, "1 or more")
    bytepix = _parameter(header, numbers, "BYTEPIX", default=4)
    if algorithm == "RICE_1" and bytepix not in (1, 2, 4):
        what = f"{header.where}: BYTEPIX (ZNAMEi, ZVALi): found {bytepix}"
        raise UnsupportedHduError(f"{what}, expected 1, 2 or 4")
    smooth = _parameter(header, numbers, "SMOOTH", default=0) != 0
    return Compression(algorithm, blocksize, bytepix, smooth)


def _parameters(header: RawHeader) -> dict[str, int]:
    """Find the parameters of the algorithm: the i of each ZNAMEi, by its value."""
    numbers: dict[str, int] = {}
    for n in range(1, 1000):
        found = header.value(f"ZNAME{n}")
        if found is None:
            break
        numbers.setdefault(str(found).strip().upper(), n)
    return numbers


def _parameter(header: RawHeader, numbers: dict[str, int], name: str, *, default: int) -> int:
    """Read the ZVALi of a parameter."""
    if name not in numbers:
        return default
    keyword = f"ZVAL{numbers[name]}"
    value = header.value(keyword)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise header.bad(f"{keyword} ({name})", value, "an integer")
    return value


_MAX_SEED = (1 << 31) - 1
"""ZDITHER0 beyond the 10000 of section 10.2.1 means what it means modulo 10000."""


def _image_blank(header: RawHeader, bitpix: int, columns: dict[str, _Column]) -> int | None:
    """Which integer of the image stands for an undefined pixel."""
    if bitpix < 0:
        return None
    blank = read_blank(header, "BLANK")
    blank = read_blank(header, "ZBLANK") if blank is None else blank
    if blank is None and "ZBLANK" in columns:
        if bitpix == 8:
            raise header.bad("BLANK", None, "an integer, since there is a ZBLANK column")
        return -(1 << bitpix - 1)  # as astropy and cfitsio have it
    limits = np.iinfo(STORED_DTYPES[bitpix])
    if blank is not None and "ZBLANK" in columns and not limits.min <= blank <= limits.max:
        raise header.bad("BLANK", blank, f"{limits.min} to {limits.max}")
    return blank


def _quantization(
    header: RawHeader, bitpix: int, columns: dict[str, _Column]
) -> Quantization | None:
    keys = [key for key in ("ZSCALE", "ZZERO") if key in columns or key in header]
    if not keys:
        return None
    if bitpix > 0:
        raise header.bad("ZBITPIX", bitpix, f"-32 or -64, since there is {keys[0]}")
    method = header.value("ZQUANTIZ") if "ZQUANTIZ" in header else "NO_DITHER"
    dither = _DITHERS.get(str(method).strip().upper())
    if dither is None:
        raise header.bad("ZQUANTIZ", method, "one of " + ", ".join(_DITHERS))
    blank = read_blank(header, "ZBLANK")
    blank = read_blank(header, "BLANK") if blank is None else blank
    return Quantization(
        dither=dither,
        seed=_seed(header) if dither else 0,
        scale=None if "ZSCALE" in columns else read_number(header, "ZSCALE", default=1),
        zero=None if "ZZERO" in columns else read_number(header, "ZZERO", default=0),
        blank=None if "ZBLANK" in columns or abs(blank or 0) > 1 << 31 else blank,
    )


def _seed(header: RawHeader) -> int:
    seed = header.integer("ZDITHER0")
    if not 1 <= seed <= _MAX_SEED:
        raise header.bad("ZDITHER0", seed, "1 to 10000")
    return seed


def _unsupported(header: RawHeader, keyword: str, expected: str) -> UnsupportedHduError:
    return UnsupportedHduError(str(header.bad(keyword, header.value(keyword), expected)))
