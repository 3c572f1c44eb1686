"""Images -> what each HDU of a file is to hold: headers, names, the tables of their WCS."""

from __future__ import annotations

from collections.abc import Sequence

from astropy.io.fits import Header

from dask_fits.exceptions import printable
from dask_fits.file.hdu import HDU
from dask_fits.format.encoding import Encoding, encoding_of
from dask_fits.writing.file_plan import Content
from dask_fits.writing.image import Image, as_dask
from dask_fits.writing.image_header import image_header, set_extend, template_of
from dask_fits.writing.pixels import Target


def contents_of(images: Sequence[Image], name: str, *, checksum: bool) -> list[Content]:
    """Find what each HDU of a file holds.

    Parameters
    ----------
    images : sequence of Image
    name : str
        Redacted name of the file, for messages.
    checksum : bool
        Whether to write CHECKSUM and DATASUM.

    Raises
    ------
    TypeError, ValueError, FitsFormatError
        See `to_fits`.
    """
    return [
        _content(image, n, name, is_last=n == len(images) - 1, checksum=checksum)
        for n, image in enumerate(images)
    ]


def _content(image: Image, index: int, name: str, *, is_last: bool, checksum: bool) -> Content:
    """Find what one HDU holds."""
    header = image.header.header if isinstance(image.header, HDU) else image.header
    header = Header() if header is None else header
    extname = image.name if image.name is not None else str(header.get("EXTNAME", ""))
    label = printable(extname.strip()) or ("PRIMARY" if index == 0 else "unnamed")
    where = f"{name}: HDU {index} ({label})"
    array = None
    encoding: Encoding | None = None
    try:
        if image.array is not None:
            array = as_dask(image.array)
            encoding = encoding_of(
                array.dtype, dtype=image.dtype, scale=image.scale, blank=image.blank
            )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    shape = None if array is None else array.shape
    made = image_header(header, shape, encoding, primary=index == 0, where=where)
    if image.name is not None:
        made.set("EXTNAME", image.name)
    if index == 0 and not is_last:
        set_extend(made)
    template = template_of(made, has_sums=checksum, where=where)
    target = None
    if array is not None and encoding is not None:
        target = Target(where, 0, tuple(map(int, array.shape)), encoding, has_sums=checksum)
    return Content(template, array, target)
