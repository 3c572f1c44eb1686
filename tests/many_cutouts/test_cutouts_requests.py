"""What many cutouts cost: requests, bytes and rounds, as a server counts them."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import CostModel
from dask_fits.file.header_reader import HEADER_READ
from tests.servers.range_server import RangeServer
from tests.support.fits_files import BLOCK, blocks, card, primary, same_bits
from tests.support.patience import until
from tests.support.traffic import most_in_flight

pytestmark = pytest.mark.untraced

SIDE = 4096
CUT = 64
IMAGES = 4
EACH = 500
"""Cutouts of each image."""

Ranges = dict[str, list[tuple[int, int]]]

ROWS, COLUMNS = (axis.astype("i4") for axis in np.ogrid[:SIDE, :SIDE])
PIXELS = ((ROWS * 31 + COLUMNS * 7) % 1009 + (ROWS // 64 * COLUMNS // 64) % 13).astype("i2")
"""A pattern that no two cutouts share."""


def keywords(number: int) -> dict[str, Any]:
    """Coordinates of one of the images: side by side, and apart."""
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": SIDE / 2,
        "CRPIX2": SIDE / 2,
        "CRVAL1": 150.0 + 2 * number,
        "CRVAL2": 2.0,
        "CDELT1": -2e-4,
        "CDELT2": 2e-4,
    }


def plain(number: int) -> bytes:
    extra = [card(keyword, value) for keyword, value in keywords(number).items()]
    pixels = (PIXELS + np.int16(number * 2000)).astype(">f4")
    return primary(SIDE, SIDE, bitpix=-32, extra=extra) + blocks(pixels.tobytes())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images: ``plain_0.fits``, ``squares_0.fits``, ``rows_0.fits``, ..."""
    root = tmp_path_factory.mktemp("many")
    for number in range(IMAGES):
        (root / f"plain_{number}.fits").write_bytes(plain(number))
    for kind, tile in (("squares", (512, 512)), ("rows", (1, SIDE))):
        header = fits.Header(keywords(0))
        packed = fits.CompImageHDU(PIXELS, header, compression_type="RICE_1", tile_shape=tile)
        packed.writeto(root / f"{kind}_0.fits")
        for number in range(1, IMAGES):  # the same pixels elsewhere on the sky
            path = shutil.copy(root / f"{kind}_0.fits", root / f"{kind}_{number}.fits")
            with open(path, "r+b") as file:
                start = file.read(4 * BLOCK).index(b"CRVAL1  =")
                file.seek(start)
                file.write(card("CRVAL1", keywords(number)["CRVAL1"]))
    return root


@pytest.fixture(scope="module")
def stars() -> tuple[SkyCoord, np.ndarray]:
    """Positions on the sky in no order; and of each the image, and the first pixel y, x."""
    rng = np.random.default_rng(12)
    corners = rng.integers(0, SIDE - CUT + 1, (IMAGES * EACH, 2))
    images = np.repeat(np.arange(IMAGES), EACH)
    lon, lat = np.empty(len(images)), np.empty(len(images))
    for number in range(IMAGES):
        own = images == number
        # The box of an even side around y + 31.7 begins with y.
        at = corners[own] + CUT / 2 - 0.3
        lon[own], lat[own] = WCS(fits.Header(keywords(number))).all_pix2world(at[:, ::-1], 0).T
    order = rng.permutation(len(images))
    where = np.column_stack([images, corners])[order]
    return SkyCoord(lon[order], lat[order], unit="deg"), where


def by_file(server: RangeServer) -> Ranges:
    """The ranges that were asked for, ascending, their ends exclusive."""
    found = defaultdict(list)
    for request in server.log:
        first, last = request.range.removeprefix("bytes=").split("-")
        found[request.path].append((int(first), int(last) + 1))
    return {path: sorted(ranges) for path, ranges in found.items()}


def assert_no_byte_twice(ranges: Ranges) -> None:
    for path, some in ranges.items():
        assert all(one[1] <= other[0] for one, other in pairwise(some)), path


def sizes(ranges: Ranges) -> list[int]:
    return sorted(stop - start for some in ranges.values() for start, stop in some)


def assert_as_planned(server: RangeServer, found: Any) -> None:
    """What was asked for is the plan, to the byte."""
    assert server.requests == found.plan.requests
    assert server.bytes == found.plan.bytes
    asked = sorted(one for some in by_file(server).values() for one in some)
    assert asked == sorted((r.start, r.stop) for r in found.plan.ranges)


