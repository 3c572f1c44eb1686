"""The way from the pixels of one image to those of another one, through the sky.

Positions are astropy's. Where the way there and back does not meet there is none: far from an image
the inverse of a distortion leads anywhere, also back onto the image, and projections give the other
side of the sky for pixels beyond their limb.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from astropy import units as u
from astropy.coordinates import BaseCoordinateFrame
from astropy.wcs import WCSCOMPARE_ANCILLARY, WCSCOMPARE_CRPIX
from astropy.wcs.utils import proj_plane_pixel_scales

from dask_fits.exceptions import FitsFormatError
from dask_fits.wcs.frames import frame_of
from dask_fits.wcs.geometry import angular_unit, from_sky, to_sky
from dask_fits.wcs.quiet import quiet
from dask_fits.wcs.sphere import Floats, Way, circle_around, unit_vectors_of, way_between
from dask_fits.wcs.tables import has_lookup_tables
from dask_fits.wcs.turns import Extent, turn_step

if TYPE_CHECKING:
    from astropy.wcs import WCS

_SMOOTH = frozenset(
    {"AZP", "SZP", "TAN", "STG", "SIN", "ARC", "ZPN", "ZEA", "AIR", "CYP", "CEA", "CAR", "MER"}
    | {"COP", "COE", "COD", "COO", "SFL", "PAR", "MOL", "AIT", "BON", "PCO"}
    | {"TPV", "TNX", "ZPX", "TPD", "TPU", "DSS", "NCP", "GLS"}
)
"""Projections whose formulas have derivatives everywhere but at poles, limbs and seams. Those with
facets (TSC, CSC, QSC, HPX, XPH) have kinks within the map."""

Kind = Literal["smooth", "tables", "facets"]
"""How positions change from pixel to pixel: with derivatives, but for poles, limbs and seams; with
kinks of a known size; or in any way, as do those of projections that are not known."""

_MEETS = 1.0
"""Pixels within which the way there and back has to meet, as in reproject."""

_LINES = 33
"""Lines of points along each side of an image that tell its circle on the sky."""

_BEYOND_LIMB = np.deg2rad(20)
"""What an image may have between such points and its limb."""

_WHOLE = 1e-6
"""Pixels within which a shift is one by whole pixels."""

_ECLIPTIC = ("ELON", "HLON")
"""Longitudes of the ecliptic, as wcslib names them."""

_OBSERVER = ("hgln_obs", "hglt_obs", "crln_obs", "dsun_obs", "rsun_ref")
"""Attributes of where an image of the Sun was taken from."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The pixels of an image and their world coordinates, for one thread at a time."""

    wcs: WCS
    """Celestial, of two axes."""
    shape: tuple[int, int]
    """Height and width."""
    where: str
    """What it is of, for messages."""

    @cached_property
    def extent(self) -> Extent:
        """The part of the plane that the image covers."""
        return Extent.of(*self.shape)

    @cached_property
    def frame(self) -> BaseCoordinateFrame | None:
        """The frame of astropy; None if it knows none, as for the Sun without sunpy.

        Ecliptic coordinates it takes for equatorial ones, as wcslib gives them a RADESYS.
        """
        if self.wcs.wcs.lngtyp in _ECLIPTIC:
            return None
        try:
            return frame_of(self.wcs)
        except FitsFormatError:
            return None

    @cached_property
    def _units(self) -> tuple[float, float]:
        """Degrees in a unit of the longitude and the latitude."""
        axes = (self.wcs.wcs.lng, self.wcs.wcs.lat)
        lon, lat = (float(angular_unit(self.wcs, axis).to(u.deg)) for axis in axes)
        return lon, lat

    @property
    def pixel_area(self) -> float:
        """Area of a pixel at the reference point, in square degrees."""
        areas = self._units[0] * self._units[1]
        return float(abs(np.linalg.det(self.wcs.pixel_scale_matrix)) * areas)

    @cached_property
    def largest_side(self) -> float:
        """The longer side of a pixel at CRPIX, in degrees."""
        return float(proj_plane_pixel_scales(self.wcs).max() * max(self._units))

    def to_sky(self, pixels: Floats) -> Floats:
        """Find longitudes and latitudes, (2, n) in degrees, of (2, n) pixels x, y."""
        sky = np.full(pixels.shape, np.nan)
        known = np.isfinite(pixels).all(axis=0)
        if known.any():
            found = to_sky(self.wcs, list(np.ascontiguousarray(pixels[:, known])), self.extent)
            sky[:, known] = np.stack(found) * np.array(self._units)[:, None]
        return sky

    def from_sky(self, sky: Floats) -> Floats:
        """Find pixels x, y, (2, n), of (2, n) longitudes and latitudes in degrees."""
        pixels = np.full(sky.shape, np.nan)
        known = np.isfinite(sky).all(axis=0)
        if known.any():
            lon, lat = sky[:, known] / np.array(self._units)[:, None]
            pixels[:, known] = from_sky(self.wcs, lon, lat, self.extent)
        return pixels

    @property
    def kind(self) -> Kind:
        """How positions change from pixel to pixel, by what the WCS is.

        Tables of distortions have kinks that differences of some positions do not show.
        """
        wcs = self.wcs
        if has_lookup_tables(wcs):
            return "tables"
        codes = {wcs.wcs.ctype[axis][5:8].strip("-") for axis in (wcs.wcs.lng, wcs.wcs.lat)}
        return "smooth" if codes <= _SMOOTH else "facets"

    def covers(self, low: Floats, high: Floats) -> bool:
        """Return whether the image has all of a rectangle: bounds x, y of (2,) arrays."""
        begin, end = (edge[:, 0] for edge in self.extent.columns())
        return bool((low >= begin).all() and (high <= end).all())

    def repeats(self, low: Floats, high: Floats) -> bool:
        """Return whether sky of a rectangle is on the image turns of the longitude away from it.

        The rectangle is one of pixels x, y from 0, which need not be on the image.
        """
        step = np.array(turn_step(self.wcs, self.extent))
        if not step.any():
            return False
        begin, end = (edge[:, 0] for edge in self.extent.columns())
        most = int(np.max(np.maximum(end - low, high - begin)) / np.abs(step).max()) + 1
        moved = np.array([turns for turns in range(-most, most + 1) if turns])[:, None] * step
        meets = (low + moved < end - _WHOLE) & (high + moved > begin + _WHOLE)
        return bool(meets.all(axis=1).any())


