"""The command that puts many images on one grid."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from astropy import units as u
from astropy.io import fits
from astropy.visualization import ZScaleInterval
from astropy.wcs import WCS
from PIL import Image

import dask_fits
from dask_fits import FitsWarning
from dask_fits.cli import mosaic_grid
from dask_fits.cli.mosaic import mosaic_command
from dask_fits.mosaics.job import Combine, Conserve, Resampling
from dask_fits.mosaics.setup import OnError
from tests.support.at_rest import write_at_rest
from tests.support.command_line import Run
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.mosaics import sky_header, star_image, tan_wcs, write_image
from tests.support.recording import RecordingFileSystem, put
from tests.support.worlds import NX, NY, TAN, image, lookup, pixel_tables

SHAPE = (60, 80)
SCALE = 1e-3

CENTRES = [(149.97, 2.02), (150.03, 2.02), (149.98, 1.98)]
"""Of the images: to the north-west, the north-east (where RA is greater), and the south-west."""

GRIDS = [
    tan_wcs(ra, dec, SCALE, SHAPE, angle)
    for (ra, dec), angle in zip(CENTRES, (5, -10, 20), strict=True)
]


def images(number: int) -> list[npt.NDArray[np.float32]]:
    """Pixels of an image, its errors and its mask."""
    rng = np.random.default_rng(number)
    pixels = star_image(rng, SHAPE) + np.float32(20 * number)
    return [pixels, np.sqrt(np.abs(pixels)), np.float32(rng.random(SHAPE) < 0.05)]


def image_content(number: int, **keywords: Any) -> bytes:
    """A file of such an image, its errors ERR and its mask DQ, in which 1 and 2 are set."""
    pixels, errors, mask = images(number)
    header = sky_header(GRIDS[number], EXPTIME=[30.0, 10.0, 20.0][number], **keywords)
    flags = mask.astype(np.uint8) + np.uint8(2) * (pixels > 400)
    beside = [fits.ImageHDU(errors, name="ERR"), fits.ImageHDU(flags, name="DQ")]
    return fits_bytes(fits.PrimaryHDU(pixels, header), *beside)


@pytest.fixture
def tiles(tmp_path: Path) -> list[str]:
    """The names of three such files."""
    (tmp_path / "tiles").mkdir()
    paths = [tmp_path / "tiles" / f"{number}.fits" for number in range(len(GRIDS))]
    for number, path in enumerate(paths):
        write_at_rest(path, image_content(number))
    return list(map(str, paths))


def read_group(path: Path) -> dict[str, npt.NDArray[Any]]:
    group = zarr.open_group(path, mode="r")
    assert "incomplete" not in group.attrs
    return {name: group[name][:] for name in group}


def check_group(path: Path, expected: dask_fits.Mosaic) -> None:
    """Check that a group holds a mosaic, to the bit."""
    found = read_group(path)
    for name in ("data", "weight", "count"):
        values = np.asarray(getattr(expected, name).compute())
        assert found[name].dtype == values.dtype
        assert same_bits(found[name], values), name
    assert np.isfinite(found["data"]).any()


# Groups

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("", {}),
    "resampling": (
        "--resampling exact --conserve flux",
        {"resampling": "exact", "conserve": "flux"},
    ),
    "combine": ("--combine median", {"combine": "median"}),
    "order": ("--combine first --sort-by exptime", {"combine": "first", "sort_by": "EXPTIME"}),
    "keyword": ("--weights EXPTIME", {"weights": "EXPTIME"}),
    "errors": ("--weights ERR --error ERR", {"weights": "ERR", "error": "ERR"}),
    "mask": ("--mask DQ", {"mask": "DQ"}),
    "bits": ("--mask DQ --bits 2", {"mask": "DQ", "bits": 2}),
    "background": ("--match-background", {"match_background": True}),
    "fill": ("--fill-value -1.5", {"fill_value": -1.5}),
    "hdu": ("--hdu ERR", {"hdu": "ERR"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_group_holds_what_the_function_makes(
    run: Run, tiles: list[str], tmp_path: Path, name: str
) -> None:
    text, arguments = OPTIONS[name]
    if name == "hdu":
        # Its HDU has coordinates of its own there.
        for number, path in enumerate(tiles):
            with fits.open(path, mode="update") as file:
                file["ERR"].header.update(sky_header(GRIDS[number]))
    code, out, err = run("mosaic", *tiles, *text.split(), "-o", tmp_path / "out.zarr")
    assert (code, err) == (0, "")
    expected = dask_fits.mosaic(tiles, **arguments)
    height, width = expected.shape
    line = f"out.zarr: {height} x {width} pixels, 3 images, 0 off grid, 0 failed\n"
    assert out.endswith(line)
    check_group(tmp_path / "out.zarr", expected)
    if "error" in arguments:
        assert same_bits(read_group(tmp_path / "out.zarr")["error"], expected.error.compute())
    if name != "defaults":
        plain = dask_fits.mosaic(tiles).data.compute()
        data = read_group(tmp_path / "out.zarr")["data"]
        assert not same_bits(data, plain), "the option has an effect"


GRID_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "frame": ("--frame galactic", {"frame": "galactic"}),
    "projection": ("--projection CAR", {"projection": "CAR"}),
    "angle": ("--resolution 4arcsec", {"resolution": 4 * u.arcsec}),
    "degrees": ("--resolution 0.002", {"resolution": 0.002}),
    "rotate": ("--rotate", {"rotate": True}),
    "all": (
        "--frame fk5 --projection ZEA --resolution 0.1arcmin --rotate",
        {"frame": "fk5", "projection": "ZEA", "resolution": 0.1 * u.arcmin, "rotate": True},
    ),
}


@pytest.mark.parametrize("name", GRID_OPTIONS)
def test_the_grid_is_that_of_optimal_wcs(
    run: Run, tiles: list[str], tmp_path: Path, name: str
) -> None:
    text, arguments = GRID_OPTIONS[name]
    options = (*text.split(), "--resampling", "exact")
    assert run("mosaic", *tiles, *options, "-o", tmp_path / "out.zarr")[0] == 0
    wcs, shape = dask_fits.optimal_wcs(tiles, **arguments)
    check_group(tmp_path / "out.zarr", dask_fits.mosaic(tiles, wcs, shape, resampling="exact"))


def test_the_grid_of_a_file(run: Run, tiles: list[str], tmp_path: Path) -> None:
    """Its own image is there as it is; one is not on the grid."""
    far = write_image(tmp_path / "far.fits", images(0)[0], tan_wcs(155, 2, SCALE, SHAPE))
    code, out, _ = run("mosaic", *tiles, far, "--like", tiles[1], "-o", f"{tmp_path}/out.zarr/")
    assert code == 0
    assert out.endswith("out.zarr/: 60 x 80 pixels, 3 images, 1 off grid, 0 failed\n")
    check_group(tmp_path / "out.zarr", dask_fits.mosaic([*tiles, far], tiles[1]))
    alone = ("mosaic", tiles[1], "--like", tiles[1], "-o", tmp_path / "alone.zarr")
    assert run(*alone)[0] == 0
    assert same_bits(read_group(tmp_path / "alone.zarr")["data"], images(1)[0])


@pytest.mark.parametrize(("fill", "dtype"), [("-7", np.int16), ("-7.0", np.float32)])
def test_integers_stay_what_they_are_with_a_whole_fill_value(
    run: Run, tmp_path: Path, fill: str, dtype: type
) -> None:
    pixels = np.arange(SHAPE[0] * SHAPE[1], dtype=np.int16).reshape(SHAPE)
    grid = write_image(tmp_path / "grid.fits", np.zeros((70, 80), np.int16), GRIDS[0])
    path = write_image(tmp_path / "a.fits", pixels, GRIDS[0])
    options = ("--like", grid, "--combine", "last", f"--fill-value={fill}")
    assert run("mosaic", path, *options, "-o", tmp_path / "out.zarr")[0] == 0
    data = read_group(tmp_path / "out.zarr")["data"]
    expected = np.full((70, 80), -7, dtype)
    expected[:60] = pixels
    assert data.dtype == dtype
    assert np.array_equal(data, expected)


def test_files_as_a_pattern_and_as_a_collection(run: Run, tiles: list[str], tmp_path: Path) -> None:
    pattern = tmp_path / "tiles" / "*.fits"
    collection = tmp_path / "tiles.parquet"
    assert run("index", pattern, "-o", collection, "--keyword", "EXPTIME", "--hdu", "0")[0] == 0
    expected = dask_fits.mosaic(tiles, weights="EXPTIME")
    for number, files in enumerate((pattern, collection)):
        output = tmp_path / f"{number}.zarr"
        assert run("mosaic", files, "--weights", "EXPTIME", "-o", output)[0] == 0
        check_group(output, expected)


# Pictures


def grey_levels(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Grey levels of an image by astropy, the first row at the bottom."""
    low, high = ZScaleInterval().get_limits(values[np.isfinite(values)])
    levels = np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255
    return np.nan_to_num(levels)[::-1]


