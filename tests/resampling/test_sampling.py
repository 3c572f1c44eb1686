"""Sampling of images between their pixels: against scipy, and against formulas point by point."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import interpolate as scipy_interpolate
from scipy import ndimage

METHODS = ["nearest", "bilinear", "lanczos3"]
SEEDS = st.integers(0, 2**32 - 1)


def load(name: str) -> Any:
    if name == "sampling":
        pytest.importorskip("numba")
    return importlib.import_module(f"dask_fits.resampling.{name}")


@pytest.fixture(params=["sampling", "sampling_numpy"], scope="module")
def kernels(request: pytest.FixtureRequest) -> Any:
    """The compiled functions, and those of NumPy alone."""
    return load(request.param)


# Positions between nodes


def node_points(step: int, cells: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the points that the nodes belong to; two nodes come before point 0."""
    return tuple(step * (np.arange(count + 5.0) - 2) for count in cells)  # type: ignore[return-value]


def random_nodes(cells: tuple[int, int], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1e3, (2, cells[0] + 5, cells[1] + 5))


def fill(
    kernels: Any,
    nodes: np.ndarray,
    step: int,
    used: np.ndarray,
    first: tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Positions of a rectangle of points, or of all of the patch; -1 where none is written."""
    height, width = shape or (used.shape[0] * step + 1, used.shape[1] * step + 1)
    out = np.full((2, height, width), -1.0)
    kernels.interpolate(nodes, step, used, first, out)
    return out


@pytest.mark.parametrize("step", [1, 3, 8, 32])
def test_cubic_polynomials_are_interpolated_exactly(kernels: Any, step: int) -> None:
    def polynomial(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, x = y / 50, x / 50
        return np.array([(x**3 - 2 * x + 1) * (y**2 + 3), 2 * y**3 * x**2 - y + 5 * x])

    cells = (3, 2)
    nodes = polynomial(*np.meshgrid(*node_points(step, cells), indexing="ij"))
    found = fill(kernels, nodes, step, np.ones(cells, bool))
    expected = polynomial(*np.mgrid[: 3 * step + 1.0, : 2 * step + 1.0])
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13 * np.abs(nodes).max())


def test_each_point_is_of_the_cubics_through_four_nodes(kernels: Any) -> None:
    step, cells = 5, (2, 3)
    nodes = random_nodes(cells, 1)
    rows, columns = node_points(step, cells)
    found = fill(kernels, nodes, step, np.ones(cells, np.uint8))
    for y, x in np.ndindex(found.shape[1:]):
        k, l = min(y // step, cells[0] - 1) + 1, min(x // step, cells[1] - 1) + 1  # noqa: E741
        along = scipy_interpolate.BarycentricInterpolator(
            columns[l : l + 4], nodes[:, k : k + 4, l : l + 4], axis=2
        )(x)
        expected = scipy_interpolate.BarycentricInterpolator(rows[k : k + 4], along, axis=1)(y)
        np.testing.assert_allclose(found[:, y, x], expected, rtol=1e-11, atol=1e-9)


def test_points_at_nodes_have_their_positions_exactly(kernels: Any) -> None:
    step, cells = 7, (3, 4)
    nodes = random_nodes(cells, 2)
    found = fill(kernels, nodes, step, np.ones(cells, bool))
    np.testing.assert_array_equal(found[:, ::step, ::step], nodes[:, 2:-2, 2:-2])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), step=st.integers(1, 9), seed=SEEDS)
@pytest.mark.parametrize("name", ["sampling", "sampling_numpy"])
def test_positions_do_not_depend_on_the_rectangle(
    name: str, data: st.DataObject, step: int, seed: int
) -> None:
    kernels = load(name)
    cells = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    used = np.random.default_rng(seed).random(cells) < 0.7
    nodes = random_nodes(cells, seed)
    whole = fill(kernels, nodes, step, used)
    first = tuple(data.draw(st.integers(0, size - 1)) for size in whole.shape[1:])
    shape = tuple(
        data.draw(st.integers(1, size - start))
        for size, start in zip(whole.shape[1:], first, strict=True)
    )
    part = fill(kernels, nodes, step, used, first, shape)  # type: ignore[arg-type]
    rows, columns = (slice(a, a + n) for a, n in zip(first, shape, strict=True))
    assert part.tobytes() == whole[:, rows, columns].tobytes()


def test_cells_that_are_not_wanted_are_left_as_they_are(kernels: Any) -> None:
    step, used = 4, np.array([[True, False, True], [False, True, False]])
    nodes = random_nodes(used.shape, 3)
    written = fill(kernels, nodes, step, used) != -1.0
    expected = np.zeros((9, 13), bool)
    expected[0:4, 0:4] = True
    expected[0:4, 8:13] = True  # the last cells have the points of the last edge
    expected[4:9, 4:8] = True
    np.testing.assert_array_equal(written, [expected, expected])


@pytest.mark.filterwarnings("error")
def test_nodes_without_a_position_harm_only_the_cells_around(kernels: Any) -> None:
    step, cells = 4, (1, 8)
    nodes = random_nodes(cells, 4)
    expected = fill(kernels, nodes, step, np.ones(cells, bool))
    nodes[0, 0, 0], nodes[1, 0, 1] = np.nan, np.inf
    used = np.arange(8)[np.newaxis] >= 2
    found = fill(kernels, nodes, step, used)
    np.testing.assert_array_equal(found[..., 8:], expected[..., 8:])
    assert (found[..., :8] == -1).all()


def test_positions_are_filled_into_a_part_of_an_array(kernels: Any) -> None:
    used = np.ones((2, 2), bool)
    nodes = random_nodes((2, 2), 5)
    around = np.zeros((2, 12, 15))
    kernels.interpolate(nodes, 4, used, (0, 0), around[:, 2:11, 3:12])
    np.testing.assert_array_equal(around[:, 2:11, 3:12], fill(kernels, nodes, 4, used))
    assert np.count_nonzero(around) == 2 * 9 * 9


@pytest.mark.parametrize(
    ("cells", "first", "shape"),
    [
        ((2, 2), (-1, 0), (3, 3)),
        ((2, 2), (0, 0), (10, 3)),
        ((2, 2), (0, 7), (3, 3)),
        ((4, 2), (0, 0), (3, 3)),
        ((2, 0), (0, 0), (1, 1)),
    ],
)
def test_points_without_nodes_are_refused(
    kernels: Any, cells: tuple[int, int], first: tuple[int, int], shape: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=r"nodes of|is not within"):
        kernels.interpolate(np.zeros((2, 7, 7)), 4, np.ones(cells), first, np.zeros((2, *shape)))


# Images at positions


def weights(method: str, x: float, size: int) -> np.ndarray:
    """The weights of all pixels of an axis, by the formulas."""
    if method == "nearest":
        index = min(int(np.floor(x + 0.5)), size - 1)
        return (np.arange(size) == index).astype(float)
    if abs(x - round(x)) < 1e-7:
        x = round(x)
    if method == "bilinear":
        return np.array([np.interp(x, np.arange(size), row) for row in np.eye(size)])
    taps = np.arange(np.floor(x) - 2, np.floor(x) + 4)
    values = np.sinc(x - taps) * np.sinc((x - taps) / 3) * (np.abs(x - taps) < 3)
    found = np.zeros(size)
    np.add.at(found, np.clip(taps.astype(int), 0, size - 1), values / values.sum())
    return np.where(np.abs(found) < 1e-15, 0.0, found)  # sinc is not quite 0 at whole numbers


def by_formula(
    method: str, image: np.ndarray, positions: np.ndarray, squared: bool = False
) -> np.ndarray:
    """An image at positions, one after the other."""
    ny, nx = image.shape
    found = np.full(positions.shape[1:], np.nan)
    for at in np.ndindex(found.shape):
        x, y = positions[(slice(None), *at)]
        if -0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5:
            both = np.outer(weights(method, y, ny), weights(method, x, nx))
            if squared:
                both = both**2
            counts = both != 0
            with np.errstate(invalid="ignore"):
                found[at] = (both[counts] * image[counts]).sum()
    return found


def sample(
    kernels: Any,
    method: str,
    image: np.ndarray,
    positions: np.ndarray,
    rows: slice = slice(None),
    columns: slice = slice(None),
    **options: bool,
) -> tuple[np.ndarray, int]:
    """Sample from a box of an image, which cannot be written to."""
    box = np.ascontiguousarray(image[rows, columns])
    box.flags.writeable = False
    positions = positions.copy()
    positions.flags.writeable = False
    out = np.full(positions.shape[1:], -1.0)
    origin = (rows.start or 0, columns.start or 0)
    function = getattr(kernels, method)
    return out, function(box, origin, image.shape, positions, out, **options)


def random_positions(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Positions on an image and beside it, some of them whole numbers and halves, or nearly so."""
    rng = np.random.default_rng(seed)
    size = np.array(shape[::-1])[:, np.newaxis, np.newaxis]
    positions = rng.uniform(-1, size, (2, 17, 23))
    exact = np.clip(np.round(2 * positions) / 2, -0.5, size - 0.5)
    positions = np.where(rng.random(positions.shape) < 0.2, exact, positions)
    positions += np.where(rng.random(positions.shape) < 0.1, 3e-8, 0.0)
    positions[:, 3, 4:9] = np.nan
    positions[0, 5, 4:9] = np.nan
    return positions


def random_image(shape: tuple[int, int], seed: int, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, shape).astype(dtype)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(9, 12), (1, 1), (2, 3), (5, 1)])
def test_values_follow_the_formulas(
    kernels: Any, method: str, shape: tuple[int, int], dtype: Any, squared: bool
) -> None:
    image = random_image(shape, 6, dtype)
    positions = random_positions(shape, 7)
    found, missing = sample(kernels, method, image, positions, squared=squared)
    expected = by_formula(method, image.astype(float), positions, squared)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert missing == 0


