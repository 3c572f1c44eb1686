"""A radio cube in xarray: a moment map with sky axes, a spectrum, a cutout, and zarr.

Needs: matplotlib and zarr. ``python examples/xarray_cube.py [folder] [url]``; without a URL it
makes a cube of a rotating disc and opens that.
"""

# %% What it takes
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
CENTRE = SkyCoord("09h55m33s", "+69d03m55s")
LINE, CHANNEL = 1.42040575e9, 20e3  # Hz: the line of neutral hydrogen, and the width of a channel


# %% A cube of a rotating disc, with axes as a radio telescope has them
def make_cube(path: Path, shape: tuple[int, ...] = (1, 48, 96, 96)) -> None:
    """Write a cube of (Stokes, frequency, Dec, RA), with noise."""
    _, channels, height, width = shape
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"]
    wcs.wcs.crval = [CENTRE.ra.deg, CENTRE.dec.deg, LINE, 1]
    wcs.wcs.crpix = [width / 2, height / 2, channels / 2, 1]
    wcs.wcs.cdelt = [-5 / 3600, 5 / 3600, CHANNEL, 1]
    wcs.wcs.cunit = ["deg", "deg", "Hz", ""]
    wcs.wcs.restfrq, wcs.wcs.specsys = LINE, "LSRK"
    y, x = np.indices((height, width))
    x, y = x - width / 2, (y - height / 2) * 1.6  # the disc is inclined
    radius = np.hypot(x, y)
    shift = 9 * x / np.maximum(radius, 1) * (1 - np.exp(-radius / 8))  # channels: a flat rotation
    brightness = 0.02 * np.exp(-radius / 14) * (1 - 0.6 * np.exp(-radius / 5))
    offset = np.arange(channels)[:, None, None] - (channels / 2 - 1) - shift
    cube = brightness * np.exp(-0.5 * (offset / 1.5) ** 2)
    cube += np.random.default_rng(1).normal(0, 5e-4, cube.shape)
    header = wcs.to_header()
    header.update(BUNIT="Jy/beam", OBJECT="DISC", BMAJ=10 / 3600, BMIN=10 / 3600, BPA=0.0)
    fits.PrimaryHDU(cube[None].astype("f4"), header).writeto(path, overwrite=True)


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "xarray-output")
folder.mkdir(parents=True, exist_ok=True)
url = sys.argv[2] if len(sys.argv) > 2 else str(folder / "cube.fits")
if len(sys.argv) <= 2:
    make_cube(Path(url))

# %% Open it: headers only. It could be on https://, s3:// or gs:// as well
ds = xr.open_dataset(url, engine="fits", chunks={})
print(ds)

# %% Channels around the line by their frequency, and the sum over them: the moment 0
line = ds.PRIMARY.sel(freq=slice(LINE - 15 * CHANNEL, LINE + 15 * CHANNEL))
line = line.squeeze("stokes", drop=True)
moment0 = (line.sum("freq") * CHANNEL).assign_attrs(units="Jy/beam Hz").compute()
print(f"moment 0 of {line.sizes['freq']} channels: maximum {float(moment0.max()):.3f} Jy/beam Hz")

# %% A picture with sky axes: the WCS is that of what is left of the cube
figure = plt.figure(figsize=(6.4, 5.2), layout="constrained")
axes = figure.add_subplot(projection=moment0.fits.wcs)
picture = axes.imshow(moment0, origin="lower", cmap="magma")
figure.colorbar(picture, label=moment0.units)
axes.set(xlabel="RA", ylabel="Dec", title="Moment 0")
figure.savefig(folder / "moment0.png", dpi=100)

# %% The spectrum of the pixel that is nearest to a position
position = CENTRE.directional_offset_by(90 * u.deg, 60 * u.arcsec)
spectrum = ds.PRIMARY.sel(stokes="I").fits.sel_sky(position)
print(f"spectrum at y = {int(spectrum.y)}, x = {int(spectrum.x)}")
figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
spectrum = (spectrum * 1e3).assign_attrs(units="mJy/beam")
spectrum["freq"] = (spectrum.freq / 1e6).assign_attrs(units="MHz")
spectrum.plot.step(ax=axes)
axes.axvline(LINE / 1e6, color="grey", linestyle=":", label="rest frequency")
axes.ticklabel_format(axis="x", useOffset=False)
axes.legend()
figure.savefig(folder / "spectrum.png", dpi=100)

# %% A cutout by position and angle; its WCS moves with it
cut = ds.fits.cutout(position, 60 * u.arcsec)
x, y = cut.fits.wcs.celestial.world_to_pixel(position)
print(f"cutout: {dict(cut.sizes)}, the position is at x = {float(x):.2f}, y = {float(y):.2f}")

# %% To zarr and back: coordinates, units, the header and the WCS are kept
moment0.rename("moment0").to_dataset().to_zarr(
    folder / "moment0.zarr", mode="w", consolidated=False
)
back = xr.open_zarr(folder / "moment0.zarr", consolidated=False)
assert back.moment0.identical(moment0.rename("moment0"))
print(
    "from zarr: identical, and the middle is at", back.fits.wcs.pixel_to_world(47, 47).to_string()
)

# %% Coordinates of the sky, for an image whose file has them in its header alone
m13 = xr.open_dataset(ROOT / "tests/data/m13.fits", engine="fits", world_coords=True)
star = m13.PRIMARY.isel(y=100, x=200)
print(f"pixel (100, 200) of M 13 is at ra {float(star.ra):.6f}, dec {float(star.dec):.6f}")
