"""Dask arrays whose chunks share bytes of the file, which are read once, in bands.

Tasks are made when it is known which chunks are wanted. Then is decided what is read for several of
them at once: see `dask_fits.planning.band_reads.divide`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property, partial
from math import prod
from typing import Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask import config
from dask._task_spec import DataNode, Task, TaskRef
from dask.array.core import Array, getter
from dask.base import is_dask_collection, tokenize
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.utils import format_bytes, parse_bytes

from dask_fits.arrays.computations import watch_computations
from dask_fits.planning.band_reads import Index, Part, divide
from dask_fits.planning.bands import (
    Bands,
    Box,
    Costs,
    Window,
    bounding_box,
    find_bands,
    suggest_chunk_shape,
)
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.reader import HduReader, PixelReader

HELD_CHUNKS = 8
"""A full read holds no more at once than this many times Dask's array.chunk-size, if it can."""


def chunk_limit() -> int:
    """Bytes of a chunk that is left to Dask, by its settings."""
    return int(parse_bytes(config.get("array.chunk-size")))


def bands_of(reader: HduReader, window: Window) -> Bands | None:
    """Find the bands in which a window's chunks are best read; None where they share no bytes."""
    if da.Array is not Array:  # with array.query-planning, Dask knows no layers of others
        return None
    limit, largest = chunk_limit(), prod(window.longest) * reader.dtype.itemsize
    return find_bands(window, _costs(reader), limit=max(limit, largest), most=HELD_CHUNKS * limit)


def _costs(reader: HduReader) -> Costs:
    return Costs(reader.estimate, reader.dtype.itemsize, reader.tile, reader.store.coalescing)


class BandLayer(Layer):
    """The tasks of the chunks of a window of an image, made for those chunks that are wanted."""

    def __init__(self, name: str, reader: HduReader, window: Window, bands: Bands | None) -> None:
        super().__init__()
        self.name = name
        self.reader = reader
        self.window = window
        self.bands = bands

    def cull(
        self,
        keys: set[Any],
        all_hlg_keys: Collection[Any],  # noqa: ARG002 (Dask's)
    ) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Make the tasks that some chunks need."""
        wanted = {key for key in keys if isinstance(key, tuple) and key[0] == self.name}
        tasks = self._tasks(self._index(key) for key in sorted(wanted))
        return MaterializedLayer(tasks, self.annotations), {key: set() for key in wanted}

    @property
    def has_legacy_tasks(self) -> bool:
        """Whether some tasks are bare tuples."""
        return False

    def is_materialized(self) -> bool:
        """Whether the tasks of all chunks have been made."""
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

    def _index(self, key: tuple[Any, ...]) -> Index:
        """Find a chunk's position along all axes of the image."""
        given = iter(key[1:])
        return tuple(next(given) if kept else 0 for kept in self.window.kept)

    def _key(self, index: Index) -> tuple[Any, ...]:
        return (self.name, *itertools.compress(index, self.window.kept))

    def _tasks(self, wanted: Iterable[Index]) -> dict[Any, Task]:
        """Make tasks that read, and tasks that take chunks out of what was read."""
        token = tokenize(self.reader)
        tasks: dict[Any, Task] = {}
        divided = divide(self.window, self.bands, wanted, _costs(self.reader))
        for index, parts in divided.items():
            key = self._key(index)
            if len(parts) > 1:
                pieces = [self._add_part(tasks, token, part) for part in parts]
                tasks[key] = self._joining(key, [part.box for part in parts], pieces)
            elif parts[0].source == parts[0].box:
                tasks[key] = self._reading(key, parts[0].box)
            else:
                self._add_part(tasks, token, parts[0], key)
        return tasks

    def _reading(self, key: Any, box: Box) -> Task:
        # As `da.from_array` has it, so that Dask can pass a slice of the chunk on to the reader.
        return Task(key, getter, DataNode(None, self.reader), DataNode(None, self.window.key(box)))

    def _add_part(self, tasks: dict[Any, Task], token: str, part: Part, key: Any = None) -> Any:
        """Add the tasks of a part of a chunk, if they are not there; the key of the last one.

        They are named by their pixels: whatever reads this very box has the same name for it.
        """
        source: tuple[Any, ...] = (f"fits-band-{token}", *self._place(part.source))
        if source not in tasks:
            tasks[source] = self._reading(source, part.source)
        if part.source == part.box:
            return source
        if key is None:
            key = (f"fits-piece-{token}", *self._place(part.source), *self._place(part.box))
        within = self.window.key_within(part.box, part.source)
        tasks[key] = Task(key, _cut, TaskRef(source), within)
        return key

    def _joining(self, key: Any, boxes: list[Box], pieces: list[Any]) -> Task:
        whole = bounding_box(boxes)
        shape = tuple(item.stop for item in self.window.key_within(whole, whole))
        places = [self.window.key_within(box, whole) for box in boxes]
        return Task(key, partial(_join, shape, places), *map(TaskRef, pieces))

    def _place(self, box: Box) -> tuple[int, ...]:
        """Tell a box of the image in numbers; a step of 0 stands for an axis that is not kept."""
        found = zip(self.window.indices(box), self.window.kept, strict=True)
        return tuple(
            number
            for axis, kept in found
            for number in (axis.start, axis.stop, axis.step if kept else 0)
        )


