"""Pixels of mosaics do not depend on chunks, selections, schedulers or threads, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import pytest
from astropy.wcs import WCS
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dask_fits import Mosaic, mosaic
from dask_fits.mosaics import combiners
from dask_fits.resampling.positions import PATCH
from tests.support.fits_files import same_bits
from tests.support.mosaics import (
    all_sky_wcs,
    compute,
    moved,
    paths,
    tan_wcs,
    write_pictures,
)

SHAPE = (1112, 1212)
"""Of the mosaics: there are four patches."""

FEW = settings(max_examples=10, deadline=None, phases=set(Phase) - {Phase.shrink})

RECIPES: dict[str, dict[str, Any]] = {
    "TAN": {},
    "SIP": {},
    "exact": {"resampling": "exact", "conserve": "flux"},
    "lanczos3": {"resampling": "lanczos3", "dtype": "float64"},
    "flux": {"conserve": "flux", "combine": "last"},
    "nearest": {"resampling": "nearest", "combine": "max"},
    "median": {"combine": "median", "dtype": "float64"},
    "clipped": {"combine": "clipped"},
    "AIT": {},
}

PRODUCTS = ("data", "weight", "count", "error")


@dataclass(frozen=True, eq=False)
class Case:
    """A mosaic, and all of its pixels, made as one chunk."""

    make: Callable[..., Mosaic]
    whole: Mapping[str, npt.NDArray[Any]]


def grids(name: str) -> tuple[WCS, list[WCS]]:
    """A grid of `SHAPE`, and images that reach over the edges of its patches."""
    if name == "AIT":
        maps = [all_sky_wcs("CAR", (90, 180), galactic=True), all_sky_wcs("CAR", (60, 120), 100.0)]
        return moved(all_sky_wcs("AIT", (1200, 1400)), 0, 0, SHAPE), maps
    places = [(0.0, 0.0, 20.0), (-0.16, 0.15, -50.0), (-0.17, 0.17, 100.0), (0.2, -0.2, 3.0)]
    sip = name == "SIP"
    images = [
        tan_wcs((359.95 + x) % 360, 1.256 + y, 1.02e-3, (270, 300), a, sip=sip)
        for x, y, a in places
    ]
    return tan_wcs(0.206, 1.0, 1e-3, SHAPE), images


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {}
    for name, options in RECIPES.items():
        output, images = grids(name)
        pictures = write_pictures(tmp_path_factory.mktemp(name), images)
        errors = [np.abs(each.pixels) ** 0.5 for each in pictures]
        make = partial(mosaic, paths(pictures), output, error=errors, **options)
        m = make(chunks=-1)
        arrays = compute(*(getattr(m, product) for product in PRODUCTS))
        made[name] = Case(make, dict(zip(PRODUCTS, arrays, strict=True)))
    return made


def same_pixels(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    """Whether all bits agree, but for those of NaN, of which there are several."""
    unknown = np.isnan(expected)
    if not np.array_equal(np.isnan(found), unknown):
        return False
    return same_bits(
        np.where(unknown, found.dtype.type(0), found),
        np.where(unknown, expected.dtype.type(0), expected),
    )


def check(case: Case, key: Any, **options: Any) -> None:
    """Compare a part of all arrays of a mosaic with that of the whole arrays."""
    m = case.make(**options)
    found = compute(*(getattr(m, product)[key] for product in PRODUCTS))
    for product, pixels in zip(PRODUCTS, found, strict=True):
        assert same_pixels(pixels, case.whole[product][key]), product


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """The lengths of chunks, and a part of a mosaic that is at most five of them long each way."""
    chunks, key = [], []
    for length in SHAPE:
        chunk = draw(st.integers(7, 300))
        middle = draw(st.sampled_from([PATCH, length, draw(st.integers(0, length))]))
        begin = max(min(middle, length) - draw(st.integers(1, 2 * chunk + 2)), 0)
        chunks.append(chunk)
        key.append(slice(begin, begin + draw(st.integers(1, 3 * chunk))))
    return (chunks[0], chunks[1]), (key[0], key[1])


@pytest.mark.parametrize("name", RECIPES)
def test_images_reach_over_edges_of_patches(name: str, cases: Mapping[str, Case]) -> None:
    count = cases[name].whole["count"]
    assert count.shape == SHAPE
    assert all(
        part.any() for rows in np.split(count, [PATCH]) for part in np.split(rows, [PATCH], 1)
    )
    assert count[PATCH - 2 : PATCH + 2].max() > 1
    assert count[:, PATCH - 2 : PATCH + 2].max() > 1


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "AIT"])
@FEW
@given(window=windows())
def test_pixels_do_not_depend_on_chunks(name: str, window: Any, cases: Mapping[str, Case]) -> None:
    chunks, key = window
    assert cases[name].make(chunks=chunks).data.chunksize == chunks
    check(cases[name], key, chunks=chunks)


@pytest.mark.parametrize("name", ["TAN", "SIP", "exact", "median"])
def test_whole_mosaic_does_not_depend_on_chunks(name: str, cases: Mapping[str, Case]) -> None:
    check(cases[name], ..., chunks=((602, 500, 10), (1, 1022, 5, 184)))


def test_map_of_the_sky_does_not_depend_on_chunks(cases: Mapping[str, Case]) -> None:
    check(cases["AIT"], np.s_[1002:1042, 992:1052], chunks=(30, 40))  # in four patches
    check(cases["AIT"], np.s_[400:430, 20:60], chunks=(100, 33))  # at the map's edge


@pytest.mark.parametrize("name", ["median", "clipped"])
def test_pixels_do_not_depend_on_blocks(
    name: str, cases: Mapping[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combiners, "STACK_BYTES", 500_000)
    check(cases[name], ..., chunks=(300, 450))


def keys_of(length: int) -> st.SearchStrategy[Any]:
    """What an axis may be indexed with, in NumPy."""
    return st.one_of(
        st.slices(length),
        st.integers(-length, length - 1),
        st.lists(st.integers(-length, length - 1), min_size=1, max_size=6),
        st.just(slice(None, None, -37)),
    )


@FEW
@given(key=st.tuples(*map(keys_of, SHAPE)))
def test_selections_are_those_of_the_whole(key: tuple[Any, ...], cases: Mapping[str, Case]) -> None:
    if all(isinstance(each, list) for each in key):
        key = key[0], slice(None)  # Dask takes one list
    check(cases["TAN"], key, chunks=256)


@pytest.mark.parametrize("key", [
    np.s_[::3, ::-2], np.s_[-1::-1, 1023:1025], np.s_[[5, 1102, 3, 5]], np.s_[:, [1211, 0, 1024]],
    np.s_[1023, 1023], np.s_[812:812], np.s_[..., 1024], np.s_[1112:, :], np.s_[None, 3:9, 4],
])  # fmt: skip
def test_selections_are_those_of_numpy(key: Any, cases: Mapping[str, Case]) -> None:
    check(cases["TAN"], key, chunks=200)


def test_selections_of_a_selection(cases: Mapping[str, Case]) -> None:
    m, whole = cases["TAN"].make(chunks=200), cases["TAN"].whole["data"]
    for again in (np.s_[::-3, 5], np.s_[[3, 0, 200]], np.s_[-9:, ::7]):
        [found] = compute(m.data[100:1072:2, ::-1][again][::-1])
        assert same_pixels(found, whole[100:1072:2, ::-1][again][::-1])


@pytest.mark.parametrize(
    "scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_pixels_do_not_depend_on_schedulers(scheduler: str, cases: Mapping[str, Case]) -> None:
    names = ("SIP", "clipped")
    mosaics = [cases[name].make(chunks=(600, 650)) for name in names]
    arrays = [[getattr(m, product) for product in PRODUCTS] for m in mosaics]
    computed = dask.compute(*arrays, scheduler=scheduler, num_workers=2)
    for name, found in zip(names, computed, strict=True):
        assert all(map(same_pixels, found, cases[name].whole.values())), name


def test_arrays_computed_together_are_those_computed_alone(cases: Mapping[str, Case]) -> None:
    m = cases["exact"].make(chunks=300)
    brightness = (m.data / m.weight)[100:1000]
    with np.errstate(invalid="ignore", divide="ignore"):
        expected = (cases["exact"].whole["data"] / cases["exact"].whole["weight"])[100:1000]
        assert same_pixels(compute(brightness)[0], expected)


def test_equal_mosaics_have_equal_names(cases: Mapping[str, Case], tmp_path: Path) -> None:
    make = cases["TAN"].make
    assert make().data.name == make().data.name
    others = [
        make(chunks=100),
        make(combine="sum"),
        make(fill_value=0.0),
        make(resampling="nearest"),
    ]
    names = {make().data.name, make().weight.name, *(other.data.name for other in others)}
    assert len(names) == 6
