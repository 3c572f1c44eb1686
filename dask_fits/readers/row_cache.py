"""A cache of the table rows that a process reads, so that its tasks do not read them again."""

from __future__ import annotations

from collections import OrderedDict

from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage.store import Store

CACHE_BYTES = 16 * 1024 * 1024
"""Bytes of rows that a process keeps."""

_MAX_RANGES = 256
"""Ranges that a process keeps: few enough to be looked through."""

_CacheKey = tuple[Store, ByteRange]


class RowCache:
    """The byte ranges used last, of any version of any file; new ones displace the oldest.

    Nothing is kept from a store without a version, since its file may be replaced unnoticed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = ProcessLock()
        self._contents: OrderedDict[_CacheKey, bytes] = OrderedDict()
        self._nbytes = 0

    def get(self, store: Store, byte_range: ByteRange) -> memoryview | None:
        """Return the bytes of a range, if it or a longer one that holds it is kept."""
        with self._lock:
            for key, content in self._contents.items():
                cached_store, cached = key
                if (
                    cached_store == store
                    and cached.start <= byte_range.start
                    and byte_range.stop <= cached.stop
                ):
                    self._contents.move_to_end(key)
                    offset = byte_range.start - cached.start
                    return memoryview(content)[offset : offset + byte_range.nbytes]
        return None

    def put(self, store: Store, byte_range: ByteRange, content: bytes) -> None:
        """Keep the bytes of a range, if it is not too long for the cache."""
        if not store.version.kind or byte_range.nbytes > self._limit:
            return
        key = (store, byte_range)
        with self._lock:
            self._nbytes += byte_range.nbytes - len(self._contents.pop(key, b""))
            self._contents[key] = content
            while self._nbytes > self._limit or len(self._contents) > _MAX_RANGES:
                _, oldest = self._contents.popitem(last=False)
                self._nbytes -= len(oldest)


ROWS = RowCache(CACHE_BYTES)
"""The rows of this process."""
