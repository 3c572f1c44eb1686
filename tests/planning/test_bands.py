"""The planning of bands: every chunk is made of what is read, and nothing is read for nothing."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.file.fits_file import FitsFile
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.band_reads import divide
from dask_fits.planning.bands import Costs, Window, find_bands, suggest_chunk_shape
from dask_fits.planning.chunks import ReadCost, plan_box
from dask_fits.planning.tile_plan import tile_box, tile_cost
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.ranges.cost import DEFAULT_COST
from tests.support.fits_files import WatchedStore, fits_bytes

pytestmark = pytest.mark.untraced

MANY = 1 << 60


def costs_of(shape: tuple[int, ...], tile: tuple[int, ...] | None = None) -> Costs:
    """What an image of four bytes a pixel costs over HTTP; tiles as many bytes as pixels."""
    limits = DEFAULT_COST.coalescing

    def estimate(axes: tuple[range, ...]) -> ReadCost:
        return plan_box(axes, shape=shape, itemsize=4, offset=0, limits=limits).cost

    return Costs(estimate, 4, tile or (1,) * len(shape), limits)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], Window]:
    """An image, and a window of it in chunks."""
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple))
    axes, chunks, kept = [], [], []
    for length in shape:
        start, step = draw(st.integers(0, length - 1)), draw(st.integers(1, 5))
        axis = range(start, draw(st.integers(start + 1, length)), step)
        edges = draw(st.lists(st.integers(0, len(axis)), max_size=4))
        axes.append(axis)
        chunks.append(tuple(np.diff(sorted([0, len(axis), *edges])).tolist()))
        kept.append(len(axis) > 1 or draw(st.booleans()))
    return shape, Window(tuple(axes), tuple(chunks), tuple(kept))


@settings(max_examples=200, deadline=None)
@given(st.data(), windows(), st.sampled_from([4, 64, 400, MANY]))
def test_parts_make_up_chunks(data: Any, drawn: tuple[tuple[int, ...], Window], limit: int) -> None:
    shape, window = drawn
    tile = tuple(data.draw(st.integers(1, n)) for n in shape)
    costs = costs_of(shape, tile)
    bands = find_bands(window, costs, limit=limit, most=data.draw(st.sampled_from([0, 999, MANY])))
    grid = list(itertools.product(*(range(len(lengths)) for lengths in window.chunks)))
    wanted = data.draw(st.lists(st.sampled_from(grid), unique=True))
    found = divide(window, bands, wanted, costs)
    assert list(found) == wanted
    starts = [np.cumsum([0, *lengths]) for lengths in window.chunks]
    held = np.zeros(window.lengths, int)
    for index, parts in found.items():
        inside = np.zeros(window.lengths, int)
        for part in parts:
            inside[tuple(slice(*span) for span in part.box)] += 1
            for (low, high), (first, end) in zip(part.box, part.source, strict=True):
                assert first <= low <= high <= end
        chunk = tuple(slice(along[n], along[n + 1]) for along, n in zip(starts, index, strict=True))
        assert (inside[chunk] == 1).all()
        inside[chunk] = 0
        assert not inside.any()
    for box in {part.source for parts in found.values() for part in parts}:
        held[tuple(slice(*span) for span in box)] += 1
    assert held.max(initial=0) <= 1 or set(wanted) != set(grid) or bands is None
    if bands is not None:
        for edges, axis in zip(bands.edges, window.axis_ranges, strict=True):
            assert edges[0] == 0
            assert edges[-1] == len(axis)
            assert list(edges) == sorted(set(edges))


@settings(max_examples=100, deadline=None)
@given(st.data(), windows())
def test_bands_end_between_tiles_and_are_within_the_limit(
    data: Any, drawn: tuple[tuple[int, ...], Window]
) -> None:
    shape, window = drawn
    tile = tuple(data.draw(st.integers(2, 9)) for _ in shape)
    limit = data.draw(st.sampled_from([4, 100, 1000]))
    bands = find_bands(window, costs_of(shape, tile), limit=limit, most=MANY)
    if bands is None:
        return
    for edges, axis, length in zip(bands.edges, window.axis_ranges, tile, strict=True):
        for edge in edges[1:-1]:
            assert axis[edge - 1] // length < axis[edge] // length, "no tile lies in two bands"
    longest = [max(np.diff(edges)) for edges in bands.edges]
    alone = [
        n <= -(-part // axis.step)
        for n, axis, part in zip(longest, window.axis_ranges, tile, strict=True)
    ]
    assert 4 * math.prod(longest) <= limit * 2 ** len(shape) or any(alone)


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((4096, 8192), (512, 512)),
        ((4096, 100_000), (512, 512)),
        ((1000, 2048, 2048), (1000, 64, 64)),
        ((64, 4096, 4096), (16, 256, 256)),
        ((10_000, 100, 100), (10_000, 10, 10)),
        ((4, 128, 2048, 2048), (1, 128, 32, 32)),
    ],
)
def test_chunks_that_are_advised_need_no_bands(
    shape: tuple[int, ...], chunks: tuple[int, ...]
) -> None:
    costs = costs_of(shape)

    def window(size: tuple[int, ...]) -> Window:
        return Window.whole(
            tuple(
                (part,) * (length // part) + ((length % part,) if length % part else ())
                for length, part in zip(shape, size, strict=True)
            )
        )

    cut = window(chunks)
    bands = find_bands(cut, costs, limit=1 << 27, most=1 << 33)
    assert bands is not None
    assert bands.over_read == 1
    advised = suggest_chunk_shape(cut, bands, costs)
    assert find_bands(window(advised), costs, limit=1 << 27, most=1 << 33) is None
    assert 0.2 < math.prod(advised) / math.prod(chunks) <= 1.01


def tiled_layout(shape: tuple[int, ...], tile: tuple[int, ...]) -> TiledLayout:
    packed = fits.CompImageHDU(np.zeros(shape, np.int16), tile_shape=tile)
    content = fits_bytes(fits.PrimaryHDU(), packed)
    store = WatchedStore(content, ByteRange(0, len(content)))
    layout = FitsFile(store, content)[1].layout.image
    assert isinstance(layout, TiledLayout)
    return layout


@settings(max_examples=60, deadline=None)
@given(
    st.data(), st.sampled_from([((30, 40), (8, 8)), ((5, 20, 30), (1, 7, 30)), ((9, 50), (1, 11))])
)
def test_what_tiles_cost_is_counted(data: Any, drawn: Any) -> None:
    shape, tile = drawn
    layout = tiled_layout(shape, tile)
    axes = []
    for length in shape:
        start = data.draw(st.integers(0, length - 1))
        axes.append(range(start, data.draw(st.integers(start + 1, length))))
    box = tile_box(tuple(axes), layout)
    rows = box.table_rows(layout)
    gaps = np.diff(rows)[np.diff(rows) > 1] - 1
    found = tile_cost(tuple(axes), layout)
    assert found.nbytes == 2 * box.pixels.sum()
    assert found.requests == len(gaps) + 1
    if len(gaps):
        assert found.gap == gaps.min() * 2 * math.prod(tile)


def test_an_axis_of_very_many_tiles_takes_no_memory() -> None:
    layout = tiled_layout((4, 8), (2, 2))
    object.__setattr__(layout, "shape", (1 << 40, 1 << 40))
    whole = range(1 << 40)
    assert tile_cost((whole, whole), layout).nbytes == 2 << 80
    assert tile_cost((whole, range(2)), layout).requests == 1 << 39
