"""gzip files of many encoders, none of which is ours."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from isal import igzip

Encoder = Callable[[bytes], bytes]

_FHCRC, _FEXTRA, _FNAME, _FCOMMENT = 2, 4, 8, 16
"""Flags of a gzip header (RFC 1952, 2.3.1)."""


def kinds_of_data(size: int = 1_440_000) -> dict[str, bytes]:
    """Data that encoders treat differently, about `size` bytes of each."""
    rng = np.random.default_rng(11)
    part = size // 15
    runs = [rng.bytes(part) + bytes(part) + rng.poisson(5, part // 2).astype(">i2").tobytes()] * 5
    return {
        "noise of int16": rng.poisson(100, size // 2).astype(">i2").tobytes(),
        "zeros": bytes(size),
        "random": rng.bytes(size),
        "noise of float32": rng.normal(1000, 10, size // 4).astype(">f4").tobytes(),
        "mixed": b"".join(runs),
        "half zeros": bytes(size // 2) + rng.normal(1, 1, size // 8).astype(">f4").tobytes(),
    }


def members(data: bytes, size: int, level: int = 6) -> bytes:
    """A gzip file with a member for each `size` bytes."""
    return b"".join(
        gzip.compress(data[start : start + size], level, mtime=0)
        for start in range(0, len(data), size)
    )


def blocked(data: bytes) -> bytes:
    """A gzip file as bgzip makes it: members of 65,280 bytes, and an empty one at the end."""
    return members(data, 65_280) + gzip.compress(b"", mtime=0)


def member_with_fields(data: bytes, extra: int = 40) -> bytes:
    """A member with all fields that a header can have, `extra` bytes in the first of them."""
    flags = _FHCRC | _FEXTRA | _FNAME | _FCOMMENT
    head = struct.pack("<4BIBB", 0x1F, 0x8B, 8, flags, 0, 0, 3)
    # The fields look like members and blocks.
    content = (b"\x1f\x8b\x08\0\0\xff\xff\0" * (extra // 8 + 1))[:extra]
    head += struct.pack("<H", extra) + content + b"a name.fits\0" + b"a comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    return head + body + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)


def members_with_fields(data: bytes) -> bytes:
    """Several members, the later ones with all fields that a header can have."""
    third = len(data) // 3
    first, second, rest = data[:third], data[third : 2 * third], data[2 * third :]
    return (
        gzip.compress(first, mtime=0)
        + member_with_fields(second)
        + member_with_fields(rest[:1000])
        + member_with_fields(rest[1000:])
    )


def _from_isal(level: int) -> Encoder:
    return lambda data: igzip.compress(data, level, mtime=0)


def _from_zlib(level: int) -> Encoder:
    return lambda data: gzip.compress(data, level, mtime=0)


ENCODERS: dict[str, Encoder] = {
    "zlib 0": _from_zlib(0),
    "zlib 1": _from_zlib(1),
    "zlib 6": _from_zlib(6),
    "zlib 9": _from_zlib(9),
    "ISA-L 0": _from_isal(0),
    "ISA-L 1": _from_isal(1),
    "ISA-L 2": _from_isal(2),
    "ISA-L 3": _from_isal(3),
    "members": lambda data: members(data, 700_000),
    "blocked": blocked,
    "fields": members_with_fields,
    "padded": lambda data: gzip.compress(data, mtime=0) + bytes(70_000),
    "garbage": lambda data: gzip.compress(data, mtime=0) + b"\0\0 no member" * 7_000,
}
"""Name of an encoder -> what packs data into a gzip file."""


def unpacked(packed: bytes) -> bytes:
    """What the standard library unpacks a gzip file to."""
    with gzip.GzipFile(fileobj=BytesIO(packed)) as file:
        return file.read()
