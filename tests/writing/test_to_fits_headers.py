"""Headers of files that are written: what describes the bytes is made anew, all else is kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.io.fits import Card, Header

import dask_fits
from dask_fits import FitsFormatError, Image
from tests.support.data import DATA, M13
from tests.support.written_files import by_astropy, cards_of, random_pixels, verified

PIXELS = random_pixels((3, 4), "f4")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.fits"


def written(path: Path, header: Any, pixels: np.ndarray = PIXELS, **options: Any) -> list[bytes]:
    """A file of one HDU in pieces of 80 bytes, whose checksums are right."""
    dask_fits.to_fits(pixels, path, header=header, overwrite=True, **options)
    verified(path)
    return cards_of(path.read_bytes())


def kept(header: Header) -> list[str]:
    """Cards that say nothing of the bytes."""
    made_anew = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "PCOUNT", "GCOUNT")
    return [
        card.image for card in header.cards if not card.keyword.startswith((*made_anew, "XTENSION"))
    ]


OF_THE_BYTES: list[tuple[str, Any]] = [
    ("SIMPLE", False),
    ("XTENSION", "BINTABLE"),
    ("BITPIX", 8),
    ("NAXIS", 3),
    ("NAXIS1", 77),
    ("NAXIS2", 88),
    ("NAXIS3", 99),
    ("NAXIS14", 5),
    ("PCOUNT", 12),
    ("GCOUNT", 3),
    ("GROUPS", True),
    ("EXTEND", False),
    ("BLOCKED", True),
    ("BSCALE", 3.5),
    ("BZERO", 32768),
    ("BLANK", -1),
    ("CHECKSUM", "abcdefghijklmnop"),
    ("DATASUM", "17"),
    ("ZHECKSUM", "abcdefghijklmnop"),
    ("ZDATASUM", "18"),
]


@pytest.mark.parametrize("dtype", ["f4", "u2", "i2"])
@pytest.mark.parametrize("backwards", [False, True])
def test_an_array_is_believed_and_not_its_header(path: Path, dtype: str, backwards: bool) -> None:
    pixels = random_pixels((3, 4), dtype)
    own = [Card("OBJECT", "M 13"), Card("BSCALED", 5)]
    lies = [Card(*pair) for pair in (OF_THE_BYTES[::-1] if backwards else OF_THE_BYTES)]
    header = Header([own[0], *lies, *own[1:]])
    before = header.tostring()
    expected = by_astropy(fits.PrimaryHDU(pixels, Header(own)))
    assert written(path, header, pixels) == cards_of(expected)
    assert header.tostring() == before


OTHERS = Header(
    [
        Card("OBJECT", "O'Neill's star", "with quotes"),
        Card("HISTORY", "first"),
        Card("LONGTEXT", "a long string " * 20, "and a comment"),
        Card("HIERARCH ESO DET CHIP1 NAME", "EEV", "a HIERARCH card"),
        Card("", ""),
        Card("", "text without a keyword"),
        Card("COMMENT", "one"),
        Card("COMMENT", "  two, indented, 72 characters long or longer " + "x" * 40),
        Card("EMPTY", ""),
        Card("UNDEF", fits.card.UNDEFINED, "no value"),
        Card("YES", True),
        Card("COMPLEX", 1 + 2j),
        Card("TINY", 1e-300),
        Card("THIRD", 1 / 3),
        Card("BIG", 2**62),
        Card("HISTORY", "second"),
        Card("REPEATED", 1),
        Card("REPEATED", 2),
        Card("DATE-OBS", "2024-01-01T00:00:00.000"),
        Card("EXTNAME", "SCI"),
        Card("EXTVER", 3),
        Card("", ""),
    ]
)


@pytest.mark.parametrize("as_extension", [False, True])
def test_other_cards_are_written_as_astropy_writes_them(path: Path, as_extension: bool) -> None:
    if not as_extension:
        expected = by_astropy(fits.PrimaryHDU(PIXELS, OTHERS))
        assert written(path, OTHERS) == cards_of(expected)
        return
    expected = by_astropy(fits.PrimaryHDU(None, OTHERS), fits.ImageHDU(PIXELS, OTHERS))
    dask_fits.to_fits([Image(None, header=OTHERS), Image(PIXELS, header=OTHERS)], path)
    found = cards_of(path.read_bytes())
    # An HDU of the same name and version as one before it has the next version.
    changed = [
        n for n, pair in enumerate(zip(found, cards_of(expected), strict=True)) if len({*pair}) > 1
    ]
    assert {found[n].split()[0] for n in changed} <= {b"EXTVER"}
    verified(path)


@pytest.mark.parametrize("count", range(29, 38))
def test_headers_of_any_length(path: Path, count: int) -> None:
    """About a block of 36 cards."""
    header = Header([(f"KEY{n}", n) for n in range(count)])
    assert written(path, header) == cards_of(by_astropy(fits.PrimaryHDU(PIXELS, header)))


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_cards_that_astropy_corrects(path: Path) -> None:
    header = Header.fromstring(
        "".join(
            image.ljust(80) for image in ("lower   = 5", "FLOAT   = 1.5d3 / Fortran", "NOEQ   3")
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dask_fits.to_fits(PIXELS, path, header=header)
    found = fits.getheader(path)
    assert (found["LOWER"], found["FLOAT"]) == (5, 1500.0)
    content = path.read_bytes()[:2880]
    assert all(32 <= byte < 127 for byte in content)


@pytest.mark.parametrize("name", ["m13.fits", "m13_rice.fits", "comp_plio_i32.fits"])
def test_headers_of_files(path: Path, name: str) -> None:
    """Also of compressed images, whose own keywords are those of a table."""
    with fits.open(DATA / name) as file:
        raw = fits.Header.fromstring(file[-1].header.tostring())
        expected = kept(raw)
    hdu = dask_fits.open(DATA / name)[-1]
    with fits.open(DATA / name, disable_image_compression=True) as file:
        of_the_table = file[-1].header.copy()
    dask_fits.to_fits(hdu.data, path, header=hdu.header)
    assert kept(fits.getheader(path)) == expected
    again = path.with_name("again.fits")
    dask_fits.to_fits(hdu.data, again, header=hdu)
    assert again.read_bytes() == path.read_bytes()
    dask_fits.to_fits(hdu.data, again, header=of_the_table, overwrite=True)
    # It is cfitsio's name of all such tables.
    named = [image for image in kept(fits.getheader(again)) if "COMPRESSED_IMAGE" not in image]
    assert sorted(named) == sorted(expected)
    np.testing.assert_array_equal(verified(path)[0], hdu.data.compute())


def test_headers_of_tables(path: Path) -> None:
    columns = [
        fits.Column("A", "J", unit="s", null=-1, array=[1, 2]),
        fits.Column("B", "2E", dim="(2)", array=np.zeros((2, 2))),
    ]
    table = fits.BinTableHDU.from_columns(columns, Header([("OBJECT", "M 13"), ("TELESCOP", "x")]))
    for keyword in ("TCOMM1", "TLMIN2", "TDMAX1"):
        table.header[keyword] = 1
    found = written(path, table.header)
    expected = by_astropy(fits.PrimaryHDU(PIXELS, Header([("OBJECT", "M 13"), ("TELESCOP", "x")])))
    assert found == cards_of(expected)


def test_names(path: Path) -> None:
    dask_fits.to_fits(
        [
            Image(PIXELS, name="FIRST"),
            Image(PIXELS, header=Header([("EXTNAME", "OLD", "as it was"), ("A", 1)])),
            Image(PIXELS, header=Header([("EXTNAME", "OLD", "as it was")]), name="NEW"),
            Image(PIXELS),
        ],
        path,
    )
    verified(path)
    with fits.open(path) as file:
        assert [hdu.header.get("EXTNAME") for hdu in file] == ["FIRST", "OLD", "NEW", None]
        assert file[1].header.comments["EXTNAME"] == "as it was"
        assert file[0].header["EXTEND"] is True


def test_a_header_of_astropys_own_hdu(path: Path) -> None:
    """As one has it who changes pixels: the array has another type than the header says."""
    with fits.open(M13) as file:
        header = file[0].header
        dask_fits.to_fits(file[0].data / 2, path, header=header)
    found = fits.getheader(path)
    assert found["BITPIX"] == -32
    assert "BZERO" not in found
    assert kept(found) == kept(fits.getheader(M13))


def test_a_header_that_cannot_be_written(path: Path) -> None:
    header = Header([("OBJECT", "M 13")])
    header.append(Card.fromstring("TAB     = 'a\tb'".ljust(80)))
    with pytest.raises(
        FitsFormatError, match=r"a\.fits: HDU 0 \(PRIMARY\): TAB: cannot be written"
    ):
        dask_fits.to_fits(PIXELS, path, header=header)
    assert [*path.parent.iterdir()] == []
