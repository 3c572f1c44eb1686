"""Ranged reads from a path or URL: the only room that imports fsspec.

A store is a small frozen value: where the file is, how to reach it, and the stamp that it had when
it was opened. It holds no handle, so it can be pickled and used by any thread of any process.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dask_fits.exceptions import (
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    MissingDriverError,
    StorageError,
    TruncatedFileError,
)
from dask_fits.storage.byte_range import ByteRange

LOCAL_BLOCK = 1024 * 1024
"""Bytes that a local read hands over at a time: small enough to be converted from cache."""

_BATCH = 32 * 1024 * 1024
"""Bytes of remote ranges that are requested, and held, together."""

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
_PUBLIC = ("endpoint_url", "region_name", "profile", "project")
"""Storage options that are no secrets and that a message needs to be of use."""

_MIN_SECRET = 6
"""Characters. Shorter option values are words such as a region, which a message may repeat."""

_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:sig|token|key|secret|credential|pass)[^=&]*=)[^&#]*")
_USERINFO = re.compile(r"(?<=://)[^/@]*@")
_TAG_KEYS = (
    *("ETag", "etag", "VersionId", "version_id", "generation", "md5Hash", "content_hash", "CRC"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "mtime", "modified", "modify"),
    *("created", "date_time"),
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one version of a file from another."""

    size: int
    """Length of the file in bytes."""
    tag: str
    """ETag, version, generation or modification time, named; empty where the storage has none."""


class Store(Protocol):
    """One version of one file, readable by ranges from any thread or process."""

    @property
    def url(self) -> str:
        """Absolute path or URL, secrets included: for reaching the file, never for showing."""

    @property
    def stamp(self) -> Stamp:
        """Identity of the version that was opened."""

    @property
    def name(self) -> str:
        """The path or URL as it may be shown: without credentials."""

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; one request each.

        Parameters
        ----------
        ranges : sequence of ByteRange
            Ascending.
        whole : bool
            Whether each range must come in one piece; else a long one may come in consecutive
            pieces, which lets the caller convert each while it is in the processor's cache.

        Yields
        ------
        start : int
            Position of the piece in the file.
        data : memoryview
            Its bytes, valid only until the next piece is asked for.

        Raises
        ------
        TruncatedFileError
            A range reaches past the end of the file, or the file ended early.
        FileChangedError
            The file is not the version that was opened.
        StorageError
            The storage failed or answered with another number of bytes.
        """


def open_store(url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Store:
    """Look a file up: one metadata request, no data.

    Parameters
    ----------
    url : str or os.PathLike
        A path, or any URL that fsspec understands, chained ones included.
    storage_options : mapping, optional
        Arguments of the fsspec filesystem (credentials, endpoint, ...).

    Raises
    ------
    FitsFileNotFoundError, MissingDriverError, StorageError
    """
    text = os.fspath(url)
    if not isinstance(text, str):
        raise TypeError(f"url must be a str or a path to one, not {type(text).__name__}")
    options = dict(storage_options or {})
    with _storage_errors(text, options):
        fs, path = _filesystem(text, options)
        if isinstance(fs, LocalFileSystem):
            found = Path(path).stat()
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError("is a directory, not a file")
            return LocalStore(path, _local_stamp(found))
        fs.invalidate_cache(path)  # a listing kept from before may describe an older version
        info = fs.info(path)
        if info.get("type") == "directory":
            raise IsADirectoryError("is a directory, not a file")
        if info.get("size") is None:
            raise StorageError(
                f"{_shown(text)}: the server does not tell the size of the file, "
                "without which its parts cannot be read"
            )
        return RemoteStore(text, Stamp(int(info["size"]), _tag(info)), options)


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A file on a mounted disk, read by positioned reads on a descriptor of each call's own."""

    url: str
    """Absolute path."""
    stamp: Stamp

    @property
    def name(self) -> str:
        """The path or URL as it may be shown."""
        return self.url

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges; see `Store.read_ranges`."""
        if not ranges:
            return
        _check_end(self, ranges[-1])
        longest = max(r.nbytes for r in ranges)
        scratch = memoryview(bytearray(longest if whole else min(longest, LOCAL_BLOCK)))
        with _storage_errors(self.url, {}):
            descriptor = os.open(self.url, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                found = _local_stamp(os.fstat(descriptor))
                if found != self.stamp:
                    raise FileChangedError(
                        f"{self.url}: the file changed after it was opened: "
                        f"found {found}, expected {self.stamp}"
                    )
                for wanted in ranges:
                    for start in range(wanted.start, wanted.stop, len(scratch)):
                        piece = scratch[: min(len(scratch), wanted.stop - start)]
                        self._fill(descriptor, start, piece)
                        yield start, piece
            finally:
                os.close(descriptor)

    def _fill(self, descriptor: int, start: int, piece: memoryview) -> None:
        done = 0
        while done < len(piece):
            count = os.preadv(descriptor, [piece[done:]], start + done)
            if count == 0:
                raise TruncatedFileError(
                    f"{self.url}: the file ended at byte {start + done} while bytes "
                    f"{start} to {start + len(piece)} were read"
                )
            done += count


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """A file behind any other fsspec filesystem."""

    url: str
    stamp: Stamp
    options: dict[str, Any] = field(compare=False)
    """fsspec storage options; they may hold secrets and are shown nowhere."""

    def __repr__(self) -> str:
        return f"RemoteStore({self.name!r}, {self.stamp})"

    @property
    def name(self) -> str:
        """The path or URL as it may be shown."""
        return _shown(self.url)

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges, each in one piece; see `Store.read_ranges`."""
        del whole  # a response is a piece
        if not ranges:
            return
        _check_end(self, ranges[-1])
        with _storage_errors(self.url, self.options):
            fs, path = _filesystem(self.url, self.options)
            for batch in _batches(ranges):
                for wanted, data in zip(batch, _fetch(fs, path, batch), strict=True):
                    if len(data) != wanted.nbytes:
                        raise StorageError(
                            f"{self.name}: asked for bytes {wanted.start} to {wanted.stop} "
                            f"({wanted.nbytes} bytes) and got {len(data)} bytes; the server may "
                            "not support range requests, or the file may have changed"
                        )
                    yield wanted.start, memoryview(data)


