"""Stamps of many stars out of several files: planned as one job, each byte read once.

Needs: dask_fits[zarr]; no network.

    python examples/many_cutouts.py [DIRECTORY]       from the root of the checkout
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

import dask_fits

files = ["tests/data/m13.fits", "tests/data/m13_rice.fits"]
centre = SkyCoord("16h41m41s", "36d27m36s")

# Fifty positions around the cluster; the last ones lie beyond the images.
angles = np.linspace(0, 16 * np.pi, 50) * u.rad
stars = centre.directional_offset_by(angles, np.linspace(0, 5, 50) * u.arcmin)

# Reads headers. A row for each star on each file, and one for each star that is on none.
found = dask_fits.cutouts(files, stars, 15 * u.arcsec)
print(found)
print("the first star is in files", found.file[found.position == 0], found.wcs[0].wcs.crpix)

# Lazy: nothing of the pixels is read before this.
brightest = found.data.max(axis=(1, 2)).compute()
print(f"brightest pixel of all: {np.nanmax(brightest):.0f}")

# A large job is written as it comes, in bounded memory, by whatever scheduler is set.
directory = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
written = found.to_files(directory / "stamps")
print(len(list((directory / "stamps").glob("*.fits"))), "FITS files and", "cutouts.csv")
found.to_zarr(directory / "stamps.zarr")
print("failed:", [str(error) for error in written.error if error is not None])
