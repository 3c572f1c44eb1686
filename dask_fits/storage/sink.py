"""The interface of sinks: where a file goes that many tasks write, whole or not at all.

A sink is a small frozen value, like a store. It holds no handle, so it can be pickled, and any task
of any process can write its pieces::

    begin --> attempt --> write, write, write, ... --> receipts --> commit     the file is there
                                                                --> abort      nothing is left

Until the commit, the target is absent or the file that was there before. Pieces that are written
twice, since a task ran again, have to be the same bytes.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

from dask_fits.exceptions import StorageError

Piece: TypeAlias = tuple[int, memoryview]
"""Position of some bytes in the file, and the bytes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to write a file, which every task of it carries."""

    token: str
    """What tells it from all other attempts."""
    place: str
    """Where its bytes are kept until the commit: the path of a file, the id of an upload."""
    size: int
    """Length of the whole file in bytes."""
    part_size: int | None
    """Length of each piece but the last; None if pieces may lie anywhere."""
    host: str
    """The machine on which it was begun."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some bytes of a file, by which it is known again."""

    start: int
    """Position of the first of them."""
    nbytes: int
    check_sum: int
    """Their CRC-32."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a task returns for pieces that it has written."""

    token: str
    """That of the attempt."""
    start: int
    """Position of the first of their bytes in the file."""
    nbytes: int
    tag: str = ""
    """What the storage calls them: an ETag, a generation."""
    host: str = ""
    """The machine that wrote them."""
    samples: tuple[Sample, ...] = ()
    """Some of the bytes, to be looked for where others wrote them."""
    content: bytes = b""
    """The bytes themselves, if the commit is to send them."""


class Sink(Protocol):
    """A file that is to be written, from any thread or process."""

    @property
    def name(self) -> str:
        """Redacted path or URL: without credentials."""

    def part_size(self, size: int) -> int | None:
        """Return the length of each piece but the last of a file of `size` bytes.

        None if pieces may lie anywhere.
        """

    def begin(self, size: int) -> Attempt:
        """Begin to write a file of `size` bytes.

        Raises
        ------
        FileExistsError
            It exists, and it was not asked to replace it.
        AccessDeniedError, FitsFileNotFoundError, StorageError
            The storage refuses or fails.
        """

    def write(self, attempt: Attempt, pieces: Iterable[Piece]) -> list[Receipt]:
        """Write pieces of the file; they have reached the storage when this returns.

        Raises
        ------
        AccessDeniedError, StorageError
            The storage refuses, is full, or failed for longer than the retries last.
        """

    def commit(self, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
        """Check that all of the file is there, and give it its name.

        Raises
        ------
        FileExistsError
            The file has come into being meanwhile, and it was not asked to replace it.
        StorageError
            Pieces are missing, or are not those of this attempt; or the storage refuses or fails.
        """

    def abort(self, attempt: Attempt) -> None:
        """Remove what was written; nothing is raised for what is not there."""


def new_token() -> str:
    """Return what tells an attempt from all others."""
    return secrets.token_hex(8)


def exists_error(name: str) -> FileExistsError:
    """Build the error for a file that must not be replaced."""
    return FileExistsError(f"{name}: the file exists, and it was not asked to replace it")


def check_receipts(name: str, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
    """Raise StorageError unless each byte of the file was written, once, in this attempt."""
    others = {receipt.token for receipt in receipts} - {attempt.token}
    if others:
        raise StorageError(
            f"{name}: found parts of {len(others)} other attempts to write the file, expected "
            "those of one: a worker was lost that had begun it; compute it again"
        )
    starts = sorted(receipt.start for receipt in receipts)
    if attempt.part_size is not None:
        expected = range(0, attempt.size, attempt.part_size)
        if starts != list(expected):
            missing = min(set(expected) - set(starts), default=None)
            raise StorageError(
                f"{name}: found {len(starts)} parts, expected {len(expected)}, each once"
                + ("" if missing is None else f"; the part at byte {missing} is missing")
            )
    elif (twice := next((a for a, b in pairwise(starts) if a == b), None)) is not None:
        raise StorageError(f"{name}: found two pieces at byte {twice}, expected each once")
    written = sum(receipt.nbytes for receipt in receipts)
    if written != attempt.size:
        raise StorageError(f"{name}: found {written} bytes written, expected {attempt.size}")
