"""The outlines of images, and where they are in the plane of a projection that is not theirs.

A plane has edges of its own: where an image goes on beyond native longitudes of 180 degrees, it is
on both sides of the plane, and a pole may be a line. So an image whose outline has no place in part
of the plane, or jumps from one of its sides to the other, is looked at within, too:

    points of the outlines    of all images, with a transformation for each frame
    points of a grid          of those few images; and where their sky, or the plane, ends on it
    the plane's own edges     what such an image has of them
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import BaseCoordinateFrame, SkyCoord, UnitSphericalRepresentation
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits.exceptions import one_line
from dask_fits.wcs.frames import frame_of
from dask_fits.wcs.geometry import to_pixels, to_sky
from dask_fits.wcs.sphere import Floats, way_between
from dask_fits.wcs.turns import ZENITHAL, Extent

STEPS = 20
"""Pieces of each side of an outline."""

SIDES = slice(0, 4 * (STEPS + 1))
"""The four sides among the points of an image, each from corner to corner."""

_LINES = 100
"""Pieces of an image's sides for a grid with limbs, whose farthest points may lie between lines."""

_RIM = 720
"""Pieces of the circle that a pole is in the plane of some projections."""

_TINY = 1e-12
"""Degrees of a way that is as good as none."""

_BISECTIONS = 40
"""How often the piece between a point with a place and one without is divided: until nothing of a
side of 1e6 pixels is left."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An image on the sky."""

    wcs: WCS
    """Celestial, of two axes."""
    extent: Extent
    frame: BaseCoordinateFrame
    lon: Floats
    """Degrees in its own frame: points of the four sides, `SIDES`, and the one at CRPIX; NaN where
    the projection has none."""
    lat: Floats
    scale: float
    """Degrees: the shorter side of a pixel at CRPIX."""

    @classmethod
    def of(cls, wcs: WCS, shape: tuple[int, int]) -> Image:
        """Find the points of an image; ValueError if it has no celestial coordinates."""
        if len([*shape]) != 2 or min(shape) < 1:
            raise ValueError(f"expected a shape of two axes with pixels, found {tuple(shape)}")
        extent = Extent.of(*shape)
        try:
            points = _find_points(wcs, extent)
        except Exception as error:  # astropy raises whatever it stumbles on
            raise ValueError(f"its WCS finds no positions: {one_line(error)}") from error
        if points is None:
            raise ValueError("expected a WCS of two celestial axes")
        # wcslib has celestial axes in degrees, once it has found positions.
        scale = float(proj_plane_pixel_scales(wcs).min())
        return cls(wcs, extent, frame_of(wcs), *points, scale)


def _find_points(wcs: WCS, extent: Extent) -> tuple[Floats, Floats] | None:
    """Find the positions of the points of an image; None if it is not of the sky."""
    if wcs.naxis != 2 or not wcs.has_celestial:
        return None
    reference = np.asarray(wcs.wcs.crpix, np.float64)[:, None] - 1
    pixels = np.concatenate([_side_pixels(extent), reference], axis=1)
    return to_sky(wcs, list(pixels), extent)


