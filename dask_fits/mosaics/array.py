"""The Dask arrays of a mosaic: its pixels, weights, counts and errors, which share their tasks."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key as DaskKey

from dask_fits._typing import Chunks
from dask_fits.arrays.banded import narrow
from dask_fits.arrays.lazy import array_of_window, chunk_grid
from dask_fits.arrays.windowed import WindowedArray, WindowLayer, array_name
from dask_fits.exceptions import FitsError
from dask_fits.mosaics.job import Input, Job, Product
from dask_fits.mosaics.outlines import Box
from dask_fits.mosaics.rendering import Rendered, plan_box, product_types, render
from dask_fits.planning.band_reads import Index
from dask_fits.planning.bands import Window, spans_of
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.selection import Indices, Selection
from dask_fits.readers.base import IndexedReader
from dask_fits.resampling.positions import PATCH

CHUNK = PATCH
"""Pixels along each side of an ``"auto"`` chunk: of larger ones a thread would hold more, and
smaller ones take more of each image than they need, and find positions that they do not."""

_LEAST_CHUNK = CHUNK // 2
"""The same, however small Dask wants chunks to be."""


@dataclass(frozen=True, slots=True, eq=False)
class MosaicReader(IndexedReader):
    """One of the arrays of a mosaic, made when it is indexed; see `PixelReader`."""

    job: Job
    product: Product

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.job.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return product_types(self.job.recipe)[self.product]

    def read(self, selection: Selection) -> Any:
        """Make the pixels of a selection; see `PixelReader`."""
        pixels = selection.empty(self.dtype)
        if pixels.size:
            box = _box_around(selection.indices)
            rendered = render(self.job.take(box), box)
            picked = _pick(rendered, self.product, selection.indices, box)
            pixels.reshape(selection.shape)[...] = picked
        return selection.result(pixels)

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Return the shape of an ``"auto"`` chunk, of at most `limit` bytes.

        Chunks that are smaller than `_LEAST_CHUNK` cost more than they spare.
        """
        side = CHUNK * (1 + any(_has_long_rows(each) for each in self.job.inputs))
        while side > _LEAST_CHUNK and side * side * self.dtype.itemsize > limit:
            side //= 2
        return min(side, max(self.shape[0], 1)), min(side, max(self.shape[1], 1))

    def check(self, selection: Selection) -> None:
        """Do nothing: files are checked when they are read."""

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of making a box of pixels."""
        if not all(map(len, indices)):
            return ReadPlan((), 0)
        box = _box_around(indices)
        return plan_box(self.job.take(box), box)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return "dask_fits.MosaicReader", self.job.digest, self.product


def _has_long_rows(item: Input) -> bool:
    """Return whether a part of an image is read as whole rows that are longer than two chunks.

    Where an image is stored row by row, and gaps between the parts that are needed of them are
    cheaper to read over than other requests, smaller chunks read each row more often.
    """
    width = item.reader.shape[-1]
    return width > 2 * CHUNK and item.reader.tile[-1] in (1, width)


class MosaicLayer(WindowLayer[MosaicReader]):
    """The tasks of one array of a mosaic: boxes that are made, and what is picked of each."""

    def narrow(self, selection: Selection) -> tuple[MosaicLayer, tuple[Any, ...] | None]:
        """Return the layer of a part of the mosaic; see `WindowLayer`."""
        window, dask_key = narrow(self.window, selection)
        if window == self.window:
            return self, dask_key
        return MosaicLayer(_name(self.reader, window), self.reader, window), dask_key

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: for a part of a mosaic, the images that reach into it."""
        state = {**self.__dict__}
        state.pop("_all_tasks", None)  # which are made anew when they are needed
        axes = self.window.axis_ranges
        if self.window.lengths != self.reader.shape and all(map(len, axes)):
            job = self.reader.job.take(_box_around(axes))
            state["reader"] = MosaicReader(job, self.reader.product)
        return state

    def _make_tasks(self, indices: Iterable[Index]) -> dict[DaskKey, Task]:
        """Make the tasks of some chunks; those that make a box are the same for all arrays."""
        spans = spans_of(self.window.chunks)
        job = self.reader.job
        tasks: dict[DaskKey, Task] = {}
        for index in indices:
            chunk = tuple(along[number] for along, number in zip(spans, index, strict=True))
            axes = self.window.indices(chunk)
            key = self._chunk_key(index)
            if not all(map(len, axes)):
                shape = tuple(
                    len(a) for a, kept in zip(axes, self.window.kept, strict=True) if kept
                )
                tasks[key] = cast("Task", DataNode(key, np.empty(shape, self.reader.dtype)))
                continue
            box = _box_around(axes)
            source, made = _box_task(job, box)
            tasks.setdefault(source, made)
            squeezed = tuple(slice(None) if kept else 0 for kept in self.window.kept)
            tasks[key] = Task(
                key, _pick_part, TaskRef(source), self.reader.product, axes, box, squeezed
            )
        return tasks


