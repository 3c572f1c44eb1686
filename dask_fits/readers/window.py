"""A box of an image, which may reach over its edges, as an array-like."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Key
from dask_fits.planning.chunks import ReadPlan, contiguous_chunk_shape
from dask_fits.planning.selection import Indices, Selection, select
from dask_fits.readers.reader import PixelReader, read_selection


@dataclass(frozen=True, slots=True)
class WindowReader:
    """The pixels of a box of an image; see `PixelReader`. What lies off the image is filled."""

    image: PixelReader
    origin: tuple[int, ...]
    """Pixel of the image that is the box's first along each axis, NumPy order; may be negative."""
    shape: tuple[int, ...]
    fill_value: Any
    """Of pixels off the image."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self.image.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Key) -> Any:
        return self.read(select(key, self.shape))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (
            *("dask_fits.WindowReader", self.image.__dask_tokenize__()),
            *(self.origin, self.shape, repr(self.fill_value)),
        )

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        indices, place = self._inside(selection.indices)
        found = tuple(len(axis) for axis in indices)
        if found == selection.shape:
            return self.image.read(replace(selection, indices=indices))

        def fill(out: npt.NDArray[Any]) -> None:
            box = out.reshape(selection.shape)
            box[...] = self.fill_value
            if 0 not in found:
                box[place] = self.image.read(Selection.of_box(indices))

        return read_selection(selection, self.dtype, fill)

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Shape of a chunk of at most `limit` bytes; see `PixelReader`."""
        return contiguous_chunk_shape(self.shape, itemsize=self.dtype.itemsize, limit=limit)

    def check(self, selection: Selection) -> None:
        """Raise where the wanted pixels cannot be there; see `PixelReader`."""
        indices, _ = self._inside(selection.indices)
        self.image.check(Selection.of_box(indices))

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Tell what reading a box of pixels costs; see `PixelReader`."""
        return self.image.plan(self._inside(indices)[0])

    def _inside(
        self, indices: tuple[Indices, ...]
    ) -> tuple[tuple[Indices, ...], tuple[slice, ...]]:
        """Find what of a box is on the image: there, and in the box."""
        inside, place = [], []
        for axis, start, length in zip(indices, self.origin, self.image.shape, strict=True):
            there = _shifted(axis, start)
            low, high = bisect_left(there, 0), bisect_left(there, length)
            inside.append(there[low:high])
            place.append(slice(low, high))
        return tuple(inside), tuple(place)


def _shifted(axis: Indices, by: int) -> Indices:
    if isinstance(axis, range):
        return range(axis.start + by, axis.stop + by, axis.step)
    return axis + by
