"""Mosaics over HTTP: the round trips, requests and bytes of one chunk."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import dask_fits
from benchmarks.harness import Check, Row, Table, clock, interleave
from benchmarks.images import MIB
from benchmarks.mosaic_images import SCALE, grid
from benchmarks.mosaic_ours import forget_positions
from benchmarks.server import ServerProcess
from tests.servers.range_server import RangeServer

SIDE = 1024
"""Pixels along each side of the chunk."""

LATENCIES = (0.0, 0.03, 0.3)
"""Seconds; the last and the first tell how many round trips there are, above all noise."""

PATIENCE = 3.0
"""Seconds for which requests wait, longer than it takes to make all that can be made at once."""

NARROW, WIDER, PACKED = "images of 1200 x 1200", "of 2048 x 2048", "of 2048 x 2048, RICE"


def measure_remote(cases: Mapping[str, Sequence[Path]], *, rounds: int) -> Table:
    """Make one chunk of ten images over HTTP; they are in a collection."""
    table = Table(f"A chunk of {SIDE} x {SIDE} of ten images over HTTP", "s")
    for name, paths in cases.items():
        with ServerProcess(paths[0].parent) as server:
            urls = [f"{server.url}/{path.name}" for path in paths]
            table.rows.append(_remote_row(name, server, urls, rounds))
    return table


def _remote_row(name: str, server: ServerProcess, urls: list[str], rounds: int) -> Row:
    m = dask_fits.mosaic(dask_fits.open_collection(urls), grid(SIDE, SCALE), (SIDE, SIDE))
    run = partial(m.data.compute, scheduler="sync")

    def seconds(latency: float) -> float:
        server.be(latency=latency)
        forget_positions()
        return clock(run)

    timed = {f"{1000 * latency:.0f} ms": partial(seconds, latency) for latency in LATENCIES}
    samples = interleave(timed, rounds=rounds)
    at_once, _, late = map(statistics.median, samples.values())
    server.be(latency=0)
    server.order(partial(_hold, seconds=0))  # for which it imports this module, once
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(_later, run)
        # What is asked for meanwhile is asked for at the same time.
        held = server.order(partial(_hold, seconds=PATIENCE))
        reading.result()
    rest = server.cost()
    requests, nbytes = held.requests + rest.requests, held.nbytes + rest.nbytes
    checks = [
        Check("round trips", (late - at_once) / LATENCIES[-1], at_most=3),
        Check("waves", math.ceil(requests / max(held.peak, rest.peak)), at_most=3),
        Check("requests", requests),
        Check("MiB", nbytes / MIB),
        # Of what is not compressed rows are read whole, up to some kB between those of the box.
        Check(
            "bytes / needed",
            nbytes / m.plan.useful_bytes,
            at_most=None if name == WIDER else 1.5,
        ),
    ]
    return Row(name, samples, checks)


def _later(run: Callable[[], object]) -> object:
    time.sleep(PATIENCE / 4)  # by then the server holds
    return run()


def _hold(server: RangeServer, *, seconds: float) -> None:
    """Let all requests wait for as long as it takes to plan them."""
    with server.hold():
        time.sleep(seconds)
