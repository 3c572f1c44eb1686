"""Two-dimensional coordinates of the sky that are computed when they are asked for."""

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
from dask_fits.xarray_backend.arrays import LazyArray, renewed
from dask_fits.xarray_backend.grid import Pixels, Sky, make_grid, nearest

_AT_ONCE = 1 << 20
"""Pixels whose positions are computed together, which bounds the memory beside the result."""


class SkyTransform(CoordinateTransform):
    """Pixels of an image -> longitude and latitude, by the WCS, distortions included.

    It holds the WCS as text: small, exact, and the same in every process.
    """

    def __init__(
        self,
        text: WcsText,
        where: str,
        sky: Sky,
        pixels: Mapping[str, Pixels],
        plane: tuple[str | float, str | float],
        names: tuple[Hashable, Hashable] | None = None,
    ) -> None:
        """Make the transform of some pixels of an image.

        Parameters
        ----------
        text : WcsText
            Of a celestial WCS.
        where : str
            Of what it is, for messages.
        sky : Sky
            Its two axes that span the sky.
        pixels : mapping of str to range or array
            Pixels of the image along each dimension, in the order of the dimensions.
        plane : (str or float, str or float)
            The two pixel axes of the WCS that the sky depends on, the first one first: dimension,
            or pixel where there is none any more.
        names : (str, str), optional
            Of longitude and latitude, where they were renamed.
        """
        super().__init__(names or sky.names, {dim: len(along) for dim, along in pixels.items()})
        self.text = text
        self.where = where
        self.sky = sky
        self.pixels = dict(pixels)
        self.plane = plane

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Find the positions on the sky of pixels, given by their place along each dimension."""
        along = [
            self._pixels_at(axis, dim_positions[axis]) if isinstance(axis, str) else axis
            for axis in self.plane
        ]
        first, second = np.broadcast_arrays(*along)
        return dict(zip(self.coord_names, self._sky(first, second), strict=True))

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Find the place along each dimension of positions on the sky; NaN where there is none."""
        lon, lat = (np.asarray(coord_labels[name], np.float64) for name in self.coord_names)
        found = from_sky(self._own_wcs(), lon, lat, self._image, self._left)
        return {
            axis: _place(np.asarray(pixel), self.pixels[axis])
            for axis, pixel in zip(self.plane, found, strict=True)
            if isinstance(axis, str)
        }

    def equals(
        self, other: CoordinateTransform, *, exclude: frozenset[Hashable] | None = None
    ) -> bool:
        """Tell whether another transform gives the same positions for the same pixels."""
        if not isinstance(other, SkyTransform) or self.text != other.text:
            return False
        skip = exclude or frozenset()
        return all(
            _are_equal(self.pixels.get(dim), other.pixels.get(dim))
            for dim in {*self.pixels, *other.pixels} - skip
        ) and all(
            one == two
            for one, two in zip(self.plane, other.plane, strict=True)
            if not {one, two} & skip
        )

    def isel(self, indexers: Mapping[Any, Any]) -> SkyTransform | None:
        """Make the transform of some of the pixels; None where they are no grid any more."""
        pixels, plane = {}, list(self.plane)
        for dim, along in self.pixels.items():
            key = indexers.get(dim, slice(None))
            key = key.values if isinstance(key, xr.Variable) and key.dims in ((), (dim,)) else key
            if isinstance(key, xr.Variable):
                return None
            taken = _taken(along, key)
            if isinstance(taken, float):
                plane[plane.index(dim)] = taken
            else:
                pixels[dim] = taken
        if not pixels:
            return None
        return self._of(pixels, (plane[0], plane[1]), self._names)

    def renamed(self, names: Mapping[Any, Hashable], dims: Mapping[Any, Hashable]) -> SkyTransform:
        """Make the same transform with other names."""
        pixels = {str(dims.get(dim, dim)): along for dim, along in self.pixels.items()}
        first, second = (str(dims.get(a, a)) if isinstance(a, str) else a for a in self.plane)
        lon, lat = (names.get(name, name) for name in self.coord_names)
        return self._of(pixels, (first, second), (lon, lat))

    def _of(
        self,
        pixels: Mapping[str, Pixels],
        plane: tuple[str | float, str | float],
        names: tuple[Hashable, Hashable],
    ) -> SkyTransform:
        return SkyTransform(self.text, self.where, self.sky, pixels, plane, names)

    def along(self, dim: str, pixels: Pixels) -> SkyTransform:
        """Make the same transform of other pixels along a dimension."""
        return self._of({**self.pixels, dim: pixels}, self.plane, self._names)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        along = [(dim, _token(pixels)) for dim, pixels in self.pixels.items()]
        text = self.text.cards, self.text.tables
        return ("dask_fits.SkyTransform", *text, along, self.plane, self.coord_names)

    def __repr__(self) -> str:
        kinds = " ".join(attrs["ctype"] for attrs in self.sky.attrs)
        sizes = ", ".join(f"{dim}: {len(along)}" for dim, along in self.pixels.items())
        return f"<{kinds} ({sizes})>"

    def _own_wcs(self) -> WCS:
        return make_grid(self.text, self.where).own_wcs()

    @property
    def _image(self) -> Extent:
        """The whole image, in the plane of the sky."""
        lengths = (*make_grid(self.text, self.where).shape[::-1], 1)
        width, height = (lengths[min(axis, len(lengths) - 1)] for axis in self.sky.plane)
        return Extent.of(height, width)

    @property
    def _left(self) -> Extent | None:
        """What is left of it; None where nothing is."""
        along = [self.pixels[axis] if isinstance(axis, str) else [axis] for axis in self.plane]
        if not all(map(len, along)):
            return None
        x, y = map(pixel_edges, along)
        return Extent((x[0], y[0]), (x[1], y[1]))

    @property
    def _names(self) -> tuple[Hashable, Hashable]:
        return self.coord_names[0], self.coord_names[1]

    def _pixels_at(self, dim: str, position: Any) -> npt.NDArray[np.float64]:
        along = self.pixels[dim]
        place = np.asarray(position)
        if isinstance(along, range):
            return np.asarray(along.start + along.step * place, np.float64)
        found: npt.NDArray[np.float64] = along[place.astype(np.int64)]
        return found

    def _sky(
        self, first: npt.NDArray[Any], second: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        wcs = self._own_wcs()
        one, two = self.sky.plane
        shape, size = first.shape, first.size
        lon, lat = np.empty(size), np.empty(size)
        first, second = first.reshape(-1), second.reshape(-1)
        for start in range(0, size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            pixels = [np.zeros(len(first[part]))] * wcs.naxis
            pixels[one], pixels[two] = first[part], second[part]
            lon[part], lat[part] = to_sky(wcs, pixels, self._image)
        if self.sky.is_signed:
            lon = np.where(lon >= 180, lon - 360, lon)
        return lon.reshape(shape), lat.reshape(shape)


class SkyArray(LazyArray):
    """Longitude or latitude of the pixels of a transform."""

    __slots__ = ("_dims", "_name", "_transform")

    def __init__(self, transform: SkyTransform, name: Hashable, dims: tuple[str, ...]) -> None:
        super().__init__(tuple(transform.dim_size[dim] for dim in dims), transform.dtype)
        self._transform, self._name, self._dims = transform, name, dims

    def take(self, selection: Selection) -> Any:
        """Compute the positions of a selection."""
        places = np.meshgrid(*selection.indices, indexing="ij")
        found = self._transform.forward(dict(zip(self._dims, places, strict=True)))
        return found[self._name][selection.key]

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # Dask does not look into what is returned here.
        return ("dask_fits.SkyArray", *self._transform.__dask_tokenize__(), self._name, self._dims)


class SkyIndex(CoordinateTransformIndex):
    """An index over the pixels of an image by their positions on the sky.

    ``ds.sel(ra=..., dec=..., method="nearest")`` finds the pixel of a position. Slices, integers
    and lists along the axes keep the index, and compute nothing.
    """

    transform: SkyTransform

    def create_variables(self, variables: Mapping[Any, xr.Variable] | None = None) -> Any:
        """Make the coordinates; see `xarray.Index.create_variables`."""
        found = {}
        for name, attrs in zip(self.transform.coord_names, self.transform.sky.attrs, strict=True):
            dims = self.transform.dims
            known = (variables or {}).get(
                name, xr.Variable(dims, np.empty((0,) * len(dims)), attrs)
            )
            if set(known.dims) == set(dims):
                dims = tuple(str(dim) for dim in known.dims)
            # xarray's own array is not lazy, and of the wrong shape for integers of NumPy.
            array = SkyArray(self.transform, name, dims)
            found[name] = renewed(known, array, f"fits-{name}", dims)
        return found

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Make the index of parts of an image that are put together; see `xarray.Index.concat`.

        Raises
        ------
        ValueError
            They are not of one image, or differ along other dimensions.
        """
        transforms = [index.transform for index in indexes]
        first = transforms[0]
        if not all(first.equals(other, exclude=frozenset([dim])) for other in transforms):
            names = ", ".join(map(str, first.coord_names))
            raise ValueError(
                f"{first.where}: {names}: only parts of one image can be concatenated along {dim}; "
                "drop these coordinates first"
            )
        along = np.concatenate([np.asarray(part.pixels[str(dim)]) for part in transforms])
        if positions is not None:
            along = along[np.argsort(np.concatenate([list(part) for part in positions]))]
        return cls(first.along(str(dim), along.astype(np.float64)))

    def isel(self, indexers: Mapping[Any, Any]) -> SkyIndex | None:
        """Make the index of some of the pixels; see `xarray.Index.isel`."""
        found = self.transform.isel(indexers)
        return None if found is None else SkyIndex(found)

    def sel(
        self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None
    ) -> IndexSelResult:
        """Find the nearest pixels of positions on the sky, in the units of the coordinates.

        Raises
        ------
        KeyError
            A position is off the image.
        ValueError
            The method is not "nearest", one of the two coordinates is missing, or the pixels are
            not of a plane any more.
        """
        names, dims = self.transform.coord_names, self.transform.dims
        if method != "nearest" or tolerance is not None:
            raise ValueError(f"{names[0]}, {names[1]}: expected method='nearest' and no tolerance")
        if len(dims) != 2 or set(labels) != set(names):
            raise ValueError(
                f"expected labels of {names[0]} and {names[1]} for two dimensions, found "
                f"{', '.join(map(str, labels))} for {', '.join(dims)}"
            )
        wanted = xr.broadcast(*(xr.DataArray(labels[name]) for name in names))
        places = self.transform.reverse(
            {name: label.values for name, label in zip(names, wanted, strict=True)}
        )
        found = {}
        for dim, place in places.items():
            pixel = nearest(place, self.transform.dim_size[dim])
            if pixel is None:
                raise KeyError(f"{self.transform.where}: a position is off the image along {dim}")
            found[dim] = pixel.item() if pixel.ndim == 0 else xr.Variable(wanted[0].dims, pixel)
        return IndexSelResult(found)

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Make the same index with other names; see `xarray.Index.rename`."""
        return type(self)(self.transform.renamed(name_dict, dims_dict))

    def __repr__(self) -> str:
        return f"SkyIndex({self.transform!r})"

    def _repr_inline_(self, max_width: int) -> str:
        return repr(self)[:max_width]


def _taken(along: Pixels, key: Any) -> Pixels | float:
    """Index the pixels along a dimension: a float where one is taken and the dimension ends."""
    if isinstance(key, slice):
        return along[key]
    key = np.asarray(key)
    if key.ndim == 0:
        return float(along[int(key)])
    taken: npt.NDArray[np.float64] = np.asarray(along, np.float64)[key if key.size else slice(0)]
    return taken


def _place(pixel: npt.NDArray[np.float64], along: Pixels) -> npt.NDArray[np.float64]:
    """Find where pixels of the image are among those along a dimension, in fractions of a step."""
    if isinstance(along, range):
        return (pixel - along.start) / along.step
    places = np.abs(np.subtract.outer(pixel, along))
    nearest = places.argmin(axis=-1) if len(along) else np.zeros(pixel.shape, int)
    off = ~(np.take_along_axis(places, nearest[..., None], -1)[..., 0] <= 0.5)
    return np.where(off, np.nan, nearest)


def _are_equal(one: Pixels | None, other: Pixels | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(np.asarray(one), np.asarray(other))


def _token(pixels: Pixels) -> object:
    return repr(pixels) if isinstance(pixels, range) else tokenize(pixels)
