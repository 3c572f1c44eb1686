"""astropy's image HDUs around lazy pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from dask.base import compute
from dask.system import CPU_COUNT

from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.format.checksum import sum32

_MAX_CONCURRENT_BANDS = min(CPU_COUNT, 8)
"""Bands of an image that are computed at the same time, which bounds memory."""

_FILE_KEYWORDS = (
    "SIMPLE",
    "XTENSION",
    "BITPIX",
    "NAXIS",
    "PCOUNT",
    "GCOUNT",
    "GROUPS",
    "TFIELDS",
    "BSCALE",
    "BZERO",
    "CHECKSUM",
    "DATASUM",
    "ZHECKSUM",
    "ZDATASUM",
)
"""Keywords that describe the bytes of the file, not the pixels. astropy itself drops only the first
card of each."""


class _ArrayFile(Protocol):
    """A file of astropy's, as far as pixels are written to it."""

    def writearray(self, array: npt.NDArray[Any]) -> None:
        """Write the bytes of an array."""


class _LazyPixels(fits.hdu.image._ImageBaseHDU):  # type: ignore[misc] # noqa: SLF001 (as below)
    """Base of both kinds of HDU, which writes a Dask array band by band.

    The two methods are private ones of astropy's class: see ARCHITECTURE.md, "What users assign".
    """

    def _writedata_internal(self, fileobj: _ArrayFile) -> int:
        if isinstance(self.data, da.Array):
            return _write_bands(self.data, fileobj)
        size: int = super()._writedata_internal(fileobj)
        return size

    def _calculate_datasum(self) -> int:
        if self._has_data and isinstance(self.data, da.Array):
            return _compute_datasum(self.data)
        total: int = super()._calculate_datasum()
        return total


class LazyPrimaryHDU(_LazyPixels, fits.PrimaryHDU):  # type: ignore[misc] # astropy has no types
    """astropy's PrimaryHDU with a Dask array that is written band by band; see `to_hdu`."""


class LazyImageHDU(_LazyPixels, fits.ImageHDU):  # type: ignore[misc] # astropy has no types
    """astropy's ImageHDU with a Dask array that is written band by band; see `to_hdu`."""


def to_hdu(
    data: da.Array | None, header: fits.Header, *, primary: bool, where: str
) -> fits.PrimaryHDU | fits.ImageHDU:
    """Make astropy's HDU of lazy pixels and a header, which is copied; see `HDU.to_hdu`.

    Parameters
    ----------
    data : dask.array.Array or None
        The physical pixels; None if there are none.
    header : astropy.io.fits.Header
    primary : bool
        Whether the HDU is a file's first one.
    where : str
        The file and the HDU, for messages.
    """
    kind = LazyPrimaryHDU if primary else LazyImageHDU
    try:
        header = header.copy()
        for keyword in _FILE_KEYWORDS:
            header.remove(keyword, ignore_missing=True, remove_all=True)
        # BLANK is a stored value: floats have NaN, integers are as they are stored.
        if data is None or data.dtype.kind == "f":
            header.remove("BLANK", ignore_missing=True, remove_all=True)
        del header["NAXIS*"]
        return kind(data, header)
    except FitsError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        message = f"astropy makes no HDU of the header: {one_line(error)}"
        raise FitsFormatError(f"{where}: {message}") from error


def _write_bands(array: da.Array, fileobj: _ArrayFile) -> int:
    """Write the pixels of an array as FITS stores them, and return the number of bytes."""
    for pixels in _compute_bands(array):
        fileobj.writearray(pixels)
    return int(array.nbytes)


def _compute_datasum(array: da.Array) -> int:
    """Compute DATASUM (FITS Standard 4.0, section 4.4.2.7) of the pixels as FITS stores them."""
    total = 0
    rest = b""
    for pixels in _compute_bands(array):
        # The sum is of 32-bit words, and a band may end within one.
        content = rest + pixels.tobytes()
        whole_words = len(content) - len(content) % 4
        total = sum32(content[:whole_words], total)
        rest = content[whole_words:]
    return sum32(rest, total)


def _compute_bands(array: da.Array) -> Iterator[npt.NDArray[Any]]:
    """Compute an array as FITS stores it, in contiguous bands in the order of the file."""
    if not array.size:
        return
    # A block is contiguous if it is whole along all axes after the first one along which it is
    # longer than one pixel.
    first = next((n for n, lengths in enumerate(array.chunks) if max(lengths) > 1), array.ndim)
    bands = array.rechunk(dict.fromkeys(range(first + 1, array.ndim), -1))
    block_indices = np.ndindex(*bands.numblocks)
    while batch := list(itertools.islice(block_indices, _MAX_CONCURRENT_BANDS)):
        yield from map(_to_stored, compute(*(bands.blocks[index] for index in batch)))


def _to_stored(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert pixels to FITS's types: big-endian, and unsigned integers less BZERO."""
    kind = pixels.dtype.kind
    bits = 8 * pixels.dtype.itemsize
    if (kind == "u" and bits > 8) or (kind == "i" and bits == 8):
        # Subtracting 2^(n-1) from n-bit integers modulo 2^n flips their highest bit, no more.
        unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
        pixels = pixels.astype(unsigned, copy=False) ^ unsigned.type(1 << (bits - 1))
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
