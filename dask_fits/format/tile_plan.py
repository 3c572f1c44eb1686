"""Which tiles a box of pixels needs, where they lie, and what is decoded together. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.exceptions import FitsFormatError, TruncatedFileError
from dask_fits.format.selection import Axis
from dask_fits.format.tiles import SOURCES, Compression, TiledLayout
from dask_fits.storage.byte_range import MAX_BRIDGED, MAX_GAP, ByteRange, group_runs

Integers = npt.NDArray[np.int64]

_MAX_EXPANSION = 16
"""Compressed bytes that a pixel may take; twice what any algorithm makes of the worst of them."""

_MAX_DEFLATE = 1040
"""Bytes that one byte of a gzip stream can stand for; the exact number is 1032."""

_MAX_OVERHEAD = 1 << 16
"""Compressed bytes that a tile may take beyond that."""


@dataclass(frozen=True, eq=False)
class TileAxis:
    """The tiles that a selection touches along one axis."""

    axis: Axis
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


def touched(axis: Axis, *, tile: int, length: int) -> TileAxis:
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


def _outer(combine: np.ufunc, along: list[Integers]) -> Integers:
    """Combine a number of each axis into one for each tile."""
    found: Integers = reduce(combine.outer, along).reshape(-1)
    return found


def tile_box(axes: tuple[Axis, ...], layout: TiledLayout) -> TileBox:
    """Find the tiles that a box of pixels needs; `axes` are the wanted indices along each axis."""
    return TileBox(
        tuple(
            touched(axis, tile=tile, length=length)
            for axis, tile, length in zip(axes, layout.tile, layout.shape, strict=True)
        )
    )


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


def plan_rows(rows: Integers, layout: TiledLayout) -> RowPlan:
    """Plan the reading of rows of the table; `rows` ascending, at least one."""
    size, table = layout.row.itemsize, layout.table.start
    bounds = group_runs(rows * size, size, max_gap=MAX_GAP, max_bridged=MAX_BRIDGED)
    firsts, lasts = rows[bounds[:-1]].tolist(), rows[bounds[1:] - 1].tolist()
    ranges = tuple(
        ByteRange(table + first * size, table + (last + 1) * size)
        for first, last in zip(firsts, lasts, strict=True)
    )
    return RowPlan(rows, bounds, ranges)


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Where the bytes of some tiles lie and how they are turned into pixels."""

    rows: Integers
    """Row of the table of each, from 0."""
    source: Integers
    """Which of `SOURCES` holds each."""
    starts: Integers
    """First byte of each in the file."""
    lengths: Integers
    """Bytes of each."""
    scales: npt.NDArray[np.float64]
    """ZSCALE of each; none where the image is not quantized."""
    zeros: npt.NDArray[np.float64]
    """ZZERO of each; none where the image is not quantized."""
    blanks: Integers
    """ZBLANK of each; none where it is no column."""


def locate(
    rows: Integers,
    records: npt.NDArray[Any],
    layout: TiledLayout,
    *,
    pixels: Integers,
    file_size: int,
    where: str,
) -> Tiles:
    """Read the descriptors of tiles.

    Parameters
    ----------
    rows : (n,) int64 array
        Their rows in the table.
    records : (n,) structured array
        These rows, of type ``layout.row``.
    layout : TiledLayout
    pixels : (n,) int64 array
        Pixels in each tile.
    file_size : int
        Bytes in the file.
    where : str
        File and HDU, for messages.

    Raises
    ------
    FitsFormatError
        A descriptor is empty or points outside the heap.
    TruncatedFileError
        It points behind the end of the file.
    """
    source = np.full(len(rows), -1, np.int64)
    starts, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for name, element in layout.elements:
        counts, offsets = (records[name][:, part].astype(np.int64) for part in (0, 1))
        held = (source < 0) & (counts != 0)
        size, most = np.dtype(element).itemsize, layout.heap.nbytes
        outside = held & ((counts < 0) | (offsets < 0) | (offsets > most - counts * size))
        outside |= held & (counts > most)
        if outside.any():
            bad = int(np.flatnonzero(outside)[0])
            raise FitsFormatError(
                f"{tile_name(int(rows[bad]), layout, where)}: {name}: found a descriptor of "
                f"{counts[bad]} elements at byte {offsets[bad]} of the heap, "
                f"expected it within its {most} bytes"
            )
        source[held], starts[held] = SOURCES.index(name), layout.heap.start + offsets[held]
        lengths[held] = counts[held] * size
    _check_lengths(rows, source, lengths, pixels, layout, where)
    behind = np.flatnonzero(starts + lengths > file_size)
    if len(behind):
        bad = int(behind[0])
        raise TruncatedFileError(
            f"{tile_name(int(rows[bad]), layout, where)}: the file is truncated: its bytes are "
            f"{starts[bad]} to {starts[bad] + lengths[bad]}, found the end at byte {file_size}"
        )
    scales, zeros, blanks = _numbers(records, layout)
    if layout.quantization:
        odd = (source == 0) & ~(np.isfinite(scales) & np.isfinite(zeros))
        if odd.any():
            bad = int(np.flatnonzero(odd)[0])
            raise FitsFormatError(
                f"{tile_name(int(rows[bad]), layout, where)}: found ZSCALE = {scales[bad]} and "
                f"ZZERO = {zeros[bad]}, expected numbers"
            )
    return Tiles(rows, source, starts, lengths, scales, zeros, blanks)


