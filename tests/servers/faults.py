"""How the range server misbehaves on command."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Literal, get_args

from tests.servers.messages import Response

Kind = Literal[
    "status",
    "reset",
    "reset-midway",
    "truncate",
    "slow",
    "stall",
    "trickle",
    "no-range",
    "short",
    "long",
    "shifted",
    "wrong-total",
    "no-content-range",
    "gzip",
    "gzip-whole",
    "stored-gzip",
    "no-stamp",
    "weak-etag",
    "ignore-if-match",
]
"""What can go wrong, each with the details in brackets and their defaults:

- ``status`` (``status=503``, ``headers={}``): an error without a body.
- ``reset``: the connection is reset (RST) without an answer.
- ``reset-midway``: the head and half of the body arrive, then the connection is reset.
- ``truncate``: the head and half of the body, then the connection is closed in good order.
- ``slow`` (``seconds=1.0``): silence before the first byte.
- ``stall`` (``seconds=1.0``): the head and half of the body, silence, the other half.
- ``trickle`` (``seconds=0.01``): silence before each single byte of the body.
- ``no-range``: the whole file, status 200, whatever range is asked for.
- ``short`` (``by=1``): the body and Content-Length are so many bytes too few; Content-Range is as
  asked for.
- ``long`` (``by=1``): so many too many; zeros stand for what is behind the end of the file.
- ``shifted`` (``by=1``): the range so many bytes later, and a Content-Range that says so (416 where
  nothing is left there).
- ``wrong-total`` (``by=1``): Content-Range tells a size of the file so many bytes too large.
- ``no-content-range``: a 206 without that header.
- ``gzip``: the bytes asked for, compressed, with Content-Encoding, whatever the client accepts;
  Content-Range is as asked for.
- ``gzip-whole``: the whole file compressed, status 200, whatever range is asked for.
- ``stored-gzip`` (``encoding="gzip"``): the bytes asked for, as they are, with Content-Encoding: of a
  file that is stored in this encoding, such as ``.fits.gz`` where a server takes it for one.
- ``no-stamp``: neither ETag nor Last-Modified; If-Match and If-Unmodified-Since are ignored.
- ``weak-etag``: the same tag, but weak (``W/"..."``), so that If-Match with a tag fails (412).
- ``ignore-if-match``: so are If-Match and If-Unmodified-Since.
"""

DETAILS: Mapping[Kind, Mapping[str, Any]] = MappingProxyType(
    {
        "status": {"status": 503, "headers": {}},
        "slow": {"seconds": 1.0},
        "stall": {"seconds": 1.0},
        "trickle": {"seconds": 0.01},
        "short": {"by": 1},
        "long": {"by": 1},
        "shifted": {"by": 1},
        "wrong-total": {"by": 1},
        "stored-gzip": {"encoding": "gzip"},
    }
)
"""The details that a kind knows, with their defaults."""

WITH_HEAD = frozenset(
    {"status", "reset", "slow", "no-stamp", "weak-etag", "gzip", "gzip-whole", "stored-gzip"}
)
"""Kinds that HEAD requests suffer too; for the others they do not even count."""


@dataclass(slots=True)
class Fault:
    """One order to misbehave."""

    kind: Kind
    first: int
    """Number of the first request that suffers, from 1."""
    count: int | None
    """How many suffer; None: all from `first` on."""
    method: str | None
    """Only requests of this method count; None: of any."""
    details: Mapping[str, Any] = field(default_factory=dict)
    seen: int = 0
    """Requests that counted until now."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"no such fault: {self.kind}")
        if self.first < 1 or (self.count is not None and self.count < 1):
            raise ValueError("first and count are at least 1")
        known = DETAILS.get(self.kind, {})
        if unknown := self.details.keys() - known.keys():
            raise TypeError(f"{self.kind} takes no {', '.join(sorted(unknown))}")
        self.details = {**known, **self.details}
        if self.kind == "status":
            HTTPStatus(self.details["status"])  # raises ValueError where there is no such status

    def meets(self, method: str) -> bool:
        """Count a request; say whether it is to suffer."""
        if self.method not in (None, method):
            return False
        if method != "GET" and (method != "HEAD" or self.kind not in WITH_HEAD):
            return False
        self.seen += 1
        return self.seen >= self.first and (
            self.count is None or self.seen < self.first + self.count
        )


