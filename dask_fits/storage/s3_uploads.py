"""Multipart uploads to S3 through the client of s3fs.

Its ``put`` and ``pipe`` are not used, since they upload from one process, nor its ``call_s3``,
which has retries of its own beneath ours.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError

from dask_fits._typing import FileSystem
from dask_fits.exceptions import StorageError
from dask_fits.storage.errors import access_hint
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.response import Response, reason_of, refusal_error
from dask_fits.storage.s3 import is_transient_in_botocore, s3_client, to_response
from dask_fits.storage.transfer import TransientError
from dask_fits.storage.uploads import (
    Body,
    ConflictError,
    Part,
    TargetExistsError,
    Unfinished,
    UploadGoneError,
)

_TOKEN = "dask-fits-write"  # noqa: S105 (a name, no secret)
"""Name of the object's metadata that tell which attempt wrote it."""

_MARK = b"This upload is one of dask_fits. Its first part is sent when all others are there.\n"
"""A first part that stands for the true one, by which an upload is known as ours."""

_MARK_TAG = hashlib.md5(_MARK, usedforsecurity=False).hexdigest()

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')

_CONTENT_TYPE = "application/fits"
"""Of FITS files (RFC 4047)."""

_CONFLICTS = frozenset(("ConditionalRequestConflict", "OperationAborted"))
"""S3's names for errors of requests that met with another one, both of status 409."""

_TRANSIENT_CODES = frozenset(
    ("BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch")
)
"""S3's names for errors of status 400 after which a request is to be made again: its bytes were
damaged, cut short or slow on their way."""