# Thousands of cutouts


@pytest.mark.parametrize(
    ("kind", "opening", "reading"), [("plain", 4, 40), ("squares", 4, 16), ("rows", 4, 16)]
)
def test_two_thousand_cutouts_of_four_images(
    server: RangeServer,
    stars: tuple[SkyCoord, np.ndarray],
    kind: str,
    opening: int,
    reading: int,
) -> None:
    """Counted is everything from the names of the files to the pixels.

    Opening asks for the first 57,600 bytes of each file, and the tables of tiles come with them. Of
    a plain image these hold pixels of the first rows too, which are not kept: where cutouts want
    them, they are asked for again. After that no byte is.
    """
    positions, where = stars
    urls = [f"{server.url}/{kind}_{number}.fits" for number in range(IMAGES)]
    found = dask_fits.cutouts(urls, positions, CUT)
    assert found.status.tolist() == ["ok"] * 2000
    assert found.file.tolist() == where[:, 0].tolist()
    assert sizes(by_file(server)) == [HEADER_READ] * opening
    server.clear()
    pixels = found.data.compute(scheduler="threads")
    assert_as_planned(server, found)
    ranges = by_file(server)
    assert_no_byte_twice(ranges)
    assert opening + server.requests <= opening + reading <= 200
    file_bytes = sum((server._root / f"{kind}_{n}.fits").stat().st_size for n in range(IMAGES))
    assert server.bytes <= file_bytes
    if kind != "plain":
        tables = [start for some in ranges.values() for start, _ in some]
        heap = found._reads[0].reader.layout.heap.start
        assert min(tables) >= heap, "no row of the tables, which came with the headers"
    for row, (image, y, x) in enumerate(where.tolist()):
        expected = PIXELS[y : y + CUT, x : x + CUT]
        if kind == "plain":
            expected = (expected + np.int16(image * 2000)).astype("f4")
        assert same_bits(pixels[row], expected), row


def test_a_few_of_them_cost_their_own_rows_alone(
    server: RangeServer, stars: tuple[SkyCoord, np.ndarray]
) -> None:
    positions, where = stars
    urls = [f"{server.url}/plain_{number}.fits" for number in range(IMAGES)]
    found = dask_fits.cutouts(urls, positions[:8], CUT)
    opened = server.requests
    server.clear()
    pixels = found.data.compute(scheduler="threads")
    assert opened == IMAGES
    assert_as_planned(server, found)
    assert_no_byte_twice(by_file(server))
    # From the first to the last of 64 rows of 16 KiB each, which lie closer than 64 KiB.
    assert server.requests <= 8
    assert server.bytes <= 8 * (63 * SIDE * 4 + CUT * 4)
    for row, (image, y, x) in enumerate(where[:8].tolist()):
        expected = (PIXELS[y : y + CUT, x : x + CUT] + np.int16(image * 2000)).astype("f4")
        assert same_bits(pixels[row], expected)


def test_images_share_the_connections(server: RangeServer) -> None:
    """Eight rows of an image are fetched as they are, and of four images at once joined.

    Sixteen requests are as fast as one; 32 are not, and the gaps are of 16 KiB.
    """
    urls = [f"{server.url}/plain_{number}.fits" for number in range(IMAGES)]
    for count, requests in ((1, 8), (2, 16), (4, 4)):
        found = dask_fits.cutouts(urls[:count], (2000, 2000), 8)
        server.clear()
        pixels = found.data.compute(scheduler="threads")
        assert_as_planned(server, found)
        assert server.requests == requests
        expected = PIXELS[1996:2004, 1996:2004] + 2000 * np.arange(count, dtype="i2")[:, None, None]
        assert np.array_equal(pixels, expected)


def test_the_same_position_many_times_costs_as_much_as_once(server: RangeServer) -> None:
    url = f"{server.url}/plain_0.fits"
    once = dask_fits.cutouts(url, [(2000, 2000)], CUT)
    many = dask_fits.cutouts(url, [(2000, 2000)] * 300, CUT)
    assert many.plan.ranges == once.plan.ranges
    server.clear()
    pixels = many.data.compute()
    assert_as_planned(server, once)
    assert (pixels == PIXELS[1968:2032, 1968:2032]).all()


