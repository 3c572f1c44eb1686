"""The attributes that variables and Datasets carry."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

HEADER, PRIMARY_HEADER = "header", "primary_header"
"""Of a variable its HDU's header, of a Dataset that of the primary HDU: a card on each line."""

WCS_CARDS, WCS_TABLES = "wcs", "wcs_tables"
"""Of a variable: what the WCS of its pixel grid is made of; see `dask_fits.wcs.header.WcsText`."""


def attribute(attrs: Mapping[Hashable, Any], name: str, where: str) -> str:
    """Look an attribute up.

    Raises
    ------
    ValueError
        It is missing.
    """
    if name not in attrs:
        raise ValueError(
            f"{where}: found no attribute {name!r}, expected one of a FITS file: attributes are "
            "dropped by keep_attrs=False, and where files differ by combine_attrs='drop_conflicts'"
        )
    return str(attrs[name])
