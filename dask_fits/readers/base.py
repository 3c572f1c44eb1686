"""Base classes of the readers: what follows from a reader's shape, and from a file's layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from dask_fits._typing import Key
from dask_fits.format.layout import ImageLayout
from dask_fits.format.tiles import TiledLayout
from dask_fits.planning.boxes import batches
from dask_fits.planning.chunks import ReadCost
from dask_fits.planning.selection import select
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.readers.reader import PixelReader
from dask_fits.storage.store import Store

LayoutT = TypeVar("LayoutT", ImageLayout, TiledLayout)


class IndexedReader:
    """The part of a `PixelReader` that follows from its `shape` and `read`."""

    __slots__ = ()

    @property
    def ndim(self: PixelReader) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self: PixelReader, key: Key) -> Any:
        """Read pixels, as NumPy indexes an array; see `PixelReader`."""
        return self.read(select(key, self.shape))


@dataclass(frozen=True, slots=True)
class StoredReader(IndexedReader, Generic[LayoutT]):
    """The part of an `HduReader` that follows from its file and the layout of its image."""

    store: Store
    layout: LayoutT

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, NumPy order."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self.layout.dtype

    @property
    def where(self) -> str:
        """File and HDU, for messages."""
        return f"{self.store.name}: HDU {self.layout.hdu}"

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Return the shape of the largest chunk of at most `limit` bytes; see `PixelReader`.

        All of the image, if reading any part of the file takes reading all of it.
        """
        return self.shape if self.store.is_sequential else self._contiguous_chunk(limit)

    def _contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        raise NotImplementedError

    def estimate(self, indices: tuple[range, ...]) -> ReadCost:
        """Return the cost of reading a box of pixels; see `HduReader`. Pure."""
        if self.store.is_sequential:
            return ReadCost.of_whole_file(self.store.version.size)
        return self._estimate(indices)

    def _estimate(self, indices: tuple[range, ...]) -> ReadCost:
        raise NotImplementedError

    def _divide(
        self, ranges: Sequence[ByteRange], *, most: int | None
    ) -> Iterable[tuple[int, int]]:
        """Divide ranges among tasks; see `dask_fits.planning.boxes.batches`."""
        if self.store.is_sequential:  # each task would read all of the file
            return [(0, len(ranges))] if ranges else []
        return batches(ranges, most=most)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # The names of Dask's arrays are made of it: the same pixels have the same token for ever.
        return (
            f"dask_fits.{type(self).__name__}",
            *self.store.token,
            *self._layout_token(),
        )

    def _layout_token(self) -> tuple[object, ...]:
        """Return what tells the pixels apart from others of the same file."""
        raise NotImplementedError
