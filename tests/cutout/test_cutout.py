"""`HDU.cutout`: the pixels, place and WCS of astropy's Cutout2D, lazy; and `WindowReader`."""

from __future__ import annotations

import itertools
import os
import pickle
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D, NoOverlapError, PartialOverlapError
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import HDU, CostModel, NotAnImageError, TransferConfig, TruncatedFileError
from dask_fits.arrays.lazy import lazy_array
from dask_fits.cutout import Cutout
from dask_fits.planning.selection import select
from dask_fits.readers import row_cache, tiled
from dask_fits.readers.row_cache import RowCache
from dask_fits.readers.window import WindowReader
from tests.servers.range_server import RangeServer
from tests.support import worlds as many_worlds
from tests.support.corpus import COVERED, needs_corpus, placed
from tests.support.fits_files import BLOCK, WatchedStore, primary, same_bits, watched_reader
from tests.support.patience import until
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
    TPV,
    Keywords,
    Known,
    assert_same_wcs,
    celestial,
    content,
    known,
    spectral,
    stored,
    written,
    written_to,
)
from tests.support.strategies import DTYPES, keys, pixels
from tests.support.tiled_files import tiled_file
from tests.support.traffic import asked

LOG = RecordingFileSystem.log
MODES = ["trim", "partial", "strict"]
OFF = (NoOverlapError, PartialOverlapError)

# What astropy mends in a header, it tells; and a position that it cannot invert.
pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore:All-NaN slice:RuntimeWarning"
)


# Against Cutout2D

WORLDS: dict[str, Keywords] = {
    "TAN": TAN,
    "SIP": SIP,
    "TPV": TPV,
    "SIN with PV": celestial("RA---SIN", "DEC--SIN") | {"PV2_1": 0.02, "PV2_2": -0.03},
    "CAR": celestial("GLON-CAR", "GLAT-CAR", (200.0, 0.0), 1e-2),
    "FK5": SKY["FK5"],
    "across RA = 0": SKY["across RA = 0"],
    "north pole": SKY["north pole"],
    "pixels that are not square": celestial("RA---TAN", "DEC--TAN") | {"CD2_2": 4e-3},
}
"""Images of which every position is one of astropy's too."""

PLAIN = WORLDS | {"solar": SOLAR, "swapped": SWAPPED, "not celestial": {}}

Image = tuple[HDU, Known]


class Images(dict[str, Image]):
    """Images by name, of which a failing example shows no more than that."""

    def __repr__(self) -> str:
        return f"<images: {', '.join(self)}>"


def image_of(root: Path, name: str, data: bytes) -> Image:
    """An image as ours, and as astropy has it."""
    return dask_fits.open(written_to(root, f"{name}.fits", data)).first_image(), known(data)


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = tmp_path_factory.mktemp("worlds")
    return Images({name: image_of(root, name, content(FLOATS, PLAIN[name])) for name in PLAIN})


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Images:
    root = tmp_path_factory.mktemp("kinds")
    more = {
        "scaled int32": stored(INTEGERS.astype("i4"), TAN, BSCALE=0.1, BZERO=-7.5),
        "scaled BLANK": stored(INTEGERS, TAN, BSCALE=0.5, BLANK=99),
        "int8": content(INTEGERS.astype("i1"), TAN),
        "uint32": content(INTEGERS.astype("u4"), TAN),
        "uint64": content(INTEGERS.astype("u8"), TAN),
        "HCOMPRESS": content(
            INTEGERS, TAN, compression_type="HCOMPRESS_1", tile_shape=(20, 20), hcomp_scale=0
        ),
    }
    return Images({name: image_of(root, name, data) for name, data in (KINDS | more).items()})


def assert_same_world(found: WCS, expected: WCS) -> None:
    assert found.to_header_string(relax=True) == expected.to_header_string(relax=True)
    at = np.array([[0.0, 0.0], [3.0, 7.5], [-2.0, 11.0]])
    assert same_bits(found.all_pix2world(at, 0), expected.all_pix2world(at, 0))


def assert_same_place(found: Cutout, expected: Cutout2D) -> None:
    assert found.slices == expected.slices_original
    assert all(type(end) is int for part in found.slices for end in (part.start, part.stop))
    assert found.data.shape == expected.shape
    assert found.wcs.array_shape == expected.wcs.array_shape == expected.shape
    assert_same_world(found.wcs, expected.wcs)


def assert_as_cutout2d(
    image: Image, position: Any, size: Any, mode: Any = "trim", fill: Any = np.nan
) -> None:
    """Compare a cutout with astropy's of the pixels in memory, or their errors."""
    hdu, (pixels, wcs) = image[0], (image[1].pixels, image[1].wcs)
    options = {"mode": mode, "fill_value": fill}
    try:
        expected = Cutout2D(pixels, position, size, wcs=wcs, **options)
    except OFF as error:
        own = getattr(dask_fits, type(error).__name__)
        with pytest.raises(own, match="expected an overlap with the image of") as caught:
            hdu.cutout(position, size, **options)
        assert isinstance(caught.value, ValueError)
        assert type(caught.value) is own
        return
    found = hdu.cutout(position, size, **options)
    assert_same_place(found, expected)
    assert found.data.dtype == pixels.dtype
    assert found.data.dtype.isnative
    computed = found.data.compute(scheduler="sync")
    assert type(computed) is np.ndarray
    assert same_bits(computed, expected.data)
    assert repr(found) == (
        f"<Cutout [{found.slices[0].start}:{found.slices[0].stop}, {found.slices[1].start}:"
        f"{found.slices[1].stop}] shape={expected.shape} dtype={pixels.dtype}>"
    )


def fills(pixels: np.ndarray) -> Any:
    return st.sampled_from(
        [np.nan, 0.0, -0.0, -7.5, np.inf, 3] if pixels.dtype.kind == "f" else [0, 7, np.int16(99)]
    )


LENGTHS = st.one_of(
    st.integers(1, 100),
    st.integers(1, 200).map(lambda n: n / 2 + 0.5),
    st.floats(0.6, 90),
    st.sampled_from([1, 1.5, 2.5, NY, NX, 3 * NX, np.int32(5), np.float32(7.5)]),
)


def as_given(pair: tuple[float, float], how: int) -> Any:
    """Two numbers, in one of the ways in which people write them."""
    return [pair, list(pair), np.array(pair)][how]


SOME_SIZES = st.one_of(
    LENGTHS,
    SIZES,
    st.builds(as_given, st.tuples(LENGTHS, LENGTHS), st.integers(0, 2)),
    LENGTHS.map(lambda n: n * u.pixel),
    st.tuples(LENGTHS, LENGTHS).map(lambda pair: np.array(pair) * u.pixel),
    st.tuples(LENGTHS, LENGTHS).map(lambda pair: (pair[0] * u.pixel, pair[1])),
)
ANGLES = st.floats(40.0, 400.0)
ANGULAR = st.one_of(
    ANGLES.map(lambda n: n * u.arcsec),
    ANGLES.map(lambda n: [n] * u.arcsec),
    st.tuples(ANGLES, ANGLES).map(lambda pair: np.array(pair) / 60 * u.arcmin),
    st.tuples(ANGLES, ANGLES).map(lambda pair: (pair[0] * u.arcsec, pair[1] / 3600 * u.deg)),
    st.tuples(ANGLES, LENGTHS).map(lambda pair: (pair[0] * u.arcsec, pair[1])),
    st.tuples(LENGTHS, ANGLES).map(lambda pair: (pair[0] * u.pixel, pair[1] * u.arcsec)),
)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(PLAIN)), st.sampled_from(MODES))
def test_pixel_positions(worlds: Images, data: st.DataObject, name: str, mode: str) -> None:
    image = worlds[name]
    position = as_given(
        data.draw(st.tuples(COORDINATES, COORDINATES)), data.draw(st.integers(0, 2))
    )
    size = data.draw(SOME_SIZES if name == "not celestial" else SOME_SIZES | ANGULAR)
    assert_as_cutout2d(image, position, size, mode, data.draw(fills(image[1].pixels)))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(WORLDS)), st.sampled_from(MODES))
