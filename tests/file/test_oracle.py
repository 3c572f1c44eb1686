"""Real files give what astropy gives: layout, headers, pixels."""

from __future__ import annotations

import hashlib
import io
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import dask_fits
from dask_fits import HDU, FitsError, FitsFile, FitsWarning, TruncatedFileError
from tests.support.corpus import (
    CORPUS,
    COVERED,
    DATA_FILES,
    FILES,
    UNPACK,
    UNPADDED,
    UNREADABLE,
    cards,
    each,
    needs_corpus,
    placed,
    quiet_astropy,
    random_keys,
)
from tests.support.fits_files import same_bits


def tells_of(entry: dict[str, Any]) -> bool:
    """Whether the file departs from the Standard in a way that a reader should be told of."""
    for problem in entry["layout"]["problems"]:
        blanks = "trailing bytes" in problem and "(blanks" in problem
        if blanks and entry["hdus"][-1]["kind"] != "nonstandard":
            continue
        if "cut short" in problem or "trailing bytes" in problem:
            return True
    return False


def open_all(url: str) -> tuple[FitsFile, bool]:
    """Open a file with all its HDUs, and whether it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitsWarning)
        file = dask_fits.open(url)
        assert len(file)
    told = [w for w in caught if issubclass(w.category, FitsWarning)]
    assert all(file.url in str(w.message) for w in told)
    return file, bool(told)


def digest(array: np.ndarray) -> str:
    """SHA-256 of the little-endian bytes, each NaN the canonical one."""
    array = np.array(array, order="C")
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


def assert_same_header(hdu: HDU, content: bytes, oracle: fits.HDUList) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = oracle[hdu.index].header
        if hdu.kind == "random-groups":  # to whose header astropy's HDU adds what it lacks
            expected = fits.Header.fromfile(io.BytesIO(content))
        ours, theirs = cards(hdu.header), cards(expected)
    if hdu.index == 0 and "EXTEND" not in hdu.header:  # which astropy adds too
        theirs = [image for image in theirs if not image.startswith("EXTEND  =")]
    assert ours == theirs


def assert_same_sections(hdu: HDU, data: np.ndarray, seed: str) -> None:
    if not data.size:
        return
    reader = hdu.reader()
    for key in random_keys(data.shape, seed):
        assert same_bits(reader[key], data[key]), key


# The corpus


@needs_corpus
def test_the_corpus_is_there_in_full() -> None:
    assert len(COVERED) >= 490
    assert {entry["container"] for entry in FILES} - set(UNPACK) <= {"zip", "unix-compress"}


@needs_corpus
@each([entry for entry in COVERED if entry.get("hdus")])
def test_a_real_file(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, content), quiet_astropy(content) as oracle:
        file, told = open_all(url)
        assert told == tells_of(entry)
        assert len(file) == len(entry["hdus"])
        for hdu, expected in zip(file, entry["hdus"], strict=True):
            assert_as_described(hdu, expected)
            assert_same_header(hdu, content, oracle)
            if hdu.layout.image is None:
                assert expected["kind"] != "image" or not expected["shape"]
            elif "sha256_of_data" in expected:
                assert digest(hdu.to_dask().compute(scheduler="sync")) == expected["sha256_of_data"]
                assert_same_sections(hdu, oracle[hdu.index].data, entry["file"])
            else:
                assert "error" in expected
                with pytest.raises(TruncatedFileError, match=f"HDU {hdu.index}:"):
                    hdu.reader()[...]


def assert_as_described(hdu: HDU, expected: dict[str, Any]) -> None:
    kind = expected["kind"]
    assert hdu.kind == ("other" if kind == "nonstandard" else kind)
    assert hdu.name == expected["name"]
    assert hdu.ver == expected.get("ver", 1)
    if "header_offset" in expected:
        assert hdu.header_range.start == expected["header_offset"]
        assert hdu.data_range.start == expected["data_offset"]
        assert hdu.layout.next_header - hdu.data_range.start == expected["data_bytes"]
    if hdu.kind in ("image", "compressed-image"):
        shape = expected.get("shape", expected.get("header_shape"))
        assert hdu.shape == tuple(shape)
        assert hdu.compression == (expected.get("compression") or {}).get("type")
        if "dtype" in expected:
            assert (None if hdu.dtype is None else hdu.dtype.name) == expected["dtype"]


@needs_corpus
def test_a_header_without_padding() -> None:
    with pytest.warns(FitsWarning, match="the last block is not padded"):
        (hdu,) = dask_fits.open(CORPUS / UNPADDED)
    assert (hdu.kind, hdu.shape, hdu.header["ORIGIN"]) == ("image", (), "ESO")


@needs_corpus
@each(UNREADABLE)
def test_a_file_that_nobody_can_read(entry: dict[str, Any]) -> None:
    with placed(entry) as (url, _):
        start = time.process_time()
        with pytest.raises(FitsError) as caught:
            list(dask_fits.open(url))
        assert time.process_time() - start < 1
    assert url.removeprefix("memory://") in str(caught.value)
    assert "HDU 0" in str(caught.value)


# The files of this checkout


def images(path: Path) -> list[HDU]:
    return [hdu for hdu in dask_fits.open(path) if hdu.layout.image is not None]


def test_there_are_files_to_compare() -> None:
    assert "m13.fits" in [path.name for path in DATA_FILES]


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_a_file_of_this_checkout_against_astropy(path: Path) -> None:
    with fits.open(path) as oracle:
        assert len(dask_fits.open(path)) == len(oracle)
        for hdu in images(path):
            data = oracle[hdu.index].data
            assert same_bits(hdu.reader()[...], data)
            assert same_bits(hdu.data.compute(scheduler="sync"), data)
            assert_same_header(hdu, path.read_bytes(), oracle)
            assert_same_sections(hdu, data, path.name)


@pytest.mark.parametrize("path", DATA_FILES, ids=lambda path: path.name)
def test_a_file_of_this_checkout_against_cfitsio(path: Path) -> None:
    fitsio = pytest.importorskip("fitsio", reason="fitsio is not installed")
    with fitsio.FITS(path) as oracle:
        assert len(dask_fits.open(path)) == len(oracle)
        for hdu in images(path):
            data = oracle[hdu.index].read()
            assert same_bits(hdu.reader()[...], data)
            assert_same_sections(hdu, data, path.name)
