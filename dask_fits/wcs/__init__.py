"""World coordinates, through astropy's WCS."""
