"""Chunks of xarray that cut rows: each byte is read once, of parts no more than they need."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import dask_fits
from dask_fits.arrays.banded import BandedArray
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.recording import RecordingFileSystem, put
from tests.support.xarray_files import sky

pytestmark = pytest.mark.filterwarnings("ignore:The specified chunks separate")

PIXELS = np.random.default_rng(8).integers(0, 999, (120, 2000)).astype(np.int16)
CUBE = np.random.default_rng(9).random((24, 48, 512), dtype=np.float32)
CHUNKS = {"y": 50, "x": 300}
PART = {"y": slice(40, 60), "x": slice(290, 310)}


def stored(name: str, *hdus: fits.hdu.base._BaseHDU) -> str:
    return put(name, fits_bytes(*hdus))


@pytest.fixture(scope="module")
def url() -> str:
    header = sky(shape=PIXELS.shape)
    header["BSCALE"], header["BZERO"] = 0.5, 10
    hdu = fits.PrimaryHDU(PIXELS, header, do_not_scale_image_data=True)
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 10
    return stored("banded.fits", hdu)


@pytest.fixture(scope="module")
def expected(url: str) -> np.ndarray:
    content = RecordingFileSystem.store["/banded.fits"].getvalue()
    return fits.getdata(BytesIO(content))


def opened(url: str, **options: object) -> xr.Dataset:
    found = xr.open_dataset(url, engine="fits", **options)
    RecordingFileSystem.log.clear()
    return found


ROADS: dict[str, Callable[[str], xr.DataArray]] = {
    "opened in chunks": lambda url: opened(url, chunks=CHUNKS).PRIMARY,
    "chunked later": lambda url: opened(url).chunk(CHUNKS).PRIMARY,
    "a variable": lambda url: opened(url).PRIMARY.chunk(CHUNKS),
    "without a cache": lambda url: opened(url, cache=False).PRIMARY.chunk(y=50, x=300),
    "copied": lambda url: opened(url, chunks=CHUNKS).copy(deep=True).PRIMARY,
}


@pytest.mark.parametrize("road", ROADS)
def test_a_full_read_fetches_each_byte_once(url: str, expected: np.ndarray, road: str) -> None:
    found = ROADS[road](url)
    assert found.chunks == ((50, 50, 20), (300,) * 6 + (200,))
    assert RecordingFileSystem.log == []
    assert same_bits(found.compute(scheduler="sync").values, expected)
    assert RecordingFileSystem.nbytes() == PIXELS.nbytes
    assert len(RecordingFileSystem.ranges()) == 3
    plan = dask_fits.open(url)[0].plan(chunks=(50, 300))
    assert sorted(RecordingFileSystem.ranges()[:3]) == [(r.start, r.stop) for r in plan.ranges]


@pytest.mark.parametrize("road", ROADS)
def test_a_part_is_read_alone(url: str, expected: np.ndarray, road: str) -> None:
    part = ROADS[road](url).isel(y=slice(30, 90)).isel({"y": slice(10, 30), "x": PART["x"]})
    assert same_bits(part.compute(scheduler="sync").values, expected[40:60, 290:310])
    rows = 9 * 4000 + 40
    assert RecordingFileSystem.nbytes() == 2 * rows, "of two bands, what is read over included"


def test_a_part_that_is_chunked(url: str, expected: np.ndarray) -> None:
    part = opened(url).isel(y=slice(10, 100, 2), x=slice(None, 1500)).chunk(y=20, x=100).PRIMARY
    assert isinstance(part.data, BandedArray)
    assert same_bits(part.compute(scheduler="sync").values, expected[10:100:2, :1500])
    ranges = sorted(RecordingFileSystem.ranges())
    assert len(ranges) == 3
    assert RecordingFileSystem.nbytes() < 90 * 4000


def test_planes_and_spectra_of_a_cube() -> None:
    url = stored("cube.fits", fits.PrimaryHDU(CUBE))
    ds = opened(url)
    _, y, x = ds.PRIMARY.dims
    spectra = ds.PRIMARY.chunk({y: 16, x: 16})
    assert same_bits(spectra.compute(scheduler="sync").values, CUBE)
    assert RecordingFileSystem.nbytes() == CUBE.nbytes
    plane = ds.PRIMARY[7].chunk({y: 16, x: 100})
    RecordingFileSystem.log.clear()
    assert same_bits(plane.compute(scheduler="sync").values, CUBE[7])
    assert RecordingFileSystem.nbytes() == CUBE[7].nbytes
    RecordingFileSystem.log.clear()
    assert same_bits(spectra[{y: 5, x: 60}].compute(scheduler="sync").values, CUBE[:, 5, 60])
    assert RecordingFileSystem.nbytes() <= 23 * CUBE[0].nbytes + 4


def test_what_is_not_lazy_or_not_a_box_is_xarrays(url: str, expected: np.ndarray) -> None:
    ds = opened(url)
    listed = ds.isel(y=[5, 3, 90]).chunk(x=100).PRIMARY
    turned = ds.isel(y=slice(None, None, -1)).chunk(CHUNKS).PRIMARY
    moved = ds.PRIMARY.transpose("x", "y").chunk(CHUNKS)
    bands = ds.PRIMARY.chunk(y=50)
    for found, pixels in (
        (listed, expected[[5, 3, 90]]),
        (turned, expected[::-1]),
        (moved, expected.T),
        (bands, expected),
    ):
        assert type(found.data) is da.Array
        assert same_bits(found.compute(scheduler="sync").values, pixels)
    ds.PRIMARY.load()
    RecordingFileSystem.log.clear()
    assert same_bits(ds.PRIMARY.chunk(CHUNKS).compute().values, expected)
    assert RecordingFileSystem.log == []


def test_names_are_those_of_version_and_chunks(url: str) -> None:
    names = [
        opened(url, chunks=chunks).PRIMARY.data.name for chunks in (CHUNKS, CHUNKS, {"x": 300})
    ]
    assert names[0] == names[1] != names[2]
    assert opened(url, chunks=CHUNKS, mask_and_scale=False).PRIMARY.data.name != names[0]
    parts = [opened(url, chunks=CHUNKS).PRIMARY[3:50, 7:].data.name for _ in range(2)]
    assert parts[0] == parts[1]
    content = RecordingFileSystem.store["/banded.fits"].getvalue()
    try:
        put("banded.fits", content)
        assert opened(url, chunks=CHUNKS).PRIMARY.data.name != names[0]
        assert opened(url, chunks=CHUNKS).PRIMARY[3:50, 7:].data.name != parts[0]
    finally:
        put("banded.fits", content)


def test_through_xarray_and_zarr(url: str, expected: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    ds = opened(url, chunks=CHUNKS)
    with dask.config.set(scheduler="sync"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.drop_encoding().to_zarr(tmp_path / "a.zarr")
        assert RecordingFileSystem.nbytes() == PIXELS.nbytes
        assert same_bits(xr.open_zarr(tmp_path / "a.zarr").PRIMARY.values, expected)
        twice = ds.PRIMARY.map_blocks(lambda part: part * 2)
        assert same_bits(twice.values, expected * 2)
        coarse = ds.PRIMARY.coarsen(y=2, x=2).mean()
        np.testing.assert_allclose(
            coarse.values, expected.reshape(60, 2, 1000, 2).mean(axis=(1, 3)), rtol=1e-5
        )
        at = ds.PRIMARY.sel(y=[3, 100], x=slice(5, 9))
        assert same_bits(at.values, expected[[3, 100], 5:10])
        assert same_bits((ds.PRIMARY + ds.PRIMARY.isel(y=0)).values, expected + expected[0])


def test_chunks_that_hold_much_are_told_of(url: str) -> None:
    with (
        dask.config.set({"array.chunk-size": "20 kB"}),
        pytest.warns(da.PerformanceWarning, match=r"banded\.fits: HDU 0: chunks of \(50, 300\)"),
    ):
        opened(url, chunks=CHUNKS)
