"""Images of the sky of which mosaics are made, and mosaics by reproject, NumPy and astropy alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning, Sip
from astropy.wcs.utils import pixel_to_pixel
from reproject import reproject_interp
from reproject.mosaicking import reproject_and_coadd

from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes

Floats = npt.NDArray[np.float64]
Shape = tuple[int, int]

SIP_DEGREE = 3
"""Of the polynomials of `tan_wcs`, which move a pixel 100 away from the middle by some pixels."""


def tan_wcs(
    ra: float,
    dec: float,
    scale: float,
    shape: Shape,
    rotation: float = 0.0,
    projection: str = "TAN",
    sip: bool = False,
    galactic: bool = False,
) -> WCS:
    """World coordinates of an image with a position at its middle; scale and angle in degrees.

    All numbers are as a header has them, to the bit.
    """
    wcs = WCS(naxis=2)
    ending = f"{projection}-SIP" if sip else projection
    names = ("GLON", "GLAT") if galactic else ("RA--", "DEC-")
    wcs.wcs.ctype = [f"{name}-{ending}" for name in names]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.cdelt = [-round(scale, 12), round(scale, 12)]
    cosine, sine = round(np.cos(np.deg2rad(rotation)), 12), round(np.sin(np.deg2rad(rotation)), 12)
    wcs.wcs.pc = [[cosine, -sine], [sine, cosine]]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    if sip:
        wcs.sip = _distortion(wcs.wcs.crpix)
    wcs.array_shape = shape
    wcs.wcs.set()
    return wcs


def _distortion(crpix: Any) -> Sip:
    """Polynomials without their inverse."""
    a, b = np.zeros((2, SIP_DEGREE + 1, SIP_DEGREE + 1))
    a[2, 0], a[1, 1], a[0, 2], a[3, 0] = 1e-4, -5e-5, 3e-5, 2e-7
    b[0, 2], b[1, 1], b[2, 0], b[1, 2] = -8e-5, 6e-5, 2e-5, -3e-7
    return Sip(a, b, None, None, crpix)


def all_sky_wcs(projection: str, shape: Shape, lon: float = 0.0, galactic: bool = False) -> WCS:
    """World coordinates of a map of the whole sky, as wide as its image."""
    wcs = tan_wcs(lon, 0.0, 1.0, shape, projection=projection, galactic=galactic)
    width = {"CAR": 360.0, "AIT": 8 * np.rad2deg(np.sqrt(0.5))}[projection]
    wcs.wcs.cdelt = [-round(width / shape[1], 12), round(width / 2 / shape[0], 12)]
    wcs.wcs.set()
    return wcs


def moved(wcs: WCS, y: float, x: float, shape: Shape) -> WCS:
    """World coordinates of the part of a grid that begins at a pixel."""
    part = wcs.deepcopy()
    part.wcs.crpix = [wcs.wcs.crpix[0] - x, wcs.wcs.crpix[1] - y]
    if wcs.sip is not None:
        sip = wcs.sip
        part.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, part.wcs.crpix)
    part.array_shape = shape
    part.wcs.set()
    return part


def sky_cards(wcs: WCS) -> dict[str, Any]:
    """The keywords of a WCS; `to_header` would round its numbers."""
    cards: dict[str, Any] = {}
    for axis, number in enumerate((1, 2)):
        cards[f"CTYPE{number}"] = str(wcs.wcs.ctype[axis])
        cards[f"CUNIT{number}"] = str(wcs.wcs.cunit[axis])
        for name in ("crpix", "crval", "cdelt"):
            cards[f"{name.upper()}{number}"] = float(getattr(wcs.wcs, name)[axis])
        for other in (1, 2):
            cards[f"PC{number}_{other}"] = float(wcs.wcs.pc[axis, other - 1])
    if wcs.wcs.radesys:
        cards["RADESYS"] = wcs.wcs.radesys
    if np.isfinite(wcs.wcs.equinox):
        cards["EQUINOX"] = float(wcs.wcs.equinox)
    if wcs.sip is not None:
        for name, terms in (("A", wcs.sip.a), ("B", wcs.sip.b)):
            cards[f"{name}_ORDER"] = len(terms) - 1
            for p, q in zip(*np.nonzero(terms), strict=True):
                cards[f"{name}_{p}_{q}"] = float(terms[p, q])
    return cards


def sky_header(wcs: WCS, **keywords: Any) -> fits.Header:
    """The header of an image."""
    return fits.Header(sky_cards(wcs) | keywords)


def write_image(path: Path, pixels: npt.NDArray[Any], wcs: WCS, **keywords: Any) -> str:
    """Write an image with world coordinates; return its path."""
    hdu = fits.PrimaryHDU(pixels, sky_header(wcs, **keywords))
    write_at_rest(path, fits_bytes(hdu))
    return str(path)


def star_image(rng: np.random.Generator, shape: Shape, count: int = 40) -> npt.NDArray[np.float32]:
    """Stars on a background of 100 with noise."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    pixels = rng.normal(100.0, 3.0, shape)
    for _ in range(count):
        at_y, at_x = rng.uniform(0, shape)
        pixels += rng.uniform(20, 500) * np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 4)
    return np.asarray(pixels, np.float32)


