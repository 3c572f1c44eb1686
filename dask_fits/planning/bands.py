"""Bands: boxes of pixels that are read once and divided among the chunks that share their bytes.

Chunks that cut rows of pixels, or tiles of a compressed image, would fetch the same bytes again for
each of them. This module finds a coarser grid to read along. Pure.

A *window* is the part of an image that an array shows, every n-th pixel or all. Boxes and edges are
positions in the window, which count from 0; the file is read by indices of the image::

    image index   100  101  102  103  104  105  106        axis range: range(101, 106, 2)
    position             0         1         2
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
"""A request is short if this many times its bytes are less than the largest gap read over."""

_PACKED = 16
"""Factor by which compressed pixels may well be smaller than they are in memory."""

_SAMPLED = 1 << 16
"""Rows of pixels of a band that are sampled, to find out what reading it costs."""

_SAME = 1.001
"""Ratio of bytes per pixel that count as equal: at the ends of a read no gap is read over."""

Box = tuple[tuple[int, int], ...]
"""First and end position along each axis of a window, the end exclusive."""

Edges = tuple[tuple[int, ...], ...]
"""Positions at which parts of a window begin and end, along each axis: from 0 to its length."""


def bounding_box(boxes: Iterable[Box]) -> Box:
    """Find the smallest box that holds all of these."""
    return tuple(
        (min(low for low, _ in spans), max(high for _, high in spans))
        for spans in zip(*boxes, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Window:
    """A box of an image, or every n-th pixel of it, in chunks. Positions in it count from 0."""

    axis_ranges: tuple[range, ...]
    """Indices along each axis of the image, NumPy order."""
    chunks: tuple[tuple[int, ...], ...]
    """Chunk lengths along each axis of the image."""
    kept: tuple[bool, ...]
    """Whether the array has each axis of the image; an integer drops it, and its length is 1."""

    @classmethod
    def whole(cls, chunks: tuple[tuple[int, ...], ...]) -> Window:
        """Take a whole image."""
        return cls(tuple(range(sum(lengths)) for lengths in chunks), chunks, (True,) * len(chunks))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Length along each axis of the image."""
        return tuple(len(axis) for axis in self.axis_ranges)

    @property
    def longest(self) -> tuple[int, ...]:
        """Length of the longest chunk along each axis of the image."""
        return tuple(max(lengths) for lengths in self.chunks)

    def rechunk(self, chunks: Iterable[tuple[int, ...]]) -> Window:
        """Cut it into other chunks: lengths along each axis of the array."""
        array_chunks = iter(chunks)
        image_chunks = tuple(next(array_chunks) if kept else (1,) for kept in self.kept)
        return Window(self.axis_ranges, image_chunks, self.kept)

    def narrow(self, parts: Iterable[range], kept: Iterable[bool]) -> Window:
        """Take a part: positions along each axis of the array, and which of these it keeps.

        Chunks of which nothing is taken are left out, as Dask does when it takes a slice.
        """
        array_parts = iter(parts)
        array_kept = iter(kept)
        axis_ranges: list[range] = []
        chunks: list[tuple[int, ...]] = []
        still_kept: list[bool] = []
        for axis, lengths, was_kept in zip(self.axis_ranges, self.chunks, self.kept, strict=True):
            part = next(array_parts) if was_kept else range(1)
            axis_ranges.append(axis[part.start : part.stop : part.step])
            chunks.append(lengths if len(part) == len(axis) else _count_taken(part, lengths))
            still_kept.append(was_kept and next(array_kept))
        return Window(tuple(axis_ranges), tuple(chunks), tuple(still_kept))

    def indices(self, box: Box) -> tuple[range, ...]:
        """Find the indices of a box of the window, along each axis of the image."""
        return tuple(
            axis[low:high] for axis, (low, high) in zip(self.axis_ranges, box, strict=True)
        )

    def key(self, box: Box) -> tuple[slice | int, ...]:
        """Return the key of a box of the window, for the image."""
        return tuple(
            slice(axis.start, axis.stop, axis.step) if kept else axis[0]
            for axis, kept in zip(self.indices(box), self.kept, strict=True)
        )

    def key_within(self, box: Box, outer: Box) -> tuple[slice, ...]:
        """Return the key of a box of the window, for the array of a box around it."""
        return tuple(
            slice(low - first, high - first)
            for (low, high), (first, _), kept in zip(box, outer, self.kept, strict=True)
            if kept
        )


def spans_of(chunks: Iterable[tuple[int, ...]]) -> list[list[tuple[int, int]]]:
    """List where chunks begin and end along each axis, by their lengths."""
    return [list(itertools.pairwise(itertools.accumulate(along, initial=0))) for along in chunks]


