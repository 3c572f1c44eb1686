"""Which parts of images are read, for the cutouts that there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dask_fits._typing import Integers
from dask_fits.collections.sources import MAX_CONCURRENT_FILES
from dask_fits.concurrency.cancellation import threads
from dask_fits.cutout import Mode
from dask_fits.exceptions import FitsError, FitsFormatError, TruncatedFileError
from dask_fits.many_cutouts.images import Image
from dask_fits.many_cutouts.rows import Rows
from dask_fits.many_cutouts.tasks import Read
from dask_fits.planning.boxes import BATCH_BYTES, Boxes
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.readers.batch import Batch
from dask_fits.readers.reader import HduReader

_LEAST = 256 * 1024
"""Bytes that a task fetches at least, where there are so many, however much it makes of them."""


def all_reads(
    rows: Rows, mode: Mode, *, mask_and_scale: bool = True
) -> tuple[list[Read], dict[tuple[int, int], FitsError]]:
    """Plan the reads of all images.

    Returns
    -------
    reads : list of Read
    errors : dict
        Row and slot of each cutout that cannot be read, and why.
    """
    wanted = []
    for outcome in rows.outcomes:
        image = outcome.value
        if image is None or 0 in image.shape:
            continue
        placed, own = image.placed, rows.rows[outcome.file]
        which = np.flatnonzero(placed.whole if mode == "strict" else placed.on)
        if len(which):
            at = np.searchsorted(rows.position[own], placed.positions[which])
            wanted.append(_Wanted(image, outcome.slot, own[at], which, mode, mask_and_scale))
    reads: list[Read] = []
    errors: dict[tuple[int, int], FitsError] = {}
    with threads(MAX_CONCURRENT_FILES) as in_threads:
        plan = partial(_Wanted.plan, images=len(wanted))
        for one, (some, failed) in zip(wanted, in_threads(plan, wanted), strict=True):
            reads += some
            errors |= {(row, one.slot): error for row, error in failed.items()}
    return reads, errors


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """Some boxes of an image."""

    image: Image
    slot: int
    rows: Integers
    """Row of the result of each."""
    which: Integers
    """Which of the image's boxes they are."""
    mode: Mode
    mask_and_scale: bool

    def plan(self, *, images: int) -> tuple[list[Read], dict[int, FitsError]]:
        """Plan their reading: the reads, and why rows cannot be read.

        `images` is the number of images that share the connections.
        """
        limits = self.image.hdu.store.coalescing
        limits = replace(limits, few=limits.few // images)
        boxes, corner = self.image.boxes(self.which)
        if self.mode == "trim":
            corner[...] = 0
        reader = self.image.hdu.reader(mask_and_scale=self.mask_and_scale)
        kept, errors = np.arange(len(boxes)), {}
        try:
            batches = _batches(reader, boxes, limits)
            if batches is None:
                errors = self._damaged(reader, boxes, limits)
                kept = np.flatnonzero([row not in errors for row in self.rows.tolist()])
                batches = _divided(reader, boxes.take(kept), limits)
        except FitsError as error:
            return [], dict.fromkeys(self.rows.tolist(), error)
        reads = []
        for batch in batches:
            own = kept[batch.boxes]
            places = boxes.take(own), self.rows[own], corner[own]
            reads.append(Read(reader, batch, *places, self.slot))
        return reads, errors

    def _damaged(self, reader: HduReader, boxes: Boxes, limits: Coalescing) -> dict[int, FitsError]:
        """Tell the boxes that cannot be read from those that can: rows, and why."""
        errors: dict[int, FitsError] = {}
        for n, row in enumerate(self.rows.tolist()):
            try:
                reader.batches(boxes.take(np.array([n])), limits)
            except (FitsFormatError, TruncatedFileError) as error:
                errors[row] = error
        return errors


def _batches(reader: HduReader, boxes: Boxes, limits: Coalescing) -> list[Batch] | None:
    """Plan the reading of boxes; None where some of them are damaged."""
    try:
        return _divided(reader, boxes, limits)
    except (FitsFormatError, TruncatedFileError):
        return None


def _divided(reader: HduReader, boxes: Boxes, limits: Coalescing) -> list[Batch]:
    """Plan the reading of boxes, in small parts where the boxes have most of their bytes in common.

    What a task makes of its bytes may be many times as much as these.
    """
    found = reader.batches(boxes, limits)
    fetched = sum(batch.plan.bytes for batch in found)
    made = int((boxes.stop - boxes.first).prod(axis=1).sum()) * reader.dtype.itemsize
    if made <= BATCH_BYTES or made <= 2 * fetched:
        return found
    most = max(BATCH_BYTES * fetched // made, _LEAST)
    return reader.batches(
        boxes, replace(limits, max_bridged=min(limits.max_bridged, most)), most=most
    )
