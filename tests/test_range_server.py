"""The project's own HTTP server, asked by plain clients and by fsspec."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import fsspec
import pytest

from tests.servers.range_server import BLOCK, RangeServer, Request

CONTENT = bytes(range(256)) * 5 + b"end"
SIZE = len(CONTENT)
LARGE = os.urandom(4 * BLOCK + 17)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root.parent / "secret").write_bytes(b"secret")
    (root / "a.bin").write_bytes(CONTENT)
    (root / "large.bin").write_bytes(LARGE)
    (root / "empty.bin").write_bytes(b"")
    (root / "night 1").mkdir()
    (root / "night 1" / "M 31 100% é+#.fits").write_bytes(b"galaxy")
    (root / "way-out").symlink_to(root.parent / "secret")
    return root


@pytest.fixture(scope="module")
def running(directory: Path) -> Iterator[RangeServer]:
    with RangeServer(directory) as server:
        yield server


@pytest.fixture
def server(running: RangeServer) -> RangeServer:
    running.clear()
    return running


@pytest.fixture
def connection(server: RangeServer) -> Iterator[HTTPConnection]:
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    yield connection
    connection.close()


def ask(
    connection: HTTPConnection, path: str = "/a.bin", method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=names)
    response = connection.getresponse()
    return response, response.read()


def test_get(server: RangeServer, connection: HTTPConnection, directory: Path) -> None:
    response, body = ask(connection)
    assert (response.status, response.reason, body) == (200, "OK", CONTENT)
    assert response.headers["Content-Length"] == str(SIZE)
    assert response.headers["Accept-Ranges"] == "bytes"
    modified = parsedate_to_datetime(response.headers["Last-Modified"]).timestamp()
    assert modified == int((directory / "a.bin").stat().st_mtime)
    assert server.log == [Request("GET", "/a.bin", None, 200, SIZE)]


def test_head(server: RangeServer, connection: HTTPConnection) -> None:
    response, body = ask(connection, method="HEAD", Range="bytes=0-9")
    assert (response.status, body) == (200, b"")
    assert response.headers["Content-Length"] == str(SIZE)
    assert server.log == [Request("HEAD", "/a.bin", "bytes=0-9", 200, 0)]
    assert ask(connection)[1] == CONTENT  # the connection is still in step


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=100-1000", 100, 1001),
        ("bytes=1200-99999", 1200, SIZE),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=7-", 7, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=-99999", 0, SIZE),
        ("Bytes=3-4", 3, 5),
    ],
)
def test_range(
    server: RangeServer, connection: HTTPConnection, asked: str, start: int, stop: int
) -> None:
    response, body = ask(connection, Range=asked)
    assert (response.status, body) == (206, CONTENT[start:stop])
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(stop - start)
    assert server.log == [Request("GET", "/a.bin", asked, 206, stop - start)]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/a.bin", f"bytes={SIZE}-"),
        ("/a.bin", "bytes=9000-9001"),
        ("/a.bin", "bytes=-0"),
        ("/empty.bin", "bytes=0-"),
        ("/empty.bin", "bytes=-1"),
    ],
)
def test_range_that_cannot_be_satisfied(
    server: RangeServer, connection: HTTPConnection, path: str, asked: str
) -> None:
    response, body = ask(connection, path, Range=asked)
    assert (response.status, body) == (416, b"")
    size = SIZE if path == "/a.bin" else 0
    assert response.headers["Content-Range"] == f"bytes */{size}"
    assert server.bytes == 0


@pytest.mark.parametrize(
    "asked", ["bytes=5-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=1"]
)
def test_range_that_is_not_understood_gets_the_file(connection: HTTPConnection, asked: str) -> None:
    response, body = ask(connection, Range=asked)
    assert (response.status, body) == (200, CONTENT)
    assert "Content-Range" not in response.headers


def test_empty_file(connection: HTTPConnection) -> None:
    response, body = ask(connection, "/empty.bin")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "0")


def test_if_match(connection: HTTPConnection, directory: Path) -> None:
    file = directory / "changing.bin"
    file.write_bytes(b"first")
    tag = ask(connection, "/changing.bin", "HEAD")[0].headers["ETag"]
    assert tag.startswith('"')
    for matching in (tag, "*", f'"other", {tag}'):
        response, body = ask(connection, "/changing.bin", If_Match=matching, Range="bytes=1-2")
        assert (response.status, body) == (206, b"ir")
    file.write_bytes(b"second")
    for method in ("GET", "HEAD"):
        response, body = ask(connection, "/changing.bin", method, If_Match=tag)
        assert (response.status, body) == (412, b"")


def test_if_match_is_logged(server: RangeServer, connection: HTTPConnection) -> None:
    ask(connection, If_Match="*")
    assert server.log == [Request("GET", "/a.bin", None, 200, SIZE, if_match="*")]


def test_if_unmodified_since(connection: HTTPConnection) -> None:
    modified = ask(connection)[0].headers["Last-Modified"]
    past, future = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    for method in ("GET", "HEAD"):
        for date in (modified, future, "no date"):
            assert ask(connection, method=method, If_Unmodified_Since=date)[0].status == 200
        response, body = ask(connection, method=method, If_Unmodified_Since=past)
        assert (response.status, body) == (412, b"")
    # If-Match is the better of the two, and the other is not looked at.
    assert ask(connection, If_Match="*", If_Unmodified_Since=past)[0].status == 200


def test_if_match_with_a_weak_tag(connection: HTTPConnection) -> None:
    tag = ask(connection)[0].headers["ETag"]
    assert ask(connection, If_Match=f"W/{tag}")[0].status == 412


def test_keep_alive_and_close(connection: HTTPConnection) -> None:
    ask(connection)
    port = connection.sock.getsockname()
    for path in ("/missing", "/a.bin"):  # a failure does not end the connection
        ask(connection, path)
        assert connection.sock.getsockname() == port
    response, body = ask(connection, Connection="close")
    assert (response.headers["Connection"], body) == ("close", CONTENT)
    assert connection.sock is None


def test_pipelined_requests(server: RangeServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        first = b"GET /a.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\n\r\n"
        last = b"GET /a.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=-3\r\nConnection: close\r\n\r\n"
        client.sendall(first + last)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 206 Partial Content\r\n") == 2
    assert answer.endswith(b"\r\n\r\nend")


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET /a.bin HTTP/1.1\r\nno colon\r\n\r\n", b"x" * 200_000]
)
def test_bad_request(server: RangeServer, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(sent)
        assert client.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_http_1_0_closes(server: RangeServer) -> None:
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(b"GET /a.bin HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: client.recv(65536), b"")).endswith(CONTENT)


def test_other_methods(connection: HTTPConnection) -> None:
    connection.request("POST", "/a.bin", body=b"content")
    response = connection.getresponse()
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")


def test_percent_encoded_path_and_query(server: RangeServer) -> None:
    path = "/night 1/M 31 100% é+#.fits"
    with urlopen(server.url + quote(path) + "?version=2", timeout=10) as response:
        assert response.read() == b"galaxy"
    assert server.log == [Request("GET", path, None, 200, 6)]


@pytest.mark.parametrize(
    "path",
    [
        "/missing.bin",
        "/",
        "/night%201",
        "/a.bin/more",
        "/../secret",
        "/%2e%2e/secret",
        "/night%201/..%2f..%2fsecret",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/way-out",
        "/a.bin%00",
    ],
)
def test_what_is_not_below_the_directory_is_not_found(
    server: RangeServer, connection: HTTPConnection, path: str
) -> None:
    response, body = ask(connection, path)
    assert (response.status, body) == (404, b"")
    assert [request.status for request in server.log] == [404]


def test_not_found_is_an_error_for_urllib(server: RangeServer) -> None:
    with pytest.raises(HTTPError, match="404") as caught:
        urlopen(UrlRequest(server.url + "/missing", headers={"Range": "bytes=0-1"}), timeout=10)
    caught.value.close()


def test_many_connections_at_once(server: RangeServer) -> None:
    ranges = [(n * 5000, n * 5000 + 40_000 + n) for n in range(64)]

    def get(start: int, stop: int) -> bytes:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        with urlopen(UrlRequest(server.url + "/large.bin", headers=headers), timeout=30) as answer:
            return bytes(answer.read())

    with ThreadPoolExecutor(32) as pool:
        bodies = list(pool.map(get, *zip(*ranges, strict=True)))
    assert bodies == [LARGE[start:stop] for start, stop in ranges]
    assert server.requests == 64
    assert server.bytes == sum(stop - start for start, stop in ranges)
    server.clear()
    assert (server.requests, server.bytes, server.log) == (0, 0, [])


def test_a_client_that_hangs_up_is_logged_with_what_was_sent(directory: Path) -> None:
    size = 64 * 1024 * 1024
    with (directory / "huge.bin").open("wb") as file:
        file.truncate(size)
    with RangeServer(directory) as server:
        with urlopen(server.url + "/huge.bin", timeout=10) as answer:
            answer.read(10)
        with urlopen(server.url + "/a.bin", timeout=10) as answer:
            assert answer.read() == CONTENT
    (directory / "huge.bin").unlink()
    by_path = {request.path: request for request in server.log}
    assert by_path["/huge.bin"].bytes < size
    assert by_path["/a.bin"].bytes == SIZE


def test_fsspec(server: RangeServer) -> None:
    fs, path = fsspec.core.url_to_fs(server.url + "/large.bin")
    found = fs.info(path)
    assert found["size"] == len(LARGE)
    assert found["ETag"].startswith('"')
    server.clear()
    assert fs.cat_file(path, start=1000, end=300_000) == LARGE[1000:300_000]
    assert server.log == [Request("GET", "/large.bin", "bytes=1000-299999", 206, 299_000)]
    starts, stops = [0, 50_000, 1_000_000], [10, 50_001, len(LARGE)]
    assert fs.cat_ranges([path] * 3, starts, stops, on_error="raise") == [
        LARGE[start:stop] for start, stop in zip(starts, stops, strict=True)
    ]
    assert server.requests == 4
    encoded = server.url + quote("/night 1/M 31 100% é+#.fits")
    assert fs.cat_file(encoded, start=1, end=4) == b"ala"
    with pytest.raises(FileNotFoundError):
        fs.info(server.url + "/missing")


def test_fsspec_file(server: RangeServer) -> None:
    with fsspec.open(server.url + "/large.bin", block_size=2**16) as file:
        file.seek(-100, 2)
        assert file.read() == LARGE[-100:]


def test_nothing_is_left_behind(directory: Path) -> None:
    descriptors, threads = _descriptors(), threading.enumerate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with RangeServer(directory) as server:
                address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
                idle, waiting, slow = (socket.create_connection(address) for _ in range(3))
                waiting.sendall(b"GET /a.bin HTTP/1.1\r\n")  # half a request
                slow.sendall(b"GET /large.bin HTTP/1.1\r\n\r\n" * 50)  # and reads no answer
                assert slow.recv(4) == b"HTTP"
            for client in (idle, waiting, slow):
                client.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
    assert threading.enumerate() == threads
    assert _descriptors() <= descriptors


def test_the_server_stops_when_the_block_raises(directory: Path) -> None:
    threads = threading.enumerate()
    with pytest.raises(ZeroDivisionError), RangeServer(directory):
        raise ZeroDivisionError
    assert threading.enumerate() == threads


def test_directory_must_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RangeServer(tmp_path / "missing")


def _descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))
