"""A file that several machines write: what one of them does not see of the others is an error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import dask_fits
from dask_fits.storage import local_sink
from dask_fits.storage.local_sink import LocalSink
from dask_fits.storage.sink import Attempt, Receipt

CONTENT = bytes(range(256)) * 64  # longer than what is noted of it


@pytest.fixture
def sink(tmp_path: Path) -> LocalSink:
    return LocalSink(str(tmp_path / "a.fits"), overwrite=False)


def write_elsewhere(
    sink: LocalSink, attempt: Attempt, start: int, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> list[Receipt]:
    """Write as a task on another machine does."""
    with monkeypatch.context() as there:
        there.setattr(local_sink, "_host", lambda: "other.example")
        return sink.write(attempt, [(start, memoryview(content))])


def test_a_disk_that_all_share(sink: LocalSink, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = sink.begin(2 * len(CONTENT))
    receipts = sink.write(attempt, [(0, memoryview(CONTENT))])
    receipts += write_elsewhere(sink, attempt, len(CONTENT), CONTENT[::-1], monkeypatch)
    assert [receipt.host == "other.example" for receipt in receipts] == [False, True]
    sink.commit(attempt, receipts)
    assert Path(sink.path).read_bytes() == CONTENT + CONTENT[::-1]


@pytest.mark.parametrize("lost", [slice(None), slice(0, 1), slice(-1, None)])
def test_a_copy_that_lacks_what_others_wrote(
    sink: LocalSink, monkeypatch: pytest.MonkeyPatch, lost: slice
) -> None:
    attempt = sink.begin(2 * len(CONTENT))
    receipts = sink.write(attempt, [(0, memoryview(CONTENT))])
    receipts += write_elsewhere(sink, attempt, len(CONTENT), CONTENT[::-1], monkeypatch)
    # As it is in the copy that another machine has staged.
    with Path(attempt.place).open("r+b") as file:
        file.seek(len(CONTENT) + range(len(CONTENT))[lost][0])
        file.write(bytes(len(CONTENT[lost])) if CONTENT[::-1][lost].strip(b"\0") else b"\1")
    message = "as other.example wrote them: the disk is not one and the same"
    with pytest.raises(dask_fits.StorageError, match=message):
        sink.commit(attempt, receipts)
    assert not Path(sink.path).exists()


def test_a_machine_trusts_its_own_disk(sink: LocalSink, tmp_path: Path) -> None:
    attempt = sink.begin(len(CONTENT))
    receipts = sink.write(attempt, [(0, memoryview(CONTENT))])
    false = replace(receipts[0].samples[0], check_sum=0)
    sink.commit(attempt, [replace(receipts[0], samples=(false,))])
    assert (tmp_path / "a.fits").read_bytes() == CONTENT
