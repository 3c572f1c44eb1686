"""An index of a gzip file: points at which inflating can be restarted, and how to read by them.

::

    packed     |member 1 ....|.........|......||member 2 ....|..........|
    points     0             1         2       3             4
    unpacked   |   span 0    | span 1  | span 2|   span 3    | span 4   |

A span is what unpacks between two points: some 4 MiB, all of which is unpacked to read a part of
it, since its check sum is that of the whole. A point within a member has the 32 KiB before it, its
window. A span that begins within a member ends with it; one that begins with a member may hold
several.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dask_fits.ranges.byte_range import ByteRange
from dask_fits.streams.decoder import StreamError
from dask_fits.streams.deflate import GzipDecoder
from dask_fits.streams.inflate import InflateErrors, crc32
from dask_fits.streams.restart import WINDOW, find_restart, inflate_from

SPACING = 4 * 1024 * 1024
"""Unpacked bytes between two points at least. An index with four times as many points takes more
than twice the time to make; a span of as many bytes is unpacked in some 10 ms."""

_SLICE = 256 * 1024
"""Packed bytes in which a point is looked for: several blocks, stored ones included."""

_SLICE_OUTPUT = 4 * 1024 * 1024
"""Unpacked bytes of such a slice, about: of regular data fewer packed bytes are taken."""

_MIN_SLICE = 4 * 1024
"""Packed bytes of a slice at least, and of the first one."""

_MOST_OUTPUT = 16 * 1024 * 1024
"""Unpacked bytes of a slice beyond which no point is looked for in it."""

_MOST_PACKED = 16 * 1024 * 1024
"""Packed bytes of the longest span of a useful index: all of them are held to read a part of it."""

POINT = np.dtype(
    [("bit", "<u8"), ("start", "<u8"), ("window", "<u8"), ("crc", "<u4"), ("member", "<u4")]
)
"""A point: its position in the packed file, in bits; in the unpacked file, in bytes; the end of its
window among the deflated windows; CRC-32 of the span that begins there; 1 if it is the beginning of
a member, which has no window."""


@dataclass(frozen=True, slots=True, eq=False)
class GzipIndex:
    """The points of one gzip file."""

    points: npt.NDArray[np.void]
    """(n,) array of `POINT`, ascending; the first is the beginning of the file."""
    packed_size: int
    """Packed bytes up to the end of the last member."""
    size: int
    """Bytes of the unpacked file."""

    @property
    def is_useful(self) -> bool:
        """Whether reading a part by it takes less than reading the file from its beginning on."""
        longest = max(self.packed_span(number).nbytes for number in range(len(self.points)))
        is_divided = len(self.points) > 1 or self.size < 2 * SPACING
        return is_divided and longest <= _MOST_PACKED

    def spans(self, start: int, stop: int) -> range:
        """Find the spans that hold some of the unpacked bytes from `start` to `stop`."""
        starts = self.points["start"]
        first = int(np.searchsorted(starts, start, "right")) - 1
        return range(first, int(np.searchsorted(starts, stop, "left")))

    def span(self, number: int) -> ByteRange:
        """Return the unpacked bytes of a span."""
        return ByteRange(int(self.points["start"][number]), self._next("start", number, self.size))

    def packed_span(self, number: int) -> ByteRange:
        """Return the packed bytes that a span is inflated from."""
        stop_bit = self._next("bit", number, 8 * self.packed_size)
        return ByteRange(int(self.points["bit"][number]) // 8, -(-stop_bit // 8))

    def window_range(self, number: int) -> ByteRange:
        """Return the bytes of a span's deflated window among all windows; none of a member."""
        start = int(self.points["window"][number - 1]) if number else 0
        return ByteRange(start, int(self.points["window"][number]))

    def _next(self, name: str, number: int, end: int) -> int:
        return int(self.points[name][number + 1]) if number + 1 < len(self.points) else end

    def inflate(
        self, number: int, packed: memoryview, window: bytes, wanted: ByteRange
    ) -> list[bytes]:
        """Inflate a span, compare its check sum, and return a part of it, in pieces.

        Parameters
        ----------
        number : int
        packed : memoryview
            Its packed bytes.
        window : bytes
            Its deflated window.
        wanted : ByteRange
            The part, in bytes of the unpacked file.

        Raises
        ------
        StreamError
            The bytes are damaged, or the index is of another file.
        """
        span = self.span(number)
        length = 0
        crc = 0
        parts = []
        for piece in self._pieces(number, packed, window, span.nbytes):
            crc = crc32(piece, crc)
            # Nothing else of a long span is held.
            low = max(wanted.start - span.start - length, 0)
            high = min(wanted.stop - span.start - length, len(piece))
            if low < high:
                parts.append(piece[low:high])
            length += len(piece)
        expected = int(self.points["crc"][number])
        if length != span.nbytes or crc != expected:
            raise StreamError(
                f"unpacked bytes {span.start} to {span.stop}: found {length} with CRC {crc:08x}, "
                f"expected {span.nbytes} with {expected:08x}"
            )
        return parts

    def _pieces(self, number: int, packed: memoryview, window: bytes, size: int) -> Iterator[bytes]:
        """Yield what the packed bytes of a span unpack to, up to `size` bytes."""
        point = self.points[number]
        if not point["member"]:
            try:
                # An index that is damaged must not ask for memory.
                history = zlib.decompressobj().decompress(window, WINDOW)
                yield from inflate_from(packed, int(point["bit"]) % 8, history, size)
            except (zlib.error, *InflateErrors) as error:
                raise StreamError(f"unpacked bytes from {point['start']}: {error}") from error
            return
        for piece in GzipDecoder().decode(packed):
            yield piece[:size]
            size -= len(piece)
            if size <= 0:
                return


