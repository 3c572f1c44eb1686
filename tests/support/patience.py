"""Waiting for what should happen soon."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0
"""Seconds to wait for what should happen at once, on a machine that is busy."""


def until(reached: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Return when something is so; fail where it is not so in time."""
    deadline = time.monotonic() + patience
    while not reached():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
