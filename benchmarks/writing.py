"""Writing FITS: the bytes alone, astropy and fitsio; to memory, and to an object store."""

from __future__ import annotations

import asyncio
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import aiohttp
import dask
import dask.array as da
import fitsio
import numpy as np
import numpy.typing as npt
from astropy.io import fits

import dask_fits
from benchmarks.harness import Row, Table, clock, interleave, max_rss, ratio
from benchmarks.images import MIB
from benchmarks.upload_server import BUCKET, UploadServer, bare_url
from dask_fits import TransferConfig

SHAPE = 32768, 8192
"""1 GiB of float32."""

BAND = 1024
"""Rows of a band: 32 MiB."""

TILE = 512

LATENCY, BANDWIDTH = 0.03, 50e6
PART = 8 * MIB
CONNECTIONS = 8
UPLOADED = 32768, 8192
"""Pixels that are uploaded: 1 GiB of float32."""


def measure_writing(*, rounds: int) -> Iterator[Table]:
    """Measure how fast arrays are written, and in how much memory."""
    # In memory, where there is room: a disk would be measured, not what writes to it.
    directory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-", dir=directory) as folder:
        target = Path(folder) / "image.fits"
        pixels = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
        yield _measure_alone(pixels, target, rounds)
        yield _measure_dask(pixels, target, rounds)
        del pixels
        yield _measure_memory(Path(folder))
    yield _measure_upload(rounds)


def _measure_alone(pixels: npt.NDArray, target: Path, rounds: int) -> Table:
    """Write an array that is at hand, on one thread: seconds of CPU."""
    stored = pixels.astype(">f4").view(np.uint8).data
    ours = partial(_write_ours, da.from_array(pixels, chunks=(BAND, -1), name=False), target, 1)
    contenders = {
        "positioned write": partial(_write_bytes, stored.cast("B"), target),
        "dask_fits": partial(ours, checksum=False),
        "dask_fits, sums": ours,
        "astropy": partial(_write_astropy, pixels, target, checksum=False),
        "astropy, sums": partial(_write_astropy, pixels, target, checksum=True),
        "fitsio": partial(_write_fitsio, pixels, target),
    }
    timed = {name: partial(_cpu, run, target) for name, run in contenders.items()}
    samples = interleave(timed, rounds=rounds)
    checks = [
        ratio(samples, "dask_fits", "positioned write", at_most=1.3),
        ratio(samples, "dask_fits, sums", "positioned write", at_most=1.5),
        ratio(samples, "astropy", "dask_fits", at_least=1.0),
        ratio(samples, "astropy, sums", "dask_fits, sums", at_least=1.4),
        ratio(samples, "fitsio", "dask_fits, sums", at_least=1.5),
    ]
    return Table("1 GiB of float32 in bands of 32 MiB, CPU", "s", [Row("", samples, checks)])


def _measure_dask(pixels: npt.NDArray, target: Path, rounds: int) -> Table:
    """Write a Dask array, by the clock.

    Linux lets one thread at a time write to a file, so two of them gain what is not the writing.
    """
    stored = pixels.astype(">f4").view(np.uint8).data.cast("B")
    bands = da.from_array(pixels, chunks=(BAND, -1), name=False)
    tiles = da.from_array(pixels, chunks=(TILE, TILE), name=False)
    contenders: dict[str, Callable[[], object]] = {
        "1 thread": partial(_write_ours, bands, target, 1),
        "2 threads": partial(_write_ours, bands, target, 2),
        "tiles, 2 threads": partial(_write_ours, tiles, target, 2),
        "astropy, 1 thread": partial(_write_dask_astropy, bands, target, 1),
        "astropy, 2 threads": partial(_write_dask_astropy, bands, target, 2),
        "positioned write, 2 threads": partial(_write_bytes, stored, target, 2),
    }
    timed = {name: partial(_wall, run, target) for name, run in contenders.items()}
    samples = interleave(timed, rounds=rounds)
    checks = [
        ratio(samples, "astropy, 1 thread", "1 thread", at_least=2),
        ratio(samples, "astropy, 2 threads", "2 threads", at_least=3),
        ratio(samples, "1 thread", "2 threads"),
        ratio(samples, "2 threads", "positioned write, 2 threads"),
        ratio(samples, "tiles, 2 threads", "2 threads", at_most=1.6),
    ]
    title = f"1 GiB of float32 from a Dask array, tiles of {TILE} x {TILE}"
    return Table(title, "s", [Row("", samples, checks)])


def _write_ours(array: da.Array, target: Path, threads: int, *, checksum: bool = True) -> None:
    with dask.config.set(scheduler="threads", num_workers=threads):
        dask_fits.to_fits(array, target, checksum=checksum)


