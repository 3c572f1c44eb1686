"""A stack's Dask array: each selection reads what it needs, and each task carries its own frames."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import FitsError, FitsFormatError
from dask_fits.arrays.windowed import WindowedArray
from dask_fits.concurrency import cancellation
from dask_fits.stacks.array import plan_stack, stack_array
from dask_fits.stacks.frames import ReaderFrames
from dask_fits.stacks.reader import StackReader
from tests.support.data import ROOT
from tests.support.fits_files import fits_bytes, same_bits, watched_reader
from tests.support.recording import RecordingFileSystem, put
from tests.support.stacks import NamedFrames, asked, stack_of, watched_frames
from tests.support.strategies import dask_indexes, keys, pixels

SHAPE = (23, 40, 50)
CUBE = pixels(SHAPE)
CHUNKS = (5, 16, -1)
FRAME = 40 * 50 * 4


def computed(array: da.Array) -> Any:
    return array.compute(scheduler="sync")


@pytest.fixture
def readers() -> list[Any]:
    return watched_frames(CUBE)


@pytest.fixture
def array(readers: list[Any]) -> da.Array:
    return stack_array(stack_of(readers), CHUNKS)


# What is read


def test_all_of_it_is_read_once(array: da.Array, readers: list[Any]) -> None:
    assert same_bits(computed(array), CUBE)
    assert asked(readers) == dict.fromkeys(range(23), FRAME)


ROWS = 50 * 4
SELECTIONS: dict[str, tuple[Any, dict[int, int]]] = {
    # what is selected, and how many bytes are read of each frame
    "a frame": (lambda x: x[7], {7: FRAME}),
    "the last frame": (lambda x: x[-1], {22: FRAME}),
    "a pixel": (lambda x: x[7, 3, 4], {7: 4}),
    "rows of frames": (lambda x: x[4:11, 14:18], dict.fromkeys(range(4, 11), 4 * ROWS)),
    "every other": (lambda x: x[::11, ::16], dict.fromkeys((0, 11, 22), 3 * ROWS)),
    "one after another": (lambda x: x[3:20][2:9][::3, 5:][:, 4], {5: ROWS, 8: ROWS, 11: ROWS}),
    "backwards": (lambda x: x[20:3:-8, 5], {20: ROWS, 12: ROWS, 4: ROWS}),
    "a list": (lambda x: x[[17, 2, 2, 5], 3:5], dict.fromkeys((2, 5, 17), 2 * ROWS)),
    "an ascending list": (lambda x: x[[2, 5, 17], 3:5], dict.fromkeys((2, 5, 17), 2 * ROWS)),
    "a mask": (lambda x: x[np.arange(23) % 7 == 1, 8], dict.fromkeys((1, 8, 15, 22), ROWS)),
    "a list of rows": (lambda x: x[3:5, [39, 1, 2, 20]], {3: 4 * ROWS, 4: 4 * ROWS}),
    "a list of a slice": (lambda x: x[3:21:2][[8, 1, 2], 5], {5: ROWS, 7: ROWS, 19: ROWS}),
    "rows listed of a slice": (lambda x: x[4, 1:][[0, 1, 19, 38]], {4: 4 * ROWS}),
    "a list of a list": (lambda x: x[[2, 5, 17]][[2, 1]], {5: FRAME, 17: FRAME}),
    "a slice of a list": (lambda x: x[[2, 5, 17]][1:, 7], {5: ROWS, 17: ROWS}),
    "lists of two axes": (lambda x: x[[2, 5, 17]][:, [3, 4, 30]][0], {2: 3 * ROWS}),
    "a new axis": (lambda x: x[None, 4, 7:9, None], {4: 2 * ROWS}),
    "an ellipsis": (lambda x: x[..., 3:5, :][-2:], {21: 2 * ROWS, 22: 2 * ROWS}),
    "an integer and a list": (lambda x: x[2, [39, 1, 20]], {2: 3 * ROWS}),
    "nothing": (lambda x: x[5:5], {}),
    "nothing of rows": (lambda x: x[:, 3:3], {}),
    "an empty list": (lambda x: x[[]], {}),
    "of a copy": (lambda x: copy.copy(x)[4:6, :2], dict.fromkeys((4, 5), 2 * ROWS)),
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_reads_what_it_needs(array: da.Array, readers: list[Any], name: str) -> None:
    select, most = SELECTIONS[name]
    assert same_bits(computed(select(array)), select(CUBE))
    assert asked(readers) == most


def test_a_block_and_a_part_of_what_was_computed(array: da.Array, readers: list[Any]) -> None:
    assert same_bits(computed(array.blocks[1, 2]), CUBE[5:10, 32:40])
    assert asked(readers) == dict.fromkeys(range(5, 10), 8 * ROWS)
    assert same_bits(computed((array[4, 3:9] * 2)[1:3]), (CUBE[4, 3:9] * 2)[1:3])
    assert asked(readers) == {4: 6 * ROWS}


def test_a_list_beside_new_axes() -> None:
    """Dask alone would make tasks that fail."""
    cube = pixels((11, 6, 7))
    array = stack_array(stack_of(watched_frames(cube)), (1, 3, 1))
    key = (None, ..., 0, [1, 0, 2, -1], 0)
    assert same_bits(computed(array[key]), cube[key])


def test_reads_end_with_the_computation_that_they_are_for(readers: list[Any]) -> None:
    scopes = []

    class Visited(ReaderFrames):
        def readers(self) -> Any:
            scopes.append(cancellation._CURRENT_SCOPE.get())
            return readers

        def take(self, indices: Any) -> Any:
            return self

    Callback.active.clear()
    frames = Visited(readers)
    computed(stack_array(StackReader(frames, SHAPE[1:], np.dtype("i8")), -1))
    assert scopes[0] is not cancellation._PROCESS_SCOPE


def test_dask_still_hands_a_slice_on_to_a_reader(array: da.Array, readers: list[Any]) -> None:
    """After an assignment to a copy it is Dask alone that knows of slices."""
    late = da.Array(array.dask, array.name, array.chunks, meta=array)
    assert type(late) is da.Array
    assert same_bits(computed(late[7, 18:20]), CUBE[7, 18:20])
    assert asked(readers) == {7: 2 * ROWS}


@settings(max_examples=50, deadline=None)
@given(st.data(), st.sampled_from([(11, 6, 7), (9, 5), (3, 2, 4, 5), (1, 4, 5)]))
def test_any_keys_and_chunks_are_numpys(data: Any, shape: Any) -> None:
    cube = pixels(shape)
    readers = watched_frames(cube)
    chunks = tuple(data.draw(st.integers(1, length)) for length in shape)
    found, expected = stack_array(stack_of(readers), chunks), cube
    numbers = np.arange(len(cube)).reshape(-1, *(1,) * (cube.ndim - 1)) + 0 * cube
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(keys(expected.shape))
        if not dask_indexes(expected, key, found.chunks):
            break
        found, expected, numbers = found[key], expected[key], numbers[key]
        if not isinstance(expected, np.ndarray) or not expected.ndim:
            break
    assert found.shape == expected.shape
    assert same_bits(computed(found), expected)
    if found.size and type(found) is WindowedArray:
        assert set(asked(readers)) == set(np.unique(numbers).tolist())


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_plans_are_what_is_read(data: Any) -> None:
    cube = pixels((11, 6, 7))
    readers = watched_frames(cube)
    stack = stack_of(readers)
    chunks = tuple(data.draw(st.integers(1, length)) for length in cube.shape)
    key = data.draw(keys(cube.shape))
    if not dask_indexes(cube, key, chunks):
        return
    plan = plan_stack(stack, chunks, key=key)
    computed(stack_array(stack, chunks)[key])
    # As many requests, since chunks share nothing.
    ranges = [part for reader in readers for part in reader.store.asked]
    assert sorted(ranges) == sorted(plan.ranges)
    assert plan.bytes == sum(part.nbytes for part in ranges)


def test_requests_over_a_filesystem() -> None:
    urls = [put(f"{n}.fits", fits_bytes(fits.PrimaryHDU(frame))) for n, frame in enumerate(CUBE)]
    stack = stack_of([dask_fits.open(url)[0].reader() for url in urls])
    array = stack_array(stack, "20 kB")
    assert array.chunks == ((2,) * 11 + (1,), (40,), (50,))
    RecordingFileSystem.log.clear()
    part = array[3:20][::4, 10:12][1:3]
    assert same_bits(computed(part), CUBE[[7, 11], 10:12])
    assert [stop - start for start, stop in RecordingFileSystem.ranges()] == [2 * ROWS] * 2
    assert plan_stack(stack, "20 kB", key=np.s_[7:12:4, 10:12]).requests == 2


# Chunks


def test_chunks_of_frames_that_are_small() -> None:
    frames = NamedFrames.many(2500)
    small = stack_array(StackReader(frames, (10, 10), np.dtype("f4")))
    assert small.chunks == ((1000, 1000, 500), (10,), (10,))
    with dask.config.set({"array.chunk-size": "40 kB"}):
        assert stack_array(StackReader(frames, (10, 10), np.dtype("f4"))).chunksize == (100, 10, 10)


def test_chunks_of_frames_that_are_large() -> None:
    frames = NamedFrames.many(3)
    stack = StackReader(frames, (100, 200), np.dtype("f8"))
    with dask.config.set({"array.chunk-size": "40 kB"}):
        assert stack_array(stack).chunks == ((1, 1, 1), (25,) * 4, (200,))
        # A frame of half as many bytes a pixel, in tiles.
        like = watched_reader(np.zeros((100, 200), "f4"))
        assert stack_array(stack, like=like).chunks == ((1, 1, 1), (25,) * 4, (200,))
        tiles = Tiles((100, 200), np.dtype("f4"))
        assert stack_array(stack, like=tiles).chunks == ((1, 1, 1), (32, 32, 32, 4), (100, 100))
        assert stack_array(stack, "10 MB", like=tiles).chunks == ((3,), (100,), (200,))


@dataclass(frozen=True)
class Tiles:
    shape: tuple[int, ...]
    dtype: Any

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        assert limit == 20_000, "of its own pixels"
        return (32, 100)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (7, ((7, 7, 7, 2), (7,) * 5 + (5,), (7,) * 7 + (1,))),
        (-1, ((23,), (40,), (50,))),
        ((10, -1, -1), ((10, 10, 3), (40,), (50,))),
        ({0: 10}, ((10, 10, 3), (40,), (50,))),
        ({0: 10, 2: 25}, ((10, 10, 3), (40,), (25, 25))),
        (((20, 3), 40, (30, 20)), ((20, 3), (40,), (30, 20))),
        ("auto", ((23,), (40,), (50,))),
        ("16 kB", ((2,) * 11 + (1,), (40,), (50,))),
        (("auto", -1, -1), ((23,), (40,), (50,))),
    ],
)
def test_other_chunks_are_what_dask_makes_of_them(
    readers: list[Any], chunks: Any, expected: Any
) -> None:
    array = stack_array(stack_of(readers), chunks)
    assert array.chunks == expected
    assert same_bits(computed(array), CUBE)


def test_wrong_chunks_are_refused(readers: list[Any]) -> None:
    for chunks in ((5, 5), ((20, 4), -1, -1), "many"):
        with pytest.raises(ValueError, match=r".+"):
            stack_array(stack_of(readers), chunks)
    many = stack_of([watched_reader(np.zeros((5000, 5000), "u1"))] * 2)
    with pytest.raises(FitsFormatError, match="chunks: found 50000000 of them"):
        stack_array(many, 1)


def test_a_stack_of_nothing() -> None:
    for count, shape in ((0, (4, 5)), (3, (0, 5))):
        stack = StackReader(ReaderFrames([]), shape, np.dtype("i2"))
        if count:
            stack = stack_of(watched_frames(np.zeros((count, *shape), "i2")))
        array = stack_array(stack)
        assert computed(array).shape == (count, *shape)
        assert computed(array[:, 0:0]).dtype == np.int16


# Frames that cannot be read


@pytest.mark.parametrize("fill", [None, -5])
def test_errors_are_raised_or_filled(readers: list[Any], fill: Any) -> None:
    frames = [*readers[:4], FitsError("bad.fits: no"), *readers[5:]]
    array = stack_array(stack_of(frames, fill_value=fill), CHUNKS)
    assert same_bits(computed(array[5:, 3]), CUBE[5:, 3])
    if fill is None:
        with pytest.raises(FitsError, match=r"bad\.fits"):
            computed(array)
        with pytest.raises(FitsError, match=r"bad\.fits"):
            plan_stack(stack_of(frames), CHUNKS)
    else:
        expected = CUBE.copy()
        expected[4] = fill
        assert same_bits(computed(array), expected)
        assert plan_stack(stack_of(frames, fill_value=fill), CHUNKS).bytes == 22 * FRAME


@pytest.mark.parametrize(
    ("dtype", "fill"), [("u1", -1), ("u1", 256), ("i4", np.nan), ("i2", 0.5), ("i8", np.inf)]
)
def test_a_fill_value_that_pixels_cannot_have_is_refused(dtype: str, fill: Any) -> None:
    stack = StackReader(NamedFrames.many(3), (4, 5), np.dtype(dtype), fill)
    with pytest.raises(ValueError, match=r"fill_value: found .*, expected an integer from"):
        stack_array(stack)


def test_fill_values_that_pixels_can_have() -> None:
    for dtype, fill in (("u1", 255), ("i4", np.int64(-3)), ("f4", np.nan), ("f4", 1), ("i2", 3.0)):
        stack_array(StackReader(NamedFrames.many(3), (4, 5), np.dtype(dtype), fill))


# Names


def test_the_name_is_that_of_frames_type_fill_value_and_chunks(readers: list[Any]) -> None:
    stack = stack_of(readers)
    array = stack_array(stack, CHUNKS)
    again = stack_array(stack_of(watched_frames(CUBE)), {0: 5, 1: 16})
    same = {array.name, again.name, cloudpickle.loads(cloudpickle.dumps(array)).name}
    assert len(same) == 1
    assert array.name.startswith("fits-stack-")
    assert len({array[4:9, 600:].name, array[:9][4:, 600:].name}) == 1
    newer = replace(readers[3].store, content=readers[3].store.content + b"x")
    others = [
        stack_array(stack_of(readers[::-1]), CHUNKS),
        stack_array(
            stack_of([*readers[:3], replace(readers[3], store=newer), *readers[4:]]), CHUNKS
        ),
        stack_array(stack_of(readers, dtype="f8"), CHUNKS),
        stack_array(stack_of(readers, fill_value=0), CHUNKS),
        stack_array(stack, 5),
        *(array[key] for key in (1, 2, np.s_[:5], np.s_[::2], np.s_[:, 3], [1, 2, 5], [1, 2, 6])),
        *(array[:, [1, 2, 5]], array[:, [1, 2, 6]], array[:, :, [1, 2, 5]]),
    ]
    names = {other.name for other in others} | same
    assert len(names) == len(others) + 1


NAME = """
import sys
import numpy as np, dask_fits
from dask_fits.stacks.array import stack_array
from dask_fits.stacks.frames import ReaderFrames
from dask_fits.stacks.reader import StackReader
readers = [dask_fits.open(path)[0].reader() for path in sys.argv[1:]]
array = stack_array(StackReader(ReaderFrames(readers), readers[0].shape, readers[0].dtype, np.nan))
print(array.name, array[[0, 2]][:, 3:5].name, array[:, [0, 3, 4]].name)
"""


def test_names_are_the_same_in_every_process(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{n}.fits") for n in range(3)]
    for path, frame in zip(paths, CUBE.astype("f4"), strict=False):
        fits.PrimaryHDU(frame).writeto(path)
    names = set()
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", NAME, *paths],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
        )
        names.add(told.stdout)
    assert len(names) == 1
    assert len(set(names.pop().split())) == 3


# Sizes


def of_tasks(array: da.Array) -> list[Any]:
    (optimized,) = dask.optimize(array)
    return list(dict(optimized.dask).values())


@pytest.fixture(scope="module")
def many() -> NamedFrames:
    return NamedFrames.many(100_000)


def test_the_graph_of_very_many_frames_is_small(many: NamedFrames) -> None:
    for shape in ((64, 64), (2048, 4096), (20_000, 20_000)):
        array = stack_array(StackReader(many, shape, np.dtype("f4"), np.nan))
        assert len(cloudpickle.dumps(array)) < 20e6
        (optimized,) = dask.optimize(array[31_416, 5:9])
        assert not array.dask.layers[array.name].is_materialized()
        (task,) = dict(optimized.dask).values()
        assert len(pickle.dumps(task)) < 2000


def test_a_task_has_its_own_frames_alone(many: NamedFrames) -> None:
    array = stack_array(StackReader(many, (2048, 4096), np.dtype("f4")))
    assert array.chunksize[0] == 4
    tasks = of_tasks(array[1000:1400, 3:5])
    assert len(tasks) == 100
    assert all(len(pickle.dumps(task)) < 2000 for task in tasks)
    small = stack_array(StackReader(many, (64, 64), np.dtype("f4")))
    (task,) = of_tasks(small[[5, 70, 99, 200], 7])
    assert len(pickle.dumps(task)) < 2000
    assert len(pickle.dumps(of_tasks(small[:1000])[0])) < 70 * 1000


def test_a_part_is_pickled_with_its_own_frames_alone(many: NamedFrames) -> None:
    array = stack_array(StackReader(many, (64, 64), np.dtype("f4")))
    for part in (array[5], array[5:9], array[[3, 5, 9_999]], array[::10_000, 4]):
        assert len(cloudpickle.dumps(part)) < 3000


def test_what_was_pickled_goes_on_as_before(array: da.Array) -> None:
    for key in (np.s_[4:20:3], np.s_[7, 3:], np.s_[::-2], np.s_[:, 5], [4, 5, 9]):
        part = array[key]
        again = cloudpickle.loads(cloudpickle.dumps(part))
        assert again.name == part.name
        assert same_bits(computed(again), CUBE[key])
        assert same_bits(computed(again[1:3]), CUBE[key][1:3])
        computed(part)
        size = len(cloudpickle.dumps(part))
        assert len(part.dask.layers[part.name]) == part.npartitions
        assert len(cloudpickle.dumps(part)) == size, "the tasks are not pickled"
        assert same_bits(computed(cloudpickle.loads(cloudpickle.dumps(part))), CUBE[key])


@dataclass(frozen=True)
class Reference:
    """Frames of which a graph has the name of a table alone."""

    table: str
    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first

    def take(self, indices: np.ndarray) -> Reference:
        assert len(indices) == indices[-1] - indices[0] + 1
        return Reference(
            self.table, self.first + int(indices[0]), self.first + int(indices[-1]) + 1
        )

    def __dask_tokenize__(self) -> object:
        return self.table, self.first, self.stop


def test_a_million_frames_of_a_table_cost_next_to_nothing() -> None:
    frames = Reference("survey.parquet", 0, 1_000_000)
    for shape in ((64, 64), (2048, 4096)):
        array = stack_array(StackReader(frames, shape, np.dtype("f4")))
        assert len(cloudpickle.dumps(array)) < 1e6
        (task,) = of_tasks(array[271_828, 3:9])
        assert len(pickle.dumps(task)) < 2000


# Together with Dask


STEPS = {
    "rechunk": lambda x: (x.rechunk((23, 10, 10)), CUBE),
    "median": lambda x: (da.median(x.rechunk((-1, 10, -1)), axis=0), np.median(CUBE, axis=0)),
    "mean": lambda x: (x.mean(axis=0), CUBE.mean(axis=0)),
    "map_blocks": lambda x: (x.map_blocks(np.negative), -CUBE),
    "arithmetic": lambda x: (x * 2 - x[:1], CUBE * 2 - CUBE[:1]),
    "concatenate": lambda x: (da.concatenate([x, x[:3]]), np.concatenate([CUBE, CUBE[:3]])),
    "optimize": lambda x: (dask.optimize(x)[0][3:9], CUBE[3:9]),
    "persist": lambda x: (x.persist(scheduler="sync")[3:9], CUBE[3:9]),
    "reshape": lambda x: (x.reshape(-1), CUBE.reshape(-1)),
    "fancy": lambda x: (x.vindex[[3, 4], [5, 6]], CUBE[[3, 4], [5, 6]]),
    "boolean": lambda x: (x[x > 45_000], CUBE[CUBE > 45_000]),
    "delayed": lambda x: (
        da.from_delayed(x.to_delayed()[0, 0, 0], (5, 16, 50), x.dtype),
        CUBE[:5, :16],
    ),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_steps_of_dask(array: da.Array, name: str, scheduler: str) -> None:
    with dask.config.set(scheduler=scheduler):
        found, expected = STEPS[name](array)
        assert same_bits(found.compute(), expected)
        assert same_bits(found.compute(optimize_graph=False), expected)


def test_an_assignment_counts_and_stays_in_its_copy(array: da.Array) -> None:
    changed = array.copy()
    changed[2:4, 5] = -1
    expected = CUBE.copy()
    expected[2:4, 5] = -1
    assert same_bits(computed(changed[1:5, 4:7]), expected[1:5, 4:7])
    assert same_bits(computed(array), CUBE)


def test_query_planning_reads_chunks_one_by_one(tmp_path: Path) -> None:
    """Where Dask takes no layers but its own, slices reach the reader as it hands them on."""
    code = """
import dask
dask.config.set({"array.query-planning": True})
import numpy as np, dask.array as da
from tests.support.stacks import watched_frames, stack_of
from dask_fits.stacks.array import stack_array
from dask.array.core import Array
cube = np.arange(9 * 4 * 5).reshape(9, 4, 5)
readers = watched_frames(cube)
array = stack_array(stack_of(readers), (2, -1, -1))
assert da.Array is not Array
assert (array[3, 1:3].compute(scheduler="sync") == cube[3, 1:3]).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
