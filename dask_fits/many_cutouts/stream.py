"""Many cutouts written as they come, file by file, without holding all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence

import dask.base
import numpy as np
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from dask_fits._typing import Integers
from dask_fits.arrays.computations import watch_computations
from dask_fits.exceptions import FitsError
from dask_fits.many_cutouts.tasks import (
    Bundle,
    Part,
    Read,
    bundled,
    reading_tasks,
)

Errors = dict[tuple[int, int], FitsError]

_BLOCK_BYTES = 32 * 1024 * 1024
"""Bytes of cutouts that one task writes."""

_BLOCK_ROWS = 256
"""Cutouts that one task writes."""

Write = Callable[[Integers, Sequence[Sequence[Part]]], Errors]
"""Writes the cutouts of some rows, and tells which of them failed by row and slot."""


def run(
    reads: Sequence[Read], count: int, row_bytes: int, writer: Callable[[Integers], Write]
) -> Errors:
    """Read and write in Dask's current scheduler.

    The rows are written in the order in which the files hold them, so that what has been read is
    soon done with.

    Parameters
    ----------
    reads : sequence of Read
    count, row_bytes : int
        Rows of the result, and bytes of each.
    writer : callable
        Makes what writes some rows, which can be pickled.

    Returns
    -------
    errors : dict
        Row and slot of each cutout that failed, and why.
    """
    blocks = list(
        _blocks(reads, count, max(1, min(_BLOCK_BYTES // max(row_bytes, 1), _BLOCK_ROWS)))
    )
    block_of = np.full(count, -1, np.int64)
    for n, rows in enumerate(blocks):
        block_of[rows] = n
    bundles = [Bundle(some, [block_of[r.rows] for r in some]) for some in bundled(reads)]
    token = uuid.uuid4().hex  # writing is never the same task again
    graph, parts = reading_tasks(f"write-{token}", bundles, len(blocks))
    name = f"fits-write-{token}"
    graph |= {(name, n): (writer(rows), rows, parts[n]) for n, rows in enumerate(blocks)}
    layers = HighLevelGraph.from_collections(name, graph)
    written = [Delayed((name, n), layers, layer=name) for n in range(len(blocks))]
    watch_computations()
    errors: Errors = {}
    for some in dask.base.compute(*written):
        errors |= some
    return errors


def _blocks(reads: Sequence[Read], count: int, length: int) -> Iterator[Integers]:
    """Divide the rows that are read, in the order in which they are."""
    seen = np.zeros(count, bool)
    waiting = np.empty(0, np.int64)
    for read in reads:
        rows = np.unique(read.rows)
        waiting = np.concatenate([waiting, rows[~seen[rows]]])
        seen[rows] = True
        while len(waiting) >= length:
            yield waiting[:length]
            waiting = waiting[length:]
    if len(waiting):
        yield waiting
