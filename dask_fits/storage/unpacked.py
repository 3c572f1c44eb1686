"""What a process has of packed files: unpacked bytes, and how far it has come in each."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Generator, Hashable, Iterator

from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.exceptions import FitsError, FitsFormatError, FitsWarning, TruncatedFileError
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.packed_file import PackedFile
from dask_fits.streams.decoder import CutStreamError, StreamDecoder, StreamError

UNPACKED_BYTES = 256 * 1024 * 1024
"""Unpacked bytes that a process keeps, of all files together."""

_FIRST_WINDOW = 57_600
"""Packed bytes that are fetched on the way to a further header, at least."""

_BLIND_WINDOW = 256 * 1024
"""The same if nothing could be unpacked yet: a block of bzip2 takes as many to be complete."""

_MAX_WINDOW = 16 * 1024 * 1024
"""Packed bytes that are fetched, and held, at a time on the way to a further header."""

_STEP = 4 * 1024 * 1024
"""Bytes by which the room for an unpacked file grows."""

_STATE = 512 * 1024
"""Bytes that a file counts in the cache for its decoder and the packed bytes on hand."""


class Unpacking:
    """One pass through a packed file, which yields what it unpacks to, from its first byte on.

    Parameters
    ----------
    file : PackedFile
    decoder : StreamDecoder
    first : bytes
        The first of the packed bytes, if they have been fetched already.
    """

    def __init__(self, file: PackedFile, decoder: StreamDecoder, first: bytes = b"") -> None:
        self.wanted: int | None = None
        """Unpacked bytes that are wanted at present, so that no more is fetched than they are
        likely to need; None for all."""
        self.error: FitsError | None = None
        """The damage that ended the pass."""
        self.usable = 0
        """Once the pass has ended: the unpacked bytes that may be used, from the first on."""
        self.pieces = self._unpack(memoryview(first))
        """The unpacked pieces that are left."""
        self._stored = file.stored
        self._packed_range = file.packed.range
        self._decoder = decoder
        self._name = file.name
        self._position = self._packed_range.start + len(first)

    @property
    def taken(self) -> int:
        """Packed bytes that have been fetched so far."""
        return self._position - self._packed_range.start

    @property
    def verified(self) -> int:
        """Unpacked bytes, from the first on, whose check sum has been compared."""
        return self._decoder.verified

    def _unpack(self, first: memoryview) -> Generator[bytes, None, None]:
        decoder = self._decoder
        try:
            yield from decoder.decode(first)
            while self._position < self._packed_range.stop and not decoder.ended:
                for data in self._fetch():
                    yield from decoder.decode(data)
            if decoder.ended:
                warnings.warn(
                    f"{self._name}: what follows the compressed stream is no part of it; ignored",
                    FitsWarning,
                    stacklevel=2,
                )
            yield from decoder.finish()
        except CutStreamError as error:
            self.usable = max(error.usable, decoder.verified)
            self.error = TruncatedFileError(
                f"{self._name}: the file is truncated: {error}: found {decoder.length} bytes of "
                "the unpacked file"
            )
        except StreamError as error:
            self.usable = decoder.verified
            self.error = FitsFormatError(
                f"{self._name}: the compressed file is damaged: {error}; it can be read up to byte "
                f"{self.usable} of the unpacked file, found the damage by byte {decoder.length}"
            )
        else:
            self.usable = decoder.length

    def _fetch(self) -> Iterator[memoryview]:
        """Fetch the next packed bytes: all if all is wanted, else about as many as it takes."""
        if self.wanted is None:
            window = ByteRange(self._position, self._packed_range.stop)
            batch = bytearray()
            for start, data in self._stored.read_ranges([window], whole=False):
                self._position = start + len(data)
                if not self._decoder.batch:
                    yield data
                    continue
                # Parts that threads are to decode at the same time have to be at hand together.
                batch += data
                if len(batch) >= self._decoder.batch or self._position == window.stop:
                    yield memoryview(bytes(batch))
                    batch.clear()
        else:
            window = self._next_window(self.wanted)
            # All of it before any is unpacked: requests are not left open if no more is wanted.
            fetched = self._stored.read_ranges([window], whole=False)
            content = bytearray()
            for _, data in fetched:
                content += data
            self._position = window.stop
            yield memoryview(content)

    def _next_window(self, wanted: int) -> ByteRange:
        """Choose the packed bytes that are likely to unpack to what is wanted."""
        length = self._decoder.length
        if length:
            count = max(int((wanted - length) * self.taken / length * 1.1), _FIRST_WINDOW)
        else:
            count = _BLIND_WINDOW
        stop = min(self._position + min(count, _MAX_WINDOW), self._packed_range.stop)
        return ByteRange(self._position, stop)


class UnpackedFile:
    """What a process has of one packed file: a stretch of its unpacked bytes, and the way on.

    Its methods are for whoever holds `lock`.
    """

    def __init__(self, unpacking: Unpacking, *, may_be_whole: bool) -> None:
        self.lock = threading.Lock()
        self.may_be_whole = may_be_whole
        """Whether all of it may be kept, if there is room."""
        self.reserved = 2 * _STATE
        """Bytes that the file counts in the cache."""
        self.content = bytearray()
        self.first = 0
        """Position in the unpacked file of the first byte of `content`."""
        self.unpacking = unpacking
        self.ended = False
        self.is_dead = False
        """Whether an exception has ended the pass, so that it leads no further."""

    @property
    def length(self) -> int:
        """Bytes of the unpacked file that have been reached."""
        return self.first + len(self.content)

    def take_piece(self) -> None:
        """Unpack the next piece."""
        raise_if_cancelled()
        piece = next(self.unpacking.pieces, None)
        if piece is None:
            self.ended = True
        else:
            self.content += piece

    def drop(self, keep_from: int) -> None:
        """Drop the bytes before a position."""
        count = min(keep_from - self.first, len(self.content))
        if count > 0:
            del self.content[:count]
            self.first += count


class UnpackedFiles:
    """The packed files that a process has unpacked lately, whole or in part; the oldest give way.

    Parameters
    ----------
    limit : int
        Bytes of all files together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = ProcessLock()
        self._files: OrderedDict[Hashable, UnpackedFile] = OrderedDict()
        self._process = os.getpid()

    def get(self, key: Hashable) -> UnpackedFile | None:
        """Return a file that is here."""
        with self._lock:
            self._renew()
            if (file := self._files.get(key)) is not None:
                self._files.move_to_end(key)
            return file

    def put(self, key: Hashable, file: UnpackedFile) -> UnpackedFile:
        """Keep a file; return the one that another thread has put here meanwhile, if there is."""
        with self._lock:
            self._renew()
            file = self._files.setdefault(key, file)
        self.make_room(file, file.reserved)
        return file

    def drop(self, key: Hashable, file: UnpackedFile | None = None) -> None:
        """Forget a file, if it is still this one."""
        with self._lock:
            if file is None or self._files.get(key) is file:
                self._files.pop(key, None)

    def make_room(self, file: UnpackedFile, nbytes: int) -> bool:
        """Make room for so many bytes of a file; return whether there is.

        Files that no thread works on give way, the one that was used least lately first.
        """
        with self._lock:
            others = {key: other for key, other in self._files.items() if other is not file}
            total = sum(other.reserved for other in others.values()) + nbytes
            for key, other in others.items():
                if total <= self.limit:
                    break
                if not other.lock.locked():
                    total -= other.reserved
                    del self._files[key]
            if total <= self.limit:
                file.reserved = nbytes
            return total <= self.limit

    def _renew(self) -> None:
        """Begin anew in a forked process, where a thread may have left anything half done."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._files.clear()


def reach(files: UnpackedFiles, file: UnpackedFile, stop: int, *, keep_from: int) -> None:
    """Unpack a file up to a position, or to its end.

    What lies before `keep_from` is kept, too, if there is room for it.
    """
    file.unpacking.wanted = stop
    while file.length < stop and not file.ended:
        if not _make_room(files, file):
            file.drop(keep_from)
        file.take_piece()


def unpack_all(files: UnpackedFiles, file: UnpackedFile) -> bool:
    """Unpack a file to its end, if there is room for it; return whether all of it is there."""
    if file.first:  # a part has been dropped, since there is no room
        return False
    file.unpacking.wanted = None
    while not file.ended:
        if not _make_room(files, file):
            file.drop(file.length)
            return False
        file.take_piece()
    files.make_room(file, len(file.content) + _STATE)
    return True


def _make_room(files: UnpackedFiles, file: UnpackedFile) -> bool:
    """Return whether there is room for another piece of a file; make some, if need be."""
    nbytes = len(file.content) + _STATE
    return nbytes <= file.reserved or (file.may_be_whole and files.make_room(file, nbytes + _STEP))
