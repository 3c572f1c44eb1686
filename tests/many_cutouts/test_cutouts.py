"""`dask_fits.cutouts`: each as astropy's Cutout2D; lazy, and what fails says why."""

from __future__ import annotations

import itertools
import os
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D, NoOverlapError, PartialOverlapError
from astropy.wcs import WCS
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import (
    FileChangedError,
    FitsError,
    FitsFileNotFoundError,
    FitsFormatError,
    FitsWarning,
    HduNotFoundError,
    NotAnImageError,
    TruncatedFileError,
)
from dask_fits.many_cutouts import tasks
from dask_fits.planning import boxes as planner
from dask_fits.wcs.geometry import sky_axes
from tests.servers.range_server import RangeServer
from tests.support.corpus import COVERED, needs_corpus, placed
from tests.support.fits_files import same_bits
from tests.support.pairwise import pairwise
from tests.support.recording import RecordingFileSystem, put
from tests.support.star_fields import (
    COORDINATES,
    FLOATS,
    INTEGERS,
    KINDS,
    NX,
    NY,
    SIP,
    SIZES,
    SKY,
    SOLAR,
    SWAPPED,
    TAN,
    Keywords,
    Known,
    assert_same_wcs,
    content,
    known,
    spectral,
    written,
    written_to,
)
from tests.support.tiled_files import tiled_parts

LOG = RecordingFileSystem.log

# What astropy mends in a header, it tells; and a position that it cannot invert.
pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore:All-NaN slice:RuntimeWarning"
)


# Images


# What astropy makes of it


@dataclass(frozen=True)
class Expected:
    position: int
    file: int
    status: str
    pixels: np.ndarray
    wcs: WCS | None


def one_by_astropy(image: Known, position: Any, size: Any, mode: str, fill: Any) -> Expected | None:
    """The cutout of an image by Cutout2D; None where the position is off it."""
    planes = image.pixels.reshape(-1, *image.pixels.shape[-2:])
    flat = image.wcs.celestial if image.wcs.naxis > 2 else image.wcs
    if isinstance(position, SkyCoord):
        # Cutout2D itself takes latitude for x where that is the first axis.
        position = tuple(float(value) for value in flat.world_to_pixel(position))
    if not np.isfinite(position).all():
        return None
    try:
        found = Cutout2D(planes[0], position, size, wcs=flat, mode="partial", fill_value=fill)
    except NoOverlapError:
        return None
    try:
        Cutout2D(planes[0], position, size, wcs=flat, mode="strict")
        status = "ok"
    except PartialOverlapError:
        status = "partial"
    filled = np.full((len(planes), *found.shape), fill, image.pixels.dtype)
    if mode == "trim":
        found = Cutout2D(planes[0], position, size, wcs=flat, mode="trim")
    if mode != "strict" or status == "ok":
        rows, columns = map(slice, found.shape)
        for plane, out in zip(planes, filled, strict=True):
            own = "trim" if mode == "trim" else "partial"
            cut = Cutout2D(plane, position, size, wcs=flat, mode=own, fill_value=fill)
            out[rows, columns] = cut.data
    pixels = filled.reshape(*image.pixels.shape[:-2], *filled.shape[-2:])
    return Expected(-1, -1, status, pixels, found.wcs)


def by_astropy(
    images: Sequence[Known],
    positions: Any,
    size: Any,
    mode: str = "partial",
    fill: Any = np.nan,
    far: Sequence[int] = (),
) -> list[Expected]:
    """All cutouts, by position and then by file; `far` positions are on no image for sure."""
    rows = []
    sky = isinstance(positions, SkyCoord)
    for number, position in enumerate(positions):
        lonely = True
        for n, image in enumerate(images):
            found = (
                None
                if number in far
                else one_by_astropy(image, position if sky else tuple(position), size, mode, fill)
            )
            if found:
                rows.append(replace(found, position=number, file=n))
            elif not sky:
                rows.append(Expected(number, n, "off", np.array(fill), None))
            lonely = lonely and not found and sky
        if lonely:
            rows.append(Expected(number, -1, "off", np.array(fill), None))
    return rows


