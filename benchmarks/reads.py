"""Speed of reading from a warm page cache: whole images and bands of rows, on 1 and 2 threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import dask
import dask.array as da
import fitsio
import numpy as np
import numpy.typing as npt
from astropy.io import fits

import dask_fits
from benchmarks.harness import Check, Row, Table, clock, interleave, ratio
from benchmarks.images import KIB, MIB, ImageFile

BAND = 64 * MIB
"""Bytes of a band, as read."""

ASTROPY_ALONE = "astropy, 1 thread"

ReadRows = Callable[[slice], npt.NDArray]
"""From a band of rows to a new array of them, in native byte order."""

Contender = Callable[[ImageFile, int], AbstractContextManager[da.Array]]
"""From a file and a number of rows to a lazy array with chunks of that many rows."""


@dataclass(frozen=True, slots=True)
class Case:
    """A way of reading a whole image."""

    name: str
    threads: int
    chunk_rows: int
    keep: bool
    """Whether the chunks are kept until all are read; else each is dropped at once."""
    alone: Case | None = None
    """The same on one thread, where this is on more."""


def measure_reads(images: list[ImageFile], *, rounds: int) -> Table:
    """Read each image in each way with each contender."""
    table = Table("Reads, warm page cache", "s")
    for image in images:
        _check_equal(image)
        for case in _cases(image):
            contenders = {
                name: partial(_seconds, contender, image, case)
                for name, contender in CONTENDERS.items()
            }
            if case.alone:
                contenders[ASTROPY_ALONE] = partial(_seconds, _astropy, image, case.alone)
            samples = interleave(contenders, rounds=rounds)
            checks = _checks(samples, image, case)
            table.rows.append(Row(f"{image.name}, {case.name}", samples, checks))
    return table


def band_rows(image: ImageFile) -> int:
    """Rows of a band."""
    return BAND // (image.shape[1] * image.dtype.itemsize)


def _cases(image: ImageFile) -> list[Case]:
    rows, band = image.shape[0], band_rows(image)
    whole = Case("whole, 1 thread", 1, rows, keep=True)
    bands = Case("bands, 1 thread", 1, band, keep=False)
    return [
        whole,
        Case("two halves, 2 threads", 2, math.ceil(rows / 2), keep=True, alone=whole),
        bands,
        Case("bands, 2 threads", 2, band, keep=False, alone=bands),
    ]


def _checks(samples: dict[str, list[float]], image: ImageFile, case: Case) -> list[Check]:
    floor = {} if image.is_scaled else {"at_most": 1.3}
    checks = [
        ratio(samples, "dask_fits", "floor", **floor),
        ratio(samples, "astropy", "dask_fits", at_least=2 if image.is_scaled else 0.75),
        ratio(samples, "fitsio", "dask_fits", at_least=1.5),
    ]
    if case.alone:  # a memory map is fast on one thread: two threads of ours should beat it
        aim = {} if image.is_scaled else {"at_least": 1.3}
        checks.append(ratio(samples, ASTROPY_ALONE, "dask_fits", **aim))
    return checks


def _seconds(contender: Contender, image: ImageFile, case: Case) -> float:
    _touch(2 * image.nbytes)
    return clock(partial(_read, contender, image, case))


def _touch(nbytes: int) -> None:
    """Leave more free memory than a read needs where the system finds it at once.

    The host of a virtual machine takes back what has been free for a second or two, and giving it
    again takes several times as long as a read, which whoever comes next would pay.
    """
    np.empty(nbytes, np.uint8)[:: 4 * KIB] = 0


def _read(contender: Contender, image: ImageFile, case: Case) -> tuple[npt.NDArray, ...]:
    with contender(image, case.chunk_rows) as array:
        wanted = array if case.keep else array.map_blocks(_corner, dtype=array.dtype)
        blocks = wanted.to_delayed().ravel()
        return dask.compute(*blocks, scheduler="threads", num_workers=case.threads)


def _corner(block: npt.NDArray) -> npt.NDArray:
    return block[:1, :1].copy()


def _check_equal(image: ImageFile) -> None:
    """Make sure that all contenders read the same pixels; fitsio's scaling rounds its own way."""
    names = ("dask_fits", "astropy", "fitsio")
    opened = [CONTENDERS[name](image, band_rows(image)) for name in names]
    with opened[0] as ours, opened[1] as astropy, opened[2] as other:
        for blocks in zip(ours.blocks, astropy.blocks, other.blocks, strict=True):
            mine, expected, close = dask.compute(*blocks, scheduler="synchronous")
            np.testing.assert_array_equal(mine, expected, strict=True)
            np.testing.assert_allclose(mine, close, rtol=0, atol=1e-3 if image.is_scaled else 0)


@contextmanager
def _ours(image: ImageFile, chunk_rows: int) -> Iterator[da.Array]:
    yield dask_fits.from_fits(image.path, chunks=(chunk_rows, -1))


@contextmanager
def _floor(image: ImageFile, chunk_rows: int) -> Iterator[da.Array]:
    """Yield the stored bytes, read into a new array and left as they are."""
    row = image.shape[1] * image.stored.itemsize
    descriptor = os.open(image.path, os.O_RDONLY)

    def read_rows(rows: slice) -> npt.NDArray:
        out = np.empty((rows.stop - rows.start, row), np.uint8)
        left, position = memoryview(out.reshape(-1)), image.offset + rows.start * row
        while left:
            count = os.preadv(descriptor, [left], position)
            left, position = left[count:], position + count
        return out

    try:
        yield _lazy(read_rows, (image.shape[0], row), np.dtype(np.uint8), chunk_rows)
    finally:
        os.close(descriptor)


@contextmanager
def _astropy(image: ImageFile, chunk_rows: int) -> Iterator[da.Array]:
    """Yield copies of the memory map in native byte order, or of astropy's scaled values."""
    with fits.open(image.path) as hdus:
        hdu = hdus[0]
        mapped = None if image.is_scaled else hdu.data

        def read_rows(rows: slice) -> npt.NDArray:
            if mapped is not None:
                return mapped[rows].astype(image.dtype)
            return hdu.data if chunk_rows >= image.shape[0] else hdu.section[rows]

        yield _lazy(read_rows, image.shape, image.dtype, chunk_rows)


@contextmanager
def _fitsio(image: ImageFile, chunk_rows: int) -> Iterator[da.Array]:
    """Yield what a handle for each chunk reads: threads cannot share one."""

    def read_rows(rows: slice) -> npt.NDArray:
        with fitsio.FITS(image.path) as hdus:
            found = hdus[0].read() if chunk_rows >= image.shape[0] else hdus[0][rows, :]
        return found.astype(image.dtype, copy=False)

    yield _lazy(read_rows, image.shape, image.dtype, chunk_rows)


CONTENDERS: dict[str, Contender] = {
    "dask_fits": _ours,
    "floor": _floor,
    "astropy": _astropy,
    "fitsio": _fitsio,
}


@dataclass(frozen=True, slots=True)
class _Rows:
    """An array-like for Dask over a function that reads rows."""

    read_rows: ReadRows
    shape: tuple[int, int]
    dtype: np.dtype
    ndim: int = 2

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray:
        return self.read_rows(key[0])


def _lazy(
    read_rows: ReadRows, shape: tuple[int, int], dtype: np.dtype, chunk_rows: int
) -> da.Array:
    rows = _Rows(read_rows, shape, dtype)
    meta = np.empty((0, 0), dtype)
    return da.from_array(rows, (chunk_rows, -1), name=False, inline_array=True, meta=meta)
