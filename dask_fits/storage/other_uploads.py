"""Files on any other filesystem of fsspec, which takes a file only from its first byte to its last.

Parts are files of their own, in a directory beside the file. At the end one process reads them
back, one after the other, into one stream with a temporary name, which is then renamed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import IO

from dask_fits._typing import FileSystem
from dask_fits.storage.atomic import is_temporary_name, temporary_name
from dask_fits.storage.errors import status_of
from dask_fits.storage.other import is_transient_in_driver, run_in_thread
from dask_fits.storage.response import TRANSIENT_STATUSES
from dask_fits.storage.transfer import TransientError
from dask_fits.storage.uploads import (
    Body,
    Part,
    TargetExistsError,
    Unfinished,
    UploadGoneError,
)

_MARK = "begun"
"""Name of the file that is there until an upload is committed or aborted."""

_TRANSIENT = frozenset(
    ("httpx.TransportError", "webdav4.BadGatewayError", "webdav4.ResourceLocked")
)
"""Errors of WebDAV's driver, which need not be installed, that are no OSError."""


class OtherUploads:
    """Parts of one file, each of which is a file.

    The place of an upload is the path of the directory of its parts. All methods of the driver are
    called in a thread, since an open file is none of the event loop.
    """

    # Each byte of a longer file is sent twice and read back once, so short ones are sent whole.
    smallest_part = 64 * 1024 * 1024
    most_parts = 1_000_000
    is_timed = False
    keeps_parts = True

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path
        self._is_renaming = False

    async def exists(self) -> bool:
        """Return whether the file is there."""
        return await run_in_thread(self._exists)

    async def is_made(self, token: str, nbytes: int, md5: bytes) -> bool:
        """Return False: files do not tell which attempt wrote them."""
        del token, nbytes, md5
        return False

    async def begin(self, token: str) -> str:
        """Make the directory of the parts."""
        place = self._beside(token)
        await run_in_thread(lambda: self._fs.makedirs(place, exist_ok=True))
        return place

    async def mark(self, place: str) -> None:
        """Write an empty file that is there for as long as the upload is."""
        await run_in_thread(lambda: self._fs.pipe_file(f"{place}/{_MARK}", b""))

    async def put(self, place: str, number: int, body: Body) -> str:
        """Write a part as a file, and check its length."""
        path = self._part(place, number)
        await run_in_thread(lambda: self._write(path, body.getvalue()))
        return f"{zlib.crc32(body.getbuffer()):08x}"

    async def check(self, place: str) -> None:
        """Look the mark up: where directories are only names, a part brings its own back."""

        def look() -> bool:
            self._fs.invalidate_cache()
            if self._fs.exists(f"{place}/{_MARK}"):
                return True
            with suppress(FileNotFoundError):
                self._fs.rm(place, recursive=True)
            return False

        if not await run_in_thread(look):
            raise UploadGoneError("its temporary files were removed")

    async def put_whole(self, token: str, body: Body, *, overwrite: bool) -> None:
        """Write a file under a temporary name, and rename it."""

        def write() -> None:
            temporary = self._beside(token)
            if self._is_renamed(temporary, body.nbytes):
                return
            try:
                self._write(temporary, body.getvalue())
                self._rename(temporary, body.nbytes, overwrite=overwrite)
            except BaseException:
                with suppress(Exception):
                    self._discard(temporary)
                raise

        await run_in_thread(write)

    async def commit(
        self, place: str, token: str, parts: Sequence[Part], *, overwrite: bool
    ) -> None:
        """Join the parts in one stream under a temporary name, and rename it."""
        del token
        size = sum(part.nbytes for part in parts)

        def join() -> None:
            temporary = f"{place}/joined"
            if self._is_renamed(temporary, size):
                return
            with self._fs.open(temporary, "wb") as file:
                for part in parts:
                    self._copy_part(place, part, file)
            self._check_size(temporary, size)
            self._rename(temporary, size, overwrite=overwrite)

        await run_in_thread(join)

    async def abort(self, place: str) -> bool:
        """Remove the parts; one that was on its way may still come."""

        def remove() -> bool:
            self._fs.invalidate_cache()
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{place}/{_MARK}")
            self._fs.invalidate_cache()
            if not self._fs.exists(place):
                return True
            self._fs.rm(place, recursive=True)
            return False

        return await run_in_thread(remove)

    async def unfinished(self) -> list[Unfinished]:
        """List the directories of parts, and the temporary files, of the file."""
        path = PurePosixPath(self._path)

        def listed() -> list[Unfinished]:
            self._fs.invalidate_cache()
            places = [str(info["name"]) for info in self._fs.ls(str(path.parent), detail=True)]
            return [
                Unfinished(place, None)
                for place in places
                if is_temporary_name(PurePosixPath(place).name, path.name)
            ]

        return await run_in_thread(listed)

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of a driver's exception may be over at the next attempt."""
        names = {
            f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(error).__mro__
        }
        # A response is httpx's; a directory is locked while another part is written into it.
        status = status_of(error) or getattr(getattr(error, "response", None), "status_code", None)
        return (
            is_transient_in_driver(error)
            or status in (*TRANSIENT_STATUSES, HTTPStatus.LOCKED)
            or not _TRANSIENT.isdisjoint(names)
        )

    def _beside(self, token: str) -> str:
        """Return the path of what is temporary, beside the file."""
        path = PurePosixPath(self._path)
        return str(path.with_name(temporary_name(path.name, token)))

    def _part(self, place: str, number: int) -> str:
        return f"{place}/{number:06}"

    def _exists(self) -> bool:
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path))

    def _write(self, path: str, content: bytes) -> None:
        """Write a file, and check its length."""
        self._fs.pipe_file(path, content)
        self._check_size(path, len(content))

    def _copy_part(self, place: str, part: Part, file: IO[bytes]) -> None:
        """Read a part back, check it, and write it to the stream."""
        content = self._fs.cat_file(self._part(place, part.number))
        if len(content) != part.nbytes or f"{zlib.crc32(content):08x}" != part.tag:
            raise TransientError(f"part {part.number} is not read back as it was written")
        file.write(content)

    def _discard(self, temporary: str) -> None:
        """Remove a temporary file, unless it was renamed."""
        self._fs.invalidate_cache()
        if self._fs.exists(temporary):
            self._fs.rm_file(temporary)
            self._is_renaming = False

    def _rename(self, temporary: str, size: int, *, overwrite: bool) -> None:
        """Give a temporary file its name."""
        if not overwrite and self._exists():
            raise TargetExistsError
        self._is_renaming = True
        # A move of the server's own replaces a file, where the driver's `mv` copies and refuses.
        move = getattr(getattr(self._fs, "client", None), "move", None)
        if move is not None:  # webdav4
            try:
                move(temporary, self._path, overwrite=overwrite)
            except Exception as error:
                if type(error).__name__ == "ResourceAlreadyExists":
                    raise TargetExistsError from error
                raise
        else:
            self._fs.mv(temporary, self._path)
        self._check_size(self._path, size)

    def _is_renamed(self, temporary: str, size: int) -> bool:
        """Return whether an earlier attempt has renamed the file, and its answer was lost."""
        if not self._is_renaming:
            return False
        self._fs.invalidate_cache()
        if self._fs.exists(temporary):
            return False
        return self._exists() and self._fs.info(self._path).get("size") in (None, size)

    def _check_size(self, path: str, size: int) -> None:
        """Raise TransientError unless a file has the length that was written."""
        self._fs.invalidate_cache()
        found = self._fs.info(path).get("size")
        if found not in (None, size):
            raise TransientError(f"the storage has {found} bytes, expected {size}")
