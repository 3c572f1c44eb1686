"""Places in stores to which tests write, each looked into by means that are not this package's."""

from __future__ import annotations

import io
import itertools
import json
import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

import dask.array as da
import fsspec
import numpy as np
from astropy.io import fits

import dask_fits
from dask_fits import TransferConfig
from tests.servers.gcs import BUCKET, GcsServer
from tests.servers.s3 import PRIVATE, REGION, S3Server
from tests.servers.upload_proxy import UploadProxy
from tests.servers.webdav import WebdavServer

MIB = 1 << 20
PART = 5 * MIB
"""The shortest part that S3 takes."""

PIXELS = np.random.default_rng(13).random((1400, 1000), dtype=np.float32)
LAZY = da.from_array(PIXELS, chunks=(500, 600), name=False)
"""5.3 MiB: two parts on S3, and no more than is needed for them."""

PARTS = TransferConfig(part_size=PART, attempts=3, backoff=0.01, retry_time=5.0)
"""Short parts, and retries that follow soon."""

_numbers = itertools.count()


class Target(Protocol):
    """A name in a store where there is nothing yet."""

    url: str
    options: dict[str, Any]
    completes: str
    """Regular expression for the request that makes the file of its parts, in the log of a proxy."""
    sends: str
    """The same for the request that makes a short file."""
    pixels: np.ndarray
    """An image of two parts."""
    lazy: da.Array
    """The same."""
    part: int
    """Length of the parts."""

    def content(self) -> bytes | None:
        """What is stored there; None if nothing is."""

    def put(self, content: bytes) -> None:
        """Store something there, as somebody else does."""

    def left(self) -> list[str]:
        """The uploads, temporary objects and temporary files of this name that are there."""

    def second_parts(self) -> int:
        """How many of them have a second part."""


@lru_cache
def client_of(server: S3Server) -> Any:
    """A client of the server itself, with the credentials that may do anything."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        config=Config(proxies={}),
    )


@dataclass
class S3Target:
    """A key of a bucket, reached through a proxy."""

    server: S3Server
    proxy: UploadProxy
    bucket: str = PRIVATE
    key: str = field(default_factory=lambda: f"written/{next(_numbers)}.fits")
    completes = r"^POST [^?]*\?uploadId="
    sends = r"^PUT [^?]*\?$"
    pixels, lazy, part = PIXELS, LAZY, PART

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.server.storage_options, "endpoint_url": self.proxy.url}

    @property
    def client(self) -> Any:
        return client_of(self.server)

    def content(self) -> bytes | None:
        try:
            found = self.client.get_object(Bucket=self.bucket, Key=self.key)
        except self.client.exceptions.NoSuchKey:
            return None
        return bytes(found["Body"].read())

    def put(self, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=self.key, Body=content)

    def left(self) -> list[str]:
        found = self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.key)
        return [one["UploadId"] for one in found.get("Uploads", []) if one["Key"] == self.key]

    def second_parts(self) -> int:
        place = {"Bucket": self.bucket, "Key": self.key}
        listed = [self.client.list_parts(**place, UploadId=one) for one in self.left()]
        return sum(part["PartNumber"] == 2 for one in listed for part in one.get("Parts", []))


@dataclass
class GcsTarget:
    """A name in the bucket, reached through a proxy."""

    server: GcsServer
    proxy: UploadProxy
    key: str = field(default_factory=lambda: f"written/{next(_numbers)}.fits")
    completes = r"^POST .*/compose\?"
    sends = r"^POST /upload/"
    pixels, lazy, part = PIXELS[:350], LAZY[:350], MIB

    @property
    def url(self) -> str:
        return f"gs://{BUCKET}/{self.key}"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.server.storage_options, "endpoint_url": self.proxy.url}

    def content(self) -> bytes | None:
        try:
            with urlopen(self.server.media(self.key)) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            return None

    def put(self, content: bytes) -> None:
        self.server.put(self.key, content)

    def description(self) -> dict[str, Any]:
        """What the storage tells of the object."""
        place = f"{self.server.endpoint}/storage/v1/b/{BUCKET}/o/{quote(self.key, safe='')}"
        with urlopen(place) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def left(self) -> list[str]:
        directory, _, name = self.key.rpartition("/")
        found: list[str] = []
        token = ""
        while True:
            query = urlencode({"prefix": f"{directory}/.{name}", "pageToken": token})
            with urlopen(f"{self.server.endpoint}/storage/v1/b/{BUCKET}/o?{query}") as answer:
                page = json.loads(answer.read())
            found += [item["name"] for item in page["items"]]
            token = page.get("nextPageToken", "")
            if not token:
                return found

    def second_parts(self) -> int:
        return sum("/000002-" in name for name in self.left())


@dataclass
class WebdavTarget:
    """A name on a WebDAV server, reached through a proxy."""

    server: WebdavServer
    proxy: UploadProxy
    key: str = field(default_factory=lambda: f"written/{next(_numbers)}.fits")
    completes = r"^MOVE .*/joined\?"
    sends = r"^MOVE "
    pixels, lazy, part = PIXELS[:350], LAZY[:350], MIB

    def __post_init__(self) -> None:
        self._path.parent.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"webdav://{self.key}"

    @property
    def options(self) -> dict[str, Any]:
        # The driver's own retries wait for seconds.
        return {**self.server.storage_options, "base_url": self.proxy.url, "retry": False}

    @property
    def _path(self) -> Path:
        return self.server.directory / self.key

    def content(self) -> bytes | None:
        return self._path.read_bytes() if self._path.exists() else None

    def put(self, content: bytes) -> None:
        self.server.put(self.key, content)

    def left(self) -> list[str]:
        name = self._path.name
        return [one.name for one in self._path.parent.iterdir() if one.name.startswith(f".{name}")]

    def second_parts(self) -> int:
        return len([*self._path.parent.glob(f".{self._path.name}*/000002")])


@dataclass
class MemoryTarget:
    """A name in the memory of this process."""

    key: str = field(default_factory=lambda: f"/written/{next(_numbers)}.fits")
    options: dict[str, Any] = field(default_factory=dict)
    pixels, lazy, part = PIXELS[:350], LAZY[:350], MIB

    @property
    def url(self) -> str:
        return f"memory:/{self.key}"

    @property
    def _store(self) -> Any:
        return fsspec.filesystem("memory").store

    def content(self) -> bytes | None:
        found = self._store.get(self.key)
        return None if found is None else bytes(found.getvalue())

    def put(self, content: bytes) -> None:
        fsspec.filesystem("memory").pipe_file(self.key, content)

    def left(self) -> list[str]:
        directory, _, name = self.key.rpartition("/")
        return [path for path in self._store if path.startswith(f"{directory}/.{name}")]

    def second_parts(self) -> int:
        return sum(path.endswith("/000002") for path in self.left())


def write(target: Target, array: Any, **options: Any) -> Any:
    """Write an array there."""
    transfer = replace(PARTS, part_size=target.part)
    options = {"transfer": transfer, "storage_options": target.options, **options}
    return dask_fits.to_fits(array, target.url, **options)


def check_content(target: Target, *images: Any) -> bytes:
    """Read a file through astropy, which verifies its checksums, and compare all pixels."""
    content = target.content()
    assert content is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(io.BytesIO(content), checksum=True) as hdus:
            hdus.verify("exception")
            assert len(hdus) == len(images)
            for hdu, image in zip(hdus, images, strict=True):
                assert {"CHECKSUM", "DATASUM"} <= set(hdu.header)
                assert (hdu.data is None) == (image is None)
                assert image is None or np.array_equal(hdu.data, image)
    return content
