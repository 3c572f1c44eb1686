"""Writing a mosaic as a FITS file: its arrays, and the table of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from astropy.table import Table
from dask.delayed import Delayed, delayed

from dask_fits.exceptions import FitsError
from dask_fits.mosaics.array import mosaic_errors
from dask_fits.mosaics.inputs_table import with_errors
from dask_fits.writing.contents import contents_of
from dask_fits.writing.file_plan import FilePlan
from dask_fits.writing.image import Image
from dask_fits.writing.table import ERROR_WIDTH, table_content, table_rows, with_fixed_texts

if TYPE_CHECKING:
    from dask_fits._typing import Chunks
    from dask_fits.mosaics.job import Job

INPUTS = "INPUTS"
"""EXTNAME of the table of images."""


def plan_mosaic_file(
    images: list[Image], job: Job, chunks: Chunks, inputs: Table, name: str, *, checksum: bool
) -> tuple[FilePlan, Delayed | None]:
    """Plan the file of a mosaic; see `Mosaic.to_fits`.

    Parameters
    ----------
    images : list of Image
        Its arrays.
    job : Job
    chunks : Chunks
        Those of the arrays.
    inputs : Table
        A row for each image that it is made of.
    name : str
        Redacted name of the file, for messages.
    checksum : bool

    Returns
    -------
    plan : FilePlan
    errors : Delayed or None
        What computes the errors of images that are left out; None if none may be.
    """
    contents = contents_of(images, name, checksum=checksum)
    skips = job.recipe.skips
    widths = {"status": len("failed")} | ({"error": ERROR_WIDTH} if skips else {})
    table = table_content(with_fixed_texts(inputs, widths), INPUTS, name, checksum=checksum)
    errors = mosaic_errors(job, chunks) if skips else None
    if errors is not None:
        table = replace(table, late=delayed(_rows)(inputs, errors, widths))
    return FilePlan.of([*contents, table]), errors


def _rows(inputs: Table, errors: Mapping[int, FitsError], widths: dict[str, int]) -> bytes:
    """Return the rows of the table, with the errors of images that were left out."""
    return table_rows(with_fixed_texts(with_errors(inputs, errors), widths))
