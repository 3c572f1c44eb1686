"""The engine "fits" of xarray over the wire: requests, clusters, threads, versions, secrets."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from distributed import Client
from spectral_cube import SpectralCube

import dask_fits
from dask_fits import FileChangedError, TransferConfig
from tests.servers.range_server import RangeServer
from tests.support.fits_files import BLOCK, card, primary
from tests.support.patience import until
from tests.support.traffic import SECRETS, asked
from tests.support.xarray_files import sky

pytestmark = [
    pytest.mark.filterwarnings("ignore:The specified chunks separate"),
    pytest.mark.untraced,
]
both = pytest.mark.parametrize("chunks", [None, {}], ids=["lazy", "chunked"])

RNG = np.random.default_rng(41)
READ = 57_600
"""Bytes of a header that are read at first."""

WIDE = RNG.integers(-999, 999, (64, 8192)).astype("f4")
ROW = WIDE.shape[1] * 4
THREE = {
    "SCI": RNG.integers(0, 999, (256, 512)).astype("f4"),
    "ERR": RNG.random((256, 512)),
    "DQ": RNG.integers(0, 999, (256, 512)).astype("i2"),
}
MANY = RNG.integers(0, 99, (20, 120, 160)).astype("f4")
RADIO = RNG.integers(0, 99, (1, 64, 96, 80)).astype("f4")
PLANE = RADIO[0, 0].nbytes
SIP = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2}
SIP |= {"A_2_0": 1e-4, "A_1_1": 2e-5, "B_0_2": 2e-4, "B_1_1": 3e-5}
SIDE = 40_000


def radio() -> fits.Header:
    """The header of a cube of an interferometer."""
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN", "FREQ", "STOKES"]
    wcs.wcs.cunit = ["deg", "deg", "Hz", ""]
    wcs.wcs.crval = [83.8, -5.4, 1.42e9, 1.0]
    wcs.wcs.crpix = [40.5, 48.5, 1.0, 1.0]
    wcs.wcs.cdelt = [-1e-3, 1e-3, 12_500.0, 1.0]
    wcs.wcs.restfrq, wcs.wcs.specsys = 1.420405752e9, "LSRK"
    header = wcs.to_header()
    header.update(BUNIT="Jy/beam", BMAJ=4e-3, BMIN=3e-3, BPA=20.0)
    return header


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this module: ``wide.fits``, ..."""
    root = tmp_path_factory.mktemp("served")
    fits.PrimaryHDU(WIDE, sky(shape=WIDE.shape)).writeto(root / "wide.fits")
    fits.PrimaryHDU(WIDE[:5, :6]).writeto(root / "small.fits")
    fits.PrimaryHDU(WIDE.reshape(16, 4, 8192)).writeto(root / "planes.fits")
    fits.PrimaryHDU(WIDE.reshape(4, 16, 8192)).writeto(root / "bands.fits")
    fits.PrimaryHDU(RADIO, radio()).writeto(root / "radio.fits")
    fits.PrimaryHDU(WIDE[:, :256], sky(shape=(64, 256), **SIP)).writeto(root / "sip.fits")
    header = sky(shape=(256, 512))
    images = [fits.ImageHDU(pixels, header, name=name) for name, pixels in THREE.items()]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(root / "three.fits")
    hdus = [fits.PrimaryHDU(MANY[0], sky(150.0, (120, 160)))]
    hdus += [fits.ImageHDU(MANY[n], sky(150.0 + n, (120, 160)), name=f"N{n}") for n in range(1, 20)]
    fits.HDUList(hdus).writeto(root / "many.fits")
    tiles = {"compression_type": "RICE_1", "tile_shape": (32, 64)}
    fits.CompImageHDU(THREE["DQ"], header, name="DQ", **tiles).writeto(root / "rice.fits")
    cards = [card(key, value) for key, value in sky(shape=(SIDE, SIDE)).items()]
    with (root / "large.fits").open("wb") as file:
        file.write(primary(SIDE, SIDE, bitpix=-32, extra=cards))
        file.truncate(2 * BLOCK + SIDE * SIDE * 4)  # zeros, of which the disk holds none
    return root


