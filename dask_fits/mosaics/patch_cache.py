"""A cache of the positions that a process has found, for chunks that are smaller than patches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from dask_fits.concurrency.process_lock import ProcessLock
from dask_fits.resampling.positions import Patch

CACHE_BYTES = 64 * 1024 * 1024
"""Bytes of positions that a process keeps."""


class PatchCache:
    """The patches used last; new ones displace the oldest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = ProcessLock()
        self._patches: OrderedDict[Hashable, Patch | None] = OrderedDict()
        self._nbytes = 0

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._patches.clear()
            self._nbytes = 0

    def get(self, key: Hashable, find: Callable[[], Patch | None]) -> Patch | None:
        """Return a patch, found anew if it is not kept; None if the image is not there.

        Parameters
        ----------
        key : hashable
            All that the positions depend on.
        find : callable
            Finds them.
        """
        with self._lock:
            if key in self._patches:
                self._patches.move_to_end(key)
                return self._patches[key]
        # Two threads may both find it, and find the same.
        patch = find()
        with self._lock:
            if key not in self._patches:
                self._nbytes += _nbytes(patch)
                self._patches[key] = patch
            while self._nbytes > self._limit:
                _, oldest = self._patches.popitem(last=False)
                self._nbytes -= _nbytes(oldest)
        return patch


def _nbytes(patch: Patch | None) -> int:
    """Return what a patch takes, with its key and what Python adds."""
    return 4096 + (0 if patch is None else patch.nbytes)


PATCHES = PatchCache(CACHE_BYTES)
"""The positions of this process."""
