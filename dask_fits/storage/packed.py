"""Files that are compressed as a whole: a store over the store of the packed file.

Its ranges are those of the unpacked file. No packed byte tells which unpacked byte it is, so the
file is unpacked from its first byte on::

    packed    [------------)[-------------------------------)
    unpacked  [header |   ...   data   ...   | header | ...  )
               as much as a header needs     all of it, for pixels: the check sum is behind them

What a small file unpacks to is kept in the process for a while, so that ten cutouts unpack it once.
A large one is unpacked for each read, piece by piece.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from dask_fits._typing import Progress
from dask_fits.concurrency.cancellation import holding
from dask_fits.exceptions import FitsFormatError, TruncatedFileError, renew
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.storage.index_file import INDEXES, place_of_index
from dask_fits.storage.indexed import (
    IndexBuilding,
    IndexedStore,
    build_index,
    find_index,
    index_token,
)
from dask_fits.storage.packed_file import BLOCK, HEADER_BLOCK, PackedFile
from dask_fits.storage.packing import Packed
from dask_fits.storage.place import Place
from dask_fits.storage.store import Store
from dask_fits.storage.stretches import Stretches, positions
from dask_fits.storage.unpacked import (
    UNPACKED_BYTES,
    UnpackedFile,
    UnpackedFiles,
    Unpacking,
    reach,
    unpack_all,
)
from dask_fits.storage.zip_archive import find_member
from dask_fits.streams.formats import format_of

MAX_PACKED = 64 * 1024 * 1024
"""Packed bytes of a file of which the unpacked content is kept. A larger one is unpacked for each
read: most likely it would take all of the room."""

_GAPS = Coalescing(connections=1, small_gap=BLOCK, max_gap=BLOCK, max_bridged=64 * BLOCK)
"""Gaps cost nothing, since all bytes of the file are unpacked anyhow; the bound is for memory."""

FILES = UnpackedFiles(UNPACKED_BYTES)
"""The packed files that this process has unpacked."""


@dataclass(frozen=True, slots=True)
class PackedStore(PackedFile):
    """The content of a file that is unpacked from its first byte on; see `Store`."""

    index_place: Place | None = field(default=None, compare=False, repr=False)
    """Where the index of a gzip file is put if it is made, as it is while a large one is read for
    the first time; None if there is to be none."""

    @property
    def is_sequential(self) -> bool:
        """True: the file is unpacked from its first byte on."""
        return True

    @property
    def max_size(self) -> int:
        """Bytes that the unpacked file may have at most."""
        return self.packed.max_size

    @property
    def coalescing(self) -> Coalescing:
        """Limits within which runs are read as one range: all of them."""
        return _GAPS

    def length_up_to(self, stop: int) -> int:
        """Return the length of the unpacked file, or `stop` if less; see `Store.length_up_to`."""
        with self._held() as file:
            self._reach(file, stop, keep_from=stop - 1)
            return min(file.length, stop)

    def peek(self, start: int, count: int) -> bytes:
        """Read bytes from a position on, for a header; see `Store.peek`."""
        with self._held() as file:
            if file.first <= start:
                return self._peek(file, start, count)
        # What lies there has been dropped: begin again.
        FILES.drop(self, file)
        return self.peek(start, count)

    def requests(self, ranges: Iterable[ByteRange]) -> tuple[ByteRange, ...]:
        """Return the requests by which ranges are read: those of all packed bytes."""
        if not any(byte_range.nbytes for byte_range in ranges):
            return ()
        return self.stored.requests([self.packed.range])

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read byte ranges of the unpacked file; see `Store.read_ranges`."""
        ranges = [byte_range for byte_range in ranges if byte_range.nbytes]
        if not ranges:
            return
        if not self.version.kind:
            FILES.drop(self)  # what is known of it may be from before it was replaced
        if (indexed := self._indexed()) is not None:
            yield from indexed.read_ranges(ranges, whole=whole)
            return
        with self._held() as file:
            is_whole = self._unpack_whole(file)
        if not is_whole:
            yield from self._read_through(ranges, whole=whole)
            return
        self._check_unchanged()
        self._check_end(ranges[-1], file.unpacking, file.length)
        content = memoryview(file.content)
        for byte_range in ranges:
            size = byte_range.nbytes if whole else BLOCK
            for start in range(byte_range.start, byte_range.stop, size):
                yield start, content[start : min(start + size, byte_range.stop)]

    def _indexed(self) -> IndexedStore | None:
        """Return the store by an index that was made since the file was opened, if there is one."""
        place = self.index_place
        if place is None:
            return None
        if place.is_local:
            may_be_there = os.path.exists(place.url)  # noqa: PTH110 (a Path may raise)
        else:
            # A request more is nothing beside a pass through a large file.
            may_be_there = self.packed.range.nbytes > MAX_PACKED
        if not may_be_there and INDEXES.get(index_token(self, place)) is None:
            return None
        return _find_indexed(self, place)

    def keep(self, stretches: Mapping[int, bytes]) -> None:
        """Do nothing: there is no index."""

    def take_less_memory(self) -> None:
        """Let go of what this process has unpacked of the file."""
        FILES.drop(self)

    def begin(self, first: bytes, count: int) -> bytes:
        """Begin with the first packed bytes; return up to `count` unpacked ones."""
        # It may be known from before, as long as its versions can be told apart.
        if not self.version.kind:
            FILES.drop(self)
        if FILES.get(self) is None:
            FILES.put(self, self._new_file(first))
        return self.peek(0, count)

    @contextmanager
    def _held(self) -> Iterator[UnpackedFile]:
        """Hold what this process has of the file, for this thread alone."""
        while True:
            file = FILES.get(self) or FILES.put(self, self._new_file())
            with holding(file.lock):
                # A thread that held it before this one may have failed.
                if not file.is_dead:
                    yield file
                    return

    def _new_file(self, first: bytes = b"") -> UnpackedFile:
        may_be_whole = self.packed.range.nbytes <= MAX_PACKED
        return UnpackedFile(self._unpacking(first), may_be_whole=may_be_whole)

    def _unpacking(self, first: bytes = b"") -> Unpacking:
        """Begin a pass through the file."""
        return Unpacking(self, self.packed.decoder(self.name), first)

    def _peek(self, file: UnpackedFile, start: int, count: int) -> bytes:
        self._reach(file, start + min(count, HEADER_BLOCK), keep_from=start)
        begin = start - file.first
        available = min(len(file.content) - begin, count)
        if not file.ended:
            available -= available % HEADER_BLOCK
        return bytes(file.content[begin : begin + max(available, 0)])

    def _reach(self, file: UnpackedFile, stop: int, *, keep_from: int) -> None:
        """Unpack up to a position or the end; raise if the file is damaged before it."""
        with self._dropped_if_it_fails(file):
            reach(FILES, file, stop, keep_from=keep_from)
        error = file.unpacking.error
        # A file that is cut just ends there.
        if file.length < stop and error and not isinstance(error, TruncatedFileError):
            raise renew(error)

    def _unpack_whole(self, file: UnpackedFile) -> bool:
        """Unpack all of the file, if there is room for it; return whether it is there."""
        with self._dropped_if_it_fails(file):
            return file.may_be_whole and unpack_all(FILES, file)

    @contextmanager
    def _dropped_if_it_fails(self, file: UnpackedFile) -> Iterator[None]:
        """Forget a file if an exception, which ends its pass, leaves the block."""
        try:
            yield
        except BaseException:
            file.is_dead = True
            FILES.drop(self, file)
            file.unpacking.pieces.close()  # and its requests, if it was given up between two pieces
            raise

    def _check_unchanged(self) -> None:
        """Raise FileChangedError if that can be told without a request, as on a mounted disk."""
        if self.stored.block_size:
            for _ in self.stored.read_ranges([ByteRange(0, 1)], whole=True):
                pass

    def _read_through(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        """Read ranges in a pass of their own, of which nothing is kept but an index."""
        place = self.index_place
        # If there is an index, it has just been found to be of no use.
        is_new = place is not None and INDEXES.get(index_token(self, place)) is None
        building = IndexBuilding(self, place) if place and is_new else None
        unpacking = building.unpacking if building else self._unpacking()
        with closing(unpacking.pieces) as pieces:
            stretches = Stretches(positions(pieces))
            yield from stretches.cut(ranges, whole=whole, block=BLOCK)
            # The check sum stands behind the bytes, and what is behind that belongs to the index.
            stop = ranges[-1].stop
            while (building or unpacking.verified < stop) and stretches.advance():
                pass
        if unpacking.verified < stop:
            self._check_end(ranges[-1], unpacking, stretches.length)
        if building and not unpacking.error:
            building.finish()

    def _check_end(self, byte_range: ByteRange, unpacking: Unpacking, length: int) -> None:
        """Raise if a file that has been unpacked to its end has no usable bytes of a range."""
        if byte_range.stop <= unpacking.usable:
            return
        if unpacking.error:
            raise renew(unpacking.error)
        raise TruncatedFileError(
            f"{self.name}: bytes {byte_range.start} to {byte_range.stop} of the unpacked file are "
            f"needed, but it ends at byte {length}"
        )


def _find_indexed(file: PackedFile, place: Place) -> IndexedStore | None:
    """Return the store of a file by its index, if there is one that is of use."""
    loaded = find_index(file, place)
    if loaded is None or loaded.is_wrong or not loaded.index.is_useful:
        return None
    return IndexedStore(file.stored, file.packed, place)


def open_packed(
    stored: Store,
    first: bytes,
    *,
    count: int,
    member: str = "",
    index: str | os.PathLike[str] | None = None,
) -> tuple[Store, bytes]:
    """Return the store of a file's content: itself, or that of the unpacked file.

    Parameters
    ----------
    stored : Store
    first : bytes
        Its first bytes.
    count : int
        Bytes of the content to return.
    member : str
        Name of a member, if the file is a zip archive of several.
    index : str or os.PathLike, optional
        Directory of indexes of gzip files; see `dask_fits.open`.

    Returns
    -------
    store : Store
    first : bytes
        The first bytes of the content, about as many as were packed in those that are given.

    Raises
    ------
    FitsFormatError
        The compressed file is damaged at its beginning; or it is a zip archive whose member cannot
        be told, or not be unpacked.
    FitsFileNotFoundError
        It is a zip archive without such a member.
    MissingDriverError
        What unpacks it is not installed.
    """
    packed_format = format_of(first)
    if member and packed_format != "zip":
        raise FitsFormatError(
            f"{stored.name}::{member}: found {first[:4]!r}, expected a zip archive with this member"
        )
    if packed_format is None:
        return stored, first
    if packed_format == "zip":
        packed = find_member(stored, first, member)
    else:
        packed = Packed(packed_format, ByteRange(0, stored.version.size))
    first = first[packed.range.start : packed.range.stop]
    store = unpacked_store(stored, packed, index)
    return store, store.begin(first, count)


def unpacked_store(
    stored: Store, packed: Packed, index: str | os.PathLike[str] | None
) -> PackedStore | IndexedStore:
    """Return the store of the content of a file: by its index, if there is one that is of use."""
    place = None
    if packed.format == "gzip" and index is not None and stored.version.kind:
        place = place_of_index(stored, index)
    store = PackedStore(stored, packed, place)
    indexed = None if place is None else _find_indexed(store, place)
    return indexed or store


def with_index(store: Store, progress: Progress | None) -> Store:
    """Make the index of a gzip file, if there is none; see `FitsFile.build_index`."""
    if isinstance(store, IndexedStore):
        return store
    if not isinstance(store, PackedStore) or store.index_place is None:
        raise FitsFormatError(
            f"{store.name}: found {store.packing or 'a file that is not compressed as a whole'}, "
            "expected a gzip file whose versions the storage tells apart, opened with an index"
        )
    place = store.index_place
    loaded = find_index(store, place) or build_index(store, place, progress)
    if not loaded.index.is_useful:
        return store
    return IndexedStore(store.stored, store.packed, place)
