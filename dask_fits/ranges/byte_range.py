"""Byte ranges, and the pure planning that coalesces runs of bytes into them.

A run is a stretch of bytes that a selection needs. Neighbouring runs are coalesced into one range,
which is one request or several parts of one, if the gap between them is cheap to read over::

    runs      ###  ###         ########    ##
    gaps         2      9              4
    ranges    [------)         [------------)    of max_gap = 4
    parts     [------)         [------)[----)    of part_size = 8
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8
"""Bytes. Parts of a range end on multiples of this, so that no element of an array is split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coalescing:
    """Limits within which neighbouring runs of bytes are fetched as one range, gaps included."""

    connections: int
    """Ranges that are fetched concurrently: if there are no more, only small gaps are bridged."""
    small_gap: int
    """Bytes. A gap up to this is always bridged, which means read over."""
    max_gap: int
    """Bytes. A gap up to this is bridged if there are more ranges than `connections`."""
    max_bridged: int
    """Bytes. No range that bridges a gap grows past this, so that a sparse selection holds little
    in memory at once, and its parts are fetched concurrently. A single run is never cut."""


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """A half-open range of bytes ``[start, stop)``, counted from the start of the file."""

    start: int
    """First byte, inclusive."""
    stop: int
    """End, exclusive; never less than `start`."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a byte range: [{self.start}, {self.stop})")

    @property
    def nbytes(self) -> int:
        """Number of bytes in the range."""
        return self.stop - self.start


def split_range(byte_range: ByteRange, part_size: int | None) -> list[ByteRange]:
    """Cut a range into parts of about equal length, to be fetched concurrently.

    Parameters
    ----------
    byte_range : ByteRange
    part_size : int or None
        Greatest length of a part in bytes, a multiple of 8; None for one part.

    Returns
    -------
    parts : list of ByteRange
        Ascending, one after the other; all but the last of a length that is a multiple of 8 bytes,
        so that no pixel of an image that begins with the range lies in two of them.

    Examples
    --------
    >>> [part.nbytes for part in split_range(ByteRange(0, 1000), 400)]
    [336, 336, 328]
    """
    if part_size is None or byte_range.nbytes <= part_size:
        return [byte_range]
    count = -(-byte_range.nbytes // part_size)
    length = -(-byte_range.nbytes // count)
    length += -length % _ALIGNMENT
    return [
        ByteRange(start, min(start + length, byte_range.stop))
        for start in range(byte_range.start, byte_range.stop, length)
    ]


def split_ranges(ranges: Iterable[ByteRange], part_size: int | None) -> tuple[ByteRange, ...]:
    """Cut ranges into the parts that are fetched by one request each; see `split_range`."""
    return tuple(part for whole in ranges for part in split_range(whole, part_size))


def coalesce_runs(
    starts: npt.NDArray[np.int64],
    nbytes: int | npt.NDArray[np.int64],
    limits: Coalescing,
) -> npt.NDArray[np.int64]:
    """Decide which neighbouring runs of bytes are fetched together.

    Parameters
    ----------
    starts : (n,) int64 array
        First byte of each run, ascending; the runs do not overlap.
    nbytes : int or (n,) int64 array
        Length of every run, or of each.
    limits : Coalescing

    Returns
    -------
    bounds : (g + 1,) int64 array
        Group ``i`` holds the runs ``bounds[i]:bounds[i + 1]``; every run is in exactly one group.
    """
    count = len(starts)
    if count == 0:
        return np.zeros(1, np.int64)
    stops = starts + nbytes
    gaps = starts[1:] - stops[:-1]

    # Few ranges are fetched concurrently and cost no more than one, so only gaps that cost next to
    # nothing are bridged. A cut at run `i` is the gap `i - 1`, and `len(cuts) + 1` ranges result.
    cuts = np.flatnonzero(gaps > limits.small_gap) + 1
    if len(cuts) >= limits.connections:
        # More ranges would queue for connections: a wider gap is cheaper than another request.
        cuts = cuts[gaps[cuts - 1] > limits.max_gap]

    # The common case: no group is too long, and all of it stays in NumPy.
    segments = np.concatenate(([0], cuts, [count]))
    spans = stops[segments[1:] - 1] - starts[segments[:-1]]
    if not (spans > limits.max_bridged).any():
        return segments.astype(np.int64)

    # Divide the segments greedily into the longest groups within the bound on memory; a run that
    # is longer by itself makes a group of its own.
    bounds = [0]
    for last in segments[1:].tolist():
        while (first := bounds[-1]) < last:
            reach = int(starts[first]) + limits.max_bridged
            fitting = int(np.searchsorted(stops[first:last], reach, side="right"))
            bounds.append(first + max(fitting, 1))
    return np.asarray(bounds, np.int64)
