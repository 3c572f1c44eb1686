"""A night's job: ten thousand files over HTTP, one in a hundred of them damaged.

Two positions on each file are cut out and written to zarr by two worker processes, while one
request in a hundred fails as requests do; then all of them are stacked, and written as well. Each
cutout and each frame is compared with the pixels that its file was made of: what counts is that
none is wrong, that every damaged file is reported, and that no other one is.
"""

from __future__ import annotations

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from distributed import Client, LocalCluster

import dask_fits
from benchmarks.harness import Check, Row, Table, max_rss
from benchmarks.images import MIB
from benchmarks.server import ServerProcess
from dask_fits.many_cutouts.cutouts import Cutouts
from tests.servers.range_server import RangeServer

SIDE, SIZE = 64, 15
"""Of the images, and of the cutouts."""

SCALE = 1e-3
"""Degrees in a pixel."""

APART = 8
"""Pixels from the centre of an image to its two positions, along x."""

PACKED = 4
"""Each so-many-th file is tile-compressed."""

FAULTY = 100
"""One file, and one request, in so many is faulty."""

_REQUEST_FAULTS = (
    *("status", "reset", "reset-midway", "truncate", "short", "long", "shifted", "stall"),
    "no-content-range",
)
"""What a server does once, and not at the next attempt."""

Damage = Callable[[bytes], bytes | None]


def _at(content: bytes, keyword: bytes, card: bytes) -> bytes:
    """Put a card over the one with a keyword, in the image's header."""
    at = content.index(keyword, content.index(b"XTENSION"))
    return content[:at] + card.ljust(80) + content[at + 80 :]


_DAMAGE: dict[str, Damage] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "a web page": lambda _: b"<!DOCTYPE html><html><body>504 Gateway Time-out</body></html>",
    "cut in the first header": lambda content: content[:1500],
    "cut in the pixels": lambda content: content[: content.index(b"XTENSION") + 5760 + 100],
    "CTYPE1 of a galaxy": lambda content: _at(content, b"CTYPE1  =", b"CTYPE1  = 'GLON-TAN'"),
    "CRVAL1 with a comma": lambda content: _at(content, b"CRVAL1  =", b"CRVAL1  = 1,5E+01"),
    "BITPIX of 12": lambda content: _at(content, b"BITPIX  ", b"BITPIX  = 12"),
    "zeros": lambda content: bytes(len(content)),
}


def measure_night(*, files: int) -> Table:
    """Run the job once, and count what came of each cutout."""
    table = Table(f"A night: {files} files over HTTP", "")
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        damaged = _write(Path(folder), files)
        with ServerProcess(Path(folder)) as server:
            table.rows.append(_job(server, Path(folder), files, damaged))
            table.rows.append(_stack_job(server, Path(folder), files, damaged))
    return table


def _write(folder: Path, files: int) -> set[int]:
    """Write the files; the numbers of those that are damaged."""
    kinds = itertools.cycle(_DAMAGE.values())
    damaged = set()
    for n in range(files):
        path = folder / f"{n:05}.fits"
        image = fits.CompImageHDU if n % PACKED == 0 else fits.ImageHDU
        sci = image(_pixels(n), _header(n), name="SCI")
        fits.HDUList([fits.PrimaryHDU(), sci, fits.ImageHDU(_pixels(0), name="ERR")]).writeto(path)
        if n % FAULTY == FAULTY // 2:
            damaged.add(n)
            content = next(kinds)(path.read_bytes())
            path.unlink() if content is None else path.write_bytes(content)
    return damaged


def _pixels(n: int) -> npt.NDArray[np.int16]:
    """Make the pixels of a file, which no other one has."""
    y, x = np.indices((SIDE, SIDE))
    return (n + 3 * x + 5 * y).astype(np.int16)


def _place(n: int) -> tuple[float, float]:
    """Right ascension and declination of a file's centre."""
    return n % 100 * 3.0 + 1, n // 100 * 0.4 - 25


def _header(n: int) -> fits.Header:
    ra, dec = _place(n)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec})
    centre = SIDE / 2 + 1
    header.update({"CRPIX1": centre, "CRPIX2": centre, "CDELT1": -SCALE, "CDELT2": SCALE})
    header.update({f"KEY{k}": (k, "an instrument has much to say") for k in range(60)})
    return header


def _fail(server: RangeServer, *, requests: int) -> None:
    """Have one request in a hundred fail, each in another way than the one before."""
    kinds = itertools.cycle(_REQUEST_FAULTS)
    for n in range(FAULTY, requests, FAULTY):
        server.fail(next(kinds), first=n)


