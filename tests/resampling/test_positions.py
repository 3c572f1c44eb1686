"""Positions of whole patches, against astropy; and the same of any part of them, to the bit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.resampling import sampling_numpy
from dask_fits.resampling.kernels import sampling
from dask_fits.resampling.positions import PATCH, Patch, Points
from dask_fits.resampling.search import find_positions
from dask_fits.wcs.mapping import Grid, PixelMap
from tests.support.corpus import CORPUS, needs_corpus
from tests.support.grids import (
    GALACTIC,
    Booleans,
    Floats,
    assert_same_positions,
    field,
    grid_of,
    on_image,
    positions_by_astropy,
    sip_keywords,
    sky_keywords,
)
from tests.support.sky_pairs import ITERATED, Pair, pairs, tan, whole_map
from tests.support.worlds import IMAGES, NX, NY, oracle, written

pytestmark = pytest.mark.filterwarnings(
    "ignore::astropy.utils.exceptions.AstropyWarning", "ignore::RuntimeWarning"
)


def patches(
    way: PixelMap, points: Points
) -> Iterator[tuple[tuple[int, int], tuple[int, int], Patch | None]]:
    """First pixel, points along y and x, and positions of each patch."""
    more = int(points == "corners")
    height, width = way.output.shape
    for top in range(0, height, PATCH):
        for left in range(0, width, PATCH):
            size = (min(PATCH, height - top) + more, min(PATCH, width - left) + more)
            yield (top, left), size, find_positions(way, (top // PATCH, left // PATCH), points)


def filled(
    patch: Patch | None, size: tuple[int, int], first: tuple[int, int] = (0, 0), kernels: Any = None
) -> Floats:
    """The positions of a rectangle of a patch."""
    out = np.full((2, *size), np.nan)
    if patch is not None:
        patch.fill(first, out, (kernels or sampling()).interpolate)
    return out


def whole(way: PixelMap, points: Points = "centres") -> Floats:
    """Positions of all points of an output; of two patches that share corners, the first one's."""
    more = int(points == "corners")
    height, width = way.output.shape
    out = np.full((2, height + more, width + more), np.nan)
    for (top, left), size, patch in patches(way, points):
        part = out[:, top : top + size[0], left : left + size[1]]
        part[...] = np.where(np.isnan(part), filled(patch, size), part)
    return out


def some_pixels(covered: Booleans, count: int, seed: int = 0) -> Floats:
    """Pixels x, y of an output: any, covered ones, and ones at the edge of what is covered."""
    rng = np.random.default_rng(seed)
    at_edge = np.zeros_like(covered)
    for axis in (0, 1):
        changes = np.diff(covered, axis=axis)
        for beside in (0, 1):
            pad = [(0, 0), (0, 0)]
            pad[axis] = (beside, 1 - beside)
            at_edge |= np.pad(changes, pad)
    chosen = [np.stack([rng.integers(0, length, count) for length in covered.shape])]
    for where in (covered, at_edge):
        found = np.stack(np.nonzero(where))
        chosen.append(found[:, rng.permutation(found.shape[1])[:count]])
    y, x = np.concatenate(chosen, axis=1)
    return np.stack([x, y]).astype(float)


@pytest.mark.parametrize("name", list(pairs()))
def test_positions_are_those_of_astropy(name: str) -> None:
    pair = pairs()[name]
    assert_as_astropy(pair, 100 if pair.tolerance == ITERATED else 350)


def assert_as_astropy(pair: Pair, count: int) -> None:
    """That any pixels, covered ones and those at edges have the positions of astropy."""
    found = whole(PixelMap(pair.output, pair.input))
    covered = on_image(found, pair.input.shape)
    assert covered.mean() >= pair.covers
    pixels = some_pixels(covered, count)
    seen_output, seen_input = pair.seen_output or pair.output, pair.seen_input or pair.input
    expected = positions_by_astropy(seen_output, seen_input, pixels)
    x, y = pixels.astype(int)
    assert_same_positions(found[:, y, x], expected, pair.input.shape, pair.tolerance)


# Images that have no position at any node, although there are pixels on them


