"""What mutated files found, each kind by itself: see `tests.whole.test_fuzz_operations`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from dask_fits import FitsError, FitsFormatError, FitsWarning
from dask_fits.wcs.conventions import repair_conventions
from dask_fits.wcs.keywords import repair_cards
from tests.support.memory import peak_below
from tests.support.recording import put
from tests.support.surfaces import TNX
from tests.support.wcs_headers import IMAGE, PLATE, TAN, card, cards, file_of, image_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
]

CUBE = {**IMAGE, "NAXIS": "3", "NAXIS3": "3"}


def hdu_of(content: bytes) -> dask_fits.HDU:
    return dask_fits.open(put("found.fits", content))[0]


def dataset_of(content: bytes, **options: Any) -> xr.Dataset:
    found = xr.open_dataset(put("found.fits", content), engine="fits", **options)
    assert isinstance(found, xr.Dataset)
    return found


# One card costs no other one


def texts(lines: Iterable[str], letter: str = "") -> list[str]:
    return [card.text for card in repair_cards(lines, letter, "a.fits: HDU 0")]


BEFORE = {k: v for k, v in TAN.items() if k.startswith("CTYPE")}
AFTER = {k: v for k, v in TAN.items() if not k.startswith("CTYPE")}


@pytest.mark.parametrize(
    "keyword",
    [
        *("WCSNAME", "CNAME1", "CUNIT1", "RADESYS", "EQUINOX", "EPOCH", "LONPOLE", "MJD-OBS"),
        *("DATE-OBS", "TIMESYS", "OBSGEO-X", "VELREF", "PS1_0", "WCSNAMEB", "PLATEID", "DP1"),
    ],
)
@pytest.mark.parametrize("value", ["= ", "=", "=  / undefined"])
def test_a_keyword_without_a_value_does_not_hide_the_next_one(keyword: str, value: str) -> None:
    """wcslib skips the card after one that has no value: here CRPIX1, which would count as 0."""
    empty = f"{keyword:<8}{value}"
    for before in ([], [card("EQUINOX", "2000.0")]):
        lines = [*cards(IMAGE, BEFORE), *before, empty, *cards(AFTER)]
        assert empty not in texts(lines)
        assert hdu_of(file_of(lines)).wcs.wcs.crpix[0] == 5.0


def test_an_epoch_counts_if_the_equinox_is_undefined() -> None:
    content = image_file(TAN, extra=["EQUINOX =", card("EPOCH", "1950.0")])
    assert hdu_of(content).wcs.wcs.equinox == 1950.0


@pytest.mark.parametrize(
    "line",
    [
        *("VELREF  = 1E300", "AXISCORR= 1E300", "MJDREFI = -1E300", "VELREF  = 4294967296"),
        *("CSYER1= " + "1" * 72, "PV2_1= 0." + "0" * 70, "OBJECT'= " + "'" * 70),
        *("RADESYS = " + "x" + "'" * 69, "WCSNAME = " + "''x" * 20, "TIMESYS = '" + "''" * 34),
    ],
)
def test_a_card_is_never_longer_than_a_card(line: str) -> None:
    """Else those after it would begin at the wrong place, and those that wcslib needs be missing."""
    assert all(len(text) <= 80 for text in texts([line[:80]]))
    hdu = hdu_of(file_of([*cards(IMAGE, BEFORE), line[:80], *cards(AFTER)]))
    with contextlib.suppress(FitsFormatError):
        assert (hdu.wcs.wcs.crpix == [5.0, 4.0]).all()


def test_a_text_is_not_cut_within_a_quote() -> None:
    for length in range(50, 70):
        (text,) = texts(["WCSNAME = " + "x" * length + "'" * (70 - length)])
        assert text.count("'") % 2 == 0


# Tables of coordinates

LOOKUP = ["CTYPE1  = 'RA---TAB'", "CTYPE2  = 'DEC--TAB'", "PV1_3   = 1", "PV2_3   = 2"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("'WCS-TABLE'", "'WCS-TABLE' / where they are"),
        ("'WCS-TABLE'  / of longitude", "'WCS-TABLE'  / of latitude"),
        ("'WCS-TABLE   '", "'WCS-TABLE'"),
    ],
)
def test_axes_of_one_table_whatever_the_comments_say(first: str, second: str) -> None:
    """FITS Standard 4.0, section 4.2.1.1: blanks at the end of a text do not count."""
    columns = ["PS1_1   = 'COORDS' / one", "PS2_1   = 'COORDS' / the same"]
    lines = [*LOOKUP, f"PS1_0   = {first}", f"PS2_0   = {second}", *columns]
    assert len(texts(lines)) == len(lines)
    with pytest.raises(FitsFormatError, match="expected each axis of the table once"):
        texts([line.replace("PS2_0   = 'WCS-", "PS2_0   = 'XYZ-") for line in lines])


@pytest.mark.parametrize("keyword", ["CTYPE1", "CTYPE2"])
@pytest.mark.parametrize("others", [PLATE, TNX], ids=["a plate", "WAT"])
def test_a_table_of_coordinates_beside_another_solution(
    keyword: str, others: dict[str, str]
) -> None:
    """wcslib gives such an axis another CTYPEn, and frees the table twice."""
    lines = cards(IMAGE, {**others, keyword: "'FREQ-TAB'"})
    name = {f"PS{keyword[-1]}_0": "'WCS-TABLE'", f"PS{keyword[-1]}_1": "'COORDS'"}
    with pytest.raises(FitsFormatError, match=f"{keyword}: found 'FREQ-TAB', expected no table"):
        repair_conventions(repair_cards([*lines, *cards(name)], "", "a.fits"), "", "a.fits")


# The shape of an image is that of its pixels


@pytest.mark.parametrize("keyword", ["NAXIS3", "NAXIS4", "NAXIS64"])
@pytest.mark.parametrize("value", ["1.0", "100", "9" * 40, "'3'"])
def test_lengths_of_axes_beyond_naxis_say_nothing(keyword: str, value: str) -> None:
    for keywords in ({}, TAN):
        content = image_file(keywords, {keyword: value})
        found = dataset_of(content)
        assert found.PRIMARY.shape == (8, 10)
        assert found.PRIMARY.dims == ("y", "x")
        assert found.fits.wcs.pixel_shape == (10, 8)


def test_nor_where_the_pixels_cannot_be_read() -> None:
    content = image_file(TAN, {"NAXIS4": "9" * 40, "BZERO": "'a'"})
    with pytest.raises(FitsFormatError, match="BZERO"):
        dataset_of(content)
    assert not dataset_of(content, drop_variables="PRIMARY").data_vars


# Nothing is made that is as long as an axis

LONG = {**IMAGE, "NAXIS1": "100000000000"}


@pytest.mark.parametrize("keywords", [{}, TAN], ids=["pixels", "sky"])
def test_a_long_axis_costs_no_memory(tmp_path: Path, keywords: dict[str, str]) -> None:
    path = tmp_path / "long.fits"
    path.write_bytes(file_of(cards(LONG, keywords)))
    with path.open("r+b") as file:
        file.truncate(2880 + 8 * 100_000_000_000)
    dataset_of(image_file(keywords)).fits.cutout((1, 1), 2)  # what is imported, counts for nothing
    with peak_below(10_000_000):
        found = xr.open_dataset(path, engine="fits", world_coords=True)
        assert found.fits.wcs.pixel_shape == (100_000_000_000, 8)
        part = found.isel(x=slice(7, None, 2))
        assert part.fits.wcs.pixel_shape == (49_999_999_997, 8)
        assert part.fits.wcs.wcs.crpix[0] == (found.fits.wcs.wcs.crpix[0] - 8) / 2 + 1
        assert found.fits.cutout((10**10, 1), 2).PRIMARY.shape == (2, 2)


def test_a_cutout_of_too_many_planes_is_the_fault_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "planes.fits"
    path.write_bytes(file_of(cards({**CUBE, "NAXIS1": "2", "NAXIS2": "2", "NAXIS3": str(1 << 40)})))
    with path.open("r+b") as file:
        file.truncate(2880 + (1 << 42))
    with pytest.raises(FitsFormatError, match=r"planes.fits: HDU 0 .*expected at most"):
        dask_fits.open(path)[0].cutout((1, 1), 2)


def test_a_size_that_is_too_large_is_the_fault_of_who_asked() -> None:
    with pytest.raises(ValueError, match="size: expected at most") as error:
        hdu_of(image_file()).cutout((0, 0), 1 << 30, mode="partial")
    assert not isinstance(error.value, FitsError)


# World coordinates of xarray


@pytest.mark.parametrize(
    "keywords",
    [
        {"CTYPE3": "'FREQ'", "CRVAL3": "1.0E20", "CDELT3": "1.0"},
        {"CTYPE3": "'FREQ-LOG'", "CRVAL3": "1.0", "CDELT3": "1.0E300"},
    ],
    ids=["all the same", "beyond all numbers"],
)
def test_coordinates_that_tell_no_pixels_apart(keywords: dict[str, str]) -> None:
    found = dataset_of(file_of(cards(CUBE, TAN, keywords)))
    assert found.fits.wcs.pixel_shape == (10, 8, 3)
    with contextlib.suppress(ValueError):
        assert found.isel(freq=[0, 2]).fits.wcs.pixel_shape == (10, 8, 2)


COUPLED = {**TAN, "CTYPE3": "'FREQ'", "CRVAL3": "1.0E9", "CDELT3": "1.0E6", "PC3_1": "0.5"}


def test_a_sky_that_is_tied_to_another_axis() -> None:
    star = SkyCoord(10.0, 20.0, unit="deg")
    content = file_of(cards(CUBE, COUPLED))
    hdu = hdu_of(content)
    with pytest.raises(FitsFormatError, match=r"found.fits: HDU 0 .*cannot separate"):
        hdu.cutout(star, 3)
    with pytest.raises(FitsFormatError, match="cannot separate"):
        dataset_of(content).fits.sel_sky(star)
    with pytest.raises(FitsFormatError, match="cannot separate"):
        dask_fits.cutouts(hdu.file, star.reshape(1), 3, fill_value=0)
    assert hdu.cutout((1, 1), 2).data.shape == (3, 2, 2)


@pytest.mark.parametrize("unit", ["'RA---AIT'", "'Hz'", "'m'"])
def test_a_sky_in_units_that_are_no_angles(unit: str) -> None:
    star = SkyCoord(10.0, 20.0, unit="deg")
    content = image_file(TAN, {"CUNIT1": unit})
    with pytest.raises(FitsFormatError, match=r"found.fits: HDU 0 .*(CUNIT1|[uU]nit)"):
        hdu_of(content).cutout(star, 3)
    with pytest.raises(FitsFormatError, match=r"CUNIT1|[uU]nit"):
        hdu_of(content).cutout((5, 4), 3 * u.arcsec)
    with pytest.raises(FitsFormatError, match=r"CUNIT1|[uU]nit"):
        dataset_of(content).fits.sel_sky(star)


@pytest.mark.parametrize("keyword", ["CRPIX1A", "LTV1", "CNPIX1"])
@pytest.mark.parametrize("value", ["1.0E400", "-1.0E400"])
def test_files_of_cutouts_whose_keywords_cannot_be_moved(
    tmp_path: Path, keyword: str, value: str
) -> None:
    path = tmp_path / "found.fits"
    path.write_bytes(image_file({keyword: value}))
    found = dask_fits.cutouts(path, [(5, 4)], 2).to_files(tmp_path / "files")
    assert found.status.tolist() == ["failed"]
    assert f"found.fits: HDU 0 (PRIMARY): {keyword}: found" in str(found.error[0])
    assert not [*(tmp_path / "files").glob("*.fits")]


@pytest.mark.parametrize("keyword", ["SIMPLE", "BITPIX", "NAXIS", "NAXIS2"])
def test_files_of_cutouts_have_no_comment_of_a_damaged_card(tmp_path: Path, keyword: str) -> None:
    """Astropy makes one card of it and the CONTINUE after it, and cannot tell its comment."""
    lines = cards(IMAGE)
    at = next(n for n, line in enumerate(lines) if line.split("=")[0].strip() == keyword)
    path = tmp_path / "found.fits"
    path.write_bytes(file_of([*lines[: at + 1], "CONTINUE  5", *lines[at + 1 :], *cards(TAN)]))
    done = dask_fits.cutouts(path, [(5, 4)], 2).to_files(tmp_path / "files")
    assert done.status.tolist() == ["ok"]
    with fits.open(tmp_path / "files" / "0.fits") as file:
        assert file[0].shape == (2, 2)
        assert file[0].header["CRVAL1"] == 10.0
        assert "CONTINUE" not in file[0].header


@pytest.mark.parametrize("projection", ["ZPN", "ZPX"])
@pytest.mark.parametrize("value", ["-1.0", "45.0", "1E300"])
def test_a_projection_that_no_pixel_can_be_transformed_with(projection: str, value: str) -> None:
    """Wcslib looks at some parameters when it is too late: here a polynomial of degree 0."""
    keywords = {"CTYPE1": f"'RA---{projection}'", "CTYPE2": f"'DEC--{projection}'", "PV2_0": value}
    content = image_file(TAN, keywords)
    hdu = hdu_of(content)
    with pytest.raises(FitsFormatError, match=r"found.fits: HDU 0 .*: the keywords make no WCS"):
        _ = hdu.wcs
    with pytest.raises(FitsFormatError, match=r"found.fits: HDU 0 .*: the keywords make no WCS"):
        hdu.cutout(SkyCoord(10.0, 20.0, unit="deg"), 3)
    cut = hdu.cutout((5, 4), 3)
    assert cut.wcs is None
    assert "Invalid parameter" in str(cut.wcs_error)
    with pytest.warns(FitsWarning, match=r"found.fits: HDU 0 .*: the keywords make no WCS"):
        found = dataset_of(content)
    assert set(found.coords) == {"x", "y"}, "pixels"
    assert found.PRIMARY.dims == ("y", "x")
