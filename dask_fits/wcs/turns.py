"""Pixels that are a turn of the native longitude apart: one point of the sky, at two places.

The longitude of a projection counts from its reference point, and astropy finds positions from -180
to 180 degrees of it. A map whose reference point is at its edge, or far off, has them beyond.
Calabretta & Greisen 2002, A&A 395, 1077, sections 2 and 5.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from astropy.wcs import WCS, Prjprm

Floats = npt.NDArray[np.float64]

_CYLINDRICAL, _PSEUDOCYLINDRICAL, _QUADCUBE, _HEALPIX = 2, 3, 7, 8
"""Categories of projections, as wcslib numbers them."""

_ZENITHAL = 1
"""Their native longitude is the angle around the pole: a turn leads back to the same pixel."""

_BOUNDS = 3
"""wcslib checks that a place in the plane is one of the projection, but not native longitudes."""

_HALF = 180 + 1e-9
"""Degrees of native longitude to both sides of the reference point that all projections have."""

_ONCE_MORE = 540.0
"""The same for those that go on for a turn to both sides."""

_POLE = 90 + 1e-9
"""Degrees of native latitude to both sides of the equator."""

_MARGIN = 0.1
"""Of a map's width: blank pixels that an image may have beside a whole map."""

_SAME = 1e-4
"""Degrees: places with native coordinates nearer than this are one point; CSC is that inexact."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What of the plane of the pixels is image, along x and y."""

    low: tuple[float, float]
    """Lower edge of the first pixels: -0.5 of a whole image."""
    high: tuple[float, float]
    """Upper edge of the last pixels, which is off the image."""

    @classmethod
    def of(cls, height: int, width: int) -> Extent:
        """Make that of an image."""
        return cls((-0.5, -0.5), (width - 0.5, height - 0.5))

    def for_boxes(self) -> Extent:
        """Make the same for centres of boxes: Cutout2D gives an edge to the lower pixel."""
        low, high = np.nextafter([self.low, self.high], np.inf).tolist()
        return Extent((low[0], low[1]), (high[0], high[1]))

    def holds(self, pixels: Floats) -> npt.NDArray[np.bool_]:
        """Tell which of (2, n) pixels x, y are on it."""
        low, high = np.array([self.low, self.high])[..., None]
        found: npt.NDArray[np.bool_] = ((pixels >= low) & (pixels < high)).all(axis=0)
        return found


def is_distorted(wcs: WCS) -> bool:
    """Whether a WCS has a distortion, be it a detector's of one axis, which astropy leaves out."""
    return wcs.has_distortion or wcs.det2im1 is not None or wcs.det2im2 is not None


def nearest_pixels(sky: WCS, pixels: Floats, image: Extent, part: Extent | None = None) -> Floats:
    """Find the pixels of positions that lie on an image, among those that are turns apart.

    Parameters
    ----------
    sky : astropy.wcs.WCS
        Celestial, of two axes.
    pixels : (2, n) array
        What astropy finds; x and y from 0. What of it is on the image stays, to the bit.
    image : Extent
        Of the whole image.
    part : Extent, optional
        What is left of it.

    Returns
    -------
    (2, n) array
        Of several on the image the pixel that is nearest to the reference point; where none is on
        it the one that is nearest to its centre.
    """
    wanted = part or image
    off = np.isfinite(pixels).all(axis=0) & ~wanted.holds(pixels)
    turns = _Turns.of(sky, image) if off.any() else None
    if turns is None:
        return pixels
    found = pixels.copy()
    found[:, off] = turns.nearest(pixels[:, off], image if turns.once else wanted)
    return found


