"""Opening a file: which store it takes, and its first bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dask_fits._typing import FileSystem
from dask_fits.storage.local import LocalStore, open_local
from dask_fits.storage.packed import open_packed, unpacked_store
from dask_fits.storage.packed_file import PackedFile
from dask_fits.storage.packing import Packed
from dask_fits.storage.place import FilePath, Place, place_of
from dask_fits.storage.remote import known_remote, open_remote
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion
from dask_fits.streams.formats import format_of


def open_store(
    url: FilePath | Place,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    *,
    count: int,
    filesystem: FileSystem | None = None,
    index: str | os.PathLike[str] | None = None,
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
    index : str or os.PathLike, optional
        Directory of indexes of gzip files, a path or URL, or ``"auto"``; see `dask_fits.open`.

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
    stored: Store
    if place.is_local:
        stored, first = open_local(place.url, count=count)
    else:
        stored, first = open_remote(place, transfer or TransferConfig(), count=count)
    return open_packed(stored, first, count=count, member=place.member, index=index)


def known_store(
    place: Place, version: FileVersion, packed: Packed | None, transfer: TransferConfig | None
) -> Store:
    """Make the store of a version of a file that is known from before; makes no request.

    Whether the file still is that version is found out when it is read.

    Parameters
    ----------
    place : Place
    version : FileVersion
        Of the file as it is stored.
    packed : Packed, optional
        How the file is compressed as a whole. The index of a gzip file is looked for where
        `dask_fits.open` does by default.
    transfer : TransferConfig, optional

    Raises
    ------
    MissingDriverError, StorageError
        The filesystem cannot be made.
    """
    stored: Store
    if place.is_local:
        stored = LocalStore(place.url, version)
    else:
        stored = known_remote(place, version, transfer or TransferConfig())
    return stored if packed is None else unpacked_store(stored, packed, "auto")


def parts_of(store: Store) -> tuple[Store, Packed | None]:
    """Return the store of a file as it is stored, and how it is compressed as a whole."""
    return (store.stored, store.packed) if isinstance(store, PackedFile) else (store, None)


def is_plain(first: bytes) -> bool:
    """Return whether a file with these first bytes is not compressed as a whole."""
    return format_of(first) is None
