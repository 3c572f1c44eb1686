"""Packed files on servers: equal pixels, counted requests, what servers say of the encoding, faults."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import dask_fits
from dask_fits import FileChangedError, StorageError, TransferConfig, UnversionedFileWarning
from dask_fits.file.header_reader import HEADER_READ
from tests.servers.files import replace_file
from tests.servers.gcs import GcsServer
from tests.servers.origins import Asked, Told, part_of, serving
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.packed_files import (
    PACKERS,
    file_name,
    forget,
    format_name,
    gzipped,
    lzw_packed,
    member_of,
    stream,
)
from tests.support.patience import until
from tests.support.places import Place, place_of
from tests.support.traffic import asked

pytestmark = [pytest.mark.untraced, pytest.mark.slow]

PIXELS = np.random.default_rng(4).integers(-(2**15), 2**15, (200, 400)).astype("i2")

CONTENT = fits_bytes(fits.PrimaryHDU(PIXELS), fits.ImageHDU(PIXELS[::-1], name="SCI"))

PACKED = gzipped(CONTENT)

PART = 65536

QUICK = TransferConfig(
    part_size=PART, attempts=3, backoff=0.01, retry_time=2, timeout=0.5, max_concurrency=4
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served")
    (root / "bucket").mkdir()
    for kind, pack in PACKERS.items():
        (root / "bucket" / file_name(kind, kind.replace(" ", "-"))).write_bytes(pack(CONTENT))
    (root / "bucket" / "plain.fits").write_bytes(CONTENT)
    return root


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A process that knows no packed file, made so once more by each call."""
    forget(monkeypatch)
    return lambda: forget(monkeypatch)


@pytest.fixture
def server(server: RangeServer) -> Iterator[RangeServer]:
    yield server
    server.heal()


def address(server: RangeServer, protocol: str, name: str) -> dict[str, Any]:
    """Arguments that open a file of the directory through a protocol."""
    if protocol == "http":
        return {"url": f"{server.url}/bucket/{name}"}
    options = {"anon": True, "endpoint_url": server.url}
    return {"url": f"s3://bucket/{name}", "storage_options": options}


def assert_right(arguments: dict[str, Any], forgotten: Callable[[], Any]) -> None:
    """Every road: both images, in chunks, rows of it, again in what is a new process."""
    file = dask_fits.open(**arguments)
    assert len(file) == 2
    for hdu, expected in zip(file, (PIXELS, PIXELS[::-1]), strict=True):
        assert same_bits(hdu.data.compute(scheduler="threads"), expected)
        assert same_bits(hdu.section[7:9, 5:50:3], expected[7:9, 5:50:3])
        forgotten()
        assert same_bits(hdu.to_dask(chunks=(70, 90)).compute(scheduler="threads"), expected)
        forgotten()
        assert same_bits(hdu.cutout((100, 50), 9).data.compute(), expected[46:55, 96:105])


@pytest.mark.parametrize("place", ["http", "s3", "gcs", "webdav"])
def test_every_protocol(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, fresh: Callable[[], Any]
) -> None:
    there: Place = place_of(place, tmp_path, request)
    for kind in ("gzip", "bzip2 streams", "zip of several"):
        arguments = there.arguments(file_name(kind, kind.replace(" ", "-")), PACKERS[kind](CONTENT))
        arguments["url"] += member_of(kind)
        assert_right(arguments, fresh)
        assert dask_fits.open(**arguments).packing == format_name(kind)


@pytest.mark.parametrize("kind", PACKERS)
def test_requests_are_those_of_the_plan(
    kind: str, server: RangeServer, fresh: Callable[[], Any]
) -> None:
    name = file_name(kind, kind.replace(" ", "-"))
    packed = PACKERS[kind](CONTENT)
    arguments = address(server, "http", name)
    arguments["url"] += member_of(kind)
    file = dask_fits.open(**arguments, transfer=QUICK)
    head = [(0, HEADER_READ)] + [(len(packed) - 65536, len(packed))] * (format_name(kind) == "zip")
    # A block of the others takes more bytes to be complete.
    is_first_enough = format_name(kind) not in ("bzip2", "zstd")
    if is_first_enough:
        assert asked(server) == head
    hdu = file[0]
    server.clear()
    assert hdu.header["NAXIS1"] == 400
    plan = hdu.plan()
    assert server.log == []
    assert same_bits(hdu.section[...], PIXELS)
    rest = sorted(asked(server))
    stop = plan.ranges[-1].stop
    if is_first_enough:
        assert sum(last - first for first, last in rest) == stop - HEADER_READ
    server.clear()
    for row in range(10):
        assert same_bits(hdu.section[row], PIXELS[row])
    assert same_bits(file["SCI"].section[3], PIXELS[-4])
    assert server.log == []
    fresh()
    assert same_bits(hdu.section[...], PIXELS)
    assert sorted(asked(server)) == [(part.start, part.stop) for part in plan.ranges]
    assert max(last - first for first, last in asked(server)) <= PART
    assert server.bytes == plan.bytes