def assert_as_astropy(
    found: Any, expected: Sequence[Expected], *, worlds: int = 40, pixels: Any = None
) -> None:
    assert found.position.tolist() == [row.position for row in expected]
    assert found.file.tolist() == [row.file for row in expected]
    assert found.status.tolist() == [row.status for row in expected]
    assert [error for error in found.error if error is not None] == []
    assert len(found) == len(found.wcs) == len(expected) == len(found.data)
    pixels = found.data.compute(scheduler="sync") if pixels is None else pixels
    assert (pixels.shape, pixels.dtype) == (found.data.shape, found.data.dtype)
    assert pixels.dtype.isnative
    for row, one in enumerate(expected):
        there = np.broadcast_to(one.pixels.astype(pixels.dtype), pixels.shape[1:])
        assert same_bits(pixels[row], there), row
    # Each is made on its own, which takes a millisecond.
    for row in range(0, len(expected), max(1, len(expected) // worlds)):
        if expected[row].wcs is None:
            assert found.wcs[row] is None
        else:
            assert_same_wcs(found.wcs[row], expected[row].wcs)


def on_the_sky(wcs: WCS, seed: int, count: int = 40, beyond: float = 25.0) -> SkyCoord:
    """Positions on and around an image."""
    flat = wcs.celestial if wcs.naxis > 2 else wcs
    rng = np.random.default_rng(seed)
    at = rng.uniform(-beyond, [NX + beyond, NY + beyond], (count, 2))
    # Clear of where the box jumps: an inverse of a distortion is good to 1e-4 of a pixel.
    at = np.floor(at) + rng.choice([0.2, 0.7], at.shape) + rng.uniform(-0.1, 0.1, at.shape)
    world = flat.all_pix2world(at, 0).T
    lon, lat = world[flat.wcs.lng], world[flat.wcs.lat]
    inside = np.isfinite(lon) & np.isfinite(lat)
    names = {"G": "galactic"}
    frame = names.get(wcs.wcs.ctype[0][0], "fk5" if wcs.wcs.equinox == 1975 else "icrs")
    more = {"equinox": "J1975"} if frame == "fk5" else {}
    return SkyCoord(lon[inside] * u.deg, lat[inside] * u.deg, frame=frame, **more)


def together(*parts: SkyCoord) -> SkyCoord:
    """Positions one after the other, in ICRS."""
    lon, lat = (
        np.concatenate([getattr(part.icrs, name).deg for part in parts]) for name in ("ra", "dec")
    )
    return SkyCoord(lon, lat, unit="deg")


# Against Cutout2D


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("name", "mode", "size"), pairwise(list(SKY), ["partial", "trim", "strict"], [9, (14, 7)])
)
def test_positions_on_the_sky(tmp_path: Path, name: str, mode: Any, size: Any) -> None:
    data = content(FLOATS, SKY[name])
    image, seed = known(data), len(name)
    positions = on_the_sky(image.wcs, seed, beyond=4.0 if "sky" in name else 25.0)
    found = dask_fits.cutouts(written_to(tmp_path, "a.fits", data), positions, size, mode=mode)
    expected = by_astropy([image], positions, size, mode)
    assert {row.status for row in expected} >= {"ok", "partial"}
    assert_as_astropy(found, expected, worlds=10)


@pytest.mark.untraced
@pytest.mark.parametrize("name", ["TAN", "SIP", "TPV", "FK5", "swapped"])
def test_angles_for_a_size(tmp_path: Path, name: str) -> None:
    data = content(FLOATS, (SKY | {"swapped": SWAPPED})[name])
    image, path = known(data), written_to(tmp_path, "a.fits", data)
    positions = on_the_sky(image.wcs, 3, 20)
    for size in (40 * u.arcsec, [0.5, 0.9] * u.arcmin, (12, 30 * u.arcsec), 7 * u.pixel):
        found = dask_fits.cutouts(path, positions, size)
        expected = by_astropy([image], positions, size)
        assert {row.status for row in expected} >= {"ok", "off"}
        assert_as_astropy(found, expected, worlds=3)


@pytest.mark.untraced
@pytest.mark.parametrize("frame", ["galactic", "fk4", "icrs", "geocentrictrueecliptic"])
@pytest.mark.parametrize("name", ["TAN", "Galactic", "SIP"])
def test_positions_in_another_frame(tmp_path: Path, name: str, frame: str) -> None:
    data = content(FLOATS, SKY[name])
    image = known(data)
    positions = on_the_sky(image.wcs, 4).transform_to(frame)
    found = dask_fits.cutouts(written_to(tmp_path, "a.fits", data), positions, 8)
    expected = by_astropy([image], positions, 8)
    assert sum(row.status == "ok" for row in expected) > 5
    assert_as_astropy(found, expected, worlds=3)


@pytest.mark.parametrize("mode", ["partial", "trim"])
def test_axes_the_other_way_round(tmp_path: Path, mode: Any) -> None:
    """Cutout2D takes the latitude for x there; the pixel is what `world_to_pixel` says."""
    data = content(FLOATS, SWAPPED)
    image = known(data)
    lat, lon = image.wcs.all_pix2world([[40, 20], [3, 50], [79, 0], [90, 30]], 0).T
    positions = SkyCoord(lon * u.deg, lat * u.deg)
    found = dask_fits.cutouts(written_to(tmp_path, "a.fits", data), positions, (9, 13), mode=mode)
    expected = by_astropy([image], [(40, 20), (3, 50), (79, 0)], (9, 13), mode)
    expected.append(Expected(3, -1, "off", np.array(np.nan), None))
    assert_as_astropy(found, expected)


FAR = SkyCoord(
    [190, 10, 10, 100, 280, 10, 10.9, 191], [-20, 90, -90, 20, 20, -70, 21.3, 19], unit="deg"
)


@pytest.mark.parametrize("name", ["TAN", "SIP", "TPV", "FK5"])
def test_positions_elsewhere_on_the_sky(tmp_path: Path, name: str) -> None:
    """Where astropy's inverse of a distortion leads anywhere, they are off all the same."""
    data = content(FLOATS, SKY[name])
    image = known(data)
    positions = together(on_the_sky(image.wcs, 5, 10), FAR)
    far = range(len(positions) - len(FAR), len(positions))
    found = dask_fits.cutouts(written_to(tmp_path, "a.fits", data), positions, 20)
    assert_as_astropy(found, by_astropy([image], positions, 20, far=far), worlds=5)
    assert found.file.tolist()[-len(FAR) :] == [-1] * len(FAR)


FACETS = {
    "TAN": (40.0, -1500.0),
    "STG": (40.0, -1500.0),
    "ZEA": (40.0, -1300.0),
    "SIN": (40.0, -940.0),
    "CEA": (40.0, -980.0),
}


@pytest.mark.untraced
@pytest.mark.parametrize(
    "name",
    FACETS,
)
def test_a_facet_far_from_its_reference(tmp_path: Path, name: str) -> None:
    """There a pixel is much more of the sky than at CRVAL; the cutouts are larger than the image."""
    scale = float(np.degrees(1e-3))
    keywords = {"CTYPE1": f"RA---{name}", "CTYPE2": f"DEC--{name}", "CRVAL1": 0.0, "CRVAL2": 0.0}
    keywords |= {"CRPIX1": FACETS[name][0], "CRPIX2": FACETS[name][1]}
    keywords |= {"CDELT1": -scale, "CDELT2": scale}
    data = content(FLOATS[:12, :15].copy(), keywords)
    image = known(data)
    at = np.random.default_rng(1).integers(-40, 55, (80, 2)) + 0.3
    lon, lat = image.wcs.all_pix2world(at, 0).T
    there = np.isfinite(lon)
    positions = SkyCoord(lon[there], lat[there], unit="deg")
    found = dask_fits.cutouts(written_to(tmp_path, "a.fits", data), positions, 60)
    expected = by_astropy([image], positions, 60)
    assert {row.status for row in expected} == {"partial", "off"}
    assert_as_astropy(found, expected, worlds=3)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dask_fits.FitsFile, Known]]:
    root = tmp_path_factory.mktemp("kinds")
    return {
        name: (dask_fits.open(written_to(root, f"{name}.fits", data)), known(data))
        for name, data in KINDS.items()
    }


def test_the_kinds_of_pixels_are_those_meant(
    kinds: dict[str, tuple[dask_fits.FitsFile, Known]],
) -> None:
    types = [image.pixels.dtype.name for _, image in kinds.values()]
    assert types == [
        *("float32", "float64", "int16", "uint8", "uint16", "int64", "float32", "float32"),
        *("int16", "int32", "int16", "uint16", "float32"),
    ]
    assert np.isnan(kinds["BLANK"][1].pixels[4:9, 6:30]).all()


@settings(max_examples=100, deadline=None)
@given(
    st.data(),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["partial", "trim", "strict"]),
    st.sampled_from([(1 << 26, 256), (600, 256), (1 << 26, 3)]),
)
def test_pixel_positions_of_any_kind_of_image(
    kinds: dict[str, tuple[dask_fits.FitsFile, Known]],
    data: st.DataObject,
    name: str,
    mode: Any,
    batch: tuple[int, int],
) -> None:
    file, image = kinds[name]
    positions = data.draw(st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=6))
    size, chunk = data.draw(SIZES), data.draw(st.sampled_from(["128 MiB", "1 kiB"]))
    fill = np.nan if image.pixels.dtype.kind == "f" else 7
    with pytest.MonkeyPatch.context() as patch, dask.config.set({"array.chunk-size": chunk}):
        patch.setattr(planner, "BATCH_BYTES", batch[0])
        patch.setattr(planner, "BATCH_RANGES", batch[1])
        found = dask_fits.cutouts(file, positions, size, mode=mode, fill_value=fill)
    expected = by_astropy([image], positions, size, mode, fill)
    assert_as_astropy(found, expected, worlds=1)


def test_solar_images_by_pixels(tmp_path: Path) -> None:
    data = content(FLOATS, SOLAR)
    positions = np.array([(10.0, 20.0), (0.0, 59.0), (300.0, 3.0), (-3.0, 8.0)])
    path = written_to(tmp_path, "sun.fits", data)
    for mode in ("partial", "trim", "strict"):
        found = dask_fits.cutouts(path, positions, (11, 8), mode=mode)
        assert_as_astropy(found, by_astropy([known(data)], positions, (11, 8), mode))


