"""Descriptors: the places of the bytes of tiles, read from rows of the table and checked. Pure.

A tile is counted in two index spaces: its row in the table (`table_row`), and its index in the
arrays here, which hold any rows that a read needs::

    index      0     1     2
    table row  17    18    42      -> records: count and offset in the heap, in `SOURCES[source]`
    file       heap.start + offset .. + count * itemsize of an element
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.exceptions import FitsFormatError, TruncatedFileError
from dask_fits.format.tiles import SOURCES, TiledLayout

_MAX_EXPANSION = 16
"""Compressed bytes that a pixel may take; twice as many as any algorithm makes of the worst."""

_MAX_DEFLATE = 1040
"""Bytes that one byte of a gzip stream can stand for; the exact number is 1032."""

_MAX_OVERHEAD = 1 << 16
"""Compressed bytes that a tile may take beyond `_MAX_EXPANSION` times its pixels."""

FREE_PIXELS = 1 << 24
"""Pixels that a tile may have however few its bytes are, if its algorithm has no limit of its own:
all of an empty image of 4096 x 4096. Decoding as many takes at most 300 MB."""

_MAX_PER_BYTE = 256
"""Pixels that a byte of RICE_1 or HCOMPRESS_1 may stand for in larger tiles: 40 times as many as of
noise that is rounded to four standard deviations. Of zeros a byte of either can hold any number, so
this limit is chosen."""

_MAX_RUN = 4095
"""Pixels that a word of PLIO_1 may stand for; encoders write runs of zeros like others."""

_RICE_KIND_BITS = {1: 3, 2: 4, 4: 5}
"""Bytes in a pixel of RICE_1 to the bits that each block begins with."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Places of the bytes of some tiles, and the numbers that turn them into pixels."""

    rows: Integers
    """Row of the table of each tile, from 0."""
    source: Integers
    """Index in `SOURCES` of the column that holds each tile."""
    starts: Integers
    """First byte of each tile in the file."""
    lengths: Integers
    """Bytes of each tile."""
    scales: npt.NDArray[np.float64]
    """ZSCALE of each tile; empty if the image is not quantized."""
    zeros: npt.NDArray[np.float64]
    """ZZERO of each tile; empty if the image is not quantized."""
    blanks: Integers
    """ZBLANK of each tile; empty if it is no column."""

    def take(self, indices: Integers) -> Tiles:
        """Return the tiles at these indices."""
        columns = (getattr(self, field.name) for field in fields(self))
        return Tiles(*(column[indices] if len(column) else column for column in columns))


def locate(
    table_rows: Integers,
    records: npt.NDArray[Any],
    layout: TiledLayout,
    *,
    pixels: Integers,
    file_size: int,
    where: str,
) -> Tiles:
    """Read the descriptors of tiles.

    Parameters
    ----------
    table_rows : (n,) int64 array
        Rows of the table that the tiles have.
    records : (n,) structured array
        Content of these rows, of type ``layout.row``.
    layout : TiledLayout
    pixels : (n,) int64 array
        Pixels in each tile.
    file_size : int
        Bytes in the file.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A descriptor is empty or points outside the heap, a tile has too few or too many bytes, or
        its ZSCALE or ZZERO is not finite.
    TruncatedFileError
        A descriptor points behind the end of the file.
    """
    source, starts, lengths = _read_descriptors(table_rows, records, layout, where)
    # What a descriptor promises is checked before anything is fetched or allocated for it.
    _check_lengths(table_rows, source, lengths, pixels, layout, where)
    stops = starts + lengths
    index = _first(stops > file_size)
    if index is not None:
        raise TruncatedFileError(
            f"{tile_name(int(table_rows[index]), layout, where)}: the file is truncated: its bytes "
            f"are {starts[index]} to {stops[index]}, found the end at byte {file_size}"
        )
    scales, zeros, blanks = _read_numbers(records, layout)
    if layout.quantization:
        # Only COMPRESSED_DATA is quantized: the numbers of other tiles may be anything.
        is_coded = source == SOURCES.index("COMPRESSED_DATA")
        index = _first(is_coded & ~(np.isfinite(scales) & np.isfinite(zeros)))
        if index is not None:
            raise FitsFormatError(
                f"{tile_name(int(table_rows[index]), layout, where)}: found ZSCALE = "
                f"{scales[index]} and ZZERO = {zeros[index]}, expected numbers"
            )
    return Tiles(table_rows, source, starts, lengths, scales, zeros, blanks)


