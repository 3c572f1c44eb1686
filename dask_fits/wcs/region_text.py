"""Regions of the sky as users give them: a circle, a polygon, or the text of ObsCore."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import (
    FK4,
    FK5,
    ICRS,
    BaseCoordinateFrame,
    CartesianRepresentation,
    Galactic,
    SkyCoord,
    UnitSphericalRepresentation,
)

from dask_fits.exceptions import one_line
from dask_fits.wcs.regions import Cone, Polygon, Region
from dask_fits.wcs.sphere import Floats, to_icrs_vectors, unit_vectors_of

_FRAMES: dict[str, type[BaseCoordinateFrame]] = {
    "ICRS": ICRS,
    "FK5": FK5,
    "J2000": FK5,
    "FK4": FK4,
    "B1950": FK4,
    "GALACTIC": Galactic,
}
"""Frames of ObsCore's `s_region`, and the names that archives give them."""

_IGNORED = {
    *("GEOCENTER", "BARYCENTER", "HELIOCENTER", "TOPOCENTER", "LSR", "LSRK", "LSRD", "RELOCATABLE"),
    *("GALACTIC_CENTER", "LOCAL_GROUP_CENTER", "EMBARYCENTER", "UNKNOWNREFPOS", "SPHERICAL2"),
}
"""Words of STC-S behind the frame that do not change directions: reference position, flavour."""


def as_region(position: Any = None, radius: Any = None, region: Any = None) -> Region:
    """Make a region of the sky of what users give: a position with a radius, or a region.

    Parameters
    ----------
    position : SkyCoord or pair of numbers, optional
        One position; numbers are RA and Dec in degrees, ICRS.
    radius : Quantity, Angle or number, optional
        An angle from 0 to 180 degrees; a number is of degrees; 0 if it is left out.
    region : SkyCoord or str, optional
        Three or more vertices of a polygon, or an ObsCore `s_region`. The edges of a polygon are
        arcs of great circles, its vertices may go either way around, and its inside is the smaller
        side. A text is ``CIRCLE``, ``POLYGON`` or ``BOX``, optionally a frame (ICRS, FK5, FK4 or
        GALACTIC; ICRS if there is none), and numbers in degrees: ``CIRCLE ICRS 10.5 41.2 0.5``.
        The sides of a box are arcs of great circles, perpendicular to its axes.

    Raises
    ------
    ValueError, TypeError
        An argument is none of these, or both a position and a region are given, or neither.
    """
    if (position is None) == (region is None):
        found = "neither" if region is None else "both"
        raise ValueError(f"position, region: expected one of them, found {found}")
    if region is None:
        return Cone(_as_vector(position), 0.0 if radius is None else _as_radius(radius))
    if radius is not None:
        raise ValueError("radius: expected none with a region, since it belongs to a position")
    if isinstance(region, SkyCoord):
        return _polygon_of(region)
    if isinstance(region, str):
        return _parse(region)
    raise TypeError(
        "region: expected a SkyCoord of vertices or the text of an s_region, "
        f"found {_describe(region)}"
    )


def _as_vector(position: Any) -> Floats:
    """Return the unit vector in ICRS of a position that users give."""
    if isinstance(position, SkyCoord):
        if not position.isscalar:
            raise ValueError(f"position: expected one, found a SkyCoord of shape {position.shape}")
        return _sky_vectors(position, "position").reshape(3)
    expected = "expected a SkyCoord, or RA and Dec in degrees"
    if isinstance(position, (str, bytes, u.Quantity)):
        raise TypeError(f"position: {expected}, found {_describe(position)}")
    try:
        pair = np.asarray(position, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"position: {expected}, found {_describe(position)}") from error
    if pair.shape != (2,):
        raise ValueError(f"position: {expected}, found {_describe(position)}")
    return _degrees_to_vectors(pair[None], "position", _describe(position)).reshape(3)


def _degrees_to_vectors(pairs: Floats, name: str, found: str) -> Floats:
    """Return unit vectors of (n, 2) longitudes and latitudes in degrees; ValueError if invalid."""
    if not np.isfinite(pairs).all():
        raise ValueError(f"{name}: expected finite coordinates, found {found}")
    if (np.abs(pairs[:, 1]) > 90).any():
        raise ValueError(f"{name}: expected latitudes from -90 to 90 degrees, found {found}")
    return unit_vectors_of(*np.deg2rad(pairs.T))


def _sky_vectors(positions: SkyCoord, name: str) -> Floats:
    """Return (n, 3) unit vectors in ICRS of positions that users give."""
    try:
        vectors = to_icrs_vectors(positions.frame)
    except ValueError as error:
        raise ValueError(f"{name}: {one_line(error)}") from error
    if not np.isfinite(vectors).all():
        raise ValueError(f"{name}: expected finite coordinates, found {_describe(positions)}")
    return vectors


