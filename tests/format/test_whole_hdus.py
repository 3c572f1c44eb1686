"""Files at hand, divided into their HDUs: the pieces are where astropy finds them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from dask_fits import FitsFormatError
from dask_fits.format.whole_hdus import split_hdus
from tests.support.fits_files import BLOCK, primary
from tests.support.worlds import TABLES, tab_table


def columns(length: int) -> list[fits.Column]:
    return [
        fits.Column("A", "J", array=np.arange(length)),
        fits.Column("B", "PE()", array=np.array([np.arange(n % 3) for n in range(length)], object)),
    ]


HDUS: dict[str, list[Any]] = {
    "nothing": [fits.PrimaryHDU()],
    "pixels in front": [fits.PrimaryHDU(np.zeros((50, 60))), tab_table()],
    "images": [
        fits.PrimaryHDU(),
        fits.ImageHDU(np.ones(7), name="sci"),
        fits.ImageHDU(name="empty", ver=3),
        fits.ImageHDU(np.ones((30, 40), "i2"), name="SCI", ver=2),
    ],
    "tables": [
        fits.PrimaryHDU(),
        tab_table(),
        tab_table(ver=7),
        fits.BinTableHDU.from_columns(columns(500), name="  with a heap"),
        fits.TableHDU.from_columns([fits.Column("C", "A7", array=["one", "two"])], name="ASCII"),
        fits.CompImageHDU(np.arange(1200, dtype="i2").reshape(30, 40), name="PACKED"),
    ],
    "without names": [fits.PrimaryHDU(), fits.ImageHDU(np.ones(3)), fits.ImageHDU(np.ones(4))],
    "HST": [fits.PrimaryHDU(), *TABLES["all that HST has"]()],
}


def content_of(hdus: list[Any]) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", HDUS)
def test_the_pieces_are_those_of_the_file(name: str) -> None:
    content = content_of(HDUS[name])
    with fits.open(io.BytesIO(content), disable_image_compression=True) as file:
        expected = []
        for hdu in list(file)[1:]:
            info = hdu.fileinfo()
            whole = content[info["hdrLoc"] : info["datLoc"] + info["datSpan"]]
            length = info["datLoc"] - info["hdrLoc"]
            expected.append((hdu.name.strip(), hdu.ver, whole, length))
    found = split_hdus(content, "file")
    assert [(hdu.name, hdu.ver, hdu.content, hdu.header_nbytes) for hdu in found] == expected
    if name != "nothing":
        assert len(found) == len(HDUS[name]) - 1


def test_a_primary_hdu_behind_another_one_is_left_out() -> None:
    content = content_of([fits.PrimaryHDU(), tab_table()])
    found = split_hdus(primary(3, bitpix=8) + bytes(BLOCK) + content, "file")
    assert [hdu.content for hdu in found] == [content[BLOCK:]]


def test_nothing_is_a_file_without_hdus() -> None:
    assert split_hdus(b"", "file") == []


@pytest.mark.parametrize("content", [b"no FITS file", b" " * BLOCK, primary()[:-BLOCK] + b"X" * 80])
def test_what_is_no_file_is_an_error(content: bytes) -> None:
    with pytest.raises(FitsFormatError, match=r"in\.fits"):
        split_hdus(content, "in.fits")


def test_a_header_that_is_cut_short_is_an_error() -> None:
    content = content_of([fits.PrimaryHDU(), tab_table()])
    with pytest.raises(FitsFormatError, match=r"in\.fits: found no END card .* HDU 1"):
        split_hdus(content[: BLOCK + 800], "in.fits")
