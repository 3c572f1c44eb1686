"""The way from the pixels of one image to those of another, against astropy point by point."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip

from dask_fits import FitsFormatError
from dask_fits.wcs.mapping import Grid, PixelMap, whole_shift
from dask_fits.wcs.turns import Extent, turn_step
from tests.support.corpus import CORPUS, needs_corpus
from tests.support.grids import (
    GALACTIC,
    SIP_INVERSE,
    SIP_TERMS,
    Keywords,
    Shape,
    all_pixels,
    assert_same_positions,
    field,
    grid_of,
    latitude_first,
    on_image,
    positions_by_astropy,
    sip_keywords,
    sky_keywords,
)
from tests.support.sky_pairs import ITERATED, pairs
from tests.support.worlds import IMAGES, NX, NY, oracle, written

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

SHAPE = (100, 120)


@pytest.mark.parametrize("name", list(pairs()))
def test_positions_are_those_of_astropy(name: str) -> None:
    pair = pairs()[name]
    is_iterated = pair.tolerance == ITERATED
    # Between pixels, and beside the output too.
    height, width = pair.output.shape
    rng = np.random.default_rng(5)
    size = np.array([[width], [height]])
    pixels = rng.uniform(-0.1, 1.1, (2, 100 if is_iterated else 700)) * size
    found = PixelMap(pair.output, pair.input).positions(pixels)
    seen_output, seen_input = pair.seen_output or pair.output, pair.seen_input or pair.input
    expected = positions_by_astropy(seen_output, seen_input, pixels)
    tolerance = ITERATED if is_iterated else 1e-9
    assert_same_positions(found, expected, pair.input.shape, tolerance)


def test_nothing_and_no_number() -> None:
    way = PixelMap(field("TAN", (30.0, 40.0), 0.01, SHAPE), field("TAN", (30.0, 40.0), 0.02, SHAPE))
    assert way.positions(np.empty((2, 0))).shape == (2, 0)
    found = way.positions(np.array([[np.nan, 60.0, np.inf], [50.0, 50.0, 50.0]]))
    assert np.isnan(found).all(axis=0).tolist() == [True, False, True]


def test_what_has_no_position() -> None:
    image = field("TAN", (30.0, 40.0), 0.01, SHAPE)
    # Behind the tangent plane, and beside a hemisphere and a whole sky.
    for output in (
        field("TAN", (210.0, -40.0), 0.01, SHAPE),
        field("SIN", (30.0, 40.0), 60.0, SHAPE),
        field("AIT", (30.0, 0.0), 50.0, SHAPE),
    ):
        corner = np.array([[0.0], [0.0]])
        assert np.isnan(PixelMap(output, image).positions(corner)).all()


def test_far_from_a_distortion_it_leads_nowhere() -> None:
    # Its inverse leads back onto the image from some pixels that are far from it.
    cards = sip_keywords((30.0, 40.0), (50.0, 50.0), 0.01) | {"A_3_0": -4e-5, "B_0_3": -4e-5}
    image = grid_of(cards, SHAPE)
    output = field("TAN", (30.0, 40.0), 0.05, (80, 80))
    pixels = all_pixels(output.shape)
    found = PixelMap(output, image).positions(pixels)
    on = on_image(found, image.shape)
    assert 0 < on.sum() < on.size
    back = positions_by_astropy(image, output, found[:, on])
    assert np.abs(back - pixels[:, on]).max() < 1e-3


# What is between nodes


KINDS: dict[str, str] = {
    **dict.fromkeys(["TAN", "SIN", "ZPN", "CAR", "AIT", "MOL", "COE", "BON", "PCO"], "smooth"),
    **dict.fromkeys(["TSC", "CSC", "QSC", "HPX", "XPH"], "facets"),
}


@pytest.mark.parametrize("code", KINDS)
def test_kind_of_a_projection(code: str) -> None:
    grid = field(code, (30.0, 0.0), 1.0, SHAPE)
    assert grid.kind == KINDS[code]
    tan = field("TAN", (30.0, 40.0), 1.0, SHAPE)
    assert PixelMap(tan, grid).kind == PixelMap(grid, tan).kind == KINDS[code]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SIP", "smooth"),
        ("TPV", "smooth"),
        ("swapped axes, SIP", "smooth"),
        ("lookup", "tables"),
        ("lookup, second axis only", "tables"),
        ("detector", "tables"),
        ("detector, old keyword, first axis", "tables"),
        ("all that HST has", "tables"),
    ],
)
def test_kind_of_a_distortion(name: str, kind: str) -> None:
    assert Grid(oracle(written(*IMAGES[name]())), (NY, NX), name).kind == kind


def test_the_worse_kind_counts() -> None:
    tables = Grid(oracle(written(*IMAGES["lookup"]())), (NY, NX), "lookup")
    facets = field("HPX", (30.0, 0.0), 1.0, SHAPE)
    assert PixelMap(tables, facets).kind == PixelMap(facets, tables).kind == "facets"


# Whole pixels apart


TAN = sky_keywords("TAN", (30.0, 40.0), (50.5, 60.5), 0.001)
CD = {"CD1_1": -0.001, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.001}


def without(cards: Keywords, *beginnings: str) -> Keywords:
    return {key: value for key, value in cards.items() if not key.startswith(beginnings)}


SIP = sip_keywords((30.0, 40.0), (50.5, 60.5), 0.001)
SWAPPED = latitude_first(TAN)

SHIFTS: dict[str, tuple[Keywords, Keywords, tuple[int, int] | None]] = {
    "none": (TAN, TAN, (0, 0)),
    "to the left": (TAN, TAN | {"CRPIX1": 47.5}, (0, -3)),
    "up": (TAN, TAN | {"CRPIX2": 70.5}, (10, 0)),
    "both": (TAN, TAN | {"CRPIX1": 47.5, "CRPIX2": 1070.5}, (1010, -3)),
    "within rounding": (TAN, TAN | {"CRPIX1": 47.5 + 3e-7}, (0, -3)),
    "beyond rounding": (TAN, TAN | {"CRPIX1": 47.5 + 3e-6}, None),
    "half a pixel": (TAN, TAN | {"CRPIX1": 47.0}, None),
    "another reference": (TAN, TAN | {"CRVAL1": 30.001}, None),
    "another projection": (TAN, TAN | {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, None),
    "another pole": (TAN, TAN | {"LONPOLE": 170.0}, None),
    "the usual pole": (TAN, TAN | {"LONPOLE": 180.0}, (0, 0)),
    "a matrix": (TAN, TAN | {"PC1_1": 1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0}, (0, 0)),
    "turned": (TAN, TAN | {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}, None),
    "CD for CDELT": (TAN, without(TAN, "CDELT") | CD, None),
    "CD": (without(TAN, "CDELT") | CD, without(TAN, "CDELT") | CD | {"CRPIX1": 47.5}, (0, -3)),
    "parameters": (
        sky_keywords("ZPN", (30.0, 40.0), (50.5, 60.5), 0.001),
        sky_keywords("ZPN", (30.0, 40.0), (50.5, 60.5), 0.001, PV2_3=-0.2),
        None,
    ),
    "ICRS as the default": (TAN, TAN | {"RADESYS": "ICRS"}, (0, 0)),
    "FK5": (TAN, TAN | {"RADESYS": "FK5", "EQUINOX": 2000.0}, None),
    "FK5 by its equinox": (TAN, TAN | {"EQUINOX": 2000.0}, None),
    "FK5 of two equinoxes": (
        TAN | {"RADESYS": "FK5", "EQUINOX": 1975.0},
        TAN | {"RADESYS": "FK5", "EQUINOX": 2000.0},
        None,
    ),
    "FK5 of one equinox": (
        TAN | {"RADESYS": "FK5", "EQUINOX": 1975.0},
        TAN | {"RADESYS": "FK5", "EQUINOX": 1975.0, "CRPIX2": 0.5},
        (-60, 0),
    ),
    "FK4 of two dates": (
        TAN | {"RADESYS": "FK4", "DATE-OBS": "1950-01-01"},
        TAN | {"RADESYS": "FK4", "DATE-OBS": "1980-01-01"},
        (0, 0),
    ),
    "two dates": (TAN | {"DATE-OBS": "2001-01-01"}, TAN | {"DATE-OBS": "2002-01-01"}, (0, 0)),
    "units": (
        TAN,
        TAN | {"CUNIT1": "arcsec", "CDELT1": -3.6, "CRVAL1": 108000.0, "CRPIX1": 40.5},
        (0, -10),
    ),
    "latitude first": (SWAPPED, SWAPPED | {"CRPIX1": 40.5}, (0, -20)),
    "latitude first in one": (TAN, SWAPPED, None),
    "SIP": (SIP, SIP | {"CRPIX1": 47.5}, (0, -3)),
    "SIP in one": (SIP, TAN, None),
    "another SIP": (SIP, SIP | {"A_2_0": 2.1e-6}, None),
    "SIP of another order": (SIP, SIP | {"A_ORDER": 2}, None),
    "an inverse of SIP": (SIP, SIP | SIP_INVERSE, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SHIFTS)
def test_whole_shift(name: str) -> None:
    one, other, expected = SHIFTS[name]
    output, image = grid_of(one, SHAPE), grid_of(other, SHAPE)
    assert whole_shift(output, image) == expected
    reverse = None if expected is None else (-expected[0], -expected[1])
    assert whole_shift(image, output) == reverse
    if expected is not None:
        pixels = np.random.default_rng(2).uniform(0, 100, (2, 50))
        moved = pixels + np.array([[expected[1]], [expected[0]]])
        found = positions_by_astropy(output, image, pixels)
        assert np.abs(found - moved).max() < 1e-5


def test_reference_of_a_distortion() -> None:
    # astropy has one for the distortion and one for the projection.
    output, image = grid_of(SIP, SHAPE), grid_of(SIP | {"CRPIX1": 47.5}, SHAPE)
    sip = image.wcs.sip
    image.wcs.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, output.wcs.sip.crpix)
    assert whole_shift(output, image) is None


@pytest.mark.parametrize("name", ["lookup", "detector"])
def test_tables_are_never_whole_pixels_apart(name: str) -> None:
    wcs = oracle(written(*IMAGES[name]()))
    grid, plain = Grid(wcs, (NY, NX), name), Grid(wcs.deepcopy(), (NY, NX), name)
    assert whole_shift(grid, plain) is None
    for table in ("cpdis1", "cpdis2", "det2im1", "det2im2"):
        setattr(plain.wcs, table, None)
    assert whole_shift(grid, plain) is whole_shift(plain, grid) is None


CAR = sky_keywords("CAR", (0.0, 0.0), (180.5, 90.5), 1.0)
MAPS: dict[str, tuple[tuple[float, Shape], tuple[float, Shape], tuple[int, int] | None]] = {
    "the same": ((180.5, (180, 360)), (180.5, (180, 360)), (0, 0)),
    "more than a turn, the same": ((180.5, (180, 365)), (180.5, (180, 365)), (0, 0)),
    "a part": ((180.5, (180, 100)), (180.5, (180, 360)), (0, 0)),
    "of a part": ((180.5, (180, 360)), (180.5, (180, 100)), (0, 0)),
    "of a part elsewhere": ((180.5, (180, 360)), (80.5, (180, 100)), (0, -100)),
    "turned": ((180.5, (180, 360)), (80.5, (180, 360)), None),
    "one that begins elsewhere": ((180.5, (180, 360)), (0.5, (180, 360)), None),
    "of a part beyond": ((180.5, (180, 360)), (400.5, (180, 100)), None),
    "more than a turn": ((180.5, (180, 400)), (180.5, (180, 360)), None),
}


@pytest.mark.parametrize("name", MAPS)
def test_whole_shift_of_maps_of_the_whole_sky(name: str) -> None:
    (out_x, out_shape), (in_x, in_shape), expected = MAPS[name]
    output = grid_of(CAR | {"CRPIX1": out_x}, out_shape)
    image = grid_of(CAR | {"CRPIX1": in_x}, in_shape)
    found = whole_shift(output, image)
    assert found == expected
    # The columns of a map are those of whole degrees, half a turn to each side of its reference.
    y, x = np.mgrid[: out_shape[0] : 7, : out_shape[1]]
    first = np.abs(out_x - 1 - x) < 180
    has = np.isin((out_x - 1 - x) % 360, (in_x - 1 - np.arange(in_shape[1])) % 360)
    assert (has & first).any()
    if found is None:
        pixels = np.stack([x.ravel(), y.ravel()]).astype(float)
        positions = PixelMap(output, image).positions(pixels).reshape(2, *x.shape)
    else:
        positions = np.stack([x + found[1], y + found[0]])
    assert np.array_equal(on_image(positions, in_shape)[first], has[first])


# A turn of the longitude


TURNS: dict[str, tuple[Keywords, tuple[float, float]]] = {
    "CAR": (sky_keywords("CAR", (20.0, 0.0), (50.5, 60.5), 0.5), (-720.0, 0.0)),
    "CAR, oblique": (sky_keywords("CAR", (20.0, 35.0), (50.5, 60.5), 0.5), (-720.0, 0.0)),
    "CEA": (sky_keywords("CEA", (20.0, 0.0), (50.5, 60.5), 0.5), (-720.0, 0.0)),
    "MER": (sky_keywords("MER", (20.0, 0.0), (50.5, 60.5), 2.0), (-180.0, 0.0)),
    "CYP": (sky_keywords("CYP", (20.0, 0.0), (50.5, 60.5), 0.5), (-576.0, 0.0)),
    "upright": (sky_keywords("CAR", (20.0, 0.0), (50.5, 60.5), 0.5, turned=90.0), (0.0, 720.0)),
    "slanting": (
        sky_keywords("CAR", (20.0, 0.0), (50.5, 60.5), 0.5, PC1_1=0.8, PC1_2=-0.6, PC2_1=0.6, PC2_2=0.8),
        (-576.0, 432.0),
    ),
    "latitude first": (
        latitude_first(sky_keywords("CAR", (20.0, 0.0), (50.5, 60.5), 0.5)),
        (0.0, -720.0),
    ),
    **{
        code: (sky_keywords(code, (20.0, 0.0), (50.5, 60.5), 0.5), (0.0, 0.0))
        for code in ("TAN", "SIN", "ZEA", "AIT", "MOL", "SFL", "TSC", "HPX", "PCO")
    },
    "a distortion": (
        sky_keywords("CAR-SIP", (20.0, 0.0), (50.5, 60.5), 0.5, **SIP_TERMS),
        (0.0, 0.0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNS)
def test_turn_step(name: str) -> None:
    cards, expected = TURNS[name]
    grid = grid_of(cards, SHAPE)
    step = turn_step(grid.wcs, Extent.of(*SHAPE))
    # To which side it is does not matter.
    assert any(np.allclose(side * np.array(step), expected, rtol=0, atol=1e-9) for side in (1, -1))


# Frames that astropy does not know


SUN: Keywords = {
    "CTYPE1": "HPLN-TAN",
    "CTYPE2": "HPLT-TAN",
    "CUNIT1": "arcsec",
    "CUNIT2": "arcsec",
    "CRVAL1": 100.0,
    "CRVAL2": -200.0,
    "CRPIX1": 50.5,
    "CRPIX2": 60.5,
    "CDELT1": 0.6,
    "CDELT2": 0.6,
    "DATE-OBS": "2012-03-04T05:06:07",
    "HGLN_OBS": 0.0,
    "HGLT_OBS": -7.2,
    "DSUN_OBS": 1.48e11,
}


def test_images_of_the_sun() -> None:
    turned = {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}
    output = grid_of(SUN, SHAPE)
    image = grid_of(SUN | turned | {"CRPIX1": 20.25, "CDELT1": 0.7, "CRVAL1": 130.0}, SHAPE)
    pixels = np.random.default_rng(4).uniform(0, 100, (2, 200))
    found = PixelMap(output, image).positions(pixels)
    world = output.wcs.wcs_pix2world(pixels.T, 0)
    expected = image.wcs.wcs_world2pix(world, 0).T
    assert np.abs(found - expected).max() < 1e-9
    assert whole_shift(output, grid_of(SUN | {"CRPIX1": 40.5}, SHAPE)) == (0, -10)


DIFFERENCES: dict[str, tuple[Keywords, str]] = {
    "date": ({"DATE-OBS": "2012-03-04T05:06:08"}, "DATE-OBS '2012-03-04T05:06:07' and '2012-03-04T05:06:08'"),
    "longitude": ({"HGLN_OBS": 1.0}, "HGLN_OBS 0.0 and 1.0"),
    "latitude": ({"HGLT_OBS": -7.1}, "HGLT_OBS -7.2 and -7.1"),
    "distance": ({"DSUN_OBS": 1.49e11}, "DSUN_OBS 148000000000.0 and 149000000000.0"),
    "coordinates": (
        {"CTYPE1": "HGLN-TAN", "CTYPE2": "HGLT-TAN"},
        r"CTYPEn \('HPLN', 'HPLT'\) and \('HGLN', 'HGLT'\)",
    ),
    "the sky": (
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 1e4, "CRVAL2": 1e4},
        r"CTYPEn \('HPLN', 'HPLT'\) and \('RA--', 'DEC-'\), RADESYS '' and 'ICRS'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENCES)
def test_other_images_of_the_sun(name: str) -> None:
    keywords, said = DIFFERENCES[name]
    one, other = grid_of(SUN, SHAPE), grid_of(SUN | keywords, SHAPE)
    with pytest.raises(FitsFormatError, match=rf"knows no frame .* HPLN-TAN .* differ: {said}$"):
        PixelMap(one, other)
    with pytest.raises(FitsFormatError, match="differ: "):
        PixelMap(other, one)
    assert whole_shift(one, other) is None


def test_equatorial_frames_that_astropy_does_not_know() -> None:
    unknown = grid_of(TAN | {"RADESYS": "GAPPT"}, SHAPE)
    moved = grid_of(TAN | {"RADESYS": "GAPPT", "CRPIX1": 40.0}, SHAPE)
    found = PixelMap(unknown, moved).positions(np.array([[30.0], [20.0]]))
    assert np.allclose(found, [[19.5], [20.0]], rtol=0, atol=1e-9)
    with pytest.raises(FitsFormatError, match=r"RADESYS: found 'GAPPT'.*'GAPPT' and 'ICRS'"):
        PixelMap(unknown, grid_of(TAN, SHAPE))
    assert whole_shift(unknown, grid_of(TAN, SHAPE)) is None


@needs_corpus
def test_real_images_of_the_sun() -> None:
    grids: list[Grid] = []
    for name in ("secchi_l0_a", "secchi_l0_b", "aia_171_level1"):
        header = fits.getheader(CORPUS / "reproject" / f"{name}.fits")
        grids.append(Grid(WCS(header), (2048, 2048), name))
    for other in grids[1:]:
        with pytest.raises(FitsFormatError, match=r"differ: DATE-OBS .*HGLN_OBS"):
            PixelMap(grids[0], other)
    pixels = np.array([[100.0, 900.0], [200.0, 300.0]])
    for grid in grids:
        assert np.allclose(PixelMap(grid, grid).positions(pixels), pixels, rtol=0, atol=1e-6)


def test_units_of_an_angle() -> None:
    degrees = field("TAN", (30.0, 40.0), 0.001, SHAPE, names=GALACTIC)
    minutes: Keywords = {"CUNIT1": "arcmin", "CUNIT2": "arcmin", "CRVAL1": 1800.0, "CRVAL2": 2400.0}
    minutes |= {"CDELT1": -0.06, "CDELT2": 0.06}
    other = grid_of(sky_keywords("TAN", (0, 0), (60.5, 50.5), 1.0, names=GALACTIC) | minutes, SHAPE)
    pixels = np.array([[3.0, 77.5], [4.0, 60.25]])
    assert np.allclose(PixelMap(degrees, other).positions(pixels), pixels, rtol=0, atol=1e-8)


def test_ecliptic_coordinates_are_none_of_the_equator() -> None:
    """Astropy takes them for ICRS, as wcslib gives them a RADESYS."""
    ecliptic = field("TAN", (30.0, 40.0), 0.01, (60, 70), names=("ELON", "ELAT"))
    other = field("SIN", (30.1, 40.1), 0.013, (80, 90), names=("ELON", "ELAT"))
    pixels = np.array([[5.0, 40.0], [7.0, 50.0]])
    expected = other.wcs.wcs_world2pix(ecliptic.wcs.wcs_pix2world(pixels.T, 0), 0).T
    np.testing.assert_allclose(PixelMap(ecliptic, other).positions(pixels), expected, atol=1e-8)
    equatorial = field("TAN", (30.0, 40.0), 0.01, (60, 70))
    for output, image in ((equatorial, ecliptic), (ecliptic, equatorial)):
        with pytest.raises(FitsFormatError, match="no frame for CTYPEn of ELON"):
            PixelMap(output, image)
