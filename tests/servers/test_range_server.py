"""What other tests rely on of the project's own HTTP server: its log, ranges and conditions."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.request import Request as UrlRequest
from urllib.request import urlopen

import pytest

from tests.servers.range_server import BLOCK, RangeServer, Request
from tests.support.leftovers import all_closed, open_sockets

CONTENT = bytes(range(256)) * 5 + b"end"
SIZE = len(CONTENT)
LARGE = os.urandom(4 * BLOCK + 17)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "a.bin").write_bytes(CONTENT)
    (root / "large.bin").write_bytes(LARGE)
    (root / "empty.bin").write_bytes(b"")
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


def test_nothing_is_left_behind(directory: Path) -> None:
    threads = set(threading.enumerate())
    with all_closed():
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
            assert open_sockets(address[1]) == []
    assert set(threading.enumerate()) <= threads
