"""How collections look: right counts, and nothing of a file that steers what shows it."""

from __future__ import annotations

import html.parser
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from tests.support.collections import PIXELS, SKY, image, put, several
from tests.support.fits_files import blocks, card, primary

pytestmark = pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")

EVIL = "<script>alert(1)</script><b a='\"&"


class Tags(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: str) -> Tags:
    parser = Tags()
    parser.feed(page)
    parser.close()
    return parser


def test_counts_are_right(tmp_path: Path) -> None:
    sci = fits.ImageHDU(PIXELS, fits.Header({**SKY, "FILTER": "r"}), name="SCI")
    err = fits.ImageHDU(PIXELS.astype("f4"), fits.Header({**SKY, "FILTER": "g"}), name="ERR")
    packed = fits.CompImageHDU(PIXELS, fits.Header({**SKY, "FILTER": "g"}), name="Z")
    paths = put(tmp_path, [several(sci, err), several(packed), image({}), b"none"])
    found = dask_fits.open_collection(paths, keywords=["FILTER", "NOPE"])
    for text in (repr(found), parsed(found._repr_html_()).text):
        for words in (
            "Collection of 4 images in 4 files",
            "image (3), compressed-image (1)",
            "20 x 30 int16 (3)",
            "20 x 30 float32 (1)",
            "g (2), r (1); 2 without",
            "RA 150.0000 to 150.0000, Dec +2.0000 to +2.0000",
            "2 without",
            "FitsFormatError (1)",
            "missing",
        ):
            assert words in text, (words, text)
    assert "1 image in 1 file" in repr(found[:1])
    assert "0 images" in repr(found[[]])


def test_the_arc_of_right_ascensions_may_go_over_0(tmp_path: Path) -> None:
    headers = [{**SKY, "CRVAL1": ra} for ra in (359.0, 1.0, 0.0, 358.5)]
    found = dask_fits.open_collection(put(tmp_path, [image(header) for header in headers]))
    assert "RA 358.5000 to 1.0000" in repr(found)


def test_times_and_numbers_are_shown_from_least_to_greatest(tmp_path: Path) -> None:
    headers = [
        {"DATE-OBS": f"2020-06-{day:02}T12:00:00", "EXPTIME": 60.0 * day}
        for day in (3, 1, 9, 4, 8, 7)
    ]
    found = dask_fits.open_collection(
        put(tmp_path, [image(header) for header in headers]), keywords=["EXPTIME"]
    )
    assert "2020-06-01 12:00:00 to 2020-06-09 12:09:00 UTC" in repr(found)
    assert "60 to 540" in repr(found)


def test_markup_in_a_file_is_text(tmp_path: Path) -> None:
    content = several(fits.ImageHDU(PIXELS, fits.Header({"OBJECT": EVIL}), name=EVIL[:20]))
    path = tmp_path / "<i>name&.fits"
    path.write_bytes(content)
    broken = tmp_path / "<b>bad.fits"
    broken.write_bytes(b"<script>alert(2)</script>")
    found = dask_fits.open_collection([path, broken], keywords=["OBJECT"])
    page = parsed(found._repr_html_())
    assert set(page.tags) <= {"div", "b", "table", "tr", "th", "td", "code", "p"}
    assert "<script>alert(1)" in page.text
    assert "script" not in parsed(found.table._repr_html_()).tags


@pytest.mark.parametrize("evil", ["\x1b[31mred", "two\nlines", "\u202eback", "nul\0l", "\x9b31m"])
def test_control_characters_are_escaped(evil: str, tmp_path: Path) -> None:
    text = evil.encode("latin-1", "replace")
    path = tmp_path / "odd.fits"
    cards = [card("OBJECT", b"'" + text + b"'"), card("EXTNAME", b"'" + text + b"'")]
    path.write_bytes(primary(3, 2, extra=cards) + blocks(bytes(6)))
    found = dask_fits.open_collection(
        [path, tmp_path / "miss\x1b[31m\u202e.fits"], keywords=["OBJECT"]
    )
    for shown in (repr(found), found._repr_html_(), *map(str, found.failures.values())):
        assert all(c.isprintable() or c == "\n" for c in shown), shown
    assert repr(found).count("\n") <= 8


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    found = dask_fits.open_collection(
        put(tmp_path, [image({"OBJECT": "x" * 5000})]), keywords=["OBJECT"]
    )
    assert len(repr(found)) < 600
    assert len(found._repr_html_()) < 1500


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_extreme_numbers_can_be_shown(tmp_path: Path) -> None:
    headers = [
        {"MJD-OBS": 1e300, "N": 10**30},
        {"MJD-OBS": -1e300, "N": 1e308},
        {"MJD-OBS": 0.0, "N": -(10**60)},
        {"EXPTIME": 1e308, "MJD-OBS": 59000.0, "N": 5},
        {"N": 7},
    ]
    paths = put(tmp_path, [image(header) for header in headers])
    found = dask_fits.open_collection(paths, keywords=["N"])
    for part in (found, *(found[n : n + 1] for n in range(5))):
        assert "Collection of" in repr(part)
        part._repr_html_()
        assert len(part.table) == len(part)
    found.to_parquet(tmp_path / "c.parquet")
    assert repr(dask_fits.open_collection(tmp_path / "c.parquet")) == repr(found)


def test_an_empty_collection_can_be_shown_and_used(tmp_path: Path) -> None:
    found = dask_fits.open_collection(put(tmp_path, [image(SKY)]), keywords=["OBJECT"])[:0]
    assert "0 images in 0 files" in repr(found)
    assert "0 images" in found._repr_html_()
    assert len(found.table) == 0
    assert found.failures == {}
    assert [*found] == []
    assert found.names() == ()
    assert len(found.select((1.0, 2.0), 3, time="2020-01-01", where="OBJECT == 'x'")) == 0
    with pytest.raises(IndexError):
        found[0]
    assert found.column("s_ra").dtype == np.float64
