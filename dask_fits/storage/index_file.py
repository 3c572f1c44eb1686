"""Files of indexes of gzip files: where they are, what is in them, and those that are at hand.

::

    | magic, lengths | points | version, kept stretches | windows, deflated |
    |<----------------- head, read as a whole --------->|  each read by itself
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.exceptions import FitsFormatError
from dask_fits.storage.errors import protocol_of, storage_errors
from dask_fits.storage.filesystem import is_url, write_file
from dask_fits.storage.local import open_local
from dask_fits.storage.place import Place, place_of
from dask_fits.storage.remote import open_remote
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.streams.gzip_index import POINT, GzipIndex

_MAGIC = b"dask_fits gz 1\n\0"
_HEAD = struct.Struct("<16sIQQQQQ")
"""Magic, CRC-32 of the rest of the head, number of points, packed size, unpacked size, bytes of the
text, bytes of the windows."""

_FIRST_READ = 256 * 1024
"""Bytes that are read at first: the head of an index of 20 GB."""

_MAX_HEAD = 256 * 1024 * 1024
"""Bytes of a head beyond which an index is damaged."""

_MAX_WINDOWS = 64
"""Windows that a process keeps: up to 2 MiB."""

_MAX_WINDOW_BYTES = 8 * 1024 * 1024
"""Bytes of windows of one index that are held in memory, of a file of some GB."""

_MAX_INDEXES = 16
"""Indexes that a process keeps."""


@dataclass(eq=False)
class LoadedIndex:
    """An index at hand: its points, and a way to its windows."""

    index: GzipIndex
    kept: Mapping[int, bytes]
    """Stretches of the unpacked file by their first byte: its headers."""
    windows: Store | bytes = field(repr=False)
    """The index's own file, or the windows themselves."""
    offset: int = 0
    """Byte of that file at which the windows begin."""
    is_wrong: bool = False
    """Whether it has turned out not to be that of the file, so that it is not used any more."""

    def __post_init__(self) -> None:
        self._lock = ProcessLock()
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def window(self, number: int) -> bytes:
        """Return the deflated window of a span; read it, if the process has not got it."""
        byte_range = self.index.window_range(number)
        if isinstance(self.windows, bytes):
            return self.windows[byte_range.start : byte_range.stop]
        if not byte_range.nbytes:
            return b""
        with self._lock:
            if number in self._windows:
                self._windows.move_to_end(number)
                return self._windows[number]
        window = self.windows.peek(self.offset + byte_range.start, byte_range.nbytes)
        with self._lock:
            self._windows[number] = window
            while len(self._windows) > _MAX_WINDOWS:
                self._windows.popitem(last=False)
        return window

    def all_windows(self) -> bytes:
        """Return all windows, one behind the other."""
        if isinstance(self.windows, bytes):
            return self.windows
        return self.windows.peek(self.offset, self.windows.version.size)

    def peek(self, start: int, count: int) -> bytes:
        """Return up to `count` bytes of the kept stretch that begins at or before a position."""
        for first, content in self.kept.items():
            if first <= start < first + len(content):
                return content[start - first : start - first + count]
        return b""


IndexToken = tuple[str | int, ...]
"""What tells a version of a file, and the place of its index, from all others."""


