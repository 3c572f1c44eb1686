"""From a NumPy key to the pixels that it needs, in array coordinates. Pure."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers, Key

Indices = range | Integers
"""Indices along one axis, ascending and each once: a range where they are evenly spaced."""


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The box of pixels that a key needs, and how NumPy's result for the key is made of it."""

    indices: tuple[Indices, ...]
    """What is needed along each axis, NumPy order."""
    key: tuple[Any, ...]
    """Indexing the box with this gives the result: flipped, repeated, dropped and new axes."""
    result_shape: tuple[int, ...] | None
    """Shape of the result where it holds the box's pixels in their order; None where it does not
    and `key` has to be applied."""
    listed: int | None
    """Axis that was indexed with a list; None where none was."""

    @classmethod
    def of_box(cls, indices: tuple[Indices, ...]) -> Selection:
        """Select a box of pixels as it is."""
        return cls(
            indices, (slice(None),) * len(indices), tuple(len(axis) for axis in indices), None
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the box."""
        return tuple(len(axis) for axis in self.indices)

    @property
    def is_scalar(self) -> bool:
        """Whether NumPy returns a scalar for the key, rather than an array of no axes."""
        return self.result_shape == () and Ellipsis not in self.key


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
    items = key if isinstance(key, tuple) else (key,)
    items = _with_full_axes(items, len(shape))
    if sum(_is_list(item) for item in items) > 1:
        raise IndexError("only one axis can be indexed with a list")
    indices: list[Indices] = []
    post: list[Any] = []
    in_order: list[int] | None = []
    listed = None
    for item in items:
        if item is None:
            post.append(None)
            lengths = [1]
        elif item is Ellipsis:
            rest = shape[len(indices) : len(indices) + len(shape) - _count_axes(items)]
            indices += [range(n) for n in rest]
            post.append(Ellipsis)
            lengths = list(rest)
        else:
            axis, kept = _select_axis(item, len(indices), shape[len(indices)])
            indices.append(axis)
            post.append(kept)
            if isinstance(kept, np.ndarray):
                listed = len(indices) - 1
            lengths = [] if isinstance(kept, int) else [len(axis)]
            if isinstance(kept, np.ndarray) or (isinstance(kept, slice) and kept.step == -1):
                in_order = None
        if in_order is not None:
            in_order += lengths
    result_shape = None if in_order is None else tuple(in_order)
    return Selection(tuple(indices), tuple(post), result_shape, listed)


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
    >>> found = select_outer(([1, 5], 2, [0, 3, 3]), (10, 20, 30))
    >>> found.shape
    (2, 1, 2)
    >>> np.zeros(found.shape)[found.key].shape
    (2, 3)
    """
    indices, kept = zip(
        *(_select_axis(item, axis, shape[axis]) for axis, item in enumerate(key)), strict=True
    )
    if all(_is_straight(pick, len(axis)) for pick, axis in zip(kept, indices, strict=True)):
        post = tuple(0 if isinstance(pick, int) else slice(None) for pick in kept)
        lengths = (len(axis) for axis, pick in zip(indices, post, strict=True) if pick != 0)
        return Selection(indices, post, tuple(lengths), None)
    picks = (
        np.arange(len(axis))[pick]
        for axis, pick in zip(indices, kept, strict=True)
        if not isinstance(pick, int)
    )
    mesh = iter(np.ix_(*picks))
    return Selection(
        indices, tuple(0 if isinstance(pick, int) else next(mesh) for pick in kept), None, None
    )


def _is_straight(pick: int | slice | npt.NDArray[Any], length: int) -> bool:
    """Whether what is kept of an axis is what was selected along it, in its order."""
    if isinstance(pick, np.ndarray):
        return len(pick) == length and bool((pick == np.arange(length)).all())
    return isinstance(pick, int) or pick.step is None


def _with_full_axes(items: tuple[Any, ...], ndim: int) -> tuple[Any, ...]:
    ellipses = sum(item is Ellipsis for item in items)
    if ellipses > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    count = _count_axes(items)
    if count > ndim:
        raise IndexError(f"too many indices: array is {ndim}-dimensional, but {count} were indexed")
    return items if ellipses else items + (slice(None),) * (ndim - count)


def _count_axes(items: tuple[Any, ...]) -> int:
    return sum(item is not None and item is not Ellipsis for item in items)


def _is_list(item: Any) -> bool:
    return isinstance(item, list) or (isinstance(item, np.ndarray) and item.ndim > 0)


def _select_axis(
    item: Any, axis: int, length: int
) -> tuple[Indices, int | slice | npt.NDArray[Any]]:
    """Resolve one item: the indices that it needs, ascending, and what to apply to them after."""
    if isinstance(item, slice):
        wanted = range(*item.indices(length))
        if wanted.step < 0 and len(wanted) > 1:
            return wanted[::-1], slice(None, None, -1)
        return _canonical(wanted), slice(None)
    if _is_list(item):
        return _select_list(item, axis, length)
    if isinstance(item, (bool, np.bool_)) or not hasattr(item, "__index__"):
        raise IndexError(
            "only integers, slices, ellipsis, None and 1-D lists of integers or booleans are valid "
            f"indices, not {type(item).__name__}"
        )
    try:
        index = operator.index(item)
    except TypeError:  # an array of no axes that holds a float or a bool
        raise IndexError(f"an array of {item.dtype} is no valid index") from None
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of bounds for axis {axis} with size {length}")
    index %= length
    return range(index, index + 1), 0


def _select_list(item: Any, axis: int, length: int) -> tuple[Indices, npt.NDArray[Any]]:
    indices = np.asarray(item)
    if indices.ndim != 1:
        raise IndexError(f"a list index must be 1-D, not {indices.ndim}-D")
    if indices.dtype == np.bool_:
        if len(indices) != length:
            raise IndexError(
                f"boolean index of length {len(indices)} on axis {axis} with size {length}"
            )
        indices = np.flatnonzero(indices)
    elif indices.dtype.kind not in "iu" and (indices.size or isinstance(item, np.ndarray)):
        raise IndexError(f"a list index must hold integers or booleans, not {indices.dtype}")
    indices = indices.astype(np.int64)
    outside = indices[(indices < -length) | (indices >= length)]
    if outside.size:
        raise IndexError(f"index {outside[0]} is out of bounds for axis {axis} with size {length}")
    unique, inverse = np.unique(
        np.where(indices < 0, indices + length, indices), return_inverse=True
    )
    return _evenly_spaced(unique), inverse


def _evenly_spaced(indices: npt.NDArray[np.int64]) -> Indices:
    if len(indices) == 0:
        return range(0)
    step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
    wanted = range(int(indices[0]), int(indices[-1]) + 1, step)
    if len(wanted) == len(indices) and (np.diff(indices) == step).all():
        return wanted
    return indices


def _canonical(wanted: range) -> range:
    if len(wanted) > 1:
        return wanted
    return range(wanted.start, wanted.start + 1) if len(wanted) else range(0)
