"""Which pixels of its image an xarray object still has, and what follows for its WCS."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from dask_fits._typing import Position, Size
from dask_fits.cutout import box_around, needs_sky
from dask_fits.exceptions import FitsFormatError, NotAnImageError
from dask_fits.wcs.geometry import to_pixels
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.plane import Plane, plane_without_wcs
from dask_fits.wcs.resampling import resampled
from dask_fits.wcs.turns import Extent, is_distorted
from dask_fits.xarray_backend.attributes import WCS_CARDS, WCS_TABLES, attribute
from dask_fits.xarray_backend.grid import (
    Grid,
    Pixels,
    depends,
    make_grid,
    nearest,
    plain_grid,
)

Object = xr.Dataset | xr.DataArray


def current_wcs(obj: Object, image: xr.Variable, where: str) -> WCS:
    """Make the WCS of the pixels that are left; see `FitsAccessor.wcs`."""
    return _current(make_grid(_text(image, where), where), obj, image, image.dims, where)


def cutout_slices(
    obj: Object, image: xr.Variable, where: str, position: Position, size: Size, mode: Any
) -> dict[Hashable, slice]:
    """Find the box of a cutout; see `FitsAccessor.cutout`."""
    if mode not in ("trim", "strict"):
        raise ValueError(f"{where}: mode: expected trim or strict, found {mode!r}")
    plane = _Plane.of(image, where)
    whole = image.sizes[plane.dims[0]], image.sizes[plane.dims[1]]
    if needs_sky(position, size):
        sky, extent = plane.sky(obj, image, where)
    else:
        sky, extent = Plane.of_pixels(2), None
    box = box_around(whole, sky, (position, size), mode=mode, where=where, image=extent)
    return dict(zip(plane.dims, box.slices, strict=True))


def nearest_pixel(
    obj: Object, image: xr.Variable, where: str, position: SkyCoord
) -> dict[Hashable, int]:
    """Find the pixel of a position; see `FitsAccessor.sel_sky`."""
    if not isinstance(position, SkyCoord) or not position.isscalar:
        expected = "expected a SkyCoord of one position"
        raise ValueError(f"{where}: position: {expected}, found {position!r}")
    plane = _Plane.of(image, where)
    dims = plane.dims
    sky, extent = plane.sky(obj, image, where)
    left = Extent.of(image.sizes[dims[0]], image.sizes[dims[1]])
    try:
        x, y = map(float, to_pixels(sky.sky, position, extent, left))
    except FitsFormatError as error:
        raise FitsFormatError(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    found: dict[Hashable, int] = {}
    for dim, pixel in zip(dims, (y, x), strict=True):
        index = nearest(pixel, image.sizes[dim])
        if index is None:
            said = f"{position.to_string('decimal', precision=6)} ({position.frame.name})"
            raise KeyError(
                f"{where}: the position {said} is at x = {x:.6g}, y = {y:.6g}, off the "
                f"{image.sizes[dim]} pixels along {dim}"
            )
        found[dim] = int(index)
    return found


def _text(image: xr.Variable, where: str) -> WcsText:
    """Take what the WCS of the whole image is made of out of the attributes."""
    cards = attribute(image.attrs, WCS_CARDS, where)
    return WcsText(cards, str(image.attrs.get(WCS_TABLES, "")))


@dataclass(frozen=True, slots=True, eq=False)
class _Plane:
    """The two dimensions that a cutout is of, and the whole image's grid and WCS."""

    dims: tuple[str, str]
    """y and x, or else the last two that are left."""
    grid: Grid
    whole: Plane | None
    """What finds positions where the keywords make no WCS of the whole image."""

    @classmethod
    def of(cls, image: xr.Variable, where: str) -> _Plane:
        """Find them, however the object is transposed."""
        text, whole = _text(image, where), None
        try:
            grid = make_grid(text, where)
        except FitsFormatError as error:
            grid, whole = plain_grid(text.shape), plane_without_wcs(text, error, where)
        left = [dim for dim in grid.dims if dim in image.dims]
        dims = left[-2:]
        if whole is not None and whole.celestial is not None:
            of_sky = [grid.dims[axis] for axis in whole.axes]
            dims = of_sky if {*of_sky} <= {*left} else dims
        elif grid.sky is not None and {"y", "x"} <= {*left}:
            dims = ["y", "x"]
        if len(dims) < 2:
            raise NotAnImageError(f"{where}: expected two dimensions, found {left}")
        return cls((dims[0], dims[1]), grid, whole)

    def sky(self, obj: Object, image: xr.Variable, where: str) -> tuple[Plane, Extent | None]:
        """Find what positions are found with on the pixels that are left.

        Returns
        -------
        plane : Plane
            Its axes are `dims`.
        extent : Extent or None
            Of the whole image, in these pixels.
        """
        spacing = [_spacing(_pixels(self.grid, obj, dim, where), dim, where) for dim in self.dims]
        if self.whole is not None:
            wcs, of_sky = self.whole.sky, [self.grid.dims[axis] for axis in self.whole.axes]
            if [*self.dims] != of_sky:
                expected = f"expected the dimensions of the sky {' and '.join(of_sky)}"
                raise NotAnImageError(f"{where}: {expected}, found {image.dims}")
            origin, step = zip(*spacing, strict=True)
            found = resampled(wcs, origin, step, tuple(image.sizes[dim] for dim in self.dims))
        else:
            left = [dim for dim in self.grid.dims if dim in image.dims]
            found = _current(self.grid, obj, image, left, where)
            if self.grid.sky is None:
                return Plane((0, 1), found, found, None), None
        lengths = (self.grid.shape[self.grid.dims.index(dim)] for dim in self.dims)
        edges = [
            sorted(((-0.5 - origin) / step, (length - 0.5 - origin) / step))
            for (origin, step), length in zip(spacing, lengths, strict=True)
        ]
        (bottom, top), (left_edge, right) = edges
        return Plane((0, 1), found, found, None), Extent((left_edge, bottom), (right, top))


