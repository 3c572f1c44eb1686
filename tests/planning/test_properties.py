"""Properties of the planner and of chunking: every wanted byte is fetched once, and nothing else."""

from __future__ import annotations

import itertools
import math
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import ByteRange, ReadPlan
from dask_fits.file.fits_file import FitsFile
from dask_fits.planning.chunks import contiguous_chunk_shape, plan_box
from dask_fits.planning.selection import select
from dask_fits.ranges.byte_range import coalesce_runs
from tests.support.fits_files import (
    WatchedStore,
    blocks,
    coalescing,
    primary,
    same_bits,
    watched_reader,
)
from tests.support.strategies import dask_indexes, hdu_of, keys, pixels, shapes

OFFSET = 2880
GAPS = st.sampled_from([0, 1, 3, 4, 7, 8, 16, 40, 1 << 16])
BRIDGES = st.sampled_from([0, 1, 8, 20, 33, 100, 1 << 23])


def check_ranges(
    ranges: tuple[ByteRange, ...], wanted: np.ndarray, size: int, gap: int, bridged: int
) -> None:
    """`wanted`: first bytes of the wanted pixels of `size` bytes, ascending."""
    firsts = np.array([r.start for r in ranges], np.int64)
    stops = np.array([r.stop for r in ranges], np.int64)
    # Each wanted pixel is in exactly one range, and each range begins and ends with one.
    holder = np.searchsorted(firsts, wanted, side="right") - 1
    assert (wanted >= firsts[holder]).all()
    assert (wanted + size <= stops[holder]).all()
    assert np.isin(firsts, wanted).all()
    assert np.isin(stops - size, wanted).all()
    assert (firsts[1:] >= stops[:-1]).all()
    # No gap inside a range is too wide, none between two ranges is needless.
    gaps = np.diff(wanted) - size
    same = np.diff(holder) == 0
    assert (gaps[same] <= gap).all()
    for before, after in itertools.pairwise(ranges):
        assert after.start - before.stop > gap or after.stop - before.start > bridged
    for index, found in enumerate(ranges):
        assert found.nbytes <= bridged or found.nbytes == size * np.count_nonzero(holder == index)


@settings(max_examples=200, deadline=None)
@given(st.data(), shapes, st.sampled_from(["u1", "i2", "f4", "f8"]), GAPS, BRIDGES)
def test_every_wanted_byte_is_fetched_once(data, shape, dtype, gap: int, bridged: int) -> None:
    array = pixels(shape, dtype)
    key = data.draw(keys(shape))
    reader = watched_reader(array, offset=OFFSET, limits=coalescing(gap, bridged))
    plan = reader.plan(select(key, shape).indices)
    found = reader[key]
    assert same_bits(found, array[key])
    size = array.dtype.itemsize
    wanted = OFFSET + size * np.unique(np.arange(array.size).reshape(shape)[key])
    check_ranges(plan.ranges, wanted, size, gap, bridged)
    assert plan.useful_bytes == wanted.size * size
    assert plan.bytes == sum(r.stop - r.start for r in plan.ranges)
    assert plan.requests == len(plan.ranges)
    assert reader.store.asked == list(plan.ranges)  # what was planned is what was read


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40, unique=True).map(sorted),
    st.integers(1, 12),
    GAPS,
    BRIDGES,
)
def test_grouping_of_runs(positions: list[int], nbytes: int, gap: int, bridged: int) -> None:
    starts = np.array(positions, np.int64) * nbytes
    bounds = coalesce_runs(starts, nbytes, coalescing(gap, bridged))
    assert bounds.dtype == np.int64
    assert bounds[0] == 0
    assert bounds[-1] == len(starts)
    assert (np.diff(bounds) > 0).all()
    ranges = tuple(
        ByteRange(int(starts[low]), int(starts[high - 1]) + nbytes)
        for low, high in itertools.pairwise(bounds)
    )
    for low, high, found in zip(bounds[:-1], bounds[1:], ranges, strict=True):
        assert (np.diff(starts[low:high]) - nbytes <= gap).all()
        assert found.nbytes <= bridged or high - low == 1
    for before, after in itertools.pairwise(ranges):
        assert after.start - before.stop > gap or after.start + nbytes - before.start > bridged


def test_no_runs_make_no_group() -> None:
    assert coalesce_runs(np.empty(0, np.int64), 4, coalescing(8, 64)).tolist() == [0]


@pytest.mark.parametrize("gap", [99, 100, 101])
def test_a_gap_of_exactly_max_gap_is_bridged(gap: int) -> None:
    starts = np.array([0, 10 + gap], np.int64)
    bounds = coalesce_runs(starts, 10, coalescing(100, 10_000))
    assert bounds.tolist() == ([0, 2] if gap <= 100 else [0, 1, 2])


