"""What the cost model says of latency and bandwidth, and what follows for what is fetched."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fits import CostModel, TransferConfig
from dask_fits.ranges.byte_range import Coalescing, coalesce_runs

KIB = 1024


def grouped(gaps: list[int], limits: Coalescing, nbytes: int = 80) -> list[int]:
    """Lengths of the groups of runs of `nbytes` bytes with these gaps between them."""
    starts = np.concatenate(([0], np.cumsum(np.array(gaps, np.int64) + nbytes)))
    return np.diff(coalesce_runs(starts, nbytes, limits)).tolist()


def test_the_defaults_are_the_documented_numbers() -> None:
    assert CostModel().coalescing == Coalescing(
        connections=16, small_gap=8 * KIB, max_gap=64 * KIB, max_bridged=8 * KIB * KIB
    )


def test_few_runs_are_fetched_as_they_are_and_many_are_joined() -> None:
    limits = CostModel().coalescing
    assert grouped([32 * KIB] * 15, limits) == [1] * 16
    assert grouped([32 * KIB] * 16, limits) == [17]
    assert grouped([8 * KIB] * 9, limits) == [10]
    assert grouped([8 * KIB + 1] * 9, limits) == [1] * 10
    assert grouped([64 * KIB] * 30, limits) == [31]
    assert grouped([64 * KIB + 1] * 30, limits) == [1] * 31


def cost(model: CostModel, ranges: int, nbytes: int) -> float:
    return model.latency * max(1, ranges / model.connections) + nbytes / model.bandwidth


@given(
    st.lists(st.integers(0, 200 * KIB), min_size=16, max_size=60),
    st.sampled_from([(0.03, 35e6, 16), (0.1, 5e6, 8), (0.002, 1e8, 4)]),
)
def test_of_many_runs_no_single_change_saves_more_than_the_rounding(
    gaps: list[int], numbers: tuple[float, float, int]
) -> None:
    """Joining two neighbours, or parting them at a gap, costs more or saves what rounding costs."""
    model = CostModel(latency=numbers[0], bandwidth=numbers[1], connections=numbers[2])
    limits = model.coalescing
    sizes = grouped(gaps, limits)
    if len(sizes) <= model.connections:
        return  # a request less saves nothing
    ends = np.cumsum(sizes)[:-1] - 1
    exact = model.latency * model.bandwidth / model.connections
    for index, gap in enumerate(gaps):
        if index in ends:
            assert gap > exact / 2
        else:
            assert gap <= exact


@pytest.mark.parametrize("connections", [1, 2, 5])
def test_few_runs_cost_no_more_apart_than_joined(connections: int) -> None:
    model = CostModel(connections=connections)
    for gaps in itertools.product((9 * KIB, 100 * KIB, 1 << 21), repeat=connections - 1):
        count = len(gaps) + 1
        joined = cost(model, 1, 80 * count + sum(gaps))
        assert cost(model, count, 80 * count) <= joined


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"latency": -1}, "latency: expected 0 or more seconds, found -1"),
        ({"latency": float("nan")}, "latency"),
        ({"bandwidth": 0}, "bandwidth: expected bytes a second, found 0"),
        ({"bandwidth": float("inf")}, "bandwidth"),
        ({"connections": 0}, "connections: expected 1 or more, found 0"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CostModel(**values)


def test_no_latency_means_that_nothing_is_read_over() -> None:
    limits = CostModel(latency=0).coalescing
    assert (limits.small_gap, limits.max_gap) == (0, 0)
    assert grouped([1] * 30, limits) == [1] * 31


def test_memory_is_bounded_however_slow_the_storage() -> None:
    assert CostModel(latency=60, bandwidth=1e9).coalescing.max_bridged == 64 << 20


def test_the_model_is_part_of_the_transfer() -> None:
    assert TransferConfig(cost=CostModel(latency=1)).cost.latency == 1
