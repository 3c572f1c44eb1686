"""Writing a mosaic into a zarr group, chunk by chunk."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_fits._typing import Chunks
from dask_fits.arrays.computations import compute_errors
from dask_fits.exceptions import FitsError
from dask_fits.mosaics.array import mosaic_window
from dask_fits.mosaics.inputs_table import with_errors
from dask_fits.mosaics.job import Job
from dask_fits.mosaics.outlines import Box
from dask_fits.mosaics.rendering import product_types, render
from dask_fits.wcs.attributes import HEADER, WCS_CARDS, WCS_TABLES
from dask_fits.wcs.header import card_lines

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.table import Table

    from dask_fits.writing.zarr_group import ZarrGroup

DIMS = ("y", "x")
"""Names of the axes."""


def write_mosaic(
    group: ZarrGroup,
    job: Job,
    chunks: Chunks,
    header: fits.Header,
    inputs: Table,
    *,
    overwrite: bool,
) -> dict[int, FitsError]:
    """Write a mosaic in Dask's current scheduler; see `Mosaic.to_zarr`.

    Returns
    -------
    errors : dict
        The errors of images that were left out, by their rows.
    """
    window = mosaic_window(job, chunks)
    # zarr has one length of chunks along an axis; a task writes whole ones.
    lengths = tuple(max(along) for along in window.chunks)
    types = product_types(job.recipe)
    fill_value = np.array(job.recipe.fill_value).astype(types["data"])[()]
    group.create(job.shape, lengths, fill_value, {}, overwrite=overwrite, dimension_names=DIMS)
    attributes = {HEADER: card_lines(header), WCS_CARDS: job.text.cards}
    if job.text.tables:
        attributes[WCS_TABLES] = job.text.tables
    for name, dtype in types.items():
        if name != "data":
            group.add_empty(name, job.shape, lengths, np.zeros((), dtype)[()], DIMS)
        group.describe(name, **attributes)
    for dim, length in zip(DIMS, job.shape, strict=True):
        group.add(dim, np.arange(length), (dim,), units="pixel")
    errors = _write(group, job, lengths)
    _add_inputs(group, with_errors(inputs, errors))
    group.finish()
    return errors


def _add_inputs(group: ZarrGroup, inputs: Table) -> None:
    """Add the columns of the table of images: numbers as arrays, texts as attributes.

    zarr has no type for text that all of its versions read.
    """
    texts: dict[str, list[str]] = {}
    for name in inputs.colnames:
        values = np.asarray(inputs[name])
        if values.dtype.kind in "OU":
            texts[f"input_{name}"] = [str(value) for value in values.tolist()]
        else:
            group.add(f"input_{name}", values, ("input",))
    group.describe_group(**texts)


def _write(group: ZarrGroup, job: Job, lengths: tuple[int, ...]) -> dict[int, FitsError]:
    """Write all chunks."""
    name = f"fits-mosaic-write-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = {}
    spans = [
        [(begin, min(begin + length, size)) for begin in range(0, size, length)]
        for size, length in zip(job.shape, lengths, strict=True)
    ]
    for y, x in itertools.product(*spans):
        graph[name, y[0], x[0]] = write_box, group, job.take((y, x)), (y, x)
    return compute_errors(name, graph, [*graph])


def write_box(group: ZarrGroup, job: Job, box: Box) -> Mapping[int, FitsError]:
    """Make a box of a mosaic and write it; return the errors of images that were left out."""
    rendered = render(job, box)
    at = tuple(slice(*span) for span in box)
    with group.driver_errors():
        for name, pixels in rendered.products.items():
            group.array(name)[at] = pixels
    return rendered.errors
