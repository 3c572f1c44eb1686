"""Images whose pixels are those of the mosaic's grid: they are taken as they are.

Expected values are the images' own pixels, at the places that their CRPIX tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits

from dask_fits import mosaic
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.mosaics import compute, moved, sky_header, star_image, tan_wcs, write_image

GRID = tan_wcs(150.0, 2.0, 1e-3, (120, 140), 30.0)

PLACES = {"a": (10, 20), "b": (40, 55), "c": (-15, 70), "d": (85, -25)}
"""Rows and columns of the grid at which images of `SHAPE` begin; two reach over its edges."""

SHAPE = (60, 70)

Array = npt.NDArray[Any]


def make_pixels(dtype: Any, seed: int) -> Array:
    """Pixels of all values that a type has; no NaN."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return np.asarray(rng.normal(size=SHAPE) * 10.0 ** rng.integers(-30, 30, SHAPE), dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, SHAPE, dtype, endpoint=True)


def write_tiles(directory: Path, tiles: Sequence[Array], grid: Any = GRID) -> list[str]:
    """Write a tile for each of `PLACES`."""
    return [
        write_image(directory / f"{name}.fits", pixels, moved(grid, y, x, SHAPE))
        for (name, (y, x)), pixels in zip(PLACES.items(), tiles, strict=True)
    ]


def on_grid(tiles: Sequence[Array]) -> np.ma.MaskedArray[Any, Any]:
    """Each tile at its place, (n, h, w), masked elsewhere."""
    layers = np.ma.zeros((len(tiles), *GRID.array_shape), tiles[0].dtype)
    layers[...] = np.ma.masked
    for layer, (y, x), pixels in zip(layers, PLACES.values(), tiles, strict=True):
        rows, columns = (slice(max(at, 0), at + n) for at, n in zip((y, x), SHAPE, strict=True))
        part = layer[rows, columns]
        part[...] = pixels[max(-y, 0) :, max(-x, 0) :][: part.shape[0], : part.shape[1]]
    return layers


def pasted(tiles: Sequence[Array], fill_value: Any, combine: str) -> Array:
    """All tiles at their places, by NumPy."""
    layers = on_grid(tiles)
    if combine in {"min", "max"}:
        return np.asarray(getattr(layers, combine)(axis=0).filled(fill_value))
    result = np.full(GRID.array_shape, fill_value, tiles[0].dtype)
    for layer in layers[::-1] if combine == "first" else layers:
        result[~layer.mask] = layer.data[~layer.mask]
    return result


