"""A server that takes uploads as S3 does, with latency and bandwidth, in a process of its own.

It keeps nothing, and its ETags are none of the content, as with a customer's key: what is measured
are the clients.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Self
from urllib.parse import parse_qs, urlsplit

BUCKET = "bench"
_BLOCK = 1 << 18
_UPLOAD = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
_DONE = "<CompleteMultipartUploadResult><ETag>done</ETag></CompleteMultipartUploadResult>"


class UploadServer:
    """The server, while the ``with`` block runs."""

    def __init__(self, *, latency: float, bandwidth: float) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = theirs, latency, bandwidth
        self._process = context.Process(target=_serve, args=arguments, daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.url: str = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def requests(self) -> int:
        """Tell of the requests since this was last asked for."""
        self._pipe.send("requests")
        return self._pipe.recv()


class _Server(ThreadingHTTPServer):
    request_queue_size = 512

    def __init__(self, latency: float, bandwidth: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.latency = latency
        self.bandwidth = bandwidth
        self.requests = 0
        self.counting = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_HEAD(self) -> None:
        self._begin()
        self._answer(HTTPStatus.NOT_FOUND, "", {})

    def do_POST(self) -> None:
        self._begin()
        self._take()
        text = _DONE if "uploadId" in parse_qs(urlsplit(self.path).query) else _UPLOAD
        self._answer(HTTPStatus.OK, text, {"Content-Type": "application/xml"})

    def do_PUT(self) -> None:
        self._begin()
        self._take()
        self._answer(HTTPStatus.OK, "", {"ETag": '"part"'})

    def _begin(self) -> None:
        with self.server.counting:
            self.server.requests += 1
        time.sleep(self.server.latency)

    def _take(self) -> None:
        """Take a body as slowly as the line is."""
        left = int(self.headers.get("Content-Length", 0))
        started, taken = time.perf_counter(), 0
        while left and (block := self.rfile.read(min(_BLOCK, left))):
            left -= len(block)
            taken += len(block)
            ahead = taken / self.server.bandwidth - (time.perf_counter() - started)
            if ahead > 0:
                time.sleep(ahead)

    def _answer(self, status: HTTPStatus, text: str, headers: dict[str, str]) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def _serve(pipe: Connection, latency: float, bandwidth: float) -> None:
    server = _Server(latency, bandwidth)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(f"http://127.0.0.1:{server.server_port}")
    while pipe.recv() is not None:
        with server.counting:
            pipe.send(server.requests)
            server.requests = 0
    server.shutdown()


def bare_url(url: str, number: int) -> str:
    """Return the address of a part of the upload."""
    return re.sub(r"/?$", f"/{BUCKET}/bare?partNumber={number}&uploadId=u", url, count=1)
