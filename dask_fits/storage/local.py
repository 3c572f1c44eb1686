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
from dask_fits.storage.place import readable
from dask_fits.storage.version import FileVersion, changed, check_within

LOCAL_BLOCK = 1024 * 1024
"""Bytes that a local read hands over at a time: small enough to be converted from cache."""

_TICK = 20_000_000
"""Nanoseconds: longer than the clock by which a kernel notes modifications takes for a step."""

_WRITE = 60_000_000_000
"""Nanoseconds: longer than one call of ``write`` takes, which moves 2 GiB at most."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A file on a mounted disk, read by positioned reads on a descriptor of each call's own."""

    url: str
    """Absolute path."""
    version: FileVersion

    @property
    def name(self) -> str:
        """The path as it may be shown."""
        return readable(self.url)

    @property
    def part_size(self) -> None:
        """None: a range is read as one."""

    @property
    def block_size(self) -> int:
        """Bytes that are best read at a time; see `Store.block_size`."""
        return LOCAL_BLOCK

    @property
    def coalescing(self) -> Coalescing:
        """Which runs of bytes are best read as one range: the disk may be one of a cluster."""
        return DEFAULT_COST.coalescing

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; see `Store.read_ranges`."""
        ranges = [wanted for wanted in ranges if wanted.nbytes]
        if not ranges:
            return
        check_within(self.name, ranges[-1], self.version)
        longest = max(r.nbytes for r in ranges)
        scratch = memoryview(bytearray(longest if whole else min(longest, LOCAL_BLOCK)))
        with storage_errors(self.name, {}):
            descriptor = os.open(self.url, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                self._check(descriptor)
                _await_writing(descriptor, self.version)
                for wanted in ranges:
                    for start in range(wanted.start, wanted.stop, len(scratch)):
                        piece = scratch[: min(len(scratch), wanted.stop - start)]
                        self._fill(descriptor, start, piece)
                        yield start, piece
                self._check(descriptor)  # it may be rewritten in place while it is read
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        found = _version(os.fstat(descriptor))
        if found != self.version:
            raise changed(self.name, found=found, expected=self.version)

    def _fill(self, descriptor: int, start: int, piece: memoryview) -> None:
        done = 0
        while done < len(piece):
            count = os.preadv(descriptor, [piece[done:]], start + done)
            if count == 0:
                raise TruncatedFileError(
                    f"{self.name}: the file ended at byte {start + done} while bytes "
                    f"{start} to {start + len(piece)} were read"
                )
            done += count


def open_local(path: str, *, count: int) -> tuple[LocalStore, bytes]:
    """Look a file up and read up to `count` of its first bytes.

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, StorageError
    """
    with storage_errors(readable(path), {}):
        found = os.stat(path)  # noqa: PTH116 (a Path writes some names in another way)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError("is a directory, not a file")
        if not stat.S_ISREG(found.st_mode):
            raise OSError("is no regular file")  # a pipe, for one, which nobody may ever write to
    if delay := _youth(found, time.time_ns()):
        time.sleep(delay / 1e9)
    store = LocalStore(path, _version(found))
    first = ByteRange(0, min(count, store.version.size))
    return store, b"".join(bytes(data) for _, data in store.read_ranges([first], whole=True))


def _version(found: os.stat_result) -> FileVersion:
    # No inode number: on network and FUSE mounts it differs from node to node.
    return FileVersion(found.st_size, "mtime_ns", str(found.st_mtime_ns))


def _youth(found: os.stat_result, now: int) -> int:
    """Nanoseconds until a write will give the file another modification time for certain.

    The time that the kernel notes goes in steps: a write within the same step as the one before
    leaves no trace. So a version is only good once its step is over. It is, of whatever is at rest:
    only of a file that was modified a moment ago this is not 0.
    """
    age = now - found.st_mtime_ns
    if 0 <= age < _TICK:
        return _TICK - age
    # A server's clock may be ahead of ours, and only it sets the time of a change: whoever sets a
    # modification time to the future leaves that of the change at the present.
    return _TICK if age < 0 and found.st_ctime_ns > now else 0


def _await_writing(descriptor: int, version: FileVersion) -> None:
    """Wait for a call of ``write`` that is under way, where there may be one.

    A file's modification time is set when ``write`` begins, not when it is done. What it has not
    copied yet would leave no trace, unless the bytes are read after it. To look for data in a file
    waits for the file's lock, which ``write`` holds, on the usual file systems of Linux.
    """
    if time.time_ns() - int(version.value) < _WRITE:
        with suppress(OSError, AttributeError):  # none of that here, or nothing but holes
            os.lseek(descriptor, 0, os.SEEK_DATA)
