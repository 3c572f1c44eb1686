"""Bad input: an error that says where and what, soon and in little memory, or what there is."""

from __future__ import annotations

import contextlib
import gzip
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import ByteRange, FitsError, FitsFile, FitsWarning, StorageError, TruncatedFileError
from tests.support.data import DATA
from tests.support.fits_files import (
    BLOCK,
    CARD,
    WatchedStore,
    blocks,
    card,
    extension,
    fits_bytes,
    header,
    primary,
    same_bits,
    size_cards,
)
from tests.support.memory import peak_below
from tests.support.messages import assert_says, raises

M13 = (DATA / "m13.fits").read_bytes()
SIMPLE = card("SIMPLE", True)
END = b"END".ljust(CARD)

Write = Callable[[bytes], Path]


def read_all(path: Path | str) -> None:
    """Headers, listing and every pixel."""
    file = dask_fits.open(path)
    for hdu in file:
        if hdu.layout.image is not None:
            hdu.reader()[...]
    assert repr(file)


def in_second_hdu(*args: object, **kwargs: object) -> bytes:
    return primary(3) + blocks(b"abc") + extension(*args, **kwargs)


def text_of(*cards: bytes) -> bytes:
    return header(SIMPLE, *cards)


MALFORMED = {
    # not FITS
    "empty": (b"", ["HDU 0", "empty", "expected"]),
    "one byte": (b"S", ["HDU 0", "not a FITS file", "b'S'", "SIMPLE"]),
    "a web page": (b"<!DOCTYPE html><html>" * 500, ["HDU 0", "<!DOCTYPE", "SIMPLE", "web page"]),
    "another web page": (b"\n <HTML>" * 500, ["HDU 0", "SIMPLE", "web page"]),
    "text": (b"# wavelength flux\n1 2\n", ["HDU 0", "# wavelength", "SIMPLE"]),
    "random bytes": (np.random.default_rng(5).bytes(100_000), ["HDU 0", "found", "SIMPLE"]),
    "nul bytes": (b"\0" * 100_000, ["HDU 0", "found", "SIMPLE"]),
    "text in gzip": (gzip.compress(b"1 2\n" * 999), ["HDU 0", "not a FITS file", "1 2", "SIMPLE"]),
    "an extension first": (extension(3) + blocks(b"abc"), ["HDU 0", "XTENSION", "SIMPLE"]),
    "SIMPLE a number": (header(card("SIMPLE", 1)), ["HDU 0", "SIMPLE", "1", "T or F"]),
    "another keyword": (header(card("SIMPLER", True)), ["HDU 0", "SIMPLER", "SIMPLE"]),
    # the end of the header
    "garbage after SIMPLE": (SIMPLE + np.random.default_rng(6).bytes(20_000), ["HDU 0", "no END"]),
    "no END": (
        blocks(SIMPLE + card("BITPIX", 8) + card("NAXIS", 0), fill=b" "),
        ["HDU 0", "END", "2880"],
    ),
    "no END, then pixels": (
        blocks(SIMPLE + b"".join(size_cards(8, [5000])), fill=b" ") + bytes(range(256)) * 45,
        ["HDU 0", "no END", "2880", "keyword"],
    ),
    "no END, but in the next HDU": (
        blocks(SIMPLE + b"".join(size_cards(-32, [2])), fill=b" ")
        + blocks(b"\x42\x28\x00\x00" * 2)
        + extension(1),
        ["HDU 0", "no END", "5760", "expected"],
    ),
    "no END before pixels of zero": (
        blocks(SIMPLE + b"".join(size_cards(8, [2])), fill=b" ")
        + bytes(BLOCK)
        + extension(1)
        + blocks(b"a"),
        ["HDU 0", "no END", "5760", "expected"],
    ),
    "only SIMPLE": (SIMPLE, ["HDU 0", "END"]),
    "END in the last, cut block": (
        SIMPLE + card("BITPIX", 8) + END,
        ["HDU 0", "NAXIS ", "missing"],
    ),
    "END in the last, cut block, before data": (
        SIMPLE + b"".join(size_cards(8, [3])) + END,
        ["HDU 0", "400", "2880"],
    ),
    # mandatory keywords
    "no BITPIX": (text_of(card("NAXIS", 0)), ["HDU 0", "BITPIX", "missing", "expected"]),
    "no NAXIS": (text_of(card("BITPIX", 8)), ["HDU 0", "NAXIS ", "missing", "expected"]),
    "no NAXIS1": (
        text_of(card("BITPIX", 8), card("NAXIS", 1)),
        ["HDU 0", "NAXIS1", "missing", "expected"],
    ),
    "no NAXIS2": (text_of(*size_cards(8, [3, 4])[:-1]), ["HDU 0", "NAXIS2", "missing", "expected"]),
    "BITPIX 7": (
        primary(3, bitpix=7),
        ["HDU 0", "BITPIX", "7", "expected", "8, 16, 32, 64, -32, -64"],
    ),
    "BITPIX 0": (primary(bitpix=0), ["HDU 0", "BITPIX", "0", "expected"]),
    "BITPIX -16": (primary(3, bitpix=-16), ["HDU 0", "BITPIX", "-16", "expected"]),
    "BITPIX of 30 digits": (
        primary(3, bitpix=8 * 10**30),
        ["HDU 0", "BITPIX", "80000", "expected"],
    ),
    "BITPIX a float": (
        primary(3, bitpix=b"16.0"),
        ["HDU 0", "BITPIX", "16.0", "expected an integer"],
    ),
    "BITPIX undefined": (
        primary(3, bitpix=b""),
        ["HDU 0", "BITPIX", "undefined", "expected an integer"],
    ),
    "BITPIX no value": (primary(3, bitpix=b"sixteen"), ["HDU 0", "BITPIX", "sixteen", "expected"]),
    "NAXIS -1": (
        text_of(card("BITPIX", 8), card("NAXIS", -1)),
        ["HDU 0", "NAXIS", "-1", "expected 0 to 999"],
    ),
    "NAXIS 1000": (
        text_of(card("BITPIX", 8), card("NAXIS", 1000)),
        ["HDU 0", "NAXIS", "1000", "expected 0 to 999"],
    ),
    "NAXIS 10**18": (
        text_of(card("BITPIX", 8), card("NAXIS", 10**18)),
        ["HDU 0", "NAXIS", "10000", "999"],
    ),
    "NAXIS a string": (
        text_of(card("BITPIX", 8), card("NAXIS", "2")),
        ["HDU 0", "NAXIS", "'2'", "integer"],
    ),
    "NAXIS true": (
        text_of(card("BITPIX", 8), card("NAXIS", True)),
        ["HDU 0", "NAXIS", "True", "integer"],
    ),
    "65 axes": (primary(*[1] * 65) + blocks(b"a"), ["HDU 0", "NAXIS", "65", "64"]),
    "NAXIS1 negative": (primary(-3), ["HDU 0", "NAXIS1", "-3", "expected 0 or more"]),
    "NAXIS2 negative": (primary(3, -(10**18)), ["HDU 0", "NAXIS2", "-1000", "expected 0 or more"]),
    "NAXIS1 a float": (primary(b"3.0"), ["HDU 0", "NAXIS1", "3.0", "expected an integer"]),
    "NAXIS1 a string": (primary("3"), ["HDU 0", "NAXIS1", "'3'", "expected an integer"]),
    "NAXIS1 10**18": (primary(10**18), ["HDU 0", "NAXIS", "1000", "expected", "2880"]),
    "NAXIS1 of 30 digits": (
        primary(10**29, 2, bitpix=64),
        ["HDU 0", "NAXIS", "1000", "expected", "2880"],
    ),
    "999 axes": (primary(*[2] * 999), ["HDU 0", "NAXIS", "expected"]),
    "no pixels, but more than NumPy can count": (primary(10**30, 0), ["HDU 0", "NAXIS", "1000"]),
    # extensions
    "PCOUNT negative": (
        in_second_hdu(8, 2, xtension="BINTABLE", pcount=-5),
        ["HDU 1", "PCOUNT", "-5", "expected 0 or more"],
    ),
    "GCOUNT negative": (
        in_second_hdu(8, gcount=-1),
        ["HDU 1", "GCOUNT", "-1", "expected 0 or more"],
    ),
    "PCOUNT a float": (in_second_hdu(8, 2, pcount=b"0.5"), ["HDU 1", "PCOUNT", "0.5", "integer"]),
    "PCOUNT 10**18": (in_second_hdu(8, 2, pcount=10**18), ["HDU 1", "PCOUNT", "1000", "expected"]),
    "no BITPIX in an extension": (
        in_second_hdu() + header(card("XTENSION", "IMAGE"), card("NAXIS", 0)),
        ["HDU 2", "BITPIX", "missing"],
    ),
    "no END in an extension": (
        in_second_hdu() + card("XTENSION", "IMAGE").ljust(BLOCK),
        ["HDU 2", "END"],
    ),
    "an extension cut in its header": (in_second_hdu(3)[:-1000], ["HDU 1", "1880", "2880"]),
    "XTENSION without a closing quote": (
        primary() + header(card("XTENSION", b"'IMAGE"), *size_cards(8, [])),
        ["HDU 1", "XTENSION", "'IMAGE", "expected"],
    ),
}


