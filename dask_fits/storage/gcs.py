"""Google Cloud Storage: conditional ranged requests in the session of gcsfs.

Not through its ``cat_file``, which asks for no condition, checks no header, and has retries of its
own beneath ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from dask_fits.storage.answer import Answer, Request, check_plain, read_answer, refusal
from dask_fits.storage.http import NO_TOTAL, passing_in_aiohttp
from dask_fits.storage.stamp import Stamp


class GcsTransport:
    """One object of a bucket."""

    parallel = True
    confirms = True

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path
        self._bucket, self._key, self._generation = fs.split_path(path)

    async def stat(self, request: Request) -> Stamp:
        """Objects: get, of the JSON interface."""
        url = f"{self._fs.base}b/{self._bucket}/o/{quote(self._key, safe='')}"
        generation = {"generation": self._generation} if self._generation else {}
        async with self._session_request(url, {}, generation) as response:
            if response.status != HTTPStatus.OK:
                raise refusal(_answer(response), request)
            found = await response.json(content_type=None)
        check_plain({"content-encoding": found.get("contentEncoding", "")}, request.name)
        return Stamp(int(found["size"]), "generation", str(found["generation"]))

    async def read(self, request: Request, into: memoryview) -> None:
        """Objects: get with ``alt=media``, on condition that the generation is the same."""
        await read_answer(self._media(request), request, into)

    def passing(self, error: Exception) -> bool:
        """Whether an exception of aiohttp may be over at the next attempt."""
        return passing_in_aiohttp(error)

    @asynccontextmanager
    async def _media(self, request: Request) -> AsyncIterator[Answer]:
        headers = {"Range": request.header, "Accept-Encoding": "identity"}
        condition = {"ifGenerationMatch": request.stamp.value}
        async with self._session_request(self._fs.url(self._path), headers, condition) as response:
            yield _answer(response)

    @asynccontextmanager
    async def _session_request(
        self, url: str, headers: Mapping[str, str], params: Mapping[str, str]
    ) -> AsyncIterator[Any]:
        fs = self._fs
        await fs._set_session()  # noqa: SLF001 (gcsfs has no public way to its session)
        signed = dict(headers)
        fs.credentials.apply(signed)
        if fs.requester_pays:
            payer = fs.requester_pays if isinstance(fs.requester_pays, str) else fs.project
            params = {**params, "userProject": payer}
        async with fs.session.get(url, params=params, headers=signed, timeout=NO_TOTAL) as response:
            yield response


def _answer(response: Any) -> Answer:
    return Answer(response.status, response.headers, response.content.iter_any())
