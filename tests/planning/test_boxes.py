"""Many boxes of one image: each pixel once, no byte twice, and no more over gaps than agreed."""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import FitsFormatError, TruncatedFileError
from dask_fits.planning import boxes as planner
from dask_fits.planning.boxes import Boxes, cells, plan_boxes
from dask_fits.planning.tile_plan import pixel_counts
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.readers import row_cache, tiled
from dask_fits.readers.batch import Batch
from dask_fits.readers.image import ImageReader
from dask_fits.readers.row_cache import RowCache
from dask_fits.readers.tiled import TiledReader
from tests.support.fits_files import WatchedStore, blocks, card, coalescing, primary, same_bits
from tests.support.tiled_files import Quantize, TiledParts, tiled_parts

pytestmark = pytest.mark.untraced

RNG = np.random.default_rng(31)
FLOATS = RNG.normal(100, 15, (13, 22)).astype("f4")
FLOATS[4, :5] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], "f4")
INTEGERS = RNG.integers(-300, 300, (13, 22)).astype("i2")
INTEGERS[2, 3:9] = 99
CUBE = RNG.integers(0, 1000, (5, 7, 9)).astype("i2")
HYPERCUBE = RNG.integers(0, 1000, (2, 3, 6, 7)).astype("i4")

Interval = tuple[int, int]
EVERYTHING = coalescing(1 << 20, 1 << 40)


def plain(stored: np.ndarray, **keywords: object) -> bytes:
    """A file of one image whose pixels are stored as they come."""
    bitpix = stored.dtype.itemsize * (-8 if stored.dtype.kind == "f" else 8)
    extra = [card(keyword, value) for keyword, value in keywords.items()]
    head = primary(*stored.shape[::-1], bitpix=bitpix, extra=extra)
    return head + blocks(stored.astype(stored.dtype.newbyteorder(">")).tobytes())


PLAIN = {
    "uint8": plain(INTEGERS.astype("u1")),
    "int16": plain(INTEGERS),
    "int32": plain(INTEGERS.astype("i4") << 12),
    "int64": plain(INTEGERS.astype("i8") << 40),
    "float32": plain(FLOATS),
    "float64": plain(FLOATS.astype("f8")),
    "scaled int16": plain(INTEGERS, BSCALE=0.1, BZERO=-7.5),
    "scaled float32": plain(FLOATS, BSCALE=2.5),
    "uint16": plain(INTEGERS, BZERO=32768),
    "int8": plain(INTEGERS.astype("u1"), BZERO=-128),
    "BLANK": plain(INTEGERS, BLANK=99),
    "scaled with BLANK": plain(INTEGERS.astype("i4"), BSCALE=0.1, BLANK=99),
    "one axis": plain(FLOATS[0]),
    "cube": plain(CUBE),
    "four axes": plain(HYPERCUBE),
    "one column": plain(FLOATS[:, :1].copy()),
}

SHUFFLED = RNG.permutation(12).tolist()
TILED: dict[str, TiledParts] = {
    "rows": tiled_parts(INTEGERS, zcmptype="RICE_1", tile=(1, 22)),
    "squares": tiled_parts(INTEGERS, zcmptype="RICE_1", tile=(5, 6)),
    "squares, shuffled": tiled_parts(
        INTEGERS, zcmptype="GZIP_1", tile=(5, 6), heap_order=SHUFFLED, heap_gap=17
    ),
    "quantized": tiled_parts(
        np.nan_to_num(FLOATS, posinf=3, neginf=-3),
        zcmptype="RICE_1",
        tile=(5, 6),
        quantize=Quantize(0.5, method="SUBTRACTIVE_DITHER_1"),
    ),
    "fallback": tiled_parts(
        INTEGERS,
        zcmptype="RICE_1",
        tile=(5, 6),
        fallback={3: "GZIP_COMPRESSED_DATA", 4: "GZIP_COMPRESSED_DATA"},
    ),
    "scaled with ZBLANK": tiled_parts(
        INTEGERS,
        zcmptype="RICE_1",
        tile=(4, 22),
        cards=[("BSCALE", 0.1), ("BZERO", 3.0), ("ZBLANK", 99)],
    ),
    "cube": tiled_parts(CUBE, zcmptype="RICE_1", tile=(2, 3, 4)),
    "cube in planes": tiled_parts(CUBE, zcmptype="GZIP_2", tile=(1, 7, 9), heap_gap=40),
    "four axes": tiled_parts(HYPERCUBE, zcmptype="RICE_1", tile=(2, 2, 3, 7)),
}


