"""Objects that have a path or URL stand for a file; what has none is refused with a way out."""

from __future__ import annotations

import gzip
import io
import pickle
import re
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from distributed import Client
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from s3fs import S3FileSystem
from upath import UPath

import dask_fits
from dask_fits.exceptions import FitsError, FitsFileNotFoundError, StorageError
from dask_fits.storage.local import LocalStore
from dask_fits.storage.place import place_of
from dask_fits.storage.remote import RemoteStore
from dask_fits.storage.transfer import TransferConfig
from dask_fits.xarray_backend.entrypoint import FitsBackendEntrypoint
from tests.servers.range_server import RangeServer
from tests.servers.s3 import S3Server
from tests.support.data import M13
from tests.support.fits_files import fits_bytes, same_bits

PIXELS = fits.getdata(M13)


class RootedFileSystem(MemoryFileSystem):
    """Files in memory below a root, of a class that fsspec's registry does not know."""

    protocol = "rooted"

    def __init__(self, root: str, **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    def _below(self, path: str) -> str:
        return f"/{self.root}/{self._strip_protocol(path).lstrip('/')}"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("rooted://"))

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return super().info(self._below(path), **options)

    def cat_file(self, path: str, **options: Any) -> bytes:
        return super().cat_file(self._below(path), **options)


def same_image(given: Any, **more: Any) -> None:
    """It is read by every road, pickled, and with no handle."""
    file = dask_fits.open(given, **more)
    reader = pickle.loads(pickle.dumps(file))[0].reader()
    assert np.array_equal(reader[5:9], PIXELS[5:9])
    image = dask_fits.from_fits(given, **more)
    assert image.name == file[0].data.name
    assert np.array_equal(pickle.loads(pickle.dumps(image))[:3].compute(), PIXELS[:3])
    for files in (given, [given]):
        found = dask_fits.cutouts(files, [[20, 30]], 4, **more)
        assert np.array_equal(found.data[0].compute(), PIXELS[28:32, 18:22])
    with xr.open_dataset(given, engine="fits", chunks={}, **more) as ds:
        assert np.array_equal(ds.PRIMARY[7].values, PIXELS[7])


def of_memory() -> str:
    MemoryFileSystem().pipe_file("/m13.fits", M13.read_bytes())
    return "memory:///m13.fits"


def zipped(directory: Path) -> Path:
    with zipfile.ZipFile(directory / "a.zip", "w") as archive:
        archive.write(M13, "m13.fits")
    return directory / "a.zip"


GIVEN: dict[str, Callable[[RangeServer, Path], Any]] = {
    "UPath of memory": lambda *_: UPath(of_memory()),
    "UPath over HTTP": lambda server, _: UPath(f"{server.url}/m13.fits"),
    "UPath of a disk": lambda *_: UPath(M13),
    "UPath of a file URL": lambda *_: UPath(M13.as_uri()),
    "UPath in a zip": lambda _, here: UPath("zip://m13.fits", fo=str(zipped(here))),
    "OpenFile of a disk": lambda *_: fsspec.open(str(M13)),
    "OpenFile of memory": lambda *_: fsspec.open(of_memory()),
    "OpenFile over HTTP": lambda server, _: fsspec.open(f"{server.url}/m13.fits"),
    "OpenFile in a zip": lambda _, here: fsspec.open(f"zip://m13.fits::{zipped(here)}"),
    "OpenFile in a zip over HTTP": lambda server, here: fsspec.open(
        f"zip://m13.fits::{zipped(here).as_uri()}"
    ),
    "open file over HTTP": lambda server, _: fsspec.open(f"{server.url}/m13.fits").open(),
    "open stream over HTTP": lambda server, _: fsspec.filesystem("http").open(
        f"{server.url}/m13.fits", block_size=0
    ),
    "open file of memory": lambda *_: fsspec.open(of_memory()).open(),
    "LocalFileOpener": lambda *_: fsspec.filesystem("file").open(str(M13)),
    "open()": lambda *_: M13.open("rb"),
    "open() unbuffered": lambda *_: M13.open("rb", buffering=0),
    "open() as text": lambda *_: M13.open(encoding="latin-1"),
    "directory of memory": lambda *_: DirFileSystem("/", fsspec.open(of_memory()).fs).open(
        "m13.fits"
    ),
}


@pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")
@pytest.mark.parametrize("kind", GIVEN)
def test_an_object_stands_for_its_file(
    kind: str, range_server: RangeServer, tmp_path: Path
) -> None:
    given = GIVEN[kind](range_server, tmp_path)
    same_image(given)
    assert FitsBackendEntrypoint().guess_can_open(given)
    if isinstance(given, io.IOBase):
        given.close()


def test_a_temporary_file_that_has_a_name(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=tmp_path, suffix=".fits") as file:
        fits.PrimaryHDU(PIXELS).writeto(file)
        file.flush()
        same_image(file)


def test_objects_of_s3(s3_server: S3Server) -> None:
    url = s3_server.put("objects/m::13.fits", M13.read_bytes())
    options = s3_server.storage_options
    fs = S3FileSystem(**options, skip_instance_cache=True)
    key = url.removeprefix("s3://")
    for given, more in [
        (fs.open(key), {}),
        (key, {"filesystem": fs}),
        (url, {"filesystem": fs}),
        ("m::13.fits", {"filesystem": DirFileSystem(key.rpartition("/")[0], fs)}),
    ]:
        same_image(given, **more)
        store = dask_fits.open(given, **more)[0].store
        assert isinstance(store, RemoteStore)
        assert (store.url, store.filesystem) == (url, None), "so that our retries apply"
    plain = s3_server.put("objects/plain.fits", M13.read_bytes())
    same_image(UPath(plain, **options))
    assert dask_fits.open(UPath(plain, **options))[0].store.filesystem is None
    found = dask_fits.cutouts("private-images/objects/m*.fits", [[20, 30]], 4, filesystem=fs)
    assert (found.files, found.status.tolist()) == ((url,), ["ok"])


@pytest.mark.parametrize("arguments", [{"anon": True}, {"asynchronous": True, "anon": True}])
def test_a_filesystem_of_s3_gets_our_connections_and_event_loop(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    class OwnS3(S3FileSystem):
        """Not the one of the registry."""

    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "m13.fits").write_bytes(M13.read_bytes())
    with RangeServer(tmp_path) as server:
        server.fail("status", first=2, count=2, status=503, headers={})
        for cls in (S3FileSystem, OwnS3):
            fs = cls(endpoint_url=server.url, **arguments)
            quick = TransferConfig(attempts=2, backoff=0.01)
            file = dask_fits.open("bucket/m13.fits", filesystem=fs, transfer=quick)
            server.clear()
            server.fail("status", count=None, status=503, headers={})
            with pytest.raises(StorageError, match="given up after 2 attempts"):
                file[0].data[5].compute()
            assert len(server.log) == 2, "one layer of retries, which is ours"
            server.heal()
            assert np.array_equal(file[0].data[5].compute(), PIXELS[5])


def test_a_filesystem_that_no_url_makes_is_kept(tmp_path: Path) -> None:
    for n, root in enumerate(("one", "two")):
        MemoryFileSystem().pipe_file(f"/{root}/a.fits", M13.read_bytes())
        content = fits_bytes(fits.PrimaryHDU(PIXELS + n))
        MemoryFileSystem().pipe_file(f"/{root}/a.fits", content)
    images = [
        dask_fits.from_fits("a.fits", filesystem=RootedFileSystem(root)) for root in ("one", "two")
    ]
    assert images[0].name != images[1].name
    found = dask.compute(*(image[5] for image in images))
    assert np.array_equal(found, [PIXELS[5], PIXELS[5] + 1])
    again = dask_fits.from_fits("/a.fits", filesystem=RootedFileSystem(root="one"))
    assert again.name == images[0].name
    same_image("a.fits", filesystem=RootedFileSystem("one"))
    store = dask_fits.open("a.fits", filesystem=RootedFileSystem("one"))[0].store
    assert isinstance(store, RemoteStore)
    assert store != dask_fits.open("a.fits", filesystem=RootedFileSystem("two"))[0].store
    assert "RootedFileSystem" not in repr(store)


def test_filesystems_with_different_roots_are_apart() -> None:
    for n in (1, 2):
        content = fits_bytes(fits.PrimaryHDU(PIXELS + n))
        MemoryFileSystem().pipe_file(f"/root{n}/a.fits", content)
    roots = [DirFileSystem(f"/root{n}", MemoryFileSystem()) for n in (1, 2)]
    images = [dask_fits.from_fits("a.fits", filesystem=fs) for fs in roots]
    assert images[0].name != images[1].name
    assert np.array_equal(dask.compute(*(im[5] for im in images)), [PIXELS[5] + 1, PIXELS[5] + 2])


