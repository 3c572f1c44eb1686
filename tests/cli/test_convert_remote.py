"""`dask-fits convert` between object stores, and what `dask-fits abandoned` lists and removes."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
from astropy.io import fits

from dask_fits.storage.atomic import temporary_path
from dask_fits.storage.sinks import sink_of
from dask_fits.storage.transfer import TransferConfig
from tests.servers.s3 import S3Server
from tests.support.command_line import Run, runner
from tests.support.data import M13
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.remote_targets import client_of

pytestmark = pytest.mark.untraced


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with dask.config.set(scheduler="threads"):
        yield runner(monkeypatch, capfd)


def options(name: str, values: dict[str, Any]) -> list[str]:
    """Options of a filesystem as they are given on a command line."""
    given = []
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        given += [name, f"{key}={text}"]
    return given


def native(values: Any) -> np.ndarray:
    return np.asarray(values).astype(values.dtype.newbyteorder("="))


@pytest.mark.slow
def test_from_store_to_store(run: Run, s3_server: S3Server) -> None:
    pixels = np.random.default_rng(1).normal(size=(40, 50)).astype("f4")
    hdus = [
        fits.PrimaryHDU(),
        fits.CompImageHDU(pixels, name="SCI", quantize_level=0, compression_type="GZIP_2"),
    ]
    source = s3_server.put("in/a.fits", fits_bytes(*hdus))
    target = "s3://private-images/out/converted.fits"
    given = [
        *options("--storage-options", s3_server.storage_options),
        *options("--output-options", s3_server.storage_options),
    ]
    code, out, err = run("convert", source, target, *given)
    assert (code, err) == (0, "")
    content = fsspec.filesystem("s3", **s3_server.storage_options).cat_file(target)
    assert out == f"{target}: 2 HDUs, {len(content)} bytes\n"
    with fits.open(io.BytesIO(content), checksum=True) as file:
        assert same_bits(native(file["SCI"].data), pixels)
    code, out, err = run("convert", source, target, *given)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: s3://private-images/out/converted\.fits: .*exists.*\n", err)
    assert run("convert", source, target, *given, "--overwrite", "--key", "3:9,:")[0] == 0
    content = fsspec.filesystem("s3", use_listings_cache=False, **s3_server.storage_options)
    found = fits.getdata(io.BytesIO(content.cat_file(target)), "SCI")
    assert same_bits(native(found), pixels[3:9])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["--storage-options", "--output-options"])
def test_options_that_are_refused_are_in_no_message(
    run: Run, s3_server: S3Server, which: str
) -> None:
    source = s3_server.put("in/b.fits", M13.read_bytes())
    good = s3_server.storage_options
    bad = {**good, "secret": "SECRET-hunter2"}
    given = [
        *options("--storage-options", bad if which == "--storage-options" else good),
        *options("--output-options", bad if which == "--output-options" else good),
    ]
    code, out, err = run("convert", source, "s3://private-images/out/refused.fits", *given)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: s3://private-images/.*\n", err)
    assert "SECRET" not in err
    names = fsspec.filesystem("s3", **good).find("private-images/out")
    assert "private-images/out/refused.fits" not in names


# What was left behind


@pytest.fixture
def left(tmp_path: Path) -> list[Path]:
    """Temporary files of one file, beside others."""
    target = tmp_path / "cube.fits"
    paths = [temporary_path(target, 16 * digit) for digit in "07"]
    for path in [*paths, temporary_path(tmp_path / "other.fits", "0" * 16), target]:
        path.write_bytes(b"x")
    return paths


def test_what_is_left_on_a_disk_is_listed(run: Run, left: list[Path], tmp_path: Path) -> None:
    code, out, err = run("abandoned", tmp_path / "cube.fits")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 2
    for line, path in zip(lines, left, strict=True):
        begun = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        assert re.fullmatch(rf"{re.escape(str(path))}, begun {begun}", line)
    records = json.loads(run("abandoned", tmp_path / "cube.fits", "--json")[1])
    assert [record["place"] for record in records] == list(map(str, left))
    assert all(re.fullmatch(r"\d{4}-.*\+00:00", record["started"]) for record in records)
    assert all(path.exists() for path in left)


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_left_on_a_disk_is_removed(
    run: Run, left: list[Path], tmp_path: Path, as_json: bool
) -> None:
    given = ("abandoned", tmp_path / "cube.fits", *["--json"][: int(as_json)])
    code, out, err = run(*given, "--remove")
    assert (code, err) == (0, "")
    if as_json:
        assert [record["place"] for record in json.loads(out)] == list(map(str, left))
    else:
        assert [line.endswith(": removed") for line in out.splitlines()] == [True, True]
    assert not any(path.exists() for path in left)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        temporary_path(Path("other.fits"), "0" * 16).name,
        "cube.fits",
    ]
    code, out, err = run(*given)
    nothing = "[]" if as_json else f"{tmp_path / 'cube.fits'}: nothing was left"
    assert (code, out.strip(), err) == (0, nothing, "")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("none/cube.fits", "none"),
        ("cube.fits.gz", "cube.fits.gz"),
        ("nothing://cube.fits", "nothing"),
    ],
)
def test_an_error_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("abandoned", url)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"dask-fits: .*\n", err)
    assert message in err


@pytest.mark.slow
def test_an_upload_that_was_begun_is_listed_and_removed(run: Run, s3_server: S3Server) -> None:
    url = "s3://private-images/out/killed.fits"
    sink = sink_of(url, s3_server.storage_options, TransferConfig(), overwrite=True)
    sink.begin(100_000_000)
    client = client_of(s3_server)

    def uploads() -> list[str]:
        found = client.list_multipart_uploads(Bucket="private-images").get("Uploads", [])
        return [each["UploadId"] for each in found if each["Key"] == "out/killed.fits"]

    assert len(uploads()) == 1
    given = options("--storage-options", s3_server.storage_options)
    code, out, err = run("abandoned", url, *given)
    assert (code, err) == (0, "")
    assert out.startswith(uploads()[0])
    assert "begun" in out
    assert run("abandoned", url, *given, "--remove")[0] == 0
    assert uploads() == []
    assert run("abandoned", url, *given)[1] == f"{url}: nothing was left\n"
