"""Files that are written, beside those that astropy writes of the same."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from astropy.io import fits

import dask_fits
from tests.support.fits_files import same_bits

TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
"""All types that FITS images have."""

_UPDATED = re.compile(rb" updated \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?= *$)")


def random_pixels(shape: tuple[int, ...], dtype: str, seed: int = 1) -> np.ndarray:
    """Any values of a type; NaN and infinities among the floats."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def by_astropy(*hdus: Any, checksum: bool = True) -> bytes:
    """The file that astropy writes of HDUs."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(buffer, checksum=checksum)
    return buffer.getvalue()


def cards_of(content: bytes) -> list[bytes]:
    """A file in pieces of the length of a card; CHECKSUM and the dates of both sums left out.

    astropy notes when it has computed a sum, which is in the value of CHECKSUM, too.
    """
    pieces = []
    for start in range(0, len(content), 80):
        piece = content[start : start + 80]
        if piece.startswith((b"CHECKSUM= '", b"DATASUM = '")):
            piece = _UPDATED.sub(b"", piece).rstrip()
        if piece.startswith(b"CHECKSUM= '"):
            piece = piece[:11] + piece[27:]
        pieces.append(piece)
    return pieces


def native(values: np.ndarray) -> np.ndarray:
    """A copy in native byte order."""
    return values.astype(values.dtype.newbyteorder("="))


def verified(path: Path) -> list[np.ndarray | None]:
    """The pixels of all HDUs as astropy reads them, after it has verified headers and checksums."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(path, checksum=True) as file:
            file.verify("exception")
            for hdu in file:
                assert hdu._checksum is not None
                assert hdu._datasum is not None
            return [None if hdu.data is None else native(hdu.data) for hdu in file]


def parts_beside(path: Path) -> list[str]:
    """Names of what is in the directory of a file besides the file."""
    return sorted(other.name for other in path.parent.iterdir() if other.name != path.name)


# Files that are written over others


PIXELS = random_pixels((12, 30), "i2")
OLD = b"what was there before"


def array(values: np.ndarray = PIXELS) -> da.Array:
    return da.from_array(values, chunks=(3, 10))


def assert_untouched(path: Path) -> None:
    """Nothing has happened, and nothing is left."""
    there = [other.name for other in path.parent.iterdir()]
    assert there in ([], ["a.fits"])
    assert not there or path.read_bytes() == OLD
    assert dask_fits.abandoned(path) == []


def assert_in_order(path: Path, values: np.ndarray = PIXELS) -> None:
    (found,) = verified(path)
    assert same_bits(found, values)
    assert dask_fits.abandoned(path) == []
    assert [other.name for other in path.parent.iterdir() if other.suffix == ".part"] == []


def failing(error: BaseException, at: int) -> da.Array:
    """An array of which one chunk cannot be computed, when others have been written."""
    lock, calls = threading.Lock(), []

    def compute(block: np.ndarray) -> np.ndarray:
        with lock:
            calls.append(1)
            if len(calls) == at:
                raise error
        return block

    return array().map_blocks(compute, dtype="i2", meta=np.zeros((0, 0), "i2"))


def raising(number: int, times: int) -> Callable[..., Any]:
    """A system call that fails when it has succeeded so many times."""

    def make(call: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []

        def replaced(*args: Any, **options: Any) -> Any:
            calls.append(1)
            if len(calls) > times:
                raise OSError(number, os.strerror(number))
            return call(*args, **options)

        return replaced

    return make
