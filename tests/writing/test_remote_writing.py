"""Files that are written to stores: what is there afterwards, and by which requests it came."""

from __future__ import annotations

import io
import re
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

import dask_fits
from dask_fits import Image, TransferConfig
from dask_fits.storage.remote_sink import RemoteSink
from tests.servers.s3 import VERSIONED
from tests.support.remote_targets import (
    MIB,
    PART,
    PARTS,
    GcsTarget,
    S3Target,
    Target,
    WebdavTarget,
    check_content,
    write,
)

PIXELS = np.random.default_rng(11).random((2900, 1000), dtype=np.float32)
"""11.06 MiB: two parts of 5 MiB, and a short one."""

LAZY = da.from_array(PIXELS, chunks=(1000, 600), name=False)
SHORT = np.arange(60_000, dtype=np.int16).reshape(200, 300)
STORES = ["s3", "gcs", "webdav", "memory"]
every_store = pytest.mark.parametrize("target", STORES, indirect=True)


def requests(target: S3Target | GcsTarget | WebdavTarget) -> list[tuple[str, int]]:
    """Method and query of each request, ids left out, and the length of its body."""
    return [
        (re.sub(r"uploadId=[^&]*", "uploadId", f"{one.method} {one.query}").strip(), one.nbytes)
        for one in target.proxy.log
    ]


@every_store
def test_a_file_of_several_parts(target: Target) -> None:
    write(target, LAZY, header=fits.Header({"OBJECT": "M 31"}))
    content = check_content(target, PIXELS)
    assert fits.getheader(io.BytesIO(content))["OBJECT"] == "M 31"
    hdu = dask_fits.open(target.url, storage_options=target.options)[0]
    assert np.array_equal(hdu.data.compute(), PIXELS)
    assert target.left() == []


@every_store
def test_a_short_file(target: Target) -> None:
    write(target, SHORT)
    check_content(target, SHORT)
    write(target, SHORT[:100], overwrite=True)
    check_content(target, SHORT[:100])
    assert target.left() == []


@every_store
def test_an_array_of_numpy_replaces_a_file(target: Target) -> None:
    target.put(b"of before" * 1000)
    write(target, PIXELS, overwrite=True)
    check_content(target, PIXELS)
    assert target.left() == []


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
def test_headers_in_the_middle_of_parts_and_across_their_borders(target: Target) -> None:
    # The border of the first part is within the block of 2880 bytes from 5241600 on.
    across = np.arange(1818 * 720, dtype=np.float32).reshape(1818, 720)
    images = [across, SHORT, PIXELS[:1500], PIXELS[:7, 1:].astype(np.float64)]
    lazy = [da.from_array(image, chunks=(400, 300), name=False) for image in images]
    write(target, [Image(None), *(Image(one, name=f"N{n}") for n, one in enumerate(lazy))])
    content = check_content(target, None, *images)
    starts = [at for at in range(0, len(content), 2880) if content[at:].startswith(b"XTENSION")]
    assert starts[0] // PART == 0 == (starts[0] + 2880) // PART
    assert starts[1] // PART == 0 < (starts[1] + 2880) // PART
    assert starts[2] // PART == 1 == (starts[2] + 2880) // PART
    assert starts[3] // PART == 2


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
def test_parts_that_are_joined_from_many_small_blocks(target: Target) -> None:
    array = da.from_array(PIXELS, chunks=(100, 90), name=False)
    # What is held to join blocks is then a band of 0.5 MiB, a tenth of a part.
    with dask.config.set({"array.chunk-size": "64KiB"}):
        write(target, array)
    check_content(target, PIXELS)


@pytest.mark.parametrize("overwrite", [False, True])
def test_requests_to_s3(s3: S3Target, overwrite: bool) -> None:
    write(s3, LAZY, overwrite=overwrite)
    content = check_content(s3, PIXELS)
    last = len(content) - 2 * PART
    found = requests(s3)
    if not overwrite:
        assert found.pop(0) == ("HEAD", 0)
    assert found[0] == ("POST uploads", 0)
    assert found[1][0] == "PUT uploadId&partNumber=1"  # the mark
    parts = [(f"PUT uploadId&partNumber={n}", length) for n, length in ((2, PART), (3, last))]
    assert sorted(found[2:4]) == parts
    assert found[4] == ("PUT uploadId&partNumber=1", PART)
    assert found[5][0] == "POST uploadId"
    assert len(found) == 6  # three parts, and three more


