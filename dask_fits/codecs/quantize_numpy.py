"""Unquantizing without numba: integers -> floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.codecs.dither import COUNT, FIRSTS, RANDOM, ZERO_VALUE

_BLOCK = 1 << 14
"""Pixels converted at a time, so that they stay in cache."""

_RANDOM = RANDOM.astype(np.float64)
"""The random numbers, promoted to float64 once and not at each use."""


def unquantize(
    values: npt.NDArray[np.int32],
    scales: npt.NDArray[np.float64],
    zeros: npt.NDArray[np.float64],
    out: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    *,
    method: int,
    rows: Integers,
    blanks: Integers,
    has_blank: bool,
) -> None:
    """Turn the quantized integers of tiles into floats; see `dask_fits.codecs.quantize`."""
    npix = values.shape[1]
    work = np.empty(min(_BLOCK, npix))
    for tile in range(len(values)):
        seed = int(rows[tile]) % COUNT
        random_index = int(FIRSTS[seed])
        start = 0
        while start < npix:
            # A block ends before the random numbers do: the next one has those of the next seed.
            count = min(_BLOCK, npix - start, COUNT - random_index)
            stored = values[tile, start : start + count]
            floats = work[:count]
            # In float64, and in the order of the compiled kernel.
            floats[...] = stored
            if method:
                floats -= _RANDOM[random_index : random_index + count]
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
            start += count
            random_index += count
            if random_index == COUNT:
                seed = (seed + 1) % COUNT
                random_index = int(FIRSTS[seed])
