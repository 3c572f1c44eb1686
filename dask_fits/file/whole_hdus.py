"""HDUs that are read whole: tables that another one's world coordinates refer to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from dask_fits.exceptions import FitsFormatError, TruncatedFileError
from dask_fits.file.hdu import HDU
from dask_fits.format.header import BLOCK
from dask_fits.format.tiles import TiledLayout
from dask_fits.ranges.byte_range import ByteRange

_MOST_BYTES = 1 << 28
"""Bytes (256 MiB) of a table that a WCS refers to: beyond is damage. Coordinates for each pixel of
an image of 4096 x 4096 take as many; the tables of HST have some 10 kB."""


def read_hdus(hdus: Iterable[HDU]) -> list[bytes]:
    """Read whole HDUs of one file, in one go, in the order in which they lie in it.

    Raises
    ------
    TruncatedFileError
        The file ends within one.
    """
    found = sorted(hdus, key=lambda hdu: hdu.index)
    for hdu in found:
        size = hdu.store.version.size
        if hdu.data_range.stop > size:
            raise TruncatedFileError(
                f"{hdu.where}: the file is truncated: the data end at byte "
                f"{hdu.data_range.stop}, found the end of the file at byte {size}"
            )
    if not found:
        return []
    ranges = [ByteRange(hdu.header_range.start, hdu.data_range.stop) for hdu in found]
    pieces = [bytes(piece) for _, piece in found[0].store.read_ranges(ranges, whole=True)]
    return [piece + bytes(-len(piece) % BLOCK) for piece in pieces]


def read_tables(found: Sequence[HDU]) -> bytes:
    """Read HDUs of one file that a WCS refers to: a FITS file, with an empty primary HDU."""
    from astropy.io import fits

    primary: bytes = fits.PrimaryHDU().header.tostring().encode("ascii")
    for table in found:
        _check_size(table)
    plain = [table for table in found if not isinstance(table.layout.image, TiledLayout)]
    unpacked = [_unpacked(table) for table in found if table not in plain]
    return b"".join([primary, *read_hdus(plain), *unpacked])


def _check_size(table: HDU) -> None:
    """Raise FitsFormatError where a table takes more memory than any that is meant."""
    pixels = math.prod(table.shape or ()) * (table.dtype.itemsize if table.dtype else 0)
    size = max(pixels, table.data_range.stop - table.data_range.start)
    if size > _MOST_BYTES:
        raise FitsFormatError(
            f"{table.where}: a WCS refers to this table: found {size} bytes, expected at most "
            f"{_MOST_BYTES}"
        )


def _unpacked(table: HDU) -> bytes:
    """Read a compressed image, and make a plain one: astropy's decoders trust its bytes."""
    from astropy.io import fits

    plain = fits.ImageHDU(table.reader()[...], table.header)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), plain]).writeto(file, output_verify="silentfix+ignore")
    return file.getvalue()[BLOCK:]
