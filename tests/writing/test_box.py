"""A cutout as a FITS file is what astropy would have cut: pixels, keywords, world coordinates."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import HDU, FitsFormatError, NotAnImageError, TruncatedFileError
from dask_fits.format.checksum import encode_checksum, sum32
from dask_fits.writing.box import box_to_fits
from dask_fits.writing.fill import stored_fill
from tests.support.corpus import COVERED, each, needs_corpus, placed, quiet_astropy
from tests.support.fits_files import BLOCK, blocks, card, extension, header, primary, same_bits
from tests.support.recording import put
from tests.support.sections import CONTENT
from tests.support.tiled_files import tiled_file
from tests.support.worlds import IMAGES, TAN, image, tab_axis, tab_table, written

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")

Key = tuple[slice, ...]


def cut(hdu: HDU, key: Key) -> bytes:
    """The file of a box that lies on the image."""
    return box_to_fits(hdu, hdu.reader(mask_and_scale=False)[key], [part.start for part in key])


def middle(shape: tuple[int, ...], *, most: int = 1 << 30) -> Key:
    """A box that is off the corner along each axis that lets it."""
    return tuple(slice(n // 4, n // 4 + max(min(n // 2, most), 1)) for n in shape)


def saved(hdus: list[Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer, **options)
    return buffer.getvalue()


def opened(content: bytes, key: Any = 0) -> HDU:
    return dask_fits.open(put("original.fits", content))[key]


def headers(content: bytes) -> list[fits.Header]:
    """As they stand in a file; astropy's HDUs add to them and change them."""
    file = io.BytesIO(content)
    with fits.open(io.BytesIO(content), disable_image_compression=True) as oracle:
        places = [hdu.fileinfo()["hdrLoc"] for hdu in oracle]
    return [fits.Header.fromfile(file) for place in places if file.seek(place) == place]


def assert_is_sound(content: bytes) -> None:
    """Whole blocks, nothing after them, nothing to mend, and right checksums where there are any."""
    assert len(content) % BLOCK == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", fits.verify.VerifyWarning)
        warnings.filterwarnings("error", message="Checksum|Datasum")
        with fits.open(io.BytesIO(content), checksum=True) as file:
            file.verify("exception")
            last = file[-1].fileinfo()
    assert last["datLoc"] + last["datSpan"] == len(content)


def keywords_of(found: fits.Header) -> Counter[str]:
    return Counter(c.keyword for c in found.cards)


# Pixels


@pytest.mark.parametrize("name", CONTENT)
def test_the_pixels_are_those_that_astropy_reads(name: str) -> None:
    with fits.open(io.BytesIO(CONTENT[name])) as file:
        index = next(n for n, h in enumerate(file) if h.header["NAXIS"])
        before = file[index].header["BITPIX"]
        data = file[index].data
    hdu = opened(CONTENT[name], index)
    key = middle(data.shape) if data.size else tuple(slice(0, n) for n in data.shape)
    content = cut(hdu, key)
    assert_is_sound(content)
    kept = headers(content)[-1]
    assert [kept.get(k) for k in ("BSCALE", "BZERO", "BLANK")] == [
        hdu.header.get(k) for k in ("BSCALE", "BZERO", "BLANK")
    ]
    with fits.open(io.BytesIO(content)) as file:
        assert len(file) == 1 + bool(index)
        found = file[-1].data
        assert data.size == 0 or same_bits(native(found), data[key])
        stored = data[key].size * abs(kept["BITPIX"]) // 8
        assert file[-1].fileinfo()["datSpan"] == len(blocks(bytes(stored)))
    assert kept["BITPIX"] == before


