"""A picture of a mosaic."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING

import numpy as np

from dask_fits.arrays.computations import compute_all
from dask_fits.cli.preview import draw_pixels, write_png
from dask_fits.exceptions import FitsError
from dask_fits.mosaics.inputs_table import with_errors
from dask_fits.mosaics.mosaic import Mosaic
from dask_fits.mosaics.rendering import render
from dask_fits.planning.bands import spans_of

if TYPE_CHECKING:
    from astropy.table import Table


def draw_mosaic(mosaic: Mosaic, path: str, *, overwrite: bool) -> Table:
    """Make all of a mosaic, which has to be small, and draw it as a PNG file.

    Returns
    -------
    Table
        The mosaic's inputs, with the errors of those that could not be read.
    """
    job = mosaic._job  # noqa: SLF001 (the array of pixels does not tell what could not be read)
    boxes = [(y, x) for y, x in itertools.product(*spans_of(mosaic.data.chunks))]
    name = f"fits-mosaic-picture-{uuid.uuid4().hex}"
    graph = {(name, number): (render, job.take(box), box) for number, box in enumerate(boxes)}
    pixels = np.empty(mosaic.shape, mosaic.data.dtype)
    errors: dict[int, FitsError] = {}
    for box, rendered in zip(boxes, compute_all(name, graph, [*graph]), strict=True):
        pixels[tuple(slice(*span) for span in box)] = rendered.products["data"]
        errors |= rendered.errors
    write_png(draw_pixels(pixels), path, overwrite=overwrite)
    return with_errors(mosaic.inputs, errors)
