"""LZW as compress(1) writes it, in files that are named ``.Z``.

Behind a header of three bytes there are only codes, each of a string of bytes. A code is a byte, or
gets its meaning from the two codes before. Codes have 9 bits at first, and one more whenever those
with a meaning need it; they come in groups of 8, of which the last of a width is filled up.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dask_fits.streams.decoder import CutStreamError, StreamError

_MAGIC = b"\x1f\x9d"
_HEADER_SIZE = 3

_HAS_CLEAR = 0x80
_UNKNOWN_FLAGS = 0x60
_CLEAR_CODE = 256

_ROOM = 1 << 20
"""Unpacked bytes that are yielded at once."""

_STEP = 1 << 20
"""Packed bytes that are copied at once, behind those that earlier ones left."""


class LzwDecoder:
    """Unpack a file of compress(1).

    Nothing can be verified, so all bytes count as verified: the format has no check sum and no mark
    at its end. Damage is noticed if it makes a code without a meaning; other damage, or that the
    file is cut, is not.

    Raises
    ------
    ImportError
        There is no numba.
    """

    batch = 0

    def __init__(self) -> None:
        from dask_fits.streams import lzw_kernel

        self._kernel = lzw_kernel
        self._header = b""
        self._rest = b""  # packed bytes that have not been read to their last bit
        self._state = np.zeros(lzw_kernel.STATE_SIZE, np.int64)
        self._links = np.zeros(lzw_kernel.MAX_CODES, np.uint32)
        self._counts = np.ones(lzw_kernel.MAX_CODES, np.uint16)
        self._values = np.empty(_ROOM, np.uint8)
        self.length = 0
        self.ended = False

    @property
    def verified(self) -> int:
        """As many bytes: there is no check sum that could be compared."""
        return self.length

    def decode(self, data: memoryview) -> Iterator[bytes]:
        """Take the next packed bytes; yield what they unpack to, in pieces.

        Raises
        ------
        StreamError
            The header is none of compress(1), or a code has no meaning.
        """
        start = _HEADER_SIZE - len(self._header)
        if start > 0:
            self._header += data[:start]
            self._read_header()
        for at in range(start, len(data), _STEP):
            yield from self._decode_codes(data[at : at + _STEP])

    def finish(self) -> Iterator[bytes]:
        """Yield nothing: bits that make no whole code fill up the last byte.

        Raises
        ------
        CutStreamError
            The header is not whole.
        """
        if len(self._header) < _HEADER_SIZE:
            raise CutStreamError("the LZW stream ends within its header")
        self.ended = True
        yield from ()

    def _read_header(self) -> None:
        """Check what there is of the header; set the state out when it is whole."""
        found = self._header[:2]
        if not _MAGIC.startswith(found):
            raise StreamError(f"found {found!r}, expected {_MAGIC!r}, which LZW streams begin with")
        if len(self._header) < _HEADER_SIZE:
            return
        flags = self._header[2]
        max_bits = flags & ~(_HAS_CLEAR | _UNKNOWN_FLAGS)
        if flags & _UNKNOWN_FLAGS or not 9 <= max_bits <= 16:
            raise StreamError(
                f"found 0x{flags:02x} in the header of the LZW stream, expected codes of up to 9 to"
                " 16 bits, and no flag beside that of the clear code"
            )
        kernel, state = self._kernel, self._state
        state[kernel.WIDTH] = 9
        state[kernel.OLD] = -1
        state[kernel.MAX_BITS] = max_bits
        state[kernel.CLEAR] = _CLEAR_CODE if flags & _HAS_CLEAR else -1
        state[kernel.FREE] = 257 if flags & _HAS_CLEAR else 256

    def _decode_codes(self, data: memoryview) -> Iterator[bytes]:
        """Decode the codes that are whole with these bytes."""
        kernel, state = self._kernel, self._state
        packed = b"".join((self._rest, data, bytes(kernel.MARGIN)))
        codes = np.frombuffer(packed, np.uint8)
        status = kernel.NEEDS_ROOM
        while status == kernel.NEEDS_ROOM:
            status = kernel.decode_codes(codes, self._values, self._links, self._counts, state)
            if count := int(state[kernel.COUNT]):
                self.length += count
                yield self._values[:count].tobytes()
        if status == kernel.BAD_CODE:
            code = int(state[kernel.CODE])
            raise StreamError(f"the LZW stream has the code {code} before it has a meaning")
        # Codes that fill up a group are yet to come where the position is beyond these bytes.
        done = min(int(state[kernel.POSITION]) // 8, len(packed) - kernel.MARGIN)
        self._rest = packed[done : len(packed) - kernel.MARGIN]
        state[[kernel.POSITION, kernel.GROUP]] -= 8 * done
