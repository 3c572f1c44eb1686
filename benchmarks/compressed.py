"""Speed of reading tile-compressed images: with what is optional and without, and from cold."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import dask
import fitsio
import numpy as np
import numpy.typing as npt
from astropy.io import fits

import dask_fits
from benchmarks.harness import Row, Table, clock, interleave, ratio
from benchmarks.images import mask_image, sky_image, write_tiled

SIDE, SMALL_SIDE = 4096, 2048
CHUNK_ROWS = 512
"""Of the chunks that two threads share: whole tiles in every case."""

ROWS, SQUARES, SMALL = (1, SIDE), (512, 512), (16, 16)
BANDS = (16, SIDE)
"""Tiles of HCOMPRESS_1, which takes no single rows."""

MOST_ROUNDS = 3
"""Of whole images: there are many."""

COMPILED = ("RICE_1", "HCOMPRESS_1")
"""Algorithms whose first read is measured."""

OURS, OURS_ON_TWO = "dask_fits", "dask_fits, 2 threads"
ASTROPY, FITSIO = "astropy", "fitsio"
ALONE = {ASTROPY: "astropy, 1 thread", FITSIO: "fitsio, 1 thread"}
NO_NUMBA, NO_ISAL = "without numba", "without isal"

Read = Callable[[Path], Sequence[npt.NDArray]]
"""From a file to the bands of rows of its image, in order."""

Aims = Mapping[str, tuple[float | None, float | None]]
"""At least how many times as fast as astropy and fitsio the images of an algorithm are read."""

ONE_THREAD: Aims = {
    "RICE_1": (1.5, 2.5),
    "GZIP_1": (1.8, None),
    "GZIP_2": (2.5, None),
    "PLIO_1": (2, None),
    "HCOMPRESS_1": (0.9, 1.6),
}
TWO_THREADS: Aims = {"RICE_1": (1.8, 3.5)}
WITHOUT_NUMBA: Aims = dict.fromkeys(ONE_THREAD, (1, None))
WITHOUT_ISAL: Aims = {"GZIP_2": (1.8, None)}

FIRST_READ = """
import sys, time
{before}
start = time.perf_counter()
{read}
print(time.perf_counter() - start)
"""
READ_WITH_OURS = "import dask_fits; dask_fits.open({path!r})[1].data[:16, :64].compute()"
READ_WITH_ASTROPY = "from astropy.io import fits; fits.open({path!r})[1].section[:16, :64]"
BLOCK = "import sys; sys.modules[{module!r}] = None"


@dataclass(frozen=True, slots=True)
class TiledFile:
    """A FITS file with one tile-compressed image, in HDU 1."""

    folder: Path
    algorithm: str
    image: str
    """Type of its pixels, or "mask"."""
    tile: tuple[int, int]
    side: int = SIDE

    @property
    def name(self) -> str:
        """What sets it apart from the others."""
        return f"{self.algorithm} {self.image}, {self.tile[0]} x {self.tile[1]}"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / f"{self.name}, {self.side}.fits"

    def write(self) -> None:
        """Make it."""
        if self.image == "mask":
            image = mask_image(self.side)
        else:
            image = sky_image(self.side).astype(self.image)
        write_tiled(self.path, image, algorithm=self.algorithm, tile=self.tile)


def measure_compressed(*, rounds: int) -> Iterator[Table]:
    """Write the images, then read each with all contenders."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name:
        folder = Path(name)
        files = _files(folder)
        small = TiledFile(folder, "RICE_1", "int16", SMALL, SMALL_SIDE)
        with _processes(2) as pool:  # the slowest first: of dithered floats, zlib takes a minute
            slow = sorted(files, key=lambda file: (file.algorithm != "GZIP_1", file.image))
            list(pool.map(TiledFile.write, [*slow, small]))
        yield from _measure_reads(files, min(rounds, MOST_ROUNDS))
        yield _measure_small_tiles(small, rounds)
        yield _measure_first_reads(files, rounds)


def _files(folder: Path) -> list[TiledFile]:
    images = {
        "RICE_1": ("int16", "int32", "float32"),
        "GZIP_1": ("int16", "float32"),
        "GZIP_2": ("int16", "float32"),
        "PLIO_1": ("mask",),
        "HCOMPRESS_1": ("int16", "float32"),
    }
    return [
        TiledFile(folder, algorithm, image, tile)
        for algorithm, names in images.items()
        for image in names
        for tile in (BANDS if algorithm == "HCOMPRESS_1" else ROWS, SQUARES)
    ]


def _measure_reads(files: list[TiledFile], rounds: int) -> Iterator[Table]:
    """Read whole images with all contenders in turn, and compare them in four ways."""
    kind = f"Tile-compressed images of {SIDE} x {SIDE}"
    one = Table(f"{kind}, 1 thread", "s")
    two = Table(f"{kind}, 2 threads against 1 of the peers, which have no more", "s")
    no_numba = Table(f"{kind}, 1 thread, {NO_NUMBA}", "s")
    no_isal = Table(f"{kind}, 1 thread, {NO_ISAL}", "s")
    with ExitStack() as stack:
        children = {
            name: stack.enter_context(_processes(1, BLOCK.format(module=name.split()[-1])))
            for name in (NO_NUMBA, NO_ISAL)
        }
        for file in files:
            samples = _samples(file, children, rounds)
            one.rows.append(_row(file, samples, OURS, ONE_THREAD))
            alone = {ALONE.get(name, name): raw for name, raw in samples.items()}
            two.rows.append(
                _row(file, alone, OURS_ON_TWO, TWO_THREADS, peers=tuple(ALONE.values()))
            )
            no_numba.rows.append(_row(file, samples, NO_NUMBA, WITHOUT_NUMBA))
            if NO_ISAL in samples:
                no_isal.rows.append(_row(file, samples, NO_ISAL, WITHOUT_ISAL))
    yield from (one, two, no_numba, no_isal)


