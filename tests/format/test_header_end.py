"""Where a header ends: END with something behind it, headers that are cut, damaged or unpadded."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import (
    FitsError,
    FitsFile,
    FitsFormatError,
    FitsWarning,
    HduNotFoundError,
    NotAnImageError,
    TruncatedFileError,
    TruncatedHeaderError,
)
from dask_fits.ranges.byte_range import ByteRange
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
    size_cards,
)

IMAGE = np.arange(8000, dtype=">i2").reshape(80, 100)
SIZE = size_cards(16, [100, 80])
EXTENDED = [card("XTENSION", "IMAGE"), *SIZE, card("PCOUNT", 0), card("GCOUNT", 1)]

Write = Callable[[bytes], Path]


# END with something behind it

ODD_ENDS = [
    *(
        b"END     =",
        b"END     =                    T",
        b"END     = 5",
        b"END / of header",
        b"END=T",
    ),
    *(b"END\t", b"END\n", b"END\r\n", b"END     \0\n", b"END of the header", b"END\x1a", b"END,"),
]


@pytest.mark.parametrize("end", ODD_ENDS)
@pytest.mark.parametrize("cards", [0, 30, 36])
def test_end_with_something_behind_it_ends_a_header_as_in_astropy(
    write: Write, end: bytes, cards: int
) -> None:
    head = header(card("SIMPLE", True), *SIZE, *[b"HISTORY".ljust(CARD)] * cards, end=end)
    path = write(head + blocks(IMAGE.tobytes()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fits.getdata(path)
        expected_header = fits.getheader(path)
    with pytest.warns(FitsWarning, match="HDU 0: found more than END in the END card"):
        hdu = dask_fits.open(path)[0]
    assert np.array_equal(hdu.data.compute(scheduler="sync"), expected)
    assert hdu.data_range.start == len(head)
    assert hdu.header == expected_header


@pytest.mark.parametrize("end", [b"END     = T", b"END /", b"END\t"])
@pytest.mark.parametrize("pixels", [IMAGE, np.zeros_like(IMAGE)])
def test_odd_ends_in_all_headers_of_a_file(write: Write, end: bytes, pixels: np.ndarray) -> None:
    heads = [header(*cards, end=end) for cards in ([card("SIMPLE", True), *SIZE], EXTENDED)]
    path = write(b"".join(head + blocks(pixels.tobytes()) for head in heads))
    with pytest.warns(FitsWarning, match="END card"):
        hdus = list(dask_fits.open(path))
    assert len(hdus) == 2
    for hdu in hdus:
        assert np.array_equal(hdu.reader()[...], pixels)


def test_an_odd_end_before_other_text_is_the_last_resort(write: Write) -> None:
    # What follows it in its block may be cards, as long as a header goes on; here it does not.
    text = b"".join([card("SIMPLE", True), *SIZE, b"END /".ljust(CARD), b"left over".ljust(CARD)])
    path = write(blocks(text, fill=b" ") + blocks(IMAGE.tobytes()))
    with pytest.warns(FitsWarning, match="END card"):
        hdu = dask_fits.open(path)[0]
    assert np.array_equal(hdu.reader()[...], IMAGE)
    assert b"left over" not in hdu.header_text


def test_an_odd_end_before_an_extension(write: Write) -> None:
    text = b"".join([card("SIMPLE", True), *SIZE, b"END /".ljust(CARD), b"left over".ljust(CARD)])
    content = blocks(text, fill=b" ") + blocks(bytes(IMAGE.nbytes)) + extension(3) + blocks(b"abc")
    with pytest.warns(FitsWarning, match="END card"):
        file = dask_fits.open(write(content))
    assert len(file) == 2
    assert not file[0].reader()[...].any()
    assert file[1].reader()[...].tobytes() == b"abc"


@pytest.mark.parametrize(
    "image",
    [
        *(b"ENDPOINT= 5", b"END_TIME= 'x'", b"END-1", b"ENDED", b"END1", b"Endx = 1", b"END2 /"),
        *(b"COMMENT END /", b"HISTORY END", b" END /", b"end", b"end     = T"),
    ],
)
def test_a_keyword_that_begins_like_end_ends_no_header(write: Write, image: bytes) -> None:
    cards = [card("SIMPLE", True), card("BITPIX", 8), image.ljust(CARD)]
    path = write(header(*cards, card("NAXIS", 1), card("NAXIS1", 3)) + blocks(b"abc"))
    assert dask_fits.open(path)[0].reader()[...].tobytes() == b"abc"
    with pytest.raises(FitsFormatError, match="no END card"):
        dask_fits.open(write(blocks(b"".join([*cards, card("NAXIS", 0)]), fill=b" ")))


def test_a_proper_end_is_taken_before_an_odd_one(write: Write) -> None:
    odd = b"END     = T".ljust(CARD)
    path = write(header(card("SIMPLE", True), odd, *size_cards(8, [3])) + blocks(b"abc"))
    assert dask_fits.open(path)[0].reader()[...].tobytes() == b"abc"


# Later headers that are cut or damaged


def several(*later: bytes) -> bytes:
    """An empty primary HDU, SCI, ERR, and what follows."""
    images = [
        fits.ImageHDU(np.arange(12.0).reshape(3, 4) + number, name=name)
        for number, name in enumerate(("SCI", "ERR"))
    ]
    return fits_bytes(fits.PrimaryHDU(), *images) + b"".join(later)


STARTS = [hdu._header_offset for hdu in fits.open(io.BytesIO(several()))]


@pytest.mark.parametrize("kept", [9, 80, 85, 300, 720, 1000, 2879])
def test_a_file_cut_inside_a_later_header_lists_what_is_whole(write: Write, kept: int) -> None:
    path = write(several()[: STARTS[2] + kept])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [hdu.name for hdu in fits.open(path)]
    assert expected == ["PRIMARY", "SCI"]
    file = dask_fits.open(path)
    with pytest.warns(FitsWarning, match=rf"bad\.fits: HDU 2: .*\b{kept} bytes") as told:
        assert [hdu.name for hdu in file] == expected
    assert len(told) == 1
    assert len(file) == 2
    assert "SCI" in file
    assert "ERR" not in file
    assert file[-1].name == file.first_image().name == "SCI"
    assert file["sci"].reader()[2, 3] == 11
    assert "(2 HDUs)" in repr(file)
    for opened in (file, pickle.loads(pickle.dumps(file))):
        for _ in range(2):
            with pytest.raises(TruncatedHeaderError, match=r"bad\.fits: HDU 2: .*file"):
                opened[2]
        for missing in (3, "ERR", ("SCI", 2)):
            with pytest.raises(HduNotFoundError, match=r"1: SCI,1; what follows .*HDU 2"):
                opened[missing]


def test_a_cut_header_is_a_cut_file_and_damage_to_the_format() -> None:
    assert issubclass(TruncatedHeaderError, TruncatedFileError)
    assert issubclass(TruncatedHeaderError, FitsFormatError)
    assert issubclass(TruncatedHeaderError, OSError)


DAMAGED = {
    "BITPIX": (extension(3, bitpix=7) + blocks(b"abc"), "HDU 3: BITPIX: found 7"),
    "NAXIS1": (extension(-3), "HDU 3: NAXIS1: found -3"),
    "PCOUNT": (extension(8, pcount=b"many"), "HDU 3: PCOUNT: found 'many'"),
    "no END": (
        blocks(card("XTENSION", "IMAGE") + b"".join(size_cards(8, [3])), fill=b" "),
        "HDU 3: no END card",
    ),
    "pixels for cards": (
        blocks(card("XTENSION", "IMAGE"), fill=b" ") + blocks(bytes(range(256)) * 100),
        "HDU 3: no END card",
    ),
    "a size beyond all files": (extension(10**18), "HDU 3: NAXISn"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header_hides_nothing_before_it(write: Write, name: str) -> None:
    damaged, message = DAMAGED[name]
    file = dask_fits.open(write(several(damaged, extension(3) + blocks(b"abc"))))
    with pytest.warns(FitsWarning, match=message):
        assert [hdu.name for hdu in file] == ["PRIMARY", "SCI", "ERR"]
    with pytest.raises(FitsFormatError, match=message):
        file[3]
    with pytest.raises(HduNotFoundError, match=message):
        file[4]


def test_the_first_image_may_be_behind_the_damage(write: Write) -> None:
    path = write(primary() + extension(3)[:500])
    with pytest.warns(FitsWarning), pytest.raises(TruncatedHeaderError, match="HDU 1"):
        dask_fits.open(path).first_image()
    with pytest.raises(NotAnImageError, match="none of the 1 HDUs"):
        dask_fits.open(write(primary())).first_image()


def test_xarray_and_cutouts_read_what_is_whole(write: Write) -> None:
    xr = pytest.importorskip("xarray")
    path = write(several()[: STARTS[2] + 500])
    with pytest.warns(FitsWarning, match="HDU 2"):
        assert list(xr.open_dataset(path, engine="fits")) == ["SCI"]
    found = dask_fits.cutouts([path], [[1, 1]], 2, hdus="SCI")
    assert found.status.tolist() == ["ok"]


def test_a_fault_of_the_storage_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    content = several()
    store = WatchedStore(content, ByteRange(0, len(content)))
    file = FitsFile(store, content[:BLOCK])
    reads = WatchedStore.read_ranges

    def fail(*_: object, **__: object) -> None:
        raise dask_fits.StorageError("watched.fits: for the moment")

    monkeypatch.setattr(WatchedStore, "read_ranges", fail)
    with pytest.raises(dask_fits.StorageError):
        len(file)
    monkeypatch.setattr(WatchedStore, "read_ranges", reads)
    assert len(file) == 3


# Headers without padding


@pytest.mark.parametrize("kept", [6 * CARD, 6 * CARD - 70, 1000, BLOCK - 1])
@pytest.mark.parametrize("end", [b"END", b"END     ="])
def test_a_last_header_without_padding_is_whole(write: Write, kept: int, end: bytes) -> None:
    last = extension()[: 5 * CARD] + end.ljust(BLOCK)
    file = dask_fits.open(write(several(last[:kept])))
    with pytest.warns(FitsWarning, match="HDU 3: .*(padded|END card)"):
        assert len(file) == 4
    assert (file[3].kind, file[3].shape) == ("image", ())
    assert file[3].header_range == ByteRange(len(several()), len(several()) + kept)
    assert file[3].header["NAXIS"] == 0
    assert file[3].data_range.nbytes == 0


def test_a_file_that_is_one_header_without_padding(write: Write) -> None:
    path = write(primary()[: 4 * CARD])
    with pytest.warns(FitsWarning, match="HDU 0: the last block is not padded"):
        file = dask_fits.open(path)
    assert (len(file), file[0].shape, file[0].header["BITPIX"]) == (1, (), 8)


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("index", [0, 1])
def test_a_header_without_padding_that_promises_data_is_cut(write: Write, index: int) -> None:
    head = [primary(3), primary() + extension(3)][index]
    path = write(head[:-1000])
    with pytest.raises(TruncatedHeaderError, match=f"HDU {index}: .*found 1880 bytes"):
        dask_fits.open(path)[index]


# Many HDUs


def test_the_message_of_a_missing_name_is_short_however_many_there_are() -> None:
    names = [card("EXTNAME", f"EXT{n}") for n in range(3000)]
    content = primary() + b"".join(extension(extra=[name]) for name in names)
    file = FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")
    with pytest.raises(HduNotFoundError, match=r"19: EXT18,1 and 2981 more$") as caught:
        file["NOPE"]
    assert len(str(caught.value)) < 500
    assert file["EXT2999"].index == 3000


def test_requests_are_as_before() -> None:
    content = several()
    for length in (len(content), STARTS[2] + 1000):
        store = WatchedStore(content[:length], ByteRange(0, length))
        file = FitsFile(store, b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitsWarning)
            assert len(list(file)) in (2, 3)
        # Less than a block that was read ahead is read again.
        again = [] if length == len(content) else [ByteRange(STARTS[2], length)]
        assert store.asked == [ByteRange(0, length), *again]


def test_every_error_is_of_the_family(write: Write) -> None:
    content = several()
    for length in range(STARTS[1] + 1, len(content), 97):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitsWarning)
            file = dask_fits.open(write(content[:length]))
            count = len(file)
            assert 1 <= count <= 3
            with pytest.raises(FitsError):
                file[count]
