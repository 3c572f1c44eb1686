"""Cutouts on disk: a zarr group, and FITS files that are what astropy would have cut."""

from __future__ import annotations

import csv
import errno
import io
import os
import sys
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import zarr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import dask_fits
from dask_fits import FileChangedError, FitsFormatError, MissingDriverError
from dask_fits.many_cutouts import stream
from dask_fits.planning import boxes
from dask_fits.readers import tiled
from dask_fits.readers.row_cache import RowCache
from tests.servers.range_server import RangeServer
from tests.support.fits_files import same_bits
from tests.support.patience import until
from tests.support.recording import RecordingFileSystem, put
from tests.support.tiled_files import tiled_extension, tiled_parts

NY, NX = 60, 80
SIZE = (8, 6)
POSITIONS = np.array(
    [(40.0, 30.0), (1.0, 58.0), (-50.0, 5.0), (78.5, 20.4), (np.nan, 3.0), (20.2, 11.9)]
)
"""On the image, over a corner, off it, over an edge, no position, and on the image."""

STATUS = ["ok", "partial", "off", "failed"]
FLOATS = np.random.default_rng(50).normal(100, 15, (NY, NX)).astype("f4")
FLOATS[30, 38:43] = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], "f4")
SMOOTH = np.nan_to_num(FLOATS, posinf=7, neginf=-7)
INTEGERS = np.random.default_rng(51).integers(-300, 300, (NY, NX)).astype("i2")
CUBE = np.random.default_rng(52).integers(-999, 999, (3, NY, NX)).astype("i4")
ROWS, COLUMNS = np.ogrid[:4096, :4096]

KEYWORDS: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CUNIT1": "deg",
    "CUNIT2": "deg",
    "CRPIX1": 37.25,
    "CRPIX2": 33.5,
    "CRVAL1": 10.0,
    "CRVAL2": 20.0,
    "CD1_1": -1e-3,
    "CD1_2": 1e-4,
    "CD2_1": 2e-4,
    "CD2_2": 1.1e-3,
}


# What astropy mends in a header, it tells.
pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")


# Files, and the cutouts that are expected of them


def header(**more: Any) -> fits.Header:
    found = fits.Header(KEYWORDS)
    for keyword, value in more.items():
        found[keyword] = value
    return found


def image(pixels: np.ndarray, **packing: Any) -> Any:
    """An HDU, compressed where there are options."""
    if packing:
        return fits.CompImageHDU(pixels, header(), **packing)
    return fits.PrimaryHDU(pixels, header())


def saved(root: Path, name: str, *hdus: Any, **keywords: Any) -> str:
    """A file of HDUs; `keywords` of the last one are written as they are given."""
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    path = root / name
    fits.HDUList([*first, *hdus]).writeto(path, overwrite=True)
    for keyword, value in keywords.items():
        fits.setval(path, keyword, value=value, ext=len(first) + len(hdus) - 1, after="NAXIS2")
    return str(path)


def pixels_of(path: str | Path, key: Any = -1) -> np.ndarray:
    """An image's pixels as astropy has them."""
    with fits.open(path) as file:
        pixels = np.array(file[key].data)
        return pixels.astype(pixels.dtype.newbyteorder("="))


def corner_of(position: Sequence[float], size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """First pixel y, x of the box around a position x, y."""
    x, y = position
    return int(np.ceil(y - size[0] / 2)), int(np.ceil(x - size[1] / 2))


@dataclass(frozen=True)
class Expected:
    status: str
    origin: tuple[int, int]
    pixels: np.ndarray
    """Of the box, filled and trimmed as the mode has it."""


def cut(
    pixels: np.ndarray, position: Sequence[float], mode: str = "partial", fill: Any = np.nan
) -> Expected:
    """What NumPy cuts out of an image."""
    if not np.isfinite(position).all():
        return Expected("failed", (0, 0), np.empty(0))
    y, x = corner_of(position)
    rows, columns = slice(max(y, 0), y + SIZE[0]), slice(max(x, 0), x + SIZE[1])
    own = pixels[..., rows, columns] if y + SIZE[0] > 0 and x + SIZE[1] > 0 else pixels[..., :0, :0]
    if not own.size:
        return Expected("off", (0, 0), own)
    status = "ok" if own.shape[-2:] == SIZE else "partial"
    if mode == "trim":
        return Expected(status, (rows.start, columns.start), own)
    box = np.full((*pixels.shape[:-2], *SIZE), fill, pixels.dtype)
    down, right = rows.start - y, columns.start - x
    box[..., down : down + own.shape[-2], right : right + own.shape[-1]] = own
    return Expected(status, (y, x), box)


def in_full(one: Expected, mode: str, shape: tuple[int, ...], fill: Any, dtype: Any) -> np.ndarray:
    """A cutout as a row of an array."""
    row = np.full(shape, fill, dtype)
    if one.status == "ok" or (one.status == "partial" and mode != "strict"):
        row[..., : one.pixels.shape[-2], : one.pixels.shape[-1]] = one.pixels
    return row


TILES = {"compression_type": "RICE_1", "tile_shape": (16, 16)}
KINDS: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any], Any]] = {
    "floats": (FLOATS, {}, {}, np.nan),
    "doubles": (FLOATS.astype("f8"), {}, {}, np.nan),
    "integers": (INTEGERS, {}, {}, -7),
    "unsigned integers": (INTEGERS.astype("u2"), {}, {}, 65000),
    "scaled integers": (INTEGERS, {}, {"BSCALE": 0.25, "BZERO": 3.0}, np.nan),
    "BLANK": (INTEGERS, {}, {"BLANK": int(INTEGERS[30, 40])}, np.nan),
    "cube": (CUBE, {}, {}, -7),
    "RICE": (INTEGERS, TILES, {}, -7),
    "RICE quantized": (SMOOTH, TILES, {}, np.nan),
    "RICE cube": (CUBE, {"compression_type": "RICE_1", "tile_shape": (2, 16, 16)}, {}, -7),
}


def pair(root: Path, name: str) -> tuple[list[str], list[np.ndarray]]:
    """Two files of one kind, and their pixels."""
    pixels, packing, keywords, _ = KINDS[name]
    paths = [
        saved(root, f"{n}.fits", image(some, **packing), **keywords)
        for n, some in enumerate([pixels, np.ascontiguousarray(pixels[..., ::-1, :])])
    ]
    return paths, [pixels_of(path) for path in paths]


def group(path: Path) -> Any:
    return zarr.open_group(path, mode="r")


