"""The grid that images are put on together.

Expected values are those of `reproject.mosaicking.find_optimal_celestial_wcs` where the corners of
images reach farthest; else the places of very many points of each image, which astropy finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from astropy import units as u
from astropy.coordinates import (
    FK4,
    FK5,
    ICRS,
    BaseCoordinateFrame,
    Galactic,
    RepresentationMapping,
    SkyCoord,
    SphericalRepresentation,
)
from astropy.wcs import WCS
from astropy.wcs.utils import custom_frame_to_wcs_mappings, custom_wcs_to_frame_mappings
from hypothesis import given, settings
from hypothesis import strategies as st
from reproject.mosaicking import find_optimal_celestial_wcs

from dask_fits.wcs.optimal import optimal_grid
from dask_fits.wcs.rectangle import convex_hull, least_rectangle_angle
from tests.support import worlds

Image = tuple[WCS, tuple[int, int]]
Grid = tuple[WCS, tuple[int, int]]
Array = npt.NDArray[np.float64]

SKY = {"ICRS": "RA---{} DEC--{}", "galactic": "GLON-{} GLAT-{}", "FK5": "RA---{} DEC--{}"}


def image(
    projection: str = "TAN",
    crval: tuple[float, float] = (10.0, 20.0),
    *,
    scale: float = 1e-3,
    angle: float = 0.0,
    shape: tuple[int, int] = (300, 400),
    frame: str = "ICRS",
    crpix: tuple[float, float] | None = None,
) -> Image:
    """An image turned by an angle in degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = SKY[frame].format(projection, projection).split()
    wcs.wcs.crval = crval
    wcs.wcs.cdelt = -scale, scale
    wcs.wcs.crpix = crpix or ((shape[1] + 1) / 2, (shape[0] + 1) / 2)
    if frame == "FK5":
        wcs.wcs.radesys, wcs.wcs.equinox = "FK5", 1975.0
    if angle:
        cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        wcs.wcs.pc = [[cos, -sin], [sin, cos]]
    return wcs, shape


def sip_image(crval: tuple[float, float], **kwargs: Any) -> Image:
    """The same with a distortion of some pixels."""
    made, shape = image(crval=crval, **kwargs)
    header = made.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-6, "A_1_1": -2e-6, "B_0_2": 1e-6})
    return WCS(header), shape


def of_reproject(images: Sequence[Image], **kwargs: Any) -> Grid:
    listed = [(shape, wcs) for wcs, shape in images]
    found: Grid = find_optimal_celestial_wcs(listed, negative_lon_cdelt="auto", **kwargs)
    return found


def check_same(found: Grid, expected: Grid) -> None:
    """The grids are equal but for rounding."""
    (wcs, shape), (expected_wcs, expected_shape) = found, expected
    assert shape == expected_shape
    assert [*wcs.wcs.ctype] == [*expected_wcs.wcs.ctype]
    assert wcs.wcs.radesys == expected_wcs.wcs.radesys
    np.testing.assert_array_equal(wcs.wcs.equinox, expected_wcs.wcs.equinox)
    turns = (wcs.wcs.crval - expected_wcs.wcs.crval) / 360
    np.testing.assert_allclose(turns, [np.rint(turns[0]), 0], atol=1e-13)
    np.testing.assert_allclose(wcs.wcs.cdelt, expected_wcs.wcs.cdelt, rtol=1e-13)
    np.testing.assert_allclose(wcs.wcs.get_pc(), expected_wcs.wcs.get_pc(), atol=1e-9)
    np.testing.assert_allclose(wcs.wcs.crpix, expected_wcs.wcs.crpix, atol=1e-6)


