"""Lazy Dask arrays over the readers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import dask.array as da
import numpy as np
from dask.array.core import normalize_chunks
from dask.utils import parse_bytes

from dask_fits.banded import BandedArray, array_name, bands_of, chunk_limit, read_plan, warn_of
from dask_fits.computations import watch_computations
from dask_fits.exceptions import FitsFormatError
from dask_fits.file import HDU, HduKey
from dask_fits.file import open as open_file
from dask_fits.format.bands import Window
from dask_fits.format.chunks import ReadPlan, chunk_boxes, count_chunks
from dask_fits.format.selection import Selection, select
from dask_fits.hints import explains_arguments
from dask_fits.readers.reader import PixelReader
from dask_fits.storage.place import FilePath
from dask_fits.storage.transfer import TransferConfig

MAX_CHUNKS = 1 << 24
"""Chunks that an array may have: a list of more would fill the memory."""


@explains_arguments
def from_fits(  # noqa: PLR0913 (each is a question that a caller has)
    url: FilePath,
    hdu: HduKey | None = None,
    *,
    chunks: Any = "auto",
    mask_and_scale: bool = True,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    filesystem: Any = None,
) -> da.Array:
    """Open one image of a FITS file as a lazy Dask array.

    Parameters
    ----------
    url : str, os.PathLike or file object
        A path, or any URL that fsspec understands, or what has one; see `dask_fits.open`.
    hdu : int, str or (str, int), optional
        Index, name, or name and version; by default the first HDU that holds an image.
    chunks, mask_and_scale
        See `to_dask`.
    storage_options, transfer, filesystem
        See `dask_fits.open`.

    Examples
    --------
    >>> import dask_fits
    >>> image = dask_fits.from_fits("tests/data/m13.fits")
    >>> float(image[100:110, 100:110].mean().compute())
    144.5961...
    """
    file = open_file(url, storage_options=storage_options, transfer=transfer, filesystem=filesystem)
    found = file.first_image() if hdu is None else file[hdu]
    return to_dask(found, chunks=chunks, mask_and_scale=mask_and_scale)


def to_dask(hdu: HDU, *, chunks: Any = "auto", mask_and_scale: bool = True) -> da.Array:
    """Make a lazy Dask array of an image HDU; reads nothing.

    Parameters
    ----------
    hdu : HDU
        An image.
    chunks : "auto", int, tuple, dict, -1 or a size such as "64 MiB"
        ``"auto"``: full-width bands of rows (whole planes of a cube), each contiguous in the file,
        of at most Dask's ``array.chunk-size``; a size sets another limit. Anything else is taken
        as Dask takes it. Chunks that cut rows, or tiles of a compressed image, are divided out of
        bands that are read once; of some of the chunks no more is read than they need.
    mask_and_scale : bool
        Apply BSCALE, BZERO and BLANK as astropy does by default; False gives the stored values,
        of a tile-compressed image those that it had before: floats where it was quantized.

    Returns
    -------
    dask.array.Array
        Of the HDU's shape, in NumPy order. Its name depends on the file's version, the HDU and the
        chunks, so that it is the same in every process.

    Raises
    ------
    NotAnImageError, UnsupportedHduError
        The HDU has no pixels that can be read.
    FitsFormatError
        A keyword that the pixels need cannot be used.

    Warns
    -----
    dask.array.PerformanceWarning
        A full read in these chunks holds more than eight times ``array.chunk-size`` at once, or
        fetches bytes more than once in order not to.
    """
    reader = hdu.reader(mask_and_scale=mask_and_scale)
    window = Window.whole(chunk_grid(reader, chunks))
    bands = bands_of(reader, window)
    if bands is None:
        return _of_window(reader, window)
    warn_of(reader, window, bands)
    return BandedArray.of(reader, window, bands)


def lazy_array(reader: PixelReader, chunks: Any = "auto") -> da.Array:
    """Make a lazy Dask array of a reader's pixels, each chunk read by itself."""
    return _of_window(reader, Window.whole(chunk_grid(reader, chunks)))


