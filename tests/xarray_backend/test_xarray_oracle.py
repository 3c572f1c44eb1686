"""Images in xarray are what astropy reads, whatever is done to them and wherever they are kept."""

from __future__ import annotations

import copy
import io
import pickle
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from dask_fits import FitsError, FitsWarning, NotAnImageError, TruncatedFileError
from tests.support.corpus import (
    COVERED,
    DATA_FILES,
    UNREADABLE,
    cards,
    each,
    needs_corpus,
    placed,
    quiet_astropy,
    random_keys,
)
from tests.support.data import M13
from tests.support.fits_files import blocks, card, primary, same_bits
from tests.support.pairwise import pairwise
from tests.support.recording import put
from tests.support.tiled_files import tiled_file
from tests.support.worlds import IMAGES, SIP, TAN, Keywords, cube, image, whole, written

# What astropy mends in a header, it tells; zarr, that its consolidated metadata are new.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::astropy.utils.exceptions.AstropyWarning", "ignore:Consolidated metadata"
    ),
    pytest.mark.untraced,
]

CHUNKS: list[Any] = [None, {}, "auto"]
ALL_PIXELS = 1 << 14
"""Images of up to so many pixels are read as a whole with any chunks; larger ones without them."""

# Real files


def images(file: fits.HDUList) -> dict[int, Any]:
    """The HDUs that hold images, by their index."""
    return {
        index: hdu
        for index, hdu in enumerate(file)
        if hdu.is_image and not isinstance(hdu, fits.GroupsHDU) and hdu.header.get("NAXIS")
    }


def lines(text: str) -> list[str]:
    """The cards of a header, but for EXTEND, which astropy adds."""
    found = [line.rstrip() for line in text.split("\n")]
    return [line for line in found if not line.startswith("EXTEND  =")]


def header_lines(header: fits.Header) -> list[str]:
    text = header.tostring(endcard=False, padding=False)
    return lines("\n".join(text[start : start + 80] for start in range(0, len(text), 80)))


def pixels(hdu: Any) -> np.ndarray | None:
    """What astropy reads, in native order; None where it cannot."""
    try:
        data = hdu.data
    except (ValueError, TypeError, OSError):
        return None
    return data.astype(data.dtype.newbyteorder("="))


def has_broken_wcs(hdu: Any, file: fits.HDUList) -> bool:
    try:
        whole(lambda: WCS(hdu.header, fobj=file))
    except Exception:  # noqa: BLE001 (whatever astropy raises)
        return True
    return False


