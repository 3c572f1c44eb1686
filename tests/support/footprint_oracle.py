"""How far an image is from a point of the sky, by brute force, with astropy alone.

Separations are astropy's, from a position to a grid of pixels with edges and corners among them.
Around the nearest pixels finer grids follow, until they are as fine as the rounding of pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import SkyCoord, UnitSphericalRepresentation, angular_separation
from astropy.wcs import WCS, NoConvergence
from astropy.wcs.utils import wcs_to_celestial_frame

Array = npt.NDArray[np.float64]

STEPS = 96
PATCH = np.array([(x, y) for x in np.linspace(-1, 1, 9) for y in np.linspace(-1, 1, 9)])
NEAREST = 24


class Footprint:
    """The pixels of an image and their positions, in the frame of its WCS."""

    def __init__(self, wcs: WCS, shape: tuple[int, int]) -> None:
        self.wcs = wcs.celestial
        self.frame = wcs_to_celestial_frame(self.wcs)
        self.low = np.array([-0.5, -0.5])
        self.high = np.array([shape[1] - 0.5, shape[0] - 0.5])
        self.step = (self.high - self.low) / STEPS
        x, y = np.meshgrid(*np.linspace(self.low, self.high, STEPS + 1).T)
        self.pixels = np.stack([x.ravel(), y.ravel()], 1)
        self.sky = self.positions(self.pixels)

    def positions(self, pixels: Array) -> Array:
        """Longitudes and latitudes in radians, (2, n)."""
        # Of pixels that all are in one row wcslib tells wrongly which have a sky.
        world = self.wcs.all_pix2world(np.concatenate([pixels, pixels[:1] + 1]), 0)[:-1].T
        axes = (self.wcs.wcs.lng, self.wcs.wcs.lat)
        return np.stack([world[axis] * u.Unit(self.wcs.wcs.cunit[axis]).to(u.rad) for axis in axes])

    def skycoord(self, pixels: Array) -> SkyCoord:
        return SkyCoord(*(self.positions(pixels) * u.rad), frame=self.frame)

    def separation(self, position: SkyCoord) -> float:
        """Radians from a position to the nearest point of the image."""
        there = position.transform_to(self.frame).spherical
        lon, lat = there.lon.rad, there.lat.rad
        if self._has(lon, lat):
            return 0.0

        def apart(pixels: Array) -> Array:
            sky = self.positions(pixels.reshape(-1, 2))
            found = np.nan_to_num(angular_separation(lon, lat, *sky), nan=np.inf)
            return found.reshape(pixels.shape[:-1])

        nearest = self.pixels[np.argsort(apart(self.pixels))[:NEAREST]]
        least = self._zoom(apart, nearest)
        if np.isnan(self.sky).any() and least > 1e-14:
            least = min(least, *(self._along_limb(apart, axis) for axis in (0, 1)))
        return least

    def _has(self, lon: float, lat: float) -> bool:
        """Whether the image has a pixel of a position, as far as astropy finds it."""
        world = np.empty((1, 2))
        for axis, value in ((self.wcs.wcs.lng, lon), (self.wcs.wcs.lat, lat)):
            world[0, axis] = (value * u.rad).to_value(self.wcs.wcs.cunit[axis])
        try:
            pixel = self.wcs.all_world2pix(world, 0, tolerance=1e-9)
        except NoConvergence:
            return False
        on = ((pixel >= self.low) & (pixel <= self.high)).all()
        return bool(on and angular_separation(lon, lat, *self.positions(pixel))[0] < 1e-13)

    def _zoom(self, apart: Callable[[Array], Array], nearest: Array) -> float:
        """The least distance, by finer and finer grids around some pixels."""
        step = self.step
        least = np.inf
        while (step > 1e-15 * self.high.max()).any() and least > 1e-14:
            patches = np.clip(nearest[:, None] + step * PATCH, self.low, self.high)
            distances = apart(patches)
            least = distances.min()
            nearest = patches[np.arange(len(nearest)), distances.argmin(axis=1)]
            # The best stay, and are looked at more closely; copies of them are not needed.
            order = np.argsort(distances.min(axis=1))
            nearest = np.unique(nearest[order[: max(4, len(order) // 2)]], axis=0)
            step = step / 2.5
        return float(least)

    def _along_limb(self, apart: Callable[[Array], Array], axis: int) -> float:
        """The least distance of pixels at both ends of lines along an axis, where the sky ends."""
        least = np.inf
        lines = np.linspace(self.low[1 - axis], self.high[1 - axis], STEPS + 1)
        while np.ptp(lines) > 1e-9:
            distances = self._at_ends(apart, axis, lines)
            least = min(least, distances.min())
            best = int(distances.argmin())
            lines = np.linspace(lines[max(best - 1, 0)], lines[min(best + 1, len(lines) - 1)], 15)
        return float(least)

    def _at_ends(self, apart: Callable[[Array], Array], axis: int, lines: Array) -> Array:
        """The distance of each line's end that is nearer."""
        places = np.linspace(self.low[axis], self.high[axis], 4 * STEPS + 1)
        known = np.isfinite(apart(self._pixels_of(axis, lines[:, None], places)))
        found = []
        for backwards in (False, True):
            along = places[::-1] if backwards else places
            first = np.argmax(known[:, ::-1] if backwards else known, axis=1)
            inner, outer = along[first], along[np.maximum(first - 1, 0)]
            while (np.abs(inner - outer) > 1e-13 * self.high[axis]).any():
                trial = np.linspace(inner, outer, 17, axis=1)
                seen = np.isfinite(apart(self._pixels_of(axis, lines[:, None], trial)))
                last = np.where(seen.all(axis=1), 16, np.argmin(seen, axis=1) - 1)
                last = np.maximum(last, 0)
                rows = np.arange(len(lines))
                inner, outer = trial[rows, last], trial[rows, np.minimum(last + 1, 16)]
            found.append(apart(self._pixels_of(axis, lines, inner)))
        return np.min(found, axis=0)

    def _pixels_of(self, axis: int, lines: Array, places: Array) -> Array:
        pair = np.broadcast_arrays(places, lines)
        return np.stack(pair if axis == 0 else pair[::-1], -1)


