"""The index of a survey: a collection in a Parquet file, made part by part and kept up to date.

::

    files     [--- part ---][--- part ---][--- part ---]
    parts     3f5e.parquet  a017.parquet                    in survey.parquet.parts
    index     survey.parquet                                of all parts, once they are there

A part is named by its files and by what is asked of them. A run that was killed leaves the parts
that it has finished, and the next one goes on behind them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np

from dask_fits._typing import Progress
from dask_fits.collections.collection import Collection
from dask_fits.collections.columns import Column
from dask_fits.collections.gathering import Found
from dask_fits.collections.opening import describe_found, find_all, open_collection
from dask_fits.collections.parquet import open_parquet, write_parquet
from dask_fits.collections.record import Inspection
from dask_fits.collections.rows import NotedPlaces
from dask_fits.exceptions import FitsError, FitsFileNotFoundError, FitsFormatError
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import remove_directory
from dask_fits.storage.listing import is_among, listed_versions
from dask_fits.storage.place import Place, place_of
from dask_fits.storage.redaction import redact_url, unsigned_url
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion

PART = 1000
"""Files of a part, which a run that is killed loses at most."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of the files of an index."""

    images: int
    """Rows of images."""
    read: int
    """Files whose headers were read."""
    kept: int
    """Files that are as they were, and were not read again."""
    gone: int
    """Files that were in the index, and are not among the files any more."""
    failures: Mapping[str, FitsError]
    """The first error of each file that has one, by path or URL."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that has been made."""

    collection: Collection
    inspection: Inspection
    """What was noted of each file."""


