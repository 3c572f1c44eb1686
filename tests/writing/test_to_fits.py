"""The file that tasks write together is, byte for byte, the one that astropy writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import Image
from dask_fits.writing import graph, pixels
from tests.support.fits_files import same_bits
from tests.support.written_files import (
    TYPES,
    by_astropy,
    cards_of,
    native,
    parts_beside,
    random_pixels,
    verified,
)

KEYWORDS = fits.Header([("OBJECT", "M 13", "a cluster"), ("EXPTIME", 1.5), ("AIRMASS", 1)])


def named(name: str, *cards: Any) -> fits.Header:
    return fits.Header([*cards, ("EXTNAME", name, "extension name")])


def oracle(values: np.ndarray, header: fits.Header = KEYWORDS) -> list[bytes]:
    return cards_of(by_astropy(fits.PrimaryHDU(values, header)))


@st.composite
def chunked(draw: st.DrawFn) -> da.Array:
    """An array of 1 to 5 axes, of any type, in any chunks; some of them are empty."""
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple))
    chunks = []
    for length in shape:
        edges = draw(st.lists(st.integers(0, length), max_size=3))
        chunks.append(tuple(np.diff(sorted([0, *edges, length])).tolist()))
    values = random_pixels(shape, dtype, draw(st.integers(0, 99)))
    return da.from_array(values).rechunk(tuple(chunks))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written")


@settings(max_examples=120, deadline=None)
@given(
    chunked(),
    st.sampled_from([1, 16, 100, 1 << 16]),
    st.sampled_from([8, 24, 100, 1 << 20]),
    st.sampled_from(["sync", "threads"]),
)
def test_any_array_in_any_chunks(
    directory: Path, array: da.Array, run: int, piece: int, scheduler: str
) -> None:
    path = directory / "any.fits"
    values = array.compute(scheduler="sync")
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler=scheduler):
        patch.setattr(graph, "_LEAST_RUN", run)
        patch.setattr(pixels, "_PIECE", piece)
        dask_fits.to_fits(array, path, header=KEYWORDS, overwrite=True)
    assert cards_of(path.read_bytes()) == oracle(values)
    (found,) = verified(path)
    assert same_bits(found, values)
    assert parts_beside(path) == []


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axes", [1, 2, 3, 4, 5])
def test_every_type_and_number_of_axes(
    tmp_path: Path, short_pieces: None, dtype: str, axes: int
) -> None:
    shape = (7, 3, 4, 2, 5)[:axes]
    values = random_pixels(shape, dtype)
    path = tmp_path / "a.fits"
    assert dask_fits.to_fits(da.from_array(values, chunks=2), path, header=KEYWORDS) is None
    assert cards_of(path.read_bytes()) == oracle(values)
    assert same_bits(verified(path)[0], values)
    hdu = dask_fits.open(path)[0]
    assert same_bits(hdu.data.compute(scheduler="sync"), values)
    assert hdu.header["OBJECT"] == "M 13"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_a_cluster_writes_the_same(
    client: Client, tmp_path: Path, short_pieces: None, dtype: str
) -> None:
    values = random_pixels((5, 6, 7), dtype)
    path = tmp_path / "a.fits"
    with client.as_current():
        dask_fits.to_fits(da.from_array(values, chunks=(2, 3, 7)), path, header=KEYWORDS)
    assert cards_of(path.read_bytes()) == oracle(values)
    verified(path)


@pytest.mark.slow
def test_processes_write_the_same(tmp_path: Path, short_pieces: None) -> None:
    path = tmp_path / "a.fits"
    images = [random_pixels((9, 8), dtype) for dtype in TYPES]
    with dask.config.set(scheduler="processes", num_workers=2):
        dask_fits.to_fits(
            [Image(da.from_array(one, chunks=(3, 8)), header=KEYWORDS) for one in images], path
        )
    first, *others = images
    expected = by_astropy(
        fits.PrimaryHDU(first, KEYWORDS), *(fits.ImageHDU(one, KEYWORDS) for one in others)
    )
    assert cards_of(path.read_bytes()) == cards_of(expected)
    verified(path)


def test_a_delayed_writes_when_it_is_computed(tmp_path: Path, short_pieces: None) -> None:
    values = random_pixels((6, 8), "f4")
    path = tmp_path / "a.fits"
    later = dask_fits.to_fits(da.from_array(values, chunks=3), path, header=KEYWORDS, compute=False)
    assert [*tmp_path.iterdir()] == []
    assert later is not None
    assert later.compute(scheduler="threads") is None
    assert cards_of(path.read_bytes()) == oracle(values)
    assert parts_beside(path) == []


def test_without_checksums(tmp_path: Path) -> None:
    values = random_pixels((6, 8), "i2")
    dask_fits.to_fits(values, tmp_path / "a.fits", header=KEYWORDS, checksum=False)
    expected = by_astropy(fits.PrimaryHDU(values, KEYWORDS), checksum=False)
    assert (tmp_path / "a.fits").read_bytes() == expected


def test_the_same_array_gives_the_same_bytes(tmp_path: Path, short_pieces: None) -> None:
    values = da.from_array(random_pixels((30, 40), "u2"), chunks=(7, 9))
    for n, chunks in enumerate([(7, 9), (30, 40), (1, 40)]):
        dask_fits.to_fits(values.rechunk(chunks), tmp_path / f"{n}.fits", header=KEYWORDS)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


# Several HDUs


def test_several_hdus(tmp_path: Path, short_pieces: None) -> None:
    """Images of different types and shapes behind a header without pixels."""
    science, error = random_pixels((4, 30), "f4"), random_pixels((3, 4, 5), "u2")
    mask = np.zeros((0, 7), "u1")
    path = tmp_path / "a.fits"
    dask_fits.to_fits(
        [
            Image(None, header=KEYWORDS),
            Image(da.from_array(science, chunks=2), name="SCI", header=KEYWORDS),
            Image(error, name="ERR"),
            Image(da.from_array(mask), name="DQ"),
            Image(None, name="NONE"),
        ],
        path,
    )
    expected = by_astropy(
        fits.PrimaryHDU(None, KEYWORDS),
        fits.ImageHDU(science, named("SCI", *KEYWORDS.cards)),
        fits.ImageHDU(error, named("ERR")),
        fits.ImageHDU(mask, named("DQ")),
        fits.ImageHDU(None, named("NONE")),
    )
    assert cards_of(path.read_bytes()) == cards_of(expected)
    found = verified(path)
    assert [None if one is None else one.shape for one in found] == [
        None,
        (4, 30),
        (3, 4, 5),
        (0, 7),
        None,
    ]
    assert [hdu.name for hdu in dask_fits.open(path)] == [
        "PRIMARY",
        "SCI",
        "ERR",
        "DQ",
        "NONE",
    ]


def test_an_array_twice_in_a_file(tmp_path: Path, short_pieces: None) -> None:
    array = da.from_array(random_pixels((5, 40), "i4"), chunks=(2, 11))
    path = tmp_path / "a.fits"
    dask_fits.to_fits([Image(array), Image(array, name="AGAIN")], path)
    values = array.compute()
    expected = by_astropy(
        fits.PrimaryHDU(values, fits.Header()), fits.ImageHDU(values, named("AGAIN"))
    )
    assert cards_of(path.read_bytes()) == cards_of(expected)


def test_a_file_of_one_header(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    dask_fits.to_fits(None, path, header=KEYWORDS)
    assert cards_of(path.read_bytes()) == cards_of(by_astropy(fits.PrimaryHDU(None, KEYWORDS)))
    assert verified(path) == [None]


# Scaled images


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("i2", {"scale": (0.5, 100.0), "blank": -32768}),
        ("u1", {"scale": (-2.0, 255.0), "blank": 255}),
        ("i4", {"blank": -1}),
        ("i8", {"scale": (0.25, 0.0)}),
    ],
)
def test_a_scaled_image(
    tmp_path: Path, short_pieces: None, dtype: str, options: dict[str, Any]
) -> None:
    scale, blank = options.get("scale", (1.0, 0.0)), options.get("blank")
    stored = np.random.default_rng(5).integers(0, 200, (9, 20)).astype(dtype)
    physical = stored * scale[0] + scale[1]
    if blank is not None:
        stored[3, 4:9] = blank
        physical[3, 4:9] = np.nan
    path = tmp_path / "a.fits"
    dask_fits.to_fits(da.from_array(physical, chunks=4), path, dtype=dtype, **options)
    with fits.open(path, do_not_scale_image_data=True, checksum=True) as file:
        assert same_bits(native(file[0].data), stored)
    for found in (verified(path)[0], dask_fits.open(path)[0].data.compute()):
        np.testing.assert_array_equal(found, physical)


# Other readers


def examples(directory: Path) -> Path:
    path = directory / "all.fits"
    images = [Image(None, header=KEYWORDS)]
    images += [
        Image(da.from_array(random_pixels((5, 6, 7), dtype), chunks=3), name=dtype.upper())
        for dtype in TYPES
    ]
    dask_fits.to_fits(images, path)
    return path


def test_cfitsio_reads_the_same(tmp_path: Path, short_pieces: None) -> None:
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    with fitsio.FITS(examples(tmp_path)) as file:
        for n, dtype in enumerate(TYPES, 1):
            if dtype == "u8":  # which fitsio 1.4 does not read, not even as astropy writes it
                continue
            assert same_bits(native(file[n].read()), random_pixels((5, 6, 7), dtype))


@pytest.mark.slow
def test_fitsverify_finds_no_fault(tmp_path: Path, short_pieces: None) -> None:
    program = shutil.which("fitsverify")
    if program is None:
        pytest.skip("the program fitsverify of HEASARC is not installed")
    said = subprocess.run([program, examples(tmp_path)], capture_output=True, text=True).stdout
    assert "Verification found 0 warning(s) and 0 error(s)." in said