CUBES: dict[str, tuple[Keywords, tuple[int, ...]]] = {
    "spectrum last": (spectral("RA", "DEC", "FREQ"), (5, 18, 24)),
    "four axes": (spectral("RA", "DEC", "FREQ", "STOKES"), (2, 3, 18, 24)),
    "spectrum first": (spectral("FREQ", "RA", "DEC"), (18, 24, 5)),
    "spectrum between": (spectral("RA", "FREQ", "DEC"), (18, 5, 24)),
}


@pytest.mark.untraced
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
@pytest.mark.parametrize("name", CUBES)
def test_cubes(tmp_path: Path, name: str, mode: Any, packed: bool) -> None:
    keywords, shape = CUBES[name]
    pixels = np.random.default_rng(9).integers(0, 900, shape).astype("i4")
    tile = (1,) * (len(shape) - 2) + (5, 7)
    packing = {"compression_type": "RICE_1", "tile_shape": tile} if packed else {}
    data = content(pixels, keywords, **packing)
    image = known(data)
    axes = sky_axes(image.wcs, pixels.ndim)
    flat = image.wcs.celestial
    positions = SkyCoord(
        *flat.all_pix2world([[4.2, 9.2], [1.2, 1.7], [22.7, 16.7], [-1.3, 0.2]], 0).T * u.deg
    )
    found = dask_fits.cutouts(
        written_to(tmp_path, "a.fits", data), positions, (6, 5), mode=mode, fill_value=-1
    )
    planes = np.moveaxis(pixels, axes, (-2, -1))
    expected = by_astropy([Known(planes, image.wcs)], positions, (6, 5), mode, -1)
    assert [row.status for row in expected] == ["ok", "partial", "partial", "partial"]
    shown = np.moveaxis(found.data.compute(scheduler="sync"), [1 + a for a in axes], (-2, -1))
    assert found.data.shape[1:] == tuple(
        {axes[0]: 6, axes[1]: 5}.get(axis, length) for axis, length in enumerate(shape)
    )
    for row, one in enumerate(expected):
        assert same_bits(shown[row], one.pixels)
        assert found.status[row] == one.status
        wcs = found.wcs[row]
        assert wcs.naxis == len(shape)
        assert np.array_equal(wcs.celestial.wcs.crpix, one.wcs.wcs.crpix)
        assert wcs.sub(["spectral"]).to_header_string() == (
            image.wcs.sub(["spectral"]).to_header_string()
        )


# Several files and HDUs


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Known]]:
    """Two images that overlap, one elsewhere, and one that covers them all."""
    root = tmp_path_factory.mktemp("overlapping")
    wide = {"CD1_1": -5e-3, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 5e-3}
    keywords = [TAN, TAN | {"CRVAL1": 10.04}, TAN | {"CRVAL2": 21.5}, SIP | wide]
    contents = [content(FLOATS + n, each) for n, each in enumerate(keywords)]
    contents[1] = content(FLOATS + 1, keywords[1], compression_type="GZIP_1", tile_shape=(9, 80))
    names = [f"{name}.fits" for name in "abcd"]
    paths = [written_to(root, n, data) for n, data in zip(names, contents, strict=True)]
    return paths, [known(data) for data in contents]


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["partial", "trim", "strict"])
@pytest.mark.parametrize("chunk", ["128 MiB", "2 kiB"])
def test_rows_are_by_position_and_then_by_file(
    overlapping: tuple[list[str], list[Known]], mode: Any, chunk: str
) -> None:
    paths, images = overlapping
    parts = [on_the_sky(image.wcs, n, 12) for n, image in enumerate(images)]
    positions = together(*parts, FAR)
    order = np.random.default_rng(2).permutation(len(positions))
    positions = positions[order]
    far = np.flatnonzero(order >= len(order) - len(FAR)).tolist()
    with dask.config.set({"array.chunk-size": chunk}):
        found = dask_fits.cutouts(paths, positions, (12, 9), mode=mode)
    expected = by_astropy(images, positions, (12, 9), mode, far=far)
    assert {row.file for row in expected} == {-1, 0, 1, 2, 3}
    assert found.files == tuple(paths)
    assert dict(found.failures) == {}
    assert (found.data.chunksize[0] < 10) == (chunk == "2 kiB")
    assert_as_astropy(found, expected)
    again = dask_fits.cutouts(paths[::-1], positions, (12, 9), mode=mode)
    assert again.status.tolist().count("ok") == found.status.tolist().count("ok")


def test_pixel_positions_are_cut_out_of_every_file(
    overlapping: tuple[list[str], list[Known]],
) -> None:
    paths, images = overlapping
    positions = [(5, 5), (500, 5), (79, 59)]
    found = dask_fits.cutouts(paths, positions, 10)
    assert_as_astropy(found, by_astropy(images, positions, 10))
    assert found.file.tolist() == [0, 1, 2, 3] * 3


def test_files_may_come_in_many_ways(
    overlapping: tuple[list[str], list[Known]], tmp_path: Path
) -> None:
    paths, images = overlapping
    root = Path(paths[0]).parent
    expected = by_astropy(images, [(30.0, 30.0)], 8)
    ways: list[Any] = [
        paths,
        tuple(paths),
        (path for path in paths),
        map(Path, paths),
        [dask_fits.open(path) for path in paths],
        [paths[0], Path(paths[1]), dask_fits.open(paths[2]), f"file://{paths[3]}"],
        str(root / "*.fits"),
        root / "*.fits",
        [str(root / "[ab]*.fits"), paths[2], root / "d*"],
    ]
    for way in ways:
        found = dask_fits.cutouts(way, [(30.0, 30.0)], 8)
        assert [Path(name).name for name in found.files] == ["a.fits", "b.fits", "c.fits", "d.fits"]
        assert_as_astropy(found, expected, worlds=1)
    for one in (paths[0], Path(paths[0]), dask_fits.open(paths[0])):
        found = dask_fits.cutouts(one, (30.0, 30.0), 8)
        assert_as_astropy(found, by_astropy(images[:1], [(30.0, 30.0)], 8))
    twice = dask_fits.cutouts([paths[0], paths[0]], (30.0, 30.0), 8)
    assert_as_astropy(twice, by_astropy([images[0]] * 2, [(30.0, 30.0)], 8))
    with pytest.raises(FitsFileNotFoundError, match="no file that matches"):
        dask_fits.cutouts(str(tmp_path / "*.fits"), (3, 3), 8)


def test_remote_files_by_a_pattern(overlapping: tuple[list[str], list[Known]]) -> None:
    for path in overlapping[0]:
        put(f"survey/{Path(path).name}", Path(path).read_bytes())
    found = dask_fits.cutouts("recording://survey/*.fits", [(30.0, 30.0)], 8)
    assert found.files == tuple(f"recording:///survey/{name}.fits" for name in "abcd")
    assert_as_astropy(found, by_astropy(overlapping[1], [(30.0, 30.0)], 8))


