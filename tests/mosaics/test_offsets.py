"""Offsets that make overlapping images match.

Expected values are the offsets that images were made with; np.median of each two images' common
points, one pair at a time; np.linalg.lstsq; and the connected components of scipy.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dask_fits import MissingDriverError
from dask_fits.mosaics import offsets as room
from dask_fits.mosaics.offsets import Pairs, Samples, pair_differences, solve_offsets

Array = npt.NDArray[np.float64]

SIDE = 12
"""Samples of an image along its sides, in `mosaic`."""

FEW = settings(max_examples=25, deadline=None)


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def mosaic(shape: tuple[int, int], step: int, noise: float = 0.0) -> tuple[list[Samples], Array]:
    """Images in rows and columns on one sky of whole numbers, and the offsets that were added."""
    rng = generator()
    height, width = ((count - 1) * step + SIDE for count in shape)
    sky = rng.integers(-500, 500, (height, width)).astype(float)
    true = rng.normal(scale=100, size=shape[0] * shape[1])
    grid = np.arange(height * width).reshape(height, width)
    samples = []
    for (row, column), offset in zip(np.ndindex(shape), true, strict=True):
        box = np.s_[row * step : row * step + SIDE, column * step : column * step + SIDE]
        values = sky[box] + offset + noise * rng.normal(size=(SIDE, SIDE))
        samples.append(Samples(grid[box].ravel(), values.ravel()))
    return samples, true


def strip(count: int, first: int = 0) -> tuple[list[Samples], Array]:
    """Images of 40 points, each 15 further than the one before, and their offsets."""
    rng = generator(count)
    sky = rng.normal(scale=1000, size=15 * count + 40)
    true = rng.normal(scale=100, size=count)
    return [
        Samples(np.arange(first + 15 * n, first + 15 * n + 40), sky[15 * n : 15 * n + 40] + true[n])
        for n in range(count)
    ], true


def centred(values: Array) -> Array:
    return np.asarray(values - values.mean())


def assert_same_bits(found: object, expected: object) -> None:
    for name in type(found).__dataclass_fields__:  # type: ignore[attr-defined]
        a, b = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        assert a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), name


def pairs_of(rows: list[tuple[int, int, float, int]]) -> Pairs:
    first, second, difference, shared = np.array(rows, float).reshape(-1, 4).T
    return Pairs(
        first.astype(np.int64),
        second.astype(np.int64),
        difference,
        shared.astype(np.int64),
        np.zeros(len(first)),
    )


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Pairs, int]:
    """Pairs among a few images, not all of which are connected, that contradict each other."""
    count = draw(st.integers(1, 12))
    possible = list(itertools.combinations(range(count), 2))
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    rng = generator(draw(st.integers(0, 1000)))
    rows = [(i, j, rng.normal(scale=10), int(rng.integers(1, 5000))) for i, j in sorted(chosen)]
    return pairs_of(rows), count


def groups_by_scipy(pairs: Pairs, count: int) -> npt.NDArray[np.int64]:
    edges = coo_array((np.ones(len(pairs)), (pairs.first, pairs.second)), shape=(count, count))
    labels = connected_components(edges, directed=False)[1]
    order = list(dict.fromkeys(labels.tolist()))
    return np.array([order.index(label) for label in labels], np.int64)


def offsets_by_lstsq(pairs: Pairs, count: int, reference: int | None) -> Array:
    """Solve the whole design matrix, with a row for each group that says what is zero."""
    groups = groups_by_scipy(pairs, count)
    design = np.zeros((len(pairs), count))
    design[np.arange(len(pairs)), pairs.first] = 1
    design[np.arange(len(pairs)), pairs.second] = -1
    gauge = (groups == np.arange(groups.max() + 1)[:, None]).astype(float)
    if reference is not None:
        gauge[groups[reference]] = np.arange(count) == reference
    weight = np.sqrt(pairs.shared)
    left = np.concatenate([design * weight[:, None], gauge])
    right = np.concatenate([pairs.difference * weight, np.zeros(len(gauge))])
    return np.asarray(np.linalg.lstsq(left, right)[0])


@st.composite
def sampled(draw: st.DrawFn) -> list[Samples]:
    """A few images of random points; ties, equal images and images of no points included."""
    rng = generator(draw(st.integers(0, 1000)))
    samples = []
    for _ in range(draw(st.integers(0, 8))):
        points = np.flatnonzero(rng.random(40) < draw(st.sampled_from([0.0, 0.2, 0.6, 1.0])))
        values = draw(st.sampled_from([rng.normal(size=40), rng.integers(0, 4, 40).astype(float)]))
        samples.append(Samples(points, values[points]))
    return samples


@FEW
@given(sampled(), st.integers(1, 20), st.sampled_from([1, 50, 10**6]))
def test_pairs_are_those_of_each_two_images_on_their_own(
    samples: list[Samples], minimum: int, records: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "RECORDS", records)
        found = pair_differences(samples, minimum=minimum)
    expected = []
    for i, j in itertools.combinations(range(len(samples)), 2):
        both, at_i, at_j = np.intersect1d(
            samples[i].points, samples[j].points, assume_unique=True, return_indices=True
        )
        if len(both) >= minimum:
            difference = samples[i].values[at_i] - samples[j].values[at_j]
            median = np.median(difference)
            scatter = 1.4826 * np.median(np.abs(difference - median))
            expected.append((i, j, median, len(both), scatter))
    columns = [found.first, found.second, found.difference, found.shared, found.scatter]
    np.testing.assert_array_equal(np.stack(columns, axis=1), np.reshape(expected, (-1, 5)))


def test_images_pair_from_eight_points_on() -> None:
    seven, eight = np.arange(7), np.arange(8)
    samples = [Samples(np.arange(20), np.zeros(20)), Samples(eight, np.ones(8))]
    samples.append(Samples(100 + seven, np.ones(7)))
    samples.append(Samples(np.concatenate([13 + seven, 100 + seven]), np.zeros(14)))
    found = pair_differences(samples)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])
    assert found.shared.tolist() == [8]
    assert len(pair_differences(samples, minimum=7)) == 3


@pytest.mark.parametrize("step", [6, 9])
def test_offsets_come_back(step: int) -> None:
    samples, true = mosaic((5, 7), step)
    found = solve_offsets(pair_differences(samples), len(samples))
    np.testing.assert_allclose(found.offsets, centred(true), rtol=0, atol=1e-10)
    assert found.residual_rms < 1e-10
    assert not found.group.any()


def test_images_minus_their_offsets_match() -> None:
    samples, _ = mosaic((3, 3), 7)
    found = solve_offsets(pair_differences(samples), len(samples))
    sky: dict[int, float] = {}
    for each, offset in zip(samples, found.offsets, strict=True):
        for point, value in zip(each.points.tolist(), each.values - offset, strict=True):
            assert sky.setdefault(point, value) == pytest.approx(value, abs=1e-9)


def test_noise_averages_out() -> None:
    noise = 3.0
    samples, true = mosaic((6, 6), 6, noise)
    pairs = pair_differences(samples)
    found = solve_offsets(pairs, len(samples))
    error = np.abs(found.offsets - centred(true)).max()
    assert 0 < error < 5 * noise / np.sqrt(pairs.shared.min())
    # Both images of a pair are noisy.
    assert np.median(pairs.scatter) == pytest.approx(noise * np.sqrt(2), rel=0.1)
    left = found.offsets[pairs.first] - found.offsets[pairs.second] - pairs.difference
    rms = np.sqrt((left**2 * pairs.shared).sum() / pairs.shared.sum())
    assert found.residual_rms == pytest.approx(rms)


def test_outliers_do_not_matter() -> None:
    samples, true = mosaic((4, 4), 6)
    rng = generator()
    starry = []
    for each in samples:
        stars = rng.random(len(each.points)) < 0.15
        starry.append(Samples(each.points, each.values + 1e5 * stars * rng.random(len(stars))))
    pairs = pair_differences(starry)
    found = solve_offsets(pairs, len(samples))
    np.testing.assert_allclose(found.offsets, centred(true), rtol=0, atol=1e-9)
    assert pairs.scatter.max() < 1e-9


def test_two_groups_and_an_image_on_its_own() -> None:
    one, one_true = strip(4)
    two, two_true = strip(3, first=10_000)
    alone = Samples(np.arange(5000, 5040), np.full(40, 7.0))
    none = Samples(np.empty(0, np.int64), np.empty(0))
    samples = [two[0], one[0], alone, one[1], two[1], none, one[2], two[2], one[3]]
    found = solve_offsets(pair_differences(samples), len(samples))
    assert found.group.tolist() == [0, 1, 2, 1, 0, 3, 1, 0, 1]
    np.testing.assert_allclose(found.offsets[[1, 3, 6, 8]], centred(one_true), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.offsets[[0, 4, 7]], centred(two_true), rtol=0, atol=1e-10)
    assert found.offsets[[2, 5]].tolist() == [0, 0]


@pytest.mark.parametrize("reference", [0, 2, 3])
def test_the_reference_stays_as_it_is(reference: int) -> None:
    one, one_true = strip(4)
    two, two_true = strip(3, first=10_000)
    found = solve_offsets(pair_differences(one + two), 7, reference)
    assert found.offsets[reference] == 0
    expected = one_true - one_true[reference]
    np.testing.assert_allclose(found.offsets[:4], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.offsets[4:], centred(two_true), rtol=0, atol=1e-10)


def test_a_reference_without_a_pair_changes_nothing() -> None:
    samples, _ = strip(4)
    samples.append(Samples(np.arange(5000, 5040), np.zeros(40)))
    pairs = pair_differences(samples)
    assert_same_bits(solve_offsets(pairs, 5, 4), solve_offsets(pairs, 5))


@FEW
@given(graphs(), st.data())
def test_offsets_are_those_of_least_squares(graph: tuple[Pairs, int], data: st.DataObject) -> None:
    pairs, count = graph
    reference = data.draw(st.none() | st.integers(0, count - 1))
    expected = offsets_by_lstsq(pairs, count, reference)
    for dense in (0, 2000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "DENSE_IMAGES", dense)
            found = solve_offsets(pairs, count, reference)
        np.testing.assert_allclose(found.offsets, expected, rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.group, groups_by_scipy(pairs, count))


@pytest.mark.parametrize("seed", range(3))
def test_groups_of_many_images_in_no_order(seed: int) -> None:
    rng = generator(seed)
    ends = np.sort(rng.integers(0, 3000, (2200, 2)), axis=1)
    ends = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0)
    pairs = pairs_of([(i, j, 0.0, 10) for i, j in ends.tolist()])
    found = solve_offsets(pairs, 3000)
    np.testing.assert_array_equal(found.group, groups_by_scipy(pairs, 3000))


def test_a_sparse_matrix_gives_what_a_dense_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = mosaic((12, 12), 6, noise=3.0)
    pairs = pair_differences(samples)
    dense = solve_offsets(pairs, len(samples))
    monkeypatch.setattr(room, "DENSE_IMAGES", len(samples) - 1)
    sparse = solve_offsets(pairs, len(samples))
    np.testing.assert_allclose(sparse.offsets, dense.offsets, rtol=0, atol=1e-11)
    assert sparse.residual_rms == pytest.approx(dense.residual_rms, rel=1e-12)


@pytest.mark.parametrize("dense", [0, 2000])
def test_a_repeat_gives_the_same_bits(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "DENSE_IMAGES", dense)
    samples, _ = mosaic((8, 8), 6, noise=3.0)
    pairs = pair_differences(samples)
    first = solve_offsets(pairs, len(samples))
    for _ in range(3):
        assert_same_bits(pair_differences(samples), pairs)
        assert_same_bits(solve_offsets(pairs, len(samples)), first)


def test_how_many_are_compared_at_once_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = mosaic((5, 5), 6, noise=3.0)
    pairs = pair_differences(samples)
    for records in (1, 100, 1000):
        monkeypatch.setattr(room, "RECORDS", records)
        assert_same_bits(pair_differences(samples), pairs)


def test_no_more_are_compared_at_once_unless_by_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RECORDS", 10)
    blocks = room._blocks(np.array([4, 6, 1, 25, 0, 3, 7, 0, 1]))
    runs = [(block.start, block.stop) for block in blocks]
    assert runs == [(0, 2), (2, 3), (3, 4), (4, 8), (8, 9)]


def test_the_order_of_images_does_not_matter() -> None:
    samples, _ = mosaic((6, 6), 6, noise=3.0)
    pairs = pair_differences(samples)
    found = solve_offsets(pairs, len(samples))
    order = generator().permutation(len(samples))
    shuffled_pairs = pair_differences([samples[n] for n in order])
    shuffled = solve_offsets(shuffled_pairs, len(samples))
    np.testing.assert_allclose(shuffled.offsets, found.offsets[order], rtol=0, atol=1e-11)
    # Each pair is the same to the bit, but for the sign where its images changed places.
    rows = zip(shuffled_pairs.first, shuffled_pairs.second, shuffled_pairs.difference, strict=True)
    signed = {(order[i], order[j]): d for i, j, d in rows}
    signed |= {(j, i): -d for (i, j), d in signed.items()}
    for i, j, d in zip(pairs.first, pairs.second, pairs.difference, strict=True):
        assert signed[i, j] == d


def test_thousands_of_images_in_a_strip() -> None:
    samples, true = strip(3000)
    pairs = pair_differences(samples)
    assert len(pairs) == 2999 + 2998
    found = solve_offsets(pairs, len(samples))
    # Rounding adds up along a chain, but not to more than this.
    np.testing.assert_allclose(found.offsets, centred(true), rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_without_pairs_nothing_is_subtracted(count: int) -> None:
    pairs = pair_differences([Samples(np.empty(0, np.int64), np.empty(0))] * count)
    found = solve_offsets(pairs, count)
    assert found.offsets.tolist() == [0] * count
    assert found.group.tolist() == list(range(count))
    assert found.residual_rms == 0


def test_what_goes_in_stays_as_it_is() -> None:
    samples, _ = mosaic((3, 3), 6, noise=3.0)
    for each in samples:
        each.points.flags.writeable = False
        each.values.flags.writeable = False
    pairs = pair_differences(samples)
    for column in (pairs.first, pairs.second, pairs.difference, pairs.shared):
        column.flags.writeable = False
    solve_offsets(pairs, len(samples), 0)


def test_many_images_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = strip(4)
    pairs = pair_differences(samples)
    monkeypatch.setitem(sys.modules, "scipy", None)
    solve_offsets(pairs, 4)
    monkeypatch.setattr(room, "DENSE_IMAGES", 3)
    with pytest.raises(MissingDriverError, match=r"pip install 'dask_fits\[mosaics\]'"):
        solve_offsets(pairs, 4)


def test_samples_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="as many values as points"):
        Samples(np.arange(3), np.zeros(2))
    for points in ([0, 2, 1], [0, 1, 1]):
        with pytest.raises(ValueError, match="ascend"):
            Samples(np.array(points), np.zeros(3))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="finite"):
            Samples(np.arange(1), np.array([value]))


def test_arguments_that_make_no_sense_are_refused() -> None:
    pairs = pairs_of([(0, 1, 1.0, 9)])
    with pytest.raises(ValueError, match="minimum: expected at least 1, found 0"):
        pair_differences([], minimum=0)
    for reference in (-1, 2):
        with pytest.raises(ValueError, match=f"from 0 to 1, found {reference}"):
            solve_offsets(pairs, 2, reference)
    with pytest.raises(ValueError, match="from 0 to 0"):
        solve_offsets(pairs, 1)
    with pytest.raises(ValueError, match="without"):
        solve_offsets(pairs_of([(0, 1, 1.0, 0)]), 2)
