"""Giving up what nobody waits for any more: after Ctrl-C, after an error, where a worker closes.

Python can end no thread from outside, and joins most of them before the process ends: one that
waits for a silent server would keep the process, or Dask's pool, for all the time-outs and retries.
So whoever waits here does so in short turns, and looks in between whether the result is wanted.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, Self, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")

_TURN = 0.1
"""Seconds that a thread waits before it looks whether the result is still wanted."""


class CancelledError(BaseException):
    """Nobody waits for this any more.

    No `Exception`: whoever takes any of these for a fault of a file would go on without it, and
    write what is left.
    """


class CancelScope:
    """What has one purpose, in whichever threads: it is given up as a whole.

    As a context manager, the scope of what this thread does within; it is given up where an
    exception leaves it.
    """

    __slots__ = ("_cancelled", "_parent")

    def __init__(self, parent: CancelScope | None = None) -> None:
        self._cancelled = False
        self._parent = parent

    @classmethod
    def within_current(cls) -> Self:
        """Make a scope that is given up with the one that this thread is in, too."""
        return cls(_CURRENT.get())

    @property
    def cancelled(self) -> bool:
        """Whether it has been given up."""
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    def cancel(self) -> None:
        """Have everything that waits in the scope, or begins to, raise CancelledError soon."""
        self._cancelled = True

    def enter(self) -> None:
        """Make it the scope of what this thread does from now on."""
        _CURRENT.set(self)

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        _CURRENT.set(self._parent or _PROCESS)
        if failed:
            self.cancel()


def enter_scope() -> None:
    """Make a scope within that of this thread, for what it does until `leave_scope`."""
    CancelScope.within_current().enter()


def leave_scope(*, failed: bool) -> None:
    """Leave the scope of this thread, and give it up where it failed."""
    if (scope := _CURRENT.get()) is not _PROCESS:
        scope.__exit__(failed or None)


_PROCESS = CancelScope()
_CURRENT: ContextVar[CancelScope] = ContextVar("dask_fits.scope", default=_PROCESS)
"""The scope of a thread; Dask's pools pass it on to the threads of a computation."""


def check_wanted() -> None:
    """Raise CancelledError where nobody waits for what this thread does."""
    if _CURRENT.get().cancelled or _worker_closes():
        raise CancelledError


def result_of(future: Future[_T]) -> _T:
    """Wait for a result; raise CancelledError where it is not wanted any more."""
    while not _is_done(future):
        check_wanted()
    return future.result()


def _is_done(future: Future[_T]) -> bool:
    try:  # unlike `result`, it raises no TimeoutError but that of the waiting
        future.exception(_TURN)
    except TimeoutError:
        return False
    except futures.CancelledError:
        pass
    return True


class Map(Protocol):
    """Calls a function with each of some items, in threads."""

    def __call__(self, function: Callable[[_T], _R], items: Iterable[_T], /) -> Iterator[_R]:
        """Give the results in order, each as soon as it is there."""


@contextmanager
def threads(count: int) -> Iterator[Map]:
    """Run threads for the time of a block; where an exception leaves it, they are given up."""
    scope = CancelScope.within_current()
    pool = ThreadPoolExecutor(count, initializer=scope.enter)

    def run(function: Callable[[_T], _R], items: Iterable[_T], /) -> Iterator[_R]:
        coming = deque([pool.submit(function, item) for item in items])
        while coming:
            yield result_of(coming.popleft())

    try:
        yield run
    except BaseException:
        scope.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _worker_closes() -> bool:
    """Whether this thread runs a task of a Dask worker that has been told to close."""
    distributed = sys.modules.get("distributed")  # who is a worker has imported it
    if distributed is None:
        return False
    try:
        status = distributed.get_worker().status
    except ValueError:
        return False
    return status in (distributed.Status.closing, distributed.Status.closed)


_leaving = threading.Event()


def leave_soon() -> None:
    """Have the interpreter end without delay: for a process that is a command of ours."""
    _leaving.set()


def _at_exit() -> None:
    # An interpreter that ends in good order waits for the threads that still read, as it should.
    # `last_type` is that of an exception that nothing has caught.
    died_of = getattr(sys, "last_type", None)
    if _leaving.is_set() or (died_of is not None and issubclass(died_of, KeyboardInterrupt)):
        _PROCESS.cancel()
    # Taking all modules apart takes a second or several, in which a nanny loses its patience and
    # kills the worker. What is garbage is looked after first, for what it may have to close.
    if _is_worker_of_a_nanny():
        gc.collect()
        gc.freeze()
    elif _leaving.is_set():
        gc.freeze()


def _is_worker_of_a_nanny() -> bool:
    processes = sys.modules.get("multiprocessing")
    return processes is not None and processes.current_process().name.startswith("Dask Worker")


# What `atexit` calls is called after all threads have been joined; there is no public name for
# before. It must come after the import of concurrent.futures, whose own call joins its threads.
if register := getattr(threading, "_register_atexit", None):
    register(_at_exit)
