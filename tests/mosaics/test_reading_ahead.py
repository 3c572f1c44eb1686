"""Which thread reads an image: the task's own while pixels are at hand, others if that waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import dask_fits
from dask_fits.concurrency import busyness
from dask_fits.mosaics import rendering
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.local import LocalStore
from tests.support.mosaics import compute, moved, tan_wcs, write_image

SHAPE = (40, 50)
COUNT = 7
OUT = tan_wcs(150.0, 2.0, 1e-3, SHAPE)


class Reads:
    """Notes the thread of each read of a mounted disk, and how many there are at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.threads: list[int] = []
        self.most = 0
        self._now = 0
        self._seconds = seconds
        self._lock = threading.Lock()
        self._read = LocalStore.read_ranges

        def read_ranges(store: LocalStore, *given: Any, **options: Any) -> Any:
            return self._read_slowly(store, *given, **options)

        monkeypatch.setattr(LocalStore, "read_ranges", read_ranges)

    def _read_slowly(
        self, store: LocalStore, ranges: Sequence[ByteRange], **options: Any
    ) -> Iterator[tuple[int, memoryview]]:
        with self._lock:
            self.threads.append(threading.get_ident())
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        yield from self._read(store, ranges, **options)
        with self._lock:
            self._now -= 1


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 1, (COUNT, *SHAPE))


@pytest.fixture
def files(tmp_path: Path, pixels: np.ndarray) -> list[str]:
    wcs = moved(OUT, 0, 0, SHAPE)
    return [write_image(tmp_path / f"{n}.fits", image, wcs) for n, image in enumerate(pixels)]


def read(files: list[str], monkeypatch: pytest.MonkeyPatch, seconds: float) -> tuple[Reads, Any]:
    m = dask_fits.mosaic(files, OUT, dtype="float64")
    with monkeypatch.context() as patched:
        reads = Reads(patched, seconds)
        [data] = compute(m.data)
    return reads, data


def test_what_is_at_hand_is_read_in_turn_by_the_thread_of_the_task(
    files: list[str], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(busyness, "_BUSY", 0.0)  # however busy other processes are
    reads, data = read(files, monkeypatch, 0.0)
    assert len(reads.threads) == COUNT
    assert reads.most == 1
    assert set(reads.threads) == {threading.get_ident()}
    assert np.array_equal(data, sum(pixels) / COUNT)


def test_where_the_disk_keeps_it_waiting_others_read_ahead(
    files: list[str], pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, data = read(files, monkeypatch, 0.1)
    assert len(reads.threads) == COUNT
    assert reads.threads.count(threading.get_ident()) == 1
    assert reads.most == COUNT - 1
    assert np.array_equal(data, sum(pixels) / COUNT)


def test_of_files_that_are_not_on_a_disk_all_are_read_ahead(
    pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("memory")
    try:
        for number, image in enumerate(pixels):
            path = write_image(tmp_path / f"{number}.fits", image, moved(OUT, 0, 0, SHAPE))
            fs.pipe(f"/ahead/{number}.fits", Path(path).read_bytes())
        urls = [f"memory://ahead/{number}.fits" for number in range(COUNT)]
        m = dask_fits.mosaic(urls, OUT, dtype="float64")
        read_pixels, threads = rendering.read_pixels, set[int]()

        def note(*given: Any, **options: Any) -> Any:
            threads.add(threading.get_ident())
            return read_pixels(*given, **options)

        monkeypatch.setattr(rendering, "read_pixels", note)
        [data] = compute(m.data)
    finally:
        fs.rm("/ahead", recursive=True)
    assert threads
    assert threading.get_ident() not in threads
    assert np.array_equal(data, sum(pixels) / COUNT)