def native(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(pixels.dtype.newbyteorder("="))


def test_undefined_pixels_of_a_compressed_image_stay_undefined() -> None:
    values = np.arange(100, dtype=np.int32).reshape(10, 10)
    content = tiled_file(values, zcmptype="RICE_1", tile=(5, 5), cards=[("ZBLANK", 44)])
    with fits.open(io.BytesIO(content)) as file:
        expected = np.array(file[1].data[2:8, 3:9])
    assert np.isnan(expected).sum() == 1
    with fits.open(io.BytesIO(cut(opened(content, 1), (slice(2, 8), slice(3, 9))))) as file:
        assert same_bits(native(file[1].data), expected)


def test_a_box_over_the_edge_is_written_as_it_is_given() -> None:
    stored = np.arange(42, dtype=np.int16).reshape(6, 7)
    content = box_to_fits(opened(CONTENT["int16"]), stored, (-2, -3))
    with fits.open(io.BytesIO(content)) as file:
        assert same_bits(native(file[0].data), stored)
        assert (file[0].header["CRPIX1"], file[0].header["CRPIX2"]) == (3, 2)


@pytest.mark.parametrize(
    ("stored", "origin"),
    [
        (np.zeros((3, 4), np.int32), (0, 0)),
        (np.zeros((3, 4), np.float32), (0, 0)),
        (np.zeros(3, np.int16), (0, 0)),
        (np.zeros((3, 4), np.int16), (0,)),
    ],
)
def test_an_array_of_other_pixels_is_refused(stored: np.ndarray, origin: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError, match=r"original\.fits: HDU 0.*expected stored values of .*int16"
    ):
        box_to_fits(opened(CONTENT["int16"]), stored, origin)


def test_a_table_has_no_pixels_to_write() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])])
    hdu = opened(saved([fits.PrimaryHDU(), table]), 1)
    with pytest.raises(NotAnImageError):
        box_to_fits(hdu, np.zeros((1, 1)), (0, 0))
    with pytest.raises(NotAnImageError):
        stored_fill(hdu, 0.0)


# Keywords


def rich_header() -> fits.Header:
    """Every kind of card."""
    found = fits.Header()
    found["OBJECT"] = ("O'Hara", "who")
    found["HIERARCH ESO DET CHIP1 NAME"] = ("long keyword", "of ESO")
    found["LONG"] = ("abcdefghi " * 20, "goes on")
    found["TRUTH"], found["COMPLEX"], found["NOTHING"] = True, 1 - 2j, None
    found["EXACT"] = 1.2345678901234567e-11
    found.append(fits.Card.fromstring("FREE    = 12.50D+02/ as it was typed"))
    found.append(("DP1", "EXTVER: 1"))
    found.append(("DP1", "AXIS.1: 1"))
    for n in range(3):
        found.add_history(f"step {n}")
        found.add_comment(f"remark {n}")
        found.append()
    found["AFTER"] = (1, "the blank cards")
    return found


def images_of(found: fits.Header) -> list[str]:
    return [str(card) for card in found.cards]


ABOUT_THE_IMAGE = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND")


@pytest.mark.parametrize("make", [fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU])
def test_every_keyword_stays(make: Any) -> None:
    pixels = np.arange(80, dtype=np.int16).reshape(8, 10)
    image = make(pixels, rich_header())
    hdus = [image] if make is fits.PrimaryHDU else [fits.PrimaryHDU(), image]
    hdu = opened(saved(hdus), len(hdus) - 1)
    content = cut(hdu, (slice(2, 5), slice(0, 9)))
    assert_is_sound(content)
    moved = ("NAXIS1", "NAXIS2")
    before, after = hdu.header, headers(content)[-1]
    changed = {card.keyword for card in after.cards if str(card) not in images_of(before)}
    assert changed == {*moved, "CRPIX2"}
    expected = [str(c) for c in before.cards if c.keyword not in moved]
    assert [str(c) for c in after.cards if c.keyword not in (*moved, "CRPIX2")] == expected
    assert (after["NAXIS1"], after["NAXIS2"]) == (9, 3)
    for keyword in moved:
        assert after.comments[keyword] == before.comments[keyword]


