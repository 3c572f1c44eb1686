"""Dask arrays whose chunks share bytes of the file: these are read once, in bands.

The graph is made when it is known which chunks are wanted. Then `dask_fits.format.bands.divide`
decides what is read for several of them at once.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, cast

import dask
import dask.array as da
import numpy as np
import numpy.typing as npt
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import getter
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.utils import format_bytes, parse_bytes

from dask_fits.format.bands import Bands, Box, Index, Part, Window, divide, find_bands, uncut
from dask_fits.format.chunks import ReadPlan
from dask_fits.format.selection import Selection, select
from dask_fits.readers.reader import HduReader

HELD_CHUNKS = 8
"""Times Dask's array.chunk-size: a full read holds no more pixels at once, where that can be had."""


def chunk_limit() -> int:
    """Bytes of a chunk that is left to Dask, by its settings."""
    return int(parse_bytes(dask.config.get("array.chunk-size")))


def bands_of(reader: HduReader, window: Window) -> Bands | None:
    """Find the bands in which a window's chunks are best read; None where they share no bytes."""
    itemsize = reader.dtype.itemsize
    limit = chunk_limit()
    largest = itemsize * math.prod(max(lengths) for lengths in window.chunks)
    return find_bands(
        window,
        itemsize=itemsize,
        tile=reader.tile,
        cost=reader.estimate,
        gap=reader.store.coalescing.max_gap,
        limit=max(limit, largest),
        most=HELD_CHUNKS * limit,
    )


def name_of(reader: HduReader, window: Window) -> str:
    """Name the array of a window by all that tells its pixels and chunks apart."""
    chunks = [np.asarray(lengths, np.int64) for lengths in window.chunks]
    if window == Window.whole(window.chunks) and window.lengths == reader.shape:
        return "fits-" + tokenize(reader, chunks)
    return "fits-" + tokenize(reader, chunks, window.axes, window.kept)