class S3Uploads:
    """Uploads of one object of a bucket."""

    smallest_part = 5 * 1024 * 1024
    most_parts = 10_000
    is_timed = True
    keeps_parts = False

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._bucket, self._key, _ = fs.split_path(path)
        self._name = redact_url(f"s3://{self._bucket}/{self._key}")

    async def exists(self) -> bool:
        """Look the object up by HeadObject."""
        return await self._head() is not None

    async def is_made(self, token: str, nbytes: int, md5: bytes) -> bool:
        """Compare the token among the object's metadata, and its length and ETag."""
        found = await self._head()
        if found is None or found.get("Metadata", {}).get(_TOKEN) != token:
            return False
        if found["ContentLength"] != nbytes or (md5 and _is_other(found, md5)):
            raise StorageError(f"{self._name}: the storage has something else than was sent")
        return True

    async def begin(self, token: str) -> str:
        """Begin by CreateMultipartUpload."""
        made = await self._call(
            "create_multipart_upload", ContentType=_CONTENT_TYPE, Metadata={_TOKEN: token}
        )
        return str(made["UploadId"])

    async def mark(self, place: str) -> None:
        """Upload the mark as the first part, which the commit replaces."""
        await self.put(place, 1, Body(_MARK))

    async def put(self, place: str, number: int, body: Body) -> str:
        """Upload a part by UploadPart, and check its ETag."""
        uploading = self._call("upload_part", UploadId=place, PartNumber=number, Body=body)
        made, md5 = await asyncio.gather(uploading, body.hashed())
        return _checked_tag(made, md5)

    async def put_whole(self, token: str, body: Body, *, overwrite: bool) -> None:
        """Upload an object by PutObject, on condition that there is none."""
        try:
            made = await self._call(
                "put_object",
                Body=body,
                ContentType=_CONTENT_TYPE,
                Metadata={_TOKEN: token},
                **_condition(overwrite=overwrite),
            )
        except ConflictError as error:
            raise TransientError(f"the server answered {error}") from error
        _checked_tag(made, await body.hashed())

    async def check(self, place: str) -> None:
        """Do nothing: S3 refuses parts that come after the end of their upload."""

    async def commit(
        self, place: str, token: str, parts: Sequence[Part], *, overwrite: bool
    ) -> None:
        """Make the object by CompleteMultipartUpload, on condition that there is none."""
        del token  # it is in the metadata that the upload was begun with
        listed = [{"PartNumber": part.number, "ETag": part.tag} for part in parts]
        await self._call(
            "complete_multipart_upload",
            UploadId=place,
            MultipartUpload={"Parts": listed},
            **_condition(overwrite=overwrite),
        )

    async def abort(self, place: str) -> bool:
        """Abort by AbortMultipartUpload; a part that was on its way may bring the upload back."""
        try:
            await self._call("abort_multipart_upload", UploadId=place)
            await self._call("list_parts", UploadId=place, MaxParts=1)
        except UploadGoneError:
            return True
        return False

    async def unfinished(self) -> list[Unfinished]:
        """List the uploads of the key whose first part is the mark."""
        found: list[Unfinished] = []
        marker: dict[str, str] = {}
        while True:
            page = await self._call("list_multipart_uploads", Prefix=self._key, **marker)
            # A prefix is also that of longer keys.
            ours = [
                Unfinished(upload["UploadId"], _in_utc(upload.get("Initiated")))
                for upload in page.get("Uploads", [])
                if upload["Key"] == self._key and await self._is_ours(upload["UploadId"])
            ]
            found += ours
            if not page.get("IsTruncated"):
                return found
            marker = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of botocore's exception may be over at the next attempt."""
        return is_transient_in_botocore(error)

    async def _is_ours(self, place: str) -> bool:
        """Return whether the first part of an upload is the mark."""
        try:
            listed = await self._call("list_parts", UploadId=place, MaxParts=1)
        except UploadGoneError:
            return False
        for part in listed.get("Parts", []):
            tag = _MD5.fullmatch(part["ETag"])
            is_mark = part["PartNumber"] == 1 and part["Size"] == len(_MARK)
            # Of an encrypted object the ETag is none of the content.
            return is_mark and (tag is None or tag[1] == _MARK_TAG)
        return False

    async def _head(self) -> dict[str, Any] | None:
        """Return what HeadObject tells; None if there is no object."""
        try:
            return await self._call("head_object")
        except UploadGoneError:
            return None

    async def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Make a request, once."""
        client = await s3_client(self._fs, self._bucket)
        method = getattr(client, operation)
        # The filesystem may have arguments for every request: a payer, a customer's key.
        arguments = self._fs._get_s3_method_kwargs(  # noqa: SLF001 (it has no public way)
            method, Bucket=self._bucket, Key=self._key, **arguments
        )
        try:
            made: dict[str, Any] = await method(**arguments)
        except ClientError as error:
            raise self._error(to_response(error)) from error
        return made

    def _error(self, response: Response) -> Exception:
        """Build the exception for a request that was refused."""
        status = response.status
        if status == HTTPStatus.PRECONDITION_FAILED:
            return TargetExistsError(reason_of(response))
        # The answer to a HEAD request has no body, and so no name for the error.
        if status == HTTPStatus.NOT_FOUND and response.error_code in ("NoSuchUpload", ""):
            return UploadGoneError(reason_of(response))
        if response.error_code in _CONFLICTS:
            return ConflictError(reason_of(response))
        # CompleteMultipartUpload may answer 200 before it knows, and tell the error in the body.
        if status == HTTPStatus.OK or response.error_code in _TRANSIENT_CODES:
            return TransientError(f"the server answered {reason_of(response)}")
        return refusal_error(response, self._name, access_hint("s3://"))


def _in_utc(when: datetime | None) -> datetime | None:
    """Return a time in UTC; botocore gives those of answers in another zone."""
    return None if when is None else when.astimezone(UTC)


def _condition(*, overwrite: bool) -> dict[str, str]:
    """Return the condition that there is no such object yet."""
    return {} if overwrite else {"IfNoneMatch": "*"}


def _checked_tag(made: dict[str, Any], md5: bytes) -> str:
    """Return the ETag of what was uploaded; raise TransientError if it is that of other bytes."""
    tag = str(made["ETag"])
    if _is_other(made, md5):
        raise TransientError(f"ETag: found {tag}, expected {md5.hex()!r}")
    return tag


def _is_other(made: dict[str, Any], md5: bytes) -> bool:
    """Return whether an answer has the ETag of other bytes than those with an MD5."""
    # It is the MD5 of the bytes, unless they are encrypted with a key of a user.
    is_encrypted = "SSECustomerAlgorithm" in made or "kms" in made.get("ServerSideEncryption", "")
    found = _MD5.fullmatch(str(made["ETag"]))
    return found is not None and not is_encrypted and found[1] != md5.hex()
