"""Tile-compressed images as an array-like that reads and decodes just the tiles it needs.

See `dask_fits.planning.tile_plan` for the ways to count tiles: table_row, box_index, tile_index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.codecs.tile import run_limit
from dask_fits.exceptions import TruncatedFileError, UnsupportedHduError
from dask_fits.format.descriptors import Tiles, locate
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.boxes import Boxes
from dask_fits.planning.chunks import ReadCost, ReadPlan
from dask_fits.planning.selection import Indices, Selection
from dask_fits.planning.tile_plan import (
    HeapPlan,
    TileBox,
    contiguous_tiles_shape,
    pixel_counts,
    plan_heap,
    plan_rows,
    tile_box,
    tile_cost,
    tile_runs,
    touched_tiles,
)
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.readers.base import StoredReader
from dask_fits.readers.batch import Batch, TiledBatch, read_plan
from dask_fits.readers.row_cache import ROWS
from dask_fits.readers.tile_decoder import TileDecoder

MAX_TILES = 1 << 26
"""Tiles that one read may need: more than an image of 256 k x 256 k pixels in tiles of 32 x 32."""


@dataclass(frozen=True, slots=True)
class TiledReader(StoredReader[TiledLayout]):
    """The pixels of one tile-compressed image HDU; see `HduReader`."""

    tile_table: bytes | None = field(repr=False)
    """The rows of the table, if they came with the header; None if they are read when needed."""

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        box, tiles = self._find_tiles(selection.indices)
        pixels = selection.empty(self.dtype)
        self._read_tiles(box, tiles, pixels.reshape(selection.shape))
        return selection.result(pixels)

    def _contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        return contiguous_tiles_shape(self.layout, limit)

    def check(self, selection: Selection) -> None:
        """Raise if the file cannot hold the wanted tiles; reads their rows of the table."""
        self._find_tiles(selection.indices)

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of reading a box of pixels; reads the table's rows, but no tile."""
        if self.store.is_sequential:
            # Which tiles it needs would take reading all of the file.
            nbytes = math.prod(map(len, indices)) * self.layout.scaling.stored.itemsize
            table = ByteRange(self.layout.table.start, self.layout.table.stop)
            return read_plan(self.store, [table] if nbytes else [], nbytes)
        box, tiles = self._find_tiles(indices)
        if not box.count:
            return ReadPlan((), useful_bytes=0)
        ranges = list(plan_heap(tiles, self.store.coalescing).ranges)
        if self.tile_table is None:
            ranges += plan_rows(tiles.rows, self.layout, self.store.coalescing).ranges
        return read_plan(self.store, sorted(ranges), int(tiles.lengths.sum()))

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of a tile."""
        return self.layout.tile

    def _estimate(self, indices: tuple[range, ...]) -> ReadCost:
        # As it is if the tiles lie in the table's order.
        return tile_cost(indices, self.layout)

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes; reads the table's rows; see `HduReader`."""
        if len(boxes):
            # In floats, which cannot overflow; 1 more, since a box may begin and end within tiles.
            tiles_along = (boxes.stop - boxes.first) / np.array(self.layout.tile) + 1
            self._check_tiles(sum(self.layout.grid) + float(tiles_along.prod(axis=1).sum()))
        touched = touched_tiles(boxes, self.layout)
        table_rows = np.unique(touched.grid_index)
        tiles = self._locate_tiles(table_rows, pixel_counts(table_rows, self.layout))
        if not len(table_rows):
            return []
        longest = self.store.block_size or limits.max_bridged
        heap = plan_heap(tiles, limits, longest=longest)
        # One entry for each tile of each box: a tile that several boxes want is listed for each.
        tile_index = np.searchsorted(table_rows, touched.grid_index)
        return [
            self._batch(boxes, tiles, touched.box, tile_index, heap.part(low, high))
            for low, high in self._divide(heap.ranges, most=most)
        ]

    def _batch(
        self, boxes: Boxes, tiles: Tiles, box: Integers, tile_index: Integers, heap: HeapPlan
    ) -> TiledBatch:
        """Make the batch of some ranges: their tiles, and the boxes that need these.

        `box` and `tile_index` pair the boxes with the tiles that they need.
        """
        held_tiles = np.sort(np.concatenate(heap.tile_indices))
        is_held = np.zeros(len(tiles.rows), bool)
        is_held[held_tiles] = True
        numbers = np.unique(box[is_held[tile_index]])
        # The batch has `Tiles` of its own, in which the held ones are counted from 0.
        tile_indices = tuple(np.searchsorted(held_tiles, part) for part in heap.tile_indices)
        return TiledBatch(
            store=self.store,
            layout=self.layout,
            where=self.where,
            tiles=tiles.take(held_tiles),
            heap=HeapPlan(heap.ranges, tile_indices),
            boxes=numbers,
            extents=boxes.take(numbers),
        )

    def _find_tiles(self, indices: tuple[Indices, ...]) -> tuple[TileBox, Tiles]:
        """Find the tiles that a box of pixels needs, and where they lie."""
        if any(len(axis) == 0 for axis in indices):
            indices = (range(0),) * len(indices)
        else:
            # From the first tile to the last along each axis, as many as there may be.
            axes = zip(indices, self.layout.tile, strict=True)
            counts = (int(axis[-1] // tile - axis[0] // tile) + 1 for axis, tile in axes)
            self._check_tiles(math.prod(counts))
        box = tile_box(indices, self.layout)
        return box, self._locate_tiles(box.table_rows(self.layout), box.pixels)

    def _check_tiles(self, count: float) -> None:
        """Raise if the file cannot have so many tiles, before there are arrays of as many numbers.

        A damaged header can count more of them than there is memory for. Behind a table that is
        not whole there is no heap, hence no tile.
        """
        stop = self.layout.table.stop
        size = self.store.max_size
        if stop > size:
            raise TruncatedFileError(
                f"{self.where}: the file is truncated: the rows of the tiles end at byte {stop}, "
                f"found the end of the file at byte {size}"
            )
        if count > MAX_TILES:
            raise UnsupportedHduError(
                f"{self.where}: found {count:.0f} tiles to be read at once, expected at most "
                f"{MAX_TILES}: read the image in parts"
            )

    def _locate_tiles(self, table_rows: Integers, pixels: Integers) -> Tiles:
        """Find where tiles lie, by their rows of the table and their numbers of pixels."""
        return locate(
            table_rows,
            self._read_rows(table_rows),
            self.layout,
            pixels=pixels,
            file_size=self.store.max_size,
            where=self.where,
        )

    def _read_rows(self, table_rows: Integers) -> npt.NDArray[Any]:
        """Return rows of the table, ascending: those at hand or in the cache, else read."""
        row_dtype = self.layout.row
        if self.tile_table is not None or not len(table_rows):
            return np.frombuffer(self.tile_table or b"", row_dtype)[table_rows]
        plan = plan_rows(table_rows, self.layout, self.store.coalescing)
        contents = {byte_range: ROWS.get(self.store, byte_range) for byte_range in plan.ranges}
        missing = [byte_range for byte_range, content in contents.items() if content is None]
        fetched = self.store.read_ranges(missing, whole=True)
        # Copies, since the store's memory is valid until the next range. The cache gets them once
        # all are read, when the file is known not to have changed meanwhile.
        copies = [bytes(data) for _, data in fetched]
        for byte_range, copy in zip(missing, copies, strict=True):
            ROWS.put(self.store, byte_range, copy)
            contents[byte_range] = memoryview(copy)
        return np.concatenate(
            [
                plan.pick(index, content, row_dtype)
                for index, content in enumerate(contents.values())
                if content
            ]
        )

    def _layout_token(self) -> tuple[object, ...]:
        return (repr(self.layout),)

    def _read_tiles(self, box: TileBox, tiles: Tiles, pixels: npt.NDArray[Any]) -> None:
        """Fetch the tiles of a box and decode them into `pixels`, the box of wanted pixels."""
        if not box.count:
            return
        heap = plan_heap(tiles, self.store.coalescing, longest=self.store.block_size)
        fetched = self.store.read_ranges(heap.ranges, whole=True)
        decoder = TileDecoder(self.layout, tiles, self.where)
        limit = run_limit(self.layout)
        for (start, content), tile_index in zip(fetched, heap.tile_indices, strict=True):
            data = np.frombuffer(content, np.uint8)
            # `tiles` are those of the box, in its order: a tile has the same index in both.
            for run in tile_runs(tile_index, tiles.source[tile_index], box, limit=limit):
                decoder.decode(run, run.box_index, data, start, pixels[run.place])
