"""Images with world coordinates of many kinds, and the tables that they refer to."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

NY, NX = 80, 100

HDUs = list[Any]

Keywords = dict[str, Any]


def image(
    keywords: Keywords, *shape: int, make: Callable[..., Any] = fits.ImageHDU, **kwargs: Any
) -> Any:
    """An image HDU named SCI, of zeros."""
    header = fits.Header()
    for keyword, value in keywords.items():
        for each_value in value if isinstance(value, list) else [value]:
            header.append((keyword, each_value))
    return make(np.zeros(shape or (NY, NX), np.float32), header, name="SCI", **kwargs)


def celestial(
    x: str, y: str, crval: tuple[float, float] = (10.0, 20.0), scale: float = 1e-4
) -> Keywords:
    """Keywords of two axes that span the sky, turned and sheared."""
    return {
        "CTYPE1": x,
        "CTYPE2": y,
        "CRPIX1": 47.25,
        "CRPIX2": 33.5,
        "CRVAL1": crval[0],
        "CRVAL2": crval[1],
        "CD1_1": -scale,
        "CD1_2": 0.1 * scale,
        "CD2_1": 0.2 * scale,
        "CD2_2": 1.3 * scale,
    }


TAN = celestial("RA---TAN", "DEC--TAN")

SWAPPED = celestial("DEC--TAN", "RA---TAN", (20.0, 10.0))

SIP_TERMS = {
    "A_ORDER": 2,
    "A_2_0": 2e-4,
    "A_0_2": -1e-4,
    "B_ORDER": 2,
    "B_1_1": 3e-4,
    "AP_ORDER": 2,
    "AP_2_0": -2e-4,
    "BP_ORDER": 2,
    "BP_1_1": -3e-4,
}

SIP = {**celestial("RA---TAN-SIP", "DEC--TAN-SIP"), **SIP_TERMS}

SWAPPED_SIP = {**celestial("DEC--TAN-SIP", "RA---TAN-SIP", (20.0, 10.0)), **SIP_TERMS}

TPV_TERMS = {
    "PV1_1": 1.0,
    "PV1_4": 3e-2,
    "PV1_7": 0.4,
    "PV2_1": 1.0,
    "PV2_5": -2e-2,
}

TPV = {**celestial("RA---TPV", "DEC--TPV"), **TPV_TERMS}


def axis_keywords(
    axes: Sequence[str], cdelt: tuple[float, float], crpix: Callable[[int], float]
) -> Keywords:
    """Keywords of several axes, in FITS order; `cdelt` is of RA and DEC, `crpix` of the n-th axis."""
    known = {
        "RA": ("RA---SIN", 10.0, cdelt[0], "deg"),
        "DEC": ("DEC--SIN", 20.0, cdelt[1], "deg"),
        "FREQ": ("FREQ", 1.4e9, 1e5, "Hz"),
        "STOKES": ("STOKES", 1.0, 1.0, ""),
    }
    found: Keywords = {}
    for n, (ctype, crval, step, cunit) in enumerate((known[axis] for axis in axes), 1):
        found |= {f"CTYPE{n}": ctype, f"CRVAL{n}": crval, f"CDELT{n}": step, f"CUNIT{n}": cunit}
        found[f"CRPIX{n}"] = crpix(n)
    return found


def cube(*axes: str) -> Keywords:
    """Keywords of several axes, in FITS order."""
    return axis_keywords(axes, (-1e-4, 2e-4), lambda n: 2.25 + 3 * n)


def tab_axis(n: int, name: str = "WCS-TABLE", ver: int = 1, key: str = "") -> Keywords:
    """Keywords of an axis of wavelengths in a table."""
    return {
        f"CTYPE{n}{key}": "WAVE-TAB",
        f"CUNIT{n}{key}": "um",
        f"CRPIX{n}{key}": 1.0,
        f"CRVAL{n}{key}": 0.0,
        f"CDELT{n}{key}": 1.0,
        f"PS{n}_0{key}": name,
        f"PS{n}_1{key}": "COORDS",
        f"PS{n}_2{key}": "INDEX",
        f"PV{n}_1{key}": ver,
        f"PV{n}_2{key}": 1,
        f"PV{n}_3{key}": 1,
    }


def tab_table(name: str = "WCS-TABLE", ver: int = 1, *, length: int = 12) -> fits.BinTableHDU:
    """Wavelengths as a table has them for a -TAB axis."""
    values = ver + np.sort(np.random.default_rng(ver).random(length))
    columns = [
        fits.Column("INDEX", format=f"{length}D", array=np.arange(float(length))[None]),
        fits.Column(
            "COORDS", format=f"{length}D", dim=f"(1,{length})", array=values[None, :, None]
        ),
    ]
    return fits.BinTableHDU.from_columns(columns, name=name, ver=ver)


TAB = {**cube("RA", "DEC"), **tab_axis(3)}


def lookup(kind: str, *versions: int, axes: Sequence[int] = (1, 2)) -> Keywords:
    """Keywords of distortions by lookup table, one for each axis; no table where it is 0."""
    records = {"CPDIS": "DP", "D2IMDIS": "D2IM"}[kind]
    found: Keywords = {}
    for n, ver in enumerate(versions, 1):
        if ver:
            found[f"{kind}{n}"] = "LOOKUP"
            found[f"{records}{n}"] = [
                f"EXTVER: {ver}",
                "NAXES: 2",
                *(f"AXIS.{m}: {axis}" for m, axis in enumerate(axes, 1)),
            ]
    return found


def distortion(
    name: str, ver: int, *, make: Callable[..., Any] = fits.ImageHDU, shape: Any = (9, 7)
) -> Any:
    """A table of offsets of pixels, over most of the image, that can be inverted."""
    steepest = 0.2 * min(NX, NY) / max(shape)
    values = np.random.default_rng(ver).uniform(-steepest, steepest, shape).astype(np.float32)
    hdu = make(values)
    for n, (length, whole) in enumerate(zip(shape[::-1], (NX, NY), strict=False), 1):
        hdu.header[f"CRPIX{n}"] = 1.5
        hdu.header[f"CRVAL{n}"] = 5.25 + n
        hdu.header[f"CDELT{n}"] = 0.9 * whole / length
    hdu.name, hdu.ver = name, ver
    return hdu


def pixel_tables() -> HDUs:
    return [distortion("WCSDVARR", 1), distortion("WCSDVARR", 2)]


def detector_tables() -> HDUs:
    return [distortion("D2IMARR", 1), distortion("D2IMARR", 2)]


HST = {**SIP, **lookup("CPDIS", 1, 2), **lookup("D2IMDIS", 1, 2)}

PLAIN: dict[str, Callable[[], HDUs]] = {
    "TAN": lambda: [image(TAN)],
    "TAN in the primary HDU": lambda: [
        fits.PrimaryHDU(np.zeros((NY, NX)), fits.Header({**TAN, "EXTNAME": "SCI"}))
    ],
    "SIP": lambda: [image(SIP)],
    "TPV": lambda: [image(TPV)],
    "SIN with PV": lambda: [
        image({**celestial("RA---SIN", "DEC--SIN"), "PV2_1": 0.02, "PV2_2": -0.03})
    ],
    "CAR": lambda: [image(celestial("GLON-CAR", "GLAT-CAR", (200.0, 0.0), 1e-2))],
    "FK5": lambda: [image({**TAN, "RADESYS": "FK5", "EQUINOX": 1975.0})],
    "swapped axes": lambda: [image(SWAPPED)],
    "swapped axes, SIP": lambda: [image(SWAPPED_SIP)],
    "solar": lambda: [
        image(
            {
                **celestial("HPLN-TAN", "HPLT-TAN", (100.0, -200.0), 0.6),
                "CUNIT1": "arcsec",
                "CUNIT2": "arcsec",
                "DATE-OBS": "2012-03-04T05:06:07",
                "HGLN_OBS": 0.0,
                "HGLT_OBS": -7.2,
                "DSUN_OBS": 1.48e11,
            }
        )
    ],
    "spectral cube": lambda: [image(cube("RA", "DEC", "FREQ"), 6, 20, 30)],
    "cube, spectrum first": lambda: [image(cube("FREQ", "RA", "DEC"), 20, 30, 6)],
    "cube, swapped axes around the spectrum": lambda: [image(cube("DEC", "FREQ", "RA"), 20, 6, 30)],
    "four axes": lambda: [image(cube("RA", "DEC", "FREQ", "STOKES"), 2, 6, 20, 30)],
    "spectrum": lambda: [image(cube("FREQ"), 50)],
    "more axes than the image": lambda: [image({"WCSAXES": 3, **cube("RA", "DEC", "FREQ")})],
    "without any keyword": lambda: [image({})],
    "compressed TAN": lambda: [image(TAN, make=fits.CompImageHDU)],
    "compressed SIP": lambda: [image(SIP, make=fits.CompImageHDU)],
    "compressed cube": lambda: [
        image(cube("RA", "DEC", "FREQ"), 6, 20, 30, make=fits.CompImageHDU)
    ],
}
"""Images whose coordinates their own header holds; the image is the HDU named SCI."""

TABLES: dict[str, Callable[[], HDUs]] = {
    "-TAB": lambda: [image(TAB, 10, 20, 30), tab_table()],
    "-TAB before the image": lambda: [tab_table(), image(TAB, 10, 20, 30)],
    "-TAB, second version": lambda: [
        image({**cube("RA", "DEC"), **tab_axis(3, ver=2)}, 10, 20, 30),
        tab_table(ver=1),
        tab_table(ver=2),
    ],
    "-TAB, number of the axis as a float": lambda: [
        image({**TAB, "PV3_3": 1.0}, 10, 20, 30),
        tab_table(),
    ],
    "-TAB, name in lower case": lambda: [
        image({**cube("RA", "DEC"), **tab_axis(3, "wcs-table")}, 10, 20, 30),
        tab_table(),
    ],
    "-TAB along the first axis": lambda: [image(tab_axis(1), 5, 10), tab_table()],
    "lookup": lambda: [image({**TAN, **lookup("CPDIS", 1, 2)}), *pixel_tables()],
    "lookup, versions exchanged": lambda: [
        image({**TAN, **lookup("CPDIS", 2, 1)}),
        *pixel_tables(),
    ],
    "lookup, axes exchanged": lambda: [
        image({**TAN, **lookup("CPDIS", 1, 2, axes=(2, 1))}),
        *pixel_tables(),
    ],
    "lookup, second axis only": lambda: [
        image({**TAN, **lookup("CPDIS", 0, 1)}),
        distortion("WCSDVARR", 1),
    ],
    "lookup in the primary HDU": lambda: [
        distortion("WCSDVARR", 1, make=fits.PrimaryHDU),
        image({**TAN, **lookup("CPDIS", 1, 2)}),
        distortion("WCSDVARR", 2),
    ],
    "compressed lookup": lambda: [
        image({**TAN, **lookup("CPDIS", 1, 2)}),
        distortion("WCSDVARR", 1, make=fits.CompImageHDU, shape=(30, 40)),
        distortion("WCSDVARR", 2, make=fits.CompImageHDU, shape=(30, 40)),
    ],
    "lookup of a swapped image": lambda: [
        image({**SWAPPED, **lookup("CPDIS", 1, 2)}),
        *pixel_tables(),
    ],
    "lookup of a compressed image": lambda: [
        image({**TAN, **lookup("CPDIS", 1, 2)}, make=fits.CompImageHDU),
        *pixel_tables(),
    ],
    "detector": lambda: [image({**TAN, **lookup("D2IMDIS", 1, 2)}), *detector_tables()],
    "detector, second axis only": lambda: [
        image({**TAN, **lookup("D2IMDIS", 0, 2)}),
        *detector_tables(),
    ],
    "detector, old keyword, first axis": lambda: [
        image({**TAN, "AXISCORR": 1}),
        distortion("D2IMARR", 1, shape=(NX,)),
    ],
    "detector, old keyword, second axis": lambda: [
        image({**TAN, "AXISCORR": 2}),
        distortion("D2IMARR", 1, shape=(NY,)),
    ],
    "all that HST has": lambda: [image(HST), *pixel_tables(), *detector_tables()],
}
"""Images whose coordinates are partly in other HDUs."""

IMAGES = PLAIN | TABLES


def written(*hdus: Any) -> bytes:
    """A file of these HDUs, behind an empty primary HDU where they need one."""
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    buffer = io.BytesIO()
    fits.HDUList([*first, *hdus]).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def oracle(content: bytes, key: str = " ") -> WCS:
    with fits.open(io.BytesIO(content)) as file:
        return WCS(file["SCI"].header, fobj=file, key=key)


def whole(make: Callable[[], WCS]) -> WCS:
    """A WCS that astropy makes; ValueError where it leaves out a place that it could not read."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wcs = make()
    for text in (str(w.message) for w in told):
        if re.match(r"(CRVAL|CRPIX|CDELT|CROTA|PC|CD|PV)\d.*\n.*expected", text):
            raise ValueError(text)
    return wcs
