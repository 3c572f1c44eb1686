"""Matching the backgrounds of overlapping images.

Expected values are the constants with which images of one sky were made.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS

from dask_fits import mosaic
from tests.support.mosaics import (
    Floats,
    Picture,
    compute,
    layers,
    moved,
    paths,
    positions,
    tan_wcs,
    write_image,
)

SHAPE = (120, 130)

NOISE = 2.0

OUTPUT = tan_wcs(200.0, 50.0, 1e-3, (250, 300))

PLACES = [
    (-0.12, 0.05, 5.0),
    (-0.03, 0.06, -20.0),
    (0.05, 0.03, 50.0),
    (0.0, -0.05, 95.0),
    (0.12, -0.04, 190.0),
]
"""Where images are, from the middle of the mosaic, and how they are turned; in degrees."""

CONSTANTS = [13.0, -7.5, 40.0, 0.25, -21.0]


def sky(wcs: WCS) -> Floats:
    """What all images see: a gradient, waves and stars, as a function of the position."""
    height, width = wcs.array_shape
    y, x = np.mgrid[:height, :width]
    u, v = WCS.all_world2pix(OUTPUT, wcs.all_pix2world(np.stack([x.ravel(), y.ravel()], 1), 0), 0).T
    pixels = 100 + 0.05 * u - 0.03 * v + 5 * np.sin(u / 30) * np.cos(v / 40)
    pixels += 2000 * np.exp(-((u - 150) ** 2 + (v - 125) ** 2) / 6)
    return np.asarray(pixels.reshape(height, width))


def write(
    directory: Path,
    grids: Sequence[WCS],
    constants: Sequence[float],
    dtype: Any = np.float32,
    scale: Sequence[float] | None = None,
) -> list[Picture]:
    """Images of the sky, of each with a constant besides."""
    rng = np.random.default_rng(4)
    made = []
    for number, (wcs, constant) in enumerate(zip(grids, constants, strict=True)):
        pixels = sky(wcs) + constant + rng.normal(0, NOISE, wcs.array_shape)
        pixels *= 1.0 if scale is None else scale[number]
        pixels = pixels.astype(dtype)
        path = write_image(directory / f"{number}.fits", pixels, wcs)
        made.append(Picture(path, pixels, wcs))
    return made


def mean_of(values: Floats) -> Floats:
    """The mean of layers where they have values."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=0) / known.sum(axis=0))


def grids() -> list[WCS]:
    return [
        tan_wcs(200 + x / np.cos(np.deg2rad(50)), 50 + y, 1e-3, SHAPE, angle)
        for x, y, angle in PLACES
    ]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    return write(tmp_path_factory.mktemp("sky"), grids(), CONSTANTS)


def test_constants_come_back(pictures: list[Picture]) -> None:
    m = mosaic(paths(pictures), OUTPUT, match_background=True)
    found = np.asarray(m.inputs["background"])
    assert abs(found.sum()) < 1e-9
    assert found.dtype == np.float64
    expected = np.array(CONSTANTS) - np.mean(CONSTANTS)
    # Some thousand pixels are compared.
    np.testing.assert_allclose(found, expected, atol=0.25)
    assert np.abs(found - expected).max() > 0


@pytest.mark.parametrize("row", [0, 3])
def test_reference_stays_as_it_is(row: int, pictures: list[Picture]) -> None:
    m = mosaic(paths(pictures), OUTPUT, match_background=row)
    found = np.asarray(m.inputs["background"])
    assert found[row] == 0.0
    np.testing.assert_allclose(found, np.array(CONSTANTS) - CONSTANTS[row], atol=0.4)
    free = np.asarray(mosaic(paths(pictures), OUTPUT, match_background=True).inputs["background"])
    np.testing.assert_allclose(found, free - free[row], rtol=1e-12, atol=1e-12)
    y, x = np.argwhere(compute(m.count)[0] == 1)[:1].T  # a pixel of one image
    for number in m.sources(int(y[0]), int(x[0])):
        [one], [other] = compute(m.data), compute(mosaic([pictures[number].path], OUTPUT).data)
        assert abs(one[y, x] - (other[y, x] - found[number])) < 1e-3


