"""The command line, as a user runs it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from PIL import Image

import dask_fits
from dask_fits import FitsWarning
from dask_fits.cli import options
from dask_fits.cli.cutouts import cutouts_command
from dask_fits.cli.preview import preview
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from tests.servers.range_server import RangeServer
from tests.support.command_line import Run, runner
from tests.support.data import DATA
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.recording import RecordingFileSystem, put

M13 = str(DATA / "m13.fits")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capfd)


@pytest.fixture
def several(tmp_path: Path) -> str:
    image = np.arange(12, dtype=np.int16).reshape(3, 4)
    table = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])], name="CAT")
    science = fits.ImageHDU(image, name="SCI", ver=2)
    science.header["BSCALE"] = 0.5
    path = tmp_path / "several.fits"
    packed = fits.CompImageHDU(image.astype(np.int32), name="PACKED")
    fits.HDUList([fits.PrimaryHDU(), science, table, packed]).writeto(path)
    return str(path)


def test_info_is_a_line_for_each_hdu(run, several: str) -> None:
    code, out, err = run("info", several)
    lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 5)
    assert lines[0].split() == (
        [
            "index",
            "name",
            "ver",
            "kind",
            "shape",
            "dtype",
            "data",
            "offset",
            "data",
            "bytes",
            "compression",
            "chunks",
        ]
    )
    assert re.match(r"1 +SCI +2 +image +\(3, 4\) +float32 +\d+ +24 +\(3, 4\)", lines[2])
    assert re.match(r"2 +CAT +1 +bintable +\d+ +8$", lines[3])
    assert re.search(r"PACKED +1 +compressed-image +\(3, 4\) +int32 .*RICE_1", lines[4])


def test_info_as_json_agrees_with_astropy(run, several: str) -> None:
    code, out, _ = run("info", several, "--json")
    records = json.loads(out)
    assert code == 0
    with fits.open(several) as file:
        for record, hdu in zip(records, file, strict=True):
            assert (record["name"], record["ver"]) == (hdu.name, hdu.ver)
        assert records[1]["shape"] == list(file["SCI"].shape)
        assert records[1]["dtype"] == file["SCI"].data.dtype.name
        assert records[1]["data_offset"] == file["SCI"]._data_offset
    assert [r["kind"] for r in records] == ["image", "image", "bintable", "compressed-image"]
    assert records[2]["shape"] is None
    assert records[2]["dtype"] is None


def test_info_reads_headers_only(run) -> None:
    url = put("m13.fits", Path(M13).read_bytes())
    assert run("info", url)[0] == 0
    assert [entry[0] for entry in RecordingFileSystem.log] == ["info", "get"]


def test_header_is_astropys(run, several: str) -> None:
    for hdu, key in (("0", 0), ("sci", "SCI"), ("SCI,2", ("SCI", 2)), ("-1", -1)):
        code, out, _ = run("header", several, "--hdu", hdu)
        with fits.open(several) as file:
            expected = repr(file[key].header)
        assert code == 0
        assert [line.rstrip() for line in out.splitlines()] == [
            line.rstrip() for line in expected.splitlines()
        ]


def test_plan_says_what_a_read_costs(run) -> None:
    code, out, _ = run("plan", M13, "--key", "10:20, 30:50", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["requests"] == 1
    assert found["bytes"] == 9 * 1200 + 80
    assert found["useful_bytes"] == 800
    assert found["over_read"] == pytest.approx(13.6)
    text = run("plan", M13, "--key", "10:20,30:50")[1]
    assert re.search(r"all +1 +10880 +800 +13\.60", text)


@pytest.mark.parametrize("key", ["5", "...,3", "::2,-1", "[3:9]", "-10:,5:7"])
def test_plan_takes_keys_as_numpy_does(run, key: str) -> None:
    found = json.loads(run("plan", M13, "--key", key, "--json")[1])
    numpy_key = eval(f"np.s_[{key.strip('[]')}]", {"np": np})  # the test's own text
    assert found["useful_bytes"] == fits.getdata(M13)[numpy_key].nbytes


def test_plan_chunk_by_chunk(run) -> None:
    with dask.config.set({"array.chunk-size": "120 kB"}):
        found = json.loads(run("plan", M13, "--chunks", "--json")[1])
        text = run("plan", M13, "--chunks")[1]
    assert [part["bytes"] for part in found["chunks"]] == [120_000] * 3
    assert (found["requests"], found["bytes"]) == (3, 360_000)
    assert len(text.splitlines()) == 5


@pytest.mark.parametrize(
    ("chunks", "requests"),
    [
        (["--chunks"], 1),
        (["--chunks", "64,-1"], 5),
        (["--chunks", "100"], 3),  # bands of 100 rows, each divided into three chunks
        (["--chunks", "auto"], 1),
        (["--chunks", "120kB"], 3),
        (["--chunks=30,auto"], 10),
    ],
)
def test_plan_for_other_chunks(run, chunks: list[str], requests: int) -> None:
    code, out, err = run("plan", M13, "--json", *chunks)
    assert code == 0, err
    found = json.loads(out)
    assert (found["requests"], len(found["chunks"]), found["useful_bytes"]) == (
        *(requests, requests),
        360_000,
    )


def test_every_command_takes_a_compressed_image(run, tmp_path: Path) -> None:
    packed = M13.replace("m13.fits", "m13_rice.fits")
    pixels = fits.getdata(packed)
    assert re.search(r"compressed-image +\(300, 300\) +float32 .*RICE_1", run("info", packed)[1])
    found = json.loads(run("stats", packed, "--json")[1])
    assert (found["min"], found["max"], found["count"]) == (pixels.min(), pixels.max(), 90_000)
    found = json.loads(run("plan", packed, "--key", "10:20,30:50", "--json")[1])
    with fits.open(packed, disable_image_compression=True) as file:
        lengths = [len(tile) for tile in file[1].data["COMPRESSED_DATA"][10:20]]
    assert (found["requests"], found["useful_bytes"]) == (1, sum(lengths))
    header = run("header", packed, "--hdu", "1")[1]
    assert "NAXIS1  =                  300" in header
    assert "TFIELDS" not in header
    pictures = []
    for url in (M13, packed):
        assert run("preview", url, "-o", tmp_path / "a.png")[0] == 0
        with Image.open(tmp_path / "a.png") as picture:
            pictures.append(np.asarray(picture).astype(int))
    assert np.abs(pictures[0] - pictures[1]).mean() < 2, "the same picture, but for quantization"


@pytest.mark.parametrize("size", ["128 MiB", "7 kB"])
def test_stats_are_numpys(run, tmp_path: Path, size: str) -> None:
    values = np.random.default_rng(0).normal(1e6, 1, (50, 70)).astype(np.float32)
    values[3:5, 7:9] = np.nan
    path = tmp_path / "nan.fits"
    fits.PrimaryHDU(values).writeto(path)
    with dask.config.set({"array.chunk-size": size}):
        code, out, err = run("stats", path, "--json")
    assert code == 0
    assert "100% Completed" in err
    found = json.loads(out)
    wide = values.astype(np.float64)
    assert found["min"] == np.nanmin(values)
    assert found["max"] == np.nanmax(values)
    assert found["mean"] == pytest.approx(np.nanmean(wide), rel=1e-12)
    assert found["std"] == pytest.approx(np.nanstd(wide), rel=1e-9)
    assert (found["nan"], found["count"]) == (4, 3496)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((4, 4), np.nan), {"min": None, "mean": None, "std": None, "nan": 16, "count": 0}),
        (np.array([1.0, np.inf]), {"min": 1.0, "max": "inf", "std": None, "nan": 0}),
        (np.array([2**62 + 1, 5], np.int64), {"max": 2**62 + 1, "min": 5, "nan": 0}),
        (np.array([7], np.uint8), {"min": 7, "max": 7, "mean": 7.0, "std": 0.0}),
        (np.zeros((0, 5), np.float32), {"min": None, "count": 0, "nan": 0}),
    ],
)
def test_stats_of_odd_values(run, tmp_path: Path, values: np.ndarray, expected: dict) -> None:
    path = tmp_path / "odd.fits"
    hdu = fits.PrimaryHDU(values if values.size else None)
    if not values.size:
        hdu.header["BITPIX"], hdu.header["NAXIS"] = -32, 2
        hdu.header.insert(3, ("NAXIS1", 5))
        hdu.header.insert(4, ("NAXIS2", 0))
        path.write_bytes(hdu.header.tostring().encode())
    else:
        hdu.writeto(path)
    code, out, err = run("stats", path, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {key: found[key] for key in expected} == expected
    assert run("stats", path)[0] == 0


def test_preview_is_a_picture_with_the_origin_at_the_lower_left(run, tmp_path: Path) -> None:
    output = tmp_path / "m13.png"
    code, out, _ = run("preview", M13, "-o", output)
    assert code == 0
    assert str(output) in out
    with Image.open(output) as picture:
        grey = np.asarray(picture)
    assert grey.shape == (300, 300)
    assert len(np.unique(grey)) > 100
    pixels = fits.getdata(M13)[::-1]
    order = np.corrcoef(np.argsort(np.argsort(pixels.ravel())), grey.ravel())[0, 1]
    assert order > 0.8, "brighter pixels are lighter, in their places"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m13.png"]


def test_preview_thins_a_large_image_and_reads_only_what_it_draws(tmp_path: Path) -> None:
    wide = np.zeros((300, 40_000), np.uint8)
    wide[:, 39_000:] = 200
    path = tmp_path / "wide.fits"
    fits.PrimaryHDU(np.stack([wide, wide + 1])).writeto(path)
    from dask_fits import open as open_fits

    hdu = open_fits(put("wide.fits", path.read_bytes()))[0]
    RecordingFileSystem.log.clear()
    picture = preview(hdu, size=1000)
    assert picture.shape == (8, 1000)
    assert picture[0, 0] < picture[0, -1]
    # Rows 0, 40, ... 280 of the first plane; 39 rows between are no gap to bridge.
    assert len(RecordingFileSystem.ranges()) == 8
    assert RecordingFileSystem.nbytes() == 8 * 39_961


def test_preview_of_nan_and_of_nothing(run, tmp_path: Path) -> None:
    values = np.full((5, 5), np.nan, np.float32)
    path = tmp_path / "nan.fits"
    fits.PrimaryHDU(values).writeto(path)
    assert run("preview", path, "-o", tmp_path / "nan.png")[0] == 0
    with Image.open(tmp_path / "nan.png") as picture:
        assert not np.asarray(picture).any()
    fits.PrimaryHDU(np.zeros(5)).writeto(path, overwrite=True)
    code, _, err = run("preview", path, "-o", tmp_path / "line.png")
    assert code == 1
    assert "two axes" in err


# Cutouts

CENTRE = ("--ra", "250.42", "--dec", "36.46")


def cutout_of(path: Path) -> tuple[np.ndarray, WCS]:
    with fits.open(path, checksum=True) as file:
        file.verify("exception")
        pixels = file[-1].data
        return pixels.astype(pixels.dtype.newbyteorder("=")), WCS(file[-1].header)


@pytest.mark.parametrize(
    ("place", "position", "size", "asked"),
    [
        (CENTRE, "sky", "2arcmin", 2 * u.arcmin),
        (CENTRE, "sky", "30arcsec,0.02deg", (30 * u.arcsec, 0.02 * u.deg)),
        (("--ra", "16:41:40.8", "--dec", "36:27:36"), "sky", "40", 40),
        (("--ra", "16h41m40.8s", "--dec", "+36d27m36s"), "sky", "40x20", (40, 20)),
        (("--x", "151.5", "--y", "99"), (151.5, 99), "41,20", (41, 20)),
        (("--x", "2", "--y", "298"), (2, 298), "20x30", (20, 30)),
    ],
)
def test_cutout_is_astropys(
    run, tmp_path: Path, place: tuple, position: object, size: str, asked: object
) -> None:
    output = tmp_path / "cut.fits"
    code, out, err = run("cutout", M13, *place, "--size", size, "-o", output)
    assert (code, err) == (0, "")
    with fits.open(M13) as file:
        before = file[0].header.copy()
        where = SkyCoord(250.42, 36.46, unit="deg") if position == "sky" else position
        expected = Cutout2D(file[0].data, where, asked, WCS(before), mode="trim")
    pixels, wcs = cutout_of(output)
    assert same_bits(pixels, expected.data)
    at = [(0, 0), (5.5, 7.25)]
    assert wcs.all_pix2world(at, 0).tolist() == expected.wcs.all_pix2world(at, 0).tolist()
    shape = " x ".join(map(str, expected.shape))
    assert re.fullmatch(
        rf"{re.escape(str(output))}: {shape} pixels; \d+ requests, \d+ bytes read\n", out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["cut.fits"]


def test_cutout_of_a_key_keeps_every_axis(run, tmp_path: Path) -> None:
    cube = np.arange(2 * 9 * 11, dtype=np.uint16).reshape(2, 9, 11)
    path, output = tmp_path / "cube.fits", tmp_path / "cut.fits"
    fits.PrimaryHDU(cube).writeto(path)
    for key, expected in {
        "1,2:5,3:9": np.s_[1:2, 2:5, 3:9],
        "-1,...": np.s_[1:2],
        "[..., -3:, -4]": np.s_[..., -3:, 7:8],
        "0": np.s_[0:1],
        ":,4:100:1": np.s_[:, 4:],
    }.items():
        code, out, _ = run("cutout", path, "--key", key, "-o", output, "--overwrite", "--json")
        pixels, wcs = cutout_of(output)
        assert code == 0
        assert same_bits(pixels, cube[expected]), key
        found = json.loads(out)
        assert found["shape"] == list(pixels.shape)
        first = wcs.wcs_pix2world([[0] * 3], 0)[0][::-1] - 1
        assert found["origin"] == first.tolist()
        assert pixels[0, 0, 0] == cube[tuple(found["origin"])]


def test_cutout_of_a_cube_takes_the_other_axes_whole(run, tmp_path: Path) -> None:
    cube = np.arange(3 * 9 * 11, dtype=np.int16).reshape(3, 9, 11)
    path, output = tmp_path / "cube.fits", tmp_path / "cut.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(cube, name="SCI")]).writeto(path)
    place = ("--x", 4, "--y", 5, "--size", "3x5", "--hdu", "sci")
    assert run("cutout", path, *place, "-o", output)[0] == 0
    assert same_bits(cutout_of(output)[0], cube[:, 4:7, 2:7])
    with fits.open(output) as file:
        assert [hdu.name for hdu in file] == ["PRIMARY", "SCI"]


FILLED = {
    "floats": (np.float32, {}, [], np.nan),
    "floats and a value": (np.float32, {}, ["--fill-value", "-1.5"], -1.5),
    "scaled floats": (np.float32, {"BSCALE": 2.0, "BZERO": 1.0}, ["--fill-value", "7"], 7.0),
    "integers": (np.int16, {}, ["--fill-value", "-7"], -7),
    "unsigned integers": (np.uint16, {}, ["--fill-value", "65535"], 65535),
    "long unsigned integers": (np.uint64, {}, ["--fill-value", str(2**64 - 1)], 2**64 - 1),
    "BLANK": (np.int16, {"BLANK": -99}, [], np.nan),
    "BLANK and a value": (np.int16, {"BLANK": -99}, ["--fill-value", "6"], 6),
    "BLANK and NaN": (np.int16, {"BLANK": -99}, ["--fill-value", "nan"], np.nan),
    "scaled integers": (np.int16, {"BSCALE": 0.25}, ["--fill-value", "0.75"], 0.75),
}


@pytest.mark.parametrize("name", FILLED)
def test_cutout_fills_what_is_off_the_image(run, tmp_path: Path, name: str) -> None:
    dtype, keywords, options, fill = FILLED[name]
    path, output = tmp_path / "image.fits", tmp_path / "cut.fits"
    hdu = fits.PrimaryHDU(np.arange(30).reshape(5, 6).astype(dtype))
    hdu.writeto(path)
    for keyword, value in keywords.items():
        fits.setval(path, keyword, value=value, after="NAXIS2")
    place = ("--x", 0, "--y", 4, "--size", 4, "--mode", "partial")
    code, _, err = run("cutout", path, *place, *options, "-o", output)
    assert (code, err) == (0, "")
    with fits.open(path) as file:
        pixels = file[0].data
        expected = np.full((4, 4), fill, pixels.dtype.newbyteorder("="))
        expected[:3, 2:] = pixels[2:5, :2]
    assert same_bits(cutout_of(output)[0], expected)


def test_cutout_needs_a_fill_value_only_where_there_is_something_to_fill(
    run, tmp_path: Path
) -> None:
    path, output = tmp_path / "image.fits", tmp_path / "cut.fits"
    fits.PrimaryHDU(np.zeros((5, 6), np.int16)).writeto(path)
    place = ("--y", 2, "--size", 2, "--mode", "partial", "-o", output)
    code, _, err = run("cutout", path, "--x", 0, *place)
    assert code == 2
    assert re.fullmatch(r"dask-fits: --fill-value: .*image\.fits: HDU 0 .*BLANK.*\n", err)
    assert not output.exists()
    assert run("cutout", path, "--x", 2, *place)[0] == 0
    code, _, err = run("cutout", path, "--x", 0, *place, "--overwrite", "--fill-value", "1.5")
    assert code == 2
    assert "no stored integer of 16 bits stands for 1.5" in err


@pytest.mark.parametrize("name", ["m13.fits", "m13_rice.fits", "large table", "extension"])
def test_cutout_costs_over_http_what_the_plan_says(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    content = served(name)
    place = ("--x", 130, "--y", 120, "--size", "40x50")
    with RangeServer(tmp_path) as server:
        (tmp_path / "image.fits").write_bytes(content)
        url = f"{server.url}/image.fits"
        monkeypatch.setattr(tiled, "ROWS", RowCache(1 << 20))
        code, out, err = run("cutout", url, *place, "--plan", "--json")
        assert (code, err) == (0, "")
        plan = json.loads(out)
        monkeypatch.setattr(tiled, "ROWS", RowCache(1 << 20))
        server.clear()
        assert run("cutout", url, *place, "-o", tmp_path / "cut.fits")[0] == 0
        opening, *rest = server.log
        assert len(rest) == plan["requests"]
        assert sum(request.bytes for request in rest) == plan["bytes"]
        assert opening.bytes <= 57_600
        table = run("plan", url, "--hdu", plan["hdu"], "--key", "100:140,105:155")[1]
        assert run("cutout", url, *place, "--plan")[1] == table
    with fits.open(io.BytesIO(content)) as file:
        assert same_bits(cutout_of(tmp_path / "cut.fits")[0], file[-1].data[100:140, 105:155])


def served(name: str) -> bytes:
    """A file whose image is its last HDU."""
    if name.endswith(".fits"):
        return Path(M13).with_name(name).read_bytes()
    pixels = np.random.default_rng(6).integers(0, 999, (300, 300)).astype(np.int32)
    large = {"compression_type": "RICE_1", "tile_shape": (4, 4)}
    image = fits.CompImageHDU(pixels, **large) if name == "large table" else fits.ImageHDU(pixels)
    return fits_bytes(fits.PrimaryHDU(), image)


def test_the_plan_of_a_cutout_writes_nothing(run, tmp_path: Path) -> None:
    output = tmp_path / "cut.fits"
    code, out, _ = run("cutout", M13, "--key", "3,4", "--plan", "-o", output)
    assert code == 0
    assert re.search(r"all +1 +4 +4 +1\.00", out)
    assert not list(tmp_path.iterdir())
    found = json.loads(run("cutout", M13, "--key", "3:5,4", "--plan", "--json")[1])
    place = {"hdu": 0, "origin": [3, 4], "shape": [2, 1]}
    assert found == place | {"requests": 1, "bytes": 1204, "useful_bytes": 8, "over_read": 150.5}


def test_an_output_that_exists_stays_and_nothing_is_read(run, tmp_path: Path) -> None:
    output = tmp_path / "cut.fits"
    output.write_bytes(b"precious")
    url = put("m13.fits", Path(M13).read_bytes())
    code, out, err = run("cutout", url, "--key", "3,4", "-o", output)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*cut\.fits: the file exists.*\n", err)
    assert output.read_bytes() == b"precious"
    assert not RecordingFileSystem.log
    assert run("cutout", url, "--key", "3,4", "-o", output, "--overwrite")[0] == 0
    assert cutout_of(output)[0].shape == (1, 1)


def test_a_cutout_that_fails_leaves_no_file(run, tmp_path: Path) -> None:
    path = tmp_path / "short.fits"
    path.write_bytes(Path(M13).read_bytes()[:100_000])
    for what in (("-o", tmp_path / "cut.fits"), ("--plan",)):
        with pytest.warns(FitsWarning):
            code, out, err = run("cutout", path, "--key", "200:210,:", *what)
        assert (code, out) == (1, "")
        assert "truncated" in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["short.fits"]


def test_a_size_in_angles_needs_the_sky(run, tmp_path: Path) -> None:
    path = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((9, 9))).writeto(path)
    for place, message in {
        ("--x", "3", "--y", "3", "--size", "3arcsec"): "an angle needs celestial coordinates",
        ("--ra", "3", "--dec", "3", "--size", "3"): "celestial",
    }.items():
        code, out, err = run("cutout", path, *place, "-o", tmp_path / "cut.fits")
        assert (code, out) == (1, "")
        assert re.fullmatch(rf"dask-fits: {path}: HDU 0 .*{message}.*\n", err)


# Cutouts of a catalogue

RICE = M13.replace("m13.fits", "m13_rice.fits")
STARS = "name,RA,Dec\nM 13,250.42,36.46\nedge,250.4733,36.46\nfar,12,36\nother,250.44,36.47\n"
SKY = SkyCoord([250.42, 250.4733, 12, 250.44], [36.46, 36.46, 36, 36.47], unit="deg")


@pytest.fixture
def stars(tmp_path: Path) -> Path:
    """On the image, over its edge, off it, and on it."""
    path = tmp_path / "stars.csv"
    path.write_text(STARS)
    return path


def listed(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def of_m13(number: int, size: Any = 20, mode: str = "partial", url: str = M13) -> Cutout2D:
    with fits.open(url) as file:
        pixels = file[-1].data
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        wcs = WCS(file[-1].header)
        return Cutout2D(pixels, SKY[number], size, wcs, mode=mode, fill_value=np.nan)


def test_cutouts_of_a_catalogue_are_astropys(run, stars: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ("cutouts", M13, "--catalog", stars, "-o", output)
    for size, asked in {
        "20": 20,
        "30x16": (30, 16),
        "30arcsec": 30 * u.arcsec,
        "0.5arcmin,20arcsec": [0.5 * u.arcmin, 20 * u.arcsec],
    }.items():
        code, out, err = run(*arguments, "--size", size, "--overwrite")
        assert (code, err) == (0, "")
        assert re.fullmatch(
            rf"{re.escape(str(output))}: \d requests, \d+ bytes\n"
            r"2 ok, 1 partial, 1 off, 0 failed, 0 unreadable files\n",
            out,
        )
        assert listed(output) == ["0.fits", "1.fits", "3.fits", "cutouts.csv"]
        for number in (0, 1, 3):
            pixels, wcs = cutout_of(output / f"{number}.fits")
            expected = of_m13(number, asked)
            assert same_bits(pixels, expected.data)
            at = [(0, 0), (5.5, 7.25)]
            assert wcs.all_pix2world(at, 0).tolist() == expected.wcs.all_pix2world(at, 0).tolist()
    lines = (output / "cutouts.csv").read_text().splitlines()
    assert lines[3] == "2,2,0,,off,,"


@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
def test_cutouts_in_every_mode_and_by_names(run, stars: Path, tmp_path: Path, mode: str) -> None:
    options = ("--catalog", stars, "--size", "20", "--mode", mode, "--names", "name")
    assert run("cutouts", M13, *options, "-o", tmp_path / "out")[0] == 0
    written = {"M_13": 0, "edge": 1, "other": 3}
    if mode == "strict":
        del written["edge"]
    assert listed(tmp_path / "out") == sorted([*(f"{n}.fits" for n in written), "cutouts.csv"])
    for name, number in written.items():
        pixels = cutout_of(tmp_path / "out" / f"{name}.fits")[0]
        assert same_bits(pixels, of_m13(number, mode=mode).data)
    assert run("cutouts", M13, *options, "-o", tmp_path / "out.zarr", "--json")[0] == 0
    out = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert out.attrs["mode"] == mode
    for number in (0, 3):
        assert same_bits(out["data"][number], of_m13(number).data)
    inside = int(np.isfinite(of_m13(1).data).sum())
    assert np.isfinite(out["data"][1]).sum() == (0 if mode == "strict" else inside)
    assert np.isfinite(out["data"][1, 0, 0]) == (mode == "trim")


def test_cutouts_of_a_pattern(run, stars: Path, tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    for number in range(3):
        hdu = fits.PrimaryHDU(fits.getdata(M13) + np.int16(number), fits.getheader(M13))
        hdu.writeto(tmp_path / "tiles" / f"{number}.fits")
    options = ("--catalog", stars, "--size", "8", "-o", tmp_path / "out")
    found = json.loads(run("cutouts", tmp_path / "tiles" / "*.fits", M13, *options, "--json")[1])
    counts = {"files": 4, "positions": 4, "ok": 8, "partial": 4, "off": 1, "failed": 0}
    assert {key: found[key] for key in counts} == counts
    for number in range(3):
        pixels = cutout_of(tmp_path / "out" / f"0_{number}.fits")[0]
        assert same_bits(pixels, of_m13(0, 8).data + np.float32(number))
    assert same_bits(cutout_of(tmp_path / "out" / "0_3.fits")[0], of_m13(0, 8).data)


@pytest.mark.parametrize("name", ["out", "out.zarr", "out.zarr/"])
def test_cutouts_cost_over_http_what_is_printed(
    run, stars: Path, tmp_path: Path, range_server: RangeServer, name: str
) -> None:
    files = [f"{range_server.url}/m13.fits", f"{range_server.url}/m13_rice.fits"]
    arguments = ("cutouts", *files, "--catalog", stars, "--size", "20")
    output = f"{tmp_path}/{name}"
    code, out, err = run(*arguments, "--plan", "--json", "-o", output)
    assert (code, err, listed(tmp_path)) == (0, "", ["stars.csv"])
    planned = json.loads(out)
    assert len(range_server.log) == 2, "one to open each of the files"
    counts = {"ok": 4, "partial": 2, "off": 1, "failed": 0, "unreadable_files": 0}
    assert [*planned.items()][:7] == [*{"files": 2, "positions": 4, **counts}.items()]
    assert [*planned][7:] == ["requests", "bytes", "useful_bytes", "over_read"]
    table = run(*arguments, "--plan")[1].splitlines()
    assert table[-1] == "4 ok, 2 partial, 1 off, 0 failed, 0 unreadable files"
    assert table[1].split()[:3] == ["all", str(planned["requests"]), str(planned["bytes"])]
    range_server.clear()
    code, out, err = run(*arguments, "-o", output, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"output": output, **planned}
    reading = range_server.log[2:]
    assert len(reading) == planned["requests"]
    assert sum(request.bytes for request in reading) == planned["bytes"]
    assert run(*arguments, "-o", output)[0] == 1, "it is there already"
    out = run(*arguments, "-o", output, "--overwrite")[1]
    assert out.splitlines() == [
        f"{output}: {planned['requests']} requests, {planned['bytes']} bytes",
        "4 ok, 2 partial, 1 off, 0 failed, 0 unreadable files",
    ]
    if name == "out":
        names = [f"{n}_{f}.fits" for n in (0, 1, 3) for f in (0, 1)]
        assert listed(tmp_path / "out") == [*names, "cutouts.csv"]
        for n, f in ((0, 0), (1, 1), (3, 1)):
            pixels = cutout_of(tmp_path / "out" / f"{n}_{f}.fits")[0]
            assert same_bits(pixels, of_m13(n, url=(M13, RICE)[f]).data)
    else:
        group = zarr.open_group(output, mode="r")
        assert group["position"][:].tolist() == [0, 0, 1, 1, 2, 3, 3]
        assert group["file"][:].tolist() == [0, 1, 0, 1, -1, 0, 1]
        assert group.attrs["files"] == files
        assert same_bits(group["data"][0], of_m13(0).data)
        assert same_bits(group["data"][3], of_m13(1, url=RICE).data)
        assert np.isnan(group["data"][4]).all()


def three_images(root: Path) -> Path:
    pixels = np.arange(3000, dtype=np.int16).reshape(50, 60)
    hdus = [fits.ImageHDU(pixels + np.int16(n), name="SCI", ver=n) for n in (1, 2)]
    hdus.append(fits.ImageHDU(pixels - np.int16(5), name="DQ"))
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(root / "images.fits")
    return root / "images.fits"


def test_cutouts_of_several_hdus_by_pixels(run, tmp_path: Path) -> None:
    path, catalog = three_images(tmp_path), tmp_path / "at.csv"
    catalog.write_text("col,y,x,row\n30,1,2,20\n10,3,4,40\n")
    pixels = np.arange(3000, dtype=np.int16).reshape(50, 60)
    at = ("--catalog", catalog, "--pixels", "--columns", "col", "row", "--size", "6x4")
    hdus = ("--hdu", "DQ", "--hdu", "SCI,2")
    assert run("cutouts", path, *at, *hdus, "-o", tmp_path / "out")[0] == 0
    for number, key in enumerate([np.s_[17:23, 28:32], np.s_[37:43, 8:12]]):
        with fits.open(tmp_path / "out" / f"{number}.fits") as file:
            file.verify("exception")
            assert [(h.name, h.ver) for h in file] == [("PRIMARY", 1), ("SCI", 2), ("DQ", 1)]
            assert same_bits(file["SCI", 2].data.astype("i2"), (pixels + 2)[key])
            assert same_bits(file["DQ"].data.astype("i2"), (pixels - 5)[key])
    assert run("cutouts", path, *at, *hdus, "-o", tmp_path / "out.zarr")[0] == 0
    data = zarr.open_group(tmp_path / "out.zarr", mode="r")["data"]
    assert data.shape == (2, 2, 6, 4)
    assert same_bits(data[1, 1], (pixels + 2)[37:43, 8:12])
    assert run("cutouts", path, *at, "--hdu", "DQ", "-o", tmp_path / "one.zarr")[0] == 0
    data = zarr.open_group(tmp_path / "one.zarr", mode="r")["data"]
    assert same_bits(data[:], np.stack([pixels[17:23, 28:32], pixels[37:43, 8:12]]) - np.int16(5))


def test_cutouts_of_an_hdu_by_name_and_one_by_index(run, tmp_path: Path) -> None:
    path, catalog = three_images(tmp_path), tmp_path / "at.csv"
    catalog.write_text("x,y\n30,20\n")
    at = ("--catalog", catalog, "--pixels", "--size", "6")
    code, _, err = run("cutouts", path, *at, "--hdu", "DQ", "--hdu", 1, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    with fits.open(tmp_path / "out" / "0.fits") as file:
        assert [(h.name, h.ver) for h in file] == [("PRIMARY", 1), ("SCI", 1), ("DQ", 1)]


def test_cutouts_fill_what_is_off_the_image(run, tmp_path: Path) -> None:
    pixels = np.arange(30, dtype=np.int16).reshape(5, 6)
    path, catalog = tmp_path / "image.fits", tmp_path / "at.csv"
    fits.PrimaryHDU(pixels).writeto(path)
    catalog.write_text("x,y\n0,4\n3,2\n")
    arguments = ("cutouts", path, "--catalog", catalog, "--pixels", "--size", "4")
    expected = np.full((4, 4), -7, np.int16)
    expected[:3, 2:] = pixels[2:5, :2]
    for name in ("out", "out.zarr"):
        assert run(*arguments, "--fill-value", "-7", "-o", tmp_path / name)[0] == 0
    assert same_bits(cutout_of(tmp_path / "out" / "0.fits")[0], expected)
    data = zarr.open_group(tmp_path / "out.zarr", mode="r")["data"]
    assert same_bits(data[:], np.stack([expected, pixels[:4, 1:5]]))
    # Without a value one fails, and the other is written; a group has one value for all.
    code, out, err = run(*arguments, "-o", tmp_path / "few")
    assert (code, listed(tmp_path / "few")) == (1, ["1.fits", "cutouts.csv"])
    assert out.endswith("1 ok, 0 partial, 0 off, 1 failed, 0 unreadable files\n")
    assert re.fullmatch(r"  .*image\.fits: HDU 0 .*BLANK.*\n", err)
    code, out, err = run(*arguments, "-o", tmp_path / "few.zarr")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*fill_value: expected a value of .*int16.*\n", err)
    assert not (tmp_path / "few.zarr").exists()


def test_cutouts_of_integers_over_the_edge_can_be_planned(run, tmp_path: Path) -> None:
    path, catalog = tmp_path / "image.fits", tmp_path / "at.csv"
    fits.PrimaryHDU(np.zeros((5, 6), np.int16)).writeto(path)
    catalog.write_text("x,y\n0,4\n")
    code, out, err = run("cutouts", path, "--catalog", catalog, "--pixels", "--size", "4", "--plan")
    assert (code, err) == (0, "")
    assert out.endswith("0 ok, 1 partial, 0 off, 0 failed, 0 unreadable files\n")


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_cutouts_of_one_unreadable_file_among_many(
    run, stars: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "bad.fits").write_text("this is no FITS file")
    output = tmp_path / name
    files = (M13, tmp_path / "bad.fits", tmp_path / "gone.fits", RICE)
    arguments = ("cutouts", *files, "--catalog", stars, "--size", "20")
    code, out, err = run(*arguments, "-o", output)
    assert code == 1
    assert out.endswith("4 ok, 2 partial, 0 off, 1 failed, 2 unreadable files\n")
    lines = err.splitlines()
    assert len(lines) == 3
    assert "bad.fits" in lines[0]
    assert re.search(r"gone\.fits: no such file", lines[1])
    assert "2 could not, the first" in lines[2], "the position that may be on them"
    if name == "out":
        assert same_bits(cutout_of(output / "0_3.fits")[0], of_m13(0, url=RICE).data)
        assert len(listed(output)) == 7
    else:
        group = zarr.open_group(output, mode="r")
        assert group["file"][:].tolist() == [0, 3, 0, 3, -1, 0, 3]
        assert same_bits(group["data"][0], of_m13(0).data)
    code, out, _ = run(*arguments, "--plan", "--json")
    found = json.loads(out)
    assert (code, found["files"], found["failed"], found["unreadable_files"]) == (1, 4, 1, 2)
    code, out, err = run("cutouts", *files[1:3], *arguments[5:], "-o", output, "--overwrite")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*bad\.fits.*\n", err)


def test_cutouts_say_twenty_reasons(run, stars: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"gone{n:02}.fits" for n in range(25)]
    for path in files[:22]:
        path.write_text("this is no FITS file")
    stars.write_text("ra,dec\n250.42,36.46\n")
    code, _, err = run(
        *("cutouts", M13, *files, "--catalog", stars, "--size", "8", "-o", tmp_path / "out")
    )
    assert code == 1
    assert len(err.splitlines()) == 21
    assert err.endswith("  and 5 more\n")


@pytest.mark.parametrize("name", ["out", "out.zarr"])
def test_an_output_of_cutouts_that_exists_stays(
    run, stars: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    arguments = ("cutouts", M13, "--catalog", stars, "--size", "20", "-o", output)
    assert run(*arguments)[0] == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert re.fullmatch(rf"dask-fits: {re.escape(str(output))}.*exists.*\n", err)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    stars.write_text("ra,dec\n250.44,36.47\n")
    assert run(*arguments, "--overwrite")[0] == 0
    if name == "out":
        pixels = cutout_of(output / "0.fits")[0]
    else:
        (pixels,) = zarr.open_group(output, mode="r")["data"][:]
    assert same_bits(pixels, of_m13(3).data)


def test_cutouts_that_are_interrupted_leave_whole_files_alone(
    run, stars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, sync = 0, os.fsync

    def interrupted(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    with dask.config.set(scheduler="sync"):
        code, out, err = run(
            *("cutouts", M13, "--catalog", stars, "--size", "20", "-o", tmp_path / "out")
        )
    assert (code, out, err) == (130, "", "dask-fits: interrupted\n")
    (name,) = listed(tmp_path / "out")
    pixels = cutout_of(tmp_path / "out" / name)[0]
    assert same_bits(pixels, of_m13(int(name[0])).data)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("ra,dec\n1,91\n", (), "expected coordinates"),
        ("a,b\n1,91\n", (), "expected columns of right ascension and declination, found a, b"),
        ("ra,dec\n1,91\n", ("--pixels",), "expected columns of x and y, found ra, dec"),
        ("ra,dec\n1,91\n", ("--columns", "ra", "de"), "expected a column 'de'"),
        ("ra,dec\n1,9\n", ("--names", "id"), "expected a column 'id', found ra, dec"),
        ("ra,dec\n1,2,3\n4\n", (), "cannot be read as a table"),
        ("", (), "found none"),
    ],
)
def test_a_catalogue_that_is_none(
    run, tmp_path: Path, content: str, options: tuple, message: str
) -> None:
    (tmp_path / "bad.csv").write_text(content)
    at = ("--catalog", tmp_path / "bad.csv", "--size", "3", "-o", tmp_path / "out")
    code, out, err = run("cutouts", "/no/such/file.fits", *at, *options)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"dask-fits: --catalog: .*bad\.csv: .*{message}.*\n", err)
    assert listed(tmp_path) == ["bad.csv"]


def test_a_catalogue_without_rows_makes_no_cutouts(run, tmp_path: Path) -> None:
    (tmp_path / "none.csv").write_text("ra,dec\n")
    at = ("--catalog", tmp_path / "none.csv", "--size", "3", "-o", tmp_path / "out")
    code, out, err = run("cutouts", M13, *at)
    assert (code, err) == (0, "")
    assert out.endswith(
        ": 0 requests, 0 bytes\n0 ok, 0 partial, 0 off, 0 failed, 0 unreadable files\n"
    )
    assert listed(tmp_path / "out") == ["cutouts.csv"]


def test_cutouts_of_which_two_have_one_name(run, stars: Path, tmp_path: Path) -> None:
    stars.write_text("name,ra,dec\na,250.42,36.46\na,250.44,36.47\n")
    at = ("--catalog", stars, "--size", "3", "--names", "name", "-o", tmp_path / "out")
    code, out, err = run("cutouts", M13, *at)
    assert code in (1, 2)
    assert out == ""
    assert re.fullmatch(r"dask-fits: .*names: expected different ones, found 'a' twice\n", err)
    assert not (tmp_path / "out").exists()


def test_an_error_in_the_names_is_said_in_words(run, stars: Path, tmp_path: Path) -> None:
    stars.write_text("name,ra,dec\na,250.42,36.46\na,250.44,36.47\n")
    at = ("--catalog", stars, "--size", "3", "--names", "name", "-o", tmp_path / "out")
    assert "ValueError" not in run("cutouts", M13, *at)[2]


NOWHERE = ["-o", "/no/such/dir/cut.fits"]
HERE = ["--x", "9", "--y", "9"]
MANY = ["--catalog", "nope.csv", "--size", "3"]

FAILURES = {
    "no place": (["cutout", M13, *NOWHERE], 2, "--ra and --dec, --x and --y, or --key"),
    "two places": (["cutout", M13, *HERE, "--key", "3", *NOWHERE], 2, "or --key"),
    "two positions": (["cutout", M13, *HERE, *CENTRE, "--size", "3", *NOWHERE], 2, "give one of"),
    "half a position": (["cutout", M13, "--ra", "3", "--size", "3", *NOWHERE], 2, "--dec"),
    "no size": (["cutout", M13, *HERE, *NOWHERE], 2, "--size"),
    "a size of a key": (["cutout", M13, "--key", "3", "--size", "3", *NOWHERE], 2, "--size"),
    "a mode of a key": (["cutout", M13, "--key", "3", "--mode", "trim", *NOWHERE], 2, "--mode"),
    "no file to write": (["cutout", M13, "--key", "3"], 2, "-o"),
    "a fill value": (["cutout", M13, "--key", "3", "--fill-value", "3"], 2, "--fill-value"),
    "a fill value that is none": (["cutout", M13, "--fill-value", "x"], 2, "--fill-value"),
    "a size of 0": (["cutout", M13, *HERE, "--size", "0"], 2, "'0' is no size"),
    "a size below 0": (["cutout", M13, *HERE, "--size", "-3arcsec"], 2, "is no size"),
    "a size in metres": (["cutout", M13, *HERE, "--size", "3m"], 2, "is no size"),
    "a size of no end": (["cutout", M13, *HERE, "--size", "inf deg"], 2, "is no size"),
    "three sizes": (["cutout", M13, *HERE, "--size", "3,4,5"], 2, "has 3 lengths"),
    "a size beyond reason": (
        ["cutout", M13, *HERE, "--size", "99999999999", "--mode", "partial", "--plan"],
        *(1, "at most 1099511627776 pixels"),
    ),
    "a step": (["cutout", M13, "--key", "::2,3", *NOWHERE], 2, "step of 2; only step 1"),
    "a negative step": (["cutout", M13, "--key", "3,::-1", *NOWHERE], 2, "step of -1"),
    "too many axes": (["cutout", M13, "--key", "3,4,5", *NOWHERE], 2, "too many indices"),
    "no declination": (["cutout", M13, "--dec", "91"], 2, "'91' is not between -90 and 90"),
    "no angle": (["cutout", M13, "--ra", "12:61:00"], 2, "'12:61:00' is no angle"),
    "no number": (["cutout", M13, "--x", "nan"], 2, "not a finite number"),
    "a key off the image": (
        ["cutout", M13, "--key", "300,:", *NOWHERE],
        1,
        "no pixel of the image",
    ),
    "a box off the image": (
        ["cutout", M13, "--x", "-9", "--y", "9", "--size", "3", *NOWHERE],
        *(1, r"m13\.fits: HDU 0 .*lies off the image"),
    ),
    "a position far off": (
        ["cutout", M13, "--ra", "70", "--dec", "-36", "--size", "3", *NOWHERE],
        *(1, r"m13\.fits: HDU 0 .*lies off the image"),
    ),
    "a box over the edge": (
        ["cutout", M13, "--x", "0", "--y", "9", "--size", "9", "--mode", "strict", *NOWHERE],
        *(1, "reaches over its edge"),
    ),
    "a cutout that cannot be written": (["cutout", M13, "--key", "3", *NOWHERE], 1, "no/such/dir"),
    "no output for cutouts": (["cutouts", M13, *MANY], 2, "-o is missing"),
    "no catalogue": (["cutouts", M13, "--size", "3", "--plan"], 2, "--catalog"),
    "a catalogue that is missing": (["cutouts", M13, *MANY, "--plan"], 1, "nope.csv"),
    "a catalogue that is a directory": (
        ["cutouts", M13, "--catalog", "/", "--size", "3", "--plan"],
        *(2, "--catalog.*is a directory"),
    ),
    "no size of cutouts": (["cutouts", M13, *MANY[:2], "--plan"], 2, "--size"),
    "a size of cutouts that is none": (
        ["cutouts", M13, *MANY[:2], "--size", "3m", "--plan"],
        *(2, "'3m' is no size"),
    ),
    "no files to cut": (["cutouts", *MANY, "--plan"], 2, "FILES"),
    "half of the columns": (["cutouts", M13, *MANY, "--columns", "ra"], 2, "--columns"),
    "a mode that is none": (["cutouts", M13, *MANY, "--mode", "some", "--plan"], 2, "--mode"),
    "a value that is none": (["cutouts", M13, *MANY, "--fill-value", "x"], 2, "--fill-value"),
    "a missing file": (["info", "nope.fits"], 1, r"nope\.fits: no such file"),
    "no URL": (["info"], 2, "URL"),
    "no command": (["frobnicate", M13], 2, "frobnicate"),
    "a bad option": (["info", M13, "--frob"], 2, "--frob"),
    "a bad key": (["plan", M13, "--key", "1:2:3:4"], 2, "1:2:3:4"),
    "a key out of bounds": (["plan", M13, "--key", "300"], 2, "out of bounds"),
    "chunks of another shape": (["plan", M13, "--chunks", "10,20,30"], 2, "--chunks"),
    "chunks that are none": (["plan", M13, "--chunks", "much"], 2, "--chunks.*much"),
    "a missing HDU": (["header", M13, "--hdu", "SCI"], 1, r"no HDU 'SCI'.*PRIMARY"),
    "a page, not a file": (["info", __file__], 1, "not a FITS file"),
    "an option without a value": (["info", M13, "--storage-options", "anon"], 2, "key=value"),
    "--anon on a disk": (["info", M13, "--anon"], 2, "--anon"),
    "no output": (["preview", M13], 2, "output"),
    "an output that cannot be": (["preview", M13, "-o", "/no/such/dir/a.png"], 1, "no/such/dir"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_is_one_line_on_stderr(run, name: str) -> None:
    arguments, expected, message = FAILURES[name]
    code, out, err = run(*arguments)
    assert code == expected
    assert out == ""
    assert re.fullmatch(rf"dask-fits: .*{message}.*\n", err)


def test_debug_shows_the_traceback(run) -> None:
    code, _, err = run("info", "nope.fits", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_asking_a_table_for_pixels(run, several: str) -> None:
    assert "expected an image, found bintable" in run("stats", several, "--hdu", "CAT")[2]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://b/a.fits", {"anon": True}),
        ("gs://b/a.fits", {"token": "anon"}),
        ("zip://a.fits::s3://b/a.zip", {"s3": {"anon": True}}),
    ],
)
def test_anon_is_what_the_store_calls_it(
    run, monkeypatch: pytest.MonkeyPatch, url: str, expected: dict
) -> None:
    seen = []
    monkeypatch.setattr(
        options, "open_file", lambda url, storage_options, index: seen.append(storage_options)
    )
    run("info", url, "--anon", "--storage-options", "a=1", "--storage-options", 'b={"c": [true]}')
    run("info", url, "--anon", "--storage-options", "d=text=more")
    assert seen == [{"a": 1, "b": {"c": [True]}, **expected}, {"d": "text=more", **expected}]


def test_help_is_there_for_every_command(run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    names = ("info", "header", "plan", "stats", "preview", "cutout", "cutouts", "mosaic")
    for name in (*names, "index", "index-gz"):
        assert name in out
        code, text, _ = run(name, "--help")
        assert code == 0
        assert "--storage-options" in text
        assert "--anon" in text


def test_the_examples_of_the_help_are_a_line_each(run) -> None:
    assert "\n  dask-fits stats   image.fits --hdu SCI\n" in run("--help")[1]
    text = run("cutout", "--help")[1]
    assert "\n  dask-fits cutout URL --x 150 --y 100 --size 64x32 --plan\n" in text


def test_the_examples_of_cutouts_can_be_run(run) -> None:
    examples = re.findall(r"^  dask-fits cutouts (.*)$", run("cutouts", "--help")[1], re.MULTILINE)
    examples += re.findall(r"^  dask-fits cutouts (.*)$", run("--help")[1], re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        with cutouts_command.make_context("cutouts", shlex.split(example)) as context:
            assert context.params["files"]
            assert context.params["output"] or context.params["plan"]


def test_version(run) -> None:
    assert run("--version") == (0, f"dask-fits, version {dask_fits.__version__}\n", "")


def without(
    modules: tuple[str, ...], *arguments: str, run: str = "from dask_fits.cli import main; main()"
) -> subprocess.CompletedProcess[str]:
    """Run the command line, or other code, where modules cannot be imported."""
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); {run}"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_without_click_the_command_line_names_the_extra() -> None:
    done = without(("click",), "info", M13)
    said = "dask-fits: click is not installed: pip install 'dask_fits[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_without_pillow_preview_names_the_extra(tmp_path: Path) -> None:
    done = without(("PIL",), "preview", M13, "-o", str(tmp_path / "m13.png"))
    said = "dask-fits: Pillow is not installed: pip install 'dask_fits[cli]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)
    assert without(("PIL",), "info", M13).returncode == 0


def test_the_package_needs_neither_click_nor_pillow() -> None:
    reads = (
        "import dask_fits; hdu = dask_fits.open(sys.argv[1])[0]; print(hdu.data.max().compute(), "
        "hdu.section[10, 20], hdu.cutout((9, 9), 3).data.compute().sum())"
    )
    done = without(("click", "PIL"), M13, run=reads)
    assert done.stderr == ""
    pixels = fits.getdata(M13)
    expected = [pixels.max(), pixels[10, 20], pixels[8:11, 8:11].sum()]
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], expected)


def test_the_console_script(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("dask-fits")
    command = [script] if script.exists() else [sys.executable, "-m", "dask_fits.cli"]
    env = {**os.environ, "PYTHONPATH": str(Path(dask_fits.__file__).parents[1])}
    done = subprocess.run([*command, "info", M13], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "float32" in done.stdout
    head = subprocess.run(
        f"{' '.join(map(str, command))} header {M13} | true",
        env=env,
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in head.stderr
    cut = tmp_path / "cut.fits"
    cut.write_bytes(Path(M13).read_bytes()[:100_000])
    done = subprocess.run([*command, "stats", cut], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.replace("\r", "\n").splitlines()
    assert lines[0].startswith("dask-fits: warning: ")
    assert re.match(r"dask-fits: .*HDU 0: the file is truncated: .*byte 100000", lines[-1])
