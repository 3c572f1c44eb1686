"""Web servers: conditional ranged requests in the session of fsspec's HTTP filesystem.

Not through its ``cat_file``, which hides the status and the headers of the answer, does not ask for
the bytes uncompressed, and takes whatever comes for the range.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from dask_fits.storage.answer import Answer, Request, read_answer, read_first
from dask_fits.storage.stamp import Stamp

_CERTAIN = (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)
"""Failures to connect that the next attempt would meet again."""


class HttpTransport:
    """One file of a web server."""

    parallel = True
    confirms = True

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path

    async def first(self, request: Request) -> tuple[Stamp, memoryview]:
        """GET of the first bytes. No HEAD: a URL signed for GET does not allow it."""
        headers = {"Range": request.header}
        return await read_first(self._ask(headers), request, "ETag", "Last-Modified")

    async def read(self, request: Request, into: memoryview) -> None:
        """GET of a range, on condition that the file is the one that was opened."""
        headers = {"Range": request.header, **_condition(request.stamp)}
        await read_answer(self._ask(headers), request, into)

    def passing(self, error: Exception) -> bool:
        """Whether an exception of aiohttp may be over at the next attempt."""
        return passing_in_aiohttp(error)

    @asynccontextmanager
    async def _ask(self, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        fs = self._fs
        options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), **headers}}
        session = await fs.set_session()
        async with get(session, fs.encode_url(self._path), options) as answer:
            yield answer


@asynccontextmanager
async def get(session: Any, url: Any, options: Mapping[str, Any]) -> AsyncIterator[Answer]:
    """Send a GET through a session of aiohttp, with options of its ``get``, headers among them."""
    # A server that compresses drops ranges.
    headers = {**options["headers"], "Accept-Encoding": "identity"}
    own = {"headers": headers, "raise_for_status": False}
    async with session.get(url, **{"timeout": _NO_TOTAL, **options, **own}) as response:
        yield Answer(response.status, response.headers, response.content.iter_any())


_NO_TOTAL = aiohttp.ClientTimeout(total=None)
"""Without aiohttp's five minutes for a whole request: a slow line is no fault while bytes come."""


def passing_in_aiohttp(error: Exception) -> bool:
    """Whether an exception of aiohttp may be over at the next attempt."""
    if isinstance(error, _CERTAIN) or _is_unknown_host(error):
        return False
    return isinstance(
        error,
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError),
    )


def _is_unknown_host(error: Exception) -> bool:
    cause = getattr(error, "os_error", None)
    return isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME


def _condition(stamp: Stamp) -> dict[str, str]:
    # A weak ETag never matches (RFC 9110, 13.1.1): it is compared with the answer's instead.
    if stamp.kind == "ETag" and not stamp.value.startswith("W/"):
        return {"If-Match": stamp.value}
    return {"If-Unmodified-Since": stamp.value} if stamp.kind == "Last-Modified" else {}
