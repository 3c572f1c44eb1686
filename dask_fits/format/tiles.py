"""The ZIMAGE convention: an image cut into tiles, each compressed into a row of a binary table.

FITS Standard 4.0, section 10. Each row points at its tile's bytes in the heap after the table, by
the descriptor of a variable-length array (section 7.3.5)::

    data unit   | table: rows 0, 1, 2, ...                      | heap: bytes of the tiles |
    row         | COMPRESSED_DATA (elements, byte in the heap) | ZSCALE | ZZERO | ...      |
    tiles       row 0 is the tile at index (0, ..., 0) of the grid, row 1 the one at (0, ..., 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dask_fits.exceptions import UnsupportedHduError
from dask_fits.format.columns import Column, read_columns
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
"""Columns that may hold a tile; the first of them that is not empty does (section 10.1.3)."""

_INTEGER_DTYPES = (">u1", ">i2", ">i4", ">i8")

_NUMBER_COLUMNS = {
    "ZSCALE": (*_INTEGER_DTYPES, ">f4", ">f8"),
    "ZZERO": (*_INTEGER_DTYPES, ">f4", ">f8"),
    "ZBLANK": _INTEGER_DTYPES,
}
"""Columns of a number for each tile, and the NumPy types that they may have."""

_TILE_COLUMNS = (*SOURCES, *_NUMBER_COLUMNS)
"""Columns that are read."""

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
"""ZQUANTIZ (section 10.2); fpack writes NONE for images that are not quantized."""

_MAX_ROW = (1 << 31) - 1
"""Bytes in a row at most: NumPy counts them in 31 bits."""

_MAX_TILE = (1 << 31) - 1
"""Pixels in a tile at most: decoders count them in 31 bits."""

_MAX_SEED = (1 << 31) - 1
"""ZDITHER0 at most. Beyond the 10000 of section 10.2.1 it means the same as modulo 10000."""

_MAX_PARAMETERS = 999
"""The largest n that fits the name of a keyword ZNAMEn."""


@dataclass(frozen=True, slots=True)
class Compression:
    """Compression of the pixels of a tile: ZCMPTYPE, and ZNAMEi with ZVALi (section 10.4)."""

    algorithm: Algorithm
    blocksize: int = 32
    """Pixels in a block of RICE_1."""
    bytepix: int = 4
    """Bytes in a pixel of RICE_1."""
    smooth: bool = False
    """Whether HCOMPRESS_1 smooths the pixels."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """Quantization of the floats of an image to integers (section 10.2)."""

    dither: int
    """0 for none, 1 and 2 for SUBTRACTIVE_DITHER_1 and _2."""
    seed: int
    """ZDITHER0; 0 without dithering."""
    scale: float | None
    """ZSCALE of all tiles; None if it is a column."""
    zero: float | None
    """ZZERO of all tiles; None if it is a column."""
    blank: int | None
    """Integer that stands for NaN; None if there is none, or it is a column."""


@dataclass(frozen=True, slots=True)
class TiledLayout:
    """Place and stored form of the tiles of a compressed image."""

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
    """None if the tiles hold the image's own values."""
    fill: int | None
    """Value of the undefined pixels of an integer image if ZBLANK is a column, else None."""
    table: ByteRange
    """The rows of the table, one for each tile, in the order of the tiles."""
    heap: ByteRange
    """The bytes that descriptors point into."""
    row: np.dtype[Any]
    """Type of a row: the descriptors, and the columns of ZSCALE, ZZERO and ZBLANK if present."""
    elements: tuple[tuple[str, str], ...]
    """Name, and NumPy type of an element, of each of `SOURCES` that the table has."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as read."""
        return self.scaling.dtype

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along each axis, NumPy order."""
        return _tile_grid(self.shape, self.tile)


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
    tile = _read_tile_shape(header, shape)
    columns = _read_tile_columns(header)
    blank = _read_image_blank(header, bitpix, columns)
    scaling = read_scaling(header, bitpix, blank=blank)
    compression = _read_compression(header)
    _check_columns(header, columns)
    tiles = math.prod(_tile_grid(shape, tile))
    table, heap = _locate_table(header, columns, tiles, data)
    return TiledLayout(
        hdu=index,
        shape=shape,
        tile=tile,
        scaling=scaling,
        compression=compression,
        quantization=_read_quantization(header, bitpix, columns),
        fill=blank if "ZBLANK" in columns else None,
        table=table,
        heap=heap,
        row=_row_dtype(columns),
        elements=tuple((name, columns[name].format.element) for name in SOURCES if name in columns),
    )


def _read_tile_shape(header: RawHeader, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Read ZTILEn, limited to the image; NumPy order."""
    lengths = []
    for n, image_length in enumerate(shape[::-1], 1):
        # Without ZTILEn a tile is a row of the image (section 10.1.2).
        length = header.integer(f"ZTILE{n}", default=max(image_length, 1) if n == 1 else 1)
        if length < 1:
            raise header.keyword_error(f"ZTILE{n}", length, "1 or more")
        lengths.append(min(length, max(image_length, 1)))
    if math.prod(lengths) > _MAX_TILE:
        error = header.keyword_error(
            "ZTILEn", tuple(lengths), f"at most {_MAX_TILE} pixels in a tile"
        )
        raise UnsupportedHduError(str(error))
    return tuple(lengths[::-1])


