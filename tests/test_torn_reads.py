"""A local file that is rewritten while it is read is noticed, at no cost for files at rest."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits.exceptions import FileChangedError
from dask_fits.file import header_reader
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from dask_fits.storage import local
from tests.fits_files import fits_bytes

NOW = 1_700_000_000_000_000_000
"""Nanoseconds; the time that tests with a clock of their own begin at."""

MS = 1_000_000


class Clock:
    """The clock of a process, which notes the calls of the system for a file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.calls: list[str] = []
        self.slept: list[float] = []
        monkeypatch.setattr(local.time, "time_ns", lambda: self.now)
        monkeypatch.setattr(local.time, "sleep", self._sleep)
        for name in ("stat", "fstat", "lseek", "preadv"):
            self._note(monkeypatch, name)

    def _sleep(self, seconds: float) -> None:
        self.calls.append("sleep")
        self.slept.append(seconds)
        self.now += round(seconds * 1e9)

    def _note(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(os, name)

        def noted(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(local.os, name, noted)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "night.fits"
    fits.PrimaryHDU(np.full((100, 100), 7, "f4")).writeto(path)
    return path


@pytest.fixture
def clock(path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def opened(path: Path, modified: int) -> Any:
    os.utime(path, ns=(modified, modified))
    return dask_fits.open(path)[0].section


@pytest.mark.parametrize("age", [61_000 * MS, 3600 * 1000 * MS, 10**9 * 10**9])
def test_a_file_at_rest_costs_nothing(path: Path, clock: Clock, age: int) -> None:
    section = opened(path, NOW - age)
    clock.calls.clear()
    assert section[3, 4] == 7
    assert clock.calls == ["fstat", "preadv", "fstat"]
    assert clock.slept == []


@pytest.mark.parametrize("ahead", [1 * MS, 20 * MS, 3600 * 1000 * MS])
def test_a_modification_time_in_the_future_is_not_waited_for(
    path: Path, clock: Clock, ahead: int
) -> None:
    os.utime(path, ns=(1, 1))
    clock.now = path.stat().st_ctime_ns + 10 * MS  # whoever sets the time sets it now
    section = opened(path, clock.now + ahead)
    clock.now = max(clock.now, path.stat().st_ctime_ns)
    assert section[3, 4] == 7
    assert clock.slept == []


@pytest.mark.parametrize("age", [0, 1 * MS, 5 * MS, 19 * MS])
def test_a_file_modified_just_now_is_waited_for_once_when_it_is_opened(
    path: Path, clock: Clock, age: int
) -> None:
    section = opened(path, NOW - age)
    assert clock.slept == [pytest.approx(0.020 - age / 1e9)]
    assert clock.now - (NOW - age) >= 20 * MS, "longer than the steps of any clock of Linux"
    # Before the first byte is read.
    assert clock.calls.index("sleep") < clock.calls.index("preadv")
    for _ in range(3):
        assert section[3, 4] == 7
    assert len(clock.slept) == 1


@pytest.mark.parametrize("age", [20 * MS, 1000 * MS, 59_000 * MS])
def test_a_write_under_way_is_waited_for(path: Path, clock: Clock, age: int) -> None:
    section = opened(path, NOW - age)
    assert clock.slept == []
    clock.calls.clear()
    assert section[3, 4] == 7
    assert clock.calls == ["fstat", "lseek", "preadv", "fstat"]


@pytest.mark.parametrize(
    ("modified", "changed", "delay"),
    [
        (-30 * MS, -30 * MS, 0),
        (-5 * MS, -5 * MS, 15 * MS),
        (0, 0, 20 * MS),
        (500 * MS, 500 * MS, 20 * MS),  # of a server whose clock is ahead
        (500 * MS, -5 * MS, 0),  # set by hand
        (-(10**9) * 10**9, 0, 0),  # a copy that keeps the time
    ],
)
def test_how_long_a_stamp_is_too_young(modified: int, changed: int, delay: int) -> None:
    found = SimpleNamespace(st_mtime_ns=NOW + modified, st_ctime_ns=NOW + changed)
    assert local._settling_time(found, NOW) == delay  # type: ignore[arg-type]


def test_a_filesystem_that_cannot_look_for_data_is_read(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(local.os, "lseek", refuse)
    assert opened(path, NOW - 1000 * MS)[3, 4] == 7
    monkeypatch.delattr(local.os, "SEEK_DATA")
    assert opened(path, NOW - 1000 * MS)[3, 4] == 7


def rewriting(path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Have the file rewritten before a read of it, by its number."""
    real, count = os.preadv, iter(range(10**6))

    def preadv(*args: Any) -> int:
        if next(count) == at:
            with path.open("r+b") as file:
                file.seek(2880)
                file.write(b"\x41" * 1000)
        return real(*args)

    monkeypatch.setattr(local.os, "preadv", preadv)


def test_a_file_rewritten_while_it_is_opened_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewriting(path, monkeypatch, 0)
    with pytest.raises(FileChangedError, match=r"night\.fits: the file changed"):
        dask_fits.open(path)


def test_a_file_written_a_moment_ago_and_again_while_it_is_read_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with path.open("r+b") as file:
        file.seek(2880)
        file.write(b"\x40" * 1000)
    image = dask_fits.open(path)[0]
    rewriting(path, monkeypatch, 0)
    with pytest.raises(FileChangedError, match=r"night\.fits: the file changed"):
        image.data.compute(scheduler="sync")


def test_rows_of_a_file_that_changed_while_they_were_read_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RowCache(10**6)
    monkeypatch.setattr(header_reader, "MAX_TILE_TABLE", 0)
    monkeypatch.setattr(tiled, "ROWS", rows)
    packed = fits.CompImageHDU(np.arange(6400, dtype="i2").reshape(80, 80))
    packed.writeto(tmp_path / "packed.fits")
    reader = dask_fits.open(tmp_path / "packed.fits")[1].reader()
    rewriting(tmp_path / "packed.fits", monkeypatch, 0)
    with pytest.raises(FileChangedError):
        reader[0, 0]
    assert len(rows._contents) == 0
    monkeypatch.undo()


def test_no_read_is_torn_by_a_file_that_is_rewritten_all_the_time(tmp_path: Path) -> None:
    """Each state of the file has one value: an array with two of them is of two states."""
    path, side = tmp_path / "busy.fits", 1500
    fits.PrimaryHDU(np.zeros((side, side), "f4")).writeto(path)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            content = np.full((side, side), number, ">f4").tobytes()
            with path.open("r+b", buffering=0) as file:
                file.seek(2880)
                file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        whole = 0
        for _ in range(60):
            try:
                found = dask_fits.open(path)[0].section[...]
            except FileChangedError:
                continue
            whole += 1
            assert found.min() == found.max(), "a torn read"
    finally:
        stop.set()
        writer.join()
    found = dask_fits.open(path)[0].section[...]
    assert found.min() == found.max()


def test_what_came_of_a_read_is_the_file_as_it_was_opened(path: Path) -> None:
    before = dask_fits.open(path)[0]
    with path.open("r+b") as file:
        file.write(fits_bytes(fits.PrimaryHDU(np.full((100, 100), 8, "f4"))))
    with pytest.raises(FileChangedError):
        before.data.compute()
    assert dask_fits.open(path)[0].section[0, 0] == 8
