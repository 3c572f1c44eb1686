"""Files of a stack that cannot be read: found when it is made, or only when it is computed."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import (
    FileChangedError,
    FitsError,
    FitsFormatError,
    TruncatedFileError,
)
from dask_fits.exceptions import (
    AccessDeniedError,
    FitsFileNotFoundError,
    NotAnImageError,
    StorageError,
)
from tests.servers.files import replace_file
from tests.servers.origins import Asked, Told, part_of, serving
from tests.servers.range_server import RangeServer
from tests.support.at_rest import write_at_rest
from tests.support.collections import several
from tests.support.data import ROOT
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.leftovers import open_files
from tests.support.stacks import frame, put_frames
from tests.support.tiled_files import tiled_file

pytestmark = pytest.mark.untraced

SHAPE = (30, 100)
CUBE = np.random.default_rng(72).integers(-999, 999, (6, *SHAPE)).astype("i2")
FLOATS = CUBE.astype("f4")
BAD = 3
"""Index of the file that cannot be read."""

DATA = len(frame(CUBE[0])) - 2880 * 3
"""Where the pixels of an image begin: it has three blocks of them."""


def table() -> bytes:
    return several(fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])]))


def without_codec() -> bytes:
    """A compressed image whose header names no algorithm that there is."""
    content = tiled_file(CUBE[BAD], zcmptype="RICE_1", tile=(10, 100))
    return content.replace(b"'RICE_1  '", b"'NICE_1  '")


def with_damaged_tile() -> bytes:
    """A compressed image whose last tile ends in nonsense; astropy refuses it as well."""

    def damage(tiles: list[bytes]) -> list[bytes]:
        return [*tiles[:-1], tiles[-1][:5]]

    return tiled_file(CUBE[BAD], zcmptype="RICE_1", tile=(10, 100), edit=damage)


def put_files(directory: Path, bad: bytes | None, dtype: str = "i2") -> list[str]:
    """Write six files, of which one is bad; None if it is missing."""
    contents = {f"{number}.fits": frame(pixels.astype(dtype)) for number, pixels in enumerate(CUBE)}
    if bad is not None:
        contents[f"{BAD}.fits"] = bad
    paths = put_frames(directory, contents)
    if bad is None:
        Path(paths[BAD]).unlink()
    return paths


def without_bad(cube: np.ndarray) -> np.ndarray:
    return np.delete(cube, BAD, axis=0)


def filled(cube: np.ndarray, value: Any) -> np.ndarray:
    """The cube with the frame of the bad file filled."""
    cube = cube.copy()
    cube[BAD] = value
    return cube


# Found when the stack is made

AT_BUILD: dict[str, tuple[Callable[[], bytes | None], type[FitsError]]] = {
    "missing": (lambda: None, FitsFileNotFoundError),
    "cut short within the pixels": (lambda: frame(CUBE[BAD])[: DATA + 2000], TruncatedFileError),
    "cut short by a byte": (lambda: frame(CUBE[BAD])[: DATA + 5999], TruncatedFileError),
    "cut short within the header": (lambda: frame(CUBE[BAD])[:1000], FitsError),
    "empty": (lambda: b"", FitsError),
    "no FITS file": (lambda: b"<html>404</html>" * 1000, FitsFormatError),
    "a table": (table, NotAnImageError),
    "of an unknown compression": (without_codec, FitsError),
}


@pytest.mark.parametrize("fault", AT_BUILD)
def test_a_file_that_cannot_be_opened_raises_or_is_left_out_or_filled(
    fault: str, tmp_path: Path
) -> None:
    make, error = AT_BUILD[fault]
    files = put_files(tmp_path, make())
    with pytest.raises(error, match=f"{BAD}.fits"):
        dask_fits.stack(files)

    dropped = dask_fits.stack(files, on_error="drop")
    assert same_bits(dropped.data.compute(), without_bad(CUBE))
    assert list(dropped.dropped) == [files[BAD]]
    assert isinstance(dropped.dropped[files[BAD]], error)
    assert dropped.status.tolist() == ["ok"] * 5
    assert dropped.table["access_url"].tolist() == [*files[:BAD], *files[BAD + 1 :]]

    stack = dask_fits.stack(files, on_error="nan", fill_value=-7)
    assert same_bits(stack.data.compute(), filled(CUBE, -7))
    assert same_bits(stack.data[BAD].compute(), np.full(SHAPE, -7, "i2"))
    assert same_bits(stack.data[:, 20:].compute(), filled(CUBE, -7)[:, 20:])
    assert stack.status.tolist() == ["ok"] * 3 + ["failed"] + ["ok"] * 2
    assert isinstance(stack.error[BAD], error)
    assert f"{BAD}.fits" in str(stack.error[BAD])
    assert [found is None for found in stack.error] == [number != BAD for number in range(6)]
    assert stack.table["access_url"].tolist() == files


@pytest.mark.parametrize("fault", AT_BUILD)
def test_frames_of_floats_are_nan_and_so_is_their_common_type(fault: str, tmp_path: Path) -> None:
    make, _ = AT_BUILD[fault]
    files = put_files(tmp_path, make(), "f4")
    stack = dask_fits.stack(files, on_error="nan")
    assert stack.data.dtype == np.float32
    assert same_bits(stack.data.compute(), filled(FLOATS, np.nan))
    as_floats = dask_fits.stack(put_files(tmp_path, make()), on_error="nan", dtype="f8")
    assert same_bits(as_floats.data.compute(), filled(CUBE.astype("f8"), np.nan))


@pytest.mark.parametrize("fault", AT_BUILD)
def test_a_collection_and_its_parquet_file_fail_as_its_files(fault: str, tmp_path: Path) -> None:
    make, error = AT_BUILD[fault]
    files = put_files(tmp_path, make())
    collection = dask_fits.open_collection(files)
    collection.to_parquet(tmp_path / "c.parquet")
    for given in (collection, tmp_path / "c.parquet"):
        with pytest.raises(error, match=f"{BAD}.fits"):
            dask_fits.stack(given)
        assert same_bits(dask_fits.stack(given, on_error="drop").data.compute(), without_bad(CUBE))
        stack = dask_fits.stack(given, on_error="nan", fill_value=9)
        assert same_bits(stack.data.compute(), filled(CUBE, 9))
        assert isinstance(stack.error[BAD], error)


@pytest.mark.parametrize("on_error", ["raise", "drop", "nan"])
def test_if_all_files_fail_the_first_error_is_raised(on_error: Any, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{number}.fits") for number in range(3)]
    with pytest.raises(FitsFileNotFoundError, match=r"0\.fits"):
        dask_fits.stack(files, on_error=on_error)


def test_the_first_file_may_be_the_bad_one(tmp_path: Path) -> None:
    files = put_files(tmp_path, None)
    stack = dask_fits.stack([files[BAD], *files[:2]], on_error="nan", fill_value=0)
    assert same_bits(stack.data.compute(), np.stack([0 * CUBE[0], CUBE[0], CUBE[1]]))
    assert stack.plan.requests == 2
    cut = put_files(tmp_path, frame(CUBE[BAD])[: DATA + 2000])
    stack = dask_fits.stack([cut[BAD], *cut[:2]], on_error="nan", fill_value=0)
    assert same_bits(stack.data.compute(), np.stack([0 * CUBE[0], CUBE[0], CUBE[1]]))


@pytest.mark.parametrize("chunks", ["auto", (1, 5, -1)])
def test_a_selection_is_that_part_of_the_whole_stack(chunks: Any, tmp_path: Path) -> None:
    """Also of a frame whose first rows could be read: it is known that not all of it can."""
    files = put_files(tmp_path, frame(CUBE[BAD])[: DATA + 2000])
    stack = dask_fits.stack(files, on_error="nan", fill_value=-7, chunks=chunks)
    whole = stack.data.compute()
    assert same_bits(whole, filled(CUBE, -7))
    for key in (np.s_[BAD, :4], np.s_[:, 2, 3], np.s_[2:5, ::7]):
        assert same_bits(stack.data[key].compute(), whole[key]), key


# Found when it is computed


@dataclass
class Files:
    """Six files, one of which comes to harm once they are open."""

    paths: list[str]
    harm: Callable[[], None]
    error: type[FitsError]
    name: str = f"{BAD}.fits"
    options: dict[str, Any] = field(default_factory=dict)


def on_disk(harm: Callable[[Path], None], error: type[FitsError]) -> Any:
    @contextmanager
    def make(directory: Path, dtype: str) -> Iterator[Files]:
        paths = put_files(directory, frame(CUBE[BAD].astype(dtype)), dtype)
        yield Files(paths, lambda: harm(Path(paths[BAD])), error)
        assert open_files(str(directory)) == set()

    return make


@contextmanager
def damaged(directory: Path, dtype: str) -> Iterator[Files]:
    yield Files(put_files(directory, with_damaged_tile(), dtype), lambda: None, FitsError)
    assert open_files(str(directory)) == set()


def on_a_server(told: Callable[[bytes, Asked], Told], error: type[FitsError]) -> Any:
    @contextmanager
    def make(directory: Path, dtype: str) -> Iterator[Files]:
        contents = {f"/{n}.fits": frame(pixels.astype(dtype)) for n, pixels in enumerate(CUBE)}
        harmed: list[str] = []

        def answers(asked: Asked) -> Told:
            answer = told if asked.target in harmed else part_of
            return answer(contents[asked.target], asked)

        with serving(answers) as origin:
            paths = [origin.url + path for path in contents]
            yield Files(paths, lambda: harmed.append(f"/{BAD}.fits"), error)

    return make


@contextmanager
def replaced_on_a_server(directory: Path, dtype: str) -> Iterator[Files]:
    put_files(directory, frame(CUBE[BAD].astype(dtype)), dtype)
    with RangeServer(directory) as server:
        yield Files(
            [f"{server.url}/{number}.fits" for number in range(6)],
            lambda: replace_file(directory / f"{BAD}.fits", frame(CUBE[0].astype(dtype))),
            FileChangedError,
        )


@contextmanager
def deleted_on_a_server(directory: Path, dtype: str) -> Iterator[Files]:
    paths = put_files(directory, frame(CUBE[BAD].astype(dtype)), dtype)
    with RangeServer(directory) as server:
        urls = [f"{server.url}/{number}.fits" for number in range(6)]
        yield Files(urls, Path(paths[BAD]).unlink, FitsFileNotFoundError)


def cut_short(path: Path) -> None:
    os.truncate(path, DATA + 3000)


SERVED = {
    "forbidden (403)": on_a_server(lambda *_: Told(403), AccessDeniedError),
    "gone (410)": on_a_server(lambda *_: Told(410), FitsError),
    "of another ETag": on_a_server(
        lambda content, asked: part_of(content, asked, '"2"'), FileChangedError
    ),
    "replaced on a server": replaced_on_a_server,
    "deleted on a server (404)": deleted_on_a_server,
}

AT_COMPUTE: dict[str, Any] = {
    "deleted": on_disk(Path.unlink, FitsFileNotFoundError),
    "replaced by a larger one": on_disk(
        lambda path: write_at_rest(path, frame(np.zeros((40, 100), "f8"))), FileChangedError
    ),
    "replaced by one of its size": on_disk(
        lambda path: write_at_rest(path, path.read_bytes()[::-1]), FileChangedError
    ),
    "replaced by nothing": on_disk(lambda path: write_at_rest(path, b""), FitsError),
    "a directory now": on_disk(lambda path: (path.unlink(), path.mkdir()), FitsError),
    "cut short": on_disk(cut_short, FitsError),
    "damaged in a tile": damaged,
    **SERVED,
}

each_fault = pytest.mark.parametrize(
    "fault",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SERVED)) for name in AT_COMPUTE],
)


@each_fault
def test_a_file_that_comes_to_harm_raises_when_it_is_computed(fault: str, tmp_path: Path) -> None:
    """Left out is only what was known to be bad."""
    with AT_COMPUTE[fault](tmp_path, "i2") as files:
        stacks = [dask_fits.stack(files.paths, on_error=how) for how in ("raise", "drop")]
        assert [len(stack) for stack in stacks] == [6, 6]
        files.harm()
        for stack in stacks:
            assert stack.status.tolist() == ["ok"] * 6
            for part in (stack.data, stack.data[BAD], stack.data[1:5, -1, -1]):
                with pytest.raises(files.error, match=files.name):
                    part.compute()
            assert same_bits(stack.data[:BAD, 2:9].compute(), CUBE[:BAD, 2:9])
            assert same_bits(stack.data[BAD + 1 :].compute(), CUBE[BAD + 1 :])


@each_fault
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_file_that_comes_to_harm_is_filled_and_no_other(
    fault: str, scheduler: str, tmp_path: Path
) -> None:
    with AT_COMPUTE[fault](tmp_path, "f4") as files:
        stack = dask_fits.stack(files.paths, on_error="nan")
        whole = dask_fits.stack(
            files.paths, on_error="nan", chunks=(2, -1, -1), dtype="i4", fill_value=-1
        )
        files.harm()
        expected = filled(FLOATS, np.nan)
        assert same_bits(stack.data.compute(scheduler=scheduler), expected)
        assert same_bits(stack.data[BAD, -3:].compute(scheduler=scheduler), expected[BAD, -3:])
        assert same_bits(stack.data[::3, 29].compute(scheduler=scheduler), expected[::3, 29])
        assert same_bits(whole.data.compute(scheduler=scheduler), filled(CUBE.astype("i4"), -1))


def test_a_file_that_is_there_again_is_read_again(tmp_path: Path) -> None:
    """No error is remembered: the stack of then, computed again, is as good as the files are."""
    files = put_files(tmp_path, frame(CUBE[BAD]))
    stack = dask_fits.stack(files, on_error="nan", fill_value=0)
    away = tmp_path / "away.fits"
    Path(files[BAD]).rename(away)
    assert same_bits(stack.data.compute(), filled(CUBE, 0))
    away.rename(files[BAD])
    assert same_bits(stack.data.compute(), CUBE)


def test_a_packed_file_that_is_damaged_is_filled_as_a_whole(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(frame(CUBE[BAD]), mtime=0))
    packed[len(packed) * 3 // 4] ^= 0xFF
    files = put_files(tmp_path, frame(CUBE[BAD]))
    (bad,) = put_frames(tmp_path, {"bad.fits.gz": bytes(packed)})
    files[BAD] = bad
    stack = dask_fits.stack(files, on_error="nan", fill_value=-3)
    assert same_bits(stack.data.compute(), filled(CUBE, -3))
    with pytest.raises(FitsError, match=r"bad\.fits\.gz"):
        dask_fits.stack(files).data.compute()


def test_of_several_errors_the_first_frames_is_raised(tmp_path: Path) -> None:
    files = put_files(tmp_path, frame(CUBE[BAD]))
    stack = dask_fits.stack(files)
    for number in (5, 1, 4):
        Path(files[number]).unlink()
    for _ in range(3):
        with pytest.raises(FitsFileNotFoundError, match=r"1\.fits"):
            stack.data.compute()


@pytest.mark.slow
def test_without_the_collections_file_nothing_is_read_and_nothing_filled(tmp_path: Path) -> None:
    """The images are there, and it is not known where: that is no fault of any of them."""
    files = put_files(tmp_path, frame(CUBE[BAD]))
    path = tmp_path / "c.parquet"
    dask_fits.open_collection(files).to_parquet(path)
    stacks = [dask_fits.stack(path), dask_fits.stack(path, on_error="nan", fill_value=0)]
    pickled = cloudpickle.dumps([stack.data for stack in stacks])
    path.unlink()
    # In a process that has not read the file before.
    program = (
        "import pickle, sys\n"
        "for data in pickle.load(sys.stdin.buffer):\n"
        "    try:\n"
        "        print('read', data.compute(scheduler='sync').sum())\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ROOT, input=pickled, capture_output=True)
    lines = said.stdout.decode().splitlines()
    assert len(lines) == 2, said
    for line in lines:
        assert line.startswith("FitsFileNotFoundError")
        assert "c.parquet" in line


@pytest.mark.slow
def test_a_server_that_stumbles_is_asked_again(tmp_path: Path) -> None:
    put_files(tmp_path, frame(CUBE[BAD]))
    with RangeServer(tmp_path) as server:
        stack = dask_fits.stack([f"{server.url}/{number}.fits" for number in range(6)])
        server.fail("status", status=503, count=2)
        server.fail("reset-midway", first=4)
        assert same_bits(stack.data.compute(), CUBE)


@pytest.mark.slow
def test_files_of_a_server_that_is_gone_are_filled_or_raise(tmp_path: Path) -> None:
    put_files(tmp_path, frame(CUBE[BAD]))
    with RangeServer(tmp_path) as server:
        urls = [f"{server.url}/{number}.fits" for number in range(6)]
        quick = dask_fits.TransferConfig(attempts=1)
        stack = dask_fits.stack(urls[:2], on_error="nan", fill_value=4, transfer=quick)
        strict = dask_fits.stack(urls[:2], transfer=quick)
    assert (stack.data.compute() == 4).all()
    with pytest.raises(StorageError, match=r"0\.fits"):
        strict.data.compute()


def test_files_that_are_no_files_are_said_to_be_none(tmp_path: Path) -> None:
    content = fits_bytes(fits.PrimaryHDU(CUBE[0]))
    write_at_rest(tmp_path / "a.fits", content)
    with pytest.raises(FitsError, match=str(tmp_path)):
        dask_fits.stack([tmp_path / "a.fits", tmp_path])
