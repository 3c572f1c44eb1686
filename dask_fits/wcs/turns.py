"""Pixels that are a turn of the native longitude apart: one point of the sky, at two places.

The native longitude phi of a projection counts from its reference point, and astropy finds
positions from -180 to 180 degrees of it. An image whose reference point (*) is at its edge, or far
off, has them beyond:

    phi                -180          0          180         360
    image                            *===========|===========|
    found by astropy     |-----------------------|
    one position               P1                      P2

For a position at P2 astropy finds P1, which is outside the image. From P1 to P2 it is a turn of 360
degrees, or `step` pixels; `_Turns` counts the turns that lead to the image.
Calabretta & Greisen 2002, A&A 395, 1077, sections 2 and 5.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from astropy.wcs import WCS, Prjprm

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]

# Categories of projections, as wcslib numbers them.
ZENITHAL = 1
CYLINDRICAL = 2
_PSEUDOCYLINDRICAL = 3
_QUADCUBE = 7
_HEALPIX = 8

_BOUNDS = 3
"""Setting of `Prjprm.bounds` with which wcslib checks that a point of the plane is one of the
projection, but not native longitudes."""

_HALF = 180 + 1e-9
"""Degrees of native longitude to both sides of the reference point that all projections have."""

_ONCE_MORE = 540.0
"""The same for those that go on for a turn to both sides."""

_POLE = 90 + 1e-9
"""Degrees of native latitude to both sides of the equator."""

_MARGIN = 0.1
"""Width of the blank pixels that an image may have beside a whole map, as a part of the map's."""

_SAME = 1e-4
"""Degrees: points with native coordinates nearer than this are one point; CSC is that inexact."""


@dataclass(frozen=True, slots=True)
class Extent:
    """The part of the plane of the pixels that an image covers, along x and y."""

    low: tuple[float, float]
    """Lower edge of the first pixels: -0.5 of a whole image."""
    high: tuple[float, float]
    """Upper edge of the last pixels, which is outside the image."""

    @classmethod
    def of(cls, height: int, width: int) -> Extent:
        """Make the extent of a whole image."""
        return cls((-0.5, -0.5), (width - 0.5, height - 0.5))

    def for_boxes(self) -> Extent:
        """Make the extent for centres of boxes: Cutout2D gives an edge to the lower pixel."""
        low, high = np.nextafter([self.low, self.high], np.inf).tolist()
        return Extent((low[0], low[1]), (high[0], high[1]))

    def holds(self, pixels: Floats) -> Booleans:
        """Return which of (2, n) pixels x, y are in it."""
        low, high = self.columns()
        return np.asarray(((pixels >= low) & (pixels < high)).all(axis=0))

    def columns(self) -> tuple[Floats, Floats]:
        """Return `low` and `high` as (2, 1) arrays, to be compared with (2, n) pixels."""
        low, high = np.array([self.low, self.high])[..., None]
        return low, high


def is_distorted(wcs: WCS) -> bool:
    """Return whether a WCS has a distortion, a detector's of one axis (D2IM) included.

    astropy's `has_distortion` leaves the latter out.
    """
    return wcs.has_distortion or wcs.det2im1 is not None or wcs.det2im2 is not None


def nearest_pixels(sky: WCS, pixels: Floats, image: Extent, part: Extent | None = None) -> Floats:
    """Find the pixels of positions that lie on an image, among those that are turns apart.

    Parameters
    ----------
    sky : astropy.wcs.WCS
        Celestial, of two axes.
    pixels : (2, n) array
        Pixels x and y from 0, as astropy finds them. Those on the image stay, to the bit.
    image : Extent
        Extent of the whole image.
    part : Extent, optional
        Extent of what is left of it.

    Returns
    -------
    (2, n) array
        Of several pixels on the image the one nearest to the reference point; if none is on it,
        the one nearest to its centre.
    """
    target = part or image
    outside = np.isfinite(pixels).all(axis=0) & ~target.holds(pixels)
    turns = _Turns.of(sky, image) if outside.any() else None
    if turns is None:
        return pixels
    # If the whole image has a position once, a part of it has it there or not at all.
    nearest = pixels.copy()
    nearest[:, outside] = turns.nearest(pixels[:, outside], image if turns.once else target)
    return nearest