def test_positions_on_the_sky(worlds: Images, data: st.DataObject, name: str, mode: str) -> None:
    image = worlds[name]
    at = [data.draw(st.floats(-20, length + 20)) for length in (NX, NY)]
    if data.draw(st.booleans()):
        at = [round(2 * value) / 2 for value in at]  # ties, as far as astropy inverts exactly
    position = image[1].wcs.pixel_to_world(*at)
    frame = data.draw(st.sampled_from(["", "", "galactic", "icrs", "fk4"]))
    position = position.transform_to(frame) if frame else position
    assert_as_cutout2d(image, position, data.draw(SOME_SIZES | ANGULAR), mode)


@pytest.mark.untraced
@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(MODES))
def test_kinds_of_pixels(kinds: Images, data: st.DataObject, mode: str) -> None:
    image = kinds[data.draw(st.sampled_from(sorted(kinds)))]
    position = data.draw(st.tuples(COORDINATES, COORDINATES))
    size, fill = data.draw(SIZES), data.draw(fills(image[1].pixels))
    chunk = data.draw(st.sampled_from(["128 MiB", "4 kiB"]))
    with dask.config.set({"array.chunk-size": chunk}):
        assert_as_cutout2d(image, position, size, mode, fill)


def test_the_kinds_of_pixels_are_those_meant(kinds: Images) -> None:
    types = {image.pixels.dtype.str[1:] for _, image in kinds.values()}
    assert types == {"i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"}
    for name in ("BLANK", "scaled BLANK"):
        assert np.isnan(kinds[name][1].pixels[4:9, 6:30]).all()
    assert sum(hdu.compression is not None for hdu, _ in kinds.values()) >= 5


@pytest.mark.untraced
@pytest.mark.parametrize("mode", MODES)
def test_every_edge_and_tie(worlds: Images, mode: str) -> None:
    """Boxes that end at, begin at and just miss the first and the last pixel."""
    ends = [-2.5, -2, -1.5, -1.0, -0.5, 0, 0.5]
    for size in (1, 2, 3, (2, 5), (NY, NX), (NY + 1, NX)):
        for near, number in itertools.product(ends, (0, 1)):
            far = (NX, NY)[number] - 1 - near
            for value in (near, far):
                position = [30.0, 30.0]
                position[number] = value
                assert_as_cutout2d(worlds["TAN"], position, size, mode)


@pytest.mark.parametrize("mode", MODES)
def test_positions_of_a_swapped_image(worlds: Images, mode: str) -> None:
    """Cutout2D itself takes latitude for x there; the pixel is what `world_to_pixel` says."""
    hdu, image = worlds["swapped"]
    for at in ([40.3, 20.1], [3.7, 50.2], [78.6, 0.4], [-1.2, 30.2]):
        lat, lon = image.wcs.all_pix2world([at], 0)[0]
        position = SkyCoord(lon, lat, unit="deg")
        x, y = (float(value) for value in image.wcs.world_to_pixel(position))
        assert np.allclose((x, y), at, rtol=0, atol=1e-6)
        for each in (position, position.galactic):
            try:
                expected = Cutout2D(image.pixels, (x, y), (9, 13), wcs=image.wcs, mode=mode)
            except PartialOverlapError:
                with pytest.raises(dask_fits.PartialOverlapError):
                    hdu.cutout(each, (9, 13), mode=mode)
                continue
            found = hdu.cutout(each, (9, 13), mode=mode)
            assert_same_place(found, expected)
            assert same_bits(found.data.compute(scheduler="sync"), expected.data)


def test_the_height_is_counted_by_the_first_axis_as_in_cutout2d(worlds: Images) -> None:
    image = worlds["pixels that are not square"]
    found = image[0].cutout((30, 30), 90 * u.arcsec)
    assert found.data.shape == (25, 6)
    assert_as_cutout2d(image, (30, 30), 90 * u.arcsec)


def test_the_whole_image_where_the_size_is_more(worlds: Images) -> None:
    hdu, image = worlds["TAN"]
    found = hdu.cutout((40, 30), 1000)
    assert found.slices == (slice(0, NY), slice(0, NX))
    assert same_bits(found.data.compute(scheduler="sync"), image.pixels)
    assert_same_wcs(found.wcs, image.wcs)


def test_the_wcs_is_the_callers(worlds: Images) -> None:
    hdu, image = worlds["SIP"]
    found = hdu.cutout((40, 30), 10)
    found.wcs.wcs.crpix += 100
    assert_same_wcs(hdu.wcs, image.wcs)
    assert_as_cutout2d((hdu, image), (40, 30), 10)


TABLES = ["lookup", "detector", "lookup of a swapped image", "all that HST has"]


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_distortions_move_with_the_pixels(name: str) -> None:
    """Cutout2D leaves them where they were; here a pixel keeps its place on the sky."""
    hdu = dask_fits.open(put("tables.fits", many_worlds.written(*many_worlds.IMAGES[name]())))[
        "SCI"
    ]
    whole = hdu.wcs
    at = np.random.default_rng(3).uniform(0, 20, (30, 2))
    for position, mode in (((50, 40), "trim"), ((3, 78), "trim"), ((3, 78), "partial")):
        found = hdu.cutout(position, 20, mode=mode)
        corner = np.array([position[0] - 10, position[1] - 10])
        by = corner if mode == "partial" else np.maximum(corner, 0)
        expected = whole.all_pix2world(at + by, 0)
        assert np.allclose(found.wcs.all_pix2world(at, 0), expected, rtol=1e-11, atol=1e-11)
    sky = whole.pixel_to_world(60.3, 30.2)
    found = hdu.cutout(sky, 6)
    if "swapped" not in name:
        x, y = whole.world_to_pixel(sky)
        assert np.allclose((x, y), (60.3, 30.2), rtol=0, atol=1e-3)
    assert found.slices == (slice(28, 34), slice(58, 64))


# Cubes

CUBES = {
    "sky first": ("RA", "DEC", "FREQ"),
    "sky first of four": ("RA", "DEC", "FREQ", "STOKES"),
    "sky in the middle": ("FREQ", "RA", "DEC", "STOKES"),
    "sky last": ("FREQ", "RA", "DEC"),
    "sky last of four": ("STOKES", "FREQ", "RA", "DEC"),
    "sky around": ("RA", "FREQ", "DEC"),
    "latitude first": ("DEC", "RA", "FREQ"),
    "latitude first, around": ("DEC", "FREQ", "RA"),
    "latitude first, last": ("FREQ", "DEC", "RA"),
}
LENGTH = {"FREQ": 5, "STOKES": 2}


def cube(names: tuple[str, ...]) -> tuple[np.ndarray, tuple[int, int]]:
    """Pixels of a cube with these axes, in FITS order, and its two axes along the sky."""
    along = [n for n, name in enumerate(names) if name in ("RA", "DEC")]
    lengths = [LENGTH.get(name, 0) for name in names]
    lengths[along[0]], lengths[along[1]] = 24, 18
    shape = tuple(lengths[::-1])
    found = np.random.default_rng(9).integers(0, 900, shape).astype("i4")
    return found, (len(names) - 1 - along[1], len(names) - 1 - along[0])