# zarr


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
@pytest.mark.parametrize("name", KINDS)
def test_a_zarr_group_holds_what_computing_gives(tmp_path: Path, name: str, mode: Any) -> None:
    paths, images = pair(tmp_path, name)
    fill = KINDS[name][3]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE, mode=mode, fill_value=fill)
    done = found.to_zarr(tmp_path / "out.zarr")
    out = group(tmp_path / "out.zarr")
    assert sorted(out.array_keys()) == ["corner", "data", "file", "position", "status"]
    rows = [(n, f) for n in range(4) for f in range(2)] + [(4, -1)] + [(5, f) for f in range(2)]
    assert [*zip(out["position"][:].tolist(), out["file"][:].tolist(), strict=True)] == rows
    expected = [cut(images[f], POSITIONS[n], mode, fill) for n, f in rows]
    assert done.status.tolist() == found.status.tolist() == [one.status for one in expected]
    assert [STATUS[flag] for flag in out["status"][:]] == done.status.tolist()
    assert out["corner"][:].tolist() == [[*one.origin] for one in expected]
    data = out["data"]
    assert data.chunks == (1, *found.data.shape[1:])
    shape, dtype = found.data.shape[1:], images[0].dtype
    assert same_bits(
        data[:], np.stack([in_full(one, mode, shape, fill, dtype) for one in expected])
    )
    assert same_bits(data[:], found.data.compute())
    assert dict(out.attrs) == {"files": [*found.files], "mode": mode}
    assert [*found.files] == paths
    about = dict(out["status"].attrs)
    assert about["flag_values"] == [0, 1, 2, 3]
    assert about["flag_meanings"] == "ok partial off failed"
    assert about["errors"] == {"8": str(found.error[8])}
    assert "position 4" in about["errors"]["8"]
    types = {key: out[key].dtype.name for key in ("status", "position", "file", "corner")}
    assert types == {"status": "int8", "position": "int64", "file": "int64", "corner": "int64"}


def three_hdus(root: Path, name: str, add: int = 0, versions: Sequence[int] = (1,)) -> str:
    """A file of SCI, ERR and DQ, of several versions, behind a header of its own."""
    first = fits.PrimaryHDU()
    first.header["TELESCOP"] = ("Keck", "where")
    first.header.add_comment("of the file")
    hdus = []
    for version in versions:
        for n, extname in enumerate(["SCI", "ERR", "DQ"]):
            pixels = INTEGERS + np.int16(add + 10 * n + 100 * version)
            pixels = pixels if extname == "DQ" else pixels.astype("f4")
            about = header(BUNIT=f"unit {n}")
            hdus.append(fits.ImageHDU(pixels, about, name=extname, ver=version))
    hdus.insert(2, fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1])], name="CAT"))
    return saved(root, name, first, *hdus)


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
def test_several_hdus_are_an_axis_of_the_group(tmp_path: Path, mode: Any) -> None:
    paths = [three_hdus(tmp_path, f"{n}.fits", n) for n in range(2)]
    keys = ["SCI", "DQ", ("ERR", 1)]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE, hdus=keys, mode=mode)
    found.to_zarr(tmp_path / "out.zarr")
    out = group(tmp_path / "out.zarr")
    assert out["data"].shape == (11, 3, *SIZE)
    assert out["data"].chunks == (1, 3, *SIZE)
    assert out["status"].shape == (11, 3)
    assert out["corner"].shape == (11, 3, 2)
    assert same_bits(out["data"][:], found.data.compute())
    for row, (n, f) in enumerate(zip(found.position, found.file, strict=True)):
        for slot, key in enumerate(keys):
            if f < 0:
                assert STATUS[out["status"][row, slot]] == "failed"
                continue
            one = cut(pixels_of(paths[f], key), POSITIONS[n], mode, np.nan if slot != 1 else 0)
            assert STATUS[out["status"][row, slot]] == one.status
            assert out["corner"][row, slot].tolist() == [*one.origin]
            if one.status == "ok" or (mode == "trim" and one.status == "partial"):
                height, width = one.pixels.shape
                there = out["data"][row, slot][:height, :width]
                assert same_bits(there, one.pixels.astype("f4"))
    said = str(found.error[8, 0])
    assert out["status"].attrs["errors"] == {f"8 {slot}": said for slot in range(3)}


def overlapping(root: Path) -> list[str]:
    """Three images of the sky, the second half over the first, the third apart."""
    paths = []
    for n, start in enumerate([10.0, 10.04, 12.0]):
        about = header(CRVAL1=start)
        paths.append(saved(root, f"{n}.fits", fits.PrimaryHDU(FLOATS + np.float32(n), about)))
    return paths