class Faults:
    """The orders of a server, from any thread."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Take an order, after those there are."""
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        """Drop all orders."""
        with self._lock:
            self._pending.clear()

    def claim(self, method: str) -> Fault | None:
        """Find what a request that arrived suffers: the earliest order that meets it."""
        with self._lock:
            # Every order counts every request, whichever of them it falls to.
            return next(iter([fault for fault in self._pending if fault.meets(method)]), None)


def hear(headers: Mapping[str, str], fault: Fault | None) -> Mapping[str, str]:
    """Keep of a request's headers what a server with this fault looks at."""
    deaf: set[str] = set()
    if fault is not None and fault.kind in ("no-range", "gzip-whole"):
        deaf = {"range"}
    elif fault is not None and fault.kind in ("no-stamp", "ignore-if-match"):
        deaf = {"if-match", "if-unmodified-since"}
    return {name: value for name, value in headers.items() if name not in deaf}


def stamp(tag: str, modified: str, fault: Fault | None) -> dict[str, str]:
    """Make the headers that tell one version of a file from another."""
    if fault is not None and fault.kind == "no-stamp":
        return {}
    if fault is not None and fault.kind == "weak-etag":
        tag = f"W/{tag}"
    return {"ETag": tag, "Last-Modified": modified}


def distort(response: Response, fault: Fault | None) -> Response:
    """Change what an answer says. Errors, which have no body, stay as they are."""
    if fault is None or response.file is None:
        return response
    if fault.kind in ("gzip", "gzip-whole"):
        return _compressed(response)
    if fault.kind == "stored-gzip":
        return _with(response, Content_Encoding=fault.details["encoding"])
    if fault.kind in ("short", "long"):
        by = fault.details["by"]
        return _resized(response, max(response.length + (by if fault.kind == "long" else -by), 0))
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return response
    if fault.kind == "no-content-range":
        headers = {k: v for k, v in response.headers.items() if k != "Content-Range"}
        return replace(response, headers=headers)
    if fault.kind == "wrong-total":
        total = response.size + fault.details["by"]
        return _with(response, Content_Range=_content_range(response, total))
    if fault.kind == "shifted":
        return _shifted(response, fault.details["by"])
    return response


def _compressed(response: Response) -> Response:
    response = _with(response, Content_Encoding="gzip")
    if not response.length:  # HEAD
        return response
    return _replaced(response, gzip.compress(_body(response), mtime=0))


def _resized(response: Response, length: int) -> Response:
    there = min(length, response.size - response.start)
    return _replaced(response, _body(replace(response, length=there)).ljust(length, b"\0"))


def _shifted(response: Response, by: int) -> Response:
    start = response.start + by
    length = min(response.length, response.size - start)
    if length <= 0:
        refused = Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, response.headers)
        return _with(refused, Content_Length="0", Content_Range=f"bytes */{response.size}")
    shifted = replace(response, start=start, length=length)
    about = _content_range(shifted, response.size)
    return _with(shifted, Content_Length=str(length), Content_Range=about)


def _body(response: Response) -> bytes:
    return b"".join(response.blocks(0, response.length, max(response.length, 1)))


def _replaced(response: Response, content: bytes) -> Response:
    response = _with(response, Content_Length=str(len(content)))
    return replace(response, content=content, length=len(content))


def _with(response: Response, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(response, headers={**response.headers, **named})


def _content_range(response: Response, total: int) -> str:
    return f"bytes {response.start}-{response.start + response.length - 1}/{total}"


def pieces(response: Response, fault: Fault | None, block: int) -> Iterator[tuple[float, bytes]]:
    """Cut a body into what is sent, each piece with the seconds of silence before it."""
    length, kind = response.length, None if fault is None else fault.kind
    if fault is not None and kind == "trickle":
        for piece in response.blocks(0, length, 1):
            yield fault.details["seconds"], piece
        return
    broken = kind in ("truncate", "reset-midway", "stall")
    half = length // 2 if broken else length
    for piece in response.blocks(0, half, block):
        yield 0.0, piece
    if fault is not None and kind == "stall":
        silence = fault.details["seconds"]
        for piece in response.blocks(half, length, block):
            yield silence, piece
            silence = 0.0
