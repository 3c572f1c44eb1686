"""Uncompressed images as an array-like that reads just the pixels it is indexed for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.exceptions import TruncatedFileError
from dask_fits.format.layout import ImageLayout
from dask_fits.planning.boxes import Boxes, plan_boxes
from dask_fits.planning.chunks import ReadCost, ReadPlan, Runs, contiguous_chunk_shape, plan_box
from dask_fits.planning.selection import Indices, Selection
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.readers.base import StoredReader
from dask_fits.readers.batch import Batch, ImageBatch, read_plan


@dataclass(frozen=True, slots=True)
class ImageReader(StoredReader[ImageLayout]):
    """The pixels of one uncompressed image HDU; see `HduReader`."""

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        self.check(selection)
        runs = self.runs(selection.indices)
        pixels = selection.empty(self.dtype)
        self._read_runs(runs, pixels)
        return selection.result(pixels)

    def _contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        return contiguous_chunk_shape(self.shape, itemsize=self.dtype.itemsize, limit=limit)

    def runs(self, indices: tuple[Indices, ...]) -> Runs:
        """Plan the reading of a box of pixels: the wanted indices along each axis. Pure."""
        return plan_box(
            indices,
            shape=self.shape,
            itemsize=self.layout.scaling.stored.itemsize,
            offset=self.layout.offset,
            limits=self.store.coalescing,
        )

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of reading a box of pixels. Pure."""
        self.check(Selection.of_box(indices))
        runs = self.runs(indices)
        return read_plan(self.store, runs.ranges, runs.useful_bytes)

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of the block that is decoded as a unit: one pixel."""
        return (1,) * self.ndim

    def _estimate(self, indices: tuple[range, ...]) -> ReadCost:
        return self.runs(indices).cost

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes; see `HduReader`."""
        if not len(boxes):
            return []
        last_pixels = np.ravel_multi_index(tuple((boxes.stop - 1).T), self.shape)
        self._check_end(int(last_pixels.max()))
        plan = plan_boxes(
            boxes,
            shape=self.shape,
            itemsize=self.layout.scaling.stored.itemsize,
            offset=self.layout.offset,
            limits=limits,
        )
        parts = (plan.part(low, high) for low, high in self._divide(plan.ranges, most=most))
        return [ImageBatch(self.store, self.layout, part) for part in parts]

    def check(self, selection: Selection) -> None:
        """Raise TruncatedFileError if the file ends before the last wanted pixel.

        Before anything is allocated: a damaged header can ask for more than there is memory.
        """
        if 0 in selection.shape:
            return
        # In Python's integers: the indices of a damaged header may be too large for NumPy's.
        last_pixel = 0
        for axis, length in zip(selection.indices, self.shape, strict=True):
            last_pixel = last_pixel * length + int(axis[-1])
        self._check_end(last_pixel)

    def _check_end(self, last_pixel: int) -> None:
        """Raise if the file ends before a pixel, given by its index in the flattened image."""
        stop = self.layout.offset + (last_pixel + 1) * self.layout.scaling.stored.itemsize
        size = self.store.max_size
        if stop > size:
            raise TruncatedFileError(
                f"{self.where}: the file is truncated: NAXISn = "
                f"{self.shape[::-1]} puts the wanted pixels before byte {stop}, "
                f"found the end of the file at byte {size}"
            )

    def _layout_token(self) -> tuple[object, ...]:
        scaling = self.layout.scaling
        return (
            self.layout.offset,
            self.layout.shape,
            scaling.bitpix,
            scaling.bscale,
            scaling.bzero,
            scaling.blank,
        )

    def _read_runs(self, runs: Runs, pixels: npt.NDArray[Any]) -> None:
        """Fetch runs and convert them into `pixels`, which is C-contiguous."""
        if runs.are_solid:
            self._read_solid(runs, pixels.reshape(-1))
        else:
            self._gather(runs, pixels.reshape(len(runs.starts), runs.count))

    def _read_solid(self, runs: Runs, pixels: npt.NDArray[Any]) -> None:
        """Convert ranges of which every byte is wanted, while others are still to come."""
        scaling = self.layout.scaling
        done = 0
        for _, data in self.store.read_ranges(runs.ranges, whole=False):
            stored = np.frombuffer(data, scaling.stored)
            scaling.apply(stored, pixels[done : done + len(stored)])
            done += len(stored)

    def _gather(self, runs: Runs, pixels: npt.NDArray[Any]) -> None:
        """Convert the runs out of ranges that hold several of them, with gaps between them.

        ::

            data of a range    . a a a . . . b b b . . . c c c      runs of 3 pixels
            windows                (of 3 pixels at every position: overlapping views of `stored`)
            windows[rows]      a a a / b b b / c c c                at the runs' starts
        """
        scaling = self.layout.scaling
        run_pixels = runs.nbytes // runs.itemsize
        fetched = self.store.read_ranges(runs.ranges, whole=True)
        for index, (start, data) in enumerate(fetched):
            first = runs.bounds[index]
            last = runs.bounds[index + 1]
            stored = np.frombuffer(data, scaling.stored)
            # A view: nothing is copied until the wanted pixels are converted.
            windows = np.lib.stride_tricks.sliding_window_view(stored, run_pixels)
            rows = (runs.starts[first:last] - start) // runs.itemsize
            scaling.apply(windows[:, :: runs.step][_to_slice(rows)], pixels[first:last])


def _to_slice(rows: Integers) -> slice | Integers:
    """Return the slice that picks the same rows if they are evenly spaced: it spares a copy."""
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    if len(rows) > 2 and (np.diff(rows) != step).any():
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1, step)