def complete_sky(sky: WCS, pixels: Floats, world: Floats, image: Extent) -> Floats:
    """Find the positions of pixels of an image for which astropy finds none.

    Those whose native longitude is beyond 180 degrees. Pixels that are not of the projection, such
    as the corners of a whole sky in an ellipse, still have none.

    Parameters
    ----------
    sky : astropy.wcs.WCS
        Celestial, of two axes.
    pixels : (2, n) array
        x and y from 0.
    world : (2, n) array
        What astropy finds for them, in the order of the axes of `sky`.
    image : Extent
        Of the whole image.
    """
    lost = np.asarray(np.isnan(world).any(axis=0) & np.isfinite(pixels).all(axis=0))
    turns = _Turns.of(sky, image) if lost.any() else None
    if turns is None:
        return world
    lost[lost] = turns.have_sky(pixels[:, lost], image)
    if not lost.any():
        return world
    unbound = sky.deepcopy()
    unbound.wcs.bounds_check(False, False)  # noqa: FBT003 (astropy takes them so)
    found = world.copy()
    found[:, lost] = unbound.wcs_pix2world(pixels[:, lost].T, 0).T
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Turns:
    """What of a WCS tells where pixels are that are turns of the native longitude apart."""

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
        """Make them; None where turns lead nowhere else, or there is a distortion."""
        if sky.naxis != 2 or sky.wcs.cubeface >= 0 or is_distorted(sky):
            return None
        sky.wcs.set()
        known = sky.wcs.cel.prj
        if known.code.strip() in ("", "XPH") or known.category == _ZENITHAL:
            return None
        projection = copy.deepcopy(known)
        projection.bounds = _BOUNDS
        order = [sky.wcs.lng, sky.wcs.lat]
        matrix = np.asarray(sky.pixel_scale_matrix, np.float64)[order]
        reference = np.asarray(sky.wcs.crpix, np.float64)[:, None] - 1
        if not np.isfinite(matrix).all() or not np.linalg.det(matrix):
            return None
        found = cls(projection, matrix, reference, np.inf, once=False)
        if projection.category in (_CYLINDRICAL, _QUADCUBE):
            return found
        goes_on = projection.category in (_PSEUDOCYLINDRICAL, _HEALPIX) and found._goes_on(image)
        return cls(projection, matrix, reference, _ONCE_MORE if goes_on else _HALF, once=True)

    def _goes_on(self, image: Extent) -> bool:
        """Whether an image is of more than a whole map, or of what is beside it.

        The width of these maps ends at native longitudes of 180 degrees, and images of them have
        blank corners, and margins.
        """
        corners = np.array([(x, y) for x in (0, 1) for y in (0, 1)]).T
        low, high = np.array([image.low, image.high])[..., None]
        along = self._plane(low + (high - low) * corners)[0]
        west, east = self.projection.prjs2x(np.array([-180.0, 180.0]), np.zeros(2))[0]
        margin = _MARGIN * (east - west)
        beyond = along.max() > east + margin or along.min() < west - margin
        return bool(beyond or along.min() > east or along.max() < west)

    def nearest(self, pixels: Floats, wanted: Extent) -> Floats:
        """Find the pixels of the same positions that are on a part of the plane, or near it."""
        phi, theta = self._native(pixels)
        step = self._step(phi, theta)
        count = self._count(pixels, phi, step, wanted)
        moved = pixels + count * step
        there, height = self._native(moved)
        # On the sky, so that a turn and what is near a pole make no difference.
        apart = np.abs((there - phi + 180) % 360 - 180) * np.cos(np.deg2rad(theta))
        same = (apart < _SAME) & (np.abs(height - theta) < _SAME)
        return np.where(same & (count != 0), moved, pixels)

    def have_sky(self, pixels: Floats, image: Extent) -> npt.NDArray[np.bool_]:
        """Tell which pixels are of the projection, whatever their native longitude."""
        phi, theta = self._native(pixels)
        found = np.asarray((np.abs(phi) <= self.reach) & (np.abs(theta) <= _POLE))
        if self.once and self.reach > _HALF:
            turn = np.rint(np.nan_to_num(phi) / 360)
            step = self._step(phi, theta)
            found &= self._count(pixels - turn * step, phi - 360 * turn, step, image) == turn
        return found

    def _plane(self, pixels: Floats) -> Floats:
        found: Floats = self.matrix @ (pixels - self.reference)
        return found

    def _native(self, pixels: Floats) -> Floats:
        """Find native longitudes and latitudes, NaN where the projection has no such place."""
        return np.stack(self.projection.prjx2s(*map(np.ascontiguousarray, self._plane(pixels))))

    def _step(self, phi: Floats, theta: Floats) -> Floats:
        """Find by how many pixels a turn more leads away, (2, n)."""
        if self.projection.category == _QUADCUBE:
            along, up = np.full(phi.shape, 2 * np.pi * self.projection.r0), np.zeros(phi.shape)
        else:
            back = np.where(phi > 0, -1.0, 1.0)
            here, there = (
                np.stack(self.projection.prjs2x(phi + turned, theta))
                for turned in (np.zeros(phi.shape), 360 * back)
            )
            along, up = (there - here) * back
        found: Floats = np.linalg.solve(self.matrix, np.stack([along, up]))
        return found

    def _count(self, pixels: Floats, phi: Floats, step: Floats, wanted: Extent) -> Floats:
        """Find by how many turns pixels have to move."""
        first, last = np.ceil((-self.reach - phi) / 360), np.floor((self.reach - phi) / 360)
        low, high = np.array([wanted.low, wanted.high])[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            to_low, to_high = (low - pixels) / step, (high - pixels) / step
            # The upper edge is off the image.
            begin = np.where(step > 0, np.ceil(to_low), np.floor(to_high) + 1)
            end = np.where(step > 0, np.ceil(to_high) - 1, np.floor(to_low))
            stays = (pixels >= low) & (pixels < high)
            begin = np.where(step == 0, np.where(stays, -np.inf, np.inf), begin).max(axis=0)
            end = np.where(step == 0, np.where(stays, np.inf, -np.inf), end).min(axis=0)
            centre = (((low + high) / 2 - pixels) * step).sum(axis=0) / (step**2).sum(axis=0)
        begin, end = np.maximum(begin, first), np.minimum(end, last)
        near = np.clip(np.rint(np.nan_to_num(centre)), first, last)
        return np.asarray(np.where(begin <= end, np.clip(0.0, begin, end), near), np.float64)


def extent_of(pixels: Any) -> tuple[float, float]:
    """Find the edges of evenly spaced pixels along an axis: those of the first and the last."""
    first, last = float(pixels[0]), float(pixels[-1])
    half = abs(last - first) / max(len(pixels) - 1, 1) / 2 or 0.5
    return min(first, last) - half, max(first, last) + half
