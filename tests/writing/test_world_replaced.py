"""`wcs=`: world coordinates instead of those in the header, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits import Card, Header
from astropy.wcs import WCS

import dask_fits
from dask_fits import Image
from tests.support import wcs_headers
from tests.support.mosaics import tan_wcs
from tests.support.sound_files import check_sound
from tests.support.worlds import SIP, TPV, cube, lookup, tab_axis, tab_table, written
from tests.support.worlds import image as world_image

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
    ),
    pytest.mark.untraced,
]

PIXELS = np.zeros((30, 40), np.float32)

NEW = tan_wcs(150.0, 2.0, 1 / 3000, PIXELS.shape, 20.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


OTHERS = [
    Card("OBJECT", "M 13", "what it shows"),
    Card("EXPTIME", 30.0),
    Card("CDELT", 5),
    Card("CTYPE", "none"),
    Card("PVALUE", 3),
    Card("PCOUNTS", 3),
    Card("CD", 1),
    Card("A_1", 1),
    Card("AP", 2),
    Card("WATER", 3),
    Card("LTM", 3),
    Card("DPHASE", 3),
    Card("DATE-BEG", "2024-01-01T00:00:00"),
    Card("HISTORY", "CRPIX1 was moved"),
    Card("COMMENT", "CD1_1  = 5"),
    Card("HIERARCH ESO CRPIX1", 5),
    Card("BUNIT", "adu"),
]
"""Keywords that lead to no world, among them some that look as if they did."""

ALTERNATE = {
    f"{keyword}A": value
    for keyword, value in {
        "WCSNAME": "old",
        "CTYPE1": "GLON-CAR",
        "CTYPE2": "GLAT-CAR",
        "CRVAL1": 200.0,
        "CRPIX1": 7.0,
        "CDELT1": 0.1,
        "CUNIT1": "deg",
        "PC1_2": 0.1,
        "PV2_1": 1.0,
        "RADESYS": "FK4",
        "EQUINOX": 1950.0,
        "LONPOLE": 170.0,
    }.items()
}

OLD: dict[str, dict[str, Any]] = {
    "SIP": SIP,
    "TPV": TPV,
    "PC": {"PC1_1": 0.5, "PC1_2": 0.3, "PC2_1": 0.2, "PC2_2": 0.5, "CDELT1": 7.0, "CDELT2": 9.0},
    "CD": {"CD1_1": 0.5, "CD1_2": 0.3, "CD2_1": 0.2, "CD2_2": 0.5},
    "CROTA": {"CROTA2": 30.0, "CDELT1": 7.0},
    "old CD": {"CD001001": -5.0, "CD001002": 1.0, "CD002001": 1.0, "CD002002": 5.0},
    "old PC": {"PC001001": -5.0, "PC001002": 1.0, "PC002001": 1.0, "PC002002": 5.0},
    "alternate": ALTERNATE,
    "physical": {"LTV1": 3.0, "LTM1_1": 2.0, "LTM2_2": 2.0, "WAT0_001": "system=physical"},
    "cube": {"WCSAXES": 3, **cube("RA", "DEC", "FREQ"), "SPECSYS": "LSRK", "RESTFRQ": 1e9},
    "old frame": {"EPOCH": 1950.0, "RADECSYS": "FK4", "VELREF": 257, "RESTFREQ": 1.4e9},
    "parameters": {"PROJP1": 3.0, "PROJP2": 4.0, "PV1_1": 2.0, "PV1_2": 5.0, "PV2_3": 0.1},
    "pole": {"LONPOLE": 100.0, "LATPOLE": 30.0, "RADESYS": "FK5", "EQUINOX": 1975.0},
    "lookup": lookup("CPDIS", 1, 2) | lookup("D2IMDIS", 1, 2) | {"CPERR1": 0.1},
    "detector": {"AXISCORR": 1},
    "TAB": tab_axis(1),
    "plate": {
        keyword: "-" if keyword == "PLTDECSN" else float(value)
        for keyword, value in wcs_headers.PLATE.items()
    },
    # astropy takes it for that of a plate, and makes no WCS of the header.
    "camera": {"XPIXELSZ": 9.0},
}
"""Keywords of which none is to be left."""


def header_of(keywords: dict[str, Any]) -> Header:
    """The keywords between others."""
    header = Header(OTHERS[:5])
    for keyword, value in keywords.items():
        for each in value if isinstance(value, list) else [value]:
            header.append((keyword, each), bottom=True)
    header.extend(OTHERS[5:], bottom=True)
    return header


def positions(wcs: WCS) -> np.ndarray:
    pixels = np.random.default_rng(6).uniform(-20, 60, (100, wcs.naxis))
    return np.array(wcs.all_pix2world(pixels, 0))


def images_of(cards: Any) -> list[str]:
    return [card.image for card in cards]


@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("form", ["PC", "CD"])
def test_nothing_of_the_old_world_is_left(old: str, form: str, path: Path) -> None:
    new = NEW.deepcopy()
    if form == "CD":
        new = WCS(naxis=2)
        new.wcs.ctype, new.wcs.crval, new.wcs.crpix = NEW.wcs.ctype, NEW.wcs.crval, NEW.wcs.crpix
        new.wcs.cd = [[-3e-4, 1e-5], [2e-5, 3e-4]]
    header = header_of(OLD[old])
    before = header.tostring()
    dask_fits.to_fits(PIXELS, path, header=header, wcs=new)
    assert header.tostring() == before
    found = fits.getheader(path)
    np.testing.assert_array_equal(positions(WCS(found)), positions(new))
    np.testing.assert_array_equal(positions(dask_fits.open(path)[0].wcs), positions(new))
    # A header of the new coordinates alone has no more.
    dask_fits.to_fits(PIXELS, path, wcs=new, overwrite=True)
    alone = fits.getheader(path)
    others = [card.keyword for card in OTHERS]
    assert [key for key in found if key not in others] == list(alone)
    assert WCS(found).wcs.specsys == ""
    assert WCS(found).wcs.radesys == WCS(alone).wcs.radesys
    check_sound(path)


def test_nothing_else_is_left_out(path: Path) -> None:
    dask_fits.to_fits(PIXELS, path, header=header_of(SIP), wcs=NEW)
    kept = [card for card in fits.getheader(path).cards if card.image in images_of(OTHERS)]
    assert images_of(kept) == images_of(OTHERS)


def test_the_keywords_of_an_hdu_with_the_world_of_another(tmp_path: Path, path: Path) -> None:
    keywords, world = tmp_path / "keywords.fits", tmp_path / "world.fits"
    fits.PrimaryHDU(PIXELS, header_of(SIP)).writeto(keywords)
    content = written(world_image(cube("RA", "DEC") | tab_axis(3), 10, 20, 30), tab_table())
    world.write_bytes(content)
    one, other = dask_fits.open(keywords)[0], dask_fits.open(world)["SCI"]
    dask_fits.to_fits(other.data, path, header=one, wcs=other)
    pixels = np.random.default_rng(7).uniform(1, 9, (50, 3))
    with fits.open(path) as file, fits.open(world) as original:
        found = WCS(file[0].header, fobj=file)
        expected = WCS(original["SCI"].header, fobj=original)
        np.testing.assert_array_equal(
            found.wcs_pix2world(pixels, 0), expected.wcs_pix2world(pixels, 0)
        )
        assert file[0].header["EXPTIME"] == 30.0
        assert "A_ORDER" not in file[0].header


@pytest.mark.parametrize("shape", [(30, 40), (5, 30, 40), (40,)])
def test_a_wcs_of_more_axes_than_the_array(shape: tuple[int, ...], path: Path) -> None:
    wcs = WCS(Header(cube("RA", "DEC", "FREQ")))
    dask_fits.to_fits(np.zeros(shape), path, wcs=wcs)
    found = WCS(fits.getheader(path))
    np.testing.assert_array_equal(positions(found), positions(wcs))


@pytest.mark.parametrize(
    ("shape", "wcs", "error", "message"),
    [
        ((3, 30, 40), NEW, ValueError, r"HDU 0 .*wcs: found one of 2 axes, expected 3"),
        ((40,), "in.fits", TypeError, r"HDU 0 .*wcs: expected an astropy WCS .* found str"),
        ((40,), Header(), TypeError, r"HDU 0 .*wcs: expected an astropy WCS .* found Header"),
        ((30, 40), 5, TypeError, r"found int"),
    ],
)
def test_what_is_no_wcs_of_the_array_is_refused(
    shape: tuple[int, ...], wcs: Any, error: type[Exception], message: str, path: Path
) -> None:
    with pytest.raises(error, match=message):
        dask_fits.to_fits(np.zeros(shape), path, wcs=wcs)
    with pytest.raises(error, match=message.replace("HDU 0", "HDU 1")):
        dask_fits.to_fits([Image(None), Image(np.zeros(shape), wcs=wcs)], path)
    assert not path.exists()


@pytest.mark.parametrize("header", ["a.fits", {"OBJECT": "M 13"}, NEW])
def test_what_is_no_header_is_refused(header: Any, path: Path) -> None:
    with pytest.raises(TypeError, match=r"header: expected an astropy Header or an HDU .* found"):
        dask_fits.to_fits(PIXELS, path, header=header)
    assert not path.exists()