def opened(server: RangeServer, name: str, **options: Any) -> xr.Dataset:
    """A Dataset of a served file; the log is empty after it."""
    ds = xr.open_dataset(f"{server.url}/{name}.fits", engine="fits", **options)
    server.clear()
    return ds


def places(server: RangeServer, name: str, what: str = "datLoc") -> list[int]:
    """Where astropy finds the data of a file's HDUs, or with ``hdrLoc`` their headers."""
    with fits.open(server._root / f"{name}.fits") as file:
        return [hdu.fileinfo()[what] for hdu in file]


def positions(server: RangeServer, name: str) -> list[np.ndarray]:
    """Longitudes and latitudes of the first image of a file, by astropy."""
    with fits.open(server._root / f"{name}.fits") as file:
        header = next(hdu.header for hdu in file if hdu.header["NAXIS"])
    rows, columns = np.mgrid[: header["NAXIS2"], : header["NAXIS1"]]
    return WCS(header).pixel_to_world_values(columns, rows)


def chunk_size(size: int | str) -> Any:
    return dask.config.set({"array.chunk-size": size})


# Opening


@pytest.mark.parametrize("chunks", [None, {}, "auto"])
@pytest.mark.parametrize("name", ["wide", "small", "many", "rice", "large"])
def test_one_hdu_is_opened_with_one_request(server: RangeServer, name: str, chunks: Any) -> None:
    first = 1 if name == "rice" else 0
    url = f"{server.url}/{name}.fits"
    xr.open_dataset(url, engine="fits", hdu=first, chunks=chunks, world_coords=True)
    size = (server._root / f"{name}.fits").stat().st_size
    assert [(r.method, r.bytes) for r in server.log] == [("GET", min(size, READ))]


@both
def test_a_dataset_of_several_hdus_is_opened_with_their_headers(
    server: RangeServer, chunks: Any
) -> None:
    url = f"{server.url}/three.fits"
    ds = xr.open_dataset(url, engine="fits", chunks=chunks, world_coords=True)
    assert list(ds.data_vars) == list(THREE)
    starts = places(server, "three", "hdrLoc")
    assert starts[1] < READ < starts[2], "the first one of an image came with the primary header"
    assert asked(server) == [(start, start + READ) for start in (0, *starts[2:])]
    assert server.bytes == 3 * READ


@both
def test_a_tree_of_twenty_images_is_opened_with_their_headers(
    server: RangeServer, chunks: Any
) -> None:
    url = f"{server.url}/many.fits"
    assert len(list(dask_fits.open(url))) == 20
    walked = asked(server)
    server.clear()
    tree = xr.open_datatree(url, engine="fits", chunks=chunks, world_coords=True)
    assert len(tree.children) == 20
    assert asked(server) == walked
    assert walked == [(start, start + READ) for start in places(server, "many", "hdrLoc")]
    assert server.bytes == 20 * READ


@both
def test_what_is_known_when_it_is_open_costs_nothing(server: RangeServer, chunks: Any) -> None:
    ds = opened(server, "three", chunks=chunks, world_coords=True)
    tree = xr.open_datatree(f"{server.url}/many.fits", engine="fits", chunks=chunks)
    server.clear()
    for found in (ds, ds.SCI, ds.isel(x=slice(3, 9)), tree):
        assert repr(found)
        assert found._repr_html_()
        assert type(pickle.loads(pickle.dumps(found))) is type(found)
    assert ds.nbytes > 256 * 512 * 14
    assert ds.fits.header["NAXIS1"] == 512
    assert ds.fits.cutout((100, 90), (5, 6)).fits.wcs.array_shape == (5, 6)
    assert ds.SCI[[4, 2]][:, ::7].shape == (2, 74)
    assert server.requests == 0


# Selections

