"""Images that mosaics are made of: of stars, of zeros that take no place on disk, of noise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS, Sip

from benchmarks.images import write_tiled

SIDE, OUT = 2048, 4096
"""Pixels along each side of the images with stars, and of what is made of them."""

SCALE = 0.05 / 3600
"""Degrees in a pixel of what is made of them."""

RA, DEC = 150.0, 2.0
WIDE = 0.2 / 3600
"""Degrees in a pixel of images that take no place on disk."""

STARS = 3000
TILE = (128, 128)
_INVERSE = 5
"""Degree of the polynomials that undo a distortion."""


class Place(NamedTuple):
    """Where one of six images is."""

    rotation: float
    scale: float
    """Of its pixels, to those of the output."""
    x: int
    y: int
    """Pixels of the output from its middle to the middle of the image."""


SIX = (
    *(Place(3, 0.95, -900, -900), Place(40, 1.0, 0, -800), Place(75, 1.05, 900, -700)),
    *(Place(110, 1.1, -900, 900), Place(150, 0.98, 50, 800), Place(178, 1.02, 900, 850)),
)
"""Every other one, from the second on, is distorted."""


def tan_wcs(
    ra: float, dec: float, scale: float, side: int, *, rotation: float = 0.0, sip: bool = False
) -> WCS:
    """Make the world coordinates of a square image from those of its middle; degrees."""
    wcs = WCS(naxis=2)
    ending = "TAN-SIP" if sip else "TAN"
    wcs.wcs.ctype = [f"RA---{ending}", f"DEC--{ending}"]
    wcs.wcs.crval, wcs.wcs.crpix = [ra, dec], [side / 2 + 0.5] * 2
    cosine, sine = (f(math.radians(rotation)) for f in (math.cos, math.sin))
    wcs.wcs.cd = scale * np.array([[-cosine, sine], [sine, cosine]])
    if sip:
        wcs.sip = _distortion(wcs.wcs.crpix, side)
    wcs.wcs.set()
    return wcs


def grid(side: int, scale: float) -> WCS:
    """Make the world coordinates of a mosaic."""
    return tan_wcs(RA, DEC, scale, side)


def _distortion(crpix: npt.NDArray, side: int) -> Sip:
    """Make polynomials like those of Hubble's cameras, and such that undo them."""
    a, b = np.zeros((2, 5, 5))
    a[2, 0], a[1, 1], a[0, 2], a[3, 0], a[2, 2] = 8e-6, -5e-6, 2e-6, 1e-10, 1e-14
    b[2, 0], b[1, 1], b[0, 2], b[0, 3], b[1, 3] = -3e-6, 6e-6, -7e-6, -2e-10, 1e-14
    along = np.linspace(-0.6 * side, 0.6 * side, 41)
    u, v = (each.ravel() for each in np.meshgrid(along, along))
    moved = [np.polynomial.polynomial.polyval2d(u, v, terms) for terms in (a, b)]
    x, y = (u + moved[0]) / side, (v + moved[1]) / side
    powers = [(p, q) for p in range(_INVERSE + 1) for q in range(_INVERSE + 1 - p)]
    terms = np.stack([x**p * y**q for p, q in powers], axis=1)
    found = np.linalg.lstsq(terms, np.stack([-moved[0], -moved[1]], axis=1))[0]
    ap, bp = np.zeros((2, _INVERSE + 1, _INVERSE + 1))
    for (p, q), (of_x, of_y) in zip(powers, found, strict=True):
        ap[p, q], bp[p, q] = of_x / side ** (p + q), of_y / side ** (p + q)
    return Sip(a, b, ap, bp, crpix)


def write_six(folder: Path) -> list[Path]:
    """Write six images of stars that overlap, each with pixels that are NaN."""
    rng = np.random.default_rng(1)
    paths = []
    for number, place in enumerate(SIX):
        ra, dec = RA + place.x * SCALE, DEC + place.y * SCALE
        sip = number % 2 == 1
        wcs = tan_wcs(ra, dec, place.scale * SCALE, SIDE, rotation=place.rotation, sip=sip)
        paths.append(folder / f"stars{number}.fits")
        fits.PrimaryHDU(_stars(rng), wcs.to_header(relax=True)).writeto(paths[-1])
    return paths


