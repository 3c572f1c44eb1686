"""Indexes of gzip files: each span gives the bytes that were packed, whoever packed them."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import subprocess
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from isal import igzip, isal_zlib

from dask_fits.ranges.byte_range import ByteRange
from dask_fits.streams import inflate
from dask_fits.streams.decoder import CutStreamError, StreamError
from dask_fits.streams.gzip_index import POINT, GzipIndex, IndexingDecoder
from dask_fits.streams.restart import WINDOW, find_restart, inflate_from, stream_from_bit
from tests.support.gzip_files import ENCODERS, kinds_of_data, member_with_fields, members, unpacked

pytestmark = pytest.mark.untraced

SPACING = 128 * 1024
PIECE = 1024 * 1024

WITHOUT_BLOCKS = {"ISA-L 0"}
"""Encoders that make one block of all data, so that there is nowhere to restart."""

data_of = cache(kinds_of_data)


@cache
def packed_by(encoder: str, kind: str) -> bytes:
    return ENCODERS[encoder](data_of()[kind])


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Inflate by ISA-L, or as where it is not installed."""
    monkeypatch.setattr(inflate, "_library", isal_zlib if request.param == "isal" else zlib)
    return str(request.param)


@dataclass(frozen=True)
class Indexed:
    """A gzip file in memory, and its index."""

    packed: bytes
    index: GzipIndex
    windows: bytes

    @property
    def count(self) -> int:
        return len(self.index.points)

    def inflate(self, number: int, wanted: ByteRange | None = None) -> bytes:
        """A part of a span, from the packed bytes and the window that it says it needs."""
        packed = self.index.packed_span(number)
        window = self.index.window_range(number)
        parts = self.index.inflate(
            number,
            memoryview(self.packed)[packed.start : packed.stop],
            self.windows[window.start : window.stop],
            wanted or self.index.span(number),
        )
        return b"".join(parts)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes of the unpacked file."""
        parts = []
        for number in self.index.spans(start, stop):
            span = self.index.span(number)
            low, high = max(start, span.start), min(stop, span.stop)
            parts.append(self.inflate(number, ByteRange(low, max(high, low))))
        return b"".join(parts)

    def longest(self) -> int:
        return max(self.index.span(number).nbytes for number in range(self.count))


def pieces_of(packed: bytes, size: int) -> Iterator[memoryview]:
    for start in range(0, len(packed), size):
        yield memoryview(packed)[start : start + size]


def make_index(
    packed: bytes,
    *,
    spacing: int = SPACING,
    piece: int = PIECE,
    take: Callable[[bytes], object] = bool,
) -> Indexed:
    """Decode a gzip file in pieces and make its index; `take` gets what it unpacks to."""
    decoder = IndexingDecoder(spacing)
    for data in pieces_of(packed, piece):
        for content in decoder.decode(data):
            assert 0 < len(content) <= 1 << 20
            take(content)
    for content in decoder.finish():
        take(content)
    return Indexed(packed, decoder.index(), bytes(decoder.windows))


def indexed(packed: bytes, data: bytes, *, spacing: int = SPACING, piece: int = PIECE) -> Indexed:
    """The index of a gzip file, after what it decoded has been compared with the data."""
    found = bytearray()
    result = make_index(packed, spacing=spacing, piece=piece, take=found.extend)
    assert found == data
    return result


def check_points(found: Indexed, data: bytes, spacing: int = SPACING) -> None:
    """Fail unless the points are where they may be, and say what is so of the data."""
    index = found.index
    points = index.points
    assert points.dtype == POINT
    assert index.size == len(data)
    assert (points[0]["bit"], points[0]["start"], points[0]["member"]) == (0, 0, 1)
    starts = points["start"].astype(np.int64)
    assert (np.diff(points["bit"].astype(np.int64)) > 0).all()
    assert (np.diff(points["window"].astype(np.int64)) >= 0).all()
    # What begins within a member ends with it, however near that is.
    leaves_member = (points["member"][:-1] == 0) & (points["member"][1:] == 1)
    assert (leaves_member | (np.diff(starts) >= spacing)).all()
    for number, point in enumerate(points):
        span = index.span(number)
        assert int(point["crc"]) == zlib.crc32(data[span.start : span.stop])
        window_range = index.window_range(number)
        deflated = found.windows[window_range.start : window_range.stop]
        if point["member"]:
            assert not deflated
            assert point["bit"] % 8 == 0
            assert found.packed[int(point["bit"]) // 8 :][:2] == b"\x1f\x8b"
        else:
            window = zlib.decompress(deflated)
            assert 0 < len(window) <= WINDOW
            assert data[: span.start].endswith(window)
    assert window_range.stop == len(found.windows)


def check_reads(found: Indexed, data: bytes, seed: int = 3, count: int = 6) -> None:
    """Fail unless every span, and any part of the file, is what was packed."""
    for number in range(found.count):
        span = found.index.span(number)
        assert found.inflate(number) == data[span.start : span.stop]
    choose = random.Random(seed)
    edges = [0, len(data), *(int(start) for start in found.index.points["start"])]
    for _ in range(count):
        near_edge = choose.choice(edges) + choose.randint(-3, 3)
        start, stop = sorted((choose.choice([near_edge, choose.randint(0, len(data))]), near_edge))
        start, stop = max(start, 0), min(max(stop, start + 1), len(data))
        stop = min(stop, start + choose.choice([1, 2880, 1 << 30]))
        if start < stop:
            assert found.read(start, stop) == data[start:stop]


# The matrix of data and encoders.


@pytest.mark.parametrize(
    ("encoder", "kind"),
    # The usual encoders with all data, the others with half of them.
    [
        (encoder, kind)
        for i, encoder in enumerate(ENCODERS)
        for j, kind in enumerate(data_of())
        if (i + j) % 2 == 0 or encoder in ("zlib 0", "zlib 6", "ISA-L 2")
    ],
)
def test_every_span_unpacks_to_what_was_packed(encoder: str, kind: str) -> None:
    data = data_of()[kind]
    packed = packed_by(encoder, kind)
    found = indexed(packed, data)
    check_points(found, data)
    check_reads(found, data)
    # Two slices of packed bytes are passed over: the first one, and one in which a point is found.
    if encoder not in WITHOUT_BLOCKS and len(packed) > 600_000:
        assert found.count > 1
    if encoder in ("zlib 0", "zlib 6", "ISA-L 2") and kind in ("random", "noise of float32"):
        assert found.longest() <= 640 * 1024


@pytest.mark.parametrize("kind", ["noise of float32", "mixed"])
@pytest.mark.parametrize(
    "encoder", ["zlib 0", "zlib 1", "zlib 6", "ISA-L 0", "ISA-L 1", "ISA-L 3", "members", "blocked"]
)
@pytest.mark.parametrize("library", ["zlib"], indirect=True)
def test_every_span_without_isal(encoder: str, kind: str, library: str) -> None:
    data = data_of()[kind]
    found = indexed(packed_by(encoder, kind), data)
    check_points(found, data)
    check_reads(found, data)


@pytest.mark.parametrize("piece", [997, 65_536, 1 << 30])
@pytest.mark.parametrize(
    ("encoder", "kind"),
    [
        ("zlib 0", "random"),
        ("zlib 6", "noise of int16"),
        ("ISA-L 1", "mixed"),
        ("ISA-L 3", "half zeros"),
        ("members", "noise of float32"),
        ("blocked", "mixed"),
        ("fields", "noise of int16"),
        ("padded", "zeros"),
        ("garbage", "mixed"),
    ],
)
def test_pieces_of_any_size(encoder: str, kind: str, piece: int) -> None:
    data = data_of()[kind]
    found = indexed(packed_by(encoder, kind), data, piece=piece)
    check_points(found, data)
    check_reads(found, data)


@pytest.mark.parametrize("spacing", [1, 40_000, 256 * 1024, 1 << 40])
def test_spacing_is_the_distance_of_points_at_least(spacing: int) -> None:
    data = data_of()["noise of float32"]
    found = indexed(packed_by("zlib 6", "noise of float32"), data, spacing=spacing)
    check_points(found, data, spacing)
    check_reads(found, data)
    assert (found.count == 1) == (spacing > len(data))


def test_points_within_a_member_do_not_reach_into_the_next(library: str) -> None:
    data = data_of()["noise of float32"]
    found = indexed(packed_by("members", "noise of float32"), data)
    starts = found.index.points["start"]
    assert {0, 700_000, 1_400_000} <= {int(start) for start in starts}
    for number, point in enumerate(found.index.points):
        span = found.index.span(number)
        if not point["member"]:
            assert span.start // 700_000 == (span.stop - 1) // 700_000


def test_small_members_share_a_span() -> None:
    data = data_of()["noise of int16"]
    found = indexed(packed_by("blocked", "noise of int16"), data)
    assert found.index.points["member"].all()
    assert (np.diff(found.index.points["start"].astype(int)) == 3 * 65_280).all()
    assert not found.windows


def test_small_members_before_a_large_one() -> None:
    """A span that begins with small members ends within the large one."""
    small, large = data_of()["noise of int16"][:300_000], data_of()["noise of float32"]
    packed = members(small, 50_000) + gzip.compress(large, mtime=0) + members(small, 50_000)
    found = indexed(packed, small + large + small, spacing=512 * 1024)
    check_points(found, small + large + small, 512 * 1024)
    check_reads(found, small + large + small)
    assert not found.index.points["member"].all()


def test_zeros_between_members() -> None:
    """As on a tape; the standard library takes them for padding."""
    first, second = data_of()["noise of int16"], data_of()["noise of float32"]
    packed = gzip.compress(first, mtime=0) + bytes(4_321) + gzip.compress(second, mtime=0)
    assert unpacked(packed) == first + second
    for piece in (30_000, PIECE):
        found = indexed(packed, first + second, piece=piece)
        check_points(found, first + second)
        check_reads(found, first + second)


@pytest.mark.parametrize("extra", [b"", bytes(9), bytes(9) + b"x", b"\x1f", b"\0\x1f", b"\x1f\x8a"])
def test_what_is_behind_the_last_member_does_not_count(extra: bytes) -> None:
    data = data_of()["noise of int16"]
    packed = packed_by("zlib 6", "noise of int16")
    for piece in (len(packed), len(packed) + 1, PIECE):
        found = indexed(packed + extra, data, piece=piece)
        assert found.index.packed_size == len(packed)
        assert found.index.packed_span(found.count - 1).stop == len(packed)
        check_reads(found, data)


@pytest.mark.parametrize("extra", [0, 1, 6, 200, 65_535])
@pytest.mark.parametrize("piece", [7, 1000, PIECE])
def test_headers_with_all_fields_wherever_pieces_end(extra: int, piece: int, library: str) -> None:
    data = data_of()["noise of int16"][:20_000]
    packed = gzip.compress(data, mtime=0) + member_with_fields(data, extra)
    packed += member_with_fields(data, extra)
    assert unpacked(packed) == data * 3
    check_reads(indexed(packed, data * 3, spacing=10_000, piece=piece), data * 3)


@pytest.mark.parametrize("count", [1, 3])
def test_nothing_is_packed(count: int) -> None:
    found = indexed(gzip.compress(b"", mtime=0) * count, b"")
    assert found.count == 1
    assert found.index.size == 0
    assert found.inflate(0) == b""
    assert list(found.index.spans(0, 0)) in ([], [0])


def test_empty_members_among_others() -> None:
    empty = gzip.compress(b"", mtime=0)
    data = data_of()["noise of float32"]
    for count in (1, 5):
        packed = empty * count + packed_by("zlib 6", "noise of float32") + empty * count
        packed += packed_by("zlib 6", "noise of float32") + empty * count
        found = indexed(packed, data + data)
        check_reads(found, data + data)
        assert found.read(len(data) - 1, len(data) + 1) == data[-1:] + data[:1]
        assert found.read(2 * len(data) - 1, 2 * len(data)) == data[-1:]


@pytest.mark.parametrize("level", [0, 6])
def test_gzip_files_in_a_gzip_file(level: int, library: str) -> None:
    """Their blocks are none of the file's own."""
    inner = packed_by("ISA-L 2", "noise of float32") + packed_by("zlib 0", "zeros")
    found = indexed(gzip.compress(inner, level, mtime=0), inner)
    check_points(found, inner)
    check_reads(found, inner)
    assert found.count > 2