def opened_tree(url: Any, **options: Any) -> tuple[dict[str, xr.DataArray], set[int]]:
    """All variables of a file, by their path, and the HDUs that were opened without their WCS."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitsWarning)
        tree = xr.open_datatree(url, engine="fits", cache=False, **options)
    told = [str(w.message) for w in caught if issubclass(w.category, FitsWarning)]
    matches = [re.search(r": HDU (\d+) .*no WCS.*without one", text) for text in told]
    found = {
        f"{node.path}/{name}": array
        for node in tree.subtree
        for name, array in node.data_vars.items()
    }
    return found, {int(match[1]) for match in matches if match}


def paired(
    found: dict[str, xr.DataArray], headers: dict[int, list[str]], data: dict[int, Any]
) -> dict[str, int]:
    """The HDU of each variable: that of its header, and of its pixels where headers are alike."""
    left, pairs = dict(headers), {}
    for path, array in found.items():
        own = lines(array.attrs["header"])
        alike = [index for index, header in left.items() if header == own]
        if len(alike) > 1:
            alike = [n for n in alike if same_bits(array.compute(), data[n])]
        assert alike, f"{path}: no HDU has its header"
        del left[alike[0]]
        pairs[path] = alike[0]
    assert left == {}, "these are not in the tree"
    return pairs


def outer(data: np.ndarray, key: tuple[Any, ...]) -> np.ndarray:
    """Index each axis by itself."""
    for axis in reversed(range(data.ndim)):
        data = data[(slice(None),) * axis + (key[axis],)]
    return data


def some_keys(shape: tuple[int, ...], seed: str) -> Iterator[tuple[Any, ...]]:
    """Integers, slices with steps, backwards too, a list or two, repeats among them."""
    yield from random_keys(shape, seed, 3)
    yield tuple(slice(length // 2, None, -2) for length in shape)
    rng = random.Random(seed)
    lists = [[rng.randrange(-length, length) for _ in range(3)] for length in shape[-2:]]
    yield (*(slice(0, 2) for _ in shape[:-2]), *lists)
    yield tuple([0, length // 2, length // 2, length - 1] for length in shape)


def assert_selections(array: xr.DataArray, data: np.ndarray, seed: str) -> None:
    dims, turned = array.dims, array.transpose(*array.dims[::-1])
    checks: list[tuple[Any, np.ndarray]] = []
    for n, key in enumerate(some_keys(data.shape, seed)):
        expected, by_name = outer(data, key), dict(zip(dims, key, strict=True))
        checks.append((array.isel(by_name), expected))
        # xarray cannot take one value of what it has turned and not read.
        if n in (0, 4) and not all(isinstance(part, int) for part in key):
            checks.append((turned.isel(by_name), expected.T))
    places = {
        dim: [0, length // 3, length - 1]
        for dim, length in array.sizes.items()
        if array.indexes[dim].is_unique
    }
    labels = {dim: array.indexes[dim][place] for dim, place in places.items()}
    expected = outer(data, tuple(places.get(dim, slice(None)) for dim in dims))
    checks.append((array.sel(labels), expected))
    found = dask.compute(*[each.data if array.chunks else each.values for each, _ in checks])
    for n, (values, (_, expected)) in enumerate(zip(found, checks, strict=True)):
        assert same_bits(values, expected), n


def assert_reductions(array: xr.DataArray, data: np.ndarray) -> None:
    """The same bits as NumPy's without chunks, and as good with them."""
    is_float = data.dtype.kind == "f"
    top, mean = (np.nanmax, np.nanmean) if is_float else (np.max, np.mean)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(array.max(), top(data))
        np.testing.assert_array_equal(array.max(array.dims[0]), top(data, axis=0))
        if array.chunks is None:
            assert same_bits(array.mean(), mean(data))
            assert same_bits(array.mean(array.dims[-1]), mean(data, axis=-1))
        else:
            size = float(mean(np.abs(data.astype("f8"))))
            found = float(array.mean(dtype="f8"))
            np.testing.assert_allclose(found, mean(data.astype("f8")), atol=1e-12 * size)


