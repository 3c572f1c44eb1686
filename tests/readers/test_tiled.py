"""Tile-compressed images: the pixels are astropy's, cfitsio's or those of the Standard's formulas."""

from __future__ import annotations

import gzip
import io
import itertools
import math
import pickle
import random
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from dask.base import tokenize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dask_fits
import dask_fits.codecs.registry as codec_registry
import dask_fits.streams.inflate as inflating
from dask_fits import ByteRange, FitsFormatError
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.selection import select
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.ranges.cost import DEFAULT_COST
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from dask_fits.readers.tiled import TiledReader
from tests.support.corpus import random_keys
from tests.support.fits_files import WatchedStore, blocks, card, coalescing, primary, same_bits
from tests.support.pairwise import pairwise
from tests.support.strategies import keys
from tests.support.tiled_files import ELEMENTS, Quantize, TiledParts, big_endian, tiled_parts

pytestmark = pytest.mark.untraced


@pytest.fixture(params=["numba", "astropy"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The decoders: numba's, or astropy's C functions for who has no numba."""
    if request.param == "numba":
        pytest.importorskip("numba")
    else:

        def missing(name: str) -> None:
            raise ImportError(name)

        monkeypatch.setattr(codec_registry, "_load_compiled", missing)
    codec_registry.decoder.cache_clear()
    yield request.param
    codec_registry.decoder.cache_clear()


@pytest.fixture(params=["isal", "zlib"])
def inflate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The inflator of gzip streams: ISA-L's, or the standard library's for who has no isal."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setattr(inflating, "_library", zlib)
    return request.param


def test_the_engine_is_the_one_meant(engine: str) -> None:
    names: tuple[codec_registry.DecoderName, ...] = (
        "RICE_1",
        "PLIO_1",
        "HCOMPRESS_1",
        "unquantize",
    )
    modules = {codec_registry.decoder(name).decode.__module__.rpartition(".")[2] for name in names}
    plain, compiled = {"astropy_c", "quantize_numpy"}, {"rice", "plio", "hcompress", "quantize"}
    assert modules == (compiled if engine == "numba" else plain)


def test_the_inflator_is_the_one_meant(inflate: str) -> None:
    assert inflating._library.__name__.rpartition(".")[2] == {"isal": "isal_zlib"}.get(
        inflate, "zlib"
    )


def opened(content: bytes, hdu: int = 1) -> HDU:
    return FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")[hdu]


def by_astropy(content: bytes, hdu: int = 1, **options: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content), **options) as file:
            return np.array(file[hdu].data)


def assert_reads(hdu: HDU, expected: np.ndarray, tile: Sequence[int] | None = None) -> None:
    """Whole, in sections, and as a Dask array whose chunks are tiles, or are not.

    All bits are compared, those of NaN too: a NaN that is made is NumPy's own, as in astropy.
    """
    assert (hdu.kind, hdu.shape) == ("compressed-image", expected.shape)
    assert hdu.dtype == expected.dtype.newbyteorder("=")
    reader = hdu.reader()
    assert same_bits(reader[...], expected)
    seed = f"{expected.shape} {tile} {expected.dtype} {hdu.compression}"
    for key in random_keys(expected.shape, seed):
        assert same_bits(reader[key], expected[key]), key
    tile = tile or (1,) * (expected.ndim - 1) + expected.shape[-1:]
    aligned, across = list(map(min, tile, expected.shape)), [n * 3 // 5 + 1 for n in expected.shape]
    while math.prod(-(-n // part) for n, part in zip(expected.shape, aligned, strict=True)) > 6:
        aligned = [2 * part for part in aligned]  # whole tiles still, and not too many chunks
    chunks = random.Random(seed).choice(["auto", tuple(aligned), tuple(across)])
    lazy = hdu.to_dask(chunks)
    assert same_bits(lazy.compute(scheduler="sync", optimize_graph=False), expected), chunks


# Files that astropy writes

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {
    "1d-default": ((97,), None),
    "1d-edge": ((97,), (20,)),
    "2d-default": ((33, 46), None),
    "2d-squares-edges": ((33, 46), (9, 10)),
    "2d-whole": ((33, 46), (33, 46)),
    "2d-larger-than-an-axis": ((33, 46), (50, 7)),
    "2d-columns": ((9, 46), (9, 1)),
    "3d-default": ((4, 9, 14), None),
    "3d-cubes-edges": ((5, 9, 14), (2, 4, 6)),
    "4d-edges": ((3, 2, 9, 11), (2, 1, 4, 6)),
}
PLANES: dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]] = {  # what HCOMPRESS_1 can cut
    "2d-default": ((38, 46), None),
    "2d-squares-edges": ((33, 46), (9, 10)),
    "2d-whole": ((33, 46), (33, 46)),
    "2d-larger-than-an-axis": ((30, 46), (50, 7)),
    "3d-default": ((3, 12, 14), None),
    "3d-edges": ((3, 9, 14), (1, 5, 8)),
    "4d-edges": ((2, 2, 9, 14), (1, 1, 5, 10)),
}


def integers(shape: tuple[int, ...], dtype: str, *, mask: bool = False) -> np.ndarray:
    """Noise with the extremes of the type, and stretches of one value; a mask has no negatives."""
    rng = np.random.default_rng([*shape, ord(dtype[0]), ord(dtype[1])])
    limits = np.iinfo(dtype)
    if mask:
        values = rng.choice([0, 0, 1, 5, min(limits.max, 4000)], math.prod(shape) // 4 + 1)
        return np.repeat(values, 4)[: math.prod(shape)].reshape(shape).astype(dtype)
    noise = rng.normal(0, 9, shape).round() + (50 if dtype[1] == "1" else 1000)
    pixels = noise.astype("i8").clip(limits.min, limits.max).astype(dtype)
    flat = pixels.reshape(-1)
    flat[len(flat) // 3 : len(flat) // 2] = 17
    if dtype[1] != "8":
        flat[rng.integers(0, len(flat), 6)] = [limits.min, limits.max] * 3
    return pixels


def floats(shape: tuple[int, ...], dtype: str, kind: str) -> np.ndarray:
    """Noise; "nan": some NaN; "zeros": some exact zeros, of both signs, and NaN too."""
    rng = np.random.default_rng([*shape, ord(dtype[1]), len(kind)])
    pixels = rng.normal(0 if kind == "zeros" else 100, 5, shape).astype(dtype)
    flat = pixels.reshape(-1)
    if kind != "plain":
        flat[rng.integers(0, len(flat), len(flat) // 12)] = np.nan
    if kind == "zeros":
        flat[rng.integers(0, len(flat), len(flat) // 10)] = 0
        flat[rng.integers(0, len(flat), 5)] = -0.0
    return pixels


@cache
def written_by_astropy(
    algorithm: str, dtype: str, geometry: str, kind: str = "plain", **options: Any
) -> tuple[bytes, np.ndarray]:
    """A file, and what astropy reads from it."""
    shape, tile = (PLANES if algorithm == "HCOMPRESS_1" else GEOMETRIES)[geometry]
    if dtype[0] == "f":
        pixels = floats(shape, dtype, kind)
    else:
        pixels = integers(shape, dtype, mask=algorithm == "PLIO_1")
    if dtype in ("i8", "u8"):
        pytest.importorskip("numpy", "2.4", reason="astropy makes 64-bit integers shorter by it")
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 64-bit integers are made shorter
        image = fits.CompImageHDU(pixels, compression_type=algorithm, tile_shape=tile, **options)
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    content = buffer.getvalue()
    found = by_astropy(content)
    if dtype[0] != "f" and not options:
        assert np.array_equal(found, pixels), "astropy does not read what it wrote"
    return content, found


INTEGERS = ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8")


def geometries(algorithm: str) -> dict[str, tuple[tuple[int, ...], tuple[int, ...] | None]]:
    return PLANES if algorithm == "HCOMPRESS_1" else GEOMETRIES


FEW = ("1d-edge", "2d-default", "2d-squares-edges", "2d-larger-than-an-axis")
FEW += ("3d-cubes-edges", "4d-edges")


def each_geometry(
    *algorithms: tuple[str, Sequence[str]], axes: int = 4, among: Sequence[str] | None = None
) -> pytest.MarkDecorator:
    """Each (algorithm, types): the algorithm with each type, and with each shape of image and tile.

    Which type meets which shape is another one for each algorithm.
    """
    cases = []
    for number, (algorithm, types) in enumerate(algorithms):
        every = geometries(algorithm)
        names = [name for name in among or every if len(every[name][0]) <= axes]
        for n in range(max(len(names), len(types))):
            case = types[n % len(types)], names[(n + 2 * number) % len(names)]
            cases.append((algorithm, *case))
    return pytest.mark.parametrize("case", cases, ids=["-".join(case) for case in cases])


@each_geometry(
    ("RICE_1", INTEGERS),
    ("HCOMPRESS_1", INTEGERS),
    ("PLIO_1", [dtype for dtype in INTEGERS if dtype not in ("u2", "u4", "u8")]),  # not written
)
def test_integers_by_astropy(engine: str, case: tuple[str, str, str]) -> None:
    content, expected = written_by_astropy(*case)
    assert_reads(opened(content), expected, geometries(case[0])[case[-1]][1])


@each_geometry(("GZIP_1", INTEGERS), ("GZIP_2", INTEGERS))
def test_integers_by_astropy_in_gzip(inflate: str, case: tuple[str, str, str]) -> None:
    content, expected = written_by_astropy(*case)
    assert expected.dtype == np.dtype(case[1])
    assert_reads(opened(content), expected, GEOMETRIES[case[-1]][1])


@each_geometry(("NOCOMPRESS", (*INTEGERS, "f4", "f8")))
def test_not_compressed_by_astropy(case: tuple[str, str, str]) -> None:
    options = {"quantize_level": 0} if case[1][0] == "f" else {}
    content, expected = written_by_astropy(*case, **options)
    assert expected.dtype == np.dtype(case[1])
    assert_reads(opened(content), expected, GEOMETRIES[case[-1]][1])


@each_geometry(("GZIP_1", ("f4", "f8")), ("GZIP_2", ("f8", "f4")), among=FEW)
def test_lossless_floats_by_astropy(inflate: str, case: tuple[str, str, str]) -> None:
    content, expected = written_by_astropy(*case, "zeros", quantize_level=0)
    assert "ZSCALE" not in content.decode("latin-1")
    assert same_bits(expected, floats(expected.shape, case[1], "zeros"))
    assert_reads(opened(content), expected, GEOMETRIES[case[-1]][1])


DITHERS = {"none": -1, "dither1": 1, "dither2": 2}


@pytest.mark.parametrize(
    ("algorithm", "dtype", "dither", "kind", "number"),
    pairwise(
        ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"],
        ["f4", "f8"],
        list(DITHERS),
        ["plain", "nan", "zeros"],
        range(6),
    ),
)
def test_quantized_floats_by_astropy(
    engine: str, algorithm: str, dtype: str, dither: str, kind: str, number: int
) -> None:
    """The seed differs from case to case; tiles that cannot be quantized are in gzip."""
    seed = 1 + len(kind) * 97 + DITHERS[dither]
    every = geometries(algorithm)
    chosen = [*list(every)[::2], "2d-squares-edges"]
    geometry = chosen[number % len(chosen)]
    content, expected = written_by_astropy(
        *(algorithm, dtype, geometry, kind), quantize_method=DITHERS[dither], dither_seed=seed
    )
    assert np.isnan(expected).any() == (kind != "plain")
    if dither == "dither2" and kind == "zeros":
        assert (expected == 0).sum() >= (floats(expected.shape, dtype, kind) == 0).sum() > 0
    assert_reads(opened(content), expected, every[geometry][1])


@pytest.mark.parametrize("dither", DITHERS)
def test_tiles_of_one_value_by_astropy(engine: str, dither: str) -> None:
    """They have no noise to quantize by: astropy puts them into GZIP_COMPRESSED_DATA."""
    pixels = floats((30, 40), "f4", "plain")
    pixels[8:19] = 7.25
    buffer = io.BytesIO()
    image = fits.CompImageHDU(pixels, tile_shape=(5, 9), quantize_method=DITHERS[dither])
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
    with fits.open(io.BytesIO(buffer.getvalue()), disable_image_compression=True) as file:
        lengths = [len(row) for row in file[1].data["GZIP_COMPRESSED_DATA"]]
    assert 0 < np.count_nonzero(lengths) < len(lengths)
    assert_reads(opened(buffer.getvalue()), by_astropy(buffer.getvalue()), (5, 9))


@pytest.mark.parametrize("smooth", [0, 1])
@pytest.mark.parametrize("scale", [-3, -40, 2.5])
@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_lossy_hcompress_by_astropy(engine: str, dtype: str, scale: float, smooth: int) -> None:
    content, expected = written_by_astropy(
        *("HCOMPRESS_1", dtype, "2d-squares-edges"), hcomp_scale=scale, hcomp_smooth=smooth
    )
    assert_reads(opened(content), expected, (9, 10))


# Files that cfitsio writes

NAMES = {
    "RICE_1": "RICE",
    "GZIP_1": "GZIP",
    "GZIP_2": "GZIP_2",
    "PLIO_1": "PLIO",
    "HCOMPRESS_1": "HCOMPRESS",
}


def written_by_cfitsio(
    path: Path, pixels: np.ndarray, algorithm: str, tile: tuple[int, ...] | None, **options: Any
) -> tuple[bytes, np.ndarray]:
    """A file, and what cfitsio reads from it, which is what astropy reads."""
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    options |= {} if tile is None else {"tile_dims": tile}
    fitsio.write(str(path), pixels, compress=NAMES[algorithm], **options)
    with fitsio.FITS(str(path)) as file:
        expected = file[1].read()
    content = path.read_bytes()
    assert same_bits(by_astropy(content), expected), "astropy and cfitsio do not agree"
    return content, expected


@each_geometry(
    ("RICE_1", INTEGERS[:6]),
    ("HCOMPRESS_1", INTEGERS[:6]),
    ("PLIO_1", ("u1", "i1", "i2", "i4")),  # others below
    axes=3,  # cfitsio has no more
)
def test_integers_by_cfitsio(engine: str, tmp_path: Path, case: tuple[str, str, str]) -> None:
    assert_reads_as_cfitsio(tmp_path / "a.fits", *case)


@each_geometry(("GZIP_1", INTEGERS[:6]), ("GZIP_2", INTEGERS[:6]), axes=3)
def test_integers_by_cfitsio_in_gzip(
    inflate: str, tmp_path: Path, case: tuple[str, str, str]
) -> None:
    assert_reads_as_cfitsio(tmp_path / "a.fits", *case)


def assert_reads_as_cfitsio(path: Path, algorithm: str, dtype: str, geometry: str) -> None:
    shape, tile = geometries(algorithm)[geometry]
    pixels = integers(shape, dtype, mask=algorithm == "PLIO_1")
    if algorithm == "HCOMPRESS_1" and pixels.itemsize > 1:
        pixels = pixels.clip(900, 1100)  # its buffer is too small for worse
    content, expected = written_by_cfitsio(path, pixels, algorithm, tile)
    assert same_bits(expected, pixels)
    assert_reads(opened(content), expected, tile)


@pytest.mark.parametrize(
    ("algorithm", "dtype", "method", "kind", "geometry", "qlevel", "seed"),
    [
        (*case, *quality)
        for *case, quality in pairwise(
            ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"],
            ["f4", "f8"],
            ["NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"],
            ["plain", "nan", "zeros"],
            ["1d-edge", "2d-squares-edges"],
            [(4, 10000), (-0.25, 3)],
        )
    ],
)
def test_quantized_floats_by_cfitsio(
    engine: str,
    tmp_path: Path,
    algorithm: str,
    dtype: str,
    method: str,
    kind: str,
    geometry: str,
    qlevel: float,
    seed: int,
) -> None:
    every = geometries(algorithm)
    shape, tile = every.get(geometry, every["2d-squares-edges"])
    content, expected = written_by_cfitsio(
        *(tmp_path / "a.fits", floats(shape, dtype, kind), algorithm, tile),
        qlevel=qlevel,
        qmethod=method,
        dither_seed=seed,
    )
    assert np.isnan(expected).any() == (kind != "plain")
    assert_reads(opened(content), expected, tile)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("algorithm", ["GZIP_1", "GZIP_2"])
def test_lossless_floats_by_cfitsio(
    inflate: str, tmp_path: Path, algorithm: str, dtype: str
) -> None:
    pixels = floats((33, 46), dtype, "zeros")
    content, expected = written_by_cfitsio(
        *(tmp_path / "a.fits", pixels, algorithm, (9, 10)), qlevel=None
    )
    assert np.array_equal(expected, pixels, equal_nan=True)
    assert_reads(opened(content), expected, (9, 10))


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1"])
def test_tiles_of_one_value_by_cfitsio(engine: str, tmp_path: Path, algorithm: str) -> None:
    pixels = floats((33, 46), "f4", "nan")
    pixels[4:19] = 7.25
    content, expected = written_by_cfitsio(
        *(tmp_path / "a.fits", pixels, algorithm, (9, 10)), qlevel=4
    )
    assert_reads(opened(content), expected, (9, 10))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("scale", [2, -30])
def test_lossy_hcompress_by_cfitsio(
    engine: str, tmp_path: Path, scale: float, *, smooth: bool
) -> None:
    pixels = integers((33, 46), "i2").clip(900, 1100)
    content, expected = written_by_cfitsio(
        *(tmp_path / "a.fits", pixels, "HCOMPRESS_1", (9, 10)),
        hcomp_scale=scale,
        hcomp_smooth=smooth,
    )
    assert not np.array_equal(expected, pixels)
    assert_reads(opened(content), expected, (9, 10))


def test_lossy_hcompress_beside_the_largest_pixel(engine: str, tmp_path: Path) -> None:
    """A lossy 32769 is a pixel of 32767 to cfitsio, which clips, and one of -32767 to astropy.

    The Standard has no word on it, so it is as in astropy.
    """
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    pixels, path = integers((33, 46), "i2").clip(900, 1100), tmp_path / "a.fits"
    pixels[10:14, 20:24] = 32767
    fitsio.write(str(path), pixels, compress="HCOMPRESS", tile_dims=(33, 46), hcomp_scale=-9)
    clipped = fitsio.read(str(path), ext=1)
    expected = by_astropy(path.read_bytes())
    wrapped = clipped != expected
    assert wrapped.any()
    assert (clipped[wrapped] == 32767).all()
    assert (expected[wrapped] < -32000).all()
    assert_reads(opened(path.read_bytes()), expected, (33, 46))


def test_unsigned_masks_by_cfitsio(engine: str, tmp_path: Path) -> None:
    """cfitsio alone takes 32768 from what a PLIO_1 tile holds, where BZERO is 32768.

    It has stored the pixels as they are, since PLIO_1 has no negative ones. The Standard knows
    nothing of that: it has BZERO added to what the tile holds, as astropy does.
    """
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    pixels, path = integers((33, 46), "u2", mask=True), str(tmp_path / "a.fits")
    fitsio.write(path, pixels, compress="PLIO", tile_dims=(9, 10))
    assert same_bits(fitsio.read(path, ext=1), pixels)
    content = Path(path).read_bytes()
    expected = pixels ^ np.uint16(1 << 15)
    assert same_bits(by_astropy(content), expected)
    assert_reads(opened(content), expected, (9, 10))


# Files that neither writes


def scaled(decoded: np.ndarray, keywords: dict[str, Any]) -> np.ndarray:
    """What astropy reads from an image that is not compressed, but has these keywords."""
    bitpix = decoded.itemsize * (-8 if decoded.dtype.kind == "f" else 8)
    extra = [card(keyword, value) for keyword, value in keywords.items()]
    head = primary(*decoded.shape[::-1], bitpix=bitpix, extra=extra)
    return by_astropy(head + blocks(big_endian(decoded)), 0)


def steps(shape: tuple[int, ...], dtype: str = "i2", *, low: int = -900) -> np.ndarray:
    """Integers with some noise."""
    noise = np.random.default_rng(shape).integers(0, 9, shape)
    return (noise + np.arange(math.prod(shape)).reshape(shape) % 97 + low).astype(dtype)


def quantized(tiles: int, dither: str = "SUBTRACTIVE_DITHER_1", **changes: Any) -> Quantize:
    """A scale and a zero for each tile."""
    many = np.arange(tiles)
    given = {"scale": 0.037 + 0.003 * many, "zero": -3.7 * many, "method": dither, "seed": 77}
    return Quantize(**(given | changes))


METHODS = ["NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2"]
LOSSLESS = ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "NOCOMPRESS"]
IMAGE, TILE = (23, 34), (9, 10)  # 3 x 4 tiles, those at the edges smaller, 4 pixels at least


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("algorithm", LOSSLESS)
def test_the_formula(engine: str, algorithm: str, dtype: str, method: str) -> None:
    """Section 10.2, with ZSCALE, ZZERO and ZBLANK of each tile."""
    blanks = -100_000 - np.arange(12)
    quantize = quantized(12, method, blank=blanks, blank_in="column")
    parts = tiled_parts(
        floats(IMAGE, dtype, "zeros"), zcmptype=algorithm, tile=TILE, quantize=quantize
    )
    assert np.isnan(parts.decoded).any()
    assert_reads(opened(parts.build()), parts.decoded, TILE)
    if algorithm != "NOCOMPRESS":
        assert same_bits(by_astropy(parts.build()), parts.decoded)


@pytest.mark.parametrize(
    ("places", "method"),
    [
        (places, METHODS[n % 3])
        for n, places in enumerate(itertools.product(["column", "keyword"], repeat=3))
    ],
)
def test_scale_zero_and_blank_as_columns_and_keywords(
    engine: str, places: tuple[str, str, str], method: str
) -> None:
    """Section 10.1.3: a constant column may be a keyword. astropy 8.0.2 knows just ZBLANK as one."""
    given = dict(zip(("scale_in", "zero_in", "blank_in"), places, strict=True))
    quantize = Quantize(0.04, -2.5, method, seed=9, blank=-77_777, **given)
    parts = tiled_parts(
        floats(IMAGE, "f4", "zeros"), zcmptype="RICE_1", tile=TILE, quantize=quantize
    )
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("absent", "given"),
    [
        ("scale_in", {"scale": 1.0, "zero": 0.25, "zero_in": "keyword"}),
        ("scale_in", {"scale": 1.0, "zero": 0.25, "zero_in": "column"}),
        ("zero_in", {"scale": 0.3, "zero": 0.0, "scale_in": "keyword"}),
        ("zero_in", {"scale": 0.3, "zero": 0.0, "scale_in": "column"}),
    ],
)
def test_a_scale_or_zero_that_is_nowhere(
    engine: str, dtype: str, absent: str, given: dict[str, Any]
) -> None:
    quantize = Quantize(**given, **{absent: None})
    pixels = floats(IMAGE, dtype, "plain")
    parts = tiled_parts(pixels, zcmptype="GZIP_2", tile=TILE, quantize=quantize)
    assert_reads(opened(parts.build()), parts.decoded, TILE)


def test_a_column_goes_before_the_keyword(engine: str) -> None:
    quantize = quantized(12, blank=-5000, blank_in="column")
    parts = tiled_parts(
        floats(IMAGE, "f4", "nan"),
        zcmptype="RICE_1",
        tile=TILE,
        quantize=quantize,
        cards=[("ZSCALE", 99.0), ("ZZERO", 99.0), ("ZBLANK", 1)],
    )
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("method", [None, "NONE", "no_dither"])
def test_no_dithering_by_other_names(engine: str, method: str | None) -> None:
    quantize = quantized(12, method)
    parts = tiled_parts(
        floats(IMAGE, "f4", "plain"), zcmptype="RICE_1", tile=TILE, quantize=quantize
    )
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("form", ["1E", "E", "1J", "I", "1B", "1D"])
def test_types_of_the_number_columns(engine: str, form: str) -> None:
    scales = np.arange(1, 13) / (1 if form[-1] in "JIB" else 16)
    quantize = quantized(12, scale=scales, zero=np.arange(12), blank=200, blank_in="column")
    columns = [
        *("COMPRESSED_DATA", ("ZSCALE", form, scales), ("ZZERO", form, np.arange(12))),
        ("ZBLANK", "B" if form[-1] == "B" else "1K" if form[-1] == "J" else "1I", 200),
    ]
    pixels = floats(IMAGE, "f4", "nan") - 100
    parts = tiled_parts(pixels, zcmptype="RICE_1", tile=TILE, quantize=quantize, columns=columns)
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize(
    ("method", "seed"),
    [(METHODS[1 + n % 2], seed) for n, seed in enumerate([1, 9984, 9989, 9999, 10000, 10000])],
)
def test_the_random_numbers_begin_anew(engine: str, method: str, seed: int) -> None:
    """After 10000 tiles, and within a tile of more than 10000 pixels, at any row of the table."""
    small = floats((4, 36), "f4", "zeros")
    parts = tiled_parts(
        small, zcmptype="RICE_1", tile=(2, 3), quantize=quantized(24, method, seed=seed)
    )
    assert_reads(opened(parts.build()), parts.decoded, (2, 3))
    assert same_bits(by_astropy(parts.build()), parts.decoded)
    large = floats((300, 111), "f4", "zeros")
    parts = tiled_parts(
        large, zcmptype="GZIP_1", tile=(150, 111), quantize=quantized(2, method, seed=seed)
    )
    assert_reads(opened(parts.build()), parts.decoded, (150, 111))
    assert same_bits(by_astropy(parts.build()), parts.decoded)


def test_more_than_10000_tiles_are_dithered(engine: str) -> None:
    pixels = floats((101, 200), "f4", "plain")
    parts = tiled_parts(
        *(pixels,),
        zcmptype="NOCOMPRESS",
        tile=(1, 2),
        quantize=Quantize(0.05, 90.0, "SUBTRACTIVE_DITHER_1", seed=321),
    )
    hdu = opened(parts.build())
    assert same_bits(hdu.reader()[...], parts.decoded)
    assert same_bits(hdu.reader()[98:, 55:190:3], parts.decoded[98:, 55:190:3])


# How the table is laid out

EXTRA = [("JUNK", "3J"), ("TEXT", "7A"), ("BITS", "11X"), ("MORE", "1PE(max)"), ("NOTHING", "0D")]
LAYOUTS: dict[str, dict[str, Any]] = {
    "P-without-1": {"descriptor": "P"},
    "1P-with-length": {"descriptor": "1P(max)"},
    "Q": {"descriptor": "1Q(max)"},
    "Q-without-1": {"descriptor": "Q"},
    "theap": {"theap_gap": 1013},
    "theap-farther-than-a-gap-that-is-bridged": {"theap_gap": 70_000},
    "gaps": {"heap_gap": 19},
    "gaps-that-are-not-bridged": {"heap_gap": 70_000},
    "shuffled": {"heap_order": [7, 2, 11, 0, 5, 3, 9, 1, 10, 4, 8, 6]},
    "backwards-with-gaps": {"heap_order": range(11, -1, -1), "heap_gap": 7},
    "all": {
        "descriptor": "Q",
        "theap_gap": 13,
        "heap_gap": 11,
        "heap_order": [3, 2, 1, 0, 7, 11, 4, 6, 10, 5, 9, 8],
    },
}


@pytest.mark.parametrize(
    ("algorithm", "layout"),
    [
        (algorithm, layout)
        for n, layout in enumerate(LAYOUTS)
        for algorithm in ("PLIO_1", LOSSLESS[n % len(LOSSLESS)])  # elements of 2 bytes, and of 1
    ],
)
def test_layouts_of_an_integer_image(engine: str, algorithm: str, layout: str) -> None:
    parts = tiled_parts(steps(IMAGE, low=0), zcmptype=algorithm, tile=TILE, **LAYOUTS[layout])
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize(("layout", "order"), [(layout, n % 4) for n, layout in enumerate(LAYOUTS)])
def test_columns_in_any_order_among_others(engine: str, layout: str, order: int) -> None:
    names = ["COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "ZSCALE", "ZZERO", "ZBLANK", *EXTRA]
    columns = [names[i] for i in np.random.default_rng(order).permutation(len(names))]
    parts = tiled_parts(
        floats(IMAGE, "f4", "nan"),
        zcmptype="RICE_1",
        tile=TILE,
        quantize=quantized(12, blank=-9999, blank_in="column"),
        fallback={2: "GZIP_COMPRESSED_DATA"},
        columns=columns,
        **LAYOUTS[layout],
    )
    assert_reads(opened(parts.build()), parts.decoded, TILE)


def test_names_of_columns_in_lower_case(engine: str) -> None:
    parts = tiled_parts(
        floats(IMAGE, "f4", "plain"), zcmptype="RICE_1", tile=TILE, quantize=quantized(12)
    )
    for n, name in enumerate(parts.forms, 1):
        parts.set_card(f"TTYPE{n}", name.lower())
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("shape", [(97,), (11, 34), (3, 5, 14), (2, 3, 2, 9)], ids=str)
@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_2", "NOCOMPRESS", "PLIO_1"])
def test_tiles_are_rows_where_nothing_is_said(
    engine: str, algorithm: str, shape: tuple[int, ...]
) -> None:
    """Section 10.1.2; astropy 8.0.2 cannot do without ZTILEn."""
    parts = tiled_parts(steps(shape, low=0), zcmptype=algorithm)
    assert b"ZTILE" not in parts.extension()
    assert_reads(opened(parts.build()), parts.decoded)


def test_tiles_of_which_some_lengths_are_missing(engine: str) -> None:
    for tile, missing in (((1, 4), "ZTILE2"), ((5, 14), "ZTILE1"), ((1, 14), "ZTILE2")):
        parts = tiled_parts(steps((11, 14)), zcmptype="RICE_1", tile=tile, cards=[(missing, None)])
        assert_reads(opened(parts.build()), parts.decoded, tile)


def test_tiles_longer_than_the_image(engine: str) -> None:
    parts = tiled_parts(steps((3, 11, 14)), zcmptype="RICE_1", tile=(5, 4, 99))
    assert_reads(opened(parts.build()), parts.decoded, (3, 4, 14))


@pytest.mark.parametrize("algorithm", [*LOSSLESS, "PLIO_1"])
def test_tiles_that_share_bytes(engine: str, algorithm: str) -> None:
    """Nothing in section 7.3.5 keeps two descriptors from pointing at the same bytes."""
    pixels = steps(IMAGE, low=0)
    parts = tiled_parts(pixels, zcmptype=algorithm, tile=TILE, heap_gap=5)
    column, expected = parts.column("COMPRESSED_DATA"), pixels.copy()
    for copy, of in ((5, 0), (6, 0), (11, 3)):
        if parts.decoded[parts.tiles[copy]].shape == parts.decoded[parts.tiles[of]].shape:
            column[copy] = column[of]
            expected[parts.tiles[copy]] = pixels[parts.tiles[of]]
    assert (expected != pixels).any()
    assert_reads(opened(parts.build()), expected, TILE)


def test_tiles_that_overlap_in_part(engine: str) -> None:
    """Each tile of 10 pixels begins 3 pixels after the one before."""
    numbers = np.arange(1000, 1100, dtype=">i2")
    parts = tiled_parts(steps((6, 10)), zcmptype="NOCOMPRESS")
    parts.heap[: numbers.nbytes] = numbers.tobytes()
    parts.column("COMPRESSED_DATA")[:, 1] = 6 * np.array([0, 2, 1, 5, 3, 4])
    expected = 1000 + 3 * np.array([[0], [2], [1], [5], [3], [4]]) + np.arange(10)
    assert_reads(opened(parts.build()), expected.astype("i2"))


@pytest.mark.parametrize("max_gap", [0, 1 << 16])
def test_tiles_that_lie_within_others(engine: str, max_gap: int) -> None:
    """Tiles of 10 pixels and of 2; the longer ones end behind those that begin later."""
    numbers = np.arange(1000, 1100, dtype=">i2")
    parts = tiled_parts(steps((3, 12)), zcmptype="NOCOMPRESS", tile=(1, 10), heap_gap=20)
    parts.heap[: numbers.nbytes] = numbers.tobytes()[: len(parts.heap)]
    first = np.array([0, 1, 26, 6, 31, 22])
    parts.column("COMPRESSED_DATA")[:, 1] = 2 * first
    expected = np.empty((3, 12), "i2")
    for start, place in zip(first, parts.tiles, strict=True):
        expected[place] = numbers[start : start + expected[place].size]
    assert_reads(opened(parts.build()), expected, (1, 10))
    reader, unit = watched(parts, coalescing(max_gap))
    assert same_bits(reader[...], expected)
    heap = unit.start + len(parts.table)
    pieces = [(0, 82)] if max_gap else [(0, 20), (44, 48), (52, 82)]
    tiles = [ByteRange(heap + start, heap + stop) for start, stop in pieces]
    assert sorted(reader.store.asked) == [ByteRange(unit.start, heap), *tiles]


@pytest.mark.parametrize(("algorithm", "element"), [
    ("GZIP_1", "I"), ("GZIP_2", "J"), ("RICE_1", "I"), ("RICE_1", "J"), ("PLIO_1", "I"),
    ("PLIO_1", "B"), ("NOCOMPRESS", "I"), ("NOCOMPRESS", "B"), ("HCOMPRESS_1", "I"),
])  # fmt: skip
@pytest.mark.parametrize("letter", "PQ")
def test_types_of_the_tile_column(engine: str, algorithm: str, element: str, letter: str) -> None:
    """A tile is padded to whole elements. astropy's decoder of RICE_1 has no bytes left over."""
    column = ("COMPRESSED_DATA", f"1{letter}{element}(max)")
    parts = tiled_parts(
        steps(IMAGE, low=0), zcmptype=algorithm, tile=TILE, columns=[column, ("A", "1B")]
    )
    if (engine, algorithm) == ("astropy", "RICE_1"):
        with pytest.raises(FitsFormatError, match=r"bytes are left over .* 'dask_fits\[fast\]'"):
            opened(parts.build()).reader()[...]
    else:
        assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "PLIO_1", "HCOMPRESS_1"])
