"""What reading tile-compressed images costs: requests and bytes, as a server counts them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import HDU
from dask_fits.file.header_reader import HEADER_READ, MAX_TILE_TABLE
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.readers import row_cache, tiled
from dask_fits.readers.row_cache import RowCache
from dask_fits.storage.local import LOCAL_BLOCK
from dask_fits.storage.version import FileVersion
from tests.servers.range_server import RangeServer
from tests.support.fits_files import WatchedStore
from tests.support.recording import RecordingFileSystem, put
from tests.support.tiled_files import Quantize, tiled_file, tiled_parts

pytestmark = pytest.mark.untraced

CUTOUT = (slice(1500, 1510), slice(3000, 3020))
CORNER = (slice(1019, 1029), slice(1014, 1034))
"""Across the corner of four tiles of 8 x 8, 32 x 32 and 512 x 512 pixels."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiled")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.normal(1000, 15, (4096, 4096)).astype(np.int16)


@pytest.fixture(scope="module")
def files(directory: Path, pixels: np.ndarray) -> dict[str, Path]:
    """The same image in rows and in squares."""
    paths = {}
    for name, tile in (("rows", (1, 4096)), ("squares", (512, 512)), ("small", (32, 32))):
        paths[name] = directory / f"{name}.fits"
        packed = fits.CompImageHDU(pixels, compression_type="RICE_1", tile_shape=tile)
        packed.writeto(paths[name])
    return paths