def stars(paths: Sequence[str], count: int = 60) -> SkyCoord:
    """Positions on and around images, in no order."""
    rng, worlds = np.random.default_rng(9), []
    for path in paths:
        at = np.floor(rng.uniform(-8, [NX + 8, NY + 8], (count // len(paths), 2))) + 0.3
        worlds.append(WCS(fits.getheader(path)).all_pix2world(at, 0))
    lon, lat = rng.permutation(np.concatenate(worlds)).T
    return SkyCoord(lon, lat, unit="deg")


@pytest.mark.untraced
def test_corners_on_the_sky_say_where_the_pixels_are_from(tmp_path: Path) -> None:
    paths = overlapping(tmp_path)
    images = [pixels_of(path) for path in paths]
    found = dask_fits.cutouts(paths, stars(paths), SIZE)
    found.to_zarr(tmp_path / "out.zarr")
    out = group(tmp_path / "out.zarr")
    assert set(found.status) == {"ok", "partial", "off"}
    assert np.bincount(found.position).max() == 2
    assert same_bits(out["data"][:], found.data.compute())
    for row in np.flatnonzero(found.status == "ok"):
        y, x = out["corner"][row]
        pixels = images[out["file"][row]][y : y + SIZE[0], x : x + SIZE[1]]
        assert same_bits(out["data"][row], pixels)
        world = found.wcs[row].all_pix2world([[0, 0]], 0)
        there = WCS(fits.getheader(paths[out["file"][row]])).all_pix2world([[x, y]], 0)
        assert np.allclose(world, there, atol=1e-10)


PACKED = {"zcmptype": "RICE_1", "tile": (10, 20)}
SPOILED = 6
"""The tile of rows 10 to 20 and columns 40 to 60."""


def packed(*, spoiled: bool, heap_gap: int = 0) -> bytes:
    """A compressed image, a tile's bytes spoiled or not."""
    cards = [("EXTNAME", "SCI"), *KEYWORDS.items()]
    parts = tiled_parts(INTEGERS, **PACKED, cards=cards, heap_gap=heap_gap)
    if spoiled:
        place = parts.span(SPOILED)
        parts.heap[place] = b"\xff" * (place.stop - place.start)
    return parts.build()


DAMAGED = np.array([(50, 15), (10, 5), (38, 12), (50, 30), (62, 9), (1, 1)], float)
HURT = [0, 2, 4]
"""Those that need the spoiled tile."""


def damaged_pair(root: Path) -> list[str]:
    for name, spoiled in {"bad.fits": True, "good.fits": False}.items():
        (root / name).write_bytes(packed(spoiled=spoiled))
    return [str(root / "bad.fits"), str(root / "good.fits")]


def test_a_damaged_cutout_is_filled_and_the_others_are_right(tmp_path: Path) -> None:
    found = dask_fits.cutouts(damaged_pair(tmp_path), DAMAGED, SIZE, fill_value=-9)
    assert set(found.status) == {"ok", "partial"}, "no pixels have been read"
    done = found.to_zarr(tmp_path / "out.zarr")
    out = group(tmp_path / "out.zarr")
    hurt = [2 * n for n in HURT]
    assert np.flatnonzero(done.status == "failed").tolist() == hurt
    assert set(found.status) == {"ok", "partial"}, "the first result is as it was"
    for row in range(len(found)):
        one = cut(INTEGERS, DAMAGED[found.position[row]], "partial", -9)
        if row in hurt:
            assert (out["data"][row] == -9).all()
            assert isinstance(done.error[row], FitsFormatError)
            assert "bad.fits" in str(done.error[row])
        else:
            assert same_bits(out["data"][row], one.pixels), row
            assert (done.status[row], done.error[row]) == (one.status, None)
    assert [STATUS[flag] for flag in out["status"][:]] == done.status.tolist()
    said = {str(row): str(done.error[row]) for row in hurt}
    assert out["status"].attrs["errors"] == said


def test_a_damaged_cutout_is_filled_with_what_was_asked_for(tmp_path: Path) -> None:
    path = damaged_pair(tmp_path)[0]
    found = dask_fits.cutouts(path, DAMAGED[:5], SIZE, fill_value=-9)
    assert set(found.status) == {"ok"}
    found.to_zarr(tmp_path / "out.zarr")
    assert (group(tmp_path / "out.zarr")["data"][:][HURT] == -9).all()


def test_a_cutout_of_which_a_part_can_be_read_is_filled_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tiles are so far apart that each is a task of its own."""
    monkeypatch.setattr(boxes, "BATCH_RANGES", 1)
    paths = [tmp_path / "bad.fits", tmp_path / "good.fits"]
    for path in paths:
        path.write_bytes(packed(spoiled=path.stem == "bad", heap_gap=1_000_000))
    bad, good = (dask_fits.cutouts(p, DAMAGED, (18, 24), fill_value=-9) for p in paths)
    assert len(bad._reads) > 8
    done = bad.to_zarr(tmp_path / "out.zarr")
    data = group(tmp_path / "out.zarr")["data"][:]
    failed = done.status == "failed"
    assert np.flatnonzero(failed).tolist() == HURT
    assert (data[failed] == -9).all()
    assert same_bits(data[~failed], good.data.compute()[~failed])


@pytest.mark.parametrize("kind", ["zarr", "files"])
def test_many_blocks_of_few_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Rows of several files and HDUs in blocks of three; some fail in every block."""
    monkeypatch.setattr(stream, "_BLOCK_ROWS", 3)
    paths = []
    for n in range(2):
        paths.append(saved(tmp_path, f"{n}.fits", fits.ImageHDU(INTEGERS, name="DQ")))
        with open(paths[-1], "ab") as file:
            file.write(packed(spoiled=n == 1)[2880:])
    # The last one is partial.
    some = np.random.default_rng(8).permutation(np.concatenate([DAMAGED[:5]] * 5))
    positions = np.concatenate([some, DAMAGED[5:]])
    options = {"hdus": ["DQ", "SCI"], "fill_value": -9}
    found = dask_fits.cutouts(paths, positions, SIZE, mode="trim", **options)
    with dask.config.set(scheduler="threads", num_workers=2):
        output = tmp_path / "out"
        done = found.to_zarr(output) if kind == "zarr" else found.to_files(output)
    hurt = (found.file == 1) & np.isin(
        positions[found.position].sum(axis=1), DAMAGED[HURT].sum(axis=1)
    )
    assert hurt.sum() == 15
    assert ((done.status[:, 1] == "failed") == hurt).all()
    assert ((done.status[:, 0] == "failed") == (hurt & (kind == "files"))).all()
    for row in range(len(found)):
        pixels = cut(INTEGERS, positions[found.position[row]], "trim").pixels
        if kind == "zarr":
            if found.status[row, 0] == "partial":
                continue
            expected = [pixels, np.full_like(pixels, -9) if hurt[row] else pixels]
            assert same_bits(group(output)["data"][row], np.stack(expected))
            continue
        path = output / f"{found.position[row]:02}_{found.file[row]}.fits"
        assert path.exists() != hurt[row]
        if not hurt[row]:
            assert same_bits(pixels_of(path, "DQ"), pixels)
            assert same_bits(pixels_of(path, "SCI"), pixels)


def replaced(path: str, pixels: np.ndarray) -> None:
    """Put another image in a file's place."""
    before = os.stat(path).st_mtime_ns
    fits.PrimaryHDU(pixels, header()).writeto(path, overwrite=True)
    os.utime(path, ns=(before + 10**9, before + 10**9))


@pytest.mark.parametrize("kind", ["zarr", "files"])
def test_a_file_replaced_in_the_meantime_fails_alone(tmp_path: Path, kind: str) -> None:
    paths = [saved(tmp_path, f"{n}.fits", image(FLOATS + np.float32(n))) for n in range(3)]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE)
    replaced(paths[1], FLOATS + np.float32(9))
    output = tmp_path / "out"
    done = found.to_zarr(output) if kind == "zarr" else found.to_files(output)
    failed = (found.file == 1) & np.isin(found.status, ["ok", "partial"])
    assert failed.sum() == 4
    assert (done.status == np.where(failed, "failed", found.status)).all()
    for row in np.flatnonzero(failed):
        assert isinstance(done.error[row], FileChangedError)
        assert "1.fits" in str(done.error[row])
    for row in np.flatnonzero(~failed & (found.file >= 0)):
        n, f = found.position[row], found.file[row]
        one = cut(FLOATS + np.float32(f), POSITIONS[n])
        if kind == "zarr":
            expected = in_full(one, "partial", SIZE, np.nan, "f4")
            assert same_bits(group(output)["data"][row], expected)
        elif one.pixels.size:
            assert same_bits(pixels_of(output / f"{n}_{f}.fits"), one.pixels)
    if kind == "zarr":
        assert np.isnan(group(output)["data"][:][failed]).all()
    else:
        names = {f"{n}_{f}.fits" for n in (0, 1, 3, 5) for f in (0, 2)}
        assert {entry.name for entry in output.iterdir()} == names | {"cutouts.csv"}


def content() -> bytes:
    buffer = io.BytesIO()
    image(FLOATS).writeto(buffer)
    return buffer.getvalue()


def test_a_store_that_exists_stays_and_nothing_is_read(tmp_path: Path) -> None:
    found = dask_fits.cutouts(put("a.fits", content()), POSITIONS, SIZE)
    for name, make in {
        "group.zarr": lambda path: zarr.open_group(path, mode="w", attributes={"mine": 1}),
        "array.zarr": lambda path: zarr.save_array(str(path), np.arange(3)),
        "file.zarr": lambda path: path.write_text("mine"),
        "directory.zarr": lambda path: (path.mkdir(), (path / "mine").write_text("mine")),
    }.items():
        path = tmp_path / name
        make(path)
        before = {p: p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()}
        RecordingFileSystem.log.clear()
        with pytest.raises(FileExistsError, match=name):
            found.to_zarr(path)
        assert not RecordingFileSystem.log
        assert {p: p.read_bytes() for p in [path, *path.rglob("*")] if p.is_file()} == before


def test_a_store_is_replaced_as_a_whole_where_that_is_asked_for(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.fits", image(FLOATS))
    output = tmp_path / "out.zarr"
    many = dask_fits.cutouts(path, POSITIONS, SIZE)
    many.to_zarr(output)
    zarr.open_group(output, mode="r+").create_array("old", data=np.arange(3))
    few = dask_fits.cutouts(path, POSITIONS[:1], (4, 4))
    few.to_zarr(str(output), overwrite=True)
    out = group(output)
    assert sorted(out.array_keys()) == ["corner", "data", "file", "position", "status"]
    assert same_bits(out["data"][:], few.data.compute())


def test_a_directory_that_is_no_group_is_not_replaced(tmp_path: Path) -> None:
    output = tmp_path / "data"
    output.mkdir()
    (output / "precious").write_text("mine")
    found = dask_fits.cutouts(saved(tmp_path, "a.fits", image(FLOATS)), POSITIONS, SIZE)
    with pytest.raises(FileExistsError):
        found.to_zarr(output, overwrite=True)
    assert [entry.name for entry in output.iterdir()] == ["precious"]


def test_a_place_in_an_object_store(tmp_path: Path) -> None:
    found = dask_fits.cutouts(saved(tmp_path, "a.fits", image(FLOATS)), POSITIONS, SIZE)
    url = f"memory://{tmp_path.name}/out.zarr"
    found.to_zarr(url, storage_options={"asynchronous": True})
    out = zarr.open_group(url, mode="r")
    assert same_bits(out["data"][:], found.data.compute())
    with pytest.raises(FileExistsError, match=r"out\.zarr"):
        found.to_zarr(url)


def test_without_zarr_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dask_fits.cutouts(saved(tmp_path, "a.fits", image(FLOATS)), POSITIONS, SIZE)
    monkeypatch.setitem(sys.modules, "zarr", None)
    monkeypatch.delitem(sys.modules, "dask_fits.writing.zarr_group", raising=False)
    with pytest.raises(MissingDriverError, match=r"pip install 'dask_fits\[zarr\]'"):
        found.to_zarr(tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("several", [False, True])
def test_no_positions_and_positions_off_all_images(tmp_path: Path, several: bool) -> None:
    path = three_hdus(tmp_path, "a.fits")
    hdus = ["SCI", "ERR"] if several else "SCI"
    for name, positions in {"none": np.empty((0, 2)), "off": np.array([(900.0, 900.0)])}.items():
        found = dask_fits.cutouts(path, positions, SIZE, hdus=hdus)
        found.to_zarr(tmp_path / f"{name}.zarr")
        out = group(tmp_path / f"{name}.zarr")
        assert same_bits(out["data"][:], found.data.compute())
        assert out["status"].shape == found.status.shape
        assert out["status"][:].ravel().tolist() == [2] * found.status.size
        found.to_files(tmp_path / name)
        assert [entry.name for entry in (tmp_path / name).iterdir()] == ["cutouts.csv"]
        assert len((tmp_path / name / "cutouts.csv").read_text().splitlines()) == 1 + (
            found.status.size
        )


# FITS files


def assert_is_sound(path: Path) -> None:
    """Whole blocks, nothing to mend, nothing after the last HDU."""
    with fits.open(path, checksum=True) as file:
        file.verify("exception")
        last = file[-1].fileinfo()
    assert last["datLoc"] + last["datSpan"] == path.stat().st_size


def assert_moved(path: Path, original: str, origin: tuple[int, int], key: Any = -1) -> None:
    """The world coordinates at p are the original's at p + origin."""
    with fits.open(path) as found, fits.open(original) as before:
        moved, whole = WCS(found[key].header), WCS(before[key].header)
    at = np.array([[0.0, 0.0], [3.0, 7.5], [-2.0, 11.0]])
    if moved.naxis > 2:
        moved, whole = moved.celestial, whole.celestial
    expected = whole.all_pix2world(at + np.array(origin[::-1]), 0)
    assert np.abs(moved.all_pix2world(at, 0) - expected).max() < 1e-10


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
@pytest.mark.parametrize("name", KINDS)
def test_the_files_are_what_astropy_would_have_cut(tmp_path: Path, name: str, mode: Any) -> None:
    paths, images = pair(tmp_path, name)
    fill = KINDS[name][3]
    value = 7.25 if name == "scaled integers" else None if np.isnan(fill) else fill
    fill = 7.25 if name == "scaled integers" else fill
    found = dask_fits.cutouts(paths, POSITIONS, SIZE, mode=mode, fill_value=0)
    done = found.to_files(tmp_path / "out", fill_value=value)
    assert (done.status == found.status).all()
    written = {"cutouts.csv"}
    for row in range(len(found)):
        n, f = found.position[row], found.file[row]
        one = cut(images[f], POSITIONS[n], mode, fill)
        assert done.status[row] == one.status
        if one.status in ("off", "failed") or (mode, one.status) == ("strict", "partial"):
            continue
        path = tmp_path / "out" / f"{n}_{f}.fits"
        written.add(path.name)
        assert_is_sound(path)
        assert same_bits(pixels_of(path), one.pixels), path.name
        assert_moved(path, paths[f], one.origin)
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == written
    assert len(written) == 1 + (4 if mode == "strict" else 8)


def test_stored_values_and_keywords_are_kept(tmp_path: Path) -> None:
    hdu = image(INTEGERS)
    hdu.header["OBJECT"] = ("O'Hara", "who")
    path = saved(tmp_path, "a.fits", hdu, BSCALE=0.25, BZERO=3.0, BLANK=-9)
    dask_fits.cutouts(path, POSITIONS, SIZE, fill_value=0).to_files(tmp_path / "out")
    for n in (0, 1, 3, 5):
        one = cut(INTEGERS, POSITIONS[n], "partial", -9)
        with fits.open(tmp_path / "out" / f"{n}.fits", do_not_scale_image_data=True) as file:
            about = file[0].header
            stored = file[0].data
            assert same_bits(stored.astype("i2"), one.pixels)
            assert [about[k] for k in ("BITPIX", "BSCALE", "BZERO", "BLANK")] == [16, 0.25, 3, -9]
            assert (about["OBJECT"], about.comments["OBJECT"]) == ("O'Hara", "who")
            assert about["CRPIX1"] == 37.25 - one.origin[1]
            assert about["CRPIX2"] == 33.5 - one.origin[0]


def listed(directory: Path) -> set[str]:
    return {entry.name for entry in directory.iterdir()} - {"cutouts.csv"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, ["00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10"]),
        ([f"star {n}" for n in range(11)], [f"star_{n}" for n in range(11)]),
        (list("abcdefghijk"), list("abcdefghijk")),
        (np.array([f"s/{n}" for n in range(11)]), [f"s_{n}" for n in range(11)]),
        (range(20, 31), [str(n) for n in range(20, 31)]),
        (
            ["../x", "a+b", "J1641-36.4", "é", "*?", "a:b", "~", "n\0", "'1", "(2", "x.fits"],
            ["_._x", "a+b", "J1641-36.4", "é", "__", "a_b", "_", "n_", "_1", "_2", "x.fits"],
        ),
    ],
)
def test_names(tmp_path: Path, names: Any, expected: list[str]) -> None:
    positions = np.column_stack([np.arange(11) + 20, np.full(11, 30)])
    path = saved(tmp_path, "a.fits", image(FLOATS))
    found = dask_fits.cutouts(path, positions, SIZE)
    found.to_files(tmp_path / "out", names=names)
    assert listed(tmp_path / "out") == {f"{name}.fits" for name in expected}
    for n, name in enumerate(expected):
        assert same_bits(
            pixels_of(tmp_path / "out" / f"{name}.fits"), cut(FLOATS, positions[n]).pixels
        )


@pytest.mark.parametrize(("count", "last"), [(1, "0"), (10, "9"), (11, "10"), (101, "100")])
def test_a_number_has_as_many_digits_as_the_last(tmp_path: Path, count: int, last: str) -> None:
    path = saved(tmp_path, "a.fits", image(FLOATS))
    found = dask_fits.cutouts(path, np.full((count, 2), 30), SIZE)
    found.to_files(tmp_path / "out")
    names = {"0" * len(last), last}
    assert {f"{name}.fits" for name in names} <= listed(tmp_path / "out")
    assert len(listed(tmp_path / "out")) == count


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a"], "expected 2, one for each position, found 1"),
        (["a", "b", "c"], "expected 2, one for each position, found 3"),
        ([], "expected 2, one for each position, found 0"),
        (["a", "a"], "found 'a' twice"),
        (["a b", "a/b"], "found 'a_b' twice"),
        (["~", "'"], "found '_' twice"),
    ],
)
def test_names_that_are_none(tmp_path: Path, names: list[str], said: str) -> None:
    path = saved(tmp_path, "a.fits", image(FLOATS))
    found = dask_fits.cutouts(path, POSITIONS[:2], SIZE)
    with pytest.raises(ValueError, match=said):
        found.to_files(tmp_path / "out", names=names)
    assert not (tmp_path / "out").exists()


