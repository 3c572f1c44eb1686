"""Images of which cutouts are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import strategies as st

from tests.support.corpus import quiet_astropy
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.worlds import SIP_TERMS, TPV_TERMS, Keywords, axis_keywords

NY, NX = 60, 80


def celestial(
    x: str, y: str, at: tuple[float, float] = (10.0, 20.0), scale: float = 1e-3, **more: Any
) -> Keywords:
    """Keywords of two axes that span the sky, turned and sheared."""
    return {
        "CTYPE1": x,
        "CTYPE2": y,
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRPIX1": 37.25,
        "CRPIX2": 33.5,
        "CRVAL1": at[0],
        "CRVAL2": at[1],
        "CD1_1": -scale,
        "CD1_2": 0.1 * scale,
        "CD2_1": 0.2 * scale,
        "CD2_2": 1.1 * scale,
        **more,
    }


TAN = celestial("RA---TAN", "DEC--TAN")

SIP = celestial("RA---TAN-SIP", "DEC--TAN-SIP") | SIP_TERMS

TPV = celestial("RA---TPV", "DEC--TPV") | TPV_TERMS

SWAPPED = celestial("DEC--TAN", "RA---TAN", (20.0, 10.0))

SKY: dict[str, Keywords] = {
    "TAN": TAN,
    "SIP": SIP,
    "TPV": TPV,
    "SIN": celestial("RA---SIN", "DEC--SIN", (120.0, -75.0)),
    "Galactic": celestial("GLON-TAN", "GLAT-TAN", (266.0, -29.0)),
    "FK5": TAN | {"RADESYS": "FK5", "EQUINOX": 1975.0},
    "across RA = 0": celestial("RA---TAN", "DEC--TAN", (0.001, -3.0)),
    "across RA = 360 SIP": SIP | {"CRVAL1": 359.999, "CRVAL2": 55.0},
    "north pole": celestial("RA---TAN", "DEC--TAN", (77.0, 89.995)),
    "south pole": celestial("RA---ZEA", "DEC--ZEA", (200.0, -90.0)),
    "wide": celestial("RA---TAN", "DEC--TAN", scale=0.5),
    "CAR of all the sky": {
        "CTYPE1": "RA---CAR",
        "CTYPE2": "DEC--CAR",
        "CDELT1": -4.5,
        "CDELT2": 3.0,
        "CRPIX1": 40.5,
        "CRPIX2": 30.5,
        "CRVAL1": 0.0,
        "CRVAL2": 0.0,
    },
    "AIT of all the sky": {
        "CTYPE1": "GLON-AIT",
        "CTYPE2": "GLAT-AIT",
        "CDELT1": -4.1,
        "CDELT2": 2.8,
        "CRPIX1": 40.5,
        "CRPIX2": 30.5,
        "CRVAL1": 0.0,
        "CRVAL2": 0.0,
    },
}

SOLAR = celestial("HPLN-TAN", "HPLT-TAN", (100.0, -200.0), 0.6) | {
    "CUNIT1": "arcsec",
    "CUNIT2": "arcsec",
    "DATE-OBS": "2012-03-04T05:06:07",
    "HGLN_OBS": 0.0,
    "HGLT_OBS": -7.2,
    "DSUN_OBS": 1.48e11,
}

FLOATS = np.random.default_rng(40).normal(100, 15, (NY, NX)).astype("f4")

FLOATS[5, 3:9] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 0.0], "f4")

INTEGERS = np.random.default_rng(41).integers(-300, 300, (NY, NX)).astype("i2")

INTEGERS[4:9, 6:30] = 99


def written(*hdus: Any) -> bytes:
    """A file of these HDUs, behind an empty primary HDU where they need one."""
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    return fits_bytes(*first, *hdus)


def content(pixels: np.ndarray, keywords: Keywords, **packing: Any) -> bytes:
    """A file of one image, compressed where there are options."""
    if packing:
        return written(fits.CompImageHDU(pixels, fits.Header(keywords), **packing))
    return written(fits.PrimaryHDU(pixels, fits.Header(keywords)))


def stored(pixels: np.ndarray, keywords: Keywords, **scaling: Any) -> bytes:
    """A file of one image whose pixels are stored as they come, and keywords that say of what."""
    whole = bytearray(written(fits.PrimaryHDU(pixels, fits.Header(keywords))))
    text = "".join(fits.Card(keyword, value).image for keyword, value in scaling.items()).encode()
    end = whole.index(b"END" + b" " * 77)
    whole[end : end + len(text) + 80] = text + b"END".ljust(80)
    return bytes(whole)


@dataclass(frozen=True)
class Known:
    """An image as astropy has it."""

    pixels: np.ndarray
    wcs: WCS


def known(data: bytes, key: Any = None) -> Known:
    with quiet_astropy(data) as file:
        if key is None:
            key = next(n for n, hdu in enumerate(file) if hdu.is_image and hdu.data is not None)
        pixels = np.array(file[key].data)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        return Known(pixels, WCS(file[key].header))


def written_to(root: Path, name: str, data: bytes) -> str:
    (root / name).write_bytes(data)
    return str(root / name)


def assert_same_wcs(found: WCS, expected: WCS) -> None:
    if found.naxis == 2:
        assert found.array_shape == expected.array_shape
    found = found.celestial if found.naxis > 2 else found
    assert found.to_header_string(relax=True) == expected.to_header_string(relax=True)
    at = np.array([[0.0, 0.0], [3.0, 7.5], [-2.0, 11.0]])
    assert same_bits(found.all_pix2world(at, 0), expected.all_pix2world(at, 0))


SIZES = st.one_of(
    st.integers(1, 100),
    st.tuples(st.integers(1, 100), st.integers(1, 30)),
    st.sampled_from([1, (1, NX), (NY, 1), (3 * NY, 3 * NX)]),
)

COORDINATES = st.one_of(
    st.floats(-120, 200, allow_nan=False),
    st.integers(-20, 100).map(lambda n: n / 2),
    st.sampled_from([-0.5, -1.0, NX - 0.5, NY - 0.5, 1e7, -1e12]),
)

KINDS = {
    "float32": content(FLOATS, TAN),
    "float64": content(FLOATS.astype("f8"), TAN),
    "int16": content(INTEGERS, TAN),
    "uint8": content(INTEGERS.astype("u1"), TAN),
    "uint16": content(INTEGERS.astype("u2"), TAN),
    "int64": content(INTEGERS.astype("i8") << 40, TAN),
    "scaled int16": stored(INTEGERS, TAN, BSCALE=0.1, BZERO=-7.5),
    "BLANK": stored(INTEGERS, TAN, BLANK=99),
    "RICE int16": content(INTEGERS, TAN, compression_type="RICE_1", tile_shape=(7, 11)),
    "RICE rows": content(INTEGERS.astype("i4"), TAN, compression_type="RICE_1"),
    "PLIO mask": content(
        (INTEGERS == 99).astype("i2"), TAN, compression_type="PLIO_1", tile_shape=(20, 80)
    ),
    "GZIP uint16": content(INTEGERS.astype("u2"), TAN, compression_type="GZIP_2"),
    "RICE quantized": content(
        np.nan_to_num(FLOATS), TAN, compression_type="RICE_1", tile_shape=(16, 16)
    ),
}


def spectral(*axes: str) -> Keywords:
    """Keywords of a cube, its axes in FITS order."""
    return axis_keywords(axes, (-1e-3, 1e-3), lambda n: 5.5 * n)
