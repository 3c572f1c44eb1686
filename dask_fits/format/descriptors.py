"""Descriptors: where the bytes of tiles lie, read from rows of the table and checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.exceptions import FitsFormatError, TruncatedFileError
from dask_fits.format.tiles import SOURCES, TiledLayout

_MAX_EXPANSION = 16
"""Compressed bytes that a pixel may take; twice what any algorithm makes of the worst of them."""

_MAX_DEFLATE = 1040
"""Bytes that one byte of a gzip stream can stand for; the exact number is 1032."""

_MAX_OVERHEAD = 1 << 16
"""Compressed bytes that a tile may take beyond that."""

FREE_PIXELS = 1 << 24
"""Pixels that a tile may have however few its bytes are, where its algorithm can say so: all of an
empty image of 4096 x 4096. Decoding as many takes at most 300 MB."""

_MAX_PER_BYTE = 256
"""Pixels that a byte of RICE_1 or HCOMPRESS_1 may stand for in tiles beyond that: 40 times as many
as of noise that is rounded to four standard deviations. What both can say of zeros has no limit, so
this one is chosen."""

_MAX_RUN = 4095
"""Pixels that a word of PLIO_1 may stand for; encoders write runs of zeros like others."""


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Where the bytes of some tiles lie and how they are turned into pixels."""

    rows: Integers
    """Row of the table of each, from 0."""
    source: Integers
    """Which of `SOURCES` holds each."""
    starts: Integers
    """First byte of each in the file."""
    lengths: Integers
    """Bytes of each."""
    scales: npt.NDArray[np.float64]
    """ZSCALE of each; none where the image is not quantized."""
    zeros: npt.NDArray[np.float64]
    """ZZERO of each; none where the image is not quantized."""
    blanks: Integers
    """ZBLANK of each; none where it is no column."""

    def take(self, which: Integers) -> Tiles:
        """Pick some of them."""
        parts = (getattr(self, part.name) for part in fields(self))
        return Tiles(*(values[which] if len(values) else values for values in parts))