def pairs_of_few_pixels() -> Iterator[tuple[str, Pair]]:
    # A whole sky in few pixels of many.
    images = {
        "CAR": field("CAR", (0.0, 0.0), 1.0, (180, 360)),
        "TAN": field("TAN", (70.0, 20.0), 0.6, (200, 200)),
        "hemisphere": field("SIN", (70.0, 20.0), 0.6, (200, 200)),
    }
    for code, shape in (
        ("ZEA", (66, 64)),
        ("ZEA", (100, 100)),
        ("CAR", (300, 20)),
        ("AIT", (300, 20)),
        ("SIN", (100, 100)),
    ):
        output = field(code, (0.0, 0.0), 280 / shape[1], shape, names=GALACTIC)
        for name, image in images.items():
            if code != "SIN" or name == "CAR":
                yield f"{name} onto {code} of {shape}", Pair(output, image, covers=1e-4)
    # What a hemisphere has between a map's edge and its limb.
    sin = field("SIN", (260.0, 40.0), 0.4, (300, 300))
    for code, scale in (
        ("CEA", 0.667),
        ("SFL", 0.667),
        ("AIT", 0.75),
        ("AIT", 0.4),
        ("HPX", 0.75),
        ("HPX", 0.3),
    ):
        yield f"hemisphere onto {code} of {scale}", Pair(whole_map(code, scale), sin)
    # A distortion that has no inverse a few images away.
    strong = sip_keywords(
        (30.1, 40.05), (500.0, 450.0), 6e-4, turned=-30.0, A_3_0=1e-7, B_0_3=-5e-8
    )
    for shape in ((100, 110), (300, 400)):
        output = field("TAN", (30.3, 40.0), 0.06, shape, turned=10.0)
        yield f"SIP onto {shape}", Pair(output, grid_of(strong, (900, 1000)), ITERATED, covers=1e-4)


FEW = dict(pairs_of_few_pixels())


@pytest.mark.parametrize("name", FEW)
def test_no_image_is_lost(name: str) -> None:
    pair = FEW[name]
    assert_as_astropy(pair, 150 if pair.tolerance == ITERATED else 600)


@needs_corpus
@pytest.mark.parametrize("name", ["083320_ooi_r", "083505_oow_g"])
def test_images_of_a_camera(name: str) -> None:
    path = CORPUS / "legacypipe" / f"c4d_150329_{name}_ls9.N11.fits"
    with fits.open(path) as file:
        header = next(hdu.header for hdu in file if hdu.header.get("CTYPE1") == "RA---TPV")
    camera = grid_of(header, (51, 41))
    centre = tuple(camera.wcs.wcs_pix2world([[20, 25]], 0)[0])
    assert_as_astropy(Pair(field("TAN", centre, 5e-5, (120, 130), turned=20.0), camera), 500)
    # Of this detector there is a part only; here are all of its pixels.
    header["CRPIX1"] += 1000
    header["CRPIX2"] += 2000
    detector = grid_of(header, (4094, 2046))
    for scale in (7e-4, 7e-3):
        assert_as_astropy(Pair(field("TAN", centre, scale, (500, 530)), detector, covers=1e-3), 500)
    assert_as_astropy(Pair(detector, field("TAN", centre, 7e-4, (300, 320))), 1000)


# Corners of pixels


