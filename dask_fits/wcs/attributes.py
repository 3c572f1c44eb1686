"""Names of attributes under which arrays keep a header and a WCS: of xarray, in zarr groups."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

HEADER = "header"
"""Attribute of a variable: the header of its HDU, a card on each line."""

PRIMARY_HEADER = "primary_header"
"""Attribute of a Dataset: the header of the primary HDU, a card on each line."""

WCS_CARDS = "wcs"
"""Attribute of a variable: the keywords of its pixel grid's WCS; see `WcsText.cards`."""

WCS_TABLES = "wcs_tables"
"""Attribute of a variable: the tables that its WCS refers to; see `WcsText.tables`."""


def attribute(attrs: Mapping[Hashable, Any], name: str, where: str) -> str:
    """Return an attribute as text.

    Raises
    ------
    ValueError
        The attribute is missing.
    """
    if name not in attrs:
        raise ValueError(
            f"{where}: found no attribute {name!r}, expected one of a FITS file: attributes are "
            "dropped by keep_attrs=False, and where files differ by combine_attrs='drop_conflicts'"
        )
    return str(attrs[name])
