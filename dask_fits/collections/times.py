"""Times of observations in UTC, whatever scale their headers have."""

from __future__ import annotations

from collections.abc import Sequence

import erfa
import numpy as np
import numpy.typing as npt

from dask_fits.format.times import MJD_ZERO

_TT_LIKE = ("TT", "TDT", "ET", "TDB", "TCB", "TCG")
"""Scales that differ from TT by milliseconds, or by a minute in a century."""

_AFTER_TAI = {"GPS": 19.0, "TAI": 0.0, "IAT": 0.0} | dict.fromkeys(_TT_LIKE, -32.184)
"""Seconds from a time of each scale to the same number in TAI (FITS Standard 4.0, table 30)."""


def to_utc(mjd: npt.NDArray[np.float64], scales: Sequence[str]) -> npt.NDArray[np.float64]:
    """Convert times to UTC, without a look at the network.

    Parameters
    ----------
    mjd : (n,) array
        Modified Julian dates.
    scales : sequence of str
        TIMESYS of each, such as ``"TT"``. UT1, LOCAL and unknown ones are taken for UTC.

    Returns
    -------
    (n,) array
        Modified Julian dates in UTC.
    """
    utc = mjd.copy()
    for scale in set(scales) & set(_AFTER_TAI):
        rows = np.array([name == scale for name in scales]) & np.isfinite(mjd)
        tai = mjd[rows] + _AFTER_TAI[scale] / 86_400
        utc1, utc2 = erfa.taiutc(np.full(len(tai), MJD_ZERO), tai)
        utc[rows] = (utc1 - MJD_ZERO) + utc2
    return utc
