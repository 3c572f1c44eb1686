"""The graph by which a file is written: a task for each block, headers, and parts between them."""

from __future__ import annotations

import itertools
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dask.array as da
import numpy as np
from dask import config
from dask.array.core import Array
from dask.base import collections_to_expr
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from dask_fits.arrays.banded import HELD_CHUNKS, chunk_limit
from dask_fits.planning.written_chunks import written_chunks
from dask_fits.storage.sink import Attempt, Sink
from dask_fits.writing.file_plan import FilePlan, PlacedHdu
from dask_fits.writing.pixels import BlockPlace, Target
from dask_fits.writing.tasks import (
    Band,
    ByteSpan,
    Head,
    edge_of,
    finish_head,
    flatten,
    leftover_of,
    receipts_of,
    sum_of,
    write_band,
    write_block,
    write_head,
    write_part,
)

_LEAST_RUN = 64 * 1024
"""Bytes of a run that a block writes to a file system; shorter ones cost more than joining blocks.
It is a small request where the disk is one of a cluster."""

_LEAST_BAND = 32 * 1024 * 1024
"""Bytes of a band of which parts are uploaded: the fewer its ends, the less has to be joined."""

Key = Hashable
Graph = dict[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class WriteGraph:
    """Tasks that write a file, those that make its pixels included."""

    name: str
    tasks: Graph
    key: Key
    """The last task; of `write_graph` it returns the list of all receipts."""

    def delayed(self) -> Delayed:
        """Return the last task as a Delayed."""
        graph = HighLevelGraph.from_collections(self.name, self.tasks)
        return Delayed(self.key, graph, layer=self.name)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of an array."""

    key: Key
    """Of the task that makes it."""
    index: tuple[int, ...]
    """Its number along each axis."""
    place: BlockPlace


def chunks_for(array: da.Array, itemsize: int, part_size: int | None) -> da.Array:
    """Return an array in the chunks in which it is written.

    Parameters
    ----------
    array : dask.array.Array
    itemsize : int
        Bytes of a pixel in the file.
    part_size : int or None
        Length of the parts of an object; None for a file system.
    """
    # What is held to join blocks are the array's own values, which may be longer than those in the
    # file; with more than that, short runs are written.
    held = HELD_CHUNKS * chunk_limit() // array.dtype.itemsize
    chunks = written_chunks(
        array.chunks,
        itemsize=itemsize,
        least=_LEAST_RUN if part_size is None else max(part_size, _LEAST_BAND),
        most=held * itemsize,
        contiguous=part_size is not None,
    )
    # With "p2p" a worker that is lost would have all of it begin anew.
    return array if chunks == array.chunks else array.rechunk(chunks, method="tasks")


def write_graph(plan: FilePlan, sink: Sink, attempt: Attempt | Key) -> WriteGraph:
    """Make the graph that writes a file.

    Parameters
    ----------
    plan : FilePlan
    sink : Sink
    attempt : Attempt or key
        The attempt, or the key of a task that begins one.
    """
    # Equal arrays may be written to two files at the same time, so each graph has its own name.
    name = f"fits-write-{uuid.uuid4().hex}"
    part_size = sink.part_size(plan.size)
    chunked = [_chunked(hdu, part_size) for hdu in plan.hdus]
    late = [hdu.content.late for hdu in plan.hdus if hdu.content.late is not None]
    graph, names = _materialized([array for array in chunked if array is not None], late)
    builder = _Builder(name, plan, sink, attempt, graph)
    for hdu, array in zip(plan.hdus, chunked, strict=True):
        blocks = [] if array is None else _blocks(next(names), array.chunks)
        builder.add(hdu, blocks, part_size)
    if part_size is not None:
        builder.add_parts(part_size)
    key = (name, "receipts")
    builder.tasks[key] = (flatten, builder.receipts)
    return WriteGraph(name, builder.tasks, key)


def _materialized(
    arrays: Sequence[da.Array], late: Sequence[Delayed]
) -> tuple[Graph, Iterator[str]]:
    """Return the tasks of arrays, optimized, and of tables; and the names of the arrays' chunks."""
    # A task that arrays and a table are made of must run once: in the graph of the arrays alone,
    # Dask would join it with the only one that follows it there.
    settings = {"optimization.fuse.active": False} if late else {}
    tasks: Graph = {}
    if da.Array is not Array:  # with array.query-planning, optimized arrays have other names
        arrays = [cast("Any", array).optimize() for array in arrays]
        for array in arrays:
            tasks.update(array.__dask_graph__())
    elif arrays:
        # All of them together, as `dask.compute` does it: else a task that several are made of
        # would be joined with what follows it in each, and run for each.
        with config.set(settings):
            tasks.update(collections_to_expr(arrays).optimize().__dask_graph__())
    for table in late:
        tasks.update(ensure_dict(table.__dask_graph__()))
    return tasks, iter([array.name for array in arrays])


def _chunked(hdu: PlacedHdu, part_size: int | None) -> da.Array | None:
    """Return the array of an HDU in the chunks in which it is written; None without pixels."""
    array, target = hdu.content.array, hdu.target
    if array is None or target is None or not array.size:
        return None
    return chunks_for(array, target.encoding.itemsize, part_size)


class _Builder:
    """Makes the tasks of a file."""

    def __init__(
        self, name: str, plan: FilePlan, sink: Sink, attempt: Attempt | Key, tasks: Graph
    ) -> None:
        self._name = name
        self._plan = plan
        self._sink = sink
        self._attempt = attempt
        self._number = 0
        self._pieces: dict[int, list[list[Any]]] = defaultdict(list)
        """What blocks and headers have of parts that are joined, by the part's position: each as
        its position and the key of its bytes."""
        self.tasks = tasks
        self.receipts: list[Key] = []
        """Keys of tasks whose results are receipts, or have some."""

    def add(self, hdu: PlacedHdu, blocks: Sequence[_Block], part_size: int | None) -> None:
        """Add the tasks of an HDU: its blocks and its header."""
        number = self._number
        self._number += 1
        if part_size is None:
            written = [self._add_block(hdu, block, number) for block in blocks]
        else:
            written = self._add_bands(hdu, blocks, number, part_size)
        late = None if hdu.content.late is None else hdu.content.late.key
        padding = ByteSpan(hdu.data_stop, hdu.stop)
        head = Head(hdu.content.header, hdu.start, hdu.content.data, padding)
        key = (self._name, "head", number)
        if part_size is None:
            self.tasks[key] = (write_head, self._sink, self._attempt, head, written, late)
            self.receipts += [*written, key]
            return
        sums = [self._add_small("sum", each, sum_of) for each in written]
        self.receipts += [self._add_small("uploaded", each, receipts_of) for each in written]
        self.tasks[key] = (finish_head, head, sums, late)
        stop = hdu.data_start + len(hdu.content.data)
        for part in range(hdu.start - hdu.start % part_size, stop, part_size):
            self._pieces[part].append([hdu.start, key])

    def _add_block(self, hdu: PlacedHdu, block: _Block, number: int) -> Key:
        """Add the task that writes a block to a file in which pieces may lie anywhere."""
        key = (self._name, "block", number, *block.index)
        common = self._sink, self._attempt, hdu.target
        self.tasks[key] = (write_block, *common, block.key, block.place)
        return key

    def _add_bands(
        self, hdu: PlacedHdu, blocks: Sequence[_Block], number: int, part_size: int
    ) -> list[Key]:
        """Add the tasks that upload the parts which end in blocks, in the order of the file."""
        written: list[Key] = []
        edges: list[list[Any]] = []  # what blocks have of the part that the next one begins in
        for block in blocks:
            key = (self._name, "block", number, *block.index)
            low, high = _byte_span(hdu, block.place)
            first, last = low - low % part_size, (high - 1) - (high - 1) % part_size
            before: list[list[Any]] = []
            stop = high
            if not self._is_pixels(hdu, first, part_size):
                self._add_piece(key, first, low)
            elif self._end(first, part_size) <= high:
                before, edges = edges, []
            if not self._is_pixels(hdu, last, part_size):
                if last > first:
                    self._add_piece(key, last, last)
            elif self._end(last, part_size) > high:
                # Of a block within a part this is all, and it uploads nothing.
                stop = max(last, low)
                edge = (self._name, "edge", *key[2:])
                self.tasks[edge] = (edge_of, hdu.target, block.key, block.place, stop)
                edges.append([stop, edge])
            common = self._sink, self._attempt, hdu.target
            self.tasks[key] = (write_band, *common, block.key, Band(block.place, stop), before)
            written.append(key)
        return written

    def _end(self, part: int, part_size: int) -> int:
        """Return the end of a part."""
        return min(part + part_size, self._plan.size)

    def _is_pixels(self, hdu: PlacedHdu, part: int, part_size: int) -> bool:
        """Return whether a part has nothing but pixels of an HDU."""
        return hdu.data_start <= part and self._end(part, part_size) <= hdu.data_stop

    def _add_piece(self, block: Any, part: int, start: int) -> None:
        """Add what a block has of a part that is joined, from a position on."""
        key = (self._name, "piece", *block[1:], part)
        self.tasks[key] = (leftover_of, block, part)
        self._pieces[part].append([start, key])

    def add_parts(self, part_size: int) -> None:
        """Add the tasks of the parts that are joined of several pieces, or are padding alone."""
        paddings = [(hdu.data_stop, hdu.stop) for hdu in self._plan.hdus]
        for start in range(0, self._plan.size, part_size):
            span = ByteSpan(start, self._end(start, part_size))
            zeros = sum(
                max(min(stop, span.stop) - max(first, span.start), 0) for first, stop in paddings
            )
            pieces = self._pieces.get(start, [])
            wanted = span.stop - span.start - zeros
            if pieces or not wanted:  # else a block uploads it
                key = (self._name, "part", start)
                self.tasks[key] = (write_part, self._sink, self._attempt, span, wanted, pieces)
                self.receipts.append(key)

    def _add_small(self, kind: str, block: Any, function: Callable[[Any], object]) -> Key:
        """Add a task that takes something small of a block's result."""
        key = (self._name, kind, *block[1:])
        self.tasks[key] = (function, block)
        return key


def _byte_span(hdu: PlacedHdu, place: BlockPlace) -> tuple[int, int]:
    """Return the bytes of the file that a block has which is one run."""
    target = cast("Target", hdu.target)
    low = hdu.data_start + target.offset_of(place.starts) * target.encoding.itemsize
    return low, low + math.prod(place.shape) * target.encoding.itemsize


def _blocks(name: str, chunks: tuple[tuple[int, ...], ...]) -> list[_Block]:
    """List the blocks of an array of a name."""
    firsts = [np.cumsum([0, *lengths[:-1]]).tolist() for lengths in chunks]
    blocks = []
    for index in itertools.product(*(range(len(lengths)) for lengths in chunks)):
        starts = tuple(first[n] for first, n in zip(firsts, index, strict=True))
        shape = tuple(lengths[n] for lengths, n in zip(chunks, index, strict=True))
        blocks.append(_Block((name, *index), index, BlockPlace(starts, shape)))
    return blocks