def test_a_filesystem_of_disks_gives_local_files(tmp_path: Path) -> None:
    (tmp_path / "m::13.fits").write_bytes(M13.read_bytes())
    for path, fs in [
        (str(tmp_path / "m::13.fits"), LocalFileSystem()),
        (tmp_path / "m::13.fits", LocalFileSystem()),
        ("m::13.fits", DirFileSystem(str(tmp_path), LocalFileSystem())),
    ]:
        store = dask_fits.open(path, filesystem=fs)[0].store
        assert store == dask_fits.open(tmp_path / "m::13.fits")[0].store
        assert isinstance(store, LocalStore)


def test_workers_read_what_objects_stand_for(client: Client, range_server: RangeServer) -> None:
    url = f"{range_server.url}/m13.fits"
    http = fsspec.filesystem("http")
    for given, more in [
        (UPath(url), {}),
        (fsspec.open(url), {}),
        (http.open(url), {}),
        (url, {"filesystem": http}),
        (M13.open("rb"), {}),
    ]:
        image = dask_fits.from_fits(given, **more)
        assert client.compute(image.max()).result() == PIXELS.max()


def test_a_file_that_is_not_there_is_named() -> None:
    fs = MemoryFileSystem()
    for given, more in [
        (UPath("memory://none.fits"), {}),
        (fsspec.open("memory://none.fits"), {}),
        ("none.fits", {"filesystem": fs}),
    ]:
        with pytest.raises(FitsFileNotFoundError, match=r"none\.fits: no such file"):
            dask_fits.open(given, **more)
        with pytest.raises(FitsError, match=r"none\.fits: no such file"):
            dask_fits.cutouts(given, [[3, 3]], 2, **more)
    with pytest.raises(FitsFileNotFoundError, match=r"write f\[1\]"):
        dask_fits.open(UPath("memory://none.fits[1]"))


def test_what_fsspec_would_unpack_or_copy(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.fits.gz", "wb") as packed:
        packed.write(M13.read_bytes())
    given = fsspec.open(str(tmp_path / "a.fits.gz"), compression="gzip")
    assert dask_fits.open(given).packing == "gzip"
    assert same_bits(dask_fits.from_fits(given).compute(), fits.getdata(M13))
    with pytest.raises(StorageError, match="simplecache:: tells nothing"):
        dask_fits.open(fsspec.open(f"simplecache::{of_memory()}"))


def in_archive(path: Path) -> Any:
    return zipfile.ZipFile(zipped(path)).open("m13.fits")


def in_archive_of_fsspec(path: Path) -> Any:
    fs = fsspec.filesystem("zip", fo=str(zipped(path)))
    file = fs.open("m13.fits")
    file.kept = fs  # which closes the archive when nobody has it
    return file


def in_tar(path: Path) -> Any:
    with tarfile.open(path / "a.tar", "w") as archive:
        archive.add(M13, "m13.fits")
    archive = tarfile.open(path / "a.tar")  # noqa: SIM115 (it is open as long as its member)
    file = archive.extractfile("m13.fits")
    weakref.finalize(file, archive.close)
    return file


def unpacking(path: Path) -> Any:
    (path / "a.fits.gz").write_bytes(gzip.compress(M13.read_bytes()))
    return gzip.open(path / "a.fits.gz")


def without_name(path: Path) -> Any:
    file = (path / "gone.fits").open("w+b")
    file.write(M13.read_bytes())
    file.seek(0)
    (path / "gone.fits").unlink()
    return file


def spooled(_: Path) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 (it is what is opened)
    file.write(M13.read_bytes())
    file.seek(0)
    return file


PLACELESS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "bytes": ("data", lambda _: M13.read_bytes()),
    "bytearray": ("data", lambda _: bytearray(M13.read_bytes())),
    "memoryview": ("data", lambda _: memoryview(M13.read_bytes())),
    "BytesIO": ("buffer", lambda _: io.BytesIO(M13.read_bytes())),
    "member of a zip": ("file", in_archive),
    "member of a tar": ("file", in_tar),
    "file that unpacks": ("file", unpacking),
    "file without a name": ("file", without_name),
    "spooled file": ("file", spooled),
    "fsspec's member of a zip": ("file", in_archive_of_fsspec),
}


