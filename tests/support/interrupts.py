"""Ctrl-C, and what it leaves running."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable

import fsspec
import pytest

from tests.support.patience import until


def requests_left() -> int:
    async def running() -> int:
        return len(asyncio.all_tasks()) - 1

    return asyncio.run_coroutine_threadsafe(running(), fsspec.asyn.get_loop()).result()


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
