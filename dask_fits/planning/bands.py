"""Bands: boxes of pixels that are read once and divided among the chunks that share their bytes.

Chunks that cut rows of pixels, or tiles of a compressed image, would fetch the same bytes again for
each of them. Here is found out along which grid to read instead. Pure.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dask_fits.planning.chunks import ReadCost
from dask_fits.ranges.byte_range import Coalescing

_SHORT = 4
"""A request is short where this many would not be worth the bytes that are read to spare one."""

_PACKED = 16
"""How many times smaller compressed pixels may well be than they are in memory."""

_SAMPLED = 1 << 16
"""Rows of pixels of a band that are looked at, to find out what reading it costs."""

_SAME = 1.001
"""Bytes a pixel that are as good as equal: at the ends of a read there is no gap to read over."""

Box = tuple[tuple[int, int], ...]
"""First and end position along each axis of a window, the end exclusive."""

Edges = tuple[tuple[int, ...], ...]
"""Where one part of a window ends and the next begins, along each axis: from 0 to its length."""


def hull(boxes: Iterable[Box]) -> Box:
    """Find the smallest box that holds all of these."""
    return tuple(
        (min(low for low, _ in spans), max(high for _, high in spans))
        for spans in zip(*boxes, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A box of an image, or every n-th pixel of it, in chunks. Positions in it count from 0."""

    axes: tuple[range, ...]
    """Indices along each axis of the image, NumPy order."""
    chunks: tuple[tuple[int, ...], ...]
    """Chunk lengths along each axis of the image."""
    kept: tuple[bool, ...]
    """Whether an axis is one of the array; else an integer took it away, and it has length 1."""

    @classmethod
    def whole(cls, chunks: tuple[tuple[int, ...], ...]) -> Window:
        """Take a whole image."""
        return cls(tuple(range(sum(part)) for part in chunks), chunks, (True,) * len(chunks))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length along each axis of the image."""
        return tuple(len(axis) for axis in self.axes)

    @property
    def longest(self) -> tuple[int, ...]:
        """Length of the longest chunk along each axis of the image."""
        return tuple(max(lengths) for lengths in self.chunks)

    def rechunk(self, chunks: Iterable[tuple[int, ...]]) -> Window:
        """Cut it into other chunks: lengths along each axis of the array."""
        given = iter(chunks)
        found = tuple(next(given) if kept else (1,) for kept in self.kept)
        return Window(self.axes, found, self.kept)

    def narrow(self, parts: Iterable[range], kept: Iterable[bool]) -> Window:
        """Take a part: positions along each axis of the array, and which of these it keeps.

        Chunks of which nothing is taken are left out, as Dask does when it takes a slice.
        """
        given, stays = iter(parts), iter(kept)
        axes, chunks, still = [], [], []
        for axis, lengths, was in zip(self.axes, self.chunks, self.kept, strict=True):
            part = next(given) if was else range(1)
            axes.append(axis[part.start : part.stop : part.step])
            chunks.append(lengths if len(part) == len(axis) else _counts(part, lengths))
            still.append(was and next(stays))
        return Window(tuple(axes), tuple(chunks), tuple(still))

    def indices(self, box: Box) -> tuple[range, ...]:
        """Find the indices of a box of the window, along each axis of the image."""
        return tuple(axis[low:high] for axis, (low, high) in zip(self.axes, box, strict=True))

    def key(self, box: Box) -> tuple[slice | int, ...]:
        """Make the image's key for a box of the window."""
        return tuple(
            slice(axis.start, axis.stop, axis.step) if kept else axis[0]
            for axis, kept in zip(self.indices(box), self.kept, strict=True)
        )

    def key_within(self, box: Box, outer: Box) -> tuple[slice, ...]:
        """Make the key for a box of the window of an array that holds another box of it."""
        return tuple(
            slice(low - first, high - first)
            for (low, high), (first, _), kept in zip(box, outer, self.kept, strict=True)
            if kept
        )


def _counts(part: range, lengths: tuple[int, ...]) -> tuple[int, ...]:
    stops = itertools.accumulate(lengths)
    reached = [0, *(bisect_left(part, stop) for stop in stops)]
    return tuple(b - a for a, b in itertools.pairwise(reached) if b > a) or (0,)