def test_the_number_of_the_file_follows_where_there_are_several(tmp_path: Path) -> None:
    """It has as many digits as the last one."""
    paths = [
        saved(
            tmp_path,
            f"{n:02}.fits",
            fits.PrimaryHDU(FLOATS + np.float32(n), header(CRVAL1=10.0 + n // 2)),
        )
        for n in range(11)
    ]
    wcs = [WCS(fits.getheader(path)) for path in paths]
    positions = SkyCoord([wcs[n].pixel_to_world(30.3, 20.3) for n in (10, 2)])
    found = dask_fits.cutouts(paths, positions, SIZE)
    assert found.file.tolist() == [10, 2, 3]
    found.to_files(tmp_path / "out", names=["alone", "twice"])
    assert listed(tmp_path / "out") == {"alone.fits", "twice_02.fits", "twice_03.fits"}
    for name, n in {"alone": 10, "twice_02": 2, "twice_03": 3}.items():
        pixels = (FLOATS + np.float32(n))[17:25, 28:34]
        assert same_bits(pixels_of(tmp_path / "out" / f"{name}.fits"), pixels)


def test_a_name_that_another_makes_with_the_number_of_a_file(tmp_path: Path) -> None:
    paths = overlapping(tmp_path)
    wcs = [WCS(fits.getheader(path)) for path in paths]
    positions = SkyCoord([wcs[0].pixel_to_world(20, 30), wcs[2].pixel_to_world(40, 30)])
    found = dask_fits.cutouts(paths, positions, SIZE)
    assert found.file.tolist() == [0, 1, 2]
    try:
        found.to_files(tmp_path / "out", names=["a", "a_0"])
    except ValueError as error:
        assert "a_0" in str(error)  # noqa: PT017 (either is right)
    else:
        assert len(listed(tmp_path / "out")) == 3


def test_several_hdus_of_a_row_are_one_file(tmp_path: Path) -> None:
    paths = [three_hdus(tmp_path, f"{n}.fits", n, versions=(1, 2)) for n in range(2)]
    keys = [("DQ", 2), ("SCI", 2), ("ERR", 2)]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE, hdus=keys, mode="trim", fill_value=0)
    done = found.to_files(tmp_path / "out")
    assert (done.status == found.status).all()
    assert listed(tmp_path / "out") == {f"{n}_{f}.fits" for n in (0, 1, 3, 5) for f in range(2)}
    for n in (0, 1, 3, 5):
        for f in range(2):
            path = tmp_path / "out" / f"{n}_{f}.fits"
            assert_is_sound(path)
            with fits.open(path) as file, fits.open(paths[f]) as original:
                told = [(hdu.name, hdu.ver) for hdu in file]
                assert told == [("PRIMARY", 1), ("SCI", 2), ("ERR", 2), ("DQ", 2)]
                assert file[0].data is None
                assert file[0].header["EXTEND"] is True
                assert (file[0].header["TELESCOP"], file[0].header.comments["TELESCOP"]) == (
                    *("Keck", "where"),
                )
                assert [*file[0].header["COMMENT"]] == ["of the file"]
                for key in keys:
                    assert file[key].header["BUNIT"] == original[key].header["BUNIT"]
            for key in keys:
                one = cut(pixels_of(paths[f], key), POSITIONS[n], "trim")
                assert same_bits(pixels_of(path, key), one.pixels)
                assert_moved(path, paths[f], one.origin, key)


def test_images_of_another_size_in_one_file(tmp_path: Path) -> None:
    """A position may be on one of them, and over the edge of the other, or off it."""
    small = fits.ImageHDU(INTEGERS[:30, :40].astype("f4"), header(), name="SMALL")
    large = fits.ImageHDU(FLOATS, header(), name="LARGE")
    path = saved(tmp_path, "a.fits", fits.PrimaryHDU(), large, small)
    positions = np.array([(20, 10), (38.4, 10), (70, 50)])
    found = dask_fits.cutouts(path, positions, SIZE, hdus=["LARGE", "SMALL"])
    assert found.status.tolist() == [["ok", "ok"], ["ok", "partial"], ["ok", "off"]]
    done = found.to_files(tmp_path / "out")
    assert (done.status == found.status).all()
    names = []
    for n, position in enumerate(positions):
        with fits.open(tmp_path / "out" / f"{n}.fits") as file:
            names.append([hdu.name for hdu in file])
        for name in names[-1][1:]:
            one = cut(pixels_of(path, name), position)
            assert same_bits(pixels_of(tmp_path / "out" / f"{n}.fits", name), one.pixels)
    assert names == [["PRIMARY", "LARGE", "SMALL"]] * 2 + [["PRIMARY", "LARGE"]]
    found = dask_fits.cutouts(path, positions, SIZE, hdus=["LARGE", "SMALL"], mode="strict")
    found.to_files(tmp_path / "strict")
    if (tmp_path / "strict" / "1.fits").exists():
        with fits.open(tmp_path / "strict" / "1.fits") as file:
            assert [hdu.name for hdu in file] == ["PRIMARY", "LARGE"], "no pixels of the other"


def test_integers_without_blank_cannot_be_filled(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path, "none.fits", image(INTEGERS)),
        saved(tmp_path, "blank.fits", image(INTEGERS), BLANK=-99),
        saved(tmp_path, "packed.fits", image(INTEGERS, **TILES)),
    ]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE)
    done = found.to_files(tmp_path / "out")
    bad = (found.status == "partial") & (found.file != 1)
    assert bad.sum() == 4
    assert (done.status == np.where(bad, "failed", found.status)).all()
    for row in np.flatnonzero(bad):
        assert isinstance(done.error[row], FitsFormatError)
        assert "BLANK" in str(done.error[row])
        assert Path(paths[found.file[row]]).name in str(done.error[row])
    whole = {f"{n}_{f}.fits" for n in (0, 5) for f in range(3)}
    assert listed(tmp_path / "out") == whole | {"1_1.fits", "3_1.fits"}
    stored = pixels_of_stored(tmp_path / "out" / "1_1.fits")
    assert same_bits(stored, cut(INTEGERS, POSITIONS[1], "partial", -99).pixels)
    assert np.isnan(pixels_of(tmp_path / "out" / "1_1.fits")).sum() == (stored == -99).sum()


