"""Speed and cost of reading a file from a web server: its headers, a cutout, a whole image.

Connections stay open from one round to the next: fsspec keeps its session, which ours and astropy
share in this process; the workers of the cluster keep theirs. Only a download connects anew, which
costs nothing here (see `ServerProcess`).
"""

from __future__ import annotations

import shutil
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from distributed import Client, LocalCluster

import dask_fits
from benchmarks.harness import Row, Table, ratio
from benchmarks.images import KIB, MIB, write_noise
from benchmarks.parallel import BANDWIDTH, measure_parts, measure_pool, write_chunks
from benchmarks.server import Cost, ServerProcess

LINES = ((0.0, None), (0.03, None), (0.1, None), (0.03, BANDWIDTH))
"""Latency, and bandwidth of each connection: loopback's own (above 500 MB/s) where it is None."""

COLUMNS = 4096
EXTENSIONS = 3
CUTOUT = 256
PROCESSES, THREADS = 2, 2
CHUNK = "16 MiB"

OURS, ASTROPY, DOWNLOAD = "dask_fits", "astropy", "download"

Contenders = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Case:
    """A task: done by ours, and by astropy on the file behind the URL or on a copy of it."""

    name: str
    ours: Callable[[str], object]
    astropy: Callable[[fits.HDUList], object]
    is_frugal: bool = False
    """Whether ours should take no more requests and bytes than astropy."""


def measure_remote(*, size_mb: int, rounds: int) -> Iterator[Table]:
    """Read from an image of `size_mb` MiB beside the peers, then many chunks and one large one."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name:
        folder = Path(name)
        write_noise(folder / "hdus.fits", _shape(size_mb), extensions=EXTENSIONS)
        write_chunks(folder / "chunks.fits")
        with ServerProcess(folder) as server:
            yield from _measure_cases(server, folder, rounds)
            yield measure_pool(server, f"{server.url}/chunks.fits", rounds=rounds)
            yield measure_parts(server, f"{server.url}/hdus.fits", rounds=rounds)


def _shape(size_mb: int) -> tuple[int, int]:
    return (size_mb * MIB // (4 * COLUMNS), COLUMNS)


def _measure_cases(server: ServerProcess, folder: Path, rounds: int) -> Iterator[Table]:
    seconds = Table(f"Remote reads, a file of {EXTENSIONS + 1} HDUs", "s")
    requests = Table("Requests of the same", "number")
    nbytes = Table("Bytes sent for the same", "MiB")
    url = f"{server.url}/hdus.fits"
    with _cluster(folder) as client:
        for case in _cases(client):
            contenders: Contenders = {
                OURS: partial(case.ours, url),
                ASTROPY: partial(_from_url, case.astropy, url),
                DOWNLOAD: partial(_from_copy, case.astropy, url, folder),
            }
            _check_equal(contenders)
            costs: dict[str, list[Cost]] = defaultdict(list)
            for latency, bandwidth in LINES:
                server.be(latency=latency, bandwidth=bandwidth)
                samples, added = server.measure(contenders, rounds=rounds)
                for contender, found in added.items():
                    costs[contender] += found
                line = f"{1000 * latency:.0f} ms"
                line += f" and {bandwidth / 1e6:.0f} MB/s" if bandwidth else ""
                aim = {"at_least": 1} if latency else {}
                checks = [ratio(samples, ASTROPY, OURS, **aim), ratio(samples, DOWNLOAD, OURS)]
                seconds.rows.append(Row(f"{case.name}, {line}", samples, checks))
            asked = {key: [float(cost.requests) for cost in found] for key, found in costs.items()}
            sent = {key: [cost.nbytes / MIB for cost in found] for key, found in costs.items()}
            for table, samples in ((requests, asked), (nbytes, sent)):
                aim = {"at_most": 1} if case.is_frugal else {}
                table.rows.append(Row(case.name, samples, [ratio(samples, OURS, ASTROPY, **aim)]))
    yield from (seconds, requests, nbytes)


@contextmanager
def _cluster(folder: Path) -> Iterator[Client]:
    """Yield a client of worker processes; they are idle where a case does not use them."""
    with (
        LocalCluster(
            n_workers=PROCESSES,
            threads_per_worker=THREADS,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=folder / "workers",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _cases(client: Client) -> list[Case]:
    mean = f"open and mean, ours in {PROCESSES} processes"
    return [
        Case("open and list", _list_with_ours, _list_with_astropy),
        Case("open and cut out", _cut_with_ours, _cut_with_astropy, is_frugal=True),
        Case(mean, partial(_mean_with_ours, client), _mean_with_astropy),
    ]


def _list_with_ours(url: str) -> list[tuple[object, ...]]:
    return [(hdu.name, hdu.ver, hdu.shape) for hdu in dask_fits.open(url)]


def _list_with_astropy(hdus: fits.HDUList) -> list[tuple[object, ...]]:
    return [(name, ver, shape[::-1]) for _, name, ver, _, _, shape, *_ in hdus.info(output=False)]


def _cut_with_ours(url: str) -> npt.NDArray:
    hdu = dask_fits.open(url)[0]
    return hdu.reader()[_middle(hdu.shape)]


def _cut_with_astropy(hdus: fits.HDUList) -> npt.NDArray:
    return hdus[0].section[_middle(hdus[0].shape)]


def _middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(length // 2, length // 2 + CUTOUT) for length in shape)


def _mean_with_ours(client: Client, url: str) -> float:
    return client.compute(dask_fits.from_fits(url, chunks=CHUNK).mean()).result()


def _mean_with_astropy(hdus: fits.HDUList) -> float:
    """Read and average in one process: astropy has no parallel way."""
    return hdus[0].data.mean()


def _from_url(task: Callable[[fits.HDUList], object], url: str) -> object:
    with fits.open(url, use_fsspec=True) as hdus:
        return task(hdus)


def _from_copy(task: Callable[[fits.HDUList], object], url: str, folder: Path) -> object:
    with tempfile.NamedTemporaryFile(dir=folder) as copy:
        with urllib.request.urlopen(url) as answer:
            shutil.copyfileobj(answer, copy, 256 * KIB)
        copy.flush()
        with fits.open(copy.name) as hdus:
            return task(hdus)


def _check_equal(contenders: Contenders) -> None:
    """Make sure that all do the same; means may round in their own ways."""
    ours, *others = (run() for run in contenders.values())
    for other in others:
        if isinstance(ours, list):
            np.testing.assert_equal(ours, other)
        else:
            np.testing.assert_allclose(ours, other, rtol=1e-4)
