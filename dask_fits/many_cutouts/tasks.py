"""What the tasks of many cutouts do: fetch parts of images, and put cutouts together."""

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
from dask_fits.readers.batch import Batch, Piece
from dask_fits.readers.reader import HduReader

_BUNDLE = 16
"""Batches of different images that one task reads, at the same time."""


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A part of one image, and where the cutouts in it belong."""

    reader: HduReader
    batch: Batch
    boxes: Boxes
    """The boxes that the batch holds pixels of, in the order of ``batch.boxes``."""
    rows: Integers
    """Row of the result of each."""
    corner: Integers
    """(n, ndim): where in its cutout each box begins."""
    slot: int
    """Place along the result's axis of HDUs."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds: what it fetches, or the cutouts' where they have more in common."""
        pixels = int((self.boxes.stop - self.boxes.first).prod(axis=1).sum())
        return max(self.batch.plan.bytes, pixels * self.reader.dtype.itemsize)

    def pieces(self) -> Iterator[tuple[int, tuple[slice, ...], npt.NDArray[Any] | FitsError]]:
        """Read, and give for a row a part of it and the pixels there, or why there are none."""
        try:
            # All of them: a part that turns out to be damaged spoils those that went before.
            found: list[Piece] = list(self.batch.read())
        except FitsFormatError:
            yield from self._one_by_one()
            return
        except FitsError as error:
            for row in self.rows.tolist():
                yield row, (), error
            return
        numbers = self.batch.boxes.tolist()
        places = dict(zip(numbers, self.rows.tolist(), strict=True))
        corners = {
            number: corner
            for number, corner in zip(numbers, self.corner.tolist(), strict=True)
            if any(corner)
        }
        for number, place, pixels in found:
            corner = corners.get(number)
            yield places[number], _moved(place, corner) if corner else place, pixels

    def _one_by_one(self) -> Iterator[tuple[int, tuple[slice, ...], npt.NDArray[Any] | FitsError]]:
        """Tell the cutouts that can be read from those that are damaged."""
        for n, row in enumerate(self.rows.tolist()):
            ends = zip(self.boxes.first[n].tolist(), self.boxes.stop[n].tolist(), strict=True)
            try:
                pixels = self.reader.read(Selection.of_box(tuple(range(*pair) for pair in ends)))
            except FitsError as error:
                yield row, (), error
            else:
                whole = [slice(0, length) for length in pixels.shape]
                yield row, _moved(whole, self.corner[n].tolist()), pixels


def _moved(place: Sequence[slice], by: Sequence[int]) -> tuple[slice, ...]:
    return tuple(
        slice(part.start + start, part.stop + start) for part, start in zip(place, by, strict=True)
    )


def bundled(reads: Sequence[Read]) -> Iterator[tuple[Read, ...]]:
    """Divide reads among tasks, so that none is too large and few are tiny."""
    held: list[Read] = []
    nbytes = 0
    for read in reads:
        more = read.nbytes
        if held and (nbytes + more > BATCH_BYTES or len(held) == _BUNDLE):
            yield tuple(held)
            held, nbytes = [], 0
        held.append(read)
        nbytes += more
    if held:
        yield tuple(held)


class Bundle:
    """What one task reads; pickled, it is packed until the task runs.

    A scheduler holds the tasks of all files, unpickled: as bytes they are a tenth.
    """

    __slots__ = ("_content", "blocks")

    def __init__(self, reads: tuple[Read, ...], block: Sequence[Integers]) -> None:
        """Note the blocks that need a part of some reads, by the block of each of their rows."""
        self.blocks: tuple[int, ...] = tuple(np.unique(np.concatenate(block)).tolist())
        self._content: tuple[tuple[Read, ...], tuple[Integers, ...]] | bytes = reads, tuple(block)

    def content(self) -> tuple[tuple[Read, ...], tuple[Integers, ...]]:
        """Give what is read, and the block of each row of each read."""
        if not isinstance(self._content, bytes):
            return self._content
        reads, block = cloudpickle.loads(zlib.decompress(self._content))
        return reads, block

    def __getstate__(self) -> tuple[tuple[int, ...], bytes]:
        content = self._content
        if not isinstance(content, bytes):
            content = zlib.compress(cloudpickle.dumps(content), 1)
        return self.blocks, content

    def __setstate__(self, state: tuple[tuple[int, ...], bytes]) -> None:
        self.blocks, self._content = state


Part = tuple[int, int, tuple[slice, ...], Any]
"""Row, place along the axis of HDUs, part of the cutout; its pixels, or an error."""


def fetch(bundle: Bundle) -> dict[int, list[Part]]:
    """Read a bundle: what each block needs of it."""
    reads, block = bundle.content()
    if len(reads) == 1:
        found = [list(reads[0].pieces())]
    else:
        with threads(len(reads)) as in_threads:
            found = list(in_threads(lambda read: list(read.pieces()), reads))
    parts: dict[int, list[Part]] = {block: [] for block in bundle.blocks}
    for read, blocks, pieces in zip(reads, block, found, strict=True):
        block_of = dict(zip(read.rows.tolist(), blocks.tolist(), strict=True))
        for row, place, pixels in pieces:
            parts[block_of[row]].append((row, read.slot, place, pixels))
    return parts


@dataclass(frozen=True, slots=True, eq=False)
class ResultSpec:
    """The form of cutouts."""

    slots: int | None
    """HDUs of each row; None where it is one, and makes no axis."""
    shape: tuple[int, ...]
    """Shape of a cutout of one HDU."""
    dtype: np.dtype[Any]
    fill_value: Any

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row of the result."""
        return self.shape if self.slots is None else (self.slots, *self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the result."""
        return math.prod(self.row) * self.dtype.itemsize


def assemble(
    rows: Integers, spec: ResultSpec, parts: Sequence[Sequence[Part]]
) -> tuple[npt.NDArray[Any], dict[tuple[int, int], FitsError]]:
    """Put some rows of a result together.

    Returns
    -------
    cutouts : (n, ...) array
    errors : dict
        Row and slot of each cutout that failed, which is filled, and why.
    """
    found = np.empty((len(rows), spec.slots or 1, *spec.shape), spec.dtype)
    found[...] = spec.fill_value
    errors: dict[tuple[int, int], FitsError] = {}
    local = {row: n for n, row in enumerate(rows.tolist())}
    for row, slot, place, pixels in itertools.chain.from_iterable(parts):
        if isinstance(pixels, FitsError):
            errors[row, slot] = pixels
        else:
            found[local[row], slot][place] = pixels
    for row, slot in errors:
        found[local[row], slot] = spec.fill_value
    return found.reshape(len(rows), *spec.row), errors


def assemble_or_raise(
    rows: Integers, spec: ResultSpec, parts: Sequence[Sequence[Part]]
) -> npt.NDArray[Any]:
    """Put some rows of a result together; the first cutout that failed raises."""
    found, errors = assemble(rows, spec, parts)
    if errors:
        raise errors[min(errors)]
    return found


def reading_tasks(
    name: str, bundles: Sequence[Bundle], blocks: int
) -> tuple[dict[Any, Any], list[list[Any]]]:
    """Make the tasks that read bundles, and the keys of the parts that each block is made of."""
    graph: dict[Any, Any] = {}
    parts: list[list[Any]] = [[] for _ in range(blocks)]
    for n, bundle in enumerate(bundles):
        read = f"read-{name}", n
        graph[read] = fetch, bundle
        for block in bundle.blocks:
            key = f"part-{name}", n, block
            graph[key] = operator.getitem, read, block
            parts[block].append(key)
    return graph, parts
