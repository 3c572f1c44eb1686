"""Byte ranges, and the pure planning of which runs of bytes are fetched together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_LARGEST_PIXEL = 8
"""Bytes: BITPIX = 64 and -64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coalescing:
    """Which neighbouring runs of bytes are fetched as one range, gaps included."""

    few: int
    """Runs that are all fetched at the same time: if there are no more, only small gaps count."""
    small_gap: int
    """Bytes. A gap up to this is always read over."""
    max_gap: int
    """Bytes. A gap up to this is read over where there are more than a few runs."""
    max_bridged: int
    """Bytes. No range that reads over a gap grows past this, so that what a sparse selection holds
    in memory at once stays small, and its parts are fetched at the same time. A run without gaps is
    never cut."""


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


def split_range(wanted: ByteRange, part_size: int | None) -> list[ByteRange]:
    """Cut a range into parts of about equal length, to be fetched at the same time.

    Parameters
    ----------
    wanted : ByteRange
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
    if part_size is None or wanted.nbytes <= part_size:
        return [wanted]
    count = -(-wanted.nbytes // part_size)
    length = -(-wanted.nbytes // count)
    length += -length % _LARGEST_PIXEL
    return [
        ByteRange(start, min(start + length, wanted.stop))
        for start in range(wanted.start, wanted.stop, length)
    ]


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
    cuts = np.flatnonzero(gaps > limits.small_gap) + 1
    if len(cuts) >= limits.few:
        cuts = cuts[gaps[cuts - 1] > limits.max_gap]
    segments = np.concatenate(([0], cuts, [count]))
    spans = stops[segments[1:] - 1] - starts[segments[:-1]]
    if not (spans > limits.max_bridged).any():
        return segments.astype(np.int64)
    bounds = [0]
    for last in segments[1:].tolist():
        while (first := bounds[-1]) < last:
            reach = int(starts[first]) + limits.max_bridged
            within = int(np.searchsorted(stops[first:last], reach, side="right"))
            bounds.append(first + max(within, 1))
    return np.asarray(bounds, np.int64)