@dataclass(frozen=True, repr=False)
class Image:
    """An image in a store that refuses whatever is not its pixels."""

    reader: ImageReader | TiledReader
    pixels: np.ndarray
    """As astropy reads them."""
    parts: TiledParts | None = None

    def runs(self, boxes: Boxes) -> list[Interval]:
        """Bytes that the boxes want: rows of pixels or tiles, those that overlap as one."""
        wanted: set[Interval] = set()
        for first, stop in zip(boxes.first.tolist(), boxes.stop.tolist(), strict=True):
            wanted |= self._tiles(first, stop) if self.parts else self._rows(first, stop)
        runs: list[Interval] = []
        for start, stop in sorted(wanted):
            if runs and start < runs[-1][1]:
                runs[-1] = runs[-1][0], max(runs[-1][1], stop)
            else:
                runs.append((start, stop))
        return runs

    def _rows(self, first: list[int], stop: list[int]) -> set[Interval]:
        offset, size = self.reader.layout.offset, self.reader.layout.scaling.stored.itemsize
        outer = itertools.product(*map(range, first[:-1], stop[:-1]))
        ends = [
            [
                np.ravel_multi_index((*index, x), self.pixels.shape)
                for x in (first[-1], stop[-1] - 1)
            ]
            for index in outer
        ]
        return {(offset + int(a) * size, offset + (int(b) + 1) * size) for a, b in ends}

    def _tiles(self, first: list[int], stop: list[int]) -> set[Interval]:
        found = set()
        for row, place in enumerate(self.parts.tiles):
            if all(p.start < b and a < p.stop for p, a, b in zip(place, first, stop, strict=True)):
                spans = [self.parts.span(row, n) for n in self.parts.forms if n.endswith("_DATA")]
                span = next(span for span in spans if span.start < span.stop)
                heap = self.reader.layout.heap.start
                found.add((heap + span.start, heap + span.stop))
        return found


def image_of(path: Path, content: bytes, parts: TiledParts | None = None) -> Image:
    path.write_bytes(content)
    hdu = dask_fits.open(path).first_image()
    with fits.open(io.BytesIO(content)) as file:
        pixels = np.array(file[hdu.index].data)
    reader = hdu.reader()
    allowed = hdu.data_range if parts is None else reader.layout.heap
    store = WatchedStore(content, allowed, url=path.name)
    return Image(replace(reader, store=store), pixels.astype(reader.dtype), parts)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    root = tmp_path_factory.mktemp("boxes")
    plains = {name: image_of(root / name, content) for name, content in PLAIN.items()}
    return plains | {
        f"tiled {name}": image_of(root / f"tiled {name}", parts.build(), parts)
        for name, parts in TILED.items()
    }


NAMES = [*PLAIN, *(f"tiled {name}" for name in TILED)]


def test_the_images_are_those_meant(images: dict[str, Image]) -> None:
    assert list(images) == NAMES
    types = {name: image.pixels.dtype.name for name, image in images.items()}
    names = ["scaled int16", "uint16", "int8", "BLANK", "scaled with BLANK", "tiled quantized"]
    assert [types[name] for name in names] == [
        *("float32", "uint16", "int8", "float32", "float64", "float32")
    ]
    assert np.isnan(images["BLANK"].pixels[2, 3:9]).all()
    starts = images["tiled squares, shuffled"].parts.column("COMPRESSED_DATA")[:, 1]
    assert (np.diff(starts) < 0).any()
    for name, parts in TILED.items():
        image = images[f"tiled {name}"]
        assert same_bits(image.reader[...], image.pixels), name
        if name != "scaled with ZBLANK":
            assert np.array_equal(image.pixels, parts.decoded), name


