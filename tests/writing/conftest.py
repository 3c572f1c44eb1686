"""Files and stores that tests write to, and small arrays that are written as large ones are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from dask_fits.storage.other_uploads import OtherUploads
from dask_fits.writing import graph, pixels
from tests.servers.gcs import GcsServer
from tests.servers.s3 import S3Server
from tests.servers.upload_proxy import UploadProxy
from tests.servers.webdav import WebdavServer
from tests.support.remote_targets import (
    MIB,
    GcsTarget,
    MemoryTarget,
    S3Target,
    Target,
    WebdavTarget,
)
from tests.support.written_files import OLD


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small arrays be written by many tasks."""
    monkeypatch.setattr(graph, "_LEAST_RUN", 16)


@pytest.fixture
def short_pieces(short_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small arrays be written as large ones are: by many tasks, piece by piece."""
    monkeypatch.setattr(pixels, "_PIECE", 64)


@pytest.fixture
def two_threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(params=[False, True], ids=["absent", "old"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is not there, or one that is to be replaced."""
    path = tmp_path / "a.fits"
    if request.param:
        path.write_bytes(OLD)
    return path


@pytest.fixture(scope="module")
def _s3_proxy(s3_server: S3Server) -> Iterator[UploadProxy]:
    with UploadProxy(s3_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def _gcs_proxy(gcs_server: GcsServer) -> Iterator[UploadProxy]:
    with UploadProxy(gcs_server.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def _webdav_proxy(webdav_server: WebdavServer) -> Iterator[UploadProxy]:
    with UploadProxy(webdav_server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def s3(s3_server: S3Server, _s3_proxy: UploadProxy) -> Iterator[S3Target]:
    """A key of the private bucket, with an empty log."""
    _s3_proxy.clear()
    yield S3Target(s3_server, _s3_proxy)
    _s3_proxy.heal()


@pytest.fixture
def gcs(gcs_server: GcsServer, _gcs_proxy: UploadProxy) -> Iterator[GcsTarget]:
    """A name in the bucket, with an empty log."""
    _gcs_proxy.clear()
    yield GcsTarget(gcs_server, _gcs_proxy)
    _gcs_proxy.heal()


@pytest.fixture
def webdav(
    webdav_server: WebdavServer, _webdav_proxy: UploadProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebdavTarget]:
    """A name on the WebDAV server, with an empty log, for files that have parts."""
    monkeypatch.setattr(OtherUploads, "smallest_part", MIB)
    _webdav_proxy.clear()
    yield WebdavTarget(webdav_server, _webdav_proxy)
    _webdav_proxy.heal()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryTarget:
    """A name in this process's memory, for files that have parts."""
    monkeypatch.setattr(OtherUploads, "smallest_part", MIB)
    return MemoryTarget()


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Target:
    """The store that a test's parameter names."""
    found: Target = request.getfixturevalue(request.param)
    return found