def reach(images: Sequence[Image], wcs: WCS, points: int = 400, *, inside: bool = True) -> Array:
    """How far images reach on a grid: the lowest and the highest x, y, counted from its corner."""
    found = []
    for image_wcs, (height, width) in images:
        x = np.linspace(-0.5, width - 0.5, points + 1)
        y = np.linspace(-0.5, height - 0.5, points + 1)
        if inside:
            places = np.stack(np.meshgrid(x, y)).reshape(2, -1)
        else:
            sides = [(x, y[0]), (x, y[-1]), (x[0], y), (x[-1], y)]
            places = np.concatenate([np.broadcast_arrays(*side) for side in sides], axis=1)
        sky = image_wcs.pixel_to_world(*places)
        places = np.stack(wcs.world_to_pixel(sky[np.isfinite(sky.data.lon)]))
        found.append(places[:, np.isfinite(places).all(axis=0)])
    joined = np.concatenate(found, axis=1) + 0.5
    return np.stack([joined.min(axis=1), joined.max(axis=1)])


def check_holds(found: Grid, images: Sequence[Image], **kwargs: Any) -> None:
    """All of the images is on the grid, and the grid is no larger than that, to half a pixel."""
    wcs, (height, width) = found
    low, high = reach(images, wcs, **kwargs)
    np.testing.assert_allclose(low, 0, atol=0.02)
    np.testing.assert_allclose(high, (width, height), atol=0.52)


def random_images(
    rng: np.random.Generator, make: Callable[..., Image], **kwargs: Any
) -> list[Image]:
    """Up to five images within two degrees, anywhere on the sky, of any frame."""
    centre = SkyCoord(rng.uniform(0, 360) * u.deg, np.arcsin(rng.uniform(-1, 1)) * u.rad)
    images = []
    for _ in range(rng.integers(1, 6)):
        place = centre.directional_offset_by(rng.uniform(0, 360) * u.deg, rng.uniform(0, 1) * u.deg)
        shape = int(rng.integers(10, 400)), int(rng.integers(10, 400))
        scale = 10 ** rng.uniform(-3.3, -2.7)
        frame = rng.choice(["ICRS", "galactic"])
        place = place.galactic if frame == "galactic" else place
        crval = place.spherical.lon.deg, place.spherical.lat.deg
        if make is sip_image:
            crval = centre.ra.deg, centre.dec.deg
        else:
            kwargs["frame"] = frame
        angle = float(rng.uniform(20, 70) + 90 * rng.integers(4))
        images.append(make(crval=crval, scale=scale, angle=angle, shape=shape, **kwargs))
    return images


@pytest.mark.parametrize("frame", [None, "icrs", "galactic", "fk5", FK5(equinox="J1990")])
@pytest.mark.parametrize("seed", range(6))
def test_images_of_tan_make_the_grid_of_reproject(seed: int, frame: Any) -> None:
    images = random_images(np.random.default_rng(seed), image)
    check_same(optimal_grid(images, frame=frame), of_reproject(images, frame=frame))


@pytest.mark.parametrize("projection", ["SIN", "ARC", "ZEA", "CAR", "AIT", "SIP"])
@pytest.mark.parametrize("seed", range(3))
def test_others_whose_corners_reach_farthest_make_it_too(seed: int, projection: str) -> None:
    # The images are turned by 20 to 70 degrees.
    rng = np.random.default_rng(100 + seed)
    if projection == "SIP":
        images = random_images(rng, sip_image)
    else:
        images = random_images(rng, image, projection=projection)
    target = {"SIP": "TAN"}.get(projection, projection)
    # A reference point nearby, so that maps of the whole sky are not torn there.
    sky = images[0][0].pixel_to_world(0, 0)
    found = optimal_grid(images, projection=target, reference=sky)
    check_same(found, of_reproject(images, projection=target, reference=sky))


def test_an_image_that_is_upright_is_its_own_grid() -> None:
    wcs, shape = image(crpix=(33.25, 400.5))
    found, found_shape = optimal_grid([(wcs, shape)])
    assert found_shape == shape
    np.testing.assert_allclose(found.wcs.crpix, wcs.wcs.crpix, atol=1e-8)
    np.testing.assert_allclose(found.wcs.crval, wcs.wcs.crval, atol=1e-12)