def find_index(
    url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> Index | None:
    """Open an index; None if there is no such file.

    Raises
    ------
    FitsFormatError
        It is another Parquet file, or none.
    FitsError
        It cannot be read.
    """
    try:
        _, columns = open_parquet(url, storage_options)
    except FitsFileNotFoundError:
        return None
    if columns is None:
        shown = redact_url(os.fspath(url))
        raise FitsFormatError(f"{shown}: expected an index of images, found another table")
    collection = Collection(columns, NotedPlaces(storage_options), None)
    return Index(collection, columns.inspection)


def build_index(
    files: object,
    output: str | os.PathLike[str],
    *,
    inspection: Inspection,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
    before: Index | None = None,
) -> IndexReport:
    """Describe the images of many files in a Parquet file, part by part.

    Parameters
    ----------
    files : as for `dask_fits.open_collection`
    output : path or URL
        The Parquet file.
    inspection : Inspection
        What is noted of each file.
    storage_options, transfer
        See `dask_fits.open`; for the output as well.
    progress : callable, optional
        It is called with the number of files that are done, and the number of all.
    before : Index, optional
        An index of which what it has of those files is taken over that are as they were, by the
        sizes and versions in listings; a file that failed is read again.

    Raises
    ------
    ValueError
        There is no file; or what is noted of each differs from what the index has.
    FitsError
        A pattern matches nothing; or the output cannot be read or written.
    """
    found = find_all(files, storage_options)
    known: set[str] = set()
    kept: dict[int, list[int]] = {}
    parts: list[Collection] = []
    if before is not None:
        _reject_others(inspection, before.inspection)
        old = before.collection
        known = old.distinct("access_url")
        kept = _without_failures(old, _unchanged(old, found, if_unlisted=False))
        parts.append(old.take(np.array([row for rows in kept.values() for row in rows], np.int64)))
    waiting = [file for number, file in enumerate(found) if number not in kept]
    directory = f"{os.fspath(output).rstrip('/')}.parts"
    done = len(kept)
    for start in range(0, len(waiting), PART):
        files_of_part = waiting[start : start + PART]

        def progress_of_part(count: int, _: int, done: int = done) -> None:
            if progress:
                progress(done + count, len(found))

        part = _Part(directory, files_of_part, inspection, storage_options)
        parts.append(part.read(transfer, progress_of_part))
        done += len(files_of_part)
    write_parquet(partial(_join, parts), inspection, output, storage_options)
    place = place_of(directory, storage_options)
    with storage_errors(place.url, place.options):
        remove_directory(place.url, place.options)
    index = open_collection(output, storage_options=storage_options)
    return IndexReport(
        images=int((index.column("hdu") >= 0).sum()),
        read=len(waiting),
        kept=len(kept),
        gone=len(known - index.distinct("access_url")),
        failures=index.failures,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an index, and the file that it is kept in until all parts are there."""

    directory: str
    files: Sequence[tuple[str, Found]]
    inspection: Inspection
    storage_options: Mapping[str, Any] | None

    @property
    def url(self) -> str:
        """The part's file: it is named by what the part is of."""
        asked = (self.inspection.hdus, self.inspection.keywords, [url for url, _ in self.files])
        digest = blake2b(repr(asked).encode("utf-8", "surrogateescape"), digest_size=16)
        return f"{self.directory}/{digest.hexdigest()}.parquet"

    def read(self, transfer: TransferConfig | None, progress: Progress) -> Collection:
        """Open the part, if it has been written; else read the headers of its files."""
        part = self._find()
        if part is None:
            described = describe_found(self.files, self.inspection, transfer, progress)
            described.to_parquet(self.url, storage_options=self.storage_options)
            # From the file, so that not all parts are in memory.
            part = open_collection(self.url, storage_options=self.storage_options)
        progress(len(self.files), len(self.files))
        return part

    def _find(self) -> Collection | None:
        """Open the part that an earlier run has written, unless files have changed since."""
        try:
            part = open_collection(self.url, storage_options=self.storage_options)
        except FitsFileNotFoundError:
            return None
        unchanged = _unchanged(part, self.files, if_unlisted=True)
        return part if len(unchanged) == len(self.files) else None


def _join(parts: Sequence[Collection], name: str) -> Column:
    """Return a column of collections, one behind the other."""
    return np.concatenate([part.column(name) for part in parts])


def _reject_others(inspection: Inspection, before: Inspection) -> None:
    """Raise ValueError if something else is to be noted of each file than an index has."""
    for name in ("hdus", "keywords"):
        wanted, found = getattr(before, name), getattr(inspection, name)
        if wanted != found:
            raise ValueError(
                f"{name}: found {found}, expected {wanted} as in the index: leave them out, or "
                "make it anew"
            )


def _unchanged(
    index: Collection, found: Sequence[tuple[str, Found]], *, if_unlisted: bool
) -> dict[int, list[int]]:
    """Find the files that are as they were when an index was made.

    Parameters
    ----------
    index : Collection
    found : sequence of (str, Found)
        The files.
    if_unlisted : bool
        Whether a file counts as unchanged of which no listing tells the version.

    Returns
    -------
    dict
        By the number of each such file, its rows in the index.
    """
    rows_of_url: dict[str, list[int]] = {}
    for row, url in enumerate(index.column("access_url").tolist()):
        rows_of_url.setdefault(url, []).append(row)
    known = {
        number: (place, rows)
        for number, (_, place) in enumerate(found)
        if isinstance(place, Place) and (rows := rows_of_url.get(unsigned_url(place.url)))
    }
    columns = (index.column(name).tolist() for name in ("size", "version_kind", "version"))
    versions = [FileVersion(*values) for values in zip(*columns, strict=True)]
    listed = listed_versions([place for place, _ in known.values()])
    return {
        number: rows
        for (number, (_, rows)), now in zip(known.items(), listed, strict=True)
        if is_among(versions[rows[0]], now) or (if_unlisted and not now)
    }


def _without_failures(index: Collection, files: dict[int, list[int]]) -> dict[int, list[int]]:
    """Leave out the files that could not be read, or not all of them: they are tried again."""
    failed = index.column("error_type") != ""
    return {number: rows for number, rows in files.items() if not failed[rows].any()}
