"""A file is there whole or not at all: what is replaced, what is left, and under which names."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import dask
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import PixelValueError, StorageError
from dask_fits.storage import local_sink
from tests.support.data import M13
from tests.support.fits_files import same_bits
from tests.support.leftovers import open_files
from tests.support.patience import until
from tests.support.written_files import (
    OLD,
    PIXELS,
    array,
    assert_in_order,
    assert_untouched,
    failing,
    native,
    raising,
)

pytestmark = pytest.mark.usefixtures("short_runs", "two_threads")


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


@pytest.mark.parametrize("end", [".gz", ".GZ", ".bz2", ".xz", ".zst", ".Z", ".zip"])
def test_names_of_files_that_are_compressed_as_a_whole(tmp_path: Path, end: str) -> None:
    for url in (tmp_path / f"a.fits{end}", f"memory://a.fits{end}"):
        with pytest.raises(ValueError, match=rf"a\.fits{end}: .*not written compressed.*without"):
            dask_fits.to_fits(array(), url)
    assert [*tmp_path.iterdir()] == []


def test_files_in_archives(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.zip: files are not written into archives"):
        dask_fits.to_fits(array(), f"{tmp_path}/a.zip::b.fits")
    assert [*tmp_path.iterdir()] == []


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


def test_no_descriptor_stays_open(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        dask_fits.to_fits(array(), path, overwrite=True)
        with pytest.raises(PixelValueError):
            dask_fits.to_fits(array(np.full((12, 30), 0.5)), path, dtype="i2", overwrite=True)
    monkeypatch.setattr(local_sink.os, "fsync", raising(errno.EIO, 0)(os.fsync))
    for _ in range(3):
        with pytest.raises(StorageError):
            dask_fits.to_fits(array(), path, overwrite=True)
    until(lambda: not open_files(path.parent))