Span = tuple[int, int]


def runs(rows: Any, first: int, stop: int) -> list[Span]:
    """The same columns of some rows, in bytes."""
    return [(row * ROW + first * 4, row * ROW + stop * 4) for row in rows]


def pixels_of(rows: Any, columns: Any) -> list[Span]:
    return [span for column in columns for span in runs(rows, column, column + 1)]


SLICES: dict[str, tuple[Callable[[Any], Any], list[Span]]] = {
    # What is selected, and the bytes by hand: rows are 32 KiB, up to 16 runs are fetched as they
    # are unless the gap is at most 8 KiB, and of more a gap of at most 64 KiB is read over.
    "rows": (lambda a: a[10:14], [(10 * ROW, 14 * ROW)]),
    "a box": (lambda a: a[20:24, 100:120], runs(range(20, 24), 100, 120)),
    "a high box": (lambda a: a[10:50, 100:120], [(10 * ROW + 400, 49 * ROW + 480)]),
    "a pixel": (lambda a: a[7, 8], pixels_of([7], [8])),
    "every 16th row": (lambda a: a[::16, 7], pixels_of(range(0, 64, 16), [7])),
    "every 1000th column": (lambda a: a[5, ::1000], [(5 * ROW, 5 * ROW + 32_004)]),
    "nothing": (lambda a: a[5:5], []),
}
OTHERS: dict[str, tuple[Callable[[Any], Any], list[Span]]] = {
    # Dask would read whole chunks for these, or all that the first slice takes.
    "a slice of a slice": (lambda a: a[10:50][5:8, 90:][:, 10:15], runs(range(15, 18), 100, 105)),
    "transposed, then sliced": (lambda a: a.T[4000:4010, 30:32], runs([30, 31], 4000, 4010)),
    "rows backwards": (lambda a: a[4:0:-1], [(ROW, 5 * ROW)]),
    "a list of rows": (lambda a: a[[40, 3, 40], 9], pixels_of([3, 40], [9])),
    "two lists": (
        lambda a: a[[40, 3, 20]][:, [8000, 5, 5, 4000]],
        pixels_of([3, 20, 40], [5, 4000, 8000]),
    ),
    "a mask and a list": (
        lambda a: a[np.isin(np.arange(64), [1, 60])][:, [2, 6000]],
        pixels_of([1, 60], [2, 6000]),
    ),
}


def assert_reads(
    server: RangeServer, found: xr.DataArray, expected: Any, spans: list[Span]
) -> None:
    assert server.requests == 0
    np.testing.assert_array_equal(found.values, expected)
    start = places(server, "wide")[0]
    assert sorted(asked(server)) == sorted((start + a, start + b) for a, b in spans)
    assert server.bytes == sum(b - a for a, b in spans)


@pytest.mark.parametrize("name", [*SLICES, *OTHERS])
def test_a_lazy_variable_reads_what_is_selected(server: RangeServer, name: str) -> None:
    take, spans = {**SLICES, **OTHERS}[name]
    ds = opened(server, "wide")
    assert_reads(server, take(ds.PRIMARY), take(WIDE), spans)


@pytest.mark.parametrize("name", SLICES)
def test_a_chunk_reads_what_is_sliced(server: RangeServer, name: str) -> None:
    take, spans = SLICES[name]
    ds = opened(server, "wide", chunks={})
    found = take(ds.PRIMARY)
    assert found.chunks is not None
    assert_reads(server, found, take(WIDE), spans)


def test_lists_and_points_read_the_rows_and_columns_that_they_are_on(server: RangeServer) -> None:
    rows, columns = [40, 3, 20], [8000, 5, 4000]
    image, spans = opened(server, "wide").PRIMARY, pixels_of(rows, columns)
    assert_reads(server, image[rows, columns], WIDE[np.ix_(rows, columns)], spans)
    server.clear()
    points = {"y": xr.DataArray(rows, dims="p"), "x": xr.DataArray(columns, dims="p")}
    assert_reads(server, image.isel(points), WIDE[rows, columns], spans)


