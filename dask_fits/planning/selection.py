"""The pixels that a NumPy key needs, in array coordinates. Pure."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers, Key, KeyItem

Indices = range | Integers
"""Indices along one axis, ascending and each once: a range if they are evenly spaced."""

_Pick = int | slice | npt.NDArray[Any]
"""Index of the indices that a key's item needs: 0, a slice of all in either order, or a list."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The box of pixels that a key needs, and how NumPy's result for the key is made of it.

    A read allocates, fills and returns::

        pixels = selection.empty(dtype)
        fill(pixels.reshape(selection.shape))
        return selection.result(pixels)
    """

    indices: tuple[Indices, ...]
    """Needed indices along each axis, NumPy order."""
    key: tuple[Any, ...]
    """Indexing the box with this gives the result: flipped, repeated, dropped and new axes."""
    result_shape: tuple[int, ...] | None
    """Shape of the result if it holds the box's pixels in their order; None if it does not and
    `key` has to be applied."""
    listed: int | None
    """Axis that was indexed with a list; None if none was."""

    @classmethod
    def of_box(cls, indices: tuple[Indices, ...]) -> Selection:
        """Select a box of pixels as it is."""
        return cls(
            indices=indices,
            key=(slice(None),) * len(indices),
            result_shape=tuple(len(axis) for axis in indices),
            listed=None,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return tuple(len(axis) for axis in self.indices)

    @property
    def is_scalar(self) -> bool:
        """Whether NumPy returns a scalar for the key, rather than an array of no axes."""
        return self.result_shape == () and Ellipsis not in self.key

    def empty(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Allocate a C-contiguous array of as many pixels as the box has, in their order.

        It has the shape of the result if the key keeps the order: then it becomes the result.
        """
        return np.empty(self.shape if self.result_shape is None else self.result_shape, dtype)

    def result(self, pixels: npt.NDArray[Any]) -> Any:
        """Return NumPy's result for the key, out of the filled array that `empty` allocated."""
        if self.result_shape is not None:
            return pixels[()] if self.is_scalar else pixels
        picked = pixels[self.key]
        # A view would keep the whole box in memory.
        return picked if picked.base is None else picked.copy()


def select(key: Key, shape: tuple[int, ...]) -> Selection:
    """Resolve a key against an array's shape.

    Parameters
    ----------
    key : int, slice, Ellipsis, None, 1-D list of int or bool, or a tuple of these
        As for a NumPy array; at most one list.
    shape : tuple of int
        Shape of the array, NumPy order.

    Raises
    ------
    IndexError
        As NumPy would, and for keys with more than one list or a list of more than one axis.

    Examples
    --------
    >>> select((slice(2, 6), -1), (10, 20)).indices
    (range(2, 6), range(19, 20))
    """
    items = _append_full_axes(key if isinstance(key, tuple) else (key,), len(shape))
    if sum(_is_list(item) for item in items) > 1:
        raise IndexError("only one axis can be indexed with a list")
    indices: list[Indices] = []
    box_key: list[Any] = []
    result_shape: list[int] = []
    listed = None
    for item in items:
        # The next axis of the array is the first without indices: `None` takes none of them.
        axis = len(indices)
        if item is None:
            box_key.append(None)
            result_shape.append(1)
        elif item is Ellipsis:
            lengths = shape[axis : axis + len(shape) - _count_axes(items)]
            indices += [range(length) for length in lengths]
            box_key.append(Ellipsis)
            result_shape += lengths
        else:
            needed, pick = _select_axis(item, axis, shape[axis])
            indices.append(needed)
            box_key.append(pick)
            if isinstance(pick, np.ndarray):
                listed = axis
            if not isinstance(pick, int):
                result_shape.append(len(needed))
    # A list may repeat and shuffle pixels; a negative step turns them around.
    keeps_order = listed is None and not any(
        isinstance(pick, slice) and pick.step == -1 for pick in box_key
    )
    return Selection(
        indices=tuple(indices),
        key=tuple(box_key),
        result_shape=tuple(result_shape) if keeps_order else None,
        listed=listed,
    )


