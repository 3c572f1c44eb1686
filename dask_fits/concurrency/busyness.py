"""Telling work that computes from work that waits: what waits can be done many times at once."""

from __future__ import annotations

import time
from typing import Self

_BUSY = 0.5
"""Part of the time that work which computes has the CPU at least."""


class BusyMeter:
    """Measures what its block does, as often as it is entered; for one thread."""

    def __init__(self) -> None:
        self.has_waited = False
        """Whether a block has spent more of its time waiting than on the CPU."""
        self._start = (0.0, 0.0)

    def __enter__(self) -> Self:
        self._start = time.perf_counter(), time.thread_time()
        return self

    def __exit__(self, *_: object) -> None:
        began, cpu = self._start
        lasted = time.perf_counter() - began
        self.has_waited |= time.thread_time() - cpu < _BUSY * lasted
