"""Layers -> medians and clipped means, pixel by pixel; compiled.

A strip of pixels is combined at a time. The values of its pixels are the columns of a block, which
are sorted all at once::

    layers (n, h, w)         block (n, strip)          sorted
    v  v  v  v  ...          v  v inf v                v  v   v   v
    v NaN v  v  ...   -->    v  v  v  v         -->    v  v   v   v
    v  v  v NaN ...          v inf v inf               v inf inf inf
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.compiled import Scalar, kernel

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int32]
Layers: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_STRIP = 128
"""Pixels of a strip: enough for SIMD, few enough for their block to stay in cache."""

_LARGEST = np.finfo(np.float64).max
"""The bounds of a clipping are finite, so that infinite values are beyond them."""

_LAYERS = "Array({0}, 3, 'C', readonly=True)"
_FLOATS = "Array(float64, 2, 'A')"
_COMBINE = (
    f"void({_LAYERS}, {_LAYERS}, {_LAYERS}, {_FLOATS}, {_FLOATS}, Array(int32, 2, 'A'), {_FLOATS},"
    " Array(boolean, 3, 'A'), float64, int64)"
)


@kernel()
def _gather(
    layers: Layers, weights: Layers, y: int, x: int, limit: float, block: Layers, counts: Integers
) -> None:
    """Fill a block with the values that count in a strip of pixels that begins at (y, x).

    Values of which the magnitude is beyond `limit` do not count. Infinity stands for what does not;
    `counts` is filled with how many do in each column.
    """
    counts[:] = 0
    for layer in range(len(layers)):
        for i in range(len(counts)):
            v = layers[layer, y, x + i]
            valid = abs(v) <= limit  # false for NaN
            if weights.size > 0:
                valid &= weights[layer, y, x + i] > 0.0
            block[layer, i] = v if valid else np.inf
            counts[i] += np.int64(valid)


@kernel()
def _sort(block: Layers) -> None:
    """Sort the columns of a block, by Batcher's odd-even merge sort.

    Which rows are compared does not depend on values: each step is made in all columns at once.
    """
    n, width = block.shape
    run = 1
    while run < n:  # each `run` rows are sorted by now, and are merged in pairs
        gap = run
        while gap >= 1:
            for start in range(gap % run, n - gap, 2 * gap):
                for row in range(start, min(start + gap, n - gap)):
                    if row // (2 * run) == (row + gap) // (2 * run):
                        for i in range(width):
                            a = block[row, i]
                            b = block[row + gap, i]
                            block[row, i] = min(a, b)
                            block[row + gap, i] = max(a, b)
            gap //= 2
        run *= 2


@kernel()
def _middle(block: Layers, column: int, first: Scalar, stop: Scalar) -> Scalar:
    """Return the median of the rows [first, stop) of a column that is sorted; NaN of none."""
    if first == stop:
        return np.nan
    low = np.float64(block[(first + stop - 1) // 2, column])
    high = np.float64(block[(first + stop) // 2, column])
    return 0.5 * (low + high)


@kernel()
def _deviation(block: Layers, column: int, first: Scalar, stop: Scalar) -> Scalar:
    """Return the standard deviation of the rows [first, stop) of a column; NaN of none."""
    total = 0.0
    for row in range(first, stop):
        total += np.float64(block[row, column])
    mean = total / (stop - first)
    squares = 0.0
    for row in range(first, stop):
        difference = np.float64(block[row, column]) - mean
        squares += difference * difference
    return math.sqrt(squares / (stop - first))


@kernel()
def _bounds(block: Layers, column: int, count: int, sigma: float, max_iterations: int) -> Scalar:
    """Return the bounds to which clipping comes in a column that is sorted."""
    first = np.int64(0)
    stop = count
    lower, upper = np.inf, -np.inf
    iterations = 0
    while first < stop:
        middle = _middle(block, column, first, stop)
        reach = sigma * _deviation(block, column, first, stop)
        lower = max(middle - reach, -_LARGEST)
        upper = min(middle + reach, _LARGEST)
        # Values are sorted: those beyond a bound are at an end.
        before = stop - first
        while first < stop and block[first, column] < lower:
            first += 1
        while first < stop and block[stop - 1, column] > upper:
            stop -= 1
        iterations += 1
        if stop - first == before or iterations == max_iterations:
            break
    return lower, upper


@kernel()
def _sum_up(
    layers: Layers,
    weights: Layers,
    variances: Layers,
    y: int,
    x: int,
    bounds: Floats,
    sums: Floats,
    counts: Integers,
    used: npt.NDArray[np.bool_],
) -> None:
    """Sum up what lies within bounds, in a strip of pixels that begins at (y, x).

    `bounds` are the lowest and the highest value of each pixel. `sums` is filled with the sums of
    w, w * value, variance, w**2 * variance, and `counts` with how many values there are.
    """
    sums[:] = 0.0
    counts[:] = 0
    for layer in range(len(layers)):
        for i in range(len(counts)):
            v = np.float64(layers[layer, y, x + i])
            w = np.float64(weights[layer, y, x + i]) if weights.size > 0 else 1.0
            valid = v >= bounds[0, i] and v <= bounds[1, i] and w > 0.0
            counts[i] += np.int64(valid)
            sums[0, i] += w if valid else 0.0
            sums[1, i] += w * v if valid else 0.0
            if variances.size > 0:
                variance = np.float64(variances[layer, y, x + i])
                sums[2, i] += variance if valid else 0.0
                sums[3, i] += w * w * variance if valid else 0.0
            if used.size > 0:
                used[layer, y, x + i] = valid


@kernel(_COMBINE.format("float32"), _COMBINE.format("float64"))
def combine(
    layers: Layers,
    weights: Layers,
    variances: Layers,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats,
    used: npt.NDArray[np.bool_],
    sigma: float,
    max_iterations: int,
) -> None:
    """Take medians of layers, if `sigma` is 0, or clipped means.

    See `dask_fits.resampling.combining.median` and `clipped`; arrays that are empty are not given.
    """
    clips = sigma > 0.0
    n, height, width = layers.shape
    for y in range(height):
        for x in range(0, width, _STRIP):
            strip = min(_STRIP, width - x)
            block = np.empty((n, strip), layers.dtype)
            counts = np.empty(strip, np.int64)
            bounds = np.empty((2, strip), np.float64)
            sums = np.empty((4, strip), np.float64)
            _gather(layers, weights, y, x, _LARGEST if clips else np.inf, block, counts)
            _sort(block)
            for i in range(strip):
                if clips:
                    lower, upper = _bounds(block, i, counts[i], sigma, max_iterations)
                else:
                    lower, upper = -np.inf, np.inf
                bounds[0, i] = lower
                bounds[1, i] = upper
            _sum_up(layers, weights, variances, y, x, bounds, sums, counts, used)
            for i in range(strip):
                weight[y, x + i] = sums[0, i]
                count[y, x + i] = counts[i]
                if clips:  # 0 / 0 is NaN
                    data[y, x + i] = sums[1, i] / sums[0, i]
                else:
                    data[y, x + i] = _middle(block, i, 0, counts[i])
                if error.size > 0:
                    if variances.size == 0:
                        error[y, x + i] = np.nan
                    elif clips:
                        error[y, x + i] = math.sqrt(sums[3, i]) / sums[0, i]
                    else:
                        error[y, x + i] = math.sqrt(0.5 * math.pi * sums[2, i]) / counts[i]
