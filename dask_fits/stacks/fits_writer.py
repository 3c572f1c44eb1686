"""Writing a stack as FITS: as a cube with a table of its frames, or each frame as a file."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.table import Table
from dask.base import optimize
from dask.delayed import Delayed, delayed
from dask.highlevelgraph import HighLevelGraph

from dask_fits.collections.collection import Collection
from dask_fits.exceptions import FitsError, renew
from dask_fits.file.hdu import HDU
from dask_fits.stacks.coordinates import first_image, frame_coordinates, shared_wcs
from dask_fits.stacks.reader import MAX_FRAMES, StackReader
from dask_fits.storage.sink import Sink
from dask_fits.writing.contents import contents_of
from dask_fits.writing.execution import write_file
from dask_fits.writing.file_plan import FilePlan
from dask_fits.writing.image import Image
from dask_fits.writing.image_header import without_wcs
from dask_fits.writing.table import ERROR_WIDTH, table_content, table_rows, with_fixed_texts

_TASK_BYTES = 64 * 1024 * 1024
"""Bytes of pixels that a task reads, unless one frame has more."""

_COLUMNS = frozenset({"file", "mjd", "hdu", "status", "error"})
"""Names of the columns of all such tables; a keyword of one of these names is called otherwise."""

FRAMES = "FRAMES"
"""EXTNAME of the table of frames."""

Errors = Mapping[int, FitsError]


def plan_cube(
    reader: StackReader,
    collection: Collection,
    data: da.Array | None,
    name: str,
    *,
    checksum: bool,
) -> tuple[FilePlan, Delayed | None]:
    """Plan the file of a cube; see `Stack.to_fits`.

    Parameters
    ----------
    reader : StackReader
    collection : Collection
        The images, in the order of the frames.
    data : dask.array.Array or None
        What is written instead of the frames themselves.
    name : str
        Redacted name of the file, for messages.
    checksum : bool

    Returns
    -------
    plan : FilePlan
    errors : Delayed or None
        What computes the errors of frames that are filled; None if none may be.
    """
    errors = None
    if data is None:
        data, errors = _read(reader)
    # The header of the first frame stands for all of them, but for a WCS that differs.
    row = shared_wcs(collection)
    hdu = collection[first_image(collection) if row is None else row]
    header = hdu if row is not None else without_wcs(hdu.original_header())
    image = Image(data, header=header)
    contents = contents_of([image], name, checksum=checksum)
    table = table_content(
        _frames_table(collection, collection.errors()), FRAMES, name, checksum=checksum
    )
    if errors is not None:
        table = replace(table, late=delayed(_rows)(collection, errors))
    return FilePlan.of([*contents, table]), errors


def _read(reader: StackReader) -> tuple[da.Array, Delayed | None]:
    """Return the pixels of all frames, and what computes the errors of those that are filled."""
    name = f"fits-frames-{uuid.uuid4().hex}"
    read, noted = f"{name}-read", f"{name}-errors"
    frame_bytes = max(math.prod(reader.frame_shape) * reader.dtype.itemsize, 1)
    length = max(min(_TASK_BYTES // frame_bytes, MAX_FRAMES), 1)
    rest = (0,) * len(reader.frame_shape)
    tasks: dict[Any, Any] = {}
    lengths: list[int] = []
    for number, start in enumerate(range(0, len(reader.frames), length)):
        frames = np.arange(start, min(start + length, len(reader.frames)))
        tasks[read, number] = _read_frames, reader.take(0, frames), start
        tasks[name, number, *rest] = _pixels_of, (read, number)
        tasks[noted, number] = _errors_of, (read, number)
        lengths.append(len(frames))
    tasks[noted] = _joined, [(noted, number) for number in range(len(lengths))]
    graph = HighLevelGraph.from_collections(name, tasks)
    chunks = (tuple(lengths), *((size,) for size in reader.frame_shape))
    array = da.Array(graph, name, chunks, dtype=reader.dtype)
    errors = None if reader.fill_value is None else Delayed(noted, graph, layer=name)
    return array, errors


def _read_frames(reader: StackReader, start: int) -> tuple[npt.NDArray[Any], Errors]:
    """Read frames; return their pixels, and the errors of those that were filled."""
    pixels, errors = reader.read_frames(...)
    return pixels, {start + frame: error for frame, error in errors.items()}


def _pixels_of(read: tuple[npt.NDArray[Any], Errors]) -> npt.NDArray[Any]:
    return read[0]


def _errors_of(read: tuple[npt.NDArray[Any], Errors]) -> Errors:
    return read[1]


def _joined(errors: Sequence[Errors]) -> dict[int, FitsError]:
    """Join the errors of all frames."""
    return {row: error for each in errors for row, error in each.items()}


def _frames_table(collection: Collection, errors: Errors) -> Table:
    """Make the table of frames: file, HDU, time, keywords, and what became of each."""
    table = Table()
    _, coordinates = frame_coordinates(collection)
    for coordinate in coordinates:
        # Dates as numbers of days; texts as they are.
        is_text = coordinate.values.dtype.kind == "O"
        name = coordinate.name
        # FITS does not tell columns apart by upper and lower case (Standard 4.0, section 7.3.2).
        name = f"frame_{name}" if name.isupper() and name.lower() in _COLUMNS else name
        table[name] = coordinate.values if is_text else coordinate.stored
    if "time" in table.colnames:  # as it is stored, in days
        table.rename_column("time", "mjd")
    table["hdu"] = collection.column("hdu")
    table["status"] = ["failed" if row in errors else "ok" for row in range(len(collection))]
    table["error"] = [str(errors.get(row, "")) for row in range(len(collection))]
    return with_fixed_texts(table, {"status": len("failed"), "error": ERROR_WIDTH})


def _rows(collection: Collection, errors: Errors) -> bytes:
    """Return the rows of the table, with the errors that were found."""
    return table_rows(_frames_table(collection, errors))


def frame_files(
    reader: StackReader,
    collection: Collection,
    data: da.Array | None,
    sinks: Sequence[Sink],
    *,
    checksum: bool,
) -> Delayed:
    """Return what writes each frame to a file: one task for each.

    Parameters
    ----------
    reader, collection, data
        Those of `plan_cube`.
    sinks : sequence of Sink
        The files.
    checksum : bool

    Returns
    -------
    Delayed
        It computes the errors of frames that were not written, by their index.
    """
    name = f"fits-write-frames-{uuid.uuid4().hex}"
    arrays = []
    if data is not None:
        whole = data.rechunk({0: 1, **dict.fromkeys(range(1, data.ndim), -1)})
        arrays = [*optimize(whole)]
    skips = reader.fill_value is not None
    tasks: dict[Any, Any] = {}
    # Some are the errors of files that could not be read when the stack was made.
    sources = collection.sources()
    for number, sink in enumerate(sinks):
        frame = reader.take(0, np.array([number]))
        block = None if not arrays else (arrays[0].name, number, *(0,) * (arrays[0].ndim - 1))
        writer = _FrameWriter(frame, sink, number, skips, checksum)
        tasks[name, number] = writer.write, sources[number], block
    tasks[name] = _joined, [(name, number) for number in range(len(sinks))]
    return Delayed(name, HighLevelGraph.from_collections(name, tasks, arrays), layer=name)


class _FrameWriter:
    """Writes one frame to a file."""

    def __init__(
        self,
        frame: StackReader,
        sink: Sink,
        number: int,
        skips: bool,  # noqa: FBT001 (private, next to the fields)
        checksum: bool,  # noqa: FBT001
    ) -> None:
        self._frame = frame
        self._sink = sink
        self._number = number
        self._skips = skips
        self._checksum = checksum

    def write(self, hdu: HDU | FitsError, block: npt.NDArray[Any] | None) -> Errors:
        """Write a frame, or a block that is made of it; return its error if it is left out."""
        try:
            if isinstance(hdu, FitsError):
                raise renew(hdu)
            if block is None:
                block, errors = self._frame.read_frames(...)
                if errors:
                    return {self._number: errors[0]}
            image = Image(block[0], header=hdu)
            contents = contents_of([image], self._sink.name, checksum=self._checksum)
        except FitsError as error:
            if not self._skips:
                raise
            return {self._number: error.with_traceback(None)}
        write_file(FilePlan.of(contents), self._sink, scheduler="sync")
        return {}
