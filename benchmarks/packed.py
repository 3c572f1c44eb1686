"""Speed of files that are compressed as a whole: full reads, parts by an index, remote cutouts."""

from __future__ import annotations

import bz2
import gzip
import io
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import uncompresspy
from astropy.io import fits

import dask_fits
from benchmarks.harness import Row, Table, clock, interleave, ratio
from benchmarks.server import ServerProcess
from dask_fits.storage import index_file, indexed, packed
from dask_fits.storage.unpacked import UNPACKED_BYTES, UnpackedFiles
from dask_fits.streams.bzip2 import Bzip2Decoder
from dask_fits.streams.lzw import LzwDecoder
from tests.support.lzw_encoder import compress

PLANES, SIDE = 32, 1024
"""Of the cubes: 64 or 128 MiB."""

SMALL_SIDE = 2048
"""Of the images that are read remotely, and by slow peers."""

CUTOUT, CUTOUTS = 64, 10

OURS, INDEXING = "dask_fits", "dask_fits, index built"
ON_TWO = "dask_fits, 2 threads"
BY_INDEX = "dask_fits, by index"
ASTROPY, GUNZIP = "astropy", "gunzip"
BZ2, UNCOMPRESSPY = "bz2", "uncompresspy"


def measure_packed(*, rounds: int) -> Iterator[Table]:
    """Write the files, then read them with all contenders."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name:
        folder = Path(name)
        files = {kind: _write(folder / f"{kind}.fits.gz", cube) for kind, cube in _cubes()}
        yield _measure_full_reads(files, folder, rounds)
        yield _measure_by_index(files, folder, rounds)
        yield _measure_others(rounds)
        yield from _measure_remote(folder)


def _cubes() -> Iterator[tuple[str, npt.NDArray]]:
    rng = np.random.default_rng(1)
    shape = (PLANES, SIDE, SIDE)
    yield "int16 counts", (rng.poisson(30, shape) + 1000).astype(np.int16)
    noise = rng.normal(size=shape).astype(np.float32)
    yield "float32 noise", noise
    yield "float32, half zeros", np.where(rng.random(shape) < 0.5, noise, 0).astype(np.float32)


def _write(path: Path, image: npt.NDArray) -> Path:
    buffer = io.BytesIO()
    fits.PrimaryHDU(image).writeto(buffer)
    path.write_bytes(gzip.compress(buffer.getvalue(), 6))
    return path


@contextmanager
def _afresh() -> Iterator[None]:
    """Forget what this process has unpacked, and its indexes."""
    packed.FILES = UnpackedFiles(UNPACKED_BYTES)
    indexed.INDEXES = packed.INDEXES = index_file.Indexes()
    yield


def _read(path: Path) -> npt.NDArray:
    with _afresh():
        return dask_fits.open(path, index=None)[0].section[...]


def _build(path: Path) -> object:
    with _afresh(), tempfile.TemporaryDirectory(dir=path.parent) as name:
        return dask_fits.open(path, index=name).build_index()


def _gunzip(path: Path) -> None:
    subprocess.run(["gunzip", "-c", str(path)], stdout=subprocess.DEVNULL, check=True)


def _read_with_astropy(path: Path) -> npt.NDArray:
    with fits.open(path, decompress_in_memory=True) as hdus:
        return np.array(hdus[0].data)


def _in_new_process(read: Callable[[Path], object], path: Path, small: Path) -> float:
    """Time the first large read of a process.

    A second one takes half as long again, or less than the first, by what the system does with the
    memory that was given back.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(clock, partial(read, small)).result()
        return pool.submit(clock, partial(read, path)).result()


