"""The light curve of a star out of 500 packed files, some of which are missing or damaged.

Needs: pip install 'dask_fits[collections,xarray,zarr]'; no network.

    python examples/time_series.py [DIRECTORY]

It makes the files: a star that a companion passes in front of, seen once a minute, each image
compressed by gzip. Three of the files are missing, and one is cut short.
"""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.time import Time

import dask_fits

COUNT, SIDE = 500, 48
STAR = (20, 30)
"""Row and column of the star."""

BEGIN = Time("2026-03-14T18:00:00")
ECLIPSE, HALF_LENGTH, DEPTH = 280, 40, 0.1
"""The frame in the middle of the eclipse, half its length in frames, and the light that is lost."""

MISSING, CUT_SHORT = (100, 101, 333), 432


def make_series(folder: Path) -> list[Path]:
    """Write the files, and return the paths of those that there should be."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:SIDE, :SIDE]
    star = 2000 * np.exp(-((y - STAR[0]) ** 2 + (x - STAR[1]) ** 2) / 5)
    dates = (BEGIN + np.arange(COUNT) * u.min).isot
    hdu = fits.PrimaryHDU(header=fits.Header({"EXPTIME": 30.0, "BUNIT": "adu"}))
    paths = []
    # The names say nothing of the time: the files come in another order.
    for number, frame in enumerate(rng.permutation(COUNT)):
        loss = DEPTH if abs(frame - ECLIPSE) < HALF_LENGTH else 0
        image = 100 + star * (1 - loss) + rng.normal(0, 8, star.shape)
        hdu.data = image.astype(np.int16)
        hdu.header["DATE-OBS"] = dates[frame]
        hdu.header["AIRMASS"] = 1 + (frame / COUNT - 0.5) ** 2
        content = io.BytesIO()
        hdu.writeto(content)
        packed = gzip.compress(content.getvalue(), 1)
        path = folder / f"frame{number:03}.fits.gz"
        if frame == CUT_SHORT:
            path.write_bytes(packed[: len(packed) // 2])
        elif frame not in MISSING:
            path.write_bytes(packed)
        paths.append(path)
    return paths


def main(folder: Path) -> None:
    """Stack the series, and find the eclipse."""
    paths = make_series(folder / "frames")

    # Reads headers. The frames are put in the order of their dates, those without one at the end;
    # a frame that cannot be read is NaN, which needs pixels that are floats.
    stack = dask_fits.stack(
        paths,
        keywords=["DATE-OBS", "AIRMASS"],
        sort_by="DATE-OBS",
        on_error="nan",
        dtype=np.float32,
    )
    print(stack)
    tell_failures(stack)

    # Of a missing file nothing is known, not even its time: without them the axis is time.
    stack = dask_fits.stack(
        stack.collection.select(time=(None, None)), on_error="nan", dtype=np.float32
    )
    ds = stack.to_xarray()
    print(ds)

    # The light of the star: the sum of a box, less the sky beside it. A slice reaches the reader:
    # of each frame these rows alone are kept.
    y, x = STAR
    rows = ds.data.isel(y=slice(y - 6, y + 7)).compute()
    sky = rows.isel(x=slice(0, 20)).mean(("y", "x"), skipna=False)
    light = (rows.isel(x=slice(x - 6, x + 7)) - sky).sum(("y", "x"), skipna=False)
    light /= light.median()

    # Each value has its time. A frame that cannot be read is NaN, and so is no part of the eclipse.
    eclipse = light[light < 1 - DEPTH / 2]
    first, last = eclipse.time.values[[0, -1]].astype("datetime64[s]")
    print(f"eclipse from {first} to {last}, depth {1 - float(eclipse.mean()):.3f}")
    assert first == (BEGIN + (ECLIPSE - HALF_LENGTH + 1) * u.min).datetime64
    assert last == (BEGIN + (ECLIPSE + HALF_LENGTH - 1) * u.min).datetime64
    print("no value at", light.time.values[np.isnan(light)].astype("datetime64[s]"))

    # All pixels are read once and written as they come. It tells which frames failed.
    written = stack.to_zarr(folder / "series.zarr", overwrite=True)
    print(written)
    tell_failures(written)
    restored = xr.open_zarr(folder / "series.zarr", consolidated=False)
    print(f"from zarr: {dict(restored.sizes)}, {int(restored.status.sum())} failed")
    np.testing.assert_array_equal(restored.data[ECLIPSE], ds.data[ECLIPSE])


def tell_failures(stack: dask_fits.Stack) -> None:
    """Print which frames are known to have failed, and why."""
    names = stack.collection.names()
    for frame in np.flatnonzero(stack.status == "failed"):
        error = stack.error[frame]
        print(f"frame {frame} failed: {Path(names[frame]).name}: {type(error).__name__}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
