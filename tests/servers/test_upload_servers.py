"""What tests of writing rely on: uploads to the emulator of GCS, and the proxy that misbehaves."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from http.client import HTTPConnection, RemoteDisconnected
from typing import Any
from urllib.parse import quote, urlsplit

import google_crc32c
import pytest

from tests.servers.gcs import BUCKET, GcsServer
from tests.servers.gcs_emulator import MOST_SOURCES, PAGE
from tests.servers.upload_proxy import UploadProxy

BUCKET_PATH = f"/storage/v1/b/{BUCKET}/o"
CONTENT = b"\r\n--x\r\n\n" + bytes(range(256)) + b"\n\r\n"


@pytest.fixture
def proxy(gcs_server: GcsServer) -> Iterator[UploadProxy]:
    with UploadProxy(gcs_server.endpoint) as proxy:
        yield proxy


def ask(proxy: UploadProxy, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """The status, and what the answer says."""
    connection = HTTPConnection(urlsplit(proxy.url).netloc, timeout=10)
    try:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(content) if is_json else content
    finally:
        connection.close()


def insert(proxy: UploadProxy, name: str, content: bytes, query: str = "", **about: Any) -> Any:
    description = json.dumps({"name": name, **about}).encode()
    body = b"--x=\r\nContent-Type: application/json\r\n\r\n" + description
    body += b"\r\n--x=\r\nContent-Type: image/fits\r\n\r\n" + content + b"\r\n--x=--"
    kind = 'multipart/related; boundary="x="'
    path = f"/upload{BUCKET_PATH}?uploadType=multipart{query}"
    return ask(proxy, "POST", path, body, Content_Type=kind)


def compose(proxy: UploadProxy, name: str, sources: list[Any], query: str = "") -> Any:
    body = {"sourceObjects": sources, "destination": {"contentType": "a/b", "metadata": {"k": "v"}}}
    path = f"{BUCKET_PATH}/{quote(name, safe='')}/compose?{query}"
    return ask(proxy, "POST", path, json.dumps(body), Content_Type="application/json")


def test_an_upload_keeps_every_byte(proxy: UploadProxy, gcs_server: GcsServer) -> None:
    status, made = insert(proxy, "up/a.bin", CONTENT, metadata={"k": "v"})
    assert (status, made["size"], made["metadata"]) == (200, str(len(CONTENT)), {"k": "v"})
    assert made["contentType"] == "image/fits"
    path = urlsplit(gcs_server.media("up/a.bin"))
    assert ask(proxy, "GET", f"{path.path}?{path.query}") == (200, CONTENT)
    assert insert(proxy, "up/a.bin", CONTENT, "&ifGenerationMatch=0")[0] == 412
    assert insert(proxy, "up/a.bin", CONTENT, f"&ifGenerationMatch={made['generation']}")[0] == 200
    assert insert(proxy, "up/b.bin", CONTENT, md5Hash="AAAA")[0] == 400
    assert ask(proxy, "GET", f"{BUCKET_PATH}/up%2Fb.bin")[0] == 404


def test_objects_are_composed(proxy: UploadProxy) -> None:
    made = [insert(proxy, f"one/{n}", CONTENT + bytes([n]))[1] for n in range(3)]
    sources = [{"name": one["name"], "generation": one["generation"]} for one in made]
    status, whole = compose(proxy, "one/whole", sources, "ifGenerationMatch=0")
    content = b"".join(CONTENT + bytes([n]) for n in range(3))
    assert (status, whole["size"], whole["componentCount"]) == (200, str(len(content)), 3)
    assert (whole["contentType"], whole["metadata"]) == ("a/b", {"k": "v"})
    assert "md5Hash" not in whole
    crc32c = google_crc32c.Checksum(content).digest()
    assert whole["crc32c"] == base64.b64encode(crc32c).decode()
    assert compose(proxy, "one/whole", sources, "ifGenerationMatch=0")[0] == 412
    assert compose(proxy, "one/more", [*sources, {"name": "one/none"}])[0] == 404
    assert compose(proxy, "one/more", [{"name": "one/0", "generation": "7"}])[0] == 404
    wanted = {"name": "one/0", "objectPreconditions": {"ifGenerationMatch": "7"}}
    assert compose(proxy, "one/more", [wanted])[0] == 412
    assert compose(proxy, "one/more", [{"name": "one/0"}] * (MOST_SOURCES + 1))[0] == 400
    assert ask(proxy, "GET", f"{BUCKET_PATH}/one%2Fmore")[0] == 404


def test_objects_are_listed_in_pages_and_deleted(proxy: UploadProxy) -> None:
    names = [f"page/{n:03}" for n in range(PAGE + 5)]
    for name in names:
        insert(proxy, name, b"")
    first = ask(proxy, "GET", f"{BUCKET_PATH}?prefix=page/")[1]
    second = ask(proxy, "GET", f"{BUCKET_PATH}?prefix=page/&pageToken={first['nextPageToken']}")[1]
    assert "nextPageToken" not in second
    assert [one["name"] for one in first["items"] + second["items"]] == names
    path = f"{BUCKET_PATH}/page%2F000"
    assert ask(proxy, "DELETE", f"{path}?ifGenerationMatch=7")[0] == 412
    assert [ask(proxy, "DELETE", path)[0] for _ in range(2)] == [204, 404]


def test_the_proxy_misbehaves_for_the_requests_it_is_told(proxy: UploadProxy) -> None:
    path = f"{BUCKET_PATH}/missing"
    proxy.fail("status", "^GET .*missing", first=2, count=2, status=418)
    assert [ask(proxy, "GET", path)[0] for _ in range(4)] == [404, 418, 418, 404]
    assert ask(proxy, "DELETE", path)[0] == 404
    assert [one.fault for one in proxy.asked("^GET")] == [None, "status", "status", None]
    for kind in ("reset", "lost"):
        proxy.fail(kind, "POST /upload/")
        with pytest.raises((ConnectionResetError, RemoteDisconnected)):
            insert(proxy, f"{kind}.bin", b"content")
    assert ask(proxy, "GET", f"{BUCKET_PATH}/reset.bin")[0] == 404
    assert ask(proxy, "GET", f"{BUCKET_PATH}/lost.bin")[1]["size"] == "7"
    proxy.fail("changed", "lost.bin", pattern='"size": "7"', by='"size": "8"')
    assert [ask(proxy, "GET", f"{BUCKET_PATH}/lost.bin")[1]["size"] for _ in range(2)] == ["8", "7"]


def test_the_proxy_lets_a_client_wait_for_100_continue(proxy: UploadProxy) -> None:
    body = os.urandom(300_000)
    answer = ask(
        proxy,
        "POST",
        f"/upload{BUCKET_PATH}?uploadType=media&name=e.bin",
        body,
        Expect="100-continue",
    )
    assert answer[1]["size"] == str(len(body))
    assert proxy.log[-1].nbytes == len(body)
