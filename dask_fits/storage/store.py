"""Ranged reads from a path or URL.

A store is a small frozen value: the file's place, the way to reach it, and the version that it had
when it was opened. It holds no handle, so it can be pickled and used by any thread of any process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from dask_fits._typing import FileSystem
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.storage.local import open_local
from dask_fits.storage.place import FilePath, Place, place_of
from dask_fits.storage.remote import RemoteStore, open_remote
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion


class Store(Protocol):
    """One version of one file, readable by ranges from any thread or process."""

    @property
    def url(self) -> str:
        """Absolute path or URL, secrets included: for reaching the file, never for display."""

    @property
    def version(self) -> FileVersion:
        """Identity of the version that was opened."""

    @property
    def name(self) -> str:
        """Redacted path or URL: without credentials."""

    @property
    def part_size(self) -> int | None:
        """Longest part that a range is cut into, in bytes; None if a range is one request."""

    @property
    def block_size(self) -> int | None:
        """Bytes that are best read at a time if cutting a range costs nothing; else None."""

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs of bytes are best fetched as one range."""

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges within the file: one request for each part of each.

        Parameters
        ----------
        ranges : sequence of ByteRange
            Ascending, none past the end of the file.
        whole : bool
            Yield each range in one piece; else a long one may come in consecutive pieces, each of
            a multiple of 8 bytes but the last, which lets the caller convert one while others are
            still in flight.

        Yields
        ------
        start : int
            Position of the piece in the file.
        data : memoryview
            Its bytes, valid only until the next piece is requested.

        Raises
        ------
        TruncatedFileError
            The file ended early.
        FileChangedError
            The file is not the version that was opened.
        AccessDeniedError, FitsFileNotFoundError, StorageError
            The storage refused, failed for longer than the retries last, or sent an unusable
            response.
        """


def version_token(store: Store) -> tuple[str | int, ...]:
    """Return what tells one version of one file from all others: the same in every process.

    Most storage options are left out: they may hold secrets, and do not change the file.
    """
    version = store.version
    token = (store.url, version.size, version.kind, version.value)
    if isinstance(store, RemoteStore) and store.identity:
        return (*token, store.identity)
    return token


def open_store(
    url: FilePath | Place,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    *,
    count: int,
    filesystem: FileSystem | None = None,
) -> tuple[Store, bytes]:
    """Look a file up and read its first bytes, in one request if the storage allows it.

    Parameters
    ----------
    url : str, os.PathLike, file object or Place
        A path, or any URL that fsspec understands, chained ones included; or an object with one.
    storage_options : mapping, optional
        Arguments of the fsspec filesystem (credentials, endpoint, ...).
    transfer : TransferConfig, optional
        Configuration of the reads of a remote file.
    count : int
        Bytes to read; fewer if the file is shorter.
    filesystem : fsspec filesystem, optional
        The filesystem that a path is on.

    Returns
    -------
    store : Store
    first : bytes

    Raises
    ------
    FitsFileNotFoundError, AccessDeniedError, MissingDriverError, StorageError
    TypeError
        See `place_of`.
    """
    place = place_of(url, storage_options, filesystem)
    if place.is_local:
        return open_local(place.url, count=count)
    return open_remote(place, transfer or TransferConfig(), count=count)
