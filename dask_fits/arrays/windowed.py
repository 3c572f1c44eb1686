"""Dask arrays that are windows of an image, and stay so however many selections follow one another.

Dask hands a slice on to a reader if nothing else needs the chunk, and a list never. Here a
selection makes the array of a smaller window anew from the reader, so that what is computed has
just the wanted pixels. Tasks are made when Dask knows which chunks are computed.

Two index spaces meet here. Windows, boxes and the indices of chunks have all axes of the image.
Dask's keys and chunks, and the keys of users, have the axes of the array, without those that an
integer dropped (`Window.kept`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, Self, TypeVar, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask._task_spec import DataNode, Task
from dask.array.core import Array, getter
from dask.base import is_dask_collection, tokenize
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from dask.typing import Key as DaskKey

from dask_fits._typing import Key
from dask_fits.arrays.computations import watch_computations
from dask_fits.planning.band_reads import Index
from dask_fits.planning.bands import Box, Window
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.reader import PixelReader

ReaderT = TypeVar("ReaderT", bound=PixelReader)


class WindowLayer(Layer, Generic[ReaderT]):
    """The tasks of the chunks of a window of an image, made for the chunks that are computed."""

    def __init__(self, name: str, reader: ReaderT, window: Window) -> None:
        super().__init__()
        self.name = name
        self.reader = reader
        self.window = window

    def narrow(self, selection: Selection) -> tuple[Self, tuple[Any, ...] | None]:
        """Return the layer of a part of the window, and the key that Dask applies to its array.

        Parameters
        ----------
        selection : Selection
            A selection of the array.

        Returns
        -------
        layer : WindowLayer
            This one if it stays as it is.
        key : tuple or None
            None if there is nothing left to do.
        """
        raise NotImplementedError

    def _make_tasks(self, indices: Iterable[Index]) -> dict[DaskKey, Task]:
        """Make the tasks of some chunks.

        Parameters
        ----------
        indices : iterable of tuple of int
            Positions of the chunks that are computed, along all axes of the image.
        """
        raise NotImplementedError

    def cull(
        self,
        keys: set[DaskKey],
        all_hlg_keys: Collection[DaskKey],  # noqa: ARG002 (Dask's)
    ) -> tuple[Layer, Mapping[DaskKey, set[DaskKey]]]:
        """Return a layer with the tasks that some chunks need."""
        chunk_keys = {key for key in keys if isinstance(key, tuple) and key[0] == self.name}
        tasks = self._make_tasks(self._chunk_index(key) for key in sorted(chunk_keys))
        return MaterializedLayer(tasks, self.annotations), {key: set() for key in chunk_keys}

    @property
    def has_legacy_tasks(self) -> bool:
        """Whether some tasks are bare tuples."""
        return False

    def is_materialized(self) -> bool:
        """Return whether the tasks of all chunks have been made."""
        return "_all_tasks" in self.__dict__

    def get_output_keys(self) -> set[DaskKey]:
        """Return the keys of all chunks."""
        return {self._chunk_key(index) for index in self._chunk_indices()}

    def __getitem__(self, key: DaskKey) -> Task:
        return self._all_tasks[key]

    def __iter__(self) -> Iterator[DaskKey]:
        return iter(self._all_tasks)

    def __len__(self) -> int:
        return len(self._all_tasks)

    @cached_property
    def _all_tasks(self) -> dict[DaskKey, Task]:
        return self._make_tasks(self._chunk_indices())

    def _chunk_indices(self) -> Iterator[Index]:
        """Iterate over the positions of all chunks, along all axes of the image."""
        return itertools.product(*(range(len(lengths)) for lengths in self.window.chunks))

    def _chunk_index(self, key: tuple[Any, ...]) -> Index:
        """Return a chunk's position along all axes of the image; Dask's key has the array's."""
        array_index = iter(key[1:])
        return tuple(next(array_index) if kept else 0 for kept in self.window.kept)

    def _chunk_key(self, index: Index) -> tuple[Any, ...]:
        """Return Dask's key of a chunk, from its position along all axes of the image."""
        return (self.name, *itertools.compress(index, self.window.kept))

    def read_of(self, box: Box) -> tuple[PixelReader, tuple[slice | int, ...]]:
        """Return the reader of a box of the window, and the key by which it is read."""
        return self.reader, self.window.key(box)

    def _read_task(self, key: DaskKey, box: Box) -> Task:
        """Make the task that reads a box of the window."""
        reader, reader_key = self.read_of(box)
        # As that of `da.from_array`, so that Dask can pass a slice of the chunk on to the reader.
        return Task(key, getter, DataNode(None, reader), DataNode(None, reader_key))


