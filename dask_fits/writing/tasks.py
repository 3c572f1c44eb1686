"""What tasks do to write a file.

To a file system each block writes its runs where they belong. To an object store it uploads the
parts that end in it, the first of them with what the blocks before it have of that (their edges).
Parts with other bytes than pixels are joined by tasks of their own::

    part     |---- 1 ----|---- 2 ----|---- 3 ----|---- 4 ----|
    file     |header|  band 0   |        band 1         |pad |
    uploads   joined      band 1      band 1      joined
                          with the edge of band 0
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.exceptions import StorageError
from dask_fits.format.checksum import add_sums, sum32
from dask_fits.storage.sink import Attempt, Piece, Receipt, Sink
from dask_fits.writing.image_header import HeaderTemplate
from dask_fits.writing.pixels import BlockEncoder, BlockPlace, Target


@dataclass(frozen=True, slots=True)
class Written:
    """What a task that writes a block returns."""

    sum: int
    """Sum of the block's bytes at their places in the data unit."""
    receipts: list[Receipt]
    leftovers: dict[int, bytes] = field(default_factory=dict)
    """Bytes of parts that lie in the block in part, by the part's position."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a file holds besides pixels: a header, or a whole HDU that is at hand."""

    template: HeaderTemplate
    start: int
    """Position in the file."""
    data: bytes
    """A data unit that is at hand; empty if it is one of pixels."""
    padding: ByteSpan
    """Zeros behind the data unit."""

    def finished(self, sums: Iterable[int], late: bytes | None) -> bytes:
        """Return the bytes.

        Parameters
        ----------
        sums : iterable of int
            Those of the blocks of the data unit.
        late : bytes or None
            The data unit, if it is another than what was at hand.
        """
        data = self.data if late is None else late
        if len(data) != len(self.data):
            raise ValueError(f"found a table of {len(data)} bytes, expected {len(self.data)}")
        total = sum32(data) if data else add_sums(sums)
        return self.template.finished(total) + data


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Some bytes of the file."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Band:
    """A block that is one run of the file."""

    place: BlockPlace
    stop: int
    """Position in the file from which on a later block uploads its bytes."""


def write_block(
    sink: Sink, attempt: Attempt, target: Target, block: npt.NDArray[Any], place: BlockPlace
) -> Written:
    """Write the runs of a block to a file in which pieces may lie anywhere.

    Parameters
    ----------
    sink, attempt
        Where to.
    target : Target
        The data unit.
    block : array
    place : BlockPlace
        Where it is expected to lie in the whole array.
    """
    encoder = BlockEncoder(target, block, place)
    receipts = sink.write(attempt, encoder.runs())
    return Written(encoder.sum, receipts)


def write_band(
    sink: Sink,
    attempt: Attempt,
    target: Target,
    block: npt.NDArray[Any],
    band: Band,
    before: Sequence[tuple[int, bytes]],
) -> Written:
    """Upload the parts that end in a block, which is one run of the file; see `write_block`.

    Parameters
    ----------
    sink, attempt, target, block
        Those of `write_block`.
    band : Band
    before : sequence of (int, bytes)
        What blocks before it have of the first part, with their positions, in their order.
    """
    encoder = BlockEncoder(target, block, band.place)
    leftovers: dict[int, bytes] = {}
    runs = chain(((start, memoryview(piece)) for start, piece in before), encoder.runs())
    receipts = sink.write(attempt, _whole_parts(runs, attempt, band.stop, leftovers))
    return Written(encoder.sum, receipts, leftovers)


