"""Tiles whose bytes are the pixels themselves, big-endian: NOCOMPRESS and UNCOMPRESSED_DATA."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.errors import DecodeError

_INTEGERS = {1: ">u1", 2: ">i2", 4: ">i4", 8: ">i8"}
_FLOATS = {**_INTEGERS, 4: ">f4", 8: ">f8"}


def decode(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
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
        Type of a pixel where the column tells it; ``">u1"`` tells nothing.
    """
    shape = values.shape[1:]
    npix = math.prod(shape)
    for tile, raw in tile_bytes(data, starts, lengths):
        dtype = pixel_type(tile, len(raw), npix, floats=floats)
        if np.dtype(element).itemsize == dtype.itemsize > 1:
            dtype = np.dtype(element)
        values[tile] = raw.view(dtype).reshape(shape)


def tile_bytes(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Give the tiles of a batch one by one: the position of each, and a view of its bytes."""
    for tile, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        yield tile, data[start : start + length]


def pixel_type(tile: int, nbytes: int, npix: int, *, floats: bool) -> np.dtype[np.generic]:
    """Type of the pixels of a tile, which the number of its bytes tells."""
    itemsize, rest = divmod(nbytes, npix)
    if rest or itemsize not in _INTEGERS:
        raise DecodeError(
            tile, f"found {nbytes} bytes of pixels, expected 1, 2, 4 or 8 for each of {npix}"
        )
    return np.dtype((_FLOATS if floats else _INTEGERS)[itemsize])