@pytest.mark.parametrize("span", [999, 1000, 1001])
def test_a_range_of_exactly_max_bridged_is_not_cut(span: int) -> None:
    starts = np.array([0, 400, span - 10], np.int64)
    bounds = coalesce_runs(starts, 10, coalescing(1000, 1000))
    assert bounds.tolist() == ([0, 3] if span <= 1000 else [0, 2, 3])


def test_a_run_longer_than_max_bridged_is_not_cut() -> None:
    reader = watched_reader(pixels((100, 100), "u1"), limits=coalescing(4, 50))
    for key, nbytes in ((..., 10_000), (slice(7, 90), 8300)):
        plan = reader.plan(select(key, (100, 100)).indices)
        assert [r.nbytes for r in plan.ranges] == [nbytes]


def test_a_plan_holds_positions_past_four_gigabytes() -> None:
    shape = (300_000, 300_000)
    runs = plan_box(
        (range(299_999, 300_000), range(7, 9)),
        shape=shape,
        itemsize=8,
        offset=OFFSET,
        limits=coalescing(0),
    )
    start = OFFSET + 8 * (299_999 * 300_000 + 7)
    assert runs.ranges == (ByteRange(start, start + 16),)


def test_the_over_read_is_bytes_fetched_for_each_useful_byte() -> None:
    axes = select((slice(0, 3), 0), (10, 10)).indices
    plan = watched_reader(pixels((10, 10), "u1")).plan(axes)
    assert plan.ranges == (ByteRange(OFFSET, OFFSET + 21),)
    assert (plan.bytes, plan.useful_bytes, plan.over_read) == (21, 3, 7.0)
    assert ReadPlan((), 0).over_read == 1.0