def test_an_extension_comes_after_the_primary_header_of_its_file() -> None:
    first = fits.PrimaryHDU(np.arange(6, dtype=np.uint16).reshape(2, 3), rich_header())
    first.header["BLANK"] = 5
    image = fits.ImageHDU(np.arange(80.0).reshape(8, 10), name="SCI", ver=3)
    image.header["INHERIT"] = True
    content = saved([first, fits.ImageHDU(np.zeros(4)), image, fits.ImageHDU(np.zeros(5))])
    hdu = dask_fits.open(put("several.fits", content))["SCI"]
    found = cut(hdu, (slice(1, 4), slice(2, 5)))
    assert_is_sound(found)
    before = headers(content)[0]
    gone = ("NAXIS1", "NAXIS2", "BSCALE", "BZERO", "BLANK")
    with fits.open(io.BytesIO(found)) as file:
        assert [(h.name, h.ver) for h in file] == [("PRIMARY", 1), ("SCI", 3)]
        assert file[0].data is None
        assert file[0].header["EXTEND"] is True
        assert file[1].header["INHERIT"] is True
        assert {c.keyword for c in before.cards} - {c.keyword for c in file[0].header.cards} == {
            *gone
        }
        kept = [str(c) for c in before.cards if c.keyword not in (*gone, *ABOUT_THE_IMAGE)]
        assert [str(c) for c in file[0].header.cards if c.keyword not in ABOUT_THE_IMAGE] == kept
        assert (file[0].header["NAXIS"], file[0].header["BITPIX"]) == (0, 8)


def test_a_file_whose_primary_header_does_not_speak_of_extensions() -> None:
    content = primary() + extension(4, 3) + blocks(bytes(range(12)))
    found = cut(opened(content, 1), (slice(1, 3), slice(1, 3)))
    assert_is_sound(found)
    assert headers(found)[0]["EXTEND"] is True
    with fits.open(io.BytesIO(found)) as file:
        assert file[1].data.tolist() == [[5, 6], [9, 10]]


def test_random_groups_before_the_image_leave_no_trace_of_their_groups() -> None:
    groups = header(
        *(card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 0)),
        *(card("NAXIS2", 4), card("GROUPS", True), card("PCOUNT", 1), card("GCOUNT", 2)),
        *(card("PTYPE1", "DATE"), card("PSCAL1", 1.0), card("PZERO1", 0.0), card("OBJECT", "M13")),
    )
    content = groups + blocks(bytes(10)) + extension(4, 3) + blocks(bytes(range(12)))
    found = cut(opened(content, 1), (slice(1, 3), slice(1, 3)))
    assert_is_sound(found)
    assert list(headers(found)[0]) == ["SIMPLE", "BITPIX", "NAXIS", "EXTEND", "OBJECT"]


def test_structural_keywords_that_stand_twice_are_written_once() -> None:
    content = primary(99, 4, 3, extra=[card("NAXIS1", 4), card("PCOUNT", 7), card("GCOUNT", 3)])
    content = content.replace(card("NAXIS", 3), card("NAXIS", 2)).replace(
        card("NAXIS2", 4), card("NAXIS2", 3)
    )
    content += blocks(bytes(range(12)))
    found = cut(opened(content), (slice(1, 3), slice(1, 3)))
    assert_is_sound(found)
    assert keywords_of(headers(found)[0])["NAXIS1"] == 1
    with fits.open(io.BytesIO(found)) as file:
        assert file[0].data.tolist() == [[5, 6], [9, 10]]


def test_a_compressed_primary_image_becomes_an_extension() -> None:
    pixels = np.arange(80, dtype=np.int32).reshape(8, 10)
    content = tiled_file(
        pixels, zcmptype="RICE_1", tile=(4, 5), cards=[("ZSIMPLE", True), ("ZEXTEND", True)]
    )
    hdu = dask_fits.open(put("fpacked.fits", content)).first_image()
    assert hdu.header["SIMPLE"] is True
    found = cut(hdu, (slice(1, 4), slice(2, 5)))
    assert_is_sound(found)
    assert not {"SIMPLE", "EXTEND"} & set(headers(found)[1])
    with fits.open(io.BytesIO(found)) as file:
        assert same_bits(native(file[1].data), pixels[1:4, 2:5])


# Damaged headers

TWO_BY_TWO = (slice(0, 2), slice(0, 2))


def with_cards(*extra: bytes) -> HDU:
    return opened(primary(4, 3, extra=extra) + blocks(bytes(range(12))))


