"""A night of exposures as one table: choose those of a filter, and take their median.

Needs: pip install 'dask_fits[collections]'; no network.

    python examples/night_of_exposures.py [DIRECTORY]

It makes the night: 60 exposures of one field in three filters, with cosmic rays. The log of the
night names one file that was never written, and one file was cut short as the disk was full.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dask.array as da
import numpy as np
from astropy.io import fits

import dask_fits

COUNT, SIDE = 60, 128
EXPOSURES = {"g": 120.0, "r": 60.0, "i": 90.0}
"""Exposure times of the filters, in seconds."""

NEVER_WRITTEN, CUT_SHORT = 17, 44
"""Numbers of the exposures that went wrong."""


def make_night(folder: Path) -> list[Path]:
    """Write the exposures, and return the paths that the log of the night names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:SIDE, :SIDE]
    stars = np.zeros((SIDE, SIDE))
    for _ in range(30):
        north, east, flux = *rng.uniform(5, SIDE - 5, 2), rng.pareto(1.5) * 2
        stars += flux * np.exp(-((y - north) ** 2 + (x - east) ** 2) / 4)
    paths = []
    for number in range(COUNT):
        band = list(EXPOSURES)[number // 2 % 3]  # two exposures, then the next filter
        seen = rng.poisson((2 + stars) * EXPOSURES[band]) + rng.normal(1000, 5, stars.shape)
        seen[tuple(rng.integers(0, SIDE, (2, 40)))] += 20_000  # cosmic rays
        # Counts from 0 to 65,535 are stored as 16-bit integers with BZERO, as a camera writes them.
        hdu = fits.PrimaryHDU(np.clip(seen, 0, 65_535).astype(np.uint16))
        hdu.header["FILTER"] = band
        hdu.header["EXPTIME"] = EXPOSURES[band]
        hdu.header["DATE-OBS"] = f"2026-03-14T{20 + number // 12:02}:{number % 12 * 5:02}:00"
        path = folder / f"exposure{number:02}.fits"
        hdu.writeto(path, overwrite=True)
        paths.append(path)
    paths[NEVER_WRITTEN].unlink()
    content = paths[CUT_SHORT].read_bytes()
    paths[CUT_SHORT].write_bytes(content[: len(content) // 2])
    return paths


def main(folder: Path) -> None:
    """Open the night, see what is in it, and take the median of each filter."""
    paths = make_night(folder)

    # Reads the headers of all files, and no pixels. What cannot be read has its row as well.
    night = dask_fits.open_collection(paths, keywords=["FILTER", "EXPTIME"])
    print(night)
    for path, error in night.failures.items():
        print(f"failed: {Path(path).name}: {type(error).__name__}")
    print(night[:4].table["hdu", "shape", "dtype", "t_min", "FILTER", "EXPTIME"])

    red = night.select(where="FILTER == 'r'")
    print(f"of filter r: {len(red)} exposures, {red.column('EXPTIME').sum():.0f} s")

    for band in EXPOSURES:
        # A task that takes a few rows of all exposures is what a median needs; of large exposures
        # it would hold just these. The exposure that was cut short is left out.
        chosen = night.select(where=f"FILTER == '{band}'")
        stack = dask_fits.stack(chosen, chunks=(-1, 32, -1), on_error="drop")
        print(stack)
        for path in stack.dropped:
            print(f"left out: {Path(path).name}")
        median = da.median(stack.data, axis=0).compute()

        # The same with astropy and NumPy, which hold all pixels at once.
        files = stack.collection.column("access_url")
        expected = np.median([fits.getdata(file) for file in files], axis=0)
        assert np.array_equal(median, expected)
        brightest = int(stack.data.max().compute())
        print(f"{band}: brightest pixel {brightest}, of the median {median.max():.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
