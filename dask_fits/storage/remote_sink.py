"""A file that is not on a mounted disk, and that many tasks write, in parts."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from dask_fits._typing import FileSystem
from dask_fits.concurrency.cancellation import CancelScope, result_of
from dask_fits.exceptions import AccessDeniedError, FitsError, StorageError
from dask_fits.storage.errors import describe_error, storage_errors
from dask_fits.storage.filesystem import connect_for_writing
from dask_fits.storage.place import Place
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.request_group import RequestGroup
from dask_fits.storage.sink import (
    Attempt,
    Piece,
    Receipt,
    check_receipts,
    exists_error,
    new_token,
)
from dask_fits.storage.transfer import TransferConfig, TransientError, retrying
from dask_fits.storage.uploads import (
    Body,
    ConflictError,
    Part,
    TargetExistsError,
    Unfinished,
    UploadGoneError,
)

_T = TypeVar("_T")

_MIB = 1 << 20

_AHEAD = 64 * _MIB
"""Bytes that one task has on their way at most."""

_PATIENCE = 20
"""Times `TransferConfig.timeout` that a commit may take: of thousands of parts it takes minutes."""

_ABORTS = 5
"""Times that an abort is repeated while parts that were on their way still arrive."""


@dataclass(frozen=True, slots=True)
class RemoteSink:
    """A file that is uploaded in parts of one length, and made of them at the end."""

    url: str
    """URL, secrets included."""
    options: dict[str, Any]
    """fsspec storage options; they may hold secrets and are never shown."""
    filesystem: FileSystem | None
    """The fsspec filesystem itself, if URL and options do not describe it."""
    transfer: TransferConfig
    overwrite: bool
    smallest_part: int
    """Bytes that each part but the last must have."""
    most_parts: int

    def __repr__(self) -> str:
        return f"RemoteSink({self.name!r})"

    @property
    def name(self) -> str:
        """Redacted URL."""
        return redact_url(self.url)

    def part_size(self, size: int) -> int:
        """Return the length of each part but the last, a whole number of MiB."""
        least = max(self.transfer.part_size, self.smallest_part, -(-size // self.most_parts))
        return -(-least // _MIB) * _MIB

    def begin(self, size: int) -> Attempt:
        """Look the file up if it must not be replaced, and begin an upload."""
        part_size = self.part_size(size)
        token = new_token()
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self)
            with RequestGroup(file.loop) as requests:
                exists = not self.overwrite and requests.wait(file.exists())
                # A short file is one request of the commit.
                place = ""
                if not exists and size > part_size:
                    place = requests.wait(file.begin(token))
                    try:
                        requests.wait(file.mark(place))
                    except BaseException:
                        with suppress(Exception):
                            self._remove(place, times=_ABORTS)
                        raise
        if exists:
            raise exists_error(self.name)
        return Attempt(token, place, size, part_size, socket.gethostname())

    def write(self, attempt: Attempt, pieces: Iterable[Piece]) -> list[Receipt]:
        """Upload parts, several at a time; the first one is kept for the commit."""
        host = socket.gethostname()
        noted = (
            (Receipt(attempt.token, start, len(piece), host=host), piece) for start, piece in pieces
        )
        receipts: list[Receipt] = []
        in_flight: deque[tuple[Receipt, Future[str]]] = deque()
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self)
            try:
                self._upload(file, attempt, noted, receipts, in_flight)
            except UploadGoneError as error:
                # A task may run again after the commit, if a worker was lost with its results.
                with RequestGroup(file.loop) as requests:
                    if not requests.wait(file.is_made(attempt, b"")):
                        raise self._gone_error(error) from error
                receipts += [sent for sent, _ in in_flight]
                receipts += [receipt for receipt, _ in noted]
        return receipts

    def _upload(
        self,
        file: _RemoteFile,
        attempt: Attempt,
        noted: Iterable[tuple[Receipt, memoryview]],
        receipts: list[Receipt],
        in_flight: deque[tuple[Receipt, Future[str]]],
    ) -> None:
        """Upload parts; `receipts` gets those that are there, `in_flight` those on their way.

        Raises
        ------
        UploadGoneError
            The upload is over.
        """
        ahead = 0

        def settle() -> int:
            sent, future = in_flight[0]
            receipts.append(replace(sent, tag=result_of(future)))
            in_flight.popleft()
            return sent.nbytes

        # An error, also one of the caller's in making a piece, cancels what is on its way.
        with RequestGroup(file.loop) as requests:
            for receipt, piece in noted:
                if receipt.start == 0:
                    receipts.append(replace(receipt, content=bytes(piece)))
                    continue
                while in_flight and ahead + len(piece) > _AHEAD:
                    ahead -= settle()
                number = receipt.start // (attempt.part_size or attempt.size) + 1
                request = file.put(attempt.place, number, Body(piece))
                in_flight.append((receipt, requests.start(request)))
                ahead += len(piece)
            while in_flight:
                settle()
            # A task may go on after its computation has failed, and the upload was aborted.
            if any(sent.start for sent in receipts):
                requests.wait(file.check(attempt.place))

    def commit(self, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
        """Upload the first part, and make the file of all; see `Sink.commit`."""
        check_receipts(self.name, attempt, receipts)
        ordered = sorted(receipts, key=lambda receipt: receipt.start)
        exists = False
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self)
            with RequestGroup(file.loop) as requests:
                try:
                    requests.wait(file.commit(attempt, ordered))
                except (TargetExistsError, UploadGoneError, ConflictError, StorageError) as error:
                    # An earlier request of ours may have made it, whose answer was lost.
                    if not requests.wait(file.is_made(attempt, ordered[0].content)):
                        if isinstance(error, StorageError):
                            raise
                        exists = not self.overwrite and (
                            isinstance(error, TargetExistsError)
                            or (isinstance(error, ConflictError) and requests.wait(file.exists()))
                        )
                        if not exists:
                            raise self._commit_error(error) from error
        if exists:
            raise exists_error(self.name)
        if attempt.place and file.keeps_parts:
            with suppress(Exception):
                self._remove(attempt.place, times=1)

    def abort(self, attempt: Attempt) -> None:
        """Remove the upload and its parts, and those that arrive while it does."""
        if attempt.place:
            with suppress(Exception):
                self._remove(attempt.place, times=_ABORTS)

    def unfinished(self) -> list[Unfinished]:
        """List the uploads of this file that are ours, and neither committed nor aborted."""
        with storage_errors(self.url, self.options):
            file = _RemoteFile(self)
            with RequestGroup(file.loop) as requests:
                return requests.wait(file.unfinished())

    def remove(self, place: str) -> None:
        """Abort an upload that `unfinished` lists."""
        self._remove(place, times=_ABORTS)

    def _gone_error(self, error: UploadGoneError) -> StorageError:
        """Build the error for an upload that is over."""
        return StorageError(f"{self.name}: the upload is gone ({error}): it was aborted")

    def _commit_error(self, error: Exception) -> StorageError:
        """Build the error for a file that could not be made of its parts."""
        if isinstance(error, UploadGoneError):
            return self._gone_error(error)
        if isinstance(error, ConflictError):
            what = f"another request for it came between ({error}): write it again"
        else:
            what = f"the storage refuses to make it ({error})"
        return StorageError(f"{self.name}: {what}")

    def _remove(self, place: str, *, times: int) -> None:
        """Abort an upload, again while parts that were on their way still arrive."""
        # In a context of its own, since it has to be done after an interruption, too.
        copy_context().run(self._remove_now, place, times)

    def _remove_now(self, place: str, times: int) -> None:
        with CancelScope(), storage_errors(self.url, self.options):
            file = _RemoteFile(self)
            with RequestGroup(file.loop) as requests:
                for n in range(times):
                    if requests.wait(file.abort(place)) or n == times - 1:
                        return
                    time.sleep(0.1 * 2**n)


def remote_sink(place: Place, transfer: TransferConfig, *, overwrite: bool) -> RemoteSink:
    """Return the sink of a file that is not on a mounted disk; makes no request.

    Raises
    ------
    MissingDriverError, StorageError
        The filesystem cannot be made, or takes no files.
    """
    with storage_errors(place.url, place.options):
        uploads, _ = connect_for_writing(place.url, place.options, transfer, place.filesystem)
    return RemoteSink(
        place.url,
        place.options,
        place.filesystem,
        transfer,
        overwrite,
        uploads.smallest_part,
        uploads.most_parts,
    )


class _RemoteFile:
    """The requests for one file: made in the event loop, and retried after a transient fault."""

    def __init__(self, sink: RemoteSink) -> None:
        self._uploads, self.loop = connect_for_writing(
            sink.url, sink.options, sink.transfer, sink.filesystem
        )
        self._sink = sink
        self.keeps_parts = self._uploads.keeps_parts

    async def exists(self) -> bool:
        """Return whether the file is known to be there."""
        try:
            return await self._retry(self._uploads.exists, "looking it up")
        except AccessDeniedError:
            # A user may be allowed to write and not to read. Else the next request is refused, too.
            return False

    async def is_made(self, attempt: Attempt, content: bytes) -> bool:
        """Return whether an attempt is known to have made the file.

        `content` is all of it if it was written in one request; see `Uploads.is_made`.
        """
        md5 = b"" if attempt.place else Body(content).md5
        request = partial(self._uploads.is_made, attempt.token, attempt.size, md5)
        try:
            return await self._retry(request, "looking it up")
        except AccessDeniedError:
            return False

    async def begin(self, token: str) -> str:
        """Begin an upload, and return its id."""
        return await self._retry(partial(self._uploads.begin, token), "beginning an upload")

    async def mark(self, place: str) -> None:
        """Mark an upload as ours."""
        await self._retry(partial(self._uploads.mark, place), "beginning an upload")

    async def put(self, place: str, number: int, body: Body) -> str:
        """Upload a part, and return what the storage calls it; UploadGoneError if it is late."""
        request = partial(self._uploads.put, place, number, body)
        return await self._retry(request, f"part {number}", body=body)

    async def check(self, place: str) -> None:
        """Raise UploadGoneError if an upload was over when parts of it came."""
        await self._retry(partial(self._uploads.check, place), "looking the upload up")

    async def commit(self, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
        """Upload what the receipts hold, and make the file of all parts."""
        overwrite = self._sink.overwrite
        if not attempt.place:
            body = Body(receipts[0].content)
            request = partial(self._uploads.put_whole, attempt.token, body, overwrite=overwrite)
            await self._retry(request, "writing it", body=body)
            return
        parts = []
        for number, receipt in enumerate(receipts, 1):
            tag = receipt.tag
            if receipt.content:
                tag = await self.put(attempt.place, number, Body(receipt.content))
            parts.append(Part(number, receipt.nbytes, tag))
        commit = partial(
            self._uploads.commit, attempt.place, attempt.token, parts, overwrite=overwrite
        )
        await self._retry(commit, "completing the upload", patience=_PATIENCE)

    async def abort(self, place: str) -> bool:
        """Remove an upload; return whether it is gone for good."""
        request = partial(self._uploads.abort, place)
        return await self._retry(request, "aborting the upload", patience=_PATIENCE)

    async def unfinished(self) -> list[Unfinished]:
        """List the uploads of ours that were begun and not ended."""
        return await self._retry(self._uploads.unfinished, "listing uploads")

    async def _retry(
        self,
        request: Callable[[], Awaitable[_T]],
        label: str,
        *,
        body: Body | None = None,
        patience: int = 1,
    ) -> _T:
        """Make a request, again after each transient fault; messages begin with the label."""
        timeout = self._sink.transfer.timeout * patience if self._uploads.is_timed else None
        body = Body(b"") if body is None else body

        async def timed() -> _T:
            try:
                async with body.timed(timeout):
                    return await request()
            except TimeoutError as error:
                raise TransientError(f"no bytes were taken for {timeout} s") from error

        def is_transient(error: Exception) -> bool:
            if isinstance(error, (FitsError, TargetExistsError, UploadGoneError, ConflictError)):
                return False
            return isinstance(error, TransientError) or self._uploads.is_transient(error)

        def describe(error: Exception) -> str:
            described = describe_error(error, self._sink.url, self._sink.options)
            return f"{self._sink.name}: {label}: {described}"

        return await retrying(
            timed, config=self._sink.transfer, is_transient=is_transient, describe=describe
        )
