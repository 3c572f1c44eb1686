"""What other tests rely on of the servers: conditions, versions, logs, and that they end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import fsspec
import pytest
from fsspec.asyn import sync

from tests.servers.caddy import CaddyServer, caddy_server
from tests.servers.gcs import BUCKET, GcsServer
from tests.servers.process import ROOT
from tests.servers.range_server import RangeServer
from tests.servers.s3 import PRIVATE, S3Server
from tests.servers.webdav import WebdavServer, webdav_server
from tests.support.patience import until

CONTENT = bytes(range(256)) * 5 + b"end"
SIZE = len(CONTENT)
NAME = "night 1/M 31 é+.fits"


def ask(
    url: str, method: str = "GET", headers: Mapping[str, str] | None = None
) -> tuple[int, HTTPMessage, bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(parts.netloc, timeout=10)
    try:
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        connection.request(method, target, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def plain_headers(server: CaddyServer | WebdavServer) -> dict[str, str]:
    if isinstance(server, CaddyServer):
        return {}
    credentials = b64encode(f"{server.user}:{server.password}".encode()).decode()
    return {"Authorization": f"Basic {credentials}"}


@pytest.mark.parametrize("which", ["caddy_server", "webdav_server"])
def test_http(which: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(which)
    server.put("plain.bin", CONTENT)
    ours = plain_headers(server)
    url = f"{server.url if which == 'caddy_server' else server.endpoint}/plain.bin"
    status, headers, body = ask(url, headers={**ours, "Range": "bytes=3-5"})
    assert (status, body) == (206, CONTENT[3:6])
    assert headers["Content-Range"] == f"bytes 3-5/{SIZE}"
    tag = headers["ETag"]
    assert tag.startswith('"')
    assert "GMT" in headers["Last-Modified"]
    assert ask(url, headers={**ours, "If-Match": tag})[0] == 200
    for condition in (
        {"If-Match": '"other"'},
        {"If-Unmodified-Since": "Mon, 01 Jan 2001 00:00:00 GMT"},
    ):
        for method in ("GET", "HEAD"):
            assert ask(url, method, {**ours, **condition})[0] == 412
    status, headers, _ = ask(url, headers={**ours, "Range": f"bytes={SIZE}-"})
    assert (status, headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert ask(f"{url}.missing", headers=ours)[0] == 404


def test_caddy_log(caddy_server: CaddyServer) -> None:
    large = os.urandom(3_000_000)
    url = caddy_server.put(NAME, large)
    caddy_server.clear()
    assert ask(url, headers={"Range": "bytes=10-2000009"})[2] == large[10:2000010]
    ask(url, "HEAD")
    ask(f"{url}?query")
    ask(f"{caddy_server.url}/missing")
    assert caddy_server.log == [
        ("GET", f"/{NAME}", "bytes=10-2000009", 206, 2_000_000),
        ("HEAD", f"/{NAME}", None, 200, 0),
        ("GET", f"/{NAME}", None, 200, len(large)),
        ("GET", "/missing", None, 404, 0),
    ]
    caddy_server.clear()
    assert caddy_server.log == []


def s3(options: dict[str, Any]) -> Any:
    return fsspec.filesystem("s3", skip_instance_cache=True, **options)


def s3_call(fs: Any, method: str, **request: Any) -> tuple[dict[str, Any], bytes]:
    async def call() -> tuple[dict[str, Any], bytes]:
        answer = await fs._call_s3(method, **request)
        if "Body" not in answer:
            return answer, b""
        async with answer["Body"] as body:
            return answer, await body.read()

    return sync(fs.loop, call)


@pytest.mark.parametrize("which", ["moto", "range server"])
def test_s3_if_match(which: str, s3_server: S3Server, tmp_path: Path) -> None:
    """The range server does for what s3fs asks about one object."""
    (tmp_path / PRIVATE).mkdir()

    def put(content: bytes) -> None:
        s3_server.put("if match.bin", content)
        (tmp_path / PRIVATE / "if match.bin").write_bytes(content)

    with RangeServer(tmp_path) as range_server:
        ours = {"anon": True, "endpoint_url": range_server.url}
        fs = s3(ours if which == "range server" else s3_server.storage_options)
        what = {"Bucket": PRIVATE, "Key": "if match.bin"}
        put(CONTENT)
        head, _ = s3_call(fs, "head_object", **what)
        assert head["ContentLength"] == SIZE
        condition = {"Range": "bytes=3-5", "IfMatch": head["ETag"]}
        answer, body = s3_call(fs, "get_object", **what, **condition)
        assert body == CONTENT[3:6]
        assert answer["ContentRange"] == f"bytes 3-5/{SIZE}"
        assert answer["ETag"] == head["ETag"]
        put(b"something else")
        with pytest.raises(OSError, match=r"(?i)pre-?condition") as caught:
            s3_call(fs, "get_object", **what, **condition)
        answer = caught.value.__cause__.response
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 412
        assert answer["Error"]["Code"] in ("PreconditionFailed", "412")  # with a body, without
        with pytest.raises(FileNotFoundError):
            fs.info(f"{PRIVATE}/missing.bin")


def gcs_addresses(server: GcsServer, name: str) -> list[str]:
    """Both addresses of an object's bytes."""
    return [server.media(name), server.media(name).replace("/download/", "/")]


