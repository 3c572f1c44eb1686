"""A file that exists under the very name is that file, whatever characters the name has."""

from __future__ import annotations

import csv
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from distributed import Client
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import dask_fits
from dask_fits.exceptions import FitsFileNotFoundError, StorageError
from dask_fits.file.fits_file import open as open_file
from dask_fits.format.extended_name import suggestion
from dask_fits.storage.errors import protocol_of
from dask_fits.storage.filesystem import split_chain, url_to_filesystem
from dask_fits.storage.local import LocalStore
from dask_fits.xarray_backend.entrypoint import FitsBackendEntrypoint
from tests.servers.gcs import GcsServer
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.fits_files import fits_bytes

RAW = b"\xff\xfe.fits"
NAMES = [
    *("m31::v2.fits", "zip::a.fits", "s3:a.fits", "file:x.fits", "http:.fits", "a::b::c.fits"),
    *("a#b?.fits", "a%20b.fits", "a b.fits", " lead.fits", "x\ny.fits", "é ü.fits", "~x.fits"),
    *("$HOME.fits", "-o.fits", "a.fits[1]", "[1].fits", "a.fits+1", "a*b.fits", "a?b.fits"),
    *("{a,b}.fits", "a\\b.fits", "'\".fits", "x" * 250 + ".fits", os.fsdecode(RAW)),
]


