"""Memory of a chunk of a mosaic: bounded, however many images lie on one another."""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pytest

import dask_fits
from dask_fits import Collection, Mosaic
from tests.support.memory import peak_below
from tests.support.mosaics import moved, tan_wcs, write_image

pytestmark = pytest.mark.untraced

MIB = 1024 * 1024
STEP = 1e-3
SIDE = 1024
DEPTH = 100
OUT = tan_wcs(150.0, 2.0, STEP, (SIDE, SIDE))

PRODUCTS = SIDE * SIDE * (4 + 4 + 4)
"""Bytes of a chunk: pixels, weights and counts."""

AHEAD_BYTES = STACK_BYTES = 64 * MIB
"""Bytes that may be read ahead, and those of layers that are needed together."""

BOX = 1100 * 1100 * 4
"""Bytes that are read of an image, at most."""

SLACK = 16 * MIB
"""For positions of a patch, and for Python."""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A hundred images that cover a chunk: four files, each of which is used many times."""
    root = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(9)
    files = []
    for number in range(4):
        wcs = tan_wcs(150.0, 2.0, STEP, (1080, 1080), 0.5 * number)
        pixels = rng.integers(0, 1000, wcs.array_shape).astype("i2")
        files.append(write_image(root / f"{number}.fits", pixels, wcs))
    return dask_fits.open_collection(files)[[0, 1, 2, 3] * (DEPTH // 4)]


def compute(m: Mosaic) -> Any:
    return dask.compute(m.data, m.weight, m.count, scheduler="sync")


def warmed(m: Mosaic) -> Mosaic:
    """The same, once all that it imports and compiles is there."""
    m.data[:2, :2].compute(scheduler="sync")
    return m


def test_the_mean_of_a_hundred_images_takes_as_much_as_that_of_a_few(deep: Collection) -> None:
    m = warmed(dask_fits.mosaic(deep, OUT))
    assert m.data.npartitions == 1
    with peak_below(2 * PRODUCTS + 2 * BOX + AHEAD_BYTES + SLACK):
        _, weight, count = compute(m)
    assert (count == DEPTH).all()
    assert (weight == DEPTH).all()


def test_exact_areas_take_no_more(deep: Collection) -> None:
    m = warmed(dask_fits.mosaic(deep[:8], OUT, resampling="exact", conserve="flux"))
    with peak_below(2 * PRODUCTS + 2 * BOX + AHEAD_BYTES + SLACK):
        _, _, count = compute(m)
    assert (count == 8).all()


HALF = 512
LAYERS = STACK_BYTES + 2 * HALF * HALF * 16 + SLACK
"""Of a chunk of 512 x 512 pixels whose layers are needed together: 200 MiB, and their weights."""


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Collection, np.ndarray]:
    """A hundred images that are not resampled, which is quick; and the pixels of four of them."""
    root = tmp_path_factory.mktemp("pasted")
    pixels = np.random.default_rng(10).integers(0, 1000, (4, HALF, HALF)).astype("i2")
    wcs = moved(OUT, 0, 0, (HALF, HALF))
    files = [write_image(root / f"{n}.fits", own, wcs) for n, own in enumerate(pixels)]
    return dask_fits.open_collection(files)[[0, 1, 2, 3] * (DEPTH // 4)], pixels


@pytest.mark.parametrize(("combine", "has_errors"), [("median", True), ("clipped", False)])
def test_layers_that_are_needed_together_are_bounded(
    combine: Any, has_errors: bool, pasted: tuple[Collection, np.ndarray]
) -> None:
    collection, pixels = pasted
    errors = [np.ones((HALF, HALF), "f4")] * DEPTH if has_errors else None
    m = dask_fits.mosaic(collection, moved(OUT, 0, 0, (HALF, HALF)), combine=combine, error=errors)
    assert m.data.npartitions == 1
    with peak_below(LAYERS):
        data, _, count = compute(warmed(m))
    assert (count == DEPTH).all()
    if combine == "median":
        assert np.array_equal(data, np.median(pixels, axis=0).astype("f4"))
