"""Outlines never miss an image that has a pixel in a box; positions of single pixels tell."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.mosaics.job import Input
from dask_fits.mosaics.outlines import Box, Outlines, outline_by
from dask_fits.mosaics.setup import place_all
from dask_fits.wcs.mapping import Grid, PixelMap
from dask_fits.wcs.text import wcs_text
from tests.support.grids import (
    EQUATORIAL,
    GALACTIC,
    Booleans,
    all_pixels,
    field,
    grid_of,
    on_image,
    sip_keywords,
    sky_keywords,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)

SHAPE = (72, 90)
"""Of outputs."""

STEP = 12
"""Pixels along each side of a box."""


def outlines_of(output: Grid, *images: Grid) -> Outlines:
    """The outlines of images as a mosaic has them."""
    inputs = []
    for number, image in enumerate(images):
        reader = SimpleNamespace(shape=image.shape, where="an image")
        text = wcs_text(image.wcs, image.shape)
        inputs.append(Input(number, cast("Any", reader), text, (0, 1)))
    return place_all(inputs, output, skips=False).outlines


def boxes_of(shape: tuple[int, int], step: int) -> list[Box]:
    """Boxes that divide a grid."""
    rows, columns = (
        [(begin, min(begin + step, length)) for begin in range(0, length, step)] for length in shape
    )
    return list(itertools.product(rows, columns))


def covered(output: Grid, image: Grid) -> Booleans:
    """Which pixels of an output are on an image."""
    positions = PixelMap(output, image).positions(all_pixels(output.shape))
    return on_image(positions, image.shape).reshape(output.shape)


def has(covered: Booleans, box: Box) -> bool:
    """Whether there is a covered pixel in a box."""
    (top, bottom), (left, right) = box
    return bool(covered[top:bottom, left:right].any())


def count_missed(output: Grid, image: Grid, step: int = STEP) -> tuple[int, int]:
    """The boxes that an image has pixels in, and those of them that its outline misses."""
    outlines, there = outlines_of(output, image), covered(output, image)
    boxes = [box for box in boxes_of(output.shape, step) if has(there, box)]
    missed = [box for box in boxes if 0 not in outlines.reaching(box, lambda: output)]
    return len(boxes), len(missed)


# Any images


longitudes = st.floats(0, 359.9)
latitudes = st.floats(-1, 1).map(lambda sine: float(np.rad2deg(np.arcsin(sine))))
frames = st.sampled_from([EQUATORIAL, GALACTIC])


@st.composite
def outputs(draw: st.DrawFn) -> Grid:
    code = draw(st.sampled_from(["TAN", "CAR", "AIT", "SIN", "ZEA"]))
    scale = draw(st.sampled_from([0.05, 0.3, 1.0, 2.0, 4.0]))
    crpix = [SHAPE[1] / 2 + 0.5, SHAPE[0] / 2 + 0.5]
    away = draw(st.sampled_from([0.0, 0.0, 30.0, -80.0])) / scale  # from the reference
    longitude, latitude, names = draw(longitudes), draw(latitudes), draw(frames)
    if code in ("CAR", "AIT"):
        crpix = [crpix[0] + away, crpix[1] - draw(st.sampled_from([0.0, latitude])) / scale]
        return grid_of(
            sky_keywords(code, (longitude, 0.0), (crpix[0], crpix[1]), scale, names=names), SHAPE
        )
    turned = draw(st.floats(0, 359))
    cards = sky_keywords(
        code, (longitude, latitude), (crpix[0] + away, crpix[1]), scale, names=names, turned=turned
    )
    return grid_of(cards, SHAPE)


@st.composite
def images(draw: st.DrawFn) -> Grid:
    kind = draw(st.sampled_from(["small", "pole", "wide", "sky", "hemisphere"]))
    longitude, latitude, turned = draw(longitudes), draw(latitudes), draw(st.floats(0, 359))
    if kind == "small":
        return field(
            "TAN", (longitude, latitude), draw(st.floats(0.01, 0.4)), (40, 50), turned=turned
        )
    if kind == "pole":
        scale, pole = draw(st.floats(0.02, 0.5)), draw(st.sampled_from([-1, 1]))
        latitude = pole * (90 - draw(st.floats(0, 20)) * scale)
        return field("TAN", (longitude, latitude), scale, (40, 50), turned=turned)
    if kind == "wide":
        code = draw(st.sampled_from(["TAN", "STG", "ZEA", "ARC", "SIN"]))
        return field(code, (longitude, latitude), draw(st.floats(0.5, 5)), (40, 50), turned=turned)
    if kind == "hemisphere":
        return field("SIN", (longitude, latitude), 1.2, (100, 100), turned=turned)
    code = draw(st.sampled_from(["CAR", "AIT", "MOL", "SFL", "CEA"]))
    scale = draw(st.sampled_from([2.0, 1.9, 1.0]))
    return field(code, (longitude, 0.0), scale, (90, 180), names=draw(frames))


@settings(max_examples=60, deadline=None)
@given(outputs(), images())
def test_no_image_is_missed(output: Grid, image: Grid) -> None:
    assert count_missed(output, image)[1] == 0


# Those that are easily missed


SKY = field("CAR", (10.0, 0.0), 2.0, (90, 180))
AIT = field("AIT", (0.0, 0.0), 2.0, (90, 180), names=GALACTIC)
ZEA = field("ZEA", (0.0, 40.0), 2.0, (120, 120), names=GALACTIC)
# Rows from 80.05 degrees to beyond the pole.
POLAR = grid_of(sky_keywords("CAR", (10.0, 0.0), (100.5, -1600.5), 0.05), (205, 200))
EQUATOR = grid_of(sky_keywords("CAR", (10.0, 0.0), (50.0, 50.0), 0.05), (96, 120))
SIP = grid_of(sip_keywords((30.0, 40.0), (50.0, 45.0), 0.1, A_3_0=2e-6, B_0_3=2e-6), (90, 100))

CASES: dict[str, tuple[Grid, Grid]] = {
    "pole on a whole map": (SKY, field("TAN", (10.0, 90.0), 0.4, (200, 200))),
    "pole on a part of a map": (POLAR, field("TAN", (10.0, 90.0), 0.02, (400, 400))),
    "near the pole": (POLAR, field("TAN", (100.0, 87.0), 0.02, (400, 400))),
    "pole on AIT": (AIT, field("TAN", (10.0, 27.0), 0.4, (100, 100))),
    "all of an output": (EQUATOR, field("STG", (10.0, 30.0), 4.0, (40, 50))),
    "more than a turn": (
        grid_of(sky_keywords("CAR", (10.0, 0.0), (30.5, 30.5), 4.0), (60, 130)),
        field("TAN", (75.0, 20.0), 0.4, (100, 100)),
    ),
    **{
        f"a map from its edge on, at {lon}": (
            grid_of(sky_keywords("CAR", (0.0, 0.0), (0.5, 45.5), 2.0), (90, 180)),
            field("TAN", (lon, 20.0), 0.4, (100, 100)),
        )
        for lon in (0.0, 15.0, 180.0, 250.0, 350.0)
    },
    "facets": (
        field("HPX", (10.0, 0.0), 2.0, (120, 180)),
        field("TAN", (75.0, 40.0), 0.4, (100, 100)),
    ),
    "a cone": (
        field("COE", (10.0, 45.0), 1.5, (120, 180)),
        field("TAN", (190.0, 60.0), 0.9, (90, 90)),
    ),
    "a distortion": (SIP, field("TAN", (30.0, 40.0), 0.05, (30, 30), turned=20.0)),
    "a wide image on a distortion": (SIP, field("STG", (60.0, 30.0), 3.0, (60, 60))),
    "FK4": (
        field("TAN", (30.0, 40.0), 0.1, (90, 90), RADESYS="FK4"),
        field("TAN", (30.0, 41.0), 0.1, (30, 30)),
    ),
    **{
        f"{name} at {lon}": (output, field(code, (lon, 0.0), scale, (90, 180), names=names))
        for name, output, code, scale, names in (
            ("nearly all of CAR on AIT", AIT, "CAR", 1.9, EQUATORIAL),
            ("CAR on AIT", AIT, "CAR", 2.0, EQUATORIAL),
            ("CEA on ZEA", ZEA, "CEA", 1.8, EQUATORIAL),
            ("AIT on CAR", SKY, "AIT", 2.0, GALACTIC),
            ("half of CAR on CAR", SKY, "CAR", 1.0, GALACTIC),
        )
        for lon in (0.0, 100.0, 180.0)
    },
    **{
        f"most of the sky by {code} on {name} at {lon}": (
            output,
            field(code, (lon, 40.0), 2.0, (76, 76), names=GALACTIC),
        )
        for name, output in {"CAR": SKY, "AIT": AIT, "ZEA": ZEA}.items()
        for code in ("ZEA", "ARC")
        for lon in (0.0, 100.0, 180.0)
    },
}


@pytest.mark.parametrize("name", CASES)
def test_images_that_are_easily_missed(name: str) -> None:
    output, image = CASES[name]
    boxes, missed = count_missed(output, image, 10)
    assert boxes > 1
    assert not missed


@settings(max_examples=60, deadline=None)
@given(outputs(), images())
def test_the_box_of_one_image(output: Grid, image: Grid) -> None:
    assert_in_box(output, image)


@pytest.mark.parametrize("name", CASES)
def test_the_box_of_an_image_that_is_easily_missed(name: str) -> None:
    assert_in_box(*CASES[name])


def assert_in_box(output: Grid, image: Grid) -> None:
    """That the box that is found by an image's own way holds all of its pixels, if it has one."""
    box = outline_by(PixelMap(output, image))
    if box is None:
        return
    rows, columns = np.nonzero(covered(output, image))
    assert ((rows >= box[0]) & (rows <= box[1])).all()
    assert ((columns >= box[2]) & (columns <= box[3])).all()


