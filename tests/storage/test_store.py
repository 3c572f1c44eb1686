"""Byte ranges, coalescing and the stores."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from fsspec.implementations.memory import MemoryFileSystem

import dask_fits
from dask_fits.exceptions import (
    AccessDeniedError,
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    StorageError,
    TruncatedFileError,
)
from dask_fits.ranges.byte_range import ByteRange, coalesce_runs
from dask_fits.storage import remote
from dask_fits.storage.local import LOCAL_BLOCK, LocalStore
from dask_fits.storage.opening import open_store as open_store_and_read
from dask_fits.storage.remote import RemoteStore
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion
from tests.servers.range_server import RangeServer
from tests.support.data import M13
from tests.support.fits_files import coalescing
from tests.support.leftovers import open_files
from tests.support.recording import RecordingFileSystem, put

QUICK = TransferConfig(attempts=2, backoff=0.01)
CONTENT = np.random.default_rng(0).bytes(3 * LOCAL_BLOCK + 12345)
RANGES = [
    ByteRange(5, 5),
    ByteRange(7, 8),
    ByteRange(100, 2 * LOCAL_BLOCK),
    ByteRange(10**6, 10**6 + 9),
]


def open_store(url: Any, options: Any, transfer: TransferConfig | None) -> Store:
    return open_store_and_read(url, options, transfer, count=0)[0]


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        path = tmp_path / "file with spaces [1] 100%.bin"
        path.write_bytes(CONTENT)
        return open_store(path, None, None)
    return open_store(put("file with spaces.bin", CONTENT), {}, QUICK)


@pytest.mark.parametrize("whole", [True, False])
def test_ranges_come_in_order_and_complete(store: Store, whole: bool) -> None:
    got = [(start, bytes(data)) for start, data in store.read_ranges(RANGES, whole=whole)]
    assert b"".join(data for _, data in got) == b"".join(CONTENT[r.start : r.stop] for r in RANGES)
    for start, data in got:
        assert data == CONTENT[start : start + len(data)]
    if whole:
        assert [start for start, data in got if data] == [r.start for r in RANGES if r.nbytes]


def test_no_ranges_are_no_request(store: Store) -> None:
    RecordingFileSystem.log.clear()
    assert list(store.read_ranges([], whole=True)) == []
    assert RecordingFileSystem.log == []


def test_a_store_pickles_and_shows_no_options(store: Store) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert [bytes(d) for _, d in copy.read_ranges([ByteRange(3, 9)], whole=True)] == [CONTENT[3:9]]


def test_a_range_past_the_end_raises(store: Store) -> None:
    with pytest.raises(TruncatedFileError, match=rf"file with.*ends at byte {len(CONTENT)}"):
        list(store.read_ranges([ByteRange(0, len(CONTENT) + 1)], whole=False))


def test_a_local_file_that_changed_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    store = open_store(path, None, None)
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChangedError, match=r"a\.bin.*changed.*mtime_ns 1; .*expected"):
        list(store.read_ranges([ByteRange(0, 4)], whole=True))


def test_a_local_file_that_shrinks_during_a_read_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    store = open_store(path, None, None)
    pieces = store.read_ranges([ByteRange(0, len(CONTENT))], whole=False)
    next(pieces)
    os.truncate(path, LOCAL_BLOCK + 10)
    with pytest.raises(TruncatedFileError, match=rf"ended at byte {LOCAL_BLOCK + 10}"):
        list(pieces)


def test_a_local_file_that_is_rewritten_during_a_read_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    os.utime(path, ns=(1, 1))
    pieces = open_store(path, None, None).read_ranges([ByteRange(0, len(CONTENT))], whole=False)
    next(pieces)
    with path.open("r+b") as file:
        file.write(b"other")
    with pytest.raises(FileChangedError, match=r"a\.bin: the file changed"):
        list(pieces)


def test_local_descriptors_are_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    store = open_store(path, None, None)
    for _ in range(20):
        next(store.read_ranges([ByteRange(0, len(CONTENT))], whole=False))
        list(store.read_ranges([ByteRange(0, 4)], whole=True))
    assert open_files(path) == set()


@pytest.mark.parametrize("answer", [b"", b"short", CONTENT])
def test_an_answer_of_another_length_raises(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(put("a.bin", CONTENT), None, QUICK)
    monkeypatch.setattr(RecordingFileSystem, "cat_file", lambda *_, **__: answer)
    for ranges in ([ByteRange(10, 20)], [ByteRange(10, 20), ByteRange(40, 50)]):
        with pytest.raises(StorageError, match=rf"recording://a\.bin: .*10 to 20.*{len(answer)} "):
            list(store.read_ranges(ranges, whole=True))


def test_remote_ranges_are_asked_in_bounded_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_READ_AHEAD", 1000)
    store = open_store(put("a.bin", CONTENT), None, QUICK)
    RecordingFileSystem.log.clear()
    ranges = [ByteRange(n, n + 400) for n in range(0, 5000, 500)]
    pieces = store.read_ranges(ranges, whole=True)
    assert bytes(next(pieces)[1]) == CONTENT[:400]
    assert len(RecordingFileSystem.ranges()) == 1  # one at a time: it is not asynchronous
    assert len(list(pieces)) == 9
    assert RecordingFileSystem.ranges() == [(r.start, r.stop) for r in ranges]


class StatusError(Exception):
    """As drivers raise that speak HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(f"received {status}")
        self.status_code = status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (503, None),
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (404, FitsFileNotFoundError),
        (501, StorageError),
    ],
)
def test_a_status_that_a_driver_tells_is_heeded(
    monkeypatch: pytest.MonkeyPatch, status: int, error: type[FitsError] | None
) -> None:
    store = open_store(put("a.bin", CONTENT), None, QUICK)
    answers = iter([StatusError(status), CONTENT[3:9]])

    def cat_file(*_: object, **__: object) -> bytes:
        answer = next(answers)
        if isinstance(answer, bytes):
            return answer
        raise answer

    monkeypatch.setattr(RecordingFileSystem, "cat_file", cat_file)
    pieces = store.read_ranges([ByteRange(3, 9)], whole=True)
    if error is None:
        assert [bytes(data) for _, data in pieces] == [CONTENT[3:9]]
    else:
        with pytest.raises(error, match=r"recording://a\.bin: ") as caught:
            list(pieces)
        assert type(caught.value) is error