def assert_planes(
    hdu: HDU, pixels: np.ndarray, axes: tuple[int, int], wcs: WCS, position: Any, size: Any
) -> None:
    """Compare a cutout of a cube with astropy's of each plane."""
    planes = np.moveaxis(pixels, axes, (-2, -1))
    fill = np.nan if pixels.dtype.kind == "f" else -1
    flat = wcs.celestial if wcs.naxis > 2 else wcs
    for mode in MODES:
        options = {"wcs": flat, "mode": mode, "fill_value": fill}
        try:
            first = Cutout2D(planes[(0,) * (planes.ndim - 2)], position, size, **options)
        except OFF as error:
            with pytest.raises(getattr(dask_fits, type(error).__name__)):
                hdu.cutout(position, size, mode=mode, fill_value=fill)
            continue
        found = hdu.cutout(position, size, mode=mode, fill_value=fill)
        assert tuple(found.slices[axis] for axis in axes) == first.slices_original
        kept = [axis for axis in range(pixels.ndim) if axis not in axes]
        assert all(found.slices[axis] == slice(0, pixels.shape[axis]) for axis in kept)
        computed = np.moveaxis(found.data.compute(scheduler="sync"), axes, (-2, -1))
        assert computed.shape == planes.shape[:-2] + first.shape
        for index in np.ndindex(*planes.shape[:-2]):
            expected = Cutout2D(planes[index], position, size, **options)
            assert same_bits(computed[index], expected.data)
        assert found.wcs.naxis == wcs.naxis
        assert found.wcs.array_shape == (found.data.shape if wcs.naxis == pixels.ndim else None)
        if wcs.naxis > 2:
            assert_same_world(found.wcs.celestial, first.wcs)
        if wcs.naxis == pixels.ndim:  # of more axes astropy cannot take some
            rest = wcs.sub(["spectral", "stokes"]).to_header_string()
            assert found.wcs.sub(["spectral", "stokes"]).to_header_string() == rest


@pytest.mark.untraced
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("name", CUBES)
def test_cubes(tmp_path: Path, name: str, packed: bool) -> None:
    pixels, axes = cube(CUBES[name])
    tile = tuple(7 if axis in axes else 3 for axis in range(pixels.ndim))
    packing = {"compression_type": "GZIP_1", "tile_shape": tile} if packed else {}
    hdu, image = image_of(tmp_path, "cube", content(pixels, spectral(*CUBES[name]), **packing))
    assert (hdu.compression is not None) == packed
    assert tuple(pixels.shape[axis] for axis in axes) == (18, 24)
    for position, size in (
        ((12.2, 9.1), (6, 5)),
        ((1, 16.5), (5, 8)),
        ((12, 9), (14 * u.arcsec, 0.4 * u.arcmin)),
        ((-9, 3), 4),
    ):
        assert_planes(hdu, pixels, axes, image.wcs, position, size)


@pytest.mark.parametrize("name", CUBES)
def test_positions_on_the_sky_of_a_cube(tmp_path: Path, name: str) -> None:
    pixels, axes = cube(CUBES[name])
    hdu, image = image_of(tmp_path, "cube", content(pixels, spectral(*CUBES[name])))
    flat = image.wcs.celestial
    for at in ([4.2, 9.2], [1.2, 1.7], [22.7, 16.7]):
        world = flat.all_pix2world([at], 0)[0]
        position = SkyCoord(world[flat.wcs.lng], world[flat.wcs.lat], unit="deg")
        found = hdu.cutout(position.galactic, (6, 5), mode="partial", fill_value=-1)
        planes = np.moveaxis(pixels, axes, (-2, -1))
        expected = Cutout2D(
            planes[(0,) * (planes.ndim - 2)], at, (6, 5), mode="partial", fill_value=-1
        )
        assert tuple(found.slices[axis] for axis in axes) == expected.slices_original
        computed = np.moveaxis(found.data.compute(scheduler="sync"), axes, (-2, -1))
        assert same_bits(computed[(0,) * (planes.ndim - 2)], expected.data)


def test_more_axes_of_the_wcs_than_of_the_image(tmp_path: Path) -> None:
    keywords = {"WCSAXES": 3} | spectral("RA", "DEC", "FREQ")
    hdu, image = image_of(tmp_path, "plane", content(FLOATS, keywords))
    assert image.wcs.naxis == 3
    assert_planes(hdu, FLOATS, (0, 1), image.wcs, (20.2, 30.1), (6, 5))


def test_a_cube_that_is_not_celestial_is_cut_along_its_last_axes(tmp_path: Path) -> None:
    pixels = np.arange(3 * 8 * 9, dtype="i4").reshape(3, 8, 9)
    hdu, _ = image_of(tmp_path, "cube", content(pixels, {}))
    found = hdu.cutout((4, 5), (2, 4))
    assert found.slices == (slice(0, 3), slice(4, 6), slice(2, 6))
    assert same_bits(found.data.compute(scheduler="sync"), pixels[found.slices])


# Real files

REAL = [
    "aegean/small.fits",
    "astropy/sip-wcs.fits",
    "legacypipe/ksb_170430_055945_ooi_r_ls9.CCD4.fits",
    "legacypipe/c4d_150329_083320_ooi_r_ls9.N11.fits",
    "astropy-data/gc_msx_e.fits",
    "pocs/solved.fits.fz",
    "reproject/galactic_2d.fits",
    "reproject/aia_171_level1.fits",
    "pypi-sunpy/lasco_c2_25299383_s.fts",
]
REAL_CUBES = [
    "aegean/small_4D.fits",
    "astropy-data/l1448_13co.fits",
    "carta-backend/M17_SWex_unittest.fits",
    "carta-backend/noise_4d_casa.fits",
    "galsim/test_cubeD.fits.fz",
    "gamma-astro-data-formats/wcs_ccube.fits",
    "reproject/equatorial_3d.fits",
    "spectral-cube/example_cube.fits",
]


def real(name: str) -> dict[str, Any]:
    (entry,) = [entry for entry in COVERED if entry["file"] == name]
    return entry


