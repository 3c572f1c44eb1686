"""What a small file may ask for: time, memory, tiles, chunks, and pixels of a tile."""

from __future__ import annotations

import contextlib
import gzip
import os
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits.hdu.compressed import _compression

import dask_fits
from dask_fits import FitsError, FitsFormatError, TruncatedFileError, UnsupportedHduError
from dask_fits.arrays.lazy import MAX_CHUNKS
from dask_fits.codecs import astropy_c
from dask_fits.format.descriptors import FREE_PIXELS
from dask_fits.planning.chunks import count_chunks
from dask_fits.readers import tiled
from tests.support.fits_files import CARD, card, extension, header, primary, same_bits, size_cards
from tests.support.memory import peak_below
from tests.support.tiled_files import TiledParts, tiled_parts

PIXELS = np.arange(16, dtype="i4").reshape(4, 4)
SIDE = 4096


# Tiles that claim more pixels than their bytes can say


def tile_of(side: int, zcmptype: str, data: bytes, *, column: int = 0, **cards: object) -> bytes:
    """A file with an image of one tile of ``side * side`` pixels, whatever is in it."""
    zbitpix = int(cards.pop("ZBITPIX", 32))
    name = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")[column]
    parts = tiled_parts(PIXELS, zcmptype=zcmptype, tile=(4, 4), fallback={0: name})
    parts.heap[:] = b""
    size = {"PLIO_1": 2}.get(zcmptype, 1) if column == 0 else (1, 1, 4)[column]
    parts.append(data + bytes(-len(data) % size))
    parts.column(name)[0] = len(parts.heap) // size, 0
    described = dict.fromkeys(("ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2"), side)
    for keyword, value in {**described, "ZBITPIX": zbitpix, **cards}.items():
        parts.set_card(keyword, value)
    return parts.build()


def hcompress(side: int, planes: tuple[int, int, int] = (0, 0, 0), rest: bytes = bytes(8)) -> bytes:
    return b"\xdd\x99" + struct.pack(">iiiq3B", side, side, 1, 0, *planes) + rest