def _check_lengths(
    rows: Integers,
    source: Integers,
    lengths: Integers,
    pixels: Integers,
    layout: TiledLayout,
    where: str,
) -> None:
    if (source < 0).any():
        bad = int(np.flatnonzero(source < 0)[0])
        names = ", ".join(name for name, _ in layout.elements)
        raise FitsFormatError(
            f"{tile_name(int(rows[bad]), layout, where)}: found no bytes in {names}, "
            "expected them in one"
        )
    least = _least_bytes(source, pixels, layout.compression)
    most = pixels * _MAX_EXPANSION + _MAX_OVERHEAD
    wrong = np.flatnonzero((lengths < least) | (lengths > most))
    if len(wrong):
        bad = int(wrong[0])
        raise FitsFormatError(
            f"{tile_name(int(rows[bad]), layout, where)}: found a descriptor of {lengths[bad]} "
            f"bytes, expected {least[bad]} to {most[bad]} for {pixels[bad]} pixels"
        )


def _least_bytes(source: Integers, pixels: Integers, compression: Compression) -> Integers:
    """Count the bytes without which tiles cannot hold their pixels, where that can be told.

    It keeps a damaged header from asking for more memory than the file has pixels for.
    """
    algorithm, coded = compression.algorithm, source == SOURCES.index("COMPRESSED_DATA")
    least = np.where(source == SOURCES.index("UNCOMPRESSED_DATA"), pixels, 0)
    packed = (source == SOURCES.index("GZIP_COMPRESSED_DATA")) | (
        coded & (algorithm in ("GZIP_1", "GZIP_2"))
    )
    least = np.where(packed, pixels // _MAX_DEFLATE, least)
    if algorithm == "NOCOMPRESS":
        least = np.where(coded, pixels, least)
    if algorithm == "RICE_1":  # of each block at least the bits that tell its kind
        blocks = -(-pixels // compression.blocksize)
        kinds = blocks * {1: 3, 2: 4, 4: 5}[compression.bytepix] // 8
        least = np.where(coded, kinds + compression.bytepix, least)
    return least


def _numbers(
    records: npt.NDArray[Any], layout: TiledLayout
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Integers]:
    names, quantization = layout.row.names or (), layout.quantization
    blanks = np.empty(0, np.int64)
    if "ZBLANK" in names:
        blanks = records["ZBLANK"].astype(np.int64)
    if quantization is None:
        return np.empty(0), np.empty(0), blanks
    scales, zeros = (
        records[name].astype(np.float64)
        if constant is None
        else np.full(len(records), constant, np.float64)
        for name, constant in (("ZSCALE", quantization.scale), ("ZZERO", quantization.zero))
    )
    return scales, zeros, blanks


def tile_name(row: int, layout: TiledLayout, where: str) -> str:
    """Name a tile, for messages: its indices in the grid of tiles, and its row in the table."""
    indices = np.unravel_index(row, layout.grid)
    return f"{where}: tile ({', '.join(str(int(i)) for i in indices)}), row {row + 1} of the table"


@dataclass(frozen=True, slots=True, eq=False)
class HeapPlan:
    """Which ranges of the heap are fetched, and which tiles lie in each."""

    ranges: tuple[ByteRange, ...]
    """Ascending."""
    members: tuple[Integers, ...]
    """Positions of the tiles that lie in each range, ascending."""


def plan_heap(tiles: Tiles, *, longest: int | None = None) -> HeapPlan:
    """Decide which tiles are fetched together, whatever their order in the heap.

    Parameters
    ----------
    tiles : Tiles
        At least one.
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
    bounds = group_runs(
        run_starts, run_stops - run_starts, max_gap=MAX_GAP, max_bridged=longest or MAX_BRIDGED
    )
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
