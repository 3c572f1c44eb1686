"""Two-dimensional coordinates of the sky that are computed on access.

Three index spaces meet here::

    position      along a dimension of the array, from 0, as xarray counts
    pixel         of the whole image: `SkyTransform.pixels` has one for each position
    lon, lat      of a pixel, by the WCS
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy.wcs import WCS
from dask.base import tokenize
from xarray.core.indexing import IndexSelResult
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex

from dask_fits.planning.selection import Selection
from dask_fits.wcs.geometry import from_sky, to_sky
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.turns import Extent, pixel_edges
from dask_fits.xarray_backend.arrays import LazyArray, replace_variable
from dask_fits.xarray_backend.grid import Pixels, Sky, make_grid, nearest

_BATCH_PIXELS = 1 << 20
"""Pixels whose coordinates are computed together, which bounds the memory beside the result."""

PlaneAxes = tuple[str | float, str | float]
"""The two pixel axes of a plane of the sky: a dimension, or a pixel if the dimension is dropped."""


class SkyTransform(CoordinateTransform):
    """Transform of an image's pixels to longitude and latitude, by the WCS with its distortions.

    It holds the WCS as text: small, exact, and the same in every process.
    """

    def __init__(
        self,
        text: WcsText,
        where: str,
        sky: Sky,
        pixels: Mapping[str, Pixels],
        plane: PlaneAxes,
        names: tuple[Hashable, Hashable] | None = None,
    ) -> None:
        """Make the transform of some pixels of an image.

        Parameters
        ----------
        text : WcsText
            A celestial WCS.
        where : str
            The file and the HDU, for messages.
        sky : Sky
            The two axes of the WCS that span the sky.
        pixels : mapping of str to range or array
            Pixels of the image along each dimension, in the order of the dimensions.
        plane : (str or float, str or float)
            The two pixel axes of `sky`, in its order: the dimension, or the pixel if there is no
            dimension any more.
        names : (str, str), optional
            Names of longitude and latitude, if they were renamed.
        """
        super().__init__(names or sky.names, {dim: len(along) for dim, along in pixels.items()})
        self.text = text
        self.where = where
        self.sky = sky
        self.pixels = dict(pixels)
        self.plane = plane

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Return longitude and latitude, from positions along the dimensions."""
        pixels = [
            self._pixels_at(axis, dim_positions[axis]) if isinstance(axis, str) else axis
            for axis in self.plane
        ]
        first, second = np.broadcast_arrays(*pixels)
        return dict(zip(self.coord_names, self._to_sky(first, second), strict=True))

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Return positions along the dimensions, from longitude and latitude; NaN if outside."""
        lon, lat = (np.asarray(coord_labels[name], np.float64) for name in self.coord_names)
        # If several pixels of the image are at one place on the sky, one that is left is preferred.
        pixels = from_sky(self._own_wcs(), lon, lat, self._image_extent, self._remaining_extent)
        return {
            axis: _positions_of(np.asarray(pixel), self.pixels[axis])
            for axis, pixel in zip(self.plane, pixels, strict=True)
            if isinstance(axis, str)
        }

    def equals(
        self, other: CoordinateTransform, *, exclude: frozenset[Hashable] | None = None
    ) -> bool:
        """Return whether another transform gives the same coordinates at the same positions.

        Dimensions in `exclude` may differ.
        """
        if not isinstance(other, SkyTransform) or self.text != other.text:
            return False
        skip = exclude or frozenset()
        same_pixels = all(
            _are_equal(self.pixels.get(dim), other.pixels.get(dim))
            for dim in {*self.pixels, *other.pixels} - skip
        )
        return same_pixels and all(
            axis == other_axis
            for axis, other_axis in zip(self.plane, other.plane, strict=True)
            if not {axis, other_axis} & skip
        )

    def isel(self, indexers: Mapping[Any, Any]) -> SkyTransform | None:
        """Return the transform of some of the pixels; None if those do not make a grid."""
        pixels: dict[str, Pixels] = {}
        plane = list(self.plane)
        for dim, whole in self.pixels.items():
            key = indexers.get(dim, slice(None))
            if isinstance(key, xr.Variable):
                # A key along another dimension selects single pixels, which make no grid.
                if key.dims not in ((), (dim,)):
                    return None
                key = key.values
            selected = _select_pixels(whole, key)
            if isinstance(selected, float):
                # The dimension is dropped, but its pixel still counts for the WCS.
                plane[plane.index(dim)] = selected
            else:
                pixels[dim] = selected
        if not pixels:
            return None
        return self._copy(pixels, (plane[0], plane[1]), self._coord_names)

    def renamed(self, names: Mapping[Any, Hashable], dims: Mapping[Any, Hashable]) -> SkyTransform:
        """Return the same transform with other names of coordinates and dimensions."""
        pixels = {str(dims.get(dim, dim)): along for dim, along in self.pixels.items()}
        first, second = (
            str(dims.get(axis, axis)) if isinstance(axis, str) else axis for axis in self.plane
        )
        lon, lat = (names.get(name, name) for name in self.coord_names)
        return self._copy(pixels, (first, second), (lon, lat))

    def _copy(
        self, pixels: Mapping[str, Pixels], plane: PlaneAxes, names: tuple[Hashable, Hashable]
    ) -> SkyTransform:
        """Return a transform with the same WCS."""
        return SkyTransform(self.text, self.where, self.sky, pixels, plane, names)

    def along(self, dim: str, pixels: Pixels) -> SkyTransform:
        """Return the same transform with other pixels along a dimension."""
        return self._copy({**self.pixels, dim: pixels}, self.plane, self._coord_names)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return (
            "dask_fits.SkyTransform",
            self.text.cards,
            self.text.tables,
            [(dim, _pixels_token(pixels)) for dim, pixels in self.pixels.items()],
            self.plane,
            self.coord_names,
        )

    def __repr__(self) -> str:
        kinds = " ".join(attrs["ctype"] for attrs in self.sky.attrs)
        sizes = ", ".join(f"{dim}: {len(along)}" for dim, along in self.pixels.items())
        return f"<{kinds} ({sizes})>"

    def _own_wcs(self) -> WCS:
        """Return a copy of the WCS, to evaluate it."""
        return make_grid(self.text, self.where).own_wcs()

    @property
    def _image_extent(self) -> Extent:
        """Extent of the whole image, in the plane of the sky."""
        # In FITS order. An axis that the image does not have has one pixel.
        lengths = (*make_grid(self.text, self.where).shape[::-1], 1)
        width, height = (lengths[min(axis, len(lengths) - 1)] for axis in self.sky.plane)
        return Extent.of(height, width)

    @property
    def _remaining_extent(self) -> Extent | None:
        """Extent of the pixels that are left of the image; None if there are none."""
        along = [self.pixels[axis] if isinstance(axis, str) else [axis] for axis in self.plane]
        if not all(map(len, along)):
            return None
        x, y = map(pixel_edges, along)
        return Extent((x[0], y[0]), (x[1], y[1]))

    @property
    def _coord_names(self) -> tuple[Hashable, Hashable]:
        """Names of longitude and latitude: `coord_names`, which is a tuple of any length."""
        return self.coord_names[0], self.coord_names[1]

    def _pixels_at(self, dim: str, positions: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the pixels of the image at positions along a dimension."""
        along = self.pixels[dim]
        positions = np.asarray(positions)
        if isinstance(along, range):
            # xarray also asks for positions between pixels.
            return np.asarray(along.start + along.step * positions, np.float64)
        pixels: npt.NDArray[np.float64] = along[positions.astype(np.int64)]
        return pixels

    def _to_sky(
        self, first: npt.NDArray[Any], second: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return longitude and latitude of pixels, given along the two axes of the plane."""
        wcs = self._own_wcs()
        first_axis, second_axis = self.sky.plane
        image = self._image_extent
        shape = first.shape
        first = first.reshape(-1)
        second = second.reshape(-1)
        lon = np.empty(first.size)
        lat = np.empty(first.size)
        for start in range(0, first.size, _BATCH_PIXELS):
            batch = slice(start, start + _BATCH_PIXELS)
            # Along the other axes of the WCS, on which the sky does not depend, the first pixel.
            pixels = [np.zeros(len(first[batch]))] * wcs.naxis
            pixels[first_axis] = first[batch]
            pixels[second_axis] = second[batch]
            lon[batch], lat[batch] = to_sky(wcs, pixels, image)
        if self.sky.is_signed:
            lon = np.where(lon >= 180, lon - 360, lon)
        return lon.reshape(shape), lat.reshape(shape)


class SkyArray(LazyArray):
    """Lazy array of the longitude or the latitude of a transform's pixels."""

    __slots__ = ("_dims", "_name", "_transform")

    def __init__(self, transform: SkyTransform, name: Hashable, dims: tuple[str, ...]) -> None:
        super().__init__(tuple(transform.dim_size[dim] for dim in dims), transform.dtype)
        self._transform = transform
        self._name = name
        self._dims = dims

    def take(self, selection: Selection) -> Any:
        """Compute the coordinates of a selection."""
        positions = np.meshgrid(*selection.indices, indexing="ij")
        coords = self._transform.forward(dict(zip(self._dims, positions, strict=True)))
        return coords[self._name][selection.key]

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # Written out, since Dask does not tokenize the items of this tuple.
        return ("dask_fits.SkyArray", *self._transform.__dask_tokenize__(), self._name, self._dims)


class SkyIndex(CoordinateTransformIndex):
    """Index of the pixels of an image by their positions on the sky.

    ``ds.sel(ra=..., dec=..., method="nearest")`` finds the pixel of a position. Selections by
    slices, integers and lists along the axes keep the index, and compute nothing.
    """

    transform: SkyTransform

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> Any:
        """Make the coordinates; see `xarray.Index.create_variables`."""
        created = {}
        for name, attrs in zip(self.transform.coord_names, self.transform.sky.attrs, strict=True):
            dims = self.transform.dims
            # The variable before a selection has the attributes, chunks and order of dimensions.
            old = (variables or {}).get(name, xr.Variable(dims, np.empty((0,) * len(dims)), attrs))
            if set(old.dims) == set(dims):
                dims = tuple(str(dim) for dim in old.dims)
            # xarray's own array is not lazy, and of the wrong shape for integers of NumPy.
            array = SkyArray(self.transform, name, dims)
            created[name] = replace_variable(old, array, f"fits-{name}", dims)
        return created

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Return the index of concatenated parts of an image; see `xarray.Index.concat`.

        Raises
        ------
        ValueError
            The parts are not of one image, or differ along other dimensions.
        """
        transforms = [index.transform for index in indexes]
        first = transforms[0]
        if not all(first.equals(other, exclude=frozenset([dim])) for other in transforms):
            names = ", ".join(map(str, first.coord_names))
            raise ValueError(
                f"{first.where}: {names}: only parts of one image can be concatenated along {dim}; "
                "drop these coordinates first"
            )
        pixels = np.concatenate([np.asarray(part.pixels[str(dim)]) for part in transforms])
        # `positions` are those of each part's pixels in the result.
        if positions is not None:
            pixels = pixels[np.argsort(np.concatenate([list(part) for part in positions]))]
        return cls(first.along(str(dim), pixels.astype(np.float64)))

    def isel(self, indexers: Mapping[Any, Any]) -> SkyIndex | None:
        """Return the index of some of the pixels; see `xarray.Index.isel`."""
        transform = self.transform.isel(indexers)
        return None if transform is None else SkyIndex(transform)

    def sel(
        self, labels: dict[Any, Any], method: str | None = None, tolerance: object = None
    ) -> IndexSelResult:
        """Find the pixels nearest to positions on the sky, in the units of the coordinates.

        Raises
        ------
        KeyError
            A position is outside the image.
        ValueError
            The method is not "nearest", one of the two coordinates is missing, or a dimension of
            the plane was dropped.
        """
        names = self.transform.coord_names
        dims = self.transform.dims
        if method != "nearest" or tolerance is not None:
            raise ValueError(f"{names[0]}, {names[1]}: expected method='nearest' and no tolerance")
        if len(dims) != 2 or set(labels) != set(names):
            raise ValueError(
                f"expected labels of {names[0]} and {names[1]} for two dimensions, found "
                f"{', '.join(map(str, labels))} for {', '.join(dims)}"
            )
        coords = xr.broadcast(*(xr.DataArray(labels[name]) for name in names))
        positions = self.transform.reverse(
            {name: coord.values for name, coord in zip(names, coords, strict=True)}
        )
        indexers = {}
        for dim, position in positions.items():
            index = nearest(position, self.transform.dim_size[dim])
            if index is None:
                raise KeyError(f"{self.transform.where}: a position is off the image along {dim}")
            indexers[dim] = index.item() if index.ndim == 0 else xr.Variable(coords[0].dims, index)
        return IndexSelResult(indexers)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Return the same index with other names; see `xarray.Index.rename`."""
        return type(self)(self.transform.renamed(name_dict, dims_dict))

    def __repr__(self) -> str:
        return f"SkyIndex({self.transform!r})"

    def _repr_inline_(self, max_width: int) -> str:
        return repr(self)[:max_width]


def _select_pixels(pixels: Pixels, key: slice | npt.ArrayLike) -> Pixels | float:
    """Index the pixels along a dimension; a float if a single one is left, without a dimension."""
    if isinstance(key, slice):
        return pixels[key]
    key = np.asarray(key)
    if key.ndim == 0:
        return float(pixels[int(key)])
    # An empty list makes an array of floats, which is no index.
    index = key if key.size else slice(0)
    selected: npt.NDArray[np.float64] = np.asarray(pixels, np.float64)[index]
    return selected


def _positions_of(image_pixels: npt.NDArray[np.float64], along: Pixels) -> npt.NDArray[np.float64]:
    """Return the positions of pixels of the image among those along a dimension.

    In fractions of a step for a range. Else the position of the nearest pixel; NaN if that is more
    than half a pixel away.
    """
    if isinstance(along, range):
        return (image_pixels - along.start) / along.step
    distances = np.abs(np.subtract.outer(image_pixels, along))
    closest = distances.argmin(axis=-1) if len(along) else np.zeros(image_pixels.shape, int)
    # `~(... <= 0.5)`, since the distance of a NaN is NaN.
    is_outside = ~(np.take_along_axis(distances, closest[..., None], -1)[..., 0] <= 0.5)
    return np.where(is_outside, np.nan, closest)


def _are_equal(first: Pixels | None, second: Pixels | None) -> bool:
    """Return whether the pixels along a dimension are the same; None for a missing dimension."""
    if first is None or second is None:
        return first is second
    return np.array_equal(np.asarray(first), np.asarray(second))


def _pixels_token(pixels: Pixels) -> object:
    """Return a token of pixels, short for a range."""
    return repr(pixels) if isinstance(pixels, range) else tokenize(pixels)
