"""Unquantizing: integers -> floats, as FITS Standard 4.0 section 10.2 has it; compiled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.codecs.dither import FIRSTS, RANDOM, ZERO_VALUE
from dask_fits.compiled import kernel

__all__ = ["RANDOM", "unquantize"]

_SIGNATURE = (
    "void(Array(int32, 2, 'C', readonly=True), Array(float64, 1, 'C', readonly=True),"
    " Array(float64, 1, 'C', readonly=True), {}[:, ::1], int64,"
    " Array(int64, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True), boolean,"
    " Array(float32, 1, 'C', readonly=True), Array(int64, 1, 'C', readonly=True))"
)


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
    """Turn the quantized integers of a batch of tiles into floats.

    Parameters
    ----------
    values : (n, npix) int32 array, C-contiguous
        Quantized pixels of each tile, in its own order.
    scales, zeros : (n,) float64 array
        ZSCALE and ZZERO of each tile.
    out : (n, npix) float32 or float64 array, C-contiguous
        Filled with the floats.
    method : int
        0, 1 or 2: NO_DITHER, SUBTRACTIVE_DITHER_1 or SUBTRACTIVE_DITHER_2.
    rows : (n,) int64 array
        Row of each tile in its table, from 0, plus ZDITHER0 - 1.
    blanks : (n,) int64 array
        Integer that stands for an undefined pixel in each tile, and becomes NaN.
    has_blank : bool
        Whether there is such an integer; if not, `blanks` is ignored.
    """
    _unquantize(values, scales, zeros, out, method, rows, blanks, has_blank, RANDOM, FIRSTS)


@kernel(_SIGNATURE.format("float32"), _SIGNATURE.format("float64"))
def _unquantize(
    values: npt.NDArray[np.int32],
    scales: npt.NDArray[np.float64],
    zeros: npt.NDArray[np.float64],
    out: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    method: int,
    rows: Integers,
    blanks: Integers,
    has_blank: bool,
    random: npt.NDArray[np.float32],
    firsts: Integers,
) -> None:
    """Unquantize tiles; see `unquantize`. `random` and `firsts` are those of `dither`."""
    tiles, npix = values.shape
    for tile in range(tiles):
        scale = scales[tile]
        zero = zeros[tile]
        # A blank beyond 32 bits is no value of the pixels: none of them is undefined.
        blank = np.int32(blanks[tile])
        blanked = has_blank and np.int64(blank) == blanks[tile]
        if method == 0:
            for at in range(npix):
                value = values[tile, at]
                pixel = np.float64(value) * scale + zero
                out[tile, at] = np.nan if blanked and value == blank else pixel
            continue
        # Each tile begins its sequence of random numbers at a place that depends on its row; at
        # the end of the table the sequence of the next seed goes on.
        keeps_zeros = method == 2
        seed = rows[tile] % len(random)
        first = firsts[seed]
        done = 0
        while done < npix:
            # Between two jumps in the table nothing depends on the pixel before: SIMD.
            count = min(npix - done, len(random) - first)
            run = values[tile, done : done + count]
            noise = random[first : first + count]
            floats = out[tile, done : done + count]
            for at in range(count):
                value = run[at]
                pixel = ((np.float64(value) - np.float64(noise[at])) + 0.5) * scale + zero
                if keeps_zeros and value == np.int32(ZERO_VALUE):
                    pixel = 0.0
                floats[at] = np.nan if blanked and value == blank else pixel
            done += count
            seed = (seed + 1) % len(random)
            first = firsts[seed]
