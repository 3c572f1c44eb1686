"""Chunks that cut rows or tiles: each byte is read once, and of some of the chunks no more than that."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from dask.callbacks import Callback
from dask.graph_manipulation import clone
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import HDU, ByteRange, ReadPlan
from dask_fits.arrays.banded import HELD_CHUNKS, BandedArray
from dask_fits.arrays.lazy import lazy_array
from dask_fits.file.fits_file import FitsFile
from tests.servers.range_server import RangeServer
from tests.support.fits_files import WatchedStore, blocks, card, fits_bytes, primary, same_bits
from tests.support.huge_images import huge_hdu
from tests.support.strategies import dask_indexes, keys
from tests.support.strategies import hdu_of as file_of

SHAPE = (96, 4096)
PIXELS = np.random.default_rng(7).random(SHAPE, dtype=np.float32)
CHUNKS = (32, 512)
BAND = 32 * 4096 * 4
CORNER = (slice(28, 36), slice(508, 530))


def watched(content: bytes) -> HDU:
    """The last HDU of a file whose store notes what is asked of it; it answers as HTTP is asked."""
    file = FitsFile(WatchedStore(content, ByteRange(0, len(content))), content)
    found = list(file)[-1]
    asked(found)
    return found


def asked(hdu: HDU) -> list[ByteRange]:
    """What was asked for since the last time, in order of the file."""
    found = sorted(hdu.store.asked)
    hdu.store.asked.clear()
    return found


def hdu_of(array: np.ndarray) -> HDU:
    """An HDU of such pixels, whose store notes what is asked of it."""
    found = file_of(array)
    asked(found)
    return found


def nbytes(ranges: list[ByteRange]) -> int:
    return sum(r.nbytes for r in ranges)


def no_byte_twice(ranges: list[ByteRange]) -> bool:
    return all(a.stop <= b.start for a, b in pairwise(ranges))


def computed(array: da.Array, **options: Any) -> Any:
    return array.compute(scheduler="sync", **options)


@pytest.fixture
def hdu() -> HDU:
    return hdu_of(PIXELS)


@pytest.fixture
def image(hdu: HDU) -> da.Array:
    return hdu.to_dask(CHUNKS)


# A full read


GRIDS: dict[str, tuple[tuple[int, ...], Any, int]] = {
    # shape, chunks, and how many reads there are
    "squares": ((96, 4096), (32, 512), 3),
    "uneven": ((97, 4099), (30, 500), 4),
    "of a few rows": ((40, 3000), (5, 700), 8),
    "of a last column": ((9, 1500), ((1, 3, 5), (1499, 1)), 3),
    "of no length": ((9, 3000), ((0, 4, 5), (1000, 0, 2000)), 2),
    "spectra": ((20, 64, 1024), (-1, 16, 16), 4),
    "cubes": ((20, 64, 1024), (8, 32, 256), 6),
    "cubes of small planes": ((20, 30, 40), (-1, 10, 10), 1),
    "rows of planes": ((30, 40, 50), (7, 9, -1), 5),
    "four axes": ((2, 3, 64, 1024), (1, 3, 16, 64), 8),
    "one long row": ((1, 1, 4, 2000), (1, 1, 4, 100), 1),
}


def read_as_planned(
    hdu: HDU, lazy: da.Array, chunks: Any, expected: np.ndarray
) -> tuple[ReadPlan, list[ByteRange]]:
    """Read all: what is fetched is what was planned, and no byte twice."""
    plan = hdu.plan(chunks=chunks)
    asked(hdu)
    assert same_bits(computed(lazy), expected)
    found = asked(hdu)
    assert found == sorted(plan.ranges)
    assert no_byte_twice(found)
    return plan, found


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_a_full_read_fetches_each_byte_once(name: str, dtype: str) -> None:
    shape, chunks, reads = GRIDS[name]
    array = np.random.default_rng(1).integers(0, 30_000, shape).astype(dtype)
    hdu = hdu_of(array)
    lazy = hdu.to_dask(chunks)
    assert isinstance(lazy, BandedArray)
    assert lazy.chunks == da.zeros(shape, chunks=chunks).chunks
    plan, found = read_as_planned(hdu, lazy, chunks, array)
    assert nbytes(found) == array.nbytes == plan.bytes == plan.useful_bytes
    assert len(plan.chunks) == reads
    assert plan.over_read == 1.0


def scaled_file() -> tuple[bytes, np.ndarray]:
    """Integers with BSCALE, BZERO and BLANK, and astropy's pixels."""
    stored = np.random.default_rng(2).integers(0, 99, (60, 2000)).astype(">i2")
    extra = (card("BSCALE", 0.25), card("BZERO", -3.5), card("BLANK", 7))
    content = primary(2000, 60, bitpix=16, extra=extra) + blocks(stored.tobytes())
    return content, fits.getdata(BytesIO(content))


