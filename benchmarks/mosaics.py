"""Mosaics beside reproject, Montage and astropy: speed, memory, planning, and what HTTP costs."""

from __future__ import annotations

import gc
import pickle
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from benchmarks import mosaic_peers as peers
from benchmarks.harness import Check, Row, Table, clock, interleave, max_rss, ratio
from benchmarks.images import MIB
from benchmarks.mosaic_images import OUT, SCALE, WIDE, grid, write_layers, write_six, write_zeros
from benchmarks.mosaic_ours import our_arrays, ours
from benchmarks.mosaics_remote import NARROW, PACKED, WIDER, measure_remote
from dask_fits.mosaics.combiners import ITERATIONS, SIGMA
from dask_fits.resampling.kernels import combining

SHAPE = (OUT, OUT)
SLOW_ROUNDS = 3
"""At most, where a peer takes half a minute."""

WARM = np.s_[1100:1228, 2900:3028]
"""A part of the grid where the first image is."""

LAYERS, LAYER_SIDE = 10, 1024
PLANNED = {1_000: 2, 10_000: 10}
"""Images, and seconds that planning them may take."""

PLANNED_SIDE, PLANNED_OUT, PLANNED_CHUNK = 2048, 32_768, 1024
OURS, COADD, LAZY = "dask_fits", "reproject_and_coadd", "reproject, dask"
EXACT, MONTAGE = "reproject_exact", "mProjectPP"

Contenders = Mapping[str, Callable[[], Any]]
Samples = dict[str, list[float]]


