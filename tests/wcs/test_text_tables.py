"""The text of a WCS with tables: one that is made of it finds the same positions, to the bit."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable

from dask_fits.wcs.header import WcsText
from dask_fits.wcs.text import header_of, wcs_text
from tests.support.worlds import NX, NY, TABLES, TAN, Keywords, image, oracle, written

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

SHAPE = (NY, NX)


def positions(wcs: WCS) -> np.ndarray:
    pixels = np.random.default_rng(3).uniform(-5, 60, (300, wcs.naxis))
    pixels[0] = 0
    return np.array(wcs.all_pix2world(pixels, 0))


def tables_of(content: bytes) -> str:
    """All HDUs that a WCS may refer to, as a file in base 64."""
    buffer = io.BytesIO()
    with fits.open(io.BytesIO(content)) as file:
        kept = [fits.ImageHDU(hdu.data, hdu.header) if hdu.is_image else hdu for hdu in file]
        hdus = [hdu for hdu in kept if hdu.name != "SCI" and hdu.data is not None]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def by_astropy(text: WcsText) -> WCS:
    """The WCS that astropy alone makes of a text."""
    with fits.open(io.BytesIO(text.table_file())) as file:
        return WCS(header_of(text), fobj=file)


def check_equal(wcs: WCS, text: WcsText) -> None:
    expected = positions(wcs)
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(positions(text.wcs("file")), expected)
    np.testing.assert_array_equal(positions(by_astropy(text)), expected)


@pytest.mark.parametrize("name", TABLES)
def test_a_wcs_with_its_tables_comes_back_to_the_bit(name: str) -> None:
    content = written(*TABLES[name]())
    wcs = oracle(content)
    shape = (10, 20, 30)[-wcs.naxis :]
    check_equal(wcs, wcs_text(wcs, shape, tables=tables_of(content)))


@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith("-TAB")])
def test_tables_of_distortions_are_taken_from_the_wcs(name: str) -> None:
    """Whatever other tables of these names are given."""
    wcs = oracle(written(*TABLES[name]()))
    check_equal(wcs, wcs_text(wcs, SHAPE, tables=""))
    others = tables_of(written(*TABLES["all that HST has"]()))
    check_equal(wcs, wcs_text(wcs, SHAPE, tables=others))


def lookup(name: str, table: Any, **others: Any) -> WCS:
    """A WCS with a distortion that was made in Python."""
    wcs = WCS(fits.Header(TAN))
    setattr(wcs, name, table)
    for other, value in others.items():
        setattr(wcs, other, value)
    return wcs


def table(
    *, crpix: Any = (1.5, 2.25), crval: Any = (1 / 3, 2 / 3), cdelt: Any = (7 / 3, 11 / 3)
) -> Any:
    values = np.random.default_rng(2).uniform(-2, 2, (9, 7)).astype(np.float32)
    return DistortionLookupTable(values, crpix, crval, cdelt)


@pytest.mark.parametrize("name", ["cpdis1", "cpdis2", "det2im1", "det2im2"])
def test_a_distortion_of_python_comes_back(name: str) -> None:
    if name in ("cpdis1", "det2im1"):
        # astropy does not read a header with one of the first axis alone.
        second = name.replace("1", "2")
        wcs = lookup(name, table(), **{second: table(crval=(5.0, 7.0))})
    else:
        wcs = lookup(name, table())
    plain = positions(WCS(fits.Header(TAN)))
    assert not np.array_equal(positions(wcs), plain), "the distortion has an effect"
    check_equal(wcs, wcs_text(wcs, SHAPE, tables=""))


def test_without_tables_there_is_no_file() -> None:
    wcs = WCS(fits.Header(TAN))
    for given in (None, ""):
        assert wcs_text(wcs, SHAPE, tables=given).tables == ""


@pytest.mark.parametrize(
    ("name", "tables"), [("-TAB", ""), ("-TAB", None), ("lookup", None), ("detector", None)]
)
def test_tables_that_are_missing_are_told_of(name: str, tables: str | None) -> None:
    wcs = oracle(written(*TABLES[name]()))
    with pytest.raises(ValueError, match=r"has tables .* give the file or the HDU instead"):
        wcs_text(wcs, SHAPE, tables=tables)


def test_tables_that_are_not_those_of_the_wcs_are_told_of() -> None:
    wcs = oracle(written(*TABLES["-TAB along the first axis"]()))
    keywords: Keywords = {}
    other = tables_of(written(image(keywords), *TABLES["-TAB, second version"]()[2:]))
    with pytest.raises(ValueError, match="WCS"):
        wcs_text(wcs, (5, 10), tables=other)