@contextmanager
def _two_workers() -> Iterator[Client]:
    """Start a cluster; what it and the job warn of is not printed."""
    with (
        warnings.catch_warnings(),
        LocalCluster(n_workers=2, threads_per_worker=2, host="127.0.0.1", dashboard_address=None)
        as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        warnings.simplefilter("ignore")
        yield client


def _job(server: ServerProcess, folder: Path, files: int, damaged: set[int]) -> Row:
    """Cut out, write, and compare."""
    server.order(partial(_fail, requests=4 * files))
    urls = [f"{server.url}/{n:05}.fits" for n in range(files)]
    near = np.cos(np.deg2rad([_place(n)[1] for n in range(files)]))
    shift = APART * SCALE / near
    ra, dec = np.array([_place(n) for n in range(files)]).T
    positions = SkyCoord(np.stack([ra - shift, ra + shift], 1).ravel(), dec.repeat(2), unit="deg")
    server.cost()
    with _two_workers() as client:
        before, start = max_rss(), time.perf_counter()
        found = dask_fits.cutouts(urls, positions, SIZE, hdus="SCI", fill_value=0)
        planned = time.perf_counter() - start
        done = found.to_zarr(folder / "night.zarr")
        seconds = time.perf_counter() - start
        client_memory, workers = max_rss(), max(client.run(max_rss).values())
    cost = server.cost()
    pixels = zarr.open_group(folder / "night.zarr", mode="r")["data"][...]
    counts = _compare(pixels, done, files, damaged)
    samples = {
        "seconds": [seconds],
        "of these to plan": [planned],
        "requests": [float(cost.requests)],
        **{name: [float(count)] for name, count in counts.items()},
        "client, MiB": [client_memory / MIB],
        "of these before the job": [before / MIB],
        "a worker, MiB": [workers / MIB],
    }
    checks = [
        Check("wrong", counts["wrong"], at_most=0),
        Check("not reported", counts["not reported"], at_most=0),
        Check("lost", counts["lost"], at_most=0),
    ]
    return Row(f"{2 * files} cutouts", samples, checks)


def _stack_job(server: ServerProcess, folder: Path, files: int, damaged: set[int]) -> Row:
    """Collect, stack, write, and compare."""
    server.order(partial(_fail, requests=4 * files))
    urls = [f"{server.url}/{n:05}.fits" for n in range(files)]
    server.cost()
    with _two_workers() as client:
        before, start = max_rss(), time.perf_counter()
        handles = len([*Path("/proc/self/fd").iterdir()])
        stack = dask_fits.stack(urls, hdu="SCI", on_error="nan", fill_value=0)
        collected = time.perf_counter() - start
        done = stack.to_zarr(folder / "stack.zarr")
        seconds = time.perf_counter() - start
        handles = len([*Path("/proc/self/fd").iterdir()]) - handles
        client_memory, workers = max_rss(), max(client.run(max_rss).values())
    cost = server.cost()
    data = zarr.open_group(folder / "stack.zarr", mode="r")["data"]
    failed = done.status == "failed"
    right = wrong = 0
    for first in range(0, files, 1000):
        pixels = data[first : first + 1000]
        for n in range(first, first + len(pixels)):
            expected = 0 if failed[n] else _pixels(n)
            same = bool((pixels[n - first] == expected).all())
            right, wrong = right + same, wrong + (not same)
    told = set(np.flatnonzero(failed).tolist())
    # A position on the sky that makes no sense is no damage of pixels.
    lost = told - damaged
    samples = {
        "seconds": [seconds],
        "of these to collect": [collected],
        "requests": [float(cost.requests)],
        "right": [float(right)],
        "wrong": [float(wrong)],
        "reported": [float(len(told & damaged))],
        "lost": [float(len(lost))],
        "client, MiB": [client_memory / MIB],
        "of these before the job": [before / MIB],
        "a worker, MiB": [workers / MIB],
        "descriptors more": [float(handles)],
    }
    checks = [Check("wrong", wrong, at_most=0), Check("lost", len(lost), at_most=0)]
    return Row(f"stack of {files} frames", samples, checks)


def _compare(
    pixels: npt.NDArray[np.int16], done: Cutouts, files: int, damaged: set[int]
) -> dict[str, int]:
    """Count the cutouts that are right and wrong, and the files that are reported or are not."""
    right = wrong = lost = 0
    told = {int(Path(name).stem) for name in done.failures}
    told |= {
        int(done.file[row])
        for row in np.flatnonzero(done.status == "failed")
        if done.file[row] >= 0
    }
    cut = {
        int(position): row
        for row, (position, status) in enumerate(zip(done.position, done.status, strict=True))
        if status == "ok"
    }
    for n in range(files):
        for side in range(2):
            row = cut.get(2 * n + side)
            if row is None:
                lost += n not in damaged
                continue
            first = SIDE // 2 - SIZE // 2
            x = first + (APART if side == 0 else -APART)
            expected = _pixels(n)[first : first + SIZE, x : x + SIZE]
            same = np.array_equal(pixels[row], expected)
            right, wrong = right + same, wrong + (not same)
    return {
        "right": right,
        "wrong": wrong,
        "reported": len(told & damaged),
        "not reported": len(damaged - told),
        "lost": lost,
    }
