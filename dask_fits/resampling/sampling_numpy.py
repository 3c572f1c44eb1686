"""Sampling without numba: what an image is at positions between its pixels.

The functions are those of `dask_fits.resampling.sampling`, and described there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.resampling.areas_numpy import area

__all__ = ["area", "bilinear", "interpolate", "lanczos3", "nearest"]

Floats: TypeAlias = npt.NDArray[np.float64]
Booleans: TypeAlias = npt.NDArray[np.bool_]
Image: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Pair: TypeAlias = tuple[int, int]

SNAP = 1e-7
"""Pixels by which a position may miss a whole pixel, and be that pixel: what comes of rounding must
not bring in a neighbour, which may be NaN."""

_BLOCK = 1 << 14
"""Points that are worked on at a time, so that they stay in cache."""

_Weigh: TypeAlias = Callable[[Floats, int], tuple[Integers, Floats]]
"""Takes positions along an axis and its length; returns the first pixel of each, (n,), and the
weights of this and the next ones, (taps, n)."""


@lru_cache(maxsize=16)
def cubic_weights(step: int) -> Floats:
    """Return the weights of four nodes, (4, step + 1), for the points from the second to the third.

    They are exactly 1 and 0 at these two.
    """
    t = np.arange(step + 1) / step
    weights = np.array(
        [
            -t * (t - 1.0) * (t - 2.0) / 6.0,
            (t + 1.0) * (t - 1.0) * (t - 2.0) / 2.0,
            -(t + 1.0) * t * (t - 2.0) / 2.0,
            (t + 1.0) * t * (t - 1.0) / 6.0,
        ]
    )
    weights.flags.writeable = False
    return weights


def check_points(
    nodes: Floats, step: int, cells: npt.NDArray[Any], first: Pair, out: Floats
) -> None:
    """Raise a ValueError if there are points beside the cells, or cells beside the nodes."""
    for axis in (0, 1):
        if cells.shape[axis] < 1 or nodes.shape[1 + axis] < cells.shape[axis] + 4:
            raise ValueError(f"nodes of {nodes.shape=} do not surround cells of {cells.shape=}")
        end = first[axis] + out.shape[1 + axis]
        if first[axis] < 0 or end > cells.shape[axis] * step + 1:
            raise ValueError(f"{out.shape=} from {first=} on is not within {cells.shape=}, {step=}")


def check_positions(positions: Floats, out: Floats) -> None:
    """Raise a ValueError if there is not a position for each point."""
    if positions.shape != (2, *out.shape):
        raise ValueError(f"{positions.shape=} is not (2, height, width) of {out.shape=}")


def interpolate(
    nodes: Floats, step: int, cells: npt.NDArray[Any], first: Pair, out: Floats
) -> None:
    """Fill in the positions of points between nodes."""
    check_points(nodes, step, cells, first, out)
    weights = cubic_weights(step)
    rows = first[0] + np.arange(out.shape[1])
    columns = first[1] + np.arange(out.shape[2])
    cell_rows = np.minimum(rows // step, cells.shape[0] - 1)
    cell_columns = np.minimum(columns // step, cells.shape[1] - 1)
    down = weights[:, rows - cell_rows * step]
    across = weights[:, columns - cell_columns * step]
    used = cells.astype(bool)
    for cell_row in np.unique(cell_rows):
        here = np.flatnonzero(cell_rows == cell_row)
        part = slice(here[0], here[-1] + 1)
        wanted = np.broadcast_to(used[cell_row, cell_columns], (len(here), len(columns)))
        if not wanted.any():
            continue
        with np.errstate(invalid="ignore"):  # in cells that are not wanted
            lines = _weighted(
                *(nodes[:, cell_row + 1 + q, np.newaxis] for q in range(4)),
                weights=down[:, part, np.newaxis],
            )
            points = _weighted(
                *(lines[:, :, cell_columns + 1 + q] for q in range(4)), weights=across
            )
        np.copyto(out[:, part], points, where=wanted)


def _weighted(a: Floats, b: Floats, c: Floats, d: Floats, *, weights: Floats) -> Floats:
    """Return the weighted sum, added up in the order in which the compiled kernel does it."""
    total: Floats = weights[0] * a + weights[1] * b + weights[2] * c + weights[3] * d
    return total


def nearest(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Take the pixel that a position is in."""
    return _sample(src, origin, shape, positions, out, _weigh_nearest, squared)