def measure_mosaics(*, rounds: int) -> Iterator[Table]:
    """Make mosaics of six images and of ten, plan those of thousands, and make one over HTTP."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name, peers.quiet():
        folder = Path(name)
        six = write_six(folder)
        yield _measure_six(six, rounds)
        yield _measure_exact(six[:2], folder, rounds)
        yield _measure_threads(six, rounds)
        yield _measure_memory(six)
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name, peers.quiet():
        layers = write_layers(Path(name), LAYERS)
        yield _measure_clipped(layers, rounds)
        remote = {
            NARROW: write_layers(Path(name), LAYERS, side=1200),
            WIDER: layers,
            PACKED: write_layers(Path(name), LAYERS, packed=True),
        }
        yield measure_remote(remote, rounds=rounds)
    yield _measure_plans(rounds)


def _measure_both(contenders: Contenders, *, rounds: int) -> tuple[Samples, Samples, Any]:
    """Take seconds of CPU and of the clock of each contender; and return what each made last."""
    wall: dict[str, list[float]] = defaultdict(list)
    made: dict[str, Any] = {}

    def seconds(name: str, run: Callable[[], Any]) -> float:
        made.pop(name, None)
        gc.collect()
        cpu, start = time.process_time(), time.perf_counter()
        made[name] = run()
        wall[name].append(time.perf_counter() - start)
        return time.process_time() - cpu

    timed = {name: partial(seconds, name, run) for name, run in contenders.items()}
    samples = interleave(timed, rounds=rounds)
    return samples, {name: found[1:] for name, found in wall.items()}, made


def _measure_six(six: Sequence[Path], rounds: int) -> Table:
    """Make the bilinear mean of six images."""
    wcs, one = grid(OUT, SCALE), {"scheduler": "sync"}
    table = Table(f"Bilinear mean of six images, one thread; {peers.lazy_name()}", "s")
    contenders: Contenders = {
        OURS: partial(ours, six, wcs, SHAPE, one),
        COADD: partial(peers.coadd, six, wcs, SHAPE),
        LAZY: partial(peers.compute_lazily, six, wcs, SHAPE, **one),
    }
    cpu, wall, made = _measure_both(contenders, rounds=min(rounds, SLOW_ROUNDS))
    for other in (COADD, LAZY):
        np.testing.assert_array_equal(made[OURS][1], made[other][1])
        np.testing.assert_allclose(made[OURS][0], made[other][0], rtol=1e-5)
    for name, samples in {"CPU": cpu, "wall": wall}.items():
        checks = [ratio(samples, other, OURS, at_least=10) for other in (COADD, LAZY)]
        table.rows.append(Row(name, samples, checks))
    return table


def _measure_exact(paths: Sequence[Path], folder: Path, rounds: int) -> Table:
    """Resample an image by areas: one that is TAN, and one with SIP."""
    wcs, one = grid(OUT, SCALE), {"scheduler": "sync"}
    project = peers.montage(wcs, SHAPE, folder)
    about = "not installed" if project is None else "writes its result besides"
    table = Table(f"Exact areas of one image, one thread; Montage: {about}", "s")
    for name, path in zip(("TAN", "SIP"), paths, strict=True):
        contenders: dict[str, Callable[[], Any]] = {
            OURS: partial(ours, [path], wcs, SHAPE, one, resampling="exact"),
            EXACT: partial(peers.exact, path, wcs, SHAPE),
        }
        aims = {EXACT: 20.0}
        if project is not None:
            contenders[MONTAGE] = partial(project, path)
            aims[MONTAGE] = 2.0
        cpu, wall, made = _measure_both(contenders, rounds=min(rounds, SLOW_ROUNDS))
        _check_exact(made, wcs)
        for kind, samples in {"CPU": cpu, "wall": wall}.items():
            checks = [ratio(samples, other, OURS, at_least=aim) for other, aim in aims.items()]
            table.rows.append(Row(f"{name}, {kind}", samples, checks))
    return table


def _check_exact(made: Mapping[str, Any], wcs: WCS) -> None:
    """Compare what was made where pixels are covered whole."""
    data, weight = made[OURS]
    theirs = {EXACT: (made[EXACT][0], (slice(None), slice(None)))}
    if MONTAGE in made:
        with fits.open(made[MONTAGE]) as file:
            pixels, header = file[0].data, file[0].header
        x, y = (round(wcs.wcs.crpix[axis] - header[f"CRPIX{axis + 1}"]) for axis in range(2))
        # Its first two rows and columns lack what reaches out of the grid.
        key = (slice(y + 2, y + pixels.shape[0]), slice(x + 2, x + pixels.shape[1]))
        theirs[MONTAGE] = pixels[2:, 2:], key
    for name, (pixels, key) in theirs.items():
        whole = (weight[key] > 1 - 1e-6) & np.isfinite(pixels)
        if np.count_nonzero(whole) < 1_000_000:
            raise AssertionError(f"{name} has nearly nothing that can be compared")
        np.testing.assert_allclose(data[key][whole], pixels[whole], rtol=2e-5, err_msg=name)


def _measure_threads(six: Sequence[Path], rounds: int) -> Table:
    """Make mosaics of the six images with one thread and with two.

    What is computed Dask puts together in one thread.
    """
    wcs = grid(OUT, SCALE)
    table = Table("Two threads of Dask, six images", "s")
    cases: dict[str, tuple[Mapping[str, Any], Callable[..., object]]] = {
        "bilinear mean, computed": ({}, dask.compute),
        "bilinear mean, stored in arrays": ({}, _store),
        "exact mean, stored in arrays": ({"resampling": "exact"}, _store),
        "clipped mean, stored in arrays": ({"combine": "clipped"}, _store),
    }
    for name, (how, finish) in cases.items():
        make = partial(our_arrays, **how)
        contenders = {
            _threads(count): partial(clock, partial(_finish, make, finish, count, six, wcs, SHAPE))
            for count in (1, 2)
        }
        samples = interleave(contenders, rounds=rounds)
        aim = {"at_least": 1.6}
        table.rows.append(Row(name, samples, [ratio(samples, _threads(1), _threads(2), **aim)]))
    return table


def _measure_memory(six: Sequence[Path]) -> Table:
    """Compare the memory that the bilinear mean and its weights take, in whole and chunk by chunk.

    Dask holds a result that it computes twice for a moment, as chunks and as an array.
    """
    table = Table("Peak memory of the bilinear mean of six images", "MiB")
    wcs = grid(OUT, SCALE)
    ends = {"computed": dask.compute, "stored in arrays": _store, "summed up": _sum_up}
    for end, finish in ends.items():
        for count in (1, 2):
            runs = {
                OURS: partial(_finish, our_arrays, finish, count),
                LAZY: partial(_finish, peers.coadd_lazily, finish, count),
            }
            if (end, count) == ("computed", 1):
                runs[COADD] = peers.coadd
            samples = {name: [_peak_in_child(run, six, wcs)] for name, run in runs.items()}
            checks = [ratio(samples, OURS, LAZY, at_most=1 / 3)]
            table.rows.append(Row(f"{end}, {_threads(count)}", samples, checks))
    return table


def _finish(
    make: Callable[..., tuple[da.Array, ...]],
    finish: Callable[..., object],
    threads: int,
    *given: object,
) -> object:
    """Make arrays, and what becomes of them, in some threads."""
    with dask.config.set(scheduler="threads", num_workers=threads):
        return finish(*make(*given))


def _store(*arrays: da.Array) -> list[npt.NDArray]:
    made = [np.empty(array.shape, array.dtype) for array in arrays]
    da.store(arrays, made, lock=False)
    return made


def _sum_up(*arrays: da.Array) -> object:
    return dask.compute(*(da.nansum(array) for array in arrays))


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def _peak_in_child(run: Callable[..., object], six: Sequence[Path], wcs: WCS) -> float:
    # A fork server, since a process started from this one would inherit its peak.
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        return pool.submit(_peak, run, six, wcs).result()


def _peak(run: Callable[..., object], six: Sequence[Path], wcs: WCS) -> float:
    """Return how far a mosaic raises the peak memory of this process, in MiB."""
    with peers.quiet():
        # Warm-up where there is an image: imports, and kernels that are compiled.
        run(six[:1], wcs[WARM], (128, 128))
        before = max_rss()
        made = run(six, wcs, SHAPE)
        peak = max_rss() - before
        del made
    return peak / MIB


def _measure_clipped(paths: Sequence[Path], rounds: int) -> Table:
    """Combine ten layers, and make them."""
    wcs, shape = grid(LAYER_SIDE, SCALE), (LAYER_SIDE, LAYER_SIDE)
    layers = peers.layers_of(paths, wcs, shape)
    case = f"{LAYERS} layers of {LAYER_SIDE} x {LAYER_SIDE}"
    table = Table("Clipped mean, one thread of CPU", "s")
    contenders: dict[str, Contenders] = {
        f"combine {case}": {
            OURS: partial(_clip, layers),
            "sigma_clip, nanmean": partial(peers.clipped, layers),
        },
        f"make and combine {case}": {
            OURS: lambda: ours(paths, wcs, shape, {"scheduler": "sync"}, combine="clipped")[0],
            "sigma_clip, nanmean": lambda: peers.clipped(peers.layers_of(paths, wcs, shape)),
        },
    }
    for name, pair in contenders.items():
        samples, _, made = _measure_both(pair, rounds=rounds)
        np.testing.assert_allclose(*made.values(), rtol=1e-6)
        table.rows.append(Row(name, samples, [ratio(samples, *reversed(pair), at_least=1.5)]))
    return table


def _clip(layers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Clip layers by the kernel of a mosaic, which also finds weights and counts."""
    shape = layers.shape[1:]
    data, weight, count = np.empty(shape), np.empty(shape), np.empty(shape, np.int32)
    combining().clipped(
        layers, np.ones(layers.shape), None, data, weight, count, None, None, SIGMA, ITERATIONS
    )
    return data


