"""Decoders that do without numba: the C functions of astropy, which are private to it.

Only this file knows them. They trust what they decode and read on behind the end of a damaged
tile. So each tile is checked first, and behind its bytes lies memory of ours, the guard, with bytes
on which they stop::

    | bytes of the tile | guard: as many bytes as a decoder may read beyond the end |

If they fail they do not free the pixels of that tile, and they do not check that they got memory
for them.
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

from dask_fits._typing import Bytes, Integers
from dask_fits.codecs.errors import DecodeError
from dask_fits.codecs.plain import tile_bytes
from dask_fits.concurrency.process_lock import ProcessLock

_HCOMPRESS_LOCK = ProcessLock()
"""The HCOMPRESS decoder keeps its place in C globals: one call at a time in the process."""

_HCOMPRESS_HEADER = struct.Struct(">2siiiq3B")
"""Magic bytes, rows, columns, scale, sum of the pixels, bit planes of three kinds of quadrants."""

_MAX_BIT_PLANES = 64
"""Bit planes of a 64-bit integer."""

_NO_PLANE = 0b01010101
"""Byte of the guard of HCOMPRESS_1: no 4 bits of it are 0 or 15, with which planes begin."""

_PLIO_HEADER_WORDS = 5
"""Words of the longer header of a line list."""


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
    _check_memory(npix)
    # The decoder checks for the end after each block. A damaged one takes at most 5 bytes a pixel,
    # beside zeros, which end at the guard's ones.
    guard = 5 * blocksize + 64
    dtype = np.dtype(np.uint8 if bytepix == 1 else f"i{bytepix}")
    for tile, packed in _guarded_tiles(data, starts, lengths, guard):
        if len(packed) < bytepix:
            raise DecodeError(tile, "the compressed bytes end early")
        decoded = _decode_rice_stream(tile, packed, blocksize, bytepix, npix)
        values[tile] = np.frombuffer(decoded, dtype).reshape(shape)


def _check_memory(npix: int) -> None:
    """Raise MemoryError if a decoder would get no memory for the pixels of a tile."""
    np.empty((2, npix), np.int64)


def _decode_rice_stream(tile: int, packed: Bytes, blocksize: int, bytepix: int, npix: int) -> bytes:
    """Decode one tile; raise DecodeError for the errors of the decoder."""
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
        # One word more: the last instruction of a list may read the word behind it.
        words = np.append(packed.view(">i2"), np.int16(0)).astype(np.int16)
        _check_line_list(tile, words[:-1])
        _check_memory(npix)
        values[tile] = np.frombuffer(decompress_plio_1_c(words, npix), np.int32).reshape(shape)


def _check_line_list(tile: int, words: npt.NDArray[np.int16]) -> None:
    """Raise if the header of a line list points outside of it."""
    header = words[:_PLIO_HEADER_WORDS].tolist()
    if len(words) < 3 or (header[2] <= 0 and len(words) < _PLIO_HEADER_WORDS):
        raise DecodeError(tile, "the line list is shorter than its header")
    # The shorter form has its length in word 2, which is not positive in the longer one.
    if header[2] > 0:
        length = header[2]
        start = 3
    else:
        length = (header[4] << 15) + header[3]
        start = header[1]
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
    # One buffer for all tiles: `used` bytes of the tile before, then the guard.
    memory = np.empty(0, np.uint8)
    used = 0
    for tile, packed in tile_bytes(data, starts, lengths):
        length = len(packed)
        rows, columns = _read_hcompress_shape(tile, packed, npix)
        _check_memory(npix)
        needed = length + _count_guard_bytes(rows, columns)
        if needed > len(memory):
            memory = np.full(needed, _NO_PLANE, np.uint8)
        # A shorter tile leaves bytes of the one before it behind its end.
        memory[length:used] = _NO_PLANE
        memory[:length] = packed
        used = length
        with _HCOMPRESS_LOCK:
            try:
                decoded = decompress_hcompress_1_c(
                    memory[:length], rows, columns, 0, int(smooth), 8
                )
            except (CfitsioException, ValueError) as error:
                raise DecodeError(tile, f"the HCOMPRESS_1 stream is damaged: {error}") from None
        values[tile] = np.frombuffer(decoded, np.int32).reshape(shape)


def _read_hcompress_shape(tile: int, packed: Bytes, npix: int) -> tuple[int, int]:
    """Read the rows and columns of a stream; raise if they are not those of the tile."""
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
    if max(planes) > _MAX_BIT_PLANES:
        raise DecodeError(
            tile, f"found {max(planes)} bit planes, expected at most {_MAX_BIT_PLANES}"
        )
    return rows, columns


def _count_guard_bytes(rows: int, columns: int) -> int:
    """Count the bytes that are read behind a stream at most: two bit planes, or all signs.

    The plane in which the stream ends goes on with them. The next one begins with a code that may
    lie across the end; the one after that finds no code that there is, nor does the end mark.
    """
    # The codes of a plane are the nodes of a tree over a quadrant.
    height = (rows + 1) // 2
    width = (columns + 1) // 2
    nodes = 1
    while max(height, width) > 1:
        height = (height + 1) // 2
        width = (width + 1) // 2
        nodes += height * width
    longest_code = 6  # bits
    plane_bits = longest_code * nodes + 8
    sign_bytes = rows * columns // 8
    return 2 * plane_bits // 8 + sign_bytes + 64


def _guarded_tiles(
    data: Bytes, starts: Integers, lengths: Integers, guard: int
) -> Iterator[tuple[int, Bytes]]:
    """Iterate over the tiles, each with at least `guard` bytes behind it that are not zero.

    A tile stays in `data` if enough such bytes follow it there. The last ones are copied to memory
    in which `guard` bytes of ones follow.
    """
    # The tail of `data` guards all tiles before it, unless it is mostly zeros.
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
