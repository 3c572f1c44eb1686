"""`HDU.section`: astropy's Section, for its Cutout2D too; what it reads is counted at the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import Cutout2D, NoOverlapError, PartialOverlapError
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import HDU, NotAnImageError
from dask_fits.readers.section import Section
from tests.servers.range_server import RangeServer
from tests.support.fits_files import BLOCK, primary, same_bits
from tests.support.patience import until
from tests.support.recording import RecordingFileSystem, put
from tests.support.sections import CONTENT, FLOATS
from tests.support.strategies import keys
from tests.support.traffic import asked, most_in_flight


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[HDU, np.ndarray]]:
    """Images as ours, and as astropy's pixels."""
    root = tmp_path_factory.mktemp("images")
    found = {}
    for name, content in CONTENT.items():
        path = root / f"{name}.fits"
        path.write_bytes(content)
        hdu = dask_fits.open(path).first_image()
        with fits.open(path) as file:
            found[name] = hdu, np.array(file[hdu.index].data)
    return found


@pytest.mark.parametrize("name", CONTENT)
def test_it_is_a_section_of_what_astropy_reads(
    images: dict[str, tuple[HDU, np.ndarray]], name: str
) -> None:
    hdu, pixels = images[name]
    section = hdu.section
    assert type(section) is Section
    assert isinstance(section, fits.Section)
    assert section.shape == pixels.shape
    assert section.ndim == pixels.ndim
    assert section.dtype == pixels.dtype.newbyteorder("=")
    assert section.dtype.isnative
    assert len(section) == len(pixels)
    assert repr(section) == f"<Section shape={pixels.shape} dtype={section.dtype}>"
    assert same_bits(section[...], pixels)


def test_the_kinds_of_pixels_are_those_meant(images: dict[str, tuple[HDU, np.ndarray]]) -> None:
    """What astropy makes of the files, so that the tests above and below compare what they say."""
    names = ["scaled int16", "scaled int32", "BLANK", "uint16", "uint64", "int8", "RICE uint16"]
    types = ["f4", "f8", "f4", "u2", "u8", "i1", "u2"]
    assert [images[name][1].dtype.newbyteorder("=").str[1:] for name in names] == types
    for name in ("BLANK", "scaled with BLANK", "RICE with ZBLANK"):
        assert np.isnan(images[name][1][2, 3:6]).all(), name
    for name, (hdu, pixels) in images.items():
        assert (hdu.compression is not None) == name.startswith("RICE"), name
        assert pixels.size == 0 or len(np.unique(pixels)) > 5, name
    for name in ("RICE quantized", "RICE dithered"):
        assert not np.array_equal(images[name][1], FLOATS), name


def assert_as_numpy(section: Section, pixels: np.ndarray, key: Any) -> None:
    try:
        expected = pixels[key]
    except IndexError:
        with pytest.raises(IndexError):
            section[key]
        return
    found = section[key]
    assert same_bits(found, expected)
    assert isinstance(found, np.ndarray) == isinstance(expected, np.ndarray)
    assert found.dtype.isnative
    if isinstance(found, np.ndarray):
        assert type(found) is np.ndarray
        assert found.base is None
        assert found.flags.owndata
        assert found.flags.writeable
        assert found.flags.c_contiguous


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(sorted(CONTENT)), st.sampled_from([0, 0, 2]))
def test_a_key_gives_what_numpy_gives_of_astropys_pixels(
    images: dict[str, tuple[HDU, np.ndarray]], data: st.DataObject, name: str, beyond: int
) -> None:
    hdu, pixels = images[name]
    assert_as_numpy(hdu.section, pixels, data.draw(keys(pixels.shape, beyond=beyond)))


@pytest.mark.parametrize("name", CONTENT)
def test_a_scalar_is_numpys(images: dict[str, tuple[HDU, np.ndarray]], name: str) -> None:
    hdu, pixels = images[name]
    if pixels.size:
        last = (-1,) * pixels.ndim
        assert type(hdu.section[last]) is pixels.dtype.type
        for key in (last, (0,) * pixels.ndim, (..., *last), (*last, None)):
            assert_as_numpy(hdu.section, pixels, key)


@pytest.mark.parametrize(
    "key", [..., slice(2, 5), (..., 3), slice(None, None, -1), [1, 0]], ids=str
)
def test_what_was_read_is_the_callers(images: dict[str, tuple[HDU, np.ndarray]], key: Any) -> None:
    for name in ("float32", "RICE int16"):
        hdu, pixels = images[name]
        section = hdu.section
        section[key][...] = 0
        assert same_bits(section[key], pixels[key])


