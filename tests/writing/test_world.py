"""World coordinates that are written: read back, they give the same positions, to the bit.

Expected positions are those that astropy finds with the original file.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import HDU, FitsFormatError
from tests.support.fits_files import same_bits
from tests.support.sound_files import check_sound
from tests.support.worlds import (
    IMAGES,
    PLAIN,
    TABLES,
    TAN,
    image,
    oracle,
    tab_axis,
    tab_table,
    written,
)

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
    ),
    pytest.mark.untraced,
]

WITHOUT_TAB = [name for name in IMAGES if not name.startswith("-TAB")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def placed(tmp_path: Path, content: bytes, key: Any = "SCI") -> HDU:
    """An image of a file of these bytes."""
    (tmp_path / "in.fits").write_bytes(content)
    return dask_fits.open(tmp_path / "in.fits")[key]


def positions(wcs: WCS) -> np.ndarray:
    """World coordinates of the first pixel, and of others on the image and around it."""
    pixels = np.random.default_rng(3).uniform(0, 30, (200, wcs.naxis))
    pixels[0] = 0
    return np.array(wcs.all_pix2world(pixels, 0))


def check_same_world(content: bytes, path: Path, key: str = " ", hdu: int = 0) -> None:
    """A pixel of an HDU is where it was: for astropy and for this package."""
    expected = positions(oracle(content, key))
    assert np.isfinite(expected).any()
    with fits.open(path) as file:
        found = WCS(file[hdu].header, fobj=file, key=key)
        np.testing.assert_array_equal(positions(found), expected)
    if key == " ":
        np.testing.assert_array_equal(positions(dask_fits.open(path)[hdu].wcs), expected)


def tables_of(content: bytes) -> list[tuple[str, int, bytes]]:
    """EXTNAME, EXTVER and bytes of all HDUs but images named SCI and the primary HDU."""
    found = []
    with fits.open(io.BytesIO(content), disable_image_compression=True) as file:
        for hdu in list(file)[1:]:
            if hdu.name != "SCI":
                info = hdu.fileinfo()
                whole = content[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]
                found.append((hdu.name, hdu.ver, whole))
    return found


WAYS: dict[str, Any] = {
    "header=hdu": lambda hdu: {"header": hdu},
    "wcs=hdu": lambda hdu: {"wcs": hdu},
    "both": lambda hdu: {"header": hdu, "wcs": hdu},
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("way", WAYS)
def test_the_world_of_an_hdu_comes_back(way: str, name: str, tmp_path: Path, path: Path) -> None:
    content = written(*IMAGES[name]())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, **WAYS[way](hdu))
    check_same_world(content, path)
    with fits.open(path) as file:
        assert same_bits(np.array(file[0].data).astype("f4"), np.zeros(hdu.shape, "f4"))
        file.verify("exception")


@pytest.mark.parametrize("name", WITHOUT_TAB)
def test_a_wcs_of_astropy_comes_back(name: str, tmp_path: Path, path: Path) -> None:
    content = written(*IMAGES[name]())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, wcs=oracle(content))
    check_same_world(content, path)
    dask_fits.to_fits(hdu.data, path, header=hdu, wcs=hdu.wcs, overwrite=True)
    check_same_world(content, path)
    check_sound(path, checksums=1)


@pytest.mark.parametrize("name", PLAIN)
def test_a_header_without_tables_is_enough(name: str, tmp_path: Path, path: Path) -> None:
    content = written(*PLAIN[name]())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, header=hdu.header)
    check_same_world(content, path)
    check_sound(path)


@pytest.mark.parametrize("name", TABLES)
def test_a_header_alone_does_not_bring_tables(name: str, tmp_path: Path, path: Path) -> None:
    hdu = placed(tmp_path, written(*TABLES[name]()))
    with pytest.raises(FitsFormatError, match=r"out\.fits: HDU 0 .*the table .*header=hdu"):
        dask_fits.to_fits(hdu.data, path, header=hdu.header)
    assert not path.exists()


@pytest.mark.parametrize("name", [name for name in TABLES if name.startswith("-TAB")])
def test_astropys_wcs_does_not_bring_tables_of_coordinates(
    name: str, tmp_path: Path, path: Path
) -> None:
    content = written(*TABLES[name]())
    hdu = placed(tmp_path, content)
    with pytest.raises(ValueError, match=r"-TAB.*give the file or the HDU instead"):
        dask_fits.to_fits(hdu.data, path, wcs=oracle(content))
    assert not path.exists()


NEEDED = {
    name: make
    for name, make in TABLES.items()
    if name not in ("lookup in the primary HDU", "compressed lookup")
}
"""Images whose tables are copied as they are, however they are given."""


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("way", WAYS)
def test_tables_are_copied_byte_by_byte(way: str, name: str, tmp_path: Path, path: Path) -> None:
    content = written(*NEEDED[name]())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, **WAYS[way](hdu))
    unused = {
        "-TAB, second version": ("WCS-TABLE", 1),
        "detector, second axis only": ("D2IMARR", 1),
    }
    expected = [table for table in tables_of(content) if table[:2] != unused.get(name)]
    assert sorted(tables_of(path.read_bytes())) == sorted(expected)


def test_compressed_tables_stay_compressed_with_the_header(tmp_path: Path, path: Path) -> None:
    content = written(*TABLES["compressed lookup"]())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, header=hdu)
    assert tables_of(path.read_bytes()) == tables_of(content)


ALTERNATE = TAN | {
    "WCSNAMEA": "another",
    "CTYPE1A": "GLON-CAR",
    "CTYPE2A": "GLAT-CAR",
    "CRVAL1A": 1 / 3,
    "CRPIX1A": 4.25,
    "CRPIX2A": 8.5,
    "CDELT1A": 0.01,
    "CDELT2A": 0.01,
}


def test_an_alternate_wcs_stays(tmp_path: Path, path: Path) -> None:
    content = written(image(ALTERNATE))
    hdu = placed(tmp_path, content)
    for header in (hdu, hdu.header):
        dask_fits.to_fits(hdu.data, path, header=header, overwrite=True)
        for key in " A":
            check_same_world(content, path, key)


def test_a_table_of_an_alternate_alone_comes_along(tmp_path: Path, path: Path) -> None:
    content = written(image(TAN | tab_axis(1, key="A") | {"CTYPE2A": "Y"}, 20, 10), tab_table())
    hdu = placed(tmp_path, content)
    dask_fits.to_fits(hdu.data, path, header=hdu)
    assert tables_of(path.read_bytes()) == tables_of(content)
    for key in " A":
        check_same_world(content, path, key)
    with pytest.raises(FitsFormatError, match="WCS-TABLE, 1"):
        dask_fits.to_fits(hdu.data, path, header=hdu.header, overwrite=True)


def test_a_table_that_the_original_lacks_is_not_missed(tmp_path: Path, path: Path) -> None:
    """It cannot be lost again."""
    hdu = placed(tmp_path, written(image(tab_axis(1), 5, 10)))
    dask_fits.to_fits(hdu.data, path, header=hdu)
    assert fits.getheader(path)["PS1_0"] == "WCS-TABLE"


@pytest.mark.parametrize("name", [*TABLES, "SIP"])
def test_a_cutout_of_the_first_pixels_needs_no_more(name: str, tmp_path: Path, path: Path) -> None:
    """The array may be another one than that of the HDU."""
    content = written(*IMAGES[name]())
    hdu = placed(tmp_path, content)
    shape = tuple(min(length, 5) for length in hdu.shape or ())
    dask_fits.to_fits(np.zeros(shape), path, header=hdu)
    check_same_world(content, path)
    assert fits.getdata(path).shape == shape