def test_the_smallest_pixels_tell_the_resolution() -> None:
    images = [image(scale=2e-3), image(scale=3e-3)]
    images[1][0].wcs.cdelt = -3e-3, 1.7e-3
    check_same(optimal_grid(images), of_reproject(images))
    assert optimal_grid(images)[0].wcs.cdelt[1] == pytest.approx(1.7e-3, rel=1e-14)


@pytest.mark.parametrize("resolution", [2 * u.arcsec, 2 / 3600])
def test_a_resolution_is_an_angle_or_degrees(resolution: Any) -> None:
    images = [image(angle=30)]
    expected = of_reproject(images, resolution=2 * u.arcsec)
    check_same(optimal_grid(images, resolution=resolution), expected)


def test_a_reference_is_a_position_or_degrees_in_the_frame() -> None:
    images = [image(angle=30), image(crval=(11, 20.5), angle=50, frame="galactic")]
    images = images[:1]
    position = SkyCoord(10.2 * u.deg, 20.3 * u.deg)
    expected = of_reproject(images, frame="galactic", reference=position)
    check_same(optimal_grid(images, frame="galactic", reference=position), expected)
    pair = position.galactic.l.deg, position.galactic.b.deg
    check_same(optimal_grid(images, frame="galactic", reference=pair), expected)
    check_same(optimal_grid(images, frame="galactic", reference=position.frame), expected)


def test_a_reference_of_another_equinox_is_turned_to_that_of_the_grid() -> None:
    position = SkyCoord(10 * u.deg, 20 * u.deg, frame=FK5(equinox="J1975"))
    wcs, _ = optimal_grid([image()], frame="fk5", reference=position)
    expected = position.frame.transform_to(FK5())
    np.testing.assert_allclose(wcs.wcs.crval, [expected.ra.deg, expected.dec.deg], atol=1e-12)
    assert wcs.wcs.equinox == 2000


def test_frames_that_are_no_rotations_of_icrs_are_transformed_too() -> None:
    images = [image(angle=30), image(angle=40)]
    images[1][0].wcs.radesys, images[1][0].wcs.equinox = "FK4", 1950.0
    images[1][0].wcs.dateobs = "1950-01-01T00:00:00"
    check_same(optimal_grid(images), of_reproject(images))
    found = optimal_grid(images, frame=FK4(equinox="B1950"))
    check_same(found, of_reproject(images, frame=FK4(equinox="B1950")))


def test_the_latitude_may_be_the_first_axis() -> None:
    # The same image, and its transpose.
    wcs, shape = image(angle=30)
    check_same(optimal_grid([(wcs.sub([2, 1]), shape[::-1])]), optimal_grid([(wcs, shape)]))
    check_same(optimal_grid([(wcs, shape)]), of_reproject([(wcs, shape)]))


def test_images_may_come_one_by_one_and_stay_as_they_are() -> None:
    images = [image(angle=30), image(crval=(10.3, 20), angle=50)]
    before = [wcs.to_header_string() for wcs, _ in images]
    stream: Iterator[Image] = iter(images)
    check_same(optimal_grid(stream), of_reproject(images))
    assert [wcs.to_header_string() for wcs, _ in images] == before


# Wide images, whose edges bulge.

WIDE = {
    "TAN on ZEA": (image(scale=0.1, shape=(800, 1000)), "ZEA"),
    "TAN on AIT": (image(scale=0.1, shape=(800, 1000)), "AIT"),
    "TAN on CAR": (image(scale=0.1, shape=(400, 1000)), "CAR"),
    "turned": (image(scale=0.1, angle=8, shape=(700, 900)), "ZEA"),
}

PINCHED = {
    "ARC on TAN": (image("ARC", (10, 60), scale=0.1, shape=(400, 1000)), "TAN"),
    "CAR on TAN": (image("CAR", (10, 0), scale=0.1, shape=(400, 1000)), "TAN"),
}
"""Their edges bend to the inside."""


