"""Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest

from tests.support.patience import until


def interrupt(act: Callable[[], object], when: Callable[[], bool]) -> None:
    """Do something, and press Ctrl-C meanwhile."""
    over = threading.Event()

    def press() -> None:
        until(lambda: over.is_set() or when())
        if not over.is_set():
            # To the main thread, as it is by far most often: one that begins at this very moment
            # may take the signal too, which then waits until the main thread wakes up.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            act()
    finally:
        over.set()
        pressing.join()