def test_scaled_pixels_are_astropys() -> None:
    content, expected = scaled_file()
    hdu = watched(content)
    lazy = hdu.to_dask((25, 300))
    assert same_bits(computed(lazy), expected)
    assert nbytes(asked(hdu)) == 60 * 2000 * 2
    assert same_bits(computed(lazy[20:31, 290:310:3]), expected[20:31, 290:310:3])
    raw = computed(hdu.to_dask((25, 300), mask_and_scale=False))
    assert same_bits(
        raw, np.frombuffer(content, ">i2", offset=2880, count=raw.size).reshape(raw.shape)
    )


TILES = {
    "rows": ((1, 200), (40, 50)),
    "rows, in full width": ((1, 200), (40, -1)),
    "squares": ((32, 32), (40, 50)),
    "odd ones": ((50, 33), (64, 100)),
    "smaller chunks": ((64, 64), (20, 20)),
    "chunks of rows": ((64, 64), (20, -1)),
    "a single tile": ((150, 200), (40, 50)),
    "whole ones": ((16, 16), (64, (64, 64, 72))),
    "small ones, whole": ((4, 4), (100, 100)),
}


def packed(pixels: np.ndarray, tile: tuple[int, ...]) -> tuple[bytes, np.ndarray, int]:
    """A compressed image, astropy's pixels of it, and how many bytes its tiles have."""
    hdu = fits.CompImageHDU(pixels, compression_type="RICE_1", tile_shape=tile)
    content = fits_bytes(fits.PrimaryHDU(), hdu)
    with fits.open(BytesIO(content), disable_image_compression=True) as file:
        count = sum(len(row) for row in file[1].data["COMPRESSED_DATA"])
    return content, fits.getdata(BytesIO(content)), count


@pytest.mark.untraced
@pytest.mark.parametrize("name", TILES)
def test_a_full_read_fetches_each_tile_once(name: str) -> None:
    tile, chunks = TILES[name]
    pixels = np.random.default_rng(3).normal(100, 9, (150, 200)).astype(np.float32)
    if name == "small ones, whole":  # so many that their rows of the table come with the header
        pixels = pixels.astype(np.int16)
    content, expected, count = packed(pixels, tile)
    hdu = watched(content)
    lazy, plan = hdu.to_dask(chunks), hdu.plan(chunks=chunks)
    assert isinstance(lazy, BandedArray) == (name != "rows, in full width")
    asked(hdu)
    assert same_bits(computed(lazy), expected)
    found = asked(hdu)
    assert found == sorted(plan.ranges)
    assert no_byte_twice(found)
    assert nbytes(found) == count == plan.bytes
    assert plan.over_read == 1.0


