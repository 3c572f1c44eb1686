"""A part of the reading of many boxes of one image, small enough for one task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.codecs.tile import run_limit
from dask_fits.format.descriptors import Tiles
from dask_fits.format.layout import ImageLayout
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.boxes import Boxes, BoxPlan
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.tile_plan import HeapPlan, TileBox, tile_box, tile_runs
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.readers.tile_decoder import TileDecoder
from dask_fits.storage.store import Store, is_indexed

Piece = tuple[int, tuple[slice, ...], npt.NDArray[Any]]
"""Number of a box, a part of it, and the pixels there."""


def read_plan(store: Store, ranges: Iterable[ByteRange], useful_bytes: int) -> ReadPlan:
    """Return the requests by which a store reads ranges."""
    return ReadPlan(
        store.requests(ranges),
        useful_bytes,
        packing=store.packing,
        by_index=is_indexed(store),
    )


class Batch(Protocol):
    """Byte ranges of one image, and the parts of many boxes that they hold. It can be pickled.

    The batches of a read hold no byte twice, and each pixel of each box is in exactly one.
    """

    @property
    def boxes(self) -> Integers:
        """Numbers of the boxes that it holds pixels of, ascending."""

    @property
    def plan(self) -> ReadPlan:
        """The requests of reading it."""

    def read(self) -> Iterator[Piece]:
        """Fetch the ranges and yield the pixels of boxes that they hold, each a new array.

        Raises
        ------
        FitsFormatError
            Compressed bytes are damaged.
        TruncatedFileError, FileChangedError, StorageError
            The bytes cannot be read.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """A batch of an uncompressed image; see `Batch`."""

    store: Store
    layout: ImageLayout
    box_plan: BoxPlan

    @property
    def boxes(self) -> Integers:
        """Numbers of the boxes that it holds pixels of, ascending."""
        return np.unique(self.box_plan.pieces.box)

    @property
    def plan(self) -> ReadPlan:
        """The requests of reading it."""
        return read_plan(self.store, self.box_plan.ranges, int(self.box_plan.useful.sum()))

    def read(self) -> Iterator[Piece]:
        """Read the pieces; see `Batch`."""
        bounds = self.box_plan.pieces.bounds
        fetched = self.store.read_ranges(self.box_plan.ranges, whole=True)
        for index, (start, data) in enumerate(fetched):
            for number in range(int(bounds[index]), int(bounds[index + 1])):
                yield self._piece(number, start, data)

    def _piece(self, number: int, start: int, data: memoryview) -> Piece:
        """Convert a piece out of `data`, which begins at byte `start` of the file."""
        scaling = self.layout.scaling
        stored = scaling.stored
        pieces = self.box_plan.pieces
        shape = (int(pieces.rows[number]), int(pieces.width[number]))
        # A view: the rows of a piece lie one image row apart.
        rows = np.ndarray(
            shape,
            stored,
            buffer=data,
            offset=int(pieces.start[number]) - start,
            strides=(self.layout.shape[-1] * stored.itemsize, stored.itemsize),
        )
        pixels = np.empty(shape, scaling.dtype)
        scaling.apply(rows, pixels)
        # One pixel along each axis before the rows' own, which an image of one axis does not have.
        corner = pieces.corner[number]
        place = (
            *(slice(int(first), int(first) + 1) for first in corner[:-1]),
            *(slice(int(first), int(first) + shape[0]) for first in corner[-1:]),
            slice(0, shape[1]),
        )
        return int(pieces.box[number]), place, pixels.reshape(_shape_of(place))


@dataclass(frozen=True, slots=True, eq=False)
class TiledBatch:
    """A batch of a tile-compressed image; see `Batch`."""

    store: Store
    layout: TiledLayout
    where: str
    """File and HDU, for messages."""
    tiles: Tiles
    """The tiles that it holds, in the order of their rows."""
    heap: HeapPlan
    boxes: Integers
    """Numbers of the boxes that it holds pixels of, ascending."""
    extents: Boxes
    """First pixel and end of each of these boxes."""

    @property
    def plan(self) -> ReadPlan:
        """The requests of reading it."""
        return read_plan(self.store, self.heap.ranges, int(self.tiles.lengths.sum()))

    def read(self) -> Iterator[Piece]:
        """Read the pieces; see `Batch`."""
        layout = self.layout
        limit = run_limit(layout)
        decoder = TileDecoder(layout, self.tiles, self.where)
        image = _whole_image(layout)
        fetched = self.store.read_ranges(self.heap.ranges, whole=True)
        for (start, content), tile_index in zip(fetched, self.heap.tile_indices, strict=True):
            data = np.frombuffer(content, np.uint8)
            # In the box of the whole image, the index of a tile is its row of the table.
            table_row = self.tiles.rows[tile_index]
            for run in tile_runs(table_row, self.tiles.source[tile_index], image, limit=limit):
                run_tile_index = np.searchsorted(self.tiles.rows, run.box_index)
                # Whole tiles first: several boxes may want parts of one, which is decoded once.
                pixels = np.empty(_shape_of(run.place), layout.dtype)
                decoder.decode(run, run_tile_index, data, start, pixels)
                yield from self._cut(pixels, run.place)

    def _cut(self, pixels: npt.NDArray[Any], place: tuple[slice, ...]) -> Iterator[Piece]:
        """Yield the part of each box that lies in the pixels at this place of the image."""
        first = np.array([part.start for part in place])
        stop = np.array([part.stop for part in place])
        low = np.maximum(self.extents.first, first)
        high = np.minimum(self.extents.stop, stop)
        held = np.flatnonzero((low < high).all(axis=1))
        low = low[held]
        high = high[held]
        corner = self.extents.first[held]
        # Lists at once: there are thousands of pieces, and NumPy's numbers are slow one by one.
        for number, start, end, box_start, box_end in zip(
            self.boxes[held].tolist(),
            (low - first).tolist(),
            (high - first).tolist(),
            (low - corner).tolist(),
            (high - corner).tolist(),
            strict=True,
        ):
            piece = pixels[tuple(map(slice, start, end))].copy()
            yield number, tuple(map(slice, box_start, box_end)), piece


def _shape_of(place: tuple[slice, ...]) -> list[int]:
    return [part.stop - part.start for part in place]


def _whole_image(layout: TiledLayout) -> TileBox:
    return tile_box(tuple(range(length) for length in layout.shape), layout)
