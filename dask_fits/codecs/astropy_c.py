"""Decoding without numba: by the C functions of astropy, which are private to it.

Only this file knows them. They trust what they decode and read on behind the end of a damaged
tile, so each tile is checked and copied to memory that ends in bytes on which they stop.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from astropy.io.fits.hdu.compressed._compression import (
    CfitsioException,
    decompress_hcompress_1_c,
    decompress_plio_1_c,
    decompress_rice_1_c,
)

from dask_fits.codecs.errors import DecodeError

_HCOMPRESS = threading.Lock()
"""The HCOMPRESS decoder keeps its place in C globals: one at a time in the process."""

_MAX_PLANES = 64
"""Bit planes of a 64-bit integer."""

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def decode_rice(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
    *,
    blocksize: int,
    bytepix: int,
) -> None:
    """Decode tiles of RICE_1; see `dask_fits.codecs.rice.decode`."""
    npix = values.shape[1]
    blocksize = min(blocksize, npix)
    # In a block of garbage a pixel takes at most 5 bytes, and the end is looked for after each.
    dtype = np.dtype(np.uint8 if bytepix == 1 else f"i{bytepix}")
    for tile, packed in _guarded(data, starts, lengths, 8 * blocksize + 64):
        if len(packed) < bytepix:
            raise DecodeError(tile, "the compressed bytes end early")
        values[tile] = np.frombuffer(_rice(tile, packed, blocksize, bytepix, npix), dtype)


def _rice(tile: int, packed: Bytes, blocksize: int, bytepix: int, npix: int) -> bytes:
    """Decode one tile; where bytes are left over, which is no error, find where it ends."""
    short, enough, beyond = 0, len(packed), len(packed) + 1
    while short < enough < beyond:
        try:
            decoded: bytes = decompress_rice_1_c(packed[:enough], blocksize, bytepix, npix)
        except CfitsioException as error:
            if "unused" in str(error):
                beyond = enough
            else:
                short = enough
            enough = (short + beyond) // 2
            continue
        return decoded
    raise DecodeError(tile, "the RICE_1 stream ends early")


def decode_plio(
    data: Bytes, starts: Integers, lengths: Integers, values: npt.NDArray[np.int32]
) -> None:
    """Decode tiles of PLIO_1; see `dask_fits.codecs.plio.decode`."""
    npix = values.shape[1]
    for tile, packed in _guarded(data, starts, lengths, 0):
        if len(packed) % 2:
            raise DecodeError(tile, "the line list is not a whole number of 16-bit words")
        words = np.append(packed.view(">i2"), np.int16(0)).astype(np.int16)
        _check_plio(tile, words[:-1].tolist())
        values[tile] = np.frombuffer(decompress_plio_1_c(words, npix), np.int32)


def _check_plio(tile: int, words: list[int]) -> None:
    if len(words) < 3 or (words[2] <= 0 and len(words) < 5):
        raise DecodeError(tile, "the line list is shorter than its header")
    short = words[2] > 0
    length, start = (words[2], 3) if short else ((words[4] << 15) + words[3], words[1])
    if length > len(words):
        raise DecodeError(tile, "the line list is longer than the bytes of its tile")
    if length > 0 and not 3 <= start <= length:
        raise DecodeError(tile, "the line list's instructions start outside of it")


def decode_hcompress(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.int32],
    *,
    smooth: bool,
) -> None:
    """Decode tiles of HCOMPRESS_1; see `dask_fits.codecs.hcompress.decode`."""
    npix = values.shape[1]
    # A bit plane of garbage takes at most 2 bits a pixel, and its end mark is then wrong.
    for tile, packed in _guarded(data, starts, lengths, npix * _MAX_PLANES // 4 + 1024):
        ny, nx = _hcompress_shape(tile, packed, npix)
        with _HCOMPRESS:
            try:
                decoded = decompress_hcompress_1_c(packed, ny, nx, 0, int(smooth), 8)
            except (CfitsioException, ValueError) as error:
                raise DecodeError(tile, f"the HCOMPRESS_1 stream is damaged: {error}") from None
        values[tile] = np.frombuffer(decoded, np.int32)


_HCOMPRESS_HEADER = struct.Struct(">2siiiq3B")


def _hcompress_shape(tile: int, packed: Bytes, npix: int) -> tuple[int, int]:
    """Shape in the stream's header, once it is known to be the tile's."""
    if len(packed) < _HCOMPRESS_HEADER.size:
        raise DecodeError(tile, "the HCOMPRESS_1 stream ends early")
    magic, rows, columns, _, _, *planes = _HCOMPRESS_HEADER.unpack_from(packed.data)
    if magic != b"\xdd\x99":
        raise DecodeError(tile, f"found magic bytes 0x{magic.hex()}, expected 0xdd99")
    if min(rows, columns) < 1 or rows * columns != npix:
        raise DecodeError(
            tile, f"found {rows} x {columns} pixels in the stream, expected {npix} in the tile"
        )
    if max(planes) > _MAX_PLANES:
        raise DecodeError(tile, f"found {max(planes)} bit planes, expected at most {_MAX_PLANES}")
    return rows, columns


def _guarded(
    data: Bytes, starts: Integers, lengths: Integers, guard: int
) -> Iterator[tuple[int, Bytes]]:
    """Copy each tile to memory in which `guard` bytes of ones follow it."""
    memory = np.full(int(lengths.max(initial=0)) + guard, 0xFF, np.uint8)
    used = 0
    for tile, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        memory[:length] = data[start : start + length]
        memory[length:used] = 0xFF
        used = length
        yield tile, memory[:length]