def boxes_of(*corners: Sequence[Interval]) -> Boxes:
    """Boxes by their first pixel and end along each axis."""
    ends = np.array(corners, np.int64).reshape(len(corners), -1, 2)
    return Boxes(ends[:, :, 0], ends[:, :, 1])


@st.composite
def some_boxes(draw: st.DrawFn, shape: tuple[int, ...], most: int = 8) -> Boxes:
    """Boxes of an image, some of them small, some whole along an axis, some the same."""
    found = []
    for _ in range(draw(st.integers(1, most))):
        box = []
        for length in shape:
            low = draw(st.integers(0, length - 1))
            box.append((low, draw(st.integers(low + 1, length))))
        if draw(st.integers(0, 4)) == 0:
            axis = draw(st.integers(0, len(shape) - 1))
            box[axis] = 0, shape[axis]
        found += [box] * draw(st.sampled_from([1, 1, 1, 2]))
    return boxes_of(*found)


LIMITS = st.builds(
    Coalescing,
    connections=st.sampled_from([0, 1, 3, 8, 16]),
    small_gap=st.sampled_from([0, 2, 8, 20]),
    max_gap=st.sampled_from([20, 44, 100]),
    max_bridged=st.sampled_from([1, 16, 60, 200, 1 << 23]),
)
"""Gaps and lengths as they are in these small images."""

BATCHES = st.sampled_from(
    [(1, 256), (40, 256), (300, 3), (1 << 26, 1), (1 << 26, 2), (1 << 26, 256)]
)
"""BATCH_BYTES and BATCH_RANGES."""


def planned(
    image: Image, boxes: Boxes, limits: Coalescing, batch: tuple[int, int] = (1 << 26, 256)
) -> list[Batch]:
    """Plan batches of at most these bytes and ranges; they are as another process has them."""
    image.reader.store.asked.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "BATCH_BYTES", batch[0])
        patch.setattr(planner, "BATCH_RANGES", batch[1])
        found = image.reader.batches(boxes, limits)
    assert image.reader.store.asked == [], "planning reads no pixels"
    return [pickle.loads(pickle.dumps(one)) for one in found]


def assert_every_pixel_once(image: Image, boxes: Boxes, found: list[Batch]) -> None:
    sides = (boxes.stop - boxes.first).tolist()
    pixels = [np.empty(side, image.pixels.dtype) for side in sides]
    times = [np.zeros(side, int) for side in sides]
    for batch in found:
        pieces = list(batch.read())  # all, since the store uses its memory again
        assert batch.store.asked == list(batch.plan.ranges)
        assert batch.boxes.tolist() == sorted({number for number, _, _ in pieces})
        for number, place, values in pieces:
            assert values.dtype == image.pixels.dtype
            assert values.shape == tuple(part.stop - part.start for part in place)
            assert values.flags.writeable
            assert values.base is None or values.base.size == values.size, "it holds no more"
            pixels[number][place] = values
            times[number][place] += 1
    for number in range(len(boxes)):
        assert (times[number] == 1).all()
        key = tuple(map(slice, boxes.first[number], boxes.stop[number]))
        assert same_bits(pixels[number], image.pixels[key])


def assert_ranges_are_allowed(
    ranges: list[ByteRange], runs: list[Interval], limits: Coalescing
) -> None:
    """Every run is in one range; ranges are as long as the limits allow, and no longer."""
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges)), "no byte twice, in order"
    held = [[run for run in runs if r.start <= run[0] and run[1] <= r.stop] for r in ranges]
    assert [run for some in held for run in some] == runs, "each run is in one range"
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(runs)]
    most = limits.max_gap
    if 1 + sum(gap > limits.small_gap for gap in gaps) <= limits.connections:
        most = limits.small_gap
    for wanted, some in zip(ranges, held, strict=True):
        assert (wanted.start, wanted.stop) == (some[0][0], some[-1][1]), "it ends as it begins"
        inside = [b[0] - a[1] for a, b in itertools.pairwise(some)]
        assert max(inside, default=0) <= max(most, limits.small_gap)
        if any(inside):
            assert wanted.nbytes <= limits.max_bridged
    for (one, _), (other, following) in itertools.pairwise(zip(ranges, held, strict=True)):
        if other.start - one.stop <= max(most, limits.small_gap):
            assert following[0][1] - one.start > limits.max_bridged, "they could be one range"