@dataclass(frozen=True, slots=True, eq=False)
class TargetPlane:
    """The plane of a projection, in pixels from its reference point, before any rotation."""

    wcs: WCS
    """With CRPIX = 0 and no rotation."""
    frame: BaseCoordinateFrame

    @property
    def projection(self) -> str:
        """Its three letters."""
        return str(self.wcs.wcs.cel.prj.code).strip()

    @property
    def is_zenithal(self) -> bool:
        """Whether native longitudes are angles around its reference point: they end nowhere."""
        return bool(self.wcs.wcs.cel.prj.category == ZENITHAL)

    @property
    def has_finite_limb(self) -> bool:
        """Whether it is of a part of the sky, as that of SIN, and its limb is not at infinity."""
        projection = self.wcs.wcs.cel.prj
        return not (projection.global_projection or projection.divergent)

    def place(self, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
        """Find the places of positions in the frame, in degrees, of any shape.

        Returns
        -------
        places : (..., 2) array
            NaN where the projection has none.
        native : (..., 2) array
            Longitude and latitude in degrees.
        """
        # With another origin astropy moves the places in the plane, too.
        found = self.wcs.wcs.s2p(np.stack([lon.ravel(), lat.ravel()], axis=1), 1)
        places = found["imgcrd"] / self.wcs.wcs.cdelt
        places[~np.isfinite(places).all(axis=1)] = np.nan
        native = np.stack([found["phi"], found["theta"]], axis=1)
        return places.reshape(*lon.shape, 2), native.reshape(*lon.shape, 2)

    def place_native(self, phi: Floats, theta: Floats) -> Floats:
        """Find the places of native coordinates, of those that have one; (n, 2)."""
        plane = np.stack(self.wcs.wcs.cel.prj.prjs2x(phi, theta), axis=1)
        return np.asarray(plane[np.isfinite(plane).all(axis=1)] / self.wcs.wcs.cdelt)

    def pole(self, theta: float) -> SkyCoord | None:
        """Return the position of a native pole; None if it has no place."""
        places = self.place_native(np.zeros(1), np.array([theta]))
        if not len(places):
            return None
        lon, lat = self.wcs.wcs_pix2world(places, 1)[0]
        direction = UnitSphericalRepresentation(lon * u.deg, lat * u.deg)
        return SkyCoord(self.frame.realize_frame(direction))


@lru_cache(maxsize=64)
def _side_pixels(extent: Extent) -> Floats:
    """Return (2, n) pixels x, y of the four sides, along the outline."""
    part, one = np.arange(STEPS + 1) / STEPS, np.ones(STEPS + 1)
    x = np.concatenate([part, one, 1 - part, 0 * one])
    y = np.concatenate([0 * one, part, one, 1 - part])
    low, high = extent.columns()
    return np.asarray(low + np.stack([x, y]) * (high - low))


def in_frame(images: Iterable[Image], frame: BaseCoordinateFrame) -> tuple[Floats, Floats]:
    """Find the points of images in one frame, with one transformation for each of theirs.

    Returns
    -------
    lon, lat : (images, points) arrays
        Degrees.
    """
    listed = list(images)
    groups: dict[str, list[int]] = {}
    for number, image in enumerate(listed):
        groups.setdefault(repr(image.frame), []).append(number)
    lon, lat = np.empty((2, len(listed), len(listed[0].lon)))
    for numbers in groups.values():
        own_lon = np.stack([listed[number].lon for number in numbers])
        own_lat = np.stack([listed[number].lat for number in numbers])
        way = way_between(listed[numbers[0]].frame, frame)
        lon[numbers], lat[numbers] = way(np.stack([own_lon, own_lat]))
    return lon, lat


def inner_places(image: Image, plane: TargetPlane) -> Floats:
    """Find places of an image other than those of its outline; (n, 2).

    Points of a grid, those at which the image's sky or a finite limb of the plane ends along the
    lines of the grid, and points of the plane's edges.
    """
    has_limb = plane.has_finite_limb or np.isnan(image.lon[SIDES]).any()
    lines = (_LINES if has_limb else STEPS) + 1
    bounds = zip(image.extent.low, image.extent.high, strict=True)
    x, y = (np.linspace(low, high, lines) for low, high in bounds)
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    lon, lat = _sky(image, plane, grid)
    places, native = plane.place(lon, lat)
    known = places if plane.has_finite_limb else np.stack([lon, lat], axis=-1)
    has_place = np.asarray(np.isfinite(known).all(axis=-1))
    found = [
        places.reshape(-1, 2),
        _limb_places(image, plane, grid, has_place),
        _edge_places(image, plane, native),
    ]
    joined = np.concatenate(found)
    return joined[np.isfinite(joined).all(axis=1)]


def _sky(image: Image, plane: TargetPlane, pixels: Floats) -> tuple[Floats, Floats]:
    """Find the positions of (..., 2) pixels in the frame of a plane."""
    flat = pixels.reshape(-1, 2).T
    sky = to_sky(image.wcs, [flat[0].copy(), flat[1].copy()], image.extent)
    lon, lat = way_between(image.frame, plane.frame)(np.stack(sky))
    return lon.reshape(pixels.shape[:-1]), lat.reshape(pixels.shape[:-1])


def _limb_places(
    image: Image, plane: TargetPlane, grid: Floats, has_place: npt.NDArray[np.bool_]
) -> Floats:
    """Find where, between neighbours of a grid of pixels, points cease to have a place."""
    inside, outside = [], []
    for axis in (0, 1):
        one, other = np.delete(grid, -1, axis), np.delete(grid, 0, axis)
        one_has, other_has = np.delete(has_place, -1, axis), np.delete(has_place, 0, axis)
        inside += [one[one_has & ~other_has], other[other_has & ~one_has]]
        outside += [other[one_has & ~other_has], one[other_has & ~one_has]]
    near, far = np.concatenate(inside), np.concatenate(outside)
    if not len(near):
        return near
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        lon, lat = _sky(image, plane, middle)
        known = plane.place(lon, lat)[0].sum(axis=1) if plane.has_finite_limb else lon + lat
        has = np.isfinite(known)[:, None]
        near, far = np.where(has, middle, near), np.where(has, far, middle)
    return plane.place(*_sky(image, plane, near))[0]


def _edge_places(image: Image, plane: TargetPlane, native: Floats) -> Floats:
    """Find what an image has of the plane's edges, given the native coordinates of its grid."""
    poles = [theta for theta in (-90.0, 90.0) if _holds_pole(image, plane, theta)]
    if plane.is_zenithal:
        # The pole opposite to the reference point is the rim of the plane.
        phi = np.linspace(-180, 180, _RIM if -90.0 in poles else 0)
        return plane.place_native(phi, np.full(len(phi), -90.0))
    latitudes = np.concatenate([poles, *(_cut_latitudes(native, axis) for axis in (0, 1))])
    if not len(latitudes):
        return np.empty((0, 2))
    theta = np.linspace(latitudes.min(), latitudes.max(), STEPS + 1)
    sides = [plane.place_native(np.full(len(theta), side), theta) for side in (-180.0, 180.0)]
    return np.concatenate(sides)


def _cut_latitudes(native: Floats, axis: int) -> Floats:
    """Find where, between neighbours along an axis of a grid, native longitudes go beyond 180."""
    phi, theta = np.delete(native, -1, axis)[..., 0], np.delete(native, -1, axis)[..., 1]
    phi_step, theta_step = np.moveaxis(np.diff(native, axis=axis), -1, 0)
    crosses = np.abs(phi_step) > 180
    # 180 degrees are a part of the short way, across them.
    part = (180 - np.abs(phi[crosses])) / np.maximum(360 - np.abs(phi_step[crosses]), _TINY)
    return np.asarray(theta[crosses] + part * theta_step[crosses])


def _holds_pole(image: Image, plane: TargetPlane, theta: float) -> bool:
    """Return whether a native pole of the plane is on an image."""
    pole = plane.pole(theta)
    if pole is None:
        return False
    x, y = to_pixels(image.wcs, pole, image.extent)
    return bool(image.extent.holds(np.array([[float(x)], [float(y)]]))[0])
