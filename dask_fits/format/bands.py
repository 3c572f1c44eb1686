"""Bands: boxes of an image that are read once and divided among the chunks that share their bytes.

Chunks that cut rows of pixels, or tiles of a compressed image, would fetch the same bytes again and
again. Here is found out which boxes to read instead, and what each chunk takes of them. Pure.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dask_fits.format.chunks import ReadCost

_SHORT = 4
"""A request for less than this part of the gap that is read over to spare one is a short one."""

_SAMPLED = 1 << 16
"""Rows of pixels of a chunk that are looked at, to find out what reading it costs."""

_SAME = 1.001
"""Bytes a pixel that are as good as equal: what lies between the runs of a read has two ends."""

Box = tuple[tuple[int, int], ...]
"""First and end position along each axis of a window, the end exclusive."""

Index = tuple[int, ...]
"""Position of a chunk in the grid of chunks."""

Cost = Callable[[tuple[range, ...]], ReadCost]
"""Tells what reading a box costs, as far as is known without reading anything."""


@dataclass(frozen=True, slots=True)
class Window:
    """A box of an image, or every n-th pixel of it, in chunks. Positions in it count from 0."""

    axes: tuple[range, ...]
    """Indices along each axis of the image, NumPy order."""
    chunks: tuple[tuple[int, ...], ...]
    """Chunk lengths along each axis of the image."""
    kept: tuple[bool, ...]
    """Whether an axis is one of the array; else it was indexed with an integer, and has length 1."""

    @classmethod
    def whole(cls, chunks: tuple[tuple[int, ...], ...]) -> Window:
        """Take a whole image."""
        return cls(tuple(range(sum(part)) for part in chunks), chunks, (True,) * len(chunks))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length along each axis of the image."""
        return tuple(len(axis) for axis in self.axes)

    def of_kept(self, items: Iterable[tuple[int, int]]) -> tuple[slice, ...]:
        """Make a key of the array of a first and an end along each axis of the image."""
        return tuple(slice(*item) for item, kept in zip(items, self.kept, strict=True) if kept)

    def narrow(self, axes: Iterable[range], kept: Iterable[bool]) -> Window:
        """Take a part: positions along each axis of the array, and whether the axis is kept."""
        parts = iter(zip(axes, kept, strict=True))
        narrowed = [
            (axis[part.start : part.stop : part.step], _counts(part, lengths), stays)
            if keeps
            else (axis, lengths, False)
            for axis, lengths, keeps in zip(self.axes, self.chunks, self.kept, strict=True)
            for part, stays in ([next(parts)] if keeps else [(range(1), False)])
        ]
        return Window(*(tuple(column) for column in zip(*narrowed, strict=True)))

    def indices(self, box: Box) -> tuple[range, ...]:
        """Find the indices of a box of the window, along each axis of the image."""
        return tuple(axis[low:high] for axis, (low, high) in zip(self.axes, box, strict=True))

    def key(self, box: Box) -> tuple[slice | int, ...]:
        """Make the image's key for a box of the window."""
        return tuple(
            slice(axis.start, axis.stop, axis.step) if kept else axis[0]
            for axis, kept in zip(self.indices(box), self.kept, strict=True)
        )


