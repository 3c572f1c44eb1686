"""An index of a survey on a web server: cutouts without reading the headers again.

Needs: pip install 'dask_fits[collections,http]' matplotlib; no network, the server is this process.

    python -m examples.survey_index [DIRECTORY]       from the root of the checkout

It makes 200 tiles, around the north celestial pole and across RA 0, puts them on a small web server
(_server.py), and leaves a picture of their footprints in the directory.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.visualization.wcsaxes import SphericalCircle
from astropy.wcs import WCS
from matplotlib.patches import Polygon

import dask_fits
from examples._server import FileServer

SIDE = 60
"""Pixels of a tile along each side, a minute of arc each: tiles are one degree wide."""

POLE = SkyCoord(80, 89.3, unit="deg")
RA_0 = SkyCoord(359.8, -0.4, unit="deg")
RADIUS = 0.5 * u.deg


def centres_of_tiles() -> list[tuple[float, float]]:
    """List RA and Dec of the tiles: rings around the pole, and a grid across RA 0."""
    tiles = [(0.0, 90.0)]
    for ring in range(1, 6):
        count = round(7.3 * ring)
        tiles += [(360 * tile / count, 90 - 0.9 * ring) for tile in range(count)]
    columns, rows = 15, 6
    for row in range(rows):
        tiles += [((column - 7) * 0.9 % 360, (row - 2.5) * 0.9) for column in range(columns)]
    return tiles


def make_tiles(folder: Path) -> list[str]:
    """Write the tiles, each with noise and a star in the middle; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    hdu = fits.PrimaryHDU(header=tangent(0, 0).to_header())
    names = []
    for number, (ra, dec) in enumerate(centres_of_tiles()):
        hdu.data = rng.normal(10, 1, (SIDE, SIDE)).astype(np.float32)
        hdu.data[SIDE // 2, SIDE // 2] = 500
        hdu.header["CRVAL1"], hdu.header["CRVAL2"] = ra, dec
        hdu.header["FILTER"] = "gri"[number % 3]
        names.append(f"tile{number:03}.fits")
        hdu.writeto(folder / names[-1], overwrite=True)
    return names


def tangent(ra: float, dec: float) -> WCS:
    """Return the WCS of a tile in the tangent plane."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra, dec
    wcs.wcs.crpix = SIDE / 2 + 0.5, SIDE / 2 + 0.5
    wcs.wcs.cdelt = -1 / 60, 1 / 60
    return wcs


def main(folder: Path) -> None:
    """Describe the survey once, and then select and read with what was noted."""
    names = make_tiles(folder / "tiles")
    with FileServer(folder / "tiles") as server:
        urls = [f"{server.url}/{name}" for name in names]

        # One request a file, for its header; 32 at the same time.
        survey = dask_fits.open_collection(urls, keywords=["FILTER"], progress=tell_progress)
        print(survey)
        print(f"described by {server.requests} requests")
        survey.to_parquet(folder / "survey.parquet")

        # Another day: nothing is asked of the server before there are pixels to be read.
        server.clear()
        survey = dask_fits.open_collection(folder / "survey.parquet")
        at_pole = survey.select(POLE, RADIUS)
        at_ra_0 = survey.select(RA_0, RADIUS)
        print(f"within half a degree: {len(at_pole)} tiles at the pole, {len(at_ra_0)} at RA 0")
        found = dask_fits.cutouts(at_pole, POLE, 10 * u.arcmin)
        print(found)
        print(f"selected and planned by {server.requests} requests")
        pixels = found.data.compute()
        print(f"{len(pixels)} cutouts read by {server.requests} requests, {server.bytes:,} bytes")

        # The same from the files themselves: all headers first.
        server.clear()
        anew = dask_fits.cutouts(urls, POLE, 10 * u.arcmin)
        np.testing.assert_array_equal(pixels, anew.data.compute())
        print(f"without the index: {server.requests} requests")
        assert server.requests == len(urls) + len(pixels)

    picture = folder / "footprints.png"
    draw(survey, [(at_pole, POLE), (at_ra_0, RA_0)], picture)
    print(f"The picture is in {picture}")


def tell_progress(done: int, count: int) -> None:
    """Print how many files have been read."""
    print(f"headers of {done} of {count} files")


def draw(
    survey: dask_fits.Collection,
    selections: list[tuple[dask_fits.Collection, SkyCoord]],
    picture: Path,
) -> None:
    """Draw the footprints around two places, and fill those that were selected."""
    figure = plt.figure(figsize=(9, 4.4), layout="constrained")
    for number, (selection, centre) in enumerate(selections, 1):
        # In this projection, too, the sides of the tiles are straight lines.
        is_polar = centre.dec.deg > 45
        wcs = tangent(0, 90 if is_polar else 0)
        ax = figure.add_subplot(1, 2, number, projection=wcs)
        ax.set(xlim=(-260, 320), ylim=(-260, 320), aspect="equal")
        sky = ax.get_transform("icrs")
        shown = survey.select(SkyCoord(*wcs.wcs.crval, unit="deg"), 6 * u.deg)
        for tiles, style in ((shown, {"fc": "none", "ec": "0.6"}), (selection, {"alpha": 0.4})):
            for region in tiles.column("s_region"):
                # "POLYGON ICRS ra dec ra dec ...", as ObsCore has it
                corners = np.array(region.split()[2:], float).reshape(-1, 2)
                ax.add_patch(Polygon(corners, transform=sky, **style))
        circle = {"fc": "none", "ec": "tab:red", "lw": 2}
        ax.add_patch(SphericalCircle(centre, RADIUS, transform=sky, **circle))
        if is_polar:
            for coordinate in ax.coords:
                coordinate.set_ticklabel_visible(False)
                coordinate.set_ticks_visible(False)
        ax.set(xlabel="" if is_polar else "RA", ylabel="" if is_polar else "Dec")
        place = "around the pole" if is_polar else "across RA 0"
        ax.set_title(f"{place}: {len(selection)} of {len(shown)} tiles are selected")
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    mpl.use("Agg")  # draws files, opens no window
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "survey-output"))