def pixels_of_stored(path: Path) -> np.ndarray:
    with fits.open(path, do_not_scale_image_data=True) as file:
        stored = np.array(file[-1].data)
        return stored.astype(stored.dtype.newbyteorder("="))


def test_a_fill_value_is_a_physical_one(tmp_path: Path) -> None:
    paths = [
        saved(tmp_path, "scaled.fits", image(INTEGERS), BSCALE=0.5, BZERO=10.0),
        saved(tmp_path, "integers.fits", image(INTEGERS)),
        saved(tmp_path, "floats.fits", image(FLOATS)),
    ]
    found = dask_fits.cutouts(paths, POSITIONS, SIZE)
    done = found.to_files(tmp_path / "out", fill_value=12.5)
    stored = cut(INTEGERS, POSITIONS[1], "partial", 5).pixels
    assert same_bits(pixels_of_stored(tmp_path / "out" / "1_0.fits"), stored)
    one = cut(FLOATS, POSITIONS[1], "partial", 12.5)
    assert same_bits(pixels_of(tmp_path / "out" / "1_2.fits"), one.pixels)
    bad = (found.status == "partial") & (found.file == 1)
    assert (done.status == np.where(bad, "failed", found.status)).all()
    assert "no stored integer of 16 bits stands for 12.5" in str(done.error[bad][0])


