"""Mosaics as Datasets of xarray: coordinates, world coordinates, cutouts and headers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS, DistortionLookupTable

import dask_fits
from dask_fits import Mosaic
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.mosaics import moved, sky_header, star_image, tan_wcs, write_image
from tests.support.recording import RecordingFileSystem, put

pytestmark = pytest.mark.untraced

STEP = 1e-3
SHAPE = (70, 90)
IMAGE = (50, 60)
OUT = tan_wcs(150.0, 2.0, STEP, SHAPE, 8.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three turned images."""
    root, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(2)
    grids = [tan_wcs(150.02 - 0.02 * n, 2.0, STEP, IMAGE, 20.0 * n) for n in range(3)]
    return [
        write_image(root / f"{n}.fits", star_image(rng, IMAGE), wcs) for n, wcs in enumerate(grids)
    ]


@pytest.fixture(scope="module")
def m(files: list[str]) -> Mosaic:
    return dask_fits.mosaic(files, OUT, chunks=(40, 50))


@pytest.fixture(scope="module")
def ds(m: Mosaic) -> xr.Dataset:
    return m.to_xarray()


def same_sky(found: WCS, expected: WCS) -> bool:
    """Whether pixels of two grids are at the same positions."""
    at = [[0.0, 30.0, -4.5], [0.0, 2.5, 61.0]]
    return bool(
        found.array_shape == expected.array_shape
        and np.allclose(found.wcs_pix2world(*at, 0), expected.wcs_pix2world(*at, 0), 0, 1e-10)
    )


def check_wcs(found: Any, wcs: WCS, y: Any, x: Any) -> None:
    """The coordinates of what is left of a mosaic are astropy's for these rows and columns."""
    expected = wcs.pixel_to_world(*np.meshgrid(x, y))
    own = found.fits.wcs.pixel_to_world(*np.meshgrid(np.arange(len(x)), np.arange(len(y))))
    assert found.fits.wcs.array_shape == (len(y), len(x))
    assert own.separation(expected).max() < 1e-9 * u.deg
    lon, lat = expected.spherical.lon.deg, expected.spherical.lat.deg
    names = ("l", "b") if expected.name == "galactic" else ("ra", "dec")
    names = names if names[0] in found.coords else ("glon", "glat")
    for name, values in zip(names, (lon, lat), strict=True):
        np.testing.assert_allclose(found[name].to_numpy(), values, rtol=0, atol=1e-9)


def test_a_dataset_has_the_arrays_of_the_mosaic(m: Mosaic, ds: xr.Dataset) -> None:
    assert list(ds.data_vars) == ["data", "weight", "count"]
    for name, array in (("data", m.data), ("weight", m.weight), ("count", m.count)):
        assert ds[name].dims == ("y", "x")
        assert isinstance(ds[name].data, da.Array)
        assert ds[name].data.name == array.name
        assert ds[name].chunks == array.chunks
        assert same_bits(ds[name].to_numpy(), array.compute())
    assert ds.sizes == {"y": 70, "x": 90}
    assert ds["y"].to_numpy().tolist() == list(range(70))
    assert ds["x"].to_numpy().tolist() == list(range(90))
    assert np.isfinite(ds["data"]).any()


def test_errors_are_a_variable_if_there_are_any(files: list[str]) -> None:
    m = dask_fits.mosaic(files, OUT, error=[np.ones(IMAGE)] * 3)
    ds = m.to_xarray()
    assert list(ds.data_vars) == ["data", "weight", "count", "error"]
    assert same_bits(ds["error"].to_numpy(), m.error.compute())


