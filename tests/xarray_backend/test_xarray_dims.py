"""The names of dimensions where the header says nothing of an axis, and what goes by them."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from dask_fits import FitsWarning
from tests.support.tiled_files import tiled_file
from tests.support.worlds import cube
from tests.support.xarray_files import axis

Keywords = dict[str, Any]

PLAIN: dict[tuple[int, ...], tuple[str, ...]] = {
    (7,): ("axis1",),
    (3, 4): ("y", "x"),
    (1, 4): ("y", "x"),
    (0, 4): ("y", "x"),
    (2, 3, 4): ("axis3", "y", "x"),
    (1, 2, 3, 4): ("axis4", "axis3", "y", "x"),
}

NAMES: dict[str, tuple[Keywords, tuple[int, ...], str]] = {
    # Of an axis that the header says nothing of, also beside others that it describes.
    "a spectral cube without a sky": (axis(3, "WAVE", 5e-7, 1e-9, "m"), (3, 4, 5), "wavelength y x"),
    "a movie": (axis(3, "TIME", 0, 1, "s"), (3, 4, 5), "time y x"),
    "a slit": (axis(1, "WAVE", 5e-7, 1e-9, "m"), (4, 5), "y wavelength"),
    "a slit the other way": (axis(2, "FREQ", 1e9, 1e6, "Hz"), (4, 5), "freq x"),
    "a third axis without a type": (axis(3, "", 1.5, 0.5), (3, 4, 5), "axis3 y x"),
    "spectra of fibres": (axis(1, "AWAV", 5e-7, 1e-9, "m"), (2, 4, 5), "axis3 y wavelength"),
    "an axis beyond those of the image": (
        {"WCSAXES": 3, **axis(3, "FREQ", 1e9, 1e6, "Hz")}, (4, 5), "y x",
    ),
    # World coordinates that have no name do not become x, which counts pixels.
    "lengths": (axis(1, "", 7.0, 0.1, "mm") | axis(2, "", -3.0, 2.0, "mm"), (4, 5), "axis2 axis1"),
    "one length": (axis(1, "LINEAR", 7.0, 0.1, "mm"), (4, 5), "y axis1"),
    "a rotation": ({"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}, (4, 5), "axis2 axis1"),
    # With a sky x and y are its axes.
    "a sky": (cube("RA", "DEC"), (4, 5), "y x"),
    "a sky that comes second": (cube("FREQ", "RA", "DEC"), (3, 4, 5), "y x freq"),
    "a sky that comes second, after nothing": (
        axis(2, "RA---TAN") | axis(3, "DEC--TAN", crpix=1.0), (3, 4, 5), "y x axis1",
    ),
}  # fmt: skip


def opened(tmp_path: Path, keywords: Keywords, shape: tuple[int, ...], **options: Any) -> Any:
    path = tmp_path / "a.fits"
    pixels = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    header = fits.Header({**keywords, "EXTNAME": "SCI"})
    fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)
    return xr.open_dataset(path, engine="fits", **options).SCI


@pytest.mark.parametrize("shape", PLAIN, ids=str)
def test_images_without_a_wcs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = opened(tmp_path, {}, shape)
    assert found.dims == PLAIN[shape]
    for dim in found.dims:
        np.testing.assert_array_equal(found[dim], np.arange(found.sizes[dim]))
    np.testing.assert_array_equal(found, fits.getdata(tmp_path / "a.fits"))


@pytest.mark.parametrize("shape", PLAIN, ids=str)
def test_images_whose_wcs_cannot_be_made(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.warns(FitsWarning, match="opened without one"):
        found = opened(tmp_path, {"CTYPE1": "RA---TAN", "CDELT1": 0.0, "CRVAL1": 2.0}, shape)
    assert found.dims == PLAIN[shape]


@pytest.mark.parametrize("name", NAMES)
def test_what_physics_names_stays(tmp_path: Path, name: str) -> None:
    keywords, shape, dims = NAMES[name]
    found = opened(tmp_path, keywords, shape)
    assert found.dims == tuple(dims.split())
    for dim in {"x", "y"} & set(found.dims):
        np.testing.assert_array_equal(found[dim], np.arange(found.sizes[dim]))
        assert found[dim].attrs == {"units": "pixel"}
    np.testing.assert_array_equal(found, fits.getdata(tmp_path / "a.fits"))


def test_compressed_images(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(tiled_file(np.arange(60, dtype="i2").reshape(6, 10), zcmptype="RICE_1"))
    assert xr.open_dataset(path, engine="fits").COMPRESSED_IMAGE.dims == ("y", "x")


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
@pytest.mark.parametrize("keywords", [{}, cube("RA", "DEC")], ids=["plain", "sky"])
def test_the_same_code_for_images_with_and_without_a_sky(
    tmp_path: Path, keywords: Keywords
) -> None:
    found = opened(tmp_path, keywords, (16, 20), chunks={"y": 4, "x": 10})
    assert found.chunksizes == {"y": (4,) * 4, "x": (10, 10)}
    pixels = fits.getdata(tmp_path / "a.fits")
    np.testing.assert_array_equal(found.sel(y=slice(3, 7), x=slice(2, 4)), pixels[3:8, 2:5])
    np.testing.assert_array_equal(found.mean("y"), pixels.mean(axis=0))
    np.testing.assert_array_equal(found.isel(x=-1), pixels[:, -1])


def test_images_with_and_without_a_wcs_on_one_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    sky = fits.Header(cube("RA", "DEC"))
    spectrum = fits.Header(cube("FREQ", "STOKES"))
    zeros = np.zeros((4, 5), "f4")
    for first, second in (("SCI", "DQ"), ("DQ", "SCI")):
        headers = {"SCI": sky, "DQ": None}
        hdus = [fits.ImageHDU(zeros, headers[name], name=name) for name in (first, second)]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
        ds = xr.open_dataset(path, engine="fits", world_coords=True)
        assert list(ds.data_vars) == [first, second]
        assert ds.SCI.dims == ds.DQ.dims == ("y", "x")
        assert {"ra", "dec"} <= set(ds.coords)
    hdus = [fits.ImageHDU(zeros, name="DQ"), fits.ImageHDU(zeros, spectrum, name="SCI")]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
    ds = xr.open_dataset(path, engine="fits")
    assert ds.SCI.dims == ds.DQ.dims == ("stokes", "freq")


def test_stacks_of_images_without_a_wcs(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.fits" for n in range(3)]
    for n, path in enumerate(paths):
        fits.PrimaryHDU(np.full((4, 5), n, "f4")).writeto(path)
    stack = xr.open_mfdataset(
        paths, engine="fits", combine="nested", concat_dim="time", combine_attrs="override"
    )
    assert stack.PRIMARY.dims == ("time", "y", "x")
    np.testing.assert_array_equal(stack.PRIMARY.mean(("y", "x")), [0, 1, 2])


# Without xarray


BLOCKED = {
    "nothing there": "sys.modules['xarray'] = None",
    "a finder that refuses": """
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'xarray':
            raise ModuleNotFoundError("No module named 'xarray'", name='xarray')
sys.meta_path.insert(0, Refuse())""",
}


@pytest.mark.parametrize("way", BLOCKED)
@pytest.mark.parametrize("module", ["xarray_backend", "xarray_backend.entrypoint"])
def test_without_xarray_the_extra_is_named(way: str, module: str) -> None:
    code = f"""
import sys
{BLOCKED[way]}
import dask_fits
try:
    import dask_fits.{module}
except ImportError as error:
    print(type(error).__name__, isinstance(error, dask_fits.FitsError), error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("MissingDriverError True ")
    assert "pip install 'dask_fits[xarray]'" in done.stdout
    assert not done.stderr


def test_names_go_through_netcdf(tmp_path: Path) -> None:
    found = opened(tmp_path, {}, (4, 5)).to_dataset()
    buffer = io.BytesIO()
    found.to_netcdf(buffer, engine="h5netcdf")
    with xr.open_dataset(io.BytesIO(buffer.getvalue()), engine="h5netcdf") as again:
        assert again.SCI.dims == ("y", "x")
        assert again.isel(x=slice(2, None)).fits.wcs.naxis == 2
