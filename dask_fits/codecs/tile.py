"""Decoding of tiles by the algorithm of their column, and unquantizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs import gzip, plain
from dask_fits.codecs.registry import decoder
from dask_fits.format.descriptors import Tiles
from dask_fits.format.tiles import SOURCES, TiledLayout

_INTEGER_CODES = ("RICE_1", "PLIO_1", "HCOMPRESS_1")
"""Algorithms whose pixels are integers of up to 32 bits."""

_RUN_PIXELS = 1 << 17
"""Pixels that are decoded together: few enough to stay in cache until they are scaled and placed,
enough for the cost of a call to be small beside them."""

_LONG_RUN_PIXELS = 1 << 21
"""The same for HCOMPRESS_1, which allocates at each call: fresh allocations cost page faults."""


def run_limit(layout: TiledLayout) -> int:
    """Return the number of pixels to decode together."""
    return _LONG_RUN_PIXELS if layout.compression.algorithm == "HCOMPRESS_1" else _RUN_PIXELS


def is_quantized(layout: TiledLayout, source: int) -> bool:
    """Return whether tiles of a column hold integers that stand for floats."""
    return layout.quantization is not None and SOURCES[source] == "COMPRESSED_DATA"


def value_type(layout: TiledLayout, source: int) -> np.dtype[Any]:
    """Return the type to which tiles of a column are decoded."""
    coded = SOURCES[source] == "COMPRESSED_DATA"
    if coded and (layout.quantization or layout.compression.algorithm in _INTEGER_CODES):
        return np.dtype(np.int32)
    return layout.scaling.stored.newbyteorder("=")


def is_strided(layout: TiledLayout, source: int) -> bool:
    """Return whether tiles of a column can be decoded into an array of any layout and type."""
    algorithm = layout.compression.algorithm
    if SOURCES[source] != "COMPRESSED_DATA" or algorithm not in _INTEGER_CODES:
        return True
    return decoder(algorithm).strided


def decode_tiles(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[Any],
    *,
    layout: TiledLayout,
    source: int,
) -> None:
    """Decode tiles of one column and one shape; see `dask_fits.codecs`.

    Parameters
    ----------
    values : (n, ...) array
        Of type `value_type` and C-contiguous, unless `is_strided`; a tile's axes after the first.
    source : int
        Index in `SOURCES` of the column that holds them.
    """
    batch = (data, starts, lengths, values)
    algorithm = layout.compression.algorithm
    column = SOURCES[source]
    # The other two columns hold tiles that the image's algorithm made larger, or could not code.
    floats = layout.scaling.bitpix < 0 and not is_quantized(layout, source)
    if column == "UNCOMPRESSED_DATA":
        plain.decode(*batch, floats=floats, element=dict(layout.elements)[column])
    elif column == "GZIP_COMPRESSED_DATA" or algorithm == "GZIP_1":
        gzip.decode(*batch, floats=floats, shuffled=False)
    elif algorithm == "GZIP_2":
        gzip.decode(*batch, floats=floats, shuffled=True)
    elif algorithm == "NOCOMPRESS":
        plain.decode(*batch, floats=floats)
    else:
        _decode_integers(*batch, layout=layout)


def _decode_integers(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[Any],
    *,
    layout: TiledLayout,
) -> None:
    """Decode tiles of one of `_INTEGER_CODES`, with its parameters."""
    compression = layout.compression
    options: dict[str, int] = {}
    if compression.algorithm == "RICE_1":
        options = {"blocksize": compression.blocksize, "bytepix": compression.bytepix}
    elif compression.algorithm == "HCOMPRESS_1":
        options = {"smooth": compression.smooth}
    decode, strided = decoder(compression.algorithm)
    # Kernels see a tile as a row of pixels, whatever its axes are.
    rows = values if strided else values.reshape(len(values), -1)
    decode(data, starts, lengths, rows, **options)


def unquantize_tiles(
    values: npt.NDArray[np.int32],
    out: npt.NDArray[Any],
    *,
    tiles: Tiles,
    tile_index: Integers,
    layout: TiledLayout,
) -> None:
    """Turn the integers of quantized tiles into floats (FITS Standard 4.0, section 10.2).

    Parameters
    ----------
    values : (n, ...) int32 array, C-contiguous
    out : (n, ...) float32 or float64 array, C-contiguous
    tiles : Tiles
    tile_index : (n,) int64 array
        Index of each in `tiles`.
    """
    quantization = layout.quantization
    if quantization is None:
        raise ValueError("the image is not quantized")
    if len(tiles.blanks):
        has_blank = True
        blanks = tiles.blanks[tile_index]
    else:
        has_blank = quantization.blank is not None
        blanks = np.full(len(tile_index), quantization.blank or 0, np.int64)
    decoder("unquantize").decode(
        values.reshape(len(tile_index), -1),
        tiles.scales[tile_index],
        tiles.zeros[tile_index],
        out.reshape(len(tile_index), -1),
        method=quantization.dither,
        rows=tiles.rows[tile_index] + (quantization.seed - 1),
        blanks=blanks,
        has_blank=has_blank,
    )
