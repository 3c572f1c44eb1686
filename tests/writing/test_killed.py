"""Processes that die while a file is written: it is there whole, or as it was before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, KilledWorker

import dask_fits
from dask_fits.storage.local_sink import LocalSink
from dask_fits.storage.sink import Attempt, Piece, Receipt
from dask_fits.writing import fits as fits_module
from tests.support.clusters import workers
from tests.support.fits_files import same_bits
from tests.support.patience import until
from tests.support.written_files import random_pixels, verified

pytestmark = [
    pytest.mark.slow,
    pytest.mark.untraced,
    pytest.mark.usefixtures("short_runs"),
]

PIXELS = random_pixels((12, 30), "i2")
OLD = b"what was there before"


@pytest.fixture
def cluster(client: Client) -> Iterator[None]:
    with client.as_current():
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.fits"
    path.write_bytes(OLD)
    return path


def array() -> da.Array:
    return da.from_array(PIXELS, chunks=(3, 10))


def die_once(marker: Path) -> None:
    """End the worker that comes here first, as the system does if there is no memory left."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class DeadlySink(LocalSink):
    """A sink that ends the process of one of its tasks, once."""

    __slots__ = ()

    @property
    def stage(self) -> str:
        return Path(self.path).parent.joinpath("stage").read_text()

    def reach(self, stage: str) -> None:
        if stage == self.stage:
            die_once(Path(self.path).with_name("died"))

    def begin(self, size: int) -> Attempt:
        attempt = super().begin(size)
        self.reach("after beginning")
        return attempt

    def write(self, attempt: Attempt, pieces: Iterator[Piece]) -> list[Receipt]:
        def watched() -> Iterator[Piece]:
            for piece in pieces:
                yield piece
                self.reach("while writing")

        receipts = super().write(attempt, watched())
        self.reach("after writing")
        return receipts

    def commit(self, attempt: Attempt, receipts: list[Receipt]) -> None:
        super().commit(attempt, receipts)
        self.reach("after committing")

    def _publish(self, part: Path, target: Path) -> None:
        super()._publish(part, target)
        self.reach("after publishing")


@pytest.fixture
def deadly(path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Choose where a worker dies."""

    def sink_of(*_: Any, overwrite: bool) -> DeadlySink:
        return DeadlySink(str(path), overwrite)

    def choose(stage: str) -> None:
        path.with_name("stage").write_text(stage)

    monkeypatch.setattr(fits_module, "sink_of", sink_of)
    return choose


def assert_in_order(path: Path) -> None:
    (found,) = verified(path)
    assert same_bits(found, PIXELS)
    assert {other.name for other in path.parent.iterdir()} == {"a.fits", "stage", "died"}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("stage", ["while writing", "after writing"])
def test_a_worker_that_dies_while_this_process_waits(path: Path, deadly: Any, stage: str) -> None:
    deadly(stage)
    dask_fits.to_fits(array(), path, overwrite=True)
    assert_in_order(path)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("stage", ["after publishing", "after committing"])
def test_a_worker_that_dies_as_it_commits(path: Path, deadly: Any, stage: str) -> None:
    """It may lose receipts, too: tasks run again when there is no temporary file any more."""
    deadly(stage)
    dask_fits.to_fits(array(), path, overwrite=True, compute=False).compute()
    assert_in_order(path)


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_after_it_has_begun(path: Path, deadly: Any) -> None:
    """The second attempt is whole; what is left of the first one is listed."""
    deadly("after beginning")
    dask_fits.to_fits(array(), path, overwrite=True, compute=False).compute()
    (left,) = dask_fits.abandoned(path)
    left.remove()
    assert_in_order(path)


def kill(block: np.ndarray) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    return block


def test_a_task_that_kills_its_worker_each_time(path: Path) -> None:
    deadly = array().map_blocks(kill, dtype="i2", meta=np.zeros((0, 0), "i2"))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        workers(1, processes=True) as client,
        client.as_current(),
        pytest.raises(KilledWorker),
    ):
        dask_fits.to_fits(deadly, path, overwrite=True)
    assert path.read_bytes() == OLD
    assert [*path.parent.iterdir()] == [path]


class GatedSink(LocalSink):
    """A sink that writes only when it may."""

    __slots__ = ()

    def note(self, what: str) -> None:
        Path(self.path).with_name(f"{what} {os.getpid()}").touch()

    def write(self, attempt: Attempt, pieces: Iterator[Piece]) -> list[Receipt]:
        self.note("begun")
        until(Path(self.path).with_name("gate").exists)
        try:
            return super().write(attempt, pieces)
        finally:
            self.note("ended")


@pytest.mark.usefixtures("cluster")
def test_an_interruption_while_a_cluster_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that still run do not make the temporary file again."""
    main = threading.main_thread().ident
    monkeypatch.setattr(
        fits_module, "sink_of", lambda *_, overwrite: GatedSink(str(path), overwrite)
    )

    def are(what: str) -> bool:
        return len([*path.parent.glob(f"{what} *")]) == 2

    def interrupt() -> None:
        until(lambda: are("begun"))
        signal.pthread_kill(main, signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            dask_fits.to_fits(array(), path, overwrite=True)
    told.result()
    path.with_name("gate").touch()
    until(lambda: are("ended"))
    assert dask_fits.abandoned(path) == []
    assert path.read_bytes() == OLD


SCRIPT = """
import os, sys, time
import dask.array as da, numpy as np
import dask_fits
path = sys.argv[1]
def slow(block, block_info=None):
    if block_info[0]["chunk-location"] == (3, 2):
        print("writing", flush=True)
        time.sleep(99)
    return block
array = da.ones((12, 30000), "i2", chunks=(3, 10000))
array = array.map_blocks(slow, dtype="i2", meta=np.zeros((0, 0), "i2"))
dask_fits.to_fits(array, path, overwrite=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_script_that_is_ended(path: Path, number: signal.Signals) -> None:
    dask_fits.to_fits(array(), path.with_name("b.fits"))
    LocalSink(str(path.with_name("b.fits")), overwrite=True).begin(10)
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "writing\n"
        assert len(dask_fits.abandoned(path)) == 1
        process.send_signal(number)
        if number == signal.SIGINT:
            until(lambda: dask_fits.abandoned(path) == [])
            process.kill()  # the task sleeps on
    assert path.read_bytes() == OLD
    for left in dask_fits.abandoned(path):
        left.remove()
    assert {other.name for other in path.parent.iterdir() if other.suffix != ".part"} == {
        "a.fits",
        "b.fits",
    }
    assert len(dask_fits.abandoned(path.with_name("b.fits"))) == 1
