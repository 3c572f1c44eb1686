"""The random numbers of subtractive dithering; NumPy only, for whoever has no compiled kernels."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

COUNT: Final = 10_000
ZERO_VALUE: Final = -2147483646
"""The integer that stands for exactly 0.0 under SUBTRACTIVE_DITHER_2."""


def _random_numbers() -> npt.NDArray[np.float32]:
    # FITS Standard 4.0, appendix I: the "minimal standard" generator of Park and Miller.
    multiplier, modulus, seed = 16807, 2147483647, 1
    seeds = []
    for _ in range(COUNT):
        seed = multiplier * seed % modulus
        seeds.append(seed)
    if seed != 1043618065:
        raise AssertionError("the generator is not the one of the FITS Standard")
    numbers = (np.array(seeds, np.float64) / modulus).astype(np.float32)
    numbers.flags.writeable = False
    return numbers


RANDOM: Final = _random_numbers()
"""(10000,) float32: what is subtracted from the pixels, in turn."""

FIRSTS: Final = (RANDOM * np.float32(500)).astype(np.int64)
"""(10000,) int64: where in `RANDOM` a sequence begins, for each seed."""
FIRSTS.flags.writeable = False