def mosaic_array(job: Job, product: Product, chunks: Chunks = "auto") -> da.Array:
    """Make the lazy Dask array of one of a mosaic's products; reads nothing.

    Raises
    ------
    FitsFormatError
        There would be more chunks than can be listed.
    """
    reader = MosaicReader(job, product)
    # The chunks of all products are those of the pixels.
    window = mosaic_window(job, chunks)
    name = _name(reader, window)
    if da.Array is not Array:  # with array.query-planning, Dask takes no layers but its own
        return array_of_window(reader, window, name=name)
    return WindowedArray.of_layer(MosaicLayer(name, reader, window))


def mosaic_errors(job: Job, chunks: Chunks = "auto") -> Delayed:
    """Return what computes the errors of images that are left out, by their rows.

    Its tasks take them of the boxes that the arrays are made of, which are made once if they are
    computed together.
    """
    name = f"fits-mosaic-errors-{uuid.uuid4().hex}"
    tasks: dict[Any, Any] = {}
    errors: list[Any] = []
    for y, x in itertools.product(*spans_of(mosaic_window(job, chunks).chunks)):
        source, made = _box_task(job, (y, x))
        tasks[source] = made
        key = (name, *y, *x)
        tasks[key] = (_errors_of, source)
        errors.append(key)
    tasks[name] = (_joined, errors)
    return Delayed(name, HighLevelGraph.from_collections(name, tasks), layer=name)


def plan_mosaic(job: Job, chunks: Chunks = "auto") -> ReadPlan:
    """Plan the reads of all of a mosaic, chunk by chunk."""
    reader = MosaicReader(job, "data")
    boxes = itertools.product(*spans_of(mosaic_window(job, chunks).chunks))
    return ReadPlan.of_chunks(reader.plan(tuple(range(*span) for span in box)) for box in boxes)


def mosaic_window(job: Job, chunks: Chunks) -> Window:
    """Cut a mosaic into chunks."""
    return Window.whole(chunk_grid(MosaicReader(job, "data"), chunks))


def _box_task(job: Job, box: Box) -> tuple[DaskKey, Task]:
    """Return the key of the task that makes a box, and the task."""
    key: DaskKey = (f"fits-mosaic-box-{job.digest}", *itertools.chain(*box))
    return key, Task(key, render, DataNode(None, job.take(box)), box)


def _errors_of(rendered: Rendered) -> dict[int, FitsError]:
    """Return the errors of a box."""
    return rendered.errors


def _joined(errors: Iterable[Mapping[int, FitsError]]) -> dict[int, FitsError]:
    """Join the errors of all boxes."""
    return {row: error for each in errors for row, error in each.items()}


def _name(reader: MosaicReader, window: Window) -> str:
    return array_name(reader, window, prefix=f"fits-mosaic-{reader.product}")


def _box_around(indices: Iterable[Indices]) -> Box:
    """Return the box around indices along y and x, none of which are empty."""
    y, x = ((int(axis[0]), int(axis[-1]) + 1) for axis in indices)
    return y, x


def _pick(
    rendered: Rendered, product: Product, indices: tuple[Indices, ...], box: Box
) -> npt.NDArray[Any]:
    """Pick the pixels at some rows and columns out of a box."""
    pixels = rendered.products[product]
    for axis, (along, (start, _)) in enumerate(zip(indices, box, strict=True)):
        if isinstance(along, range):
            key: Any = slice(along.start - start, along.stop - start, along.step)
        else:
            key = along - start
        pixels = pixels[(slice(None),) * axis + (key,)]
    return pixels


def _pick_part(
    rendered: Rendered,
    product: Product,
    indices: tuple[Indices, ...],
    box: Box,
    squeezed: tuple[Any, ...],
) -> Any:
    """Pick a chunk out of a box, without the axes that an integer dropped."""
    picked = _pick(rendered, product, indices, box)[squeezed]
    # A view of a part would keep the box in memory.
    return picked.copy() if picked.size < rendered.products[product].size else picked
