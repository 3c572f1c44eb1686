"""Columns of a collection as Arrow's arrays, and back."""

from __future__ import annotations

import os
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_fits.collections.columns import (
    COUNTS,
    NUMBERS,
    OBJECTS,
    SHAPES,
    TEXTS,
    Column,
    as_objects,
)
from dask_fits.collections.table import as_typed

POSITION = "position"
"""Column of the position of a row in the collection."""

_FILE = "file://"
"""What a path begins with that is written as a URL, since it is no UTF-8; others are not."""


_NUMBER_TYPES = {name: pa.float64() for name in NUMBERS} | {
    name: pa.int64() for name in (*COUNTS, *OBJECTS)
}


def to_arrow(name: str, values: Column) -> pa.Array:
    """Make Arrow's array of one of the fixed columns."""
    if name in SHAPES:
        lists = [None if shape is None else list(shape) for shape in values.tolist()]
        return pa.array(lists, pa.list_(pa.int64()))
    if name in TEXTS:
        return _texts(values)
    return pa.array(values, _NUMBER_TYPES[name], from_pandas=name in NUMBERS)


def _texts(values: Column) -> pa.Array:
    """Make Arrow's array of texts, which are UTF-8; other names of files are written as URLs."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array([*map(_as_utf8, values.tolist())], pa.string())


def _as_utf8(text: str) -> str:
    """Return a text that is UTF-8; of a path that is not, a URL with its bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return _FILE + quote(os.fsencode(text))
    return text


def keyword_to_arrow(values: Column) -> pa.Array:
    """Make Arrow's array of the values of a keyword."""
    typed, missing = as_typed(values)
    return pa.array(typed, mask=missing)


def from_arrow(name: str, column: pa.ChunkedArray | pa.Array) -> Column:
    """Return an Arrow column as the collection has it."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if name in COUNTS or name == POSITION:
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    if name in NUMBERS:
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    if name in SHAPES:
        return _shapes(column)
    if name == "access_url" and pc.any(pc.starts_with(column, _FILE)).as_py():
        return as_objects(map(_from_utf8, column.to_pylist()))
    if pa.types.is_dictionary(column.type):
        words = column.dictionary.to_numpy(zero_copy_only=False)
        return np.asarray(words[column.indices.to_numpy(zero_copy_only=False)], object)
    return as_objects(column.to_pylist())


def _from_utf8(text: str) -> str:
    """Return a path that `_as_utf8` wrote as a URL; any other text as it is."""
    path = text.removeprefix(_FILE)
    return text if path == text else os.fsdecode(unquote_to_bytes(path))


def _shapes(column: pa.ListArray) -> Column:
    """Return a column of shapes."""
    if shape := only_shape(column):
        shapes = np.empty(len(column), object)
        shapes.fill(shape)
        return shapes
    return as_objects(None if shape is None else tuple(shape) for shape in column.to_pylist())


def only_shape(column: pa.ListArray) -> tuple[int, ...] | None:
    """Return the shape that all of a column are, as nearly always; else None."""
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets)
    if not len(column) or column.null_count or not (lengths == lengths[0]).all():
        return None
    numbers = column.values.to_numpy()[offsets[0] : offsets[-1]].reshape(len(column), -1)
    return tuple(numbers[0].tolist()) if (numbers == numbers[0]).all() else None
