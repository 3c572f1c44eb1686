"""The pixel grid of an image: names of its axes and world coordinates along them, by its WCS. Pure.

Two orders of axes meet here. Arrays have NumPy's: `shape`, `dims`. A WCS has FITS's, from 0: `axis`
is one of its pixel axes, `world` one of its world axes, and a matrix has an entry for each pair::

    axis                 0     1     2        3
    dimension            "x"   "y"   "freq"   none, if the WCS has more axes than the image
    index in `dims`      2     1     0        ndim - 1 - axis
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.coordinates import StokesCoord
from astropy.wcs import WCS

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.wcs.geometry import check_copies
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.quiet import quiet
from dask_fits.wcs.turns import is_distorted

_NAMES_OF_TYPES: Mapping[str, str] = {
    "em.freq": "freq",
    "em.energy": "energy",
    "em.wavenumber": "wavenumber",
    "em.wl": "wavelength",
    "em.wl;obs.atmos": "wavelength",
    "spect.dopplerVeloc": "velocity",
    "spect.dopplerVeloc.radio": "velocity",
    "spect.dopplerVeloc.opt": "velocity",
    "custom:spect.doplerVeloc.beta": "beta",
    "src.redshift": "redshift",
    "phys.polarization.stokes": "stokes",
    "time": "time",
    "pos.distance": "distance",
    "custom:pos.distance.sunToObserver": "distance",
}
"""Names of axes by the physical types that astropy gives to the CTYPEs of FITS."""

_POSITION_TYPES = ("pos.", "custom:pos.")
"""Prefixes of the physical types of positions, whose names are in CTYPE: RA, GLAT, HPLN."""

_SIGNED_LONGITUDES = ("hpln", "hgln")
"""Longitudes that count from the middle of the Sun's disk, as in sunpy; those of Carrington (CRLN)
are from 0 to 360 degrees there, too. Thompson 2006, A&A 449, 791."""

_MOST_VALUES = 1 << 24
"""Limit for the length of an axis with world coordinates, in pixels (16 Mi); longer ones have pixel
coordinates. A damaged NAXISn must not take all memory before any pixel is read."""

Pixels = range | npt.NDArray[np.float64]
"""Pixels of an image along an axis, from 0."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """World coordinates that depend on at most one axis of the image."""

    name: str
    dim: str | None
    """The dimension that they depend on; None if they are one value for the whole image."""
    world: int
    """World axis of the WCS, from 0."""
    attrs: Mapping[str, str]
    values: npt.NDArray[Any] = field(compare=False, repr=False)
    """Values of the pixels along the dimension; names for Stokes parameters."""


@dataclass(frozen=True, slots=True)
class Sky:
    """The two axes of an image that span the sky."""

    names: tuple[str, str]
    """Names of longitude and latitude."""
    plane: tuple[int, int]
    """Pixel axes of the WCS, from 0, in ascending order: those of x and y. One of them may be an
    axis that the image does not have, of one pixel."""
    attrs: tuple[Mapping[str, str], Mapping[str, str]] = field(compare=False)
    """Attributes of longitude and latitude."""

    @property
    def is_signed(self) -> bool:
        """Whether longitudes are from -180 to 180 degrees, not from 0 to 360."""
        return self.names[0] in _SIGNED_LONGITUDES


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixel grid of an image, as its WCS describes it."""

    wcs: WCS | None = field(compare=False)
    """None if the image has none. Shared between threads: treat it as read-only, and evaluate a
    copy (`own_wcs`)."""
    shape: tuple[int, ...]
    """Array shape, NumPy order."""
    dims: tuple[str, ...]
    """Name of each axis, NumPy order."""
    coordinates: tuple[Coordinate, ...]
    """The world coordinates that are separable, so that they depend on at most one axis."""
    sky: Sky | None
    """The plane of the sky; None if the WCS is not celestial."""

    def own_wcs(self) -> WCS:
        """Return a copy of the WCS, to evaluate it.

        Threads that evaluate one `astropy.wcs.WCS` share the memory in which it computes (for SIP,
        logarithmic axes, tables), and get wrong positions.
        """
        return copy.deepcopy(self.wcs)

    def fits_axis(self, dim: str) -> int:
        """Return the pixel axis of the WCS, from 0, of a dimension."""
        return len(self.dims) - 1 - self.dims.index(dim)

    def along(self, dim: str) -> Coordinate | None:
        """Return the world coordinates that index a dimension; None if pixels do."""
        return next((coord for coord in self.coordinates if coord.name == dim), None)


