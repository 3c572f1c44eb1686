"""The WCS, cutouts and nearest pixels of an xarray object, which may be a part of its image.

The coordinates of the object's dimensions identify its pixels in the image. If these are evenly
spaced along each dimension, they are the pixels of a WCS again::

    pixel of the whole image     0   1   2   3   4   5   6   7
    pixel of the object                  0       1       2          origin 2, step 2

Axes are in NumPy's order, except those named `fits_axes`, and those of a WCS.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from dask_fits._typing import Position, Size
from dask_fits.cutout import box_around, needs_sky
from dask_fits.exceptions import FitsFormatError, NotAnImageError
from dask_fits.wcs.attributes import WCS_CARDS, WCS_TABLES, attribute
from dask_fits.wcs.geometry import to_pixels
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.plane import Plane, plane_without_wcs
from dask_fits.wcs.resampling import resampled
from dask_fits.wcs.turns import Extent, is_distorted
from dask_fits.xarray_backend.grid import (
    Grid,
    Pixels,
    dependence_matrix,
    make_grid,
    nearest,
    plain_grid,
)

Object = xr.Dataset | xr.DataArray

SelectionMode = Literal["trim", "strict"]
"""The modes of `dask_fits.cutout.Mode` that select pixels, without filling any."""


def current_wcs(obj: Object, image: xr.Variable, where: str) -> WCS:
    """Make the WCS of an object's pixels; see `FitsAccessor.wcs`."""
    grid = make_grid(_wcs_text(image, where), where)
    return _remaining_wcs(grid, obj, image, image.dims, where)


def wcs_of_all_axes(obj: Object, image: xr.Variable, where: str) -> WCS:
    """Make the WCS of an object's pixels with an axis for each of its dimensions.

    Those that the image does not have count pixels from 1, as FITS has it for an axis that nothing
    is said of; errors are those of `FitsAccessor.wcs`.
    """
    wcs = current_wcs(obj, image, where)
    dims = make_grid(_wcs_text(image, where), where).dims
    kept = [dim for dim in reversed(image.dims) if dim in dims]
    if len(kept) == image.ndim:
        return wcs
    axes = [kept.index(dim) + 1 if dim in kept else 0 for dim in reversed(image.dims)]
    if is_distorted(wcs):
        added = ", ".join(map(str, (dim for dim in image.dims if dim not in dims)))
        raise ValueError(
            f"{where}: the image does not have the dimension {added}, and its WCS has a "
            "distortion, which astropy knows of two axes only: write the parts one by one, or "
            "array.drop_attrs() without a WCS"
        )
    return wcs.sub([*axes, *range(len(kept) + 1, wcs.naxis + 1)])


def origins_of(obj: Object, image: xr.Variable, where: str) -> list[int] | None:
    """Find the first pixel of a box of the image along each axis, NumPy order.

    None if the object is no box of it: pixels were left out in between, binned or turned around, or
    dimensions are gone, new or in another order.

    Raises
    ------
    ValueError
        The coordinates along a dimension are not those of the image.
    """
    text = _wcs_text(image, where)
    try:
        grid = make_grid(text, where)
    except FitsFormatError:
        grid = plain_grid(text.shape)
    if image.dims != grid.dims:
        return None
    spacing = [_spacing(_pixels(grid, obj, dim, where), dim, where) for dim in grid.dims]
    if any(step != 1 or origin % 1 for origin, step in spacing):
        return None
    return [int(origin) for origin, _ in spacing]


