"""What writing holds in memory is a few chunks, however large the file is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

import dask_fits
from dask_fits.storage import local_sink
from tests.support.memory import peak_below

pytestmark = pytest.mark.untraced

MIB = 1 << 20
THREADS = 2


def made(block_info: Any) -> np.ndarray:
    """A chunk that takes its memory, unlike one of da.ones."""
    info = block_info[None]
    return np.full(info["chunk-shape"], info["chunk-location"][0], info["dtype"])


@pytest.fixture
def without_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Throw away what is written, and note how much: it is about memory here."""
    written: list[int] = []

    def pwrite(_: int, piece: memoryview, __: int) -> int:
        written.append(len(piece))
        return len(piece)

    monkeypatch.setattr(local_sink.os, "pwrite", pwrite)
    return written


@pytest.mark.parametrize(
    ("chunks", "dtype", "target"),
    [((2048, 4096), "f4", "f4"), ((1024, 4096), "f8", "f4"), ((4096, 4096), "u2", "u2")],
)
def test_a_file_that_is_larger_than_what_is_held(
    tmp_path: Path, without_disk: list[int], chunks: tuple[int, int], dtype: str, target: str
) -> None:
    rows = 512 * MIB // (4096 * np.dtype(target).itemsize)
    lengths = ((chunks[0],) * (rows // chunks[0]), (chunks[1],) * (4096 // chunks[1]))
    array = da.map_blocks(made, chunks=lengths, dtype=dtype, meta=np.zeros((0, 0), dtype))
    chunk = chunks[0] * chunks[1] * np.dtype(dtype).itemsize
    assert chunk == 32 * MIB
    with (
        dask.config.set(scheduler="threads", num_workers=THREADS),
        peak_below((THREADS + 1) * chunk + 64 * MIB),
    ):
        dask_fits.to_fits(array, tmp_path / "a.fits", dtype=target)
    assert sum(without_disk) == os.path.getsize(tmp_path / "a.fits") > 512 * MIB


def test_tiles_are_joined_only_as_far_as_memory_lasts(
    tmp_path: Path, without_disk: list[int]
) -> None:
    """Rows of tiles that are longer than what may be held are written as they are."""
    lengths = ((256,), (256,) * 64)
    array = da.map_blocks(made, chunks=lengths, dtype="u2", meta=np.zeros((0, 0), "u2"))
    with (
        dask.config.set({"scheduler": "threads", "num_workers": THREADS}),
        dask.config.set({"array.chunk-size": "256KiB"}),
        peak_below(6 * MIB),
    ):
        dask_fits.to_fits(array, tmp_path / "a.fits")
    assert sum(without_disk) == os.path.getsize(tmp_path / "a.fits") > 8 * MIB