def _measure_plans(rounds: int) -> Table:
    """Plan mosaics of very many images that are in a collection, and make their graphs."""
    chunks = (PLANNED_OUT // PLANNED_CHUNK) ** 2
    table = Table(f"Mosaics of {chunks} chunks, their images in a collection", "s")
    wcs, shape = grid(PLANNED_OUT, WIDE), (PLANNED_OUT, PLANNED_OUT)
    for count, aim in PLANNED.items():
        with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder, peers.quiet():
            paths = write_zeros(Path(folder), count, PLANNED_SIDE, PLANNED_OUT)
            start = time.perf_counter()
            collection = dask_fits.open_collection(paths, keywords=["EXPTIME"])
            collected = time.perf_counter() - start
            plan = partial(dask_fits.mosaic, collection, wcs, shape, weights="EXPTIME")
            m = plan()
            contenders = {"plan": plan, "plan, graph": lambda plan=plan: dict(plan().data.dask)}
            timed = {name: partial(clock, run) for name, run in contenders.items()}
            samples = interleave(timed, rounds=min(rounds, SLOW_ROUNDS))
            tasks = [len(pickle.dumps(task)) for task in dict(m.data.dask).values()]
            checks = [
                Check("both [s]", statistics.median(samples["plan, graph"]), at_most=aim),
                Check("graph [MB]", len(cloudpickle.dumps(m.data)) / 1e6, at_most=30),
                Check("its tasks [MB]", sum(tasks) / 1e6),
                Check("largest task [kB]", max(tasks) / 1e3, at_most=100),
                Check("collecting [s]", collected),
            ]
            table.rows.append(Row(f"{count} images", samples, checks))
    return table
