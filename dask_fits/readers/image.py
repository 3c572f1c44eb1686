"""Uncompressed images as an array-like that reads just what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Key
from dask_fits.exceptions import TruncatedFileError
from dask_fits.format.layout import ImageLayout
from dask_fits.planning.boxes import Boxes, batches, plan_boxes
from dask_fits.planning.chunks import ReadCost, ReadPlan, Runs, contiguous_chunk_shape, plan_box
from dask_fits.planning.selection import Indices, Selection, select
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.readers.batch import Batch, ImageBatch
from dask_fits.readers.reader import read_selection
from dask_fits.storage.store import Store, version_token


@dataclass(frozen=True, slots=True)
class ImageReader:
    """The pixels of one uncompressed image HDU; see `PixelReader`."""

    store: Store
    layout: ImageLayout

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, NumPy order."""
        return self.layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self.layout.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.layout.shape)

    def __getitem__(self, key: Key) -> Any:
        return self.read(select(key, self.shape))

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        self.check(selection)
        runs = self.runs(selection.indices)
        return read_selection(selection, self.dtype, lambda out: self._fill(out, runs))

    def __dask_tokenize__(self) -> tuple[object, ...]:
        scaling = self.layout.scaling
        return (
            *("dask_fits.ImageReader", *version_token(self.store)),
            *(self.layout.offset, self.layout.shape),
            *(scaling.bitpix, scaling.bscale, scaling.bzero, scaling.blank),
        )

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Shape of the largest chunk of at most `limit` bytes; see `PixelReader`."""
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
        """Tell what reading a box of pixels costs. Pure."""
        self.check(Selection.of_box(indices))
        return self.runs(indices).plan(part_size=self.store.part_size)

    @property
    def where(self) -> str:
        """File and HDU, for messages."""
        return f"{self.store.name}: HDU {self.layout.hdu}"

    @property
    def tile(self) -> tuple[int, ...]:
        """Shape of what is decoded together: one pixel."""
        return (1,) * self.ndim

    def estimate(self, indices: tuple[range, ...]) -> ReadCost:
        """Tell what reading a box of pixels costs. Pure."""
        return self.runs(indices).cost

    def batches(self, boxes: Boxes, limits: Coalescing, *, most: int | None = None) -> list[Batch]:
        """Plan the reading of many boxes; see `PixelReader`."""
        if not len(boxes):
            return []
        self._check_end(int(np.ravel_multi_index(tuple((boxes.stop - 1).T), self.shape).max()))
        plan = plan_boxes(
            boxes,
            shape=self.shape,
            itemsize=self.layout.scaling.stored.itemsize,
            offset=self.layout.offset,
            limits=limits,
        )
        parts = (plan.part(low, high) for low, high in batches(plan.ranges, most=most))
        return [ImageBatch(self.store, self.layout, part) for part in parts]

    def _fill(self, out: npt.NDArray[Any], runs: Runs) -> None:
        """Fetch the runs and decode them into `out`, which is C-contiguous."""
        if runs.are_solid:
            self._stream(out.reshape(-1), runs)
        else:
            self._gather(out.reshape(len(runs.starts), runs.count), runs)

    def check(self, selection: Selection) -> None:
        """Raise TruncatedFileError where the file ends before the last wanted pixel.

        Before anything is allocated: a damaged header can ask for more than there is memory.
        """
        if 0 in selection.shape:
            return
        last = 0
        for axis, length in zip(selection.indices, self.shape, strict=True):
            last = last * length + int(axis[-1])
        self._check_end(last)

    def _check_end(self, last: int) -> None:
        """Raise where the file ends before a pixel, given by its index in the flattened image."""
        stop = self.layout.offset + (last + 1) * self.layout.scaling.stored.itemsize
        size = self.store.version.size
        if stop > size:
            raise TruncatedFileError(
                f"{self.where}: the file is truncated: NAXISn = "
                f"{self.shape[::-1]} puts the wanted pixels before byte {stop}, "
                f"found the end of the file at byte {size}"
            )

    def _stream(self, out: npt.NDArray[Any], runs: Runs) -> None:
        # The pieces are the wanted pixels one after the other.
        scaling, done = self.layout.scaling, 0
        for _, data in self.store.read_ranges(runs.ranges, whole=False):
            stored = np.frombuffer(data, scaling.stored)
            scaling.apply(stored, out[done : done + len(stored)])
            done += len(stored)

    def _gather(self, out: npt.NDArray[Any], runs: Runs) -> None:
        # Each piece holds several runs with gaps between them.
        scaling, itemsize, width = self.layout.scaling, runs.itemsize, runs.nbytes // runs.itemsize
        pieces = self.store.read_ranges(runs.ranges, whole=True)
        for index, (start, data) in enumerate(pieces):
            first, last = runs.bounds[index], runs.bounds[index + 1]
            stored = np.frombuffer(data, scaling.stored)
            # Every run of the piece is a row of `windows`, without a copy.
            windows = np.lib.stride_tricks.sliding_window_view(stored, width)[:, :: runs.step]
            rows = (runs.starts[first:last] - start) // itemsize
            scaling.apply(windows[_as_slice(rows)], out[first:last])


def _as_slice(rows: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return the slice that picks the same rows, where they are evenly spaced: it spares a copy."""
    step = int(rows[1] - rows[0]) if len(rows) > 1 else 1
    if len(rows) > 2 and (np.diff(rows) != step).any():
        return rows
    return slice(int(rows[0]), int(rows[-1]) + 1, step)
