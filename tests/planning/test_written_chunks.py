"""The chunks in which an array is written: whole, in runs that are long enough, within bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.planning.written_chunks import AxisLengths, written_chunks

pytestmark = pytest.mark.untraced

MANY = 1 << 60

axes = st.lists(st.integers(1, 9), min_size=1, max_size=7).map(tuple)
arrays = st.lists(axes, min_size=1, max_size=5).map(tuple)
sizes = st.sampled_from([1, 2, 4, 8])
leasts = st.sampled_from([1, 2, 16, 60, 300, 4000, MANY])


def ends(lengths: Sequence[int]) -> set[int]:
    return {0, *itertools.accumulate(lengths)}


def blocks(chunks: AxisLengths) -> Iterator[tuple[int, ...]]:
    """The shapes of an array's blocks, each once."""
    return itertools.product(*(sorted(set(lengths)) for lengths in chunks))


def run_of(block: Sequence[int], shape: Sequence[int]) -> int:
    """Pixels of each of a block's runs in the file."""
    run = 1
    for length, whole in zip(reversed(block), reversed(shape), strict=True):
        run *= length
        if length != whole:
            break
    return run


def shape_of(chunks: AxisLengths) -> tuple[int, ...]:
    return tuple(map(sum, chunks))


def assert_covers(chunks: AxisLengths, found: AxisLengths) -> None:
    assert shape_of(found) == shape_of(chunks)
    assert all(length > 0 for lengths in found for length in lengths)


@settings(max_examples=300, deadline=None)
@given(arrays, sizes, leasts, st.sampled_from([0, 100, 5000, MANY]), st.booleans())
def test_chunks_cover_the_array(
    chunks: AxisLengths, itemsize: int, least: int, most: int, contiguous: bool
) -> None:
    found = written_chunks(chunks, itemsize=itemsize, least=least, most=most, contiguous=contiguous)
    assert_covers(chunks, found)


@settings(max_examples=300, deadline=None)
@given(arrays, sizes, leasts)
def test_each_chunk_is_one_run_where_that_is_asked(
    chunks: AxisLengths, itemsize: int, least: int
) -> None:
    found = written_chunks(chunks, itemsize=itemsize, least=least, most=0, contiguous=True)
    shape = shape_of(chunks)
    for block in blocks(found):
        assert run_of(block, shape) == math.prod(block)
    for before, after in zip(chunks, found, strict=True):
        assert set(after) == {1} or ends(after) <= ends(before), "no block is in two chunks"
    # As few chunks as that: one that is shorter than asked for is all that its index has.
    inner = max(axis for axis, lengths in enumerate(found) if len(lengths) > 1 or axis == 0)
    for block in blocks(found):
        whole = block[inner] == shape[inner]
        assert math.prod(block) * itemsize >= least or whole


@settings(max_examples=300, deadline=None)
@given(arrays, sizes, leasts)
def test_blocks_are_joined_and_never_cut(chunks: AxisLengths, itemsize: int, least: int) -> None:
    found = written_chunks(chunks, itemsize=itemsize, least=least, most=MANY, contiguous=False)
    for before, after in zip(chunks, found, strict=True):
        assert ends(after) <= ends(before)
    shape = shape_of(chunks)
    whole = math.prod(shape) * itemsize
    for block in blocks(found):
        assert run_of(block, shape) * itemsize >= min(least, whole)


@settings(max_examples=300, deadline=None)
@given(arrays, sizes, leasts)
def test_axes_along_which_nothing_is_gained_stay(
    chunks: AxisLengths, itemsize: int, least: int
) -> None:
    """Blocks are joined along as few axes as will do, and no further than that."""
    found = written_chunks(chunks, itemsize=itemsize, least=least, most=MANY, contiguous=False)
    shape = shape_of(chunks)
    changed = [axis for axis in range(len(chunks)) if found[axis] != chunks[axis]]
    for axis in range(min(changed, default=0)):
        assert found[axis] == chunks[axis]
    for axis in changed[1:]:
        assert found[axis] == (shape[axis],), "the axes behind the first one are joined to the end"
    if changed and len(found[changed[0]]) > 1:
        run = math.prod(shape[changed[0] + 1 :]) * itemsize
        for start, stop in itertools.pairwise(sorted(ends(found[changed[0]]))[:-1]):
            inside = [end for end in ends(chunks[changed[0]]) if start < end < stop]
            assert all((end - start) * run < least for end in inside)


@settings(max_examples=300, deadline=None)
@given(arrays, sizes, leasts, st.sampled_from([0, 50, 400, 3000]))
def test_no_more_is_held_than_may_be(
    chunks: AxisLengths, itemsize: int, least: int, most: int
) -> None:
    found = written_chunks(chunks, itemsize=itemsize, least=least, most=most, contiguous=False)
    largest = max(math.prod(block) for block in blocks(found)) * itemsize
    assert found == chunks or largest <= most


@pytest.mark.parametrize("contiguous", [False, True])
def test_bands_that_are_long_enough_stay(contiguous: bool) -> None:
    bands = ((256,) * 16, (4096,))
    found = written_chunks(bands, itemsize=4, least=1 << 16, most=1 << 30, contiguous=contiguous)
    assert found == bands


def test_tiles_are_joined_only_as_far_as_needed() -> None:
    tiles = ((512,) * 8, (512,) * 64)
    found = written_chunks(tiles, itemsize=4, least=1 << 16, most=1 << 30, contiguous=False)
    # A run of 64 KiB is 32 tiles of 512 pixels of 4 bytes.
    assert found == ((512,) * 8, (16384, 16384))


def test_the_last_one_takes_what_is_left() -> None:
    found = written_chunks(((1,), (3,) * 7), itemsize=1, least=6, most=MANY, contiguous=False)
    assert found == ((1,), (6, 6, 9))


def test_a_cube_by_planes_where_parts_are_uploaded() -> None:
    cube = ((64,) * 4, (2048,), (2048,))
    found = written_chunks(cube, itemsize=4, least=1 << 25, most=1 << 30, contiguous=True)
    assert found == cube
    spectra = ((256,), (16,) * 128, (16,) * 128)
    found = written_chunks(spectra, itemsize=4, least=1 << 23, most=1 << 30, contiguous=True)
    assert found == ((1,) * 256, (1024, 1024), (2048,))