@pytest.mark.parametrize("name", [*WIDE, *PINCHED])
def test_edges_that_bend_are_on_the_grid(name: str) -> None:
    wide, projection = (WIDE | PINCHED)[name]
    found = optimal_grid([wide], projection=projection)
    check_holds(found, [wide], points=4000, inside=False)
    expected = of_reproject([wide], projection=projection)
    if name in WIDE:
        # Corners alone would cut off more than a pixel.
        assert sum(found[1]) > sum(expected[1]) + 1
    else:
        check_same(found, expected)


def test_edges_that_bulge_are_on_a_turned_grid() -> None:
    wide = image(scale=0.1, angle=20, shape=(400, 1000))
    found = optimal_grid([wide], projection="ZEA", rotate=True)
    check_holds(found, [wide], points=4000, inside=False)


# Places of the sky where coordinates are special.


@pytest.mark.parametrize("crval", [(0.0, 20.0), (77.0, 90.0), (77.0, -90.0), (180.0, 0.0)])
def test_neither_ra_0_nor_a_pole_is_special(crval: tuple[float, float]) -> None:
    centre = SkyCoord(*crval, unit="deg")
    images = []
    for n in range(4):
        place = centre.directional_offset_by(n * 90 * u.deg, 0.2 * u.deg)
        images.append(image(crval=(place.ra.deg, place.dec.deg), angle=25 + 10 * n))
    found = optimal_grid(images)
    check_same(found, of_reproject(images))
    assert max(found[1]) < 1000
    assert SkyCoord(*found[0].wcs.crval, unit="deg").separation(centre) < 1 * u.arcsec


TORN = {
    "a pole on a line": (image(crval=(10, 90), scale=0.01), "CAR", (250, 36_000)),
    "the other pole": (image(crval=(10, -90), scale=0.01, angle=20), "CAR", None),
    "a pole at the tip of an ellipse": (image(crval=(10, 90), scale=0.01), "AIT", None),
    "beside a pole": (image(crval=(10, 87), scale=0.01), "AIT", None),
    "at both sides of an ellipse": (image(crval=(180, 5), scale=0.01, angle=17), "AIT", None),
    "at both sides of a rectangle": (image(crval=(180, 5), scale=0.01), "MER", None),
    "a pole that is a circle": (image(crval=(180, 0), scale=0.1, angle=17), "ZEA", (2292, 2292)),
    "a larger circle": (image(crval=(180, 0), scale=0.1), "ARC", (3600, 3600)),
}
"""Images at an edge of the plane around (0, 0), and the shape where the plane's size tells it."""


@pytest.mark.parametrize("name", TORN)
def test_an_image_at_an_edge_of_the_plane_has_that_edge(name: str) -> None:
    torn, projection, shape = TORN[name]
    found = optimal_grid([torn], projection=projection, reference=(0, 0))
    low, high = reach([torn], found[0], 800)
    tolerance = 1e-3 * max(found[1])  # of what lies between the points of the test
    assert (low > -0.02).all()
    assert (high < np.array(found[1][::-1]) + 0.52).all()
    np.testing.assert_allclose(low, 0, atol=tolerance)
    np.testing.assert_allclose(high, found[1][::-1], atol=tolerance)
    assert found[1] == (shape or found[1])
    if projection in ("CAR", "MER"):
        assert found[1][1] == 36_000


# Images and planes with a limb.

ALL_SKY = {
    "AIT": image("AIT", (0, 0), scale=0.5, shape=(360, 720)),
    "AIT, galactic": image("AIT", (30, 0), scale=0.5, shape=(361, 721), frame="galactic"),
    "CAR": image("CAR", (0, 0), scale=0.5, shape=(360, 720)),
}

SIZES = {
    "AIT": (4 * np.sqrt(2), 2 * np.sqrt(2)),
    "MOL": (4 * np.sqrt(2), 2 * np.sqrt(2)),
    "CAR": (2 * np.pi, np.pi),
    "SFL": (2 * np.pi, np.pi),
    "CEA": (2 * np.pi, 2.0),
    "ARC": (2 * np.pi, 2 * np.pi),
    "ZEA": (4.0, 4.0),
    "SIN": (2.0, 2.0),
}
"""Sizes of the whole planes in radians (Calabretta & Greisen 2002, A&A 395, 1077, section 5)."""