@dataclass(frozen=True, slots=True)
class Costs:
    """What reading pixels of an image costs."""

    estimate: Callable[[tuple[range, ...]], ReadCost]
    """Tells it of a box, as far as is known without reading anything."""
    itemsize: int
    """Bytes of a pixel in memory."""
    tile: tuple[int, ...]
    """Shape of what is decoded together, NumPy order: a tile, or one pixel."""
    limits: Coalescing
    """Which gaps are read over to spare a request."""

    @property
    def is_even(self) -> bool:
        """Whether it depends on a box's shape alone."""
        return all(length == 1 for length in self.tile)


@dataclass(frozen=True, slots=True)
class Bands:
    """Boxes that are read once, as a grid over a window of an image."""

    edges: Edges
    held: int
    """Bytes of pixels that a full read holds at once: of the bands that the largest chunk needs."""
    over_read: float
    """How often a full read fetches a byte, at most; 1.0 unless that would hold too much."""
    whole: int
    """Along how many of the last axes chunks have to reach from end to end to need no bands."""


def find_bands(window: Window, costs: Costs, *, limit: int, most: int) -> Bands | None:
    """Find bands for chunks that share bytes.

    Bands end where chunks do, or where the next tile does; along the last axes they reach from
    end to end. Of the last axes as few are taken as it needs to fetch every byte once, in requests
    that are worth their time.

    Parameters
    ----------
    window : Window
    costs : Costs
    limit : int
        Bytes of a band, unless it is a single tile or pixel: longer ones are cut.
    most : int
        Bytes that a full read may hold at once, where that can be had.

    Returns
    -------
    Bands or None
        None where chunks share nothing, and are best read each by itself.
    """
    if 0 in window.lengths or (costs.is_even and _are_runs(window)):
        return None
    own = tuple(map(_edges, window.chunks))
    aligned = tuple(map(_aligned, own, window.axes, costs.tile))
    levels = [_level(aligned, window, depth, costs) for depth in range(len(own))]
    least = min(level.each for level in levels)
    once = [depth for depth, level in enumerate(levels) if level.each <= least * _SAME]
    depth = _choose(levels, once, costs.limits.max_gap, most)
    if depth == 0 and aligned == own:
        return None
    return Bands(
        _divided(levels[depth].edges, window, costs, limit),
        levels[depth].held,
        1.0 if depth in once else levels[depth].each / least,
        _choose(levels, once, costs.limits.max_gap, math.inf),
    )