def assert_batches_are_full(found: list[Batch], batch: tuple[int, int]) -> None:
    for one in found:
        assert 1 <= one.plan.requests <= batch[1]
        assert one.plan.requests == 1 or one.plan.bytes <= batch[0]
    for one, other in itertools.pairwise(found):
        more = one.plan.bytes + other.plan.ranges[0].nbytes
        assert more > batch[0] or one.plan.requests == batch[1], "they could be fewer"


def covered(runs: list[Interval]) -> int:
    return sum(stop - start for start, stop in runs)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(NAMES), LIMITS, BATCHES)
def test_every_pixel_of_every_box_comes_once_and_no_byte_twice(
    images: dict[str, Image],
    data: st.DataObject,
    name: str,
    limits: Coalescing,
    batch: tuple[int, int],
) -> None:
    image = images[name]
    boxes = data.draw(some_boxes(image.pixels.shape))
    found, runs = planned(image, boxes, limits, batch), image.runs(boxes)
    ranges = [wanted for one in found for wanted in one.plan.ranges]
    assert_ranges_are_allowed(ranges, runs, limits)
    assert_batches_are_full(found, batch)
    assert sum(one.plan.useful_bytes for one in found) == covered(runs)
    assert_every_pixel_once(image, boxes, found)


@pytest.mark.parametrize("name", NAMES)
def test_all_of_an_image_and_each_of_its_pixels(images: dict[str, Image], name: str) -> None:
    image = images[name]
    shape = image.pixels.shape
    each = [[(n, n + 1) for n in index] for index in np.ndindex(shape)]
    boxes = boxes_of([(0, length) for length in shape], *each)
    found = planned(image, boxes, EVERYTHING, (100, 7))
    assert_every_pixel_once(image, boxes, found)
    one = image.reader.batches(boxes, EVERYTHING)
    assert len(one) == 1
    assert one[0].plan.requests == 1


def test_a_cutout_that_straddles_batches_comes_in_pieces(images: dict[str, Image]) -> None:
    boxes = boxes_of([(1, 9), (3, 9)], [(4, 6), (15, 19)])
    for name in ("float32", "tiled rows"):
        image = images[name]
        found = planned(image, boxes, coalescing(0, 1), (1 << 26, 3))
        assert [one.plan.requests for one in found] == {
            "float32": [3, 3, 3, 1],
            "tiled rows": [3, 3, 2],
        }[name]
        assert sum(0 in one.boxes for one in found) > 2
        assert_every_pixel_once(image, boxes, found)


def test_the_ranges_of_two_boxes_counted_by_hand(images: dict[str, Image]) -> None:
    """Rows of 22 pixels of 4 bytes: two boxes that share a corner, and one in the rows below."""
    image = images["float32"]
    boxes = boxes_of([(1, 3), (2, 6)], [(2, 4), (4, 10)], [(11, 12), (0, 22)])
    row, start = 88, image.reader.layout.offset
    wanted = [(1, 2, 6), (2, 2, 10), (3, 4, 10), (11, 0, 22)]
    (batch,) = planned(image, boxes, coalescing(0))
    assert batch.plan.ranges == tuple(
        ByteRange(start + y * row + low * 4, start + y * row + high * 4) for y, low, high in wanted
    )
    assert batch.plan.useful_bytes == batch.plan.bytes == 4 * (4 + 8 + 6 + 22)
    (batch,) = planned(image, boxes, coalescing(72))
    assert [r.nbytes for r in batch.plan.ranges] == [2 * row + 4 * (10 - 2), 88]