def test_images_have_a_box_unless_a_map_is_cut() -> None:
    small, polar = (field("TAN", (40.0, lat), 0.4, (100, 100)) for lat in (20.0, 80.0))
    assert outline_by(PixelMap(SKY, small)) is not None
    assert outline_by(PixelMap(ZEA, polar)) is not None
    assert outline_by(PixelMap(SKY, polar)) is None
    assert outline_by(PixelMap(CASES["more than a turn"][0], small)) is None


def test_images_of_the_sun() -> None:
    def sun(**more: Any) -> Grid:
        cards = sky_keywords("TAN", (0.0, 0.0), (60.5, 50.5), 1.0, names=("HPLN", "HPLT"), **more)
        units = {"CUNIT1": "arcsec", "CUNIT2": "arcsec", "CDELT1": 10.0, "CDELT2": 10.0}
        return grid_of(cards | units | {"DATE-OBS": "2012-03-04T05:06:07"}, (50, 60))

    image, output = sun(CRPIX1=-10.0, turned=30.0), sun(CRPIX1=100.5)
    assert count_missed(sun(), image, 10)[1] == 0
    assert count_missed(output, sun(), 10)[1] == 0
    assert not len(outlines_of(output, image).reaching(((0, 50), (0, 60)), sun)), "it is far off"


