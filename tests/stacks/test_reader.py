"""A stack's pixels are those of its frames, of which no more is read than is wanted."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from dask.base import tokenize
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import FileChangedError, FitsError, FitsFormatError, TruncatedFileError
from dask_fits.concurrency.cancellation import CancelledError
from dask_fits.exceptions import FitsFileNotFoundError, StorageError
from dask_fits.planning.selection import Selection
from dask_fits.readers.base import IndexedReader
from dask_fits.stacks.frames import ReaderFrames
from dask_fits.stacks.reader import MAX_FRAMES, READS
from tests.support.fits_files import fits_bytes, same_bits, watched_reader
from tests.support.recording import RecordingFileSystem, put
from tests.support.stacks import asked, stack_of, watched_frames
from tests.support.strategies import keys, pixels

SHAPE = (12, 30)
RANDOM = np.random.default_rng(5)


def image(dtype: str) -> np.ndarray:
    return RANDOM.integers(0, 200, SHAPE).astype(dtype)


def scaled() -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(image("i2"))
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.1, -7.5
    return hdu


def blanked() -> fits.PrimaryHDU:
    hdu = fits.PrimaryHDU(image("i4"))
    hdu.header["BLANK"] = int(hdu.data[3, 4])
    return hdu


def packed(dtype: str, kind: str, **options: Any) -> Callable[[], fits.CompImageHDU]:
    return lambda: fits.CompImageHDU(image(dtype), compression_type=kind, **options)


KINDS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: fits.PrimaryHDU(image("u1")),
    "int16": lambda: fits.PrimaryHDU(image("i2")),
    "uint16": lambda: fits.PrimaryHDU(image("u2") + np.uint16(40_000)),
    "int64": lambda: fits.PrimaryHDU(image("i8")),
    "float32": lambda: fits.PrimaryHDU(image("f4")),
    "float64": lambda: fits.PrimaryHDU(image("f8") / 3),
    "scaled": scaled,
    "blanked": blanked,
    "RICE": packed("i2", "RICE_1", tile_shape=(1, 30)),
    "GZIP": packed("i4", "GZIP_2", tile_shape=(5, 7)),
    "RICE of floats": packed("f4", "RICE_1", tile_shape=(4, 30)),
    "HCOMPRESS": packed("i2", "HCOMPRESS_1", tile_shape=(12, 15)),
}


def files_of(tmp_path: Path, kinds: list[str]) -> list[Path]:
    """A file for each frame."""
    paths = [tmp_path / f"{number}.fits" for number in range(len(kinds))]
    for path, kind in zip(paths, kinds, strict=True):
        KINDS[kind]().writeto(path)
    return paths


def reader_of(path: Path | str) -> Any:
    return dask_fits.open(path).first_image().reader()


def astropys(path: Path) -> np.ndarray:
    with fits.open(path) as file:
        return next(hdu.data.copy() for hdu in file if hdu.data is not None)


@pytest.mark.parametrize(
    "kinds",
    [*([kind] * 3 for kind in KINDS), ["int16", "RICE"], ["uint16", "int16"], list(KINDS)],
    ids=" and ".join,
)
def test_pixels_are_astropys_as_the_common_type(tmp_path: Path, kinds: list[str]) -> None:
    paths = files_of(tmp_path, kinds)
    expected = [astropys(path) for path in paths]
    stack = stack_of([reader_of(path) for path in paths])
    dtype = np.result_type(*expected).newbyteorder("=")
    assert stack.dtype == dtype
    assert stack.shape == (len(kinds), *SHAPE)
    cube = np.stack([frame.astype(dtype) for frame in expected])
    for key in (np.s_[:], np.s_[1], np.s_[-1, 3:9, ::4], np.s_[::2, 4], np.s_[:, [3, 1], 5:]):
        assert same_bits(stack[key], cube[key]), key


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
def test_another_type_is_what_astype_gives(dtype: str) -> None:
    cube = np.stack([image("i2"), image("i2")])
    assert same_bits(stack_of(watched_frames(cube), dtype=dtype)[...], cube.astype(dtype))


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from([(5, 4, 6), (20, 3), (1, 2, 3, 4), (3, 0, 4), (4, 1, 1)]))
def test_any_key_is_numpys_and_reads_only_wanted_frames(data: Any, shape: Any) -> None:
    cube = pixels(shape)
    readers = watched_frames(cube)
    stack = stack_of(readers)
    key = data.draw(keys(shape))
    expected = cube[key]
    found = stack[key]
    assert same_bits(found, expected)
    numbers = np.arange(len(cube)).reshape(-1, *(1,) * (cube.ndim - 1))
    wanted = np.unique((numbers + 0 * cube)[key])
    assert set(asked(readers)) == set(wanted.tolist())
    if isinstance(found, np.ndarray):
        assert found.flags.writeable
        assert found.flags.owndata


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_what_was_picked_is_numpys_too(data: Any) -> None:
    cube = pixels((6, 7, 8))
    stack = stack_of(watched_frames(cube))
    for _ in range(data.draw(st.integers(1, 3))):
        axis = data.draw(st.integers(0, 2))
        chosen = data.draw(st.sets(st.integers(0, cube.shape[axis] - 1), min_size=1))
        stack, cube = stack.take(axis, np.array(sorted(chosen))), cube.take(sorted(chosen), axis)
    key = data.draw(keys(cube.shape))
    assert stack.shape == cube.shape
    assert same_bits(stack[key], cube[key])


@pytest.mark.parametrize(
    "key", [99, np.s_[0, 12], np.s_[:, :, :, 0], np.s_[[1], [2]], 1.5, "x", np.s_[[7]]]
)
def test_keys_that_numpy_refuses_are_refused(key: Any) -> None:
    cube = np.zeros((3, *SHAPE), "i2")
    with pytest.raises(IndexError):
        stack_of(watched_frames(cube))[key]


def test_a_slice_reads_just_its_rows_of_its_frames() -> None:
    cube = pixels((9, 64, 100), "i2")
    urls = []
    for number, frame in enumerate(cube):
        urls.append(put(f"frame-{number}.fits", fits_bytes(fits.PrimaryHDU(frame))))
    stack = stack_of([reader_of(url) for url in urls])
    RecordingFileSystem.log.clear()
    key = np.s_[2:8:3, 10:14]
    plan = stack.plan((range(2, 8, 3), range(10, 14), range(100)))
    assert same_bits(stack[key], cube[key])
    assert [stop - start for start, stop in RecordingFileSystem.ranges()] == [4 * 200] * 2
    assert (plan.requests, plan.bytes, plan.useful_bytes) == (2, 1600, 1600)


# At the same time


@dataclass(frozen=True)
class Spy(IndexedReader):
    """A frame of a constant, which tells when it is read."""

    value: int
    visit: Callable[[Selection], Any]
    shape: tuple[int, ...] = (2, 3)
    dtype: np.dtype = field(default=np.dtype("i4"))
    where: str = "spy.fits: HDU 0"

    def read(self, selection: Selection) -> Any:
        self.visit(selection)
        pixels = selection.empty(self.dtype)
        pixels[...] = self.value
        return selection.result(pixels)


def test_frames_are_read_at_the_same_time_and_so_many_at_most() -> None:
    lock, full = threading.Lock(), threading.Event()
    now, most = 0, 0

    def visit(_: Selection) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == READS:
                full.set()
        assert full.wait(10)
        time.sleep(0.002)
        with lock:
            now -= 1

    stack = stack_of([Spy(number, visit) for number in range(5 * READS)])
    assert (stack[:, 1, 2] == np.arange(5 * READS)).all()
    assert most == READS


def test_frames_are_read_into_the_result() -> None:
    memory = []
    stack = stack_of([Spy(n, lambda s: memory.append(s.empty(np.dtype("i4")))) for n in range(4)])
    found = stack[1:]
    assert len(memory) == 3
    assert all(np.shares_memory(slot, found) for slot in memory)
    assert found.base is None


def test_one_frame_is_read_in_this_thread() -> None:
    threads = []
    stack = stack_of([Spy(n, lambda _: threads.append(threading.get_ident())) for n in range(4)])
    assert stack[2, 0, 0] == 2
    assert threads == [threading.get_ident()]


def test_an_error_cancels_the_other_reads() -> None:
    release = threading.Event()
    begun = []

    def visit(_: Selection) -> None:
        begun.append(1)
        release.wait(0.2)

    def fail(_: Selection) -> None:
        raise StorageError("gone.fits: no")

    frames = [Spy(0, fail), *(Spy(n, visit) for n in range(1, 200))]
    started = time.perf_counter()
    with pytest.raises(StorageError, match="gone"):
        stack_of(frames)[...]
    assert time.perf_counter() - started < 1
    release.set()
    time.sleep(0.3)
    assert len(begun) < 3 * READS


def test_the_error_is_that_of_the_first_frame() -> None:
    def fail(after: float, name: str) -> Callable[[Selection], None]:
        def visit(_: Selection) -> None:
            time.sleep(after)
            raise StorageError(name)

        return visit

    later = [Spy(n, fail(0, "later.fits")) for n in range(5)]
    frames = [Spy(0, lambda _: None), Spy(1, fail(0.1, "first.fits")), *later]
    with pytest.raises(StorageError, match="first"):
        stack_of(frames)[...]


@pytest.mark.parametrize("kind", [CancelledError, KeyboardInterrupt, ZeroDivisionError])
def test_what_is_no_error_of_a_file_is_raised_always(kind: type[BaseException]) -> None:
    def fail(_: Selection) -> None:
        raise kind

    frames = [Spy(0, lambda _: None), Spy(1, fail)]
    with pytest.raises(kind):
        stack_of(frames, fill_value=0)[...]


# Frames that cannot be read


def overwrite(path: Path, content: bytes) -> None:
    """Change a file's bytes behind the back of those who compare times."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def damage_last_tile(path: Path) -> None:
    with fits.open(path, disable_image_compression=True) as file:
        rows = file[1].data["COMPRESSED_DATA"]
        end = file[1].fileinfo()["datLoc"] + file[1].data.nbytes + sum(map(len, rows))
    content = bytearray(path.read_bytes())
    content[end - 8 : end] = b"\xff" * 8
    overwrite(path, bytes(content))


