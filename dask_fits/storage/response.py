"""A server's response to a ranged request: what it must say, and its bytes into a buffer.

The HTTP of web servers, S3 and Google Cloud Storage is the same here (RFC 9110): one place decides
what counts as the bytes that were asked for.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Protocol

from dask_fits.exceptions import (
    AccessDeniedError,
    FitsError,
    FitsFileNotFoundError,
    StorageError,
)
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.transfer import TransientError, retry_after
from dask_fits.storage.version import FileVersion, changed

MAX_SKIPPED = 8 * 1024 * 1024
"""Bytes that are read and thrown away to reach a range, where a server ignores Range. A range that
begins further on is refused: it would cost a download of what lies before it, at every read."""

_MIN_RATE = 1024
"""Bytes a second, over a whole request, below which it is given up as if nothing came."""

_SUCCESS = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
TRANSIENT_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of faults that may be over at the next attempt."""

DENIED = (
    *(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN),
    *(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED),
)
"""Statuses of a server, or a proxy on the way to it, that wants credentials or other ones."""

MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
"""Statuses of a server that has no such file."""

_BAD_CREDENTIALS = frozenset(
    (
        *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"),
        *("InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"),
        *("InvalidSecurity", "MissingSecurityHeader", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "CredentialsNotSupported"),
        *("AuthorizationQueryParametersError", "AuthFailure", "IncompleteSignature"),
        *("SignatureDoesNotMatch", "InvalidSignatureException", "RequestTimeTooSkewed"),
        *("RequestExpired", "AccessDenied", "AccessDeniedException", "AuthenticationFailed"),
        *("AuthenticationRequired", "InvalidAuthenticationInfo", "NotSignedUp"),
    )
)
"""What S3, and others in its manner, say of credentials with status 400: each may be 403, too."""

_VERSION_HEADERS = {
    "ETag": "etag",
    "Last-Modified": "last-modified",
    "VersionId": "x-amz-version-id",
    "generation": "x-goog-generation",
}
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/(?P<total>\d+)", re.IGNORECASE)
_PLAIN = ("", "identity", "aws-chunked")
"""Content-Encoding of bytes that are the file's own. S3 keeps the last one as a label only."""


@dataclass(frozen=True, slots=True)
class Request:
    """One ranged request."""

    name: str
    """The file, as it may be shown."""
    wanted: ByteRange
    version: FileVersion
    timeout: float
    """Seconds without a byte after which it is given up."""
    access_hint: str = ""
    """What to say to who is refused."""
    conditional: bool = True
    """Whether the server is asked for this version only; else its response has to confirm it."""

    @property
    def header(self) -> str:
        """Value of the Range header; its end is inclusive."""
        return f"bytes={self.wanted.start}-{self.wanted.stop - 1}"


async def _nothing() -> AsyncIterator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


@dataclass(frozen=True, slots=True)
class Response:
    """What a server answered to one request."""

    status: int
    headers: Mapping[str, str]
    """With lower-case names, or a mapping that ignores case."""
    body: AsyncIterator[bytes] = field(default_factory=_nothing)
    said: str = ""
    """The service's own name for an error."""
    elsewhere: str = ""
    """The origin that answered, where redirects led away from the one that was asked."""


AskSize = Callable[[], Awaitable[tuple[int | None, Mapping[str, str]]]]
"""Asks for the size of a file alone: see `told_size`."""