def locate(
    rows: Integers,
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
    rows : (n,) int64 array
        Their rows in the table.
    records : (n,) structured array
        These rows, of type ``layout.row``.
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
        A descriptor is empty or points outside the heap.
    TruncatedFileError
        It points behind the end of the file.
    """
    source = np.full(len(rows), -1, np.int64)
    starts, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for name, element in layout.elements:
        counts, offsets = (records[name][:, part].astype(np.int64) for part in (0, 1))
        held = (source < 0) & (counts != 0)
        size, most = np.dtype(element).itemsize, layout.heap.nbytes
        outside = held & ((counts < 0) | (offsets < 0) | (offsets > most - counts * size))
        outside |= held & (counts > most)
        if outside.any():
            bad = int(np.flatnonzero(outside)[0])
            raise FitsFormatError(
                f"{tile_name(int(rows[bad]), layout, where)}: {name}: found a descriptor of "
                f"{counts[bad]} elements at byte {offsets[bad]} of the heap, "
                f"expected it within its {most} bytes"
            )
        source[held], starts[held] = SOURCES.index(name), layout.heap.start + offsets[held]
        lengths[held] = counts[held] * size
    _check_lengths(rows, source, lengths, pixels, layout, where)
    behind = np.flatnonzero(starts + lengths > file_size)
    if len(behind):
        bad = int(behind[0])
        raise TruncatedFileError(
            f"{tile_name(int(rows[bad]), layout, where)}: the file is truncated: its bytes are "
            f"{starts[bad]} to {starts[bad] + lengths[bad]}, found the end at byte {file_size}"
        )
    scales, zeros, blanks = _numbers(records, layout)
    if layout.quantization:
        odd = (source == 0) & ~(np.isfinite(scales) & np.isfinite(zeros))
        if odd.any():
            bad = int(np.flatnonzero(odd)[0])
            raise FitsFormatError(
                f"{tile_name(int(rows[bad]), layout, where)}: found ZSCALE = {scales[bad]} and "
                f"ZZERO = {zeros[bad]}, expected numbers"
            )
    return Tiles(rows, source, starts, lengths, scales, zeros, blanks)


def _check_lengths(
    rows: Integers,
    source: Integers,
    lengths: Integers,
    pixels: Integers,
    layout: TiledLayout,
    where: str,
) -> None:
    if (source < 0).any():
        bad = int(np.flatnonzero(source < 0)[0])
        names = ", ".join(name for name, _ in layout.elements)
        raise FitsFormatError(
            f"{tile_name(int(rows[bad]), layout, where)}: found no bytes in {names}, "
            "expected them in one"
        )
    least = _least_bytes(source, pixels, layout)
    most = pixels * _MAX_EXPANSION + _MAX_OVERHEAD
    wrong = np.flatnonzero((lengths < least) | (lengths > most))
    if len(wrong):
        bad = int(wrong[0])
        raise FitsFormatError(
            f"{tile_name(int(rows[bad]), layout, where)}: found a descriptor of {lengths[bad]} "
            f"bytes, expected {least[bad]} to {most[bad]} for {pixels[bad]} pixels"
        )


def _least_bytes(source: Integers, pixels: Integers, layout: TiledLayout) -> Integers:
    """Count the bytes without which tiles cannot hold their pixels, where that can be told.

    It keeps a damaged header from asking for more memory than the file has pixels for.
    """
    algorithm, coded = layout.compression.algorithm, source == SOURCES.index("COMPRESSED_DATA")
    large = pixels > FREE_PIXELS
    least = np.where(source == SOURCES.index("UNCOMPRESSED_DATA"), pixels, 0)
    packed = (source == SOURCES.index("GZIP_COMPRESSED_DATA")) | (
        coded & (algorithm in ("GZIP_1", "GZIP_2"))
    )
    itemsize = np.where(large, _gzip_itemsize(layout), 1)  # of small tiles it may be less
    least = np.where(packed, pixels * itemsize // _MAX_DEFLATE, least)
    if algorithm == "NOCOMPRESS":
        least = np.where(coded, pixels, least)
    if algorithm == "RICE_1":  # of each block at least the bits that tell its kind
        blocks = -(-pixels // layout.compression.blocksize)
        bytepix = layout.compression.bytepix
        kinds = blocks * {1: 3, 2: 4, 4: 5}[bytepix] // 8
        least = np.where(coded, kinds + bytepix, least)
    if algorithm in ("RICE_1", "HCOMPRESS_1"):
        least = np.maximum(least, np.where(coded & large, pixels // _MAX_PER_BYTE, 0))
    if algorithm == "PLIO_1":
        least = np.where(coded & large, pixels // _MAX_RUN * 2, least)
    return least


def _gzip_itemsize(layout: TiledLayout) -> int:
    """Bytes of a pixel in a gzip stream: of quantized ones they are integers of four."""
    return min(layout.scaling.stored.itemsize, 4 if layout.quantization else 8)


def _numbers(
    records: npt.NDArray[Any], layout: TiledLayout
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Integers]:
    names, quantization = layout.row.names or (), layout.quantization
    blanks = np.empty(0, np.int64)
    if "ZBLANK" in names:
        blanks = records["ZBLANK"].astype(np.int64)
    if quantization is None:
        return np.empty(0), np.empty(0), blanks
    scales, zeros = (
        records[name].astype(np.float64)
        if constant is None
        else np.full(len(records), constant, np.float64)
        for name, constant in (("ZSCALE", quantization.scale), ("ZZERO", quantization.zero))
    )
    return scales, zeros, blanks


def tile_name(row: int, layout: TiledLayout, where: str) -> str:
    """Name a tile, for messages: its indices in the grid of tiles, and its row in the table."""
    indices = np.unravel_index(row, layout.grid)
    return f"{where}: tile ({', '.join(str(int(i)) for i in indices)}), row {row + 1} of the table"
