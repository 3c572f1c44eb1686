"""Indexing a reader gives what indexing the array gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dask_fits.planning.selection import select, select_outer
from tests.support.fits_files import same_bits, watched_reader
from tests.support.strategies import DTYPES, ints, keys, lists, pixels, shapes, slices


def assert_as_numpy(array: np.ndarray, key: Any) -> None:
    reader = watched_reader(array)
    try:
        expected = array[key]
    except IndexError:
        with pytest.raises(IndexError):
            reader[key]
        assert reader.store.asked == []
        return
    found = reader[key]
    assert isinstance(found, np.ndarray) == isinstance(expected, np.ndarray)
    assert same_bits(found, expected)
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    if isinstance(found, np.ndarray):
        assert found.base is None
        assert found.flags.owndata
        assert found.flags.writeable
        assert found.flags.c_contiguous


@settings(max_examples=200, deadline=None)
@given(st.data(), shapes, st.sampled_from(DTYPES))
def test_a_valid_key(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    assert_as_numpy(pixels(shape, dtype), data.draw(keys(shape)))


@settings(max_examples=120, deadline=None)
@given(st.data(), shapes)
def test_a_key_that_may_be_out_of_bounds(data: st.DataObject, shape: tuple[int, ...]) -> None:
    assert_as_numpy(pixels(shape), data.draw(keys(shape, beyond=2)))


@settings(max_examples=150, deadline=None)
@given(st.data(), shapes)
@example(None, (2, 3, 4))
def test_the_box_and_the_key_into_it_make_the_result(
    data: st.DataObject | None, shape: tuple[int, ...]
) -> None:
    array = pixels(shape)
    key = data.draw(keys(shape)) if data else (..., [2, 0, 2], 1)
    selection = select(key, shape)
    for axis, length in zip(selection.indices, shape, strict=True):
        indices = list(axis)
        assert indices == sorted(set(indices)) == [i for i in indices if 0 <= i < length]
    box = array[np.ix_(*map(np.asarray, (np.array(axis, int) for axis in selection.indices)))]
    assert selection.shape == box.shape
    assert same_bits(box[selection.key], array[key])
    if selection.result_shape is not None:
        assert same_bits(box.reshape(selection.result_shape), array[key])


ARRAY = pixels((4, 3, 7))

FEW = [
    0,
    -1,
    slice(None),
    slice(None, None, -2),
    slice(3, 1),
    None,
    ...,
    [2, 0, 2],
    [True, False, True],
]


def outer(array: np.ndarray, key: tuple[Any, ...]) -> np.ndarray:
    """Index each axis by itself, the last one first, so that axes that go do not move others."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return array