def bilinear(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Interpolate linearly between the centres of pixels."""
    return _sample(src, origin, shape, positions, out, _weigh_bilinear, squared)


def lanczos3(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Interpolate with Lanczos' kernel of six pixels along each axis."""
    return _sample(src, origin, shape, positions, out, _weigh_lanczos3, squared)


def _weigh_nearest(x: Floats, size: int) -> tuple[Integers, Floats]:
    """Weigh the one pixel that counts."""
    return np.minimum(np.floor(x + 0.5).astype(np.int64), size - 1), np.ones((1, len(x)))


def _weigh_bilinear(x: Floats, size: int) -> tuple[Integers, Floats]:
    """Weigh two pixels."""
    whole, part = _split(np.clip(x, 0.0, size - 1.0))
    return whole, np.array([1.0 - part, part])


def _weigh_lanczos3(x: Floats, size: int) -> tuple[Integers, Floats]:
    """Weigh six pixels; those beyond the image give their weights to the outer one."""
    whole, part = _split(x)
    sine, cosine = np.sin(part * (math.pi / 3)), np.cos(part * (math.pi / 3))
    # All sines of the kernel, by the addition theorem; a factor that all have in common is left out
    b = -0.5 * sine + math.sqrt(0.75) * cosine
    c = -0.5 * sine - math.sqrt(0.75) * cosine
    distances = part + np.arange(2.0, -4.0, -1.0)[:, np.newaxis]
    with np.errstate(invalid="ignore"):
        weights = np.array([b, c, sine, b, c, sine]) / (distances * distances)
    weights[:, part == 0.0] = [[0.0], [0.0], [1.0], [0.0], [0.0], [0.0]]
    total = np.zeros_like(part)
    for weight in weights:
        total += weight
    weights /= total
    _fold(weights, whole - 2, size)
    return whole - 2, weights


def _split(x: Floats) -> tuple[Integers, Floats]:
    """Return the whole pixels, and the parts of a pixel beyond them."""
    whole = np.floor(x)
    part = x - whole
    above = part > 1.0 - SNAP
    part[above | (part < SNAP)] = 0.0
    return whole.astype(np.int64) + above, part


def _fold(weights: Floats, first: Integers, size: int) -> None:
    """Add the weights of pixels beyond the image to those of the outer ones."""
    low, high = np.maximum(-first, 0), np.minimum(size - 1 - first, len(weights) - 1)
    for tap, weight in enumerate(weights):
        beyond = np.flatnonzero((tap < low) | (tap > high))
        weights[np.clip(tap, low, high)[beyond], beyond] += weight[beyond]
        weight[beyond] = 0.0


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Divide an array of points into blocks of whole rows."""
    rows = max(1, _BLOCK // max(1, shape[1]))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _sample(
    src: Image,
    origin: Pair,
    shape: Pair,
    positions: Floats,
    out: Floats,
    weigh: _Weigh,
    squared: bool,
) -> int:
    """Fill `out` with weighted sums of pixels; return how many of them need others than `src`."""
    check_positions(positions, out)
    missing = 0
    for rows in _blocks(out.shape):
        x, y = positions[0, rows], positions[1, rows]
        covered = (x >= -0.5) & (x <= shape[1] - 0.5) & (y >= -0.5) & (y <= shape[0] - 0.5)
        columns, across = weigh(x[covered], shape[1])
        lines, down = weigh(y[covered], shape[0])
        columns -= origin[1]
        lines -= origin[0]
        outside = _outside(columns, across, src.shape[1]) | _outside(lines, down, src.shape[0])
        if squared:
            across, down = across * across, down * down
        values = _sum_up(src, lines, columns, down, across)
        values[outside] = np.nan
        missing += int(np.count_nonzero(outside))
        block = out[rows]
        block[...] = np.nan
        block[covered] = values
    return missing


def _outside(first: Integers, weights: Floats, size: int) -> Booleans:
    """Tell which points have a pixel with a weight that is beyond the box, along one axis."""
    outside = np.zeros(len(first), bool)
    for tap, weight in enumerate(weights):
        outside |= (weight != 0.0) & ((first + tap < 0) | (first + tap >= size))
    return outside


def _sum_up(src: Image, lines: Integers, columns: Integers, down: Floats, across: Floats) -> Floats:
    """Return the weighted sums of pixels; those that have no weight do not count, even if NaN."""
    values = np.zeros(len(lines))
    if src.size == 0:  # clipping needs a pixel to clip to
        return values
    with np.errstate(invalid="ignore", over="ignore"):
        for r, down_weight in enumerate(down):
            line = np.zeros(len(lines))
            row = np.clip(lines + r, 0, src.shape[0] - 1) * src.shape[1]
            for q, weight in enumerate(across):
                pixels = src.ravel()[row + np.clip(columns + q, 0, src.shape[1] - 1)]
                line += np.where(weight != 0.0, weight * pixels, 0.0)
            values += np.where(down_weight != 0.0, down_weight * line, 0.0)
    return values