OUTSIDE = {
    "beyond an axis": 11,
    "before an axis": (0, -15),
    "too many": (0, 0, 0),
    "too many with Ellipsis": (0, ..., 0, 0),
    "a list beyond an axis": (slice(None), [0, 14]),
    "a mask too short": [True, False],
    "a number that is no index": 1.0,
    "a text": "a",
    "two Ellipses": (..., ...),
}


@pytest.mark.parametrize("key", OUTSIDE.values(), ids=OUTSIDE.keys())
@pytest.mark.parametrize("name", ["float32", "RICE int16"])
def test_an_index_error_is_raised_where_numpy_raises_one(name: str, key: Any) -> None:
    hdu = dask_fits.open(put("image.fits", CONTENT[name])).first_image()
    with pytest.raises(IndexError):
        FLOATS[key]
    RecordingFileSystem.log.clear()
    with pytest.raises(IndexError):
        hdu.section[key]
    assert RecordingFileSystem.log == [], "nothing is read for it"


@pytest.mark.parametrize(
    "key", [11, (0, -15), (0, 0, 0), (slice(None), [0, 14])], ids=["0", "1", "dimensions", "list"]
)
@pytest.mark.parametrize("name", ["float32", "RICE int16"])
def test_an_index_error_says_what_numpy_says(
    images: dict[str, tuple[HDU, np.ndarray]], name: str, key: Any
) -> None:
    with pytest.raises(IndexError) as expected:
        FLOATS[key]
    with pytest.raises(IndexError) as found:
        images[name][0].section[key]
    said = str(expected.value).removeprefix("too many indices for array: ")
    assert said in str(found.value)


@pytest.mark.parametrize(("key", "error"), [(slice(0, 4, 0), ValueError), (slice("a"), TypeError)])
def test_a_slice_that_is_no_slice_fails_as_in_numpy(
    images: dict[str, tuple[HDU, np.ndarray]], key: slice, error: type[Exception]
) -> None:
    for pixels in (FLOATS, images["float32"][0].section, images["RICE int16"][0].section):
        with pytest.raises(error):
            pixels[key]


def test_there_is_none_without_pixels(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("X", "J", array=[1, 2])], name="T")
    ascii_table = fits.TableHDU.from_columns([fits.Column("X", "I4", array=[1, 2])], name="A")
    empty = fits.ImageHDU(name="E")
    path = tmp_path / "none.fits"
    fits.HDUList([fits.PrimaryHDU(), table, ascii_table, empty]).writeto(path)
    file = dask_fits.open(path)
    for hdu, said in (
        (0, "NAXIS = 0"),
        ("T", "bintable"),
        ("A", "ascii-table"),
        ("E", "NAXIS = 0"),
    ):
        with pytest.raises(NotAnImageError, match=said) as caught:
            file[hdu].section  # noqa: B018
        assert isinstance(caught.value, TypeError)


# Served images, and Cutout2D

ROWS, COLUMNS = 512, 704
KINDS = ["plain", "scaled", "rice", "many tiles", "quantized"]
POSITIONS = {
    "in the middle": (350.3, 250.8),
    "over a corner": (2.2, 3.7),
    "over the far corner": (COLUMNS - 4.1, ROWS - 2.6),
    "over an edge": (-6.0, 300.0),
}
OVER = [name for name in POSITIONS if name != "in the middle"]
SIZE = (30, 44)


def celestial() -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [COLUMNS / 2, ROWS / 2]
    wcs.wcs.cdelt = [-0.25 / 3600, 0.25 / 3600]
    return wcs.to_header()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image in several forms: ``kind.fits``."""
    root = tmp_path_factory.mktemp("served")
    floats = np.random.default_rng(8).normal(1000, 15, (ROWS, COLUMNS)).astype("f4")
    integers, header = floats.astype("i2"), celestial()
    fits.PrimaryHDU(floats, header).writeto(root / "plain.fits")
    scaled = fits.PrimaryHDU(floats, header)
    scaled.scale("int16", bscale=0.02, bzero=1000)
    scaled.writeto(root / "scaled.fits")
    for name, pixels, tile in (
        ("rice", integers, 32),
        ("many tiles", integers, 8),
        ("quantized", floats, 32),
    ):
        packed = fits.CompImageHDU(
            pixels, header, compression_type="RICE_1", tile_shape=(tile, tile), quantize_method=1
        )
        packed.writeto(root / f"{name.replace(' ', '_')}.fits")
    return root


def served(server: RangeServer, kind: str) -> tuple[HDU, np.ndarray, WCS]:
    """An image as ours, with an empty log; astropy's pixels and WCS of it."""
    name = f"{kind.replace(' ', '_')}.fits"
    hdu = dask_fits.open(f"{server.url}/{name}").first_image()
    with fits.open(server._root / name) as file:
        pixels, wcs = np.array(file[hdu.index].data), WCS(file[hdu.index].header)
    server.clear()
    return hdu, pixels, wcs