@both
def test_a_box_of_a_compressed_image_reads_what_is_planned(
    server: RangeServer, chunks: Any
) -> None:
    key = slice(40, 90), slice(100, 180)
    plan = dask_fits.open(f"{server.url}/rice.fits")["DQ"].plan(key)
    ds = opened(server, "rice", chunks=chunks)
    np.testing.assert_array_equal(ds.DQ[key], THREE["DQ"][key])
    assert sorted(asked(server)) == sorted((r.start, r.stop) for r in plan.ranges)
    assert 0 < server.bytes < THREE["DQ"].nbytes / 4


@pytest.mark.parametrize("size", ["128 MiB", "512 KiB", "100 kB"])
def test_a_mean_reads_the_data_once_in_a_request_a_chunk(server: RangeServer, size: str) -> None:
    with chunk_size(size):
        ds = opened(server, "wide", chunks={})
    assert float(ds.PRIMARY.mean(dtype="f8")) == WIDE.mean(dtype="f8")
    ranges = sorted(asked(server))
    start = places(server, "wide")[0]
    assert len(ranges) == ds.PRIMARY.data.npartitions
    assert (ranges[0][0], ranges[-1][1]) == (start, start + WIDE.nbytes)
    assert all(one[1] == other[0] for one, other in pairwise(ranges))


@pytest.mark.parametrize("size", ["128 MiB", "200 kB", "70 kB"])
@pytest.mark.parametrize("name", ["wide", "planes", "radio", "rice"])
def test_automatic_chunks_are_those_of_the_hdu(server: RangeServer, name: str, size: str) -> None:
    with chunk_size(size), warnings.catch_warnings():
        warnings.simplefilter("error")
        chunks = dask_fits.open(f"{server.url}/{name}.fits").first_image().chunks
        for given in ("auto", {}):
            (found,) = opened(server, name, chunks=given).data_vars.values()
            assert found.chunks == chunks
        assert size == "128 MiB" or max(map(len, chunks)) > 1
        dim, lengths = max(zip(found.dims, chunks, strict=True), key=lambda pair: len(pair[1]))
        doubled = opened(server, name, chunks={dim: 2 * lengths[0]})
        assert doubled.chunks[dim][0] == min(2 * lengths[0], found.sizes[dim])
        assert server.requests == 0


@pytest.mark.filterwarnings("ignore:The specified chunks separate")
def test_automatic_chunks_are_contiguous_where_bands_are_uneven(server: RangeServer) -> None:
    """Of a plane that is little larger than a chunk, which Dask cuts into bands more equal."""
    with chunk_size(12 * ROW):
        assert dask_fits.open(f"{server.url}/bands.fits")[0].chunks == ((1,) * 4, (12, 4), (8192,))
        assert opened(server, "bands", chunks={}).PRIMARY.chunks == ((1,) * 4, (12, 4), (8192,))
        chunks = opened(server, "bands", chunks="auto").PRIMARY.chunks
    assert chunks[0] == (1,) * 4  # so that a chunk is a band of one plane
    assert chunks[2] == (8192,)
    assert max(chunks[1]) <= 12


# Asynchronous


def test_load_async_asks_for_all_variables_at_once(server: RangeServer) -> None:
    ds = opened(server, "three", world_coords=True)
    with ThreadPoolExecutor(1) as thread:
        with server.hold():
            loading = thread.submit(lambda: asyncio.run(ds.load_async()))
            until(lambda: server.waiting == 3)
        found = loading.result()
    assert server.peak == 3
    starts = places(server, "three")[1:]
    ends = [start + p.nbytes for start, p in zip(starts, THREE.values(), strict=True)]
    assert sorted(asked(server)) == list(zip(starts, ends, strict=True))
    for name, pixels in THREE.items():
        np.testing.assert_array_equal(found[name], pixels)
    np.testing.assert_array_equal(found.ra, positions(server, "three")[0])
    assert server.requests == 3, "what was loaded is kept"


