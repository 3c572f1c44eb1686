"""Files that are not to be replaced, that cannot be written, and what was left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zipfile import ZipFile

import dask.array as da
import fsspec
import numpy as np
import pytest

import dask_fits
from dask_fits import AccessDeniedError, FitsFileNotFoundError, StorageError, TransferConfig
from dask_fits.storage.sinks import sink_of
from tests.servers.s3 import PUBLIC
from tests.support.patience import until
from tests.support.remote_targets import (
    PARTS,
    GcsTarget,
    MemoryTarget,
    S3Target,
    Target,
    WebdavTarget,
    check_content,
    write,
)

SHORT = np.arange(60_000, dtype=np.int16).reshape(200, 300)
OTHERS = b"of somebody else" * 1000

every_store = pytest.mark.parametrize("target", ["s3", "gcs", "webdav", "memory"], indirect=True)
with_proxy = pytest.mark.parametrize("target", ["s3", "gcs", "webdav"], indirect=True)
both_lengths = pytest.mark.parametrize("is_short", [False, True], ids=["parts", "short"])


def array_for(target: Any, is_short: bool) -> Any:
    return SHORT if is_short else target.lazy


@every_store
@both_lengths
def test_a_file_that_exists_is_not_replaced(target: Any, is_short: bool) -> None:
    target.put(OTHERS)
    with pytest.raises(FileExistsError, match=r"written/\d+\.fits: the file exists"):
        write(target, array_for(target, is_short))
    assert target.content() == OTHERS
    assert target.left() == []
    if not isinstance(target, MemoryTarget):
        assert {one.method for one in target.proxy.log} <= {"HEAD", "GET", "PROPFIND"}
        assert not any(one.nbytes > 1000 for one in target.proxy.log)


@with_proxy
@both_lengths
def test_a_file_that_comes_into_being_meanwhile_is_not_replaced(
    target: Any, is_short: bool
) -> None:
    match = target.sends if is_short else target.completes
    target.proxy.fail("act", match, action=lambda: target.put(OTHERS))
    with pytest.raises(FileExistsError, match=r"written/\d+\.fits: the file exists"):
        write(target, array_for(target, is_short))
    assert target.content() == OTHERS
    assert target.left() == []


@both_lengths
def test_a_file_that_comes_while_pixels_are_computed(memory: MemoryTarget, is_short: bool) -> None:
    def compute(block: np.ndarray) -> np.ndarray:
        memory.put(OTHERS)
        return block

    array = da.from_array(np.asarray(array_for(memory, is_short)))
    with pytest.raises(FileExistsError, match=r"written/\d+\.fits: the file exists"):
        write(memory, array.map_blocks(compute, meta=array._meta))
    assert memory.content() == OTHERS
    assert memory.left() == []


@with_proxy
def test_a_file_that_is_to_be_replaced_may_come_meanwhile(target: Any) -> None:
    target.proxy.fail("act", target.completes, action=lambda: target.put(OTHERS))
    write(target, target.lazy, overwrite=True)
    check_content(target, target.pixels)


@with_proxy
@both_lengths
def test_one_of_two_writers_wins(target: Any, is_short: bool) -> None:
    both = threading.Barrier(2)
    match = target.sends if is_short else target.completes
    array = array_for(target, is_short)
    target.proxy.fail("act", match, count=2, action=lambda: both.wait(20))

    def attempt(sign: int) -> int:
        try:
            write(target, array * sign)
        except FileExistsError:
            return 0
        return sign

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, (1, -1)))
    assert sorted(map(abs, outcomes)) == [0, 1]
    check_content(target, np.asarray(array) * sum(outcomes))
    assert target.left() == []


@both_lengths
def test_a_conflict_with_another_writer(s3: S3Target, is_short: bool) -> None:
    """S3 answers 409 to one of two requests that meet, and then the upload is lost."""
    match = s3.sends if is_short else s3.completes
    s3.proxy.fail("status", match, status=409, code="ConditionalRequestConflict")
    if is_short:
        write(s3, SHORT)
        check_content(s3, SHORT)
        return
    with pytest.raises(StorageError, match=r"written/\d+\.fits: another request .* write it again"):
        write(s3, s3.lazy)
    assert (s3.content(), s3.left()) == (None, [])
    s3.proxy.fail("act", r"^POST [^?]*\?uploads$", action=lambda: s3.put(OTHERS))
    s3.proxy.fail("status", match, status=409, code="ConditionalRequestConflict")
    with pytest.raises(FileExistsError):
        write(s3, s3.lazy)
    assert (s3.content(), s3.left()) == (OTHERS, [])


def test_an_upload_that_somebody_aborted(s3: S3Target) -> None:
    def abort() -> None:
        for place in s3.left():
            s3.client.abort_multipart_upload(Bucket=s3.bucket, Key=s3.key, UploadId=place)

    # moto has a fault of its own (500) where S3 answers so.
    s3.proxy.fail("status", s3.completes, status=404, code="NoSuchUpload", action=abort)
    with pytest.raises(StorageError, match=r"written/\d+\.fits: the upload is gone .*aborted"):
        write(s3, s3.lazy)
    assert (s3.content(), s3.left()) == (None, [])
    s3.proxy.fail("status", "partNumber=2", status=404, code="NoSuchUpload")
    with pytest.raises(StorageError, match=r"fits: the upload is gone .*aborted"):
        write(s3, s3.lazy)
    assert (s3.content(), s3.left()) == (None, [])


def test_temporary_objects_that_somebody_removed(gcs: GcsTarget) -> None:
    def remove() -> None:
        for upload in dask_fits.abandoned(gcs.url, storage_options=gcs.options):
            upload.remove()

    gcs.proxy.fail("act", r"^POST /upload/", first=2, action=remove)
    with pytest.raises(StorageError, match=r"fits: the upload is gone .*aborted"):
        write(gcs, gcs.lazy)
    assert (gcs.content(), gcs.left()) == (None, [])
    gcs.proxy.fail("act", gcs.completes, action=remove)
    with pytest.raises(StorageError, match=r"written/\d+\.fits: the upload is gone .*aborted"):
        write(gcs, gcs.lazy)
    assert (gcs.content(), gcs.left()) == (None, [])


@both_lengths
def test_a_bucket_that_is_missing(s3: S3Target, gcs: GcsTarget, is_short: bool) -> None:
    for url, target in (("s3://no-such-bucket/a.fits", s3), ("gs://no-such-bucket/a.fits", gcs)):
        with pytest.raises(FitsFileNotFoundError, match=url):
            dask_fits.to_fits(
                array_for(target, is_short), url, storage_options=target.options, transfer=PARTS
            )
        with pytest.raises(FitsFileNotFoundError, match=url):
            dask_fits.abandoned(url, storage_options=target.options)


@both_lengths
def test_credentials_that_do_not_suffice(s3: S3Target, is_short: bool) -> None:
    wrong = {**s3.options, "secret": "wrong-secret"}
    anonymous = {**s3.server.anonymous_options, "endpoint_url": s3.proxy.url}
    for options, bucket in ((wrong, s3.bucket), (anonymous, s3.bucket), (anonymous, PUBLIC)):
        url = f"s3://{bucket}/{s3.key}"
        with pytest.raises(AccessDeniedError, match=f"{url}: access denied") as caught:
            dask_fits.to_fits(array_for(s3, is_short), url, storage_options=options, transfer=PARTS)
        assert "wrong-secret" not in str(caught.value)
    assert (s3.content(), s3.left()) == (None, [])


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
@both_lengths
def test_a_user_who_may_write_and_not_read(target: Any, is_short: bool) -> None:
    look = r"^(HEAD|GET) [^?]*/\w*(%2F)?\d+\.fits\?"
    target.proxy.fail("status", look, status=403, count=None)
    array = array_for(target, is_short)
    write(target, array)
    check_content(target, np.asarray(array))
    assert target.proxy.asked(look)
    with pytest.raises(FileExistsError):
        write(target, array)
    assert target.left() == []


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("http://127.0.0.1:9/a.fits", StorageError, "web servers take no files"),
        ("https://example.org/a.fits", StorageError, "web servers take no files"),
        ("memory://a.zip::m.fits", ValueError, "not written into archives"),
        ("zip://m.fits::memory://a.zip", ValueError, "not written"),
        ("simplecache::memory://a.fits", StorageError, "simplecache:: "),
        ("blockcache::memory://a.fits", StorageError, "blockcache:: "),
    ],
)
def test_places_that_take_no_files(url: str, error: type[Exception], message: str) -> None:
    memory = fsspec.filesystem("memory")
    with memory.open("/a.zip", "wb") as file, ZipFile(file, "w") as archive:
        archive.writestr("n.fits", b"")
    before = dict(memory.store)
    with pytest.raises(error, match=message):
        dask_fits.to_fits(SHORT, url)
    assert memory.store == before


def abandon(target: Target) -> None:
    """Begin a file by a Delayed that fails."""
    before = target.second_parts()

    def fail(block: np.ndarray) -> np.ndarray:
        until(lambda: target.second_parts() > before)
        raise ZeroDivisionError

    broken = da.zeros((10, 10), chunks=10).map_blocks(fail, meta=np.empty((0, 0)))
    images = [dask_fits.Image(one) for one in (target.lazy, target.lazy, broken)]
    delayed = write(target, images, compute=False)
    with pytest.raises(ZeroDivisionError):
        delayed.compute(scheduler="threads", num_workers=4)


def test_uploads_that_were_left(s3: S3Target) -> None:
    abandon(s3)
    (left,) = s3.left()
    ours = s3.client.list_parts(Bucket=s3.bucket, Key=s3.key, UploadId=left)["Parts"]
    begin: Callable[..., Any] = s3.client.create_multipart_upload
    part = {"Bucket": s3.bucket, "PartNumber": 1, "Body": b"x" * ours[0]["Size"]}
    places = []
    for key, has_part in ((s3.key, True), (s3.key, False), (s3.key + ".gz", True)):
        places.append(begin(Bucket=s3.bucket, Key=key)["UploadId"])
        if has_part:
            s3.client.upload_part(**part, Key=key, UploadId=places[-1])
    (found,) = dask_fits.abandoned(s3.url, storage_options=s3.options)
    assert (found.name, found.place) == (s3.url, left)
    assert found.started == datetime(2010, 11, 10, 20, 48, 33, tzinfo=UTC)  # moto's only time
    assert found.started.tzinfo is UTC
    found.remove()
    found.remove()  # nothing is raised
    assert sorted(s3.left()) == sorted(places[:2])
    assert dask_fits.abandoned(s3.url, storage_options=s3.options) == []


@pytest.mark.parametrize("target", ["gcs", "webdav", "memory"], indirect=True)
def test_temporary_objects_and_files_that_were_left(target: Any) -> None:
    abandon(target)
    abandon(target)
    neighbour = type(target)(
        *(() if isinstance(target, MemoryTarget) else (target.server, target.proxy))
    )
    abandon(neighbour)
    assert target.left()
    kept = neighbour.left()
    found = dask_fits.abandoned(target.url, storage_options=target.options)
    assert len({one.place for one in found}) == len(found) == 2
    assert {one.name for one in found} == {target.url}
    if isinstance(target, GcsTarget):
        now = datetime.now(UTC)
        assert all(abs(now - one.started) < timedelta(minutes=5) for one in found)
    for one in found:
        one.remove()
        one.remove()  # nothing is raised
    assert target.left() == []
    assert neighbour.left() == kept != []
    assert dask_fits.abandoned(target.url, storage_options=target.options) == []
    write(target, target.lazy)
    check_content(target, target.pixels)


@every_store
def test_a_delayed_writes_whenever_it_is_computed(target: Target) -> None:
    delayed = write(target, target.lazy, compute=False, overwrite=True)
    assert (target.content(), target.left()) == (None, [])
    for _ in range(2):
        delayed.compute()
        check_content(target, target.pixels)
        assert target.left() == []


def test_secrets_are_shown_nowhere(s3: S3Target, webdav: WebdavTarget) -> None:
    secret = s3.server.secret
    made = sink_of(s3.url, s3.options, TransferConfig(), overwrite=False)
    delayed = write(s3, s3.lazy, compute=False)
    abandon(s3)
    found = dask_fits.abandoned(s3.url, storage_options=s3.options)
    assert s3.url in repr(made)
    texts = [repr(one) for one in (made, delayed, delayed.dask, found)]
    password = webdav.server.password
    url = f"ftp://me:{password}@127.0.0.1/a.fits"
    texts.append(repr(dask_fits.storage.remote_sink.RemoteSink(url, {}, None, PARTS, False, 1, 1)))
    s3.proxy.fail("status", "^POST", status=400, code="Strange")
    with pytest.raises(StorageError) as caught:
        write(s3, s3.lazy)
    texts += [repr(caught.value), str(caught.value)]
    assert not any(secret in text or password in text for text in texts)
    found[0].remove()


@pytest.mark.parametrize("target", ["s3", "gcs"], indirect=True)
def test_tasks_that_run_again_after_the_commit(target: Any) -> None:
    """Of a Delayed, the worker that commits may be lost before it can tell, and its results."""
    content = np.random.default_rng(5).bytes(2 * target.part + 2880)
    sink = sink_of(
        target.url, target.options, replace(PARTS, part_size=target.part), overwrite=False
    )
    attempt = sink.begin(len(content))
    starts = range(0, len(content), attempt.part_size or 1)

    def run() -> None:
        pieces = [(start, memoryview(content)[start : start + starts.step]) for start in starts]
        receipts = sink.write(attempt, pieces[1:]) + sink.write(attempt, pieces[:1])
        assert sorted(receipt.start for receipt in receipts) == [*starts]
        sink.commit(attempt, receipts)

    run()
    if isinstance(target, S3Target):
        # moto has a fault of its own (500) where S3 answers so.
        target.proxy.fail("status", "partNumber=", count=None, status=404, code="NoSuchUpload")
    run()
    assert (target.content(), target.left()) == (content, [])
    other = replace(attempt, token="0" * 16)
    with pytest.raises(StorageError, match="the upload is gone"):
        sink.write(other, [(starts.step, memoryview(content)[: starts.step])])
    assert (target.content(), target.left()) == (content, [])