def test_data_that_look_like_headers_of_stored_blocks() -> None:
    """From any of them on, inflating gives the same bytes for long, and too many or too few.

    Such a point may get into the index. Then reading by it is an error, not other bytes.
    """
    header = b"\0\xff\xff\0\0"
    pattern, noise = header * 80_000, data_of()["random"][:300_000]
    data = pattern + noise + pattern
    found = make_index(gzip.compress(data, 0, mtime=0))
    for number in range(found.count):
        span = found.index.span(number)
        with suppress(StreamError):
            assert found.inflate(number, span) == data[span.start : span.stop]


def flushed(data: bytes, every: int, how: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    parts = (
        packer.compress(data[start : start + every]) + packer.flush(how)
        for start in range(0, len(data), every)
    )
    return b"".join(parts) + packer.flush()


def by_zlib(data: bytes, *settings: int) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, *settings)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("pack", "has_points"),
    [
        (lambda data: by_zlib(data, 31, 9, zlib.Z_FIXED), False),
        (lambda data: by_zlib(data, 31, 9, zlib.Z_RLE), True),
        (lambda data: by_zlib(data, 31, 9, zlib.Z_HUFFMAN_ONLY), True),
        (lambda data: by_zlib(data, 31, 1), True),
        (lambda data: by_zlib(data, 25), True),
        (lambda data: flushed(data, 20_000, zlib.Z_SYNC_FLUSH), True),
        (lambda data: flushed(data, 20_000, zlib.Z_FULL_FLUSH), True),
        (lambda data: flushed(data, 300, zlib.Z_SYNC_FLUSH), True),
    ],
    ids=["fixed", "runs", "Huffman", "small blocks", "small window", "sync", "full", "often"],
)
def test_ways_to_pack(pack: Callable[[bytes], bytes], has_points: bool) -> None:
    data = data_of()["noise of int16"]
    found = indexed(pack(data), data)
    check_points(found, data)
    check_reads(found, data)
    assert (found.count > 1) == has_points


