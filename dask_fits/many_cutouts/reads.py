"""Planning the reads of many cutouts: the boxes on all images, divided into batches.

The boxes of one image are numbered in four ways, each a selection of the one before::

    box_index       around positions, on the image or off it    PlacedBoxes
      | box_indices
    request_index   to be read                                  _BoxRequest
      | readable
    plan_index      not damaged, and so planned                 Batch.boxes, pieces of a batch
      | batch.boxes
    index           with pixels in one batch                    Read
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dask_fits._typing import Integers
from dask_fits.collections.sources import MAX_CONCURRENT_FILES
from dask_fits.concurrency.cancellation import threads
from dask_fits.cutout import Mode
from dask_fits.exceptions import FitsError, FitsFormatError, TruncatedFileError
from dask_fits.many_cutouts.images import CutImage
from dask_fits.many_cutouts.rows import Rows
from dask_fits.many_cutouts.tasks import Errors, Read
from dask_fits.planning.boxes import BATCH_BYTES, Boxes
from dask_fits.ranges.byte_range import Coalescing
from dask_fits.readers.batch import Batch
from dask_fits.readers.reader import HduReader

_MIN_BATCH_BYTES = 256 * 1024
"""Bytes that a batch is not made smaller than, however many pixels come of them."""


def plan_reads(rows: Rows, mode: Mode, *, mask_and_scale: bool = True) -> tuple[list[Read], Errors]:
    """Plan the reads of all images.

    Returns
    -------
    reads : list of Read
    errors : dict
        Error of each cutout that cannot be read, by row and slot.
    """
    requests = list(_box_requests(rows, mode, mask_and_scale=mask_and_scale))
    reads: list[Read] = []
    errors: Errors = {}
    # In threads, since planning a compressed image may read more rows of its table of tiles.
    plan = partial(_BoxRequest.plan, image_count=len(requests))
    with threads(MAX_CONCURRENT_FILES) as in_threads:
        plans = in_threads(plan, requests)
        for request, (image_reads, row_errors) in zip(requests, plans, strict=True):
            reads += image_reads
            errors |= {(row, request.slot): error for row, error in row_errors.items()}
    return reads, errors


def _box_requests(rows: Rows, mode: Mode, *, mask_and_scale: bool) -> Iterator[_BoxRequest]:
    """Make the requests of all images with boxes that are to be read."""
    for outcome in rows.outcomes:
        image = outcome.value
        if image is None or 0 in image.shape:
            continue
        placed = image.placed
        box_indices = np.flatnonzero(placed.whole if mode == "strict" else placed.on)
        if not len(box_indices):
            continue
        # From boxes to positions to rows: a file has each position once, and its rows are sorted
        # by them.
        file_rows = rows.rows_of_file[outcome.file]
        indices = np.searchsorted(rows.position[file_rows], placed.positions[box_indices])
        yield _BoxRequest(
            image=image,
            slot=outcome.slot,
            rows=file_rows[indices],
            box_indices=box_indices,
            mode=mode,
            mask_and_scale=mask_and_scale,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _BoxRequest:
    """Boxes of one image that are to be read, and the rows that they belong to."""

    image: CutImage
    slot: int
    rows: Integers
    """(n,): row of each box."""
    box_indices: Integers
    """(n,): index of each box on the image."""
    mode: Mode
    mask_and_scale: bool

    def plan(self, *, image_count: int) -> tuple[list[Read], dict[int, FitsError]]:
        """Plan the reads of the boxes; return them, and the errors of rows that cannot be read.

        `image_count` is the number of images that share the connections.
        """
        limits = self.image.hdu.store.coalescing
        # The images are read concurrently, so that fewer ranges of each are fetched at once.
        limits = replace(limits, connections=limits.connections // image_count)
        boxes, clip_offsets = self.image.clip(self.box_indices)
        # A trimmed cutout begins with the first pixel on the image, wherever its box begins.
        offsets = np.zeros_like(clip_offsets) if self.mode == "trim" else clip_offsets
        reader = self.image.hdu.reader(mask_and_scale=self.mask_and_scale)
        try:
            batches, readable, errors = self._plan_batches(reader, boxes, limits)
        except FitsError as error:
            return [], dict.fromkeys(self.rows.tolist(), error)
        reads = []
        for batch in batches:
            # A batch numbers the boxes that were planned, which are the readable ones.
            request_indices = readable[batch.boxes]
            reads.append(
                Read(
                    reader=reader,
                    batch=batch,
                    boxes=boxes.take(request_indices),
                    rows=self.rows[request_indices],
                    offsets=offsets[request_indices],
                    slot=self.slot,
                )
            )
        return reads, errors

    def _plan_batches(
        self, reader: HduReader, boxes: Boxes, limits: Coalescing
    ) -> tuple[list[Batch], Integers, dict[int, FitsError]]:
        """Plan the batches of the boxes that can be read.

        Returns
        -------
        batches : list of Batch
        readable : (n,) int64 array
            Indices in this request of the boxes that can be read.
        errors : dict
            Errors of the others, by row.
        """
        try:
            return _divide_boxes(reader, boxes, limits), np.arange(len(boxes)), {}
        except (FitsFormatError, TruncatedFileError):
            pass  # some box is damaged; planned one by one, the others turn out to be good
        errors = self._damaged_boxes(reader, boxes, limits)
        readable = np.flatnonzero([row not in errors for row in self.rows.tolist()])
        return _divide_boxes(reader, boxes.take(readable), limits), readable, errors

    def _damaged_boxes(
        self, reader: HduReader, boxes: Boxes, limits: Coalescing
    ) -> dict[int, FitsError]:
        """Plan each box by itself; return the errors of those that are damaged, by row."""
        errors: dict[int, FitsError] = {}
        for request_index, row in enumerate(self.rows.tolist()):
            try:
                reader.batches(boxes.take(np.array([request_index])), limits)
            except (FitsFormatError, TruncatedFileError) as error:
                errors[row] = error
        return errors


def _divide_boxes(reader: HduReader, boxes: Boxes, limits: Coalescing) -> list[Batch]:
    """Divide boxes into batches: small ones if the boxes have most of their bytes in common.

    The cutouts that a task makes may be many times as large as the bytes that it fetches.
    """
    batches = reader.batches(boxes, limits)
    fetched_bytes = sum(batch.plan.bytes for batch in batches)
    pixels = int((boxes.stop - boxes.first).prod(axis=1).sum())
    cutout_bytes = pixels * reader.dtype.itemsize
    if cutout_bytes <= BATCH_BYTES or cutout_bytes <= 2 * fetched_bytes:
        return batches
    # As many bytes as make `BATCH_BYTES` of cutouts on average; a range must not join more either.
    most = max(BATCH_BYTES * fetched_bytes // cutout_bytes, _MIN_BATCH_BYTES)
    max_bridged = min(limits.max_bridged, most)
    return reader.batches(boxes, replace(limits, max_bridged=max_bridged), most=most)
