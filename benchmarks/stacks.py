"""Stacks: what their graphs cost, and how fast many small files are read."""

from __future__ import annotations

import math
import pickle
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io import fits

import dask_fits
from benchmarks.harness import Check, Row, Table, clock, interleave, ratio
from benchmarks.images import MIB
from benchmarks.server import ServerProcess
from dask_fits.readers.reader import HduReader
from dask_fits.stacks.array import stack_array
from dask_fits.stacks.frames import ReaderFrames
from dask_fits.stacks.reader import READS, StackReader

FRAMES = 100_000
SIDES = ((64, 64), (2048, 4096), (16_384, 16_384))

FILES, SIDE = 512, 128
LATENCY = 0.03
REMOTE = 64


@dataclass(frozen=True)
class NamedFrames:
    """Frames as a table has them: URLs and versions in columns."""

    urls: npt.NDArray[np.bytes_]
    versions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.urls)

    def take(self, indices: npt.NDArray[np.int64]) -> NamedFrames:
        return NamedFrames(self.urls[indices], self.versions[indices])

    def readers(self) -> list[HduReader]:
        raise AssertionError("nothing is read")

    def __dask_tokenize__(self) -> object:
        return len(self), int(self.versions[0])


@dataclass(frozen=True)
class TableFrames:
    """Frames that a table has, of which the graph has the rows alone."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def take(self, indices: npt.NDArray[np.int64]) -> TableFrames:
        return TableFrames(self.first + int(indices[0]), self.first + int(indices[-1]) + 1)

    def readers(self) -> list[HduReader]:
        raise AssertionError("nothing is read")

    def __dask_tokenize__(self) -> object:
        return "survey.parquet", self.first, self.stop


def measure_stacks(*, rounds: int) -> Iterator[Table]:
    """Make graphs of very many frames; read small files from disk and from a web server."""
    yield _measure_graphs(rounds)
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        paths = _write_files(Path(folder))
        yield _measure_disk(paths, rounds)
        with ServerProcess(Path(folder)) as server:
            server.be(latency=LATENCY)
            yield _measure_remote(server, rounds)


def _measure_graphs(rounds: int) -> Table:
    table = Table(f"Graphs of stacks of {FRAMES} frames, {10 * FRAMES} of a table", "s")
    names = np.char.add("s3://survey/2026/11/29/exposure-", np.arange(FRAMES).astype("U6"))
    versions = np.random.default_rng(0).integers(0, 1 << 62, FRAMES)
    named = NamedFrames(np.char.encode(names), versions)
    for shape in SIDES:
        table.rows.append(_graph_row(named, shape, rounds, build=1, megabytes=20))
    rows_of_a_table = TableFrames(0, 10 * FRAMES)
    for shape in SIDES[:2]:
        table.rows.append(_graph_row(rows_of_a_table, shape, rounds, build=0.2, megabytes=1))
    return table


def _graph_row(
    frames: NamedFrames | TableFrames,
    shape: tuple[int, int],
    rounds: int,
    *,
    build: float,
    megabytes: float,
) -> Row:
    reader = StackReader(frames, shape, np.dtype("f4"), np.nan)
    array = stack_array(reader)

    def cut() -> da.Array:
        return dask.optimize(array[len(frames) // 3, 100:110, 20:30])[0]

    contenders = {"build": partial(stack_array, reader), "slice and optimize": cut}
    samples = interleave(
        {name: partial(clock, run) for name, run in contenders.items()}, rounds=rounds
    )
    (task,) = dict(cut().dask).values()
    checks = [
        Check("build [s]", statistics.median(samples["build"]), at_most=build),
        Check("slice [s]", statistics.median(samples["slice and optimize"]), at_most=0.05),
        Check("graph [MB]", len(cloudpickle.dumps(array)) / 1e6, at_most=megabytes),
        Check("task [kB]", len(pickle.dumps(task)) / 1e3, at_most=2),
        Check("chunks", array.npartitions),
    ]
    return Row(f"{len(frames)} of {shape[0]} x {shape[1]}", samples, checks)


def _write_files(folder: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04}.fits" for number in range(FILES)]
    for path in paths:
        fits.PrimaryHDU(random.random((SIDE, SIDE), np.float32)).writeto(path)
    return paths


def _stack(readers: list[HduReader]) -> da.Array:
    return stack_array(StackReader(ReaderFrames(readers), readers[0].shape, readers[0].dtype))


def _measure_disk(paths: list[Path], rounds: int) -> Table:
    """Read all files, and a pixel of each: opened before the clock starts, except astropy's."""
    table = Table(f"{FILES} local files of {SIDE} x {SIDE}", "s")
    readers = [dask_fits.open(path)[0].reader() for path in paths]
    stack = _stack(readers)
    arrays = da.stack([dask_fits.from_fits(path) for path in paths])
    for name, key in {"all": np.s_[:], "a column of 10 pixels": np.s_[:, 5:15, 7]}.items():
        contenders: dict[str, Callable[[], object]] = {
            "dask_fits": partial(_computed, stack, key),
            "da.stack": partial(_computed, arrays, key),
            "astropy": partial(_astropys, paths, key[1:] if isinstance(key, tuple) else ...),
        }
        for other in ("da.stack", "astropy"):
            np.testing.assert_array_equal(contenders["dask_fits"](), contenders[other]())
        timed = {name: partial(clock, run) for name, run in contenders.items()}
        samples = interleave(timed, rounds=rounds)
        checks = [
            ratio(samples, "da.stack", "dask_fits", at_least=2),
            ratio(samples, "astropy", "dask_fits", at_least=2),
        ]
        table.rows.append(Row(name, samples, checks))
    return table


def _computed(array: da.Array, key: object) -> npt.NDArray:
    return array[key].compute(scheduler="threads")


def _astropys(paths: list[Path], key: object) -> npt.NDArray:
    frames = []
    for path in paths:
        with fits.open(path) as file:
            frames.append(file[0].section[key].copy())
    return np.stack(frames)


def _measure_remote(server: ServerProcess, rounds: int) -> Table:
    """Read one chunk of many files, which is one task."""
    urls = [f"{server.url}/{number:04}.fits" for number in range(REMOTE)]
    stack = _stack([dask_fits.open(url)[0].reader() for url in urls])
    samples, _ = server.measure({"dask_fits": stack.compute}, rounds=rounds)
    samples["ideal"] = [math.ceil(REMOTE / READS) * LATENCY]
    size = stack.nbytes / MIB
    row = Row(
        f"a chunk of {REMOTE} files, {size:.0f} MiB",
        samples,
        [ratio(samples, "dask_fits", "ideal", at_most=1.6)],
    )
    return Table(f"Remote files, {1000 * LATENCY:.0f} ms, {READS} at a time", "s", [row])
