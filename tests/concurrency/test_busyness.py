"""What computes and what waits are told apart."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from dask_fits.concurrency import busyness
from dask_fits.concurrency.busyness import BusyMeter


def measure(monkeypatch: pytest.MonkeyPatch, meter: BusyMeter, lasted: float, cpu: float) -> None:
    """Enter a meter for a block of so many seconds, of which the thread had the CPU for some."""
    clocks = iter([100.0, 100.0 + lasted]), iter([3.0, 3.0 + cpu])
    clock = SimpleNamespace(
        perf_counter=lambda: next(clocks[0]), thread_time=lambda: next(clocks[1])
    )
    monkeypatch.setattr(busyness, "time", clock)
    with meter:
        pass


@pytest.mark.parametrize(("lasted", "cpu", "waits"), [
    (1.0, 0.9, False), (1.0, 0.5, False), (1.0, 0.49, True), (2.0, 0.0, True), (0.0, 0.0, False),
])  # fmt: skip
def test_less_than_half_of_the_time_on_the_cpu_is_waiting(
    lasted: float, cpu: float, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = BusyMeter()
    assert not meter.has_waited
    measure(monkeypatch, meter, lasted, cpu)
    assert meter.has_waited == waits


def test_one_block_that_waits_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = BusyMeter()
    for cpu in (1.0, 0.0, 1.0):
        measure(monkeypatch, meter, 1.0, cpu)
    assert meter.has_waited


def test_sleep_is_waiting() -> None:
    with BusyMeter() as meter:
        time.sleep(0.05)
    assert meter.has_waited
