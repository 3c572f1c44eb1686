"""An image HDU as astropy's own, around lazy pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from dask.base import compute
from dask.system import CPU_COUNT

from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.format.checksum import sum32

_AT_ONCE = min(CPU_COUNT, 8)
"""Bands of an image that are computed at the same time, which bounds memory."""

_OF_THE_FILE = (
    *("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "PCOUNT", "GCOUNT", "GROUPS", "TFIELDS"),
    *("BSCALE", "BZERO", "CHECKSUM", "DATASUM", "ZHECKSUM", "ZDATASUM"),
)
"""Keywords that are right for the bytes of the file alone; astropy leaves out the first of each."""


class _LazyPixels(fits.hdu.image._ImageBaseHDU):  # type: ignore[misc] # noqa: SLF001 (as below)
    """What both kinds of HDU have of their own: a Dask array is written band by band."""

    def _writedata_internal(self, fileobj: Any) -> int:
        lazy = isinstance(self.data, da.Array)
        return _write(self.data, fileobj) if lazy else super()._writedata_internal(fileobj)

    def _calculate_datasum(self) -> int:
        lazy = self._has_data and isinstance(self.data, da.Array)
        return _datasum(self.data) if lazy else super()._calculate_datasum()


class LazyPrimaryHDU(_LazyPixels, fits.PrimaryHDU):  # type: ignore[misc] # astropy has no types
    """astropy's PrimaryHDU, which writes a Dask array band by band; see `to_hdu`."""


class LazyImageHDU(_LazyPixels, fits.ImageHDU):  # type: ignore[misc] # astropy has no types
    """astropy's ImageHDU, which writes a Dask array band by band; see `to_hdu`."""


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
        no_blank = data is None or data.dtype.kind == "f"
        for keyword in (*_OF_THE_FILE, *(["BLANK"] if no_blank else [])):
            header.remove(keyword, ignore_missing=True, remove_all=True)
        del header["NAXIS*"]
        return kind(data, header)
    except FitsError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        said = f"astropy makes no HDU of the header: {one_line(error)}"
        raise FitsFormatError(f"{where}: {said}") from error


def _write(array: da.Array, fileobj: Any) -> int:
    """Write the pixels of an array as FITS stores them; the bytes written."""
    for pixels in _bands(array):
        fileobj.writearray(pixels)
    return int(array.nbytes)


def _datasum(array: da.Array) -> int:
    """Compute DATASUM (FITS Standard 4.0, section 4.4.2.7) of the pixels as FITS stores them."""
    total, rest = 0, b""
    for pixels in _bands(array):
        content = rest + pixels.tobytes()
        words = len(content) - len(content) % 4
        total, rest = sum32(content[:words], total), content[words:]
    return sum32(rest, total)


def _bands(array: da.Array) -> Iterator[npt.NDArray[Any]]:
    """Compute an array as FITS stores it, in bands that are one after the other in the file."""
    if not array.size:
        return
    first = next((n for n, lengths in enumerate(array.chunks) if max(lengths) > 1), array.ndim)
    bands = array.rechunk(dict.fromkeys(range(first + 1, array.ndim), -1))
    places = np.ndindex(*bands.numblocks)
    while batch := list(itertools.islice(places, _AT_ONCE)):
        yield from map(_stored, compute(*(bands.blocks[place] for place in batch)))


def _stored(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Convert pixels to what FITS stores: big-endian, and unsigned integers less BZERO."""
    kind, bits = pixels.dtype.kind, 8 * pixels.dtype.itemsize
    if (kind == "u" and bits > 8) or (kind == "i" and bits == 8):
        # Subtracting 2^(n-1) from n-bit integers modulo 2^n flips their highest bit, no more.
        unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
        pixels = pixels.astype(unsigned, copy=False) ^ unsigned.type(1 << (bits - 1))
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
