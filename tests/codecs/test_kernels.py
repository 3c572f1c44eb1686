"""The compiled decoders: equal to astropy's C on good streams, harmless on bad ones."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from astropy.io.fits.hdu.compressed import _compression as astropy_c
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from dask_fits.codecs import dither, plio, quantize, rice
from dask_fits.codecs.errors import DecodeError

pytestmark = pytest.mark.untraced

SEEDS = st.integers(0, 2**32 - 1)
GUARD = -1234567


def decode(
    decoder: Any, tiles: Sequence[bytes], npix: int, *, gap: bytes = b"", **options: Any
) -> np.ndarray:
    """Decode tiles that lie among other bytes, and see that only their own pixels are written."""
    data = gap + gap.join(tiles) + gap
    lengths = np.array([len(tile) for tile in tiles], np.int64)
    starts = np.cumsum(lengths) - lengths + len(gap) * np.arange(1, len(tiles) + 1)
    around = np.full((len(tiles) + 2, npix), GUARD, np.int32)
    values = around[1:-1]
    try:
        decoder.decode(np.frombuffer(data, np.uint8), starts, lengths, values, **options)
    finally:
        assert (around[[0, -1]] == GUARD).all()
    return values


def outcome(decoder: Any, tile: bytes, npix: int, **options: Any) -> Any:
    """Pixels, or None where the tile cannot be decoded; the same whatever lies beside the tile."""
    found: list[Any] = []
    damaged: list[int] = []
    for gap in (b"", bytes(16), b"\xff" * 16):
        try:
            found.append(decode(decoder, [tile], npix, gap=gap, **options)[0].tolist())
        except DecodeError as error:
            damaged.append(error.tile)
            found.append(None)
    assert not any(damaged)
    assert found[0] == found[1] == found[2]
    return found[0]


# RICE_1

KIND_BITS = {1: 3, 2: 4, 4: 5}
RAW_KIND = {1: 7, 2: 15, 4: 26}
DTYPES = {1: np.uint8, 2: np.int16, 4: np.int32}


def rice_codes(pixels: np.ndarray) -> list[int]:
    """The differences, as the unsigned numbers that a stream holds."""
    half, full = 1 << (8 * pixels.itemsize - 1), 1 << (8 * pixels.itemsize)
    steps = np.diff(pixels.astype(np.int64), prepend=pixels[:1].astype(np.int64))
    steps = (steps + half) % full - half
    return [2 * step if step >= 0 else -2 * step - 1 for step in steps.tolist()]


def rice_stream(pixels: np.ndarray, blocksize: int, rng: np.random.Generator) -> bytes:
    """Encode in a way of which there are many: each block of any kind that can hold it."""
    bytepix = pixels.itemsize
    nbits = 8 * bytepix
    bits = format(int(pixels[0]) % (1 << nbits), f"0{nbits}b")
    codes = rice_codes(pixels)
    for start in range(0, len(codes), blocksize):
        block = codes[start : start + blocksize]
        raw = RAW_KIND[bytepix]
        fitting = [kind for kind in range(1, raw) if max(block) >> (kind - 1) <= 200]
        if rng.random() < 0.7:
            fitting = fitting[:2]
        if rng.random() < 0.3 or not fitting:
            fitting = [*fitting, raw]
        if not any(block) and rng.random() < 0.7:
            fitting = [0]
        kind = int(rng.choice(fitting))
        bits += format(kind, f"0{KIND_BITS[bytepix]}b")
        for code in block if kind else []:
            if kind == raw:
                bits += format(code, f"0{nbits}b")
            else:
                low = format(code, f"0{nbits}b")[nbits - kind + 1 :]
                bits += "0" * (code >> (kind - 1)) + "1" + low
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def rice_by_the_book(stream: bytes, npix: int, blocksize: int, bytepix: int) -> list[int] | None:
    """A decoder too simple to be wrong: any stream -> pixels, or None."""
    bits = "".join(format(byte, "08b") for byte in stream)
    nbits, at, pixels = 8 * bytepix, 0, []

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise EOFError
        return int(bits[at - count : at] or "0", 2)

    try:
        last = take(nbits)
        while len(pixels) < npix:
            kind = take(KIND_BITS[bytepix])
            if kind > RAW_KIND[bytepix]:
                return None
            for _ in range(min(blocksize, npix - len(pixels))):
                code = 0
                if kind == RAW_KIND[bytepix]:
                    code = take(nbits)
                elif kind:
                    while not take(1):
                        code += 1
                    code = ((code << (kind - 1)) | take(kind - 1)) % 2**32
                last += -(code + 1) // 2 if code % 2 else code // 2
                pixels.append(last)
    except EOFError:
        return None
    return np.array(pixels, object).astype(np.int64).astype(DTYPES[bytepix]).tolist()


def astropy_rice(stream: bytes, npix: int, blocksize: int, bytepix: int) -> np.ndarray:
    """Only for good streams: it reads beyond the end of damaged ones."""
    raw = astropy_c.decompress_rice_1_c(stream, blocksize, bytepix, npix)
    return np.frombuffer(raw, DTYPES[bytepix])


def rice_pixels(npix: int, bytepix: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels of every character, in one array."""
    limits = np.iinfo(DTYPES[bytepix])
    mean = rng.integers(limits.min, limits.max, endpoint=True)
    spread = 2.0 ** rng.uniform(-2, 8 * bytepix)
    noise = (mean + rng.normal(0, spread, npix)).round().astype(np.int64)
    full = rng.integers(limits.min, limits.max, npix, endpoint=True)
    extremes = rng.choice([limits.min, limits.max], npix)
    constant = np.full(npix, mean)
    which = np.repeat(rng.integers(0, 6, npix // 20 + 1), 20)[:npix]
    return np.choose(which, [noise, noise, noise, full, extremes, constant]).astype(DTYPES[bytepix])


@settings(max_examples=200)
@given(
    bytepix=st.sampled_from([1, 2, 4]),
    blocksize=st.sampled_from([1, 2, 3, 8, 16, 31, 32, 33, 64, 1000]),
    npix=st.integers(1, 300),
    tiles=st.integers(1, 4),
    gap=st.binary(max_size=9),
    seed=SEEDS,
)
def test_rice_equals_astropy(
    bytepix: int, blocksize: int, npix: int, tiles: int, gap: bytes, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = [rice_pixels(npix, bytepix, rng) for _ in range(tiles)]
    streams = [rice_stream(pixels, blocksize, rng) for pixels in images]
    found = decode(rice, streams, npix, gap=gap, blocksize=blocksize, bytepix=bytepix)
    np.testing.assert_array_equal(found, images)
    expected = [astropy_rice(stream, npix, blocksize, bytepix) for stream in streams]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bytepix", [1, 2, 4])
@pytest.mark.parametrize("npix", [1, 7, 32, 100, 4096, 100_003])
@pytest.mark.parametrize("sigma", [0, 0.5, 5, 30])
def test_rice_of_astropys_encoder(bytepix: int, npix: int, sigma: float) -> None:
    rng = np.random.default_rng(npix)
    sky = 100 + 20 * np.sin(np.arange(npix) / 300) + rng.normal(0, sigma, (2, npix))
    images = sky.clip(0, 255).round().astype(DTYPES[bytepix])
    streams = [
        astropy_c.compress_rice_1_c(image.tobytes(), 32, bytepix)  # it knows of no tiles
        for image in images
    ]
    found = decode(rice, streams, npix, blocksize=32, bytepix=bytepix)
    np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize("bytepix", [1, 2, 4])
@pytest.mark.parametrize("blocksize", [1, 5, 32])
@pytest.mark.parametrize("npix", [1, 4, 33, 70])
def test_every_prefix_of_a_rice_stream_is_refused(bytepix: int, blocksize: int, npix: int) -> None:
    rng = np.random.default_rng([bytepix, blocksize, npix])
    pixels = rice_pixels(npix, bytepix, rng)
    stream = rice_stream(pixels, blocksize, rng)
    good = outcome(rice, stream, npix, blocksize=blocksize, bytepix=bytepix)
    assert good == pixels.tolist()
    for end in range(len(stream)):
        with pytest.raises(DecodeError, match="ends early") as caught:
            decode(
                rice,
                [stream, stream[:end]],
                npix,
                gap=b"\xff",
                blocksize=blocksize,
                bytepix=bytepix,
            )
        assert caught.value.tile == 1
    longer = outcome(rice, stream + b"\xa5\x00", npix, blocksize=blocksize, bytepix=bytepix)
    assert longer == good


@settings(max_examples=300)
@given(
    stream=st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([0, 0, 0, 1, 4, 16, 32, 128, 255]), max_size=80).map(bytes),
    ),
    bytepix=st.sampled_from([1, 2, 4]),
    blocksize=st.sampled_from([1, 4, 6, 32]),
    npix=st.integers(1, 80),
)
@example(b"", 4, 32, 1)
@example(bytes(4) + b"\x08" + bytes(500) + b"\x01", 4, 32, 1)  # 4000 zeros before the 1
@example(bytes(4) + b"\xc8" + bytes(500) + b"\x01" + b"\xff" * 9, 4, 32, 1)
@example(bytes(4) + b"\x08" + bytes(500), 4, 32, 1)
def test_rice_by_the_book(stream: bytes, bytepix: int, blocksize: int, npix: int) -> None:
    expected = rice_by_the_book(stream, npix, blocksize, bytepix)
    assert outcome(rice, stream, npix, blocksize=blocksize, bytepix=bytepix) == expected


@settings(max_examples=200)
@given(bytepix=st.sampled_from([1, 2, 4]), npix=st.integers(1, 200), seed=SEEDS)
def test_rice_with_a_changed_byte(bytepix: int, npix: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = bytearray(rice_stream(rice_pixels(npix, bytepix, rng), 32, rng))
    stream[rng.integers(len(stream))] ^= int(rng.integers(1, 256))
    expected = rice_by_the_book(bytes(stream), npix, 32, bytepix)
    assert outcome(rice, bytes(stream), npix, blocksize=32, bytepix=bytepix) == expected


@pytest.mark.parametrize("blocksize", [1, 32, 10**6, 2**62, 2**63 - 1, 2**70])
def test_rice_of_nothing_but_zeros_ends(blocksize: int) -> None:
    npix = 10**6
    assert (
        decode(rice, [bytes(2**20)], npix, blocksize=blocksize, bytepix=4) == 0
    ).all()  # every block is of the kind that has no differences
    run = b"\x00" * 4 + b"\x08" + bytes(2**20)  # a code that never ends
    with pytest.raises(DecodeError, match="ends early"):
        decode(rice, [run], npix, blocksize=blocksize, bytepix=4)


def test_rice_of_no_known_kind() -> None:
    with pytest.raises(DecodeError, match="no known kind") as caught:
        decode(rice, [bytes(9), bytes(4) + b"\xd8" + bytes(9)], 8, blocksize=8, bytepix=4)
    assert caught.value.tile == 1


@pytest.mark.parametrize(("blocksize", "bytepix"), [(0, 2), (-1, 4), (32, 8), (32, 0), (32, 3)])
def test_rice_of_no_known_parameters(blocksize: int, bytepix: int) -> None:
    with pytest.raises(ValueError, match="no RICE_1 code has blocksize="):
        decode(rice, [bytes(99)], 8, blocksize=blocksize, bytepix=bytepix)


# PLIO_1


def line_list(words: Sequence[int], *, form: int = 0, pad: int = 0) -> bytes:
    """Put a header before instructions: the old form, or the new one, or that with a gap."""
    first = [3, 7, 9][form]
    length = first + len(words)
    header = [0, 0, length] if form == 0 else [0, first, 0, length & 0x7FFF, length >> 15, 0, 0]
    header += [0x7FF] * (first - len(header))
    return np.array([*header, *words, *[0x4005] * pad], np.int64).astype(">i2").tobytes()


def plio_by_the_book(words: Sequence[int], npix: int) -> list[int] | None:
    """Carry out instructions; None where one is cut."""
    pixels: list[int] = []
    high, queue = 1, iter(words)
    for word in queue:
        code, count = (word >> 12) & 15, word & 4095
        if code == 1:
            second = next(queue, None)
            if second is None:
                return None
            high = count + (((second & 0xFFFF) ^ 0x8000) - 0x8000) * 4096
        if code in (2, 6):
            high += count
        if code in (3, 7):
            high -= count
        if code in (0, 4, 5):
            pixels += [high if code == 4 else 0] * count
        if code == 5 and count:
            pixels[-1] = high
        if code in (6, 7):
            pixels.append(high)
        if len(pixels) >= npix:
            break
    pixels += [0] * (npix - len(pixels))
    return pixels[:npix]


def astropy_plio(stream: bytes, npix: int) -> list[int]:
    native = np.frombuffer(stream, ">i2").astype(np.int16).tobytes()
    return np.frombuffer(astropy_c.decompress_plio_1_c(native, npix), np.int32).tolist()


@st.composite
def instructions(draw: st.DrawFn) -> list[int]:
    counts = st.one_of(st.integers(0, 20), st.integers(0, 4095))
    words: list[int] = []
    for code in draw(st.lists(st.integers(0, 7), max_size=40)):
        words.append((code << 12) | draw(counts))
        if code == 1:
            words.append(draw(st.integers(0, 4095)))
    return words


@settings(max_examples=300)
@given(
    words=instructions(),
    npix=st.one_of(st.integers(1, 60), st.integers(1, 6000)),
    form=st.integers(0, 2),
    pad=st.integers(0, 3),
)
def test_plio_equals_astropy(words: list[int], npix: int, form: int, pad: int) -> None:
    stream = line_list(words, form=form, pad=pad)
    found = outcome(plio, stream, npix)
    assert found == plio_by_the_book(words, npix)
    assert found == astropy_plio(stream, npix)


@pytest.mark.parametrize("npix", [1, 8, 100, 5000, 70_000])
def test_plio_of_astropys_encoder(npix: int) -> None:
    rng = np.random.default_rng(npix)
    runs = np.repeat(rng.integers(0, 4000, (5, npix // 9 + 1)), 9, axis=1)[:, :npix]
    masks = np.where(rng.random((5, npix)) < 0.5, runs, rng.integers(0, 3, (5, 1))).astype("i4")
    masks[0] = 0
    masks[1] = 1 << 20
    masks[2] = rng.random(npix) < 0.01
    words = [np.frombuffer(astropy_c.compress_plio_1_c(m.tobytes(), npix), "i2") for m in masks]
    streams = [part.astype(">i2").tobytes() for part in words]
    np.testing.assert_array_equal(decode(plio, streams, npix, gap=b"\x40"), masks)


@settings(max_examples=300)
@given(
    words=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=30),
    npix=st.integers(1, 5000),
    form=st.integers(0, 2),
)
def test_plio_by_the_book(words: list[int], npix: int, form: int) -> None:
    assert outcome(plio, line_list(words, form=form), npix) == plio_by_the_book(words, npix)


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(1, 100))
def test_plio_of_any_bytes(stream: bytes, npix: int) -> None:
    outcome(plio, stream, npix)


@pytest.mark.parametrize("header", [[0, 0, 0, 0, 0, 0, 0], [0, 7, -5, 0, -1, 0, 0]])
def test_plio_of_an_empty_list(header: list[int]) -> None:
    stream = np.array([*header, 0x4005], ">i2").tobytes()
    assert outcome(plio, stream, 20) == [0] * 20


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "shorter than a header"),
        ([0, 0], "shorter than a header"),
        ([0, 7, 0, 7], "shorter than a header"),
        ([0, 0, 5, 0x4001], "longer than its bytes"),
        ([0, 7, 0, 8, 0, 0, 0], "longer than its bytes"),
        ([0, 7, 0, 7, 1, 0, 0], "longer than its bytes"),
        ([0, 2, 0, 7, 0, 0, 0], "begin outside"),
        ([0, -3, 0, 7, 0, 0, 0], "begin outside"),
        ([0, 8, 0, 7, 0, 0, 0, 0x4001], "begin outside"),
        ([0, 0, 4, 0x1001], "within an instruction"),
        ([0, 0, 4, 0x1001, 0x0001], "within an instruction"),
    ],
)
def test_damaged_line_lists(words: list[int], reason: str) -> None:
    good = line_list([0x4003])
    with pytest.raises(DecodeError, match=reason) as caught:
        decode(plio, [good, np.array(words, ">i2").tobytes(), good], 20, gap=b"\x00\x04")
    assert caught.value.tile == 1


