"""Collections: collecting over HTTP and from disk, an index of a million rows, stacks of it."""

from __future__ import annotations

import os
import pickle
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from ccdproc import ImageFileCollection

import dask_fits
from benchmarks.harness import Check, Row, Table, clock, interleave, ratio
from benchmarks.server import ServerProcess
from dask_fits.collections.columns import FIXED, HeldColumns
from dask_fits.collections.parquet import write_parquet

REMOTE_FILES = 10_000
LATENCY = 0.03
LOCAL_FILES = 1_000
ROWS = 1_000_000
CARDS = 120
"""Cards of a header besides those of the image and its WCS."""

KEYWORDS = ["FILTER", "EXPTIME", "DATE-OBS"]
STACKED = 100_000


def measure_collections(*, rounds: int) -> Iterator[Table]:
    """Collect over HTTP and from disk; open and select from a million rows; stack them."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        yield _measure_remote(Path(folder))
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        paths = _write(Path(folder), LOCAL_FILES)
        yield _measure_local(paths, rounds)
        yield _measure_datasets(paths, rounds)
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        yield _measure_index(Path(folder), rounds)


def _write(folder: Path, count: int) -> list[Path]:
    """Write files with headers as instruments have them, and small images."""
    rng = np.random.default_rng(1)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg"})
    header.update({"CUNIT2": "deg", "CRPIX1": 32.5, "CRPIX2": 32.5, "RADESYS": "ICRS"})
    header.update({"CD1_1": -1e-4, "CD1_2": 1e-6, "CD2_1": 1e-6, "CD2_2": 1e-4})
    header.update({"CRVAL1": 10.0, "CRVAL2": 41.0, "FILTER": "r", "EXPTIME": 30.0})
    header["DATE-OBS"] = "2024-01-02T03:04:05.678"
    header.update({f"KEY{n}": (n / 7, "an instrument has much to say") for n in range(CARDS)})
    first = folder / "00000.fits"
    fits.PrimaryHDU(rng.integers(0, 1000, (64, 64), np.int16), header).writeto(first)
    content = first.read_bytes()
    paths = [first]
    for number in range(1, count):
        path = folder / f"{number:05}.fits"
        ra = f"CRVAL1  = {number % 360 + number / 7919 % 1:20.9f}".encode()
        dec = f"CRVAL2  = {number % 170 - 85 + number / 104729 % 1:20.9f}".encode()
        date = f"DATE-OBS= '2024-01-{number % 28 + 1:02}T03:{number % 60:02}:05.678'".encode()
        changed = content
        for card in (ra, dec, date):
            at = changed.index(card[:8])
            changed = changed[:at] + card.ljust(80) + changed[at + 80 :]
        path.write_bytes(changed)
        paths.append(path)
    return paths


def _measure_remote(folder: Path) -> Table:
    """Collect ten thousand files, each a request of 30 ms, once."""
    table = Table(f"Collect {REMOTE_FILES} files over HTTP, {LATENCY * 1000:.0f} ms", "s")
    names = [path.name for path in _write(folder, REMOTE_FILES)]
    with ServerProcess(folder) as server:
        server.be(latency=LATENCY)
        dask_fits.open_collection([f"{server.url}/{name}" for name in names[:64]])
        server.cost()
        urls = [f"{server.url}/{name}" for name in names]
        cpu = time.process_time()
        start = time.perf_counter()
        found = dask_fits.open_collection(urls, keywords=KEYWORDS)
        seconds = time.perf_counter() - start
        cpu = time.process_time() - cpu
        cost = server.cost()
    checks = [
        Check("seconds", seconds, at_most=15),
        Check("requests a file", cost.requests / REMOTE_FILES, at_most=1.02),
        Check("CPU ms a file", 1000 * cpu / REMOTE_FILES),
        Check("rows", float(len(found) - len(found.failures))),
    ]
    table.rows.append(Row("one process", {"dask_fits": [seconds]}, checks))
    return table


def _measure_local(paths: list[Path], rounds: int) -> Table:
    """Tabulate three keywords of a thousand local files."""
    table = Table(f"Collect {LOCAL_FILES} local files", "s")
    contenders = {
        "dask_fits": partial(clock, partial(dask_fits.open_collection, paths, keywords=KEYWORDS)),
        "getheader": partial(clock, partial(_headers, paths)),
        "getheader, footprint": partial(clock, partial(_footprints, paths)),
        "ccdproc": partial(clock, partial(_with_ccdproc, paths)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = interleave(contenders, rounds=rounds)
    checks = [
        ratio(samples, "getheader", "dask_fits", at_least=5),
        ratio(samples, "getheader, footprint", "dask_fits", at_least=5),
        ratio(samples, "ccdproc", "dask_fits", at_least=5),
    ]
    table.rows.append(Row(f"{len(KEYWORDS)} keywords", samples, checks))
    return table


def _headers(paths: list[Path]) -> list[list[object]]:
    headers = map(fits.getheader, paths)
    return [[header[keyword] for keyword in KEYWORDS] for header in headers]


def _footprints(paths: list[Path]) -> list[object]:
    """Do what a row holds besides the keywords, the place on the sky."""
    headers = map(fits.getheader, paths)
    return [
        ([header[keyword] for keyword in KEYWORDS], WCS(header).calc_footprint(axes=(64, 64)))
        for header in headers
    ]


def _with_ccdproc(paths: list[Path]) -> object:
    names = [os.fspath(path) for path in paths]
    return ImageFileCollection(filenames=names, keywords=[k.lower() for k in KEYWORDS]).summary


def _measure_datasets(paths: list[Path], rounds: int) -> Table:
    """Open a thousand files as one Dataset."""
    table = Table(f"One Dataset of {LOCAL_FILES} files", "s")
    contenders = {
        "dask_fits.stack": partial(clock, lambda: dask_fits.stack(paths).to_xarray()),
        "open_mfdataset": partial(clock, partial(_open_mfdataset, paths)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = interleave(contenders, rounds=max(1, rounds // 3))
    check = ratio(samples, "open_mfdataset", "dask_fits.stack", at_least=10)
    table.rows.append(Row("64 x 64", samples, [check]))
    return table


def _open_mfdataset(paths: list[Path]) -> object:
    return xr.open_mfdataset(
        paths,
        engine="fits",
        world_coords=False,
        combine="nested",
        concat_dim="file",
        combine_attrs="drop_conflicts",
        compat="override",
        coords="minimal",
        join="override",
    )


def _measure_index(folder: Path, rounds: int) -> Table:
    """Open an index of a million rows, select a cone, and stack all of them."""
    table = Table(f"A Parquet file of {ROWS} rows", "s")
    path = folder / "survey.parquet"
    _write_index(path)

    def select() -> object:
        found = dask_fits.open_collection(path).select((150.0, 2.0), 1.0)
        return len(found)

    collection = dask_fits.open_collection(path)
    held = collection[np.arange(STACKED)]
    contenders = {
        "open, select": partial(clock, select),
        "stack of all": partial(clock, partial(dask_fits.stack, collection)),
        f"stack of {STACKED}": partial(clock, partial(dask_fits.stack, held)),
    }
    samples = interleave(contenders, rounds=rounds)
    size = path.stat().st_size
    whole, part = dask_fits.stack(collection), dask_fits.stack(held)
    checks = [
        Check("open, select", statistics.median(samples["open, select"]), at_most=1),
        Check("stack of all", statistics.median(samples["stack of all"]), at_most=0.2),
        Check("its graph, MB", len(pickle.dumps(whole.data)) / 1e6, at_most=1),
        Check(f"stack of {STACKED}", statistics.median(samples[f"stack of {STACKED}"]), at_most=1),
        Check("graph, MB", len(pickle.dumps(part.data)) / 1e6, at_most=20),
        Check("bytes a row", size / ROWS),
    ]
    table.rows.append(Row("cone of 1 deg", samples, checks))
    return table


def _write_index(path: Path) -> None:
    """Make an index of a million rows out of that of one file."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
        (first,) = _write(Path(folder), 1)
        one = dask_fits.open_collection(first, keywords=KEYWORDS)
        rng = np.random.default_rng(2)
        names = (*FIXED, *one.keywords)
        columns = {name: np.repeat(one.column(name), ROWS) for name in names}
        ra, dec = rng.uniform(0, 360, ROWS), np.rad2deg(np.arcsin(rng.uniform(-1, 1, ROWS)))
        columns |= {"s_ra": ra, "s_dec": dec}
        columns["t_min"] = columns["t_max"] = 60_000 + np.arange(ROWS) / 1000
        columns["version"] = np.array([str(10**18 + n) for n in range(ROWS)], object)
        columns["access_url"] = np.array([f"/survey/{n:07}.fits" for n in range(ROWS)], object)
        text = str(one.column("wcs")[0])
        at = [text.index(keyword) + 10 for keyword in ("CRVAL1", "CRVAL2")]
        columns["wcs"] = np.array(
            [
                f"{text[: at[0]]}{x:20.9f}{text[at[0] + 20 : at[1]]}{y:20.9f}{text[at[1] + 20 :]}"
                for x, y in zip(ra.tolist(), dec.tolist(), strict=True)
            ],
            object,
        )
        held = HeldColumns(columns, one.keywords)
        write_parquet(lambda name: held.get(name, None), one.keywords, path, None)
        shutil.rmtree(folder, ignore_errors=True)
