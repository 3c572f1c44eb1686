"""The constants to subtract from overlapping images so that their backgrounds match. Pure.

Images are sampled at the points of a coarse grid that they have in common::

    point     0 1 2 3 4 5 6 7 8 9
    image 0   . . . . .                pair  0, 1    points 3 and 4
    image 1         . . . . .          pair  1, 2    points 5, 6 and 7
    image 2             . . . . .

A pair of images differs by the median over the points that both have, on which stars and other
outliers have next to no effect. The offsets are those whose differences fit the pairs' best. Pairs
say nothing about a constant that is added to all images of a group, so that is a convention.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.exceptions import needs

Floats = npt.NDArray[np.float64]

MINIMUM = 8
"""Points that two images must share to be a pair."""

DENSE_IMAGES = 2000
"""Images of the largest group that is solved as a dense matrix (32 MB)."""

RECORDS = 2_000_000
"""Shared points of pairs that are compared at once, unless a single image has more."""

_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution, in median absolute deviations (MAD)."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """The background of an image at points of the common grid.

    Raises
    ------
    ValueError
        The arrays do not go together, the points do not ascend, or a value is not finite.
    """

    points: Integers
    """(n,): numbers of the points of the grid, ascending, each once."""
    values: Floats
    """(n,): the image there, finite."""

    def __post_init__(self) -> None:
        if self.points.ndim != 1 or self.points.shape != self.values.shape:
            raise ValueError(
                f"samples: expected as many values as points, found {self.values.shape} values "
                f"and {self.points.shape} points"
            )
        if (self.points[1:] <= self.points[:-1]).any():
            raise ValueError("samples: expected points that ascend, each once")
        if not np.isfinite(self.values).all():
            raise ValueError("samples: expected finite values")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of images that overlap, ascending by `first`, then by `second`."""

    first: Integers
    """(m,): number of the first image of each."""
    second: Integers
    """(m,): number of the second, greater than the first."""
    difference: Floats
    """(m,): median of the first image minus the second, over the points that both have."""
    shared: Integers
    """(m,): number of those points, at least one."""
    scatter: Floats
    """(m,): robust standard deviation of the differences at the points, 1.4826 times the MAD."""

    def __len__(self) -> int:
        return len(self.first)

    def take(self, numbers: Integers) -> Pairs:
        """Pick the pairs of these numbers."""
        return Pairs(
            self.first[numbers],
            self.second[numbers],
            self.difference[numbers],
            self.shared[numbers],
            self.scatter[numbers],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Offsets:
    """What to subtract from each image."""

    offsets: Floats
    """(n,): an image minus its offset matches those that it is connected to."""
    group: Integers
    """(n,): number of the group of each image. Images are in one group if pairs lead from one to
    the other; groups are numbered in the order of their first images."""
    residual_rms: float
    """Root mean square, weighted by shared points, of what the offsets leave of the differences;
    0 if there are no pairs."""


def pair_differences(samples: Sequence[Samples], *, minimum: int = MINIMUM) -> Pairs:
    """Compare each two images that overlap.

    Time and memory grow with the points that pairs share, not with the number of possible pairs.

    Parameters
    ----------
    samples : sequence of Samples
        Those of each image.
    minimum : int
        Points that two images must share to be a pair.

    Returns
    -------
    Pairs
        Exchanging two images changes the sign of their difference, and no bit besides.

    Raises
    ------
    ValueError
        `minimum` is less than 1.
    """
    if minimum < 1:
        raise ValueError(f"minimum: expected at least 1, found {minimum}")
    meetings = _Meetings.of(samples)
    found = [_compare(meetings, block, minimum) for block in _blocks(meetings.partners_of_images)]
    return Pairs(
        first=np.concatenate([pairs.first for pairs in found]),
        second=np.concatenate([pairs.second for pairs in found]),
        difference=np.concatenate([pairs.difference for pairs in found]),
        shared=np.concatenate([pairs.shared for pairs in found]),
        scatter=np.concatenate([pairs.scatter for pairs in found]),
    )


def solve_offsets(pairs: Pairs, count: int, reference: int | None = None) -> Offsets:
    """Find the offsets whose differences fit those of pairs best.

    These minimise the sum, over pairs, of the number of shared points times the square of
    ``offsets[first] - offsets[second] - difference``. The offsets of a group have a sum of zero; if
    it holds the reference, that of the reference is zero. An image without a pair is a group of its
    own, with offset zero.

    Parameters
    ----------
    pairs : Pairs
    count : int
        Number of images.
    reference : int, optional
        Number, from 0, of the image that stays as it is.

    Returns
    -------
    Offsets
        The same bits each time, given the same libraries and threads of linear algebra.

    Raises
    ------
    ValueError
        An image of a pair, or the reference, is none of `count`; or a pair shares no point.
    MissingDriverError
        A group has more than 2,000 images, and SciPy is not installed.
    """
    _check(pairs, count, reference)
    group = _connect(pairs, count)
    offsets = np.zeros(count)
    for members, own in _split(pairs, group):
        offsets[members] = _solve_group(members, own)
    if reference is not None:
        offsets[group == group[reference]] -= offsets[reference]
    left = offsets[pairs.first] - offsets[pairs.second] - pairs.difference
    rms = float(np.sqrt(np.average(left**2, weights=pairs.shared))) if len(pairs) else 0.0
    return Offsets(offsets, group, rms)


@dataclass(frozen=True, slots=True, eq=False)
class _Meetings:
    """All samples of all images, point after point; at each point, image after image.

    The images that a sample's image meets at its point, among those that come after it, are the
    samples that follow until the point's end: its partners.
    """

    image: Integers
    """(n,): number of the image of each sample."""
    value: Floats
    """(n,): its value."""
    partners: Integers
    """(n,): number of its partners."""
    position: Integers
    """(n,): where the samples of the first image are, then those of the second, and so on."""
    bounds: Integers
    """(images + 1,): the samples of image ``i`` are at ``position[bounds[i]:bounds[i + 1]]``."""

    @classmethod
    def of(cls, samples: Sequence[Samples]) -> _Meetings:
        lengths = np.array([len(each.points) for each in samples], np.int64)
        bounds = np.concatenate(([0], np.cumsum(lengths)))
        points = np.concatenate([np.empty(0, np.int64), *(each.points for each in samples)])
        # It is stable: at each point the images stay in their order.
        order = np.argsort(points, kind="stable")
        points = points[order]
        image = np.repeat(np.arange(len(samples)), lengths)[order]
        value = np.concatenate([np.empty(0), *(each.values for each in samples)])[order]
        is_last = np.append(points[1:] != points[:-1], True)[: len(points)]
        ends = np.flatnonzero(is_last)
        sizes = np.diff(ends, prepend=-1)
        partners = np.repeat(ends, sizes) - np.arange(len(points))
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return cls(image, value, partners, position, bounds)

    @property
    def partners_of_images(self) -> Integers:
        """Number of the partners of all samples of each image."""
        total = np.concatenate(([0], np.cumsum(self.partners[self.position])))
        return np.diff(total[self.bounds])


def _blocks(records: Integers) -> Iterator[slice]:
    """Cut images into runs that have no more than `RECORDS` records, or are one image.

    All records of a pair are those of its first image, hence in one run. There is at least one run.
    """
    total = np.cumsum(records)
    start, before = 0, 0
    while True:
        fitting = int(np.searchsorted(total, before + RECORDS, side="right"))
        stop = min(max(fitting, start + 1), len(records))
        yield slice(start, stop)
        if stop == len(records):
            return
        start, before = stop, int(total[stop - 1])


def _compare(meetings: _Meetings, images: slice, minimum: int) -> Pairs:
    """Compare a run of images with those that come after each."""
    own = meetings.position[meetings.bounds[images.start] : meetings.bounds[images.stop]]
    partners = meetings.partners[own]
    left = np.repeat(own, partners)
    # Count from 1 anew after each sample.
    begins = np.repeat(np.cumsum(partners) - partners, partners)
    right = left + np.arange(1, len(left) + 1) - begins
    count = len(meetings.bounds) - 1
    pair = meetings.image[left] * count + meetings.image[right]
    difference = meetings.value[left] - meetings.value[right]
    number, which, shared = np.unique(pair, return_inverse=True, return_counts=True)
    is_pair = shared >= minimum
    kept = is_pair[which]
    # Numbered anew, without those that share too little.
    which = (np.cumsum(is_pair) - 1)[which[kept]]
    number, shared, difference = number[is_pair], shared[is_pair], difference[kept]
    median = _medians(difference, which, shared)
    deviation = _medians(np.abs(difference - median[which]), which, shared)
    return Pairs(number // count, number % count, median, shared, _TO_SIGMA * deviation)


def _medians(values: Floats, which: Integers, counts: Integers) -> Floats:
    """Compute medians of the values of each pair.

    Parameters
    ----------
    values : (n,) array
    which : (n,) array
        Number of the pair of each value.
    counts : (m,) array
        Number of values of each pair, at least one.
    """
    ordered = values[np.lexsort((values, which))]
    begins = np.cumsum(counts) - counts
    low, high = ordered[begins + (counts - 1) // 2], ordered[begins + counts // 2]
    return np.asarray((low + high) / 2)


def _check(pairs: Pairs, count: int, reference: int | None) -> None:
    """Raise ValueError if images are none of `count`, or pairs share no point."""
    images = np.concatenate([pairs.first, pairs.second])
    if ((images < 0) | (images >= count)).any():
        raise ValueError(f"pairs: expected images from 0 to {count - 1}, found others")
    if (pairs.shared < 1).any():
        raise ValueError("pairs: expected shared points, found a pair without")
    if reference is not None and not 0 <= reference < count:
        raise ValueError(f"reference: expected an image from 0 to {count - 1}, found {reference}")


def _connect(pairs: Pairs, count: int) -> Integers:
    """Find the group of each image, numbered in the order of their first images."""
    root = np.arange(count)
    while True:
        ends = root[pairs.first], root[pairs.second]
        low, high = np.minimum(*ends), np.maximum(*ends)
        if np.array_equal(low, high):
            return np.asarray(np.unique(root, return_inverse=True)[1], np.int64)
        # A root goes below the lowest of its neighbours; all that hang from it follow.
        np.minimum.at(root, high, low)
        while not np.array_equal(above := root[root], root):
            root = above


def _split(pairs: Pairs, group: Integers) -> Iterator[tuple[Integers, Pairs]]:
    """Yield, of each group of several images, their numbers and the pairs."""
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    group_of_pair = group[pairs.first]
    pair_order = np.argsort(group_of_pair, kind="stable")
    pair_counts = np.bincount(group_of_pair, minlength=len(sizes))
    ends, pair_ends = np.cumsum(sizes), np.cumsum(pair_counts)
    for each in np.flatnonzero(pair_counts):
        members = order[ends[each] - sizes[each] : ends[each]]
        numbers = pair_order[pair_ends[each] - pair_counts[each] : pair_ends[each]]
        yield members, pairs.take(numbers)


def _solve_group(members: Integers, pairs: Pairs) -> Floats:
    """Find the offsets of the images of a group, whose sum is zero.

    Parameters
    ----------
    members : (n,) array
        Numbers of the images, ascending.
    pairs : Pairs
        All pairs of them.
    """
    first, second = np.searchsorted(members, pairs.first), np.searchsorted(members, pairs.second)
    weight = pairs.shared.astype(np.float64)
    solve = _solve_dense if len(members) <= DENSE_IMAGES else _solve_sparse
    # With the offset of the first image kept at 0, the rest has one solution.
    offsets = np.zeros(len(members))
    for _ in range(2):
        # The second time makes good what rounding did to a long chain of images.
        left = weight * (pairs.difference - (offsets[first] - offsets[second]))
        pull = np.bincount(first, left, len(members)) - np.bincount(second, left, len(members))
        offsets[1:] += solve(first, second, weight, np.asarray(pull, np.float64))
    return np.asarray(offsets - offsets.mean())


def _solve_dense(first: Integers, second: Integers, weight: Floats, pull: Floats) -> Floats:
    """Solve the normal equations for all images of a group but its first.

    Parameters
    ----------
    first, second : (m,) array
        Images of each pair, numbered within the group.
    weight : (m,) array
    pull : (n,) array
        Right side of the equations, an image each.

    Returns
    -------
    (n - 1,) array
    """
    matrix = np.diag(_diagonal(first, second, weight, len(pull)))
    np.subtract.at(matrix, (first, second), weight)
    np.subtract.at(matrix, (second, first), weight)
    return np.asarray(np.linalg.solve(matrix[1:, 1:], pull[1:]), np.float64)


def _solve_sparse(first: Integers, second: Integers, weight: Floats, pull: Floats) -> Floats:
    """Solve the same as `_solve_dense`, by SciPy, in memory that grows with the pairs."""
    with needs("scipy", extra="mosaics"):
        from scipy import sparse
        from scipy.sparse import linalg
    count = len(pull)
    every = np.arange(count)
    values = np.concatenate([_diagonal(first, second, weight, count), -weight, -weight])
    rows = np.concatenate([every, first, second])
    columns = np.concatenate([every, second, first])
    matrix = sparse.csc_array((values, (rows, columns)), shape=(count, count))[1:, 1:]
    # The order for a symmetric matrix; and the same solver whatever else is installed.
    return np.asarray(
        linalg.spsolve(matrix, pull[1:], permc_spec="MMD_AT_PLUS_A", use_umfpack=False)
    )


def _diagonal(first: Integers, second: Integers, weight: Floats, count: int) -> Floats:
    """Return the sum of the weights of each image's pairs."""
    return np.asarray(np.bincount(first, weight, count) + np.bincount(second, weight, count))
