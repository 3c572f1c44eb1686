"""The random numbers of subtractive dithering. NumPy only: decoders without numba use them, too."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

COUNT: Final = 10_000
"""Random numbers in the sequence of the Standard."""

ZERO_VALUE: Final = -2147483646
"""The integer that stands for exactly 0.0 under SUBTRACTIVE_DITHER_2."""


_MULTIPLIER = 16807
_MODULUS = 2147483647

_LAST_SEED = 1043618065
"""The seed after `COUNT` steps, as the Standard gives it for a check."""


def _generate_random_numbers() -> npt.NDArray[np.float32]:
    """Run the "minimal standard" generator of Park and Miller (FITS Standard 4.0, appendix I)."""
    seed = 1
    seeds = []
    for _ in range(COUNT):
        seed = _MULTIPLIER * seed % _MODULUS
        seeds.append(seed)
    if seed != _LAST_SEED:
        raise AssertionError("the generator is not the one of the FITS Standard")
    numbers = (np.array(seeds, np.float64) / _MODULUS).astype(np.float32)
    numbers.flags.writeable = False
    return numbers


RANDOM: Final = _generate_random_numbers()
"""(10000,) float32: the numbers that are subtracted from the pixels, in turn."""

FIRSTS: Final = (RANDOM * np.float32(500)).astype(np.int64)
"""(10000,) int64: index in `RANDOM` at which the sequence of each seed begins."""
FIRSTS.flags.writeable = False
