"""Names of the attributes that variables and Datasets carry."""

HEADER, PRIMARY_HEADER = "header", "primary_header"
"""Of a variable its HDU's header, of a Dataset that of the primary HDU: a card on each line."""

WCS_CARDS, WCS_TABLES = "wcs", "wcs_tables"
"""Of a variable: what the WCS of its pixel grid is made of; see `dask_fits.wcs.WcsText`."""
