"""Streaming many cutouts to a writer, file by file, without holding all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dask_fits._typing import Integers
from dask_fits.arrays.computations import compute_errors
from dask_fits.many_cutouts.tasks import (
    Bundle,
    Errors,
    Part,
    Read,
    divide_reads,
    reading_tasks,
)

_BLOCK_BYTES = 32 * 1024 * 1024
"""Bytes of cutouts that one task writes."""

_BLOCK_ROWS = 256
"""Rows that one task writes."""

BlockWriter = Callable[[Integers, Sequence[Sequence[Part]]], Errors]
"""Writes the cutouts of the rows of a block from their parts, and returns the errors of those that
failed. It can be pickled."""


def write_cutouts(
    reads: Sequence[Read],
    row_count: int,
    row_bytes: int,
    make_writer: Callable[[Integers], BlockWriter],
) -> Errors:
    """Read and write cutouts in Dask's current scheduler.

    The rows are written in the order in which the files hold them, so that fetched bytes are freed
    early.

    Parameters
    ----------
    reads : sequence of Read
    row_count, row_bytes : int
        Rows of the result, and bytes of each.
    make_writer : callable
        Returns the writer of a block of rows.

    Returns
    -------
    errors : dict
        Error of each cutout that failed, by row and slot.
    """
    block_length = max(1, min(_BLOCK_BYTES // max(row_bytes, 1), _BLOCK_ROWS))
    blocks = list(_divide_rows(reads, row_count, block_length))
    # Rows that nothing is read of are in no block, which is -1.
    block_of_row = np.full(row_count, -1, np.int64)
    for block, rows in enumerate(blocks):
        block_of_row[rows] = block
    bundles = [
        Bundle(bundled, [block_of_row[read.rows] for read in bundled])
        for bundled in divide_reads(reads)
    ]
    token = uuid.uuid4().hex  # a task that writes is never the same as an earlier one
    graph, part_keys = reading_tasks(f"write-{token}", bundles, len(blocks))
    name = f"fits-write-{token}"
    graph |= {
        (name, block): (make_writer(rows), rows, part_keys[block])
        for block, rows in enumerate(blocks)
    }
    return compute_errors(name, graph, [(name, block) for block in range(len(blocks))])


def _divide_rows(reads: Sequence[Read], row_count: int, length: int) -> Iterator[Integers]:
    """Divide the rows that are read into blocks, in the order of the reads."""
    seen = np.zeros(row_count, bool)
    pending = np.empty(0, np.int64)
    for read in reads:
        rows = np.unique(read.rows)
        # A row of several HDUs or batches is in the block of the first of these.
        pending = np.concatenate([pending, rows[~seen[rows]]])
        seen[rows] = True
        while len(pending) >= length:
            yield pending[:length]
            pending = pending[length:]
    if len(pending):
        yield pending