def test_requests_of_short_files(s3: S3Target, gcs: GcsTarget) -> None:
    for target, look in ((s3, "HEAD"), (gcs, "GET")):
        write(target, SHORT)
        write(target, SHORT, overwrite=True)
        methods = [one.method for one in target.proxy.log]
        sends = "PUT" if target is s3 else "POST"
        assert methods == [look, sends, sends]
    first, second = gcs.proxy.asked("^POST")
    assert first.query == "uploadType=multipart&ifGenerationMatch=0"
    assert second.query == "uploadType=multipart"


def test_all_parts_but_the_last_are_equally_long(s3: S3Target) -> None:
    write(s3, [Image(PIXELS), Image(PIXELS[:2000])], transfer=TransferConfig(part_size=6 * MIB))
    content = check_content(s3, PIXELS, PIXELS[:2000])
    puts = [one for one in s3.proxy.asked("^PUT") if one.nbytes > 1000]
    parts = sorted((int(one.query.rpartition("=")[2]), one.nbytes) for one in puts)
    assert parts == [(1, 6 * MIB), (2, 6 * MIB), (3, 6 * MIB), (4, len(content) - 18 * MIB)]


def test_more_parts_than_one_request_composes(gcs: GcsTarget) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (34, MIB), np.uint8)
    array = da.from_array(pixels, chunks=(9, MIB), name=False)
    write(gcs, array, transfer=TransferConfig(part_size=MIB, attempts=3, backoff=0.01))
    check_content(gcs, pixels)
    composed = gcs.proxy.asked("/compose")
    assert ["ifGenerationMatch=0" in one.query for one in composed] == [False, False, True]
    assert gcs.left() == []


def test_what_is_told_of_an_object(s3: S3Target, gcs: GcsTarget) -> None:
    for array in (SHORT, LAZY):
        write(s3, array, overwrite=True)
        write(gcs, array, overwrite=True)
        found = s3.client.head_object(Bucket=s3.bucket, Key=s3.key)
        assert found["ContentType"] == gcs.description()["contentType"] == "application/fits"
    assert "md5Hash" not in gcs.description()


def test_a_bucket_that_keeps_versions(s3: S3Target) -> None:
    target = S3Target(s3.server, s3.proxy, VERSIONED)
    write(target, LAZY)
    with pytest.raises(FileExistsError):
        write(target, SHORT)
    write(target, SHORT, overwrite=True)
    check_content(target, SHORT)
    assert len(target.server.versions(target.key)) == 2
    target.client.delete_object(Bucket=VERSIONED, Key=target.key)
    write(target, LAZY)  # a mark of deletion is no object
    check_content(target, PIXELS)
    assert target.left() == []


@given(st.integers(1, 48 << 40), st.integers(1, 1 << 20).map(lambda n: n * 4096))
def test_sizes_of_parts(size: int, wished: int) -> None:
    found = sink(wished).part_size(size)
    assert found >= max(wished, 5 * MIB)
    assert -(-size // found) <= 10_000
    assert found <= max(5 << 30, wished + MIB)
    assert found % MIB == 0


def sink(part_size: int) -> RemoteSink:
    """A sink of S3, whose parts have 5 MiB to 5 GiB, and numbers up to 10,000."""
    transfer: Any = TransferConfig(part_size=part_size)
    return RemoteSink("s3://b/k", {}, None, transfer, False, 5 * MIB, 10_000)


def test_parts_are_as_long_as_s3_demands(s3: S3Target) -> None:
    found = dask_fits.storage.sinks.sink_of(s3.url, s3.options, TransferConfig(), overwrite=False)
    assert (found.smallest_part, found.most_parts) == (5 * MIB, 10_000)
    assert found.part_size(1) == PARTS.part_size + 3 * MIB == 8 * MIB
