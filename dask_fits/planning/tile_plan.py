"""The tiles that a box of pixels needs, where they lie, and which are decoded together. Pure.

Tiles are counted in three ways, each an int64 array::

    the image's grid of tiles      a selection touches a *box* of them; here 3 columns and 2 rows

      0  1  2  3  4                .  .  .  .  .        .  .  .  .  .        .  .  .  .  .
      5  6  7  8  9                .  6  7  8  .        .  0  1  2  .        .  0  .  1  .
     10 11 12 13 14                . 11 12 13  .        .  3  4  5  .        .  2  3  .  .

     table_row                     table_row            box_index            tile_index

table_row
    Row of the binary table: the index in the flattened grid of the image, C order.
box_index
    Index in the flattened `TileBox`. A box of the whole image has ``box_index == table_row``.
tile_index
    Position in the `Tiles` of a read, which has the descriptors of the tiles at hand. These may be
    a box, when ``tile_index == box_index``, or as here those tiles that several boxes need.
"""

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
from dask_fits.planning.boxes import Boxes, Cells, cells, merge_runs
from dask_fits.planning.chunks import ReadCost, contiguous_chunk_shape
from dask_fits.planning.selection import Indices
from dask_fits.ranges.byte_range import ByteRange, Coalescing, coalesce_runs


@dataclass(frozen=True, eq=False)
class TileAxis:
    """The tiles that a selection touches along one axis."""

    indices: Indices
    """Wanted indices of pixels, ascending."""
    tile: int
    """Length of a tile."""
    length: int
    """Length of the image."""
    ids: Integers
    """Positions in the tile grid of the tiles that are touched, ascending."""
    bounds: Integers
    """Tile ``ids[i]`` holds the wanted indices ``indices[bounds[i]:bounds[i + 1]]``."""

    @cached_property
    def sizes(self) -> Integers:
        """Length of each touched tile: less than `tile` at the edge of the image."""
        return np.minimum(self.tile, self.length - self.ids * self.tile)

    @cached_property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Whether each touched tile is wanted from end to end."""
        return np.asarray(np.diff(self.bounds) == self.sizes)

    def within(self, index: int) -> slice | Integers:
        """Return the wanted indices of touched tile `index`, counted from the tile's start."""
        first = int(self.bounds[index])
        last = int(self.bounds[index + 1])
        start = int(self.ids[index]) * self.tile
        indices = self.indices[first:last]
        if isinstance(indices, range):
            return slice(indices[0] - start, indices[-1] - start + 1, indices.step)
        return indices - start


