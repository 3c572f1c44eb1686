"""A box of an image, which may reach over its edges, as an array-like."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_fits.planning.chunks import ReadPlan, contiguous_chunk_shape
from dask_fits.planning.selection import Indices, Selection
from dask_fits.readers.base import IndexedReader
from dask_fits.readers.reader import PixelReader


@dataclass(frozen=True, slots=True)
class WindowReader(IndexedReader):
    """The pixels of a box of an image, filled outside the image; see `PixelReader`."""

    image: PixelReader
    origin: tuple[int, ...]
    """Pixel of the image that is the box's first along each axis, NumPy order; may be negative."""
    shape: tuple[int, ...]
    fill_value: Any
    """Value of pixels outside the image."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self.image.dtype

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (
            "dask_fits.WindowReader",
            self.image.__dask_tokenize__(),
            self.origin,
            self.shape,
            repr(self.fill_value),
        )

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        image_indices, place = self._clip(selection.indices)
        clipped_shape = tuple(len(axis) for axis in image_indices)
        if clipped_shape == selection.shape:
            return self.image.read(replace(selection, indices=image_indices))
        pixels = selection.empty(self.dtype)
        box = pixels.reshape(selection.shape)
        box[...] = self.fill_value
        if 0 not in clipped_shape:
            box[place] = self.image.read(Selection.of_box(image_indices))
        return selection.result(pixels)

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Return the shape of a chunk of at most `limit` bytes: a band of the window's rows."""
        return contiguous_chunk_shape(self.shape, itemsize=self.dtype.itemsize, limit=limit)

    def check(self, selection: Selection) -> None:
        """Raise if the file cannot hold the wanted pixels; see `PixelReader`."""
        image_indices, _ = self._clip(selection.indices)
        self.image.check(Selection.of_box(image_indices))

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of reading a box of pixels; see `PixelReader`."""
        image_indices, _ = self._clip(indices)
        return self.image.plan(image_indices)

    def _clip(self, indices: tuple[Indices, ...]) -> tuple[tuple[Indices, ...], tuple[slice, ...]]:
        """Clip a box of the window to the image: the image's indices, and their part of the box."""
        image_indices: list[Indices] = []
        place: list[slice] = []
        for axis, start, length in zip(indices, self.origin, self.image.shape, strict=True):
            shifted = _shift(axis, start)
            low = bisect_left(shifted, 0)
            high = bisect_left(shifted, length)
            image_indices.append(shifted[low:high])
            place.append(slice(low, high))
        return tuple(image_indices), tuple(place)


def _shift(axis: Indices, by: int) -> Indices:
    if isinstance(axis, range):
        return range(axis.start + by, axis.stop + by, axis.step)
    return axis + by
