"""Validation of a server's response to a ranged request, and its bytes read into a buffer.

The HTTP of web servers, S3 and Google Cloud Storage is the same here (RFC 9110): one place decides
which responses carry the requested bytes::

    206  |<- byte_range ->|            Content-Range must be the requested one
    200  |<- skipped ->|<- byte_range ->|  rest unread        Range was ignored
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
from dask_fits.storage.version import FileVersion, changed_error

MAX_SKIPPED = 8 * 1024 * 1024
"""Bytes that are read and discarded to reach a range if a server ignores Range. A range that begins
further on is refused: every read would download all bytes before it."""

_MIN_RATE = 1024
"""Bytes a second, over a whole request, below which it times out as if nothing came."""

_SUCCESS = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)

TRANSIENT_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Statuses of faults that may be over at the next attempt."""

DENIED = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED,
)
"""Statuses of a server, or a proxy on the way to it, that requires credentials or other ones."""

MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
"""Statuses of a server that has no such file."""

_BAD_CREDENTIALS = frozenset(
    (
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "AuthenticationFailed",
        "AuthenticationRequired",
        "AuthorizationQueryParametersError",
        "CredentialsNotSupported",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidAuthenticationInfo",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "MissingSecurityHeader",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    )
)
"""Error codes about credentials that S3, and others like it, send with status 400 or 403."""

_VERSION_HEADERS = {
    "ETag": "etag",
    "Last-Modified": "last-modified",
    "VersionId": "x-amz-version-id",
    "generation": "x-goog-generation",
}
"""Kind of a version -> the header of a response that carries its value."""

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)", re.IGNORECASE)
_UNSATISFIED = re.compile(r"bytes \*/(?P<total>\d+)", re.IGNORECASE)

_PLAIN_ENCODINGS = ("", "identity", "aws-chunked")
"""Content-Encodings of a body that is the file itself. The last is only a label that S3 keeps."""

_STORED_ENCODINGS = {
    "gzip": b"\x1f\x8b",
    "compress": b"\x1f\x9d",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ",
    "zstd": b"\x28\xb5\x2f\xfd",
}
"""Content-Encodings that servers put on files that are stored in them, such as ``.fits.gz`` -> the
bytes that such a file begins with."""


@dataclass(frozen=True, slots=True)
class Request:
    """One ranged request."""

    name: str
    """The file's redacted name, for messages."""
    byte_range: ByteRange
    version: FileVersion
    """The version that the response must be of."""
    timeout: float
    """Seconds without a byte after which the request fails."""
    access_hint: str = ""
    """End of the message if access is denied."""
    conditional: bool = True
    """True if the request is conditional on the version; else the response has to report it."""

    @property
    def range_header(self) -> str:
        """Value of the Range header; its end is inclusive."""
        return f"bytes={self.byte_range.start}-{self.byte_range.stop - 1}"


async def _empty_body() -> AsyncIterator[bytes]:
    """Yield nothing; the loop makes it a generator."""
    no_chunks: tuple[bytes, ...] = ()
    for chunk in no_chunks:
        yield chunk


@dataclass(frozen=True, slots=True)
class Response:
    """A server's response to one request."""

    status: int
    headers: Mapping[str, str]
    """With lower-case names, or a mapping that ignores case."""
    body: AsyncIterator[bytes] = field(default_factory=_empty_body)
    error_code: str = ""
    """The service's own name for an error."""
    redirected_to: str = ""
    """The origin that responded, if redirects led away from the one of the request."""


AskSize = Callable[[], Awaitable[tuple[int | None, Mapping[str, str]]]]
"""Requests the size of a file alone: see `read_size`."""


class Transport(Protocol):
    """Access to one file; used in the event loop, by any number of tasks concurrently."""

    @property
    def parallel(self) -> bool:
        """Whether requests may run at the same time."""

    @property
    def reports_version(self) -> bool:
        """Whether each response reports its version; else it is requested after a read."""

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Read the file's first bytes, and its version; see `read_first`."""

    async def read(self, request: Request, buffer: memoryview) -> None:
        """Read one range into a buffer of its size; raise as `read_response` does."""

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of a driver's exception may be over at the next attempt."""


class PreconditionFailedError(Exception):
    """The server says that the file is not the version of the request's condition (status 412)."""


async def read_response(
    opening: AbstractAsyncContextManager[Response], request: Request, buffer: memoryview
) -> None:
    """Make a request and read its range into a buffer.

    Parameters
    ----------
    opening : async context manager of Response
        Sends the request when entered; leaving it before the body's end closes the connection.
    request : Request
    buffer : memoryview of ``request.byte_range.nbytes`` bytes

    Raises
    ------
    TransientError
        The response is not the requested range, but the next may be.
    PreconditionFailedError, FileChangedError
        The file is not the version of the request.
    AccessDeniedError, FitsFileNotFoundError, StorageError
        The server refuses, or cannot serve ranges.
    """
    async with _open_timed(opening, request) as (response, deadline):
        await _receive(response, request, buffer, deadline)


