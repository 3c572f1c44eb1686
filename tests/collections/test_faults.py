"""Files that cannot be read have a row with their error, and harm no other."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import FitsError, TransferConfig
from tests.servers.range_server import RangeServer
from tests.support.collections import PIXELS, SKY, assert_same_columns, image, several
from tests.support.fits_files import card, primary, same_bits
from tests.support.leftovers import open_files
from tests.support.packed_files import gzipped
from tests.support.tiled_files import tiled_file

pytestmark = pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")

WHOLE = several(
    fits.ImageHDU(PIXELS, fits.Header(SKY), name="SCI"), fits.ImageHDU(PIXELS, name="DQ")
)

TABLE = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2])])


def with_damage(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new.ljust(len(old)), 1)


SECOND = WHOLE.index(b"XTENSION", WHOLE.index(b"XTENSION") + 1)

FAULTY: dict[str, bytes] = {
    "no FITS file": b"This is not the file you are looking for." * 100,
    "empty": b"",
    "a page of the Web": b"<!DOCTYPE html><html><body>Please log in</body></html>",
    "zeros": bytes(5760),
    "a header that is cut": image(SKY)[:1000],
    "a header without END": image(SKY).replace(b"END" + b" " * 77, b" " * 80, 1)[:2880],
    "a table alone": several(TABLE),
    "no image": several(fits.PrimaryHDU()),
    "BITPIX of 7": primary(3, 3, bitpix=7) + bytes(2880),
    "NAXIS1 below 0": primary(-3, 3) + bytes(2880),
    "a gzip file that is damaged": gzipped(WHOLE)[:30] + b"\xff" * 50 + gzipped(WHOLE)[80:],
    "a gzip file of nothing": gzipped(b""),
}
"""Files that `open` refuses, or that have no image."""


def refusal(path: str) -> FitsError:
    """The error with which `open` refuses a file, or says that it has no image."""
    with pytest.raises(FitsError) as caught:
        dask_fits.open(path).first_image().section[...]
    return caught.value


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Faulty files between good ones."""
    root = tmp_path_factory.mktemp("faulty")
    found = {}
    for number, (name, content) in enumerate(FAULTY.items()):
        path = root / f"{number:02}_faulty.fits"
        path.write_bytes(content)
        found[name] = str(path)
    found["missing"] = str(root / "missing.fits")
    os.mkdir(root / "directory.fits")
    found["a directory"] = str(root / "directory.fits")
    found["no driver"] = "nothere://host/a.fits"
    found["a broken URL"] = "http://[::1/a.fits"
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("good")
    found = []
    for number in range(8):
        path = root / f"good_{number}.fits"
        path.write_bytes(image({**SKY, "NUMBER": number}, PIXELS[: 5 + number]))
        found.append(str(path))
    return found


def test_each_has_a_row_with_the_error_of_open(paths: dict[str, str]) -> None:
    found = dask_fits.open_collection([*paths.values()])
    assert len(found) == len(paths)
    assert found.column("hdu").tolist() == [-1] * len(paths)
    wrong = []
    for row, (name, path) in enumerate(paths.items()):
        expected = refusal(path)
        with pytest.raises(FitsError) as caught:
            found[row]
        own = found.failures[found.column("access_url")[row]]
        for error in (caught.value, own, pickle.loads(pickle.dumps(own))):
            # `first_image` may add how astropy reads the table that is there instead.
            same = str(expected).startswith(str(error))
            if type(error) is not type(expected) or not same:
                wrong.append(f"{name}: {error!r}, expected {expected!r}")
        assert found.column("error")[row] == str(own)
        assert found.column("error_type")[row] == type(own).__name__
        assert os.path.basename(path) in found.column("access_url")[row]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def test_good_files_between_them_are_as_they_are_alone(
    paths: dict[str, str], good: list[str]
) -> None:
    alone = dask_fits.open_collection(good, keywords=["NUMBER"])
    bad = [*paths.values()]
    mixed = [url for pair in zip(bad, good, strict=False) for url in pair] + bad[len(good) :]
    found = dask_fits.open_collection(mixed, keywords=["NUMBER"])
    assert found.column("access_url")[: 2 * len(good) : 2].tolist() != good
    assert_same_columns(found[1 : 2 * len(good) : 2], alone)
    readable = found[found.column("error") == ""]
    assert_same_columns(readable, alone)
    assert [hdu.section[...].shape for hdu in readable] == [(5 + n, 30) for n in range(8)]
    assert len(found.failures) == len(bad)
    assert len(found.select((150.0, 2.0), 0.01)) == len(alone.select((150.0, 2.0), 0.01)) > 0


def test_the_first_error_is_raised_if_asked_for(paths: dict[str, str], good: list[str]) -> None:
    first = paths["empty"]
    expected = refusal(first)
    with pytest.raises(type(expected)) as caught:
        dask_fits.open_collection([*good, first, paths["zeros"]], on_error="raise")
    assert str(caught.value) == str(expected)
    assert len(dask_fits.open_collection(good, on_error="raise")) == 8


def test_sources_are_hdus_and_errors(paths: dict[str, str], good: list[str]) -> None:
    found = dask_fits.open_collection([good[0], paths["empty"], good[1]]).sources()
    assert [isinstance(source, FitsError) for source in found] == [False, True, False]


def test_iteration_raises_where_a_file_could_not_be_read(
    paths: dict[str, str], good: list[str]
) -> None:
    found = iter(dask_fits.open_collection([good[0], paths["empty"], good[1]]))
    assert next(found).shape == (5, 30)
    with pytest.raises(FitsError):
        next(found)


