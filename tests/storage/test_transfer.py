"""How remote bytes travel: parts, requests in flight, retries, memory, secrets."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import dask
import fsspec
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

import dask_fits
from dask_fits import (
    AccessDeniedError,
    ByteRange,
    FitsFileNotFoundError,
    StorageError,
    TransferConfig,
)
from dask_fits.ranges.byte_range import split_range
from dask_fits.ranges.cost import CostModel
from dask_fits.storage.s3 import s3_options
from dask_fits.storage.transfer import retry_after
from tests.servers.caddy import CaddyServer
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.leftovers import requests_left
from tests.support.patience import until
from tests.support.traffic import PIXELS, SECRETS, asked, most_in_flight

KIB = 1024
HEADER = 2880
LOGGER = "dask_fits.storage.transfer"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    root = tmp_path_factory.mktemp("served")
    image = fits.PrimaryHDU(PIXELS)
    image.writeto(root / "image.fits")
    planes = PIXELS.reshape(16, 128, 128)
    fits.HDUList(
        [fits.PrimaryHDU(p) if n == 0 else fits.ImageHDU(p) for n, p in enumerate(planes[:4])]
    ).writeto(root / "four.fits")
    with RangeServer(root) as server:
        yield server


@pytest.fixture
def server(running: RangeServer) -> Iterator[RangeServer]:
    running.clear()
    yield running
    running.heal()
    running.latency = 0.0
    running.bandwidth = None
    until(lambda: running.busy == 0)  # answers to who hung up do not count in the next test


def in_bucket(server: RangeServer) -> str:
    """URL of the image for an S3 client that has the server for its endpoint."""
    (server._root / "bucket").mkdir(exist_ok=True)
    fits.PrimaryHDU(PIXELS).writeto(server._root / "bucket" / "a.fits", overwrite=True)
    return "s3://bucket/a.fits"


# Counts over the wire


def test_opening_and_walking(server: RangeServer) -> None:
    file = dask_fits.open(f"{server.url}/four.fits")
    assert [(r.method, r.bytes) for r in server.log] == [("GET", 57600)]
    unit = HEADER + -(-128 * 128 * 4 // HEADER) * HEADER
    assert len(file) == 4
    assert asked(server) == [(n * unit, n * unit + 57600) for n in range(4)]
    assert server.bytes == 4 * 57600


def test_a_full_read_is_the_data_unit_once(server: RangeServer) -> None:
    hdu = dask_fits.open(f"{server.url}/image.fits")[0]
    server.clear()
    assert np.array_equal(hdu.data.compute(scheduler="sync"), PIXELS)
    assert asked(server) == [(HEADER, HEADER + PIXELS.nbytes)]
    assert server.bytes == PIXELS.nbytes


def test_a_cutout_is_its_rows(server: RangeServer) -> None:
    hdu = dask_fits.open(f"{server.url}/image.fits")[0]
    server.clear()
    assert np.array_equal(hdu.data[100:110, 7:20].compute(scheduler="sync"), PIXELS[100:110, 7:20])
    assert asked(server) == [(HEADER + (100 * 512 + 7) * 4, HEADER + (109 * 512 + 20) * 4)]
    assert server.log[0].if_match


def test_the_same_counts_in_the_log_of_a_server_that_is_not_ours(
    caddy_server: CaddyServer, server: RangeServer
) -> None:
    content = (server._root / "four.fits").read_bytes()
    url = caddy_server.put("four.fits", content)
    unit = HEADER + -(-128 * 128 * 4 // HEADER) * HEADER

    def seen() -> list[tuple[str, str | None, int, int]]:
        found = [(log.method, log.range, log.status, log.bytes) for log in caddy_server.log]
        caddy_server.clear()
        return found

    caddy_server.clear()
    file = dask_fits.open(url)
    assert seen() == [("GET", "bytes=0-57599", 206, 57600)]
    assert len(file) == 4
    assert seen() == [
        ("GET", f"bytes={n * unit}-{n * unit + 57599}", 206, 57600) for n in range(1, 4)
    ]
    image = file[1].data
    assert np.array_equal(image.compute(), PIXELS.reshape(16, 128, 128)[1])
    first = unit + HEADER
    assert seen() == [("GET", f"bytes={first}-{first + 65535}", 206, 65536)]
    assert np.array_equal(image[3:5, 7].compute(), PIXELS.reshape(16, 128, 128)[1, 3:5, 7])
    start = first + (3 * 128 + 7) * 4
    assert seen() == [("GET", f"bytes={start}-{start + 515}", 206, 516)]


@pytest.mark.parametrize("key", [(...,), (slice(3, 400), slice(10, 500, 7)), (slice(None), 5)])
def test_a_plan_is_what_goes_over_the_wire(server: RangeServer, key: tuple[Any, ...]) -> None:
    transfer = TransferConfig(part_size=96 * KIB)
    hdu = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0]
    server.clear()
    plan = hdu.plan(key)
    assert server.requests == 0
    assert np.array_equal(hdu.data[key].compute(scheduler="sync"), PIXELS[key])
    assert sorted(asked(server)) == [(r.start, r.stop) for r in plan.ranges]
    assert (server.requests, server.bytes) == (plan.requests, plan.bytes)


# Parts and concurrency


@given(
    st.integers(0, 10**6), st.integers(0, 300 * KIB), st.integers(1, 20).map(lambda n: n * 4 * KIB)
)
def test_parts_follow_each_other_and_are_of_whole_pixels(
    start: int, nbytes: int, size: int
) -> None:
    whole = ByteRange(start, start + nbytes)
    parts = split_range(whole, size)
    assert (parts[0].start, parts[-1].stop) == (whole.start, whole.stop)
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert all(part.nbytes % 8 == 0 for part in parts[:-1])
    assert max(part.nbytes for part in parts) <= size
    assert len(parts) == max(-(-nbytes // size), 1)
    assert split_range(whole, None) == [whole]


def test_a_large_range_is_fetched_in_parts_at_the_same_time(server: RangeServer) -> None:
    transfer = TransferConfig(part_size=128 * KIB)
    hdu = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0]
    assert most_in_flight(server, lambda: hdu.reader()[:], 8) == 8
    assert sorted(asked(server)) == [
        (HEADER + n * 128 * KIB, HEADER + (n + 1) * 128 * KIB) for n in range(8)
    ]


def test_small_ranges_are_fetched_at_the_same_time(server: RangeServer) -> None:
    transfer = TransferConfig(max_concurrency=5, cost=CostModel(latency=0))
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader()
    key = slice(None, None, 40), slice(3)
    assert most_in_flight(server, lambda: reader[key], 5, PIXELS[key]) == 5
    assert server.requests == 13


def test_requests_in_flight_are_bounded_over_all_threads_of_a_process(server: RangeServer) -> None:
    transfer = TransferConfig(part_size=16 * KIB, max_concurrency=6)
    image = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].to_dask((64, -1))
    threads = {"scheduler": "threads", "num_workers": 8}
    assert most_in_flight(server, lambda: image.compute(**threads), 6) == 6
    assert server.requests == 64


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_a_read_holds_at_most_its_result_twice(tmp_path: Path, dtype: str) -> None:
    """192 MiB of result in one chunk; a scaled int16 is stored in half of that."""
    stored = np.zeros((3 * 2**12, 2**12), dtype)
    hdu = fits.PrimaryHDU(stored)
    if dtype == "i2":
        hdu.header["BSCALE"] = 0.5
    hdu.writeto(tmp_path / "large.fits")
    with RangeServer(tmp_path) as server:
        reader = dask_fits.open(f"{server.url}/large.fits")[0].reader()
        reader[:10]
        tracemalloc.start()
        try:
            result = reader[:]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert result.nbytes == 192 * 1024 * KIB
    assert 1 < peak / result.nbytes < 2.1


def test_what_a_failed_read_still_asks_for_is_given_up_at_once(server: RangeServer) -> None:
    transfer = TransferConfig(part_size=128 * KIB)
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader()
    server.bandwidth = 10 * KIB  # the other parts would take 13 s
    server.fail("status", status=403)
    before = requests_left()
    with pytest.raises(AccessDeniedError):
        reader[:]
    assert requests_left() <= before


def test_s3_has_as_many_connections_as_requests_in_flight(server: RangeServer) -> None:
    options = {"anon": True, "endpoint_url": server.url}
    transfer = TransferConfig(part_size=64 * KIB)
    url = in_bucket(server)
    reader = dask_fits.open(url, storage_options=options, transfer=transfer)[0].reader()
    assert most_in_flight(server, lambda: reader[:], 16) == 16


def test_a_slow_answer_may_take_longer_than_the_session_allows(server: RangeServer) -> None:
    """aiohttp gives a whole request five minutes; here it is given less."""
    options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.3)}}
    url = f"{server.url}/image.fits"
    transfer = TransferConfig(attempts=1)
    reader = dask_fits.open(url, storage_options=options, transfer=transfer)[0].reader()
    server.bandwidth = 100 * KIB
    assert np.array_equal(reader[:30], PIXELS[:30])


def test_s3_is_sent_what_every_request_is_to_carry(server: RangeServer) -> None:
    options = {
        "anon": True,
        "endpoint_url": server.url,
        "requester_pays": True,
        "s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "ExpectedBucketOwner": "12"},
    }
    sent: list[dict[str, str]] = []
    url = in_bucket(server)
    fs = fsspec.filesystem("s3", **s3_options(options, TransferConfig(), writes=False))
    fs.connect()

    def note(request: Any, **_: Any) -> None:
        sent.append(dict(request.headers))

    fs.s3.meta.events.register("before-send.s3.GetObject", note)
    dask_fits.open(url, storage_options=options)
    assert sent[0]["x-amz-request-payer"] == b"requester"
    assert sent[0]["x-amz-expected-bucket-owner"] == b"12"


def test_a_read_that_is_dropped_may_be_collected_in_the_event_loop(server: RangeServer) -> None:
    transfer = TransferConfig(part_size=128 * KIB)
    store = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader().store
    pieces = store.read_ranges([ByteRange(0, 1024 * KIB)], whole=False)
    next(pieces)

    async def collect() -> float:
        started = time.monotonic()
        pieces.close()
        return time.monotonic() - started

    waited = asyncio.run_coroutine_threadsafe(collect(), fsspec.asyn.get_loop()).result(20)
    assert waited < 5, "the loop waited for itself"
    assert np.array_equal(dask_fits.from_fits(f"{server.url}/image.fits").compute(), PIXELS)


def test_a_session_that_raises_for_statuses_is_judged_all_the_same(server: RangeServer) -> None:
    options = {"client_kwargs": {"raise_for_status": True}}
    transfer = TransferConfig(backoff=0.001)
    url = f"{server.url}/image.fits"
    server.fail("status", status=503)
    image = dask_fits.from_fits(url, storage_options=options, transfer=transfer)
    assert np.array_equal(image.compute(), PIXELS)
    server.fail("status", status=404)
    with pytest.raises(FitsFileNotFoundError):
        image.compute()


# Retries


def test_only_the_part_that_failed_is_asked_for_again(
    server: RangeServer, caplog: pytest.LogCaptureFixture
) -> None:
    transfer = TransferConfig(part_size=128 * KIB, backoff=0.01)
    hdu = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0]
    server.clear()
    server.fail("reset-midway", first=3, count=2)
    assert np.array_equal(hdu.data.compute(scheduler="sync"), PIXELS)
    ranges = asked(server)
    assert len(ranges) == 10
    assert len(set(ranges)) == 8
    failed = {request.range for request in server.log if request.fault}
    again = [request.range for request in server.log if request.range in failed]
    assert len(again) == 2 + len(failed)
    records = [record for record in caplog.records if record.name == LOGGER]
    assert [record.levelname for record in records] == ["WARNING"] * 2
    assert all(f"{server.url}/image.fits: bytes " in record.message for record in records)
    assert any("attempt 2 of 6 in 0.0 s" in record.message for record in records)


def test_retry_after_is_honoured(server: RangeServer, caplog: pytest.LogCaptureFixture) -> None:
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=TransferConfig(backoff=0))[
        0
    ].reader()
    server.fail("status", status=429, headers={"Retry-After": "0.3"})
    started = time.monotonic()
    assert np.array_equal(reader[3], PIXELS[3])
    assert time.monotonic() - started >= 0.3
    assert "429 Too Many Requests; attempt 2 of 6 in 0.3 s" in caplog.text


def test_a_server_that_asks_for_too_much_patience_is_not_waited_for(server: RangeServer) -> None:
    transfer = TransferConfig(retry_time=5)
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader()
    server.clear()
    server.fail("status", status=503, headers={"Retry-After": "3600"})
    with pytest.raises(StorageError, match="503 Service Unavailable; given up after 1 attempt"):
        reader[3]
    assert server.requests == 1


def test_attempts_are_bounded_in_count(server: RangeServer) -> None:
    transfer = TransferConfig(attempts=4, backoff=0.001)
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader()
    server.clear()
    server.fail("status", status=500, count=None)
    with pytest.raises(StorageError, match=r"image\.fits: bytes 9024 to 11072: .*500.* 4 attempts"):
        reader[3]
    assert server.requests == 4


def test_attempts_are_bounded_in_time(server: RangeServer) -> None:
    transfer = TransferConfig(attempts=1000, backoff=0.1, max_backoff=0.1, retry_time=0.5)
    reader = dask_fits.open(f"{server.url}/image.fits", transfer=transfer)[0].reader()
    server.clear()
    server.fail("reset", count=None)
    with pytest.raises(StorageError, match="given up after"):
        reader[3]
    assert 3 <= server.requests <= 22  # aiohttp asks once more where a kept connection was reset


@pytest.mark.parametrize("status", [401, 403, 404, 416])
def test_a_refusal_is_not_asked_again(server: RangeServer, status: int) -> None:
    reader = dask_fits.open(f"{server.url}/image.fits")[0].reader()
    server.clear()
    server.fail("status", status=status, count=None)
    with pytest.raises(StorageError, match=str(status)):
        reader[3]
    assert server.requests == 1


def test_s3_is_asked_by_one_layer_of_retries(server: RangeServer) -> None:
    url = in_bucket(server)
    options = {"anon": True, "endpoint_url": server.url}
    transfer = TransferConfig(attempts=3, backoff=0.001)
    reader = dask_fits.open(url, storage_options=options, transfer=transfer)[0].reader()
    server.clear()
    server.fail("status", status=503, count=None)
    with pytest.raises(StorageError, match="503 Service Unavailable; given up after 3 attempts"):
        reader[3]
    assert server.requests == 3
    assert server.log[0].if_match


def test_retry_after_as_a_date_a_number_or_nonsense() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=90)
    assert 80 < retry_after(format_datetime(soon, usegmt=True)) <= 90
    assert retry_after("2.5") == 2.5
    for nothing in (None, "", "-3", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert retry_after(nothing) == 0


@given(st.integers(1, 50))
def test_delays_grow_and_are_bounded(attempt: int) -> None:
    delay = TransferConfig(backoff=0.5, max_backoff=20).delay(attempt)
    longest = min(0.5 * 2 ** (attempt - 1), 20)
    assert longest / 2 <= delay <= longest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("part_size", 0),
        ("part_size", 5000),
        ("max_concurrency", 0),
        ("attempts", 0),
        ("backoff", -1.0),
        ("max_backoff", -1.0),
        ("retry_time", float("nan")),
        ("timeout", 0.0),
    ],
)
def test_a_setting_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected .*, found {value}"):
        TransferConfig(**{name: value})


# Answers that need another way


def test_a_url_signed_for_get_is_opened_without_head(server: RangeServer) -> None:
    server.fail("status", status=403, method="HEAD", count=None)
    image = dask_fits.from_fits(f"{server.url}/image.fits?X-Signature=abc")
    assert np.array_equal(image.compute(), PIXELS)
    assert {(request.method, request.status) for request in server.log} == {("GET", 206)}


def test_a_whole_answer_is_cut_off(tmp_path: Path) -> None:
    with (tmp_path / "huge.fits").open("wb") as file:
        fits.PrimaryHDU(PIXELS).writeto(file)
        file.truncate(200 * 1024 * KIB)
    with RangeServer(tmp_path) as server:
        server.fail("no-range", count=None)
        reader = dask_fits.open(f"{server.url}/huge.fits")[0].reader()
        assert np.array_equal(reader[500:], PIXELS[500:])
    assert server.bytes < 20 * 1024 * KIB, "what the sockets hold is all that came for nothing"


def test_a_range_far_into_a_file_is_refused_where_ranges_are_ignored(tmp_path: Path) -> None:
    image = np.zeros((3 * 1024, 1024), np.float32)
    fits.PrimaryHDU(image).writeto(tmp_path / "a.fits")
    with RangeServer(tmp_path) as server:
        server.fail("no-range", count=None)
        data = dask_fits.from_fits(f"{server.url}/a.fits")
        assert not data[1000].compute().any()
        with pytest.raises(StorageError, match=r"a\.fits: the server ignores range requests"):
            data[3000].compute()


# Access and secrets


def test_s3_says_how_to_be_let_in(s3_server: S3Server) -> None:
    url = s3_server.put("private.fits", b"")
    wrong = {**s3_server.storage_options, "secret": "not-the-right-secret"}
    for options in (wrong, s3_server.anonymous_options):
        with pytest.raises(AccessDeniedError, match=r"\{'anon': True\}") as caught:
            dask_fits.open(url, storage_options=options)
        assert isinstance(caught.value, PermissionError)
        assert "not-the-right" not in str(caught.value)


def test_secrets_are_nowhere(
    server: RangeServer, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "dask_fits")
    url = in_bucket(server)
    options = {**SECRETS, "endpoint_url": server.url}
    transfer = TransferConfig(attempts=2, backoff=0.001)
    file = dask_fits.open(url, storage_options=options, transfer=transfer)
    image = file[0].data
    said = [repr(file), file._repr_html_(), repr(file[0]), repr(file[0].reader()), repr(image)]
    said += [image.name, str(dict(image.dask)), str(image.dask.layers), image._repr_html_()]
    said += [str(file[0].reader().__dask_tokenize__()), str(dask.base.tokenize(image))]
    for status in (403, 503, 500):
        server.fail("status", status=status, count=None)
        with pytest.raises(StorageError) as caught:
            image.compute(scheduler="sync")
        said += [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)]
        server.heal()
    web = f"{server.url.replace('//', '//user:SECRET-password@')}/image.fits?token=SECRET-query"
    file = dask_fits.open(web, transfer=transfer)
    said += [repr(file), repr(file[0].reader()), str(dict(file[0].data.dask)), file[0].data.name]
    server.fail("reset", count=None)
    with pytest.raises(StorageError) as caught:
        file[0].data.compute(scheduler="sync")
    said += [str(caught.value), *traceback.format_exception(caught.value), caplog.text]
    assert "attempt 2 of 2" in caplog.text
    for text in said:
        assert "SECRET" not in text, text
