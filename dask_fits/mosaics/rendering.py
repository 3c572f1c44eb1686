"""Making a box of a mosaic: images are placed, read ahead of their turn, resampled and combined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dask_fits.concurrency.busyness import BusyMeter
from dask_fits.concurrency.cancellation import raise_if_cancelled, threads
from dask_fits.exceptions import FitsError, result_or_error
from dask_fits.mosaics.combiners import Combiner, Products, block_shape, combiner_for
from dask_fits.mosaics.job import Job, Product, Recipe
from dask_fits.mosaics.layers import Pixels, layers, read_pixels
from dask_fits.mosaics.outlines import Box
from dask_fits.mosaics.placement import Placement, Placer
from dask_fits.planning.chunks import ReadPlan
from dask_fits.wcs.quiet import filters_kept, quiet

READS = 16
"""Images that are read at the same time, at most."""

AHEAD_BYTES = 64 * 1024 * 1024
"""Bytes of pixels that are read ahead of their turn, but for those of one image."""


@dataclass(frozen=True, slots=True, eq=False)
class Rendered:
    """The pixels of a box of a mosaic."""

    products: Products
    errors: dict[int, FitsError]
    """Errors of images that were left out, by their row in the mosaic's table."""


def render(job: Job, box: Box) -> Rendered:
    """Make a box of a mosaic.

    Parameters
    ----------
    job : Job
    box : Box
        Rows and columns of the output.

    Raises
    ------
    FitsError
        An image cannot be read, and is not to be left out.
    """
    with filters_kept(), quiet():  # of astropy, whenever a WCS is copied
        return _render(job, box)


def _render(job: Job, box: Box) -> Rendered:
    """Make a box of a mosaic; see `render`."""
    shape = _size(box)
    recipe = job.recipe
    products = _empty(recipe, shape)
    errors: dict[int, FitsError] = {}
    for block in _blocks(box, block_shape(recipe, shape, len(job.inputs))):
        at = tuple(
            slice(begin - start, end - start)
            for (begin, end), (start, _) in zip(block, box, strict=True)
        )
        for name, pixels in _render_block(job, block, errors).items():
            _store(products[name], at, pixels, recipe.fill_value if name == "data" else np.nan)
    return Rendered(products, errors)


def plan_box(job: Job, box: Box) -> ReadPlan:
    """Plan the reads that making a box takes; reads nothing but tables of compressed images."""
    plans: list[ReadPlan] = []
    with filters_kept(), quiet():
        for block in _blocks(box, block_shape(job.recipe, _size(box), len(job.inputs))):
            for _, placement in _placements(job, block, {}):
                plans.extend(placement.plans())
    return ReadPlan.of_chunks(plans)


def find_used(job: Job, pixel: tuple[int, int]) -> list[int]:
    """Return the rows of the images that a pixel is made of."""
    box = ((pixel[0], pixel[0] + 1), (pixel[1], pixel[1] + 1))
    combiner = combiner_for(job.recipe, (1, 1), len(job.inputs), noted=True)
    with filters_kept(), quiet():
        _combine(combiner, job, box, {})
    used = combiner.used()
    if used is None:
        return []
    return [job.inputs[position].number for position in np.flatnonzero(used[:, 0, 0]).tolist()]


def _render_block(job: Job, block: Box, errors: dict[int, FitsError]) -> Products:
    """Make a block, as numbers with all of their digits."""
    return _combine(combiner_for(job.recipe, _size(block), len(job.inputs)), job, block, errors)


def _combine(combiner: Combiner, job: Job, block: Box, errors: dict[int, FitsError]) -> Products:
    """Put the layers of all images on a block into a combiner, and return what it makes of them."""
    for position, placement, pixels in _read_ahead(job, block, errors):
        for layer in layers(placement, pixels, job.recipe):
            combiner.add(position, layer)
    return combiner.products()


