"""Stacks as Datasets of xarray and as zarr groups, and the light curve of a night."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.time import Time
from astropy.wcs import WCS
from distributed import Client

import dask_fits
from dask_fits import FitsError, Stack
from dask_fits.exceptions import FitsFileNotFoundError, StorageError
from dask_fits.stacks import zarr_writer
from dask_fits.stacks.reader import MAX_FRAMES
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.collections import several
from tests.support.data import ROOT
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.full_store import FullFileSystem
from tests.support.patience import until
from tests.support.recording import RecordingFileSystem
from tests.support.recording import put as put_recorded
from tests.support.stacks import frame, put_frames, stacked
from tests.support.xarray_files import axis, sky

SHAPE = (12, 16)
CUBE = np.random.default_rng(73).integers(-999, 999, (7, *SHAPE)).astype("i2")
DATES = [f"2024-03-{day:02}T0{day}:30:00.{day:06}" for day in range(1, 8)]


def on_the_sky(number: int = 0, ra: float = 150.0, **keywords: Any) -> bytes:
    """A file with a WCS and a time of its own."""
    header = sky(ra)
    header["DATE-OBS"] = DATES[number]
    header["EXPTIME"] = 30.0 + number
    header["FILTER"] = "gri"[number % 3]
    header["SEQ"] = number
    header["SHUTTER"] = number % 2 == 0
    header.update(keywords)
    return fits_bytes(fits.PrimaryHDU(CUBE[number], header))


KEYWORDS = ["EXPTIME", "FILTER", "SEQ", "SHUTTER", "OBJECT"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return put_frames(tmp_path, {f"{number}.fits": on_the_sky(number) for number in range(7)})


def same_dates(found: Any, dates: list[str]) -> None:
    expected = Time(dates, scale="utc").datetime64
    found = np.asarray(found)
    assert found.dtype.kind == "M"
    assert (abs(found - expected) <= np.timedelta64(1, "us")).all()


# Datasets


def test_a_dataset_has_the_pixels_times_files_and_keywords(files: list[str]) -> None:
    stack = dask_fits.stack(files, keywords=KEYWORDS)
    ds = stack.to_xarray()
    assert list(ds.data_vars) == ["data"]
    assert ds["data"].dims == ("time", "y", "x")
    assert ds["data"].data.name == stack.data.name
    assert same_bits(ds["data"].to_numpy(), CUBE)
    same_dates(ds["time"], DATES)
    assert ds["file"].to_numpy().tolist() == files
    assert ds["file"].dims == ("time",)
    expected = {
        "EXPTIME": np.arange(7) + 30.0,
        "FILTER": np.array(["g", "r", "i"] * 2 + ["g"], object),
        "SEQ": np.arange(7),
        "SHUTTER": np.arange(7) % 2 == 0,
        "OBJECT": np.array([""] * 7, object),
    }
    for name, values in expected.items():
        assert ds[name].dims == ("time",)
        assert ds[name].dtype == values.dtype
        assert ds[name].to_numpy().tolist() == values.tolist()
    assert ds.sel(time="2024-03-03")["SEQ"].to_numpy().tolist() == [2]
    chosen = ds.where(ds["FILTER"] == "g", drop=True)["data"]
    assert np.array_equal(chosen.to_numpy(), CUBE[::3])
    means = ds["data"].groupby("FILTER").mean(("time", "y", "x"))
    np.testing.assert_allclose(means.sel(FILTER="r"), CUBE[1::3].mean())


@pytest.mark.parametrize("without", ["a date", "a file"])
def test_if_a_time_is_missing_the_dimension_is_that_of_files(
    without: str, files: list[str], tmp_path: Path
) -> None:
    if without == "a date":
        files += put_frames(tmp_path, {"7.fits": frame(CUBE[0], SEQ=7)})
    else:
        files.append(str(tmp_path / "missing.fits"))
    stack = dask_fits.stack(files, keywords=["SEQ"], on_error="nan", dtype="f4")
    stack.to_zarr(tmp_path / "out.zarr")
    ds = stack.to_xarray()
    for found in (ds, opened(tmp_path / "out.zarr")):
        assert found["data"].dims[0] == "file"
        assert found["time"].dims == ("file",)
        same_dates(found["time"][:7], DATES)
        assert np.isnat(found["time"].to_numpy()[7])
    assert ds["file"].to_numpy().tolist() == files
    assert same_bits(ds["data"].sel(file=files[3]).to_numpy(), CUBE[3].astype("f4"))
    values = ds["SEQ"].to_numpy().tolist()
    if without == "a date":
        assert values == [*range(8)]
    else:
        assert ds["SEQ"].dtype == np.float64
        assert values[:7] == [*range(7)]
        assert np.isnan(values[7])
        assert np.isnan(ds["data"][7]).all()


def test_without_any_time_there_is_no_coordinate_of_it(tmp_path: Path) -> None:
    stack = dask_fits.stack(put_frames(tmp_path, {name: frame(CUBE[0]) for name in "ab"}))
    stack.to_zarr(tmp_path / "out.zarr")
    for ds in (stack.to_xarray(), opened(tmp_path / "out.zarr")):
        assert ds["data"].dims == ("file", "y", "x")
        assert "time" not in ds.variables


def test_times_are_in_utc_whatever_scale_the_headers_have(tmp_path: Path) -> None:
    scales = {"UTC": "utc", "TAI": "tai", "TT": "tt"}
    contents = {name: on_the_sky(2, TIMESYS=name) for name in scales}
    ds = dask_fits.stack(put_frames(tmp_path, contents)).to_xarray()
    expected = [Time(DATES[2], scale=scale).utc.datetime64 for scale in scales.values()]
    difference = abs(ds["time"].to_numpy() - np.array(expected))
    assert (difference <= np.timedelta64(2, "us")).all()


def test_frames_of_one_time_may_be_several(tmp_path: Path) -> None:
    contents = {name: on_the_sky(1) for name in "ab"}
    ds = dask_fits.stack(put_frames(tmp_path, contents)).to_xarray()
    assert ds.sizes["time"] == 2
    assert same_bits(ds.isel(time=1)["data"].to_numpy(), CUBE[1])


def test_a_dataset_reads_nothing_until_it_is_computed() -> None:
    urls = [put_recorded(f"{number}.fits", on_the_sky(number)) for number in range(7)]
    stack = dask_fits.stack(urls, keywords=KEYWORDS)
    RecordingFileSystem.log.clear()
    ds = stack.to_xarray()
    part = ds.isel(time=slice(2, 5), y=slice(3, 5))
    repr(ds), ds._repr_html_(), part.fits.wcs
    assert RecordingFileSystem.log == []
    assert same_bits(part["data"].to_numpy(), CUBE[2:5, 3:5])
    assert [stop - start for start, stop in RecordingFileSystem.ranges()] == [2 * 16 * 2] * 3


def check_wcs(ds: xr.Dataset, header: fits.Header, pixels: tuple[Any, Any]) -> None:
    """The WCS of what is left of an image gives the coordinates that astropy gives.

    `pixels`: x and y, in the image, of what is left.
    """
    own = np.meshgrid(*(np.arange(len(axis)) for axis in pixels))
    found = ds.fits.wcs.celestial.pixel_to_world(*own)
    expected = WCS(header).celestial.pixel_to_world(*np.meshgrid(*pixels))
    assert found.separation(expected).max() < 1e-9 * u.deg
    np.testing.assert_allclose(ds["ra"].to_numpy(), expected.ra.deg, rtol=0, atol=1e-9)
    np.testing.assert_allclose(ds["dec"].to_numpy(), expected.dec.deg, rtol=0, atol=1e-9)


def test_a_wcs_that_all_frames_share_is_that_of_the_dataset(files: list[str]) -> None:
    """Though their dates, and what follows of them, differ."""
    ds = dask_fits.stack(files).to_xarray()
    header = fits.getheader(files[0])
    check_wcs(ds, header, (np.arange(16), np.arange(12)))
    check_wcs(ds.isel(time=3), header, (np.arange(16), np.arange(12)))
    part = ds.isel(x=slice(3, 12, 2), y=slice(2, None), time=slice(1, 4))
    check_wcs(part, header, (np.arange(3, 12, 2), np.arange(2, 12)))
    check_wcs(part.isel(x=slice(1, 3), time=0), header, (np.array([5, 7]), np.arange(2, 12)))
    assert part["data"].fits.wcs.array_shape == part.fits.wcs.array_shape


def test_cutouts_of_all_frames_at_once_are_astropys(files: list[str]) -> None:
    ds = dask_fits.stack(files).to_xarray()
    header = fits.getheader(files[0])
    centre = SkyCoord(150.0004, 2.0003, unit="deg")
    cut = ds.fits.cutout(centre, (5 * u.arcsec, 7 * u.arcsec))
    for number in (0, 4):
        expected = Cutout2D(
            CUBE[number], centre, (5 * u.arcsec, 7 * u.arcsec), WCS(header), mode="trim"
        )
        assert same_bits(cut["data"][number].to_numpy(), expected.data)
    assert cut.fits.wcs.wcs.compare(expected.wcs.wcs, tolerance=1e-9)
    pixel = ds.fits.sel_sky(centre)
    x, y = (round(float(value)) for value in WCS(header).world_to_pixel(centre))
    assert same_bits(pixel["data"].to_numpy(), CUBE[:, y, x])


@pytest.mark.parametrize(
    ("change", "is_shared"),
    [
        ({"MJD-OBS": 60001.5, "DATE-OBS": "2024-01-01", "DATE": "2024-01-05"}, True),
        ({"MJD-AVG": 60001.5, "OBSGEO-X": 17.0}, True),
        ({"OBJECT": "M 42", "EXPTIME": 1.0}, True),
        ({"CRVAL1": 150.001}, False),
        ({"CRPIX2": 6.5}, False),
        ({"CDELT1": -2 / 3600}, False),
        ({"PC1_2": 0.1}, False),
        ({"RADESYS": "FK5", "EQUINOX": 2000.0}, False),
        ({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, False),
        ({"LONPOLE": 170.0}, False),
        (
            {
                "CTYPE1": "RA---TAN-SIP",
                "CTYPE2": "DEC--TAN-SIP",
                "A_ORDER": 2,
                "A_2_0": 1e-4,
                "B_ORDER": 2,
            },
            False,
        ),
    ],
    ids=str,
)
def test_a_wcs_is_shared_if_pixels_are_where_they_are(
    change: dict[str, Any], is_shared: bool, tmp_path: Path
) -> None:
    contents = {"0.fits": on_the_sky(0), "1.fits": on_the_sky(1, **change)}
    for order in (1, -1):
        paths = put_frames(tmp_path, contents)[::order]
        ds = dask_fits.stack(paths).to_xarray()
        assert ("ra" in ds.coords) == is_shared
        if is_shared:
            check_wcs(ds, sky(), (np.arange(16), np.arange(12)))
        else:
            with pytest.raises(ValueError, match="wcs"):
                ds.fits.wcs  # noqa: B018
        assert same_bits(ds["data"].to_numpy(), CUBE[:2][::order])


def test_frames_without_a_wcs_beside_one_with_it_share_none(tmp_path: Path) -> None:
    paths = put_frames(tmp_path, {"0": on_the_sky(0), "1": frame(CUBE[1])})
    assert "ra" not in dask_fits.stack(paths).to_xarray().coords
    ds = dask_fits.stack(
        put_frames(tmp_path, {"2": frame(CUBE[1]), "3": frame(CUBE[2])})
    ).to_xarray()
    assert ds["data"].dims == ("file", "y", "x")
    assert "ra" not in ds.coords


def test_a_frame_that_cannot_be_read_does_not_change_the_shared_wcs(
    files: list[str], tmp_path: Path
) -> None:
    ds = dask_fits.stack(
        [str(tmp_path / "no.fits"), *files], on_error="nan", dtype="f8"
    ).to_xarray()
    check_wcs(ds, sky(), (np.arange(16), np.arange(12)))


def test_a_cube_has_its_own_coordinates(tmp_path: Path) -> None:
    cube = np.arange(4 * 12 * 16, dtype="f4").reshape(4, *SHAPE)
    header = sky()
    header["WCSAXES"] = 3
    header.update(axis(3, "FREQ", 1.4e9, 1e6, "Hz"))
    contents = [frame(cube + n, **header, DATE_OBS=DATES[n]) for n in range(2)]
    ds = dask_fits.stack(put_frames(tmp_path, dict(zip("ab", contents, strict=True)))).to_xarray()
    assert ds["data"].dims == ("time", "freq", "y", "x")
    np.testing.assert_allclose(ds["freq"], 1.4e9 + (np.arange(1, 5) - 3.0) * 1e6)
    check_wcs(ds, header, (np.arange(16), np.arange(12)))
    part = ds.sel(freq=1.399e9, method="nearest")
    assert same_bits(part["data"].to_numpy(), stacked(contents)[:, 1])


def time_cube(number: int, **keywords: Any) -> bytes:
    """A cube with an axis of time."""
    header = fits.Header({"WCSAXES": 3, **axis(1, "RA---TAN", 150.0), **axis(2, "DEC--TAN", 2.0)})
    header.update({**axis(3, "UTC", 10.0, 5.0, "s", 1.0), "MJDREF": 60000.0, **keywords})
    cube = np.arange(3 * 4 * 5, dtype="i4").reshape(3, 4, 5) + number
    return frame(cube, **header, DATE_OBS=DATES[number])


def test_a_cube_whose_own_axis_is_time(tmp_path: Path) -> None:
    contents = [time_cube(number) for number in range(2)]
    files = put_frames(tmp_path, {f"{n}.fits": content for n, content in enumerate(contents)})
    stack = dask_fits.stack(files)
    ds = stack.to_xarray()
    assert ds["data"].dims == ("file", "time", "y", "x")
    assert ds["file"].to_numpy().tolist() == files
    same_dates(ds["frame_time"], DATES[:2])
    assert ds["frame_time"].dims == ("file",)
    assert ds.sizes == {"file": 2, "time": 3, "y": 4, "x": 5}
    assert same_bits(ds["data"].to_numpy(), stacked(contents))
    stack.to_zarr(tmp_path / "out.zarr")
    back = opened(tmp_path / "out.zarr")
    assert back["data"].dims == ds["data"].dims
    same_dates(back["frame_time"], DATES[:2])


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_axes_of_time_that_count_from_other_dates_are_not_shared(tmp_path: Path) -> None:
    """The same numbers since another MJDREF are other times."""
    contents = {str(number): time_cube(0, MJDREF=60000.0 + number) for number in range(2)}
    paths = put_frames(tmp_path, contents)
    times = [WCS(fits.getheader(path)).pixel_to_world(0, 0, 0)[-1].mjd for path in paths]
    assert times[1] - times[0] == 1
    for path, time in zip(paths, times, strict=True):
        found = dask_fits.stack([path, path]).to_xarray().fits.wcs
        assert found.pixel_to_world(0, 0, 0)[-1].mjd == time
    ds = dask_fits.stack(paths).to_xarray()
    with pytest.raises(ValueError, match="wcs"):
        ds.isel(file=1).fits.wcs  # noqa: B018


def test_keywords_may_be_called_as_dimensions_and_variables(tmp_path: Path) -> None:
    names = ["X", "TIME", "FILE", "DATA", "STATUS", "RA", "DEC"]
    contents = {
        f"{n}.fits": on_the_sky(n, **{name: f"{name.lower()} {n}" for name in names})
        for n in range(3)
    }
    files = put_frames(tmp_path, contents)
    stack = dask_fits.stack(files, keywords=["x", *names[1:]])
    ds = stack.to_xarray()
    stack.to_zarr(tmp_path / "out.zarr")
    for found in (ds, opened(tmp_path / "out.zarr")):
        for name in names:
            assert found[name].to_numpy().tolist() == [f"{name.lower()} {n}" for n in range(3)]
        assert found["file"].to_numpy().tolist() == files
        assert same_bits(found["data"].to_numpy(), CUBE[:3])
        same_dates(found["time"], DATES[:3])
    check_wcs(ds, sky(), (np.arange(16), np.arange(12)))


@pytest.mark.parametrize("values", [[1, None, 3], [True, None, False], ["a", None, "c"]], ids=str)
def test_missing_values_of_keywords_are_missing(values: list[Any], tmp_path: Path) -> None:
    keywords = [{} if value is None else {"KEY": value} for value in values]
    contents = {f"{n}": on_the_sky(n, **own) for n, own in enumerate(keywords)}
    stack = dask_fits.stack(put_frames(tmp_path, contents), keywords=["KEY"])
    stack.to_zarr(tmp_path / "out.zarr")
    for ds in (stack.to_xarray(), opened(tmp_path / "out.zarr")):
        found = ds["KEY"].to_numpy().tolist()
        if isinstance(values[0], str):
            assert found == ["a", "", "c"]
        else:
            assert [found[0], found[2]] == [values[0], values[2]]
            assert np.isnan(found[1])


def test_the_unit_is_that_of_all_frames_or_of_none(tmp_path: Path) -> None:
    contents = {"a": frame(CUBE[0], BUNIT="adu"), "b": frame(CUBE[1], BUNIT="adu")}
    contents["c"] = frame(CUBE[2], BUNIT="Jy")
    paths = put_frames(tmp_path, contents)
    attrs = [
        dask_fits.stack(part, keywords=["BUNIT"]).to_xarray()["data"].attrs
        for part in (paths[:2], paths)
    ]
    assert attrs[0]["units"] == "adu"
    assert "units" not in attrs[1]


def test_a_dataset_is_made_of_a_collection_and_of_parts_of_one(
    files: list[str], tmp_path: Path
) -> None:
    collection = dask_fits.open_collection(files, keywords=KEYWORDS)
    collection.to_parquet(tmp_path / "c.parquet")
    for given in (collection, dask_fits.open_collection(tmp_path / "c.parquet")):
        for rows in (slice(None), slice(4, 1, -1)):
            ds = dask_fits.stack(given[rows]).to_xarray()
            assert same_bits(ds["data"].to_numpy(), CUBE[rows])
            assert ds["SEQ"].to_numpy().tolist() == [*range(7)][rows]
            assert ds["file"].to_numpy().tolist() == files[rows]
            same_dates(ds["time"], DATES[rows])
            check_wcs(ds, sky(), (np.arange(16), np.arange(12)))


# zarr groups


def group_of(path: Any, **options: Any) -> Any:
    return zarr.open_group(path, mode="r", **options)


def opened(path: Any, **options: Any) -> xr.Dataset:
    return xr.open_zarr(path, consolidated=False, **options)


def check_group(group: Any, pixels: np.ndarray, failed: tuple[int, ...] = ()) -> None:
    """A group that is complete."""
    assert "incomplete" not in group.attrs
    assert same_bits(group["data"][:], pixels)
    status = [int(number in failed) for number in range(len(pixels))]
    assert group["status"][:].tolist() == status
    assert group["status"].attrs["flag_meanings"].split() == ["ok", "failed"]
    assert group["status"].attrs["flag_values"] == [0, 1]
    assert sorted(group["status"].attrs["errors"]) == sorted(map(str, failed))


def test_a_group_is_read_by_zarr_and_by_xarray(files: list[str], tmp_path: Path) -> None:
    stack = dask_fits.stack(files, keywords=KEYWORDS)
    written = stack.to_zarr(tmp_path / "out.zarr")
    assert isinstance(written, Stack)
    assert written.status.tolist() == ["ok"] * 7
    assert written.error.tolist() == [None] * 7
    check_group(group_of(tmp_path / "out.zarr"), CUBE)
    ds, expected = opened(tmp_path / "out.zarr"), stack.to_xarray()
    assert ds["data"].dims == expected["data"].dims
    assert same_bits(ds["data"].to_numpy(), CUBE)
    same_dates(ds["time"], DATES)
    for name in ("file", *KEYWORDS):
        assert name in ds.coords
        assert ds[name].dims == ("time",)
        assert ds[name].to_numpy().tolist() == expected[name].to_numpy().tolist()
    assert set(ds.data_vars) == {"data", "status"}


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8", "u2"])
def test_a_group_has_the_type_and_the_values_of_the_stack(dtype: str, tmp_path: Path) -> None:
    cube = np.random.default_rng(3).integers(0, 200, (3, 4, 5)).astype(dtype)
    if dtype == "f4":
        cube[1, 2, 3:] = np.nan, np.inf
    paths = put_frames(tmp_path, {str(n): frame(pixels) for n, pixels in enumerate(cube)})
    dask_fits.stack(paths).to_zarr(tmp_path / "out.zarr")
    check_group(group_of(tmp_path / "out.zarr"), cube)
    assert same_bits(opened(tmp_path / "out.zarr")["data"].to_numpy(), cube)


@pytest.mark.parametrize(
    ("dtype", "arguments", "fill"),
    [
        ("i2", {}, 0),
        ("f4", {}, np.nan),
        ("i2", {"on_error": "drop"}, 0),
        ("f4", {"on_error": "nan"}, np.nan),
        ("f4", {"on_error": "nan", "fill_value": -1}, -1),
        ("i2", {"on_error": "nan", "fill_value": -999}, -999),
    ],
    ids=str,
)
def test_a_file_that_fails_meanwhile_is_noted_and_the_others_are_written(
    dtype: str, arguments: dict[str, Any], fill: Any, tmp_path: Path
) -> None:
    contents = {f"{n}.fits": frame(pixels.astype(dtype)) for n, pixels in enumerate(CUBE)}
    paths = put_frames(tmp_path, contents)
    stack = dask_fits.stack(paths, **arguments)
    Path(paths[3]).unlink()
    Path(paths[5]).write_bytes(contents["5.fits"][:3000])
    written = stack.to_zarr(tmp_path / "out.zarr")
    expected = CUBE.astype(dtype)
    expected[[3, 5]] = fill
    group = group_of(tmp_path / "out.zarr")
    check_group(group, expected, (3, 5))
    assert [
        name in group["status"].attrs["errors"][key]
        for key, name in (("3", "3.fits"), ("5", "5.fits"))
    ] == [True] * 2
    assert written.status.tolist() == ["ok", "ok", "ok", "failed", "ok", "failed", "ok"]
    assert isinstance(written.error[3], FitsFileNotFoundError)
    assert isinstance(written.error[5], FitsError)
    assert stack.status.tolist() == ["ok"] * 7, "the stack of before is as it was"
    assert written.data.name == stack.data.name


def test_frames_that_were_bad_before_are_noted_as_well(files: list[str], tmp_path: Path) -> None:
    files.insert(2, str(tmp_path / "missing.fits"))
    stack = dask_fits.stack(files, on_error="nan", fill_value=-5)
    written = stack.to_zarr(tmp_path / "out.zarr")
    expected = np.insert(CUBE, 2, -5, axis=0)
    check_group(group_of(tmp_path / "out.zarr"), expected, (2,))
    assert written.status[2] == "failed"
    assert str(written.error[2]) == str(stack.error[2])
    assert type(written.error[2]) is FitsFileNotFoundError


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of two frames, and tasks of two chunks."""
    monkeypatch.setattr(zarr_writer, "_CHUNK_BYTES", 2 * CUBE[0].nbytes)
    monkeypatch.setattr(zarr_writer, "_TASK_BYTES", 5 * CUBE[0].nbytes)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_many_tasks_write_what_one_would(scheduler: str, files: list[str], tmp_path: Path) -> None:
    stack = dask_fits.stack(files, on_error="nan", dtype="f4")
    Path(files[4]).unlink()
    with dask.config.set(scheduler=scheduler):
        written = stack.to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    expected = CUBE.astype("f4")
    expected[4] = np.nan
    check_group(group, expected, (4,))
    assert group["data"].chunks == (1, 12, 16)
    assert written.status.tolist() == ["ok"] * 4 + ["failed"] + ["ok"] * 2


