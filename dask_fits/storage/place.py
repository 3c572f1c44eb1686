"""The place of a file that a user gives: the only module that decides what a text means.

A text is the file that exists on a mounted disk under exactly this name, whatever characters the
name has. Only a text that starts with a protocol that fsspec knows and ``://`` is always a URL. Any
other text is what fsspec makes of it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Protocol

from dask_fits._typing import FileSystem
from dask_fits.exceptions import FitsFileNotFoundError
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import (
    filesystem_to_url,
    glob,
    is_filesystem,
    is_url,
    local_file,
    make_absolute,
    path_on_disk,
    split_chain,
    unwrap_directories,
    url_to_filesystem,
)
from dask_fits.storage.redaction import redact_url

_MEMBER = re.compile(r"(.+?\.zip(?:\?.*?)?)::(.+)", re.IGNORECASE | re.DOTALL)
"""A zip archive, and a file in it."""

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""A byte of a name that is no UTF-8, as Python holds it (PEP 383)."""


class OnFilesystem(Protocol):
    """A file of fsspec, open or not, or a path of universal_pathlib."""

    @property
    def fs(self) -> Any:
        """The filesystem of fsspec."""

    @property
    def path(self) -> Any:
        """The path there."""


FilePath = str | os.PathLike[str] | os.PathLike[bytes] | OnFilesystem | IO[Any]
"""A path or URL, or an object that has one."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a file: no handle, only what a process needs to reach the file."""

    url: str
    """Absolute path or URL, secrets included."""
    is_local: bool
    """True on a mounted disk."""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    """fsspec storage options; they may hold secrets and are never shown."""
    filesystem: FileSystem | None = field(default=None, repr=False)
    """The filesystem itself, if URL and options do not describe it; it can be pickled."""
    member: str = ""
    """Name of a file in the zip archive that is at this place; empty for the only one, or if it is
    no archive."""


def place_of(
    given: FilePath | Place,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: FileSystem | None = None,
) -> Place:
    """Return the place of a file.

    Parameters
    ----------
    given : str, os.PathLike, file object or Place
    storage_options : mapping, optional
        Options of the fsspec filesystem of a URL.
    filesystem : fsspec filesystem, optional
        The filesystem that a path is on.

    Raises
    ------
    TypeError
        An object has no path or URL by which tasks could read the file.
    MissingDriverError, StorageError
        The filesystem cannot be made.
    """
    if isinstance(given, Place):
        return given
    if filesystem is not None:
        _check_filesystem(filesystem, storage_options)
        path, member = _split_member(_path_text(given))
        return replace(_place_on_filesystem(filesystem, path), member=member)
    if (place := _place_of_object(given)) is not None:
        _reject_options(storage_options, type(given).__name__)
        return place
    text, member = _split_member(_path_text(given))
    return replace(_place_of_text(text, dict(storage_options or {})), member=member)


