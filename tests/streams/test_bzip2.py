"""bzip2 by blocks: the bytes of the standard library's encoder, and never one that is not verified."""

from __future__ import annotations

import bz2
import random
import re
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.streams import bzip2
from dask_fits.streams.bzip2 import Bzip2Decoder
from tests.support.corpus import CORPUS, FILES, each
from tests.support.streams import outcome_of

BLOCK = f"{0x314159265359:048b}"
END = f"{0x177245385090:048b}"


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that take few bits each. None is the same as the one before, which would make a run."""
    content = bytearray(size)
    rng = random.Random(seed)
    content[::2] = rng.randbytes((size + 1) // 2).translate(bytes(range(4)) * 64)
    content[1::2] = rng.randbytes(size // 2).translate(bytes(range(4, 8)) * 64)
    return bytes(content)


def outcome(packed: bytes, step: int = 1 << 30, threads: int = 2) -> tuple[bytes, str | None]:
    """What a stream unpacks to, and the error at its end if there is one."""
    return outcome_of(Bzip2Decoder(threads), packed, step)


def bits_of(packed: bytes) -> str:
    return f"{int.from_bytes(packed, 'big'):0{8 * len(packed)}b}"


def packed_bits(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def block_starts(packed: bytes) -> list[int]:
    """The first bits of the blocks, and of the end behind them."""
    return [match.start() for match in re.finditer(f"{BLOCK}|{END}", bits_of(packed))]


def with_magic(packed: bytes, magic: str) -> bytes:
    """Put a magic into the first block of a stream, as selectors that no symbol uses.

    A selector is up to five ones and a zero, and there may be more of them than are needed.
    """
    bits = bits_of(packed)
    bits = bits[: bits.rindex(END) + 80]  # without what fills the last byte
    maps = 32 + 48 + 32 + 1 + 24  # header, magic, CRC, whether it is randomised, origin
    groups = maps + 16 + 16 * bits[maps : maps + 16].count("1")
    assert int(bits[groups : groups + 3], 2) == 6, "with fewer tables there are fewer ones"
    nselectors = int(bits[groups + 3 : groups + 18], 2)
    at = groups + 18
    for _ in range(nselectors):
        at = bits.index("0", at) + 1
    extra = f"{magic}0"
    count = nselectors + extra.count("0")
    return packed_bits(
        f"{bits[: groups + 3]}{count:015b}{bits[groups + 18 : at]}{extra}{bits[at:]}"
    )


SMALL = noise(250_000)
"""Three blocks of level 1."""

PACKED = bz2.compress(SMALL, 1)


@pytest.mark.untraced
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 7, 10, 1000, 1 << 30])
def test_pieces_of_any_size(step: int, threads: int) -> None:
    content = SMALL[:120_000]
    assert outcome(bz2.compress(content, 1), step, threads) == (content, None)


@pytest.mark.parametrize("level", range(1, 10))
def test_levels(level: int) -> None:
    content = noise(1_000_000, level)
    assert outcome(bz2.compress(content, level)) == (content, None)


# libbzip2 fills a block up to 19 bytes less than its limit.
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 255, *range(99_978, 99_985), 100_000, 200_001])
def test_sizes_around_those_of_blocks(size: int) -> None:
    content = SMALL[:size]
    for step in (1009, 1 << 30):
        assert outcome(bz2.compress(content, 1), step) == (content, None)


def test_blocks_begin_at_any_bit() -> None:
    contents = [noise(101_000, seed) for seed in range(40)]
    streams = [bz2.compress(content, 1) for content in contents]
    starts = {start % 8 for packed in streams for start in block_starts(packed)}
    assert starts == set(range(8))
    assert outcome(b"".join(streams), 30_011) == (b"".join(contents), None)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 3000))
def test_any_bytes_in_any_streams(contents: list[bytes], step: int) -> None:
    packed = b"".join(bz2.compress(content, 1 + i) for i, content in enumerate(contents))
    assert outcome(packed, step) == (b"".join(contents), None)


@pytest.mark.untraced
@pytest.mark.parametrize("step", [1, 1000, 1 << 30])
def test_streams_of_other_levels_follow(step: int) -> None:
    contents = [SMALL[:150_000], b"", noise(3000), b"", bytes(7)]
    packed = b"".join(bz2.compress(content, 1 + 2 * i) for i, content in enumerate(contents))
    assert outcome(packed, step) == (b"".join(contents), None)


@pytest.mark.parametrize("step", [1, 1000, 1 << 30])
@pytest.mark.parametrize("behind", [bytes(3000), b"garbage", b"BZ0", b"BZh0", b"BZx", b"\0BZh9"])
def test_what_is_behind_the_last_stream_is_ignored(behind: bytes, step: int) -> None:
    assert outcome(bz2.compress(SMALL[:3000]) + behind, step) == (SMALL[:3000], None)


def test_after_its_end_a_decoder_takes_no_more_bytes() -> None:
    decoder = Bzip2Decoder(2)
    assert b"".join(decoder.decode(memoryview(bz2.compress(b"one")))) == b"one"
    assert not decoder.ended  # another stream may follow
    assert not list(decoder.decode(memoryview(bytes(1))))
    assert decoder.ended
    assert not list(decoder.decode(memoryview(bz2.compress(b"two"))))
    assert not list(decoder.finish())


def test_garbage_that_begins_as_a_stream_does_is_damage() -> None:
    found, error = outcome(bz2.compress(b"one") + b"BZh9 is how it begins")
    assert (found, error) == (b"one", "damaged: block 2: no magic number, and so no block")


@pytest.mark.parametrize("size", range(1, 4))
def test_the_beginning_of_another_header_is_a_cut(size: int) -> None:
    packed = bz2.compress(b"one")
    assert outcome(packed + b"BZh9"[:size]) == (b"one", "cut: the bzip2 stream ends early")
    assert outcome(packed + b"BZh9") == (b"one", "cut: block 2: the bzip2 stream ends early")


@pytest.mark.parametrize("packed", [b"\x1f\x8b\x08", b"BZ0", b"BZh0", b"bzh9", b"SIMPLE"])
def test_other_bytes_are_no_stream(packed: bytes) -> None:
    found, error = outcome(packed, 1)
    assert not found
    assert error
    assert error.startswith("damaged: found")


def test_nothing_is_a_cut() -> None:
    assert outcome(b"") == (b"", "cut: the bzip2 stream ends early")


def test_a_cut_leaves_the_whole_blocks() -> None:
    starts = block_starts(PACKED)
    ends = [len(bz2.decompress(PACKED))] * 2
    limits = [0, 99_981, 199_962]  # unpacked bytes before each block
    for cut in sorted({*range(0, len(PACKED), 997), *range(len(PACKED) - 20, len(PACKED))}):
        found, error = outcome(PACKED[:cut], 20_000)
        # One byte more than the magic has is awaited, which the check sum brings.
        blocks = sum(8 * cut >= start // 8 * 8 + 56 for start in starts[1:])
        assert len(found) == [*limits, *ends][blocks]
        assert SMALL.startswith(found)
        number = f"block {blocks + 1}: " if cut >= 4 else ""
        assert error == f"cut: {number}the bzip2 stream ends early"


@pytest.mark.parametrize("threads", [1, 2])
def test_flipped_bits_yield_right_bytes_only(threads: int) -> None:
    rng = random.Random(threads)
    content = SMALL[:220_000]
    packed = bytearray(bz2.compress(content, 1))
    whole = 0
    for _ in range(150):  # of each number of threads
        at, bit = rng.randrange(len(packed)), rng.randrange(8)
        packed[at] ^= 1 << bit
        found, error = outcome(bytes(packed), 30_000, threads)
        packed[at] ^= 1 << bit
        assert content.startswith(found)
        assert error or found == content
        whole += not error
    assert whole < 5


@pytest.mark.parametrize("at", range(16))
def test_damage_at_the_beginning_and_the_end(at: int) -> None:
    for place in (at, len(PACKED) - 1 - at):
        for bit in range(8):
            packed = bytearray(PACKED[:])
            packed[place] ^= 1 << bit
            found, error = outcome(bytes(packed))
            assert SMALL.startswith(found)
            # The level says how much memory is needed, and what fills the last byte says nothing.
            assert error or (found == SMALL and place in {3, len(PACKED) - 1})


def test_damage_says_in_which_block_it_is() -> None:
    packed = bytearray(bz2.compress(SMALL * 2, 1))
    starts = block_starts(packed)
    packed[starts[3] // 8 + 9] ^= 1  # its check sum
    for step in (5000, 1 << 30):
        found, error = outcome(bytes(packed), step)
        assert (len(found), error) == (3 * 99_981, "damaged: block 4: Invalid data stream")
    # The block before the end has only one magic behind it, and the next one may yet come.
    packed = bytearray(PACKED)
    packed[block_starts(PACKED)[2] // 8 + 9] ^= 1
    for step in (5000, 1 << 30):
        found, error = outcome(bytes(packed), step)
        assert (len(found), error) == (2 * 99_981, "damaged: block 3: Invalid data stream")


def test_a_block_that_is_lost_is_noticed() -> None:
    bits = bits_of(PACKED)
    starts = block_starts(PACKED)
    found, error = outcome(packed_bits(bits[: starts[1]] + bits[starts[2] :]))
    assert found == SMALL[:99_981] + SMALL[199_962:]
    assert error
    assert re.fullmatch(
        r"damaged: found the check sum \w{8} of all blocks up to block 2, expected \w{8}", error
    )


@pytest.mark.parametrize("magic", [BLOCK, END])
@pytest.mark.parametrize("step", [1, 1000, 1 << 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_magic_within_a_block_does_not_matter(magic: str, step: int, threads: int) -> None:
    content = random.Random(3).randbytes(3000)
    packed = with_magic(bz2.compress(content, 1), magic)
    assert bz2.decompress(packed) == content
    assert len(block_starts(packed)) == 3
    assert outcome(packed, step, threads) == (content, None)
    content = random.Random(4).randbytes(210_000)
    packed = with_magic(bz2.compress(content, 1), magic)
    assert bz2.decompress(packed) == content
    if step > 1:
        assert outcome(packed, step, threads) == (content, None)
        assert outcome(packed + PACKED, step, threads) == (content + SMALL, None)


def test_a_long_run_takes_bounded_memory() -> None:
    size = 100_000_000
    compressor = bz2.BZ2Compressor(9)
    packed = b"".join(compressor.compress(bytes(size // 10)) for _ in range(10))
    packed += compressor.flush()
    assert len(packed) < 1000
    decoder = Bzip2Decoder(1)
    zeros = bytes(1 << 20)
    tracemalloc.start()
    try:
        for part in decoder.decode(memoryview(packed)):
            assert part == zeros[: len(part)]
        assert not list(decoder.finish())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.length == size
    assert peak < 2.2 * 46_700_000  # twice, while bz2 joins what it has unpacked


@pytest.mark.parametrize("threads", [2, 3])
def test_few_blocks_are_unpacked_ahead(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    decompress = bz2.decompress

    def noted(packed: bytes) -> bytes:
        begun.append(threading.current_thread().name)
        return decompress(packed)

    packed = bz2.compress(SMALL * 4, 1)
    monkeypatch.setattr(bz2, "decompress", noted)
    monkeypatch.setattr(bzip2, "_MIN_BATCH", 0)
    parts = Bzip2Decoder(threads).decode(memoryview(packed))
    for taken in range(1, 4):
        next(parts)
        assert taken <= len(begun) <= taken + threads
    parts.close()
    assert len(begun) <= 3 + threads
    assert threading.current_thread().name not in begun
    assert not any(name in {thread.name for thread in threading.enumerate()} for name in begun)


def test_one_thread_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a thread is started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert outcome(PACKED, threads=1) == (SMALL, None)


@each([entry for entry in FILES if entry["container"] == "bzip2"])
def test_files_of_the_corpus(entry: dict[str, str]) -> None:
    packed = (CORPUS / entry["file"]).read_bytes()
    content = bz2.decompress(packed)
    for step in (1000, 1 << 30):
        assert outcome(packed, step) == (content, None)


@pytest.mark.slow
def test_the_program_agrees(tmp_path: Path) -> None:
    content = noise(2_000_000, 5) + bytes(100_000)
    (tmp_path / "content").write_bytes(content)
    try:
        packed = subprocess.run(
            ["bzip2", "-7", "-c", tmp_path / "content"], capture_output=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("the program bzip2 is not installed")
    assert outcome(packed, 65536) == (content, None)
