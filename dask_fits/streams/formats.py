"""The formats that whole files are compressed in: which one a file has, and its decoder."""

from __future__ import annotations

import re
from typing import Literal

from dask_fits.streams.decoder import StreamDecoder

Format = Literal["gzip", "bzip2", "xz", "zstd", "lzw", "zip"]
"""Name of a format; lzw is that of compress(1), whose files end in ``.Z``."""

_MAGIC: dict[Format, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "lzw": re.compile(rb"\x1f\x9d"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
}
"""Bytes that a file of each format begins with; a skippable frame of zstd has its own."""

MOST_PER_BYTE: dict[Format, int] = {
    "gzip": 1032,
    "zip": 1032,
    "lzw": 1 << 15,
    "xz": 1 << 20,
    "zstd": 1 << 20,
    "bzip2": 1 << 21,
}
"""Bytes that a packed byte can stand for at most. DEFLATE has 258 bytes in two bits; a code of LZW,
of at least 9 bits, stands for as many bytes as there are codes before it; the others have next to
no limit: these are what files of zeros come to."""

INSTALL = {
    "lzw": "pip install 'dask_fits[fast]' (numba)",
    "zstd": "pip install 'dask_fits[zstd]'",
}
"""Format -> how to install what its decoder needs, if that is not the standard library."""


def format_of(first: bytes) -> Format | None:
    """Return the format that a file is compressed in, by its first bytes; None if in none.

    Examples
    --------
    >>> import gzip
    >>> format_of(gzip.compress(b"SIMPLE  ="))
    'gzip'
    """
    return next((name for name, magic in _MAGIC.items() if magic.match(first)), None)


def stream_decoder(name: Format, *, threads: int) -> StreamDecoder:
    """Make a decoder for a file of a format, but for zip, whose members need more to be known.

    Parameters
    ----------
    name : Format
    threads : int
        Threads that may decode at the same time, if the format has parts that allow it.

    Raises
    ------
    ImportError
        What the format needs is not installed.
    """
    if name == "bzip2":
        from dask_fits.streams.bzip2 import Bzip2Decoder

        return Bzip2Decoder(threads=threads)
    if name == "lzw":
        from dask_fits.streams.lzw import LzwDecoder

        return LzwDecoder()
    if name in ("xz", "zstd"):
        from dask_fits.streams.frames import xz_decoder, zstd_decoder

        make = xz_decoder if name == "xz" else zstd_decoder
        return make(_MAGIC[name])
    from dask_fits.streams.deflate import GzipDecoder

    return GzipDecoder()
