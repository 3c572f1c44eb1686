"""When images were taken: t_min, t_max and t_exptime beside what astropy makes of the dates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.time import Time, TimeDelta

import dask_fits
from tests.support.collections import image, put

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")

MICROSECOND = 1e-6 / 86_400


def utc(text: str, scale: str = "utc", seconds: float = 0.0) -> float:
    return float((Time(text, scale=scale) + TimeDelta(seconds, format="sec")).utc.mjd)


def of_mjd(mjd: float, scale: str = "utc") -> float:
    return float(Time(mjd, format="mjd", scale=scale).utc.mjd)


def gps(text: str) -> float:
    return utc(text, "tai", 19.0)


NAN = float("nan")

NOON = "2020-06-01T12:00:00.25"

TIMES: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "DATE-OBS": ({"DATE-OBS": NOON}, utc(NOON), utc(NOON), NAN),
    "DATE-OBS and EXPTIME": (
        {"DATE-OBS": NOON, "EXPTIME": 30.0}, utc(NOON), utc(NOON, seconds=30), 30,
    ),
    "an exposure over midnight": (
        {"DATE-OBS": "2020-06-01T23:59:30", "EXPTIME": 600},
        utc("2020-06-01T23:59:30"), utc("2020-06-02T00:09:30"), 600,
    ),
    "XPOSURE first": ({"DATE-OBS": NOON, "EXPTIME": 30.0, "XPOSURE": 29.0}, utc(NOON), utc(NOON, seconds=29), 29),
    "EXPOSURE": ({"DATE-OBS": NOON, "EXPOSURE": 5}, utc(NOON), utc(NOON, seconds=5), 5),
    "a date alone": ({"DATE-OBS": "2020-06-01"}, utc("2020-06-01"), utc("2020-06-01"), NAN),
    "a date, and MJD-OBS": (
        {"DATE-OBS": "2020-06-01", "MJD-OBS": 59001.75}, of_mjd(59001.75), of_mjd(59001.75), NAN,
    ),
    "a date and TIME-OBS": (
        {"DATE-OBS": "2020-06-01", "TIME-OBS": "12:34:56.5"},
        utc("2020-06-01T12:34:56.5"), utc("2020-06-01T12:34:56.5"), NAN,
    ),
    "MJD-OBS": ({"MJD-OBS": 59001.123456789}, of_mjd(59001.123456789), of_mjd(59001.123456789), NAN),
    "MJD-OBS, whole": ({"MJD-OBS": 59001, "EXPTIME": 86400}, 59001.0, 59002.0, 86400),
    "begin and end": (
        {"DATE-BEG": NOON, "DATE-END": "2020-06-01T12:10:00"}, utc(NOON), utc("2020-06-01T12:10:00"), NAN,
    ),
    "begin and end, MJD": (
        {"MJD-BEG": 59001.5, "MJD-END": 59001.75, "MJD-OBS": 50000.0}, 59001.5, 59001.75, NAN,
    ),
    "end after DATE-OBS": (
        {"DATE-OBS": NOON, "DATE-END": "2020-06-01T12:10:00", "EXPTIME": 100.0},
        utc(NOON), utc("2020-06-01T12:10:00"), 100,
    ),
    "old date": ({"DATE-OBS": "31/12/98"}, utc("1998-12-31"), utc("1998-12-31"), NAN),
    "old date and time": (
        {"DATE-OBS": "04/07/95", "TIME-OBS": "01:02:03"},
        utc("1995-07-04T01:02:03"), utc("1995-07-04T01:02:03"), NAN,
    ),
    "TT": ({"DATE-OBS": NOON, "TIMESYS": "TT"}, utc(NOON, "tt"), utc(NOON, "tt"), NAN),
    "TAI": (
        {"DATE-OBS": NOON, "TIMESYS": "TAI", "EXPTIME": 60.0},
        utc(NOON, "tai"), utc(NOON, "tai", 60), 60,
    ),
    "TDB": ({"DATE-OBS": NOON, "TIMESYS": "TDB"}, utc(NOON, "tdb"), utc(NOON, "tdb"), NAN),
    "GPS": ({"DATE-OBS": NOON, "TIMESYS": "GPS"}, gps(NOON), gps(NOON), NAN),
    "UTC": ({"DATE-OBS": NOON, "TIMESYS": "UTC"}, utc(NOON), utc(NOON), NAN),
    "utc in lower case": ({"DATE-OBS": NOON, "TIMESYS": "utc"}, utc(NOON), utc(NOON), NAN),
    "tt in lower case": ({"DATE-OBS": NOON, "TIMESYS": "tt"}, utc(NOON, "tt"), utc(NOON, "tt"), NAN),
    "MJD-OBS in TT": ({"MJD-OBS": 59001.5, "TIMESYS": "TT"}, of_mjd(59001.5, "tt"), of_mjd(59001.5, "tt"), NAN),
    "TT long ago": (
        {"DATE-OBS": "1975-03-04T00:00:00", "TIMESYS": "TT"},
        utc("1975-03-04T00:00:00", "tt"), utc("1975-03-04T00:00:00", "tt"), NAN,
    ),
    "TSTART since MJDREF": (
        {"MJDREFI": 51910, "MJDREFF": 7.428703703703703e-4, "TSTART": 3e8, "TSTOP": 3e8 + 100, "TIMESYS": "TT"},
        float((Time(51910, 7.428703703703703e-4, format="mjd", scale="tt") + TimeDelta(3e8, format="sec")).utc.mjd),
        float((Time(51910, 7.428703703703703e-4, format="mjd", scale="tt") + TimeDelta(3e8 + 100, format="sec")).utc.mjd),
        NAN,
    ),
    "TSTART in days": (
        {"MJDREF": 55197.0, "TIMEUNIT": "d", "TSTART": 10.5, "TSTOP": 11.0}, 55207.5, 55208.0, NAN,
    ),
    "TSTART, EXPOSURE": (
        {"MJDREF": 55197.0, "TIMEUNIT": "s", "TSTART": 100.0, "EXPOSURE": 50.0},
        55197 + 100 / 86400, 55197 + 150 / 86400, 50,
    ),
    "on the day of a leap second": (
        {"DATE-OBS": "2016-12-31T12:00:00"}, utc("2016-12-31T12:00:00"), utc("2016-12-31T12:00:00"), NAN,
    ),
    "in a leap second": (
        {"DATE-OBS": "2016-12-31T23:59:60.5"}, utc("2016-12-31T23:59:60.5"), utc("2016-12-31T23:59:60.5"), NAN,
    ),
    "with a Z": ({"DATE-OBS": "2020-06-01T12:00:00Z"}, utc("2020-06-01T12:00:00"), utc("2020-06-01T12:00:00"), NAN),
    "blanks around it": ({"DATE-OBS": "2020-06-01T12:00:00  "}, utc("2020-06-01T12:00:00"), utc("2020-06-01T12:00:00"), NAN),
    "EXPTIME alone": ({"EXPTIME": 3.0}, NAN, NAN, 3),
    "EXPTIME as a text": ({"DATE-OBS": NOON, "EXPTIME": "30"}, utc(NOON), utc(NOON), NAN),
    "nothing": ({}, NAN, NAN, NAN),
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("times")


def test_times_are_those_of_astropy(directory: Path) -> None:
    paths = put(directory, [image(header) for header, *_ in TIMES.values()])
    found = dask_fits.open_collection(paths)
    wrong = []
    for row, (name, (_, begin, end, exposure)) in enumerate(TIMES.items()):
        # A day with a leap second is 86401 s long to astropy, so that its fractions are shorter.
        tolerance = 1.1 / 86_400 if "leap second" in name else MICROSECOND
        # TDB is TT but for two milliseconds.
        tolerance = 2e-3 / 86_400 if name == "TDB" else tolerance
        own = [found.column(column)[row] for column in ("t_min", "t_max", "t_exptime")]
        if not np.allclose(own, (begin, end, exposure), rtol=0, atol=tolerance, equal_nan=True):
            wrong.append(f"{name}: found {own}, expected {(begin, end, exposure)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "junk",
    [
        "yesterday",
        "2020-13-01",
        "2020-02-30T00:00:00",
        "2020-06-01T25:00:00",
        "2020-06-01T12:60:00",
        "2020-06-01 12 00",
        "32/01/99",
        "1/2/99",
        "0000-00-00",
        "-",
        "",
        True,
        20200601,
    ],
)
def test_what_is_no_date_is_none(junk: Any, tmp_path: Path) -> None:
    """Rather than a wrong one; astropy refuses all of these."""
    with pytest.raises((ValueError, TypeError)):
        Time(junk if junk != "1/2/99" else "99/2/1")
    found = dask_fits.open_collection(put(tmp_path, [image({"DATE-OBS": junk})]))
    assert np.isnan(found.column("t_min")[0])
    assert np.isnan(found.column("t_max")[0])


def test_a_time_of_the_day_that_is_none_is_left_out(tmp_path: Path) -> None:
    for number, junk in enumerate(("25:00:00", "12:61:00", "12:00:99", "noon")):
        header = {"DATE-OBS": "2020-06-01", "TIME-OBS": junk}
        found = dask_fits.open_collection(put(tmp_path, [image(header)], f"t{number}"))
        assert found.column("t_min")[0] == utc("2020-06-01"), junk


@pytest.fixture(scope="module")
def nights(directory: Path) -> dask_fits.Collection:
    """Ten images, an hour apart, of half an hour each; and one without a date."""
    headers: list[dict[str, Any]] = [
        {"DATE-OBS": f"2020-06-01T{hour:02}:00:00", "EXPTIME": 1800.0} for hour in range(10)
    ]
    return dask_fits.open_collection(put(directory, [image(h) for h in [*headers, {}]], "night"))


def hours(found: dask_fits.Collection) -> list[int]:
    return [round((t - 59001) * 24) for t in found.column("t_min").tolist()]


@pytest.mark.parametrize(
    ("time", "wanted"),
    [
        (Time("2020-06-01T03:15:00"), [3]),
        ("2020-06-01T03:15:00", [3]),
        (datetime(2020, 6, 1, 3, 15, tzinfo=UTC), [3]),
        (datetime(2020, 6, 1, 3, 15), [3]),  # noqa: DTZ001 (FITS has no time zones)
        (59001 + 3.25 / 24, [3]),
        (Time("2020-06-01T03:15:37", scale="tai"), [3]),
        ("2020-06-01T03:45:00", []),
        (("2020-06-01T03:45:00", "2020-06-01T05:15:00"), [4, 5]),
        (("2020-06-01T07:45:00", None), [8, 9]),
        ((None, "2020-06-01T01:00:00"), [0, 1]),
        (("2020-06-01", "2020-06-02"), [*range(10)]),
        (("2020-06-02", None), []),
        ((None, None), [*range(10)]),
        ((59001.0, Time("2020-06-01T00:10:00")), [0]),
    ],
    ids=str,
)
def test_images_are_selected_by_their_time(
    nights: dask_fits.Collection, time: Any, wanted: list[int]
) -> None:
    found = nights.select(time=time)
    if time == (None, None):
        assert len(found) in (10, 11)
        return
    assert hours(found) == wanted


def test_all_times_of_a_pair_are_compared_with_astropy(nights: dask_fits.Collection) -> None:
    rng = np.random.default_rng(94)
    begin = Time([f"2020-06-01T{hour:02}:00:00" for hour in range(10)])
    end = begin + TimeDelta(1800, format="sec")
    for _ in range(100):
        low, high = np.sort(rng.uniform(-1, 11, 2))
        pair = tuple(Time("2020-06-01") + TimeDelta(h * 3600, format="sec") for h in (low, high))
        wanted = np.flatnonzero((begin <= pair[1]) & (end >= pair[0])).tolist()
        assert hours(nights.select(time=pair)) == wanted


@pytest.mark.parametrize(
    "time",
    ["never", ("2020-01-02", "2020-01-01"), NAN, float("inf"), True, [1, 2], {}, b"2020"],
    ids=str,
)
def test_what_is_no_time_is_refused(nights: dask_fits.Collection, time: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="time"):
        nights.select(time=time)


def test_time_zones_are_heeded(nights: dask_fits.Collection) -> None:
    moment = datetime(2020, 6, 1, 5, 15, tzinfo=timezone(timedelta(hours=2)))
    assert hours(nights.select(time=moment)) == [3]