class PixelMap:
    """The way from the pixels of an output grid to those of an input image.

    For one thread at a time, since what astropy computes in is memory of a WCS.

    Parameters
    ----------
    output, input : Grid
        From where, and to where.

    Raises
    ------
    FitsFormatError
        There is no way: astropy does not know a frame, or needs tables that are too old.
    """

    def __init__(self, output: Grid, input: Grid) -> None:  # noqa: A002 (the field's word)
        self.output = output
        self.input = input
        self._to_input: Way = _unchanged
        self._to_output: Way = _unchanged
        if _have_same_frame(output, input):
            return
        if output.frame is None or input.frame is None:
            raise _frame_error(output, input)
        self._to_input = way_between(output.frame, input.frame)
        self._to_output = way_between(input.frame, output.frame)

    @property
    def kind(self) -> Kind:
        """How positions change from pixel to pixel: the worse of the two grids decides."""
        kinds = (self.output.kind, self.input.kind)
        return max(kinds, key=("smooth", "tables", "facets").index)

    @property
    def scale(self) -> float:
        """Area of a pixel of the output in pixels of the input, at the reference points."""
        return self.output.pixel_area / self.input.pixel_area

    @cached_property
    def turn(self) -> tuple[float, float]:
        """Pixels x, y after which the map of the input repeats itself; zeros if it does not."""
        return turn_step(self.input.wcs, self.input.extent)

    def without_turns(self, ways: Floats) -> Floats:
        """Return ways between pixels of the input, (..., 2, n), the shorter way round its map."""
        turn = np.array(self.turn)[:, None]
        length = (turn**2).sum()
        if not length:
            return ways
        turns = np.rint((ways * turn).sum(axis=-2, keepdims=True) / length)
        return np.asarray(ways - turns * turn)

    def positions(self, pixels: Floats) -> Floats:
        """Find the pixels of the input at those of the output, one by one.

        Parameters
        ----------
        pixels : (2, n) array
            Pixels x, y of the output, from 0.

        Returns
        -------
        (2, n) array
            Pixels x, y of the input, from 0; NaN where there is no such position, or the way back
            leads elsewhere.
        """
        with quiet(), np.errstate(invalid="ignore"):
            found = self.input.from_sky(self._to_input(self.output.to_sky(pixels)))
            back = self.output.from_sky(self._to_output(self.input.to_sky(found)))
            meets = (np.abs(back - pixels) < _MEETS).all(axis=0)
        found[:, ~meets] = np.nan
        return found

    def directions(self, pixels: Floats) -> Floats:
        """Find unit vectors in the input's frame, (n, 3), of (2, n) pixels x, y of the output."""
        with quiet(), np.errstate(invalid="ignore"):
            return unit_vectors_of(*np.deg2rad(self._to_input(self.output.to_sky(pixels))))

    @cached_property
    def circle(self) -> tuple[Floats, float]:
        """A circle on the sky around the input: unit vector in its frame, and radius in radians."""
        height, width = self.input.shape
        x = np.linspace(-0.5, width - 0.5, _LINES)
        y = np.linspace(-0.5, height - 0.5, _LINES)
        with quiet(), np.errstate(invalid="ignore"):
            sky = self.input.to_sky(np.stack(np.meshgrid(x, y)).reshape(2, -1))
        known = np.isfinite(sky).all(axis=0)
        found = circle_around(unit_vectors_of(*np.deg2rad(sky[:, known])))
        if found is None:
            return np.array([1.0, 0.0, 0.0]), np.pi
        centre, radius = found
        # Beside a limb, sky goes on between the points.
        return centre, radius * 1.1 if known.all() else radius + _BEYOND_LIMB


