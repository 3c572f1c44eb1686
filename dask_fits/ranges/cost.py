"""The time that a request takes, and the coalescing limits that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dask_fits.ranges.byte_range import Coalescing

_MAX_BRIDGED = 64 * 1024 * 1024
"""Bytes. No range that bridges gaps is longer, however slow the storage is to respond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostModel:
    """Latency and bandwidth of a storage, which decide which bytes are fetched together.

    A read that makes ``n`` requests for ``B`` bytes in all is taken to last
    ``latency * max(1, n / connections) + B / bandwidth`` seconds. So

    - up to `connections` requests are made concurrently and cost no more than one: if there are no
      more runs of pixels, a gap is fetched only up to an eighth of the next limit;
    - of more runs, two are fetched as one range if the gap between them is at most
      ``latency * bandwidth / connections`` bytes;
    - a range that bridges gaps takes at most eight latencies to arrive: it has at most
      ``8 * latency * bandwidth`` bytes, and at most 64 MiB.

    The sizes are rounded down to powers of two; the defaults give 8 KiB, 64 KiB and 8 MiB.

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    latency: float = 0.03
    """Seconds from a request to the first byte of its response."""
    bandwidth: float = 35e6
    """Bytes a second that one connection carries."""
    connections: int = 16
    """Requests that one read can expect to have in flight."""

    def __post_init__(self) -> None:
        if not (self.latency >= 0 and math.isfinite(self.latency)):
            raise ValueError(f"latency: expected 0 or more seconds, found {self.latency}")
        if not (self.bandwidth > 0 and math.isfinite(self.bandwidth)):
            raise ValueError(f"bandwidth: expected bytes a second, found {self.bandwidth}")
        if self.connections < 1:
            raise ValueError(f"connections: expected 1 or more, found {self.connections}")

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs of bytes are fetched as one range."""
        in_flight = self.latency * self.bandwidth
        max_gap = _floor_power_of_two(in_flight / self.connections)
        return Coalescing(
            connections=self.connections,
            small_gap=max_gap // 8,
            max_gap=max_gap,
            max_bridged=min(_floor_power_of_two(8 * in_flight), _MAX_BRIDGED),
        )


DEFAULT_COST = CostModel()
"""A middle between a cluster's own object store and an archive on another continent."""


def _floor_power_of_two(number: float) -> int:
    """Round a number down to a power of two; a number less than 1, to 0."""
    return 1 << (int(number).bit_length() - 1) if number >= 1 else 0
