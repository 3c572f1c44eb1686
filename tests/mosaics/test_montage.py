"""Exact areas against Montage's mProjectPP, which maps one plane onto the other as this does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip
from scipy.ndimage import maximum_filter

from dask_fits import mosaic
from tests.support.mosaics import Floats, compute, sky_header, star_image, tan_wcs, write_image

montage: Any = pytest.importorskip(
    "MontagePy.main", reason="MontagePy has wheels for Python 3.11 on Linux alone"
)

SHAPE = (200, 220)
GRID = tan_wcs(150.0, 2.0, 1.07e-3, (260, 270), 5.0)

IMAGES: dict[str, WCS] = {
    "TAN": tan_wcs(150.003, 2.002, 1e-3, SHAPE, 33.0),
    "TAN, coarse": tan_wcs(150.0, 2.0, 1.9e-3, (120, 130), -70.0),
}

SIP = tan_wcs(150.003, 2.002, 1e-3, SHAPE, 33.0)
"""With a distortion and its inverse, which Montage needs."""


def distorted() -> WCS:
    wcs = SIP.deepcopy()
    a, b = np.zeros((2, 3, 3))
    a[2, 0], b[0, 2] = 2e-7, -3e-7
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.sip = Sip(a, b, -a, -b, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def by_montage(path: str, folder: Path) -> tuple[Floats, tuple[slice, slice]]:
    """The image on the grid, and the part of the grid that Montage wrote."""
    height, width = GRID.array_shape
    cards = sky_header(GRID)
    lines = ["SIMPLE  = T", "BITPIX  = -64", "NAXIS   = 2", f"NAXIS1  = {width}"]
    lines += [f"NAXIS2  = {height}", *(str(card).rstrip() for card in cards.cards), "END"]
    template = folder / "grid.hdr"
    template.write_text("\n".join(lines) + "\n")
    written = folder / "projected.fits"
    result = montage.mProjectPP(path, str(written), str(template))
    assert result["status"] == "0", result
    with fits.open(written) as file:
        pixels, header = file[0].data, file[0].header
    top, left = (round(float(GRID.wcs.crpix[axis] - header[f"CRPIX{axis + 1}"])) for axis in (1, 0))
    return pixels, (slice(top, top + len(pixels)), slice(left, left + len(pixels[0])))


@pytest.mark.parametrize("name", [*IMAGES, "SIP"])
def test_pixels_are_those_of_montage(name: str, tmp_path: Path) -> None:
    wcs = IMAGES.get(name) or distorted()
    pixels = star_image(np.random.default_rng(4), wcs.array_shape).astype(float)
    path = write_image(tmp_path / "image.fits", pixels, wcs)
    if name == "SIP":  # of which the helper writes no inverse
        with fits.open(path, mode="update") as file:
            file[0].header.update({"AP_ORDER": 2, "AP_2_0": -2e-7, "BP_ORDER": 2, "BP_0_2": 3e-7})
    m = mosaic([path], GRID, resampling="exact", dtype="f8")
    data, weight = compute(m.data, m.weight)
    expected, part = by_montage(path, tmp_path)
    # Montage leaves out what is beyond the edges of what it writes.
    inside = np.zeros(expected.shape, bool)
    inside[3:-3, 3:-3] = ((weight[part] > 1 - 1e-9) & np.isfinite(expected))[3:-3, 3:-3]
    assert inside.sum() > 10_000
    # Beside a star, a position that is off by 1e-9 pixels makes more than elsewhere.
    scale = maximum_filter(np.nan_to_num(data[part]), 5)
    largest = 1e-5 if name == "SIP" else 1e-7
    assert (np.abs(data[part] - expected)[inside] <= largest * scale[inside]).all()
