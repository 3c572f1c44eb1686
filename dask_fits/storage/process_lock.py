"""A lock that a forked process does not find taken for ever."""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A lock of the threads of one process; in a process that is forked off, it is another.

    A thread that holds it at that moment is not there in the new process, and would never release
    it.
    """

    __slots__ = ("_of_process",)

    def __init__(self) -> None:
        self._of_process = {os.getpid(): threading.Lock()}

    def __reduce__(self) -> tuple[type[ProcessLock], tuple[()]]:
        return ProcessLock, ()  # what is unpickled has a lock of its own

    def _own(self) -> threading.Lock:
        return self._of_process.setdefault(os.getpid(), threading.Lock())

    def __enter__(self) -> None:
        self._own().acquire()

    def __exit__(self, *_: object) -> None:
        self._own().release()

    @property
    def left_behind(self) -> bool:
        """Whether a thread of the process before was at work when this one was forked off."""
        own = self._own()
        return any(lock.locked() for lock in self._of_process.values() if lock is not own)
