"""Collections in Parquet files.

A file has a row for each image, as the collection has, and the columns of `columns.FIXED` and of
the keywords under their own names, so that other tools read it. Rows that are near each other on
the sky are near each other in the file; the column `position` has their order in the collection.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dask_fits._typing import Integers
from dask_fits.collections.arrow import POSITION, from_arrow, keyword_to_arrow, only_shape, to_arrow
from dask_fits.collections.columns import FIXED, TEXTS, Column
from dask_fits.collections.record import Inspection
from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.exceptions import (
    FileChangedError,
    FitsFormatError,
    StorageError,
    TruncatedFileError,
    one_line,
)
from dask_fits.file.hdu import HduKey
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import write_file
from dask_fits.storage.opening import open_store
from dask_fits.storage.place import place_of
from dask_fits.storage.store import Store
from dask_fits.storage.store_file import StoreFile
from dask_fits.wcs.sphere import unit_vectors_of

_MAGIC = b"PAR1"
"""First bytes of a Parquet file."""

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


def write_parquet(
    column: Callable[[str], Column],
    inspection: Inspection,
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None,
) -> None:
    """Write the columns of a collection; see `Collection.to_parquet`.

    Parameters
    ----------
    column : callable
        Returns a column by its name. One after the other, so that not all are in memory.
    inspection : Inspection
        What was noted of each file: the keywords are columns, and an index is updated by the HDUs.
    url, storage_options
    """
    order = sky_order(column("s_ra"), column("s_dec"))
    arrays = {POSITION: pa.array(order, pa.int64())}
    for name in FIXED:
        arrays[name] = to_arrow(name, column(name)[order])
    for name in inspection.keywords:
        arrays[name] = keyword_to_arrow(column(name)[order])
    about = {"format": _FORMAT, "keywords": inspection.keywords, "hdus": inspection.hdus}
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
        It is no Parquet file, damaged, or of a later format.
    FitsFileNotFoundError, AccessDeniedError, StorageError
        It cannot be read.
    """
    store, _ = open_store(url, storage_options, None, count=len(_MAGIC))
    with _damage(store.name):
        file = pq.ParquetFile(StoreFile(store))
        inspection = _read_inspection(file)
        if inspection is None:
            return file.read(), None
        missing = {POSITION, *FIXED, *inspection.keywords} - set(file.schema_arrow.names)
        if missing:
            raise FitsFormatError(f"it has no column {', '.join(sorted(missing))}")
    return None, ParquetColumns(store, inspection, _Metadata(file.metadata))


def _read_inspection(file: pq.ParquetFile) -> Inspection | None:
    """Return what was noted of each file; None if no collection is in the Parquet file."""
    text = (file.schema_arrow.metadata or {}).get(_METADATA)
    if text is None:
        return None
    about = json.loads(text)
    if about["format"] != _FORMAT:
        raise FitsFormatError(
            f"found a collection of format {about['format']!r}, expected {_FORMAT}: it was written "
            "by another version of dask_fits"
        )
    hdus = about["hdus"]
    keys = None if hdus is None else tuple(_as_key(key) for key in hdus)
    return Inspection(keys, tuple(map(str, about["keywords"])))


def _as_key(key: Any) -> HduKey | None:
    """Return the key of an HDU, of which JSON makes a list of a pair."""
    return (str(key[0]), int(key[1])) if isinstance(key, list) else key


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Raise whatever pyarrow stumbles on in a file as a FitsFormatError that names the file."""
    try:
        yield
    except (StorageError, FileChangedError, TruncatedFileError, MemoryError):
        raise
    except Exception as error:
        raise FitsFormatError(
            f"{name}: expected a Parquet file with a collection or a table: {one_line(error)}"
        ) from error


class _Metadata:
    """Where the columns lie in a file, and how many rows each group has; it can be pickled."""

    def __init__(self, metadata: pq.FileMetaData) -> None:
        self.groups: tuple[int, ...] = tuple(
            metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)
        )
        self.file: pq.FileMetaData | None = metadata

    def __getstate__(self) -> tuple[int, ...]:
        return self.groups

    def __setstate__(self, groups: tuple[int, ...]) -> None:
        self.groups = groups
        # It is read again by who needs it: it is longer than what tasks are sent.
        self.file = None


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
    inspection: Inspection
    """What was noted of each file."""
    metadata: _Metadata
    _whole: dict[str, Column] = field(default_factory=dict, repr=False)
    """Columns that have been read as a whole."""
    _distinct: dict[str, set[Any]] = field(default_factory=dict, repr=False)
    """Different values of columns, as far as they have been looked for."""

    is_held = False
    """Whether the rows are in memory."""

    def __len__(self) -> int:
        return sum(self.groups)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.store, self.inspection, self.metadata)

    @property
    def keywords(self) -> tuple[str, ...]:
        """Names of the columns of keywords."""
        return self.inspection.keywords

    @property
    def groups(self) -> tuple[int, ...]:
        """Rows of each group of rows."""
        return self.metadata.groups

    @property
    def token(self) -> tuple[object, ...]:
        """What tells this version of the file from all others."""
        return self.store.token

    def order(self) -> Integers:
        """Return the rows of the file in the order of the collection."""
        key = self.token
        rows: Integers | None = _ORDERS_KEPT.get(key)
        if rows is None:
            positions = self.get(POSITION, None)
            rows = np.argsort(positions)
            if not (positions[rows] == np.arange(len(rows))).all():
                raise FitsFormatError(
                    f"{self.store.name}: {POSITION}: expected each of 0 to {len(rows) - 1} once"
                )
            _ORDERS_KEPT.put(key, rows)
        return rows

    def positions(self, rows: Integers) -> Integers:
        """Return the positions in the collection of rows of the file."""
        return self.get(POSITION, rows)

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

    def load(self, names: tuple[str, ...]) -> None:
        """Read several columns as a whole together, for `get`."""
        missing = [name for name in names if name not in self._whole]
        if len(missing) > 1:
            columns = self._read(tuple(missing), [*range(len(self.groups))])
            self._whole.update(
                {name: column for name, column in columns.items() if column.dtype != object}
            )

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
        if pa.types.is_list(column.type) and (shape := only_shape(column.combine_chunks())):
            return {shape}
        return set(from_arrow(name, column).tolist())

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
        with _damage(self.store.name):
            return {name: from_arrow(name, table.column(name)) for name in names}

    def _read_arrow(self, names: tuple[str, ...], groups: list[int]) -> pa.Table:
        """Read columns of some groups of rows, as Arrow has them."""
        with _damage(self.store.name):
            file = pq.ParquetFile(
                StoreFile(self.store),
                metadata=self.metadata.file,
                pre_buffer=True,
                read_dictionary=_REPETITIVE,
            )
            self.metadata.file = file.metadata
            return file.read_row_groups(groups, columns=list(names))
