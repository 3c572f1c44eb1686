"""Dask arrays over the readers."""
