"""A file is read as it was opened, or not at all: on every kind of storage."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import (
    AccessDeniedError,
    FileChangedError,
    FitsFileNotFoundError,
    FitsFormatError,
    TransferConfig,
    UnversionedFileWarning,
)
from tests.servers.range_server import RangeServer
from tests.servers.s3 import VERSIONED, S3Server
from tests.servers.webdav import WebdavServer
from tests.support.fits_files import fits_bytes
from tests.support.places import KINDS, Place, place_of

OLD, NEW = np.random.default_rng(4).random((2, 3, 200, 300), dtype=np.float32)
QUICK = TransferConfig(attempts=2, backoff=0.01)


def file_of(image: np.ndarray) -> bytes:
    """A file of three images, none of whose headers share a read."""
    hdus = [fits.PrimaryHDU(image[0]), *(fits.ImageHDU(part) for part in image[1:])]
    return fits_bytes(*hdus)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request.param, tmp_path, request)


def test_a_replaced_file_raises_from_every_later_task(place: Place) -> None:
    arguments = place.arguments("night.fits", file_of(OLD))
    file = dask_fits.open(**arguments)
    image = file[0].to_dask(chunks=(50, -1))
    before = file[0].reader().store.version
    assert np.array_equal(image[:50].compute(), OLD[0, :50])

    place.put("night.fits", file_of(NEW))
    after = dask_fits.open(**arguments)[0].reader().store.version
    assert before.size == after.size
    assert before.value != after.value
    for rows in (slice(0, 50), slice(50, 100), slice(120, 121), slice(None)):
        with pytest.raises(FileChangedError, match=r"night\.fits: the file changed") as caught:
            image[rows].compute()
        assert f"found {after}" in str(caught.value)
        assert f"expected {before}" in str(caught.value)
    with pytest.raises(FileChangedError):
        file[2]
    assert np.array_equal(dask_fits.from_fits(**arguments).compute(), NEW[0])


def test_a_replaced_compressed_file_raises_from_every_later_task(place: Place) -> None:
    contents = []
    for image in (OLD, NEW):
        # As many tiles, of as many bytes: the stamp alone tells them apart.
        packed = fits.CompImageHDU(image[0], compression_type="NOCOMPRESS", quantize_level=0)
        buffer = BytesIO()
        packed.writeto(buffer)
        contents.append(buffer.getvalue())
    arguments = place.arguments("night.fits", contents[0])
    image = dask_fits.from_fits(**arguments, chunks=(50, -1))
    assert np.array_equal(image[:50].compute(), OLD[0, :50])
    place.put("night.fits", contents[1])
    for rows in (slice(0, 50), slice(50, 100), slice(None)):
        with pytest.raises(FileChangedError, match=r"night\.fits: the file changed"):
            image[rows].compute()
    assert np.array_equal(dask_fits.from_fits(**arguments).compute(), NEW[0])


def test_a_file_that_grew_or_shrank_raises(place: Place) -> None:
    for content in (file_of(OLD) + bytes(28800), file_of(OLD)[:100_000]):
        image = dask_fits.from_fits(**place.arguments("night.fits", file_of(OLD)), transfer=QUICK)
        place.put("night.fits", content)
        for rows in (slice(0, 2), slice(None)):
            with pytest.raises(FileChangedError, match=rf"found {len(content)} bytes"):
                image[rows].compute()


def test_the_name_of_the_array_is_of_the_version(place: Place) -> None:
    arguments = place.arguments("night.fits", file_of(OLD))
    names = [dask_fits.from_fits(**arguments).name for _ in range(2)]
    assert names[0] == names[1]
    place.put("night.fits", file_of(NEW))
    assert dask_fits.from_fits(**arguments).name != names[0]


@pytest.mark.untraced
def test_threads_read_what_the_file_holds(place: Place) -> None:
    reader = dask_fits.open(**place.arguments("many.fits", file_of(OLD)))[0].reader()
    random = np.random.default_rng(5)
    count = 100 if place.kind in ("local", "memory", "http") else 40  # of each thread
    corners = [(int(random.integers(190)), int(random.integers(290))) for _ in range(8 * count)]

    def read(corner: tuple[int, int]) -> bool:
        y, x = corner
        here = pickle.loads(pickle.dumps(reader))
        return np.array_equal(here[y : y + 10, x : x + 10], OLD[0, y : y + 10, x : x + 10])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, corners))


def test_a_version_that_is_pinned_is_read_after_it_was_replaced(s3_server: S3Server) -> None:
    url = s3_server.put("pinned.fits", file_of(OLD), bucket=VERSIONED)
    options = {**s3_server.storage_options, "version_aware": True}
    current = dask_fits.from_fits(url, storage_options=options)
    s3_server.put("pinned.fits", file_of(NEW), bucket=VERSIONED)
    assert np.array_equal(current.compute(), OLD[0])
    first, second = s3_server.versions("pinned.fits")
    for version, expected in ((first, OLD), (second, NEW)):
        image = dask_fits.from_fits(f"{url}?versionId={version}", storage_options=options)
        assert np.array_equal(image.compute(), expected[0])


@pytest.mark.parametrize("kind", ["local", "http"])
def test_a_file_that_vanished_is_missing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = place_of(kind, tmp_path, request)
    image = dask_fits.from_fits(**place.arguments("gone.fits", file_of(OLD)))
    (tmp_path / "gone.fits").unlink()
    with pytest.raises(FitsFileNotFoundError, match=r"gone\.fits: no such file"):
        image.compute()


@pytest.mark.parametrize(
    "place",
    [kind for kind in KINDS if kind != "gcs"],  # the emulator takes no empty object
    indirect=True,
)
def test_an_empty_file_is_said_to_be_empty(place: Place) -> None:
    with pytest.raises(FitsFormatError, match=r"none\.fits: HDU 0: the file is empty"):
        dask_fits.open(**place.arguments("none.fits", b""))


def test_a_file_that_is_not_there(place: Place) -> None:
    arguments = place.arguments("there.fits", b"there")
    arguments["url"] = arguments["url"].replace("there.fits", "nowhere.fits")
    with pytest.raises(FitsFileNotFoundError, match=r"nowhere\.fits: no such file"):
        dask_fits.open(**arguments)


def test_a_wrong_password_is_refused(webdav_server: WebdavServer) -> None:
    url = webdav_server.put("private.fits", file_of(OLD))
    options = {**webdav_server.storage_options, "auth": (webdav_server.user, "hunter2hunter2")}
    with pytest.raises(AccessDeniedError, match=r"private\.fits: access denied") as caught:
        dask_fits.open(url, storage_options=options)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def served(tmp_path: Path) -> Any:
    (tmp_path / "image.fits").write_bytes(file_of(OLD))
    with RangeServer(tmp_path) as server:
        yield server


def test_a_server_without_stamps_is_warned_of_and_the_length_still_counts(
    served: RangeServer, tmp_path: Path
) -> None:
    served.fail("no-stamp", count=None)
    url = f"{served.url}/image.fits"
    with pytest.warns(UnversionedFileWarning, match=rf"^{served.url} tells neither") as caught:
        image = dask_fits.from_fits(url)
    assert len(caught) == 1
    assert np.array_equal(image.compute(), OLD[0])
    for content in (file_of(OLD) + bytes(2880), file_of(OLD)[:10_000]):
        (tmp_path / "image.fits").write_bytes(content)
        with pytest.raises(FileChangedError, match=f"found {len(content)} bytes"):
            image[190:].compute()


@pytest.mark.filterwarnings("error")
def test_the_warning_can_be_silenced(served: RangeServer) -> None:
    served.fail("no-stamp", count=None)
    quiet = TransferConfig(warn_unversioned=False)
    image = dask_fits.from_fits(f"{served.url}/image.fits", transfer=quiet)
    assert np.array_equal(image.compute(), OLD[0])


def test_a_weak_etag_is_compared_with_that_of_the_answer(
    served: RangeServer, tmp_path: Path
) -> None:
    served.fail("weak-etag", count=None)
    url = f"{served.url}/image.fits"
    image = dask_fits.from_fits(url)
    assert np.array_equal(image.compute(), OLD[0])
    assert {request.if_match for request in served.log} == {None}
    (tmp_path / "image.fits").write_bytes(file_of(NEW))
    with pytest.raises(FileChangedError, match='W/"'):
        image.compute()


def test_a_server_that_ignores_conditions_is_found_out(served: RangeServer, tmp_path: Path) -> None:
    image = dask_fits.from_fits(f"{served.url}/image.fits")
    served.fail("ignore-if-match", count=None)
    (tmp_path / "image.fits").write_bytes(file_of(NEW))
    with pytest.raises(FileChangedError):
        image.compute()
