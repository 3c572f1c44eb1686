"""Statistics of a Dask array in one pass over its chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 18
"""Values of a chunk that are taken to float64 at a time, so that a chunk needs no second copy."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a set of values, those that are not NaN."""

    count: int
    """Values that are not NaN."""
    nan: int
    """Values that are NaN."""
    min: float
    """Smallest value, exact; NaN where there is none."""
    max: float
    mean: float
    """In float64."""
    deviations: float
    """Sum of the squared deviations from the mean."""

    @property
    def std(self) -> float:
        """Population standard deviation, as ``np.nanstd``."""
        return math.sqrt(self.deviations / self.count) if self.count else math.nan

    def __add__(self, other: Statistics) -> Statistics:
        """Combine the statistics of two disjoint sets.

        Chan, Golub and LeVeque 1983, The American Statistician 37, 242: stable where the mean is
        large beside the deviations, which sums of squares are not.
        """
        if not self.count or not other.count:
            full, empty = (self, other) if self.count else (other, self)
            return Statistics(
                *(full.count, full.nan + empty.nan, full.min, full.max),
                *(full.mean, full.deviations),
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        return Statistics(
            count,
            self.nan + other.nan,
            min(self.min, other.min),
            max(self.max, other.max),
            self.mean + apart * (other.count / count),
            self.deviations + other.deviations + apart * apart * self.count / count * other.count,
        )


NOTHING = Statistics(0, 0, math.nan, math.nan, math.nan, 0.0)
"""The statistics of no values."""


def statistics(array: da.Array) -> Statistics:
    """Compute the statistics of a real array: one task a chunk, in Dask's current scheduler.

    Parameters
    ----------
    array : dask.array.Array
        Of integers or floats.
    """
    if array.size == 0:
        return NOTHING
    parts = da.map_blocks(
        _of_chunk,
        array,
        chunks=tuple((1,) * n for n in array.numblocks),
        dtype=object,
        meta=np.empty((0,) * array.ndim, object),
    )
    found: Statistics = reduce(Statistics.__add__, parts.compute().flat)
    return found


def _of_chunk(chunk: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    found = np.empty((1,) * chunk.ndim, object)
    found.flat[0] = reduce(Statistics.__add__, map(_of_block, _blocks(chunk)))
    return found


def _blocks(chunk: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    flat = chunk.reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def _of_block(block: npt.NDArray[Any]) -> Statistics:
    if block.dtype.kind == "f":
        missing = np.isnan(block)
        nan = int(np.count_nonzero(missing))
        block = block[~missing] if nan else block
    else:
        nan = 0
    if not block.size:
        return Statistics(0, nan, math.nan, math.nan, math.nan, 0.0)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities give NaN, as in NumPy
        values = block.astype(np.float64)
        mean = float(values.mean())
        values -= mean
        deviations = float(np.dot(values, values))
    return Statistics(block.size, nan, block.min().item(), block.max().item(), mean, deviations)
