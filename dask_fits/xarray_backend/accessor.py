"""The accessor ``.fits`` of Datasets and DataArrays: header, WCS, and what is found by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

from dask_fits._typing import Position, Size
from dask_fits.xarray_backend.attributes import HEADER, PRIMARY_HEADER, WCS_CARDS, attribute

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS

T = TypeVar("T", xr.Dataset, xr.DataArray)


class _Fits(Generic[T]):
    def __init__(self, obj: T) -> None:
        self._obj: T = obj

    @property
    def _image(self) -> xr.Variable:
        """The variable whose attributes count."""
        raise NotImplementedError

    @property
    def header(self) -> fits.Header:
        """The header of the image's HDU, as a new `astropy.io.fits.Header` at each call.

        Of a Dataset, the header of its first image. It is the header that the file has: after a
        selection its NAXISn and WCS still describe the whole image, other than `wcs`.

        Raises
        ------
        ValueError
            The attributes hold none: it does not come from a FITS file, or they were dropped.
        """
        from astropy.io import fits

        return fits.Header.fromstring(self._attribute(HEADER), sep="\n")

    @property
    def wcs(self) -> WCS:
        """The world coordinates of the pixels that are left, as a new `astropy.wcs.WCS`.

        Slices, with steps too, and bins (``coarsen``) are followed by the coordinates of each
        dimension. A dimension that is gone is left out. The axes are those of the array, in
        reverse as ever between FITS and NumPy; dimensions that are not of the image are left out.

        Raises
        ------
        FitsFormatError
            The keywords make no WCS.
        ValueError
            The attributes hold none; pixels are not evenly spaced along a dimension, or it has no
            coordinates that tell which they are; or a dimension is gone on which the world
            coordinates along another one depend.
        """
        from dask_fits.xarray_backend.subset import current_wcs

        return current_wcs(self._obj, self._image, self._where)

    def cutout(self, position: Position, size: Size, *, mode: Any = "trim") -> T:
        """Cut a box around a position out of the image; see `dask_fits.cutout.cutout`.

        Parameters
        ----------
        position : SkyCoord or (float, float)
            Centre of the box: a position on the sky, or pixels (x, y) counted from 0 in the array
            as it is now.
        size : number, Quantity, or two of them
            Height and width, in pixels or as angles.
        mode : "trim" or "strict"
            What becomes of a box that reaches over the image's edge: what is on the image is
            returned, or it is an error.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            The pixels of the box, as lazy as they were; ``.fits.wcs`` moves with them.

        Raises
        ------
        NoOverlapError, PartialOverlapError, ValueError
            As for `dask_fits.cutout.cutout` and `wcs`.
        """
        from dask_fits.xarray_backend.subset import cutout_slices

        return self._obj.isel(
            cutout_slices(self._obj, self._image, self._where, position, size, mode)
        )

    def sel_sky(self, position: SkyCoord) -> T:
        """Select the pixel that is nearest to a position on the sky, along all other dimensions.

        Parameters
        ----------
        position : SkyCoord
            One position, in any frame that astropy transforms to that of the WCS.

        Raises
        ------
        KeyError
            It is off the image.
        ValueError
            It is not one position, or the WCS is not celestial; and as for `wcs`.
        """
        from dask_fits.xarray_backend.subset import nearest_pixel

        return self._obj.isel(nearest_pixel(self._obj, self._image, self._where, position))

    @property
    def _where(self) -> str:
        return str(self._obj.encoding.get("source") or "this " + type(self._obj).__name__)

    def _attribute(self, name: str) -> str:
        return attribute(self._image.attrs, name, self._where)


@xr.register_dataarray_accessor("fits")
class FitsAccessor(_Fits[xr.DataArray]):
    """``array.fits``: what a DataArray knows of its FITS header."""

    @property
    def _image(self) -> xr.Variable:
        return self._obj.variable


@xr.register_dataset_accessor("fits")
class FitsDatasetAccessor(_Fits[xr.Dataset]):
    """``ds.fits``: what a Dataset knows of its FITS headers."""

    @property
    def primary_header(self) -> fits.Header:
        """The primary header of the file, as a new `astropy.io.fits.Header` at each call."""
        from astropy.io import fits

        text = attribute(self._obj.attrs, PRIMARY_HEADER, self._where)
        return fits.Header.fromstring(text, sep="\n")

    @property
    def _image(self) -> xr.Variable:
        images = (v.variable for v in self._obj.data_vars.values())
        found = next((image for image in images if WCS_CARDS in image.attrs), None)
        return xr.Variable((), 0) if found is None else found