def _counts(part: range, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Count what each chunk holds of a selection, leaving out those that hold nothing."""
    stops = itertools.accumulate(lengths)
    reached = [0, *(bisect_left(part, stop) for stop in stops)]
    return tuple(b - a for a, b in itertools.pairwise(reached) if b > a) or (0,)


@dataclass(frozen=True, slots=True)
class Bands:
    """Boxes that are read once, as a grid over a window of an image."""

    edges: tuple[tuple[int, ...], ...]
    """Where one ends and the next begins, along each axis of the image: from 0 to its length."""
    held: int
    """Bytes of pixels that a full read holds at once: of the bands that the largest chunk needs."""
    over_read: float
    """How often a full read fetches a byte; 1.0 unless that would hold too much."""
    whole: int
    """Along how many of the last axes a chunk reaches from end to end that shares no byte."""
    is_even: bool
    """Whether what a box costs depends on its shape alone, as it does without tiles."""


def find_bands(
    window: Window,
    *,
    itemsize: int,
    tile: tuple[int, ...],
    cost: Cost,
    gap: int,
    limit: int,
    most: int,
) -> Bands | None:
    """Find bands for chunks that share bytes.

    Bands end where chunks do, or where the next tile does; along the last axes they reach from
    end to end. Of the last axes as few are taken as it needs to fetch every byte once, and in
    requests that are worth their time.

    Parameters
    ----------
    window : Window
    itemsize : int
        Bytes of a pixel in memory.
    tile : tuple of int
        Pixels that are decoded together, NumPy order; all 1 where an image is not compressed.
    cost : callable
    gap : int
        Bytes that are read over to spare a request.
    limit : int
        Bytes of a band, unless it is a single tile or pixel.
    most : int
        Bytes that a full read may hold at once, where that can be had.

    Returns
    -------
    Bands or None
        None where chunks share nothing, and are best read each by itself.
    """
    is_even = all(part == 1 for part in tile)
    if 0 in window.lengths or (is_even and _are_runs(window.chunks)):
        return None
    own = tuple(_edges(lengths) for lengths in window.chunks)
    aligned = tuple(map(_aligned, own, window.axes, tile))
    if aligned == own and not is_even:
        return None
    levels = [_level(aligned, window, depth, itemsize, cost, is_even) for depth in range(len(own))]
    least = min(level.each for level in levels)
    once = [depth for depth, level in enumerate(levels) if level.each <= least * _SAME]
    depth = _choose(levels, once, gap, most)
    if depth == 0 and is_even:
        return None
    return Bands(
        _divided(levels[depth].edges, window, tile, itemsize, limit),
        levels[depth].held,
        1.0 if depth in once else levels[depth].each / least,
        once[0],
        is_even,
    )


def uncut(window: Window, bands: Bands, tile: tuple[int, ...]) -> tuple[int, ...]:
    """Find chunks that share no bytes, of about as many pixels as those that do."""
    longest = [max(lengths) for lengths in window.chunks]
    shape = [
        min(-(-length // part) * part, whole)
        for length, part, whole in zip(longest, tile, window.lengths, strict=True)
    ]
    outer = len(shape) - bands.whole
    shape[outer:] = window.lengths[outer:]
    for axis in reversed(range(outer)):
        others = math.prod(shape) // shape[axis]
        part = math.prod(longest) // others // tile[axis] * tile[axis]
        shape[axis] = min(shape[axis], max(part, tile[axis]))
    return tuple(shape)


def _are_runs(chunks: tuple[tuple[int, ...], ...]) -> bool:
    """Whether the pixels of each chunk follow one another."""
    longest = [max(lengths) for lengths in chunks]
    outer = len(chunks)
    while outer and longest[outer - 1] == sum(chunks[outer - 1]):
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

    edges: tuple[tuple[int, ...], ...]
    held: int
    each: float
    """Bytes that are fetched for a pixel; of tiles, how often each is fetched: once."""
    request: float
    """Bytes that a request fetches; infinite where there is one for a band."""


def _level(
    aligned: tuple[tuple[int, ...], ...],
    window: Window,
    depth: int,
    itemsize: int,
    cost: Cost,
    is_even: bool,
) -> _Level:
    outer = len(aligned) - depth
    edges = aligned[:outer] + tuple((0, len(axis)) for axis in window.axes[outer:])
    sample = [_longest(part) for part in edges]
    rows = math.prod(stop - start for start, stop in sample[:-1])
    for axis, (start, stop) in enumerate(sample[:-1]):  # of very many rows, a part tells as much
        fewer = max((stop - start) * _SAMPLED // rows, 1) if rows > _SAMPLED else stop - start
        rows = rows // (stop - start) * fewer
        sample[axis] = start, start + fewer
    found = cost(window.indices(tuple(sample)))
    pixels = math.prod(stop - start for start, stop in sample)
    return _Level(
        edges,
        itemsize * math.prod(map(_reach, edges, window.chunks)),
        found.nbytes / pixels if is_even else 1.0,
        found.nbytes / found.requests if found.requests > 1 else math.inf,
    )


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


def _choose(levels: list[_Level], once: list[int], gap: int, most: int) -> int:
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


def _divided(
    edges: tuple[tuple[int, ...], ...],
    window: Window,
    tile: tuple[int, ...],
    itemsize: int,
    limit: int,
) -> tuple[tuple[int, ...], ...]:
    """Cut bands along the first axes until each is within the limit."""
    found = list(edges)
    size = itemsize * math.prod(_length(part) for part in edges)
    for number, axis in enumerate(window.axes):
        if size <= limit:
            break
        inner = size // _length(found[number])
        found[number] = _cut(found[number], axis, tile[number], max(limit // inner, 1))
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


@dataclass(frozen=True, slots=True)
class Part:
    """What a chunk takes of what is read."""

    source: Box
    """What is read."""
    box: Box
    """What of it belongs to the chunk."""


def divide(
    window: Window, bands: Bands | None, wanted: Iterable[Index], cost: Cost
) -> dict[Index, list[Part]]:
    """Find out what is read for some of a window's chunks.

    Of a band is read what lies between the chunks that are wanted, unless it is less to read each
    of them by itself: so a band is never read for a single chunk, and no read of some chunks
    fetches more than reading them one by one.

    Parameters
    ----------
    window : Window
    bands : Bands or None
        None where chunks share nothing.
    wanted : iterable of tuple of int
        Positions of chunks in the grid.
    cost : callable

    Returns
    -------
    dict
        The parts of which each chunk is made.
    """
    spans = [list(itertools.pairwise(itertools.accumulate(n, initial=0))) for n in window.chunks]
    own = {index: tuple(map(list.__getitem__, spans, index)) for index in wanted}
    if bands is None:
        return {index: [Part(box, box)] for index, box in own.items()}
    cells = [
        [_cells(edges, span) for span in part]
        for edges, part in zip(bands.edges, spans, strict=True)
    ]
    pieces = {index: _pieces(map(list.__getitem__, cells, index)) for index in own}
    members: defaultdict[Index, list[Box]] = defaultdict(list)
    for found in pieces.values():
        for band, box in found:
            members[band].append(box)
    read = _shared(window, bands, members, cost)
    return {
        index: [Part(read.get(band, box), box) for band, box in found]
        if any(band in read for band, _ in found)
        else [Part(own[index], own[index])]
        for index, found in pieces.items()
    }


_Cell = tuple[int, tuple[int, int]]
"""Number of a band along an axis, and first and end of what a chunk needs of it."""


def _cells(edges: tuple[int, ...], span: tuple[int, int]) -> list[_Cell]:
    """Cut a chunk where bands end, along an axis."""
    start, stop = span
    if start == stop:
        return []
    first, last = bisect_right(edges, start) - 1, bisect_left(edges, stop)
    return [
        (number, (max(start, edges[number]), min(stop, edges[number + 1])))
        for number in range(first, last)
    ]


def _pieces(cells: Iterable[list[_Cell]]) -> list[tuple[Index, Box]]:
    """Cut a chunk where bands end: which band, and what of it."""
    return [
        (tuple(number for number, _ in found), tuple(span for _, span in found))
        for found in itertools.product(*cells)
    ]


def _shared(
    window: Window, bands: Bands, members: dict[Index, list[Box]], cost: Cost
) -> dict[Index, Box]:
    """Find the bands of which a part is read for several chunks, and which part."""
    known: dict[object, int] = {}

    def nbytes(box: Box) -> int:
        shape = tuple(high - low for low, high in box) if bands.is_even else box
        if shape not in known:
            known[shape] = cost(window.indices(box)).nbytes
        return known[shape]

    found = {}
    for band, boxes in members.items():
        if len(boxes) > 1:
            hull = tuple(
                (min(low for low, _ in along), max(high for _, high in along))
                for along in zip(*boxes, strict=True)
            )
            if nbytes(hull) <= sum(map(nbytes, boxes)):
                found[band] = hull
    return found
