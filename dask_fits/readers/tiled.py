"""Tile-compressed images as an array-like that reads and decodes just the tiles it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.errors import DecodeError
from dask_fits.codecs.tile import (
    decode_tiles,
    is_quantized,
    is_strided,
    run_limit,
    unquantize_tiles,
    value_type,
)
from dask_fits.exceptions import FitsFormatError, TruncatedFileError
from dask_fits.format.chunks import ReadPlan
from dask_fits.format.descriptors import Tiles, locate, tile_name
from dask_fits.format.scaling import Scaling
from dask_fits.format.selection import Axis, Selection, select
from dask_fits.format.tile_plan import (
    TileBox,
    TileRun,
    plan_heap,
    plan_rows,
    tile_box,
    tile_runs,
)
from dask_fits.format.tiles import TiledLayout
from dask_fits.readers.reader import read_selection
from dask_fits.readers.row_cache import ROWS
from dask_fits.storage.byte_range import split_range
from dask_fits.storage.store import Store


@dataclass(frozen=True, slots=True)
class TiledReader:
    """The pixels of one tile-compressed image HDU; see `PixelReader`."""

    store: Store
    layout: TiledLayout
    rows: bytes | None = field(repr=False)
    """The rows of the table, where they came with the header; None: they are read when needed."""

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

    def __getitem__(self, key: Any) -> Any:
        return self.read(select(key, self.shape))

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        box, tiles = self._locate(selection.axes)
        fill = partial(self._fill, box=box, tiles=tiles)
        return read_selection(selection, self.dtype, lambda out: fill(out.reshape(selection.shape)))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # Not the storage options: they may hold secrets, and do not change the pixels.
        stamp = self.store.stamp
        return (
            *("dask_fits.TiledReader", self.store.url),
            *(stamp.size, stamp.kind, stamp.value),
            repr(self.layout),
        )

    def slab(self, limit: int) -> tuple[int, ...]:
        """Shape of the largest chunk of at most `limit` bytes; see `PixelReader`."""
        return self.layout.slab(limit)

    def check(self, selection: Selection) -> None:
        """Raise where the wanted tiles cannot be there; reads their rows of the table."""
        self._locate(selection.axes)

    def plan(self, axes: tuple[Axis, ...]) -> ReadPlan:
        """Tell what reading a box of pixels costs; reads the table's rows, but no tile."""
        box, tiles = self._locate(axes)
        ranges = list(plan_heap(tiles, self.store.coalescing).ranges) if box.count else []
        if self.rows is None and box.count:
            ranges += plan_rows(tiles.rows, self.layout, self.store.coalescing).ranges
        parts = (p for wanted in sorted(ranges) for p in split_range(wanted, self.store.part_size))
        return ReadPlan(tuple(parts), int(tiles.lengths.sum()))

    def _locate(self, axes: tuple[Axis, ...]) -> tuple[TileBox, Tiles]:
        """Find the tiles that a box of pixels needs, and where they lie."""
        if any(len(axis) == 0 for axis in axes):
            axes = (range(0),) * len(axes)
        box = tile_box(axes, self.layout)
        rows = box.rows(self.layout)
        tiles = locate(
            rows,
            self._records(rows),
            self.layout,
            pixels=box.pixels,
            file_size=self.store.stamp.size,
            where=self._where,
        )
        return box, tiles

    def _records(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Get rows of the table, ascending: those at hand, those read lately, or read now."""
        layout = self.layout
        if self.rows is not None or not len(rows):
            return np.frombuffer(self.rows or b"", layout.row)[rows]
        plan = plan_rows(rows, layout, self.store.coalescing)
        size = self.store.stamp.size
        if plan.ranges[-1].stop > size:
            raise TruncatedFileError(
                f"{self._where}: the file is truncated: the rows of the wanted tiles end at byte "
                f"{plan.ranges[-1].stop}, found the end of the file at byte {size}"
            )
        found = {wanted: ROWS.get(self.store, wanted) for wanted in plan.ranges}
        missing = [wanted for wanted, piece in found.items() if piece is None]
        pieces = self.store.read_ranges(missing, whole=True)
        for wanted, (_, data) in zip(missing, pieces, strict=True):
            piece = bytes(data)
            ROWS.put(self.store, wanted, piece)
            found[wanted] = memoryview(piece)
        return np.concatenate(
            [plan.pick(i, piece, layout.row) for i, piece in enumerate(found.values()) if piece]
        )

    @property
    def _where(self) -> str:
        return f"{self.store.name}: HDU {self.layout.hdu}"

    def _fill(self, out: npt.NDArray[Any], box: TileBox, tiles: Tiles) -> None:
        """Fetch the tiles of a box and decode them into `out`, which has the shape of the box."""
        if not box.count:
            return
        heap = plan_heap(tiles, self.store.coalescing, longest=self.store.block_size)
        pieces = self.store.read_ranges(heap.ranges, whole=True)
        scratch = _Scratch(), _Scratch()
        for (start, piece), members in zip(pieces, heap.members, strict=True):
            data = np.frombuffer(piece, np.uint8)
            for run in tile_runs(members, tiles.source[members], box, limit=run_limit(self.layout)):
                place = _places(out, run)
                try:
                    self._decode(run, tiles, data, start, place, scratch)
                except DecodeError as error:
                    row = int(tiles.rows[run.members[error.tile]])
                    raise FitsFormatError(
                        f"{tile_name(row, self.layout, self._where)}: ZCMPTYPE = "
                        f"{self.layout.compression.algorithm!r}: {error.reason}"
                    ) from None

    def _decode(
        self,
        run: TileRun,
        tiles: Tiles,
        data: npt.NDArray[np.uint8],
        start: int,
        place: npt.NDArray[Any],
        scratch: tuple[_Scratch, _Scratch],
    ) -> None:
        """Decode a run of tiles out of `data`, which begins at byte `start` of the file.

        `place` has an axis of tiles before the axes of what is wanted of a tile.
        """
        layout, scaling, members = self.layout, self.layout.scaling, run.members
        source, shape = int(tiles.source[members[0]]), (len(members), *run.shape)
        quantized, dtype = is_quantized(layout, source), value_type(layout, source)
        # Where nothing is left to be done with the values, they are decoded where they belong.
        ready = run.whole and scaling.is_identity
        fits = place.flags.c_contiguous and (quantized or dtype == place.dtype)
        straight = ready and (fits or (is_strided(layout, source) and not quantized))
        values = place if straight and not quantized else scratch[0].array(shape, dtype)
        batch = data, tiles.starts[members] - start, tiles.lengths[members], values
        decode_tiles(*batch, layout=layout, source=source)
        stored = scaling.stored.newbyteorder("=")
        if quantized:
            floats = place if straight else scratch[1].array(shape, stored)
            unquantize_tiles(values, floats, tiles=tiles, members=members, layout=layout)
            values = floats
        elif layout.fill is not None:
            undefined = values == tiles.blanks[members].reshape((-1,) + (1,) * len(run.shape))
            values = values if straight else values.astype(stored)  # which has room for it
            values[undefined] = layout.fill
        if not straight:
            _scale(values[:, *run.within], place, scaling)


class _Scratch:
    """Memory that the runs of one read use in turn: new memory for each would cost page faults."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Give an array of anything, over the memory of the one before."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > len(self._memory):
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes].view(dtype).reshape(shape)


def _places(out: npt.NDArray[Any], run: TileRun) -> npt.NDArray[Any]:
    """View the part of `out` that a run of tiles fills with an axis of tiles before the others."""
    part, axis = out[run.place], run.axis
    count = len(run.members)
    split = (*part.shape[:axis], count, part.shape[axis] // count, *part.shape[axis + 1 :])
    return np.moveaxis(part.reshape(split), axis, 0)


def _scale(values: npt.NDArray[Any], out: npt.NDArray[Any], scaling: Scaling) -> None:
    # Decoders give 32-bit integers whatever ZBITPIX is; what is beyond it wraps, as in astropy.
    stored = scaling.stored.newbyteorder("=")
    if values.dtype != stored and not scaling.is_identity:
        values = values.astype(stored)
    scaling.apply(values, out)
