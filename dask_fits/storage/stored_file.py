"""What stores of files have in common whose bytes are read as they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dask_fits.ranges.byte_range import ByteRange, split_ranges
from dask_fits.storage.store import Store


class StoredFile:
    """The part of a `Store` that follows from its version and from how it reads ranges."""

    __slots__ = ()

    packing = ""
    """Empty: the bytes are read as they are stored."""

    is_sequential = False
    """False: a range is read by itself."""

    @property
    def part_size(self) -> int | None:
        """Longest part that a range is cut into, in bytes; None if a range is one request."""
        return None

    @property
    def token(self: Store) -> tuple[str | int, ...]:
        """What tells this version of the file from all other files; see `Store.token`."""
        version = self.version
        return (self.url, version.size, version.kind, version.value)

    @property
    def max_size(self: Store) -> int:
        """Length of the file in bytes."""
        return self.version.size

    def length_up_to(self: Store, stop: int) -> int:
        """Return the length of the file, or `stop` if that is less; see `Store.length_up_to`."""
        return min(stop, self.version.size)

    def peek(self: Store, start: int, count: int) -> bytes:
        """Read bytes from a position on; see `Store.peek`."""
        byte_range = ByteRange(start, min(start + count, self.version.size))
        if not byte_range.nbytes:
            return b""
        return b"".join(bytes(data) for _, data in self.read_ranges([byte_range], whole=True))

    def keep(self, stretches: Mapping[int, bytes]) -> None:
        """Do nothing: there is no index."""

    def take_less_memory(self) -> None:
        """Do nothing: no bytes are kept."""

    def requests(self, ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
        """Cut ranges into the parts that are fetched by one request each; see `split_range`."""
        return split_ranges(ranges, self.part_size)
