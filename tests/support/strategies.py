"""Strategies of Hypothesis: shapes, keys, pixels, chunks."""

from __future__ import annotations

import math
from typing import Any

import dask.array as da
import numpy as np
from hypothesis import strategies as st

from dask_fits import ByteRange
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU
from tests.support.fits_files import WatchedStore, blocks, primary, same_bits

DTYPES = ["u1", "i2", "i4", "i8", "f4", "f8"]

shapes = st.lists(st.sampled_from([0, 1, 1, 2, 3, 4, 5, 7]), min_size=1, max_size=5).map(tuple)


def pixels(shape: tuple[int, ...], dtype: str = "i4") -> np.ndarray:
    """An array of distinct values, as far as the type has them."""
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


@st.composite
def ints(draw: st.DrawFn, length: int, *, beyond: int = 0) -> Any:
    index = draw(st.integers(-length - beyond, length - 1 + beyond))
    return draw(st.sampled_from([int, int, np.int8, np.int64, np.array]))(index)


@st.composite
def slices(draw: st.DrawFn, length: int) -> slice:
    bound = st.none() | st.integers(-length - 3, length + 3) | st.sampled_from([-(2**70), 2**70])
    step = st.none() | st.integers(-length - 2, length + 2).filter(bool) | st.sampled_from([-1, 2])
    return slice(draw(bound), draw(bound), draw(step))


@st.composite
def lists(draw: st.DrawFn, length: int, *, beyond: int = 0) -> Any:
    kind = draw(st.sampled_from(["ints", "mask", "empty"]))
    if kind == "mask":
        count = length + draw(st.integers(0, beyond))
        chosen: list[Any] = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return np.array(chosen, bool) if draw(st.booleans()) or not chosen else chosen
    if kind == "empty" or not length + beyond:
        return draw(st.sampled_from([[], np.array([], int)]))
    chosen = draw(
        st.lists(
            st.integers(-length - beyond, length - 1 + beyond), min_size=1, max_size=2 * length + 1
        )
    )
    chosen = draw(st.sampled_from([chosen, sorted(chosen), sorted(set(chosen))]))
    return draw(st.sampled_from([list, np.array, lambda c: np.array(c, np.int16)]))(chosen)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...], *, beyond: int = 0) -> Any:
    """A key for an array: at most one list, None and Ellipsis anywhere."""
    count = draw(st.integers(0, len(shape) + (draw(st.integers(0, 1)) if beyond else 0)))
    gap = draw(st.integers(0, count))  # the axes that Ellipsis or the key's end leave out go here
    lengths = [*shape, 1]
    lengths = lengths[:gap] + lengths[len(shape) - (count - gap) :] if gap < count else lengths
    with_list = draw(st.integers(0, 2 * count)) if count else -1
    items: list[Any] = []
    for axis in range(count):
        length = lengths[min(axis, len(lengths) - 1)]
        if axis == with_list:
            one = lists(length, beyond=beyond)
        elif length + beyond:
            one = ints(length, beyond=beyond) | slices(length)
        else:
            one = slices(length)
        items.append(draw(one))
    if draw(st.booleans()) or gap < count:
        items.insert(gap, Ellipsis)
    for _ in range(draw(st.integers(0, 2))):
        items.insert(draw(st.integers(0, len(items))), None)
    if len(items) == 1 and draw(st.booleans()):
        return items[0]
    return tuple(items)


def hdu_of(array: np.ndarray) -> HDU:
    bitpix = array.dtype.itemsize * (-8 if array.dtype.kind == "f" else 8)
    big = array.astype(array.dtype.newbyteorder(">")).tobytes()
    content = primary(*array.shape[::-1], bitpix=bitpix) + blocks(big)
    return FitsFile(WatchedStore(content, ByteRange(0, len(content))), b"")[0]


def dask_indexes(array: np.ndarray, key: Any, chunks: Any) -> bool:
    """Whether Dask gives NumPy's result for an array in memory; for some odd keys it does not."""
    try:
        found = da.from_array(array, chunks=chunks)[key].compute(scheduler="sync")
    except (AssertionError, AttributeError, IndexError, TypeError, ValueError):
        return False
    return same_bits(found, array[key])