def test_progress_is_told_of(overlapping: tuple[list[str], list[Known]]) -> None:
    told: list[tuple[int, int]] = []
    dask_fits.cutouts(overlapping[0], (3, 3), 8, progress=lambda *n: told.append(n))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def several_hdus(root: Path) -> tuple[list[str], list[dict[Any, Known]]]:
    """Science, mask and variance of three files; the second has no mask, the third one only."""

    def image(pixels: np.ndarray, name: str, ver: int = 1, **packing: Any) -> Any:
        kind = fits.CompImageHDU if packing else fits.ImageHDU
        made = kind(pixels, fits.Header(TAN), name=name, **packing)
        made.ver = ver
        return made

    masks = (INTEGERS == 99).astype("u1")
    packing = {"compression_type": "RICE_1", "tile_shape": (20, 20)}
    whole = [image(FLOATS, "SCI"), image(masks, "MASK", **packing), image(FLOATS * 2, "SCI", 2)]
    other = [image(FLOATS + 1, "SCI"), image(FLOATS * 3, "SCI", 2)]
    contents = [written(*whole), written(*other), written(image(masks + 5, "MASK"))]
    paths = [written_to(root, f"{n}.fits", data) for n, data in enumerate(contents)]
    keys: list[list[Any]] = [["SCI", "MASK", ("SCI", 2)], ["SCI", ("SCI", 2)], ["MASK"]]
    known_ones = [
        {key: known(data, key) for key in some} for data, some in zip(contents, keys, strict=True)
    ]
    return paths, known_ones


@pytest.mark.untraced
def test_several_hdus_make_an_axis_of_their_own(tmp_path: Path) -> None:
    paths, images = several_hdus(tmp_path)
    positions = on_the_sky(images[0]["SCI"].wcs, 8, 15)
    keys: list[Any] = ["SCI", "MASK", ("SCI", 2)]
    found = dask_fits.cutouts(paths, positions, (9, 6), hdus=keys, fill_value=7)
    pixels = found.data.compute(scheduler="sync")
    assert found.data.shape == (len(found), 3, 9, 6)
    assert found.data.dtype == np.float32, "of float32 and uint8"
    assert set(found.failures) == {paths[1], paths[2]}
    assert all(isinstance(error, HduNotFoundError) for error in found.failures.values())
    assert found.status.shape == found.error.shape == (len(found), 3)
    for slot, key in enumerate(keys):
        for row, (position, file) in enumerate(zip(found.position, found.file, strict=True)):
            if file < 0:
                assert found.status[row, slot] in ("off", "failed")
                continue
            if key not in images[file]:
                assert found.status[row, slot] == "failed"
                assert isinstance(found.error[row, slot], HduNotFoundError)
                assert paths[file] in str(found.error[row, slot])
                assert found.wcs[row, slot] is None
                assert (pixels[row, slot] == 7).all()
                continue
            one = one_by_astropy(images[file][key], positions[position], (9, 6), "partial", 7)
            assert one is not None
            assert found.status[row, slot] == one.status
            assert found.error[row, slot] is None
            assert same_bits(pixels[row, slot], one.pixels.astype("f4"))
            assert_same_wcs(found.wcs[row, slot], one.wcs)
    assert {"ok", "partial", "failed"} <= set(found.status.ravel().tolist())


def test_one_hdu_by_name_version_or_index_makes_no_axis(tmp_path: Path) -> None:
    paths, images = several_hdus(tmp_path)
    keys: list[Any] = ["SCI", ("SCI", 2), 3, "sci", -1]
    for key, name in zip(keys, ["SCI", ("SCI", 2), ("SCI", 2), "SCI", ("SCI", 2)], strict=True):
        found = dask_fits.cutouts(paths[0], (3, 30), 8, hdus=key)
        assert found.data.shape == (1, 8, 8)
        assert_as_astropy(found, by_astropy([images[0][name]], [(3, 30)], 8))
        listed = dask_fits.cutouts(paths[0], (3, 30), 8, hdus=[key])
        assert listed.data.shape == (1, 1, 8, 8)
        assert listed.status.shape == (1, 1)
        assert same_bits(listed.data.compute()[:, 0], found.data.compute())
    with pytest.raises(ValueError, match="hdus: expected at least one"):
        dask_fits.cutouts(paths[0], (3, 30), 8, hdus=[])


def test_a_version_that_numpy_counts(tmp_path: Path) -> None:
    paths, _ = several_hdus(tmp_path)
    key: Any = ("SCI", np.int64(2))
    found = dask_fits.cutouts(paths[0], (3, 30), 8, hdus=key)
    assert found.data.shape == (1, 8, 8)


def test_a_table_and_an_empty_header_are_no_images(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("X", "J", array=[1, 2])], name="T")
    data = written(fits.ImageHDU(FLOATS, fits.Header(TAN), name="SCI"), table)
    path = written_to(tmp_path, "a.fits", data)
    found = dask_fits.cutouts(path, (9, 9), 4, hdus=["SCI", "T", 0])
    assert found.status.tolist() == [["ok", "failed", "failed"]]
    assert [type(error) for error in found.error[0][1:]] == [NotAnImageError, NotAnImageError]
    for hdus in ("T", 0, ["T", 0]):
        with pytest.raises(NotAnImageError):
            dask_fits.cutouts(path, (9, 9), 4, hdus=hdus)
    spectrum = written_to(tmp_path, "b.fits", content(FLOATS[0], {}))
    with pytest.raises(NotAnImageError, match="needs two axes"):
        dask_fits.cutouts(spectrum, (9, 9), 4)


def test_images_of_different_types_have_one_that_holds_both(tmp_path: Path) -> None:
    contents = [content(INTEGERS, TAN), content(INTEGERS.astype("i4") + 70_000, TAN)]
    paths = [written_to(tmp_path, f"{n}.fits", data) for n, data in enumerate(contents)]
    found = dask_fits.cutouts(paths, [(9, 9), (0, 0)], 4, fill_value=-7)
    assert found.data.dtype == np.int32
    assert_as_astropy(
        found, by_astropy([known(data) for data in contents], [(9, 9), (0, 0)], 4, fill=-7)
    )
    floats = written_to(tmp_path, "f.fits", content(FLOATS.astype("f8"), TAN))
    assert dask_fits.cutouts([paths[0], floats], (9, 9), 4).data.dtype == np.float64


# What fails, and what does not because of it

WHOLE = content(FLOATS, TAN)


