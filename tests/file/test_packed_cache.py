"""What a process keeps of packed files: bounded, shared by threads, and never wrong after what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import FileChangedError, FitsError, StorageError, TransferConfig
from dask_fits.concurrency.cancellation import CancelledError, CancelScope
from dask_fits.storage import packed as packed_module
from dask_fits.storage.unpacked import Unpacking
from tests.servers.files import replace_file
from tests.servers.range_server import RangeServer
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes
from tests.support.forks import in_child
from tests.support.memory import peak_below
from tests.support.packed_files import PACKERS, file_name, forget, gzipped, stream
from tests.support.patience import PATIENCE, until
from tests.support.recording import RecordingFileSystem, put

pytestmark = pytest.mark.untraced

MB = 1 << 20

PIXELS = np.random.default_rng(3).integers(-(2**15), 2**15, (300, 500)).astype("i2")

CONTENT = fits_bytes(fits.PrimaryHDU(PIXELS), fits.ImageHDU(PIXELS[::-1], name="SCI"))

PACKED = gzipped(CONTENT, 1)

LARGE = np.arange(16 * MB, dtype="i2").reshape(4096, 4096)
"""Of 32 MB."""


@pytest.fixture(scope="module")
def large() -> bytes:
    return gzipped(fits_bytes(fits.PrimaryHDU(LARGE), fits.ImageHDU(PIXELS)), 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image.fits.gz"
    write_at_rest(path, PACKED)
    return path


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process that knows no packed file; the name of a file for each pass through it."""
    forget(monkeypatch)
    begun: list[str] = []
    begin = packed_module.PackedStore._unpacking

    def noted(store: Any, first: bytes = b"") -> Any:
        begun.append(store.name)
        return begin(store, first)

    monkeypatch.setattr(packed_module.PackedStore, "_unpacking", noted)
    return begun


# Bounds


