"""Damaged files: an error of ours or astropy's pixels to the bit, soon and in little memory.

Real and made files are edited by Hypothesis: cards, values, bytes, blocks, where the file ends.
Of compressed images astropy's pixels are not asked for: it may crash on what is damaged.
``DASK_FITS_FUZZ`` is the number of examples of each property.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

import dask_fits
from dask_fits import HDU, FitsError, FitsFile, TruncatedFileError
from tests.support.at_rest import write_at_rest
from tests.support.corpus import needs_corpus
from tests.support.data import ROOT
from tests.support.fits_files import BLOCK, CARD, same_bits
from tests.support.memory import peak_below
from tests.support.mutations import (
    COMPRESSED,
    EXAMPLES,
    MADE,
    REAL,
    TILED,
    TILING,
    Edit,
    _card_edit,
    _edits,
    _number,
    _value,
    damaged,
    real,
    some,
)

pytestmark = pytest.mark.timeout(600)  # hundreds of files in one test, on a busy machine

SECONDS = 2.0
"""Of the processor's time, for all that is done with one file."""
SMALL = 1_000_000
"""Bytes. An image up to this is read whole."""
MEMORY = 64_000_000
"""Bytes that reading one of these files may need at most."""


# The files that are damaged


# The damage


_bytes = st.sampled_from([bytes([n]) for n in b"\0\n '/=&-.0123456789EDNTF\x7f\xff"]) | st.binary(
    min_size=1, max_size=12
)

_tile_value = st.sampled_from(TILED) | _value
_tile_card_edit = st.one_of(
    st.tuples(st.just("set"), st.sampled_from(TILING), _tile_value, _number),
    st.tuples(st.just("set"), st.sampled_from(TILING), _tile_value, _number),
    _card_edit,
)
_heap_edit = st.tuples(
    st.sampled_from(["flip in data", "overwrite in data"]),
    _number,
    _bytes | st.binary(min_size=1, max_size=60) | st.sampled_from([b"\xff" * 40, bytes(40)]),
)
_byte_edit = st.one_of(
    *[st.tuples(st.sampled_from(["flip in header", "overwrite in header"]), _number, _bytes)] * 2,
    st.tuples(st.sampled_from(["flip", "overwrite", "insert", "delete"]), _number, _bytes),
    st.tuples(st.sampled_from(["drop block", "repeat block", "blank block"]), _number),
    st.tuples(st.just("swap blocks"), _number, _number),
    st.tuples(st.just("shift"), _number, st.integers(1, 2 * BLOCK)),
    st.tuples(st.just("cut"), _number),
    st.tuples(st.just("cut to blocks"), _number),
    st.tuples(st.just("append"), st.binary(max_size=200) | st.sampled_from([b"\0", b" ", b"END"])),
    st.tuples(st.just("append"), st.sampled_from([bytes(BLOCK), b" " * BLOCK, b"XTENSION" * 360])),
)


# What is done with a damaged file


@dataclass(frozen=True)
class Read:
    """An HDU and what came of reading parts of it: pixels, or the error."""

    hdu: HDU
    parts: list[tuple[tuple[slice, ...], np.ndarray | FitsError]]


def corner(shape: tuple[int, ...], *, end: bool) -> tuple[slice, ...]:
    """A small box at the start or at the end of an array: up to 5 along the last axes."""
    lengths: list[int] = []
    for length in reversed(shape):
        lengths.append(min(length, 5 if math.prod(lengths) <= 25 else 1))
    return tuple(
        slice(length - part, length) if end else slice(0, part)
        for length, part in zip(shape, reversed(lengths), strict=True)
    )


def walk(file: FitsFile) -> tuple[list[HDU], FitsError | None]:
    """The HDUs before the first that is an error, and that error."""
    hdus: list[HDU] = []
    try:
        for hdu in file:
            hdus.append(hdu)  # noqa: PERF402 (what came before an error counts)
    except FitsError as error:
        return hdus, error
    return hdus, None


def use(path: Path) -> tuple[list[Read], FitsError | None]:
    """Open, list and read; whatever raises something else than a FitsError goes through."""
    try:
        file = dask_fits.open(path)
    except FitsError as error:
        return [], error
    hdus, error = walk(file)
    if error is None:
        assert len(file) == len(hdus)
        with contextlib.redirect_stdout(io.StringIO()):
            file.info()
    else:
        with pytest.raises(type(error)):
            len(file)
    assert repr(file)
    assert file._repr_html_()
    return [Read(hdu, list(read_parts(hdu))) for hdu in hdus], error


