"""A store in memory on which so many chunks can be written, and then none."""

from __future__ import annotations

from typing import Any, ClassVar

from fsspec.implementations.memory import MemoryFileSystem


class FullFileSystem(MemoryFileSystem):
    """A subclass has its protocol, what the paths of chunks have in them, and files of its own."""

    chunks: ClassVar[str]
    left: ClassVar[int] = 0
    """Chunks that can be written."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.store = {}
        cls.pseudo_dirs = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix(f"{cls.protocol}:"))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if self.chunks in path:
            if type(self).left == 0:
                raise OSError(28, "No space left on device")
            type(self).left -= 1
        super().pipe_file(path, value, mode, **kwargs)