def _cut(band: npt.NDArray[Any], key: tuple[slice, ...]) -> npt.NDArray[Any]:
    """Take a chunk out of a band: a copy, which does not keep the band in memory."""
    return band[key].copy()


def _join(
    shape: tuple[int, ...], places: list[tuple[slice, ...]], *pieces: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Put a chunk together."""
    chunk = np.empty(shape, pieces[0].dtype)
    for place, piece in zip(places, pieces, strict=True):
        chunk[place] = piece
    return chunk


class BandedArray(da.Array):
    """A Dask array whose chunks share bytes of a file.

    What is selected of it with integers and slices is read anew from the file, however many
    selections follow one another: no more is fetched than the last one needs. All else is Dask's.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls, reader: HduReader, window: Window, bands: Bands | None, name: str | None = None
    ) -> BandedArray:
        """Make the array of a window of an image."""
        watch_computations()
        name = name or array_name(reader, window)
        graph = HighLevelGraph({name: BandLayer(name, reader, window, bands)}, {name: set()})
        chunks = tuple(itertools.compress(window.chunks, window.kept))
        meta = np.empty((0,) * len(chunks), reader.dtype)
        return cls(graph, name, chunks, meta=meta)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.dask, self.name, self.chunks, self.dtype, self._meta))

    def copy(self) -> da.Array:
        """Copy the array, which an assignment changes; its pixels are not copied."""
        return type(self)(self.dask, self.name, self.chunks, meta=self)

    def to_delayed(self, optimize_graph: bool = True) -> npt.NDArray[Any]:  # noqa: FBT001, FBT002 (Dask's)
        """Return a `dask.delayed.Delayed` for each chunk; see `dask.array.Array.to_delayed`.

        Tasks are made when it is known which of them are computed.
        """
        found = super().to_delayed(optimize_graph and self._layer is None)
        return cast("npt.NDArray[Any]", found)

    @property
    def _layer(self) -> BandLayer | None:
        """What reads the chunks; None after an assignment."""
        layer = self.dask.layers.get(self.name)
        return layer if isinstance(layer, BandLayer) else None

    def __getitem__(self, index: Any) -> da.Array:
        selection, layer = self._select(index), self._layer
        if selection is not None and layer is not None:
            window, rest = narrow(layer.window, selection)
            if window != layer.window:
                found = type(self).of(layer.reader, window, bands_of(layer.reader, window))
                return cast("da.Array", found if rest is None else Array.__getitem__(found, rest))
        return cast("da.Array", super().__getitem__(index))

    def _select(self, index: Any) -> Selection | None:
        """Resolve a key; None for what Dask alone understands, or refuses."""
        items = index if isinstance(index, tuple) else (index,)
        if any(map(is_dask_collection, items)):
            return None
        try:
            return select(index, self.shape)
        except IndexError:
            return None


