"""Variables with world coordinates of all kinds as FITS files; positions are astropy's of before."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
import dask_fits.xarray_backend  # which has the accessor
from tests.support.data import M13
from tests.support.sound_files import check_sound
from tests.support.worlds import IMAGES, SIP, TABLES, image, oracle, written

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
    ),
    pytest.mark.untraced,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def opened(tmp_path: Path, content: bytes, chunks: Any = None) -> xr.DataArray:
    """The image of a file."""
    (tmp_path / "in.fits").write_bytes(content)
    ds: xr.Dataset = xr.open_dataset(tmp_path / "in.fits", engine="fits", chunks=chunks, hdu="SCI")
    return ds["SCI"]


def world(path: Path) -> WCS:
    """The coordinates of the first image of a file, by astropy."""
    with fits.open(path) as file:
        index = next(n for n, hdu in enumerate(file) if hdu.name == "SCI")
        return WCS(file[index].header, fobj=file)


def pixels_of(wcs: WCS, most: float = 20.0) -> np.ndarray:
    pixels = np.random.default_rng(3).uniform(0, most, (100, wcs.naxis))
    pixels[0] = 0
    return pixels


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("chunks", [None, {}])
def test_whole_images_have_the_same_positions_to_the_bit(
    chunks: Any, name: str, tmp_path: Path, path: Path
) -> None:
    content = written(*IMAGES[name]())
    array = opened(tmp_path, content, chunks)
    array.fits.to_fits(path)
    before = oracle(content)
    pixels = pixels_of(before)
    expected = before.all_pix2world(pixels, 0)
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(world(path).all_pix2world(pixels, 0), expected)
    again = xr.open_dataset(path, engine="fits", hdu="SCI")["SCI"]
    xr.testing.assert_equal(again, array)
    np.testing.assert_array_equal(again.fits.wcs.all_pix2world(pixels, 0), expected)
    check_sound(path, checksums=1)


@pytest.mark.parametrize("name", IMAGES)
def test_a_box_moves_its_world(name: str, tmp_path: Path, path: Path) -> None:
    content = written(*IMAGES[name]())
    array = opened(tmp_path, content)
    origin = [min(length // 3, 7) for length in array.shape]
    box = dict(zip(array.dims, (slice(start, None) for start in origin), strict=True))
    part = array.isel(box)
    part.fits.to_fits(path)
    before = oracle(content)
    pixels = pixels_of(before, 10)
    shift = np.zeros(before.naxis)
    shift[: array.ndim] = origin[::-1]
    found = world(path).all_pix2world(pixels, 0)
    expected = before.all_pix2world(pixels + shift, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(found, part.fits.wcs.all_pix2world(pixels, 0))
    assert fits.getdata(path, 0).shape == part.shape


STRIDED = [name for name in IMAGES if "lookup" not in name and "detector" not in name]


@pytest.mark.parametrize("name", [*STRIDED, "lookup", "detector", "all that HST has"])
def test_bins_have_the_world_of_their_middle(name: str, tmp_path: Path, path: Path) -> None:
    content = written(*IMAGES[name]())
    array = opened(tmp_path, content)
    dims = [dim for dim in ("y", "x") if dim in array.dims] or [array.dims[-1]]
    binned = array.coarsen(dict.fromkeys(dims, 2), boundary="trim").mean()
    binned.fits.to_fits(path)
    before = oracle(content)
    pixels = pixels_of(before, 9)
    of_before = pixels.copy()
    for dim in dims:
        axis = array.ndim - 1 - array.dims.index(dim)
        of_before[:, axis] = 2 * pixels[:, axis] + 0.5
    found = world(path).all_pix2world(pixels, 0)
    expected = before.all_pix2world(of_before, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


def test_the_tables_of_two_variables_are_there_once(tmp_path: Path, path: Path) -> None:
    content = written(*TABLES["all that HST has"]())
    array = opened(tmp_path, content)
    xr.Dataset({"SCI": array, "ERR": array + 1}).fits.to_fits(path)
    names = check_sound(path, checksums=3)
    assert sorted(names) == ["D2IMARR"] * 2 + ["ERR", "PRIMARY", "SCI"] + ["WCSDVARR"] * 2
    with fits.open(path) as file:
        before = oracle(content)
        pixels = pixels_of(before)
        expected = before.all_pix2world(pixels, 0)
        for name in ("SCI", "ERR"):
            found = WCS(file[name].header, fobj=file).all_pix2world(pixels, 0)
            np.testing.assert_array_equal(found, expected)


def test_boxes_of_two_variables_share_tables(tmp_path: Path, path: Path) -> None:
    content = written(*TABLES["lookup"]())
    array = opened(tmp_path, content)
    part = xr.Dataset({"SCI": array, "ERR": array + 1}).isel(y=slice(4, 30), x=slice(9, 50))
    part.fits.to_fits(path)
    assert sorted(check_sound(path, checksums=3)) == ["ERR", "PRIMARY", "SCI"] + ["WCSDVARR"] * 2
    pixels = pixels_of(oracle(content))
    expected = oracle(content).all_pix2world(pixels + np.array([9, 4]), 0)
    np.testing.assert_allclose(world(path).all_pix2world(pixels, 0), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["SIP", "lookup", "detector"])
def test_a_distortion_has_two_axes(name: str, tmp_path: Path, path: Path) -> None:
    """astropy makes no WCS of a header with a distortion and three axes."""
    array = opened(tmp_path, written(*IMAGES[name]()))
    epochs = xr.concat([array, array], "epoch")
    with pytest.raises(
        ValueError, match=r"does not have the dimension epoch.*distortion.*two axes"
    ):
        epochs.fits.to_fits(path)
    with pytest.raises(ValueError, match=r"another order .* distortion"):
        array.transpose().fits.to_fits(path)
    assert not path.exists()
    epochs.isel(epoch=0).fits.to_fits(path)
    pixels = pixels_of(array.fits.wcs)
    np.testing.assert_array_equal(
        world(path).all_pix2world(pixels, 0), array.fits.wcs.all_pix2world(pixels, 0)
    )


def test_a_world_that_cannot_be_made_stays_in_the_header(tmp_path: Path, path: Path) -> None:
    """As of a file, whose pixels can be read all the same."""
    content = written(image(SIP)).replace(b"'RA---TAN-SIP'", b"'RA---XXX-SIP'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = opened(tmp_path, content).isel(x=slice(3, None), y=slice(2, None))
        array.fits.to_fits(path)
    with fits.open(path) as file, fits.open(io.BytesIO(content)) as before:
        assert file[0].header["CTYPE1"] == "RA---XXX-SIP"
        assert file[0].header["CRPIX1"] == before["SCI"].header["CRPIX1"] - 3
        assert file[0].header["CRPIX2"] == before["SCI"].header["CRPIX2"] - 2


def test_stacks_and_mosaics_as_datasets(path: Path) -> None:
    before = WCS(fits.getheader(M13))
    pixels = pixels_of(before)
    expected = before.wcs_pix2world(pixels, 0)
    frames = dask_fits.stack([M13] * 2).to_xarray()
    frames.fits.to_fits(path)
    found = WCS(fits.getheader(path)).wcs_pix2world(np.column_stack([pixels, pixels[:, 0]]), 0)
    np.testing.assert_allclose(found[:, :2], expected, rtol=1e-13)
    assert fits.getdata(path).shape == (2, 300, 300)
    dask_fits.mosaic([M13], M13).to_xarray().fits.to_fits(path, overwrite=True)
    assert check_sound(path) == ["PRIMARY", "data", "weight", "count"]
    for key in (1, 2, 3):
        found = WCS(fits.getheader(path, key)).wcs_pix2world(pixels, 0)
        np.testing.assert_allclose(found, expected, rtol=1e-13)
    np.testing.assert_array_equal(fits.getdata(path, "data"), fits.getdata(M13))
