"""How images are combined where several have a value.

Expected values are made by NumPy and `astropy.stats.sigma_clip` of the layers that reproject makes
of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.stats import sigma_clip
from astropy.wcs import WCS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dask_fits import mosaic
from dask_fits.mosaics import combiners
from tests.support.mosaics import (
    Floats,
    Picture,
    compute,
    layers,
    paths,
    sprinkle,
    star_image,
    tan_wcs,
    write_image,
)

COMBINES = ("mean", "sum", "median", "clipped", "first", "last", "min", "max")

SHAPE = (60, 70)
OUTPUT = tan_wcs(50.0, 10.0, 1e-3, (75, 90))
DEPTH = 16
"""With fewer than 11 values none is more than three standard deviations from the others."""

TIMES = [30.0, 60.0, 0.0, 7.5, *(10.0 * number for number in range(1, DEPTH - 3))]
"""EXPTIMEs; an image that was not exposed has no weight."""

Booleans = npt.NDArray[np.bool_]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """Many turned images of nearly one place, with outliers; the third is brighter than others."""
    directory = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(5)
    made = []
    for number, time in enumerate(TIMES):
        x, y = rng.uniform(-0.01, 0.01, 2)
        wcs = tan_wcs(50 + x, 10 + y, 1e-3, SHAPE, rng.uniform(0, 360))
        pixels = star_image(rng, SHAPE, 5)
        pixels[rng.random(SHAPE) < 0.01] *= 30
        pixels[rng.random(SHAPE) < 0.01] *= -5
        sprinkle(rng, pixels, 0.002)
        pixels[:20] *= 1 + 9 * (number % 3 == 2)  # some values are outliers of outliers
        path = write_image(directory / f"{number}.fits", pixels, wcs, EXPTIME=time, ORDER=-number)
        made.append(Picture(path, pixels, wcs))
    return made


@pytest.fixture(scope="module")
def reprojected(pictures: list[Picture]) -> Floats:
    return layers(pictures, OUTPUT)


def combine_by_numpy(
    values: Floats, weights: Sequence[float], combine: str
) -> tuple[Floats, Floats, Booleans]:
    """Data, weights, and which layers are used, (n, h, w), of layers."""
    w = np.reshape(weights, (-1, 1, 1))
    valid = np.isfinite(values) & (w > 0)
    empty = ~valid.any(axis=0)
    masked = np.ma.array(values, mask=~valid)
    if combine == "clipped":
        valid = ~sigma_clip(masked, sigma=3, maxiters=5, axis=0, masked=True).mask
        masked = np.ma.array(values, mask=~valid)
    chosen: dict[str, Any] = {
        "first": lambda: valid.argmax(axis=0),
        "last": lambda: len(values) - 1 - valid[::-1].argmax(axis=0),
        "min": lambda: masked.filled(np.inf).argmin(axis=0),
        "max": lambda: masked.filled(-np.inf).argmax(axis=0),
    }
    used = valid
    if combine in chosen:
        used = valid & (np.arange(len(values))[:, None, None] == chosen[combine]())
    total = (w * used).sum(axis=0)
    if combine == "median":
        data = np.ma.median(masked, axis=0).filled(np.nan)
    else:
        data = np.where(used, w * np.where(used, values, 0), 0).sum(axis=0)
        if combine != "sum":
            with np.errstate(invalid="ignore"):
                data = data / total
    return np.where(empty, np.nan, data), total, used


def count_of(values: Floats, weights: Sequence[float], used: Booleans, combine: str) -> Any:
    """Images with a value; of clipped means, those that are left."""
    if combine == "clipped":
        return used.sum(axis=0)
    return (np.isfinite(values) & (np.reshape(weights, (-1, 1, 1)) > 0)).sum(axis=0)


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("weights", [None, "EXPTIME", "list"])
def test_numpy_combines_layers_of_reproject_to_the_same(
    weights: str | None, combine: Any, pictures: list[Picture], reprojected: Floats
) -> None:
    numbers = {None: [1.0] * DEPTH, "EXPTIME": TIMES}.get(weights, TIMES[::-1])
    m = mosaic(
        paths(pictures), OUTPUT, combine=combine, dtype="float64",
        weights=TIMES[::-1] if weights == "list" else weights,
    )  # fmt: skip
    expected, total, used = combine_by_numpy(reprojected, numbers, combine)
    count = count_of(reprojected, numbers, used, combine)
    assert np.isnan(expected).any()
    assert count.max() > 11
    if combine == "clipped":
        rejected = np.isfinite(reprojected).sum(axis=0) - count
        assert (rejected > 2).any()
    data, weight, counted = compute(m.data, m.weight, m.count)
    np.testing.assert_allclose(data, expected, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(weight, total, rtol=1e-14)
    np.testing.assert_array_equal(counted, count)
    np.testing.assert_array_equal(m.inputs["weight"], numbers)


@pytest.mark.parametrize("combine", ["min", "max", "first", "last", "clipped", "mean"])
def test_image_without_weight_never_wins(
    combine: Any, pictures: list[Picture], tmp_path: Path
) -> None:
    extreme = [
        write_image(tmp_path / f"{value}.fits", np.full(SHAPE, value), tan_wcs(50, 10, 1e-3, SHAPE))
        for value in (-1e9, 1e9)
    ]
    files = [*extreme, *paths(pictures[3:7]), *extreme[::-1]]
    weights = [0.0, 0.0, 1.0, 2.0, 1.0, 0.5, 0.0, 0.0]
    m = mosaic(files, OUTPUT, combine=combine, weights=weights)
    plain = mosaic(files[2:6], OUTPUT, combine=combine, weights=weights[2:6])
    for name in ("data", "weight", "count"):
        found, expected = compute(getattr(m, name), getattr(plain, name))
        np.testing.assert_array_equal(found, expected)


@settings(max_examples=12, deadline=None, phases=set(Phase) - {Phase.shrink})
@given(
    combine=st.sampled_from(COMBINES),
    weights=st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=DEPTH, max_size=DEPTH),
    order=st.permutations(range(DEPTH)),
)
def test_any_order_and_weights(
    combine: Any,
    weights: list[float],
    order: list[int],
    pictures: list[Picture],
    reprojected: Floats,
) -> None:
    m = mosaic(
        [pictures[number].path for number in order],
        OUTPUT, combine=combine, weights=weights, dtype="float64",
    )  # fmt: skip
    values = reprojected[order]
    expected, total, used = combine_by_numpy(values, weights, combine)
    data, weight, count = compute(m.data, m.weight, m.count)
    # Beside pixels of thousands, 1e-10 of a pixel makes as much.
    np.testing.assert_allclose(data, expected, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(weight, total, rtol=1e-14)
    np.testing.assert_array_equal(count, count_of(values, weights, used, combine))


@pytest.mark.parametrize("combine", COMBINES)
def test_sources_are_the_images_that_were_used(
    combine: Any, pictures: list[Picture], reprojected: Floats
) -> None:
    m = mosaic(paths(pictures), OUTPUT, combine=combine, weights="EXPTIME")
    _, _, used = combine_by_numpy(reprojected, TIMES, combine)
    count = count_of(reprojected, TIMES, used, combine)
    rejected = np.argwhere(np.isfinite(reprojected).sum(axis=0) - count > 2)
    assert len(rejected) or combine != "clipped"
    pixels = [(0, 0), (37, 45), (-40, -33), *rejected[:3].tolist()]
    pixels += np.random.default_rng(3).integers(0, OUTPUT.array_shape, (8, 2)).tolist()
    for y, x in pixels:
        found = m.sources(y, x)
        assert found.tolist() == np.flatnonzero(used[:, y, x]).tolist()
    with pytest.raises(IndexError, match="75 x 90"):
        m.sources(75, 0)


@pytest.mark.parametrize("combine", ["first", "last"])
def test_images_are_sorted_by_a_keyword(
    combine: Any, pictures: list[Picture], reprojected: Floats
) -> None:
    m = mosaic(paths(pictures), OUTPUT, combine=combine, sort_by="ORDER", dtype="float64")
    expected, _, _ = combine_by_numpy(reprojected[::-1], [1.0] * DEPTH, combine)
    np.testing.assert_allclose(*compute(m.data), expected, rtol=1e-8, atol=1e-8)
    assert list(m.inputs["file"]) == [each.path for each in reversed(pictures)]


def test_rows_of_sources_are_those_of_sorted_inputs(
    pictures: list[Picture], reprojected: Floats
) -> None:
    m = mosaic(paths(pictures), OUTPUT, sort_by="ORDER")
    used = np.isfinite(reprojected)
    y, x = np.argwhere(used.sum(axis=0) == DEPTH // 2)[0]
    named = [m.inputs["file"][row] for row in m.sources(y, x)]
    assert named == [pictures[number].path for number in reversed(np.flatnonzero(used[:, y, x]))]


@pytest.mark.parametrize("combine", ["median", "clipped"])
def test_blocks_of_a_deep_mosaic_are_made_as_the_whole(
    combine: Any, pictures: list[Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    m = mosaic(paths(pictures), OUTPUT, combine=combine)
    expected = compute(m.data, m.weight, m.count)
    monkeypatch.setattr(combiners, "STACK_BYTES", 32 * 32 * DEPTH * 8)
    found = compute(m.data, m.weight, m.count)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_number_of_images_is_in_the_header(pictures: list[Picture]) -> None:
    header = mosaic(paths(pictures), OUTPUT).header
    assert header["NCOMBINE"] == DEPTH
    assert (header["NAXIS2"], header["NAXIS1"]) == OUTPUT.array_shape
    np.testing.assert_array_equal(WCS(header).wcs.crpix, OUTPUT.wcs.crpix)