def test_tiles_of_a_cube() -> None:
    pixels = np.random.default_rng(3).integers(0, 99, (9, 60, 70)).astype(np.int16)
    content, expected, count = packed(pixels, (1, 16, 32))
    for chunks in ((-1, 10, 10), (2, 20, 70), (4, -1, 5)):
        hdu = watched(content)
        lazy = hdu.to_dask(chunks)
        assert same_bits(computed(lazy), expected)
        assert nbytes(asked(hdu)) == count
        key = (slice(3, 8), 17, slice(5, 61, 5))
        plan = hdu.plan(key, chunks=chunks)
        asked(hdu)
        assert same_bits(computed(lazy[key]), expected[key])
        assert asked(hdu) == sorted(plan.ranges)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((96, 4096), (32, -1)),
        ((96, 4096), "100 kB"),
        ((96, 4096), (1, 512)),
        ((96, 4096), -1),
        ((20, 64, 64), (3, -1, -1)),
        ((20, 64, 64), (1, 16, -1)),
        ((20, 64, 8192), (4, 32, -1)),  # not one range a chunk, but long ones
        ((5000,), 100),
        ((0, 40), (3, 10)),
    ],
)
def test_chunks_that_share_nothing_stay_what_they_are(
    shape: tuple[int, ...], chunks: object
) -> None:
    hdu = hdu_of(np.zeros(shape, np.float32))
    lazy, direct = hdu.to_dask(chunks), lazy_array(hdu.reader(), chunks)
    assert type(lazy) is da.Array
    assert lazy.name == direct.name
    assert len(cloudpickle.dumps(lazy)) == len(cloudpickle.dumps(direct))
    assert len(hdu.plan(chunks=chunks).chunks) == (lazy.npartitions if lazy.size else 0)


# What is read of a part


def test_a_corner_of_four_chunks(hdu: HDU, image: da.Array) -> None:
    assert same_bits(computed(image[CORNER]), PIXELS[CORNER])
    found = asked(hdu)
    assert nbytes(found) == 8 * 22 * 4
    assert len(found) == 8, "the rows of two bands"


def test_rows_of_all_columns(hdu: HDU, image: da.Array) -> None:
    part = image[40:50]
    assert part.chunks == ((10,), (512,) * 8)
    assert same_bits(computed(part), PIXELS[40:50])
    assert [r.nbytes for r in asked(hdu)] == [10 * 4096 * 4]


def test_selections_that_follow_one_another(hdu: HDU, image: da.Array) -> None:
    part = image[20:80][3:9][:, 100:700][2, ::3]
    assert same_bits(computed(part), PIXELS[25, 100:700:3])
    assert nbytes(asked(hdu)) <= 600 * 4


ONE_CHUNK = (slice(32, 64), slice(1024, 1536))
OF_ONE_CHUNK = {
    "a slice": lambda x: x[ONE_CHUNK],
    "a block": lambda x: x.blocks[1, 2],
    "a partition": lambda x: x.partitions[1, 2],
    "a delayed chunk": lambda x: x.to_delayed()[1, 2],
    "of what was computed": lambda x: (x + 0)[ONE_CHUNK],
    "of a copy": lambda x: copy.deepcopy(x)[ONE_CHUNK],
    "of what was pickled": lambda x: cloudpickle.loads(cloudpickle.dumps(x))[ONE_CHUNK],
}


@pytest.mark.parametrize("name", OF_ONE_CHUNK)
def test_one_chunk_costs_what_it_cost_by_itself(name: str) -> None:
    wide = np.zeros((64, 1 << 17), np.float32)
    wide[ONE_CHUNK] = 5
    hdu = hdu_of(wide)
    part = OF_ONE_CHUNK[name](hdu.to_dask((32, 512)))
    cost = hdu.plan(ONE_CHUNK)
    if name == "of what was pickled":
        part.dask.layers[part.name].reader.store.asked.clear()
    asked(hdu)
    assert same_bits(part.compute(scheduler="sync"), wide[ONE_CHUNK])
    if name != "of what was pickled":
        assert asked(hdu) == list(cost.ranges)
    assert cost.bytes == 32 * 512 * 4, "and not a band"


