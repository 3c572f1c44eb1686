"""gzip files with an index, as a user sees them: the pixels of astropy, and only a part is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
import random
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from distributed import Client
from isal import igzip

import dask_fits
from dask_fits.exceptions import (
    FileChangedError,
    FitsError,
    FitsFormatError,
    TruncatedFileError,
)
from dask_fits.file.fits_file import FitsFile
from dask_fits.storage import packed as packed_module
from dask_fits.storage.index_file import INDEXES
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.at_rest import write_at_rest
from tests.support.command_line import Run, runner
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.gzip_files import ENCODERS
from tests.support.indexes import forget, make_points_dense
from tests.support.leftovers import all_closed
from tests.support.patience import until
from tests.support.traffic import asked

QUICK = dask_fits.TransferConfig(attempts=3, backoff=0.001)


@cache
def content() -> bytes:
    """A cube, a scaled image with a WCS, a table and an image that is compressed in tiles."""
    rng = np.random.default_rng(13)
    cube = rng.normal(1000, 10, (12, 160, 200)).astype(np.float32)
    cube[3, 40:50] = np.nan
    image = fits.ImageHDU(rng.poisson(300, (300, 400)).astype(np.int16), name="SCI")
    image.header.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0, CRVAL2=2.0, CRPIX1=200.0, CRPIX2=150.0
    )
    image.header.update(CDELT1=-1e-4, CDELT2=1e-4, CUNIT1="deg", CUNIT2="deg")
    image.header["BSCALE"] = 0.5
    image.header["BZERO"] = 100.0
    columns = [
        fits.Column("A", "J", array=np.arange(5000)),
        fits.Column("B", "D", array=rng.random(5000)),
    ]
    tiled = rng.poisson(50, (256, 256)).astype(np.int32)
    return fits_bytes(
        fits.PrimaryHDU(cube),
        image,
        fits.BinTableHDU.from_columns(columns, name="CAT"),
        fits.CompImageHDU(tiled, name="TILED", compression_type="RICE_1", tile_shape=(32, 32)),
        fits.ImageHDU(np.zeros((400, 500), np.float32), name="BLANK"),
        fits.ImageHDU(rng.integers(-9, 9, (7, 9), np.int16), name="SMALL"),
    )


@cache
def pixels() -> dict[str, np.ndarray]:
    """What astropy reads of the images, by name."""
    with fits.open(BytesIO(content())) as file:
        return {hdu.name: np.array(hdu.data) for hdu in file if hdu.name != "CAT"}


@cache
def packed(encoder: str = "zlib 6") -> bytes:
    return ENCODERS[encoder](content())


@pytest.fixture(autouse=True)
def dense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Points as near as small files need them, and a cache directory of the test's own."""
    make_points_dense(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()
    yield
    forget()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.fits.gz"
    write_at_rest(path, packed())
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def indexed(path: Path, directory: Path) -> FitsFile:
    """A file, opened as by a process that finds its index."""
    dask_fits.open(path, index=directory).build_index()
    forget()
    return dask_fits.open(path, index=directory)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capfd)


def has_index(file: FitsFile) -> bool:
    assert file.packing == "gzip"
    return "with an index" in repr(file)


