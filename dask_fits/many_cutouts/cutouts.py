"""The result of many cutouts, and the function that makes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from dask_fits._typing import FileSystem, Integers, Size
from dask_fits.arrays.banded import chunk_limit
from dask_fits.arrays.computations import watch_computations
from dask_fits.collections.outcome import Outcome, values
from dask_fits.collections.sources import Progress, Source, find_sources, label
from dask_fits.cutout import Mode, check_fill, check_mode
from dask_fits.exceptions import FitsError, MissingDriverError
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.hdu import HduKey
from dask_fits.hints import explains_arguments
from dask_fits.many_cutouts.images import Image, Search, find_images, reject_other_shapes
from dask_fits.many_cutouts.reads import all_reads
from dask_fits.many_cutouts.rows import STATUS, Rows, tabulate
from dask_fits.many_cutouts.stream import Errors, run
from dask_fits.many_cutouts.targets import as_targets
from dask_fits.many_cutouts.tasks import (
    Bundle,
    Read,
    ResultSpec,
    assemble_or_raise,
    bundled,
    reading_tasks,
)
from dask_fits.planning.chunks import ReadPlan
from dask_fits.storage.place import readable
from dask_fits.storage.redaction import redact_urls
from dask_fits.storage.transfer import TransferConfig

_CHUNK_ROWS, _CHUNKS = 64, 200
"""Rows that a chunk of the result has at least, and chunks that there are about at most."""


@dataclass(frozen=True, eq=False)
class Cutouts:
    """Cutouts around many positions: lazy pixels, world coordinates, and what became of each.

    There is a row for each position on each file that has a part of its cutout, by position and
    then by file, and one for each position that is on no file.
    """

    data: da.Array
    """The pixels: (rows, height, width), with the HDUs for second axis where several were asked
    for, and with the images' other axes where they have more than two. What is off an image, or
    failed, is filled. A chunk reads what its rows need; one that cannot be read raises."""
    position: Integers
    """(rows,): which of the positions."""
    file: Integers
    """(rows,): which of `files`; -1 where the position is on none."""
    files: tuple[str, ...]
    """Their names, patterns resolved."""
    status: npt.NDArray[np.str_]
    """(rows,) or (rows, hdus): ``ok``, ``partial`` where the cutout reaches over the image's edge,
    ``off`` where the position has no cutout there, or ``failed``."""
    error: npt.NDArray[np.object_]
    """Of the shape of `status`: the exception where it failed, else None."""
    failures: Mapping[str, FitsError]
    """Files of which some HDU could not be used, and why, positions on them or not."""
    plan: ReadPlan
    """What reading all of `data` costs; its chunks are the tasks that read. The headers, and the
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

        ``wcs.error(row)`` tells why a cutout has none, where its image's keywords make no WCS.
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
        ``flag_meanings`` tells of what), and ``corner``, the pixel y, x of the image that is a
        cutout's first; as attributes the names of the files, and why cutouts failed. Each cutout is
        a chunk of its own. One that cannot be read is filled, and the others written. A group that
        has not been written to its end has an attribute ``incomplete``.

        Parameters
        ----------
        store : path or URL
            A directory, or a place in an object store.
        storage_options : mapping, optional
            Arguments of the fsspec filesystem that it is written to.
        overwrite : bool
            Replace what is there.

        Returns
        -------
        Cutouts
            The same with the `status` and `error` that came of it.

        Raises
        ------
        FileExistsError
            Something is there, and `overwrite` is not set.
        MissingDriverError
            zarr is not installed.
        """
        try:
            from dask_fits.many_cutouts.zarr_writer import ZarrWriter
        except ImportError as error:
            hint = "pip install 'dask_fits[zarr]'"
            raise MissingDriverError(f"zarr is not installed: {hint}") from error
        options = None if storage_options is None else dict(storage_options)
        writer = ZarrWriter(os.fspath(store), options, self._spec)
        attributes = {"files": self._written_names(), "mode": self._mode}
        writer.create(len(self), attributes, overwrite=overwrite)
        errors = run(self._reads, len(self), self._spec.row_bytes, lambda _: writer)
        done = self._after(errors)
        writer.add("position", self.position)
        writer.add("file", self.file)
        writer.add("corner", self._corners())
        flags = np.select([done.status == name for name in STATUS], range(len(STATUS)))
        said = {
            " ".join(map(str, index)): str(error)
            for index, error in np.ndenumerate(done.error)
            if error is not None
        }
        meanings = {"flag_values": list(range(len(STATUS))), "flag_meanings": " ".join(STATUS)}
        writer.add("status", flags.astype(np.int8), errors=said, **meanings)
        writer.finish()
        return done

    def to_files(
        self,
        directory: str | os.PathLike[str],
        *,
        names: Sequence[str] | None = None,
        fill_value: Any = None,
        overwrite: bool = False,
    ) -> Cutouts:
        """Write each cutout as a FITS file, in Dask's current scheduler.

        Stored values, keywords kept, world coordinates moved; see `dask_fits.writing.box.cut_fits`.
        HDUs of one row make one file, which is written whole or, where one of them cannot be read,
        not at all. ``cutouts.csv`` lists what became of each.

        Parameters
        ----------
        directory : path
            Is made where there is none.
        names : sequence of str, optional
            Name of each position, by default its number; the file's number follows where a position
            has cutouts of several.
        fill_value : number, optional
            Physical value of pixels off an image; by default NaN, of integers BLANK. Where an image
            has none, its partial cutouts fail.
        overwrite : bool
            Replace files that exist.

        Returns
        -------
        Cutouts
            The same with the `status` and `error` that came of it.

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
        reads, errors = all_reads(self._rows, self._mode, mask_and_scale=False)
        errors |= self._rows.errors
        errors |= run(reads, len(self), self._spec.row_bytes, partial(writer.block, errors))
        errors = writer.of_whole_rows(errors)
        writer.summarize(self._rows.after(errors), self._written_names())
        return self._after(errors)

    def _written_names(self) -> list[str]:
        """Give the names of the files as they can be written as UTF-8."""
        return [readable(name) for name in self.files]

    def _corners(self) -> Integers:
        found = np.zeros((*self._rows.status.shape, 2), np.int64)
        for row, slot in np.ndindex(self._rows.status.shape):
            if at := self._rows.image(row, slot):
                found[row, slot] = at[0].origin(at[1], self._mode)
        return found.reshape(*self.status.shape, 2)

    def _after(self, errors: Errors) -> Cutouts:
        """Note what turned out to be unreadable."""
        rows = self._rows.after(errors)
        shape = self.status.shape
        status, error = rows.status.reshape(shape), rows.error.reshape(shape)
        return replace(self, status=status, error=error, _rows=rows)

    def __repr__(self) -> str:
        names, counts = np.unique(self.status, return_counts=True)
        told = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True))
        return (
            f"<Cutouts {self.data.shape} {self.data.dtype}: {told or 'none'}; {self.plan.requests} "
            f"requests, {self.plan.bytes} bytes>"
        )


