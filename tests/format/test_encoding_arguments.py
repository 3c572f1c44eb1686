"""Arguments by which arrays are stored: those that FITS does not have say what to do."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from dask_fits.format.encoding import encoding_of


@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        ("?", "dtype='uint8'"),
        ("f2", "dtype='float64'"),
        ("c8", "real and imaginary parts"),
        ("c16", "real and imaginary parts"),
        ("U5", "astype"),
        ("S5", "astype"),
        ("O", "astype"),
        ("M8[s]", "astype"),
        ("m8[s]", "astype"),
        ([("a", "i4"), ("b", "f8")], "astype"),
    ],
)
def test_types_that_fits_does_not_have(dtype: Any, way: str) -> None:
    name = re.escape(str(np.dtype(dtype)))
    with pytest.raises(TypeError, match=f"found an array of {name}, a type.*{way}"):
        encoding_of(dtype)
    with pytest.raises(TypeError, match="a type that FITS images do not have"):
        encoding_of("f4", dtype=dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "u2", "u4", "u8"])
@pytest.mark.parametrize("option", [{"scale": (2.0, 0.0)}, {"blank": -1}])
def test_types_that_are_neither_scaled_nor_have_blank(dtype: str, option: Any) -> None:
    (name,) = option
    with pytest.raises(ValueError, match=f"^{name}: it is for uint8.*found {np.dtype(dtype)}"):
        encoding_of("f8", dtype=dtype, **option)


@pytest.mark.parametrize("scale", [(0, 1), (math.nan, 0), (1, math.inf), (1,), (1, 2, 3), 2, "ab"])
def test_scales_that_are_none(scale: Any) -> None:
    with pytest.raises(ValueError, match=r"^scale: expected two"):
        encoding_of("f8", dtype="i2", scale=scale)


@pytest.mark.parametrize(
    ("dtype", "blank"), [("u1", -1), ("u1", 256), ("i2", 2**15), ("i8", 2**63)]
)
def test_blank_beyond_the_type(dtype: str, blank: int) -> None:
    with pytest.raises(ValueError, match=f"blank: expected .*found {blank}"):
        encoding_of("f8", dtype=dtype, blank=blank)


def test_blank_that_is_no_integer() -> None:
    with pytest.raises(TypeError, match="integer"):
        encoding_of("f8", dtype="i2", blank=1.5)
