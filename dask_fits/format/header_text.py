"""The blocks of a header, which can be kept compressed in memory."""

from __future__ import annotations

import zlib

from dask_fits.format.header import RawHeader, parse_header


class HeaderText:
    """The blocks of a header as bytes, which take a tenth of the memory once they are packed.

    They are packed if they are kept for long, such as those of ten thousand files, and if they are
    sent to another process. A header just read is not packed: that costs a tenth of opening a file.
    """

    __slots__ = ("_header", "_packed", "_plain")

    def __init__(self, header: RawHeader) -> None:
        self._plain: bytes | None = header.raw
        self._header: RawHeader | None = header
        self._packed = b""

    def blocks(self) -> bytes:
        """Return the blocks."""
        plain = self._plain  # read once: another thread may pack in the meantime
        return zlib.decompress(self._packed) if plain is None else plain

    def structure(self) -> bytes:
        """Return the structural cards alone; see `RawHeader.structure`."""
        header = self._header
        return (header or parse_header(self.blocks(), where="")).structure()

    def cards_of_wcs(self) -> bytes:
        """Return the blocks, or as many of the cards as a WCS may depend on."""
        return self.blocks()

    def pack(self) -> None:
        """Keep the blocks compressed from now on."""
        if self._plain is not None:
            # In this order: `blocks` must find one of the two in every moment.
            self._packed = zlib.compress(self._plain, 1)
            self._plain = self._header = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeaderText) and self.blocks() == other.blocks()

    def __hash__(self) -> int:
        return hash(self.blocks())

    def __getstate__(self) -> bytes:
        return self._packed if self._plain is None else zlib.compress(self._plain, 1)

    def __setstate__(self, packed: bytes) -> None:
        self._plain = self._header = None
        self._packed = packed
