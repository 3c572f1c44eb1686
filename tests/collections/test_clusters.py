"""Collections that are made on the workers of a cluster."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from distributed import Client

import dask_fits
from dask_fits.collections import gathering
from tests.servers.range_server import RangeServer
from tests.support.collections import PIXELS, SKY, assert_same_columns, image, put
from tests.support.patience import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.untraced,
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
]

COUNT = 600


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cluster")
    contents = [
        b"no FITS" if n % 97 == 5 else image({**SKY, "CRVAL1": n / 2, "N": n}, PIXELS[: 3 + n % 5])
        for n in range(COUNT)
    ]
    put(root, contents)
    return root


def test_headers_are_read_on_the_workers_alone_and_all_is_as_here(
    directory: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = sorted(map(str, directory.glob("*.fits")))
    here = dask_fits.open_collection(urls, keywords=["N"])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a header was read in this process")

    told: list[tuple[int, int]] = []
    with client.as_current(), monkeypatch.context() as patch:
        patch.setattr(gathering, "open_file", refuse)
        found = dask_fits.open_collection(
            urls, keywords=["N"], progress=lambda done, count: told.append((done, count))
        )
    assert told[-1] == (COUNT, COUNT)
    assert len(told) > 1
    assert_same_columns(found, here)
    assert {name: str(error) for name, error in found.failures.items()} == {
        name: str(error) for name, error in here.failures.items()
    }
    assert len(here.failures) == 7
    for collection in (found, here):
        hdus = [source for source in collection.sources() if isinstance(source, dask_fits.HDU)]
        readable = collection.column("error") == ""
        assert [hdu.store.url for hdu in hdus] == collection.column("access_url")[readable].tolist()
    assert found[3].section[...].shape == here[3].section[...].shape
    assert found[3].to_dask().name == here[3].to_dask().name


def test_a_worker_that_is_killed_meanwhile_loses_nothing(directory: Path, client: Client) -> None:
    with RangeServer(directory) as server:
        urls = [f"{server.url}/{path.name}" for path in sorted(directory.glob("*.fits"))]
        here = dask_fits.open_collection(urls, keywords=["N"])

        def collect() -> dask_fits.Collection:
            with client.as_current():
                return dask_fits.open_collection(urls, keywords=["N"])

        with ThreadPoolExecutor(1) as thread:
            pids = client.run(os.getpid)
            with server.hold():
                collecting = thread.submit(collect)
                until(lambda: server.waiting > 10)
                busy = [address for address, keys in client.processing().items() if keys]
                os.kill(pids[busy[0]], signal.SIGKILL)
                until(lambda: busy[0] not in client.scheduler_info()["workers"])
            found = collecting.result()
    assert_same_columns(found, here)
    numbers = [n for n in found.column("N").tolist() if n is not None]
    assert numbers == [n for n in range(COUNT) if n % 97 != 5]