def test_load_async_leaves_the_loop_to_others(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = opened(server, "three")
    monkeypatch.setattr(server, "latency", 0.3)
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    async def main() -> list[xr.Dataset]:
        working = asyncio.create_task(work())
        boxes = (ds.isel(y=slice(n, n + 5)) for n in (10, 20))
        found = await asyncio.gather(*(box.load_async() for box in boxes))
        working.cancel()
        return found

    one, other = asyncio.run(main())
    assert turns > 20
    assert server.peak == server.requests == 6
    assert server.bytes == 2 * 5 * 512 * (4 + 8 + 2)
    for name, pixels in THREE.items():
        np.testing.assert_array_equal(one[name], pixels[10:15])
        np.testing.assert_array_equal(other[name], pixels[20:25])


# A cube of an interferometer


@pytest.fixture
def cube(server: RangeServer) -> Any:
    """As spectral-cube has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpectralCube.read(server._root / "radio.fits")


@pytest.mark.parametrize(("chunks", "requests"), [(None, 1), ({}, 3)])
def test_moment_0_reads_its_channels_alone(
    server: RangeServer, cube: Any, chunks: Any, requests: int
) -> None:
    with chunk_size(9 * PLANE):
        ds = xr.open_dataset(f"{server.url}/radio.fits", engine="fits", chunks=chunks)
    assert [r.bytes for r in server.log] == [READ]
    server.clear()
    axis = cube.spectral_axis.to_value(ds.freq.attrs["units"])
    np.testing.assert_array_equal(ds.freq, axis)
    width = axis[1] - axis[0]
    low, high = axis[20] - width / 4, axis[40] + width / 4
    slab = ds.PRIMARY.sel(freq=slice(low, high), stokes="I")
    found = (slab.sum("freq") * float(ds.freq[1] - ds.freq[0])).compute()
    expected = cube.spectral_slab(low * u.Hz, high * u.Hz).moment(order=0)
    np.testing.assert_allclose(found, expected.value, rtol=1e-6)
    units = u.Unit(ds.PRIMARY.attrs["units"]) * u.Unit(ds.freq.attrs["units"])
    assert units == expected.unit
    first = places(server, "radio")[0] + 20 * PLANE
    ranges = sorted(asked(server))
    assert len(ranges) == requests
    assert (ranges[0][0], ranges[-1][1]) == (first, first + 21 * PLANE)
    assert server.bytes == 21 * PLANE


@pytest.mark.parametrize(
    ("chunks", "channels", "spans"),
    [
        # 64 runs are more than a few, and the gaps of 30 kB are read over; of 10 they are not,
        # nor of the 16 in each chunk.
        (None, slice(None), [(0, 63 * PLANE + 4)]),
        (None, slice(20, 30), [(n * PLANE, n * PLANE + 4) for n in range(20, 30)]),
        ({}, slice(None), [(n * PLANE, n * PLANE + 4) for n in range(64)]),
    ],
    ids=["all channels", "ten channels", "all channels in four chunks"],
)
def test_a_spectrum_reads_what_the_cost_model_says(
    server: RangeServer, cube: Any, chunks: Any, channels: slice, spans: list[Span]
) -> None:
    with chunk_size(16 * PLANE):
        ds = opened(server, "radio", chunks=chunks)
    position = SkyCoord(*cube.wcs.celestial.pixel_to_world_values(30, 70), unit="deg")
    spectrum = ds.isel(freq=channels).fits.sel_sky(position).PRIMARY.isel(stokes=0)
    assert server.requests == 0
    np.testing.assert_array_equal(spectrum, cube.unmasked_data[channels, 70, 30].value)
    pixel = places(server, "radio")[0] + (70 * 80 + 30) * 4
    assert sorted(asked(server)) == [(pixel + a, pixel + b) for a, b in spans]
    assert server.bytes == sum(b - a for a, b in spans)


# Versions of a file

OLD, NEW = RNG.integers(0, 999, (2, 60, 80)).astype("f4")


class Night:
    """A served file that is replaced by others of the same length."""

    def __init__(self, root: Path, server: RangeServer) -> None:
        self.path, self.url = root / "night.fits", f"{server.url}/night.fits"
        self._time = self._size = 0

    def write(self, pixels: np.ndarray, ra: float = 150.0) -> None:
        fits.PrimaryHDU(pixels, sky(ra, pixels.shape)).writeto(self.path, overwrite=True)
        assert self._size in (0, self.path.stat().st_size)
        self._size, self._time = self.path.stat().st_size, self._time + 1_000_000_000
        os.utime(self.path, ns=(self._time, self._time))  # the server's ETag is made of it

    def open(self, **options: Any) -> xr.Dataset:
        return xr.open_dataset(self.url, engine="fits", world_coords=True, **options)

    def chunked(self, way: str) -> xr.Dataset:
        return self.open(chunks={"y": 20}) if way == "opened" else self.open().chunk(y=20)


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    with RangeServer(tmp_path) as server:
        found = Night(tmp_path, server)
        found.write(OLD)
        yield found


def names(ds: xr.Dataset) -> dict[str, str]:
    """Names of the Dask arrays, the sky's included."""
    return {name: ds[name].data.name for name in ("PRIMARY", "ra", "dec")}


ways = pytest.mark.parametrize("way", ["opened", "chunked later"])


@ways
def test_the_names_of_a_version_are_the_same_everywhere(night: Night, way: str) -> None:
    expected = names(night.chunked(way))
    assert names(night.chunked(way)) == expected
    assert len({*expected.values()}) == 3
    chunked = "(chunks={'y': 20})" if way == "opened" else "().chunk(y=20)"
    code = (
        "import functools, xarray as xr; open = functools.partial(xr.open_dataset, "
        f"{night.url!r}, engine='fits', world_coords=True); ds = open{chunked}; "
        "print({name: ds[name].data.name for name in ('PRIMARY', 'ra', 'dec')})"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert eval(child.stdout) == expected


@ways
def test_the_names_of_another_version_are_others(night: Night, way: str) -> None:
    old = names(night.chunked(way))
    night.write(NEW)
    assert names(night.chunked(way))["PRIMARY"] != old["PRIMARY"]


@pytest.mark.parametrize(
    "way",
    [
        "opened",
        "chunked later",
    ],
)
def test_the_names_of_another_sky_are_others(night: Night, way: str) -> None:
    old = names(night.chunked(way))
    night.write(OLD, ra=151.0)
    new = names(night.chunked(way))
    assert all(new[name] != old[name] for name in old)


def test_the_names_of_other_chunks_are_others(night: Night) -> None:
    with chunk_size("10 kB"):
        one = night.open(chunks={})
    with chunk_size("5 kB"):
        other = night.open(chunks={})
    assert one.PRIMARY.chunks != other.PRIMARY.chunks
    assert not {*names(one).values()} & {*names(other).values()}
    np.testing.assert_array_equal(one.PRIMARY + other.PRIMARY, 2 * OLD)


@ways
def test_a_cluster_that_holds_the_old_version_gives_the_new_one(
    night: Night, client: Client, way: str
) -> None:
    held = client.persist(night.chunked(way))
    np.testing.assert_array_equal(held.PRIMARY.compute(scheduler=client), OLD)
    night.write(NEW)
    new = night.chunked(way)
    np.testing.assert_array_equal(new.PRIMARY.compute(scheduler=client), NEW)
    np.testing.assert_array_equal(held.PRIMARY.compute(scheduler=client), OLD)


@both
def test_a_file_that_was_replaced_is_not_read(night: Night, chunks: Any) -> None:
    ds = night.open(chunks=chunks)
    np.testing.assert_array_equal(ds.PRIMARY[:5], OLD[:5])
    night.write(NEW)
    for found in (ds.PRIMARY[:5], ds.PRIMARY[[7]][:, [2]], ds, pickle.loads(pickle.dumps(ds))):
        with pytest.raises(FileChangedError, match=r"night\.fits: the file changed"):
            found.compute()
    np.testing.assert_array_equal(night.open(chunks=chunks).PRIMARY, NEW)


# Processes


def test_worker_processes_compute_chunks(server: RangeServer, client: Client) -> None:
    with chunk_size("128 KiB"):
        ds = opened(server, "three", chunks={})
    key = {"y": slice(100, 130), "x": slice(3, 300, 7)}
    means, cut = dask.compute(ds.mean(dtype="f8"), ds.isel(key), scheduler=client)
    assert all(array.data.npartitions > 1 for array in ds.data_vars.values())
    for name, pixels in THREE.items():
        np.testing.assert_allclose(means[name], pixels.mean(dtype="f8"), rtol=1e-14)
        np.testing.assert_array_equal(cut[name], pixels[100:130, 3:300:7])


def sums(found: xr.Dataset | xr.DataTree) -> tuple[int, dict[str, float]]:
    """Sums of the variables of a few columns, and who made them."""
    if isinstance(found, xr.DataTree):
        cut = [node.to_dataset()[name] for name, node in found.children.items()]
    else:
        cut = list(found.data_vars.values())
    with dask.config.set(scheduler="sync"):
        return os.getpid(), {str(array.name): float(array[:, 5:9].sum()) for array in cut}


@both
def test_worker_processes_read_what_is_sent_to_them(
    server: RangeServer, client: Client, chunks: Any
) -> None:
    ds = opened(server, "three", chunks=chunks)
    tree = xr.open_datatree(f"{server.url}/many.fits", engine="fits", chunks=chunks)
    server.clear()
    pid, found = client.submit(sums, ds, pure=False).result()
    assert pid != os.getpid()
    assert found == pytest.approx({n: pixels[:, 5:9].sum() for n, pixels in THREE.items()})
    assert server.requests == 3
    pid, found = client.submit(sums, tree, pure=False).result()
    assert pid != os.getpid()
    assert [*found.values()] == MANY[:, :, 5:9].sum(axis=(1, 2)).tolist()
    assert server.requests == 23


@pytest.mark.parametrize("name", ["wide", "sip"])
def test_worker_processes_find_the_sky_to_the_bit(
    server: RangeServer, client: Client, name: str
) -> None:
    with chunk_size("16 kB"):
        ds = opened(server, name, chunks={}, world_coords=True)
    assert ds.ra.data.npartitions > 3
    found = dask.compute(ds.ra, ds.dec, scheduler=client)
    for one, other in zip(found, positions(server, name), strict=True):
        np.testing.assert_array_equal(one, other)
    assert server.requests == 0


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 6_000), ({"chunks": {}}, 12_000), ({"chunks": {"y": 40}}, 32_000)],
    ids=["lazy", "chunked", "a thousand chunks"],
)
def test_a_large_image_pickles_small(
    server: RangeServer, options: dict[str, Any], most: int
) -> None:
    ds = opened(server, "large", world_coords=True, **options)
    assert ds.PRIMARY.shape == (SIDE, SIDE)
    assert len(pickle.dumps(ds)) < most
    again = pickle.loads(pickle.dumps(ds))
    assert again.PRIMARY.chunks == ds.PRIMARY.chunks
    assert again.ra.chunks == ds.ra.chunks
    if "y" in options.get("chunks", {}):
        assert again.PRIMARY.data.npartitions == again.ra.data.npartitions == 1000
    assert server.requests == 0
    np.testing.assert_array_equal(again.PRIMARY[30_000:30_002, 7:9], np.zeros((2, 2)))
    wcs = WCS(sky(shape=(SIDE, SIDE)))
    assert again.ra[30_000, 7] == wcs.pixel_to_world_values(7, 30_000)[0]
    assert server.bytes == 2 * 2 * 4