async def read_first(
    opening: AbstractAsyncContextManager[Response],
    request: Request,
    *kinds: str,
    ask_size: AskSize | None = None,
) -> tuple[FileVersion, memoryview]:
    """Send the first, unconditional request; return the file's version and its first bytes.

    Parameters
    ----------
    opening : async context manager of Response
        See `read_response`.
    request : Request
        Its range begins at 0 and may reach past the end of the file; its version is ignored.
    *kinds : str
        Kinds of version to look for, the most reliable first.
    ask_size : callable, optional
        Requests the size in another way, if the response does not report it.

    Raises
    ------
    TransientError, AccessDeniedError, FitsFileNotFoundError, StorageError
        As `read_response` does, or the server does not report the size of the file.
    """
    async with _open_timed(opening, request) as (response, deadline):
        # An empty file has no first byte, so a ranged request for it is refused (status 416).
        if _is_empty_file(response):
            return _version_from_headers(response.headers, 0, kinds), memoryview(b"")
        if response.status not in _SUCCESS:
            raise _refusal_error(response, request)
        total = _total_size(response)
        if total is None:
            total = await _ask_other_size(response, request, kinds, ask_size)
            # The body was not read meanwhile: the time of the other request does not count.
            deadline.reschedule(asyncio.get_running_loop().time() + request.timeout)
        # From here on it is a request like any other, for the version that its own headers report.
        version = _version_from_headers(response.headers, total, kinds)
        request = replace(
            request,
            byte_range=ByteRange(0, min(request.byte_range.stop, total)),
            version=replace(version, encoding=_stored_encoding(response)),
        )
        buffer = memoryview(bytearray(request.byte_range.nbytes))
        await _receive(response, request, buffer, deadline)
        encoding = request.version.encoding
        if encoding and not _STORED_ENCODINGS[encoding].startswith(
            bytes(buffer[: len(_STORED_ENCODINGS[encoding])])
        ):
            raise _encoding_error(request.name, encoding)
    return request.version, buffer


async def read_size(
    opening: AbstractAsyncContextManager[Response], request: Request
) -> tuple[int | None, Mapping[str, str]]:
    """Make a request for the size of a file, by HEAD or for its last byte.

    Returns
    -------
    size : int or None
        None if the response does not report it.
    headers : mapping
        Headers of the response, which report the version that has this size.

    Raises
    ------
    TransientError
        The server has a fault that may be over at the next attempt.
    """
    async with _open_timed(opening, request) as (response, _):
        if response.status in TRANSIENT_STATUSES:
            raise _refusal_error(response, request)
        if response.status not in _SUCCESS:
            return None, response.headers
        _check_encoding(response.headers, request)
        size = _total_size(response)
        # Of ``bytes 2879-2879/*`` the last byte alone gives the size.
        if size is None and response.status == HTTPStatus.PARTIAL_CONTENT:
            size = int(_parse_content_range(response)["last"]) + 1
        return size, response.headers


async def _ask_other_size(
    response: Response, request: Request, kinds: tuple[str, ...], ask_size: AskSize | None
) -> int:
    """Request the size that a response does not report, and check that both are of one version."""
    size, headers = await ask_size() if ask_size else (None, response.headers)
    if size is None:
        raise unknown_size_error(request.name)
    version = _version_from_headers(response.headers, size, kinds)
    if not version.matches(_version_from_headers(headers, size, kinds)):
        raise TransientError("the file changed while its size was asked for")
    return size


@asynccontextmanager
async def _open_timed(
    opening: AbstractAsyncContextManager[Response], request: Request
) -> AsyncIterator[tuple[Response, asyncio.Timeout]]:
    """Send a request with a deadline, which `_receive` extends with each chunk received."""
    try:
        async with asyncio.timeout(request.timeout) as deadline, opening as response:
            yield response, deadline
    except TimeoutError as error:
        slow = f"no bytes for {request.timeout} s, or fewer than {_MIN_RATE} a second"
        raise TransientError(slow) from error


