"""Watching Dask's computations, so that the reads in one end with it."""

from __future__ import annotations

from dask.callbacks import Callback

from dask_fits.concurrency.cancellation import enter_scope, leave_scope


def watch_computations() -> None:
    """Cancel the reads of each computation that fails or is interrupted, from now on.

    Dask only informs callbacks, and forgets those if computations of several threads overlap: so
    this is called again for each array.
    """
    Callback(start=_begin, finish=_end).register()


def _begin(_graph: object) -> None:
    """Enter a scope, which Dask's threads inherit."""
    enter_scope()


def _end(_graph: object, _state: object, failed: bool) -> None:  # noqa: FBT001 (Dask's)
    """Leave the scope, which cancels its reads after a failure."""
    leave_scope(failed=failed)
