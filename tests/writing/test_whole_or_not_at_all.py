"""A file is there whole, or as it was before, whatever fails; nothing else is left."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import Image, PixelValueError, StorageError
from dask_fits.storage import local_sink
from dask_fits.writing import graph
from tests.support.data import M13
from tests.support.fits_files import same_bits
from tests.support.patience import until
from tests.support.written_files import native, random_pixels, verified

PIXELS = random_pixels((12, 30), "i2")
OLD = b"what was there before"


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have small arrays be written by many tasks."""
    monkeypatch.setattr(graph, "_LEAST_RUN", 16)
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def array(values: np.ndarray = PIXELS) -> da.Array:
    return da.from_array(values, chunks=(3, 10))


@pytest.fixture(params=[False, True], ids=["absent", "old"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is not there, or one that is to be replaced."""
    path = tmp_path / "a.fits"
    if request.param:
        path.write_bytes(OLD)
    return path


def assert_untouched(path: Path) -> None:
    """Nothing has happened, and nothing is left."""
    there = [other.name for other in path.parent.iterdir()]
    assert there in ([], ["a.fits"])
    assert not there or path.read_bytes() == OLD
    assert dask_fits.abandoned(path) == []


def assert_in_order(path: Path, values: np.ndarray = PIXELS) -> None:
    (found,) = verified(path)
    assert same_bits(found, values)
    assert dask_fits.abandoned(path) == []
    assert [other.name for other in path.parent.iterdir() if other.suffix == ".part"] == []


# Replacing


def test_a_file_that_exists_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(OLD)
    computed = []
    watched = array().map_blocks(
        lambda block: computed.append(1) or block, dtype="i2", meta=np.zeros((0, 0), "i2")
    )
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        dask_fits.to_fits(watched, path)
    assert not computed, "no pixel is computed for nothing"
    later = dask_fits.to_fits(watched, path, compute=False)
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        later.compute()
    assert_untouched(path)
    dask_fits.to_fits(watched, path, overwrite=True)
    assert_in_order(path)


def test_the_old_file_is_there_until_the_new_one_is_whole(path: Path) -> None:
    existed = path.exists()

    def look(block: np.ndarray) -> np.ndarray:
        assert path.exists() == existed
        assert not existed or path.read_bytes() == OLD
        return block

    watched = array().map_blocks(look, dtype="i2", meta=np.zeros((0, 0), "i2"))
    dask_fits.to_fits(watched, path, overwrite=True)
    assert_in_order(path)


def test_a_file_that_is_read_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(M13.read_bytes())
    hdu = dask_fits.open(path)[0]
    expected = hdu.data.compute() * 2
    dask_fits.to_fits(hdu.to_dask(chunks=(50, 70)) * 2, path, header=hdu.header, overwrite=True)
    assert_in_order(path, expected)


def test_a_file_that_somebody_makes_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"

    def interfere(block: np.ndarray) -> np.ndarray:
        path.write_bytes(OLD)
        return block

    other = array().map_blocks(interfere, dtype="i2", meta=np.zeros((0, 0), "i2"))
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        dask_fits.to_fits(other, path)
    assert_untouched(path)
    path.unlink()
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        dask_fits.to_fits(other, path, compute=False).compute()
    assert_untouched(path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, kind: str, overwrite: bool) -> None:
    path = tmp_path / "a.fits"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(FileExistsError, match=r"a\.fits: exists and is no regular file"):
        dask_fits.to_fits(array(), path, overwrite=overwrite)
    assert [*tmp_path.iterdir()] == [path]
    assert not path.is_file()


@pytest.mark.parametrize("there", [False, True])
def test_a_link_is_followed_and_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "a.fits", tmp_path / "a.fits"
    link.symlink_to(target)
    if there:
        target.write_bytes(OLD)
        with pytest.raises(FileExistsError):
            dask_fits.to_fits(array(), link)
    dask_fits.to_fits(array(), link, overwrite=there)
    assert link.readlink() == target
    assert_in_order(target)
    assert sorted(os.listdir(tmp_path)) == ["a.fits", "elsewhere"]
    assert not target.is_symlink()


def test_rights(tmp_path: Path) -> None:
    new, kept = tmp_path / "new.fits", tmp_path / "kept.fits"
    kept.write_bytes(OLD)
    kept.chmod(0o604)
    before = os.umask(0o027)
    try:
        for path in (new, kept):
            dask_fits.to_fits(array(), path, overwrite=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert stat.S_IMODE(kept.stat().st_mode) == 0o604


# Names


@pytest.mark.parametrize(
    "name",
    ["x" * 250 + ".fits", "é" * 125 + ".fits", "a b%20c#?[1].fits", os.fsdecode(b"\xff\xe9.fits")],
    ids=["long", "long, of two bytes each", "odd", "no UTF-8"],
)
def test_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    dask_fits.to_fits(array(), path)
    assert [*tmp_path.iterdir()] == [path]
    assert same_bits(native(fits.getdata(path)), PIXELS)
    begun = local_sink.LocalSink(str(path), overwrite=True).begin(100)
    (left,) = dask_fits.abandoned(path)
    left.name.encode()  # it can be printed
    left.place.encode()
    assert Path(begun.place).exists()
    left.remove()
    assert [*tmp_path.iterdir()] == [path]
    left.remove()  # again: nothing is there


def test_only_what_is_left_of_a_file_is_listed(tmp_path: Path) -> None:
    names = ["a.fits", "b.fits", "a.fits.fits", ".a.fits", "a.fit"]
    for name in names:
        local_sink.LocalSink(str(tmp_path / name), overwrite=False).begin(10)
    for other in (".a.fits.part", ".a.fits.0123.part", ".a.fits.0123456789abcdef.part2"):
        (tmp_path / other).write_bytes(b"")
    before = {*os.listdir(tmp_path)}
    (left,) = dask_fits.abandoned(tmp_path / "a.fits")
    left.remove()
    assert before - {*os.listdir(tmp_path)} == {Path(left.place).name}
    assert left.started is not None
    assert left.name == str(tmp_path / "a.fits")


# Failures


def failing(error: BaseException, at: int) -> da.Array:
    """An array of which one chunk cannot be computed, when others have been written."""
    lock, calls = threading.Lock(), []

    def compute(block: np.ndarray) -> np.ndarray:
        with lock:
            calls.append(1)
            if len(calls) == at:
                raise error
        return block

    return array().map_blocks(compute, dtype="i2", meta=np.zeros((0, 0), "i2"))


@pytest.mark.parametrize("at", [1, 5, 12])
@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), MemoryError(), SystemExit(3)])
def test_a_task_that_fails(path: Path, error: BaseException, at: int) -> None:
    with pytest.raises(type(error)):
        dask_fits.to_fits(failing(error, at), path, overwrite=True)
    assert_untouched(path)


def test_a_pixel_that_cannot_be_written(path: Path) -> None:
    values = PIXELS.astype("f8")
    values[8, 22] = np.nan
    with pytest.raises(PixelValueError, match=r"pixel \[8, 22\] is nan"):
        dask_fits.to_fits([Image(array()), Image(array(values), dtype="i2")], path, overwrite=True)
    assert_untouched(path)


def test_an_interruption(path: Path) -> None:
    """Of this process by Ctrl-C, while its threads write."""
    main = threading.main_thread().ident
    begun = threading.Event()

    def slow(block: np.ndarray) -> np.ndarray:
        if not begun.is_set():
            begun.set()
            signal.pthread_kill(main, signal.SIGINT)
        return block

    interrupted = array().map_blocks(slow, dtype="i2", meta=np.zeros((0, 0), "i2"))
    with pytest.raises(KeyboardInterrupt):
        dask_fits.to_fits(interrupted, path, overwrite=True)
    assert_untouched(path)


def raising(number: int, times: int) -> Callable[..., Any]:
    """A system call that fails when it has succeeded so many times."""

    def make(call: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []

        def replaced(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > times:
                raise OSError(number, os.strerror(number))
            return call(*args, **options)

        return replaced

    return make


@pytest.mark.parametrize(
    ("call", "number", "times"),
    [
        ("pwrite", errno.ENOSPC, 0),
        ("pwrite", errno.ENOSPC, 7),
        ("pwrite", errno.EDQUOT, 3),
        ("pwrite", errno.EIO, 12),
        ("ftruncate", errno.EFBIG, 0),
        ("fsync", errno.ENOSPC, 0),
        ("fsync", errno.EIO, 0),
    ],
)
def test_a_disk_that_is_full_or_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, times: int
) -> None:
    monkeypatch.setattr(local_sink.os, call, raising(number, times)(getattr(os, call)))
    with pytest.raises(StorageError, match=rf"a\.fits: {os.strerror(number)} \(OSError\)"):
        dask_fits.to_fits(array(), path, overwrite=True)
    assert_untouched(path)


@pytest.mark.parametrize("at", [1, 2, 9])
def test_a_close_that_tells_of_a_full_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """As network filesystems do: the first is that of an empty file, those after are of tasks."""
    close, opened = os.close, os.open
    ours: list[int] = []

    def noting(place: Any, *args: Any, **options: Any) -> int:
        descriptor = opened(place, *args, **options)
        if str(place).endswith(".part"):
            ours.append(descriptor)
        return descriptor

    def failing_close(descriptor: int) -> None:
        close(descriptor)
        if descriptor in ours and len(ours) >= at:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(local_sink.os, "open", noting)
    monkeypatch.setattr(local_sink.os, "close", failing_close)
    with (
        dask.config.set(scheduler="sync"),
        pytest.raises(StorageError, match=r"a\.fits: Disk quota exceeded"),
    ):
        dask_fits.to_fits(array(), path, overwrite=True)
    monkeypatch.undo()
    assert_untouched(path)


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EACCES, PermissionError), (errno.EROFS, StorageError)]
)
def test_a_directory_in_which_nothing_may_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    monkeypatch.setattr(local_sink.os, "open", raising(number, 0)(os.open))
    with pytest.raises(error, match=r"a\.fits: "):
        dask_fits.to_fits(array(), path, overwrite=True)
    monkeypatch.undo()
    assert_untouched(path)


@pytest.mark.parametrize("kind", ["absent", "file"])
def test_a_directory_that_is_none(tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "directory"
    if kind == "file":
        directory.write_bytes(OLD)
    with pytest.raises(StorageError, match=r"a\.fits: there is no directory .*directory"):
        dask_fits.to_fits(array(), directory / "a.fits")
    assert [*tmp_path.iterdir()] == ([directory] if kind == "file" else [])


def test_a_failure_of_the_last_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(StorageError, match=r"a\.fits: I/O error"):
        dask_fits.to_fits(array(), path, overwrite=path.exists())
    assert_untouched(path)


def test_a_temporary_file_that_somebody_removes(path: Path) -> None:
    def remove(block: np.ndarray) -> np.ndarray:
        for left in dask_fits.abandoned(path):
            left.remove()
        return block

    swept = array().map_blocks(remove, dtype="i2", meta=np.zeros((0, 0), "i2"))
    with pytest.raises(StorageError, match=r"a\.fits: no such file"):
        dask_fits.to_fits(swept, path, overwrite=True)
    assert_untouched(path)


# Several at a time


def test_two_files_of_equal_arrays_in_one_computation(tmp_path: Path) -> None:
    later = [dask_fits.to_fits(array(), tmp_path / f"{n}.fits", compute=False) for n in range(2)]
    dask.compute(*later)
    for n in range(2):
        assert_in_order(tmp_path / f"{n}.fits")
    assert len([*tmp_path.iterdir()]) == 2


def test_a_delayed_that_is_computed_twice(path: Path) -> None:
    later = dask_fits.to_fits(array(), path, overwrite=True, compute=False)
    for _ in range(2):
        path.write_bytes(OLD)
        later.compute()
        assert_in_order(path)
    path.unlink()
    careful = dask_fits.to_fits(array(), path, compute=False)
    careful.compute()
    written = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        careful.compute()
    assert path.read_bytes() == written
    assert_in_order(path)


def test_a_delayed_that_fails_leaves_what_abandoned_lists(path: Path) -> None:
    later = dask_fits.to_fits(failing(ZeroDivisionError(), 5), path, overwrite=True, compute=False)
    with pytest.raises(ZeroDivisionError):
        later.compute(scheduler="sync")
    (left,) = dask_fits.abandoned(path)
    assert Path(left.place).suffix == ".part"
    left.remove()
    assert_untouched(path)


def test_a_delayed_beside_others(tmp_path: Path) -> None:
    """What is computed of the same array in the same computation is right."""
    given = array()
    later = dask_fits.to_fits(given, tmp_path / "a.fits", compute=False)
    _, total, values = dask.compute(later, given.sum(), given)
    assert total == PIXELS.sum()
    assert same_bits(values, PIXELS)
    assert_in_order(tmp_path / "a.fits")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists descriptors")
def test_no_descriptor_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask_fits.to_fits(array(), path, overwrite=True)  # whose threads stay
    before = open_descriptors()
    for _ in range(3):
        dask_fits.to_fits(array(), path, overwrite=True)
        with pytest.raises(PixelValueError):
            dask_fits.to_fits(array(np.full((12, 30), 0.5)), path, dtype="i2", overwrite=True)
    monkeypatch.setattr(local_sink.os, "fsync", raising(errno.EIO, 0)(os.fsync))
    for _ in range(3):
        with pytest.raises(StorageError):
            dask_fits.to_fits(array(), path, overwrite=True)
    until(lambda: open_descriptors() <= before)
