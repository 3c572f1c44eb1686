"""Stacks as FITS files: a cube with the table of its frames.

Pixels are NumPy's stack of astropy's arrays, and all is read by astropy or fitsio.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from astropy.wcs import WCS
from dask.delayed import Delayed
from distributed import Client

import dask_fits
from dask_fits import FitsError, Stack
from dask_fits.exceptions import FitsFileNotFoundError
from dask_fits.stacks import fits_writer
from tests.servers.range_server import RangeServer
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.sky_frames import CUBE, DATES, native, on_the_sky
from tests.support.sound_files import check_sound
from tests.support.stacks import put_frames
from tests.support.worlds import TABLES, written

pytestmark = pytest.mark.untraced

KEYWORDS = ["EXPTIME", "FILTER", "SEQ", "SHUTTER", "OBJECT"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    return put_frames(tmp_path / "in", {f"{n}.fits": on_the_sky(n) for n in range(7)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def frames_of(path: Path) -> Table:
    """The table of frames, whose columns fitsio reads as well."""
    table = Table.read(path, hdu="FRAMES", mask_invalid=False)
    with fitsio.FITS(str(path)) as file:
        assert [*file["FRAMES"].read().dtype.names] == table.colnames
    return table


def texts(column: Any) -> list[str]:
    return [str(value) for value in column]


# Cubes


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_cube_has_the_pixels_and_a_table(scheduler: str, files: list[str], path: Path) -> None:
    stack = dask_fits.stack(files, keywords=KEYWORDS)
    with dask.config.set(scheduler=scheduler):
        done = stack.to_fits(path)
    assert check_sound(path) == ["PRIMARY", "FRAMES"]
    assert same_bits(native(fits.getdata(path)), CUBE)
    header, first = fits.getheader(path), fits.getheader(files[0])
    for keyword in ("EXPTIME", "FILTER", "CTYPE1", "CRVAL1", "CDELT2"):
        assert header[keyword] == first[keyword]
    at = np.random.default_rng(1).uniform(0, 12, (20, 2))
    np.testing.assert_array_equal(
        WCS(header, naxis=2).wcs_pix2world(at, 0), WCS(first).wcs_pix2world(at, 0)
    )
    table = frames_of(path)
    assert texts(table["file"]) == files
    assert (abs(Time(table["mjd"], format="mjd") - Time(DATES)).to_value("us") < 1).all()
    assert table["EXPTIME"].tolist() == [30.0 + n for n in range(7)]
    assert texts(table["FILTER"]) == ["g", "r", "i", "g", "r", "i", "g"]
    assert table["SEQ"].tolist() == [*range(7)]
    assert table["SHUTTER"].tolist() == [n % 2 == 0 for n in range(7)]
    assert texts(table["OBJECT"]) == [""] * 7
    assert table["hdu"].tolist() == [0] * 7
    assert texts(table["status"]) == ["ok"] * 7
    assert isinstance(done, Stack)
    assert done.status.tolist() == ["ok"] * 7
    assert dask_fits.open(path)[0].shape == CUBE.shape


def test_frames_of_different_fields_have_no_wcs(tmp_path: Path, path: Path) -> None:
    contents = {f"{n}.fits": on_the_sky(n, ra=150.0 + n) for n in range(3)}
    dask_fits.stack(put_frames(tmp_path, contents)).to_fits(path)
    header = fits.getheader(path)
    assert same_bits(native(fits.getdata(path)), CUBE[:3])
    assert header["EXPTIME"] == 30.0
    assert not [keyword for keyword in header if keyword.startswith(("CRVAL", "CTYPE", "CDELT"))]


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_a_wcs_with_tables_is_not_that_of_all_frames(tmp_path: Path, path: Path) -> None:
    """Their files may have other tables of these names."""
    content = written(*TABLES["lookup"]())
    stack = dask_fits.stack(put_frames(tmp_path, {"0.fits": content, "1.fits": content}), hdu="SCI")
    stack.to_fits(path)
    assert check_sound(path) == ["SCI", "FRAMES"]
    header = fits.getheader(path)
    assert not {"CTYPE1", "CPDIS1", "DP1.EXTVER"} & {*header}
    assert fits.getdata(path).shape == (2, 80, 100)


@pytest.mark.parametrize("on_error", ["nan", "fill"])
@pytest.mark.parametrize("size", [1 << 26, 2 * CUBE[0].nbytes])
def test_frames_that_fail_meanwhile_are_filled_and_noted(
    on_error: str, size: int, files: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fits_writer, "_TASK_BYTES", size)
    options: dict[str, Any] = {"dtype": "f4"} if on_error == "nan" else {"fill_value": -5}
    stack = dask_fits.stack(files, on_error="nan", **options)
    Path(files[3]).unlink()
    Path(files[5]).write_bytes(on_the_sky(5)[:3000])
    done = stack.to_fits(path)
    assert check_sound(path) == ["PRIMARY", "FRAMES"]
    expected = CUBE.astype("f4") if on_error == "nan" else CUBE.copy()
    expected[[3, 5]] = np.nan if on_error == "nan" else -5
    assert np.array_equal(native(fits.getdata(path)), expected, equal_nan=True)
    table = frames_of(path)
    status = ["ok", "ok", "ok", "failed", "ok", "failed", "ok"]
    assert texts(table["status"]) == done.status.tolist() == status
    for n in range(7):
        assert (f"{n}.fits" in str(table["error"][n])) == (n in (3, 5))
        assert (str(table["error"][n]) or "None") == str(done.error[n])[:240]
    assert isinstance(done.error[3], FitsFileNotFoundError)
    assert stack.status.tolist() == ["ok"] * 7, "the stack of before is as it was"


def test_long_errors_and_names_beyond_ascii(tmp_path: Path, path: Path) -> None:
    directory = tmp_path / ("d" * 200) / ("e" * 200)
    directory.mkdir(parents=True)
    names = put_frames(directory, {"bänder.fits": on_the_sky(0), "λ.fits": on_the_sky(1)})
    stack = dask_fits.stack(names, on_error="nan", fill_value=0)
    Path(names[1]).unlink()
    done = stack.to_fits(path)
    check_sound(path)
    table = frames_of(path)
    found = texts(table["file"])
    assert [name.encode().decode("unicode_escape") for name in found] == names
    assert len(str(done.error[1])) > 300
    assert len(str(table["error"][1])) == 240
    assert str(done.error[1]).startswith(str(table["error"][1]))


def test_no_two_columns_have_one_name(tmp_path: Path, path: Path) -> None:
    """FITS Standard 4.0, section 7.3.2: whatever their case."""
    names = ["STATUS", "ERROR", "HDU", "FILE", "MJD", "TIME", "EXPTIME"]
    keywords = {name: float(n) for n, name in enumerate(names)}
    header = fits.Header({**keywords, "DATE-OBS": DATES[0]})
    content = fits_bytes(fits.PrimaryHDU(CUBE[0], header))
    (url,) = put_frames(tmp_path, {"0.fits": content})
    dask_fits.stack([url], keywords=names).to_fits(path)
    check_sound(path)
    table = frames_of(path)
    assert len({name.lower() for name in table.colnames}) == len(table.colnames)
    assert texts(table["status"]) == ["ok"]
    assert texts(table["file"]) == [url]
    for name, value in keywords.items():
        found = {*table.colnames} & {name, f"frame_{name}"}
        assert [table[column].tolist() for column in found] == [[value]]


def test_each_frame_is_read_once(
    files: list[str], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the pixels and the table are made of it."""
    starts = []
    read = fits_writer._read_frames

    def counted(reader: Any, start: int) -> Any:
        starts.append(start)
        return read(reader, start)

    monkeypatch.setattr(fits_writer, "_read_frames", counted)
    monkeypatch.setattr(fits_writer, "_TASK_BYTES", 2 * CUBE[0].nbytes)
    stack = dask_fits.stack(files, on_error="nan", fill_value=0)
    for compute in (True, False):
        starts.clear()
        done = stack.to_fits(path, compute=compute, overwrite=True)
        if isinstance(done, Delayed):
            done.compute()
        assert sorted(starts) == [0, 2, 4, 6]
        assert same_bits(native(fits.getdata(path)), CUBE)


