"""Frames that are rows of a collection: held in columns, or in the collection's Parquet file."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import cloudpickle
import numpy as np

from dask_fits._typing import Integers
from dask_fits.collections.rows import FILE_COLUMNS, LAYOUT_COLUMNS, NotedRows, Rows
from dask_fits.exceptions import FitsError
from dask_fits.readers.reader import HduReader


@dataclass(frozen=True, slots=True, eq=False)
class HeldFrames:
    """The images of rows that are in memory, and travel with the tasks; see `Frames`."""

    rows: Rows
    digest: str
    """Of the rows, or of those that they were taken from and of which these are."""

    @classmethod
    def of(cls, rows: Rows) -> HeldFrames:
        """Take the images of rows."""
        return cls(rows, _digest_rows(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Integers) -> HeldFrames:
        """Take some of the frames; see `Frames`."""
        return HeldFrames(self.rows.take(indices), _digest_part(self.digest, indices))

    def readers(self) -> Sequence[HduReader | FitsError]:
        """Make each frame's reader, or the error that keeps it from being read."""
        return self.rows.readers()

    def __dask_tokenize__(self) -> object:
        return "dask_fits.HeldFrames", self.digest

    def __repr__(self) -> str:
        return f"<HeldFrames: {len(self)} frames>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Rows of the files of one observation are much alike.
        return _unpack, (zlib.compress(cloudpickle.dumps(self.rows), 1), self.digest)


def _unpack(packed: bytes, digest: str) -> HeldFrames:
    return HeldFrames(cloudpickle.loads(zlib.decompress(packed)), digest)


def _digest_rows(rows: Rows) -> str:
    """Return a digest of what tells the pixels of rows apart from all others."""
    digest = blake2b(digest_size=16)
    for name in (*FILE_COLUMNS, *LAYOUT_COLUMNS):
        column = rows.columns[name]
        if column.dtype == object:
            content = "\0".join(column.tolist()).encode("utf-8", "surrogateescape")
        else:
            content = np.ascontiguousarray(column).tobytes()
        # With its length, so that no text runs into the next one.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    digest.update(rows.places.identity().encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _digest_part(digest: str, indices: Integers) -> str:
    """Return a digest of some of the frames that have a digest."""
    part = blake2b(np.ascontiguousarray(indices, np.int64).tobytes(), digest_size=16)
    part.update(digest.encode())
    return part.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class NotedFrames:
    """The images of rows that tasks read from the collection's file; see `Frames`."""

    rows: NotedRows
    digest: str

    @classmethod
    def of(cls, rows: NotedRows) -> NotedFrames:
        """Take the images of rows."""
        positions = rows.positions
        about = (rows.identity(), positions if isinstance(positions, range) else len(positions))
        digest = blake2b(repr(about).encode("utf-8", "surrogateescape"), digest_size=16)
        if not isinstance(positions, range):
            digest.update(positions.tobytes())
        return cls(rows, digest.hexdigest())

    def __len__(self) -> int:
        return len(self.rows.positions)

    def take(self, indices: Integers) -> NotedFrames:
        """Take some of the frames; see `Frames`."""
        positions = self.rows.positions
        taken = positions.start + indices if isinstance(positions, range) else positions[indices]
        positions = _compact(taken)
        rows = replace(self.rows, positions=positions)
        return NotedFrames(rows, _digest_part(self.digest, indices))

    def readers(self) -> Sequence[HduReader | FitsError]:
        """Read the rows, and make each frame's reader, or the error that keeps it from being read.

        Raises
        ------
        FitsError
            The rows cannot be read.
        """
        return self.rows.read().readers()

    def __dask_tokenize__(self) -> object:
        return "dask_fits.NotedFrames", self.digest

    def __repr__(self) -> str:
        return f"<NotedFrames: {len(self)} frames>"


def _compact(positions: Integers) -> range | Integers:
    """Return positions as a range, if they follow one another."""
    if len(positions) and (np.diff(positions) == 1).all():
        return range(int(positions[0]), int(positions[-1]) + 1)
    return positions