def test_touching_rows_can_be_cut_apart_and_overlapping_ones_never(
    images: dict[str, Image],
) -> None:
    image, limits = images["float32"], coalescing(1 << 20, 200)
    touching = planned(image, boxes_of([(0, 13), (0, 22)]), limits)
    assert [r.nbytes for one in touching for r in one.plan.ranges] == [2 * 88] * 6 + [88]
    chained = boxes_of(*([(y, y + 1), (low, 22)] for y in range(3) for low in (0, 3)))
    assert {r.nbytes for one in planned(image, chained, limits) for r in one.plan.ranges} == {
        *(176, 88)
    }
    tall = boxes_of([(0, 13), (0, 22)], [(0, 2), (0, 1)])
    assert covered(
        [(r.start, r.stop) for b in planned(image, tall, limits) for r in b.plan.ranges]
    ) == (13 * 88)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(NAMES), LIMITS)
def test_one_box_costs_what_reading_it_alone_costs(
    images: dict[str, Image], data: st.DataObject, name: str, limits: Coalescing
) -> None:
    """They may differ where wanted rows or tiles touch and exceed `max_bridged`.

    Many boxes are cut there, for as many tasks. One box is not.
    """
    image = images[name]
    boxes = data.draw(some_boxes(image.pixels.shape, most=1)).take(np.array([0]))
    narrow = boxes.stop[0, -1] - boxes.first[0, -1] < image.pixels.shape[-1]
    if image.parts or not narrow:
        limits = replace(limits, max_bridged=1 << 23)
    found = planned(image, boxes, limits)
    reader = replace(image.reader, store=replace(image.reader.store, coalescing=limits))
    axes = tuple(map(range, boxes.first[0].tolist(), boxes.stop[0].tolist()))
    plan = reader.plan(axes)
    assert [r for one in found for r in one.plan.ranges] == list(plan.ranges)
    assert sum(one.plan.useful_bytes for one in found) == plan.useful_bytes


@pytest.mark.parametrize("name", ["float32", "cube", "one axis", "tiled rows", "tiled cube"])
def test_no_boxes_are_no_batches(images: dict[str, Image], name: str) -> None:
    image = images[name]
    none = np.empty((0, image.pixels.ndim), np.int64)
    assert image.reader.batches(Boxes(none, none), EVERYTHING) == []


def test_a_few_runs_are_fetched_apart_and_many_are_joined(images: dict[str, Image]) -> None:
    image = images["float32"]
    limits = Coalescing(connections=3, small_gap=8, max_gap=200, max_bridged=1 << 20)
    for rows, requests in ((3, 3), (4, 1)):
        (batch,) = planned(image, boxes_of([(0, rows), (5, 9)]), limits)
        assert batch.plan.requests == requests
    # A run twice wanted counts once.
    (batch,) = planned(image, boxes_of(*[[(0, 3), (5, 9)]] * 4), limits)
    assert batch.plan.requests == 3


# The functions on their own


@given(st.data(), st.lists(st.integers(1, 6), min_size=0, max_size=4))
def test_cells_are_those_of_each_box_in_turn(data: st.DataObject, lengths: list[int]) -> None:
    shape = tuple(lengths)
    boxes = (
        data.draw(some_boxes(shape))
        if shape
        else Boxes(np.empty((3, 0), np.int64), np.empty((3, 0), np.int64))
    )
    expected = []
    for number in range(len(boxes)):
        inside = list(itertools.product(*map(range, boxes.first[number], boxes.stop[number])))
        for local, index in enumerate(inside):
            expected.append(
                (int(np.ravel_multi_index(index, shape)) if shape else 0, number, local)
            )
    found = cells(boxes, shape)
    assert list(zip(found.grid_index, found.box, found.box_index, strict=True)) == expected