class Transport(Protocol):
    """One way to reach one file; used in the event loop, by any number of tasks at once."""

    @property
    def parallel(self) -> bool:
        """Whether requests may run at the same time."""

    @property
    def confirms(self) -> bool:
        """Whether each response tells its version; else the version is asked for after a read."""

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Read the file's first bytes and take its version; see `read_first`."""

    async def read(self, request: Request, into: memoryview) -> None:
        """Read one range into a buffer of its size; raises as `read_response` does."""

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception of the driver may be over at the next attempt."""


class PreconditionFailedError(Exception):
    """The file is no longer the version that the request was held to (status 412)."""


async def read_response(
    opening: AbstractAsyncContextManager[Response], request: Request, into: memoryview
) -> None:
    """Make a request and read what was asked for into a buffer.

    Parameters
    ----------
    opening : async context manager of Response
        Sends the request when entered; leaving it before the body's end closes the connection.
    request : Request
    into : memoryview of ``request.wanted.nbytes`` bytes

    Raises
    ------
    TransientError
        The response is not what was asked for, but the next may be.
    PreconditionFailedError, FileChangedError
        The file is another version.
    AccessDeniedError, FitsFileNotFoundError, StorageError
        The server refuses, or cannot serve ranges.
    """
    async with _timed(opening, request) as (response, limit):
        await _receive(response, request, into, limit)


async def read_first(
    opening: AbstractAsyncContextManager[Response],
    request: Request,
    *kinds: str,
    ask_size: AskSize | None = None,
) -> tuple[FileVersion, memoryview]:
    """Make the first request to a file, held to nothing: its version and its first bytes.

    Parameters
    ----------
    opening : async context manager of Response
        See `read_response`.
    request : Request
        Its range begins at 0 and may reach past the end of the file; its version is ignored.
    *kinds : str
        Kinds of version to look for, the surest first.
    ask_size : callable, optional
        Asks for the size in another way, where the response does not tell it.

    Raises
    ------
    TransientError, AccessDeniedError, FitsFileNotFoundError, StorageError
        As `read_response` does, or the server does not tell the size of the file.
    """
    async with _timed(opening, request) as (response, limit):
        if _is_empty(response):
            return _version_of(response.headers, 0, kinds), memoryview(b"")
        if response.status not in _SUCCESS:
            raise _refusal(response, request)
        total = _total_size(response)
        if total is None:
            total = await _other_size(response, request, kinds, ask_size)
            limit.reschedule(asyncio.get_running_loop().time() + request.timeout)
        wanted = ByteRange(0, min(request.wanted.stop, total))
        version = _version_of(response.headers, total, kinds)
        into = memoryview(bytearray(wanted.nbytes))
        await _receive(response, replace(request, wanted=wanted, version=version), into, limit)
    return version, into


async def told_size(
    opening: AbstractAsyncContextManager[Response], request: Request
) -> tuple[int | None, Mapping[str, str]]:
    """Make a request for the size of a file, by HEAD or for its last byte.

    Returns
    -------
    size : int or None
        None where the server does not tell it so.
    headers : mapping
        Of the response, which tell the version that is of this size.

    Raises
    ------
    TransientError
        The server has a fault that may be over at the next attempt.
    """
    async with _timed(opening, request) as (response, _):
        if response.status in TRANSIENT_STATUSES:
            raise _refusal(response, request)
        if response.status not in _SUCCESS:
            return None, response.headers
        _check_plain(response.headers, request.name)
        size = _total_size(response)
        if size is None and response.status == HTTPStatus.PARTIAL_CONTENT:
            size = int(_content_range(response)["last"]) + 1
        return size, response.headers


async def _other_size(
    response: Response, request: Request, kinds: tuple[str, ...], ask_size: AskSize | None
) -> int:
    """Ask for the size that an response does not tell, and hold the two to one version."""
    size, headers = await ask_size() if ask_size else (None, response.headers)
    if size is None:
        raise no_size(request.name)
    if not _version_of(response.headers, size, kinds).matches(_version_of(headers, size, kinds)):
        raise TransientError("the file changed while its size was asked for")
    return size


@asynccontextmanager
async def _timed(
    opening: AbstractAsyncContextManager[Response], request: Request
) -> AsyncIterator[tuple[Response, asyncio.Timeout]]:
    """Send a request, and give it up where nothing comes; who reads on puts the limit off."""
    try:
        async with asyncio.timeout(request.timeout) as limit, opening as response:
            yield response, limit
    except TimeoutError as error:
        slow = f"no bytes for {request.timeout} s, or fewer than {_MIN_RATE} a second"
        raise TransientError(slow) from error


async def _receive(
    response: Response, request: Request, into: memoryview, limit: asyncio.Timeout
) -> None:
    """Check an response and read the bytes that were asked for into a buffer."""
    clock = asyncio.get_running_loop().time
    started, came, done = clock(), 0, 0
    skip = _validate(response, request)
    async for chunk in response.body:
        came += len(chunk)
        useful = memoryview(chunk)[skip:] if skip else chunk
        skip = max(skip - len(chunk), 0)
        fits = min(len(useful), len(into) - done)
        if fits < len(useful) and response.status == HTTPStatus.PARTIAL_CONTENT:
            raise TransientError(f"more than the {len(into)} bytes that were asked for came")
        into[done : done + fits] = useful[:fits]
        done += fits
        if done == len(into) and response.status == HTTPStatus.OK:
            break  # the rest of the file is not read
        slowest = started + request.timeout + came / _MIN_RATE
        limit.reschedule(min(clock() + request.timeout, slowest))
    if done < len(into):
        raise TransientError(f"{done} bytes came of the {len(into)} that were asked for")


def _validate(response: Response, request: Request) -> int:
    """Check everything that an response says before its body; bytes to skip at the body's start."""
    if response.status not in _SUCCESS:
        raise _refusal(response, request)
    _check_plain(response.headers, request.name)
    version, wanted = request.version, request.wanted
    silent = version.value if request.conditional or not version.kind else "(none)"
    found = response.headers.get(_VERSION_HEADERS.get(version.kind, ""), silent)
    whole = response.status == HTTPStatus.OK
    size = _total_size(response) or version.size if whole else _ranged_size(response, request)
    now = FileVersion(size, version.kind, found)
    if not version.matches(now):
        raise changed(request.name, found=now, expected=version)
    if whole and wanted.start > MAX_SKIPPED:
        raise StorageError(
            f"{request.name}: the server ignores range requests (asked for bytes {wanted.start} to "
            f"{wanted.stop}, it sends the whole file); make a local copy and open that"
        )
    return wanted.start if whole else 0