def _timed(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    return interleave({k: partial(clock, run) for k, run in contenders.items()}, rounds=rounds)


def _measure_full_reads(files: dict[str, Path], folder: Path, rounds: int) -> Table:
    table = Table("Full read of a local .fits.gz, one thread, in a new process", "s")
    small = _write(folder / "small.fits.gz", np.zeros((9, 9), np.int16))
    for kind, path in files.items():
        samples = interleave(
            {
                OURS: partial(_in_new_process, _read, path, small),
                INDEXING: partial(_in_new_process, _build, path, small),
                GUNZIP: partial(clock, partial(_gunzip, path)),
                ASTROPY: partial(_in_new_process, _read_with_astropy, path, small),
            },
            rounds=rounds,
        )
        checks = [
            ratio(samples, ASTROPY, OURS, at_least=2),
            ratio(samples, GUNZIP, OURS),
            ratio(samples, GUNZIP, INDEXING, at_least=1),
        ]
        table.rows.append(Row(kind, samples, checks))
    return table


def _measure_by_index(files: dict[str, Path], folder: Path, rounds: int) -> Table:
    """Read bands of four planes by an index, and drop each, as gunzip's output is."""
    table = Table("The same by an index, in bands of four planes", "s")
    for kind, path in files.items():
        reader = dask_fits.open(path, index=folder / "index").build_index()[0].reader()
        bands = [slice(first, first + 4) for first in range(0, PLANES, 4)]

        def read(threads: int, reader: Any = reader, bands: list[slice] = bands) -> None:
            with ThreadPoolExecutor(threads) as pool:
                for shape in pool.map(lambda band: reader[band].shape, bands):
                    assert shape[1:] == (SIDE, SIDE)

        samples = _timed(
            {
                BY_INDEX: partial(read, 1),
                ON_TWO: partial(read, 2),
                GUNZIP: partial(_gunzip, path),
            },
            rounds,
        )
        checks = [
            ratio(samples, GUNZIP, BY_INDEX, at_least=2),
            ratio(samples, GUNZIP, ON_TWO, at_least=3.5),
        ]
        table.rows.append(Row(kind, samples, checks))
    return table


def _measure_others(rounds: int) -> Table:
    """Measure the decoders of bzip2 and compress(1)."""
    table = Table("Other formats, bytes in memory", "s")
    rng = np.random.default_rng(2)
    content = (rng.poisson(30, 1 << 23) + 1000).astype(">i2").tobytes()
    stream = bz2.compress(content)
    samples = _timed(
        {
            OURS: lambda: list(Bzip2Decoder(1).decode(memoryview(stream))),
            ON_TWO: lambda: list(Bzip2Decoder(2).decode(memoryview(stream))),
            BZ2: lambda: bz2.decompress(stream),
        },
        rounds,
    )
    checks = [ratio(samples, BZ2, ON_TWO, at_least=1.5)]
    table.rows.append(Row("bzip2, int16 counts, 16 MiB", samples, checks))
    short = compress(content[: 1 << 22])
    samples = _timed(
        {
            OURS: lambda: list(LzwDecoder().decode(memoryview(short))),
            UNCOMPRESSPY: lambda: uncompresspy.open(io.BytesIO(short)).read(),
        },
        rounds,
    )
    checks = [ratio(samples, UNCOMPRESSPY, OURS, at_least=5)]
    table.rows.append(Row(".Z, int16 counts, 4 MiB", samples, checks))
    return table


def _measure_remote(folder: Path) -> Iterator[Table]:
    """Read ten cutouts of a file behind a web server, in a process that knows nothing of it."""
    rng = np.random.default_rng(3)
    image = (rng.poisson(30, (SMALL_SIDE, SMALL_SIDE)) + 1000).astype(np.int16)
    _write(folder / "remote.fits.gz", image)
    corners = rng.integers(0, SMALL_SIDE - CUTOUT, (CUTOUTS, 2)).tolist()
    keys = [(slice(y, y + CUTOUT), slice(x, x + CUTOUT)) for y, x in corners]
    seconds = Table(f"{CUTOUTS} cutouts of {CUTOUT} x {CUTOUT} of a remote .fits.gz", "s")
    nbytes = Table("Bytes sent for the same", "MiB")
    requests = Table("Requests of the same", "number")
    with ServerProcess(folder) as server:
        url = f"{server.url}/remote.fits.gz"
        with _afresh():
            dask_fits.open(url, index=folder / "remote-index").build_index()

        def ours(index: Path | None) -> object:
            with _afresh():
                hdu = dask_fits.open(url, index=index)[0]
                return [hdu.section[key] for key in keys]

        def astropys() -> object:
            with fits.open(url, use_fsspec=True) as hdus:
                return [np.array(hdus[0].section[key]) for key in keys]

        contenders = {
            OURS: partial(ours, None),
            BY_INDEX: partial(ours, folder / "remote-index"),
            ASTROPY: astropys,
        }
        for latency in (0.0, 0.03):
            server.be(latency=latency, bandwidth=None)
            # Once: astropy unpacks the file anew for each cutout above the one before.
            samples, costs = server.measure(contenders, rounds=1)
            checks = [ratio(samples, ASTROPY, name, at_least=1) for name in (OURS, BY_INDEX)]
            case = f"{latency * 1000:.0f} ms"
            seconds.rows.append(Row(case, samples, checks))
            sent = {name: [cost.nbytes / 2**20 for cost in found] for name, found in costs.items()}
            nbytes.rows.append(Row(case, sent, [ratio(sent, ASTROPY, OURS)]))
            asked = {
                name: [float(cost.requests) for cost in found] for name, found in costs.items()
            }
            requests.rows.append(Row(case, asked, []))
    yield from (seconds, nbytes, requests)
