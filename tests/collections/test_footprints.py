"""Where images lie on the sky: whatever is beside them in a collection, as astropy says it.

Images whose headers differ in a few numbers alone share a WCS, so headers of all kinds are mixed.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from tests.support import worlds
from tests.support.collections import SKY, image, put, several
from tests.support.footprint_files import (
    CUBES,
    KINDS,
    Expected,
    assert_places,
    base,
    expected,
    header_of,
)

pytestmark = [
    pytest.mark.untraced,
    pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning"),
    pytest.mark.filterwarnings("ignore::dask_fits.FitsWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

EACH = 5
"""Images of each kind."""

SHAPES = ((20, 30), (30, 20), (1, 1), (1, 40), (7, 2))


@pytest.fixture(scope="module")
def mixed() -> list[tuple[str, fits.ImageHDU]]:
    """Images of all kinds, in no order."""
    rng = np.random.default_rng(91)
    found = []
    for kind, make in KINDS.items():
        for number in range(EACH):
            pixels = np.zeros(SHAPES[number], "u1")
            found.append((f"{kind} {number}", fits.ImageHDU(pixels, header_of(make(rng)))))
    for kind, make_cube in CUBES.items():
        for number in range(EACH):
            keywords, shape = make_cube(rng)
            cube = fits.ImageHDU(np.zeros(shape, "u1"), header_of(keywords))
            found.append((f"{kind} {number}", cube))
    return [found[n] for n in rng.permutation(len(found))]


@pytest.fixture(scope="module")
def places(mixed: list[tuple[str, fits.ImageHDU]]) -> list[Expected]:
    return [expected(hdu.header) for _, hdu in mixed]


def file_of(mixed: list[tuple[str, fits.ImageHDU]], order: list[int], path: Path) -> Path:
    fits.HDUList([fits.PrimaryHDU(), *(mixed[n][1] for n in order)]).writeto(path)
    return path


@pytest.mark.parametrize("seed", range(2))
def test_images_of_all_kinds_lie_where_astropy_says_in_any_order(
    mixed: list[tuple[str, fits.ImageHDU]], places: list[Expected], seed: int, tmp_path: Path
) -> None:
    order = np.random.default_rng(seed).permutation(len(mixed)).tolist()
    found = dask_fits.open_collection(file_of(mixed, order, tmp_path / "mixed.fits"))
    assert_places(found, [places[n] for n in order], [mixed[n][0] for n in order])
    assert sum(place.centre is not None for place in places) > 0.8 * len(places)


def test_a_reference_at_the_pole_does_not_turn_the_images_after_it(tmp_path: Path) -> None:
    """LONPOLE, where it is not given, depends on the declination of the reference pixel."""
    for code in ("TAN", "CAR"):
        headers = [
            {**base(np.random.default_rng(1), code), "CRVAL2": lat, "CDELT1": -0.01, "CDELT2": 0.01}
            for lat in (90.0, 30.0, -30.0, 0.0, -90.0, 5.0)
        ]
        paths = put(tmp_path, [image(header) for header in headers], code)
        for some in (paths, paths[::-1]):
            found = dask_fits.open_collection(some)
            assert_places(found, [expected(fits.getheader(path)) for path in some], some)


def test_projections_that_are_translated_by_their_declination_are_not_mixed_up(
    tmp_path: Path,
) -> None:
    for code in ("NCP", "GLS"):
        headers = [
            {**base(np.random.default_rng(2), code), "CRVAL2": lat, "CDELT1": -0.01, "CDELT2": 0.01}
            for lat in (30.0, 45.0, 60.0)
        ]
        paths = put(tmp_path, [image(header) for header in headers], code)
        found = dask_fits.open_collection(paths)
        assert_places(found, [expected(fits.getheader(path)) for path in paths], paths)


def test_an_image_alone_lies_where_it_does_among_others(
    mixed: list[tuple[str, fits.ImageHDU]], places: list[Expected], tmp_path: Path
) -> None:
    some = range(0, len(mixed), 7)
    for n in some:
        found = dask_fits.open_collection(file_of(mixed, [n], tmp_path / f"{n}.fits"))
        assert_places(found, [places[n]], [mixed[n][0]])


@pytest.mark.parametrize(
    "odd",
    [
        {"CRVAL1": b"1_0.0"},
        {"CRVAL1": b"nan"},
        {"CRVAL1": b"inf"},
        {"CRVAL1": b"1.5D2"},
        {"CRVAL1": b"1.5d2"},
        {"CRVAL1": b"'150.'"},
        {"CRVAL1": b""},
        {"CRVAL1": b"/ nothing"},
        {"CRVAL1": b"150."},
        {"CRVAL1": b"+150"},
        {"CRVAL1": b"150.0/right after it"},
        {"CRVAL1": b"150.0 / it's a quote"},
        {"CRVAL1": b"(150.0, 1.0)"},
        {"CRVAL1": b"T"},
        {"CTYPE1": b"'RA---TAN'           / it's = a quote"},
        {"CTYPE1": b"'RA---TAN'/close"},
        {"CTYPE1": b"'ra---tan'"},
        {"CTYPE1": b"'RA---TA'"},
        {"RADESYS": b"'FK5     '"},
        {"RADESYS": b"'fk5'"},
        {"EQUINOX": b"'J2000'"},
        {"EQUINOX": b"'1975.0'"},
        {"EQUINOX": b""},
        {"CUNIT1": b"'degree'", "CUNIT2": b"'DEG'"},
        {"CUNIT1": b"'ARCSEC'", "CUNIT2": b"'ARCSEC'"},
        {"CUNIT1": b"''", "CUNIT2": b"''"},
        {"LONPOLE": b"''"},
        {"LONPOLE": b"180"},
    ],
    ids=str,
)
def test_odd_cards_mean_for_many_images_what_they_mean_for_one(
    odd: dict[str, bytes], tmp_path: Path
) -> None:
    """Beside plain images of the kind that it would be of; `hdu.wcs`, or its error, is the measure."""
    plain = [image({**SKY, "CRVAL1": 10.0 * number}) for number in range(3)]
    content = bytearray(image({**SKY, **dict.fromkeys(odd.keys() - SKY.keys(), 0)}))
    for keyword, text in odd.items():
        start = content.index(f"{keyword:<8}=".encode())
        content[start : start + 80] = (f"{keyword:<8}= ".encode() + text).ljust(80)
    paths = put(tmp_path, [*plain[:2], bytes(content), plain[2]])
    found = dask_fits.open_collection(paths)
    wanted = [expected(fits.getheader(path)) for path in (*paths[:2], paths[3])]
    assert_places(found[[0, 1, 3]], wanted, paths[:3])
    try:
        wcs = dask_fits.open(paths[2])[0].wcs
    except dask_fits.FitsError:
        assert np.isnan(found.column("s_ra")[2])
        return
    own = wcs.celestial.pixel_to_world(14.5, 9.5)
    if not isinstance(own, SkyCoord):  # of a frame that astropy does not know
        assert np.isnan(found.column("s_ra")[2])
        return
    at = SkyCoord(found.column("s_ra")[2], found.column("s_dec")[2], unit="deg")
    assert at.separation(own).deg < 1e-9


def test_a_keyword_that_is_there_twice_counts_as_in_the_wcs(tmp_path: Path) -> None:
    twice = bytearray(image({**SKY, "XRVAL1": 33.0}))
    start = twice.index(b"XRVAL1")
    twice[start : start + 1] = b"C"
    paths = put(tmp_path, [image({**SKY, "YRVAL1": 1.0}), bytes(twice), image(SKY)])
    found = dask_fits.open_collection(paths)
    for row, path in enumerate(paths):
        own = dask_fits.open(path)[0].wcs.pixel_to_world(14.5, 9.5)
        at = SkyCoord(found.column("s_ra")[row], found.column("s_dec")[row], unit="deg")
        assert at.separation(own).deg < 1e-9


@pytest.mark.parametrize("name", worlds.IMAGES)
def test_images_with_tables_lie_where_astropy_says(name: str, tmp_path: Path) -> None:
    content = worlds.written(*worlds.IMAGES[name]())
    (path,) = put(tmp_path, [content])
    found = dask_fits.open_collection(path, hdus="SCI")
    with fits.open(io.BytesIO(content)) as file:
        place = expected(file["SCI"].header, file)
    assert_places(found, [place], [name])


def test_an_image_without_pixels_or_with_one_axis_has_no_place(tmp_path: Path) -> None:
    (path,) = put(tmp_path, [several(fits.ImageHDU(np.zeros(9, "u1"), fits.Header(SKY)))])
    found = dask_fits.open_collection(path)
    assert np.isnan(found.column("s_ra")).all()
    assert found.column("s_xel1").tolist() == [-1]


def test_right_ascension_is_below_360(tmp_path: Path) -> None:
    """Even of an image whose centre is a rounding error before 0."""
    headers = [
        {**SKY, "CRVAL1": ra, "CRVAL2": 0.0, "CRPIX1": 15.5, "CRPIX2": 10.5}
        for ra in (0.0, -1e-15, -1e-17, 360.0, 1e-20, -360.0)
    ]
    found = dask_fits.open_collection(put(tmp_path, [image(header) for header in headers]))
    assert ((found.column("s_ra") >= 0) & (found.column("s_ra") < 360)).all()
