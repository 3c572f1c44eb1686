"""A file on a mounted disk is written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from dask_fits.storage.atomic import write_atomically


def test_a_new_file_has_the_content_and_the_rights_of_any_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"content")
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "new").read_bytes() == b"content"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert sorted(os.listdir(tmp_path)) == ["new", "other"]


def test_a_file_that_exists_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"old")
    with pytest.raises(FileExistsError, match="old: the file exists"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["old"]


def test_what_is_no_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("directory", "pipe"):
        with pytest.raises(FileExistsError, match=f"{name}: exists and is no regular file"):
            write_atomically(tmp_path / name, b"new", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["directory", "pipe"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("step", ["fsync", "name"])
def test_a_failure_leaves_nothing_behind_and_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, step: str
) -> None:
    path = tmp_path / "file"
    if overwrite:
        path.write_bytes(b"old")

    def full(*_: object, **__: object) -> None:
        assert not path.exists() or path.read_bytes() == b"old"
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
        monkeypatch.setattr(Path, "hardlink_to", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new", overwrite=overwrite)
    assert os.listdir(tmp_path) == (["file"] if overwrite else [])
    assert not overwrite or path.read_bytes() == b"old"


def test_a_file_that_somebody_makes_in_the_meantime_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", lambda _: path.write_bytes(b"theirs"))
    with pytest.raises(FileExistsError, match="the file exists"):
        write_atomically(path, b"ours")
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_atomically(tmp_path / "file", b"ours")
    assert (tmp_path / "file").read_bytes() == b"ours"
    assert os.listdir(tmp_path) == ["file"]
