"""Requests in flight: they run in the event loop, and the thread that made them waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from dask_fits.concurrency.cancellation import raise_if_cancelled, result_of

_T = TypeVar("_T")

_CANCEL_TIMEOUT = 1.0
"""Seconds within which cancelled requests have to end; they take milliseconds."""


class RequestGroup:
    """The requests of one read, which are cancelled together if an exception leaves the block."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, request: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Start a request in the event loop."""
        return asyncio.run_coroutine_threadsafe(self._run(request), self._loop)

    def wait(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Make a request and wait for its result."""
        return result_of(self.start(request))

    def __enter__(self) -> Self:
        # Waiting would block the loop, and so the request that is waited for: for ever.
        if _is_running_in(self._loop):
            raise RuntimeError("cannot wait for a file in the event loop that reads it")
        raise_if_cancelled()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Cancel the requests if the block failed, and wait until they have ended."""
        if failed:
            cancelling = asyncio.run_coroutine_threadsafe(self._cancel(), self._loop)
            # A generator that nobody refers to may be closed in any thread, the loop's included.
            if not _is_running_in(self._loop):
                with suppress(TimeoutError):  # the exception that led here matters, not this one
                    cancelling.exception(_CANCEL_TIMEOUT)

    async def _run(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Run a request as a task that `_cancel` can find."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        try:
            return await request
        finally:
            self._tasks.discard(task)

    async def _cancel(self) -> None:
        """Cancel the tasks and wait for them."""
        # The loop takes coroutines in order: each that was started before this has had its first
        # step, so it is in the set or done.
        if running := self._tasks.copy():
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def _is_running_in(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether this thread runs an event loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # none is running in this thread
        return False