def sprinkle(rng: np.random.Generator, pixels: npt.NDArray[Any], part: float) -> None:
    """Take their values from a part of the pixels of an image.

    None of them is near an edge: half a pixel beyond the outer pixels' centres reproject looks for
    the second ones, with a weight of 0, and NaN spreads.
    """
    inner = pixels[2:-2, 2:-2]
    inner[rng.random(inner.shape) < part] = np.nan


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in a file, and what the file has."""

    path: str
    pixels: npt.NDArray[Any]
    wcs: WCS

    @property
    def pair(self) -> tuple[Floats, WCS]:
        """The image as reproject takes it: float64 in native byte order."""
        return self.pixels.astype(np.float64), self.wcs


def write_pictures(
    directory: Path, grids: Sequence[WCS], seed: int = 1, **keywords: Any
) -> list[Picture]:
    """Write an image of stars for each of some grids, with a few pixels that are NaN."""
    rng = np.random.default_rng(seed)
    pictures = []
    for number, wcs in enumerate(grids):
        pixels = star_image(rng, wcs.array_shape)
        sprinkle(rng, pixels, 2e-4)
        path = directory / f"image{number}.fits"
        pictures.append(Picture(write_image(path, pixels, wcs, **keywords), pixels, wcs))
    return pictures


def paths(pictures: Sequence[Picture]) -> list[str]:
    """The files of images."""
    return [each.path for each in pictures]


def coadd(pictures: Sequence[Picture], wcs: WCS, **options: Any) -> tuple[Floats, Floats]:
    """reproject's mean and footprint on a grid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        data, footprint = reproject_and_coadd(
            [each.pair for each in pictures],
            wcs,
            shape_out=wcs.array_shape,
            reproject_function=reproject_interp,
            **options,
        )
    return data, footprint


def layers(pictures: Sequence[Picture], wcs: WCS, **options: Any) -> Floats:
    """Each image on a grid by reproject, (n, h, w), NaN where it has no value."""
    found = np.empty((len(pictures), *wcs.array_shape))
    for layer, picture in zip(found, pictures, strict=True):
        layer[...] = reproject_interp(
            picture.pair, wcs, shape_out=wcs.array_shape, return_footprint=False, **options
        )
    return found


def positions(output: WCS, wcs: WCS, corners: bool = False) -> tuple[Floats, Floats]:
    """Pixels x, y of an image at the centres of a grid's pixels, or at their corners, by astropy."""
    height, width = output.array_shape
    more = int(corners)
    y, x = np.mgrid[: height + more, : width + more] - 0.5 * more
    found_x, found_y = pixel_to_pixel(output, wcs, x, y)
    return found_x, found_y


def covered(x: Floats, y: Floats, shape: Shape) -> npt.NDArray[np.bool_]:
    """Where positions are on an image, from edge to edge."""
    return (x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5)


def compute(*arrays: Any) -> list[npt.NDArray[Any]]:
    """Compute arrays in this thread."""
    return [np.asarray(each) for each in dask.compute(*arrays, scheduler="sync")]
