"""Coordinates in xarray are astropy's: along axes, of the sky, and of what is left of an image."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

import dask_fits
from dask_fits import FitsWarning
from dask_fits.xarray_backend.sky import SkyTransform
from tests.support.fits_files import card, primary, same_bits
from tests.support.recording import put
from tests.support.worlds import (
    IMAGES,
    NX,
    NY,
    SIP,
    Keywords,
    celestial,
    cube,
    detector_tables,
    image,
    lookup,
    oracle,
    pixel_tables,
    tab_axis,
    tab_table,
    written,
)
from tests.support.xarray_files import axis

# What astropy mends in a header, it tells; and a position that it cannot invert.
pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore:All-NaN slice:RuntimeWarning"
)


def opened(*hdus: Any, **options: Any) -> tuple[xr.Dataset, WCS]:
    """The image SCI of a file of these HDUs, and its WCS by astropy."""
    content = written(*hdus)
    options = {"hdu": "SCI", **options}
    return xr.open_dataset(put("a.fits", content), engine="fits", **options), oracle(content)


def all_world(wcs: WCS, shape: tuple[int, ...]) -> list[np.ndarray]:
    """World coordinates of every pixel, by astropy; axes that the image has not are at pixel 0."""
    at = list(np.indices(shape, dtype=float)[::-1])
    at += [np.zeros(shape)] * (wcs.naxis - len(at))
    found = wcs.pixel_to_world_values(*at)
    return [found] if wcs.naxis == 1 else list(found)


def assert_along(ds: xr.Dataset, wcs: WCS, name: str, world: int) -> None:
    """That a coordinate is what astropy has at every pixel, in the unit that astropy has."""
    found = ds.coords[name]
    assert found.dims == (name,)
    expected = all_world(wcs, ds.SCI.shape)[world]
    whole = found.broadcast_like(ds.SCI).transpose(*ds.SCI.dims)
    assert same_bits(whole, expected)
    assert found.attrs.get("units", "") == wcs.wcs.cunit[world].to_string("fits")
    assert found.attrs.get("ctype", "") == wcs.wcs.ctype[world]
    assert found.attrs.get("physical_type") == wcs.world_axis_physical_types[world]


def assert_pixels(ds: xr.Dataset, *dims: str) -> None:
    """That dimensions count their pixels."""
    for dim in dims:
        np.testing.assert_array_equal(ds.coords[dim], np.arange(ds.sizes[dim]))
        assert ds.coords[dim].attrs == {"units": "pixel"}


# Along one axis

LINES: dict[str, tuple[str, Keywords]] = {
    "frequency": ("freq", axis(1, "FREQ", 1.42e9, 1.3e5, "Hz")),
    "frequency in GHz": ("freq", axis(1, "FREQ", 1.42, 1.3e-4, "GHz")),
    "frequency by wavelength": ("freq", axis(1, "FREQ-W2F", 1.4e9, 1e6, "Hz")),
    "wavelength": ("wavelength", axis(1, "WAVE", 5e-7, 1e-10, "m")),
    "wavelength in nm": ("wavelength", axis(1, "WAVE", 500.3, 0.7, "nm")),
    "wavelength in air": ("wavelength", axis(1, "AWAV", 5003.0, 0.7, "Angstrom")),
    "logarithmic wavelength": ("wavelength", axis(1, "WAVE-LOG", 5e-7, 1e-9, "m")),
    "radio velocity": ("velocity", axis(1, "VRAD", 1e3, 1.1e4, "m/s") | {"RESTFRQ": 1.42e9}),
    "optical velocity": (
        "velocity",
        axis(1, "VOPT-F2W", 1e6, 1.1e5, "m/s") | {"RESTFRQ": 1.42040575e9},
    ),
    "velocity in km/s": ("velocity", axis(1, "VELO", 11.1, -0.7, "km/s")),
    "energy": ("energy", axis(1, "ENER", 1.0, 0.1, "keV")),
    "wave number": ("wavenumber", axis(1, "WAVN", 1e5, 10.0, "1/m")),
    "redshift": ("redshift", axis(1, "ZOPT", 0.7, 0.01)),
    "beta": ("beta", axis(1, "BETA", 0.1, 0.01)),
    "time": ("time", axis(1, "TIME", 10.0, 0.1, "s") | {"MJDREF": 55_000.0}),
    "UTC": ("time", axis(1, "UTC", 10.0, 0.1, "d") | {"MJDREF": 55_000.0}),
    "distance": ("distance", axis(1, "DIST", 10.0, 0.1, "m")),
    "an angle that is not projected": ("glat", axis(1, "GLAT", -30.0, 0.1, "deg")),
    "no physical type": ("axis1", axis(1, "PRESSURE", 1.0, 0.3, "Pa")),
    "no type": ("axis1", axis(1, "", 1.0, 0.3)),
    "one reference value": ("axis1", axis(1, "", 1.0, 1.0, crpix=0.0)),
    "a table": ("wavelength", tab_axis(1)),
}


@pytest.mark.parametrize("name", LINES)
def test_coordinates_along_one_axis(name: str) -> None:
    dim, keywords = LINES[name]
    ds, wcs = opened(image(keywords, 11), tab_table())
    assert ds.SCI.dims == (dim,)
    assert list(ds.coords) == [dim]
    assert_along(ds, wcs, dim, 0)
    if name in ("logarithmic wavelength", "optical velocity", "a table"):
        steps = np.diff(ds[dim])
        assert np.ptp(steps) > 1e-4 * abs(steps).max()
    known = {"frequency in GHz": "Hz", "wavelength in nm": "m", "velocity in km/s": "m s-1"}
    assert ds[dim].attrs.get("units") == known.get(name, ds[dim].attrs.get("units"))


@pytest.mark.parametrize(
    ("crval", "cdelt", "expected"),
    [
        (1, 1, list("IQUV")),
        (4, -1, list("VUQI")),
        (-1, -1, ["RR", "LL", "RL", "LR"]),
        (-5, -1, ["XX", "YY", "XY", "YX"]),
        (2, 1, [2.0, 3.0, 4.0, 5.0]),
        (0, 1, [0.0, 1.0, 2.0, 3.0]),
        (-7, -1, [-7.0, -8.0, -9.0, -10.0]),
        (1, 0.5, [1.0, 1.5, 2.0, 2.5]),
    ],
)
def test_stokes_parameters(crval: float, cdelt: float, expected: list[Any]) -> None:
    """FITS Standard 4.0, table 29; numbers where it has no name for one of them."""
    ds, wcs = opened(image(axis(1, "STOKES", crval, cdelt, crpix=1.0), 4))
    assert ds.stokes.values.tolist() == expected
    assert ds.stokes.attrs["ctype"] == "STOKES"
    if isinstance(expected[0], float):
        assert_along(ds, wcs, "stokes", 0)
    at = ds.sel(stokes=expected[2])
    assert at.stokes == expected[2]


ORDERS = list(itertools.permutations(("RA", "DEC", "FREQ", "STOKES")))


@pytest.mark.untraced
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_cubes_of_any_order_of_axes(order: tuple[str, ...]) -> None:
    keywords = cube(*order) | {f"CRPIX{order.index('STOKES') + 1}": 1.0}
    shape = tuple({"RA": 6, "DEC": 5, "FREQ": 4, "STOKES": 3}[name] for name in reversed(order))
    ds, wcs = opened(image(keywords, *shape), world_coords=True)
    sky = [name for name in order if name in ("RA", "DEC")]
    names = {sky[0]: "x", sky[1]: "y", "FREQ": "freq", "STOKES": "stokes"}
    assert ds.SCI.dims == tuple(names[name] for name in reversed(order))
    assert ds.SCI.shape == shape
    assert_along(ds, wcs, "freq", order.index("FREQ"))
    assert ds.stokes.values.tolist() == ["I", "Q", "U"]
    assert_pixels(ds, "x", "y")
    world = all_world(wcs, shape)
    for name in ("ra", "dec"):
        whole = ds[name].broadcast_like(ds.SCI).transpose(*ds.SCI.dims)
        assert same_bits(whole, world[order.index(name.upper())])


def test_axes_beyond_those_of_the_image_are_scalar_coordinates() -> None:
    keywords = {"WCSAXES": 4, **cube("RA", "DEC", "FREQ", "STOKES"), "CRPIX4": 2.0}
    ds, wcs = opened(image({**keywords, "CRVAL4": 3.0}, 5, 6))
    assert ds.SCI.dims == ("y", "x")
    assert ds.freq.dims == ds.stokes.dims == ()
    assert set(ds.coords) == {"y", "x", "freq", "stokes"}
    assert same_bits(ds.freq, wcs.pixel_to_world_values(0, 0, 0, 0)[2])
    assert ds.freq.attrs["units"] == "Hz"
    assert ds.stokes.item() == "Q"


MIXED: dict[str, tuple[Keywords, tuple[int, ...], str, dict[str, int]]] = {
    "axes of one pixel": (
        cube("RA", "DEC", "FREQ", "STOKES"), (1, 1, 5, 1), "stokes freq y x", {"freq": 2},
    ),
    "two of one type": (
        cube("FREQ", "FREQ", "STOKES"), (2, 4, 5), "stokes axis2 axis1", {"axis1": 0, "axis2": 1},
    ),
    "no types": (
        axis(1, "", 7.0, 0.1) | axis(2, "", -3.0, 2.0, "mm"), (4, 5), "axis2 axis1",
        {"axis1": 0, "axis2": 1},
    ),
    "a spectrum that depends on x": (
        cube("RA", "DEC", "FREQ") | {"PC3_1": 0.1}, (4, 5, 6), "axis3 y x", {},
    ),
    "a spectrum that depends on x and y": (
        cube("RA", "DEC", "FREQ") | {"PC3_1": 0.1, "PC3_2": 0.5}, (4, 5, 6), "axis3 y x", {},
    ),
    "a sky that depends on the spectrum": (
        cube("RA", "DEC", "FREQ") | {"PC1_3": 0.1}, (4, 5, 6), "freq axis2 axis1", {"freq": 2},
    ),
    "tables of distortions": (
        cube("FREQ", "STOKES") | lookup("CPDIS", 1, 2), (4, 5), "axis2 axis1", {},
    ),
    "tables of the detector": (
        cube("FREQ", "STOKES") | lookup("D2IMDIS", 1, 2), (4, 5), "axis2 axis1", {},
    ),
    "no WCS": ({}, (3, 4), "y x", {}),
    "no WCS of one axis": ({}, (7,), "axis1", {}),
    "no WCS of four axes": ({}, (2, 3, 4, 5), "axis4 axis3 y x", {}),
}  # fmt: skip
"""Keywords, shape, dimensions, and which of these have coordinates of which axis of the WCS."""


@pytest.mark.parametrize("name", MIXED)
def test_what_has_world_coordinates_and_what_counts_its_pixels(name: str) -> None:
    keywords, shape, names, worlds = MIXED[name]
    ds, wcs = opened(image(keywords, *shape), *pixel_tables(), *detector_tables())
    dims = names.split()
    assert list(ds.SCI.dims) == list(ds.coords) == dims
    assert ds.SCI.shape == shape
    for dim, world in worlds.items():
        assert_along(ds, wcs, dim, world)
    assert_pixels(ds, *({*dims} - {*worlds, "stokes"}))
    if "depends" in name or "tables" in name:  # as they do
        world = all_world(wcs, shape)[-1 if "spectrum that" in name else 0]
        assert np.ptp(world, axis=-1).max() > 0
        assert np.ptp(world, axis=0).max() > 0


def test_a_cube_with_a_distortion_is_opened_without_a_wcs() -> None:
    """astropy takes those of two axes alone."""
    content = written(image({**SIP, "CTYPE3": "FREQ", "CRVAL3": 1e9, "CD3_3": 1e6}, 4, 5, 6))
    with pytest.raises(ValueError, match="only work"):
        oracle(content)
    with pytest.warns(FitsWarning, match=r"HDU 1 \(SCI\).*opened without one"):
        ds = xr.open_dataset(put("b.fits", content), engine="fits")
    assert_pixels(ds, "axis3", "y", "x")


@pytest.mark.parametrize("ctype", ["", "FREQ", "RA---CAR"])
def test_a_damaged_length_costs_nothing(tmp_path: Path, ctype: str) -> None:
    path, length = tmp_path / "damaged.fits", 1 << 40
    cards = [card(key, value) for key, value in axis(1, ctype, 1.0, 1e-9).items()]
    cards += [card("CTYPE2", "DEC--CAR")] if "CAR" in ctype else []
    path.write_bytes(primary(length, 3, bitpix=-32, extra=cards))
    start = time.perf_counter()
    with pytest.warns(FitsWarning, match="truncated"):
        ds = xr.open_dataset(path, engine="fits", world_coords=True)
    dim = ds.PRIMARY.dims[1]
    assert ds.sizes[dim] == length
    assert ds[dim][-1] == length - 1
    cut = ds.isel({dim: slice(-5, None)})
    np.testing.assert_array_equal(cut[dim], np.arange(length - 5, length))
    with pytest.raises(dask_fits.TruncatedFileError):
        cut.PRIMARY.load()
    assert "PRIMARY" in repr(ds)
    assert time.perf_counter() - start < 1


# The sky

SOLAR = celestial("HPLN-TAN", "HPLT-TAN", (100.0, -200.0), 0.6) | {
    "CUNIT1": "arcsec",
    "CUNIT2": "arcsec",
    "DATE-OBS": "2012-03-04T05:06:07",
}
MORE_SKY: dict[str, tuple[Keywords, tuple[int, ...]]] = {
    "ZEA": (celestial("RA---ZEA", "DEC--ZEA", (0.1, 89.9)), (NY, NX)),
    "galactic": (celestial("GLON-TAN", "GLAT-TAN", (0.001, -0.002)), (NY, NX)),
    "AIT of all the sky": (
        axis(1, "GLON-AIT", 0.0, -4.0, "deg", 45.5) | axis(2, "GLAT-AIT", 0.0, 4.0, "deg", 25.5),
        (50, 90),
    ),
    "solar": (SOLAR, (NY, NX)),
    "a slit": ({"WCSAXES": 3, **cube("FREQ", "RA", "DEC")}, (9, 7)),
    "a slit, spectrum between": ({"WCSAXES": 3, **cube("DEC", "FREQ", "RA")}, (9, 7)),
}
NO_SKY = ("spectrum", "without any keyword", "-TAB along the first axis")
SKIES: dict[str, Callable[[], list[Any]]] = {
    name: make for name, make in IMAGES.items() if name not in NO_SKY
}
for _name, (_keywords, _shape) in MORE_SKY.items():
    SKIES[_name] = lambda keywords=_keywords, shape=_shape: [image(keywords, *shape)]


@pytest.mark.untraced
@pytest.mark.parametrize("name", SKIES)
def test_coordinates_of_the_sky_at_every_pixel(name: str) -> None:
    ds, wcs = opened(*SKIES[name](), world_coords=True)
    world, index = all_world(wcs, ds.SCI.shape), (wcs.wcs.lng, wcs.wcs.lat)
    names = [wcs.wcs.ctype[each].partition("-")[0].lower() for each in index]
    assert {*names} <= {*ds.coords}
    for found, each in zip(names, index, strict=True):
        coordinate = ds[found]
        assert coordinate.dims == tuple(dim for dim in ds.SCI.dims if dim in ("x", "y"))
        assert coordinate.dims == (("x",) if "slit" in name else ("y", "x"))
        whole = coordinate.broadcast_like(ds.SCI).transpose(*ds.SCI.dims)
        assert same_bits(whole, world[each])
        assert coordinate.attrs["units"] == wcs.wcs.cunit[each].to_string("fits") == "deg"
        assert coordinate.attrs["ctype"] == wcs.wcs.ctype[each]
        assert coordinate.attrs["physical_type"] == wcs.world_axis_physical_types[each]


def test_there_are_images_of_all_kinds_of_sky() -> None:
    assert len(SKIES) >= 35
    ait = oracle(written(*SKIES["AIT of all the sky"]()))
    assert 0.1 < np.isnan(all_world(ait, (50, 90))[0]).mean() < 0.5


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many positions each evaluation of coordinates of the sky was of."""
    found: list[int] = []
    forward = SkyTransform.forward

    def counted(self: SkyTransform, positions: dict[str, Any]) -> Any:
        found.append(max(np.size(place) for place in positions.values()))
        return forward(self, positions)

    monkeypatch.setattr(SkyTransform, "forward", counted)
    return found