def read_parts(hdu: HDU) -> Iterator[tuple[tuple[slice, ...], np.ndarray | FitsError]]:
    assert repr(hdu)
    assert hdu.header_range.stop == hdu.data_range.start
    assert isinstance(hdu.header, fits.Header)
    if hdu.dtype is None or hdu.shape is None:
        with pytest.raises(FitsError):
            hdu.plan()
        return
    keys = [corner(hdu.shape, end=False), corner(hdu.shape, end=True)]
    if math.prod(hdu.shape) * hdu.dtype.itemsize <= SMALL:
        keys.append(tuple(slice(0, length) for length in hdu.shape))
    for key in keys:
        found: Any
        try:
            plan = hdu.plan(key)
            found = hdu.reader()[key]
        except FitsError as error:
            found = error
            yield key, found
            continue
        if hdu.kind == "image":
            with contextlib.suppress(TruncatedFileError):
                assert hdu.plan().useful_bytes == math.prod(hdu.shape) * stored_size(hdu)
            assert plan.useful_bytes == found.size * stored_size(hdu)
        assert found.dtype == hdu.dtype
        assert found.shape == tuple(part.stop - part.start for part in key)
        assert all(part.stop <= hdu.data_range.stop for part in plan.ranges)
        yield key, found
    if hdu.dtype is not None:
        assert len(hdu.chunks) == len(hdu.shape)
        if len(keys) == 3 and not isinstance(found, FitsError):
            assert same_bits(hdu.data[keys[1]].compute(scheduler="sync"), found[keys[1]])


def stored_size(hdu: HDU) -> int:
    return hdu.reader().layout.scaling.stored.itemsize