def test_no_row_is_the_reference(pictures: list[Picture]) -> None:
    with pytest.raises(ValueError, match="match_background: found 5, expected the row of an image"):
        mosaic(paths(pictures), OUTPUT, match_background=5)


def test_constants_are_the_same_each_time(pictures: list[Picture]) -> None:
    first, again = (mosaic(paths(pictures), OUTPUT, match_background=True) for _ in range(2))
    one, other = (np.asarray(m.inputs["background"]) for m in (first, again))
    assert one.tobytes() == other.tobytes()
    assert first.data.name == again.data.name
    assert first.data.name != mosaic(paths(pictures), OUTPUT).data.name
    for found, expected in zip(compute(first.data), compute(again.data), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_mosaic_has_no_seams(pictures: list[Picture]) -> None:
    """Images that are made of what the mosaic subtracts agree where they overlap."""
    values = layers(pictures, OUTPUT)
    plain = mosaic(paths(pictures), OUTPUT, dtype="float64")
    matched = mosaic(paths(pictures), OUTPUT, match_background=True, dtype="float64")
    backgrounds = np.asarray(matched.inputs["background"])
    assert not np.asarray(plain.inputs["background"]).any()
    differences = []
    for one in range(len(values)):
        for other in range(one):
            shared = np.isfinite(values[one]) & np.isfinite(values[other])
            if shared.sum() > 200:
                difference = (values[one] - values[other])[shared].mean()
                left = difference - (backgrounds[one] - backgrounds[other])
                differences.append((abs(difference), abs(left)))
    assert len(differences) > 4
    assert max(before for before, _ in differences) > 30
    assert max(after for _, after in differences) < 0.4
    expected = mean_of(values - backgrounds[:, None, None])
    np.testing.assert_allclose(*compute(matched.data), expected, rtol=1e-6)
    truth = sky(OUTPUT) + np.mean(CONSTANTS)
    clear = np.isfinite(expected) & (sky(OUTPUT) < 150)  # stars are not sampled as they are

    def step(m: Any) -> float:
        """Spread of what a mosaic has beyond the sky, of blocks in which noise is small."""
        [data] = compute(m.data)
        wrong = np.where(clear, data - truth, np.nan)
        blocks = wrong[:250, :300].reshape(25, 10, 30, 10)
        known = np.isfinite(blocks).sum(axis=(1, 3)) > 90
        return float(np.std(np.nanmean(blocks.swapaxes(1, 2)[known], axis=(1, 2))))

    assert step(plain) > 8
    assert step(matched) < 0.4


def test_groups_that_do_not_overlap(tmp_path: Path) -> None:
    """The constants of each add up to zero; an image on its own stays as it is."""
    output = tan_wcs(200.0, 50.0, 1e-3, (250, 400))
    corners = [(5, 5), (60, 70), (5, 250), (70, 200), (140, 130)]
    tiles = [moved(output, y, x, (100, 110)) for y, x in corners]
    tiles[-1] = moved(output, 180, 100, (60, 60))
    constants = [10.0, 30.0, -100.0, -160.0, 77.0]
    pictures = write(tmp_path, tiles, constants)
    m = mosaic(paths(pictures), output, match_background=True)
    found = np.asarray(m.inputs["background"])
    np.testing.assert_allclose(found, [-10.0, 10.0, 30.0, -30.0, 0.0], atol=0.3)
    assert found[4] == 0.0
    for group in (found[:2], found[2:4]):
        assert abs(group.sum()) < 1e-9
    m = mosaic(paths(pictures), output, match_background=2)
    found = np.asarray(m.inputs["background"])
    assert found[2] == found[4] == 0.0
    np.testing.assert_allclose(found, [-10.0, 10.0, 0.0, -60.0, 0.0], atol=0.6)


def test_pixels_that_are_not_used_are_not_compared(tmp_path: Path) -> None:
    output = tan_wcs(200.0, 50.0, 1e-3, (110, 160))
    tiles = [moved(output, 0, 0, (110, 100)), moved(output, 0, 60, (110, 100))]
    pictures = write(tmp_path, tiles, [0.0, 10.0])
    bad = np.zeros((110, 100), bool)
    bad[:80] = True
    pixels = np.where(bad, np.float32(1e6), pictures[1].pixels)
    path = write_image(tmp_path / "bad.fits", pixels, pictures[1].wcs)
    files = [pictures[0].path, path]
    for options in (
        {"mask": [np.zeros_like(bad), bad]},
        {"weights": [np.ones(bad.shape), ~bad * 1.0]},
    ):
        m = mosaic(files, output, match_background=0, **options)
        assert abs(m.inputs["background"][1] - 10.0) < 0.5


@pytest.mark.parametrize("resampling", ["bilinear", "exact"])
def test_flux_is_compared_as_flux(resampling: Any, tmp_path: Path) -> None:
    """An image of smaller pixels has less light in each; the mosaic has none of its seams."""
    places = grids()[:2]
    places[1] = tan_wcs(*places[1].wcs.crval, 0.7e-3, (180, 180), 12.0)
    pictures = write(tmp_path, places, [0.0, 15.0], scale=[1.0, 0.49])
    m = mosaic(
        paths(pictures), OUTPUT, match_background=0, conserve="flux", resampling=resampling,
        combine="last", dtype="float64",
    )  # fmt: skip
    assert abs(m.inputs["background"][1] - 0.49 * 15.0) < 0.3
    shared = np.isfinite(layers(pictures, OUTPUT)).all(axis=0)
    [last] = compute(m.data)
    [first] = compute(mosaic(
        paths(pictures), OUTPUT, match_background=0, conserve="flux", resampling=resampling,
        combine="first", dtype="float64",
    ).data)  # fmt: skip
    assert shared.sum() > 500
    assert abs((last - first)[shared].mean()) < 0.4


def test_integers_become_floats(tmp_path: Path) -> None:
    output = tan_wcs(200.0, 50.0, 1e-3, (110, 160))
    tiles = [moved(output, 0, 0, (110, 100)), moved(output, 0, 60, (110, 100))]
    pictures = write(tmp_path, tiles, [0.0, 10.3], np.int16)
    options: dict[str, Any] = {"combine": "first", "fill_value": 0}
    assert mosaic(paths(pictures), output, **options).data.dtype == np.int16
    m = mosaic(paths(pictures), output, match_background=True, **options)
    assert m.data.dtype == np.float32
    [data] = compute(m.data)
    background = m.inputs["background"][1]
    np.testing.assert_allclose(data[:, 100:], pictures[1].pixels[:, 40:] - background, rtol=1e-6)
    with pytest.raises(ValueError, match="no background is matched"):
        mosaic(paths(pictures), output, match_background=True, dtype="int16", **options)


def test_sampled_positions_are_those_of_astropy(tmp_path: Path) -> None:
    """Two images of a steep slope: if one were sampled a pixel off, it would show."""
    places = [moved(OUTPUT, 20, 20, SHAPE), tan_wcs(200.0, 50.0, 1e-3, SHAPE, 90.0)]
    files = []
    for number, wcs in enumerate(places):
        x, y = positions(wcs, OUTPUT)
        files.append(write_image(tmp_path / f"{number}.fits", 50.0 * x - 20.0 * y, wcs))
    m = mosaic(files, OUTPUT, match_background=0)
    assert abs(m.inputs["background"][1]) < 1.0  # less than a 20th of a pixel