# Threads


def in_threads(work: Callable[[int], bool]) -> bool:
    together = threading.Barrier(8, timeout=30)

    def begin(thread: int) -> bool:
        together.wait()
        return all(work(100 * thread + n) for n in range(20))

    with ThreadPoolExecutor(8) as pool:
        return all(pool.map(begin, range(8)))


@pytest.mark.parametrize("name", ["three", "rice"])
def test_threads_read_one_lazy_dataset(server: RangeServer, name: str) -> None:
    ds = opened(server, name)

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        which = rng.choice(list(ds.data_vars))
        (y, x), pixels = rng.integers(250, size=2), THREE[which]
        if seed % 20 == 19:
            return np.array_equal(ds[which], pixels)
        rows = rng.integers(256, size=3)
        return np.array_equal(
            ds[which][y : y + 40 : 3, x : x + 50], pixels[y : y + 40 : 3, x : x + 50]
        ) and np.array_equal(ds[which][rows, [x, 0]], pixels[np.ix_(rows, [x, 0])])

    assert in_threads(read)


@pytest.mark.parametrize("name", ["wide", "sip"])
def test_threads_find_the_sky_as_one_does(server: RangeServer, name: str) -> None:
    ds = opened(server, name, world_coords=True).isel(x=slice(256))
    ra, dec = (found[:, :256] for found in positions(server, name))

    def find(seed: int) -> bool:
        rows = slice(seed % 7, 64, 1 + seed % 3)
        return np.array_equal(ds.ra[rows], ra[rows]) and np.array_equal(ds.dec[rows], dec[rows])

    assert in_threads(find)


