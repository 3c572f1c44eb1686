"""A mosaic as an `xarray.Dataset`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import dask.array as da

from dask_fits.exceptions import needs
from dask_fits.wcs.header import WcsText, card_lines

with needs("xarray", extra="xarray"):
    import xarray as xr

    from dask_fits.wcs.attributes import HEADER, WCS_CARDS, WCS_TABLES
    from dask_fits.xarray_backend.dataset import make_coords
    from dask_fits.xarray_backend.grid import make_grid

if TYPE_CHECKING:
    from astropy.io import fits

_WHERE = "mosaic"
"""What it is called in messages."""


def make_dataset(arrays: Mapping[str, da.Array], text: WcsText, header: fits.Header) -> xr.Dataset:
    """Make the Dataset of a mosaic; see `Mosaic.to_xarray`."""
    # The accessors need them, and nothing else has imported them yet.
    import dask_fits.xarray_backend.accessor  # noqa: F401

    grid = make_grid(text, _WHERE)
    attrs: dict[Hashable, Any] = {HEADER: card_lines(header), WCS_CARDS: text.cards}
    if text.tables:
        attrs[WCS_TABLES] = text.tables
    variables = {name: xr.Variable(grid.dims, array, attrs) for name, array in arrays.items()}
    return xr.Dataset(variables, make_coords(grid, text, _WHERE, world_coords=True))