def check(path: Path, content: bytes) -> tuple[list[Read], FitsError | None]:
    """The property: errors of ours or astropy's pixels, in bounded time."""
    write_at_rest(path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FitsWarning, astropy's, and NumPy's of overflow
        start = time.process_time()
        reads, error = use(path)
        took = time.process_time() - start
        compare(content, reads)
    assert took < SECONDS
    return reads, error


# Against astropy


def compare(content: bytes, reads: list[Read]) -> None:
    """Each HDU lies where astropy finds it, and its pixels are the same."""
    if not reads or re.search(rb"(?i)NAXIS\s*=\s*\+?\d{4}", content):
        return  # astropy counts axes without a limit
    with contextlib.ExitStack() as stack:
        oracle = None
        with contextlib.suppress(Exception):
            oracle = stack.enter_context(
                fits.open(io.BytesIO(content), memmap=False, disable_image_compression=True)
            )
        if oracle is None:
            return
        for read in reads:
            hdu = None
            with contextlib.suppress(Exception):
                hdu = oracle[read.hdu.index]
            if hdu is None or type(hdu).__name__ == "_CorruptedHDU":
                return  # astropy cannot read it either
            difference = place_differs(read.hdu, hdu)
            if difference is None and read.parts and read.hdu.kind == "image":
                difference = pixels_differ(read, hdu)
            if difference:
                place = read.hdu.header_range
                assert excuse(read.hdu, hdu, content[place.start : place.stop]), difference
                return


def place_differs(ours: HDU, theirs: Any) -> str | None:
    found = (ours.header_range.start, ours.data_range.start, ours.layout.next_header)
    start = theirs._data_offset
    expected = (theirs._header_offset, start, start + theirs._data_size)
    return f"HDU {ours.index} at {found}, astropy has {expected}" if found != expected else None


def pixels_differ(read: Read, theirs: Any) -> str | None:
    if not isinstance(theirs, fits.PrimaryHDU | fits.ImageHDU):
        return f"HDU {read.hdu.index} an image, for astropy {type(theirs).__name__}"
    if theirs.shape != read.hdu.shape:
        return f"HDU {read.hdu.index} of shape {read.hdu.shape}, astropy has {theirs.shape}"
    whole = None
    if math.prod(theirs.shape) <= SMALL:
        with contextlib.suppress(Exception):
            whole = theirs.data
    for key, found in read.parts:
        if isinstance(found, FitsError):
            continue
        expected = None
        with contextlib.suppress(Exception):
            expected = theirs.section[key] if whole is None else whole[key]
        if expected is not None and not same_bits(found, expected):
            return f"HDU {read.hdu.index} {key}: {found!r}, astropy has {expected!r}"
    return None


_PIXEL_KEYWORDS = re.compile(
    rb"\s*(BITPIX|NAXIS\d*|[PG]COUNT|GROUPS|BSCALE|BZERO|BLANK)\s*=", re.IGNORECASE
)


def excuse(ours: HDU, theirs: Any, text: bytes) -> str | None:
    """Why an HDU, whose header's bytes are `text`, may differ from astropy's, if there is a reason."""
    images = [text[at : at + CARD] for at in range(0, len(text), CARD)]
    names = [match[1].upper() for image in images if (match := _PIXEL_KEYWORDS.match(image))]
    if sum(image.startswith(b"XTENSION=") for image in images) > 1:
        return "XTENSION twice: for what it is astropy takes the first, for the rest the last"
    if any(re.match(rb"XTENSION= *'[^']*' *[^ /]", image) for image in images):
        return "something behind the text of XTENSION that is no comment: what it says is open"
    # Where astropy's first parser gives up, its second one reads the header by other rules.
    second = not text.isascii() or ours.kind == "random-groups"
    if second and len(names) != len(set(names)):
        return (
            "a keyword twice: its value is open; of two astropy takes now the first, now the last"
        )
    if any(image.startswith(b"END") and image[3:].strip(b" \0") for image in images):
        return (
            "an END card with a rest: for astropy's first parser it is none, for the second it is"
        )
    if ours.index == 0 and ours.kind == "image" and {b"PCOUNT", b"GCOUNT"} & set(names):
        return "a primary array has no PCOUNT and GCOUNT (4.4.1.1); astropy counts with them"
    if any(re.fullmatch(rb"END *\0[ \0]*", image) for image in images):
        return "an END card padded with NULs ends the header; astropy's first parser goes on"
    if ours.index == 0 and ours.kind == "other" and ours.header.get("GROUPS"):
        return "SIMPLE = F: the data are anything (4.4.1.1); astropy takes them for random groups"
    if any(re.match(rb"BLANK\s*=\s*[TF]", image.strip(), re.IGNORECASE) for image in images):
        return "BLANK must be an integer (4.4.2.5) and else is ignored; astropy takes T for 1"
    return None


# The properties


@some
@given(st.sampled_from(sorted(MADE)), _edits(_card_edit))
def test_damaged_cards(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check(tmp_path / "damaged.fits", damaged(MADE[name], edits))


@some
@given(st.sampled_from(sorted(MADE)), _edits(_byte_edit, _byte_edit, _card_edit))
def test_damaged_bytes(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check(tmp_path / "damaged.fits", damaged(MADE[name], edits))


def check_memory(path: Path, content: bytes) -> None:
    """Use a file: little memory is asked for, whatever is in it."""
    write_at_rest(path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with peak_below(MEMORY):
            use(path)


@settings(max_examples=EXAMPLES // 6, parent=some)
@given(st.sampled_from(sorted(MADE)), _edits(_card_edit))
def test_damage_costs_no_memory(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check_memory(tmp_path / "damaged.fits", damaged(MADE[name], edits))


@some
@given(st.sampled_from(sorted(COMPRESSED)), _edits(_tile_card_edit))
def test_damaged_cards_of_compressed_images(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check(tmp_path / "damaged.fits", damaged(COMPRESSED[name], edits))


@some
@given(
    st.sampled_from(sorted(COMPRESSED)),
    _edits(_heap_edit, _heap_edit, _heap_edit, _byte_edit, _tile_card_edit),
)
def test_damaged_bytes_of_compressed_images(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check(tmp_path / "damaged.fits", damaged(COMPRESSED[name], edits))


@settings(max_examples=EXAMPLES // 6, parent=some)
@given(st.sampled_from(sorted(COMPRESSED)), _edits(_tile_card_edit, _heap_edit))
def test_damage_to_compressed_images_costs_no_memory(
    tmp_path: Path, name: str, edits: list[Edit]
) -> None:
    check_memory(tmp_path / "damaged.fits", damaged(COMPRESSED[name], edits))


def test_damaged_compressed_images_without_numba() -> None:
    """The same in a process of its own, which would show a crash of astropy's decoders."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "compressed_images and not without"]
    code = f"""
import sys
sys.modules["numba"] = None
from tests.support.memory import peak_below
import pytest
sys.exit(pytest.main({[*options, __file__]}))
"""
    environment = {"DASK_FITS_FUZZ": str(EXAMPLES // 2), "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "3 passed" in done.stdout


@needs_corpus
@some
@given(st.sampled_from(REAL or [""]), _edits(_byte_edit, _card_edit))
def test_damaged_real_files(tmp_path: Path, name: str, edits: list[Edit]) -> None:
    check(tmp_path / "damaged.fits", damaged(real(name), edits))
