"""Google Cloud Storage: conditional ranged requests in the session of gcsfs.

Its ``cat_file`` is not used: that makes no condition, checks no header, and has retries of its own
beneath ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from dask_fits._typing import FileSystem
from dask_fits.storage.http import is_transient_in_aiohttp, send_request
from dask_fits.storage.redirects import verbatim_url
from dask_fits.storage.response import Request, Response, read_first, read_response
from dask_fits.storage.version import FileVersion


class _TranscodedError(Exception):
    """The object is stored with Content-Encoding: gzip, and was unpacked on the way.

    Then GCS serves no ranges of it, unless the client says that it takes the encoding
    ("decompressive transcoding").
    """


class GcsTransport:
    """One object of a bucket."""

    parallel = True
    reports_version = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Read the first bytes by "Objects: get" with ``alt=media``."""
        try:
            return await read_first(self._send(request, {}, is_first=True), request, "generation")
        except _TranscodedError:
            opening = self._send(request, {}, accept="gzip")
            return await read_first(opening, request, "generation")

    async def read(self, request: Request, buffer: memoryview) -> None:
        """Read a range by "Objects: get", on condition that the generation is the same."""
        has_generation = request.version.kind == "generation"
        condition = {}
        if request.conditional and has_generation:
            condition = {"ifGenerationMatch": request.version.value}
        accept = request.version.encoding or "identity"
        await read_response(self._send(request, condition, accept=accept), request, buffer)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of aiohttp's exception may be over at the next attempt."""
        return is_transient_in_aiohttp(error)

    @asynccontextmanager
    async def _send(
        self,
        request: Request,
        params: Mapping[str, str],
        *,
        accept: str = "identity",
        is_first: bool = False,
    ) -> AsyncIterator[Response]:
        """Send a request with the user's credentials, billed to a project if `requester_pays`."""
        fs = self._fs
        await fs._set_session()  # noqa: SLF001 (gcsfs has no public way to its session)
        credentials: dict[str, str] = {}
        fs.credentials.apply(credentials)
        if fs.requester_pays:
            payer = fs.requester_pays if isinstance(fs.requester_pays, str) else fs.project
            params = {**params, "userProject": payer}
        sending = send_request(
            fs.session,
            verbatim_url(fs.url(self._path)),
            headers={"Range": request.range_header, "Accept-Encoding": accept},
            options={"params": params, "headers": credentials},
            name=request.name,
        )
        async with sending as response:
            stored = response.headers.get("x-goog-stored-content-encoding", "")
            if is_first and stored.lower() == "gzip" and "content-encoding" not in response.headers:
                raise _TranscodedError
            yield response