def test_a_frame_that_fails_leaves_no_cube(files: list[str], path: Path) -> None:
    stack = dask_fits.stack(files)
    Path(files[3]).unlink()
    with pytest.raises(FitsError, match=r"3\.fits: no such file"):
        stack.to_fits(path)
    assert [each.name for each in path.parent.iterdir()] == ["in"]


@pytest.mark.parametrize("compute", [True, False])
def test_a_cube_of_other_pixels(compute: bool, files: list[str], path: Path) -> None:
    stack = dask_fits.stack(files)
    bias = np.float32(0.5)
    done = stack.to_fits(path, data=stack.data - bias, compute=compute)
    if not compute:
        assert isinstance(done, Delayed)
        assert not path.exists()
        done.compute()
    check_sound(path)
    assert same_bits(native(fits.getdata(path)), CUBE - bias)
    assert texts(frames_of(path)["file"]) == files


def test_a_file_that_exists_is_replaced_only_if_that_is_asked_for(
    files: list[str], path: Path
) -> None:
    path.write_text("mine")
    stack = dask_fits.stack(files)
    with pytest.raises(FileExistsError, match=r"out\.fits"):
        stack.to_fits(path)
    writing: Any = stack.to_fits(path, compute=False)
    with pytest.raises(FileExistsError, match=r"out\.fits"):
        writing.compute()
    assert path.read_text() == "mine"
    stack.to_fits(path, overwrite=True, checksum=False)
    assert check_sound(path, checksums=0) == ["PRIMARY", "FRAMES"]
    with pytest.raises(ValueError, match="data: expected 7 frames, found 6"):
        stack.to_fits(path, data=stack.data[1:], overwrite=True)


