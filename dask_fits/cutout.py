"""A cutout of an image by position and size, with the meaning of astropy's Cutout2D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits._typing import Position, Size
from dask_fits.arrays.lazy import lazy_array
from dask_fits.exceptions import (
    FitsError,
    FitsFormatError,
    NoOverlapError,
    NotAnImageError,
    PartialOverlapError,
)
from dask_fits.readers.reader import PixelReader
from dask_fits.readers.window import WindowReader
from dask_fits.wcs.geometry import angular_unit, celestial_of, to_pixels
from dask_fits.wcs.header import WcsHeader
from dask_fits.wcs.plane import Plane, read_plane
from dask_fits.wcs.resampling import moved
from dask_fits.wcs.turns import Extent

if TYPE_CHECKING:
    import dask.array as da
    from astropy.wcs import WCS

Mode = Literal["trim", "partial", "strict"]

Shape = TypeVar("Shape", bound=tuple[int, ...])

_MOST_PIXELS = 1 << 40
"""A larger cutout is a mistake, in the unit of its size most likely."""

_FARTHEST = float(1 << 53)
"""Pixels from the image's first: beyond, neighbouring positions are the same float."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A part of an image: lazy pixels and their world coordinates."""

    data: da.Array
    """The pixels, lazy; along axes that do not span the sky, all of the image's."""
    wcs: WCS | None
    """World coordinates of `data`: astropy's, or with ``partial`` those of the filled box. None
    where the image's keywords make no WCS; then `wcs_error` tells why."""
    slices: tuple[slice, ...]
    """What of the image is in the cutout, NumPy order: ``image[slices]``, without what is filled.
    """
    wcs_error: FitsError | None = None
    """What `HDU.wcs` raises for the image."""

    def __repr__(self) -> str:
        where = ", ".join(f"{part.start}:{part.stop}" for part in self.slices)
        return f"<Cutout [{where}] shape={self.data.shape} dtype={self.data.dtype}>"


@dataclass(frozen=True, slots=True)
class Box:
    """Where a cutout lies on its image, in NumPy order."""

    origin: tuple[int, ...]
    """Pixel of the image that is the box's first; negative where the box reaches over the edge."""
    shape: tuple[int, ...]
    slices: tuple[slice, ...]
    """What of the image is in the box."""

    def lies_on(self, image: tuple[int, ...]) -> bool:
        """Tell whether no pixel of the box is off an image of this shape."""
        return all(
            start >= 0 and start + count <= length
            for start, count, length in zip(self.origin, self.shape, image, strict=True)
        )


def cutout(
    reader: PixelReader,
    header: WcsHeader,
    position: Position,
    size: Size,
    *,
    mode: Mode,
    fill_value: Any,
) -> Cutout:
    """Cut a box around a position out of an image; see `HDU.cutout`.

    Parameters
    ----------
    reader : PixelReader
        Of the image.
    header : WcsHeader
        Its world coordinates; it names the image in messages.
    position, size, mode, fill_value
        Those of `HDU.cutout`.
    """
    check_axes(reader.shape, header.where)
    plane = read_plane(header, reader.ndim)
    box = box_around(reader.shape, plane, (position, size), mode=mode, where=header.where)
    if mode == "partial" and not box.lies_on(reader.shape):
        check_fill(fill_value, reader.dtype, header.where)
    window = WindowReader(reader, box.origin, box.shape, fill_value)
    wcs = None if plane.wcs is None else moved(plane.wcs, box.origin, box.shape)
    return Cutout(lazy_array(window), wcs, box.slices, plane.error)


def find_box(
    whole: tuple[int, ...], header: WcsHeader, position: Position, size: Size, *, mode: Mode
) -> Box:
    """Find the box of a cutout; reads no pixels, and makes no WCS where none is needed.

    Parameters
    ----------
    whole : tuple of int
        Shape of the image, NumPy order.
    header : WcsHeader
        Its world coordinates; it names the image in messages.
    position, size, mode
        Those of `HDU.cutout`, whose errors are those of this.
    """
    check_axes(whole, header.where)
    plane = plane_for(header, len(whole), sky=needs_sky(position, size))
    return box_around(whole, plane, (position, size), mode=mode, where=header.where)


def check_axes(whole: tuple[int, ...], where: str) -> None:
    """Raise NotAnImageError if an image has fewer axes than a cutout needs."""
    if len(whole) < 2:
        raise NotAnImageError(f"{where}: a cutout needs two axes, found shape {whole}")


def plane_for(header: WcsHeader, ndim: int, *, sky: bool) -> Plane:
    """Find the axes that are cut; makes no WCS where pixels alone tell."""
    return read_plane(header, ndim) if sky or ndim > 2 else Plane.of_pixels(ndim)