@pytest.mark.parametrize("reference", [(0.0, 0.0), (30.0, 40.0), (123.0, -80.0)])
@pytest.mark.parametrize("projection", SIZES)
@pytest.mark.parametrize("name", ALL_SKY)
def test_the_whole_sky_makes_the_whole_plane(
    name: str, projection: str, reference: tuple[float, float]
) -> None:
    grid = optimal_grid([ALL_SKY[name]], projection=projection, reference=reference)
    expected = np.rad2deg(SIZES[projection]) / 0.5
    np.testing.assert_allclose(grid[1][::-1], expected, atol=0.6)
    # It is around the middle, where the reference point is.
    np.testing.assert_allclose(grid[0].wcs.crpix - 0.5, expected / 2, atol=0.2)


def test_a_hemisphere_is_as_wide_as_its_limb() -> None:
    disk = image("SIN", (20, 30), scale=0.1, shape=(1300, 1200))
    _, shape = optimal_grid([disk], projection="SIN")
    np.testing.assert_allclose(shape, 2 * np.rad2deg(1) / 0.1, atol=0.6)
    moved = optimal_grid([disk], projection="SIN", reference=(80, 30))
    # The outline of what both hemispheres have.
    limbs = []
    for one, other in itertools.permutations([(20, 30), (80, 30)]):
        circle = SkyCoord(*one, unit="deg").directional_offset_by(
            np.linspace(0, 360, 3601) * u.deg, 89.9999 * u.deg
        )
        limbs.append(circle[circle.separation(SkyCoord(*other, unit="deg")) < 89.9999 * u.deg])
    places = np.concatenate([moved[0].world_to_pixel(limb) for limb in limbs], axis=1) + 0.5
    np.testing.assert_allclose(places.min(axis=1), 0, atol=0.1)
    np.testing.assert_allclose(places.max(axis=1), moved[1][::-1], atol=0.6)


def test_what_is_behind_the_tangent_plane_is_left_out() -> None:
    near, wide = image(), image("CAR", (10, 0), scale=0.5, shape=(40, 500))
    grid = optimal_grid([near, wide], reference=(10, 20))
    _, (height, width) = grid
    x, y = grid[0].world_to_pixel(near[0].pixel_to_world([0, 399], [0, 299]))
    assert ((x > 0) & (x < width) & (y > 0) & (y < height)).all()


def test_an_image_without_a_place_is_named() -> None:
    images = [image(), image(crval=(190, -20))]
    with pytest.raises(ValueError, match=r"image 1 has no place .* TAN .* ZEA or AIT, or another"):
        optimal_grid(images, reference=(10, 20))
    assert optimal_grid(images, projection="ZEA", reference=(10, 20))[1][0] > 1000


# The sun.


class Solar(BaseCoordinateFrame):  # type: ignore[misc]
    """Longitudes and latitudes as seen from the Earth, to which no transformation leads."""

    default_representation = SphericalRepresentation
    frame_specific_representation_info: ClassVar[dict[Any, Any]] = {
        SphericalRepresentation: [
            RepresentationMapping("lon", "lon"),
            RepresentationMapping("lat", "lat"),
        ]
    }


@contextmanager
def solar_frames() -> Iterator[None]:
    """Register the frame with astropy, as sunpy does it."""

    def to_frame(wcs: WCS) -> Any:
        return Solar() if wcs.wcs.ctype[0].startswith("HPLN") else None

    def to_wcs(frame: BaseCoordinateFrame, projection: str = "TAN") -> WCS | None:
        if not isinstance(frame, Solar):
            return None
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = f"HPLN-{projection}", f"HPLT-{projection}"
        wcs.wcs.cunit = "arcsec", "arcsec"
        return wcs

    with ExitStack() as stack:
        stack.enter_context(custom_wcs_to_frame_mappings([to_frame]))
        stack.enter_context(custom_frame_to_wcs_mappings([to_wcs]))
        yield


