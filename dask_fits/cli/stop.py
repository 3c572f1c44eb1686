"""Signals that end a command, which leaves nothing half written then, as with Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals besides SIGINT that end a command; Windows has no SIGHUP."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the process, as an exception."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` if a signal would end the process at once, files half written or not."""
    # Only the main thread gets signals, and may set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A signal that is ignored, as under nohup, or that somebody handles is left alone.
    handled = [signum for signum in _SIGNALS if signal.getsignal(signum) is signal.SIG_DFL]
    for signum in handled:
        signal.signal(signum, _raise_stopped)
    try:
        yield
    finally:
        for signum in handled:
            signal.signal(signum, signal.SIG_DFL)


def _raise_stopped(signum: int, _frame: object) -> None:
    raise Stopped(signum)


def what_stopped(error: BaseException) -> tuple[str, int]:
    """Return a message for an exception that stopped a command, and its exit code, as shells do."""
    if isinstance(error, Stopped):
        return str(error), 128 + error.signum
    return "interrupted", 128 + signal.SIGINT
