"""Files on a mounted disk."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from dask_fits.exceptions import TruncatedFileError
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.ranges.cost import DEFAULT_COST
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.place import utf8_name
from dask_fits.storage.stored_file import StoredFile
from dask_fits.storage.version import FileVersion, changed_error, check_within_file

LOCAL_BLOCK = 1024 * 1024
"""Bytes that a local read yields at a time: few enough to be converted in the CPU's cache."""

_TICK = 20_000_000
"""Nanoseconds: longer than a step of the clock by which a kernel records modifications."""

_WRITE = 60_000_000_000
"""Nanoseconds: longer than one call of ``write`` takes, which moves at most 2 GiB."""


@dataclass(frozen=True, slots=True)
class LocalStore(StoredFile):
    """A file on a mounted disk, which each call opens for itself, and reads at positions."""

    url: str
    """Absolute path."""
    version: FileVersion

    @property
    def name(self) -> str:
        """The path, as UTF-8."""
        return utf8_name(self.url)

    @property
    def block_size(self) -> int:
        """Bytes that are best read at a time; see `Store.block_size`."""
        return LOCAL_BLOCK

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs are read as one range: the disk may be one of a cluster."""
        return DEFAULT_COST.coalescing

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; see `Store.read_ranges`."""
        ranges = [byte_range for byte_range in ranges if byte_range.nbytes]
        if not ranges:
            return
        check_within_file(self.name, ranges[-1], self.version)
        # One buffer for all pieces: the caller has converted a piece when it requests the next.
        longest = max(byte_range.nbytes for byte_range in ranges)
        scratch = memoryview(bytearray(longest if whole else min(longest, LOCAL_BLOCK)))
        with storage_errors(self.name, {}):
            descriptor = os.open(self.url, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                # The descriptor is one file until it is closed, even if the name gets another one.
                self._check_version(descriptor)
                _wait_for_write(descriptor, self.version)
                for byte_range in ranges:
                    for start in range(byte_range.start, byte_range.stop, len(scratch)):
                        piece = scratch[: min(len(scratch), byte_range.stop - start)]
                        self._fill(descriptor, start, piece)
                        yield start, piece
                # This file may have been rewritten in place while it was read.
                self._check_version(descriptor)
            finally:
                os.close(descriptor)

    def _check_version(self, descriptor: int) -> None:
        """Raise FileChangedError if an open file is not the version of this store."""
        version = version_from_stat(os.fstat(descriptor))
        if version != self.version:
            raise changed_error(self.name, found=version, expected=self.version)

    def _fill(self, descriptor: int, start: int, piece: memoryview) -> None:
        """Read bytes of the file into a piece of the buffer, all of it."""
        filled = 0
        # One call may read fewer bytes: after a signal, on network mounts, or past 2 GiB.
        while filled < len(piece):
            count = os.preadv(descriptor, [piece[filled:]], start + filled)
            if count == 0:
                raise TruncatedFileError(
                    f"{self.name}: the file ended at byte {start + filled} while bytes "
                    f"{start} to {start + len(piece)} were read"
                )
            filled += count


def open_local(path: str, *, count: int) -> tuple[LocalStore, bytes]:
    """Look a file up and read up to `count` of its first bytes.

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, StorageError
    """
    with storage_errors(utf8_name(path), {}):
        status = os.stat(path)  # noqa: PTH116 (a Path writes some names in another way)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError("is a directory, not a file")
        # Opening a pipe, for one, would wait for a writer that may never come.
        if not stat.S_ISREG(status.st_mode):
            raise OSError("is no regular file")
    if delay := _settling_time(status, time.time_ns()):
        time.sleep(delay / 1e9)
    store = LocalStore(path, version_from_stat(status))
    first = ByteRange(0, min(count, store.version.size))
    return store, b"".join(bytes(data) for _, data in store.read_ranges([first], whole=True))


def version_from_stat(status: os.stat_result) -> FileVersion:
    """Return the version of a file on a disk."""
    # No inode number: on network and FUSE mounts it differs from node to node.
    return FileVersion(status.st_size, "mtime_ns", str(status.st_mtime_ns))


def _settling_time(status: os.stat_result, now: int) -> int:
    """Return the nanoseconds until any further write changes the file's modification time.

    The clock by which the kernel records the time goes in steps: a write within the same step as
    the one before leaves no trace. So a version is reliable only once its step is over. The result
    is 0 unless the file was modified a moment ago.
    """
    age = now - status.st_mtime_ns
    if 0 <= age < _TICK:
        return _TICK - age
    # A modification time in the future is either one that somebody has set, which leaves the time
    # of the inode's change at the present, or one of a server whose clock is ahead of ours.
    return _TICK if age < 0 and status.st_ctime_ns > now else 0


def _wait_for_write(descriptor: int, version: FileVersion) -> None:
    """Wait until a call of ``write`` that may be in progress has ended.

    A file's modification time is set when ``write`` begins, not when it ends. Bytes that it copies
    after they were read would leave no trace. A seek for data waits for the file's lock, which
    ``write`` holds, on the usual file systems of Linux.
    """
    if time.time_ns() - int(version.value) < _WRITE:
        with suppress(OSError, AttributeError):  # not supported here, or nothing but holes
            os.lseek(descriptor, 0, os.SEEK_DATA)
