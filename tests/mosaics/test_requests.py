"""What mosaics read: requests and bytes, as a filesystem and a server count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import Mosaic
from dask_fits.file.header_reader import HEADER_READ
from dask_fits.mosaics import combiners
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from tests.servers.range_server import RangeServer
from tests.support.fits_files import fits_bytes
from tests.support.mosaics import moved, sky_header, tan_wcs
from tests.support.patience import until
from tests.support.recording import RecordingFileSystem

pytestmark = pytest.mark.untraced

STEP = 1e-3
SHAPE = (160, 200)
WIDE = (160, 1000)
"""Of images of which a chunk needs a few columns."""

OUT = tan_wcs(150.0, 2.0, STEP, (256, 480))
CHUNKS = (128, 160)

Box = tuple[tuple[int, int], tuple[int, int]]
Asked = tuple[str, int, int]


class NamedFileSystem(RecordingFileSystem):
    """``named://`` URLs: of each range, the file and its first and last byte."""

    protocol = "named"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    log: ClassVar[list[tuple[Any, ...]]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("named:"))

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        found = super().info(path, **kwargs)
        self.log.pop()
        return found

    def cat_file(self, path: str, start: Any = None, end: Any = None, **kwargs: Any) -> bytes:
        name = self._strip_protocol(path)
        self.log.append((name.strip("/"), start, end))
        return bytes(self.store[name].getvalue()[start:end])

    @classmethod
    def asked(cls) -> list[Asked]:
        """The ranges since the last time."""
        found = [(name, start, stop) for name, start, stop in cls.log]
        cls.log.clear()
        return found


fsspec.register_implementation("named", NamedFileSystem, clobber=True)


def put(name: str, content: bytes) -> str:
    NamedFileSystem().pipe_file(f"/{name}", content)
    NamedFileSystem.log.clear()
    return f"named://{name}"