def test_bytes_left_over_after_a_tile(engine: str, algorithm: str) -> None:
    """cfitsio ignores them; astropy 8.0.2 raises for RICE_1."""
    parts = tiled_parts(
        steps(IMAGE, low=0),
        zcmptype=algorithm,
        tile=TILE,
        edit=lambda tiles: [tile + bytes([n, 0xFF] * n) for n, tile in enumerate(tiles)],
    )
    if (engine, algorithm) == ("astropy", "RICE_1"):
        with pytest.raises(FitsFormatError, match=r"bytes are left over .* 'dask_fits\[fast\]'"):
            opened(parts.build()).reader()[...]
    else:
        assert_reads(opened(parts.build()), parts.decoded, TILE)


def test_two_gzip_members_are_one_tile(inflate: str) -> None:
    """As RFC 1952 has it; astropy reads them too."""
    parts = tiled_parts(
        steps((4, 30)),
        zcmptype="GZIP_1",
        tile=(1, 30),
        edit=lambda tiles: [
            gzip.compress(data[:22]) + gzip.compress(data[22:])
            for data in map(gzip.decompress, tiles)
        ],
    )
    assert same_bits(by_astropy(parts.build()), parts.decoded)
    assert_reads(opened(parts.build()), parts.decoded)


# Parameters of the algorithms


