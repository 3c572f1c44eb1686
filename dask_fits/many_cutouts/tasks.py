"""Tasks of many cutouts: fetch parts of images, and assemble cutouts of them.

From positions to rows of the result, from images to the parts that these are made of::

    position + file --> row ----------------------------------------------------> block (a task)
    file + slot ------> image --> batches --> reads --> bundle (a task) --> parts --^

Each noun has one meaning in this package::

    position   index of a position that the user gave
    file       index of a file; -1 for none
    slot       index of an HDU among those requested of each file
    row        row of the result: a position on a file
    box        pixels around a position, on an image or partly off it
    batch      byte ranges of one image, which are read together, and the boxes that they hold
    read       a batch, and the rows of its boxes
    bundle     the reads of one task
    piece      pixels of a box that a batch holds
    part       a piece by row and slot, or an error
    block      the rows that one task assembles or writes
"""

from __future__ import annotations

import itertools
import math
import operator
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import threads
from dask_fits.exceptions import FitsError, FitsFormatError
from dask_fits.planning.boxes import BATCH_BYTES, Boxes
from dask_fits.planning.selection import Selection
from dask_fits.readers.batch import Batch
from dask_fits.readers.reader import HduReader

_BUNDLE = 16
"""Reads that one task makes at most, concurrently."""

Part = tuple[int, int, tuple[slice, ...], npt.NDArray[Any] | FitsError]
"""A part of a cutout: row, slot, slices of the cutout, and the pixels there; or an error."""