def needs_sky(position: Position, size: Size) -> bool:
    """Tell whether a cutout cannot be found in pixels alone; a size that is none needs no WCS."""
    try:
        return isinstance(position, SkyCoord) or is_angular(size)
    except (TypeError, ValueError):
        return False


def box_around(
    whole: tuple[int, ...],
    plane: Plane,
    wanted: tuple[Any, Any],
    *,
    mode: Mode,
    where: str,
    image: Extent | None = None,
) -> Box:
    """Find the box of a cutout on an image; see `find_box`.

    Parameters
    ----------
    whole : tuple of int
        Shape of the image, NumPy order.
    plane : Plane
        The axes that are cut, and what finds positions on the sky.
    wanted : (position, size)
        As for `cutout`.
    mode : "trim", "partial" or "strict"
    where : str
        Of what, for messages.
    image : Extent, optional
        Of the image that `whole` is what is left of.
    """
    (position, size), axes = wanted, plane.axes
    sky = plane.sky if needs_sky(position, size) else None
    part = Extent.of(whole[axes[0]], whole[axes[1]])
    extents = (image or part).for_boxes(), part.for_boxes()
    try:
        check_mode(mode)
        box_shape = size_in_pixels(size, sky)
        x, y = _pixel(position, sky, *extents)
    except FitsFormatError as error:
        raise FitsFormatError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    first = corners(x, y, box_shape)
    lengths = np.array([whole[axis] for axis in axes])
    on, inside = overlap(first, box_shape, lengths)
    asked = f"a box of {box_shape[0]} x {box_shape[1]} pixels around x = {x:.6g}, y = {y:.6g}"
    found = f"expected an overlap with the image of {lengths[0]} x {lengths[1]} pixels"
    if not on:
        raise NoOverlapError(f"{where}: {asked} lies off the image, {found}")
    if mode == "strict" and not inside:
        raise PartialOverlapError(f"{where}: {asked} reaches over its edge, {found}")
    box = _box(whole, dict(zip(axes, first.tolist(), strict=True)), box_shape, mode)
    try:
        check_pixels(box.shape)
    except ValueError as error:
        # If little was asked for, the image's other axes are too long.
        kind = FitsFormatError if math.prod(box_shape) <= _MOST_PIXELS else ValueError
        raise kind(f"{where}: {error}") from error
    return box


def _box(whole: tuple[int, ...], first: dict[int, int], sides: tuple[int, int], mode: Mode) -> Box:
    """Make the box that begins at `first` along two axes and holds all of the others."""
    slices = [slice(0, length) for length in whole]
    origin, shape = [0] * len(whole), list(whole)
    for (axis, start), side in zip(first.items(), sides, strict=True):
        low, high = max(start, 0), min(start + side, whole[axis])
        slices[axis] = slice(low, high)
        padded = mode == "partial"
        origin[axis] = start if padded else low
        shape[axis] = side if padded else high - low
    return Box(tuple(origin), tuple(shape), tuple(slices))


def _pixel(position: Position, sky: WCS, image: Extent, part: Extent) -> tuple[float, float]:
    if isinstance(position, SkyCoord):
        if not position.isscalar:
            raise ValueError(f"position: expected one, found {position.size}")
        sphere = position.spherical
        if not (np.isfinite(sphere.lon) and np.isfinite(sphere.lat)):
            found = f"{sphere.lon.deg:.6g}, {sphere.lat.deg:.6g} degrees"
            raise ValueError(f"position: expected finite coordinates, found {found}")
        pixel = to_pixels(sky, position, image, part)
        return float(pixel[0]), float(pixel[1])
    try:
        x, y = (float(value) for value in position)
    except (TypeError, ValueError) as error:
        said = f"expected a SkyCoord or pixel coordinates (x, y), found {position!r}"
        raise ValueError(f"position: {said}") from error
    if not (np.isfinite(x) and np.isfinite(y)):
        raise ValueError(f"position: expected finite pixel coordinates (x, y), found {position}")
    return x, y


def size_in_pixels(size: Size, wcs: WCS | None) -> tuple[int, int]:
    """Resolve the size of a cutout as `astropy.nddata.Cutout2D` does.

    Parameters
    ----------
    size : number, Quantity, or two of them
        Height and width, in pixels or as angles.
    wcs : astropy.wcs.WCS, optional
        Tells the pixels in an angle.

    Returns
    -------
    height, width : int

    Raises
    ------
    ValueError
        It is not one or two finite lengths of at least one pixel.
    """
    height, width = (_length(side, axis, wcs) for axis, side in enumerate(_both_sides(size)))
    return height, width