@pytest.mark.parametrize(
    ("name", "parameters", "dtype"),
    pairwise(
        ["RICE_1", "RICE_ONE"],
        [
            {},
            {"BLOCKSIZE": 16},
            {"BYTEPIX": 4, "BLOCKSIZE": 64},
            {"SOMETHING": 3, "BLOCKSIZE": 1},
            {"BLOCKSIZE": 1000},
            {"BYTEPIX": 2},
            {"BLOCKSIZE": 8, "BYTEPIX": 1},
        ],
        ["u1", "i2", "i4"],
    ),
    ids=str,
)
def test_parameters_of_rice(engine: str, name: str, parameters: dict[str, int], dtype: str) -> None:
    """Any BYTEPIX goes with any ZBITPIX, and they are 32 and 4 if not given (section 10.4.1)."""
    pixels = steps(IMAGE, dtype, low=0)
    parts = tiled_parts(pixels, zcmptype=name, tile=TILE, parameters=parameters)
    assert_reads(opened(parts.build()), pixels, TILE)


def test_rice_with_two_bytes_has_negative_pixels_and_with_one_has_none(engine: str) -> None:
    small = np.where(steps(IMAGE) % 3, -30000, 31000).astype("i4")
    large = np.where(steps(IMAGE) % 3, 250, 3).astype("i4")
    for pixels, bytepix in ((small, 2), (large, 1)):
        parameters = {"BLOCKSIZE": 32, "BYTEPIX": bytepix}
        parts = tiled_parts(pixels, zcmptype="RICE_1", tile=TILE, parameters=parameters)
        assert_reads(opened(parts.build()), pixels, TILE)


