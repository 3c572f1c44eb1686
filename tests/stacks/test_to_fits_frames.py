"""Stacks as FITS files: each frame as a file of its own.

Pixels are NumPy's of astropy's arrays, and all is read by astropy or fitsio.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from dask.delayed import Delayed
from distributed import Client

import dask_fits
from dask_fits import FitsError, Stack
from dask_fits.exceptions import FitsFileNotFoundError, PixelValueError
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.sky_frames import CUBE, DATES, native, on_the_sky
from tests.support.sound_files import check_sound
from tests.support.stacks import put_frames
from tests.support.worlds import TABLES, written

pytestmark = pytest.mark.untraced


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "in").mkdir()
    return put_frames(tmp_path / "in", {f"{n}.fits": on_the_sky(n) for n in range(7)})


@pytest.fixture
def urls(tmp_path: Path) -> list[Path]:
    (tmp_path / "out").mkdir()
    return [tmp_path / "out" / f"{n}.fits" for n in range(7)]


def check_frame(path: Path, number: int, pixels: np.ndarray) -> None:
    """A file has the frame's pixels and header."""
    check_sound(path)
    assert same_bits(native(fits.getdata(path)), pixels)
    header = fits.getheader(path)
    assert header["SEQ"] == number
    assert header["DATE-OBS"] == DATES[number]
    at = np.random.default_rng(1).uniform(0, 12, (20, 2))
    expected = WCS(fits.Header.fromstring(on_the_sky(number)[:5760].decode("latin-1")))
    np.testing.assert_array_equal(WCS(header).wcs_pix2world(at, 0), expected.wcs_pix2world(at, 0))


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_each_frame_has_its_own_header(
    calibrated: bool, scheduler: str, files: list[str], urls: list[Path]
) -> None:
    stack = dask_fits.stack(files)
    flat = np.linspace(0.5, 2, 16, dtype="f4")
    data = (stack.data - np.float32(10)) / flat if calibrated else None
    with dask.config.set(scheduler=scheduler):
        done = stack.to_fits(urls, data=data)
    for number, (url, pixels) in enumerate(zip(urls, CUBE, strict=True)):
        check_frame(url, number, (pixels - np.float32(10)) / flat if calibrated else pixels)
    assert isinstance(done, Stack)
    assert done.status.tolist() == ["ok"] * 7
    assert len([*urls[0].parent.iterdir()]) == 7


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_frames_bring_their_tables_along(tmp_path: Path, urls: list[Path]) -> None:
    content = written(*TABLES["all that HST has"]())
    inputs = put_frames(tmp_path, {"a.fits": content, "b.fits.gz": gzip.compress(content)})
    dask_fits.stack(inputs, hdu="SCI").to_fits([str(url) for url in urls[:2]])
    at = np.random.default_rng(1).uniform(0, 60, (20, 2))
    with fits.open(inputs[0]) as file:
        expected = WCS(file["SCI"].header, fobj=file).all_pix2world(at, 0)
    for url in urls[:2]:
        assert check_sound(url, checksums=1) == ["SCI", *["WCSDVARR"] * 2, *["D2IMARR"] * 2]
        with fits.open(url) as file:
            found = WCS(file[0].header, fobj=file).all_pix2world(at, 0)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
@pytest.mark.parametrize("calibrated", [False, True])
def test_a_frame_that_fails_has_no_file(
    calibrated: bool, files: list[str], urls: list[Path], tmp_path: Path
) -> None:
    files[1] = str(tmp_path / "missing.fits")
    stack = dask_fits.stack(files, on_error="nan", dtype="f4")
    Path(files[4]).unlink()
    Path(files[6]).write_bytes(on_the_sky(6)[:3000])
    done = stack.to_fits(urls, data=stack.data * 2 if calibrated else None)
    left = [n for n, url in enumerate(urls) if url.exists()]
    assert left == [0, 2, 3, 5]
    for number in left:
        pixels = CUBE[number].astype("f4")
        check_frame(urls[number], number, pixels * 2 if calibrated else pixels)
    assert len([*urls[0].parent.iterdir()]) == 4
    assert np.flatnonzero(done.status == "failed").tolist() == [1, 4, 6]
    assert isinstance(done.error[4], FitsFileNotFoundError)


