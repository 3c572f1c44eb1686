"""Mutated files: one for each seed, of those with world coordinates most of all."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from astropy.io import fits

from tests.support.fits_files import blocks, card, extension, fits_bytes, primary
from tests.support.mutations import (
    COMPRESSED,
    EDITS,
    HOSTILE,
    MADE,
    REAL,
    STRUCTURAL,
    TILED,
    TILING,
    real,
)
from tests.support.tiled_files import tiled_parts
from tests.support.wcs_headers import surface

Edit = tuple[Any, ...]

TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 6.0, "CRPIX2": 4.0, "CRVAL1": 10.0}
TAN |= {"CRVAL2": 20.0, "CDELT1": -1e-3, "CDELT2": 1e-3}

SURFACE = "1. 2. 2. 0. -1. 20. -1. 20. 0.1 0.2 0.3 "
"""A polynomial of TNX: its kind, orders, cross terms, range and coefficients."""

AXES = ["NAXES: 2", "AXIS.1: 1", "AXIS.2: 2"]
"""What the records of a lookup table begin with."""

HEADERS: dict[str, dict[str, Any]] = {
    "tan": {**TAN, "RADESYS": "FK5", "EQUINOX": 2000.0, "LONPOLE": 180.0, "DATE-OBS": "2026-11-01"},
    "sip": {
        **TAN,
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 3,
        "B_ORDER": 2,
        "A_2_0": 1e-4,
        "A_0_3": 1e-6,
        "B_1_1": -1e-4,
        "AP_ORDER": 1,
        "BP_ORDER": 1,
        "AP_1_0": 1e-6,
        "BP_0_1": 1e-6,
    },
    "pv": {
        **TAN,
        "CTYPE1": "RA---TPV",
        "CTYPE2": "DEC--TPV",
        "PV1_0": 0.0,
        "PV1_1": 1.0,
        "PV1_4": 0.01,
        "PV2_1": 1.0,
        "PV2_7": 0.002,
    },
    "plate": {
        "CTYPE1": "DSS",
        "PLTRAH": 10,
        "PLTRAM": 5,
        "PLTRAS": 1.5,
        "PLTDECSN": "+",
        "PLTDECD": 20,
        "PLTDECM": 1,
        "PLTDECS": 2.0,
        "PLTSCALE": 67.2,
        "XPIXELSZ": 25.2,
        "YPIXELSZ": 25.2,
        "PPO3": 170000.0,
        "PPO6": 170000.0,
        "CNPIX1": 10,
        "CNPIX2": 20,
        "AMDX1": 67.2,
        "AMDX2": 0.01,
        "AMDX3": -7.0,
        "AMDY1": 67.1,
        "AMDY2": -0.01,
        "AMDY3": 5.0,
    },
    "tnx": {
        **TAN,
        "CTYPE1": "RA---TNX",
        "CTYPE2": "DEC--TNX",
        "WAT0_001": "system=image",
        **{f"WAT{n}_001": f'wtype=tnx lngcor = "{SURFACE}"' for n in (1, 2)},
    },
    "plate carree": {
        **TAN,
        "CTYPE1": "GLON-CAR",
        "CTYPE2": "GLAT-CAR",
        "CRPIX1": -900.0,
        "CDELT1": -0.3,
        "CDELT2": 0.3,
        "PV1_1": 0.0,
    },
    "solar": {
        **TAN,
        "CTYPE1": "HPLN-TAN",
        "CTYPE2": "HPLT-TAN",
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "DSUN_OBS": 1.5e11,
        "HGLN_OBS": 0.0,
        "HGLT_OBS": 5.0,
        "DATE-OBS": "2026-11-01T00:00:00",
        "RSUN_REF": 6.96e8,
    },
    "cube": {
        **TAN,
        "CTYPE3": "FREQ",
        "CRVAL3": 1.4e9,
        "CDELT3": 1e6,
        "CRPIX3": 1.0,
        "CUNIT3": "Hz",
        "RESTFRQ": 1.42e9,
        "SPECSYS": "LSRK",
        "CTYPE4": "STOKES",
        "CRVAL4": 1.0,
        "CDELT4": 1.0,
        "CRPIX4": 1.0,
    },
    "table": {
        **TAN,
        "CTYPE3": "WAVE-TAB",
        "PS3_0": "WCS-TAB",
        "PS3_1": "COORDS",
        "PS3_2": "INDEX",
        "PV3_1": 1,
        "PV3_2": 1,
        "PV3_3": 1,
        "CRPIX3": 1.0,
        "CRVAL3": 1.0,
        "CDELT3": 1.0,
        "CUNIT3": "m",
    },
    "plane of a table": {
        "CTYPE1": "RA---TAB",
        "CTYPE2": "DEC--TAB",
        **{f"PS{n}_{m}": text for n in (1, 2) for m, text in enumerate(["WCS-TAB", "COORDS"])},
        "PS2_2": "INDEX",
        "PV1_3": 1,
        "PV2_3": 2,
        **{f"CRPIX{n}": 1.0 for n in (1, 2)},
        **{f"CRVAL{n}": 1.0 for n in (1, 2)},
        **{f"CDELT{n}": 0.1 for n in (1, 2)},
        **{f"CUNIT{n}": "deg" for n in (1, 2)},
    },
    "lookup": {
        **TAN,
        "CPDIS1": "LOOKUP",
        "DP1": ["EXTVER: 1.0", *AXES],
        "CPDIS2": "LOOKUP",
        "DP2": ["EXTVER: 2.0", *AXES],
        "D2IMDIS1": "LOOKUP",
        "D2IM1": ["EXTVER: 1.0", *AXES],
    },
}
"""Keywords of world coordinates."""

PROJECTIONS = [
    *("AZP", "SZP", "TAN", "STG", "SIN", "ARC", "ZPN", "ZEA", "AIR", "CYP", "CEA"),
    *("CAR", "MER", "SFL", "PAR", "MOL", "AIT", "COP", "COE", "COD", "COO", "BON"),
    *("PCO", "TSC", "CSC", "QSC", "HPX", "XPH", "TPV", "TPD", "TNX", "ZPX", "DSS"),
    *("NCP", "GLS"),
]  # fmt: skip


FLOATS = [
    b"0.0",
    b"1.0",
    b"-1.0",
    b"0.5",
    b"90.0",
    b"45.0",
    b"-90.0",
    b"180.0",
    b"1E300",
    b"1E-300",
]
RECORDS = [
    *(b"'NAXES: 2'", b"'NAXES: 3'", b"'AXIS.1: 1'", b"'AXIS.2: 2'", b"'AXIS.1: 2'", b"'EXTVER: 1'"),
    *(b"'TPD.FWD.1: 1.0'", b"'TPD.REV.3: 0.1'", b"'TPD.FWD.59: 1'", b"'NTERMS: 2'", b"'NAUX: 1'"),
    *(b"'TERM.1.COEFF: 1'", b"'TERM.1.VAR.1: 2'", b"'OFFSET.1: 4.5'", b"'SCALE.1: 0'"),
    *(b"'AUX.1.COEFF.0: 1'", b"'AUX.1.POWER.1: 2'", b"'DOCORR: 0'", b"'MAXERR: 1'"),
    *(b"'POLYNOMIAL.1: 1'", b"'TPV.1: 1.0'", b"'EXTVER: 2'", b"'EXTVER: 9'", b"'NAXES: 1'"),
]

Cards = list[tuple[str, bytes]]


def _together(rng: random.Random) -> Cards:
    """Cards that belong together, of which some values are odd."""
    return rng.choice(FAMILIES)(rng)


def _projected(rng: random.Random) -> Cards:
    code, (lon, lat) = rng.choice(PROJECTIONS), rng.choice([("RA--", "DEC-"), ("GLON", "GLAT")])
    axes = rng.choice([(1, 2), (1, 2), (2, 1), (1, 3)])
    ctypes = zip(axes, (lon, lat), strict=True)
    found = [(f"CTYPE{n}", f"'{name}-{code}'".encode()) for n, name in ctypes]
    found += _several(rng, 4, lambda: f"PV{rng.randint(1, 3)}_{rng.randint(0, 6)}", FLOATS)
    return [*found, *_some(rng, ["LONPOLE", "LATPOLE", "CRVAL1", "CRVAL2", "CRPIX1"], FLOATS)]


def _some(rng: random.Random, keywords: list[str], values: list[bytes]) -> Cards:
    return [(keyword, rng.choice(values)) for keyword in keywords if rng.random() < 0.4]


def _several(
    rng: random.Random, most: int, keyword: Callable[[], str], values: list[bytes]
) -> Cards:
    return [(keyword(), rng.choice(values)) for _ in range(rng.randint(0, most))]


def _polynomials(rng: random.Random) -> Cards:
    name = rng.choice(["A", "B", "AP", "BP"])
    found = [(f"{name}_ORDER", b"%d" % rng.choice([0, 1, 2, 3, 5, 9, 10]))]
    found += _several(rng, 6, lambda: f"{name}_{rng.randint(0, 6)}_{rng.randint(0, 6)}", FLOATS)
    return [*found, *_some(rng, ["CTYPE1", "CTYPE2"], [b"'RA---TAN-SIP'", b"'DEC--TAN-SIP'"])]


def _parameters(rng: random.Random) -> Cards:
    ends = [rng.choice(["TPV", "TAN", "ZPN", "TPD"]) for _ in range(2)]
    found = [
        ("CTYPE1", b"'RA---%s'" % ends[0].encode()),
        ("CTYPE2", b"'DEC--%s'" % ends[1].encode()),
    ]
    return found + _several(rng, 8, lambda: f"PV{rng.randint(1, 2)}_{rng.randint(0, 41)}", FLOATS)


def _distorted(rng: random.Random) -> Cards:
    kind, record, n = *rng.choice([("CPDIS", "DP"), ("CQDIS", "DQ")]), rng.randint(1, 3)
    words = [b"'LOOKUP'", b"'Lookup'", b"'TPD'", b"'Polynomial'", b"'TPV'", b"'SIP'"]
    found = [(f"{kind}{n}", rng.choice(words))]
    return found + _several(rng, 7, lambda: f"{record}{n}", RECORDS)


def _detector(rng: random.Random) -> Cards:
    n = rng.randint(1, 2)
    return [(f"D2IMDIS{n}", b"'Lookup'"), (f"D2IM{n}", rng.choice(RECORDS)), ("AXISCORR", b"1")]


def _looked_up(rng: random.Random) -> Cards:
    found: Cards = []
    for n in rng.sample([1, 2, 3, 4], rng.randint(1, 2)):
        found.append((f"CTYPE{n}", rng.choice([b"'WAVE-TAB'", b"'FREQ-TAB'", b"'RA---TAB'"])))
        found.append((f"PS{n}_0", rng.choice([b"'WCS-TAB'", b"'WCS-TABLE'", b"'OTHER'", b"''"])))
        found.append((f"PS{n}_1", rng.choice([b"'COORDS'", b"'coordinates'", b"'INDEX'", b"5"])))
        found += _some(rng, [f"PS{n}_2"], [b"'INDEX'", b"'COORDS'", b"'NONE'", b"''"])
        counts = [b"0", b"1", b"2", b"3", b"-1", b"1.5", b"99", b"'1'", b""]
        found += _some(rng, [f"PV{n}_1", f"PV{n}_2", f"PV{n}_3", f"PV{n}_4"], counts)
    return found


def _in_text(rng: random.Random) -> Cards:
    counts = "3. {}. {}. {}. 0. 1. 0. 1. ".format(*(rng.choice([0, 1, 2, 3, 4]) for _ in range(3)))
    numbers = rng.choice([SURFACE, counts + "0.1 " * rng.choice([0, 1, 3, 4, 9])])
    found = []
    for n in (1, 2):
        kind = rng.choice(["tnx", "tnx", "tnx", "zpx", "linear"])
        found += [(key, value.encode()) for key, value in surface(n, kind, numbers).items()]
    found += _some(rng, ["WAT1_002", "WAT2_003"], [b"'0.1 0.2 \"'", b"''", b"5"])
    ctypes = [b"'RA---TNX'", b"'DEC--TNX'", b"'RA---ZPX'", b"'DEC--ZPX'"]
    return found + _some(rng, ["CTYPE1", "CTYPE2"], ctypes)


def _turned(rng: random.Random) -> Cards:
    names = [f"{kind}{i}_{j}" for kind in ("PC", "CD") for i in (1, 2, 3) for j in (1, 2, 3)]
    names += ["CROTA1", "CROTA2", "CDELT1", "CDELT2", "CD001002", "PC001001"]
    return _some(rng, rng.sample(names, 6), FLOATS)


def _timed(rng: random.Random) -> Cards:
    names = ["TIMESYS", "DATE-OBS", "DATEREF", "DATE-AVG", "TREFPOS", "RADESYS", "SPECSYS"]
    words = [b"'UTC'", b"'TDB(IAU)'", b"'2031-01-01T00:00:00'", b"'99/12/31'", b"'GEOCENTER'", b""]
    numbers = ["MJDREF", "MJD-OBS", "OBSGEO-X", "OBSGEO-B", "JDREF", "MJDREFI", "EQUINOX", "EPOCH"]
    return _some(rng, names, words) + _some(rng, numbers, [*FLOATS, b"58000", b"1D5", b""])


def _other(rng: random.Random) -> Cards:
    """The same of an alternate WCS."""
    return [(f"{keyword}A"[:8], value) for keyword, value in rng.choice(FAMILIES[:-2])(rng)]


def _twice(rng: random.Random) -> Cards:
    keyword = rng.choice(SKY)
    return [(keyword, rng.choice([*WORDS, *FLOATS])) for _ in range(3)]


FAMILIES: list[Callable[[random.Random], Cards]] = [
    *(_projected, _polynomials, _parameters, _distorted, _detector, _looked_up, _in_text, _turned),
    *(_timed, _other, _twice),
]

SKY = sorted({
    *(keyword for header in HEADERS.values() for keyword in header),
    *("CD1_1", "CD1_2", "CD2_2", "PC1_1", "PC1_2", "PC2_1", "CROTA2", "WCSAXES", "WCSNAME", "LATPOLE"),
    *("CTYPE1A", "CRVAL1A", "CRPIX1A", "CUNIT1", "CUNIT2", "PV2_0", "PV2_2", "PV2_3", "PS2_0", "MJD-OBS"),
    *("RADECSYS", "EPOCH", "OBSGEO-X", "OBSGEO-L", "TIMESYS", "MJDREF", "VELREF", "A_DMAX", "B_0_2"),
    *("A_9_9", "PPO1", "AMDX20", "OBJCTRA", "PLTLABEL", "AXISCORR", "CQDIS1", "TELAPSE", "CRDER1"),
    *("TDIM1", "TDIM2", "TFORM1", "TFORM2", "TTYPE1", "TTYPE2", "TSCAL1", "TNULL2", "EXTVER"),
})  # fmt: skip

WORDS = [
    *(b"'RA---TAN'", b"'DEC--TAN'", b"'GLON-CAR'", b"'TLON-CAR'", b"'RA---AIT'", b"'RA---HPX'", b"'LINEAR'"),
    *(b"'FREQ-LOG'", b"'WAVE-TAB'", b"'RA---ZPN'", b"'RA---TSC'", b"'HPLN-TAN'", b"'RA---TAN-SIP'", b"'FK4'"),
    *(b"'deg'", b"'arcsec'", b"'Sine Latitude'", b"'Hz'", b"'m/s'", b"'furlong'", b"'LOOKUP'", b"'SIP'"),
    *(b"'EXTVER: 1.0'", b"'NAXES: 99999'", b"'TPD.1: 1'", b"'2026-11-01'", b"'2031-01-01T00:00:00'"),
    *(b"1,0E+01", b"1.0D1", b"1.0d1", b"1000", b"5000", b"1e300", b"-1e300", b"90.0", b"180.0", b"1e-300"),
    *(b"'system=image'", b"'wtype=tnx axtype=ra lngcor = ''3. 9999. 9999. 0.'''", b"'UTC'", b"RA---TAN"),
]  # fmt: skip
"""What a card about world coordinates can say."""


def _world() -> dict[str, bytes]:
    """Files with world coordinates, and the tables that these refer to."""
    files = {}
    for name, keywords in HEADERS.items():
        cube = "CTYPE3" in keywords
        axes = (12, 8, 3, 1)[: 4 if "CTYPE4" in keywords else 3 if cube else 2]
        items = [
            (keyword, value)
            for keyword, values in keywords.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        extra = [card(*item) for item in items]
        pixels = np.arange(math.prod(axes), dtype=">i2").tobytes()
        content = primary(*axes, bitpix=16, extra=extra) + blocks(pixels)
        if "PV2_3" in keywords or "PV3_3" in keywords:
            coordinates, dim = ([[1e-7, 2e-7, 4e-7]], "(1,3)")
            if "PV2_3" in keywords:
                coordinates, dim = ([np.arange(12) / 10 + 10], "(2,2,3)")
            columns = [
                fits.Column("COORDS", f"{len(coordinates[0])}D", array=coordinates, dim=dim),
                fits.Column("INDEX", "3D", array=[[1.0, 2.0, 3.0]]),
            ]
            table = fits.BinTableHDU.from_columns(columns, name="WCS-TAB", ver=1)
            content += fits_bytes(fits.PrimaryHDU(), table)[2880:]
        if name == "lookup":
            grid = np.full((2, 3), 0.25, ">f4").tobytes()
            for kind, version in (("WCSDVARR", 1), ("WCSDVARR", 2), ("D2IMARR", 1)):
                places = {"EXTNAME": kind, "EXTVER": version, "CRPIX1": 1.0, "CRPIX2": 1.0}
                places |= {"CRVAL1": 1.0, "CRVAL2": 1.0, "CDELT1": 5.0, "CDELT2": 5.0}
                cards = [card(keyword, value) for keyword, value in places.items()]
                content += extension(3, 2, bitpix=-32, extra=cards) + blocks(grid)
        files[name] = content
        if name in ("tan", "sip", "lookup"):
            image = np.arange(96, dtype="i2").reshape(8, 12)
            parts = tiled_parts(image, zcmptype="RICE_1", cards=extra)
            tables = content.partition(b"XTENSION")
            files[f"compressed, {name}"] = parts.build() + tables[1] + tables[2]
    return files


WORLD = _world()


def mutated(seed: int) -> bytes:
    """Make the file of a seed: one of the files of the tests with up to four edits."""
    rng = random.Random(seed)
    kinds: list[tuple[dict[str, bytes] | list[str], list[str], list[bytes]]] = [
        (MADE, STRUCTURAL, HOSTILE),
        (COMPRESSED, TILING, [*TILED, *HOSTILE]),
        *[(WORLD, SKY, [*WORDS, *HOSTILE])] * 2,
    ]
    if REAL:
        kinds.append((REAL, [*SKY, *STRUCTURAL], [*WORDS, *HOSTILE]))
    files, keywords, values = rng.choice(kinds)
    name = rng.choice(sorted(files))
    text = bytearray(files[name] if isinstance(files, dict) else real(name))
    for _ in range(rng.randint(1, 4)):
        if keywords is not TILING and rng.random() < 0.2:
            for keyword, value in _together(rng):
                EDITS[rng.choice(["set", "add"])](text, keyword, value, rng.randrange(1 << 20))
            continue
        edit = rng.choice(list(EDITS)) if rng.random() < 0.4 else "set"
        EDITS[edit](text, *_arguments(edit, rng, keywords, values))
    return bytes(text)


def _arguments(edit: str, rng: random.Random, keywords: list[str], values: list[bytes]) -> Edit:
    number, other = rng.randrange(1 << 20), rng.randrange(1 << 20)
    if edit in ("set", "add"):
        return rng.choice(keywords), rng.choice(values), number
    if edit == "respell":
        style = rng.choice(["{:<8}= {}", "{:<8}={}", "{}= {}", " {} = {}", "{} {}"])
        return rng.choice(keywords), rng.choice(values), style, rng.random() < 0.5
    if edit in ("swap cards", "repeat card", "copy card", "swap blocks"):
        return number, other
    if edit == "shift":
        return number, rng.randint(1, 5760)
    if edit == "append":
        return (rng.choice([b"\0", b" ", b"END", bytes(2880), b"XTENSION" * 360, b"junk" * 9]),)
    if edit.startswith(("flip", "overwrite", "insert", "delete")):
        number_of_nan = b"\x7f\xf8\0\0\0\0\0\0"
        known = [b"\xff", b"\0", b"5", b"'", b"\x80" * 3, rng.randbytes(12), number_of_nan]
        return number, rng.choice(known)
    return (number,)