@pytest.mark.parametrize("kind", PLACELESS)
def test_the_hint_for_what_has_no_place_works(kind: str, tmp_path: Path) -> None:
    name, make = PLACELESS[kind]
    given = make(tmp_path)
    for road in (
        dask_fits.open,
        dask_fits.from_fits,
        lambda x: dask_fits.cutouts(x, [[3, 3]], 2),
        lambda x: dask_fits.cutouts([x], [[3, 3]], 2),
        lambda x: xr.open_dataset(x, engine="fits"),
    ):
        with pytest.raises(TypeError, match=f"not {type(given).__name__}") as caught:
            road(given)
    # What the message says is run as it stands.
    hint = re.search(r"(fsspec\.filesystem\('memory'\)\S+ \S+\)) makes (\S+),", str(caught.value))
    assert hint is not None
    eval(hint[1], {"fsspec": fsspec, name: given})
    assert np.array_equal(dask_fits.from_fits(hint[2]).compute(), PIXELS)
    if hasattr(given, "close"):
        given.close()


def test_bytes_may_be_a_path_and_that_is_said() -> None:
    with pytest.raises(TypeError, match=r"os\.fsdecode makes one"):
        dask_fits.open(bytes(M13))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, 3, ["m13.fits"], object()])
def test_what_is_no_file_at_all_gets_no_hint_for_bytes(given: Any) -> None:
    with pytest.raises(TypeError, match=rf"url must be a str.*not {type(given).__name__}$"):
        dask_fits.open(given)


def test_many_objects_are_many_files(range_server: RangeServer) -> None:
    files = fsspec.open_files([f"{range_server.url}/m13.fits"] * 2)
    assert dask_fits.cutouts(files, [[20, 30]], 4).status.tolist() == ["ok", "ok"]
    missing = UPath("zip://m13.fits", fo="none.zip")
    with pytest.raises(FitsFileNotFoundError, match=r"zip://m13\.fits: no such file"):
        dask_fits.cutouts(missing, [[20, 30]], 4)


def test_options_go_with_a_url_alone() -> None:
    with pytest.raises(TypeError, match="storage_options are for a URL: OpenFile has its own"):
        place_of(fsspec.open(of_memory()), {"anon": True})
    with pytest.raises(TypeError, match="storage_options are for a URL: filesystem has its own"):
        place_of("m13.fits", {"anon": True}, MemoryFileSystem())
    with pytest.raises(TypeError, match="filesystem must be one of fsspec, not str"):
        dask_fits.open("m13.fits", filesystem="memory")
    with pytest.raises(TypeError, match="takes a path or a URL, not OpenFile"):
        dask_fits.open(fsspec.open(of_memory()), filesystem=MemoryFileSystem())


@pytest.mark.parametrize("files", ["m13.fits", "m*.fits"])
def test_a_filesystem_of_many_files_is_checked_as_that_of_one(files: str) -> None:
    with pytest.raises(TypeError, match="storage_options are for a URL: filesystem has its own"):
        dask_fits.cutouts(
            files, [[9, 9]], 4, storage_options={"anon": True}, filesystem=MemoryFileSystem()
        )
    with pytest.raises(TypeError, match="filesystem must be one of fsspec, not str"):
        dask_fits.cutouts(files, [[9, 9]], 4, filesystem="memory")
    with pytest.raises(TypeError, match="takes a path or a URL, not OpenFile"):
        dask_fits.cutouts(fsspec.open(of_memory()), [[9, 9]], 4, filesystem=MemoryFileSystem())


def test_xarray_leaves_a_path_of_another_filesystem_as_it_is() -> None:
    MemoryFileSystem().pipe_file("/folder/m13.fits", M13.read_bytes())
    for path in ("folder/m13.fits", "/folder/m13.fits", "memory://folder/m13.fits"):
        with xr.open_dataset(path, engine="fits", filesystem=MemoryFileSystem()) as ds:
            assert np.array_equal(ds.PRIMARY[7].values, PIXELS[7])
    tree = xr.open_datatree("folder/m13.fits", engine="fits", filesystem=MemoryFileSystem())
    assert np.array_equal(tree["PRIMARY"].PRIMARY[7].values, PIXELS[7])


def test_xarray_finds_the_engine_for_an_object() -> None:
    with xr.open_dataset(UPath(of_memory())) as ds:
        assert np.array_equal(ds.PRIMARY[7].values, PIXELS[7])