def select_outer(key: tuple[Any, ...], shape: tuple[int, ...]) -> Selection:
    """Resolve a key whose lists select along their own axis, each independent of the others.

    That is outer (orthogonal) indexing, which xarray and zarr have beside NumPy's.

    Parameters
    ----------
    key : tuple of int, slice, or 1-D list of int or bool
        One for each axis.
    shape : tuple of int
        Shape of the array, NumPy order.

    Raises
    ------
    IndexError
        As for `select`.

    Examples
    --------
    >>> selection = select_outer(([1, 5], 2, [0, 3, 3]), (10, 20, 30))
    >>> selection.shape
    (2, 1, 2)
    >>> np.zeros(selection.shape)[selection.key].shape
    (2, 3)
    """
    indices, picks = zip(
        *(_select_axis(item, axis, shape[axis]) for axis, item in enumerate(key)), strict=True
    )
    if all(_is_identity(pick, len(axis)) for pick, axis in zip(picks, indices, strict=True)):
        box_key = tuple(0 if isinstance(pick, int) else slice(None) for pick in picks)
        lengths = (len(axis) for axis, pick in zip(indices, box_key, strict=True) if pick != 0)
        return Selection(indices, box_key, tuple(lengths), None)
    positions = (
        np.arange(len(axis))[pick]
        for axis, pick in zip(indices, picks, strict=True)
        if not isinstance(pick, int)
    )
    # Integers drop their axes, so that the mesh has an array for each of the others alone.
    mesh = iter(np.ix_(*positions))
    box_key = tuple(0 if isinstance(pick, int) else next(mesh) for pick in picks)
    return Selection(indices, box_key, None, None)


def _is_identity(pick: _Pick, length: int) -> bool:
    """Return whether a pick takes each of `length` indices once, in their order."""
    if isinstance(pick, np.ndarray):
        return len(pick) == length and bool((pick == np.arange(length)).all())
    return isinstance(pick, int) or pick.step is None


def _append_full_axes(items: tuple[KeyItem, ...], ndim: int) -> tuple[KeyItem, ...]:
    """Append a full slice for each axis that a key leaves out at its end."""
    ellipses = sum(item is Ellipsis for item in items)
    if ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    count = _count_axes(items)
    if count > ndim:
        raise IndexError(f"too many indices: array is {ndim}-dimensional, but {count} were indexed")
    return items if ellipses else items + (slice(None),) * (ndim - count)


def _count_axes(items: tuple[KeyItem, ...]) -> int:
    """Count the axes of the array that the items index, one by one."""
    return sum(item is not None and item is not Ellipsis for item in items)


def _is_list(item: KeyItem) -> bool:
    return isinstance(item, list) or (isinstance(item, np.ndarray) and item.ndim > 0)


def _select_axis(item: KeyItem, axis: int, length: int) -> tuple[Indices, _Pick]:
    """Resolve one item: the indices that it needs, ascending, and what it takes of them."""
    if isinstance(item, slice):
        indices = range(*item.indices(length))
        if indices.step < 0 and len(indices) > 1:
            return indices[::-1], slice(None, None, -1)
        return _normalize_range(indices), slice(None)
    if _is_list(item):
        return _select_list(item, axis, length)
    if isinstance(item, (bool, np.bool_)) or not hasattr(item, "__index__"):
        raise IndexError(
            "only integers, slices, ellipsis, None and 1-D lists of integers or booleans are valid "
            f"indices, not {type(item).__name__}"
        )
    number: Any = item  # of any type with `__index__`
    try:
        index = operator.index(number)
    except TypeError:  # an array of no axes that holds a float or a bool
        raise IndexError(f"an array of {number.dtype} is no valid index") from None
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")
    index %= length
    return range(index, index + 1), 0


def _select_list(item: KeyItem, axis: int, length: int) -> tuple[Indices, npt.NDArray[Any]]:
    """Resolve a list: the indices in it, ascending and each once, and where each item is there."""
    indices = np.asarray(item)
    if indices.ndim != 1:
        raise IndexError(f"a list index must be 1-D, not {indices.ndim}-D")
    if indices.dtype == np.bool_:
        if len(indices) != length:
            raise IndexError(
                f"boolean index of length {len(indices)} on axis {axis} with size {length}"
            )
        indices = np.flatnonzero(indices)
    # NumPy makes floats of an empty list, and takes it as an index all the same.
    elif indices.dtype.kind not in "iu" and (indices.size or isinstance(item, np.ndarray)):
        raise IndexError(f"a list index must hold integers or booleans, not {indices.dtype}")
    indices = indices.astype(np.int64)
    outside = indices[(indices < -length) | (indices >= length)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is out of bounds for axis {axis} with size {length}")
    unique, inverse = np.unique(
        np.where(indices < 0, indices + length, indices), return_inverse=True
    )
    return _to_range(unique), inverse


def _to_range(indices: Integers) -> Indices:
    """Return ascending indices as a range if they are evenly spaced, else as they are."""
    if len(indices) == 0:
        return range(0)
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    evenly_spaced = range(int(indices[0]), int(indices[-1]) + 1, step)
    if len(evenly_spaced) == len(indices) and (np.diff(indices) == step).all():
        return evenly_spaced
    return indices


def _normalize_range(indices: range) -> range:
    """Return a range with a positive step: one of at most one index may have any."""
    if len(indices) > 1:
        return indices
    return range(indices.start, indices.start + 1) if len(indices) else range(0)