def read_picture(path: Path) -> npt.NDArray[np.float64]:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture).astype(float)


def test_a_picture_has_north_up_and_east_to_the_left(run: Run, tmp_path: Path) -> None:
    files = []
    for number, wcs in enumerate(GRIDS):
        rng = np.random.default_rng(number)
        pixels = np.float32(rng.normal(0 if number == 1 else -100, 1, SHAPE))
        files.append(write_image(tmp_path / f"{number}.fits", pixels, wcs))
    code, out, err = run("mosaic", *files, "-o", tmp_path / "out.png")
    assert (code, err) == (0, "")
    _, shape = dask_fits.optimal_wcs(files)
    assert out.endswith(
        f"out.png: {shape[0]} x {shape[1]} pixels, 3 images, 0 off grid, 0 failed\n"
    )
    picture = read_picture(tmp_path / "out.png")
    assert picture.shape == shape
    height, width = shape
    quarters = [
        picture[rows, columns].mean()
        for rows in (np.s_[: height // 2], np.s_[height // 2 :])
        for columns in (np.s_[: width // 2], np.s_[width // 2 :])
    ]
    assert np.argmax(quarters) == 0, "the brightest is in the north-east"
    assert not picture[-1, 0], "nothing is in the south-east"


def test_a_picture_shows_the_pixels(run: Run, tiles: list[str], tmp_path: Path) -> None:
    options = ("--combine", "max", "--match-background")
    assert run("mosaic", *tiles, *options, "-o", tmp_path / "out.PNG")[0] == 0
    data = dask_fits.mosaic(tiles, combine="max", match_background=True).data.compute()
    assert np.abs(read_picture(tmp_path / "out.PNG") - grey_levels(data)).max() <= 1


@pytest.mark.parametrize("sip", [False, True])
def test_a_large_mosaic_is_drawn_coarser(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sip: bool
) -> None:
    monkeypatch.setattr(mosaic_grid, "PICTURE", 50)
    # 113 x 90 pixels: the last row of 38 is two thirds above the image.
    shape = (113, 90)
    wcs = tan_wcs(150, 2, SCALE, shape, 30, sip=sip)
    pixels = star_image(np.random.default_rng(1), shape)
    path = write_image(tmp_path / "a.fits", pixels, wcs)
    options = ("--like", path, "--resampling", "exact", "-o", tmp_path / "out.png", "--json")
    code, out, err = run("mosaic", path, *options)
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["shape"] == [38, 30]
    coarse = WCS(fits.Header(record["header"]))
    for position in ((-0.5, -0.5), (29.5, 36.5)):
        apart = wcs.pixel_to_world(3 * position[0] + 1, 3 * position[1] + 1).separation(
            coarse.pixel_to_world(*position)
        )
        assert apart < 1e-6 * u.arcsec
    padded = np.full((114, 90), np.nan)
    padded[:113] = pixels
    means = np.nanmean(padded.reshape(38, 3, 30, 3), axis=(1, 3))
    assert np.abs(read_picture(tmp_path / "out.png") - grey_levels(means)).max() <= 1


def test_a_picture_of_the_best_grid_is_coarser_too(
    run: Run, tiles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mosaic_grid, "PICTURE", 40)
    with pytest.warns(FitsWarning, match="bilinear misses pixels between"):
        code, out, _ = run("mosaic", *tiles, "--rotate", "-o", tmp_path / "out.png", "--json")
    assert code == 0
    wcs, shape = dask_fits.optimal_wcs(tiles, rotate=True)
    step = -(-max(shape) // 40)
    record = json.loads(out)
    assert step > 2
    assert record["shape"] == [-(-length // step) for length in shape]
    assert record["pixel_scale_arcsec"] == pytest.approx(3600 * SCALE * step, rel=1e-6)
    assert read_picture(tmp_path / "out.png").shape == tuple(record["shape"])
    coarse = WCS(fits.Header(record["header"]))
    corner = wcs.pixel_to_world(-0.5, -0.5)
    assert corner.separation(coarse.pixel_to_world(-0.5, -0.5)) < 1e-6 * u.arcsec


def test_parts_of_a_picture_are_small_where_it_is_much_coarser(
    run: Run, tiles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each needs a part of each image; what they make is put together."""
    monkeypatch.setattr(mosaic_grid, "_CHUNK", 20)
    monkeypatch.setattr(mosaic_grid, "_LEAST_CHUNK", 7)
    assert run("mosaic", *tiles, "-o", tmp_path / "parts.png")[0] == 0
    grid = mosaic_grid.coarser(*dask_fits.optimal_wcs(tiles))
    assert grid.chunks == 20
    monkeypatch.setattr(mosaic_grid, "PICTURE", 40)
    assert mosaic_grid.coarser(*dask_fits.optimal_wcs(tiles)).chunks == 7
    data = dask_fits.mosaic(tiles).data.compute()
    assert np.abs(read_picture(tmp_path / "parts.png") - grey_levels(data)).max() <= 1


def test_a_grid_with_tables_is_drawn_if_it_is_small(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = star_image(np.random.default_rng(1), (NY, NX))
    science = image({**TAN, **lookup("CPDIS", 1, 2)})
    science.data = pixels
    path = tmp_path / "tables.fits"
    write_at_rest(path, fits_bytes(fits.PrimaryHDU(), science, *pixel_tables()))
    arguments = ("mosaic", path, "--like", path, "-o", tmp_path / "out.png", "--overwrite")
    assert run(*arguments)[0] == 0
    assert np.abs(read_picture(tmp_path / "out.png") - grey_levels(pixels)).max() <= 1
    monkeypatch.setattr(mosaic_grid, "PICTURE", 40)
    code, _, err = run(*arguments)
    assert code == 1
    assert re.fullmatch(r"dask-fits: .*tables\.fits: HDU 1.*: its WCS has tables.*\.zarr.*\n", err)


# Plans


@pytest.mark.parametrize("output", [None, "out.zarr", "out.png"])
def test_a_plan_is_that_of_the_mosaic_and_reads_headers_only(
    run: Run, tmp_path: Path, output: str | None
) -> None:
    urls = [put(f"{number}.fits", image_content(number)) for number in range(3)]
    RecordingFileSystem.log.clear()
    options = ("--frame", "galactic", "--rotate", "--match-background", "--plan")
    if output is not None:
        options = (*options, "-o", str(tmp_path / output))
    code, out, err = run("mosaic", *urls, *options, "--json")
    assert (code, err) == (0, "")
    assert sorted(entry[0] for entry in RecordingFileSystem.log) == ["get"] * 3 + ["info"] * 3
    assert not [*tmp_path.iterdir()]
    wcs, shape = dask_fits.optimal_wcs(urls, frame="galactic", rotate=True)
    costs = dask_fits.mosaic(urls, wcs, shape).plan
    found = json.loads(out)
    assert {name: found[name] for name in ("images", "off_grid", "failed")} == {
        "images": 3,
        "off_grid": 0,
        "failed": 0,
    }
    assert (found["requests"], found["bytes"]) == (costs.requests, costs.bytes)
    assert (found["useful_bytes"], found["over_read"]) == (costs.useful_bytes, costs.over_read)
    assert found["shape"] == list(shape)
    assert found["pixel_scale_arcsec"] == pytest.approx(3600 * SCALE, rel=1e-9)
    written = WCS(fits.Header(found["header"]))
    assert [*written.wcs.ctype] == ["GLON-TAN", "GLAT-TAN"]
    assert written.array_shape == shape
    pixels = np.array([[0.0, 0.0], [30.0, 70.0]])
    assert np.array_equal(written.wcs_pix2world(pixels, 0), wcs.wcs_pix2world(pixels, 0))


def test_a_plan_as_text(run: Run, tiles: list[str]) -> None:
    lines = run("mosaic", *tiles, "--like", tiles[2], "--plan")[1].splitlines()
    costs = dask_fits.mosaic(tiles, tiles[2]).plan
    assert lines[:3] == [
        "images           3 images, 0 off grid, 0 failed",
        "height x width   60 x 80 pixels",
        "pixel scale      3.6 arcsec",
    ]
    assert lines[3].split()[1:] == ["RA---TAN", "DEC--TAN", "ICRS"]
    assert re.fullmatch(r"reference point +149\.98, 1\.98 degrees", lines[4])
    # PC1_2 = -sin 20: along y, the intermediate longitude grows by 0.001 sin 20.
    assert re.fullmatch(r"y axis +20 degrees from north .*", lines[5])
    assert lines[-1].split()[:3] == ["all", str(costs.requests), str(costs.bytes)]


# Errors


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("", 2, "-o is missing, the .fits file, .zarr group or .png picture to write"),
        ("-o out.gif", 2, "-o: expected a name that ends in .fits, .zarr or .png, found out.gif"),
        ("-o out", 2, "-o: expected a name that ends in .fits, .zarr or .png, found out"),
        ("-o fits --plan", 2, "-o: expected a name that ends in .fits, .zarr or .png, found fits"),
        ("--plan --like a.fits --frame icrs", 2, "do not go with --like"),
        ("--plan --like a.fits --rotate", 2, "do not go with --like"),
        ("--plan --bits 4", 2, "--bits goes with --mask"),
        ("--plan --resolution wide", 2, "'wide' is no angle"),
        ("--plan --resolution 0arcsec", 2, "'0arcsec' is no angle"),
        ("--plan --resolution 1m", 2, "'1m' is no angle"),
        ("--plan --fill-value x", 2, "x"),
        ("--plan --combine most", 2, "'most' is not one of 'mean', 'sum'"),
        ("--plan --frame nowhere", 1, "frame: astropy knows none that is called 'nowhere'"),
        ("--plan --sort-by NONE", 1, "sort_by: no image has a value of NONE"),
        ("--plan --mask MASK", 1, "0.fits: no HDU"),
        ("--plan --like gone.fits", 1, "gone.fits: no such file"),
        ("gone.fits --plan", 1, "gone.fits: no such file"),
        ("--plan --resolution 1e-12", 1, "choose a coarser one"),
    ],
)
def test_an_error_is_one_line(
    run: Run,
    tiles: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = run("mosaic", *tiles, *options.split())
    assert (found, out) == (code, "")
    assert re.fullmatch(r"dask-fits: .*\n", err)
    assert message in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiles"]


def damaged_tile(path: Path) -> str:
    """Write a compressed image whose header is whole, and whose pixels cannot be read."""
    header = sky_header(GRIDS[1], EXPTIME=1.0)
    hdu = fits.CompImageHDU(np.int32(images(1)[0]), header, compression_type="GZIP_1")
    content = bytearray(fits_bytes(fits.PrimaryHDU(), hdu))
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    write_at_rest(path, content)
    return str(path)


@pytest.mark.parametrize("name", ["out.zarr", "out.png"])
def test_images_that_cannot_be_read_are_left_out_if_so_asked(
    run: Run, tiles: list[str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "bad.fits").write_text("this is no FITS file")
    damaged = damaged_tile(tmp_path / "damaged.fits")
    files = [tiles[0], str(tmp_path / "gone.fits"), str(tmp_path / "bad.fits"), damaged, tiles[2]]
    output = tmp_path / name
    code, out, err = run("mosaic", *files, "-o", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*gone\.fits: no such file.*\n", err)
    code, out, err = run("mosaic", tiles[0], damaged, "-o", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*damaged\.fits: HDU 1.*\n", err)
    assert name == "out.zarr" or not output.exists()
    code, out, err = run("mosaic", *files, "-o", output, "--on-error", "skip", "--overwrite")
    assert code == 1
    assert out.endswith(" pixels, 2 images, 0 off grid, 3 failed\n")
    lines = err.splitlines()
    assert len(lines) == 3
    for line, file in zip(lines, ("gone", "bad", "damaged"), strict=True):
        assert re.fullmatch(rf"  .*{file}\.fits: .*", line)
    expected = dask_fits.mosaic([tiles[0], damaged, tiles[2]], on_error="skip")
    if name == "out.zarr":
        check_group(output, expected)
    else:
        shown = grey_levels(expected.data.compute())
        assert np.abs(read_picture(output) - shown).max() <= 1
    code, out, err = run("mosaic", *files[1:3], "-o", output, "--on-error", "skip", "--overwrite")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*gone\.fits.*\n", err)


@pytest.mark.parametrize("options", [("-o", "out.png"), ("--rotate", "-o", "out.zarr")])
def test_an_image_without_its_mask_is_not_on_the_grid_either(
    run: Run,
    tiles: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    lacking = write_image(tmp_path / "lacking.fits", images(0)[0], tan_wcs(151, 2, SCALE, SHAPE))
    skipped = ("--mask", "DQ", "--on-error", "skip", "--json")
    code, out, err = run("mosaic", lacking, *tiles, *options, *skipped)
    assert (code, len(err.splitlines())) == (1, 1)
    assert re.fullmatch(r"  .*lacking\.fits: no HDU.*\n", err)
    record = json.loads(out)
    _, shape = dask_fits.optimal_wcs(tiles, rotate="--rotate" in options)
    assert record["shape"] == list(shape)
    assert (record["images"], record["failed"]) == (3, 1)


@pytest.mark.parametrize("name", ["out.zarr", "out.png"])
def test_an_output_that_exists_stays(run: Run, tiles: list[str], tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    assert run("mosaic", *tiles, "-o", output)[0] == 0

    def content() -> dict[Path, bytes]:
        files = [output, *output.rglob("*")]
        return {path: path.read_bytes() for path in files if path.is_file()}

    before = content()
    code, out, err = run("mosaic", *tiles[:2], "-o", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"dask-fits: {re.escape(str(output))}.*exists.*\n", err)
    assert content() == before
    assert run("mosaic", *tiles[:2], "-o", output, "--overwrite")[0] == 0
    data = dask_fits.mosaic(tiles[:2]).data
    if name == "out.zarr":
        assert same_bits(read_group(output)["data"], data.compute())
    else:
        assert read_picture(output).shape == data.shape


def test_a_picture_that_exists_is_seen_before_anything_is_read(run: Run, tmp_path: Path) -> None:
    url = put("0.fits", image_content(0))
    (tmp_path / "out.png").write_text("mine")
    RecordingFileSystem.log.clear()
    assert run("mosaic", url, "-o", tmp_path / "out.png")[0] == 1
    assert not RecordingFileSystem.log
    assert (tmp_path / "out.png").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "library", "importers", "message"),
    [
        ("a.png", "PIL", ("cli.preview", "cli.mosaic_picture"), "Pillow .*'dask_fits[cli]'"),
        ("a.zarr", "zarr", ("writing.zarr_group",), "zarr .*'dask_fits[zarr]'"),
    ],
)
def test_a_library_that_lacks_is_named_before_anything_is_read(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    library: str,
    importers: tuple[str, ...],
    message: str,
) -> None:
    url = put("0.fits", image_content(0))
    monkeypatch.setitem(sys.modules, library, None)
    for name in importers:
        monkeypatch.delitem(sys.modules, f"dask_fits.{name}", raising=False)
    RecordingFileSystem.log.clear()
    code, out, err = run("mosaic", url, "-o", tmp_path / output)
    assert (code, out) == (1, "")
    before, after = message.split(".*")
    assert err.startswith(f"dask-fits: {before}")
    assert after in err
    assert not RecordingFileSystem.log


# What is printed


def test_json_tells_what_was_written(run: Run, tiles: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    code, out, _ = run("mosaic", *tiles, "--projection", "CAR", "-o", output, "--json")
    record = json.loads(out)
    header = record.pop("header")
    wcs, shape = dask_fits.optimal_wcs(tiles, projection="CAR")
    assert code == 0
    assert record == {
        "output": str(output),
        "images": 3,
        "off_grid": 0,
        "failed": 0,
        "shape": list(shape),
        "pixel_scale_arcsec": pytest.approx(3600 * SCALE),
    }
    assert header["NCOMBINE"] == 3
    assert [header["CTYPE1"], header["CTYPE2"]] == [*wcs.wcs.ctype]


def test_progress_is_shown_on_a_terminal(
    run: Run, tiles: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name in ("out.zarr", "out.png"):
        code, out, err = run("mosaic", *tiles, "-o", tmp_path / name)
        assert (code, len(out.splitlines())) == (0, 1)
        assert "reading headers" in err
        assert "100% Completed" in err


def test_the_help_and_its_examples(run: Run) -> None:
    assert re.search(r"^  mosaic +Put many images on one grid", run("--help")[1], re.MULTILINE)
    code, text, _ = run("mosaic", "--help")
    assert code == 0
    examples = re.findall(r"^  dask-fits mosaic +(.*)$", text, re.MULTILINE)
    examples += re.findall(r"^  dask-fits mosaic +(.*)$", run("--help")[1], re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        with mosaic_command.make_context("mosaic", shlex.split(example)) as context:
            assert context.params["files"]
            assert context.params["output"] or context.params["plan"]


def test_the_choices_are_those_of_the_function() -> None:
    found = {
        str(option.name): [each.replace("-", " ") for each in option.type.choices]
        for option in mosaic_command.params
        if isinstance(option.type, click.Choice)
    }
    assert {name: set(choices) for name, choices in found.items()} == {
        "resampling": {*get_args(Resampling)},
        "combine": {*get_args(Combine)},
        "conserve": {*get_args(Conserve)},
        "on_error": {*get_args(OnError)},
    }
    firsts = {name: choices[0] for name, choices in found.items()}
    parameters = inspect.signature(dask_fits.mosaic).parameters
    assert firsts == {name: parameters[name].default for name in firsts}
