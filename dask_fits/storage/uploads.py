"""The interface of drivers that upload a file in parts, and what they have in common.

They are for the event loop of fsspec, make each request once and leave retries to their caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol


class TargetExistsError(Exception):
    """The object is there, though it was to be made only if it is not."""


class UploadGoneError(Exception):
    """There is no such upload any more: it was committed, aborted or removed."""


class ConflictError(Exception):
    """Another request for the object came between, and this one has done nothing."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part that has been uploaded."""

    number: int
    """From 1."""
    nbytes: int
    tag: str
    """What the storage calls it."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that was begun, and neither committed nor aborted."""

    place: str
    """What `Uploads.begin` returned."""
    started: datetime | None


class Uploads(Protocol):
    """Uploads of one object."""

    smallest_part: int
    """Bytes that each part but the last must have."""
    most_parts: int
    is_timed: bool
    """Whether a request can be given up; a thread of a driver cannot be ended."""
    keeps_parts: bool
    """Whether the parts are still there once the object has been made of them."""

    async def exists(self) -> bool:
        """Return whether the object is there."""

    async def is_made(self, token: str, nbytes: int, md5: bytes) -> bool:
        """Return whether the object is there that an attempt was to make.

        Parameters
        ----------
        token : str
            That of the attempt.
        nbytes : int
            Length of the object.
        md5 : bytes
            MD5 of its bytes; empty if it was made of parts.

        Raises
        ------
        StorageError
            The attempt made it, but the storage has something else than was sent.
        """

    async def begin(self, token: str) -> str:
        """Begin an upload, and return its id."""

    async def mark(self, place: str) -> None:
        """Mark an upload as ours, so that `unfinished` lists it."""

    async def put(self, place: str, number: int, body: Body) -> str:
        """Upload a part, and return what the storage calls it.

        Raises
        ------
        TransientError
            The storage has something else than was sent, or a fault that may be over next time.
        """

    async def put_whole(self, token: str, body: Body, *, overwrite: bool) -> None:
        """Upload a whole object; raise TargetExistsError if it must not be replaced.

        What it raises has left nothing but the object, if that.
        """

    async def check(self, place: str) -> None:
        """Remove parts that came after the end of their upload, and raise UploadGoneError."""

    async def commit(
        self, place: str, token: str, parts: Sequence[Part], *, overwrite: bool
    ) -> None:
        """Make the object of the parts.

        Raises
        ------
        TargetExistsError
            It is there, and must not be replaced.
        ConflictError, UploadGoneError
        """

    async def abort(self, place: str) -> bool:
        """Remove an upload and its parts; return whether it is gone for good."""

    async def unfinished(self) -> list[Unfinished]:
        """List the uploads of this object that are ours, and neither committed nor aborted."""

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of a driver's exception may be over at the next attempt."""


class Body(io.BytesIO):
    """Bytes that are sent, which notice that they are taken.

    A request times out if none were taken for so long; how long all of them take does not matter.
    """

    def __init__(self, content: bytes | memoryview, inner: Body | None = None) -> None:
        super().__init__(content)
        self.nbytes = len(content)
        self._deadline: asyncio.Timeout | None = None
        self._seconds = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inner: Body = inner or self

    @cached_property
    def md5(self) -> bytes:
        """MD5 of the bytes; of those between others, theirs alone."""
        if self._inner is not self:
            return self._inner.md5
        return hashlib.md5(self.getbuffer(), usedforsecurity=False).digest()

    async def hashed(self) -> bytes:
        """Return the MD5; it is made in a thread, since it takes longer than the loop has time."""
        return await asyncio.to_thread(lambda: self.md5)

    def between(self, before: bytes, after: bytes) -> Body:
        """Return the same bytes between others, whose taking counts for these."""
        return Body(b"".join((before, self.getbuffer(), after)), self)

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes, and give the request another time-out."""
        # The client reads in another thread than that of the loop.
        if (loop := self._inner._loop) is not None:  # noqa: SLF001 (of this class)
            loop.call_soon_threadsafe(self._inner._extend)  # noqa: SLF001
        return super().read(size)

    @asynccontextmanager
    async def timed(self, seconds: float | None) -> AsyncIterator[None]:
        """Raise TimeoutError once no bytes have been taken for some seconds; never if None."""
        self.seek(0)
        self._loop = None if seconds is None else asyncio.get_running_loop()
        self._seconds = seconds or 0.0
        try:
            async with asyncio.timeout(seconds) as self._deadline:
                yield
        finally:
            self._deadline = self._loop = None

    def close(self) -> None:
        """Do nothing: clients close what they have sent, and it may have to be sent again."""

    def _extend(self) -> None:
        deadline = self._deadline
        if deadline is not None and not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + self._seconds)
