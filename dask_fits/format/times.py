"""When an image was taken, by the keywords of its header (FITS Standard 4.0, section 9)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

from dask_fits.format.header import Value

TIME_KEYWORDS = (
    "TIMESYS", "TIMEUNIT", "MJDREF", "MJDREFI", "MJDREFF", "TSTART", "TSTOP",
    "DATE-BEG", "MJD-BEG", "DATE-OBS", "TIME-OBS", "MJD-OBS", "DATE-END", "MJD-END",
    "XPOSURE", "EXPTIME", "EXPOSURE", "TELAPSE",
)  # fmt: skip
"""Keywords that say when an image was taken, and for how long it was exposed."""

MJD_ZERO = 2_400_000.5
"""Julian date at which the modified Julian date is 0."""

MJD_OF_1970 = 40_587
"""Modified Julian date of 1970-01-01, from which NumPy and Python count."""

_DAY = 86_400
"""Seconds."""

_MJD_OF_ORDINAL_0 = -678_576
"""Modified Julian date of Python's day number 0."""

_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d(?:\.\d*)?))?)?Z?|(\d\d)/(\d\d)/(\d\d)"
)
"""A date of the Standard (section 4.4.2.1), as it is and as it was until 1999."""

_TIME = re.compile(r"(\d\d):(\d\d):(\d\d(?:\.\d*)?)")
"""A time of the day."""

Look = Callable[[str], Value]
"""A function that returns the value of a keyword; None if there is none."""


def read_times(look: Look) -> tuple[float, float, float, str]:
    """Read when an exposure began and ended.

    Parameters
    ----------
    look : callable
        Returns the value of one of `TIME_KEYWORDS`; None if there is none.

    Returns
    -------
    begin, end : float
        Modified Julian dates; NaN if the header does not say. An exposure without an end, and
        without a duration, ends when it begins.
    exposure : float
        Exposure time in seconds; NaN if the header does not say.
    scale : str
        Time scale, TIMESYS in upper case; ``"UTC"`` without it.
    """
    begin = _first(
        _date(look, "DATE-BEG"),
        _number(look, "MJD-BEG"),
        _date_and_time(look),
        _number(look, "MJD-OBS"),
        _date(look, "DATE-OBS"),
        _since_reference(look, "TSTART"),
    )
    exposure = _first(*(_number(look, name) for name in ("XPOSURE", "EXPTIME", "EXPOSURE")))
    duration = _first(exposure, _number(look, "TELAPSE"), 0.0)
    end = _first(
        _date(look, "DATE-END"),
        _number(look, "MJD-END"),
        _since_reference(look, "TSTOP"),
        begin + duration / _DAY,
    )
    scale = look("TIMESYS")
    return begin, end, exposure, scale.strip().upper() if isinstance(scale, str) else "UTC"


def _first(*values: float) -> float:
    """Return the first value that is a number; NaN if none is."""
    return next((value for value in values if value == value), float("nan"))  # noqa: PLR0124


def _number(look: Look, keyword: str) -> float:
    """Return the value of a keyword if it is a number; else NaN."""
    value = look(keyword)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else float("nan")  # type: ignore[arg-type]


def _date(look: Look, keyword: str) -> float:
    """Return the modified Julian date of a keyword; NaN if it holds none."""
    value = look(keyword)
    match = _DATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return float("nan")
    year, month, day, hour, minute, second, old_day, old_month, old_year = match.groups()
    if year is None:
        year, month, day = str(1900 + int(old_year)), old_month, old_day
    try:
        days = date(int(year), int(month), int(day)).toordinal() + _MJD_OF_ORDINAL_0
    except ValueError:
        return float("nan")
    return days + _fraction(hour, minute, second)


def _date_and_time(look: Look) -> float:
    """Return DATE-OBS with its time of the day, which may be that of TIME-OBS; NaN without one."""
    value = look("DATE-OBS")
    if isinstance(value, str) and ":" in value:
        return _date(look, "DATE-OBS")
    time = look("TIME-OBS")
    match = _TIME.fullmatch(time.strip()) if isinstance(time, str) else None
    return float("nan") if match is None else _date(look, "DATE-OBS") + _fraction(*match.groups())


def _fraction(hour: str | None, minute: str | None, second: str | None) -> float:
    """Return a time of the day as a part of it; NaN if there is no such time."""
    hours, minutes, seconds = int(hour or 0), int(minute or 0), float(second or 0)
    if hours > 23 or minutes > 59 or seconds >= 61:  # a leap second has the number 60
        return float("nan")
    return (hours * 3600 + minutes * 60 + seconds) / _DAY


def _since_reference(look: Look, keyword: str) -> float:
    """Return a time that is counted from MJDREF, in TIMEUNIT (section 9.2.2), as a date."""
    whole = _first(_number(look, "MJDREFI"), _number(look, "MJDREF"))
    part = _first(_number(look, "MJDREFF"), 0.0)
    unit = look("TIMEUNIT")
    seconds = {"d": _DAY, "s": 1}.get(unit.strip() if isinstance(unit, str) else "s", float("nan"))
    return whole + part + _number(look, keyword) * seconds / _DAY
