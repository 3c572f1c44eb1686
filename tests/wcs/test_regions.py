"""Regions of the sky, and which images have a point of them.

What images have of cones is checked by brute force, with astropy alone: `Footprint` finds how far
an image is from a position; radii just below and just above decide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK5, Angle, SkyCoord
from astropy.utils import iers
from astropy.wcs import WCS, NoConvergence

from dask_fits.exceptions import FitsFormatError
from dask_fits.wcs import overlap
from dask_fits.wcs.overlap import overlaps
from dask_fits.wcs.region_text import as_region
from dask_fits.wcs.regions import Cone, Polygon
from tests.support import worlds
from tests.support.footprint_oracle import Footprint, along_edges, within

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

Shape = tuple[int, int]
Image = tuple[WCS, Shape]


def image(
    code: str,
    crval: tuple[float, float],
    scale: float,
    shape: Shape,
    *,
    crpix: tuple[float, float] | None = None,
    axes: tuple[str, str] = ("RA", "DEC"),
    turned: float = 0.0,
    pv: tuple[tuple[int, int, float], ...] = (),
) -> Image:
    """An image with its reference point in the middle, unless `crpix` tells otherwise."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"{axis:-<4}-{code}" for axis in axes]
    wcs.wcs.crval = crval
    wcs.wcs.cdelt = -scale, scale
    cos, sin = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    wcs.wcs.pc = [[cos, -sin], [sin, cos]]
    wcs.wcs.crpix = crpix or (shape[1] / 2 + 0.5, shape[0] / 2 + 0.5)
    wcs.wcs.set_pv(list(pv))
    wcs.wcs.set()
    return wcs, shape


def of_world(name: str) -> Image:
    hdus = worlds.IMAGES[name]()
    wcs = worlds.oracle(worlds.written(*hdus))
    science = next(hdu for hdu in hdus if hdu.name == "SCI")
    shape = science.shape
    if wcs.naxis == 2:
        return wcs, shape
    low, high = sorted((wcs.wcs.lng, wcs.wcs.lat))
    return wcs, (shape[len(shape) - 1 - high], shape[len(shape) - 1 - low])


IMAGES: dict[str, Callable[[], Image]] = {
    "TAN": lambda: image("TAN", (150.0, 2.0), 1e-3, (800, 600), turned=30),
    "TAN of fine pixels": lambda: image("TAN", (150.0, -62.0), 1e-7, (64, 50)),
    "TAN at the north pole": lambda: image("TAN", (40.0, 90.0), 0.01, (300, 200), turned=10),
    "TAN beside the south pole": lambda: image("TAN", (40.0, -88.9), 0.01, (200, 200)),
    "TAN across RA 0": lambda: image("TAN", (0.001, 35.0), 1e-3, (300, 400)),
    "TAN of 140 degrees": lambda: image("TAN", (10.0, 50.0), 0.5, (600, 630)),
    "TAN of one pixel": lambda: image("TAN", (10.0, 50.0), 0.3, (1, 1), turned=20),
    "TAN, a strip": lambda: image("TAN", (10.0, 80.0), 0.01, (1, 2500), turned=45),
    "SIN": lambda: image("SIN", (83.0, -5.0), 1e-3, (300, 300), turned=70),
    "SIN, slant": lambda: image(
        "SIN", (83.0, -5.0), 0.1, (300, 300), pv=((2, 1, 0.3), (2, 2, -0.2))
    ),
    "SIN, a hemisphere": lambda: image("SIN", (83.0, 25.0), 0.2, (700, 700)),
    "SIN, part of a hemisphere": lambda: image(
        "SIN", (83.0, 25.0), 0.2, (300, 400), crpix=(40.0, -30.0)
    ),
    "ARC of a hemisphere": lambda: image("ARC", (200.0, -40.0), 0.5, (155, 255)),
    "ARC, part of the sky": lambda: image("ARC", (200.0, -40.0), 0.5, (300, 250), crpix=(-60, 90)),
    "STG of 200 degrees": lambda: image("STG", (200.0, -40.0), 1.0, (100, 230)),
    "ZEA, part of the sky": lambda: image("ZEA", (200.0, 80.0), 0.5, (100, 220), crpix=(190, 20)),
    "ZEA, all of the sky": lambda: image("ZEA", (200.0, 80.0), 0.5, (240, 240)),
    "CAR": lambda: image("CAR", (10.0, 0.0), 0.05, (200, 300), crpix=(100, -900)),
    "CAR to the pole": lambda: image("CAR", (10.0, 0.0), 0.25, (160, 300), crpix=(150.5, -199.5)),
    "CAR, all of the sky": lambda: image("CAR", (10.0, 0.0), 0.5, (360, 720)),
    "CAR, oblique": lambda: image("CAR", (10.0, 40.0), 0.2, (200, 300)),
    "AIT, all of the sky": lambda: image("AIT", (0.0, 0.0), 0.5, (360, 720), axes=("GLON", "GLAT")),
    "AIT, to the limb": lambda: image("AIT", (0.0, 0.0), 0.5, (200, 300), crpix=(400.0, 50.0)),
    "MOL, half of the sky": lambda: image("MOL", (30.0, 0.0), 0.5, (360, 330), crpix=(330.0, 180)),
    "SFL": lambda: image("SFL", (30.0, 0.0), 0.5, (300, 200), crpix=(200.0, 100.0)),
    "HPX, north": lambda: image("HPX", (30.0, 0.0), 0.5, (160, 730), crpix=(365.0, 0.0)),
    "galactic TAN": lambda: image("TAN", (359.9, 0.1), 2e-3, (200, 200), axes=("GLON", "GLAT")),
    "ecliptic TAN": lambda: image("TAN", (100.0, 5.0), 2e-3, (200, 200), axes=("ELON", "ELAT")),
} | {
    f"world: {name}": lambda name=name: of_world(name)
    for name in (
        "SIP",
        "swapped axes, SIP",
        "TPV",
        "FK5",
        "lookup",
        "all that HST has",
        "spectral cube",
        "cube, swapped axes around the spectrum",
    )
}

