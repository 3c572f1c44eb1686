"""What is read for some of the chunks that share bands, and what each takes of it. Pure."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from dask_fits.planning.bands import Bands, Box, Costs, Window, hull

Index = tuple[int, ...]
"""Position in a grid of chunks, or of bands."""

_Cell = tuple[int, tuple[int, int]]
"""Number of a band along an axis, and first and end of what a chunk needs of it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a chunk takes of what is read."""

    source: Box
    """What is read."""
    box: Box
    """What of it belongs to the chunk."""


def divide(
    window: Window, bands: Bands | None, wanted: Iterable[Index], costs: Costs
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
        Positions of chunks, along all axes of the image.
    costs : Costs

    Returns
    -------
    dict
        The parts of which each chunk is made.
    """
    spans = [list(itertools.pairwise(itertools.accumulate(n, initial=0))) for n in window.chunks]
    whole = {index: tuple(map(list.__getitem__, spans, index)) for index in wanted}
    if bands is None:
        return {index: [Part(box, box)] for index, box in whole.items()}
    cells = [
        [_cells(edges, span) for span in along]
        for edges, along in zip(bands.edges, spans, strict=True)
    ]
    pieces = {index: _pieces(map(list.__getitem__, cells, index)) for index in whole}
    members: defaultdict[Index, list[Box]] = defaultdict(list)
    for found in pieces.values():
        for band, box in found:
            members[band].append(box)
    shared = _shared(window, members, costs)
    return {
        index: [Part(shared.get(band, box), box) for band, box in found]
        if any(band in shared for band, _ in found)
        else [Part(whole[index], whole[index])]
        for index, found in pieces.items()
    }


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


def _shared(window: Window, members: dict[Index, list[Box]], costs: Costs) -> dict[Index, Box]:
    """Find the bands of which a part is read for several chunks, and which part."""
    known: dict[object, int] = {}

    def nbytes(box: Box) -> int:
        what = tuple(high - low for low, high in box) if costs.is_even else box
        if what not in known:
            known[what] = costs.estimate(window.indices(box)).nbytes
        return known[what]

    found = {}
    for band, boxes in members.items():
        if len(boxes) > 1:
            around = hull(boxes)
            if nbytes(around) <= sum(map(nbytes, boxes)):
                found[band] = around
    return found