def assert_pixels(array: xr.DataArray, data: np.ndarray, seed: str, *, few: bool) -> None:
    assert array.dtype == data.dtype
    assert array.shape == data.shape
    if array.chunks is None or data.size <= ALL_PIXELS:
        assert same_bits(array.compute(scheduler="sync").values, data)
    if few:
        part = slice(array.sizes[array.dims[0]] // 2, None, -2)
        assert same_bits(array[part], data[part])
    elif data.size:
        assert_selections(array, data, seed)
        if array.chunks is None or data.size <= ALL_PIXELS:
            assert_reductions(array, data)


def assert_all_images(url: Any, file: fits.HDUList, seed: str) -> None:
    hdus = images(file)
    if not hdus:
        with pytest.raises(NotAnImageError, match="none of the"):
            xr.open_datatree(url, engine="fits")
        return
    broken = {index for index, hdu in hdus.items() if has_broken_wcs(hdu, file)}
    headers = {index: header_lines(hdu.header) for index, hdu in hdus.items()}
    data = {index: pixels(hdu) for index, hdu in hdus.items()}  # which changes headers
    for chunks in CHUNKS:
        found, told = opened_tree(url, chunks=chunks)
        assert told == broken
        for path, index in paired(found, headers, data).items():
            array, expected = found[path], data[index]
            assert (array.chunks is None) == (chunks is None)
            if expected is None:
                with pytest.raises(TruncatedFileError, match=f"HDU {index}:"):
                    array.compute(scheduler="sync")
            else:
                assert_pixels(array, expected, seed, few=chunks == "auto")


@pytest.fixture
def one_thread() -> Iterator[None]:
    with dask.config.set(scheduler="sync"):
        yield


@needs_corpus
@pytest.mark.usefixtures("one_thread")
@each([entry for entry in COVERED if entry.get("hdus")])
def test_a_real_file(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, content), quiet_astropy(content) as file:
        assert_all_images(url, file, entry["file"])


@needs_corpus
@each(UNREADABLE)
def test_a_file_that_nobody_can_read(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, _):
        for open_it in (xr.open_dataset, xr.open_datatree, xr.open_groups):
            with pytest.raises(FitsError, match="HDU 0"):
                open_it(url, engine="fits")


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_a_file_of_this_checkout(path: Path) -> None:
    with fits.open(path) as file:
        assert_all_images(path, file, path.name)


@pytest.mark.parametrize(
    "path", [path for path in DATA_FILES if path.name != "m13.fits"], ids=lambda path: path.name
)
def test_two_lists_of_a_compressed_image(path: Path) -> None:
    data = pixels(fits.open(path)[1])
    ds = xr.open_dataset(path, engine="fits", cache=False)
    array = ds[next(iter(ds))]
    for lists in ([0, 1, 3], [2, 3, 6]), ([3, -5, -4], [4, -4, 5]), ([0, 1, 3], [1, 5, 6, 7, 9]):
        assert same_bits(array[lists], data[np.ix_(*lists)])


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_file_that_is_cut_short(tmp_path: Path, chunks: Any) -> None:
    path = tmp_path / "cut.fits"
    path.write_bytes(M13.read_bytes()[:-90_000])
    with pytest.warns(FitsWarning, match="truncated"):
        ds = xr.open_dataset(path, engine="fits", chunks=chunks, cache=False)
    assert ds.sizes == {"y": 300, "x": 300}
    with pytest.raises(TruncatedFileError, match=r"cut\.fits: HDU 0"):
        ds.compute(scheduler="sync")
    there = ds.PRIMARY[:100, ::7].compute(scheduler="sync")
    assert same_bits(there, fits.getdata(M13)[:100, ::7])


# Stored values

RNG = np.random.default_rng(12)
INTEGERS = RNG.integers(-900, 900, (7, 9)).astype("i2")
INTEGERS[2, 3:7] = -32768


def plain(**keywords: Any) -> bytes:
    extra = [card(key, value) for key, value in keywords.items()]
    return primary(9, 7, bitpix=16, extra=extra) + blocks(INTEGERS.astype(">i2").tobytes())


SCALED: dict[str, tuple[bytes, str]] = {
    "scaled": (plain(BSCALE=0.25, BZERO=-7.5), "f4"),
    "BLANK": (plain(BLANK=-32768), "f4"),
    "scaled BLANK": (plain(BSCALE=0.1, BZERO=3.0, BLANK=-32768), "f4"),
    "unsigned": (plain(BZERO=32768), "u2"),
    "as they are": (plain(), "i2"),
    "compressed, scaled": (
        tiled_file(
            INTEGERS, zcmptype="RICE_1", tile=(3, 9), cards=[("BSCALE", 0.5), ("BZERO", 10.0)]
        ),
        "f4",
    ),
    "compressed, unsigned": (
        tiled_file(INTEGERS, zcmptype="GZIP_1", tile=(1, 9), cards=[("BZERO", 32768)]),
        "u2",
    ),
}


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("name", SCALED)
def test_scaled_and_stored_values(name: str, chunks: Any) -> None:
    content, dtype = SCALED[name]
    url, index = put("a.fits", content), int("compressed" in name)
    with fits.open(io.BytesIO(content)) as file:
        expected = file[index].data
    with fits.open(io.BytesIO(content), do_not_scale_image_data=True) as file:
        stored = file[index].data
    assert expected.dtype.newbyteorder("=") == dtype
    variable = "COMPRESSED_IMAGE" if index else "PRIMARY"

    def read(**options: Any) -> xr.DataArray:
        return xr.open_dataset(url, engine="fits", chunks=chunks, **options)[variable]

    for options in ({}, {"mask_and_scale": True}, {"decode_cf": True}, {"mask_and_scale": {}}):
        assert same_bits(read(**options), expected)
    for options in (
        {"mask_and_scale": False},
        {"decode_cf": False},
        {"mask_and_scale": {variable: False}},
    ):
        found = read(**options)
        assert same_bits(found, stored)
        assert cards(found.fits.header) == cards(read().fits.header)
    assert same_bits(read(mask_and_scale={"OTHER": False}), expected)
    tree = xr.open_datatree(url, engine="fits", chunks=chunks, mask_and_scale=False)
    assert same_bits(tree[f"{variable}/{variable}"], stored)


# To zarr, to netCDF, and back


def filled(hdus: list[Any], dtype: str = "f4") -> bytes:
    """A file of these HDUs, with pixels in the one that is named SCI."""
    shape = hdus[0].shape
    hdus[0].data = RNG.integers(-900, 900, shape).astype(dtype)
    hdus[0].header["BUNIT"] = "Jy/beam"
    return written(*hdus)


def with_long_header() -> list[Any]:
    hdu = image(TAN)
    for n in range(1500):
        hdu.header[f"KEY{n}"] = (n / 7, f"the value of keyword {n}")
    hdu.header["HIERARCH ESO DET CHIP1 NAME"] = ("CCD/44-82", "of the detector")
    hdu.header["HIERARCH a lower case and very very long keyword"] = "value"
    for text in ("a comment", "", "  one that is indented  ", "a long one " * 20):
        hdu.header.add_comment(text)
        hdu.header.add_history(text)
        hdu.header.add_blank(text)
    hdu.header["EMPTY"] = ""
    hdu.header["UNDEF"] = fits.card.UNDEFINED
    hdu.header["SLASH"] = "a / b"
    hdu.header["TRUTH"] = True
    hdu.header["COMPLEX"] = 1.5 - 2j
    return [hdu]


def digits() -> Keywords:
    """Keywords with more digits than a WCS that astropy pickles has."""
    return {
        **TAN,
        "CRVAL1": 10 + 1 / 3,
        "CRVAL2": -20 - 1 / 7,
        "CRPIX1": 47 + 1 / 3,
        "CD1_1": -1e-4 / 3,
    }


def with_continued_cards() -> list[Any]:
    hdu = image(TAN)
    for n in range(20):
        hdu.header[f"TEXT{n}"] = ("It's 'quoted' & long " * (4 + n), "and has a comment" * (n % 7))
    hdu.header["LONGSTRN"] = "OGIP 1.0 "
    return [hdu]


RADIO = cube("RA", "DEC", "FREQ", "STOKES") | {"CRPIX4": 1.0, "RESTFRQ": 1.42e9}
KEPT: dict[str, Callable[[], bytes]] = {
    "m13": M13.read_bytes,
    "m13_rice": (M13.parent / "m13_rice.fits").read_bytes,
    "radio cube": lambda: filled([image(RADIO, 4, 6, 20, 30)]),
    "SIP": lambda: filled([image(SIP)]),
    "many digits": lambda: filled([image(digits())]),
    "lookup tables": lambda: filled(IMAGES["all that HST has"]()),
    "-TAB": lambda: filled(IMAGES["-TAB"]()),
    "unsigned": lambda: filled([image(TAN)], "u2"),
    "BLANK": lambda: plain(BLANK=-32768, BUNIT="adu", CTYPE1="FREQ", CRVAL1=1e9, CDELT1=0.1),
    "long header": lambda: filled(with_long_header()),
    "CONTINUE": lambda: filled(with_continued_cards()),
}


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: make() for name, make in KEPT.items()}


