"""Indexes: made part by part, gone on with, and kept up to date."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

import dask_fits
from dask_fits.collections import index
from dask_fits.collections.index import build_index, find_index
from dask_fits.collections.record import Inspection
from dask_fits.storage.listing import is_among
from dask_fits.storage.version import FileVersion
from tests.servers.range_server import RangeServer
from tests.support.collections import PIXELS, assert_same_columns, image, several
from tests.support.command_line import Run, runner
from tests.support.patience import until
from tests.support.places import place_of

EVERYTHING = Inspection(None, ("FILTER",))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return runner(monkeypatch, capfd)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose headers are read, by their names."""
    names: list[str] = []
    read = index.describe_found

    def note(found: Any, *arguments: Any) -> Any:
        names.extend(Path(url).name for url, _ in found)
        return read(found, *arguments)

    monkeypatch.setattr(index, "describe_found", note)
    return names


def write(directory: Path, numbers: range, **cards: Any) -> None:
    directory.mkdir(exist_ok=True)
    for number in numbers:
        content = image({"FILTER": "r", "EXPTIME": float(number), **cards})
        (directory / f"{number:03}.fits").write_bytes(content)


def names(numbers: range) -> list[str]:
    return [f"{number:03}.fits" for number in numbers]


def test_an_index_is_the_collection_of_its_files(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "night", range(7))
    pattern = str(tmp_path / "night" / "*.fits")
    output = tmp_path / "night.parquet"
    code, out, err = run("index", pattern, "-o", output, "--keyword", "filter", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "output": str(output),
        "images": 7,
        "files_read": 7,
        "files_kept": 0,
        "files_gone": 0,
        "unreadable_files": 0,
    }
    expected = dask_fits.open_collection(pattern, keywords=["FILTER"])
    assert_same_columns(dask_fits.open_collection(output), expected)
    assert {path.name for path in tmp_path.iterdir()} == {"night", "night.parquet"}


def test_what_cannot_be_read_is_told_and_has_a_row(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "night", range(3))
    bad = tmp_path / "night" / "bad.fits"
    bad.write_bytes(b"no FITS")
    output = tmp_path / "night.parquet"
    code, out, err = run("index", tmp_path / "night" / "*.fits", "-o", output)
    assert code == 1
    assert "3 images, 4 files read, 0 files kept, 0 files gone, 1 unreadable files" in out
    assert f"{bad}: HDU 0: not a FITS file" in err
    found = dask_fits.open_collection(output)
    assert len(found) == 4
    assert [*found.failures] == [str(bad)]
    # The next time it is tried again.
    bad.write_bytes(image({}))
    code, out, _ = run("index", tmp_path / "night" / "*.fits", "-o", output, "--update")
    assert code == 0
    assert "4 images, 1 files read, 3 files kept" in out


def test_a_file_that_is_there_is_replaced_only_if_that_is_asked_for(
    tmp_path: Path, run: Run
) -> None:
    write(tmp_path / "night", range(2))
    output = tmp_path / "night.parquet"
    arguments = ("index", tmp_path / "night" / "*.fits", "-o", output)
    assert run(*arguments)[0] == 0
    before = output.read_bytes()
    code, _, err = run(*arguments)
    assert code == 2
    assert "exists; say --update or --overwrite" in err
    assert output.read_bytes() == before
    write(tmp_path / "night", range(2, 4))
    assert run(*arguments, "--overwrite")[0] == 0
    assert len(dask_fits.open_collection(output)) == 4
    code, _, err = run("index", tmp_path / "night" / "*.fits", "-o", tmp_path / "night.csv")
    assert code == 2
    assert "expected a name that ends in .parquet" in err


def test_a_file_that_is_no_index_is_replaced_only_if_that_is_asked_for(
    tmp_path: Path, run: Run, described: list[str]
) -> None:
    write(tmp_path / "night", range(2))
    output = tmp_path / "night.parquet"
    arguments = ("index", tmp_path / "night" / "*.fits", "-o", output)
    urls = [str(tmp_path / "night" / name) for name in names(range(2))]
    pq.write_table(pa.table({"url": urls}), output)
    for other, said in (
        (output.read_bytes(), "expected an index of images, found another table"),
        (b"PAR1 and no more", "expected a Parquet file"),
    ):
        output.write_bytes(other)
        for options in ((), ("--update",)):
            code, _, err = run(*arguments, *options)
            assert code == 1
            assert f"{output}: {said}" in err
            assert output.read_bytes() == other
        assert described == []
        assert run(*arguments, "--overwrite")[0] == 0
        assert described == names(range(2))
        described.clear()
        assert len(dask_fits.open_collection(output)) == 2


