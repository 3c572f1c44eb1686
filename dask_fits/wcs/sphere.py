"""Directions as unit vectors in ICRS, for which neither the poles nor RA 0 are special."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from astropy.coordinates import (
    FK5,
    ICRS,
    BaseCoordinateFrame,
    CartesianRepresentation,
    Galactic,
    UnitSphericalRepresentation,
)
from astropy.time import Time

from dask_fits.exceptions import one_line
from dask_fits.wcs.frames import check_offline

Floats = npt.NDArray[np.float64]
"""Numbers, in arrays; of unit vectors the last axis has three."""


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


def angles_from(vectors: Floats, centre: Floats) -> Floats:
    """Return the angles in radians between (n, 3) unit vectors and one, small ones exactly."""
    along = vectors @ centre
    across = np.linalg.norm(vectors - along[:, None] * centre, axis=1)
    return np.asarray(np.arctan2(across, along))
