"""A small HTTP server for one directory of files, with byte ranges and a log of what it sent.

HTTP/1.1 (RFC 9110 and 9112) as far as a reader of files needs it: GET and HEAD, a single range,
ETag and Last-Modified, If-Match and If-Unmodified-Since, persistent connections. A range that it
does not understand, and several ranges at once, get the whole file, as the RFC allows.

It can be made slow, be held up, and be told to misbehave (see `faults`). To a client of S3 it is an
endpoint with the folders of the directory as buckets, good for reading single objects.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from tests.servers.faults import Fault, Faults, Kind, distort, hear, pieces, stamp
from tests.servers.messages import Request, Response, parse, preconditions_hold, span

BLOCK = 256 * 1024
"""Bytes of a file that are read and sent at a time."""

PATIENCE = 10.0
"""Seconds that a client has to take what it is sent before its connection is reset."""

MOMENT = 0.01
"""Seconds between two looks at whether it has."""


class RangeServer:
    """Serve the files of a directory on 127.0.0.1 while the ``with`` block runs.

    The server runs in a thread of its own, on a free port, for any number of connections at once.

    Parameters
    ----------
    directory
        What is served, links within it followed.
    latency
        Seconds before each answer begins; requests on other connections do not wait for them.
    bandwidth
        Bytes of body per second on each connection; None: as many as the machine can.

    Notes
    -----
    `latency` and `bandwidth` can be changed at any time, for the answers after that.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        latency: float = 0.0,
        bandwidth: float | None = None,
    ) -> None:
        self.latency = latency
        self.bandwidth = bandwidth
        self._root = Path(directory).resolve(strict=True)
        self._log: list[Request] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._faults = Faults()
        self._gates: list[asyncio.Event] = []
        self._waiting = self._busy = self._peak = 0

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

    @property
    def waiting(self) -> int:
        """How many requests wait for the end of a `hold`."""
        return self._waiting

    @property
    def busy(self) -> int:
        """How many requests are in progress, those that wait included.

        One whose client hung up counts until it is noticed.
        """
        return self._busy

    @property
    def peak(self) -> int:
        """The most requests that were in progress at one time, those that wait included."""
        return self._peak

    @property
    def connections(self) -> int:
        """How many connections are open; one that a client closes counts until it is noticed."""
        return len(self._connections)

    def clear(self) -> None:
        """Forget the requests until now, and the `peak`; pending faults stay."""
        self._log.clear()
        self._peak = self._busy

    def fail(
        self,
        kind: Kind,
        *,
        first: int = 1,
        count: int | None = 1,
        method: str | None = None,
        **details: Any,
    ) -> None:
        """Misbehave for the `first`-th request from now on, and for the ``count - 1`` after it.

        Where several orders meet a request, the earliest wins; each counts all requests. HEAD
        requests suffer the kinds of `faults.WITH_HEAD`; for the others they do not count.

        Parameters
        ----------
        kind
            See `faults.Kind`, which has the details of each.
        first, count
            From 1; a `count` of None is for ever.
        method
            Count only ``"GET"`` or only ``"HEAD"``.
        """
        self._faults.add(Fault(kind, first, count, method, details))

    def heal(self) -> None:
        """Drop all that `fail` ordered."""
        self._faults.clear()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let requests that arrive wait while the block runs; then they are answered."""
        gate = asyncio.Event()
        self._gates.append(gate)
        try:
            yield
        finally:
            self._gates.remove(gate)
            with suppress(RuntimeError):  # the server stopped in the meantime
                self._loop.call_soon_threadsafe(gate.set)

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
            with suppress(AttributeError):  # asyncio's, where it closed with bytes still to send
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
            method, path, headers, stay = parse(head.decode("latin-1"))
        except (asyncio.LimitOverrunError, ValueError):
            method, path, headers, stay = "", "", {}, False
        fault = self._faults.claim(method)
        kind = None if fault is None else fault.kind
        asked, match = headers.get("range"), headers.get("if-match")
        request = Request(method, path, asked, 0, 0, kind, match)
        with self._in_progress():
            await self._wait(fault)
            if kind == "reset":
                self._log.append(request)
                _reset(writer)
            response = distort(self._response(method, path, hear(headers, fault), fault), fault)
            request = replace(request, status=response.status.value)
            await self._send(writer, request, response, fault, stay=stay)
            if kind == "reset-midway":
                await _taken(writer)
                _reset(writer)
        return stay and kind != "truncate"

    @contextmanager
    def _in_progress(self) -> Iterator[None]:
        self._busy += 1
        self._peak = max(self._peak, self._busy)
        try:
            yield
        finally:
            self._busy -= 1

    async def _wait(self, fault: Fault | None) -> None:
        """Wait for all that is between a request and the first byte of its answer."""
        while self._gates:
            self._waiting += 1
            try:
                await self._gates[0].wait()
            finally:
                self._waiting -= 1
        silence = self.latency
        if fault is not None and fault.kind == "slow":
            silence += fault.details["seconds"]
        await _pause(silence)

    async def _send(
        self,
        writer: asyncio.StreamWriter,
        request: Request,
        response: Response,
        fault: Fault | None,
        *,
        stay: bool,
    ) -> None:
        """Send a response and log it: the one place where anything goes out."""
        bandwidth, block = self.bandwidth, BLOCK
        if bandwidth is not None:
            block = min(max(int(bandwidth / 20), 1), BLOCK)
        piece, sent = response.head(stay=stay), 0
        try:
            for silence, following in pieces(response, fault, block):
                writer.write(piece)
                await writer.drain()
                await _pause(silence + (len(following) / bandwidth if bandwidth else 0.0))
                piece, sent = following, sent + len(following)
        finally:
            # Before the last piece goes: a client that has it all finds its request in the log.
            self._log.append(replace(request, bytes=sent))
        writer.write(piece)
        await writer.drain()

    def _response(
        self, method: str, path: str, headers: Mapping[str, str], fault: Fault | None
    ) -> Response:
        if not method:
            return Response(HTTPStatus.BAD_REQUEST)
        if method not in ("GET", "HEAD"):
            allow = {"Allow": "GET, HEAD", "Content-Length": "0"}
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, allow)
        if fault is not None and fault.kind == "status":
            more = {"Content-Length": "0", **fault.details["headers"]}
            return Response(HTTPStatus(fault.details["status"]), more)
        file = self._find(path)
        if file is None:
            return Response(HTTPStatus.NOT_FOUND)
        found = file.stat()
        size, tag = found.st_size, f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
        stamps = stamp(tag, formatdate(found.st_mtime, usegmt=True), fault)
        if not preconditions_hold(headers, stamps.get("ETag", ""), found.st_mtime):
            return Response(HTTPStatus.PRECONDITION_FAILED)
        about = {**stamps, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        part = span(headers.get("range", ""), size) if method == "GET" else None
        if part is None:
            length = size if method == "GET" else 0
            about["Content-Length"] = str(size)
            return Response(HTTPStatus.OK, about, file, length=length, size=size)
        about["Content-Length"] = str(len(part))
        if not part:
            about["Content-Range"] = f"bytes */{size}"
            return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, about)
        about["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        return Response(HTTPStatus.PARTIAL_CONTENT, about, file, part.start, len(part), size)

    def _find(self, path: str) -> Path | None:
        """Find a file below the directory, links followed; None where there is none."""
        try:
            file = (self._root / path.lstrip("/")).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a null character
            return None
        return file if file.is_relative_to(self._root) and file.is_file() else None


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


async def _taken(writer: asyncio.StreamWriter) -> None:
    """Wait until the client's side has all that was written: a reset discards what is under way."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()
    connection = writer.transport.get_extra_info("socket")
    await asyncio.sleep(MOMENT)  # has to do where the system does not tell
    with suppress(OSError):
        for _ in range(int(PATIENCE / MOMENT)):
            if not any(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))):
                break
            await asyncio.sleep(MOMENT)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection without ceremony, the peer told so with RST.

    Raises
    ------
    ConnectionResetError
        Always, which ends the conversation.
    """
    connection = writer.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError
