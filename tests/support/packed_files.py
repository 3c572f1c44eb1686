"""Files that are compressed as a whole, by the standard library and by encoders of their own."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
from astropy.io import fits

from dask_fits.storage import packed, unpacked

MEMBER = 5000
"""Bytes that each of several members, streams or frames has: no multiple of 2880."""


def zstandard() -> Any:
    """The module for zstd."""
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


def gzipped(content: bytes, level: int = 6) -> bytes:
    return gzip.compress(content, level, mtime=0)


def gzipped_by_fixed_codes(content: bytes) -> bytes:
    """One block of the codes that need no table."""
    encoder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_FIXED)
    body = encoder.compress(content) + encoder.flush()
    trailer = struct.pack("<II", zlib.crc32(content), len(content))
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + trailer


def in_parts(pack: Callable[[bytes], bytes], content: bytes, size: int = MEMBER) -> bytes:
    """Several files of a format, one after the other."""
    return b"".join(pack(content[at : at + size]) for at in range(0, len(content) or 1, size))


def blocked(content: bytes, size: int = 3000) -> bytes:
    """gzip as bgzip writes it: many members, and one of nothing at the end."""
    return in_parts(gzipped, content, size) + gzipped(b"")


def zstandard_packed(content: bytes) -> bytes:
    zstd = zstandard()
    return zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})


def zipped(
    *contents: bytes, method: int = zipfile.ZIP_DEFLATED, names: tuple[str, ...] = ("image.fits",)
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in zip(names, contents, strict=True):
            archive.writestr(name, content)
    return buffer.getvalue()


def zip_of_several(content: bytes) -> bytes:
    """An archive in which a file is not the only one; its name is ``b.fits``."""
    return zipped(b"no FITS file", content, names=("readme.txt", "b.fits"))


def lzw_packed(content: bytes) -> bytes:
    """As of compress(1), if it found no string twice: 247 bytes and a clear code, 8 codes a group."""
    packed = bytearray(b"\x1f\x9d\x90")
    for at in range(0, len(content), 247):
        part = content[at : at + 247]
        codes = [*part, 256] if len(part) == 247 else list(part)
        number = sum(code << (9 * n) for n, code in enumerate(codes))
        packed += number.to_bytes((9 * len(codes) + 7) // 8, "little")
    return bytes(packed)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzipped,
    "gzip members": lambda content: in_parts(gzipped, content),
    "gzip blocked": blocked,
    "gzip stored": lambda content: gzipped(content, 0),
    "bzip2": bz2.compress,
    "bzip2 streams": lambda content: in_parts(bz2.compress, content),
    "xz": lzma.compress,
    "xz streams": lambda content: in_parts(lzma.compress, content),
    "zstd": zstandard_packed,
    "zstd frames": lambda content: in_parts(zstandard_packed, content),
    "zip": zipped,
    "zip stored": lambda content: zipped(content, method=zipfile.ZIP_STORED),
    "zip of several": zip_of_several,
    "lzw": lzw_packed,
}
"""How a file is packed -> what does it."""

SUFFIXES = {"gzip": "gz", "bzip2": "bz2", "xz": "xz", "zstd": "zst", "zip": "zip", "lzw": "Z"}


def format_name(kind: str) -> str:
    """The name of the format of one of `PACKERS`."""
    return kind.partition(" ")[0]


def file_name(kind: str, stem: str = "image") -> str:
    """A usual name for a file of one of `PACKERS`."""
    return f"{stem}.fits.{SUFFIXES[format_name(kind)]}"


def member_of(kind: str) -> str:
    """What stands behind the path or URL of a file of one of `PACKERS` to open it."""
    return "::b.fits" if kind == "zip of several" else ""


def pixels(content: bytes) -> list[Any]:
    """What astropy reads of each HDU of an unpacked file."""
    with fits.open(io.BytesIO(content)) as file:
        return [hdu.data if hdu.is_image else None for hdu in file]


def forget(monkeypatch: pytest.MonkeyPatch, limit: int = unpacked.UNPACKED_BYTES) -> Any:
    """Have the process know no packed file, as a new one does; return where it keeps them."""
    files = unpacked.UnpackedFiles(limit)
    monkeypatch.setattr(packed, "FILES", files)
    return files


def stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of more than some bytes unpacked for each read, and nothing of them kept."""
    monkeypatch.setattr(packed, "MAX_PACKED", 100)
