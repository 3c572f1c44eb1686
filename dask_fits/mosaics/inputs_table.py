"""The table of a mosaic's images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from astropy.table import Table

from dask_fits.collections.collection import Collection
from dask_fits.exceptions import FitsError
from dask_fits.mosaics.job import Job


def inputs_table(
    collection: Collection, job: Job, pasted: Sequence[bool], errors: Mapping[int, FitsError]
) -> Table:
    """Make the table of images: a row for each of the collection."""
    count = len(collection)
    boxes = np.zeros((count, 4), np.int64)
    backgrounds, weights = np.zeros(count), np.ones(count)
    is_pasted = np.zeros(count, bool)
    height, width = job.shape
    found = job.outlines.boxes_on(job.shape)
    # Of images that only circles tell, some are on the other side of the sky.
    reaching = job.inputs_of(((0, height), (0, width)))
    found[np.setdiff1d(np.arange(len(found)), reaching)] = 0
    for item, box, paste in zip(job.inputs, found, pasted, strict=True):
        boxes[item.number] = box
        backgrounds[item.number], weights[item.number] = item.offset, item.weight
        is_pasted[item.number] = paste
    table = Table()
    table["file"] = collection.column("access_url").astype(str)
    table["hdu"] = collection.column("hdu")
    for number, name in enumerate(("y_begin", "y_end", "x_begin", "x_end")):
        table[name] = boxes[:, number]
    table["pasted"] = is_pasted
    table["background"] = backgrounds
    table["weight"] = weights
    table["status"] = np.full(count, "ok", "<U6")
    table["error"] = np.full(count, "", object)
    return with_errors(table, errors)


def with_errors(table: Table, errors: Mapping[int, FitsError]) -> Table:
    """Return the table with the errors of more images."""
    table = table.copy()
    for row, error in errors.items():
        table["status"][row] = "failed"
        table["error"][row] = str(error)
    return table
