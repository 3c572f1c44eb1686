"""Which chunks of an array are best written to a file, whatever chunks it has. Pure.

A block of an array is runs of bytes in the file, one for each row that it cuts::

    chunks of 512 x 512 of rows of 4096      512 runs of 512 pixels, far apart
    joined along the last axis               one run of 512 rows
"""

from __future__ import annotations

import math
from collections.abc import Sequence

AxisLengths = tuple[tuple[int, ...], ...]
"""Chunk lengths along each axis, as Dask gives them."""


def written_chunks(
    chunks: AxisLengths, *, itemsize: int, least: int, most: int, contiguous: bool
) -> AxisLengths:
    """Find the chunks in which an array is written.

    Parameters
    ----------
    chunks : tuple of tuple of int
        Those that it has; none is empty.
    itemsize : int
        Bytes of a pixel in the file.
    least : int
        Bytes that a run has to have to be written by itself.
    most : int
        Bytes of chunks that may be held at a time to join them.
    contiguous : bool
        Whether each chunk has to be one run, however much has to be held for that.

    Returns
    -------
    tuple of tuple of int
        Blocks are joined along the last axes until runs are long enough, the fewest that do, and
        cut along the first ones if they have to be contiguous.

    Examples
    --------
    >>> tiles = ((512, 512), (512, 512, 512))
    >>> written_chunks(tiles, itemsize=4, least=65536, most=2**30, contiguous=False)
    ((512, 512), (1536,))
    >>> cube = ((10,), (512, 512), (1024,))
    >>> written_chunks(cube, itemsize=4, least=2**20, most=2**30, contiguous=True)
    ((1, 1, 1, 1, 1, 1, 1, 1, 1, 1), (512, 512), (1024,))
    """
    joined, cut = _join(chunks, itemsize, least)
    if not contiguous and _held(chunks, joined) * itemsize > most:
        return chunks
    if contiguous:
        # Before the axis along which blocks are cut, each index is a run of its own.
        joined = (*((1,) * sum(lengths) for lengths in joined[:cut]), *joined[cut:])
    return joined


def _join(chunks: AxisLengths, itemsize: int, least: int) -> tuple[AxisLengths, int]:
    """Join blocks along the last axes until runs have `least` bytes.

    Returns
    -------
    joined : tuple of tuple of int
    cut : int
        The axis along which the runs end.
    """
    joined = list(chunks)
    run = itemsize
    for axis in reversed(range(len(chunks))):
        joined[axis] = _grouped(chunks[axis], -(-least // run))
        if len(joined[axis]) > 1:
            return tuple(joined), axis
        run *= joined[axis][0]
    return tuple(joined), 0


def _grouped(lengths: Sequence[int], least: int) -> tuple[int, ...]:
    """Add up neighbours until each sum is at least so much; what is left goes to the last."""
    groups: list[int] = []
    current = 0
    for length in lengths:
        current += length
        if current >= least:
            groups.append(current)
            current = 0
    if current:
        if groups:
            groups[-1] += current
        else:
            groups.append(current)
    return tuple(groups)


def _held(chunks: AxisLengths, joined: AxisLengths) -> int:
    """Return the pixels of the chunks that one joined block needs."""
    return math.prod(max(*before, *after) for before, after in zip(chunks, joined, strict=True))
