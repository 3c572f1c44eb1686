"""Exact request and byte counts of opening and reading."""

from __future__ import annotations

from itertools import pairwise

import dask
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits.file.header_reader import HEADER_READ
from dask_fits.ranges.cost import DEFAULT_COST
from tests.support.fits_files import fits_bytes
from tests.support.recording import RecordingFileSystem, put

pytestmark = pytest.mark.untraced

LOG = RecordingFileSystem.log
CONFIRMED = ("info",)
"""After each read: a filesystem that takes no conditions is asked whether the file is the same."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(1).random((4096, 4096), dtype=np.float32)


@pytest.fixture(scope="module")
def plain(pixels: np.ndarray) -> bytes:
    return fits_bytes(fits.PrimaryHDU(pixels))


@pytest.fixture
def four_hdus() -> str:
    image = np.zeros((300, 300), np.float32)  # 360,000 bytes: no two headers share a read
    hdus = [fits.PrimaryHDU(image), *(fits.ImageHDU(image, name=n) for n in ("SCI", "ERR", "DQ"))]
    return put("four.fits", fits_bytes(*hdus))


def test_opening_is_one_metadata_request_and_one_range(four_hdus: str) -> None:
    dask_fits.open(four_hdus)
    assert LOG == [("info",), ("get", 0, HEADER_READ)]


def test_the_first_hdu_costs_nothing_more(four_hdus: str) -> None:
    file = dask_fits.open(four_hdus)
    LOG.clear()
    assert file[0].shape == (300, 300)
    assert repr(file)
    assert file._repr_html_()
    assert LOG == []


def test_each_further_hdu_is_one_range_when_it_is_asked_for(four_hdus: str) -> None:
    file = dask_fits.open(four_hdus)
    LOG.clear()
    assert file["SCI"].index == 1
    second = 2880 + 360_000 // 2880 * 2880
    assert [("get", second, second + HEADER_READ), CONFIRMED] == LOG
    assert file["SCI"].name == "SCI"
    assert len(LOG) == 2
    assert file["DQ"].index == 3
    assert len(RecordingFileSystem.ranges()) == 3
    assert len(file) == 4
    assert [hdu.name for hdu in file] == ["PRIMARY", "SCI", "ERR", "DQ"]
    assert len(LOG) == 6, "the end of the file is known from its size"


def test_headers_that_share_a_read_cost_nothing_more() -> None:
    small = [fits.ImageHDU(np.zeros((5, 5)), name=f"E{n}") for n in range(4)]
    url = put("small.fits", fits_bytes(fits.PrimaryHDU(), *small))
    assert len(dask_fits.open(url)) == 5
    assert len(RecordingFileSystem.ranges()) == 1


def test_a_long_header_costs_growing_reads_and_no_byte_twice() -> None:
    header = fits.Header([(f"K{n:06}", n) for n in range(6000)])
    url = put("long.fits", fits_bytes(fits.PrimaryHDU(np.zeros(10**6), header)))
    file = dask_fits.open(url)
    assert len(file[0].header) >= 6000
    ranges = RecordingFileSystem.ranges()
    assert [stop - start for start, stop in ranges] == [HEADER_READ * n for n in (1, 2, 4, 8)]
    assert all(a[1] == b[0] for a, b in pairwise(ranges))


def test_making_an_array_reads_nothing(four_hdus: str) -> None:
    hdu = dask_fits.open(four_hdus)[0]
    LOG.clear()
    (hdu.data[10:20, 5:7] * 2 + hdu.to_dask((50, 50))[:10, :2]).sum()
    hdu.plan((slice(0, 3), 4))
    assert hdu.chunks == hdu.data.chunks
    assert LOG == []


@pytest.mark.parametrize("size", ["128 MiB", "16 MiB", "1 MiB", "100 kB"])
def test_a_full_read_is_one_request_a_chunk_and_the_data_unit_exactly(
    plain: bytes, pixels: np.ndarray, size: str
) -> None:
    hdu = dask_fits.open(put("plain.fits", plain))[0]
    LOG.clear()
    with dask.config.set({"array.chunk-size": size}):
        array = hdu.data
    result = array.compute(scheduler="sync")
    assert result.dtype == np.float32
    assert np.array_equal(result, pixels)
    ranges = sorted(RecordingFileSystem.ranges())
    assert len(ranges) == array.npartitions
    assert ranges[0][0] == hdu.data_range.start
    assert ranges[-1][1] == hdu.data_range.stop
    assert all(a[1] == b[0] for a, b in pairwise(ranges))


CUTOUTS = {
    # What NumPy calls the selection, and by hand: requests and bytes for 16,384-byte rows, where
    # one request is made at a time, so that gaps of up to 1 MiB are read over.
    "10x20 cutout": ((slice(100, 110), slice(200, 220)), 1, 9 * 16384 + 80),
    "one row": ((7,), 1, 16384),
    "last rows": ((slice(-5, None),), 1, 5 * 16384),
    "one pixel": ((5, 6), 1, 4),
    # Of a column 512 rows, a gap of 16,380 bytes between two, fit in a range of 8 MiB.
    "a column": ((slice(None), 9), 8, 8 * (511 * 16384 + 4)),
    # Gaps of 65 rows (1,064,960 bytes) are over 1 MiB and are not bridged.
    "every 66th row": ((slice(0, 660, 66),), 10, 10 * 16384),
    # Gaps of 64 rows (1,048,576 bytes) are.
    "every 65th row": ((slice(0, 260, 65),), 1, 196 * 16384),
    "reversed rows": ((slice(4, 0, -1),), 1, 4 * 16384),
    "a list of rows": (([3, 2000, 1, 2000],), 2, 3 * 16384 + 16384),
    "nothing": ((slice(5, 5),), 0, 0),
}


@pytest.mark.parametrize("name", CUTOUTS)
def test_a_selection_costs_what_is_planned(plain: bytes, pixels: np.ndarray, name: str) -> None:
    key, requests, nbytes = CUTOUTS[name]
    hdu = dask_fits.open(put("plain.fits", plain))[0]
    LOG.clear()
    plan = hdu.plan(key)
    assert LOG == []
    assert (plan.requests, plan.bytes) == (requests, nbytes)
    assert np.array_equal(hdu.reader()[key], pixels[key])
    assert RecordingFileSystem.ranges() == [(r.start, r.stop) for r in plan.ranges]
    assert plan.useful_bytes == (pixels[key].nbytes if name != "a list of rows" else 3 * 16384)


def test_gaps_are_bridged_up_to_the_documented_number() -> None:
    rows = np.zeros((3, (1 << 18) + 8), np.float32)
    rows[:] = np.arange(rows.shape[1])
    hdu = dask_fits.open(put("rows.fits", fits_bytes(fits.PrimaryHDU(rows))))[0]
    assert hdu.plan((slice(None), slice(0, 8))).requests == 1
    assert hdu.plan((slice(None), slice(0, 7))).requests == 3


def test_no_bridged_range_grows_past_the_documented_size(plain: bytes) -> None:
    hdu = dask_fits.open(put("plain.fits", plain))[0]
    plan = hdu.plan((slice(None), slice(0, 1)))
    assert max(r.nbytes for r in plan.ranges) <= DEFAULT_COST.coalescing.max_bridged
    assert hdu.plan().ranges == (hdu.data_range,), "a run without gaps is never cut"


def test_a_plane_and_a_spectrum_of_a_cube() -> None:
    cube = np.random.default_rng(2).random((10, 512, 1024), dtype=np.float32)  # planes of 2 MiB
    hdu = dask_fits.open(put("cube.fits", fits_bytes(fits.PrimaryHDU(cube))))[0]
    size = 2 << 20
    LOG.clear()
    plane = hdu.data[7].compute(scheduler="sync")
    assert np.array_equal(plane, cube[7])
    start = hdu.data_range.start + 7 * size
    assert RecordingFileSystem.ranges() == [(start, start + size)]
    LOG.clear()
    spectrum = hdu.data[:, 30, 100].compute(scheduler="sync")
    assert np.array_equal(spectrum, cube[:, 30, 100])
    pixel = hdu.data_range.start + (30 * 1024 + 100) * 4
    assert RecordingFileSystem.ranges() == [
        (pixel + n * size, pixel + n * size + 4) for n in range(10)
    ]


KEYS = {
    "all": (...,),
    "a corner": (slice(5, 60), slice(250, 299)),
    "across chunks": (slice(90, 210, 3), slice(10, 290, 7)),
    "one row": (150,),
    "rows of a list": ([5, 250, 6],),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
@pytest.mark.parametrize("chunks", ["auto", (64, 300), (100, 100), -1])
def test_the_plan_of_a_chunked_array_is_what_its_tasks_do(
    four_hdus: str, key: tuple, chunks: object
) -> None:
    hdu = dask_fits.open(four_hdus)["SCI"]
    LOG.clear()
    plan = hdu.plan(key, chunks=chunks)
    hdu.to_dask(chunks)[key].compute(scheduler="sync")
    assert sorted(RecordingFileSystem.ranges()) == sorted((r.start, r.stop) for r in plan.ranges)
    assert plan.bytes == RecordingFileSystem.nbytes()
    assert sum(part.requests for part in plan.chunks) == plan.requests
