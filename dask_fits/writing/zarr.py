"""The way to zarr, which need not be installed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dask_fits.exceptions import needs

if TYPE_CHECKING:
    from dask_fits.writing.zarr_group import ZarrGroup


def open_zarr(
    store: str | os.PathLike[str], storage_options: Mapping[str, Any] | None
) -> ZarrGroup:
    """Return the zarr group at a path or URL, which need not exist.

    Raises
    ------
    MissingDriverError
        zarr is not installed.
    """
    with needs("zarr", extra="zarr"):
        from dask_fits.writing.zarr_group import ZarrGroup
    options = None if storage_options is None else dict(storage_options)
    return ZarrGroup(os.fspath(store), options)
