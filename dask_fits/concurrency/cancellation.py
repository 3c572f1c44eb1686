"""Cancellation of work whose result nobody waits for: after Ctrl-C, an error, or a worker's close.

Python can end no thread from outside, and joins most of them before the process ends: one that
waits for a silent server would keep the process, or Dask's pool, for all the time-outs and retries.
So a thread waits here in short turns, and checks in between whether its scope is cancelled::

    _PROCESS_SCOPE            cancelled when the process dies of Ctrl-C
      └─ a computation        cancelled when one of its tasks fails
           └─ threads()       cancelled when an exception leaves the block
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

_POLL_INTERVAL = 0.1
"""Seconds that a thread waits before it checks whether its scope is cancelled."""


class CancelledError(BaseException):
    """The result of this work is no longer wanted.

    It is no `Exception`: code that takes any of those for a fault of a file would go on without the
    file, and write what is left.
    """


class CancelScope:
    """Work with one purpose, in any number of threads, that is cancelled as a whole.

    As a context manager, it is the scope of what this thread does within the block, and is
    cancelled if an exception leaves the block.
    """

    __slots__ = ("_cancelled", "_parent")

    def __init__(self, parent: CancelScope | None = None) -> None:
        self._cancelled = False
        self._parent = parent

    @classmethod
    def within_current(cls) -> Self:
        """Make a scope that is cancelled together with the current scope of this thread."""
        return cls(_CURRENT_SCOPE.get())

    @property
    def cancelled(self) -> bool:
        """Whether this scope, or one that it is within, is cancelled."""
        return self._cancelled or (self._parent is not None and self._parent.cancelled)

    def cancel(self) -> None:
        """Have everything that waits in the scope, or begins to, raise CancelledError soon."""
        self._cancelled = True

    def enter(self) -> None:
        """Make this the scope of what this thread does from now on."""
        _CURRENT_SCOPE.set(self)

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        _CURRENT_SCOPE.set(self._parent or _PROCESS_SCOPE)
        if failed:
            self.cancel()


def enter_scope() -> None:
    """Enter a new scope within that of this thread, which lasts until `leave_scope`."""
    CancelScope.within_current().enter()


def leave_scope(*, failed: bool) -> None:
    """Leave the scope of this thread, and cancel it if its work failed."""
    # The scope of the process is never left: a call too many would cancel all other work.
    if (scope := _CURRENT_SCOPE.get()) is not _PROCESS_SCOPE:
        scope.__exit__(failed or None)


_PROCESS_SCOPE = CancelScope()
_CURRENT_SCOPE: ContextVar[CancelScope] = ContextVar("dask_fits.scope", default=_PROCESS_SCOPE)
"""The scope of a thread; Dask's pools pass it on to the threads of a computation."""


def raise_if_cancelled() -> None:
    """Raise CancelledError if nobody waits for what this thread does."""
    if _CURRENT_SCOPE.get().cancelled or _is_worker_closing():
        raise CancelledError


def result_of(future: Future[_T]) -> _T:
    """Wait for the result of a future; raise CancelledError once nobody waits for it."""
    while not _is_done(future):
        raise_if_cancelled()
    return future.result()


def _is_done(future: Future[_T]) -> bool:
    """Wait for one turn, and return whether the future is done."""
    # `exception` returns what the work raised, where `result` would raise it: a TimeoutError of the
    # work itself cannot be taken for that of the waiting.
    try:
        future.exception(_POLL_INTERVAL)
    except TimeoutError:
        return False
    except futures.CancelledError:
        pass
    return True


@contextmanager
def holding(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock; raise CancelledError once nobody waits for what this thread would do with it."""
    while not lock.acquire(timeout=_POLL_INTERVAL):
        raise_if_cancelled()
    try:
        yield
    finally:
        lock.release()


class Map(Protocol):
    """A function that calls another one with each of some items, in threads."""

    def __call__(self, function: Callable[[_T], _R], items: Iterable[_T], /) -> Iterator[_R]:
        """Begin with all items; yield the results in order, each as soon as it is ready."""


def _results(pending: deque[Future[_R]]) -> Iterator[_R]:
    """Yield the results of futures in their order."""
    while pending:
        yield result_of(pending.popleft())


@contextmanager
def threads(count: int) -> Iterator[Map]:
    """Run a pool of threads for the time of a block; an exception that leaves it cancels them."""
    scope = CancelScope.within_current()
    pool = ThreadPoolExecutor(count, initializer=scope.enter)

    def run(function: Callable[[_T], _R], items: Iterable[_T], /) -> Iterator[_R]:
        # All are submitted at once, and each result is dropped from here as soon as it is yielded.
        return _results(deque([pool.submit(function, item) for item in items]))

    try:
        yield run
    except BaseException:
        # Threads that wait see the scope within a turn; the exception does not wait for them.
        scope.cancel()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _is_worker_closing() -> bool:
    """Return whether this thread runs a task of a Dask worker that is being closed."""
    # A worker has imported distributed: elsewhere the import would cost time for nothing.
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return False
    try:
        status = distributed.get_worker().status
    except ValueError:  # this thread runs no task of a worker
        return False
    return status in (distributed.Status.closing, distributed.Status.closed)


_exits_promptly = threading.Event()


def exit_promptly() -> None:
    """Have the interpreter end without delay: for a process that is a command of ours."""
    _exits_promptly.set()


def _at_exit() -> None:
    """Cancel what nobody waits for before threads are joined, and shorten the interpreter's end."""
    # An interpreter that ends in good order waits for the threads that still read, as it should.
    # `last_type` is that of an exception that nothing has caught.
    uncaught = getattr(sys, "last_type", None)
    if _exits_promptly.is_set() or (
        uncaught is not None and issubclass(uncaught, KeyboardInterrupt)
    ):
        _PROCESS_SCOPE.cancel()
    # Taking all modules apart takes a second or several, in which a nanny loses its patience and
    # kills the worker; frozen objects are left alone. Garbage is collected first, since it may hold
    # files that its finalizers close.
    if _is_worker_of_a_nanny():
        gc.collect()
        gc.freeze()
    elif _exits_promptly.is_set():
        gc.freeze()


def _is_worker_of_a_nanny() -> bool:
    """Return whether this process is a Dask worker that a nanny started."""
    # A nanny starts its workers through multiprocessing, which is imported there.
    processes = sys.modules.get("multiprocessing")
    return processes is not None and processes.current_process().name.startswith("Dask Worker")


# Functions registered by `atexit` run after all threads have been joined; there is no public name
# for before. This must come after the import of concurrent.futures, whose own call joins its
# threads: the last one registered is the first one called.
if register := getattr(threading, "_register_atexit", None):
    register(_at_exit)
