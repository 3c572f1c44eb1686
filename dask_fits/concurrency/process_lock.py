"""A lock that a forked process does not find taken for ever."""

from __future__ import annotations

import os
import threading

_forks = 0
"""Forks between the first process and this one."""

_renewing = threading.Lock()
"""Of the locks that were made before the last fork, one is made anew at a time."""


def _after_fork() -> None:
    global _forks, _renewing  # noqa: PLW0603 (one thread is there yet)
    _forks += 1
    _renewing = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


class ProcessLock:
    """A lock of the threads of one process; in a process that is forked off, it is another.

    A thread that holds it at that moment is not there in the new process, and would never release
    it. There are several of each file, of which there may be very many: one is small.
    """

    __slots__ = ("_forks", "_left_behind", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_behind = False
        self._forks = _forks

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return ProcessLock, ()  # what is unpickled has a lock of its own

    def _own(self) -> threading.Lock:
        if self._forks != _forks:
            with _renewing:
                if self._forks != _forks:
                    self._left_behind |= self._lock.locked()
                    self._lock = threading.Lock()
                    self._forks = _forks
        return self._lock

    def __enter__(self) -> None:
        self._own().acquire()

    def __exit__(self, *_: object) -> None:
        self._own().release()

    @property
    def left_behind(self) -> bool:
        """Whether a thread of the process before was at work when this one was forked off."""
        self._own()
        return self._left_behind