def test_positions_off_all_images_read_nothing_but_headers(server: RangeServer) -> None:
    urls = [f"{server.url}/plain_{number}.fits" for number in range(IMAGES)]
    found = dask_fits.cutouts(urls, SkyCoord([10, 200], [-40, 80], unit="deg"), CUT)
    assert server.requests == IMAGES
    assert found.plan.requests == 0
    assert np.isnan(found.data.compute()).all()
    assert server.requests == IMAGES


def test_strict_does_not_read_what_is_partial(server: RangeServer) -> None:
    url, positions = f"{server.url}/plain_0.fits", [(2000, 2000), (0, 4000), (4095, 10)]
    whole = dask_fits.cutouts(url, positions[:1], CUT)
    strict = dask_fits.cutouts(url, positions, CUT, mode="strict")
    partial = dask_fits.cutouts(url, positions, CUT)
    assert strict.plan.ranges == whole.plan.ranges
    assert partial.plan.bytes > 2 * strict.plan.bytes


def test_an_image_that_is_open_is_not_opened_again(server: RangeServer) -> None:
    files = [dask_fits.open(f"{server.url}/{kind}_0.fits") for kind in ("plain", "squares")]
    files[1].first_image()
    server.clear()
    dask_fits.cutouts(files, [(2000, 2000)], CUT)
    assert server.requests == 0


# A few cutouts of a large image

LARGE = {"16384": 16384, "17000": 17_000}
"""Sides of square images of float32: gaps between rows of a cutout that are just worth reading
over (65,280 bytes of 65,625), and such that are not."""

COUNT = 20
KNOWN = np.random.default_rng(13).random((COUNT, CUT, CUT), dtype=np.float32)


