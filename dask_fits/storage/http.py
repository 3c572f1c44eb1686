"""Web servers: conditional ranged requests in the session of fsspec's HTTP filesystem.

Not through its ``cat_file``, which hides the status and the headers of the answer, does not ask for
the bytes uncompressed, and takes whatever comes for the range. Redirects are followed here, not by
aiohttp, which hands a session's headers, cookies and credentials on, and quotes URLs anew.
"""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import aiohttp
import yarl

from dask_fits._typing import FileSystem
from dask_fits.exceptions import StorageError
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.redirects import (
    MAX_REDIRECTS,
    REDIRECTS,
    environment_proxy,
    origin,
    redirected,
    same_origin,
    verbatim,
)
from dask_fits.storage.response import Request, Response, read_first, read_response, told_size
from dask_fits.storage.version import FileVersion

_CERTAIN = (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)
"""Failures to connect that the next attempt would meet again."""

_OF_THE_LINE = frozenset(
    (
        *("timeout", "ssl", "verify_ssl", "ssl_context", "fingerprint"),
        *("proxy", "proxy_auth", "proxy_headers"),
        *("read_bufsize", "max_line_size", "max_field_size", "max_headers"),
    )
)
"""Options of a request that say how to reach any server. No other goes with it to another origin
than the one that they were given for."""

_CODE = re.compile(rb"<Code>(\w+)</Code>")
_CODE_WITHIN = 4096
"""Bytes at the start of a refusal in which the service's own name for the error is looked for."""


