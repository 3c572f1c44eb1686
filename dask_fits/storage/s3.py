"""S3: conditional ranged requests through the client of s3fs.

Not through its ``cat_file``, which takes the bytes of an object that was replaced, nor its
``call_s3``, which has retries of its own beneath ours and hides what the server said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import MethodType
from typing import Any

import aiohttp
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
from dask_fits.storage.redirects import MAX_REDIRECTS, REDIRECTS, redirected, same_origin
from dask_fits.storage.response import Request, Response, read_first, read_response
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion

_READ = 256 * 1024
"""Bytes that are taken from a connection at a time."""

_NEUTRAL = frozenset(("range", "if-match", "accept-encoding"))
"""Headers that say nothing of who asks."""

_PASSING = (
    *(HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError),
    *(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError),
)


class S3Transport:
    """One object of a bucket."""

    parallel = True
    confirms = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._bucket, self._key, self._version = fs.split_path(path)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """GetObject of the first bytes."""
        # An id that S3 tells of a version need not be one that the caller may ask for.
        kinds = ("VersionId", "ETag") if self._fs.version_aware else ("ETag",)
        wanted = {"Range": request.header, **_pinned(self._version)}
        asking = self._ask(await self._client(), wanted)
        return await read_first(asking, request, *kinds, "Last-Modified")

    async def read(self, request: Request, into: memoryview) -> None:
        """GetObject of a range, of a pinned version or on condition of the ETag."""
        version = request.version
        tagged = request.conditional and version.kind == "ETag"
        held = {"IfMatch": version.value} if tagged else {}
        held |= _pinned(version.value if version.kind == "VersionId" else self._version)
        asking = self._ask(await self._client(), {"Range": request.header, **held})
        await read_response(asking, request, into)

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception of botocore may be over at the next attempt."""
        cause = getattr(error, "kwargs", {}).get("error")  # botocore wraps what is raised in it
        certain = isinstance(error, SSLError) or isinstance(cause, StorageError)
        return isinstance(error, _PASSING) and not certain

    async def _client(self) -> Any:
        # Before the time-out starts: to make a client takes botocore some tenths of a second.
        await self._fs.set_session()
        client = await self._fs.get_s3(self._bucket)
        _redirect_with_care(client)
        return client

    @asynccontextmanager
    async def _ask(self, client: Any, arguments: Mapping[str, str]) -> AsyncIterator[Response]:
        # With what the filesystem was told to send with every request: a payer, a customer's key.
        asked = self._fs._get_s3_method_kwargs(  # noqa: SLF001 (it has no public way)
            client.get_object, Bucket=self._bucket, Key=self._key, **arguments
        )
        try:
            found = await client.get_object(**asked)
        except ClientError as error:
            about = error.response["ResponseMetadata"]
            code = error.response.get("Error", {}).get("Code", "")
            said = "" if code.isdigit() else code
            yield Response(about["HTTPStatusCode"], about.get("HTTPHeaders", {}), said=said)
            return
        about, body = found["ResponseMetadata"], found["Body"]
        try:
            yield Response(about["HTTPStatusCode"], about["HTTPHeaders"], _chunks(body))
        finally:
            body.close()  # does nothing where it was read to its end


def s3_options(options: Mapping[str, Any], transfer: TransferConfig) -> dict[str, Any]:
    """Make s3fs's options: one layer of retries, which is ours, and as many connections."""
    defaults = {
        "retries": {"max_attempts": 0},
        "max_pool_connections": transfer.max_concurrency,
        "connect_timeout": transfer.timeout,
        "read_timeout": transfer.timeout,
    }
    return {**options, "config_kwargs": {**defaults, **options.get("config_kwargs", {})}}


def _redirect_with_care(client: Any) -> None:
    """Have a client send nothing of the user's to where it is redirected.

    aiohttp would send the token of a session and a customer's key along.
    """
    http = client._endpoint.http_session  # noqa: SLF001 (aiobotocore has no public way to it)
    if isinstance(find := getattr(http, "_get_session", None), MethodType):
        http._get_session = partial(_careful, find)  # noqa: SLF001


async def _careful(find: Callable[[str | None], Awaitable[Any]], proxy: str | None) -> _Careful:
    return _Careful(await find(proxy))


class _Careful:
    """What aiobotocore needs of a session of aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(
        self, method: str, *, url: Any, headers: Mapping[str, str], **options: Any
    ) -> aiohttp.ClientResponse:
        """Send a request, and follow redirects, but those that name a region: botocore's matter."""
        options["allow_redirects"] = False
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._session.request(method, url, headers=headers, **options)
            location = response.headers.get("Location")
            told = "x-amz-bucket-region" in response.headers
            if told or not location or response.status not in REDIRECTS:
                return response
            response.release()
            target = redirected(url, location, "the endpoint")
            if not same_origin(url, target):
                headers = {k: v for k, v in headers.items() if k.lower() in _NEUTRAL}
            url = target
        raise StorageError(f"the endpoint redirects more than {MAX_REDIRECTS} times")


def _pinned(version: str | None) -> dict[str, str]:
    return {"VersionId": version} if version else {}


async def _chunks(body: Any) -> AsyncIterator[bytes]:
    while chunk := await body.read(_READ):
        yield chunk
