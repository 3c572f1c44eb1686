"""The reads of chunks that share bands, and the part of each read that a chunk takes. Pure.

Along an axis, bands may end within chunks and chunks within bands. A chunk is cut where bands end,
and each piece of it is taken out of one read::

    bands    |      0      |      1      |      2      |
    chunks   |    a    |    b    |    c    |     d     |      b = piece of band 0 + piece of band 1
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dask_fits.planning.bands import Bands, Box, Costs, Window, bounding_box, spans_of

Index = tuple[int, ...]
"""Position in a grid of chunks, or of bands."""

_AxisPiece = tuple[int, tuple[int, int]]
"""Number of a band along an axis, and first and end of what a chunk needs of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a chunk, and the read that it is taken out of."""

    source: Box
    """The box that is read."""
    box: Box
    """The box within it that belongs to the chunk."""


def divide(
    window: Window, bands: Bands | None, chunks: Iterable[Index], costs: Costs
) -> dict[Index, list[Part]]:
    """Plan the reads of some of a window's chunks, and divide them among the chunks.

    A read takes the part of a band that lies between these chunks, unless it is less to read each
    of them by itself: so a band is never read for a single chunk, and no read of some chunks
    fetches more than reading them one by one.

    Parameters
    ----------
    window : Window
    bands : Bands or None
        None if chunks share nothing.
    chunks : iterable of tuple of int
        Positions of chunks, along all axes of the image.
    costs : Costs

    Returns
    -------
    dict
        The parts of which each chunk is made.
    """
    spans = spans_of(window.chunks)
    chunk_boxes = {index: tuple(map(list.__getitem__, spans, index)) for index in chunks}
    if bands is None:
        return {index: [Part(box, box)] for index, box in chunk_boxes.items()}
    # Cut along each axis by itself, once for all chunks at the same position there.
    axis_pieces = [
        [_cut_span(edges, span) for span in axis_spans]
        for edges, axis_spans in zip(bands.edges, spans, strict=True)
    ]
    pieces_of_chunk = {
        index: _combine_axes(map(list.__getitem__, axis_pieces, index)) for index in chunk_boxes
    }
    boxes_of_band: defaultdict[Index, list[Box]] = defaultdict(list)
    for pieces in pieces_of_chunk.values():
        for band, box in pieces:
            boxes_of_band[band].append(box)
    shared = _choose_shared_reads(window, boxes_of_band, costs)
    # A chunk that shares nothing is one read, whichever bands it cuts.
    return {
        index: [Part(shared.get(band, box), box) for band, box in pieces]
        if any(band in shared for band, _ in pieces)
        else [Part(chunk_boxes[index], chunk_boxes[index])]
        for index, pieces in pieces_of_chunk.items()
    }


def _cut_span(edges: tuple[int, ...], span: tuple[int, int]) -> list[_AxisPiece]:
    """Cut a chunk's span along an axis at the edges of bands."""
    start, stop = span
    if start == stop:
        return []
    first = bisect_right(edges, start) - 1
    last = bisect_left(edges, stop)
    return [
        (number, (max(start, edges[number]), min(stop, edges[number + 1])))
        for number in range(first, last)
    ]


def _combine_axes(axis_pieces: Iterable[list[_AxisPiece]]) -> list[tuple[Index, Box]]:
    """Combine a chunk's pieces along each axis: the band and the box of each piece of the chunk."""
    return [
        (tuple(number for number, _ in piece), tuple(span for _, span in piece))
        for piece in itertools.product(*axis_pieces)
    ]


def _choose_shared_reads(
    window: Window, boxes_of_band: dict[Index, list[Box]], costs: Costs
) -> dict[Index, Box]:
    """Choose the bands of which one box is read for several chunks, and find that box."""
    bytes_of: dict[object, int] = {}

    def fetched_bytes(box: Box) -> int:
        # There are as many boxes as chunks, but few shapes of them.
        cache_key = tuple(high - low for low, high in box) if costs.is_even else box
        if cache_key not in bytes_of:
            bytes_of[cache_key] = costs.estimate(window.indices(box)).nbytes
        return bytes_of[cache_key]

    shared = {}
    for band, boxes in boxes_of_band.items():
        if len(boxes) > 1:
            around = bounding_box(boxes)
            if fetched_bytes(around) <= sum(map(fetched_bytes, boxes)):
                shared[band] = around
    return shared