def _samples(
    file: TiledFile, children: Mapping[str, ProcessPoolExecutor], rounds: int
) -> dict[str, list[float]]:
    path = file.path
    readers: dict[str, Read] = {
        OURS: _ours,
        OURS_ON_TWO: _ours_on_two,
        ASTROPY: _astropy,
        FITSIO: _fitsio,
    }
    _check_equal(path, list(readers.values()))
    contenders = {name: partial(_seconds, read, path) for name, read in readers.items()}
    for name, child in children.items():
        if name == NO_ISAL and not file.algorithm.startswith("GZIP"):
            continue
        child.submit(_check_equal, path, [_ours, _astropy]).result()
        contenders[name] = partial(_in_child, child, _ours, path)
    return interleave(contenders, rounds=rounds)


def _row(
    file: TiledFile,
    samples: Mapping[str, Sequence[float]],
    ours: str,
    aims: Aims,
    *,
    peers: Sequence[str] = (ASTROPY, FITSIO),
) -> Row:
    """Compare one of ours with the peers."""
    checks = [
        ratio(samples, peer, ours, at_least=aim)
        for peer, aim in zip(peers, aims.get(file.algorithm, (None, None)), strict=True)
    ]
    return Row(file.name, {name: samples[name] for name in (ours, *peers)}, checks)


def _measure_small_tiles(file: TiledFile, rounds: int) -> Table:
    readers: dict[str, Read] = {OURS: _ours, ASTROPY: _astropy, FITSIO: _fitsio}
    _check_equal(file.path, list(readers.values()))
    contenders = {name: partial(_seconds, read, file.path) for name, read in readers.items()}
    found = interleave(contenders, rounds=rounds)
    tiles = (file.side // file.tile[0]) * (file.side // file.tile[1])
    samples = {name: [1e6 * seconds / tiles for seconds in raw] for name, raw in found.items()}
    return Table(f"{tiles} small tiles, 1 thread, each", "us", [_row(file, samples, OURS, {})])


def _measure_first_reads(files: list[TiledFile], rounds: int) -> Table:
    """Import and read a few pixels in new processes, with and without kernels in numba's cache."""
    table = Table("Import and first read, in new processes", "s")
    for file in files:
        if (file.image, file.tile) != ("int16", SQUARES) or file.algorithm not in COMPILED:
            continue
        ours, empty = READ_WITH_OURS.format(path=str(file.path)), "empty cache"
        with tempfile.TemporaryDirectory(dir=file.folder) as cache:
            compiling = _first_read(ours, cache=cache)  # once: it takes ten times as long
            contenders = {
                "full cache": partial(_first_read, ours, cache=cache),
                NO_NUMBA: partial(_first_read, ours, before=BLOCK.format(module="numba")),
                ASTROPY: partial(_first_read, READ_WITH_ASTROPY.format(path=str(file.path))),
            }
            samples = {empty: [compiling], **interleave(contenders, rounds=rounds)}
        checks = [ratio(samples, ASTROPY, name) for name in samples if name != ASTROPY]
        table.rows.append(Row(file.name, samples, checks))
    return table


def _first_read(read: str, *, before: str = "", cache: str = "") -> float:
    command = [sys.executable, "-c", FIRST_READ.format(before=before, read=read)]
    environment = os.environ | {"NUMBA_CACHE_DIR": cache}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(run.stdout)


def _processes(count: int, first: str = "") -> ProcessPoolExecutor:
    """Start new processes, which begin with a line of Python: before they import dask_fits."""
    context = get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=exec, initargs=(first,))


def _in_child(child: ProcessPoolExecutor, read: Read, path: Path) -> float:
    return child.submit(_seconds, read, path).result()


def _seconds(read: Read, path: Path) -> float:
    return clock(partial(read, path))


def _check_equal(path: Path, readers: list[Read]) -> None:
    """Make sure that all contenders read the same pixels as astropy, to the bit."""
    expected = _astropy(path)[0]
    for read in readers:
        found = np.concatenate(read(path))
        same = (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if not same or found.tobytes() != expected.tobytes():
            raise AssertionError(f"{path.stem}: the contenders read different pixels")


def _ours(path: Path) -> Sequence[npt.NDArray]:
    blocks = dask_fits.open(path)[1].to_dask(chunks=-1).to_delayed().ravel()
    return dask.compute(*blocks, scheduler="synchronous")


def _ours_on_two(path: Path) -> Sequence[npt.NDArray]:
    blocks = dask_fits.open(path)[1].to_dask(chunks=(CHUNK_ROWS, -1)).to_delayed().ravel()
    return dask.compute(*blocks, scheduler="threads", num_workers=2)


def _astropy(path: Path) -> Sequence[npt.NDArray]:
    with fits.open(path) as hdus:
        return (hdus[1].data,)


def _fitsio(path: Path) -> Sequence[npt.NDArray]:
    return (fitsio.read(path, ext=1),)