def bad_frames(tmp_path: Path) -> tuple[list[Any], np.ndarray, dict[int, type[FitsError]]]:
    """Readers of frames, the pixels of the good ones, and what is wrong with the others."""
    kinds = ["float32", "GZIP", "int16", "float32", "RICE", "float32", "float32", "float32"]
    paths = files_of(tmp_path, kinds)
    cube = np.stack([astropys(path).astype("f4") for path in paths])
    damage_last_tile(paths[1])
    paths[5].write_bytes(paths[5].read_bytes()[:2980])
    fits.PrimaryHDU(np.zeros((12, 31), "f4")).writeto(paths[7], overwrite=True)
    readers: list[Any] = [reader_of(path) for path in paths]
    paths[2].unlink()
    paths[3].write_bytes(paths[3].read_bytes()[:-2880] + b"\7" * 2880)
    readers[6] = FitsError("6.fits: has no image")
    wrong: dict[int, type[FitsError]] = {
        1: FitsFormatError,
        2: FitsFileNotFoundError,
        3: FileChangedError,
        5: TruncatedFileError,
        6: FitsError,
        7: FitsFormatError,
    }
    return readers, cube, wrong


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_bad_frames_raise_or_are_filled_and_the_others_are_right(tmp_path: Path) -> None:
    readers, cube, wrong = bad_frames(tmp_path)
    strict, filled = (stack_of(readers, dtype="f4", fill_value=fill) for fill in (None, np.nan))
    right = cube.copy()
    right[list(wrong)] = np.nan
    for key in (np.s_[:], np.s_[1:6, 4:], np.s_[[7, 5, 2, 4, 1], ::5]):
        found, errors = filled.read_frames(key)
        wanted = set(np.arange(8)[key[0] if isinstance(key, tuple) else key].tolist())
        told = {number: type(error) for number, error in errors.items()}
        assert told == {number: kind for number, kind in wrong.items() if number in wanted}
        assert same_bits(found, right[key])
        assert same_bits(filled[key], right[key])
    for number, kind in wrong.items():
        with pytest.raises(kind, match=rf"{number}\.fits") as caught:
            strict[number]
        assert str(caught.value) == str(filled.read_frames(number)[1][number])
    assert same_bits(strict[[0, 4]], cube[[0, 4]])
    with pytest.raises(FitsFormatError, match=r"1\.fits"):
        strict[...]
    with pytest.raises(FitsFormatError, match=r"7.fits: HDU 0: found .*\(12, 31\).*\(12, 30\)"):
        strict[7]


