"""S3: conditional ranged requests through the client of s3fs.

Not through its ``cat_file``, which takes the bytes of an object that was replaced, nor its
``call_s3``, which has retries of its own beneath ours and hides what the server said.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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

from dask_fits.storage.answer import Answer, Request, read_answer, read_first
from dask_fits.storage.stamp import Stamp
from dask_fits.storage.transfer import TransferConfig

_READ = 256 * 1024
"""Bytes that are taken from a connection at a time."""

_PASSING = (
    *(HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError),
    *(aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError),
)


class S3Transport:
    """One object of a bucket."""

    parallel = True
    confirms = True

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._bucket, self._key, self._version = fs.split_path(path)

    async def first(self, request: Request) -> tuple[Stamp, memoryview]:
        """GetObject of the first bytes."""
        # An id that S3 tells of a version need not be one that the caller may ask for.
        kinds = ("VersionId", "ETag") if self._fs.version_aware else ("ETag",)
        wanted = {"Range": request.header, **_pinned(self._version)}
        asking = self._ask(await self._client(), wanted)
        return await read_first(asking, request, *kinds, "Last-Modified")

    async def read(self, request: Request, into: memoryview) -> None:
        """GetObject of a range, of a pinned version or on condition of the ETag."""
        stamp = request.stamp
        tagged = request.conditional and stamp.kind == "ETag"
        held = {"IfMatch": stamp.value} if tagged else {}
        held |= _pinned(stamp.value if stamp.kind == "VersionId" else self._version)
        asking = self._ask(await self._client(), {"Range": request.header, **held})
        await read_answer(asking, request, into)

    def passing(self, error: Exception) -> bool:
        """Whether an exception of botocore may be over at the next attempt."""
        return isinstance(error, _PASSING) and not isinstance(error, SSLError)

    async def _client(self) -> Any:
        # Before the time-out starts: to make a client takes botocore some tenths of a second.
        await self._fs.set_session()
        return await self._fs.get_s3(self._bucket)

    @asynccontextmanager
    async def _ask(self, client: Any, arguments: Mapping[str, str]) -> AsyncIterator[Answer]:
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
            yield Answer(about["HTTPStatusCode"], about.get("HTTPHeaders", {}), said=said)
            return
        about, body = found["ResponseMetadata"], found["Body"]
        try:
            yield Answer(about["HTTPStatusCode"], about["HTTPHeaders"], _chunks(body))
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


def _pinned(version: str | None) -> dict[str, str]:
    return {"VersionId": version} if version else {}


async def _chunks(body: Any) -> AsyncIterator[bytes]:
    while chunk := await body.read(_READ):
        yield chunk