def test_nothing_is_read_of_nothing(hdu: HDU, image: da.Array) -> None:
    for key in ((slice(5, 5),), (slice(3), slice(9, 2)), (3, slice(0, 0))):
        assert computed(image[key]).shape == PIXELS[key].shape
        assert hdu.plan(key, chunks=CHUNKS).requests == 0
    assert asked(hdu) == []


def test_what_dask_has_to_do_reads_no_more_than_the_slices_beside_it(
    hdu: HDU, image: da.Array
) -> None:
    rows = 8 * 4096 * 4
    for key, most in (
        ((slice(36, 28, -1), slice(508, 530)), 8 * 22 * 4),
        ((None, *CORNER), 8 * 22 * 4),
        ((CORNER[0], None, slice(None)), rows),
        (([1, 90, 5], slice(500, 600)), 2 * BAND),
        ((slice(28, 36), [700, 5]), rows),
        ((slice(None, None, -2),), PIXELS.nbytes),
    ):
        plan = hdu.plan(key, chunks=CHUNKS)
        assert same_bits(computed(image[key]), PIXELS[key])
        found = asked(hdu)
        assert found == sorted(plan.ranges)
        assert nbytes(found) <= most


def test_keys_that_dask_alone_understands(image: da.Array) -> None:
    assert image[:] is image
    assert image[...] is image
    rows = da.from_array(np.array([3, 40]))
    assert same_bits(computed(image[rows]), PIXELS[[3, 40]])
    assert same_bits(computed(image[image > 0.99]), PIXELS[PIXELS > 0.99])
    assert same_bits(computed(image.vindex[[3, 40], [5, 6]]), PIXELS[[3, 40], [5, 6]])
    like = da.from_array(PIXELS, CHUNKS)
    for key in (96, (0, 0, 0), (0, 5000), "x", 1.5, ([[1]],)):
        with pytest.raises(Exception) as expected:  # noqa: PT011
            like[key]
        with pytest.raises(type(expected.value)):
            image[key]


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Chunks, not very many of them."""

    def cut(length: int) -> tuple[int, ...]:
        edges = draw(st.lists(st.integers(0, length), max_size=3))
        return tuple(np.diff(sorted([0, length, *edges])).tolist())

    return tuple(
        draw(st.just(-1) | st.integers(-(-n // 5), n)) if draw(st.booleans()) else cut(n)
        for n in shape
    )


def without_empty(chunks: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    """Dask keeps some of the chunks of which a slice with a step takes nothing."""
    return [[length for length in along if length] for along in chunks]


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([(40, 120), (5, 24, 100), (2, 3, 6, 90)]))
def test_any_key_and_chunks_cost_no_more_than_chunk_by_chunk(data: Any, shape: Any) -> None:
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    hdu = hdu_of(array)
    chunks, key = data.draw(grids(shape)), data.draw(keys(shape))
    lazy = hdu.to_dask(chunks)
    direct = lazy_array(hdu.reader(), chunks)
    if not dask_indexes(array, key, lazy.chunks):
        return
    then = tuple(slice(1, None, 2) for _ in array[key].shape)
    asked(hdu)
    found, expected = computed(lazy[key]), array[key]
    assert same_bits(found, expected)
    ours = nbytes(asked(hdu))
    computed(direct[key])
    assert ours <= nbytes(asked(hdu))
    assert without_empty(lazy[key].chunks) == without_empty(direct[key].chunks)
    assert same_bits(computed(lazy[key][then]), expected[then])


@settings(max_examples=40, deadline=None)
@given(st.data(), st.tuples(st.integers(2, 30), st.integers(2, 50)))
def test_any_key_and_chunks_of_tiles(data: Any, tile: tuple[int, int]) -> None:
    shape = (60, 90)
    pixels = np.random.default_rng(3).integers(0, 99, shape).astype(np.int16)
    content, expected, _ = packed(pixels, tile)
    hdu = watched(content)
    chunks, key = data.draw(grids(shape)), data.draw(keys(shape))
    lazy = hdu.to_dask(chunks)
    if not dask_indexes(expected, key, lazy.chunks):
        return
    read_as_planned(hdu, lazy, chunks, expected)
    assert same_bits(computed(lazy[key]), expected[key])
    ours = nbytes(asked(hdu))
    computed(lazy_array(hdu.reader(), chunks)[key])
    assert ours <= nbytes(asked(hdu))


# Names, copies, assignments


def test_the_name_is_that_of_the_pixels_and_chunks(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(PIXELS).writeto(path)
    hdu = dask_fits.open(path)[0]
    image = hdu.to_dask(CHUNKS)
    same = {
        image.name,
        dask_fits.from_fits(path, chunks=CHUNKS).name,
        hdu.to_dask({0: 32, 1: 512}).name,
        hdu.to_dask(((32,) * 3, (512,) * 8)).name,
        pickle.loads(pickle.dumps(hdu)).to_dask(CHUNKS).name,
        cloudpickle.loads(cloudpickle.dumps(image)).name,
        lazy_array(hdu.reader(), CHUNKS).name,
    }
    assert len(same) == 1
    parts = {image[4:9, 600:].name, image[:9][4:, 600:].name, image[-92:9][:, 600:].name}
    assert len(parts) == 1
    others = [
        image[4:9, 601:],
        image[4:10, 600:],
        image[4:5],
        image[4],
        image[::2],
        hdu.to_dask(700),
    ]
    with dask.config.set({"array.chunk-size": "64 kiB"}):
        others.append(hdu.to_dask((32, 500)))
    names = [*same, *parts, *(other.name for other in others)]
    assert len(set(names)) == len(names)
    path.write_bytes(path.read_bytes() + bytes(2880))
    assert dask_fits.from_fits(path, chunks=CHUNKS).name != image.name


def test_a_part_of_a_part_has_the_chunks_that_dask_gives(image: da.Array) -> None:
    like = da.from_array(PIXELS, CHUNKS)
    for key in (np.s_[5:90:7, ::600], np.s_[31:33], np.s_[64, 511:513], np.s_[3:3], np.s_[-1:]):
        assert image[key].chunks == like[key].chunks
        assert type(image[key]) is BandedArray


def test_an_assignment_counts_and_stays_in_its_copy(image: da.Array) -> None:
    changed = image.copy()
    changed[2:40, 500:520] = -1
    expected = PIXELS.copy()
    expected[2:40, 500:520] = -1
    assert same_bits(computed(changed[30:50, 490:530]), expected[30:50, 490:530])
    assert same_bits(computed(changed), expected)
    assert same_bits(computed(image), PIXELS)
    assert same_bits(changed.to_delayed()[0, 0].compute(scheduler="sync"), expected[:32, :512])


def test_chunks_are_owned_native_and_writeable(image: da.Array) -> None:
    found = dask.compute(*image[3:90].to_delayed().ravel(), scheduler="sync")
    for chunk in found:
        assert chunk.base is None
        assert chunk.dtype.isnative
        assert chunk.flags.writeable


# Together with Dask


def test_what_is_computed_together_is_read_once(hdu: HDU, image: da.Array) -> None:
    others = [image.mean(), (image * 2).max(axis=0), image, image[::-1], *image.to_delayed()[1]]
    found = dask.compute(*others, scheduler="sync")
    assert nbytes(asked(hdu)) == PIXELS.nbytes
    np.testing.assert_allclose(found[0], PIXELS.mean(dtype="f8"), rtol=1e-5)
    assert same_bits(found[1], (PIXELS * 2).max(axis=0))
    assert same_bits(found[3], PIXELS[::-1])
    dask.compute(image, hdu.to_dask((32, 1000)), scheduler="sync")
    assert nbytes(asked(hdu)) == PIXELS.nbytes, "other chunks of the same bands"


STEPS = {
    "rechunk": lambda x: (x.rechunk((50, 1000)), PIXELS),
    "reshape": lambda x: (x.reshape(-1), PIXELS.reshape(-1)),
    "transpose": lambda x: (x.T, PIXELS.T),
    "map_blocks": lambda x: (x.map_blocks(np.negative), -PIXELS),
    "map_overlap": lambda x: (x.map_overlap(np.negative, depth=1, boundary="none"), -PIXELS),
    "arithmetic": lambda x: (x * 2 + x[:1] - x[:, :1], PIXELS * 2 + PIXELS[:1] - PIXELS[:, :1]),
    "concatenate": lambda x: (da.concatenate([x, x * 2]), np.concatenate([PIXELS, PIXELS * 2])),
    "numpy's": lambda x: (np.concatenate([x * 2, x]), np.concatenate([PIXELS * 2, PIXELS])),
    "argmax": lambda x: (x.argmax(axis=1), PIXELS.argmax(axis=1)),
    "optimize": lambda x: (dask.optimize(x)[0][3:50], PIXELS[3:50]),
    "persist": lambda x: (x.persist(scheduler="sync")[3:50], PIXELS[3:50]),
    "clone": lambda x: (clone(x), PIXELS),
    "blocks": lambda x: (x.blocks[1:, [0, 2]], PIXELS[32:, [*range(512), *range(1024, 1536)]]),
}


@pytest.mark.untraced
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize(
    "settings", [{}, {"optimization.fuse.active": False}], ids=["fused", "not fused"]
)
def test_steps_of_dask(hdu: HDU, image: da.Array, name: str, settings: dict[str, Any]) -> None:
    with dask.config.set(settings, scheduler="sync"):
        found, expected = STEPS[name](image)
        assert same_bits(found.compute(), expected)
        once = asked(hdu)
        assert nbytes(once) <= PIXELS.nbytes + (name == "arithmetic") * 2 * PIXELS.nbytes
        assert same_bits(found.compute(optimize_graph=False), expected)


def test_storing(hdu: HDU, image: da.Array) -> None:
    out = np.empty_like(PIXELS)
    image.store(out, scheduler="sync")
    assert same_bits(out, PIXELS)
    assert nbytes(asked(hdu)) == PIXELS.nbytes


def test_a_cluster_reads_each_byte_once(tmp_path: Path, client: Client) -> None:
    fits.PrimaryHDU(PIXELS).writeto(tmp_path / "a.fits")
    with (
        RangeServer(tmp_path) as server,
        dask.config.set({"array.chunk-size": "256 kiB", "scheduler": client}),
    ):
        image = dask_fits.from_fits(f"{server.url}/a.fits", chunks=CHUNKS)
        server.clear()
        assert same_bits(image.compute(), PIXELS)
        assert server.bytes == PIXELS.nbytes
        assert server.requests == 6, "three bands in two parts"
        server.clear()
        kept = image.persist()
        assert same_bits((kept * 2).compute(), PIXELS * 2)
        assert server.bytes in (0, PIXELS.nbytes), "none if the cluster still has the chunks"
        server.clear()
        part = image[CORNER] * 1
        assert same_bits(part.compute(), PIXELS[CORNER])
        assert server.bytes == 8 * 22 * 4


# Memory


class Held(Callback):
    """The most bytes that a scheduler holds at once."""

    def __init__(self) -> None:
        super().__init__(posttask=self._look)
        self.most = 0

    def _look(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        arrays = [x for x in state["cache"].values() if isinstance(x, np.ndarray)]
        assert all(x.base is None for x in arrays), "a view would keep more in memory"
        self.most = max(self.most, sum(x.nbytes for x in arrays))


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("shape", "chunks"), [((256, 2048), (16, 64)), ((64, 16, 256), (8, 8, 16))]
)
def test_a_full_read_holds_a_few_bands(shape: tuple[int, ...], chunks: tuple[int, ...]) -> None:
    hdu = hdu_of(np.ones(shape, np.float32))
    image, band = hdu.to_dask(chunks), max(p.bytes for p in hdu.plan(chunks=chunks).chunks)
    for step in (image.mean(), (image * 2 + 1).max(axis=0), image.std()):
        with Held() as held:
            step.compute(scheduler="threads", num_workers=4)
        assert held.most <= 6 * band


def test_bands_are_cut_to_the_size_of_chunks() -> None:
    cube = np.random.default_rng(4).random((32, 16, 1024), dtype=np.float32)
    hdu = hdu_of(cube)
    with dask.config.set({"array.chunk-size": "256 kiB"}):
        image, plan = hdu.to_dask((-1, 8, 16)), hdu.plan(chunks=(-1, 8, 16))
    assert max(part.bytes for part in plan.chunks) == 1 << 18
    assert len(plan.chunks) == 8
    assert same_bits(computed(image), cube)
    assert nbytes(asked(hdu)) == cube.nbytes
    chunk = (slice(None), slice(8, 16), slice(32, 48))
    assert same_bits(computed((image + 0)[chunk]), cube[chunk])
    assert asked(hdu) == list(hdu.plan(chunk).ranges), "and not band by band"
    key = (slice(None), 3, slice(5, 40))
    assert same_bits(computed(image[key]), cube[key])
    assert asked(hdu) == list(hdu.plan(key).ranges)


# Warnings


@pytest.fixture(autouse=True)
def no_surprise() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", da.PerformanceWarning)
        yield


def test_chunks_whose_rows_hold_much_are_told_of(tmp_path: Path) -> None:
    cube = huge_hdu(tmp_path / "cube.fits", (5000, 4096, 4096))
    said = r"HDU 0: chunks of \(5000, 64, 64\) cut .* holds 4\.88 GiB at once, .* 128\.00 MiB; .*\(5000, 1, 4096\)"
    with pytest.warns(da.PerformanceWarning, match=said):
        image = cube.to_dask((-1, 64, 64))
    assert isinstance(image, BandedArray)
    assert type(cube.to_dask((-1, 1, 4096))) is da.Array
    assert type(image[:, 5:9, 7:60]) is BandedArray, "and no word of a part"
    with dask.config.set({"array.chunk-size": "1 GiB"}):
        cube.to_dask((-1, 64, 64))


def test_no_word_of_chunks_that_hold_what_they_may() -> None:
    limit = BAND // HELD_CHUNKS
    with dask.config.set({"array.chunk-size": f"{limit} B"}):
        hdu_of(PIXELS).to_dask(CHUNKS)
    with (
        dask.config.set({"array.chunk-size": f"{limit - 1} B"}),
        pytest.warns(da.PerformanceWarning, match=r"such as \(4, 4096\) do not"),
    ):
        hdu_of(PIXELS).to_dask(CHUNKS)


def test_where_bytes_once_would_hold_too_much_they_come_again_and_it_is_told() -> None:
    cube = np.random.default_rng(5).random((400, 16, 16), dtype=np.float32)
    hdu = hdu_of(cube)
    with dask.config.set({"array.chunk-size": "4 kiB"}):
        with pytest.warns(
            da.PerformanceWarning, match=r"a byte up to 3\.99 times, .*\(25, 16, 16\)"
        ):
            image = hdu.to_dask((-1, 4, 4))
        plan = hdu.plan(chunks=(-1, 4, 4))
        assert type(hdu.to_dask((25, 16, 16))) is da.Array
    assert plan.over_read == pytest.approx(4, rel=0.01)
    assert same_bits(computed(image), cube)
    assert asked(hdu) == sorted(plan.ranges)


def test_a_graph_of_many_chunks_is_small_until_it_is_computed(tmp_path: Path) -> None:
    hdu = huge_hdu(tmp_path / "huge.fits", (100_000, 100_000))
    image = hdu.to_dask((100, 100))
    assert isinstance(image, BandedArray)
    assert len(cloudpickle.dumps(image[5:, 7:])) < 20_000
    assert not image.dask.layers[image.name].is_materialized()
    (part,) = dask.optimize((image + 1)[250:260, 4050:4060])
    assert len(dict(part.dask)) <= 2
