"""Small web servers that answer as they are told, and note what they are asked with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came."""

    method: str
    target: str
    """Path and query, nothing decoded."""
    headers: Mapping[str, str]
    """With lower-case names."""


@dataclass(frozen=True, slots=True)
class Told:
    """What to answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those that are empty are left out, Content-Length too."""
    body: bytes = b""


Answers = Callable[[Asked], Told]


@dataclass(frozen=True, slots=True)
class Origin:
    """A running server."""

    port: int
    log: list[Asked]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(answers: Answers) -> Iterator[Origin]:
    """Run a server on 127.0.0.1."""
    log: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer is one packet

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers)
            log.append(asked)
            told = answers(asked)
            self.send_response(told.status)
            for name, value in {"Content-Length": str(len(told.body)), **told.headers}.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(told.body)
            self.wfile.flush()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield Origin(server.server_port, log)
        finally:
            server.shutdown()
            thread.join()


def part_of(content: bytes, asked: Asked, tag: str = '"1"', **headers: str) -> Told:
    """Answer with the range that is asked for; headers by name, ``_`` for ``-``."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    if "range" not in asked.headers:
        return Told(200, {"ETag": tag, "Content-Length": str(len(content)), **more}, content)
    first, last = asked.headers["range"].removeprefix("bytes=").split("-")
    start = int(first) if first else len(content) - int(last)
    part = content[start : int(last) + 1] if first else content[start:]
    about = f"bytes {start}-{start + len(part) - 1}/{len(content)}"
    return Told(206, {"ETag": tag, "Content-Range": about, **more}, part)
