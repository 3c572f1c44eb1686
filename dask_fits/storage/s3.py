"""S3: conditional ranged requests through the client of s3fs.

Its ``cat_file`` is not used, since that takes the bytes of an object that was replaced, nor its
``call_s3``, which has retries of its own beneath ours and hides the server's error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MethodType
from typing import Any, Protocol

import aiohttp
import yarl
from botocore.client import BaseClient
from botocore.exceptions import (
    ClientError,
    ConnectionError,  # noqa: A004 (botocore's own; it is no OSError)
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from dask_fits._typing import FileSystem
from dask_fits.exceptions import StorageError
from dask_fits.storage.redirects import MAX_REDIRECTS, REDIRECTS, redirect_target, same_origin
from dask_fits.storage.response import Request, Response, read_first, read_response
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion

_CHUNK_SIZE = 256 * 1024
"""Bytes that are read from a connection at a time."""

_ANONYMOUS_HEADERS = frozenset(("range", "if-match", "accept-encoding"))
"""Headers that say nothing about the user."""

_TRANSIENT = (
    HTTPClientError,
    ConnectionError,
    IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    OSError,
)
"""Exceptions whose fault may be over at the next attempt."""


class _Body(Protocol):
    """The body of an object, as aiobotocore streams it."""

    async def read(self, amount: int, /) -> bytes:
        """Read up to some bytes; none at the end."""


class S3Transport:
    """One object of a bucket."""

    parallel = True
    reports_version = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._bucket, self._key, self._version_id = fs.split_path(path)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Read the first bytes by GetObject."""
        # S3 reports an id of the version that the caller may not be allowed to request.
        kinds = ("VersionId", "ETag") if self._fs.version_aware else ("ETag",)
        arguments = {"Range": request.range_header, **_version_argument(self._version_id)}
        opening = self._send(await s3_client(self._fs, self._bucket), arguments)
        return await read_first(opening, request, *kinds, "Last-Modified")

    async def read(self, request: Request, buffer: memoryview) -> None:
        """Read a range by GetObject, of one version id or on condition of the ETag."""
        version = request.version
        arguments = {"Range": request.range_header}
        if request.conditional and version.kind == "ETag":
            arguments["IfMatch"] = version.value
        version_id = version.value if version.kind == "VersionId" else self._version_id
        arguments |= _version_argument(version_id)
        client = await s3_client(self._fs, self._bucket)
        await read_response(self._send(client, arguments), request, buffer)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of botocore's exception may be over at the next attempt."""
        return is_transient_in_botocore(error)

    @asynccontextmanager
    async def _send(
        self, client: BaseClient, arguments: Mapping[str, str]
    ) -> AsyncIterator[Response]:
        """Send a GetObject request; botocore's exception for an error becomes a response."""
        # The filesystem may have arguments for every request: a payer, a customer's key.
        arguments = self._fs._get_s3_method_kwargs(  # noqa: SLF001 (it has no public way)
            client.get_object, Bucket=self._bucket, Key=self._key, **arguments
        )
        try:
            result = await client.get_object(**arguments)
        except ClientError as error:
            yield to_response(error)
            return
        metadata = result["ResponseMetadata"]
        body = result["Body"]
        try:
            yield Response(metadata["HTTPStatusCode"], metadata["HTTPHeaders"], _read_chunks(body))
        finally:
            body.close()  # does nothing if it was read to its end


async def s3_client(fs: FileSystem, bucket: str) -> BaseClient:
    """Return the client of s3fs for a bucket, which follows redirects as it should."""
    # Before the time-out starts: to make a client takes botocore some tenths of a second.
    await fs.set_session()
    client = await fs.get_s3(bucket)
    _guard_redirects_of(client)
    return client


def to_response(error: ClientError) -> Response:
    """Convert botocore's exception for an error of the service to a response."""
    metadata = error.response["ResponseMetadata"]
    # Of a response without a body, such as a 304, botocore makes the status the code.
    code = error.response.get("Error", {}).get("Code", "")
    return Response(
        metadata["HTTPStatusCode"],
        metadata.get("HTTPHeaders", {}),
        error_code="" if code.isdigit() else code,
    )


def is_transient_in_botocore(error: Exception) -> bool:
    """Return whether the fault of botocore's exception may be over at the next attempt."""
    # botocore wraps in its own what is raised in it, such as our error for a wrong redirect.
    cause = getattr(error, "kwargs", {}).get("error")
    is_permanent = isinstance(error, SSLError) or isinstance(cause, StorageError)
    return isinstance(error, _TRANSIENT) and not is_permanent


def s3_options(
    options: Mapping[str, Any], transfer: TransferConfig, *, writes: bool
) -> dict[str, Any]:
    """Return options of s3fs by which the retries are ours alone, and connections suffice."""
    defaults = {
        "retries": {"max_attempts": 0},
        "max_pool_connections": transfer.max_concurrency,
        "connect_timeout": transfer.timeout,
        # While bytes are sent none are received, however long that takes: `Body` limits it.
        "read_timeout": None if writes else transfer.timeout,
    }
    return {**options, "config_kwargs": {**defaults, **options.get("config_kwargs", {})}}


def _guard_redirects_of(client: BaseClient) -> None:
    """Have a client send nothing of the user's to a server that it is redirected to.

    aiohttp would send the token of a session and a customer's key along.
    """
    http = client._endpoint.http_session  # noqa: SLF001 (aiobotocore has no public way to it)
    # Once per client: what replaces the method is no method.
    if isinstance(get_session := getattr(http, "_get_session", None), MethodType):
        http._get_session = partial(_get_guarded_session, get_session)  # noqa: SLF001


async def _get_guarded_session(
    get_session: Callable[[str | None], Awaitable[aiohttp.ClientSession]], proxy: str | None
) -> _GuardedSession:
    """Return the session of aiobotocore for a proxy, guarded."""
    return _GuardedSession(await get_session(proxy))


class _GuardedSession:
    """The part of a session of aiohttp that aiobotocore uses."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(
        self, method: str, *, url: yarl.URL, headers: Mapping[str, str], **options: Any
    ) -> aiohttp.ClientResponse:
        """Send a request and follow redirects, except those to a region: botocore follows these."""
        options["allow_redirects"] = False
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._session.request(method, url, headers=headers, **options)
            location = response.headers.get("Location")
            names_region = "x-amz-bucket-region" in response.headers
            if names_region or not location or response.status not in REDIRECTS:
                return response
            response.release()
            target = redirect_target(url, location, "the endpoint")
            if not same_origin(url, target):
                headers = {k: v for k, v in headers.items() if k.lower() in _ANONYMOUS_HEADERS}
            url = target
        raise StorageError(f"the endpoint redirects more than {MAX_REDIRECTS} times")


def _version_argument(version_id: str | None) -> dict[str, str]:
    """Return the argument of GetObject for a version id, if there is one."""
    return {"VersionId": version_id} if version_id else {}


async def _read_chunks(body: _Body) -> AsyncIterator[bytes]:
    """Yield the bytes of a body as they come."""
    while chunk := await body.read(_CHUNK_SIZE):
        yield chunk
