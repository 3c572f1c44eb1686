"""A file on a mounted disk that many tasks write, at positions."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.exceptions import StorageError
from dask_fits.storage.atomic import check_is_free, publish, temporary_path
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.place import utf8_name
from dask_fits.storage.sink import (
    Attempt,
    Piece,
    Receipt,
    Sample,
    check_receipts,
    new_token,
)

_CLOSE_ON_EXEC = getattr(os, "O_CLOEXEC", 0)

_SAMPLE = 4096
"""Bytes at the beginning and at the end of what a task writes that are noted, to be known again."""


@dataclass(frozen=True, slots=True)
class LocalSink:
    """A file on a disk that all tasks reach: a temporary one beside it, which is renamed.

    A link is followed: the file that it leads to is the one that is replaced.
    """

    path: str
    """Absolute path."""
    overwrite: bool

    @property
    def name(self) -> str:
        """The path, as UTF-8."""
        return utf8_name(self.path)

    @property
    def target(self) -> Path:
        """The file itself, if the path is a link."""
        return Path(os.path.realpath(self.path))

    def part_size(self, size: int) -> None:
        """Return None: pieces may lie anywhere."""
        del size

    def begin(self, size: int) -> Attempt:
        """Make the temporary file, sparse; see `Sink.begin`."""
        target = self.target
        check_is_free(target, overwrite=self.overwrite)
        token = new_token()
        part = temporary_path(target, token)
        with storage_errors(self.name, {}):
            if not target.parent.is_dir():
                raise StorageError(f"{self.name}: there is no directory {target.parent}")
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOSE_ON_EXEC, 0o666)
            try:
                try:
                    os.ftruncate(descriptor, size)
                finally:
                    os.close(descriptor)
            except BaseException:
                with suppress(OSError):
                    part.unlink()
                raise
        return Attempt(token, str(part), size, None, _host())

    def write(self, attempt: Attempt, pieces: Iterable[Piece]) -> list[Receipt]:
        """Write pieces at their positions; see `Sink.write`."""
        host = _host()
        written = _Written()
        with storage_errors(self.name, {}):
            # It is not made again where it is gone: nobody would remove it.
            descriptor, put = self._open(attempt)
            try:
                for start, piece in pieces:
                    raise_if_cancelled()
                    put(descriptor, start, piece)
                    written.add(start, piece)
                # On its own machine the commit does it for all tasks. Network file systems tell now
                # that a disk is full.
                if host != attempt.host:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        return [written.receipt(attempt, host)]

    def _open(self, attempt: Attempt) -> tuple[int, Callable[[int, int, memoryview], None]]:
        """Open the temporary file, and say what to do with pieces.

        Once it has been committed, tasks may run again whose results a worker has lost: what they
        would write is in the target then.
        """
        try:
            return os.open(attempt.place, os.O_WRONLY | _CLOSE_ON_EXEC), _write_at
        except FileNotFoundError:
            with suppress(OSError):
                return os.open(self.target, os.O_RDONLY | _CLOSE_ON_EXEC), _compare_at
            raise

    def commit(self, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
        """Rename the temporary file once it is on the disk; see `Sink.commit`."""
        check_receipts(self.name, attempt, receipts)
        target = self.target
        part = Path(attempt.place)
        with storage_errors(self.name, {}):
            if not part.exists() and self._is_committed(attempt, receipts):
                return  # by the same task, whose worker was lost before it could tell
            descriptor = os.open(part, os.O_RDWR | _CLOSE_ON_EXEC)
            try:
                size = os.fstat(descriptor).st_size
                if size != attempt.size:
                    raise StorageError(
                        f"{self.name}: found {size} bytes written, expected {attempt.size}"
                    )
                self._check_is_shared(descriptor, receipts)
                with suppress(OSError):  # no such file, or one of another user
                    os.fchmod(descriptor, target.stat().st_mode & 0o7777)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if not _is_same_file(part, target):
            check_is_free(target, overwrite=self.overwrite)
            self._publish(part, target)
        with storage_errors(self.name, {}):
            part.unlink(missing_ok=True)
            _sync_directory(target.parent)

    def _publish(self, part: Path, target: Path) -> None:
        """Give the temporary file its name; an error for one that exists is Python's own."""
        try:
            publish(part, target, overwrite=self.overwrite)
        except FileExistsError:
            raise
        except OSError:
            with storage_errors(self.name, {}):
                raise

    def _check_is_shared(self, descriptor: int, receipts: Sequence[Receipt]) -> None:
        """Raise StorageError if what other machines wrote is not there.

        A mounted object store looks like one disk, but each machine has a copy of its own.
        """
        for receipt in receipts:
            if receipt.host != _host() and not _has(descriptor, receipt.samples):
                raise StorageError(
                    f"{self.name}: bytes from {receipt.start} on are not there as {receipt.host} "
                    f"wrote them: the disk is not one and the same for it and for {_host()}"
                )

    def _is_committed(self, attempt: Attempt, receipts: Sequence[Receipt]) -> bool:
        """Return whether the target is what was written: as long, and with the same samples."""
        with suppress(OSError):
            descriptor = os.open(self.target, os.O_RDONLY | _CLOSE_ON_EXEC)
            try:
                samples = [sample for receipt in receipts for sample in receipt.samples]
                return os.fstat(descriptor).st_size == attempt.size and _has(descriptor, samples)
            finally:
                os.close(descriptor)
        return False

    def abort(self, attempt: Attempt) -> None:
        """Remove the temporary file."""
        with suppress(OSError):
            Path(attempt.place).unlink(missing_ok=True)