def test_positions_that_are_none(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    nan, inf = np.nan, np.inf
    pixels = [(nan, 3), (3, inf), (-inf, nan), (9, 9)]
    found = dask_fits.cutouts([path, path], pixels, 4)
    assert found.position.tolist() == [0, 1, 2, 3, 3]
    assert found.status.tolist() == ["failed", "failed", "failed", "ok", "ok"]
    assert found.file.tolist() == [-1, -1, -1, 0, 1]
    sky = SkyCoord([nan, 10, 10], [20, nan, 20], unit="deg")
    again = dask_fits.cutouts(path, sky, 4)
    assert again.status.tolist() == ["failed", "failed", "ok"]
    for one, rows in ((found, (0, 1, 2)), (again, (0, 1))):
        for row in rows:
            assert isinstance(one.error[row], ValueError)
            assert f"position {one.position[row]}: expected finite" in str(one.error[row])
            assert one.wcs[row] is None
            assert np.isnan(one.data[row].compute()).all()
    assert same_bits(found.data[3].compute(), FLOATS[7:11, 7:11])


def test_the_last_positions_are_none(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    for pixels in ([(9, 9), (np.nan, 3)], [(np.nan, np.nan)]):
        found = dask_fits.cutouts(path, pixels, 4)
        assert found.status[-1] == "failed"
        assert isinstance(found.error[-1], ValueError)


def test_positions_on_the_sky_need_celestial_coordinates(tmp_path: Path) -> None:
    plain = written_to(tmp_path, "plain.fits", content(FLOATS, {}))
    path = written_to(tmp_path, "a.fits", WHOLE)
    sky = known(WHOLE).wcs.pixel_to_world([30, 300], [30, 300])
    found = dask_fits.cutouts([plain, path], sky, 4)
    assert found.status.tolist() == ["ok", "failed"]
    assert found.file.tolist() == [1, -1]
    assert "celestial" in str(found.failures[plain])
    assert plain in str(found.failures[plain])
    assert "on none of the images that could be read; 1 could not" in str(found.error[1])
    with pytest.raises(FitsError, match="celestial"):
        dask_fits.cutouts(plain, sky, 4)
    with pytest.raises(FitsError, match="celestial"):
        dask_fits.cutouts(plain, (9, 9), 4 * u.arcsec)
    assert dask_fits.cutouts(plain, (9, 9), 4).status.tolist() == ["ok"]


def test_an_hdu_that_no_file_has(overlapping: tuple[list[str], list[Known]]) -> None:
    for hdus in ("SCI", 9, ["SCI", ("SCI", 3)]):
        with pytest.raises(HduNotFoundError, match=r"a\.fits"):
            dask_fits.cutouts(overlapping[0], (9, 9), 4, hdus=hdus)


def damaged_files(root: Path) -> dict[str, str]:
    """Files of which each is unusable in its own way, among whole ones."""
    contents = {
        "0 whole": WHOLE,
        "1 text": b"this is no FITS file" * 200,
        "2 empty": b"",
        "3 cut within the header": WHOLE[:1000],
        "4 whole": content(FLOATS + 4, TAN),
        "5 bad WCS": content(FLOATS, TAN | {"CTYPE1": "RA---TAN", "CTYPE2": "RA---TAN"}),
        "6 no image": written(fits.PrimaryHDU(), fits.ImageHDU()),
        "7 web page": b"<!DOCTYPE html><html></html>",
        "8 whole": content(FLOATS + 8, TAN),
    }
    paths = {name: written_to(root, f"{name}.fits", data) for name, data in contents.items()}
    return paths | {"9 missing": str(root / "missing.fits")}


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_files_that_cannot_be_used_leave_the_others_alone(tmp_path: Path) -> None:
    paths = damaged_files(tmp_path)
    whole = [n for n, name in enumerate(paths) if "whole" in name]
    sky = known(WHOLE).wcs.pixel_to_world([30, 0, 700], [30, 0, 700])
    found = dask_fits.cutouts(paths.values(), sky, 6)
    assert found.position.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert found.file.tolist() == [*whole, *whole, -1]
    assert found.status.tolist() == ["ok"] * 3 + ["partial"] * 3 + ["failed"]
    assert list(found.failures) == [path for name, path in paths.items() if "whole" not in name]
    for name, error in found.failures.items():
        assert isinstance(error, FitsError)
        assert Path(name).name in str(error)
    assert isinstance(found.failures[paths["9 missing"]], FitsFileNotFoundError)
    assert isinstance(found.failures[paths["1 text"]], FitsFormatError)
    assert isinstance(found.failures[paths["6 no image"]], NotAnImageError)
    assert "7 could not, the first" in str(found.error[6])
    pixels = found.data.compute()
    for row, n in enumerate(whole):
        assert same_bits(pixels[row], (FLOATS + np.float32(4 * row))[27:33, 27:33])
        assert found.files[n] == list(paths.values())[n]
    # Where the positions are pixels, every file has its rows.
    rows = dask_fits.cutouts(paths.values(), (30, 30), 6)
    assert len(rows) == len(paths)
    # A box of pixels needs no WCS.
    bad_wcs = list(paths).index("5 bad WCS")
    assert np.flatnonzero(rows.status == "ok").tolist() == sorted([*whole, bad_wcs])
    for row in np.flatnonzero(rows.status == "failed"):
        assert rows.error[row] is rows.failures[rows.files[row]]
    first = dask_fits.cutouts(list(paths.values())[::-1], sky, 6)
    assert first.status.tolist() == found.status.tolist(), "whichever file comes first"


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_where_no_file_can_be_used_the_first_one_says_why(tmp_path: Path) -> None:
    paths = damaged_files(tmp_path)
    bad = [path for name, path in paths.items() if "whole" not in name and "WCS" not in name]
    for size in (4, 4 * u.arcsec):
        with pytest.raises(FitsFormatError, match="1 text"):
            dask_fits.cutouts(bad, (3, 3), size)
        with pytest.raises(FitsFileNotFoundError, match="missing"):
            dask_fits.cutouts(bad[::-1], (3, 3), size)


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_of_a_truncated_file_the_rows_that_are_there_can_be_read(tmp_path: Path) -> None:
    end = 2 * 2880 + 30 * NX * 4
    assert WHOLE.index(FLOATS.astype(">f4").tobytes()) == 2880
    cut = written_to(tmp_path, "cut.fits", WHOLE[: end - 2880])
    path = written_to(tmp_path, "a.fits", WHOLE)
    positions = [(20, 15), (20, 29), (70, 50), (0, 0)]
    found = dask_fits.cutouts([cut, path], positions, 6)
    assert found.status.tolist() == [
        "ok",
        "ok",
        "failed",
        "ok",
        "failed",
        "ok",
        "partial",
        "partial",
    ]
    assert dict(found.failures) == {}
    for row in (2, 4):
        assert isinstance(found.error[row], TruncatedFileError)
        assert "cut.fits" in str(found.error[row])
    pixels = found.data.compute()
    assert same_bits(pixels[0], FLOATS[12:18, 17:23])
    assert np.isnan(pixels[[2, 4]]).all()
    assert same_bits(pixels[[0, 6]], pixels[[1, 7]])


RICE_TILES = {"zcmptype": "GZIP_1", "tile": (10, 20)}


def compressed(row: int | None, *, descriptor: bool = False) -> bytes:
    """An image in 6 by 4 tiles; the bytes or the descriptor of one damaged."""
    cards = [(keyword, value) for keyword, value in TAN.items() if keyword[:2] != "CD"]
    parts = tiled_parts(INTEGERS, **RICE_TILES, cards=cards)
    if row is not None and descriptor:
        parts.column("COMPRESSED_DATA")[row] = 100, 1 << 30
    elif row is not None:
        parts.heap[parts.span(row)] = b"\x5a" * (parts.span(row).stop - parts.span(row).start)
    return parts.build()


def test_a_damaged_tile_spoils_only_what_needs_it(tmp_path: Path) -> None:
    """Tile 6 has rows 10 to 20 and columns 40 to 60."""
    path = written_to(tmp_path, "bad.fits", compressed(6))
    other = written_to(tmp_path, "good.fits", compressed(None))
    positions = [(50, 15), (10, 5), (38, 12), (50, 30), (62, 9)]
    with dask.config.set({"array.chunk-size": 8 * 8 * 2}):
        found = dask_fits.cutouts([path, other], positions, 8, fill_value=0)
    assert set(found.status) == {"ok"}, "no pixels have been read"
    bad = [0, 4, 8]
    for row in range(len(found)):
        x, y = positions[found.position[row]]
        if row in bad:
            with pytest.raises(FitsFormatError, match=r"bad\.fits"):
                found.data[row].compute()
        else:
            pixels = INTEGERS[y - 4 : y + 4, x - 4 : x + 4]
            assert same_bits(found.data[row].compute(), pixels), row
    with pytest.raises(FitsFormatError, match=r"bad\.fits"):
        found.data.compute()


def test_a_damaged_descriptor_fails_only_what_needs_it(tmp_path: Path) -> None:
    path = written_to(tmp_path, "bad.fits", compressed(6, descriptor=True))
    found = dask_fits.cutouts(path, [(50, 15), (10, 5), (38, 12), (50, 30)], 8, fill_value=-1)
    assert found.status.tolist() == ["failed", "ok", "failed", "ok"]
    for row in (0, 2):
        assert isinstance(found.error[row], FitsFormatError)
        assert "bad.fits" in str(found.error[row])
    pixels = found.data.compute()
    assert (pixels[[0, 2]] == -1).all()
    assert same_bits(pixels[1], INTEGERS[1:9, 6:14])
    assert same_bits(pixels[3], INTEGERS[26:34, 46:54])


@pytest.mark.parametrize("size", [0, -3, (4, 0), 0.2, np.nan, np.inf, (1, 2, 3), 0 * u.arcsec, "a"])
def test_sizes_that_are_none(tmp_path: Path, size: Any) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    with pytest.raises((ValueError, TypeError)):
        dask_fits.cutouts(path, (9, 9), size)


@pytest.mark.parametrize("size", [1 << 40, 1e30, 1e9 * u.deg], ids=["2^40", "1e30", "degrees"])
def test_a_size_that_is_a_mistake(tmp_path: Path, size: Any) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    with pytest.raises(ValueError, match="size"):
        dask_fits.open(path)[0].cutout((9, 9), size, mode="partial")
    with pytest.raises(ValueError, match="size"):
        dask_fits.cutouts(path, (9, 9), size)


def test_a_size_larger_than_the_image(tmp_path: Path) -> None:
    path, image = written_to(tmp_path, "a.fits", WHOLE), known(WHOLE)
    for mode in ("partial", "trim", "strict"):
        found = dask_fits.cutouts(path, [(9, 9), (40, 30)], (200, 300), mode=mode)
        expected = by_astropy([image], [(9, 9), (40, 30)], (200, 300), mode)
        assert_as_astropy(found, expected)


def test_no_positions_and_no_files(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    for none in (np.empty((0, 2)), SkyCoord([], [], unit="deg")):
        found = dask_fits.cutouts([path, path], none, (4, 5))
        assert len(found) == len(found.wcs) == 0
        assert found.data.shape == (0, 4, 5)
        assert found.data.compute().shape == (0, 4, 5)
        assert found.status.shape == found.error.shape == found.file.shape == (0,)
        assert found.plan.requests == 0
        assert "none" in repr(found)
    for files in ([], (), iter([])):
        with pytest.raises(ValueError, match="files: expected at least one, found none"):
            dask_fits.cutouts(files, (3, 3), 4)


@pytest.mark.parametrize("positions", [3.0, [1, 2, 3], [(1, 2, 3)], [[[1, 2]]]])
def test_positions_of_another_shape(tmp_path: Path, positions: Any) -> None:
    with pytest.raises(ValueError, match="positions: expected a SkyCoord or an"):
        dask_fits.cutouts(written_to(tmp_path, "a.fits", WHOLE), positions, 4)


def test_positions_of_one_and_of_a_grid(tmp_path: Path) -> None:
    path, image = written_to(tmp_path, "a.fits", WHOLE), known(WHOLE)
    sky = image.wcs.pixel_to_world(*np.meshgrid([9.2, 30.2], [12.3, 40.2, 50.4]))
    assert sky.shape == (3, 2)
    assert_as_astropy(dask_fits.cutouts(path, sky, 4), by_astropy([image], sky.ravel(), 4))
    one = image.wcs.pixel_to_world(30.2, 20.2)
    expected = by_astropy([image], one.reshape(1), 4)
    assert_as_astropy(dask_fits.cutouts(path, one, 4), expected)


def test_a_mode_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode: expected one of trim, partial, strict"):
        dask_fits.cutouts(written_to(tmp_path, "a.fits", WHOLE), (3, 3), 4, mode="full")


def test_integers_have_no_nan_where_something_has_to_be_filled(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", content(INTEGERS, TAN))
    found = dask_fits.cutouts(path, [(9, 9), (30, 30)], 4)
    assert same_bits(found.data.compute()[0], INTEGERS[7:11, 7:11])
    sky = SkyCoord([10.0, 100.0], [20.0, 20.0], unit="deg")
    for positions in ([(9, 9), (0, 0)], [(np.nan, 3), (9, 9)], [(9, 9), (900, 3)], sky):
        for mode in ("partial", "trim", "strict"):
            with pytest.raises(ValueError, match=r"fill_value: expected a value of .* int16"):
                dask_fits.cutouts(path, positions, 4, mode=mode)
        assert len(dask_fits.cutouts(path, positions, 4, fill_value=0)) == 2
    for fill in (1e6, "x", None):
        with pytest.raises(ValueError, match="fill_value"):
            dask_fits.cutouts(path, (0, 0), 4, fill_value=fill)


def test_cubes_of_another_depth(tmp_path: Path) -> None:
    keywords = spectral("RA", "DEC", "FREQ")
    depths = [5, 4, 5]
    paths = [
        written_to(tmp_path, f"{n}.fits", content(np.full((d, 18, 24), n, "f4"), keywords))
        for n, d in enumerate(depths)
    ]
    flat = written_to(tmp_path, "flat.fits", content(FLOATS, TAN))
    found = dask_fits.cutouts([*paths, flat], (9, 9), (4, 6))
    assert found.data.shape == (4, 5, 4, 6)
    assert found.status.tolist() == ["ok", "failed", "ok", "failed"]
    assert set(found.failures) == {paths[1], flat}
    said = str(found.error[1])
    assert "found cutouts of shape (4, 4, 6), expected (5, 4, 6)" in said
    assert paths[1] in said
    assert paths[0] in said
    pixels = found.data.compute()
    assert (pixels[[0, 2]] == np.array([0, 2])[:, None, None, None]).all()
    assert np.isnan(pixels[[1, 3]]).all()


def test_a_cube_without_planes_among_others(tmp_path: Path) -> None:
    keywords = spectral("RA", "DEC", "FREQ")
    empty = written_to(tmp_path, "e.fits", content(np.zeros((0, 18, 24), "f4"), keywords))
    path = written_to(tmp_path, "a.fits", content(np.ones((2, 18, 24), "f4"), keywords))
    found = dask_fits.cutouts([path, empty], (9, 9), 4)
    assert found.status.tolist() == ["ok", "failed"]
    assert (found.data[0].compute() == 1).all()
    alone = dask_fits.cutouts(empty, (9, 9), 4)
    assert alone.data.compute().shape == (1, 0, 4, 4)


def test_an_image_without_rows(tmp_path: Path) -> None:
    path = written_to(tmp_path, "e.fits", content(np.zeros((0, 24), "f4"), TAN))
    assert dask_fits.cutouts(path, (9, 9), 4).status.tolist() == ["off"]
    sky = SkyCoord(10.0, 20.0, unit="deg")
    assert dask_fits.cutouts(path, sky, 4).status.tolist() == ["off"]


def test_an_angle_that_is_another_number_of_pixels(tmp_path: Path) -> None:
    def path(name: str, factor: float) -> str:
        scaled = {k: v * factor if k.startswith("CD") else v for k, v in TAN.items()}
        return written_to(tmp_path, f"{name}.fits", content(FLOATS, scaled))

    paths = [path("first", 1), path("as good as", 1.04), path("coarse", 2), path("plain", 1)]
    found = dask_fits.cutouts(paths, (30, 30), 40 * u.arcsec)
    assert found.data.shape == (4, 11, 10)
    assert found.status.tolist() == ["ok", "ok", "failed", "ok"]
    assert set(found.failures) == {paths[2]}
    assert "coarse.fits" in str(found.error[2])
    assert "size: found 5 x 5 pixels, expected about as many as the 11 x 10" in str(found.error[2])
    assert dask_fits.cutouts(paths, (30, 30), 11).status.tolist() == ["ok"] * 4


def test_repr(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    found = dask_fits.cutouts(path, [(9, 9), (30, 30), (0, 0), (300, 0)], 4)
    nbytes, requests = found.plan.bytes, found.plan.requests
    assert repr(found) == (
        f"<Cutouts (4, 4, 4) float32: 1 off, 2 ok, 1 partial; {requests} requests, {nbytes} bytes>"
    )


def test_names_of_files_hold_no_credentials(range_server: RangeServer) -> None:
    url = range_server.url.replace("http://", "http://me:hush@")
    found = dask_fits.cutouts([f"{url}/m13.fits", f"{url}/none.fits"], (9, 9), 4)
    assert "hush" not in str(found.failures[found.files[1]])
    assert not any("hush" in name for name in (*found.files, *found.failures))


# Lazy


def test_planning_reads_no_pixels_and_computing_what_is_planned() -> None:
    urls = [put(f"{n}.fits", content(np.tile(FLOATS, (8, 8)) + n, TAN)) for n in range(3)]
    files = [dask_fits.open(url) for url in urls]
    LOG.clear()
    found = dask_fits.cutouts(files, [(100, 200), (110, 205), (500, 400)], 20)
    data = found.data[1:, :10] + 1
    pickle.dumps(found.data)
    assert repr(found)
    assert LOG == []
    found.data.compute(scheduler="sync")
    ranges = RecordingFileSystem.ranges()
    assert sorted(ranges) == sorted((r.start, r.stop) for r in found.plan.ranges)
    assert RecordingFileSystem.nbytes() == found.plan.bytes
    assert found.plan.requests == len(ranges)
    assert found.plan.useful_bytes == 3 * 4 * ((20 * 20 * 3) - 15 * 10)
    assert sum(chunk.requests for chunk in found.plan.chunks) == len(ranges)
    assert data.shape == (8, 10, 20)


def test_a_row_reads_only_the_bundles_that_it_needs() -> None:
    urls = [put(f"{n}.fits", content(np.tile(FLOATS, (8, 8)) + n, TAN)) for n in range(40)]
    files = [dask_fits.open(url) for url in urls]
    with dask.config.set({"array.chunk-size": 20 * 20 * 4}):
        found = dask_fits.cutouts(files, (300, 200), 20)
    assert found.data.npartitions == 40
    assert len(found.plan.chunks) == 3, "bundles of 16, 16 and 8 files"
    LOG.clear()
    expected = np.tile(FLOATS, (8, 8))[190:210, 290:310]
    assert same_bits(found.data[39].compute(scheduler="sync"), expected + np.float32(39))
    assert len(RecordingFileSystem.ranges()) == found.plan.chunks[2].requests == 8
    LOG.clear()
    assert same_bits(found.data[3].compute(scheduler="sync"), expected + np.float32(3))
    assert len(RecordingFileSystem.ranges()) == found.plan.chunks[0].requests == 16


def test_the_name_tells_everything_apart_that_changes_the_pixels(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    other = written_to(tmp_path, "b.fits", WHOLE)
    two = written(fits.ImageHDU(FLOATS), fits.ImageHDU(FLOATS))
    third = written_to(tmp_path, "c.fits", two)

    def name(files: Any = path, positions: Any = (1, 2), size: Any = 8, **options: Any) -> str:
        return dask_fits.cutouts(files, positions, size, **options).data.name

    names = [
        name(),
        name(positions=(1, 4)),
        name(positions=[(1, 2), (1, 2)]),
        name(positions=(-1, -2)),
        name(size=9),
        name(size=(8, 9)),
        name(mode="trim"),
        name(mode="strict"),
        name(fill_value=0),
        name(fill_value=-1),
        name(hdus=[0]),
        name(other),
        name([path, other]),
        name([other, path]),
        name(third, hdus=1),
        name(third, hdus=2),
        name(third, hdus=[1, 2]),
        name(third, hdus=[2, 1]),
        name(third, hdus=[1, 9]),
        name(third, hdus=[9, 1]),
        name(written_to(tmp_path, "d.fits", content(INTEGERS, TAN)), fill_value=0),
    ]
    assert name() == name(Path(path)) == name(dask_fits.open(path)) == names[0]
    os.utime(path, ns=(1, 1))
    names.append(name())
    Path(path).write_bytes(WHOLE + bytes(2880))
    os.utime(path, ns=(1, 1))
    names.append(name())
    assert len(set(names)) == len(names)


def test_the_graph_holds_no_pixels() -> None:
    """1,000 cutouts: of plain images some 200 bytes each, of compressed ones the tiles once."""
    rng = np.random.default_rng(1)
    big = np.tile(FLOATS, (10, 10))
    positions = rng.uniform(40, 500, (500, 2))
    packing = {"compression_type": "RICE_1", "tile_shape": (64, 64)}
    for options in ({}, packing):
        urls = [put(f"{n}.fits", content(np.nan_to_num(big), TAN, **options)) for n in range(2)]
        found = dask_fits.cutouts(urls, positions, 64)
        assert found.data.nbytes > 16_000_000
        assert len(cloudpickle.dumps(found.data)) < 400_000
        assert len(dict(found.data.dask)) < 40  # 16 chunks


def test_a_dense_catalogue_is_read_in_small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutouts that are many times what they are made of; no task makes more than some of them."""
    big = np.nan_to_num(np.tile(FLOATS, (10, 10)))
    positions = np.random.default_rng(3).uniform(30, 500, (3000, 2))
    for options in ({}, {"compression_type": "RICE_1", "tile_shape": (8, big.shape[1])}):
        url = put("dense.fits", content(big, TAN, **options))
        pixels = known(content(big, TAN, **options)).pixels
        expected = dask_fits.cutouts(url, positions, 32)
        assert len(expected.plan.chunks) == 1
        with monkeypatch.context() as patch:
            patch.setattr("dask_fits.many_cutouts.reads.BATCH_BYTES", 200_000)
            patch.setattr("dask_fits.many_cutouts.reads._MIN_BATCH_BYTES", 20_000)
            patch.setattr("dask_fits.many_cutouts.tasks.BATCH_BYTES", 200_000)
            found = dask_fits.cutouts(url, positions, 32)
        assert len(found.plan.chunks) > 5
        ranges = sorted(found.plan.ranges)
        assert all(one.stop <= other.start for one, other in itertools.pairwise(ranges))
        assert max(wanted.nbytes for wanted in ranges) < 60_000
        assert same_bits(found.data.compute(), expected.data.compute())
        one = Cutout2D(pixels, tuple(positions[7]), 32, mode="partial")
        assert same_bits(found.data[7].compute(), one.data)


# Schedulers


@pytest.fixture
def job(overlapping: tuple[list[str], list[Known]]) -> tuple[Any, list[Expected]]:
    """Cutouts of which each chunk needs several files, and each file is in several chunks."""
    paths, images = overlapping
    positions = on_the_sky(images[0].wcs, 6, 30)
    with dask.config.set({"array.chunk-size": "2 kiB"}):
        found = dask_fits.cutouts(paths, positions, (10, 8))
    assert found.data.npartitions > 3
    return found, by_astropy(images, positions, (10, 8))


def test_a_cluster_gives_the_same(job: tuple[Any, list[Expected]], client: Client) -> None:
    found, expected = job
    pixels = client.compute(found.data).result()
    assert_as_astropy(found, expected, worlds=1, pixels=pixels)
    assert [wcs is None for wcs in found.wcs] == [row.wcs is None for row in expected]
    largest = client.compute(found.data.max(axis=(1, 2))).result()
    assert same_bits(largest, pixels.max(axis=(1, 2)))


def test_a_cluster_says_which_file_is_damaged(tmp_path: Path, client: Client) -> None:
    path = written_to(tmp_path, "bad.fits", compressed(6))
    found = dask_fits.cutouts(path, [(50, 15), (10, 5)], 8)
    with pytest.raises(FitsFormatError, match=r"bad\.fits"):
        client.compute(found.data).result()


def test_a_scheduler_holds_tasks_as_bytes(tmp_path: Path) -> None:
    header = WCS(naxis=2).to_header()
    paths = [tmp_path / f"{n}.fits" for n in range(64)]
    for n, path in enumerate(paths):
        fits.PrimaryHDU(np.full((40, 30), n, "i2"), header).writeto(path)
    found = dask_fits.cutouts(paths, [(10, 20), (15, 15)], 8, fill_value=0)
    bundles = [task[1] for task in dict(found.data.dask).values() if task[0] is tasks.fetch]
    assert len(bundles) == 4
    packed = pickle.dumps(bundles)
    assert len(packed) < 64 * 500
    # What it does with them: neither taking them in nor handing them on makes the plans again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.zlib, "decompress", None)
        patch.setattr(tasks.zlib, "compress", None)
        assert pickle.dumps(pickle.loads(packed)) == packed
    cut = found.data.compute(scheduler="processes", num_workers=1)
    assert (cut == found.file[:, None, None]).all()
    assert len(np.unique(found.file)) == 64


def test_the_result_can_be_pickled(overlapping: tuple[list[str], list[Known]]) -> None:
    paths, images = overlapping
    found = pickle.loads(pickle.dumps(dask_fits.cutouts(paths, (30, 30), 8)))
    assert_as_astropy(found, by_astropy(images, [(30, 30)], 8))


def test_a_file_replaced_after_planning(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    other = written_to(tmp_path, "b.fits", WHOLE)
    with dask.config.set({"array.chunk-size": 256}):
        found = dask_fits.cutouts([other, path], (30, 30), 8)
    Path(path).write_bytes(content(FLOATS + 1, TAN))
    os.utime(path, ns=(1, 1))
    with pytest.raises(FileChangedError, match=r"a\.fits"):
        found.data.compute()
    with pytest.raises(FileChangedError, match=r"a\.fits"):
        found.data[1].compute()
    assert same_bits(found.data[0].compute(), FLOATS[26:34, 26:34])


def test_a_file_that_goes_after_planning(tmp_path: Path) -> None:
    path = written_to(tmp_path, "a.fits", WHOLE)
    found = dask_fits.cutouts(path, (30, 30), 8)
    Path(path).unlink()
    with pytest.raises(FitsFileNotFoundError, match=r"a\.fits"):
        found.data.compute()


def test_results_are_owned_and_writeable(overlapping: tuple[list[str], list[Known]]) -> None:
    found = dask_fits.cutouts(overlapping[0], (30, 30), 8)
    pixels = found.data.compute(scheduler="sync")
    assert pixels.flags.writeable
    pixels[:] = 0
    assert found.data.compute(scheduler="sync").any()


# Real files

REAL = [
    "aegean/small.fits",
    "astropy/sip-wcs.fits",
    "pocs/pole.fits",
    "pocs/solved.fits.fz",
    "legacypipe/c4d_150329_083320_ooi_r_ls9.N11.fits",
    "legacypipe/ksb_170430_055945_ooi_r_ls9.CCD4.fits",
    "legacypipe/ksb_170430_055945_ood_r_ls9.CCD4.fits",
    "astropy-data/gc_msx_e.fits",
    "astropy-data/l1448_13co.fits",
    "reproject/galactic_2d.fits",
    "reproject/equatorial_3d.fits",
    "reproject/aia_171_level1.fits",
    "pypi-sunpy/lasco_c2_25299383_s.fts",
    "punchbowl/test_data.fits",
    "dkist/efz20040301.000010_s.fits",
    "carta-backend/M17_SWex_unittest.fits",
    "carta-backend/small_perplanebeam.fits",
]


@needs_corpus
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("name", REAL)
def test_real_images(name: str) -> None:
    (entry,) = [entry for entry in COVERED if entry["file"] == name]
    with placed(entry) as (url, data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = known(data)
        ny, nx = image.pixels.shape[-2:]
        rng = np.random.default_rng(len(name))
        positions = rng.uniform(-5, [nx + 5, ny + 5], (25, 2))
        positions[0] = nx / 2 + 0.2, ny / 2 + 0.2
        size = max(ny // 7, 2), max(nx // 5, 3)
        fill = np.nan if image.pixels.dtype.kind == "f" else 3
        # Cutout2D wants a WCS of two axes, which not every header with two axes makes.
        cubed = image.pixels.ndim > 2 or image.wcs.naxis > 2
        for mode in ("partial", "trim", "strict"):
            found = dask_fits.cutouts(url, positions, size, mode=mode, fill_value=fill)
            flat = replace(image, wcs=image.wcs.celestial) if cubed else image
            expected = by_astropy([flat], positions, size, mode, fill)
            assert {row.status for row in expected} >= {"ok", "partial"}
            assert_as_astropy(found, expected, worlds=3)
        if image.wcs.has_celestial and "solar" not in str(entry["features"]):
            sky = flat.wcs.pixel_to_world(*positions[:15].T)
            found = dask_fits.cutouts(url, sky, size, fill_value=fill)
            assert_as_astropy(found, by_astropy([flat], sky, size, fill=fill), worlds=3)


def test_a_warning_of_a_truncated_file_is_given_once(tmp_path: Path) -> None:
    path = written_to(tmp_path, "cut.fits", WHOLE[:-2880])
    with pytest.warns(FitsWarning, match="truncated") as told:
        dask_fits.cutouts(path, (9, 9), 4)
    assert len(told) == 1
