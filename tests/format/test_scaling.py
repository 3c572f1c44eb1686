"""BSCALE, BZERO and BLANK: the pixels are astropy's to the bit, type included."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import FitsFormatError
from dask_fits.format.scaling import STORED_DTYPES, Scaling
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import blocks, card, primary, same_bits

pytestmark = pytest.mark.untraced

INTEGERS = [8, 16, 32, 64]
FLOATS = [-32, -64]
KEYS = [
    (slice(1, 4), slice(2, 9)),
    (slice(None, None, -2), slice(7, None, -3)),
    (3, slice(None, None, 2)),
    (..., 0),
    ([5, 0, 5], slice(None)),
    (2, 3),
]

ABSENT = object()
SCALES = [ABSENT, 1, b"1.0", 2, b"0.1", b"-1.5E-3", 0, b"1D300", 10**30, b"1E-320"]
ZEROS = [ABSENT, 0, b"0.0", b"-0.0", 1, b"32768.0", b"0.1", -(2**63), b"1E300", 2**70]


def special_values(bitpix: int) -> np.ndarray:
    """Stored values, 6 x 11: extremes, neighbours of zero and of the midpoint, noise."""
    dtype = STORED_DTYPES[bitpix]
    raw = np.random.default_rng(abs(bitpix)).bytes(66 * dtype.itemsize)
    values = np.frombuffer(raw, dtype).copy()  # any bit pattern: NaN payloads among the floats
    if bitpix > 0:
        info = np.iinfo(dtype)
        edges = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, info.max // 2 + 1, 99]
        values[: len(edges)] = edges
        values[20:23] = 99
    else:
        info = np.finfo(dtype)
        edges = [
            np.nan,
            np.inf,
            -np.inf,
            0.0,
            -0.0,
            info.max,
            info.min,
            info.tiny,
            info.smallest_subnormal,
            1.5,
        ]
        values[: len(edges)] = edges
        as_ints = values.view(f">u{dtype.itemsize}")
        as_ints[11] = (
            as_ints[1] | 1
        )  # a signalling NaN: an infinity's exponent, the quiet bit unset
    return values.reshape(6, 11)


def write(path: Path, stored: np.ndarray, bitpix: int, **keywords: object) -> Path:
    extra = [card(k, v) for k, v in keywords.items() if v is not ABSENT]
    head = primary(*stored.shape[::-1], bitpix=bitpix, extra=extra)
    write_at_rest(path, head + blocks(stored.tobytes()))
    return path


def by_astropy(path: Path, **options: bool) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # BLANK where none may be
        with fits.open(path, **options) as file:
            return file[0].data.copy()


def assert_as_astropy(path: Path, *, lazily: bool = True, **options: bool) -> None:
    """The whole image and parts of it, scaled and stored; in chunks too, if `lazily`."""
    hdu = dask_fits.open(path)[0]
    for scaled in (False, True):
        expected = by_astropy(path, do_not_scale_image_data=not scaled, **options)
        reader = hdu.reader(mask_and_scale=scaled)
        assert reader.dtype == expected.dtype.newbyteorder("=")
        assert reader.dtype.isnative
        for key in (..., *KEYS):
            assert same_bits(reader[key], expected[key]), (scaled, key)
        if lazily:
            lazy = hdu.to_dask(chunks=(4, 5), mask_and_scale=scaled)
            assert same_bits(lazy.compute(scheduler="sync"), expected)
    assert hdu.dtype == expected.dtype.newbyteorder("=")


@pytest.fixture(autouse=True)
def quiet_overflow():
    # Both readers multiply in the same way, overflow and NaN included.
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("bscale", SCALES, ids=lambda v: "absent" if v is ABSENT else str(v))
@pytest.mark.parametrize("bitpix", INTEGERS + FLOATS)
def test_every_scale_and_zero(tmp_path: Path, bitpix: int, bscale: object) -> None:
    stored = special_values(bitpix)
    for n, bzero in enumerate(ZEROS):
        path = write(tmp_path / "a.fits", stored, bitpix, BSCALE=bscale, BZERO=bzero)
        assert_as_astropy(path, lazily=n == SCALES.index(bscale))


@pytest.mark.parametrize(
    "blank", [99, 0, 1, -1, -128, 255, -(2**15), 2**15 - 1, -(2**31), -(2**63), 2**63, 10**30]
)
@pytest.mark.parametrize("bitpix", INTEGERS)
def test_blank_integers(tmp_path: Path, bitpix: int, blank: int) -> None:
    stored = special_values(bitpix)
    for scale in ({}, {"BSCALE": b"0.5"}, {"BZERO": 7}, {"BSCALE": 2, "BZERO": b"1D10"}):
        assert_as_astropy(write(tmp_path / "a.fits", stored, bitpix, BLANK=blank, **scale))


@pytest.mark.parametrize("bitpix", INTEGERS)
def test_blank_masks_the_blank_pixels_and_no_others(tmp_path: Path, bitpix: int) -> None:
    stored = special_values(bitpix)
    found = dask_fits.open(write(tmp_path / "a.fits", stored, bitpix, BLANK=99))[0].reader()[...]
    assert found.dtype == (np.float32 if bitpix <= 16 else np.float64)
    np.testing.assert_array_equal(np.isnan(found), stored == 99)


@pytest.mark.parametrize("blank", [0, 1, -1, 99])
@pytest.mark.parametrize("scale", [{}, {"BSCALE": b"2.5"}, {"BZERO": b"0.5"}])
@pytest.mark.parametrize("bitpix", FLOATS)
def test_blank_means_nothing_on_floats(
    tmp_path: Path, bitpix: int, scale: dict, blank: int
) -> None:
    stored = special_values(bitpix)
    path = write(tmp_path / "a.fits", stored, bitpix, BLANK=blank, **scale)
    assert_as_astropy(path)
    found = dask_fits.open(path)[0].reader()[...]
    assert same_bits(found, by_astropy(write(tmp_path / "b.fits", stored, bitpix, **scale)))


@pytest.mark.parametrize("blank", [b"1.5", b"'1'", b"", b"99.0"])
def test_a_blank_that_is_no_integer_is_ignored(tmp_path: Path, blank: bytes) -> None:
    stored = special_values(16)
    path = write(tmp_path / "a.fits", stored, 16, BLANK=blank)
    assert same_bits(dask_fits.open(path)[0].reader()[...], stored)


# Integers that FITS stores with an offset (table 11)

CONVENTIONS = [
    (8, -128, np.int8),
    (16, 2**15, np.uint16),
    (32, 2**31, np.uint32),
    (64, 2**63, np.uint64),
]


@pytest.mark.parametrize(("bitpix", "bzero", "dtype"), CONVENTIONS)
@pytest.mark.parametrize("bscale", [ABSENT, 1, b"1.0"])
def test_integers_of_the_other_signedness(tmp_path: Path, bitpix, bzero, dtype, bscale) -> None:
    stored = special_values(bitpix)
    path = write(tmp_path / "a.fits", stored, bitpix, BSCALE=bscale, BZERO=bzero)
    assert_as_astropy(path)
    found = dask_fits.open(path)[0].reader()[...]
    exact = [int(v) + bzero for v in stored.flat]  # what the Standard says, in Python's integers
    assert found.dtype == dtype
    assert found.ravel().tolist() == exact


@pytest.mark.parametrize(("bitpix", "bzero", "dtype"), CONVENTIONS[1:])
def test_the_offset_as_a_float_card(tmp_path: Path, bitpix, bzero, dtype) -> None:
    stored = special_values(bitpix)
    path = write(tmp_path / "a.fits", stored, bitpix, BZERO=str(float(bzero)).encode())
    assert_as_astropy(path)
    assert dask_fits.open(path)[0].dtype == dtype


def test_signed_bytes_with_the_offset_as_a_float_card(tmp_path: Path) -> None:
    # Here astropy fails: it adds a float to int8.
    stored = special_values(8)
    found = dask_fits.open(write(tmp_path / "a.fits", stored, 8, BZERO=b"-128.0"))[0].reader()[...]
    assert same_bits(found, (stored.astype(np.int16) - 128).astype(np.int8))


@pytest.mark.parametrize(("bitpix", "bzero", "dtype"), CONVENTIONS)
@pytest.mark.parametrize("blank", [99, 0, -1])
def test_integers_stay_integers_with_blank(tmp_path: Path, bitpix, bzero, dtype, blank) -> None:
    # There is no NaN among integers. astropy cannot read int8 with BLANK but without ignore_blank.
    path = write(tmp_path / "a.fits", special_values(bitpix), bitpix, BZERO=bzero, BLANK=blank)
    assert_as_astropy(path, ignore_blank=bitpix == 8)
    assert dask_fits.open(path)[0].dtype == dtype


@pytest.mark.parametrize(
    ("bitpix", "bzero"),
    [
        (8, 128),
        (8, 2**7),
        (8, 32768),
        (16, -(2**15)),
        (16, 2**15 - 1),
        (16, 2**31),
        (32, 2**15),
        (32, 2**63),
        (64, 2**31),
        (64, -(2**63)),
        (-32, 2**15),
        (-64, 2**31),
        (-64, -128),
    ],
)
def test_other_offsets_make_floats(tmp_path: Path, bitpix: int, bzero: int) -> None:
    path = write(tmp_path / "a.fits", special_values(bitpix), bitpix, BZERO=bzero)
    assert_as_astropy(path)
    assert dask_fits.open(path)[0].dtype.kind == "f"


@pytest.mark.parametrize(("bitpix", "bzero", "dtype"), CONVENTIONS)
def test_a_scale_other_than_one_makes_floats(tmp_path: Path, bitpix, bzero, dtype) -> None:
    path = write(tmp_path / "a.fits", special_values(bitpix), bitpix, BSCALE=2, BZERO=bzero)
    assert_as_astropy(path)
    assert dask_fits.open(path)[0].dtype.kind == "f"


# As astropy writes them


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_arrays_written_by_astropy_come_back(tmp_path: Path, dtype: str) -> None:
    raw = np.random.default_rng(0).bytes(60 * np.dtype(dtype).itemsize)
    array = np.frombuffer(raw, dtype).reshape(3, 4, 5)
    path = tmp_path / "a.fits"
    fits.writeto(path, array)
    assert same_bits(dask_fits.open(path)[0].reader()[...], array)


@settings(max_examples=60, deadline=None)
@given(
    bitpix=st.sampled_from(INTEGERS + FLOATS),
    bscale=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**66), 2**66),
    bzero=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**66), 2**66),
    blank=st.none() | st.integers(-(2**65), 2**65) | st.integers(-9, 9),
)
def test_any_scaling(
    tmp_path_factory: pytest.TempPathFactory, bitpix, bscale, bzero, blank
) -> None:
    keywords = {"BSCALE": bscale, "BZERO": bzero, "BLANK": ABSENT if blank is None else blank}
    path = write(
        tmp_path_factory.mktemp("any") / "a.fits", special_values(bitpix), bitpix, **keywords
    )
    with np.errstate(all="ignore"):
        found = dask_fits.open(path)[0].reader()[...]
        assert same_bits(found, by_astropy(path))


# What cannot be used


@pytest.mark.parametrize("keyword", ["BSCALE", "BZERO"])
@pytest.mark.parametrize("value", [b"'1.0'", b"T", b"", b"1E400", b"-1E400", b"1,5"])
def test_a_scale_that_is_no_finite_number(tmp_path: Path, keyword: str, value: bytes) -> None:
    path = write(tmp_path / "bad.fits", special_values(16), 16, **{keyword: value})
    with path.open("ab") as file:
        file.write(bytes(fits.ImageHDU(np.arange(6, dtype="i2")).header.tostring(), "ascii"))
        file.write(np.arange(6, dtype=">i2").tobytes().ljust(2880, b"\0"))
    file = dask_fits.open(path)
    assert file[1].data.compute().tolist() == [0, 1, 2, 3, 4, 5]
    found = rf"bad\.fits: HDU 0: {keyword}: found .*, expected a"
    for ask in (file[0].reader, lambda: file[0].data, lambda: dask_fits.from_fits(path)):
        with pytest.raises(FitsFormatError, match=found):
            ask()


def test_scaling_leaves_what_was_read_alone() -> None:
    stored = special_values(16)
    before = stored.copy()
    stored.flags.writeable = False
    for scaling in (Scaling(16), Scaling(16, 1, 2**15), Scaling(16, 0.5, 3, 99)):
        out = np.empty(stored.shape, scaling.dtype)
        scaling.apply(stored, out)
        assert out.flags.writeable
    assert stored.tobytes() == before.tobytes()
