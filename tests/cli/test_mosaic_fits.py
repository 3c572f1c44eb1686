"""`dask-fits mosaic -o out.fits`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

import dask_fits
from dask_fits.storage.local_sink import LocalSink
from tests.support.command_line import Run
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.mosaics import sky_header, star_image, tan_wcs
from tests.support.recording import RecordingFileSystem, put
from tests.support.sound_files import check_sound

pytestmark = pytest.mark.untraced

SHAPE = (60, 80)
GRIDS = [
    tan_wcs(ra, dec, 1e-3, SHAPE, angle)
    for ra, dec, angle in ((149.97, 2.02, 5), (150.03, 2.02, -10), (149.98, 1.98, 20))
]


def tile(number: int) -> bytes:
    """An image and its errors."""
    pixels = star_image(np.random.default_rng(number), SHAPE)
    header = sky_header(GRIDS[number], EXPTIME=[30.0, 10.0, 20.0][number])
    return fits_bytes(fits.PrimaryHDU(pixels, header), fits.ImageHDU(np.sqrt(pixels), name="ERR"))


@pytest.fixture
def tiles(tmp_path: Path) -> list[str]:
    (tmp_path / "tiles").mkdir()
    paths = [tmp_path / "tiles" / f"{number}.fits" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(tile(number))
    return list(map(str, paths))


def native(values: Any) -> np.ndarray:
    return np.asarray(values).astype(values.dtype.newbyteorder("="))


def check_file(path: Path, expected: dask_fits.Mosaic) -> None:
    """A file holds a mosaic, to the bit."""
    names = ["PRIMARY", "WEIGHT", "COUNT"]
    assert check_sound(path)[:3] == names
    at = np.array([[0.0, 0.0], [20.5, 40.25]])
    with fits.open(path) as file:
        for name, array in zip(
            names, (expected.data, expected.weight, expected.count), strict=True
        ):
            assert same_bits(native(file[name].data), np.asarray(array.compute())), name
            world = WCS(file[name].header).wcs_pix2world(at, 0)
            np.testing.assert_array_equal(world, expected.wcs.wcs_pix2world(at, 0))


def test_a_file_holds_what_the_function_makes(run: Run, tiles: list[str], out: Path) -> None:
    options = ("--weights", "EXPTIME", "--error", "ERR")
    code, said, err = run("mosaic", *tiles, *options, "-o", out)
    assert (code, err) == (0, "")
    expected = dask_fits.mosaic(tiles, weights="EXPTIME", error="ERR")
    height, width = expected.shape
    assert said == f"{out}: {height} x {width} pixels, 3 images, 0 off grid, 0 failed\n"
    check_file(out, expected)
    assert check_sound(out) == ["PRIMARY", "WEIGHT", "COUNT", "ERROR", "INPUTS"]
    table = Table.read(out, hdu="INPUTS")
    assert table["file"].tolist() == tiles
    assert table["weight"].tolist() == [30.0, 10.0, 20.0]


def test_the_end_of_the_name_is_in_any_case(run: Run, tiles: list[str], tmp_path: Path) -> None:
    assert run("mosaic", *tiles, "-o", tmp_path / "out.FITS")[0] == 0
    check_file(tmp_path / "out.FITS", dask_fits.mosaic(tiles))


def test_json_tells_what_was_written(run: Run, tiles: list[str], out: Path) -> None:
    code, said, _ = run("mosaic", *tiles, "-o", out, "--json")
    assert code == 0
    record = json.loads(said)
    assert record["output"] == str(out)
    assert record["shape"] == list(fits.getdata(out).shape)
    assert (record["images"], record["failed"]) == (3, 0)


def test_images_that_cannot_be_read_are_in_the_table(
    run: Run, tiles: list[str], tmp_path: Path, out: Path
) -> None:
    gone = str(tmp_path / "gone.fits")
    damaged = tmp_path / "damaged.fits"
    hdu = fits.CompImageHDU(
        np.int32(fits.getdata(tiles[1])), sky_header(GRIDS[1]), compression_type="GZIP_1"
    )
    content = bytearray(fits_bytes(fits.PrimaryHDU(), hdu))
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    damaged.write_bytes(content)
    files = [tiles[0], gone, str(damaged), tiles[2]]
    code, said, err = run("mosaic", *files, "-o", out)
    assert (code, said) == (1, "")
    assert re.fullmatch(r"dask-fits: .*gone\.fits: no such file.*\n", err)
    code, said, err = run("mosaic", tiles[0], damaged, "-o", out)
    assert (code, said) == (1, "")
    assert re.fullmatch(r"dask-fits: .*damaged\.fits: HDU 1.*\n", err)
    assert not out.exists()
    code, said, err = run("mosaic", *files, "-o", out, "--on-error", "skip")
    assert code == 1
    assert said.endswith("2 images, 0 off grid, 2 failed\n")
    table = Table.read(out, hdu="INPUTS", mask_invalid=False)
    assert table["status"].tolist() == ["ok", "failed", "failed", "ok"]
    lines = err.splitlines()
    assert len(lines) == 2
    for line, error, name in zip(lines, table["error"][1:3], ("gone", "damaged"), strict=True):
        assert f"{name}.fits: " in line
        assert f"{name}.fits: " in error
    expected = dask_fits.mosaic([tiles[0], str(damaged), tiles[2]], on_error="skip")
    check_file(out, expected)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["damaged.fits", "out.fits", "tiles"]


def test_a_file_that_exists_is_seen_before_anything_is_read(run: Run, out: Path) -> None:
    url = put("0.fits", tile(0))
    out.write_text("mine")
    RecordingFileSystem.log.clear()
    code, said, err = run("mosaic", url, "-o", out)
    assert (code, said) == (1, "")
    assert re.fullmatch(rf"dask-fits: {re.escape(str(out))}.*exists.*\n", err)
    assert not RecordingFileSystem.log
    assert out.read_text() == "mine"
    assert run("mosaic", url, "-o", out, "--overwrite")[0] == 0
    check_file(out, dask_fits.mosaic([url]))


def test_a_plan_writes_nothing(run: Run, tiles: list[str], out: Path) -> None:
    assert run("mosaic", *tiles, "-o", out, "--plan")[0] == 0
    assert [each.name for each in out.parent.iterdir()] == ["tiles"]


def test_an_interruption_leaves_nothing(
    run: Run, tiles: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def interrupted(sink: LocalSink, attempt: Any, parts: Any) -> Any:
        begun.extend(each.name for each in out.parent.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalSink, "write", interrupted)
    code, said, err = run("mosaic", *tiles, "-o", out)
    assert (code, said, err) == (130, "", "dask-fits: interrupted\n")
    assert len(begun) > 1
    assert [each.name for each in out.parent.iterdir()] == ["tiles"]


def test_progress_is_shown_on_a_terminal(
    run: Run, tiles: list[str], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for arguments in (("mosaic", *tiles), ("convert", tiles[0])):
        given = (*arguments, "-o", out) if arguments[0] == "mosaic" else (*arguments, out)
        code, said, err = run(*given, "--overwrite")
        assert (code, len(said.splitlines())) == (0, 1)
        assert "100% Completed" in err
