"""Combining of layers without numba; to the bit the same as `dask_fits.resampling.combining`."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers

Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int32]
Layers: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Rule: TypeAlias = Literal["first", "last", "min", "max"]

_BLOCK = 1 << 18
"""Values that are combined together: enough for NumPy to be fast, few enough for the memory."""


def add(
    value: Floats,
    weight: Floats,
    variance: Floats | None,
    total: Floats,
    total_weight: Floats,
    count: Counts,
    total_variance: Floats | None,
) -> None:
    """Add a layer to sums; see `dask_fits.resampling.combining.add`."""
    valid = (weight > 0) & ~np.isnan(value)
    with np.errstate(all="ignore"):
        np.add(total, weight * value, out=total, where=valid)
        np.add(total_weight, weight, out=total_weight, where=valid)
        if variance is not None and total_variance is not None:
            np.add(total_variance, weight * weight * variance, out=total_variance, where=valid)
    count += valid


def choose(
    rule: Rule,
    value: Floats,
    weight: Floats,
    variance: Floats | None,
    best: Floats,
    best_weight: Floats,
    count: Counts,
    best_variance: Floats | None,
) -> None:
    """Keep the layer that a rule chooses; see `dask_fits.resampling.combining.choose`."""
    valid = (weight > 0) & ~np.isnan(value)
    none_yet = np.isnan(best)
    if rule == "first":
        chosen = valid & none_yet
    elif rule == "last":
        chosen = valid
    elif rule == "min":
        chosen = valid & (none_yet | (value < best))
    elif rule == "max":
        chosen = valid & (none_yet | (value > best))
    else:
        raise ValueError(f"there is no rule {rule!r}")
    np.copyto(best, value, where=chosen)
    np.copyto(best_weight, weight, where=chosen)
    if best_variance is not None:
        np.copyto(best_variance, np.nan if variance is None else variance, where=chosen)
    count += valid


def median(
    layers: Layers,
    weights: Layers | None,
    variances: Layers | None,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats | None,
    used: Mask | None,
) -> None:
    """Take the median of layers; see `dask_fits.resampling.combining.median`."""
    _combine(layers, weights, variances, data, weight, count, error, used, 0.0, 0)


def clipped(
    layers: Layers,
    weights: Layers | None,
    variances: Layers | None,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats | None,
    used: Mask | None,
    sigma: float,
    max_iterations: int,
) -> None:
    """Take the clipped mean of layers; see `dask_fits.resampling.combining.clipped`."""
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma is {sigma}: it must be finite and more than 0")
    _combine(layers, weights, variances, data, weight, count, error, used, sigma, max_iterations)


def _combine(
    layers: Layers,
    weights: Layers | None,
    variances: Layers | None,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats | None,
    used: Mask | None,
    sigma: float,
    max_iterations: int,
) -> None:
    """Take medians of layers, if `sigma` is 0, or clipped means, some rows at a time."""
    clips = sigma > 0
    n, height, width = layers.shape
    step = max(1, _BLOCK // max(1, n * width))
    for y in range(0, height, step):
        rows = slice(y, y + step)
        values = layers[:, rows].astype(np.float64)
        w = np.ones_like(values) if weights is None else weights[:, rows].astype(np.float64)
        valid = (np.isfinite(values) if clips else ~np.isnan(values)) & (w > 0)
        columns = np.where(valid, values, np.inf).reshape(n, data[rows].size)
        columns.sort(axis=0)
        if clips:
            bounds = _bounds(columns, valid.sum(axis=0).ravel(), sigma, max_iterations)
            lower, upper = bounds.reshape(2, *data[rows].shape)
            valid &= (values >= lower) & (values <= upper)
        counts = valid.sum(axis=0)
        count[rows] = counts
        weight[rows] = _sum_up(w, valid)
        if used is not None:
            used[:, rows] = valid
        with np.errstate(all="ignore"):  # 0 / 0 is NaN
            if clips:
                data[rows] = _sum_up(w * values, valid) / weight[rows]
            else:
                data[rows] = _medians(columns, counts.ravel()).reshape(counts.shape)
            if error is None:
                continue
            if variances is None:
                error[rows] = np.nan
            elif clips:
                error[rows] = np.sqrt(_sum_up(w * w * variances[:, rows], valid)) / weight[rows]
            else:
                error[rows] = np.sqrt(0.5 * np.pi * _sum_up(variances[:, rows], valid)) / counts


def _sum_up(terms: Layers, valid: Mask) -> Floats:
    """Sum up the valid terms of axis 0, in their order."""
    total = np.zeros(terms.shape[1:])
    for term, is_valid in zip(terms, valid, strict=True):
        np.add(total, term, out=total, where=is_valid)
    return total


def _medians(columns: Floats, counts: Integers) -> Floats:
    """Return the medians of the first values of columns that are sorted; NaN of none."""
    medians = np.full(len(counts), np.nan)
    some = np.flatnonzero(counts)
    medians[some] = _middles(columns[:, some], np.zeros_like(some), counts[some])
    return medians


def _middles(columns: Floats, first: Integers, stop: Integers) -> Floats:
    """Return the medians of the rows [first, stop) of columns that are sorted."""
    column = np.arange(len(first))
    low: Floats = columns[(first + stop - 1) // 2, column]
    high: Floats = columns[(first + stop) // 2, column]
    return 0.5 * (low + high)


def _deviations(columns: Floats, first: Integers, stop: Integers) -> Floats:
    """Return the standard deviations of the rows [first, stop) of columns."""
    row = np.arange(len(columns))[:, np.newaxis]
    inside = (row >= first) & (row < stop)
    differences = columns - _sum_up(columns, inside) / (stop - first)
    return np.sqrt(_sum_up(differences * differences, inside) / (stop - first))


def _bounds(columns: Floats, counts: Integers, sigma: float, max_iterations: int) -> Floats:
    """Return the bounds to which clipping comes in columns that are sorted: lower, upper."""
    bounds = np.empty((2, len(counts)))
    bounds[0] = np.inf
    bounds[1] = -np.inf
    some = np.flatnonzero(counts)  # the columns that are not done
    columns = columns[:, some]
    first = np.zeros_like(some)
    stop = counts[some]
    iterations = 0
    while len(some) > 0:
        with np.errstate(all="ignore"):
            middles = _middles(columns, first, stop)
            reaches = sigma * _deviations(columns, first, stop)
            lower = middles - reaches
            upper = middles + reaches
        bounds[:, some] = lower, upper
        iterations += 1
        if iterations == max_iterations:
            break
        # Values are sorted: those beyond a bound are at an end.
        next_first = np.maximum(first, (columns < lower).sum(axis=0))
        next_stop = np.minimum(stop, (columns <= upper).sum(axis=0))
        goes_on = (next_stop - next_first < stop - first) & (next_first < next_stop)
        some = some[goes_on]
        columns = columns[:, goes_on]
        first = next_first[goes_on]
        stop = next_stop[goes_on]
    return bounds
