"""Frames of one field of the sky, each with a time and keywords of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from tests.support.fits_files import fits_bytes
from tests.support.xarray_files import sky

SHAPE = (12, 16)
CUBE = np.random.default_rng(73).integers(-999, 999, (7, *SHAPE)).astype("i2")
DATES = [f"2024-03-0{day}T0{day}:30:00.00000{day}" for day in range(1, 8)]


def on_the_sky(number: int, ra: float = 150.0) -> bytes:
    """The file of a frame."""
    header = sky(ra)
    header["DATE-OBS"] = DATES[number]
    header["EXPTIME"] = 30.0 + number
    header["FILTER"] = "gri"[number % 3]
    header["SEQ"] = number
    header["SHUTTER"] = number % 2 == 0
    return fits_bytes(fits.PrimaryHDU(CUBE[number], header))


def native(values: Any) -> np.ndarray:
    """A copy in native byte order."""
    return np.asarray(values).astype(values.dtype.newbyteorder("="))
