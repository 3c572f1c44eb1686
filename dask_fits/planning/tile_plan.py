"""Which tiles a box of pixels needs, where they lie, and what is decoded together. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.format.descriptors import Tiles
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.boxes import Boxes, Cells, cells
from dask_fits.planning.chunks import ReadCost, contiguous_chunk_shape
from dask_fits.planning.selection import Indices
from dask_fits.ranges.byte_range import ByteRange, Coalescing, coalesce_runs


@dataclass(frozen=True, eq=False)
class TileAxis:
    """The tiles that a selection touches along one axis."""

    axis: Indices
    """Wanted indices, ascending."""
    tile: int
    """Length of a tile."""
    length: int
    """Length of the image."""
    ids: Integers
    """Positions in the tile grid of the tiles that are touched, ascending."""
    bounds: Integers
    """Tile ``ids[i]`` holds the wanted indices ``axis[bounds[i]:bounds[i + 1]]``."""

    @cached_property
    def sizes(self) -> Integers:
        """Length of each touched tile: less than `tile` at the edge of the image."""
        return np.minimum(self.tile, self.length - self.ids * self.tile)

    @cached_property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Whether each touched tile is wanted from end to end."""
        return np.asarray(np.diff(self.bounds) == self.sizes)

    def within(self, index: int) -> slice | Integers:
        """Tell what is wanted of touched tile `index`, counted from its own start."""
        first, last = int(self.bounds[index]), int(self.bounds[index + 1])
        wanted, start = self.axis[first:last], int(self.ids[index]) * self.tile
        if isinstance(wanted, range):
            return slice(wanted[0] - start, wanted[-1] - start + 1, wanted.step)
        return wanted - start