def grids(shape: tuple[int, int] = SHAPE) -> list[WCS]:
    """Six turned images, which overlap."""
    return [
        tan_wcs(150.14 - 0.14 * (n % 3), 1.93 + 0.14 * (n // 3), STEP, shape, 4.0 * n - 7)
        for n in range(6)
    ]


def hdus(kind: str, wcs: WCS, *, beside: bool = False) -> bytes:
    """An image, as it is or compressed; or with weights, errors and flags beside it."""
    rng = np.random.default_rng(5)
    pixels = rng.normal(100, 9, wcs.array_shape)
    if kind == "RICE":
        packing = {"compression_type": "RICE_1", "tile_shape": (32, 32)}
        image = fits.CompImageHDU(pixels.astype("i2"), sky_header(wcs), **packing)
        return fits_bytes(fits.PrimaryHDU(), image)
    if not beside:
        return fits_bytes(fits.PrimaryHDU(pixels.astype("f4"), sky_header(wcs)))
    maps = {"WHT": pixels.astype("f4"), "ERR": pixels, "DQ": (pixels > 120).astype("i2")}
    others = [fits.ImageHDU(values, name=name) for name, values in maps.items()]
    science = fits.ImageHDU(pixels.astype("f4"), sky_header(wcs), name="SCI")
    return fits_bytes(fits.PrimaryHDU(), science, *others)


@pytest.fixture(scope="module")
def urls() -> dict[str, list[str]]:
    """Six files of each kind."""
    found = {
        kind: [put(f"{kind}{n}.fits", hdus(kind, wcs)) for n, wcs in enumerate(grids())]
        for kind in ("plain", "RICE")
    }
    for name, options in (("beside", {"beside": True}), ("wide", {})):
        some = grids(WIDE) if name == "wide" else grids()
        contents = [hdus("plain", wcs, **options) for wcs in some]
        found[name] = [put(f"{name}{n}.fits", content) for n, content in enumerate(contents)]
    return found


@pytest.fixture(autouse=True)
def no_rows_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every read of a compressed image read the rows of its table, as its plan says."""
    monkeypatch.setattr(tiled, "ROWS", RowCache(0))


def boxes(m: Mosaic) -> Iterator[Box]:
    """Those of all chunks."""
    ends = [np.cumsum((0, *along)).tolist() for along in m.data.chunks]
    for top, bottom in zip(ends[0][:-1], ends[0][1:], strict=True):
        for left, right in zip(ends[1][:-1], ends[1][1:], strict=True):
            yield (top, bottom), (left, right)


def needed(output: WCS, box: Box, image: WCS, margin: float = 0.0) -> Box | None:
    """The rows and columns of an image that bilinear sampling needs for a box, by astropy."""
    (top, bottom), (left, right) = box
    y, x = np.mgrid[top:bottom, left:right].reshape(2, -1)
    at_x, at_y = image.wcs_world2pix(*output.wcs_pix2world(x, y, 0), 0)
    height, width = image.array_shape
    inside = (np.abs(at_x - (width - 1) / 2) <= width / 2 + margin) & (
        np.abs(at_y - (height - 1) / 2) <= height / 2 + margin
    )
    if not inside.any():
        return None
    (rows, columns) = (
        (max(int(np.floor(at[inside].min())), 0), min(int(np.floor(at[inside].max())) + 2, size))
        for at, size in ((at_y, height), (at_x, width))
    )
    return rows, columns


def size(box: Box) -> int:
    (top, bottom), (left, right) = box
    return (bottom - top) * (right - left)


def slices(box: Box) -> tuple[slice, slice]:
    return slice(*box[0]), slice(*box[1])


def ranges(asked: list[Asked]) -> list[tuple[int, int]]:
    return sorted((start, stop) for _, start, stop in asked)


def planned(m: Mosaic) -> list[tuple[int, int]]:
    plan = m.plan
    NamedFileSystem.log.clear()
    assert plan.requests == len(plan.ranges)
    assert plan.bytes == sum(one.nbytes for one in plan.ranges)
    return sorted((one.start, one.stop) for one in plan.ranges)


# Headers


@pytest.mark.parametrize("kind", ["plain", "RICE", "beside"])
def test_making_a_mosaic_reads_headers_once_and_nothing_else_does(
    urls: dict[str, list[str]], kind: str
) -> None:
    m = dask_fits.mosaic(urls[kind], chunks=CHUNKS)
    asked = NamedFileSystem.asked()
    names = [url.removeprefix("named://") for url in urls[kind]]
    assert [name for name, *_ in sorted(asked)] == names
    assert all((start, min(stop, HEADER_READ)) == (0, stop) for _, start, stop in asked)
    arrays = [m.data, m.weight, m.count, m.data[3:40, 7], m.weight[::2]]
    m.wcs, m.header, m.inputs, repr(m), m.shape, cloudpickle.dumps((m, arrays))
    dask.optimize(*arrays)
    m.to_xarray().isel(y=slice(3)).fits.wcs  # noqa: B018
    assert NamedFileSystem.asked() == []


def test_a_collection_is_not_read_again(urls: dict[str, list[str]]) -> None:
    collection = dask_fits.open_collection(urls["plain"])
    NamedFileSystem.asked()
    for options in ({}, {"wcs": OUT}, {"resampling": "exact", "sort_by": "s_ra"}):
        dask_fits.mosaic(collection, **options)
    dask_fits.optimal_wcs(collection)
    assert NamedFileSystem.asked() == []


def test_headers_of_maps_are_read_where_they_are_named(urls: dict[str, list[str]]) -> None:
    """The images are known, and where the HDUs behind them begin follows from their headers."""
    collection = dask_fits.open_collection(urls["beside"])
    NamedFileSystem.asked()
    dask_fits.mosaic(collection, OUT, hdu="SCI", mask="DQ", weights="WHT", error="ERR")
    asked = NamedFileSystem.asked()
    assert len({name for name, *_ in asked}) == 6
    assert len(asked) <= 6 * 4
    assert all(stop - start <= HEADER_READ for _, start, stop in asked)


# Chunks


def test_a_chunk_reads_the_images_that_reach_into_it_alone(urls: dict[str, list[str]]) -> None:
    m = dask_fits.mosaic(urls["plain"], OUT, chunks=CHUNKS)
    NamedFileSystem.asked()
    counts = []
    for box in boxes(m):
        m.data[slices(box)].compute(scheduler="sync")
        read = {name for name, *_ in NamedFileSystem.asked()}
        # Which images may be there is told by cells of 32 pixels.
        reached, near = (
            {f"plain{n}.fits" for n, wcs in enumerate(grids()) if needed(OUT, box, wcs, margin)}
            for margin in (0, 4)
        )
        assert reached <= read <= near
        counts.append(len(read))
    assert min(counts) < len(grids())


@pytest.mark.parametrize("kind", ["plain", "wide"])
@pytest.mark.parametrize("chunks", [CHUNKS, (96, 512), -1])
def test_bytes_are_those_of_the_boxes(urls: dict[str, list[str]], kind: str, chunks: Any) -> None:
    """Columns that are left out between rows are read over, where that is faster."""
    some = grids(WIDE if kind == "wide" else SHAPE)
    m = dask_fits.mosaic(urls[kind], OUT, chunks=chunks)
    NamedFileSystem.asked()
    total = rows = 0
    for box in boxes(m):
        for wcs in some:
            own = needed(OUT, box, wcs)
            total += 0 if own is None else size(own) * 4
            rows += 0 if own is None else (own[0][1] - own[0][0]) * wcs.array_shape[1] * 4
    assert total <= m.plan.useful_bytes <= 1.5 * total
    m.data.compute(scheduler="sync")
    wire = sum(stop - start for _, start, stop in NamedFileSystem.asked())
    assert wire == m.plan.bytes
    assert total <= wire <= 1.1 * rows


def test_of_two_hundred_files_a_chunk_reads_its_own() -> None:
    """Side by side, in the pixels of the grid."""
    grid = tan_wcs(150.0, 2.0, STEP, (200, 400))
    names, content = [], {}
    for number in range(200):
        y, x = divmod(number, 20)
        wcs = moved(grid, 20 * y, 20 * x, (20, 20))
        pixels = np.full((20, 20), number, "i2")
        name = f"small{number:03}.fits"
        content[name] = fits_bytes(fits.PrimaryHDU(pixels, sky_header(wcs)))
        names.append(put(name, content[name]))
    m = dask_fits.mosaic(names, grid, chunks=(40, 60))
    assert Counter(name for name, *_ in NamedFileSystem.asked()) == dict.fromkeys(content, 1)
    found = m.data[80:120, 120:180].compute()
    expected = [f"small{20 * y + x:03}.fits" for y in (4, 5) for x in (6, 7, 8)]
    asked = NamedFileSystem.asked()
    assert sorted(name for name, *_ in asked) == expected
    assert all(stop - start == 20 * 20 * 2 for _, start, stop in asked)
    numbers = np.repeat(np.repeat(np.array([[86, 87, 88], [106, 107, 108]]), 20, 0), 20, 1)
    assert np.array_equal(found, numbers)
    m.data[85, 125].compute()
    assert NamedFileSystem.asked() == [("small086.fits", *_pixel(content["small086.fits"], 5, 5))]
    assert m.sources(85, 125).tolist() == [86]


def _pixel(content: bytes, y: int, x: int) -> tuple[int, int]:
    """Where a pixel of an image of 20 x 20 numbers of two bytes is."""
    start = len(content) - 2880 + (20 * y + x) * 2
    return start, start + 2


def test_selections_read_what_they_need(urls: dict[str, list[str]]) -> None:
    m = dask_fits.mosaic(urls["plain"], OUT, chunks=CHUNKS)
    whole = m.plan.bytes
    NamedFileSystem.asked()
    for key in (np.s_[100, 200], np.s_[90:110, 150:170], np.s_[5]):
        m.data[key].compute(scheduler="sync")
        asked = NamedFileSystem.asked()
        assert asked
        assert sum(stop - start for _, start, stop in asked) < whole / 4
    m.data[5:5].compute()
    assert NamedFileSystem.asked() == []


# Plans


RECIPES: dict[str, dict[str, Any]] = {
    "bilinear mean": {},
    "nearest": {"resampling": "nearest"},
    "lanczos3 first": {"resampling": "lanczos3", "combine": "first"},
    "exact sum": {"resampling": "exact", "combine": "sum"},
    "flux": {"conserve": "flux"},
    "median": {"combine": "median"},
    "clipped": {"combine": "clipped", "resampling": "exact", "conserve": "flux"},
}


@pytest.mark.parametrize("kind", ["plain", "RICE", "wide"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plan_is_what_is_read(
    urls: dict[str, list[str]], kind: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combiners, "STACK_BYTES", 6 * 8 * 100**2)  # several blocks a chunk
    m = dask_fits.mosaic(urls[kind], OUT, chunks=CHUNKS, **RECIPES[recipe])
    expected = planned(m)
    m.data.compute(scheduler="threads", num_workers=2)
    assert ranges(NamedFileSystem.asked()) == expected


@pytest.mark.parametrize("resampling", ["bilinear", "exact"])
def test_the_plan_has_weights_masks_and_errors(urls: dict[str, list[str]], resampling: Any) -> None:
    maps = {"mask": "DQ", "weights": "WHT", "error": "ERR"}
    m = dask_fits.mosaic(urls["beside"], OUT, chunks=CHUNKS, resampling=resampling, **maps)
    plain = dask_fits.mosaic(urls["beside"], OUT, chunks=CHUNKS, resampling=resampling)
    expected = planned(m)
    assert m.plan.requests == 4 * plain.plan.requests
    assert m.plan.useful_bytes == plain.plan.useful_bytes // 4 * (4 + 4 + 8 + 2)
    NamedFileSystem.asked()
    dask.compute(m.data, m.weight, m.count, m.error, scheduler="sync")
    assert ranges(NamedFileSystem.asked()) == expected


TOGETHER: dict[str, Callable[[Mosaic], Any]] = {
    "compute": lambda m: dask.compute(m.data, m.weight, m.count, scheduler="sync"),
    "threads": lambda m: dask.compute(m.data, m.weight, m.count, scheduler="threads"),
    "unoptimized": lambda m: dask.compute(m.data, m.weight, m.count, optimize_graph=False),
    "persist": lambda m: dask.persist(m.data, m.weight, m.count),
    "statistics": lambda m: dask.compute(m.data.mean(), m.weight.sum(), m.count.max()),
    "arithmetic": lambda m: (m.data * m.weight / m.count).compute(),
    "stack": lambda m: da.stack([m.data, m.weight, m.count]).compute(),
    "store": lambda m: da.store([m.data, m.weight], [np.empty(m.shape) for _ in range(2)]),
    "xarray": lambda m: m.to_xarray().load(),
    "parts of xarray": lambda m: m.to_xarray().isel(x=slice(0, None)).mean().compute(),
    "zarr of Dask": lambda m: m.to_xarray().drop_attrs().to_zarr({}, zarr_format=2),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # of zarr, about names of compressors
@pytest.mark.parametrize("how", TOGETHER)
def test_arrays_that_are_computed_together_are_read_once(
    urls: dict[str, list[str]], how: str
) -> None:
    m = dask_fits.mosaic(urls["plain"], OUT, chunks=(256, 160))
    expected = planned(m)
    TOGETHER[how](m)
    assert ranges(NamedFileSystem.asked()) == expected


def test_writing_reads_once(urls: dict[str, list[str]], tmp_path: Path) -> None:
    maps = {"mask": "DQ", "weights": "WHT", "error": "ERR"}
    m = dask_fits.mosaic(urls["beside"], OUT, chunks=(256, 160), **maps)
    expected = planned(m)
    m.to_zarr(tmp_path / "out.zarr")
    assert ranges(NamedFileSystem.asked()) == expected


def test_parts_that_are_computed_together_are_read_once(urls: dict[str, list[str]]) -> None:
    m = dask_fits.mosaic(urls["plain"], OUT, chunks=CHUNKS)
    part = np.s_[20:90, 170:300]
    m.data[part].compute()
    alone = ranges(NamedFileSystem.asked()[6:])
    dask.compute(m.data[part], m.weight[part])
    assert ranges(NamedFileSystem.asked()) == alone


# Over HTTP


def files_of(root: Path, kind: str) -> list[str]:
    for number, wcs in enumerate(grids()):
        (root / f"{kind}{number}.fits").write_bytes(hdus(kind, wcs))
    return [f"{kind}{number}.fits" for number in range(6)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "RICE"])
def test_the_plan_is_what_a_server_is_asked_for(tmp_path: Path, kind: str) -> None:
    names = files_of(tmp_path, kind)
    with RangeServer(tmp_path) as server:
        m = dask_fits.mosaic([f"{server.url}/{name}" for name in names], OUT, chunks=CHUNKS)
        assert sorted(request.path for request in server.log) == [f"/{name}" for name in names]
        plan = m.plan
        server.clear()
        m.data.compute(scheduler="threads")
        assert server.requests == plan.requests
        assert server.bytes == plan.bytes
        asked = sorted(request.range for request in server.log)
    assert asked == sorted(f"bytes={one.start}-{one.stop - 1}" for one in plan.ranges)


DEEP = 10
SIDE = 1024


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images that cover a chunk of 1024 x 1024 pixels."""
    root = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(8)
    for number in range(DEEP):
        wcs = tan_wcs(150.0 + 1e-3 * number, 2.0, STEP, (1060, 1080), 0.3 * number)
        pixels = rng.integers(-500, 500, wcs.array_shape).astype("i2")
        fits.PrimaryHDU(pixels, sky_header(wcs)).writeto(root / f"plain{number}.fits")
        packing = {"compression_type": "RICE_1", "tile_shape": (128, 128)}
        packed = fits.CompImageHDU(pixels, sky_header(wcs), **packing)
        packed.writeto(root / f"RICE{number}.fits")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "recipe"), [("plain", "bilinear mean"), ("RICE", "nearest")])
def test_a_chunk_of_ten_images_takes_three_round_trips(deep: Path, kind: str, recipe: str) -> None:
    """Of all its requests at least a third are in flight together, and each is one round trip."""
    output = tan_wcs(150.0, 2.0, STEP, (SIDE, SIDE))
    with RangeServer(deep) as server:
        urls = [f"{server.url}/{kind}{number}.fits" for number in range(DEEP)]
        m = dask_fits.mosaic(urls, output, **RECIPES[recipe])
        assert m.data.npartitions == 1
        requests = m.plan.requests
        assert DEEP <= requests <= 16 * 3, "three times as many as there are threads that read"
        until(lambda: server.busy == 0)
        server.clear()
        with ThreadPoolExecutor(1) as thread:
            with server.hold():
                reading = thread.submit(m.data.compute, scheduler="sync")
                until(lambda: server.waiting >= -(-requests // 3))
            reading.result()
        assert server.requests == requests
        assert server.bytes == m.plan.bytes
        assert server.bytes <= 1.5 * m.plan.useful_bytes
