"""Whatever fails while a file is written: it is as it was before, and nothing else is left."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

import dask_fits
from dask_fits import Image, PixelValueError, StorageError
from dask_fits.storage import local_sink
from tests.support.written_files import (
    OLD,
    PIXELS,
    array,
    assert_untouched,
    failing,
    raising,
)

pytestmark = pytest.mark.usefixtures("short_runs", "two_threads")


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


def test_a_file_that_is_longer_than_the_system_allows(path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"a\.fits: File too large"):
            dask_fits.to_fits(array(), path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
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