class IndexingDecoder(GzipDecoder):
    """The decoding of a gzip file, which finds the points of its index on the way."""

    def __init__(self, spacing: int = SPACING) -> None:
        super().__init__()
        self._slice = _MIN_SLICE
        self._spacing = spacing
        self._points: list[tuple[int, int, int, int, int]] = []
        self.windows = bytearray()
        """The deflated windows, one behind the other."""
        # CRC of each span that has ended.
        self._crcs: list[int] = []
        # Of the span that has begun: its first byte, whether that begins a member, CRC so far.
        self._start = 0
        self._is_member = True
        self._crc = 0
        # The last bytes that the member has unpacked to, and the end of its packed ones.
        self._before = b""
        self._packed_end = 0

    def index(self) -> GzipIndex:
        """Return the index, once all of the file has been decoded."""
        points = [
            (*point[:3], crc, point[4])
            for point, crc in zip(self._points, [*self._crcs, self._crc], strict=True)
        ]
        return GzipIndex(np.array(points, POINT), self._packed_end, self.length)

    def _begin_member(self, rest: bytes) -> bytes:
        rest = super()._begin_member(rest)
        if self._inflator is not None:
            is_due = self.length - self._start >= self._spacing
            if not self._points or is_due or not self._is_member:
                self._add_point(8 * (self._taken - len(rest)), self.length, b"")
            self._before = b""
        return rest

    def _inflate(self, rest: memoryview | bytes) -> Generator[bytes, None, bytes]:
        first = self._taken - len(rest)
        # Nothing precedes the first slice of a member, which begins with a point anyhow.
        is_due = self.length - self._start >= self._spacing and bool(self._before)
        begun = self.length
        inflating = super()._inflate(rest)
        pieces: list[bytes] = []
        while True:
            try:
                piece = next(inflating)
            except StopIteration as stop:
                behind: bytes = stop.value
                break
            pieces.append(piece)
            if not is_due or self.length - begun > _MOST_OUTPUT:
                is_due = False
                self._pass_over(pieces)
                pieces = []
            yield piece
        self._packed_end = self._taken - len(behind)
        output = self.length - begun
        # Data may become more regular from one slice to the next, so it grows step by step.
        most = min(_SLICE, 2 * self._slice, _SLICE_OUTPUT * len(rest) // max(output, 1))
        self._slice = max(most, _MIN_SLICE)
        # Where the member ends, it is followed by a point of its own.
        if is_due and self._inflator is not None:
            self._look_for_point(bytes(rest), first, b"".join(pieces))
        else:
            self._pass_over(pieces)
        return behind

    def _pass_over(self, pieces: list[bytes]) -> None:
        """Take pieces into the span that has begun."""
        for piece in pieces:
            self._crc = crc32(piece, self._crc)
            self._before = (self._before + piece)[-WINDOW:]

    def _look_for_point(self, packed: bytes, first: int, output: bytes) -> None:
        """Add a point within a slice that begins at packed byte `first`, if there is one."""
        found = find_restart(packed, self._before, output)
        if found is None:
            self._pass_over([output])
            return
        bit, start = found
        self._pass_over([output[:start]])
        self._add_point(8 * first + bit, self.length - len(output) + start, self._before)
        self._pass_over([output[start:]])

    def _add_point(self, bit: int, start: int, window: bytes) -> None:
        """End the span that has begun, and begin another one."""
        if self._points:
            self._crcs.append(self._crc)
        if window:
            self.windows += zlib.compress(window, 1)
        self._points.append((bit, start, len(self.windows), 0, not window))
        self._start = start
        self._is_member = not window
        self._crc = 0