# They are not too generous


GENEROUS: dict[str, Grid] = {
    **{
        code: field(code, (150.0, 30.0), 0.1, (160, 160), names=GALACTIC)
        for code in ("TAN", "SIN", "ZEA")
    },
    **{code: field(code, (150.0, 0.0), 0.1, (160, 160), names=GALACTIC) for code in ("CAR", "AIT")},
    "the whole sky in CAR": field("CAR", (150.0, 0.0), 1.0, (180, 360), names=GALACTIC),
}


@pytest.mark.parametrize("name", GENEROUS)
def test_small_images_are_asked_for_where_they_are(name: str) -> None:
    rng = np.random.default_rng(7)
    output = GENEROUS[name]
    height, width = output.shape
    pictures = []
    for _ in range(30):
        # Not at the poles of a whole sky.
        pixel = rng.uniform(0.1, 0.9, (2, 1)) * [[width], [height]]
        lon, lat = output.to_sky(pixel)[:, 0]
        scale, turned = 0.005 * height * output.wcs.wcs.cdelt[1], float(rng.uniform(0, 360))
        pictures.append(field("TAN", (lon, lat), scale, (25, 30), names=GALACTIC, turned=turned))
    outlines = outlines_of(output, *pictures)
    there = [covered(output, image) for image in pictures]
    pairs = reached = 0
    for box in boxes_of(output.shape, height // 4):
        overlapping = {number for number, pixels in enumerate(there) if has(pixels, box)}
        found = set(outlines.reaching(box, lambda: output).tolist())
        assert overlapping <= found
        pairs += len(overlapping)
        reached += len(found)
    assert pairs >= 45
    assert reached < 2 * pairs


def test_boxes_on_the_grid() -> None:
    output = field("TAN", (30.0, 40.0), 0.01, (300, 320))
    image = field("TAN", (30.0, 40.0), 0.01, (50, 60))  # rows 125 to 175, columns 130 to 190
    beside = field("TAN", (31.9, 40.0), 0.01, (50, 60))
    outlines = outlines_of(output, image, beside, field("TAN", (210.0, -40.0), 0.01, (50, 60)))
    (top, bottom, left, right), other, behind = outlines.boxes_on(output.shape).tolist()
    assert 115 < top <= 125
    assert 175 <= bottom < 185
    assert 120 < left <= 130
    assert 190 <= right < 200
    assert other[2] == 0
    assert outlines.take([2, 0]).boxes_on(output.shape).tolist() == [
        behind,
        [top, bottom, left, right],
    ]
