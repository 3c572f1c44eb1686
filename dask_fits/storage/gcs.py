"""Google Cloud Storage: conditional ranged requests in the session of gcsfs.

Not through its ``cat_file``, which asks for no condition, checks no header, and has retries of its
own beneath ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from dask_fits._typing import FileSystem
from dask_fits.storage.http import ask, is_transient_in_aiohttp
from dask_fits.storage.redirects import verbatim
from dask_fits.storage.response import Request, Response, read_first, read_response
from dask_fits.storage.version import FileVersion


class GcsTransport:
    """One object of a bucket."""

    parallel = True
    confirms = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Objects: get with ``alt=media``, of the first bytes."""
        return await read_first(self._ask(request, {}), request, "generation")

    async def read(self, request: Request, into: memoryview) -> None:
        """Objects: get with ``alt=media``, on condition that the generation is the same."""
        held = request.conditional and request.version.kind == "generation"
        condition = {"ifGenerationMatch": request.version.value} if held else {}
        await read_response(self._ask(request, condition), request, into)

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception of aiohttp may be over at the next attempt."""
        return is_transient_in_aiohttp(error)

    @asynccontextmanager
    async def _ask(self, request: Request, params: Mapping[str, str]) -> AsyncIterator[Response]:
        fs = self._fs
        await fs._set_session()  # noqa: SLF001 (gcsfs has no public way to its session)
        theirs: dict[str, str] = {}
        fs.credentials.apply(theirs)
        if fs.requester_pays:
            payer = fs.requester_pays if isinstance(fs.requester_pays, str) else fs.project
            params = {**params, "userProject": payer}
        options = {"params": params, "headers": theirs}
        ours, url = {"Range": request.header}, verbatim(fs.url(self._path))
        async with ask(fs.session, url, ours, options, request.name) as response:
            yield response
