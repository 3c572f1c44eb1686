"""Units and names of variables as BUNIT and EXTNAME, which are of ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.units import Unit

import dask_fits.xarray_backend  # noqa: F401 (which has the accessor)
from tests.support.sound_files import check_sound

PIXELS = np.arange(12.0).reshape(3, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


@pytest.mark.parametrize("units", ["adu", "MJy/sr", "no unit at all", "x" * 100, "it's"])
def test_units_of_ascii_are_kept(units: str, path: Path) -> None:
    xr.DataArray(PIXELS, attrs={"units": units}).fits.to_fits(path)
    assert fits.getheader(path)["BUNIT"] == units
    check_sound(path)


@pytest.mark.parametrize("units", ["Å", "µJy", "erg s⁻¹ Å⁻¹", "°"])
def test_other_units_are_those_of_fits(units: str, path: Path) -> None:
    xr.DataArray(PIXELS, attrs={"units": units}).fits.to_fits(path)
    assert Unit(fits.getheader(path)["BUNIT"], format="fits") == Unit(units)
    check_sound(path)


@pytest.mark.parametrize("units", ["größe", "two\nlines", "☉☉"])
def test_units_that_fits_does_not_have(units: str, path: Path) -> None:
    with pytest.raises(ValueError, match=r"this DataArray: units: found .* expected ASCII"):
        xr.DataArray(PIXELS, attrs={"units": units}).fits.to_fits(path)
    assert not path.exists()


@pytest.mark.parametrize("units", [None, 5, ["adu"]])
def test_what_is_no_text_is_no_unit(units: object, path: Path) -> None:
    xr.DataArray(PIXELS, attrs={"units": units}).fits.to_fits(path)
    assert "BUNIT" not in fits.getheader(path)


def test_names_of_variables(path: Path) -> None:
    array = xr.DataArray(PIXELS)
    xr.Dataset({"a": array, ("b", 2): array}).fits.to_fits(path)
    with fits.open(path) as file:
        assert [hdu.header.get("EXTNAME") for hdu in file] == [None, "a", "('b', 2)"]
    with pytest.raises(ValueError, match=r"out\.fits: name: found 'größe', expected .* ASCII"):
        array.rename("größe").fits.to_fits(path, overwrite=True)
