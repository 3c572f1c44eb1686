"""A process that is forked off while this one has read, or reads: it reads too, or gets an error at once."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import dask_fits
from dask_fits import StorageError
from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.readers import tiled
from dask_fits.wcs import quiet
from dask_fits.xarray_backend import grid
from tests.servers.range_server import RangeServer
from tests.support.forks import in_child
from tests.support.patience import PATIENCE, until

PIXELS = np.random.default_rng(2).integers(-99, 99, (60, 200), dtype=np.int16)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("files")
    plain = fits.HDUList([fits.PrimaryHDU(np.tile(PIXELS, (5, 1))), fits.ImageHDU(PIXELS)])
    plain.writeto(found / "plain.fits")
    packed = fits.CompImageHDU(PIXELS, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(found / "packed.fits")
    return found


async def load(url: str) -> xr.Dataset:
    return await xr.open_dataset(url, engine="fits", hdu=1).load_async()


def test_it_reads_what_its_parent_has_read_and_what_not(
    server: RangeServer, tmp_path: Path
) -> None:
    plain, packed = f"{server.url}/plain.fits", f"{server.url}/packed.fits"
    files = dask_fits.open(plain), dask_fits.open(packed)
    for file in files:
        assert np.array_equal(file[1].section[5:9], PIXELS[5:9])
    image = files[1][1].to_dask(chunks=(30, -1))
    found = dask_fits.cutouts([plain, packed], [[50, 30]], 8, fill_value=0)

    def act() -> None:
        for file in (*files, dask_fits.open(plain), dask_fits.open(packed)):
            assert np.array_equal(file[1].section[20:30], PIXELS[20:30])
        assert np.array_equal(image.compute(scheduler="sync"), PIXELS)
        found.data.compute(scheduler="sync")
        again = dask_fits.cutouts([plain, packed], [[50, 30]], 8, hdus=1, fill_value=0)
        cut = again.data.compute(scheduler="sync")
        assert np.array_equal(cut[0], PIXELS[26:34, 46:54])

    in_child(act, patience=PATIENCE)


def test_load_async_has_threads_of_the_child(directory: Path) -> None:
    url = str(directory / "plain.fits")
    asyncio.run(load(url))

    def act() -> None:
        (image,) = asyncio.run(load(url)).data_vars.values()
        assert np.array_equal(image, PIXELS)

    in_child(act, patience=PATIENCE)


def test_a_file_of_which_a_thread_reads_headers(server: RangeServer) -> None:
    file = dask_fits.open(f"{server.url}/plain.fits")
    server.clear()
    with server.hold():
        reading = threading.Thread(target=lambda: len(file))
        reading.start()
        until(lambda: server.waiting == 1)

        def act() -> None:
            assert file[0].shape == (300, 200)  # known before
            with pytest.raises(StorageError, match=r"plain\.fits: a thread was .* open it again"):
                len(file)

        in_child(act, patience=PATIENCE)
    reading.join()
    assert len(file) == 2


def locks() -> dict[str, ProcessLock]:
    return {"rows": tiled.ROWS._lock, "warnings": quiet._lock}


@pytest.mark.parametrize("name", ["rows", "warnings"])
def test_a_lock_that_another_thread_holds(directory: Path, name: str) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locks()[name]:
            held.set()
            done.wait()

    holding = threading.Thread(target=hold)
    holding.start()
    held.wait()

    def act() -> None:
        grid.make_grid.cache_clear()
        for n in ("plain", "packed"):
            found = xr.open_dataset(directory / f"{n}.fits", engine="fits", hdu=1)
            (image,) = found.load().data_vars.values()
            assert np.array_equal(image, PIXELS)
        with locks()[name]:
            pass

    try:
        in_child(act, patience=PATIENCE)
    finally:
        done.set()
        holding.join()
