"""A stack as an `xarray.Dataset`."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import dask.array as da

from dask_fits.collections.collection import Collection
from dask_fits.exceptions import needs
from dask_fits.stacks.coordinates import first_image, frame_coordinates, shared_wcs
from dask_fits.wcs.quiet import quiet

with needs("xarray", extra="xarray"):
    import xarray as xr

    from dask_fits.wcs.attributes import WCS_CARDS, WCS_TABLES
    from dask_fits.xarray_backend.dataset import make_coords
    from dask_fits.xarray_backend.groups import image_of

VARIABLE = "data"
"""Name of the variable of pixels."""


def make_dataset(data: da.Array, collection: Collection) -> xr.Dataset:
    """Make the Dataset of a stack; see `Stack.to_xarray`."""
    attrs: dict[str, Any] = _units(collection)
    row = shared_wcs(collection)
    with quiet():
        reference = image_of(collection[first_image(collection) if row is None else row])
    dims = reference.grid.dims
    if row is None:
        # The numbers of pixels are the same in all of them, and no more is.
        reference = replace(reference, grid=replace(reference.grid, coordinates=(), sky=None))
    else:
        attrs[WCS_CARDS] = reference.text.cards
        if reference.text.tables:
            attrs[WCS_TABLES] = reference.text.tables
    coords = make_coords(reference.grid, reference.text, reference.hdu.where, world_coords=True)
    frame_dim, along = frame_coordinates(collection, (*map(str, coords), *dims))
    own: dict[Hashable, xr.Variable] = {
        each.name: xr.Variable((frame_dim,), each.values) for each in along
    }
    # The accessors need them, and nothing else has imported them yet.
    import dask_fits.xarray_backend.accessor  # noqa: F401

    variable = xr.Variable((frame_dim, *dims), data, attrs)
    return xr.Dataset({VARIABLE: variable}, coords).assign_coords(own)


def _units(collection: Collection) -> dict[str, Any]:
    """Return the unit of the pixels, if BUNIT was asked for and all frames have the same."""
    if "BUNIT" not in collection.keywords:
        return {}
    units = set(collection.column("BUNIT").tolist())
    unit = units.pop()
    return {"units": unit} if isinstance(unit, str) and unit and not units else {}
