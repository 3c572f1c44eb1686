"""Sums of parts of a data unit add up to the sum of its bytes, wherever it is cut."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits.format.checksum import add_sums, encode_checksum, sum32, sum_of_values

pytestmark = pytest.mark.untraced

TYPES = ["u1", "i2", "i4", "i8", "f4", "f8"]


def datasum(data: bytes) -> int:
    """DATASUM of bytes, from astropy."""
    hdu = fits.ImageHDU(np.frombuffer(data, np.uint8))
    return int(hdu._calculate_datasum()) if data else 0


def as_words(data: bytes) -> int:
    """The same by Python's own numbers: the sum modulo 2^32 - 1, which is 0 only of zeros."""
    padded = data + bytes(-len(data) % 4)
    total = sum(int.from_bytes(padded[n : n + 4], "big") for n in range(0, len(padded), 4))
    return total % (2**32 - 1) or (total and 2**32 - 1)


@st.composite
def units(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    """A data unit, and where it is cut."""
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    count = draw(st.integers(0, 60))
    raw = draw(
        st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)
        | st.just(b"\xff" * (count * dtype.itemsize))
    )
    cuts = draw(st.lists(st.integers(0, count), max_size=6))
    return np.frombuffer(raw, dtype.newbyteorder(">")), sorted([0, *cuts, count])


@settings(max_examples=300, deadline=None)
@given(units(), st.randoms(use_true_random=False))
def test_parts_add_up_in_any_order(drawn: tuple[np.ndarray, list[int]], random: object) -> None:
    unit, cuts = drawn
    native = unit.astype(unit.dtype.newbyteorder("="))
    sums = [
        sum_of_values(np.ascontiguousarray(native[low:high]), low * unit.itemsize)
        for low, high in itertools.pairwise(cuts)
    ]
    random.shuffle(sums)
    data = unit.tobytes()
    assert add_sums(sums) == sum32(data) == as_words(data) == datasum(data)


@pytest.mark.parametrize("dtype", ["u1", "i2"])
@pytest.mark.parametrize("phase", range(4))
@pytest.mark.parametrize("count", range(10))
def test_short_values_lie_anywhere_in_a_word(dtype: str, phase: int, count: int) -> None:
    start = phase * np.dtype(dtype).itemsize
    values = (np.arange(count) * 37 + 200).astype(dtype)
    big = values.astype(values.dtype.newbyteorder(">")).tobytes()
    assert sum_of_values(values, start + 400) == as_words(bytes(start % 4) + big)


def test_sums_of_many_values_do_not_overflow() -> None:
    values = np.full(1 << 16, 2**32 - 1, np.uint32)
    assert sum_of_values(values, 0) == sum32(values.tobytes()) == 2**32 - 1
    assert add_sums([2**32 - 1] * 1000) == 2**32 - 1
    assert add_sums([]) == 0


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_text_of_a_checksum_is_astropys(total: int) -> None:
    assert encode_checksum(total) == fits.ImageHDU()._char_encode(~total & 0xFFFFFFFF)


def test_a_header_and_its_data_sum_up_to_nothing() -> None:
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.arange(99, dtype="i2")).writeto(buffer, checksum=True)
    content = buffer.getvalue()
    assert sum32(content) == 2**32 - 1
    head, data = content[:-2880], content[-2880:]
    assert fits.Header.fromstring(head)["DATASUM"] == str(sum32(data))
    assert sum32(data, sum32(head)) == 2**32 - 1
