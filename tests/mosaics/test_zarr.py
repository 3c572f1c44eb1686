"""Mosaics as zarr groups."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from astropy import units as u
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

import dask_fits
import dask_fits.xarray_backend  # which has the accessor
from dask_fits import Mosaic
from dask_fits.exceptions import StorageError
from tests.support.fits_files import same_bits
from tests.support.full_store import FullFileSystem
from tests.support.mosaics import moved, star_image, tan_wcs, write_image

pytestmark = pytest.mark.untraced

STEP = 1e-3
OUT = tan_wcs(150.0, 2.0, STEP, (70, 90), 8.0)
IMAGE = (50, 60)
NAMES = ("data", "weight", "count", "error")


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """Nothing that is written has a type that zarr warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Zarr V3 specification")
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three turned images."""
    root, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(2)
    grids = [tan_wcs(150.02 - 0.02 * n, 2.0, STEP, IMAGE, 20.0 * n) for n in range(3)]
    return [
        write_image(root / f"{n}.fits", star_image(rng, IMAGE), wcs) for n, wcs in enumerate(grids)
    ]


def computed(m: Mosaic) -> dict[str, np.ndarray]:
    """What its arrays hold."""
    arrays = {"data": m.data, "weight": m.weight, "count": m.count}
    if m._job.recipe.has_errors:
        arrays["error"] = m.error
    return dict(zip(arrays, dask.compute(*arrays.values(), scheduler="sync"), strict=True))


def group_of(place: Any, **options: Any) -> Any:
    return zarr.open_group(place, mode="r", **options)


def opened(place: Any, **options: Any) -> xr.Dataset:
    return xr.open_zarr(place, consolidated=False, **options)


def same_values(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether type and pixels agree; chunks of NaN alone are not written, whatever their sign is."""
    return found.dtype == expected.dtype and np.array_equal(found, expected, equal_nan=True)


def check_group(group: Any, m: Mosaic) -> None:
    """A group that is complete, and holds what computing gives."""
    assert "incomplete" not in group.attrs
    expected = computed(m)
    assert set(NAMES) & set(group.array_keys()) == set(expected)
    for name, pixels in expected.items():
        assert same_values(group[name][:], pixels), name
        assert group[name].metadata.dimension_names == ("y", "x")


RECIPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "errors": {"error": [np.full(IMAGE, 2.0)] * 3, "dtype": "f8"},
    "filled": {"fill_value": -99.0, "resampling": "exact"},
    "median": {"combine": "median", "weights": [1.0, 2.0, 0.5]},
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_a_group_holds_what_computing_gives(
    recipe: str, scheduler: str, files: list[str], tmp_path: Path
) -> None:
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50), **RECIPES[recipe])
    with dask.config.set(scheduler=scheduler):
        done = m.to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    check_group(group, m)
    fill = RECIPES[recipe].get("fill_value", np.nan)
    assert np.array_equal(group["data"].fill_value, fill, equal_nan=True)
    assert {group[name].chunks for name in computed(m)} == {(40, 50)}
    assert isinstance(done, Mosaic)
    assert done.data.name == m.data.name
    assert done.inputs["status"].tolist() == ["ok"] * 3


def test_integers_stay_integers(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(-(2**15), 2**15, (2, 30, 40)).astype("i2")
    grid = tan_wcs(150.0, 2.0, STEP, (30, 70))
    paths = [
        write_image(tmp_path / f"{n}.fits", own, moved(grid, 0, 30 * n, (30, 40)))
        for n, own in enumerate(pixels)
    ]
    m = dask_fits.mosaic(paths, grid, combine="last", fill_value=-7)
    m.to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    assert group["data"].dtype == np.int16
    assert group["data"].fill_value == -7
    assert same_bits(group["data"][:, 30:], pixels[1])
    assert same_bits(group["data"][:, :30], pixels[0, :, :30])
    assert same_bits(opened(tmp_path / "out.zarr")["data"].to_numpy(), group["data"][:])


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ("auto", (70, 90)),
        (32, (32, 32)),
        ((33, -1), (33, 90)),
        (((10, 35, 25), (60, 30)), (35, 60)),
        (((1, 69), 90), (69, 90)),
    ],
)
def test_chunks_are_those_of_the_mosaic(
    chunks: Any, expected: tuple[int, int], files: list[str], tmp_path: Path
) -> None:
    """zarr has one length along an axis: of chunks that differ, the longest."""
    m = dask_fits.mosaic(files, OUT, chunks=chunks)
    m.to_zarr(tmp_path / "out.zarr")
    group = group_of(tmp_path / "out.zarr")
    assert {group[name].chunks for name in computed(m)} == {expected}
    check_group(group, m)