def corners(side: int) -> np.ndarray:
    """First pixels of cutouts all over an image, none above another."""
    rng = np.random.default_rng(14)
    rows = np.linspace(100, side - 200, COUNT).astype(int)
    return np.column_stack([rows, rng.integers(0, side - CUT, COUNT)])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A server of images of 1 GiB, of which the disk holds what is wanted."""
    root = tmp_path_factory.mktemp("large")
    for name, side in LARGE.items():
        with (root / f"{name}.fits").open("wb") as file:
            file.write(primary(side, side, bitpix=-32))
            for (y, x), values in zip(corners(side).tolist(), KNOWN, strict=True):
                for row, pixels in enumerate(values, y):
                    file.seek(BLOCK + (row * side + x) * 4)
                    file.write(pixels.astype(">f4").tobytes())
            size = BLOCK + side * side * 4
            file.truncate(size + -size % BLOCK)
    with RangeServer(root) as server:
        yield server


def optimum(runs: np.ndarray, model: CostModel) -> tuple[float, int, int]:
    """The least that reading runs of bytes can cost: seconds, requests and bytes.

    By dynamic programming over the sorted runs: the cheapest way to have the first n of them is the
    cheapest way to have some of them, and one range for the others. A request costs its share of
    the latency, a byte its time on the line.
    """
    starts, stops = runs[:, 0], runs[:, 1]
    least = np.zeros(len(runs) + 1)
    since = np.zeros(len(runs), int)
    for n in range(len(runs)):
        ways = (stops[n] - starts[: n + 1]) / model.bandwidth + least[: n + 1]
        since[n] = int(np.argmin(ways))
        least[n + 1] = ways[since[n]] + model.latency / model.connections
    requests, nbytes, n = 0, 0, len(runs)
    while n:
        requests, nbytes = requests + 1, nbytes + int(stops[n - 1] - starts[since[n - 1]])
        n = int(since[n - 1])
    return float(least[-1]), requests, nbytes


def rows_of_pixels(side: int) -> np.ndarray:
    firsts = [
        BLOCK + ((y + row) * side + x) * 4 for y, x in corners(side).tolist() for row in range(CUT)
    ]
    starts = np.sort(np.array(firsts))
    return np.column_stack([starts, starts + CUT * 4])


def test_the_optimum_of_a_few_runs_by_hand() -> None:
    model = CostModel(latency=0.016, bandwidth=1e6, connections=16)  # a request is 1,000 bytes
    runs = np.array([(0, 10), (900, 1000), (2100, 2110), (3100, 3200)])
    seconds, requests, nbytes = optimum(runs, model)
    assert (requests, nbytes) == (2, 1000 + 1100)
    assert seconds == pytest.approx(0.002 + 0.0021)


@pytest.mark.parametrize("name", LARGE)
def test_twenty_cutouts_of_a_large_image_cost_little_more_than_they_must(
    large: RangeServer, name: str
) -> None:
    side, model = LARGE[name], CostModel()
    seconds, requests, nbytes = optimum(rows_of_pixels(side), model)
    positions = corners(side)[:, ::-1] + CUT / 2
    found = dask_fits.cutouts(f"{large.url}/{name}.fits", positions, CUT)
    until(lambda: large.busy == 0)
    large.clear()
    pixels = found.data.compute(scheduler="threads")
    assert same_bits(pixels, KNOWN)
    assert_as_planned(large, found)
    assert_no_byte_twice(by_file(large))
    assert large.bytes <= 1.3 * nbytes
    cost = model.latency * large.requests / model.connections + large.bytes / model.bandwidth
    assert cost <= 1.3 * seconds
    assert (requests, nbytes) == (
        (COUNT, COUNT * (63 * side + CUT) * 4)
        if name == "16384"
        else (COUNT * CUT, COUNT * CUT * CUT * 4)
    )


def test_the_requests_of_a_large_image_are_in_flight_together(large: RangeServer) -> None:
    """Two tasks of at most 64 MiB each, at the same time: a single round trip."""
    url = f"{large.url}/16384.fits"
    found = dask_fits.cutouts(url, corners(16384)[:, ::-1] + CUT / 2, CUT)
    assert [chunk.requests for chunk in found.plan.chunks] == [16, 4]
    assert all(chunk.bytes <= 64 << 20 for chunk in found.plan.chunks)
    threads = {"scheduler": "threads", "num_workers": 2}
    peak = most_in_flight(large, lambda: found.data.compute(**threads), COUNT, KNOWN)
    assert peak == COUNT
    assert large.requests == COUNT


# Many small files

SMALL = 200
LATENCY = 0.02


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    root = tmp_path_factory.mktemp("small")
    for number in range(SMALL):
        pixels = (PIXELS[:100, :100] + np.int16(number)).astype(">f4")
        data = primary(100, 100, bitpix=-32) + blocks(pixels.tobytes())
        (root / f"{number:03}.fits").write_bytes(data)
    with RangeServer(root) as server:
        yield server


def test_two_hundred_small_files(small: RangeServer) -> None:
    """A request to open each, and one for its cutout; many at a time; little is held."""
    urls = [f"{small.url}/{number:03}.fits" for number in range(SMALL)]
    dask_fits.cutouts(urls[:1], (50, 50), 20).data.compute()
    until(lambda: small.busy == 0)
    small.clear()
    small.latency = LATENCY
    tracemalloc.start()
    try:
        found = dask_fits.cutouts(urls, (50, 50), 20)
        opened, peak = small.requests, small.peak
        small.clear()
        pixels = found.data.compute(scheduler="threads")
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        small.latency = 0.0
    assert opened == SMALL
    assert peak > 8
    assert small.requests == found.plan.requests == SMALL
    assert small.bytes == found.plan.bytes == SMALL * (19 * 100 + 20) * 4
    assert small.peak > 4, "the files of a task together, not one after the other"
    assert len(found.plan.chunks) == -(-SMALL // 16), "sixteen files a task"
    assert_no_byte_twice(by_file(small))
    assert held < 12e6, "the headers as they were read are 11.5 MB"
    expected = PIXELS[40:60, 40:60] + np.arange(SMALL, dtype="i2")[:, None, None]
    assert same_bits(pixels, expected.astype("f4"))


def test_little_is_held_of_each_file(small: RangeServer) -> None:
    urls = [f"{small.url}/{number:03}.fits" for number in range(SMALL)]
    few = dask_fits.cutouts(urls[:20], (50, 50), 20)
    gc.collect()
    tracemalloc.start()
    try:
        found = dask_fits.cutouts(urls, (50, 50), 20)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(found) == SMALL
    assert len(few) == 20
    assert held / SMALL < 9_500, "a header as it is read is 57,600 bytes"


def test_a_row_of_many_files_costs_its_own_task_alone(small: RangeServer) -> None:
    urls = [f"{small.url}/{number:03}.fits" for number in range(40)]
    with dask.config.set({"array.chunk-size": 20 * 20 * 4}):
        found = dask_fits.cutouts(urls, (50, 50), 20)
    until(lambda: small.busy == 0)
    small.clear()
    found.data[39].compute()
    assert sorted(by_file(small)) == [f"/{number:03}.fits" for number in range(32, 40)]