@pytest.mark.parametrize("kind", ["gzip", "xz"])
def test_a_file_that_is_streamed_costs_what_is_planned_each_time(
    kind: str, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream(monkeypatch)
    file = dask_fits.open(**address(server, "http", file_name(kind, kind)), transfer=QUICK)
    for _ in range(2):
        server.clear()
        assert same_bits(file[0].section[5:9], PIXELS[5:9])
        assert server.bytes <= file[0].plan().bytes
        assert min(asked(server))[0] == 0


# What servers say of the encoding


@pytest.mark.parametrize("protocol", ["http", "s3"])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP"])
def test_a_file_that_is_stored_in_its_encoding(
    encoding: str, protocol: str, server: RangeServer, fresh: Callable[[], Any]
) -> None:
    server.fail("stored-gzip", count=None, encoding=encoding)
    for name in ("gzip.fits.gz", "gzip-members.fits.gz"):
        arguments = address(server, protocol, name)
        assert_right(arguments, fresh)
        fresh()
        assert_right({**arguments, "transfer": QUICK}, fresh)
        with xr.open_dataset(
            arguments["url"], engine="fits", storage_options=arguments.get("storage_options")
        ) as dataset:
            assert PIXELS.tobytes() in [
                variable.values.tobytes() for variable in dataset.data_vars.values()
            ]
        with dask.config.set(scheduler="threads"):
            found = dask_fits.cutouts(
                [arguments["url"]],
                [[100, 50]],
                9,
                hdus=0,
                fill_value=0,
                storage_options=arguments.get("storage_options"),
            ).data.compute()
        assert same_bits(found[0], PIXELS[46:55, 96:105])
    assert all(request.fault == "stored-gzip" for request in server.log)


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [("lzw", "x-compress"), ("bzip2", "x-bzip2"), ("xz", "xz"), ("zstd", "zstd")],
)
def test_other_encodings_that_servers_have_for_suffixes(
    kind: str, encoding: str, server: RangeServer, fresh: Callable[[], Any]
) -> None:
    server.fail("stored-gzip", count=None, encoding=encoding)
    assert_right(address(server, "http", file_name(kind, kind)), fresh)


def test_a_file_stored_in_its_encoding_whose_version_is_not_checked(
    server: RangeServer, fresh: Callable[[], Any]
) -> None:
    server.fail("stored-gzip", count=None)
    transfer = TransferConfig(check_version=False)
    assert_right({**address(server, "http", "gzip.fits.gz"), "transfer": transfer}, fresh)


def test_a_file_stored_in_its_encoding_on_a_server_that_takes_no_conditions(
    directory: Path, fresh: Callable[[], Any]
) -> None:
    """A server that refuses If-Match is asked without it."""

    def answers(request: Asked) -> Told:
        if "if-match" in request.headers:
            return Told(412)
        return part_of(PACKED, request, Content_Encoding="x-gzip")

    with serving(answers) as origin:
        assert_right({"url": f"{origin.url}/image.fits.gz"}, fresh)


@pytest.mark.parametrize("name", ["plain.fits", "gzip.fits.gz"])
@pytest.mark.parametrize("fault", ["gzip", "gzip-whole"])
@pytest.mark.parametrize("protocol", ["http", "s3"])
def test_a_server_that_compresses_on_the_way(
    protocol: str, fault: Any, name: str, server: RangeServer
) -> None:
    arguments = address(server, protocol, name)
    hdu = dask_fits.open(**arguments)[0]
    server.fail(fault, count=None)
    server.clear()
    with pytest.raises(StorageError, match=rf"{name}.*Content-Encoding: gzip"):
        hdu.section[-1]
    with pytest.raises(StorageError, match=rf"{name}.*Content-Encoding: gzip"):
        dask_fits.open(**arguments)
    assert server.requests <= 4, "at once"


def test_a_plain_file_that_is_said_to_be_compressed(server: RangeServer) -> None:
    """Its bytes are no gzip: nobody knows what the server sends."""
    server.fail("stored-gzip", count=None)
    with pytest.raises(StorageError, match=r"plain\.fits.*Content-Encoding: gzip"):
        dask_fits.open(**address(server, "http", "plain.fits"))


