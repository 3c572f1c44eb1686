"""The compressed bytes of some tiles -> the stored values of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.codecs import gzip, plain
from dask_fits.codecs.registry import decoder
from dask_fits.format.descriptors import Tiles
from dask_fits.format.tiles import SOURCES, TiledLayout

_INTEGER_CODES = ("RICE_1", "PLIO_1", "HCOMPRESS_1")
"""Algorithms that know no other pixels than integers of up to 32 bits."""


_RUN = 1 << 17
"""Pixels that are decoded together: few enough to stay in cache until they are scaled and placed,
enough for the cost of a call to be small beside them."""

_LONG_RUN = 1 << 21
"""The same for HCOMPRESS_1, which needs memory of its own for each call: new memory is dear."""


def run_limit(layout: TiledLayout) -> int:
    """Count the pixels that are best decoded together."""
    return _LONG_RUN if layout.compression.algorithm == "HCOMPRESS_1" else _RUN


def is_quantized(layout: TiledLayout, source: int) -> bool:
    """Whether tiles of a column hold integers that stand for floats."""
    return layout.quantization is not None and SOURCES[source] == "COMPRESSED_DATA"


def value_type(layout: TiledLayout, source: int) -> np.dtype[Any]:
    """Type in which the values of tiles of a column are decoded."""
    coded = SOURCES[source] == "COMPRESSED_DATA"
    if coded and (layout.quantization or layout.compression.algorithm in _INTEGER_CODES):
        return np.dtype(np.int32)
    return layout.scaling.stored.newbyteorder("=")


def is_strided(layout: TiledLayout, source: int) -> bool:
    """Whether tiles of a column can be decoded into an array of any layout and type."""
    algorithm = layout.compression.algorithm
    if SOURCES[source] != "COMPRESSED_DATA" or algorithm not in _INTEGER_CODES:
        return True
    return decoder(algorithm).strided


def decode_tiles(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
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
        Which of `SOURCES` holds them.
    """
    batch = data, starts, lengths, values
    compression, column = layout.compression, SOURCES[source]
    floats = layout.scaling.bitpix < 0 and not is_quantized(layout, source)
    if column == "UNCOMPRESSED_DATA":
        plain.decode(*batch, floats=floats, element=dict(layout.elements)[column])
    elif column == "GZIP_COMPRESSED_DATA" or compression.algorithm == "GZIP_1":
        gzip.decode(*batch, floats=floats, shuffled=False)
    elif compression.algorithm == "GZIP_2":
        gzip.decode(*batch, floats=floats, shuffled=True)
    elif compression.algorithm == "NOCOMPRESS":
        plain.decode(*batch, floats=floats)
    else:
        _decode_integers(*batch, layout=layout)


def _decode_integers(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[Any],
    *,
    layout: TiledLayout,
) -> None:
    compression = layout.compression
    options: dict[str, int] = {}
    if compression.algorithm == "RICE_1":
        options = {"blocksize": compression.blocksize, "bytepix": compression.bytepix}
    elif compression.algorithm == "HCOMPRESS_1":
        options = {"smooth": compression.smooth}
    decode, strided = decoder(compression.algorithm)
    decode(data, starts, lengths, values if strided else values.reshape(len(values), -1), **options)


def unquantize_tiles(
    values: npt.NDArray[np.int32],
    out: npt.NDArray[Any],
    *,
    tiles: Tiles,
    members: npt.NDArray[np.int64],
    layout: TiledLayout,
) -> None:
    """Turn the integers of quantized tiles into floats (FITS Standard 4.0, section 10.2).

    Parameters
    ----------
    values : (n, ...) int32 array, C-contiguous
    out : (n, ...) float32 or float64 array, C-contiguous
    tiles : Tiles
    members : (n,) int64 array
        Which of `tiles` they are.
    """
    quantization = layout.quantization
    if quantization is None:
        raise ValueError("the image is not quantized")
    if len(tiles.blanks):
        blanks, has_blank = tiles.blanks[members], True
    else:
        has_blank = quantization.blank is not None
        blanks = np.full(len(members), quantization.blank or 0, np.int64)
    decoder("unquantize").decode(
        values.reshape(len(members), -1),
        tiles.scales[members],
        tiles.zeros[members],
        out.reshape(len(members), -1),
        method=quantization.dither,
        rows=tiles.rows[members] + (quantization.seed - 1),
        blanks=blanks,
        has_blank=has_blank,
    )