def cutout_slices(
    obj: Object,
    image: xr.Variable,
    where: str,
    position: Position,
    size: Size,
    mode: SelectionMode,
) -> dict[Hashable, slice]:
    """Find the box of a cutout as slices of an object; see `FitsAccessor.cutout`.

    Parameters
    ----------
    obj : Dataset or DataArray
    image : Variable
        The variable of the object whose attributes hold the WCS.
    where : str
        The file or the object, for messages.
    position, size, mode
        Those of `FitsAccessor.cutout`.
    """
    if mode not in get_args(SelectionMode):
        raise ValueError(f"{where}: mode: expected trim or strict, found {mode!r}")
    plane = _CutoutPlane.of(image, where)
    shape = image.sizes[plane.dims[0]], image.sizes[plane.dims[1]]
    # A position and a size in pixels need no WCS, which may be invalid.
    sky_plane = Plane.of_pixels(2)
    extent = None
    if needs_sky(position, size):
        sky_plane, extent = plane.remaining_sky(obj, image, where)
    box = box_around(shape, sky_plane, (position, size), mode=mode, where=where, image=extent)
    return dict(zip(plane.dims, box.slices, strict=True))


def nearest_pixel(
    obj: Object, image: xr.Variable, where: str, position: SkyCoord
) -> dict[Hashable, int]:
    """Find the pixel nearest to a position on the sky; see `FitsAccessor.sel_sky`.

    `obj`, `image` and `where` are those of `cutout_slices`.
    """
    if not isinstance(position, SkyCoord) or not position.isscalar:
        expected = "expected a SkyCoord of one position"
        raise ValueError(f"{where}: position: {expected}, found {position!r}")
    plane = _CutoutPlane.of(image, where)
    dims = plane.dims
    sky_plane, extent = plane.remaining_sky(obj, image, where)
    remaining = Extent.of(image.sizes[dims[0]], image.sizes[dims[1]])
    try:
        x, y = map(float, to_pixels(sky_plane.sky, position, extent, remaining))
    except FitsFormatError as error:
        raise FitsFormatError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    indexers: dict[Hashable, int] = {}
    for dim, pixel in zip(dims, (y, x), strict=True):
        index = nearest(pixel, image.sizes[dim])
        if index is None:
            coordinates = f"{position.to_string('decimal', precision=6)} ({position.frame.name})"
            raise KeyError(
                f"{where}: the position {coordinates} is at x = {x:.6g}, y = {y:.6g}, off the "
                f"{image.sizes[dim]} pixels along {dim}"
            )
        indexers[dim] = int(index)
    return indexers


def _wcs_text(image: xr.Variable, where: str) -> WcsText:
    """Return the text of the whole image's WCS from the attributes."""
    cards = attribute(image.attrs, WCS_CARDS, where)
    return WcsText(cards, str(image.attrs.get(WCS_TABLES, "")))