def _tile_grid(shape: tuple[int, ...], tile: tuple[int, ...]) -> tuple[int, ...]:
    """Return the number of tiles along each axis."""
    return tuple(-(-length // step) for length, step in zip(shape, tile, strict=True))


def _read_tile_columns(header: RawHeader) -> dict[str, Column]:
    """Read the columns of the table, by name in upper case; check those that are read."""
    columns: dict[str, Column] = {}
    for column in read_columns(header):
        n = column.number
        name = column.name.upper() or f"COLUMN {n}"
        _check_format(header, name, column)
        if name in columns and name in _TILE_COLUMNS:
            raise header.keyword_error(f"TTYPE{n}", name, "a name that no other column has")
        # Columns that are not read may share a name; each of them counts for the width of a row.
        columns[f"{name} {n}" if name in columns else name] = column
    return columns


def _check_format(header: RawHeader, name: str, column: Column) -> None:
    """Raise if a column that is read has a format that it cannot be read in."""
    keyword = f"TFORM{column.number}"
    form = column.format
    if name in SOURCES and not (form.variable and form.nbytes and form.element):
        expected = f"a variable-length array of numbers for {name}"
        raise header.keyword_error(keyword, column.tform, expected)
    if name in _NUMBER_COLUMNS and (form.variable or form.dtype not in _NUMBER_COLUMNS[name]):
        raise header.keyword_error(keyword, column.tform, f"a number for {name}")


def _check_columns(header: RawHeader, columns: dict[str, Column]) -> None:
    """Raise if the columns are not those of tiles that can be decoded."""
    # That column holds a compressed mask of the undefined pixels, which nothing here decodes.
    if "NULL_PIXEL_MASK" in columns:
        raise _unsupported_error(header, "ZMASKCMP", "an image without a NULL_PIXEL_MASK column")
    if not any(source in columns for source in SOURCES):
        raise header.keyword_error("TTYPEn", ", ".join(columns), f"one of {', '.join(SOURCES)}")


def _locate_table(
    header: RawHeader, columns: dict[str, Column], tiles: int, data: ByteRange
) -> tuple[ByteRange, ByteRange]:
    """Return the bytes of the table and of the heap, once NAXISn and THEAP fit the tiles."""
    row_bytes = header.integer("NAXIS1")
    rows = header.integer("NAXIS2")
    if rows != tiles:
        expected = f"{tiles}: a row for each tile of ZNAXISn and ZTILEn"
        raise header.keyword_error("NAXIS2", rows, expected)
    if row_bytes > _MAX_ROW:
        raise header.keyword_error("NAXIS1", row_bytes, f"at most {_MAX_ROW}")
    width = sum(column.format.nbytes for column in columns.values())
    if width != row_bytes:
        expected = f"{width}, the sum of the columns of TFORMn"
        raise header.keyword_error("NAXIS1", row_bytes, expected)
    table = ByteRange(data.start, data.start + rows * row_bytes)
    # With a GCOUNT of 1 or more the data unit holds the whole table.
    if table.nbytes > data.nbytes:
        raise header.keyword_error("GCOUNT", header.value("GCOUNT"), "1")
    # Between the table and the heap there may be a gap (section 7.3.5).
    theap = header.integer("THEAP", default=table.nbytes)
    if not table.nbytes <= theap <= data.nbytes:
        raise header.keyword_error("THEAP", theap, f"{table.nbytes} to {data.nbytes}")
    return table, ByteRange(data.start + theap, data.stop)


def _row_dtype(columns: dict[str, Column]) -> np.dtype[Any]:
    """Return the type of a row, with the columns that are read as its fields."""
    fields = {name: columns[name] for name in _TILE_COLUMNS if name in columns}
    return np.dtype(
        {
            "names": list(fields),
            "formats": [column.format.dtype for column in fields.values()],
            "offsets": [column.offset for column in fields.values()],
            "itemsize": sum(column.format.nbytes for column in columns.values()),
        }
    )


def _read_compression(header: RawHeader) -> Compression:
    """Read ZCMPTYPE and the parameters of the algorithm."""
    zcmptype = header.value("ZCMPTYPE")
    if not isinstance(zcmptype, str):
        raise header.keyword_error("ZCMPTYPE", zcmptype, "the name of an algorithm")
    algorithm = _ALGORITHMS.get(zcmptype.strip().upper())
    if algorithm is None:
        raise _unsupported_error(header, "ZCMPTYPE", "one of " + ", ".join(_ALGORITHMS))
    numbers = _number_parameters(header)
    blocksize = _read_parameter(header, numbers, "BLOCKSIZE", default=32)
    if algorithm == "RICE_1" and not 1 <= blocksize <= _MAX_TILE:
        raise header.keyword_error("BLOCKSIZE (ZNAMEi, ZVALi)", blocksize, "1 or more")
    bytepix = _read_parameter(header, numbers, "BYTEPIX", default=4)
    if algorithm == "RICE_1" and bytepix not in (1, 2, 4):
        raise UnsupportedHduError(
            f"{header.where}: BYTEPIX (ZNAMEi, ZVALi): found {bytepix}, expected 1, 2 or 4"
        )
    smooth = _read_parameter(header, numbers, "SMOOTH", default=0) != 0
    return Compression(algorithm, blocksize, bytepix, smooth)


def _number_parameters(header: RawHeader) -> dict[str, int]:
    """Return the i of each ZNAMEi, by its value: the name of a parameter of the algorithm."""
    numbers: dict[str, int] = {}
    for n in range(1, _MAX_PARAMETERS + 1):
        name = header.value(f"ZNAME{n}")
        if name is None:  # they are numbered without a gap
            break
        numbers.setdefault(str(name).strip().upper(), n)
    return numbers


def _read_parameter(header: RawHeader, numbers: dict[str, int], name: str, *, default: int) -> int:
    """Read the ZVALi of a parameter."""
    if name not in numbers:
        return default
    keyword = f"ZVAL{numbers[name]}"
    value = header.value(keyword)
    # ZVALi may be of any type, so an integer may be written as a float.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise header.keyword_error(f"{keyword} ({name})", value, "an integer")
    return value


def _read_image_blank(header: RawHeader, bitpix: int, columns: dict[str, Column]) -> int | None:
    """Return the stored integer that stands for an undefined pixel of an integer image."""
    if bitpix < 0:
        return None
    blank = read_blank(header, "BLANK")
    if blank is None:
        blank = read_blank(header, "ZBLANK")
    if "ZBLANK" not in columns:
        return blank
    # Each tile has a ZBLANK of its own; in the image one value stands for all of them.
    if blank is None:
        if bitpix == 8:
            raise header.keyword_error("BLANK", None, "an integer, since there is a ZBLANK column")
        return -(1 << bitpix - 1)  # as astropy and cfitsio have it
    limits = np.iinfo(STORED_DTYPES[bitpix])
    if not limits.min <= blank <= limits.max:
        raise header.keyword_error("BLANK", blank, f"{limits.min} to {limits.max}")
    return blank


def _read_quantization(
    header: RawHeader, bitpix: int, columns: dict[str, Column]
) -> Quantization | None:
    """Read ZSCALE, ZZERO, ZBLANK and ZQUANTIZ; None if the pixels are not quantized."""
    # Either of these, as a column or as a keyword, marks a quantized image.
    keywords = [key for key in ("ZSCALE", "ZZERO") if key in columns or key in header]
    if not keywords:
        return None
    if bitpix > 0:
        raise header.keyword_error("ZBITPIX", bitpix, f"-32 or -64, since there is {keywords[0]}")
    method = header.value("ZQUANTIZ") if "ZQUANTIZ" in header else "NO_DITHER"
    dither = _DITHERS.get(str(method).strip().upper())
    if dither is None:
        raise header.keyword_error("ZQUANTIZ", method, "one of " + ", ".join(_DITHERS))
    blank = read_blank(header, "ZBLANK")
    if blank is None:
        blank = read_blank(header, "BLANK")
    # Pixels are quantized to integers of 32 bits: none has a value beyond these.
    if "ZBLANK" in columns or abs(blank or 0) > 1 << 31:
        blank = None
    return Quantization(
        dither=dither,
        seed=_read_seed(header) if dither else 0,
        scale=None if "ZSCALE" in columns else read_number(header, "ZSCALE", default=1),
        zero=None if "ZZERO" in columns else read_number(header, "ZZERO", default=0),
        blank=blank,
    )


def _read_seed(header: RawHeader) -> int:
    """Read ZDITHER0."""
    seed = header.integer("ZDITHER0")
    if not 1 <= seed <= _MAX_SEED:
        raise header.keyword_error("ZDITHER0", seed, "1 to 10000")
    return seed


def _unsupported_error(header: RawHeader, keyword: str, expected: str) -> UnsupportedHduError:
    """Return the error for a keyword whose value is valid, but not supported."""
    return UnsupportedHduError(str(header.keyword_error(keyword, header.value(keyword), expected)))
