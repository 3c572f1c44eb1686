"""Rows of a collection -> HDUs that can be read, without a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from dask_fits._typing import Integers
from dask_fits.collections.columns import Column, Columns
from dask_fits.collections.record import NO_HDU, parse_packing
from dask_fits.exceptions import FitsError, StorageError, error_of, result_or_error
from dask_fits.file.hdu import HDU
from dask_fits.file.known_hdu import known_hdu, known_layout
from dask_fits.format.layout import HduLayout
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.readers.reader import HduReader
from dask_fits.storage.identity import identity_of
from dask_fits.storage.opening import known_store
from dask_fits.storage.place import Place, place_of
from dask_fits.storage.redaction import HIDDEN, redact_url
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion

FILE_COLUMNS = ("access_url", "size", "version_kind", "version", "encoding", "packing")
"""Columns that say which version of which file a row is of."""

LAYOUT_COLUMNS = (
    "hdu", "header_start", "header_stop", "data_stop", "structure", "error_type", "error",
)  # fmt: skip
"""Columns that say where and how the pixels of a row lie."""


class Places(Protocol):
    """Where the files of rows are."""

    def place(self, row: int, url: str) -> Place:
        """Return the place of a row's file, whose `access_url` is given."""

    def take(self, rows: Integers) -> Places:
        """Return the places of some rows, in this order."""

    def identity(self) -> str:
        """Return what tells the files apart from others of the same URLs, in every process."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenPlaces:
    """Places of files as they were given, secrets included."""

    places: Sequence[Place] = field(repr=False)
    source: Integers
    """(rows,): index of each row's place."""

    def place(self, row: int, url: str) -> Place:  # noqa: ARG002 (what it is known by here is a number)
        """Return the place of a row's file."""
        return self.places[int(self.source[row])]

    def take(self, rows: Integers) -> GivenPlaces:
        """Return the places of some rows."""
        wanted, source = np.unique(self.source[rows], return_inverse=True)
        return GivenPlaces([self.places[number] for number in wanted.tolist()], source)

    def identity(self) -> str:
        """Return what tells the files apart from others of the same URLs."""
        texts: list[str] = []
        last: Place | None = None
        identity = ""
        for place in self.places:
            # Nearly always all have the same options.
            if last is None or not _have_same_options(last, place):
                identity = identity_of(place.options, place.filesystem)
            texts.append(f"{place.url} {identity}")
            last = place
        # A text for each row: which file is whose is a part of it.
        return "\0".join([texts[number] for number in self.source.tolist()])


def _have_same_options(one: Place, other: Place) -> bool:
    """Return whether two files are for certain reached with the same options."""
    return one.filesystem is other.filesystem and (
        one.options is other.options or not (one.options or other.options)
    )


