"""Catalogues in the formats that astropy reads, and what they say where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from dask_fits.many_cutouts.catalog import read_catalog
from tests.support.fits_files import same_bits

RA = [250.423, 0.0, 359.75]
DEC = [36.46, -90.0, 12.5]


def text(root: Path, content: str, name: str = "stars.csv") -> Path:
    path = root / name
    path.write_text(content)
    return path


def table(root: Path, name: str = "stars.ecsv", /, **columns: Any) -> Path:
    path = root / name
    options = {"format": "votable"} if path.suffix in (".vot", ".xml") else {}
    Table(columns).write(path, **options)
    return path


def assert_at(positions: Any, ra: Any, dec: Any) -> None:
    """Degrees in ICRS, NaN for what is none."""
    assert isinstance(positions, SkyCoord)
    assert positions.frame.name == "icrs"
    assert positions.ra.deg.tolist() == pytest.approx(ra, abs=1e-12, nan_ok=True)
    assert positions.dec.deg.tolist() == pytest.approx(dec, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.fits", "a.fit", "a.vot", "a.xml"])
def test_formats(tmp_path: Path, name: str) -> None:
    """What the format says of missing numbers, among columns that are nobody's concern."""
    path = table(
        tmp_path,
        name,
        mag=MaskedColumn([20.5, 0.0, 18.25], mask=[False, True, False]),
        ra=RA,
        dec=DEC,
        name=["x", "yy", "zzz"],
    )
    found = read_catalog(path, names="name")
    assert_at(found.positions, RA, DEC)
    assert found.names == ("x", "yy", "zzz")
    assert all(type(called) is str for called in found.names)
    assert read_catalog(str(path)).names is None


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.fits", "a.vot"])
@pytest.mark.parametrize("kind", [float, int])
def test_masked_positions_are_none(tmp_path: Path, name: str, kind: type) -> None:
    path = table(
        tmp_path,
        name,
        ra=MaskedColumn(np.array([10, 20, 30], kind), mask=[False, True, False]),
        dec=MaskedColumn(np.array([1, 2, 3], kind), mask=[False, False, True]),
    )
    nan = np.nan
    positions = read_catalog(path).positions
    if name == "a.fits" and kind is int:  # astropy writes no TNULL of its own accord
        positions = positions[:1]
        assert_at(positions, [10], [1])
    else:
        assert_at(positions, [10, nan, 30], [1, 2, nan])
        assert not np.ma.isMaskedArray(positions.ra.deg)


def test_a_fits_table_with_nan_and_null(tmp_path: Path) -> None:
    columns = [
        fits.Column("RA", "D", array=[1.0, np.nan, 3.0]),
        fits.Column("DEC", "J", null=-99, array=[4, 5, -99]),
    ]
    path = tmp_path / "stars.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns)]).writeto(path)
    assert_at(read_catalog(path).positions, [1, np.nan, 3], [4, 5, np.nan])


@pytest.mark.parametrize("name", ["a.ecsv", "a.fits", "a.vot"])
@pytest.mark.parametrize(("ra", "dec"), [("hourangle", "rad"), ("rad", "arcsec"), ("deg", "deg")])
def test_units(tmp_path: Path, name: str, ra: str, dec: str) -> None:
    expected = SkyCoord([10, 200, 300], [-80, 0, 45], unit="deg")
    if name != "a.ecsv" and ra == "hourangle":
        pytest.skip("the format has no such unit")
    path = table(tmp_path, name, ra=expected.ra.to(ra), dec=expected.dec.to(dec))
    assert_at(read_catalog(path).positions, [10, 200, 300], [-80, 0, 45])


