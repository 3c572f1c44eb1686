"""Decoding without numba: by the C functions of astropy, which are private to it.

Only this file knows them. They trust what they decode and read on behind the end of a damaged
tile, so each is checked, and what is behind it is memory of ours with bytes on which they stop.
Where they fail they do not free the pixels of that tile, and they do not look whether they got
memory for them.
"""

from __future__ import annotations

import math
import struct
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
from dask_fits.codecs.plain import tile_bytes
from dask_fits.concurrency.process_lock import ProcessLock

_HCOMPRESS = ProcessLock()
"""The HCOMPRESS decoder keeps its place in C globals: one at a time in the process."""

_MAX_PLANES = 64
"""Bit planes of a 64-bit integer."""

_NO_FORM = 0b01010101
"""What stands behind a stream of HCOMPRESS_1: no 4 bits of it are 0 or 15, as those of a plane."""

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


def decode_rice(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.generic],
    *,
    blocksize: int,
    bytepix: int,
) -> None:
    """Decode tiles of RICE_1; see `dask_fits.codecs.rice.decode`."""
    shape = values.shape[1:]
    npix = math.prod(shape)
    blocksize = min(blocksize, npix)
    _ask_for_memory(npix)
    # In a block of garbage a pixel takes at most 5 bytes and the zeros among them, and the end is
    # looked for after each block.
    guard = 5 * blocksize + 64
    dtype = np.dtype(np.uint8 if bytepix == 1 else f"i{bytepix}")
    for tile, packed in _guarded(data, starts, lengths, guard):
        if len(packed) < bytepix:
            raise DecodeError(tile, "the compressed bytes end early")
        decoded = _rice(tile, packed, blocksize, bytepix, npix)
        values[tile] = np.frombuffer(decoded, dtype).reshape(shape)


def _ask_for_memory(npix: int) -> None:
    """Raise MemoryError where a decoder would get no memory for the pixels of a tile."""
    np.empty((2, npix), np.int64)


def _rice(tile: int, packed: Bytes, blocksize: int, bytepix: int, npix: int) -> bytes:
    try:
        decoded: bytes = decompress_rice_1_c(packed, blocksize, bytepix, npix)
    except CfitsioException as error:
        if "unused" in str(error):
            raise DecodeError(
                tile,
                "bytes are left over after the RICE_1 stream, which astropy's decoder refuses; "
                "pip install 'dask_fits[fast]' for one that does not",
            ) from None
        raise DecodeError(tile, "the RICE_1 stream ends early") from None
    return decoded


def decode_plio(
    data: Bytes, starts: Integers, lengths: Integers, values: npt.NDArray[np.generic]
) -> None:
    """Decode tiles of PLIO_1; see `dask_fits.codecs.plio.decode`."""
    shape = values.shape[1:]
    npix = math.prod(shape)
    for tile, packed in tile_bytes(data, starts, lengths):
        if len(packed) % 2:
            raise DecodeError(tile, "the line list is not a whole number of 16-bit words")
        words = np.append(packed.view(">i2"), np.int16(0)).astype(np.int16)
        _check_plio(tile, words[:-1])
        _ask_for_memory(npix)
        values[tile] = np.frombuffer(decompress_plio_1_c(words, npix), np.int32).reshape(shape)


def _check_plio(tile: int, words: npt.NDArray[np.int16]) -> None:
    header = words[:5].tolist()
    if len(words) < 3 or (header[2] <= 0 and len(words) < 5):
        raise DecodeError(tile, "the line list is shorter than its header")
    short = header[2] > 0
    length, start = (header[2], 3) if short else ((header[4] << 15) + header[3], header[1])
    if length > len(words):
        raise DecodeError(tile, "the line list is longer than the bytes of its tile")
    if length > 0 and not 3 <= start <= length:
        raise DecodeError(tile, "the line list's instructions start outside of it")


def decode_hcompress(
    data: Bytes,
    starts: Integers,
    lengths: Integers,
    values: npt.NDArray[np.generic],
    *,
    smooth: bool,
) -> None:
    """Decode tiles of HCOMPRESS_1; see `dask_fits.codecs.hcompress.decode`."""
    shape = values.shape[1:]
    npix = math.prod(shape)
    memory, used = np.empty(0, np.uint8), 0
    for tile, packed in tile_bytes(data, starts, lengths):
        length = len(packed)
        rows, columns = _hcompress_header(tile, packed, npix)
        _ask_for_memory(npix)
        needed = length + _hcompress_guard(rows, columns)
        if needed > len(memory):
            memory = np.full(needed, _NO_FORM, np.uint8)
        memory[length:used] = _NO_FORM
        memory[:length], used = packed, length
        guarded = memory[:length]
        with _HCOMPRESS:
            try:
                decoded = decompress_hcompress_1_c(guarded, rows, columns, 0, int(smooth), 8)
            except (CfitsioException, ValueError) as error:
                raise DecodeError(tile, f"the HCOMPRESS_1 stream is damaged: {error}") from None
        values[tile] = np.frombuffer(decoded, np.int32).reshape(shape)


_HCOMPRESS_HEADER = struct.Struct(">2siiiq3B")


def _hcompress_header(tile: int, packed: Bytes, npix: int) -> tuple[int, int]:
    """Read the shape, once it is known to be the tile's."""
    if len(packed) < _HCOMPRESS_HEADER.size:
        raise DecodeError(tile, "the HCOMPRESS_1 stream ends early")
    magic, rows, columns, _, _, *planes = _HCOMPRESS_HEADER.unpack_from(packed.data)
    if magic != b"\xdd\x99":
        raise DecodeError(tile, f"found magic bytes 0x{magic.hex()}, expected 0xdd99")
    if min(rows, columns) < 1 or rows * columns != npix:
        raise DecodeError(
            tile, f"found {rows} x {columns} pixels in the stream, expected {npix} in the tile"
        )
    if min(rows, columns) < 2:
        raise DecodeError(
            tile, f"found {rows} x {columns} pixels in the stream, expected at least 2 a side"
        )
    if max(planes) > _MAX_PLANES:
        raise DecodeError(tile, f"found {max(planes)} bit planes, expected at most {_MAX_PLANES}")
    return rows, columns


def _hcompress_guard(rows: int, columns: int) -> int:
    """Count the bytes that are read at most: those of two bit planes, or of all signs.

    The plane in which the stream ends goes on with them. The next one begins with a code that may
    lie across the end; the one after that finds no code that there is, nor does the end mark.
    """
    height, width, nodes = (rows + 1) // 2, (columns + 1) // 2, 1
    while max(height, width) > 1:  # the tree over a quadrant
        height, width = (height + 1) // 2, (width + 1) // 2
        nodes += height * width
    longest = 6  # bits of a code
    return 2 * (longest * nodes + 8) // 8 + rows * columns // 8 + 64


def _guarded(
    data: Bytes, starts: Integers, lengths: Integers, guard: int
) -> Iterator[tuple[int, Bytes]]:
    """Give each tile as it lies in `data`, if at least `guard` bytes behind it are not zero.

    The last ones are copied to memory in which as many ones follow.
    """
    safe = len(data) - 4 * guard
    if np.count_nonzero(data[max(safe, 0) :]) < guard:
        safe = 0
    ends = (starts + lengths).tolist()
    for tile, packed in tile_bytes(data, starts, lengths):
        if ends[tile] <= safe:
            yield tile, packed
        else:
            guarded = np.concatenate((packed, np.full(guard, 0xFF, np.uint8)))
            yield tile, guarded[: len(packed)]
