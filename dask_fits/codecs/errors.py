"""The error of a tile that cannot be decoded."""

from __future__ import annotations


class DecodeError(Exception):
    """The bytes of one tile of a batch are damaged; whoever knows the file makes it a FitsError."""

    def __init__(self, tile: int, reason: str) -> None:
        super().__init__(tile, reason)
        self.tile = tile
        """Position in the batch."""
        self.reason = reason
