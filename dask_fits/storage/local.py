"""Files on a mounted disk."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dask_fits.exceptions import TruncatedFileError
from dask_fits.storage.byte_range import ByteRange, Coalescing
from dask_fits.storage.cost import DEFAULT_COST
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.stamp import Stamp, changed, check_within

LOCAL_BLOCK = 1024 * 1024
"""Bytes that a local read hands over at a time: small enough to be converted from cache."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A file on a mounted disk, read by positioned reads on a descriptor of each call's own."""

    url: str
    """Absolute path."""
    stamp: Stamp

    @property
    def name(self) -> str:
        """The path or URL as it may be shown."""
        return self.url

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
        check_within(self.name, ranges[-1], self.stamp)
        longest = max(r.nbytes for r in ranges)
        scratch = memoryview(bytearray(longest if whole else min(longest, LOCAL_BLOCK)))
        with storage_errors(self.url, {}):
            descriptor = os.open(self.url, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                self._check(descriptor)
                for wanted in ranges:
                    for start in range(wanted.start, wanted.stop, len(scratch)):
                        piece = scratch[: min(len(scratch), wanted.stop - start)]
                        self._fill(descriptor, start, piece)
                        yield start, piece
                self._check(descriptor)  # it may be rewritten in place while it is read
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        found = _stamp(os.fstat(descriptor))
        if found != self.stamp:
            raise changed(self.url, found=found, expected=self.stamp)

    def _fill(self, descriptor: int, start: int, piece: memoryview) -> None:
        done = 0
        while done < len(piece):
            count = os.preadv(descriptor, [piece[done:]], start + done)
            if count == 0:
                raise TruncatedFileError(
                    f"{self.url}: the file ended at byte {start + done} while bytes "
                    f"{start} to {start + len(piece)} were read"
                )
            done += count


def open_local(path: str, *, count: int) -> tuple[LocalStore, bytes]:
    """Look a file up and read up to `count` of its first bytes.

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, StorageError
    """
    with storage_errors(path, {}):
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError("is a directory, not a file")
    store = LocalStore(path, _stamp(found))
    first = ByteRange(0, min(count, store.stamp.size))
    return store, b"".join(bytes(data) for _, data in store.read_ranges([first], whole=True))


def _stamp(found: os.stat_result) -> Stamp:
    # No inode number: on network and FUSE mounts it differs from node to node.
    return Stamp(found.st_size, "mtime_ns", str(found.st_mtime_ns))
