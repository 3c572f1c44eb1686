"""Requests on their way: run in the event loop, waited for in the thread that asked."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

from dask_fits.concurrency.cancellation import check_wanted, result_of

_T = TypeVar("_T")

_PATIENCE = 1.0
"""Seconds that cancelled requests have to end in; they take milliseconds."""


class RequestGroup:
    """The requests of one read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, request: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin a request."""
        return asyncio.run_coroutine_threadsafe(self._run(request), self._loop)

    def wait(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Make a request and wait for what comes of it."""
        return result_of(self.start(request))

    def __enter__(self) -> Self:
        if _is_running_in(self._loop):
            raise RuntimeError("cannot wait for a file in the event loop that reads it")
        check_wanted()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        """Cancel the requests that nobody waits for any more, and see them end."""
        if failed:
            cancelling = asyncio.run_coroutine_threadsafe(self._cancel(), self._loop)
            # A reader that nobody refers to any more may be closed in any thread, the loop's too.
            if not _is_running_in(self._loop):
                with suppress(TimeoutError):  # the fault that led here is to be told, not this one
                    cancelling.exception(_PATIENCE)

    async def _run(self, request: Coroutine[Any, Any, _T]) -> _T:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._tasks.add(task)
        try:
            return await request
        finally:
            self._tasks.discard(task)

    async def _cancel(self) -> None:
        # What was started before this has had its first step, so it is in the set or done.
        if running := self._tasks.copy():
            for task in running:
                task.cancel()
            await asyncio.wait(running)


def _is_running_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:  # none is running in this thread
        return False