def test_its_coordinates_are_those_of_an_image_with_its_header(
    m: Mosaic, ds: xr.Dataset, tmp_path: Path
) -> None:
    fits.PrimaryHDU(np.zeros(SHAPE, "f4"), m.header).writeto(tmp_path / "image.fits")
    expected = xr.open_dataset(tmp_path / "image.fits", engine="fits", world_coords=True)
    assert set(ds.coords) == set(expected.coords)
    for name, coordinate in expected.coords.items():
        assert ds[name].dims == coordinate.dims
        np.testing.assert_allclose(ds[name].to_numpy(), coordinate.to_numpy(), rtol=0, atol=1e-11)
        assert ds[name].attrs == coordinate.attrs
    assert ds.fits.wcs.wcs.compare(expected.fits.wcs.wcs, tolerance=1e-12)


def test_the_wcs_is_that_of_what_is_left(ds: xr.Dataset) -> None:
    rows, columns = np.arange(70), np.arange(90)
    check_wcs(ds, OUT, rows, columns)
    check_wcs(ds["weight"], OUT, rows, columns)
    part = ds.isel(y=slice(5, 61), x=slice(10, None))
    check_wcs(part, OUT, rows[5:61], columns[10:])
    check_wcs(part.isel(y=slice(None, None, 7), x=slice(2, 30, 4)), OUT, rows[5:61:7],
              columns[12:40:4])  # fmt: skip
    check_wcs(pickle.loads(pickle.dumps(part)), OUT, rows[5:61], columns[10:])
    assert (ds + 1).isel(y=slice(3, 9)).fits.wcs.array_shape == (6, 90)


@pytest.mark.parametrize("galactic", [False, True])
@pytest.mark.parametrize("projection", ["SIN", "CAR", "AIT"])
def test_grids_of_other_kinds_have_their_own(
    files: list[str], projection: str, galactic: bool
) -> None:
    centre = SkyCoord(150.0, 2.0, unit="deg")
    at = (centre.galactic.l.deg, centre.galactic.b.deg) if galactic else (150.0, 2.0)
    grid = tan_wcs(*at, STEP, SHAPE, projection=projection, galactic=galactic)
    ds = dask_fits.mosaic(files, grid).to_xarray().isel(y=slice(3, 40), x=slice(1, 50, 3))
    check_wcs(ds, grid, np.arange(3, 40), np.arange(1, 50, 3))
    assert ds["data"].dtype == np.float32


def test_a_grid_with_a_distortion_keeps_it(files: list[str], tmp_path: Path) -> None:
    grid = tan_wcs(150.0, 2.0, STEP, SHAPE, sip=True)
    ds = dask_fits.mosaic(files, sky_header(grid), SHAPE).to_xarray()
    check_wcs(ds.isel(y=slice(7, 50)), grid, np.arange(7, 50), np.arange(90))
    tables = tan_wcs(150.0, 2.0, STEP, SHAPE)
    shift = np.linspace(0, 3, 30).reshape(5, 6).astype("f4")
    for axis in ("cpdis1", "cpdis2"):
        table = DistortionLookupTable(shift, (1.0, 1.0), (1.0, 1.0), (20.0, 20.0))
        setattr(tables, axis, table)
    hdus = tables.to_fits()
    hdus[0].data = np.zeros(SHAPE, "u1")
    (tmp_path / "grid.fits").write_bytes(fits_bytes(*hdus))
    ds = dask_fits.mosaic(files, tmp_path / "grid.fits").to_xarray()
    check_wcs(ds, tables, np.arange(70), np.arange(90))
    assert np.isfinite(ds["data"]).any()
    with pytest.raises(ValueError, match=r"tables .* give the file"):
        dask_fits.mosaic(files, tables)


@pytest.mark.parametrize("size", [(9, 12), 30 * u.arcsec, (0.5 * u.arcmin, 7)])
def test_cutouts_are_astropys(m: Mosaic, ds: xr.Dataset, size: Any) -> None:
    pixels = m.data.compute()
    for centre in (OUT.pixel_to_world(40.3, 33.2), OUT.pixel_to_world(1.0, 68.0)):
        found = ds.fits.cutout(centre, size)
        expected = Cutout2D(pixels, centre, size, OUT, mode="trim")
        assert same_bits(found["data"].to_numpy(), expected.data)
        assert same_bits(found["count"].to_numpy(), _part(m.count.compute(), expected))
        assert same_sky(found.fits.wcs, expected.wcs)
    assert same_bits(
        ds["weight"].fits.cutout((40, 30), 5).to_numpy(), m.weight.compute()[28:33, 38:43]
    )


