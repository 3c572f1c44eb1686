"""Files that are not on a mounted disk: concurrent requests, each held to the file's version."""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from dask_fits.concurrency.cancellation import result_of
from dask_fits.exceptions import FitsError, UnversionedFileWarning
from dask_fits.ranges.byte_range import ByteRange, Coalescing, split_range
from dask_fits.storage.errors import access_hint, describe, storage_errors
from dask_fits.storage.filesystem import connect, links
from dask_fits.storage.identity import identity_of
from dask_fits.storage.place import Place
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.request_group import RequestGroup
from dask_fits.storage.response import PreconditionFailedError, Request
from dask_fits.storage.transfer import TransferConfig, TransientError, retrying
from dask_fits.storage.version import FileVersion, changed, check_within

_T = TypeVar("_T")

_AHEAD = 64 * 1024 * 1024
"""Bytes that one read asks for, and holds, ahead of what its caller has taken."""

_WITHOUT_CONDITIONS: set[str] = set()
"""Servers that refuse the condition that a file is unchanged where it is, as this process found
out: they are asked without it, and their answers alone tell the version."""


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """A file behind a web server, an object store or any other fsspec filesystem."""

    url: str
    version: FileVersion
    options: dict[str, Any] = field(compare=False)
    """fsspec storage options; they may hold secrets and are shown nowhere."""
    transfer: TransferConfig = field(compare=False)
    parallel: bool = field(compare=False)
    """Whether the filesystem takes several requests at a time."""
    filesystem: Any = field(default=None, compare=False)
    """The fsspec filesystem itself, where URL and options do not tell it."""
    identity: str = field(init=False)
    """Digest of the options that tell files of one URL apart; see `identity_of`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", identity_of(self.options, self.filesystem))

    def __repr__(self) -> str:
        return f"RemoteStore({self.name!r}, {self.version})"

    @property
    def name(self) -> str:
        """The path or URL as it may be shown."""
        return redact_url(self.url)

    @property
    def part_size(self) -> int | None:
        """Longest part that a range is cut into, in bytes; None where a range is one request."""
        return self.transfer.part_size if self.parallel else None

    @property
    def block_size(self) -> None:
        """None: each range more would be a request more."""

    @property
    def coalescing(self) -> Coalescing:
        """Which runs of bytes are best fetched as one range; see `CostModel`."""
        most = self.transfer.max_concurrency if self.parallel else 1
        cost = self.transfer.cost
        return replace(cost, connections=min(cost.connections, most)).coalescing

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; see `Store.read_ranges`."""
        pieces = deque(wanted for wanted in ranges if wanted.nbytes)
        if not whole:
            pieces = deque(p for wanted in pieces for p in split_range(wanted, self.part_size))
        if not pieces:
            return
        check_within(self.name, pieces[-1], self.version)
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self.url, self.options, self.transfer, self.filesystem)
            most = 2 * self.transfer.max_concurrency if self.parallel else 1
            ahead, coming = 0, deque[tuple[ByteRange, memoryview, list[Future[None]]]]()
            with RequestGroup(file.loop) as flight:
                while pieces or coming:
                    while pieces and _has_room(ahead + pieces[0].nbytes, len(coming), most):
                        piece = pieces.popleft()
                        coming.append((piece, *self._start(flight, file, piece)))
                        ahead += piece.nbytes
                    piece, buffer, parts = coming.popleft()
                    for part in parts:
                        result_of(part)
                    yield piece.start, buffer
                    ahead -= piece.nbytes
                if not file.transport.confirms:
                    flight.wait(file.confirm(self.version))

    def _start(
        self, flight: RequestGroup, file: _RemoteFile, piece: ByteRange
    ) -> tuple[memoryview, list[Future[None]]]:
        """Have the parts of a piece fetched into one buffer."""
        buffer = np.empty(piece.nbytes, np.uint8).data  # not filled with zeros first
        parts = split_range(piece, self.part_size)
        places = (buffer[part.start - piece.start : part.stop - piece.start] for part in parts)
        return buffer, [
            flight.start(file.read(part, place, self.version))
            for part, place in zip(parts, places, strict=True)
        ]