def test_kept_listings_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that keeps listings tells of a file what it was when they were made."""
    monkeypatch.setattr(
        RecordingFileSystem, "invalidate_cache", lambda _, path=None: dropped.append(path)
    )
    dropped: list[str] = []
    store = open_store(put("a.bin", CONTENT), None, QUICK)
    list(store.read_ranges([ByteRange(3, 9)], whole=True))
    assert [path.strip("/") for path in dropped[-2:]] == ["a.bin", "a.bin"]


MISSING = ["nope.fits", "/no/such/dir/nope.fits", "memory://nope.fits", "recording://nope.fits"]


@pytest.mark.parametrize("url", MISSING)
def test_a_missing_file_is_named(url: str) -> None:
    with pytest.raises(FitsFileNotFoundError, match=r"nope\.fits: no such file") as caught:
        dask_fits.open(url)
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, FitsError)


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.bin"
    path.write_bytes(CONTENT)
    store = open_store(path, None, None)
    path.unlink()
    with pytest.raises(FitsFileNotFoundError, match=r"gone\.bin"):
        list(store.read_ranges([ByteRange(0, 4)], whole=True))


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_server_that_is_not_there_is_no_missing_file() -> None:
    with pytest.raises(StorageError, match=r"m13\.fits: Cannot connect") as caught:
        dask_fits.open(f"http://127.0.0.1:{free_port()}/m13.fits", transfer=QUICK)
    assert not isinstance(caught.value, FileNotFoundError)


def test_a_host_that_does_not_exist_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StorageError, match=r"a\.fits: Cannot connect.*not known"):
        dask_fits.open("http://no-such-host.invalid/a.fits")
    assert "attempt" not in caplog.text


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (404, "no such file"),
        (403, r"access denied \(403 Forbidden\); give credentials with storage_options=\{'headers"),
        (401, "access denied"),
        (501, "the server answered 501 Not Impl"),
    ],
)
def test_what_a_web_server_says_is_said(status: int, message: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(status)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url, pytest.raises(StorageError, match=rf"fits: {message}") as caught:
        dask_fits.open(f"{url}/m13.fits")
    assert isinstance(caught.value, FileNotFoundError) == (status == 404)


def test_a_server_that_ignores_ranges_is_read_up_to_what_is_wanted() -> None:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def copyfile(self, source: Any, outputfile: Any) -> None:
            with suppress(ConnectionError):  # the client hangs up when it has what it wants
                super().copyfile(source, outputfile)

    serve = partial(Handler, directory=str(M13.parent))
    with serving(serve) as url:
        image = dask_fits.open(f"{url}/m13.fits")[0].data
        assert np.array_equal(image[280:].compute(), fits.getdata(M13)[280:])


def test_a_tag_that_is_weak_in_one_answer_and_strong_in_another_is_the_same() -> None:
    content, encodings = M13.read_bytes(), set()
    tags = iter(['"abc"', 'W/"abc"'])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            encodings.add(self.headers["Accept-Encoding"])
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("ETag", next(tags))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.wfile.write(content[first : last + 1])

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as url:
        assert np.array_equal(dask_fits.from_fits(f"{url}/m13.fits").compute(), fits.getdata(M13))
    assert encodings == {"identity"}, "a server that compresses drops ranges"


def test_credentials_travel_and_redirects_are_followed(range_server: RangeServer) -> None:
    """As archives do that send one on to where their files lie."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.headers["Authorization"], self.headers["X-Mission"]))
            self.send_response(302)
            self.send_header("Location", f"{range_server.url}/m13.fits")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    options = {"headers": {"X-Mission": "HST", "Authorization": "Bearer hunter2hunter2"}}
    with serving(Handler) as url:
        image = dask_fits.from_fits(f"{url}/m13", storage_options=options)
        assert np.array_equal(image[5:9].compute(), fits.getdata(M13)[5:9])
    assert seen == [("Bearer hunter2hunter2", "HST")] * 2
    assert [request.range for request in range_server.log] == ["bytes=0-57599", "bytes=8880-13679"]
    assert range_server.log[1].if_match
    assert "hunter2" not in repr(image) + str(dict(image.dask))


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_directory_is_refused(tmp_path: Path, place: str) -> None:
    MemoryFileSystem().makedirs("/folder", exist_ok=True)
    url = str(tmp_path) if place == "local" else "memory://folder"
    with pytest.raises(StorageError, match="is a directory"):
        dask_fits.open(url)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(StorageError, match="nosuch"):
        dask_fits.open("nosuch://host/file.fits")


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("s3://bucket/a.fits", "s3fs", "s3"),
        ("gs://bucket/a.fits", "gcsfs", "gcs"),
        ("https://host/a.fits", "aiohttp", "http"),
    ],
)
def test_a_missing_driver_names_the_extra(url: str, driver: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{driver!r}] = None\nimport dask_fits\n"
        f"try: dask_fits.open({url!r})\n"
        "except dask_fits.MissingDriverError as error: print(error)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'dask_fits[{extra}]'" in child.stdout, child.stderr
    assert url in child.stdout


