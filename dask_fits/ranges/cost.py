"""What a request and its bytes cost in time, and what follows for the ranges that are fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dask_fits.ranges.byte_range import Coalescing

_MOST_BRIDGED = 64 * 1024 * 1024
"""Bytes. However slow a storage is to answer, no range that reads over gaps holds more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """What the storage takes to answer, from which follows what is fetched together.

    A read that makes ``n`` requests for ``B`` bytes in all is taken to last
    ``latency * max(1, n / connections) + B / bandwidth`` seconds. So

    - up to `connections` requests are made at the same time and cost no more than one: what lies
      between few runs of pixels is not fetched, unless it is less than an eighth of the next;
    - of more runs, two are fetched as one range where the gap between them is at most
      ``latency * bandwidth / connections`` bytes;
    - a range that reads over gaps takes at most eight latencies to arrive: it has at most
      ``8 * latency * bandwidth`` bytes, and 64 MiB.

    The sizes are rounded down to powers of two; the defaults give 8 KiB, 64 KiB and 8 MiB.

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    latency: float = 0.03
    """Seconds from a request to the first byte of its answer."""
    bandwidth: float = 35e6
    """Bytes a second that one connection carries."""
    connections: int = 16
    """Requests that one read may expect to have in flight."""

    def __post_init__(self) -> None:
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise ValueError(f"latency: expected 0 or more seconds, found {self.latency}")
        if not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise ValueError(f"bandwidth: expected bytes a second, found {self.bandwidth}")
        if self.connections < 1:
            raise ValueError(f"connections: expected 1 or more, found {self.connections}")

    @property
    def coalescing(self) -> Coalescing:
        """Which runs of bytes are fetched as one range."""
        passing = self.latency * self.bandwidth
        max_gap = _power_of_two(passing / self.connections)
        return Coalescing(
            few=self.connections,
            small_gap=max_gap // 8,
            max_gap=max_gap,
            max_bridged=min(_power_of_two(8 * passing), _MOST_BRIDGED),
        )


DEFAULT_COST = CostModel()
"""Between a cluster's own object store and an archive on another continent."""


def _power_of_two(number: float) -> int:
    """Round down to a power of two; to 0 what is less than 1."""
    return 1 << (int(number).bit_length() - 1) if number >= 1 else 0
