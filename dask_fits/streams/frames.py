"""xz and zstd files: frames, of which each is decoded by an object as of the standard library."""

from __future__ import annotations

import lzma
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from dask_fits.streams.decoder import CutStreamError, StreamError

_PIECE = 1024 * 1024
"""Bytes of an unpacked piece at most."""

_XZ_MEMORY = 512 * 1024 * 1024
"""Bytes that decoding may take: ``xz -9`` needs 65 MiB, a damaged header may ask for gigabytes."""

_LONGEST_MAGIC = 6
"""Bytes that tell whether a frame begins."""


class FrameDecoder:
    """The decoding of a file of one frame or several; see `StreamDecoder`.

    Zeros between frames and behind them, and anything behind them that is no frame, are ignored.

    Parameters
    ----------
    unit : str
        What a frame is called, for messages.
    magic : re.Pattern
        The bytes that a frame begins with.
    make : callable
        Returns an object as of `lzma.LZMADecompressor`, which decodes one frame.
    error : type
        What that object raises if the bytes are damaged.
    """

    batch = 0

    def __init__(
        self,
        unit: str,
        magic: re.Pattern[bytes],
        make: Callable[[], Any],
        error: type[Exception],
    ) -> None:
        self.length = 0
        self.verified = 0
        self.ended = False
        self._unit = unit
        self._magic = magic
        self._make = make
        self._error = error
        self._frames = 0
        # Of the frame that has begun; None between frames.
        self._decoder: Any = None
        # Bytes behind a frame, too few to tell whether another one begins.
        self._kept = b""

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Yield what the next packed bytes unpack to; see `StreamDecoder`."""
        rest: memoryview | bytes = data
        while len(rest) and not self.ended:
            if self._decoder is None:
                rest = self._begin_frame(bytes(rest))
                continue
            yield from self._decode(rest)
            rest = b""
            if self._decoder.eof:
                # It has compared the check sum, if the frame has one.
                self.verified = self.length
                rest = self._decoder.unused_data
                self._decoder = None

    def finish(self) -> Iterator[bytes]:
        """Raise if the last frame has not ended; see `StreamDecoder`."""
        if self._decoder is not None:
            raise CutStreamError(
                f"{self._unit} {self._frames}: the file ends before it does", self.verified
            )
        return iter(())

    def _begin_frame(self, rest: bytes) -> bytes:
        """Make a decoder if these bytes begin a frame; return those that are to be decoded."""
        rest = (self._kept + rest).lstrip(b"\0")
        self._kept = b""
        if len(rest) < _LONGEST_MAGIC:
            self._kept = rest
            return b""
        if self._magic.match(rest):
            self._decoder = self._make()
            self._frames += 1
        else:
            self.ended = True
        return rest

    def _decode(self, data: memoryview | bytes) -> Iterator[bytes]:
        """Yield what bytes of one frame unpack to."""
        try:
            piece = self._decoder.decompress(data, _PIECE)
            while True:
                self.length += len(piece)
                if piece:
                    yield piece
                if self._decoder.eof or self._decoder.needs_input:
                    return
                piece = self._decoder.decompress(b"", _PIECE)
        except self._error as error:
            raise StreamError(f"{self._unit} {self._frames}: {error}") from error


def xz_decoder(magic: re.Pattern[bytes]) -> FrameDecoder:
    """Make a decoder of xz files, whose streams begin with `magic`."""

    def make() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    return FrameDecoder("xz stream", magic, make, lzma.LZMAError)


def zstd_decoder(magic: re.Pattern[bytes]) -> FrameDecoder:
    """Make a decoder of zstd files, whose frames begin with `magic`.

    Raises
    ------
    ImportError
        There is no library for it.
    """
    # Python has it from 3.14 on.
    zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    return FrameDecoder("zstd frame", magic, zstd.ZstdDecompressor, zstd.ZstdError)
