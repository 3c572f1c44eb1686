"""Exact areas of overlap: against a clipper of polygons, and against points of pixels counted."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
NAMES = ["sampling", "sampling_numpy"]

Polygon = list[tuple[float, float]]


def load(name: str) -> Any:
    if name == "sampling":
        pytest.importorskip("numba")
    return importlib.import_module(f"dask_fits.resampling.{name}")


@pytest.fixture(params=NAMES, scope="module")
def kernels(request: pytest.FixtureRequest) -> Any:
    """The compiled functions, and those of NumPy alone."""
    return load(request.param)


# What is expected


def polygon_area(polygon: Polygon) -> float:
    """The shoelace formula, from the first corner."""
    if len(polygon) < 3:
        return 0.0
    x, y = np.array(polygon).T - np.array(polygon[0])[:, np.newaxis]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def size_of(quad: np.ndarray) -> float:
    return abs(polygon_area([tuple(corner) for corner in quad.T.tolist()]))


def clip(polygon: Polygon, axis: int, bound: float, sign: int) -> Polygon:
    """Sutherland and Hodgman's step: what of a polygon is on one side of a line."""
    kept: Polygon = []
    for i, end in enumerate(polygon):
        start = polygon[i - 1]
        a, b = sign * (start[axis] - bound), sign * (end[axis] - bound)
        if (a < 0) != (b < 0):
            other = start[1 - axis] + (end[1 - axis] - start[1 - axis]) * a / (a - b)
            kept.append((bound, other) if axis == 0 else (other, bound))
        if b >= 0:
            kept.append(end)
    return kept


