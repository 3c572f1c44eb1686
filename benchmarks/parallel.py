"""How near to the ideal the requests of many chunks, and of one large chunk, run at one time."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from pathlib import Path
from typing import Self

import aiohttp
import numpy as np
import numpy.typing as npt

import dask_fits
from benchmarks.harness import Row, Table, ratio
from benchmarks.images import KIB, MIB, write_noise
from benchmarks.server import ServerProcess
from dask_fits import TransferConfig

LATENCY = 0.03
CHUNKS, CHUNK = 64, 256 * KIB
COLUMNS = 1024
WIDTHS = (16, 32)
"""Requests at a time."""

BANDWIDTH = 50e6
"""Bytes per second on each connection, for the one large chunk."""

UNSPLIT = TransferConfig(part_size=1024 * MIB)

OURS, FLOOR, IDEAL = "dask_fits", "floor", "ideal"


def write_chunks(path: Path) -> None:
    """Write the image of many chunks."""
    write_noise(path, (CHUNKS * CHUNK // (4 * COLUMNS), COLUMNS))


def measure_pool(server: ServerProcess, url: str, *, rounds: int) -> Table:
    """Read many small chunks, as many at a time as there are threads and places.

    Both open the file, and their connections, before the clock starts.
    """
    title = f"{CHUNKS} remote chunks of {CHUNK // KIB} KiB, {1000 * LATENCY:.0f} ms"
    table = Table(title, "s")
    server.be(latency=LATENCY)
    for width in WIDTHS:
        transfer = TransferConfig(max_concurrency=width)
        image = dask_fits.from_fits(url, chunks=(CHUNK // (4 * COLUMNS), -1), transfer=transfer)
        offset = dask_fits.open(url)[0].data_range.start
        with _Fetcher(url, width) as floor:
            ours = partial(image.compute, scheduler="threads", num_workers=width)
            fetch = partial(floor.fetch, offset, image.shape)
            np.testing.assert_array_equal(ours(), fetch(), strict=True)
            samples, costs = server.measure({OURS: ours, FLOOR: fetch}, rounds=3 * rounds)
        if {cost.requests for found in costs.values() for cost in found} != {CHUNKS}:
            raise AssertionError(f"expected {CHUNKS} requests of each: {costs}")
        samples[IDEAL] = [math.ceil(CHUNKS / width) * LATENCY]
        checks = [ratio(samples, OURS, FLOOR, at_most=1.3), ratio(samples, OURS, IDEAL)]
        table.rows.append(Row(f"{width} at a time", samples, checks))
    return table


def measure_parts(server: ServerProcess, url: str, *, rounds: int) -> Table:
    """Read a whole image as one chunk, in parts and in one request."""
    server.be(latency=LATENCY, bandwidth=BANDWIDTH)
    split = dask_fits.open(url)[0].reader()
    whole = dask_fits.open(url, transfer=UNSPLIT)[0].reader()
    readers = {"in parts": split, "unsplit": whole}
    contenders = {name: partial(reader.__getitem__, ...) for name, reader in readers.items()}
    samples, _ = server.measure(contenders, rounds=rounds)
    size = math.prod(split.shape) * split.dtype.itemsize
    row = Row(f"{size // MIB} MiB", samples, [ratio(samples, "unsplit", "in parts")])
    title = f"One chunk, {1000 * LATENCY:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s for each connection"
    return Table(title, "s", [row])


class _Fetcher:
    """The least that has to be done: ranges in one session, into one buffer, then converted."""

    def __init__(self, url: str, width: int) -> None:
        self._url = url
        self._width = width
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._session = self._runner.run(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._session.close())
        self._runner.close()

    async def _connect(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=self._width))

    def fetch(self, offset: int, shape: tuple[int, ...]) -> npt.NDArray:
        buffer = bytearray(CHUNKS * CHUNK)
        self._runner.run(self._fetch_all(offset, memoryview(buffer)))
        return np.frombuffer(buffer, ">f4").astype(np.float32).reshape(shape)

    async def _fetch_all(self, offset: int, buffer: memoryview) -> None:
        starts = range(0, CHUNKS * CHUNK, CHUNK)
        await asyncio.gather(*(self._fetch_one(offset, start, buffer) for start in starts))

    async def _fetch_one(self, offset: int, start: int, buffer: memoryview) -> None:
        first = offset + start
        headers = {"Range": f"bytes={first}-{first + CHUNK - 1}"}
        async with self._session.get(self._url, headers=headers) as answer:
            position = start
            async for piece in answer.content.iter_any():
                buffer[position : position + len(piece)] = piece
                position += len(piece)
