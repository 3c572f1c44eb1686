"""Table rows that a process has read lately, so that its tasks do not read them again."""

from __future__ import annotations

from collections import OrderedDict

from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store

CACHE_BYTES = 16 * 1024 * 1024
"""Bytes of rows that a process keeps."""

_MAX_PIECES = 256
"""Ranges that a process keeps: few enough to be looked through."""

_Key = tuple[Store, ByteRange]


class RowCache:
    """The byte ranges read last, of any version of any file; the oldest make room for new ones.

    What a store without a version gives is not kept, since its file may be replaced unnoticed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = ProcessLock()
        self._pieces: OrderedDict[_Key, bytes] = OrderedDict()
        self._held = 0

    def get(self, store: Store, wanted: ByteRange) -> memoryview | None:
        """Find a range, or a longer one that holds it."""
        with self._lock:
            for key, piece in self._pieces.items():
                owner, held = key
                if owner == store and held.start <= wanted.start and wanted.stop <= held.stop:
                    self._pieces.move_to_end(key)
                    return memoryview(piece)[wanted.start - held.start : wanted.stop - held.start]
        return None

    def put(self, store: Store, held: ByteRange, piece: bytes) -> None:
        """Keep a range, if it is not too long for the cache."""
        if not store.version.kind or held.nbytes > self._limit:
            return
        with self._lock:
            self._held += held.nbytes - len(self._pieces.pop((store, held), b""))
            self._pieces[store, held] = piece
            while self._held > self._limit or len(self._pieces) > _MAX_PIECES:
                _, oldest = self._pieces.popitem(last=False)
                self._held -= len(oldest)


ROWS = RowCache(CACHE_BYTES)
"""The rows of this process."""