def write_layers(folder: Path, count: int, *, side: int = SIDE, packed: bool = False) -> list[Path]:
    """Write images of the same stars that overlap nearly whole, with noise and cosmic rays.

    Those that are packed are integers in tiles.
    """
    rng = np.random.default_rng(2)
    stars = _stars(rng)[:side, :side]
    paths = []
    for number in range(count):
        shift = rng.uniform(-20, 20, 2) * SCALE
        wcs = tan_wcs(RA + shift[0], DEC + shift[1], SCALE, side, rotation=0.2 * number)
        pixels = stars + rng.normal(0, 5, stars.shape).astype(np.float32)
        pixels[rng.random(stars.shape) < 1e-3] += 5000
        paths.append(folder / f"layer{number}-{side}-{packed:d}.fits")
        if packed:
            whole = np.nan_to_num(pixels).astype(np.int16)
            write_tiled(paths[-1], whole, algorithm="RICE_1", tile=TILE, header=wcs.to_header())
        else:
            fits.PrimaryHDU(pixels, wcs.to_header()).writeto(paths[-1])
    return paths


def _stars(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Make an image of stars, up to 10,000 each, with a column and a block of NaN."""
    pixels = rng.normal(100, 5, (SIDE, SIDE)).astype(np.float32)
    offsets = np.arange(-4, 5)
    star = np.exp(-(offsets**2 + offsets[:, np.newaxis] ** 2) / (2 * 1.5**2))
    at = rng.integers(4, SIDE - 4, (STARS, 2)).tolist()
    for (y, x), peak in zip(at, 10 ** rng.uniform(1, 4, STARS), strict=True):
        pixels[y - 4 : y + 5, x - 4 : x + 5] += (peak * star).astype(np.float32)
    pixels[:, 700] = np.nan
    pixels[300:340, 1200:1260] = np.nan
    return pixels


def write_zeros(folder: Path, count: int, side: int, out: int) -> list[Path]:
    """Write images of zeros as holes in files, turned any way, all over an output of a width."""
    rng = np.random.default_rng(0)
    paths = []
    for number, (ra, dec) in enumerate(_places(count, out / math.ceil(count**0.5))):
        wcs = tan_wcs(ra, dec, WIDE, side, rotation=rng.uniform(0, 360))
        paths.append(folder / f"zeros{number:05}.fits")
        with paths[-1].open("wb") as file:
            file.write(_header(wcs, -32, side, EXPTIME=float(number + 1)))
            size = file.tell() + 4 * side * side
            file.truncate(size + -size % 2880)
    return paths


def write_noise(folder: Path, count: int, side: int, out: int) -> list[Path]:
    """Write int16 images of noise all over an output of a width, but nowhere beyond its edges."""
    rng = np.random.default_rng(0)
    stored = rng.normal(1000, 30, (side, side)).astype(">i2")
    pitch = (out - 1.06 * side) / (math.ceil(count**0.5) - 1)
    paths = []
    for number, (ra, dec) in enumerate(_places(count, pitch)):
        rotation = number % 4 * 90 + rng.uniform(-3, 3)
        paths.append(folder / f"noise{number:05}.fits")
        with paths[-1].open("wb") as file:
            file.write(_header(tan_wcs(ra, dec, WIDE, side, rotation=rotation), 16, side))
            file.write(np.roll(stored, 17 * number, axis=1).tobytes())
            file.write(bytes(-file.tell() % 2880))
    return paths


def _places(count: int, pitch: float) -> Iterator[tuple[float, float]]:
    """Yield right ascension and declination of the middles of images in rows and columns."""
    along = math.ceil(count**0.5)
    for number in range(count):
        y, x = ((each - (along - 1) / 2) * pitch * WIDE for each in divmod(number, along))
        yield RA + x / math.cos(math.radians(DEC + y)), DEC + y


def _header(wcs: WCS, bitpix: int, side: int, **keywords: float) -> bytes:
    """Make the header of an image, by hand: astropy takes ten times as long for that of a WCS."""
    cards: dict[str, object] = {"SIMPLE": True, "BITPIX": bitpix, "NAXIS": 2}
    cards |= {"NAXIS1": side, "NAXIS2": side}
    for axis, (name, value, at) in enumerate(
        zip(wcs.wcs.ctype, wcs.wcs.crval.tolist(), wcs.wcs.crpix.tolist(), strict=True)
    ):
        cards |= {f"CTYPE{axis + 1}": name, f"CUNIT{axis + 1}": "deg"}
        cards |= {f"CRVAL{axis + 1}": value, f"CRPIX{axis + 1}": at}
        for other in range(2):
            cards[f"CD{axis + 1}_{other + 1}"] = float(wcs.wcs.cd[axis, other])
    return fits.Header(cards | keywords).tostring().encode()
