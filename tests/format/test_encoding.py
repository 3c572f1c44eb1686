"""What is written is read back as it was; what would not be is an error that names the pixel."""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dask_fits import PixelValueError
from dask_fits.format.encoding import Encoding, encoding_of
from tests.support.fits_files import same_bits

pytestmark = [pytest.mark.untraced, pytest.mark.filterwarnings("error")]

TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
INTEGERS = TYPES[:-2]
SCALED = ["u1", "i2", "i4", "i8"]


def encoded(values: Any, **options: Any) -> tuple[Encoding, np.ndarray]:
    encoding = encoding_of(values.dtype, **options)
    stored = encoding.encode(values, (0,) * values.ndim)
    assert stored.dtype == encoding.scaling.stored.newbyteorder("=")
    assert stored.shape == values.shape
    return encoding, stored


def decoded(encoding: Encoding, stored: np.ndarray) -> np.ndarray:
    """What dask_fits reads."""
    out = np.empty(stored.shape, encoding.scaling.dtype)
    encoding.scaling.apply(stored.astype(encoding.scaling.stored), out)
    return out


def by_astropy(encoding: Encoding, stored: np.ndarray) -> np.ndarray:
    """What astropy reads."""
    scaling = encoding.scaling
    hdu = fits.PrimaryHDU(stored)
    if scaling.bscale != 1 or scaling.bzero != 0:
        hdu.header["BSCALE"] = scaling.bscale
        # astropy cuts long floats off, and fails where it adds one to int8.
        whole = scaling.bzero == int(scaling.bzero)
        hdu.header["BZERO"] = int(scaling.bzero) if whole else scaling.bzero
    if scaling.blank is not None:
        hdu.header["BLANK"] = scaling.blank
    content = hdu.header.tostring().encode() + stored.astype(scaling.stored).tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content.ljust(2880 * -(-len(content) // 2880), b"\0"))) as file:
            found = np.array(file[0].data)
    return found.astype(found.dtype.newbyteorder("="))


def refusal(values: Any, **options: Any) -> str:
    with pytest.raises(PixelValueError) as caught:
        encoded(np.asarray(values), **options)
    return str(caught.value)


# Types as they are


def any_values(dtype: str) -> Any:
    shape = hnp.array_shapes(min_dims=1, max_dims=3, max_side=5)
    return hnp.arrays(dtype, shape, elements=hnp.from_dtype(np.dtype(dtype)))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(TYPES).flatmap(any_values))
def test_every_type_is_read_back_as_it_was(values: np.ndarray) -> None:
    before = values.tobytes()
    encoding, stored = encoded(values)
    assert same_bits(decoded(encoding, stored), values)
    assert same_bits(by_astropy(encoding, stored), values)
    assert values.tobytes() == before


@pytest.mark.parametrize("dtype", TYPES)
def test_types_are_stored_as_the_standard_has_them(dtype: str) -> None:
    """Tables 8 and 11 of the Standard, as astropy writes them."""
    rng = np.random.default_rng(3)
    values = np.frombuffer(rng.bytes(40 * np.dtype(dtype).itemsize), dtype)
    buffer = io.BytesIO()
    fits.PrimaryHDU(values).writeto(buffer)
    encoding, stored = encoded(values)
    written = buffer.getvalue()
    header = fits.Header.fromstring(written[:2880])
    scaling = encoding.scaling
    assert scaling.bitpix == header["BITPIX"]
    assert (scaling.bscale, scaling.bzero) == (header.get("BSCALE", 1), header.get("BZERO", 0))
    assert stored.astype(scaling.stored).tobytes() == written[2880 : 2880 + values.nbytes]


# Other types


def exact(values: np.ndarray, dtype: Any) -> list[bool]:
    """Which values a type of integers holds as they are, by Python's own numbers."""
    limits = np.iinfo(dtype)
    return [
        math.isfinite(v) and v == math.floor(v) and limits.min <= int(v) <= limits.max
        for v in values.ravel().tolist()
    ]


@st.composite
def conversions(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """Values near the limits of a type that they are converted to."""
    source, target = draw(st.sampled_from(["f2", "?", *TYPES])), draw(st.sampled_from(INTEGERS))
    limits = np.iinfo(target)
    near = st.sampled_from([limits.min, 0, limits.max]).flatmap(
        lambda edge: st.integers(edge - 2, edge + 2)
    )
    kind = np.dtype(source).kind
    if kind == "f":
        special = st.sampled_from([math.nan, math.inf, -math.inf, 0.5, -0.25, -0.0])
        numbers = draw(st.lists(near.map(float) | special | st.integers(-3, 3), min_size=1))
    elif kind == "b":
        numbers = draw(st.lists(st.booleans(), min_size=1))
    else:
        own = np.iinfo(source)
        within = near.map(lambda v: min(max(v, own.min), own.max))
        numbers = draw(st.lists(within, min_size=1))
    with np.errstate(over="ignore"):
        return np.array(numbers, "f8" if kind == "f" else source).astype(source), target


@settings(max_examples=300, deadline=None)
@given(conversions())
def test_integers_are_written_only_if_no_value_changes(drawn: tuple[np.ndarray, str]) -> None:
    values, target = drawn
    good = exact(values, target)
    if all(good):
        encoding, stored = encoded(values, dtype=target)
        found = decoded(encoding, stored)
        assert found.dtype == target
        assert found.tolist() == [int(v) for v in values.tolist()]
        assert same_bits(by_astropy(encoding, stored), found)
        return
    message = refusal(values, dtype=target)
    bad = good.index(False)
    # Values beyond the type are found before fractions are.
    outside = [
        n
        for n, v in enumerate(values.tolist())
        if math.isnan(v) or not np.iinfo(target).min <= v <= np.iinfo(target).max
    ]
    nans = [n for n, v in enumerate(values.tolist()) if math.isnan(v)]
    first = (nans or outside or [bad])[0]
    assert message.startswith(f"pixel [{first}] is {values[first]}, which cannot be written")
    assert str(np.dtype(target)) in message


@pytest.mark.parametrize("source", ["f2", "f4", "f8"])
@pytest.mark.parametrize("target", INTEGERS)
def test_the_floats_at_each_end(source: str, target: str) -> None:
    """The last one that a type of integers holds, and the first that it does not."""
    limits = np.iinfo(target)
    below, above = np.array([-np.inf, np.inf], source)
    # Powers of two are exact in all types of floats, as far as these reach.
    with np.errstate(over="ignore"):
        top = np.array(float(limits.max + 1)).astype(source)
        bottom = np.array(float(limits.min)).astype(source)
    inside, outside = [], [below, above]
    if np.isfinite(top):
        inside.append(np.floor(np.nextafter(top, below)))
        outside.append(top)
    if np.isfinite(bottom):
        inside.append(bottom)
        outside.append(np.floor(np.nextafter(bottom, below)))
    found = decoded(*encoded(np.array(inside, source), dtype=target))
    assert found.tolist() == [int(value) for value in inside]
    for value in outside:
        message = refusal(np.array([0, value, 0], source), dtype=target)
        assert message.startswith(f"pixel [1] is {value}, ")
        assert message.endswith(f"{np.dtype(target)} holds {limits.min} to {limits.max}")


@pytest.mark.parametrize(
    ("source", "target", "value"),
    [
        ("i2", "u1", 256),
        ("i2", "u1", -1),
        ("i2", "i1", 128),
        ("i2", "i1", -129),
        ("u2", "i2", 32768),
        ("i4", "i2", -32769),
        ("i4", "u2", 65536),
        ("i1", "u2", -1),
        ("u4", "i4", 2**31),
        ("i8", "i4", -(2**31) - 1),
        ("i8", "u4", 2**32),
        ("u8", "i8", 2**63),
        ("i8", "u8", -1),
        ("u8", "u4", 2**32),
        ("u8", "i2", 2**64 - 1),
    ],
)
def test_the_first_integer_beyond_each_end(source: str, target: str, value: int) -> None:
    message = refusal(np.array([[1, 2], [3, value]], source), dtype=target)
    assert message.startswith(f"pixel [1, 1] is {value}, which cannot be written as")
    inside = min(value - 1, int(np.iinfo(target).max)) if value > 0 else value + 1
    found = decoded(*encoded(np.array([inside], source), dtype=target))
    assert (found.dtype, found.tolist()) == (target, [inside])


@pytest.mark.parametrize(
    ("source", "value"), [("i8", -(2**63)), ("i8", 2**63 - 1), ("u8", 2**64 - 1), ("u8", 0)]
)
def test_the_ends_of_64_bits_stay(source: str, value: int) -> None:
    found = decoded(*encoded(np.array([value], source)))
    assert found.tolist() == [value]
    assert found.dtype == source


def test_a_fraction_is_not_dropped() -> None:
    message = refusal(np.array([[1.0, 2.0, 2.5, 3.5]], "f4"), dtype="i2")
    assert message == (
        "pixel [0, 2] is 2.5, which cannot be written as int16: its fraction would be lost: round "
        "the array, or give scale=(step, zero)"
    )


@pytest.mark.parametrize("target", INTEGERS)
def test_nan_without_blank(target: str) -> None:
    message = refusal(np.array([0.0, math.nan]), dtype=target)
    assert message.endswith("integers have no NaN without blank=")
    assert message.startswith("pixel [1] is nan")


def test_the_place_of_a_block_is_in_the_message() -> None:
    encoding = encoding_of("f8", dtype="i2")
    values = np.zeros((3, 4, 5))
    values[2, 1, 3] = 1e9
    with pytest.raises(PixelValueError, match=r"^pixel \[12, 21, 33\] is 1000000000\.0, "):
        encoding.encode(values, (10, 20, 30))


# Floats


@settings(max_examples=100, deadline=None)
@given(hnp.arrays("f8", 4, elements=st.floats()))
def test_doubles_become_the_nearest_floats_unless_they_are_beyond(values: np.ndarray) -> None:
    # Halfway from the largest float, 2^128 - 2^104, to 2^128, which is rounded to the latter.
    limit = 2.0**128 - 2.0**103
    beyond = np.flatnonzero(np.isfinite(values) & (np.abs(values) >= limit))
    if len(beyond):
        message = refusal(values, dtype="f4")
        assert message.startswith(f"pixel [{beyond[0]}] is {values[beyond[0]]}, ")
        assert message.endswith("it is beyond what float32 holds")
        return
    _, stored = encoded(values, dtype="f4")
    finite = np.isfinite(values)
    assert np.array_equal(stored[~finite], values[~finite], equal_nan=True)
    near, given_values = stored[finite], values[finite]
    for end in (-np.inf, np.inf):
        with np.errstate(over="ignore", under="ignore"):
            neighbour = np.nextafter(near, np.float32(end)).astype("f8")
        assert (abs(near.astype("f8") - given_values) <= abs(neighbour - given_values)).all()


@pytest.mark.parametrize(
    ("source", "target", "exact"),
    [("i4", "f4", 24), ("u4", "f4", 24), ("i8", "f4", 24), ("i8", "f8", 53), ("u8", "f8", 53)],
)
def test_integers_with_more_digits_than_a_float(source: str, target: str, exact: int) -> None:
    good = np.array([0, 2**exact, 2**exact - 1, 2 ** (exact + 1) - 2], source)
    assert decoded(*encoded(good, dtype=target)).tolist() == good.tolist()
    for bad in (2**exact + 1, np.iinfo(source).max, 2 ** (exact + 1) - 1):
        message = refusal(np.array([7, bad], source), dtype=target)
        assert message.startswith(f"pixel [1] is {bad}, ")
        assert message.endswith("has fewer digits")


@pytest.mark.parametrize(("source", "target"), [("i8", "f8"), ("u8", "f8"), ("i4", "f4")])
def test_the_largest_power_of_two_is_a_float(source: str, target: str) -> None:
    value = np.iinfo(source).max // 2 + 1
    assert decoded(*encoded(np.array([value], source), dtype=target)).tolist() == [value]


# BSCALE, BZERO, BLANK


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays("f8", 6, elements=st.floats(-1e4, 1e4) | st.just(math.nan)),
    st.sampled_from(SCALED),
    st.sampled_from([(0.5, 0.0), (-0.25, 3.0), (200.0, -1e4), (1.0, 0.5), (1e-3, 1e3)]),
)
def test_scaled_values_are_within_half_a_step(
    values: np.ndarray, target: str, scale: tuple[float, float]
) -> None:
    step, zero = scale
    limits = np.iinfo(target)
    steps = np.rint((values - zero) / step)
    blank = int(limits.max)
    fits_in = np.isnan(values) | ((steps >= limits.min) & (steps < float(limits.max)))
    if not fits_in.all():
        bad = np.flatnonzero(~fits_in)[0]
        message = refusal(values, dtype=target, scale=scale, blank=blank)
        assert "pixel [" in message
        assert f"pixel [{bad}] is {values[bad]}, " in message or "would be stored as" in message
        return
    encoding, stored = encoded(values, dtype=target, scale=scale, blank=blank)
    assert np.array_equal(stored == blank, np.isnan(values))
    found = decoded(encoding, stored)
    assert same_bits(found, by_astropy(encoding, stored))
    rounding = 1e-5 * (abs(zero) + np.nanmax(np.abs(values), initial=0) + abs(step))
    np.testing.assert_allclose(found, values, rtol=0, atol=abs(step) / 2 + rounding)


@pytest.mark.parametrize("target", SCALED)
@pytest.mark.parametrize("source", ["f4", "f8"])
def test_nan_is_stored_as_blank(source: str, target: str) -> None:
    blank = np.iinfo(target).max if target == "u1" else np.iinfo(target).min
    values = np.array([1, np.nan, 3, np.nan], source)
    encoding, stored = encoded(values, dtype=target, blank=blank)
    assert stored.tolist() == [1, blank, 3, blank]
    for found in (decoded(encoding, stored), by_astropy(encoding, stored)):
        assert np.array_equal(found, values, equal_nan=True)


@pytest.mark.parametrize("scale", [None, (2.0, 5.0)])
@pytest.mark.parametrize("source", ["i2", "f4"])
def test_a_value_that_would_be_read_back_as_nan(source: str, scale: Any) -> None:
    taken = 7 if scale is None else 2 * 7 + 5
    values = np.array([1, 1, taken, 9, taken], source)
    message = refusal(values, dtype="i2", blank=7, scale=scale)
    assert message.startswith(f"pixel [2] is {values[2]}, ")
    assert message.endswith("it would be stored as blank=7")


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e308, -1e308])
def test_what_scaling_leads_beyond_the_type(value: float) -> None:
    for blank in (None, -1):
        message = refusal(np.array([0, value]), dtype="i4", scale=(1e-9, 0.0), blank=blank)
        assert message.startswith(f"pixel [1] is {value}, ")
        assert "int32 with scale=(1e-09, 0) holds -2147483648 to 2147483647" in message