def complete_sky(sky: WCS, pixels: Floats, world: Floats, image: Extent) -> Floats:
    """Find the positions of pixels of an image for which astropy finds none.

    These are pixels whose native longitude is beyond 180 degrees. Pixels that are not of the
    projection, such as the corners of a whole sky in an ellipse, still have no position.

    Parameters
    ----------
    sky : astropy.wcs.WCS
        Celestial, of two axes.
    pixels : (2, n) array
        x and y from 0.
    world : (2, n) array
        Positions that astropy finds for them, in the order of the axes of `sky`.
    image : Extent
        Extent of the whole image.
    """
    missing = np.asarray(np.isnan(world).any(axis=0) & np.isfinite(pixels).all(axis=0))
    turns = _Turns.of(sky, image) if missing.any() else None
    if turns is None:
        return world
    missing[missing] = turns.have_sky(pixels[:, missing], image)
    if not missing.any():
        return world
    # Without its check of bounds wcslib finds positions for all pixels that are left.
    unbound = sky.deepcopy()
    unbound.wcs.bounds_check(False, False)  # noqa: FBT003 (astropy takes them so)
    completed = world.copy()
    completed[:, missing] = unbound.wcs_pix2world(pixels[:, missing].T, 0).T
    return completed


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """The geometry of turns of the native longitude in the plane of an image's pixels."""

    projection: Prjprm
    matrix: Floats
    """(2, 2): from pixels x, y to degrees along the longitude and the latitude of the plane."""
    reference: Floats
    """(2, 1): CRPIX, counted from 0."""
    reach: float
    """Native longitude that pixels may have, in degrees to both sides."""
    once: bool
    """Whether each position is at one pixel of the image only: the plane does not repeat itself."""

    @classmethod
    def of(cls, sky: WCS, image: Extent) -> _Turns | None:
        """Make the turns of a WCS; None if they lead nowhere else, or if there is a distortion."""
        if sky.naxis != 2 or sky.wcs.cubeface >= 0 or is_distorted(sky):
            return None
        sky.wcs.set()
        projection = sky.wcs.cel.prj
        # Native longitudes of zenithal projections are angles around the pole: a turn leads back to
        # the same pixel.
        if projection.code.strip() in ("", "XPH") or projection.category == ZENITHAL:
            return None
        # A copy: the bounds of the WCS itself stay.
        projection = copy.deepcopy(projection)
        projection.bounds = _BOUNDS
        plane_axes = [sky.wcs.lng, sky.wcs.lat]
        matrix = np.asarray(sky.pixel_scale_matrix, np.float64)[plane_axes]
        reference = np.asarray(sky.wcs.crpix, np.float64)[:, None] - 1
        if not np.isfinite(matrix).all() or not np.linalg.det(matrix):
            return None
        # Cylinders and cubes go on for any number of turns.
        endless = cls(projection, matrix, reference, np.inf, once=False)
        if projection.category in (CYLINDRICAL, _QUADCUBE):
            return endless
        # All others end at half a turn, but for images that go on beyond.
        has_end = projection.category in (_PSEUDOCYLINDRICAL, _HEALPIX)
        reach = _ONCE_MORE if has_end and endless._reaches_beyond(image) else _HALF
        return cls(projection, matrix, reference, reach, once=True)

    def _reaches_beyond(self, image: Extent) -> bool:
        """Return whether an image is of more than a whole map, or of what is beside it.

        The width of these maps ends at native longitudes of 180 degrees, and images of them have
        blank corners, and margins.
        """
        low, high = image.columns()
        corners = np.array([(x, y) for x in (0, 1) for y in (0, 1)]).T
        along = self._to_plane(low + (high - low) * corners)[0]
        # The map is widest at the equator.
        west, east = self.projection.prjs2x(np.array([-180.0, 180.0]), np.zeros(2))[0]
        margin = _MARGIN * (east - west)
        is_wider = along.max() > east + margin or along.min() < west - margin
        is_beside = along.min() > east or along.max() < west
        return bool(is_wider or is_beside)

    def nearest(self, pixels: Floats, target: Extent) -> Floats:
        """Find the pixels of the same positions that are on a part of the plane, or near it."""
        phi, theta = self._to_native(pixels)
        step = self.turn_step(phi, theta)
        turns = self._count_turns(pixels, phi, step, target)
        moved = pixels + turns * step
        # The way back verifies them, by distances on the sky: neither a turn nor a longitude near a
        # pole makes a difference there.
        moved_phi, moved_theta = self._to_native(moved)
        apart = np.abs((moved_phi - phi + 180) % 360 - 180) * np.cos(np.deg2rad(theta))
        is_same = (apart < _SAME) & (np.abs(moved_theta - theta) < _SAME)
        # Those that stay do so to the bit.
        return np.where(is_same & (turns != 0), moved, pixels)

    def have_sky(self, pixels: Floats, image: Extent) -> Booleans:
        """Return which pixels have a position, whatever their native longitude."""
        phi, theta = self._to_native(pixels)
        has_sky = np.asarray((np.abs(phi) <= self.reach) & (np.abs(theta) <= _POLE))
        if self.once and self.reach > _HALF:
            # Each position is at one pixel only: the one to which `nearest` moves it. So each pixel
            # goes back by its turns, and must be found again.
            turns = np.rint(np.nan_to_num(phi) / 360)
            step = self.turn_step(phi, theta)
            unturned = pixels - turns * step
            has_sky &= self._count_turns(unturned, phi - 360 * turns, step, image) == turns
        return has_sky

    def _to_plane(self, pixels: Floats) -> Floats:
        """Return the degrees of pixels along the longitude and the latitude of the plane."""
        plane: Floats = self.matrix @ (pixels - self.reference)
        return plane

    def _to_native(self, pixels: Floats) -> Floats:
        """Return native longitudes and latitudes; NaN if the projection has no such point."""
        along, up = self._to_plane(pixels)
        # wcslib needs contiguous arrays.
        native = self.projection.prjx2s(np.ascontiguousarray(along), np.ascontiguousarray(up))
        return np.stack(native)

    def turn_step(self, phi: Floats, theta: Floats) -> Floats:
        """Return by how many pixels a turn more leads away, (2, n)."""
        if self.projection.category == _QUADCUBE:
            # wcslib's way to the plane has the faces on one side only; the four along the equator
            # are as long as the equator.
            along = np.full(phi.shape, 2 * np.pi * self.projection.r0)
            up = np.zeros(phi.shape)
        else:
            # Towards the reference point, so that the turn does not lead even farther off.
            back = np.where(phi > 0, -1.0, 1.0)
            start = np.stack(self.projection.prjs2x(phi, theta))
            end = np.stack(self.projection.prjs2x(phi + 360 * back, theta))
            along, up = (end - start) * back
        step: Floats = np.linalg.solve(self.matrix, np.stack([along, up]))
        return step

    def _count_turns(self, pixels: Floats, phi: Floats, step: Floats, target: Extent) -> Floats:
        """Find by how many turns pixels have to move.

        Parameters
        ----------
        pixels, step : (2, n) array
            Pixels, and what a turn adds to them.
        phi : (n,) array
            Their native longitudes.
        target : Extent
            Where they have to go.

        Returns
        -------
        (n,) array
            The least number of turns that leads to the target; if none does, the one that leads
            nearest to its centre.
        """
        # Turns that the projection has.
        first = np.ceil((-self.reach - phi) / 360)
        last = np.floor((self.reach - phi) / 360)
        low, high = target.columns()
        with np.errstate(divide="ignore", invalid="ignore"):
            # Turns that lead to the target, along x and y; its upper edge is outside it.
            to_low = (low - pixels) / step
            to_high = (high - pixels) / step
            begin = np.where(step > 0, np.ceil(to_low), np.floor(to_high) + 1)
            end = np.where(step > 0, np.ceil(to_high) - 1, np.floor(to_low))
            # Along an axis that turns do not move, all of them do, or none does.
            stays = (pixels >= low) & (pixels < high)
            begin = np.where(step == 0, np.where(stays, -np.inf, np.inf), begin).max(axis=0)
            end = np.where(step == 0, np.where(stays, np.inf, -np.inf), end).min(axis=0)
            # The foot of the target's centre on the line of the turns.
            centre = (((low + high) / 2 - pixels) * step).sum(axis=0) / (step**2).sum(axis=0)
        begin = np.maximum(begin, first)
        end = np.minimum(end, last)
        nearest = np.clip(np.rint(np.nan_to_num(centre)), first, last)
        on_target = np.clip(0.0, begin, end)
        return np.asarray(np.where(begin <= end, on_target, nearest), np.float64)


def pixel_edges(pixels: Sequence[float] | Floats) -> tuple[float, float]:
    """Return the edges of evenly spaced pixels along an axis: those of the first and the last."""
    first = float(pixels[0])
    last = float(pixels[-1])
    # A single pixel is of width 1.
    half = abs(last - first) / max(len(pixels) - 1, 1) / 2 or 0.5
    return min(first, last) - half, max(first, last) + half


def turn_step(sky: WCS, image: Extent) -> tuple[float, float]:
    """Return by how many pixels x, y a map is from its next one; zeros if there is only one.

    Cylindrical projections go on beyond a turn of the native longitude.
    """
    turns = _Turns.of(sky, image)
    if turns is None or turns.projection.category != CYLINDRICAL:
        return (0.0, 0.0)
    x, y = turns.turn_step(np.zeros(1), np.zeros(1))[:, 0].tolist()
    return (x, y)