@pytest.mark.usefixtures("small_chunks")
def test_tasks_end_where_chunks_do(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks that write one chunk could each undo what the other has written."""
    starts = []

    def write(group: Any, reader: Any, start: int) -> Any:
        starts.append(start)
        return write_frames(group, reader, start)

    write_frames = zarr_writer.write_frames
    monkeypatch.setattr(zarr_writer, "write_frames", write)
    dask_fits.stack([*files, *files]).to_zarr(tmp_path / "out.zarr")
    assert sorted(starts) == [0, 4, 8, 12]
    group = group_of(tmp_path / "out.zarr")
    assert group["data"].chunks == (2, 12, 16)
    check_group(group, np.concatenate([CUBE, CUBE]))


def test_frames_that_are_large_are_cut_into_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_writer, "_CHUNK_BYTES", 3000)
    monkeypatch.setattr(zarr_writer, "_TASK_BYTES", 9000)
    cube = np.random.default_rng(4).integers(-99, 99, (3, 50, 60)).astype("i2")
    paths = put_frames(tmp_path, {str(n): frame(pixels) for n, pixels in enumerate(cube)})
    dask_fits.stack(paths).to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    chunks = group["data"].chunks
    assert chunks[0] == 1
    assert chunks[1] < 50
    assert np.prod(chunks) * 2 <= 3000
    check_group(group, cube)


def test_a_task_has_no_more_frames_than_a_chunk_of_a_stack(tmp_path: Path) -> None:
    """However small they are: to open the files takes the time, which workers are to share."""
    paths = put_frames(tmp_path, {"0": frame(CUBE[0, :2, :3]), "1": frame(CUBE[1, :2, :3])})
    collection = dask_fits.open_collection(paths)[[0, 1] * 510]
    dask_fits.stack(collection).to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    check_group(group, np.concatenate([CUBE[:2, :2, :3]] * 510))
    assert group["data"].chunks[0] <= MAX_FRAMES


def test_a_group_that_is_there_is_replaced_only_if_that_is_asked_for(
    files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    dask_fits.stack(files).to_zarr(out)
    other = dask_fits.stack(files[:2], keywords=["SEQ"])
    with pytest.raises(FileExistsError, match=r"out\.zarr"):
        other.to_zarr(out)
    check_group(group_of(out), CUBE)
    other.to_zarr(out, overwrite=True)
    check_group(group_of(out), CUBE[:2])
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="full"):
            other.to_zarr(full, overwrite=overwrite)
    assert (full / "notes.txt").read_text() == "mine"
    with pytest.raises(FileExistsError, match=r"0\.fits"):
        other.to_zarr(files[0], overwrite=True)
    assert Path(files[0]).read_bytes() == on_the_sky(0)


class FailingFileSystem(FullFileSystem):
    """``failing://`` URLs."""

    protocol = "failing"
    chunks = "/data/c/"


fsspec.register_implementation("failing", FailingFileSystem, clobber=True)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_an_error_of_the_store_leaves_the_group_incomplete(
    scheduler: str, files: list[str], tmp_path: Path
) -> None:
    stack = dask_fits.stack(files, on_error="nan", fill_value=0)
    url = f"failing://{tmp_path.name}/out.zarr"
    FailingFileSystem.left = 3
    with dask.config.set(scheduler=scheduler):
        with pytest.raises(StorageError, match=r"out\.zarr.*No space"):
            stack.to_zarr(url)
        assert group_of(url).attrs["incomplete"] is True
        FailingFileSystem.left = 100
        with pytest.raises(FileExistsError):
            stack.to_zarr(url)
        stack.to_zarr(url, overwrite=True)
    check_group(group_of(url), CUBE)


def test_a_store_that_cannot_be_made_is_an_error(files: list[str], tmp_path: Path) -> None:
    stack = dask_fits.stack(files)
    with pytest.raises((StorageError, OSError), match="sub"):
        stack.to_zarr(f"{files[0]}/sub/out.zarr")


def test_a_group_in_memory(files: list[str], tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/out.zarr"
    dask_fits.stack(files).to_zarr(url, storage_options={"asynchronous": True})
    check_group(group_of(url), CUBE)


@pytest.mark.slow
def test_a_group_in_an_object_store_and_its_password_nowhere(
    files: list[str], s3_server: S3Server, tmp_path: Path
) -> None:
    url = "s3://private-images/stacks/out.zarr"
    options = s3_server.storage_options
    stack = dask_fits.stack(files, keywords=KEYWORDS)
    written = stack.to_zarr(url, storage_options=options)
    check_group(group_of(url, storage_options=options), CUBE)
    ds = opened(url, storage_options=options)
    assert same_bits(ds["data"].to_numpy(), CUBE)
    assert s3_server.secret not in repr(written)
    with pytest.raises(FitsError) as caught:
        stack.to_zarr(f"{url}2", storage_options={**options, "secret": "SECRET-hunter2"})
    assert "SECRET-hunter2" not in str(caught.value)
    assert s3_server.key not in str(caught.value)


def test_a_parquet_collection_is_streamed(files: list[str], tmp_path: Path) -> None:
    dask_fits.open_collection(files, keywords=["SEQ"]).to_parquet(tmp_path / "c.parquet")
    stack = dask_fits.stack(tmp_path / "c.parquet", sort_by="t_min")
    stack.to_zarr(tmp_path / "out.zarr")
    check_group(group_of(tmp_path / "out.zarr"), CUBE)
    assert group_of(tmp_path / "out.zarr")["SEQ"][:].tolist() == [*range(7)]


@pytest.mark.slow
@pytest.mark.usefixtures("small_chunks")
def test_processes_write_a_group(files: list[str], tmp_path: Path) -> None:
    stack = dask_fits.stack(files, on_error="nan", fill_value=-1)
    Path(files[6]).unlink()
    with dask.config.set(scheduler="processes", num_workers=2):
        written = stack.to_zarr(tmp_path / "out.zarr")
    expected = CUBE.copy()
    expected[6] = -1
    check_group(group_of(tmp_path / "out.zarr"), expected, (6,))
    assert isinstance(written.error[6], FitsFileNotFoundError)


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.usefixtures("small_chunks")
def test_workers_write_a_group_though_one_of_them_dies(client: Client, tmp_path: Path) -> None:
    contents = {f"{n}.fits": on_the_sky(n % 7) for n in range(28)}
    put_frames(tmp_path, contents)
    with RangeServer(tmp_path) as server, client.as_current():
        stack = dask_fits.stack([f"{server.url}/{name}" for name in contents], dtype="f4")
        (tmp_path / "9.fits").unlink()
        with killing(client, server):
            written = stack.to_zarr(tmp_path / "out.zarr")
    expected = np.concatenate([CUBE] * 4).astype("f4")
    expected[9] = np.nan
    check_group(group_of(tmp_path / "out.zarr"), expected, (9,))
    assert written.status.tolist().count("failed") == 1
    assert isinstance(written.error[9], FitsFileNotFoundError)


@contextmanager
def killing(client: Client, server: RangeServer) -> Iterator[None]:
    """Kill a worker once both of them read."""
    victim = next(iter(client.run(os.getpid).values()))

    def kill() -> None:
        with server.hold():
            held.set()
            until(lambda: server.waiting >= 2)
            os.kill(victim, signal.SIGKILL)

    held = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        assert held.wait(10)
        yield
        killed.result()


@pytest.mark.slow
@pytest.mark.untraced
def test_a_stack_that_is_larger_than_the_memory_it_takes(tmp_path: Path) -> None:
    """400 MB pass through less than 250 MB."""
    program = """
import resource, sys
import numpy as np
from pathlib import Path
import dask_fits, zarr
from astropy.io import fits
from dask_fits.stacks import zarr_writer
from dask_fits.stacks.reader import MAX_FRAMES

directory = Path(sys.argv[1])
pixels = np.zeros((1000, 1000), 'f4')
pixels[::7, ::11] = 5
fits.PrimaryHDU(pixels).writeto(directory / 'a.fits')
small = dask_fits.stack([directory / 'a.fits'] * 2)
small.to_zarr(directory / 'small.zarr')
stack = dask_fits.stack([directory / 'a.fits'] * 100)
assert stack.data.nbytes == 400_000_000

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

before = peak()
stack.to_zarr(directory / 'out.zarr')
print(peak() - before)
out = zarr.open_group(directory / 'out.zarr', mode='r')['data']
assert (out[97] == pixels).all() and out.shape == (100, 1000, 1000)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 250


# The light curve of a night


NIGHT = 150
STAR = (10, 12)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray]:
    """Frames of a star that varies, three of which are missing and one of which is cut short."""
    directory = tmp_path_factory.mktemp("night")
    random = np.random.default_rng(74)
    y, x = np.mgrid[:24, :32]
    profile = np.exp(-((y - STAR[0]) ** 2 + (x - STAR[1]) ** 2) / 4)
    flux = 1000 * (1 + 0.3 * np.sin(np.arange(NIGHT) / 20))
    cube = flux[:, None, None] * profile + random.normal(100, 5, (NIGHT, 24, 32))
    cube = cube.round().astype("i2")
    contents = {}
    for number, pixels in enumerate(cube):
        content = frame(
            pixels, DATE_OBS=Time(60000 + number / 1440, format="mjd").isot, EXPTIME=30.0
        )
        contents[f"{number:03}.fits.gz"] = gzip.compress(content, 1, mtime=0)
    contents["099.fits.gz"] = contents["099.fits.gz"][:-400]
    paths = put_frames(directory, contents)
    for missing in (17, 60, 144):
        Path(paths[missing]).unlink()
    return paths, cube


BAD = (17, 60, 99, 144)


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_the_light_curve_of_a_night_whose_frames_are_not_all_there(
    night: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    paths, cube = night
    stack = dask_fits.stack(paths, on_error="nan", dtype="f4", keywords=["EXPTIME"])
    expected = cube.astype("f4")
    expected[list(BAD)] = np.nan
    box = np.s_[:, STAR[0] - 3 : STAR[0] + 4, STAR[1] - 3 : STAR[1] + 4]
    curve, sky_level = dask.compute(
        dask.array.nanmedian(stack.data[box], axis=(1, 2)),
        dask.array.nanmedian(stack.data, axis=0),
    )
    assert np.flatnonzero(np.isnan(curve)).tolist() == [*BAD]
    good = ~np.isnan(curve)
    np.testing.assert_array_equal(curve[good], np.median(expected[good][box], axis=(1, 2)))
    np.testing.assert_array_equal(sky_level, np.nanmedian(expected, axis=0))

    collection = stack.collection[::-1]
    ordered = dask_fits.stack(collection, on_error="drop", sort_by="t_min")
    assert {17, 60, 144} <= {paths.index(name) for name in ordered.dropped} <= {*BAD}
    ds = ordered.to_xarray()
    assert ds["data"].dims[0] == "time"
    assert (np.diff(ds["time"].to_numpy()) > np.timedelta64(0)).all()

    written = stack.to_zarr(tmp_path / "night.zarr")
    assert np.flatnonzero(written.status == "failed").tolist() == [*BAD]
    check_group(group_of(tmp_path / "night.zarr"), expected, BAD)


@pytest.mark.slow
def test_a_signed_address_is_in_no_group(files: list[str], tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        urls = [f"{server.url}/{n}.fits?X-Amz-Signature=SECRET-{n}" for n in range(8)]
        stack = dask_fits.stack(urls, on_error="nan", fill_value=0, keywords=KEYWORDS)
        stack.to_zarr(tmp_path / "out.zarr")
    written = b"".join(
        path.read_bytes() for path in (tmp_path / "out.zarr").rglob("*") if path.is_file()
    )
    assert b"SECRET" not in written
    named = group_of(tmp_path / "out.zarr")["file"][:].tolist()
    assert [name.partition("?")[0] for name in named] == [url.partition("?")[0] for url in urls]
    assert "SECRET" not in json.dumps(dict(group_of(tmp_path / "out.zarr")["status"].attrs))


@pytest.fixture(autouse=True)
def empty_memory() -> Iterator[None]:
    yield
    FailingFileSystem.store.clear()


def test_images_of_several_hdus_are_named_by_file_and_hdu(tmp_path: Path) -> None:
    content = several(fits.ImageHDU(CUBE[0]), fits.ImageHDU(CUBE[1]))
    (path,) = put_frames(tmp_path, {"a.fits": content})
    stack = dask_fits.stack(dask_fits.open_collection(path))
    stack.to_zarr(tmp_path / "out.zarr")
    names = [f"{path}[1]", f"{path}[2]"]
    assert stack.to_xarray()["file"].to_numpy().tolist() == names
    assert group_of(tmp_path / "out.zarr")["file"][:].tolist() == names
