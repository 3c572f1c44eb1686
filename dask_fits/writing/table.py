"""A table as an HDU that is written behind images."""

from __future__ import annotations

import io
import warnings

import numpy as np
from astropy.io import fits
from astropy.table import Table

from dask_fits.exceptions import printable
from dask_fits.format.header import BLOCK
from dask_fits.writing.file_plan import Content
from dask_fits.writing.image_header import template_of

ERROR_WIDTH = 240
"""Characters of an error that a table has room for, where it is known only when pixels are read."""


def table_content(table: Table, name: str, where: str, *, checksum: bool) -> Content:
    """Return a table as a binary table (FITS Standard 4.0, section 7.3).

    Parameters
    ----------
    table : astropy.table.Table
        Columns of numbers, booleans, and text of fixed width, as of `with_fixed_texts`.
    name : str
        EXTNAME.
    where : str
        The file, for messages.
    checksum : bool
        Whether to write CHECKSUM and DATASUM.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = fits.BinTableHDU(table, name=name).header
    template = template_of(header, has_sums=checksum, where=f"{where}: HDU {name}")
    return Content(template, None, None, table_rows(table))


def table_rows(table: Table) -> bytes:
    """Return the bytes of the rows of a table."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdu = fits.BinTableHDU(table)
        hdu.writeto(file)
    nbytes = hdu.header["NAXIS1"] * hdu.header["NAXIS2"]
    # Behind the primary header, which has no data, and its own.
    start = BLOCK + len(hdu.header.tostring())
    return file.getvalue()[start : start + nbytes]


def with_fixed_texts(table: Table, widths: dict[str, int] | None = None) -> Table:
    """Return a table whose texts are ASCII of fixed width, as FITS has them.

    Parameters
    ----------
    table : astropy.table.Table
    widths : dict of str to int, optional
        Widths of some columns; by default that of the longest text.
    """
    fixed = table.copy()
    for name in fixed.colnames:
        if fixed[name].dtype.kind not in "OU":
            continue
        texts = [printable(str(text)).encode("ascii", "backslashreplace") for text in fixed[name]]
        width = (widths or {}).get(name, max(map(len, texts), default=1))
        fixed[name] = np.array([text[:width] for text in texts], f"S{max(width, 1)}")
    return fixed
