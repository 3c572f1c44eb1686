"""FITS files in xarray: ``xr.open_dataset(url, engine="fits")``, and the accessor ``.fits``.

xarray finds the engine by itself. Import this package to use the accessor on datasets from other
sources, such as a zarr store to which one from a FITS file was written.
"""

from dask_fits.exceptions import MissingDriverError

try:
    import xarray as xr  # noqa: F401 (whether it is there)
except ImportError as error:
    raise MissingDriverError(
        f"dask_fits.xarray_backend needs xarray: pip install 'dask_fits[xarray]' ({error})"
    ) from error

from dask_fits.xarray_backend.accessor import FitsAccessor, FitsDatasetAccessor
from dask_fits.xarray_backend.entrypoint import FitsBackendEntrypoint

__all__ = ["FitsAccessor", "FitsBackendEntrypoint", "FitsDatasetAccessor"]
