"""DataArrays and Datasets as images that are written: headers, the WCS of the pixels left."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import xarray as xr
from astropy.io import fits
from astropy.units import Unit

from dask_fits.wcs.attributes import HEADER, PRIMARY_HEADER, WCS_CARDS, WCS_TABLES
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.text import wcs_text
from dask_fits.writing.image import Image
from dask_fits.writing.pixel_keywords import move_pixel_keywords, wcs_cards_of
from dask_fits.xarray_backend.subset import origins_of, wcs_of_all_axes

Attributes = dict[Hashable, Any]


def images_of_dataset(dataset: xr.Dataset, where: str) -> list[Image]:
    """Return the HDUs of a Dataset: its primary header, and an image for each variable.

    A variable that was the primary HDU of its file is it again.

    Raises
    ------
    ValueError
        There are no variables; and see `image_of_array`.
    """
    if not dataset.data_vars:
        raise ValueError(f"{where}: found no variables, expected at least one image")
    names = list(dataset.data_vars)
    primary = dataset.attrs.get(PRIMARY_HEADER)
    first = next(
        (name for name in names if primary and dataset[name].attrs.get(HEADER) == primary), None
    )
    if first is not None:
        names.remove(first)
        names.insert(0, first)
    images = [image_of_array(dataset[name], where) for name in names]
    if first is not None or (len(images) == 1 and primary is None):
        return images
    header = None if primary is None else fits.Header.fromstring(str(primary), sep="\n")
    return [Image(None, header=header), *images]


def image_of_array(array: xr.DataArray, where: str) -> Image:
    """Return a DataArray as an image: EXTNAME from its name, BUNIT from its units.

    Raises
    ------
    ValueError
        Its pixels have no WCS, though its attributes have one: see `FitsAccessor.wcs`.
    """
    variable = array.variable
    # An array that has not been read is to be read by tasks.
    if variable.chunks is None and not variable._in_memory:  # noqa: SLF001 (xarray's way to ask)
        variable = variable.chunk("auto")
    image = Image(variable.data, name=_extname(array.name))
    text = array.attrs.get(HEADER)
    header = fits.Header.fromstring(str(text), sep="\n") if text is not None else fits.Header()
    image = _with_world(image, header, array, where)
    units = array.attrs.get("units")
    if isinstance(units, str) and units != str(header.get("BUNIT", "")).strip():
        header.set("BUNIT", _bunit(units, where))
    return image


def _bunit(units: str, where: str) -> str:
    """Return units as BUNIT has them, which is of ASCII; raise ValueError if there are none."""
    if units.isascii() and units.isprintable():
        return units
    try:
        return str(Unit(units).to_string("fits"))
    except ValueError as error:
        raise ValueError(
            f"{where}: units: found {units!r}, expected ASCII, or a unit that astropy knows"
        ) from error


def _extname(name: Hashable) -> str | None:
    """Return EXTNAME; None for the name that an HDU without one has."""
    return None if name is None or name == "PRIMARY" else str(name)


def _with_world(image: Image, header: fits.Header, array: xr.DataArray, where: str) -> Image:
    """Give an image its header, with the world coordinates of the pixels that are left."""
    if WCS_CARDS not in array.attrs:
        return replace(image, header=header)
    text = WcsText(str(array.attrs[WCS_CARDS]), str(array.attrs.get(WCS_TABLES, "")))
    origins = origins_of(array, array.variable, where)
    has_own = bool(wcs_cards_of(header.cards))
    if origins is not None and not text.tables and has_own:
        # All WCS of the header move along, and other keywords that count in pixels.
        cards = list(header.cards)
        move_pixel_keywords(cards, list(reversed(origins)), where)
        header.clear()
        header.extend(cards)
        return replace(image, header=header)
    if origins is not None and not any(origins):
        return replace(image, header=header, wcs=text)
    wcs = wcs_of_all_axes(array, array.variable, where)
    try:
        moved = wcs_text(wcs, tuple(map(int, array.shape)), tables=text.tables)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; array.drop_attrs() leaves it out") from error
    return replace(image, header=header, wcs=moved)
