"""The examples, the demo and the README's code run, and print what astropy finds."""

from __future__ import annotations

import doctest
import gzip
import io
import os
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from PIL import Image

from tests.servers.gcs import GcsServer
from tests.servers.range_server import RangeServer
from tests.servers.s3 import PRIVATE, PUBLIC, S3Server
from tests.support.data import ROOT

M13 = ROOT / "tests" / "data" / "m13.fits"
RICE = M13.with_name("m13_rice.fits")
PIXELS = fits.getdata(M13).astype(np.float64)
CENTRE = PIXELS[145:155, 140:160]

pytestmark = pytest.mark.timeout(300)  # processes of many imports, on a busy machine

FOREIGN = re.compile("AWS_|GOOGLE_|GCS|STORAGE_EMULATOR_HOST|DASK_|FSSPEC_")
"""Settings of the machine that the tests run on, which an example would follow."""


def run(
    *command: str, environment: Mapping[str, str] | None = None, code: int = 0
) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    path = os.pathsep.join(filter(None, [str(ROOT), ours.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**ours, "PYTHONPATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def example(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    return run(f"examples/{name}.py", *arguments, environment=environment).stdout


CENTRE_MEAN = f"mean {CENTRE.mean():.3f}"
PLAN = "<ReadPlan: 1 requests, 10880 bytes, 800 useful, over-read 13.60x>"


@pytest.mark.parametrize("arguments", [(), (str(M13),)])
def test_local_file(arguments: tuple[str, ...]) -> None:
    said = example("local_file", *arguments)
    assert "(300, 300)  float32  2880         360000" in said
    assert "axes: ['RA---TAN', 'DEC--TAN']" in said
    assert f"centre: shape (10, 20), {CENTRE_MEAN}\n" in said
    assert f"as one read: {PLAN}\n" in said
    assert "in chunks of 50 x 50: <ReadPlan: 2 requests" in said
    assert f"mean: {PIXELS.mean():.3f}\n" in said
    assert f"brightest pixel: {PIXELS.max()}\n" in said


def test_compressed_image() -> None:
    said = example("compressed_image")
    assert said.startswith("compressed-image RICE_1 (300, 300) float32\nNAXIS = 2 False\n")
    packed = fits.getdata(RICE).astype(np.float64)
    assert f"centre: shape (10, 20), mean {packed[145:155, 140:160].mean():.3f}\n" in said
    assert f"mean: {packed.mean():.3f}\n" in said
    with fits.open(RICE, disable_image_compression=True) as file:
        lengths = file[1].data.field("COMPRESSED_DATA")
        nbytes = sum(len(lengths[row]) for row in range(145, 155))
        assert f"costs: <ReadPlan: 1 requests, {nbytes} bytes, {nbytes} useful" in said
        unit = file[1].header["NAXIS1"] * 300 + file[1].header["PCOUNT"]
        assert f"of a data unit of {unit} bytes" in said


def test_many_cutouts(tmp_path: Path) -> None:
    said = example("many_cutouts", str(tmp_path))
    assert "the first star is in files [0 1]" in said
    assert "failed: []" in said
    largest = []
    for path in (tmp_path / "stamps").glob("*.fits"):
        with fits.open(path) as file:
            largest.append(np.nanmax(file[-1].data))
    assert f"brightest pixel of all: {max(largest):.0f}" in said
    lines = (tmp_path / "stamps" / "cutouts.csv").read_text().splitlines()
    stamps = [line.split(",")[5] for line in lines[1:]]
    assert len({int(line.split(",")[1]) for line in lines[1:]}) == 50
    assert {path.name for path in (tmp_path / "stamps").glob("*.fits")} == {s for s in stamps if s}
    assert any(",off," in line for line in lines)
    assert (tmp_path / "stamps.zarr").is_dir()


def test_packed_cube(tmp_path: Path) -> None:
    """The cube that the example makes, and the same on a server."""
    path = tmp_path / "cube.fits.gz"
    assert_tells_of_packed_cube(example("packed_cube", str(tmp_path)), path)
    with RangeServer(tmp_path) as server:
        said = example("packed_cube", str(tmp_path / "remote"), f"{server.url}/cube.fits.gz")
    assert len(list((tmp_path / "remote" / "indexes").glob("*.gzi"))) == 1
    assert_tells_of_packed_cube(said, path)


def assert_tells_of_packed_cube(said: str, path: Path) -> None:
    with fits.open(path) as file:
        flux, wave = file["FLUX"].data.astype(np.float64), file["WAVE"].data
    assert f"packed: gzip, {path.stat().st_size} bytes, without an index)" in said
    assert f"requests, {path.stat().st_size} bytes of gzip without an index, 4800 useful" in said
    region = flux[640:660, 20:32, 20:32]
    assert f"region: shape (20, 12, 12), mean {region.mean():.4f}\n" in said
    assert "with it: <ReadPlan: 1 requests," in said
    assert f"brightest channel: {wave[flux[:, 26, 26].argmax()]:.1f} Angstroms\n" in said
    assert f"white light: {flux.sum(axis=0).max():.1f} in" in said


def assert_is_a_picture(path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) >= 300
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_xarray_cube(tmp_path: Path) -> None:
    """The cube that the example makes, and the same on a server."""
    path = tmp_path / "local" / "cube.fits"
    assert_tells_of_cube(example("xarray_cube", str(path.parent)), path.parent, path)
    folder = tmp_path / "remote"
    with RangeServer(path.parent) as server:
        said = example("xarray_cube", str(folder), f"{server.url}/cube.fits")
    assert not (folder / "cube.fits").exists()
    assert_tells_of_cube(said, folder, path)


def assert_tells_of_cube(said: str, folder: Path, path: Path) -> None:
    cube, header = fits.getdata(path, header=True)
    assert (cube.shape, header["CTYPE1"]) == ((1, 48, 96, 96), "RA---SIN")
    wcs = WCS(header)
    freq = wcs.spectral.pixel_to_world_values(np.arange(48)) * u.Hz
    velocity = freq.to_value("km/s", u.doppler_radio(1.420405752 * u.GHz))
    moment0 = cube[0, 5:43].sum(axis=0, dtype=float) * (velocity[0] - velocity[-1]) / 47
    assert f"moment 0: 38 channels, brightest pixel {moment0.max():.4f}\n" in said
    y, x = np.unravel_index(moment0.argmax(), moment0.shape)
    spectrum = cube[0, :, y, x]
    peak = freq[spectrum.argmax()].to_value("MHz")
    assert f"spectrum: peak {spectrum.max():.4f} Jy/beam at {peak:.3f} MHz\n" in said
    assert spectrum.max() > 10 * spectrum[:5].std()  # a clear line
    position = wcs.celestial.pixel_to_world(x, y)
    cutout = Cutout2D(moment0, position, 2 * u.arcmin, wcs.celestial)
    sizes = dict(zip(("stokes", "freq", "y", "x"), (1, 48, *cutout.shape), strict=True))
    place = ", ".join(f"{place:.1f}" for place in cutout.wcs.world_to_pixel(position))
    assert f"cutout: {sizes}, the position at pixel ({place})\n" in said
    assert "from zarr: the same values: True, the same WCS: True\n" in said
    ra, dec = WCS(fits.getheader(M13)).pixel_to_world_values(100, 150)
    assert f"M13: x = 100, y = 150 is at RA {ra:.5f}, Dec {dec:.5f} deg\n" in said
    stored = zarr.open_array(folder / "moment0.zarr" / "moment0", mode="r")
    np.testing.assert_allclose(stored[:], moment0, rtol=1e-5, atol=1e-5)
    for name in ("moment0", "spectrum", "m13"):
        assert_is_a_picture(folder / f"{name}.png")


def test_night_of_exposures(tmp_path: Path) -> None:
    said = example("night_of_exposures", str(tmp_path))
    assert said.startswith("<Collection of 59 images in 60 files>\n")
    assert "failed: exposure17.fits: FitsFileNotFoundError\n" in said
    assert "failed: exposure44.fits: TruncatedFileError\n" in said
    assert "\nleft out: exposure44.fits\n" in said
    night = {name: [] for name in "gri"}
    for path in sorted(tmp_path.glob("*.fits")):
        if path.name != "exposure44.fits":
            pixels, header = fits.getdata(path, header=True)
            night[header["FILTER"]].append(pixels)
    assert "of filter r: 20 exposures, 1200 s\n" in said  # one of them was cut short
    for name, frames in night.items():
        median = np.median(frames, axis=0).max()
        assert f"{name}: brightest pixel {np.max(frames)}, of the median {median:.0f}\n" in said


def test_survey_index(tmp_path: Path) -> None:
    said = run("-m", "examples.survey_index", str(tmp_path)).stdout
    assert "<Collection of 200 images in 200 files>\n" in said
    assert "described by 200 requests\n" in said
    places = SkyCoord([80, 359.8], [89.3, -0.4], unit="deg")
    shown = [0, 0]
    for path in (tmp_path / "tiles").glob("*.fits"):
        wcs = WCS(fits.getheader(path))
        for number, place in enumerate(places):
            radii, angles = np.meshgrid(np.linspace(0, 0.5, 40), np.linspace(0, 360, 120))
            points = place.directional_offset_by(angles * u.deg, radii * u.deg)
            x, y = wcs.world_to_pixel(points)
            shown[number] += bool(((abs(x - 29.5) < 30) & (abs(y - 29.5) < 30)).any())
    assert f"half a degree: {shown[0]} tiles at the pole, {shown[1]} at RA 0\n" in said
    assert "selected and planned by 0 requests\n" in said
    assert "2 cutouts read by 2 requests, 4,400 bytes\n" in said
    assert "without the index: 202 requests\n" in said
    assert_is_a_picture(tmp_path / "footprints.png")


def test_mosaic(tmp_path: Path) -> None:
    """The tiles that the example makes, and two of them that are given."""
    said = run("-m", "examples.mosaic", str(tmp_path)).stdout
    assert said.startswith("<Mosaic of 9 images on (")
    found = re.findall(r"^(tile\d\.fits): background (-?[\d.]+)$", said, re.MULTILINE)
    added = [constant_of_tile(tmp_path / "tiles" / name) for name, _ in found]
    backgrounds = np.array([float(background) for _, background in found])
    assert len(added) == 9
    np.testing.assert_allclose(backgrounds, added - np.mean(added), atol=0.1)
    assert re.search(r"constants between [\d.]+ and [\d.]+ are found to within 0\.0\d\d\n", said)
    assert "at most 4 images at a pixel" in said
    assert "reproject has the same footprint: True\n" in said
    largest = re.search(r"largest relative difference from it is ([\de.-]+)\n", said)
    assert float(largest[1]) < 3e-7
    assert_is_a_picture(tmp_path / "mosaic.png")
    two = [str(tmp_path / "tiles" / name) for name, _ in found[:2]]
    said = run("-m", "examples.mosaic", str(tmp_path / "two"), *two).stdout
    assert said.startswith("<Mosaic of 2 images on (")
    assert "reproject has the same footprint: True\n" in said
    assert not (tmp_path / "two" / "tiles").exists()
    assert_is_a_picture(tmp_path / "two" / "mosaic.png")


def constant_of_tile(path: Path) -> float:
    """By how much a tile is brighter than the image that it was cut out of, by world coordinates."""
    pixels, header = fits.getdata(path, header=True)
    y, x = np.indices(pixels.shape)
    places = WCS(header).pixel_to_world_values(x, y)
    x, y = WCS(fits.getheader(M13)).world_to_pixel_values(*places)
    np.testing.assert_allclose([x, y], np.rint([x, y]), atol=1e-6)
    more = pixels - PIXELS[np.rint(y).astype(int), np.rint(x).astype(int)]
    assert more.std() < 3.5  # of the noise that one of them has
    return float(np.median(more))


def test_time_series(tmp_path: Path) -> None:
    said = example("time_series", str(tmp_path))
    assert said.startswith("<Stack of 500 frames (48, 48) float32, ")
    assert said.count("FitsFileNotFoundError") == 3
    assert "eclipse from 2026-03-14T22:01:00 to 2026-03-14T23:19:00, depth 0.100\n" in said
    assert "no value at ['2026-03-15T01:12:00']\n" in said
    damaged = re.search(r"frame 429 failed: (frame\d+\.fits\.gz): TruncatedFileError\n", said)
    with pytest.raises(EOFError), gzip.open(tmp_path / "frames" / damaged[1]) as file:
        file.read()
    group = zarr.open_group(tmp_path / "series.zarr", mode="r")
    assert group["data"].shape == (497, 48, 48)
    assert np.isnan(group["data"][429]).all()
    assert np.flatnonzero(group["status"][:]).tolist() == [429]


def test_over_http(range_server: RangeServer) -> None:
    said = example("over_http", f"{range_server.url}/m13.fits")
    assert "a cutout takes 1 request(s) and 10880 bytes\n" in said
    assert f"centre: shape (10, 20), {CENTRE_MEAN}\n" in said
    assert "10 chunks are fetched at the same time\n" in said
    assert f"brightest pixel of the middle rows: {PIXELS[100:200].max()}\n" in said
    gets = [request.bytes for request in range_server.log if request.method == "GET"]
    assert gets == [57_600, 10_880, *[10 * 300 * 4] * 10]


def test_s3_anonymous(s3_server: S3Server) -> None:
    url = s3_server.put("m13.fits", M13.read_bytes(), bucket=PUBLIC)
    said = example("s3_anonymous", url, environment=s3_server.anonymous_environment)
    assert "0 PRIMARY image (300, 300) float32\n" in said
    assert f"cutout: {PLAN}\n" in said
    assert f"centre: {CENTRE_MEAN}\n" in said
    assert f"brightest pixel of the centre: {CENTRE.max()}\n" in said


def test_s3_credentials(s3_server: S3Server) -> None:
    url = s3_server.put("m13.fits", M13.read_bytes())
    said = example("s3_credentials", url, environment=s3_server.environment)
    assert f"cutout: {PLAN}\n" in said
    assert f"centre: {CENTRE_MEAN}\n" in said
    assert f"brightest pixel: {PIXELS.max()}\n" in said


def test_written_from_a_cluster(s3_server: S3Server) -> None:
    target = f"s3://{PRIVATE}/from-a-cluster"
    said = example("written_from_a_cluster", target, environment=s3_server.environment)
    assert f"{target}/calibrated0.fits: 1 HDUs, (200, 200) float32, no unit, RA---TAN" in said
    assert f"{target}/moment0.fits: 1 HDUs, (200, 200) float32, Jy/beam.Hz, RA---SIN" in said
    bucket = fsspec.filesystem("s3", **s3_server.storage_options)
    names = sorted(path.rpartition("/")[2] for path in bucket.find(target))
    calibrated = [f"calibrated{number}.fits" for number in range(4)]
    assert names == [*calibrated, "moment0.fits", "mosaic.fits"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a check sum that is wrong
        for name in names:
            with fits.open(io.BytesIO(bucket.cat(f"{target}/{name}")), checksum=True) as hdus:
                pixels = hdus[0].data
                if name in calibrated:
                    assert abs(pixels.mean() - 50) < 0.5  # counts without the bias


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_s3_refuses_other_credentials(s3_server: S3Server, wrong: str) -> None:
    url = s3_server.put("m13.fits", M13.read_bytes())
    environment = {**s3_server.environment, wrong: "AKIANOTTHERIGHTONE00"}
    done = run("examples/s3_credentials.py", url, environment=environment, code=1)
    reason = "SignatureDoesNotMatch" if "SECRET" in wrong else "InvalidAccessKeyId"
    assert done.stderr.startswith(
        f"cannot open it: {url}: access denied (403 Forbidden {reason}); give credentials"
    )
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_cloud_guide(range_server: RangeServer, s3_server: S3Server) -> None:
    web = f"{range_server.url}/m13.fits"
    public = s3_server.put("m13.fits", M13.read_bytes(), bucket=PUBLIC)
    private = s3_server.put("m13.fits", M13.read_bytes())
    packed = f"{range_server.url}/m13_rice.fits"
    arguments = (web, public, packed, private)
    said = example("cloud_guide", *arguments, environment=s3_server.environment)
    assert "(300, 300)  float32  2880         360000" in said
    assert "header: BITPIX = -32, NAXIS = 2\n" in said
    assert f"image: shape (300, 300), brightest pixel {PIXELS.max()}\n" in said
    shown = f"shape (10, 20), float32, mean {PIXELS[10:20, 30:50].mean():.6f}\n"
    names = ["", "S3 ", "private "]
    assert all(f"\n{name}section: {shown}" in said for name in names)
    assert f"\nthe same with a key: {shown}" in said
    assert f"\nsection from nearby: {shown}" in said
    tiles = fits.getdata(RICE)[10:20, 30:50].mean(dtype=float)
    assert f"\ncompressed section: shape (10, 20), float32, mean {tiles:.6f}\n" in said
    assert f"refused: {private}: access denied (403 Forbidden); give credentials" in said
    assert s3_server.secret not in said
    with fits.open(M13) as file:
        wcs = WCS(file[0].header)
        position = wcs.pixel_to_world(150, 150)
        cutout = Cutout2D(file[0].data, position, 10 * u.arcsec, wcs)
        mean = cutout.data.mean(dtype=float)
    assert f"\ncutout: shape {cutout.shape}, float32, mean {mean:.6f}\n" in said
    nbytes = 9 * 1200 + cutout.shape[1] * 4
    assert f"cost of the cutout: <ReadPlan: 1 requests, {nbytes} bytes, 400 useful" in said
    assert "off its position by 0.000 arcsec\n" in said
    assert "a row: <ReadPlan: 1 requests, 1200 bytes, 1200 useful" in said
    assert "a column: <ReadPlan: 1 requests, 358804 bytes, 1200 useful" in said
    assert f"a section: {PLAN}\n" in said
    assert "a section, from nearby: <ReadPlan: 10 requests, 800 bytes, 800 useful" in said
    assert "all of it, in small parts: <ReadPlan: 3 requests, 360000 bytes, 360000 useful" in said
    gets = [request.bytes for request in range_server.log]
    heap = int(re.search(r"^RICE_1: (\d+) bytes of \d+$", said, re.MULTILINE)[1])
    with fits.open(RICE, disable_image_compression=True) as file:
        assert heap == sum(len(tile) for tile in file[1].data.field("COMPRESSED_DATA")[10:20])
    of_packed = [57_600, heap]
    assert gets == [57_600, 360_000, 10_880, *of_packed, 57_600, 57_600, *[80] * 10, 57_600]


def test_cloud_guide_leaves_out_what_it_has_no_url_for(
    range_server: RangeServer, s3_server: S3Server
) -> None:
    public = s3_server.put("m13.fits", M13.read_bytes(), bucket=PUBLIC)
    arguments = (f"{range_server.url}/m13.fits", public)
    said = example("cloud_guide", *arguments, environment=s3_server.anonymous_environment)
    assert "\nS3 section: " in said
    assert "RICE_1" not in said
    assert "private" not in said


def test_gcs(gcs_server: GcsServer) -> None:
    url = gcs_server.put("m13.fits", M13.read_bytes())
    said = example("gcs", url, "anon", environment=gcs_server.environment)
    assert f"cutout: {PLAN}\n" in said
    assert f"centre: {CENTRE_MEAN}\n" in said
    assert f"brightest pixel: {PIXELS.max()}\n" in said


def test_distributed_cluster() -> None:
    pytest.importorskip("distributed")
    said = example("distributed_cluster")
    assert "6 chunks, held by 2 processes\n" in said
    assert f"mean: {PIXELS.mean():.3f}, standard deviation: {PIXELS.std():.3f}\n" in said
    assert f"brightest pixel: {PIXELS.max()}\n" in said


@pytest.mark.parametrize("name", ["s3_credentials", "gcs"])
def test_examples_that_need_a_url_say_so(name: str) -> None:
    done = run(f"examples/{name}.py", code=1)
    assert f"python examples/{name}.py" in done.stderr


def test_every_example_is_tested_and_says_what_it_needs() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for script in (ROOT / "examples").glob("[!_]*.py"):
        assert f"def test_{script.stem}(" in tests, script.name
        assert "\nNeeds: " in script.read_text(encoding="utf-8"), script.name


def test_demo(tmp_path: Path) -> None:
    said = run("-m", "examples.demo", str(tmp_path / "new" / "folder")).stdout
    for command in ("info", "plan", "stats", "preview"):
        assert re.search(
            rf"^\$ .*dask-fits {command} http://127\.0\.0\.1:\d+/m13\.fits", said, re.MULTILINE
        )
    assert f"max    {PIXELS.max()}\n" in said
    assert "  -> the server saw 7 requests and sent 417,600 bytes\n" in said
    assert f"max    {fits.getdata(RICE).max()}\n" in said
    picture = tmp_path / "new" / "folder" / "m13.png"
    assert f"The picture is in {picture}\n" in said
    with Image.open(picture) as image:
        image.load()
        assert image.format == "PNG"
        assert image.size == PIXELS.shape[::-1]
        assert len(image.convert("L").getcolors()) > 2


def test_demo_fails_when_a_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m13.png").mkdir()  # where the picture should go
    (tmp_path / "m13.png" / "in the way").touch()
    steps = ("info", "preview")  # of those before it, each a process, one will do
    really = subprocess.run

    def some(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        skipped = command[3] not in steps
        return subprocess.CompletedProcess(command, 0) if skipped else really(command, **options)

    monkeypatch.setattr(subprocess, "run", some)
    monkeypatch.setattr(sys, "argv", ["demo", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"^2$"):
        runpy.run_module("examples.demo", run_name="__main__")
    printed, told = capfd.readouterr()
    assert "that step failed with exit code 2\n" in told
    assert "Traceback" not in told
    assert "tile-compressed" not in printed  # the step after it


@dataclass(frozen=True)
class Block:
    """A code block of a document."""

    line: int
    code: str
    runs: bool
    output: str | None
    """The block of text right after it, which is what it prints."""


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found = re.finditer(
        r"(?m)^(<!-- needs network -->\n+)?^```python\n(.*?)^```\n(?:\n*```text\n(.*?)^```)?",
        text,
        re.DOTALL,
    )
    return [
        Block(text[: block.start(2)].count("\n"), block[2], not block[1], block[3])
        for block in found
    ]


DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    namespace: dict[str, Any] = {"__name__": "document"}
    blocks = blocks_of(ROOT / name)
    assert any(block.runs for block in blocks)
    for block in blocks:
        code = compile("\n" * block.line + block.code, name, "exec")
        if not block.runs:
            continue
        capsys.readouterr()
        exec(code, namespace)
        printed = capsys.readouterr().out
        if block.output is not None:
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            alike = doctest.OutputChecker().check_output(block.output, printed, flags)
            assert alike, f"{name} line {block.line}: printed\n{printed}\nnot\n{block.output}"
