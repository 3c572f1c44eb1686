"""A cutout of an image by position and size, with the meaning of astropy's Cutout2D.

Along an axis, with pixels counted from the image's first:

    image            0 |=======================| length
    box    first |-----------------| first + side
    trim             0 |===========|                          origin 0, slice 0:stop
    partial      |.....|===========|                          origin `first`; the rest is filled
    strict           raises PartialOverlapError
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits._typing import Integers, Position, Size
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
"""Treatment of a box that reaches over the image's edge: cut off, filled, or an error."""

Shape = TypeVar("Shape", bound=tuple[int, ...])

_MOST_PIXELS = 1 << 40
"""Highest number of pixels of a cutout: a larger size has the wrong unit, most likely."""

_FARTHEST = float(1 << 53)
"""Highest distance from the first pixel: beyond, neighbouring positions are equal floats."""

_LONGEST_SIDE = 1 << 60
"""Length for all sides that are longer: no image is so long, and sums do not overflow."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A part of an image: lazy pixels and their world coordinates."""

    data: da.Array
    """The lazy pixels; along axes that do not span the sky, all of the image's."""
    wcs: WCS | None
    """World coordinates of `data`: astropy's, or with ``partial`` those of the filled box. None if
    the image's keywords make no WCS; then `wcs_error` is the reason."""
    slices: tuple[slice, ...]
    """The part of the image that is in the cutout, NumPy order: ``image[slices]``, without the
    filled pixels."""
    wcs_error: FitsError | None = None
    """The error that `HDU.wcs` raises for the image."""

    def __repr__(self) -> str:
        where = ", ".join(f"{part.start}:{part.stop}" for part in self.slices)
        return f"<Cutout [{where}] shape={self.data.shape} dtype={self.data.dtype}>"


@dataclass(frozen=True, slots=True)
class Box:
    """The place of a cutout on its image, in NumPy order."""

    origin: tuple[int, ...]
    """Pixel of the image that is the box's first; negative if the box reaches over the edge."""
    shape: tuple[int, ...]
    slices: tuple[slice, ...]
    """The part of the image that is in the box."""

    def lies_on(self, image: tuple[int, ...]) -> bool:
        """Return whether all pixels of the box are on an image of this shape."""
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
    fill_value: float | np.generic,
) -> Cutout:
    """Cut a box around a position out of an image; see `HDU.cutout`.

    Parameters
    ----------
    reader : PixelReader
        Pixels of the image.
    header : WcsHeader
        World coordinates of the image, and its name in messages.
    position, size, mode, fill_value
        Those of `HDU.cutout`.
    """
    check_axes(reader.shape, header.where)
    # The cutout carries a WCS, so it is made even if pixels alone would find the box.
    plane = read_plane(header, reader.ndim)
    box = box_around(reader.shape, plane, (position, size), mode=mode, where=header.where)
    # A fill value of another type does no harm if nothing is filled.
    if mode == "partial" and not box.lies_on(reader.shape):
        check_fill(fill_value, reader.dtype, header.where)
    window = WindowReader(reader, box.origin, box.shape, fill_value)
    wcs = None if plane.wcs is None else moved(plane.wcs, box.origin, box.shape)
    return Cutout(lazy_array(window), wcs, box.slices, plane.error)


def find_box(
    image_shape: tuple[int, ...], header: WcsHeader, position: Position, size: Size, *, mode: Mode
) -> Box:
    """Find the box of a cutout; reads no pixels, and makes no WCS if none is needed.

    Parameters
    ----------
    image_shape : tuple of int
        Shape of the image, NumPy order.
    header : WcsHeader
        World coordinates of the image, and its name in messages.
    position, size, mode
        Those of `HDU.cutout`, which raises the same errors.
    """
    check_axes(image_shape, header.where)
    plane = plane_for(lambda: header, len(image_shape), sky=needs_sky(position, size))
    return box_around(image_shape, plane, (position, size), mode=mode, where=header.where)


def check_axes(image_shape: tuple[int, ...], where: str) -> None:
    """Raise NotAnImageError if an image has fewer axes than a cutout needs."""
    if len(image_shape) < 2:
        raise NotAnImageError(f"{where}: a cutout needs two axes, found shape {image_shape}")


def plane_for(make_header: Callable[[], WcsHeader], ndim: int, *, sky: bool) -> Plane:
    """Find the axes that are cut; looks at keywords only if there are others or `sky` is needed.

    Parameters
    ----------
    make_header : callable
        Returns the world coordinates of the image.
    ndim : int
        Number of axes of the image.
    sky : bool
        Whether positions on the sky, or angles, have to be resolved.
    """
    return read_plane(make_header(), ndim) if sky or ndim > 2 else Plane.of_pixels(ndim)


