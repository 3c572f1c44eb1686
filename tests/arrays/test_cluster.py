"""The same pixels from every scheduler, from many threads and processes, and when a worker dies."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from distributed import Client

import dask_fits
from dask_fits.concurrency import cancellation
from dask_fits.readers.reader import PixelReader
from tests.servers.range_server import RangeServer
from tests.support.patience import until
from tests.support.places import KINDS, Place, place_of

PIXELS = np.random.default_rng(7).integers(-(2**15), 2**15, (320, 400), dtype=np.int16)
CHUNKS = (20, -1)
CHUNK_COUNT = 16


COMPRESSED = [("RICE_1", "s3"), ("RICE_1", "http"), ("HCOMPRESS_1", "local")]


def images(*kinds: str) -> pytest.MarkDecorator:
    """The plain image in places of these kinds, and compressed ones in a few."""
    cases = [*(("plain", kind) for kind in kinds), *COMPRESSED]
    return pytest.mark.parametrize(("content", "place"), cases, indirect=True)


everywhere = images(*(kind for kind in KINDS if kind != "memory"))  # of one process only


@pytest.fixture(scope="module")
def content(request: pytest.FixtureRequest) -> bytes:
    """The image as it is, and compressed in tiles of a row or of 20 rows."""
    buffer = BytesIO()
    if request.param == "plain":
        fits.PrimaryHDU(PIXELS).writeto(buffer)
    else:
        tile = (1 if request.param == "RICE_1" else 20, 400)
        packed = fits.CompImageHDU(PIXELS, compression_type=request.param, tile_shape=tile)
        packed.writeto(buffer)
    return buffer.getvalue()


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, tmp_path, request)


def statistics(image: da.Array) -> tuple[da.Array, ...]:
    """Exact whatever the order; one partial result for each chunk."""
    several = {"split_every": 100}
    return image.sum(**several), image.min(**several), image.max(**several)


def expected() -> tuple[int, int, int]:
    return int(PIXELS.sum()), int(PIXELS.min()), int(PIXELS.max())


@pytest.mark.untraced
@everywhere
@pytest.mark.parametrize("scheduler", ["sync", "threads", "distributed"])
def test_every_scheduler_gives_the_same(
    place: Place, content: bytes, client: Client, scheduler: str
) -> None:
    image = dask_fits.from_fits(**place.arguments("image.fits", content), chunks=CHUNKS)
    with client.as_current(), dask.config.set(scheduler=scheduler):
        found, *numbers = dask.compute(image, *statistics(image))
    assert found.dtype == PIXELS.dtype
    assert np.array_equal(found, PIXELS)
    assert tuple(map(int, numbers)) == expected()


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """Two processes that were spawned, not forked: what they need they make or get by pickle."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        yield processes


@images("local", "http", "s3", "gcs")
def test_the_process_scheduler_gives_the_same(
    place: Place, content: bytes, spawned: ProcessPoolExecutor
) -> None:
    image = dask_fits.from_fits(**place.arguments("image.fits", content), chunks=CHUNKS)
    # Processes of its own for one kind of place, since they are what people have.
    own = place.kind == "http" and b"ZIMAGE" not in content
    options = {"num_workers": 2} if own else {"pool": spawned}
    assert np.array_equal(image.compute(scheduler="processes", **options), PIXELS)


def read_at_random(reader: PixelReader, seed: int) -> int:
    """Read 20 boxes in each of 4 threads; how many were right."""
    random = np.random.default_rng(seed)
    corners = zip(random.integers(310, size=80), random.integers(390, size=80), strict=True)

    def read(corner: tuple[int, int]) -> bool:
        y, x = corner
        return np.array_equal(reader[y : y + 10, x : x + 10], PIXELS[y : y + 10, x : x + 10])

    with ThreadPoolExecutor(4) as threads:
        return sum(threads.map(read, corners))


@everywhere
def test_threads_of_spawned_processes(
    place: Place, content: bytes, spawned: ProcessPoolExecutor
) -> None:
    file = dask_fits.open(**place.arguments("image.fits", content))
    reader = file.first_image().reader()
    reader[0, 0]  # this process has its connections and its event loop
    assert list(spawned.map(read_at_random, [reader, reader], [1, 2])) == [80, 80]


def chunks_of(address: str, dask_scheduler: Any = None) -> set[int]:
    """Numbers of the chunks of whose tasks a worker holds a result, or has one to do."""
    worker = dask_scheduler.workers[address]
    return {task.key[1] for task in (*worker.has_what, *worker.processing)}


@pytest.mark.parametrize("content", ["plain"], indirect=True)
def test_a_worker_that_dies_costs_only_its_own_tasks(
    client: Client, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "image.fits").write_bytes(content)
    with RangeServer(tmp_path) as server:
        image = dask_fits.from_fits(f"{server.url}/image.fits", chunks=CHUNKS)
        server.clear()
        server.latency = 0.05
        futures = client.compute(statistics(image))
        until(lambda: server.requests >= CHUNK_COUNT // 2)
        with server.hold():
            until(lambda: server.waiting == 2)  # one thread in each worker
            victim, pid = next(iter(client.run(os.getpid).items()))
            lost = client.run_on_scheduler(chunks_of, victim)
            os.kill(pid, signal.SIGKILL)
        assert tuple(map(int, client.gather(futures))) == expected()
        times = Counter(request.range for request in server.log)
    assert len(times) == CHUNK_COUNT
    twice = [wanted for wanted, count in times.items() if count > 1]
    assert 1 <= len(twice) <= len(lost) < CHUNK_COUNT
    assert sum(times.values()) == CHUNK_COUNT + len(twice), "no more often than twice"


def frozen_at_the_end() -> int:
    """Objects that Python does not look through any more when the process ends."""
    try:
        cancellation._at_exit()
        return gc.get_freeze_count()
    finally:
        gc.unfreeze()


def test_a_worker_process_ends_without_taking_all_modules_apart(client: Client) -> None:
    """Which takes seconds, and its nanny kills it after four."""
    assert all(count > 1000 for count in client.run(frozen_at_the_end).values())
    assert not cancellation._is_worker_of_a_nanny(), "this process ends as Python ends it"