def _read_descriptors(
    table_rows: Integers, records: npt.NDArray[Any], layout: TiledLayout, where: str
) -> tuple[Integers, Integers, Integers]:
    """Return source, first byte and length of each tile; source -1 if no column holds it."""
    source = np.full(len(table_rows), -1, np.int64)
    starts = np.zeros(len(table_rows), np.int64)
    lengths = np.zeros(len(table_rows), np.int64)
    heap_bytes = layout.heap.nbytes
    for name, element in layout.elements:
        itemsize = np.dtype(element).itemsize
        counts = records[name][:, 0].astype(np.int64)
        offsets = records[name][:, 1].astype(np.int64)
        # The first column that is not empty holds the tile; descriptors after it do not matter.
        held = (source < 0) & (counts != 0)
        outside = (counts < 0) | (offsets < 0) | (offsets > heap_bytes - counts * itemsize)
        # The product overflows for some counts, all of which are beyond the heap by themselves.
        index = _first(held & (outside | (counts > heap_bytes)))
        if index is not None:
            raise FitsFormatError(
                f"{tile_name(int(table_rows[index]), layout, where)}: {name}: found a descriptor "
                f"of {counts[index]} elements at byte {offsets[index]} of the heap, "
                f"expected it within its {heap_bytes} bytes"
            )
        source[held] = SOURCES.index(name)
        starts[held] = layout.heap.start + offsets[held]
        lengths[held] = counts[held] * itemsize
    return source, starts, lengths


def _check_lengths(
    table_rows: Integers,
    source: Integers,
    lengths: Integers,
    pixels: Integers,
    layout: TiledLayout,
    where: str,
) -> None:
    """Raise if a tile has no bytes, or a number of bytes that its pixels cannot have."""
    index = _first(source < 0)
    if index is not None:
        names = ", ".join(name for name, _ in layout.elements)
        raise FitsFormatError(
            f"{tile_name(int(table_rows[index]), layout, where)}: found no bytes in {names}, "
            "expected them in one"
        )
    least = _count_least_bytes(source, pixels, layout)
    most = pixels * _MAX_EXPANSION + _MAX_OVERHEAD
    index = _first((lengths < least) | (lengths > most))
    if index is not None:
        raise FitsFormatError(
            f"{tile_name(int(table_rows[index]), layout, where)}: found a descriptor of "
            f"{lengths[index]} bytes, expected {least[index]} to {most[index]} for "
            f"{pixels[index]} pixels"
        )


def _count_least_bytes(source: Integers, pixels: Integers, layout: TiledLayout) -> Integers:
    """Count the bytes without which tiles cannot hold their pixels; 0 if there is no such limit.

    It keeps a damaged header from asking for more memory than the file has pixels for.
    """
    algorithm = layout.compression.algorithm
    is_coded = source == SOURCES.index("COMPRESSED_DATA")
    is_plain = source == SOURCES.index("UNCOMPRESSED_DATA")
    is_gzip = source == SOURCES.index("GZIP_COMPRESSED_DATA")
    is_large = pixels > FREE_PIXELS
    if algorithm == "NOCOMPRESS":
        is_plain |= is_coded
    elif algorithm in ("GZIP_1", "GZIP_2"):
        is_gzip |= is_coded
    # Pixels as they are take a byte each at least, in whatever type the tile has them.
    least = np.where(is_plain, pixels, 0)
    # A gzip stream may hold pixels of a smaller type than the image's; only of large tiles it must
    # have the full size. Quantized pixels are integers of four bytes.
    gzip_itemsize = min(layout.scaling.stored.itemsize, 4 if layout.quantization else 8)
    inflated = pixels * np.where(is_large, gzip_itemsize, 1)
    least = np.where(is_gzip, inflated // _MAX_DEFLATE, least)
    if algorithm == "RICE_1":
        # The first pixel, and of each block at least the bits of its kind.
        bytepix = layout.compression.bytepix
        blocks = -(-pixels // layout.compression.blocksize)
        kinds = blocks * _RICE_KIND_BITS[bytepix] // 8
        least = np.where(is_coded, kinds + bytepix, least)
    if algorithm in ("RICE_1", "HCOMPRESS_1"):
        least = np.maximum(least, np.where(is_coded & is_large, pixels // _MAX_PER_BYTE, 0))
    if algorithm == "PLIO_1":
        least = np.where(is_coded & is_large, pixels // _MAX_RUN * 2, least)
    return least


def _read_numbers(
    records: npt.NDArray[Any], layout: TiledLayout
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Integers]:
    """Return ZSCALE, ZZERO and ZBLANK of each tile, from the columns or the keywords."""
    blanks = np.empty(0, np.int64)
    if "ZBLANK" in (layout.row.names or ()):
        blanks = records["ZBLANK"].astype(np.int64)
    quantization = layout.quantization
    if quantization is None:
        return np.empty(0), np.empty(0), blanks
    scales = _read_column(records, "ZSCALE", quantization.scale)
    zeros = _read_column(records, "ZZERO", quantization.zero)
    return scales, zeros, blanks


def _read_column(
    records: npt.NDArray[Any], name: str, constant: float | None
) -> npt.NDArray[np.float64]:
    """Return a column of numbers; None for `constant` means that there is one."""
    if constant is None:
        return records[name].astype(np.float64)
    return np.full(len(records), constant, np.float64)


def _first(mask: npt.NDArray[np.bool_]) -> int | None:
    """Return the index of the first True; None if there is none."""
    indices = np.flatnonzero(mask)
    return int(indices[0]) if len(indices) else None


def tile_name(table_row: int, layout: TiledLayout, where: str) -> str:
    """Name a tile, for messages: its indices in the grid of tiles, and its row in the table."""
    grid_index = ", ".join(str(int(i)) for i in np.unravel_index(table_row, layout.grid))
    return f"{where}: tile ({grid_index}), row {table_row + 1} of the table"