class Indexes:
    """The indexes that a process has used lately, by what tells a version of a file from others."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._loaded: OrderedDict[IndexToken, LoadedIndex] = OrderedDict()
        self._locks: WeakValueDictionary[tuple[object, ...], threading.Lock] = WeakValueDictionary()

    def lock(self, token: IndexToken) -> threading.Lock:
        """Return the lock for reading or making the index of a file."""
        with self._lock:
            # A forked process has locks of its own.
            return self._locks.setdefault((os.getpid(), token), threading.Lock())

    def get(self, token: IndexToken) -> LoadedIndex | None:
        """Return the index of a file, if it is here."""
        with self._lock:
            if (loaded := self._loaded.get(token)) is not None:
                self._loaded.move_to_end(token)
            return loaded

    def put(self, token: IndexToken, loaded: LoadedIndex) -> None:
        """Keep the index of a file."""
        with self._lock:
            self._loaded[token] = loaded
            self._loaded.move_to_end(token)
            while len(self._loaded) > _MAX_INDEXES:
                self._loaded.popitem(last=False)


INDEXES = Indexes()
"""The indexes of this process."""


def place_of_index(stored: Store, directory: str | os.PathLike[str]) -> Place:
    """Return the place of the index of a version of a file.

    Parameters
    ----------
    stored : Store
    directory : str or os.PathLike
        A path or URL; ``"auto"`` for the user's cache directory. A URL of the file's own protocol
        is reached with the file's storage options.

    Raises
    ------
    ValueError
        It is no directory, but a file in an archive.
    """
    # The name without secrets, since those of a signed URL change.
    identity = (stored.name, *stored.token[1:])
    name = f"{blake2b(repr(identity).encode(), digest_size=16).hexdigest()}.gzi"
    if directory == "auto":
        from platformdirs import user_cache_path

        directory = user_cache_path("dask_fits")
    text = os.fspath(directory)
    is_same = is_url(text) and protocol_of(text) == protocol_of(stored.url)
    options: Mapping[str, Any] | None = getattr(stored, "options", None) if is_same else None
    place = place_of(f"{text.rstrip('/')}/{name}", options)
    if place.member:
        raise ValueError(f"index: expected a directory, found a file in an archive: {text}")
    return place


def save_index(place: Place, stored: Store, loaded: LoadedIndex) -> None:
    """Write the file of an index, whole or not at all.

    Raises
    ------
    StorageError, AccessDeniedError
        It cannot be written there.
    """
    version = stored.version
    index = loaded.index
    windows = loaded.all_windows()
    kept = {str(start): b64encode(content).decode() for start, content in loaded.kept.items()}
    about = [version.size, version.kind, version.value]
    text = json.dumps({"file": stored.name, "version": about, "kept": kept})
    packed_text = zlib.compress(text.encode(), 6)
    rest = index.points.tobytes() + packed_text
    lengths = (len(index.points), index.packed_size, index.size, len(packed_text), len(windows))
    crc = zlib.crc32(struct.pack("<5Q", *lengths) + rest)
    with storage_errors(place.url, place.options):
        write_file(place.url, place.options, [_HEAD.pack(_MAGIC, crc, *lengths) + rest, windows])


def load_index(place: Place, stored: Store, transfer: TransferConfig) -> LoadedIndex:
    """Read the index of a version of a file, without its windows.

    Raises
    ------
    FitsFileNotFoundError
        There is none.
    FitsFormatError
        It is damaged, or that of another file.
    AccessDeniedError, StorageError
        It cannot be read.
    """
    store: Store
    if place.is_local:
        store, first = open_local(place.url, count=_FIRST_READ)
    else:
        store, first = open_remote(place, transfer, count=_FIRST_READ)
    magic, crc, *lengths = _HEAD.unpack(first[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    count, packed_size, size, text_bytes, window_bytes = lengths
    end = _HEAD.size + count * POINT.itemsize + text_bytes
    if magic != _MAGIC or end > _MAX_HEAD or end + window_bytes != store.version.size:
        raise FitsFormatError(f"{store.name}: a damaged index of {stored.name}")
    head = first if len(first) >= end else first + store.peek(len(first), end - len(first))
    rest = head[_HEAD.size : end]
    if zlib.crc32(struct.pack("<5Q", *lengths) + rest) != crc:
        raise FitsFormatError(f"{store.name}: a damaged index of {stored.name}: its CRC is wrong")
    points = np.frombuffer(rest, POINT, count)
    text = json.loads(zlib.decompress(rest[points.nbytes :]))
    version = stored.version
    if text["version"] != [version.size, version.kind, version.value]:
        raise FitsFormatError(f"{store.name}: an index of another version of {stored.name}")
    kept = {int(start): b64decode(content) for start, content in text["kept"].items()}
    index = GzipIndex(points, packed_size, size)
    if place.is_local and window_bytes <= _MAX_WINDOW_BYTES:
        # Now, since another process may write the file anew.
        return LoadedIndex(index, kept, store.peek(end, window_bytes))
    return LoadedIndex(index, kept, store, end)
