"""Calibrated images, a mosaic and a moment map, written by a cluster, to a disk or a bucket.

Needs: pip install 'dask_fits[distributed,s3,xarray]'; credentials for a bucket, if one is given.

    python examples/written_from_a_cluster.py [DIRECTORY or s3://bucket/prefix]

Each worker writes its own pixels. At the end a line is printed for each kind of file, read back.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from dask.distributed import Client

import dask_fits

SIDE = 200
CHANNELS = 24
BIAS = 1000


def write_exposures(folder: Path) -> None:
    """Make four exposures of a field, each moved by some pixels, and the bias frame."""
    rng = np.random.default_rng(1)
    for number in range(4):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
        wcs.wcs.crval = 250.4, 36.46
        wcs.wcs.crpix = 100 + 30 * (number % 2), 100 + 30 * (number // 2)
        wcs.wcs.cdelt = -1e-4, 1e-4
        counts = rng.poisson(50, (SIDE, SIDE)) + BIAS
        fits.writeto(folder / f"raw{number}.fits", counts.astype(np.uint16), wcs.to_header())
    fits.writeto(folder / "bias.fits", np.full((SIDE, SIDE), BIAS, np.float32))


def write_cube(folder: Path) -> None:
    """Make a radio cube: a source whose frequency changes over the sky."""
    freq, y, x = np.mgrid[:CHANNELS, :SIDE, :SIDE]
    source = np.exp(-((x - 100) ** 2 + (y - 100) ** 2) / 800)
    line = np.exp(-((freq - 12 - (x - 100) / 20) ** 2) / 4)
    header = fits.Header({"BUNIT": "Jy/beam"})
    for axis, (ctype, value, step) in enumerate(
        (("RA---SIN", 83.6, -1e-3), ("DEC--SIN", 22.0, 1e-3), ("FREQ", 1.42e9, 1e4)), 1
    ):
        header.update({f"CTYPE{axis}": ctype, f"CRVAL{axis}": value, f"CDELT{axis}": step})
        header[f"CRPIX{axis}"] = 1.0 if ctype == "FREQ" else 100.5
    fits.writeto(folder / "cube.fits", (source * line).astype(np.float32), header)


def main(target: str) -> None:
    """Write all three, and read them back."""
    with (
        tempfile.TemporaryDirectory() as name,
        Client(n_workers=2, threads_per_worker=1, dashboard_address=None),
    ):
        folder = Path(name)
        write_exposures(folder)
        write_cube(folder)

        # The bias is subtracted from each exposure, and each becomes a file with its own header.
        stack = dask_fits.stack(folder / "raw*.fits")
        bias = dask_fits.from_fits(folder / "bias.fits")
        calibrated = [f"{target}/calibrated{number}.fits" for number in range(len(stack))]
        stack.to_fits(calibrated, data=stack.data.astype("float32") - bias, overwrite=True)

        # They are put together, weights and the table of images beside the pixels.
        mosaic = dask_fits.mosaic(calibrated, match_background=True)
        mosaic.to_fits(f"{target}/mosaic.fits", overwrite=True)

        # The axis of frequency is summed up; the WCS of the sky is left.
        cube = xr.open_dataset(folder / "cube.fits", engine="fits", chunks={})
        moment = cube.PRIMARY.sum("freq", keep_attrs=True).rename("MOMENT0")
        moment.assign_attrs(units="Jy/beam.Hz").fits.to_fits(
            f"{target}/moment0.fits", overwrite=True
        )

    for url in (calibrated[0], f"{target}/mosaic.fits", f"{target}/moment0.fits"):
        f = dask_fits.open(url)
        hdu = f.first_image()
        unit = hdu.header.get("BUNIT", "no unit")
        axes = " ".join(hdu.wcs.wcs.ctype)
        mean = float(np.nanmean(hdu.data.compute()))
        print(f"{url}: {len(f)} HDUs, {hdu.shape} {hdu.dtype}, {unit}, {axes}, mean {mean:.3f}")


if __name__ == "__main__":
    destination = sys.argv[1] if len(sys.argv) > 1 else "written"
    if "://" not in destination:
        Path(destination).mkdir(parents=True, exist_ok=True)
    main(destination.rstrip("/"))
