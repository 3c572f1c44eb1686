"""A radio cube in xarray: moment map, spectrum and cutout by position, with the WCS all the way.

Needs: pip install 'dask_fits[xarray,zarr]' matplotlib; no network.

    python examples/xarray_cube.py [DIRECTORY [CUBE]]       from the root of the checkout

CUBE is the path or URL of a cube of a line (RA, DEC, FREQ, STOKES) in a primary HDU; without it one
is made: neutral hydrogen in a galaxy. The cells (`# %%`) run in editors that know notebooks, too.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from astropy import units as u
from astropy.convolution import Gaussian2DKernel, convolve
from astropy.io import fits
from astropy.wcs import WCS


def make_cube(path: Path) -> str:
    """Write what an interferometer sees of a spiral galaxy at 21 cm: 1 x 48 x 96 x 96 pixels."""
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = "RA---SIN", "DEC--SIN", "FREQ", "STOKES"
    wcs.wcs.cunit = "deg", "deg", "Hz", ""
    wcs.wcs.crval = 114.214, 65.603, 1.41977e9, 1
    wcs.wcs.crpix = 48.5, 48.5, 24.5, 1
    wcs.wcs.cdelt = -10 / 3600, 10 / 3600, 28e3, 1
    wcs.wcs.restfrq = 1.420405752e9
    header = wcs.to_header()
    header["BUNIT"] = "Jy/beam"
    # A disc that rotates, inclined by 60 degrees, its major axis at a position angle of 120.
    north, west = np.mgrid[:96, :96] - 47.5
    cos, sin = np.cos(np.radians(120)), np.sin(np.radians(120))
    major, minor = north * cos - west * sin, (north * sin + west * cos) / np.cos(np.radians(60))
    radius = np.hypot(major, minor)
    arms = 1 + 0.7 * np.cos(2 * np.arctan2(-minor, major) - 6 * np.log(radius + 3))
    disc = 0.06 * np.exp(-radius / 14) * (1 - 0.8 * np.exp(-((radius / 8) ** 2)))
    centre = 23.5 - 14 * major / radius * np.tanh(radius / 6)  # of the line, in channels
    cube = arms * disc * np.exp(-(((np.arange(48)[:, None, None] - centre) / 2.5) ** 2))
    cube += np.random.default_rng(21).normal(0, 0.004, cube.shape)
    seen = [convolve(channel, Gaussian2DKernel(1.3)) for channel in cube]
    fits.writeto(path, np.array([seen], np.float32), header, overwrite=True)
    return str(path)


# %%
# Where the pictures go, and the cube. In a notebook the arguments are not ours.
notebook = "ipykernel" in sys.modules
arguments = [] if notebook else sys.argv[1:]
if not notebook:
    mpl.use("Agg")  # draws files, opens no window
folder = Path(arguments[0] if arguments else "xarray-output")
folder.mkdir(parents=True, exist_ok=True)
url = arguments[1] if len(arguments) > 1 else make_cube(folder / "cube.fits")

# %%
# Opening reads the header alone. Dimensions have names, the channels their frequencies; what else
# is known of them is added as xarray does it: radio velocities.
ds = xr.open_dataset(url, engine="fits", chunks={})
rest = ds.fits.header["RESTFRQ"] * u.Hz
velocity = (ds.freq.values * u.Hz).to("km/s", u.doppler_radio(rest)).value
attrs = {"units": "km/s", "long_name": "Radio velocity"}
ds = ds.assign_coords(velocity=("freq", velocity, attrs))
print(ds)

# %%
# Moment 0: select a range of frequencies, all but the ends of the band, and sum up the channels.
line = ds.PRIMARY.sel(freq=slice(*ds.freq.values[[5, -6]])).sel(stokes="I", drop=True)
width = float(abs(velocity[1] - velocity[0]))
moment0 = (line.sum("freq") * width).rename("moment0").compute()
moment0.attrs |= {"units": f"{line.units} km/s", "long_name": "Integrated intensity"}
print(f"moment 0: {line.sizes['freq']} channels, brightest pixel {moment0.max():.4f}")

# %%
# The map on the sky. After slices, steps and sums `.fits.wcs` is that of the pixels that are left.
brightest = moment0.argmax(...)
position = moment0.fits.wcs.pixel_to_world(int(brightest["x"]), int(brightest["y"]))
plt.figure(figsize=(7, 5.5), layout="constrained")
ax = plt.subplot(projection=moment0.fits.wcs)
image = ax.imshow(moment0, cmap="inferno", vmin=0)
ax.plot_coord(position, "co", ms=14, mew=2, mfc="none")
ax.set(xlabel="Right ascension", ylabel="Declination", title="Moment 0")
plt.colorbar(image, label=f"{moment0.long_name} [{moment0.units}]")
plt.savefig(folder / "moment0.png", dpi=120)

# %%
# The spectrum at a position on the sky, any SkyCoord: here of the pixel in the circle on the map.
spectrum = ds.fits.sel_sky(position).PRIMARY.sel(stokes="I").rename("Intensity").compute()
peak = spectrum[spectrum.argmax("freq")]
print(f"spectrum: peak {peak:.4f} {peak.units} at {peak.freq / 1e6:.3f} MHz")
plt.figure(figsize=(7, 4), layout="constrained")
spectrum.plot(x="velocity", drawstyle="steps-mid")
plt.title(position.to_string("hmsdms", precision=0))
plt.savefig(folder / "spectrum.png", dpi=120)

# %%
# A box around a position, its size an angle: of all channels, lazy, with a WCS of its own.
small = ds.fits.cutout(position, 2 * u.arcmin)
x, y = small.fits.wcs.celestial.world_to_pixel(position)
print(f"cutout: {dict(small.sizes)}, the position at pixel ({x:.1f}, {y:.1f})")

# %%
# zarr keeps the map with its header, and so the WCS.
moment0.to_zarr(folder / "moment0.zarr", mode="w", consolidated=False)
restored = xr.open_zarr(folder / "moment0.zarr", consolidated=False).moment0
same = restored.fits.wcs.wcs.compare(moment0.fits.wcs.wcs)
print(f"from zarr: the same values: {restored.equals(moment0)}, the same WCS: {same}")

# %%
# The positions of all pixels: two coordinates over both dimensions, computed where they are used.
m13 = xr.open_dataset("tests/data/m13.fits", engine="fits", chunks={}, world_coords=True)
ra, dec = (float(m13[name].sel(x=100, y=150)) for name in ("ra", "dec"))
print(f"M13: x = 100, y = 150 is at RA {ra:.5f}, Dec {dec:.5f} {m13.dec.units}")
plt.figure(figsize=(7, 5.5), layout="constrained")
m13.PRIMARY.plot(x="ra", y="dec", robust=True, cmap="gray", cbar_kwargs={"label": "Counts"})
plt.gca().set(aspect=1 / np.cos(np.radians(dec)), title="M13", xlim=plt.xlim()[::-1])
plt.savefig(folder / "m13.png", dpi=120)