EXPECTED_SKY = all_world(oracle(written(*SKIES["SIP"]())), (NY, NX))

KEYS: dict[str, dict[str, Any]] = {
    "slices": {"y": slice(5, 40), "x": slice(10, 90)},
    "steps": {"y": slice(5, None, 7), "x": slice(None, None, 3)},
    "negative steps": {"y": slice(None, None, -1), "x": slice(80, 3, -4)},
    "an integer": {"y": 13},
    "an integer of NumPy": {"x": np.int64(-2)},
    "two integers": {"y": 13, "x": -1},
    "lists": {"y": [3, 1, 1, 70], "x": [-1, 0]},
    "a list and a step": {"y": [3, 1, 9], "x": slice(None, None, -2)},
    "a mask": {"y": np.arange(NY) % 9 == 2},
    "nothing": {"y": slice(4, 4), "x": []},
    "one pixel": {"y": slice(4, 5), "x": slice(-1, None)},
}


@pytest.mark.untraced
@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.parametrize("first", KEYS)
def test_selecting_keeps_the_sky_with_the_pixels(calls: list[int], first: str, chunks: Any) -> None:
    whole, _ = opened(*SKIES["SIP"](), world_coords=True, chunks=chunks)
    for second in ({}, {"y": slice(None, None, 2)}, {"x": slice(None, None, -1)}, {"x": slice(1)}):
        ds = whole.isel(KEYS[first]).isel(second, missing_dims="ignore")
        assert calls == []
        for name, values in zip(("ra", "dec"), EXPECTED_SKY, strict=True):
            expected = xr.Variable(("y", "x"), values).isel(KEYS[first])
            expected = expected.isel(second, missing_dims="ignore")
            assert ds[name].dims == expected.dims
            assert same_bits(ds[name], expected)
        assert same_bits(ds.SCI, np.zeros(ds.SCI.shape, "f4"))
        calls.clear()


