"""Images of real files, written and read back: pixels, type and keywords are as they were."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import HDU, FitsError, FitsFormatError
from tests.support.corpus import COVERED, DATA_FILES, each, needs_corpus, placed
from tests.support.fits_files import same_bits
from tests.support.written_files import cards_of

pytestmark = pytest.mark.filterwarnings("ignore")

MOST = 1 << 16
"""Pixels of an image that are written; of a larger one the corner."""

OF_THE_BYTES = (
    "SIMPLE",
    "XTENSION",
    "BITPIX",
    "NAXIS",
    "EXTEND",
    "PCOUNT",
    "GCOUNT",
    "GROUPS",
    "BLOCKED",
    "BSCALE",
    "BZERO",
    "BLANK",
    "CHECKSUM",
    "DATASUM",
    "ZHECKSUM",
    "ZDATASUM",
    "END",
)


def corner(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The whole image, or so much of its corner."""
    left, key = MOST, []
    for length in reversed(shape):
        key.append(slice(min(length, max(left, 1))))
        left //= max(length, 1)
    return tuple(key[::-1])


def kept(header: fits.Header) -> list[str]:
    """Cards of a header that say nothing of the bytes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            str(card).rstrip()
            for card in header.cards
            if not card.keyword.startswith(OF_THE_BYTES) and str(card).strip()
        ]


def read(hdu: HDU) -> tuple[np.ndarray, Any] | None:
    """An image, or its corner, and the array to write; None if it cannot be read."""
    try:
        array = hdu.data
        part = array[corner(hdu.shape)]
        return part.compute(scheduler="sync"), part
    except FitsError:
        return None


def write(array: Any, path: Path, hdu: HDU) -> None:
    """Write an array with a header; with its HDU where its WCS refers to tables."""
    try:
        dask_fits.to_fits(array, path, header=hdu.header, overwrite=True)
    except FitsFormatError as error:
        if "its WCS refers to the table" not in str(error):
            raise
        dask_fits.to_fits(array, path, header=hdu, overwrite=True)


def assert_survives(hdu: HDU, directory: Path) -> None:
    found = read(hdu)
    if found is None or not found[0].ndim:
        return
    values, array = found
    first, second = directory / "first.fits", directory / "second.fits"
    write(array, first, hdu)
    again = dask_fits.open(first)[0]
    assert again.dtype == values.dtype
    assert same_bits(again.data.compute(), values)
    with fits.open(first, checksum=True) as file:
        assert file[0]._checksum is not None
        np.testing.assert_array_equal(file[0].data, values if values.size else None)
    assert kept(again.header) == kept(hdu.header)
    write(again.data, second, again)
    assert cards_of(second.read_bytes()) == cards_of(first.read_bytes())


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_files_of_this_checkout(path: Path, tmp_path: Path) -> None:
    for hdu in dask_fits.open(path):
        if hdu.layout.image is not None:
            assert_survives(hdu, tmp_path)


@needs_corpus
@each([entry for entry in COVERED if entry.get("hdus")])
def test_a_real_file(entry: dict[str, Any], tmp_path: Path) -> None:
    with placed(entry) as (url, _):
        for hdu in dask_fits.open(url):
            if hdu.layout.image is not None:
                assert_survives(hdu, tmp_path)
