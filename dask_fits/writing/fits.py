"""`to_fits`: arrays into a FITS file, in parallel, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dask_fits.file.hdu import HDU
from dask_fits.storage.place import FilePath
from dask_fits.storage.sinks import sink_of
from dask_fits.storage.transfer import TransferConfig
from dask_fits.writing.contents import contents_of
from dask_fits.writing.execution import delayed_file, write_file
from dask_fits.writing.file_plan import FilePlan
from dask_fits.writing.image import Image

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS
    from dask.delayed import Delayed


def to_fits(  # noqa: PLR0913 (each is a question that a caller has)
    array: Any,
    url: FilePath,
    *,
    header: fits.Header | HDU | None = None,
    wcs: WCS | HDU | None = None,
    name: str | None = None,
    overwrite: bool = False,
    checksum: bool = True,
    dtype: npt.DTypeLike | None = None,
    scale: tuple[float, float] | None = None,
    blank: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    compute: bool = True,
) -> Delayed | None:
    """Write an array to a FITS file, in parallel, in Dask's current scheduler.

    Each task writes the pixels of its chunk where they belong in the file; none of them goes
    through this process. Until all of them are there, and were found to be, the file is absent, or
    the one that was there before; if anything fails, nothing is left.

    Parameters
    ----------
    array : Dask or NumPy array, or sequence of Image
        The pixels, in any chunks; or the HDUs of the file, of which the first one is the primary
        HDU: an `Image` without an array for one without pixels.
    url : path or URL
        The file. On a disk that all workers reach, or in an object store (``s3://``, ``gs://``),
        whose parts the workers upload; or on any other filesystem of fsspec.
    header : astropy.io.fits.Header or HDU, optional
        Keywords to write. Those that describe the bytes (NAXISn, BITPIX, BSCALE, BZERO, BLANK,
        CHECKSUM, ...) are made anew from the array, also if they say something else. An `HDU`
        brings the tables along that its WCS refers to.
    wcs : astropy.wcs.WCS or HDU, optional
        World coordinates of the array, instead of those in the header.
    name : str, optional
        EXTNAME.
    overwrite : bool
        Whether to replace a file that exists.
    checksum : bool
        Whether to write CHECKSUM and DATASUM (FITS Standard 4.0, section 4.4.2.7).
    dtype : NumPy type, optional
        Type to convert to: integers only if no value changes, floats to the nearest one.
    scale : (float, float), optional
        BSCALE and BZERO (Standard 4.0, section 4.4.2.5): values are rounded to whole steps of
        BSCALE from BZERO on, and stored as integers of type `dtype`.
    blank : int, optional
        BLANK: the integer that NaN is stored as.
    storage_options : mapping, optional
        Arguments of the fsspec filesystem of a URL (credentials, endpoint, ...).
    transfer : TransferConfig, optional
        Retries, time-outs and concurrency of uploads.
    compute : bool
        False returns a `dask.delayed.Delayed` that writes the file when it is computed. What it
        leaves behind if it fails is listed, and removed, by `dask_fits.abandoned`.

    Returns
    -------
    None or dask.delayed.Delayed

    Raises
    ------
    FileExistsError
        The file exists, and `overwrite` is not set; or it has come into being meanwhile.
    PixelValueError
        A value cannot be written as `dtype`: it is beyond the type, has a fraction, is NaN without
        `blank`, or would be read back as NaN. The message names the first such pixel of a chunk.
    TypeError
        FITS images do not have the array's type: complex numbers, booleans, float16, text, masks.
    ValueError
        Arguments do not go together.
    FitsFormatError
        The header cannot be written, or its WCS refers to tables that do not come along.
    AccessDeniedError, MissingDriverError, StorageError
        The storage refuses, is full, or failed for longer than the retries last.

    Examples
    --------
    >>> import dask_fits, tempfile, os
    >>> hdu = dask_fits.open("tests/data/m13.fits")[0]
    >>> path = os.path.join(tempfile.mkdtemp(), "half.fits")
    >>> dask_fits.to_fits(hdu.data / 2, path, header=hdu.header)
    >>> dask_fits.open(path)[0]
    <HDU 0 of ...half.fits: 'PRIMARY' ver=1, image, shape=(300, 300), dtype=float32, ...>
    """
    if _is_of_images(array):
        _reject_options(header=header, wcs=wcs, name=name, dtype=dtype, scale=scale, blank=blank)
        images: Sequence[Image] = array
    else:
        images = [
            Image(array, header=header, wcs=wcs, name=name, dtype=dtype, scale=scale, blank=blank)
        ]
    if not compute:
        images = [_with_own_pixels(image) for image in images]
    sink = sink_of(url, storage_options, transfer, overwrite=overwrite)
    plan = FilePlan.of(contents_of(images, sink.name, checksum=checksum))
    if not compute:
        return delayed_file(plan, sink)
    write_file(plan, sink)
    return None


def _with_own_pixels(image: Image) -> Image:
    """Return an image with a copy of a NumPy array, which may change before it is written."""
    is_numpy = isinstance(image.array, np.ndarray)
    return replace(image, array=image.array.copy()) if is_numpy else image


def _is_of_images(array: Any) -> bool:
    """Return whether an argument is a sequence of images; raise TypeError if it is one in part."""
    if isinstance(array, Image):
        raise TypeError("found an Image, expected an array or a sequence of Images: [image]")
    if not isinstance(array, Sequence):
        return False
    are = [isinstance(one, Image) for one in array]
    if any(are) and not all(are):
        other = type(array[are.index(False)]).__name__
        raise TypeError(f"found a {other} among Images: make it one, Image(array)")
    return any(are)


def _reject_options(**options: object) -> None:
    """Raise TypeError if options are given beside images, which have their own."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise TypeError(f"{', '.join(given)}: each Image has its own")