LIMB = ("hemisphere", "SIN, slant")
"""Next to the limb of a SIN the sky is steep: there pixels are no better than this."""


def tolerance(name: str) -> float:
    return 1e-6 if any(part in name for part in LIMB) else 1e-10


def centres(footprint: Footprint, rng: np.random.Generator, count: int) -> list[SkyCoord]:
    """Positions on an image, around it, and anywhere."""
    found: list[SkyCoord] = []
    seen = footprint.pixels[np.isfinite(footprint.sky[0])]
    middle = footprint.skycoord(seen[len(seen) // 2][None])[0]
    diameter = float(np.nanmax(middle.separation(footprint.skycoord(seen)).deg))
    for n in range(count):
        if n % 4 == 3:
            lon, lat = rng.uniform(0, 360), np.rad2deg(np.arcsin(rng.uniform(-1, 1)))
            found.append(SkyCoord(lon, lat, unit="deg"))
            continue
        start = footprint.skycoord(seen[rng.integers(len(seen))][None])[0].icrs
        away = 10.0 ** rng.uniform(-3, 0.2) * min(diameter, 90)
        found.append(start.directional_offset_by(rng.uniform(0, 360) * u.deg, away * u.deg))
    return found


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_cones(name: str) -> None:
    """Radii just below and above the distance of an image, and far from it."""
    wcs, shape = IMAGES[name]()
    footprint = Footprint(wcs, shape)
    rng = np.random.default_rng(sum(name.encode()))
    small = tolerance(name)
    outside = 0
    for centre in centres(footprint, rng, 8):
        distance = footprint.separation(centre)
        told = f"{centre.to_string()} at {distance!r}"
        radii = [distance + small, distance * 1.001 + small, distance * 1.5 + small, 3.0]
        for radius in radii:
            region = as_region(centre, min(radius, np.pi) * u.rad)
            assert overlaps(region, wcs, shape), f"{told}: {radius!r}"
        if distance < 2 * small:
            continue
        outside += 1
        for radius in (distance - small, distance * 0.999 - small, distance * 0.5, 1e-8, 0.0):
            if 0 <= radius < distance:
                region = as_region(centre, radius * u.rad)
                assert not overlaps(region, wcs, shape), f"{told}: {radius!r}"
    assert outside or "all of the sky" in name


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_positions_of_pixels(name: str) -> None:
    """Cones of radius 0, and of a millionth of a degree, at pixels inside, on edges and at corners."""
    wcs, shape = IMAGES[name]()
    footprint = Footprint(wcs, shape)
    rng = np.random.default_rng(5)
    part = rng.uniform(0, 1, (12, 2))
    part[:4] = rng.integers(0, 2, (4, 2))  # corners
    part[4:8, 0] = rng.integers(0, 2, 4)  # edges
    pixels = footprint.low + part * (footprint.high - footprint.low)
    positions = footprint.skycoord(pixels)
    positions = positions[np.isfinite(positions.spherical.lon)]
    for position in positions:
        for radius in (0, 1e-6):
            assert overlaps(as_region(position, radius), wcs, shape), position


POLYGONS = {
    "small": [(149.95, 2.0), (150.1, 1.9), (150.0, 2.2)],
    "concave": [(149, 1), (151, 1), (151, 3), (150, 1.2), (149, 3)],
    "around the pole": [(0, 85), (70, 80), (140, 86), (210, 83), (290, 81)],
    "around the south pole": [(0, -85), (120, -87), (240, -84)],
    "over RA 0": [(359.8, 34.9), (0.1, 35.0), (0.2, 35.3), (359.95, 35.1)],
    "large": [(0, 10), (90, 15), (180, 12), (270, 20)],
    "thin": [(120, 2.0001), (175, 1.9999), (175, 2.0003)],
}
POLYGON_IMAGES = [
    *("TAN", "TAN at the north pole", "TAN beside the south pole", "TAN across RA 0"),
    *(
        "TAN of 140 degrees",
        "TAN of one pixel",
        "CAR to the pole",
        "AIT, to the limb",
        "galactic TAN",
    ),
    *("ZEA, part of the sky", "SIN, a hemisphere", "STG of 200 degrees"),
]


def polygon_on_image(vertices: SkyCoord, footprint: Footprint, some: SkyCoord) -> bool | None:
    """Whether a polygon has a point on an image, by brute force; None if that is not certain.

    `some` are positions on the image.
    """
    if within(some, vertices).any():
        return True
    points = along_edges(vertices, 3000).transform_to(footprint.frame)
    x, y = footprint.wcs.all_world2pix(points.spherical.lon.deg, points.spherical.lat.deg, 0)
    pixels = np.stack([x, y], 1)
    beyond = np.maximum(footprint.low - pixels, pixels - footprint.high).max(axis=1)
    if (beyond < -1e-9).any():
        return True
    # Between two points an edge goes no farther than about from one to the other.
    way = np.linalg.norm(pixels - np.roll(pixels, 1, axis=0), axis=1)
    way = np.fmax(way, np.roll(way, -1))
    return None if (beyond < way).any() else False


@pytest.mark.untraced
def test_polygons() -> None:
    """Polygons of all kinds, turned about the images, both ways around."""
    left_out = []
    answers = []
    rng = np.random.default_rng(11)
    for image_name in POLYGON_IMAGES:
        wcs, shape = IMAGES[image_name]()
        footprint = Footprint(wcs, shape)
        somewhere = centres(footprint, rng, 8)
        some = footprint.skycoord(footprint.pixels[:: len(footprint.pixels) // 200])
        some = some[np.isfinite(some.spherical.lon)].icrs
        for name, corners in POLYGONS.items():
            polygons = [SkyCoord(corners, unit="deg")]
            # The same polygon, moved and turned.
            for target in somewhere[::3]:
                frame = polygons[0][0].skyoffset_frame(rotation=rng.uniform(0, 360) * u.deg)
                offsets = polygons[0].transform_to(frame)
                there = target.icrs.skyoffset_frame()
                moved = SkyCoord(offsets.spherical.lon, offsets.spherical.lat, frame=there)
                polygons.append(moved.icrs)
            for vertices in polygons:
                expected = polygon_on_image(vertices, footprint, some)
                answers.append(expected)
                if expected is None:
                    left_out.append((image_name, name))
                    continue
                for each in (vertices, vertices[::-1]):
                    told = f"{image_name}, {name}: {vertices.to_string()}"
                    assert overlaps(as_region(region=each), wcs, shape) == expected, told
    assert answers.count(True) > 80
    assert answers.count(False) > 50
    assert len(left_out) < 0.05 * len(answers), left_out


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("side", range(4))
def test_polygon_near_an_edge(side: int, gap: float) -> None:
    """A triangle with a vertex beside an edge of the image, and a bar along it."""
    wcs, shape = image("TAN", (359.99, -70.0), 1e-3, (300, 200), turned=25)
    turns = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), side)
    half = np.array([100.0, 150.0])
    reach = float(np.abs(turns @ [1, 0]) @ half)
    for shift, expected in ((gap, False), (-gap, True)):
        near = reach + shift
        # A projection on a plane: great circles are straight lines of pixels.
        for corners in (
            [(near, 17), (reach + 40, 30), (reach + 50, -20)],
            [(near, -400), (near, 400), (reach + 50, 300)],
        ):
            pixels = (np.array(corners) @ turns.T) + half - 0.5
            vertices = SkyCoord(wcs.all_pix2world(pixels, 0), unit="deg")
            assert overlaps(as_region(region=vertices), wcs, shape) == expected


def test_image_inside_a_polygon_and_polygon_inside_an_image() -> None:
    wcs, shape = image("TAN", (0.0, 89.99), 1e-4, (100, 100))
    assert overlaps(as_region(region="POLYGON 0 80 90 80 180 80 270 80"), wcs, shape)
    assert overlaps(as_region(region="POLYGON 0 89.99 90 89.9901 0 89.9902"), wcs, shape)
    assert not overlaps(as_region(region="POLYGON 0 -80 90 -80 180 -80 270 -80"), wcs, shape)


WHOLE_SKIES: dict[str, Callable[[], Image]] = {
    **{
        code: lambda code=code: image(code, (30.0, 0.0), 1.0, (181, 361)) for code in ("CAR", "SFL")
    },
    **{
        code: lambda code=code: image(code, (30.0, 0.0), 1.0, (170, 340)) for code in ("AIT", "MOL")
    },
    **{
        code: lambda code=code: image(code, (9.0, 40.0), 1.0, (370, 370)) for code in ("ARC", "ZEA")
    },
    "HPX": lambda: image("HPX", (30.0, 0.0), 1.0, (190, 370)),
    "MER": lambda: image("MER", (30.0, 0.0), 1.0, (460, 380)),
    "XPH": lambda: image("XPH", (30.0, 90.0), 1.0, (270, 270)),
    **{
        code: lambda code=code: image(code, (3.0, 0.0), 1.0, (280, 370), crpix=(50.0, 140.0))
        for code in ("TSC", "CSC", "QSC")
    },
}


@pytest.mark.parametrize("name", WHOLE_SKIES)
def test_all_of_the_sky(name: str) -> None:
    """A map of the whole sky has every position, whatever is blank around it."""
    wcs, shape = WHOLE_SKIES[name]()
    rng = np.random.default_rng(1)
    for lon, height in zip(rng.uniform(0, 360, 40), rng.uniform(-0.999, 0.999, 40), strict=True):
        assert overlaps(as_region((lon, np.rad2deg(np.arcsin(height)))), wcs, shape)


def test_blank_image() -> None:
    """An image beside the map has no point of the sky."""
    wcs, _ = image("AIT", (30.0, 0.0), 1.0, (170, 340))
    wcs.wcs.crpix = -400.0, -400.0
    wcs.wcs.set()
    assert not overlaps(as_region((30, 0), 170), wcs, (50, 60))


def test_fk4() -> None:
    """Positions in FK4 are no rotation away from those in ICRS."""
    wcs, shape = image("TAN", (10.0, 20.0), 1e-5, (200, 100))
    wcs.wcs.radesys = "FK4"
    wcs.wcs.equinox = 1950.0
    wcs.wcs.set()
    corner, beside = SkyCoord(
        wcs.all_pix2world([[99.499, -0.499], [99.501, 3]], 0), unit="deg", frame="fk4"
    )
    assert overlaps(as_region(corner), wcs, shape)
    assert not overlaps(as_region(beside), wcs, shape)
    assert not overlaps(as_region(SkyCoord(corner.ra, corner.dec)), wcs, shape)


def test_polygon_with_a_hole() -> None:
    """An outline that goes to a hole and back on the same way."""
    hole = as_region(region="POLYGON 0 0 10 0 10 10 0 10 0 0 3 3 3 6 6 6 6 3 3 3")
    wanted = {(1, 5): True, (4, 4): False, (8, 8): True, (12, 5): False, (1, 0.9): True}
    for position, expected in wanted.items():
        assert hole.contains(as_region(position).circle[0][None])[0] == expected
        assert overlaps(hole, *image("TAN", position, 1e-5, (20, 20))) == expected


def test_turned_map() -> None:
    """An image whose reference point is far off, so that astropy finds its positions elsewhere."""
    wcs, shape = image("CAR", (10.0, 0.0), 0.5, (120, 200), crpix=(-500.0, 60.0))
    same, _ = image("CAR", (10.0, 0.0), 0.5, (120, 200), crpix=(220.0, 60.0))
    footprint = Footprint(same, shape)
    for centre in centres(footprint, np.random.default_rng(3), 20):
        distance = footprint.separation(centre)
        assert overlaps(as_region(centre, (distance + 1e-10) * u.rad), wcs, shape)
        if distance > 1e-9:
            assert not overlaps(as_region(centre, (distance - 1e-10) * u.rad), wcs, shape)


def test_distortion_leads_nowhere_else() -> None:
    """Far from an image of a strong distortion its inverse leads back onto it."""
    wcs, shape = of_world("SIP")
    pixels = np.random.default_rng(0).uniform(-6000, 6000, (60, 2))
    pixels = pixels[np.abs(pixels - 50).max(axis=1) > 300]
    positions = wcs.wcs_pix2world(pixels, 0)
    footprint = Footprint(wcs, shape)
    for position in positions:
        if footprint.separation(SkyCoord(*position, unit="deg")) > 1e-9:
            assert not overlaps(as_region(position), wcs, shape)


def test_pixel_of_another_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pixel that the inverse of a WCS finds counts only if its position is the one asked for."""
    wcs, shape = IMAGES["TAN"]()
    beside = SkyCoord(*wcs.all_pix2world(shape[1], shape[0], 0), unit="deg")
    assert not overlaps(as_region(beside), wcs, shape)
    monkeypatch.setattr(overlap, "from_sky", lambda *args: (np.array([5.0]), np.array([5.0])))
    assert not overlaps(as_region(beside), wcs, shape)


def test_distortion_that_astropy_cannot_invert() -> None:
    """Pixels are looked for from near by; astropy's iteration starts at the undistorted pixel."""
    keywords = {**worlds.celestial("RA---TAN-SIP", "DEC--TAN-SIP"), "CRPIX1": 1.0, "CRPIX2": 1.0}
    sip = {"A_ORDER": 2, "A_2_0": 8e-3, "B_ORDER": 2, "B_0_2": 6e-3}
    wcs = worlds.oracle(worlds.written(worlds.image({**keywords, **sip})))
    shape = worlds.NY, worlds.NX
    pixels = np.array([[90.3, 70.1], [50.7, 77.2], [98.9, 3.3]])
    with pytest.raises(NoConvergence):
        wcs.all_world2pix(wcs.all_pix2world(pixels, 0), 0)
    for position in wcs.all_pix2world(pixels, 0):
        assert overlaps(as_region(position), wcs, shape)
    for position in wcs.all_pix2world([[99.6, 70], [-0.6, 40], [50, 79.7]], 0):
        assert not overlaps(as_region(position), wcs, shape)


def test_map_with_notches() -> None:
    """Parts of an edge that notches of the map hide from its middle, and tips between samples."""
    for height in (160, 176):
        wcs, shape = image("HPX", (30.0, 0.0), 0.5, (height, 730), crpix=(365.0, 0.0))
        footprint = Footprint(wcs, shape)
        x = np.arange(-0.5, 729.5, 0.125)
        known = np.isfinite(
            footprint.positions(np.stack([x, np.full(x.shape, height + 0.5)], 1))[0]
        )
        # Above the ends of what has a sky along the upper edge.
        ends = np.flatnonzero(np.diff(known.astype(int)))
        assert len(ends) == 8
        for end in x[ends + known[ends + 1]][::3]:
            centre = footprint.skycoord(np.array([[end, height + 0.5]]))[0]
            distance = footprint.separation(centre)
            assert 1e-5 < distance < 0.1
            assert overlaps(as_region(centre, (distance + 1e-9) * u.rad), wcs, shape)
            assert overlaps(as_region(centre, 1.5 * distance * u.rad), wcs, shape)
            assert not overlaps(as_region(centre, (distance - 1e-9) * u.rad), wcs, shape)


def test_small_map_in_a_large_image() -> None:
    """A hemisphere between the pixels that are looked at first."""
    wcs, shape = image("SIN", (30.0, 0.0), 2.0, (3000, 3000), crpix=(1171.0, 1077.0))
    for position in [(135, 0), (210, 89), (-75, -10)]:
        assert not overlaps(as_region(position, 0.9), wcs, shape)
        assert overlaps(as_region(position, 30), wcs, shape)


@pytest.mark.parametrize("code", ["HPX", "TSC"])
def test_pixels_in_one_row(code: str) -> None:
    """For these wcslib errs about which pixels have a sky, if all of them are in one row."""
    wcs, shape = image(code, (30.0, 0.0), 0.5, (400, 730))
    made = overlap._Image.of(wcs, shape)
    row = np.stack([np.arange(0.0, 730), np.full(730, 330.0)], 1)
    alone = np.concatenate([made.vectors(pixel[None]) for pixel in row])
    assert np.isnan(alone).any()
    assert np.isfinite(alone).any()
    np.testing.assert_array_equal(made.vectors(row), alone)


def test_upper_edge_beyond_a_turn() -> None:
    """An image that goes on beyond a whole map has the positions at its upper edge."""
    wcs, shape = image("SFL", (10.0, 0.0), 1.0, (60, 300), crpix=(0.0, 30.5))
    for y in (3.0, 25.3, 30.0, 48.7):
        lat = y - 29.5
        lon = 10 - (299.5 + 1) / np.cos(np.deg2rad(lat))
        assert overlaps(as_region((lon, lat)), wcs, shape)
        assert not overlaps(as_region((lon - 0.001, lat)), wcs, shape)


def test_cones_of_the_whole_sky_and_of_none() -> None:
    wcs, shape = image("TAN", (10.0, 20.0), 1e-3, (10, 10))
    assert overlaps(as_region((190, -20), 180), wcs, shape)
    assert not overlaps(as_region((190, -20), 179.9), wcs, shape)
    assert not overlaps(as_region((10, 20), 180), wcs, (0, 10))


def test_circles_and_contains() -> None:
    """A bounding circle encloses the region; points of it are in, points beside it are not."""
    rng = np.random.default_rng(8)
    vectors = rng.normal(size=(4000, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    points = SkyCoord(*vectors.T, representation_type="cartesian")
    points = SkyCoord(points.spherical.lon, points.spherical.lat)
    for name, corners in POLYGONS.items():
        vertices = SkyCoord(corners, unit="deg")
        # Points of the whole sky, and near the polygon.
        near = vertices[rng.integers(len(corners), size=2000)].directional_offset_by(
            rng.uniform(0, 360, 2000) * u.deg, 10 ** rng.uniform(-4, 1, 2000) * u.deg
        )
        for some in (points, near):
            region = as_region(region=vertices)
            directions = some.cartesian.xyz.value.T
            inside = region.contains(directions)
            np.testing.assert_array_equal(inside, within(some, vertices), err_msg=name)
            centre, radius = region.circle
            assert (np.arccos(np.clip(directions[inside] @ centre, -1, 1)) <= radius).all()
    cone = as_region((30, 40), 100)
    assert isinstance(cone, Cone)
    apart = points.separation(SkyCoord(30, 40, unit="deg")).deg
    np.testing.assert_array_equal(cone.contains(vectors), apart <= 100)
    assert cone.circle[1] == pytest.approx(np.deg2rad(100))


def test_smaller_side() -> None:
    """Where the vertices are all around the sky, the inside is the smaller of two large sides."""
    north = as_region(region=SkyCoord([0, 90, 180, 270], [5, -3, 5, -2], unit="deg"))
    assert isinstance(north, Polygon)
    poles = np.array([[0, 0, 1.0], [0, 0, -1.0]])
    assert north.contains(poles).tolist() == [True, False]
    assert north.circle[1] == np.pi
    south = as_region(region=SkyCoord([270, 180, 90, 0], [-5, 3, -5, 2], unit="deg"))
    assert south.contains(poles).tolist() == [False, True]


def test_closed_line() -> None:
    """Repeated vertices make no difference."""
    once = as_region(region="POLYGON 10 10 20 10 15 20")
    again = as_region(region="POLYGON 10 10 10 10 20 10 15 20 10 10")
    assert isinstance(once, Polygon)
    assert isinstance(again, Polygon)
    np.testing.assert_allclose(np.sort(once.points, 0), np.sort(again.points, 0))


M31 = SkyCoord(10.68, 41.27, unit="deg")


@pytest.mark.parametrize(
    ("given", "centre", "radius"),
    [
        ({"position": M31, "radius": 1 * u.arcmin}, M31, 1 / 60),
        ({"position": M31.galactic, "radius": Angle(3, "deg")}, M31, 3),
        ({"position": M31.transform_to(FK5(equinox="B1950"))}, M31, 0),
        ({"position": (10.68, 41.27), "radius": 180}, M31, 180),
        ({"position": [10.68, 41.27], "radius": np.float32(0.5)}, M31, 0.5),
        ({"position": np.array([370.68, 41.27]), "radius": 0 * u.deg}, M31, 0),
        ({"region": "CIRCLE ICRS 10.68 41.27 0.25"}, M31, 0.25),
        ({"region": "  Circle  10.68 41.27   2.5e-1 "}, M31, 0.25),
        ({"region": "circle icrs topocenter 10.68 41.27 0.25"}, M31, 0.25),
        (
            {"region": "CIRCLE J2000 10.68 41.27 1"},
            SkyCoord(10.68, 41.27, unit="deg", frame="fk5"),
            1,
        ),
        (
            {"region": "CIRCLE GALACTIC 120 -3 1"},
            SkyCoord(120, -3, unit="deg", frame="galactic"),
            1,
        ),
        ({"region": "CIRCLE FK4 10 20 1"}, SkyCoord(10, 20, unit="deg", frame="fk4"), 1),
    ],
    ids=str,
)
def test_cones_that_users_give(given: dict[str, Any], centre: SkyCoord, radius: float) -> None:
    region = as_region(**given)
    assert isinstance(region, Cone)
    np.testing.assert_allclose(region.centre, centre.icrs.cartesian.xyz.value, atol=1e-12)
    assert region.radius == pytest.approx(np.deg2rad(radius), abs=1e-15)


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        ("POLYGON ICRS 10 20 12 20 12 25 10 24", "icrs"),
        ("polygon 10 20 12 20 12 25 10 24", "icrs"),
        ("Polygon GALACTIC 10 20 12 20 12 25 10 24", "galactic"),
        ("POLYGON FK5 GEOCENTER 10 20 12 20 12 25 10 24", "fk5"),
    ],
)
def test_polygons_of_text(text: str, frame: str) -> None:
    vertices = SkyCoord([10, 12, 12, 10], [20, 20, 25, 24], unit="deg", frame=frame)
    region = as_region(region=text)
    assert isinstance(region, Polygon)
    expected = vertices.icrs.cartesian.xyz.value.T
    np.testing.assert_allclose(region.points, expected, atol=1e-12)
    np.testing.assert_allclose(as_region(region=vertices).points, expected, atol=1e-12)


@pytest.mark.parametrize("centre", [(40.0, 10.0), (0.0, 90.0), (359.9, -60.0)])
def test_box(centre: tuple[float, float]) -> None:
    """Ends of the axes are on the outline, points a little inside it are inside."""
    region = as_region(region=f"BOX ICRS {centre[0]} {centre[1]} 8 4")
    middle = SkyCoord(*centre, unit="deg")
    for towards, half in ((90, 4), (270, 4), (0, 2), (180, 2)):
        for shift, expected in ((-1e-6, True), (1e-6, False)):
            end = middle.directional_offset_by(towards * u.deg, (half + shift) * u.deg)
            vector = end.cartesian.xyz.value[None]
            assert region.contains(vector)[0] == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, ValueError, "position, region: expected one of them, found neither"),
        ({"position": M31, "region": "CIRCLE 1 2 3"}, ValueError, "found both"),
        (
            {"region": "CIRCLE 1 2 3", "radius": 1},
            ValueError,
            "radius: expected none with a region",
        ),
        (
            {"position": SkyCoord([1, 2], [3, 4], unit="deg")},
            ValueError,
            "position: .. shape (2,)",
        ),
        ({"position": "10 20"}, TypeError, "position: expected a SkyCoord, .. , found '10 20'"),
        ({"position": (1, 2, 3)}, ValueError, "position: expected .. found (1, 2, 3)"),
        ({"position": 5}, ValueError, "position: expected .. found 5"),
        ({"position": ("a", "b")}, TypeError, "position: expected .. found ('a', 'b')"),
        ({"position": object()}, TypeError, "position: expected .. found <object"),
        ({"position": (1, 2) * u.deg}, TypeError, "position: expected"),
        ({"position": (1, 90.1)}, ValueError, "position: expected latitudes .. found (1, 90.1)"),
        ({"position": (np.nan, 2)}, ValueError, "position: expected finite"),
        ({"position": SkyCoord(np.nan, 2, unit="deg")}, ValueError, "position: expected finite"),
        ({"position": SkyCoord(1, 2, unit="deg", frame="altaz")}, ValueError, "position: astropy"),
        ({"position": M31, "radius": -1}, ValueError, "radius: .. from 0 to 180, found -1"),
        ({"position": M31, "radius": 180.1}, ValueError, "radius: .. found 180.1"),
        ({"position": M31, "radius": np.inf}, ValueError, "radius: .. found inf"),
        ({"position": M31, "radius": np.nan}, ValueError, "radius: .. found nan"),
        ({"position": M31, "radius": [1, 2]}, ValueError, "radius: .. found [1, 2]"),
        ({"position": M31, "radius": 3 * u.m}, ValueError, "radius: .. found <Quantity 3. m>"),
        ({"position": M31, "radius": "1"}, TypeError, "radius: .. found '1'"),
        ({"position": M31, "radius": object()}, TypeError, "radius: .. found <object"),
        ({"region": 5}, TypeError, "region: expected a SkyCoord of vertices .. found 5"),
        ({"region": M31}, ValueError, "region: expected three or more vertices, found one"),
        ({"region": SkyCoord([1, 2], [3, 4], unit="deg")}, ValueError, "region: expected three"),
        (
            {"region": SkyCoord([1, 2, 1], [3, 4, 3], unit="deg")},
            ValueError,
            "different .. found 2",
        ),
        ({"region": SkyCoord([1, 2, np.nan], [3, 4, 5], unit="deg")}, ValueError, "finite"),
        ({"region": SkyCoord([0, 1, 1, 0], [0, 1, 0, 1], unit="deg")}, ValueError, "do not cross"),
        ({"region": SkyCoord([0, 180, 50], [10, -10, 40], unit="deg")}, ValueError, "opposite"),
        ({"region": ""}, ValueError, "region: expected CIRCLE, POLYGON or BOX, found ''"),
        ({"region": "UNION ICRS (CIRCLE 1 2 3)"}, ValueError, "found 'UNION ICRS (CIRCLE 1 2 3)'"),
        ({"region": "CIRCLE ICRS 1 2"}, ValueError, "CIRCLE with 3 numbers, found 2"),
        ({"region": "CIRCLE 1 2 -3"}, ValueError, "radius from 0 to 180 degrees"),
        ({"region": "CIRCLE 1 2 nan"}, ValueError, "radius from 0 to 180 degrees"),
        ({"region": "CIRCLE 1 95 3"}, ValueError, "region: expected latitudes"),
        ({"region": "CIRCLE ECLIPTIC 1 2 3"}, ValueError, "one of the frames ICRS, .. ECLIPTIC"),
        ({"region": "POLYGON 1 2 3 4 5"}, ValueError, "POLYGON with three or more pairs"),
        ({"region": "POLYGON 1 2 3 4 inf 6"}, ValueError, "region: expected finite"),
        ({"region": "BOX 1 2 3"}, ValueError, "BOX with 4 numbers, found 3"),
        ({"region": "BOX 1 2 3 0"}, ValueError, "sides between 0 and 180"),
        ({"region": "BOX 1 2 200 1"}, ValueError, "sides between 0 and 180"),
        (
            {"region": "POLYGON " + "1 " * 999},
            ValueError,
            "found 999 numbers in 'POLYGON 1 1 .. 1...",
        ),
    ],
)
def test_errors(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        as_region(**given)
    for part in message.split(" .. "):
        assert part in str(raised.value)


def test_without_a_sky() -> None:
    wcs, shape = WCS(naxis=2), (10, 10)
    with pytest.raises(FitsFormatError, match="expected celestial coordinates"):
        overlaps(as_region((1, 2)), wcs, shape)


def test_unknown_frame() -> None:
    """The frame of an image of the Sun is none that goes to ICRS."""
    with pytest.raises(FitsFormatError, match="WCS"):
        overlaps(as_region((1, 2)), *of_world("solar"))


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No table of the Earth's rotation is asked for."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a table was asked for")

    monkeypatch.setattr(iers.earth_orientation_table, "get", refuse)
    for name in ("ecliptic TAN", "world: FK5", "galactic TAN"):
        wcs, shape = IMAGES[name]()
        overlaps(as_region((1, 2)), wcs, shape)
