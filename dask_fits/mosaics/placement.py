"""Where one image is on a block of a mosaic, and what is read of it for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.exceptions import FitsFormatError
from dask_fits.mosaics.job import Input, Recipe, Resampling
from dask_fits.mosaics.outlines import Box, touch
from dask_fits.mosaics.patch_cache import PATCHES
from dask_fits.planning.chunks import ReadPlan
from dask_fits.planning.selection import select
from dask_fits.readers.reader import HduReader
from dask_fits.resampling.positions import PATCH, Floats, Patch, Points, Reach
from dask_fits.resampling.search import find_positions
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.mapping import Grid, PixelMap, whole_shift

_REACH: dict[Resampling, int] = {"nearest": 1, "bilinear": 1, "lanczos3": 3, "exact": 1}
"""Pixels beside a position that a kernel may look at."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A rectangle of a block within one patch."""

    rows: slice
    columns: slice
    first: tuple[int, int]
    """Its first pixel, from the patch's first."""
    patch: Patch
    """Positions of its centres, or of its corners for exact areas."""
    corners: Patch | None
    """Positions of its corners, where the area of its pixels is needed besides."""

    def strips(self, count: int) -> Iterator[Part]:
        """Divide it into strips of so many rows, from its first on."""
        first = self.rows.start
        for start in range(first, self.rows.stop, count):
            rows = slice(start, min(start + count, self.rows.stop))
            at = (self.first[0] + start - first, self.first[1])
            yield replace(self, rows=rows, first=at)


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where one image is on a block of the output."""

    input: Input
    box: Box
    """Rows and columns of the image that are read."""
    parts: tuple[Part, ...]
    shift: tuple[int, int] | None = None
    """Where the block's first pixel is in the image, if the grids are whole pixels apart."""
    turn: tuple[float, float] = (0.0, 0.0)
    """Pixels of the image after which its map repeats itself."""
    scale: float = 1.0
    """Area of a pixel of the output, in pixels of the image, at the reference points."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes with what is read, nearly."""
        (top, bottom), (left, right) = self.box
        maps = sum(each is not None for each in (self.input.weights, self.input.errors))
        positions = sum(part.patch.found.nbytes for part in self.parts)
        stored, held = self.input.reader.dtype, self.input.dtype
        pixel = held.itemsize + (stored.itemsize if stored != held else 0) + 8 * maps
        return (bottom - top) * (right - left) * pixel + positions

    @property
    def is_on_disk(self) -> bool:
        """Whether all that is read of it is on a mounted disk."""
        return all(reader.store.block_size is not None for reader in self.readers())

    def plans(self) -> Iterator[ReadPlan]:
        """Plan the reads of the image and its maps."""
        for reader in self.readers():
            yield reader.plan(select(self._key(reader), reader.shape).indices)

    def readers(self) -> Iterator[HduReader]:
        """Yield the readers of the image and of its maps that are read."""
        yield self.input.reader
        for each in (self.input.weights, self.input.mask, self.input.errors):
            if each is not None and not isinstance(each.pixels, np.ndarray):
                yield each.pixels

    def _key(self, reader: HduReader) -> tuple[int | slice, ...]:
        """Return the key by which an image or a map of it is read."""
        key: list[int | slice] = [0] * reader.ndim
        for axis, (begin, end) in zip(self.input.axes, self.box, strict=True):
            key[axis] = slice(begin, end)
        return tuple(key)

    def read(self, reader: HduReader) -> npt.NDArray[Any]:
        """Read the box of an image, or of a map of it.

        Raises
        ------
        FitsError
            It cannot be read, or is of another shape than the image.
        """
        if reader.shape != self.input.reader.shape:
            raise FitsFormatError(
                f"{reader.where}: found an image of shape {reader.shape}, expected "
                f"{self.input.reader.shape} as of {self.input.where}, which it belongs to"
            )
        pixels: npt.NDArray[Any] = reader[self._key(reader)]
        return pixels


