"""Requests and answers of the range server, as values and on the wire (RFC 9110 and 9112)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
    """0 where the connection was reset without an answer."""
    bytes: int
    """Bytes of body that were sent."""
    fault: str | None = None
    """How the server misbehaved, where it did."""
    if_match: str | None = None
    """The If-Match header, as it came."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer before it is sent: the status, the headers, and where the body is."""

    status: HTTPStatus
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Length": "0"})
    file: Path | None = None
    """None where there is no body, or where it is `content`."""
    start: int = 0
    """First byte of the body in the file."""
    length: int = 0
    """Bytes of the body."""
    size: int = 0
    """Bytes of the whole file."""
    content: bytes | None = None
    """The body where it is not the bytes of a file."""

    def blocks(self, first: int, last: int, block: int) -> Iterator[bytes]:
        """Read the body from its byte `first` to before `last`, `block` bytes at a time."""
        if self.content is not None:
            for start in range(first, last, block):
                yield self.content[start : min(start + block, last)]
        elif self.file is not None and first < last:
            with self.file.open("rb") as file:
                file.seek(self.start + first)
                left = last - first
                while left:
                    piece = file.read(min(left, block))
                    if not piece:
                        raise ConnectionError(f"{self.file} shrank while it was sent")
                    left -= len(piece)
                    yield piece

    def head(self, *, stay: bool) -> bytes:
        """The status line and the headers; `stay`: the connection is for further requests."""
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        lines += [
            f"Date: {formatdate(usegmt=True)}",
            f"Connection: {'keep-alive' if stay else 'close'}",
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse(head: str) -> tuple[str, str, dict[str, str], bool]:
    """Split a request's head: method, path, headers, whether the connection stays open after."""
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = first.split(" ")
    pairs = [line.split(":", 1) for line in lines]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    stay = version == "HTTP/1.1" and "close" not in headers.get("connection", "").lower()
    # The body of a request is not read, so nothing can follow it.
    stay = stay and not {"content-length", "transfer-encoding"} & headers.keys()
    return method, unquote(urlsplit(target).path), headers, stay


def span(text: str, size: int) -> range | None:
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


def preconditions_hold(headers: Mapping[str, str], tag: str, modified: float) -> bool:
    """Evaluate If-Match, and If-Unmodified-Since where there is no If-Match (RFC 9110, 13.2.2).

    If-Match compares strongly: a weak tag matches nothing, not even itself.
    """
    if "if-match" in headers:
        asked = re.split(r"\s*,\s*", headers["if-match"])
        return "*" in asked or (tag in asked and not tag.startswith("W/"))
    try:
        since = parsedate_to_datetime(headers["if-unmodified-since"]).timestamp()
    except (KeyError, ValueError):  # no date, or none that can be read, sets no condition
        return True
    return int(modified) <= since
