"""Files of indexes: found again, never half written, and never trusted if they are not right."""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import random
import shutil
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from dask_fits.exceptions import (
    FileChangedError,
    FitsFileNotFoundError,
    FitsFormatError,
    UnversionedFileWarning,
)
from dask_fits.storage import index_file
from dask_fits.storage.index_file import (
    LoadedIndex,
    load_index,
    place_of_index,
    save_index,
)
from dask_fits.storage.indexed import IndexedStore, build_index, find_index
from dask_fits.storage.local import LocalStore
from dask_fits.storage.opening import open_store
from dask_fits.storage.packed import PackedStore, with_index
from dask_fits.storage.place import Place
from dask_fits.storage.remote import RemoteStore
from dask_fits.storage.store import Store
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion
from tests.servers.range_server import RangeServer
from tests.support.at_rest import write_at_rest
from tests.support.indexes import forget, make_points_dense, read

DATA = np.random.default_rng(12).normal(1000, 10, 300_000).astype(">f4").tobytes()
PACKED = gzip.compress(DATA, 6, mtime=0)
PARTS = [(0, 1), (70_000, 200_001), (600_000, 600_008), (len(DATA) - 1, len(DATA))]


@pytest.fixture(autouse=True)
def dense(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    make_points_dense(monkeypatch)
    forget()
    yield
    forget()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.fits.gz"
    write_at_rest(path, PACKED)
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / "of" / "mine"


def open_packed(path: Path | str, directory: Path | str | None, **more: Any) -> Store:
    """Open as a new process would."""
    forget()
    return open_store(path, None, more.pop("transfer", None), count=2880, index=directory, **more)[
        0
    ]


def is_right(store: Store) -> bool:
    """Whether some parts of the file, and all of it, are as they should be."""
    return read(store, *PARTS) == [DATA[start:stop] for start, stop in PARTS] and (
        read(store, (0, len(DATA))) == [DATA]
    )


def build(path: Path, directory: Path | str) -> IndexedStore:
    return with_index(open_packed(path, directory), None)


def file_of_index(directory: Path) -> Path:
    """The only file of a directory."""
    (found,) = directory.iterdir()
    return found


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


# Round trips.


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_an_index_is_found_again(kind: str, path: Path, directory: Path) -> None:
    place = str(directory) if kind == "local" else f"memory://{directory.name}"
    assert isinstance(open_packed(path, place), PackedStore)
    built = build(path, place)
    loaded = built.loaded()
    assert len(loaded.index.points) > 5
    windows = loaded.all_windows()
    built.keep({0: DATA[:2880], 5760: DATA[5760:8640]})

    found = open_packed(path, place)
    assert isinstance(found, IndexedStore)
    again = found.loaded()
    assert again is not loaded
    assert np.array_equal(again.index.points, loaded.index.points)
    assert (again.index.size, again.index.packed_size) == (len(DATA), len(PACKED))
    assert again.all_windows() == windows
    assert again.kept == {0: DATA[:2880], 5760: DATA[5760:8640]}
    assert is_right(found)
    assert found.peek(5760, 100_000) == DATA[5760:8640], "what is kept is read from nowhere"
    assert found.peek(5800, 10) == DATA[5800:5810]
    assert found.peek(8640, 5000) == DATA[8640:13_640]
    assert found.peek(len(DATA) - 5, 100) == DATA[-5:]
    assert found.peek(len(DATA), 100) == b""
    assert found.peek(len(DATA) + 9, 100) == b""
    assert (found.max_size, found.length_up_to(5)) == (len(DATA), 5)
    assert found.length_up_to(1 << 40) == len(DATA)
    if kind == "local":
        assert file_of_index(directory).suffix == ".gzi"
    else:
        assert len(MemoryFileSystem().ls(directory.name)) == 1


def test_each_window_is_the_right_one(path: Path, directory: Path) -> None:
    """Read one at a time, and from memory."""
    build(path, directory)
    found = open_packed(path, directory)
    assert isinstance(found, IndexedStore)
    loaded = found.loaded()
    everything = loaded.all_windows()
    in_memory = LoadedIndex(loaded.index, {}, everything)
    for number in [*range(len(loaded.index.points)), 0, 1]:
        window_range = loaded.index.window_range(number)
        window = everything[window_range.start : window_range.stop]
        assert loaded.window(number) == in_memory.window(number) == window


@pytest.mark.parametrize("count", [0, 1, 2])
def test_windows_and_indexes_that_are_kept_have_a_limit(
    count: int, path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "_MAX_WINDOW_BYTES", 0)  # as of a large index
    monkeypatch.setattr(index_file, "_MAX_WINDOWS", count)
    monkeypatch.setattr(index_file, "_MAX_INDEXES", max(count, 1))
    build(path, directory)
    forget()
    found = open_packed(path, directory)
    assert isinstance(found, IndexedStore)
    assert is_right(found)
    assert len(found.loaded()._windows) == count
    other = path.with_name("b.fits.gz")
    write_at_rest(other, PACKED)
    both = [found, with_index(open_packed(other, directory), None)]
    assert all(is_right(store) for store in both * 2)
    assert len(index_file.INDEXES._loaded) <= max(count, 1)


def test_a_head_longer_than_the_first_read(
    path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "_FIRST_READ", 100)
    build(path, directory).keep({0: DATA[:28_800]})
    found = open_packed(path, directory)
    assert isinstance(found, IndexedStore)
    assert found.peek(0, 28_800) == DATA[:28_800]
    assert is_right(found)


def test_gaps_and_whole_ranges(path: Path, directory: Path) -> None:
    store = build(path, directory)
    choose = random.Random(8)
    for whole in (True, False):
        for _ in range(6):
            edges = sorted(choose.sample(range(len(DATA)), 8))
            ranges = list(zip(edges[::2], edges[1::2], strict=True))
            assert read(store, *ranges, whole=whole) == [DATA[a:b] for a, b in ranges]
    assert read(store) == []
    assert read(store, (5, 5)) == [b""]


# Names.


def remote(url: str, version: FileVersion, **options: Any) -> RemoteStore:
    return RemoteStore(
        url=url, version=version, options=options, transfer=TransferConfig(), parallel=True
    )


def name_of(stored: Store) -> str:
    return place_of_index(stored, "/indexes").url


def test_names_differ_by_place_and_version_and_not_by_secrets() -> None:
    version = FileVersion(1000, "ETag", '"a"')
    signed = "https://host/a.fits.gz?X-Amz-Date=1&X-Amz-Signature={}&X-Amz-Security-Token={}"
    same = {
        name_of(remote(signed.format("one", "two"), version)),
        name_of(remote(signed.format("three", "four"), version)),
        name_of(remote(signed.format("five", "six"), version, headers={"Authorization": "x"})),
    }
    assert len(same) == 1
    assert len({name_of(remote(f"https://{u}@h/a.gz", version)) for u in ("a:b", "c:d")}) == 1
    others = [
        remote("https://host/a.fits.gz", version),
        remote("https://host/b.fits.gz", version),
        remote("https://other/b.fits.gz", version),
        remote("https://host/b.fits.gz?file=1", version),
        remote("https://host/b.fits.gz?file=2", version),
        remote("https://host/b.fits.gz", replace(version, size=1001)),
        remote("https://host/b.fits.gz", replace(version, value='"b"')),
        remote("https://host/b.fits.gz", replace(version, kind="Last-Modified")),
        remote("s3://host/b.fits.gz", version),
        remote("s3://host/b.fits.gz", version, endpoint_url="http://127.0.0.1"),
        LocalStore("/b.fits.gz", version),
        LocalStore("/c.fits.gz", version),
    ]
    assert len({*same, *(name_of(stored) for stored in others)}) == 1 + len(others)
    for stored in others:
        assert name_of(stored).startswith("/indexes/")
        assert name_of(stored).endswith(".gzi")


def test_an_index_of_the_same_storage_is_reached_with_its_options() -> None:
    stored = remote("s3://bucket/a.gz", FileVersion(1, "ETag", "1"), key="k", secret="SECRET-x")
    assert place_of_index(stored, "s3://bucket/indexes/").options == stored.options
    elsewhere = place_of_index(stored, "memory://indexes")
    assert elsewhere.options == {}
    assert "SECRET" not in repr(place_of_index(stored, "s3://bucket/indexes"))
    urls = {place_of_index(stored, f"memory://indexes{end}").url for end in ("", "/")}
    assert len(urls) == 1


@pytest.mark.parametrize(
    "name", ["m31::v2", "zip::a", "a#b?", "a%20b", " lead", "é ü", "~x", "a*b", "s3:a"]
)
def test_a_directory_of_any_name(name: str, path: Path, tmp_path: Path) -> None:
    for number, given in enumerate((tmp_path / name, str(tmp_path / name))):
        built = build(path, given)
        assert file_of_index(tmp_path / name).suffix == ".gzi", number
        found = open_packed(path, given)
        assert isinstance(found, IndexedStore)
        assert found.index_place == built.index_place


def test_no_archive_is_written_over(path: Path, tmp_path: Path) -> None:
    """What is behind ``::`` is a file in an archive, in which no index can be."""
    archive = tmp_path / "c.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a", DATA)
    before = archive.read_bytes()
    with pytest.raises(ValueError, match="expected a directory, found a file in an archive"):
        build(path, f"{archive}::d")
    assert archive.read_bytes() == before