@given(st.lists(st.integers(1, 50), max_size=40), BATCHES)
def test_batches_take_all_ranges_in_order(sizes: list[int], batch: tuple[int, int]) -> None:
    stops = np.cumsum(np.array(sizes, int) + 1).tolist()
    ranges = [ByteRange(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "BATCH_BYTES", batch[0])
        patch.setattr(planner, "BATCH_RANGES", batch[1])
        found = list(planner.batches(ranges))
    assert [n for low, high in found for n in range(low, high)] == list(range(len(sizes)))
    for low, high in found:
        assert low < high
        assert high - low == 1 or (sum(sizes[low:high]) <= batch[0] and high - low <= batch[1])
    for (low, high), _ in itertools.pairwise(found):
        assert sum(sizes[low : high + 1]) > batch[0] or high - low == batch[1]


@settings(deadline=None)
@given(st.data(), LIMITS)
def test_a_part_of_a_plan_holds_what_lies_in_its_ranges(
    data: st.DataObject, limits: Coalescing
) -> None:
    shape = (3, 5, 8)
    boxes = data.draw(some_boxes(shape))
    plan = plan_boxes(boxes, shape=shape, itemsize=2, offset=7, limits=limits)
    assert len(plan.ranges) == len(plan.useful) == len(plan.pieces.bounds) - 1
    for low, high in itertools.combinations(range(len(plan.ranges) + 1), 2):
        part = plan.part(low, high)
        assert part.ranges == plan.ranges[low:high]
        assert part.useful.tolist() == plan.useful[low:high].tolist()
        assert part.pieces.bounds[0] == 0
        assert part.pieces.bounds[-1] == len(part.pieces.box) == len(part.pieces.start)
        for n, wanted in enumerate(part.ranges):
            for p in range(part.pieces.bounds[n], part.pieces.bounds[n + 1]):
                start, rows = int(part.pieces.start[p]), int(part.pieces.rows[p])
                stop = start + (rows - 1) * shape[-1] * 2 + int(part.pieces.width[p]) * 2
                assert wanted.start <= start < stop <= wanted.stop


def test_very_many_boxes_are_planned_in_little_memory_and_few_pieces() -> None:
    """20,000 boxes of 64 rows: a piece for each box, since neighbouring rows are joined."""
    rng = np.random.default_rng(1)
    first = rng.integers(0, 8000, (20_000, 2))
    boxes = Boxes(first, first + 64)
    plan = plan_boxes(
        boxes, shape=(8192, 8192), itemsize=4, offset=0, limits=coalescing(1 << 16, 1 << 40)
    )
    assert len(plan.ranges) == 1
    assert len(plan.pieces.box) == len(boxes)
    assert sorted(plan.pieces.box.tolist()) == list(range(len(boxes)))


def test_files_beyond_four_gib() -> None:
    shape = (200_000, 200_000)
    boxes = boxes_of([(199_990, 200_000), (199_999, 200_000)], [(0, 1), (0, 1)])
    plan = plan_boxes(boxes, shape=shape, itemsize=8, offset=5760, limits=coalescing(0))
    assert plan.ranges[0] == ByteRange(5760, 5768)
    assert plan.ranges[-1].stop == 5760 + math.prod(shape) * 8


@pytest.mark.parametrize("name", TILED)
def test_tiles_at_the_edge_have_fewer_pixels(images: dict[str, Image], name: str) -> None:
    image = images[f"tiled {name}"]
    sizes = [image.pixels[place].size for place in image.parts.tiles]
    rows = np.arange(len(sizes))
    assert pixel_counts(rows, image.reader.layout).tolist() == sizes
    assert pixel_counts(rows[::-2], image.reader.layout).tolist() == sizes[::-2]


# Rows of the table that are not at hand


def test_the_rows_of_the_table_are_read_once_and_only_those_wanted(
    images: dict[str, Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "ROWS", RowCache(row_cache.CACHE_BYTES))
    image = images["tiled rows"]
    layout = image.reader.layout
    store = WatchedStore(image.reader.store.content, ByteRange(0, layout.heap.stop), url="rows")
    reader = replace(image.reader, store=store, tile_table=None)
    boxes = boxes_of([(1, 3), (2, 6)], [(8, 10), (2, 6)])
    found = reader.batches(boxes, EVERYTHING)
    size, table = layout.row.itemsize, layout.table.start
    assert [(r.start, r.stop) for r in store.asked] == [(table + size, table + 10 * size)]
    store.asked.clear()
    assert len(reader.batches(boxes, EVERYTHING)) == 1
    assert store.asked == []
    assert_every_pixel_once(image, boxes, [pickle.loads(pickle.dumps(one)) for one in found])


# Damage


def test_pixels_behind_the_end_of_the_file(images: dict[str, Image]) -> None:
    image = images["float32"]
    end = image.reader.layout.offset + 10 * 88 + 40
    store = WatchedStore(image.reader.store.content[:end], ByteRange(0, end))
    reader = replace(image.reader, store=store)
    there = boxes_of([(9, 11), (2, 10)], [(0, 10), (0, 22)])
    assert len(reader.batches(there, EVERYTHING)) == 1
    for beyond in ([(10, 11), (10, 11)], [(3, 12), (0, 1)]):
        with pytest.raises(TruncatedFileError, match="the file is truncated"):
            reader.batches(boxes_of(*([(0, 1), (0, 1)], beyond)), EVERYTHING)
    assert store.asked == []


def damaged(root: Path, **changes: Any) -> tuple[Image, TiledParts]:
    """An image of 3 by 4 tiles: a descriptor or some bytes of tile 5 changed."""
    parts = tiled_parts(INTEGERS, zcmptype="GZIP_1", tile=(5, 6))
    whole = image_of(root / "damaged.fits", parts.build())
    for name, value in changes.items():
        if name == "descriptor":
            parts.column("COMPRESSED_DATA")[5] = value
        else:
            parts.heap[parts.span(5)] = value * (parts.span(5).stop - parts.span(5).start)
    path = root / "damaged.fits"
    path.write_bytes(parts.build())
    reader = dask_fits.open(path).first_image().reader()
    store = WatchedStore(parts.build(), reader.layout.heap)
    return Image(replace(reader, store=store), whole.pixels), parts


BAD, GOOD = [(6, 9), (7, 9)], [(0, 4), (0, 22)]
"""A box in tile 5, and one in others."""


@pytest.mark.parametrize("descriptor", [(10, 1 << 20), (1 << 20, 0), (0, 0), (-1, 0)], ids=str)
def test_a_damaged_descriptor_is_found_when_it_is_planned(tmp_path: Path, descriptor: Any) -> None:
    image, _ = damaged(tmp_path, descriptor=descriptor)
    with pytest.raises(FitsFormatError, match=r"tile 6|row 6|tile 5|row 5"):
        image.reader.batches(boxes_of(GOOD, BAD), EVERYTHING)
    found = planned(image, boxes_of(GOOD), EVERYTHING)
    assert_every_pixel_once(image, boxes_of(GOOD), found)


def test_a_damaged_tile_is_found_when_it_is_read(tmp_path: Path) -> None:
    image, _ = damaged(tmp_path, fill=b"\x5a")
    (batch,) = planned(image, boxes_of(GOOD, BAD), EVERYTHING)
    with pytest.raises(FitsFormatError, match=r"tile 6|row 6|tile 5|row 5"):
        list(batch.read())
    found = planned(image, boxes_of(GOOD), EVERYTHING)
    assert_every_pixel_once(image, boxes_of(GOOD), found)


def test_tiles_behind_the_end_of_the_file(images: dict[str, Image]) -> None:
    image = images["tiled squares"]
    heap = image.reader.layout.heap
    end = heap.start + image.parts.span(5).stop - 1
    store = WatchedStore(image.reader.store.content[:end], ByteRange(heap.start, end))
    reader = replace(image.reader, store=store)
    assert len(reader.batches(boxes_of(GOOD), EVERYTHING)) == 1
    with pytest.raises(TruncatedFileError, match="the file is truncated"):
        reader.batches(boxes_of(GOOD, BAD), EVERYTHING)


def test_tiles_that_share_bytes(tmp_path: Path) -> None:
    """Two descriptors that point at the same tile: its bytes come once, its pixels twice."""
    parts = tiled_parts(np.tile(INTEGERS[:5, :6], (1, 3)), zcmptype="RICE_1", tile=(5, 6))
    parts.column("COMPRESSED_DATA")[2] = parts.column("COMPRESSED_DATA")[0]
    image = image_of(tmp_path / "shared.fits", parts.build(), parts)
    boxes = boxes_of([(0, 5), (0, 3)], [(1, 4), (13, 17)])
    found = planned(image, boxes, coalescing(0))
    assert [r.nbytes for one in found for r in one.plan.ranges] == [
        parts.span(0).stop - parts.span(0).start
    ]
    assert_every_pixel_once(image, boxes, found)