@dataclass(frozen=True, slots=True, eq=False)
class _CutoutPlane:
    """The two dimensions of a cutout, and the whole image's grid and WCS."""

    dims: tuple[str, str]
    """y and x; the last two dimensions that are left if the image has no plane of the sky."""
    grid: Grid
    fallback: Plane | None
    """The plane of the celestial keywords alone, if all keywords together make no valid WCS."""

    @classmethod
    def of(cls, image: xr.Variable, where: str) -> _CutoutPlane:
        """Find the dimensions, however the object is transposed."""
        text = _wcs_text(image, where)
        fallback = None
        try:
            grid = make_grid(text, where)
        except FitsFormatError as error:
            grid = plain_grid(text.shape)
            fallback = plane_without_wcs(text, error, where)

        remaining = [dim for dim in grid.dims if dim in image.dims]
        dims = remaining[-2:]
        if fallback is not None and fallback.celestial is not None:
            sky_dims = [grid.dims[axis] for axis in fallback.axes]
            dims = sky_dims if {*sky_dims} <= {*remaining} else dims
        elif grid.sky is not None and {"y", "x"} <= {*remaining}:
            dims = ["y", "x"]
        if len(dims) < 2:
            raise NotAnImageError(f"{where}: expected two dimensions, found {remaining}")
        return cls((dims[0], dims[1]), grid, fallback)

    def remaining_sky(
        self, obj: Object, image: xr.Variable, where: str
    ) -> tuple[Plane, Extent | None]:
        """Make the plane of the sky of the pixels that are left.

        Returns
        -------
        plane : Plane
            Its axes are `dims`.
        extent : Extent or None
            The whole image in these pixels; None if the image has no plane of the sky.
        """
        spacing = [_spacing(_pixels(self.grid, obj, dim, where), dim, where) for dim in self.dims]
        if self.fallback is not None:
            wcs = self._resample_fallback(self.fallback, spacing, image, where)
        else:
            remaining = [dim for dim in self.grid.dims if dim in image.dims]
            wcs = _remaining_wcs(self.grid, obj, image, remaining, where)
            if self.grid.sky is None:
                return Plane((0, 1), wcs, wcs, None), None
        return Plane((0, 1), wcs, wcs, None), self._image_extent(spacing)

    def _resample_fallback(
        self,
        fallback: Plane,
        spacing: list[tuple[float, float]],
        image: xr.Variable,
        where: str,
    ) -> WCS:
        """Make the WCS of the celestial keywords for the pixels that are left."""
        wcs = fallback.sky
        sky_dims = [self.grid.dims[axis] for axis in fallback.axes]
        if [*self.dims] != sky_dims:
            expected = f"expected the dimensions of the sky {' and '.join(sky_dims)}"
            raise NotAnImageError(f"{where}: {expected}, found {image.dims}")
        origins, steps = zip(*spacing, strict=True)
        return resampled(wcs, origins, steps, tuple(image.sizes[dim] for dim in self.dims))

    def _image_extent(self, spacing: list[tuple[float, float]]) -> Extent:
        """Return the extent of the whole image in the pixels that are left."""
        lengths = (self.grid.shape[self.grid.dims.index(dim)] for dim in self.dims)
        # Edges are half a pixel beyond the centres of the first and the last pixel; a negative step
        # exchanges the two.
        (bottom, top), (left, right) = (
            sorted(((-0.5 - origin) / step, (length - 0.5 - origin) / step))
            for (origin, step), length in zip(spacing, lengths, strict=True)
        )
        return Extent((left, bottom), (right, top))


def _remaining_wcs(
    grid: Grid, obj: Object, image: xr.Variable, dims: Iterable[Hashable], where: str
) -> WCS:
    """Make the WCS of the pixels that are left along some dimensions, in their order."""
    kept = [str(dim) for dim in dims if dim in grid.dims]
    if not kept:
        raise ValueError(f"{where}: none of the image's dimensions {grid.dims} is left")
    # First resample all axes of the image, then drop those of the other dimensions.
    origins = [0.0] * len(grid.dims)
    steps = [1.0] * len(grid.dims)
    for dim in kept:
        axis = grid.dims.index(dim)
        origins[axis], steps[axis] = _spacing(_pixels(grid, obj, dim, where), dim, where)
    shape = tuple(image.sizes.get(dim, 1) for dim in grid.dims)
    wcs = resampled(grid.wcs, origins, steps, shape)
    fits_axes = [grid.fits_axis(dim) for dim in reversed(kept)]
    if fits_axes == list(range(len(grid.dims))):
        return wcs
    return _take_axes(wcs, fits_axes, grid, where)


def _take_axes(wcs: WCS, fits_axes: list[int], grid: Grid, where: str) -> WCS:
    """Return a WCS of some axes of another one, in a given order."""
    axes = [axis for axis in fits_axes if axis < wcs.naxis]
    # Axes that the WCS has beyond the image's stay; they have one pixel.
    axes += range(len(grid.dims), wcs.naxis)

    # A dropped axis must not be needed by the coordinates of one that stays.
    matrix = dependence_matrix(wcs)
    dims_in_fits_order = grid.dims[::-1]
    for dropped in set(range(wcs.naxis)) - set(axes):
        worlds = np.flatnonzero(matrix[:, dropped])
        coupled = {int(axis) for axis in np.flatnonzero(matrix[worlds].any(axis=0))} - {dropped}
        if coupled & set(axes):
            along = ", ".join(dims_in_fits_order[axis] for axis in sorted(coupled & {*axes}))
            raise ValueError(
                f"{where}: the dimension {dims_in_fits_order[dropped]} is gone, and the world "
                f"coordinates along {along} depend on it"
            )
    # Distortions are always of a WCS's first two axes.
    if is_distorted(wcs) and axes[:2] != [0, 1]:
        raise ValueError(
            f"{where}: the dimensions are in another order than in the image; astropy's WCS "
            "cannot follow that with a distortion: transpose them back"
        )
    return wcs.sub([axis + 1 for axis in axes])


