"""Mosaics of real files against reproject; of the Sun, whose frames reproject lacks, against SciPy."""

from __future__ import annotations

import warnings
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from reproject import reproject_interp
from scipy.ndimage import map_coordinates

import dask_fits
from tests.support.corpus import CORPUS, COVERED, each, needs_corpus, placed

pytestmark = [needs_corpus, pytest.mark.slow, pytest.mark.untraced]

IMAGES = [
    entry for entry in COVERED if any("wcs" in feature for feature in entry.get("features", ()))
]

SUN = ["reproject/aia_171_level1.fits", "reproject/secchi_l0_a.fits", "reproject/secchi_l0_b.fits"]


def celestial_images(url: str) -> list[dask_fits.HDU]:
    """The first images of a file that have two axes, which span a sky that astropy knows."""
    found = []
    try:
        images = dask_fits.open(url).images()[:2]
    except dask_fits.FitsError:  # it is damaged
        return []
    for hdu in images:
        shape = hdu.shape or ()
        if len(shape) != 2 or min(shape) < 8:
            continue
        try:
            wcs = hdu.wcs
            if wcs.naxis != 2:
                continue
            wcs_to_celestial_frame(wcs)
        except ValueError:  # no sky, or one of which astropy knows no frame
            continue
        middle = wcs.pixel_to_world_values((shape[1] - 1) / 2, (shape[0] - 1) / 2)
        if np.isfinite(middle).all():
            found.append(hdu)
    return found


def turned_grid(wcs: WCS, shape: tuple[int, ...]) -> WCS:
    """A tangential grid in the same frame around the middle of an image, of other pixels."""
    side = min(160, int(1.3 * max(shape)) + 10)
    scale = np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))
    middle = wcs.pixel_to_world_values((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    grid = WCS(naxis=2)
    axes = (wcs.wcs.lng, wcs.wcs.lat)
    grid.wcs.ctype = [f"{wcs.wcs.ctype[axis][:4].ljust(4, '-')}-TAN" for axis in axes]
    grid.wcs.crval = [float(middle[axis]) for axis in axes]
    grid.wcs.crpix = [side / 2, side / 2]
    grid.wcs.cdelt = [-0.97 * scale, 0.97 * scale]
    grid.wcs.pc = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    grid.wcs.radesys = wcs.wcs.radesys
    grid.wcs.equinox = wcs.wcs.equinox
    grid.wcs.dateobs = wcs.wcs.dateobs
    for name in ("hgln_obs", "hglt_obs", "crln_obs", "dsun_obs", "rsun_ref"):
        setattr(grid.wcs.aux, name, getattr(wcs.wcs.aux, name))
    grid.wcs.set()
    grid.array_shape = side, side
    return grid


def on_grid(url: str, hdu: int, grid: WCS) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Our pixels and weights."""
    mosaic = dask_fits.mosaic(url, grid, hdu=hdu, dtype="float64")
    data, weight = dask.compute(mosaic.data, mosaic.weight, scheduler="sync")
    return data, weight


def check_values(
    data: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    scatter: float,
) -> None:
    """Footprints are equal, and values to what float64 positions of other ways differ by."""
    np.testing.assert_array_equal(weight > 0, np.isfinite(expected))
    covered = weight > 0
    largest = np.maximum(np.abs(expected[covered]), scatter)
    assert (np.abs(data - expected)[covered] <= 1e-5 * largest).all()


@each(IMAGES)
def test_images_are_where_reproject_puts_them(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, _), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what astropy mends in real headers
        for hdu in celestial_images(url):
            grid = turned_grid(hdu.wcs, hdu.shape or ())
            pixels = np.asarray(hdu.section[...], np.float64)
            data, weight = on_grid(url, hdu.index, grid)
            expected = reproject_interp(
                (pixels, hdu.wcs), grid, shape_out=grid.array_shape, return_footprint=False
            )
            check_values(data, weight, expected, float(np.nanstd(pixels)) or 1.0)


@pytest.mark.parametrize("name", SUN)
def test_images_of_the_sun_are_placed_within_one_observer(name: str) -> None:
    path = str(CORPUS / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdu = next(each for each in dask_fits.open(path).images() if len(each.shape or ()) == 2)
        grid = turned_grid(hdu.wcs, hdu.shape or ())
        data, weight = on_grid(path, hdu.index, grid)
        pixels = np.asarray(fits.open(path)[hdu.index].data, np.float64)
        y, x = np.mgrid[: grid.array_shape[0], : grid.array_shape[1]]
        at_x, at_y = hdu.wcs.world_to_pixel_values(*grid.pixel_to_world_values(x, y))
    outside = ~(
        (at_x >= -0.5)
        & (at_x <= pixels.shape[1] - 0.5)
        & (at_y >= -0.5)
        & (at_y <= pixels.shape[0] - 0.5)
    )
    expected = map_coordinates(pixels, [at_y, at_x], order=1, mode="nearest")
    expected[outside] = np.nan
    check_values(data, weight, expected, float(np.nanstd(pixels)))


def test_images_of_the_sun_by_two_observers_are_refused() -> None:
    first, second = (str(CORPUS / name) for name in SUN[1:])
    with pytest.raises(dask_fits.FitsFormatError, match="secchi_l0_b"):
        dask_fits.mosaic([first, second], first)


def test_a_map_of_the_whole_sky_in_another_frame() -> None:
    """ROSAT's, an AIT map in galactic coordinates, onto others."""
    path = str(CORPUS / "astropy-data" / "allsky_rosat.fits")
    pixels, header = fits.getdata(path).astype(np.float64), fits.getheader(path)
    for code, centre, scale, shape in (
        ("CAR", (180.0, 0.0), 0.9, (200, 400)),
        ("AIT", (83.0, 0.0), 0.85, (195, 390)),
        ("SIN", (266.0, -29.0), 0.7, (170, 170)),
    ):
        grid = WCS(naxis=2)
        grid.wcs.ctype = [f"RA---{code}", f"DEC--{code}"]
        grid.wcs.crval = centre
        grid.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
        grid.wcs.cdelt = [-scale, scale]
        grid.wcs.set()
        grid.array_shape = shape
        data, weight = on_grid(path, 0, grid)
        expected = reproject_interp(
            (pixels, WCS(header)), grid, shape_out=shape, return_footprint=False
        )
        assert (weight > 0).mean() > 0.5
        check_values(data, weight, expected, float(np.nanstd(pixels)))
