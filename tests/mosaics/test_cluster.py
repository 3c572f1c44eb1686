"""The same mosaic, to the bit, from threads and from clusters of any size, though workers die."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, DistortionLookupTable
from distributed import Client

import dask_fits
from dask_fits import FitsError, Mosaic
from tests.servers.range_server import RangeServer
from tests.support.clusters import workers
from tests.support.fits_files import fits_bytes, same_bits
from tests.support.mosaics import moved, sky_header, star_image, tan_wcs, write_image
from tests.support.patience import until

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

STEP = 1e-3
SHAPE = (60, 70)
OUT = tan_wcs(150.0, 2.0, STEP, (80, 130))
CHUNKS = (45, 70)


def with_tables(wcs: WCS, pixels: np.ndarray) -> bytes:
    """An image whose distortions are lookup tables."""
    height, width = pixels.shape
    y, x = np.mgrid[:7, :8]
    for axis, shift in enumerate((0.4 * np.sin(x + y), 0.3 * np.cos(2 * x - y)), 1):
        step = width / 7, height / 6
        table = DistortionLookupTable(shift.astype("f4"), (1.0, 1.0), (1.0, 1.0), step)
        setattr(wcs, f"cpdis{axis}", table)
    hdus = wcs.to_fits(relax=True)
    hdus[0].data = pixels
    return fits_bytes(*hdus)


def put_images(directory: Path, kind: str) -> list[str]:
    """Four turned images, of one kind of WCS or of all."""
    rng = np.random.default_rng(7)
    found = []
    for number in range(4):
        kinds = ("TAN", "SIP", "tables")
        own = kinds[number % 3] if kind == "all" else kind
        at = 150.03 - 0.02 * number, 1.992 + 0.008 * (number % 3)
        wcs = tan_wcs(*at, STEP, SHAPE, 13.0 * number, sip=own == "SIP")
        pixels, path = star_image(rng, SHAPE), directory / f"{kind}{number}.fits"
        pixels[rng.random(SHAPE) < 1e-3] = np.nan
        if own == "tables":
            path.write_bytes(with_tables(wcs, pixels))
        else:
            write_image(path, pixels, wcs)
        found.append(str(path))
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    directory = tmp_path_factory.mktemp("images")
    return {kind: put_images(directory, kind) for kind in ("SIP", "tables", "all")}


RECIPES: list[dict[str, Any]] = [
    {},
    {"resampling": "exact", "combine": "clipped"},
    {"resampling": "lanczos3", "combine": "median", "conserve": "flux"},
    {"resampling": "nearest", "combine": "last", "weights": [1.0, 2.0, 0.5, 3.0]},
]


def arrays(m: Mosaic) -> tuple[Any, ...]:
    return m.data, m.weight, m.count


def same(found: Any, expected: Any) -> bool:
    return all(same_bits(one, other) for one, other in zip(found, expected, strict=True))


# Threads


@pytest.mark.parametrize(("kind", "recipe"), [("SIP", 0), ("SIP", 1), ("tables", 0)])
def test_threads_do_not_disturb_each_other(
    kind: str, recipe: int, images: dict[str, list[str]]
) -> None:
    """astropy computes in the memory of a WCS, which therefore no two threads may share."""
    m = dask_fits.mosaic(images[kind], OUT, chunks=(40, 50), **RECIPES[recipe])
    expected = dask.compute(*arrays(m), scheduler="sync")
    assert np.isfinite(expected[0]).mean() > 0.3
    assert expected[2].max() > 2
    for _ in range(5):
        found = dask.compute(*arrays(m), scheduler="threads", num_workers=4)
        assert same(found, expected)


# Clusters


def test_clusters_of_any_size_give_the_same(client: Client, images: dict[str, list[str]]) -> None:
    """One worker and three, which are threads; and two that are processes."""
    mosaics = [dask_fits.mosaic(images["all"], OUT, chunks=CHUNKS, **recipe) for recipe in RECIPES]
    expected = [dask.compute(*arrays(m), scheduler="sync") for m in mosaics]
    everything = [array for m in mosaics for array in arrays(m)]
    with workers(1, processes=False) as one, workers(3, processes=False) as three:
        for cluster in (one, three, client):
            found = cluster.gather(cluster.compute(everything))
            assert same(found, [array for own in expected for array in own])
            part = cluster.compute(mosaics[0].data[30:70, 60:75]).result()
            assert same_bits(part, expected[0][0][30:70, 60:75])


def test_a_cluster_writes_what_it_would_give(
    client: Client, images: dict[str, list[str]], tmp_path: Path
) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is optional")
    m = dask_fits.mosaic(images["all"], OUT, chunks=CHUNKS)
    with client.as_current():
        m.to_zarr(tmp_path / "out.zarr")
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    expected = dask.compute(*arrays(m), scheduler="sync")
    assert same([group[name][:] for name in ("data", "weight", "count")], expected)


def test_a_cluster_matches_backgrounds_as_this_process_does(
    client: Client, images: dict[str, list[str]]
) -> None:
    with dask.config.set(scheduler="sync"):
        expected = dask_fits.mosaic(images["all"], OUT, match_background=True)
    with client.as_current():
        found = dask_fits.mosaic(images["all"], OUT, match_background=True)
    assert expected.inputs["background"].std() > 0
    assert found.inputs["background"].tolist() == expected.inputs["background"].tolist()
    assert found.data.name == expected.data.name


def test_errors_come_back_from_workers_as_they_are(
    client: Client, images: dict[str, list[str]], tmp_path: Path
) -> None:
    files = images["all"].copy()
    files[2] = write_image(tmp_path / "bad.fits", np.ones(SHAPE, "f4"), OUT)
    m, skipping = (dask_fits.mosaic(files, OUT, on_error=how) for how in ("raise", "skip"))
    Path(files[2]).unlink()
    with pytest.raises(FitsError, match=r"bad\.fits"):
        client.compute(m.data).result()
    expected = dask_fits.mosaic([*files[:2], *files[3:]], OUT)
    found = client.gather(client.compute(arrays(skipping)))
    assert same(found, dask.compute(*arrays(expected), scheduler="sync"))


SMALL = (20, 30)
ROWS, COLUMNS = 4, 6


def test_a_worker_that_dies_costs_only_its_own_tasks(client: Client, tmp_path: Path) -> None:
    """Two dozen images side by side, each of which is a chunk."""
    grid = tan_wcs(150.0, 2.0, STEP, (ROWS * SMALL[0], COLUMNS * SMALL[1]))
    expected = np.random.default_rng(3).integers(-99, 99, grid.array_shape).astype("f4")
    names = []
    for number in range(ROWS * COLUMNS):
        y, x = (at * size for at, size in zip(divmod(number, COLUMNS), SMALL, strict=True))
        own = expected[y : y + SMALL[0], x : x + SMALL[1]]
        fits.PrimaryHDU(own, sky_header(moved(grid, y, x, SMALL))).writeto(
            tmp_path / f"{number}.fits"
        )
        names.append(f"{number}.fits")
    with RangeServer(tmp_path) as server:
        m = dask_fits.mosaic([f"{server.url}/{name}" for name in names], grid, chunks=SMALL)
        server.clear()
        server.latency = 0.05
        futures = client.compute((m.data, m.data.sum(), m.count))
        until(lambda: server.requests >= len(names) // 2)
        with server.hold():
            until(lambda: server.waiting >= 2)
            victim = next(iter(client.run(os.getpid).values()))
            os.kill(victim, signal.SIGKILL)
        data, total, count = client.gather(futures)
        times = Counter(request.path for request in server.log)
    assert same_bits(data, expected)
    assert total == expected.sum()
    assert (count == 1).all()
    assert set(times) == {f"/{name}" for name in names}
    assert max(times.values()) <= 2, "no image is read more often than the lost ones"
