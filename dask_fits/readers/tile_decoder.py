"""The pixels of tiles out of fetched bytes: decoded, unquantized, scaled and put in place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.codecs.tile import (
    decode_tiles,
    is_quantized,
    is_strided,
    unquantize_tiles,
    value_type,
)
from dask_fits.exceptions import FitsFormatError
from dask_fits.format.descriptors import Tiles, tile_name
from dask_fits.format.scaling import Scaling
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.tile_plan import TileRun


class _Scratch:
    """Memory that the runs of one read use in turn: new memory for each would cost page faults."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an uninitialized array, in the memory of the one before."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > len(self._memory):
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes].view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class TileDecoder:
    """A decoder of tiles of one image, for one read."""

    layout: TiledLayout
    tiles: Tiles
    where: str
    """File and HDU, for messages."""
    _scratch: tuple[_Scratch, _Scratch] = field(default_factory=lambda: (_Scratch(), _Scratch()))
    """For decoded values, and for the floats that quantized ones become."""

    def decode(
        self,
        run: TileRun,
        tile_index: Integers,
        data: npt.NDArray[np.uint8],
        start: int,
        dest: npt.NDArray[Any],
    ) -> None:
        """Decode a run of tiles out of `data`, which begins at byte `start` of the file.

        Parameters
        ----------
        run : TileRun
        tile_index : (n,) int64 array
            Positions of the run's tiles in `tiles`.
        data : (m,) uint8 array
        start : int
        dest : array
            Part of the result that the wanted pixels of the run fill.

        Raises
        ------
        FitsFormatError
            A tile's bytes are damaged.
        """
        try:
            self._decode_run(run, tile_index, data, start, _split_by_tile(dest, run))
        except DecodeError as error:
            row = int(self.tiles.rows[tile_index[error.tile]])
            raise FitsFormatError(
                f"{tile_name(row, self.layout, self.where)}: ZCMPTYPE = "
                f"{self.layout.compression.algorithm!r}: {error.reason}"
            ) from None

    def _decode_run(
        self,
        run: TileRun,
        tile_index: Integers,
        data: npt.NDArray[np.uint8],
        start: int,
        dest: npt.NDArray[Any],
    ) -> None:
        """Decode tiles into `dest`, which has an axis of tiles before those of a tile's pixels."""
        layout = self.layout
        tiles = self.tiles
        scaling = layout.scaling
        source = int(tiles.source[tile_index[0]])  # of all tiles of a run
        quantized = is_quantized(layout, source)
        dtype = value_type(layout, source)
        shape = (len(tile_index), *run.shape)
        # If the values need no scaling and all are wanted, they are written straight into `dest`:
        # by the unquantizing, which needs contiguous memory, or else by the decoder, if it can
        # write into memory of this type and layout.
        is_final = run.whole and scaling.is_identity
        is_fitting = dest.flags.c_contiguous and (quantized or dtype == dest.dtype)
        in_place = is_final and (is_fitting or (is_strided(layout, source) and not quantized))
        values = dest if in_place and not quantized else self._scratch[0].array(shape, dtype)
        decode_tiles(
            data,
            tiles.starts[tile_index] - start,
            tiles.lengths[tile_index],
            values,
            layout=layout,
            source=source,
        )
        stored = scaling.stored.newbyteorder("=")
        if quantized:
            floats = dest if in_place else self._scratch[1].array(shape, stored)
            unquantize_tiles(values, floats, tiles=tiles, tile_index=tile_index, layout=layout)
            values = floats
        elif layout.fill is not None:
            # ZBLANK is a column: each tile has an undefined value of its own.
            undefined = values == tiles.blanks[tile_index].reshape((-1,) + (1,) * len(run.shape))
            values = values if in_place else values.astype(stored)  # which has room for the fill
            values[undefined] = layout.fill
        if not in_place:
            _scale_values(_take_wanted(values, run.within), dest, scaling)


def _split_by_tile(dest: npt.NDArray[Any], run: TileRun) -> npt.NDArray[Any]:
    """View the part of a result that a run fills with an axis of tiles before the others."""
    axis = run.axis
    count = len(run.box_index)
    split = (*dest.shape[:axis], count, dest.shape[axis] // count, *dest.shape[axis + 1 :])
    return np.moveaxis(dest.reshape(split), axis, 0)


def _take_wanted(
    values: npt.NDArray[Any], within: tuple[slice | Integers, ...]
) -> npt.NDArray[Any]:
    """Take the wanted values of each tile: along each axis by itself, unlike NumPy's lists."""
    taken = values[:, *(part if isinstance(part, slice) else slice(None) for part in within)]
    for axis, part in enumerate(within, start=1):
        if not isinstance(part, slice):
            taken = taken.take(part, axis=axis)
    return taken


def _scale_values(values: npt.NDArray[Any], out: npt.NDArray[Any], scaling: Scaling) -> None:
    """Convert stored values of native byte order to physical ones."""
    # Decoders give 32-bit integers whatever ZBITPIX is; those beyond its range wrap, as in astropy.
    stored = scaling.stored.newbyteorder("=")
    if values.dtype != stored and not scaling.is_identity:
        values = values.astype(stored)
    scaling.apply(values, out)
