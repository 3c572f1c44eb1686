"""What ends a command from outside, besides Ctrl-C: it leaves nothing half written either."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(KeyboardInterrupt):
    """The process was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` where a signal would end the process at once, files half written or not."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


def what_stopped(error: BaseException) -> tuple[str, int]:
    """Say what stopped a command, and with which exit code it ends: as a shell has it."""
    if isinstance(error, Stopped):
        return str(error), 128 + error.number
    return "interrupted", 128 + signal.SIGINT