async def _receive(
    response: Response, request: Request, buffer: memoryview, deadline: asyncio.Timeout
) -> None:
    """Validate a response and read the requested bytes into a buffer."""
    clock = asyncio.get_running_loop().time
    started = clock()
    received = 0
    filled = 0
    to_skip = _validate(response, request)
    async for chunk in response.body:
        received += len(chunk)

        # Only a server that ignored Range sends bytes before the requested ones.
        useful = memoryview(chunk)[to_skip:] if to_skip else chunk
        to_skip = max(to_skip - len(chunk), 0)

        # A 206 with more bytes than it promised is wrong somewhere, and so may be the bytes before.
        count = min(len(useful), len(buffer) - filled)
        if count < len(useful) and response.status == HTTPStatus.PARTIAL_CONTENT:
            raise TransientError(f"more than the {len(buffer)} bytes that were asked for came")
        buffer[filled : filled + count] = useful[:count]
        filled += count

        # The rest of a whole file is left unread: closing the connection is cheaper.
        if filled == len(buffer) and response.status == HTTPStatus.OK:
            break

        # A chunk earns another time-out, but a trickle is no progress: on the whole, bytes must
        # come at the least rate.
        slowest = started + request.timeout + received / _MIN_RATE
        deadline.reschedule(min(clock() + request.timeout, slowest))
    if filled < len(buffer):
        raise TransientError(f"{filled} bytes came of the {len(buffer)} that were asked for")


def _validate(response: Response, request: Request) -> int:
    """Check status and headers of a response; return the bytes to skip at its body's start."""
    if response.status not in _SUCCESS:
        raise _refusal_error(response, request)
    _check_encoding(response.headers, request)

    # A size that differs shows another version as well as a validator does, so both are compared.
    byte_range = request.byte_range
    version = request.version
    is_whole = response.status == HTTPStatus.OK
    size = (_total_size(response) or version.size) if is_whole else _ranged_size(response, request)

    # A response without the validator is trusted if its request had a condition on it: the server
    # would have answered 412. Without a condition nothing else says which version it is.
    is_trusted = request.conditional or not version.kind
    unreported = version.value if is_trusted else "(none)"
    value = response.headers.get(_VERSION_HEADERS.get(version.kind, ""), unreported)
    reported = FileVersion(size, version.kind, value)
    if not version.matches(reported):
        raise changed_error(request.name, found=reported, expected=version)

    # A server may ignore Range (RFC 9110, 14.2), and then begins at the file's first byte.
    if is_whole and byte_range.start > MAX_SKIPPED:
        raise StorageError(
            f"{request.name}: the server ignores range requests (asked for bytes "
            f"{byte_range.start} to {byte_range.stop}, it sends the whole file); "
            "make a local copy and open that"
        )
    return byte_range.start if is_whole else 0


def _ranged_size(response: Response, request: Request) -> int:
    """Check that a partial response is the requested range; return the size of the file."""
    byte_range = request.byte_range
    size = request.version.size
    match = _parse_content_range(response)
    # Another size means another version, which matters more than a wrong range: see `_validate`.
    if match["total"] not in ("*", str(size)):
        return int(match["total"])
    if (int(match["first"]), int(match["last"]) + 1) != (byte_range.start, byte_range.stop):
        expected = f"bytes {byte_range.start}-{byte_range.stop - 1}/{size}"
        raise TransientError(f"Content-Range: found {match[0]!r}, expected {expected!r}")
    length = _parse_integer(response.headers.get("content-length"))
    if length not in (None, byte_range.nbytes):
        raise TransientError(f"Content-Length: found {length}, expected {byte_range.nbytes}")
    return size


def _parse_content_range(response: Response) -> re.Match[str]:
    """Parse the Content-Range of a partial response; raise TransientError if it has none."""
    value = response.headers.get("content-range", "").strip()
    match = _CONTENT_RANGE.fullmatch(value)
    if match is None:
        raise TransientError(f"Content-Range: found {value!r}, expected that of a single range")
    return match


def _parse_integer(text: str | None) -> int | None:
    """Return a header's number; None if it is absent or anything but ASCII digits."""
    return int(text) if text and text.isascii() and text.isdigit() else None


def _encoding(headers: Mapping[str, str]) -> str:
    """Return the Content-Encoding of a response; empty if its body is the file itself."""
    # GCS decompresses what is stored with an encoding, and then serves no ranges of it.
    stored = headers.get("x-goog-stored-content-encoding", "")
    encoding = headers.get("content-encoding", stored).strip().lower()
    # The names with an ``x-`` are older ones of the same (RFC 9110, section 8.4.1).
    return "" if encoding in _PLAIN_ENCODINGS else encoding.removeprefix("x-")