def test_an_object_of_s3_with_an_encoding(s3_server: S3Server, fresh: Callable[[], Any]) -> None:
    url = s3_server.put("encoded.fits.gz", PACKED, encoding="gzip")
    assert_right({"url": url, "storage_options": s3_server.storage_options}, fresh)


def test_an_object_of_s3_is_replaced(s3_server: S3Server) -> None:
    url = s3_server.put("replaced.fits.gz", PACKED)
    hdu = dask_fits.open(url, storage_options=s3_server.storage_options)[0]
    s3_server.put("replaced.fits.gz", gzipped(CONTENT, 1))
    with pytest.raises(FileChangedError, match=r"replaced\.fits\.gz"):
        hdu.section[5]


def test_an_object_of_gcs_is_replaced(gcs_server: GcsServer) -> None:
    url = gcs_server.put("replaced.fits.gz", PACKED)
    hdu = dask_fits.open(url, storage_options=gcs_server.storage_options)[0]
    gcs_server.put("replaced.fits.gz", PACKED)
    with pytest.raises(FileChangedError, match=r"replaced\.fits\.gz"):
        hdu.section[5]


# Versions


@pytest.mark.parametrize("kind", ["gzip", "bzip2", "zip"])
@pytest.mark.parametrize("road", ["kept", "streamed"])
def test_a_file_that_is_replaced(
    road: str,
    kind: str,
    directory: Path,
    server: RangeServer,
    monkeypatch: pytest.MonkeyPatch,
    fresh: Callable[[], Any],
) -> None:
    if road == "streamed":
        stream(monkeypatch)
    name = f"replaced-{road}.{kind}"
    replace_file(directory / name, PACKERS[kind](CONTENT))
    url = f"{server.url}/{name}"
    hdu = dask_fits.open(url)["SCI"]
    replace_file(directory / name, PACKERS[kind](CONTENT))
    fresh()
    with pytest.raises(FileChangedError, match=name):
        hdu.section[5]
    assert same_bits(dask_fits.open(url)["SCI"].section[5], PIXELS[-6])


def test_a_server_that_tells_no_version(server: RangeServer) -> None:
    server.fail("no-stamp", count=None)
    arguments = address(server, "http", "gzip.fits.gz")
    with pytest.warns(UnversionedFileWarning):
        hdu = dask_fits.open(**arguments, transfer=QUICK)[0]
    assert same_bits(hdu.section[...], PIXELS)
    server.clear()
    assert same_bits(hdu.section[4], PIXELS[4])
    assert server.bytes == hdu.plan().bytes, "nothing is kept that may be another file's"


# Faults

FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("status", {"status": 503}),
    ("status", {"status": 429, "headers": {"Retry-After": "0.05"}}),
    ("reset", {}),
    ("reset-midway", {}),
    ("truncate", {}),
    ("slow", {"seconds": 0.8}),
    ("stall", {"seconds": 0.8}),
    ("no-range", {}),
    ("short", {}),
    ("long", {}),
    ("shifted", {"by": 4}),
    ("no-content-range", {}),
    ("ignore-if-match", {}),
    ("weak-etag", {}),
]


@pytest.mark.parametrize(("fault", "details"), FAULTS, ids=str)
def test_a_fault_that_happens_once(
    fault: Any, details: dict[str, Any], server: RangeServer, fresh: Callable[[], Any]
) -> None:
    protocol = "http" if FAULTS.index((fault, details)) % 2 else "s3"
    arguments = address(server, protocol, "gzip-members.fits.gz")
    dask_fits.open(**arguments)  # imports take longer than the time-out
    fresh()
    hdu = dask_fits.open(**arguments, transfer=QUICK)[0]
    server.fail(fault, first=2, **details)
    assert same_bits(hdu.section[...], PIXELS)
    until(lambda: server.busy == 0)
    server.heal()
    fresh()
    assert same_bits(hdu.to_dask((50, 50)).compute(scheduler="threads"), PIXELS)


@pytest.mark.parametrize("fault", ["status", "truncate", "reset-midway"])
def test_a_fault_that_goes_on_and_then_ends(fault: Any, server: RangeServer) -> None:
    """Nothing is left of a pass that failed."""
    hdu = dask_fits.open(**address(server, "http", "gzip.fits.gz"), transfer=QUICK)[0]
    server.fail(fault, count=None)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"gzip\.fits\.gz"):
            hdu.section[-1]
    server.heal()
    assert same_bits(hdu.section[...], PIXELS)


def test_the_files_here_are_what_gzip_unpacks(directory: Path) -> None:
    assert gzip.decompress((directory / "bucket" / "gzip.fits.gz").read_bytes()) == CONTENT
    assert (directory / "bucket" / "lzw.fits.Z").stat().st_size == len(lzw_packed(CONTENT))