@pytest.mark.parametrize("bytepix", [2, 4])
def test_quantized_rice_of_fewer_bytes(engine: str, bytepix: int) -> None:
    parts = tiled_parts(
        floats(IMAGE, "f8", "plain"),
        zcmptype="RICE_1",
        tile=TILE,
        quantize=quantized(12),
        parameters={"BYTEPIX": bytepix},
    )
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize(
    "zcmptype", [b" 'RICE_1'", b" 'rice_1    '", b"'RICE_1                 ' / x"]
)
def test_ways_to_write_the_algorithm(engine: str, zcmptype: bytes) -> None:
    pixels = steps(IMAGE)
    parts = tiled_parts(pixels, zcmptype="RICE_1", tile=TILE)
    parts.set_card("ZCMPTYPE", zcmptype)
    assert_reads(opened(parts.build()), pixels, TILE)


@pytest.mark.parametrize("stored", ["u1", "i2", "i4", "i8"])
@pytest.mark.parametrize("algorithm", ["GZIP_1", "GZIP_2", "NOCOMPRESS"])
def test_pixels_of_another_size_than_zbitpix(engine: str, algorithm: str, stored: str) -> None:
    """The length of what is inflated tells the size, as in cfitsio and astropy."""
    pixels = steps(IMAGE, "i4", low=0)
    parts = tiled_parts(pixels, zcmptype=algorithm, tile=TILE, stored=stored)
    assert_reads(opened(parts.build()), pixels, TILE)
    floating = tiled_parts(
        floats(IMAGE, "f4", "plain"),
        zcmptype=algorithm,
        tile=TILE,
        quantize=quantized(12, zero=90.0, scale=0.3) if stored != "u1" else Quantize(1.0),
        stored=stored,
    )
    assert_reads(opened(floating.build()), floating.decoded, TILE)


