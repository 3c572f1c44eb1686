"""Which sink a file takes, and what was left behind by those that wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dask_fits.storage.atomic import check_is_free, temporary_paths
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.local_sink import LocalSink
from dask_fits.storage.place import FilePath, Place, place_of, utf8_name
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.remote_sink import RemoteSink, remote_sink
from dask_fits.storage.transfer import TransferConfig

_PACKED = re.compile(r"\.(?:gz|bz2|xz|lzma|zst|z|zip)$", re.IGNORECASE)
"""Ends of names that tell other programs to unpack a file."""


def sink_of(
    url: FilePath | Place,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    *,
    overwrite: bool,
) -> LocalSink | RemoteSink:
    """Return the sink of a file; makes no request.

    Parameters
    ----------
    url : str, os.PathLike, file object or Place
    storage_options : mapping, optional
        Arguments of the fsspec filesystem of a URL.
    transfer : TransferConfig, optional
    overwrite : bool
        Whether to replace a file that exists.

    Raises
    ------
    ValueError
        The name says that the file is compressed as a whole, or it is one in an archive.
    MissingDriverError, StorageError
        The filesystem cannot be made, or takes no files.
    """
    place = place_of(url, storage_options)
    if place.member:
        raise ValueError(f"{redact_url(place.url)}: files are not written into archives")
    name = place.url if place.is_local else place.url.partition("?")[0]
    if packed := _PACKED.search(name):
        raise ValueError(
            f"{redact_url(place.url)}: files are not written compressed as a whole: give a name "
            f"without {packed[0]}"
        )
    if place.is_local:
        return LocalSink(place.url, overwrite)
    return remote_sink(place, transfer or TransferConfig(), overwrite=overwrite)


def check_is_writable(
    url: FilePath, storage_options: Mapping[str, Any] | None, *, overwrite: bool
) -> None:
    """Raise what `sink_of` raises, and FileExistsError for a file on a disk; makes no request."""
    sink = sink_of(url, storage_options, None, overwrite=overwrite)
    if isinstance(sink, LocalSink):
        check_is_free(sink.target, overwrite=overwrite)


@dataclass(frozen=True, slots=True)
class Abandoned:
    """What an attempt to write a file has left: a temporary file, an upload, temporary objects."""

    name: str
    """Redacted path or URL of the file that was to be written."""
    place: str
    """Path of the temporary file, id of the upload, or beginning of the names of the objects."""
    started: datetime | None
    """When it was begun, if the storage tells; in UTC."""
    _sink: LocalSink | RemoteSink = field(repr=False)
    _path: Path | None = field(default=None, repr=False)
    """The temporary file, whose name need not be UTF-8 as `place` is; None in other storages."""

    def remove(self) -> None:
        """Remove it. Nothing is raised if it is not there any more.

        Raises
        ------
        AccessDeniedError, StorageError
            The storage refuses or fails.
        """
        if isinstance(self._sink, LocalSink):
            if self._path is not None:
                with storage_errors(self.name, {}):
                    self._path.unlink(missing_ok=True)
        else:
            self._sink.remove(self.place)


def abandoned(
    url: FilePath,
    *,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
) -> list[Abandoned]:
    """List what attempts to write a file have left behind, or are still writing.

    `dask_fits.to_fits` removes what it has written if it fails. Only a process that is killed, or a
    Delayed that fails, leaves something. Of S3 and Google Cloud Storage it is billed until it is
    removed; a rule of the bucket (AbortIncompleteMultipartUpload) does that for all uploads.

    Parameters
    ----------
    url : path or URL
        The file that was to be written. Those of other files, and uploads that dask_fits has not
        begun, are not listed.
    storage_options, transfer
        See `dask_fits.to_fits`.

    Returns
    -------
    list of Abandoned
        Each has the time at which it was begun (`started`) and `remove()`. Those that are still
        written are among them.

    Raises
    ------
    AccessDeniedError, StorageError
        The storage refuses or fails.

    Examples
    --------
    >>> import dask_fits
    >>> dask_fits.abandoned("moment0.fits")
    []
    """
    sink = sink_of(url, storage_options, transfer, overwrite=False)
    if isinstance(sink, LocalSink):
        return _abandoned_files(sink)
    return [Abandoned(sink.name, left.place, left.started, sink) for left in sink.unfinished()]


def _abandoned_files(sink: LocalSink) -> list[Abandoned]:
    """List the temporary files of a file on a mounted disk."""
    found = []
    with storage_errors(sink.name, {}):
        for path in temporary_paths(sink.target):
            with suppress(FileNotFoundError):  # it is gone meanwhile
                started = datetime.fromtimestamp(path.stat().st_mtime, UTC)
                found.append(Abandoned(sink.name, utf8_name(str(path)), started, sink, path))
    return found