@dataclass(frozen=True, slots=True, eq=False)
class WcsView:
    """The world coordinates of cutouts, each made when it is asked for."""

    rows: Rows
    mode: Mode

    def __len__(self) -> int:
        return len(self.rows.file)

    def __getitem__(self, index: int | tuple[int, int]) -> WCS | None:
        """Make the WCS of one cutout; None where it is off or failed, or its image has no WCS."""
        found = self._find(index)
        return found if isinstance(found, WCS) else None

    def error(self, index: int | tuple[int, int]) -> FitsError | None:
        """Tell what `HDU.wcs` raises for the image of a cutout; None where it has a WCS."""
        found = self._find(index)
        return found if isinstance(found, FitsError) else None

    def _find(self, index: int | tuple[int, int]) -> WCS | FitsError | None:
        row, slot = index if isinstance(index, tuple) else (index, 0)
        found = self.rows.image(row, slot)
        return found[0].wcs(found[1], self.mode) if found else None


@explains_arguments
def cutouts(  # noqa: PLR0913 (each is a question that a caller has)
    files: Source | Iterable[Source],
    positions: Any,
    size: Size,
    *,
    hdus: HduKey | Sequence[HduKey] | None = None,
    mode: Mode = "partial",
    fill_value: Any = np.nan,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
    filesystem: FileSystem | None = None,
) -> Cutouts:
    """Plan cutouts around many positions out of many files, as one job; reads no pixels.

    The files' headers are read, many at the same time. Positions on the sky are matched with the
    images' footprints. What the cutouts of an image have in common is read once, and what lies
    close together as one range. The result is lazy: its tasks read some images' parts each.

    Parameters
    ----------
    files : path, URL, file object, FitsFile, or several of them
        A ``*`` stands for whatever files match. File objects are those that `dask_fits.open` takes.
    positions : SkyCoord or (n, 2) array
        On the sky, or pixel coordinates x, y from 0, which are cut out of every file.
    size : number, Quantity, or two of them
        Height and width of all cutouts, in pixels or as angles. An angle is resolved by the first
        image; one that makes another number of pixels of it (by more than one) fails.
    hdus : int, str, (str, int), or several of them, optional
        Image HDUs to cut out of each file; by default the first that holds an image. Several make
        another axis.
    mode : "partial", "trim" or "strict"
        Of a cutout that reaches over the image's edge: what is off the image is filled; the pixels
        on the image come first along each axis, as `Cutout2D` trims, and the rest is filled; or
        none of it is read.
    fill_value : number
        Of pixels that no image has. Integers have no NaN.
    storage_options, transfer
        See `dask_fits.open`; of all files that are not open yet.
    progress : callable, optional
        Is called with the number of files looked at and the number of all.
    filesystem : fsspec filesystem, optional
        The filesystem on which the files are paths, instead of `storage_options`.

    Returns
    -------
    Cutouts

    Raises
    ------
    ValueError
        There is no file, the size or the mode cannot be understood, or pixels have to be filled and
        the images' type has no such value.
    FitsError
        None of the files can be used: what the first one raised. Where some can, the others are
        in `Cutouts.failures`.

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
    several = isinstance(hdus, Sequence) and not isinstance(hdus, str) and not _is_pair(hdus)
    keys: tuple[Any, ...] = tuple(hdus) if several else (hdus,)  # type: ignore[arg-type]
    if not keys:
        raise ValueError("hdus: expected at least one")
    opener = partial(open_file, storage_options=storage_options, transfer=transfer)
    search = Search(as_targets(positions), size, keys, opener)
    sources = list(find_sources(files, storage_options, filesystem))
    names = redact_urls([label(source) for source in sources])
    outcomes = reject_other_shapes(find_images(sources, search, progress))
    rows = tabulate(outcomes, search.targets, len(keys))
    reads, errors = all_reads(rows, mode)
    rows = rows.after(errors)
    images = values(outcomes)
    dtype = np.result_type(*(image.hdu.dtype for image in images))
    try:
        check_fill(fill_value, dtype, "cutouts that are partial, off or failed are filled")
    except ValueError:
        if (rows.status != "ok").any():
            raise
        fill_value = 0  # which no pixel gets, unless one turns out to be damaged
    spec = ResultSpec(len(keys) if several else None, images[0].shape, dtype, fill_value)
    tasks = list(bundled(reads))
    plans = (ReadPlan.of_chunks(read.batch.plan for read in some) for some in tasks)
    index = slice(None) if several else 0
    return Cutouts(
        data=_data(tasks, len(rows.file), spec),
        position=rows.position,
        file=rows.file,
        files=names,
        status=rows.status[:, index],
        error=rows.error[:, index],
        failures=_failures(names, outcomes),
        plan=ReadPlan.of_chunks(plans),
        _rows=rows,
        _reads=tuple(reads),
        _spec=spec,
        _mode=mode,
    )


def _is_pair(hdus: Sequence[Any]) -> bool:
    """Whether it is one HDU by name and version."""
    if not isinstance(hdus, tuple) or len(hdus) != 2:
        return False
    return isinstance(hdus[0], str) and hasattr(hdus[1], "__index__")


def _failures(names: Sequence[str], outcomes: Iterable[Outcome[Image]]) -> dict[str, FitsError]:
    """Tell why files could not be used: the first error of each."""
    failed: dict[str, FitsError] = {}
    for outcome in outcomes:
        if outcome.error is not None:
            failed.setdefault(names[outcome.file], outcome.error)
    return failed


def _data(tasks: Sequence[tuple[Read, ...]], count: int, spec: ResultSpec) -> da.Array:
    """Make the lazy array: tasks that read, and tasks that put the rows of a chunk together."""
    watch_computations()
    limit = chunk_limit() // max(spec.row_bytes, 1)
    # Few rows, for those who look at some of them; more of very many, of which each chunk may need
    # a part of every file.
    length = max(1, min(limit, max(_CHUNK_ROWS, count // _CHUNKS)))
    blocks = [np.arange(n, min(n + length, count)) for n in range(0, max(count, 1), length)]
    places = [  # a token of each: what Dask makes of all of them at once takes more than they do
        tokenize(r.reader, r.boxes.first, r.boxes.stop, r.rows, r.corner, r.slot)
        for some in tasks
        for r in some
    ]
    token = tokenize(
        places, count, length, spec.slots, spec.shape, str(spec.dtype), repr(spec.fill_value)
    )
    name = f"fits-cutouts-{token}"
    bundles = [Bundle(some, [r.rows // length for r in some]) for some in tasks]
    graph, parts = reading_tasks(token, bundles, len(blocks))
    for n, rows in enumerate(blocks):
        graph[name, n, *(0 for _ in spec.row)] = assemble_or_raise, rows, spec, parts[n]
    chunks = (tuple(len(rows) for rows in blocks), *((length,) for length in spec.row))
    layers = HighLevelGraph.from_collections(name, graph)
    array: da.Array = da.Array(layers, name, chunks, dtype=spec.dtype)
    return array
