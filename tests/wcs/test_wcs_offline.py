"""No header makes us ask a server; what astropy says of many headers is kept from the user."""

from __future__ import annotations

import io
import logging
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from astropy import log
from astropy.coordinates import ITRS, SkyCoord
from astropy.utils import iers
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import skycoord_to_pixel

import dask_fits
from dask_fits import FitsFormatError
from dask_fits.wcs.geometry import to_pixels
from dask_fits.wcs.quiet import quiet
from tests.support.wcs_headers import TAN, image_file

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")

EARTH = {
    **TAN,
    "CTYPE1": "'TLON-CAR'",
    "CTYPE2": "'TLAT-CAR'",
    "CRVAL2": "0.0",
    "CDELT1": "20.0",
    "CDELT2": "20.0",
}
STAR = SkyCoord(10.0, 20.0, unit="deg")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of hosts that are asked for, while astropy's tables are as old as can be."""
    found: list[str] = []

    def refuse(host: str, *args: Any, **kwargs: Any) -> None:
        found.append(host)
        raise OSError(f"no network: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    table = iers.IERS_Auto.open()
    monkeypatch.setitem(table.meta, "predictive_mjd", 59_000.0)  # 2020-05-31
    return found


def earth_file(tmp_path: Path, date: str) -> Path:
    path = tmp_path / "earth.fits"
    path.write_bytes(image_file(EARTH, {"DATE-OBS": f"'{date}'"}))
    return path


def everything(path: Path, position: SkyCoord) -> list[str]:
    """What becomes of all that may need the frame of an image, in threads of its own."""
    hdu = dask_fits.open(path)[0]

    def opened() -> xr.Dataset:
        return xr.open_dataset(path, engine="fits", world_coords=True)

    calls = [
        lambda: hdu.wcs,
        lambda: hdu.cutout((3, 3), 3),
        lambda: hdu.cutout(position, 3),
        lambda: dask_fits.cutouts(path, position.reshape(1), 3, fill_value=0),
        lambda: opened().compute(),
        lambda: opened().fits.cutout(position, 3),
        lambda: opened().fits.sel_sky(position),
    ]

    def told(call: Any) -> str:
        try:
            call()
        except FitsFormatError as error:
            return str(error)
        return "done"

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(told, calls))


@pytest.mark.parametrize("date", ["2026-11-01T00:00:00", "2031-01-01T00:00:00"])
def test_no_header_makes_us_ask_a_server(tmp_path: Path, asked: list[str], date: str) -> None:
    found = everything(earth_file(tmp_path, date), STAR)
    assert asked == []
    assert [found[n] for n in (0, 1, 4)] == ["done"] * 3
    for text in (found[n] for n in (2, 3, 5, 6)):
        assert "earth.fits" in text
        assert f"its frame is of {date}.000" in text
        assert "update the package astropy-iers-data" in text


def test_leap_seconds_are_not_asked_for(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dask_fits.wcs.frames._today", lambda: 99_000.0)
    found = everything(earth_file(tmp_path, "2001-01-01T00:00:00"), STAR)
    assert asked == []
    assert "the tables of leap seconds that astropy has are too old" in found[2]


def test_positions_on_the_earth_itself_need_no_tables(tmp_path: Path, asked: list[str]) -> None:
    path = earth_file(tmp_path, "2026-11-01T00:00:00")
    frame = ITRS(obstime="2026-11-01T00:00:00", representation_type="spherical")
    position = SkyCoord(lon=10.0, lat=0.0, unit="deg", frame=frame)
    assert everything(path, position) == ["done"] * 7
    assert asked == []
    assert dask_fits.open(path)[0].cutout(position, 3).slices == (slice(2, 5), slice(3, 6))


def test_dates_that_the_tables_know_are_as_in_astropy(tmp_path: Path, asked: list[str]) -> None:
    wcs = dask_fits.open(earth_file(tmp_path, "2010-06-01T00:00:00"))[0].wcs
    assert to_pixels(wcs, STAR) == skycoord_to_pixel(STAR, wcs, mode="all")
    assert asked == []


# Noise


SIP = {**TAN, "A_ORDER": "2", "B_ORDER": "2", "A_2_0": "1.0E-6", "B_0_2": "1.0E-6"}


def folder_of(tmp_path: Path, count: int, keywords: dict[str, str]) -> list[str]:
    paths = [tmp_path / f"{n}.fits" for n in range(count)]
    for path in paths:
        path.write_bytes(image_file(keywords))
    return [str(path) for path in paths]


def test_nothing_is_printed_of_sip_without_its_suffix(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 5, SIP)
    said = io.StringIO()
    with redirect_stdout(said), ThreadPoolExecutor(4) as pool:
        wcs = dask_fits.open(paths[0])[0].wcs
        dask_fits.cutouts(paths, STAR.reshape(1), 3)
        list(pool.map(lambda path: xr.open_dataset(path, engine="fits"), paths))
    assert said.getvalue() == ""
    assert wcs.sip is not None  # it is applied, as in astropy
    assert list(wcs.wcs.ctype) == ["RA---TAN", "DEC--TAN"]


def test_what_others_log_is_still_said(tmp_path: Path) -> None:
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    log.addHandler(handler)
    try:
        _ = dask_fits.open(folder_of(tmp_path, 1, SIP)[0])[0].wcs
        assert heard == []
        log.info("something else")
        WCS(dask_fits.open(tmp_path / "0.fits")[0].header)
    finally:
        log.removeHandler(handler)
    assert [record.getMessage().split()[0] for record in heard] == ["something", "Inconsistent"]


MENDED = {**TAN, "CUNIT1": "'DEG'", "CUNIT2": "'DEG'"}


def test_what_is_mended_in_many_headers_is_not_told(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 4, MENDED)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert dask_fits.open(paths[0])[0].wcs.wcs.cunit[0] == "deg"
    assert any(issubclass(w.category, FITSFixedWarning) for w in told)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        dask_fits.cutouts(paths, STAR.reshape(1), 3)
        xr.open_dataset(paths[0], engine="fits")
    assert told == []


def test_a_keyword_that_is_left_out_is_told_of_in_many_files(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 2, {**MENDED, "MJD-OBS": "55197,5"})
    with pytest.warns(FITSFixedWarning, match="MJD-OBS = '55197,5"):
        dask_fits.cutouts(paths, STAR.reshape(1), 3)
    with pytest.warns(FITSFixedWarning, match="MJD-OBS = '55197,5"):
        xr.open_dataset(paths[0], engine="fits")


@pytest.mark.filterwarnings("always::UserWarning")
def test_filters_of_warnings_stay_as_they_are(tmp_path: Path) -> None:
    paths = folder_of(tmp_path, 8, MENDED)
    with quiet():
        before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: dask_fits.cutouts(paths, STAR.reshape(1), 3), range(8)):
            pass
        for _ in pool.map(lambda path: xr.open_dataset(path, engine="fits"), paths):
            pass
    assert warnings.filters == before


def test_other_threads_hear_what_is_mended() -> None:
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with quiet():
            thread = threading.Thread(
                target=lambda: warnings.warn("mended", FITSFixedWarning, stacklevel=1)
            )
            thread.start()
            thread.join()
            warnings.warn("mended here", FITSFixedWarning, stacklevel=1)
        heard += [str(w.message) for w in told]
    assert heard == ["mended"]
