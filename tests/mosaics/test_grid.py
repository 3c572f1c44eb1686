"""The grid of a mosaic: as it is given, or as it suits the images; and warnings of its scale.

Expected values are those of `reproject.mosaicking.find_optimal_celestial_wcs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from reproject.mosaicking import find_optimal_celestial_wcs

import dask_fits
from dask_fits import FitsFormatError, FitsWarning, mosaic, open_collection, optimal_wcs
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes
from tests.support.mosaics import (
    Picture,
    coadd,
    compute,
    moved,
    paths,
    star_image,
    tan_wcs,
    write_image,
    write_pictures,
)

SHAPE = (60, 75)


def around(ra: float, dec: float, **options: Any) -> list[WCS]:
    """Three turned images of other scales around a position."""
    turned = [(0.0, 0.0, 10.0, 1.0), (0.05, 0.02, -33.0, 0.9), (-0.04, -0.05, 95.0, 1.15)]
    return [
        tan_wcs((ra + x) % 360, dec - abs(y), 1e-3 * scale, SHAPE, angle, **options)
        for x, y, angle, scale in turned
    ]


CASES: dict[str, list[WCS]] = {
    "TAN": around(120.0, 30.0),
    "RA 0": around(359.99, -5.0),
    "south": around(40.0, -89.9),
    "SIP": around(120.0, 30.0, sip=True),
    "galactic": around(30.0, 10.0, galactic=True),
    "frames": [*around(266.41, -28.93)[:2], tan_wcs(0.0, 0.0, 1e-3, SHAPE, galactic=True)],
    "one": [tan_wcs(10.0, 20.0, 1e-3, SHAPE)],
}


def write_all(directory: Path, grids: Sequence[WCS]) -> list[str]:
    return [
        write_image(directory / f"{number}.fits", np.zeros(grid.array_shape, np.uint8), grid)
        for number, grid in enumerate(grids)
    ]


def check_same_grid(
    found: tuple[WCS, Any], expected: tuple[WCS, Any], tolerance: float = 1e-6
) -> None:
    """Compare shapes, and the sky at corners and in the middle, in pixels."""
    (one, shape), (other, other_shape) = found, expected
    assert tuple(shape) == tuple(other_shape)
    assert list(one.wcs.ctype) == list(other.wcs.ctype)
    height, width = shape
    x = np.array([-0.5, width - 0.5, -0.5, width - 0.5, width / 2])
    y = np.array([-0.5, -0.5, height - 0.5, height - 0.5, height / 2])
    pixels = other.world_to_pixel(one.pixel_to_world(x, y))
    np.testing.assert_allclose(pixels, [x, y], atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_grid_is_that_of_reproject(name: str, tmp_path: Path) -> None:
    grids = CASES[name]
    expected = find_optimal_celestial_wcs([(grid.array_shape, grid) for grid in grids])
    found = optimal_wcs(write_all(tmp_path, grids))
    if name in {"SIP", "south"}:
        # Edges bulge beyond corners, which are all that reproject looks at.
        wider = np.subtract(found[1], expected[1])
        assert (wider >= 0).all()
        assert (wider <= 4).all()
    else:
        check_same_grid(found, expected)


@pytest.mark.parametrize("options", [
    {"frame": "galactic"}, {"projection": "SIN"}, {"projection": "CAR"},
    {"resolution": 3 * u.arcsec}, {"reference": SkyCoord(120.1 * u.deg, 29.9 * u.deg)},
    {"frame": "fk5", "resolution": 5 * u.arcsec, "projection": "ARC"},
])  # fmt: skip
def test_options_are_those_of_reproject(options: dict[str, Any], tmp_path: Path) -> None:
    grids = CASES["TAN"]
    expected = find_optimal_celestial_wcs([(grid.array_shape, grid) for grid in grids], **options)
    files = write_all(tmp_path, grids)
    check_same_grid(optimal_wcs(files, **options), expected)
    check_same_grid(optimal_wcs(open_collection(files), **options), expected)


def test_mosaic_without_a_grid_has_the_optimal_one(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, CASES["TAN"])
    wcs, shape = optimal_wcs(paths(pictures))
    m = mosaic(paths(pictures))
    assert m.shape == shape == m.data.shape
    check_same_grid((m.wcs, m.shape), (wcs, shape), 1e-9)
    wcs.array_shape = shape
    expected, footprint = coadd(pictures, wcs)
    data, weight = compute(m.data, m.weight)
    np.testing.assert_array_equal(weight, footprint)
    np.testing.assert_allclose(data, np.where(footprint > 0, expected, np.nan), rtol=1e-6)


@pytest.fixture
def tile(tmp_path: Path) -> Picture:
    wcs = tan_wcs(10.0, 20.0, 1e-3, SHAPE, 20.0, sip=True)
    pixels = star_image(np.random.default_rng(1), SHAPE)
    return Picture(write_image(tmp_path / "tile.fits", pixels, wcs), pixels, wcs)


def test_ways_to_give_a_grid(tile: Picture, tmp_path: Path) -> None:
    """All are the image's own grid, so it is pasted."""
    header = fits.getheader(tile.path)
    without = header.copy()
    del without["NAXIS*"]
    file = dask_fits.open(tile.path)
    given: list[Any] = [
        tile.wcs, header, tile.path, Path(tile.path), file, file[0], (without, SHAPE),
        (WCS(header).celestial, SHAPE),
    ]  # fmt: skip
    for each in given:
        wcs, shape = each if isinstance(each, tuple) else (each, None)
        m = mosaic([tile.path], wcs, shape)
        assert m.shape == SHAPE
        assert m.inputs["pasted"].all()
        np.testing.assert_array_equal(*compute(m.data), tile.pixels)
        x, y = m.wcs.world_to_pixel(tile.wcs.pixel_to_world(50.0, 33.0))
        np.testing.assert_allclose([x, y], [50.0, 33.0], atol=1e-6)


