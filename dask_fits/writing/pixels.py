"""Blocks of an array -> runs of bytes at their places in a file.

A block is converted a piece at a time, small enough to stay in the CPU's cache, so that nothing
holds a second copy of it::

    block (C order)   [ piece | piece | piece | ... ]
    piece             rows that are runs of the file, or one run
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.exceptions import PixelValueError
from dask_fits.format.checksum import add_sums, sum_of_values
from dask_fits.format.encoding import Encoding
from dask_fits.storage.sink import Piece

_PIECE = 1 << 20
"""Bytes of a piece."""


@dataclass(frozen=True, slots=True)
class Target:
    """The data unit that an array is written to."""

    where: str
    """File and HDU, for messages."""
    start: int
    """Position of its first byte in the file."""
    shape: tuple[int, ...]
    """Shape of the whole array, NumPy order."""
    encoding: Encoding
    has_sums: bool
    """Whether the sum of the bytes is wanted, for DATASUM."""

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return math.prod(self.shape) * self.encoding.itemsize

    def offset_of(self, index: Sequence[int]) -> int:
        """Return how many pixels come before one in the data unit."""
        strides = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        return sum(start * stride for start, stride in zip(index, strides, strict=True))


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where a block lies in the whole array."""

    starts: tuple[int, ...]
    """Index of its first pixel."""
    shape: tuple[int, ...]


class BlockEncoder:
    """The bytes of one block, and their sum once all have been taken.

    Raises
    ------
    ValueError
        The block has another shape than it was said to have.
    TypeError
        It has a mask.
    """

    def __init__(self, target: Target, block: npt.NDArray[Any], place: BlockPlace) -> None:
        # Functions of users' may make other chunks than they have told Dask.
        if np.ma.isMaskedArray(block):
            raise TypeError(f"{target.where}: found a chunk with a mask, which FITS images lack")
        self._block = np.asarray(block)
        if self._block.shape != place.shape:
            raise ValueError(
                f"{target.where}: found a chunk of shape {self._block.shape}, expected "
                f"{place.shape}, as the array's chunks are"
            )
        self._target = target
        self._starts = place.starts
        self._sums: list[int] = []

    @property
    def sum(self) -> int:
        """Sum of the bytes that were taken, at their places in the data unit."""
        return add_sums(self._sums)

    def runs(self) -> Iterator[Piece]:
        """Yield runs, in the order of the block's pixels; each is valid until the next one.

        Raises
        ------
        PixelValueError
            A value cannot be stored.
        """
        encoding = self._target.encoding
        big_endian = encoding.scaling.stored
        scratch = np.empty(max(_PIECE // encoding.itemsize, 1), big_endian)
        for index in _pieces(self._block.shape, len(scratch)):
            values = self._block[index]
            first = [
                start + (part.start or 0) for start, part in zip(self._starts, index, strict=True)
            ]
            try:
                native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
                stored = encoding.encode(native, first)
            except PixelValueError as error:
                raise PixelValueError(f"{self._target.where}: {error}") from None
            out = scratch[: stored.size].reshape(stored.shape)
            # Unlike `byteswap`, assigning releases the GIL.
            out[...] = stored
            yield from self._place(first, stored, out.reshape(-1).view(np.uint8).data)

    def _place(
        self, first: list[int], stored: npt.NDArray[Any], content: memoryview
    ) -> Iterator[Piece]:
        """Yield the runs of one piece."""
        target = self._target
        itemsize = target.encoding.itemsize
        strides = [math.prod(target.shape[axis + 1 :]) for axis in range(len(target.shape))]
        # The last axes that the piece has from end to end are contiguous, and a part of the next.
        outer = len(target.shape)
        while outer > 1 and stored.shape[outer - 1] == target.shape[outer - 1]:
            outer -= 1
        outer -= 1
        run = math.prod(stored.shape[outer:])
        offset = target.offset_of(first)
        offsets = np.full((1,) * outer, offset, np.int64)
        for axis in range(outer):
            steps = np.arange(stored.shape[axis], dtype=np.int64) * strides[axis]
            offsets = offsets + steps.reshape((-1,) + (1,) * (outer - axis - 1))
        flat = stored.reshape(-1)
        # Whole words lie the same way wherever they are, so they are added up in one go.
        sums_each = target.has_sums and itemsize < 4
        if target.has_sums and not sums_each:
            self._sums.append(sum_of_values(flat, 0))
        for n, begin in enumerate(offsets.reshape(-1).tolist()):
            if sums_each:
                self._sums.append(sum_of_values(flat[n * run : (n + 1) * run], begin * itemsize))
            piece = content[n * run * itemsize : (n + 1) * run * itemsize]
            yield target.start + begin * itemsize, piece


def _pieces(shape: tuple[int, ...], most: int) -> Iterator[tuple[slice, ...]]:
    """Cut a block into pieces of at most `most` pixels, contiguous in C order."""
    inner = 1
    axis = len(shape)
    while axis > 0 and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield tuple(slice(0, length) for length in shape)
        return
    axis -= 1
    step = max(most // inner, 1)
    rest = [slice(0, length) for length in shape[axis + 1 :]]
    for index in np.ndindex(*shape[:axis]):
        before = [slice(i, i + 1) for i in index]
        for start in range(0, shape[axis], step):
            stop = min(start + step, shape[axis])
            yield (*before, slice(start, stop), *rest)