def open_remote(place: Place, transfer: TransferConfig, *, count: int) -> tuple[RemoteStore, bytes]:
    """Look a file up and read up to `count` of its first bytes.

    One request over HTTP, to S3 and GCS; elsewhere one for the metadata and one for the bytes.

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, MissingDriverError, StorageError
    """
    url, options = place.url, place.options
    with storage_errors(url, options):
        file = _RemoteFile(url, options, transfer, place.filesystem)
        with RequestGroup(file.loop) as flight:
            version, first = flight.wait(file.first(count))
    if not transfer.check_version:
        version = FileVersion(version.size)
    elif version.size and not version.kind and transfer.warn_unversioned:
        # Of the server, not of the file: so Python's filters show it once for all of its files.
        warnings.warn(
            f"{_server(redact_url(url))} tells neither ETag nor modification time: that a "
            "file is replaced by one of the same length while it is read cannot be noticed there "
            "(silence this with transfer=TransferConfig(warn_unversioned=False))",
            UnversionedFileWarning,
            stacklevel=4,  # who called dask_fits.open
        )
    parallel = file.transport.parallel
    store = RemoteStore(url, version, options, transfer, parallel, place.filesystem)
    return store, bytes(first)


def _server(name: str) -> str:
    """Scheme and host of a URL as it may be shown; of a chained one, of the last."""
    server = urlsplit(links(name)[-1])
    return f"{server.scheme}://{server.netloc}"


def _has_room(ahead: int, coming: int, most: int) -> bool:
    return not coming or (ahead <= _AHEAD and coming < most)


class _RemoteFile:
    """A file's transport: makes requests in the event loop, again where a fault may pass."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        transfer: TransferConfig,
        filesystem: Any = None,
    ) -> None:
        self.transport, self.loop = connect(url, options, transfer, filesystem)
        self._url = url
        self._name = redact_url(url)
        self._hint = access_hint(url)
        self._options = options
        self._transfer = transfer
        self._place = f"{_server(self._name)} {options.get('endpoint_url', '')}"
        self._looking = asyncio.Lock()
        self._now: FileVersion | None = None

    async def first(self, count: int) -> tuple[FileVersion, memoryview]:
        """Ask for the file's version, whichever it is, and for up to `count` of its first bytes."""
        request = self._request(ByteRange(0, count), FileVersion(0))
        return await self._retrying(lambda: self.transport.first(request), self._name)

    async def read(self, part: ByteRange, into: memoryview, version: FileVersion) -> None:
        what = f"{self._name}: bytes {part.start} to {part.stop}"
        request, refusal = self._request(part, version), ""
        for _ in range(2):
            request = replace(request, conditional=self._place not in _WITHOUT_CONDITIONS)
            try:
                return await self._retrying(partial(self.transport.read, request, into), what)
            except PreconditionFailedError as error:
                refusal = str(error)
            await self._check_unchanged(version, refusal)
        raise changed(self._name, found=f"another version ({refusal})", expected=version)

    async def _check_unchanged(self, version: FileVersion, refusal: str) -> None:
        """Raise unless a server refuses the condition that a file is what it still is.

        It is then read without the condition, from now on every file of that server: each response
        tells the version that it is of.
        """
        async with self._looking:  # for all requests of a read that are refused at the same time
            try:
                found = self._now = self._now or (await self.first(1))[0]
            except Exception:  # noqa: BLE001 (that the file changed is what matters)
                found = None
        if found is None or not version.matches(found):
            told = f"{found or 'another version'} ({refusal})"
            raise changed(self._name, found=told, expected=version)
        _WITHOUT_CONDITIONS.add(self._place)

    async def confirm(self, version: FileVersion) -> None:
        """Check the version, where the answers to the reads before did not tell it."""
        found, _ = await self.first(0)
        if not version.matches(found):
            raise changed(self._name, found=found, expected=version)

    def _request(self, wanted: ByteRange, version: FileVersion) -> Request:
        return Request(self._name, wanted, version, self._transfer.timeout, self._hint)

    async def _retrying(self, make: Callable[[], Awaitable[_T]], what: str) -> _T:
        def is_transient(error: Exception) -> bool:
            if isinstance(error, FitsError):
                return False
            return isinstance(error, TransientError) or self.transport.is_transient(error)

        def say(error: Exception) -> str:
            return f"{what}: {describe(error, self._url, self._options)}"

        return await retrying(make, config=self._transfer, is_transient=is_transient, told=say)
