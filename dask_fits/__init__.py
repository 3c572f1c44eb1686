"""Lazy Dask arrays of FITS images anywhere; each task fetches exactly the bytes that it needs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dask_fits.exceptions import (
    AccessDeniedError,
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    FitsFormatError,
    FitsWarning,
    HduNotFoundError,
    MissingDriverError,
    NoOverlapError,
    NotAnImageError,
    PartialOverlapError,
    PixelValueError,
    StorageError,
    TruncatedFileError,
    TruncatedHeaderError,
    UnsupportedHduError,
    UnversionedFileWarning,
)
from dask_fits.file.fits_file import FitsFile, from_fits, open  # noqa: A004 (the field's own word)
from dask_fits.file.hdu import HDU
from dask_fits.hints import missing_name_message
from dask_fits.planning.chunks import ReadPlan
from dask_fits.ranges.byte_range import ByteRange
from dask_fits.ranges.cost import CostModel
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    from dask_fits.collections.collection import Collection
    from dask_fits.collections.opening import open_collection
    from dask_fits.many_cutouts.cutouts import cutouts
    from dask_fits.mosaics.mosaic import Mosaic, mosaic
    from dask_fits.mosaics.optimal import optimal_wcs
    from dask_fits.stacks.stack import Stack, stack
    from dask_fits.storage.sinks import Abandoned, abandoned
    from dask_fits.writing.fits import to_fits
    from dask_fits.writing.image import Image

    __version__: str

__all__ = [
    "HDU",
    "Abandoned",
    "AccessDeniedError",
    "ByteRange",
    "Collection",
    "CostModel",
    "FileChangedError",
    "FitsError",
    "FitsFile",
    "FitsFileNotFoundError",
    "FitsFormatError",
    "FitsWarning",
    "HduNotFoundError",
    "Image",
    "MissingDriverError",
    "Mosaic",
    "NoOverlapError",
    "NotAnImageError",
    "PartialOverlapError",
    "PixelValueError",
    "ReadPlan",
    "Stack",
    "StorageError",
    "TransferConfig",
    "TruncatedFileError",
    "TruncatedHeaderError",
    "UnsupportedHduError",
    "UnversionedFileWarning",
    "abandoned",
    "cutouts",
    "from_fits",
    "mosaic",
    "open",
    "open_collection",
    "optimal_wcs",
    "stack",
    "to_fits",
]


_LAZY = {
    "Abandoned": "dask_fits.storage.sinks",
    "abandoned": "dask_fits.storage.sinks",
    "Collection": "dask_fits.collections.collection",
    "cutouts": "dask_fits.many_cutouts.cutouts",
    "Mosaic": "dask_fits.mosaics.mosaic",
    "mosaic": "dask_fits.mosaics.mosaic",
    "optimal_wcs": "dask_fits.mosaics.optimal",
    "open_collection": "dask_fits.collections.opening",
    "Stack": "dask_fits.stacks.stack",
    "stack": "dask_fits.stacks.stack",
    "Image": "dask_fits.writing.image",
    "to_fits": "dask_fits.writing.fits",
}
"""Modules of the names that are imported on first use."""


def __getattr__(name: str) -> Any:
    """Import on first use what needs Dask and astropy, and look up the version."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("dask_fits")
    raise AttributeError(missing_name_message(name))
