"""An image HDU as astropy's own, around the lazy pixels; `HDU.to_hdu`."""

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

from dask_fits.checksum import sum32
from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.file import HDU

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


def to_hdu(hdu: HDU) -> fits.PrimaryHDU | fits.ImageHDU:
    """Make astropy's HDU of an image, around the lazy pixels; reads none.

    It can be given to what takes astropy's HDUs (``reproject``, ``SpectralCube.read``,
    ``astropy.io.fits.HDUList``), and changed like any other. What was assigned in ``hdu.header``
    and ``hdu.data`` is in it; changes of it do not come back.

    ``writeto`` computes the pixels band by band, by whatever Dask scheduler is set, and writes them
    in order, so that the file is right with threads, processes and a cluster, for all types of
    pixels and with ``checksum=True`` (for which they are computed twice). An error in the middle of
    it leaves a file that is cut short; of an OSError, which many of ours are, astropy makes another
    one with the same message.

    Parameters
    ----------
    hdu : HDU
        An image, tile-compressed or not, or one without pixels.

    Returns
    -------
    astropy.io.fits.PrimaryHDU or astropy.io.fits.ImageHDU
        A primary HDU of the file's first one. Its pixels are the physical ones, so BSCALE, BZERO
        and BLANK are only there for unsigned integers and signed bytes; CHECKSUM and DATASUM
        are left out. The tables of other HDUs that a WCS may refer to (distortions, -TAB
        coordinates) do not come along: ``hdu.wcs`` has them.

    Raises
    ------
    NotAnImageError, UnsupportedHduError, FitsFormatError
        The HDU has no pixels that can be read, or astropy makes no HDU of its header.

    Examples
    --------
    >>> import dask_fits
    >>> found = dask_fits.open("tests/data/m13.fits")[0].to_hdu()
    >>> type(found.data).__name__, found.shape, found.header["CTYPE1"]
    ('Array', (300, 300), 'RA---TAN')
    """
    is_empty = hdu.shape == () and not hdu.layout.defect
    data = None if is_empty else hdu.data
    kind = LazyImageHDU if hdu.index else LazyPrimaryHDU
    try:
        header = hdu.header.copy()
        no_blank = data is None or data.dtype.kind == "f"
        for keyword in (*_OF_THE_FILE, *(["BLANK"] if no_blank else [])):
            header.remove(keyword, ignore_missing=True, remove_all=True)
        del header["NAXIS*"]
        return kind(data, header)
    except FitsError:
        raise
    except Exception as error:  # astropy raises whatever it stumbles on
        said = f"astropy makes no HDU of the header: {one_line(error)}"
        raise FitsFormatError(f"{hdu.where}: {said}") from error


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