def _count_taken(part: range, lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Count the positions that are taken of each chunk; chunks without any are left out."""
    stops = itertools.accumulate(lengths)
    reached = [0, *(bisect_left(part, stop) for stop in stops)]
    return tuple(high - low for low, high in itertools.pairwise(reached) if high > low) or (0,)


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of reading pixels of an image."""

    estimate: Callable[[tuple[range, ...]], ReadCost]
    """Returns the cost of reading a box, as far as it is known without reading anything."""
    itemsize: int
    """Bytes of a pixel in memory."""
    tile: tuple[int, ...]
    """Shape of the block that is decoded as a unit, NumPy order: a tile, or one pixel."""
    limits: Coalescing
    """The gaps that are read over to spare a request."""
    is_sequential: bool = False
    """Whether each read takes all of the file, which is compressed as a whole."""

    @property
    def is_even(self) -> bool:
        """Whether the cost of a box depends on its shape alone."""
        return all(length == 1 for length in self.tile)


@dataclass(frozen=True, slots=True)
class Bands:
    """Boxes that are read once, as a grid over a window of an image."""

    edges: Edges
    held: int
    """Bytes of pixels that a full read holds at once: of the bands that the largest chunk needs."""
    over_read: float
    """Times that a full read fetches a byte, at most; 1.0 unless that would hold too much."""
    full_axes: int
    """Number of last axes along which chunks must reach from end to end to need no bands."""


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
        Bytes that a full read may hold at once, if bands of so few exist.

    Returns
    -------
    Bands or None
        None if chunks share nothing, and are best read each by itself.
    """
    if 0 in window.lengths:
        return None
    if costs.is_sequential:
        return _whole_band(window, costs)
    if costs.is_even and _are_contiguous(window):
        return None
    chunk_edges = tuple(map(_chunk_edges, window.chunks))
    # A tile that a chunk cuts is decoded once: with the band of the chunk that it begins in.
    tile_edges = tuple(map(_align_edges, chunk_edges, window.axis_ranges, costs.tile))
    levels = [
        _plan_level(tile_edges, window, depth, costs) for depth in range(len(window.axis_ranges))
    ]
    least = min(level.bytes_per_pixel for level in levels)
    once = [depth for depth, level in enumerate(levels) if level.bytes_per_pixel <= least * _SAME]
    depth = _choose_depth(levels, once, costs.limits.max_gap, most)
    if depth == 0 and tile_edges == chunk_edges:
        return None
    return Bands(
        edges=_cut_bands(levels[depth].edges, window, costs, limit),
        held=levels[depth].held,
        over_read=1.0 if depth in once else levels[depth].bytes_per_pixel / least,
        full_axes=_choose_depth(levels, once, costs.limits.max_gap, math.inf),
    )


def _whole_band(window: Window, costs: Costs) -> Bands | None:
    """Return the one band of a file that is read as a whole; None if there is one chunk."""
    if window.longest == window.lengths:
        return None
    return Bands(
        edges=tuple((0, length) for length in window.lengths),
        held=costs.itemsize * math.prod(window.lengths),
        over_read=1.0,
        full_axes=len(window.lengths),
    )


def suggest_chunk_shape(window: Window, bands: Bands, costs: Costs) -> tuple[int, ...]:
    """Find the shape of chunks that need no bands, of about as many pixels as those that do."""
    longest = window.longest
    # Whole tiles, and the last axes from end to end.
    shape = [
        min(-(-length // tile) * tile, whole)
        for length, tile, whole in zip(longest, costs.tile, window.lengths, strict=True)
    ]
    outer = len(shape) - bands.full_axes
    shape[outer:] = window.lengths[outer:]
    # The axis before them ends a run of bytes: there a chunk must not make short requests.
    run_bytes = costs.itemsize * math.prod(shape[outer:])
    shortest = -(-costs.limits.max_gap // (_SHORT * run_bytes))
    # The other axes make room for what was added, the next one first.
    for axis in reversed(range(outer)):
        length = math.prod(longest) * shape[axis] // math.prod(shape)
        tile = costs.tile[axis]
        shape[axis] = min(shape[axis], max(length // tile * tile, tile, shortest))
        shortest = 1
    return tuple(shape)


def _are_contiguous(window: Window) -> bool:
    """Return whether the pixels of each chunk follow one another in the window."""
    longest = window.longest
    outer = len(longest)
    while outer and longest[outer - 1] == window.lengths[outer - 1]:
        outer -= 1
    return all(length == 1 for length in longest[: max(outer - 1, 0)])


def _chunk_edges(lengths: tuple[int, ...]) -> tuple[int, ...]:
    """Return the edges of chunks along an axis; those of empty chunks are one."""
    return tuple(dict.fromkeys(itertools.accumulate(lengths, initial=0)))


def _align_edges(edges: tuple[int, ...], axis: range, tile: int) -> tuple[int, ...]:
    """Move edges on to the position at which the next tile begins."""
    if tile == 1:
        return edges
    moved = (_find_position(axis, (axis[edge - 1] // tile + 1) * tile) for edge in edges[1:])
    return (0, *dict.fromkeys(min(edge, len(axis)) for edge in moved))


def _find_position(axis: range, index: int) -> int:
    """Find the first position at which an axis has this index of the image or a larger one."""
    return -((axis.start - index) // axis.step)


@dataclass(frozen=True, slots=True)
class _Level:
    """Bands that reach from end to end along some of the last axes."""

    edges: Edges
    held: int
    """Bytes of pixels that a full read holds at once."""
    bytes_per_pixel: float
    """Bytes fetched for a pixel, at most; for a compressed image 1 if each tile is fetched once,
    else 2."""
    request_bytes: float
    """Bytes that a request fetches; infinite if a band is one request."""


def _plan_level(tile_edges: Edges, window: Window, depth: int, costs: Costs) -> _Level:
    """Find what bands cost that reach from end to end along the last `depth` axes."""
    outer = len(tile_edges) - depth
    edges = tile_edges[:outer] + tuple((0, length) for length in window.lengths[outer:])
    cost = costs.estimate(window.indices(_sample_box(map(_longest_part, edges))))
    if costs.is_even:
        # Of the shapes that bands have, one of the extremes costs the most per pixel.
        boxes = itertools.product(*({_shortest_part(axis), _longest_part(axis)} for axis in edges))
        bytes_per_pixel = max(_bytes_per_pixel(window, _sample_box(box), costs) for box in boxes)
    else:
        # How small the tiles between are is unknown. If their bytes may be few enough to be read
        # over, tiles are fetched with several bands.
        limits = costs.limits
        max_gap = limits.max_gap if cost.requests > limits.connections else limits.small_gap
        bytes_per_pixel = 2.0 if cost.requests > 1 and cost.gap <= _PACKED * max_gap else 1.0
    return _Level(
        edges=edges,
        held=costs.itemsize * math.prod(map(_longest_reach, edges, window.chunks)),
        bytes_per_pixel=bytes_per_pixel,
        request_bytes=cost.nbytes / cost.requests if cost.requests > 1 else math.inf,
    )


def _bytes_per_pixel(window: Window, box: Box, costs: Costs) -> float:
    pixels = math.prod(stop - start for start, stop in box)
    return costs.estimate(window.indices(box)).nbytes / pixels


def _sample_box(box: Iterable[tuple[int, int]]) -> Box:
    """Take a part of a box of very many rows, which costs as much per pixel as all of it."""
    spans = list(box)
    rows = math.prod(stop - start for start, stop in spans[:-1])
    for axis, (start, stop) in enumerate(spans[:-1]):
        if rows > _SAMPLED:
            fewer = max((stop - start) * _SAMPLED // rows, 1)
            rows = rows // (stop - start) * fewer
            spans[axis] = (start, start + fewer)
    return tuple(spans)


def _shortest_part(edges: tuple[int, ...]) -> tuple[int, int]:
    return min(itertools.pairwise(edges), key=lambda part: part[1] - part[0])


def _longest_part(edges: tuple[int, ...]) -> tuple[int, int]:
    return max(itertools.pairwise(edges), key=lambda part: part[1] - part[0])


def _longest_length(edges: tuple[int, ...]) -> int:
    start, stop = _longest_part(edges)
    return stop - start


def _longest_reach(edges: tuple[int, ...], lengths: tuple[int, ...]) -> int:
    """Return the length along an axis of the bands that a chunk needs, at most."""
    return max(
        edges[bisect_left(edges, stop)] - edges[bisect_right(edges, start) - 1]
        for start, stop in itertools.pairwise(_chunk_edges(lengths))
    )


def _choose_depth(levels: list[_Level], once: list[int], gap: int, most: float) -> int:
    """Choose along how many of the last axes bands reach from end to end.

    Of those levels that fetch every byte `once`, the first that holds no more than it may and makes
    no short requests.
    """
    fitting = [depth for depth in once if levels[depth].held <= most]
    if fitting:
        worth = (depth for depth in fitting if levels[depth].request_bytes * _SHORT >= gap)
        return next(worth, max(fitting, key=lambda depth: levels[depth].request_bytes))
    # A row of chunks may hold more; but rather than more rows, some bytes are fetched again.
    within = [depth for depth in range(2, once[0]) if levels[depth].held <= most]
    return min(once[0], max(within, default=1))


def _cut_bands(edges: Edges, window: Window, costs: Costs, limit: int) -> Edges:
    """Cut bands along the first axes until each is within the limit."""
    cut_edges = list(edges)
    nbytes = costs.itemsize * math.prod(map(_longest_length, edges))
    for number, axis in enumerate(window.axis_ranges):
        if nbytes <= limit:
            break
        inner = nbytes // _longest_length(cut_edges[number])
        most = max(limit // inner, 1)
        cut_edges[number] = _cut_edges(cut_edges[number], axis, costs.tile[number], most)
        nbytes = inner * _longest_length(cut_edges[number])
    return tuple(cut_edges)


def _cut_edges(edges: tuple[int, ...], axis: range, tile: int, most: int) -> tuple[int, ...]:
    """Cut the parts of an axis that are longer than `most` evenly, between tiles."""
    cut_edges = [0]
    for start, stop in itertools.pairwise(edges):
        # As few parts as there may be, then all of about the same length.
        count = -(-(stop - start) // most)
        step = -(-(stop - start) // count)
        for position in range(start + step, stop, step):
            # Back to the beginning of the tile, unless the part would be empty.
            edge = _find_position(axis, axis[position] // tile * tile)
            if edge > cut_edges[-1]:
                cut_edges.append(edge)
        cut_edges.append(stop)
    return tuple(cut_edges)
