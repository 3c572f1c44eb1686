"""What holds for every array-like of a FITS file, as tests: a subclass says how one is made.

After the way in which zarr tests stores. Readers, sections, Dask arrays, cutouts and the variables of
xarray pass the same tests, and so will what comes.
"""

from __future__ import annotations

import logging
import pickle
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import dask
import numpy as np
import pytest
from dask.base import is_dask_collection, tokenize
from distributed import Client

from dask_fits import FileChangedError, StorageError, TransferConfig
from tests.servers.range_server import RangeServer
from tests.support.fits_files import same_bits

KEYS = [np.s_[:], np.s_[4:9], np.s_[7, 3:30], np.s_[2:40:3, ::-1], np.s_[..., -1]]
PART = np.s_[20:25]
"""Rows of which each kind has pixels of the file."""

QUICK = TransferConfig(attempts=2, backoff=0.001)


def read(array: Any, key: Any = np.s_[:]) -> np.ndarray:
    """Index an array-like, and read what that gives."""
    found = array[key]
    if is_dask_collection(found):
        found = found.compute(scheduler="sync")
    return np.asarray(found)


class ArrayLikeContract:
    """Tests of one kind of array-like."""

    file: ClassVar[str]
    """Name of the file that is served."""
    requests: ClassVar[int] = 1
    """How many a read of all of it takes, once it is open."""
    max_pickle: ClassVar[int] = 3000
    """Bytes."""

    def make(self, url: str, **options: Any) -> Any:
        """Open a file and make the array-like; `options` are those of `dask_fits.open`."""
        raise NotImplementedError

    def pixels(self, path: Path) -> np.ndarray:
        """What all of it is, by astropy."""
        raise NotImplementedError

    def token(self, array: Any) -> str:
        """The name by which Dask knows it."""
        return array.name if is_dask_collection(array) else tokenize(array)

    @pytest.fixture
    def path(self, directory: Path) -> Path:
        return directory / self.file

    @pytest.fixture
    def url(self, server: RangeServer) -> str:
        return f"{server.url}/{self.file}"

    # What it gives

    def test_it_gives_the_pixels(self, url: str, path: Path) -> None:
        array, expected = self.make(url), self.pixels(path)
        assert array.shape == expected.shape
        assert array.dtype == expected.dtype.newbyteorder("=")
        for key in KEYS:
            found = read(array, key)
            assert found.dtype.isnative
            assert same_bits(found, expected[key]), key

    def test_what_it_gives_is_the_callers(self, url: str, path: Path) -> None:
        array = self.make(url)
        first = read(array, PART)
        assert first.flags.writeable
        first[:] = 0
        assert same_bits(read(array, PART), self.pixels(path)[PART])

    def test_a_read_takes_the_requests_that_it_needs(self, url: str, server: RangeServer) -> None:
        array = self.make(url)
        server.clear()
        read(array)
        assert server.requests == self.requests

    # Other threads, processes, machines

    def test_it_is_pickled_small_and_without_a_request(
        self, url: str, path: Path, server: RangeServer
    ) -> None:
        array = self.make(url)
        server.clear()
        packed = cloudpickle.dumps(array)
        assert len(packed) < self.max_pickle
        again = pickle.loads(packed)
        assert self.token(again) == self.token(array)
        assert server.requests == 0
        assert same_bits(read(again), self.pixels(path))

    def test_threads_read_different_parts(self, url: str, path: Path) -> None:
        array, expected = self.make(url), self.pixels(path)

        def rows(seed: int) -> bool:
            starts = np.random.default_rng(seed).integers(0, len(expected) - 4, 12).tolist()
            return all(
                same_bits(read(array, np.s_[n : n + 4]), expected[n : n + 4]) for n in starts
            )

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(rows, range(8)))

    def test_another_process_reads_it(
        self, url: str, path: Path, spawned: ProcessPoolExecutor
    ) -> None:
        found = spawned.submit(read, self.make(url), PART).result()
        assert same_bits(found, self.pixels(path)[PART])

    def test_another_process_gives_it_the_same_name(
        self, url: str, spawned: ProcessPoolExecutor
    ) -> None:
        assert spawned.submit(_name, type(self), url).result() == self.token(self.make(url))

    # Versions and secrets

    def test_a_file_that_was_replaced_is_not_read(self, url: str, path: Path) -> None:
        content, array = path.read_bytes(), self.make(url)
        old, expected = self.token(array), self.pixels(path)
        packed = cloudpickle.dumps(array)
        # The last pixels are others, and the length is the same.
        path.unlink()
        path.write_bytes(content[:-2880] + content[-2880:][::-1])
        try:
            for replaced in (array, pickle.loads(packed)):
                with pytest.raises(FileChangedError, match=self.file):
                    read(replaced, PART)
            assert self.token(self.make(url)) != old
        finally:
            path.unlink()
            path.write_bytes(content)
        assert same_bits(read(self.make(url)), expected)

    def test_it_shows_no_secret(
        self, url: str, server: RangeServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "dask_fits")
        web = url.replace("//", "//user:SECRET-password@") + "?token=SECRET-query"
        header = {"client_kwargs": {"headers": {"Authorization": "Bearer SECRET-header"}}}
        for place, options in ((web, {}), (url, {"storage_options": header})):
            array = self.make(place, transfer=QUICK, **options)
            texts = [repr(array), self.token(array)]
            texts.append(getattr(array, "_repr_html_", str)())
            if is_dask_collection(array):
                texts += [str(dict(array.__dask_graph__())), str(array.__dask_graph__())]
            server.fail("status", status=503, count=None)
            try:
                with pytest.raises(StorageError) as caught:
                    read(array)
            finally:
                server.heal()
            texts += [str(caught.value), *traceback.format_exception(caught.value), caplog.text]
            for text in texts:
                assert "SECRET" not in text, text


class DaskContract(ArrayLikeContract):
    """Tests of one kind of Dask array, besides those of every array-like."""

    max_pickle = 9000

    @pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "distributed"])
    def test_every_scheduler_gives_the_pixels(
        self, url: str, path: Path, request: pytest.FixtureRequest, scheduler: str
    ) -> None:
        array, expected = self.make(url), self.pixels(path)
        assert array.data.npartitions > 1 if hasattr(array, "dims") else array.npartitions > 1
        options: dict[str, Any] = {"scheduler": scheduler}
        if scheduler == "processes":
            options["pool"] = request.getfixturevalue("spawned")
        elif scheduler == "distributed":
            client: Client = request.getfixturevalue("client")
            options["scheduler"] = client
        whole, largest = dask.compute(array, array.max(), **options)
        assert same_bits(np.asarray(whole), expected)
        assert np.asarray(largest) == expected.max()


def _name(kind: type[ArrayLikeContract], url: str) -> str:
    contract = kind()
    return contract.token(contract.make(url))
