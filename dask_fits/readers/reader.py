"""The interfaces of readers: of any pixels, and of the pixels of one image HDU."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from dask_fits._typing import Key
from dask_fits.planning.boxes import Boxes
from dask_fits.planning.chunks import ReadCost, ReadPlan
from dask_fits.planning.selection import Indices, Selection
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.readers.batch import Batch
from dask_fits.storage.store import Store


class PixelReader(Protocol):
    """The pixels of an image, indexed like a NumPy array and read at each indexing.

    It holds the file's place and layout, and no handle: it can be pickled, and indexed from any
    thread of any process. Integers, slices with any step, Ellipsis, None and at most one 1-D list
    of integers or booleans are understood, with NumPy's meaning. The result is a new array in
    native byte order, or a scalar.

    Raises
    ------
    IndexError
        As NumPy does.
    FitsFormatError
        Compressed bytes are damaged.
    TruncatedFileError, FileChangedError, StorageError
        The pixels cannot be read.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, NumPy order."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    def __getitem__(self, key: Key) -> Any: ...

    def __dask_tokenize__(self) -> tuple[object, ...]: ...

    def read(self, selection: Selection) -> Any:
        """Read the pixels of a selection: what `__getitem__` returns for its key."""

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Return the shape of the largest contiguous chunk in the file of at most `limit` bytes."""

    def check(self, selection: Selection) -> None:
        """Raise if the file cannot hold the wanted pixels, before anything is allocated."""

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of reading a box of pixels: the wanted indices along each axis."""


class HduReader(PixelReader, Protocol):
    """The pixels of one image HDU, read from its file."""

    @property
    def store(self) -> Store:
        """The file."""

    @property
    def where(self) -> str:
        """File and HDU, for messages."""

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of the block that is decoded as a unit, NumPy order: a tile, or one pixel."""

    def estimate(self, indices: tuple[range, ...]) -> ReadCost:
        """Return the cost of reading a box of pixels, as far as it is known without reading."""

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes at once, in batches for as many tasks.

        No byte is fetched twice, whatever boxes share. For a tile-compressed image the table's rows
        are read, unless they are at hand.

        Parameters
        ----------
        boxes : Boxes
        limits : Coalescing
        most : int, optional
            Bytes that a task fetches; see `dask_fits.planning.boxes.batches`.

        Raises
        ------
        FitsFormatError, TruncatedFileError, FileChangedError, StorageError
            The file ends before some of the wanted pixels, or the rows of the table are damaged or
            cannot be read.
        """