def test_different_positions_are_not_aligned() -> None:
    tan, _ = opened(*SKIES["TAN"](), world_coords=True)
    sip, _ = opened(*SKIES["SIP"](), world_coords=True)
    for one, other in [(tan, sip), (tan[{"y": 3}], tan[{"y": 4}]), (tan, tan[{"x": [1, 2]}])]:
        assert not one.xindexes["ra"].equals(other.xindexes["ra"])
        with pytest.raises((ValueError, NotImplementedError), match=r"ra|SkyIndex"):
            one.ra + other.ra
    assert tan.xindexes["ra"].equals(tan.copy().xindexes["ra"])


def evaluated_nothing() -> Iterator[tuple[str, Callable[[xr.Dataset, xr.Dataset], Any]]]:
    """What one does with a Dataset (and an equal one) that needs no positions."""
    yield "repr", lambda ds, _: (repr(ds), repr(ds.SCI), repr(ds.ra), ds._repr_html_())
    yield "isel", lambda ds, _: [ds.isel(key) for key in KEYS.values()]
    yield "rename", lambda ds, _: repr(ds.rename(ra="alpha", x="column").isel(column=3))
    yield "rename_vars", lambda ds, _: ds.rename_vars(ra="lon", dec="lat")
    yield "transpose", lambda ds, _: repr(ds.transpose("x", "y").SCI)
    yield "arithmetic", lambda ds, _: ((ds + 1).SCI, ds.SCI * ds.SCI, ds.isel(x=3) - 2)
    yield "an equal one", lambda ds, other: (ds + other, ds.SCI - other.SCI, other.SCI.dot(ds.SCI))
    yield "align", lambda ds, other: xr.align(ds.isel(x=[1, 2]), other.isel(x=[1, 2]), join="exact")
    yield "merge", lambda ds, other: xr.merge([ds, other.rename(SCI="OTHER")], compat="override")
    yield "reductions", lambda ds, _: (ds.SCI.mean("x"), ds.SCI.sum(), ds.SCI.max(("y", "x")))
    yield "copies", lambda ds, _: (ds.copy(), ds.copy(deep=True), ds.assign(b=ds.SCI + 1).b)
    yield "names", lambda ds, _: (ds.drop_vars(["ra", "dec"]), ds[["SCI"]], ds.nbytes, ds.sizes)
    yield "new dimensions", lambda ds, _: ds.expand_dims(band=[1, 2])
    yield "sel", lambda ds, _: ds.sel(ra=10.0, dec=20.0, method="nearest")
    yield "the accessor", lambda ds, _: (ds.fits.wcs, ds.fits.cutout((50, 30), 9))