def test_odd_line_lists() -> None:
    with pytest.raises(DecodeError, match="no whole number of 16-bit words"):
        decode(plio, [line_list([0x4003]) + b"\x00"], 20)


# Floats


def test_table_of_random_numbers() -> None:
    seeds = list(
        itertools.accumulate(range(10_000), lambda s, _: 16807 * s % (2**31 - 1), initial=1)
    )
    expected = (np.array(seeds[1:]) / (2**31 - 1)).astype(np.float32)
    assert seeds[10_000] == 1043618065
    assert quantize.RANDOM.dtype == np.float32
    np.testing.assert_array_equal(quantize.RANDOM, expected)
    assert quantize.RANDOM is dither.RANDOM


def astropy_floats(
    values: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    rows: np.ndarray,
    *,
    method: int,
    dtype: type,
) -> np.ndarray:
    if method == 0:
        with np.errstate(over="ignore"):
            return (values * scales[:, None] + zeros[:, None]).astype(dtype)
    double = np.dtype(dtype) == np.float64
    convert = astropy_c.unquantize_double_c if double else astropy_c.unquantize_float_c
    tiles = zip(values, scales.tolist(), zeros.tolist(), rows.tolist(), strict=True)
    raw = b"".join(
        convert(tile.tobytes(), row % 10_000 + 1, tile.size, scale, zero, method, 0, 0, 0.0, 4)
        for tile, scale, zero, row in tiles
    )
    return np.frombuffer(raw, dtype).reshape(values.shape)