@settings(max_examples=150, deadline=None)
@given(st.data(), shapes, st.sampled_from(DTYPES))
def test_outer_indexing(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    items = (slices(n) | lists(n) | ints(n) if n else slices(n) | lists(n) for n in shape)
    key = tuple(data.draw(item) for item in items)
    array = pixels(shape, dtype)
    selection = select_outer(key, shape)
    for axis in selection.indices:
        assert list(axis) == sorted(set(axis))
    expected = outer(array, key)
    reader = watched_reader(array)
    found = reader.read(selection)
    assert same_bits(found, expected)


def test_outer_indexing_needs_no_copy_where_lists_ascend() -> None:
    selection = select_outer(([1, 4], slice(2, 6), 0, np.array([0, 1, 2])), (5, 9, 2, 3))
    assert selection.result_shape == (*selection.shape[:2], 3)
    assert selection.indices[3] == range(3)
    assert select_outer(([4, 1], [1, 1]), (5, 9)).result_shape is None


@pytest.mark.parametrize("key", [([5], 0), (0, 3), ([[1]], 0), ([0.5], 0), ("a", 0)])
def test_outer_indexing_refuses_what_select_refuses(key: tuple[Any, ...]) -> None:
    with pytest.raises(IndexError):
        select_outer(key, (5, 3))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_combination_of_a_few_items(count: int) -> None:
    for key in itertools.product(FEW, repeat=count):
        if sum(isinstance(item, list) for item in key) <= 1:
            assert_as_numpy(ARRAY, key)


@pytest.mark.parametrize(
    "key",
    [
        (0, slice(None), [1, 2]),  # NumPy puts the list's axis first
        ([1, 2], slice(None), 0),
        (slice(None), [1, 2], 0),
        (0, None, [1, 2]),
        (None, [1, 2], None, 0),
        (slice(None), 0, [2, 2, 1]),
        (0, ..., [1]),
        (0, [], 0),
        (slice(None, None, -1), [0, 2], slice(None, None, -1)),
        np.array(2),
        (np.array(2), np.array(-1), np.array(0)),
        (np.array(2), ..., np.array(0)),
        np.uint8(3),
        np.array([3, 0], np.uint64),
        (..., [0, 2, 3, 6]),  # begins, ends and counts like range(0, 7, 2)
        (..., [0, 2, 3]),
        (..., [0, 1, 3]),
        [np.int8(1), 2],
        np.array([True, False, True, False]),
        [np.True_, np.False_, np.True_, np.False_],
        (),
        (...,),
        (None,),
        (None, None, 1, 2, 3),
    ],
)
def test_keys_with_rules_of_their_own(key: Any) -> None:
    assert_as_numpy(ARRAY, key)


@pytest.mark.parametrize(
    "key",
    [
        4,
        -5,
        2**70,
        (0, 0, 7),
        (0, 0, 0, 0),
        (..., 0, 0, 0, 0),
        (..., ...),
        [4],
        [0, -5],
        [2**70],
        [True],
        [True] * 5,
        [0.0, 1.0],
        ["a"],
        [None],
        "a",
        1.0,
        1j,
        np.float64(1),
        np.array(1.0),
        np.array(["a"]),
        np.array([], float),
        {},
        pytest.param(object(), id="object"),
        b"a",
        (slice(None), np.zeros((3, 3, 3), bool)),
    ],
    ids=repr,
)
def test_what_numpy_refuses_with_an_index_error(key: Any) -> None:
    with pytest.raises(IndexError):
        ARRAY[key]
    assert_as_numpy(ARRAY, key)


@pytest.mark.parametrize(
    "key",
    [
        ([0, 1], [0, 1]),
        [[0, 1], [1, 0]],
        np.zeros(ARRAY.shape, bool),
        np.array([[0]]),
        True,
        np.False_,
        np.array(True),
        (0, True),
    ],
    ids=repr,
)
def test_what_is_understood_by_numpy_and_refused_here(key: Any) -> None:
    ARRAY[key]
    with pytest.raises(IndexError):
        watched_reader(ARRAY)[key]


def test_a_slice_that_is_no_slice_fails_as_in_numpy() -> None:
    for key, error in (
        (slice(0, 4, 0), ValueError),
        (slice(1.5), TypeError),
        (slice("a"), TypeError),
    ):
        with pytest.raises(error):
            ARRAY[key]
        with pytest.raises(error):
            watched_reader(ARRAY)[key]


def test_messages_name_index_axis_and_size() -> None:
    reader = watched_reader(ARRAY)
    with pytest.raises(IndexError, match="index -4 is out of bounds for axis 1 with size 3"):
        reader[0, -4]
    with pytest.raises(IndexError, match="index 7 is out of bounds for axis 2 with size 7"):
        reader[..., [0, 7]]
    with pytest.raises(IndexError, match="array is 3-dimensional, but 4 were indexed"):
        reader[0, 0, None, 0, 0]


def test_each_result_is_its_own() -> None:
    reader = watched_reader(ARRAY)
    for key in (..., slice(None, None, -1), [0, 1], (slice(None), 1)):
        first = reader[key]
        first[...] = -1
        assert same_bits(reader[key], ARRAY[key])


def test_an_index_array_may_change_after_it_was_used() -> None:
    index = np.array([3, 1])
    selection = select(index, (4, 3, 7))
    index[:] = 0
    assert list(selection.indices[0]) == [1, 3]
    assert watched_reader(ARRAY)[np.array([3, 1])].tolist() == ARRAY[[3, 1]].tolist()
