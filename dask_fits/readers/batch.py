"""A part of many boxes of one image, small enough for one task."""

from __future__ import annotations

from collections.abc import Iterator
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
from dask_fits.planning.selection import Indices
from dask_fits.planning.tile_plan import HeapPlan, TileBox, tile_box, tile_runs
from dask_fits.ranges.byte_range import split_range
from dask_fits.readers.tile_decoder import TileDecoder
from dask_fits.storage.store import Store

Piece = tuple[int, tuple[slice, ...], npt.NDArray[Any]]
"""Number of a box, a part of it, and the pixels there."""


class Batch(Protocol):
    """Byte ranges of one image, and what of many boxes they hold. It can be pickled.

    The batches of a read hold no byte twice, and each pixel of each box is in exactly one.
    """

    @property
    def boxes(self) -> Integers:
        """Numbers of the boxes that it holds pixels of, ascending."""

    @property
    def plan(self) -> ReadPlan:
        """What reading it costs."""

    def read(self) -> Iterator[Piece]:
        """Fetch the ranges and give the pixels of boxes that they hold, new arrays all.

        Raises
        ------
        FitsFormatError
            Compressed bytes are damaged.
        TruncatedFileError, FileChangedError, StorageError
            The bytes cannot be had.
        """


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Of an uncompressed image; see `Batch`."""

    store: Store
    layout: ImageLayout
    part: BoxPlan

    @property
    def boxes(self) -> Integers:
        """Numbers of the boxes that it holds pixels of, ascending."""
        return np.unique(self.part.pieces.box)

    @property
    def plan(self) -> ReadPlan:
        """What reading it costs."""
        size = self.store.part_size
        parts = (part for wanted in self.part.ranges for part in split_range(wanted, size))
        return ReadPlan(tuple(parts), int(self.part.useful.sum()))

    def read(self) -> Iterator[Piece]:
        """Read the pieces; see `Batch`."""
        scaling, pieces = self.layout.scaling, self.part.pieces
        stored = scaling.stored
        strides = self.layout.shape[-1] * stored.itemsize, stored.itemsize
        found = self.store.read_ranges(self.part.ranges, whole=True)
        for index, (start, data) in enumerate(found):
            for n in range(int(pieces.bounds[index]), int(pieces.bounds[index + 1])):
                shape, corner = (int(pieces.rows[n]), int(pieces.width[n])), pieces.corner[n]
                offset = int(pieces.start[n]) - start
                rows = np.ndarray(shape, stored, buffer=data, offset=offset, strides=strides)
                pixels = np.empty(shape, scaling.dtype)
                scaling.apply(rows, pixels)
                outer = [slice(int(at), int(at) + 1) for at in corner[:-1]]
                below = [slice(int(at), int(at) + shape[0]) for at in corner[-1:]]
                place = (*outer, *below, slice(0, shape[1]))
                yield int(pieces.box[n]), place, pixels.reshape([p.stop - p.start for p in place])


@dataclass(frozen=True, slots=True, eq=False)
class TiledBatch:
    """Of a tile-compressed image; see `Batch`."""

    store: Store
    layout: TiledLayout
    where: str
    """File and HDU, for messages."""
    tiles: Tiles
    heap: HeapPlan
    boxes: Integers
    """Numbers of the boxes that it holds pixels of, ascending."""
    bounds: Boxes
    """These boxes."""

    @property
    def plan(self) -> ReadPlan:
        """What reading it costs."""
        size = self.store.part_size
        parts = (part for wanted in self.heap.ranges for part in split_range(wanted, size))
        return ReadPlan(tuple(parts), int(self.tiles.lengths.sum()))

    def read(self) -> Iterator[Piece]:
        """Read the pieces; see `Batch`."""
        layout, limit = self.layout, run_limit(self.layout)
        decoder = TileDecoder(layout, self.tiles, self.where)
        image = _whole_image(layout)
        pieces = self.store.read_ranges(self.heap.ranges, whole=True)
        for (start, piece), members in zip(pieces, self.heap.members, strict=True):
            data, rows = np.frombuffer(piece, np.uint8), self.tiles.rows[members]
            for run in tile_runs(rows, self.tiles.source[members], image, limit=limit):
                # Its members are rows here, since all of the image is its box.
                own = np.searchsorted(self.tiles.rows, run.members)
                band = np.empty([p.stop - p.start for p in run.place], layout.dtype)
                decoder.decode(run.of(own), data, start, band)
                yield from self._cut(band, run.place)

    def _cut(self, band: npt.NDArray[Any], place: tuple[slice, ...]) -> Iterator[Piece]:
        """Give what a band of the image holds of the boxes."""
        first, stop = (np.array([getattr(p, name) for p in place]) for name in ("start", "stop"))
        low, high = np.maximum(self.bounds.first, first), np.minimum(self.bounds.stop, stop)
        held = np.flatnonzero((low < high).all(axis=1))
        low, high, corner = low[held], high[held], self.bounds.first[held]
        # Lists at once: there are thousands of pieces, and NumPy's numbers are slow one by one.
        ends = (low - first, high - first, low - corner, high - corner)
        for number, *found in zip(
            self.boxes[held].tolist(), *(numbers.tolist() for numbers in ends), strict=True
        ):
            pixels = band[tuple(map(slice, found[0], found[1]))].copy()
            yield number, tuple(map(slice, found[2], found[3])), pixels


def _whole_image(layout: TiledLayout) -> TileBox:
    indices: tuple[Indices, ...] = tuple(range(length) for length in layout.shape)
    return tile_box(indices, layout)
