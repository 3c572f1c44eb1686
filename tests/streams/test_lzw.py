"""LZW of compress(1): what an encoder of its own wrote is read, and any bytes do no harm."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from dask_fits.streams import lzw_kernel
from dask_fits.streams.lzw import LzwDecoder
from tests.support.corpus import CORPUS, FILES, each
from tests.support.lzw_encoder import CLEAR, Encoder
from tests.support.streams import outcome_of, pieces

pytestmark = pytest.mark.untraced


def outcome(packed: bytes, step: int = 1 << 30) -> tuple[bytes, str | None]:
    """What a stream unpacks to, and the error at its end if there is one."""
    return outcome_of(LzwDecoder(), packed, step)


def mixture(size: int, seed: int = 0) -> bytes:
    """Noise of few kinds of bytes, runs, and parts of what came before."""
    rng = random.Random(seed)
    content = bytearray()
    while len(content) < size:
        kind = rng.randrange(4)
        if kind == 0:
            content += rng.randbytes(rng.randrange(1, 300))
        elif kind == 1:
            content += bytes([rng.randrange(256)]) * rng.randrange(1, 600)
        elif kind == 2 and content:
            start = rng.randrange(len(content))
            content += content[start : start + rng.randrange(1, 500)]
        else:
            content += rng.randbytes(200).translate(bytes(range(4)) * 64)
    return bytes(content[:size])


MIXTURE = mixture(150_000)


@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 30])
@pytest.mark.parametrize("clear_after", [700, 1 << 30])
def test_pieces_of_any_size(step: int, clear_after: int) -> None:
    content = MIXTURE[:60_000]
    assert outcome(Encoder(12).encode(content, clear_after), step) == (content, None)


@pytest.mark.parametrize("max_bits", range(10, 17))
@pytest.mark.parametrize("block_mode", [True, False])
def test_widths(max_bits: int, block_mode: bool) -> None:
    content = MIXTURE if max_bits < 15 else mixture(400_000)
    packed = Encoder(max_bits, block_mode=block_mode).encode(content)
    for step in (8191, 1 << 30):
        assert outcome(packed, step) == (content, None)


def test_a_full_table_of_9_bits_makes_codes_of_10() -> None:
    # The first compress(1) wrote so, and gzip and today's compress(1) read so.
    encoder = Encoder(9)
    for code in range(256):  # each but the first adds a string: 257 to 511
        encoder.write(code)
    encoder.set_width(10)
    for code in [*range(100), 257, 511]:
        encoder.write(code)
    encoder.write_group(whole=False)
    expected = bytes([*range(256), *range(100), 0, 1, 254, 255])
    for step in (1, 1 << 30):
        assert outcome(bytes(encoder.packed), step) == (expected, None)


@pytest.mark.parametrize("clear_after", [1, 2, 3, 7, 8, 9, 254, 255, 256, 257, 300, 511, 769, 770])
def test_clear_codes_anywhere(clear_after: int) -> None:
    content = MIXTURE[:8000]
    packed = Encoder(11).encode(content, clear_after)
    for step in (5, 1 << 30):
        assert outcome(packed, step) == (content, None)


@pytest.mark.parametrize("size", [*range(20), 255, 256, 257, 511, 512, 513, 767, 768, 769])
def test_sizes(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert outcome(Encoder(16).encode(content), 3) == (content, None)
    assert outcome(Encoder(16).encode(bytes(size)), 3) == (bytes(size), None)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=40), max_size=40),
    st.integers(10, 16),
    st.booleans(),
    st.integers(1, 600),
    st.integers(1, 50),
)
def test_any_bytes(
    parts: list[bytes], max_bits: int, block_mode: bool, clear_after: int, step: int
) -> None:
    content = b"".join(part * (1 + i % 9) for i, part in enumerate(parts))
    packed = Encoder(max_bits, block_mode=block_mode).encode(content, clear_after)
    assert outcome(packed, step) == (content, None)


def run_of(count: int, max_bits: int) -> tuple[bytes, int]:
    """A stream of zeros, each code of which stands for one more than the code before; their number.

    They get their meaning as they come. When there are no more of them the last one is repeated.
    """
    encoder = Encoder(max_bits)
    encoder.write(0)
    size = 1
    for wanted in range(257, 257 + count):
        code = min(wanted, (1 << max_bits) - 1)
        encoder.write(code)
        size += code - 255
        if wanted + 1 == 1 << encoder.width and encoder.width < max_bits:
            encoder.set_width(encoder.width + 1)
    encoder.write_group(whole=False)
    return bytes(encoder.packed), size


@pytest.mark.parametrize("max_bits", [12, 15])
def test_strings_as_long_as_they_can_be_come_in_bounded_pieces(max_bits: int) -> None:
    packed, size = run_of((1 << max_bits) + 1000, max_bits)
    zeros = bytes(1 << 20)
    decoder = LzwDecoder()
    for piece in pieces(packed, 100_000):
        for part in decoder.decode(piece):
            assert part == zeros[: len(part)]
    assert not list(decoder.finish())
    assert decoder.length == size


def test_bits_behind_the_last_code_are_ignored() -> None:
    packed = Encoder(16).encode(b"abc")  # 27 bits
    assert outcome(packed[:-1] + bytes([packed[-1] | 0xF8])) == (b"abc", None)


@pytest.mark.parametrize("size", range(3))
def test_a_header_that_is_cut(size: int) -> None:
    assert outcome(b"\x1f\x9d\x90"[:size], 1) == (b"", "cut: the LZW stream ends within its header")


def test_a_header_alone_is_an_empty_file() -> None:
    assert outcome(b"\x1f\x9d\x90") == (b"", None)


@pytest.mark.parametrize("header", [b"\x1f\x8b\x08", b"BZh", b"\x1f\x1f\x9d", b"\x9d\x1f\x90"])
def test_other_bytes_are_no_stream(header: bytes) -> None:
    for step in (1, 3):
        found, error = outcome(header, step)
        assert not found
        assert error
        assert error.startswith("damaged: found ")
        assert "which LZW streams begin with" in error


@pytest.mark.parametrize("flags", [0x00, 0x80, 0x88, 0x08, 0x91, 0x9F, 0xB0, 0xD0, 0x50])
def test_unknown_headers(flags: int) -> None:
    found, error = outcome(bytes([0x1F, 0x9D, flags, 0, 0, 0]), 1)
    assert not found
    assert error
    assert error.startswith(f"damaged: found 0x{flags:02x} in the header")


@pytest.mark.parametrize(
    ("codes", "expected", "bad"),
    [
        ([300], b"", 300),
        ([65, 258], b"A", 258),
        ([65, 66, 259], b"AB", 259),
        ([65, 66, CLEAR, 257], b"AB", 257),
    ],
)
def test_codes_without_a_meaning(codes: list[int], expected: bytes, bad: int) -> None:
    encoder = Encoder(16)
    for code in codes:
        encoder.write(code)
        if code == CLEAR:
            encoder.set_width(9)
    encoder.write_group(whole=False)
    error = f"damaged: the LZW stream has the code {bad} before it has a meaning"
    for step in (1, 1 << 30):
        assert outcome(bytes(encoder.packed), step) == (expected, error)


def test_a_code_beyond_a_full_table_has_no_meaning() -> None:
    encoder = Encoder(9)
    for code in range(256):
        encoder.write(code)
    encoder.set_width(10)
    encoder.write(512)
    encoder.write_group(whole=False)
    error = "damaged: the LZW stream has the code 512 before it has a meaning"
    assert outcome(bytes(encoder.packed)) == (bytes(range(256)), error)


def test_cuts_leave_a_beginning() -> None:
    content = MIXTURE[:30_000]
    packed = Encoder(13).encode(content, 2000)
    before = -1
    for cut in range(3, len(packed), 101):
        found, error = outcome(packed[:cut], 4000)
        assert error is None
        assert content.startswith(found)
        assert len(found) > before
        before = len(found)


def test_flipped_bits_do_no_harm() -> None:
    rng = random.Random(5)
    content = MIXTURE[:100_000]
    packed = bytearray(Encoder(14).encode(content, 9000))
    errors = 0
    for _ in range(300):
        at, bit = rng.randrange(3, len(packed)), rng.randrange(8)
        packed[at] ^= 1 << bit
        found, error = outcome(bytes(packed), 10_000)
        packed[at] ^= 1 << bit
        assert found != content or error
        errors += error is not None
    assert errors > 10


def literals(count: int, flags: int) -> np.ndarray:
    """Codes of the bytes 0, which fill their space to the last byte, and a margin."""
    encoder = Encoder(flags & 0x1F, block_mode=flags >= 0x80)
    max_width = max(encoder.max_bits, 10)
    for written in range(count):
        encoder.write(0)
        if encoder.free + written == 1 << encoder.width and encoder.width < max_width:
            encoder.set_width(encoder.width + 1)
    encoder.write_group(whole=True)
    return np.frombuffer(encoder.packed[3:] + bytes(lzw_kernel.MARGIN), np.uint8)


@pytest.mark.parametrize("flags", [0x89, 0x8C, 0x90, 0x10, 0x09])
def test_the_kernel_stays_within_its_arrays(flags: int) -> None:
    """Any bytes as codes, in any pieces, between guards."""
    rng = np.random.default_rng(flags)
    size = 70_000
    for trial in range(60):
        packed = rng.integers(0, 256, 4000, np.uint8)
        if trial % 2:
            packed[rng.random(len(packed)) < 0.9] = 0  # so that bad codes come late
        if not trial:
            packed = literals(size + 10, flags)  # of which each number fits
        state = np.zeros(lzw_kernel.STATE_SIZE, np.int64)
        state[[lzw_kernel.WIDTH, lzw_kernel.OLD, lzw_kernel.MAX_BITS]] = 9, -1, flags & 0x1F
        state[lzw_kernel.CLEAR] = CLEAR if flags & 0x80 else -1
        state[lzw_kernel.FREE] = 257 if flags & 0x80 else 256
        guarded = {
            np.uint8: np.full(size + 200, 0xA5, np.uint8),
            np.uint32: np.full(lzw_kernel.MAX_CODES + 200, 0xA5, np.uint32),
            np.uint16: np.full(lzw_kernel.MAX_CODES + 200, 1, np.uint16),
        }
        values, links, counts = (array[100:-100] for array in guarded.values())
        status = lzw_kernel.NEEDS_ROOM
        while status == lzw_kernel.NEEDS_ROOM:
            status = lzw_kernel.decode_codes(packed, values, links, counts, state)
            assert 0 <= state[lzw_kernel.COUNT] <= size
        for dtype, array in guarded.items():
            guard = 1 if dtype is np.uint16 else 0xA5
            assert (array[:100] == guard).all()
            assert (array[-100:] == guard).all()


def gzip_reads(packed: bytes, path: Path) -> bytes:
    """What GNU gzip makes of it, whatever it says of its end."""
    if shutil.which("gzip") is None:
        pytest.skip("the program gzip is not installed")
    path.write_bytes(packed)
    return subprocess.run(["gzip", "-dc", path], capture_output=True).stdout


@each([entry for entry in FILES if entry["container"] == "unix-compress"])
def test_files_of_the_corpus(entry: dict[str, Any], tmp_path: Path) -> None:
    packed = (CORPUS / entry["file"]).read_bytes()
    content = gzip_reads(packed, tmp_path / "file.Z")
    assert len(content) == entry["layout"]["stream_bytes"]
    for step in (1, 1000, 1 << 30):
        assert outcome(packed, step) == (content, None)
    with fits.open(io.BytesIO(content)) as file:
        assert len(file)


@pytest.mark.slow
@pytest.mark.parametrize("clear_after", [501, 1 << 30])
def test_gzip_reads_what_the_encoder_writes(clear_after: int, tmp_path: Path) -> None:
    for max_bits in range(10, 17):
        packed = Encoder(max_bits).encode(MIXTURE, clear_after)
        assert gzip_reads(packed, tmp_path / "file.Z") == MIXTURE


@pytest.mark.slow
@pytest.mark.parametrize("max_bits", range(10, 17))
def test_the_program_agrees(max_bits: int, tmp_path: Path) -> None:
    """The table fills, and is cleared where strings no longer fit what comes."""
    if shutil.which("compress") is None:
        pytest.skip("the program compress is not installed")
    content = b"".join(mixture(300_000, seed) for seed in range(4))
    (tmp_path / "content").write_bytes(content)
    packed = subprocess.run(
        ["compress", "-b", str(max_bits), "-c", tmp_path / "content"],
        capture_output=True,
        check=True,
    ).stdout
    for step in (997, 1 << 30):
        assert outcome(packed, step) == (content, None)