@pytest.mark.parametrize("smooth", [0, 1])
@pytest.mark.parametrize("scale", [1, 7, 60])
@pytest.mark.parametrize("quantize", [False, True])
def test_lossy_hcompress(engine: str, scale: int, smooth: int, *, quantize: bool) -> None:
    parts = tiled_parts(
        floats((33, 46), "f4", "plain") if quantize else steps((33, 46)),
        zcmptype="HCOMPRESS_1",
        tile=(9, 10),
        quantize=quantized(20, "NO_DITHER") if quantize else None,
        parameters={"SMOOTH": smooth, "SCALE": scale},
    )
    content = parts.build()
    expected = by_astropy(content)
    assert np.array_equal(expected, parts.decoded) == (scale == 1)
    assert_reads(opened(content), expected, (9, 10))


def test_hcompress_without_parameters_does_not_smooth(engine: str) -> None:
    given = {"SCALE": 40, "SMOOTH": 0}
    parts = tiled_parts(steps((33, 46)), zcmptype="HCOMPRESS_1", tile=(9, 10), parameters=given)
    expected = by_astropy(parts.build())
    for n in (1, 2):
        parts.set_card(f"ZNAME{n}", None)
        parts.set_card(f"ZVAL{n}", None)
    assert_reads(opened(parts.build()), expected, (9, 10))


# Tiles in the other columns


FALLBACK = {1: "GZIP_COMPRESSED_DATA", 5: "UNCOMPRESSED_DATA", 6: "UNCOMPRESSED_DATA"}
FALLBACK |= {10: "GZIP_COMPRESSED_DATA", 11: "UNCOMPRESSED_DATA"}


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4"])
@pytest.mark.parametrize("algorithm", [*LOSSLESS, "PLIO_1"])
def test_lossless_tiles_among_those_of_an_integer_image(
    engine: str, algorithm: str, dtype: str
) -> None:
    pixels = steps(IMAGE, dtype, low=0)
    parts = tiled_parts(pixels, zcmptype=algorithm, tile=TILE, fallback=FALLBACK)
    assert_reads(opened(parts.build()), pixels, TILE)


@pytest.mark.parametrize(
    ("algorithm", "dtype", "method"), pairwise(LOSSLESS, ["f4", "f8"], METHODS)
)
def test_lossless_tiles_among_quantized_ones(
    engine: str, algorithm: str, dtype: str, method: str
) -> None:
    """They hold the floats as they are: no scale, no dithering."""
    pixels = floats(IMAGE, dtype, "zeros")
    parts = tiled_parts(
        *(pixels,),
        zcmptype=algorithm,
        tile=TILE,
        quantize=quantized(12, method, blank=-55_555, blank_in="column"),
        fallback=FALLBACK,
    )
    assert same_bits(parts.decoded[parts.tiles[5]], pixels[parts.tiles[5]])
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("blank_in", ["keyword", "column"])
def test_zblank_is_no_float(engine: str, blank_in: str) -> None:
    """ZBLANK is what quantization made of NaN: it is compared with no float of a lossless tile."""
    pixels = steps(IMAGE, "f4", low=0)
    quantize = Quantize(0.5, 0.0, blank=12, blank_in=blank_in)
    parts = tiled_parts(pixels, zcmptype="RICE_1", tile=TILE, quantize=quantize, fallback=FALLBACK)
    lossless = np.zeros(IMAGE, bool)
    for row in FALLBACK:
        lossless[parts.tiles[row]] = True
    assert (pixels[lossless] == 12).any()
    assert np.array_equal(np.isnan(parts.decoded), ~lossless & (pixels == 6))
    assert_reads(opened(parts.build()), parts.decoded, TILE)


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("algorithm", ["GZIP_1", "GZIP_2", "NOCOMPRESS"])
def test_zblank_of_lossless_floats(engine: str, algorithm: str, *, column: bool) -> None:
    """Undefined floats are NaN, and ZBLANK is for the integers of quantized ones (section 10.2.2);
    astropy 8.0.2 makes NaN of the floats that are equal to it.
    """
    pixels = steps(IMAGE, "f4", low=0)
    parts = tiled_parts(
        pixels,
        zcmptype=algorithm,
        tile=TILE,
        columns=["COMPRESSED_DATA", *([("ZBLANK", "1J", 12)] * column)],
        cards=[] if column else [("ZBLANK", 12), ("BLANK", 12)],
    )
    assert (pixels == 12).any()
    assert_reads(opened(parts.build()), pixels, TILE)


