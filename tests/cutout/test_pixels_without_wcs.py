"""Pixels need no WCS, and a position on the sky needs just the celestial axes of one.

Expected values are those of astropy: `Cutout2D` without a WCS, and `WCS` of the celestial axes.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

import dask_fits
import dask_fits.wcs.plane
from dask_fits import FitsError, FitsFormatError, StorageError
from dask_fits.cli import program
from dask_fits.cutout import find_box
from dask_fits.wcs.header import WcsHeader
from tests.support.fits_files import same_bits

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::dask_fits.FitsWarning"
)

Keywords = dict[str, Any]

TAN: Keywords = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 50.0,
    "CRPIX2": 40.0,
    "CRVAL1": 10.0,
    "CRVAL2": 20.0,
    "CDELT1": -1e-3,
    "CDELT2": 2e-3,
}
FREQ: Keywords = {"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CRPIX3": 1.0, "CDELT3": 1e6, "CUNIT3": "Hz"}
SIP: Keywords = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 2,
    "A_2_0": 1e-4,
    "B_ORDER": 2,
    "B_1_1": 2e-4,
}

PLANES: dict[str, Keywords] = {
    "an odd unit": TAN
    | {"CTYPE1": "CRLN-CEA", "CTYPE2": "CRLT-CEA", "CUNIT1": "Degree", "CUNIT2": "Sine Latitude"},
    "two projections": TAN | {"CTYPE2": "DEC--SIN"},
    "two longitudes": TAN | {"CTYPE2": "RA---TAN"},
    "a scale of zero": TAN | {"CDELT2": 0.0},
    "a table that is not there": TAN | {"CPDIS1": "LOOKUP", "DP1": "EXTVER: 1"},
    "too many axes": TAN | {"WCSAXES": 40},
    "no pole": TAN | {"CTYPE1": "RA---CAR", "CTYPE2": "DEC--CAR", "CRVAL2": 35.0, "LONPOLE": 140.0},
}
CUBES: dict[str, Keywords] = {
    "a scale of zero": TAN | FREQ | {"CDELT3": 0.0},
    "an odd unit": TAN | FREQ | {"CUNIT3": "km/s per turn"},
    "two spectral types": TAN | FREQ | {"CTYPE3": "FREQ-V2F"},
    "a distortion": TAN | FREQ | SIP,
}
PLATE = TAN | {"XPIXELSZ": 9.0, "YPIXELSZ": 9.0}

PLANE = np.arange(8000, dtype=np.float32).reshape(80, 100)
CUBE = np.stack([PLANE, PLANE + 8000])


def file_of(root: Path, cards: Keywords, pixels: Any = PLANE, name: str = "a.fits") -> str:
    fits.PrimaryHDU(pixels, fits.Header(cards)).writeto(root / name)
    return str(root / name)


def each(cases: dict[str, Keywords]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("cards", cases.values(), ids=cases)


def error_of(path: str) -> FitsError:
    """What the WCS of an image raises."""
    with pytest.raises(FitsFormatError) as caught:
        dask_fits.open(path)[0].wcs  # noqa: B018 (it is a property)
    return caught.value


@pytest.fixture
def wcs_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The HDUs of which a WCS was read."""
    made: list[str] = []
    read = dask_fits.wcs.plane.read_wcs

    def noted(header: WcsHeader) -> WCS:
        made.append(header.where)
        return read(header)

    monkeypatch.setattr(dask_fits.wcs.plane, "read_wcs", noted)
    return made


# Positions and sizes in pixels


@pytest.mark.untraced
@pytest.mark.parametrize("mode", ["trim", "partial"])
@each(PLANES)
def test_a_cutout_in_pixels(cards: Keywords, mode: Any, tmp_path: Path) -> None:
    path = file_of(tmp_path, cards)
    hdu, error = dask_fits.open(path)[0], error_of(path)
    for position, size in (((50, 40), 8), ((2.4, 78), (7, 12)), ((99, 0), 5 * u.pixel)):
        expected = Cutout2D(PLANE, position, size, mode=mode)
        found = hdu.cutout(position, size, mode=mode)
        assert same_bits(found.data.compute(), expected.data)
        assert found.wcs is None
        assert type(found.wcs_error) is type(error)
        assert str(found.wcs_error) == str(error)
        assert "HDU 0" in str(error)
        assert path in str(error)
    assert pickle.loads(pickle.dumps(found)).wcs is None
    assert (
        dask_fits.open(file_of(tmp_path, TAN, name="b.fits"))[0].cutout((9, 9), 3).wcs_error is None
    )


