"""Headers with world coordinates of all sorts, and where astropy says that their images lie."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from dask_fits import Collection
from tests.support.worlds import SIP_TERMS, TPV_TERMS

Keywords = dict[str, Any]
Random = np.random.Generator


def base(rng: Random, code: str = "TAN", axes: tuple[str, str] = ("RA", "DEC")) -> Keywords:
    """Axes, a reference pixel and a position; every now and then a pole, or the equator."""
    lat = float(np.rad2deg(np.arcsin(rng.uniform(-1, 1))))
    lat = float(rng.choice([lat, lat, lat, lat, 0.0, 90.0, -90.0]))
    return {
        "CTYPE1": f"{axes[0]:-<4}-{code}",
        "CTYPE2": f"{axes[1]:-<4}-{code}",
        "CRPIX1": float(rng.uniform(-20, 40)),
        "CRPIX2": float(rng.uniform(-20, 40)),
        "CRVAL1": float(rng.choice([rng.uniform(0, 360), 0.0, 359.9999])),
        "CRVAL2": lat,
    }


def scale(rng: Random) -> float:
    return float(10 ** rng.uniform(-5, -2))


def turned(rng: Random, kind: str = "CD") -> Keywords:
    """A matrix, turned and sheared."""
    step, angle = scale(rng) if kind == "CD" else 1.0, rng.uniform(0, 2 * np.pi)
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    values = (-cos, 1.1 * sin, sin, 1.1 * cos)
    names = ("1_1", "1_2", "2_1", "2_2")
    return {f"{kind}{name}": float(value) for name, value in zip(names, values, strict=True)}


def steps(rng: Random) -> Keywords:
    return {"CDELT1": -scale(rng), "CDELT2": scale(rng)}


def with_cd(rng: Random, code: str = "TAN", **more: Any) -> Keywords:
    return base(rng, code) | turned(rng) | more


def swapped(keywords: Keywords) -> Keywords:
    """The same with the declination first."""
    other = dict(keywords)
    for name in ("CTYPE", "CRVAL"):
        other[f"{name}1"], other[f"{name}2"] = keywords[f"{name}2"], keywords[f"{name}1"]
    return other


def in_arcsec(keywords: Keywords, unit: str = "arcsec", factor: float = 3600.0) -> Keywords:
    numbers = {
        name: value * factor
        for name, value in keywords.items()
        if name.startswith(("CD", "CRVAL")) and isinstance(value, float)
    }
    return keywords | numbers | {"CUNIT1": unit, "CUNIT2": unit}


def alternate(keywords: Keywords, letter: str) -> Keywords:
    return {f"{name}{letter}": value for name, value in keywords.items()}


KINDS: dict[str, Callable[[Random], Keywords]] = {
    "CD": with_cd,
    "CD with degrees": lambda rng: with_cd(rng, CUNIT1="deg", CUNIT2="deg"),
    "CD with WCSAXES": lambda rng: {"WCSAXES": 2} | with_cd(rng),
    "CD of its diagonal alone": lambda rng: (
        base(rng) | {"CD1_1": -scale(rng), "CD2_2": scale(rng)}
    ),
    "CD and CDELT": lambda rng: with_cd(rng, CDELT1=1.0, CDELT2=1.0),
    "CDELT": lambda rng: base(rng) | steps(rng),
    "CDELT and CROTA2": lambda rng: base(rng) | steps(rng) | {"CROTA2": rng.uniform(-180, 180)},
    "CDELT and both CROTA": lambda rng: (
        base(rng) | steps(rng) | {"CROTA1": 0.0, "CROTA2": rng.uniform(-180, 180)}
    ),
    "PC": lambda rng: base(rng) | steps(rng) | turned(rng, "PC"),
    "PC with some elements": lambda rng: (
        base(rng) | steps(rng) | {"PC1_2": rng.uniform(-1, 1), "PC2_1": rng.uniform(-1, 1)}
    ),
    "PC without CDELT": lambda rng: base(rng) | turned(rng, "PC"),
    "PC of three digits": lambda rng: (
        base(rng) | steps(rng) | {"PC001001": 1.0, "PC001002": 0.2, "PC002001": -0.2}
    ),
    "arcseconds": lambda rng: in_arcsec(with_cd(rng)),
    "arcminutes": lambda rng: in_arcsec(base(rng) | steps(rng), "arcmin", 60.0),
    "SIP": lambda rng: with_cd(rng, "TAN-SIP") | SIP_TERMS,
    "SIP of another order": lambda rng: with_cd(
        rng, "TAN-SIP", A_ORDER=2, A_1_1=rng.uniform(-1e-4, 1e-4), B_ORDER=2, B_0_2=1e-4
    ),
    "TPV": lambda rng: with_cd(rng, "TPV") | TPV_TERMS,
    "TPV of other numbers": lambda rng: with_cd(rng, "TPV", PV1_0=rng.uniform(0, 1e-3), PV1_1=1.0),
    "TAN with PV": lambda rng: with_cd(rng, "TAN") | TPV_TERMS,
    "SIN": lambda rng: with_cd(rng, "SIN"),
    "slant SIN": lambda rng: with_cd(rng, "SIN", PV2_1=0.01, PV2_2=-0.02),
    "slant SIN of other numbers": lambda rng: with_cd(rng, "SIN", PV2_1=rng.uniform(-0.03, 0.03)),
    "NCP": lambda rng: with_cd(rng, "NCP") | {"CRVAL2": rng.choice([-1, 1]) * rng.uniform(20, 80)},
    "GLS": lambda rng: base(rng, "GLS") | steps(rng) | {"CRVAL2": rng.uniform(-80, 80)},
    "ZEA": lambda rng: with_cd(rng, "ZEA"),
    "ARC": lambda rng: with_cd(rng, "ARC"),
    "CAR": lambda rng: base(rng, "CAR") | steps(rng),
    "CEA": lambda rng: base(rng, "CEA") | steps(rng) | {"PV2_1": 0.7},
    "AIT": lambda rng: base(rng, "AIT") | steps(rng),
    "COE": lambda rng: base(rng, "COE") | steps(rng) | {"PV2_1": 45.0},
    "Galactic": lambda rng: base(rng, "TAN", ("GLON", "GLAT")) | turned(rng),
    "Galactic CAR": lambda rng: base(rng, "CAR", ("GLON", "GLAT")) | steps(rng),
    "FK5": lambda rng: with_cd(rng, RADESYS="FK5", EQUINOX=2000.0),
    "FK5 of 1975": lambda rng: with_cd(rng, RADESYS="FK5", EQUINOX=1975.0),
    "EQUINOX 1950 alone": lambda rng: with_cd(rng, EQUINOX=1950.0),
    "EQUINOX 2000 alone": lambda rng: with_cd(rng, EQUINOX=2000.0),
    "EPOCH of old": lambda rng: with_cd(rng, EPOCH=1950.0),
    "FK4": lambda rng: with_cd(rng, RADESYS="FK4", EQUINOX=1950.0),
    "FK4 without E terms": lambda rng: with_cd(rng, RADESYS="FK4-NO-E", EQUINOX=1950.0),
    "FK4 at a date": lambda rng: with_cd(
        rng, RADESYS="FK4", EQUINOX=1950.0, **{"MJD-OBS": rng.uniform(3e4, 4e4)}
    ),
    "RADECSYS": lambda rng: with_cd(rng, RADECSYS="FK5", EQUINOX=2000.0),
    "ICRS": lambda rng: with_cd(rng, RADESYS="ICRS"),
    "LONPOLE": lambda rng: with_cd(rng, LONPOLE=170.0),
    "another LONPOLE": lambda rng: with_cd(rng, LONPOLE=rng.uniform(0, 180)),
    "LONPOLE and LATPOLE": lambda rng: base(rng, "CAR") | steps(rng) | {
        "CRVAL2": 10.0, "LONPOLE": 0.0, "LATPOLE": 80.0,
    },
    "declination first": lambda rng: swapped(with_cd(rng)),
    "declination first, CAR": lambda rng: swapped(base(rng, "CAR") | steps(rng)),
    "declination first, CROTA": lambda rng: swapped(
        base(rng) | steps(rng) | {"CROTA1": rng.uniform(-180, 180)}
    ),
    "an alternate beside it": lambda rng: with_cd(rng) | alternate(with_cd(rng), "A"),
    "an alternate of pixels": lambda rng: (
        with_cd(rng) | {"CTYPE1P": "X", "CTYPE2P": "Y", "CRPIX1P": rng.uniform(0, 9), "CRVAL1P": 3.0}
    ),
    "an alternate alone": lambda rng: alternate(with_cd(rng), "B"),
    "a singular CD": lambda rng: (
        base(rng) | {"CD1_1": 1e-3, "CD1_2": 1e-3, "CD2_1": 1e-3, "CD2_2": 1e-3}
    ),
    "a CD of zeros": lambda rng: base(rng) | dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2"), 0.0),
    "a CDELT of zero": lambda rng: base(rng) | {"CDELT1": 0.0, "CDELT2": 1e-3},
    "pixels": lambda rng: {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR", "CRVAL1": rng.uniform(0, 9)},
    "ecliptic": lambda rng: base(rng, "TAN", ("ELON", "ELAT")) | turned(rng),
    "unknown RADESYS": lambda rng: with_cd(rng, RADESYS="WRONG"),
    "a longitude alone": lambda rng: with_cd(rng) | {"CTYPE2": "LINEAR"},
    "nothing": lambda rng: {},
}  # fmt: skip
"""Kinds of headers of a plane image -> a header of the kind with numbers of its own."""


CUBES: dict[str, Callable[[Random], tuple[Keywords, tuple[int, ...]]]] = {
    "spectrum last": lambda rng: (
        with_cd(rng) | {"CTYPE3": "FREQ", "CRVAL3": 1e9, "CD3_3": 1e6, "CRPIX3": 1.0}, (3, 12, 17)
    ),
    "one plane": lambda rng: (
        base(rng) | steps(rng) | {"CTYPE3": "VELO", "CDELT3": 10.0}, (1, 12, 17)
    ),
    "spectrum first": lambda rng: (
        {"CTYPE1": "FREQ", "CRVAL1": 1e9, "CDELT1": 1e6}
        | {
            f"{name[:-1]}{int(name[-1]) + 1}": value
            for name, value in (base(rng) | steps(rng)).items()
        },
        (12, 17, 3),
    ),
    "four axes": lambda rng: (
        base(rng) | steps(rng) | {"CTYPE3": "STOKES", "CTYPE4": "FREQ"}, (2, 1, 12, 17)
    ),
}  # fmt: skip
"""Kinds of headers of images of more axes, with a shape (NumPy order)."""


@dataclass(frozen=True)
class Expected:
    """Where an image lies, by astropy; None for each where it has no place on the sky."""

    centre: SkyCoord | None
    corners: SkyCoord | None = None
    outline: SkyCoord | None = None
    """Along the edges, the corners included: a quarter of a side apart."""
    beside: SkyCoord | None = None
    """The pixels next to the central one."""
    sides: tuple[int, int] | None = None
    """Pixels along the two axes of the sky, the first of FITS first."""


def quiet_wcs(header: fits.Header, fobj: Any = None) -> WCS:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return WCS(header, fobj)


def expected(header: fits.Header, fobj: Any = None) -> Expected:
    """Find out where an image lies."""
    try:
        wcs = quiet_wcs(header, fobj)
        if not wcs.has_celestial:
            return Expected(None)
        plane = wcs.celestial
        frame = wcs_to_celestial_frame(plane)
        axes = sorted((wcs.wcs.lng, wcs.wcs.lat))
        width, height = (header[f"NAXIS{axis + 1}"] for axis in axes)
        along = np.arange(4) / 4
        x = np.concatenate([along, np.ones(4), 1 - along, np.zeros(4)]) * width - 0.5
        y = np.concatenate([np.zeros(4), along, np.ones(4), 1 - along]) * height - 0.5
        middle = (width - 1) / 2, (height - 1) / 2
        found = [
            _icrs(plane, frame, np.asarray(px), np.asarray(py))
            for px, py in (
                ([middle[0]], [middle[1]]),
                (x, y),
                ([middle[0] + 1, middle[0]], [middle[1], middle[1] + 1]),
            )
        ]
    except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on: there is no sky)
        return Expected(None)
    centre, outline, beside = found
    if not np.isfinite(centre.ra.deg).all():
        return Expected(None)
    return Expected(centre[0], outline[::4], outline, beside, (width, height))


def _icrs(plane: WCS, frame: Any, x: Any, y: Any) -> SkyCoord:
    # A row of one value more, since wcslib tells of pixels in one row wrongly which have a sky.
    world = plane.all_pix2world(np.append(x, x[0] + 1), np.append(y, y[0] + 1), 0)
    lon, lat = (
        world[axis][:-1] * u.Unit(plane.wcs.cunit[axis]) for axis in (plane.wcs.lng, plane.wcs.lat)
    )
    return SkyCoord(lon, lat, frame=frame).icrs


def header_of(keywords: Keywords) -> fits.Header:
    header = fits.Header()
    for keyword, value in keywords.items():
        header[keyword] = value
    return header


def assert_places(found: Collection, wanted: list[Expected], names: Sequence[str]) -> None:
    """The rows of a collection say of the sky what astropy does."""
    assert len(found) == len(wanted)
    columns = {
        name: found.column(name)
        for name in ("s_ra", "s_dec", "s_fov", "s_pixel_scale", "s_region", "s_xel1", "s_xel2")
    }
    wrong = []
    for row, (place, name) in enumerate(zip(wanted, names, strict=True)):
        own = {column: values[row] for column, values in columns.items()}
        try:
            assert_place(own, place)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)


def assert_place(own: dict[str, Any], place: Expected) -> None:
    if place.centre is None:
        assert np.isnan(own["s_ra"]), own
        assert np.isnan(own["s_dec"]), own
        assert own["s_region"] == ""
        return
    assert 0 <= own["s_ra"] < 360
    found = SkyCoord(own["s_ra"], own["s_dec"], unit="deg")
    assert found.separation(place.centre).deg < 1e-9, (own, place.centre)
    assert (own["s_xel1"], own["s_xel2"]) == place.sides
    reach = place.outline.separation(place.centre).deg.max()
    assert np.isnan(reach) or own["s_fov"] == pytest.approx(2 * reach, abs=1e-9)
    # A pixel that goes around the sky has no size by which it could be measured.
    side = np.sqrt(np.prod(place.beside.separation(place.centre).arcsec))
    assert np.isnan(side) or own["s_pixel_scale"] == pytest.approx(side, rel=1e-6)
    kind, frame, *numbers = own["s_region"].split()
    assert frame == "ICRS"
    if kind == "CIRCLE":
        assert own["s_fov"] >= 120
        return
    corners = SkyCoord(np.array(numbers, float).reshape(4, 2), unit="deg")
    assert corners.separation(place.corners).deg.max() < 2e-7  # as it is written: 7 digits