class BandLayer(Layer):  # type: ignore[misc] # Dask is not typed
    """The tasks of the chunks of a window of an image, made for those chunks that are wanted."""

    def __init__(self, name: str, reader: HduReader, window: Window, bands: Bands | None) -> None:
        super().__init__()
        self.name = name
        self.reader = reader
        self.window = window
        self.bands = bands

    def divide(self, wanted: Iterable[Index]) -> dict[Index, list[Part]]:
        """Find out what is read for some of the chunks, by their positions along all axes."""
        return divide(self.window, self.bands, wanted, self.reader.estimate)

    def cull(
        self, keys: set[Any], all_hlg_keys: Collection[Any]
    ) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Make the tasks that some chunks need."""
        wanted = {key for key in keys if isinstance(key, tuple) and key and key[0] == self.name}
        tasks = self._tasks(self._full(key[1:]) for key in wanted)
        return MaterializedLayer(tasks, self.annotations), {key: set() for key in wanted}

    @property
    def has_legacy_tasks(self) -> bool:
        """Whether there are tasks that are bare tuples."""
        return False

    def is_materialized(self) -> bool:
        """Whether all tasks have been made."""
        return "_all" in self.__dict__

    def get_output_keys(self) -> set[Any]:
        """Return the keys of all chunks."""
        return {self._key(index) for index in self._indices()}

    def __getitem__(self, key: Any) -> Task:
        return self._all[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @cached_property
    def _all(self) -> dict[Any, Task]:
        return self._tasks(self._indices())

    def _indices(self) -> Iterator[Index]:
        return itertools.product(*(range(len(lengths)) for lengths in self.window.chunks))

    def _full(self, index: Index) -> Index:
        """Put in the axes that the array does not have."""
        given = iter(index)
        return tuple(next(given) if kept else 0 for kept in self.window.kept)

    def _key(self, index: Index) -> tuple[Any, ...]:
        return (self.name, *(n for n, kept in zip(index, self.window.kept, strict=True) if kept))

    def _tasks(self, wanted: Iterable[Index]) -> dict[Any, Task]:
        """Make tasks that read, and such that take chunks out of what was read."""
        token = tokenize(self.reader)
        tasks: dict[Any, Task] = {}
        for index, parts in self.divide(wanted).items():
            key = self._key(index)
            if len(parts) == 1 and parts[0].source == parts[0].box:
                tasks[key] = self._reading(key, parts[0].box)
                continue
            pieces = [self._piece(part, token, tasks, key, alone=len(parts) == 1) for part in parts]
            if len(parts) > 1:
                tasks[key] = self._joining(key, [part.box for part in parts], pieces)
        return tasks

    def _reading(self, key: Any, box: Box) -> Task:
        # As `da.from_array` has it, so that Dask can pass a slice of the chunk on to the reader.
        return Task(key, getter, DataNode(None, self.reader), DataNode(None, self.window.key(box)))

    def _piece(
        self, part: Part, token: str, tasks: dict[Any, Task], key: Any, *, alone: bool
    ) -> Any:
        """Add the tasks of a part of a chunk; the key of the part."""
        # Named by its pixels: the same for all arrays and computations that read this very box.
        source = (f"fits-band-{token}", *self._place(part.source))
        if source not in tasks:
            tasks[source] = self._reading(source, part.source)
        if part.source == part.box:
            return source
        if not alone:
            key = (f"fits-piece-{token}", *self._place(part.source), *self._place(part.box))
        corner = [low for low, _ in part.source]
        tasks[key] = Task(
            key, _cut, TaskRef(source), self.window.of_kept(_shifted(part.box, corner))
        )
        return key

    def _joining(self, key: Any, boxes: list[Box], pieces: list[Any]) -> Task:
        corner = [min(low for low, _ in along) for along in zip(*boxes, strict=True)]
        ends = [max(high for _, high in along) for along in zip(*boxes, strict=True)]
        kept = self.window.of_kept(zip(corner, ends, strict=True))
        places = [self.window.of_kept(_shifted(box, corner)) for box in boxes]
        join = partial(_join, tuple(n.stop - n.start for n in kept), places)
        return Task(key, join, *map(TaskRef, pieces))

    def _place(self, box: Box) -> tuple[int, ...]:
        """Tell a box of the image in numbers; a step of 0 stands for an axis that is dropped."""
        found = zip(self.window.indices(box), self.window.kept, strict=True)
        return tuple(
            number
            for axis, kept in found
            for number in (axis.start, axis.stop, axis.step if kept else 0)
        )


def _shifted(box: Box, corner: Iterable[int]) -> list[tuple[int, int]]:
    return [(low - by, high - by) for (low, high), by in zip(box, corner, strict=True)]


def _cut(band: npt.NDArray[Any], key: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Take a chunk out of a band; a copy, which does not keep the band in memory."""
    return band[key].copy()


def _join(
    shape: tuple[int, ...], places: list[tuple[slice, ...]], *pieces: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Put a chunk together."""
    chunk = np.empty(shape, pieces[0].dtype)
    for place, piece in zip(places, pieces, strict=True):
        chunk[place] = piece
    return chunk


class BandedArray(da.Array):  # type: ignore[misc] # Dask is not typed
    """A Dask array whose chunks share bytes of a file.

    What is selected of it with integers and slices is read anew from the file, one selection after
    the other: no more is fetched than the selection needs. All else is Dask's.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls, reader: HduReader, window: Window, bands: Bands | None, name: str | None = None
    ) -> BandedArray:
        """Make the array of a window of an image."""
        name = name or name_of(reader, window)
        graph = HighLevelGraph({name: BandLayer(name, reader, window, bands)}, {name: set()})
        chunks = tuple(n for n, kept in zip(window.chunks, window.kept, strict=True) if kept)
        found: BandedArray = cls(
            graph, name, chunks, meta=np.empty((0,) * len(chunks), reader.dtype)
        )
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.dask, self.name, self.chunks, self.dtype, self._meta))

    def copy(self) -> da.Array:
        """Copy the array, which an assignment changes; its pixels are not copied."""
        return type(self)(self.dask, self.name, self.chunks, meta=self)

    def to_delayed(self, optimize_graph: bool = True) -> npt.NDArray[Any]:
        """Return a `dask.delayed.Delayed` for each chunk; see `dask.array.Array.to_delayed`.

        The graph stays what it is until it is known which of them are computed.
        """
        lazy = isinstance(self.dask.layers.get(self.name), BandLayer)
        found: npt.NDArray[Any] = super().to_delayed(optimize_graph and not lazy)
        return found

    def __getitem__(self, index: Any) -> da.Array:
        layer = self.dask.layers.get(self.name)  # another one after an assignment
        items = index if isinstance(index, tuple) else (index,)
        if not isinstance(layer, BandLayer) or any(map(dask.is_dask_collection, items)):
            return super().__getitem__(index)
        try:
            selection = select(index, self.shape)
        except IndexError:  # Dask understands more than we do, and says what it does not
            return super().__getitem__(index)
        window, rest = narrowed(layer.window, selection)
        if window == layer.window:
            return super().__getitem__(index)
        found = type(self).of(layer.reader, window, bands_of(layer.reader, window))
        return found if rest is None else da.Array.__getitem__(found, rest)


