"""Which tiles a selection touches, what is fetched and what is decoded together."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fits.format.descriptors import Tiles
from dask_fits.planning.selection import Indices, select
from dask_fits.planning.tile_plan import TileBox, plan_heap, tile_axis, tile_runs
from tests.fits_files import coalescing


@st.composite
def axes(draw: st.DrawFn) -> tuple[Indices, int, int]:
    """What is wanted along an axis, the length of a tile and that of the axis."""
    length = draw(st.integers(1, 60))
    tile = draw(st.integers(1, length))
    bound = st.integers(-length - 2, length + 2) | st.none()
    key = draw(
        st.builds(slice, bound, bound, st.sampled_from([1, 1, 2, 3, 7, -1, -5]))
        | st.lists(st.integers(0, length - 1), max_size=8)
    )
    return select(key, (length,)).indices[0], tile, length


@given(axes())
def test_the_touched_tiles_are_those_that_hold_wanted_pixels(
    case: tuple[Indices, int, int],
) -> None:
    axis, tile, length = case
    found = tile_axis(axis, tile=tile, length=length)
    pixels = np.arange(length)
    assert found.ids.tolist() == sorted({int(index) // tile for index in axis})
    wanted = []
    for i, number in enumerate(found.ids.tolist()):
        held = pixels[number * tile : (number + 1) * tile]
        assert found.sizes[i] == len(held)
        part = held[found.within(i)].tolist()
        assert len(part) == found.bounds[i + 1] - found.bounds[i]
        assert found.whole[i] == (part == held.tolist())
        wanted += part
    assert wanted == list(axis)


def test_a_long_axis_costs_as_much_as_its_tiles() -> None:
    start = time.process_time()
    found = tile_axis(range(5, 10**15, 3), tile=10**14, length=10**15)
    assert time.process_time() - start < 0.1
    assert found.ids.tolist() == list(range(10))
    assert int(found.bounds[-1]) == len(range(5, 10**15, 3))
    assert found.within(1) == slice((5 - 10**14) % 3, 10**14 - (10**14 * 2 - 1 - 5) % 3, 3)


def tiles_at(starts: list[int], lengths: list[int]) -> Tiles:
    at = [np.array(values, np.int64) for values in (starts, lengths)]
    none = np.zeros(len(starts), np.int64)
    return Tiles(none, none, *at, np.empty(0), np.empty(0), none[:0])


MAX_GAP = 1 << 16
LIMITS = coalescing(MAX_GAP)

spans = st.lists(st.tuples(st.integers(0, 4 * MAX_GAP), st.integers(1, 9000)), min_size=1)


@given(spans, st.none() | st.integers(1, 20_000))
def test_every_tile_lies_in_one_range(pieces: list[tuple[int, int]], longest: int | None) -> None:
    starts, lengths = map(list, zip(*pieces, strict=True))
    plan = plan_heap(tiles_at(starts, lengths), LIMITS, longest=longest)
    assert sorted(np.concatenate(plan.tile_indices).tolist()) == list(range(len(pieces)))
    for wanted, members in zip(plan.ranges, plan.tile_indices, strict=True):
        assert wanted.start == min(starts[i] for i in members)
        assert wanted.stop == max(starts[i] + lengths[i] for i in members)
        assert members.tolist() == sorted(members)
    for one, other in zip(plan.ranges, plan.ranges[1:], strict=False):
        assert one.stop <= other.start, "no byte is fetched twice"


@pytest.mark.parametrize(
    ("starts", "longest", "expected"),
    [
        ([0, 100, 200, 300], None, [(0, 400)]),
        ([0, 100, 200, 300], 200, [(0, 200), (200, 400)]),
        ([0, 100, 200, 300], 250, [(0, 200), (200, 400)]),
        ([0, 100, 200, 300], 50, [(0, 100), (100, 200), (200, 300), (300, 400)]),
        ([0, 50, 200, 300], 120, [(0, 150), (200, 300), (300, 400)]),  # two overlap
        ([300, 0, 200, 100], None, [(0, 400)]),
        ([0, 100 + MAX_GAP], None, [(0, 200 + MAX_GAP)]),
        ([0, 101 + MAX_GAP], None, [(0, 100), (101 + MAX_GAP, 201 + MAX_GAP)]),
    ],
)
def test_ranges_of_tiles_of_a_hundred_bytes(
    starts: list[int], longest: int | None, expected: list[tuple[int, int]]
) -> None:
    plan = plan_heap(tiles_at(starts, [100] * len(starts)), LIMITS, longest=longest)
    assert [(r.start, r.stop) for r in plan.ranges] == expected


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


@given(shapes, st.integers(1, 60), st.data())
def test_the_runs_fill_the_box_once(
    lengths: list[tuple[int, int]], limit: int, data: st.DataObject
) -> None:
    chosen = []
    for length, tile in lengths:
        low = data.draw(st.integers(0, length - 1))
        wanted = range(low, data.draw(st.integers(low + 1, length)), data.draw(st.integers(1, 2)))
        chosen.append(tile_axis(wanted, tile=min(tile, length), length=length))
    box = TileBox(tuple(chosen))
    some = np.array(sorted(data.draw(st.sets(st.integers(0, box.count - 1), min_size=1))))
    source = np.array([data.draw(st.integers(0, 1)) for _ in some])
    filled = np.zeros([len(axis.indices) for axis in chosen], int)
    seen: list[int] = []
    for run in tile_runs(some, source, box, limit=limit):
        filled[run.place] += 1
        seen += run.box_index.tolist()
        assert len(run.box_index) == 1 or len(run.box_index) * math.prod(run.shape) <= limit
        assert (box.pixels[run.box_index] == math.prod(run.shape)).all()
        assert len(set(source[np.searchsorted(some, run.box_index)])) == 1
    assert seen == some.tolist()
    assert filled.max() <= 1
    if len(some) == box.count:
        assert filled.min() == 1