def test_a_relative_directory_is_one_of_now(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = build(path, "here")
    monkeypatch.chdir("/")
    forget()
    assert is_right(store)
    assert file_of_index(tmp_path / "here")


# What is not right is not used.


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def damaged(content: bytes) -> dict[str, bytes]:
    head = index_file._HEAD.size
    return {
        "empty": b"",
        "cut in the head": content[:20],
        "cut in the points": content[: head + 50],
        "cut in the windows": content[:-1],
        "longer": content + b"\0",
        "magic": flipped(content, 0),
        "check sum": flipped(content, 17),
        "number of points": flipped(content, 20),
        "number of points, large": content[:20] + b"\xff" * 8 + content[28:],
        "size": flipped(content, 37),
        "first point": flipped(content, head + 1),
        "later point": flipped(content, head + 100),
        "text": flipped(content, content.index(b"\x78", head + 100) + 9),
        "another kind of file": b"SIMPLE  =                    T".ljust(5000),
        "zeros": bytes(len(content)),
        "random": random.Random(1).randbytes(len(content)),
    }


def test_a_damaged_index_is_not_used(
    path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(path, directory).keep({0: DATA[:2880]})
    file = file_of_index(directory)
    for name, content in damaged(file.read_bytes()).items():
        write_at_rest(file, content)
        caplog.clear()
        store = open_packed(path, directory)
        assert isinstance(store, PackedStore), name
        (warning,) = warnings_of(caplog)
        assert str(file) in warning, name
        assert "not used" in warning, name
        assert is_right(store), name
        with_index(store, None)
        assert isinstance(open_packed(path, directory), IndexedStore), name


def test_any_flipped_bit_of_an_index_costs_only_a_pass_through_the_file(
    path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(path, directory).keep({0: DATA[:2880]})
    file = file_of_index(directory)
    content = file.read_bytes()
    choose = random.Random(9)
    head = len(content) - len(open_packed(path, directory).loaded().all_windows())  # type: ignore[attr-defined]
    for number in range(24):
        place = choose.randrange(head) if number % 2 else choose.randrange(head, len(content))
        write_at_rest(file, flipped(content, place))
        forget()
        store = open_packed(path, directory)
        assert isinstance(store, PackedStore) == (place < head)
        assert is_right(store)
    told = [text for text in warnings_of(caplog) if "is not used: unpacked bytes" in text]
    assert len(told) > 3
    assert all(str(path) in text and str(file) in text for text in told)


def test_the_index_of_another_file_is_not_used(
    path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = path.with_name("other.fits.gz")
    write_at_rest(other, gzip.compress(DATA[::-1], 6, mtime=0))
    build(other, directory)
    source = file_of_index(directory)
    place = place_of_index(open_packed(path, None).stored, directory)  # type: ignore[attr-defined]
    shutil.copy(source, place.url)
    store = open_packed(path, directory)
    assert isinstance(store, PackedStore)
    assert len(warnings_of(caplog)) == 1
    assert is_right(store)


@pytest.mark.parametrize(
    "change",
    [{"size": 1}, {"kind": "ETag"}, {"value": "1"}],
    ids=["size", "kind", "value"],
)
def test_the_index_of_another_version_is_not_used(
    change: dict[str, Any], path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(path, directory)
    stored = built.stored
    assert isinstance(stored, LocalStore)
    earlier = replace(stored, version=replace(stored.version, **change))
    save_index(built.index_place, earlier, built.loaded())
    with pytest.raises(FitsFormatError, match="another version"):
        load_index(built.index_place, stored, TransferConfig())
    store = open_packed(path, directory)
    assert isinstance(store, PackedStore)
    assert len(warnings_of(caplog)) == 1
    assert is_right(store)


def test_a_replaced_file_has_no_index_yet(path: Path, directory: Path) -> None:
    build(path, directory)
    write_at_rest(path, PACKED)
    assert isinstance(open_packed(path, directory), PackedStore)


def test_a_file_without_a_version_has_no_index(tmp_path: Path, path: Path, directory: Path) -> None:
    transfer = TransferConfig(check_version=False)
    with RangeServer(tmp_path) as server:
        url = f"{server.url}/{path.name}"
        store = open_packed(url, directory, transfer=transfer)
        assert isinstance(store, PackedStore)
        with pytest.raises(FitsFormatError, match="versions"):
            with_index(store, None)
        server.fail("no-stamp", count=None)
        with pytest.warns(UnversionedFileWarning):
            store = open_packed(url, directory)
        assert is_right(store)
    assert not directory.exists()


# What cannot be reached.


def blocked_directory(tmp_path: Path) -> Path:
    """A directory that cannot be made, since a file has the name of the one above."""
    (tmp_path / "file").write_bytes(b"")
    return tmp_path / "file" / "indexes"


def test_where_no_index_can_be_written_the_process_has_it(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = build(path, blocked_directory(tmp_path))
    assert "cannot be kept" in warnings_of(caplog)[-1]
    assert is_right(store)
    store.keep({0: DATA[:2880]})
    assert store.peek(0, 5000) == DATA[:2880]
    assert is_right(store)


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(28, "full"), ValueError("?")])
def test_whatever_keeps_an_index_from_being_written(
    error: Exception,
    path: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(index_file, "write_file", fail)
    store = build(path, directory)
    assert "cannot be kept" in warnings_of(caplog)[0]
    assert is_right(store)
    store.keep({0: DATA[:2880]})
    assert store.peek(0, 5000) == DATA[:2880]
    assert is_right(store)
    assert not directory.exists()


def test_a_directory_of_indexes_that_is_none_does_not_keep_a_file_from_being_opened(
    path: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert is_right(open_packed(path, blocked_directory(tmp_path)))


def test_a_directory_in_the_place_of_an_index(
    path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stored = open_packed(path, None).stored  # type: ignore[attr-defined]
    Path(place_of_index(stored, directory).url).mkdir(parents=True)
    store = open_packed(path, directory)
    assert is_right(store)
    assert warnings_of(caplog)


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_of_indexes_that_fails_does_not_keep_a_file_from_being_opened(
    status: int, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transfer = TransferConfig(attempts=1)
    with RangeServer(tmp_path) as server, RangeServer(tmp_path) as other:
        other.fail("status", status=status, count=None)
        url = f"{server.url}/{path.name}"
        store = open_packed(url, f"{other.url}/indexes", transfer=transfer)
        assert other.requests
        assert is_right(store)
        assert warnings_of(caplog)


def test_a_server_that_takes_no_indexes(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RangeServer(tmp_path) as server:
        store = build(path, f"{server.url}/indexes")
        assert is_right(store)
        assert "cannot be kept" in warnings_of(caplog)[-1]


# Others write and remove indexes at any time.


def test_an_index_that_is_removed_is_made_again(path: Path, directory: Path) -> None:
    store = build(path, directory)
    file_of_index(directory).unlink()
    forget()
    assert is_right(store)
    assert file_of_index(directory)


def test_an_index_that_is_removed_while_it_is_used(path: Path, directory: Path) -> None:
    """Its points are in memory, its windows were in the file."""
    build(path, directory)
    store = open_packed(path, directory)
    shutil.rmtree(directory)
    assert is_right(store)


def test_an_index_that_another_process_writes_anew_while_it_is_used(
    path: Path, directory: Path
) -> None:
    build(path, directory)
    store = open_packed(path, directory)
    assert isinstance(store, IndexedStore)
    # Another process: its own memory, the same place.
    mine = dict(index_file.INDEXES._loaded)
    build(path, directory.parent / "elsewhere")
    fresh = file_of_index(directory.parent / "elsewhere")
    write_at_rest(file_of_index(directory), fresh.read_bytes())
    forget()
    index_file.INDEXES._loaded.update(mine)
    assert is_right(store)


def test_threads_that_write_the_same_index(path: Path, directory: Path) -> None:
    built = build(path, directory)
    place, stored = built.index_place, built.stored
    windows = built.loaded().all_windows()
    loaded = replace(built.loaded(), windows=windows)

    def write(number: int) -> None:
        kept = {0: bytes([number]) * 2880 * (1 + number % 5)}
        save_index(place, stored, replace(loaded, kept=kept))

    def check(number: int) -> None:
        for _ in range(5):
            with suppress(FileChangedError):  # it was written anew between two reads of it
                found = load_index(place, stored, TransferConfig())
                assert len(set(found.kept.get(0, b"x"))) == 1
            forget()
            found = find_index(built, place) or loaded
            assert np.array_equal(found.index.points, loaded.index.points)
            assert len(set(found.kept.get(0, b"x"))) == 1

    with ThreadPoolExecutor(6) as threads:
        writing = [threads.submit(write, number) for number in range(20)]
        checking = [threads.submit(check, number) for number in range(10)]
        for future in [*writing, *checking]:
            future.result()
    assert file_of_index(directory), "and nothing is left beside it"
    found = open_packed(path, directory)
    assert isinstance(found, IndexedStore)
    assert found.loaded().all_windows() == windows


def build_and_read(path: Path, directory: Path) -> bool:
    """Make an index several times, as processes that all found none would, and use it."""
    right = True
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_points_dense(monkeypatch)
        for _ in range(8):
            store = open_packed(path, directory)
            assert isinstance(store, PackedStore | IndexedStore)
            assert store.index_place
            build_index(store, store.index_place)
            right = right and is_right(open_packed(path, directory))
    return right


@pytest.mark.slow
def test_processes_that_make_the_same_index(path: Path, directory: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawn) as processes:
        made = [processes.submit(build_and_read, path, directory) for _ in range(3)]
        assert all(future.result() for future in made)
    assert file_of_index(directory)
    found = open_packed(path, directory)
    assert isinstance(found, IndexedStore)
    assert is_right(found)


def test_threads_that_need_an_index_make_one(
    path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build(path, directory)
    file_of_index(directory).unlink()
    forget()
    made = []

    def count(*args: Any) -> None:
        made.append(args)
        save_index(*args)

    monkeypatch.setattr("dask_fits.storage.indexed.save_index", count)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda _: is_right(store), range(4)))
    assert len(made) == 1


def test_a_place_without_an_index(path: Path, tmp_path: Path) -> None:
    stored = open_packed(path, None).stored  # type: ignore[attr-defined]
    place = Place(str(tmp_path / "none.gzi"), is_local=True)
    with pytest.raises(FitsFileNotFoundError):
        load_index(place, stored, TransferConfig())