def _fetch(fs: Any, path: str, batch: Sequence[ByteRange]) -> list[bytes]:
    # By keyword: the second positional argument of s3fs's cat_file is not `start`.
    if len(batch) == 1:
        return [fs.cat_file(path, start=batch[0].start, end=batch[0].stop)]
    return list(
        fs.cat_ranges(
            [path] * len(batch),
            [r.start for r in batch],
            [r.stop for r in batch],
            on_error="raise",
        )
    )


def _batches(ranges: Sequence[ByteRange]) -> Iterator[Sequence[ByteRange]]:
    first, held = 0, 0
    for index, wanted in enumerate(ranges):
        if held and held + wanted.nbytes > _BATCH:
            yield ranges[first:index]
            first, held = index, 0
        held += wanted.nbytes
    yield ranges[first:]


def _check_end(store: Store, last: ByteRange) -> None:
    if last.stop > store.stamp.size:
        raise TruncatedFileError(
            f"{store.name}: bytes {last.start} to {last.stop} are needed, "
            f"but the file ends at byte {store.stamp.size}"
        )


def _filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    # fsspec keeps its filesystem instances, so looking one up costs a few microseconds.
    fs, path = fsspec.core.url_to_fs(url, **options)
    return fs, path


def _local_stamp(found: os.stat_result) -> Stamp:
    # No inode number: on network and FUSE mounts it differs from node to node.
    return Stamp(found.st_size, f"mtime_ns={found.st_mtime_ns}")


def _tag(info: Mapping[str, Any]) -> str:
    return next((f"{key}={info[key]}" for key in _TAG_KEYS if info.get(key)), "")


@contextmanager
def _storage_errors(url: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what any driver raises into this package's errors, which name the file."""
    try:
        yield
    except FitsError:
        raise
    except Exception as error:
        raise _translated(error, url, options) from error


def _translated(error: Exception, url: str, options: Mapping[str, Any]) -> FitsError:
    error = _reason(error)
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FitsFileNotFoundError(f"{_shown(url)}: no such file")
    if isinstance(error, PermissionError) or status in (401, 403):
        return StorageError(f"{_shown(url)}: access denied{_access_hint(url)}")
    if isinstance(error, ImportError):
        return MissingDriverError(_driver_hint(url, error))
    said = str(error).removeprefix(f"[Errno {getattr(error, 'errno', None)}] ")
    said = _scrub(said.replace(url, _shown(url)), options)
    return StorageError(f"{_shown(url)}: {said or 'failed'} ({type(error).__name__})")


def _reason(error: Exception) -> Exception:
    """Look behind fsspec's HTTP, which calls whatever keeps it from a file a missing file."""
    cause = error.__cause__
    told = isinstance(cause, OSError) or isinstance(getattr(cause, "status", None), int)
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and told:
        return cause
    return error


def _access_hint(url: str) -> str:
    option = {"s3": "{'anon': True}", "gcs": "{'token': 'anon'}"}.get(
        _EXTRAS.get(_protocol(url), "")
    )
    if option is None:
        return ""
    return (
        "; give credentials in the environment or in storage_options, or for a public bucket "
        f"storage_options={option} (command line: --anon)"
    )


def _protocol(url: str) -> str:
    """Name the protocol that reaches the storage: the last of a chained URL."""
    return url.rpartition("::")[2].partition("://")[0]


def _driver_hint(url: str, error: ImportError) -> str:
    protocol = _protocol(url)
    extra = _EXTRAS.get(protocol)
    hint = f"install it with: pip install 'dask_fits[{extra}]'" if extra else str(error)
    return f"{_shown(url)}: the driver for {protocol}:// is not installed; {hint}"


def _scrub(text: str, options: object) -> str:
    """Remove every string of `options` that is long enough to be a secret from `text`."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            text = text if key in _PUBLIC else _scrub(text, value)
    elif isinstance(options, str) and len(options) >= _MIN_SECRET:
        text = text.replace(options, "***")
    return text


def _shown(url: str) -> str:
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("", url))