@pytest.mark.parametrize("combine", ["first", "last", "min", "max"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_pixels_are_those_of_images(dtype: Any, combine: Any, tmp_path: Path) -> None:
    tiles = [make_pixels(dtype, seed) for seed in range(4)]
    is_whole = np.dtype(dtype).kind in "iu"
    fill_value = 0 if is_whole else np.nan
    m = mosaic(
        write_tiles(tmp_path, tiles), GRID, combine=combine, fill_value=fill_value, chunks=50,
        dtype=None if dtype != np.float64 else "float64",
    )  # fmt: skip
    assert m.inputs["pasted"].all()
    assert m.data.dtype == dtype
    data, weight, count = compute(m.data, m.weight, m.count)
    assert same_bits(data, pasted(tiles, fill_value, combine))
    ones = pasted([np.ones(SHAPE, int)] * 4, 0, "first")
    np.testing.assert_array_equal(weight, ones)
    np.testing.assert_array_equal(count > 0, ones > 0)
    assert count.max() == 3


@pytest.mark.parametrize("combine", ["first", "last", "min", "max"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.uint32, np.int64, np.uint64])
def test_whole_numbers_are_kept_to_the_last_digit(dtype: Any, combine: Any, tmp_path: Path) -> None:
    """Those of 64 bits are no float64, and the least and the greatest are among them."""
    limits = np.iinfo(dtype)
    tiles = [make_pixels(dtype, seed) for seed in range(4)]
    for tile in tiles:
        tile[::7, :5], tile[::9, :4], tile[2::5, 3:] = limits.max, limits.min, limits.max - 1
    m = mosaic(write_tiles(tmp_path, tiles), GRID, combine=combine, fill_value=3, chunks=100)
    assert m.data.dtype == dtype
    assert same_bits(*compute(m.data), pasted(tiles, 3, combine))


@pytest.mark.parametrize("resampling", ["bilinear", "nearest", "lanczos3", "exact"])
def test_mean_of_pasted_images(resampling: Any, tmp_path: Path) -> None:
    tiles = [star_image(np.random.default_rng(seed), SHAPE) for seed in range(4)]
    m = mosaic(write_tiles(tmp_path, tiles), GRID, resampling=resampling, dtype="float64")
    assert m.inputs["pasted"].all()
    expected = on_grid([tile.astype(float) for tile in tiles]).mean(axis=0).filled(np.nan)
    np.testing.assert_allclose(*compute(m.data), expected, rtol=1e-14)


def test_types_that_pixels_get(tmp_path: Path) -> None:
    whole = write_tiles(tmp_path, [make_pixels(np.int16, seed) for seed in range(4)])
    (tmp_path / "wide").mkdir()
    wide = write_tiles(tmp_path / "wide", [make_pixels(np.int32, seed) for seed in range(4)])
    keep: dict[str, Any] = {"combine": "first", "fill_value": 0}
    assert mosaic(whole, GRID, **keep).data.dtype == np.int16
    assert mosaic([*whole, *wide], GRID, **keep).data.dtype == np.int32
    assert mosaic(whole, GRID, **keep, dtype="int64").data.dtype == np.int64
    assert mosaic(whole, GRID, **keep, dtype=">i4").data.dtype.isnative
    assert mosaic(whole, GRID, combine="first").data.dtype == np.float32  # the fill value is NaN
    assert mosaic(whole, GRID, combine="mean", fill_value=0).data.dtype == np.float32
    with pytest.raises(ValueError, match="dtype: found int16, expected floats"):
        mosaic(whole, GRID, combine="mean", fill_value=0, dtype="int16")
    with pytest.raises(
        ValueError, match="dtype: int16 does not hold all values of images of int32"
    ):
        mosaic(wide, GRID, **keep, dtype="int16")
    with pytest.raises(ValueError, match="fill_value: found 70000"):
        mosaic(whole, GRID, combine="first", fill_value=70000, dtype="int16")
    turned = tan_wcs(150.0, 2.0, 1e-3, (120, 140), 31.0)
    assert mosaic(whole, turned, **keep).data.dtype == np.float32
    assert not mosaic(whole, turned, **keep).inputs["pasted"].any()


@pytest.mark.parametrize("shift", [0.5, 1e-3, 1e-5])
def test_part_of_a_pixel_is_not_pasted(shift: float, tmp_path: Path) -> None:
    grid = moved(GRID, 10, 20 + shift, SHAPE)
    pixels = star_image(np.random.default_rng(1), SHAPE)
    m = mosaic([write_image(tmp_path / "a.fits", pixels, grid)], GRID, dtype="float64")
    assert not m.inputs["pasted"][0]
    [data] = compute(m.data)
    shifted = (1 - shift) * pixels[:, 1:].astype(float) + shift * pixels[:, :-1]
    np.testing.assert_allclose(data[10:70, 21:90], shifted, rtol=1e-9)


@pytest.mark.parametrize("change", ["scale", "angle", "place", "projection", "frame", "SIP"])
def test_other_grids_are_not_pasted(change: str, tmp_path: Path) -> None:
    other = {
        "scale": tan_wcs(150.0, 2.0, 1.0001e-3, SHAPE, 30.0),
        "angle": tan_wcs(150.0, 2.0, 1e-3, SHAPE, 30.001),
        "place": tan_wcs(150.0, 2.000001, 1e-3, SHAPE, 30.0),
        "projection": tan_wcs(150.0, 2.0, 1e-3, SHAPE, 30.0, projection="SIN"),
        "frame": tan_wcs(150.0, 2.0, 1e-3, SHAPE, 30.0),
        "SIP": tan_wcs(150.0, 2.0, 1e-3, SHAPE, 30.0, sip=True),
    }[change]
    if change == "frame":
        other.wcs.radesys, other.wcs.equinox = "FK5", 2000.0
    same = write_image(tmp_path / "same.fits", np.ones(SHAPE), moved(GRID, 3, 4, SHAPE))
    path = write_image(tmp_path / "a.fits", np.ones(SHAPE), other)
    assert mosaic([same, path], GRID).inputs["pasted"].tolist() == [True, False]


def test_parts_of_one_distorted_image_are_pasted(tmp_path: Path) -> None:
    grid = tan_wcs(150.0, 2.0, 1e-3, (120, 140), 30.0, sip=True)
    tiles = [make_pixels(np.float32, seed) for seed in range(4)]
    m = mosaic(write_tiles(tmp_path, tiles, grid), grid, combine="last")
    assert m.inputs["pasted"].all()
    assert same_bits(*compute(m.data), pasted(tiles, np.nan, "last"))


def scaled_hdu(pixels: Array, wcs: Any, **keywords: Any) -> Any:
    """An HDU of integers as they are stored, whatever the keywords say."""
    hdu = fits.ImageHDU(pixels, sky_header(wcs))
    hdu.header.update(keywords)
    return hdu


def test_scaled_and_blank_pixels(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(-30000, 30000, SHAPE).astype(np.int16)
    stored[5:9, 11:30] = -32768
    path = tmp_path / "scaled.fits"
    keywords = {"BSCALE": 0.125, "BZERO": 20.0, "BLANK": -32768}
    wcs = moved(GRID, *PLACES["a"], SHAPE)
    primary, image = fits.PrimaryHDU(), scaled_hdu(stored, wcs)
    content = bytearray(fits_bytes(primary, image))
    # astropy would scale the pixels when it is told the keywords.
    cards = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in keywords.items())
    end = content.index(b"END" + b" " * 77, 2880)
    content[end : end + 320] = (cards + "END".ljust(80)).encode()
    write_at_rest(path, bytes(content))
    expected = np.where(stored == -32768, np.nan, stored * 0.125 + 20.0)
    with fits.open(path) as file:
        np.testing.assert_array_equal(file[1].data, expected)
    m = mosaic([str(path)], GRID, fill_value=-9.0, combine="first")
    assert m.data.dtype == np.float32
    data, count = compute(m.data, m.count)
    here = np.s_[10:70, 20:90]
    np.testing.assert_array_equal(data[here], np.where(np.isnan(expected), -9.0, expected))
    np.testing.assert_array_equal(count[here], ~np.isnan(expected))
    assert count.sum() == np.isfinite(expected).sum()


@pytest.mark.parametrize("combine", ["first", "last"])
def test_order_is_that_of_files_or_of_a_keyword(combine: Any, tmp_path: Path) -> None:
    dates = ["2024-03-01", "2024-01-01", "2024-04-01", "2024-02-01"]
    files = [
        write_image(
            tmp_path / f"{k}.fits", np.full(SHAPE, k, np.int16), moved(GRID, 0, k, SHAPE),
            **{"DATE-OBS": date},
        )
        for k, date in enumerate(dates)
    ]  # fmt: skip
    options: dict[str, Any] = {"combine": combine, "fill_value": -1}
    [plain] = compute(mosaic(files, GRID, **options).data)
    [dated] = compute(mosaic(files, GRID, sort_by="DATE-OBS", **options).data)
    assert plain[30, :8].tolist() == (
        [0, 0, 0, 0, 0, 0, 0, 0] if combine == "first" else [0, 1, 2, 3, 3, 3, 3, 3]
    )
    assert dated[30, :8].tolist() == (
        [0, 1, 1, 1, 1, 1, 1, 1] if combine == "first" else [0, 0, 2, 2, 2, 2, 2, 2]
    )


def test_image_beside_the_grid_is_nowhere(tmp_path: Path) -> None:
    far = write_image(tmp_path / "far.fits", np.ones(SHAPE), moved(GRID, 120, 0, SHAPE))
    [data] = compute(mosaic([far], GRID).data)
    assert np.isnan(data).all()
    near = write_image(tmp_path / "near.fits", np.ones(SHAPE), moved(GRID, 119, 139, SHAPE))
    [data] = compute(mosaic([near], GRID).data)
    assert np.argwhere(~np.isnan(data)).tolist() == [[119, 139]]
