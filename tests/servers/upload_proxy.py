"""A proxy before a storage server that logs what is asked, and misbehaves on command.

Requests go on to the server as they came, with the Host header too, since it is signed. Each waits
until the whole of its body is there, so the server sees a whole request or none.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

BLOCK = 64 * 1024
"""Bytes of a body that are read at a time."""

Kind = Literal["status", "reset", "lost", "changed", "damaged", "stall", "act", "hold"]
"""What can go wrong, each with the details in brackets and their defaults:

- ``status`` (``status=503``, ``headers={}``, ``code=""``): the server is not asked. The code is the
  name that S3 gives the error.
- ``reset``: the server is not asked, and the connection is reset (RST).
- ``lost``: the server does what it is asked to, and the connection is reset without its answer.
- ``changed`` (``pattern``, ``by``): its answer comes with all matches of a regular expression
  replaced, in headers and body.
- ``damaged``: the server gets a body of which one bit is another.
- ``stall`` (``seconds=3600.0``): silence, then a reset; the server is not asked.
- ``act``: nothing but the action that all kinds take.
- ``hold`` (``even_if_gone=False``): the request waits until `UploadProxy.heal`, and is then sent on,
  unless the client has hung up meanwhile.

All of them take ``action=None``: a function that is called when the request is there. Those that
have one are then sent on one at a time.
"""

DETAILS: Mapping[Kind, Mapping[str, Any]] = {
    "status": {"status": 503, "headers": {}, "code": ""},
    "stall": {"seconds": 3600.0},
    "hold": {"even_if_gone": False},
}


class Exchange(NamedTuple):
    """One request, and how it was answered."""

    method: str
    path: str
    """As it was sent."""
    query: str
    status: int
    """0 where the connection was reset without an answer."""
    nbytes: int
    """Length of its body."""
    fault: str | None = None
    """How the proxy misbehaved, where it did."""

    @property
    def line(self) -> str:
        """Method, path and query."""
        return f"{self.method} {self.path}?{self.query}"


@dataclass
class _Fault:
    """An order to misbehave."""

    kind: Kind
    match: re.Pattern[str]
    first: int
    count: int | None
    details: Mapping[str, Any]
    seen: int = 0

    def claims(self, line: str) -> bool:
        """Count a request that matches; return whether it is one to misbehave for."""
        if not self.match.search(line):
            return False
        self.seen += 1
        last = float("inf") if self.count is None else self.first + self.count
        return self.first <= self.seen < last


@dataclass(frozen=True, slots=True)
class _Message:
    """A request or an answer on the wire."""

    first: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    def but(self, drop: set[str], *more: tuple[str, str]) -> _Message:
        kept = [pair for pair in self.headers if pair[0].lower() not in drop]
        return replace(self, headers=[*kept, *more])

    def head(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


@dataclass
class UploadProxy:
    """Forward requests to a server on 127.0.0.1 while the ``with`` block runs.

    Parameters
    ----------
    endpoint
        Where to, ``http://127.0.0.1:<port>``.
    latency
        Seconds before each answer; requests on other connections do not wait for them.
    bandwidth
        Bytes of a request's body per second on each connection; None: as many as the machine can.
    """

    endpoint: str
    latency: float = 0.0
    bandwidth: float | None = None
    log: list[Exchange] = field(default_factory=list)
    """The requests until now, each before its answer."""
    busy: int = 0
    """Requests in progress, of which at least the head is there."""
    held: int = 0
    """Requests that wait for `heal`."""
    peak: int = 0
    """The most requests that were in progress at one time."""

    def __post_init__(self) -> None:
        self._faults: list[_Fault] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Address of the proxy, without a slash at the end."""
        return f"http://127.0.0.1:{self._port}"

    def asked(self, match: str) -> list[Exchange]:
        """The requests that a regular expression finds in ``"METHOD path?query"``."""
        return [one for one in self.log.copy() if re.search(match, one.line)]

    def clear(self) -> None:
        """Forget the requests until now; faults stay."""
        self.log.clear()
        self.peak = self.busy

    def fail(
        self, kind: Kind, match: str, *, first: int = 1, count: int | None = 1, **details: Any
    ) -> None:
        """Misbehave for the `first`-th request that matches, and the ``count - 1`` after it.

        Where several orders meet a request, the earliest wins; each counts all requests.

        Parameters
        ----------
        kind
            See `Kind`, which has the details of each.
        match
            A regular expression, looked for in ``"METHOD path?query"``.
        first, count
            From 1; a `count` of None is for ever.
        """
        details = {**DETAILS.get(kind, {}), **details}
        self._faults.append(_Fault(kind, re.compile(match), first, count, details))

    def heal(self) -> None:
        """Drop all that `fail` ordered, and let go what is held."""
        self._faults.clear()
        with suppress(RuntimeError):  # the proxy stopped in the meantime
            self._loop.call_soon_threadsafe(self._let_go)

    def __enter__(self) -> Self:
        started: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="UploadProxy", daemon=True
        )
        self._thread.start()
        self._port = started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _let_go(self) -> None:
        self._gate.set()
        self._gate = asyncio.Event()

    async def _serve(self, started: Future[int]) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._gate, self._one_at_a_time = asyncio.Event(), asyncio.Lock()
        server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, backlog=512, limit=4 * BLOCK
        )
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
            with suppress(AttributeError):
                writer.transport.abort()

        task = self._loop.create_task(self._converse(reader, writer))
        self._connections.add(task)
        task.add_done_callback(over)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = _parse(await reader.readuntil(b"\r\n\r\n"))
                with self._in_progress():
                    if head.header("expect").lower() == "100-continue":
                        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                        await writer.drain()
                    body = await self._take(reader, head)
                    answer = await self._answer(replace(head, body=body), reader, writer)
                    if self.latency:
                        await asyncio.sleep(self.latency)
                    writer.write(answer.head() + answer.body)
                    await writer.drain()

    @contextmanager
    def _in_progress(self) -> Iterator[None]:
        self.busy += 1
        self.peak = max(self.peak, self.busy)
        try:
            yield
        finally:
            self.busy -= 1

    async def _take(self, reader: asyncio.StreamReader, head: _Message) -> bytes:
        """Read a body, no faster than the bandwidth; chunks stay as they are."""
        if head.header("transfer-encoding").lower() == "chunked":
            taken = b""
            while not taken.endswith(b"0\r\n\r\n"):
                line = await reader.readuntil(b"\r\n")
                taken += line + await reader.readexactly(int(line.partition(b";")[0], 16) + 2)
            return taken
        left = int(head.header("content-length") or 0)
        pieces = []
        due = self._loop.time()
        while left:
            piece = await reader.read(min(left, BLOCK))
            if not piece:
                raise ConnectionResetError
            pieces.append(piece)
            left -= len(piece)
            if self.bandwidth:
                due = max(due, self._loop.time() - 0.1) + len(piece) / self.bandwidth
                await asyncio.sleep(due - self._loop.time())
        return b"".join(pieces)

    async def _answer(
        self, request: _Message, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> _Message:
        """Ask the server, or misbehave; the one place where a request is logged."""
        method, target, _ = request.first.split(" ")
        url = urlsplit(target)
        entry = Exchange(method, url.path, url.query, 0, len(request.body))
        # Each order counts, so no generator that stops at the first.
        claiming = [fault for fault in self._faults if fault.claims(entry.line)]
        fault = claiming[0] if claiming else None
        entry = entry._replace(fault=fault and fault.kind)
        try:
            answer = await self._misbehave(request, fault, reader, writer)
            entry = entry._replace(status=int(answer.first.split(" ")[1]))
        finally:
            self.log.append(entry)
        return answer

    async def _misbehave(
        self,
        request: _Message,
        fault: _Fault | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> _Message:
        kind, details = (fault.kind, fault.details) if fault else (None, {})
        if "action" in details:
            await asyncio.to_thread(details["action"])
        if kind == "status":
            return _refusal(request, details["status"], details["headers"], details["code"])
        if kind == "stall":
            await asyncio.sleep(details["seconds"])
        if kind in ("reset", "stall"):
            _reset(writer)
        if kind == "hold":
            self.held += 1
            try:
                await self._gate.wait()
            finally:
                self.held -= 1
            is_gone = reader.at_eof() or reader.exception() is not None
            if is_gone and not details["even_if_gone"]:
                raise ConnectionResetError
        if kind == "damaged":
            body = bytearray(request.body)
            body[len(body) // 2] ^= 1
            request = replace(request, body=bytes(body))
        # A server for tests may look and write in two steps, between which another request comes.
        async with self._one_at_a_time if "action" in details else nullcontext():
            answer = await self._forward(request)
        if kind == "lost":
            _reset(writer)
        if kind == "changed":
            answer = _change(answer, details["pattern"], details["by"])
        return answer

    async def _forward(self, request: _Message) -> _Message:
        """Ask the server, on a connection for this one request."""
        place = urlsplit(self.endpoint)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        try:
            sent = request.but({"connection", "expect"}, ("Connection", "close"))
            writer.write(sent.head())
            writer.write(sent.body)
            await writer.drain()
            head = _parse(await reader.readuntil(b"\r\n\r\n"))
            answer = replace(head, body=await reader.read())
        finally:
            writer.close()
        if answer.header("transfer-encoding").lower() == "chunked":
            answer = replace(answer, body=_joined(answer.body))
        dropped, more = {"connection", "transfer-encoding"}, []
        if not request.first.startswith("HEAD "):
            dropped.add("content-length")
            more = [("Content-Length", str(len(answer.body)))]
        return replace(answer.but(dropped, *more), first="HTTP/1.1" + answer.first[8:])


def _parse(head: bytes) -> _Message:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = [line.split(":", 1) for line in lines]
    return _Message(first, [(name.strip(), value.strip()) for name, value in pairs])


def _joined(chunks: bytes) -> bytes:
    """The content of a body that came in chunks (RFC 9112, section 7.1)."""
    pieces = []
    at = 0
    while True:
        start = chunks.index(b"\r\n", at) + 2
        size = int(chunks[at:start].partition(b";")[0], 16)
        if not size:
            return b"".join(pieces)
        pieces.append(chunks[start : start + size])
        at = start + size + 2


def _refusal(request: _Message, status: int, headers: Mapping[str, str], code: str) -> _Message:
    """An answer that is no success, with the body of one of S3."""
    body = b""
    if code and not request.first.startswith("HEAD "):
        body = f"<Error><Code>{code}</Code><Message>It is {code}.</Message></Error>".encode()
    all_headers = {"Content-Type": "application/xml", **headers, "Content-Length": str(len(body))}
    first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"
    return _Message(first, list(all_headers.items()), body)


def _change(answer: _Message, pattern: str, by: str) -> _Message:
    """Replace text in an answer's headers and body."""
    head = [(name, re.sub(pattern, by, f"{name}: {value}")) for name, value in answer.headers]
    headers = [(name, line.partition(": ")[2]) for name, line in head]
    body = re.sub(pattern, by, answer.body.decode("latin-1")).encode("latin-1")
    changed = replace(answer, headers=headers, body=body)
    if not body:  # of HEAD, whose length is that of another answer
        return changed
    return changed.but({"content-length"}, ("Content-Length", str(len(body))))


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