def is_angular(size: Size) -> bool:
    """Whether a size needs a WCS to be resolved: one of its sides is an angle."""
    return any(
        isinstance(side, u.Quantity) and side.unit.physical_type == "angle"
        for side in _both_sides(size)
    )


def _both_sides(size: Size) -> Sequence[Any]:
    """Take height and width apart."""
    if np.isscalar(size):
        return [size, size]
    if isinstance(size, u.Quantity) and size.size == 1:
        return [size.reshape(()), size.reshape(())]
    sides = list(cast("Sequence[Any]", size))
    if len(sides) != 2:
        raise ValueError(f"size: expected one or two lengths, found {len(sides)}")
    return sides


def _length(side: Any, axis: int, wcs: WCS | None) -> int:
    pixels = side
    if isinstance(side, u.Quantity):
        if side.unit == u.pixel:
            pixels = side.value
        elif side.unit.physical_type == "angle":
            if wcs is None or not wcs.has_celestial:
                raise ValueError("size: an angle needs celestial coordinates; give it in pixels")
            # Cutout2D counts the height by the scale of the first axis, and the width by that of
            # the second.
            sky = celestial_of(wcs)
            scale = u.Quantity(proj_plane_pixel_scales(sky)[axis], angular_unit(sky, axis))
            pixels = (side / scale).decompose().value
        else:
            raise ValueError(f"size: expected pixels or an angle, found {side.unit}")
    if not isinstance(pixels, int) and not np.isfinite(pixels):
        raise ValueError(f"size: expected a finite length, found {side}")
    found = pixels if isinstance(pixels, int) else int(np.round(pixels))
    if found < 1:
        raise ValueError(f"size: expected at least one pixel, found {side}")
    return found


def check_mode(mode: str) -> None:
    """Raise ValueError where a mode is none of those that there are."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode: expected one of {', '.join(get_args(Mode))}, found {mode!r}")


def check_pixels(shape: Shape) -> Shape:
    """Return a cutout's shape; raise ValueError where it has more pixels than anybody can want."""
    if math.prod(shape) > _MOST_PIXELS:
        raise ValueError(
            f"size: expected at most {_MOST_PIXELS} pixels, found {' x '.join(map(str, shape))}"
        )
    return shape


def check_fill(fill_value: Any, dtype: np.dtype[Any], where: str) -> None:
    """Raise ValueError where pixels of a type cannot be filled with a value."""
    filled = np.zeros(1, dtype)
    try:
        # NumPy casts its own NaN to an integer without an error.
        filled[:] = fill_value.item() if isinstance(fill_value, np.generic) else fill_value
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(_wrong_fill(fill_value, dtype, where)) from error
    if dtype.kind in "iu" and filled[0] != fill_value:
        raise ValueError(_wrong_fill(fill_value, dtype, where))


def _wrong_fill(fill_value: Any, dtype: np.dtype[Any], where: str) -> str:
    expected = f"expected a value of the image's type {dtype}"
    return f"{where}: fill_value: {expected}, found {fill_value!r}"


def corners(x: Any, y: Any, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Find the first pixel of boxes around positions, as `astropy.nddata.overlap_slices` does.

    Parameters
    ----------
    x, y : float or (n,) float arrays
        Pixel coordinates; NaN where there is no such position on the image.
    shape : (int, int)
        Height and width of the boxes.

    Returns
    -------
    (2,) or (n, 2) int64 array
        Along y and x; far off the image where a position is NaN.
    """
    centre = np.stack([np.asarray(y, np.float64), np.asarray(x, np.float64)], axis=-1)
    first = np.nan_to_num(np.ceil(centre - _sides(shape) / 2.0), nan=_FARTHEST)
    clipped: npt.NDArray[np.int64] = np.clip(first, -_FARTHEST, _FARTHEST).astype(np.int64)
    return clipped


def _sides(shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Make numbers of the sides of a box; what is longer than all images is as good as endless."""
    return np.array([min(side, 1 << 60) for side in shape])


def overlap(
    first: npt.NDArray[np.int64], shape: tuple[int, int], image: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Tell which boxes have a pixel on an image, and which lie on it as a whole.

    Parameters
    ----------
    first : (..., 2) int64 array
        First pixel of the boxes, along y and x.
    shape, image : two int
        Height and width of the boxes, and of the image.
    """
    last = first + _sides(shape)
    on = np.all((last > 0) & (first < image), axis=-1)
    return on, np.all((first >= 0) & (last <= image), axis=-1)