def test_never_half_a_frame() -> None:
    """Even if most of it was read before the error."""
    good = Spy(5, lambda _: None)

    @dataclass(frozen=True)
    class Half(Spy):
        def read(self, selection: Selection) -> Any:
            selection.empty(self.dtype).reshape(-1)[:4] = 99
            raise StorageError("half.fits")

    found, errors = stack_of([good, Half(0, print), good], fill_value=-1).read_frames(...)
    assert found[:, 0, 0].tolist() == [5, -1, 5]
    assert (found[1] == -1).all()
    assert list(errors) == [1]


def test_a_frame_of_another_type_is_filled_in_the_type_of_the_stack() -> None:
    readers = [watched_reader(image("i2")), FitsError("x.fits")]
    found = stack_of(readers, dtype="f8", fill_value=np.float32(2.5))[1]
    assert found.dtype == np.float64
    assert (found == 2.5).all()


def test_errors_hold_no_pixels() -> None:
    cube = pixels((2, *SHAPE))
    readers = [*watched_frames(cube), reader_of_short()]
    found, errors = stack_of(readers, fill_value=0).read_frames(...)
    memory = weakref.ref(found)
    del found
    gc.collect()
    assert memory() is None
    assert list(errors) == [2]


def reader_of_short() -> Any:
    reader = watched_reader(pixels(SHAPE))
    return replace(reader, layout=replace(reader.layout, offset=10_000))