@needs_corpus
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("name", REAL)
def test_real_images(name: str) -> None:
    entry = real(name)
    with placed(entry) as (url, data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = dask_fits.open(url).first_image(), known(data)
        ny, nx = image[1].pixels.shape
        wcs, rng = image[1].wcs, np.random.default_rng(len(name))
        fill = np.nan if image[1].pixels.dtype.kind == "f" else 3
        scale = np.abs(wcs.proj_plane_pixel_scales()[0])
        sizes = [(max(ny // 7, 2), max(nx // 5, 3)), 4.5, (scale * nx / 8, 5 * u.pixel)]
        for mode, size in itertools.product(MODES, sizes):
            for at in rng.uniform(-4, [nx + 4, ny + 4], (3, 2)):
                assert_as_cutout2d(image, tuple(at), size, mode, fill)
                if "wcs-solar" in entry["features"]:
                    continue
                sky = wcs.pixel_to_world(*at)
                assert_as_cutout2d(image, sky, size, mode, fill)
                assert_as_cutout2d(image, sky.galactic, size, mode, fill)


@needs_corpus
@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
@pytest.mark.parametrize("name", REAL_CUBES)
def test_real_cubes(name: str) -> None:
    with placed(real(name)) as (url, data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hdu, image = dask_fits.open(url).first_image(), known(data)
        axes = image.pixels.ndim - 2, image.pixels.ndim - 1
        ny, nx = image.pixels.shape[-2:]
        pixels, wcs = image.pixels, image.wcs
        if not wcs.has_celestial:
            wcs = None
        size = max(ny // 3, 1), max(nx // 2, 1)
        for at in ((nx / 2, ny / 2), (nx - 1.2, 0.3)):
            if wcs is None:
                planes = pixels.reshape(-1, ny, nx)
                found = hdu.cutout(at, size).data.compute(scheduler="sync")
                expected = [Cutout2D(plane, at, size).data for plane in planes]
                assert same_bits(found.reshape(-1, *found.shape[-2:]), np.array(expected))
                continue
            assert_planes(hdu, pixels, axes, wcs, at, size)
            assert_planes(hdu, pixels, axes, wcs, wcs.celestial.pixel_to_world(*at), size)


# Lazy

SIDE = 300
LARGE = np.random.default_rng(50).normal(100, 15, (SIDE, SIDE)).astype("f4")
PACKED = {"compression_type": "RICE_1", "quantize_level": 16}
STORED: dict[str, bytes] = {
    "plain": content(LARGE, TAN),
    "tiles": content(LARGE, TAN, **PACKED, tile_shape=(32, 32)),
    # A table of more rows than go with the tasks.
    "many tiles": content(LARGE, TAN, **PACKED, tile_shape=(5, 5)),
}


@pytest.fixture(params=STORED)
def lazy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[HDU, np.ndarray]:
    """An image whose reads are recorded, and astropy's pixels; no rows of tables are known."""
    monkeypatch.setattr(tiled, "ROWS", RowCache(row_cache.CACHE_BYTES))
    data = STORED[request.param]
    hdu = dask_fits.open(put("lazy.fits", data)).first_image()
    assert (hdu.tile_table is None) == (request.param != "tiles")
    LOG.clear()
    return hdu, known(data).pixels


def forget() -> None:
    """Forget the rows of tables that were read, and the reads."""
    tiled.ROWS = RowCache(row_cache.CACHE_BYTES)
    LOG.clear()


def assert_read(hdu: HDU, key: tuple[slice, ...]) -> None:
    """What was read since `forget` is what the plan of a selection says."""
    ranges, nbytes = RecordingFileSystem.ranges(), RecordingFileSystem.nbytes()
    forget()
    plan = hdu.plan(key)
    assert sorted(ranges) == sorted((r.start, r.stop) for r in plan.ranges)
    assert nbytes == plan.bytes
    assert len(ranges) == plan.requests


def test_nothing_is_read_before_it_is_computed(lazy: tuple[HDU, np.ndarray]) -> None:
    hdu, pixels = lazy
    sky = hdu.wcs.pixel_to_world(100, 80)
    for mode in MODES:
        found = hdu.cutout(sky, (20, 30), mode=mode)
        hdu.cutout((0, 0), (1 * u.arcmin, 30), mode="partial")
        with pytest.raises(dask_fits.NoOverlapError):
            hdu.cutout((-5000, 3), 20, mode=mode)
        assert repr(found)
        pickle.dumps(found)
        _ = found.wcs, found.slices, found.data[3:5] + 1, found.data.name
    assert LOG == []
    assert same_bits(found.data.compute(scheduler="sync"), pixels[found.slices])
    assert_read(hdu, found.slices)


def plus(block: np.ndarray) -> np.ndarray:
    return block + 0


@pytest.mark.untraced
@pytest.mark.parametrize(
    "off", [{}, {"optimization.fuse.active": False}, {"array.slicing.split-large-chunks": False}]
)
@pytest.mark.parametrize("mode", ["trim", "partial"])
def test_computing_reads_what_is_planned_however_it_is_computed(
    lazy: tuple[HDU, np.ndarray], mode: Any, off: dict[str, Any]
) -> None:
    hdu, pixels = lazy
    with dask.config.set(off):
        found = hdu.cutout((4, 290), (30, 40), mode=mode, fill_value=-1.0)
        expected = Cutout2D(pixels, (4, 290), (30, 40), mode=mode, fill_value=-1.0).data
        target = np.zeros(found.data.shape, "f4")
        ways = [
            lambda: found.data.compute(scheduler="sync"),
            lambda: found.data.compute(scheduler="sync", optimize_graph=False),
            lambda: found.data.map_blocks(plus).compute(scheduler="sync"),
            lambda: found.data.map_blocks(plus).compute(scheduler="sync", optimize_graph=False),
            lambda: (found.data * 1).compute(scheduler="sync"),
            lambda: da.store(found.data, target, scheduler="sync") or target,
            lambda: found.data.persist(scheduler="sync").compute(),
        ]
        for way in ways:
            forget()
            assert same_bits(way(), expected)
            assert_read(hdu, found.slices)


def test_only_the_part_on_the_image_is_read(lazy: tuple[HDU, np.ndarray]) -> None:
    hdu, pixels = lazy
    found = hdu.cutout((0, 0), 40, mode="partial")
    assert found.slices == (slice(0, 20), slice(0, 20))
    forget()
    computed = found.data.compute(scheduler="sync")
    assert_read(hdu, found.slices)
    assert np.isnan(computed[:20]).all()
    assert np.isnan(computed[:, :20]).all()
    assert same_bits(computed[20:, 20:], pixels[:20, :20])
    for off in (np.s_[:20], np.s_[:, :20], np.s_[3, 30], np.s_[30, 3], np.s_[19, 19]):
        forget()
        assert np.isnan(found.data[off].compute(scheduler="sync")).all()
        assert LOG == []


def test_a_slice_of_a_cutout_reads_less(lazy: tuple[HDU, np.ndarray]) -> None:
    hdu, pixels = lazy
    found = hdu.cutout((150, 120), (40, 60))
    top, left = (part.start for part in found.slices)
    assert (top, left) == (100, 120)
    for own, of_image in (
        (np.s_[2:5, ::2], np.s_[102:105, 120:180:2]),
        (np.s_[7], np.s_[107:108, 120:180]),
        (np.s_[3, 9], np.s_[103:104, 129:130]),
        (np.s_[-1:, -5:], np.s_[139:140, 175:180]),
        (np.s_[::13, 1:2], np.s_[100:140:13, 121:122]),
    ):
        for optimize in (True, False):
            forget()
            computed = found.data[own].compute(scheduler="sync", optimize_graph=optimize)
            assert same_bits(computed, pixels[of_image].reshape(computed.shape))
            if optimize:
                assert_read(hdu, of_image)
    forget()
    assert hdu.plan(np.s_[102:105, 120:180]).bytes < hdu.plan(found.slices).bytes


def test_chunks_of_a_cutout_read_their_own_part() -> None:
    hdu = dask_fits.open(put("image.fits", STORED["plain"]))[0]
    with dask.config.set({"array.chunk-size": 10 * 60 * 4}):
        found = hdu.cutout((10, 120), (45, 60), mode="partial")
    assert found.data.chunks == ((10, 10, 10, 10, 5), (60,))
    assert found.slices == (slice(98, 143), slice(0, 40))
    for number, part in enumerate(found.data.blocks):
        LOG.clear()
        computed = part.compute(scheduler="sync")
        rows = slice(98 + 10 * number, min(108 + 10 * number, 143))
        assert same_bits(computed[:, 20:], LARGE[rows, :40])
        assert np.isnan(computed[:, :20]).all()
        assert_read(hdu, (rows, slice(0, 40)))


@pytest.mark.parametrize("name", STORED)
def test_a_huge_box_around_a_small_image(name: str) -> None:
    """20,000 x 20,000: most chunks have nothing of the image, and read nothing."""
    hdu = dask_fits.open(put("image.fits", STORED[name])).first_image()
    start = time.process_time()
    with dask.config.set({"array.chunk-size": "16 MiB"}):
        found = hdu.cutout((150, 150), 20_000, mode="partial", fill_value=-1)
    assert time.process_time() - start < 2
    assert found.data.shape == (20_000, 20_000)
    assert found.data.npartitions > 90
    assert max(found.data.chunks[0]) * 20_000 * 4 <= 1 << 24
    assert found.slices == (slice(0, SIDE), slice(0, SIDE))
    ends = np.cumsum(found.data.chunks[0])
    holding = np.flatnonzero((ends > 9850) & (ends - found.data.chunks[0] < 10_150))
    assert len(holding) in (2, 3)
    for number in (0, int(holding[0]) - 1, int(holding[-1]) + 1, len(ends) - 1):
        forget()
        block = found.data.blocks[number].compute(scheduler="sync")
        assert (block == -1).all()
        assert LOG == []
    forget()
    assert same_bits(
        found.data[9845:10_155, 9848:10_152].compute(scheduler="sync"),
        np.pad(known(STORED[name]).pixels, [(5, 5), (2, 2)], constant_values=-1),
    )
    assert LOG


def test_a_huge_box_of_bytes_as_a_whole() -> None:
    pixels = (LARGE[:100, :90] % 50).astype("u1")
    hdu = dask_fits.open(put("bytes.fits", content(pixels, TAN)))[0]
    with dask.config.set({"array.chunk-size": "1 MiB"}):
        found = hdu.cutout((40, 50), 6000, mode="partial", fill_value=0)
    LOG.clear()
    assert found.data.sum(dtype="i8").compute(scheduler="sync") == pixels.sum()
    assert found.data.npartitions == 35
    assert RecordingFileSystem.nbytes() == pixels.nbytes
    assert len(RecordingFileSystem.ranges()) == 2, "of the two chunks that have a part of it"


@pytest.mark.parametrize("name", STORED)
def test_the_graph_is_small_and_can_be_pickled(name: str) -> None:
    hdu = dask_fits.open(put("image.fits", STORED[name])).first_image()
    for size, mode in ((200, "trim"), (200, "partial"), (20_000, "partial")):
        found = hdu.cutout((10, 150), size, mode=mode)
        assert len(cloudpickle.dumps(found.data)) < 8000 + len(hdu.tile_table or b"")
        again = pickle.loads(pickle.dumps(found))
        assert again.slices == found.slices
        assert again.data.name == found.data.name
        assert_same_wcs(again.wcs, found.wcs)
        part = np.s_[:40, :30]
        assert same_bits(again.data[part].compute(), found.data[part].compute())


def written_here(root: Path, name: str) -> str:
    return written_to(root, f"{name.replace(' ', '_')}.fits", STORED[name])


def test_the_name_tells_everything_apart_that_changes_the_pixels(tmp_path: Path) -> None:
    path, packed = written_here(tmp_path, "plain"), written_here(tmp_path, "tiles")
    (tmp_path / "other").mkdir()
    other = written_here(tmp_path / "other", "plain")
    two = written(fits.ImageHDU(LARGE), fits.ImageHDU(LARGE))
    several = written_to(tmp_path, "several.fits", two)

    def name(file: str = path, position: Any = (0, 5), size: Any = 8, **options: Any) -> str:
        index = options.pop("hdu", None)
        found = dask_fits.open(file)
        hdu = found.first_image() if index is None else found[index]
        return hdu.cutout(position, size, **{"mode": "partial"} | options).data.name

    names = [
        name(),
        name(position=(1, 5)),
        name(position=(0, 4)),
        name(size=9),
        name(size=(8, 9)),
        name(size=(9, 8)),
        name(fill_value=0),
        name(fill_value=0.0),
        name(fill_value=-0.0),
        name(fill_value=np.inf),
        name(mode="trim"),
        name(other),
        name(packed),
        name(several, hdu=1),
        name(several, hdu=2),
        dask_fits.open(path)[0].data.name,
    ]
    with dask.config.set({"array.chunk-size": 64}):
        names.append(name())
    assert name() == name(position=[0.0, 4.6]) == name(size=8 * u.pixel) == names[0]
    os.utime(path, ns=(1, 1))
    names.append(name())
    Path(path).write_bytes(STORED["plain"] + bytes(BLOCK))
    os.utime(path, ns=(1, 1))
    names.append(name())
    assert len(set(names)) == len(names)


# Schedulers


def test_over_http(tmp_path: Path) -> None:
    for name in STORED:
        written_here(tmp_path, name)
    with RangeServer(tmp_path) as server:
        for name, data in STORED.items():
            hdu = dask_fits.open(f"{server.url}/{name.replace(' ', '_')}.fits").first_image()
            image = known(data)
            for position, mode in (((150, 100), "trim"), ((2, 3), "partial")):
                until(lambda: server.busy == 0)
                server.clear()
                found = hdu.cutout(position, (40, 30), mode=mode)
                assert server.requests == 0
                plan = hdu.plan(found.slices)
                forget()
                server.clear()
                computed = found.data.compute(scheduler="sync")
                assert sorted(asked(server)) == sorted((r.start, r.stop) for r in plan.ranges)
                assert server.bytes == plan.bytes
                expected = Cutout2D(image.pixels, position, (40, 30), mode=mode)
                assert same_bits(computed, expected.data)


# WindowReader

FILL = {"f": -1.5, "i": -1, "u": 7}


def padded(
    array: np.ndarray, origin: tuple[int, ...], shape: tuple[int, ...], fill: Any
) -> np.ndarray:
    """The pixels of a window, one axis after the other."""
    found = array
    for axis, (start, count) in enumerate(zip(origin, shape, strict=True)):
        index = np.arange(start, start + count)
        there = (index >= 0) & (index < array.shape[axis])
        rest = (*found.shape[:axis], count, *found.shape[axis + 1 :])
        wider = np.full(rest, fill, array.dtype)
        place: list[Any] = [slice(None)] * array.ndim
        place[axis] = there
        wider[tuple(place)] = np.take(found, index[there], axis)
        found = wider
    return found


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Origin and shape of a window: inside, over an edge, around the image or off it."""
    origin, size = [], []
    for length in shape:
        kind = draw(st.sampled_from(["any", "any", "inside", "around", "after", "before"]))
        if kind == "inside" and length:
            start = draw(st.integers(0, length - 1))
            count = draw(st.integers(0, length - start))
        elif kind == "around":
            start = -draw(st.integers(0, 3))
            count = length - start + draw(st.integers(0, 3))
        elif kind == "after":
            start, count = length + draw(st.sampled_from([0, 1, 2**52])), draw(st.integers(0, 3))
        elif kind == "before":
            count = draw(st.integers(0, 3))
            start = -count - draw(st.sampled_from([0, 1, 2**52]))
        else:
            start, count = draw(st.integers(-length - 3, length + 3)), draw(st.integers(0, 9))
        origin.append(start)
        size.append(count)
    return tuple(origin), tuple(size)


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 7]), min_size=1, max_size=4).map(tuple)


def inside(window: WindowReader, axes: Any, shape: tuple[int, ...]) -> int:
    """How many pixels of a box lie on the image."""
    counts = [
        sum(0 <= start + int(index) < length for index in axis)
        for axis, start, length in zip(axes, window.origin, shape, strict=True)
    ]
    return int(np.prod(counts))


def assert_window(found: Any, expected: Any) -> None:
    assert same_bits(found, expected)
    assert isinstance(found, np.ndarray) == isinstance(expected, np.ndarray)
    assert found.dtype.isnative
    if isinstance(found, np.ndarray):
        assert found.flags.owndata
        assert found.flags.writeable
        assert found.flags.c_contiguous


@settings(max_examples=250, deadline=None)
@given(st.data(), SHAPES, st.sampled_from(DTYPES), st.sampled_from([0, 0, 2]))
def test_a_window_of_a_plain_image(
    data: st.DataObject, shape: tuple[int, ...], dtype: str, beyond: int
) -> None:
    array = pixels(shape, dtype)
    origin, size = data.draw(windows(shape))
    fill = FILL[array.dtype.kind]
    image = watched_reader(array)
    window = WindowReader(image, origin, size, fill)
    expected = padded(array, origin, size, fill)
    assert (window.shape, window.ndim, window.dtype) == (size, len(size), array.dtype)
    key = data.draw(keys(size, beyond=beyond))
    try:
        picked = expected[key]
    except IndexError:
        with pytest.raises(IndexError):
            window[key]
        assert image.store.asked == []
        return
    selection = select(key, size)
    window.check(selection)
    plan = window.plan(selection.indices)
    assert image.store.asked == []
    assert_window(window[key], picked)
    assert tuple(image.store.asked) == plan.ranges
    assert plan.useful_bytes == inside(window, selection.indices, shape) * array.itemsize
    assert bool(plan.ranges) == bool(plan.useful_bytes)
    image.store.asked.clear()
    assert_window(window.read(selection), picked)
    assert tuple(image.store.asked) == plan.ranges


TILED = {
    "two axes": ((11, 14), (4, 5)),
    "cube": ((3, 5, 7), (2, 2, 3)),
    "one axis": ((23,), (5,)),
}


@pytest.fixture(scope="module")
def tiles() -> dict[str, tuple[HDU, np.ndarray]]:
    found = {}
    for name, (shape, tile) in TILED.items():
        array = pixels(shape, "i4") * 7
        url = put(f"{name}.fits", tiled_file(array, zcmptype="GZIP_1", tile=tile))
        found[name] = dask_fits.open(url).first_image(), array
    return found


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from(sorted(TILED)), st.booleans())
def test_a_window_of_a_compressed_image(
    tiles: dict[str, tuple[HDU, np.ndarray]], data: st.DataObject, name: str, at_hand: bool
) -> None:
    hdu, array = tiles[name]
    reader = hdu.reader() if at_hand else replace(hdu.reader(), tile_table=None)
    origin, size = data.draw(windows(array.shape))
    window = WindowReader(reader, origin, size, -1)
    key = data.draw(keys(size))
    selection = select(key, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "ROWS", RowCache(row_cache.CACHE_BYTES))
        window.check(selection)
        plan = window.plan(selection.indices)
        patch.setattr(tiled, "ROWS", RowCache(row_cache.CACHE_BYTES))
        LOG.clear()
        assert_window(window[key], padded(array, origin, size, -1)[key])
    ranges = [(r.start, r.stop) for r in plan.ranges]
    assert sorted(RecordingFileSystem.ranges()) == sorted(ranges)
    assert bool(ranges) == bool(inside(window, selection.indices, array.shape))


@pytest.mark.parametrize("origin", [(2**52, 0), (-(2**52), 2**52), (0, -(2**52))])
def test_a_window_off_the_image_reads_nothing(origin: tuple[int, int]) -> None:
    image = watched_reader(FLOATS)
    window = WindowReader(image, origin, (50, 1 << 40), np.nan)
    assert np.isnan(window[3:20, 1 << 39 : (1 << 39) + 20]).all()
    assert window.plan(select(..., window.shape).indices).ranges == ()
    window.check(select(..., window.shape))
    assert image.store.asked == []


def test_the_chunks_of_a_window_are_bands_of_its_rows() -> None:
    window = WindowReader(watched_reader(FLOATS), (-5, -5), (1000, 500), np.nan)
    assert window.contiguous_chunk(500 * 4 * 10) == (10, 500)
    assert window.contiguous_chunk(100) == (1, 25)
    assert lazy_array(window, chunks=(100, 250)).chunks == ((100,) * 10, (250,) * 2)
    assert lazy_array(window, chunks="20000 B").chunks == ((10,) * 100, (500,))


def test_the_token_of_a_window() -> None:
    image = watched_reader(FLOATS)
    window = WindowReader(image, (0, -1), (3, 4), 0)
    tokens = [
        each.__dask_tokenize__()
        for each in (
            window,
            replace(window, origin=(-1, 0)),
            replace(window, shape=(4, 3)),
            replace(window, fill_value=1),
            replace(window, fill_value=0.0),
            replace(window, image=watched_reader(FLOATS, offset=2 * BLOCK)),
        )
    ]
    assert len({repr(token) for token in tokens}) == len(tokens)
    assert tokens[0] == WindowReader(watched_reader(FLOATS), (0, -1), (3, 4), 0).__dask_tokenize__()


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 77 * 2))
def test_a_truncated_image_is_an_error_only_where_wanted_pixels_are_missing(
    data: st.DataObject, length: int
) -> None:
    """Checked before anything is read; what is off the image cannot be missing."""
    array = pixels((7, 11), "i2")
    whole = watched_reader(array)
    store = whole.store
    assert isinstance(store, WatchedStore)
    image = replace(whole, store=replace(store, content=store.content[: BLOCK + length], asked=[]))
    origin, size = data.draw(windows(array.shape))
    window = WindowReader(image, origin, size, -1)
    selection = select(data.draw(keys(size)), size)
    offsets = padded(np.arange(array.size).reshape(array.shape), origin, size, -1)
    wanted = offsets[np.ix_(*(np.array(axis, int) for axis in selection.indices))]
    if (wanted + 1).max(initial=0) * 2 <= length:
        window.check(selection)
        box = padded(array, origin, size, -1)[np.ix_(*map(list, selection.indices))]
        found = window.read(selection)
        assert same_bits(found, box[selection.key].reshape(np.shape(found)))
        return
    said = r"watched\.fits: HDU 0: the file is truncated: .* found the end of the file at byte"
    for use in (window.check, window.read):
        with pytest.raises(TruncatedFileError, match=said):
            use(selection)
    assert image.store.asked == []


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_a_truncated_compressed_image_is_an_error_only_where_wanted_tiles_are_missing() -> None:
    array = pixels((40, 60), "i4")
    data = tiled_file(array, zcmptype="GZIP_1", tile=(10, 20))
    whole = dask_fits.open(put("whole.fits", data)).first_image()
    ends = [
        max(r.stop for r in whole.plan((slice(row, row + 1), slice(column, column + 1))).ranges)
        for row, column in itertools.product(range(0, 40, 10), range(0, 60, 20))
    ]
    assert len(set(ends)) == 12
    size = sorted(ends)[6]
    there = np.array(ends).reshape(4, 3) <= size
    hdu = dask_fits.open(put("cut.fits", data[:size])).first_image()
    seen = set()
    for row, column in itertools.product(range(-12, 50, 7), range(-25, 70, 11)):
        window = WindowReader(hdu.reader(), (row, column), (9, 8), -1)
        rows = sorted({r // 10 for r in range(row, row + 9) if 0 <= r < 40})
        columns = sorted({c // 20 for c in range(column, column + 8) if 0 <= c < 60})
        good = bool(there[np.ix_(rows, columns)].all()) if rows and columns else True
        seen.add(good)
        if good:
            window.check(select(..., window.shape))
            assert same_bits(window[...], padded(array, (row, column), (9, 8), -1))
            continue
        with pytest.raises(TruncatedFileError, match=r"cut\.fits: HDU 1"):
            window.check(select(..., window.shape))
        with pytest.raises(TruncatedFileError, match=r"cut\.fits: HDU 1"):
            window[...]
    assert seen == {True, False}


@pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning")
def test_cutouts_of_a_truncated_image(tmp_path: Path) -> None:
    data = content(FLOATS, TAN)
    path = written_to(tmp_path, "cut.fits", data[: BLOCK + 30 * NX * 4])
    hdu = dask_fits.open(path)[0]
    found = hdu.cutout((0, 25), (10, 8), mode="partial")
    expected = Cutout2D(FLOATS, (0, 25), (10, 8), mode="partial").data
    assert same_bits(found.data.compute(scheduler="sync"), expected)
    lacking = hdu.cutout((0, 26), (10, 8), mode="partial")
    with pytest.raises(TruncatedFileError, match=r"cut\.fits: HDU 0"):
        lacking.data.compute(scheduler="sync")
    assert np.isnan(lacking.data[:, :4].compute(scheduler="sync")).all()


# Bad input

SKY_POSITION = SkyCoord(10.0, 20.0, unit="deg")


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HDU]:
    """Images named SCI, HDU 1 of their files."""
    root = tmp_path_factory.mktemp("bad")

    def named(name: str, hdu: Any) -> HDU:
        hdu.name = "SCI"
        return dask_fits.open(written_to(root, f"{name}.fits", written(hdu)))["SCI"]

    table = fits.BinTableHDU.from_columns([fits.Column("X", "J", array=[1, 2])])
    return {
        "celestial": named("celestial", fits.ImageHDU(FLOATS, fits.Header(TAN))),
        "plain": named("plain", fits.ImageHDU(FLOATS)),
        "integers": named("integers", fits.ImageHDU(INTEGERS, fits.Header(TAN))),
        "packed": named("packed", fits.CompImageHDU(INTEGERS, fits.Header(TAN))),
        "cube": named("cube", fits.ImageHDU(np.zeros((6, 5, 4)), fits.Header())),
        "spectrum": named("spectrum", fits.ImageHDU(FLOATS[0])),
        "empty": named("empty", fits.ImageHDU()),
        "table": named("table", table),
    }


def refused(hdu: HDU, position: Any, size: Any, error: type[Exception], **options: Any) -> str:
    """The message of an error that names the file and the HDU, as what follows them."""
    with pytest.raises(error) as caught:
        hdu.cutout(position, size, **options)
    where = f"{hdu.store.name}: HDU 1 (SCI): "
    assert str(caught.value).startswith(where)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(where)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "position",
    [(NAN, 3), (3, NAN), (INF, 3), (3, -INF), (NAN, NAN), np.array([3.0, NAN])],
    ids=str,
)
def test_a_pixel_position_that_is_not_finite(bad: dict[str, HDU], position: Any, mode: Any) -> None:
    for name in ("celestial", "plain", "packed"):
        said = refused(bad[name], position, 4, ValueError, mode=mode)
        assert said == f"position: expected finite pixel coordinates (x, y), found {position}"


def lost(*position: float, frame: str = "icrs") -> SkyCoord:
    return SkyCoord(*position, unit="deg", frame=frame)


@pytest.mark.parametrize("frame", ["icrs", "galactic"])
@pytest.mark.parametrize("position", [(NAN, 20.0), (10.0, NAN), (NAN, NAN)], ids=str)
def test_a_sky_position_that_is_not_finite(bad: dict[str, HDU], position: Any, frame: str) -> None:
    hdu = bad["celestial"]
    with pytest.raises(ValueError, match="position: expected finite coordinates, found") as caught:
        hdu.cutout(lost(*position, frame=frame), 4)
    assert str(caught.value).startswith(f"{hdu.store.name}: HDU 1 (SCI): position: ")
    assert "nan" in str(caught.value)


def test_a_sky_position_that_is_not_finite_is_told_of_in_one_line(bad: dict[str, HDU]) -> None:
    refused(bad["celestial"], lost(NAN, 20.0), 4, ValueError)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_several_positions(bad: dict[str, HDU], count: int) -> None:
    sky = SkyCoord([10.0] * count, [20.0] * count, unit="deg")
    said = refused(bad["celestial"], sky, 4, ValueError)
    assert said == f"position: expected one, found {count}"


@pytest.mark.parametrize("position", [(1, 2, 3), (1,), [(1, 2), (3, 4), (5, 6)]], ids=str)
def test_a_position_of_another_shape(bad: dict[str, HDU], position: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        bad["celestial"].cutout(position, 4)


LEAST, FINITE = "size: expected at least one pixel, found", "size: expected a finite length, found"


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0, f"{LEAST} 0"),
        (0.0, f"{LEAST} 0.0"),
        (0.4, f"{LEAST} 0.4"),
        (-3, f"{LEAST} -3"),
        ((4, 0), f"{LEAST} 0"),
        ((-1, 4), f"{LEAST} -1"),
        (0 * u.pixel, f"{LEAST} 0.0 pix"),
        (0.01 * u.arcsec, f"{LEAST} 0.01 arcsec"),
        (-40 * u.arcsec, f"{LEAST} -40.0 arcsec"),
        (NAN, f"{FINITE} nan"),
        (INF, f"{FINITE} inf"),
        ((4, -INF), f"{FINITE} -inf"),
        (NAN * u.pixel, f"{FINITE} nan pix"),
        (NAN * u.arcsec, f"{FINITE} nan arcsec"),
        (INF * u.deg, f"{FINITE} inf deg"),
        ((1, 2, 3), "size: expected one or two lengths, found 3"),
        ([1, 2, 3] * u.arcsec, "size: expected one or two lengths, found 3"),
        ((), "size: expected one or two lengths, found 0"),
        (3 * u.s, "size: expected pixels or an angle, found s"),
        ((3, 3 * u.m), "size: expected pixels or an angle, found m"),
    ],
    ids=str,
)
def test_a_size_that_is_none(bad: dict[str, HDU], size: Any, said: str) -> None:
    for position in ((9, 9), SKY_POSITION):
        assert refused(bad["celestial"], position, size, ValueError) == said
    assert refused(bad["packed"], (9, 9), size, ValueError, mode="partial") == said


@pytest.mark.parametrize("size", [3 * u.arcsec, (3, 3 * u.arcsec), [1, 2] * u.deg], ids=str)
def test_an_angle_without_celestial_coordinates(bad: dict[str, HDU], size: Any) -> None:
    for name in ("plain", "cube"):
        said = refused(bad[name], (3, 3), size, ValueError)
        assert said == "size: an angle needs celestial coordinates; give it in pixels"


def test_a_sky_position_without_celestial_coordinates(bad: dict[str, HDU]) -> None:
    for name in ("plain", "cube"):
        assert "celestial" in refused(bad[name], SKY_POSITION, 3, ValueError)


def test_more_pixels_than_anybody_can_want(bad: dict[str, HDU]) -> None:
    most = "size: expected at most 1099511627776 pixels, found"
    hdu = bad["celestial"]
    for size, shape in (
        ((1 << 20) + 1, "1048577 x 1048577"),
        ((1 << 30, (1 << 10) + 1), "1073741824 x 1025"),
        (1 << 50, f"{1 << 50} x {1 << 50}"),
    ):
        said = refused(hdu, (9, 9), size, ValueError, mode="partial")
        assert said == f"{most} {shape}"
        assert hdu.cutout((9, 9), size).data.shape == (NY, NX), "it is trimmed to the image"
    assert hdu.cutout((9, 9), 1 << 20, mode="partial").data.size == 1 << 40
    said = refused(bad["cube"], (2, 2), 1 << 19, ValueError, mode="partial")
    assert said == f"{most} 6 x 524288 x 524288"


def test_more_pixels_than_a_float_can_count(bad: dict[str, HDU]) -> None:
    refused(bad["celestial"], (9, 9), 10**400, ValueError, mode="partial")
    assert bad["celestial"].cutout((9, 9), 10**400).data.shape == (NY, NX)


def test_what_is_no_image_of_two_axes(bad: dict[str, HDU]) -> None:
    for name, found in (
        ("spectrum", f"a cutout needs two axes, found shape ({NX},)"),
        ("empty", "NAXIS = 0"),
        ("table", "expected an image, found bintable"),
    ):
        for mode in MODES:
            said = refused(bad[name], (9, 9), 4, NotAnImageError, mode=mode)
            assert said.startswith(found)


@pytest.mark.parametrize("mode", ["full", "", None, "Trim", "partial "])
def test_a_mode_that_is_none(bad: dict[str, HDU], mode: Any) -> None:
    said = f"mode: expected one of trim, partial, strict, found {mode!r}"
    with pytest.raises(ValueError, match=said):
        bad["celestial"].cutout((9, 9), 4, mode=mode)


def test_a_mode_that_is_none_is_told_of_with_the_file(bad: dict[str, HDU]) -> None:
    refused(bad["celestial"], (9, 9), 4, ValueError, mode="full")


@pytest.mark.parametrize(
    "fill",
    [
        NAN,
        np.float32(np.nan),
        INF,
        1.5,
        np.float64(1.5),
        1 << 15,
        1e6,
        "x",
        None,
        1j,
        np.complex128(1),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", ["integers", "packed"])
def test_a_fill_value_that_integers_do_not_have(bad: dict[str, HDU], name: str, fill: Any) -> None:
    hdu = bad[name]
    edges = [(0, 30), (30, 0), (NX - 1, 30), (30, NY - 1)]
    for position, size in [*((edge, 10) for edge in edges), ((30, 30), 200), (SKY_POSITION, 200)]:
        said = refused(hdu, position, size, ValueError, mode="partial", fill_value=fill)
        assert said == f"fill_value: expected a value of the image's type int16, found {fill!r}"


@pytest.mark.parametrize("name", ["integers", "packed"])
def test_a_fill_value_that_is_not_needed(bad: dict[str, HDU], name: str) -> None:
    for position, size in (((30, 30), 10), ((39.5, 29.5), (NY, NX)), ((4.5, 4.5), 10)):
        for fill in (NAN, 1.5, "x"):
            found = bad[name].cutout(position, size, mode="partial", fill_value=fill)
            expected = Cutout2D(INTEGERS, position, size, mode="partial")
            assert same_bits(found.data.compute(scheduler="sync"), expected.data)
    for mode in ("trim", "strict"):
        found = bad[name].cutout((3, 3), 6, mode=mode)
        assert same_bits(found.data.compute(scheduler="sync"), INTEGERS[:6, :6])


@pytest.mark.parametrize("fill", [0, -300, 2.0, np.int64(7), np.float32(9.0), True, np.uint8(200)])
def test_a_fill_value_that_integers_have(bad: dict[str, HDU], fill: Any) -> None:
    found = bad["integers"].cutout((0, 0), 8, mode="partial", fill_value=fill)
    expected = Cutout2D(INTEGERS, (0, 0), 8, mode="partial", fill_value=fill).data
    assert same_bits(found.data.compute(scheduler="sync"), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_box_off_the_image_is_told_of(bad: dict[str, HDU], mode: Any) -> None:
    asked_for = "a box of 4 x 6 pixels around x = -30, y = 7"
    found = "expected an overlap with the image of 60 x 80 pixels"
    said = refused(bad["celestial"], (-30, 7), (4, 6), dask_fits.NoOverlapError, mode=mode)
    assert said == f"{asked_for} lies off the image, {found}"
    said = refused(bad["celestial"], (-1, 7), (4, 6), dask_fits.PartialOverlapError, mode="strict")
    assert said == f"a box of 4 x 6 pixels around x = -1, y = 7 reaches over its edge, {found}"
    far = SkyCoord(190.0, -20.0, unit="deg")
    refused(bad["celestial"], far, 4, dask_fits.NoOverlapError, mode=mode)


# The cost model in reads

COUNT, WIDTH = 128, 4096
ROW = WIDTH * 4
GRID = np.arange(COUNT * WIDTH, dtype="f4").reshape(COUNT, WIDTH)
GRID_FILE = primary(WIDTH, COUNT, bitpix=-32) + GRID.astype(">f4").tobytes()


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A server of ``grid.fits``: 128 rows of 16 KiB."""
    root = tmp_path_factory.mktemp("grid")
    (root / "grid.fits").write_bytes(GRID_FILE + bytes(-len(GRID_FILE) % BLOCK))
    with RangeServer(root) as server:
        yield server


def requests(server: RangeServer, key: Any, transfer: TransferConfig | None) -> int:
    """How many requests a section and a cutout make, which both are planned."""
    hdu = dask_fits.open(f"{server.url}/grid.fits", transfer=transfer)[0]
    until(lambda: server.busy == 0)
    server.clear()
    plan = hdu.plan(key)
    assert same_bits(hdu.section[key], GRID[key])
    ranges = sorted(asked(server))
    assert ranges == [(r.start, r.stop) for r in plan.ranges]
    server.clear()
    assert same_bits(hdu.data[key].compute(scheduler="sync"), GRID[key])
    assert sorted(asked(server)) == ranges
    return len(ranges)


def column(count: int, step: int = 1) -> Any:
    """Twenty pixels of each of so many rows: gaps of 16,304 bytes, or of whole rows more."""
    return np.s_[4 : 4 + count * step : step, 100:120]


COSTS: list[tuple[int, int, CostModel, int]] = [
    # Up to `connections` runs are fetched apart, of more the gaps up to 64 KiB are read over.
    (16, 1, CostModel(), 16),
    (17, 1, CostModel(), 1),
    (17, 4, CostModel(), 1),
    (17, 5, CostModel(), 17),
    (4, 3, CostModel(connections=4), 4),
    (5, 3, CostModel(connections=4), 1),
    (5, 16, CostModel(connections=4), 1),
    (5, 17, CostModel(connections=4), 5),
    # latency * bandwidth / connections is the gap: here 256 KiB, and 4 KiB.
    (17, 7, CostModel(latency=0.2), 1),
    (17, 1, CostModel(latency=0.002), 17),
    (17, 1, CostModel(bandwidth=35e5), 17),
    (17, 7, CostModel(bandwidth=35e7), 1),
    (100, 1, CostModel(latency=0), 100),
    # A gap of less than an eighth of it is always read over.
    (2, 1, CostModel(latency=0.15), 1),
    (2, 2, CostModel(latency=0.1), 2),
    # Eight latencies' worth are 256 KiB: sixteen rows to a range.
    (40, 1, CostModel(latency=0.001, connections=1), 3),
]


@pytest.mark.parametrize(("count", "step", "cost", "expected"), COSTS, ids=str)
def test_the_cost_model_reaches_reads(
    grid: RangeServer, count: int, step: int, cost: CostModel, expected: int
) -> None:
    assert requests(grid, column(count, step), TransferConfig(cost=cost)) == expected


def test_the_defaults_are_those_of_the_cost_model(grid: RangeServer) -> None:
    for count, expected in ((16, 16), (17, 1)):
        assert requests(grid, column(count), None) == expected
        assert requests(grid, column(count), TransferConfig()) == expected


def test_connections_are_no_more_than_requests_in_flight(grid: RangeServer) -> None:
    many = CostModel(connections=64)
    for most, count, step, expected in (
        (64, 64, 1, 64),
        (64, 65, 1, 1),
        (32, 32, 1, 32),
        (32, 33, 1, 1),
        (8, 8, 2, 8),
        (8, 9, 2, 1),
        (1, 2, 60, 1),
    ):
        transfer = TransferConfig(cost=many, max_concurrency=most)
        assert requests(grid, column(count, step), transfer) == expected
    few = TransferConfig(cost=CostModel(connections=4), max_concurrency=32)
    assert requests(grid, column(5, 3), few) == 1, "nor are they raised to it"


def test_a_filesystem_that_is_not_asynchronous_counts_as_one_connection() -> None:
    """A gap of up to 1 MiB is cheaper than a request more."""
    url = put("grid.fits", GRID_FILE + bytes(-len(GRID_FILE) % BLOCK))
    for transfer in (None, TransferConfig(cost=CostModel(connections=64))):
        hdu = dask_fits.open(url, transfer=transfer)[0]
        for key, expected in (
            (column(10), 1),
            (column(2, 64), 1),
            (column(2, 65), 2),
            (column(1), 1),
        ):
            LOG.clear()
            assert same_bits(hdu.section[key], GRID[key])
            ranges = RecordingFileSystem.ranges()
            assert len(ranges) == expected == hdu.plan(key).requests
            assert ranges == [(r.start, r.stop) for r in hdu.plan(key).ranges]


def test_a_cutout_is_read_by_the_cost_model(grid: RangeServer) -> None:
    for connections, expected in ((16, 10), (8, 1)):
        transfer = TransferConfig(cost=CostModel(connections=connections))
        hdu = dask_fits.open(f"{grid.url}/grid.fits", transfer=transfer)[0]
        found = hdu.cutout((0, 60), (10, 20), mode="partial", fill_value=0)
        until(lambda: grid.busy == 0)
        grid.clear()
        assert same_bits(found.data.compute(scheduler="sync")[:, 10:], GRID[55:65, :10])
        assert grid.requests == expected == hdu.plan(found.slices).requests


def test_the_cost_model_changes_no_name(grid: RangeServer) -> None:
    names = {
        dask_fits.open(f"{grid.url}/grid.fits", transfer=TransferConfig(cost=cost))[0]
        .cutout((0, 60), 10)
        .data.name
        for cost in (CostModel(), CostModel(latency=1), CostModel(connections=1))
    }
    assert len(names) == 1
