"""Values and coverage of mosaics.

Expected values are those of reproject on float64 copies, and of images that are known functions of
their pixels, which astropy's positions lead to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import FK5, SkyCoord
from astropy.wcs import WCS
from numpy.lib.stride_tricks import sliding_window_view

from dask_fits import mosaic
from dask_fits.mosaics import combiners
from dask_fits.mosaics import layers as layers_room
from dask_fits.resampling import combining_numpy, sampling_numpy
from tests.support.mosaics import (
    Floats,
    Picture,
    all_sky_wcs,
    coadd,
    compute,
    covered,
    layers,
    moved,
    paths,
    positions,
    star_image,
    tan_wcs,
    write_image,
    write_pictures,
)

RESAMPLINGS = ("bilinear", "exact", "nearest", "lanczos3")
COMBINES = ("mean", "sum", "median", "clipped", "first", "last", "min", "max")

SHAPE = (130, 150)
STEP = 1e-3

World = tuple[WCS, list[WCS]]
"""The grid of a mosaic, and those of the images."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def around(ra: float, dec: float, **options: object) -> World:
    """Three turned images of other scales around a position."""
    turned = [(0.0, 0.0, 10.0, 1.0), (0.07, 0.02, -33.0, 0.8), (-0.04, -0.05, 95.0, 1.25)]
    stretch = 1 / max(np.cos(np.deg2rad(dec)), 0.05)
    grids = [
        tan_wcs((ra + stretch * x) % 360, dec - abs(y), STEP * scale, SHAPE, angle, **options)
        for x, y, angle, scale in turned
    ]
    return tan_wcs(ra, dec, STEP, (180, 210)), grids


def world(name: str) -> World:
    if name == "AIT":
        return all_sky_wcs("AIT", (140, 280)), [
            all_sky_wcs("CAR", (90, 180), galactic=True),
            all_sky_wcs("CAR", (60, 120), lon=100.0),
        ]
    if name == "galactic":
        grids = [tan_wcs(33.0 + x, 40.0, STEP, SHAPE, 20.0, galactic=True) for x in (0.0, 0.05)]
        centre = grids[0].pixel_to_world(75, 65).icrs
        return tan_wcs(centre.ra.deg, centre.dec.deg, STEP, (180, 210)), grids
    if name == "FK5":
        output, grids = around(33.0, 40.0)
        for grid in grids[1:]:
            middle = SkyCoord(*grid.wcs.crval, unit="deg").transform_to(FK5(equinox="J1975"))
            grid.wcs.crval = [middle.ra.deg, middle.dec.deg]
            grid.wcs.radesys, grid.wcs.equinox = "FK5", 1975.0
            grid.wcs.set()
        return output, grids
    options: dict[str, dict[str, object]] = {
        "SIP": {"sip": True}, "SIN": {"projection": "SIN"}, "ZEA": {"projection": "ZEA"}
    }  # fmt: skip
    places = {"RA 0": (359.99, -20.0), "pole": (40.0, 90.0), "south": (40.0, -89.95)}
    return around(*places.get(name, (120.0, 30.0)), **options.get(name, {}))


PRECISION = {"SIP": 1e-6, "galactic": 1e-10, "FK5": 1e-10, "AIT": 1e-10}
"""Relative to values, where it is not that of float64: inverting a distortion goes on until a step
is below 1e-4 pixels, as astropy's does; from frame to frame there are angles that are rounded."""

WORLDS = ("TAN", "SIP", "SIN", "ZEA", "RA 0", "pole", "south", "galactic", "FK5", "AIT")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[WCS, list[Picture]]]:
    made = {}
    for name in WORLDS:
        directory = tmp_path_factory.mktemp(name.replace(" ", ""))
        output, grids = world(name)
        made[name] = output, write_pictures(directory, grids)
    return made


def expect_mean(images: list[Picture], output: WCS, name: str, **options: Any) -> list[Floats]:
    """reproject's mean, NaN where there is none, and its footprint."""
    if name == "AIT":
        # `reproject_and_coadd` looks for maps of the whole sky only around their edges.
        each = layers(images, output, **options)
        footprint = np.isfinite(each).sum(axis=0).astype(float)
        with np.errstate(invalid="ignore"):
            return [np.nansum(each, axis=0) / footprint, footprint]
    data, footprint = coadd(images, output, combine_function="mean", **options)
    return [np.where(footprint > 0, data, np.nan), footprint]


