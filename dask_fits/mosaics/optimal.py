"""`optimal_wcs`: the grid that suits the images of many files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dask_fits.file.hdu import HduKey
from dask_fits.hints import explains_arguments
from dask_fits.mosaics.output import sky_and_shape
from dask_fits.mosaics.setup import describe
from dask_fits.storage.transfer import TransferConfig
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.optimal import optimal_grid

if TYPE_CHECKING:
    from astropy.coordinates import BaseCoordinateFrame, SkyCoord
    from astropy.units import Quantity
    from astropy.wcs import WCS


@explains_arguments
def optimal_wcs(  # noqa: PLR0913 (each is a question that a caller has)
    files: object,
    *,
    hdu: HduKey | None = None,
    frame: str | BaseCoordinateFrame | None = None,
    projection: str = "TAN",
    resolution: float | Quantity | None = None,
    reference: SkyCoord | Sequence[float] | None = None,
    rotate: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
) -> tuple[WCS, tuple[int, int]]:
    """Find a grid of square pixels that holds the images of files; reads headers, and no pixels.

    It is that of `reproject.mosaicking.find_optimal_celestial_wcs`, but for images whose edges
    bulge beyond their corners: the edges count.

    Parameters
    ----------
    files : as for `dask_fits.open_collection`, or Collection
    hdu : int, str or (str, int), optional
        HDU of each file; by default the first that holds an image, and of a collection each row.
    frame : str or astropy frame, optional
        Frame of the grid, such as "icrs" or "galactic"; by default that of the first image.
    projection : str
        Three letters of the FITS Standard: "TAN"; "CAR", "AIT" or "ZEA" for large parts of the sky.
    resolution : Quantity or float, optional
        Side of a pixel at the reference point; a number is in degrees. By default that of the
        smallest pixels of all images.
    reference : SkyCoord or (lon, lat), optional
        The reference point; two numbers are degrees in the frame of the grid. By default the mean
        direction of the positions at the images' CRPIX.
    rotate : bool
        Turn the grid so that its area is the least, by up to 45 degrees.
    storage_options, transfer
        See `dask_fits.open`; they are for files that are not in a collection yet.

    Returns
    -------
    wcs : astropy.wcs.WCS
    shape : (int, int)
        Height and width.

    Raises
    ------
    ValueError
        An image has no place in the projection, or there would be too many pixels.
    FitsError
        A file cannot be read, or an image has no celestial coordinates.

    Examples
    --------
    >>> import dask_fits
    >>> wcs, shape = dask_fits.optimal_wcs(["tests/data/m13.fits"])
    >>> shape, wcs.wcs.ctype[0]
    ((300, 300), 'RA---TAN')
    """
    collection = describe(files, hdu, (), storage_options=storage_options, transfer=transfer)
    for error in collection.errors().values():
        raise error
    return optimal_grid(
        [sky_and_shape(WcsText.of(image.wcs_header()), image.where) for image in collection],
        frame=frame,
        projection=projection,
        resolution=resolution,
        reference=reference,
        rotate=rotate,
    )
