"""Files that are uploaded in parts: each byte once, whatever chunks, parts and HDUs there are."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_fits import Image, StorageError
from dask_fits.storage.sink import Attempt, Piece, Receipt, check_receipts
from dask_fits.writing import graph, pixels
from dask_fits.writing.contents import contents_of
from dask_fits.writing.execution import write_file
from dask_fits.writing.file_plan import FilePlan
from dask_fits.writing.tasks import ByteSpan, write_part

TYPES = ("u1", "i2", "u2", "i4", "f4", "f8")


@dataclass(frozen=True)
class Parts:
    """A sink in memory that takes whole parts, each once."""

    length: int
    taken: dict[int, bytes] = field(default_factory=dict)
    name: str = "parts"

    def part_size(self, size: int) -> int:
        return self.length

    def begin(self, size: int) -> Attempt:
        return Attempt("token", "place", size, self.length, "host")

    def write(self, attempt: Attempt, pieces: Iterable[Piece]) -> list[Receipt]:
        receipts = []
        for start, piece in pieces:
            assert start % self.length == 0
            assert len(piece) == min(self.length, attempt.size - start)
            assert start not in self.taken
            self.taken[start] = bytes(piece)  # its memory is used again
            receipts.append(Receipt("token", start, len(piece)))
        return receipts

    def commit(self, attempt: Attempt, receipts: Sequence[Receipt]) -> None:
        check_receipts(self.name, attempt, receipts)

    def abort(self, attempt: Attempt) -> None:
        raise AssertionError

    @property
    def content(self) -> bytes:
        return b"".join(self.taken[start] for start in sorted(self.taken))


@st.composite
def images(draw: st.DrawFn) -> Image:
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    shape[0] *= draw(st.integers(1, 30 // len(shape) ** 2))
    dtype = draw(st.sampled_from(TYPES))
    values = (np.arange(math.prod(shape)) * 37 % 251).astype(dtype).reshape(shape)
    chunks = tuple(draw(st.integers(1, length)) for length in shape)
    return Image(da.from_array(values, chunks=chunks))


@given(
    st.lists(st.one_of(images(), images(), st.just(Image(None))), min_size=1, max_size=4),
    st.sampled_from([360, 1000, 2880, 4096, 8192, 20000]),
    st.sampled_from([0, 1, 3]),
    st.sampled_from([64, 1000, 1 << 20]),
)
@settings(deadline=None, max_examples=60)
def test_each_byte_once(hdus: list[Image], part: int, parts: int, piece: int) -> None:
    sink = Parts(part)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(graph, "_LEAST_BAND", parts * part)
        patch.setattr(pixels, "_PIECE", piece)
        plan = FilePlan.of(contents_of(hdus, sink.name, checksum=True))
        write_file(plan, sink, scheduler="sync")
        warnings.simplefilter("error")  # a check sum that is wrong
        with fits.open(io.BytesIO(sink.content), checksum=True) as file:
            for hdu, image in zip(file, hdus, strict=True):
                expected: Any = image.array if image.array is None else image.array.compute()
                np.testing.assert_array_equal(hdu.data, expected)


def test_a_part_of_which_bytes_are_missing() -> None:
    sink = Parts(100)
    attempt = sink.begin(300)
    pieces = [(90, b"a" * 40), (130, b"b" * 60)]
    with pytest.raises(StorageError, match="bytes 100 to 200: found 90 bytes, expected 100"):
        write_part(sink, attempt, ByteSpan(100, 200), 100, pieces)
    assert sink.taken == {}
    write_part(sink, attempt, ByteSpan(100, 200), 90, pieces)  # the rest is padding
    assert sink.taken[100] == b"a" * 30 + b"b" * 60 + bytes(10)