@lru_cache(maxsize=64)
def make_grid(text: WcsText, where: str) -> Grid:
    """Make the pixel grid of an image from its WCS.

    Raises
    ------
    FitsFormatError
        The keywords make no WCS.
    """
    # astropy would log its corrections of each of perhaps ten thousand headers.
    with quiet():
        wcs = text.wcs(where)
        check_copies(wcs, where)
        shape = text.shape
        try:
            matrix = dependence_matrix(wcs)
            sky = _find_sky(wcs, matrix)
            dims = _name_dims(wcs, len(shape), matrix, sky)
            coordinates = tuple(_separable_coordinates(wcs, shape, dims, matrix))
            return Grid(wcs, shape, dims, coordinates, sky)
        except Exception as error:  # astropy raises whatever it stumbles on
            raise FitsFormatError(
                f"{where}: the WCS has no world coordinates: {one_line(error)}"
            ) from error


def plain_grid(shape: tuple[int, ...]) -> Grid:
    """Make the pixel grid of an image that has no WCS."""
    dims = _unique_names([None] * len(shape), range(len(shape)))
    return Grid(wcs=None, shape=shape, dims=dims, coordinates=(), sky=None)


def dependence_matrix(wcs: WCS) -> npt.NDArray[np.bool_]:
    """Return which world axes depend on which pixel axes: a matrix of (world, pixel).

    It is `astropy.wcs.WCS.axis_correlation_matrix`, except that the latter takes all axes for
    correlated if an image has a distortion. Those that astropy supports are of the first two axes.
    """
    matrix: npt.NDArray[np.bool_] = wcs.wcs.get_pc() != 0
    # A distortion mixes the first two axes before the linear transformation.
    if is_distorted(wcs):
        mixed = np.eye(wcs.naxis, dtype=bool)
        mixed[:2, :2] = True
        matrix = matrix @ mixed
    # World axes of one projection, or of one table, depend on all that one of them depends on.
    # Thousands digit 2 of wcslib's axis type: celestial.
    coupled = [np.flatnonzero(wcs.wcs.axis_types // 1000 % 10 == 2)]
    coupled += [np.asarray(table.map) for table in wcs.wcs.tab]
    for group in coupled:
        worlds = [world for world in group if 0 <= world < wcs.naxis]
        matrix[worlds] = matrix[worlds].any(axis=0)
    return matrix


def is_described(wcs: WCS, axis: int) -> bool:
    """Return whether the header describes an axis of the WCS, so that it has not the defaults."""
    keywords = (
        wcs.wcs.ctype[axis],
        wcs.wcs.crpix[axis],
        wcs.wcs.crval[axis],
        wcs.wcs.get_cdelt()[axis],
    )
    row = wcs.wcs.get_pc()[axis]
    default_row = np.eye(wcs.naxis)[axis]
    return keywords != ("", 0, 0, 1) or bool((row != default_row).any())


def has_wcs(wcs: WCS | None) -> bool:
    """Return whether the header of a WCS describes any axis."""
    return wcs is not None and any(is_described(wcs, axis) for axis in range(wcs.naxis))


def _name_dims(
    wcs: WCS, ndim: int, matrix: npt.NDArray[np.bool_], sky: Sky | None
) -> tuple[str, ...]:
    """Name the axes of an image, NumPy order; `matrix` is that of `dependence_matrix`."""
    names: list[str | None] = [None] * wcs.naxis
    for axis in range(wcs.naxis):
        # An axis is named by the world axis that depends on it alone, if there is exactly one.
        separable = [
            world for world in range(wcs.naxis) if matrix[world, axis] and matrix[world].sum() == 1
        ]
        if len(separable) == 1:
            names[axis] = _physical_name(wcs, separable[0])
    if sky is not None:
        names[sky.plane[0]] = "x"
        names[sky.plane[1]] = "y"

    described = [is_described(wcs, world) for world in range(wcs.naxis)]
    undescribed = [
        axis
        for axis in range(ndim)
        if sky is None and not _is_axis_described(described, matrix, axis)
    ]
    # The WCS may have more axes than the image, or fewer.
    return _unique_names((names + [None] * ndim)[:ndim], undescribed)


def _is_axis_described(described: list[bool], matrix: npt.NDArray[np.bool_], axis: int) -> bool:
    """Return whether the header describes a world axis that depends on a pixel axis."""
    return axis < len(described) and bool((matrix[:, axis] & described).any())


def _unique_names(names: Sequence[str | None], undescribed: Collection[int]) -> tuple[str, ...]:
    """Return unique names of the axes of an image, NumPy order.

    Parameters
    ----------
    names : sequence of str or None
        Physical names of the axes in FITS order. Axes without one, or with the same, become axisN.
    undescribed : collection of int
        Axes that the header does not describe, from 0 in FITS order. The first two axes of an image
        of several become x and y if they are among them.
    """
    count = Counter(names)
    unique = [
        name if name and count[name] == 1 else f"axis{n}" for n, name in enumerate(names, start=1)
    ]
    if len(names) > 1:
        for axis in {0, 1} & set(undescribed):
            unique[axis] = "xy"[axis]
    return tuple(unique)[::-1]


def _find_sky(wcs: WCS, matrix: npt.NDArray[np.bool_]) -> Sky | None:
    """Find the pixel axes that the sky depends on; None if those are not two."""
    if not wcs.has_celestial:
        return None
    lon = wcs.wcs.lng
    lat = wcs.wcs.lat
    axes = np.flatnonzero(matrix[[lon, lat]].any(axis=0))
    if len(axes) != 2:
        return None
    return Sky(
        names=(_ctype_name(wcs, lon), _ctype_name(wcs, lat)),
        plane=(int(axes[0]), int(axes[1])),
        attrs=(_world_attrs(wcs, lon), _world_attrs(wcs, lat)),
    )


def _physical_name(wcs: WCS, world: int) -> str | None:
    """Return the name of a world axis by its physical type; None if that has no name."""
    physical_type = wcs.world_axis_physical_types[world] or ""
    if physical_type in _NAMES_OF_TYPES:
        return _NAMES_OF_TYPES[physical_type]
    return _ctype_name(wcs, world) if physical_type.startswith(_POSITION_TYPES) else None


def _ctype_name(wcs: WCS, world: int) -> str:
    """Return the name of a world axis by its CTYPE, without the projection."""
    name: str = wcs.wcs.ctype[world].partition("-")[0]
    return name.lower()


def _separable_coordinates(
    wcs: WCS, shape: tuple[int, ...], dims: tuple[str, ...], matrix: npt.NDArray[np.bool_]
) -> list[Coordinate]:
    """Find the world coordinates that depend on at most one axis of an image, and their names.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    shape, dims : tuple of int, tuple of str
        Those of the image, NumPy order.
    matrix : (world, pixel) bool array
        That of `dependence_matrix`.
    """
    ndim = len(shape)
    coordinates: list[Coordinate] = []
    names: set[str] = set()
    for world in range(wcs.naxis):
        axes = np.flatnonzero(matrix[world])
        if len(axes) > 1 or not is_described(wcs, world):
            continue
        # A world axis that depends on none (its row of the matrix PC is zero) is a constant.
        axis = int(axes[0]) if len(axes) else world
        # The image lacks axes that the WCS has beyond NAXIS: those have one pixel.
        dim = dims[ndim - 1 - axis] if axis < ndim else None

        # An index coordinate has the name of its dimension, which may be axisN for want of a
        # unique one. Other names must not be those of dimensions.
        name = _physical_name(wcs, world)
        if dim and dim.startswith("axis") and matrix[:, axis].sum() == 1:
            name = dim
        if not name or (name in dims and name != dim) or name in names:
            continue

        pixels = range(shape[ndim - 1 - axis]) if dim else range(1)
        if len(pixels) > _MOST_VALUES or not _is_separable(wcs, world, axis, pixels):
            continue
        coordinates.append(_make_coordinate(wcs, world, axis, pixels, name=name, dim=dim))
        names.add(name)
    return coordinates


def _make_coordinate(
    wcs: WCS, world: int, axis: int, pixels: range, *, name: str, dim: str | None
) -> Coordinate:
    """Compute the world coordinates of pixels along an axis; of one pixel if `dim` is None."""
    values = world_values(wcs, world, axis, pixels)
    if name == "stokes":
        values = _stokes_names(values)
    attrs = _world_attrs(wcs, world)
    if values.dtype.kind != "f":  # names have no unit
        attrs.pop("units", None)
    return Coordinate(name, dim, world, attrs, values=values if dim else values.reshape(()))


def world_values(
    wcs: WCS, world: int, axis: int, pixels: Pixels, *, others: float = 0.0
) -> npt.NDArray[np.float64]:
    """Compute the world coordinates of pixels along one axis.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    world : int
        World axis of the coordinates, from 0.
    axis : int
        Pixel axis of the pixels, from 0.
    pixels : range or (n,) array
        Pixels along it, from 0.
    others : float
        Pixel along all other axes.
    """
    along = np.asarray(pixels, np.float64)
    if not along.size:
        return along
    pixels_of_axes = [np.full(along.shape, others) for _ in range(wcs.naxis)]
    pixels_of_axes[axis] = along
    values = wcs.pixel_to_world_values(*pixels_of_axes)
    # astropy returns one array instead of a list for a single axis.
    return np.asarray(values if wcs.naxis == 1 else values[world], np.float64)


def _is_separable(wcs: WCS, world: int, axis: int, pixels: range) -> bool:
    """Try out whether coordinates depend on no other axis: the matrix may miss a dependence."""
    if wcs.naxis == 1 or not pixels:
        return True
    ends = np.unique(np.array([pixels[0], pixels[-1]], np.float64))
    # At the ends of the axis, along two lines that are some pixels apart.
    line, other_line = (
        world_values(wcs, world, axis, ends, others=others) for others in (0.0, 17.0)
    )
    return bool(np.array_equal(line, other_line, equal_nan=True))


def _stokes_names(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return the names of Stokes parameters (FITS Standard 4.0, table 29), if all have one."""
    if not (values == np.round(values)).all():
        return values
    # As objects: zarr warns that strings of a fixed length are no part of its format.
    names = np.asarray(StokesCoord(values).symbol, object)
    return values if (names == "?").any() else names


def _world_attrs(wcs: WCS, world: int) -> dict[str, str]:
    """Return the attributes of the coordinates of a world axis, without empty ones."""
    attrs = {
        "units": _fits_unit(wcs, world),
        "ctype": wcs.wcs.ctype[world],
        "physical_type": wcs.world_axis_physical_types[world] or "",
    }
    return {key: value for key, value in attrs.items() if value}


def nearest(positions: npt.ArrayLike, count: int) -> npt.NDArray[np.int64] | None:
    """Return the nearest of `count` pixels to each position; None if one is outside all pixels.

    A pixel reaches half a step to both sides, the lower edge included.
    """
    pixels = np.floor(np.asarray(positions) + 0.5)
    if not ((pixels >= 0) & (pixels < count)).all():
        return None
    return pixels.astype(np.int64)


def _fits_unit(wcs: WCS, world: int) -> str:
    """Return the unit of a world axis as FITS writes it; empty if it has none."""
    unit = wcs.wcs.cunit[world]
    try:
        text: str = unit.to_string("fits")
    except (AttributeError, ValueError):
        text = str(unit or "")
    return text
