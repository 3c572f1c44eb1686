"""The kernels of this room: those that numba compiles if it is installed, else NumPy's."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def sampling() -> Any:
    """Load the kernels that sample images; the first call takes numba a second or two."""
    try:
        from dask_fits.resampling import sampling as compiled
    except ImportError:
        from dask_fits.resampling import sampling_numpy

        return sampling_numpy
    return compiled


@cache
def combining() -> Any:
    """Load the kernels that combine resampled images."""
    try:
        from dask_fits.resampling import combining as compiled
    except ImportError:
        from dask_fits.resampling import combining_numpy

        return combining_numpy
    return compiled
