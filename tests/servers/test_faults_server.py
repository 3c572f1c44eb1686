"""What the project's own HTTP server does when it is told to misbehave, and when it is held up."""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import Any, get_args

import pytest

from tests.servers.faults import DETAILS, WITH_HEAD, Kind
from tests.servers.range_server import RangeServer, Request
from tests.support.leftovers import all_closed, open_sockets
from tests.support.patience import until

CONTENT = bytes(range(256)) * 5 + b"end"
SIZE = len(CONTENT)
LARGE = os.urandom(12 * 1024 * 1024 + 1)  # more than the system keeps of what is under way
KINDS: tuple[Kind, ...] = get_args(Kind)

both = pytest.mark.parametrize(
    ("path", "content"), [("/a.bin", CONTENT), ("/large.bin", LARGE)], ids=["small", "large"]
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "a.bin").write_bytes(CONTENT)
    (root / "empty.bin").write_bytes(b"")
    (root / "large.bin").write_bytes(LARGE)
    return root


@pytest.fixture
def server(directory: Path) -> Iterator[RangeServer]:
    with RangeServer(directory) as server:
        yield server


def ask(
    server: RangeServer, path: str = "/a.bin", method: str = "GET", **headers: str
) -> tuple[HTTPResponse, bytes]:
    """Ask on a connection of its own."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = HTTPConnection(*address(server), timeout=10)
    try:
        connection.request(method, path, headers=names)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def address(server: RangeServer) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def received(server: RangeServer, path: str = "/a.bin") -> tuple[bytes, bytes, bool]:
    """Ask for a file: the head, the body as far as it came, whether the connection was reset."""
    answer = b""
    with socket.create_connection(address(server), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            while block := client.recv(2**20):
                answer += block
            reset = False
        except ConnectionResetError:
            reset = True
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body, reset


def lasting(kind: Kind, seconds: float) -> dict[str, Any]:
    """Details of a fault that make a silence of the length given, where its kind has one."""
    return {"seconds": seconds} if "seconds" in DETAILS.get(kind, {}) else {}


def test_status(server: RangeServer) -> None:
    server.fail("status")
    response, body = ask(server, Range="bytes=0-9")
    assert (response.status, body, response.headers["Content-Length"]) == (503, b"", "0")
    assert server.log == [Request("GET", "/a.bin", "bytes=0-9", 503, 0, "status")]
    assert ask(server)[1] == CONTENT
    server.fail("status", status=429, headers={"Retry-After": "1"})
    response, _ = ask(server, method="HEAD")
    assert (response.status, response.headers["Retry-After"]) == (429, "1")


def test_reset(server: RangeServer) -> None:
    server.fail("reset")
    assert received(server) == (b"", b"", True)
    assert server.log == [Request("GET", "/a.bin", None, 0, 0, "reset")]
    server.fail("reset")
    with pytest.raises(ConnectionResetError):
        ask(server, method="HEAD")


@both
def test_reset_midway(server: RangeServer, path: str, content: bytes) -> None:
    server.fail("reset-midway")
    head, body, reset = received(server, path)
    assert f"Content-Length: {len(content)}".encode() in head
    assert (body == content[: len(content) // 2], reset) == (True, True)
    assert server.log == [Request("GET", path, None, 200, len(content) // 2, "reset-midway")]


@both
def test_truncate(server: RangeServer, path: str, content: bytes) -> None:
    server.fail("truncate")
    head, body, reset = received(server, path)
    assert f"Content-Length: {len(content)}".encode() in head
    assert (body == content[: len(content) // 2], reset) == (True, False)
    assert server.log == [Request("GET", path, None, 200, len(content) // 2, "truncate")]
    server.fail("truncate")
    with pytest.raises(IncompleteRead):
        ask(server, Range="bytes=0-9")


def test_slow(server: RangeServer) -> None:
    server.fail("slow", seconds=0.2, count=2)
    for method in ("HEAD", "GET"):
        start = time.monotonic()
        response, body = ask(server, method=method)
        assert time.monotonic() - start >= 0.2
        assert (response.status, body) == (200, CONTENT if method == "GET" else b"")


def test_stall(server: RangeServer) -> None:
    server.fail("stall", seconds=0.3)
    connection = HTTPConnection(*address(server), timeout=10)
    start = time.monotonic()
    connection.request("GET", "/a.bin", headers={"Range": "bytes=0-100"})
    response = connection.getresponse()
    assert response.read(50) == CONTENT[:50]
    assert response.read() == CONTENT[50:101]
    assert time.monotonic() - start >= 0.3
    connection.close()
    assert server.log == [Request("GET", "/a.bin", "bytes=0-100", 206, 101, "stall")]


def test_trickle(server: RangeServer) -> None:
    server.fail("trickle", seconds=0.02)
    start = time.monotonic()
    response, body = ask(server, Range="bytes=0-9")
    assert time.monotonic() - start >= 0.2
    assert (response.status, body) == (206, CONTENT[:10])


def test_no_range(server: RangeServer) -> None:
    server.fail("no-range")
    response, body = ask(server, Range="bytes=3-5")
    assert (response.status, body) == (200, CONTENT)
    assert response.headers["Content-Range"] is None
    assert server.log == [Request("GET", "/a.bin", "bytes=3-5", 200, SIZE, "no-range")]


@pytest.mark.parametrize(
    ("kind", "details", "body"),
    [
        ("short", {}, CONTENT[100:199]),
        ("short", {"by": 500}, b""),
        ("long", {}, CONTENT[100:201]),
        ("long", {"by": 2000}, CONTENT[100:] + bytes(2100 - (SIZE - 100))),
    ],
)
def test_other_length_than_announced(
    server: RangeServer, kind: Kind, details: dict[str, Any], body: bytes
) -> None:
    server.fail(kind, **details)
    response, found = ask(server, Range="bytes=100-199")
    assert (response.status, found) == (206, body)
    assert response.headers["Content-Range"] == f"bytes 100-199/{SIZE}"
    assert response.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize(
    ("asked", "by", "start", "stop"),
    [
        ("bytes=100-199", 1, 101, 201),
        ("bytes=100-199", 50, 150, 250),
        (f"bytes={SIZE - 10}-", 3, SIZE - 7, SIZE),
    ],
)
def test_shifted(server: RangeServer, asked: str, by: int, start: int, stop: int) -> None:
    server.fail("shifted", by=by)
    response, body = ask(server, Range=asked)
    assert (response.status, body) == (206, CONTENT[start:stop])
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(stop - start)


def test_shifted_past_the_end(server: RangeServer) -> None:
    server.fail("shifted")
    response, body = ask(server, Range=f"bytes={SIZE - 1}-")
    assert (response.status, body) == (416, b"")
    assert response.headers["Content-Range"] == f"bytes */{SIZE}"


def test_content_range(server: RangeServer) -> None:
    server.fail("wrong-total", by=7)
    response, body = ask(server, Range="bytes=3-5")
    assert (response.status, body) == (206, CONTENT[3:6])
    assert response.headers["Content-Range"] == f"bytes 3-5/{SIZE + 7}"
    server.fail("no-content-range")
    response, body = ask(server, Range="bytes=3-5")
    assert (response.status, body) == (206, CONTENT[3:6])
    assert response.headers["Content-Range"] is None


def test_gzip(server: RangeServer) -> None:
    server.fail("gzip", count=2)
    response, body = ask(server, Range="bytes=100-299", Accept_Encoding="identity")
    assert (response.status, gzip.decompress(body)) == (206, CONTENT[100:300])
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Range"] == f"bytes 100-299/{SIZE}"
    assert response.headers["Content-Length"] == str(len(body))
    response, body = ask(server, method="HEAD")
    assert (response.headers["Content-Encoding"], body) == ("gzip", b"")
    assert response.headers["Content-Length"] == str(SIZE)
    assert [request.bytes for request in server.log][1:] == [0]


def test_gzip_of_the_whole(server: RangeServer) -> None:
    server.fail("gzip-whole", count=2)
    response, body = ask(server, Range="bytes=100-299")
    assert (response.status, gzip.decompress(body)) == (200, CONTENT)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Range"] is None
    assert ask(server, method="HEAD")[0].headers["Content-Encoding"] == "gzip"


def test_no_stamp(server: RangeServer) -> None:
    server.fail("no-stamp", count=None)
    past = "Mon, 01 Jan 2001 00:00:00 GMT"
    for method in ("GET", "HEAD"):
        response, _ = ask(server, method=method, If_Match='"other"', If_Unmodified_Since=past)
        assert response.status == 200
        assert response.headers["ETag"] is None
        assert response.headers["Last-Modified"] is None
    assert {request.if_match for request in server.log} == {'"other"'}


def test_weak_etag(server: RangeServer) -> None:
    strong = ask(server)[0].headers["ETag"]
    server.fail("weak-etag", count=None)
    for method in ("GET", "HEAD"):
        weak = ask(server, method=method)[0].headers["ETag"]
        assert weak == f"W/{strong}"
        assert ask(server, method=method, If_Match=weak)[0].status == 412
        assert ask(server, method=method, If_Match=strong)[0].status == 412
        assert ask(server, method=method, If_Match="*")[0].status == 200


def test_ignore_if_match(server: RangeServer) -> None:
    server.fail("ignore-if-match", count=2)
    past = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert ask(server, If_Match='"other"')[0].status == 200
    assert ask(server, If_Unmodified_Since=past)[0].status == 200
    assert ask(server, If_Match='"other"')[0].status == 412


@pytest.mark.parametrize("kind", KINDS)
def test_head(server: RangeServer, kind: Kind) -> None:
    server.fail(kind, **lasting(kind, 0.01))
    try:
        ask(server, method="HEAD")
    except ConnectionResetError:
        assert kind == "reset"
    assert [request.fault for request in server.log] == [kind if kind in WITH_HEAD else None]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("reset", "reset-midway", "status")])
def test_what_has_no_body(server: RangeServer, kind: Kind) -> None:
    server.fail(kind, count=2, **lasting(kind, 0.01))
    assert ask(server, "/missing", Range="bytes=0-1")[0].status == 404
    response, body = ask(server, "/empty.bin")
    assert (response.status, body.strip(b"\0")) == (200, b"")
    assert [request.fault for request in server.log] == [kind, kind]
    assert ask(server)[1] == CONTENT


def test_which_requests_suffer(server: RangeServer) -> None:
    def statuses(*methods: str) -> list[int]:
        return [ask(server, method=method)[0].status for method in methods]

    server.fail("status", first=2, count=2)
    assert statuses("GET", "HEAD", "GET", "GET") == [200, 503, 503, 200]
    server.fail("status", method="HEAD", count=None)
    assert statuses("GET", "HEAD", "GET", "HEAD") == [200, 503, 200, 503]
    server.heal()
    assert statuses("HEAD") == [200]
    server.fail("no-range", count=2)  # a HEAD request does not count
    assert statuses("HEAD") == [200]
    server.fail("status", status=500, count=3)
    asked = [ask(server, Range="bytes=0-1")[0].status for _ in range(4)]
    assert asked == [200, 200, 500, 206]


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ({"kind": "nonsense"}, ValueError),
        ({"kind": "reset", "first": 0}, ValueError),
        ({"kind": "reset", "count": 0}, ValueError),
        ({"kind": "status", "status": 999}, ValueError),
        ({"kind": "reset", "seconds": 1}, TypeError),
    ],
)
def test_orders_that_make_no_sense(
    server: RangeServer, order: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        server.fail(**order)


def test_a_fault_on_a_persistent_connection(server: RangeServer) -> None:
    server.fail("short", first=2)
    connection = HTTPConnection(*address(server), timeout=10)
    lengths = []
    for _ in range(3):
        connection.request("GET", "/a.bin", headers={"Range": "bytes=0-9"})
        lengths.append(len(connection.getresponse().read()))
    connection.close()
    assert lengths == [10, 9, 10]


def test_latency_is_waited_for_at_the_same_time(server: RangeServer) -> None:
    server.latency = 0.2
    start = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: ask(server)[1], range(16)))
    assert bodies == [CONTENT] * 16
    assert 0.2 <= time.monotonic() - start < 16 * 0.2
    assert server.peak > 1
    server.latency = 0.0
    server.clear()
    assert ask(server)[1] == CONTENT
    assert server.peak == 1


def test_bandwidth(directory: Path) -> None:
    with RangeServer(directory, bandwidth=5000.0) as server:
        start = time.monotonic()
        assert ask(server)[1] == CONTENT
        assert time.monotonic() - start >= SIZE / 5000
        server.bandwidth = None
        assert ask(server, "/large.bin")[1] == LARGE


def test_hold(server: RangeServer, directory: Path) -> None:
    file = directory / "changing.bin"
    file.write_bytes(b"first")
    with ThreadPoolExecutor(3) as pool:
        with server.hold():
            answers = [pool.submit(ask, server, "/changing.bin") for _ in range(3)]
            until(lambda: server.waiting == 3, 10)
            assert (server.log, server.peak) == ([], 3)
            file.write_bytes(b"second")
        assert [answer.result()[1] for answer in answers] == [b"second"] * 3
    assert server.waiting == 0
    assert ask(server)[1] == CONTENT


def test_hold_within_a_hold(server: RangeServer) -> None:
    with ThreadPoolExecutor(1) as pool, server.hold():
        with server.hold():
            answer = pool.submit(ask, server)
            until(lambda: server.waiting == 1, 10)
        time.sleep(0.02)
        assert not answer.done()
        server.fail("status")  # too late for what has arrived
    assert answer.result()[0].status == 200


def test_connections(server: RangeServer) -> None:
    clients = [socket.create_connection(address(server)) for _ in range(3)]
    until(lambda: server.connections == 3, 10)
    for client in clients:
        client.close()
    until(lambda: server.connections == 0, 10)


@pytest.mark.parametrize("kind", [*KINDS, "hold", "latency", "bandwidth"])
def test_nothing_is_left_behind(directory: Path, kind: Any) -> None:
    threads = set(threading.enumerate())
    with all_closed():
        with RangeServer(directory) as server:
            clients = [socket.create_connection(address(server)) for _ in range(4)]
            held = server.hold()
            if kind == "hold":
                held.__enter__()
            elif kind in KINDS:
                server.fail(kind, count=None, **lasting(kind, 60.0))
            else:
                setattr(server, kind, 60.0 if kind == "latency" else 1.0)
            for client in clients:
                client.sendall(b"GET /large.bin HTTP/1.1\r\nRange: bytes=1-\r\n\r\n" * 3)
            until(lambda: server.peak > 0, 10)
        if kind == "hold":
            held.__exit__(None, None, None)
        for client in clients:
            client.close()
    assert set(threading.enumerate()) <= threads
    assert open_sockets(address(server)[1]) == []
