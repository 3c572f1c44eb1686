"""The error of a tile that cannot be decoded."""

from __future__ import annotations


class DecodeError(Exception):
    """The bytes of one tile of a batch are damaged.

    Decoders do not know the file: their caller raises a FitsError that names it instead.
    """

    def __init__(self, tile: int, reason: str) -> None:
        super().__init__(tile, reason)
        self.tile = tile
        """Index of the tile in the batch."""
        self.reason = reason
        """Text for the message."""
