"""Weights, masks and errors of the images of a mosaic.

Expected values are made by NumPy: of the layers that reproject makes of masked images, and of the
weights that an interpolation gives to pixels around the positions that astropy finds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from dask_fits import FitsFormatError, HduNotFoundError, mosaic, open_collection
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes
from tests.support.mosaics import (
    Floats,
    Picture,
    compute,
    covered,
    layers,
    positions,
    sky_header,
    star_image,
    tan_wcs,
    write_image,
)

SHAPE = (60, 70)

OUTPUT = tan_wcs(80.0, -30.0, 1e-3, (62, 64))

GRIDS = [
    tan_wcs(80.0, -30.0, 1.05e-3, SHAPE, 15.0),
    tan_wcs(80.02, -30.01, 0.95e-3, SHAPE, -40.0),
    tan_wcs(79.99, -29.98, 1e-3, SHAPE, 100.0),
]

BITS = (1, 4, 32)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Exposure:
    """An image, and what its file has besides."""

    path: str
    wcs: WCS
    sci: Floats
    wht: Floats
    err: Floats
    dq: Array

    def masked(self, unused: Array) -> Picture:
        """The image without some of its pixels."""
        return Picture(self.path, np.where(unused, np.nan, self.sci), self.wcs)


def make_exposure(path: Path, wcs: WCS, seed: int, versions: Sequence[int] = (1,)) -> Exposure:
    """Write a file of several HDUs for each of some EXTVERs; return what the last one has."""
    rng = np.random.default_rng(seed)
    hdus: list[Any] = [fits.PrimaryHDU()]
    for ver in versions:
        sci = star_image(rng, SHAPE).astype(float)
        wht = rng.uniform(0.5, 2.0, SHAPE)
        wht[np.pad(rng.random((50, 60)) < 0.01, 5)] = 0.0
        err = rng.uniform(1.0, 3.0, SHAPE)
        dq = rng.choice(BITS, SHAPE) * np.pad(rng.random((50, 60)) < 0.01, 5)
        header = sky_header(wcs, EXPTIME=10.0 * seed)
        hdus += [
            fits.ImageHDU(pixels, header, name=name, ver=ver)
            for name, pixels in (
                ("SCI", sci),
                ("ERR", err),
                ("DQ", dq.astype(np.int16)),
                ("WHT", wht),
            )
        ]
        hdus.append(fits.ImageHDU(err**2, header, name="VAR", ver=ver))
    write_at_rest(path, fits_bytes(*hdus))
    return Exposure(str(path), wcs, sci, wht, err, dq)


@pytest.fixture(scope="module")
def exposures(tmp_path_factory: pytest.TempPathFactory) -> list[Exposure]:
    directory = tmp_path_factory.mktemp("exposures")
    return [
        make_exposure(directory / f"{number}.fits", wcs, number + 1)
        for number, wcs in enumerate(GRIDS)
    ]


def interpolate(pixels: Floats, wcs: WCS, *, squared: bool = False) -> Floats:
    """Bilinear interpolation at astropy's positions; `squared` takes the squares of its weights."""
    x, y = positions(OUTPUT, wcs)
    on_image = covered(x, y, pixels.shape)
    result = np.zeros(x.shape)
    (column, right), (row, below) = (
        np.divmod(np.clip(np.where(on_image, at, 0), 0, length - 1), 1)
        for at, length in ((x, pixels.shape[1]), (y, pixels.shape[0]))
    )
    for down, along in itertools.product((0, 1), (0, 1)):
        weight = (below if down else 1 - below) * (right if along else 1 - right)
        rows = np.minimum(row.astype(int) + down, pixels.shape[0] - 1)
        columns = np.minimum(column.astype(int) + along, pixels.shape[1] - 1)
        result += np.where(
            weight > 0, (weight**2 if squared else weight) * pixels[rows, columns], 0
        )
    return np.where(on_image, result, np.nan)