FIRST = [name for name, (_, words) in MALFORMED.items() if words[0] == "HDU 0"]
LATER = [name for name in MALFORMED if name not in FIRST]


@pytest.mark.parametrize("name", FIRST)
def test_the_message_says_where_what_was_found_and_expected(write: Write, name: str) -> None:
    content, words = MALFORMED[name]
    path = write(content)
    start = time.process_time()
    with raises(*words):
        read_all(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("name", LATER)
def test_what_stands_before_a_bad_extension_can_be_read(write: Write, name: str) -> None:
    content, words = MALFORMED[name]
    index = int(words[0].removeprefix("HDU "))
    file = dask_fits.open(write(content))
    if file[0].shape:
        assert file[0].reader()[...].tobytes() == b"abc"
    with pytest.warns(FitsWarning) as told:
        assert len(file) == index
    assert_says(str(told[0].message), *words)
    assert len(told) == 1
    for _ in range(2):  # and the error comes each time
        with raises(*words):
            file[index]
        assert len(file) == index


def test_no_such_file(tmp_path: Path) -> None:
    with raises("no such file", error=dask_fits.FitsFileNotFoundError):
        dask_fits.open(tmp_path / "bad.fits")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "bad.fits").mkdir()
    with raises("is a directory", error=StorageError):
        dask_fits.open(tmp_path / "bad.fits")


