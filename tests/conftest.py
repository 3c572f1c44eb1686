"""Servers on 127.0.0.1 that tests can ask for."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from distributed import Client
from hypothesis import settings

from tests.servers.caddy import CaddyServer
from tests.servers.caddy import caddy_server as run_caddy_server
from tests.servers.gcs import GcsServer
from tests.servers.gcs import gcs_server as run_gcs_server
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.servers.s3 import s3_server as run_s3_server
from tests.servers.webdav import WebdavServer
from tests.servers.webdav import webdav_server as run_webdav_server
from tests.support.at_rest import write_at_rest
from tests.support.clusters import workers
from tests.support.data import DATA
from tests.support.patience import until

# Indexes of large gzip files are kept in the user's cache: not of those of tests. Each process has a
# directory of its own, which it removes.
_CACHE = tempfile.TemporaryDirectory(prefix="dask_fits-cache-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name

# gcsfs looks at it when it is imported, and else asks the emulator for what it does not have.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# Processes that run tests in parallel ignore Ctrl-C, and so would all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# In continuous integration a failure must be of the change; fresh examples are for people's machines.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

PURE = {"ranges", "streams", "format", "planning", "codecs", "wcs"}
"""Rooms whose tests need no server and no other process, unless they are marked as slow."""

SERVERS = {
    "caddy_server",
    "client",
    "gcs_server",
    "range_server",
    "s3_server",
    "server",
    "serving",
    "webdav_server",
}
"""Fixtures that start something."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have Python look for garbage only among what tests leave.

    What is collected are half a million objects, none of them garbage, and each look takes a third
    of a second.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_finish() -> None:
    """Make constants constant.

    astropy swaps the bytes of an array that it writes, and scales it in place; where it cannot, it
    takes a copy. What one test did to them made another fail that came after it.
    """
    modules = [module for name, module in sys.modules.items() if name.startswith("tests.")]
    for value in chain.from_iterable(vars(module).values() for module in modules):
        for array in value.values() if isinstance(value, dict) else [value]:
            if isinstance(array, np.ndarray):
                array.flags.writeable = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make this package's warnings errors, unless a test says otherwise; trace no fresh examples.

    In the settings of pytest the warnings would import the package, before coverage is measured in
    the processes that run tests in parallel.
    """
    # The file that takes longest comes first: no process is to have it alone at the end.
    items.sort(key=lambda item: item.path.name != "test_examples.py")
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.untraced)  # coverage is not to vary with the examples
        if "entry" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)  # a file of the corpus
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.untraced)  # its lines are those of quicker tests, or served
        for name in ("FitsWarning", "UnversionedFileWarning"):
            mark = pytest.mark.filterwarnings(f"error::dask_fits.{name}")
            item.add_marker(mark, append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run untraced tests without coverage, which would take as long again as they do.

    Before Python 3.14, that is. Other threads stay traced: those that live on could not go on.
    """
    trace = sys.gettrace()
    if trace is None or not item.get_closest_marker("untraced"):
        return (yield)
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(trace)


def pytest_xdist_auto_num_workers() -> int:
    """Run a process more than there are cores: many tests wait for servers and other processes."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def pure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse servers and processes to the tests that `make quick` runs."""
    room = request.path.relative_to(DATA.parent).parts[0] if request.path.suffix == ".py" else ""
    if room not in PURE or request.node.get_closest_marker("slow"):
        return
    assert SERVERS.isdisjoint(request.fixturenames), "a test with a server is to be marked as slow"

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a test with a process or a server is to be marked as slow")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(BaseProcess, "start", refuse)
    monkeypatch.setattr(socket.socket, "listen", refuse)


@pytest.fixture(scope="session")
def shared_client() -> Iterator[Client]:
    """Two worker processes for all tests of this process: their start takes most of such tests."""
    with workers(2, processes=True) as client:
        yield client


@pytest.fixture
def client(shared_client: Client) -> Client:
    """Two worker processes, both alive; what does not name them runs elsewhere."""
    until(lambda: len(shared_client.scheduler_info()["workers"]) == 2)
    return shared_client


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a file of some bytes."""

    def to_file(content: bytes) -> Path:
        path = tmp_path / "bad.fits"
        write_at_rest(path, content)
        return path

    return to_file


@pytest.fixture
def range_server() -> Iterator[RangeServer]:
    """An HTTP server for tests/data, with an empty log."""
    with RangeServer(DATA) as server:
        yield server


@pytest.fixture(scope="module")
def serving(directory: Path) -> Iterator[RangeServer]:
    """An HTTP server for the files that a module of tests has in its `directory`."""
    with RangeServer(directory) as running:
        yield running


@pytest.fixture
def server(serving: RangeServer, monkeypatch: pytest.MonkeyPatch) -> RangeServer:
    """The same with an empty log, and a process that has read no rows of tables yet."""
    # Not above, for the reason that pytest_collection_modifyitems gives.
    from dask_fits.readers import row_cache, tiled

    monkeypatch.setattr(tiled, "ROWS", row_cache.RowCache(row_cache.CACHE_BYTES))
    until(lambda: serving.busy == 0)
    serving.clear()
    return serving


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """An S3 server with a private, a public and a versioned bucket."""
    with run_s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """A Google Cloud Storage server with a bucket."""
    with run_gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def caddy_server() -> Iterator[CaddyServer]:
    """A file server over HTTP, as it stands on the Web."""
    with run_caddy_server() as server:
        yield server


@pytest.fixture(scope="session")
def webdav_server() -> Iterator[WebdavServer]:
    """A WebDAV server that asks for a password."""
    with run_webdav_server() as server:
        yield server