@each(PLANES)
def test_many_cutouts_in_pixels(cards: Keywords, tmp_path: Path, wcs_made: list[str]) -> None:
    bad, good = file_of(tmp_path, cards), file_of(tmp_path, TAN, -PLANE, "b.fits")
    positions = [(50, 40), (3, 77), (98, 2)]
    found = dask_fits.cutouts([bad, good], positions, (6, 9))
    assert wcs_made == [], "pixels need none"
    assert set(found.status) == {"ok", "partial"}
    assert not found.failures
    for row, (n, file) in enumerate(zip(found.position, found.file, strict=True)):
        pixels = (PLANE, -PLANE)[file]
        expected = Cutout2D(pixels, positions[n], (6, 9), mode="partial")
        assert same_bits(found.data[row].compute(), expected.data)
        wcs, error = found.wcs[row], found.wcs.error(row)
        if file == 0:
            assert wcs is None
            assert str(error) == str(error_of(bad))
        else:
            assert error is None
            whole = Cutout2D(
                pixels, positions[n], (6, 9), mode="partial", wcs=WCS(fits.Header(TAN))
            )
            assert np.array_equal(wcs.wcs.crpix, whole.wcs.wcs.crpix)


def test_cutouts_in_pixels_look_at_no_keyword_of_a_wcs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the cards of a WCS were picked")

    path = file_of(tmp_path, TAN)
    monkeypatch.setattr(WcsHeader, "of", refuse)
    assert dask_fits.cutouts(path, [(9, 9), (50, 40)], 4).status.tolist() == ["ok", "ok"]


def test_thousands_of_cutouts_make_no_wcs(tmp_path: Path, wcs_made: list[str]) -> None:
    path = file_of(tmp_path, TAN)
    positions = np.random.default_rng(1).uniform(5, 75, (10_000, 2))
    assert set(dask_fits.cutouts(path, positions, 4).status) == {"ok"}
    assert wcs_made == []
    hdu = dask_fits.open(path)[0]
    box = find_box(hdu.shape, hdu.wcs_header(), (50, 40), 8, mode="trim")
    assert box.origin == (36, 46)
    assert wcs_made == [], "as of the command line"
    cube = file_of(tmp_path, TAN | FREQ, CUBE, "cube.fits")
    assert set(dask_fits.cutouts(cube, positions, 4).status) == {"ok"}
    assert len(wcs_made) == 1, "which tells the axes"


@each(PLANES)
def test_a_cutout_in_pixels_in_xarray(cards: Keywords, tmp_path: Path) -> None:
    path = file_of(tmp_path, cards)
    if "WCSAXES" in cards:
        pytest.skip("xarray does not open it")
    ds = xr.open_dataset(path, engine="fits")
    for some, pixels in (
        (ds, PLANE),
        (ds.isel({ds.PRIMARY.dims[1]: slice(10, None, 3)}), PLANE[:, 10::3]),
    ):
        found = some.fits.cutout((20, 40), (8, 5))
        assert same_bits(found.PRIMARY, Cutout2D(pixels, (20, 40), (8, 5)).data)
        assert same_bits(some.PRIMARY.fits.cutout((20, 40), (8, 5)), found.PRIMARY)
        with pytest.raises(FitsFormatError, match="the keywords make no WCS"):
            found.fits.wcs  # noqa: B018
        for position, size in ((SkyCoord(10, 20, unit="deg"), 3), ((9, 9), 3 * u.arcsec)):
            if "XPIXELSZ" not in cards:
                with pytest.raises(FitsFormatError, match="the keywords make no WCS"):
                    some.fits.cutout(position, size)
                with pytest.raises(FitsFormatError, match="the keywords make no WCS"):
                    some.fits.sel_sky(SkyCoord(10, 20, unit="deg"))


