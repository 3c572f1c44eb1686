"""Dask's computations, as far as the reads in them have to know when one ends."""

from __future__ import annotations

from dask.callbacks import Callback

from dask_fits.concurrency.cancellation import enter_scope, leave_scope


def watch_computations() -> None:
    """Have the reads of a computation that fails, or is interrupted, end with it.

    Dask tells nobody but callbacks, which it forgets where computations of several threads
    overlap: so this is called again for each array.
    """
    Callback(start=_begin, finish=_end).register()


def _begin(_graph: object) -> None:
    enter_scope()  # which Dask's threads inherit


def _end(_graph: object, _state: object, failed: bool) -> None:  # noqa: FBT001 (Dask's)
    leave_scope(failed=failed)