def test_tasks_write_whole_chunks(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tasks that write one chunk could each undo what the other has written."""
    from dask_fits.mosaics import zarr_writer

    boxes = []

    def write(group: Any, job: Any, box: Any) -> Any:
        boxes.append(box)
        return write_box(group, job, box)

    write_box = zarr_writer.write_box
    monkeypatch.setattr(zarr_writer, "write_box", write)
    m = dask_fits.mosaic(files, OUT, chunks=((10, 35, 25), (60, 30)))
    m.to_zarr(tmp_path / "out.zarr")
    rows, columns = ((0, 35), (35, 70)), ((0, 60), (60, 90))
    assert sorted(boxes) == [(y, x) for y in rows for x in columns]


# As others read it


@pytest.fixture(scope="module")
def written(
    files: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mosaic, xr.Dataset]:
    place = tmp_path_factory.mktemp("written") / "out.zarr"
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50), error=[np.ones(IMAGE)] * 3)
    return m.to_zarr(place), opened(place)


def test_xarray_opens_it(written: tuple[Mosaic, xr.Dataset]) -> None:
    m, ds = written
    for name, pixels in computed(m).items():
        assert ds[name].dims == ("y", "x")
        assert same_values(ds[name].to_numpy(), pixels), name
    assert {"y", "x"} <= set(ds.coords)
    assert ds["y"].to_numpy().tolist() == list(range(70))
    assert ds["x"].to_numpy().tolist() == list(range(90))
    assert not {*NAMES} - set(ds.data_vars)


def test_its_header_is_that_of_the_mosaic(written: tuple[Mosaic, xr.Dataset]) -> None:
    m, ds = written
    for name in NAMES:
        header = fits.Header.fromstring(ds[name].attrs["header"], sep="\n")
        assert header == m.header
        assert ds[name].fits.header == m.header
    assert header["NCOMBINE"] == 3
    at = [[0.0, 20.0], [3.5, 60.0]]
    found = WCS(header).wcs_pix2world(*at, 0)
    np.testing.assert_allclose(found, OUT.wcs_pix2world(*at, 0), rtol=0, atol=1e-11)


def test_its_wcs_is_that_of_what_is_left(written: tuple[Mosaic, xr.Dataset]) -> None:
    m, ds = written
    part = ds.isel(y=slice(5, 50), x=slice(20, 80, 3))
    for found in (part["data"], part["count"], part["weight"]):
        wcs = found.fits.wcs
        assert wcs.array_shape == (45, 20)
        there = wcs.pixel_to_world(4, 7).separation(OUT.pixel_to_world(20 + 3 * 4, 5 + 7))
        assert there < 1e-9 * u.deg
    centre = OUT.pixel_to_world(40.3, 33.2)
    cut = ds["data"].fits.cutout(centre, (9, 12))
    expected = Cutout2D(m.data.compute(), centre, (9, 12), OUT)
    assert same_values(cut.to_numpy(), expected.data)


def test_the_table_of_images_is_in_it(written: tuple[Mosaic, xr.Dataset]) -> None:
    m, ds = written
    for name in m.inputs.colnames:
        column = f"input_{name}"
        found = ds[column].to_numpy().tolist() if column in ds else list(ds.attrs[column])
        assert found == m.inputs[name].tolist(), name
    assert m.inputs["file"].tolist() == [hdu.store.name for hdu in m.collection]


# Places


def test_a_group_that_is_there_is_replaced_only_if_that_is_asked_for(
    files: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    first = dask_fits.mosaic(files, OUT, error=[np.ones(IMAGE)] * 3)
    other = dask_fits.mosaic(files[:2], OUT)
    first.to_zarr(out)
    with pytest.raises(FileExistsError, match=r"out\.zarr"):
        other.to_zarr(out)
    check_group(group_of(out), first)
    other.to_zarr(out, overwrite=True)
    check_group(group_of(out), other)
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="full"):
            other.to_zarr(full, overwrite=overwrite)
    assert (full / "notes.txt").read_text() == "mine"
    before = Path(files[0]).read_bytes()
    with pytest.raises(FileExistsError, match=r"0\.fits"):
        other.to_zarr(files[0], overwrite=True)
    assert Path(files[0]).read_bytes() == before


def test_a_group_in_memory(files: list[str], tmp_path: Path) -> None:
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50))
    url = f"memory://{tmp_path.name}/out.zarr"
    m.to_zarr(url, storage_options={"asynchronous": True})
    check_group(group_of(url), m)


class FailingFileSystem(FullFileSystem):
    """``failing-mosaic://`` URLs."""

    protocol = "failing-mosaic"
    chunks = "/c/"


fsspec.register_implementation("failing-mosaic", FailingFileSystem, clobber=True)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_an_error_of_the_store_leaves_the_group_incomplete(
    scheduler: str, on_error: Any, files: list[str], tmp_path: Path
) -> None:
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50), on_error=on_error)
    url = f"failing-mosaic://{tmp_path.name}/out.zarr"
    FailingFileSystem.left = 5
    with dask.config.set(scheduler=scheduler):
        with pytest.raises(StorageError, match=r"out\.zarr.*No space"):
            m.to_zarr(url)
        assert group_of(url).attrs["incomplete"] is True
        FailingFileSystem.left = 100
        with pytest.raises(FileExistsError):
            m.to_zarr(url)
        m.to_zarr(url, overwrite=True)
    check_group(group_of(url), m)


def test_a_group_is_marked_as_long_as_it_is_not_complete(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dask_fits.mosaics import zarr_writer

    seen = []

    def write(group: Any, job: Any, box: Any) -> Any:
        seen.append(group_of(tmp_path / "out.zarr").attrs["incomplete"])
        return write_box(group, job, box)

    write_box = zarr_writer.write_box
    monkeypatch.setattr(zarr_writer, "write_box", write)
    m = dask_fits.mosaic(files, OUT, chunks=(40, 50))
    m.to_zarr(tmp_path / "out.zarr")
    assert seen == [True] * 4
    assert "incomplete" not in group_of(tmp_path / "out.zarr").attrs


def test_a_store_that_cannot_be_made_is_an_error(files: list[str]) -> None:
    m = dask_fits.mosaic(files, OUT)
    with pytest.raises((StorageError, OSError), match="sub"):
        m.to_zarr(f"{files[0]}/sub/out.zarr")
