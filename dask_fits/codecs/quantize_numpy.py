"""Quantized integers -> floats without numba."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dask_fits.codecs.dither import COUNT, FIRSTS, RANDOM, ZERO_VALUE

_BLOCK = 1 << 14
"""Pixels that are worked on at a time, so that they stay in cache."""

_RANDOM = RANDOM.astype(np.float64)
"""Promoted once, not at each use."""


def unquantize(
    values: npt.NDArray[np.int32],
    scales: npt.NDArray[np.float64],
    zeros: npt.NDArray[np.float64],
    out: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    *,
    method: int,
    rows: npt.NDArray[np.int64],
    blanks: npt.NDArray[np.int64],
    has_blank: bool,
) -> None:
    """Turn the quantized integers of tiles into floats; see `dask_fits.codecs.quantize`."""
    npix = values.shape[1]
    work = np.empty(min(_BLOCK, npix))
    for tile in range(len(values)):
        seed = int(rows[tile]) % COUNT
        place = int(FIRSTS[seed])
        start = 0
        while start < npix:
            count = min(_BLOCK, npix - start, COUNT - place)
            stored, floats = values[tile, start : start + count], work[:count]
            floats[...] = stored
            if method:
                floats -= _RANDOM[place : place + count]
                floats += 0.5
            floats *= scales[tile]
            floats += zeros[tile]
            result = out[tile, start : start + count]
            with np.errstate(over="ignore", invalid="ignore"):
                result[...] = floats
            if method == 2:
                result[stored == ZERO_VALUE] = 0.0
            if has_blank:
                result[stored == blanks[tile]] = np.nan
            start, place = start + count, place + count
            if place == COUNT:
                seed = (seed + 1) % COUNT
                place = int(FIRSTS[seed])