@pytest.mark.parametrize("use", [pytest.param(use, id=name) for name, use in evaluated_nothing()])
def test_positions_are_not_evaluated_for(calls: list[int], use: Callable[..., Any]) -> None:
    one, _ = opened(*SKIES["SIP"](), world_coords=True, chunks={})
    other = xr.open_dataset("recording://a.fits", engine="fits", world_coords=True, chunks={})
    assert calls == [], "opening"
    use(one, other)
    assert calls == []


def test_just_the_positions_that_are_asked_for_are_evaluated(calls: list[int]) -> None:
    ds, _ = opened(*SKIES["SIP"](), world_coords=True)
    assert same_bits(ds.ra[3, 4], EXPECTED_SKY[0][3, 4])
    assert same_bits(ds.dec.isel(x=[7, 7], y=slice(0, 6, 2)), EXPECTED_SKY[1][0:6:2, [7, 7]])
    assert sum(calls) <= 1 + 6
    chunked = ds.chunk(y=40)
    assert same_bits(chunked.dec.isel(y=slice(2)).compute(), EXPECTED_SKY[1][:2])


def test_renamed_coordinates_and_dimensions() -> None:
    ds, _ = opened(*SKIES["SIP"](), world_coords=True)
    renamed = ds.rename(ra="alpha", dec="delta", x="column", y="row").transpose("column", "row")
    assert renamed.alpha.dims == ("column", "row")
    cut = renamed.isel(column=slice(None, None, -3), row=[4, 2])
    assert same_bits(cut.alpha, EXPECTED_SKY[0][[4, 2], ::-3].T)
    assert same_bits(cut.delta, EXPECTED_SKY[1][[4, 2], ::-3].T)
    at = {"alpha": EXPECTED_SKY[0][12, 34], "delta": EXPECTED_SKY[1][12, 34]}
    found = ds.rename(ra="alpha", dec="delta", x="column").sel(at, method="nearest")
    assert (found.y, found.column) == (12, 34)


def test_right_ascension_along_one_dimension_would_be_wrong() -> None:
    """A tile of 200 seconds of arc at a declination of 60 degrees."""
    side, scale = 200, 1 / 3600
    keywords = axis(1, "RA---TAN", 30.0, -scale, "deg", 100.5)
    keywords |= axis(2, "DEC--TAN", 60.0, scale, "deg", 100.5)
    ds, wcs = opened(image(keywords, side, side))
    assert list(ds.coords) == ["y", "x"]
    assert_pixels(ds, "y", "x")
    y, x = side - 1, 0
    true = wcs.pixel_to_world(x, y)
    linear = SkyCoord(30 - (x - 99.5) * scale, 60 + (y - 99.5) * scale, unit="deg")
    assert true.separation(linear).arcsec == pytest.approx(50, abs=1)
    # Nor does it help to divide by the cosine of the declination.
    ra = 30 - (x - 99.5) * scale / np.cos(np.deg2rad(60))
    better = SkyCoord(ra, 60 + (y - 99.5) * scale, unit="deg")
    assert true.separation(better).arcsec > 0.05
    ds, _ = opened(image(keywords, side, side), world_coords=True)
    own = SkyCoord(ds.ra[y, x], ds.dec[y, x], unit="deg")
    assert true.separation(own).arcsec < 1e-9


# Selecting by position

SELECTED = ["TAN", "SIP", "TPV", "swapped axes, SIP", "lookup", "solar", "four axes", "CAR"]