def solar_image() -> Image:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "HPLN-TAN", "HPLT-TAN"
    wcs.wcs.cunit = "arcsec", "arcsec"
    wcs.wcs.crval = -300.0, 200.0
    wcs.wcs.crpix = 20, 30
    wcs.wcs.cdelt = 0.6, 0.6
    wcs.wcs.pc = [[0.8, -0.6], [0.6, 0.8]]
    return wcs, (60, 80)


def test_longitudes_of_the_sun_increase_along_x() -> None:
    with solar_frames():
        wcs, shape = optimal_grid([solar_image()])
        expected, expected_shape = of_reproject([solar_image()])
        assert wcs.wcs.cdelt[0] == pytest.approx(0.6 / 3600)
        assert wcs.wcs.crval == pytest.approx([-300 / 3600, 200 / 3600])
        assert shape == expected_shape
        expected.wcs.set()  # arcseconds become degrees
        np.testing.assert_allclose(wcs.wcs.crpix, expected.wcs.crpix, atol=1e-6)


def test_a_frame_to_which_no_way_leads_is_told() -> None:
    with solar_frames(), pytest.raises(ValueError, match="cannot transform from <Solar Frame"):
        optimal_grid([solar_image()], frame="icrs")


# Turned grids.


@pytest.mark.parametrize("seed", range(8))
def test_a_turned_grid_has_the_least_area(seed: int) -> None:
    images = random_images(np.random.default_rng(seed), image)
    wcs, (height, width) = optimal_grid(images, rotate=True)
    check_holds((wcs, (height, width)), images, inside=False)
    cos, sin = wcs.wcs.pc[0, 0], wcs.wcs.pc[1, 0]
    np.testing.assert_allclose(wcs.wcs.pc, [[cos, -sin], [sin, cos]])
    assert abs(np.rad2deg(np.arctan2(sin, cos))) <= 45
    # The corners, in an upright plane, turned to every thousandth of a right angle.
    upright = optimal_grid(images)[0]
    corners = np.concatenate([corners_of(each, upright) for each in images])
    areas = [area(corners, angle) for angle in np.linspace(0, np.pi / 2, 1001)]
    low, high = reach(images, wcs, 4, inside=False)
    assert np.prod(high - low) <= min(areas) * (1 + 1e-9)


def corners_of(each: Image, wcs: WCS) -> Array:
    image_wcs, (height, width) = each
    x, y = np.array(
        [(-0.5, -0.5), (width - 0.5, -0.5), (-0.5, height - 0.5), (width - 0.5, height - 0.5)]
    ).T
    return np.stack(wcs.world_to_pixel(image_wcs.pixel_to_world(x, y)), axis=1)


def area(points: Array, angle: float) -> float:
    """Area of a box around points, whose sides are turned by an angle."""
    along = points @ (np.cos(angle), np.sin(angle))
    across = points @ (-np.sin(angle), np.cos(angle))
    return float(np.ptp(along) * np.ptp(across))


@pytest.mark.parametrize("angle", [-44, -20.0, 0.0, 30.0, 44, 46, 90, 135.5])
def test_a_turned_image_is_its_own_grid(angle: float) -> None:
    wcs, shape = optimal_grid([image(angle=angle)], rotate=True)
    expected = (angle + 45) % 90 - 45
    assert np.rad2deg(np.arctan2(wcs.wcs.pc[1, 0], wcs.wcs.pc[0, 0])) == pytest.approx(expected)
    is_upright = abs((angle + 45) % 180 - 45) < 45
    assert shape == ((300, 400) if is_upright else (400, 300))


COORDINATES = st.integers(-5, 5).map(float) | st.floats(-5, 5, allow_subnormal=False)

