"""Which parts of images are read, for the cutouts that there are."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from dask_fits.cutout import Mode
from dask_fits.exceptions import FitsError, FitsFormatError, TruncatedFileError
from dask_fits.many_cutouts.images import AT_ONCE, Image
from dask_fits.many_cutouts.table import Table
from dask_fits.many_cutouts.tasks import Read
from dask_fits.storage.byte_range import Coalescing

Integers = npt.NDArray[np.int64]


def all_reads(found: Sequence[Sequence[Image | FitsError]], table: Table, mode: Mode) -> list[Read]:
    """Plan the reads of all images; what cannot be read is noted in the table."""
    wanted = []
    for own, images in zip(table.rows, found, strict=True):
        for slot, image in enumerate(images):
            if isinstance(image, Image):
                placed = image.placed
                which = np.flatnonzero(placed.whole if mode == "strict" else placed.on)
                if len(which):
                    at = np.searchsorted(table.position[own], placed.numbers[which])
                    wanted.append((image, slot, own[at], which))

    def plan(one: tuple[Image, int, Integers, Integers]) -> tuple[list[Read], dict[int, FitsError]]:
        limits = one[0].hdu.store.coalescing
        # Where there are many images, each has its share of the connections.
        limits = replace(limits, few=limits.few // len(wanted))
        return _planned(*one, limits=limits, trim=mode == "trim")

    reads: list[Read] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (_, slot, _, _), (some, errors) in zip(wanted, pool.map(plan, wanted), strict=True):
            reads += some
            for row, error in errors.items():
                table.status[row, slot], table.error[row, slot] = "failed", error
    return reads


def _planned(
    image: Image, slot: int, rows: Integers, which: Integers, *, limits: Coalescing, trim: bool
) -> tuple[list[Read], dict[int, FitsError]]:
    """Plan the reading of some of an image's boxes.

    Returns
    -------
    reads : list of Read
    errors : dict
        Rows of the result that cannot be read, and why.
    """
    boxes, corner = image.boxes(which)
    reader = image.hdu.reader()
    kept, errors = np.arange(len(which)), {}
    try:
        batches = reader.batches(boxes, limits)
    except (FitsFormatError, TruncatedFileError):
        for n in kept.tolist():
            try:
                reader.batches(boxes.take(kept[n : n + 1]), limits)
            except FitsError as error:
                errors[int(rows[n])] = error
        kept = np.flatnonzero([row not in errors for row in rows.tolist()])
        batches = reader.batches(boxes.take(kept), limits)
    except FitsError as error:
        return [], dict.fromkeys(rows.tolist(), error)
    corner = np.zeros_like(corner) if trim else corner
    reads = []
    for batch in batches:
        own = kept[batch.boxes]
        reads.append(Read(reader, batch, boxes.take(own), rows[own], corner[own], slot))
    return reads, errors