class WindowedArray(da.Array):
    """A Dask array of a window of an image.

    A selection by integers and slices is a new array over the reader, however many selections
    follow one another: no more is fetched than the last one needs. Everything else is Dask's.
    """

    __slots__ = ()

    @classmethod
    def of_layer(cls, layer: WindowLayer[Any]) -> Self:
        """Make the array of a layer."""
        watch_computations()
        window = layer.window
        graph = HighLevelGraph({layer.name: layer}, {layer.name: set()})
        # Dask's chunks and meta have the axes of the array.
        chunks = tuple(itertools.compress(window.chunks, window.kept))
        meta = np.empty((0,) * len(chunks), layer.reader.dtype)
        return cls(graph, layer.name, chunks, meta=meta)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.dask, self.name, self.chunks, self.dtype, self._meta))

    def copy(self) -> da.Array:
        """Return a copy, so that an assignment changes one of the two; pixels are not copied."""
        return type(self)(self.dask, self.name, self.chunks, meta=self)

    def to_delayed(self, optimize_graph: bool = True) -> npt.NDArray[Any]:  # noqa: FBT001, FBT002 (Dask's)
        """Return a `dask.delayed.Delayed` for each chunk; see `dask.array.Array.to_delayed`.

        Tasks are made when it is known which of them are computed.
        """
        delayed = super().to_delayed(optimize_graph and self._layer is None)
        return cast("npt.NDArray[Any]", delayed)

    @property
    def _layer(self) -> WindowLayer[Any] | None:
        """The layer that reads the chunks; None after an assignment, which adds another one."""
        layer = self.dask.layers.get(self.name)
        return layer if isinstance(layer, WindowLayer) else None

    def __getitem__(self, index: Key | da.Array) -> da.Array:
        selection = self._select(index)
        layer = self._layer
        if selection is not None and layer is not None:
            part, dask_key = layer.narrow(selection)
            if part is not layer:
                array = self.of_layer(part)
                if dask_key is None:
                    return array
                return _apply(dask_key, array)
        return cast("da.Array", super().__getitem__(index))

    def _select(self, index: Key | da.Array) -> Selection | None:
        """Resolve a key; None if only Dask understands it, or Dask is to raise the error."""
        items = index if isinstance(index, tuple) else (index,)
        if any(map(is_dask_collection, items)):
            return None
        try:
            return select(cast("Key", index), self.shape)
        except IndexError:
            return None


def _apply(key: tuple[Any, ...], array: da.Array) -> da.Array:
    """Have Dask apply what is left of a key: slices that reverse, at most one list, new axes."""
    with_new_axes = any(item is None for item in key)
    if with_new_axes and any(isinstance(item, np.ndarray) for item in key):
        # Of a list beside new axes Dask makes tasks that fail, for some chunks.
        array = Array.__getitem__(array, tuple(item for item in key if item is not None))
        kept = (item for item in key if not isinstance(item, int))
        key = tuple(None if item is None else slice(None) for item in kept)
    return cast("da.Array", Array.__getitem__(array, key))


def array_name(reader: PixelReader, window: Window, *, prefix: str = "fits") -> str:
    """Return the name of a window's array, by its pixels and chunks."""
    chunks = [np.asarray(lengths, np.int64) for lengths in window.chunks]
    if window.lengths == reader.shape and all(window.kept):
        return f"{prefix}-{tokenize(reader, chunks)}"
    return f"{prefix}-{tokenize(reader, chunks, window.axis_ranges, window.kept)}"