def test_one_in_a_hundred_changed_reads_one_in_a_hundred(
    tmp_path: Path, run: Run, described: list[str]
) -> None:
    write(tmp_path / "night", range(200))
    arguments = ("index", tmp_path / "night" / "*.fits", "-o", tmp_path / "night.parquet")
    assert run(*arguments, "--keyword", "FILTER")[0] == 0
    assert described == names(range(200))
    described.clear()
    write(tmp_path / "night", range(50, 51), FILTER="i")
    write(tmp_path / "night", range(150, 151), FILTER="z")
    write(tmp_path / "night", range(200, 201))
    (tmp_path / "night" / "007.fits").unlink()
    code, out, _ = run(*arguments, "--update")
    assert code == 0
    assert "200 images, 3 files read, 197 files kept, 1 files gone" in out
    assert described == ["050.fits", "150.fits", "200.fits"]
    found = dask_fits.open_collection(tmp_path / "night.parquet")
    expected = dask_fits.open_collection(str(tmp_path / "night" / "*.fits"), keywords=["FILTER"])
    by_name = {hdu.store.url: number for number, hdu in enumerate(found)}
    order = [by_name[hdu.store.url] for hdu in expected]
    assert_same_columns(found[order], expected)
    described.clear()
    assert run(*arguments, "--update")[0] == 0
    assert described == []


def test_other_keywords_are_no_update(tmp_path: Path, run: Run) -> None:
    write(tmp_path / "night", range(2))
    arguments = ("index", tmp_path / "night" / "*.fits", "-o", tmp_path / "night.parquet")
    assert run(*arguments, "--keyword", "FILTER")[0] == 0
    code, _, err = run(*arguments, "--update", "--keyword", "EXPTIME")
    assert code == 1
    assert "keywords: found ('EXPTIME',), expected ('FILTER',) as in the index" in err
    code, _, err = run(*arguments, "--update", "--hdu", "0")
    assert code == 1
    assert "hdus: found (0,), expected None as in the index" in err


def test_an_update_reads_the_hdus_that_were_asked_for_before(tmp_path: Path, run: Run) -> None:
    (tmp_path / "night").mkdir()
    sci, err = (fits.ImageHDU(PIXELS, name=name) for name in ("SCI", "ERR"))
    for name in names(range(2)):
        (tmp_path / "night" / name).write_bytes(several(sci, err))
    arguments = ("index", tmp_path / "night" / "*.fits", "-o", tmp_path / "night.parquet")
    assert run(*arguments, "--hdu", "SCI", "--hdu", "ERR,1")[0] == 0
    (tmp_path / "night" / "002.fits").write_bytes(several(sci, err, fits.ImageHDU(PIXELS)))
    assert run(*arguments, "--update")[0] == 0
    found = dask_fits.open_collection(tmp_path / "night.parquet")
    assert found.column("extname").tolist() == 3 * ["SCI", "ERR"]


