"""Whether an image has a point of a region of the sky.

What the two have in common is found by their outlines. A region is connected, so it has a point on
the image if one fixed point of it is on the image, or if a point of the image's outline is in the
region. The outline is the four edges of the image, and the limb where the projection has no sky
beyond, such as that of a hemisphere. Images are closed: they have their edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from astropy import units as u
from astropy.coordinates import (
    ICRS,
    BaseCoordinateFrame,
    CartesianRepresentation,
    SkyCoord,
    UnitSphericalRepresentation,
)
from astropy.wcs import WCS

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.wcs.frames import frame_of
from dask_fits.wcs.geometry import angular_unit, celestial_of, from_sky, to_pixels, to_sky
from dask_fits.wcs.regions import TOUCH, Region
from dask_fits.wcs.sphere import (
    Floats,
    angles_from,
    angles_of,
    rotation_to_icrs,
    to_icrs_vectors,
    unit_vectors_of,
)
from dask_fits.wcs.turns import Extent, is_distorted

_WIDE = np.deg2rad(60)
"""Radius of an image, in radians, from which on no region is excluded by its bounding circle."""

_STEPS = 32
"""Pieces into which each edge of an image is divided first."""

_FINER = 8
"""Pieces of a piece that may come near a region, each time that it is divided further."""

_MOST_PIECES = 64
_MOST_RAYS = 16
"""Pieces that are divided further at a time, of edges and of the limb: the nearest of them."""

_LEVELS = 14
"""How many times: until a piece is 1e-14 of the outline."""

_TRIALS = 2048
"""Pixels of rays that are looked at together, to find where they meet the limb."""

_SAME = 5e-4
"""Radians between a position and that of its pixel, if it is one; CSC is that inexact."""


def overlaps(region: Region, wcs: WCS, shape: tuple[int, int]) -> bool:
    """Return whether an image has a point of a region of the sky.

    The area of the pixels counts: x from -0.5 to the width - 0.5, y likewise.

    True always has a witness: the region's centre or a vertex, whose pixel is on the image; or a
    pixel of the image, whose position is in the region or within 1e-12 radians of it. What may go
    wrong is that no witness is found.

    Each edge of the image is divided into 32 pieces, and these further wherever they may come
    near the region, by the distances of their ends and how much the distances bend. So an overlap
    is missed if an edge bends far more within a piece than at its ends.

    Where a projection ends within the image, its limb is found on rays from the middle of what has
    a sky, if any of 17 x 17 pixels has none. Parts that are hidden from there behind other limbs,
    as in the notches of HPX, are known by a grid of 33 x 33 pixels and 64 points of the region's
    outline only. At the limb of an orthographic hemisphere (SIN) pixels are no better than some
    1e-7 radians.

    The inverse of a distortion is found by Newton's method, from the nearest of 17 x 17 pixels.

    Parameters
    ----------
    region : Region
    wcs : astropy.wcs.WCS
        A WCS with celestial coordinates.
    shape : (int, int)
        Height and width of the image, in pixels.

    Raises
    ------
    FitsFormatError
        The WCS is not celestial, or of a frame that astropy cannot transform to ICRS without access
        to the network.
    """
    if min(shape) < 1:
        return False
    image = _Image.of(wcs, shape)
    samples = image.grid(_STEPS // 2)
    vectors = image.vectors(samples)
    if region.contains(vectors).any():
        return True
    if _is_far(region, vectors):
        return False
    if image.has_any(region.points, samples, vectors):
        return True
    if _reaches(region, image, image.on_edges, _MOST_PIECES):
        return True
    return bool(np.isnan(vectors).any()) and _reaches_to_limb(region, image)


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """The pixels of an image, and their positions as unit vectors in ICRS."""

    sky: WCS
    """Celestial, of two axes."""
    extent: Extent
    """The whole image."""
    frame: BaseCoordinateFrame
    rotation: Floats | None
    """(3, 3): from vectors in the frame to ICRS; None if that is no rotation."""
    radians: tuple[float, float]
    """Radians in the units of longitude and latitude."""

    @classmethod
    def of(cls, wcs: WCS, shape: tuple[int, int]) -> _Image:
        """Make the image of a WCS and a height and width."""
        if not wcs.has_celestial:
            raise FitsFormatError("WCS: expected celestial coordinates, found none")
        sky = celestial_of(wcs)
        if sky.naxis != 2:
            raise FitsFormatError(f"WCS: expected two celestial axes, found {sky.naxis}")
        frame = frame_of(sky)
        lng, lat = (angular_unit(sky, axis).to(u.rad) for axis in (sky.wcs.lng, sky.wcs.lat))
        return cls(sky, Extent.of(*shape), frame, rotation_to_icrs(frame), (lng, lat))

    def grid(self, steps: int) -> Floats:
        """Return pixels x, y of a grid from edge to edge, ((steps + 1) squared, 2)."""
        low, high = self._bounds()
        x, y = np.meshgrid(*np.linspace(low, high, steps + 1).T)
        return np.stack([x.ravel(), y.ravel()], 1)

    def on_edges(self, around: Floats) -> Floats:
        """Return pixels on the edges, (n, 2), by the way around the image: from 0 to 4 edges."""
        (left, low), (right, high) = self._bounds()
        corners = np.array([[left, low], [right, low], [right, high], [left, high], [left, low]])
        edge = np.minimum(around.astype(np.int64), 3)
        part = (around - edge)[:, None]
        pixels: Floats = corners[edge] * (1 - part) + corners[edge + 1] * part
        return pixels

    def on_rays(self, around: Floats, origin: Floats) -> Floats:
        """Return the last pixels with a sky on rays from a pixel, (2,), to those of `on_edges`."""
        ways = self.on_edges(around) - origin
        low = np.zeros(len(around))
        high = np.ones(len(around))
        count = max(_TRIALS // len(around), 8)
        trials = np.linspace(0, 1, count + 1)
        rays = np.arange(len(around))
        while (high - low > 1e-15).any():
            parts = low[:, None] * (1 - trials) + high[:, None] * trials
            pixels = origin + parts[..., None] * ways[:, None]
            # The lower ends have a sky.
            missing = np.isnan(self.vectors(pixels[:, 1:].reshape(-1, 2))[:, 0])
            missing = missing.reshape(len(around), -1)
            last = np.where(missing.any(axis=1), np.argmax(missing, axis=1), count)
            low, high = parts[rays, last], parts[rays, np.minimum(last + 1, count)]
        last_pixels: Floats = origin + low[:, None] * ways
        return last_pixels

    def _bounds(self) -> Floats:
        """Return x, y of the first corner, and of the last."""
        # The upper edges themselves are outside a half-open extent.
        return np.array([self.extent.low, np.nextafter(self.extent.high, -np.inf)])

    def vectors(self, pixels: Floats) -> Floats:
        """Return the positions of (n, 2) pixels x, y; NaN if they have none."""
        # Of pixels that all are in one row wcslib tells wrongly which have a sky, if some have none
        # (HPX, TSC). So there is another pixel, in a row and a column of its own.
        x, y = np.concatenate([pixels, pixels[:1] + 1]).T
        world = to_sky(self.sky, (x, y), self.extent)
        lon, lat = (
            values[:-1] * radian for values, radian in zip(world, self.radians, strict=True)
        )
        if self.rotation is not None:
            return unit_vectors_of(lon, lat) @ self.rotation.T
        vectors = np.full((len(pixels), 3), np.nan)
        finite = np.isfinite(lon) & np.isfinite(lat)
        sphere = UnitSphericalRepresentation(lon[finite] * u.rad, lat[finite] * u.rad)
        try:
            vectors[finite] = to_icrs_vectors(self.frame.realize_frame(sphere))
        except ValueError as error:
            raise FitsFormatError(f"WCS: {one_line(error)}") from error
        return vectors

    def pixels(self, vectors: Floats) -> Floats:
        """Return (n, 2) pixels x, y of positions, by the inverse of the WCS; NaN if it has none."""
        if self.rotation is None:
            sphere = CartesianRepresentation(vectors.T).represent_as(UnitSphericalRepresentation)
            return np.stack(to_pixels(self.sky, SkyCoord(ICRS(sphere)), self.extent), 1)
        lon, lat = angles_of(vectors @ self.rotation)
        lon, lat = lon / self.radians[0], lat / self.radians[1]
        return np.stack(from_sky(self.sky, lon, lat, self.extent), 1)

    def has_any(self, points: Floats, samples: Floats, vectors: Floats) -> bool:
        """Return whether any of (n, 3) points of the sky is on the image.

        Parameters
        ----------
        points : (n, 3) array
        samples, vectors : (m, 2) and (m, 3) array
            Pixels all over the image, and their positions.
        """
        if self._is_linear(samples[np.isfinite(vectors[:, 0])]):
            pixels, tolerance = self.pixels(points), _SAME
        else:
            # Far from where it starts an inverted distortion leads anywhere.
            pixels, tolerance = self._follow(points, samples, vectors), 10 * TOUCH
        on = self.extent.holds(pixels.T)
        if not on.any():
            return False
        # The way back tells whether a pixel is that of the point.
        apart = np.linalg.norm(self.vectors(pixels[on]) - points[on], axis=1)
        return bool((apart < tolerance).any())

    def _is_linear(self, pixels: Floats) -> bool:
        """Return whether between the image and the plane of the projection there is no distortion.

        `pixels` are (n, 2) pixels that have a sky.
        """
        if is_distorted(self.sky):
            return False
        if not len(pixels):
            return True
        # wcslib does not tell of those that it computes itself, such as TPV. Pixels count from 1
        # here, since astropy shifts coordinates of the plane by the origin, too.
        plane = self.sky.wcs.p2s(pixels + 1, 1)["imgcrd"]
        linear = (pixels + 1 - self.sky.wcs.crpix) @ self.sky.pixel_scale_matrix.T
        # NaN are those that have a sky only after a turn of the native longitude.
        apart = np.nan_to_num(np.abs(plane - linear))
        return bool((apart <= 1e-9 * np.abs(linear).max(initial=0)).all())

    def _follow(self, points: Floats, samples: Floats, vectors: Floats) -> Floats:
        """Follow points of the sky to their pixels, by Newton's method from the nearest samples."""
        pixels: Floats = samples[np.argmax(points @ np.nan_to_num(vectors).T, axis=1)]
        low, high = self._bounds()
        # Somewhat beyond its edges the distortions of an image still are what they are on it.
        margin = 0.1 * (high - low) + 1
        for _ in range(12):
            here, along_x, along_y = self._slopes(pixels)
            step = _solve(along_x, along_y, points - here)
            last, pixels = pixels, np.clip(pixels + step, low - margin, high + margin)
            if not (np.abs(pixels - last) > 1e-9).any():
                break
        return pixels

    def _slopes(self, pixels: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the positions of (n, 2) pixels, and how they change along x and y."""
        small = 1e-3
        shifts = np.array([[0, 0], [small, 0], [0, small]])
        here, right, above = self.vectors((pixels + shifts[:, None]).reshape(-1, 2)).reshape(
            3, -1, 3
        )
        return here, (right - here) / small, (above - here) / small


def _is_far(region: Region, vectors: Floats) -> bool:
    """Return whether bounding circles tell that a region is not on an image with some positions."""
    if not np.isfinite(vectors).all():
        return False
    centre = vectors.mean(axis=0)
    centre /= max(float(np.linalg.norm(centre)), 1e-3)
    # Between the samples an edge may bulge.
    reach = 1.2 * float(angles_from(vectors, centre).max())
    middle, radius = region.circle
    return reach < _WIDE and float(angles_from(middle[None], centre)[0]) > reach + radius


def _reaches(region: Region, image: _Image, trace: Callable[[Floats], Floats], most: int) -> bool:
    """Return whether a point of a line of pixels is in a region.

    Parameters
    ----------
    region : Region
    image : _Image
    trace : callable
        Returns (n, 2) pixels of the line of (n,) numbers from 0 to 4.
    most : int
        Pieces of the line that are divided further at a time.
    """
    around = np.linspace(0, 4, 4 * _STEPS + 1)[None]
    for _ in range(_LEVELS):
        vectors = image.vectors(trace(around.ravel()))
        distances = region.distance(vectors).reshape(around.shape)
        if (distances <= TOUCH).any():
            return True
        lowest = _lowest(distances, vectors.reshape(*around.shape, 3))
        line, piece = np.nonzero(lowest <= TOUCH)
        if not len(line):
            return False
        nearest = np.argsort(lowest[line, piece], kind="stable")[:most]
        line, piece = line[nearest], piece[nearest]
        start, end = around[line, piece], around[line, piece + 1]
        around = np.linspace(start, end, _FINER + 1, axis=1)
    return False


def _lowest(distances: Floats, vectors: Floats) -> Floats:
    """Estimate the least distance from a region between samples along a line, from below.

    Parameters
    ----------
    distances : (m, k) array
    vectors : (m, k, 3) array
        Positions of the samples.

    Returns
    -------
    (m, k - 1) array
        Infinite between two samples without a position; minus infinity between one with a position
        and one without.
    """
    start, end = distances[:, :-1], distances[:, 1:]
    length = np.linalg.norm(vectors[:, 1:] - vectors[:, :-1], axis=2)
    # No distance changes by more than the way; an arc is somewhat longer than its chord.
    by_way = (start + end - 1.2 * length) / 2
    # A curve dips below its samples by an eighth of its second difference; eight times as much
    # leaves room for a vertex in between.
    bend = np.abs(start[:, :-1] - 2 * end[:, :-1] + end[:, 1:])
    bend = np.maximum(
        np.pad(bend, ((0, 0), (1, 0)), "edge"), np.pad(bend, ((0, 0), (0, 1)), "edge")
    )
    by_bend = np.minimum(start, end) - np.nan_to_num(bend, nan=np.inf)
    lowest = np.maximum(by_way, by_bend)
    # Where the line meets the limb it is divided to the end.
    lowest[np.isnan(start) != np.isnan(end)] = -np.inf
    return np.where(np.isnan(lowest), np.inf, lowest)


def _reaches_to_limb(region: Region, image: _Image) -> bool:
    """Return whether a point of an image that has a limb is in a region."""
    samples = image.grid(_STEPS)
    vectors = image.vectors(samples)
    known = np.isfinite(vectors[:, 0])
    distances = region.distance(vectors)
    if (distances <= TOUCH).any():
        return True
    # At the limb of a hemisphere positions change by the square root of the way, so from the last
    # sample to the limb it is up to three times as far as from that sample to the next.
    if np.fmin.reduce(distances) > 4 * _longest_step(vectors.reshape(_STEPS + 1, _STEPS + 1, 3)):
        return False
    # A map that is smaller than a step of the grid still is where its positions are.
    if image.has_any(region.outline(), samples, vectors):
        return True
    if not known.any():
        return False
    # The middle of what the limb encloses, or the sample that is next to it.
    seen = samples[known]
    from_middle = np.linalg.norm(seen - seen.mean(axis=0), axis=1)
    origin = seen[np.argmin(from_middle)]
    return _reaches(region, image, lambda around: image.on_rays(around, origin), _MOST_RAYS)


def _longest_step(vectors: Floats) -> float:
    """Return the longest way between neighbours on a grid, (m, k, 3); infinity if none."""
    steps = [np.linalg.norm(np.diff(vectors, axis=axis), axis=2).ravel() for axis in (0, 1)]
    longest = float(np.fmax.reduce(np.concatenate(steps)))
    return np.inf if np.isnan(longest) else longest


def _solve(along_x: Floats, along_y: Floats, way: Floats) -> Floats:
    """Return by how many pixels, (n, 2), (n, 3) ways lead along x and y, by least squares."""
    xx, xy, yy = (
        (first * second).sum(axis=1)
        for first, second in ((along_x, along_x), (along_x, along_y), (along_y, along_y))
    )
    to_x, to_y = (way * along_x).sum(axis=1), (way * along_y).sum(axis=1)
    steps = np.stack([to_x * yy - to_y * xy, to_y * xx - to_x * xy], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        steps /= (xx * yy - xy**2)[:, None]
    return steps
