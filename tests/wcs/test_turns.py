"""Images that reach beyond 180 degrees of native longitude: both ways between pixels and the sky.

Expected values are the formulae of Calabretta & Greisen 2002, A&A 395, 1077, section 5; and
astropy's, of the same header with the reference pixel a turn further, or where no pixel is beyond.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import NoOverlapError
from dask_fits.cli import program
from dask_fits.wcs.geometry import from_sky, to_pixels, to_sky
from dask_fits.wcs.turns import Extent
from tests.support.corpus import COVERED, each, needs_corpus, placed
from tests.support.fits_files import same_bits

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

Keywords = dict[str, Any]
Array = npt.NDArray[np.float64]

PARAMETERS: dict[str, Keywords] = {
    "AZP": {"PV2_1": 2.0, "PV2_2": 30.0},
    "SZP": {"PV2_1": 2.0, "PV2_2": 30.0, "PV2_3": 60.0},
    "ZPN": {"PV2_1": 1.0, "PV2_3": -0.1},
    "AIR": {"PV2_1": 45.0},
    "CYP": {"PV2_1": 1.0, "PV2_2": 0.8},
    "COP": {"PV2_1": 45.0},
    "COE": {"PV2_1": 45.0},
    "COD": {"PV2_1": 45.0},
    "COO": {"PV2_1": 45.0, "PV2_2": 10.0},
    "BON": {"PV2_1": 45.0},
}
ALL = [
    "AZP",
    "SZP",
    "TAN",
    "STG",
    "SIN",
    "ARC",
    "ZPN",
    "ZEA",
    "AIR",
    "CYP",
    "CEA",
    "CAR",
    "MER",
    "COP",
    "COE",
    "COD",
    "COO",
    "SFL",
    "PAR",
    "MOL",
    "AIT",
    "BON",
    "PCO",
    "TSC",
    "CSC",
    "QSC",
    "HPX",
    "XPH",
]
CYLINDERS = ("CAR", "CEA", "MER", "CYP")
ROTATED = {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}
OBLIQUE = {"CRVAL2": 35.0, "LONPOLE": 20.0}
OFFSET = {"PV1_0": 1, "PV1_1": 12.0, "PV1_2": 20.0, "LONPOLE": 33.0}


def keywords(projection: str, crpix: tuple[float, float], **more: Any) -> Keywords:
    """Of a map of pixels of two degrees whose longitude grows to the left."""
    return {
        "CTYPE1": f"GLON-{projection}",
        "CTYPE2": f"GLAT-{projection}",
        "CRVAL1": 123.0,
        "CRVAL2": 0.0,
        "CDELT1": -2.0,
        "CDELT2": 2.0,
        "CRPIX1": crpix[0],
        "CRPIX2": crpix[1],
        **PARAMETERS.get(projection, {}),
        **more,
    }


def swapped(cards: Keywords) -> Keywords:
    """The same with the latitude first."""
    other = str.maketrans("12", "21")
    found = {}
    for key, value in cards.items():
        stem = key[:2]
        both = stem in ("PC", "CD")
        name = (
            key.translate(other)
            if both or stem != "PV"
            else key[:2] + key[2].translate(other) + key[3:]
        )
        found[name] = value
    return found


def file_of(root: Path, cards: Keywords, shape: tuple[int, ...], name: str = "map.fits") -> str:
    """A file whose pixels are their own numbers."""
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(root / name)
    return str(root / name)


def all_pixels(height: int, width: int) -> list[Array]:
    y, x = np.mgrid[:height, :width].astype(float)
    return [x.ravel(), y.ravel()]


def sky_of(cards: Keywords, height: int, width: int) -> tuple[Array, Array]:
    """Longitude and latitude of all pixels by us."""
    return to_sky(WCS(fits.Header(cards)), all_pixels(height, width), Extent.of(height, width))


def astropy_sky(cards: Keywords, height: int, width: int) -> tuple[Array, Array]:
    wcs = WCS(fits.Header(cards))
    world = wcs.wcs_pix2world(np.stack(all_pixels(height, width), axis=-1), 0).T
    return world[wcs.wcs.lng], world[wcs.wcs.lat]


def degrees_apart(one: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
    with np.errstate(invalid="ignore"):
        a, b = (SkyCoord(*np.nan_to_num(sky), unit="deg") for sky in (one, other))
    return np.asarray(a.separation(b).deg)


def assert_there_and_back(cards: Keywords, height: int, width: int, share: float = 1.0) -> None:
    """That positions of pixels are found at these pixels; of at least a share of those with one."""
    wcs, image = WCS(fits.Header(cards)), Extent.of(height, width)
    x, y = all_pixels(height, width)
    lon, lat = to_sky(wcs, [x, y], image)
    on = np.isfinite(lon)
    found = np.stack(from_sky(wcs, lon[on], lat[on], image))
    right = (np.abs(found - np.stack([x, y])[:, on]) < 1e-2).all(axis=0)
    assert right.mean() >= share


# By the formulae


def car(phi: Array, theta: Array) -> tuple[Array, Array]:
    return phi, theta


def cea(phi: Array, theta: Array) -> tuple[Array, Array]:
    return phi, np.rad2deg(np.sin(theta))


def mer(phi: Array, theta: Array) -> tuple[Array, Array]:
    return phi, np.rad2deg(np.log(np.tan((np.pi / 2 + theta) / 2)))


def cyp(phi: Array, theta: Array) -> tuple[Array, Array]:
    return 0.8 * phi, np.rad2deg((1 + 0.8) / (1 + np.cos(theta)) * np.sin(theta))


def sfl(phi: Array, theta: Array) -> tuple[Array, Array]:
    return phi * np.cos(theta), np.rad2deg(theta)


def par(phi: Array, theta: Array) -> tuple[Array, Array]:
    return phi * (2 * np.cos(2 * theta / 3) - 1), 180 * np.sin(theta / 3)


def mol(phi: Array, theta: Array) -> tuple[Array, Array]:
    gamma = theta.copy()
    for _ in range(200):  # 2 gamma + sin 2 gamma = pi sin theta
        gamma -= (2 * gamma + np.sin(2 * gamma) - np.pi * np.sin(theta)) / (
            2 + 2 * np.cos(2 * gamma)
        )
    return 2 * np.sqrt(2) / np.pi * phi * np.cos(gamma), np.rad2deg(np.sqrt(2) * np.sin(gamma))


FORMULAE: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "CAR": car,
    "CEA": cea,
    "MER": mer,
    "CYP": cyp,
    "SFL": sfl,
    "PAR": par,
    "MOL": mol,
}


def by_formula(projection: str, phi: Array, lat: Array, cards: Keywords) -> tuple[Array, Array]:
    """Pixels from 0 of native longitudes and latitudes in degrees; CYP takes the latter too."""
    theta = np.deg2rad(lat)
    x, y = FORMULAE[projection](phi, theta if projection != "CAR" else lat)
    return x / cards["CDELT1"] + cards["CRPIX1"] - 1, y / cards["CDELT2"] + cards["CRPIX2"] - 1


PLACES = {
    "reference at the left edge": (1.0, 0, -355),
    "reference at the right edge": (180.0, 0, 355),
    "reference far off": (-70.0, -160, -390),
    "reference a quarter in": (45.5, 85, -265),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("projection", FORMULAE)
def test_the_formulae(projection: str, place: str, tmp_path: Path) -> None:
    crpix, first, last = PLACES[place]
    cards = keywords(projection, (crpix, 30.5))
    phi, lat = np.meshgrid(np.linspace(first, last, 24), np.linspace(-50, 50, 5))
    phi, lat = phi.ravel(), lat.ravel()
    x, y = by_formula(projection, phi, lat, cards)
    shape = (60, 180)
    on = (x > 0) & (x < shape[1] - 1) & (y > 0) & (y < shape[0] - 1)
    for turn in (-360.0, 360.0):  # the pixel nearest to the reference is the position's
        other, _ = by_formula(projection, phi + turn, lat, cards)
        on &= ~((np.abs(phi + turn) < np.abs(phi)) & (other >= -0.5) & (other < 179.5))
    assert on.sum() > 40
    x, y, phi, lat = x[on], y[on], phi[on], lat[on]
    sky = SkyCoord((123 + phi) % 360, lat, unit="deg", frame="galactic")
    wcs, image = WCS(fits.Header(cards)), Extent.of(*shape)
    assert np.allclose(to_pixels(wcs, sky, image), (x, y), rtol=0, atol=1e-7)
    found = to_sky(wcs, [x, y], image)
    assert degrees_apart(found, (sky.l.deg, sky.b.deg)).max() < 1e-9
    path = file_of(tmp_path, cards, shape)
    cut = dask_fits.cutouts(path, sky, 1)
    assert set(cut.status) == {"ok"}
    expected = np.rint(y) * shape[1] + np.rint(x)
    halves = (np.abs(x % 1 - 0.5) < 1e-6) | (np.abs(y % 1 - 0.5) < 1e-6)
    assert (cut.data.compute()[:, 0, 0] == expected)[~halves].all()
    one = dask_fits.open(path)[0].cutout(sky[7], 1)
    assert one.slices == (slice(round(y[7]), round(y[7]) + 1), slice(round(x[7]), round(x[7]) + 1))


# By astropy, with the reference pixel a turn further


def turned(projection: str, cards: Keywords, turns: int) -> Keywords:
    """The same map, as astropy sees the pixels that are so many turns beyond."""
    scale = np.diag([cards["CDELT1"], cards["CDELT2"]])
    pc = np.array([[cards.get(f"PC{i}_{j}", float(i == j)) for j in (1, 2)] for i in (1, 2)])
    width = 360 * (0.8 if projection == "CYP" else 1)
    by = np.linalg.solve(scale @ pc, [width * turns, 0])
    return cards | {"CRPIX1": cards["CRPIX1"] + by[0], "CRPIX2": cards["CRPIX2"] + by[1]}


KINDS: dict[str, Keywords] = {
    "plain": {},
    "rotated": ROTATED,
    "oblique": OBLIQUE,
    "offset": OFFSET,
    "rotated and oblique": ROTATED | OBLIQUE,
}


@pytest.mark.untraced
@pytest.mark.parametrize("first", ["longitude", "latitude"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("projection", CYLINDERS)
@pytest.mark.parametrize("turns", [-1, 1, 3])
def test_cylinders_go_on(projection: str, kind: str, first: str, turns: int) -> None:
    near = keywords(projection, (20.5, 15.5), **KINDS[kind])
    far = turned(projection, near, turns)
    if first == "latitude":
        near, far = swapped(near), swapped(far)
    height, width = (40, 30) if first == "latitude" else (30, 40)
    expected, found = astropy_sky(near, height, width), sky_of(far, height, width)
    assert np.isnan(astropy_sky(far, height, width)).all(), "beyond, for astropy"
    assert np.isfinite(expected[0]).mean() > 0.7
    assert np.array_equal(np.isnan(found[0]), np.isnan(expected[0]))
    assert degrees_apart(found, expected).max() < 1e-9
    assert_there_and_back(far, height, width)


@pytest.mark.parametrize("kind", ["plain", "oblique", "rotated"])
@pytest.mark.parametrize("projection", ["TSC", "CSC", "QSC"])
def test_faces_of_a_cube_on_the_other_side(projection: str, kind: str) -> None:
    # The faces around the equator at -270 to 45 degrees in the plane, not at -45 to 315.
    cards = keywords(projection, (140.3, 25.3), **KINDS[kind])
    if kind == "rotated":
        cards |= {"CRPIX1": 70.3, "CRPIX2": 90.3}
    height, width = 50, 165
    assert np.isfinite(sky_of(cards, height, width)[0]).mean() > 0.2
    same = [
        same_bits(*pair)
        for pair in zip(
            sky_of(cards, height, width), astropy_sky(cards, height, width), strict=True
        )
    ]
    assert same == [True, True], "astropy has their positions already"
    assert_there_and_back(cards, height, width)


@pytest.mark.parametrize("projection", ["TSC", "CSC", "QSC"])
def test_faces_are_where_the_projection_has_them(projection: str) -> None:
    # Left of -315 degrees in the plane there is none, nor are poles a turn away from the front.
    for cards in (keywords(projection, (-157.5, 20.5)), keywords(projection, (-157.5, -22.5))):
        wcs, image = WCS(fits.Header(cards)), Extent.of(40, 40)
        lon, lat = (v.ravel() for v in np.meshgrid(np.arange(0, 360, 3.7), np.arange(-88, 90, 5.3)))
        found = np.stack(from_sky(wcs, lon, lat, image))
        assert np.isnan(sky_of(cards, 40, 40)[0]).all()
        assert not image.holds(found).any()


def test_healpix_goes_on() -> None:
    cards = keywords("HPX", (1.3, 45.3))
    height, width = 90, 180
    near = turned("HPX", cards, -1)
    beyond = np.isnan(astropy_sky(cards, height, width)[0])
    found, expected = sky_of(cards, height, width), astropy_sky(near, height, width)
    assert np.array_equal(np.isnan(found[0][beyond]), np.isnan(expected[0][beyond]))
    assert degrees_apart(found, expected)[beyond].max() < 1e-9
    assert_there_and_back(cards, height, width)


# Nothing changes elsewhere


FRAMES = {
    "centred": (180, 90, 90.5, 45.5),
    "padded": (220, 130, 110.5, 65.5),
    "half": (91, 90, 0.5, 45.5),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("projection", ALL)
def test_pixels_that_are_not_of_a_projection_have_no_sky(projection: str, frame: str) -> None:
    width, height, x, y = FRAMES[frame]
    cards = keywords(projection, (x, y))
    found, expected = sky_of(cards, height, width), astropy_sky(cards, height, width)
    with_sky = np.isfinite(expected[0])
    for ours, theirs in zip(found, expected, strict=True):
        assert same_bits(ours[with_sky], theirs[with_sky])
    if projection not in CYLINDERS:
        assert np.isnan(found[0][~with_sky]).all()


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("projection", ALL)
def test_positions_on_an_image_are_where_astropy_has_them(projection: str, frame: str) -> None:
    width, height, x, y = FRAMES[frame]
    cards = keywords(projection, (x, y))
    wcs, image = WCS(fits.Header(cards)), Extent.of(height, width)
    lon, lat = (
        values.ravel() for values in np.meshgrid(np.arange(0, 360, 7.1), np.arange(-88, 90, 8.3))
    )
    world = np.stack([lon, lat], axis=-1)
    expected = wcs.wcs_world2pix(world, 0).T
    found = np.stack(from_sky(wcs, lon, lat, image))
    there = image.holds(expected)
    assert same_bits(found[:, there], expected[:, there])
    elsewhere = ~there & image.holds(found)
    if projection not in ("TSC", "CSC", "QSC", "CYP"):  # CYP has 182 degrees on 146 of the plane
        assert not elsewhere.any()
    assert same_bits(found[:, np.isnan(expected[0])], expected[:, np.isnan(expected[0])])


@pytest.mark.parametrize("projection", ["AIT", "SFL", "MOL", "SIN", "COE"])
def test_what_is_off_stays_off(projection: str, tmp_path: Path) -> None:
    # The right half of a whole sky; positions of the left half would be in its blank corners.
    cards = keywords(projection, (0.5, 45.5))
    path = file_of(tmp_path, cards, (90, 91))
    left = SkyCoord(
        123 + np.array([10.0, 100, 170, 100]), [0.0, 50, 5, -60], unit="deg", frame="galactic"
    )
    found = dask_fits.cutouts(path, left, 1)
    assert set(found.status) == {"off"}
    for position in left:
        with pytest.raises(NoOverlapError):
            dask_fits.open(path)[0].cutout(position, 1)


@needs_corpus
@each([entry for entry in COVERED if entry.get("hdus")][::3])
def test_the_images_of_a_real_file(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, _), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for hdu in dask_fits.open(url):
            try:
                wcs = hdu.wcs.celestial if hdu.shape and len(hdu.shape) > 1 else WCS(naxis=2)
            except Exception:  # noqa: BLE001 (astropy raises whatever it stumbles on)
                continue
            if not wcs.has_celestial or hdu.shape is None or 0 in hdu.shape:
                continue
            height, width = hdu.shape[-2:]
            image = Extent.of(height, width)
            x, y = (
                v.ravel()
                for v in np.meshgrid(np.linspace(0, width - 1, 5), np.linspace(0, height - 1, 5))
            )
            world = wcs.pixel_to_world_values(x, y)
            found = to_sky(wcs, [x, y], image)
            expected = np.stack([world[wcs.wcs.lng], world[wcs.wcs.lat]])
            there = np.isfinite(expected).all(axis=0)
            assert same_bits(np.stack(found)[:, there], expected[:, there])
            lon, lat = expected[:, there]
            plain, ours = (np.stack(from_sky(wcs, lon, lat, *some)) for some in ((), (image,)))
            on = image.holds(plain)
            assert same_bits(ours[:, on], plain[:, on])


# Maps of more than a turn, edges, and what is left of a map


LONG = keywords("CAR", (1.0, 11.0))
"""As wide as 720 degrees where it has 360 columns."""


def at(phi: float, lat: float = 0.0) -> SkyCoord:
    return SkyCoord(123 + phi, lat, unit="deg", frame="galactic")


def test_of_several_pixels_the_one_nearest_to_the_reference_counts(tmp_path: Path) -> None:
    hdu = dask_fits.open(file_of(tmp_path, LONG, (21, 360)))[0]
    assert hdu.cutout(at(-20), 1).slices[1] == slice(10, 11)
    assert hdu.cutout(at(-200), 1).slices[1] == slice(100, 101)
    assert hdu.cutout(at(-359), 1).slices[1] == slice(179, 180)
    far = file_of(tmp_path, LONG | {"CRPIX1": -500.0}, (21, 360), "far.fits")
    # From 1002 to 1720 degrees.
    for phi in (1010.0, 1200, 1360):
        pixel = round(phi / 2 - 501)
        assert dask_fits.open(far)[0].cutout(at(-phi), 1).slices[1] == slice(pixel, pixel + 1)
        assert dask_fits.open(far)[0].cutout(at(-phi - 360 * 5), 1).slices[1].start == pixel
    sky = sky_of(LONG, 21, 360)
    assert (
        degrees_apart(
            sky, (np.tile(123 - 2 * np.arange(360.0), 21), np.repeat(np.arange(-20.0, 21, 2), 360))
        ).max()
        < 1e-9
    )


def test_the_edge_of_a_turn_belongs_to_one_pixel(tmp_path: Path) -> None:
    for crpix in (90.5, 0.5, 180.5, -33.5):
        path = file_of(tmp_path, keywords("CAR", (crpix, 11.0)), (21, 180), f"{crpix}.fits")
        edge = at((crpix - 0.5) * 2)
        found = dask_fits.cutouts(path, edge, 1)
        assert found.status.tolist() == ["ok"]
        assert dask_fits.open(path)[0].cutout(edge, 1).slices[1].start in (0, 179)


def test_boxes_over_the_edge_beyond(tmp_path: Path) -> None:
    # Longitudes of 190 to 290 degrees from the reference, which astropy has at -170 to -70.
    cards = keywords("CAR", (-95.0 + 1, 11.0), CDELT1=2.0)
    path = file_of(tmp_path, cards, (21, 50))
    inside, left, right, off = at(200), at(188), at(291), at(300)
    found = dask_fits.cutouts(path, SkyCoord([inside, left, right, off]), 4)
    assert found.status.tolist() == ["ok", "partial", "partial", "off"]
    pixels = found.data.compute()
    assert np.array_equal(np.isnan(pixels[1]), np.isnan(pixels[1]) | False)
    assert np.isnan(pixels[1][:, :3]).all()
    assert (pixels[1][:, 3] % 50 == 0).all()
    assert (pixels[2][:, :2] % 50 == [48, 49]).all() or (pixels[2][:, 0] % 50 == 49).all()
    with pytest.raises(NoOverlapError):
        dask_fits.open(path)[0].cutout(off, 4)


@pytest.fixture
def co(tmp_path: Path) -> xr.Dataset:
    """All of the plane of the Galaxy, from l = 180 at the left by 0 to -180."""
    cards = keywords("CAR", (1.0, 11.0)) | {"CRVAL1": 180.0}
    path = file_of(tmp_path, cards, (21, 180))
    return xr.open_dataset(path, engine="fits", chunks={}, world_coords=True)


def test_coordinates_in_xarray(co: xr.Dataset) -> None:
    lon = (180 - 2 * np.arange(180.0)) % 360
    assert np.allclose(co.glon, np.broadcast_to(lon, (21, 180)), rtol=0, atol=1e-9)
    assert np.allclose(co.glat, np.arange(-20.0, 21, 2)[:, None] + np.zeros(180), rtol=0, atol=1e-9)
    some = co.isel(x=slice(100, None, 7), y=[3, 9])
    assert same_bits(some.glon, co.glon.values[[3, 9], 100::7])


@pytest.mark.parametrize("lon", [150.0, 30.0, 330.0, 200.0, -30.0, 690.0])
def test_selection_by_position_in_xarray(co: xr.Dataset, lon: float) -> None:
    x = round((180 - lon) % 360 / 2)
    position = SkyCoord(lon, 4, unit="deg", frame="galactic")
    found = co.sel(glon=lon, glat=4, method="nearest")
    assert (int(found.x), int(found.y)) == (x, 12)
    assert float(found.PRIMARY) == 12 * 180 + x
    for some in (co, co.isel(x=slice(None, None, -1)), co.isel(x=slice(5, 175)), co.transpose()):
        assert float(some.fits.sel_sky(position).PRIMARY) == 12 * 180 + x
        assert float(some.sel(glon=lon, glat=4, method="nearest").PRIMARY) == 12 * 180 + x
        box = some.fits.cutout(position, 3)
        assert sorted(box.x.values) == [x - 1, x, x + 1]
    thin = co.isel(x=slice(x % 4, None, 4))
    assert int(thin.fits.sel_sky(position).x) == x
    assert int(thin.sel(glon=lon, glat=4, method="nearest").x) == x
    without = co.isel(x=[n for n in range(180) if abs(n - x) > 2])
    with pytest.raises(KeyError):
        without.sel(glon=lon, glat=4, method="nearest")


def test_what_is_left_of_a_map_of_two_turns(tmp_path: Path) -> None:
    ds = xr.open_dataset(file_of(tmp_path, LONG, (21, 360)), engine="fits", world_coords=True)
    half = ds.isel(x=slice(180, None))
    label = {"glon": 123 - 40.0, "glat": 0.0}
    assert int(ds.sel(label, method="nearest").x) == int(ds.fits.sel_sky(at(-40)).x) == 20
    assert int(half.sel(label, method="nearest").x) == int(half.fits.sel_sky(at(-40)).x) == 200


def test_parts_of_a_map_that_does_not_repeat_itself(tmp_path: Path) -> None:
    ds = xr.open_dataset(
        file_of(tmp_path, keywords("SFL", (1.0, 46.0)), (91, 180)), engine="fits", world_coords=True
    )
    part = ds.isel(x=slice(60, 100), y=slice(70, 80))
    lon = ds.glon.values[70:80, 60:100]
    assert same_bits(part.glon, lon)
    # -200 to -360 degrees from the reference at a latitude of 50 to 68.
    known = np.argwhere(np.isfinite(lon))
    assert 0 < len(known) < lon.size
    for y, x in known[::37]:
        position = SkyCoord(lon[y, x], part.glat.values[y, x], unit="deg", frame="galactic")
        found = part.fits.sel_sky(position)
        assert (int(found.x), int(found.y)) == (60 + x, 70 + y)
        there = part.fits.cutout(position, 1)
        assert (there.x.values, there.y.values) == ([60 + x], [70 + y])
    # At 380 degrees a position is a blank corner of what is left, and at 20 it is gone.
    assert np.isnan(ds.glon.values[75, 92:98]).all()
    gone = at(-20, float(ds.glat[75, 5]))
    assert int(ds.fits.sel_sky(gone).x) == 5
    corner = ds.isel(x=slice(60, 180))
    with pytest.raises(KeyError):
        corner.fits.sel_sky(gone)
    with pytest.raises(KeyError):
        corner.sel(glon=gone.l.deg, glat=gone.b.deg, method="nearest")
    with pytest.raises(NoOverlapError):
        corner.fits.cutout(gone, 1)


def test_a_cube_that_reaches_beyond(tmp_path: Path) -> None:
    cards = keywords("CAR", (1.0, 11.0)) | {
        "CTYPE3": "FREQ",
        "CRVAL3": 1.4e9,
        "CDELT3": 1e6,
        "CRPIX3": 1.0,
        "CUNIT3": "Hz",
    }
    path = file_of(tmp_path, cards, (3, 21, 180))
    ds = xr.open_dataset(path, engine="fits", world_coords=True)
    assert np.isfinite(ds.glon).all()
    assert ds.freq.values.tolist() == [1.4e9, 1.401e9, 1.402e9]
    assert int(ds.fits.sel_sky(at(-300)).x) == 150
    assert dask_fits.open(path)[0].cutout(at(-300), 1).slices[2] == slice(150, 151)
    assert (
        dask_fits.cutouts(path, SkyCoord([at(-300)]), 1).data.compute()[0, 1].item()
        == 21 * 180 + 1950
    )


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = keywords("CAR", (1.0, 11.0), CTYPE1="RA---CAR", CTYPE2="DEC--CAR")
    path, out = file_of(tmp_path, cards, (21, 180)), tmp_path / "cut.fits"
    options = ["--ra", str((123 - 300) % 360), "--dec", "0", "--size", "3", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", ["dask-fits", "cutout", path, *options])
    assert program._run() == 0
    assert (fits.getdata(out)[1] == 10 * 180 + np.array([149, 150, 151])).all()
    # Of what was cut out the same position is at the same pixel.
    again = dask_fits.open(str(out))[0].cutout(SkyCoord(123 - 300, 0, unit="deg"), 1)
    assert again.slices == (slice(1, 2), slice(1, 2))


def test_a_distortion_leaves_it_to_astropy() -> None:
    cards = keywords("CAR", (1.0, 11.0)) | {"CTYPE1": "GLON-CAR-SIP", "CTYPE2": "GLAT-CAR-SIP"}
    cards |= {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_0_2": 1e-5}
    wcs, image = WCS(fits.Header(cards)), Extent.of(21, 180)
    assert np.isnan(to_sky(wcs, [np.array([150.0]), np.array([10.0])], image)).all()


# Longitudes of the Sun


@pytest.mark.parametrize(
    ("ctypes", "signed"),
    [(("HPLN", "HPLT"), True), (("HGLN", "HGLT"), True), (("CRLN", "CRLT"), False)],
)
def test_longitudes_of_the_sun(ctypes: tuple[str, str], signed: bool, tmp_path: Path) -> None:
    cards = {
        "CTYPE1": f"{ctypes[0]}-TAN",
        "CTYPE2": f"{ctypes[1]}-TAN",
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "CRPIX1": 5.0,
        "CRPIX2": 4.0,
        "CRVAL1": 0.0,
        "CRVAL2": 0.0,
        "CDELT1": 2.5,
        "CDELT2": 2.5,
    }
    path = file_of(tmp_path, cards, (8, 10))
    ds = xr.open_dataset(path, engine="fits", world_coords=True)
    lon = astropy_sky(cards, 8, 10)[0]
    name, other = ctypes[0].lower(), ctypes[1].lower()
    expected = np.where(lon >= 180, lon - 360, lon) if signed else lon
    assert same_bits(ds[name], expected.reshape(8, 10))
    assert (float(ds[name].min()) < 0) == signed
    # Both signs are the same place, of what is left too.
    for some, turn in itertools.product((ds, ds.isel(x=slice(0, 4))), (0, 360)):
        label = {name: -5 / 3600 + turn, other: 2.5 / 3600}
        found = some.sel(label, method="nearest")
        assert (int(found.x), int(found.y)) == (2, 4)
    assert same_bits(ds.isel(x=slice(None, None, 2))[name], expected.reshape(8, 10)[:, ::2])
    assert same_bits(ds.rename({name: "tx"}).tx, expected.reshape(8, 10))