def test_a_row_of_which_one_hdu_is_damaged_has_no_file(tmp_path: Path) -> None:
    paths = []
    for name, spoiled in {"bad.fits": True, "good.fits": False}.items():
        plain = saved(tmp_path, name, fits.PrimaryHDU(), fits.ImageHDU(INTEGERS, name="DQ"))
        with open(plain, "ab") as file:
            file.write(packed(spoiled=spoiled)[2880:])
            file.write(tiled_extension(INTEGERS, **PACKED, cards=[("EXTNAME", "ERR")]))
        paths.append(plain)
    found = dask_fits.cutouts(
        paths, DAMAGED, SIZE, hdus=["DQ", "SCI", "ERR"], mode="trim", fill_value=0
    )
    done = found.to_files(tmp_path / "out")
    hurt = [2 * n for n in HURT]
    assert np.flatnonzero((done.status == "failed").all(axis=1)).tolist() == hurt
    assert np.flatnonzero((done.status == "failed").any(axis=1)).tolist() == hurt
    for row in hurt:
        assert len({str(error) for error in done.error[row]}) == 1
        assert "bad.fits: HDU 2: tile" in str(done.error[row, 0])
    rest = [(n, f) for n in range(6) for f in range(2) if 2 * n + f not in hurt]
    assert listed(tmp_path / "out") == {f"{n}_{f}.fits" for n, f in rest}
    for n, f in rest:
        path = tmp_path / "out" / f"{n}_{f}.fits"
        for key in ("DQ", "SCI", "ERR"):
            assert same_bits(pixels_of(path, key), cut(INTEGERS, DAMAGED[n], "trim").pixels)


@pytest.mark.parametrize("kind", ["zarr", "files"])
def test_what_is_known_to_be_damaged_before_it_is_read(tmp_path: Path, kind: str) -> None:
    """A tile that the table says to lie beyond the file."""
    cards = [("EXTNAME", "SCI"), *KEYWORDS.items()]
    parts = tiled_parts(INTEGERS, **PACKED, cards=cards)
    parts.column("COMPRESSED_DATA")[SPOILED] = 100, 1 << 30
    path = saved(tmp_path, "a.fits", fits.PrimaryHDU(), fits.ImageHDU(INTEGERS, name="DQ"))
    with open(path, "ab") as file:
        file.write(parts.extension())
    found = dask_fits.cutouts(path, DAMAGED, SIZE, hdus=["DQ", "SCI"], mode="trim", fill_value=0)
    assert np.flatnonzero(found.status[:, 1] == "failed").tolist() == HURT
    output = tmp_path / "out"
    done = found.to_zarr(output) if kind == "zarr" else found.to_files(output)
    assert np.flatnonzero(done.status[:, 1] == "failed").tolist() == HURT
    hurt = [] if kind == "zarr" else HURT
    assert np.flatnonzero(done.status[:, 0] == "failed").tolist() == hurt
    for row, slot in np.argwhere(done.status == "failed"):
        assert "a.fits" in str(done.error[row, slot])
    if kind == "zarr":
        assert same_bits(group(output)["data"][:], found.data.compute())
        assert (group(output)["status"][:, 1] == 3).nonzero()[0].tolist() == HURT
    else:
        assert listed(output) == {f"{n}.fits" for n in range(6) if n not in HURT}


