"""A store as a file object of Python, for libraries that read those."""

from __future__ import annotations

import io

from dask_fits.storage.store import Store


class StoreFile(io.RawIOBase):
    """A version of a file as a file object, which holds no handle; for one thread at a time."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._size = store.version.size
        self._position = 0

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; see `io.IOBase.seek`."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError(f"a position of {base + offset}")  # as a file does
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Read up to `size` bytes; all, if it is negative."""
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        data = self._read(self._position, stop)
        self._position = stop
        return data

    def _read(self, start: int, stop: int) -> bytes:
        """Read bytes from one position to another."""
        return self._store.peek(start, stop - start)
