"""Mosaics as FITS files: arrays, headers, and the table of images.

Arrays are compared with what computing them gives, positions with those of the grid that was asked
for, and all is read by astropy or fitsio.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dask
import fitsio
import fsspec
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from dask.delayed import Delayed
from distributed import Client

import dask_fits
from dask_fits import FitsError, Mosaic
from dask_fits.exceptions import StorageError
from dask_fits.mosaics import array as mosaic_array
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.fits_files import same_bits
from tests.support.mosaics import moved, star_image, tan_wcs, write_image
from tests.support.sound_files import check_sound
from tests.support.worlds import NX, NY, TABLES, oracle, written

pytestmark = pytest.mark.untraced

STEP = 1e-3
OUT = tan_wcs(150.0, 2.0, STEP, (70, 90), 8.0)
IMAGE = (50, 60)
GRIDS = [tan_wcs(150.02 - 0.02 * n, 2.0, STEP, IMAGE, 20.0 * n) for n in range(3)]
BROKEN = b"SIMPLE  =                    T"
EXTNAMES = {"data": "", "weight": "WEIGHT", "count": "COUNT", "error": "ERROR"}


def write_images(directory: Path, names: list[str], **keywords: Any) -> list[str]:
    """Three turned images."""
    rng = np.random.default_rng(2)
    return [
        write_image(directory / name, star_image(rng, IMAGE), wcs, **keywords)
        for name, wcs in zip(names, GRIDS, strict=True)
    ]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    return write_images(tmp_path / "in", [f"{n}.fits" for n in range(3)], BUNIT="nJy")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def computed(m: Mosaic) -> dict[str, np.ndarray]:
    """What its arrays hold."""
    arrays = {"data": m.data, "weight": m.weight, "count": m.count}
    if m._job.recipe.has_errors:
        arrays["error"] = m.error
    return dict(zip(arrays, dask.compute(*arrays.values(), scheduler="sync"), strict=True))


def native(values: Any) -> np.ndarray:
    return np.asarray(values).astype(values.dtype.newbyteorder("="))


def check_arrays(path: Path, m: Mosaic, names: list[str]) -> None:
    """A file of the arrays of a mosaic, with its grid, and the table behind them."""
    expected = computed(m)
    assert check_sound(path) == ["PRIMARY", *names[1:], "INPUTS"]
    assert [EXTNAMES[name] for name in expected] == names
    at = np.random.default_rng(1).uniform(0, 60, (50, 2))
    with fits.open(path) as file:
        for hdu, (name, pixels) in zip(file, expected.items(), strict=False):
            assert same_bits(native(hdu.data), pixels), name
            found = WCS(hdu.header).all_pix2world(at, 0)
            np.testing.assert_array_equal(found, m.wcs.all_pix2world(at, 0))


def inputs_of(path: Path) -> Table:
    """The table of images; fitsio reads the same as astropy."""
    table = Table.read(path, hdu="INPUTS", mask_invalid=False)
    with fitsio.FITS(str(path)) as file:
        for name, column in zip(table.colnames, file["INPUTS"].read().dtype.names, strict=True):
            assert name.lower() == column.lower()
    return table


RECIPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "errors": {"error": [np.full(IMAGE, 2.0)] * 3, "dtype": "f8"},
    "filled": {"fill_value": -99.0, "resampling": "exact"},
    "median": {"combine": "median", "weights": [1.0, 2.0, 0.5]},
    "skip": {"on_error": "skip"},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_file_holds_what_computing_gives(
    recipe: str, scheduler: str, files: list[str], path: Path
) -> None:
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50), **RECIPES[recipe])
    with dask.config.set(scheduler=scheduler):
        done = m.to_fits(path)
    names = ["", "WEIGHT", "COUNT"] + (["ERROR"] if recipe == "errors" else [])
    check_arrays(path, m, names)
    at = np.random.default_rng(1).uniform(0, 60, (50, 2))
    found = WCS(fits.getheader(path)).wcs_pix2world(at, 0)
    np.testing.assert_array_equal(found, OUT.wcs_pix2world(at, 0))
    assert isinstance(done, Mosaic)
    assert done.data.name == m.data.name
    assert done.inputs["status"].tolist() == ["ok"] * 3


def test_headers_say_what_the_arrays_are(files: list[str], path: Path) -> None:
    m = dask_fits.mosaic(files, OUT, error=[np.ones(IMAGE)] * 3)
    m.to_fits(path)
    units = {"PRIMARY": "nJy", "WEIGHT": None, "COUNT": None, "ERROR": "nJy"}
    with fits.open(path) as file:
        for name, unit in units.items():
            assert file[name].header.get("BUNIT") == unit
            assert file[name].header["NCOMBINE"] == 3
    again = dask_fits.open(path)
    assert [hdu.name for hdu in again] == [*units, "INPUTS"]


def test_the_table_has_a_row_for_each_image(files: list[str], path: Path, tmp_path: Path) -> None:
    far = write_image(tmp_path / "far.fits", np.ones(IMAGE, "f4"), tan_wcs(155, 2, STEP, IMAGE))
    m = dask_fits.mosaic([*files, far], OUT, weights=[1.0, 2.0, 3.0, 4.0], chunks=40)
    m.to_fits(path)
    table = inputs_of(path)
    assert table.colnames == m.inputs.colnames
    assert table["file"].tolist() == [*files, far]
    assert table["hdu"].tolist() == [0] * 4
    assert table["weight"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert table["status"].tolist() == ["ok"] * 4
    assert table["pasted"].dtype == bool
    for name in ("y_begin", "y_end", "x_begin", "x_end", "background"):
        assert table[name].tolist() == m.inputs[name].tolist()
    # Each has the box of the grid in which its centre is.
    for row, wcs in zip(table[:3], GRIDS, strict=True):
        x, y = OUT.world_to_pixel(wcs.pixel_to_world(29.5, 24.5))
        assert row["y_begin"] <= y < row["y_end"]
        assert row["x_begin"] <= x < row["x_end"]
    assert table["y_begin"][3] >= table["y_end"][3]


def test_names_beyond_ascii_are_written_as_escapes(tmp_path: Path, path: Path) -> None:
    names = ["bänder.fits", "m 13.fits", "λ.fits"]
    files = write_images(tmp_path, names)
    dask_fits.mosaic(files, OUT).to_fits(path)
    check_sound(path)
    found = inputs_of(path)["file"].tolist()
    assert [str(name).encode().decode("unicode_escape") for name in found] == files


# Images that fail


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_images_that_fail_meanwhile_are_noted(scheduler: str, files: list[str], path: Path) -> None:
    m = dask_fits.mosaic(files, OUT, on_error="skip", chunks=(40, 50))
    whole = dask_fits.mosaic([files[0], files[2]], OUT, chunks=(40, 50))
    Path(files[1]).unlink()
    with dask.config.set(scheduler=scheduler):
        done = m.to_fits(path)
    check_sound(path)
    assert same_bits(native(fits.getdata(path)), whole.data.compute(scheduler="sync"))
    table = inputs_of(path)
    for inputs in (table, done.inputs):
        assert inputs["status"].tolist() == ["ok", "failed", "ok"]
        assert inputs["error"][0] == ""
        assert "1.fits: no such file" in inputs["error"][1]
    assert m.inputs["status"].tolist() == ["ok"] * 3, "the mosaic of before is as it was"


def test_images_that_failed_before_are_noted_too(files: list[str], path: Path) -> None:
    Path(files[0]).write_bytes(BROKEN)
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    assert m.inputs["status"].tolist() == ["failed", "ok", "ok"]
    Path(files[2]).write_bytes(Path(files[2]).read_bytes()[:4000])
    done = m.to_fits(path)
    table = inputs_of(path)
    assert table["status"].tolist() == ["failed", "ok", "failed"]
    assert done.inputs["status"].tolist() == ["failed", "ok", "failed"]
    for name, error in zip(files, table["error"], strict=True):
        assert (Path(name).name in error) == (not name.endswith("1.fits"))


def test_long_errors_are_cut(tmp_path: Path, path: Path) -> None:
    directory = tmp_path / ("d" * 200) / ("e" * 200)
    directory.mkdir(parents=True)
    files = write_images(directory, ["0.fits", "1.fits", "2.fits"])
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    Path(files[1]).unlink()
    done = m.to_fits(path)
    check_sound(path)
    error = done.inputs["error"][1]
    assert len(error) > 300
    assert inputs_of(path)["error"].tolist() == ["", error[:240], ""]
    assert inputs_of(path)["file"].tolist() == files


def test_without_skip_an_image_that_fails_leaves_no_file(files: list[str], path: Path) -> None:
    m = dask_fits.mosaic(files, OUT)
    Path(files[1]).unlink()
    with pytest.raises(FitsError, match=r"1\.fits: no such file"):
        m.to_fits(path)
    assert [each.name for each in path.parent.iterdir()] == ["in"]


@pytest.mark.parametrize("recipe", ["errors", "skip"])
def test_each_box_is_made_once(
    recipe: str, files: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though several arrays, and the errors in the table, are made of it."""
    boxes = []
    render = mosaic_array.render

    def counted(job: Any, box: Any) -> Any:
        boxes.append(box)
        return render(job, box)

    monkeypatch.setattr(mosaic_array, "render", counted)
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50), **RECIPES[recipe])
    for compute in (True, False):
        boxes.clear()
        done = m.to_fits(path, compute=compute, overwrite=True)
        if isinstance(done, Delayed):
            done.compute()
        assert sorted(boxes) == [
            ((y, min(y + 40, 70)), (x, min(x + 50, 90))) for y in (0, 40) for x in (0, 50)
        ]


