"""Writing a planned file: an attempt is begun, computed, and committed or aborted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dask.base
from dask.delayed import Delayed

from dask_fits.arrays.computations import watch_computations
from dask_fits.storage.sink import Attempt, Receipt, Sink
from dask_fits.writing.file_plan import FilePlan
from dask_fits.writing.graph import WriteGraph, write_graph


def write_file(
    plan: FilePlan, sink: Sink, beside: Delayed | None = None, *, scheduler: str | None = None
) -> Any:
    """Write a file.

    Parameters
    ----------
    plan : FilePlan
    sink : Sink
    beside : Delayed, optional
        What is computed at the same time.
    scheduler : str, optional
        Dask's scheduler; by default the current one.

    Returns
    -------
    object
        The result of `beside`.

    Raises
    ------
    FileExistsError
        The file exists, and it was not asked to replace it.
    PixelValueError
        A value cannot be stored.
    AccessDeniedError, StorageError
        The storage refuses, is full, or failed for longer than the retries last.
    """
    # This process begins: a task might run again, and be another attempt.
    attempt = sink.begin(plan.size)
    with _aborted_on_failure(sink, attempt):
        graph = write_graph(plan, sink, attempt)
        watch_computations()
        receipts, result = dask.base.compute(graph.delayed(), beside, scheduler=scheduler)
        sink.commit(attempt, receipts)
    return result


def delayed_file(plan: FilePlan, sink: Sink) -> Delayed:
    """Return the Delayed that writes a file; it begins an attempt whenever it is computed."""
    token = uuid.uuid4().hex
    begun, committed = f"fits-begin-{token}", f"fits-commit-{token}"
    graph = write_graph(plan, sink, begun)
    tasks = {
        **graph.tasks,
        begun: (begin, sink, plan.size),
        committed: (commit, sink, begun, graph.key),
    }
    watch_computations()
    return WriteGraph(graph.name, tasks, committed).delayed()


def begin(sink: Sink, size: int) -> Attempt:
    """Begin an attempt, as a task."""
    return sink.begin(size)


def commit(sink: Sink, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
    """Commit an attempt, as a task."""
    with _aborted_on_failure(sink, attempt):
        sink.commit(attempt, receipts)


@contextmanager
def _aborted_on_failure(sink: Sink, attempt: Attempt) -> Iterator[None]:
    """Abort an attempt if an exception leaves the block, an interruption among them."""
    try:
        yield
    except BaseException:
        sink.abort(attempt)
        raise