def image_index(content: bytes) -> int:
    with quiet_astropy(content) as file:
        return next(iter(images(file)))


def assert_as_in_the_file(ds: xr.Dataset, content: bytes) -> None:
    """That pixels, header and WCS are those that astropy finds."""
    array = ds[next(iter(ds.data_vars))]
    with quiet_astropy(content) as file:
        hdu = file[image_index(content)]
        wcs = WCS(hdu.header, fobj=file)
        assert same_bits(array, pixels(hdu))
        assert cards(array.fits.header) == cards(ds.fits.header) == cards(hdu.header)
        assert cards(ds.fits.primary_header) == cards(file[0].header)
        assert array.attrs["units"] == hdu.header["BUNIT"] if "BUNIT" in hdu.header else True
    at = np.random.default_rng(1).uniform(-5, 100, (wcs.naxis, 50))
    for obj in (ds, array):
        found = obj.fits.wcs
        assert found.wcs == wcs.wcs
        assert found.array_shape == array.shape
        assert same_bits(found.pixel_to_world_values(*at), wcs.pixel_to_world_values(*at))


def to_zarr(ds: xr.Dataset, place: Path) -> xr.Dataset:
    ds.to_zarr(place / "a.zarr")
    return xr.open_zarr(place / "a.zarr")


