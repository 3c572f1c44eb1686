"""Where each HDU's bytes lie and what is in them, against astropy and the FITS Standard 4.0."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

import dask_fits
from dask_fits import FitsFormatError, FitsWarning, NotAnImageError
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import (
    BLOCK,
    blocks,
    card,
    extension,
    fits_bytes,
    header,
    primary,
    same_bits,
    size_cards,
)

END = b"END".ljust(80)

Make = Callable[[bytes], dask_fits.FitsFile]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def open_bytes(content: bytes) -> dask_fits.FitsFile:
        path = tmp_path / "made.fits"
        write_at_rest(path, content)
        return dask_fits.open(path)

    return open_bytes


def assert_same_places(file: dask_fits.FitsFile, content: bytes) -> None:
    """Headers, data and names are where astropy finds them."""
    with fits.open(io.BytesIO(content)) as expected:
        assert len(file) == len(expected)
        for hdu, other in zip(file, expected, strict=True):
            info = other.fileinfo()
            assert hdu.header_range.start == info["hdrLoc"]
            assert hdu.header_range.stop == hdu.data_range.start == info["datLoc"]
            assert hdu.data_range.nbytes == other.size
            assert (hdu.name, hdu.ver) == (other.name, other.ver)


# Sizes of the data unit


@pytest.mark.parametrize(
    ("axes", "bitpix", "nbytes", "shape"),
    [
        ((), 8, 0, ()),
        ((), -64, 0, ()),
        ((7,), 8, 7, (7,)),
        ((7, 5), 16, 70, (5, 7)),
        ((7, 5, 3), -32, 420, (3, 5, 7)),
        ((1, 2, 3, 4, 5), 64, 960, (5, 4, 3, 2, 1)),
        ((360, 1), -64, 2880, (1, 360)),
        ((0,), 16, 0, (0,)),
        ((7, 0), 32, 0, (0, 7)),
        ((0, 7), 32, 0, (7, 0)),
        ((3, 0, 7), -64, 0, (7, 0, 3)),
    ],
)
@pytest.mark.parametrize("where", ["primary", "extension"])
def test_an_images_bytes_and_shape(make: Make, where, axes, bitpix, nbytes, shape) -> None:
    data = blocks(bytes(nbytes))
    image = primary(*axes, bitpix=bitpix) if where == "primary" else primary()
    image += data if where == "primary" else extension(*axes, bitpix=bitpix) + data
    content = image + extension(extra=[card("EXTNAME", "LAST")])
    file = make(content)
    hdu = file[0 if where == "primary" else 1]
    assert (hdu.kind, hdu.shape, hdu.data_range.nbytes) == ("image", shape, nbytes)
    assert hdu.dtype == (
        np.dtype(f"{'if'[bitpix < 0]}{abs(bitpix) // 8}" if bitpix != 8 else "u1") if axes else None
    )
    assert file[-1].name == "LAST"
    assert_same_places(file, content)


@pytest.mark.parametrize("axes", [(0,), (7, 0), (0, 7), (3, 0, 7)])
def test_an_image_with_an_axis_of_length_zero_is_an_empty_array(make: Make, axes) -> None:
    hdu = make(primary(*axes, bitpix=-32))[0]
    for found in (hdu.reader()[...], hdu.data.compute(), hdu.to_dask(chunks=2).compute()):
        assert same_bits(found, np.empty(axes[::-1], np.float32))


def test_the_longest_axis_beside_one_of_length_zero(make: Make) -> None:
    longest = 2**60 - 1  # times 8 bytes is what NumPy can count
    assert make(primary(longest, 0, bitpix=-64))[0].reader()[...].shape == (0, longest)
    with pytest.raises(FitsFormatError, match=rf"HDU 0: NAXISn: found .*{longest + 1}"):
        make(primary(longest + 1, 0))


def test_naxis_0_is_an_image_without_pixels(make: Make) -> None:
    file = make(primary() + extension(extra=[card("EXTNAME", "E")]))
    for hdu in file:
        assert (hdu.kind, hdu.shape, hdu.dtype) == ("image", (), None)
        with pytest.raises(NotAnImageError, match=rf"made\.fits: HDU {hdu.index} .*NAXIS = 0"):
            hdu.reader()
    with pytest.raises(NotAnImageError, match="none of the 2 HDUs"):
        file.first_image()


@pytest.mark.parametrize(("pcount", "gcount"), [(5, 1), (0, 3), (2, 3), (0, 0)])
def test_pcount_and_gcount_of_an_extension(make: Make, pcount: int, gcount: int) -> None:
    nbytes = 2 * gcount * (pcount + 12)  # equation 2
    head = extension(4, 3, bitpix=16, pcount=pcount, gcount=gcount, xtension="OTHER")
    content = primary() + head + blocks(bytes(nbytes)) + extension(extra=[card("EXTVER", 9)])
    file = make(content)
    assert file[1].data_range.nbytes == nbytes
    assert file[2].ver == 9
    assert_same_places(file, content)


def test_pcount_and_gcount_default_to_none_and_one(make: Make) -> None:
    head = header(card("XTENSION", "IMAGE"), *size_cards(16, [3]))
    file = make(primary() + head + blocks(b"\0\1\0\2\0\3") + extension())
    assert file[1].data_range.nbytes == 6
    assert len(file) == 3


def test_a_primary_array_has_no_groups_whatever_pcount_says(make: Make) -> None:
    # Equation 1 of section 4.4.1.1 knows neither PCOUNT nor GCOUNT.
    extra = [card("PCOUNT", 4000), card("GCOUNT", 2)]
    file = make(primary(3, bitpix=16, extra=extra) + blocks(bytes(6)) + extension())
    assert file[0].data_range.nbytes == 6
    assert file[1].header_range.start == 2 * BLOCK


# Kinds


def test_a_binary_table_with_a_heap(make: Make) -> None:
    column = fits.Column("V", "PE()", array=np.array([np.arange(3.0), np.arange(500.0)], object))
    table = fits.BinTableHDU.from_columns([column], name="T")
    content = fits_bytes(fits.PrimaryHDU(), table, fits.ImageHDU(np.arange(3.0)))
    file = make(content)
    assert (file["T"].kind, file["T"].shape, file["T"].dtype) == ("bintable", None, None)
    assert file["T"].data_range.nbytes == 2 * 8 + 503 * 4
    assert same_bits(file[2].reader()[...], np.arange(3.0))
    assert file.first_image().index == 2
    assert_same_places(file, content)


def test_an_ascii_table(make: Make) -> None:
    table = fits.TableHDU.from_columns([fits.Column("A", "I5", array=[1, 2])])
    content = fits_bytes(fits.PrimaryHDU(), table)
    file = make(content)
    assert file[1].kind == "ascii-table"
    assert_same_places(file, content)


def test_random_groups(make: Make) -> None:
    extra = [card("GROUPS", True), card("PCOUNT", 5), card("GCOUNT", 200)]
    nbytes = 4 * 200 * (5 + 3 * 2)  # equation 4, which leaves NAXIS1 = 0 out
    content = primary(0, 3, 2, bitpix=-32, extra=extra) + blocks(bytes(nbytes))
    content += extension(3) + blocks(b"abc")
    file = make(content)
    assert (file[0].kind, file[0].shape, file[0].dtype) == ("random-groups", None, None)
    assert file[0].data_range.nbytes == nbytes
    assert file.first_image().reader()[...].tobytes() == b"abc"
    assert_same_places(file, content)
    with pytest.raises(NotAnImageError, match="expected an image, found random-groups"):
        file[0].reader()


def test_groups_false_is_an_image(make: Make) -> None:
    file = make(primary(3, extra=[card("GROUPS", False)]) + blocks(b"abc"))
    assert file[0].kind == "image"


@pytest.mark.parametrize(
    ("xtension", "kind"),
    [
        ("IMAGE", "image"),
        ("BINTABLE", "bintable"),
        ("A3DTABLE", "bintable"),
        ("TABLE", "ascii-table"),
        ("IUEIMAGE", "other"),
        ("FOREIGN", "other"),
        ("DUMP", "other"),
    ],
)
def test_kinds_of_extension(make: Make, xtension: str, kind: str) -> None:
    head = extension(5, 2, xtension=xtension, extra=[card("EXTNAME", "X")])
    file = make(
        primary() + head + blocks(bytes(10)) + extension(3, bitpix=16) + blocks(b"\0\1" * 3)
    )
    assert file["X"].kind == kind
    assert file["X"].data_range.nbytes == 10
    assert file[2].reader()[...].tolist() == [1, 1, 1]
    if kind != "image":
        with pytest.raises(NotAnImageError, match=rf"HDU 1 \(X\): expected an image, found {kind}"):
            file["X"].data  # noqa: B018 (a property that raises)


def test_an_extension_may_be_written_in_lower_case(make: Make) -> None:
    head = extension(3).replace(b"XTENSION", b"xtension").replace(b"BITPIX", b"bitpix")
    content = primary() + head + blocks(b"abc")
    file = make(content)
    assert_same_places(file, content)
    assert file[1].reader()[...].tobytes() == b"abc"


@pytest.mark.parametrize(
    "extra",
    [
        [card("BITPIX", 16), card("NAXIS", 1), card("NAXIS1", 3)],
        [card("NAXIS", 0)],
        [],
    ],
)
def test_simple_f_is_a_header_with_bytes_that_mean_nothing_to_us(make: Make, extra) -> None:
    file = make(header(card("SIMPLE", False), *extra) + blocks(b"anything at all") + b"\0" * BLOCK)
    assert (file[0].kind, file[0].shape, file[0].name, len(file)) == ("other", None, "", 1)
    assert file[0].data_range == dask_fits.ByteRange(BLOCK, 3 * BLOCK)  # all the rest
    assert file[0].header["SIMPLE"] is False
    with pytest.raises(NotAnImageError, match="found other"):
        file[0].reader()


# Tile compression: sizes of the table, shape and type of the image in it


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8", "u2", "u4"])
def test_a_compressed_image_shows_the_images_shape_and_type(make: Make, dtype: str) -> None:
    image = np.arange(60).reshape(5, 4, 3).astype(dtype)
    content = fits_bytes(
        fits.PrimaryHDU(),
        fits.CompImageHDU(image, name="C", compression_type="GZIP_1", quantize_level=0),
    )
    hdu = make(content)["C"]
    with fits.open(io.BytesIO(content), disable_image_compression=True) as table:
        assert hdu.data_range.nbytes == table[1].size
    assert (hdu.kind, hdu.shape, hdu.dtype) == ("compressed-image", (5, 4, 3), np.dtype(dtype))
    assert hdu.compression == "GZIP_1"
    assert same_bits(hdu.reader()[...], image)


def test_zimage_false_is_a_table(make: Make) -> None:
    file = make(primary() + extension(8, 0, xtension="BINTABLE", extra=[card("ZIMAGE", False)]))
    assert file[1].kind == "bintable"


@pytest.mark.parametrize("missing", ["ZBITPIX", "ZNAXIS", "ZNAXIS2"])
def test_a_compressed_image_that_lacks_a_mandatory_keyword(make: Make, missing: str) -> None:
    given = {"ZBITPIX": 16, "ZNAXIS": 2, "ZNAXIS1": 4, "ZNAXIS2": 5}
    extra = [card("ZIMAGE", True), *(card(k, v) for k, v in given.items() if k != missing)]
    file = make(primary() + extension(8, 0, xtension="BINTABLE", extra=extra) + extension())
    with pytest.raises(FitsFormatError, match=rf"made\.fits: HDU 1: {missing} is missing"):
        file[1].reader()
    assert len(file) == 3, "the HDUs after it can be found"


# Headers that are a little wrong


ENDS = {
    "blanks": END,
    "a card of nul bytes": b"END" + b"\0" * 77,
    "blanks and nul bytes": b"END  " + b"\0" * 75,
    "a block of nul bytes": b"END" + b"\0" * 2000,
    "END and a block of nul bytes": END + b"\0" * 2000,
    "binary junk": END + b"\xff" * 2000,
    "text": END + b"junk" * 200,
    "a card": END + card("BITPIX", 64),
    "nul bytes, then a card": b"END" + b"\0" * 77 + card("BITPIX", 64),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_whatever_follows_end_is_padding(make: Make, end: bytes) -> None:
    file = make(header(card("SIMPLE", True), *size_cards(8, [3]), end=end) + blocks(b"abc"))
    assert file[0].data_range == dask_fits.ByteRange(BLOCK, BLOCK + 3)
    assert file[0].reader()[...].tobytes() == b"abc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        assert list(file[0].header) == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1"]


@pytest.mark.parametrize(
    "image",
    [
        b"OBSERVER= 'Gr\xe9ta'",
        b"OBSERVER= 'Gr\xc3\xa9ta'",
        b"CUNIT1  = 'deg' / \xb0",
        b"COMMENT \xe9t\xe9",
        b"HISTORY\xff",
        b"\0" * 80,
        b"OBJECT",
        b"OBJ= 'a'",
        b"object  = 'a'",
        b"OBJECT\t= 'a'",
        b"9" * 80,
        b"HIERARCH ESO NAXIS1 = 5",
    ],
    ids=repr,
)
def test_an_odd_card_stands_in_the_header_as_in_astropys(make: Make, image: bytes) -> None:
    content = header(card("SIMPLE", True), *size_cards(8, [3]), image.ljust(80)) + blocks(b"abc")
    hdu = make(content)[0]
    assert hdu.reader()[...].tobytes() == b"abc"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        with fits.open(io.BytesIO(content)) as expected:
            theirs = [c.image for c in expected[0].header.cards if c.keyword != "EXTEND"]
        # Control characters, which astropy shows as they are, are not let through.
        assert [c.image for c in hdu.header.cards] == [c.replace("\0", " ") for c in theirs]
        assert repr(hdu.header)


# Names


def test_names_and_versions(make: Make) -> None:
    extra = [
        [card("EXTNAME", "sci"), card("EXTVER", 2)],
        [card("EXTNAME", "SCI")],
        [card("EXTNAME", 42)],
        [],
    ]
    content = primary() + b"".join(extension(extra=e) for e in extra)
    file = make(content)
    assert [(h.name, h.ver) for h in file] == [
        ("PRIMARY", 1),
        ("sci", 2),
        ("SCI", 1),
        ("42", 1),
        ("", 1),
    ]
    assert_same_places(file, content)
    assert file["Sci"].index == 1
    assert file["SCI ", 1].index == 2
    assert file["primary"].index == 0
    assert "SCI" in file
    assert ("SCI", 3) not in file


def test_a_named_primary_is_still_found_as_primary(make: Make) -> None:
    file = make(primary(extra=[card("EXTNAME", "FIRST")]))
    assert file[0].name == "FIRST"
    assert file["PRIMARY"].index == file["first"].index == 0


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("EXTNAME", b"'no end"),
        ("EXTNAME", b""),
        ("EXTVER", b"'two'"),
        ("EXTVER", b"x"),
        ("EXTVER", b"1.5"),
    ],
)
def test_a_name_or_version_that_cannot_be_read_hides_no_pixels(make: Make, keyword, value) -> None:
    hdu = make(primary() + extension(3, extra=[card(keyword, value)]) + blocks(b"abc"))[1]
    assert (hdu.name, hdu.ver) == ("", 1)
    assert hdu.reader()[...].tobytes() == b"abc"


@pytest.mark.parametrize(
    ("value", "expected"), [(True, True), (False, False), (b"", False), ("T", False), (None, False)]
)
def test_inherit(make: Make, value, expected: bool) -> None:
    extra = [] if value is None else [card("INHERIT", value)]
    assert make(primary() + extension(extra=extra))[1].inherit is expected


# What follows the last HDU


@pytest.mark.parametrize(
    "junk", [b"x", b"\n", b"junk" * 1000, b"\x80" * BLOCK, b"XTENSIO", header(card("HELLO", 1))]
)
@pytest.mark.parametrize("first", [primary(3) + blocks(b"abc"), primary()])
def test_special_records_and_junk_after_the_last_hdu_are_told_and_ignored(
    make: Make, first: bytes, junk: bytes
) -> None:
    file = make(first + extension(2, bitpix=16) + blocks(b"\1\2\3\4") + junk)
    with pytest.warns(
        FitsWarning, match=rf"made\.fits: HDU 2: {len(junk)} bytes after the last HDU"
    ):
        assert len(file) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(file) == 2  # told once
    assert file[1].reader()[...].tolist() == [0x0102, 0x0304]


@pytest.mark.parametrize("padding", [b"\0", b" ", b"\0" * BLOCK, b" " * 5000, b" \0" * 40_000])
def test_blank_bytes_after_the_last_hdu_are_nothing_to_tell(make: Make, padding: bytes) -> None:
    assert len(make(primary(3) + blocks(b"abc") + padding)) == 1


@pytest.mark.parametrize("missing", [1, 100, BLOCK - 6])
def test_a_last_block_without_padding_is_told_and_read(make: Make, missing: int) -> None:
    content = primary(3, bitpix=16) + blocks(b"\0\1\0\2\0\3")
    with pytest.warns(FitsWarning, match=r"made\.fits: HDU 0: the last block is not padded"):
        file = make(content[:-missing])
    assert len(file) == 1
    assert file[0].data.compute().tolist() == [1, 2, 3]


@pytest.mark.parametrize("nbytes", [2 * BLOCK, 20 * BLOCK, 21 * BLOCK, 45 * BLOCK, 200 * BLOCK])
def test_headers_and_data_of_any_length_before_an_extension(make: Make, nbytes: int) -> None:
    # The first read is of 20 blocks, and what it holds of further headers is kept.
    history = b"HISTORY".ljust(80)
    long_header = [history] * ((nbytes - BLOCK) // 80)
    content = (
        primary(nbytes)
        + bytes(nbytes)
        + extension(extra=long_header)
        + extension(2)
        + blocks(b"ab")
    )
    file = make(content)
    assert [h.header_range.nbytes for h in file] == [BLOCK, nbytes, BLOCK]
    assert file[2].reader()[...].tobytes() == b"ab"
    assert_same_places(file, content)


def test_many_hdus(make: Make) -> None:
    parts = [
        extension(2, extra=[card("EXTVER", n)]) + blocks(bytes([n % 256, 1])) for n in range(1, 301)
    ]
    file = make(primary() + b"".join(parts))
    assert len(file) == 301
    assert [h.reader()[0] for h in list(file)[1:]] == [n % 256 for n in range(1, 301)]
    assert file["", 300].index == 300


def test_a_file_and_its_hdus_can_be_pickled_before_all_headers_are_read(make: Make) -> None:
    file = pickle.loads(pickle.dumps(make(primary() + extension(3) + blocks(b"abc"))))
    assert len(file) == 2
    assert pickle.loads(pickle.dumps(file[1])).reader()[...].tobytes() == b"abc"


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (2, dask_fits.HduNotFoundError),
        (-3, dask_fits.HduNotFoundError),
        ("NOPE", dask_fits.HduNotFoundError),
        (("E", 2), dask_fits.HduNotFoundError),
        (True, TypeError),
        (1.0, TypeError),
        (slice("E", None), TypeError),
        (("E", 1, 1), TypeError),
        ((1, "E"), TypeError),
        (None, TypeError),
    ],
)
def test_a_key_without_an_hdu(make: Make, key: object, error: type[Exception]) -> None:
    file = make(primary() + extension(extra=[card("EXTNAME", "E")]))
    with pytest.raises(error) as caught:
        file[key]
    if error is not TypeError:
        assert "made.fits" in str(caught.value)
        assert "1: E,1" in str(caught.value)