def edge_of(target: Target, block: npt.NDArray[Any], place: BlockPlace, start: int) -> bytes:
    """Return the last bytes of a block, which is one run of the file, from a position on."""
    # The block is cut along its first axis that has several indices.
    axis = next((n for n, length in enumerate(place.shape) if length > 1), 0)
    row = math.prod(place.shape[axis + 1 :]) * target.encoding.itemsize
    pixels = target.offset_of(place.starts) + math.prod(place.shape)
    stop = target.start + pixels * target.encoding.itemsize
    rows = min(-(-(stop - start) // row), place.shape[axis])
    first = place.shape[axis] - rows
    starts = (*place.starts[:axis], place.starts[axis] + first, *place.starts[axis + 1 :])
    shape = (*place.shape[:axis], rows, *place.shape[axis + 1 :])
    part = block[(slice(None),) * axis + (slice(first, None),)]
    encoder = BlockEncoder(target, part, BlockPlace(starts, shape))
    content = b"".join(bytes(piece) for _, piece in encoder.runs())
    return content[len(content) - (stop - start) :]


def _whole_parts(
    runs: Iterable[Piece], attempt: Attempt, stop: int, leftovers: dict[int, bytes]
) -> Iterator[Piece]:
    """Cut consecutive runs into parts; what is no whole part becomes one of the leftovers.

    Bytes from `stop` on are taken, so that they are added up, and dropped.
    """
    part_size = attempt.part_size or attempt.size
    buffer = np.empty(part_size, np.uint8).data
    start = filled = 0
    for position, run in runs:
        content = run[: max(stop - position, 0)]
        taken = 0
        while taken < len(content):
            if not filled:
                start = position + taken
            part = start - start % part_size
            count = min(len(content) - taken, part + part_size - start - filled)
            buffer[filled : filled + count] = content[taken : taken + count]
            filled += count
            taken += count
            if start + filled == part + part_size:
                if start == part:
                    yield start, buffer
                else:
                    leftovers[part] = bytes(buffer[:filled])
                filled = 0
    if filled:
        part = start - start % part_size
        if start == part and start + filled == attempt.size:
            yield start, buffer[:filled]
        else:
            leftovers[part] = bytes(buffer[:filled])


def write_head(
    sink: Sink, attempt: Attempt, head: Head, blocks: Sequence[Written], late: bytes | None
) -> list[Receipt]:
    """Write a header and the padding of its data unit, once all blocks have been written."""
    content = head.finished([written.sum for written in blocks], late)
    padding = head.padding
    receipts = sink.write(attempt, [(head.start, memoryview(content))])
    if padding.start < padding.stop:
        zeros = bytes(padding.stop - padding.start)
        receipts += sink.write(attempt, [(padding.start, memoryview(zeros))])
    return receipts


def finish_head(head: Head, sums: Sequence[int], late: bytes | None) -> bytes:
    """Return the bytes of a header, once the sums of all blocks are there."""
    return head.finished(sums, late)


def sum_of(written: Written) -> int:
    """Return the sum of a block, so that the block's result need not be kept for it."""
    return written.sum


def receipts_of(written: Written) -> list[Receipt]:
    """Return the receipts of a block; see `sum_of`."""
    return written.receipts


def leftover_of(written: Written, part: int) -> bytes:
    """Return what a block has of a part; see `sum_of`."""
    return written.leftovers[part]


def write_part(
    sink: Sink,
    attempt: Attempt,
    span: ByteSpan,
    wanted: int,
    pieces: Sequence[tuple[int, bytes]],
) -> list[Receipt]:
    """Join what blocks and headers have of a part, and upload it.

    Parameters
    ----------
    sink, attempt
        Where to.
    span : ByteSpan
        The part.
    wanted : int
        Its bytes that are no padding.
    pieces : sequence of (int, bytes)
        Bytes and their position in the file; they may reach beyond the part.
    """
    content = np.zeros(span.stop - span.start, np.uint8).data
    filled = 0
    for start, piece in pieces:
        low, high = max(start, span.start), min(start + len(piece), span.stop)
        content[low - span.start : high - span.start] = piece[low - start : high - start]
        filled += high - low
    if filled != wanted:
        raise StorageError(
            f"{sink.name}: bytes {span.start} to {span.stop}: found {filled} bytes, expected "
            f"{wanted}"
        )
    return sink.write(attempt, [(span.start, content)])


def flatten(nested: Sequence[Any]) -> list[Receipt]:
    """Return the receipts of all tasks as one list."""
    receipts: list[Receipt] = []
    for one in nested:
        if isinstance(one, Receipt):
            receipts.append(one)
        else:
            receipts += flatten(one.receipts if isinstance(one, Written) else one)
    return receipts