def overlaps(quad: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The area that a quadrilateral, (2, 4), has of each pixel of an image."""
    found = np.zeros(shape)
    for y, x in np.ndindex(shape):
        polygon: Polygon = [tuple(corner) for corner in quad.T.tolist()]
        for axis, at in enumerate((x, y)):
            polygon = clip(polygon, axis, at - 0.5, 1)
            polygon = clip(polygon, axis, at + 0.5, -1)
        found[y, x] = abs(polygon_area(polygon))
    return found


def counted(quad: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same from 64 x 64 points of each pixel: those with a way out that crosses odd edges."""
    grid = (np.arange(64) + 0.5) / 64 - 0.5
    y = (np.arange(shape[0])[:, np.newaxis] + grid).reshape(-1, 1)
    x = (np.arange(shape[1])[:, np.newaxis] + grid).reshape(1, -1)
    inside = np.zeros((y.size, x.size), bool)
    for (x1, y1), (x2, y2) in zip(quad.T, np.roll(quad, -1, axis=1).T, strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside.reshape(shape[0], 64, shape[1], 64).mean(axis=(1, 3))


def corners_of(quad: np.ndarray) -> np.ndarray:
    """The corners of the one output pixel that the quadrilateral, (2, 4), is."""
    return np.array([[axis[[0, 1]], axis[[3, 2]]] for axis in quad])


def weigh(
    kernels: Any,
    image: np.ndarray,
    corners: np.ndarray,
    rows: slice = slice(None),
    columns: slice = slice(None),
    **options: Any,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values and fractions, from a box of an image, which cannot be written to."""
    box = np.ascontiguousarray(image[rows, columns])
    box.flags.writeable = False
    corners = corners.copy()
    corners.flags.writeable = False
    value, fraction = np.full((2, corners.shape[1] - 1, corners.shape[2] - 1), -1.0)
    origin = (rows.start or 0, columns.start or 0)
    missing = kernels.area(box, origin, image.shape, corners, value, fraction, **options)
    return value, fraction, missing


def weigh_quad(kernels: Any, image: np.ndarray, quad: np.ndarray, **options: Any) -> Any:
    """Value and fraction of one quadrilateral."""
    value, fraction, missing = weigh(kernels, image, corners_of(quad), **options)
    assert missing == 0
    return value[0, 0], fraction[0, 0]


def assert_nothing(kernels: Any, image: np.ndarray, quad: np.ndarray, **options: Any) -> None:
    value, fraction = weigh_quad(kernels, image, quad, **options)
    assert (np.isnan(value), fraction) == (True, 0.0)


def random_image(shape: tuple[int, int], seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, shape).astype(dtype)


@st.composite
def quads(draw: st.DrawFn) -> np.ndarray:
    """Corners around a centre, which all of them see; any number of them on sides of pixels."""
    seed = draw(SEEDS)
    rng = np.random.default_rng(seed)
    angles = np.pi / 2 * np.arange(4) + rng.uniform(-0.7, 0.7, 4)
    radii = draw(st.sampled_from([0.02, 0.5, 1.0, 3.0])) * rng.uniform(0.2, 1, 4)
    quad = rng.uniform(0, 6, (2, 1)) + radii * np.array([np.cos(angles), np.sin(angles)])
    if draw(st.booleans()):
        quad = np.where(rng.random(quad.shape) < 0.5, np.round(2 * quad) / 2, quad)
        sides = np.roll(quad, -1, axis=1) - quad  # is it still simple, and not flat?
        turns = sides[0] * np.roll(sides[1], -1) - sides[1] * np.roll(sides[0], -1)
        if not (turns > 0.01).all():
            quad = 3 + np.array([[-1.0, 0.5, 0.5, -0.5], [-0.5, -0.5, 0.0, 1.0]])
    return quad[:, :: draw(st.sampled_from([1, -1]))]


CONCAVE = np.array([[1.2, 4.1, 2.3, 1.9], [0.7, 1.6, 1.9, 4.4]])


# Single quadrilaterals


@settings(max_examples=60, deadline=None)
@given(quad=quads(), squared=st.booleans(), flux=st.booleans())
@pytest.mark.parametrize("name", NAMES)
def test_areas_are_those_of_a_clipper(
    name: str, quad: np.ndarray, squared: bool, flux: bool
) -> None:
    image = random_image((6, 7))
    value, fraction = weigh_quad(load(name), image, quad, squared=squared, flux=flux)
    areas = overlaps(quad, image.shape)
    total = areas.sum()
    np.testing.assert_allclose(fraction * size_of(quad), total, rtol=1e-12, atol=1e-14)
    if total < 1e-9:  # what is weighted by nothing but rounding has no value
        return
    expected = (areas ** (2 if squared else 1) * image).sum()
    if not flux:
        expected /= total ** (2 if squared else 1)
    np.testing.assert_allclose(value, expected, rtol=1e-10 if total < 1e-4 else 1e-12)


@pytest.mark.parametrize(
    "quad",
    [
        CONCAVE,
        CONCAVE[:, ::-1],
        np.roll(CONCAVE, 2, axis=1),
        np.array([[0.9, 3.3, 3.9, 1.2], [0.4, 0.9, 3.1, 2.2]]),
        np.array([[-3.0, 9.0, 8.0, -2.0], [1.1, 1.9, 2.2, 1.3]]),
        np.array([[0.5, 4.5, 4.5, 0.5], [0.5, 0.5, 2.5, 2.5]]),
    ],
)
def test_areas_are_those_of_points_counted(kernels: Any, quad: np.ndarray) -> None:
    shape = (5, 6)
    areas = np.zeros(shape)
    for at in np.ndindex(shape):
        image = np.zeros(shape)
        image[at] = 1.0
        areas[at] = weigh_quad(kernels, image, quad, flux=True)[0]
    np.testing.assert_allclose(areas, counted(quad, shape), atol=0.02)
    np.testing.assert_allclose(areas, overlaps(quad, shape), atol=1e-14)


def test_pixels_without_a_value_have_no_area(kernels: Any) -> None:
    image = random_image((5, 6))
    image[1, 2] = np.nan
    areas = overlaps(CONCAVE, image.shape) * ~np.isnan(image)
    value, fraction = weigh_quad(kernels, image, CONCAVE)
    np.testing.assert_allclose(value, np.nansum(areas * image) / areas.sum(), rtol=1e-13)
    np.testing.assert_allclose(fraction, areas.sum() / size_of(CONCAVE), rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"flux": True}, {"squared": True}])
def test_without_an_area_there_is_no_value(kernels: Any, options: dict[str, bool]) -> None:
    assert_nothing(kernels, np.full((5, 6), np.nan), CONCAVE, **options)
    for far in (CONCAVE + 50, CONCAVE - 50, CONCAVE * np.nan, CONCAVE * 0):
        assert_nothing(kernels, random_image((5, 6)), far, **options)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_corner_without_a_position_leaves_its_pixels_out(kernels: Any, bad: float) -> None:
    corners = np.mgrid[:5.0, :5.0][::-1] * 1.1
    for axis in (0, 1):
        for at in ((0, 0), (2, 3)):
            broken = corners.copy()
            broken[axis, *at] = bad
            value, fraction, _ = weigh(kernels, random_image((9, 9)), broken)
            near = np.zeros((4, 4), bool)
            near[max(at[0] - 1, 0) : at[0] + 1, max(at[1] - 1, 0) : at[1] + 1] = True
            np.testing.assert_array_equal(np.isnan(value), near)
            np.testing.assert_array_equal(fraction == 0, near)


@pytest.mark.parametrize("step", [1, -1])
def test_pixels_of_the_same_grid_are_what_they_are(kernels: Any, step: int) -> None:
    image = random_image((6, 7), dtype=np.float32)
    image[2:4, 3] = np.nan
    y, x = np.mgrid[:7, :8] - 0.5
    value, fraction, _ = weigh(kernels, image, np.array([x, y])[:, :, ::step])
    np.testing.assert_array_equal(value[:, ::step], image)
    np.testing.assert_array_equal(fraction[:, ::step], ~np.isnan(image))


@pytest.mark.parametrize("seed", range(20))
def test_pixels_that_are_only_touched_have_no_area(kernels: Any, seed: int) -> None:
    image = random_image((5, 5))
    image[2, 2] = np.nan
    a, b, c, d = 2 + np.random.default_rng(seed).uniform(-0.5, 0.5, 4)
    diamond = np.array([[1.5, a, 2.5, b], [c, 1.5, d, 2.5]])
    for quad in (diamond, diamond[:, ::-1], diamond[::-1], np.roll(diamond, 1, axis=1)):
        assert_nothing(kernels, image, quad)


@pytest.mark.parametrize("seed", range(20))
def test_pixels_beside_a_quadrilateral_have_no_area(kernels: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = random_image((3, 7))
    # Two corners in the first row, on the right, and two in the second one, on the left: numbers
    # below 1 have bits that are lost in their differences.
    quad = np.array([[5.0, 6.0, 2.0, 1.0], [-0.2, 0.3, 1.2, 0.8]])
    quad += rng.uniform(-0.2, 0.2, (2, 4))
    image[overlaps(quad, image.shape) > 0] = np.nan
    assert_nothing(kernels, image, quad)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_flat_has_no_area(kernels: Any, seed: int) -> None:
    a, b = np.random.default_rng(seed).uniform(0, 5, (2, 2))
    assert_nothing(kernels, random_image((6, 6)), np.array([a, b, b, a]).T)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("scale", [1e2, 1e9, 1e19, 1e100])
def test_a_huge_quadrilateral_meets_the_whole_image(kernels: Any, scale: float) -> None:
    image = random_image((300, 200))
    quad = scale * np.array([[-3.0, 2.0, 9.0, -4.0], [-2.0, -5.0, 4.0, 3.0]])
    value, fraction = weigh_quad(kernels, image, quad)
    np.testing.assert_allclose(value, image.mean(), rtol=1e-12)
    np.testing.assert_allclose(fraction, image.size / size_of(quad), rtol=1e-12)


# Grids


def rotated(angle: float, scale: float, size: int, centre: float) -> np.ndarray:
    """Corners of a grid of `size` pixels each way."""
    y, x = np.mgrid[: size + 1, : size + 1] - size / 2
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return scale * np.array([cos * x - sin * y, sin * x + cos * y]) + centre


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize(("angle", "scale"), [(33, 1.0), (90, 0.7), (178, 1.9), (45, 0.3), (0, 1)])
def test_all_flux_arrives(kernels: Any, angle: float, scale: float, flip: int) -> None:
    image = random_image((30, 30))
    corners = rotated(angle, scale, int(48 / scale), 14.7)[:, :, ::flip]
    rng = np.random.default_rng(1)
    corners += scale * rng.uniform(-0.2, 0.2, corners.shape)  # the same for pixels side by side
    value, fraction, _ = weigh(kernels, image, corners, flux=True)
    x, y = corners
    sizes = (x[1:, 1:] - x[:-1, :-1]) * (y[1:, :-1] - y[:-1, 1:])
    sizes -= (x[1:, :-1] - x[:-1, 1:]) * (y[1:, 1:] - y[:-1, :-1])
    np.testing.assert_allclose(np.nansum(value), image.sum(), rtol=1e-12)
    np.testing.assert_allclose((fraction * abs(sizes) / 2).sum(), image.size, rtol=1e-12)


def test_constants_stay_what_they_are(kernels: Any) -> None:
    value, fraction, _ = weigh(kernels, np.full((30, 30), 0.1, np.float32), rotated(33, 1, 12, 15))
    np.testing.assert_allclose(value, np.float64(np.float32(0.1)), rtol=1e-14)
    np.testing.assert_allclose(fraction, 1.0, rtol=1e-12)


def test_pixels_beside_the_box_are_counted_and_not_read(kernels: Any) -> None:
    image = random_image((12, 13))
    corners = rotated(33, 1.3, 9, 6)
    whole, _, none = weigh(kernels, image, corners)
    rows, columns = slice(2, 9), slice(3, 10)
    value, _, missing = weigh(kernels, image, corners, rows, columns)
    beside = np.ones(image.shape, bool)
    beside[rows, columns] = False
    expected = np.zeros(whole.shape, int)
    for y, x in np.ndindex(expected.shape):
        around = corners[:, [y, y, y + 1, y + 1], [x, x + 1, x + 1, x]]
        expected[y, x] = np.count_nonzero(overlaps(around, image.shape)[beside])
    assert none == 0
    assert missing == expected.sum() > 0
    assert value.tobytes() == np.where(expected > 0, np.nan, whole).tobytes()


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_values_do_not_depend_on_what_is_asked_together(name: str, data: st.DataObject) -> None:
    kernels, image, corners = load(name), random_image((20, 20)), rotated(21, 1.2, 12, 9)
    whole, whole_fraction, _ = weigh(kernels, image, corners)
    top, left = data.draw(st.tuples(st.integers(0, 11), st.integers(0, 11)))
    rows = slice(top, data.draw(st.integers(top + 1, 12)))
    columns = slice(left, data.draw(st.integers(left + 1, 12)))
    part = corners[:, top : rows.stop + 1, left : columns.stop + 1]
    x, y = part
    box = (
        slice(max(0, int(y.min())), max(0, int(y.max()) + 2)),
        slice(max(0, int(x.min())), max(0, int(x.max()) + 2)),
    )
    value, fraction, missing = weigh(kernels, image, part, *box)
    assert missing == 0
    assert value.tobytes() == whole[rows, columns].tobytes()
    assert fraction.tobytes() == whole_fraction[rows, columns].tobytes()


def test_each_pixel_needs_its_corners(kernels: Any) -> None:
    image = np.zeros((3, 3))
    for corners, fraction in (((2, 4, 5), (4, 4)), ((2, 5, 5), (4, 5))):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.area(
                image, (0, 0), (3, 3), np.zeros(corners), np.zeros((4, 4)), np.zeros(fraction)
            )


# Maps that repeat themselves


@pytest.mark.parametrize("turn", [(9.0, 0.0), (8.0, 3.0), (0.0, 6.0)])
@pytest.mark.parametrize("first", range(4))
def test_a_quadrilateral_at_the_seam_counts_on_both_sides(
    kernels: Any, turn: tuple[float, float], first: int
) -> None:
    image = random_image((6, 9))
    period = np.array(turn)[:, np.newaxis]
    for shift in (-1.3, 0.2):
        # Across the seam through the origin; corners after it come a turn later.
        quad = np.array([[-0.9, 0.8, 0.7, -0.6], [-0.7, -0.5, 0.9, 0.6]]) + shift
        quad = quad + [[3.0], [2.0]] * (period == 0)
        along = (quad * period).sum(axis=0)
        seen = np.roll(quad + (along < 0) * period, first, axis=1)
        areas = sum(overlaps(quad + k * period, image.shape) for k in (-1, 0, 1, 2))
        value, fraction = weigh_quad(kernels, image, seen, turn=turn)
        if (along < 0).all():  # it is at one side, and no turn is added to that
            areas = overlaps(seen, image.shape)
        if (along < 0).any():
            np.testing.assert_allclose(value, (areas * image).sum() / areas.sum(), rtol=1e-12)
            np.testing.assert_allclose(fraction, areas.sum() / size_of(quad), rtol=1e-12)


def test_a_map_of_a_whole_turn_is_sampled_without_a_seam(kernels: Any) -> None:
    image = random_image((8, 36))
    corners = rotated(15, 0.8, 6, 3.0)
    corners[0] -= 3.5
    repeated = np.tile(image, (1, 3))
    middle = corners + np.reshape([36.0, 0.0], (2, 1, 1))
    expected, fraction, _ = weigh(kernels, repeated, middle, flux=True)
    corners[0] = (corners[0] + 0.5) % 36 - 0.5  # as a WCS has them
    value, same, _ = weigh(kernels, image, corners, flux=True, turn=(36.0, 0.0))
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(same, fraction, rtol=1e-12)


def test_without_a_turn_a_quadrilateral_is_as_large_as_it_looks(kernels: Any) -> None:
    image = random_image((4, 20))
    quad = np.array([[0.0, 19.0, 19.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    areas = overlaps(quad, image.shape)
    for turn in ((0.0, 0.0), (40.0, 0.0)):
        value, _ = weigh_quad(kernels, image, quad, turn=turn)
        np.testing.assert_allclose(value, (areas * image).sum() / areas.sum(), rtol=1e-12)


# Both ways to compute


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, squared=st.booleans(), flux=st.booleans())
def test_both_ways_to_compute_agree(seed: int, squared: bool, flux: bool) -> None:
    rng = np.random.default_rng(seed)
    image = random_image((14, 18), seed, np.float32)
    image[rng.random(image.shape) < 0.1] = np.nan
    corners = rotated(rng.uniform(0, 360), rng.uniform(0.3, 3), 12, 8)
    corners[0] %= 18
    corners[:, 4, 5] = np.nan
    options: dict[str, Any] = {"squared": squared, "flux": flux, "turn": (18.0, 0.0)}
    box = (slice(1, 13), slice(0, 17))
    one, one_fraction, missing = weigh(load("sampling"), image, corners, *box, **options)
    two, two_fraction, same = weigh(load("sampling_numpy"), image, corners, *box, **options)
    np.testing.assert_allclose(two, one, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(two_fraction, one_fraction, rtol=1e-12, atol=1e-13)
    assert missing == same