def _unchanged(sky: Floats) -> Floats:
    return sky


def whole_shift(output: Grid, input: Grid) -> tuple[int, int] | None:  # noqa: A002
    """Return by how many whole pixels two grids are apart, if by nothing else.

    Returns
    -------
    y, x : int
        The pixel of the input at pixel (0, 0) of the output; None if the grids differ in more.
    """
    one, other = output.wcs, input.wcs
    if not one.wcs.compare(other.wcs, WCSCOMPARE_ANCILLARY | WCSCOMPARE_CRPIX, 0.0):
        return None
    if not _have_same_frame(output, input) or not _have_same_distortion(one, other):
        return None
    shift = other.wcs.crpix - one.wcs.crpix
    whole = np.rint(shift)
    if (np.abs(shift - whole) > _WHOLE).any():
        return None
    low, high = (edge[:, 0] + whole for edge in output.extent.columns())
    if not input.covers(low, high) and input.repeats(low, high):
        return None  # what is beyond one side of a map may be at the other one
    return int(whole[1]), int(whole[0])


def _have_same_distortion(one: WCS, other: WCS) -> bool:
    """Return whether two WCSs have equal SIP polynomials about their CRPIXn, and no tables."""
    if has_lookup_tables(one) or has_lookup_tables(other):
        return False
    if one.sip is None or other.sip is None:
        return one.sip is None and other.sip is None
    for name in ("a", "b", "ap", "bp"):
        mine, others = getattr(one.sip, name), getattr(other.sip, name)
        if (mine is None) != (others is None) or not np.array_equal(mine, others):
            return False
    moved = (other.sip.crpix - other.wcs.crpix) - (one.sip.crpix - one.wcs.crpix)
    return bool((np.abs(moved) <= _WHOLE).all())


def _have_same_frame(output: Grid, input: Grid) -> bool:  # noqa: A002
    """Return whether two grids count their longitudes and latitudes in one frame."""
    if output.frame is not None and input.frame is not None:
        return bool(output.frame.is_equivalent_frame(input.frame))
    return _frame_keywords(output) == _frame_keywords(input)


def _frame_keywords(grid: Grid) -> dict[str, object]:
    """Return the keywords that tell a frame which astropy does not know."""
    wcs = grid.wcs.wcs
    names = wcs.ctype[wcs.lng][:4], wcs.ctype[wcs.lat][:4]
    observer = {name.upper(): getattr(wcs.aux, name) for name in _OBSERVER}
    system = {"RADESYS": wcs.radesys, "EQUINOX": str(wcs.equinox), "DATE-OBS": wcs.dateobs}
    return {"CTYPEn": names, **system, **observer}


def _frame_error(output: Grid, input: Grid) -> FitsFormatError:  # noqa: A002
    """Return the error of two grids in different frames, one of which astropy does not know."""
    unknown = output if output.frame is None else input
    reason = f"WCS: astropy has no frame for CTYPEn of {unknown.wcs.wcs.lngtyp}"
    try:
        frame_of(unknown.wcs)
    except FitsFormatError as error:
        reason = str(error)
    one, other = _frame_keywords(output), _frame_keywords(input)
    found = [
        f"{name} {one[name]!r} and {other[name]!r}" for name in one if one[name] != other[name]
    ]
    return FitsFormatError(
        f"{input.where}: {reason}; there is a way without it only if these do not differ: "
        f"{', '.join(found)}"
    )