@pytest.mark.parametrize(
    ("damaged", "mended"),
    [
        (b"lower   = 'case'", ("LOWER", "case")),
        (b"EQUALS= 3", ("EQUALS", 3)),
        (b"SPACES  =      1.5 E 3", ("SPACES", 1500.0)),
        (b"COMMENT caf\xe9 \0 \t end", ("COMMENT", "caf?     end")),
        (b"UNUSUAL = 3 / caf\xe9 \x01 end", ("UNUSUAL", 3)),
    ],
)
def test_what_can_be_mended_is_written(damaged: bytes, mended: tuple[str, Any]) -> None:
    found = cut(with_cards(damaged.ljust(80), card("AFTER", 7)), TWO_BY_TWO)
    assert_is_sound(found)
    kept = headers(found)[0]
    assert str(kept[mended[0]]) == str(mended[1])
    assert kept["AFTER"] == 7


def test_a_keyword_that_the_standard_does_not_have_stays_as_it_is() -> None:
    odd = b"IRAF-B/P=                   16 / unusual".ljust(80)
    assert odd in cut(with_cards(odd), TWO_BY_TWO)


@pytest.mark.parametrize("value", [b"'100.5'", b"T", b"1.2.3", b"(1, 2)"])
@pytest.mark.parametrize("keyword", ["CRPIX1", "CRPIX2A", "LTV1", "CNPIX1"])
def test_a_place_that_is_no_number_is_an_error(keyword: str, value: bytes) -> None:
    hdu = with_cards(card(keyword, value))
    with pytest.raises(FitsFormatError, match=rf"original\.fits: HDU 0 \(PRIMARY\): {keyword}: "):
        cut(hdu, (slice(1, 3), slice(1, 3)))


def test_an_undefined_place_is_0() -> None:
    found = cut(with_cards(card("CRPIX1", b"")), (slice(1, 3), slice(2, 3)))
    assert headers(found)[0]["CRPIX1"] == -2


def test_a_compressed_image_whose_header_cannot_be_restored_is_an_error() -> None:
    content = tiled_file(
        np.arange(80, dtype=np.int32).reshape(8, 10),
        zcmptype="RICE_1",
        tile=(4, 5),
        cards=[("TWICE", 2)],
    ).replace(card("TWICE", 2), card("ZNAXIS", 2))
    with pytest.raises(FitsFormatError, match=r"original\.fits: HDU 1 .*cannot be restored"):
        cut(opened(content, 1), TWO_BY_TWO)


# World coordinates


def assert_same_world(
    before: WCS, after: WCS, origin: list[int], shape: tuple[int, ...], *, atol: float = 0.0
) -> None:
    rng = np.random.default_rng(1)
    last = np.array([*shape[::-1], *[1] * after.naxis][: after.naxis]) - 1.0
    at = np.vstack([np.zeros(after.naxis), last, rng.uniform(0, last, (30, after.naxis))])
    by = np.array([*origin[::-1], *[0] * after.naxis][: after.naxis])
    found, expected = after.all_pix2world(at, 0), before.all_pix2world(at + by, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=atol)
    assert list(after.wcs.ctype) == list(before.wcs.ctype)


@pytest.mark.untraced
@pytest.mark.parametrize("name", IMAGES)
def test_the_world_coordinates_move_with_the_pixels(name: str) -> None:
    content = written(*IMAGES[name]())
    hdu = opened(content, "SCI")
    assert hdu.shape is not None
    key = middle(hdu.shape)
    found = cut(hdu, key)
    assert_is_sound(found)
    with fits.open(io.BytesIO(content)) as before, fits.open(io.BytesIO(found)) as after:
        assert after["SCI"].shape == tuple(part.stop - part.start for part in key)
        assert_same_world(
            WCS(before["SCI"].header, fobj=before),
            WCS(after["SCI"].header, fobj=after),
            [part.start for part in key],
            after["SCI"].shape,
            atol=1e-14,
        )


def test_a_table_of_an_alternate_alone_comes_along() -> None:
    keywords = TAN | {"CTYPE2A": "Y", "CRPIX2A": 3.5} | tab_axis(1, key="A")
    content = written(image(keywords, 20, 10), tab_table())
    found = cut(opened(content, "SCI"), (slice(7, 20), slice(5, 9)))
    with fits.open(io.BytesIO(content)) as before, fits.open(io.BytesIO(found)) as after:
        assert [hdu.name for hdu in after[1:]] == ["SCI", "WCS-TABLE"]
        worlds = [WCS(file["SCI"].header, fobj=file, key="A") for file in (before, after)]
        assert_same_world(*worlds, [7, 5], (13, 4))