@pytest.mark.parametrize("bounds", [(-1, 0), (5, 4), (-3, -2)])
def test_a_range_that_is_none(bounds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not a byte range"):
        ByteRange(*bounds)


# Chunks


@st.composite
def lengths(draw: st.DrawFn, length: int) -> tuple[int, ...]:
    """A way to cut an axis."""
    cuts = draw(st.lists(st.integers(0, length), max_size=3))
    edges = sorted({0, length, *cuts})
    return tuple(np.diff(edges).tolist()) or (0,)


@st.composite
def chunkings(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    per_axis = [
        draw(st.sampled_from([-1, None, "auto"]) | st.integers(1, length + 2) | lengths(length))
        for length in shape
    ]
    whole = st.sampled_from([-1, 1, 2, 3, "auto", "20 B", "64 B", "1 kiB"])
    some = {axis: c for axis, c in enumerate(per_axis) if draw(st.booleans())}
    return draw(whole | st.just(tuple(per_axis)) | st.just(some))


@settings(max_examples=150, deadline=None)
@given(
    st.data(),
    shapes,
    st.sampled_from(["u1", "i2", "f8"]),
    st.sampled_from(["16 B", "100 B", "1 MiB"]),
)
def test_any_chunking_gives_the_array(data, shape, dtype: str, limit: str) -> None:
    array = pixels(shape, dtype)
    hdu = hdu_of(array)
    with dask.config.set({"array.chunk-size": limit}):
        chunks = data.draw(chunkings(shape))
        lazy = hdu.to_dask(chunks=chunks)
        plan = hdu.plan(chunks=chunks)
    assert lazy.shape == shape
    assert lazy.dtype == array.dtype
    assert [sum(axis) for axis in lazy.chunks] == list(shape)
    hdu.store.asked.clear()
    assert same_bits(lazy.compute(scheduler="sync"), array)
    assert sorted(hdu.store.asked) == sorted(plan.ranges)
    assert plan.useful_bytes == array.nbytes


@settings(max_examples=60, deadline=None)
@given(st.data(), shapes.filter(all))
def test_chunks_that_were_asked_for_are_the_ones_given(data, shape) -> None:
    per_axis = tuple(data.draw(lengths(n) | st.integers(1, n + 2) | st.just(-1)) for n in shape)
    hdu = hdu_of(pixels(shape))
    assert hdu.to_dask(chunks=per_axis).chunks == da.zeros(shape, chunks=per_axis).chunks
    assert hdu.to_dask(chunks=2).chunks == da.zeros(shape, chunks=2).chunks


@settings(max_examples=100, deadline=None)
@given(shapes.filter(all), st.sampled_from(["u1", "i2", "f8"]), st.integers(1, 400))
def test_automatic_chunks_are_contiguous_and_within_the_limit(
    shape, dtype: str, limit: int
) -> None:
    array = pixels(shape, dtype)
    hdu = hdu_of(array)
    with dask.config.set({"array.chunk-size": f"{limit} B"}):
        plan = hdu.plan(chunks="auto")
        assert hdu.chunks == hdu.data.chunks == hdu.to_dask(f"{limit} B").chunks
    assert (
        plan.requests == len(plan.chunks) == math.prod(map(len, hdu.to_dask(f"{limit} B").chunks))
    )
    for part in plan.chunks:
        assert part.requests == 1
        assert part.bytes == part.useful_bytes
        assert part.bytes <= max(limit, array.itemsize)
    assert plan.bytes == array.nbytes


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
    st.sampled_from([1, 2, 8]),
    st.integers(1, 3000),
)
def test_a_slab_is_as_large_as_the_limit_lets_it_be(
    shape: tuple[int, ...], itemsize: int, limit: int
) -> None:
    slab = contiguous_chunk_shape(shape, itemsize=itemsize, limit=limit)
    assert all(1 <= part <= length for part, length in zip(slab, shape, strict=True))
    nbytes = itemsize * math.prod(slab)
    assert nbytes <= max(limit, itemsize)
    cut = next((axis for axis, part in enumerate(slab) if part > 1), len(shape) - 1)
    assert slab[cut + 1 :] == shape[cut + 1 :]  # full rows, full planes
    if slab != shape:
        axis = cut if slab[cut] < shape[cut] else cut - 1
        grown = itemsize * math.prod(slab) // slab[axis] * (slab[axis] + 1)
        assert grown > limit


@settings(max_examples=100, deadline=None)
@given(st.data(), shapes)
def test_indexing_the_dask_array_reads_what_was_planned(data, shape) -> None:
    array = pixels(shape)
    hdu = hdu_of(array)
    key = data.draw(keys(shape))
    chunks = data.draw(chunkings(shape))
    assume(dask_indexes(array, key, hdu.to_dask(chunks=chunks).chunks))
    plan = hdu.plan(key, chunks=chunks)
    hdu.store.asked.clear()
    found = hdu.to_dask(chunks=chunks)[key].compute(scheduler="sync")
    assert same_bits(found, array[key])
    items = key if isinstance(key, tuple) else (key,)
    listed = any(isinstance(item, (list, np.ndarray)) for item in items)
    newaxis = any(item is None for item in items)
    scalar = any(isinstance(item, (int, np.integer)) for item in items)
    # Left out: with None, Dask reads chunks of which it needs nothing, and less if there is a list.
    if found.size and not (listed and (newaxis or scalar)):
        assert sorted(hdu.store.asked) == sorted(plan.ranges)


@pytest.mark.parametrize(
    ("key", "nbytes"),
    [
        ((slice(1, 3), slice(0, 2)), 2 + 2),
        ((slice(0, 6, 3), 0), 1 + 1),
        # What Dask does not pass on to the reader makes it read chunks, or a list's axis, whole.
        ((slice(None, None, -1), 0), 6 * 4),
        ((slice(2, 1, -1),), 2 * 4),
        ((slice(1, 2), None, 0), 2 * 4),
        (([0, 3], slice(0, 2)), 6 + 6),
        (([0, 1], slice(1, 2)), 5),
        (([0, 0, 1],), 2 * 4),
    ],
)
def test_what_dask_reads_for_a_key_and_chunks_of_two_rows(key, nbytes: int) -> None:
    hdu = hdu_of(pixels((6, 4), "u1"))
    plan = hdu.plan(key, chunks=(2, 4))
    hdu.store.asked.clear()
    hdu.to_dask(chunks=(2, 4))[key].compute(scheduler="sync")
    assert sorted(plan.ranges) == sorted(hdu.store.asked)
    assert sum(r.nbytes for r in hdu.store.asked) == nbytes


def test_a_plan_for_chunks_adds_its_parts_up() -> None:
    hdu = hdu_of(pixels((6, 4), "u1"))
    plan = hdu.plan((slice(1, 5), slice(0, 2)), chunks=(3, 2))
    assert [[r.start - OFFSET for r in part.ranges] for part in plan.chunks] == [[4], [12]]
    assert plan.ranges == tuple(r for part in plan.chunks for r in part.ranges)
    assert (plan.requests, plan.bytes, plan.useful_bytes) == (2, 12, 8)
    assert plan.over_read == 1.5


def test_what_is_not_asked_for_is_not_read() -> None:
    hdu = hdu_of(pixels((6, 4), "u1"))
    hdu.store.asked.clear()
    lazy = hdu.to_dask(chunks=(2, 4))
    assert hdu.store.asked == []
    lazy[3].compute(scheduler="sync")
    assert hdu.store.asked == [ByteRange(OFFSET + 12, OFFSET + 16)]


def test_dask_fits_reads_through_any_store() -> None:
    content = primary(4) + blocks(b"abcd")
    file = FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")
    assert isinstance(file, dask_fits.FitsFile)
    assert file.url == "watched.fits"
    assert file[0].reader()[1:3].tobytes() == b"bc"
