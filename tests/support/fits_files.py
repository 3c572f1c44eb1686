"""FITS files made byte by byte, and a store over bytes that watches what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from astropy.io import fits

from dask_fits.format.layout import ImageLayout
from dask_fits.format.scaling import Scaling
from dask_fits.ranges.byte_range import ByteRange, Coalescing
from dask_fits.ranges.cost import DEFAULT_COST
from dask_fits.readers.image import ImageReader
from dask_fits.storage.stored_file import StoredFile
from dask_fits.storage.version import FileVersion

BLOCK = 2880
CARD = 80


def card(keyword: str, value: object) -> bytes:
    """One card in fixed format; bytes go into the value field as they are."""
    if isinstance(value, bytes):
        return (f"{keyword:<8}= ".encode() + value).ljust(CARD)[:CARD]
    if isinstance(value, str):
        text = "'" + value.replace("'", "''").ljust(8) + "'"
    elif isinstance(value, bool):
        text = f"{'FT'[value]:>20}"
    else:
        text = f"{str(value).upper():>20}"
    return f"{keyword:<8}= {text}".ljust(CARD).encode()


def blocks(data: bytes, *, fill: bytes = b"\0") -> bytes:
    """Pad to whole blocks."""
    return data + fill * (-len(data) % BLOCK)


def header(*cards: bytes, end: bytes = b"END".ljust(CARD)) -> bytes:
    """Whole header blocks of these cards and END."""
    return blocks(b"".join(cards) + end, fill=b" ")


def size_cards(bitpix: object, axes: Sequence[object]) -> list[bytes]:
    """BITPIX, NAXIS and NAXISn; `axes` in FITS order."""
    numbered = [card(f"NAXIS{n}", length) for n, length in enumerate(axes, 1)]
    return [card("BITPIX", bitpix), card("NAXIS", len(axes)), *numbered]


def primary(*axes: object, bitpix: object = 8, extra: Sequence[bytes] = ()) -> bytes:
    """A primary header."""
    return header(card("SIMPLE", True), *size_cards(bitpix, axes), *extra)


def extension(
    *axes: object,
    xtension: str = "IMAGE",
    bitpix: object = 8,
    pcount: object = 0,
    gcount: object = 1,
    extra: Sequence[bytes] = (),
) -> bytes:
    """An extension's header."""
    counts = [card("PCOUNT", pcount), card("GCOUNT", gcount)]
    return header(card("XTENSION", xtension), *size_cards(bitpix, axes), *counts, *extra)


def fits_bytes(*hdus: fits.hdu.base._BaseHDU) -> bytes:
    """The file that astropy writes of some HDUs."""
    buffer = BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class WatchedStore(StoredFile):
    """A `Store` over bytes: it notes the ranges and refuses any outside `allowed`."""

    content: bytes = field(repr=False)
    allowed: ByteRange
    asked: list[ByteRange] = field(default_factory=list, compare=False)
    url: str = "watched.fits"
    coalescing: Coalescing = DEFAULT_COST.coalescing

    @property
    def name(self) -> str:
        return self.url

    @property
    def version(self) -> FileVersion:
        return FileVersion(len(self.content), "watched")

    @property
    def block_size(self) -> None:
        return None

    def read_ranges(
        self, ranges: Sequence[ByteRange], *, whole: bool
    ) -> Iterator[tuple[int, memoryview]]:
        for wanted in ranges:
            assert self.allowed.start <= wanted.start < wanted.stop <= self.allowed.stop, wanted
            self.asked.append(wanted)
            # Pieces as small as the interface permits, in a buffer that is used again; of a long
            # range a few hundred of them.
            size = wanted.nbytes if whole else 16 * (1 + wanted.nbytes // 4096)
            buffer = bytearray(size)
            for start in range(wanted.start, wanted.stop, size):
                piece = memoryview(buffer)[: min(size, wanted.stop - start)]
                piece[:] = self.content[start : start + len(piece)]
                yield start, piece
                buffer[:] = b"\xa5" * size


def coalescing(max_gap: int, max_bridged: int = 1 << 23, *, connections: int = 0) -> Coalescing:
    """Limits by which a small gap is one of an eighth of `max_gap`."""
    return Coalescing(
        connections=connections, small_gap=max_gap // 8, max_gap=max_gap, max_bridged=max_bridged
    )


def watched_reader(
    array: np.ndarray, *, offset: int = BLOCK, limits: Coalescing = DEFAULT_COST.coalescing
) -> ImageReader:
    """A reader of an array's pixels as they would lie in a file, between bytes that are not its."""
    bitpix = array.dtype.itemsize * (-8 if array.dtype.kind == "f" else 8)
    scaling = Scaling(bitpix)
    data = array.astype(scaling.stored).tobytes()
    content = b"\xee" * offset + data + b"\xdd" * 100
    store = WatchedStore(content, ByteRange(offset, offset + len(data)), coalescing=limits)
    return ImageReader(store, image_layout(offset, array.shape, scaling))


def image_layout(offset: int, shape: tuple[int, ...], scaling: Scaling) -> ImageLayout:
    return ImageLayout(hdu=0, offset=offset, shape=shape, scaling=scaling)


def same_bits(found: Any, expected: Any) -> bool:
    """Whether type (in native order), shape and every bit agree, NaN payloads included."""
    expected = np.asarray(expected)
    expected = expected.astype(expected.dtype.newbyteorder("="))
    found = np.asarray(found)
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    return found.tobytes() == expected.tobytes()
