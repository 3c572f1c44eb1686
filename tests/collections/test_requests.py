"""What collections cost: one request a file, and none for a header that has been read."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from dask_fits import Collection
from dask_fits.collections.sources import MAX_CONCURRENT_FILES
from dask_fits.file.header_reader import HEADER_READ
from tests.servers.range_server import RangeServer
from tests.support.collections import PIXELS, SKY, assert_same_columns, image, several
from tests.support.fits_files import same_bits
from tests.support.patience import until
from tests.support.traffic import asked

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

FILES = 100


def sky_of(number: int) -> dict[str, Any]:
    return {**SKY, "CRVAL1": 150 + 0.02 * (number % 20), "CRVAL2": 2 + 0.015 * (number // 20)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one image, and files of several HDUs."""
    root = tmp_path_factory.mktemp("requests")
    for number in range(FILES):
        pixels = PIXELS + np.int16(number)
        (root / f"plain_{number:03}.fits").write_bytes(image(sky_of(number), pixels))
        sci = fits.ImageHDU(pixels, fits.Header(sky_of(number)), name="SCI")
        err = fits.ImageHDU(pixels.astype("f4"), name="ERR")
        (root / f"several_{number:03}.fits").write_bytes(several(sci, err))
    for number in range(4):
        hdu = fits.CompImageHDU(PIXELS, fits.Header(sky_of(number)), name="SCI", tile_shape=(5, 10))
        (root / f"tiled_{number}.fits").write_bytes(several(hdu))
    far = np.zeros((300, 300), "f4")
    (root / "far.fits").write_bytes(
        several(fits.PrimaryHDU(far), fits.ImageHDU(PIXELS, name="SCI"))
    )
    return root


def names(server: RangeServer, kind: str, count: int = FILES) -> list[str]:
    return [f"{server.url}/{kind}_{number:03}.fits" for number in range(count)]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("plain", {}),
        ("several", {"hdus": "SCI"}),
        ("several", {}),
        ("plain", {"keywords": ["CRVAL1"]}),
    ],
    ids=str,
)
def test_a_hundred_files_take_a_request_each(
    server: RangeServer, kind: str, arguments: dict[str, Any]
) -> None:
    server.latency = 0.01
    try:
        found = dask_fits.open_collection(names(server, kind), **arguments)
    finally:
        server.latency = 0.0
    until(lambda: server.busy == 0)
    assert len(found) == FILES * (1 if kind == "plain" or arguments else 2)
    assert not found.failures
    assert server.requests == FILES
    assert len({request.path for request in server.log}) == FILES
    assert all(request.method == "GET" for request in server.log)
    assert {stop - start for start, stop in asked(server)} == {HEADER_READ}
    assert server.peak > 8, "many at the same time"


def test_what_is_made_of_rows_takes_no_request(server: RangeServer, tmp_path: Path) -> None:
    found = dask_fits.open_collection(names(server, "plain", 30))
    found.to_parquet(tmp_path / "c.parquet")
    kept = dask_fits.open_collection(tmp_path / "c.parquet")
    server.clear()
    for collection in (found, kept):
        for hdu in collection:
            assert hdu.wcs.naxis == 2
            assert hdu.to_dask(chunks=10).shape == (20, 30)
            hdu.cutout((9, 9), 4)
            hdu.plan()
        collection.table  # noqa: B018
        collection.sources()
        collection.names()
        collection[3]
        collection[::2][1]
        collection.select((150.0, 2.0), 0.1)
        repr(collection)
    assert server.requests == 0


def test_a_header_is_one_request(server: RangeServer) -> None:
    found = dask_fits.open_collection(names(server, "several", 1), hdus="SCI")
    server.clear()
    assert found[0].header["EXTNAME"] == "SCI"
    assert asked(server) == [(found[0].header_range.start, found[0].header_range.stop)]


def test_a_header_behind_large_data_is_a_request_more(server: RangeServer) -> None:
    found = dask_fits.open_collection(f"{server.url}/far.fits", hdus="SCI")
    assert found.column("hdu").tolist() == [1]
    assert server.requests == 2


STARS = SkyCoord([150.0, 150.1, 150.2], [2.0, 2.03, 2.06], unit="deg")


def outcome(found: Any) -> tuple[Any, ...]:
    errors = [None if e is None else (type(e), str(e)) for e in found.error.ravel().tolist()]
    return (
        found.position.tolist(),
        found.file.tolist(),
        found.files,
        found.status.tolist(),
        errors,
    )


