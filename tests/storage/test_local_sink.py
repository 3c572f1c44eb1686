"""Pieces of a file on a mounted disk: anywhere in it, and a commit that believes nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dask_fits
from dask_fits import StorageError
from dask_fits.concurrency.cancellation import CancelledError, CancelScope
from dask_fits.format.encoding import encoding_of
from dask_fits.storage import local_sink
from dask_fits.storage.local_sink import LocalSink
from dask_fits.storage.sink import Attempt, Receipt
from dask_fits.writing.pixels import BlockEncoder, BlockPlace, Target

CONTENT = random.Random(4).randbytes(10_000)


@pytest.fixture
def sink(tmp_path: Path) -> LocalSink:
    return LocalSink(str(tmp_path / "a.fits"), overwrite=False)


def write(sink: LocalSink, attempt: Attempt, size: int = 999) -> list[Receipt]:
    """Write everything, the last piece first."""
    starts = range(0, attempt.size, size)
    receipts = []
    for start in reversed(starts):
        piece = memoryview(CONTENT)[start : start + size]
        receipts += sink.write(attempt, [(start, piece)])
    return receipts


def test_pieces_in_any_order(sink: LocalSink) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    assert not Path(sink.path).exists()
    sink.commit(attempt, receipts)
    assert Path(sink.path).read_bytes() == CONTENT
    assert [*Path(sink.path).parent.iterdir()] == [Path(sink.path)]


def test_pieces_that_are_written_twice(sink: LocalSink) -> None:
    attempt = sink.begin(len(CONTENT))
    write(sink, attempt)
    sink.commit(attempt, write(sink, attempt))
    assert Path(sink.path).read_bytes() == CONTENT


def test_a_write_of_which_the_system_takes_a_part(
    sink: LocalSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(
        local_sink.os, "pwrite", lambda file, piece, at: pwrite(file, bytes(piece[:7]), at)
    )
    attempt = sink.begin(len(CONTENT))
    sink.commit(attempt, write(sink, attempt))
    assert Path(sink.path).read_bytes() == CONTENT


# A commit that cannot be


def test_receipts_of_two_attempts(sink: LocalSink) -> None:
    """As there are if the task that begins a Delayed ran twice."""
    first, second = sink.begin(len(CONTENT)), sink.begin(len(CONTENT))
    before, after = write(sink, first), write(sink, second)
    mixed = [*before[:3], *after[3:]]
    for attempt in (first, second):
        with pytest.raises(StorageError, match=r"a\.fits: found parts of 1 other attempts"):
            sink.commit(attempt, mixed)
    assert not Path(sink.path).exists()


@pytest.mark.parametrize("change", ["missing", "doubled", "one for another", "none", "short"])
def test_receipts_that_do_not_add_up(sink: LocalSink, change: str) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    wrong = {
        "missing": receipts[1:],
        "doubled": [*receipts, receipts[4]],
        "one for another": [receipts[-2], *receipts[1:]],
        "none": [],
        "short": [replace(receipts[0], nbytes=receipts[0].nbytes - 1), *receipts[1:]],
    }[change]
    twice = change in ("doubled", "one for another")
    found = "two pieces at byte" if twice else r"\d+ bytes written"
    with pytest.raises(StorageError, match=rf"a\.fits: found {found}"):
        sink.commit(attempt, wrong)
    assert not Path(sink.path).exists()


@pytest.mark.parametrize("size", [9_999, 10_001])
def test_a_file_of_another_length(sink: LocalSink, size: int) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    os.truncate(attempt.place, size)
    with pytest.raises(StorageError, match=f"found {size} bytes written, expected {len(CONTENT)}"):
        sink.commit(attempt, receipts)
    assert not Path(sink.path).exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_made_at_the_last_moment(
    sink: LocalSink, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    sink = replace(sink, overwrite=overwrite)
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)

    def interfere(target: Path, **_: object) -> None:
        target.write_bytes(b"theirs")

    monkeypatch.setattr(local_sink, "check_is_free", interfere)
    if overwrite:
        sink.commit(attempt, receipts)
        assert Path(sink.path).read_bytes() == CONTENT
        return
    with pytest.raises(FileExistsError, match=r"a\.fits: the file exists"):
        sink.commit(attempt, receipts)
    assert Path(sink.path).read_bytes() == b"theirs"


# A commit that runs again, since its worker was lost


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_commit_that_runs_again(sink: LocalSink, overwrite: bool) -> None:
    sink = replace(sink, overwrite=overwrite)
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    for _ in range(3):
        sink.commit(attempt, receipts)
        assert Path(sink.path).read_bytes() == CONTENT
        assert dask_fits.abandoned(sink.path) == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["unlink", "_sync_directory"])
def test_a_commit_that_was_stopped_after_the_file_had_its_name(
    sink: LocalSink, monkeypatch: pytest.MonkeyPatch, overwrite: bool, step: str
) -> None:
    sink = replace(sink, overwrite=overwrite)
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)

    def stop(*_: object, **__: object) -> None:
        assert Path(sink.path).read_bytes() == CONTENT
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, step) if step == "unlink" else (local_sink, step)), stop)
        with pytest.raises(KeyboardInterrupt):
            sink.commit(attempt, receipts)
    sink.commit(attempt, receipts)
    assert Path(sink.path).read_bytes() == CONTENT
    assert [*Path(sink.path).parent.iterdir()] == [Path(sink.path)]


@pytest.mark.parametrize("overwrite", [False, True])
def test_tasks_that_run_again_after_the_commit(sink: LocalSink, overwrite: bool) -> None:
    """A worker that dies as it commits loses the receipts that it has."""
    sink = replace(sink, overwrite=overwrite)
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    sink.commit(attempt, receipts)
    again = write(sink, attempt)
    assert again == receipts
    sink.commit(attempt, again)
    assert Path(sink.path).read_bytes() == CONTENT
    with pytest.raises(StorageError, match=r"a\.fits: no such file"):
        sink.write(attempt, [(100, memoryview(CONTENT)[101:105])])
    assert [*Path(sink.path).parent.iterdir()] == [Path(sink.path)]


@pytest.mark.parametrize("other", [CONTENT[::-1], CONTENT[:-1], b""])
def test_a_commit_that_runs_again_takes_no_other_file_for_its_own(
    sink: LocalSink, other: bytes
) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    Path(attempt.place).unlink()
    Path(sink.path).write_bytes(other)
    with pytest.raises(StorageError, match=r"a\.fits: no such file"):
        sink.commit(attempt, receipts)
    assert Path(sink.path).read_bytes() == other


# Ends


def test_an_attempt_that_is_aborted(sink: LocalSink) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = write(sink, attempt)
    for _ in range(2):
        sink.abort(attempt)
        assert [*Path(sink.path).parent.iterdir()] == []
    with pytest.raises(StorageError, match="no such file"):
        sink.write(attempt, [(0, memoryview(CONTENT))])
    with pytest.raises(StorageError, match="no such file"):
        sink.commit(attempt, receipts)
    assert [*Path(sink.path).parent.iterdir()] == []


def test_a_write_that_nobody_waits_for(sink: LocalSink) -> None:
    attempt = sink.begin(len(CONTENT))
    scope = CancelScope()
    taken = []

    def pieces() -> Iterator[tuple[int, memoryview]]:
        for start in range(0, len(CONTENT), 100):
            taken.append(start)
            if start == 300:
                scope.cancel()
            yield start, memoryview(CONTENT)[start : start + 100]

    with pytest.raises(CancelledError), scope:
        sink.write(attempt, pieces())
    assert taken == [0, 100, 200, 300]


def test_what_another_machine_writes_is_on_the_disk_at_once(
    sink: LocalSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network filesystems tell only then that they are full."""
    synced: list[int] = []
    attempt = sink.begin(len(CONTENT))
    monkeypatch.setattr(local_sink.os, "fsync", synced.append)
    (receipt,) = sink.write(attempt, [(0, memoryview(CONTENT))])
    assert not synced
    monkeypatch.setattr(local_sink, "_host", lambda: "elsewhere")
    (far,) = sink.write(attempt, [(0, memoryview(CONTENT))])
    assert len(synced) == 1
    assert (receipt.host, far.host) == (attempt.host, "elsewhere")


# Far away in a file


def test_blocks_beyond_4_gib(sink: LocalSink) -> None:
    """A few pixels of an image of 10 GB, of which the disk holds no more than those."""
    shape = (80_000, 4, 16_000)
    target = Target("far", 2880, shape, encoding_of("u2"), has_sums=True)
    attempt = sink.begin(2880 + target.nbytes)
    pixels = np.random.default_rng(1).integers(0, 2**16, (2, 3, 5), np.uint16)
    corners = [(0, 0, 0), (67_108, 1, 7_000), (79_998, 1, 15_995)]
    for corner in corners:
        encoder = BlockEncoder(target, pixels, BlockPlace(corner, pixels.shape))
        sink.write(attempt, encoder.runs())
    assert target.nbytes > 2 << 32
    assert os.stat(attempt.place).st_blocks * 512 < 1 << 20
    found = np.memmap(attempt.place, ">i2", "r", 2880, shape)
    for corner in corners:
        box = tuple(slice(at, at + n) for at, n in zip(corner, pixels.shape, strict=True))
        assert np.array_equal(found[box].astype("i4") + 32768, pixels)
    assert (found[67_108, 1, 6_900:7_000] == 0).all()
