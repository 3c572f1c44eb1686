"""Dask's computations: the reads in one end with it, and those that write return their errors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import dask.base
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from dask_fits.concurrency.cancellation import enter_scope, leave_scope
from dask_fits.exceptions import FitsError


def watch_computations() -> None:
    """Cancel the reads of each computation that fails or is interrupted, from now on.

    Dask only informs callbacks, and forgets those if computations of several threads overlap: so
    this is called again for each array.
    """
    Callback(start=_begin, finish=_end).register()


def compute_errors(
    name: str, graph: Mapping[Any, Any], keys: Sequence[Hashable]
) -> dict[Any, FitsError]:
    """Compute tasks that write, in Dask's current scheduler; return their errors together.

    Parameters
    ----------
    name : str
        Name of the layer that `graph` is.
    graph : mapping
        Tasks by their keys.
    keys : sequence
        Keys of the tasks that write: each returns a mapping of errors.
    """
    errors: dict[Any, FitsError] = {}
    for task_errors in compute_all(name, graph, keys):
        errors |= task_errors
    return errors


def compute_all(name: str, graph: Mapping[Any, Any], keys: Sequence[Hashable]) -> tuple[Any, ...]:
    """Compute tasks in Dask's current scheduler, and return their results.

    Parameters
    ----------
    name : str
        Name of the layer that `graph` is.
    graph : mapping
        Tasks by their keys.
    keys : sequence
        Keys of the tasks whose results are returned.
    """
    layers = HighLevelGraph.from_collections(name, graph)
    wanted = [Delayed(key, layers, layer=name) for key in keys]
    watch_computations()
    results: tuple[Any, ...] = dask.base.compute(*wanted)
    return results


def _begin(_graph: object) -> None:
    """Enter a scope, which Dask's threads inherit."""
    enter_scope()


def _end(_graph: object, _state: object, failed: bool) -> None:  # noqa: FBT001 (Dask's)
    """Leave the scope, which cancels its reads after a failure."""
    leave_scope(failed=failed)