def assert_same_cutout(found: Cutout2D, expected: Cutout2D) -> None:
    assert type(found.data) is np.ndarray
    assert same_bits(found.data, expected.data)
    names = ["shape", "slices_original", "slices_cutout", "bbox_original", "bbox_cutout"]
    names += ["origin_original", "origin_cutout", "center_original", "center_cutout"]
    names += ["input_position_cutout"]
    for name in names:
        assert getattr(found, name) == getattr(expected, name), name
    assert found.wcs.to_header_string() == expected.wcs.to_header_string()
    assert found.wcs.array_shape == expected.wcs.array_shape == found.data.shape


@pytest.mark.untraced
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("mode", ["trim", "partial", "strict"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cutout_reads_what_is_planned_for_it_and_nothing_else(
    server: RangeServer, kind: str, mode: str, position: str
) -> None:
    hdu, pixels, wcs = served(server, kind)
    where, fill = (
        wcs.pixel_to_world(*POSITIONS[position]),
        np.nan if pixels.dtype.kind == "f" else -1,
    )
    options = {"position": where, "size": SIZE, "mode": mode, "fill_value": fill}
    section, ours = hdu.section, hdu.wcs
    assert (section.shape, section.ndim, len(section)) == (pixels.shape, 2, ROWS)
    assert server.requests == 0, "nothing is read before the pixels are cut"
    if mode == "strict" and position in OVER:
        for data in (section, pixels):
            with pytest.raises(PartialOverlapError):
                Cutout2D(data, **options, wcs=ours)
        assert server.requests == 0
        return
    found = Cutout2D(section, **options, wcs=ours)
    ranges, nbytes = asked(server), server.bytes
    assert_same_cutout(found, Cutout2D(pixels, **options, wcs=wcs))
    plan = hdu.plan(found.slices_original)
    assert sorted(ranges) == [(r.start, r.stop) for r in plan.ranges]
    assert nbytes == plan.bytes
    assert plan.bytes < hdu.data_range.nbytes / 4


def test_the_ranges_of_a_cutout_counted_by_hand(server: RangeServer) -> None:
    hdu, pixels, _ = served(server, "plain")
    cutout = Cutout2D(hdu.section, (350, 250), SIZE)
    rows, columns = cutout.slices_original
    assert (rows.stop - rows.start, columns.stop - columns.start) == SIZE
    first = hdu.data_range.start + (rows.start * COLUMNS + columns.start) * 4
    last = hdu.data_range.start + ((rows.stop - 1) * COLUMNS + columns.stop) * 4
    assert asked(server) == [(first, last)], "gaps of 2,640 bytes are read over"
    assert server.log[0].if_match
    assert same_bits(cutout.data, pixels[rows, columns])


def test_where_the_tables_of_tiles_are(server: RangeServer) -> None:
    """What makes the cutouts of compressed images above two different cases."""
    at_hand = {kind: served(server, kind)[0].tile_table is not None for kind in KINDS[2:]}
    assert at_hand == {"rice": True, "many tiles": False, "quantized": True}


def test_a_cutout_by_angles_around_a_position(server: RangeServer) -> None:
    for kind in KINDS:
        hdu, pixels, wcs = served(server, kind)
        options = {"position": wcs.pixel_to_world(200, 100), "size": [5, 8] * u.arcsec}
        found = Cutout2D(hdu.section, **options, wcs=hdu.wcs)
        assert found.shape == (20, 32)
        assert_same_cutout(found, Cutout2D(pixels, **options, wcs=wcs))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cutout_beside_the_image_reads_nothing(server: RangeServer, kind: str) -> None:
    hdu, pixels, _ = served(server, kind)
    for data in (hdu.section, pixels):
        for mode in ("trim", "partial", "strict"):
            with pytest.raises(NoOverlapError):
                Cutout2D(data, (COLUMNS + 100, 20), SIZE, mode=mode)
    assert server.requests == 0


def test_a_cutout_of_integers_has_no_nan_to_fill_with(server: RangeServer) -> None:
    hdu, pixels, _ = served(server, "rice")
    for data in (hdu.section, pixels):
        with pytest.raises(ValueError, match="fill_value is inconsistent"):
            Cutout2D(data, (0, 0), SIZE, mode="partial")


def test_numpy_takes_all_pixels_in_one_read(server: RangeServer) -> None:
    hdu, pixels, _ = served(server, "plain")
    assert same_bits(np.asarray(hdu.section), pixels)
    assert server.requests == hdu.plan().requests == 1


# Processes and threads


# Over the wire: a small section of a large image

SIDE = 8192
ROW = SIDE * 4
FIRST = 4000
"""Row of the first known pixel: far behind what is read to open the file."""
KNOWN = np.random.default_rng(9).random((60, 20), dtype=np.float32)
CORNER = 100
"""Column of the first known pixel."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A server of ``large.fits``: 256 MiB of pixels, of which the disk holds the known ones."""
    root = tmp_path_factory.mktemp("large")
    with (root / "large.fits").open("wb") as file:
        file.write(primary(SIDE, SIDE, bitpix=-32))
        for row, values in enumerate(KNOWN, FIRST):
            file.seek(BLOCK + row * ROW + CORNER * 4)
            file.write(values.astype(">f4").tobytes())
        size = BLOCK + SIDE * ROW
        file.truncate(size + -size % BLOCK)
    with RangeServer(root) as server:
        yield server


def ours_and_astropys(
    server: RangeServer, key: tuple[slice, slice], pixels: np.ndarray
) -> tuple[dask_fits.ReadPlan, list[tuple[int, int]], int]:
    """Read a section in both ways: our plan and ranges, and how many bytes astropy takes."""
    url = f"{server.url}/large.fits"
    hdu = dask_fits.open(url)[0]
    section = hdu.section
    until(lambda: server.busy == 0)
    server.clear()
    plan = hdu.plan(key)
    assert server.requests == 0
    assert same_bits(section[key], pixels)
    ranges = sorted(asked(server))
    assert server.bytes == plan.bytes
    assert server.requests == plan.requests
    assert ranges == [(r.start, r.stop) for r in plan.ranges]
    with fits.open(url, use_fsspec=True) as file:
        theirs = file[0].section
        server.clear()
        assert same_bits(theirs[key], pixels)
        nbytes = server.bytes
    return plan, ranges, nbytes


def widest_gap_read_over(ranges: list[tuple[int, int]], key: tuple[slice, slice]) -> int:
    """The most bytes between two wanted runs, one a row, that lie in the same range."""
    rows, columns = key
    starts = BLOCK + np.arange(SIDE)[rows] * ROW + columns.start * 4
    length = (columns.stop - columns.start) * 4
    gaps = [0]
    for first, stop in ranges:
        within = starts[(starts >= first) & (starts + length <= stop)]
        assert within.size, "a range without a wanted pixel"
        assert (first, stop) == (within[0], within[-1] + length), "more than it needs"
        gaps += (np.diff(within) - length).tolist()
    return max(gaps)


def test_a_small_section_of_a_large_image(large: RangeServer) -> None:
    key = slice(FIRST, FIRST + 10), slice(CORNER, CORNER + 20)
    plan, ranges, theirs = ours_and_astropys(large, key, KNOWN[:10])
    starts = [BLOCK + (FIRST + row) * ROW + CORNER * 4 for row in range(10)]
    assert ranges == [(start, start + 80) for start in starts], "ten rows of twenty pixels, no more"
    assert plan.requests <= 10
    assert widest_gap_read_over(ranges, key) <= 64 * 1024
    assert plan.bytes == 800
    assert plan.bytes * 50 <= theirs


def test_its_requests_are_in_flight_together(large: RangeServer) -> None:
    section = dask_fits.open(f"{large.url}/large.fits")[0].section
    key = slice(FIRST, FIRST + 10), slice(CORNER, CORNER + 20)
    assert most_in_flight(large, lambda: section[key], 10, KNOWN[:10]) == 10
    assert large.requests == 10


@pytest.mark.parametrize(
    ("step", "requests", "gap"),
    [(1, 1, ROW - 80), (2, 1, 2 * ROW - 80), (3, 20, 0)],
    ids=["32 KiB", "64 KiB", "96 KiB"],
)
def test_no_gap_over_64_kib_is_read_over(
    large: RangeServer, step: int, requests: int, gap: int
) -> None:
    """Of more rows than may be in flight: those with short gaps between them are joined."""
    key = slice(FIRST, FIRST + 20 * step, step), slice(CORNER, CORNER + 20)
    plan, ranges, theirs = ours_and_astropys(large, key, KNOWN[: 20 * step : step])
    assert widest_gap_read_over(ranges, key) == gap <= 64 * 1024
    assert plan.requests == requests
    assert plan.bytes < theirs


def test_opening_a_large_image_reads_its_header_alone(large: RangeServer) -> None:
    large.clear()
    section = dask_fits.open(f"{large.url}/large.fits")[0].section
    assert section.shape == (SIDE, SIDE)
    assert [(r.method, r.bytes) for r in large.log] == [("GET", 57_600)]