def to_netcdf(ds: xr.Dataset, place: Path) -> xr.Dataset:
    ds.to_netcdf(place / "a.nc", engine="h5netcdf")
    return xr.open_dataset(place / "a.nc", engine="h5netcdf")


def pickled(ds: xr.Dataset, place: Path) -> xr.Dataset:
    return pickle.loads(pickle.dumps(ds))


def deeply_copied(ds: xr.Dataset, place: Path) -> xr.Dataset:
    return copy.deepcopy(ds)


WAYS = [to_zarr, to_netcdf, pickled, deeply_copied]


@pytest.mark.parametrize(("name", "way", "chunks"), pairwise(list(KEPT), WAYS, [None, {}]))
def test_there_and_back(
    kept: dict[str, bytes], tmp_path: Path, name: str, chunks: Any, way: Callable[..., Any]
) -> None:
    ds = xr.open_dataset(put("a.fits", kept[name]), engine="fits", chunks=chunks, cache=False)
    found = way(ds, tmp_path)
    assert_as_in_the_file(found, kept[name])
    assert_as_in_the_file(ds, kept[name])
    xr.testing.assert_identical(found, ds)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["m13", "SIP", "lookup tables", "radio cube", "many digits"])
def test_coordinates_of_the_sky_there_and_back(
    kept: dict[str, bytes], tmp_path: Path, name: str, way: Callable[..., Any]
) -> None:
    url = put("a.fits", kept[name])
    ds = xr.open_dataset(url, engine="fits", world_coords=True)
    found = way(ds, tmp_path)
    assert_as_in_the_file(found, kept[name])
    with quiet_astropy(kept[name]) as file:
        wcs = WCS(file[image_index(kept[name])].header, fobj=file)
    sky = wcs if wcs.naxis == 2 else wcs.celestial
    y, x = np.indices((ds.sizes["y"], ds.sizes["x"]), dtype=float)
    for coordinate, expected in zip(("ra", "dec"), sky.pixel_to_world_values(x, y), strict=True):
        assert found[coordinate].dims == ("y", "x")
        assert same_bits(found[coordinate], expected)
        assert found[coordinate].attrs == ds[coordinate].attrs
        assert found[coordinate].attrs["units"] == "deg"


def test_what_was_selected_there_and_back(kept: dict[str, bytes], tmp_path: Path) -> None:
    ds = xr.open_dataset(put("a.fits", kept["lookup tables"]), engine="fits", chunks={})
    cut = ds.isel(y=slice(10, 70, 3), x=slice(None, None, -1))
    whole, at = ds.fits.wcs, np.arange(20.0)
    expected = whole.pixel_to_world_values(99 - at, 10 + 3 * at)
    for way in WAYS:
        found = way(cut, tmp_path)
        xr.testing.assert_identical(found.compute(), cut.compute())
        assert same_bits(
            found.fits.wcs.pixel_to_world_values(at, at), cut.fits.wcs.pixel_to_world_values(at, at)
        )
        np.testing.assert_allclose(found.fits.wcs.pixel_to_world_values(at, at), expected)


def two_grids(kept: dict[str, bytes]) -> bytes:
    hdus = [image(SIP), image(RADIO, 4, 6, 20, 30)]
    for hdu, name in zip(hdus, ("FLAT", "CUBE"), strict=True):
        hdu.data, hdu.name = RNG.random(hdu.shape).astype("f4"), name
    return written(*hdus)


