"""Uploads to Google Cloud Storage: parts as temporary objects, which are composed at the end.

A resumable upload takes its bytes in order, from one process; multipart uploads of the XML API take
no conditions. Composing takes up to 32 objects at a time, so it is done in levels, and only the
last one makes the object, on condition of its generation.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial, reduce
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp

from dask_fits._typing import FileSystem
from dask_fits.exceptions import FitsFileNotFoundError, StorageError
from dask_fits.storage.crc32c import combine, from_base64
from dask_fits.storage.errors import access_hint
from dask_fits.storage.http import is_transient_in_aiohttp
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.response import Response, reason_of, refusal_error
from dask_fits.storage.transfer import TransientError
from dask_fits.storage.uploads import (
    Body,
    Part,
    TargetExistsError,
    Unfinished,
    UploadGoneError,
)

_T = TypeVar("_T")

_MOST_SOURCES = 32
"""Objects that one request composes."""

_DAMAGED = b"match calculated MD5"
"""Part of what the storage says of bytes that do not have the MD5 that it was told."""

_AT_ONCE = 16
"""Requests to compose or to delete that are made at the same time."""

_MARK = "begun"
"""End of the name of the object that is there until an upload is committed or aborted."""

_TOKEN = "dask-fits-write"  # noqa: S105 (a name, no secret)
"""Name of the object's metadata that tell which attempt wrote it."""

_BOUNDARY = "8d2c1f7a4e6b4c0f9a35"
"""Of the parts of a request that has a description and content (RFC 2046, section 5.1.1)."""

_CONTENT_TYPE = "application/fits"
"""Of FITS files (RFC 4047)."""


