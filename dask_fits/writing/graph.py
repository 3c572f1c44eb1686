"""The graph by which a file is written: a task for each block, headers, and parts between them."""

from __future__ import annotations

import itertools
import math
import uuid
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask import config
from dask.base import optimize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from dask.utils import parse_bytes

from dask_fits.planning.written_chunks import written_chunks
from dask_fits.storage.sink import Attempt, Sink
from dask_fits.writing.file_plan import FilePlan, PlacedHdu
from dask_fits.writing.pixels import BlockPlace
from dask_fits.writing.tasks import (
    ByteSpan,
    Head,
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

_HELD_CHUNKS = 8
"""Times `array.chunk-size`: what may be held to join blocks, before short runs are written."""

Key = Hashable
Graph = dict[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class WriteGraph:
    """Tasks that write a file."""

    name: str
    tasks: Graph
    arrays: list[Any]
    """The collections that the tasks depend on."""
    key: Key
    """The last task; of `write_graph` it returns the list of all receipts."""

    def delayed(self) -> Delayed:
        """Return the last task as a Delayed."""
        graph = HighLevelGraph.from_collections(self.name, self.tasks, self.arrays)
        return Delayed(self.key, graph, layer=self.name)


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
    if not array.size:
        return array
    chunks = written_chunks(
        array.chunks,
        itemsize=itemsize,
        least=_LEAST_RUN if part_size is None else max(part_size, _LEAST_BAND),
        most=_HELD_CHUNKS * parse_bytes(config.get("array.chunk-size")),
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
    arrays = tuple(array for array in chunked if array is not None)
    optimized = iter(optimize(*arrays))
    builder = _Builder(name, plan, sink, attempt)
    for hdu, array in zip(plan.hdus, chunked, strict=True):
        builder.add(hdu, None if array is None else next(optimized), part_size)
    if part_size is not None:
        builder.add_parts(part_size)
    key = (name, "receipts")
    builder.tasks[key] = (flatten, builder.receipts)
    return WriteGraph(name, builder.tasks, builder.arrays, key)


def _chunked(hdu: PlacedHdu, part_size: int | None) -> da.Array | None:
    """Return the array of an HDU in the chunks in which it is written; None without pixels."""
    array, target = hdu.content.array, hdu.target
    if array is None or target is None or not array.size:
        return None
    return chunks_for(array, target.encoding.itemsize, part_size)


class _Builder:
    """Makes the tasks of a file."""

    def __init__(self, name: str, plan: FilePlan, sink: Sink, attempt: Attempt | Key) -> None:
        self._name = name
        self._plan = plan
        self._sink = sink
        self._attempt = attempt
        self._pieces: dict[int, list[tuple[int, int, Key]]] = defaultdict(list)
        self._number = 0
        self.tasks: Graph = {}
        self.arrays: list[Any] = []
        self.receipts: list[Key] = []
        """Keys of tasks whose results are receipts, or have some."""

    def add(self, hdu: PlacedHdu, array: da.Array | None, part_size: int | None) -> None:
        """Add the tasks of an HDU: its blocks and its header."""
        number = self._number
        self._number += 1
        target = hdu.target
        head = Head(
            hdu.content.header,
            hdu.start,
            hdu.content.data,
            ByteSpan(hdu.data_stop, hdu.stop),
        )
        late = hdu.content.late
        if late is not None:
            self.arrays.append(late)
        late_key = None if late is None else late.key
        blocks: list[Key] = []
        if array is not None:
            self.arrays.append(array)
            for index, starts, shape in _blocks(array.chunks):
                key = (self._name, "block", number, *index)
                write = write_block if part_size is None else write_band
                block = (array.name, *index)
                place = BlockPlace(starts, shape)
                self.tasks[key] = (write, self._sink, self._attempt, target, block, place)
                blocks.append(key)
                if part_size is not None:
                    self._divide(key, hdu, starts, shape, part_size)
        key = (self._name, "head", number)
        if part_size is None:
            self.receipts += blocks
            self.tasks[key] = (
                write_head,
                self._sink,
                self._attempt,
                head,
                blocks,
                late_key,
            )
            self.receipts.append(key)
            return
        sums = [self._add_small("sum", block, sum_of) for block in blocks]
        self.receipts += [self._add_small("uploaded", block, receipts_of) for block in blocks]
        self.tasks[key] = (finish_head, head, sums, late_key)
        length = hdu.content.header.nbytes + len(hdu.content.data)
        for part in range(hdu.start // part_size, -(-(hdu.start + length) // part_size)):
            self._pieces[part * part_size].append((hdu.start, length, key))

    def add_parts(self, part_size: int) -> None:
        """Add the tasks of the parts that are joined of several pieces."""
        paddings = [(hdu.data_stop, hdu.stop) for hdu in self._plan.hdus]
        for start in range(0, self._plan.size, part_size):
            span = ByteSpan(start, min(start + part_size, self._plan.size))
            pieces = self._pieces.get(start, [])
            zeros = sum(
                max(min(stop, span.stop) - max(first, span.start), 0) for first, stop in paddings
            )
            if not pieces and zeros < span.stop - span.start:
                continue  # a block uploads it
            key = (self._name, "part", start)
            listed = [[first, piece] for first, _, piece in pieces]
            wanted = span.stop - span.start - zeros
            self.tasks[key] = (write_part, self._sink, self._attempt, span, wanted, listed)
            self.receipts.append(key)

    def _divide(
        self,
        block: Key,
        hdu: PlacedHdu,
        starts: tuple[int, ...],
        shape: tuple[int, ...],
        part_size: int,
    ) -> None:
        """Note the parts that lie in a block in part."""
        assert hdu.target is not None  # noqa: S101 (for the type checker)
        itemsize = hdu.target.encoding.itemsize
        strides = [math.prod(hdu.target.shape[axis + 1 :]) for axis in range(len(shape))]
        first = sum(start * stride for start, stride in zip(starts, strides, strict=True))
        low = hdu.data_start + first * itemsize
        high = low + math.prod(shape) * itemsize
        for part in {low - low % part_size, (high - 1) - (high - 1) % part_size}:
            stop = min(part + part_size, self._plan.size)
            if part < low or stop > high:
                key = (self._name, "piece", *block[1:], part)  # type: ignore[index]
                self.tasks[key] = (leftover_of, block, part)
                begin = max(part, low)
                self._pieces[part].append((begin, min(stop, high) - begin, key))

    def _add_small(self, kind: str, block: Any, function: Any) -> Key:
        """Add a task that takes something small of a block's result."""
        key = (self._name, kind, *block[1:])
        self.tasks[key] = (function, block)
        return key


def _blocks(
    chunks: tuple[tuple[int, ...], ...],
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Yield the index of each block, that of its first pixel, and its shape."""
    firsts = [np.cumsum([0, *lengths[:-1]]).tolist() for lengths in chunks]
    for index in itertools.product(*(range(len(lengths)) for lengths in chunks)):
        starts = tuple(first[n] for first, n in zip(firsts, index, strict=True))
        shape = tuple(lengths[n] for lengths, n in zip(chunks, index, strict=True))
        yield index, starts, shape