# Secrets


def said_by(ds: xr.Dataset | xr.DataTree) -> list[str]:
    """All that a Dataset or a tree tells of itself."""
    if isinstance(ds, xr.DataTree):
        parts = [text for node in ds.subtree for text in said_by(node.to_dataset())]
        return [repr(ds), ds._repr_html_(), str(ds.encoding), *parts]
    said = [repr(ds), ds._repr_html_(), str(ds.attrs), str(ds.encoding), repr(ds.xindexes)]
    for array in ds.variables.values():
        said += [repr(array), array._repr_html_(), repr(array._data)]
        said += [str(array.attrs), str(array.encoding)]
        if array.chunks:
            said += [array.data.name, str(dict(array.data.dask)), str(array.data.dask.layers)]
    return said


@both
def test_secrets_are_nowhere(
    night: Night, chunks: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "dask_fits")
    (tmp_path / "bucket").mkdir()
    endpoint = night.url.removesuffix("/night.fits")
    web = night.url.replace("//", "//user:SECRET-password@") + "?token=SECRET-query"
    bucket = {**SECRETS, "endpoint_url": endpoint}
    header = {"client_kwargs": {"headers": {"Authorization": "Bearer SECRET-header"}}}
    (tmp_path / "bucket" / "a.fits").symlink_to(night.path)
    said: list[str] = []
    for url, secrets in ((night.url, header), (web, None), ("s3://bucket/a.fits", bucket)):
        options = {"engine": "fits", "chunks": chunks, "storage_options": secrets}
        options["transfer"] = TransferConfig(attempts=2, backoff=0.001)
        ds = xr.open_dataset(url, world_coords=True, **options)
        said += said_by(ds) + said_by(xr.open_datatree(url, world_coords=True, **options))
        np.testing.assert_array_equal(ds.PRIMARY[:3], OLD[:3])
        night.write(NEW)
        with pytest.raises(FileChangedError) as caught:
            ds.PRIMARY[5:9].compute()
        said += [str(caught.value), *traceback.format_exception(caught.value)]
        with pytest.raises(FileNotFoundError) as missing:
            xr.open_dataset(url.replace(".fits", ".fit"), **options)
        said += [str(missing.value), *traceback.format_exception(missing.value)]
        night.write(OLD)
    for text in (*said, caplog.text):
        assert "SECRET" not in text, text