def uncut(window: Window, bands: Bands, costs: Costs) -> tuple[int, ...]:
    """Find chunks that need no bands, of about as many pixels as those that do."""
    longest = window.longest
    shape = [
        min(-(-length // part) * part, whole)
        for length, part, whole in zip(longest, costs.tile, window.lengths, strict=True)
    ]
    outer = len(shape) - bands.whole
    shape[outer:] = window.lengths[outer:]
    run = costs.itemsize * math.prod(shape[outer:])
    least = -(-costs.limits.max_gap // (_SHORT * run))  # along the axis that ends a run
    for axis in reversed(range(outer)):
        part = math.prod(longest) * shape[axis] // math.prod(shape)
        tile = costs.tile[axis]
        shape[axis] = min(shape[axis], max(part // tile * tile, tile, least))
        least = 1
    return tuple(shape)


def _are_runs(window: Window) -> bool:
    """Whether the pixels of each chunk follow one another in the window."""
    longest, outer = window.longest, len(window.axes)
    while outer and longest[outer - 1] == len(window.axes[outer - 1]):
        outer -= 1
    return all(length == 1 for length in longest[: max(outer - 1, 0)])


def _edges(lengths: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(itertools.accumulate(lengths, initial=0)))


def _aligned(edges: tuple[int, ...], axis: range, tile: int) -> tuple[int, ...]:
    """Move edges on to where the next tile begins."""
    if tile == 1:
        return edges
    moved = (_position(axis, (axis[edge - 1] // tile + 1) * tile) for edge in edges[1:])
    return (0, *dict.fromkeys(min(edge, len(axis)) for edge in moved))


def _position(axis: range, index: int) -> int:
    """Find the first position at which an axis has an index or more."""
    return -((axis.start - index) // axis.step)


@dataclass(frozen=True, slots=True)
class _Level:
    """Bands that reach from end to end along some of the last axes."""

    edges: Edges
    held: int
    each: float
    """Bytes that are fetched for a pixel, at most; of tiles: 1 if each is fetched once, else 2."""
    request: float
    """Bytes that a request fetches; infinite where there is one for a band."""


def _level(aligned: Edges, window: Window, depth: int, costs: Costs) -> _Level:
    outer = len(aligned) - depth
    edges = aligned[:outer] + tuple((0, len(axis)) for axis in window.axes[outer:])
    found = costs.estimate(window.indices(_sample(map(_longest, edges))))
    if costs.is_even:
        shapes = itertools.product(*({_shortest(part), _longest(part)} for part in edges))
        each = max(_each(window, _sample(shape), costs) for shape in shapes)
    else:
        limits = costs.limits
        gap = limits.max_gap if found.requests > limits.few else limits.small_gap
        each = 2.0 if found.requests > 1 and found.gap <= _PACKED * gap else 1.0
    return _Level(
        edges,
        costs.itemsize * math.prod(map(_reach, edges, window.chunks)),
        each,
        found.nbytes / found.requests if found.requests > 1 else math.inf,
    )


def _each(window: Window, box: Box, costs: Costs) -> float:
    pixels = math.prod(stop - start for start, stop in box)
    return costs.estimate(window.indices(box)).nbytes / pixels


def _sample(box: Iterable[tuple[int, int]]) -> Box:
    """Take a part of a box of very many rows, which tells as much as all of it."""
    found = list(box)
    rows = math.prod(stop - start for start, stop in found[:-1])
    for axis, (start, stop) in enumerate(found[:-1]):
        if rows > _SAMPLED:
            fewer = max((stop - start) * _SAMPLED // rows, 1)
            rows = rows // (stop - start) * fewer
            found[axis] = start, start + fewer
    return tuple(found)


def _shortest(edges: tuple[int, ...]) -> tuple[int, int]:
    return min(itertools.pairwise(edges), key=lambda part: part[1] - part[0])


def _longest(edges: tuple[int, ...]) -> tuple[int, int]:
    return max(itertools.pairwise(edges), key=lambda part: part[1] - part[0])


def _length(edges: tuple[int, ...]) -> int:
    start, stop = _longest(edges)
    return stop - start


def _reach(edges: tuple[int, ...], lengths: tuple[int, ...]) -> int:
    """Length along an axis of the bands that a chunk needs, at most."""
    return max(
        edges[bisect_left(edges, stop)] - edges[bisect_right(edges, start) - 1]
        for start, stop in itertools.pairwise(_edges(lengths))
    )


def _choose(levels: list[_Level], once: list[int], gap: int, most: float) -> int:
    """Choose along how many of the last axes bands reach from end to end.

    Of those levels that fetch every byte `once`, the first that holds no more than it may and makes
    no short requests.
    """
    fitting = [depth for depth in once if levels[depth].held <= most]
    if fitting:
        worth = (depth for depth in fitting if levels[depth].request * _SHORT >= gap)
        return next(worth, max(fitting, key=lambda depth: levels[depth].request))
    # A row of chunks may hold more; but rather than more rows, some bytes are fetched again.
    within = [depth for depth in range(2, once[0]) if levels[depth].held <= most]
    return min(once[0], max(within, default=1))


def _divided(edges: Edges, window: Window, costs: Costs, limit: int) -> Edges:
    """Cut bands along the first axes until each is within the limit."""
    found = list(edges)
    size = costs.itemsize * math.prod(map(_length, edges))
    for number, axis in enumerate(window.axes):
        if size <= limit:
            break
        inner = size // _length(found[number])
        found[number] = _cut(found[number], axis, costs.tile[number], max(limit // inner, 1))
        size = inner * _length(found[number])
    return tuple(found)


def _cut(edges: tuple[int, ...], axis: range, tile: int, most: int) -> tuple[int, ...]:
    """Cut an axis into parts of about the same length, between tiles."""
    found = [0]
    for start, stop in itertools.pairwise(edges):
        step = -(-(stop - start) // -(-(stop - start) // most))
        for position in range(start + step, stop, step):
            moved = _position(axis, axis[position] // tile * tile)
            if moved > found[-1]:
                found.append(moved)
        found.append(stop)
    return tuple(found)
