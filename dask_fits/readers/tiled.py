"""Tile-compressed images as an array-like that reads and decodes just the tiles it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Key
from dask_fits.codecs.tile import run_limit
from dask_fits.exceptions import TruncatedFileError, UnsupportedHduError
from dask_fits.format.descriptors import Tiles, locate
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.boxes import Boxes, batches
from dask_fits.planning.chunks import ReadCost, ReadPlan
from dask_fits.planning.selection import Indices, Selection, select
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
from dask_fits.ranges.byte_range import Coalescing, split_range
from dask_fits.readers.batch import Batch, TiledBatch
from dask_fits.readers.reader import read_selection
from dask_fits.readers.row_cache import ROWS
from dask_fits.readers.tile_decoder import TileDecoder
from dask_fits.storage.store import Store, version_token

MAX_TILES = 1 << 26
"""Tiles that one read may need: more than an image of 256 k x 256 k pixels in tiles of 32 x 32."""


@dataclass(frozen=True, slots=True)
class TiledReader:
    """The pixels of one tile-compressed image HDU; see `PixelReader`."""

    store: Store
    layout: TiledLayout
    tile_table: bytes | None = field(repr=False)
    """The rows of the table, if they came with the header; None: they are read when needed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, NumPy order."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self.layout.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.layout.shape)

    def __getitem__(self, key: Key) -> Any:
        return self.read(select(key, self.shape))

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        box, tiles = self._locate(selection.indices)
        fill = partial(self._fill, box=box, tiles=tiles)
        return read_selection(selection, self.dtype, lambda out: fill(out.reshape(selection.shape)))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return "dask_fits.TiledReader", *version_token(self.store), repr(self.layout)

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Shape of the largest chunk of at most `limit` bytes; see `PixelReader`."""
        return contiguous_tiles_shape(self.layout, limit)

    def check(self, selection: Selection) -> None:
        """Raise where the wanted tiles cannot be there; reads their rows of the table."""
        self._locate(selection.indices)

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Tell what reading a box of pixels costs; reads the table's rows, but no tile."""
        box, tiles = self._locate(indices)
        ranges = list(plan_heap(tiles, self.store.coalescing).ranges) if box.count else []
        if self.tile_table is None and box.count:
            ranges += plan_rows(tiles.rows, self.layout, self.store.coalescing).ranges
        parts = (p for wanted in sorted(ranges) for p in split_range(wanted, self.store.part_size))
        return ReadPlan(tuple(parts), int(tiles.lengths.sum()))

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of a tile."""
        return self.layout.tile

    def estimate(self, indices: tuple[range, ...]) -> ReadCost:
        """Tell how many pixels are decoded for a box, where tiles lie in their order. Pure."""
        return tile_cost(indices, self.layout)

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes; reads the table's rows; see `PixelReader`."""
        if len(boxes):
            lengths = (boxes.stop - boxes.first) / np.array(self.layout.tile) + 1
            self._check(sum(self.layout.grid) + float(lengths.prod(axis=1).sum()))
        touched = touched_tiles(boxes, self.layout)
        tiles = self._tiles(rows := np.unique(touched.flat), pixel_counts(rows, self.layout))
        if not len(rows):
            return []
        longest = self.store.block_size or limits.max_bridged
        heap = plan_heap(tiles, limits, longest=longest)
        position = np.searchsorted(rows, touched.flat)
        return [
            self._batch(boxes, tiles, touched.owner, position, heap.part(low, high))
            for low, high in batches(heap.ranges, most=most)
        ]

    def _batch(
        self,
        boxes: Boxes,
        tiles: Tiles,
        owner: npt.NDArray[np.int64],
        position: npt.NDArray[np.int64],
        heap: HeapPlan,
    ) -> TiledBatch:
        """Put some ranges together with their tiles, and with the boxes that need these."""
        members = np.sort(np.concatenate(heap.members))
        held = np.zeros(len(tiles.rows), bool)
        held[members] = True
        numbers = np.unique(owner[held[position]])
        own = tuple(np.searchsorted(members, part) for part in heap.members)
        return TiledBatch(
            *(self.store, self.layout, self.where, tiles.take(members)),
            *(HeapPlan(heap.ranges, own), numbers, boxes.take(numbers)),
        )

    def _locate(self, indices: tuple[Indices, ...]) -> tuple[TileBox, Tiles]:
        """Find the tiles that a box of pixels needs, and where they lie."""
        if any(len(axis) == 0 for axis in indices):
            indices = (range(0),) * len(indices)
        else:
            lengths = zip(indices, self.layout.tile, strict=True)
            self._check(math.prod(int(axis[-1] // n - axis[0] // n) + 1 for axis, n in lengths))
        box = tile_box(indices, self.layout)
        return box, self._tiles(box.rows(self.layout), box.pixels)

    def _check(self, tiles: float) -> None:
        """Raise where so many tiles cannot be there, before there are arrays of as many numbers.

        A damaged header can tell of more of them than there is memory for. Behind a table that is
        not whole there is no heap, hence no tile.
        """
        stop, size = self.layout.table.stop, self.store.version.size
        if stop > size:
            raise TruncatedFileError(
                f"{self.where}: the file is truncated: the rows of the tiles end at byte {stop}, "
                f"found the end of the file at byte {size}"
            )
        if tiles > MAX_TILES:
            raise UnsupportedHduError(
                f"{self.where}: found {tiles:.0f} tiles to be read at once, expected at most "
                f"{MAX_TILES}: read the image in parts"
            )

    def _tiles(self, rows: npt.NDArray[np.int64], pixels: npt.NDArray[np.int64]) -> Tiles:
        """Find where tiles lie, by their rows of the table and their numbers of pixels."""
        return locate(
            rows,
            self._records(rows),
            self.layout,
            pixels=pixels,
            file_size=self.store.version.size,
            where=self.where,
        )

    def _records(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Get rows of the table, ascending: those at hand, those read lately, or read now."""
        layout = self.layout
        if self.tile_table is not None or not len(rows):
            return np.frombuffer(self.tile_table or b"", layout.row)[rows]
        plan = plan_rows(rows, layout, self.store.coalescing)
        found = {wanted: ROWS.get(self.store, wanted) for wanted in plan.ranges}
        missing = [wanted for wanted, piece in found.items() if piece is None]
        pieces = self.store.read_ranges(missing, whole=True)
        read = {w: bytes(data) for w, (_, data) in zip(missing, pieces, strict=True)}
        # They are kept now that the file is known not to have changed while they were read.
        for wanted, piece in read.items():
            ROWS.put(self.store, wanted, piece)
            found[wanted] = memoryview(piece)
        return np.concatenate(
            [plan.pick(i, piece, layout.row) for i, piece in enumerate(found.values()) if piece]
        )

    @property
    def where(self) -> str:
        """File and HDU, for messages."""
        return f"{self.store.name}: HDU {self.layout.hdu}"

    def _fill(self, out: npt.NDArray[Any], box: TileBox, tiles: Tiles) -> None:
        """Fetch the tiles of a box and decode them into `out`, which has the shape of the box."""
        if not box.count:
            return
        heap = plan_heap(tiles, self.store.coalescing, longest=self.store.block_size)
        pieces = self.store.read_ranges(heap.ranges, whole=True)
        decoder = TileDecoder(self.layout, tiles, self.where)
        for (start, piece), members in zip(pieces, heap.members, strict=True):
            data = np.frombuffer(piece, np.uint8)
            for run in tile_runs(members, tiles.source[members], box, limit=run_limit(self.layout)):
                decoder.decode(run, data, start, out[run.place])