def test_a_row_of_which_one_hdu_is_missing_has_no_file(tmp_path: Path) -> None:
    paths = [three_hdus(tmp_path, "0.fits")]
    paths.append(saved(tmp_path, "1.fits", fits.ImageHDU(FLOATS, header(), name="SCI")))
    found = dask_fits.cutouts(paths, POSITIONS[:1], SIZE, hdus=["SCI", "ERR"])
    assert found.status.tolist() == [["ok", "ok"], ["ok", "failed"]]
    done = found.to_files(tmp_path / "out")
    assert listed(tmp_path / "out") == {"0_0.fits"}
    assert done.status.tolist() == [["ok", "ok"], ["failed", "failed"]]


def test_the_list_of_what_became_of_each(tmp_path: Path) -> None:
    (tmp_path / "bad, you see.fits").write_bytes(packed(spoiled=True))
    paths = [str(tmp_path / "bad, you see.fits"), saved(tmp_path, "good.fits", image(INTEGERS))]
    positions = [(50, 15), (1, 1), (10, 5), (300, 3), (np.nan, 3)]
    found = dask_fits.cutouts(paths, positions, SIZE, fill_value=0)
    done = found.to_files(tmp_path / "out", names=["a b", "c", "d", "e", "f"], fill_value=0)
    said = [str(done.error[row]) for row in (0, 8)]
    assert "bad, you see.fits" in said[0]
    expected = [
        ["row", "position", "hdu", "file", "status", "path", "error"],
        ["0", "0", "0", paths[0], "failed", "", said[0]],
        ["1", "0", "0", paths[1], "ok", "a_b_1.fits", ""],
        ["2", "1", "0", paths[0], "partial", "c_0.fits", ""],
        ["3", "1", "0", paths[1], "partial", "c_1.fits", ""],
        ["4", "2", "0", paths[0], "ok", "d_0.fits", ""],
        ["5", "2", "0", paths[1], "ok", "d_1.fits", ""],
        ["6", "3", "0", paths[0], "off", "", ""],
        ["7", "3", "0", paths[1], "off", "", ""],
        ["8", "4", "0", "", "failed", "", said[1]],
    ]
    with open(tmp_path / "out" / "cutouts.csv", newline="") as file:
        assert list(csv.reader(file)) == expected
    content = (tmp_path / "out" / "cutouts.csv").read_bytes()
    assert b"\r" not in content
    assert content.decode().splitlines()[2] == f"1,0,0,{paths[1]},ok,a_b_1.fits,"
    found.to_files(tmp_path / "again", fill_value=0, names=["a b", "c", "d", "e", "f"])
    assert (tmp_path / "again" / "cutouts.csv").read_bytes() == content


def test_the_list_has_a_line_for_each_hdu(tmp_path: Path) -> None:
    path = three_hdus(tmp_path, "a.fits")
    found = dask_fits.cutouts(path, [(40, 30), (1, 58)], SIZE, hdus=["SCI", "ERR"], mode="strict")
    found.to_files(tmp_path / "out")
    assert (tmp_path / "out" / "cutouts.csv").read_text() == (
        "row,position,hdu,file,status,path,error\n"
        f"0,0,0,{path},ok,0.fits,\n"
        f"0,0,1,{path},ok,0.fits,\n"
        f"1,1,0,{path},partial,,\n"
        f"1,1,1,{path},partial,,\n"
    )


@pytest.mark.parametrize("name", ["0.fits", "1.fits", "2.fits", "cutouts.csv"])
def test_files_that_exist_stay_and_nothing_is_read(tmp_path: Path, name: str) -> None:
    """Also the file of a position that turns out to have no cutout."""
    found = dask_fits.cutouts(put("a.fits", content()), POSITIONS[:3], SIZE)
    (tmp_path / name).write_bytes(b"precious")
    RecordingFileSystem.log.clear()
    with pytest.raises(FileExistsError, match=name):
        found.to_files(tmp_path)
    assert not RecordingFileSystem.log
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"precious"
    found.to_files(tmp_path, overwrite=True)
    assert listed(tmp_path) == {"0.fits", "1.fits"}
    for n in range(2):
        assert same_bits(pixels_of(tmp_path / f"{n}.fits"), cut(FLOATS, POSITIONS[n]).pixels)


def test_what_fails_now_leaves_no_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(packed(spoiled=False))
    output = tmp_path / "out" / "deep"
    dask_fits.cutouts(path, DAMAGED, SIZE, mode="trim", fill_value=0).to_files(output)
    assert listed(output) == {f"{n}.fits" for n in range(6)}
    (output / "other.txt").write_text("stays")
    path.write_bytes(packed(spoiled=True))
    again = dask_fits.cutouts(path, DAMAGED, SIZE, mode="trim", fill_value=0)
    done = again.to_files(output, overwrite=True)
    assert np.flatnonzero(done.status == "failed").tolist() == HURT
    assert listed(output) == {"1.fits", "3.fits", "5.fits", "other.txt"}


def test_what_cannot_be_replaced_is_seen_before_anything_is_removed(tmp_path: Path) -> None:
    found = dask_fits.cutouts(saved(tmp_path, "a.fits", image(FLOATS)), POSITIONS[:2], SIZE)
    found.to_files(tmp_path / "out")
    (tmp_path / "out" / "1.fits").unlink()
    (tmp_path / "out" / "1.fits").mkdir()
    with pytest.raises(FileExistsError, match=r"1\.fits"):
        found.to_files(tmp_path / "out", overwrite=True)
    assert listed(tmp_path / "out") == {"0.fits", "1.fits"}


def test_a_write_that_fails_leaves_whole_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dask_fits.cutouts(saved(tmp_path, "a.fits", image(FLOATS)), POSITIONS, SIZE)
    count, sync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(errno.ENOSPC, "no space left")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with dask.config.set(scheduler="sync"), pytest.raises(OSError, match="no space left"):
        found.to_files(tmp_path / "out")
    left = sorted(entry.name for entry in (tmp_path / "out").iterdir())
    assert len(left) == 2
    for name in left:
        assert_is_sound(tmp_path / "out" / name)
        expected = cut(FLOATS, POSITIONS[int(name.removesuffix(".fits"))])
        assert same_bits(pixels_of(tmp_path / "out" / name), expected.pixels)


# Memory