def narrowed(window: Window, selection: Selection) -> tuple[Window, tuple[Any, ...] | None]:
    """Take what integers and slices take; and the key of what is left for Dask to do, if anything.

    That is what lists do, and axes that are new or turned around.
    """
    shape = [n for n, kept in zip(window.lengths, window.kept, strict=True) if kept]
    axes: list[range] = []
    kept: list[bool] = []
    rest: list[Any] = []
    for item in _of_each_axis(selection):
        if item is None:
            rest.append(None)
            continue
        axis = selection.axes[len(axes)]
        if isinstance(item, np.ndarray):
            rest.append(np.asarray(axis)[item])
            axis = range(shape[len(axes)])
        # An integer beside a list is left: how the two go together is for Dask to say.
        kept.append(not isinstance(item, int) or selection.listed is not None)
        if kept[-1] and not isinstance(item, np.ndarray):
            rest.append(item)
        axes.append(cast("range", axis))
    done = all(isinstance(item, slice) and item == slice(None) for item in rest)
    return window.narrow(axes, kept), None if done else tuple(rest)


def _of_each_axis(selection: Selection) -> Iterator[Any]:
    """Write the ellipsis of a selection's key out."""
    rest = len(selection.axes) - sum(
        item is not None and item is not Ellipsis for item in selection.key
    )
    for item in selection.key:
        if item is Ellipsis:
            yield from [slice(None)] * rest
        else:
            yield item


def read_plan(reader: HduReader, window: Window, selection: Selection) -> ReadPlan:
    """Tell what a selection of an image's array costs, whose chunks share bytes."""
    part, _ = narrowed(window, selection)
    wanted: list[Iterable[int]] = [range(len(lengths)) for lengths in part.chunks]
    listed = selection.listed
    if listed is not None:  # Dask reads the chunks that have some of it, whole along this axis
        indices = np.asarray(selection.axes[listed], np.int64)
        chunks = np.searchsorted(np.cumsum(part.chunks[listed]), indices, "right")
        wanted[listed] = np.unique(chunks).tolist()
    found = divide(part, bands_of(reader, part), itertools.product(*wanted), reader.estimate)
    boxes = dict.fromkeys(piece.source for pieces in found.values() for piece in pieces)
    return ReadPlan.of_chunks(
        reader.plan(part.indices(box)) for box in boxes if all(low < high for low, high in box)
    )


def warn_of(reader: HduReader, window: Window, bands: Bands) -> None:
    """Warn where a full read holds much at once, or fetches bytes more than once."""
    limit = chunk_limit()
    if bands.over_read > 1:
        what = f"fetches each byte {bands.over_read:.3g} times"
    elif bands.held > HELD_CHUNKS * limit:
        what = f"holds {format_bytes(bands.held)} at once"
    else:
        return
    found = tuple(max(lengths) for lengths in window.chunks)
    warnings.warn(
        f"{reader.where}: chunks of {found} cut through what lies together in the file: a full "
        f"read {what}, where Dask's array.chunk-size is {format_bytes(limit)}; chunks such as "
        f"{uncut(window, bands, reader.tile)} do not",
        da.PerformanceWarning,
        stacklevel=4,
    )