@pytest.mark.parametrize("name", SELECTED)
def test_the_pixel_of_a_position(name: str) -> None:
    ds, wcs = opened(*SKIES[name](), world_coords=True)
    lon, lat = (wcs.wcs.ctype[n].partition("-")[0].lower() for n in (wcs.wcs.lng, wcs.wcs.lat))
    rng = np.random.default_rng(4)
    y, x = (rng.integers(0, ds.sizes[dim], 8) for dim in ("y", "x"))
    places = {"y": xr.DataArray(y, dims="star"), "x": xr.DataArray(x, dims="star")}
    at = {"y": y + 0.33, "x": x - 0.41}
    world = wcs.pixel_to_world_values(*[at.get(dim, np.zeros(8)) for dim in ds.SCI.dims[::-1]])
    labels = {lon: world[wcs.wcs.lng], lat: world[wcs.wcs.lat]}
    many = ds.sel(
        {key: xr.DataArray(v, dims="star") for key, v in labels.items()}, method="nearest"
    )
    np.testing.assert_array_equal(many.y, y)
    np.testing.assert_array_equal(many.x, x)
    assert many.SCI.sizes["star"] == 8
    assert same_bits(many[lon], ds[lon].isel(places))
    for n in range(3):
        one = ds.sel({key: values[n] for key, values in labels.items()}, method="nearest")
        assert (one.y, one.x) == (y[n], x[n])
        assert same_bits(one[lat], ds[lat][y[n], x[n]])


@pytest.fixture(scope="module")
def exact() -> tuple[xr.Dataset, WCS]:
    """An image on the equator, positions on which are exact in binary: ra = x / 8, dec = y / 8."""
    keywords = axis(1, "RA---CAR", 0.0, 0.125, "deg", 1.0)
    keywords |= axis(2, "DEC--CAR", 0.0, 0.125, "deg", 1.0)
    return opened(image(keywords, 20, 30), world_coords=True)


def test_the_edges_of_an_image(exact: tuple[xr.Dataset, WCS]) -> None:
    ds, _ = exact
    assert ds.ra.values[0].tolist() == (np.arange(30) / 8).tolist()
    inside = [(-0.5, 0, 0, 0), (29.4375, 3, 29, 3), (1, -0.5, 1, 0), (0.5, 19.25, 1, 19)]
    for ra, dec, x, y in inside:
        found = ds.sel(ra=ra / 8, dec=dec / 8, method="nearest")
        assert (found.x, found.y) == (x, y)
        found = ds.fits.sel_sky(SkyCoord(ra / 8, dec / 8, unit="deg"))
        assert (found.x, found.y) == (x, y)
    for ra, dec, dim in [(29.5, 0, "x"), (-0.5625, 0, "x"), (0, 19.5, "y"), (0, -0.5625, "y")]:
        with pytest.raises(KeyError, match=f"off the image along {dim}"):
            ds.sel(ra=ra / 8, dec=dec / 8, method="nearest")
        with pytest.raises(KeyError, match=rf"a\.fits.*off the .* pixels along {dim}"):
            ds.fits.sel_sky(SkyCoord(ra / 8, dec / 8, unit="deg"))


def test_positions_after_a_selection(exact: tuple[xr.Dataset, WCS]) -> None:
    ds, _ = exact
    cut = ds.isel(x=slice(3, 27, 4), y=slice(None, None, -2))  # 3, 7, ..., 23; 19, 17, ..., 1
    for ra, dec, x, y in [(3, 19, 3, 19), (4.9, 2.1, 3, 3), (5.1, 1.9, 7, 1), (24.9, 0.1, 23, 1)]:
        found = cut.sel(ra=ra / 8, dec=dec / 8, method="nearest")
        assert (found.x, found.y) == (x, y)
    with pytest.raises(KeyError, match="off the image along x"):
        cut.sel(ra=25.1 / 8, dec=0.25, method="nearest")
    some = ds.isel(x=[20, 4, 9])
    assert some.sel(ra=9.4 / 8, dec=0.25, method="nearest").x == 9
    with pytest.raises(KeyError, match="off the image along x"):
        some.sel(ra=10 / 8, dec=0.25, method="nearest")


def test_labels_that_make_no_position(exact: tuple[xr.Dataset, WCS]) -> None:
    ds, _ = exact
    for options in ({}, {"method": "pad"}, {"method": "nearest", "tolerance": 1}):
        with pytest.raises(ValueError, match="expected method='nearest' and no tolerance"):
            ds.sel(ra=0.25, dec=0.25, **options)
    with pytest.raises(ValueError, match="expected labels of ra and dec"):
        ds.sel(ra=0.25, method="nearest")
    with pytest.raises(ValueError, match="for two dimensions"):
        ds.isel(y=3).sel(ra=0.25, dec=0.25, method="nearest")
    with pytest.raises(KeyError, match="off the image"):
        ds.sel(ra=[0.25, np.nan], dec=[0.25, 0.25], method="nearest")
    with pytest.raises(KeyError, match="off the image"):  # of the other side of the sky
        opened(*SKIES["SIP"](), world_coords=True)[0].sel(ra=190, dec=-20, method="nearest")
    ra, dec = xr.DataArray([0.25, 0.5, 1], dims="a"), xr.DataArray([0, 0.25], dims="b")
    grid = ds.sel(ra=ra, dec=dec, method="nearest")
    assert grid.SCI.sizes == {"a": 3, "b": 2}
    assert grid.x[:, 0].values.tolist() == [2, 4, 8]


# The WCS of what is left

TURNED = axis(1, "RA---TAN", 10.0, -1e-4, "deg", 47.25)
TURNED |= axis(2, "DEC--TAN", 20.0, 1.3e-4, "deg", 33.5)
PC = TURNED | {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}
FOLLOWED: dict[str, Callable[[], list[Any]]] = {
    **IMAGES,
    "PC": lambda: [image(PC)],
    "CROTA": lambda: [image(TURNED | {"CROTA2": 30.0})],
    "logarithmic": lambda: [image(axis(1, "WAVE-LOG", 5e-7, 1e-9, "m"), 20)],
    "two axes of one type": lambda: [image(cube("FREQ", "FREQ"), 8, 9)],
    "descending": lambda: [image(axis(1, "FREQ", 1.4e9, -1e5, "Hz"), 20)],
    "names": lambda: [image(axis(1, "STOKES", -1, -1, crpix=1.0), 4)],
}