Errors = dict[tuple[int, int], FitsError]
"""The errors of cutouts that failed, by row and slot."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A batch of one image, and the cutouts that its boxes belong to.

    The module `reads` lists the indices that number boxes.
    """

    reader: HduReader
    batch: Batch
    boxes: Boxes
    """(n, ndim): boxes that the batch holds pixels of, on the image, in its order."""
    rows: Integers
    """(n,): row of each box."""
    offsets: Integers
    """(n, ndim): first pixel of each box in its cutout."""
    slot: int

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory: those fetched, or those of the boxes if these are more."""
        pixels = int((self.boxes.stop - self.boxes.first).prod(axis=1).sum())
        return max(self.batch.plan.bytes, pixels * self.reader.dtype.itemsize)

    def parts(self) -> Iterator[Part]:
        """Read the batch, and yield the parts of the cutouts, or their errors."""
        try:
            # Before any part is yielded: a damaged tile must not leave half a cutout.
            pieces = list(self.batch.read())
        except FitsFormatError:
            # Some tile is damaged. The boxes that do not need it are still good.
            yield from self._parts_by_box()
            return
        except FitsError as error:
            for row in self.rows.tolist():
                yield row, self.slot, (), error
            return
        # A piece has the index of its box in the plan of the image, and slices of that box, which
        # is the part of a cutout that is on the image: it may begin within the cutout.
        plan_indices = self.batch.boxes.tolist()
        row_of_box = dict(zip(plan_indices, self.rows.tolist(), strict=True))
        offset_of_box = {
            plan_index: offset
            for plan_index, offset in zip(plan_indices, self.offsets.tolist(), strict=True)
            if any(offset)
        }
        for plan_index, slices, pixels in pieces:
            offset = offset_of_box.get(plan_index)
            in_cutout = _shift(slices, offset) if offset else slices
            yield row_of_box[plan_index], self.slot, in_cutout, pixels

    def _parts_by_box(self) -> Iterator[Part]:
        """Read each box by itself, so that only those that need damaged bytes fail."""
        for index, row in enumerate(self.rows.tolist()):
            first = self.boxes.first[index].tolist()
            stop = self.boxes.stop[index].tolist()
            box = tuple(range(*bounds) for bounds in zip(first, stop, strict=True))
            try:
                pixels = self.reader.read(Selection.of_box(box))
            except FitsError as error:
                yield row, self.slot, (), error
            else:
                whole_box = [slice(0, length) for length in pixels.shape]
                yield row, self.slot, _shift(whole_box, self.offsets[index].tolist()), pixels


def _shift(slices: Sequence[slice], offset: Sequence[int]) -> tuple[slice, ...]:
    """Shift slices along each axis by a number of pixels."""
    return tuple(
        slice(along.start + shift, along.stop + shift)
        for along, shift in zip(slices, offset, strict=True)
    )


def divide_reads(reads: Sequence[Read]) -> Iterator[tuple[Read, ...]]:
    """Divide reads among tasks, so that none is too large and few are tiny."""
    bundled: list[Read] = []
    nbytes = 0
    for read in reads:
        read_bytes = read.nbytes
        if bundled and (nbytes + read_bytes > BATCH_BYTES or len(bundled) == _BUNDLE):
            yield tuple(bundled)
            bundled = []
            nbytes = 0
        bundled.append(read)
        nbytes += read_bytes
    if bundled:
        yield tuple(bundled)


class Bundle:
    """The reads of one task, and the blocks that need them; compressed once it was pickled.

    A scheduler holds the tasks of all files. Unpickling a bundle there leaves its content as
    compressed bytes, a tenth of the objects; the task that runs unpacks them.
    """

    __slots__ = ("_content", "blocks")

    def __init__(self, reads: tuple[Read, ...], block_of_row: Sequence[Integers]) -> None:
        """Bundle reads; `block_of_row` is for each read the block of each of its rows."""
        self.blocks: tuple[int, ...] = tuple(np.unique(np.concatenate(block_of_row)).tolist())
        self._content: tuple[tuple[Read, ...], tuple[Integers, ...]] | bytes = (
            reads,
            tuple(block_of_row),
        )

    def content(self) -> tuple[tuple[Read, ...], tuple[Integers, ...]]:
        """Return the reads, and for each read the block of each of its rows."""
        if not isinstance(self._content, bytes):
            return self._content
        reads, block_of_row = cloudpickle.loads(zlib.decompress(self._content))
        return reads, block_of_row

    def __getstate__(self) -> tuple[tuple[int, ...], bytes]:
        content = self._content
        if not isinstance(content, bytes):
            content = zlib.compress(cloudpickle.dumps(content), 1)
        return self.blocks, content

    def __setstate__(self, state: tuple[tuple[int, ...], bytes]) -> None:
        self.blocks, self._content = state


def fetch(bundle: Bundle) -> dict[int, list[Part]]:
    """Make the reads of a bundle, concurrently; return the parts that each block needs."""
    reads, blocks_of_rows = bundle.content()
    if len(reads) == 1:
        parts_of_reads = [list(reads[0].parts())]
    else:
        with threads(len(reads)) as in_threads:
            parts_of_reads = list(in_threads(lambda read: list(read.parts()), reads))
    parts_of_block: dict[int, list[Part]] = {block: [] for block in bundle.blocks}
    for read, blocks, parts in zip(reads, blocks_of_rows, parts_of_reads, strict=True):
        block_of_row = dict(zip(read.rows.tolist(), blocks.tolist(), strict=True))
        for part in parts:
            row = part[0]
            parts_of_block[block_of_row[row]].append(part)
    return parts_of_block


@dataclass(frozen=True, slots=True, eq=False)
class ResultSpec:
    """The shape, type and fill value of the rows of a result."""

    slots: int | None
    """HDUs of each row; None if it is one, which makes no axis."""
    shape: tuple[int, ...]
    """Shape of a cutout of one HDU."""
    dtype: np.dtype[Any]
    fill_value: float | np.number[Any]
    """Value of the pixels that no image has."""

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row of the result."""
        return self.shape if self.slots is None else (self.slots, *self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the result."""
        return math.prod(self.row) * self.dtype.itemsize


def assemble(
    rows: Integers, spec: ResultSpec, parts_of_bundles: Sequence[Sequence[Part]]
) -> tuple[npt.NDArray[Any], Errors]:
    """Assemble the cutouts of the rows of a block from the parts that its bundles gave.

    Returns
    -------
    cutouts : (n, ...) array
    errors : dict
        Error of each cutout that failed, by row and slot; all of its pixels are filled.
    """
    # With an axis of slots always, of length 1 if the result has none.
    cutouts = np.empty((len(rows), spec.slots or 1, *spec.shape), spec.dtype)
    cutouts[...] = spec.fill_value
    errors: Errors = {}
    index_in_block = {row: index for index, row in enumerate(rows.tolist())}
    for row, slot, slices, pixels in itertools.chain.from_iterable(parts_of_bundles):
        if isinstance(pixels, FitsError):
            errors[row, slot] = pixels
        else:
            cutouts[index_in_block[row], slot][slices] = pixels
    # At the end, since parts from other bundles may have come before the error or after it.
    for row, slot in errors:
        cutouts[index_in_block[row], slot] = spec.fill_value
    return cutouts.reshape(len(rows), *spec.row), errors


def assemble_or_raise(
    rows: Integers, spec: ResultSpec, parts_of_bundles: Sequence[Sequence[Part]]
) -> npt.NDArray[Any]:
    """Assemble the cutouts of the rows of a block; raise the error of the first that failed."""
    cutouts, errors = assemble(rows, spec, parts_of_bundles)
    if errors:
        raise errors[min(errors)]
    return cutouts


def reading_tasks(
    name: str, bundles: Sequence[Bundle], block_count: int
) -> tuple[dict[Any, Any], list[list[Any]]]:
    """Make the tasks that read bundles.

    Returns
    -------
    graph : dict
        A task for each bundle, and one for each block that needs parts of it.
    part_keys : list of list
        Of each block the keys of the latter.
    """
    graph: dict[Any, Any] = {}
    part_keys: list[list[Any]] = [[] for _ in range(block_count)]
    for index, bundle in enumerate(bundles):
        read_key = f"read-{name}", index
        graph[read_key] = fetch, bundle
        for block in bundle.blocks:
            # A task of its own, so that a block is sent its own parts and not the whole bundle.
            part_key = f"part-{name}", index, block
            graph[part_key] = operator.getitem, read_key, block
            part_keys[block].append(part_key)
    return graph, part_keys
