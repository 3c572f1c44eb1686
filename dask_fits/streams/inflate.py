"""Inflating DEFLATE (RFC 1951): by ISA-L if it is installed, else by zlib."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _library = zlib
else:
    try:
        from isal import isal_zlib as _library
    except ImportError:
        _library = zlib

_GZIP_BITS = 31
"""Window bits of zlib that mean a stream with gzip's header and trailer."""

_RAW_BITS = -15
"""Window bits of zlib that mean a stream with neither."""

InflateErrors = (zlib.error, _library.error)
"""What an inflator raises if the bytes are damaged, or their check sum is another one."""

crc32 = _library.crc32


def gzip_inflator() -> Any:
    """Make an object as of `zlib.decompressobj` for one gzip member, which checks CRC and size."""
    return _library.decompressobj(_GZIP_BITS)


def raw_inflator(window: bytes = b"") -> Any:
    """Make an object as of `zlib.decompressobj` for one stream without header and trailer.

    `window` is the output before the stream, to which it may refer.
    """
    return _library.decompressobj(_RAW_BITS, zdict=window)