CORNERS: dict[str, Callable[[], tuple[Grid, Grid]]] = {
    "TAN onto TAN": lambda: (tan(), field("TAN", (31.0, 40.0), 0.012, (200, 230), turned=-30.0)),
    "fine TAN onto TAN": lambda: (tan(), field("SIN", (31.0, 40.0), 0.0003, (900, 930))),
    # Its right edge is in the middle of the last pixels of a cell: 95 * 30 pixels from 63.6.
    "edge at a cell's end": lambda: (
        field("TAN", (31.0, 40.0), 0.01, (300, 320)),
        grid_of(sky_keywords("TAN", (31.0, 40.0), (2877.5, 1500.0), 0.01 / 30), (1800, 942)),
    ),
    "fine SIP onto TAN": lambda: (tan(), grid_of(sip_keywords((31.0, 40.0), (450, 400), 5e-4), (800, 900))),
    "CAR onto AIT": lambda: (whole_map("AIT", 0.75), field("CAR", (200.0, 0.0), 0.3, (600, 1200))),
    "pole onto CAR": lambda: (
        grid_of(sky_keywords("CAR", (10.0, 0.0), (200.5, -59.5), 0.5), (120, 400)),
        field("TAN", (300.0, 87.0), 0.03, (300, 320)),
    ),
    "lookup onto TAN": lambda: (
        field("TAN", (10.0, 20.0), 2e-4, (100, 90), turned=25.0),
        Grid(oracle(written(*IMAGES["lookup"]())), (NY, NX), "lookup"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORNERS)
def test_corners_of_pixels(name: str) -> None:
    output, image = CORNERS[name]()
    found = corners_of(whole(PixelMap(output, image), "corners"))
    touched = on_image(found.reshape(2, -1), image.shape).reshape(found.shape[1:]).any(axis=0)
    pixels = some_pixels(touched, 150)
    x, y = pixels.astype(int)
    # In the order of `corners_of`.
    corners = np.concatenate([np.add(pixels, [[dx], [dy]]) for dx, dy in SQUARE], axis=1)
    expected = positions_by_astropy(output, image, corners).reshape(2, 4, -1)
    # A pixel is needed if a part of it is on the image, and then with all of its corners.
    needed = np.isfinite(expected).all(axis=(0, 1)) & on_image(expected, image.shape).any(axis=0)
    assert needed.sum() > 100
    assert (np.abs(found[:, :, y, x] - expected)[:, :, needed] <= ITERATED).all()


SQUARE = [(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)]
"""From a pixel's centre to its corners."""


def corners_of(points: Floats) -> Floats:
    """The four corners of each pixel, (2, 4, h, w), of those of all pixels."""
    rows = points[:, :-1], points[:, 1:]
    return np.stack(
        [rows[0][..., :-1], rows[1][..., :-1], rows[1][..., 1:], rows[0][..., 1:]], axis=1
    )


# Parts of a patch


PARTS: dict[str, Callable[[], tuple[Grid, Grid]]] = {
    **CORNERS,
    "coarse and fine cells": lambda: (
        field("ZEA", (10.0, 84.5), 0.02, (512, 512)),
        field("CAR", (250.0, 0.0), 4.0, (45, 90)),
    ),
    "cells to the last corner": lambda: (
        field("TAN", (30.0, 40.0), 1e-3, (PATCH, PATCH)),
        field("TAN", (30.0, 40.0), 4e-3, (300, 300), turned=40.0),
    ),
}


@dataclass(frozen=True, eq=False)
class Part:
    """A rectangle of a patch."""

    patch: Patch
    first: tuple[int, int]
    size: tuple[int, int]
    all_points: dict[str, Floats]
    """Positions of the whole patch by each of the kernels."""
    image: Grid


KERNELS: dict[str, Any] = {"compiled": sampling(), "NumPy": sampling_numpy}


@cache
def patches_of(name: str, points: Points) -> list[tuple[Patch, dict[str, Floats], Grid]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output, image = PARTS[name]()
        found = list(patches(PixelMap(output, image), points))
    return [
        (patch, {each: filled(patch, size, kernels=KERNELS[each]) for each in KERNELS}, image)
        for _, size, patch in found
        if patch is not None
    ]


@st.composite
def parts(draw: st.DrawFn) -> Part:
    points = draw(st.sampled_from(["centres", "corners"]))
    patch, positions, image = draw(
        st.sampled_from(patches_of(draw(st.sampled_from(list(PARTS))), points))
    )
    ends = []
    for length in positions["NumPy"].shape[1:]:
        begin = draw(st.integers(0, length - 1) | st.sampled_from([0, length - 1]))
        ends.append((begin, draw(st.integers(begin + 1, length) | st.just(length))))
    (top, bottom), (left, right) = ends
    return Part(patch, (top, left), (bottom - top, right - left), positions, image)


@settings(max_examples=120, deadline=None)
@given(parts())
def test_a_part_of_a_patch_is_the_same_to_the_bit(part: Part) -> None:
    (top, left), (height, width) = part.first, part.size
    for name, kernels in KERNELS.items():
        expected = part.all_points[name][:, top : top + height, left : left + width]
        found = filled(part.patch, part.size, part.first, kernels)
        assert np.array_equal(found, expected, equal_nan=True)


@settings(max_examples=120, deadline=None)
@given(parts())
def test_what_a_part_of_a_patch_reaches(part: Part) -> None:
    positions = filled(part.patch, part.size, part.first)
    reach = part.patch.reach(part.first, part.size)
    has_position = np.isfinite(positions).all(axis=0)
    if reach is None:
        assert not has_position.any()
        return
    # No point with a position is outside of the rectangle, which is one of the part's.
    begin, end = reach.begin - part.first, reach.end - part.first
    assert (begin >= 0).all()
    assert (begin < end).all()
    assert (end <= part.size).all()
    has_position[begin[0] : end[0], begin[1] : end[1]] = False
    assert not has_position.any()
    seen = positions[:, on_image(positions, part.image.shape)]
    if seen.size:
        assert (reach.low <= seen.min(axis=1)).all()
        assert (reach.high >= seen.max(axis=1)).all()


def test_bounds_between_nodes() -> None:
    # Along the last row latitudes are highest halfway between two nodes.
    output = grid_of(sky_keywords("TAN", (10.0, 70.0), (240.5, 256.5), 0.01), (512, 512))
    image = grid_of(sky_keywords("CAR", (10.0, 0.0), (4000.0, -6000.0), 0.01), (1800, 8000))
    patch = find_positions(PixelMap(output, image), (0, 0), "corners")
    assert patch is not None
    assert patch.cells[0].step == 32
    reach = patch.reach((480, 224), (33, 33))
    assert reach is not None
    positions = filled(patch, (33, 33), (480, 224))
    assert positions[1].max() > positions[1][:, [0, 32]].max() + 0.05
    assert (reach.low <= positions.min(axis=(1, 2))).all()
    assert (reach.high >= positions.max(axis=(1, 2))).all()


def test_kernels_agree() -> None:
    for name in PARTS:
        for _, positions, _ in patches_of(name, "centres"):
            assert np.array_equal(positions["compiled"], positions["NumPy"], equal_nan=True)


def test_a_patch_is_the_same_whatever_else_is_asked() -> None:
    output, image = CORNERS["fine SIP onto TAN"]()
    way = PixelMap(output, image)
    first = whole(way)
    way.positions(np.random.default_rng(1).uniform(0, 300, (2, 50)))
    assert np.array_equal(first, whole(way), equal_nan=True)
    assert np.array_equal(first, whole(PixelMap(*CORNERS["fine SIP onto TAN"]())), equal_nan=True)


# How they are found


def test_no_patch_beside_the_image() -> None:
    output = field("TAN", (30.0, 40.0), 1e-3, (PATCH + 90, PATCH + 190))
    there = PixelMap(output, field("TAN", (30.0, 40.0), 1e-3, (50, 60)))
    found = {first: patch is not None for first, _, patch in patches(there, "centres")}
    assert found == {
        (0, 0): True, (0, PATCH): False, (PATCH, 0): False, (PATCH, PATCH): False
    }  # fmt: skip
    behind = PixelMap(output, field("TAN", (210.0, -40.0), 1e-3, (50, 60)))
    assert all(patch is None for _, _, patch in patches(behind, "centres"))


HOW: dict[str, tuple[list[int], bool]] = {
    "TAN onto TAN": ([32], False),
    "coarse and fine cells": ([32, 8], True),
    "lookup onto TAN": ([], True),
}
"""Steps of the cells that are interpolated, and whether there are points beside them."""


@pytest.mark.parametrize("name", HOW)
def test_how_positions_are_found(name: str) -> None:
    patch = find_positions(PixelMap(*PARTS[name]()), (0, 0), "centres")
    assert patch is not None
    assert ([cells.step for cells in patch.cells], len(patch.rows) > 0) == HOW[name]