def touched(axis: Indices, *, tile: int, length: int) -> TileAxis:
    """Find the tiles that hold the wanted indices along an axis."""
    if isinstance(axis, range) and axis and axis.step <= tile:  # which may be very long
        ids = np.arange(axis[0] // tile, axis[-1] // tile + 1)
        bounds = np.append(-((axis.start - ids * tile) // axis.step), len(axis))
        bounds[0] = 0
        return TileAxis(axis, tile, length, ids, bounds)
    ids = np.asarray(axis, np.int64) // tile
    starts = np.flatnonzero(np.diff(ids, prepend=-1))
    bounds = np.append(starts, len(ids)).astype(np.int64)
    return TileAxis(axis, tile, length, ids[starts], bounds)


@dataclass(frozen=True, eq=False)
class TileBox:
    """The tiles that a box of pixels needs, in the order of the table's rows."""

    axes: tuple[TileAxis, ...]

    @cached_property
    def grid(self) -> tuple[int, ...]:
        """Number of touched tiles along each axis."""
        return tuple(len(axis.ids) for axis in self.axes)

    @property
    def count(self) -> int:
        """Number of touched tiles."""
        return math.prod(self.grid)

    @cached_property
    def pixels(self) -> Integers:
        """Number of pixels of each touched tile."""
        return _outer(np.multiply, [axis.sizes for axis in self.axes])

    def rows(self, layout: TiledLayout) -> Integers:
        """Row of the table of each touched tile, ascending."""
        grid = layout.grid
        strides = [math.prod(grid[number + 1 :]) for number in range(len(grid))]
        return _outer(
            np.add, [axis.ids * step for axis, step in zip(self.axes, strides, strict=True)]
        )


def touched_tiles(boxes: Boxes, layout: TiledLayout) -> Cells:
    """List the tiles that each of many boxes needs; the grid's cells are rows of the table."""
    tile = np.array(layout.tile)
    return cells(Boxes(boxes.first // tile, -(-boxes.stop // tile)), layout.grid)


def pixel_counts(rows: Integers, layout: TiledLayout) -> Integers:
    """Count the pixels of the tiles of these rows: fewer at the edges of the image."""
    count = np.ones(len(rows), np.int64)
    for at, tile, length in zip(
        np.unravel_index(rows, layout.grid), layout.tile, layout.shape, strict=True
    ):
        count *= np.minimum(tile, length - at * tile)
    return count


def _outer(combine: np.ufunc, along: list[Integers]) -> Integers:
    """Combine a number of each axis into one for each tile."""
    found: Integers = reduce(combine.outer, along).reshape(-1)
    return found


def tile_box(wanted: tuple[Indices, ...], layout: TiledLayout) -> TileBox:
    """Find the tiles that a box of pixels needs; `axes` are the wanted indices along each axis."""
    return TileBox(
        tuple(
            touched(axis, tile=tile, length=length)
            for axis, tile, length in zip(wanted, layout.tile, layout.shape, strict=True)
        )
    )


def tile_cost(wanted: tuple[range, ...], layout: TiledLayout) -> ReadCost:
    """Tell what reading a box of pixels costs, where tiles lie in the order of their rows.

    In numbers alone: the axes of an image may be very long.
    """
    pixels, requests = 1, 1
    gap, span = math.prod(layout.grid), 1  # in tiles
    for number, (axis, tile) in reversed(list(enumerate(zip(wanted, layout.tile, strict=True)))):
        first, last = axis[0] // tile, axis[-1] // tile
        apart = max(axis.step // tile, 1)  # tiles from one that is touched to the next, at least
        count = min(len(axis), last - first + 1)
        pixels *= min(count * tile, layout.shape[number] - first * tile)
        stride = math.prod(layout.grid[number + 1 :])
        if count > 1:
            between = apart * stride - span
            if between:
                requests, gap = requests * count, min(gap, between)
            span += (last - first) * stride
    tile_bytes = math.prod(layout.tile) * layout.dtype.itemsize
    return ReadCost(pixels * layout.dtype.itemsize, requests, gap * tile_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """Which rows of the table are read, and in which ranges."""

    rows: Integers
    """Wanted rows, ascending."""
    bounds: Integers
    """Range ``i`` holds the rows ``rows[bounds[i]:bounds[i + 1]]``."""
    ranges: tuple[ByteRange, ...]
    """From the first to the last of its rows, those between included."""

    def pick(self, index: int, data: memoryview | bytes, row: np.dtype[Any]) -> npt.NDArray[Any]:
        """Pick the wanted rows out of the bytes of range `index`."""
        wanted = self.rows[self.bounds[index] : self.bounds[index + 1]]
        records: npt.NDArray[Any] = np.frombuffer(data, row)[wanted - wanted[0]]
        return records


def plan_rows(rows: Integers, layout: TiledLayout, limits: Coalescing) -> RowPlan:
    """Plan the reading of rows of the table; `rows` ascending, at least one."""
    size, table = layout.row.itemsize, layout.table.start
    bounds = coalesce_runs(rows * size, size, limits)
    firsts, lasts = rows[bounds[:-1]].tolist(), rows[bounds[1:] - 1].tolist()
    ranges = tuple(
        ByteRange(table + first * size, table + (last + 1) * size)
        for first, last in zip(firsts, lasts, strict=True)
    )
    return RowPlan(rows, bounds, ranges)


@dataclass(frozen=True, slots=True, eq=False)
class HeapPlan:
    """Which ranges of the heap are fetched, and which tiles lie in each."""

    ranges: tuple[ByteRange, ...]
    """Ascending."""
    members: tuple[Integers, ...]
    """Positions of the tiles that lie in each range, ascending."""

    def part(self, low: int, high: int) -> HeapPlan:
        """Take the ranges ``low:high`` alone."""
        return HeapPlan(self.ranges[low:high], self.members[low:high])


def plan_heap(tiles: Tiles, limits: Coalescing, *, longest: int | None = None) -> HeapPlan:
    """Decide which tiles are fetched together, whatever their order in the heap.

    Parameters
    ----------
    tiles : Tiles
        At least one.
    limits : Coalescing
    longest : int, optional
        Bytes that a range may have, unless it is a single tile; else tiles without gaps between
        them are one range, however long.
    """
    order = np.argsort(tiles.starts, kind="stable")
    starts = tiles.starts[order]
    reach = np.maximum.accumulate(starts + tiles.lengths[order])
    # A run is never cut: tiles that overlap, and if no length is asked for those that touch.
    apart = starts[1:] > reach[:-1] if longest is None else starts[1:] >= reach[:-1]
    firsts = np.flatnonzero(np.concatenate(([True], apart)))
    ends = np.append(firsts[1:], len(order))
    run_starts, run_stops = starts[firsts], reach[ends - 1]
    if longest is not None:
        limits = replace(limits, max_bridged=longest)
    bounds = coalesce_runs(run_starts, run_stops - run_starts, limits)
    ranges = tuple(
        ByteRange(int(run_starts[first]), int(run_stops[last - 1]))
        for first, last in pairwise(bounds)
    )
    cuts = firsts[bounds[1:-1]]
    return HeapPlan(ranges, tuple(np.sort(part) for part in np.split(order, cuts)))


@dataclass(frozen=True, slots=True, eq=False)
class TileRun:
    """Tiles of one shape, one after the other along an axis, that are decoded together."""

    members: Integers
    """Their positions in the box of tiles."""
    shape: tuple[int, ...]
    """Shape of each."""
    axis: int
    """Along which they lie."""
    whole: bool
    """Whether they are wanted from end to end, along every axis."""
    within: tuple[slice | Integers, ...]
    """What is wanted of each; along `axis` it is everything where there are several."""
    place: tuple[slice, ...]
    """Where that belongs in the box of wanted pixels."""

    @property
    def pixels(self) -> int:
        """Pixels in each tile."""
        return math.prod(self.shape)

    def of(self, members: Integers) -> TileRun:
        """Give the members other positions."""
        return replace(self, members=members)


def tile_runs(
    members: Integers, source: Integers, box: TileBox, *, limit: int
) -> Iterator[TileRun]:
    """Split tiles into runs that are decoded together.

    Parameters
    ----------
    members : (n,) int64 array
        Positions in the box of the tiles, ascending.
    source : (n,) int64 array
        Which of `SOURCES` holds each.
    box : TileBox
    limit : int
        Pixels that a run may have, unless it is a single tile.
    """
    along = max((number for number, count in enumerate(box.grid) if count > 1), default=0)
    indices = np.unravel_index(members, box.grid)
    line, whole = indices[along], box.axes[along].whole[indices[along]]
    breaks = (np.diff(members) != 1) | (line[1:] == 0) | (np.diff(source) != 0)
    breaks |= ~(whole[1:] & whole[:-1]) | (np.diff(box.axes[along].sizes[line]) != 0)
    bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(members)]
    for first, last in pairwise(bounds):
        at = tuple(int(index[first]) for index in indices)
        shape = tuple(int(axis.sizes[i]) for axis, i in zip(box.axes, at, strict=True))
        step = max(limit // math.prod(shape), 1)
        wanted = all(axis.whole[i] for axis, i in zip(box.axes, at, strict=True))
        within = tuple(axis.within(i) for axis, i in zip(box.axes, at, strict=True))
        for start in range(first, last, step):
            stop = min(start + step, last)
            place = [
                slice(int(axis.bounds[i]), int(axis.bounds[i + 1]))
                for axis, i in zip(box.axes, at, strict=True)
            ]
            edges = box.axes[along].bounds
            place[along] = slice(int(edges[line[start]]), int(edges[line[stop - 1] + 1]))
            yield TileRun(members[start:stop], shape, along, wanted, within, tuple(place))


def contiguous_tiles_shape(layout: TiledLayout, limit: int) -> tuple[int, ...]:
    """Find the largest box of whole tiles, contiguous in the heap, of at most `limit` bytes.

    Full-width bands of tiles; never less than one tile.
    """
    if 0 in layout.shape:
        return layout.shape
    tile_bytes = math.prod(layout.tile) * layout.dtype.itemsize
    tiles = contiguous_chunk_shape(layout.grid, itemsize=tile_bytes, limit=limit)
    return tuple(
        min(count * length, whole)
        for count, length, whole in zip(tiles, layout.tile, layout.shape, strict=True)
    )
