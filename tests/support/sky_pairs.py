"""Pairs of grids of many kinds: an output of a mosaic, and an image that is on it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from dask_fits.wcs.mapping import Grid
from tests.support.grids import (
    GALACTIC,
    SIP_INVERSE,
    field,
    grid_of,
    latitude_first,
    sip_keywords,
    sky_keywords,
)
from tests.support.worlds import IMAGES, NX, NY, oracle, written

SMOOTH = 2e-6
"""Pixels by which positions of fields of some degrees are off at most."""

WIDE = 2e-5
"""The same of maps that bend from pixel to pixel, or that an iteration inverts."""

ITERATED = 1e-4
"""Pixels within which astropy inverts a distortion."""

ZENITHAL = ["TAN", "SIN", "ARC", "STG", "ZEA", "ZPN", "AZP", "SZP", "AIR"]
AROUND_EQUATOR = ["CAR", "CEA", "MER", "CYP", "AIT", "MOL", "SFL", "PAR", "PCO", "HPX", "TSC"]
AROUND_45 = ["COE", "COD", "COP", "COO", "BON"]
FRAMES: dict[str, dict[str, Any]] = {
    "ICRS": {"RADESYS": "ICRS"},
    "FK5 J1975": {"RADESYS": "FK5", "EQUINOX": 1975.0},
    "FK4": {"RADESYS": "FK4", "EQUINOX": 1950.0},
    "FK4 observed later": {"RADESYS": "FK4", "EQUINOX": 1950.0, "DATE-OBS": "1975-03-04T05:06:07"},
    "FK4 without E-terms": {"RADESYS": "FK4-NO-E", "EQUINOX": 1950.0},
    "galactic": {"names": GALACTIC},
}
CENTRES: dict[str, tuple[float, float]] = {"galactic": (137.2, -20.6)}


@dataclass(frozen=True, eq=False)
class Pair:
    """An output and an input."""

    output: Grid
    input: Grid
    tolerance: float = WIDE
    seen_output: Grid | None = None
    seen_input: Grid | None = None
    """The same pixels by another CRPIX and CRVAL, by which astropy finds all of their positions."""
    covers: float = 0.01
    """The least part of the output that the image covers."""


def whole_map(projection: str, scale: float, **more: Any) -> Grid:
    """A map of the whole sky, or of as much as the projection has."""
    shape = (round(180 / scale), round(360 / scale))
    latitude = 45.0 if projection in AROUND_45 else 0.0
    if projection == "HPX":  # whose edges are diagonals that otherwise meet centres of pixels
        more = {"CRPIX1": shape[1] / 2 + 0.63, "CRPIX2": shape[0] / 2 + 0.71, **more}
    if projection != "TSC":
        return field(projection, (123.0, latitude), scale, shape, names=GALACTIC, **more)
    # Six faces of 90 degrees, of which the second to the fourth are to the left.
    crpix = (315.5 / scale, 135.5 / scale)
    cards = sky_keywords("TSC", (123.0, 0.0), crpix, scale, names=GALACTIC, **more)
    return grid_of(cards, (round(270 / scale), round(360 / scale)))


def tan(scale: float = 0.01, shape: tuple[int, int] = (300, 320), **more: Any) -> Grid:
    return field("TAN", (30.5, 40.3), scale, shape, turned=10.0, **more)


def pairs_of_fields() -> Iterator[tuple[str, Pair]]:
    for code in ZENITHAL:
        other = field(code, (31.0, 40.0), 0.012, (200, 230), turned=-30.0)
        yield f"{code} onto TAN", Pair(tan(), other, SMOOTH)
        larger = field(code, (31.0, 40.0), 0.006, (1060, 1050), turned=-30.0)
        yield f"TAN onto {code}", Pair(larger, tan(0.011, (200, 230)), SMOOTH)
    for name, keywords in FRAMES.items():
        centre = CENTRES.get(name, (30.5, 40.3))
        yield (
            f"{name} onto ICRS",
            Pair(tan(), field("TAN", centre, 0.012, (200, 230), **keywords), SMOOTH),
        )
        yield (
            f"ICRS onto {name}",
            Pair(field("TAN", centre, 0.012, (300, 320), **keywords), tan(), SMOOTH),
        )
    swapped = latitude_first(sky_keywords("TAN", (30.5, 40.3), (100.5, 90.5), 0.012, turned=25.0))
    yield "latitude first onto TAN", Pair(tan(), grid_of(swapped, (180, 200)), SMOOTH)
    yield "TAN onto latitude first", Pair(grid_of(swapped, (180, 200)), tan(), SMOOTH)


def pairs_of_maps() -> Iterator[tuple[str, Pair]]:
    for code in AROUND_EQUATOR + AROUND_45:
        latitude = 45.0 if code in AROUND_45 else 0.0
        car = field("CAR", (200.0, 0.0), 1.0, (180, 360))
        yield (
            f"whole {code} onto CAR",
            Pair(field("CAR", (10.0, 0.0), 1.5, (120, 240)), whole_map(code, 1.0)),
        )
        yield f"CAR onto whole {code}", Pair(whole_map(code, 1.5), car)
        near = field(
            "TAN", (123.0 + 5, latitude + 5), 0.05, (300, 320), names=GALACTIC, turned=15.0
        )
        yield f"{code} onto TAN", Pair(near, whole_map(code, 0.3))
        part = field(code, (123.0, latitude), 0.05, (300, 320), names=GALACTIC)
        yield (
            f"TAN onto {code}",
            Pair(part, field("TAN", (125.0, latitude + 2), 0.07, (100, 120), names=GALACTIC)),
        )
    sin = field("SIN", (260.0, 40.0), 0.4, (300, 300))
    for code in ("CAR", "ZEA"):
        yield f"hemisphere onto {code}", Pair(whole_map(code, 0.75), sin)
        yield (
            f"{code} onto hemisphere",
            Pair(field("SIN", (260.0, 40.0), 0.105, (1040, 1100)), whole_map(code, 1.0)),
        )
    yield "AIT onto AIT", Pair(whole_map("AIT", 0.75), field("AIT", (70.0, 0.0), 1.0, (180, 360)))


def pairs_of_places() -> Iterator[tuple[str, Pair]]:
    for latitude in (90.0, -90.0):
        north = 1 if latitude > 0 else -1
        # Rows 0.3 degrees beyond the pole, where there is no sky, and no row at the pole itself.
        rows = 300.3 - north * (90 / 0.1 - 250)
        cylinder = grid_of(sky_keywords("CAR", (10.0, 0.0), (350.0, rows), 0.1), (600, 700))
        polar = field("TAN", (300.0, latitude), 0.1, (300, 320))
        yield f"pole at {latitude} onto CAR", Pair(cylinder, polar)
        yield (
            f"CAR onto pole at {latitude}",
            Pair(field("STG", (10.0, latitude), 0.1, (320, 300)), cylinder),
        )
    zero = field("TAN", (0.0, 10.0), 0.01, (300, 320), turned=10.0)
    for name, longitude in {"at": 0.0, "before": 359.99, "after": 0.01}.items():
        rows = (160.0 - 10 / 0.01) + 10
        cylinder = grid_of(sky_keywords("CAR", (longitude, 0.0), (150.0, rows), 0.01), (300, 320))
        yield f"CAR {name} RA 0 onto TAN", Pair(zero, cylinder, SMOOTH)
        yield f"TAN onto CAR {name} RA 0", Pair(cylinder, zero, SMOOTH)
    seam = field("CAR", (180.0, 0.0), 0.1, (1800, 3600))
    yield "seam of CAR onto TAN", Pair(field("TAN", (0.0, 10.0), 0.06, (1060, 1100)), seam)


def pairs_of_turns() -> Iterator[tuple[str, Pair]]:
    # One map: longitudes from 0 to 360 degrees. astropy finds all of them from its middle on.
    cards = sky_keywords("CAR", (0.0, 0.0), (360.5, 90.5), 1.0)
    edge, middle = grid_of(cards, (180, 360)), field("CAR", (180.0, 0.0), 1.0, (180, 360))
    frame = field("STG", (20.0, 35.0), 0.3, (300, 340))
    whole = field("AIT", (30.0, 0.0), 1.0, (180, 360), names=GALACTIC)
    yield "CAR from its edge onto STG", Pair(frame, edge, seen_input=middle)
    yield "CAR from its edge onto AIT", Pair(whole, edge, seen_input=middle)
    yield "AIT onto CAR from its edge", Pair(edge, whole, seen_output=middle)
    yield "STG onto CAR from its edge", Pair(edge, frame, seen_output=middle)


def pairs_of_few_pixels() -> Iterator[tuple[str, Pair]]:
    car = field("CAR", (0.0, 0.0), 1.0, (180, 360))
    for shape in ((10, 20), (44, 90)):
        for code in ("CAR", "AIT", "MOL", "ZEA", "SIN"):
            scale = (250 if code == "ZEA" else 320) / shape[1]
            few = field(code, (0.0, 0.0), scale, shape, names=GALACTIC)
            yield f"CAR onto {code} of {shape}", Pair(few, car)
            if code != "SIN":
                sky = field("TAN", (70.0, 20.0), 0.6, (200, 200))
                yield f"TAN onto {code} of {shape}", Pair(few, sky)


def pairs_of_distortions() -> Iterator[tuple[str, Pair]]:
    for name, inverse in {"SIP": {}, "SIP with AP and BP": SIP_INVERSE}.items():
        cards = sip_keywords((30.6, 40.35), (500.0, 450.0), 0.0006, turned=-30.0, **inverse)
        image = grid_of(cards, (900, 1000))
        yield f"{name} onto TAN", Pair(tan(0.002, (400, 440)), image, ITERATED)
        yield f"{name} onto coarse TAN", Pair(tan(0.02), image, ITERATED, covers=0.001)
        yield f"TAN onto {name}", Pair(image, tan(0.001), ITERATED)
    for name in ("TPV", "lookup", "lookup of a swapped image", "detector"):
        content = written(*IMAGES[name]())
        wcs = oracle(content)
        image = Grid(wcs, (NY, NX), name)
        for step in (0.7, 3.0):
            output = field("TAN", (10.0, 20.0), 1.2e-4 * step, (300, 320), turned=25.0)
            yield (
                f"{name} onto TAN, {step} times as coarse",
                Pair(output, image, ITERATED, covers=1e-3),
            )
        yield (
            f"TAN onto {name}",
            Pair(image, field("TAN", (10.0, 20.0), 4e-5, (300, 320)), ITERATED),
        )


MAKERS: list[Callable[[], Iterator[tuple[str, Pair]]]] = [
    pairs_of_fields,
    pairs_of_maps,
    pairs_of_places,
    pairs_of_turns,
    pairs_of_few_pixels,
    pairs_of_distortions,
]


@cache
def pairs() -> dict[str, Pair]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: pair for make in MAKERS for name, pair in make()}