@pytest.mark.parametrize("way", ["zarr", "netcdf", "pickle"])
def test_a_tree_there_and_back(kept: dict[str, bytes], tmp_path: Path, way: str) -> None:
    content = two_grids(kept)
    tree = xr.open_datatree(put("a.fits", content), engine="fits", chunks={})
    assert [node.path for node in tree.leaves] == ["/FLAT", "/CUBE"]
    if way == "zarr":
        tree.to_zarr(tmp_path / "a.zarr")
        found = xr.open_datatree(tmp_path / "a.zarr", engine="zarr", chunks={})
    elif way == "netcdf":
        tree.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        found = xr.open_datatree(tmp_path / "a.nc", engine="h5netcdf")
    else:
        found = pickle.loads(pickle.dumps(tree))
    xr.testing.assert_identical(found, tree)
    with quiet_astropy(content) as file:
        for name in ("FLAT", "CUBE"):
            array = found[f"{name}/{name}"]
            assert same_bits(array, pixels(file[name]))
            assert cards(array.fits.header) == cards(file[name].header)
            at = np.ones((array.ndim, 3)) * [0, 1, 2]
            expected = WCS(file[name].header).pixel_to_world_values(*at)
            assert same_bits(array.fits.wcs.pixel_to_world_values(*at), expected)


# Many files


def exposures(tmp_path: Path, count: int = 4, **changes: float) -> tuple[list[Path], np.ndarray]:
    """Files of one pixel grid, or with a keyword that differs; and their pixels."""
    data, paths = RNG.integers(0, 99, (count, 30, 40)).astype("f4"), []
    for n, values in enumerate(data):
        hdu = fits.PrimaryHDU(values, fits.Header(digits()))
        hdu.header["BUNIT"] = "adu"
        for key, value in changes.items():
            hdu.header[key] = hdu.header.get(key, 0) + value * n
        paths.append(tmp_path / f"{n}.fits")
        hdu.writeto(paths[-1])
    return paths, data


def stacked(paths: list[Path], **options: Any) -> xr.Dataset:
    options = {"join": "exact", "combine_attrs": "drop_conflicts", **options}
    return xr.open_mfdataset(
        paths, engine="fits", combine="nested", concat_dim="exposure", **options
    )


@pytest.mark.parametrize("parallel", [False, True])
def test_a_stack_of_exposures(tmp_path: Path, parallel: bool) -> None:
    paths, data = exposures(tmp_path)
    ds = stacked(paths, parallel=parallel)
    assert ds.PRIMARY.dims == ("exposure", "y", "x")
    assert ds.PRIMARY.chunks is not None
    assert same_bits(ds.PRIMARY, data)
    assert same_bits(ds.PRIMARY[2, 3:9, ::-5], data[2, 3:9, ::-5])
    np.testing.assert_allclose(ds.PRIMARY.median("exposure"), np.median(data, axis=0))
    assert ds.PRIMARY.attrs["units"] == "adu"
    wcs = WCS(fits.getheader(paths[0]))
    found = ds.isel(x=slice(3, None)).fits.wcs
    at = np.arange(9.0)
    assert found.naxis == 2
    expected = wcs.pixel_to_world_values(at + 3, at)
    np.testing.assert_allclose(found.pixel_to_world_values(at, at), expected, rtol=1e-13)


def test_a_stack_of_exposures_with_different_keywords(tmp_path: Path) -> None:
    paths, _ = exposures(tmp_path, EXPTIME=3.0)
    ds = stacked(paths)
    assert ds.fits.wcs.naxis == 2
    with pytest.raises(ValueError, match=r"found no attribute 'header'.*drop_conflicts"):
        _ = ds.fits.header
    assert stacked(paths, combine_attrs="override").fits.header["EXPTIME"] == 0


def test_a_stack_of_different_fields_has_no_wcs(tmp_path: Path) -> None:
    paths, data = exposures(tmp_path, CRVAL1=1e-9)
    ds = stacked(paths)
    assert same_bits(ds.PRIMARY, data)
    for obj in (ds, ds.PRIMARY):
        with pytest.raises(ValueError, match=r"found no attribute 'wcs'.*drop_conflicts"):
            _ = obj.fits.wcs
    first = stacked(paths, combine_attrs="override").fits.wcs
    assert first.wcs.crval[0] == digits()["CRVAL1"]


# What people do with it


@pytest.fixture
def flat(kept: dict[str, bytes]) -> tuple[xr.DataArray, np.ndarray]:
    """The image of m13 in chunks, and its pixels by astropy."""
    data = pixels(fits.PrimaryHDU(fits.getdata(M13)))
    return xr.open_dataset(M13, engine="fits", chunks={}).PRIMARY.chunk(y=70, x=90), data


