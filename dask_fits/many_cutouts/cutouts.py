"""The function `cutouts` and its result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from dask_fits._typing import FileSystem, Integers, Progress, Size
from dask_fits.arrays.banded import chunk_limit
from dask_fits.arrays.computations import watch_computations
from dask_fits.collections.collection import Collection
from dask_fits.collections.outcome import Outcome, values
from dask_fits.collections.sources import Source, are_several, find_sources, label
from dask_fits.cutout import Mode, check_fill, check_mode
from dask_fits.exceptions import FitsError
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.hdu import HduKey
from dask_fits.hints import explains_arguments
from dask_fits.many_cutouts.images import CutImage, Search, find_images, reject_other_shapes
from dask_fits.many_cutouts.reads import plan_reads
from dask_fits.many_cutouts.rows import STATUS, Rows, tabulate
from dask_fits.many_cutouts.stream import write_cutouts
from dask_fits.many_cutouts.targets import as_targets
from dask_fits.many_cutouts.tasks import (
    Bundle,
    Errors,
    Read,
    ResultSpec,
    assemble_or_raise,
    divide_reads,
    reading_tasks,
)
from dask_fits.planning.chunks import ReadPlan
from dask_fits.storage.place import utf8_name
from dask_fits.storage.redaction import redact_urls
from dask_fits.storage.transfer import TransferConfig
from dask_fits.writing.zarr import open_zarr

_MIN_CHUNK_ROWS = 64
"""Rows of a chunk of the result at least, if it can hold as many."""

_MAX_CHUNKS = 200
"""Chunks of the result at most, as long as they can hold more rows."""


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Cutouts around many positions: lazy pixels, world coordinates, and the status of each.

    There is a row for each position on each file that has a part of its cutout, by position and
    then by file, and one for each position that is on no file.
    """

    data: da.Array
    """The pixels: (rows, height, width), with the HDUs for second axis if several were requested,
    and with the images' other axes if they have more than two. Pixels off an image, or of cutouts
    that failed, are filled. A chunk reads what its rows need; one that cannot be read raises."""
    position: Integers
    """(rows,): index of the position."""
    file: Integers
    """(rows,): index in `files`; -1 if the position is on none."""
    files: tuple[str, ...]
    """Names of the files, patterns resolved."""
    status: npt.NDArray[np.str_]
    """(rows,) or (rows, hdus): ``ok``, ``partial`` if the cutout reaches over the image's edge,
    ``off`` if the position has no cutout there, or ``failed``."""
    error: npt.NDArray[np.object_]
    """An array of the shape of `status`: the exception if the cutout failed, else None."""
    failures: Mapping[str, FitsError]
    """The first error of each file of which an HDU could not be used, with positions or without."""
    plan: ReadPlan
    """Cost of reading all of `data`; its chunks are the tasks that read. The headers, and the
    tables of compressed images, have been read."""
    _rows: Rows = field(repr=False)
    _reads: tuple[Read, ...] = field(repr=False)
    _spec: ResultSpec = field(repr=False)
    _mode: Mode = field(repr=False)

    def __len__(self) -> int:
        return len(self.position)

    @property
    def wcs(self) -> WcsView:
        """World coordinates of each cutout: ``wcs[row]`` or ``wcs[row, hdu]``; None without one.

        ``wcs.error(row)`` is the reason if the keywords of a cutout's image make no WCS.
        """
        return WcsView(self._rows, self._mode)

    def to_zarr(
        self,
        store: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Cutouts:
        """Write all cutouts to a zarr group, file by file, in Dask's current scheduler.

        It holds ``data``, ``position`` and ``file`` as here, ``status`` as numbers (the attribute
        ``flag_meanings`` lists their names), and ``corner``, the pixel y, x of the image that is a
        cutout's first; as attributes the names of the files, and the errors of cutouts that failed.
        Each cutout is a chunk of its own. One that cannot be read is filled, and the others
        written. A group that has not been written to its end has an attribute ``incomplete``.

        Parameters
        ----------
        store : path or URL
            A directory, or a place in an object store.
        storage_options : mapping, optional
            Arguments of the fsspec filesystem that it is written to.
        overwrite : bool
            Replace a group that exists.

        Returns
        -------
        Cutouts
            The same with `status` and `error` as they are after writing.

        Raises
        ------
        FileExistsError
            Something is there, and `overwrite` is not set.
        MissingDriverError
            zarr is not installed.
        """
        group = open_zarr(store, storage_options)
        from dask_fits.many_cutouts.zarr_writer import ZarrWriter

        writer = ZarrWriter(group, self._spec)
        attributes = {"files": self._file_names(), "mode": self._mode}
        writer.create(len(self), attributes, overwrite=overwrite)
        errors = write_cutouts(self._reads, len(self), self._spec.row_bytes, lambda _: writer)
        done = self._with_errors(errors)
        group.add("position", self.position)
        group.add("file", self.file)
        group.add("corner", self._origins())
        flags = np.select([done.status == name for name in STATUS], range(len(STATUS)))
        messages = {
            " ".join(map(str, index)): str(error)
            for index, error in np.ndenumerate(done.error)
            if error is not None
        }
        group.add(
            "status",
            flags.astype(np.int8),
            errors=messages,
            flag_values=list(range(len(STATUS))),
            flag_meanings=" ".join(STATUS),
        )
        group.finish()
        return done

    def to_files(
        self,
        directory: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        fill_value: Fraction | float | None = None,
        overwrite: bool = False,
    ) -> Cutouts:
        """Write each cutout as a FITS file, in Dask's current scheduler.

        Stored values, keywords kept, world coordinates moved; see `dask_fits.writing.box`.
        HDUs of one row make one file, which is written whole or, if one of them cannot be read, not
        at all. ``cutouts.csv`` lists the status of each cutout.

        Parameters
        ----------
        directory : path
            It is made if it does not exist.
        names : sequence of str, optional
            Name of each position, by default its index; the file's index follows if a position has
            cutouts of several.
        fill_value : number, optional
            Physical value of pixels off an image; by default NaN, of integers BLANK. If an image
            has none, its partial cutouts fail.
        overwrite : bool
            Replace files that exist.

        Returns
        -------
        Cutouts
            The same with `status` and `error` as they are after writing.

        Raises
        ------
        FileExistsError
            One of the files exists, and `overwrite` is not set.
        ValueError
            The names are not one for each position, or not different.
        """
        from dask_fits.many_cutouts.fits_writer import FitsWriter

        writer = FitsWriter.of(self._rows, self._mode, Path(directory), names, fill_value)
        writer.prepare(overwrite=overwrite)
        # Other reads than those of `data`, since files get the values as they are stored.
        reads, errors = plan_reads(self._rows, self._mode, mask_and_scale=False)
        errors |= self._rows.errors
        make_writer = partial(writer.block_writer, errors)
        errors |= write_cutouts(reads, len(self), self._spec.row_bytes, make_writer)
        errors = writer.spread_over_rows(errors)
        writer.summarize(self._rows.with_errors(errors), self._file_names())
        return self._with_errors(errors)

    def _file_names(self) -> list[str]:
        """Return the names of the files as they can be written as UTF-8."""
        return [utf8_name(name) for name in self.files]

    def _origins(self) -> Integers:
        """Return the pixel y, x of the image that is each cutout's first; 0 if it has no image."""
        origins = np.zeros((*self._rows.status.shape, 2), np.int64)
        for row, slot in np.ndindex(self._rows.status.shape):
            if located := self._rows.locate(row, slot):
                image, box_index = located
                origins[row, slot] = image.origin(box_index, self._mode)
        return origins.reshape(*self.status.shape, 2)

    def _with_errors(self, errors: Errors) -> Cutouts:
        """Return the same with the status ``failed``, and the error, for some of the cutouts."""
        rows = self._rows.with_errors(errors)
        shape = self.status.shape
        return replace(
            self,
            status=rows.status.reshape(shape),
            error=rows.error.reshape(shape),
            _rows=rows,
        )

    def __repr__(self) -> str:
        names, counts = np.unique(self.status, return_counts=True)
        statuses = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
        return (
            f"<Cutouts {self.data.shape} {self.data.dtype}: {statuses or 'none'}; "
            f"{self.plan.requests} requests, {self.plan.bytes} bytes>"
        )


@dataclass(frozen=True, slots=True, eq=False)
class WcsView:
    """World coordinates of cutouts, each made when it is indexed."""

    rows: Rows
    mode: Mode

    def __len__(self) -> int:
        return len(self.rows.file)

    def __getitem__(self, index: int | tuple[int, int]) -> WCS | None:
        """Return the WCS of one cutout; None if it is off or failed, or its image has no WCS."""
        result = self._make_wcs(index)
        return result if isinstance(result, WCS) else None

    def error(self, index: int | tuple[int, int]) -> FitsError | None:
        """Return what `HDU.wcs` raises for the image of a cutout; None if it has a WCS."""
        result = self._make_wcs(index)
        return result if isinstance(result, FitsError) else None

    def _make_wcs(self, index: int | tuple[int, int]) -> WCS | FitsError | None:
        """Make the WCS of one cutout; return the error if that fails, None if there is no image."""
        row, slot = index if isinstance(index, tuple) else (index, 0)
        located = self.rows.locate(row, slot)
        if located is None:
            return None
        image, box_index = located
        return image.wcs(box_index, self.mode)


@explains_arguments
def cutouts(  # noqa: PLR0913 (each is a question that a caller has)
    files: Source | Iterable[Source] | Collection,
    positions: SkyCoord | npt.ArrayLike,
    size: Size,
    *,
    hdus: HduKey | Sequence[HduKey] | None = None,
    mode: Mode = "partial",
    fill_value: float | np.number[Any] = np.nan,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
    filesystem: FileSystem | None = None,
) -> Cutouts:
    """Plan cutouts around many positions out of many files, as one job; reads no pixels.

    The files' headers are read, many concurrently. Positions on the sky are matched with the
    images' footprints. Bytes that cutouts of an image share are read once, and bytes that lie close
    together as one range. The result is lazy: each of its tasks reads parts of some images.

    Parameters
    ----------
    files : path, URL, file object, FitsFile, HDU, or several of them; or Collection
        A ``*`` stands for all files that match. File objects are those that `dask_fits.open` takes.
        Each row of a collection is a file here, of one HDU, and no header is read.
    positions : SkyCoord or (n, 2) array
        On the sky, or pixel coordinates x, y from 0, which are cut out of every file.
    size : number, Quantity, or two of them
        Height and width of all cutouts, in pixels or as angles. An angle is resolved by the first
        image; one that makes another number of pixels of it (by more than one) fails.
    hdus : int, str, (str, int), or several of them, optional
        Image HDUs to cut out of each file; by default the first that holds an image. Several make
        another axis.
    mode : "partial", "trim" or "strict"
        Treatment of a cutout that reaches over the image's edge: the pixels off the image are
        filled; the pixels on the image come first along each axis, as `Cutout2D` trims, and the
        rest is filled; or none of it is read.
    fill_value : number
        Value of pixels that no image has. Integers have no NaN.
    storage_options, transfer
        See `dask_fits.open`; they are for all files that are not open yet.
    progress : callable, optional
        It is called with the number of files inspected so far, and the number of all.
    filesystem : fsspec filesystem, optional
        The filesystem on which the files are paths, instead of `storage_options`.

    Returns
    -------
    Cutouts

    Raises
    ------
    ValueError
        There is no file, the size or the mode is invalid, or pixels have to be filled and the
        images' type has no such value.
    FitsError
        None of the files can be used: the error of the first one. If some can, the others are in
        `Cutouts.failures`.

    Examples
    --------
    >>> import dask_fits
    >>> from astropy.coordinates import SkyCoord
    >>> stars = SkyCoord(["16h41m36s", "16h41m42s", "12h00m00s"], ["36d27m", "36d28m", "36d27m"])
    >>> found = dask_fits.cutouts("tests/data/m13.fits", stars, 32)
    >>> found.status
    array(['ok', 'ok', 'off'], dtype='<U7')
    >>> found.data
    dask.array<fits-cutouts, shape=(3, 32, 32), dtype=float32, chunksize=(3, 32, 32), ...>
    """
    check_mode(mode)
    several = are_several(hdus)
    keys = tuple(cast("Sequence[HduKey]", hdus)) if several else (cast("HduKey | None", hdus),)
    if not keys:
        raise ValueError("hdus: expected at least one")
    opener = partial(open_file, storage_options=storage_options, transfer=transfer)
    search = Search(as_targets(positions), size, keys, opener)
    sources: Sequence[Source]
    if isinstance(files, Collection):
        if hdus is not None:
            raise ValueError("hdus: expected none with a collection: its rows are the HDUs")
        names, sources = files.names(), files.sources()
    else:
        sources = list(find_sources(files, storage_options, filesystem))
        names = redact_urls([label(source) for source in sources])

    # From files to images, from images and positions to rows, from rows to reads.
    outcomes = reject_other_shapes(find_images(sources, search, progress))
    rows = tabulate(outcomes, search.targets, len(keys))
    reads, errors = plan_reads(rows, mode)
    rows = rows.with_errors(errors)

    # The common type of all images, as NumPy promotes them.
    images = values(outcomes)
    dtype = np.result_type(*(image.hdu.dtype for image in images))
    spec = ResultSpec(
        slots=len(keys) if several else None,
        shape=images[0].shape,
        dtype=dtype,
        fill_value=_usable_fill(fill_value, dtype, rows),
    )
    bundles = list(divide_reads(reads))
    plans = (ReadPlan.of_chunks(read.batch.plan for read in bundle) for bundle in bundles)
    slots = slice(None) if several else 0
    return Cutouts(
        data=_lazy_data(bundles, len(rows.file), spec),
        position=rows.position,
        file=rows.file,
        files=names,
        status=rows.status[:, slots],
        error=rows.error[:, slots],
        failures=_first_errors(names, outcomes),
        plan=ReadPlan.of_chunks(plans),
        _rows=rows,
        _reads=tuple(reads),
        _spec=spec,
        _mode=mode,
    )


def _usable_fill(
    fill_value: float | np.number[Any], dtype: np.dtype[Any], rows: Rows
) -> float | np.number[Any]:
    """Return the fill value, or 0 if the type has no such value and no cutout needs it.

    Raises
    ------
    ValueError
        The type has no such value, and some cutout needs it.
    """
    try:
        check_fill(fill_value, dtype, "cutouts that are partial, off or failed are filled")
    except ValueError:
        if (rows.status != "ok").any():
            raise
        return 0  # which no pixel gets, unless one turns out to be damaged
    return fill_value


def _first_errors(
    names: Sequence[str], outcomes: Iterable[Outcome[CutImage]]
) -> dict[str, FitsError]:
    """Return the first error of each file that has one, by the file's name."""
    first_errors: dict[str, FitsError] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            first_errors.setdefault(names[outcome.file], outcome.error)
    return first_errors


def _lazy_data(
    bundled_reads: Sequence[tuple[Read, ...]], row_count: int, spec: ResultSpec
) -> da.Array:
    """Make the lazy array: tasks that read bundles, and tasks that assemble the rows of a chunk."""
    watch_computations()
    # Few rows, for those who look at some of them; more of very many, of which each chunk may need
    # a part of every file.
    limit = chunk_limit() // max(spec.row_bytes, 1)
    length = max(1, min(limit, max(_MIN_CHUNK_ROWS, row_count // _MAX_CHUNKS)))
    # At least one block: an array of no rows has a chunk of length 0.
    blocks = [
        np.arange(start, min(start + length, row_count))
        for start in range(0, max(row_count, 1), length)
    ]
    # The blocks have one length, so that a row's block is a division.
    bundles = [Bundle(reads, [read.rows // length for read in reads]) for reads in bundled_reads]
    token = _result_token(bundled_reads, row_count, length, spec)
    graph, part_keys = reading_tasks(token, bundles, len(blocks))
    # Chunks divide the rows alone: along the other axes each is the first.
    name = f"fits-cutouts-{token}"
    zeros = (0,) * len(spec.row)
    for block, rows in enumerate(blocks):
        graph[name, block, *zeros] = assemble_or_raise, rows, spec, part_keys[block]
    chunks = (tuple(len(rows) for rows in blocks), *((length,) for length in spec.row))
    layers = HighLevelGraph.from_collections(name, graph)
    array: da.Array = da.Array(layers, name, chunks, dtype=spec.dtype)
    return array


def _result_token(
    bundled_reads: Sequence[tuple[Read, ...]], row_count: int, length: int, spec: ResultSpec
) -> str:
    """Return a token that is the same in every process for the same reads and chunks."""
    # A token of each read: what Dask makes of all of them at once takes more memory than they do.
    read_tokens = [
        tokenize(read.reader, read.boxes.first, read.boxes.stop, read.rows, read.offsets, read.slot)
        for reads in bundled_reads
        for read in reads
    ]
    token: str = tokenize(
        read_tokens,
        row_count,
        length,
        spec.slots,
        spec.shape,
        str(spec.dtype),
        repr(spec.fill_value),
    )
    return token