class GcsUploads:
    """Uploads of one object of a bucket.

    The place of an upload is the beginning of the names of its temporary objects.
    """

    smallest_part = 1
    most_parts = 1_000_000
    is_timed = True
    keeps_parts = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._bucket, self._key, _ = fs.split_path(path)
        self._name = redact_url(f"gs://{self._bucket}/{self._key}")
        self._composed: dict[str, _Object] = {}
        self._crc32c: int | None = None

    async def exists(self) -> bool:
        """Look the object up by "Objects: get"."""
        return await self._look_up(self._key) is not None

    async def is_made(self, token: str, nbytes: int, md5: bytes) -> bool:
        """Compare the token among the object's metadata, and its length and check sums."""
        found = await self._look_up(self._key)
        if found is None or found.get("metadata", {}).get(_TOKEN) != token:
            return False
        is_right = int(found["size"]) == nbytes
        if md5:
            is_right &= base64.b64decode(found["md5Hash"]) == md5
        if self._crc32c is not None:
            is_right &= from_base64(found["crc32c"]) == self._crc32c
        if not is_right:
            raise StorageError(f"{self._name}: the storage has something else than was sent")
        return True

    async def begin(self, token: str) -> str:
        """Choose the names of the temporary objects; nothing is sent."""
        return f"{self._prefix}{token}/"

    async def mark(self, place: str) -> None:
        """Upload an empty object that is there for as long as the upload is."""
        await self._upload(place + _MARK, Body(b""), {})

    async def put(self, place: str, number: int, body: Body) -> str:
        """Upload a temporary object, and check its size and its MD5."""
        # Each has a name of its own: one that was given up may come after its substitute.
        name = f"{place}{number:06}-{secrets.token_hex(4)}"
        made = await self._upload(name, body, {})
        return f"{name.removeprefix(place)} {made['generation']} {made['crc32c']}"

    async def check(self, place: str) -> None:
        """Look the mark up: an abort that removed it has listed all parts that came before."""
        if await self._look_up(place + _MARK) is None:
            await self.abort(place)
            raise UploadGoneError("its temporary objects were removed")

    async def put_whole(self, token: str, body: Body, *, overwrite: bool) -> None:
        """Upload the object itself, on condition that there is none."""
        await self._upload(self._key, body, _condition(overwrite=overwrite), token)

    async def commit(
        self, place: str, token: str, parts: Sequence[Part], *, overwrite: bool
    ) -> None:
        """Compose the temporary objects, and check the size and the CRC-32C of the object."""
        sources = []
        for part in parts:
            name, generation, crc32c = part.tag.split(" ")
            sources.append(_Object(place + name, generation, part.nbytes, from_base64(crc32c)))
        self._crc32c = reduce(_Object.followed_by, sources).crc32c
        level = 0
        while len(sources) > _MOST_SOURCES:
            groups = (sources[n : n + _MOST_SOURCES] for n in range(0, len(sources), _MOST_SOURCES))
            sources = await _all(
                partial(self._compose_once, f"{place}level-{level}-{n:06}", group)
                for n, group in enumerate(groups)
            )
            level += 1
        # The metadata of the object are those that tell who made it.
        about = {"contentType": _CONTENT_TYPE, "metadata": {_TOKEN: token}}
        await self._compose(self._key, sources, about, _condition(overwrite=overwrite))

    async def abort(self, place: str) -> bool:
        """Delete the mark, then the other objects; a part that was on its way may still come."""
        await self._delete([place + _MARK])
        found = [item["name"] async for item in self._list(place)]
        await self._delete(found)
        return not found

    async def unfinished(self) -> list[Unfinished]:
        """List the uploads of which there are temporary objects."""
        uploads: dict[str, datetime] = {}
        async for item in self._list(self._prefix):
            place = item["name"].rpartition("/")[0] + "/"
            token = place.removeprefix(self._prefix).rstrip("/")
            if len(token) == 16 and not set(token) - set("0123456789abcdef"):
                created = datetime.fromisoformat(item["timeCreated"])
                uploads[place] = min(uploads.get(place, created), created)
        return [Unfinished(place, started) for place, started in uploads.items()]

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of aiohttp's exception may be over at the next attempt."""
        return is_transient_in_aiohttp(error)

    @property
    def _prefix(self) -> str:
        """Beginning of the names of the temporary objects of all attempts."""
        directory, slash, name = self._key.rpartition("/")
        return f"{directory}{slash}.{name}.part/"

    async def _look_up(self, name: str) -> dict[str, Any] | None:
        """Return what the storage tells of an object; None if there is none."""
        try:
            return await self._request("GET", self._path(name))
        except UploadGoneError:
            return None

    async def _upload(
        self, name: str, body: Body, condition: Mapping[str, str], token: str = ""
    ) -> dict[str, Any]:
        """Upload an object in one request, and check what the storage has of it."""
        expected = base64.b64encode(await body.hashed()).decode()
        # With the MD5 the storage refuses bytes that were damaged on their way.
        about = {
            "name": name,
            "contentType": _CONTENT_TYPE,
            "md5Hash": expected,
            "metadata": {_TOKEN: token},
        }
        start = f"--{_BOUNDARY}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n"
        middle = f"\r\n--{_BOUNDARY}\r\nContent-Type: {_CONTENT_TYPE}\r\n\r\n"
        end = f"\r\n--{_BOUNDARY}--"
        content = body.between((start + json.dumps(about) + middle).encode(), end.encode())
        try:
            made = await self._request(
                "POST",
                f"{self._fs._location}/upload/storage/v1/b/{quote(self._bucket)}/o",  # noqa: SLF001
                {"uploadType": "multipart", **condition},
                headers={
                    "Content-Type": f'multipart/related; boundary="{_BOUNDARY}"',
                    "Content-Length": str(content.nbytes),
                },
                data=content,
            )
        except UploadGoneError as error:
            raise self._bucket_error(error) from error
        found = made.get("md5Hash"), int(made["size"])
        if found != (expected, body.nbytes):
            raise TransientError(
                f"md5Hash and size: found {found}, expected {(expected, body.nbytes)}"
            )
        return made

    async def _compose_once(self, name: str, sources: Sequence[_Object]) -> _Object:
        """Compose temporary objects, if no earlier attempt to commit has."""
        if name not in self._composed:
            self._composed[name] = await self._compose(name, sources, {}, {})
        return self._composed[name]

    async def _compose(
        self,
        name: str,
        sources: Sequence[_Object],
        about: Mapping[str, Any],
        condition: Mapping[str, str],
    ) -> _Object:
        """Compose objects, and check what the storage has made of them."""
        listed = [{"name": one.name, "generation": one.generation} for one in sources]
        content = {"sourceObjects": listed, "destination": about}
        made = await self._request("POST", f"{self._path(name)}/compose", condition, json=content)
        whole = reduce(_Object.followed_by, sources)
        found = int(made["size"]), from_base64(made["crc32c"])
        if found != (whole.nbytes, whole.crc32c):
            raise TransientError(
                f"size and crc32c of the composed object: found {found}, expected "
                f"{(whole.nbytes, whole.crc32c)}"
            )
        return _Object(name, made["generation"], *found)

    async def _delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are fine."""
        await _all(
            partial(self._request, "DELETE", self._path(name), missing_is_fine=True)
            for name in names
        )

    async def _list(self, prefix: str) -> AsyncIterator[dict[str, Any]]:
        """Yield what the storage tells of the objects whose names begin so."""
        path = f"{self._fs.base}b/{quote(self._bucket)}/o"
        params = {"prefix": prefix}
        while True:
            try:
                page = await self._request("GET", path, params)
            except UploadGoneError as error:
                raise self._bucket_error(error) from error
            for item in page.get("items", []):
                yield item
            if not page.get("nextPageToken"):
                return
            params = {"prefix": prefix, "pageToken": page["nextPageToken"]}

    def _bucket_error(self, error: UploadGoneError) -> FitsFileNotFoundError:
        return FitsFileNotFoundError(f"{self._name}: no such bucket ({error})")

    def _path(self, name: str) -> str:
        return f"{self._fs.base}b/{quote(self._bucket)}/o/{quote(name, safe='')}"

    async def _request(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        missing_is_fine: bool = False,
        **content: Any,
    ) -> dict[str, Any]:
        """Make a request with the user's credentials, billed to a project if `requester_pays`."""
        fs = self._fs
        await fs._set_session()  # noqa: SLF001 (gcsfs has no public way to its session)
        sent: dict[str, str] = {**(headers or {})}
        fs.credentials.apply(sent)
        query = fs._get_params(dict(params or {}))  # noqa: SLF001
        async with fs.session.request(
            method,
            url,
            params=query,
            headers=sent,
            timeout=aiohttp.ClientTimeout(total=None),
            allow_redirects=False,
            **content,
        ) as response:
            body = await response.read()
            if response.status >= HTTPStatus.MULTIPLE_CHOICES:
                if response.status == HTTPStatus.NOT_FOUND and missing_is_fine:
                    return {}
                if response.status == HTTPStatus.BAD_REQUEST and _DAMAGED in body:
                    raise TransientError("the server has found other bytes than were sent")
                raise self._error(Response(response.status, response.headers))
        found: dict[str, Any] = json.loads(body) if body else {}
        return found

    def _error(self, response: Response) -> Exception:
        """Build the exception for a request that was refused."""
        if response.status == HTTPStatus.PRECONDITION_FAILED:
            return TargetExistsError(reason_of(response))
        if response.status == HTTPStatus.NOT_FOUND:
            return UploadGoneError(reason_of(response))
        return refusal_error(response, self._name, access_hint("gs://"))


class _Object:
    """An object, or several that follow each other."""

    __slots__ = ("crc32c", "generation", "name", "nbytes")

    def __init__(self, name: str, generation: str, nbytes: int, crc32c: int) -> None:
        self.name = name
        self.generation = generation
        self.nbytes = nbytes
        self.crc32c = crc32c

    def followed_by(self, other: _Object) -> _Object:
        """Return both as one."""
        crc32c = combine(self.crc32c, other.crc32c, other.nbytes)
        return _Object("", "", self.nbytes + other.nbytes, crc32c)


async def _all(requests: Iterable[Callable[[], Awaitable[_T]]]) -> list[_T]:
    """Make requests, several at a time; the first that fails ends the others."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def make(request: Callable[[], Awaitable[_T]]) -> _T:
        async with gate:
            return await request()

    tasks = [asyncio.ensure_future(make(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def _condition(*, overwrite: bool) -> dict[str, str]:
    """Return the condition that there is no such object yet."""
    return {} if overwrite else {"ifGenerationMatch": "0"}
