"""Any other filesystem of fsspec: WebDAV, FTP, SFTP, Azure, memory, zip, tar, ..."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from dask_fits._typing import FileSystem
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.errors import status_of
from dask_fits.storage.response import TRANSIENT_STATUSES, Request, unknown_size_error
from dask_fits.storage.transfer import TransientError
from dask_fits.storage.version import FileVersion, changed_error

_T = TypeVar("_T")

_VERSION_KEYS = (
    "ETag",
    "etag",
    "VersionId",
    "version_id",
    "generation",
    "md5Hash",
    "content_hash",
    "CRC",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "modified",
    "modify",
    "created",
    "date_time",
)
"""Keys of filesystems' metadata whose value changes when the file does, the most reliable first."""

_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Exceptions that the next attempt would raise again."""


class OtherTransport:
    """One file of a filesystem without conditional requests, whose version is checked after a read.

    A filesystem that is not asynchronous gets one request at a time, in a thread, with the
    time-outs of its driver.
    """

    reports_version = False

    def __init__(self, fs: FileSystem, path: str) -> None:
        self._fs = fs
        self._path = path

    @property
    def parallel(self) -> bool:
        """Whether the filesystem is asynchronous."""
        return bool(self._fs.async_impl)

    async def first(self, request: Request) -> tuple[FileVersion, memoryview]:
        """Request the file's metadata, then its first bytes, unless none are requested."""
        version = await self._request_version(request)
        byte_range = ByteRange(0, min(request.byte_range.stop, version.size))
        buffer = memoryview(bytearray(byte_range.nbytes))
        if byte_range.nbytes:
            await self.read(replace(request, byte_range=byte_range, version=version), buffer)
        return version, buffer

    async def read(self, request: Request, buffer: memoryview) -> None:
        """Read a range into a buffer."""
        start = request.byte_range.start
        stop = request.byte_range.stop
        # By keyword: the second positional argument of some drivers is not `start`.
        async with self._timeout(request):
            data = await self._call("cat_file", self._path, start=start, end=stop)
        if len(data) != stop - start:
            # Either the file has another length now, or the driver returned too much or little.
            version = await self._request_version(request)
            if not request.version.matches(version):
                raise changed_error(request.name, found=version, expected=request.version)
            raise TransientError(f"{len(data)} bytes came of the {stop - start} asked for")
        buffer[:] = data

    def is_transient(self, error: Exception) -> bool:
        """Return whether the fault of a driver's exception may be over at the next attempt."""
        return is_transient_in_driver(error)

    async def _request_version(self, request: Request) -> FileVersion:
        """Request the file's metadata, and return the version by them."""
        # A listing that the filesystem keeps from before may be of an older version.
        self._fs.invalidate_cache(self._path)
        async with self._timeout(request):
            info = await self._call("info", self._path)
        if info.get("type") == "directory":
            raise IsADirectoryError("is a directory, not a file")
        if info.get("size") is None:
            raise unknown_size_error(request.name)
        return version_from_info(info)

    def _timeout(self, request: Request) -> asyncio.Timeout:
        """Limit the time of an asynchronous call; a thread cannot be ended, so it has no limit."""
        return asyncio.timeout(request.timeout if self.parallel else None)

    async def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.parallel:
            return await getattr(self._fs, f"_{method}")(*args, **kwargs)
        return await run_in_thread(partial(getattr(self._fs, method), *args, **kwargs))


def is_transient_in_driver(error: Exception) -> bool:
    """Return whether the fault of any driver's exception may be over at the next attempt."""
    if (status := status_of(error)) is not None:
        return status in TRANSIENT_STATUSES
    return isinstance(error, (OSError, EOFError)) and not isinstance(error, _PERMANENT)


async def run_in_thread(call: Callable[[], _T]) -> _T:
    """Run a call in a daemon thread: the process would wait for one of the event loop's pool."""
    future: Future[_T] = Future()
    # A running future cannot be cancelled, so that setting its result never raises.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 (it is raised again by `wrap_future`)
            future.set_exception(error)

    threading.Thread(target=run, name="dask_fits-driver", daemon=True).start()
    return await asyncio.wrap_future(future)


def version_from_info(info: Mapping[str, Any]) -> FileVersion:
    """Return the version by a filesystem's metadata of a file."""
    size = int(info["size"])
    kind = next((key for key in _VERSION_KEYS if info.get(key)), "")
    return FileVersion(size, kind, str(info[kind])) if kind else FileVersion(size)
