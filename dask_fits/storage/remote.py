"""Files that are not on a mounted disk: concurrent requests, each for the version that was opened.

A read yields pieces, each in a buffer of its own, and reads ahead of its caller. A range in one
piece is fetched as several parts, and any other range is cut into pieces of one part::

    ranges  [----------------------)   [------)        [-------)
    pieces  [------)[------)[------)   [------)        [-------)
             yielded |<--- in flight, up to 64 MiB --->|
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from dask_fits._typing import FileSystem
from dask_fits.concurrency.cancellation import result_of
from dask_fits.exceptions import FitsError, UnversionedFileWarning, result_or_error
from dask_fits.ranges.byte_range import ByteRange, Coalescing, split_range
from dask_fits.storage.errors import access_hint, describe_error, storage_errors
from dask_fits.storage.filesystem import connect, split_chain
from dask_fits.storage.identity import identity_of
from dask_fits.storage.place import Place
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.request_group import RequestGroup
from dask_fits.storage.response import PreconditionFailedError, Request
from dask_fits.storage.stored_file import StoredFile
from dask_fits.storage.transfer import TransferConfig, TransientError, retrying
from dask_fits.storage.version import FileVersion, changed_error, check_within_file

_T = TypeVar("_T")

_READ_AHEAD = 64 * 1024 * 1024
"""Bytes. Limit of what one read requests, and holds, ahead of its caller."""

_WITHOUT_CONDITIONS: set[str] = set()
"""Servers that refuse the condition that a file is unchanged although it is, as this process has
learned: requests to them have no condition, and only their responses report the version."""

_PICKLED = ("url", "version", "options", "transfer", "parallel", "filesystem", "identity")
"""Fields of a store that are pickled; the others follow from them."""


@dataclass(frozen=True, slots=True)
class RemoteStore(StoredFile):
    """A file behind a web server, an object store or any other fsspec filesystem."""

    url: str
    """URL, secrets included."""
    version: FileVersion
    options: dict[str, Any] = field(compare=False)
    """fsspec storage options; they may hold secrets and are never shown."""
    transfer: TransferConfig = field(compare=False)
    parallel: bool = field(compare=False)
    """Whether the filesystem takes several requests at a time."""
    filesystem: FileSystem | None = field(default=None, compare=False)
    """The fsspec filesystem itself, if URL and options do not describe it."""
    identity: str = field(init=False)
    """Digest of the options that tell files of one URL apart; see `identity_of`."""
    name: str = field(init=False, compare=False)
    """Redacted URL."""
    coalescing: Coalescing = field(init=False, compare=False)
    """Limits within which runs of bytes are best fetched as one range; see `CostModel`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "identity", identity_of(self.options, self.filesystem))
        self._derive_fields()

    def _derive_fields(self) -> None:
        """Set the fields that follow from the pickled ones, and that every read needs."""
        object.__setattr__(self, "name", redact_url(self.url))
        object.__setattr__(self, "coalescing", _coalescing(self.transfer, self.parallel))

    def __getstate__(self) -> list[Any]:
        # A store travels with every task. The identity would take longest to compute again.
        return [getattr(self, name) for name in _PICKLED]

    def __setstate__(self, state: list[Any]) -> None:
        for name, value in zip(_PICKLED, state, strict=True):
            object.__setattr__(self, name, value)
        self._derive_fields()

    def __repr__(self) -> str:
        return f"RemoteStore({self.name!r}, {self.version})"

    @property
    def token(self) -> tuple[str | int, ...]:
        """What tells this version of the file from all other files; see `Store.token`."""
        # Named, since a class with slots is another one than the `super()` of its methods knows.
        token = super(RemoteStore, self).token
        return (*token, self.identity) if self.identity else token

    @property
    def part_size(self) -> int | None:
        """Longest part that a range is cut into, in bytes; None if a range is one request."""
        return self.transfer.part_size if self.parallel else None

    @property
    def block_size(self) -> None:
        """None: each further range would be a further request."""

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; see `Store.read_ranges`."""
        pieces = deque(byte_range for byte_range in ranges if byte_range.nbytes)
        if not whole:
            pieces = deque(part for piece in pieces for part in split_range(piece, self.part_size))
        if not pieces:
            return
        check_within_file(self.name, pieces[-1], self.version)
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self.url, self.options, self.transfer, self.filesystem)
            # Twice as many pieces as connections: when one is done, the next is there to begin.
            max_pieces = 2 * self.transfer.max_concurrency if self.parallel else 1
            nbytes_ahead = 0
            in_flight = deque[tuple[ByteRange, memoryview, list[Future[None]]]]()

            # An error, or a caller that takes no further piece, cancels the requests in flight.
            with RequestGroup(file.loop) as requests:
                while pieces or in_flight:
                    # Request as much as the limits allow, before the caller is made to wait.
                    while pieces and _may_start(
                        nbytes_ahead + pieces[0].nbytes, len(in_flight), max_pieces
                    ):
                        piece = pieces.popleft()
                        in_flight.append((piece, *self._start(requests, file, piece)))
                        nbytes_ahead += piece.nbytes

                    # Pieces are yielded in order, whichever is complete first.
                    piece, buffer, parts = in_flight.popleft()
                    for part in parts:
                        result_of(part)
                    yield piece.start, buffer

                    # Its bytes count until here: the caller held them while it used the piece.
                    nbytes_ahead -= piece.nbytes

                # Without a version in each response, it is compared once all bytes are read.
                if not file.transport.reports_version:
                    requests.wait(file.check_version(self.version))

    def _start(
        self, requests: RequestGroup, file: _RemoteFile, piece: ByteRange
    ) -> tuple[memoryview, list[Future[None]]]:
        """Start the requests for the parts of a piece, all into one buffer."""
        buffer = np.empty(piece.nbytes, np.uint8).data  # not filled with zeros first
        futures = []
        for part in split_range(piece, self.part_size):
            part_buffer = buffer[part.start - piece.start : part.stop - piece.start]
            futures.append(requests.start(file.read(part, part_buffer, self.version)))
        return buffer, futures


@lru_cache(maxsize=64)
def _coalescing(transfer: TransferConfig, parallel: bool) -> Coalescing:  # noqa: FBT001 (cached)
    """Return the limits within which runs are fetched as one range; the same for many files."""
    max_connections = transfer.max_concurrency if parallel else 1
    cost = transfer.cost
    return replace(cost, connections=min(cost.connections, max_connections)).coalescing


def open_remote(place: Place, transfer: TransferConfig, *, count: int) -> tuple[RemoteStore, bytes]:
    """Look a file up and read up to `count` of its first bytes.

    This is one request over HTTP, to S3 and GCS; else one for the metadata and one for the bytes.

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, MissingDriverError, StorageError
    """
    with storage_errors(place.url, place.options):
        file = _RemoteFile(place.url, place.options, transfer, place.filesystem)
        with RequestGroup(file.loop) as requests:
            version, first = requests.wait(file.first(count))
    return _opened(file, place, version, transfer), bytes(first)


def open_remotes(
    places: Iterable[Place], transfer: TransferConfig, *, count: int, most: int, ahead: int
) -> Generator[tuple[RemoteStore, bytes] | FitsError]:
    """Look many files up, each as `open_remote` does, and yield them, or their errors, in order.

    In one thread: more of them would spend their time on waking each other up.

    Parameters
    ----------
    places : iterable of Place
    transfer : TransferConfig
    count : int
        First bytes of each file that are read.
    most : int
        Files that are asked for at the same time.
    ahead : int
        Files that are looked up ahead of the caller, at most.
    """
    waiting = deque[Callable[[], tuple[RemoteStore, bytes]] | FitsError]()
    with ExitStack() as stack:
        groups: dict[int, tuple[RequestGroup, asyncio.Semaphore]] = {}

        def start(place: Place) -> Callable[[], tuple[RemoteStore, bytes]]:
            with storage_errors(place.url, place.options):
                file = _RemoteFile(place.url, place.options, transfer, place.filesystem)
                if id(file.loop) not in groups:
                    group = stack.enter_context(RequestGroup(file.loop))
                    groups[id(file.loop)] = group, asyncio.Semaphore(most)
                group, semaphore = groups[id(file.loop)]
                future = group.start(_one_of(semaphore, file.first(count)))

            def finish() -> tuple[RemoteStore, bytes]:
                with storage_errors(place.url, place.options):
                    version, first = result_of(future)
                return _opened(file, place, version, transfer), bytes(first)

            return finish

        for place in places:
            waiting.append(result_or_error(partial(start, place)))
            if len(waiting) > ahead:
                yield _finish(waiting.popleft())
        while waiting:
            yield _finish(waiting.popleft())


async def _one_of(semaphore: asyncio.Semaphore, request: Awaitable[_T]) -> _T:
    """Make a request once there are few enough others."""
    async with semaphore:
        return await request


def _finish(
    opening: Callable[[], tuple[RemoteStore, bytes]] | FitsError,
) -> tuple[RemoteStore, bytes] | FitsError:
    """Wait for a file that is looked up; return the error if that fails."""
    return opening if isinstance(opening, FitsError) else result_or_error(opening)


def _opened(
    file: _RemoteFile, place: Place, version: FileVersion, transfer: TransferConfig
) -> RemoteStore:
    """Make the store of a file that has been looked up."""
    if not transfer.check_version:
        version = FileVersion(version.size, encoding=version.encoding)
    elif version.size and not version.kind and transfer.warn_unversioned:
        # The text names the server, not the file: Python's filters show it once for all its files.
        warnings.warn(
            f"{_server_of(redact_url(place.url))} tells neither ETag nor modification time: that a "
            "file is replaced by one of the same length while it is read cannot be noticed there "
            "(silence this with transfer=TransferConfig(warn_unversioned=False))",
            UnversionedFileWarning,
            stacklevel=4,  # who called dask_fits.open
        )
    return _store_of(file, place, version, transfer)


def known_remote(place: Place, version: FileVersion, transfer: TransferConfig) -> RemoteStore:
    """Make the store of a version of a file that is known from before; makes no request.

    Raises
    ------
    MissingDriverError, StorageError
        The filesystem cannot be made.
    """
    with storage_errors(place.url, place.options):
        file = _RemoteFile(place.url, place.options, transfer, place.filesystem)
    return _store_of(file, place, version, transfer)


def _store_of(
    file: _RemoteFile, place: Place, version: FileVersion, transfer: TransferConfig
) -> RemoteStore:
    """Make the store of a version of a file."""
    return RemoteStore(
        url=place.url,
        version=version,
        options=place.options,
        transfer=transfer,
        parallel=file.transport.parallel,
        filesystem=place.filesystem,
    )


def _server_of(name: str) -> str:
    """Return scheme and host of a redacted URL; of a chained one, those of the last link."""
    server = urlsplit(split_chain(name)[-1])
    return f"{server.scheme}://{server.netloc}"


def _may_start(nbytes_ahead: int, pieces_in_flight: int, max_pieces: int) -> bool:
    """Return whether another piece may be requested; the first one always, however long it is."""
    return not pieces_in_flight or (nbytes_ahead <= _READ_AHEAD and pieces_in_flight < max_pieces)


class _RemoteFile:
    """The requests to one file: made in the event loop, and retried after a transient fault."""

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any],
        transfer: TransferConfig,
        filesystem: FileSystem | None = None,
    ) -> None:
        self.transport, self.loop = connect(url, options, transfer, filesystem)
        self._url = url
        self._name = redact_url(url)
        self._hint = access_hint(url)
        self._options = options
        self._transfer = transfer
        self._server = f"{_server_of(self._name)} {options.get('endpoint_url', '')}"
        self._version_lock = asyncio.Lock()
        self._current_version: FileVersion | None = None

    async def first(self, count: int) -> tuple[FileVersion, memoryview]:
        """Request the file's version, whichever it is, and up to `count` of its first bytes."""
        request = self._request(ByteRange(0, count), FileVersion(0))
        return await self._retry(lambda: self.transport.first(request), self._name)

    async def read(self, part: ByteRange, buffer: memoryview, version: FileVersion) -> None:
        """Read a part of the file into its place in a buffer, if the file is this version."""
        label = f"{self._name}: bytes {part.start} to {part.stop}"
        request = self._request(part, version)
        refusal = ""
        # The second time is for a server that refuses any condition: it has none then.
        for _ in range(2):
            request = replace(request, conditional=self._server not in _WITHOUT_CONDITIONS)
            try:
                return await self._retry(partial(self.transport.read, request, buffer), label)
            except PreconditionFailedError as error:
                refusal = str(error)
            await self._check_refusal(version, refusal)
        raise changed_error(self._name, found=f"another version ({refusal})", expected=version)

    async def _check_refusal(self, version: FileVersion, refusal: str) -> None:
        """Raise FileChangedError if the file did change; else drop the condition for its server.

        From then on this process reads every file of the server without the condition: each
        response reports its version.
        """
        # One request for all parts of a read that are refused at the same time.
        async with self._version_lock:
            try:
                if self._current_version is None:
                    self._current_version, _ = await self.first(1)
            except Exception:  # noqa: BLE001 (that the file changed is what matters)
                current = None
            else:
                current = self._current_version
        if current is None or not version.matches(current):
            found = f"{current or 'another version'} ({refusal})"
            raise changed_error(self._name, found=found, expected=version)
        _WITHOUT_CONDITIONS.add(self._server)

    async def check_version(self, version: FileVersion) -> None:
        """Raise FileChangedError if the file is no longer the version that was read."""
        current, _ = await self.first(0)
        if not version.matches(current):
            raise changed_error(self._name, found=current, expected=version)

    def _request(self, byte_range: ByteRange, version: FileVersion) -> Request:
        """Return a request for bytes of this file."""
        return Request(
            name=self._name,
            byte_range=byte_range,
            version=version,
            timeout=self._transfer.timeout,
            access_hint=self._hint,
        )

    async def _retry(self, request: Callable[[], Awaitable[_T]], label: str) -> _T:
        """Make a request, again after each transient fault; messages begin with the label."""

        def is_transient(error: Exception) -> bool:
            if isinstance(error, FitsError):  # they are errors for users, so final
                return False
            return isinstance(error, TransientError) or self.transport.is_transient(error)

        def describe(error: Exception) -> str:
            return f"{label}: {describe_error(error, self._url, self._options)}"

        return await retrying(
            request, config=self._transfer, is_transient=is_transient, describe=describe
        )
