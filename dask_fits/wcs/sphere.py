"""Directions as unit vectors in ICRS, for which neither the poles nor RA 0 are special."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import (
    FK5,
    ICRS,
    BaseCoordinateFrame,
    CartesianRepresentation,
    Galactic,
    UnitSphericalRepresentation,
)
from astropy.time import Time

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.wcs.frames import check_offline

Floats = npt.NDArray[np.float64]
"""Numbers, in arrays; of unit vectors the last axis has three."""


Way = Callable[[Floats], Floats]
"""A function that transforms (2, ...) longitudes and latitudes in degrees; NaN stays NaN."""

_LEAST_MEAN = 1e-6
"""Length of the mean of unit vectors from which on it has a direction."""


@lru_cache(maxsize=64)
def _rotation(frame: type[BaseCoordinateFrame], equinox: float | None) -> Floats:
    """Return the rotation (3, 3) from a frame to ICRS."""
    axes = CartesianRepresentation(np.eye(3)).represent_as(UnitSphericalRepresentation)
    made = frame(axes) if equinox is None else frame(axes, equinox=Time(equinox, format="jyear"))
    return to_icrs_vectors(made).T


def rotation_to_icrs(frame: BaseCoordinateFrame) -> Floats | None:
    """Return the rotation from a frame to ICRS; None if the way there may be another one."""
    if isinstance(frame, ICRS):
        return np.eye(3)
    if isinstance(frame, FK5):
        return _rotation(FK5, float(frame.equinox.jyear))
    return _rotation(Galactic, None) if isinstance(frame, Galactic) else None


def to_icrs_vectors(coordinates: BaseCoordinateFrame) -> Floats:
    """Return (n, 3) unit vectors in ICRS; ValueError if astropy cannot tell them offline."""
    try:
        check_offline(coordinates)
        directions = coordinates.transform_to(ICRS()).represent_as("unitspherical")
    except Exception as error:  # some frames lack what the way to ICRS needs
        raise ValueError(f"astropy cannot transform to ICRS: {one_line(error)}") from error
    vectors = directions.to_cartesian().xyz.value
    return np.asarray(vectors, np.float64).reshape(3, -1).T


def unit_vectors_of(lon: npt.ArrayLike, lat: npt.ArrayLike) -> Floats:
    """Return unit vectors, (..., 3), of longitudes and latitudes in radians."""
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)], -1)


def angles_of(vectors: Floats) -> tuple[Floats, Floats]:
    """Return longitudes and latitudes in radians of (..., 3) vectors: `unit_vectors_of` undone."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))


def circle_around(vectors: Floats) -> tuple[Floats, float] | None:
    """Return a circle around (n, 3) unit vectors: its centre, and its radius in radians.

    The centre is their mean direction; None if they have none.
    """
    centre = vectors.mean(axis=0) if len(vectors) else np.zeros(3)
    length = np.linalg.norm(centre)
    if length < _LEAST_MEAN:
        return None
    centre /= length
    return centre, float(angles_from(vectors, centre).max())


def way_between(start: BaseCoordinateFrame, end: BaseCoordinateFrame) -> Way:
    """Return the way from one frame to another one.

    Raises
    ------
    FitsFormatError
        astropy would have to ask a server; the way itself raises it if astropy knows none.
    """
    if start.is_equivalent_frame(end):
        return lambda sky: sky
    check_offline(start)
    check_offline(end)
    to_icrs, from_icrs = rotation_to_icrs(start), rotation_to_icrs(end)
    if to_icrs is None or from_icrs is None:
        return partial(_transform, start, end)
    return partial(_rotate, from_icrs.T @ to_icrs)


def _rotate(rotation: Floats, sky: Floats) -> Floats:
    """Rotate longitudes and latitudes in degrees."""
    return np.rad2deg(np.stack(angles_of(unit_vectors_of(*np.deg2rad(sky)) @ rotation.T)))


def _transform(start: BaseCoordinateFrame, end: BaseCoordinateFrame, sky: Floats) -> Floats:
    """Transform longitudes and latitudes in degrees with astropy."""
    known = np.isfinite(sky).all(axis=0)
    result = np.full(sky.shape, np.nan)
    try:
        placed = start.realize_frame(UnitSphericalRepresentation(*(sky[:, known] * u.deg)))
        found = placed.transform_to(end).represent_as("unitspherical")
    except Exception as error:  # of observers and dates, and what astropy lacks of them
        raise FitsFormatError(
            f"WCS: astropy cannot transform from {start!r} to {end!r}: {one_line(error)}"
        ) from error
    result[:, known] = found.lon.to_value(u.deg), found.lat.to_value(u.deg)
    return result


def angles_from(vectors: Floats, centre: Floats) -> Floats:
    """Return the angles in radians between (n, 3) unit vectors and one, small ones exactly."""
    along = vectors @ centre
    across = np.linalg.norm(vectors - along[:, None] * centre, axis=1)
    return np.asarray(np.arctan2(across, along))
