"""The text of a header, packed where many are kept."""

from __future__ import annotations

import zlib


class HeaderText:
    """The blocks of a header as bytes, which take a tenth of the memory once they are packed.

    They are packed where they are kept for long, of ten thousand files, and where they are sent to
    another process; not where a header is read, since packing costs a tenth of opening a file.
    """

    __slots__ = ("_packed", "_plain")

    def __init__(self, blocks: bytes) -> None:
        self._plain: bytes | None = blocks
        self._packed = b""

    def blocks(self) -> bytes:
        """Return the blocks."""
        plain = self._plain
        return zlib.decompress(self._packed) if plain is None else plain

    def pack(self) -> None:
        """Pack them from now on."""
        if self._plain is not None:
            self._packed = zlib.compress(self._plain, 1)
            self._plain = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderText) and self.blocks() == other.blocks()

    def __hash__(self) -> int:
        return hash(self.blocks())

    def __getstate__(self) -> bytes:
        return self._packed if self._plain is None else zlib.compress(self._plain, 1)

    def __setstate__(self, packed: bytes) -> None:
        self._plain, self._packed = None, packed