def test_the_tables_of_another_image_are_left_out() -> None:
    content = written(*IMAGES["-TAB, second version"]())
    with fits.open(io.BytesIO(cut(opened(content, "SCI"), middle((10, 20, 30))))) as file:
        assert [(h.name, h.ver) for h in file[1:]] == [("SCI", 1), ("WCS-TABLE", 2)]


def test_a_primary_image_says_that_its_tables_follow() -> None:
    image, table = IMAGES["lookup, second axis only"]()
    first = fits.PrimaryHDU(image.data, image.header)
    content = written(first, table).replace(card("EXTEND", True), card("WHATEVER", True))
    hdu = opened(content)
    found = cut(hdu, middle((80, 100)))
    assert_is_sound(found)
    assert headers(found)[0]["EXTEND"] is True
    with fits.open(io.BytesIO(content)) as before, fits.open(io.BytesIO(found)) as after:
        assert [(h.name, h.ver) for h in after] == [("SCI", 1), ("WCSDVARR", 1)]
        worlds = [WCS(file[0].header, fobj=file) for file in (before, after)]
        assert_same_world(*worlds, [20, 25], (40, 50))


def test_tables_keep_their_checksums_right() -> None:
    content = io.BytesIO()
    hdus = fits.HDUList([fits.PrimaryHDU(), *IMAGES["all that HST has"]()])
    hdus.writeto(content, checksum=True)
    found = cut(opened(content.getvalue(), "SCI"), middle((80, 100)))
    assert_is_sound(found)
    assert all("CHECKSUM" in h and "DATASUM" in h for h in headers(found))


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_a_table_that_is_cut_off_is_an_error() -> None:
    content = written(*IMAGES["lookup"]())
    hdu = opened(content[: -BLOCK + 100], "SCI")
    with pytest.raises(TruncatedFileError, match=r"HDU 3 \(WCSDVARR\): the file is truncated"):
        cut(hdu, middle((80, 100)))


ALTERNATES = TAN | {
    "CTYPE1A": "GLON-CAR",
    "CTYPE2A": "GLAT-CAR",
    "CRPIX1A": 4.25,
    "CRPIX2A": 8.5,
    "CDELT1A": 0.01,
    "CDELT2A": 0.01,
    "CTYPE1B": "XPIX",
    "CTYPE2B": "YPIX",
    "CRVAL1B": 11.0,
    "CRVAL2B": 12.0,
    "CRPIX1P": 1.0,
    "CRPIX2P": 1.0,
    "CDELT1P": 2.0,
    "CDELT2P": 2.0,
    "WCSNAMEP": "PHYSICAL",
    "CD1_1Q": 2.0,
    "CD2_2Q": 3.0,
}


@pytest.mark.parametrize("compressed", [False, True])
def test_every_alternate_moves_also_one_without_a_reference_pixel(compressed: bool) -> None:
    make = fits.CompImageHDU if compressed else fits.ImageHDU
    image = make(np.zeros((30, 40), np.float32), fits.Header(ALTERNATES), name="SCI")
    content = written(image)
    found = cut(opened(content, "SCI"), (slice(7, 20), slice(5, 30)))
    assert_is_sound(found)
    before, after = opened(content, "SCI").header, headers(found)[1]
    for key in " ABPQ":
        assert_same_world(WCS(before, key=key), WCS(after, key=key), [7, 5], (13, 25))
    assert "CRPIX1B" not in before
    assert after["CRPIX1B"] == -5
    assert after["CRPIX2A"] == 1.5
    assert "CRPIX1C" not in after


def test_the_origin_of_the_image_changes_no_keyword() -> None:
    content = saved([fits.PrimaryHDU(np.zeros((30, 40)), fits.Header({"CTYPE1": "X"}))])
    found = cut(opened(content), (slice(0, 20), slice(0, 30)))
    changed = {"NAXIS1", "NAXIS2"}
    before, after = headers(content)[0], headers(found)[0]
    assert list(before) == list(after)
    assert {c.keyword for c in after.cards if str(c) not in images_of(before)} == changed