def test_a_collection_that_is_in_a_file(files: list[str], tmp_path: Path, path: Path) -> None:
    dask_fits.open_collection(files, keywords=["SEQ"]).to_parquet(tmp_path / "c.parquet")
    stack = dask_fits.stack(tmp_path / "c.parquet", sort_by="t_min")
    stack.to_fits(path)
    assert same_bits(native(fits.getdata(path)), CUBE)
    assert frames_of(path)["SEQ"].tolist() == [*range(7)]
    urls = [tmp_path / f"each{n}.fits" for n in range(7)]
    stack.to_fits(urls)
    for url, pixels in zip(urls, CUBE, strict=True):
        assert same_bits(native(fits.getdata(url)), pixels)


@pytest.mark.slow
def test_a_signed_address_is_in_no_file(files: list[str], tmp_path: Path, path: Path) -> None:
    with RangeServer(tmp_path / "in") as server:
        urls = [f"{server.url}/{n}.fits?X-Amz-Signature=SECRET-{n}" for n in range(8)]
        stack = dask_fits.stack(urls, on_error="nan", fill_value=0)
        stack.to_fits(path)
    assert b"SECRET" not in path.read_bytes()
    table = frames_of(path)
    assert texts(table["file"]) == [url.partition("?")[0] for url in urls]
    assert f"{urls[7].partition('?')[0]}?" in str(table["error"][7])


@pytest.mark.slow
def test_workers_write_a_cube(client: Client, files: list[str], path: Path) -> None:
    stack = dask_fits.stack(files, on_error="nan", dtype="f4")
    Path(files[2]).unlink()
    expected = CUBE.astype("f4")
    expected[2] = np.nan
    with client.as_current():
        done = stack.to_fits(path)
    assert np.array_equal(native(fits.getdata(path)), expected, equal_nan=True)
    for status in (done.status.tolist(), texts(frames_of(path)["status"])):
        assert status == ["ok", "ok", "failed", "ok", "ok", "ok", "ok"]