def test_bilinear_is_that_of_scipy(kernels: Any) -> None:
    image = random_image((40, 50), 8)
    positions = np.random.default_rng(9).uniform(-0.5, 39.5, (2, 100, 100))
    found, _ = sample(kernels, "bilinear", image, positions)
    expected = ndimage.map_coordinates(image, positions[::-1], order=1, mode="nearest")
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bilinear_reproduces_a_plane(kernels: Any) -> None:
    y, x = np.mgrid[:20.0, :30.0]
    positions = np.random.default_rng(10).uniform(0, 19, (2, 50, 60))
    found, _ = sample(kernels, "bilinear", 3 * x - 5 * y + 7, positions)
    np.testing.assert_allclose(found, 3 * positions[0] - 5 * positions[1] + 7, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_constants_stay_what_they_are(kernels: Any, method: str) -> None:
    positions = np.random.default_rng(11).uniform(-0.5, 7.5, (2, 50, 60))
    found, _ = sample(kernels, method, np.full((8, 8), 0.1, np.float32), positions)
    np.testing.assert_allclose(found, np.float64(np.float32(0.1)), rtol=1e-14)
    np.testing.assert_array_equal(found.astype(np.float32), np.float32(0.1))


@pytest.mark.parametrize("method", METHODS)
def test_an_image_covers_its_outer_pixels_and_no_more(kernels: Any, method: str) -> None:
    image = random_image((4, 6), 12)
    inside = [(-0.5, -0.5), (5.5, -0.5), (-0.5, 3.5), (5.5, 3.5), (2, 3.5), (5.5, 1)]
    outside = [
        (np.nextafter(-0.5, -1), 1),
        (np.nextafter(5.5, 6), 1),
        (1, np.nextafter(-0.5, -1)),
        (1, np.nextafter(3.5, 4)),
        (np.inf, 1),
        (1, -np.inf),
        (1e300, 1),
        (np.nan, np.nan),
    ]
    found, missing = sample(kernels, method, image, np.array([inside + outside]).transpose(2, 0, 1))
    np.testing.assert_array_equal(np.isnan(found[0]), [False] * 6 + [True] * 8)
    assert missing == 0


def test_nearest_takes_the_upper_of_two_pixels(kernels: Any) -> None:
    image = np.arange(12.0).reshape(3, 4)
    positions = np.array([[[-0.5, 0.5, 1.5, 2.5, 3.5, 0.499]], [[0, 0.5, -0.5, 1.5, 2.5, 1.501]]])
    found, _ = sample(kernels, "nearest", image, positions)
    np.testing.assert_array_equal(found, [[0, 5, 2, 11, 11, 8]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS)
def test_pixels_beside_a_whole_one_do_no_harm(kernels: Any, method: str, bad: float) -> None:
    image = np.full((7, 7), bad)
    image[3, 3] = 5.0
    near = np.array([3 - 9e-8, 3.0, 3 + 9e-8])
    positions = np.array(np.meshgrid(near, near))
    found, _ = sample(kernels, method, image, positions)
    np.testing.assert_array_equal(found, 5.0)
    image[:] = 5.0
    image[3, 3] = bad  # is itself what it is
    found, _ = sample(kernels, method, image, positions)
    np.testing.assert_array_equal(found, bad)


@pytest.mark.parametrize("method", ["bilinear", "lanczos3"])
def test_a_pixel_without_a_value_has_weight_on_those_around(kernels: Any, method: str) -> None:
    image = random_image((16, 16), 13)
    image[8, 7] = np.nan
    positions = np.random.default_rng(14).uniform(2, 13, (2, 60, 60))
    found, _ = sample(kernels, method, image, positions)
    reach = 1 if method == "bilinear" else 3
    near = (abs(positions[0] - 7) < reach) & (abs(positions[1] - 8) < reach)
    np.testing.assert_array_equal(np.isnan(found), near)


@pytest.mark.parametrize("method", METHODS)
def test_pixels_beside_the_box_are_counted_and_not_read(kernels: Any, method: str) -> None:
    image = random_image((14, 16), 15)
    rows, columns = slice(2, 10), slice(4, 13)
    positions = random_positions(image.shape, 16)
    whole, none = sample(kernels, method, image, positions)
    found, missing = sample(kernels, method, image, positions, rows, columns)
    beside = np.ones(image.shape, bool)
    beside[rows, columns] = False
    needs = by_formula(method, np.where(beside, np.inf, 1.0), positions)
    needed = ~np.isfinite(needs) & ~np.isnan(whole)  # inf by weights of both signs may be NaN
    assert none == 0
    assert missing == np.count_nonzero(needed) > 0
    assert found.tobytes() == np.where(needed, np.nan, whole).tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_box_has_nothing(kernels: Any, method: str) -> None:
    image = random_image((4, 4), 17)
    positions = np.array([[[1.5, -3.0]], [[1.0, 1.0]]])
    found, missing = sample(kernels, method, image, positions, slice(2, 2), slice(1, 1))
    assert np.isnan(found).all()
    assert missing == 1


@pytest.mark.parametrize("method", METHODS)
def test_each_point_needs_a_position(kernels: Any, method: str) -> None:
    with pytest.raises(ValueError, match=r"positions\.shape"):
        getattr(kernels, method)(
            np.zeros((3, 3)), (0, 0), (3, 3), np.zeros((2, 4, 4)), np.zeros((4, 5))
        )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, squared=st.booleans())
@pytest.mark.parametrize("method", METHODS)
def test_both_ways_to_compute_agree(method: str, seed: int, squared: bool) -> None:
    image = random_image((11, 13), seed, np.float32)
    image[np.random.default_rng(seed).random(image.shape) < 0.05] = np.nan
    positions = random_positions((11, 13), seed)
    box = (slice(1, 10), slice(2, 12))
    compiled, missing = sample(load("sampling"), method, image, positions, *box, squared=squared)
    plain, same = sample(load("sampling_numpy"), method, image, positions, *box, squared=squared)
    np.testing.assert_allclose(plain, compiled, rtol=1e-12, atol=1e-12)
    assert missing == same


def test_both_ways_to_interpolate_agree() -> None:
    nodes = random_nodes((5, 6), 18)
    used = np.random.default_rng(19).random((5, 6)) < 0.8
    compiled = fill(load("sampling"), nodes, 6, used)
    np.testing.assert_allclose(fill(load("sampling_numpy"), nodes, 6, used), compiled, rtol=1e-12)
