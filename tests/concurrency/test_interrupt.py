"""Ctrl-C, and what else ends a read from outside, where a server is silent: soon, and nothing half written."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import dask.threaded
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from distributed import Client, LocalCluster

import dask_fits
from dask_fits.arrays.lazy import watch_computations
from dask_fits.cli import main
from dask_fits.storage import atomic
from tests.servers.range_server import RangeServer
from tests.support.interrupts import interrupt
from tests.support.leftovers import requests_left
from tests.support.patience import until

PACKAGE = Path(dask_fits.__file__).parent
PIXELS = np.random.default_rng(5).random((64, 300), dtype=np.float32)
FILES = 40
FOR_EVER = {"count": None, "seconds": 3600.0}
SOON = 10.0
"""Seconds, on a machine that is busy: it takes one. The time-outs and retries take more than 100."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("files")
    for n in range(FILES):
        fits.PrimaryHDU(PIXELS + n).writeto(found / f"{n}.fits")
    return found


@pytest.fixture
def server(directory: Path) -> Iterator[RangeServer]:
    with RangeServer(directory) as running:
        yield running


def urls(server: RangeServer) -> list[str]:
    return [f"{server.url}/{n}.fits" for n in range(FILES)]


def busy() -> list[str]:
    """Threads, other than this one, that are at work in the package."""
    found = []
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        at = frame
        while at is not None and ident != threading.get_ident():
            if PACKAGE in Path(at.f_code.co_filename).parents:
                found.append(names.get(ident, str(ident)))
                break
            at = at.f_back
    return found


def read(server: RangeServer, **options: Any) -> None:
    dask_fits.from_fits(urls(server)[0], chunks=(8, -1)).mean().compute(**options)


def cut(server: RangeServer) -> dask_fits.Cutouts:
    return dask_fits.cutouts(urls(server), [[150, 32]], 8)


async def _load(server: RangeServer) -> None:
    await xr.open_dataset(urls(server)[0], engine="fits").load_async()


# What runs, how many requests the server has answered by then, and how many it keeps waiting.
RUNNING: dict[str, tuple[Callable[[RangeServer, Path], object], int, int]] = {
    "open": (lambda s, _: dask_fits.open(urls(s)[0]), 0, 1),
    "section": (lambda s, _: dask_fits.open(urls(s)[0])[0].section[5:9], 1, 1),
    "sync": (lambda s, _: read(s, scheduler="sync"), 1, 1),
    "threads": (lambda s, _: read(s, scheduler="threads"), 1, 2),
    "pool": (lambda s, _: read(s, scheduler="threads", num_workers=4), 1, 4),
    "cutouts": (lambda s, _: cut(s), 0, 32),
    "pattern": (lambda s, _: dask_fits.cutouts(f"{s.url}/*.fits", [[9, 9]], 8), 0, 1),
    "compute": (lambda s, _: cut(s).data.compute(), FILES, 17),
    "to_files": (lambda s, out: cut(s).to_files(out), FILES, 17),
    "to_zarr": (lambda s, out: cut(s).to_zarr(out), FILES, 17),
    "load": (lambda s, _: xr.open_dataset(urls(s)[0], engine="fits").load(), 1, 1),
    "chunks": (lambda s, _: xr.open_dataset(urls(s)[0], engine="fits", chunks={}).load(), 1, 1),
    "load_async": (lambda s, _: asyncio.run(_load(s)), 1, 1),
    "s3": (
        lambda s, _: dask_fits.open(
            "s3://bucket/0.fits", storage_options={"anon": True, "endpoint_url": s.url}
        ),
        0,
        1,
    ),
}


@pytest.mark.parametrize("running", RUNNING)
def test_a_session_goes_on_after_it(server: RangeServer, running: str, tmp_path: Path) -> None:
    act, answered, waiting = RUNNING[running]
    kind = {0: "slow", 1: "stall", FILES: "trickle"}[answered]
    server.fail(kind, first=answered + 1, **FOR_EVER)
    interrupt(lambda: act(server, tmp_path / "out"), lambda: server.busy >= waiting)
    pressed = time.monotonic()
    until(lambda: not busy() and not requests_left())
    assert time.monotonic() - pressed < SOON
    server.heal()
    found = dask_fits.from_fits(urls(server)[7], chunks=(8, -1)).compute()
    assert np.array_equal(found, PIXELS + 7)
    assert not [*tmp_path.rglob("*.part")]
    if running == "to_zarr":
        written = zarr.open_group(tmp_path / "out", mode="r")
        assert written.attrs["incomplete"] is True
        assert "status" not in written


def test_a_whole_zarr_group_is_not_marked(server: RangeServer, tmp_path: Path) -> None:
    cut(server).to_zarr(tmp_path / "out")
    assert "incomplete" not in zarr.open_group(tmp_path / "out", mode="r").attrs


