"""Mosaics by exact areas, and those that conserve flux.

Expected values are those of `reproject_exact`, and of areas between the positions of pixels' corners
as astropy finds them, which a polygon that is cut has of each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.lib.stride_tricks import sliding_window_view
from reproject import reproject_exact

from dask_fits import mosaic
from tests.support.mosaics import (
    Floats,
    all_sky_wcs,
    compute,
    covered,
    moved,
    positions,
    star_image,
    tan_wcs,
    write_image,
)

SHAPE = (90, 110)

INPUTS: dict[str, WCS] = {
    "TAN": tan_wcs(10.0, 20.0, 1e-3, SHAPE, 25.0),
    "coarse": tan_wcs(10.0, 20.0, 0.37e-3, SHAPE, -70.0),
    "fine": tan_wcs(10.0, 20.0, 2.6e-3, SHAPE, 140.0),
    "flipped": tan_wcs(10.0, 20.0, -1e-3, SHAPE, 8.0, projection="SIN"),
    "SIP": tan_wcs(10.0, 20.0, 1e-3, SHAPE, 25.0, sip=True),
    "RA 0": tan_wcs(0.0, 20.0, 1e-3, SHAPE, 25.0),
    "pole": tan_wcs(10.0, 90.0, 1e-3, SHAPE, 25.0),
    "galactic": tan_wcs(10.0, 20.0, 1e-3, SHAPE, 25.0, galactic=True),
}

BULGE = {"SIP": 1e-4}
"""Areas by which quadrilaterals differ if their edges are straight in the one image and bent in the
other one, in which reproject draws them."""


def output_for(wcs: WCS, scale: float = 1.1e-3, shape: tuple[int, int] = (150, 160)) -> WCS:
    """A grid around an image, some pixels off its middle."""
    middle = wcs.pixel_to_world(60.3, 44.8).icrs
    return tan_wcs(middle.ra.deg, middle.dec.deg, scale, shape, 3.0)


def area_of(x: Floats, y: Floats) -> Floats:
    """The areas of pixels, (h, w), by the positions of their corners, (h + 1, w + 1)."""
    corners = [
        (
            x[k : x.shape[0] - 1 + k, q : x.shape[1] - 1 + q],
            y[k : x.shape[0] - 1 + k, q : x.shape[1] - 1 + q],
        )
        for k, q in ((0, 0), (0, 1), (1, 1), (1, 0))
    ]
    terms = [
        a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return np.asarray(np.abs(sum(terms)) / 2)


@pytest.mark.parametrize("name", INPUTS)
def test_values_and_parts_are_those_of_reproject_exact(name: str, tmp_path: Path) -> None:
    wcs = INPUTS[name]
    pixels = star_image(np.random.default_rng(2), SHAPE).astype(float)
    output = output_for(wcs)
    path = write_image(tmp_path / "a.fits", pixels, wcs)
    m = mosaic([path], output, resampling="exact", dtype="float64")
    data, weight = compute(m.data, m.weight)
    expected, part = reproject_exact(
        (pixels, wcs), output, shape_out=output.array_shape, parallel=False
    )
    bulge = BULGE.get(name, 0.0)
    np.testing.assert_allclose(weight, np.nan_to_num(part), atol=bulge or 1e-7, rtol=0)
    clear = weight > 1e-3
    assert clear.sum() > 500
    np.testing.assert_array_equal(clear, part > 1e-3)
    np.testing.assert_allclose(data[clear], expected[clear], rtol=bulge or 5e-6)
    inside = part > 1 - 1e-6
    np.testing.assert_allclose(data[inside], expected[inside], rtol=bulge or 5e-7)


@pytest.mark.parametrize("name", INPUTS)
def test_linear_image_is_its_value_at_the_middle_of_areas(name: str, tmp_path: Path) -> None:
    wcs = INPUTS[name]
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    # Pixels are steps, so it is only nearly linear along the edges of an area of many pixels.
    output = output_for(wcs, 20e-3, (16, 17))
    path = write_image(tmp_path / "a.fits", 500.0 + 3.0 * x - 2.0 * y, wcs)
    [data] = compute(mosaic([path], output, resampling="exact", dtype="float64").data)
    at_x, at_y = positions(output, wcs, corners=True)
    inside = sliding_window_view(covered(at_x, at_y, SHAPE), (2, 2)).all(axis=(2, 3))
    assert inside.any()
    middles = [sliding_window_view(each, (2, 2)).mean(axis=(2, 3)) for each in (at_x, at_y)]
    expected = 500.0 + 3.0 * middles[0] - 2.0 * middles[1]
    np.testing.assert_allclose(data[inside], expected[inside], atol=0.05, rtol=0)


@pytest.mark.parametrize("ratio", [0.31, 1.0, 1.7, 12.0])
@pytest.mark.parametrize("name", INPUTS)
def test_flux_in_is_flux_out(name: str, ratio: float, tmp_path: Path) -> None:
    wcs = INPUTS[name]
    pixels = star_image(np.random.default_rng(3), SHAPE)
    side = int(1.5 * max(SHAPE) / ratio) + 8
    output = output_for(wcs, ratio * abs(wcs.wcs.cdelt[0]), (side, side))
    path = write_image(tmp_path / "a.fits", pixels, wcs)
    m = mosaic([path], output, resampling="exact", conserve="flux", combine="sum", dtype="float64")
    [data] = compute(m.data)
    total = pixels.astype(float).sum()
    assert abs(np.nansum(data) / total - 1) < 1e-12


@pytest.mark.filterwarnings("ignore:.*misses pixels between:dask_fits.FitsWarning")
@pytest.mark.parametrize("resampling", ["bilinear", "nearest", "lanczos3", "exact"])
@pytest.mark.parametrize("name", INPUTS)
def test_flux_is_brightness_times_the_ratio_of_areas(
    name: str, resampling: Any, tmp_path: Path
) -> None:
    wcs = INPUTS[name]
    output = output_for(wcs)
    pixels = star_image(np.random.default_rng(4), SHAPE)
    path = write_image(tmp_path / "a.fits", pixels, wcs)
    given: dict[str, Any] = {"resampling": resampling, "dtype": "float64", "error": [pixels / 9]}
    bright = mosaic([path], output, conserve="surface brightness", **given)
    light = mosaic([path], output, conserve="flux", **given)
    brightness, flux, error, flux_error = compute(
        bright.data, light.data, bright.error, light.error
    )
    at_x, at_y = positions(output, wcs, corners=True)
    inside = sliding_window_view(covered(at_x, at_y, SHAPE), (2, 2)).all(axis=(2, 3))
    assert inside.sum() > 500
    ratio = area_of(at_x, at_y)
    assert abs(np.median(ratio) / (1.1e-3 / wcs.wcs.cdelt[0]) ** 2 - 1) < 0.05
    np.testing.assert_allclose(flux[inside], (brightness * ratio)[inside], rtol=1e-6)
    np.testing.assert_allclose(flux_error[inside], (error * ratio)[inside], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(flux), np.isnan(brightness))


def test_flux_of_two_parts_is_that_of_the_whole(tmp_path: Path) -> None:
    """The mean of pixels that two tiles share is their flux, whatever part each of them has."""
    wcs, output = INPUTS["TAN"], output_for(INPUTS["TAN"], 1.4e-3)
    pixels = np.full(SHAPE, 7.0)
    tiles = [moved(wcs, 0, 0, (90, 33)), moved(wcs, 0, 33, (90, 77))]
    files = [
        write_image(tmp_path / f"{number}.fits", np.full(tile.array_shape, 7.0), tile)
        for number, tile in enumerate(tiles)
    ]
    files.append(write_image(tmp_path / "whole.fits", pixels, wcs))
    options: dict[str, Any] = {"resampling": "exact", "conserve": "flux", "dtype": "float64"}
    m = mosaic(files[2:], output, **options)
    whole, weight = compute(m.data, m.weight)
    two = mosaic(files[:2], output, **options)
    found, count, parts = compute(two.data, two.count, two.weight)
    inside = weight > 1 - 1e-9
    assert (count[inside] == 2).sum() > 30
    np.testing.assert_allclose(found[inside], whole[inside], rtol=1e-9)
    np.testing.assert_allclose(parts, weight, atol=1e-9)


def test_parts_of_pixels_are_weights(tmp_path: Path) -> None:
    """Of a constant image the mosaic is that constant, and weights are areas that are covered."""
    wcs, output = INPUTS["TAN"], output_for(INPUTS["TAN"])
    path = write_image(tmp_path / "a.fits", np.full(SHAPE, 3.5), wcs)
    m = mosaic([path, path], output, resampling="exact", weights=[2.0, 0.5], dtype="float64")
    data, weight, count = compute(m.data, m.weight, m.count)
    np.testing.assert_allclose(data[weight > 1e-6], 3.5, rtol=1e-9)
    area = area_of(*positions(output, wcs, corners=True))
    assert abs((weight * area).sum() / (2.5 * SHAPE[0] * SHAPE[1]) - 1) < 1e-9
    np.testing.assert_array_equal(count > 0, weight > 0)


def test_pixels_without_value_have_no_area(tmp_path: Path) -> None:
    """Areas are those of the image without such pixels: of zeros in an image of ones."""
    wcs, output = INPUTS["coarse"], output_for(INPUTS["coarse"])
    rng = np.random.default_rng(6)
    pixels = star_image(rng, SHAPE).astype(float)
    lost = rng.random(SHAPE) < 0.2
    kept = np.where(lost, 0.0, 1.0)
    path = write_image(tmp_path / "a.fits", np.where(lost, np.nan, pixels), wcs)
    m = mosaic([path], output, resampling="exact", dtype="float64")
    data, weight = compute(m.data, m.weight)
    shape = output.array_shape
    part, cover = reproject_exact((kept, wcs), output, shape_out=shape, parallel=False)
    total, _ = reproject_exact((pixels * kept, wcs), output, shape_out=shape, parallel=False)
    expected = np.nan_to_num(part * cover)
    np.testing.assert_allclose(weight, expected, atol=1e-7)
    clear = expected > 1e-3
    np.testing.assert_allclose(data[clear], total[clear] / part[clear], rtol=5e-6)


def overlap(corners: Sequence[tuple[float, float]], x: int, y: int) -> float:
    """The area that a quadrilateral has of a pixel, by cutting it along each side of that."""
    polygon = list(corners)
    for axis, limit, sign in ((0, x - 0.5, 1), (0, x + 0.5, -1), (1, y - 0.5, 1), (1, y + 0.5, -1)):
        cut: list[tuple[float, float]] = []
        for one, other in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            inside = [sign * (point[axis] - limit) >= 0 for point in (one, other)]
            if inside[0]:
                cut.append(one)
            if inside[0] != inside[1]:
                part = (limit - one[axis]) / (other[axis] - one[axis])
                cut.append(
                    (one[0] + part * (other[0] - one[0]), one[1] + part * (other[1] - one[1]))
                )
        polygon = cut
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2


def areas(wcs: WCS, shape: tuple[int, int], output: WCS) -> Floats:
    """The area that each pixel of a grid has of each pixel of an image, in pixels of that."""
    x, y = positions(output, wcs, corners=True)
    found = np.zeros((*output.array_shape, *shape))
    for row, column in np.ndindex(output.array_shape):
        at = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
        quad = [(float(x[corner]), float(y[corner])) for corner in at]
        low, high = np.floor(np.min(quad, axis=0) + 0.5), np.floor(np.max(quad, axis=0) + 0.5)
        for j in range(max(int(low[1]), 0), min(int(high[1]) + 1, shape[0])):
            for i in range(max(int(low[0]), 0), min(int(high[0]) + 1, shape[1])):
                found[row, column, j, i] = overlap(quad, i, j)
    return found


@pytest.mark.parametrize("conserve", ["surface brightness", "flux"])
@pytest.mark.parametrize("unused", [False, True])
def test_exact_areas_weigh_errors_and_weights(unused: bool, conserve: Any, tmp_path: Path) -> None:
    shape = (14, 15)
    rng = np.random.default_rng(8)
    wcs = tan_wcs(80.0, -30.0, 1e-3, shape, 20.0)
    output = tan_wcs(80.0, -30.0, 1.6e-3, (10, 11), -3.0)
    sci, wht, err = rng.uniform(50, 60, shape), rng.uniform(1, 2, shape), rng.uniform(1, 2, shape)
    mask = np.zeros(shape, np.uint8)
    if unused:
        mask[rng.random(shape) < 0.2] = 1
    path = write_image(tmp_path / "a.fits", sci, wcs)
    m = mosaic(
        [path], output, resampling="exact", weights=[wht], error=[err], mask=[mask], dtype="f8",
        conserve=conserve,
    )  # fmt: skip
    data, weight, error = compute(m.data, m.weight, m.error)
    area = areas(wcs, shape, output)
    full = area.sum(axis=(2, 3)).max()  # that of a pixel which is within the image
    ratio = full if conserve == "flux" else 1.0
    used = area * (mask == 0)
    part = used.sum(axis=(2, 3))
    clear = part > 1e-6
    assert unused == (part < 0.999 * area.sum(axis=(2, 3))).any()
    with np.errstate(invalid="ignore"):
        value = (used * sci).sum(axis=(2, 3)) / part
        deviation = np.sqrt((used**2 * err**2).sum(axis=(2, 3))) / part
    np.testing.assert_allclose(data[clear], ratio * value[clear], rtol=1e-4)
    np.testing.assert_allclose(error[clear], ratio * deviation[clear], rtol=1e-4)
    np.testing.assert_allclose(weight, (used * wht).sum(axis=(2, 3)) / full, rtol=1e-4)


def test_what_rounding_leaves_beside_an_edge_is_no_area(tmp_path: Path) -> None:
    """The same pixels, drawn the other way round, are none beyond the edges."""
    wcs = tan_wcs(10.0, 20.0, 1e-3, SHAPE)
    flipped = wcs.deepcopy()
    flipped.wcs.cdelt = wcs.wcs.cdelt * [-1, 1]
    flipped.wcs.set()
    path = write_image(tmp_path / "image.fits", np.ones(SHAPE), wcs)
    m = mosaic([path], moved(flipped, -5, -5, (100, 120)), resampling="exact", combine="first")
    assert compute(m.count)[0].sum() == SHAPE[0] * SHAPE[1]


@pytest.mark.parametrize("conserve", ["surface brightness", "flux"])
@pytest.mark.parametrize("projection", ["AIT", "CAR"])
def test_pixels_on_the_seam_of_a_map_are_those_of_their_centres(
    projection: str, conserve: Any, tmp_path: Path
) -> None:
    """An image of cos(2 l), which changes by less than 0.02 from one of its pixels to the next."""
    wcs = all_sky_wcs(projection, (180, 360))
    y, x = np.mgrid[:180, :360]
    brightness = np.cos(2 * np.deg2rad(wcs.pixel_to_world_values(x, y)[0]))
    path = write_image(tmp_path / "sky.fits", brightness, wcs)
    output = tan_wcs(180.0, 10.0, 0.5, (80, 80))
    m = mosaic([path], output, resampling="exact", conserve=conserve, dtype="f8")
    [data] = compute(m.data)
    y, x = np.mgrid[:80, :80]
    expected = np.cos(2 * np.deg2rad(output.pixel_to_world_values(x, y)[0]))
    if conserve == "flux":
        # A pixel of the tangent plane is less of the sky the farther out it is: by cos(d)^3.
        distance = np.hypot(x - 39.5, y - 39.5) * np.deg2rad(0.5)
        cells = {"AIT": abs(np.linalg.det(wcs.pixel_scale_matrix)), "CAR": 1.0}[projection]
        expected *= 0.25 * np.cos(np.arctan(distance)) ** 3 / cells
        if projection == "CAR":  # whose pixels are smaller than they are at the equator
            expected /= np.cos(np.deg2rad(output.pixel_to_world_values(x, y)[1]))
    known = np.isfinite(data)
    assert np.count_nonzero(~known) <= (20 if projection == "AIT" else 0)  # the blank margin
    largest = 0.02 if conserve == "surface brightness" else 0.15
    np.testing.assert_allclose(data[known], expected[known], rtol=largest, atol=0.02)