@dataclass(frozen=True, slots=True, eq=False)
class NotedPlaces:
    """Places of files by the URLs that were noted of them, which are without secrets."""

    storage_options: Mapping[str, Any] | None = field(repr=False)

    def place(self, row: int, url: str) -> Place:  # noqa: ARG002 (the URL says it)
        """Return the place of a row's file.

        Raises
        ------
        StorageError
            A part of the URL was not written down, since it may have been a secret.
        """
        if HIDDEN in url:
            raise StorageError(
                f"{redact_url(url)}: the collection was written without a parameter of this URL, "
                "which may have been a secret, and may say which file it is: collect the file again"
            )
        return place_of(url, self.storage_options)

    def take(self, rows: Integers) -> NotedPlaces:  # noqa: ARG002
        """Return the places of some rows: the same."""
        return self

    def identity(self) -> str:
        """Return what tells the files apart from others of the same URLs."""
        return identity_of(dict(self.storage_options or {}))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some rows of a collection, of which HDUs are made."""

    columns: Mapping[str, Column]
    """The columns of `FILE_COLUMNS` and `LAYOUT_COLUMNS`, and `wcs` if positions are found."""
    places: Places
    transfer: TransferConfig | None

    def __len__(self) -> int:
        return len(self.columns["hdu"])

    def take(self, indices: Integers) -> Rows:
        """Take some of the rows."""
        taken = {name: column[indices] for name, column in self.columns.items()}
        return Rows(taken, self.places.take(indices), self.transfer)

    def error(self, row: int) -> FitsError | None:
        """Return the error that was noted of a row; None if there was none."""
        return error_of(self.columns["error_type"][row], self.columns["error"][row])

    def has_hdu(self, row: int) -> bool:
        """Return whether a row is of an HDU, rather than of a file that could not be read."""
        return bool(self.columns["hdu"][row] != NO_HDU)

    def store(self, row: int) -> Store:
        """Make the store of the version of the file that was seen; makes no request.

        Raises
        ------
        MissingDriverError, StorageError
            It cannot be made.
        """
        url, size, kind, value, encoding, packing = (
            self.columns[name][row] for name in FILE_COLUMNS
        )
        version = FileVersion(int(size), kind, value, encoding)
        packed = parse_packing(packing, version.size)
        return known_store(self.places.place(row, url), version, packed, self.transfer)

    def layout(self, row: int, name: str) -> HduLayout:
        """Work out the layout of the HDU; `name` is that of its file."""
        hdu, start, stop, data_stop, structure = (
            self.columns[column][row] for column in LAYOUT_COLUMNS[:5]
        )
        return known_layout(
            structure,
            index=int(hdu),
            header_range=ByteRange(int(start), int(stop)),
            data_stop=int(data_stop),
            where=f"{name}: HDU {hdu}",
        )

    def hdu(self, row: int) -> HDU:
        """Make the HDU of a row; reads nothing.

        Raises
        ------
        FitsError
            It is of a file that could not be read: the error of then.
        """
        if not self.has_hdu(row):
            raise self.error(row) or FitsError(f"{self.columns['access_url'][row]}: has no HDU")
        store = self.store(row)
        index = int(self.columns["hdu"][row])
        wcs = self.columns["wcs"][row] if "wcs" in self.columns else ""
        return known_hdu(store, self.layout(row, store.name), index, wcs)

    def readers(self) -> list[HduReader | FitsError]:
        """Make the reader of each row's pixels, or the error that keeps them from being read."""
        return [self.error(row) or self.reader_or_error(row) for row in range(len(self))]

    def reader_or_error(self, row: int) -> HduReader | FitsError:
        """Make the reader of a row's pixels, or return the error that keeps it from being made."""
        return result_or_error(lambda: self.hdu(row).reader())

    def hdu_or_error(self, row: int) -> HDU | FitsError:
        """Make the HDU of a row, or return the error that keeps it from being read."""
        return result_or_error(lambda: self.hdu(row))


@dataclass(frozen=True, slots=True, eq=False)
class NotedRows:
    """Rows of a collection that are not in memory: where they are, for the tasks that need them."""

    columns: Columns
    places: Places
    transfer: TransferConfig | None
    positions: range | Integers
    """Positions in the collection as it was written; a range has no gaps."""

    def identity(self) -> tuple[object, ...]:
        """Return what tells the collection and its files apart from all others."""
        return (*self.columns.token, self.places.identity())

    def read(self) -> Rows:
        """Read the rows."""
        rows = self.columns.order()[np.asarray(self.positions)]
        return rows_of(self.columns, rows, self.places, self.transfer, wcs=False)


def rows_of(
    columns: Columns,
    rows: Integers,
    places: Places,
    transfer: TransferConfig | None,
    *,
    wcs: bool = True,
) -> Rows:
    """Take some rows, with the columns of world coordinates or without."""
    names = (*FILE_COLUMNS, *LAYOUT_COLUMNS, *(("wcs",) if wcs else ()))
    return Rows(columns.get_all(names, rows), places.take(rows), transfer)
