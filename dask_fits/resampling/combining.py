"""Layers -> a mosaic: sums, choices, medians and clipped means, pixel by pixel; compiled.

A layer is an image on the pixels of the mosaic, or on those of a rectangle of it. Layers are taken
in the order in which they come, so that float sums are the same each time.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits.compiled import kernel
from dask_fits.resampling.clipping import Counts, Floats, Layers, combine

Rule: TypeAlias = Literal["first", "last", "min", "max"]

_RULES: tuple[Rule, ...] = ("first", "last", "min", "max")
_LAST, _MIN, _MAX = 1, 2, 3
"""Indices in `_RULES`."""

_NONE: Floats = np.empty((0, 0))
"""In the place of an array that is not given."""

_READ = "Array(float64, 2, 'A', readonly=True)"
_FLOATS = "Array(float64, 2, 'A')"
_COUNTS = "Array(int32, 2, 'A')"


def add(
    value: Floats,
    weight: Floats,
    variance: Floats | None,
    total: Floats,
    total_weight: Floats,
    count: Counts,
    total_variance: Floats | None,
) -> None:
    """Add a layer to sums, where it counts: where its weight is > 0 and its value is not NaN.

    Parameters
    ----------
    value, weight : (h, w) float64 array
        The layer.
    variance : (h, w) float64 array, optional
        Of the values, in their unit squared. Without, nothing is added to `total_variance`.
    total : (h, w) float64 array
        ``weight * value`` is added to it.
    total_weight : (h, w) float64 array
        ``weight`` is added to it.
    count : (h, w) int32 array
        1 is added to it.
    total_variance : (h, w) float64 array, optional
        ``weight**2 * variance`` is added to it.
    """
    if variance is None or total_variance is None:
        variance = total_variance = _NONE
    _add(value, weight, variance, total, total_weight, count, total_variance)


@kernel(f"void({_READ}, {_READ}, {_READ}, {_FLOATS}, {_FLOATS}, {_COUNTS}, {_FLOATS})")
def _add(
    value: Floats,
    weight: Floats,
    variance: Floats,
    total: Floats,
    total_weight: Floats,
    count: Counts,
    total_variance: Floats,
) -> None:
    """Add a layer; see `add`. An array of variances that is empty is none."""
    height, width = value.shape
    for y in range(height):
        for x in range(width):
            v = value[y, x]
            w = weight[y, x]
            if w > 0.0 and v == v:  # noqa: PLR0124 (false for NaN)
                total[y, x] += w * v
                total_weight[y, x] += w
                count[y, x] += np.int32(1)
                if variance.size > 0:
                    total_variance[y, x] += w * w * variance[y, x]


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
    """Keep of each pixel the layer that a rule chooses, among those that count there.

    Parameters
    ----------
    rule : {"first", "last", "min", "max"}
        Which layer is kept: by the order in which they come, or by their values. Of layers with
        equal values the earlier one is kept.
    value, weight : (h, w) float64 array
        The layer. It counts where its weight is > 0 and its value is not NaN.
    variance : (h, w) float64 array, optional
        Of the values, in their unit squared. Without, it is unknown: NaN is kept.
    best, best_weight : (h, w) float64 array
        Value and weight of the layer that is kept. NaN and 0 where there is none yet.
    count : (h, w) int32 array
        1 is added to it where the layer counts, whether it is kept or not.
    best_variance : (h, w) float64 array, optional
        Variance of the layer that is kept.
    """
    if rule not in _RULES:
        raise ValueError(f"there is no rule {rule!r}")
    if best_variance is None:
        variance = best_variance = _NONE
    elif variance is None:
        variance = np.broadcast_to(np.nan, value.shape)
    _choose(_RULES.index(rule), value, weight, variance, best, best_weight, count, best_variance)


@kernel(f"void(int64, {_READ}, {_READ}, {_READ}, {_FLOATS}, {_FLOATS}, {_COUNTS}, {_FLOATS})")
def _choose(
    rule: int,
    value: Floats,
    weight: Floats,
    variance: Floats,
    best: Floats,
    best_weight: Floats,
    count: Counts,
    best_variance: Floats,
) -> None:
    """Keep a layer or not; see `choose`. `rule` is an index in `_RULES`."""
    height, width = value.shape
    for y in range(height):
        for x in range(width):
            v = value[y, x]
            w = weight[y, x]
            if not (w > 0.0 and v == v):  # noqa: PLR0124 (false for NaN)
                continue
            count[y, x] += np.int32(1)
            kept = best[y, x]
            if (
                kept != kept  # noqa: PLR0124 (true for NaN: there is none yet)
                or rule == _LAST
                or (rule == _MIN and v < kept)
                or (rule == _MAX and v > kept)
            ):
                best[y, x] = v
                best_weight[y, x] = w
                if variance.size > 0:
                    best_variance[y, x] = variance[y, x]


def median(
    layers: Layers,
    weights: Layers | None,
    variances: Layers | None,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats | None,
    used: npt.NDArray[np.bool_] | None,
) -> None:
    """Take the median of layers, each of which counts the same, whatever its weight is.

    Parameters
    ----------
    layers : (n, h, w) float32 or float64 array, C-contiguous
        Values. A layer counts where its value is not NaN and its weight is > 0.
    weights : (n, h, w) array of the same type, C-contiguous, optional
        Without, each is 1.
    variances : (n, h, w) array of the same type, C-contiguous, optional
        Of the values, in their unit squared.
    data : (h, w) float64 array
        Filled with the medians: the middle value, or the mean of the two in the middle. NaN where
        no layer counts.
    weight : (h, w) float64 array
        Filled with the sums of the weights of the layers that count.
    count : (h, w) int32 array
        Filled with how many layers count.
    error : (h, w) float64 array, optional
        Filled with ``sqrt(pi / 2 * sum(variances)) / count``, which is the standard error of a
        median of many values with a normal distribution. NaN where no layer counts, and without
        `variances`.
    used : (n, h, w) bool array, optional
        Filled with where each layer counts.
    """
    given = weights, variances, error, used
    _combine(layers, data, weight, count, given, 0.0, 0)


def clipped(
    layers: Layers,
    weights: Layers | None,
    variances: Layers | None,
    data: Floats,
    weight: Floats,
    count: Counts,
    error: Floats | None,
    used: npt.NDArray[np.bool_] | None,
    sigma: float,
    max_iterations: int,
) -> None:
    """Take the weighted mean of the layers that are left after outliers have been rejected.

    Values that are more than `sigma` standard deviations from the median are rejected, again and
    again until nothing changes, as `astropy.stats.sigma_clip` does by default. The weights play no
    part in it. The last bounds decide: a value between them is used, even if it was beyond earlier
    ones. Infinite values are never used.

    Parameters
    ----------
    layers, weights, variances
        As for `median`.
    data : (h, w) float64 array
        Filled with the weighted means of the values that are used; NaN where there is none.
    weight, count, used
        As for `median`, filled with what is true of the layers that are used.
    error : (h, w) float64 array, optional
        Filled with ``sqrt(sum(weights**2 * variances)) / sum(weights)`` of the layers that are
        used. NaN where there is none, and without `variances`.
    sigma : float
        Standard deviations; > 0 and finite.
    max_iterations : int
        How often values are rejected at most; 0 for as often as it takes.
    """
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma is {sigma}: it must be finite and more than 0")
    given = weights, variances, error, used
    _combine(layers, data, weight, count, given, sigma, max_iterations)


def _combine(
    layers: Layers,
    data: Floats,
    weight: Floats,
    count: Counts,
    given: tuple[Layers | None, Layers | None, Floats | None, npt.NDArray[np.bool_] | None],
    sigma: float,
    max_iterations: int,
) -> None:
    """Run the kernel with what was given besides: weights, variances, errors, and what is used."""
    weights, variances, error, used = given
    combine(
        layers,
        _or_empty(weights, layers.dtype),
        _or_empty(variances, layers.dtype),
        data,
        weight,
        count,
        _NONE if error is None else error,
        _or_empty(used, np.bool_),
        sigma,
        max_iterations,
    )


def _or_empty(array: npt.NDArray[Any] | None, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of layers as kernels take it: an empty one if there is none."""
    return np.empty((0, 0, 0), dtype) if array is None else array
