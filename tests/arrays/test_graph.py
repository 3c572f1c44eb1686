"""Dask graphs: small, deterministic, safe to send to another process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
from astropy.io import fits
from dask.base import tokenize

import dask_fits
from dask_fits.arrays.lazy import to_dask
from tests.support.data import DATA
from tests.support.huge_images import huge_hdu
from tests.support.memory import peak_below
from tests.support.recording import RecordingFileSystem, put

M13 = DATA / "m13.fits"


def test_a_million_chunks_build_small_pickle_small_and_cull_well(tmp_path: Path) -> None:
    hdu = huge_hdu(tmp_path / "huge.fits", (100_000, 100_000))
    hdu.to_dask((100, 100))  # imports what it needs
    with peak_below(1_000_000):  # nothing is made of each chunk
        array = hdu.to_dask((100, 100))
    assert array.npartitions == 1_000_000
    assert len(cloudpickle.dumps(array)) < 20_000
    (cutout,) = dask.optimize(array[100:110, 100:120])
    assert len(dict(cutout.dask)) <= 2


def test_a_reader_pickles_small() -> None:
    url = put("data/of/a/survey/with/a/long/path/" + "x" * 60 + ".fits", M13.read_bytes())
    for place in (M13, url):
        hdu = dask_fits.open(place)[0]
        reader = pickle.loads(pickle.dumps(hdu.reader()))
        assert len(pickle.dumps(reader)) < 600
        assert np.array_equal(reader[3:5], fits.getdata(M13)[3:5])


def test_files_and_hdus_pickle() -> None:
    file = pickle.loads(pickle.dumps(dask_fits.open(M13)))
    assert file["primary"].shape == (300, 300)
    hdu = pickle.loads(pickle.dumps(file[0]))
    assert hdu.header == file[0].header
    assert hdu.data.name == file[0].data.name


def test_the_name_is_the_same_by_every_road_and_in_every_process() -> None:
    file = dask_fits.open(M13)
    names = {
        file[0].data.name,
        file[0].to_dask().name,
        to_dask(file[0].reader()).name,
        dask_fits.from_fits(M13).name,
        dask_fits.from_fits(str(M13), "PRIMARY").name,
        dask_fits.from_fits(f"file://{M13}", ("PRIMARY", 1)).name,
        dask_fits.from_fits(os.path.relpath(M13)).name,
    }
    code = f"import dask_fits; print(dask_fits.from_fits({str(M13)!r}).name)"
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        child = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True
        )
        names.add(child.stdout.strip())
    assert len(names) == 1, names


def test_the_name_tells_everything_apart_that_changes_the_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    hdus = [fits.PrimaryHDU(np.arange(60, dtype=np.int16).reshape(6, 10))]
    hdus += [fits.ImageHDU(hdus[0].data), fits.ImageHDU(hdus[0].data.reshape(10, 6))]
    fits.HDUList(hdus).writeto(path)
    file = dask_fits.open(path)
    names = [hdu.data.name for hdu in file]
    names += [file[0].to_dask((2, 10)).name, file[0].to_dask((3, 10)).name]
    scaled = path.with_name("b.fits")
    hdus[0].header["BZERO"] = 5
    hdus[0].writeto(scaled)
    other = dask_fits.open(scaled)[0]
    names += [other.data.name, other.to_dask(mask_and_scale=False).name]
    os.utime(path, ns=(1, 1))
    names.append(dask_fits.open(path)[0].data.name)
    path.write_bytes(path.read_bytes() + bytes(2880))
    os.utime(path, ns=(1, 1))
    names.append(dask_fits.open(path)[0].data.name)
    assert len(set(names)) == len(names)


def test_the_name_follows_the_version_of_a_remote_file() -> None:
    first = dask_fits.from_fits(put("versions.fits", M13.read_bytes())).name
    second = dask_fits.from_fits(put("versions.fits", M13.read_bytes())).name
    assert first != second, "the same bytes, written again: another version"


def test_storage_options_stay_out_of_names_and_reprs() -> None:
    url = put("secret.fits", M13.read_bytes())
    plain = dask_fits.open(url)
    file = dask_fits.open(url, storage_options={"skip_instance_cache": False})
    assert file[0].data.name == plain[0].data.name
    reader = file[0].reader()
    shown = [repr(x) for x in (file, file[0], reader, file[0].data, reader.__dask_tokenize__())]
    assert not any("skip_instance_cache" in text for text in shown)
    assert tokenize(reader) == tokenize(plain[0].reader())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("graph") / "image.fits"
    hdu = fits.PrimaryHDU(np.random.default_rng(0).integers(0, 4000, (500, 700), dtype=np.int16))
    hdu.header["BSCALE"], hdu.header["BZERO"] = 0.5, 100.0
    hdu.writeto(path)
    return path, fits.getdata(path)


def test_threads_share_a_reader_and_a_walking_file(image: tuple[Path, np.ndarray]) -> None:
    path, expected = image
    reader = dask_fits.open(path)[0].reader()

    def rows(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        starts = rng.integers(0, 490, 50)
        return all(np.array_equal(reader[n : n + 9], expected[n : n + 9]) for n in starts)

    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(np.full((200, 200), n), name="E") for n in range(8))]
    many = path.with_name("many.fits")
    fits.HDUList(hdus).writeto(many, overwrite=True)
    file = dask_fits.open(many)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(rows, range(8)))
        found = pool.map(lambda n: int(file[n].reader()[0, 0]), [8, 1, 7, 2, 6, 3, 5, 4])
        assert list(found) == [7, 0, 6, 1, 5, 2, 4, 3]
    assert [hdu.index for hdu in file] == list(range(9))


def test_auto_chunks_are_contiguous_slabs_of_the_configured_size(tmp_path: Path) -> None:
    cube = huge_hdu(tmp_path / "cube.fits", (50, 1000, 2000))  # planes of 8 MB
    with dask.config.set({"array.chunk-size": "20 MB"}):
        assert cube.data.chunksize == (2, 1000, 2000)
        assert cube.to_dask("3 MB").chunksize == (1, 375, 2000)
        assert cube.to_dask((5, "auto", "auto")).chunksize[0] == 5
        assert cube.to_dask(-1).chunks == ((50,), (1000,), (2000,))
        assert cube.to_dask({0: 7}).chunksize == (7, 1000, 2000)
        assert cube.to_dask((10, 300, 400)).chunksize == (10, 300, 400)
        assert cube.chunks == cube.data.chunks
    with dask.config.set({"array.chunk-size": "4 kB"}):
        assert cube.data.chunksize == (1, 1, 1000)


def test_recording_and_graph_do_no_io(image: tuple[Path, np.ndarray]) -> None:
    hdu = dask_fits.open(put("graph.fits", image[0].read_bytes()))[0]
    RecordingFileSystem.log.clear()
    array = hdu.to_dask((50, 50))
    dask.optimize((array + 1)[3:80, ::2].mean(axis=0))
    pickle.dumps(array)
    assert RecordingFileSystem.log == []
