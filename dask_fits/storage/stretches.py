"""Copying out of consecutive stretches of a file, as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.ranges.byte_range import ByteRange


def positions(pieces: Iterable[bytes], start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield consecutive pieces with their positions; the first one is at `start`."""
    for piece in pieces:
        yield start, piece
        start += len(piece)


class Stretches:
    """Ascending stretches of a file, out of which ranges are copied in ascending order.

    Parameters
    ----------
    stretches : iterable of (int, bytes)
        Position of each, and its bytes.
    """

    def __init__(self, stretches: Iterable[tuple[int, bytes]]) -> None:
        self.length = 0
        """End of the last stretch that was taken."""
        self._stretches = iter(stretches)
        self._stretch = memoryview(b"")

    def advance(self) -> bool:
        """Take the next stretch; return whether there is one."""
        raise_if_cancelled()
        found = next(self._stretches, None)
        if found is None:
            return False
        start, content = found
        self._stretch = memoryview(content)
        self.length = start + len(content)
        return True

    def fill(self, start: int, buffer: memoryview) -> bool:
        """Copy the bytes from a position on; return False if the stretches end before."""
        filled = 0
        while filled < len(buffer):
            if self.length <= start + filled:
                if not self.advance():
                    return False
                continue
            offset = start + filled - (self.length - len(self._stretch))
            count = min(len(self._stretch) - offset, len(buffer) - filled)
            buffer[filled : filled + count] = self._stretch[offset : offset + count]
            filled += count
        return True

    def cut(
        self, ranges: Sequence[ByteRange], *, whole: bool, block: int
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield ranges, in one piece each or in blocks; end early where the stretches do.

        The memory of a piece is used again for the next one.
        """
        for byte_range in ranges:
            size = byte_range.nbytes if whole else min(byte_range.nbytes, block)
            buffer = memoryview(bytearray(size))
            for start in range(byte_range.start, byte_range.stop, size):
                piece = buffer[: min(size, byte_range.stop - start)]
                if not self.fill(start, piece):
                    return
                yield start, piece