# Much data of few packed bytes.


def few_packed_bytes(kind: str, size: int) -> bytes:
    if kind == "zeros":
        return bytes(size)
    noise = data_of()["random"][:1_000_000]
    return noise + bytes(size - 2 * len(noise)) + noise


@pytest.mark.parametrize(
    ("kind", "pack", "longest"),
    [
        ("zeros", lambda data: gzip.compress(data, 6), 16),
        ("zeros", lambda data: igzip.compress(data, 1), 96),  # in blocks as long
        ("zeros within noise", lambda data: igzip.compress(data, 3), 32),
    ],
    ids=["zeros by zlib", "zeros by ISA-L", "zeros within noise"],
)
def test_memory_and_spans_of_200_mb_of_zeros(
    kind: str, pack: Callable[[bytes], bytes], longest: int
) -> None:
    data = few_packed_bytes(kind, 200_000_000)
    packed = pack(data)
    tracemalloc.start()
    try:
        found = make_index(packed, spacing=4 * 1024 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
        tracemalloc.reset_peak()
        for number in range(found.count):
            span = found.index.span(number)
            middle = (span.start + span.stop) // 2
            assert found.inflate(number, ByteRange(middle, middle + 9)) == data[middle : middle + 9]
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()
    assert found.index.size == len(data)
    assert found.longest() <= longest * 1024 * 1024


# Restarting at any bit.


def fixed_block(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, strategy=zlib.Z_FIXED)
    return packer.compress(data) + packer.flush()


def dynamic_block(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, strategy=zlib.Z_HUFFMAN_ONLY)
    return packer.compress(data) + packer.flush()


def at_bit(stream: bytes, bit: int, junk: int) -> bytes:
    """A stream of bits, whose first bit stands at a bit of a byte, behind other bits."""
    number = int.from_bytes(stream, "little") << bit | junk & ((1 << bit) - 1)
    return number.to_bytes(len(stream) + 1, "little")


def stored_at_bit(data: bytes, bit: int, junk: int) -> bytes:
    """A stored block whose header is at a bit of a byte, and the last one behind it."""
    # Three bits that are zeros, and zeros up to the end of a byte.
    head = (junk & ((1 << bit) - 1)).to_bytes(1 if bit <= 5 else 2, "little")
    length = len(data)
    stored = length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little") + data
    return head + stored + fixed_block(b"")


TEXT = random.Random(1).choices(b"ACGT", k=3000)
STREAMS: dict[str, Callable[[int, int], bytes]] = {
    "fixed": lambda bit, junk: at_bit(fixed_block(bytes(TEXT)), bit, junk),
    "dynamic": lambda bit, junk: at_bit(dynamic_block(bytes(TEXT)), bit, junk),
    "stored": lambda bit, junk: stored_at_bit(bytes(TEXT), bit, junk),
}


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("block", STREAMS)
@pytest.mark.parametrize("junk", [0, 0xFF, 0b0101_1010])
def test_a_stream_restarts_at_any_bit(bit: int, block: str, junk: int, library: str) -> None:
    stream = STREAMS[block](bit, junk)
    restart = stream_from_bit(stream, bit)
    assert zlib.decompressobj(-15).decompress(restart) == bytes(TEXT)
    assert isal_zlib.decompressobj(-15).decompress(restart) == bytes(TEXT)
    found = b"".join(inflate_from(memoryview(stream), bit, b"a window", len(TEXT)))
    assert found == bytes(TEXT)


@pytest.mark.parametrize("bit", range(8))
def test_a_restart_has_the_window_before_it(bit: int, library: str) -> None:
    window = data_of()["random"][:WINDOW]
    data = window[20_000:25_000] + b"between" + window[-5000:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=window)
    stream = at_bit(packer.compress(data) + packer.flush(), bit, 0xFF)
    assert len(stream) < 1000, "it refers to the window"
    found = b"".join(inflate_from(memoryview(stream), bit, window, len(data)))
    assert found == data
    assert b"".join(inflate_from(memoryview(stream), bit, window, 77)) == data[:77]


def test_points_lie_at_all_bits() -> None:
    bits = set()
    for kind in ("noise of int16", "noise of float32"):
        for encoder in ("zlib 1", "zlib 6", "zlib 9", "ISA-L 1", "ISA-L 2", "ISA-L 3"):
            found = indexed(packed_by(encoder, kind), data_of()[kind], spacing=1, piece=150_000)
            check_reads(found, data_of()[kind], count=0)
            bits |= {int(point["bit"]) % 8 for point in found.index.points[1:]}
    assert bits == set(range(8))


def test_a_block_is_found_only_where_one_is() -> None:
    """Of random bytes, and of the right bytes with another output."""
    data = data_of()["noise of int16"]
    packed = packed_by("zlib 6", "noise of int16")[10:-8]
    part = packed[:100_000]
    output = zlib.decompressobj(-15).decompress(part)
    found = find_restart(part, b"", output)
    assert found is not None
    bit, start = found
    rest = stream_from_bit(part[bit // 8 :], bit % 8)
    window = output[max(start - WINDOW, 0) : start]
    assert zlib.decompressobj(-15, zdict=window).decompress(rest) == output[start:]
    assert data.startswith(output)

    assert find_restart(part, b"", output[:-1] + bytes([output[-1] ^ 1])) is None
    assert find_restart(data_of()["random"][:100_000], b"", output) is None
    for few in (b"", b"\0", part[:9], part[:80]):
        assert find_restart(few, b"", zlib.decompressobj(-15).decompress(few)) is None


# Damage.

DAMAGED = [
    ("zlib 6", "noise of int16"),
    ("zlib 0", "random"),
    ("ISA-L 1", "mixed"),
    ("blocked", "half zeros"),
    ("members", "noise of float32"),
]


@pytest.mark.parametrize(("encoder", "kind"), DAMAGED)
def test_damaged_packed_bytes_or_windows_give_an_error_or_the_right_bytes(
    encoder: str, kind: str, library: str
) -> None:
    data = data_of()[kind]
    whole = indexed(packed_by(encoder, kind), data)
    choose = random.Random(5)
    errors = 0
    for _ in range(40):
        number = choose.randrange(whole.count)
        packed, windows = bytearray(whole.packed), bytearray(whole.windows)
        window = whole.index.window_range(number)
        if window.nbytes and choose.random() < 0.4:
            windows[choose.randrange(window.start, window.stop)] ^= 1 << choose.randrange(8)
        else:
            span = whole.index.packed_span(number)
            packed[choose.randrange(span.start, span.stop)] ^= 1 << choose.randrange(8)
        span = whole.index.span(number)
        try:
            found = Indexed(bytes(packed), whole.index, bytes(windows)).inflate(number)
        except StreamError:
            errors += 1
        else:
            assert found == data[span.start : span.stop]
    assert errors >= 30


@pytest.mark.parametrize(("encoder", "kind"), DAMAGED[:3])
def test_damaged_points_give_an_error_or_the_right_bytes(encoder: str, kind: str) -> None:
    data = data_of()[kind]
    whole = indexed(packed_by(encoder, kind), data)
    choose = random.Random(6)
    for _ in range(80):
        number = choose.randrange(1, whole.count)
        name = choose.choice(["bit", "start", "crc", "member"])
        bit = choose.randrange({"bit": 24, "start": 21, "crc": 32, "member": 1}[name] or 1)
        points = whole.index.points.copy()
        points[number][name] ^= 1 << bit
        bits = [*points["bit"].astype(np.int64), 8 * whole.index.packed_size]
        starts = [*points["start"].astype(np.int64), whole.index.size]
        if (np.diff(bits) <= 0).any() or (np.diff(starts) < 0).any():
            continue  # that the points are in order is seen to by the check sum of the index
        index = GzipIndex(points, whole.index.packed_size, whole.index.size)
        for one in (number - 1, number):
            span = index.span(one)
            try:
                found = Indexed(whole.packed, index, whole.windows).inflate(one)
            except StreamError:
                continue
            assert found == data[span.start : span.stop]


def test_cut_or_damaged_files_have_no_index(library: str) -> None:
    packed = packed_by("members", "noise of float32")
    for count in (100_000, len(packed) // 2, len(packed) - 1):
        with pytest.raises(CutStreamError):
            make_index(packed[:count])
    choose = random.Random(7)
    for _ in range(10):
        damaged = bytearray(packed)
        damaged[choose.randrange(20, len(packed) - 20)] ^= 1 << choose.randrange(8)
        with pytest.raises(StreamError):
            make_index(bytes(damaged))


def test_a_window_that_unpacks_to_more_than_a_window_takes_no_memory() -> None:
    found = indexed(packed_by("zlib 6", "mixed"), data_of()["mixed"])
    number = next(n for n in range(found.count) if found.index.window_range(n).nbytes)
    packed = found.index.packed_span(number)
    bomb = zlib.compress(bytes(100_000_000), 1)
    tracemalloc.start()
    try:
        with suppress(StreamError):  # unless no block of the span looks that far back
            parts = found.index.inflate(
                number,
                memoryview(found.packed)[packed.start : packed.stop],
                bomb,
                found.index.span(number),
            )
            assert b"".join(parts) == found.inflate(number)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_an_index_of_another_file_is_an_error() -> None:
    data = data_of()["noise of float32"]
    other = data[:-4] + b"\0\0\0\0"
    whole = indexed(packed_by("zlib 6", "noise of float32"), data)
    with pytest.raises(StreamError, match="CRC"):
        Indexed(gzip.compress(other, 6, mtime=0), whole.index, whole.windows).inflate(
            whole.count - 1
        )


# Programs.

PROGRAMS = {
    "pigz": ["pigz", "-c"],
    "pigz of independent blocks": ["pigz", "-i", "-c"],
    "pigz 0": ["pigz", "-0", "-c"],
    "bgzip": ["bgzip", "-c"],
    "7z": ["7z", "a", "-tgzip", "-si", "-so", "-an"],
    "igzip": ["igzip", "-c"],
    "gzip": ["gzip", "-c"],
    "gzip --rsyncable": ["gzip", "--rsyncable", "-c"],
}
THERE = [name for name, command in PROGRAMS.items() if shutil.which(command[0])]


@pytest.mark.slow
@pytest.mark.parametrize("program", THERE)
def test_files_of_programs(program: str) -> None:
    for kind, data in data_of().items():
        made = subprocess.run(PROGRAMS[program], input=data, capture_output=True, check=True)
        assert unpacked(made.stdout) == data
        found = indexed(made.stdout, data)
        check_points(found, data)
        check_reads(found, data)
        if not re.search("0$", program) and kind in ("random", "noise of float32"):
            assert found.count > 1


@pytest.mark.slow
@pytest.mark.parametrize("program", [name for name in ("zopfli",) if shutil.which(name)])
def test_files_of_a_slow_program(program: str, tmp_path: Path) -> None:
    data = data_of()["mixed"][:400_000]
    (tmp_path / "a").write_bytes(data)
    command = [program, "--i1", "-c", tmp_path / "a"]
    made = subprocess.run(command, capture_output=True, check=True)
    found = indexed(made.stdout, data, spacing=20_000)
    check_points(found, data, 20_000)
    check_reads(found, data)
