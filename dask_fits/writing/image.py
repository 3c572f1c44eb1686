"""Image: an array that becomes one HDU of a file, with its header."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.array.core import Array, normalize_chunks, slices_from_chunks

from dask_fits.arrays.banded import chunk_limit
from dask_fits.file.hdu import HDU
from dask_fits.planning.chunks import contiguous_chunk_shape

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

    from dask_fits.wcs.header import WcsText


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An array that `to_fits` writes as one HDU of a file.

    Raises
    ------
    TypeError
        The array is of a kind, or of a type, that FITS images do not have.
    ValueError
        The length of its chunks is not known.
    """

    array: Any
    """Dask or NumPy array; None for a header without pixels, such as that of the primary HDU."""
    header: fits.Header | HDU | None = field(default=None, kw_only=True)
    """Keywords. Those that describe the bytes (NAXISn, BITPIX, BSCALE, CHECKSUM, ...) are made anew
    from the array. An `HDU` brings the tables along that its WCS refers to."""
    wcs: WCS | HDU | WcsText | None = field(default=None, kw_only=True)
    """World coordinates of the array, instead of those in the header."""
    name: str | None = field(default=None, kw_only=True)
    """EXTNAME; by default that of the header, if it has one."""
    dtype: npt.DTypeLike | None = field(default=None, kw_only=True)
    """NumPy type to write; by default that of the array."""
    scale: tuple[float, float] | None = field(default=None, kw_only=True)
    """BSCALE and BZERO: values are rounded to whole steps of BSCALE from BZERO on."""
    blank: int | None = field(default=None, kw_only=True)
    """BLANK: the integer that NaN is stored as."""


def as_dask(array: Any) -> da.Array:
    """Return an array as a Dask array with known chunks, none of them empty.

    Raises
    ------
    TypeError, ValueError
        See `Image`.
    """
    if isinstance(array, np.ma.MaskedArray) or isinstance(
        getattr(array, "_meta", None), np.ma.MaskedArray
    ):
        raise TypeError(
            "found a masked array, and FITS images have no masks: fill it (array.filled(np.nan)), "
            "or write the mask as an image of its own"
        )
    if isinstance(array, HDU):
        raise TypeError("found an HDU, expected an array: give its data, and header=hdu")
    if hasattr(array, "coords") and hasattr(array, "dims"):
        raise TypeError("found an object of xarray, which has its own way: array.fits.to_fits(url)")
    if not isinstance(array, da.Array):
        array = _from_numpy(array)
    if not isinstance(array._meta, np.ndarray):  # noqa: SLF001 (Dask has no public way)
        raise TypeError(
            f"found an array of chunks of type {type(array._meta).__name__}, "  # noqa: SLF001
            "expected NumPy's: convert them with array.map_blocks"
        )
    if array.ndim == 0:
        raise ValueError("found an array without axes, expected one or more: array.reshape(1)")
    if any(np.isnan(length) for lengths in array.chunks for length in lengths):
        raise ValueError(
            "found chunks of unknown length, as a selection by a condition has them: call "
            "array.compute_chunk_sizes() first"
        )
    filled = tuple(tuple(filter(None, lengths)) or (0,) for lengths in array.chunks)
    dense: da.Array = array if filled == array.chunks else array.rechunk(filled)
    return dense


def _from_numpy(given: Any) -> da.Array:
    """Make a Dask array of what NumPy takes for an array, whose chunks are views of it.

    `dask.array.from_array` would copy all of it.
    """
    values = np.asarray(given)
    itemsize = values.itemsize or 1
    chunk = contiguous_chunk_shape(values.shape, itemsize=itemsize, limit=chunk_limit())
    if da.Array is not Array:  # with array.query-planning, Dask takes no graph
        return cast("da.Array", da.from_array(values, chunks=chunk))
    chunks = normalize_chunks(chunk, values.shape)
    name = f"array-{uuid.uuid4().hex}"
    indices = itertools.product(*(range(len(lengths)) for lengths in chunks))
    graph = {
        (name, *index): values[part]
        for index, part in zip(indices, slices_from_chunks(chunks), strict=True)
    }
    meta = np.empty((0,) * values.ndim, values.dtype)
    return da.Array(graph, name, chunks, meta=meta)
