"""What users give for a file -> where it is: the one place that decides what a text means.

A text is the file that exists on a mounted disk under the very name, whatever characters that has.
Only a text that begins with a protocol that fsspec knows and ``://`` is a URL in any case. Anything
else is what fsspec makes of it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from dask_fits._typing import FileSystem
from dask_fits.exceptions import FitsFileNotFoundError
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import (
    beneath,
    find,
    glob,
    is_filesystem,
    is_url,
    local_file,
    path_on_disk,
    settled,
    url_of,
)
from dask_fits.storage.redaction import redact_url

_BYTE = re.compile("[\udc80-\udcff]")
"""How Python holds bytes of a name that are no UTF-8 (PEP 383)."""


class OnFilesystem(Protocol):
    """A file of fsspec, open or not, or a path of universal_pathlib."""

    @property
    def fs(self) -> Any:
        """The filesystem of fsspec."""

    @property
    def path(self) -> Any:
        """The path there."""


FilePath = str | os.PathLike[str] | os.PathLike[bytes] | OnFilesystem | IO[Any]
"""What stands for a file: a path or URL, or an object that has one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is: no handle, only what it takes to reach it from any process."""

    url: str
    """Absolute path, or URL; secrets included."""
    is_local: bool
    """Whether it is on a mounted disk."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options; they may hold secrets and are shown nowhere."""
    filesystem: FileSystem | None = field(default=None, repr=False)
    """The filesystem itself, where URL and options do not tell it; it can be pickled."""


def place_of(
    given: FilePath | Place,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: FileSystem | None = None,
) -> Place:
    """Find out where a file is.

    Parameters
    ----------
    given : str, os.PathLike, file object or Place
    storage_options : mapping, optional
        Of the fsspec filesystem of a URL.
    filesystem : fsspec filesystem, optional
        The filesystem that a path is on.

    Raises
    ------
    TypeError
        It has no path or URL, by which tasks could read it.
    MissingDriverError, StorageError
        There is no such filesystem.
    """
    if isinstance(given, Place):
        return given
    if filesystem is not None:
        _check_filesystem(filesystem, storage_options)
        return _on(filesystem, _text(given))
    if (own := _own_place(given)) is not None:
        _check_alone(storage_options, type(given).__name__)
        return own
    return _of_text(_text(given), dict(storage_options or {}))


def places_of(
    given: FilePath | Place,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: FileSystem | None = None,
) -> list[FilePath | Place]:
    """List the files that a path or URL stands for: those that match where it has a ``*``.

    What has none is given back, and so is a file on a mounted disk whose name has one.

    Raises
    ------
    TypeError
        See `place_of`.
    FitsFileNotFoundError
        No file matches.
    AccessDeniedError, MissingDriverError, StorageError
    """
    if not isinstance(given, (str, os.PathLike)):
        return [place_of(given, storage_options, filesystem)]
    text, options = _text(given), dict(storage_options or {})
    if filesystem is None and ("*" not in text or local_file(text)):
        return [given]
    if "*" not in text:
        return [place_of(given, storage_options, filesystem)]
    if filesystem is not None:
        _check_filesystem(filesystem, storage_options)
    with storage_errors(text, options):
        fs, path = (filesystem, text) if filesystem is not None else find(*settled(text, options))
        found = glob(fs, path)
    if not found:
        raise FitsFileNotFoundError(f"{redact_url(text)}: found no file that matches")
    return [_on(fs, path) for path in found]


def is_one_file(given: object) -> bool:
    """Whether it stands for one file, or is several of them."""
    paths = (str, bytes, bytearray, memoryview, os.PathLike, Place)
    return isinstance(given, paths) or hasattr(given, "read") or hasattr(given, "path")


def label_of(given: FilePath | Place) -> str:
    """Name a file as it was given, or its place where it was given by an object."""
    return _text(given) if isinstance(given, (str, os.PathLike)) else place_of(given).url


def readable(text: str) -> str:
    r"""Return a text that can be printed and written as UTF-8.

    Bytes of a name that are no UTF-8 become ``\xff`` and the like.
    """
    if text.isascii():
        return text
    text = _BYTE.sub(lambda byte: rf"\x{ord(byte[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def _text(given: object) -> str:
    """Get the path or URL that was given as a text or path."""
    if isinstance(given, (str, os.PathLike)):
        return os.fsdecode(given)
    said = (
        "url must be a str or path, or a file object that has one: each task opens the file by "
        f"itself, so it takes a path or a URL, not {type(given).__name__}"
    )
    if isinstance(given, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"{said}{_into_memory('data')}; of bytes that are a path os.fsdecode makes one"
        )
    if hasattr(given, "read"):
        data = "buffer.getvalue()" if isinstance(given, io.BytesIO) else "file.read()"
        raise TypeError(f"{said}{_into_memory(data)}")
    raise TypeError(said)


def _into_memory(data: str) -> str:
    """Say how bytes are given a URL."""
    return (
        f". Of bytes in memory, fsspec.filesystem('memory').pipe('/a.fits', {data}) makes "
        "memory://a.fits, for this process alone; for others write them to a file"
    )


def _of_text(text: str, options: dict[str, Any]) -> Place:
    """Find the place that a text means."""
    with storage_errors(text, options):
        if found := local_file(text):
            return Place(found, is_local=True)
        text, options = settled(text, options)
        fs, path = find(text, options)
        if beneath(fs, path)[0] is not fs:
            return _on(fs, path)
        on_disk = path_on_disk(fs, path, quoted=is_url(text))
    return Place(on_disk or text, is_local=on_disk is not None, options={} if on_disk else options)


def _check_filesystem(
    filesystem: FileSystem | None, storage_options: Mapping[str, Any] | None
) -> None:
    _check_alone(storage_options, "filesystem")
    if not is_filesystem(filesystem):
        raise TypeError(f"filesystem must be one of fsspec, not {type(filesystem).__name__}")


def _check_alone(storage_options: Mapping[str, Any] | None, other: str) -> None:
    if storage_options:
        raise TypeError(f"storage_options are for a URL: {other} has its own")


def _own_place(given: object) -> Place | None:
    """Find the place of an object that knows it: a path or file of fsspec, or Python's own file."""
    if isinstance(where := getattr(given, "path", None), str):
        with storage_errors(str(given), {}):  # a UPath makes its filesystem now
            fs = getattr(given, "fs", None)
        if is_filesystem(fs):
            return _on(fs, where)
    path = _path_of_file(given)
    return Place(path, is_local=True) if path else None


def _path_of_file(given: object) -> str | None:
    """Absolute path of an open file of Python's; None where it is none, or has lost its name."""
    # What `tempfile`, text and buffers have put around it.
    raw = getattr(given, "file", given)
    raw = getattr(raw, "buffer", raw)
    raw = getattr(raw, "raw", raw)
    if not isinstance(raw, io.FileIO) or not isinstance(raw.name, (str, bytes)):
        return None
    path = Path.cwd() / os.fsdecode(raw.name)
    with suppress(OSError, ValueError):
        if os.path.samestat(os.fstat(raw.fileno()), path.stat()):
            return str(path)
    return None


def _on(fs: FileSystem, path: str) -> Place:
    """Find the place of a path on a filesystem."""
    with storage_errors(path, fs.storage_options):
        fs, path = beneath(fs, path)
        if on_disk := path_on_disk(fs, path):
            return Place(on_disk, is_local=True)
        url, options, kept = url_of(fs, path)
        return Place(url, is_local=False, options=options, filesystem=kept)