@pytest.mark.parametrize("dtype", ["i2", "f4", "f8"])
def test_uncompressed_tiles_in_a_column_of_bytes(engine: str, dtype: str) -> None:
    pixels = steps(IMAGE, dtype)
    columns = ["COMPRESSED_DATA", ("UNCOMPRESSED_DATA", "1PB(max)")]
    parts = tiled_parts(
        pixels, zcmptype="GZIP_1", tile=TILE, fallback=dict.fromkeys(range(12), "UNCOMPRESSED_DATA"),
        columns=columns,
    )  # fmt: skip
    assert_reads(opened(parts.build()), pixels, TILE)


@pytest.mark.parametrize(("dtype", "element"), [("f4", "J"), ("f8", "K"), ("i4", "E")])
def test_uncompressed_tiles_of_another_type(engine: str, dtype: str, element: str) -> None:
    """The column's TFORM tells what they are, as in astropy."""
    pixels, every = steps(IMAGE, dtype), dict.fromkeys(range(12), "UNCOMPRESSED_DATA")
    columns = ["COMPRESSED_DATA", ("UNCOMPRESSED_DATA", f"1P{element}(max)")]
    parts = tiled_parts(pixels, zcmptype="GZIP_1", tile=TILE, fallback=every, columns=columns)
    stored = np.frombuffer(bytes(parts.heap), f">{dtype}").astype(ELEMENTS[element])
    parts.heap[:] = stored.tobytes()
    if element != "K":  # astropy does not know that one
        assert same_bits(by_astropy(parts.build()), pixels)
    assert_reads(opened(parts.build()), pixels, TILE)


def test_the_first_column_that_is_not_empty_holds_the_tile(engine: str) -> None:
    """Section 10.1.3. astropy 8.0.2 does not look into UNCOMPRESSED_DATA beside the gzip column."""
    pixels = steps(IMAGE)
    parts = tiled_parts(pixels, zcmptype="RICE_1", tile=TILE, fallback=FALLBACK)
    wrong = steps(IMAGE, low=5)
    junk = gzip.compress(big_endian(wrong[parts.tiles[0]]))
    parts.column("GZIP_COMPRESSED_DATA")[0] = len(junk), parts.append(junk)
    parts.column("UNCOMPRESSED_DATA")[1] = 90, 0
    assert_reads(opened(parts.build()), pixels, TILE)


# Undefined and scaled pixels


BLANKS: dict[str, dict[str, Any]] = {
    "blank": {"BLANK": -850},
    "blank-and-scale": {"BLANK": -850, "BSCALE": 0.37, "BZERO": -1.25},
    "scale": {"BSCALE": 0.37},
    "zero": {"BZERO": 1000.5},
    "blank-that-no-pixel-has": {"BLANK": -7},
    "blank-and-unsigned": {"BLANK": -850, "BZERO": "half"},
}


@pytest.mark.parametrize(("pixels", "keywords", "said"), pairwise(
    [
        ("RICE_1", "u1"), ("RICE_1", "i2"), ("GZIP_2", "i2"), ("HCOMPRESS_1", "i2"),
        ("HCOMPRESS_1", "i4"), ("GZIP_2", "i8"),
    ],
    list(BLANKS),
    [("BLANK", TILE), ("ZBLANK", TILE), ("BLANK", (9, 34))],
))  # fmt: skip
def test_undefined_and_scaled_integers(
    engine: str, pixels: tuple[str, str], keywords: str, said: tuple[str, tuple[int, int]]
) -> None:
    """As an image that is not compressed is read; BLANK may also be called ZBLANK."""
    (algorithm, dtype), (name, tile) = pixels, said
    given = dict(BLANKS[keywords])
    if (dtype, keywords) == ("u1", "blank-and-unsigned"):
        del given["BLANK"]  # which astropy cannot read beside BZERO = -128
    image = steps(IMAGE, dtype, low=0 if dtype == "u1" else -900)
    if dtype == "u1" and "BLANK" in given:
        given["BLANK"] = 44 if given["BLANK"] == -850 else 244
    if given.get("BZERO") == "half":
        given["BZERO"] = -128 if dtype == "u1" else 1 << image.itemsize * 8 - 1
    expected = scaled(image, given)
    cards = [(name if key == "BLANK" else key, value) for key, value in given.items()]
    parts = tiled_parts(
        image, zcmptype=algorithm, tile=tile, cards=cards, fallback={2: "GZIP_COMPRESSED_DATA"}
    )
    hdu = opened(parts.build())
    assert_reads(hdu, expected, tile)
    assert same_bits(hdu.reader(mask_and_scale=False)[...], image)
    assert same_bits(by_astropy(parts.build()), expected)
    has_nan = "BLANK" in given and expected.dtype.kind == "f"
    assert np.isnan(expected).any() == (has_nan and keywords != "blank-that-no-pixel-has")


@pytest.mark.parametrize(
    ("stored", "zero"),
    [("u1", -128), ("i2", 1 << 15), ("i4", 1 << 31), ("i8", 1 << 63)],
    ids=["i1", "u2", "u4", "u8"],
)
@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS"])
def test_pseudo_integers(engine: str, algorithm: str, stored: str, zero: int) -> None:
    pixels = steps(IMAGE, stored, low=0)
    parts = tiled_parts(
        pixels, zcmptype=algorithm, tile=TILE, cards=[("BZERO", zero)], fallback=FALLBACK
    )
    expected = scaled(pixels, {"BZERO": zero})
    assert expected.dtype.kind != pixels.dtype.kind
    hdu = opened(parts.build())
    assert_reads(hdu, expected, TILE)
    assert same_bits(hdu.reader(mask_and_scale=False)[...], pixels)


@pytest.mark.parametrize(
    ("keywords", "dtype", "tile"),
    pairwise(
        [{"BSCALE": 0.37}, {"BZERO": 12.5}, {"BSCALE": 3, "BZERO": -1e-3}, {"BLANK": 5}],
        ["f4", "f8"],
        [TILE, (1, 34)],
    ),
    ids=str,
)
def test_scaled_floats(
    engine: str, dtype: str, keywords: dict[str, float], tile: tuple[int, int]
) -> None:
    """BSCALE and BZERO apply to what unquantizing gives (section 10.2), in lossless tiles too."""
    parts = tiled_parts(
        floats(IMAGE, dtype, "zeros"),
        zcmptype="RICE_1",
        tile=tile,
        quantize=quantized(12 if tile == TILE else 23, blank=-55_555, blank_in="column"),
        fallback={4: "GZIP_COMPRESSED_DATA"},
        cards=list(keywords.items()),
    )
    hdu = opened(parts.build())
    expected = scaled(parts.decoded, keywords)
    assert_reads(hdu, expected, tile)
    assert same_bits(by_astropy(parts.build()), expected)
    assert same_bits(hdu.reader(mask_and_scale=False)[...], parts.decoded)


@pytest.mark.parametrize("image_blank", [None, -32768, 321])
@pytest.mark.parametrize("algorithm", ["RICE_1", "GZIP_1", "HCOMPRESS_1"])
def test_zblank_of_each_tile_of_an_integer_image(
    engine: str, algorithm: str, image_blank: int | None
) -> None:
    """It becomes BLANK, which is NaN in the end; the least integer where there is no BLANK."""
    pixels, blanks = steps(IMAGE), -850 + np.arange(12)
    cards = [] if image_blank is None else [("BLANK", image_blank)]
    parts = tiled_parts(
        pixels,
        zcmptype=algorithm,
        tile=TILE,
        columns=["COMPRESSED_DATA", ("ZBLANK", "1J", blanks)],
        cards=cards,
    )
    stored = pixels.copy()
    for place, blank in zip(parts.tiles, blanks, strict=True):
        stored[place][stored[place] == blank] = -32768 if image_blank is None else image_blank
    expected = np.where(stored == pixels, pixels, np.nan).astype("f4")
    assert 5 < np.isnan(expected).sum() < 100
    hdu = opened(parts.build())
    assert_reads(hdu, expected, TILE)
    assert same_bits(by_astropy(parts.build()), expected)
    assert same_bits(hdu.reader(mask_and_scale=False)[...], stored)


@pytest.mark.parametrize("blank_in", ["keyword", "column"])
@pytest.mark.parametrize("algorithm", [*LOSSLESS])
def test_a_tile_of_nan_only(engine: str, algorithm: str, blank_in: str) -> None:
    pixels = floats(IMAGE, "f4", "plain")
    pixels[:9, :10] = np.nan
    parts = tiled_parts(
        pixels,
        zcmptype=algorithm,
        tile=TILE,
        quantize=quantized(12, scale=0.1, zero=0.0, blank_in=blank_in),
    )
    assert np.isnan(parts.decoded[:9, :10]).all()
    assert_reads(opened(parts.build()), parts.decoded, TILE)


