"""What every reader of pixels is, and what indexing one means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
        The pixels cannot be had.
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
        """Read what `__getitem__` reads for the key of a selection."""

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Shape of the largest chunk of at most `limit` bytes that is contiguous in the file."""

    def check(self, selection: Selection) -> None:
        """Raise where the wanted pixels cannot be there, before anything is allocated."""

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Tell what reading a box of pixels costs: the wanted indices along each axis."""


class HduReader(PixelReader, Protocol):
    """The pixels of one image HDU, read from its file."""

    @property
    def store(self) -> Store:
        """Where the file is."""

    @property
    def where(self) -> str:
        """File and HDU, for messages."""

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of what is decoded together, NumPy order: a tile, or one pixel."""

    def estimate(self, indices: tuple[range, ...]) -> ReadCost:
        """Tell what reading a box of pixels costs, as far as is known without reading anything."""

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes at once, in parts for as many tasks.

        No byte is fetched twice, whatever boxes share. Of a tile-compressed image the table's rows
        are read, where they are not at hand. `most` are the bytes that a task fetches.

        Raises
        ------
        FitsFormatError, TruncatedFileError, FileChangedError, StorageError
            Some of the wanted pixels cannot be there, or the rows cannot be had.
        """


def read_selection(
    selection: Selection, dtype: np.dtype[Any], fill: Callable[[npt.NDArray[Any]], None]
) -> Any:
    """Read the box of pixels that a key needs, and make NumPy's result for the key of it.

    Parameters
    ----------
    selection : Selection
    dtype : numpy.dtype
        Type of the result.
    fill : callable
        Fills a new C-contiguous array of as many pixels as the box has with the box's pixels.
    """
    if selection.result_shape is None:
        box = np.empty(selection.shape, dtype)
        fill(box)
        found = box[selection.key]
        return found if found.base is None else found.copy()
    result = np.empty(selection.result_shape, dtype)
    fill(result)
    return result[()] if selection.is_scalar else result