def test_a_run_that_was_interrupted_goes_on_behind_its_last_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "night", range(50))
    pattern = str(tmp_path / "night" / "*.fits")
    output = tmp_path / "night.parquet"
    monkeypatch.setattr(index, "PART", 10)
    read = index.describe_found
    described: list[str] = []

    def fail_after_three(found: Any, *arguments: Any) -> Any:
        if len(described) == 30:
            raise KeyboardInterrupt
        described.extend(Path(url).name for url, _ in found)
        return read(found, *arguments)

    monkeypatch.setattr(index, "describe_found", fail_after_three)
    with pytest.raises(KeyboardInterrupt):
        build_index(pattern, output, inspection=EVERYTHING)
    assert not output.exists()
    assert len([*(tmp_path / "night.parquet.parts").iterdir()]) == 3
    # One of the files changes in the meantime: its part is made anew.
    write(tmp_path / "night", range(15, 16), FILTER="i")
    described.clear()
    build_index(pattern, output, inspection=EVERYTHING)
    assert described == names(range(10, 20)) + names(range(30, 50))
    expected = dask_fits.open_collection(pattern, keywords=["FILTER"])
    assert_same_columns(dask_fits.open_collection(output), expected)
    assert not (tmp_path / "night.parquet.parts").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_loses_one_part_at_most(tmp_path: Path) -> None:
    write(tmp_path / "night", range(60))
    code = (
        "import sys; from dask_fits.collections import index\n"
        "from dask_fits.collections.record import Inspection\n"
        "index.PART = 10\n"
        "index.build_index(sys.argv[2:], sys.argv[1], inspection=Inspection(None, ()))"
    )
    output = tmp_path / "night.parquet"
    with RangeServer(tmp_path / "night", latency=0.05) as server:
        urls = [f"{server.url}/{name}" for name in names(range(60))]
        command = [sys.executable, "-c", code, str(output), *urls]
        with subprocess.Popen(command) as child:
            parts = tmp_path / "night.parquet.parts"

            def two_are_written() -> bool:
                assert child.poll() is None, "it ended before it could be killed"
                return parts.is_dir() and len([*parts.glob("*.parquet")]) >= 2

            until(two_are_written, 60)
            child.send_signal(signal.SIGKILL)
        done = 10 * len([*parts.glob("*.parquet")])
        assert not output.exists()
        until(lambda: server.busy == 0)  # what the killed run had asked for counts when it is over
        server.clear()
        subprocess.run(command, check=True, timeout=60)
        assert server.requests == 60 - done
        assert_same_columns(dask_fits.open_collection(output), dask_fits.open_collection(urls))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_versions_come_from_a_listing(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, described: list[str]
) -> None:
    place = place_of(kind, tmp_path, request)
    urls = [place.put(f"{kind}-night/{name}", image({"FILTER": "r"})) for name in names(range(12))]
    pattern = f"{urls[0].rpartition('/')[0]}/*.fits"
    output = f"{urls[0].rpartition('/')[0]}/index.parquet"
    asks = {"inspection": EVERYTHING, "storage_options": place.options}
    build_index(pattern, output, **asks)
    assert described == names(range(12))
    described.clear()
    place.put(f"{kind}-night/005.fits", image({"FILTER": "i"}))
    report = build_index(pattern, output, before=find_index(output, place.options), **asks)
    assert (report.read, report.kept) == (1, 11)
    assert described == ["005.fits"]
    found = dask_fits.open_collection(output, storage_options=place.options)
    assert sorted(found.column("FILTER")) == ["i"] + 11 * ["r"]


@pytest.mark.slow
def test_where_there_is_no_listing_all_files_are_read(tmp_path: Path, described: list[str]) -> None:
    write(tmp_path / "night", range(5))
    with RangeServer(tmp_path / "night") as server:
        urls = [f"{server.url}/{name}" for name in names(range(5))]
        build_index(urls, tmp_path / "a.parquet", inspection=EVERYTHING)
        described.clear()
        before = find_index(tmp_path / "a.parquet")
        assert before is not None
        report = build_index(urls, tmp_path / "a.parquet", inspection=EVERYTHING, before=before)
    assert (report.read, report.kept) == (5, 0)
    assert described == names(range(5))


def test_the_index_has_no_secret(tmp_path: Path) -> None:
    write(tmp_path / "night", range(2))
    with RangeServer(tmp_path / "night") as server:
        urls = [
            server.url.replace("://", "://user:HEMLIG@") + f"/{name}?X-Amz-Signature=HEMLIG"
            for name in names(range(2))
        ]
        build_index(urls, tmp_path / "a.parquet", inspection=EVERYTHING)
    table = pq.read_table(tmp_path / "a.parquet")
    assert "HEMLIG" not in repr(table.to_pydict())
    assert b"HEMLIG" not in (tmp_path / "a.parquet").read_bytes()
    assert table["access_url"].to_pylist() == [f"{server.url}/{name}" for name in names(range(2))]


@pytest.mark.parametrize(
    ("seen", "now", "same"),
    [
        (FileVersion(3, "ETag", '"a"'), FileVersion(3, "ETag", "a"), True),
        (FileVersion(3, "ETag", 'W/"a"'), FileVersion(3, "ETag", '"a"'), True),
        (FileVersion(3, "ETag", '"a"'), FileVersion(3, "ETag", '"b"'), False),
        (FileVersion(3, "ETag", '"a"'), FileVersion(4, "ETag", '"a"'), False),
        (FileVersion(3, "ETag", '"a"'), FileVersion(3, "generation", "a"), False),
        (FileVersion(3), FileVersion(3), False),
    ],
)
def test_a_version_is_the_listed_one(seen: FileVersion, now: FileVersion, same: bool) -> None:
    assert is_among(seen, [FileVersion(9, "mtime", "1"), now]) is same


def test_progress_counts_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PART", 4)
    write(tmp_path / "night", range(10))
    pattern, output = str(tmp_path / "night" / "*.fits"), tmp_path / "a.parquet"
    seen: list[tuple[int, int]] = []
    build_index(
        pattern, output, inspection=EVERYTHING, progress=lambda *counts: seen.append(counts)
    )
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)
