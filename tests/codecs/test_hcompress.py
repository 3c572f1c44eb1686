"""HCOMPRESS_1: the pixels are cfitsio's to the bit; whatever the bytes, nothing outside is touched."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from astropy.io.fits.hdu.compressed import _compression as cfitsio

from dask_fits.codecs import hcompress
from dask_fits.codecs.errors import DecodeError

pytestmark = pytest.mark.untraced

SHAPES = [(4, 4), (4, 5), (5, 4), (7, 7), (8, 8), (4, 33), (33, 4), (9, 16), (17, 31), (64, 64)]
SHAPES += [(5, 200), (200, 5), (65, 63), (128, 100)]
GUARD = -123456789


def by_astropy(stream: bytes, shape: tuple[int, int], *, smooth: bool = False) -> np.ndarray:
    """Decode a stream that is known to be sound: astropy reads on beyond the end of others."""
    pixels = cfitsio.decompress_hcompress_1_c(stream, *shape, 0, int(smooth), 8)
    return np.frombuffer(pixels, np.int32).reshape(shape)


def compressed(image: np.ndarray, scale: int = 0) -> bytes:
    return cfitsio.compress_hcompress_1_c(image.astype(np.int64).tobytes(), *image.shape, scale, 8)


def decoded(
    streams: Sequence[bytes], npix: int, *, smooth: bool = False, around: int = 0
) -> np.ndarray:
    """Decode streams that lie amid other bytes to rows that lie amid others, which stay."""
    pieces = [bytes([around]) * 40]
    for stream in streams:
        pieces += [stream, bytes([around]) * 7]
    data = np.frombuffer(b"".join(pieces), np.uint8)
    lengths = np.array([len(stream) for stream in streams], np.int64)
    starts = 40 + np.concatenate([[0], np.cumsum(lengths + 7)[:-1]]).astype(np.int64)
    values = np.full((len(streams) + 2, npix), GUARD, np.int32)
    try:
        hcompress.decode(data, starts, lengths, values[1:-1], smooth=smooth)
    finally:
        assert (values[[0, -1]] == GUARD).all()
    return values[1:-1]


def outcome(stream: bytes, npix: int, *, smooth: bool, around: int) -> tuple[int, str] | bytes:
    try:
        return decoded([stream], npix, smooth=smooth, around=around).tobytes()
    except DecodeError as error:
        return error.tile, error.reason


def check(stream: bytes, shape: tuple[int, int]) -> None:
    for smooth in (False, True):
        ours = decoded([stream], shape[0] * shape[1], smooth=smooth, around=255)
        np.testing.assert_array_equal(ours.reshape(shape), by_astropy(stream, shape, smooth=smooth))


def sky(shape: tuple[int, int], noise: float = 12.0) -> np.ndarray:
    rng = np.random.default_rng(shape)
    image = rng.normal(1000, noise, shape)
    image[shape[0] // 2, shape[1] // 3] += 20000
    return np.rint(image).astype(np.int64)


def images(shape: tuple[int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(shape)
    y, x = np.indices(shape)
    return {
        "sky": sky(shape),
        "zeros": np.zeros(shape, np.int64),
        "constant": np.full(shape, -77),
        "negative": rng.integers(-300, -200, shape),
        "ramp": 40 * y - 25 * x,
        "sparse": (rng.random(shape) < 0.02) * 5000,
        "int16": rng.integers(-(2**15), 2**15, shape),
        "int32": rng.integers(-(2**31), 2**31, shape),
        "extremes": np.where((x + y) % 2, 2**31 - 1, -(2**31)),
    }


@pytest.mark.parametrize("scale", [0, 1, 2, 3, 16, 100, 5000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_same_as_astropy(shape: tuple[int, int], scale: int) -> None:
    for name, image in images(shape).items():
        stream = compressed(image, scale)
        check(stream, shape)
        if scale <= 1:
            np.testing.assert_array_equal(decoded([stream], image.size).reshape(shape), image, name)


def test_large_tile() -> None:
    for shape in [(512, 513), (32, 4096)]:
        for scale in (0, 25):
            check(compressed(sky(shape), scale), shape)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(4, 20), st.integers(4, 20))
def test_same_as_astropy_for_any_image(data: st.DataObject, nx: int, ny: int) -> None:
    bits = data.draw(st.integers(1, 31))
    pixels = st.integers(-(2**bits), 2**bits - 1)
    image = np.array(data.draw(st.lists(pixels, min_size=nx * ny, max_size=nx * ny)))
    scale = data.draw(st.integers(0, 2 ** min(bits, 20)))
    check(compressed(image.reshape(nx, ny), scale), (nx, ny))


HUFFMAN = [
    "111110", "000", "001", "1000", "010", "1001", "11010", "11011",
    "011", "11100", "1010", "11101", "1011", "11110", "111111", "1100",
]  # fmt: skip


def tree(rng: np.random.Generator, height: int, width: int) -> str:
    """A quadtree of random codes."""
    height, width = max(height, 1), max(width, 1)
    codes = rng.integers(0, 16, (1, 1))
    text = HUFFMAN[codes[0, 0]]
    for level in reversed(range((max(height, width) - 1).bit_length())):
        rows, columns = -(-height >> level), -(-width >> level)
        below = np.zeros((rows, columns), int)
        for row in reversed(range(rows)):
            for column in reversed(range(columns)):
                if codes[row // 2, column // 2] >> (3 - 2 * (row % 2) - column % 2) & 1:
                    below[row, column] = code = rng.integers(0, 16)
                    text += HUFFMAN[code]
        codes = below
    return text


def header(
    nx: int, ny: int, planes: Sequence[int] = (0, 0, 0), scale: int = 0, total: int = 0
) -> bytes:
    return b"\xdd\x99" + struct.pack(">iiiq", nx, ny, scale, total) + bytes(planes)


def crafted(rng: np.random.Generator, shape: tuple[int, int], most: int, scale: int) -> bytes:
    """A sound stream with any number of bit planes, each in any form; zeros follow."""
    planes = rng.integers(0, most + 1, 3).tolist()
    text = ""
    for below, beside in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        height = ((shape[0] + 1 - below) // 2 + 1) // 2
        width = ((shape[1] + 1 - beside) // 2 + 1) // 2
        for _ in range(planes[below + beside]):
            if height * width and rng.integers(2):  # astropy has no memory for an empty one's tree
                text += "1111" + tree(rng, height, width)
            else:
                text += "0000" + "".join(map(str, rng.integers(0, 2, 4 * height * width)))
    text += "0000"
    text += "0" * (-len(text) % 8)
    bits = int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]
    total = int(rng.integers(-(2 ** (most + 8)), 2 ** (most + 8))) if most < 50 else 2**62 + 12345
    signs = rng.bytes(shape[0] * shape[1] // 8 + 1)
    return header(*shape, planes, scale, total) + bits + signs + bytes(64)


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (1, 9), (9, 1), (3, 3), (2, 7), (12, 21), (40, 6)], ids=str)  # fmt: skip
def test_streams_that_astropy_does_not_write(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for most in (1, 3, 16, 17, 33, 40):
        for scale in (-1, 0, 1, 2, 7, 1000):
            check(crafted(rng, shape, most, scale), shape)
    stream = crafted(rng, shape, 63, 0)
    ours = decoded([stream], shape[0] * shape[1]).reshape(shape)
    np.testing.assert_array_equal(ours, by_astropy(stream, shape))


def test_one_pixel() -> None:
    stream = header(1, 1, total=2**32 - 5, scale=0) + bytes(1)
    assert decoded([stream], 1).tolist() == [[-5]]
    stream = header(1, 1, total=-7, scale=3) + bytes(1)
    assert decoded([stream], 1, smooth=True).tolist() == [[-21]]


def test_tree_of_an_empty_quadrant() -> None:
    bits = "1111" + "111110" + "1111" + "111110" + "0000"  # no rows beside, no differences below
    stream = header(3, 1, (0, 1, 0), total=100) + int(bits, 2).to_bytes(3, "big")
    plain = header(3, 1, total=100) + bytes(1)
    np.testing.assert_array_equal(decoded([stream], 3), decoded([plain], 3))


def test_several_tiles() -> None:
    shapes = [(16, 16), (8, 32), (32, 8), (4, 64), (64, 4)] * 3  # all of 256 pixels
    streams = [compressed(sky(shape) + i, i) for i, shape in enumerate(shapes)]
    for smooth in (False, True):
        ours = decoded(streams, 256, smooth=smooth)
        for row, stream, shape in zip(ours, streams, shapes, strict=True):
            expected = by_astropy(stream, shape, smooth=smooth)
            np.testing.assert_array_equal(row.reshape(shape), expected)


def test_no_tiles() -> None:
    empty = np.empty(0, np.int64)
    hcompress.decode(np.empty(0, np.uint8), empty, empty, np.empty((0, 9), np.int32), smooth=True)


def test_first_bad_tile_is_named() -> None:
    good = compressed(sky((16, 16)))
    with pytest.raises(DecodeError) as caught:
        decoded([good, good, good[:-1], b""], 256)
    assert (caught.value.tile, caught.value.reason) == (2, "the compressed bytes end early")


def test_threads_do_not_share_anything() -> None:
    streams = [compressed(sky((32, 32), noise)) for noise in (1.0, 30.0, 900.0)]
    expected = [by_astropy(stream, (32, 32)).reshape(1, -1) for stream in streams]
    wrong = []

    def work(number: int) -> None:
        results = [decoded([streams[number]], 1024) for _ in range(100)]
        wrong.extend(number for found in results if not np.array_equal(found, expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


BAD = {
    b"": "the compressed bytes end early",
    header(16, 16)[:-1]: "the compressed bytes end early",
    header(16, 16): "the compressed bytes end early",
    header(16, 16, total=9, planes=(1, 0, 0)) + b"\x00\x00": "the compressed bytes end early",
    header(16, 16, planes=(1, 0, 0)) + b"\xf0": "the compressed bytes end early",
    header(16, 16, planes=(1, 0, 0)) + b"\xf8": "the compressed bytes end early",
    bytes(80): "found magic bytes 0x0000, expected 0xdd99",
    b"\xdd\x98" + bytes(80): "found magic bytes 0xdd98, expected 0xdd99",
    header(10, 20) + bytes(9): "found 10 x 20 pixels in the stream, expected 256 in the tile",
    header(0, 16) + bytes(9): "found 0 x 16 pixels in the stream, expected 256 in the tile",
    header(-16, -16) + bytes(9): "found -16 x -16 pixels in the stream, expected 256 in the tile",
    header(2**31 - 1, 2**31 - 1): f"found {2**31 - 1} x {2**31 - 1} pixels in the stream, expected 256 in the tile",
    header(2**16, 2**16): "found 65536 x 65536 pixels in the stream, expected 256 in the tile",
    header(16, 16, (1, 64, 2)): "found 64 bit planes, expected at most 63",
    header(16, 16, (1, 2, 255)): "found 255 bit planes, expected at most 63",
    header(16, 16, (1, 0, 0)) + b"\x50": "found code 0x5 before a bit plane, expected 0x0 or 0xf",
    header(16, 16) + b"\xb0": "found end mark 0xb after the bit planes, expected 0x0",
}  # fmt: skip


@pytest.mark.parametrize(("stream", "reason"), BAD.items(), ids=[str(i) for i in range(len(BAD))])
def test_reason(stream: bytes, reason: str) -> None:
    good = compressed(sky((16, 16)))
    with pytest.raises(DecodeError) as caught:
        decoded([good, stream, good], 256)
    assert (caught.value.tile, caught.value.reason) == (1, reason)


@pytest.mark.parametrize("scale", [0, 20])
@pytest.mark.parametrize("shape", [(4, 4), (7, 9), (16, 16), (24, 40)], ids=str)
def test_every_truncation(shape: tuple[int, int], scale: int) -> None:
    stream = compressed(sky(shape), scale)
    npix = shape[0] * shape[1]
    whole = outcome(stream, npix, smooth=False, around=0)
    for length in range(len(stream)):
        for around in (0, 255):
            found = outcome(stream[:length], npix, smooth=False, around=around)
            assert found in ((0, "the compressed bytes end early"), whole)
        if length < len(stream) - 2:
            assert found != whole
    assert outcome(stream + b"\x07\xff", npix, smooth=False, around=9) == whole


def test_bytes_outside_are_not_read() -> None:
    rng = np.random.default_rng(7)
    for _ in range(1500):
        shape = tuple(rng.integers(1, 24, 2).tolist())
        planes = rng.integers(0, 64 if rng.integers(2) else 8, 3).tolist()
        body = bytearray(rng.bytes(rng.integers(0, 400)))
        if body:
            body[0] |= 0xF0 * int(rng.integers(2))
        stream = header(*shape, planes, int(rng.integers(-5, 5000)), 2**40) + bytes(body)
        smooth = bool(rng.integers(2))
        npix = shape[0] * shape[1]
        results = [outcome(stream, npix, smooth=smooth, around=around) for around in (0, 85, 255)]
        assert results[0] == results[1] == results[2]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_flipped_bytes(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(4, 4), (9, 6), (16, 16), (5, 30)]))
    stream = bytearray(compressed(sky(shape), data.draw(st.sampled_from([0, 9]))))
    for at in data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=1, max_size=4)):
        stream[at] ^= data.draw(st.integers(1, 255))
    npix, smooth = shape[0] * shape[1], data.draw(st.booleans())
    results = [outcome(bytes(stream), npix, smooth=smooth, around=x) for x in (0, 255)]
    assert results[0] == results[1]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 300), st.booleans())
def test_any_bytes(stream: bytes, npix: int, smooth: bool) -> None:
    for whole in (stream, b"\xdd\x99" + stream, header(1, max(npix, 1), (20, 30, 40)) + stream):
        assert outcome(whole, npix, smooth=smooth, around=0) == outcome(
            whole, npix, smooth=smooth, around=255
        )


def test_long_and_thin_tiles_with_most_planes() -> None:
    rng = np.random.default_rng(3)
    for shape in [(1, 60000), (60000, 1), (2, 30000), (245, 245)]:
        stream = header(*shape, (63, 63, 63), 3) + b"\xff" + rng.bytes(4000)
        result = outcome(stream, shape[0] * shape[1], smooth=True, around=0)
        assert isinstance(result, tuple)


def test_data_may_be_read_only() -> None:
    stream = compressed(sky((8, 8)))
    data = np.frombuffer(stream, np.uint8)
    assert not data.flags.writeable
    for bits in (data, data.copy()):
        values = np.empty((1, 64), np.int32)
        hcompress.decode(bits, np.zeros(1, np.int64), np.array([len(stream)]), values, smooth=False)
        np.testing.assert_array_equal(values.reshape(8, 8), sky((8, 8)))