POINTS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_the_least_rectangle_is_the_least_of_all_directions(
    points: list[tuple[float, float]],
) -> None:
    array = np.array(points)
    angle = least_rectangle_angle(array)
    assert -np.pi / 4 <= angle <= np.pi / 4
    differences = (array[:, None] - array).reshape(-1, 2)
    angles = [*np.arctan2(differences[:, 1], differences[:, 0]), 0.0]
    assert area(array, angle) <= min(area(array, each) for each in angles) + 1e-9


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_the_hull_is_convex_and_around_all_points(points: list[tuple[float, float]]) -> None:
    hull = convex_hull(np.array(points))
    assert {tuple(point) for point in hull.tolist()} <= {tuple(point) for point in points}
    if len(hull) < 3:
        return
    for start, end in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        way = end - start
        offsets = np.array(points) - start
        assert (way[0] * offsets[:, 1] - way[1] * offsets[:, 0] > -1e-9).all()


def test_most_points_of_a_crowd_are_no_corners() -> None:
    points = np.random.default_rng(1).normal(size=(20_000, 2))
    hull = convex_hull(points)
    assert 5 < len(hull) < 50
    for axis in (0, 1):
        assert hull[:, axis].max() == points[:, axis].max()
        assert hull[:, axis].min() == points[:, axis].min()


# What cannot be.


def singular() -> Image:
    wcs, shape = image()
    wcs.wcs.cdelt = 0, 1
    return wcs, shape


def cube() -> Image:
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN", "FREQ"
    return wcs, (10, 10)


def planet() -> Image:
    wcs, shape = image()
    wcs.wcs.ctype = "XXLN-TAN", "XXLT-TAN"
    return wcs, shape


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([], {}, "expected at least one image"),
        ([image(), cube()], {}, "image 1: expected .* two celestial axes"),
        ([image(), (WCS(naxis=2), (3, 4))], {}, "image 1: expected .* two celestial axes"),
        ([(image()[0], (3, 0))], {}, "image 0: expected a shape .* found \\(3, 0\\)"),
        ([(image()[0], (3, 4, 5))], {}, "image 0: expected a shape"),
        ([singular()], {}, "image 0: its WCS finds no positions: .* singular"),
        ([image(), planet()], {}, "image 1: WCS: astropy knows no frame"),
        ([image()], {"frame": "sky"}, "frame: astropy knows none that is called 'sky'"),
        ([image()], {"frame": "supergalactic"}, "makes no WCS of .* frame <Supergalactic"),
        ([image()], {"projection": "tan"}, "projection: expected three capital letters"),
        ([image()], {"projection": "FOO"}, "makes no WCS of projection 'FOO'"),
        ([image()], {"projection": "COE"}, "makes no WCS of projection 'COE'"),
        ([image()], {"resolution": 0}, "resolution: expected an angle above 0"),
        ([image()], {"resolution": np.nan * u.deg}, "resolution: expected an angle above 0"),
        (
            [image()],
            {"resolution": 1e-12},
            r"resolution: the grid would have 4e\+11 x 3e\+11 pixels",
        ),
        ([image()], {"reference": (0, 91)}, "reference: expected a position"),
        ([image()], {"reference": (0, 1, 2)}, "reference: expected a position"),
        ([image()], {"reference": (np.nan, 0)}, "reference: expected a position"),
        ([image(), image(crval=(190, -20))], {}, "no mean direction; give a reference"),
    ],
)
def test_what_makes_no_grid_is_told(
    images: list[Image], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        optimal_grid(images, **options)


def test_distortions_by_tables_are_part_of_the_outline() -> None:
    # Only the outline: the reference point is where CRPIX is.
    content = worlds.written(*worlds.TABLES["lookup"]())
    wcs = worlds.oracle(content)
    found = optimal_grid([(wcs, (worlds.NY, worlds.NX))])
    low, high = reach([(wcs, (worlds.NY, worlds.NX))], found[0], 20, inside=False)
    assert (low >= -0.02).all()
    assert (high <= np.array(found[1][::-1]) + 0.52).all()


def test_the_frames_are_what_astropy_calls_them() -> None:
    for frame, name in ((ICRS(), "RA---TAN"), (Galactic(), "GLON-TAN"), (FK5(), "RA---TAN")):
        assert optimal_grid([image()], frame=frame)[0].wcs.ctype[0] == name
