"""Peak memory of reading, each way in a process of its own."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import dask
import numpy as np
import numpy.typing as npt

import dask_fits
from benchmarks.harness import Row, Table, max_rss, ratio
from benchmarks.images import MIB, ImageFile
from benchmarks.reads import BAND, band_rows

ALLOWED = "result + chunk"


def measure_memory(images: list[ImageFile]) -> Table:
    """Compare what each read takes with the memory of its result and one chunk."""
    table = Table("Peak memory", "MiB")
    for image in images:
        # What two threads read at a time is two bands, each the result of its task.
        cases = {
            "whole": (_read_whole, image.nbytes + BAND),
            "bands into an array, 2 threads": (_read_bands, image.nbytes + 2 * BAND),
            "mean of bands, 2 threads": (_mean_of_bands, 2 * BAND + BAND),
        }
        for name, (read, allowed) in cases.items():
            samples = {"dask_fits": [_peak_in_child(read, image)], ALLOWED: [allowed / MIB]}
            checks = [ratio(samples, "dask_fits", ALLOWED, at_most=1)]
            table.rows.append(Row(f"{image.name}, {name}", samples, checks))
    return table


def _read_whole(path: Path, _: int) -> npt.NDArray:
    return dask_fits.open(path)[0].reader()[...]


def _read_bands(path: Path, rows: int) -> npt.NDArray:
    image = dask_fits.from_fits(path, chunks=(rows, -1))
    out = np.empty(image.shape, image.dtype)
    image.store(out, lock=False)
    return out


def _mean_of_bands(path: Path, rows: int) -> float:
    return float(dask_fits.from_fits(path, chunks=(rows, -1)).mean().compute())


def _peak_in_child(read: Callable[[Path, int], object], image: ImageFile) -> float:
    # A fork server, since a process started from this one would inherit its peak.
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        return pool.submit(_peak, read, image).result()


def _peak(read: Callable[[Path, int], object], image: ImageFile) -> float:
    """Return how far reading raises the peak memory of this process, in MiB."""
    with dask.config.set(scheduler="threads", num_workers=2):
        dask_fits.from_fits(image.path)[:2, :2].mean().compute()  # warm-up
        before = max_rss()
        result = read(image.path, band_rows(image))
        peak = max_rss() - before
        del result
    return peak / MIB