def index_of(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


KEYS = {
    "PRIMARY": [
        np.s_[:],
        np.s_[5],
        np.s_[:, 77, 120],
        np.s_[:, 30:60, 100:140],
        np.s_[::5, ::7, ::-3],
        np.s_[-1, -1, -1],
        np.s_[2:4, 20:50],
    ],
    "SCI": [np.s_[:], np.s_[10:20, 30:40], np.s_[::50, 7], np.s_[::-1, ::-1], np.s_[-1:]],
    "TILED": [np.s_[:], np.s_[100:140, 60:70], np.s_[::31, ::31], np.s_[255, 255]],
    "BLANK": [np.s_[:], np.s_[200], np.s_[3:4, 5:6]],
    "SMALL": [np.s_[:], np.s_[3, 2:5]],
}


# Pixels and headers.


@pytest.mark.untraced
@pytest.mark.parametrize(
    "encoder", ["zlib 0", "zlib 6", "ISA-L 0", "ISA-L 3", "members", "blocked"]
)
def test_pixels_and_headers_are_those_of_astropy(
    encoder: str, tmp_path: Path, directory: Path
) -> None:
    path = tmp_path / "a.fits.gz"
    write_at_rest(path, packed(encoder))
    built = dask_fits.open(path, index=directory).build_index()
    points = built._store.loaded().index.points  # type: ignore[attr-defined]
    assert len(points) > 5 or encoder == "ISA-L 0"
    forget()
    for file in (built, dask_fits.open(path, index=directory)):
        assert has_index(file)
        with fits.open(BytesIO(content())) as expected:
            assert len(file) == len(expected)
            for hdu, known in zip(file, expected, strict=True):
                assert hdu.name == known.name
                assert hdu.header_text == content()[hdu.header_range.start : hdu.header_range.stop]
                assert repr(hdu.header) == repr(known.header)
        for name, keys in KEYS.items():
            for key in keys:
                assert same_bits(file[name].section[key], pixels()[name][key]), (name, key)
                assert same_bits(file[name].reader()[key], pixels()[name][key]), (name, key)
        forget()


@pytest.mark.parametrize("chunks", ["auto", -1, 64, "300kB"])
def test_chunks(chunks: Any, indexed: FitsFile, path: Path) -> None:
    without = dask_fits.open(path, index=None)
    for name, expected in pixels().items():
        array = indexed[name].to_dask(chunks=chunks)
        assert same_bits(array.compute(scheduler="threads"), expected)
        same = without[name].to_dask(chunks=array.chunks)
        assert same.chunks == array.chunks
        assert same.name == array.name, "the same pixels in the same chunks"


def test_chunks_as_a_user_gives_them(indexed: FitsFile) -> None:
    array = indexed[0].to_dask(chunks=(5, (60, 100), -1))
    assert array.chunks == ((5, 5, 2), (60, 100), (200,))
    assert same_bits(array[4:7, 50:70, ::3].compute(), pixels()["PRIMARY"][4:7, 50:70, ::3])
    means = pixels()["PRIMARY"].astype(float).mean(axis=0)
    assert np.allclose(array.mean(axis=0).compute(), means, equal_nan=True)


def test_an_index_lets_a_file_be_read_in_chunks(indexed: FitsFile, path: Path) -> None:
    assert not indexed[0].plan().requests > 1
    whole = dask_fits.open(path, index=None)[0].plan(np.s_[3, 5]).bytes
    assert whole == len(packed())
    assert indexed[0].plan(np.s_[3, 5]).bytes < len(packed()) / 5


def test_cutouts(indexed: FitsFile, path: Path) -> None:
    with fits.open(BytesIO(content())) as expected:
        wcs = WCS(expected["SCI"].header)
        for position in ((200, 150), (20.4, 280.6)):
            one = indexed["SCI"].cutout(position, (30, 41))
            known = Cutout2D(pixels()["SCI"], position, (30, 41), wcs=wcs)
            assert same_bits(np.asarray(one.data), known.data)
            assert np.allclose(
                one.wcs.pixel_to_world_values(3, 4), known.wcs.pixel_to_world_values(3, 4)
            )
        sky = wcs.pixel_to_world([50.3, 120.3], [60.3, 200.3])
        many = dask_fits.cutouts([indexed], sky, 16, hdus="SCI")
        assert many.status.tolist() == ["ok"] * 2
        for number, (x, y) in enumerate([(50.3, 60.3), (120.3, 200.3)]):
            known = Cutout2D(pixels()["SCI"], (x, y), 16)
            assert same_bits(many.data[number].compute(), known.data)
    places = [[30, 40], [100, 90]]
    found = dask_fits.cutouts([indexed, path], places, 10, hdus="SCI")
    for number, (x, y) in enumerate([places[0], places[0], places[1], places[1]]):
        assert np.array_equal(
            found.data[number].compute(), Cutout2D(pixels()["SCI"], (x, y), 10).data
        )


@pytest.mark.parametrize("where", ["the cache", "a directory"])
def test_xarray_and_from_fits_use_an_index(where: str, path: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("cache/dask_fits" if where == "the cache" else "indexes")
    options = {"index": folder} if where == "a directory" else {}
    dask_fits.open(path, **options).build_index()
    assert index_of(folder).suffix == ".gzi"
    ds = {"engine": "fits", "chunks": {}}
    for read in (
        lambda **options: xr.open_dataset(path, hdu="SCI", **ds, **options).SCI.values,
        lambda **options: xr.open_datatree(path, hdu="SCI", **ds, **options)["SCI"].SCI.values,
        lambda **options: dask_fits.from_fits(path, "SCI", **options).compute(),
    ):
        forget()
        assert same_bits(read(**options), pixels()["SCI"])
        assert len(INDEXES._loaded) == 1
        forget()
        assert same_bits(read(index=None), pixels()["SCI"])
        assert not INDEXES._loaded


# What is said of it.


def test_what_is_said_of_an_index(
    indexed: FitsFile, path: Path, run: Run, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    note = f"gzip, {len(packed())} bytes, with an index"
    assert indexed.packing_note() == note
    assert note in repr(indexed)
    assert note in indexed._repr_html_()
    indexed.info()
    assert note in capfd.readouterr().out
    code, out, _ = run("info", path, "--index", directory)
    assert (code, note in out) == (0, True)
    for more in ((), ("--index", directory / "other")):
        forget()
        code, out, _ = run("info", path, *more)
        assert code == 0
        assert "without an index" in out
    assert "without an index" in repr(dask_fits.open(path, index=None))


def test_an_index_in_one_directory_is_none_in_another(
    path: Path, directory: Path, tmp_path: Path
) -> None:
    """Workers that are told to look in the other one would find nothing."""
    dask_fits.open(path, index=directory).build_index()
    other = dask_fits.open(path, index=tmp_path / "other")
    assert not has_index(other)
    other.build_index()
    assert index_of(tmp_path / "other").read_bytes() == index_of(directory).read_bytes()
    assert has_index(dask_fits.open(path, index=tmp_path / "other"))


def test_the_command_makes_an_index(path: Path, directory: Path, run: Run) -> None:
    code, out, _ = run("index-gz", path, "--index", directory)
    assert code == 0
    assert str(path) in out
    assert "with an index" in out
    assert index_of(directory)
    forget()
    assert has_index(dask_fits.open(path, index=directory))
    assert run("index-gz", path, "--index", directory)[0] == 0, "again"
    code, out, _ = run("stats", path, "--hdu", "SMALL", "--index", directory, "--json")
    assert (code, f'"count": {7 * 9}' in out) == (0, True)


def test_the_command_says_why_there_is_no_index(tmp_path: Path, run: Run) -> None:
    plain = tmp_path / "a.fits"
    plain.write_bytes(content())
    code, _, err = run("index-gz", plain, "--index", tmp_path)
    assert code != 0
    assert "gzip" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("encoder", ["zlib 6", "blocked", "padded"])
def test_progress(encoder: str, tmp_path: Path, directory: Path) -> None:
    path = tmp_path / "a.fits.gz"
    size = len(packed(encoder)) + (3_000_000 if encoder == "padded" else 0)
    write_at_rest(path, packed(encoder).ljust(size, b"\0"))
    calls: list[tuple[int, int]] = []
    dask_fits.open(path, index=directory).build_index(progress=lambda *call: calls.append(call))
    assert {total for _, total in calls} == {size}
    done = [number for number, _ in calls]
    assert done == sorted(set(done))
    assert len(done) > 1
    assert done[-1] == size


def test_a_build_that_is_stopped_leaves_nothing(path: Path, directory: Path) -> None:
    file = dask_fits.open(path, index=directory)

    def stop(done: int, _: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.build_index(progress=stop)
    assert not directory.exists()
    assert not INDEXES._loaded
    assert has_index(file.build_index())


def test_no_file_is_left_open(path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    with all_closed():
        dask_fits.open(path, index=directory).build_index()
        dask_fits.open(path, index=directory.with_name("other"))["SMALL"].section[:]


# Where no index can be made.


def as_zip(data: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.fits", data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("bzip2", bz2.compress),
        ("xz", lambda data: lzma.compress(data, preset=0)),
        ("zip", as_zip),
        ("a file that is not compressed", bytes),
    ],
)
def test_only_gzip_files_have_an_index(
    name: str, pack: Callable[[bytes], bytes], tmp_path: Path, directory: Path
) -> None:
    path = tmp_path / "a.fits.gz"
    write_at_rest(path, pack(content()))
    file = dask_fits.open(path, index=directory)
    with pytest.raises(FitsFormatError, match=f"{path}.*{name}.*expected a gzip file"):
        file.build_index()
    assert same_bits(file["SMALL"].section[:], pixels()["SMALL"])
    assert not directory.exists()


def test_without_an_index_none_is_made_or_used(
    path: Path, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    dask_fits.open(path, index=directory).build_index()
    file = dask_fits.open(path, index=None)
    with pytest.raises(FitsFormatError, match="opened with an index"):
        file.build_index()
    forget()
    shutil.rmtree(directory)
    for name, expected in pixels().items():
        assert same_bits(file[name].section[:], expected)
    assert not has_index(dask_fits.open(path, index=None))
    assert not (tmp_path / "cache").exists()
    assert not INDEXES._loaded


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda data: flipped(data, len(data) // 2), FitsFormatError),
        (lambda data: flipped(data, len(data) - 7), FitsFormatError),
        (lambda data: data[: len(data) // 2], TruncatedFileError),
        (lambda data: data[:-1], TruncatedFileError),
    ],
    ids=["a bit", "the check sum", "half", "the last byte"],
)
def test_a_damaged_file_gets_no_index(
    change: Callable[[bytes], bytes],
    error: type[FitsError],
    path: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_at_rest(path, change(packed()))
    file = dask_fits.open(path, index=directory)
    with pytest.raises(error, match=str(path)):
        file.build_index()
    assert not INDEXES._loaded
    # Nor while it is read.
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    forget()
    with suppress(error):
        assert same_bits(file[0].section[0, :20], pixels()["PRIMARY"][0, :20])
    assert not directory.exists()


# FITS files that are not quite right, in gzip files that are.


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"END" + b" " * 77, b"END" + b"\0" * 77, 1),
        lambda data: data[: -2880 + 126],
        lambda data: data + b"no HDU" * 1000,
        lambda data: data + bytes(28_800),
    ],
    ids=["zeros behind END", "no padding at the end", "more behind it", "zeros behind it"],
)
def test_files_that_are_not_quite_right(
    change: Callable[[bytes], bytes], path: Path, directory: Path
) -> None:
    changed = change(content())
    assert changed != content()
    write_at_rest(path, gzip.compress(changed, 6, mtime=0))
    dask_fits.open(path, index=directory).build_index()
    forget()
    file = dask_fits.open(path, index=directory)
    plain = path.with_name("plain.fits")
    write_at_rest(plain, changed)
    known = dask_fits.open(plain)
    assert len(file) == len(known) == 6
    for hdu, same in zip(file, known, strict=True):
        assert hdu.header_text == same.header_text
        assert hdu.header_range == same.header_range
    for name, expected in pixels().items():
        assert same_bits(file[name].section[:], expected), name


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_a_fits_file_that_ends_early(path: Path, directory: Path) -> None:
    """The gzip file is whole: so is the index, and pixels up to the end are read."""
    write_at_rest(path, gzip.compress(content()[: 2880 + 1_000_000], 6, mtime=0))
    dask_fits.open(path, index=directory).build_index()
    forget()
    file = dask_fits.open(path, index=directory)
    assert has_index(file)
    assert len(file) == 1
    assert same_bits(file[0].section[:7], pixels()["PRIMARY"][:7])
    with pytest.raises(TruncatedFileError, match=str(path)):
        file[0].section[8]


def test_a_long_header_and_many_hdus(path: Path, directory: Path) -> None:
    long = fits.Header([(f"K{n:06}", n) for n in range(3000)])
    hdus = [fits.ImageHDU(np.full((30, 40), n, np.int16), name=f"E{n}") for n in range(60)]
    data = fits_bytes(fits.PrimaryHDU(np.zeros((9, 9)), long), *hdus)
    write_at_rest(path, gzip.compress(data, 6, mtime=0))
    dask_fits.open(path, index=directory).build_index()
    forget()
    file = dask_fits.open(path, index=directory)
    assert len(file) == 61
    assert file[0].header["K002999"] == 2999
    assert all((file[f"E{n}"].section[:] == n).all() for n in range(60))


# The first read of a large file.


def test_an_index_is_made_while_a_large_file_is_read(
    path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    file = dask_fits.open(path, index=directory)
    assert not has_index(file)
    assert not directory.exists()
    assert same_bits(file["SCI"].section[5:9], pixels()["SCI"][5:9])
    assert index_of(directory)
    forget()
    again = dask_fits.open(path, index=directory)
    assert has_index(again)
    assert has_index(dask_fits.open(path, index=str(directory)))
    # The file that was opened before uses it from now on.
    for each in (file, again):
        forget()
        for name, expected in pixels().items():
            assert same_bits(each[name].section[:], expected)
        assert len(each) == 6


def test_a_small_file_is_read_without_making_an_index(path: Path, directory: Path) -> None:
    file = dask_fits.open(path, index=directory)
    assert same_bits(file[0].section[:], pixels()["PRIMARY"])
    assert not directory.exists()


@pytest.mark.parametrize("name", ["PRIMARY", "TILED"])
def test_chunks_of_a_large_file_make_one_index(
    name: str, path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    array = dask_fits.open(path, index=directory)[name].to_dask(chunks=50)
    assert same_bits(array.compute(scheduler="threads"), pixels()[name])
    assert index_of(directory)


# Damage behind an index.


def change_in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change bytes of a file and leave its time, as a bad disk does."""
    status = path.stat()
    path.write_bytes(change(path.read_bytes()))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


@pytest.mark.untraced
def test_damaged_packed_bytes_are_an_error_or_the_right_pixels(
    indexed: FitsFile, path: Path, directory: Path
) -> None:
    choose = random.Random(14)
    whole = path.read_bytes()
    errors = []
    for _ in range(40):
        change_in_place(path, lambda data: flipped(data, choose.randrange(len(data))))
        forget()
        file = dask_fits.open(path, index=directory)
        for name, expected in pixels().items():
            try:
                found = file[name].section[:]
            except FitsFormatError as error:
                errors.append(str(error))
            else:
                assert same_bits(found, expected)
        change_in_place(path, lambda _: whole)
    assert len(errors) > 20
    assert all(f"{path}: the compressed file is damaged: gzip member" in text for text in errors)


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_damage_at_the_beginning_of_a_file_whose_index_has_no_headers(
    path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That was made while the file was read."""
    monkeypatch.setattr(packed_module, "MAX_PACKED", 1000)
    file = dask_fits.open(path, index=directory)
    assert same_bits(file["SMALL"].section[:], pixels()["SMALL"])
    whole = path.read_bytes()
    choose = random.Random(15)
    for _ in range(30):
        change_in_place(path, lambda data: flipped(data, choose.randrange(2000)))
        forget()
        with pytest.raises(FitsError, match=str(path)):
            dask_fits.open(path, index=directory)[0].section[0]
        change_in_place(path, lambda _: whole)


def test_a_file_that_is_replaced(indexed: FitsFile, path: Path) -> None:
    write_at_rest(path, gzip.compress(content()[::-1], mtime=0))
    with pytest.raises(FileChangedError, match=str(path)):
        indexed[0].section[3]
    with pytest.raises(FileChangedError, match=str(path)):
        indexed["SCI"].to_dask(chunks=100).compute()


# Tasks.


def test_a_task_has_the_place_of_the_index_and_no_window(
    indexed: FitsFile, path: Path, directory: Path
) -> None:
    loaded = indexed._store.loaded()  # type: ignore[attr-defined]
    windows = loaded.all_windows()
    assert len(windows) > 100_000
    for name in pixels():
        data = pickle.dumps(indexed[name].reader())
        assert len(data) < 1500
        assert str(directory).encode() in data
        assert windows[:100] not in data
    assert len(pickle.dumps(indexed[0].to_dask(chunks=(1, 40, 50)))) < 8000


def test_a_pickled_reader_finds_the_index(indexed: FitsFile, directory: Path) -> None:
    data = pickle.dumps(indexed["SCI"].reader())
    forget()
    before = index_of(directory).stat().st_mtime_ns
    assert same_bits(pickle.loads(data)[:], pixels()["SCI"])
    assert index_of(directory).stat().st_mtime_ns == before
    # One that finds none makes one.
    forget()
    shutil.rmtree(directory)
    assert same_bits(pickle.loads(data)[:], pixels()["SCI"])
    assert index_of(directory)


@pytest.mark.slow
def test_workers_that_find_no_index_make_one(
    indexed: FitsFile, directory: Path, client: Client
) -> None:
    shutil.rmtree(directory)
    for name in ("PRIMARY", "TILED"):
        array = indexed[name].to_dask(chunks=64)
        assert same_bits(client.compute(array).result(), pixels()[name])
        assert len(list(directory.iterdir())) == 1
    # It is made anew while workers use the one that was.
    shutil.rmtree(directory)
    forget()
    assert same_bits(indexed[0].section[:], pixels()["PRIMARY"])
    array = indexed["SCI"].to_dask(chunks=64)
    assert same_bits(client.compute(array).result(), pixels()["SCI"])


def take_for_large(limit: int) -> None:
    packed_module.MAX_PACKED = limit
    forget()


@pytest.mark.slow
def test_workers_that_read_a_large_file_for_the_first_time(
    path: Path, directory: Path, client: Client
) -> None:
    """Each of them makes the index, and the last one of them leaves it there."""
    limit = packed_module.MAX_PACKED
    client.run(take_for_large, 1000)
    try:
        for _ in range(4):
            file = dask_fits.open(path, index=directory)
            arrays = [file[name].to_dask(chunks=64) for name in ("PRIMARY", "SCI", "TILED")]
            for array, expected in zip(
                client.compute(arrays), list(pixels().values()), strict=False
            ):
                assert same_bits(array.result(), expected)
            assert index_of(directory)
            shutil.rmtree(directory)
            client.run(forget)
            forget()
    finally:
        client.run(take_for_large, limit)


@pytest.mark.untraced
def test_memory_of_a_file_that_has_nowhere_to_restart(tmp_path: Path, directory: Path) -> None:
    """A part of it is read by unpacking all before it, but not by holding that."""
    noise = np.random.default_rng(15).integers(0, 256, (1000, 10_000), np.uint8)
    path = tmp_path / "a.fits.gz"
    write_at_rest(path, igzip.compress(fits_bytes(fits.PrimaryHDU(noise)), 0))
    file = dask_fits.open(path, index=directory).build_index()
    tracemalloc.start()
    try:
        assert same_bits(file[0].section[700, :100], noise[700, :100])
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


# Requests.


class Served:
    """A file on a server, and a directory of indexes, which is served as well."""

    def __init__(self, root: Path, server: RangeServer) -> None:
        self.server = server
        self.path = root / "a.fits.gz"
        self.indexes = root / "indexes"
        self.url = f"{server.url}/{self.path.name}"
        self.indexes_url = f"{server.url}/indexes"

    def open(self, *, index: object = None) -> FitsFile:
        """Open as a new process would, with an empty log."""
        forget()
        until(lambda: self.server.busy == 0)
        self.server.clear()
        return dask_fits.open(self.url, index=index or self.indexes, transfer=QUICK)

    def asked(self) -> list[tuple[int, int]]:
        return sorted(asked(self.server))


@pytest.fixture
def served(path: Path) -> Iterator[Served]:
    with RangeServer(path.parent) as server:
        served = Served(path.parent, server)
        served.open().build_index()
        yield served


def longest_span(file: FitsFile) -> int:
    index = file._store.loaded().index  # type: ignore[attr-defined]
    return max(index.packed_span(number).nbytes for number in range(len(index.points)))


def within_a_span(file: FitsFile, name: str = "SCI") -> tuple[slice, slice]:
    """Rows of an image that lie in the middle of one span."""
    index = file._store.loaded().index  # type: ignore[attr-defined]
    start, row = file[name].data_range.start, 800
    spans = [index.span(n) for n in range(len(index.points))]
    span = next(s for s in spans if s.start > start + row and s.nbytes > 8 * row)
    first = (span.start - start) // row + 2
    return slice(first, first + 2), slice(50, 90)


@pytest.mark.slow
def test_requests_with_a_local_index(served: Served) -> None:
    file = served.open()
    assert has_index(file)
    assert len(file) == 6
    assert served.server.requests == 1, "all headers are in the index"
    assert asked(served.server)[0][1] <= 57_600
    key = within_a_span(file)
    served.server.clear()
    assert same_bits(file["SCI"].section[key], pixels()["SCI"][key])
    ((start, stop),) = served.asked()
    assert stop - start <= 2 * longest_span(file)


@pytest.mark.slow
def test_requests_with_an_index_on_a_server(served: Served) -> None:
    file = served.open(index=served.indexes_url)
    assert has_index(file)
    assert len(file) == 6
    assert served.server.requests <= 2
    key = within_a_span(file)
    served.server.clear()
    assert same_bits(file["SCI"].section[key], pixels()["SCI"][key])
    assert served.server.requests == 2, "the window and the data"
    served.server.clear()
    near = (key[0], slice(100, 120))
    assert same_bits(file["SCI"].section[near], pixels()["SCI"][near])
    assert served.server.requests == 1, "the data"


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
def test_a_plan_tells_the_requests(name: str, served: Served) -> None:
    file = served.open()
    for key in KEYS[name]:
        served.server.clear()
        plan = file[name].plan(key)
        if name != "TILED":
            assert served.server.requests == 0
        # The rows of the table that point at tiles are read for the plan, and kept.
        ranges = sorted((part.start, part.stop) for part in plan.ranges)
        planned = set(served.asked())
        served.server.clear()
        assert same_bits(file[name].section[key], pixels()[name][key])
        if name == "TILED":
            assert set(served.asked()) <= set(ranges) <= set(served.asked()) | planned
        else:
            assert served.asked() == ranges
            assert plan.bytes == served.server.bytes


@pytest.mark.slow
def test_a_full_read_fetches_each_packed_byte_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = served.open()
    small = dask_fits.TransferConfig(part_size=256 * 1024)
    for transfer in (QUICK, small):
        forget()
        file = dask_fits.open(served.url, index=served.indexes, transfer=transfer)
        for name in ("PRIMARY", "SCI", "BLANK"):
            until(lambda: served.server.busy == 0)
            served.server.clear()
            assert same_bits(file[name].section[:], pixels()[name])
            ranges = served.asked()
            shared = [max(a[1] - b[0], 0) for a, b in pairwise(ranges)]
            assert all(count <= 1 for count in shared)
            assert sum(stop - start for start, stop in ranges) <= len(packed()) + len(ranges)


@pytest.mark.slow
def test_neighbouring_chunks_share_little(served: Served) -> None:
    """A chunk that begins within a span fetches all of it, and so does the one before."""
    file = served.open()
    array = file[0].to_dask(chunks=(3, -1, -1))
    served.server.clear()
    assert same_bits(array.compute(), pixels()["PRIMARY"])
    assert served.server.bytes <= len(packed()) + 4 * 2 * longest_span(file)


@pytest.mark.slow
def test_a_served_file_that_is_replaced(served: Served) -> None:
    file = served.open()
    write_at_rest(served.path, gzip.compress(content(), 1, mtime=0))
    with pytest.raises(FileChangedError):
        file["SCI"].section[10:20]


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "served"])
@pytest.mark.parametrize("kind", ["status", "truncate", "reset-midway", "short"])
def test_faults_of_the_server(kind: Any, where: str, served: Served) -> None:
    index = served.indexes if where == "local" else served.indexes_url
    for first in (1, 2):
        file = served.open(index=index)
        served.server.fail(kind, first=first)
        assert same_bits(file["SCI"].section[100:200], pixels()["SCI"][100:200])
        served.server.heal()
    served.server.fail(kind)
    assert has_index(served.open(index=index))


@pytest.mark.slow
def test_damaged_bytes_of_a_served_file(served: Served) -> None:
    file = served.open()
    key = within_a_span(file)
    index = file._store.loaded().index  # type: ignore[attr-defined]
    start = file["SCI"].data_range.start + 800 * key[0].start
    span = index.packed_span(index.spans(start, start + 1)[0])
    change_in_place(served.path, lambda data: flipped(data, (span.start + span.stop) // 2))
    with pytest.raises(FitsFormatError) as caught:
        file["SCI"].section[key]
    assert f"{served.url}: the compressed file is damaged: gzip member 1" in str(caught.value)


@pytest.mark.slow
def test_an_index_is_made_of_a_served_file(served: Served, tmp_path: Path) -> None:
    file = served.open(index=tmp_path / "others")
    assert not has_index(file)
    served.server.clear()
    calls: list[int] = []
    built = file.build_index(progress=lambda done, _: calls.append(done))
    assert calls == sorted(set(calls))
    assert calls[-1] == len(packed())
    # Once, and of each header the spans that hold it.
    assert served.server.bytes <= len(packed()) + 2 * len(built) * longest_span(built)
    assert same_bits(built["SCI"].section[:], pixels()["SCI"])
    signed = f"{served.url}?X-Amz-Signature="
    for number in range(2):
        forget()
        signed_file = dask_fits.open(f"{signed}{number}", index=tmp_path / "signed")
        assert has_index(signed_file) == (number == 1), "secrets do not count"
        signed_file.build_index()
    text = b"".join(path.read_bytes() for path in (tmp_path / "signed").iterdir())
    assert b"Signature" not in text


@pytest.mark.slow
def test_a_file_and_its_index_in_a_bucket(s3_server: S3Server) -> None:
    url = s3_server.put("indexed/a.fits.gz", packed())
    directory = f"{url.rpartition('/')[0]}/indexes"
    options = s3_server.storage_options
    dask_fits.open(url, storage_options=options, index=directory).build_index()
    forget()
    file = dask_fits.open(url, storage_options=options, index=directory)
    assert has_index(file)
    for name, expected in pixels().items():
        assert same_bits(file[name].section[:], expected)
    data = pickle.dumps(file["SCI"].reader())
    forget()
    assert same_bits(pickle.loads(data)[5:7], pixels()["SCI"][5:7])


def test_false_points_cost_only_a_pass_through_the_file(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Pixels that look like headers of stored blocks: inflating from them gives what was before."""
    make_points_dense(monkeypatch)
    pattern = np.tile(np.array([0, 255, 255, 0, 0], np.uint8), 160_000)
    noise = np.random.default_rng(16).integers(0, 256, 300_000, np.uint8)
    image = np.concatenate([pattern, noise, pattern]).reshape(-1, 1000)
    path = tmp_path / "pattern.fits.gz"
    write_at_rest(path, gzip.compress(fits_bytes(fits.PrimaryHDU(image)), 0, mtime=0))
    file = dask_fits.open(path, index=directory).build_index()
    assert file.has_index
    for rows in (slice(None), slice(20, 30), slice(850, 860), slice(1700, 1710)):
        assert same_bits(file[0].section[rows], image[rows])
    assert "is not used" in caplog.text, "else the test shows nothing"