@pytest.mark.parametrize("roundtrip", [True, False])
@pytest.mark.parametrize("name", WORLDS)
def test_values_and_coverage_are_reprojects(
    name: str, roundtrip: bool, pictures: Mapping[str, tuple[WCS, list[Picture]]]
) -> None:
    output, images = pictures[name]
    expected, footprint = expect_mean(images, output, name, roundtrip_coords=roundtrip)
    m = mosaic(paths(images), output)
    data, weight, count = compute(m.data, m.weight, m.count)
    assert (footprint > 1).mean() > 0.05  # images overlap
    assert data.dtype == weight.dtype == np.float32
    np.testing.assert_array_equal(weight, footprint)
    np.testing.assert_array_equal(count, footprint)
    np.testing.assert_allclose(data, expected, rtol=1e-6)
    [precise] = compute(mosaic(paths(images), output, dtype="float64").data)
    np.testing.assert_allclose(precise, expected, rtol=max(PRECISION.get(name, 0), 2e-10))


@pytest.mark.parametrize("name", WORLDS)
def test_values_of_few_pixels_are_reprojects_to_rounding(
    name: str, pictures: Mapping[str, tuple[WCS, list[Picture]]]
) -> None:
    """Of small grids all positions are astropy's, and none interpolated."""
    output, images = pictures[name]
    height, width = output.array_shape
    small = moved(output, height // 2 - 20, width // 2 - 30, (50, 60))
    expected, _ = expect_mean(images, small, name)
    [data] = compute(mosaic(paths(images), small, dtype="float64").data)
    np.testing.assert_allclose(data, expected, rtol=PRECISION.get(name, 1e-12))


@pytest.mark.parametrize("projection", ["SFL", "MOL", "AIT"])
def test_image_half_beyond_the_sky(
    projection: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Its middle has no place there, nor has one of its corners."""
    whole = tan_wcs(50.0, 0.0, 0.1, (10, 10), projection=projection)
    x, y = whole.world_to_pixel(SkyCoord(50.0, -89.0, unit="deg"))
    wcs = moved(whole, float(np.round(y)) - 60, float(np.round(x)) - 40, (80, 90))
    assert np.isnan(wcs.all_pix2world([[45.0, 40.0]], 0)).all()
    output = tan_wcs(80.0, -89.5, 0.1, (70, 90), 30.0)
    image = Picture(
        write_image(tmp_path / "a.fits", pixels := star_image(rng, (80, 90)), wcs), pixels, wcs
    )
    [expected] = layers([image], output)
    assert 0.02 < np.isfinite(expected).mean() < 0.9
    [data] = compute(mosaic([image.path], output, dtype="float64").data)
    np.testing.assert_allclose(data, expected, rtol=1e-9)


@pytest.mark.parametrize("name", ["TAN", "galactic", "AIT"])
def test_nearest_pixels_are_reprojects(
    name: str, pictures: Mapping[str, tuple[WCS, list[Picture]]]
) -> None:
    output, images = pictures[name]
    expected = layers(images, output, order="nearest-neighbor")
    found = [
        compute(mosaic([each.path], output, resampling="nearest", dtype="f8").data)[0]
        for each in images
    ]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_position_of_whole_pixel_has_no_neighbours(
    resampling: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    """An image that is drawn the other way round is that image, also beside pixels without value."""
    wcs = tan_wcs(359.999, 60.0, STEP, SHAPE)
    flipped = wcs.deepcopy()
    flipped.wcs.cdelt = wcs.wcs.cdelt * [-1, 1]
    flipped.wcs.set()
    pixels = star_image(rng, SHAPE)
    pixels[rng.random(SHAPE) < 0.1] = np.nan
    m = mosaic([write_image(tmp_path / "a.fits", pixels, wcs)], flipped, resampling=resampling)
    data, weight = compute(m.data, m.weight)
    assert not m.inputs["pasted"][0]
    expected = pixels[:, ::-1]
    if resampling == "exact":  # neighbours have a part of next to nothing
        data[weight < 1e-6] = np.nan
        np.testing.assert_allclose(data, expected, rtol=1e-6)
    else:
        np.testing.assert_array_equal(data, expected)
    np.testing.assert_allclose(weight, np.isfinite(expected), atol=1e-6)


@pytest.mark.parametrize("name", ["TAN", "SIP", "galactic", "pole"])
def test_linear_image_is_interpolated_linearly(name: str, tmp_path: Path) -> None:
    output, grids = world(name)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    path = write_image(tmp_path / "a.fits", 100.0 + 3.0 * x - 2.0 * y, grids[0])
    [data] = compute(mosaic([path], output, dtype="float64").data)
    at_x, at_y = positions(output, grids[0])
    inside = (at_x >= 0) & (at_x <= SHAPE[1] - 1) & (at_y >= 0) & (at_y <= SHAPE[0] - 1)
    assert inside.mean() > 0.3
    expected = 100.0 + 3.0 * at_x - 2.0 * at_y
    np.testing.assert_allclose(data[inside], expected[inside], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(np.isfinite(data), covered(at_x, at_y, SHAPE))


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_constants_stay_constants(resampling: Any, combine: Any, tmp_path: Path) -> None:
    output, grids = around(0.001, 40.0)
    output = moved(output, 30, 40, (70, 90))
    weights = [2.0, 0.5, 3.0]
    files = [
        write_image(tmp_path / f"{number}.fits", np.full(SHAPE, 7.25), grid)
        for number, grid in enumerate(grids)
    ]
    m = mosaic(files, output, resampling=resampling, combine=combine, weights=weights, dtype="f8")
    data, weight, count = compute(m.data, m.weight, m.count)
    found = np.array([covered(*positions(output, grid), SHAPE) for grid in grids])
    whole = found.all(axis=0)
    if resampling == "exact":  # which has a part of pixels at edges
        corners = [covered(*positions(output, grid, corners=True), SHAPE) for grid in grids]
        whole = sliding_window_view(np.all(corners, axis=0), (2, 2)).all(axis=(2, 3))
    assert 0.1 < whole.mean() < 0.9
    assert (count[whole] == 3).all()
    chosen = {"first": 2.0, "min": 2.0, "max": 2.0, "last": 3.0}.get(combine, 5.5)
    if combine not in {
        "min",
        "max",
    }:  # which of values that differ by rounding is less, is no matter
        np.testing.assert_allclose(weight[whole], chosen, rtol=1e-12)
    factor = 5.5 if combine == "sum" else 1.0
    np.testing.assert_allclose(data[whole], 7.25 * factor, rtol=1e-12)
    if combine != "sum":
        np.testing.assert_allclose(data[found.any(axis=0)], 7.25, rtol=1e-12)
    if resampling != "exact":
        np.testing.assert_array_equal(count, found.sum(axis=0))
    if resampling != "exact" and combine in {"mean", "sum", "median", "clipped"}:
        np.testing.assert_allclose(weight, np.tensordot(weights, found, 1), rtol=1e-12)


def test_nothing_is_where_no_image_is(pictures: Mapping[str, tuple[WCS, list[Picture]]]) -> None:
    output, images = pictures["TAN"]
    [footprint] = expect_mean(images, output, "TAN")[1:]
    empty = footprint == 0
    assert empty.any()
    m = mosaic(paths(images), output)
    data, weight, count = compute(m.data, m.weight, m.count)
    assert np.isnan(data[empty]).all()
    assert not weight[empty].any()
    assert not count[empty].any()
    filled = mosaic(paths(images), output, fill_value=-1.5)
    again, weight_again = compute(filled.data, filled.weight)
    np.testing.assert_array_equal(again, np.where(empty, -1.5, data))
    np.testing.assert_array_equal(weight_again, weight)


@pytest.mark.parametrize("combine", ["mean", "clipped", "max"])
@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_kernels_without_numba_make_the_same(
    resampling: Any,
    combine: Any,
    pictures: Mapping[str, tuple[WCS, list[Picture]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, images = pictures["TAN"]
    output = moved(output, 80, 100, (70, 90))  # where all images meet

    def make() -> list[Any]:
        m = mosaic(
            paths(images), output, resampling=resampling, combine=combine, dtype="f8",
            conserve="flux", error=[np.full(SHAPE, 2.0)] * len(images),
        )  # fmt: skip
        return compute(m.data, m.weight, m.count, m.error)

    pytest.importorskip("numba")
    compiled = make()
    with monkeypatch.context() as patch:
        patch.setattr(layers_room, "sampling", lambda: sampling_numpy)
        patch.setattr(combiners, "combining", lambda: combining_numpy)
        plain = make()
    for found, expected in zip(plain, compiled, strict=True):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