class _Written:
    """What a task has written, for its receipt."""

    def __init__(self) -> None:
        self._start = 0
        self._nbytes = 0
        self._first: Sample | None = None
        self._last: Sample | None = None

    def receipt(self, attempt: Attempt, host: str) -> Receipt:
        """Return the receipt."""
        samples = tuple(each for each in (self._first, self._last) if each is not None)
        return Receipt(attempt.token, self._start, self._nbytes, host=host, samples=samples)

    def add(self, start: int, piece: memoryview) -> None:
        """Note a piece."""
        if self._first is None:
            self._start = start
            self._first = _sample(start, piece[:_SAMPLE])
        skipped = max(len(piece) - _SAMPLE, 0)
        # Its bytes are gone when the next piece comes.
        self._last = _sample(start + skipped, piece[skipped:])
        self._nbytes += len(piece)


def _sample(start: int, content: memoryview) -> Sample:
    return Sample(start, len(content), zlib.crc32(content))


def _has(descriptor: int, samples: Iterable[Sample]) -> bool:
    """Return whether a file has some bytes."""
    return all(
        zlib.crc32(os.pread(descriptor, sample.nbytes, sample.start)) == sample.check_sum
        for sample in samples
    )


def _is_same_file(part: Path, target: Path) -> bool:
    """Return whether the target is the temporary file already, under both of its names."""
    try:
        return part.samefile(target)
    except OSError:
        return False


def _write_at(descriptor: int, start: int, piece: memoryview) -> None:
    """Write all bytes of a piece at a position."""
    written = 0
    # One call may write fewer bytes: after a signal, on network mounts, or past 2 GiB.
    while written < len(piece):
        written += os.pwrite(descriptor, piece[written:], start + written)


def _compare_at(descriptor: int, start: int, piece: memoryview) -> None:
    """Raise FileNotFoundError unless a piece is in a file: the one to write it to is gone."""
    if os.pread(descriptor, len(piece), start) != piece:
        raise FileNotFoundError


def _sync_directory(directory: Path) -> None:
    """Have the disk keep a new name, where a directory can be asked for that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | _CLOSE_ON_EXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@lru_cache(maxsize=1)
def _host() -> str:
    """Return the name of this machine."""
    return socket.gethostname()
