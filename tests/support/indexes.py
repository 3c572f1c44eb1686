"""Indexes of gzip files that are small enough for tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from dask_fits.ranges.byte_range import ByteRange
from dask_fits.storage import index_file, indexed, packed
from dask_fits.storage.store import Store
from dask_fits.streams import gzip_index

SPACING = 64 * 1024
"""Bytes between points, instead of 4 MiB."""


def make_points_dense(monkeypatch: pytest.MonkeyPatch, spacing: int = SPACING) -> None:
    """Let points be as near to each other as this."""
    monkeypatch.setattr(gzip_index.IndexingDecoder.__init__, "__defaults__", (spacing,))
    # Long enough for two stored blocks.
    monkeypatch.setattr(gzip_index, "_SLICE", max(spacing, 132_000))
    gaps = replace(indexed._GAPS, small_gap=spacing, max_gap=spacing, max_bridged=16 * spacing)
    monkeypatch.setattr(indexed, "_GAPS", gaps)


def forget() -> None:
    """Know no more of packed files than a new process does."""
    index_file.INDEXES._loaded.clear()
    packed.FILES._files.clear()


def read(store: Store, *ranges: tuple[int, int], whole: bool = False) -> list[bytes]:
    """The bytes of ranges of a store."""
    return list(_read(store, [ByteRange(*pair) for pair in ranges], whole=whole))


def _read(store: Store, ranges: Sequence[ByteRange], *, whole: bool) -> Iterator[bytes]:
    found: dict[int, bytearray] = {byte_range.start: bytearray() for byte_range in ranges}
    assert len(found) == len(ranges)
    for start, data in store.read_ranges(ranges, whole=whole):
        for byte_range in ranges:
            content = found[byte_range.start]
            if start == byte_range.start + len(content) and len(content) < byte_range.nbytes:
                content += data
                break
        else:
            raise AssertionError(f"a piece at {start} that was not asked for")
    for byte_range in ranges:
        yield bytes(found[byte_range.start])