def file_of(value: int) -> bytes:
    return fits_bytes(fits.PrimaryHDU(np.full((8, 8), value, "i2")))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, with the files that names would be read as otherwise."""
    monkeypatch.chdir(tmp_path)
    for decoy in ("m31", "a", "x.fits", "a b", "v2.fits", "b.fits", "zip", "a.fits"):
        (tmp_path / decoy).write_bytes(file_of(9))
    return tmp_path


@pytest.mark.untraced
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_file_is_read_under_its_name_by_every_road(name: str, here: Path) -> None:
    path = here / name
    path.write_bytes(file_of(7))
    for given in (name, str(path), path, Path(name), os.path.join("..", here.name, name)):
        assert dask_fits.from_fits(given)[0, 0].compute() == 7
    one = dask_fits.cutouts([name], [[3, 3]], 2)
    assert (one.files, one.status.tolist()) == ((name,), ["ok"])
    assert one.data.max().compute() == 7
    if not name.startswith("~"):
        with xr.open_dataset(name, engine="fits", chunks={}) as ds:
            assert ds.PRIMARY.max().compute() == 7
    reader = pickle.loads(pickle.dumps(dask_fits.open(name)[0].reader()))
    assert isinstance(reader.store, LocalStore)
    os.chdir("/")
    assert reader[0, 0] == 7
    assert f"{dask_fits.open(path)} {reader}".encode()


def test_a_pattern_hands_on_the_very_files_it_found(here: Path) -> None:
    for n, name in enumerate(NAMES):
        (here / "some").mkdir(exist_ok=True)
        (here / "some" / name).write_bytes(file_of(n))
    found = dask_fits.cutouts("some/*", [[3, 3]], 2)
    assert sorted(found.files) == sorted(str(here / "some" / name) for name in NAMES)
    assert found.failures == {}
    values = dict(zip(found.files, found.data.max(axis=(1, 2)).compute(), strict=True))
    assert values == {str(here / "some" / name): n for n, name in enumerate(NAMES)}
    assert dask_fits.cutouts("some/m31:*.fits", [[3, 3]], 2).files == (
        str(here / "some" / "m31::v2.fits"),
    )


def test_the_names_are_written_so_that_they_can_be_read(here: Path) -> None:
    (here / "some::files").mkdir()
    for name in NAMES:
        (here / "some::files" / name).write_bytes(file_of(1))
    found = dask_fits.cutouts("some::files/*", [[3, 3]], 2)
    done = found.to_files("out::1")
    assert (done.status == "ok").all()
    with open("out::1/cutouts.csv", encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    expected = [name.replace(os.fsdecode(RAW), r"\xff\xfe.fits") for name in found.files]
    written = [name.replace("\n", r"\n") for name in expected]
    assert [row["file"] for row in rows] == [written[n] for n in found.file]
    assert {fits.getdata(here / "out::1" / row["path"]).max() for row in rows} == {1}

    found.to_zarr("out::1.zarr")
    assert (here / "out::1.zarr").is_dir()
    group = zarr.open_group(here / "out::1.zarr", mode="r")
    assert group.attrs["files"] == expected
    with pytest.raises(FileExistsError):
        found.to_zarr("out::1.zarr")
    found.to_zarr("out::1.zarr", overwrite=True)


def test_names_that_are_no_utf8_are_told(here: Path) -> None:
    raw = os.fsdecode(b"\xff.fits")
    with pytest.raises(FitsFileNotFoundError, match=r"\\xff\.fits: no such file") as caught:
        dask_fits.open(raw)
    str(caught.value).encode()
    with pytest.raises(StorageError, match=r"\\ud800"):
        dask_fits.open("\ud800.fits")
    (here / raw).write_bytes(file_of(1))
    file = dask_fits.open(raw)
    assert file.url == str(here / "\\xff.fits")
    repr(file).encode()
    os.utime(here / raw, (1, 1))
    with pytest.raises(dask_fits.FileChangedError) as changed:
        file[0].data.compute()
    str(changed.value).encode()


def test_the_command_line_takes_every_name(here: Path) -> None:
    for name in (RAW, b"a::b.fits", b"a*b.fits"):
        (here / os.fsdecode(name)).write_bytes(file_of(1))
        command = [sys.executable, "-m", "dask_fits.cli", "info", name]
        done = subprocess.run(command, capture_output=True)
        assert done.stderr == b""
        assert done.returncode == 0
    command = [sys.executable, "-m", "dask_fits.cli", "info", b"none\xff.fits[1]"]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == 1
    assert rb"none\xff.fits[1]: no such file; to choose an HDU" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_path_of_bytes_is_a_path(here: Path) -> None:
    class BytesPath:
        def __fspath__(self) -> bytes:
            return RAW

    (here / os.fsdecode(RAW)).write_bytes(file_of(7))
    assert dask_fits.from_fits(BytesPath()).max().compute() == 7


def test_workers_read_the_very_file(here: Path, client: Client) -> None:
    (here / "m31::v2.fits").write_bytes(file_of(7))
    image = dask_fits.from_fits("m31::v2.fits")
    assert client.compute(image.max()).result() == 7


def test_a_file_url_may_be_quoted(here: Path) -> None:
    for n, name in enumerate(("a b.fits", "a#b.fits", "a%20b.fits", "é.fits")):
        path = here / "quoted" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file_of(n))
        assert dask_fits.from_fits(path.as_uri()).max().compute() == (2 if n == 0 else n) or n == 0
        assert dask_fits.from_fits(f"file://{path}").max().compute() == n
    (here / "quoted" / "a%20b.fits").unlink()
    assert dask_fits.from_fits((here / "quoted" / "a b.fits").as_uri()).max().compute() == 0


def test_a_url_stays_a_url(here: Path) -> None:
    (here / "memory:").mkdir()
    (here / "memory:" / "a.fits").write_bytes(file_of(9))
    MemoryFileSystem().pipe_file("/a.fits", file_of(7))
    assert dask_fits.from_fits("memory://a.fits").max().compute() == 7
    assert dask_fits.from_fits("memory:/a.fits").max().compute() == 9


CHAINS = {
    "s3://bucket/a::b.fits": ["s3://bucket/a::b.fits"],
    "https://host/a::b.fits?x=a::b": ["https://host/a::b.fits?x=a::b"],
    "m31::v2.fits": ["m31::v2.fits"],
    "/data/a::b.fits": ["/data/a::b.fits"],
    "s3://bucket/zip::memory://a": ["s3://bucket/zip::memory://a"],
    "zip://a.fits::s3://bucket/b.zip": ["zip://a.fits", "s3://bucket/b.zip"],
    "zip://a.fits::/data/b.zip": ["zip://a.fits", "/data/b.zip"],
    "zip://a::b.fits::s3://bucket/c::d.zip": ["zip://a::b.fits", "s3://bucket/c::d.zip"],
    "simplecache::s3://bucket/a::b.fits": ["simplecache", "s3://bucket/a::b.fits"],
    "tar://a::zip://b.tar::memory://c.zip": ["tar://a", "zip://b.tar", "memory://c.zip"],
    "zip://a.fits::simplecache::s3://b/c.zip": ["zip://a.fits", "simplecache", "s3://b/c.zip"],
    "zip://a.fits": ["zip://a.fits"],
    "nosuch://a::b": ["nosuch://a::b"],
}


@pytest.mark.parametrize(("url", "expected"), CHAINS.items())
def test_where_a_chained_url_is_divided(url: str, expected: list[str]) -> None:
    assert split_chain(url) == expected


def test_archives_and_their_members_have_any_name(here: Path) -> None:
    for archive, member in (("b::c.zip", "a.fits"), ("c.zip", "a::b.fits"), ("d::e.zip", "x::y")):
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr(member, file_of(7))
        for place in (archive, here / archive, f"file://{here / archive}"):
            assert dask_fits.from_fits(f"zip://{member}::{place}").max().compute() == 7
    found = dask_fits.cutouts("zip://*.fits::c.zip", [[3, 3]], 2)
    assert found.data.max().compute() == 7
    with pytest.raises(FitsFileNotFoundError, match=r"zip://a\.fits::none\.zip: no such file"):
        dask_fits.open("zip://a.fits::none.zip")


KEYS = [
    *("a::b.fits", "a", "a b.fits", "a%20b.fits", "a#b.fits", "a?b.fits", "a[1].fits", "é.fits"),
    *("zip::a.fits", "d::e/f::g.fits", "m*n.fits", "s3://x.fits", " lead.fits", "a+b.fits"),
]


@pytest.mark.untraced
def test_keys_of_s3_are_what_is_written(s3_server: S3Server) -> None:
    options = s3_server.storage_options
    for n, key in enumerate(KEYS):
        url = s3_server.put(f"odd/{key}", file_of(n))
        assert dask_fits.from_fits(url, storage_options=options).max().compute() == n
    found = dask_fits.cutouts(
        "s3://private-images/odd/*.fits", [[3, 3]], 2, storage_options=options
    )
    values = dict(zip(found.files, found.data.max(axis=(1, 2)).compute(), strict=True))
    expected = {key: n for n, key in enumerate(KEYS) if "/" not in key and key != "a"}
    assert values == {f"s3://private-images/odd/{key}": n for key, n in expected.items()}


def test_names_of_gcs_are_what_is_written(gcs_server: GcsServer) -> None:
    for n, key in enumerate(("a::b.fits", "a b.fits", "a%20b.fits", "a#b.fits", "a?b.fits")):
        url = gcs_server.put(key, file_of(n))
        found = dask_fits.from_fits(url, storage_options=gcs_server.storage_options)
        assert found.max().compute() == n


def test_a_url_of_a_web_server_is_a_url(tmp_path: Path) -> None:
    names = ["a::b.fits", "a b.fits", "a%20b.fits", "a#b.fits", "a?b.fits", "[1].fits", "é.fits"]
    with RangeServer(tmp_path) as server:
        for n, name in enumerate(names):
            (tmp_path / name).write_bytes(file_of(n))
            assert dask_fits.from_fits(f"{server.url}/{quote(name)}").max().compute() == n
        assert dask_fits.from_fits(f"{server.url}/a b.fits").max().compute() == 1
        assert dask_fits.from_fits(f"{server.url}/a::b.fits").max().compute() == 0


def test_a_question_mark_is_part_of_a_name_where_urls_have_no_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FTPFileSystem, "_connect", lambda _: None)
    monkeypatch.setattr(FTPFileSystem, "__del__", lambda _: None)
    fs, path = url_to_filesystem("ftp://me@host/a#b?c::d.fits", {})
    assert path == "/a#b?c::d.fits"
    assert (fs.host, fs.cred[0]) == ("host", "me")


def test_the_protocol_is_that_of_the_storage() -> None:
    assert protocol_of("s3://bucket/a::b.fits") == "s3"
    assert protocol_of("zip://a::s3://bucket/b.zip") == "s3"
    assert protocol_of("a::b.fits") == ""


def test_opening_a_pattern_says_what_takes_patterns(here: Path) -> None:
    for name in ("none*.fits", "memory://none*.fits"):
        with pytest.raises(FitsFileNotFoundError, match=r"no such file; .*cutouts.*glob\.glob"):
            dask_fits.open(name)
    with pytest.raises(FitsFileNotFoundError, match=r"found no file that matches"):
        dask_fits.cutouts("none*.fits", [[3, 3]], 2)


EXTENDED = {
    "a.fits[1]": ["open 'a.fits' as f", "f[1] ", "--hdu 1)"],
    "a.fits+1": ["open 'a.fits' as f", "f[1] ", "--hdu 1)"],
    "s3://b/a.fits[SCI, 2]": ["open 's3://b/a.fits' as f", "f['SCI', 2] ", "--hdu SCI,2)"],
    "a.fits[SCI]": ["f['SCI'] ", "--hdu SCI)"],
    "a.fits[SCI][11:20,1:5]": ["f['SCI'].section[0:5, 10:20]", "--hdu SCI --key 0:5,10:20)"],
    "a.fits[11:20,1:5]": ["f[0].section[0:5, 10:20]", "(command line: --key 0:5,10:20)"],
    "a.fits[events][pha > 3]": ["cfitsio's [events][pha > 3]", "open 'a.fits'"],
    "a.fits[*,-*]": ["cfitsio's [*,-*]"],
    "a.fits[20:11]": ["cfitsio's [20:11]"],
    "NGC[1].fits[2]": ["open 'NGC[1].fits' as f", "f[2] "],
}


@pytest.mark.parametrize(("name", "parts"), EXTENDED.items())
def test_extended_names_of_cfitsio_say_what_to_write(name: str, parts: list[str]) -> None:
    assert all(part in suggestion(name) for part in parts), suggestion(name)


def test_a_url_that_went_through_pathlib_is_told(here: Path) -> None:
    with pytest.raises(FitsFileNotFoundError, match=r"no such file; a pathlib\.Path holds no URL"):
        dask_fits.open(Path("s3://bucket/a.fits"))


def test_a_pipe_is_refused_at_once(here: Path) -> None:
    os.mkfifo("pipe.fits")
    with pytest.raises(StorageError, match=r"pipe\.fits: is no regular file"):
        dask_fits.open("pipe.fits")


def test_a_relative_archive_is_that_of_the_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = []
    for n in (1, 2):
        (here / str(n)).mkdir()
        monkeypatch.chdir(here / str(n))
        with zipfile.ZipFile("a.zip", "w") as packed:
            packed.writestr(zipfile.ZipInfo("a.fits"), file_of(n))
        images.append(dask_fits.from_fits("zip://a.fits", storage_options={"fo": "a.zip"}))
        images.append(dask_fits.from_fits("zip://a.fits::a.zip"))
        found = dask_fits.cutouts("zip://*.fits", (0, 0), 1, storage_options={"fo": "a.zip"})
        images.append(found.data)
    monkeypatch.chdir(here)
    assert dask.compute(*(image.max() for image in images)) == (1, 1, 1, 2, 2, 2)


@pytest.mark.parametrize("name", ["a.fits", "a+1.fits", "https://host/a?b=1", "m31_v2.fits+", ""])
def test_other_names_are_left_alone(name: str) -> None:
    assert suggestion(name) == ""


def test_a_section_of_cfitsio_is_the_same_pixels(here: Path) -> None:
    """The FITS Standard counts from 1, and the first axis first."""
    image = np.arange(8 * 30, dtype="i2").reshape(8, 30)
    fits.PrimaryHDU(image).writeto("s.fits")
    with pytest.raises(FitsFileNotFoundError) as caught:
        dask_fits.open("s.fits[11:20,1:5]")
    expression = str(caught.value).partition("write ")[2].partition(" (command")[0]
    f = open_file("s.fits")
    assert np.array_equal(eval(expression, {"f": f}), image[:5, 10:20])


def test_a_signature_is_not_told_in_a_hint(range_server: RangeServer) -> None:
    with pytest.raises(StorageError) as caught:
        dask_fits.open(f"{range_server.url}/none.fits?X-Amz-Signature=abc123abc123[1]")
    assert "abc123" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "can"),
    [("a?.fits", True), ("a::b.fits", True), (os.fsdecode(RAW), True), ("a.fits?x", False)],
)
def test_guessing_by_odd_names(name: Any, can: bool, here: Path) -> None:
    assert FitsBackendEntrypoint().guess_can_open(name) is can