def places_of(
    given: FilePath | Place,
    storage_options: Mapping[str, Any] | None = None,
    filesystem: FileSystem | None = None,
) -> list[FilePath | Place]:
    """List the files that a path or URL stands for: those that match, if it has a ``*``.

    A path or URL without one is returned as it is, and so is the name of a file on a mounted disk
    that has one.

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
    text, member = _split_member(_path_text(given))
    options = dict(storage_options or {})
    if filesystem is None and ("*" not in text or local_file(text)):
        return [given]
    if "*" not in text:
        return [place_of(given, storage_options, filesystem)]
    if filesystem is not None:
        _check_filesystem(filesystem, storage_options)
    with storage_errors(text, options):
        if filesystem is not None:
            fs, pattern = filesystem, text
        else:
            fs, pattern = url_to_filesystem(*make_absolute(text, options))
        paths = glob(fs, pattern)
    if not paths:
        raise FitsFileNotFoundError(f"{redact_url(text)}: found no file that matches")
    return [replace(_place_on_filesystem(fs, path), member=member) for path in paths]


def is_one_file(given: object) -> bool:
    """Return whether an object stands for one file, rather than being several of them."""
    paths = (str, bytes, bytearray, memoryview, os.PathLike, Place)
    return isinstance(given, paths) or hasattr(given, "read") or hasattr(given, "path")


def label_of(given: FilePath | Place) -> str:
    """Return the path or URL of a file as it was given, or that of the place of an object."""
    return _path_text(given) if isinstance(given, (str, os.PathLike)) else place_of(given).url


def utf8_name(text: str) -> str:
    r"""Return a name of a file that can be printed and written as UTF-8.

    Bytes of the name that are no UTF-8 become ``\xff`` and the like.
    """
    if text.isascii():
        return text
    text = _ESCAPED_BYTE.sub(lambda match: rf"\x{ord(match[0]) - 0xDC00:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()


def _split_member(text: str) -> tuple[str, str]:
    """Divide ``archive.zip::name`` into the place of the archive and the name of a file in it."""
    match = _MEMBER.fullmatch(text)
    if match is None or local_file(text) or len(split_chain(text)) > 1:
        return text, ""
    return match[1], match[2]


def _path_text(given: object) -> str:
    """Return the text of a path or URL; raise TypeError if the object is neither."""
    if isinstance(given, (str, os.PathLike)):
        return os.fsdecode(given)
    message = (
        "url must be a str or path, or a file object that has one: each task opens the file by "
        f"itself, so it takes a path or a URL, not {type(given).__name__}"
    )
    if isinstance(given, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"{message}{_memory_hint('data')}; of bytes that are a path os.fsdecode makes one"
        )
    if hasattr(given, "read"):
        data = "buffer.getvalue()" if isinstance(given, io.BytesIO) else "file.read()"
        raise TypeError(f"{message}{_memory_hint(data)}")
    raise TypeError(message)


def _memory_hint(data: str) -> str:
    """Return the end of a message: how to give bytes in memory a URL."""
    return (
        f". Of bytes in memory, fsspec.filesystem('memory').pipe('/a.fits', {data}) makes "
        "memory://a.fits, for this process alone; for others write them to a file"
    )


def _place_of_text(text: str, options: dict[str, Any]) -> Place:
    """Return the place that a text means; see the module's first lines."""
    with storage_errors(text, options):
        # An existing file comes first: its name may hold a ``::``, a ``?`` or a ``*``.
        if path := local_file(text):
            return Place(path, is_local=True)
        url, options = make_absolute(text, options)
        fs, path = url_to_filesystem(url, options)
        # A URL of ``dir::`` only prepends a directory: the file has the name of the one without.
        if unwrap_directories(fs, path)[0] is not fs:
            return _place_on_filesystem(fs, path)
        on_disk = path_on_disk(fs, path, quoted=is_url(url))
    if on_disk is not None:
        return Place(on_disk, is_local=True)
    return Place(url, is_local=False, options=options)


def _place_on_filesystem(fs: FileSystem, path: str) -> Place:
    """Return the place of a path on a filesystem."""
    with storage_errors(path, fs.storage_options):
        fs, path = unwrap_directories(fs, path)
        if on_disk := path_on_disk(fs, path):
            return Place(on_disk, is_local=True)
        url, options, kept = filesystem_to_url(fs, path)
        return Place(url, is_local=False, options=options, filesystem=kept)


def _place_of_object(given: object) -> Place | None:
    """Return the place of a path or file of fsspec, or of Python's own file; else None."""
    if isinstance(path := getattr(given, "path", None), str):
        with storage_errors(str(given), {}):  # a UPath makes its filesystem now
            fs = getattr(given, "fs", None)
        if is_filesystem(fs):
            return _place_on_filesystem(fs, path)
    local = _path_of_open_file(given)
    return Place(local, is_local=True) if local else None


def _path_of_open_file(given: object) -> str | None:
    """Return the absolute path of an open file of Python's; None if it is none, or was renamed."""
    # Unwrap what `tempfile`, text and buffers put around the file.
    raw = getattr(given, "file", given)
    raw = getattr(raw, "buffer", raw)
    raw = getattr(raw, "raw", raw)
    # A file that was opened by its descriptor has that for a name.
    if not isinstance(raw, io.FileIO) or not isinstance(raw.name, (str, bytes)):
        return None
    path = Path(os.fsdecode(raw.name)).absolute()
    # Another file may have the name by now, or the directory may have been changed.
    with suppress(OSError, ValueError):
        if os.path.samestat(os.fstat(raw.fileno()), path.stat()):
            return str(path)
    return None


def _check_filesystem(
    filesystem: FileSystem | None, storage_options: Mapping[str, Any] | None
) -> None:
    """Raise TypeError if this is no filesystem of fsspec, or if there are options besides it."""
    _reject_options(storage_options, "filesystem")
    if not is_filesystem(filesystem):
        raise TypeError(f"filesystem must be one of fsspec, not {type(filesystem).__name__}")


def _reject_options(storage_options: Mapping[str, Any] | None, other: str) -> None:
    """Raise TypeError if options are given beside an object that has its own."""
    if storage_options:
        raise TypeError(f"storage_options are for a URL: {other} has its own")