def _placements(
    job: Job, block: Box, errors: dict[int, FitsError]
) -> Iterator[tuple[int, Placement]]:
    """Yield where the images are on a block, with their positions among the job's."""
    placer = Placer(job.text, job.grid(), job.recipe)
    for position in job.inputs_of(block).tolist():
        raise_if_cancelled()
        item, outline = job.inputs[position], job.outlines.boxes[position]
        placement = result_or_error(partial(placer.place, item, outline, block))
        if isinstance(placement, FitsError):
            _note(placement, item.number, job.recipe, errors)
        elif placement is not None:
            yield position, placement


def _read_ahead(
    job: Job, block: Box, errors: dict[int, FitsError]
) -> Iterator[tuple[int, Placement, Pixels]]:
    """Yield the images of a block as they are read, in order.

    Where reading takes waiting, some are read ahead of their turn. Pixels of a mounted disk are
    mostly at hand: other threads would take time of Dask's own, and pass Python's lock around.
    """
    waiting: deque[_Waiting] = deque()
    meter = BusyMeter()
    as_stored = job.recipe.is_whole

    def read(placement: Placement) -> Pixels | FitsError:
        raise_if_cancelled()
        return result_or_error(lambda: read_pixels(placement, as_stored=as_stored))

    def read_here(placement: Placement) -> Pixels | FitsError:
        with meter:
            return read(placement)

    def take() -> Iterator[tuple[int, Placement, Pixels]]:
        position, placement, read = waiting.popleft()
        pixels = next(read)
        if isinstance(pixels, FitsError):
            _note(pixels, placement.input.number, job.recipe, errors)
        else:
            yield position, placement, pixels

    with threads(READS) as run:
        for position, placement in _placements(job, block, errors):
            if placement.is_on_disk and not meter.has_waited:
                waiting.append(_Waiting(position, placement, map(read_here, [placement])))
                while waiting:
                    yield from take()
                continue
            while waiting and (
                len(waiting) >= READS
                or sum(each.placement.nbytes for each in waiting) + placement.nbytes > AHEAD_BYTES
            ):
                yield from take()
            waiting.append(_Waiting(position, placement, run(read, [placement])))
        while waiting:
            yield from take()


class _Waiting(NamedTuple):
    """An image of a block that is being read, or is read when it is taken."""

    position: int
    placement: Placement
    read: Iterator[Pixels | FitsError]


def _note(error: FitsError, number: int, recipe: Recipe, errors: dict[int, FitsError]) -> None:
    """Note the error of an image that is left out, or raise it."""
    if not recipe.skips:
        raise error
    errors.setdefault(number, error)


def _blocks(box: Box, shape: tuple[int, int]) -> Iterator[Box]:
    """Divide a box into blocks of at most a shape."""
    (top, bottom), (left, right) = box
    for y in range(top, bottom, max(shape[0], 1)):
        for x in range(left, right, max(shape[1], 1)):
            yield (y, min(y + shape[0], bottom)), (x, min(x + shape[1], right))


def _size(box: Box) -> tuple[int, int]:
    (top, bottom), (left, right) = box
    return bottom - top, right - left


def _empty(recipe: Recipe, shape: tuple[int, int]) -> dict[Product, npt.NDArray[Any]]:
    """Allocate the pixels of a box."""
    return {name: np.empty(shape, dtype) for name, dtype in product_types(recipe).items()}


def product_types(recipe: Recipe) -> dict[Product, np.dtype[Any]]:
    """Return the types of what a mosaic has: weights and errors are floats, as its pixels are."""
    floats = recipe.dtype if recipe.dtype.kind == "f" else np.dtype(np.float32)
    types: dict[Product, np.dtype[Any]] = {
        "data": recipe.dtype, "weight": floats, "count": np.dtype(np.int32)
    }  # fmt: skip
    return types | ({"error": floats} if recipe.has_errors else {})


def _store(
    target: npt.NDArray[Any], at: tuple[slice, ...], pixels: npt.NDArray[Any], fill_value: float
) -> None:
    """Store the pixels of a block as the mosaic's type; NaN becomes the fill value.

    So does NaN itself, whose sign says by what it was made.
    """
    if pixels.dtype.kind == "f":
        pixels[np.isnan(pixels)] = fill_value
    with np.errstate(over="ignore"):  # beyond float32 a number is infinite, as in NumPy
        target[at] = pixels
