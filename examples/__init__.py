"""Scripts that show how dask_fits is used; each says what it needs."""
