"""The HDUs of a collection are those that `open` gives, without a look at their headers."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import Collection, FileChangedError
from tests.servers.files import replace_file
from tests.support.collections import PIXELS, SKY, assert_same_hdu, image, put, several
from tests.support.corpus import DATA_FILES
from tests.support.fits_files import blocks, primary, same_bits
from tests.support.packed_files import PACKERS, file_name, member_of
from tests.support.recording import RecordingFileSystem
from tests.support.recording import put as put_recorded
from tests.support.tiled_files import Quantize, tiled_file

pytestmark = [
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
    pytest.mark.untraced,
]

FLOATS = np.random.default_rng(95).normal(100, 15, (40, 50)).astype("f4")
INTEGERS = np.random.default_rng(96).integers(0, 3000, (40, 50)).astype("i4")

NAMED = fits.Header({**SKY, "OBJECT": "M 13", "HISTORY": "made", "COMMENT": "of numbers"})


def scaled() -> bytes:
    hdu = fits.ImageHDU(PIXELS.copy(), NAMED, name="SCI")
    hdu.scale("int16", bscale=0.5, bzero=100.0)
    hdu.header["BLANK"] = -99
    return several(hdu)


def compressed(pixels: np.ndarray = INTEGERS, **options: Any) -> bytes:
    return several(fits.CompImageHDU(pixels, NAMED, name="SCI", **options))


FILES: dict[str, Callable[[], bytes]] = {
    "primary": lambda: image(dict(SKY)),
    "extension": lambda: several(fits.ImageHDU(FLOATS, NAMED, name="SCI", ver=3)),
    "unsigned": lambda: several(fits.ImageHDU(INTEGERS.astype("u2"), NAMED)),
    "BSCALE, BZERO, BLANK": scaled,
    "cube": lambda: several(fits.ImageHDU(np.arange(60.0).reshape(3, 4, 5), name="CUBE")),
    "one axis": lambda: several(fits.ImageHDU(np.arange(7, dtype="i8"))),
    "RICE_1": lambda: compressed(compression_type="RICE_1", tile_shape=(10, 20)),
    "GZIP_1": lambda: compressed(compression_type="GZIP_1"),
    "GZIP_2": lambda: compressed(compression_type="GZIP_2", tile_shape=(40, 50)),
    "PLIO_1": lambda: compressed(compression_type="PLIO_1"),
    "HCOMPRESS_1": lambda: compressed(compression_type="HCOMPRESS_1", tile_shape=(16, 20)),
    "NOCOMPRESS": lambda: compressed(compression_type="NOCOMPRESS"),
    "RICE_1 of floats": lambda: compressed(FLOATS, compression_type="RICE_1", quantize_level=16),
    "dithered": lambda: compressed(
        FLOATS, compression_type="RICE_1", quantize_method=2, dither_seed=7
    ),
    "GZIP_2, lossless": lambda: compressed(FLOATS, compression_type="GZIP_2", quantize_level=0),
    "keywords of the quantization": lambda: tiled_file(
        np.random.default_rng(97).normal(size=(12, 10)).astype("f4"),
        zcmptype="GZIP_1",
        tile=(4, 10),
        quantize=Quantize(0.01, 0.5, scale_in="keyword", zero_in="keyword"),
    ),
    "two and a half thousand keywords": lambda: image(
        {**SKY, **{f"K{number}": number for number in range(2500)}}
    ),
}


def rows_and_hdus(url: Any) -> list[tuple[Any, Any]]:
    """The HDUs of a file by way of a collection, and opened."""
    found = dask_fits.open_collection(url)
    file = dask_fits.open(url)
    assert not found.failures
    return [(found[row], file[hdu]) for row, hdu in enumerate(found.column("hdu").tolist())]


@pytest.mark.parametrize("kind", FILES)
def test_an_hdu_is_what_open_gives(kind: str, tmp_path: Path) -> None:
    (path,) = put(tmp_path, [FILES[kind]()])
    for found, expected in rows_and_hdus(path):
        assert_same_hdu(found, expected)
        for mode in (True, False):
            own = found.to_dask(chunks=7, mask_and_scale=mode)
            assert own.name == expected.to_dask(chunks=7, mask_and_scale=mode).name
        if "quantization" in kind:
            continue  # astropy looks for these numbers in columns alone
        with fits.open(path) as file:
            assert same_bits(found.section[...], file[found.index].data)


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_an_hdu_of_a_real_file_is_what_open_gives(path: Path) -> None:
    for found, expected in rows_and_hdus(path):
        assert_same_hdu(found, expected)


@pytest.mark.parametrize("kind", PACKERS)
def test_an_hdu_of_a_packed_file_is_what_open_gives(kind: str, tmp_path: Path) -> None:
    content = several(fits.ImageHDU(FLOATS, NAMED, name="SCI"), fits.CompImageHDU(PIXELS, name="Z"))
    path = tmp_path / file_name(kind)
    path.write_bytes(PACKERS[kind](content))
    url = f"{path}{member_of(kind)}"
    pairs = rows_and_hdus(url)
    assert len(pairs) == 2
    for found, expected in pairs:
        assert_same_hdu(found, expected)
        assert found.file.packing == expected.file.packing
        assert_same_hdu(pickle.loads(pickle.dumps(found)), expected)


@pytest.mark.parametrize("kind", ["primary", "RICE_1", "dithered", "cube"])
def test_an_hdu_can_be_pickled_and_so_can_the_collection(kind: str, tmp_path: Path) -> None:
    (path,) = put(tmp_path, [FILES[kind]()])
    found = dask_fits.open_collection(path)
    expected = dask_fits.open(path)[found[0].index]
    for hdu in (
        pickle.loads(pickle.dumps(found[0])),
        pickle.loads(pickle.dumps(found))[0],
        pickle.loads(pickle.dumps(found[[0, 0]]))[1],
    ):
        assert_same_hdu(hdu, expected)
    if kind != "cube":
        assert hdu.wcs.wcs.compare(expected.wcs.wcs)


@pytest.mark.parametrize(
    "odd",
    [
        b"EXTNAME = 'two\nlines'",
        b"EXTNAME = 'SCI'  / a remark\nBZERO   = 7",
        b"EXTNAME = 'SCI'  / a remark\rBSCALE  = 7",
        b"EXTNAME = 'tab\tnul\0'",
        b"EXTNAME = 'caf\xe9'",
        b"EXTNAME = '" + b"n" * 60 + b"&'".ljust(10) + b"CONTINUE  'more'".ljust(80),
    ],
    ids=str,
)
def test_odd_characters_of_a_header_mean_the_same_in_a_collection(
    odd: bytes, tmp_path: Path
) -> None:
    """The structural cards are kept as text of one line each, which a line end must not divide."""
    path = tmp_path / "odd.fits"
    odd = odd.ljust(-(-len(odd) // 80) * 80)
    path.write_bytes(primary(3, 2, bitpix=16, extra=[odd]) + blocks(bytes(range(12))))
    found, expected = dask_fits.open_collection(path), dask_fits.open(path)[0]
    found.to_parquet(tmp_path / "odd.parquet")
    for collection in (found, dask_fits.open_collection(tmp_path / "odd.parquet")):
        assert collection[0].name == expected.name
        assert same_bits(collection[0].section[...], expected.section[...])
        assert collection[0].to_dask().name == expected.to_dask().name


def test_cutouts_and_world_coordinates_of_an_hdu_are_those_of_open(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [several(fits.ImageHDU(FLOATS, NAMED, name="SCI"))])
    ((found, expected),) = rows_and_hdus(path)
    assert found.wcs.wcs.compare(expected.wcs.wcs)
    assert found.wcs.to_header_string() == expected.wcs.to_header_string()
    one, other = (hdu.cutout((25, 20), 8) for hdu in (found, expected))
    assert same_bits(one.data.compute(), other.data.compute())
    assert one.wcs.wcs.compare(other.wcs.wcs)
    assert found.plan(np.s_[3:5, ::2]).ranges == expected.plan(np.s_[3:5, ::2]).ranges


def test_the_other_hdus_of_its_file_can_be_reached(tmp_path: Path) -> None:
    content = several(fits.ImageHDU(FLOATS, NAMED, name="SCI"), fits.ImageHDU(PIXELS, name="DQ"))
    (path,) = put(tmp_path, [content])
    found = dask_fits.open_collection(path, hdus="SCI")[0]
    assert len(found.file) == 3
    assert same_bits(found.file["DQ"].section[...], PIXELS)


def test_headers_are_read_when_they_are_asked_for_and_coordinates_never() -> None:
    url = put_recorded("known.fits", several(fits.ImageHDU(FLOATS, NAMED, name="SCI")))
    expected = dask_fits.open(url)["SCI"]
    found = dask_fits.open_collection(url)
    RecordingFileSystem.log.clear()
    hdus = [*found, found[0], found[-1], *found[[0, 0]]]
    for hdu in hdus:
        assert hdu.wcs.wcs.compare(expected.wcs.wcs)
        assert (hdu.shape, hdu.dtype, hdu.name) == ((40, 50), np.dtype("f4"), "SCI")
        hdu.to_dask()
        repr(hdu)
    assert RecordingFileSystem.log == []
    assert hdus[0].header == expected.header
    assert RecordingFileSystem.ranges() == [
        (expected.header_range.start, expected.header_range.stop)
    ]
    RecordingFileSystem.log.clear()
    hdus[0].header  # noqa: B018 (the same again)
    assert RecordingFileSystem.log == []
    hdus[1].section[5, 6:9]
    start = expected.data_range.start + (5 * 50 + 6) * 4
    assert RecordingFileSystem.ranges() == [(start, start + 3 * 4)]


@pytest.mark.parametrize(
    "change",
    [image({**SKY, "CRVAL1": 7.0}, PIXELS + 1), image({}, PIXELS[:5])],
    ids=["same", "less"],
)
def test_a_file_that_was_replaced_is_noticed(change: bytes, tmp_path: Path) -> None:
    (path,) = put(tmp_path, [image(SKY)])
    found = dask_fits.open_collection(path)
    held = found[0].to_dask()
    cutout = found[0].cutout((9, 9), 3)
    time.sleep(0.01)
    replace_file(Path(path), change)
    for act in (
        lambda: held.compute(scheduler="sync"),
        lambda: found[0].section[...],
        lambda: found[0].header,
        cutout.data.compute,
        lambda: len(found[0].file),
    ):
        with pytest.raises(FileChangedError, match=os.path.basename(path)):
            act()
    assert found[0].wcs.naxis == 2  # of the version that was seen


def test_a_file_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [image(SKY)])
    found = dask_fits.open_collection(path)
    os.unlink(path)
    with pytest.raises(dask_fits.FitsFileNotFoundError, match="image_000"):
        found[0].section[...]


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    directory = tmp_path_factory.mktemp("ten")
    contents = [image({**SKY, "NUMBER": number}, PIXELS + number) for number in range(10)]
    return dask_fits.open_collection(put(directory, contents), keywords=["NUMBER"])


INDEX = np.arange(10)


@pytest.mark.parametrize(
    "key",
    [
        slice(None),
        slice(2, 5),
        slice(None, None, -1),
        slice(-3, None),
        slice(8, 2, -2),
        slice(5, 5),
        slice(3, 99),
        [1, 3, 3, 0],
        [-1, -10],
        [],
        np.array([4, 2]),
        np.array([], int),
        np.array([9], "u1"),
        INDEX % 3 == 0,
        np.zeros(10, bool),
        [True, False] * 5,
        range(2, 7, 3),
    ],
    ids=str,
)
def test_parts_are_those_of_an_array(ten: Collection, key: Any) -> None:
    part = ten[key]
    wanted = INDEX[np.asarray(key, int)] if isinstance(key, range) else INDEX[key]
    assert isinstance(part, Collection)
    assert len(part) == len(wanted)
    assert part.column("NUMBER").tolist() == wanted.tolist()
    assert [int(hdu.section[0, 0] - PIXELS[0, 0]) for hdu in part] == wanted.tolist()
    assert len(part.table) == len(wanted)


def test_parts_of_parts_and_integers(ten: Collection) -> None:
    part = ten[2:9][::-1][INDEX[:7] % 2 == 0]
    assert part.column("NUMBER").tolist() == [8, 6, 4, 2]
    for key, number in ((0, 8), (-1, 2), (np.int64(1), 6), (np.uint8(3), 2)):
        assert int(part[key].section[0, 0] - PIXELS[0, 0]) == number


@pytest.mark.parametrize(
    "key",
    [
        10,
        -11,
        np.int64(10),
        [0, 10],
        [-11],
        np.ones(9, bool),
        np.ones((10, 1), bool),
        "SCI",
        1.0,
        None,
        True,
        (0, 1),
        (None, slice(3)),
        [0.5],
        [[0, 1], [2, 3]],
        np.zeros((2, 0), int),
    ],
    ids=str,
)
def test_what_is_out_of_range_or_no_index_is_refused(ten: Collection, key: Any) -> None:
    with pytest.raises((IndexError, TypeError)):
        ten[key]


def test_what_is_done_to_a_column_or_a_table_is_not_done_to_the_collection(tmp_path: Path) -> None:
    own = dask_fits.open_collection(put(tmp_path, [image({"NUMBER": 3})]), keywords=["NUMBER"])
    for part in (own, own[:]):
        for name in ("NUMBER", "hdu", "data_stop", "s_ra"):
            column = part.column(name)
            with contextlib.suppress(ValueError):  # it may be read-only
                column[0] = 99
        part.table["NUMBER"][0] = 98
    assert own.column("NUMBER").tolist() == [3]
    assert same_bits(own[0].section[...], PIXELS)
    assert own[0].index == 0


def test_an_iterator_may_be_left_and_taken_twice(ten: Collection) -> None:
    first = iter(ten)
    next(first)
    assert [hdu.index for hdu in ten] == [0] * 10
    assert len([*first]) == 9