COUNT = 8
SIDE = 3072
BOX = 512
CELLS = SIDE // BOX


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eight images of 38 MB, side by side on the sky."""
    root = tmp_path_factory.mktemp("large")
    pixels = ((ROWS[:SIDE] // 7 * 31 + COLUMNS[:, :SIDE] // 5) % 1009).astype("f4")
    scale = {"CD1_1": -1e-4, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-4}
    middle = {"CRPIX1": SIDE / 2, "CRPIX2": SIDE / 2}
    return [
        saved(
            root,
            f"{n}.fits",
            fits.PrimaryHDU(pixels, header(CRVAL1=10.0 + n, CRVAL2=0.0, **scale, **middle)),
        )
        for n in range(COUNT)
    ]


def in_cells(overlap: bool) -> np.ndarray:
    """Pixels x, y of 36 boxes of an image: beside each other, or most of each in each other."""
    step = 7 if overlap else BOX
    first = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), axis=-1).reshape(-1, 2)
    return first * step + BOX / 2 - 0.3


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("kind", "overlap"), [("files", False), ("zarr", True)], ids=["apart", "overlapping"]
)
def test_large_jobs_are_written_in_bounded_memory(
    large: list[str], tmp_path: Path, kind: str, overlap: bool
) -> None:
    at = in_cells(overlap)
    worlds = [WCS(fits.getheader(path)).all_pix2world(at, 0) for path in large]
    lon, lat = np.random.default_rng(3).permutation(np.concatenate(worlds)).T
    found = dask_fits.cutouts(large, SkyCoord(lon, lat, unit="deg"), BOX)
    assert set(found.status) == {"ok"}
    assert len(found) * BOX * BOX * 4 > 300e6
    with dask.config.set(scheduler="threads", num_workers=2):
        tracemalloc.start()
        try:
            output = tmp_path / "out"
            done = found.to_zarr(output) if kind == "zarr" else found.to_files(output)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert set(done.status) == {"ok"}
    # Two tasks that read 64 MiB, and what they wrote before.
    assert peak < 235e6
    pixels = pixels_of(large[0])
    for row in range(0, len(found), 37):
        x, y = np.round(found.wcs[row].wcs.crpix).astype(int).tolist()
        y, x = SIDE // 2 - y, SIDE // 2 - x
        written = (
            group(output)["data"][row] if kind == "zarr" else pixels_of(output / f"{row:03}.fits")
        )
        assert same_bits(written, pixels[y : y + BOX, x : x + BOX])


# Schedulers, and what is fetched


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """Overlapping images, plain and compressed, of 4 MB each; one has a spoiled tile."""
    root = tmp_path_factory.mktemp("serving")
    side = 1000
    for n in range(4):
        pixels = ((ROWS[:side] * 31 + COLUMNS[:, :side] * 7) % (1009 + n)).astype("i4")
        about = header(CRVAL1=10.0 + n // 2, CRPIX1=500.0, CRPIX2=500.0)
        packing = {"compression_type": "RICE_1", "tile_shape": (100, 100)}
        plain = fits.PrimaryHDU(pixels, about)
        saved(root, f"{n}.fits", fits.CompImageHDU(pixels, about, **packing) if n % 2 else plain)
    with RangeServer(root) as server:
        yield server


def no_byte_twice(server: RangeServer) -> bool:
    found = defaultdict(list)
    for request in server.log:
        first, last = request.range.removeprefix("bytes=").split("-")
        found[request.path].append((int(first), int(last) + 1))
    return all(
        one[1] <= other[0] for some in found.values() for one, other in pairwise(sorted(some))
    )


@pytest.mark.untraced
@pytest.mark.parametrize("kind", ["zarr", "files"])
@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes", "distributed"])
def test_every_scheduler_writes_the_same_and_fetches_each_byte_once(
    serving: RangeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    scheduler: str,
    kind: str,
) -> None:
    monkeypatch.setattr(tiled, "ROWS", RowCache(1 << 20))
    urls = [f"{serving.url}/{n}.fits" for n in range(4)]
    files = [str(serving._root / f"{n}.fits") for n in range(4)]
    wcs = WCS(fits.getheader(files[0]))
    at = np.floor(np.random.default_rng(5).uniform(-20, 1020, (90, 2))) + 0.3
    lon, lat = wcs.all_pix2world(at, 0).T
    lon[::3] += 1
    found = dask_fits.cutouts(urls, SkyCoord(lon, lat, unit="deg"), (40, 30), fill_value=-1)
    assert set(found.status) >= {"ok", "partial"}
    assert len(found) > 90
    until(lambda: serving.busy == 0)
    serving.clear()
    output = tmp_path / "out"
    where: Any = nullcontext()
    options: dict[str, Any] = {"scheduler": scheduler}
    if scheduler == "distributed":
        where, options = request.getfixturevalue("client").as_current(), {}
    elif scheduler == "processes":
        options["pool"] = request.getfixturevalue("spawned")
    with where, dask.config.set(**options):
        done = found.to_zarr(output) if kind == "zarr" else found.to_files(output, fill_value=-1)
    assert (done.status == found.status).all()
    assert serving.requests == found.plan.requests
    assert serving.bytes == found.plan.bytes
    assert no_byte_twice(serving)
    expected = dask_fits.cutouts(files, SkyCoord(lon, lat, unit="deg"), (40, 30), fill_value=-1)
    pixels = expected.data.compute()
    if kind == "zarr":
        assert same_bits(group(output)["data"][:], pixels)
        return
    with open(output / "cutouts.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["status"] for line in lines] == found.status.tolist()
    assert {line["path"] for line in lines} - {""} == listed(output)
    for line in lines:
        if line["path"]:
            assert same_bits(pixels_of(output / line["path"]), pixels[int(line["row"])])


@pytest.mark.parametrize("kind", ["zarr", "files"])
@pytest.mark.parametrize("scheduler", ["processes", "distributed"])
def test_errors_come_back_from_other_processes(
    tmp_path: Path, request: pytest.FixtureRequest, scheduler: str, kind: str
) -> None:
    paths = damaged_pair(tmp_path)
    paths.append(saved(tmp_path, "gone.fits", image(FLOATS)))
    found = dask_fits.cutouts(paths, DAMAGED, SIZE, mode="trim", fill_value=0)
    replaced(paths[2], FLOATS + 1)
    output = tmp_path / "out"
    where: Any = nullcontext()
    options: dict[str, Any] = {"scheduler": scheduler}
    if scheduler == "distributed":
        where, options = request.getfixturevalue("client").as_current(), {}
    else:
        options["pool"] = request.getfixturevalue("spawned")
    with where, dask.config.set(**options):
        done = found.to_zarr(output) if kind == "zarr" else found.to_files(output)
    for row in range(len(found)):
        n, f = divmod(row, 3)
        if f == 2:
            assert isinstance(done.error[row], FileChangedError)
        elif f == 0 and n in HURT:
            assert isinstance(done.error[row], FitsFormatError)
        else:
            assert done.error[row] is None
    assert (found.error == None).all()  # noqa: E711 (of each)