def _current(
    grid: Grid, obj: Object, image: xr.Variable, dims: Iterable[Hashable], where: str
) -> WCS:
    """Make the WCS of the pixels that are left along some dimensions, in their order."""
    kept = [str(dim) for dim in dims if dim in grid.dims]
    if not kept:
        raise ValueError(f"{where}: none of the image's dimensions {grid.dims} is left")
    origin, step = [0.0] * len(grid.dims), [1.0] * len(grid.dims)
    for dim in kept:
        axis = grid.dims.index(dim)
        origin[axis], step[axis] = _spacing(_pixels(grid, obj, dim, where), dim, where)
    shape = tuple(image.sizes.get(dim, 1) for dim in grid.dims)
    found = resampled(grid.wcs, origin, step, shape)
    axes = [grid.fits_axis(dim) for dim in reversed(kept)]
    if axes == list(range(len(grid.dims))):
        return found
    return _of_axes(found, axes, grid, where)


def _of_axes(wcs: WCS, axes: list[int], grid: Grid, where: str) -> WCS:
    """Leave axes of a WCS out, or change their order."""
    axes = [axis for axis in axes if axis < wcs.naxis]
    axes += range(len(grid.dims), wcs.naxis)  # of which the image has one pixel
    matrix = depends(wcs)
    for gone in set(range(wcs.naxis)) - set(axes):
        needing = np.flatnonzero(matrix[:, gone])
        others = {int(axis) for axis in np.flatnonzero(matrix[needing].any(axis=0))} - {gone}
        if others & set(axes):
            along = ", ".join(grid.dims[::-1][axis] for axis in sorted(others & {*axes}))
            raise ValueError(
                f"{where}: the dimension {grid.dims[::-1][gone]} is gone, and the world "
                f"coordinates along {along} depend on it"
            )
    if is_distorted(wcs) and axes[:2] != [0, 1]:
        raise ValueError(
            f"{where}: the dimensions are in another order than in the image; astropy's WCS "
            "cannot follow that with a distortion: transpose them back"
        )
    return wcs.sub([axis + 1 for axis in axes])


def _pixels(grid: Grid, obj: Object, dim: str, where: str) -> Pixels:
    """Find which pixels of the image are left along a dimension, by its coordinates."""
    whole = range(grid.shape[grid.dims.index(dim)])
    if dim not in obj.coords:
        if obj.sizes[dim] != len(whole):
            raise ValueError(
                f"{where}: {dim} has {obj.sizes[dim]} of the image's {len(whole)} pixels and no "
                "coordinates that tell which"
            )
        return whole
    world = grid.along(dim)
    if world is None:
        return _counted(obj.coords[dim])
    values = obj.coords[dim].values
    are_floats = values.dtype.kind == world.values.dtype.kind == "f"
    if np.array_equal(values, world.values, equal_nan=are_floats):
        return whole  # even if these tell no pixel from the next, or are NaN
    return _found(values, world.values, np.asarray(whole, np.float64), dim, where)


def _counted(coordinate: xr.DataArray) -> Pixels:
    """Take pixels from a coordinate; a range stays one, of which the length costs nothing."""
    index: Any = coordinate.to_index()
    if all(hasattr(index, name) for name in ("start", "stop", "step")):
        return range(index.start, index.stop, index.step)
    return np.asarray(coordinate.values, np.float64)


def _found(
    values: npt.NDArray[Any],
    known: npt.NDArray[Any],
    whole: npt.NDArray[np.float64],
    dim: str,
    where: str,
) -> npt.NDArray[np.float64]:
    """Find the pixels that have world coordinates, in fractions between two of them."""
    order = np.argsort(known, kind="stable")
    ascending = known[order]
    place = np.clip(np.searchsorted(ascending, values), 0, max(len(known) - 1, 0))
    if len(known) and (ascending[place] == values).all():
        return whole[order[place]]
    # Of bins they lie between those of pixels.
    are_places = known.dtype.kind == "f" and len(known) > 1 and (np.diff(ascending) > 0).all()
    if not are_places or not ((values >= ascending[0]) & (values <= ascending[-1])).all():
        raise ValueError(f"{where}: the coordinates along {dim} are not those of the image")
    found: npt.NDArray[np.float64] = np.interp(values, ascending, whole[order])
    return found


def _spacing(pixels: Pixels, dim: str, where: str) -> tuple[float, float]:
    """Find the first of evenly spaced pixels, and the step from one to the next."""
    if not len(pixels):
        return 0.0, 1.0
    if isinstance(pixels, range):
        return float(pixels.start), float(pixels.step) if len(pixels) > 1 else 1.0
    if len(pixels) == 1 and pixels[0] % 1:
        raise ValueError(f"{where}: {dim} has a single bin of pixels, whose width is not known")
    step = float(pixels[-1] - pixels[0]) / (len(pixels) - 1) if len(pixels) > 1 else 1.0
    even = pixels[0] + step * np.arange(len(pixels))
    if step == 0 or not (np.abs(pixels - even) <= 1e-3).all():
        raise ValueError(
            f"{where}: the pixels along {dim} are not evenly spaced; only those have a WCS"
        )
    return float(pixels[0]), round(step, 6) if abs(step - round(step, 6)) < 1e-6 else step
