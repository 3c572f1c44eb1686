"""GZIP_1 and GZIP_2: gzip streams of big-endian pixels, in GZIP_2 with their bytes shuffled.

FITS Standard 4.0, section 10.4.2. ISA-L inflates where it is installed, else zlib.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.errors import DecodeError
from dask_fits.codecs.plain import pixel_type, tile_bytes

if TYPE_CHECKING:
    import zlib as _zlib
else:
    try:
        from isal import isal_zlib as _zlib
    except ImportError:
        import zlib as _zlib

_GZIP = 31
"""Window bits that ask for a gzip header and trailer."""

_MOST = 8
"""Bytes in a pixel."""

_MAX_MEMBERS = 100
"""Gzip members in a tile; each one more costs a copy of those behind it."""


def decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    values: npt.NDArray[np.generic],
    *,
    floats: bool,
    shuffled: bool,
) -> None:
    """Inflate tiles; see `dask_fits.codecs`.

    Parameters
    ----------
    floats : bool
        Whether pixels of four and eight bytes are floats.
    shuffled : bool
        GZIP_2: the most significant bytes of all pixels come first, then the next ones.
    """
    shape = values.shape[1:]
    npix = math.prod(shape)
    for tile, packed in tile_bytes(data, starts, lengths):
        raw = _inflate(tile, packed, npix * _MOST)
        dtype = pixel_type(tile, len(raw), npix, floats=floats)
        if shuffled and dtype.itemsize > 1:
            planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, npix)
            _unshuffle(planes, dtype, values[tile])
        else:
            values[tile] = np.frombuffer(raw, dtype).reshape(shape)


def _inflate(tile: int, packed: npt.NDArray[np.uint8], most: int) -> bytes:
    """Inflate the members of a gzip stream, to no more than `most` bytes and one."""
    found = b""
    rest: memoryview | bytes = packed.data
    for _ in range(_MAX_MEMBERS):
        inflator = _zlib.decompressobj(_GZIP)
        try:
            part = inflator.decompress(rest, most + 1 - len(found))
        except _zlib.error as error:
            raise DecodeError(tile, f"no gzip stream: {error}") from None
        found = found + part if found else part
        if len(found) > most:
            raise DecodeError(tile, f"found more than {most} bytes of pixels in the gzip stream")
        if not inflator.eof:
            raise DecodeError(tile, f"the gzip stream of {len(packed)} bytes ends early")
        rest = inflator.unused_data
        if rest[:2] != b"\x1f\x8b":
            return found
    raise DecodeError(tile, f"found more than {_MAX_MEMBERS} members in the gzip stream")


def _unshuffle(
    planes: npt.NDArray[np.uint8], dtype: np.dtype[np.generic], values: npt.NDArray[np.generic]
) -> None:
    """Put the bytes of each pixel together; `planes`: (itemsize, npix), most significant first."""
    native = dtype.newbyteorder("=")
    direct = values.dtype == native and values.flags.c_contiguous
    pixels = values if direct else np.empty(values.shape, native)
    places = pixels.reshape(-1).view(np.uint8).reshape(-1, dtype.itemsize)
    if sys.byteorder == "little":
        places = places[:, ::-1]
    for place, plane in zip(places.T, planes, strict=True):
        place[...] = plane
    if not direct:
        values[...] = pixels