BIG_BLOCK = {"ZNAME1": "BLOCKSIZE", "ZVAL1": 2**31 - 1}
BOMBS = {
    "PLIO_1": tile_of(8192, "PLIO_1", struct.pack(">7h", 0, 7, -100, 7, 0, 0, 0)),
    "HCOMPRESS_1": tile_of(8192, "HCOMPRESS_1", hcompress(8192)),
    "HCOMPRESS_1, many planes": tile_of(
        8192, "HCOMPRESS_1", hcompress(8192, (60, 60, 60), b"\xff" * 1000)
    ),
    "RICE_1": tile_of(8192, "RICE_1", bytes(1000)),
    "RICE_1, one block": tile_of(8192, "RICE_1", bytes(1000), **BIG_BLOCK),
    "GZIP_1": tile_of(8192, "GZIP_1", gzip.compress(bytes(8192 * 8192 // 8))),
    "GZIP_2": tile_of(8192, "GZIP_2", gzip.compress(bytes(100))),
    "GZIP_1, 8 bytes": tile_of(4200, "GZIP_1", gzip.compress(bytes(4200**2 * 4)), ZBITPIX=64),
    "NOCOMPRESS": tile_of(4096, "NOCOMPRESS", bytes(1000)),
    "a fallback to gzip": tile_of(8192, "RICE_1", gzip.compress(bytes(100)), column=1),
    "a fallback to bytes": tile_of(4096, "RICE_1", bytes(1000), column=2),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_tile_that_claims_more_than_its_bytes_can_say_is_refused(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "bomb.fits"
    path.write_bytes(BOMBS[name])
    hdu = dask_fits.open(path)[1]
    with peak_below(30_000_000):  # pixels alone would take 64 MB and more
        for ask in (
            lambda: hdu.section[0, 0],
            lambda: hdu.plan((0, 0)),
            lambda: hdu.data[:2, :2].compute(scheduler="sync"),
        ):
            with pytest.raises(FitsFormatError, match=r"HDU 1: tile \(0, 0\).*descriptor .*pixels"):
                ask()
        found = dask_fits.cutouts([path], [[1, 1]], 2, fill_value=0)
    assert found.status.tolist() == ["failed"]
    assert isinstance(found.error[0], FitsFormatError)


def test_the_limit_is_for_pixels_that_have_no_bytes() -> None:
    assert FREE_PIXELS == SIDE * SIDE  # as documented


SPARSE = np.zeros((SIDE, SIDE), "i4")
SPARSE[1000, 3000] = 77


@pytest.mark.parametrize("zcmptype", ["RICE_1", "PLIO_1", "HCOMPRESS_1"])
def test_a_large_tile_with_almost_nothing_in_it_is_read(tmp_path: Path, zcmptype: str) -> None:
    if zcmptype == "RICE_1":
        data = _compression.compress_rice_1_c(SPARSE.tobytes(), 32, 4)
    elif zcmptype == "PLIO_1":
        words = _compression.compress_plio_1_c(SPARSE.tobytes(), SPARSE.size)
        data = np.frombuffer(words, "i2").astype(">i2").tobytes()
    else:
        native = SPARSE.astype("i8").tobytes()
        data = _compression.compress_hcompress_1_c(native, SIDE, SIDE, 0, 8)
    path = tmp_path / "sparse.fits"
    path.write_bytes(tile_of(SIDE, zcmptype, data))
    section = dask_fits.open(path)[1].section
    assert same_bits(section[990:1010, 2990:3010], SPARSE[990:1010, 2990:3010])


ONE_PIXEL = """
import resource, sys, warnings
import dask_fits
warnings.simplefilter("ignore")
dask_fits.open(sys.argv[1])[1].section[0, 0]  # compiles the kernels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(dask_fits.open(sys.argv[2])[1].section[0, 0])
except dask_fits.FitsError as error:
    print(type(error).__name__)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.parametrize("jit", [True, False], ids=["numba", "astropy"])
def test_one_pixel_of_the_largest_empty_tile_takes_bounded_memory(
    tmp_path: Path, jit: bool
) -> None:
    small, bomb = tmp_path / "small.fits", tmp_path / "bomb.fits"
    small.write_bytes(tiled_parts(PIXELS, zcmptype="HCOMPRESS_1", tile=(4, 4)).build())
    data = hcompress(SIDE, (62, 62, 62), b"\xf5" * 4096)
    bomb.write_bytes(tile_of(SIDE, "HCOMPRESS_1", data))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env |= {} if jit else {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ONE_PIXEL, small, bomb], env=env, capture_output=True, text=True
    )
    assert done.stderr == ""
    found, megabytes = done.stdout.split()
    assert found in ("0", "FitsFormatError")
    assert int(megabytes) < 350


@pytest.mark.parametrize("side", [4, 5, 8, 31, 64])
def test_an_hcompress_stream_cut_anywhere_stops_astropys_decoder(side: int) -> None:
    pixels = np.random.default_rng(side).integers(-1000, 1000, (side, side + 1)).astype("i8")
    whole = _compression.compress_hcompress_1_c(pixels.tobytes(), *pixels.shape, 0, 8)
    values = np.empty((1, *pixels.shape), np.int32)
    for length in range(1, len(whole), 7):
        data = np.frombuffer(whole[:length], np.uint8)
        where = np.array([0]), np.array([length])
        with contextlib.suppress(astropy_c.DecodeError):  # or wrong pixels, but no crash
            astropy_c.decode_hcompress(data, *where, values, smooth=False)
    data = np.frombuffer(whole, np.uint8)
    astropy_c.decode_hcompress(data, np.array([0]), np.array([len(whole)]), values, smooth=False)
    assert np.array_equal(values[0], pixels)


# More tiles and chunks than there are


def many_tiles(rows: int, **cards: object) -> TiledParts:
    parts = tiled_parts(PIXELS, zcmptype="RICE_1", tile=(1, 4))
    for keyword, value in {"NAXIS2": rows, **cards}.items():
        parts.set_card(keyword, value)
    return parts


ABSURD = {
    "2^40 tiles in a column": many_tiles(2**40, ZNAXIS1=1, ZTILE1=1, ZNAXIS2=2**40, ZTILE2=1),
    "2^40 tiles": many_tiles(2**40, ZNAXIS1=2**20, ZTILE1=1, ZNAXIS2=2**20, ZTILE2=1),
    "2^44 large tiles": many_tiles(2**44, ZNAXIS1=2**24, ZTILE1=1024, ZNAXIS2=2**35, ZTILE2=32),
}
ROAMING = [np.s_[...], np.s_[0, 0], np.s_[..., :1], np.s_[::7], np.s_[[0, 5]], np.s_[-1, -1]]


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("name", ABSURD)
def test_more_tiles_than_the_file_can_hold(tmp_path: Path, name: str) -> None:
    path = tmp_path / "absurd.fits"
    path.write_bytes(ABSURD[name].build())
    hdu = dask_fits.open(path)[1]
    assert hdu.layout.defect is None
    with peak_below(2_000_000):
        for key in ROAMING:
            for ask in (hdu.plan, hdu.section.__getitem__):
                with pytest.raises(TruncatedFileError, match=r"absurd\.fits: HDU 1: .* rows of"):
                    ask(key)
        for chunks in ("auto", 1, (1, -1), "1 kB"):
            with pytest.raises(TruncatedFileError, match="rows of the tiles"):
                hdu.plan(chunks=chunks)
        found = dask_fits.cutouts([path], [[0, 0], [0, 9]], 4, fill_value=0)
        with pytest.raises(TruncatedFileError, match="rows of the tiles"):
            hdu.to_dask(chunks=1)
    assert found.status.tolist() == ["failed", "failed"]
    assert isinstance(found.error[0], TruncatedFileError)
    assert repr(hdu.file)


def test_more_tiles_than_can_be_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.fits"
    path.write_bytes(tiled_parts(PIXELS, zcmptype="RICE_1", tile=(1, 1)).build())
    hdu = dask_fits.open(path)[1]
    monkeypatch.setattr(tiled, "MAX_TILES", 8)
    assert same_bits(hdu.section[:2], PIXELS[:2])
    with pytest.raises(UnsupportedHduError, match=r"HDU 1: found 12 tiles .* at most 8"):
        hdu.section[:3]
    assert same_bits(hdu.to_dask(chunks=2).compute(scheduler="sync"), PIXELS)


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("axes", [(2**46,), (1, 2**46), (2**23, 2**23), (3, 2**44)])
def test_more_chunks_than_can_be_listed(tmp_path: Path, axes: tuple[int, ...]) -> None:
    path = tmp_path / "absurd.fits"
    path.write_bytes(primary(*axes) + b"abc".ljust(2880))
    hdu = dask_fits.open(path)[0]
    with peak_below(2_000_000):
        for chunks in (1, (1,) * len(axes), "1 kB", {0: 1, len(axes) - 1: 1}, {-1: 1, 0: 7}):
            with pytest.raises(TruncatedFileError, match=r"absurd\.fits: HDU 0: .*NAXISn"):
                hdu.to_dask(chunks=chunks)
    assert hdu.to_dask(chunks=-1).numblocks == (1,) * len(axes)
    assert hdu.section[(0,) * len(axes)] == ord("a")


def test_chunks_of_a_real_image_may_be_too_many(tmp_path: Path) -> None:
    path = tmp_path / "wide.fits"
    with path.open("wb") as file:
        file.write(primary(5000, 5000))
        file.truncate(2880 + 25_000_000 + -25_000_000 % 2880)
    hdu = dask_fits.open(path)[0]
    with pytest.raises(ValueError, match=f"found 25000000 .*expected at most {MAX_CHUNKS}"):
        hdu.to_dask(chunks=1)
    assert hdu.to_dask(chunks=(1, 2)).npartitions == 12_500_000


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        *((3, 4 * 7), ((3, 5), 4 * 4), (-1, 1), (None, 1), (((4, 6), (20,)), 2), ({1: 6}, 4)),
        *(({0: 5, 1: -1}, 2), ({-1: 5}, 4), ((100, 100), 1), ("auto", 8), ((1, "auto"), 10)),
    ],
)
def test_count_chunks(chunks: object, expected: int) -> None:
    assert count_chunks(chunks, (10, 20), itemsize=4, limit=100) == expected


# Headers that could take long

HOSTILE: dict[str, list[bytes]] = {
    "a string over many CONTINUE cards": [
        b"EXTNAME = '" + b"A" * 67 + b"&'",
        *[(b"CONTINUE  '" + b"B" * 67 + b"&'").ljust(CARD)] * 190_000,
    ],
    "no blank and no =": [b"A" * CARD] * 190_000,
    "= at the ends": [b"A" * 79 + b"="] * 190_000,
    "quotes": [b"EXTNAME = " + b"'" * 70] * 190_000,
    "a name many times": [card("EXTNAME", "COMPRESSED_IMAGE")] * 190_000,
    "END with a rest": [b"END A".ljust(CARD)] * 190_000,
    "END and END": [b"END" * 26 + b"EN"] * 190_000,
    "long keywords": [b"NAXIS" + b"1" * 75] * 190_000,
    "tabs": [b"\t" * CARD] * 190_000,
}


@pytest.mark.untraced
@pytest.mark.parametrize("name", HOSTILE)
def test_a_long_header_takes_linear_time(tmp_path: Path, name: str) -> None:
    path = tmp_path / "long.fits"
    path.write_bytes(header(card("SIMPLE", True), *size_cards(8, []), *HOSTILE[name]))
    start = time.process_time()
    file = dask_fits.open(path)
    shown = repr(file) + file._repr_html_()
    with pytest.raises(FitsError) as caught:
        file["NOPE"]
    assert time.process_time() - start < 3
    assert len(shown) < 2000
    assert len(str(caught.value)) < 500


def test_a_name_over_many_continue_cards_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.fits"
    cards = [
        card("SIMPLE", True),
        *size_cards(8, []),
        *HOSTILE["a string over many CONTINUE cards"],
    ]
    path.write_bytes(header(*cards[:2000]))
    name = dask_fits.open(path)[0].name
    assert name == fits.getheader(path)["EXTNAME"] + "&"  # astropy drops the last one
    assert dask_fits.open(path)[name].index == 0


def test_a_message_does_not_repeat_a_value_of_megabytes(tmp_path: Path) -> None:
    long = HOSTILE["a string over many CONTINUE cards"][1:20_000]
    first = (b"BITPIX  = '" + b"A" * 67 + b"&'").ljust(CARD)
    path = tmp_path / "long.fits"
    path.write_bytes(header(card("SIMPLE", True), first, *long, card("NAXIS", 0)))
    with pytest.raises(FitsFormatError, match=r"BITPIX: found 'AAA.*\.\.\., expected") as caught:
        dask_fits.open(path)
    assert len(str(caught.value)) < 500


def test_parameters_of_an_algorithm_are_looked_through_once(tmp_path: Path) -> None:
    parts = tiled_parts(PIXELS, zcmptype="RICE_1")
    for n in range(1, 1000):
        parts.set_card(f"ZNAME{n}", "A" * 60 + "&")
    continues = HOSTILE["a string over many CONTINUE cards"][1:]
    parts.add_cards(continues)
    path = tmp_path / "parameters.fits"
    path.write_bytes(parts.build())
    start = time.process_time()
    assert len(dask_fits.open(path)) == 2
    assert time.process_time() - start < 3


def test_many_hdus(tmp_path: Path) -> None:
    path, count = tmp_path / "many.fits", 5000
    path.write_bytes(primary() + extension(extra=[card("EXTNAME", "A")]) * count)
    start = time.process_time()
    file = dask_fits.open(path)
    assert len(file) == count + 1
    assert "B" not in file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert file[-1].index == count
    assert time.process_time() - start < 3
