"""A small HTTP server for one directory of files, with byte ranges and a log of what it sent.

HTTP/1.1 (RFC 9110 and 9112) as far as a reader of files needs it: GET and HEAD, a single range,
ETag and Last-Modified, If-Match, persistent connections. A range that it does not understand, and
several ranges at once, get the whole file, as the RFC allows.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

BLOCK = 256 * 1024
"""Bytes of a file that are read and sent at a time."""

_RANGE = re.compile(r"bytes=\s*([0-9]*)-([0-9]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and how it was answered."""

    method: str
    path: str
    """Decoded, without the query."""
    range: str | None
    """The Range header, as it came."""
    status: int
    bytes: int
    """Bytes of body that were sent."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer before it is sent: the status, the headers, and where the body is."""

    status: HTTPStatus
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Length": "0"})
    file: Path | None = None
    """None where there is no body."""
    start: int = 0
    """First byte of the body in the file."""
    length: int = 0
    """Bytes of the body."""


class RangeServer:
    """Serve the files of a directory on 127.0.0.1 while the ``with`` block runs.

    The server runs in a thread of its own, on a free port, for any number of connections at once.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._root = Path(directory).resolve(strict=True)
        self._log: list[Request] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Address of the directory, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> list[Request]:
        """The requests until now, every one that a client has the whole answer to included."""
        return self._log.copy()

    @property
    def requests(self) -> int:
        """How many requests were answered."""
        return len(self._log)

    @property
    def bytes(self) -> int:
        """How many bytes of body were sent."""
        return sum(request.bytes for request in self.log)

    def clear(self) -> None:
        """Forget the requests until now."""
        self._log.clear()

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="RangeServer", daemon=True
        )
        self._thread.start()
        self._port = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=512)
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(server.sockets[0].getsockname()[1])
        await self._stop.wait()
        server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def over(task: asyncio.Task[None]) -> None:
            self._connections.discard(task)
            writer.transport.abort()  # does nothing where it was closed in the ordinary way

        task = self._loop.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(over)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._exchange(reader, writer):
                pass
            writer.close()
            await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open for another."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, headers, stay = _parse(head.decode("latin-1"))
        except (asyncio.LimitOverrunError, ValueError):
            method, path, headers, stay = "", "", {}, False
        response = self._response(method, path, headers)
        request = Request(method, path, headers.get("range"), response.status.value, 0)
        await self._send(writer, request, response, stay=stay)
        return stay

    async def _send(
        self, writer: asyncio.StreamWriter, request: Request, response: Response, *, stay: bool
    ) -> None:
        """Send a response and log it: the one place where anything goes out."""
        piece, sent = _head(response, stay=stay), 0
        try:
            for block in _blocks(response):
                writer.write(piece)
                await writer.drain()
                piece, sent = block, sent + len(block)
        finally:
            # Before the last piece goes: a client that has it all finds its request in the log.
            self._log.append(replace(request, bytes=sent))
        writer.write(piece)
        await writer.drain()

    def _response(self, method: str, path: str, headers: Mapping[str, str]) -> Response:
        if not method:
            return Response(HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD", "Content-Length": "0"}
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, allow)
        file = self._find(path)
        if file is None:
            return Response(HTTPStatus.NOT_FOUND)
        found = file.stat()
        size, tag = found.st_size, f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        if "if-match" in headers and not {"*", tag} & set(
            re.split(r"\s*,\s*", headers["if-match"])
        ):
            return Response(HTTPStatus.PRECONDITION_FAILED)
        about = {
            "ETag": tag,
            "Last-Modified": formatdate(found.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        span = _span(headers.get("range", ""), size) if method == "GET" else None
        if span is None:
            length = size if method == "GET" else 0
            about["Content-Length"] = str(size)
            return Response(HTTPStatus.OK, about, file, length=length)
        about["Content-Length"] = str(len(span))
        if not span:
            about["Content-Range"] = f"bytes */{size}"
            return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, about)
        about["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
        return Response(HTTPStatus.PARTIAL_CONTENT, about, file, span.start, len(span))

    def _find(self, path: str) -> Path | None:
        """Find a file below the directory, links followed; None where there is none."""
        try:
            file = (self._root / path.lstrip("/")).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a null character
            return None
        return file if file.is_relative_to(self._root) and file.is_file() else None


def _parse(head: str) -> tuple[str, str, dict[str, str], bool]:
    """Split a request's head: method, path, headers, whether the connection stays open after."""
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = first.split(" ")
    pairs = [line.split(":", 1) for line in lines]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    stay = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    # The body of a request is not read, so nothing can follow it.
    stay = stay and not {"content-length", "transfer-encoding"} & headers.keys()
    return method, unquote(urlsplit(target).path), headers, stay


def _span(text: str, size: int) -> range | None:
    """Resolve a Range header: empty where it cannot be satisfied, None where it is ignored."""
    found = _RANGE.fullmatch(text)
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _head(response: Response, *, stay: bool) -> bytes:
    lines = [f"HTTP/1.1 {response.status.value} {response.status.phrase}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += [
        f"Date: {formatdate(usegmt=True)}",
        f"Connection: {'keep-alive' if stay else 'close'}",
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _blocks(response: Response) -> Iterator[bytes]:
    """Read the body, block by block."""
    if response.file is None or not response.length:
        return
    with response.file.open("rb") as file:
        file.seek(response.start)
        left = response.length
        while left:
            block = file.read(min(left, BLOCK))
            if not block:
                raise ConnectionError(f"{response.file} shrank while it was sent")
            left -= len(block)
            yield block
