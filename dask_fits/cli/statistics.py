"""Statistics of a Dask array in one pass over its chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 18
"""Values of a chunk that are converted to float64 at a time: a chunk needs no second copy."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a set of values, without those that are NaN."""

    count: int
    """Values that are not NaN."""
    nan: int
    """Values that are NaN."""
    min: float
    """Smallest value, exact; NaN if there is none."""
    max: float
    """Largest value, likewise."""
    mean: float
    """Arithmetic mean, in float64."""
    deviations: float
    """Sum of the squared deviations from the mean."""

    @property
    def std(self) -> float:
        """Population standard deviation, as ``np.nanstd``."""
        return math.sqrt(self.deviations / self.count) if self.count else math.nan

    def __add__(self, other: Statistics) -> Statistics:
        """Combine the statistics of two disjoint sets.

        Chan, Golub and LeVeque 1983, The American Statistician 37, 242: stable if the mean is
        large beside the deviations, which sums of squares are not.
        """
        nan = self.nan + other.nan
        # A set without values has NaN for a mean, which must not spread.
        if not self.count:
            return replace(other, nan=nan)
        if not other.count:
            return replace(self, nan=nan)
        count = self.count + other.count
        distance = other.mean - self.mean
        between = distance * distance * self.count / count * other.count
        return Statistics(
            count=count,
            nan=nan,
            min=min(self.min, other.min),
            max=max(self.max, other.max),
            mean=self.mean + distance * (other.count / count),
            deviations=self.deviations + other.deviations + between,
        )


NOTHING = Statistics(
    count=0,
    nan=0,
    min=math.nan,
    max=math.nan,
    mean=math.nan,
    deviations=0.0,
)
"""The statistics of no values."""


def compute_statistics(array: da.Array) -> Statistics:
    """Compute the statistics of a real array: one task a chunk, in Dask's current scheduler.

    Parameters
    ----------
    array : dask.array.Array
        An array of integers or floats.
    """
    if array.size == 0:
        return NOTHING
    # An array of one object a chunk: it has as many axes, so that Dask maps chunk to chunk. With
    # `meta`, Dask does not call the function with an empty array to learn what it returns.
    chunk_statistics = da.map_blocks(
        _chunk_statistics,
        array,
        chunks=tuple((1,) * count for count in array.numblocks),
        dtype=object,
        meta=np.empty((0,) * array.ndim, object),
    )
    total: Statistics = reduce(Statistics.__add__, chunk_statistics.compute().flat)
    return total


def _chunk_statistics(chunk: npt.NDArray[Any]) -> npt.NDArray[np.object_]:
    """Return the statistics of a chunk, in an array of one object with as many axes."""
    result = np.empty((1,) * chunk.ndim, object)
    result.flat[0] = reduce(Statistics.__add__, map(_block_statistics, _split_chunk(chunk)))
    return result


def _split_chunk(chunk: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    flat = chunk.reshape(-1)
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def _block_statistics(block: npt.NDArray[Any]) -> Statistics:
    nan = 0
    # Integers have no NaN; a block of floats is copied only if it has one.
    if block.dtype.kind == "f":
        is_nan = np.isnan(block)
        nan = int(np.count_nonzero(is_nan))
        block = block[~is_nan] if nan else block
    if not block.size:
        return replace(NOTHING, nan=nan)
    with np.errstate(invalid="ignore", over="ignore"):  # infinities give NaN, as in NumPy
        values = block.astype(np.float64)
        mean = float(values.mean())
        # In place, and without an array of squares.
        values -= mean
        deviations = float(np.dot(values, values))
    return Statistics(
        count=block.size,
        nan=nan,
        # In the block's own type: a large int64 is no float64.
        min=block.min().item(),
        max=block.max().item(),
        mean=mean,
        deviations=deviations,
    )
