"""Collections in Parquet files; the only importer of pyarrow.

A file has a row for each image, as the collection has, and the columns of `columns.FIXED` and of
the keywords under their own names, so that other tools read it. Rows that are near each other on
the sky are near each other in the file; the column `position` has their order in the collection.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dask_fits._typing import Integers
from dask_fits.collections.columns import (
    COUNTS,
    FIXED,
    NUMBERS,
    OBJECTS,
    SHAPES,
    TEXTS,
    Column,
    as_objects,
)
from dask_fits.collections.table import as_typed
from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.file.hdu import HduKey
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import write_file
from dask_fits.storage.opening import open_store
from dask_fits.storage.place import place_of
from dask_fits.storage.store import Store
from dask_fits.storage.store_file import StoreFile
from dask_fits.wcs.sphere import unit_vectors_of

_POSITION = "position"
"""Column of the position of a row in the collection."""

_METADATA = b"dask_fits"
"""Name of what is said of the file as a whole."""

_FORMAT = 1
"""Version of the format."""

_GROUP = 16_384
"""Rows of a group, which is read as a whole."""

_CELLS = 64
"""Cells along each side of a face of a cube around the sky, by which rows are sorted."""

_REPETITIVE = [name for name in TEXTS if name not in ("access_url", "version", "wcs", "s_region")]
"""Columns of text of which many rows have the same."""

_UNSORTED_TYPES = {name: pa.float64() for name in NUMBERS} | {
    name: pa.int64() for name in (*COUNTS, *OBJECTS)
}


def write_parquet(
    column: Callable[[str], Column],
    keywords: tuple[str, ...],
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
    hdus: tuple[HduKey | None, ...] | None = None,
) -> None:
    """Write the columns of a collection; see `Collection.to_parquet`.

    Parameters
    ----------
    column : callable
        Returns a column by its name. One after the other, so that not all are in memory.
    keywords : tuple of str
    url, storage_options
    hdus : tuple of HduKey, optional
        Keys of the HDUs that were asked for, of an index that may be updated; None for all images.
    """
    order = sky_order(column("s_ra"), column("s_dec"))
    arrays = {_POSITION: pa.array(order, pa.int64())}
    for name in FIXED:
        arrays[name] = _to_arrow(name, column(name)[order])
    for name in keywords:
        arrays[name] = _keyword_to_arrow(column(name)[order])
    about = {"format": _FORMAT, "keywords": keywords, "hdus": hdus}
    metadata = {_METADATA: json.dumps(about).encode()}
    table = pa.table(arrays).replace_schema_metadata(metadata)
    place = place_of(url, storage_options)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=_GROUP)
    with storage_errors(place.url, place.options):
        write_file(place.url, place.options, [sink.getvalue()])


def sky_order(ra: npt.NDArray[np.float64], dec: npt.NDArray[np.float64]) -> Integers:
    """Return an order of positions in which those near each other on the sky mostly stay together.

    They lie on a cube around the sky, cell by cell along a curve (Morton's); within a cell, and
    without a position, they keep the order that they have.
    """
    vectors = unit_vectors_of(np.deg2rad(ra), np.deg2rad(dec))
    known = np.isfinite(ra) & np.isfinite(dec)
    vectors = np.where(known[:, None], vectors, 1.0)
    axis = np.abs(vectors).argmax(axis=1)
    along = np.take_along_axis(vectors, axis[:, None], axis=1)[:, 0]
    others = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    face = 2 * axis + (along < 0)
    # Angles rather than projected lengths: cells of about the same size.
    sides = np.arctan(np.take_along_axis(vectors, others, axis=1) / np.abs(along)[:, None])
    cells = np.clip((sides / (np.pi / 2) + 0.5) * _CELLS, 0, _CELLS - 1).astype(np.int64)
    within = _interleave(cells[:, 0]) | _interleave(cells[:, 1]) << 1
    key = np.where(known, face << 12 | within, -1)
    return np.argsort(key, kind="stable").astype(np.int64)


def _interleave(numbers: Integers) -> Integers:
    """Put a zero bit behind each of the six bits of numbers."""
    result = np.zeros_like(numbers)
    for bit in range(6):
        result |= (numbers >> bit & 1) << 2 * bit
    return result


def _to_arrow(name: str, values: Column) -> pa.Array:
    """Make Arrow's array of one of the fixed columns."""
    if name in SHAPES:
        lists = [None if shape is None else list(shape) for shape in values.tolist()]
        return pa.array(lists, pa.list_(pa.int64()))
    if name in TEXTS:
        return pa.array(values, pa.string())
    return pa.array(values, _UNSORTED_TYPES[name], from_pandas=name in NUMBERS)


def _keyword_to_arrow(values: Column) -> pa.Array:
    """Make Arrow's array of the values of a keyword."""
    typed, missing = as_typed(values)
    return pa.array(typed, mask=missing)


def open_parquet(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> tuple[pa.Table | None, ParquetColumns | None]:
    """Open a Parquet file.

    Returns
    -------
    table : pyarrow.Table or None
        The file as a table, if no collection is in it.
    columns : ParquetColumns or None
        The columns of a collection, which are read when they are needed.

    Raises
    ------
    FitsFormatError
        It is no Parquet file, or of a later format.
    FitsFileNotFoundError, AccessDeniedError, StorageError
        It cannot be read.
    """
    store, _ = open_store(url, storage_options, None, count=0)
    try:
        file = pq.ParquetFile(StoreFile(store))
        about = (file.schema_arrow.metadata or {}).get(_METADATA)
        if about is None:
            return file.read(), None
        described = json.loads(about)
    except (pa.ArrowException, ValueError) as error:
        raise FitsFormatError(f"{store.name}: no Parquet file: {one_line(error)}") from error
    if described["format"] != _FORMAT:
        raise FitsFormatError(
            f"{store.name}: found a collection of format {described['format']}, expected {_FORMAT}"
        )
    groups = tuple(
        file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)
    )
    return None, ParquetColumns(store, tuple(described["keywords"]), groups)


def read_hdus(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> tuple[HduKey | None, ...] | None:
    """Return the keys of the HDUs that were asked for when a collection was written."""
    store, _ = open_store(url, storage_options, None, count=0)
    about = json.loads(pq.ParquetFile(StoreFile(store)).schema_arrow.metadata[_METADATA])
    hdus = about["hdus"]
    if hdus is None:
        return None
    return tuple(tuple(key) if isinstance(key, list) else key for key in hdus)


class _Kept:
    """What a process has read of Parquet files lately, for its next tasks."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = ProcessLock()
        self._items: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> Any:
        """Return what is kept under a key; None if nothing is."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
            return self._items.get(key)

    def put(self, key: tuple[object, ...], item: Any) -> None:
        """Keep something, in the place of what has not been used for longest."""
        with self._lock:
            self._items[key] = item
            while len(self._items) > self._most:
                self._items.popitem(last=False)


_GROUPS_KEPT = _Kept(32)
_ORDERS_KEPT = _Kept(4)


@dataclass(frozen=True, slots=True, eq=False)
class ParquetColumns:
    """The columns of a collection in a Parquet file; see `columns.Columns`.

    It holds no handle and, once pickled, no rows.
    """

    store: Store
    keywords: tuple[str, ...]
    groups: tuple[int, ...]
    """Rows of each group of rows."""
    _whole: dict[str, Column] = field(default_factory=dict, repr=False)
    """Columns that have been read as a whole."""
    _distinct: dict[str, set[Any]] = field(default_factory=dict, repr=False)
    """Different values of columns, as far as they have been looked for."""

    is_held = False
    """Whether the rows are in memory."""

    def __len__(self) -> int:
        return sum(self.groups)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.keywords, self.groups)

    @property
    def token(self) -> tuple[object, ...]:
        """What tells this version of the file from all others."""
        return self.store.token

    def order(self) -> Integers:
        """Return the rows of the file in the order of the collection."""
        key = self.token
        rows: Integers | None = _ORDERS_KEPT.get(key)
        if rows is None:
            positions = self.get(_POSITION, None)
            rows = np.empty(len(positions), np.int64)
            rows[positions] = np.arange(len(positions))
            _ORDERS_KEPT.put(key, rows)
        return rows

    def positions(self, rows: Integers) -> Integers:
        """Return the positions in the collection of rows of the file."""
        return self.get(_POSITION, rows)

    def get(self, name: str, rows: Integers | None) -> Column:
        """Return a column, or some rows of it; see `columns.Columns`."""
        if rows is not None:
            return self.get_all((name,), rows)[name]
        if name in self._whole:
            return self._whole[name]
        column = self._read((name,), [*range(len(self.groups))])[name]
        if column.dtype != object:  # text takes more memory than time to read it again
            self._whole[name] = column
        return column

    def distinct(self, name: str) -> set[Any]:
        """Return the different values of a column."""
        if name not in self._distinct:
            self._distinct[name] = self._find_distinct(name)
        return self._distinct[name]

    def _find_distinct(self, name: str) -> set[Any]:
        """Find the different values of a column."""
        (column,) = self._read_arrow((name,), [*range(len(self.groups))]).columns
        if pa.types.is_dictionary(column.type):
            return {value for chunk in column.chunks for value in chunk.dictionary.to_pylist()}
        if pa.types.is_list(column.type) and (shape := _only_shape(column.combine_chunks())):
            return {shape}
        return set(_from_arrow(name, column).tolist())

    def get_all(self, names: tuple[str, ...], rows: Integers) -> dict[str, Column]:
        """Return some rows of columns: of few rows only the groups that they are in are read."""
        if not len(rows):
            return self._read(names, [])
        starts = np.concatenate([[0], np.cumsum(self.groups)])
        group = np.searchsorted(starts, rows, "right") - 1
        touched = np.unique(group)
        if all(name in self._whole for name in names) or 2 * len(touched) > len(self.groups):
            return {name: self.get(name, None)[rows] for name in names}
        parts = self._read_some(names, touched.tolist())
        # Where each of the groups begins, in the parts and in the file.
        begins = np.concatenate([[0], np.cumsum(np.array(self.groups)[touched])])
        index = begins[np.searchsorted(touched, group)] + rows - starts[group]
        return {name: np.concatenate([part[name] for part in parts])[index] for name in names}

    def _read_some(self, names: tuple[str, ...], groups: list[int]) -> list[dict[str, Column]]:
        """Return columns of each of some groups: those that are kept, and the others together."""
        keys = {group: (self.token, names, group) for group in groups}
        found = {group: _GROUPS_KEPT.get(key) for group, key in keys.items()}
        missing = [group for group in groups if found[group] is None]
        if missing:
            read = self._read(names, missing)
            ends = np.cumsum([self.groups[group] for group in missing]).tolist()
            for group, start, end in zip(missing, [0, *ends], ends, strict=False):
                # Copies, which keep no other groups in memory.
                found[group] = {name: column[start:end].copy() for name, column in read.items()}
                _GROUPS_KEPT.put(keys[group], found[group])
        return [found[group] for group in groups]

    def _read(self, names: tuple[str, ...], groups: list[int]) -> dict[str, Column]:
        """Read columns of some groups of rows."""
        table = self._read_arrow(names, groups)
        return {name: _from_arrow(name, table.column(name)) for name in names}

    def _read_arrow(self, names: tuple[str, ...], groups: list[int]) -> pa.Table:
        """Read columns of some groups of rows, as Arrow has them."""
        try:
            file = pq.ParquetFile(
                StoreFile(self.store), pre_buffer=True, read_dictionary=_REPETITIVE
            )
            return file.read_row_groups(groups, columns=list(names))
        except (pa.ArrowException, ValueError, IndexError) as error:
            raise FitsFormatError(
                f"{self.store.name}: the Parquet file is damaged: {one_line(error)}"
            ) from error


def _from_arrow(name: str, column: pa.ChunkedArray | pa.Array) -> Column:
    """Return an Arrow column as the collection has it."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if name in COUNTS or name == _POSITION:
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    if name in NUMBERS:
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    if name in SHAPES:
        return _shapes(column)
    if pa.types.is_dictionary(column.type):
        words = column.dictionary.to_numpy(zero_copy_only=False)
        return np.asarray(words[column.indices.to_numpy(zero_copy_only=False)], object)
    return as_objects(column.to_pylist())


def _shapes(column: pa.ListArray) -> Column:
    """Return a column of shapes."""
    if shape := _only_shape(column):
        shapes = np.empty(len(column), object)
        shapes.fill(shape)
        return shapes
    return as_objects(None if shape is None else tuple(shape) for shape in column.to_pylist())


def _only_shape(column: pa.ListArray) -> tuple[int, ...] | None:
    """Return the shape that all of a column are, as nearly always; else None."""
    offsets = column.offsets.to_numpy()
    lengths = np.diff(offsets)
    if not len(column) or column.null_count or not (lengths == lengths[0]).all():
        return None
    numbers = column.values.to_numpy()[offsets[0] : offsets[-1]].reshape(len(column), -1)
    return tuple(numbers[0].tolist()) if (numbers == numbers[0]).all() else None
