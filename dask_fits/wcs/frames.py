"""Positions in the frame of a WCS, without access to the network.

astropy asks servers for tables of the Earth's rotation, and for leap seconds, if those that it has
are old. A header must not make us do so, so such a transformation is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from astropy.coordinates import ITRS, Angle, BaseCoordinateFrame, SkyCoord
from astropy.utils import iers
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.format.times import MJD_OF_1970, MJD_ZERO

_EQUATORIAL = ("ICRS", "FK5", "FK4", "FK4-NO-E")
"""Values of RADESYS that astropy knows (FITS Standard 4.0, table 24)."""


def in_frame_of(wcs: WCS, positions: SkyCoord) -> tuple[Angle, Angle]:
    """Return the longitudes and latitudes of positions in the frame of a celestial WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    positions : SkyCoord

    Returns
    -------
    lon, lat : Angle
        Of the shape of `positions`.

    Raises
    ------
    FitsFormatError
        astropy does not know the frame of the WCS or cannot transform to it, or only with tables
        that it would ask a server for.
    """
    frame = frame_of(wcs)
    try:
        # Positions on the Earth that are in the frame already need no tables of its rotation.
        if not (isinstance(frame, ITRS) and positions.frame.is_equivalent_frame(frame)):
            check_offline(frame)
            positions = positions.transform_to(frame)
    except FitsFormatError:
        raise
    except Exception as error:  # of planets, and what astropy lacks of them
        raise FitsFormatError(
            f"WCS: astropy cannot transform to its frame: {one_line(error)}"
        ) from error
    try:
        return positions.data.lon, positions.data.lat
    except AttributeError:  # it is not spherical
        return positions.spherical.lon, positions.spherical.lat


def frame_of(wcs: WCS) -> BaseCoordinateFrame:
    """Return astropy's frame of a celestial WCS.

    Raises
    ------
    FitsFormatError
        astropy knows none; the message names RADESYS if that is the reason.
    """
    try:
        return wcs_to_celestial_frame(wcs)
    except Exception as error:  # astropy raises whatever it stumbles on: of dates, of odd bodies
        axes = sorted((wcs.wcs.lng, wcs.wcs.lat))
        is_equatorial = wcs.wcs.ctype[wcs.wcs.lng].startswith("RA")
        if is_equatorial and wcs.wcs.radesys not in _EQUATORIAL:
            expected = ", ".join(_EQUATORIAL)
            problem = f"RADESYS: found {wcs.wcs.radesys!r}, expected one of {expected}"
        else:
            ctypes = " and ".join(wcs.wcs.ctype[axis] for axis in axes)
            problem = f"astropy knows no frame of the sky for CTYPEn {ctypes}: {one_line(error)}"
        raise FitsFormatError(f"WCS: {problem}") from error


def check_offline(frame: BaseCoordinateFrame) -> None:
    """Raise FitsFormatError if astropy would ask a server about the frame of a header."""
    time = getattr(frame, "obstime", None)
    if time is None or time.scale != "utc" or not iers.conf.auto_download:
        return
    stale = None if _has_leap_seconds() else "leap seconds"
    table = iers.earth_orientation_table.get()
    if isinstance(frame, ITRS) and isinstance(table, iers.IERS_Auto):
        # astropy downloads a newer table for times that an old one only predicts.
        predicted_from = table.meta["predictive_mjd"]
        latest = float(np.max(time.jd1 - MJD_ZERO + time.jd2)) + 1
        if latest > predicted_from and _today() - predicted_from > _max_prediction_age():
            stale = "the Earth's rotation"
    if stale:
        raise FitsFormatError(
            f"WCS: its frame is of {time.isot}, and the tables of {stale} that astropy has are too "
            "old for that; update the package astropy-iers-data"
        )


def _max_prediction_age() -> float:
    """Return for how many days astropy uses predictions."""
    return float("inf") if iers.conf.auto_max_age is None else float(iers.conf.auto_max_age)


def _today() -> float:
    """Return the modified Julian date of now."""
    # `Time.now()` would look for leap seconds.
    return datetime.now(UTC).timestamp() / 86_400 + MJD_OF_1970


def _has_leap_seconds() -> bool:
    """Return whether the leap seconds at hand are new enough for astropy; asks no server."""
    local = ["erfa", iers.IERS_LEAP_SECOND_FILE, iers.conf.system_leap_second_file]
    table = iers.LeapSeconds.auto_open([name for name in local if name])
    # As astropy does: tables come out half a year before they expire, and may be `age` days old.
    age = 30 if iers.conf.auto_max_age is None else iers.conf.auto_max_age
    expires = table.expires
    return float(expires.jd1 - MJD_ZERO + expires.jd2) > _today() + 180 - age