def tile_axis(indices: Indices, *, tile: int, length: int) -> TileAxis:
    """Find the tiles that hold the wanted indices along an axis."""
    if isinstance(indices, range) and indices and indices.step <= tile:
        # No tile between the first and the last is skipped: they are counted without listing the
        # indices, of which there may be very many.
        ids = np.arange(indices[0] // tile, indices[-1] // tile + 1)
        bounds = np.append(-((indices.start - ids * tile) // indices.step), len(indices))
        bounds[0] = 0
        return TileAxis(indices, tile, length, ids, bounds)
    tile_of_index = np.asarray(indices, np.int64) // tile
    firsts = np.flatnonzero(np.diff(tile_of_index, prepend=-1))
    bounds = np.append(firsts, len(tile_of_index)).astype(np.int64)
    return TileAxis(indices, tile, length, tile_of_index[firsts], bounds)


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
        return _combine_outer(np.multiply, [axis.sizes for axis in self.axes])

    def table_rows(self, layout: TiledLayout) -> Integers:
        """Row of the table of each touched tile, ascending."""
        grid = layout.grid
        strides = [math.prod(grid[number + 1 :]) for number in range(len(grid))]
        return _combine_outer(
            np.add, [axis.ids * stride for axis, stride in zip(self.axes, strides, strict=True)]
        )


def touched_tiles(boxes: Boxes, layout: TiledLayout) -> Cells:
    """List the tiles that each of many boxes needs; a cell's `grid_index` is its table row."""
    tile = np.array(layout.tile)
    return cells(Boxes(boxes.first // tile, -(-boxes.stop // tile)), layout.grid)


def pixel_counts(table_rows: Integers, layout: TiledLayout) -> Integers:
    """Count the pixels of the tiles of these rows: fewer at the edges of the image."""
    counts = np.ones(len(table_rows), np.int64)
    ids = np.unravel_index(table_rows, layout.grid)
    for axis_ids, tile, length in zip(ids, layout.tile, layout.shape, strict=True):
        counts *= np.minimum(tile, length - axis_ids * tile)
    return counts


def _combine_outer(combine: np.ufunc, axis_values: list[Integers]) -> Integers:
    """Combine a value of each axis into one for each tile, by the outer ufunc."""
    tile_values: Integers = reduce(combine.outer, axis_values).reshape(-1)
    return tile_values


def tile_box(indices: tuple[Indices, ...], layout: TiledLayout) -> TileBox:
    """Find the tiles that a box of pixels needs, by the wanted indices along each axis."""
    return TileBox(
        tuple(
            tile_axis(axis, tile=tile, length=length)
            for axis, tile, length in zip(indices, layout.tile, layout.shape, strict=True)
        )
    )


def tile_cost(indices: tuple[range, ...], layout: TiledLayout) -> ReadCost:
    """Return the cost of reading a box of pixels if tiles lie in the order of their rows.

    It is computed from numbers alone: the axes of an image may be very long.
    """
    pixels = 1
    requests = 1
    # Lengths in the order of the rows, in tiles: the smallest gap between two requests, and from
    # the first to the last tile of what has been looked at so far.
    gap = math.prod(layout.grid)
    span = 1
    # From the last axis outwards, whose tiles are closest to each other.
    axes = enumerate(zip(indices, layout.tile, strict=True))
    for number, (axis, tile) in reversed(list(axes)):
        first = axis[0] // tile
        last = axis[-1] // tile
        count = min(len(axis), last - first + 1)
        pixels *= min(count * tile, layout.shape[number] - first * tile)
        if count > 1:
            apart = max(axis.step // tile, 1)  # from a touched tile to the next, at least
            stride = math.prod(layout.grid[number + 1 :])
            between = apart * stride - span
            if between:
                requests *= count
                gap = min(gap, between)
            span += (last - first) * stride
    tile_bytes = math.prod(layout.tile) * layout.dtype.itemsize
    return ReadCost(nbytes=pixels * layout.dtype.itemsize, requests=requests, gap=gap * tile_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class RowPlan:
    """The rows of the table that are read, and the ranges that hold them."""

    table_rows: Integers
    """Wanted rows, ascending."""
    bounds: Integers
    """Range ``i`` holds the rows ``table_rows[bounds[i]:bounds[i + 1]]``."""
    ranges: tuple[ByteRange, ...]
    """Each from the first to the last of its rows, those between included."""

    def pick(
        self, index: int, data: memoryview | bytes, row_dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Pick the wanted rows out of the bytes of range `index`."""
        table_rows = self.table_rows[self.bounds[index] : self.bounds[index + 1]]
        records: npt.NDArray[Any] = np.frombuffer(data, row_dtype)[table_rows - table_rows[0]]
        return records


def plan_rows(table_rows: Integers, layout: TiledLayout, limits: Coalescing) -> RowPlan:
    """Plan the reading of rows of the table, which are ascending; at least one."""
    row_bytes = layout.row.itemsize
    bounds = coalesce_runs(table_rows * row_bytes, row_bytes, limits)
    starts = layout.table.start + table_rows[bounds[:-1]] * row_bytes
    stops = layout.table.start + (table_rows[bounds[1:] - 1] + 1) * row_bytes
    return RowPlan(table_rows, bounds, tuple(map(ByteRange, starts.tolist(), stops.tolist())))


@dataclass(frozen=True, slots=True, eq=False)
class HeapPlan:
    """The ranges of the heap that are fetched, and the tiles that lie in each."""

    ranges: tuple[ByteRange, ...]
    """Ascending."""
    tile_indices: tuple[Integers, ...]
    """Positions in `Tiles` of the tiles that lie in each range, ascending."""

    def part(self, low: int, high: int) -> HeapPlan:
        """Take the ranges ``low:high`` alone."""
        return HeapPlan(self.ranges[low:high], self.tile_indices[low:high])


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
    # A run is never cut. Descriptors may point at the same bytes, which are fetched once: tiles
    # that overlap are one run. Tiles that touch are one only if ranges may have any length.
    runs = merge_runs(tiles.starts, tiles.lengths, touching=longest is None)
    if longest is not None:
        limits = replace(limits, max_bridged=longest)
    bounds = coalesce_runs(runs.starts, runs.stops - runs.starts, limits)
    range_starts = runs.starts[bounds[:-1]]
    range_stops = runs.stops[bounds[1:] - 1]
    # Ascending in each range, since neighbours in the table are decoded together.
    cuts = runs.firsts[bounds[1:-1]]
    return HeapPlan(
        ranges=tuple(map(ByteRange, range_starts.tolist(), range_stops.tolist())),
        tile_indices=tuple(np.sort(part) for part in np.split(runs.order, cuts)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TileRun:
    """Tiles of one shape, one after the other along an axis, that are decoded together."""

    box_index: Integers
    """Index of each in the flattened box of tiles."""
    shape: tuple[int, ...]
    """Shape of each."""
    axis: int
    """Axis along which they lie."""
    whole: bool
    """Whether they are wanted from end to end, along every axis."""
    within: tuple[slice | Integers, ...]
    """Wanted indices in each; of several tiles, everything along `axis`."""
    place: tuple[slice, ...]
    """Part of the box of wanted pixels that they fill."""


def tile_runs(
    box_index: Integers, source: Integers, box: TileBox, *, limit: int
) -> Iterator[TileRun]:
    """Split tiles into runs that are decoded together.

    Parameters
    ----------
    box_index : (n,) int64 array
        Index of each tile in the flattened box, ascending.
    source : (n,) int64 array
        Index in `SOURCES` of the column that holds each.
    box : TileBox
    limit : int
        Pixels that a run may have, unless it is a single tile.
    """
    # Along the last axis with several tiles, neighbours in the table are neighbours in the image:
    # the pixels of a run fill one part of the result.
    along = max((number for number, count in enumerate(box.grid) if count > 1), default=0)
    grid_positions = np.unravel_index(box_index, box.grid)
    bounds = _run_bounds(box_index, source, box.axes[along], grid_positions[along])
    along_positions = grid_positions[along]
    along_bounds = box.axes[along].bounds
    for first, last in pairwise(bounds):
        # All tiles of a run are as its first one, but for the position along the axis.
        tile = [
            (axis, int(positions[first]))
            for axis, positions in zip(box.axes, grid_positions, strict=True)
        ]
        shape = tuple(int(axis.sizes[position]) for axis, position in tile)
        whole = all(axis.whole[position] for axis, position in tile)
        within = tuple(axis.within(position) for axis, position in tile)
        place = [
            slice(int(axis.bounds[position]), int(axis.bounds[position + 1]))
            for axis, position in tile
        ]
        # As many at a time as fit into the limit.
        step = max(limit // math.prod(shape), 1)
        for start in range(first, last, step):
            stop = min(start + step, last)
            place[along] = slice(
                int(along_bounds[along_positions[start]]),
                int(along_bounds[along_positions[stop - 1] + 1]),
            )
            yield TileRun(
                box_index=box_index[start:stop],
                shape=shape,
                axis=along,
                whole=whole,
                within=within,
                place=tuple(place),
            )


def _run_bounds(
    box_index: Integers, source: Integers, axis: TileAxis, positions: Integers
) -> list[int]:
    """Find where runs begin and end among tiles at these positions along the axis of the runs."""
    whole = axis.whole[positions]
    breaks = np.diff(box_index) != 1
    breaks |= positions[1:] == 0  # a new line of tiles
    breaks |= np.diff(source) != 0  # another column, hence another algorithm
    breaks |= ~(whole[1:] & whole[:-1])  # a tile of which a part is wanted is a run by itself
    breaks |= np.diff(axis.sizes[positions]) != 0  # the shorter tile at the edge of the image
    return [0, *(np.flatnonzero(breaks) + 1).tolist(), len(box_index)]


def contiguous_tiles_shape(layout: TiledLayout, limit: int) -> tuple[int, ...]:
    """Find the shape of the largest box of tiles that follow one another in the table.

    That is a band of tiles of full width with at most `limit` bytes of pixels, or a single tile.
    """
    if 0 in layout.shape:
        return layout.shape
    tile_bytes = math.prod(layout.tile) * layout.dtype.itemsize
    tiles = contiguous_chunk_shape(layout.grid, itemsize=tile_bytes, limit=limit)
    return tuple(
        min(count * tile, length)
        for count, tile, length in zip(tiles, layout.tile, layout.shape, strict=True)
    )
