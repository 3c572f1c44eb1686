"""`mosaic` and its result: many overlapping images on one grid, as lazy arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt

from dask_fits._typing import Chunks, Progress
from dask_fits.collections.collection import Collection
from dask_fits.file.hdu import HduKey
from dask_fits.hints import explains_arguments
from dask_fits.mosaics.array import mosaic_array, plan_mosaic
from dask_fits.mosaics.background import match
from dask_fits.mosaics.images import Beside, Given, make_inputs
from dask_fits.mosaics.inputs_table import inputs_table, with_errors
from dask_fits.mosaics.job import Combine, Conserve, Job, Recipe, Resampling, output_grid
from dask_fits.mosaics.output import output_text
from dask_fits.mosaics.rendering import find_used
from dask_fits.mosaics.setup import (
    OnError,
    check_choices,
    check_numbers,
    columns_for,
    common_unit,
    describe,
    divide,
    dtype_of,
    place_all,
    sort,
    warn_of_scales,
    with_skies,
)
from dask_fits.planning.chunks import ReadPlan
from dask_fits.storage.place import FilePath
from dask_fits.storage.sinks import sink_of
from dask_fits.storage.transfer import TransferConfig
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.text import header_of

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io import fits
    from astropy.table import Table
    from astropy.wcs import WCS
    from dask.delayed import Delayed

    from dask_fits.writing.image import Image


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Many images on one grid, as lazy arrays: a selection makes just what it needs."""

    data: da.Array
    """The pixels, (height, width); `fill_value` where no image has any."""
    weight: da.Array
    """Sum of the weights of the images that a pixel is made of: with exact areas, times the part of
    the pixel that each covers."""
    count: da.Array
    """Number of images that have a value there; of clipped means, of those that are left."""
    inputs: Table
    """A row for each image, in the order in which they are added: file, HDU, the box of the grid in
    which it is (begin and end along y and x, generously), background, weight, status and error."""
    collection: Collection
    """The images."""
    _job: Job = field(repr=False)
    _chunks: Chunks = field(repr=False)
    _unit: str = field(repr=False)
    """BUNIT, if all images have the same."""

    @property
    def error(self) -> da.Array:
        """Standard deviation of the pixels, by the errors of the images; covariance is left out.

        Raises
        ------
        AttributeError
            No errors were given.
        """
        if not self._job.recipe.has_errors:
            raise AttributeError("error: the mosaic was made without error=")
        return mosaic_array(self._job, "error", self._chunks)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid."""
        return self._job.shape

    @property
    def wcs(self) -> WCS:
        """World coordinates of the grid."""
        with filters_kept(), quiet():
            return self._job.text.wcs("mosaic")

    @property
    def header(self) -> fits.Header:
        """Header of the mosaic: its WCS, BUNIT if all images have the same, and NCOMBINE."""
        header = header_of(self._job.text)
        if self._unit:
            header["BUNIT"] = self._unit
        header["NCOMBINE"] = (len(self._job.inputs), "number of images that were combined")
        return header

    @property
    def plan(self) -> ReadPlan:
        """Cost of making all of `data`, chunk by chunk; tables of compressed images may be read."""
        return plan_mosaic(self._job, self._chunks)

    def sources(self, y: int, x: int) -> npt.NDArray[np.int64]:
        """Return the rows of `inputs` that a pixel is made of; reads what that takes.

        Raises
        ------
        IndexError
            The pixel is not on the grid.
        """
        height, width = self.shape
        if not (-height <= y < height and -width <= x < width):
            raise IndexError(f"pixel {y}, {x} is not on a grid of {height} x {width}")
        pixel = (int(y) % height, int(x) % width)
        box = ((pixel[0], pixel[0] + 1), (pixel[1], pixel[1] + 1))
        return np.array(find_used(self._job.take(box), pixel), np.int64)

    def to_xarray(self) -> xr.Dataset:
        """Return the mosaic as an `xarray.Dataset` of ``data``, ``weight``, ``count``, ``error``.

        Its coordinates are those that `xarray.open_dataset` makes of an image with this header, and
        ``.fits.wcs`` and ``.fits.cutout`` work on it.

        Raises
        ------
        MissingDriverError
            xarray is not installed.
        """
        from dask_fits.mosaics.dataset import make_dataset

        arrays = {"data": self.data, "weight": self.weight, "count": self.count}
        if self._job.recipe.has_errors:
            arrays["error"] = self.error
        return make_dataset(arrays, self._job.text, self.header)

    def to_zarr(
        self,
        store: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Mosaic:
        """Write the mosaic to a zarr group, chunk by chunk, in Dask's current scheduler.

        It holds ``data``, ``weight``, ``count`` and, where errors are given, ``error``, with the
        header and the WCS in their attributes, and the columns of `inputs`. A group that has not
        been written to its end has an attribute ``incomplete``. `xarray.open_zarr` opens it.

        Parameters
        ----------
        store : path or URL
            A directory, or a place in an object store.
        storage_options : mapping, optional
            Arguments of the fsspec filesystem that it is written to.
        overwrite : bool
            Replace a group that exists.

        Returns
        -------
        Mosaic
            The same, with the images in `inputs` that could not be read while it was written.

        Raises
        ------
        FileExistsError
            Something is there, and `overwrite` is not set.
        MissingDriverError
            zarr is not installed.
        """
        from dask_fits.mosaics.zarr_writer import write_mosaic
        from dask_fits.writing.zarr import open_zarr

        group = open_zarr(store, storage_options)
        errors = write_mosaic(
            group, self._job, self._chunks, self.header, self.inputs, overwrite=overwrite
        )
        return replace(self, inputs=with_errors(self.inputs, errors))

    def to_fits(
        self,
        url: FilePath,
        *,
        overwrite: bool = False,
        checksum: bool = True,
        storage_options: Mapping[str, Any] | None = None,
        transfer: TransferConfig | None = None,
        compute: bool = True,
    ) -> Mosaic | Delayed:
        """Write the mosaic to a FITS file, in parallel, whole or not at all.

        The primary HDU has the pixels. Behind it are the images WEIGHT, COUNT and, where errors are
        given, ERROR, with the same WCS, and `inputs` as the table INPUTS.

        Parameters
        ----------
        url, overwrite, checksum, storage_options, transfer
            See `dask_fits.to_fits`.
        compute : bool
            False returns a `dask.delayed.Delayed` that writes the file when it is computed.

        Returns
        -------
        Mosaic or Delayed
            The same mosaic, with the images in `inputs` that could not be read while it was
            written.

        Raises
        ------
        FileExistsError, AccessDeniedError, StorageError, TypeError
            See `dask_fits.to_fits`.
        """
        from dask_fits.mosaics.fits_writer import plan_mosaic_file
        from dask_fits.writing.execution import delayed_file, write_file

        sink = sink_of(url, storage_options, transfer, overwrite=overwrite)
        plan, errors = plan_mosaic_file(
            self._images(), self._job, self._chunks, self.inputs, sink.name, checksum=checksum
        )
        if not compute:
            return delayed_file(plan, sink)
        found = write_file(plan, sink, errors) or {}
        return replace(self, inputs=with_errors(self.inputs, found))

    def _images(self) -> list[Image]:
        """Return the HDUs of a file, the table aside."""
        from dask_fits.writing.image import Image

        header = self.header
        beside = header.copy()
        beside.remove("BUNIT", ignore_missing=True)
        arrays = {"WEIGHT": self.weight, "COUNT": self.count}
        images = [Image(self.data, header=header, wcs=self._job.text)]
        images += [
            Image(array, header=beside, wcs=self._job.text, name=name)
            for name, array in arrays.items()
        ]
        if self._job.recipe.has_errors:
            images.append(Image(self.error, header=header, wcs=self._job.text, name="ERROR"))
        return images

    def __repr__(self) -> str:
        recipe = self._job.recipe
        failed = int((self.inputs["status"] == "failed").sum())
        notes = [f"{failed} failed"] if failed else []
        count = len(self.inputs)
        described = [
            f"{count} image{'' if count == 1 else 's'} on {self.shape} {self.data.dtype}",
            f"{recipe.resampling} {recipe.combine}",
            f"chunks {self.data.chunksize}",
        ]
        return f"<Mosaic of {', '.join([*described, *notes])}>"


@explains_arguments
def mosaic(  # noqa: PLR0913 (each is a question that a caller has)
    files: object,
    wcs: object = None,
    shape: tuple[int, int] | None = None,
    *,
    hdu: HduKey | None = None,
    resampling: Resampling = "bilinear",
    combine: Combine = "mean",
    weights: Given = None,
    mask: Given = None,
    bits: int | None = None,
    error: Given = None,
    conserve: Conserve = "surface brightness",
    match_background: bool | int = False,
    chunks: Chunks = "auto",
    sort_by: str | None = None,
    fill_value: float = np.nan,
    dtype: npt.DTypeLike | None = None,
    on_error: OnError = "raise",
    storage_options: Mapping[str, Any] | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
) -> Mosaic:
    """Put many images on one grid, lazily; reads headers, and no pixels but to match backgrounds.

    Each chunk of the result is one task, which reads the parts that it needs of the images that
    reach into it, and adds them in their order. So a pixel does not depend on chunks, schedulers or
    threads, to the bit.

    Parameters
    ----------
    files : as for `dask_fits.open_collection`, or Collection
        Of a collection no header is read.
    wcs : WCS, Header, HDU, path or URL, optional
        World coordinates of the grid; of a file, those of its first image. By default those of
        `dask_fits.optimal_wcs`.
    shape : (int, int), optional
        Height and width of the grid; by default those that go with `wcs`.
    hdu : int, str or (str, int), optional
        HDU of each file; by default the first that holds an image, and of a collection each row.
    resampling : "bilinear", "exact", "nearest" or "lanczos3"
        How pixels are found between those of an image. ``"exact"`` takes the areas that pixels have
        in common, and is right also where the output's pixels are larger. An image whose pixels are
        those of the grid is not resampled but taken as it is.
    combine : "mean", "sum", "median", "clipped", "first", "last", "min" or "max"
        How images are combined where several have a value. ``"clipped"`` is the mean of what is
        within three standard deviations of the median, five times at most.
    weights : str, or sequence of float or array, optional
        A keyword or column of numbers, such as ``"EXPTIME"``; the EXTNAME of an HDU of each file
        with weights (one called ``ERR`` or ``VAR`` counts as errors or variances, and weighs
        1/variance); or a weight for each image, or an array. What has no weight above 0 is left
        out.
    mask : str or sequence of array, optional
        The EXTNAME of an HDU of each file, or an array for each image: what is not 0 in it is not
        used.
    bits : int, optional
        The bits of `mask` that count; all by default.
    error : str or sequence of array, optional
        The EXTNAME of an HDU with standard deviations (or, called ``VAR``, variances), or an array
        for each image. They are carried along into `Mosaic.error`.
    conserve : "surface brightness" or "flux"
        What a pixel says: how bright the sky is there, or how much light came from its area. The
        second is multiplied by the ratio of the areas of pixels.
    match_background : bool or int
        Whether a constant is subtracted from each image so that overlapping images agree. This
        reads a sample of the overlaps. A number is the row of the image that stays as it is.
    chunks : int, "auto", or a tuple of these and of tuples of int
        As Dask takes them. ``"auto"`` are 1024 x 1024 pixels.
    sort_by : str, optional
        Keyword or column by which images are ordered, as for "first" and "last"; by default their
        order is that of the files, which is also that of sequences that are given beside them.
    fill_value : number
        Of pixels that no image covers.
    dtype : NumPy type, optional
        By default float32; but integers stay what they are if all images are taken as they are,
        `combine` takes one of the values, and `fill_value` is an integer.
    on_error : "raise" or "skip"
        What is done about an image that cannot be read: its error is raised, here or when it is
        computed; or it is left out, and noted in `Mosaic.inputs` if that is known here or when the
        mosaic is written.
    storage_options, transfer, progress
        See `dask_fits.open_collection`; they are for files that are not in a collection yet.

    Returns
    -------
    Mosaic

    Raises
    ------
    ValueError
        An argument cannot be used, or there is no image.
    FitsError
        An image cannot be read or placed, and its error is to be raised.

    Examples
    --------
    >>> import dask_fits
    >>> m = dask_fits.mosaic(["tests/data/m13.fits"] * 2, "tests/data/m13.fits")
    >>> m
    <Mosaic of 2 images on (300, 300) float32, bilinear mean, chunks (300, 300)>
    >>> float(m.data[100:110, 100:110].mean().compute()), int(m.count[0, 0].compute())
    (144.5961..., 2)
    """
    check_choices(resampling=resampling, combine=combine, conserve=conserve, on_error=on_error)
    check_numbers(bits, fill_value, match_background)
    given = Beside(weights, mask, bits, error)
    skips = on_error == "skip"
    with filters_kept(), quiet():  # of what astropy mends in each header
        collection = describe(
            files,
            hdu,
            columns_for(given, sort_by),
            storage_options=storage_options,
            transfer=transfer,
            progress=progress,
            skips=skips,
        )
        made = make_inputs(collection, given)
        collection, made = sort(collection, made, sort_by)
        made, skies = with_skies(made) if wcs is None else (made, [])
        inputs, errors = divide(made, skips=skips)
        text = output_text(wcs, shape, skies, storage_options)
        output = output_grid(text)
        placed = place_all(inputs, output, skips=skips)
        recipe = Recipe(
            resampling,
            combine,
            conserve,
            np.dtype(np.float32),
            fill_value,
            skips,
            has_errors=error is not None,
        )
        matches = match_background is not False
        recipe = replace(recipe, dtype=dtype_of(recipe, placed, dtype, matches=matches))
        warn_of_scales(collection, placed, output, recipe)
        if matches:
            reference = None if match_background is True else int(match_background)
            placed = match(placed, text, recipe, reference)
    job = Job.of(placed.inputs, text, recipe, placed.outlines)
    return Mosaic(
        mosaic_array(job, "data", chunks),
        mosaic_array(job, "weight", chunks),
        mosaic_array(job, "count", chunks),
        inputs_table(collection, job, placed.pasted, {**errors, **placed.errors}),
        collection,
        job,
        chunks,
        common_unit(collection, placed),
    )