def test_without_zblank_nothing_is_nan(engine: str) -> None:
    quantize = Quantize(0.5, blank=-(2**31))
    parts = tiled_parts(floats(IMAGE, "f4", "nan"), zcmptype="RICE_1", tile=TILE, quantize=quantize)
    assert parts.decoded.min() == -(2.0**30)
    assert_reads(opened(parts.build()), parts.decoded, TILE)


def test_blank_is_zblank_of_a_quantized_image_without_one(engine: str) -> None:
    """As in astropy 8.0.2."""
    quantize = Quantize(0.5, blank=-777, blank_in="keyword")
    parts = tiled_parts(floats(IMAGE, "f4", "nan"), zcmptype="RICE_1", tile=TILE, quantize=quantize)
    parts.set_card("ZBLANK", None)
    parts.set_card("BLANK", -777)
    assert same_bits(by_astropy(parts.build()), parts.decoded)
    assert_reads(opened(parts.build()), parts.decoded, TILE)


# Large heaps


@pytest.mark.parametrize(
    ("descriptor", "start"),
    [("1P(max)", (1 << 31) + 77), ("1P(max)", (1 << 32) - 5000), ("1Q(max)", (1 << 33) + 3)],
)
def test_tiles_far_into_the_heap(engine: str, tmp_path: Path, descriptor: str, start: int) -> None:
    """The numbers of P are taken for unsigned, as cfitsio does, so that heaps may have 4 GiB."""
    parts = tiled_parts(steps(IMAGE), zcmptype="RICE_1", tile=TILE, descriptor=descriptor)
    column, heap = parts.column("COMPRESSED_DATA"), bytes(parts.heap)
    column.view(">u4" if "P" in descriptor else ">i8")[6:, 1] += start
    parts.set_card("PCOUNT", start + len(heap))
    parts.heap.clear()
    head = parts.build()[: -(-len(parts.table) // 2880) * -2880]
    path = tmp_path / "far.fits"
    with path.open("wb") as file:
        file.write(head + bytes(parts.table) + heap)
        file.seek(len(head) + len(parts.table) + start)
        file.write(heap)
        file.truncate(file.tell() + -file.tell() % 2880)
    assert path.stat().st_blocks * 512 < 1 << 24, "the file should have holes"
    hdu = dask_fits.open(path)[1]
    reader = hdu.reader()
    assert same_bits(reader[...], parts.decoded)
    assert same_bits(reader[20:, 3:33:2], parts.decoded[20:, 3:33:2])
    assert same_bits(hdu.to_dask(TILE).compute(scheduler="sync"), parts.decoded)


# Headers


def headers_to_compare(path: Path) -> Iterator[bytes]:
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    given = fits.Header()
    given["EXTNAME"], given["OBJECT"], given["EXPTIME"] = "SCI", ("M 13", "what"), (1.5, "[s]")
    given["LONG"] = "a string that is too long for one card " * 4
    given["HIERARCH eso det"] = 4
    given.add_comment("by hand")
    given.add_history("and more")
    for algorithm in ("RICE_1", "HCOMPRESS_1", "GZIP_2"):
        for dtype in ("u2", "f4", "i1"):
            buffer = io.BytesIO()
            pixels = np.ones((20, 30), dtype)
            image = fits.CompImageHDU(pixels, given, compression_type=algorithm)
            fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer, checksum=dtype == "f4")
            yield buffer.getvalue()
            header = [{"name": "OBJECT", "value": "M 13"}, {"name": "EXTNAME", "value": "SCI"}]
            name = NAMES[algorithm]
            fitsio.write(str(path), pixels, compress=name, header=header, clobber=True)
            yield path.read_bytes()
    cards = [("ZBLANK", -850), ("ZTENSION", "IMAGE"), ("ZPCOUNT", 0), ("ZGCOUNT", 1)]
    yield tiled_parts(steps(IMAGE), zcmptype="RICE_1", tile=TILE, cards=cards).build()
    quantize = quantized(12, blank=-5, blank_in="column")
    yield tiled_parts(
        steps(IMAGE, "f4"),
        zcmptype="GZIP_1",
        tile=TILE,
        quantize=quantize,
        columns=[*EXTRA, "COMPRESSED_DATA", "ZSCALE", "ZZERO", "ZBLANK"],
    ).build()


def test_the_header_is_astropys(tmp_path: Path) -> None:
    count = 0
    for content in headers_to_compare(tmp_path / "a.fits"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(io.BytesIO(content)) as file:
                expected = [str(card) for card in file[1].header.cards]
        hdu = opened(content)
        assert [str(card) for card in hdu.header.cards] == expected
        assert not [card for card in expected if card.startswith(("TFORM", "ZCMPTYPE", "ZTILE"))]
        count += 1
    assert count == 20


def test_the_header_of_what_astropy_cannot_read() -> None:
    """Without ZTILEn, and with ZQUANTIZ = 'NONE'."""
    quantize = quantized(23, "NONE")
    parts = tiled_parts(
        floats(IMAGE, "f4", "plain"),
        zcmptype="RICE_1",
        quantize=quantize,
        cards=[("OBJECT", "M 13")],
    )
    header = opened(parts.build()).header
    expected = [("XTENSION", "IMAGE"), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 34)]
    expected += [("NAXIS2", 23), ("PCOUNT", 0), ("GCOUNT", 1), ("OBJECT", "M 13")]
    assert list(header.items()) == expected


def test_listings_show_the_image(capsys: pytest.CaptureFixture[str]) -> None:
    parts = tiled_parts(
        steps((5, 20, 30)), zcmptype="RICE_1", cards=[("BZERO", 32768), ("EXTNAME", "SCI")]
    )
    content = parts.build()
    file = FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")
    assert (file[1].shape, file[1].dtype, file[1].compression) == ((5, 20, 30), np.uint16, "RICE_1")
    assert (file[1].kind, file["sci"].index) == ("compressed-image", 1)
    file.info()
    for text in (repr(file), capsys.readouterr().out, file._repr_html_()):
        line = next(line for line in text.replace("<tr>", "\n").splitlines() if "SCI" in line)
        for shown in ("compressed-image (RICE_1)", "(5, 20, 30)", "uint16"):
            assert shown in line
    lazy = file[1].data
    assert (lazy.shape, lazy.dtype) == ((5, 20, 30), np.uint16)


def test_a_compressed_primary_image_stays_an_extension(tmp_path: Path) -> None:
    """cfitsio moves an image of the primary HDU to the first extension, and says so by ZSIMPLE."""
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    pixels = integers((20, 30), "i2")
    fitsio.write(str(tmp_path / "a.fits"), pixels, compress="RICE")
    file = dask_fits.open(tmp_path / "a.fits")
    assert len(file) == 2
    assert (file[0].kind, file[0].shape, file[0].dtype) == ("image", (), None)
    assert (file[1].kind, file[1].shape) == ("compressed-image", (20, 30))
    assert file[1].header["SIMPLE"] is True
    assert same_bits(dask_fits.from_fits(tmp_path / "a.fits").compute(), pixels)


# Threads and processes


def of_each_algorithm() -> dict[str, TiledParts]:
    pixels = floats((67, 94), "f4", "nan")
    mask = integers((67, 94), "i4", mask=True)
    made = {"PLIO_1": tiled_parts(mask, zcmptype="PLIO_1", tile=(9, 10))}
    for algorithm in LOSSLESS:
        quantize = quantized(80, blank=-99_999, blank_in="column")
        made[algorithm] = tiled_parts(
            pixels, zcmptype=algorithm, tile=(9, 10), quantize=quantize, heap_gap=3
        )
        made[f"{algorithm} integers"] = tiled_parts(
            steps((67, 94)), zcmptype=algorithm, tile=(9, 10), fallback={7: "GZIP_COMPRESSED_DATA"}
        )
    return made


def test_threads_read_what_one_reads(engine: str, tmp_path: Path) -> None:
    """8 threads, 50 rounds in each; astropy's HCOMPRESS decoder keeps its state in C globals."""
    readers = []
    for name, parts in of_each_algorithm().items():
        path = tmp_path / f"{name}.fits"
        path.write_bytes(parts.build())
        readers.append((dask_fits.open(path)[1].reader(), parts.decoded))
    start = threading.Barrier(8)

    def rounds(thread: int) -> None:
        rng = random.Random(thread)
        start.wait()
        for _ in range(50):
            reader, expected = rng.choice(readers)
            top, left = rng.randrange(60), rng.randrange(80)
            key = slice(top, top + rng.randrange(1, 20)), slice(left, left + rng.randrange(1, 25))
            assert same_bits(reader[key], expected[key]), (reader, key)

    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(rounds, thread) for thread in range(8)]:
            result.result()


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_reader_is_pickled(engine: str, tmp_path: Path, *, with_rows: bool) -> None:
    for name, parts in of_each_algorithm().items():
        path = tmp_path / f"{name}.fits"
        path.write_bytes(parts.build())
        reader = dask_fits.open(path)[1].reader()
        assert reader.tile_table is not None
        if not with_rows:
            reader = replace(reader, tile_table=None)
        packed = pickle.dumps(reader)
        assert len(packed) < 4000 + (len(parts.table) if with_rows else 0)
        again = pickle.loads(packed)
        assert again == reader
        assert same_bits(again[...], parts.decoded)
        assert same_bits(again[5:60:7, ::-1], parts.decoded[5:60:7, ::-1])
        assert tokenize(again) == tokenize(reader)


