"""A stack on a cluster one of whose workers dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from distributed import Client

import dask_fits
from dask_fits import FitsError
from dask_fits.stacks.array import stack_array
from tests.servers.range_server import RangeServer
from tests.support.fits_files import same_bits
from tests.support.patience import until
from tests.support.stacks import stack_of

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

CUBE = np.random.default_rng(3).integers(-9999, 9999, (24, 30, 100)).astype("i2")
FRAMES = 3
"""Frames in a chunk."""


def readers_of(server: RangeServer, directory: Path) -> list[Any]:
    for number, frame in enumerate(CUBE):
        fits.PrimaryHDU(frame).writeto(directory / f"{number}.fits")
    urls = [f"{server.url}/{number}.fits" for number in range(len(CUBE))]
    return [dask_fits.open(url)[0].reader() for url in urls]


def test_a_worker_that_dies_costs_only_its_own_tasks(client: Client, tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        array = stack_array(stack_of(readers_of(server, tmp_path)), (FRAMES, -1, -1))
        server.clear()
        server.latency = 0.05
        sums = array.sum(axis=(1, 2), dtype="i8")
        future = client.compute([sums, array])
        until(lambda: server.requests >= len(CUBE) // 2)
        with server.hold():
            until(lambda: server.waiting >= 2)
            victim = next(iter(client.run(os.getpid).values()))
            os.kill(victim, signal.SIGKILL)
        found, whole = client.gather(future)
        assert (found == CUBE.sum(axis=(1, 2), dtype="i8")).all()
        assert same_bits(whole, CUBE)
        times = Counter(request.path for request in server.log)
    assert set(times) == {f"/{number}.fits" for number in range(len(CUBE))}
    assert max(times.values()) <= 2, "no frame is read more often than the lost ones"


def test_errors_come_back_from_workers_as_they_are(client: Client, tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        readers = readers_of(server, tmp_path)
        (tmp_path / "5.fits").unlink()
        readers[8] = FitsError("8.fits: has no image")
        strict, filled = (
            stack_array(stack_of(readers, fill_value=fill), (FRAMES, -1, -1)) for fill in (None, -1)
        )
        expected = CUBE.copy()
        expected[[5, 8]] = -1
        assert same_bits(client.compute(filled).result(), expected)
        with pytest.raises(FitsError, match=r"[58]\.fits"):
            client.compute(strict).result()
        assert same_bits(client.compute(strict[9:, 4]).result(), CUBE[9:, 4])
