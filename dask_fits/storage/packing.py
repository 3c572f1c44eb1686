"""How a file is compressed as a whole, and what unpacks it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dask_fits.exceptions import MissingDriverError
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.streams.decoder import StreamDecoder
from dask_fits.streams.formats import INSTALL, MOST_PER_BYTE, Format, stream_decoder

_THREADS = min(os.cpu_count() or 1, 8)
"""Threads that unpack the blocks of one bzip2 file."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip archive, as the archive's directory has it."""

    name: str
    deflated: bool
    """Whether it is deflated; else it is stored as it is."""
    size: int
    """Bytes of the unpacked member."""
    crc: int
    """CRC-32 of the unpacked member."""


@dataclass(frozen=True, slots=True)
class Packed:
    """The way in which a file is compressed as a whole."""

    format: Format
    range: ByteRange
    """The packed bytes in the stored file: all of it, but for a member of a zip archive."""
    member: ZipMember | None = None

    def name_in(self, archive: str) -> str:
        """Return the path or URL of the content: a member's name stands behind the archive's."""
        return f"{archive}::{self.member.name}" if self.member else archive

    @property
    def max_size(self) -> int:
        """Bytes that the unpacked file may have at most."""
        if self.member:
            return self.member.size
        return self.range.nbytes * MOST_PER_BYTE[self.format]

    def decoder(self, name: str) -> StreamDecoder:
        """Make a decoder of the packed bytes; raise MissingDriverError if it is not installed."""
        if self.member:
            from dask_fits.streams.deflate import ZipMemberDecoder

            member = self.member
            return ZipMemberDecoder(deflated=member.deflated, size=member.size, crc=member.crc)
        try:
            return stream_decoder(self.format, threads=_THREADS)
        except ImportError as error:
            raise MissingDriverError(
                f"{name}: what unpacks {self.format} is not installed; install it with: "
                f"{INSTALL[self.format]}"
            ) from error
