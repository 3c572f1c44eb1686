"""A mosaic of 40,000 x 40,000 pixels by two worker processes of 1 GiB each, written to zarr."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask.array as da
import zarr
from distributed import Client, LocalCluster

import dask_fits
from benchmarks.harness import Check, Row, Table, max_rss
from benchmarks.images import MIB
from benchmarks.mosaic_images import WIDE, grid, write_noise
from benchmarks.mosaic_peers import quiet

COUNT, SIDE, OUT = 100, 4096, 40_000
WORKERS, LIMIT = 2, 1024 * MIB

ROOM = 12 * 1024 * MIB
"""Bytes of disk that the images and the mosaic take, nearly: noise does not compress."""


def measure_large() -> Table:
    """Make the mosaic once; where the disk is too small for it, the sum of each chunk alone."""
    title = f"{COUNT} images of {SIDE} x {SIDE} onto {OUT} x {OUT}"
    table = Table(f"{title}, {WORKERS} processes of {LIMIT // MIB} MiB", "")
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name, quiet():
        folder = Path(name)
        paths = write_noise(folder, COUNT, SIDE, OUT)
        with _workers(folder) as client:
            table.rows.append(_row(client, paths, folder))
    return table


@contextmanager
def _workers(folder: Path) -> Iterator[Client]:
    """Start processes of one thread each, which end when they need more memory than they may."""
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=LIMIT,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=folder / "workers",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _row(client: Client, paths: list[Path], folder: Path) -> Row:
    start = time.perf_counter()
    m = dask_fits.mosaic(paths, grid(OUT, WIDE), (OUT, OUT))
    planned = time.perf_counter() - start
    pids = set(client.run(os.getpid).values())
    is_written = shutil.disk_usage(folder).free > ROOM
    if is_written:
        m.to_zarr(folder / "mosaic.zarr")
    else:
        counted = int(m.count.sum().compute())
    seconds = time.perf_counter() - start
    peak = max(client.run(max_rss).values())
    lost = len(pids - set(client.run(os.getpid).values()))
    if is_written:
        count = zarr.open_group(folder / "mosaic.zarr", mode="r")["count"]
        counted = int(da.from_zarr(count).sum().compute())
    samples = {
        "seconds": [seconds],
        "of these to collect and plan": [planned],
        "a worker, MiB": [peak / MIB],
        "Mpx a second": [OUT * OUT / seconds / 1e6],
    }
    checks = [
        Check("workers lost", lost, at_most=0),
        Check("a worker / its limit", peak / LIMIT, at_most=1),
        # All images are on the grid whole, so their pixels are counted again.
        Check("pixels / those of images", counted / (COUNT * SIDE * SIDE), at_least=0.99),
    ]
    return Row("to zarr" if is_written else "to the sum of counts", samples, checks)