def test_a_unit_of_one_of_the_columns_alone(tmp_path: Path) -> None:
    path = table(tmp_path, ra=[1.0, 2.0] * u.hourangle, dec=[3.0, 4.0])
    assert_at(read_catalog(path).positions, [15, 30], [3, 4])


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.fits", "a.vot"])
def test_sexagesimal_text(tmp_path: Path, name: str) -> None:
    path = table(
        tmp_path,
        name,
        ra=["16:41:41.6", "16h41m41.6s", "1 30 00", "250.423", "22.5d"],
        dec=["+36:27:36", "-36d27m36s", "-00 30 00", "36.46", "-1.5"],
    )
    ra = 15 * (16 + 41 / 60 + 41.6 / 3600)
    dec = 36 + 27 / 60 + 36 / 3600
    assert_at(
        read_catalog(path).positions, [ra, ra, 22.5, 250.423, 22.5], [dec, -dec, -0.5, 36.46, -1.5]
    )


def test_missing_text_is_no_position(tmp_path: Path) -> None:
    path = text(tmp_path, 'ra,dec\n16:41:41,\n,1:00:00\n" ",2:00:00\nnan,2:00:00\n')
    nan = np.nan
    ra = 15 * (16 + 41 / 60 + 41 / 3600)
    assert_at(read_catalog(path).positions, [ra, nan, nan, nan], [nan, 1, 2, 2])


def test_blanks_are_no_position(tmp_path: Path) -> None:
    path = table(tmp_path, ra=["  ", "1:00:00", " 15 "], dec=["1", " ", "2"])
    assert_at(read_catalog(path).positions, [np.nan, 15, 15], [1, np.nan, 2])


def test_numbers_of_every_type(tmp_path: Path) -> None:
    for n, kind in enumerate(["u1", "i2", "i4", "i8", "f4", "f8"]):
        values = np.array([1, 89], kind)
        path = table(tmp_path, f"{n}.fits", ra=values, dec=values)
        assert_at(read_catalog(path).positions, [1, 89], [1, 89])


NAMES = [
    ("ra", "dec"),
    ("RA", "DEC"),
    ("Ra", "Dec"),
    ("RAJ2000", "DEJ2000"),
    ("raj2000", "decj2000"),
    ("RA_ICRS", "DE_ICRS"),
    ("_RAJ2000", "_DEJ2000"),
    ("RA_J2000", "DEC_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("ra_deg", "dec_deg"),
    ("RAdeg", "DECdeg"),
    ("RAdeg", "DEdeg"),
    ("ra", "decl"),
]


@pytest.mark.parametrize(("ra", "dec"), NAMES)
def test_usual_names(tmp_path: Path, ra: str, dec: str) -> None:
    path = text(tmp_path, f"id,{dec},parallax,{ra},x,y\n7,20,0.1,10,8,9\n")
    assert_at(read_catalog(path).positions, [10], [20])


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("_RAJ2000,_DEJ2000,RA,DEC", (3, 4)),
        ("RA,DEC,ra,dec", (1, 2)),
        ("raj2000,ra_icrs,dej2000,de_icrs", (1, 3)),
        ("decl,dec,ra_deg,ra", (4, 2)),
    ],
)
def test_the_most_usual_name_comes_first(
    tmp_path: Path, columns: str, expected: tuple[float, float]
) -> None:
    found = read_catalog(text(tmp_path, f"{columns}\n1,2,3,4\n"))
    assert_at(found.positions, [expected[0]], [expected[1]])


def test_columns_that_are_asked_for(tmp_path: Path) -> None:
    path = text(tmp_path, "ra,dec,l,b,x,y\n1,2,3,4,5,6\n")
    assert_at(read_catalog(path, columns=("l", "b")).positions, [3], [4])
    assert_at(read_catalog(path, columns=("dec", "ra")).positions, [2], [1])
    found = read_catalog(path, columns=("l", "dec"), pixels=True, names="y")
    assert found.positions.tolist() == [[3, 2]]
    assert found.names == ("6",)


