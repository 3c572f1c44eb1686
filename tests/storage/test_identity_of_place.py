"""What tells files apart is part of their names, also where it is in the storage options."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from fsspec.implementations.memory import MemoryFileSystem

import dask_fits
from dask_fits.file import header_reader
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from dask_fits.storage.filesystem import url_to_filesystem
from dask_fits.storage.identity import identity_of
from dask_fits.storage.remote import RemoteStore
from dask_fits.storage.transfer import TransferConfig
from dask_fits.storage.version import FileVersion
from tests.servers.range_server import RangeServer
from tests.support.fits_files import fits_bytes
from tests.support.recording import put

pytestmark = pytest.mark.filterwarnings("ignore::dask_fits.UnversionedFileWarning")


def file_of(value: int) -> bytes:
    return fits_bytes(fits.PrimaryHDU(np.full((8, 8), value, "i2")))


def tar_of(path: Path, content: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("img.fits")
        member.size, member.mtime = len(content), 1_000_000_000
        archive.addfile(member, BytesIO(content))
    return path


def zip_of(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("img.fits"), content)
    return path


def in_tar(directory: Path, value: int) -> dict[str, Any]:
    path = tar_of(directory / f"{value}.tar", file_of(value))
    return {"url": "tar://img.fits", "storage_options": {"fo": str(path)}}


def in_zip(directory: Path, value: int) -> dict[str, Any]:
    path = zip_of(directory / f"{value}.zip", file_of(value))
    return {"url": "zip://img.fits", "storage_options": {"fo": str(path)}}


def in_open_zip(directory: Path, value: int) -> dict[str, Any]:
    path = zip_of(directory / f"{value}.zip", file_of(value))
    return {"url": "zip://img.fits", "storage_options": {"zip": {"fo": fsspec.open(str(path))}}}


def in_zip_in_memory(_: Path, value: int) -> dict[str, Any]:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("img.fits"), file_of(value))
    MemoryFileSystem().pipe_file(f"/{value}.zip", buffer.getvalue())
    options = {"fo": f"/{value}.zip", "target_protocol": "memory"}
    return {"url": "zip://img.fits", "storage_options": options}


def in_directory_of_memory(_: Path, value: int) -> dict[str, Any]:
    MemoryFileSystem().pipe_file(f"/root{value}/img.fits", file_of(value))
    options = {"path": f"/root{value}", "target_protocol": "memory"}
    return {"url": "dir://img.fits", "storage_options": options}


def in_directory_of_disk(directory: Path, value: int) -> dict[str, Any]:
    root = directory / f"root{value}"
    root.mkdir()
    (root / "img.fits").write_bytes(file_of(value))
    os.utime(root / "img.fits", (10**9, 10**9))
    options = {"path": str(root), "target_protocol": "file"}
    return {"url": "dir://img.fits", "storage_options": options}


def in_reference(_: Path, value: int) -> dict[str, Any]:
    MemoryFileSystem().pipe_file(f"/{value}.fits", file_of(value))
    references = {"img.fits": [f"memory://{value}.fits"]}
    options = {"fo": references, "remote_protocol": "memory"}
    return {"url": "reference://img.fits", "storage_options": options}


KINDS = [in_tar, in_zip, in_open_zip, in_zip_in_memory, in_directory_of_memory]
KINDS += [in_directory_of_disk, in_reference]


@pytest.mark.parametrize("kind", KINDS)
def test_files_whose_place_is_in_the_options_are_apart(kind: Any, tmp_path: Path) -> None:
    given = [kind(tmp_path, value) for value in (1, 2)]
    one, two = (dask_fits.from_fits(**arguments) for arguments in given)
    assert one.name != two.name
    assert dask.compute(one.max(), two.max(), (two - one).min()) == (1, 2, 1)
    assert dask_fits.from_fits(**given[0]).name == one.name

    cut = [
        dask_fits.cutouts(a["url"], [[4, 4]], 2, storage_options=a["storage_options"])
        for a in given
    ]
    assert cut[0].data.name != cut[1].data.name
    assert dask.compute(*(found.data.max() for found in cut)) == (1, 2)

    sets = [
        xr.open_dataset(
            a["url"], engine="fits", chunks={}, storage_options=a["storage_options"]
        ).PRIMARY
        for a in given
    ]
    assert sets[0].data.name != sets[1].data.name
    assert dask.compute(*(found.data.max() for found in sets)) == (1, 2)


def test_an_archive_that_ends_leaves_others_of_its_open_file_open(tmp_path: Path) -> None:
    options = in_open_zip(tmp_path, 1)["storage_options"]
    filesystems = [url_to_filesystem("zip://img.fits", options)[0] for _ in range(2)]
    filesystems.pop(0)
    gc.collect()
    assert filesystems[0].cat_file("img.fits") == file_of(1)


@pytest.mark.parametrize(
    "where",
    [
        lambda url: {"endpoint_url": url},
        lambda url: {"client_kwargs": {"endpoint_url": url}},
        lambda url: {"s3": {"client_kwargs": {"endpoint_url": url}}},
    ],
)
def test_two_endpoints_hold_two_files(where: Any, tmp_path: Path) -> None:
    values, arrays = (1, 2), []
    for value in values:
        path = tmp_path / str(value) / "bucket" / "img.fits"
        path.parent.mkdir(parents=True)
        path.write_bytes(file_of(value))
        os.utime(path, (10**9, 10**9))
    with RangeServer(tmp_path / "1") as first, RangeServer(tmp_path / "2") as second:
        for server in (first, second):
            options = {"anon": True, **where(server.url)}
            arrays.append(dask_fits.from_fits("s3://bucket/img.fits", storage_options=options))
        assert dask.compute(*(array.max() for array in arrays)) == values


def test_a_query_in_the_options_tells_files_apart(range_server: RangeServer) -> None:
    url = f"{range_server.url}/m13.fits"
    names = {
        dask_fits.from_fits(url, storage_options={"params": params}).name
        for params in ({"key": "a"}, {"key": "b"}, {"key": "a", "token": "secret-of-mine"})
    }
    assert len(names) == 2


def test_the_rows_of_two_archives_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header_reader, "MAX_TILE_TABLE", 0)
    monkeypatch.setattr(tiled, "ROWS", RowCache(10**6))
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2 ** rng.integers(1, 14, (64, 1)), (64, 32)).astype("i2")
    images, readers = (first, first[::-1]), []
    for number, image in enumerate(images):
        buffer = BytesIO()
        packed = fits.CompImageHDU(image, compression_type="RICE_1", tile_shape=(1, 32))
        packed.writeto(buffer)
        path = tar_of(tmp_path / f"{number}.tar", buffer.getvalue())
        file = dask_fits.open("tar://img.fits", storage_options={"fo": str(path)})
        readers.append(file[1].reader())
    assert readers[0].store.version == readers[1].store.version, "only the archives tell them apart"
    assert readers[0].layout == readers[1].layout
    for _ in range(2):
        for reader, image in zip(readers, images, strict=True):
            assert np.array_equal(reader[...], image)


def test_a_file_on_one_filesystem_is_not_that_on_another() -> None:
    def store(**options: Any) -> RemoteStore:
        return RemoteStore(
            "sftp:///a.fits", FileVersion(5), options, TransferConfig(), parallel=False
        )

    same = store(host="a", password="x"), store(password="y", host="a", timeout=3)
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert len({store(host="a"), store(host="b"), store(host="a", port=2), store()}) == 4
    assert pickle.loads(pickle.dumps(same[0])) == same[0]


TELLING: list[dict[str, Any]] = [
    {"fo": "a.tar"},
    {"fo": "b.tar"},
    {"fo": Path("c.tar")},
    {"fo": {"a.fits": ["memory://1"]}},
    {"fo": {"a.fits": ["memory://2"]}},
    {"host": "a"},
    {"host": "a", "port": 22},
    {"host": "a", "username": "me"},
    {"host": "a", "username": "you"},
    {"org": "o", "repo": "r", "sha": "1"},
    {"org": "o", "repo": "r", "sha": "2"},
    {"org": "o", "repo": "q", "sha": "1"},
    {"base_url": "https://a"},
    {"account_name": "a"},
    {"connection_string": "AccountName=a1;AccountKey=secret"},
    {"connection_string": "AccountName=a2;AccountKey=secret"},
    {"client_kwargs": {"endpoint_url": "http://a"}},
    {"target_options": {"host": "a"}},
    {"target_options": {"target_options": {"host": "a"}}},
    {"headers": {"Host": "a"}},
    {"headers": {"Host": "b", "Authorization": "secret"}},
    {"fs": MemoryFileSystem()},
    {"fs": fsspec.filesystem("dir", path="/a", fs=MemoryFileSystem())},
    {"fs": fsspec.filesystem("dir", path="/b", fs=MemoryFileSystem())},
    {"fo": fsspec.open("memory://a.zip")},
    {"fo": fsspec.open("memory://b.zip")},
    {"nobody knows": 1},
    {"nobody knows": True},
    {"get_client": file_of},
]

SAME: list[dict[str, Any]] = [
    {},
    {"key": "AKIA", "secret": "s", "token": "t"},
    {"anon": True},
    {"s3": {"anon": True}},
    {"password": "p", "passphrase": "p", "pkey": "p", "key_filename": "p"},
    {"headers": {"Authorization": "Bearer s", "X-Api-Key": "s"}},
    {
        "client_kwargs": {
            "auth": ("me", "s"),
            "headers": {"PRIVATE-TOKEN": "s"},
            "cookies": {"a": 1},
        }
    },
    {"auth": ("me", "s")},
    {"sas_token": "s", "account_key": "s", "credential": object(), "client_secret": "s"},
    {"client_kwargs": {"aws_access_key_id": "s", "aws_session_token": "s", "verify": False}},
    {"s3_additional_kwargs": {"SSECustomerKey": "s", "SSECustomerKeyMD5": "s"}},
    {"timeout": 3, "block_size": 5, "cache_type": "none", "use_listings_cache": False},
    {"config_kwargs": {"retries": {"max_attempts": 3}}},
    {"asynchronous": True, "loop": object(), "skip_instance_cache": True},
    {"requester_pays": True, "version_aware": True},
    {"endpoint_url": None, "target_options": {}},
    {"cert": "c", "ssl": object(), "ssl_context": object()},
]


def test_what_tells_files_apart_counts_and_nothing_else() -> None:
    digests = [identity_of(options) for options in TELLING]
    assert len(set(digests)) == len(TELLING)
    assert all(len(digest) == 16 for digest in digests)
    assert {identity_of(options) for options in SAME} == {""}
    for telling in TELLING:
        renewed = {
            **telling,
            **{k: v for more in SAME for k, v in more.items() if k not in telling},
        }
        assert identity_of(renewed) == identity_of(telling)


def test_a_password_in_an_endpoint_does_not_count() -> None:
    one, two = ({"endpoint_url": f"https://me:{word}@host:9000"} for word in ("old", "new"))
    assert identity_of(one) == identity_of(two) != ""


def test_the_name_is_what_it_is_without_options() -> None:
    """Where nothing in the options tells files apart, names stay as they were."""
    url = put("plain.fits", file_of(1))
    plain = dask_fits.open(url)[0].reader()
    version = plain.store.version
    expected = ("dask_fits.ImageReader", url, version.size, version.kind, version.value)
    assert plain.__dask_tokenize__() == (*expected, 2880, (8, 8), 16, 1.0, 0.0, None)
    for options in SAME:
        mine = {k: v for k, v in options.items() if k not in ("asynchronous", "loop")}
        other = dask_fits.open(url, storage_options=mine)[0].reader()
        assert other.__dask_tokenize__() == plain.__dask_tokenize__()


def test_names_hold_no_secret_and_survive_its_renewal(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", file_of(1))
    found = [
        dask_fits.from_fits("tar://img.fits", storage_options={"fo": str(path), "token": token})
        for token in ("hunter2-hunter2", "hunter3-hunter3")
    ]
    assert found[0].name == found[1].name
    reader = dask_fits.open("tar://img.fits", storage_options={"fo": str(path)})[0].reader()
    for shown in (repr(found[0].dask), str(reader.__dask_tokenize__()), repr(reader)):
        assert "hunter" not in shown
        assert str(path) not in shown


def test_identity_is_the_same_in_every_process() -> None:
    code = (
        "import fsspec, sys; from dask_fits.storage.identity import identity_of\n"
        "options = {'b': {'y': {3, 1, 2}, 'x': 'w'}, 'a': fsspec.filesystem('memory'),\n"
        "           'c': fsspec.filesystem('dir', path='/p', fs=fsspec.filesystem('memory')),\n"
        "           'd': complex(1, 2), 'e': {'p', 'q', 'r'}, 'f': len}\n"
        "if sys.argv[1:]: options = dict(reversed(options.items()))\n"
        "print(identity_of(options))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, *more],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for more, seed in (([], "1"), (["reversed"], "2"))
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 16


def test_options_given_are_not_changed(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", file_of(1))
    options: dict[str, Any] = {"zip": {"fo": str(path)}, "mode": "r"}
    dask_fits.open("zip://img.fits", storage_options=options)
    assert options == {"zip": {"fo": str(path)}, "mode": "r"}
