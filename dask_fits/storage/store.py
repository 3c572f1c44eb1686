"""The interface of stores: ranged reads of one version of one file.

A store is a small frozen value: the file's place, the way to reach it, and the version that it had
when it was opened. It holds no handle, so it can be pickled and used by any thread of any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.storage.version import FileVersion


class Store(Protocol):
    """One version of one file, readable by ranges from any thread or process.

    Ranges and positions are those of the file as its format has it: of the unpacked one, if it is
    compressed as a whole.
    """

    @property
    def url(self) -> str:
        """Absolute path or URL, secrets included: for reaching the file, never for display."""

    @property
    def version(self) -> FileVersion:
        """Identity of the version that was opened; its size is that of the file as it is stored."""

    @property
    def name(self) -> str:
        """Redacted path or URL: without credentials."""

    @property
    def token(self) -> tuple[str | int, ...]:
        """What tells one version of one file from all others: the same in every process.

        Most storage options are left out: they may hold secrets, and do not change the file.
        """

    @property
    def packing(self) -> str:
        """How the file is compressed as a whole, such as ``"gzip"``; empty if it is not."""

    @property
    def is_sequential(self) -> bool:
        """Whether reading any part takes reading all of the file."""

    @property
    def max_size(self) -> int:
        """Length of the file in bytes; of one that is compressed as a whole, an upper bound."""

    @property
    def block_size(self) -> int | None:
        """Bytes that are best read at a time if cutting a range costs nothing; else None."""

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs of bytes are best fetched as one range."""

    def length_up_to(self, stop: int) -> int:
        """Return the length of the file in bytes, or `stop` if that is less.

        Raises
        ------
        FitsFormatError
            The file is compressed as a whole and damaged before this.
        StorageError, FileChangedError
            As `read_ranges`.
        """

    def peek(self, start: int, count: int) -> bytes:
        """Read up to `count` bytes from a position on, for a header.

        Fewer, if the file ends before, or if it is compressed as a whole and more bytes would have
        to be fetched for them; none only at the end. What damage a check sum tells that stands
        further on in the file is not known yet: `read_ranges` will raise for it.

        Raises
        ------
        FitsFormatError, StorageError, FileChangedError
            As `length_up_to`.
        """

    def keep(self, stretches: Mapping[int, bytes]) -> None:
        """Keep stretches of the file, by their first byte, where an index of it is kept, if any."""

    def take_less_memory(self) -> None:
        """Let go of what this process keeps of the file, if anything."""

    def requests(self, ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
        """Return the requests by which ranges are read, as ranges of the file as it is stored."""

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges within the file: one request for each part of each.

        Parameters
        ----------
        ranges : sequence of ByteRange
            Ascending, none past the end of the file.
        whole : bool
            Yield each range in one piece; else a long one may come in consecutive pieces, each of
            a multiple of 8 bytes but the last, which lets the caller convert one while others are
            still in flight.

        Yields
        ------
        start : int
            Position of the piece in the file.
        data : memoryview
            Its bytes, valid only until the next piece is requested.

        Raises
        ------
        TruncatedFileError
            The file ended early.
        FitsFormatError
            The file is compressed as a whole, and damaged.
        FileChangedError
            The file is not the version that was opened.
        AccessDeniedError, FitsFileNotFoundError, StorageError
            The storage refused, failed for longer than the retries last, or sent an unusable
            response.
        """


def is_indexed(store: Store) -> bool:
    """Return whether a file is compressed as a whole and parts of it are read by an index."""
    return bool(store.packing) and not store.is_sequential
