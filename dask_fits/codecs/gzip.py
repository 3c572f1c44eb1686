"""GZIP_1 and GZIP_2: gzip streams of big-endian pixels, in GZIP_2 with their bytes shuffled.

FITS Standard 4.0, section 10.4.2.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.codecs.plain import pixel_type, tile_bytes
from dask_fits.streams.inflate import InflateErrors, gzip_inflator

_MAX_ITEMSIZE = 8
"""Bytes in a pixel at most."""

_MAX_MEMBERS = 100
"""Gzip members in a tile at most; each member costs a copy of those behind it."""

_GZIP_MAGIC = b"\x1f\x8b"
"""The bytes that a gzip member begins with."""


def decode(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
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
        raw = _inflate(tile, packed, npix * _MAX_ITEMSIZE)
        dtype = pixel_type(tile, len(raw), npix, floats=floats)
        if shuffled and dtype.itemsize > 1:
            planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, npix)
            _unshuffle(planes, dtype, values[tile])
        else:
            values[tile] = np.frombuffer(raw, dtype).reshape(shape)


def _inflate(tile: int, packed: Bytes, max_bytes: int) -> bytes:
    """Inflate the members of a gzip stream; raise if they hold more than `max_bytes` bytes."""
    inflated = b""
    rest: memoryview | bytes = packed.data
    for _ in range(_MAX_MEMBERS):
        inflator = gzip_inflator()
        try:
            # One byte more than allowed shows that there are too many, however many there are.
            member: bytes = inflator.decompress(rest, max_bytes + 1 - len(inflated))
        except InflateErrors as error:
            raise DecodeError(tile, f"no gzip stream: {error}") from None
        # Nearly all streams have a single member, which is not copied.
        inflated = inflated + member if inflated else member
        if len(inflated) > max_bytes:
            raise DecodeError(
                tile, f"found more than {max_bytes} bytes of pixels in the gzip stream"
            )
        if not inflator.eof:
            raise DecodeError(tile, f"the gzip stream of {len(packed)} bytes ends early")
        rest = inflator.unused_data
        # Bytes behind the last member are padding.
        if rest[:2] != _GZIP_MAGIC:
            return inflated
    raise DecodeError(tile, f"found more than {_MAX_MEMBERS} members in the gzip stream")


def _unshuffle(planes: Bytes, dtype: np.dtype[np.generic], values: npt.NDArray[np.generic]) -> None:
    """Join the bytes of each pixel.

    Parameters
    ----------
    planes : (itemsize, npix) uint8 array
        The most significant byte of all pixels, then the next one, and so on.
    dtype : dtype
        Type of a pixel.
    values : array
        Filled with the pixels.
    """
    # Without a detour if `values` has room for the bytes as they come.
    native = dtype.newbyteorder("=")
    direct = values.dtype == native and values.flags.c_contiguous
    pixels = values if direct else np.empty(values.shape, native)
    pixel_bytes = pixels.reshape(-1).view(np.uint8).reshape(-1, dtype.itemsize)
    if sys.byteorder == "little":
        pixel_bytes = pixel_bytes[:, ::-1]
    for column, plane in zip(pixel_bytes.T, planes, strict=True):
        column[...] = plane
    if not direct:
        values[...] = pixels
