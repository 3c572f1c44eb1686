"""Keywords that are asked for: the values are those of astropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from tests.support.collections import PIXELS, image, put, several
from tests.support.fits_files import blocks, card, primary

pytestmark = [
    pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning"),
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
]

LONG = "a text that goes on and on, with 'quotes' and an & in it; " * 5

KEYWORDS: dict[str, Any] = {
    "COUNT": 17,
    "NEGATIVE": -3,
    "LARGE": 2**60 + 1,
    "EXPTIME": 30.5,
    "SMALL": 1.5e-300,
    "FLAG": True,
    "OFF": False,
    "OBJECT": "M 13",
    "QUOTED": "it's",
    "BLANKS": "  in front",
    "EMPTY": "",
    "LONG": LONG,
    "HIERARCH ESO DET CHIP1 NAME": "EEV",
    "HIERARCH ESO TEL AIRM": 1.25,
    "HIERARCH lower case": 3,
    "DATE-OBS": "2020-01-02T03:04:05",
    "A_B": 1,
}


def names() -> list[str]:
    return [name.removeprefix("HIERARCH ") for name in KEYWORDS]


def test_values_and_their_types_are_those_of_astropy(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [image(KEYWORDS)])
    found = dask_fits.open_collection(path, keywords=names())
    header = fits.getheader(path)
    for name in names():
        (value,) = found.column(name.upper()).tolist()
        assert value == header[name], name
        assert type(value) is type(header[name]), name


def test_keywords_may_be_asked_for_in_lower_case_and_with_hierarch(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [image(KEYWORDS)])
    asked = ["object", "Exptime", "hierarch eso tel airm", "HIERARCH ESO DET CHIP1 NAME", "OBJECT"]
    found = dask_fits.open_collection(path, keywords=asked)
    wanted = {"OBJECT": "M 13", "EXPTIME": 30.5, "ESO TEL AIRM": 1.25, "ESO DET CHIP1 NAME": "EEV"}
    assert found.keywords == tuple(wanted)
    assert {name: found.column(name)[0] for name in wanted} == wanted


def test_an_extension_that_lacks_a_keyword_has_that_of_the_primary_header(tmp_path: Path) -> None:
    first = fits.PrimaryHDU(header=fits.Header({"OBJECT": "M 13", "FILTER": "r", "GAIN": 1.0}))
    own = fits.ImageHDU(PIXELS, fits.Header({"FILTER": "g", "CCD": 3}))
    none = fits.CompImageHDU(PIXELS, fits.Header({"CCD": 4}))
    (path,) = put(tmp_path, [several(first, own, none)])
    found = dask_fits.open_collection(path, keywords=["OBJECT", "FILTER", "CCD", "GAIN", "NOPE"])
    assert found.column("OBJECT").tolist() == ["M 13", "M 13"]
    assert found.column("FILTER").tolist() == ["g", "r"]
    assert found.column("CCD").tolist() == [3, 4]
    assert found.column("GAIN").tolist() == [1.0, 1.0]
    assert found.column("NOPE").tolist() == [None, None]


def test_the_keywords_of_a_compressed_image_are_those_of_the_image(tmp_path: Path) -> None:
    """Not those of the table that it is kept in."""
    header = fits.Header({"OBJECT": "M 13", "BUNIT": "adu"})
    (path,) = put(tmp_path, [several(fits.CompImageHDU(PIXELS, header, name="SCI"))])
    asked = ["OBJECT", "BUNIT", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTNAME"]
    found = dask_fits.open_collection(path, keywords=asked)
    with fits.open(path) as file:
        assert {name: found.column(name)[0] for name in asked} == {
            name: file[1].header[name] for name in asked
        }


@pytest.mark.parametrize(
    "cards",
    [
        [card("TWICE", 1), card("TWICE", 2)],
        [card("TWICE", "one"), card("COMMENT", "x"), card("TWICE", "two")],
        [b"HIERARCH TWICE = 1".ljust(80), card("TWICE", 2)],
        [card("TWICE", 2), b"HIERARCH TWICE = 1".ljust(80)],
        [b"HIERARCH TWICE = 1".ljust(80), b"HIERARCH TWICE = 2".ljust(80)],
        [b"TWICE   = 12 / no comment".ljust(80)],
        [b"TWICE   =".ljust(80)],
        [b"TWICE   =                      / nothing".ljust(80)],
        [b"TWICE   = 1.5D3".ljust(80)],
        [
            b"TWICE   = 'a&'".ljust(80),
            b"CONTINUE  'b&'".ljust(80),
            b"CONTINUE  'c' / end".ljust(80),
        ],
        [b"TWICE   = 'a&'".ljust(80), card("OTHER", 1)],
        [b"TWICE   = 'blanks behind   '".ljust(80)],
        [b"TWICE   = '   '".ljust(80)],
        [b"TWICE   = ''".ljust(80)],
        [b"TWICE   = T".ljust(80)],
        [b"TWICE   = -0.0".ljust(80)],
        [b"twice   = 5".ljust(80)],
    ],
    ids=lambda cards: cards[0].decode().strip() + f" {len(cards)}",
)
def test_cards_mean_what_they_mean_to_astropy(cards: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "cards.fits"
    path.write_bytes(primary(3, 2, extra=cards) + blocks(bytes(6)))
    (value,) = dask_fits.open_collection(path, keywords=["TWICE"]).column("TWICE").tolist()
    expected = fits.getheader(path)["TWICE"]
    if isinstance(expected, fits.card.Undefined):
        assert value is None
    else:
        assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    "cards",
    [
        [b"BROKEN  = 1 2 3".ljust(80)],
        [b"BROKEN    without an indicator".ljust(80)],
        [b"BROKEN    a remark in which x = 7".ljust(80)],
        [],
    ],
    ids=["no value", "no indicator", "an equals sign in a remark", "not there"],
)
def test_what_has_no_value_is_missing(cards: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "cards.fits"
    path.write_bytes(primary(3, 2, extra=cards) + blocks(bytes(6)))
    found = dask_fits.open_collection(path, keywords=["BROKEN"])
    assert found.column("BROKEN").tolist() == [None]
    assert found.failures == {}


def test_remarks_have_no_values(tmp_path: Path) -> None:
    """Even if there is an equals sign in them: a number of some remark is no keyword's value."""
    path = tmp_path / "remarks.fits"
    cards = [b"COMMENT x = 5".ljust(80), b"HISTORY exposure = 5.5 / s".ljust(80)]
    path.write_bytes(primary(3, 2, extra=cards) + blocks(bytes(6)))
    found = dask_fits.open_collection(path, keywords=["COMMENT", "HISTORY"])
    for name in ("COMMENT", "HISTORY"):
        assert not isinstance(found.column(name)[0], (int, float))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, 3], "i"),
        ([1.5, 2.5], "f"),
        ([1, 2.5], "f"),
        ([True, False], "b"),
        (["a", "bcd"], "U"),
        ([1, "a"], "U"),
        ([True, 1], "U"),
    ],
)
def test_a_column_of_the_table_has_the_type_that_all_values_have(
    values: list[Any], kind: str, tmp_path: Path
) -> None:
    headers = [{"VALUE": value} for value in values]
    paths = put(tmp_path, [image(header) for header in [*headers, {}]])
    found = dask_fits.open_collection(paths, keywords=["VALUE"])
    whole, part = found.table["VALUE"], found[: len(values)].table["VALUE"]
    assert whole.dtype.kind == part.dtype.kind == kind
    assert whole.mask.tolist() == [False] * len(values) + [True]
    assert not np.ma.is_masked(part)
    expected = [str(v) for v in values] if kind == "U" else values
    assert part.tolist() == expected