def test_groups(flat: tuple[xr.DataArray, np.ndarray]) -> None:
    array, data = flat
    means = array.groupby(array.x // 100).mean()
    expected = data.reshape(300, 3, 100).mean((0, 2), dtype="f8")
    np.testing.assert_allclose(means.mean("y") if "y" in means.dims else means, expected, rtol=1e-5)
    bins = array.groupby_bins("y", [-1, 99, 149, 299]).max()
    expected = [data[:100].max(0), data[100:150].max(0), data[150:].max(0)]
    np.testing.assert_array_equal(bins.transpose("y_bins", ...), expected)


def test_bins_and_masks(flat: tuple[xr.DataArray, np.ndarray]) -> None:
    array, data = flat
    binned = array.coarsen(y=3, x=4).max()
    np.testing.assert_array_equal(binned, data.reshape(100, 3, 75, 4).max((1, 3)))
    np.testing.assert_array_equal(binned.x, np.arange(75) * 4 + 1.5)
    masked = array.where((array.y > 100) & (array.x < 7) & (array > 200), drop=False)
    y, x = np.indices(data.shape)
    expected = np.where((y > 100) & (x < 7) & (data > 200), data, np.nan)
    np.testing.assert_array_equal(masked, expected)
    np.testing.assert_array_equal(array.where(array.x >= 290, drop=True), data[:, 290:])
    sky = xr.open_dataset(M13, engine="fits", chunks={}, world_coords=True)
    wcs = WCS(fits.getheader(M13))
    north = wcs.pixel_to_world_values(x, y)[1] > 36.46
    assert 0 < north.mean() < 1
    np.testing.assert_array_equal(sky.PRIMARY.where(sky.dec > 36.46), np.where(north, data, np.nan))


def test_blocks(flat: tuple[xr.DataArray, np.ndarray]) -> None:
    array, data = flat
    found = array.map_blocks(lambda block: block * 2 + block.x)
    assert same_bits(found, data * np.float32(2) + np.arange(300))
    smooth = xr.apply_ufunc(np.sqrt, array, dask="parallelized", output_dtypes=[array.dtype])
    np.testing.assert_array_equal(smooth, np.sqrt(data))
    assert array.map_blocks(lambda block: block).fits.wcs.wcs == array.fits.wcs.wcs


@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("dim", ["freq", "stokes", "y", "x"])
def test_slices_that_are_put_together_again(kept: dict[str, bytes], dim: str, chunks: Any) -> None:
    ds = xr.open_dataset(put("a.fits", kept["radio cube"]), engine="fits", chunks=chunks)
    half = ds.sizes[dim] // 2
    parts = [ds.isel({dim: slice(half)}), ds.isel({dim: slice(half, None)})]
    again = xr.concat(parts, dim)
    xr.testing.assert_identical(again, ds)
    assert_as_in_the_file(again, kept["radio cube"])
    shuffled = xr.combine_by_coords(parts[::-1]) if dim != "stokes" else again
    xr.testing.assert_identical(shuffled, ds)
    planes = [ds.isel({dim: [n]}) for n in range(ds.sizes[dim])]
    xr.testing.assert_identical(xr.concat(planes, dim), ds)


def test_plots(flat: tuple[xr.DataArray, np.ndarray], kept: dict[str, bytes]) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    array, data = flat
    mesh = array[::4, ::4].plot()
    np.testing.assert_array_equal(mesh.get_array().reshape(75, 75), data[::4, ::4])
    plt.figure()
    sky = xr.open_dataset(M13, engine="fits", world_coords=True).PRIMARY[::9, ::9]
    sky.plot(x="ra", y="dec")
    axes = plt.gcf().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("ra [deg]", "dec [deg]")
    plt.figure()
    radio = xr.open_dataset(put("a.fits", kept["radio cube"]), engine="fits", chunks={}).SCI
    (line,) = radio.sel(stokes="I").mean(["y", "x"]).plot()
    assert same_bits(line.get_xdata(), radio.freq)
    plt.figure()
    radio.isel(x=3, y=4).plot.line(x="freq", hue="stokes")
    plt.figure()
    array.isel(x=slice(5), y=slice(5)).plot.hist()
    plt.close("all")
