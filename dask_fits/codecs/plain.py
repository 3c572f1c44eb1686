"""NOCOMPRESS and UNCOMPRESSED_DATA: tiles whose bytes are the pixels themselves, big-endian."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError

_INTEGER_TYPES = {1: ">u1", 2: ">i2", 4: ">i4", 8: ">i8"}
"""Bytes in a pixel to its type, in an image of integers."""

_FLOAT_TYPES = {1: ">u1", 2: ">i2", 4: ">f4", 8: ">f8"}
"""Bytes in a pixel to its type, in an image of floats."""


def decode(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.generic],
    *,
    floats: bool,
    element: str = ">u1",
) -> None:
    """Copy tiles; see `dask_fits.codecs`.

    Parameters
    ----------
    floats : bool
        Whether pixels of four and eight bytes are floats.
    element : str
        Type of a pixel that the column has; ``">u1"`` stands for bytes of pixels of any type.
    """
    shape = values.shape[1:]
    npix = math.prod(shape)
    for tile, raw in tile_bytes(data, starts, lengths):
        dtype = pixel_type(tile, len(raw), npix, floats=floats)
        # The type of the column goes before the one that follows from the image's.
        if np.dtype(element).itemsize == dtype.itemsize > 1:
            dtype = np.dtype(element)
        values[tile] = raw.view(dtype).reshape(shape)


def tile_bytes(data: Bytes, starts: Integers, lengths: Integers) -> Iterator[tuple[int, Bytes]]:
    """Iterate over the tiles of a batch: the index of each, and a view of its bytes."""
    for tile, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        yield tile, data[start : start + length]


def pixel_type(tile: int, nbytes: int, npix: int, *, floats: bool) -> np.dtype[np.generic]:
    """Return the type of the pixels of a tile, which follows from the number of its bytes."""
    itemsize, rest = divmod(nbytes, npix)
    if rest or itemsize not in _INTEGER_TYPES:
        raise DecodeError(
            tile, f"found {nbytes} bytes of pixels, expected 1, 2, 4 or 8 for each of {npix}"
        )
    return np.dtype((_FLOAT_TYPES if floats else _INTEGER_TYPES)[itemsize])