def array_name(reader: PixelReader, window: Window) -> str:
    """Name the array of a window by all that tells its pixels and chunks apart."""
    chunks = [np.asarray(lengths, np.int64) for lengths in window.chunks]
    if window.lengths == reader.shape and all(window.kept):
        return "fits-" + tokenize(reader, chunks)
    return "fits-" + tokenize(reader, chunks, window.axis_ranges, window.kept)


def narrow(window: Window, selection: Selection) -> tuple[Window, tuple[Any, ...] | None]:
    """Take what integers and slices take; and the key of what is left for Dask to do, if anything.

    That is what lists do, and axes that are new or turned around.
    """
    shape = list(itertools.compress(window.lengths, window.kept))
    axes: list[range] = []
    kept: list[bool] = []
    rest: list[Any] = []
    for item in _of_each_axis(selection):
        if item is None:
            rest.append(None)
            continue
        axis = selection.indices[len(axes)]
        # An integer beside a list is left: how the two go together is for Dask to say.
        kept.append(not isinstance(item, int) or selection.listed is not None)
        if isinstance(item, np.ndarray) and len(axis):
            rest.append(np.asarray(axis)[item])
            axis = range(shape[len(axes)])
        elif kept[-1]:
            rest.append(slice(None) if isinstance(item, np.ndarray) else item)
        axes.append(cast("range", axis))
    done = all(isinstance(item, slice) and item == slice(None) for item in rest)
    return window.narrow(axes, kept), None if done else tuple(rest)


def _of_each_axis(selection: Selection) -> Iterator[Any]:
    """Write the ellipsis of a selection's key out."""
    given = sum(item is not None and item is not Ellipsis for item in selection.key)
    for item in selection.key:
        if item is Ellipsis:
            yield from [slice(None)] * (len(selection.indices) - given)
        else:
            yield item


def read_plan(reader: HduReader, window: Window, selection: Selection) -> ReadPlan:
    """Tell what a selection of an image's array costs, whose chunks share bytes."""
    part, _ = narrow(window, selection)
    wanted: list[Iterable[int]] = [range(len(lengths)) for lengths in part.chunks]
    listed = selection.listed
    if listed is not None:  # Dask reads the chunks that have some of it, whole along this axis
        indices = np.asarray(selection.indices[listed], np.int64)
        chunks = np.searchsorted(np.cumsum(part.chunks[listed]), indices, "right")
        wanted[listed] = np.unique(chunks).tolist()
    found = divide(part, bands_of(reader, part), itertools.product(*wanted), _costs(reader))
    boxes = dict.fromkeys(piece.source for pieces in found.values() for piece in pieces)
    return ReadPlan.of_chunks(
        reader.plan(part.indices(box)) for box in boxes if all(low < high for low, high in box)
    )


def warn_of(reader: HduReader, window: Window, bands: Bands) -> None:
    """Warn where a full read holds much at once, or fetches bytes more than once."""
    limit = chunk_limit()
    if bands.over_read > 1:
        what = f"fetches a byte up to {bands.over_read:.3g} times"
    elif bands.held > HELD_CHUNKS * limit:
        what = f"holds {format_bytes(bands.held)} at once"
    else:
        return
    warnings.warn(
        f"{reader.where}: chunks of {window.longest} cut through what lies together in the file: "
        f"a full read {what}, where Dask's array.chunk-size is {format_bytes(limit)}; chunks such "
        f"as {suggest_chunk_shape(window, bands, _costs(reader))} do not",
        da.PerformanceWarning,
        stacklevel=4,
    )