def test_pixels_of_a_selection_that_has_no_wcs(tmp_path: Path) -> None:
    ds = xr.open_dataset(file_of(tmp_path, TAN), engine="fits")
    some = ds.isel(x=[1, 2, 5, 9, 30])
    assert same_bits(some.fits.cutout((2, 10), 3).PRIMARY, PLANE[9:12, [2, 5, 9]])
    with pytest.raises(ValueError, match="not evenly spaced"):
        some.fits.cutout((2, 10), 3 * u.arcsec)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["dask-fits", *map(str, arguments)])
        return program._run()

    return run


@each(PLANES)
def test_the_command_line(
    cards: Keywords, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = file_of(tmp_path, cards), tmp_path / "cut.fits"
    assert run("cutout", path, "--x", 50, "--y", 40, "--size", 8, "-o", out) == 0
    assert np.array_equal(fits.getdata(out), Cutout2D(PLANE, (50, 40), 8).data)
    moved = fits.getheader(out)
    assert (moved["CRPIX1"], moved["CRPIX2"]) == (50 - 46, 40 - 36)
    assert moved["CTYPE2"] == cards["CTYPE2"]
    (tmp_path / "stars.csv").write_text("x,y\n50,40\n3,77\n")
    options = [
        "--catalog",
        tmp_path / "stars.csv",
        "--pixels",
        "--size",
        4,
        "-o",
        tmp_path / "cuts",
    ]
    assert run("cutouts", path, *options) == 0, capsys.readouterr().err
    assert np.array_equal(fits.getdata(tmp_path / "cuts" / "0.fits"), PLANE[38:42, 48:52])
    assert fits.getheader(tmp_path / "cuts" / "1.fits")["CRPIX1"] == 50 - 1


# Where something needs the sky


@each({name: cards for name, cards in PLANES.items() if "WCSAXES" not in cards})
def test_the_sky_needs_a_wcs(cards: Keywords, tmp_path: Path) -> None:
    path = file_of(tmp_path, cards)
    hdu, error = dask_fits.open(path)[0], error_of(path)
    sky = SkyCoord(10, 20, unit="deg")
    for position, size in ((sky, 4), ((50, 40), 4 * u.arcsec), (sky, 4 * u.arcsec)):
        with pytest.raises(FitsFormatError) as caught:
            hdu.cutout(position, size)
        assert str(caught.value) == str(error)
        positions = SkyCoord([position]) if position is sky else [position]
        with pytest.raises(FitsFormatError) as caught:
            dask_fits.cutouts(path, positions, size)
        assert str(caught.value) == str(error)
        good = file_of(tmp_path, TAN, name=f"{size}{position}.fits".replace("\n", ""))
        found = dask_fits.cutouts([path, good], positions, size)
        assert [str(e) for e in found.failures.values()] == [str(error)]
        assert "ok" in found.status.tolist()


def test_what_cannot_be_had_now_is_not_a_wcs_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(header: WcsHeader) -> WCS:
        raise StorageError(f"{header.where}: the server is busy")

    monkeypatch.setattr(dask_fits.wcs.plane, "read_wcs", fails)
    with pytest.raises(StorageError, match="busy"):
        dask_fits.open(file_of(tmp_path, TAN))[0].cutout((9, 9), 3)


def test_an_unknown_radesys_is_named(tmp_path: Path) -> None:
    path = file_of(tmp_path, TAN | {"RADESYS": "J2000"})
    expected = r"RADESYS: found 'J2000', expected one of ICRS, FK5, FK4, FK4-NO-E"
    sky = SkyCoord(10, 20, unit="deg")
    with pytest.raises(ValueError, match=expected):
        dask_fits.open(path)[0].cutout(sky, 3)
    with pytest.raises(FitsFormatError, match=expected):
        dask_fits.cutouts(path, SkyCoord([sky]), 3)
    with pytest.raises(ValueError, match=expected):
        xr.open_dataset(path, engine="fits").fits.sel_sky(sky)
    assert dask_fits.open(path)[0].cutout((50, 40), 30 * u.arcsec).wcs is not None
    assert dask_fits.cutouts(path, [(50, 40)], 3).status.tolist() == ["ok"]


# The celestial axes alone


def reordered(cards: Keywords, order: tuple[int, int, int]) -> Keywords:
    """The same keywords with the axes 1, 2 and 3 at other places."""
    place = {str(old): str(new) for new, old in enumerate(order, 1)}
    found = {}
    for key, value in cards.items():
        stem = key.rstrip("0123456789")
        found[stem + place[key[-1]] if key[-1] in place and "_" not in key else key] = value
    return found


def celestial_cutout(cards: Keywords, position: SkyCoord, size: Any) -> Cutout2D:
    """By astropy, which makes a WCS of the axes that it is told."""
    return Cutout2D(PLANE, position, size, wcs=WCS(fits.Header(cards), naxis=[1, 2]))


@each(CUBES)
def test_a_position_on_a_cube(cards: Keywords, tmp_path: Path) -> None:
    path = file_of(tmp_path, cards, CUBE)
    hdu, error = dask_fits.open(path)[0], error_of(path)
    sky = SkyCoord(10.013, 20.025, unit="deg")
    for size in (7, (9, 30) * u.arcsec):
        expected = celestial_cutout(cards, sky, size)
        found = hdu.cutout(sky, size)
        assert found.slices == (slice(0, 2), *expected.slices_original)
        assert same_bits(found.data.compute()[0], expected.data)
        assert found.wcs is None
        assert str(found.wcs_error) == str(error)
        many = dask_fits.cutouts(path, SkyCoord([sky]), size)
        assert same_bits(many.data[0, 1].compute(), expected.data + 8000)
        assert many.wcs[0] is None
        assert str(many.wcs.error(0)) == str(error)
        ds = xr.open_dataset(path, engine="fits")
        for some in (
            ds,
            ds.isel({ds.PRIMARY.dims[0]: 0}),
            ds.isel({ds.PRIMARY.dims[2]: slice(5, None)}),
        ):
            box = some.fits.cutout(sky, size).PRIMARY
            assert same_bits(box if box.ndim == 2 else box[0], expected.data)
    middle = hdu.cutout(sky, 1).data.compute()
    assert same_bits(ds.fits.sel_sky(sky).PRIMARY, middle[:, 0, 0])


@pytest.mark.parametrize("order", [(3, 1, 2), (1, 3, 2), (2, 3, 1)])
@each({name: cards for name, cards in CUBES.items() if name != "a distortion"})
def test_a_position_on_a_cube_of_another_order(
    cards: Keywords, order: tuple[int, int, int], tmp_path: Path
) -> None:
    # Of the array the axes are the reverse.
    latitude_first = order.index(2) < order.index(1)
    plane = PLANE.T if latitude_first else PLANE
    axis = 2 - order.index(3)
    cube = np.stack([plane, plane + 8000], axis=axis)
    path = file_of(tmp_path, reordered(cards, order), cube)
    error_of(path)
    sky = SkyCoord(10.013, 20.025, unit="deg")
    expected = celestial_cutout(cards, sky, 7)
    found = dask_fits.open(path)[0].cutout(sky, 7)
    pixels = np.take(found.data.compute(), 0, axis=axis)
    assert same_bits(pixels.T if latitude_first else pixels, expected.data)
    ds = xr.open_dataset(path, engine="fits")
    assert same_bits(ds.fits.cutout(sky, 7).PRIMARY, found.data.compute())
    many = dask_fits.cutouts(path, SkyCoord([sky]), 7)
    assert same_bits(many.data[0].compute(), found.data.compute())
    # Pixels are of the same two axes.
    x, y = (20, 33) if latitude_first else (33, 20)
    box = dask_fits.open(path)[0].cutout((x, y), 5).data.compute()
    expected = Cutout2D(plane, (x, y), 5)
    assert same_bits(np.take(box, 0, axis=axis), expected.data)


def test_the_last_two_axes_are_cut_where_nothing_tells_others(tmp_path: Path) -> None:
    path = file_of(tmp_path, TAN | FREQ | {"CTYPE2": "DEC--SIN"}, CUBE)
    found = dask_fits.open(path)[0].cutout((50, 40), 8)
    assert found.slices == (slice(0, 2), slice(36, 44), slice(46, 54))
    assert found.wcs is None
    assert dask_fits.cutouts(path, [(50, 40)], 8).data.shape == (1, 2, 8, 8)


def test_a_sky_that_depends_on_another_axis(tmp_path: Path) -> None:
    path = file_of(tmp_path, TAN | FREQ | {"CDELT3": 0.0, "PC1_3": 0.1}, CUBE)
    error = error_of(path)
    with pytest.raises(FitsFormatError) as caught:
        dask_fits.open(path)[0].cutout(SkyCoord(10, 20, unit="deg"), 5)
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "more",
    [
        {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8, "PC3_3": 1.0},
        {"PC3_1": 0.5},
        {"CTYPE1": "RA---ZPN", "CTYPE2": "DEC--ZPN", "PV2_1": 1.0, "PV2_3": 0.1, "PV3_1": 9.0},
        {"RADESYS": "FK5", "EQUINOX": 1975.0, "LONPOLE": 170.0},
        {"CROTA2": 30.0},
        {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CRVAL2": 0.0, "CRPIX2": -9960.0},
    ],
    ids=" ".join,
)
def test_all_that_positions_depend_on_is_kept(more: Keywords, tmp_path: Path) -> None:
    cards = TAN | FREQ | {"CDELT3": 0.0} | more
    path = file_of(tmp_path, cards, CUBE)
    error_of(path)
    wcs = WCS(fits.Header({k: v for k, v in cards.items() if "3" not in k[-3:] or k == "PV2_3"}))
    sky = wcs.pixel_to_world([20, 61.3, 80], [10, 44.2, 70])
    for position in sky:
        expected = Cutout2D(PLANE, position, 7, wcs=wcs)
        found = dask_fits.open(path)[0].cutout(position, 7)
        assert found.slices[1:] == expected.slices_original
    assert dask_fits.cutouts(path, sky, 7).status.tolist() == ["ok"] * 3


def test_the_size_of_the_pixels_of_a_camera_is_no_plate(tmp_path: Path) -> None:
    path = file_of(tmp_path, PLATE)
    assert dask_fits.open(path)[0].wcs.to_header() == WCS(fits.Header(TAN)).to_header()
    sky = SkyCoord(10.013, 20.025, unit="deg")
    expected = Cutout2D(PLANE, sky, 9, wcs=WCS(fits.Header(TAN)))
    found = dask_fits.open(path)[0].cutout(sky, 9)
    assert same_bits(found.data.compute(), expected.data)
    assert dask_fits.cutouts(path, SkyCoord([sky]), 9).status.tolist() == ["ok"]
    assert same_bits(
        xr.open_dataset(path, engine="fits").fits.cutout(sky, 9).PRIMARY, expected.data
    )


def test_a_sky_position_from_the_command_line(tmp_path: Path, run: Callable[..., int]) -> None:
    path, out = file_of(tmp_path, CUBES["a scale of zero"], CUBE), tmp_path / "cut.fits"
    assert run("cutout", path, "--ra", "10.013", "--dec", "20.025", "--size", "7", "-o", out) == 0
    expected = celestial_cutout(CUBES["a scale of zero"], SkyCoord(10.013, 20.025, unit="deg"), 7)
    assert np.array_equal(fits.getdata(out)[0], expected.data)
    assert (
        run(
            "cutout",
            file_of(tmp_path, PLANES["two projections"], name="b.fits"),
            "--ra",
            "10.013",
            "--dec",
            "20.025",
            "--size",
            "7",
            "-o",
            tmp_path / "no.fits",
        )
        == 1
    )