@pytest.mark.parametrize(("bitpix", "zero", "read_as"), [("u1", -128, "i1"), ("i2", 2**15, "u2")])
def test_a_scale_that_is_read_as_another_type_of_integers(
    bitpix: str, zero: int, read_as: str
) -> None:
    values = np.array([0, 99.6, 100.4], "f8")
    encoding, stored = encoded(values, dtype=bitpix, scale=(1, zero))
    assert same_bits(decoded(encoding, stored), np.array([0, 100, 100], read_as))
    assert same_bits(by_astropy(encoding, stored), np.array([0, 100, 100], read_as))
    with pytest.raises(ValueError, match=f"read as one of {np.dtype(read_as)}, which has no NaN"):
        encoding_of("f8", dtype=bitpix, scale=(1, zero), blank=5)


@pytest.mark.parametrize(
    ("source", "values", "zero"),
    [("i8", [2**53 + 1, -(2**63), 2**63 - 1], 0), ("u8", [0, 2**63 + 1, 2**64 - 1], 2**63)],
)
def test_integers_in_steps_of_one_keep_all_digits(
    source: str, values: list[int], zero: int
) -> None:
    encoding, stored = encoded(np.array(values, source), dtype="i8", scale=(1, zero))
    assert stored.tolist() == [value - zero for value in values]
    for found in (decoded(encoding, stored), by_astropy(encoding, stored)):
        assert same_bits(found, np.array(values, source))


def test_zero_is_no_value_for_nan() -> None:
    """astropy reads it as 0, and so does this package (tests/format/test_scaling.py)."""
    with pytest.raises(ValueError, match="blank: found 0, which astropy does not read as NaN"):
        encoding_of("f4", dtype="i2", blank=0)