@pytest.mark.parametrize("limit", [1 * MB, 20 * MB])
def test_a_file_beyond_the_limit_is_read_in_pieces(
    limit: int, large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(monkeypatch, limit)
    path = tmp_path / "large.fits.gz"
    write_at_rest(path, large)
    # A window of packed bytes on the way to the second header, and a step of unpacked ones.
    with peak_below(limit + (32 + 16 + 4) * MB):
        file = dask_fits.open(path)
        section = file[0].section
        assert np.array_equal(section[4000:4010, 5:9], LARGE[4000:4010, 5:9])
        assert np.array_equal(file[1].section[...], PIXELS)
        assert np.array_equal(section[7], LARGE[7])
        assert len(file) == 2
    assert np.array_equal(section[...], LARGE)


def test_packed_files_beyond_a_size_are_not_kept(
    large: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = forget(monkeypatch)
    stream(monkeypatch)
    path = tmp_path / "large.fits.gz"
    write_at_rest(path, large)
    hdu = dask_fits.open(path)[0]
    with peak_below(30 * MB):
        assert np.array_equal(hdu.section[5], LARGE[5])
        assert np.array_equal(hdu.section[-1], LARGE[-1])
    held = sum(len(file.content) for file in files._files.values())
    assert held < 2 * MB


def test_files_give_way(tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    files = forget(monkeypatch, 24 * MB)  # room for one more is made in steps of 16 MB
    sections = []
    for number in range(40):
        path = tmp_path / f"{number}.fits.gz"
        write_at_rest(path, PACKED)
        sections.append(dask_fits.open(path)[0].section)
        assert np.array_equal(sections[-1][3], PIXELS[3])
        assert sum(file.reserved for file in files._files.values()) <= 24 * MB
    assert len(files._files) < 40
    passes.clear()
    assert np.array_equal(sections[-1][9], PIXELS[9])
    assert passes == [], "the last one is there still"
    for section in sections:
        assert np.array_equal(section[9], PIXELS[9])
    assert str(tmp_path / "0.fits.gz") in passes


# Threads


@pytest.mark.parametrize("kind", ["gzip", "bzip2 streams", "xz", "zip"])
def test_threads_unpack_a_file_once(
    kind: str, tmp_path: Path, passes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file_name(kind)
    write_at_rest(path, PACKERS[kind](CONTENT))
    file = dask_fits.open(path)
    readers = [file[0].reader(), file["SCI"].reader()]
    assert len(passes) == 1
    forget(monkeypatch)
    passes.clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: readers[n % 2][n], range(40)))
    assert all(
        np.array_equal(row, PIXELS[n if n % 2 == 0 else -1 - n]) for n, row in enumerate(found)
    )
    assert len(passes) == 1


def test_two_images_of_a_file_are_computed_together(path: Path, passes: list[str]) -> None:
    file = dask_fits.open(path)
    both = da.stack([file[0].to_dask(chunks=(50, 100)), file[1].to_dask(chunks=(50, 100))])
    assert np.array_equal(both.compute(scheduler="threads", num_workers=4)[1], PIXELS[::-1])
    assert len(passes) == 1


class Stopping:
    """The first pass that fetches bytes from here on waits until it is told to fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        fetch = Unpacking._fetch

        def stopped_fetch(unpacking: Unpacking) -> Iterator[memoryview]:
            if not self.reached.is_set():
                self.reached.set()
                assert self.go_on.wait(PATIENCE)
                raise error
            yield from fetch(unpacking)

        monkeypatch.setattr(Unpacking, "_fetch", stopped_fetch)


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Stopping]:
    return lambda error: Stopping(monkeypatch, error)


ENDS = [KeyboardInterrupt(), CancelledError(), StorageError("no connection"), MemoryError()]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_a_read_that_ends_early_leaves_right_pixels_to_others(
    error: BaseException,
    path: Path,
    stopping: Callable[[BaseException], Stopping],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread that has waited for the file meanwhile, and whoever comes later."""
    reader = dask_fits.open(path)[0].reader()
    forget(monkeypatch)
    stopped = stopping(error)
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(reader.__getitem__, slice(0, 5))
        assert stopped.reached.wait(PATIENCE)
        waiting = [pool.submit(reader.__getitem__, slice(5, 9)) for _ in range(2)]
        time.sleep(0.3)  # for the lock, which there is no way to look at
        stopped.go_on.set()
        with pytest.raises(type(error)):
            first.result(PATIENCE)
        for other in waiting:
            assert np.array_equal(other.result(PATIENCE), PIXELS[5:9])
    assert np.array_equal(reader[...], PIXELS)


def test_headers_after_a_read_that_ended_early(
    path: Path, stopping: Callable[[BaseException], Stopping], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of HDUs does not end where a pass of another thread did."""
    file = dask_fits.open(path)
    reader = file[0].reader()
    forget(monkeypatch)
    stopped = stopping(KeyboardInterrupt())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(reader.__getitem__, 3)
        assert stopped.reached.wait(PATIENCE)
        listing = pool.submit(len, file)
        time.sleep(0.3)
        stopped.go_on.set()
        with pytest.raises(KeyboardInterrupt):
            first.result(PATIENCE)
        assert listing.result(PATIENCE) == 2


def test_a_server_that_fails_fails_only_those_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread's request is refused; another one, which waited, asks for itself."""
    forget(monkeypatch)
    (tmp_path / "image.fits.gz").write_bytes(PACKED)
    once = TransferConfig(attempts=1)
    with RangeServer(tmp_path) as server:
        reader = dask_fits.open(f"{server.url}/image.fits.gz", transfer=once)[0].reader()
        server.fail("status", status=503)
        with ThreadPoolExecutor(2) as pool:
            with server.hold():
                first = pool.submit(reader.__getitem__, 1)
                until(lambda: server.waiting == 1)
                second = pool.submit(reader.__getitem__, 2)
                time.sleep(0.3)
            with pytest.raises(StorageError, match="503"):
                first.result(PATIENCE)
            assert np.array_equal(second.result(PATIENCE), PIXELS[2])


def test_a_wait_for_a_file_ends_when_nobody_wants_it(path: Path) -> None:
    reader = dask_fits.open(path)[0].reader()
    ended: list[BaseException] = []

    def read(scope: CancelScope) -> None:
        scope.enter()
        try:
            reader[3]
        except BaseException as error:  # noqa: BLE001 (whatever it is)
            ended.append(error)

    held = packed_module.FILES.get(reader.store)
    assert held is not None
    scope = CancelScope()
    with held.lock:
        thread = threading.Thread(target=read, args=(scope,))
        thread.start()
        scope.cancel()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert [type(error) for error in ended] == [CancelledError]
    assert np.array_equal(reader[3], PIXELS[3])


# Processes that are forked off


@pytest.mark.slow
@pytest.mark.parametrize("held", ["nothing", "the file", "the files"])
def test_a_forked_process_begins_anew(
    held: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a thread of its parent held at that moment, which does not exist in the child."""
    files = forget(monkeypatch)
    reader = dask_fits.open(path)[0].reader()
    (file,) = files._files.values()
    lock: Any = {"nothing": threading.Lock(), "the file": file.lock, "the files": files._lock}[held]
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(PATIENCE)

    def act() -> None:
        assert np.array_equal(reader[...], PIXELS)

    try:
        in_child(act, patience=5)
    finally:
        done.set()
        thread.join()
    assert np.array_equal(reader[...], PIXELS)


# Files that are replaced


def other_content(*, same_size: bool) -> bytes:
    """Another image, packed in as many bytes or in others."""
    packed = gzipped(fits_bytes(fits.PrimaryHDU(PIXELS[:, ::-1])), 1)
    if not same_size:
        return packed
    assert len(packed) < len(PACKED)
    return packed + bytes(len(PACKED) - len(packed))


@pytest.mark.parametrize("same_size", [True, False])
@pytest.mark.parametrize("read_before", [True, False])
@pytest.mark.parametrize("road", ["kept", "streamed"])
def test_a_file_that_is_replaced(
    road: str,
    read_before: bool,
    same_size: bool,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget(monkeypatch)
    if road == "streamed":
        stream(monkeypatch)
    hdu = dask_fits.open(path)[0]
    array = hdu.data
    if read_before:
        assert np.array_equal(hdu.section[3], PIXELS[3])
    replace_file(path, other_content(same_size=same_size))
    for read in (lambda: hdu.section[3], lambda: array.compute(scheduler="threads")):
        with pytest.raises(FileChangedError, match=r"image\.fits\.gz"):
            read()
    assert np.array_equal(dask_fits.open(path)[0].section[...], PIXELS[:, ::-1])
    with pytest.raises(FileChangedError, match=r"image\.fits\.gz"):
        hdu.section[3]


def test_a_file_that_is_gone(path: Path) -> None:
    hdu = dask_fits.open(path)[0]
    assert np.array_equal(hdu.section[3], PIXELS[3])
    path.unlink()
    with pytest.raises(FitsError, match=r"image\.fits\.gz"):
        hdu.section[3]


def test_a_file_without_a_version_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would tell that it was replaced."""
    forget(monkeypatch)
    url = put("unversioned.fits.gz", PACKED)
    section = dask_fits.open(url, transfer=TransferConfig(check_version=False))[0].section
    for row in range(3):
        RecordingFileSystem.log.clear()
        assert np.array_equal(section[row], PIXELS[row])
        assert RecordingFileSystem.nbytes() == len(PACKED)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No lock of a file stays taken."""
    yield
    assert not any(file.lock.locked() for file in packed_module.FILES._files.values())
