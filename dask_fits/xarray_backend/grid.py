"""The axes of an image: their names, and where its pixels are along each, by its WCS. No I/O."""

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

_NAMES: Mapping[str, str] = {
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
"""Physical types that astropy gives to the CTYPEs of FITS, and what their axes are called."""

_ANGLES = ("pos.", "custom:pos.")
"""How the physical types of positions begin; what they are called is in CTYPE: RA, GLAT, HPLN."""

_SIGNED = ("hpln", "hgln")
"""Longitudes that count from the middle of the Sun's disk, as sunpy has them; those of Carrington
(CRLN) are from 0 to 360 degrees there, too. Thompson 2006, A&A 449, 791."""

_MOST_VALUES = 1 << 24
"""World coordinates are made along axes of up to so many pixels (16 Mi); longer ones are counted.
A damaged NAXISn must not ask for more memory than there is before any pixel is wanted."""

Pixels = range | npt.NDArray[np.float64]
"""Pixels along an axis, from 0."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """World coordinates that depend on one axis of the image at most."""

    name: str
    dim: str | None
    """The axis that they run along; None: they are one value for the whole image."""
    world: int
    """Axis of the WCS, from 0."""
    attrs: Mapping[str, str]
    values: npt.NDArray[Any] = field(compare=False, repr=False)
    """One for each pixel; of Stokes parameters their names."""


@dataclass(frozen=True, slots=True)
class Sky:
    """The two axes of an image that span the sky."""

    names: tuple[str, str]
    """Of longitude and latitude."""
    plane: tuple[int, int]
    """Axes of the WCS's pixels, from 0, the lower first: of x and y. One of them may be an axis
    that the image does not have, of one pixel."""
    attrs: tuple[Mapping[str, str], Mapping[str, str]] = field(compare=False)
    """Of the coordinates longitude and latitude."""

    @property
    def is_signed(self) -> bool:
        """Whether longitudes are from -180 to 180 degrees, not from 0 to 360."""
        return self.names[0] in _SIGNED


@dataclass(frozen=True, slots=True)
class Grid:
    """The pixel grid of an image, as its WCS describes it."""

    wcs: WCS | None = field(compare=False)
    """None where the keywords make none; nobody changes it, nor evaluates it: see `own_wcs`."""
    shape: tuple[int, ...]
    """Array shape, NumPy order."""
    dims: tuple[str, ...]
    """Name of each axis, NumPy order."""
    coordinates: tuple[Coordinate, ...]
    """Those along axes that the WCS separates from the others."""
    sky: Sky | None
    """Where the WCS is celestial."""

    def own_wcs(self) -> WCS:
        """Make a copy of the WCS, to find positions with.

        Threads that use one `astropy.wcs.WCS` share the memory in which it computes (of SIP, of
        logarithmic axes, of tables), and get wrong positions.
        """
        return copy.deepcopy(self.wcs)

    def fits_axis(self, dim: str) -> int:
        """Axis of the WCS, from 0, that a dimension runs along."""
        return len(self.dims) - 1 - self.dims.index(dim)

    def along(self, dim: str) -> Coordinate | None:
        """World coordinates that the dimension is indexed with; None where those are pixels."""
        return next((found for found in self.coordinates if found.name == dim), None)


@lru_cache(maxsize=64)
def make_grid(text: WcsText, where: str) -> Grid:
    """Make the pixel grid of an image of its WCS.

    Raises
    ------
    FitsFormatError
        The keywords make no WCS.
    """
    # Of ten thousand headers, what astropy mends in each is of no use to anybody.
    with quiet():
        wcs = text.wcs(where)
        check_copies(wcs, where)
        shape = text.shape
        try:
            matrix = depends(wcs)
            sky = _sky(wcs, matrix)
            dims = _dims(wcs, len(shape), matrix, sky)
            return Grid(wcs, shape, dims, tuple(_coordinates(wcs, shape, dims, matrix)), sky)
        except Exception as error:  # astropy raises whatever it stumbles on
            raise FitsFormatError(
                f"{where}: the WCS has no world coordinates: {one_line(error)}"
            ) from error


def plain_grid(shape: tuple[int, ...]) -> Grid:
    """Make the pixel grid of an image that has no WCS."""
    return Grid(None, shape, _unique_names([None] * len(shape), range(len(shape))), (), None)


def depends(wcs: WCS) -> npt.NDArray[np.bool_]:
    """Tell which world coordinates depend on which axes of the pixels: (world, pixel).

    As `astropy.wcs.WCS.axis_correlation_matrix`, which however takes all for correlated where an
    image has a distortion; those that astropy knows are of the first two axes.
    """
    found: npt.NDArray[np.bool_] = wcs.wcs.get_pc() != 0
    if is_distorted(wcs):
        mixed = np.eye(wcs.naxis, dtype=bool)
        mixed[:2, :2] = True
        found = found @ mixed
    groups = [np.flatnonzero(wcs.wcs.axis_types // 1000 % 10 == 2)]
    groups += [np.asarray(table.map) for table in wcs.wcs.tab]
    for group in groups:
        among = [axis for axis in group if 0 <= axis < wcs.naxis]
        found[among] = found[among].any(axis=0)
    return found


def is_described(wcs: WCS, axis: int) -> bool:
    """Whether the header says anything of an axis of the WCS."""
    row = wcs.wcs.get_pc()[axis]
    one = np.eye(wcs.naxis)[axis]
    found = wcs.wcs.ctype[axis], wcs.wcs.crpix[axis], wcs.wcs.crval[axis], wcs.wcs.get_cdelt()[axis]
    return found != ("", 0, 0, 1) or bool((row != one).any())


def has_wcs(wcs: WCS | None) -> bool:
    """Whether the header of a WCS says anything of any axis."""
    return wcs is not None and any(is_described(wcs, axis) for axis in range(wcs.naxis))


def _dims(wcs: WCS, ndim: int, matrix: npt.NDArray[np.bool_], sky: Sky | None) -> tuple[str, ...]:
    """Name the axes of an image, NumPy order; `matrix` is what `depends` tells."""
    found: list[str | None] = [None] * wcs.naxis
    for axis in range(wcs.naxis):
        alone = [w for w in range(wcs.naxis) if matrix[w, axis] and matrix[w].sum() == 1]
        if len(alone) == 1:
            found[axis] = _name(wcs, alone[0])
    if sky is not None:
        found[sky.plane[0]], found[sky.plane[1]] = "x", "y"
    described = [is_described(wcs, world) for world in range(wcs.naxis)]
    silent = [axis for axis in range(ndim) if sky is None and not _says(described, matrix, axis)]
    return _unique_names((found + [None] * ndim)[:ndim], silent)


def _says(described: list[bool], matrix: npt.NDArray[np.bool_], axis: int) -> bool:
    """Whether the header says anything of world coordinates along an axis of the pixels."""
    return axis < len(described) and bool((matrix[:, axis] & described).any())


def _unique_names(names: Sequence[str | None], silent: Collection[int]) -> tuple[str, ...]:
    """Name the axes of an image, NumPy order, so that no two have the same name.

    `names` come from physics, in FITS order. Of a plane, the axes among `silent`, which the header
    says nothing of, are x and y; what has no name besides is axisN.
    """
    count = Counter(names)
    found = [
        name if name and count[name] == 1 else f"axis{n}" for n, name in enumerate(names, start=1)
    ]
    if len(names) > 1:
        for axis in {0, 1} & set(silent):
            found[axis] = "xy"[axis]
    return tuple(found)[::-1]


def _sky(wcs: WCS, matrix: npt.NDArray[np.bool_]) -> Sky | None:
    """Find the axes that the sky depends on; None where those are not two."""
    if not wcs.has_celestial:
        return None
    lon, lat = wcs.wcs.lng, wcs.wcs.lat
    axes = np.flatnonzero(matrix[[lon, lat]].any(axis=0))
    if len(axes) != 2:
        return None
    plane = int(axes[0]), int(axes[1])
    return Sky((_stem(wcs, lon), _stem(wcs, lat)), plane, (_attrs(wcs, lon), _attrs(wcs, lat)))


def _name(wcs: WCS, world: int) -> str | None:
    """Name the coordinates of an axis of the WCS by their physical type."""
    kind = wcs.world_axis_physical_types[world] or ""
    if kind in _NAMES:
        return _NAMES[kind]
    return _stem(wcs, world) if kind.startswith(_ANGLES) else None


def _stem(wcs: WCS, world: int) -> str:
    """Name an axis by its CTYPE, without the projection."""
    name: str = wcs.wcs.ctype[world].partition("-")[0]
    return name.lower()


def _coordinates(
    wcs: WCS, shape: tuple[int, ...], dims: tuple[str, ...], matrix: npt.NDArray[np.bool_]
) -> list[Coordinate]:
    ndim = len(shape)
    found: list[Coordinate] = []
    taken = set(dims)
    for world in range(wcs.naxis):
        axes = np.flatnonzero(matrix[world])
        if len(axes) > 1 or not is_described(wcs, world):
            continue
        axis = int(axes[0]) if len(axes) else world
        dim = dims[ndim - 1 - axis] if axis < ndim else None
        name = _name(wcs, world)
        if dim and dim.startswith("axis") and matrix[:, axis].sum() == 1:
            name = dim
        if not name or (name in taken and name != dim) or name in {c.name for c in found}:
            continue
        pixels = range(shape[ndim - 1 - axis]) if dim else range(1)
        if len(pixels) > _MOST_VALUES or not _is_separate(wcs, world, axis, pixels):
            continue
        values = world_values(wcs, world, axis, pixels)
        if name == "stokes":
            values = _stokes_names(values)
        values = values if dim else values.reshape(())
        attrs = _attrs(wcs, world)
        if values.dtype.kind != "f":
            attrs.pop("units", None)
        found.append(Coordinate(name, dim, world, attrs, values))
    return found


def world_values(
    wcs: WCS, world: int, axis: int, pixels: Pixels, *, others: float = 0.0
) -> npt.NDArray[np.float64]:
    """Find the world coordinates of pixels along one axis.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    world, axis : int
        Axis of the WCS that the coordinates are of, and axis of the pixels; both from 0.
    pixels : range or (n,) array
        From 0.
    others : float
        Pixel along all other axes.
    """
    along = np.asarray(pixels, np.float64)
    if not along.size:
        return along
    all_axes = [np.full(along.shape, others) for _ in range(wcs.naxis)]
    all_axes[axis] = along
    values = wcs.pixel_to_world_values(*all_axes)
    return np.asarray(values if wcs.naxis == 1 else values[world], np.float64)


def _is_separate(wcs: WCS, world: int, axis: int, pixels: range) -> bool:
    """Try out that coordinates depend on no other axis; a WCS may hold what astropy hides."""
    if wcs.naxis == 1 or not pixels:
        return True
    ends = np.unique(np.array([pixels[0], pixels[-1]], np.float64))
    here, there = (world_values(wcs, world, axis, ends, others=other) for other in (0.0, 17.0))
    return bool(np.array_equal(here, there, equal_nan=True))


def _stokes_names(values: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Name Stokes parameters (FITS Standard 4.0, table 29); numbers where one has no name."""
    if not (values == np.round(values)).all():
        return values
    # As objects: of strings of a fixed length zarr warns that they are no part of its format.
    names = np.asarray(StokesCoord(values).symbol, object)
    return values if (names == "?").any() else names


def _attrs(wcs: WCS, world: int) -> dict[str, str]:
    """Tell what the world coordinates along an axis of the WCS are."""
    found = {
        "units": _unit(wcs, world),
        "ctype": wcs.wcs.ctype[world],
        "physical_type": wcs.world_axis_physical_types[world] or "",
    }
    return {key: value for key, value in found.items() if value}


def nearest(place: Any, count: int) -> npt.NDArray[np.int64] | None:
    """Find the nearest of `count` pixels to places among them; None where one is off them all.

    A pixel reaches half a step to both sides, the lower edge included.
    """
    found = np.floor(np.asarray(place) + 0.5)
    if not ((found >= 0) & (found < count)).all():
        return None
    return found.astype(np.int64)


def _unit(wcs: WCS, world: int) -> str:
    """Write the unit of an axis of the WCS as FITS does; empty where it has none."""
    unit = wcs.wcs.cunit[world]
    try:
        text: str = unit.to_string("fits")
    except (AttributeError, ValueError):
        text = str(unit or "")
    return text