def test_shape_beside_a_grid(tile: Picture) -> None:
    [data] = compute(mosaic([tile.path], tile.wcs, (20, 30)).data)
    np.testing.assert_array_equal(data, tile.pixels[:20, :30])
    [data] = compute(mosaic([tile.path], tile.path, (70, 80)).data)
    np.testing.assert_array_equal(data[:60, :75], tile.pixels)
    assert np.isnan(data[60:]).all()
    assert np.isnan(data[:, 75:]).all()


def test_grid_that_is_none(tile: Picture) -> None:
    unknown = tile.wcs.deepcopy()
    unknown.array_shape = None
    with pytest.raises(ValueError, match="shape: expected height and width beside a WCS"):
        mosaic([tile.path], unknown)
    with pytest.raises(ValueError, match="shape: expected height and width, found"):
        mosaic([tile.path], tile.wcs, (3, 0))
    with pytest.raises(TypeError, match="wcs: expected a WCS, a Header"):
        mosaic([tile.path], 7)
    plain = WCS(naxis=2)
    plain.array_shape = SHAPE
    with pytest.raises(FitsFormatError, match="celestial"):
        mosaic([tile.path], plain)


@pytest.mark.parametrize("sip", [False, True])
def test_image_without_a_sky_is_named(sip: bool, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.fits"
    write_at_rest(nowhere, fits_bytes(fits.PrimaryHDU(np.zeros(SHAPE))))
    for wcs in (tan_wcs(10.0, 20.0, 1e-3, SHAPE, 20.0, sip=sip), None):
        with pytest.raises(FitsFormatError, match=r"nowhere\.fits"):
            mosaic([str(nowhere)], wcs)


def test_header_says_what_the_mosaic_is(tile: Picture) -> None:
    m = mosaic([tile.path] * 3, tile.path)
    assert m.header["NCOMBINE"] == 3
    [data] = compute(m.data)
    saved = fits.PrimaryHDU(data, m.header)
    assert (saved.header["NAXIS1"], saved.header["NAXIS2"]) == SHAPE[::-1]
    sky = tile.wcs.pixel_to_world([0.0, 70.0], [5.0, 50.0])
    np.testing.assert_allclose(
        WCS(saved.header).world_to_pixel(sky), [[0.0, 70.0], [5.0, 50.0]], atol=1e-6
    )


@pytest.mark.parametrize("resampling", ["bilinear", "nearest", "lanczos3"])
def test_coarse_grid_is_warned_of(resampling: Any, tmp_path: Path) -> None:
    wcs = tan_wcs(10.0, 20.0, 1e-3, SHAPE, 20.0)
    files = [write_image(tmp_path / "a.fits", np.ones(SHAPE), wcs)]
    coarse = tan_wcs(10.0, 20.0, 1.6e-3, (40, 50))
    with pytest.warns(FitsWarning, match=r"1\.6 times as wide as those of .*a\.fits.*'exact'"):
        mosaic(files, coarse, resampling=resampling)
    mosaic(files, coarse, resampling="exact")  # warnings are errors
    mosaic(files, tan_wcs(10.0, 20.0, 1.4e-3, (40, 50)), resampling=resampling)


UNITS = [
    ("adu", "surface brightness"), ("electron/s", "surface brightness"),
    ("Jy/pixel", "surface brightness"), ("Jy/pix", "surface brightness"),
    ("count", "surface brightness"), ("DN", "surface brightness"),
    ("MJy/sr", "flux"), ("Jy/beam", "flux"), ("mag/arcsec2", "flux"), ("MJy sr-1", "flux"),
    ("erg/s/cm2/arcsec2", "flux"),
]  # fmt: skip


@pytest.mark.parametrize(("unit", "wrong"), UNITS)
def test_units_that_contradict_what_is_conserved_are_warned_of(
    unit: str, wrong: Any, tmp_path: Path
) -> None:
    right: Any = {"surface brightness": "flux", "flux": "surface brightness"}[wrong]
    wcs = tan_wcs(10.0, 20.0, 1e-3, SHAPE, 20.0)
    files = [
        write_image(tmp_path / "none.fits", np.ones(SHAPE), wcs),
        write_image(tmp_path / "unit.fits", np.ones(SHAPE), wcs, BUNIT=unit),
    ]
    other = tan_wcs(10.0, 20.0, 1.1e-3, SHAPE)
    with pytest.warns(FitsWarning, match=f"unit.*BUNIT is '{unit}'.*conserve='{right}'"):
        mosaic(files, other, conserve=wrong)
    # There is nothing to say of these; warnings are errors.
    mosaic(files, other, conserve=right)
    mosaic(files, tan_wcs(10.0, 20.0, 1.001e-3, SHAPE), conserve=wrong)
    mosaic(files, moved(wcs, 3, 4, SHAPE), conserve=wrong)
    mosaic(files[:1], other, conserve=wrong)