def test_each_image_has_its_own_name() -> None:
    """Dask takes arrays of one name for the same."""
    one, other = (
        tiled_parts(steps((5, 20)), zcmptype="RICE_1", cards=[("BZERO", zero)]) for zero in (0, 5)
    )
    content = one.build() + one.extension() + other.extension()
    names = [
        tokenize(opened(content, hdu).reader(mask_and_scale=scaled))
        for hdu, scaled in ((1, True), (2, True), (3, True), (3, False))
    ]
    assert len(set(names)) == 4
    assert names[0] == tokenize(opened(content, 1).reader(mask_and_scale=False))


@pytest.mark.parametrize(
    ("limit", "chunk"),
    [
        ("1 kB", (9, 20)),
        ("4 kB", (9, 94)),
        ("8 kB", (18, 94)),
        ("7 B", (9, 10)),
        ("1 MB", (67, 94)),
    ],
)
def test_default_chunks_are_bands_of_tiles(limit: str, chunk: tuple[int, int]) -> None:
    """Of 360 bytes each tile, 10 of which lie beside each other; they are contiguous in the heap."""
    pixels = floats((67, 94), "f4", "plain")
    parts = tiled_parts(pixels, zcmptype="GZIP_1", tile=(9, 10))
    hdu = opened(parts.build())
    with dask.config.set({"array.chunk-size": limit}):
        lazy, plan = hdu.data, hdu.plan(chunks="auto")
    assert lazy.chunks == da.zeros((67, 94), chunks=chunk).chunks
    assert [part.requests for part in plan.chunks] == [1] * lazy.npartitions
    assert plan.bytes == plan.useful_bytes == len(parts.heap)
    hdu.store.asked.clear()
    assert same_bits(lazy.compute(scheduler="sync"), pixels)
    assert sorted(hdu.store.asked) == sorted(plan.ranges)


# What is asked of the store


@st.composite
def images(draw: st.DrawFn) -> tuple[TiledParts, np.ndarray]:
    """An image in tiles in any order, with gaps, and some that share bytes; its pixels."""
    lengths = st.lists(st.sampled_from([0, 1, 2, 3, 5, 8, 11]), min_size=1, max_size=4)
    shape = tuple(draw(lengths))
    tile = tuple(draw(st.integers(1, length + 2)) for length in shape)
    algorithm = draw(st.sampled_from(["RICE_1", "GZIP_1", "NOCOMPRESS"]))
    grid = math.prod(-(-n // side) for n, side in zip(shape, tile, strict=True))
    parts = tiled_parts(
        steps(shape),
        zcmptype=algorithm,
        tile=tile,
        heap_order=draw(st.permutations(range(grid))),
        heap_gap=draw(st.sampled_from([0, 0, 1, 50])),
        theap_gap=draw(st.sampled_from([0, 3])),
        descriptor=draw(st.sampled_from(["1P(max)", "Q"])),
        columns=["COMPRESSED_DATA", *draw(st.sampled_from([[], [("EXTRA", "5I")]]))],
    )
    pixels, column = parts.decoded.copy(), parts.column("COMPRESSED_DATA")
    if grid > 1 and draw(st.booleans()):
        copy, of = draw(st.integers(0, grid - 1)), draw(st.integers(0, grid - 1))
        if pixels[parts.tiles[copy]].shape == pixels[parts.tiles[of]].shape:
            column[copy] = column[of]
            pixels[parts.tiles[copy]] = pixels[parts.tiles[of]]
    return parts, pixels


_NUMBERS = itertools.count()


def watched(
    parts: TiledParts, limits: Coalescing = DEFAULT_COST.coalescing
) -> tuple[TiledReader, ByteRange]:
    """A reader that has no rows at hand, and may read nothing but the data unit."""
    content = parts.build()
    hdu = opened(content)
    start = len(content) - len(blocks(bytes(parts.table) + parts.gap + bytes(parts.heap)))
    unit = ByteRange(start, start + len(parts.table) + len(parts.gap) + len(parts.heap))
    assert hdu.data_range == unit
    layout = hdu.layout.image
    assert isinstance(layout, TiledLayout)
    url = f"watched-{next(_NUMBERS)}.fits"  # another one each time: rows of a file are kept
    return TiledReader(WatchedStore(content, unit, url=url, coalescing=limits), layout, None), unit


def asked_bytes(ranges: Sequence[ByteRange]) -> list[int]:
    return sorted(byte for wanted in ranges for byte in range(wanted.start, wanted.stop))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), images(), st.booleans())
def test_what_is_read_are_the_tiles_that_the_key_touches(
    engine: str, data: st.DataObject, image: tuple[TiledParts, np.ndarray], bridging: bool
) -> None:
    parts, pixels = image
    key = data.draw(keys(pixels.shape))
    reader, unit = watched(parts, coalescing(1 << 16 if bridging else 0))
    owner = np.empty(pixels.shape, int)
    for row, place in enumerate(parts.tiles):
        owner[place] = row
    touched = np.unique(owner[key])
    rows, heap = unit.start, unit.start + len(parts.table) + len(parts.gap)
    needed = {
        *(rows + row * parts.row_bytes + n for row in touched for n in range(parts.row_bytes)),
        *(heap + n for row in touched for n in range(parts.span(row).start, parts.span(row).stop)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "ROWS", RowCache(0))  # else they would be read once
        planned = reader.plan(select(key, pixels.shape).indices)
        reader.store.asked.clear()
        found = reader[key]
    assert same_bits(found, pixels[key])
    asked = asked_bytes(reader.store.asked)
    assert len(asked) == len(set(asked)), "no byte is asked for twice"
    assert sorted(reader.store.asked) == sorted(planned.ranges)
    assert planned.useful_bytes == sum(
        parts.span(row).stop - parts.span(row).start for row in touched
    )
    if not bridging:
        assert set(asked) == needed
    elif len(touched):
        assert needed <= set(asked)
        table = [byte for byte in asked if byte < heap]
        first, last = touched[0] * parts.row_bytes, (touched[-1] + 1) * parts.row_bytes
        assert table == list(range(rows + first, rows + last))
        spans = [parts.span(row) for row in touched]
        tiles = [byte for byte in asked if byte >= heap]
        low, high = min(s.start for s in spans), max(s.stop for s in spans)
        assert tiles == list(range(heap + low, heap + high))
    else:
        assert not asked


def test_gaps_that_are_not_bridged_are_not_read(engine: str) -> None:
    parts = tiled_parts(
        steps(IMAGE),
        zcmptype="RICE_1",
        tile=TILE,
        heap_gap=(1 << 16) + 1,
        heap_order=range(11, -1, -1),
    )
    reader, unit = watched(parts)
    assert same_bits(reader[...], parts.decoded)
    heap = unit.start + len(parts.table)
    spans = [parts.span(row) for row in range(12)]
    expected = [ByteRange(heap + span.start, heap + span.stop) for span in spans]
    table = ByteRange(unit.start, heap)
    assert sorted(reader.store.asked) == sorted([table, *expected])


def test_rows_are_read_once(engine: str) -> None:
    """By a process; the tiles are read each time."""
    parts = tiled_parts(steps((40, 41)), zcmptype="RICE_1")
    reader, unit = watched(parts)
    for _ in range(2):
        assert same_bits(reader[7:9], parts.decoded[7:9])
    rows = [wanted for wanted in reader.store.asked if wanted.start < unit.start + len(parts.table)]
    assert len(rows) == 1
    assert len(reader.store.asked) == 3


def test_rows_that_came_with_the_header_are_not_read() -> None:
    parts = tiled_parts(steps((40, 30)), zcmptype="RICE_1")
    hdu = opened(parts.build())
    hdu.store.asked.clear()
    assert same_bits(hdu.reader()[7:9], parts.decoded[7:9])
    heap = hdu.data_range.start + len(parts.table)
    span = ByteRange(heap + parts.span(7).start, heap + parts.span(8).stop)
    assert hdu.store.asked == [span]