@pytest.mark.parametrize("ltm", [None, 1.0, 0.5, -1.0])
def test_irafs_physical_coordinates_move(ltm: float | None) -> None:
    """Logical = LTM physical + LTV: a pixel keeps its physical coordinate."""
    keywords = {"LTV1": -12.5} | ({} if ltm is None else {"LTM1_1": ltm, "LTM2_2": ltm})
    content = saved([fits.PrimaryHDU(np.zeros((30, 40)), fits.Header(keywords))])
    after = headers(cut(opened(content), (slice(7, 20), slice(5, 30))))[0]
    scale = ltm or 1.0
    for axis, origin, before in ((1, 5, -12.5), (2, 7, 0.0)):
        logical = np.array([1.0, 20.0])
        physical = (logical - before) / scale
        assert ((logical - origin - after[f"LTV{axis}"]) / scale).tolist() == physical.tolist()
        assert after.get(f"LTM{axis}_{axis}") == ltm


def test_an_image_without_physical_coordinates_gets_none() -> None:
    found = headers(cut(opened(CONTENT["int16"]), (slice(7, 9), slice(5, 9))))[0]
    assert not [keyword for keyword in found if keyword.startswith(("LT", "CNPIX"))]


def test_the_corner_on_the_plate_moves() -> None:
    hdu = with_cards(card("CNPIX1", 1000), card("CNPIX2", 2000))
    found = headers(cut(hdu, (slice(1, 3), slice(2, 3))))[0]
    assert (found["CNPIX1"], found["CNPIX2"]) == (1002, 2001)


# Checksums


@pytest.mark.parametrize("kind", [fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU])
@pytest.mark.parametrize("checksum", [True, "datasum", False])
def test_checksums_are_right_and_only_where_they_were(kind: Any, checksum: Any) -> None:
    values = np.random.default_rng(4).integers(0, 60_000, (40, 50)).astype(np.uint16)
    image = kind(values)
    hdus = [image] if kind is fits.PrimaryHDU else [fits.PrimaryHDU(), image]
    hdu = opened(saved(hdus, checksum=checksum), len(hdus) - 1)
    found = cut(hdu, (slice(3, 33), slice(7, 47)))
    assert_is_sound(found)
    with fits.open(io.BytesIO(found), checksum=True) as file:
        for each_hdu in file[-1:] if kind is fits.CompImageHDU else file:
            assert each_hdu._checksum_valid in (True, None)
            assert each_hdu._datasum_valid in (True, None)
    before = hdu.header
    for keyword in ("CHECKSUM", "DATASUM"):
        assert (keyword in headers(found)[-1]) == (keyword in before)
        if kind is not fits.CompImageHDU:
            assert (keyword in before) == (checksum is True or (checksum and keyword == "DATASUM"))


def test_checksums_that_stand_twice_are_written_once() -> None:
    sums = [card("CHECKSUM", "x"), card("DATASUM", "1"), card("CHECKSUM", "y"), card("AFTER", 1)]
    found = cut(with_cards(*sums), TWO_BY_TWO)
    assert_is_sound(found)
    assert [k for k in headers(found)[0] if k.endswith("SUM")] == ["CHECKSUM", "DATASUM"]
    with fits.open(io.BytesIO(found), checksum=True) as file:
        assert file[0]._checksum_valid
        assert file[0]._datasum_valid


def test_sums_are_astropys() -> None:
    rng = np.random.default_rng(5)
    oracle = fits.PrimaryHDU()
    for total in [0, 1, 0xFFFFFFFF, *rng.integers(0, 1 << 32, 2000).tolist()]:
        assert encode_checksum(total) == oracle._char_encode(~total & 0xFFFFFFFF)
    data = b"\xff" * 4000 + rng.bytes(4000)
    assert sum32(data) == oracle._compute_checksum(np.frombuffer(data, np.uint8))
    assert sum32(data[4000:], sum32(data[:4000])) == sum32(data)
    assert sum32(data[:4001]) == sum32(data[:4001] + bytes(3))


# What fills a box over the edge