def test_a_condition_leaves_out_images_without_the_keyword(tmp_path: Path) -> None:
    headers = [{"N": 1, "T": 1.0, "F": "r"}, {"N": 5, "T": 9.5, "F": "g"}, {}, {"N": 9, "F": "r"}]
    paths = put(tmp_path, [image(header) for header in headers])
    found = dask_fits.open_collection(paths, keywords=["N", "T", "F"])
    for condition, rows in {
        "N > 1": [1, 3],
        "N == 1 or F == 'g'": [0, 1],
        "T < 100": [0, 1],
        "F == 'r'": [0, 3],
        "F > 'g'": [0, 3],
        "F in ['r', 'x']": [0, 3],
        "hdu == 0": [0, 1, 2, 3],
        "`N` > 1 and T > 2": [1],
    }.items():
        selected = found.select(where=condition).column("access_url").tolist()
        assert selected == [paths[row] for row in rows], condition


@pytest.mark.parametrize(
    "condition", ["NOPE > 1", "N >", "N", "N + 1", "@x == 1", "import os", "N > 'a'", ""]
)
def test_a_condition_that_is_none_is_refused(condition: str, tmp_path: Path) -> None:
    found = dask_fits.open_collection(put(tmp_path, [image({"N": 1})]), keywords=["N"])
    with pytest.raises(ValueError, match="where"):
        found.select(where=condition)