def needs_sky(position: Position, size: Size) -> bool:
    """Return whether a position or a size needs a WCS; an invalid size needs none."""
    try:
        return isinstance(position, SkyCoord) or is_angular(size)
    except (TypeError, ValueError):
        return False


def box_around(
    image_shape: tuple[int, ...],
    plane: Plane,
    target: tuple[Position, Size],
    *,
    mode: Mode,
    where: str,
    image: Extent | None = None,
) -> Box:
    """Find the box of a cutout on an image; see `find_box`.

    Parameters
    ----------
    image_shape : tuple of int
        Shape of the image, NumPy order.
    plane : Plane
        The axes that are cut, and the WCS that finds positions on the sky.
    target : (position, size)
        As for `cutout`.
    mode : "trim", "partial" or "strict"
    where : str
        File and HDU, for messages.
    image : Extent, optional
        Extent of the original image, if the pixels of `image_shape` are what is left of it.
    """
    position, size = target
    sky = plane.sky if needs_sky(position, size) else None
    lengths = image_shape[plane.axes[0]], image_shape[plane.axes[1]]
    part = Extent.of(*lengths)
    # Both extents decide which of several pixels of a position counts; see `nearest_pixels`.
    whole = image or part
    try:
        check_mode(mode)
        box_shape = size_in_pixels(size, sky)
        x, y = _pixel_of(position, sky, whole.for_boxes(), part.for_boxes())
    except FitsFormatError as error:
        raise FitsFormatError(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    first = corners(x, y, box_shape)
    # A box off the image is an error in all modes, one over its edge in one of them.
    has_overlap, lies_inside = overlap(first, box_shape, np.array(lengths))
    box_text = f"a box of {box_shape[0]} x {box_shape[1]} pixels around x = {x:.6g}, y = {y:.6g}"
    expected = f"expected an overlap with the image of {lengths[0]} x {lengths[1]} pixels"
    if not has_overlap:
        raise NoOverlapError(f"{where}: {box_text} lies off the image, {expected}")
    if mode == "strict" and not lies_inside:
        raise PartialOverlapError(f"{where}: {box_text} reaches over its edge, {expected}")
    # The other axes of a cube are not cut.
    first_of_axis = dict(zip(plane.axes, first.tolist(), strict=True))
    box = _make_box(image_shape, first_of_axis, box_shape, mode)
    try:
        check_pixels(box.shape)
    except ValueError as error:
        # If the box itself is small enough, the image's other axes are too long.
        kind = FitsFormatError if math.prod(box_shape) <= _MOST_PIXELS else ValueError
        raise kind(f"{where}: {error}") from error
    return box


def _make_box(
    image_shape: tuple[int, ...], first: dict[int, int], sides: tuple[int, int], mode: Mode
) -> Box:
    """Make the box that begins at `first` along two axes and holds all pixels along the others."""
    slices = [slice(0, length) for length in image_shape]
    origin = [0] * len(image_shape)
    shape = list(image_shape)
    for (axis, start), side in zip(first.items(), sides, strict=True):
        low = max(start, 0)
        high = min(start + side, image_shape[axis])
        slices[axis] = slice(low, high)
        # What is filled belongs to the box, but not to the slices.
        is_padded = mode == "partial"
        origin[axis] = start if is_padded else low
        shape[axis] = side if is_padded else high - low
    return Box(tuple(origin), tuple(shape), tuple(slices))


def _pixel_of(position: Position, sky: WCS, image: Extent, part: Extent) -> tuple[float, float]:
    """Return the pixel coordinates x, y of a position; NaN if the projection has no such position.

    Raises
    ------
    FitsFormatError
        The WCS cannot be used.
    ValueError
        It is not one position, or not a finite one.
    """
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
        raise ValueError(
            f"position: expected a SkyCoord or pixel coordinates (x, y), found {position!r}"
        ) from error
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
        WCS of the image, for the pixels in an angle.

    Returns
    -------
    height, width : int

    Raises
    ------
    ValueError
        It is not one or two finite lengths of at least one pixel.
    """
    height, width = _both_sides(size)
    return _side_in_pixels(height, 0, wcs), _side_in_pixels(width, 1, wcs)


def is_angular(size: Size) -> bool:
    """Return whether a size needs a WCS to be resolved: one of its sides is an angle."""
    return any(
        isinstance(side, u.Quantity) and side.unit.physical_type == "angle"
        for side in _both_sides(size)
    )


def _both_sides(size: Size) -> Sequence[float | u.Quantity]:
    """Return height and width, which are equal if the size is one length."""
    if np.isscalar(size):
        return [size, size]
    if isinstance(size, u.Quantity) and size.size == 1:
        return [size.reshape(()), size.reshape(())]
    sides = list(cast("Sequence[float | u.Quantity]", size))
    if len(sides) != 2:
        raise ValueError(f"size: expected one or two lengths, found {len(sides)}")
    return sides


def _side_in_pixels(side: float | u.Quantity, axis: int, wcs: WCS | None) -> int:
    """Resolve the height (`axis` 0) or the width (1) of a cutout."""
    pixels = _quantity_in_pixels(side, axis, wcs) if isinstance(side, u.Quantity) else side
    # An int may be longer than any float.
    if not isinstance(pixels, int) and not np.isfinite(pixels):
        raise ValueError(f"size: expected a finite length, found {side}")
    count = pixels if isinstance(pixels, int) else int(np.round(pixels))
    if count < 1:
        raise ValueError(f"size: expected at least one pixel, found {side}")
    return count


def _quantity_in_pixels(side: u.Quantity, axis: int, wcs: WCS | None) -> float:
    """Return the pixels in a length with a unit."""
    if side.unit == u.pixel:
        return cast("float", side.value)
    if side.unit.physical_type != "angle":
        raise ValueError(f"size: expected pixels or an angle, found {side.unit}")
    if wcs is None or not wcs.has_celestial:
        raise ValueError("size: an angle needs celestial coordinates; give it in pixels")
    # Cutout2D counts the height by the scale of the first axis of the WCS, and the width by that of
    # the second.
    sky = celestial_of(wcs)
    scale = u.Quantity(proj_plane_pixel_scales(sky)[axis], angular_unit(sky, axis))
    return cast("float", (side / scale).decompose().value)


def check_mode(mode: str) -> None:
    """Raise ValueError if a mode is none of `Mode`."""
    if mode not in get_args(Mode):
        raise ValueError(f"mode: expected one of {', '.join(get_args(Mode))}, found {mode!r}")


def check_pixels(shape: Shape) -> Shape:
    """Return a cutout's shape; raise ValueError if it has more than 2**40 pixels."""
    if math.prod(shape) > _MOST_PIXELS:
        raise ValueError(
            f"size: expected at most {_MOST_PIXELS} pixels, found {' x '.join(map(str, shape))}"
        )
    return shape


def check_fill(fill_value: float | np.generic, dtype: np.dtype[Any], where: str) -> None:
    """Raise ValueError if pixels of a type cannot be filled with a value."""
    filled = np.zeros(1, dtype)
    try:
        # NumPy casts its own NaN to an integer without an error.
        filled[:] = fill_value.item() if isinstance(fill_value, np.generic) else fill_value
    except (ValueError, OverflowError, TypeError) as error:
        raise _wrong_fill(fill_value, dtype, where) from error
    if dtype.kind in "iu" and filled[0] != fill_value:
        raise _wrong_fill(fill_value, dtype, where)


def _wrong_fill(fill_value: float | np.generic, dtype: np.dtype[Any], where: str) -> ValueError:
    """Build the error for a fill value that is none of the image's type."""
    expected = f"expected a value of the image's type {dtype}"
    return ValueError(f"{where}: fill_value: {expected}, found {fill_value!r}")


def corners(x: npt.ArrayLike, y: npt.ArrayLike, shape: tuple[int, int]) -> Integers:
    """Find the first pixel of boxes around positions, as `astropy.nddata.overlap_slices` does.

    Parameters
    ----------
    x, y : float or (n,) float arrays
        Pixel coordinates; NaN if there is no such position on the image.
    shape : (int, int)
        Height and width of the boxes.

    Returns
    -------
    (2,) or (n, 2) int64 array
        First pixels along y and x; far off the image if a position is NaN.
    """
    centre = np.stack([np.asarray(y, np.float64), np.asarray(x, np.float64)], axis=-1)
    # Far off the image, so that the box of such a position overlaps none; NaN is no integer.
    first = np.nan_to_num(np.ceil(centre - _side_lengths(shape) / 2.0), nan=_FARTHEST)
    clipped: Integers = np.clip(first, -_FARTHEST, _FARTHEST).astype(np.int64)
    return clipped


def _side_lengths(shape: tuple[int, int]) -> Integers:
    """Return the sides of a box as an array, however long they are: Python's int has no end."""
    return np.array([min(side, _LONGEST_SIDE) for side in shape])


def overlap(
    first: Integers, shape: tuple[int, int], image: Integers
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which boxes have a pixel on an image, and which lie on it as a whole.

    Parameters
    ----------
    first : (..., 2) int64 array
        First pixel of the boxes, along y and x.
    shape, image : two int
        Height and width of the boxes, and of the image.
    """
    end = first + _side_lengths(shape)
    has_overlap = np.all((end > 0) & (first < image), axis=-1)
    lies_inside = np.all((first >= 0) & (end <= image), axis=-1)
    return has_overlap, lies_inside