def touched_bytes(path: Path, key: tuple[slice, slice], tile: tuple[int, int]) -> int:
    """Bytes of the tiles that a key touches and of their rows, as astropy reads the table."""
    with fits.open(path, disable_image_compression=True) as file:
        table, width = file[1], file[1].header["NAXIS1"]
        columns = -(-file[1].header["ZNAXIS1"] // tile[1])
        # A descriptor's length, whatever astropy makes of the column.
        raw = np.frombuffer(path.read_bytes(), ">u4", offset=table._data_offset)
        lengths = raw[:: width // 4]
        wanted = [
            row * columns + column
            for row in range(key[0].start // tile[0], (key[0].stop - 1) // tile[0] + 1)
            for column in range(key[1].start // tile[1], (key[1].stop - 1) // tile[1] + 1)
        ]
        return sum(int(lengths[n]) + width for n in wanted)


@pytest.mark.parametrize("key", [CUTOUT, CORNER], ids=["within a tile", "a corner of tiles"])
@pytest.mark.parametrize(("name", "tile"), [("rows", (1, 4096)), ("squares", (512, 512))])
def test_a_cutout_of_an_image_with_a_short_table(
    server: RangeServer,
    files: dict[str, Path],
    pixels: np.ndarray,
    name: str,
    tile: tuple[int, int],
    key: tuple[slice, slice],
) -> None:
    hdu = dask_fits.open(f"{server.url}/{files[name].name}")[1]
    assert server.requests == 1, "the file, its header and what is ahead of it"
    assert server.bytes == HEADER_READ
    server.clear()
    assert np.array_equal(hdu.data[key].compute(scheduler="sync"), pixels[key])
    assert server.requests <= 2
    assert server.bytes <= touched_bytes(files[name], key, tile)


def test_a_cutout_of_an_image_with_a_longer_table(
    server: RangeServer, files: dict[str, Path], pixels: np.ndarray
) -> None:
    hdu = dask_fits.open(f"{server.url}/{files['small'].name}")[1]
    server.clear()
    assert hdu.tile_table is None
    assert np.array_equal(hdu.data[CORNER].compute(scheduler="sync"), pixels[CORNER])
    # Two rows of tiles lie 128 rows of the table apart, which is read over, and far apart in the heap.
    assert server.requests == 3
    assert server.bytes <= touched_bytes(files["small"], CORNER, (32, 32)) + 128 * 8


@pytest.mark.parametrize("name", ["rows", "squares", "small"])
@pytest.mark.parametrize("size", ["128 MiB", "4 MiB"])
def test_a_full_read_is_one_range_of_the_heap_a_chunk(
    server: RangeServer, files: dict[str, Path], pixels: np.ndarray, name: str, size: str
) -> None:
    part = dask_fits.TransferConfig(part_size=1 << 30)
    hdu = dask_fits.open(f"{server.url}/{files[name].name}", transfer=part)[1]
    with dask.config.set({"array.chunk-size": size}):
        array = hdu.data
        assert np.array_equal(array.compute(scheduler="sync"), pixels)
    heap = hdu.layout.image.heap
    ranges = sorted(tuple(map(int, r.range[6:].split("-"))) for r in server.log[1:])
    of_heap = [(first, last + 1) for first, last in ranges if first >= heap.start]
    assert len(of_heap) == array.npartitions
    assert (of_heap[0][0], of_heap[-1][1]) == (heap.start, heap.stop)
    assert all(a[1] == b[0] for a, b in pairwise(of_heap)), "no byte twice, none left out"
    assert server.bytes <= 1.02 * files[name].stat().st_size


def test_default_chunks_are_whole_rows_of_tiles(files: dict[str, Path]) -> None:
    chunks = {}
    for name, path in files.items():
        with dask.config.set({"array.chunk-size": "5 MiB"}):
            chunks[name] = dask_fits.from_fits(path).chunksize
        with dask.config.set({"array.chunk-size": "100 kiB"}):
            chunks[f"tiny {name}"] = dask_fits.from_fits(path).chunksize
    assert chunks == {
        "rows": (640, 4096),
        "tiny rows": (12, 4096),
        "squares": (512, 4096),
        "tiny squares": (512, 512),
        "small": (640, 4096),
        "tiny small": (32, 1600),
    }


@pytest.fixture(scope="module")
def many_tiles(directory: Path) -> tuple[Path, np.ndarray]:
    """An image in 100,489 tiles: a table of 2.4 MB."""
    fitsio = pytest.importorskip("fitsio", reason="cfitsio writes so many tiles in a second")
    path = directory / "many.fits"
    image = np.random.default_rng(3).normal(100, 3, (2536, 2536)).astype("f4")
    dither = "SUBTRACTIVE_DITHER_1"
    fitsio.write(path, image, compress="RICE", tile_dims=(8, 8), qlevel=4, qmethod=dither)
    return path, fits.getdata(path)


def test_a_hundred_thousand_tiles(server: RangeServer, many_tiles: tuple[Path, np.ndarray]) -> None:
    path, expected = many_tiles
    hdu = dask_fits.open(f"{server.url}/{path.name}")[1]
    assert hdu.layout.image.table.nbytes > 1 << 20
    array = hdu.to_dask((64, 64))
    assert server.requests == 1, "no table is read for a graph"
    assert len(cloudpickle.dumps(array)) < 20_000
    found = array[CORNER].compute(scheduler="sync")
    assert server.requests == 1 + 2 * 4, "rows and tiles, of four chunks"
    assert server.bytes < 100_000
    assert np.array_equal(found, expected[CORNER])
    server.clear()
    assert np.array_equal(hdu.reader()[CORNER], found)
    assert server.requests <= 3
    assert server.bytes < 100_000


def test_a_full_read_of_a_hundred_thousand_tiles(
    server: RangeServer, many_tiles: tuple[Path, np.ndarray]
) -> None:
    path, expected = many_tiles
    hdu = dask_fits.open(f"{server.url}/{path.name}")[1]
    server.clear()
    with dask.config.set({"array.chunk-size": "8 MiB"}):
        array = hdu.data
    assert np.array_equal(array.compute(scheduler="sync"), expected)
    assert server.requests == 2 * array.npartitions
    assert server.bytes <= 1.02 * path.stat().st_size


# The plan


KEYS = {
    "all": (...,),
    "a cutout": CUTOUT,
    "a corner": CORNER,
    "steps": (slice(90, 2100, 700), slice(10, 4000, 1333)),
    "a column": (slice(None), 9),
    "a list": ([5, 2500, 6], slice(0, 3)),
    "nothing": (slice(5, 5),),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("name", ["rows", "squares", "small"])
def test_a_selection_costs_what_is_planned(
    server: RangeServer,
    files: dict[str, Path],
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    key: tuple,
) -> None:
    hdu = dask_fits.open(f"{server.url}/{files[name].name}")[1]
    plan = hdu.plan(key)
    monkeypatch.setattr(tiled, "ROWS", RowCache(row_cache.CACHE_BYTES))
    server.clear()
    assert np.array_equal(hdu.reader()[key], pixels[key])
    asked = sorted(r.range for r in server.log)
    assert asked == sorted(f"bytes={r.start}-{r.stop - 1}" for r in plan.ranges)
    assert plan.useful_bytes <= plan.bytes == server.bytes


@pytest.mark.parametrize("chunks", ["auto", (64, 300), (512, 512)])
def test_the_plan_of_a_chunked_array_is_what_its_tasks_do(
    server: RangeServer,
    files: dict[str, Path],
    pixels: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    chunks: object,
) -> None:
    hdu = dask_fits.open(f"{server.url}/{files['small'].name}")[1]
    key = (slice(100, 700), slice(3000, 3500))
    plan = hdu.plan(key, chunks=chunks)
    monkeypatch.setattr(tiled, "ROWS", RowCache(0))
    server.clear()
    assert np.array_equal(hdu.to_dask(chunks)[key].compute(scheduler="sync"), pixels[key])
    asked = sorted(r.range for r in server.log)
    assert asked == sorted(f"bytes={r.start}-{r.stop - 1}" for r in plan.ranges)
    assert sum(part.requests for part in plan.chunks) == plan.requests


def test_a_plan_of_many_chunks_reads_the_rows_once(
    server: RangeServer, files: dict[str, Path]
) -> None:
    hdu = dask_fits.open(f"{server.url}/{files['small'].name}")[1]
    server.clear()
    assert len(hdu.plan(chunks=(64, 512)).chunks) == 512
    assert server.requests == 1
    assert server.bytes == hdu.layout.image.table.nbytes


def test_making_an_array_reads_nothing(server: RangeServer, files: dict[str, Path]) -> None:
    hdu = dask_fits.open(f"{server.url}/{files['small'].name}")[1]
    server.clear()
    dask.optimize((hdu.to_dask((50, 50)) + 1)[3:80, ::2].mean(axis=0))
    pickle.dumps(hdu.data)
    assert hdu.chunks == hdu.data.chunks
    assert server.requests == 0


# Rows of the table: with the header, from the cache, or read


def packed(count: int) -> tuple[bytes, np.ndarray]:
    """An image of as many tiles of one pixel."""
    image = np.arange(count, dtype=np.int32).reshape(1, count)
    return tiled_file(image, zcmptype="NOCOMPRESS", tile=(1, 1)), image


@pytest.mark.parametrize("count", [MAX_TILE_TABLE // 8, MAX_TILE_TABLE // 8 + 1])
def test_a_short_table_that_came_with_the_header_goes_with_the_tasks(count: int) -> None:
    content, image = packed(count)
    file = dask_fits.open(put("rows.fits", content))
    reader = pickle.loads(pickle.dumps(file[1].reader()))
    RecordingFileSystem.log.clear()
    assert reader[0, count - 1] == image[0, count - 1]
    assert len(RecordingFileSystem.ranges()) == (1 if count * 8 <= MAX_TILE_TABLE else 2)
    assert len(pickle.dumps(reader)) < 1500 + MAX_TILE_TABLE


def test_a_table_that_came_in_part_is_read() -> None:
    image = np.arange(600, dtype=np.int32).reshape(1, 600)
    # The header's read ends within the table.
    cards = [(f"K{n}", n) for n in range(600)]
    content = tiled_file(image, zcmptype="NOCOMPRESS", tile=(1, 1), cards=cards)
    hdu = dask_fits.open(put("part.fits", content))[1]
    assert hdu.data_range.start < HEADER_READ < hdu.layout.image.table.stop
    assert hdu.tile_table is None
    assert np.array_equal(hdu.reader()[...], image)


def test_rows_are_read_once_in_a_process(
    server: RangeServer, files: dict[str, Path], pixels: np.ndarray
) -> None:
    url = f"{server.url}/{files['small'].name}"
    hdu = dask_fits.open(url)[1]
    hdu.reader()[CORNER]
    server.clear()
    again = dask_fits.open(url)[1]
    inside = (slice(1020, 1028), slice(1020, 1028))
    assert np.array_equal(again.reader()[inside], pixels[inside])
    assert [request.bytes for request in server.log[1:]] == [
        r.nbytes for r in again.plan(inside).ranges[1:]
    ]


def test_the_row_cache_is_bounded_and_forgets_the_oldest() -> None:
    cache = RowCache(100)
    store = WatchedStore(b"", ByteRange(0, 0))
    for start in (0, 40, 80):
        cache.put(store, ByteRange(start, start + 40), bytes(40))
    assert cache.get(store, ByteRange(0, 8)) is None
    assert cache.get(store, ByteRange(44, 80)) == bytes(36)
    assert cache.get(store, ByteRange(70, 90)) is None, "held in two pieces"
    cache.put(store, ByteRange(200, 301), bytes(101))
    assert cache.get(store, ByteRange(200, 201)) is None, "longer than the cache"
    assert cache.get(store, ByteRange(84, 85)) == b"\0"
    for start in range(300):
        cache.put(store, ByteRange(1000 + start, 1000 + start), b"")
    assert cache.get(store, ByteRange(84, 85)) is None


def test_the_row_cache_keeps_versions_and_files_apart() -> None:
    cache = RowCache(100)
    for content, url in ((b"a", "a"), (b"b", "a"), (b"a", "b")):
        store = WatchedStore(content, ByteRange(0, 0), url=url)
        assert cache.get(store, ByteRange(0, 1)) is None
        cache.put(store, ByteRange(0, 1), content)


def test_rows_of_a_store_without_a_stamp_are_not_kept() -> None:
    class Unstamped(WatchedStore):
        @property
        def version(self) -> FileVersion:
            return FileVersion(10)

    cache, store = RowCache(100), Unstamped(b"", ByteRange(0, 0))
    cache.put(store, ByteRange(0, 4), b"abcd")
    assert cache.get(store, ByteRange(0, 4)) is None


def test_a_file_that_changed_is_noticed_though_its_rows_are_known() -> None:
    content, _ = packed(MAX_TILE_TABLE)
    url = put("changes.fits", content)
    reader = dask_fits.open(url)[1].reader()
    reader[0, 5]
    put("changes.fits", content)
    with pytest.raises(dask_fits.FileChangedError):
        reader[0, 5]


# The heap in no order


def shuffled(order: list[int], **options: object) -> tuple[HDU, np.ndarray]:
    floats = np.random.default_rng(1).normal(0, 1, (8, 64)).astype("f4")
    quantize = Quantize(0.01, method="SUBTRACTIVE_DITHER_1", seed=3)
    parts = tiled_parts(
        *(floats,), zcmptype="RICE_1", tile=(1, 64), quantize=quantize, heap_order=order, **options
    )
    return dask_fits.open(put("shuffled.fits", parts.build()))[1], parts.decoded


def test_tiles_in_any_order_are_one_range_where_they_are_neighbours() -> None:
    hdu, expected = shuffled([3, 1, 7, 0, 5, 2, 6, 4])
    assert hdu.plan().requests == 1
    assert np.array_equal(hdu.reader()[...], expected)
    assert np.array_equal(hdu.reader()[2:5, ::3], expected[2:5, ::3])


def test_gaps_in_the_heap_are_read_over_up_to_the_documented_number() -> None:
    hdu, expected = shuffled([3, 1, 7, 0, 5, 2, 6, 4], heap_gap=1 << 20)
    assert hdu.plan().requests == 1
    assert np.array_equal(hdu.reader()[...], expected)
    hdu, expected = shuffled([3, 1, 7, 0, 5, 2, 6, 4], heap_gap=(1 << 20) + 1)
    assert hdu.plan().requests == 8
    assert np.array_equal(hdu.reader()[...], expected)


def test_a_store_that_is_best_read_in_blocks_is_read_so(tmp_path: Path) -> None:
    image = np.arange(64 * 256, dtype=np.int32).reshape(64, 256)
    content = tiled_file(image, zcmptype="NOCOMPRESS", tile=(1, 256))
    path = tmp_path / "blocks.fits"
    path.write_bytes(content)
    reader = dask_fits.open(path)[1].reader()

    class Blocks(WatchedStore):
        @property
        def block_size(self) -> int:
            return 4096

    store = Blocks(content, ByteRange(0, len(content)))
    assert np.array_equal(replace(reader, store=store)[...], image)
    assert {wanted.nbytes for wanted in store.asked} == {4096}, "four tiles of a kilobyte"
    assert reader.store.block_size == LOCAL_BLOCK
    assert len(reader.plan((range(64), range(256))).ranges) == 1