def test_a_frame_whose_pixels_fail_has_no_file(tmp_path: Path, urls: list[Path]) -> None:
    """Its header can be read."""
    cube = np.random.default_rng(4).integers(0, 999, (2, 50, 60)).astype("i4")
    contents = []
    for pixels in cube:
        hdu = fits.CompImageHDU(pixels, compression_type="GZIP_1")
        contents.append(bytearray(fits_bytes(fits.PrimaryHDU(), hdu)))
    half = len(contents[1]) // 2
    contents[1][half:] = b"\xff" * (len(contents[1]) - half)
    inputs = put_frames(tmp_path, {f"{n}.fits": bytes(each) for n, each in enumerate(contents)})
    stack = dask_fits.stack(inputs, on_error="nan", fill_value=0)
    assert stack.status.tolist() == ["ok", "ok"]
    done = stack.to_fits(urls[:2])
    assert done.status.tolist() == ["ok", "failed"]
    assert [each.name for each in urls[0].parent.iterdir()] == ["0.fits"]
    assert same_bits(native(fits.getdata(urls[0], 0)), cube[0])


def test_a_frame_that_fails_is_an_error_unless_it_is_filled(
    files: list[str], urls: list[Path]
) -> None:
    stack = dask_fits.stack(files)
    Path(files[4]).unlink()
    with dask.config.set(scheduler="sync"), pytest.raises(FitsError, match=r"4\.fits"):
        stack.to_fits(urls)
    assert not urls[4].exists()
    assert all(url.name in {f"{n}.fits" for n in range(7)} for url in urls[0].parent.iterdir())


def test_a_pixel_that_cannot_be_written_is_an_error(files: list[str], urls: list[Path]) -> None:
    """Also where frames that cannot be read are filled: this one can."""
    stack = dask_fits.stack(files, on_error="nan", dtype="f4")

    def fail(block: np.ndarray) -> np.ndarray:
        if block.size:
            raise PixelValueError("no such pixel")
        return block

    data = stack.data.map_blocks(fail, dtype="f4", meta=np.zeros((0, 0, 0), "f4"))
    with pytest.raises(PixelValueError, match="no such pixel"):
        stack.to_fits(urls, data=data)
    assert not [*urls[0].parent.iterdir()]


@pytest.mark.parametrize("form", [list, tuple])
def test_files_that_do_not_go_with_the_frames(
    form: Any, files: list[str], urls: list[Path]
) -> None:
    stack = dask_fits.stack(files)
    with pytest.raises(ValueError, match="expected 7 files, one for each frame, found 6"):
        stack.to_fits(form(urls[:-1]))
    with pytest.raises(ValueError, match=r"different files, found .*3\.fits twice"):
        stack.to_fits(form([*urls[:4], str(urls[3]), *urls[4:6]]))
    with pytest.raises(ValueError, match="data: expected 7 frames, found 6"):
        stack.to_fits(urls, data=stack.data[1:])
    assert not [*urls[0].parent.iterdir()]


def test_files_that_exist_are_replaced_only_if_that_is_asked_for(
    files: list[str], urls: list[Path]
) -> None:
    stack = dask_fits.stack(files)
    urls[2].write_text("mine")
    with pytest.raises(FileExistsError, match=r"2\.fits"):
        stack.to_fits(urls)
    assert urls[2].read_text() == "mine"
    stack.to_fits(urls, overwrite=True, checksum=False)
    for number, url in enumerate(urls):
        assert check_sound(url, checksums=0) == ["PRIMARY"]
        assert same_bits(native(fits.getdata(url)), CUBE[number])


def test_nothing_is_written_before_it_is_computed(files: list[str], urls: list[Path]) -> None:
    writing = dask_fits.stack(files, on_error="nan", fill_value=0).to_fits(urls, compute=False)
    assert isinstance(writing, Delayed)
    assert not [*urls[0].parent.iterdir()]
    Path(files[0]).unlink()
    errors = writing.compute()
    assert [*errors] == [0]
    assert isinstance(errors[0], FitsFileNotFoundError)
    assert [url.exists() for url in urls] == [False] + [True] * 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")
def test_workers_write_frames(client: Client, files: list[str], urls: list[Path]) -> None:
    stack = dask_fits.stack(files, on_error="nan", dtype="f4")
    Path(files[2]).unlink()
    with client.as_current():
        done = stack.to_fits(urls)
    assert np.flatnonzero(done.status == "failed").tolist() == [2]
    assert [url.exists() for url in urls] == [n != 2 for n in range(7)]
    check_frame(urls[6], 6, CUBE[6].astype("f4"))