def test_credentials_are_shown_nowhere() -> None:
    url = "https://user:hunter2@host/a.fits?X-Amz-Signature=abc123&X-Amz-Expires=60&part=2"
    store = RemoteStore(url, FileVersion(5), {"secret": "hunter3hunter3"}, QUICK, parallel=True)
    assert store.name == "https://host/a.fits?X-Amz-Signature=***&X-Amz-Expires=60&part=2"
    assert "hunter" not in repr(store)
    assert "abc123" not in repr(store)


def test_secrets_are_taken_out_of_the_errors_of_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("403 for key AKIA-SECRET with header Bearer-TOKEN at http://here")

    monkeypatch.setattr(RecordingFileSystem, "info", fail)
    options = {
        "key": "AKIA-SECRET",
        "client_kwargs": {"headers": {"Authorization": "Bearer-TOKEN"}},
        "endpoint_url": "http://here",
    }
    with pytest.raises(StorageError) as caught:
        open_store("recording://a.fits", options, QUICK)
    assert str(caught.value) == (
        "recording://a.fits: 403 for key *** with header *** at http://here (RuntimeError)"
    )


def test_a_server_without_a_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingFileSystem, "info", lambda *_, **__: {"size": None})
    with pytest.raises(StorageError, match=r"recording://a\.fits: .*size"):
        open_store("recording://a.fits", None, QUICK)