def _of_window(reader: PixelReader, window: Window) -> da.Array:
    watch_computations()
    array: da.Array = da.from_array(
        reader,
        chunks=window.chunks,
        name=array_name(reader, window),
        inline_array=True,
        asarray=True,
        lock=False,
        fancy=True,
        meta=np.empty((0,) * reader.ndim, reader.dtype),
    )
    return array


def plan(hdu: HDU, *, key: Any = ..., chunks: Any = None) -> ReadPlan:
    """Tell what reading a selection of an image HDU costs; reads no pixels.

    Of a tile-compressed image the rows of the table that point at its tiles are read, where they
    did not come with the header. They are part of the plan: a process that has read them lately
    asks for the tiles alone.

    Parameters
    ----------
    hdu : HDU
        An image.
    key : int, slice, Ellipsis, None, 1-D list, or a tuple of these
        The selection, as for a NumPy array.
    chunks : optional
        None for one read of the selection; else as for `to_dask`, for the computation of
        ``hdu.to_dask(chunks=chunks)[key]``, where each chunk that is touched is read by itself, or
        with those it shares a band with.

    Returns
    -------
    ReadPlan

    Raises
    ------
    TruncatedFileError
        The file ends before the wanted pixels.
    """
    reader = hdu.reader()
    selection = select(key, reader.shape)
    if chunks is None:
        return reader.plan(selection.axes)
    reader.check(selection)
    window = Window.whole(chunk_grid(reader, chunks))
    if bands_of(reader, window) is not None:
        return read_plan(reader, window, selection)
    whole = _read_whole(key, selection)
    return ReadPlan.of_chunks(
        reader.plan(axes) for axes in chunk_boxes(selection.axes, window.chunks, whole=whole)
    )


def _read_whole(key: Any, selection: Selection) -> Collection[int]:
    """Axes along which Dask reads whole chunks, because it cannot pass the key on to the reader."""
    items = key if isinstance(key, tuple) else (key,)
    if any(item is None or (isinstance(item, slice) and (item.step or 1) < 0) for item in items):
        return range(len(selection.axes))
    return () if selection.listed is None else (selection.listed,)


def chunk_grid(reader: PixelReader, chunks: Any = "auto") -> tuple[tuple[int, ...], ...]:
    """Resolve `chunks` as `to_dask` takes it: chunk lengths along each axis."""
    limit = chunk_limit()
    if isinstance(chunks, str) and chunks != "auto":
        chunks, limit = "auto", parse_bytes(chunks)
    slab = reader.slab(limit)
    for asked in [slab] if isinstance(chunks, str) else [slab, chunks]:
        _check_count(asked, reader, limit)
    whole = _normalized(slab, reader)
    if isinstance(chunks, str):
        return whole
    if 0 in reader.shape:  # Dask divides by the size of a chunk to find an axis left to it
        chunks = _without_auto(chunks)
    # With our slabs as the previous chunks, Dask keeps an axis that is left to it contiguous.
    return _normalized(chunks, reader, previous_chunks=whole)


def _check_count(chunks: Any, reader: PixelReader, limit: int) -> None:
    """Raise where there would be more chunks than can be listed."""
    shape = reader.shape
    count = count_chunks(chunks, shape, itemsize=reader.dtype.itemsize, limit=limit)
    if count <= MAX_CHUNKS:
        return
    # Most likely it is no image at all, but a damaged NAXISn.
    reader.check(Selection.of_box(tuple(range(length)[-1:] for length in shape)))
    raise FitsFormatError(
        f"chunks: found {count:.0f} of them in an image of shape {shape}, "
        f"expected at most {MAX_CHUNKS}"
    )


def _without_auto(chunks: Any) -> Any:
    if isinstance(chunks, Mapping):
        return {axis: -1 if part == "auto" else part for axis, part in chunks.items()}
    if isinstance(chunks, (tuple, list)):
        return tuple(-1 if part == "auto" else part for part in chunks)
    return chunks


def _normalized(chunks: Any, reader: PixelReader, **previous: Any) -> tuple[tuple[int, ...], ...]:
    grid = normalize_chunks(chunks, shape=reader.shape, dtype=reader.dtype, **previous)
    return cast("tuple[tuple[int, ...], ...]", grid)