@pytest.mark.parametrize("length", [*range(1, 90, 8), 79, 80, 100, 1000, 2079, 2080, 2100, 2879])
def test_a_file_cut_in_its_header(write: Write, length: int) -> None:
    with raises("HDU 0"):
        dask_fits.open(write(M13[:length]))


# Large files


def large(path: Path, kind: str) -> Path:
    size = 50_000_000
    repeated = {
        "printable junk": b"KEYWORD = 'abcdefgh'",
        "END everywhere": b"END",
        "END cards with a rest": b"END     A".ljust(CARD),
        "END cards that end in a letter": b"END".ljust(CARD - 1) + b"A",
        "blanks": b" ",
        "binary junk": bytes(range(256)),
    }
    with path.open("wb") as file:
        file.write(SIMPLE)
        if kind == "nul bytes":
            file.truncate(size)
        else:
            file.write(repeated[kind] * (size // len(repeated[kind])))
    return path


@pytest.mark.untraced
@pytest.mark.parametrize(
    "kind",
    [
        "printable junk",
        "END everywhere",
        "END cards with a rest",
        "END cards that end in a letter",
        "blanks",
        "nul bytes",
        "binary junk",
    ],
)
def test_a_large_file_without_end_is_given_up_soon_and_in_little_memory(
    tmp_path: Path, kind: str
) -> None:
    path = large(tmp_path / "bad.fits", kind)
    start = time.process_time()
    with raises("HDU 0", "END"):
        dask_fits.open(path)
    assert time.process_time() - start < 1
    with peak_below(100_000_000), raises("HDU 0", "END"):
        dask_fits.open(path)


def test_a_header_of_many_blocks_is_read(write: Write) -> None:
    count = 100_000  # 8 MB
    content = header(SIMPLE, *size_cards(8, [3]), b"HISTORY".ljust(CARD) * count) + blocks(b"abc")
    hdu = dask_fits.open(write(content))[0]
    assert hdu.header_range.nbytes == len(content) - BLOCK
    assert hdu.reader()[...].tobytes() == b"abc"


# Truncated data

ROWS = np.arange(100 * 50, dtype=">i2").reshape(100, 50)


@pytest.mark.parametrize("kept", [0, 1, 1999, 2000, 5000, 9999])
def test_a_file_cut_in_its_data(write: Write, kept: int) -> None:
    content = primary(50, 100, bitpix=16) + ROWS.tobytes()
    path = write(content[: BLOCK + kept])
    with pytest.warns(
        FitsWarning, match=rf"bad\.fits: HDU 0: the file is truncated.* {BLOCK + kept},"
    ):
        file = dask_fits.open(path)
    hdu, whole = file[0], kept // 100
    assert len(file) == 1
    assert (hdu.shape, hdu.dtype, hdu.data_range.nbytes) == ((100, 50), np.int16, 10_000)
    for found in (hdu.reader()[:whole], hdu.to_dask(chunks=(20, -1))[: whole // 20 * 20]):
        assert same_bits(np.asarray(found), ROWS[: len(found)])
    reader = hdu.reader()
    for missing in (
        ...,
        -1,
        (-1, -1),
        slice(whole, None),
        (slice(None), -1),
        (slice(None, None, -7), slice(None, None, -1)),
        [0, -1],
        slice(None, None, 33),
    ):
        with raises("HDU 0", "truncated", str(BLOCK + kept), error=TruncatedFileError):
            reader[missing]
    with raises("HDU 0", error=TruncatedFileError):
        hdu.data.compute(scheduler="sync")


def test_the_last_whole_pixel_of_a_cut_row_can_be_read(write: Write) -> None:
    content = primary(50, 100, bitpix=16) + ROWS.tobytes()
    with pytest.warns(FitsWarning):
        reader = dask_fits.open(write(content[: BLOCK + 121]))[0].reader()
    assert reader[1, 9] == ROWS[1, 9]  # bytes 118 and 119
    with raises(error=TruncatedFileError):
        reader[1, 10]


@pytest.mark.parametrize(
    "key",
    [
        ...,
        (slice(None), slice(0, 5)),
        (slice(None, None, 3), 0),
        slice(None, None, 1000),
        (slice(None, None, -1), [0, 3]),
    ],
)
@pytest.mark.parametrize("axes", [(10, 3 * 10**7), (1000, 10**10)])
def test_a_damaged_size_costs_neither_time_nor_memory(write: Write, axes, key) -> None:
    with pytest.warns(FitsWarning, match="truncated"):
        reader = dask_fits.open(write(primary(*axes) + bytes(BLOCK)))[0].reader()
    start = time.process_time()
    with peak_below(1_000_000), raises("HDU 0", "NAXIS", error=TruncatedFileError):
        reader[key]
    assert time.process_time() - start < 1


# Anything at all


def survives(content: bytes) -> None:
    """Opening, listing and reading work, or end in a FitsError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FitsWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow and NaN
        start = time.process_time()
        with contextlib.suppress(FitsError):
            file = FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")
            with contextlib.suppress(FitsError):
                assert len(file) == len(list(file))
            for hdu in file._hdus:
                assert 0 <= hdu.header_range.start < hdu.header_range.stop <= len(content)
                assert hdu.header_range.stop == hdu.data_range.start
                with contextlib.suppress(FitsError):
                    found = hdu.reader()[...]
                    assert (found.shape, found.dtype) == (hdu.shape, hdu.dtype)
            assert repr(file)
            assert file._repr_html_()
        assert time.process_time() - start < 2


def several_hdus() -> bytes:
    image = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    table = fits.BinTableHDU.from_columns(
        [fits.Column("V", "PE()", array=np.array([np.arange(3.0)], object))]
    )
    scaled = fits.ImageHDU(image.astype("u2"), name="SCALED")
    compressed = fits.CompImageHDU(image, compression_type="RICE_1")
    return fits_bytes(fits.PrimaryHDU(image), scaled, table, compressed, fits.ImageHDU(image))


SEVERAL = several_hdus()

_byte = st.sampled_from([bytes([n]) for n in b"\0\n '/=&-.0123456789EDNTF\x7f\xff"]) | st.binary(
    min_size=1, max_size=1
)
_edit = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "swap cards"]), st.integers(0, 2**20), _byte
)


def edited(content: bytes, edits: list[tuple[str, int, bytes]], within: int) -> bytes:
    text = bytearray(content)
    for kind, position, byte in edits:
        at = position % within
        if kind == "flip":
            text[at : at + 1] = byte
        elif kind == "insert":
            text[at:at] = byte
        elif kind == "delete":
            del text[at]
        else:
            first, second = at // CARD * CARD, (at * 7919) % within // CARD * CARD
            one, other = text[first : first + CARD], text[second : second + CARD]
            text[first : first + CARD], text[second : second + CARD] = other, one
    return bytes(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(_edit, min_size=1, max_size=6), st.integers(0, 9 * CARD))
def test_damage_to_a_header(edits: list[tuple[str, int, bytes]], within: int) -> None:
    survives(edited(M13[:200_000], edits, within=max(within, CARD)))


@settings(max_examples=150, deadline=None)
@given(st.lists(_edit, min_size=1, max_size=8), st.integers(1, len(SEVERAL)))
def test_damage_to_a_file_of_several_hdus(edits: list[tuple[str, int, bytes]], length: int) -> None:
    survives(edited(SEVERAL, edits, within=len(SEVERAL) - 10)[: max(length, 100)])


_nasty = st.sampled_from(
    [
        *(
            b"-1",
            b"0",
            b"1",
            b"2",
            b"3",
            b"64",
            b"65",
            b"999",
            b"1000",
            b"300.0",
            b"3E2",
            b"1D400",
            b"-32",
            b"16",
            b"64",
        ),
        *(
            b"T",
            b"F",
            b"",
            b"/",
            b"'",
            b"'300'",
            b"300 300",
            b"(1, 2)",
            b"9" * 20,
            b"9" * 60,
            b"1" + b"0" * 12,
        ),
        *(b"-" + b"9" * 30, b"nan", b"inf", b"1E-400", b"\xb2", b"\0", b"'IMAGE'", b"'BINTABLE'"),
    ]
)
_keywords = st.sampled_from(
    [
        *(
            "BITPIX",
            "NAXIS",
            "NAXIS1",
            "NAXIS2",
            "NAXIS3",
            "PCOUNT",
            "GCOUNT",
            "GROUPS",
            "BSCALE",
            "BZERO",
        ),
        *(
            "BLANK",
            "EXTNAME",
            "EXTVER",
            "INHERIT",
            "ZIMAGE",
            "ZBITPIX",
            "ZNAXIS",
            "ZNAXIS1",
            "ZCMPTYPE",
        ),
        *("SIMPLE", "XTENSION", "END"),
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_keywords, _nasty), min_size=1, max_size=4), st.booleans())
def test_nasty_values(cards: list[tuple[str, bytes]], in_extension: bool) -> None:
    extra = [card(keyword, value) for keyword, value in cards]
    if in_extension:
        content = primary() + extension(30, 4, bitpix=16, extra=extra)
    else:
        content = primary(30, 4, bitpix=16, extra=extra)
    survives(content + blocks(bytes(240)) + extension(2) + blocks(b"ab"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 9 * CARD))
def test_random_bytes_after_a_good_beginning(junk: bytes, kept: int) -> None:
    survives(M13[: max(kept, 1)] + junk)
    survives((M13[:kept] + junk + M13[kept:])[:100_000])


@pytest.mark.parametrize(
    ("defective", "words"),
    [
        (extension(80, gcount=0), ["GCOUNT", "found 0", "expected 1"]),
        (
            extension(80, extra=[card("BLANK", b"n/a")]) + blocks(bytes(80)),
            ["BLANK", "n/a", "expected"],
        ),
    ],
)
def test_a_defect_of_one_image_leaves_the_others_readable(
    tmp_path: Path, defective: bytes, words: list[str]
) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(primary() + defective + extension(3) + blocks(b"abc"))
    file = dask_fits.open(path)
    assert len(file) == 3
    assert file[2].data.compute().tobytes() == b"abc"
    with raises("HDU 1", *words):
        file[1].reader()


def test_a_keyword_that_the_data_do_not_need_may_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(primary(3, extra=[card("INHERIT", b"yes")]) + blocks(b"abc"))
    hdu = dask_fits.open(path)[0]
    assert not hdu.inherit
    assert hdu.data.compute().tobytes() == b"abc"


def test_an_axis_of_no_length_beside_a_huge_one(tmp_path: Path) -> None:
    path = tmp_path / "none.fits"
    path.write_bytes(primary(10**18, 0))
    hdu = dask_fits.open(path)[0]
    assert hdu.shape == (0, 10**18)
    assert hdu.chunks == ((0,), (10**18,))
    assert hdu.plan(chunks="auto").requests == 0
    assert hdu.data.compute().shape == (0, 10**18)


def test_a_plan_of_what_the_file_does_not_hold_says_so(tmp_path: Path) -> None:
    path = tmp_path / "bad.fits"
    path.write_bytes(primary(2**47) + blocks(b"abc"))
    with pytest.warns(dask_fits.FitsWarning):
        hdu = dask_fits.open(path)[0]
    for ask in (
        lambda: hdu.plan(slice(None, None, 70_000)),
        lambda: hdu.plan(chunks="auto"),
    ):
        with raises("HDU 0", "truncated", error=TruncatedFileError):
            ask()
    assert hdu.plan(slice(3)).bytes == 3
