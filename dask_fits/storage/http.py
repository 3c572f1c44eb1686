"""Web servers: conditional ranged requests in the session of fsspec's HTTP filesystem.

Its ``cat_file`` is not used: that hides status and headers of the response, does not request the
bytes uncompressed, and takes whatever comes for the range. Redirects are followed here, not by
aiohttp, which hands a session's headers, cookies and credentials on, and quotes URLs anew::

    https://a/x  --302-->  https://a/y   same origin: the user's session, headers and options
                 --302-->  https://b/z   another one: an anonymous session, for the rest of the way
"""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from types import SimpleNamespace
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
    redirect_target,
    same_origin,
    verbatim_url,
)
from dask_fits.storage.response import Request, Response, read_first, read_response, read_size
from dask_fits.storage.version import FileVersion

_PERMANENT = (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)
"""Failures to connect that the next attempt would meet again."""

_TLS_OPTIONS = frozenset(("fingerprint", "ssl", "ssl_context", "verify_ssl"))
_PROXY_OPTIONS = frozenset(("proxy", "proxy_auth", "proxy_headers"))
_CONNECTION_OPTIONS = (
    _TLS_OPTIONS
    | _PROXY_OPTIONS
    | {"max_field_size", "max_headers", "max_line_size", "read_bufsize", "timeout"}
)
"""Options of a request that say how to reach any server. No other option is sent to another origin
than the one that it was given for."""

_OUR_OPTIONS = {"raise_for_status": False, "allow_redirects": False, "auto_decompress": False}
"""Options of each request: statuses are judged, redirects followed, and files that are stored
compressed unpacked by this package."""

_NO_TOTAL = aiohttp.ClientTimeout(total=None)
"""Without aiohttp's five minutes for a whole request: a slow line is no fault while bytes come."""

_ERROR_CODE = re.compile(rb"<Code>(\w+)</Code>")

_CODE_WITHIN = 4096
"""Bytes at the start of a refusal that are searched for the service's own name for the error."""


class HttpTransport:
    """One file of a web server."""

    parallel = True
    reports_version = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._url = verbatim_url(path)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """GET the first bytes. There is no HEAD: a URL signed for GET does not allow it."""
        opening = self._send({"Range": request.range_header}, request.name)
        kinds = ("ETag", "Last-Modified")
        return await read_first(opening, request, *kinds, ask_size=lambda: self._ask_size(request))

    async def read(self, request: Request, buffer: memoryview) -> None:
        """GET a range, on condition that the file is the one that was opened."""
        condition = _condition(request.version) if request.conditional else {}
        opening = self._send({"Range": request.range_header, **condition}, request.name)
        await read_response(opening, request, buffer)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of aiohttp's exception may be over at the next attempt."""
        return is_transient_in_aiohttp(error)

    async def _ask_size(self, request: Request) -> tuple[int | None, Mapping[str, str]]:
        """Request the size alone: by HEAD, or if that does not report it, by the last byte."""
        size, headers = await read_size(self._send({}, request.name, "HEAD"), request)
        if size is None:
            opening = self._send({"Range": "bytes=-1"}, request.name)
            size, headers = await read_size(opening, request)
        return size, headers

    @asynccontextmanager
    async def _send(
        self, headers: Mapping[str, str], name: str, method: str = "GET"
    ) -> AsyncIterator[Response]:
        """Send a request with the user's options."""
        fs = self._fs
        session = await fs.set_session()
        # The proxy of a session cannot be read from it, but an anonymous session needs it, too.
        proxy = {k: v for k, v in fs.client_kwargs.items() if k in ("proxy", "proxy_auth")}
        options = {**proxy, **fs.kwargs}
        sending = send_request(session, self._url, headers, options, name, method)
        async with sending as response:
            yield response