# Files


def test_a_file_that_exists_is_replaced_only_if_that_is_asked_for(
    files: list[str], path: Path
) -> None:
    path.write_text("mine")
    m = dask_fits.mosaic(files, OUT)
    with pytest.raises(FileExistsError, match=r"out\.fits"):
        m.to_fits(path)
    assert path.read_text() == "mine"
    m.to_fits(path, overwrite=True, checksum=False)
    check_sound(path, checksums=0)
    assert same_bits(native(fits.getdata(path)), computed(m)["data"])


def test_nothing_is_written_before_it_is_computed(files: list[str], path: Path) -> None:
    m = dask_fits.mosaic(files, OUT, on_error="skip")
    writing = m.to_fits(path, compute=False)
    assert isinstance(writing, Delayed)
    assert not path.exists()
    Path(files[0]).unlink()
    dask.compute(writing, scheduler="threads")
    check_sound(path)
    assert inputs_of(path)["status"].tolist() == ["failed", "ok", "ok"]


def test_integers_stay_integers(tmp_path: Path, path: Path) -> None:
    pixels = np.random.default_rng(3).integers(0, 2**16, (2, 30, 40)).astype("u2")
    grid = tan_wcs(150.0, 2.0, STEP, (30, 70))
    paths = [
        write_image(tmp_path / f"{n}.fits", own.copy(), moved(grid, 0, 30 * n, (30, 40)))
        for n, own in enumerate(pixels)
    ]
    dask_fits.mosaic(paths, grid, combine="last", fill_value=7).to_fits(path)
    check_sound(path)
    found = native(fits.getdata(path))
    assert same_bits(found[:, 30:], pixels[1])
    assert same_bits(found[:, :30], pixels[0, :, :30])


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_a_grid_with_tables_brings_them_along(tmp_path: Path, path: Path) -> None:
    content = written(*TABLES["all that HST has"]())
    (tmp_path / "in.fits").write_bytes(content)
    m = dask_fits.mosaic([tmp_path / "in.fits"], tmp_path / "in.fits")
    m.to_fits(path)
    at = np.random.default_rng(1).uniform(0, 60, (50, 2))
    expected = oracle(content).all_pix2world(at, 0)
    with fits.open(path) as file, fits.open(io.BytesIO(content)) as before:
        assert file[0].data.shape == (NY, NX)
        for hdu in list(file)[:3]:
            found = WCS(hdu.header, fobj=file).all_pix2world(at, 0)
            np.testing.assert_array_equal(found, expected)
        assert [hdu.name for hdu in file].count("WCSDVARR") == 2
        assert same_bits(native(file["D2IMARR", 2].data), native(before["D2IMARR", 2].data))
        assert file[-1].name == "INPUTS"