WAYS: dict[str, Callable[[int], slice]] = {
    "whole": lambda n: slice(None),
    "slices": lambda n: slice(n // 4, n - 1),
    "steps": lambda n: slice(1, None, 2),
    "steps of 3": lambda n: slice(n // 5, n, 3),
    "backwards": lambda n: slice(None, None, -1),
    "negative steps": lambda n: slice(n - 2, None, -2),
    "the last pixel": lambda n: slice(-1, None),
}


Places = dict[Any, float]


def assert_followed(
    found: WCS, ds: xr.Dataset, whole: WCS, origin: Places, step: Places,
    *, left: Any = None, bits: bool = False,
) -> None:  # fmt: skip
    """That a WCS has for pixels of what is left the coordinates of those of the whole image."""
    dims, rng, zeros = ds.SCI.dims, np.random.default_rng(8), np.zeros(40)
    left = dims if left is None else left
    quarters = {dim: rng.integers(-2, 30, 40) / 4 for dim in left}
    inside = [quarters[dim] for dim in left[::-1]]
    inside += [zeros] * (found.naxis - len(inside))
    outside = [
        origin.get(dim, 0) + step.get(dim, 1) * quarters.get(dim, zeros) for dim in dims[::-1]
    ]
    outside += [zeros] * (whole.naxis - len(outside))
    ours, theirs = (
        np.reshape(wcs.pixel_to_world_values(*at), (wcs.naxis, 40))
        for wcs, at in ((found, inside), (whole, outside))
    )
    axes = [len(dims) - 1 - dims.index(dim) for dim in left[::-1]]
    theirs = theirs[[*axes, *range(len(dims), whole.naxis)]]
    assert np.isfinite(theirs).any()
    if bits:
        assert same_bits(ours, theirs)
    else:
        # Offsets in tables are float32: 1e-7 of a pixel.
        tables = whole.cpdis2 is not None or whole.det2im2 is not None
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=2e-11 if tables else 1e-12)


def selections() -> Iterator[tuple[str, str]]:
    """Each image with slices, with either of the steps, turned round, and whole or at its end."""
    for n, name in enumerate(FOLLOWED):
        yield name, "slices"
        yield name, ("steps", "steps of 3")[n % 2]
        yield name, ("backwards", "negative steps")[n // 2 % 2]
        yield name, ("whole", "the last pixel")[n % 2]


@pytest.mark.untraced
@pytest.mark.parametrize(("name", "way"), list(selections()))
def test_the_wcs_follows_a_selection(name: str, way: str) -> None:
    ds, whole = opened(*FOLLOWED[name]())
    key = {dim: WAYS[way](length) for dim, length in ds.sizes.items()}
    cut, ranges = ds.isel(key), {dim: range(ds.sizes[dim])[each] for dim, each in key.items()}
    origin = {dim: along[0] for dim, along in ranges.items()}
    step = {dim: along.step for dim, along in ranges.items() if len(along) > 1}
    exact = name != "logarithmic" and whole.cpdis2 is None
    bits = exact and way in ("whole", "slices", "the last pixel")
    for obj in (cut, cut.SCI, ds.isel({dim: [*along] for dim, along in ranges.items()})):
        found = obj.fits.wcs
        assert_followed(found, ds, whole, origin, step, bits=bits)
        if found.naxis == cut.SCI.ndim:
            assert found.array_shape == cut.SCI.shape
    if not (whole.has_distortion or whole.det2im1 is not None or whole.det2im2 is not None):
        turned = cut.SCI.transpose(*cut.SCI.dims[::-1])
        assert_followed(turned.fits.wcs, ds, whole, origin, step, left=turned.dims)


@pytest.mark.parametrize("name", ["SIP", "swapped axes, SIP", "lookup", "detector"])
def test_the_wcs_of_a_transposed_image_with_distortions(name: str) -> None:
    """Which astropy leaves in the order that the axes had."""
    ds, _ = opened(*IMAGES[name]())
    with pytest.raises(ValueError, match="another order than in the image"):
        _ = ds.SCI.transpose("x", "y").fits.wcs


# Names cannot be binned, and the mean of nonlinear coordinates is not quite that of the place.
BINNED = [name for name in FOLLOWED if name not in ("four axes", "logarithmic", "names")]


@pytest.mark.parametrize("name", BINNED)
def test_the_wcs_follows_bins(name: str) -> None:
    ds, whole = opened(*FOLLOWED[name]())
    wide = {"x": 4, "y": 3}
    step: Places = {d: min(wide.get(str(d), 2), max(ds.sizes[d] // 2, 2)) for d in ds.SCI.dims}
    binned = ds.coarsen(step, boundary="trim").mean()
    origin: Places = {dim: (length - 1) / 2 for dim, length in step.items()}
    assert_followed(binned.fits.wcs, ds, whole, origin, step)
    cut = binned.isel({dim: slice(1, None) for dim in step if binned.sizes[dim] > 2})
    origin |= {dim: origin[dim] + step[dim] for dim in step if binned.sizes[dim] > 2}
    assert_followed(cut.fits.wcs, ds, whole, origin, step)


def test_the_wcs_of_one_bin() -> None:
    ds, _ = opened(*IMAGES["TAN"]())
    bins = ds.isel(x=slice(4)).coarsen(x=4).mean()
    with pytest.raises(ValueError, match="x has a single bin of pixels, whose width is not known"):
        _ = bins.fits.wcs


@pytest.mark.parametrize("name", ["spectral cube", "four axes", "cube, spectrum first", "-TAB"])
def test_the_wcs_of_a_plane_of_a_cube(name: str) -> None:
    ds, whole = opened(*IMAGES[name]())
    away = [dim for dim in ds.SCI.dims if dim not in ("x", "y")]
    left = tuple(dim for dim in ds.SCI.dims if dim in ("x", "y"))
    one = ds.isel(dict.fromkeys(away, 1))
    for plane in (one, one.SCI, ds.mean(away), ds.SCI.sum(away)):
        found = plane.isel(x=slice(3, None)).fits.wcs
        assert found.naxis == 2
        assert_followed(found, ds, whole, {"x": 3}, {}, left=left, bits=True)
    dim = "wavelength" if name == "-TAB" else "freq"
    spectra = ds.SCI.mean(["x", "y"]).isel({dim: slice(1, None, 2)})
    assert_followed(spectra.fits.wcs, ds, whole, {dim: 1}, {dim: 2}, left=spectra.dims)


def test_the_wcs_of_a_spectrum_of_one_pixel() -> None:
    ds, whole = opened(*IMAGES["spectral cube"]())
    found = ds.isel(x=4, y=5).fits.wcs
    assert list(found.wcs.ctype) == ["FREQ"]
    at = np.arange(6.0)
    expected = whole.pixel_to_world_values(at * 0 + 4, at * 0 + 5, at)[2]
    assert same_bits(found.pixel_to_world_values(at), expected)
    assert same_bits(ds.freq, expected)


@pytest.mark.parametrize("chunks", [None, {}])
def test_pixels_that_have_no_wcs(chunks: Any) -> None:
    ds, _ = opened(*IMAGES["spectral cube"](), chunks=chunks)
    for key, said in [
        ({"x": [0, 1, 3]}, r"a\.fits.*along x are not evenly spaced"),
        ({"y": [2, 2]}, r"along y are not evenly spaced"),
        ({"freq": [0, 1, 3]}, r"along freq are not evenly spaced"),
        ({"x": 5}, r"dimension x is gone.*along y depend"),
        ({"y": 5}, r"dimension y is gone.*along x depend"),
    ]:
        cut = ds.isel(key)
        for obj in (cut, cut.SCI):
            with pytest.raises(ValueError, match=said):
                _ = obj.fits.wcs
    for dim in ("x", "freq"):
        bare = ds.isel({dim: slice(1, None)}).drop_vars(dim)
        with pytest.raises(ValueError, match=rf"a\.fits: {dim} has .* no coordinates that tell"):
            _ = bare.fits.wcs
    shifted = ds.assign_coords(x=ds.x + 100).fits.wcs  # what they say of other pixels is followed
    assert shifted.wcs.crpix[0] == ds.fits.wcs.wcs.crpix[0] - 100
    with pytest.raises(ValueError, match="coordinates along freq are not those of the image"):
        _ = ds.assign_coords(freq=ds.freq + 1e12).fits.wcs


def test_a_wcs_without_coordinates_is_of_all_pixels() -> None:
    ds, whole = opened(*IMAGES["SIP"]())
    found = ds.drop_vars(["x", "y"]).fits.wcs
    assert_followed(found, ds, whole, {}, {}, bits=True)


@pytest.mark.parametrize("name", ["TAN", "spectrum", "spectral cube"])
def test_no_dimension_that_is_left_is_no_wcs(name: str) -> None:
    ds, _ = opened(*IMAGES[name](), chunks={})
    places = {dim: xr.DataArray([1, 2], dims="star") for dim in ds.SCI.dims}
    for obj in (ds.isel(dict.fromkeys(ds.SCI.dims, 1)), ds.mean(), ds.isel(places)):
        with pytest.raises(ValueError, match=r"a\.fits|this Data"):
            _ = obj.fits.wcs


# Cutouts and the nearest pixel

CUT = ["TAN", "SIP", "TPV", "CAR", "lookup", "FK5", "compressed SIP"]
POSITIONS = [(50, 40), (0.5, 0.5), (99.4, 79.6), (-3, 20), (48.5, 30.5), (104, 50), (400, 30)]
SIZES = [7, (8, 11), (9.5, 300), 30 * u.arcsec, (20 * u.arcsec, 0.4 * u.arcmin), (5 * u.pixel, 6)]


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["trim", "strict"])
@pytest.mark.parametrize("name", CUT)
def test_a_cutout_is_that_of_cutout2d(name: str, mode: str) -> None:
    hdus = IMAGES[name]()
    hdus[0].data = np.random.default_rng(2).integers(0, 999, (NY, NX)).astype("i2")
    ds, wcs = opened(*hdus, chunks={})
    pixels, cut_out = np.array(hdus[0].data), 0
    for (at, size), on_sky in itertools.product(itertools.product(POSITIONS, SIZES), (False, True)):
        position = wcs.pixel_to_world(*at) if on_sky and max(at) < 110 else at
        try:
            expected = Cutout2D(pixels, position, size, wcs=wcs, mode=mode)
        except ValueError as error:
            own = getattr(dask_fits, type(error).__name__)
            with pytest.raises(own, match=r"a\.fits"):
                ds.fits.cutout(position, size, mode=mode)
            continue
        found = ds.fits.cutout(position, size, mode=mode).SCI
        assert found.chunks is not None
        assert same_bits(found, expected.data)
        rows, columns = expected.slices_original
        assert found.y.values.tolist() == [*range(rows.start, rows.stop)]
        assert found.x.values.tolist() == [*range(columns.start, columns.stop)]
        corners = [np.array([0, length - 1]) for length in found.shape[::-1]]
        world = found.fits.wcs.pixel_to_world_values(*corners)
        there = wcs.pixel_to_world_values(corners[0] + columns.start, corners[1] + rows.start)
        assert all(map(same_bits, world, there))
        if name != "lookup":  # whose tables Cutout2D leaves where they were
            assert all(map(same_bits, world, expected.wcs.pixel_to_world_values(*corners)))
        cut_out += 1
    assert cut_out >= (40 if mode == "trim" else 15)


@pytest.mark.parametrize(
    "order", [("RA", "DEC", "FREQ"), ("RA", "FREQ", "DEC"), ("FREQ", "RA", "DEC")]
)
def test_a_cutout_of_a_cube_is_of_each_plane(order: tuple[str, ...]) -> None:
    shape = tuple({"RA": 30, "DEC": 20, "FREQ": 4}[name] for name in reversed(order))
    hdu = image(cube(*order), *shape)
    hdu.data = np.random.default_rng(3).random(shape).astype("f4")
    ds, wcs = opened(hdu)
    planes = np.moveaxis(hdu.data, shape.index(4), 0)
    for at, size in [((12, 9), (5, 8)), ((1, 18), 0.0011 * u.deg), ((12, 9), (3, 0.0015 * u.deg))]:
        for position in (at, wcs.celestial.pixel_to_world(*at)):
            expected = Cutout2D(planes[0], position, size, wcs=wcs.celestial)
            found = ds.SCI.fits.cutout(position, size)
            rows, columns = expected.slices_original
            assert found.dims == ds.SCI.dims
            assert same_bits(found.transpose("freq", "y", "x"), planes[:, rows, columns])


def test_a_cutout_of_a_cutout_and_of_every_second_pixel() -> None:
    hdu = image(SIP)
    hdu.data = np.arange(NX * NY, dtype="f4").reshape(NY, NX)
    ds, wcs = opened(hdu)
    position = wcs.pixel_to_world(62, 42)
    cut = ds.isel(x=slice(20, None), y=slice(10, None)).fits.cutout(position, 21)
    assert same_bits(cut.SCI, Cutout2D(hdu.data, position, 21, wcs=wcs).data)
    for obj in (ds.isel(x=slice(None, None, 2), y=slice(None, None, -2)), ds.SCI[::-1, ::-2][::2]):
        found = obj.fits.cutout(position, 3)
        assert found.x.values.tolist() in ([60, 62, 64], [63, 61, 59], [65, 63, 61])
        assert abs(found.y.values - 42).max() < 4
    pixels = ds.isel(x=slice(20, None)).fits.cutout((10, 5), (3, 5))
    assert pixels.x.values.tolist() == [28, 29, 30, 31, 32]


@pytest.mark.untraced
@pytest.mark.parametrize("name", ["TAN", "SIP", "FK5", "swapped axes, SIP", "lookup", "four axes"])
@pytest.mark.parametrize("frame", ["", "galactic", "fk4"])
def test_the_nearest_pixel_of_a_position_in_any_frame(name: str, frame: str) -> None:
    ds, wcs = opened(*IMAGES[name]())
    sky = wcs.celestial if wcs.naxis > 2 else wcs
    rng = np.random.default_rng(5)
    for _ in range(6):
        at = rng.uniform(0, [ds.sizes["x"] - 1, ds.sizes["y"] - 1]).round(1) + 0.03
        position = sky.pixel_to_world(*at)
        expected = [int(np.floor(n + 0.5)) for n in sky.world_to_pixel(position)]
        assert expected == np.round(at).tolist()
        found = ds.fits.sel_sky(position.transform_to(frame) if frame else position)
        assert [found.x, found.y] == expected
        assert found.SCI.dims == ds.SCI.dims[:-2]


@pytest.mark.parametrize("name", ["TAN", "spectral cube"])
def test_a_position_on_a_transposed_image(name: str) -> None:
    ds, wcs = opened(*IMAGES[name](), chunks={})
    position = (wcs if wcs.naxis == 2 else wcs.celestial).pixel_to_world(10, 15)
    for dims in itertools.permutations(ds.SCI.dims):
        turned = ds.transpose(*dims)
        found = turned.fits.sel_sky(position)
        assert (found.x, found.y) == (10, 15)
        cut = turned.fits.cutout(position, (3, 5))
        assert cut.x.values.tolist() == [8, 9, 10, 11, 12]
        assert cut.y.values.tolist() == [14, 15, 16]


@pytest.mark.parametrize("name", ["TAN", "SIP"])
def test_a_position_off_the_image(name: str) -> None:
    ds, wcs = opened(*IMAGES[name]())
    for x, y in [(-0.51, 3), (NX - 0.49, 3), (3, -0.51), (3, NY - 0.49), (-9, 900)]:
        with pytest.raises(KeyError, match=r"a\.fits.*off the"):
            ds.fits.sel_sky(wcs.pixel_to_world(x, y))
    for x, y in [(-0.49, 3), (NX - 0.51, 3), (3, -0.49), (3, NY - 0.51)]:
        found = ds.fits.sel_sky(wcs.pixel_to_world(x, y))
        assert (found.x, found.y) == (round(x), round(y))
    with pytest.raises(KeyError, match="off the"):
        ds.fits.sel_sky(SkyCoord(190, -20, unit="deg"))
    solar, _ = opened(image(SOLAR))
    with pytest.raises(ValueError, match=r"a\.fits.*frame"):
        solar.fits.sel_sky(SkyCoord(1, 2, unit="deg"))
    for position in (SkyCoord([10], [20], unit="deg"), (10, 20), None):
        with pytest.raises(ValueError, match="expected a SkyCoord of one position"):
            ds.fits.sel_sky(position)
    cut = ds.isel(x=slice(10, 30), y=slice(None, None, 4))
    found = cut.fits.sel_sky(wcs.pixel_to_world(12.2, 33.7))
    assert (found.x, found.y) == (12, 32)
    with pytest.raises(KeyError, match="off the 20 pixels along x"):
        cut.fits.sel_sky(wcs.pixel_to_world(9.4, 33))


@pytest.mark.parametrize("chunks", [None, {}])
def test_parts_of_an_image_are_put_together_with_their_sky(chunks: Any) -> None:
    ds, _ = opened(*SKIES["SIP"](), chunks=chunks, world_coords=True)
    parts = [ds.isel(x=slice(4)), ds.isel(x=[6, 5]), ds.isel(x=slice(8, None, 2))]
    found = xr.concat(parts, "x")
    whole = ds.isel(x=[0, 1, 2, 3, 6, 5, *range(8, ds.sizes["x"], 2)])
    assert "ra" in found.xindexes
    for name in ("ra", "dec", "SCI"):
        assert same_bits(found[name], whole[name])
    grouped = ds.groupby(ds.x % 3).map(lambda part: part)
    for name in ("ra", "dec", "SCI"):
        assert same_bits(grouped[name], ds[name])


def test_parts_of_different_images_are_not_put_together() -> None:
    one, _ = opened(*SKIES["SIP"](), world_coords=True)
    other, _ = opened(*SKIES["TAN"](), world_coords=True)
    for parts in ([one, other], [one, one.isel(y=slice(None, None, -1))]):
        with pytest.raises(ValueError, match=r"align|x"):
            xr.concat(parts, "x", join="exact")
        indexes = [part.xindexes["ra"] for part in parts]
        with pytest.raises(ValueError, match=r"a\.fits.*ra, dec: only parts of one image can be"):
            type(indexes[0]).concat(indexes, "x")