def vectors_of(positions: SkyCoord) -> Array:
    """Unit vectors in ICRS, (n, 3)."""
    return positions.icrs.represent_as(UnitSphericalRepresentation).to_cartesian().xyz.value.T


def within(positions: SkyCoord, vertices: SkyCoord) -> npt.NDArray[np.bool_]:
    """Which positions are in a polygon that is within 85 degrees of the middle of its vertices.

    On the plane that touches the sky there, great circles are straight lines.
    """
    corners = vectors_of(vertices)
    middle = corners.mean(axis=0) / np.linalg.norm(corners.mean(axis=0))
    right = np.cross(middle, [0.6, 0.0, 0.8])
    axes = np.stack([middle, right, np.cross(middle, right)])
    depth, x, y = axes @ vectors_of(positions).T
    corner_depth, corner_x, corner_y = axes @ corners.T
    assert (corner_depth > 0.08).all()
    x, y, corner_x, corner_y = (
        x / depth,
        y / depth,
        corner_x / corner_depth,
        corner_y / corner_depth,
    )
    inside = np.zeros(x.shape, bool)
    for n in range(len(vertices)):
        x0, y0, x1, y1 = corner_x[n - 1], corner_y[n - 1], corner_x[n], corner_y[n]
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return inside & (depth > 0)


def along_edges(vertices: SkyCoord, count: int) -> SkyCoord:
    """Points of a polygon's edges, `count` on each."""
    vectors = vectors_of(vertices)[:, None]
    part = np.linspace(0, 1, count, endpoint=False)[:, None]
    points = vectors * (1 - part) + np.roll(vectors, -1, axis=0) * part
    x, y, z = points.reshape(-1, 3).T
    return SkyCoord(np.arctan2(y, x) * u.rad, np.arctan2(z, np.hypot(x, y)) * u.rad)