class HttpTransport:
    """One file of a web server."""

    parallel = True
    confirms = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._url = verbatim(path)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """GET of the first bytes. No HEAD: a URL signed for GET does not allow it."""
        asking = self._ask({"Range": request.header}, request.name)
        kinds = ("ETag", "Last-Modified")
        return await read_first(asking, request, *kinds, ask_size=lambda: self._size(request))

    async def read(self, request: Request, into: memoryview) -> None:
        """GET of a range, on condition that the file is the one that was opened."""
        condition = _condition(request.version) if request.conditional else {}
        asking = self._ask({"Range": request.header, **condition}, request.name)
        await read_response(asking, request, into)

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception of aiohttp may be over at the next attempt."""
        return is_transient_in_aiohttp(error)

    async def _size(self, request: Request) -> tuple[int | None, Mapping[str, str]]:
        """Ask for the size alone: by HEAD, or where that is refused for the last byte."""
        size, headers = await told_size(self._ask({}, request.name, "HEAD"), request)
        if size is None:
            asking = self._ask({"Range": "bytes=-1"}, request.name)
            size, headers = await told_size(asking, request)
        return size, headers

    @asynccontextmanager
    async def _ask(
        self, headers: Mapping[str, str], name: str, method: str = "GET"
    ) -> AsyncIterator[Response]:
        fs = self._fs
        session = await fs.set_session()
        # A session does not tell which proxy it has.
        proxies = {k: v for k, v in fs.client_kwargs.items() if k in ("proxy", "proxy_auth")}
        asking = ask(session, self._url, headers, {**proxies, **fs.kwargs}, name, method)
        async with asking as answer:
            yield answer


@asynccontextmanager
async def ask(
    session: Any,
    url: yarl.URL,
    headers: Mapping[str, str],
    options: Mapping[str, Any],
    name: str,
    method: str = "GET",
) -> AsyncIterator[Response]:
    """Send a request through a session of aiohttp, and follow redirects.

    Parameters
    ----------
    session : aiohttp.ClientSession
    url : yarl.URL
    headers : mapping
        Ours, which go along with redirects to wherever they lead.
    options : mapping
        Options of aiohttp's ``get``, headers among them, which stay with the origin of `url`.
    name : str
        The file, as it may be shown.
    method : str
        ``"GET"`` or ``"HEAD"``.
    """
    # A server that compresses drops ranges.
    ours = {**headers, "Accept-Encoding": "identity"}
    own = {"raise_for_status": False, "allow_redirects": False}
    theirs = {**options.get("headers", {}), **ours}
    asked = {"timeout": _NO_TOTAL, **options, **own, "headers": theirs}
    follows, trusts = options.get("allow_redirects", True), False
    elsewhere = ""
    async with AsyncExitStack() as stack:
        for _ in range(MAX_REDIRECTS + 1):
            send = session.head if method == "HEAD" else session.get
            async with send(url, **asked) as response:
                location = response.headers.get("Location")
                if not (follows and location and response.status in REDIRECTS):
                    yield await _response(response, elsewhere)
                    return
                target = redirected(url, location, name)
            asked.pop("params", None)  # the server has put what it needs of them into the URL
            if not elsewhere and not same_origin(url, target):
                asked = {key: asked[key] for key in _OF_THE_LINE & asked.keys()}
                asked |= {**own, "headers": ours}
                trusts = getattr(session, "trust_env", False) and not asked.get("proxy")
                session = await stack.enter_async_context(_stranger(session))
                elsewhere = origin(target)
            url, elsewhere = target, elsewhere and origin(target)
            if trusts:
                asked["proxy"] = environment_proxy(url)
        raise StorageError(f"{name}: the server redirects more than {MAX_REDIRECTS} times")


async def client_of_one_origin(**options: Any) -> aiohttp.ClientSession:
    """Make a session of aiohttp that refuses redirects to another origin, for fsspec's own client.

    It would hand the user's headers and cookies on.
    """
    guard = aiohttp.TraceConfig()
    guard.on_request_redirect.append(_check_origin)
    traces = [*(options.pop("trace_configs", None) or ()), guard]
    return aiohttp.ClientSession(**options, trace_configs=traces)


async def _check_origin(
    _session: aiohttp.ClientSession, _context: Any, told: aiohttp.TraceRequestRedirectParams
) -> None:
    name = redact_url(str(told.url))
    headers = told.response.headers
    location = headers.get("Location") or headers.get("URI") or ""
    target = redirected(told.url, location, name)
    if not same_origin(told.url, target):
        raise StorageError(
            f"{name}: the server redirects to {origin(target)}, to which nothing goes of what "
            "storage_options have for this one; open it by its own URL"
        )


def _stranger(session: Any) -> aiohttp.ClientSession:
    """Make a session that knows nothing of the user: no headers, cookies or credentials.

    It lasts for one request, and has the connections of the user's session, and with these its
    way to encrypt. It does not trust the environment, where a ``.netrc`` has passwords; the proxies
    alone are taken from there. Once a request has left its origin it stays a stranger's, wherever
    it is sent: who sends it back to where it came from need not be trusted with the credentials.
    """
    connector = getattr(session, "connector", None)
    return aiohttp.ClientSession(connector=connector, connector_owner=connector is None)


async def _response(response: aiohttp.ClientResponse, elsewhere: str) -> Response:
    """Take what a server answered; of a refusal the service's own name for the error, too."""
    said = ""
    if response.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN):
        with suppress(aiohttp.ClientError):
            start = await response.content.read(_CODE_WITHIN)
            said = code[1].decode() if (code := _CODE.search(start)) else ""
    body = response.content.iter_any()
    return Response(response.status, response.headers, body, said=said, elsewhere=elsewhere)


_NO_TOTAL = aiohttp.ClientTimeout(total=None)
"""Without aiohttp's five minutes for a whole request: a slow line is no fault while bytes come."""


def is_transient_in_aiohttp(error: Exception) -> bool:
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


def _condition(version: FileVersion) -> dict[str, str]:
    # A weak ETag never matches (RFC 9110, 13.1.1): it is compared with the response's instead.
    if version.kind == "ETag" and not version.value.startswith("W/"):
        return {"If-Match": version.value}
    return {"If-Unmodified-Since": version.value} if version.kind == "Last-Modified" else {}
