"""Matching the backgrounds of overlapping images: a sample of the overlaps is read and compared."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.arrays.computations import compute_all
from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.exceptions import FitsError, result_or_error
from dask_fits.mosaics.job import Input, Recipe, output_grid
from dask_fits.mosaics.layers import read_pixels
from dask_fits.mosaics.offsets import Samples, pair_differences, solve_offsets
from dask_fits.mosaics.outlines import Box
from dask_fits.mosaics.placement import Placement
from dask_fits.mosaics.setup import Placed
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.mapping import PixelMap

_POINTS = 16_384
"""Points of the common grid that an image of mean size has, nearly."""

_STRIP_BYTES = 64 * 1024 * 1024
"""Bytes of pixels of an image that are held at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class _Lattice:
    """Points of the output that are compared: every `step`-th pixel along both axes."""

    step: int
    shape: tuple[int, int]
    """Points along y and x."""

    @classmethod
    def of(cls, boxes: Integers, shape: tuple[int, int]) -> _Lattice:
        """Make the points for boxes on an output: (n, 4), begin and end along y and x."""
        areas = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])
        mean = float(areas[areas > 0].mean()) if (areas > 0).any() else 1.0
        step = max(int((mean / _POINTS) ** 0.5), 1)
        return cls(step, (-(-shape[0] // step), -(-shape[1] // step)))

    def shared(self, boxes: Integers) -> Iterator[Integers]:
        """Yield the numbers of the points in each box that are in another one as well."""
        begins, ends = -(-boxes[:, [0, 2]] // self.step), -(-boxes[:, [1, 3]] // self.step)
        counts = np.zeros(self.shape, np.int32)
        for (top, left), (bottom, right) in zip(begins, ends, strict=True):
            counts[top:bottom, left:right] += 1
        for (top, left), (bottom, right) in zip(begins, ends, strict=True):
            rows, columns = np.nonzero(counts[top:bottom, left:right] > 1)
            yield (rows + top) * self.shape[1] + columns + left

    def pixels(self, points: Integers) -> npt.NDArray[np.float64]:
        """Return the pixels x, y of points, (2, n)."""
        rows, columns = np.divmod(points, self.shape[1])
        return np.stack([columns, rows]).astype(float) * self.step


def match(placed: Placed, text: WcsText, recipe: Recipe, reference: int | None) -> Placed:
    """Give images the constants by which they agree where they overlap.

    Computed in Dask's current scheduler. Each image is read once, where it overlaps others.

    Parameters
    ----------
    placed : Placed
    text : WcsText
        World coordinates of the output.
    recipe : Recipe
    reference : int or None
        Row of the image that stays as it is; by default the constants of images that hang together
        add up to zero.

    Raises
    ------
    ValueError
        The reference is none of the images.
    FitsError
        An image cannot be read, and is not to be left out.
    """
    numbers = [each.number for each in placed.inputs]
    if reference is not None and reference not in numbers:
        raise ValueError(f"match_background: found {reference}, expected the row of an image")
    height, width = text.shape
    boxes = placed.outlines.boxes_on((height, width))
    lattice = _Lattice.of(boxes, (height, width))
    name = f"fits-mosaic-sample-{uuid.uuid4().hex}"
    graph: dict[Any, Any] = {
        (name, position): (_sample, item, text, recipe, lattice, points)
        for position, (item, points) in enumerate(
            zip(placed.inputs, lattice.shared(boxes), strict=True)
        )
    }
    found = compute_all(name, graph, list(graph))
    samples = [_nothing() if isinstance(each, FitsError) else each for each in found]
    errors = [each for each in found if isinstance(each, FitsError)]
    if errors and not recipe.skips:
        raise errors[0]
    pairs = pair_differences(samples)
    chosen = None if reference is None else numbers.index(reference)
    offsets = solve_offsets(pairs, len(samples), chosen).offsets
    factors = [_factor(each, text, recipe) for each in placed.inputs]
    inputs = [
        replace(item, offset=float(offset / factor))
        for item, offset, factor in zip(placed.inputs, offsets, factors, strict=True)
    ]
    return replace(placed, inputs=inputs)


def _nothing() -> Samples:
    return Samples(np.empty(0, np.int64), np.empty(0))


def _factor(item: Input, text: WcsText, recipe: Recipe) -> float:
    """Return by what a pixel's value changes where flux is conserved: the ratio of areas."""
    if recipe.conserve == "surface brightness":
        return 1.0
    return output_grid(text).pixel_area / item.grid().pixel_area


def _sample(
    item: Input, text: WcsText, recipe: Recipe, lattice: _Lattice, points: Integers
) -> Samples | FitsError:
    """Read the pixels of an image that are nearest to points of the output."""
    sampled = result_or_error(lambda: _read_nearest(item, text, lattice, points))
    if isinstance(sampled, FitsError):
        return sampled
    values = sampled * _factor(item, text, recipe)
    known = np.isfinite(values)
    return Samples(points[known], values[known])


def _read_nearest(
    item: Input, text: WcsText, lattice: _Lattice, points: Integers
) -> npt.NDArray[np.float64]:
    """Return the pixels of an image at points of the output; NaN where it has none."""
    values = np.full(len(points), np.nan)
    if not len(points):
        return values
    way = PixelMap(output_grid(text), item.grid())
    x, y = way.positions(lattice.pixels(points))
    height, width = item.shape
    with np.errstate(invalid="ignore"):
        inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)
    rows, columns = (np.floor(along[inside] + 0.5).astype(int) for along in (y, x))
    found = np.full(len(rows), np.nan)
    for box in _strips(rows, columns):
        raise_if_cancelled()
        (top, bottom), (left, _) = box
        chosen = (rows >= top) & (rows < bottom)
        image = read_pixels(Placement(item, box, ())).image
        found[chosen] = image[rows[chosen] - top, columns[chosen] - left]
    values[inside] = found
    return values


def _strips(rows: Integers, columns: Integers) -> Iterator[Box]:
    """Divide the box around pixels into strips of rows that memory has room for."""
    if not len(rows):
        return
    left, right = int(columns.min()), int(columns.max()) + 1
    bottom = int(rows.max()) + 1
    length = max(_STRIP_BYTES // (8 * (right - left)), 1)
    for top in range(int(rows.min()), bottom, length):
        yield (top, min(top + length, bottom)), (left, right)