def test_an_error_that_was_given_is_raised_without_what_happened_before() -> None:
    given = FitsError("x.fits: no")
    stack = stack_of([watched_reader(image("i2")), given])
    for _ in range(2):
        with pytest.raises(FitsError, match="no") as caught:
            stack[1]
        assert caught.value is not given
    assert given.__traceback__ is None


def test_checks_and_plans_raise_what_reading_would(tmp_path: Path) -> None:
    readers = [*watched_frames(pixels((2, *SHAPE))), reader_of_short()]
    strict, filled = stack_of(readers), stack_of(readers, fill_value=0)
    whole = Selection.of_box(tuple(map(range, strict.shape)))
    with pytest.raises(TruncatedFileError):
        strict.check(whole)
    broken = stack_of([readers[0], FitsError("x.fits")])
    with pytest.raises(FitsError):
        broken.plan((range(2), range(12), range(30)))
    assert filled.take(0, [0, 1]).plan((range(2), range(12), range(30))).bytes == 2 * 12 * 30 * 4


# Names, sizes


def test_the_token_is_that_of_all_that_tells_the_pixels_apart() -> None:
    cube = pixels((3, *SHAPE))
    readers = watched_frames(cube)
    stack = stack_of(readers)
    same = {
        tokenize(stack),
        tokenize(stack_of(readers)),
        tokenize(pickle.loads(pickle.dumps(stack))),
    }
    assert len(same) == 1
    others = [
        stack_of(readers[::-1]),
        stack_of(readers[:2]),
        stack_of(readers, dtype="f8"),
        stack_of(readers, fill_value=0),
        stack_of(readers, fill_value=1),
        stack_of([*readers[:2], watched_reader(cube[2], offset=5760)]),
        stack_of([*readers[:2], FitsError("x")]),
        stack_of([*readers[:2], FitsError("y")]),
        stack.take(1, [1, 2]),
        stack.take(2, [1, 2]),
        stack.take(0, [0, 1]),
    ]
    # Of these, two are the same frames.
    assert len({*same, *map(tokenize, others)}) == len(others)
    nan = [stack_of(readers, dtype="f4", fill_value=fill) for fill in (np.nan, np.float32("nan"))]
    assert tokenize(nan[0]) == tokenize(nan[1])


def test_frames_are_pickled_small() -> None:
    readers = watched_frames(pixels((200, 2, 3)))
    frames = ReaderFrames(readers)
    token = tokenize(frames)
    packed = pickle.dumps(frames)
    assert len(packed) < 40 * len(readers)
    again = pickle.loads(packed)
    assert len(again) == 200
    assert tokenize(again) == token
    assert repr(again) == "<ReaderFrames: 200 frames>"
    part = again.take(np.array([3, 7]))
    assert [r.shape for r in part.readers()] == [(2, 3)] * 2
    assert tokenize(part) == tokenize(ReaderFrames([readers[3], readers[7]]))


def test_contiguous_chunks_are_whole_frames_or_a_part_of_one() -> None:
    stack = stack_of(watched_frames(np.zeros((5, 4, 8), "f4")))
    assert stack.contiguous_chunk(300) == (2, 4, 8)
    assert stack.contiguous_chunk(1 << 20) == (5, 4, 8)
    assert stack.contiguous_chunk(64) == (1, 2, 8)
    many = replace(stack, frames=ReaderFrames([FitsError("x")] * 5000))
    assert many.contiguous_chunk(1 << 30) == (MAX_FRAMES, 4, 8)
