"""Layers added, chosen and combined, against loops, NumPy and astropy; compiled and not."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from astropy.stats import sigma_clip
from astropy.utils.exceptions import AstropyUserWarning
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Floats = npt.NDArray[np.float64]

NAMES = ["combining", "combining_numpy"]
RULES = ["first", "last", "min", "max"]
NAN = np.nan


def _load(name: str) -> ModuleType:
    if name == "combining":
        pytest.importorskip("numba", reason="numba is not installed")
    return importlib.import_module(f"dask_fits.resampling.{name}")


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return _load(request.param)


def _stack(seed: int, n: int, shape: tuple[int, int], dtype: str = "f8") -> npt.NDArray[Any]:
    """Values with outliers and NaN, among them pixels without any value."""
    rng = np.random.default_rng(seed)
    values = rng.normal(100, 5, (n, *shape))
    values[rng.random(values.shape) < 0.1] += 300
    values[rng.random(values.shape) < 0.15] = NAN
    values[:, 0, 0] = NAN
    return values.astype(dtype)


def _weights(seed: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Weights, of which some are 0, negative, or NaN."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.2, 3, like.shape)
    for weight in (0.0, -1.0, NAN):
        weights[rng.random(like.shape) < 0.04] = weight
    return weights.astype(like.dtype)


def _combined(
    module: ModuleType,
    name: str,
    layers: npt.NDArray[Any],
    weights: npt.NDArray[Any] | None = None,
    variances: npt.NDArray[Any] | None = None,
    **options: Any,
) -> dict[str, npt.NDArray[Any]]:
    """Call `median` or `clipped` with targets full of something else, none of them contiguous."""
    n, height, width = layers.shape
    results = {
        "data": np.full((height + 2, width + 3), -7.0)[1:-1, 2:-1],
        "weight": np.full((height + 2, width + 3), -7.0)[1:-1, 2:-1],
        "count": np.full((height + 2, width + 3), -7, np.int32)[1:-1, 2:-1],
        "error": np.full((height + 2, width + 3), -7.0)[1:-1, 2:-1],
        "used": np.full((n, height + 2, width + 3), fill_value=True)[:, 1:-1, 2:-1],
    }
    getattr(module, name)(layers, weights, variances, **results, **options)
    for result in results.values():
        if result.base is not None and result.base.ndim == 2:
            assert np.all(result.base[[0, -1]] == -7)
            assert np.all(result.base[:, [0, 1, -1]] == -7)
    return results


def _astropy_used(layers: npt.NDArray[Any], sigma: float, max_iterations: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)  # there are NaN
        warnings.simplefilter("ignore", RuntimeWarning)  # and squares that overflow
        clipped: Any = sigma_clip(layers, sigma=sigma, maxiters=max_iterations or None, axis=0)
    return ~clipped.mask


def _weighted_means(layers: Floats, weights: Floats, used: npt.NDArray[np.bool_]) -> Floats:
    """Weighted means in a plain loop, in list order."""
    means = np.full(layers.shape[1:], NAN)
    for pixel in np.ndindex(*means.shape):
        total = total_weight = 0.0
        for layer in range(len(layers)):
            at = (layer, *pixel)
            if used[at]:
                total += float(weights[at]) * float(layers[at])
                total_weight += float(weights[at])
        if total_weight > 0:
            means[pixel] = total / total_weight
    return means


# --- add


def test_sums_are_those_of_a_loop_in_list_order(module: ModuleType) -> None:
    values = _stack(1, 7, (9, 13))
    weights = _weights(2, values)
    variances = np.random.default_rng(3).uniform(1, 2, values.shape)
    wide = np.zeros((4, 11, 17))  # the targets are parts of it
    total, total_weight, total_variance = (plane[1:-1, 2:-2] for plane in wide[:3])
    count = np.zeros((11, 17), np.int32)[1:-1, 2:-2]
    expected = np.zeros((4, 9, 13))
    for value, weight, variance in zip(values, weights, variances, strict=True):
        module.add(value, weight, variance, total, total_weight, count, total_variance)
        for at in np.ndindex(9, 13):
            if weight[at] > 0 and not math.isnan(value[at]):
                expected[0][at] += weight[at] * value[at]
                expected[1][at] += weight[at]
                expected[2][at] += weight[at] * weight[at] * variance[at]
                expected[3][at] += 1
    np.testing.assert_array_equal(total, expected[0])
    np.testing.assert_array_equal(total_weight, expected[1])
    np.testing.assert_array_equal(total_variance, expected[2])
    np.testing.assert_array_equal(count, expected[3])
    assert count.dtype == np.int32
    assert 0 == count[0, 0] < count.max()
    wide[:, 1:-1, 2:-2] = 0
    assert not wide.any()  # nothing was added beside the targets


def test_mean_is_that_of_numpy(module: ModuleType) -> None:
    values = _stack(4, 12, (20, 30))[:, 1:]
    total, total_weight, ones = np.zeros((19, 30)), np.zeros((19, 30)), np.ones((19, 30))
    count = np.zeros((19, 30), np.int32)
    for value in values:
        module.add(value, ones, None, total, total_weight, count, None)
    np.testing.assert_allclose(total / total_weight, np.nanmean(values, axis=0), rtol=1e-14)
    np.testing.assert_array_equal(count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_array_equal(total_weight, count)


def test_weighted_mean_is_that_of_numpy(module: ModuleType) -> None:
    rng = np.random.default_rng(5)
    values, weights = rng.normal(size=(8, 6, 5)), rng.uniform(0.5, 2, (8, 6, 5))
    total, total_weight, count = np.zeros((6, 5)), np.zeros((6, 5)), np.zeros((6, 5), np.int32)
    for value, weight in zip(values, weights, strict=True):
        module.add(value, weight, None, total, total_weight, count, None)
    expected = np.average(values, axis=0, weights=weights)
    np.testing.assert_allclose(total / total_weight, expected, rtol=1e-13)


def test_layer_without_variance_adds_none(module: ModuleType) -> None:
    one, total_variance = np.ones((2, 2)), np.full((2, 2), 5.0)
    count = np.zeros((2, 2), np.int32)
    module.add(one, one, None, np.zeros((2, 2)), np.zeros((2, 2)), count, total_variance)
    np.testing.assert_array_equal(total_variance, 5)
    module.add(one, one, one, np.zeros((2, 2)), np.zeros((2, 2)), count, None)
    np.testing.assert_array_equal(count, 2)


def test_layers_may_be_read_only_and_of_any_layout(module: ModuleType) -> None:
    value = np.arange(12.0).reshape(4, 3).T
    weight = np.broadcast_to(2.0, (3, 4))
    value.flags.writeable = False
    total, total_weight, count = np.zeros((3, 4)), np.zeros((3, 4)), np.zeros((3, 4), np.int32)
    module.add(value, weight, weight, total, total_weight, count, None)
    module.choose("max", value, weight, weight, total, total_weight, count, None)
    np.testing.assert_array_equal(total, 2 * value)


# --- choose

ties = hnp.arrays(np.float64, (5, 2, 3), elements=st.sampled_from([NAN, -1.0, 0.0, 1.0, np.inf]))
tie_weights = hnp.arrays(
    np.float64, (5, 2, 3), elements=st.sampled_from([NAN, -1.0, 0.0, 0.5, 1.0, 2.0])
)


def _chosen(rule: str, values: list[float], weights: list[float]) -> tuple[int | None, int]:
    """Which layer a rule chooses, and how many count."""
    valid = [i for i, (v, w) in enumerate(zip(values, weights, strict=True)) if w > 0 and v == v]
    if not valid:
        return None, 0
    if rule in ("first", "last"):
        return valid[0 if rule == "first" else -1], len(valid)
    best = (min if rule == "min" else max)(values[i] for i in valid)
    return next(i for i in valid if values[i] == best), len(valid)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", RULES)
@given(values=ties, weights=tie_weights)
@settings(max_examples=25, deadline=None)
def test_chosen_layer_is_that_of_brute_force(
    name: str, rule: str, values: Floats, weights: Floats
) -> None:
    module = _load(name)
    variances = np.arange(values.size, dtype=np.float64).reshape(values.shape)  # each is unique
    wide = np.full((3, 4, 7), NAN)
    best, best_weight, best_variance = (plane[1:-1, 2:-2] for plane in wide)
    best_weight[...] = 0
    count = np.zeros((2, 3), np.int32)
    for value, weight, variance in zip(values, weights, variances, strict=True):
        module.choose(rule, value, weight, variance, best, best_weight, count, best_variance)
    for y, x in np.ndindex(2, 3):
        layer, counted = _chosen(rule, values[:, y, x].tolist(), weights[:, y, x].tolist())
        assert count[y, x] == counted
        if layer is None:
            assert math.isnan(best[y, x])
            assert best_weight[y, x] == 0
        else:
            assert best[y, x] == values[layer, y, x]
            assert best_weight[y, x] == weights[layer, y, x]
            assert best_variance[y, x] == variances[layer, y, x]
    wide[:, 1:-1, 2:-2] = NAN
    assert np.isnan(wide).all()  # nothing was written beside the targets


def test_variance_of_a_chosen_layer_without_one_is_unknown(module: ModuleType) -> None:
    ones = np.ones((1, 2))
    best, best_weight, best_variance = np.full((1, 2), NAN), np.zeros((1, 2)), np.full((1, 2), NAN)
    count = np.zeros((1, 2), np.int32)
    module.choose("max", ones, ones, 9 * ones, best, best_weight, count, best_variance)
    better_at_left = np.array([[2.0, 0.0]])
    module.choose("max", better_at_left, ones, None, best, best_weight, count, best_variance)
    np.testing.assert_array_equal(best, [[2, 1]])
    np.testing.assert_array_equal(best_variance, [[NAN, 9]])
    module.choose("max", 3 * ones, ones, ones, best, best_weight, count, None)
    np.testing.assert_array_equal(best, 3)


def test_unknown_rule_is_an_error(module: ModuleType) -> None:
    ones, count = np.ones((1, 1)), np.zeros((1, 1), np.int32)
    with pytest.raises(ValueError, match="no rule"):
        module.choose("best", ones, ones, None, ones.copy(), ones.copy(), count, None)


# --- median


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 16, 17, 31, 40])
def test_median_is_that_of_numpy(module: ModuleType, n: int, dtype: str) -> None:
    layers = _stack(n, n, (3, 150), dtype)
    weights = _weights(n + 1, layers)
    variances = np.random.default_rng(n).uniform(1, 2, layers.shape).astype(dtype)
    result = _combined(module, "median", layers, weights, variances)
    used = ~np.isnan(layers) & (weights > 0)
    np.testing.assert_array_equal(result["used"], used)
    np.testing.assert_array_equal(result["count"], used.sum(axis=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # there are pixels without a value
        expected = np.nanmedian(np.where(used, layers, NAN).astype(np.float64), axis=0)
        variance = np.where(used, variances, 0).sum(axis=0, dtype=np.float64)
        error = np.sqrt(np.pi / 2 * variance) / used.sum(axis=0)
    np.testing.assert_array_equal(result["data"], expected)
    np.testing.assert_allclose(result["error"], error, rtol=1e-13)
    total_weight = np.where(used, weights, 0).sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(result["weight"], total_weight, rtol=1e-13)
    assert np.isnan(result["data"][0, 0])
    assert np.isnan(result["error"][0, 0])


def test_infinite_values_count_for_the_median(module: ModuleType) -> None:
    layers = np.array([[-np.inf, 1, np.inf, np.inf], [1, np.inf, np.inf, 3], [2, 2, 0, NAN]])
    result = _combined(module, "median", layers[:, np.newaxis])
    np.testing.assert_array_equal(result["data"], [[1, 2, np.inf, np.inf]])
    np.testing.assert_array_equal(result["count"], [[3, 3, 3, 2]])


@pytest.mark.parametrize("n", range(1, 13))
def test_compiled_sort_sorts_whatever_it_is_given(n: int) -> None:
    _load("combining")
    from dask_fits.resampling import clipping

    # A network that sorts all columns of zeros and ones sorts all columns (Knuth, 5.3.4).
    block = np.array(list(itertools.product([0.0, 1.0], repeat=n))).T.copy()
    expected = np.sort(block, axis=0)
    clipping._sort(block)
    np.testing.assert_array_equal(block, expected)


# --- clipped


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("sigma", "max_iterations"), [(3, 5), (2, 1), (1.5, 2), (1, 0)])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 16, 17, 40])
def test_clipped_mean_is_that_of_astropy(
    module: ModuleType, n: int, sigma: float, max_iterations: int, dtype: str
) -> None:
    layers = _stack(n, n, (2, 140), dtype)
    weights = _weights(n + 1, layers)
    variances = np.random.default_rng(n).uniform(1, 2, layers.shape).astype(dtype)
    options = {"sigma": sigma, "max_iterations": max_iterations}
    result = _combined(module, "clipped", layers, weights, variances, **options)
    used = _astropy_used(np.where(weights > 0, layers, NAN), sigma, max_iterations)
    np.testing.assert_array_equal(result["used"], used)
    np.testing.assert_array_equal(result["count"], used.sum(axis=0))
    # To the bit: the sums are made in list order.
    np.testing.assert_array_equal(result["data"], _weighted_means(layers, weights, used))
    w = np.where(used, weights, 0).astype(np.float64)
    np.testing.assert_allclose(result["weight"], w.sum(axis=0), rtol=1e-13)
    with np.errstate(invalid="ignore"):
        error = np.sqrt((w * w * variances).sum(axis=0)) / w.sum(axis=0)
    np.testing.assert_allclose(result["error"], error, rtol=1e-13)
    assert np.isnan(result["data"][0, 0])


def test_layers_weigh_the_same_without_weights(module: ModuleType) -> None:
    layers = _stack(8, 9, (4, 5))
    result = _combined(module, "clipped", layers, sigma=2, max_iterations=5)
    ones = np.ones_like(layers)
    same = _combined(module, "clipped", layers, ones, sigma=2, max_iterations=5)
    for name in ("data", "weight", "count", "used"):
        np.testing.assert_array_equal(result[name], same[name])
    np.testing.assert_array_equal(result["weight"], result["count"])
    assert np.isnan(result["error"]).all()  # it is not known without variances


def test_value_between_the_last_bounds_is_used_though_it_was_beyond_earlier_ones(
    module: ModuleType,
) -> None:
    values = [-37, 13, -27, 7, -7, 29, 6, -7, 24, -1, -13, -1, -1, 10, -5, 11, 2, 16, -9, -6]
    layers = np.array(values, np.float64).reshape(-1, 1, 1)
    left = layers  # rejected for good
    while True:
        reach = 1.5 * left.std()
        kept = left[np.abs(left - np.median(left)) <= reach]
        if len(kept) == len(left):
            break
        left = kept
    used = _astropy_used(layers, 1.5, 0)
    assert used.sum() > len(left)
    result = _combined(module, "clipped", layers, sigma=1.5, max_iterations=0)
    np.testing.assert_array_equal(result["used"], used)


def test_nothing_is_left_of_two_values_that_are_both_beyond_the_bounds(module: ModuleType) -> None:
    layers = np.array([0.0, 1.0]).reshape(2, 1, 1)
    assert not _astropy_used(layers, 0.5, 5).any()
    result = _combined(module, "clipped", layers, sigma=0.5, max_iterations=5)
    assert result["count"] == 0
    assert result["weight"] == 0
    assert np.isnan(result["data"])


def test_infinite_values_are_clipped(module: ModuleType) -> None:
    layers = np.array([[np.inf, 1], [3, -np.inf], [5, NAN], [-np.inf, np.inf]])[:, np.newaxis]
    layers = np.concatenate([layers, np.full((4, 1, 1), np.inf)], axis=2)
    result = _combined(module, "clipped", layers, sigma=3, max_iterations=5)
    np.testing.assert_array_equal(result["used"], _astropy_used(layers, 3, 5))
    np.testing.assert_array_equal(result["data"], [[4, 1, NAN]])


def test_deviation_that_overflows_clips_no_finite_value(module: ModuleType) -> None:
    layers = np.array([1e200, -1e200, 1.0, np.inf, -np.inf]).reshape(-1, 1, 1)
    result = _combined(module, "clipped", layers, sigma=3, max_iterations=5)
    np.testing.assert_array_equal(result["used"], _astropy_used(layers, 3, 5))
    assert result["count"] == 3


@pytest.mark.parametrize("sigma", [0, -1, NAN, np.inf])
def test_sigma_must_be_a_number_of_deviations(module: ModuleType, sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma is"):
        _combined(module, "clipped", np.ones((1, 1, 1)), sigma=sigma, max_iterations=5)


# --- both


@pytest.mark.parametrize("name", ["median", "clipped"])
def test_error_and_used_need_not_be_given(module: ModuleType, name: str) -> None:
    layers = _stack(9, 6, (5, 7))
    options: dict[str, Any] = {"sigma": 1, "max_iterations": 5} if name == "clipped" else {}
    expected = _combined(module, name, layers, None, layers, **options)
    data, weight, count = np.empty((5, 7)), np.empty((5, 7)), np.empty((5, 7), np.int32)
    getattr(module, name)(layers, None, None, data, weight, count, None, None, **options)
    np.testing.assert_array_equal(data, expected["data"])
    np.testing.assert_array_equal(weight, expected["weight"])
    np.testing.assert_array_equal(count, expected["count"])


@pytest.mark.parametrize("name", ["median", "clipped"])
@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_is_combined_to_nan(
    module: ModuleType, name: str, shape: tuple[int, int, int]
) -> None:
    options: dict[str, Any] = {"sigma": 3, "max_iterations": 5} if name == "clipped" else {}
    result = _combined(module, name, np.ones(shape), **options)
    assert np.isnan(result["data"]).all()
    assert not result["weight"].any()
    assert not result["count"].any()


def test_result_does_not_depend_on_how_many_rows_are_combined_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = _load("combining_numpy")
    layers = _stack(10, 6, (11, 7))
    options: dict[str, Any] = {"sigma": 1.5, "max_iterations": 5}
    expected = _combined(module, "clipped", layers, layers, layers, **options)
    monkeypatch.setattr(module, "_BLOCK", 3 * 6 * 7)  # three rows
    result = _combined(module, "clipped", layers, layers, layers, **options)
    for name, array in result.items():
        np.testing.assert_array_equal(array, expected[name])


float32s = st.floats(width=32, min_value=-1e9, max_value=1e9) | st.sampled_from([NAN, np.inf])
stacks = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=20).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(np.float32, shape, elements=float32s, fill=st.just(NAN)),
        st.none() | hnp.arrays(np.float32, shape, elements=st.floats(-1, 10, width=32)),
    )
)


@given(
    stack=stacks,
    variances=st.booleans(),
    dtype=st.sampled_from(["f4", "f8"]),
    sigma=st.floats(0.1, 5),
    max_iterations=st.integers(0, 5),
)
@example((np.full((3, 1, 1), 0.1, np.float32), None), False, "f8", 3.0, 0)
@settings(max_examples=40, deadline=None)
def test_twins_are_equal_to_the_bit(
    stack: tuple[Any, Any], variances: bool, dtype: str, sigma: float, max_iterations: int
) -> None:
    layers = stack[0].astype(dtype)
    weights = None if stack[1] is None else stack[1].astype(dtype)
    variance = np.abs(layers) if variances else None
    compiled, plain = (_load(name) for name in NAMES)
    for name, options in (
        ("median", {}),
        ("clipped", {"sigma": sigma, "max_iterations": max_iterations}),
    ):
        one = _combined(compiled, name, layers, weights, variance, **options)
        other = _combined(plain, name, layers, weights, variance, **options)
        for key, array in one.items():
            np.testing.assert_array_equal(array, other[key], err_msg=f"{name} {key}")


@given(values=ties, weights=tie_weights, order=st.permutations(range(5)))
@settings(max_examples=25, deadline=None)
def test_twins_add_the_same_and_count_the_same_in_any_order(
    values: Floats, weights: Floats, order: list[int]
) -> None:
    sums = np.zeros((3, 3, 2, 3))
    counts = np.zeros((3, 2, 3), np.int32)
    in_order = list(range(5))
    runs = [("combining", in_order), ("combining_numpy", in_order), ("combining_numpy", order)]
    for (name, layers), targets, count in zip(runs, sums, counts, strict=True):
        total, total_weight, total_variance = targets
        for i in layers:
            layer = values[i], weights[i], 0.1 * weights[i]
            _load(name).add(*layer, total, total_weight, count, total_variance)
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_array_equal(counts[0], counts[1])
    np.testing.assert_array_equal(counts[0], counts[2])
