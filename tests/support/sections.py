"""Images that sections are read of."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from astropy.io import fits

from tests.support.fits_files import blocks, card, primary
from tests.support.tiled_files import tiled_file

RNG = np.random.default_rng(20)

FLOATS = RNG.normal(100, 15, (11, 14)).astype("f4")

INTEGERS = RNG.integers(-300, 300, (11, 14)).astype("i2")

INTEGERS[2, 3:6] = 99

SPECIAL = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], "f4")


def plain(stored: np.ndarray, **keywords: object) -> bytes:
    """A file of one image whose pixels are stored as they come."""
    bitpix = stored.dtype.itemsize * (-8 if stored.dtype.kind == "f" else 8)
    head = primary(
        *stored.shape[::-1], bitpix=bitpix, extra=[card(k, v) for k, v in keywords.items()]
    )
    return head + blocks(stored.astype(stored.dtype.newbyteorder(">")).tobytes())


def by_astropy(pixels: np.ndarray, **options: Any) -> bytes:
    """A file as astropy writes it, compressed where there are options."""
    hdu = fits.CompImageHDU(pixels, **options) if options else fits.PrimaryHDU(pixels)
    buffer = io.BytesIO()
    hdu.writeto(buffer)
    return buffer.getvalue()


def special() -> np.ndarray:
    pixels = FLOATS.copy()
    pixels[4, :5] = SPECIAL
    return pixels


RICE = {"compression_type": "RICE_1", "tile_shape": (4, 5)}

RICE_TILES = {"zcmptype": "RICE_1", "tile": (4, 5)}

CONTENT = {
    "float32": plain(special()),
    "float64": plain(FLOATS.astype("f8")),
    "uint8": plain(INTEGERS.astype("u1")),
    "int16": plain(INTEGERS),
    "int64": plain(INTEGERS.astype("i8") << 40),
    "one axis": plain(FLOATS[0]),
    "cube": plain(FLOATS.reshape(7, 2, 11)),
    "five axes": plain(INTEGERS.reshape(1, 7, 2, 1, 11)),
    "no pixels along an axis": plain(np.zeros((3, 0, 4), "f4")),
    "scaled int16": plain(INTEGERS, BSCALE=0.1, BZERO=-7.5),
    "scaled int32": plain(INTEGERS.astype("i4"), BSCALE=0.1, BZERO=-7.5),
    "scaled float32": plain(FLOATS, BSCALE=2.5),
    "BLANK": plain(INTEGERS, BLANK=99),
    "scaled with BLANK": plain(INTEGERS, BSCALE=0.1, BLANK=99),
    "int8": by_astropy(INTEGERS.astype("i1")),
    "uint16": by_astropy(INTEGERS.astype("u2")),
    "uint32": by_astropy(INTEGERS.astype("u4")),
    "uint64": by_astropy(INTEGERS.astype("u8")),
    "RICE int16": by_astropy(INTEGERS, **RICE),
    "RICE int32": by_astropy(INTEGERS.astype("i4"), **RICE),
    "RICE uint16": by_astropy(INTEGERS.astype("u2"), **RICE),
    "RICE with ZBLANK": tiled_file(INTEGERS, **RICE_TILES, cards=[("ZBLANK", 99)]),
    "RICE scaled": tiled_file(INTEGERS, **RICE_TILES, cards=[("BSCALE", 0.1), ("BZERO", 3.0)]),
    "RICE quantized": by_astropy(FLOATS, **RICE, quantize_level=4),
    "RICE dithered": by_astropy(FLOATS, **RICE, quantize_level=4, quantize_method=1, dither_seed=7),
    "RICE cube": by_astropy(
        INTEGERS.reshape(7, 2, 11), compression_type="RICE_1", tile_shape=(2, 2, 4)
    ),
}