def _pixels(grid: Grid, obj: Object, dim: str, where: str) -> Pixels:
    """Find the pixels of the image that are left along a dimension, by its coordinates."""
    whole = range(grid.shape[grid.dims.index(dim)])
    # Without coordinates they must be all of them.
    if dim not in obj.coords:
        if obj.sizes[dim] != len(whole):
            raise ValueError(
                f"{where}: {dim} has {obj.sizes[dim]} of the image's {len(whole)} pixels and no "
                "coordinates that tell which"
            )
        return whole
    world = grid.along(dim)
    if world is None:
        return _pixels_of_coordinate(obj.coords[dim])
    # World coordinates are compared with those of the whole image.
    values = obj.coords[dim].values
    are_floats = values.dtype.kind == world.values.dtype.kind == "f"
    if np.array_equal(values, world.values, equal_nan=are_floats):
        return whole  # even if some are equal, or NaN
    return _pixels_of_world(values, world.values, dim, where)


def _pixels_of_coordinate(coordinate: xr.DataArray) -> Pixels:
    """Return the pixels in a coordinate; a range stays one, which takes no memory."""
    index: Any = coordinate.to_index()
    if all(hasattr(index, name) for name in ("start", "stop", "step")):
        return range(index.start, index.stop, index.step)
    return np.asarray(coordinate.values, np.float64)


def _pixels_of_world(
    values: npt.NDArray[Any], image_values: npt.NDArray[Any], dim: str, where: str
) -> npt.NDArray[np.float64]:
    """Find the pixels of world coordinates, in fractions between two pixels.

    Parameters
    ----------
    values : array
        World coordinates of the object along a dimension.
    image_values : array
        World coordinates of the whole image along it.
    dim, where : str
        The dimension, and the file or the object, for messages.
    """
    count = len(image_values)
    order = np.argsort(image_values, kind="stable")
    ascending = image_values[order]
    sorted_index = np.clip(np.searchsorted(ascending, values), 0, max(count - 1, 0))
    if count and (ascending[sorted_index] == values).all():
        return order[sorted_index].astype(np.float64)
    # Coordinates of bins are means, which lie between those of pixels.
    can_interpolate = (
        image_values.dtype.kind == "f" and count > 1 and (np.diff(ascending) > 0).all()
    )
    if not can_interpolate or not ((values >= ascending[0]) & (values <= ascending[-1])).all():
        raise ValueError(f"{where}: the coordinates along {dim} are not those of the image")
    pixels: npt.NDArray[np.float64] = np.interp(values, ascending, order.astype(np.float64))
    return pixels


def _spacing(pixels: Pixels, dim: str, where: str) -> tuple[float, float]:
    """Return the first of evenly spaced pixels, and the step from one to the next."""
    if not len(pixels):
        return 0.0, 1.0
    if isinstance(pixels, range):
        return float(pixels.start), float(pixels.step) if len(pixels) > 1 else 1.0
    if len(pixels) == 1 and pixels[0] % 1:
        raise ValueError(f"{where}: {dim} has a single bin of pixels, whose width is not known")
    step = float(pixels[-1] - pixels[0]) / (len(pixels) - 1) if len(pixels) > 1 else 1.0
    even = pixels[0] + step * np.arange(len(pixels))
    # The pixels are interpolated in world coordinates, so they carry errors of rounding.
    if step == 0 or not (np.abs(pixels - even) <= 1e-3).all():
        raise ValueError(
            f"{where}: the pixels along {dim} are not evenly spaced; only those have a WCS"
        )
    rounded = round(step, 6)
    return float(pixels[0]), rounded if abs(step - rounded) < 1e-6 else step
