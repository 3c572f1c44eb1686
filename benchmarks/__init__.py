"""Speed and memory of dask_fits beside its peers, in one run on the same files."""