@dataclass(frozen=True, slots=True, eq=False)
class Placer:
    """Finds where images are on an output, for one thread."""

    text: WcsText
    """World coordinates of the output."""
    grid: Grid
    """The same as a grid."""
    recipe: Recipe

    def place(self, item: Input, outline: Floats, block: Box) -> Placement | None:
        """Find where an image is on a block of the output; None if it is not there.

        Parameters
        ----------
        item : Input
        outline : (4,) array
            The box of the output beyond which the image is not, as `Outlines` has it.
        block : Box
            Rows and columns of the output.

        Raises
        ------
        FitsFormatError
            There is no way from the output to the image.
        """
        grid = item.grid()
        shift = whole_shift(self.grid, grid)
        if shift is not None:
            return _paste(item, block, shift)
        way = PixelMap(self.grid, grid)
        points: Points = "corners" if self.recipe.resampling == "exact" else "centres"
        more = int(points == "corners")
        parts: list[Part] = []
        bounds: list[Reach] = []
        for number, low, high in _tiles(block):
            if not touch(outline, ((low[0], high[0]), (low[1], high[1]))):
                continue
            patch = self._patch(way, item, number, points)
            size = (high[0] - low[0] + more, high[1] - low[1] + more)
            first = (low[0] - number[0] * PATCH, low[1] - number[1] * PATCH)
            reach = None if patch is None else patch.reach(first, size)
            if patch is None or reach is None or (reach.end - more <= reach.begin).any():
                continue
            corners = self._patch(way, item, number, "corners") if self._needs_areas else None
            parts.append(_part(block, number, reach, more, patch, corners))
            bounds.append(reach)
        box = _box(bounds, item.shape, _REACH[self.recipe.resampling]) if bounds else None
        if box is None:
            return None
        turn = way.turn if points == "corners" else (0.0, 0.0)
        return Placement(item, box, tuple(parts), turn=turn, scale=way.scale)

    @property
    def _needs_areas(self) -> bool:
        """Whether areas of pixels are needed besides their centres."""
        return self.recipe.conserve == "flux" and self.recipe.resampling != "exact"

    def _patch(
        self, way: PixelMap, item: Input, number: tuple[int, int], points: Points
    ) -> Patch | None:
        """Find the positions of a patch, or take those that this process has found before."""
        key = (self.text, item.wcs, item.shape, number, points)
        return PATCHES.get(key, lambda: find_positions(way, number, points))


def _paste(item: Input, block: Box, shift: tuple[int, int]) -> Placement | None:
    """Find where an image is whose pixels are those of the output."""
    start = (block[0][0] + shift[0], block[1][0] + shift[1])
    box = tuple(
        (max(begin, 0), min(begin + high - low, length))
        for begin, (low, high), length in zip(start, block, item.shape, strict=True)
    )
    if any(begin >= end for begin, end in box):
        return None
    return Placement(item, (box[0], box[1]), (), shift=start)


def _part(
    block: Box,
    number: tuple[int, int],
    reach: Reach,
    more: int,
    patch: Patch,
    corners: Patch | None,
) -> Part:
    """Make the part of a block that a patch covers; `more` are the corners beyond the pixels."""
    begin = reach.begin.tolist()
    end = (reach.end - more).tolist()
    starts = [at * PATCH - start for at, (start, _) in zip(number, block, strict=True)]
    rows, columns = (
        slice(low + start, high + start)
        for low, high, start in zip(begin, end, starts, strict=True)
    )
    return Part(rows, columns, (begin[0], begin[1]), patch, corners)


def _tiles(
    block: Box,
) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
    """Divide a block by patches: the number of each, its first pixel and that after its last."""
    (top, bottom), (left, right) = block
    for y in range(top // PATCH, -(-bottom // PATCH)):
        for x in range(left // PATCH, -(-right // PATCH)):
            low = (max(top, y * PATCH), max(left, x * PATCH))
            high = (min(bottom, (y + 1) * PATCH), min(right, (x + 1) * PATCH))
            yield (y, x), low, high


def _box(bounds: list[Reach], shape: tuple[int, int], reach: int) -> Box | None:
    """Return the rows and columns of an image that positions within bounds need."""
    low = np.min([each.low for each in bounds], axis=0)[::-1]
    high = np.max([each.high for each in bounds], axis=0)[::-1]
    begin = np.clip(np.floor(low) - reach, 0, shape).astype(int).tolist()
    end = np.clip(np.ceil(high) + reach + 1, 0, shape).astype(int).tolist()
    if begin[0] >= end[0] or begin[1] >= end[1]:
        return None
    return (begin[0], end[0]), (begin[1], end[1])
