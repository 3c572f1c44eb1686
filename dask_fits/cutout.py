"""A cutout of an image by position and size, with the meaning of astropy's Cutout2D."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from astropy.coordinates import SkyCoord

from dask_fits.array import lazy_array
from dask_fits.exceptions import (
    FitsError,
    FitsFormatError,
    NoOverlapError,
    NotAnImageError,
    PartialOverlapError,
)
from dask_fits.file import HDU
from dask_fits.readers.window import WindowReader
from dask_fits.turns import Extent
from dask_fits.wcs import Plane, is_angular, moved, read_plane, size_in_pixels, to_pixels

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
    hdu: HDU, position: Any, size: Any, *, mode: Mode = "trim", fill_value: Any = np.nan
) -> Cutout:
    """Cut a box around a position out of an image; reads no pixels.

    Parameters
    ----------
    hdu : HDU
        An image of two axes or more. Of a cube the axes that span the sky are cut, the last two
        where none do or their keywords make no WCS, and the others kept whole.
    position : SkyCoord or (float, float)
        Centre of the box: a position on the sky, or pixel coordinates ``(x, y)`` from 0.
    size : number, Quantity, or two of them
        Height and width, in pixels or as angles.
    mode : "trim", "partial" or "strict"
        What becomes of a box that reaches over the image's edge: what is on the image is returned;
        the rest is filled; or it is an error.
    fill_value : number
        Of the pixels off the image, with ``"partial"``. Integers have no NaN.

    Returns
    -------
    Cutout
        Its pixels, their place and WCS are those of ``astropy.nddata.Cutout2D``. A position that
        the image has at several pixels, a turn of its longitude apart, is at the one nearest to
        the reference point; a box does not go on at the image's other edge.

    Raises
    ------
    NoOverlapError
        The box lies off the image, or the position is one that the image's projection has not.
    PartialOverlapError
        With ``"strict"``: a part of it does.
    ValueError
        The position is not finite, the size less than a pixel, or an angle or a position on the
        sky is given where the WCS is not celestial; the fill value is none of the image's type.
    NotAnImageError, UnsupportedHduError, FitsFormatError
        The HDU has no pixels that can be read, or fewer than two axes; or an angle or a position on
        the sky is given and the keywords of the celestial axes make no WCS.

    Examples
    --------
    >>> import dask_fits
    >>> hdu = dask_fits.open("tests/data/m13.fits")[0]
    >>> hdu.cutout((150, 100), (20, 30))
    <Cutout [90:110, 135:165] shape=(20, 30) dtype=float32>
    """
    whole = shape_of(hdu)
    plane = read_plane(hdu, len(whole))
    box = box_around(whole, plane, (position, size), mode=mode, where=hdu.where)
    reader = hdu.reader()
    if mode == "partial" and not box.lies_on(reader.shape):
        check_fill(fill_value, reader.dtype, hdu.where)
    window = WindowReader(reader, box.origin, box.shape, fill_value)
    wcs = None if plane.wcs is None else moved(plane.wcs, box.origin, box.shape)
    return Cutout(lazy_array(window), wcs, box.slices, plane.error)


def find_box(hdu: HDU, position: Any, size: Any, *, mode: Mode = "trim") -> Box:
    """Find the box of a cutout; reads no pixels, and makes no WCS where none is needed.

    Parameters and errors are those of `cutout`.
    """
    whole = shape_of(hdu)
    plane = plane_for(hdu, len(whole), sky=needs_sky(position, size))
    return box_around(whole, plane, (position, size), mode=mode, where=hdu.where)


def shape_of(hdu: HDU) -> tuple[int, ...]:
    """Find the shape of the image that a cutout is of; raises NotAnImageError below two axes."""
    whole = hdu.reader().shape
    if len(whole) < 2:
        raise NotAnImageError(f"{hdu.where}: a cutout needs two axes, found shape {whole}")
    return whole


def plane_for(hdu: HDU, ndim: int, *, sky: bool) -> Plane:
    """Find the axes that are cut; makes no WCS where pixels alone tell."""
    return read_plane(hdu, ndim) if sky or ndim > 2 else Plane.of_pixels(ndim)


def needs_sky(position: Any, size: Any) -> bool:
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


def _pixel(position: Any, sky: WCS, image: Extent, part: Extent) -> tuple[float, float]:
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