def _write_bytes(stored: memoryview, target: Path, threads: int = 1) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT, 0o666)
    step = BAND * SHAPE[1] * 4
    try:
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(stored), step):
                pool.submit(os.pwrite, descriptor, stored[start : start + step], 2880 + start)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_astropy(pixels: npt.NDArray, target: Path, *, checksum: bool) -> None:
    fits.PrimaryHDU(pixels).writeto(target, checksum=checksum)


def _write_dask_astropy(array: da.Array, target: Path, threads: int) -> None:
    with dask.config.set(scheduler="threads", num_workers=threads):
        fits.PrimaryHDU(array).writeto(target)


def _write_fitsio(pixels: npt.NDArray, target: Path) -> None:
    fitsio.write(target, pixels)


def _wall(run: Callable[[], object], target: Path) -> float:
    target.unlink(missing_ok=True)
    return clock(run)


def _cpu(run: Callable[[], object], target: Path) -> float:
    """Return the seconds of CPU that a call took, in all threads."""
    target.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_SELF)
    run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measure_memory(folder: Path) -> Table:
    """Compare the peak memory of writing an array that is made as it is written with its bound."""
    table = Table("Peak memory of writing 1 GiB, 2 threads", "MiB")
    chunk = BAND * SHAPE[1] * 4 / MIB
    for name, chunks, held in (
        ("bands", (BAND, SHAPE[1]), chunk),
        ("tiles, joined", (TILE, TILE), TILE * SHAPE[1] * 4 / MIB),
    ):
        with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
            peak = pool.submit(_peak, folder / "made.fits", chunks).result()
        samples = {"dask_fits": [peak], "3 chunks + 64": [3 * held + 64]}
        checks = [ratio(samples, "dask_fits", "3 chunks + 64", at_most=1)]
        table.rows.append(Row(name, samples, checks))
    return table


def _peak(target: Path, chunks: tuple[int, int]) -> float:
    array = da.zeros(SHAPE, np.float32, chunks=chunks).map_blocks(_made, dtype=np.float32)
    with dask.config.set(scheduler="threads", num_workers=2):
        dask_fits.to_fits(array[:TILE, :TILE], target)
        before = max_rss()
        dask_fits.to_fits(array, target, overwrite=True)
        peak = max_rss() - before
    target.unlink()
    return peak / MIB


def _made(block: npt.NDArray) -> npt.NDArray:
    return np.full(block.shape, time.perf_counter() % 1, np.float32)


def _measure_upload(rounds: int) -> Table:
    """Upload to a server of S3's protocol, beside connections that send the same bytes."""
    pixels = np.random.default_rng(2).standard_normal(UPLOADED, np.float32)
    array = da.from_array(pixels, chunks=(4 * BAND, -1), name=False)
    stored = pixels.astype(">f4").reshape(-1).view(np.uint8).data
    with UploadServer(latency=LATENCY, bandwidth=BANDWIDTH) as server:
        options = {
            "key": "k",
            "secret": "s",
            "endpoint_url": server.url,
            "client_kwargs": {"region_name": "us-east-1"},
            # As over TLS, where a signature does not take in the content.
            "config_kwargs": {"s3": {"payload_signing_enabled": False}},
        }
        transfer = TransferConfig(max_concurrency=CONNECTIONS)
        ours = partial(
            dask_fits.to_fits,
            array,
            f"s3://{BUCKET}/image.fits",
            storage_options=options,
            transfer=transfer,
        )
        contenders = {
            "dask_fits": ours,
            "bare pool": lambda: asyncio.run(_send_all(server.url, stored)),
        }
        with dask.config.set(scheduler="threads", num_workers=2):
            timed = {name: partial(clock, run) for name, run in contenders.items()}
            samples = interleave(timed, rounds=rounds)
            server.requests()
            ours()
        parts = -(-(stored.nbytes + 2880) // PART)
        if (requests := server.requests()) != parts + 4:
            raise AssertionError(f"expected {parts + 4} requests, found {requests}")
    checks = [ratio(samples, "bare pool", "dask_fits", at_least=0.85)]
    title = f"1 GiB to S3, {1000 * LATENCY:.0f} ms, {BANDWIDTH / 1e6:.0f} MB/s a connection"
    return Table(title, "s", [Row(f"{CONNECTIONS} connections", samples, checks)])


async def _send_all(url: str, stored: memoryview) -> None:
    """Send the same bytes in the same parts, and nothing else."""
    starts = range(0, stored.nbytes, PART)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(
            *(
                _send(session, bare_url(url, number), bytes(stored[start : start + PART]))
                for number, start in enumerate(starts, 1)
            )
        )


async def _send(session: aiohttp.ClientSession, url: str, content: bytes) -> None:
    async with session.put(url, data=content) as answer:
        answer.raise_for_status()
