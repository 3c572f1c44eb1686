"""Writing a stack into a zarr group, some frames at a time."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_fits.arrays.computations import compute_errors
from dask_fits.collections.collection import Collection
from dask_fits.exceptions import FitsError
from dask_fits.stacks.coordinates import frame_coordinates, image_dims
from dask_fits.stacks.reader import MAX_FRAMES, StackReader

if TYPE_CHECKING:
    from dask_fits.writing.zarr_group import ZarrGroup

_CHUNK_BYTES = 16 * 1024 * 1024
"""Bytes of a chunk of the array of pixels, at most."""

_TASK_BYTES = 64 * 1024 * 1024
"""Bytes of pixels that a task reads and writes, unless one frame has more."""

STATUS_NAMES = ("ok", "failed")
"""Statuses of a frame, by their numbers in the group."""


def write_stack(
    group: ZarrGroup, reader: StackReader, collection: Collection, *, overwrite: bool
) -> dict[int, FitsError]:
    """Write the frames of a stack in Dask's current scheduler; see `Stack.to_zarr`.

    Returns
    -------
    errors : dict
        The error of each frame that could not be read, by its index.
    """
    if reader.fill_value is None:
        reader = replace(reader, fill_value=np.nan if reader.dtype.kind in "fc" else 0)
    chunks = reader.contiguous_chunk(_CHUNK_BYTES)
    dims = image_dims(collection)
    frame_dim, coordinates = frame_coordinates(collection, dims)
    fill_value = np.array(reader.fill_value).astype(reader.dtype)[()]
    group.create(
        reader.shape,
        chunks,
        fill_value,
        {},
        overwrite=overwrite,
        dimension_names=(frame_dim, *dims),
    )
    errors = _write_pixels(group, reader, chunks[0])
    # In the names of a group a slash divides, and in the list of coordinates a blank.
    names = [re.sub(r"[\s/]", "_", coordinate.name) for coordinate in coordinates]
    for name, coordinate in zip(names, coordinates, strict=True):
        group.add(name, coordinate.stored, (frame_dim,), **coordinate.stored_attrs)
    status = np.array([row in errors for row in range(len(reader.frames))], np.int8)
    group.add(
        "status",
        status,
        (frame_dim,),
        errors={str(row): str(error) for row, error in sorted(errors.items())},
        flag_values=list(range(len(STATUS_NAMES))),
        flag_meanings=" ".join(STATUS_NAMES),
    )
    group.describe_pixels(coordinates=" ".join(names))
    group.finish()
    return errors


def _write_pixels(group: ZarrGroup, reader: StackReader, chunk: int) -> dict[int, FitsError]:
    """Write all pixels; `chunk` is the number of frames in a chunk of the group."""
    frame_bytes = max(math.prod(reader.frame_shape) * reader.dtype.itemsize, 1)
    # Tasks end where chunks do, so that no two of them write the same one.
    length = max(min(_TASK_BYTES // frame_bytes, MAX_FRAMES) // chunk, 1) * chunk
    # A task that writes is never the same as an earlier one.
    name = f"fits-write-{uuid.uuid4().hex}"
    count = len(reader.frames)
    graph: dict[Any, Any] = {}
    for start in range(0, count, length):
        frames = np.arange(start, min(start + length, count))
        graph[name, start] = write_frames, group, reader.take(0, frames), start
    return compute_errors(name, graph, [*graph])


def write_frames(group: ZarrGroup, reader: StackReader, start: int) -> Mapping[int, FitsError]:
    """Read frames and write them from an index on; return the errors of those that failed."""
    pixels, errors = reader.read_frames(...)
    with group.driver_errors():
        group.pixels()[start : start + len(pixels)] = pixels
    return {start + frame: error for frame, error in errors.items()}
