"""Datasets and DataArrays as FITS files: pixels, headers and positions of what is left of an image.

Pixels are compared with NumPy's of astropy's arrays, and positions with those that astropy finds in
the original file at the pixels of before.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from dask.delayed import Delayed
from distributed import Client

import dask_fits.xarray_backend  # noqa: F401 (which has the accessor)
from dask_fits.exceptions import PixelValueError
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.recording import RecordingFileSystem, put
from tests.support.sound_files import check_sound
from tests.support.worlds import TAN, cube, written
from tests.support.worlds import image as world_image

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.untraced,
]

SHAPE = (24, 36)
PIXELS = np.random.default_rng(8).normal(100, 20, SHAPE).astype("f4")

ALTERNATE = {
    "CTYPE1A": "GLON-CAR",
    "CTYPE2A": "GLAT-CAR",
    "CRVAL1A": 200.0,
    "CRPIX1A": 4.25,
    "CRPIX2A": 8.5,
    "CDELT1A": 0.01,
    "CDELT2A": 0.01,
    "LTV1": -100.0,
    "LTM1_1": 0.5,
    "LTM2_2": 1.0,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file whose primary HDU has no pixels, an image, its errors without a WCS, and a mask."""
    science = fits.ImageHDU(
        PIXELS, fits.Header({**TAN, **ALTERNATE, "BUNIT": "MJy/sr"}), name="SCI"
    )
    science.header["FILTER"] = ("F200W", "of the camera")
    errors = fits.ImageHDU(PIXELS / 10, fits.Header({"BUNIT": "MJy/sr"}), name="ERR")
    flags = fits.ImageHDU((PIXELS > 100).astype("i4"), name="DQ")
    header = fits.Header({"TELESCOP": "JWST", "OBJECT": "M 13"})
    content = fits_bytes(fits.PrimaryHDU(None, header), science, errors, flags)
    (tmp_path / "in.fits").write_bytes(content)
    return str(tmp_path / "in.fits")


def opened(file: str, chunks: Any = None) -> xr.Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The specified chunks separate")
        return xr.open_dataset(file, engine="fits", chunks=chunks)


def native(values: Any) -> np.ndarray:
    return np.asarray(values).astype(values.dtype.newbyteorder("="))


def pixels_of(path: Any, key: Any = 0) -> np.ndarray:
    return native(fits.getdata(path, key))


def check_positions(
    path: Path,
    file: str,
    origin: tuple[float, ...] = (0, 0),
    step: tuple[float, ...] = (1, 1),
    key: Any = 0,
    letter: str = " ",
    axes: tuple[int, ...] = (1, 0),
) -> None:
    """A pixel at n is where that at origin + step * n was.

    Origins and steps have NumPy's order of before; `axes` are the axes of before, NumPy's numbers, in
    the FITS order of the file.
    """
    count = len(origin)
    at = np.random.default_rng(9).uniform(0, 8, (100, count))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = WCS(fits.getheader(path, key), key=letter)
        before = WCS(fits.getheader(file, "SCI"), key=letter)
    pixels = np.array(origin)[::-1] + np.array(step)[::-1] * at  # of before, FITS order
    expected = before.all_pix2world(pixels, 0)
    order = [count - 1 - axis for axis in axes]
    np.testing.assert_allclose(
        found.all_pix2world(at[:, order], 0), expected[:, order], rtol=1e-12, atol=1e-12
    )


# How pixels are held

