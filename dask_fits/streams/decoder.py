"""The interface of decoders of packed streams, and their errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class StreamError(Exception):
    """The packed bytes are damaged.

    Decoders do not know the file: their caller raises a FitsError that names it instead. The
    message names the part of the stream ("member 2: ...") where the format has parts.
    """


class CutStreamError(StreamError):
    """The packed bytes end before the stream does.

    Parameters
    ----------
    message : str
    usable : int
        Unpacked bytes, from the first on, that are the beginning of the whole stream as far as one
        can tell; by default, those whose check sum has been compared.
    """

    def __init__(self, message: str, usable: int = 0) -> None:
        super().__init__(message)
        self.usable = usable


class StreamDecoder(Protocol):
    """The decoding of one packed stream, from its first byte to its last.

    After a StreamError a decoder is of no further use.
    """

    @property
    def batch(self) -> int:
        """Packed bytes that are best taken at a time, as of parts decoded by threads; 0 for any."""

    @property
    def length(self) -> int:
        """Unpacked bytes that have been yielded."""

    @property
    def verified(self) -> int:
        """Bytes of these, from the first on, whose check sum has been compared."""

    @property
    def ended(self) -> bool:
        """Whether the stream has ended, so that all further bytes are ignored."""

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Take the next packed bytes; yield what they unpack to, in pieces of any length.

        Memory is bounded whatever the bytes are: a piece has some MiB at most, and is made when it
        is asked for. All of `data` is taken once the iterator is exhausted, and not before.

        Raises
        ------
        StreamError
            The packed bytes are damaged.
        """

    def finish(self) -> Iterator[bytes]:
        """Yield what is left to unpack once all packed bytes have been taken.

        Raises
        ------
        CutStreamError
            The stream has not ended, and what was yielded is its beginning as far as one can tell.
        StreamError
            The stream is damaged.
        """