def _as_radius(radius: Any) -> float:
    """Return the radians of a radius that users give."""
    expected = "radius: expected an angle, or a number of degrees, from 0 to 180"
    if isinstance(radius, (str, bytes)):
        raise TypeError(f"{expected}, found {_describe(radius)}")
    try:
        degrees = radius.to_value(u.deg) if isinstance(radius, u.Quantity) else radius
        degrees = np.asarray(degrees, np.float64)
    except u.UnitConversionError as error:
        raise ValueError(f"{expected}, found {_describe(radius)}") from error
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected}, found {_describe(radius)}") from error
    # Neither is NaN.
    if degrees.shape or not 0 <= degrees <= 180:
        raise ValueError(f"{expected}, found {_describe(radius)}")
    return float(np.deg2rad(degrees))


def _polygon_of(vertices: SkyCoord) -> Polygon:
    """Make the polygon of vertices that users give."""
    if vertices.ndim != 1 or len(vertices) < 3:
        found = "one position" if vertices.isscalar else f"a SkyCoord of shape {vertices.shape}"
        raise ValueError(f"region: expected three or more vertices, found {found}")
    return Polygon.of(_sky_vectors(vertices, "region"))


def _parse(text: str) -> Region:
    """Make the region of an ObsCore `s_region` (STC-S; ObsCore 1.1, section 4.12)."""
    found = _describe(text)
    shape, *words = text.upper().split() or [""]
    if shape not in ("CIRCLE", "POLYGON", "BOX"):
        raise ValueError(f"region: expected CIRCLE, POLYGON or BOX, found {found}")
    frame: type[BaseCoordinateFrame] = ICRS
    if words and words[0] in _FRAMES:
        frame = _FRAMES[words.pop(0)]
    while words and words[0] in _IGNORED:
        words.pop(0)
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError as error:
        known = ", ".join(_FRAMES)
        raise ValueError(
            f"region: expected {shape}, one of the frames {known} or none, and numbers in "
            f"degrees, found {found}"
        ) from error
    return _region_of(shape, frame, numbers, found)


def _region_of(shape: str, frame: type[BaseCoordinateFrame], numbers: Floats, found: str) -> Region:
    """Make the region of the numbers of an `s_region`."""
    if shape == "POLYGON":
        if len(numbers) < 6 or len(numbers) % 2:
            raise ValueError(
                "region: expected POLYGON with three or more pairs of numbers, "
                f"found {len(numbers)} numbers in {found}"
            )
        vectors = _degrees_to_vectors(numbers.reshape(-1, 2), "region", found)
        return Polygon.of(_frame_to_icrs(vectors, frame))
    count = {"CIRCLE": 3, "BOX": 4}[shape]
    if len(numbers) != count:
        raise ValueError(
            f"region: expected {shape} with {count} numbers, found {len(numbers)} in {found}"
        )
    centre = _degrees_to_vectors(numbers[None, :2], "region", found)
    sizes = numbers[2:]
    if shape == "CIRCLE":
        if not 0 <= sizes[0] <= 180:
            raise ValueError(f"region: expected a radius from 0 to 180 degrees, found {found}")
        return Cone(_frame_to_icrs(centre, frame)[0], float(np.deg2rad(sizes[0])))
    if not ((sizes > 0) & (sizes < 180)).all():
        raise ValueError(f"region: expected sides between 0 and 180 degrees, found {found}")
    corners = _box_corners(*np.deg2rad(numbers).tolist())
    return Polygon.of(_frame_to_icrs(corners, frame))


def _box_corners(lon: float, lat: float, width: float, height: float) -> Floats:
    """Return (4, 3) corners of a box: where great circles across the ends of its axes meet."""
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    centre = unit_vectors_of(lon, lat)
    north = np.cross(centre, east)
    # On the plane that touches the sky at the centre, great circles are straight lines.
    right, up = np.tan(width / 2) * east, np.tan(height / 2) * north
    corners = np.stack(
        [centre - right - up, centre + right - up, centre + right + up, centre - right + up]
    )
    return np.asarray(corners / np.linalg.norm(corners, axis=1, keepdims=True))


def _frame_to_icrs(vectors: Floats, frame: type[BaseCoordinateFrame]) -> Floats:
    """Return (n, 3) unit vectors of a frame in ICRS."""
    if frame is ICRS:
        return vectors
    sphere = CartesianRepresentation(vectors.T).represent_as(UnitSphericalRepresentation)
    return to_icrs_vectors(frame(sphere))


def _describe(value: Any) -> str:
    """Return what users give as a short text, for messages."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."
