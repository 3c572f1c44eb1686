"""A lock that is free in a forked process, whichever thread held it in the parent."""

from __future__ import annotations

import os
import threading

_forks = 0
"""Forks between the first process and this one."""

_renewing = threading.Lock()
"""Serializes the renewal of the locks that were made before the last fork."""


def _after_fork() -> None:
    """Count the fork, in the child, so that each lock is renewed at its next use."""
    global _forks, _renewing  # noqa: PLW0603 (the child has only one thread yet)
    _forks += 1
    # Another thread of the parent may have held it, and does not exist here.
    _renewing = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class ProcessLock:
    """A lock of the threads of one process; in a forked process it is another, free lock.

    A thread that holds it at the fork does not exist in the new process, and would never release
    it. There are several locks for each file, of which there may be very many: one is small.
    """

    __slots__ = ("_forks", "_left_behind", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_behind = False
        self._forks = _forks

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return ProcessLock, ()  # what is unpickled has a lock of its own

    def _current_lock(self) -> threading.Lock:
        """Return the lock of this process, and make it first if the process was forked since."""
        if self._forks != _forks:
            with _renewing:
                # Another thread may have renewed it while this one waited.
                if self._forks != _forks:
                    self._left_behind |= self._lock.locked()
                    self._lock = threading.Lock()
                    self._forks = _forks
        return self._lock

    def __enter__(self) -> None:
        self._current_lock().acquire()

    def __exit__(self, *_: object) -> None:
        self._current_lock().release()

    @property
    def left_behind(self) -> bool:
        """Whether a thread of the parent process held the lock when this process was forked."""
        self._current_lock()
        return self._left_behind