def _ranged_size(response: Response, request: Request) -> int:
    """Check that a partial response is the range that was asked for; the size of the file."""
    wanted, size = request.wanted, request.version.size
    found = _content_range(response)
    if found["total"] not in ("*", str(size)):
        return int(found["total"])
    if (int(found["first"]), int(found["last"]) + 1) != (wanted.start, wanted.stop):
        expected = f"bytes {wanted.start}-{wanted.stop - 1}/{size}"
        raise TransientError(f"Content-Range: found {found[0]!r}, expected {expected!r}")
    length = _integer(response.headers.get("content-length"))
    if length not in (None, wanted.nbytes):
        raise TransientError(f"Content-Length: found {length}, expected {wanted.nbytes}")
    return size


def _content_range(response: Response) -> re.Match[str]:
    said = response.headers.get("content-range", "").strip()
    found = _CONTENT_RANGE.fullmatch(said)
    if found is None:
        raise TransientError(f"Content-Range: found {said!r}, expected that of a single range")
    return found


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _check_plain(headers: Mapping[str, str], name: str) -> None:
    """Raise where a server sends a compressed form of the file, whose ranges are not the file's."""
    # GCS unpacks what is stored packed, and then serves no ranges of it.
    stored = headers.get("x-goog-stored-content-encoding", "")
    encoding = headers.get("content-encoding", stored).strip().lower()
    if encoding not in _PLAIN:
        raise StorageError(
            f"{name}: the server sends the file compressed (Content-Encoding: {encoding}), "
            "expected its own bytes"
        )


def _version_of(headers: Mapping[str, str], size: int, kinds: tuple[str, ...]) -> FileVersion:
    for kind in kinds:
        if value := headers.get(_VERSION_HEADERS[kind]):
            return FileVersion(size, kind, value)
    return FileVersion(size)


def _total_size(response: Response) -> int | None:
    """Length of the whole file, as an response to a request for a part of it tells."""
    if response.status == HTTPStatus.OK:
        return _integer(response.headers.get("content-length"))
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        return _integer(_content_range(response)["total"])
    found = _UNSATISFIED.fullmatch(response.headers.get("content-range", "").strip())
    return int(found["total"]) if found else None


def _is_empty(response: Response) -> bool:
    """Whether a request for the first bytes was refused because there are none."""
    return response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and (
        _total_size(response) == 0 or response.said == "InvalidRange"
    )


def no_size(name: str) -> StorageError:
    """Build the error for a server that does not tell how long a file is."""
    return StorageError(
        f"{name}: the server does not tell the size of the file, "
        "without which its parts cannot be read"
    )


def _refusal(response: Response, request: Request) -> Exception:
    """Build the exception for a status that is no success."""
    status, name = response.status, request.name
    told = " ".join(filter(None, (str(status), _phrase(status), response.said)))
    if status in TRANSIENT_STATUSES:
        wait = retry_after(response.headers.get("retry-after"))
        return TransientError(f"the server answered {told}", wait=wait)
    if status == HTTPStatus.PRECONDITION_FAILED and request.version.kind:
        return PreconditionFailedError(told)
    if _is_denied(response):
        return AccessDeniedError(f"{name}: access denied ({told}){_by(response, request)}")
    if status in MISSING:
        return FitsFileNotFoundError(f"{name}: no such file ({told})")
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _unsatisfied(response, request, told)
    return StorageError(f"{name}: the server answered {told}")


def _is_denied(response: Response) -> bool:
    """Whether a refusal is for want of credentials, or of better ones."""
    if response.status == HTTPStatus.BAD_REQUEST:
        return response.said in _BAD_CREDENTIALS or "www-authenticate" in response.headers
    return response.status in DENIED


def _by(response: Response, request: Request) -> str:
    """Say who refused, and how to be let in."""
    if not response.elsewhere:
        return request.access_hint
    return (
        f" by {response.elsewhere}, to which the server redirects; credentials are not sent to "
        "another server than they were given for: open the file by its URL there"
    )


def _unsatisfied(response: Response, request: Request, told: str) -> FitsError:
    size, version = _total_size(response), request.version
    if size not in (None, version.size):
        return changed(request.name, found=FileVersion(size or 0), expected=version)
    wanted = request.wanted
    return StorageError(
        f"{request.name}: the server cannot serve bytes {wanted.start} to {wanted.stop} of a file "
        f"of {version.size} bytes ({told})"
    )


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