def test_a_damaged_extension_leaves_those_before_it(tmp_path: Path) -> None:
    damaged = bytearray(WHOLE)
    start = damaged.index(b"BITPIX", SECOND)
    damaged[start : start + 80] = card("BITPIX", 7)
    for number, content in enumerate((bytes(damaged), WHOLE[: SECOND + 1000])):
        path = tmp_path / f"d{number}.fits"
        path.write_bytes(content)
        found = dask_fits.open_collection(path)
        assert found.column("hdu").tolist() == [1, -1]
        assert found.column("error")[0] == ""
        file = dask_fits.open(path)
        len(file)
        assert str(found.failures[str(path)]) == str(file.damage)
        assert same_bits(found[0].section[...], PIXELS)
        with pytest.raises(FitsError, match=path.name):
            found[1]
        only = dask_fits.open_collection(path, hdus="SCI")
        assert only.failures == {}


def test_packed_data_that_are_cut_are_told_of_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.fits.gz"
    packed = gzipped(image(SKY, np.random.default_rng(5).integers(0, 99, (200, 300)).astype("i2")))
    path.write_bytes(packed[: len(packed) // 2])
    found = dask_fits.open_collection(path)
    assert found.column("hdu").tolist() == [0]
    with pytest.raises(FitsError) as expected:
        dask_fits.open(path)[0].section[...]
    with pytest.raises(FitsError) as caught:
        found[0].section[...]
    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))


def test_truncated_data_are_told_of_and_what_is_there_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.fits"
    content = image(SKY)
    start = content.index(b"END" + b" " * 77)
    start += -start % 2880
    path.write_bytes(content[: start + 10 * 60])
    found = dask_fits.open_collection(path)
    assert found.column("error_type").tolist() == ["TruncatedFileError"]
    assert "cut.fits" in str(found.failures[str(path)])
    assert np.isfinite(found.column("s_ra")).all()
    assert same_bits(found[0].section[:10], PIXELS[:10])
    with pytest.raises(dask_fits.TruncatedFileError):
        found[0].section[...]
    with pytest.raises(dask_fits.TruncatedFileError):
        dask_fits.open_collection(path, on_error="raise")


def test_a_compressed_image_that_cannot_be_decoded_has_a_row_with_the_error(tmp_path: Path) -> None:
    path = tmp_path / "odd.fits"
    content = tiled_file(PIXELS, zcmptype="RICE_1")
    path.write_bytes(content.replace(card("ZCMPTYPE", "RICE_1"), card("ZCMPTYPE", "NOSUCH"), 1))
    found = dask_fits.open_collection(path)
    assert found.column("hdu").tolist() == [1]
    expected = refusal(str(path))
    assert (found.column("error_type")[0], found.column("error")[0]) == (
        type(expected).__name__,
        str(expected),
    )
    with pytest.raises(type(expected)):
        found[0].section[...]


def test_a_collection_of_failures_alone(paths: dict[str, str], tmp_path: Path) -> None:
    found = dask_fits.open_collection([paths["empty"], paths["missing"]])
    assert len(found.select((150.0, 2.0), 180)) == 0
    assert len(found.select(time=(None, None))) in (0, 2)
    assert len(found.table) == 2
    found.to_parquet(tmp_path / "f.parquet")
    assert_same_columns(dask_fits.open_collection(tmp_path / "f.parquet"), found)
    with pytest.raises(FitsError):
        dask_fits.cutouts(found, (1, 1), 3)


def test_no_descriptor_is_left_open(paths: dict[str, str], good: list[str], tmp_path: Path) -> None:
    local = [path for path in paths.values() if "://" not in path]

    def work() -> None:
        found = dask_fits.open_collection([*local, *good])
        found.to_parquet(tmp_path / "c.parquet")
        kept = dask_fits.open_collection(tmp_path / "c.parquet")
        for collection in (found, kept):
            for source in collection.sources():
                if not isinstance(source, FitsError):
                    source.section[0]

    for _ in range(3):
        work()
        assert open_files(tmp_path, *local, *good) == set()


# Servers that misbehave

QUICK = TransferConfig(attempts=2, backoff=0.01, timeout=0.3)


@pytest.fixture
def faulty_server(good: list[str]) -> Iterator[RangeServer]:
    with RangeServer(Path(good[0]).parent) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "details"),
    [
        ("status", {"status": 404}),
        ("status", {"status": 403}),
        ("status", {"status": 401}),
        ("status", {"status": 503}),
        ("status", {"status": 500}),
        ("reset", {}),
        ("truncate", {}),
        ("stall", {"seconds": 5.0}),
        ("slow", {"seconds": 5.0}),
        ("gzip", {}),
    ],
    ids=str,
)
def test_a_server_that_misbehaves_is_an_error_of_its_files_alone(
    faulty_server: RangeServer, good: list[str], kind: str, details: dict[str, object]
) -> None:
    url = f"{faulty_server.url}/good_0.fits"
    faulty_server.fail(kind, count=None, **details)
    with pytest.raises(FitsError) as expected:
        dask_fits.open(url, transfer=QUICK)
    found = dask_fits.open_collection([url, good[1]], transfer=QUICK)
    assert found.column("hdu").tolist() == [-1, 0]
    (error,) = found.failures.values()
    assert type(error) is type(expected.value)
    assert "good_0.fits" in str(error)
