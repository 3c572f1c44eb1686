"""Positions in the frame of a WCS, without a look at the network.

astropy asks servers for tables of the Earth's rotation, and for leap seconds, where those that it
has are old. A header must not make us do so, so such a transformation is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from astropy.coordinates import ITRS, Angle, BaseCoordinateFrame, SkyCoord
from astropy.utils import iers
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame

from dask_fits.exceptions import FitsFormatError, one_line


def in_frame_of(wcs: WCS, positions: SkyCoord) -> tuple[Angle, Angle]:
    """Find the longitudes and latitudes of positions in the frame of a celestial WCS.

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
        The WCS is of a frame that astropy does not know or cannot transform to, or only with what
        a server would tell it.
    """
    frame = frame_of(wcs)
    try:
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
    """Find astropy's frame of a celestial WCS.

    Raises
    ------
    FitsFormatError
        It knows none; where it is for RADESYS, that is named.
    """
    try:
        return wcs_to_celestial_frame(wcs)
    except Exception as error:  # astropy raises whatever it stumbles on: of dates, of odd bodies
        lon, lat = wcs.wcs.lng, wcs.wcs.lat
        if wcs.wcs.ctype[lon].startswith("RA") and wcs.wcs.radesys not in _EQUATORIAL:
            found = f"RADESYS: found {wcs.wcs.radesys!r}, expected one of {', '.join(_EQUATORIAL)}"
        else:
            ctype = " and ".join(wcs.wcs.ctype[axis] for axis in sorted((lon, lat)))
            found = f"astropy knows no frame of the sky for CTYPEn {ctype}: {one_line(error)}"
        raise FitsFormatError(f"WCS: {found}") from error


_EQUATORIAL = ("ICRS", "FK5", "FK4", "FK4-NO-E")
"""Values of RADESYS that astropy knows (FITS Standard 4.0, table 24)."""


def check_offline(frame: BaseCoordinateFrame) -> None:
    """Raise FitsFormatError where astropy would ask a server about the frame of a header."""
    time = getattr(frame, "obstime", None)
    if time is None or time.scale != "utc" or not iers.conf.auto_download:
        return
    stale = None if _has_leap_seconds() else "leap seconds"
    table = iers.earth_orientation_table.get()
    if isinstance(frame, ITRS) and isinstance(table, iers.IERS_Auto):
        known = table.meta["predictive_mjd"]
        latest = float(np.max(time.jd1 - _MJD + time.jd2)) + 1
        if latest > known and _today() - known > _age():
            stale = "the Earth's rotation"
    if stale:
        raise FitsFormatError(
            f"WCS: its frame is of {time.isot}, and the tables of {stale} that astropy has are too "
            "old for that; update the package astropy-iers-data"
        )


_MJD = 2_400_000.5
"""Julian date of the first day of the modified ones."""


def _age() -> float:
    """Days from which on astropy takes predictions for too old."""
    return float("inf") if iers.conf.auto_max_age is None else float(iers.conf.auto_max_age)


def _today() -> float:
    # `Time.now()` would look for leap seconds.
    return datetime.now(UTC).timestamp() / 86_400 + 40_587


def _has_leap_seconds() -> bool:
    """Tell whether the leap seconds at hand are as new as astropy wants them, without a server."""
    local = ["erfa", iers.IERS_LEAP_SECOND_FILE, iers.conf.system_leap_second_file]
    table = iers.LeapSeconds.auto_open([name for name in local if name])
    age = 30 if iers.conf.auto_max_age is None else iers.conf.auto_max_age
    expires = table.expires
    return float(expires.jd1 - _MJD + expires.jd2) > _today() + 180 - age