def _stored_encoding(response: Response) -> str:
    """Return the Content-Encoding of a response if the file may be stored in it; else empty.

    Then a range is one of the file's bytes, and the response has as many as it says. A server that
    compresses on the way sends others.
    """
    encoding = _encoding(response.headers)
    if encoding not in _STORED_ENCODINGS or response.status != HTTPStatus.PARTIAL_CONTENT:
        return ""
    match = _parse_content_range(response)
    length = _parse_integer(response.headers.get("content-length"))
    return encoding if length == int(match["last"]) + 1 - int(match["first"]) else ""


def _check_encoding(headers: Mapping[str, str], request: Request) -> None:
    """Raise StorageError if the body is a compressed form of the file: its ranges are others."""
    encoding = _encoding(headers)
    if encoding and encoding != request.version.encoding:
        raise _encoding_error(request.name, encoding)


def _encoding_error(name: str, encoding: str) -> StorageError:
    """Build the error for a server that compresses the file on the way."""
    return StorageError(
        f"{name}: the server sends the file compressed (Content-Encoding: {encoding}), "
        "expected its own bytes"
    )


def _version_from_headers(
    headers: Mapping[str, str], size: int, kinds: tuple[str, ...]
) -> FileVersion:
    """Return the version of a response, by the first kind whose header it has."""
    for kind in kinds:
        if value := headers.get(_VERSION_HEADERS[kind]):
            return FileVersion(size, kind, value)
    return FileVersion(size)


def _total_size(response: Response) -> int | None:
    """Return the length of the whole file as a response reports it; None if it does not."""
    if response.status == HTTPStatus.OK:
        return _parse_integer(response.headers.get("content-length"))
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        return _parse_integer(_parse_content_range(response)["total"])
    match = _UNSATISFIED.fullmatch(response.headers.get("content-range", "").strip())
    return int(match["total"]) if match else None


def _is_empty_file(response: Response) -> bool:
    """Return whether a request for the first bytes was refused because there are none."""
    return response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and (
        _total_size(response) == 0 or response.error_code == "InvalidRange"
    )


def unknown_size_error(name: str) -> StorageError:
    """Build the error for a server that does not report the length of a file."""
    return StorageError(
        f"{name}: the server does not tell the size of the file, "
        "without which its parts cannot be read"
    )


def _refusal_error(response: Response, request: Request) -> Exception:
    """Build the exception for a status of a read that is no success."""
    # A 412 to a request without a condition is no word on the version.
    if response.status == HTTPStatus.PRECONDITION_FAILED and request.version.kind:
        return PreconditionFailedError(reason_of(response))
    if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return _unsatisfied_range_error(response, request, reason_of(response))
    return refusal_error(response, request.name, request.access_hint)


def refusal_error(response: Response, name: str, access_hint: str) -> Exception:
    """Build the exception for a status that is no success, of a read or of a write.

    Parameters
    ----------
    response : Response
    name : str
        The file's redacted name.
    access_hint : str
        End of the message if access is denied.
    """
    status = response.status
    reason = reason_of(response)
    if status in TRANSIENT_STATUSES:
        wait = retry_after(response.headers.get("retry-after"))
        return TransientError(f"the server answered {reason}", wait=wait)
    if _is_denied(response):
        hint = _denial_hint(response, access_hint)
        return AccessDeniedError(f"{name}: access denied ({reason}){hint}")
    if status in MISSING:
        return FitsFileNotFoundError(f"{name}: no such file ({reason})")
    return StorageError(f"{name}: the server answered {reason}")


def reason_of(response: Response) -> str:
    """Return the status of a response, its phrase, and the service's own name for the error."""
    status = response.status
    return " ".join(filter(None, (str(status), _status_phrase(status), response.error_code)))


def _is_denied(response: Response) -> bool:
    """Return whether a request was refused for missing or insufficient credentials."""
    if response.status == HTTPStatus.BAD_REQUEST:
        return response.error_code in _BAD_CREDENTIALS or "www-authenticate" in response.headers
    return response.status in DENIED


def _denial_hint(response: Response, access_hint: str) -> str:
    """Return the end of a message: which server refused, and how to get access."""
    if not response.redirected_to:
        return access_hint
    return (
        f" by {response.redirected_to}, to which the server redirects; credentials are not sent to "
        "another server than they were given for: open the file by its URL there"
    )


def _unsatisfied_range_error(response: Response, request: Request, reason: str) -> FitsError:
    """Build the error for a range that the server says is not in the file (status 416)."""
    size = _total_size(response)
    version = request.version
    if size not in (None, version.size):
        return changed_error(request.name, found=FileVersion(size or 0), expected=version)
    byte_range = request.byte_range
    return StorageError(
        f"{request.name}: the server cannot serve bytes {byte_range.start} to {byte_range.stop} "
        f"of a file of {version.size} bytes ({reason})"
    )


def _status_phrase(status: int) -> str:
    """Return the standard phrase of a status; empty if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
