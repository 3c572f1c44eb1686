"""Reading whole HDUs: the tables that the world coordinates of an image refer to."""

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
"""Limit for a table that a WCS refers to, in bytes (256 MiB): a larger one is damaged. Coordinates
for each pixel of an image of 4096 x 4096 take as many; the tables of HST have some 10 kB."""


def read_hdus(hdus: Iterable[HDU]) -> list[bytes]:
    """Read whole HDUs of one file in one read, in the order of the file.

    Raises
    ------
    TruncatedFileError
        The file ends within an HDU.
    """
    ordered = sorted(hdus, key=lambda hdu: hdu.index)
    for hdu in ordered:
        size = hdu.store.max_size
        if hdu.data_range.stop > size:
            raise TruncatedFileError(
                f"{hdu.where}: the file is truncated: the data end at byte "
                f"{hdu.data_range.stop}, found the end of the file at byte {size}"
            )
    if not ordered:
        return []
    ranges = [ByteRange(hdu.header_range.start, hdu.data_range.stop) for hdu in ordered]
    pieces = [bytes(piece) for _, piece in ordered[0].store.read_ranges(ranges, whole=True)]
    # A data unit's range ends before its padding.
    return [piece + bytes(-len(piece) % BLOCK) for piece in pieces]


def read_tables(tables: Sequence[HDU]) -> bytes:
    """Read HDUs of one file into a FITS file with an empty primary HDU; see `FitsFile`."""
    from astropy.io import fits

    primary: bytes = fits.PrimaryHDU().header.tostring().encode("ascii")
    for table in tables:
        _check_size(table)
    plain = [table for table in tables if not isinstance(table.layout.image, TiledLayout)]
    decompressed = [_decompress(table) for table in tables if table not in plain]
    return b"".join([primary, *read_hdus(plain), *decompressed])


def _check_size(table: HDU) -> None:
    """Raise FitsFormatError if a table takes more memory than any table of a WCS does."""
    pixels = math.prod(table.shape or ()) * (table.dtype.itemsize if table.dtype else 0)
    size = max(pixels, table.data_range.stop - table.data_range.start)
    if size > _MOST_BYTES:
        raise FitsFormatError(
            f"{table.where}: a WCS refers to this table: found {size} bytes, expected at most "
            f"{_MOST_BYTES}"
        )


def _decompress(table: HDU) -> bytes:
    """Read a tile-compressed image into the bytes of a plain image HDU.

    With our decoders, since astropy's trust the compressed bytes.
    """
    from astropy.io import fits

    plain = fits.ImageHDU(table.reader()[...], table.header)
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), plain]).writeto(file, output_verify="silentfix+ignore")
    return file.getvalue()[BLOCK:]
