"""Tiles out of the bytes that were fetched: decoded, unquantized, scaled and put in place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

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
        """Give an array of anything, over the memory of the one before."""
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes > len(self._memory):
            self._memory = np.empty(nbytes, np.uint8)
        return self._memory[:nbytes].view(dtype).reshape(shape)


@dataclass(frozen=True, slots=True, eq=False)
class TileDecoder:
    """Decodes tiles of one image, for one read."""

    layout: TiledLayout
    tiles: Tiles
    where: str
    """File and HDU, for messages."""
    _scratch: tuple[_Scratch, _Scratch] = field(default_factory=lambda: (_Scratch(), _Scratch()))

    def decode(
        self, run: TileRun, data: npt.NDArray[np.uint8], start: int, part: npt.NDArray[Any]
    ) -> None:
        """Decode a run of tiles out of `data`, which begins at byte `start` of the file.

        Parameters
        ----------
        run : TileRun
            Its members are positions in `tiles`.
        part : array
            Where what is wanted of the run belongs.

        Raises
        ------
        FitsFormatError
            A tile's bytes are damaged.
        """
        try:
            self._decode(run, data, start, _places(part, run))
        except DecodeError as error:
            row = int(self.tiles.rows[run.members[error.tile]])
            raise FitsFormatError(
                f"{tile_name(row, self.layout, self.where)}: ZCMPTYPE = "
                f"{self.layout.compression.algorithm!r}: {error.reason}"
            ) from None

    def _decode(
        self, run: TileRun, data: npt.NDArray[np.uint8], start: int, place: npt.NDArray[Any]
    ) -> None:
        # `place` has an axis of tiles before the axes of what is wanted of a tile.
        layout, tiles, members = self.layout, self.tiles, run.members
        scaling, source = layout.scaling, int(tiles.source[members[0]])
        shape, quantized = (len(members), *run.shape), is_quantized(layout, source)
        dtype = value_type(layout, source)
        # Where nothing is left to be done with the values, they are decoded where they belong.
        ready = run.whole and scaling.is_identity
        fits = place.flags.c_contiguous and (quantized or dtype == place.dtype)
        straight = ready and (fits or (is_strided(layout, source) and not quantized))
        values = place if straight and not quantized else self._scratch[0].array(shape, dtype)
        batch = data, tiles.starts[members] - start, tiles.lengths[members], values
        decode_tiles(*batch, layout=layout, source=source)
        stored = scaling.stored.newbyteorder("=")
        if quantized:
            floats = place if straight else self._scratch[1].array(shape, stored)
            unquantize_tiles(values, floats, tiles=tiles, members=members, layout=layout)
            values = floats
        elif layout.fill is not None:
            undefined = values == tiles.blanks[members].reshape((-1,) + (1,) * len(run.shape))
            values = values if straight else values.astype(stored)  # which has room for it
            values[undefined] = layout.fill
        if not straight:
            _scale(_wanted(values, run.within), place, scaling)


def _places(part: npt.NDArray[Any], run: TileRun) -> npt.NDArray[Any]:
    """View what a run of tiles fills of a result with an axis of tiles before the others."""
    axis, count = run.axis, len(run.members)
    split = (*part.shape[:axis], count, part.shape[axis] // count, *part.shape[axis + 1 :])
    return np.moveaxis(part.reshape(split), axis, 0)


def _wanted(
    values: npt.NDArray[Any], within: tuple[slice | npt.NDArray[np.int64], ...]
) -> npt.NDArray[Any]:
    """Take what is wanted of each tile: along each axis by itself, as NumPy does not with lists."""
    found = values[:, *(part if isinstance(part, slice) else slice(None) for part in within)]
    for axis, part in enumerate(within, start=1):
        if not isinstance(part, slice):
            found = found.take(part, axis=axis)
    return found


def _scale(values: npt.NDArray[Any], out: npt.NDArray[Any], scaling: Scaling) -> None:
    # Decoders give 32-bit integers whatever ZBITPIX is; what is beyond it wraps, as in astropy.
    stored = scaling.stored.newbyteorder("=")
    if values.dtype != stored and not scaling.is_identity:
        values = values.astype(stored)
    scaling.apply(values, out)