def check_floats(
    values: np.ndarray, rows: np.ndarray, rng: np.random.Generator, *, method: int, dtype: type
) -> None:
    n = len(values)
    scales, zeros = 2 ** rng.uniform(-20, 20, n), rng.normal(0, 100, n)
    expected = astropy_floats(values, scales, zeros, rows, method=method, dtype=dtype)
    blanks = values[np.arange(n), rng.integers(values.shape[1], size=n)].astype(np.int64)
    blanks[::3] += 2**32  # no pixel can have it
    around = np.full((n + 2, values.shape[1]), GUARD, dtype)
    for has_blank in (False, True):
        quantize.unquantize(
            values,
            scales,
            zeros,
            around[1:-1],
            method=method,
            rows=rows,
            blanks=blanks,
            has_blank=has_blank,
        )
        undefined = (values == blanks[:, None]) & has_blank
        # Equal to the bit, but for the kind of NaN.
        np.testing.assert_array_equal(around[1:-1], np.where(undefined, dtype(np.nan), expected))
        assert (around[[0, -1]] == GUARD).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", [0, 1, 2])
@pytest.mark.parametrize("npix", [1, 100, 9_500, 10_000, 35_000])
def test_floats_equal_astropys(npix: int, method: int, dtype: type) -> None:
    rng = np.random.default_rng([npix, method])
    rows = np.array([0, 1, 4321, 9_998, 9_999, 10_000, 123_456_789])
    small = rng.integers(-2000, 2000, (len(rows), npix))
    large = rng.integers(-(2**31), 2**31, (len(rows), npix))
    special = rng.choice([-(2**31), -(2**31) + 1, -(2**31) + 2, -(2**31) + 3, 2**31 - 1, 0])
    values = np.choose(rng.integers(0, 3, small.shape), [small, large, special]).astype(np.int32)
    check_floats(values, rows, rng, method=method, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_seed_begins_where_astropys_does(dtype: type) -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(-50, 50, (10_000, 2), np.int32)
    check_floats(values, np.arange(10_000), rng, method=1, dtype=dtype)


@settings(max_examples=100)
@given(
    npix=st.integers(1, 50),
    tiles=st.integers(0, 5),
    method=st.integers(0, 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    first=st.integers(0, 20_000),
    seed=SEEDS,
)
def test_floats_of_small_tiles(
    npix: int, tiles: int, method: int, dtype: type, first: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**31), -(2**31) + 5, (tiles, npix)).astype(np.int32)
    check_floats(values, first + np.arange(tiles), rng, method=method, dtype=dtype)


def test_zero_is_exact_under_the_second_dither_only() -> None:
    values = np.full((1, 4), dither.ZERO_VALUE, np.int32)
    for method, expected in ((1, False), (2, True)):
        out = np.empty((1, 4))
        column = np.ones(1)
        rows = np.zeros(1, np.int64)
        quantize.unquantize(
            values, column, column, out, method=method, rows=rows, blanks=rows, has_blank=True
        )
        assert (out == 0).all() == expected
