"""Images that are selected by the sky: those that astropy finds, one by one.

What regions and images have in common is looked at closely in tests/wcs/test_regions.py; here are
thousands of images, in memory and in a Parquet file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from dask_fits import Collection
from tests.support.collections import SKY, assert_same_columns, image, put
from tests.support.fits_files import card, extension, primary
from tests.support.footprint_files import quiet_wcs

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.untraced,
]

SIDE = 40

SPECIAL = [
    (0.0, 90.0), (123.0, 90.0), (0.0, -90.0), (200.0, 89.9), (0.0, 0.0), (359.999, 0.001),
    (0.001, 45.0), (180.0, 0.0), (359.99, -60.0), (45.0, 89.0), (45.0, -89.5), (90.0, 30.0),
]  # fmt: skip
"""Centres of images at the poles, and around where right ascension begins."""


def headers(count: int) -> list[dict[str, Any]]:
    """Images all over the sky, of an arcminute to 20 degrees, turned; and some of all the sky."""
    rng = np.random.default_rng(101)
    found = []
    for number in range(count):
        if number < 10 * len(SPECIAL):
            ra, dec = SPECIAL[number % len(SPECIAL)]
            ra, dec = (ra + rng.normal(0, 0.05)) % 360, np.clip(dec + rng.normal(0, 0.05), -90, 90)
        else:
            ra, dec = rng.uniform(0, 360), np.rad2deg(np.arcsin(rng.uniform(-1, 1)))
        width = 10 ** rng.uniform(-1.7, 1.3)
        angle = rng.uniform(0, 2 * np.pi)
        step = width / SIDE
        found.append(
            {
                "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN",
                "CRPIX1": SIDE / 2 + 0.5, "CRPIX2": SIDE / 2 + 0.5,
                "CRVAL1": float(ra), "CRVAL2": float(dec),
                "CD1_1": -step * np.cos(angle), "CD1_2": step * np.sin(angle),
                "CD2_1": step * np.sin(angle), "CD2_2": step * np.cos(angle),
            }
        )  # fmt: skip
    return found


COUNT = int(os.environ.get("DASK_FITS_FOOTPRINTS", "500"))
"""Images that are made."""


@pytest.fixture(scope="module")
def made() -> list[dict[str, Any]]:
    return headers(COUNT)


@pytest.fixture(scope="module")
def held(made: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Collection:
    root = tmp_path_factory.mktemp("select")
    hdus = [
        extension(SIDE, SIDE, extra=[card(*item) for item in header.items()]) + bytes(2880)
        for header in made
    ]
    for number in range(5):
        (root / f"{number}.fits").write_bytes(primary() + b"".join(hdus[number::5]))
    found = dask_fits.open_collection(root / "*.fits")
    order = np.concatenate([np.arange(number, COUNT, 5) for number in range(5)])
    return found[np.argsort(order)]


@pytest.fixture(scope="module")
def kept(held: Collection, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    path = tmp_path_factory.mktemp("kept") / "c.parquet"
    held.to_parquet(path)
    return dask_fits.open_collection(path)


@pytest.fixture(scope="module")
def shown(made: list[dict[str, Any]]) -> np.ndarray:
    """Whether each image shows each of the positions, by its pixels: (images, positions)."""
    where = SkyCoord(positions())
    centres = SkyCoord([[h["CRVAL1"]] for h in made], [[h["CRVAL2"]] for h in made], unit="deg")
    found = where.separation(centres).deg < 89  # the half of the sky that a tangent plane has
    for row, header in enumerate(made):
        x, y = quiet_wcs(fits.Header(header)).wcs_world2pix(where.ra.deg, where.dec.deg, 0)
        found[row] &= (x >= -0.5) & (x <= SIDE - 0.5) & (y >= -0.5) & (y <= SIDE - 0.5)
    return found


@pytest.fixture(scope="module")
def grids(made: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of a grid of points of each image, edges included; and its half diagonal steps."""
    side = np.linspace(-0.5, SIDE - 0.5, 21)
    x, y = (axis.ravel() for axis in np.meshgrid(side, side))
    vectors = np.empty((len(made), len(x), 3))
    for row, header in enumerate(made):
        lon, lat = np.deg2rad(quiet_wcs(fits.Header(header)).all_pix2world(x, y, 0))
        vectors[row] = np.stack(
            [np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1
        )
    step = np.array([abs(header["CD1_1"]) + abs(header["CD1_2"]) for header in made]) * 2.05
    return vectors, step * np.sqrt(2) / 2


def nearest(vectors: np.ndarray, position: SkyCoord) -> np.ndarray:
    """How far the nearest of the points of each image is, in degrees."""
    to = position.icrs.cartesian.xyz.value
    chord = np.sqrt(((vectors - to) ** 2).sum(axis=-1)).min(axis=1)
    return np.rad2deg(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def positions() -> list[SkyCoord]:
    rng = np.random.default_rng(102)
    found = [SkyCoord(ra, dec, unit="deg") for ra, dec in SPECIAL]
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 30)))
    found += [
        SkyCoord(ra, dec, unit="deg") for ra, dec in zip(rng.uniform(0, 360, 30), lat, strict=True)
    ]
    return found


def rows(whole: Collection, part: Collection) -> list[int]:
    """Rows of a collection that a selection has, by file and HDU."""
    keys = {
        key: row
        for row, key in enumerate(zip(whole.column("access_url"), whole.column("hdu"), strict=True))
    }
    return [keys[key] for key in zip(part.column("access_url"), part.column("hdu"), strict=True)]