@pytest.mark.slow
def test_a_signed_address_is_in_no_file(files: list[str], tmp_path: Path, path: Path) -> None:
    with RangeServer(tmp_path / "in") as server:
        urls = [f"{server.url}/{n}.fits?X-Amz-Signature=SECRET-{n}" for n in range(4)]
        dask_fits.mosaic(urls, OUT, on_error="skip").to_fits(path)
    assert b"SECRET" not in path.read_bytes()
    table = inputs_of(path)
    assert table["file"].tolist() == [url.partition("?")[0] for url in urls]
    assert f"{urls[3].partition('?')[0]}?" in table["error"][3]


@pytest.mark.slow
def test_workers_write_a_mosaic(client: Client, files: list[str], path: Path) -> None:
    m = dask_fits.mosaic(files, OUT, on_error="skip", chunks=(40, 50))
    whole = dask_fits.mosaic([files[0], files[2]], OUT, chunks=(40, 50))
    Path(files[1]).unlink()
    with client.as_current():
        done = m.to_fits(path)
    check_sound(path)
    assert same_bits(native(fits.getdata(path)), whole.data.compute(scheduler="sync"))
    assert same_bits(native(fits.getdata(path, "COUNT")), whole.count.compute(scheduler="sync"))
    for inputs in (inputs_of(path), done.inputs):
        assert inputs["status"].tolist() == ["ok", "failed", "ok"]


@pytest.mark.slow
def test_a_file_in_an_object_store(files: list[str], s3_server: S3Server, path: Path) -> None:
    url = "s3://private-images/mosaics/out.fits"
    options = s3_server.storage_options
    m = dask_fits.mosaic(files, OUT)
    done = m.to_fits(url, storage_options=options)
    assert s3_server.secret not in repr(done)
    path.write_bytes(fsspec.filesystem("s3", **options).cat_file(url))
    check_arrays(path, m, ["", "WEIGHT", "COUNT"])
    with pytest.raises((FitsError, StorageError)) as caught:
        m.to_fits(f"{url}2", storage_options={**options, "secret": "SECRET-hunter2"})
    assert "SECRET-hunter2" not in str(caught.value)