def test_reads_of_a_computation_that_fails_end_with_it(server: RangeServer) -> None:
    """Though another computation of the same image, in another thread, goes on."""
    image = dask_fits.from_fits(urls(server)[0], chunks=(8, -1))

    @dask.delayed
    def fail() -> None:
        until(lambda: server.waiting >= 3)
        raise ZeroDivisionError

    with ThreadPoolExecutor(1) as pool:
        with server.hold():
            whole = pool.submit(image.compute, scheduler="threads", num_workers=1)
            until(lambda: server.waiting == 1)
            watch_computations()  # Dask forgets it while the other one runs
            with pytest.raises(ZeroDivisionError):
                # A worker for each task: which of them Dask begins with is up to their names.
                dask.compute(fail(), image, scheduler="threads", num_workers=9)
            until(lambda: len(busy()) == 1)
            assert not whole.done()
        assert np.array_equal(whole.result(), PIXELS)


TOLD = """
import signal, sys, threading
def told():
    if number := sys.stdin.readline():
        signal.pthread_kill(threading.main_thread().ident, int(number))
threading.Thread(target=told, daemon=True).start()
"""


def child(code: str, server: RangeServer, directory: Path) -> subprocess.Popen[str]:
    text = f"{TOLD}\nimport dask_fits\nurls = {urls(server)}\n{code}"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", text],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stopped(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    """Send a signal, wait for the end: the exit code, and what it said."""
    sent = time.monotonic()
    try:
        said = process.communicate(f"{int(number)}\n", timeout=SOON)[1]
    finally:
        process.kill()
    assert time.monotonic() - sent < SOON
    return process.returncode, said


DRIVER = """
import fsspec, urllib.request
class Silent(fsspec.AbstractFileSystem):
    protocol = "silent"
    def info(self, path, **options):
        return urllib.request.urlopen(urls[0]).read()
fsspec.register_implementation("silent", Silent)
dask_fits.open("silent://0.fits")
"""
READ = "dask_fits.from_fits(urls[0], chunks=(8, -1)).mean().compute()"
SCRIPTS = {
    "threads": (READ, "stall", 1, 2),
    "cutouts": ("dask_fits.cutouts(urls * 13, [[1, 1]], 2)", "slow", 0, 32),
    "to_files": ("dask_fits.cutouts(urls, [[150, 32]], 8).to_files('out')", "slow", FILES, 17),
    "driver that blocks": (DRIVER, "slow", 0, 1),
    # Of before Dask handed contexts on to its threads, which can then not tell what they work for.
    "old Dask": (
        f"import dask.threaded as t\nt.ContextAwareThreadPoolExecutor = t.ThreadPoolExecutor\n{READ}",
        *("slow", 1, 2),
    ),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_ends(server: RangeServer, script: str, tmp_path: Path) -> None:
    code, kind, answered, waiting = SCRIPTS[script]
    server.fail(kind, first=answered + 1, **FOR_EVER)
    process = child(code, server, tmp_path)
    until(lambda: server.busy >= waiting)
    code, said = stopped(process, signal.SIGINT)
    assert code == -signal.SIGINT
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert said.count("Traceback") <= 1 + said.count("During handling") + said.count("direct cause")
    assert "Task " not in said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "dask-fits: interrupted"),
        (signal.SIGTERM, 143, "dask-fits: stopped by SIGTERM"),
    ],
)
def test_a_command_ends(
    server: RangeServer, tmp_path: Path, number: int, code: int, message: str
) -> None:
    server.fail("slow", first=2, **FOR_EVER)
    command = "sys.argv = ['dask-fits', 'stats', urls[0]]\nfrom dask_fits.cli import main\nmain()"
    process = child(command, server, tmp_path)
    until(lambda: server.busy >= 1)
    found, said = stopped(process, number)
    assert found == code
    assert said.splitlines()[-1] == message
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_command_that_is_told_to_end_while_it_writes(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name)
    before = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    found = signal.signal(number, before)  # which nohup ignores

    def told(_: int) -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
        signal.raise_signal(number)

    monkeypatch.setattr(atomic.os, "fsync", told)
    out = tmp_path / "cut.fits"
    argv = ["dask-fits", "cutout", urls(server)[0], "--x", "9", "--y", "9", "--size", "4"]
    monkeypatch.setattr(sys, "argv", [*argv, "-o", str(out)])
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, found)
    assert ended.value.code == 128 + number
    assert not [*tmp_path.iterdir()]


def test_a_signal_that_is_ignored_stays_so(server: RangeServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["dask-fits", "info", urls(server)[0]])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with pytest.raises(SystemExit) as ended:
            main()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == 0


def test_a_script_that_ends_in_good_order_waits_for_its_threads(
    server: RangeServer, tmp_path: Path
) -> None:
    code = (
        "import threading\nfile = dask_fits.open(urls[3])\n"
        "threading.Thread(target=lambda: print(file[0].section[5, 9])).start()"
    )
    server.latency = 0.3
    process = child(code, server, tmp_path)
    said, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert np.float32(said) == (PIXELS + 3)[5, 9]


def test_a_worker_that_closes_gives_its_reads_up(
    server: RangeServer, caplog: pytest.LogCaptureFixture
) -> None:
    found = cut(server)
    server.fail("slow", **FOR_EVER)
    with (
        caplog.at_level(logging.ERROR),
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        futures = client.compute([found.data, found.data[:, 0]])
        until(lambda: server.busy >= 17)  # several reads in one task
        assert futures
        cluster.close()
        closed = time.monotonic()
        until(lambda: not busy())
        assert time.monotonic() - closed < SOON