def _part(pixels: np.ndarray, cut: Cutout2D) -> np.ndarray:
    return pixels[cut.slices_original]


def test_the_nearest_pixel_to_a_position(m: Mosaic, ds: xr.Dataset) -> None:
    found = ds.fits.sel_sky(OUT.pixel_to_world(51.4, 22.7))
    assert found["data"].to_numpy() == m.data[23, 51].compute()


def test_the_header_is_that_of_the_mosaic(m: Mosaic, ds: xr.Dataset) -> None:
    for found in (ds.fits.header, ds["count"].fits.header):
        assert found == m.header
        assert found["NCOMBINE"] == 3
        assert found["NAXIS1"], found["NAXIS2"] == (90, 70)
        assert (found["CTYPE1"], found["CRVAL1"]) == ("RA---TAN", 150.0)
    assert same_sky(WCS(fits.Header.fromstring(ds["data"].attrs["header"], sep="\n")), OUT)


def test_attributes_can_be_written(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.to_zarr(tmp_path / "ds.zarr", zarr_format=2, consolidated=True)
    back = xr.open_zarr(tmp_path / "ds.zarr")
    assert same_bits(back["data"].to_numpy(), ds["data"].to_numpy())
    assert same_sky(back["data"].fits.wcs, OUT)


def test_a_dataset_reads_what_is_computed_alone() -> None:
    grid = tan_wcs(150.0, 2.0, STEP, (40, 60))
    urls = []
    for number in range(3):
        header = sky_header(moved(grid, 0, 20 * number, (40, 20)))
        image = fits.PrimaryHDU(np.full((40, 20), number, "i2"), header)
        urls.append(put(f"dataset/{number}.fits", fits_bytes(image)))
    ds = dask_fits.mosaic(urls, grid).to_xarray()
    RecordingFileSystem.log.clear()
    part = ds.isel(y=slice(10, 14), x=slice(25, 30))
    repr(ds), ds._repr_html_(), part.fits.wcs, part.fits.header, ds["ra"].to_numpy()
    lazy = (ds["data"] * 2).where(ds["count"] > 0).mean("x")
    cut = ds.fits.cutout((30, 20), 4)
    assert RecordingFileSystem.log == []
    assert (part["data"] == 1).all()
    assert [stop - start for start, stop in RecordingFileSystem.ranges()] == [(3 * 20 + 5) * 2]
    assert cut["data"].to_numpy().tolist() == [[1.0] * 4] * 4
    assert lazy.to_numpy().tolist() == [2.0] * 40


def test_steps_of_xarray(m: Mosaic, ds: xr.Dataset) -> None:
    data, count = m.data.compute(), m.count.compute()
    coarse = ds["count"].coarsen(y=7, x=9).sum()
    expected = count.reshape(10, 7, 10, 9).sum(axis=(1, 3))
    assert np.array_equal(coarse.to_numpy(), expected)
    at = coarse.fits.wcs.pixel_to_world(4, 7)
    assert at.separation(OUT.pixel_to_world(4 * 9 + 4, 7 * 7 + 3)) < 1e-9 * u.deg
    masked = ds["data"].where(ds["count"] > 1)
    assert np.array_equal(masked.to_numpy(), np.where(count > 1, data, np.nan), equal_nan=True)
    there = ds.sel(y=[3, 60], x=slice(5, 8))["data"].to_numpy()
    assert np.array_equal(there, data[[3, 60], 5:9], equal_nan=True)