@asynccontextmanager
async def send_request(
    session: aiohttp.ClientSession,
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
        Our headers, which are sent to wherever redirects lead.
    options : mapping
        The user's options of aiohttp's ``get``, headers among them, which stay with the origin of
        `url`.
    name : str
        The file's redacted name, for messages.
    method : str
        ``"GET"`` or ``"HEAD"``.
    """
    # A server that compresses drops ranges.
    headers = {"Accept-Encoding": "identity", **headers}
    user_headers = {**options.get("headers", {}), **headers}
    arguments = {"timeout": _NO_TOTAL, **options, **_OUR_OPTIONS, "headers": user_headers}
    follows_redirects = options.get("allow_redirects", True)
    trusts_environment = False
    redirected_to = ""
    async with AsyncExitStack() as stack:
        for _ in range(MAX_REDIRECTS + 1):
            send = session.head if method == "HEAD" else session.get
            async with send(url, **arguments) as response:
                location = response.headers.get("Location")
                if not (follows_redirects and location and response.status in REDIRECTS):
                    yield await _to_response(response, redirected_to)
                    return
                target = redirect_target(url, location, name)
            arguments.pop("params", None)  # the server has put what it needs of them into the URL

            # Only once: a request that has left its origin stays anonymous, even if it returns.
            if not redirected_to and not same_origin(url, target):
                connection = {k: v for k, v in arguments.items() if k in _CONNECTION_OPTIONS}
                arguments = {**connection, **_OUR_OPTIONS, "headers": headers}
                trusts_environment = _trusts_environment(session) and not arguments.get("proxy")
                session = await stack.enter_async_context(_anonymous_session(session))
                redirected_to = origin(target)
            url = target
            if redirected_to:
                redirected_to = origin(url)
            if trusts_environment:
                arguments["proxy"] = environment_proxy(url)
        raise StorageError(f"{name}: the server redirects more than {MAX_REDIRECTS} times")


async def client_of_one_origin(**options: Any) -> aiohttp.ClientSession:
    """Make a session that refuses redirects to another origin, for fsspec's own HTTP client.

    aiohttp would hand the user's headers and cookies on.
    """
    guard = aiohttp.TraceConfig()
    guard.on_request_redirect.append(_check_origin)
    traces = [*(options.pop("trace_configs", None) or ()), guard]
    return aiohttp.ClientSession(**options, trace_configs=traces)


async def _check_origin(
    _session: aiohttp.ClientSession,
    _context: SimpleNamespace,
    redirect: aiohttp.TraceRequestRedirectParams,
) -> None:
    """Raise StorageError, from within aiohttp, if a redirect leads to another origin."""
    name = redact_url(str(redirect.url))
    headers = redirect.response.headers
    location = headers.get("Location") or headers.get("URI") or ""
    target = redirect_target(redirect.url, location, name)
    if not same_origin(redirect.url, target):
        raise StorageError(
            f"{name}: the server redirects to {origin(target)}, to which nothing goes of what "
            "storage_options have for this one; open it by its own URL"
        )


def _anonymous_session(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """Make a session that knows nothing of the user: no headers, cookies or credentials.

    It lasts for one request, and shares the connector of the user's session, so its connections and
    its TLS settings. It does not trust the environment, where a ``.netrc`` has passwords; only the
    proxies are taken from there. A request that has left its origin stays in it, wherever it is
    redirected: a server that sends it back to its origin need not be trusted with the credentials.
    """
    # A user's `get_client` may make an object around a session, which need not have a connector.
    connector = getattr(session, "connector", None)
    return aiohttp.ClientSession(connector=connector, connector_owner=connector is None)


def _trusts_environment(session: aiohttp.ClientSession) -> bool:
    """Return whether a session takes proxies from the environment; see `_anonymous_session`."""
    return bool(getattr(session, "trust_env", False))


async def _to_response(response: aiohttp.ClientResponse, redirected_to: str) -> Response:
    """Convert a response of aiohttp; read the error code from the body of a refusal."""
    error_code = ""
    if response.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN):
        # The status is what matters: it is an error with or without the rest of the body.
        with suppress(aiohttp.ClientError):
            start = await response.content.read(_CODE_WITHIN)
            error_code = match[1].decode() if (match := _ERROR_CODE.search(start)) else ""
    return Response(
        status=response.status,
        headers=response.headers,
        body=response.content.iter_any(),
        error_code=error_code,
        redirected_to=redirected_to,
    )


def is_transient_in_aiohttp(error: Exception) -> bool:
    """Return whether the fault of an exception of aiohttp may be over at the next attempt."""
    if isinstance(error, _PERMANENT) or _is_unknown_host(error):
        return False
    return isinstance(
        error,
        (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError),
    )


def _is_unknown_host(error: Exception) -> bool:
    """Return whether the host's name does not exist, rather than the name server being silent."""
    cause = getattr(error, "os_error", None)
    return isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME


def _condition(version: FileVersion) -> dict[str, str]:
    """Return the header by which the server sends the bytes of this version only."""
    # A weak ETag never matches (RFC 9110, 13.1.1): it is compared with the response's instead.
    if version.kind == "ETag" and not version.value.startswith("W/"):
        return {"If-Match": version.value}
    return {"If-Unmodified-Since": version.value} if version.kind == "Last-Modified" else {}