@pytest.mark.parametrize("kind", ["plain", "several", "tiled"])
@pytest.mark.parametrize("way", ["made", "read"])
def test_cutouts_of_a_collection_read_pixels_alone(
    server: RangeServer, kind: str, way: str, tmp_path: Path
) -> None:
    urls = names(server, kind, 60)
    if kind == "tiled":
        urls = [f"{server.url}/tiled_{number}.fits" for number in range(4)]
    expected = dask_fits.cutouts(urls, STARS, 6, fill_value=-1)
    until(lambda: server.busy == 0)
    server.clear()
    pixels = expected.data.compute(scheduler="sync")
    reads = sorted((r.path, r.range) for r in server.log)
    hdus = "SCI" if kind == "several" else None
    collection = dask_fits.open_collection(urls, hdus=hdus)
    if way == "read":
        collection.to_parquet(tmp_path / "c.parquet")
        collection = dask_fits.open_collection(tmp_path / "c.parquet")
    until(lambda: server.busy == 0)
    server.clear()
    found = dask_fits.cutouts(collection, STARS, 6, fill_value=-1)
    tables = server.requests
    assert outcome(found) == outcome(expected)
    assert found.failures == {}
    if kind == "tiled":
        assert tables <= 4, "of a compressed image the places of its tiles are in the file alone"
    else:
        assert tables == 0
        assert found.plan.ranges == expected.plan.ranges
    server.clear()
    assert same_bits(found.data.compute(scheduler="sync"), pixels)
    if kind != "tiled":
        assert sorted((r.path, r.range) for r in server.log) == reads
    for row in range(len(found)):
        one, other = found.wcs[row], expected.wcs[row]
        assert (one is None) == (other is None)
        assert one is None or one.wcs.compare(other.wcs)


def test_cutouts_of_a_part_of_a_collection(server: RangeServer) -> None:
    collection = dask_fits.open_collection(names(server, "plain", 60))
    part = collection.select(STARS[1], 0.001)
    assert 0 < len(part) < 10
    server.clear()
    found = dask_fits.cutouts(part, STARS[1], 6, fill_value=-1)
    assert set(found.status.tolist()) <= {"ok", "partial"}
    assert server.requests == 0
    values = found.data.compute(scheduler="sync")
    assert found.files == part.names()
    for row, file in enumerate(found.file.tolist()):
        wanted = (
            dask_fits.open(part.column("access_url")[file])
            .first_image()
            .cutout(STARS[1], 6, fill_value=-1)
        )
        assert same_bits(np.float64(values[row]), np.float64(wanted.data.compute()))


def test_cutouts_of_a_collection_with_failures(server: RangeServer) -> None:
    urls = [*names(server, "plain", 3), f"{server.url}/missing.fits"]
    collection = dask_fits.open_collection(urls)
    assert isinstance(collection, Collection)
    found = dask_fits.cutouts(collection, STARS[:1], 6, fill_value=-1)
    assert len(found.files) == 4
    assert [*found.failures] == [urls[3]]
    assert isinstance(found.failures[urls[3]], dask_fits.FitsFileNotFoundError)
    with pytest.raises((ValueError, dask_fits.FitsError)):
        dask_fits.cutouts(collection[[]], STARS, 6, fill_value=-1)


def test_files_that_are_open_are_not_opened_again(server: RangeServer) -> None:
    files = [dask_fits.open(url) for url in names(server, "plain", 5)]
    server.clear()
    found = dask_fits.open_collection(files)
    assert server.requests == 0
    assert_same_columns(found, dask_fits.open_collection(names(server, "plain", 5)))


def test_files_of_all_kinds_are_read_at_the_same_time_and_stay_in_order(
    directory: Path, tmp_path: Path
) -> None:
    """Those that need one read, those that need more, and those that fail."""
    far = np.zeros((300, 300), "f4")
    for number in range(60):
        sci = fits.ImageHDU(PIXELS, fits.Header(sky_of(number)), name="SCI")
        content = [
            image(sky_of(number)),
            several(fits.PrimaryHDU(far), sci),  # its second header lies behind the first read
            gzip.compress(image(sky_of(number)), 1, mtime=0),
            b"no FITS",
        ][number % 4]
        (tmp_path / f"{number:02}.fits").write_bytes(content)
    local = [tmp_path / f"{number:02}.fits" for number in range(60)]
    with RangeServer(tmp_path, latency=0.05) as server:
        found = dask_fits.open_collection([f"{server.url}/{path.name}" for path in local])
        assert 16 < server.peak <= MAX_CONCURRENT_FILES + 16
    expected = dask_fits.open_collection(local)
    for name in ("hdu", "extname", "shape", "s_ra", "structure", "wcs", "error_type"):
        np.testing.assert_array_equal(found.column(name), expected.column(name))
    names = [Path(url).name for url in found.column("access_url")]
    assert names == [Path(url).name for url in expected.column("access_url")]
