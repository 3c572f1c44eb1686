"""Images of which only the header exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from astropy.io import fits

import dask_fits
from dask_fits.file.hdu import HDU


def huge_hdu(path: Path, shape: tuple[int, ...]) -> HDU:
    """The HDU of a file whose header promises far more than the file holds."""
    hdu = fits.PrimaryHDU()
    hdu.header["BITPIX"] = -32
    hdu.header["NAXIS"] = len(shape)
    for n, length in enumerate(reversed(shape), 1):
        hdu.header.insert(2 + n, (f"NAXIS{n}", length))
    path.write_bytes(hdu.header.tostring().encode())
    with pytest.warns(dask_fits.FitsWarning, match="truncated"):
        return dask_fits.open(path)[0]