def of(bitpix: int, **keywords: object) -> HDU:
    extra = [card(k, v) for k, v in keywords.items()]
    return opened(primary(2, 2, bitpix=bitpix, extra=extra) + blocks(bytes(abs(bitpix) // 2)))


@pytest.mark.parametrize(
    ("hdu", "value", "expected"),
    [
        (lambda: of(-32), None, math.nan),
        (lambda: of(-64), 1.5, 1.5),
        (lambda: of(-32), math.inf, math.inf),
        (lambda: of(-32, BSCALE=2.0, BZERO=1.0), Fraction(7), 3.0),
        (lambda: of(16), Fraction(-7), -7),
        (lambda: of(16), 12.0, 12),
        (lambda: of(16), 12, 12),
        (lambda: of(16, BZERO=32768), Fraction(65535), 32767),
        (lambda: of(64, BZERO=9223372036854775808), Fraction(2**64 - 1), 2**63 - 1),
        (lambda: of(16, BSCALE=0.1, BZERO=-7.5), Fraction("0.3"), 78),
        (lambda: of(16, BLANK=-99), None, -99),
        (lambda: of(16, BLANK=-99), math.nan, -99),
        (lambda: of(16, BLANK=-99), Fraction(5), 5),
    ],
)
def test_a_fill_value_as_it_is_stored(hdu: Any, value: Any, expected: float) -> None:
    found = stored_fill(hdu(), value)
    assert type(found) is type(expected)
    assert found == expected or (math.isnan(expected) and math.isnan(found))


@pytest.mark.parametrize(
    ("hdu", "value", "message"),
    [
        (lambda: of(16), None, "BLANK"),
        (lambda: of(16), math.nan, "BLANK"),
        (lambda: of(16, BLANK=99999), None, "BLANK"),
        (lambda: of(16), Fraction("1.5"), "no stored integer of 16 bits stands for 1.5"),
        (lambda: of(16), Fraction(32768), "no stored integer"),
        (lambda: of(8), Fraction(-1), "no stored integer"),
        (lambda: of(16, BZERO=32768), Fraction(-1), "no stored integer"),
        (lambda: of(16, BSCALE=0.1), Fraction("0.35"), "no stored integer"),
        (lambda: of(16), math.inf, "no stored integer"),
        (lambda: of(16, BSCALE=0.0), Fraction(1), "no stored integer"),
        (lambda: of(16, BLANK=5), Fraction(5), "which is BLANK"),
        (lambda: of(-32), 1e300, "beyond what pixels of type float32 hold"),
    ],
)
def test_a_fill_value_that_cannot_be_stored(hdu: Any, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"original\.fits: HDU 0 \(PRIMARY\): .*{message}"):
        stored_fill(hdu(), value)


# Real files


@needs_corpus
@each([entry for entry in COVERED if entry.get("hdus")])
def test_a_cutout_of_every_image_of_a_real_file(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, content), quiet_astropy(content) as oracle:
        for hdu, expected in zip(dask_fits.open(url), entry["hdus"], strict=False):
            if hdu.layout.image is None or 0 in (hdu.shape or ()) or "error" in expected:
                continue
            key = middle(hdu.shape or (), most=50)
            found = cut(hdu, key)
            assert len(found) % BLOCK == 0
            with fits.open(io.BytesIO(found)) as file:
                image = file[1 if hdu.index else 0]
                header = image.header.copy()
                assert same_bits(native(image.data), oracle[hdu.index].data[key])
                assert_same_coordinates(hdu, header, file, [part.start for part in key])
            lost = keywords_of(hdu.header) - keywords_of(header)
            twice = {"CHECKSUM", "DATASUM"} if keywords_of(hdu.header)["DATASUM"] > 1 else set()
            assert set(lost) <= {"SIMPLE", "XTENSION", "NAXIS", "EXTEND", *twice}


def assert_same_coordinates(
    hdu: HDU, header: fits.Header, file: fits.HDUList, origin: list[int]
) -> None:
    """Where the original has any that astropy can work out."""
    try:
        before = hdu.wcs
        before.all_pix2world(np.zeros((1, before.naxis)), 0)
    except Exception:  # noqa: BLE001 (whatever astropy stumbles on)
        return
    shape = tuple(header[f"NAXIS{n}"] for n in range(header["NAXIS"], 0, -1))
    assert_same_world(before, WCS(header, fobj=file), origin, shape, atol=1e-9)
