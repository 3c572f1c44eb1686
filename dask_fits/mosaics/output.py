"""The grid of a mosaic, from what users give for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_fits.exceptions import FitsFormatError
from dask_fits.file.fits_file import FitsFile, select_image
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.hdu import HDU
from dask_fits.wcs.geometry import celestial_of, sky_axes
from dask_fits.wcs.header import WcsHeader, WcsText
from dask_fits.wcs.optimal import optimal_grid
from dask_fits.wcs.text import wcs_text

if TYPE_CHECKING:
    from astropy.wcs import WCS

Shape = tuple[int, int]


def output_text(
    given: object,
    shape: Sequence[int] | None,
    images: Sequence[tuple[WCS, Shape]],
    storage_options: Mapping[str, Any] | None,
) -> WcsText:
    """Make the world coordinates of a mosaic.

    Parameters
    ----------
    given : WCS, Header, HDU, FitsFile, path, URL or None
    shape : (int, int), optional
    images : sequence of (WCS, shape)
        Celestial, of the images, for the grid that suits them.
    storage_options : mapping, optional
        Those of a file.

    Raises
    ------
    ValueError
        There is no shape, or it is none.
    TypeError
        It is nothing of all this.
    FitsFormatError
        It has no celestial coordinates.
    """
    size = None if shape is None else _shape(shape)
    if given is None:
        wcs, found = optimal_grid(images)
        return wcs_text(wcs, size or found)
    from astropy.io import fits
    from astropy.wcs import WCS

    if isinstance(given, WCS):
        return _of_wcs(given, size)
    if isinstance(given, fits.Header):
        header = _wcs_header(given, size)
        return _of_header(header, size)
    if isinstance(given, (str, os.PathLike)):
        given = open_file(given, storage_options=storage_options)
    if isinstance(given, FitsFile):
        given = select_image(given, None)
    if isinstance(given, HDU):
        return _of_header(given.wcs_header(), size)
    raise TypeError(
        "wcs: expected a WCS, a Header, an HDU, or the path or URL of a file, found "
        f"{type(given).__name__}"
    )


def celestial(text: WcsText, where: str) -> WCS:
    """Make the celestial WCS of an image; raise FitsFormatError if it has none."""
    wcs = celestial_of(text.wcs(where))
    if not wcs.has_celestial:
        raise FitsFormatError(f"{where}: expected celestial coordinates (CTYPEn), found none")
    return wcs


def sky_and_shape(text: WcsText, where: str) -> tuple[WCS, Shape]:
    """Make the celestial WCS of an image, and return its height and width."""
    return celestial(text, where), _sky_shape(text, where)


def _sky_shape(text: WcsText, where: str) -> Shape:
    """Return the lengths of the axes that span the sky: not the last two of every image."""
    if len(text.shape) == 2:
        return text.shape[0], text.shape[1]
    y, x = sky_axes(text.wcs(where), len(text.shape))
    return text.shape[y], text.shape[x]


def _shape(shape: object) -> Shape:
    """Check a shape."""
    lengths = tuple(shape) if isinstance(shape, Iterable) else ()
    if len(lengths) != 2 or any(int(n) != n or n < 1 for n in lengths):
        raise ValueError(f"shape: expected height and width, found {shape}")
    return int(lengths[0]), int(lengths[1])


def _of_wcs(wcs: WCS, size: Shape | None) -> WcsText:
    if not wcs.has_celestial:
        raise FitsFormatError("wcs: expected celestial coordinates, found none")
    sky = celestial_of(wcs)
    known = size or sky.array_shape
    if known is None:
        raise ValueError("shape: expected height and width beside a WCS that does not know them")
    return wcs_text(sky, _shape(known))


def _wcs_header(header: Any, size: Shape | None) -> WcsHeader:
    text = header.tostring(sep="", endcard=True, padding=True).encode("ascii", "replace")
    axes = [header.get(f"NAXIS{axis}") for axis in (2, 1)]
    known = size or (None if None in axes else _shape(axes))
    if known is None:
        raise ValueError("shape: expected height and width beside a Header without NAXIS1, NAXIS2")
    return WcsHeader.of(text, known, compressed=False, where="wcs", read_tables=_no_tables)


def _no_tables(keys: object) -> bytes:
    raise FitsFormatError(
        f"wcs: the Header refers to other HDUs of its file, {keys}: give the file or the HDU"
    )


def _of_header(header: WcsHeader, size: Shape | None) -> WcsText:
    text = WcsText.of(header)
    sky = celestial(text, header.where)
    is_plain = len(text.shape) == 2 and text.wcs(header.where).naxis == 2
    if is_plain and size in (None, text.shape):
        return text
    return wcs_text(sky, size or _sky_shape(text, header.where))
