"""`stack` and its result: the images of many files as one lazy array."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt

from dask_fits._typing import Chunks, Progress
from dask_fits.arrays.computations import watch_computations
from dask_fits.collections.choice import OnError, order_by, rows_of_hdu, treat_failures
from dask_fits.collections.collection import Collection
from dask_fits.collections.columns import FIXED
from dask_fits.collections.opening import as_keywords, describe_files, open_described
from dask_fits.collections.record import Inspection
from dask_fits.exceptions import FitsError, FitsFormatError
from dask_fits.file.hdu import HduKey
from dask_fits.hints import explains_arguments
from dask_fits.planning.chunks import ReadPlan
from dask_fits.readers.reader import HduReader
from dask_fits.stacks.array import plan_stack, stack_array
from dask_fits.stacks.collection_frames import HeldFrames, NotedFrames
from dask_fits.stacks.coordinates import first_image
from dask_fits.stacks.frames import Frames
from dask_fits.stacks.reader import FillValue, StackReader
from dask_fits.storage.place import FilePath, is_one_file
from dask_fits.storage.redaction import redact_url
from dask_fits.storage.sinks import sink_of
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    import xarray as xr
    from astropy.table import Table
    from dask.delayed import Delayed


@dataclass(frozen=True, eq=False)
class Stack:
    """The images of many files as one lazy array: frames first, then the axes of an image."""

    data: da.Array
    """The pixels: (N, ...), with the axes of each image in NumPy order. Whatever is selected of it,
    along any axis, reads just that of the files that are concerned."""
    collection: Collection
    """The images, in the order of the frames."""
    dropped: Mapping[str, FitsError]
    """The errors of files that were left out, by path or URL; empty unless that was asked for."""
    status: npt.NDArray[np.str_]
    """(N,): ``ok``, or ``failed`` if it is known that a frame cannot be read, or not all of it."""
    error: npt.NDArray[np.object_]
    """(N,): the exception of each frame that failed, else None."""
    _reader: StackReader = field(repr=False)
    _chunks: Chunks = field(repr=False)

    def __len__(self) -> int:
        return len(self.collection)

    @property
    def table(self) -> Table:
        """A row for each frame, as an `astropy.table.Table`: the collection's, and its keywords."""
        return self.collection.table

    @property
    def plan(self) -> ReadPlan:
        """Cost of reading all of `data`; tables of compressed images may be read for it."""
        return plan_stack(self._reader, self._chunks, like=_first_reader(self.collection))

    def to_xarray(self) -> xr.Dataset:
        """Return the stack as an `xarray.Dataset`.

        Its variable is ``data``, with a dimension ``time`` if all frames have a time, else
        ``file``, before those of an image. Coordinates along it are ``time`` (the begin of the
        exposure, in UTC), ``file`` (path or URL) and the keywords. If all frames have one WCS, the
        Dataset has its coordinates, as those that `xarray.open_dataset` makes, and ``.fits.wcs``;
        else the numbers of pixels.

        Raises
        ------
        MissingDriverError
            xarray is not installed.
        """
        from dask_fits.stacks.dataset import make_dataset

        return make_dataset(self.data, self.collection)

    def to_zarr(
        self,
        store: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Stack:
        """Write the stack to a zarr group, some frames at a time, in Dask's current scheduler.

        It holds ``data`` and a column of each keyword, ``time``, ``file``, and ``status`` (0 for a
        frame that was read, 1 for one that failed); the errors are its attributes. A frame that
        cannot be read is filled, with NaN or the fill value, and the others are written; without
        either, for integers, it is 0. A group that has not been written to its end has an attribute
        ``incomplete``. `xarray.open_zarr` opens it.

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
        Stack
            The same with `status` and `error` as they are after writing.

        Raises
        ------
        FileExistsError
            Something is there, and `overwrite` is not set.
        MissingDriverError
            zarr is not installed.
        """
        from dask_fits.stacks.zarr_writer import write_stack
        from dask_fits.writing.zarr import open_zarr

        group = open_zarr(store, storage_options)
        errors = write_stack(group, self._reader, self.collection, overwrite=overwrite)
        status, error = statuses(len(self), errors)
        return replace(self, status=status, error=error)

    def to_fits(  # noqa: PLR0913 (each is a question that a caller has)
        self,
        url: FilePath | Sequence[FilePath],
        *,
        data: da.Array | None = None,
        overwrite: bool = False,
        checksum: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        transfer: TransferConfig | None = None,
        compute: bool = True,
    ) -> Stack | Delayed:
        """Write the stack to one FITS file as a cube, or each frame to a file of its own.

        A cube has the header of the first frame, with its WCS if all frames have the same, and
        behind it the table FRAMES, which has file, time and keywords of each frame, and its status.
        A file of a frame has the frame's header, and the tables that its WCS refers to. A frame
        that cannot be read is filled, as in `data`, and noted; it has no file of its own.

        Parameters
        ----------
        url : path or URL, or sequence of them
            The file; or a file for each frame.
        data : dask.array.Array, optional
            What is written instead of the pixels themselves, such as ``stack.data - bias``, with as
            many frames. Of these, pixels that cannot be read are as `data` has them, and not noted.
        overwrite, checksum, storage_options, transfer
            See `dask_fits.to_fits`.
        compute : bool
            False returns a `dask.delayed.Delayed` that writes when it is computed.

        Returns
        -------
        Stack or Delayed
            The same stack, with `status` and `error` as they are after writing.

        Raises
        ------
        ValueError
            There are not as many files, or frames of `data`, as frames.
        FileExistsError, PixelValueError, AccessDeniedError, StorageError, TypeError
            See `dask_fits.to_fits`. Files of frames that have been written by then stay.
        """
        from dask_fits.stacks.fits_writer import frame_files, plan_cube
        from dask_fits.writing.execution import delayed_file, write_file

        if data is not None and len(data) != len(self):
            raise ValueError(f"data: expected {len(self)} frames, found {len(data)}")
        is_cube = is_one_file(url)
        urls: list[FilePath] = [cast("FilePath", url)] if is_cube else list(cast("Any", url))
        sinks = [sink_of(one, storage_options, transfer, overwrite=overwrite) for one in urls]
        if is_cube:
            plan, errors = plan_cube(
                self._reader, self.collection, data, sinks[0].name, checksum=checksum
            )
            if not compute:
                return delayed_file(plan, sinks[0])
            found = write_file(plan, sinks[0], errors) or {}
        else:
            _check_files(urls, len(self))
            writing = frame_files(self._reader, self.collection, data, sinks, checksum=checksum)
            if not compute:
                return writing
            watch_computations()
            found = writing.compute()
        status, error = statuses(len(self), {**self.collection.errors(), **found})
        return replace(self, status=status, error=error)

    def __repr__(self) -> str:
        failed = int((self.status == "failed").sum())
        notes = [f"{failed} failed"] if failed else []
        notes += [f"{len(self.dropped)} left out"] if self.dropped else []
        count = f"{len(self)} frame{'' if len(self) == 1 else 's'}"
        chunks = f"chunks {self.data.chunksize}"
        described = f"{count} {self.data.shape[1:]} {self.data.dtype}"
        return f"<Stack of {', '.join([described, chunks, *notes])}>"


@explains_arguments
def stack(  # noqa: PLR0913 (each is a question that a caller has)
    files: object,
    *,
    hdu: HduKey | None = None,
    chunks: Chunks = "auto",
    sort_by: str | None = None,
    dtype: npt.DTypeLike | None = None,
    on_error: OnError = "raise",
    fill_value: FillValue = None,
    keywords: Sequence[str] = (),
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
) -> Stack:
    """Stack the images of many files to one lazy array; reads headers, and no pixels.

    Files may be compressed, and differ in BITPIX and scaling; their images have one shape.

    Parameters
    ----------
    files : as for `dask_fits.open_collection`, or Collection
        Of a collection no header is read.
    hdu : int, str or (str, int), optional
        HDU of each file; by default the first that holds an image, and of a collection each row.
    chunks : int, "auto", None, or a tuple or mapping of these and of tuples of int
        As Dask takes them, axis 0 being the frames. ``"auto"``: as many whole frames as Dask's
        ``array.chunk-size`` has room for, at most 1000; they are read at the same time.
    sort_by : str, optional
        Keyword or column of a collection by which frames are ordered, such as ``"DATE-OBS"`` or
        ``"t_min"``; those without a value come last.
    dtype : NumPy type, optional
        By default the common type of all images, as NumPy promotes them.
    on_error : "raise", "nan" or "drop"
        What is done about a file that cannot be read: its error is raised, here or when it is
        computed; its frame is NaN; or it is left out if that is known here, and raises if not.
    fill_value : number, optional
        With "nan": value of the pixels of a frame that cannot be read, instead of NaN, which
        integers do not have.
    keywords, storage_options, transfer, progress
        See `dask_fits.open_collection`; they are for files that are not in a collection yet.

    Returns
    -------
    Stack

    Raises
    ------
    FitsFormatError
        The images are of several shapes: the message names a file that differs.
    ValueError
        There is no image; or an argument cannot be used.
    FitsError
        A file cannot be read, and its error is to be raised.

    Examples
    --------
    >>> import dask_fits
    >>> stack = dask_fits.stack(["tests/data/m13.fits"] * 3)
    >>> stack
    <Stack of 3 frames (300, 300) float32, chunks (3, 300, 300)>
    >>> float(stack.data[:, 100:110, 100:110].mean().compute())
    144.5961...
    """
    if on_error not in ("raise", "nan", "drop"):
        raise ValueError(f"on_error: expected 'raise', 'nan' or 'drop', found {on_error!r}")
    if fill_value is not None and on_error != "nan":
        raise ValueError(f"fill_value: it is for on_error='nan', found {on_error!r}")
    names = as_keywords(keywords)
    files, described = open_described(files, storage_options, transfer)
    lacking: Mapping[str, FitsError] = {}
    if described is not None:
        if names:
            raise ValueError(
                f"keywords: found {names}, expected none with a collection: it has the "
                "columns that were asked for when its files were read"
            )
        collection, lacking = rows_of_hdu(described, hdu)
        if lacking and on_error != "drop":
            raise next(iter(lacking.values()))
    else:
        if sort_by and sort_by not in FIXED:
            names = as_keywords([*names, sort_by])
        inspection = Inspection((hdu,), names)
        collection = describe_files(files, inspection, storage_options, transfer, progress)
    collection, dropped = treat_failures(collection, on_error)
    dropped = {**lacking, **dropped}
    if sort_by is not None:
        collection = collection.take(order_by(collection, sort_by))
    return _make_stack(collection, dropped, chunks, dtype, on_error, fill_value)


def _make_stack(
    collection: Collection,
    dropped: Mapping[str, FitsError],
    chunks: Chunks,
    dtype: npt.DTypeLike | None,
    on_error: OnError,
    fill_value: FillValue,
) -> Stack:
    """Make the stack of images that are in order."""
    shape = _common_shape(collection, dropped)
    names = collection.distinct("dtype") - {""}
    common = np.result_type(*names) if dtype is None else np.dtype(dtype)
    if on_error == "nan" and fill_value is None:
        if common.kind not in "fc":
            raise ValueError(
                f"on_error: 'nan' needs floats, found images of {common}: give a fill_value, or a "
                "dtype that has NaN"
            )
        fill_value = np.nan
    reader = StackReader(_frames(collection), shape, common, fill_value)
    data = stack_array(reader, chunks, like=_first_reader(collection))
    status, error = statuses(len(collection), collection.errors())
    return Stack(data, collection, dropped, status, error, reader, chunks)


def _check_files(urls: Sequence[FilePath], count: int) -> None:
    """Raise ValueError unless there is a file for each frame, and no file twice."""
    if len(urls) != count:
        raise ValueError(f"url: expected {count} files, one for each frame, found {len(urls)}")
    names = [str(url) for url in urls]
    if len(set(names)) < count:
        twice = next(name for n, name in enumerate(names) if name in names[:n])
        raise ValueError(f"url: expected different files, found {redact_url(twice)} twice")


def _common_shape(collection: Collection, dropped: Mapping[str, FitsError]) -> tuple[int, ...]:
    """Return the shape of all images; raise FitsFormatError if one of them has another."""
    distinct = collection.distinct("shape") - {None}
    if not distinct:
        for error in (*collection.failures.values(), *dropped.values()):
            raise error
        raise ValueError("files: expected at least one image, found none")
    if len(distinct) == 1:
        shape: tuple[int, ...] = distinct.pop()
        return shape
    shapes = collection.column("shape")
    first = next(row for row, shape in enumerate(shapes) if shape is not None)
    other = next(
        row for row, shape in enumerate(shapes) if shape is not None and shape != shapes[first]
    )
    names = collection[[first, other]].names()
    count = sum(shape == shapes[first] for shape in shapes)
    raise FitsFormatError(
        f"{names[1]}: found an image of shape {shapes[other]}, expected {shapes[first]} as of "
        f"{names[0]} and {count - 1} others of {len(shapes)}; a stack has one shape: "
        f"open_collection(...).select(shape={shapes[first]})"
    )


def _frames(collection: Collection) -> Frames:
    """Return what tasks carry of the images."""
    noted = collection.noted_rows()
    return HeldFrames.of(collection.all_rows()) if noted is None else NotedFrames.of(noted)


def _first_reader(collection: Collection) -> HduReader | None:
    """Return the reader of the first image that has one."""
    row = first_image(collection)
    reader = collection.rows(np.array([row]), wcs=False).reader_or_error(0)
    return None if isinstance(reader, FitsError) else reader


def statuses(
    count: int, errors: Mapping[int, FitsError]
) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.object_]]:
    """Return the status and the error of each frame."""
    status = np.full(count, "ok", "<U6")
    error = np.full(count, None, object)
    for row, reason in errors.items():
        status[row] = "failed"
        error[row] = reason
    return status, error