@pytest.mark.parametrize("names", [("x", "y"), ("X", "Y")])
def test_pixels(tmp_path: Path, names: tuple[str, str]) -> None:
    path = text(tmp_path, f"ra,dec,{names[1]},{names[0]}\n1,2,30.5,40\n1,2,,7\n1,2,-3,1e9\n")
    found = read_catalog(path, pixels=True)
    assert same_bits(found.positions, np.array([[40, 30.5], [7, np.nan], [1e9, -3]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected columns of right ascension and declination, found id, x, dec"),
        ({"pixels": True}, "expected columns of x and y, found id, x, dec"),
        ({"columns": ("x", "b")}, "expected a column 'b', found id, x, dec"),
        ({"columns": ("X", "dec")}, "expected a column 'X', found id, x, dec"),
        ({"columns": ("x", "dec"), "names": "name"}, "expected a column 'name', found id, x, dec"),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, options: dict, message: str) -> None:
    path = text(tmp_path, "id,x,dec\n1,2,3\n")
    with pytest.raises(ValueError, match=rf"stars\.csv: {message}$"):
        read_catalog(path, **options)


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        ("ra,dec\n1,91\n", False),
        ("ra,dec\nhere,there\n", False),
        ("ra,dec\n16:61:00,1\n", False),
        ("ra,dec\nTrue,False\n", False),
        ("x,y\n1,b\n", True),
    ],
)
def test_what_is_no_coordinate(tmp_path: Path, content: str, pixels: bool) -> None:
    names = "x, y" if pixels else "ra, dec"
    with pytest.raises(ValueError, match=rf"stars\.csv: {names}: expected coordinates, found "):
        read_catalog(text(tmp_path, content), pixels=pixels)


@pytest.mark.parametrize("unit", ["m", "mag", "furlongs"])
def test_a_unit_of_no_angle(tmp_path: Path, unit: str) -> None:
    found = Table({"ra": [1.0], "dec": [2.0]})
    found["ra"].unit = u.Unit(unit, parse_strict="silent")
    found.write(tmp_path / "stars.ecsv")
    with pytest.raises(ValueError, match=r"stars\.ecsv: ra, dec: expected coordinates, found "):
        read_catalog(tmp_path / "stars.ecsv")


def test_a_column_of_arrays(tmp_path: Path) -> None:
    path = table(tmp_path, ra=[[1.0, 2.0], [3.0, 4.0]], dec=[[1.0, 2.0], [3.0, 4.0]])
    with pytest.raises(ValueError, match=r"stars\.ecsv: ra, dec: expected coordinates, found "):
        read_catalog(path)


NO_TABLES = {
    "words.txt": b"this is no table",
    "none.fits": b"this is no FITS file",
    "ragged.csv": b"ra,dec\n1,2,3\n4\n",
    "cut.vot": b"<?xml version='1.0'?>\n<VOTABLE version='1.3'><RESOURCE>",
    "bytes.csv": b"\xff\xfe\x00\x01",
    "bad.ecsv": b"# %ECSV 1.0\n# ---\n# datatype: [\n",
}


@pytest.mark.parametrize("name", NO_TABLES)
def test_what_is_no_table(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(NO_TABLES[name])
    with pytest.raises(ValueError, match=rf"{name}: cannot be read as a table: ") as caught:
        read_catalog(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_format_that_nobody_knows_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Format could not be identified") as caught:
        read_catalog(text(tmp_path, "this is no table", "words.txt"))
    assert len(str(caught.value)) < 500


def test_a_fits_file_of_an_image_is_no_table(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((3, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match=r"image\.fits: cannot be read as a table"):
        read_catalog(tmp_path / "image.fits")


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.fits", "a.vot", "a.txt"])
def test_a_file_that_is_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        read_catalog(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.ecsv", "a.fits", "a.vot"])
def test_a_table_without_rows(tmp_path: Path, name: str) -> None:
    empty = np.empty(0)
    path = table(tmp_path, name, ra=empty, dec=empty, x=empty, y=empty, name=np.empty(0, "U5"))
    found = read_catalog(path, names="name")
    assert_at(found.positions, [], [])
    assert found.names == ()
    assert read_catalog(path, pixels=True).positions.shape == (0, 2)


def test_a_table_of_text_without_rows(tmp_path: Path) -> None:
    path = table(tmp_path, ra=np.empty(0, "U5"), dec=np.empty(0, "U5"))
    assert_at(read_catalog(path).positions, [], [])


def test_a_file_without_a_header_has_no_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected columns of .*, found none"):
        read_catalog(text(tmp_path, ""))