HELD: dict[str, Callable[[str], xr.Dataset]] = {
    "lazy": opened,
    "chunks of the file": lambda file: opened(file, {}),
    "small chunks": lambda file: opened(file, {"y": 7, "x": 11}),
    "in memory": lambda file: opened(file).load(),
    "computed in chunks": lambda file: opened(file, {"y": 7}) * 1,
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_dataset_comes_back(held: str, scheduler: str, file: str, path: Path) -> None:
    ds = HELD[held](file)
    with dask.config.set(scheduler=scheduler):
        assert ds.fits.to_fits(path) is None
    assert check_sound(path) == ["PRIMARY", "SCI", "ERR", "DQ"]
    for name in ("SCI", "ERR", "DQ"):
        assert same_bits(pixels_of(path, name), pixels_of(file, name)), name
    assert fits.getheader(path)["TELESCOP"] == "JWST"
    header = fits.getheader(path, "SCI")
    for keyword in ("FILTER", "BUNIT", *TAN, *ALTERNATE):
        assert header[keyword] == fits.getheader(file, "SCI")[keyword]
        assert header.comments[keyword] == fits.getheader(file, "SCI").comments[keyword]
    check_positions(path, file, key="SCI")
    check_positions(path, file, key="SCI", letter="A")
    # All images of a Dataset have its WCS, though only one of them had it in the file.
    for name in ("ERR", "DQ"):
        check_positions(path, file, key=name)
    again = opened(str(path))
    xr.testing.assert_equal(again, opened(file))
    for name in ("SCI", "ERR", "DQ"):
        assert again[name].attrs.get("units") == ds[name].attrs.get("units")
    lines = again["SCI"].attrs["header"].split("\n")
    before = opened(file)["SCI"].attrs["header"].split("\n")
    assert [line for line in lines if not line.startswith(("CHECKSUM", "DATASUM"))] == before


@pytest.mark.parametrize("name", ["SCI", "ERR", "DQ"])
def test_an_array_is_the_primary_hdu(name: str, file: str, path: Path) -> None:
    array = opened(file)[name]
    array.fits.to_fits(path)
    assert check_sound(path) == [name]
    assert same_bits(pixels_of(path), pixels_of(file, name))
    check_positions(path, file)


@pytest.mark.parametrize("chunks", [None, {}])
def test_a_primary_image_stays_one(chunks: Any, tmp_path: Path, path: Path) -> None:
    first = fits.PrimaryHDU(PIXELS, fits.Header({**TAN, "OBJECT": "M 13"}))
    second = fits.ImageHDU(PIXELS * 2, fits.Header(TAN), name="SECOND")
    (tmp_path / "in.fits").write_bytes(fits_bytes(first, second))
    ds = opened(str(tmp_path / "in.fits"), chunks)
    ds[list(ds)[::-1]].fits.to_fits(path)
    assert check_sound(path) == ["PRIMARY", "SECOND"]
    assert same_bits(pixels_of(path), PIXELS)
    assert same_bits(pixels_of(path, 1), PIXELS * 2)
    assert fits.getheader(path)["OBJECT"] == "M 13"
    xr.testing.assert_identical(opened(str(path)).drop_attrs(), ds.compute().drop_attrs())


def test_what_is_lazy_is_read_in_parts_by_tasks(path: Path) -> None:
    pixels = np.random.default_rng(1).normal(size=(300, 200))
    url = put("lazy.fits", fits_bytes(fits.PrimaryHDU(pixels, fits.Header(TAN))))
    ds = opened(url)
    (name,) = ds
    RecordingFileSystem.log.clear()
    with dask.config.set({"array.chunk-size": 40_000, "scheduler": "sync"}):
        ds.fits.to_fits(path)
    ranges = RecordingFileSystem.ranges()
    assert len(ranges) >= pixels.nbytes / 40_000
    assert max(stop - start for start, stop in ranges) < pixels.nbytes / 4
    assert not ds[name].variable._in_memory
    assert same_bits(pixels_of(path), pixels)


# Parts of an image


def test_a_box_moves_all_of_its_worlds(file: str, path: Path) -> None:
    ds = opened(file).isel(y=slice(5, 20), x=slice(7, 30))
    ds.fits.to_fits(path)
    assert same_bits(pixels_of(path, "SCI"), PIXELS[5:20, 7:30])
    for letter in " A":
        check_positions(path, file, (5, 7), key="SCI", letter=letter)
    header = fits.getheader(path, "SCI")
    assert header["LTV1"] == -107
    assert header["LTV2"] == -5
    check_positions(path, file, (5, 7), key="ERR")
    again = opened(str(path))["SCI"]
    assert again.fits.wcs.wcs.crpix.tolist() == ds["SCI"].fits.wcs.wcs.crpix.tolist()


PARTS: dict[str, tuple[Callable[[xr.DataArray], xr.DataArray], Any, Any, Any]] = {
    "strided": (lambda a: a.isel(y=slice(3, None, 2), x=slice(1, None, 3)), (3, 1), (2, 3), None),
    "reversed": (lambda a: a.isel(y=slice(None, None, -1)), (23, 0), (-1, 1), None),
    "binned": (lambda a: a.coarsen(y=2, x=3).mean(), (0.5, 1), (2, 3), None),
    "box of bins": (
        lambda a: a.coarsen(y=2, x=3).mean().isel(y=slice(2, 9), x=slice(1, 9)),
        (4.5, 4),
        (2, 3),
        None,
    ),
    "transposed": (lambda a: a.transpose("x", "y"), (0, 0), (1, 1), (0, 1)),
    "box, transposed": (lambda a: a.T.isel(y=slice(4, 20), x=slice(2, 9)), (4, 2), (1, 1), (0, 1)),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("chunks", [None, {"y": 8}])
def test_parts_of_an_image(part: str, chunks: Any, file: str, path: Path) -> None:
    take, origin, step, axes = PARTS[part]
    array = take(opened(file, chunks)["SCI"])
    array.fits.to_fits(path)
    in_memory = take(xr.DataArray(PIXELS, dims=("y", "x"))).to_numpy()
    np.testing.assert_allclose(pixels_of(path), in_memory, rtol=1e-6)
    check_positions(path, file, origin, step, axes=axes or (1, 0))
    at = np.random.default_rng(2).uniform(0, 9, (20, 2))
    np.testing.assert_array_equal(
        WCS(fits.getheader(path)).wcs_pix2world(at, 0), array.fits.wcs.wcs_pix2world(at, 0)
    )
    # What is kept of the header has nothing left of the other worlds.
    header = fits.getheader(path)
    assert header["FILTER"] == "F200W"
    assert not {"LTV1", "LTM1_1", "CTYPE1A", "CRPIX1A"} & set(header)


@pytest.fixture
def spectra(tmp_path: Path) -> tuple[str, np.ndarray]:
    """A cube of a spectrum and two axes of the sky."""
    pixels = np.random.default_rng(3).normal(size=(6, 20, 30)).astype("f4")
    hdu = world_image(cube("RA", "DEC", "FREQ"), 6, 20, 30)
    hdu.data = pixels
    (tmp_path / "cube.fits").write_bytes(written(hdu))
    return str(tmp_path / "cube.fits"), pixels


@pytest.mark.parametrize("chunks", [None, {"freq": 2}])
def test_maps_and_planes_of_a_cube(
    chunks: Any, spectra: tuple[str, np.ndarray], path: Path
) -> None:
    file, pixels = spectra
    array = opened(file, chunks)["SCI"]
    sky = np.random.default_rng(4).uniform(0, 20, (30, 2))
    whole = np.column_stack([sky, np.zeros(30)])
    expected = WCS(fits.getheader(file, "SCI")).wcs_pix2world(whole, 0)[:, :2]
    for made, values in (
        (array.sum("freq"), pixels.sum(axis=0)),
        (array.isel(freq=2), pixels[2]),
        (array.isel(freq=2, drop=True), pixels[2]),
    ):
        made.fits.to_fits(path, overwrite=True)
        np.testing.assert_allclose(pixels_of(path), values, rtol=1e-5, atol=1e-6)
        header = fits.getheader(path)
        assert header["NAXIS"] == 2
        found = WCS(header)
        assert [*found.wcs.ctype] == ["RA---SIN", "DEC--SIN"]
        np.testing.assert_allclose(found.wcs_pix2world(sky, 0), expected, rtol=1e-13)


def test_a_range_of_a_spectrum(spectra: tuple[str, np.ndarray], path: Path) -> None:
    file, pixels = spectra
    opened(file)["SCI"].isel(freq=slice(2, 5), x=slice(3, 9)).fits.to_fits(path)
    assert same_bits(pixels_of(path), pixels[2:5, :, 3:9])
    check_positions(path, file, (2, 0, 3), (1, 1, 1), axes=(2, 1, 0))


@pytest.mark.parametrize("chunks", [None, {}])
def test_an_extra_dimension_counts_its_pixels(chunks: Any, file: str, path: Path) -> None:
    arrays = [opened(file, chunks)["SCI"].isel(x=slice(4, None)) + n for n in range(3)]
    epochs = xr.concat(arrays, "epoch")
    for made, axes in ((epochs, (0, 1, 2)), (epochs.transpose("y", "epoch", "x"), (1, 0, 2))):
        made.fits.to_fits(path, overwrite=True)
        values = np.stack([PIXELS[:, 4:] + np.float32(n) for n in range(3)])
        assert same_bits(pixels_of(path), values.transpose(axes))
        at = np.random.default_rng(5).uniform(0, 20, (30, 3))
        y, x = (2 - axes.index(axis) for axis in (1, 2))
        found = WCS(fits.getheader(path)).wcs_pix2world(at, 0)
        moved = at[:, [x, y]] + [4, 0]
        expected = WCS(fits.getheader(file, "SCI")).wcs_pix2world(moved, 0)
        np.testing.assert_allclose(found[:, [x, y]], expected, rtol=1e-13)
        # FITS Standard 4.0, section 8.2: an axis of which nothing is said.
        epoch = 2 - axes.index(0)
        np.testing.assert_allclose(found[:, epoch], at[:, epoch] + 1)


# Names, units and attributes


def test_names_and_units_are_those_of_the_variables(file: str, path: Path) -> None:
    ds = opened(file, {})
    new = (ds["SCI"] - 1).rename("DIFF").assign_attrs(units="mJy")
    bare = (ds["SCI"] * 2).rename("TWICE")
    ds.assign(DIFF=new, TWICE=bare)[["DIFF", "TWICE"]].fits.to_fits(path)
    assert check_sound(path) == ["PRIMARY", "DIFF", "TWICE"]
    assert fits.getheader(path, "DIFF")["BUNIT"] == "mJy"
    assert same_bits(pixels_of(path, "DIFF"), PIXELS - 1)
    check_positions(path, file, key="DIFF")
    assert opened(str(path))["DIFF"].attrs["units"] == "mJy"


def test_what_has_no_attributes_has_no_world(file: str, path: Path) -> None:
    array = opened(file)["SCI"].drop_attrs()
    array.fits.to_fits(path)
    assert same_bits(pixels_of(path), PIXELS)
    shape = ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2"]
    assert [*fits.getheader(path)] == [*shape, "EXTNAME", "CHECKSUM", "DATASUM"]
    xr.Dataset({"a": array, "b": array}).fits.to_fits(path, overwrite=True)
    assert check_sound(path) == ["PRIMARY", "a", "b"]
    xr.DataArray(PIXELS).fits.to_fits(path, overwrite=True)
    assert "EXTNAME" not in fits.getheader(path)


IRREGULAR: dict[str, tuple[Callable[[xr.DataArray], xr.DataArray], str]] = {
    "a list": (lambda a: a.isel(y=[0, 1, 5]), "pixels along y are not evenly spaced"),
    "a dropped coordinate": (lambda a: a.isel(x=slice(3, 9)).drop_vars("x"), "no coordinates"),
    "a row": (lambda a: a.isel(y=3), "the dimension y is gone"),
    "a single bin": (lambda a: a.coarsen(y=24).mean(), "single bin"),
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_pixels_without_a_world_are_an_error(name: str, file: str, path: Path) -> None:
    take, message = IRREGULAR[name]
    array = take(opened(file)["SCI"])
    with pytest.raises(ValueError, match=message):
        array.fits.to_fits(path)
    assert not path.exists()
    array.drop_attrs().fits.to_fits(path)
    assert pixels_of(path).shape == array.shape


def test_a_dataset_without_variables_is_an_error(file: str, path: Path) -> None:
    with pytest.raises(ValueError, match="found no variables"):
        opened(file)[[]].fits.to_fits(path)


@pytest.mark.parametrize("make", [lambda a: a > 3, lambda a: a * 1j])
def test_types_that_fits_does_not_have(make: Any, file: str, path: Path) -> None:
    with pytest.raises(TypeError, match=r"out\.fits"):
        make(opened(file, {})["SCI"]).fits.to_fits(path)


# How it is written


def test_nothing_is_written_before_it_is_computed(file: str, path: Path) -> None:
    with pytest.raises(FileExistsError):
        opened(file).fits.to_fits(file)
    writing = opened(file).fits.to_fits(path, compute=False, checksum=False)
    assert isinstance(writing, Delayed)
    assert not path.exists()
    dask.compute(writing, scheduler="sync")
    assert check_sound(path, checksums=0) == ["PRIMARY", "SCI", "ERR", "DQ"]
    assert same_bits(pixels_of(path, "SCI"), PIXELS)
    (opened(file) + 1).fits.to_fits(path, overwrite=True)
    assert same_bits(pixels_of(path, "SCI"), PIXELS + 1)


def test_an_error_of_a_pixel_leaves_the_file_of_before(file: str, path: Path) -> None:
    path.write_text("mine")

    def fail(block: np.ndarray) -> np.ndarray:
        if block.size:
            raise PixelValueError("no such pixel")
        return block

    array = opened(file, {"y": 8})["SCI"]
    array.data = array.data.map_blocks(fail, dtype="f4", meta=np.zeros((0, 0), "f4"))
    with pytest.raises(PixelValueError, match="no such pixel"):
        array.fits.to_fits(path, overwrite=True)
    assert path.read_text() == "mine"
    assert sorted(each.name for each in path.parent.iterdir()) == ["in.fits", "out.fits"]


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [None, {"y": 8}])
def test_workers_write_a_dataset(chunks: Any, client: Client, file: str, path: Path) -> None:
    ds = opened(file, chunks).isel(x=slice(2, 30))
    with client.as_current():
        (ds - 1).assign_attrs(ds.attrs).fits.to_fits(path)
    assert check_sound(path) == ["PRIMARY", "SCI", "ERR", "DQ"]
    assert same_bits(pixels_of(path, "SCI"), PIXELS[:, 2:30] - 1)
    check_positions(path, file, (0, 2), key="SCI")
