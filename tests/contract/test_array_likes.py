"""Every array-like passes the contract of `tests.support.contract`."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.nddata import Cutout2D

import dask_fits
from dask_fits.readers.window import WindowReader
from dask_fits.stacks.array import stack_array
from dask_fits.stacks.reader import StackReader
from tests.support.contract import ArrayLikeContract, DaskContract
from tests.support.stacks import stack_of

pytestmark = pytest.mark.untraced

PIXELS = np.random.default_rng(8).integers(-999, 999, (64, 48)).astype("i2")
FRAMES = np.random.default_rng(9).integers(-999, 999, (42, 36, 40)).astype("i2")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain image, scaled, one of tiles, and many images; each ends in pixels, not in padding."""
    root = tmp_path_factory.mktemp("contract")
    plain = fits.PrimaryHDU(PIXELS)
    plain.header["BSCALE"], plain.header["BZERO"] = 0.5, 100.0
    plain.writeto(root / "plain.fits")
    fits.CompImageHDU(PIXELS, compression_type="RICE_1", tile_shape=(8, 12)).writeto(
        root / "tiles.fits"
    )
    frames = [fits.PrimaryHDU(FRAMES[0]), *map(fits.ImageHDU, FRAMES[1:])]
    for hdu in frames[::2]:
        hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 100.0
    fits.HDUList(frames).writeto(root / "frames.fits")
    (root / "plain.fits.gz").write_bytes(gzip.compress((root / "plain.fits").read_bytes()))
    return root


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """A process that was not forked, whose hashes of texts are others."""
    seed = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "7"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(os.getpid).result()
        if seed is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = seed
        yield pool


def hdu_of(url: str, **options: Any) -> dask_fits.HDU:
    return dask_fits.open(url, **options).first_image()


class Plain:
    file = "plain.fits"

    def pixels(self, path: Path) -> np.ndarray:
        return fits.getdata(path, 0)


class Tiles:
    file = "tiles.fits"

    def pixels(self, path: Path) -> np.ndarray:
        return fits.getdata(path, 1)


class Frames:
    """Images of integers, and of scaled ones, in turn."""

    file = "frames.fits"
    requests = len(FRAMES)

    def pixels(self, path: Path) -> np.ndarray:
        with fits.open(path) as file:
            return np.stack([hdu.data.astype("f4") for hdu in file])


class TestImageReader(Plain, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).reader()


class TestTiledReader(Tiles, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).reader()


class TestIndexedReader(Plain, ArrayLikeContract):
    """A gzip file that has an index, in the user's cache."""

    file = "plain.fits.gz"
    # The contract's file of other pixels is no gzip file; see `tests.file.test_indexed_files`.
    test_a_file_that_was_replaced_is_not_read = None

    def make(self, url: str, **options: Any) -> Any:
        return dask_fits.open(url, **options).build_index()[0].reader()


class TestWindowReader(Plain, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return WindowReader(hdu_of(url, **options).reader(), (-5, 20), (50, 40), -1.0)

    def pixels(self, path: Path) -> np.ndarray:
        window = np.full((50, 40), -1, "f4")
        window[5:, :28] = super().pixels(path)[:45, 20:]
        return window


class TestSection(Plain, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).section


class TestSectionOfTiles(Tiles, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).section


class TestDaskArray(Plain, DaskContract):
    requests = 4

    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).to_dask((16, -1))


class TestDaskArrayOfTiles(Tiles, DaskContract):
    requests = 4

    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).to_dask((16, -1))


class TestBandedArray(Plain, DaskContract):
    """Chunks that cut rows are divided out of two bands, each of which is read once."""

    requests = 2

    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).to_dask((32, 16))


class TestBandedArrayOfTiles(Tiles, DaskContract):
    """Chunks of 13 rows, tiles of 8: five bands end where tiles do."""

    requests = 5

    def make(self, url: str, **options: Any) -> Any:
        return hdu_of(url, **options).to_dask((13, 20))


POSITION, SIZE = (40, 10), (50, 45)


class TestCutout(Plain, DaskContract):
    requests = 2

    def make(self, url: str, **options: Any) -> Any:
        hdu = hdu_of(url, **options)
        with dask.config.set({"array.chunk-size": "4500 B"}):  # 25 rows
            return hdu.cutout(POSITION, SIZE, mode="partial", fill_value=-1).data

    def pixels(self, path: Path) -> np.ndarray:
        pixels = super().pixels(path)
        return Cutout2D(pixels, POSITION, SIZE, mode="partial", fill_value=-1).data


class TestCutouts(Plain, DaskContract):
    max_pickle = 20_000

    def make(self, url: str, **options: Any) -> Any:
        positions = np.stack([np.linspace(0, 47, 80), np.linspace(63, 0, 80)], axis=1)
        return dask_fits.cutouts(url, positions, 6, fill_value=-1, **options).data

    def pixels(self, path: Path) -> np.ndarray:
        pixels = super().pixels(path)
        positions = np.stack([np.linspace(0, 47, 80), np.linspace(63, 0, 80)], axis=1)
        cut = [Cutout2D(pixels, tuple(at), 6, mode="partial", fill_value=-1) for at in positions]
        return np.stack([cutout.data for cutout in cut])


class TestVariable(Plain, ArrayLikeContract):
    """A variable of xarray that is read when it is asked for."""

    max_pickle = 8000

    def make(self, url: str, **options: Any) -> Any:
        return xr.open_dataset(url, engine="fits", **options).PRIMARY

    def token(self, array: Any) -> str:
        # Dask's own name for it would be made of its values, which it would read.
        return array.chunk(y=16).data.name


class TestChunkedVariable(Plain, DaskContract):
    requests = 4
    max_pickle = 12_000

    def make(self, url: str, **options: Any) -> Any:
        return xr.open_dataset(url, engine="fits", chunks={"y": 16}, **options).PRIMARY

    def token(self, array: Any) -> str:
        return array.data.name


def stack_reader(url: str, **options: Any) -> StackReader:
    return stack_of([hdu.reader() for hdu in dask_fits.open(url, **options)])


class TestStackReader(Frames, ArrayLikeContract):
    def make(self, url: str, **options: Any) -> Any:
        return stack_reader(url, **options)


class TestStackArray(Frames, DaskContract):
    def make(self, url: str, **options: Any) -> Any:
        return stack_array(stack_reader(url, **options), (16, -1, -1))


class TestPartOfAStackArray(Frames, DaskContract):
    """Frames and rows that were listed one by one."""

    requests = len(FRAMES) - 1
    part = (np.delete(np.arange(len(FRAMES)), 3), np.r_[:30, 31, 35])

    def make(self, url: str, **options: Any) -> Any:
        array = stack_array(stack_reader(url, **options), (16, -1, -1))
        return array[self.part[0]][:, self.part[1]]

    def pixels(self, path: Path) -> np.ndarray:
        return super().pixels(path)[np.ix_(*self.part)]