def test_images_that_show_a_position_are_those_of_astropy(
    shown: np.ndarray, held: Collection, kept: Collection
) -> None:
    for number, position in enumerate(positions()):
        wanted = np.flatnonzero(shown[:, number]).tolist()
        for collection in (held, kept):
            assert rows(held, collection.select(position)) == wanted, position
    assert (shown.sum(axis=0)[: len(SPECIAL)] > 3).all()


@pytest.mark.parametrize("radius", [0.01, 0.5, 7.0, 60.0, 120.0])
def test_images_within_a_radius_are_those_that_have_a_point_there(
    grids: tuple[np.ndarray, np.ndarray], held: Collection, kept: Collection, radius: float
) -> None:
    """A grid of points says so but for those that are nearly as far."""
    vectors, between = grids
    for position in positions()[:: 3 if radius < 10 else 9]:
        distance = nearest(vectors, position)
        for collection in (held, kept):
            found = rows(held, collection.select(position, radius * u.deg))
            assert found == sorted(found)
            is_found = np.isin(np.arange(COUNT), found)
            assert is_found[distance <= radius - 1e-9].all()
            assert not is_found[distance - between > radius].any()


def test_all_of_the_sky_has_all_images(held: Collection, kept: Collection) -> None:
    for collection in (held, kept):
        assert len(collection.select((10.0, 10.0), 180)) == COUNT
        assert len(collection.select(region="CIRCLE ICRS 10 10 180")) == COUNT


def test_a_polygon_has_the_images_with_a_point_within(
    grids: tuple[np.ndarray, np.ndarray], held: Collection, kept: Collection
) -> None:
    """Over the north pole, and across where right ascension begins."""
    vectors, between = grids
    x, y, z = np.moveaxis(vectors, -1, 0)
    lon, lat = np.rad2deg(np.arctan2(y, x)) % 360, np.rad2deg(np.arcsin(np.clip(z, -1, 1)))
    box = SkyCoord([355, 5, 5, 355], [-4, -4, 4, 4], unit="deg")
    text = "POLYGON ICRS 355 -4 5 -4 5 4 355 4"
    # The edges along the equator bulge by 4 * (1 / cos(5 deg) - 1), which is 0.016 degrees.
    within = ((lon > 355) | (lon < 5)) & (abs(lat) < 4)
    around = ((lon > 354.9) | (lon < 5.1)) & (abs(lat) < 4.1)
    for collection in (held, kept):
        for region in (box, text):
            is_found = np.isin(np.arange(COUNT), rows(held, collection.select(region=region)))
            assert is_found[within.any(axis=1)].all()
            far = ~around.any(axis=1) & (between < 0.1)
            assert not is_found[far].any()
    pole = SkyCoord([0, 90, 180, 270], [80, 80, 80, 80], unit="deg")
    for collection in (held, kept):
        is_found = np.isin(np.arange(COUNT), rows(held, collection.select(region=pole)))
        assert is_found[(lat > 83).any(axis=1)].all()
        assert not is_found[(lat < 78).all(axis=1) & (between < 1)].any()


def test_conditions_are_met_together_and_in_any_order(held: Collection, kept: Collection) -> None:
    for collection in (held, kept):
        all_at_once = collection.select((0.0, 0.0), 5, where="s_fov < 1")
        one = collection.select((0.0, 0.0), 5).select(where="s_fov < 1")
        other = collection.select(where="s_fov < 1").select((0.0, 0.0), 5)
        backwards = collection[::-1].select((0.0, 0.0), 5, where="s_fov < 1")[::-1]
        for part in (one, other, backwards):
            assert_same_columns(part, all_at_once)
        assert len(all_at_once)


def test_images_without_a_place_are_not_selected(tmp_path: Path) -> None:
    found = dask_fits.open_collection(put(tmp_path, [image({}), image(SKY), b"no FITS"]))
    assert found.select((150.0, 2.0), 180).column("hdu").tolist() == [0]
    assert len(found.select((150.0, 2.0), 180)) == 1
    assert len(found.select()) == 3


def test_images_of_all_the_sky_are_selected(tmp_path: Path) -> None:
    sizes = {
        "CRPIX1": 40.5,
        "CRPIX2": 30.5,
        "CDELT1": -4.5,
        "CDELT2": 3.0,
        "CRVAL1": 0.0,
        "CRVAL2": 0.0,
    }
    skies = [
        {**sizes, "CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR"},
        {**sizes, "CTYPE1": "GLON-AIT", "CTYPE2": "GLAT-AIT", "CDELT1": -4.0, "CDELT2": 2.7},
    ]
    contents = [image(sky, np.zeros((60, 80), "u1")) for sky in skies]
    found = dask_fits.open_collection(put(tmp_path, contents))
    for position in positions():
        selected = found.select(position).column("access_url").tolist()
        assert found.column("access_url")[0] in selected
        assert len(found.select(position, 5.0)) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {"position": (400.0, 100.0)},
        {"position": (1.0, 2.0), "radius": -1},
        {"position": (1.0, 2.0), "radius": 3 * u.m},
        {"position": (1.0, 2.0), "radius": float("nan")},
        {"position": (1.0, 2.0), "region": "CIRCLE ICRS 1 2 3"},
        {"region": "CIRCLE ICRS 1 2"},
        {"region": "a region"},
        {"radius": 1.0},
    ],
    ids=str,
)
def test_what_is_no_region_is_refused(held: Collection, arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        held.select(**arguments)
