"""The accessor ``.fits`` of Datasets and DataArrays: header, WCS, cutouts and nearest pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import xarray as xr

from dask_fits._typing import Position, Size
from dask_fits.storage.place import FilePath
from dask_fits.storage.transfer import TransferConfig
from dask_fits.wcs.attributes import HEADER, PRIMARY_HEADER, WCS_CARDS, attribute

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS
    from dask.delayed import Delayed

    from dask_fits.writing.image import Image
    from dask_fits.xarray_backend.subset import SelectionMode

T = TypeVar("T", xr.Dataset, xr.DataArray)


class _Fits(Generic[T]):
    """The part of the accessor that is the same for Datasets and DataArrays."""

    def __init__(self, obj: T) -> None:
        self._obj: T = obj

    @property
    def _image(self) -> xr.Variable:
        """The variable whose attributes hold the header and the WCS."""
        raise NotImplementedError

    @property
    def header(self) -> fits.Header:
        """The header of the image's HDU, as a new `astropy.io.fits.Header` at each call.

        For a Dataset, it is the header of its first image. It is the header of the file: after a
        selection its NAXISn and WCS still describe the whole image, unlike `wcs`.

        Raises
        ------
        ValueError
            The attributes hold no header: the object does not come from a FITS file, or they were
            dropped.
        """
        from astropy.io import fits

        return fits.Header.fromstring(self._attribute(HEADER), sep="\n")

    @property
    def wcs(self) -> WCS:
        """The world coordinates of the remaining pixels, as a new `astropy.wcs.WCS`.

        Slices, also with steps, and bins (``coarsen``) are taken into account by the coordinates of
        each dimension. The axes are those of the array, in reverse order (FITS vs NumPy), without
        dropped dimensions and those that the image does not have.

        Raises
        ------
        FitsFormatError
            The keywords make no WCS.
        ValueError
            The attributes hold no WCS; pixels are not evenly spaced along a dimension, or it has no
            coordinates to identify them by; or the world coordinates along a dimension depend on
            one that was dropped.
        """
        from dask_fits.xarray_backend.subset import current_wcs

        return current_wcs(self._obj, self._image, self._where)

    def cutout(self, position: Position, size: Size, *, mode: SelectionMode = "trim") -> T:
        """Cut a box around a position out of the image; see `dask_fits.cutout.cutout`.

        Parameters
        ----------
        position : SkyCoord or (float, float)
            Centre of the box: a position on the sky, or pixel coordinates (x, y) from 0 in the
            current array.
        size : number, Quantity, or two of them
            Height and width, in pixels or as angles.
        mode : "trim" or "strict"
            Treatment of a box that reaches over the image's edge: it is trimmed to the image, or it
            is an error.

        Returns
        -------
        xarray.Dataset or xarray.DataArray
            The pixels of the box, as lazy as before; ``.fits.wcs`` moves with them.

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
        """Select the pixel nearest to a position on the sky; all other dimensions are kept.

        Parameters
        ----------
        position : SkyCoord
            One position, in any frame that astropy transforms to that of the WCS.

        Raises
        ------
        KeyError
            The position is outside the image.
        ValueError
            The argument is not one position, or the WCS is not celestial; and as for `wcs`.
        """
        from dask_fits.xarray_backend.subset import nearest_pixel

        return self._obj.isel(nearest_pixel(self._obj, self._image, self._where, position))

    def to_fits(
        self,
        url: FilePath,
        *,
        overwrite: bool = False,
        checksum: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        transfer: TransferConfig | None = None,
        compute: bool = True,
    ) -> Delayed | None:
        """Write the pixels to a FITS file, in parallel; see `dask_fits.to_fits`.

        A DataArray becomes the primary HDU. Of a Dataset, each variable becomes an HDU behind the
        primary header of its file, or the primary HDU if it was that. EXTNAME is the name, BUNIT
        the units, other keywords those of `header`, and the WCS is that of the remaining pixels, as
        of `wcs`, with the tables that it refers to.

        Parameters
        ----------
        url, overwrite, checksum, storage_options, transfer, compute
            See `dask_fits.to_fits`.

        Raises
        ------
        ValueError
            The remaining pixels have no WCS, as for `wcs`. Without its attribute ``wcs`` an array
            is written without one (``array.drop_attrs()``).
        PixelValueError, FileExistsError, TypeError, StorageError
            See `dask_fits.to_fits`.
        """
        from dask_fits.writing.fits import to_fits

        return to_fits(
            self._images(),
            url,
            overwrite=overwrite,
            checksum=checksum,
            storage_options=storage_options,
            transfer=transfer,
            compute=compute,
        )

    def _images(self) -> list[Image]:
        """Return the HDUs that the object is written as."""
        raise NotImplementedError

    @property
    def _where(self) -> str:
        """The file or the object, for messages."""
        return str(self._obj.encoding.get("source") or "this " + type(self._obj).__name__)

    def _attribute(self, name: str) -> str:
        return attribute(self._image.attrs, name, self._where)


@xr.register_dataarray_accessor("fits")
class FitsAccessor(_Fits[xr.DataArray]):
    """``array.fits``: the FITS header of a DataArray, its WCS and selections by position."""

    @property
    def _image(self) -> xr.Variable:
        return self._obj.variable

    def _images(self) -> list[Image]:
        from dask_fits.xarray_backend.writing import image_of_array

        return [image_of_array(self._obj, self._where)]


@xr.register_dataset_accessor("fits")
class FitsDatasetAccessor(_Fits[xr.Dataset]):
    """``ds.fits``: the FITS headers of a Dataset, its WCS and selections by position."""

    @property
    def primary_header(self) -> fits.Header:
        """The primary header of the file, as a new `astropy.io.fits.Header` at each call."""
        from astropy.io import fits

        text = attribute(self._obj.attrs, PRIMARY_HEADER, self._where)
        return fits.Header.fromstring(text, sep="\n")

    @property
    def _image(self) -> xr.Variable:
        variables = (array.variable for array in self._obj.data_vars.values())
        image = next((variable for variable in variables if WCS_CARDS in variable.attrs), None)
        # Without any, an empty variable, whose missing attributes raise the error.
        return xr.Variable((), 0) if image is None else image

    def _images(self) -> list[Image]:
        from dask_fits.xarray_backend.writing import images_of_dataset

        return images_of_dataset(self._obj, self._where)