def test_a_local_path_is_the_same_file_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    stores = {open_store(url, None, None) for url in (path, str(path), "a.bin", f"file://{path}")}
    assert len(stores) == 1
    assert isinstance(stores.pop(), LocalStore)


def test_chained_urls(tmp_path: Path) -> None:
    packed = tmp_path / "packed.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(M13, "folder/m13.fits")
    expected = fits.getdata(M13)
    with RangeServer(tmp_path) as server:
        for place in (packed, f"{server.url}/packed.zip"):
            image = dask_fits.from_fits(f"zip://folder/m13.fits::{place}")
            assert np.array_equal(image[50:60, 3:9].compute(), expected[50:60, 3:9])


@pytest.mark.parametrize("cache", ["simplecache", "filecache", "blockcache"])
def test_caches_of_fsspec_are_refused(cache: str) -> None:
    """Two of their readers in one directory gave wrong pixels, and copies of unknown age do."""
    MemoryFileSystem().pipe_file("/m13.fits", M13.read_bytes())
    with pytest.raises(
        StorageError, match=rf"memory://m13\.fits: fsspec's {cache}:: tells nothing"
    ):
        dask_fits.open(f"{cache}::memory://m13.fits")


def test_a_path_must_be_text() -> None:
    with pytest.raises(TypeError, match="url must be a str"):
        open_store(b"a.fits", None, QUICK)  # type: ignore[arg-type]


def test_a_byte_range_is_checked() -> None:
    assert ByteRange(3, 10).nbytes == 7
    for start, stop in ((-1, 5), (5, 4)):
        with pytest.raises(ValueError, match=rf"\[{start}, {stop}\)"):
            ByteRange(start, stop)


@pytest.mark.parametrize(
    ("starts", "bounds"),
    [
        ([], [0]),
        ([100], [0, 1]),
        ([0, 10, 20], [0, 3]),  # adjacent
        ([0, 15, 30], [0, 3]),  # gaps of 5
        ([0, 16, 32], [0, 1, 2, 3]),  # gaps of 6
        ([0, 15, 40, 50], [0, 2, 4]),
        ([0, 10, 20, 30, 40, 50], [0, 4, 6]),  # no range over 40 bytes
        ([0, 30, 40, 50, 60, 70, 200], [0, 1, 5, 6, 7]),
    ],
)
def test_runs_are_grouped_across_small_gaps_into_ranges_of_bounded_size(
    starts: list[int], bounds: list[int]
) -> None:
    found = coalesce_runs(np.array(starts, np.int64), 10, coalescing(5, 40))
    assert found.tolist() == bounds


def test_a_run_longer_than_the_bound_stays_whole() -> None:
    found = coalesce_runs(np.array([0, 100, 200], np.int64), 100, coalescing(5, 40))
    assert found.tolist() == [0, 1, 2, 3]
