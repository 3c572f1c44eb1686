"""Cut a spectrum and a region out of a cube that is compressed as a whole (.fits.gz).

Needs: pip install 'dask_fits[fast]'; with a URL, 'dask_fits[http]' and the network.

    python examples/packed_cube.py [OUTPUT DIRECTORY [URL]]

Without a URL it makes a cube as MaNGA's are, a galaxy with an emission line: an empty primary HDU,
then FLUX, IVAR and WAVE, compressed by gzip to 10 MB. Its index goes into the output directory.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

import dask_fits

WAVES, SIDE = 1200, 52
LINE, WIDTH = 6718.0, 8.0
"""Angstroms: where the galaxy's line is, and how wide."""


def make_cube(path: Path) -> None:
    """Write a cube of flux, its inverse variance and its wavelengths, compressed by gzip."""
    rng = np.random.default_rng(1)
    wave = np.geomspace(3622, 10354, WAVES)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    galaxy = np.exp(-np.hypot(y, x) / 8)
    spectrum = 1 + 4 * np.exp(-0.5 * ((wave - LINE) / WIDTH) ** 2)
    flux = spectrum[:, None, None] * galaxy + rng.normal(0, 0.05, (WAVES, SIDE, SIDE))
    flux[:, np.hypot(y, x) > SIDE / 2] = 0  # off the bundle of fibres
    ivar = np.where(flux == 0, 0, 400).astype(np.float32)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE-LOG"})
    header.update({"CRPIX1": SIDE / 2 + 1, "CRPIX2": SIDE / 2 + 1, "CRPIX3": 1})
    header.update({"CRVAL1": 244.1, "CRVAL2": 39.9, "CRVAL3": wave[0] * 1e-10, "CUNIT3": "m"})
    header.update({"CDELT1": -0.5 / 3600, "CDELT2": 0.5 / 3600, "CDELT3": 5e-11})
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(flux.astype(np.float32), header, name="FLUX"),
        fits.ImageHDU(ivar, header, name="IVAR"),
        fits.ImageHDU(wave, name="WAVE"),
    ]
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content)
    path.write_bytes(gzip.compress(content.getvalue(), 1))


def main(folder: Path, url: str = "") -> None:
    """Open the cube without an index and with one, and read parts of it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not url:
        make_cube(folder / "cube.fits.gz")
        url = str(folder / "cube.fits.gz")

    # It is opened like any other file. Without an index, any part takes all of it.
    file = dask_fits.open(url, index=folder / "indexes")
    print(file)
    centre = (slice(None), SIDE // 2, SIDE // 2)
    print("a spectrum, without an index:", file["FLUX"].plan(centre))

    # One pass through the file makes the index, which every later `open` finds.
    file = file.build_index()
    flux = file["FLUX"]
    near = (slice(640, 660), slice(20, 32), slice(20, 32))
    print("20 channels of 12 x 12 spaxels, with it:", flux.plan(near))
    region = flux.section[near]
    print(f"region: shape {region.shape}, mean {region.mean():.4f}")

    # The lazy array has chunks that are read by themselves, at the same time.
    cube = flux.to_dask("1 MiB")
    print(f"chunks: {cube.chunksize}, {cube.npartitions} of them")
    spectrum = cube[centre].compute()
    wave = file["WAVE"].section[:]
    print(f"brightest channel: {wave[spectrum.argmax()]:.1f} Angstroms")
    print(f"white light: {float(cube.sum(axis=0).max().compute()):.1f} in the brightest spaxel")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "packed-output"), *sys.argv[2:3])
