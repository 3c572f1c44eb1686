"""Any other filesystem of fsspec: WebDAV, FTP, SFTP, Azure, memory, zip, caches, ..."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from dask_fits._typing import FileSystem
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.errors import status_of
from dask_fits.storage.response import TRANSIENT_STATUSES, Request, no_size
from dask_fits.storage.transfer import TransientError
from dask_fits.storage.version import FileVersion, changed

_STAMP_KEYS = (
    *("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "content_hash", "CRC"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "modify"),
    *("created", "date_time"),
)
"""Names under which filesystems tell what changes when a file does, the surest first."""

_CERTAIN = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class OtherTransport:
    """One file of a filesystem that takes no conditions: its version is asked for after each read.

    A filesystem that is not asynchronous gets one request at a time, with the time-outs and in the
    manner of its driver, in a thread.
    """

    confirms = False

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    @property
    def parallel(self) -> bool:
        """Whether the filesystem is asynchronous."""
        return bool(self._fs.async_impl)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Ask for the file's metadata, then read its first bytes, if any are wanted."""
        version = await self._stat(request)
        wanted = ByteRange(0, min(request.wanted.stop, version.size))
        into = memoryview(bytearray(wanted.nbytes))
        if wanted.nbytes:
            await self.read(replace(request, wanted=wanted, version=version), into)
        return version, into

    async def read(self, request: Request, into: memoryview) -> None:
        """Read a range."""
        wanted = request.wanted
        # By keyword: the second positional argument of some drivers is not `start`.
        async with self._timeout(request):
            data = await self._call("cat_file", self._path, start=wanted.start, end=wanted.stop)
        if len(data) != wanted.nbytes:
            if not request.version.matches(found := await self._stat(request)):
                raise changed(request.name, found=found, expected=request.version)
            raise TransientError(f"{len(data)} bytes came of the {wanted.nbytes} asked for")
        into[:] = data

    def is_transient(self, error: Exception) -> bool:
        """Whether an exception of a driver may be over at the next attempt."""
        if (status := status_of(error)) is not None:
            return status in TRANSIENT_STATUSES
        return isinstance(error, (OSError, EOFError)) and not isinstance(error, _CERTAIN)

    async def _stat(self, request: Request) -> FileVersion:
        self._fs.invalidate_cache(self._path)  # a listing from before may be of an older version
        async with self._timeout(request):
            info = await self._call("info", self._path)
        if info.get("type") == "directory":
            raise IsADirectoryError("is a directory, not a file")
        if info.get("size") is None:
            raise no_size(request.name)
        return _version(info)

    def _timeout(self, request: Request) -> asyncio.Timeout:
        return asyncio.timeout(request.timeout if self.parallel else None)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.parallel:
            return await getattr(self._fs, f"_{method}")(*args, **kwargs)
        return await _in_a_thread(partial(getattr(self._fs, method), *args, **kwargs))


async def _in_a_thread(call: Callable[[], Any]) -> Any:
    """Wait for a call in a thread that does not keep the process, as the event loop's would."""
    done: Future[Any] = Future()
    done.set_running_or_notify_cancel()  # from here on it has a result, wanted or not

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 (it goes on in who waits)
            done.set_exception(error)

    threading.Thread(target=run, name="dask_fits-driver", daemon=True).start()
    return await asyncio.wrap_future(done)


def _version(info: Mapping[str, Any]) -> FileVersion:
    size = int(info["size"])
    kind = next((key for key in _STAMP_KEYS if info.get(key)), "")
    return FileVersion(size, kind, str(info[kind])) if kind else FileVersion(size)