def test_gcs_generations(gcs_server: GcsServer) -> None:
    gcs_server.put("g.bin", b"first")
    first = ask(gcs_server.media("g.bin"))[1]["x-goog-generation"]
    url = gcs_server.put("g.bin", b"second")
    second = ask(gcs_server.media("g.bin"))[1]["x-goog-generation"]
    assert first != second
    for address in gcs_addresses(gcs_server, "g.bin"):
        for parameter, refused in (("ifGenerationMatch", 412), ("generation", 404)):
            status, _, body = ask(f"{address}&{parameter}={second}", headers={"Range": "bytes=0-2"})
            assert (status, body) == (206, b"sec")
            assert ask(f"{address}&{parameter}={first}")[0] == refused
    fs = fsspec.filesystem("gs", skip_instance_cache=True, **gcs_server.storage_options)
    assert fs.info(url)["generation"] == second
    place = f"{BUCKET}/g.bin"
    headers, body = fs.call("GET", fs.url(place), ifGenerationMatch=second)
    assert (headers["x-goog-generation"], body) == (second, b"second")
    with pytest.raises(FileExistsError):  # what gcsfs makes of 412
        fs.call("GET", fs.url(place), ifGenerationMatch=first)
    with pytest.raises(FileNotFoundError):
        fs.cat_file(url, generation=first)
    assert fs.cat_file(url, generation=second) == b"second"
    assert ask(gcs_server.media("missing.bin", ifGenerationMatch=first))[0] == 404


def test_gcs_answers_of_one_version(gcs_server: GcsServer) -> None:
    """The generation is that of the bytes, also while they are replaced."""
    stop = threading.Event()

    def replace() -> None:
        for n in range(10_000):
            if stop.is_set():
                return
            gcs_server.put("busy.bin", b"x" * (n % 7 + 1))

    gcs_server.put("busy.bin", b"x")
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen: dict[str, int] = {}
        for _ in range(50):
            _, headers, body = ask(gcs_server.media("busy.bin"))
            assert seen.setdefault(headers["x-goog-generation"], len(body)) == len(body)
            assert headers["x-goog-stored-content-length"] == str(len(body))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("run", [caddy_server, webdav_server])
def test_nothing_is_left_behind(run: Callable[[], Any]) -> None:
    with run() as server:
        place = server.directory.parent
        address = server.url if isinstance(server, CaddyServer) else server.endpoint
        server.put("a.bin", CONTENT)
        ask(f"{address}/a.bin")
    assert not place.exists()
    with pytest.raises(ConnectionRefusedError):
        ask(f"{address}/a.bin")


@pytest.mark.parametrize("which", ["caddy", "webdav"])
def test_a_server_ends_with_the_process_that_started_it(which: str) -> None:
    code = f"""
import os
from tests.servers.{which} import {which}_server
with {which}_server() as server:
    print(server.directory.parent, getattr(server, "endpoint", server.url), flush=True)
    os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    place, address = done.stdout.split()
    until(lambda: not Path(place).exists(), 10)
    with pytest.raises(ConnectionRefusedError):
        ask(f"{address}/{quote('a.bin')}")