def combined(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted means, and sums of weights, of layers where they have values."""
    valid = np.isfinite(values)
    total = np.where(valid, weights, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(valid, weights * values, 0).sum(axis=0) / total, total


def check(m: Any, data: Floats, weight: Floats, count: Array) -> None:
    found = compute(m.data, m.weight, m.count)
    np.testing.assert_array_equal(found[2], count)
    np.testing.assert_allclose(found[1], weight, rtol=1e-9)
    np.testing.assert_allclose(found[0], data, rtol=1e-9)


def test_interpolation_is_that_of_reproject(exposures: list[Exposure]) -> None:
    pictures = [each.masked(each.wht == 0) for each in exposures]
    expected = layers(pictures, OUTPUT)
    found = [interpolate(each.pixels, each.wcs) for each in pictures]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["HDU", "arrays", "mixed"])
def test_map_of_weights(kind: str, exposures: list[Exposure]) -> None:
    weights: Any = {
        "HDU": "WHT",
        "arrays": [each.wht for each in exposures],
        "mixed": ["WHT", exposures[1].wht, "wht"],
    }[kind]
    values = layers([each.masked(each.wht == 0) for each in exposures], OUTPUT)
    maps = np.array([interpolate(each.wht, each.wcs) for each in exposures])
    m = mosaic(paths_of(exposures), OUTPUT, hdu="SCI", weights=weights, dtype="float64")
    check(m, *combined(values, maps), np.isfinite(values).sum(axis=0))
    assert (m.inputs["weight"] == 1).all()


def paths_of(exposures: Sequence[Exposure]) -> list[str]:
    return [each.path for each in exposures]


@pytest.mark.parametrize("name", ["ERR", "VAR"])
def test_map_of_errors_weighs_by_the_inverse_of_variances(
    name: str, exposures: list[Exposure]
) -> None:
    values = layers([each.masked(np.zeros(SHAPE, bool)) for each in exposures], OUTPUT)
    maps = np.array([interpolate(1 / each.err**2, each.wcs) for each in exposures])
    m = mosaic(paths_of(exposures), OUTPUT, hdu="SCI", weights=name, dtype="float64")
    check(m, *combined(values, maps), np.isfinite(values).sum(axis=0))


@pytest.mark.parametrize("bits", [None, 1, 36, 64])
@pytest.mark.parametrize("kind", ["HDU", "arrays"])
def test_mask(kind: str, bits: int | None, exposures: list[Exposure]) -> None:
    mask: Any = "DQ" if kind == "HDU" else [each.dq for each in exposures]
    wanted = -1 if bits is None else bits
    values = layers([each.masked(each.dq & wanted != 0) for each in exposures], OUTPUT)
    clear = layers([each.masked(np.zeros(SHAPE, bool)) for each in exposures], OUTPUT)
    assert (np.isfinite(clear).sum() - np.isfinite(values).sum() > 20) == (bits != 64)
    m = mosaic(paths_of(exposures), OUTPUT, hdu="SCI", mask=mask, bits=bits, dtype="float64")
    check(m, *combined(values, np.ones_like(values)), np.isfinite(values).sum(axis=0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16, np.uint32, bool])
def test_masks_of_any_type(dtype: Any, tmp_path: Path) -> None:
    """Whole numbers without a sign are stored with BZERO."""
    pixels = star_image(np.random.default_rng(1), SHAPE)
    dq = np.zeros(SHAPE, dtype)
    dq[20:30, 33] = 1 if dtype is bool else np.iinfo(dtype).max
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(pixels, sky_header(GRIDS[0]), name="SCI")]
    hdus.append(fits.ImageHDU(dq.astype(np.uint8) if dtype is bool else dq, name="DQ"))
    path = tmp_path / "a.fits"
    write_at_rest(path, fits_bytes(*hdus))
    mask: Any = [dq] if dtype is bool else "DQ"
    expected = layers([Picture("", np.where(dq != 0, np.nan, pixels), GRIDS[0])], OUTPUT)[0]
    [data] = compute(mosaic([str(path)], OUTPUT, hdu="SCI", mask=mask, dtype="float64").data)
    np.testing.assert_allclose(data, expected, rtol=1e-9)
    [data] = compute(mosaic([str(path)], OUTPUT, hdu="SCI", mask=mask, bits=1, dtype="f8").data)
    np.testing.assert_allclose(data, expected, rtol=1e-9)


def test_errors_are_carried_along(exposures: list[Exposure]) -> None:
    """The variance is sum(w**2 k**2 var) / sum(w)**2 for weights w of images and k of pixels."""
    values = layers([each.masked((each.wht == 0) | (each.dq != 0)) for each in exposures], OUTPUT)
    maps = np.array([interpolate(each.wht, each.wcs) for each in exposures])
    variances = np.array([interpolate(each.err**2, each.wcs, squared=True) for each in exposures])
    valid = np.isfinite(values)
    total = np.where(valid, maps, 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        expected = np.sqrt(np.where(valid, maps**2 * variances, 0).sum(axis=0)) / total
    options: dict[str, Any] = {"hdu": "SCI", "weights": "WHT", "mask": "DQ", "dtype": "float64"}
    errors: list[Any] = ["ERR", "VAR", [each.err for each in exposures]]
    for error in errors:
        m = mosaic(paths_of(exposures), OUTPUT, error=error, **options)
        check(m, *combined(values, maps), valid.sum(axis=0))
        np.testing.assert_allclose(*compute(m.error), expected, rtol=1e-9)


@pytest.mark.parametrize("combine", ["sum", "first", "last", "min", "max", "median", "clipped"])
def test_errors_of_other_combinations(combine: Any, exposures: list[Exposure]) -> None:
    weights = np.array([3.0, 0.5, 2.0]).reshape(-1, 1, 1)
    values = layers([each.masked(each.dq != 0) for each in exposures], OUTPUT)
    variances = np.array([interpolate(each.err**2, each.wcs, squared=True) for each in exposures])
    valid = np.isfinite(values)
    count = valid.sum(axis=0)
    if combine in {"sum", "clipped"}:  # of three values none is beyond three standard deviations
        expected = np.sqrt(np.where(valid, weights**2 * variances, 0).sum(axis=0))
        if combine == "clipped":
            with np.errstate(invalid="ignore"):
                expected = expected / np.where(valid, weights, 0).sum(axis=0)
    elif combine == "median":
        with np.errstate(invalid="ignore"):
            expected = np.sqrt(np.pi / 2 * np.where(valid, variances, 0).sum(axis=0)) / count
    else:
        masked = np.where(valid, values, {"min": np.inf, "max": -np.inf}.get(combine, np.nan))
        number = {
            "first": lambda: valid.argmax(axis=0),
            "last": lambda: 2 - valid[::-1].argmax(axis=0),
            "min": lambda: masked.argmin(axis=0),
            "max": lambda: masked.argmax(axis=0),
        }[combine]()
        expected = np.sqrt(np.take_along_axis(variances, number[None], 0)[0])
    m = mosaic(
        paths_of(exposures), OUTPUT, hdu="SCI", combine=combine, weights=weights.ravel(),
        mask="DQ", error="ERR", dtype="float64",
    )  # fmt: skip
    np.testing.assert_allclose(*compute(m.error), np.where(count > 0, expected, np.nan), rtol=1e-9)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Exposure]:
    """What two EXTVERs of one file have, of which the second is what is written last."""
    directory = tmp_path_factory.mktemp("versions")
    both = make_exposure(directory / "both.fits", GRIDS[0], 5, (1, 2))
    first = make_exposure(directory / "first.fits", GRIDS[0], 5)
    return {1: replace(first, path=both.path), 2: both}


@pytest.mark.parametrize("ver", [1, 2])
@pytest.mark.parametrize("opened", [False, True])
def test_maps_are_of_the_version_of_the_image(
    opened: bool, ver: int, versions: Mapping[int, Exposure]
) -> None:
    each = versions[ver]
    assert not np.array_equal(versions[1].sci, versions[2].sci)
    files: Any = [each.path]
    m = mosaic(
        open_collection(files) if opened else files,
        OUTPUT, hdu=("SCI", ver), weights="WHT", mask="DQ", error="ERR", dtype="float64",
    )  # fmt: skip
    values = layers([each.masked((each.wht == 0) | (each.dq != 0))], OUTPUT)
    maps = interpolate(each.wht, each.wcs)[None]
    check(m, *combined(values, maps), np.isfinite(values).sum(axis=0))
    variance = interpolate(each.err**2, each.wcs, squared=True)
    expected = np.where(np.isfinite(values[0]), np.sqrt(variance), np.nan)
    np.testing.assert_allclose(*compute(m.error), expected, rtol=1e-9)


def test_all_versions_of_a_file(versions: Mapping[int, Exposure]) -> None:
    collection = open_collection([versions[1].path])
    images = [row for row, name in enumerate(collection.column("extname")) if name == "SCI"]
    m = mosaic(collection.take(np.array(images)), OUTPUT, weights="WHT", dtype="float64")
    values = layers([each.masked(each.wht == 0) for each in versions.values()], OUTPUT)
    maps = np.array([interpolate(each.wht, each.wcs) for each in versions.values()])
    check(m, *combined(values, maps), np.isfinite(values).sum(axis=0))


def test_keyword_of_weights(exposures: list[Exposure]) -> None:
    values = layers([each.masked(np.zeros(SHAPE, bool)) for each in exposures], OUTPUT)
    weights = np.reshape([10.0, 20.0, 30.0], (-1, 1, 1))
    for given in ("EXPTIME", "exptime", weights.ravel(), weights.ravel().tolist()):
        m = mosaic(paths_of(exposures), OUTPUT, hdu="SCI", weights=given, dtype="float64")
        check(m, *combined(values, weights), np.isfinite(values).sum(axis=0))
        assert m.inputs["weight"].tolist() == [10.0, 20.0, 30.0]


def test_what_is_not_known_is_not_used(tmp_path: Path) -> None:
    """Weights that are negative, infinite or NaN, and errors of 0, weigh nothing."""
    rng = np.random.default_rng(9)
    pixels = star_image(rng, SHAPE).astype(float)
    wht = np.ones(SHAPE)
    wht[20, 20], wht[30, 40], wht[40, 30], wht[33, 33] = -1.0, np.inf, np.nan, 0.0
    path = write_image(tmp_path / "a.fits", pixels, GRIDS[0])
    unused = np.zeros(SHAPE, bool)
    unused[[20, 30, 40, 33], [20, 40, 30, 33]] = True
    values = layers([Picture(path, np.where(unused, np.nan, pixels), GRIDS[0])], OUTPUT)
    m = mosaic([path], OUTPUT, weights=[wht], dtype="float64")
    check(m, values[0], np.isfinite(values[0]) * 1.0, np.isfinite(values).sum(axis=0))


def test_errors_that_are_not_known(tmp_path: Path) -> None:
    """They make no pixel drop out, and no error that is too small."""
    pixels, err = np.full(SHAPE, 5.0), np.full(SHAPE, 2.0)
    err[30, 40] = np.nan
    path = write_image(tmp_path / "a.fits", pixels, GRIDS[0])
    m = mosaic([path], OUTPUT, error=[err], dtype="float64")
    data, error = compute(m.data, m.error)
    expected = interpolate(pixels, GRIDS[0])
    np.testing.assert_allclose(data, expected, rtol=1e-12)
    known = interpolate(np.where(np.isnan(err), np.inf, err**2), GRIDS[0], squared=True)
    assert 3 < np.isinf(known).sum() < 7
    expected = np.sqrt(np.where(np.isinf(known), np.nan, known))
    np.testing.assert_allclose(error, expected, rtol=1e-9)


def test_pasted_images_have_maps(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    height, width = OUTPUT.array_shape
    pixels, wht, err = (rng.uniform(1, 2, (2, height, width)) for _ in range(3))
    dq = rng.random((2, height, width)) < 0.3
    files = [write_image(tmp_path / f"{k}.fits", pixels[k], OUTPUT) for k in range(2)]
    m = mosaic(
        files, OUTPUT, weights=list(wht), error=list(err), mask=list(dq), dtype="float64",
        conserve="flux",
    )  # fmt: skip
    assert m.inputs["pasted"].all()
    values = np.where(dq, np.nan, pixels)
    data, total = combined(values, wht)
    check(m, data, total, (~dq).sum(axis=0))
    with np.errstate(invalid="ignore"):
        expected = np.sqrt(np.where(dq, 0, wht**2 * err**2).sum(axis=0)) / total
    np.testing.assert_allclose(*compute(m.error), expected, rtol=1e-12)


def test_pasted_integers_are_masked(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(-(2**62), 2**62, (2, *OUTPUT.array_shape))
    dq = rng.random(pixels.shape) < 0.3
    wht = rng.choice([0.0, 2.0], pixels.shape)
    files = [write_image(tmp_path / f"{k}.fits", pixels[k], OUTPUT) for k in range(2)]
    m = mosaic(
        files, OUTPUT, mask=list(dq), weights=list(wht), error=[np.full(OUTPUT.array_shape, 5.0), np.full(OUTPUT.array_shape, 2.0)], combine="last",
        fill_value=7,
    )  # fmt: skip
    good = ~dq & (wht > 0)
    data, weight, count, error = compute(m.data, m.weight, m.count, m.error)
    np.testing.assert_array_equal(count, good.sum(axis=0))
    expected = np.where(good[1], pixels[1], np.where(good[0], pixels[0], 7))
    np.testing.assert_array_equal(data, expected)
    np.testing.assert_array_equal(weight, np.where(good.any(axis=0), 2.0, 0.0))
    errors = np.where(good[1], 2.0, np.where(good[0], 5.0, np.nan))
    np.testing.assert_array_equal(error, errors)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"weights": "NOTHING"}, HduNotFoundError, "NOTHING"),
    ({"weights": [1.0, 2.0]}, ValueError, "weights: found 2, expected one for each of 3 images"),
    ({"weights": [1.0, 2.0, -1.0]}, ValueError, "weights: expected a weight of 0 or more, found -1"),
    ({"weights": [1.0, np.nan, 1.0]}, ValueError, "found nan"),
    ({"weights": [np.ones((3, 4))] * 3}, ValueError, r"found an array of shape \(3, 4\)"),
    ({"mask": [np.ones(SHAPE)] * 2}, ValueError, "mask: found 2"),
    ({"error": "NOISE"}, HduNotFoundError, "NOISE"),
])  # fmt: skip
def test_what_does_not_go_with_the_images_is_refused(
    options: dict[str, Any], error: type[Exception], message: str, exposures: list[Exposure]
) -> None:
    with pytest.raises(error, match=message):
        mosaic(paths_of(exposures), OUTPUT, hdu="SCI", **options)


def test_map_of_another_shape_is_refused(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(np.ones(SHAPE), sky_header(GRIDS[0]), name="SCI")]
    path = tmp_path / "a.fits"
    write_at_rest(path, fits_bytes(*hdus, fits.ImageHDU(np.ones((5, 6)), name="WHT")))
    with pytest.raises(FitsFormatError, match=r"shape \(5, 6\), expected \(60, 70\)"):
        mosaic([str(path)], OUTPUT, hdu="SCI", weights="WHT")


def test_error_is_there_if_it_was_given(exposures: list[Exposure]) -> None:
    with pytest.raises(AttributeError, match="without error="):
        _ = mosaic(paths_of(exposures), OUTPUT, hdu="SCI").error


def test_what_is_given_for_each_image_goes_with_it_when_images_are_sorted(tmp_path: Path) -> None:
    times = [30.0, 10.0, 20.0]
    files = [
        write_image(tmp_path / f"{time}.fits", np.full(SHAPE, time), GRIDS[0], EXPTIME=time)
        for time in times
    ]
    masks = [np.full(SHAPE, time == 10.0) for time in times]
    m = mosaic(files, GRIDS[0], weights=[3.0, 1.0, 2.0], mask=masks, sort_by="EXPTIME")
    assert m.inputs["file"].tolist() == [files[1], files[2], files[0]]
    assert m.inputs["weight"].tolist() == [1.0, 2.0, 3.0]
    data, weight = compute(m.data, m.weight)
    np.testing.assert_array_equal(weight, 5.0)
    np.testing.assert_array_equal(data, np.float32((3 * 30 + 2 * 20) / 5))


def test_blank_pixels_of_a_mask_are_masked(tmp_path: Path) -> None:
    flags = np.zeros(SHAPE, np.int16)
    flags[3, 4], flags[5, 6], flags[7, 8] = 1, 2, -99
    image = fits.ImageHDU(np.ones(SHAPE), sky_header(GRIDS[0]), "SCI")
    mask = fits.ImageHDU(flags, fits.Header({"BLANK": -99}), "DQ")
    path = tmp_path / "blank.fits"
    write_at_rest(path, fits_bytes(fits.PrimaryHDU(), image, mask))
    [count] = compute(mosaic([str(path)], GRIDS[0], hdu="SCI", mask="DQ", bits=2).count)
    expected = np.ones(SHAPE, int)
    expected[5, 6] = expected[7, 8] = 0
    np.testing.assert_array_equal(count, expected)
