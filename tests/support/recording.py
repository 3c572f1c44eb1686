"""A filesystem in memory that keeps a log of what it is asked for."""

from __future__ import annotations

from typing import Any, ClassVar

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class RecordingFileSystem(MemoryFileSystem):
    """``recording://`` URLs: every metadata request and every range, in order."""

    protocol = "recording"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    log: ClassVar[list[tuple[Any, ...]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("recording:"))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        self.log.append(("info",))
        return super().info(path, **kwargs)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        self.log.append(("get", start, end))
        return bytes(self.store[self._strip_protocol(path)].getvalue()[start:end])

    @classmethod
    def ranges(cls) -> list[tuple[int, int]]:
        return [entry[1:] for entry in cls.log if entry[0] == "get"]

    @classmethod
    def nbytes(cls) -> int:
        return sum(stop - start for start, stop in cls.ranges())


fsspec.register_implementation("recording", RecordingFileSystem, clobber=True)


def put(name: str, content: bytes) -> str:
    """Store a file; its URL."""
    RecordingFileSystem().pipe_file(f"/{name}", content)
    RecordingFileSystem.log.clear()
    return f"recording://{name}"
