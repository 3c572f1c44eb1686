"""Sampling: what an image is at positions between its pixels. Compiled.

Pixels of an input image count from 0, x along its rows; the centre of a pixel is at whole numbers,
and an image of n pixels covers -0.5 to n - 0.5. All functions that sample one take

src : (h, w) float32 or float64 array, C-contiguous
    The pixels of a box of it. NaN is no value.
origin : (int, int)
    Row and column of the box's first pixel in the image.
shape : (int, int)
    Rows and columns of the image.
squared : bool
    Whether values are multiplied by the squares of their weights, as variances are.

and return how many points need a pixel of the image that is not in the box. Such points are NaN;
it is up to the caller that there are none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Bytes
from dask_fits.compiled import Scalar, kernel
from dask_fits.resampling.areas import area
from dask_fits.resampling.sampling_numpy import (
    SNAP,
    Floats,
    Image,
    Pair,
    check_points,
    check_positions,
    cubic_weights,
)

__all__ = ["area", "bilinear", "interpolate", "lanczos3", "nearest"]

_READ = "Array({}, 2, '{}', readonly=True)"
_FLOATS = _READ.format("float64", "A")
_INTERPOLATE = (
    f"void({_FLOATS}, int64, {_READ.format('uint8', 'C')}, {_READ.format('float64', 'C')},"
    " int64, int64, Array(float64, 2, 'A'))"
)
_SAMPLE = [
    f"int64({_READ.format(image, 'C')}, int64, int64, int64, int64,"
    f" {_FLOATS}, {_FLOATS}, Array(float64, 2, 'A'), boolean)"
    for image in ("float32", "float64")
]
_TURN = math.pi / 3
_ROOT = math.sqrt(0.75)


def interpolate(
    nodes: Floats, step: int, cells: npt.NDArray[np.bool_] | Bytes, first: Pair, out: Floats
) -> None:
    """Fill in the positions of points between nodes, with cubics through four nodes each way.

    The position of a point depends on the 16 nodes around it alone, to the bit, not on which points
    are asked for; at a node it is the node's.

    Parameters
    ----------
    nodes : (2, m, n) float64 array
        x and y at the nodes, one every `step` points. The node at ``[:, 2 + k, 2 + l]`` is that of
        the point (k * step, l * step) of the patch: two come before the first point.
    step : int
        Points from one node to the next.
    cells : (k, l) bool or uint8 array
        Whether the points between four nodes are wanted. Others are left as they are. The points
        on the patch's last edges, where no cell begins, belong to the last cells.
    first : (int, int)
        Row and column in the patch of the first point that is filled in.
    out : (2, h, w) float64 array
        x and y of the points from there on.

    Raises
    ------
    ValueError
        There are points beyond the cells, or cells with fewer nodes around than they need.
    """
    check_points(nodes, step, cells, first, out)
    used = np.ascontiguousarray(cells, np.uint8)
    weights = cubic_weights(step)
    for axis in (0, 1):
        _interpolate(nodes[axis], step, used, weights, first[0], first[1], out[axis])


@kernel()
def _weighted(nodes: Floats, row: int, column: int, weights: Floats) -> Scalar:
    """Return the weighted sum of four nodes, one below the other."""
    return (
        weights[0] * nodes[row, column]
        + weights[1] * nodes[row + 1, column]
        + weights[2] * nodes[row + 2, column]
        + weights[3] * nodes[row + 3, column]
    )


@kernel(_INTERPOLATE)
def _interpolate(
    nodes: Floats, step: int, cells: Bytes, weights: Floats, y0: int, x0: int, out: Floats
) -> None:
    """Interpolate one coordinate; see `interpolate`. `weights` are those of `cubic_weights`."""
    height, width = out.shape
    last_row, last_column = cells.shape[0] - 1, cells.shape[1] - 1
    for j in range(height):
        k = min((y0 + j) // step, last_row)
        down = weights[:, y0 + j - k * step]
        i = 0
        while i < width:
            cell = min((x0 + i) // step, last_column)
            stop = width if cell == last_column else min(width, (cell + 1) * step - x0)
            if cells[k, cell]:
                # Down to the row at the four nodes along it, then along the row.
                a = _weighted(nodes, k + 1, cell + 1, down)
                b = _weighted(nodes, k + 1, cell + 2, down)
                c = _weighted(nodes, k + 1, cell + 3, down)
                d = _weighted(nodes, k + 1, cell + 4, down)
                first = cell * step - x0
                for q in range(i, stop):
                    t = q - first
                    out[j, q] = (
                        weights[0, t] * a
                        + weights[1, t] * b
                        + weights[2, t] * c
                        + weights[3, t] * d
                    )
            i = stop


def nearest(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Take the pixel that a position is in; between two pixels it is the upper one.

    Parameters
    ----------
    src, origin, shape, squared
        As for all functions of this module; the weight is 1, squared or not.
    positions : (2, h, w) float64 array
        x and y of each point, NaN if it has none. Points beside the image are not covered.
    out : (h, w) float64 array
        Filled with the values; NaN where the point is not covered, or has a weight on a NaN.
    """
    return _run(_nearest, src, origin, shape, positions, out, squared)


def bilinear(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Interpolate linearly between the centres of pixels; beyond the outer ones nothing changes.

    A position within `SNAP` of a pixel's centre along an axis is there: pixels beside it have no
    weight, and may be NaN.

    Parameters
    ----------
    src, origin, shape, squared
        As for all functions of this module.
    positions, out
        As for `nearest`.
    """
    return _run(_bilinear, src, origin, shape, positions, out, squared)


def lanczos3(
    src: Image, origin: Pair, shape: Pair, positions: Floats, out: Floats, *, squared: bool = False
) -> int:
    """Interpolate with Lanczos' kernel of six pixels along each axis, whose weights add up to 1.

    Beyond the image its outer pixels go on: they have all of the weights there. Positions near
    centres are as for `bilinear`.

    Parameters
    ----------
    src, origin, shape, squared
        As for all functions of this module.
    positions, out
        As for `nearest`.
    """
    return _run(_lanczos3, src, origin, shape, positions, out, squared)


def _run(
    sample: Callable[..., Any],
    src: Image,
    origin: Pair,
    shape: Pair,
    positions: Floats,
    out: Floats,
    squared: bool,
) -> int:
    """Run a kernel, if there is a position for each point."""
    check_positions(positions, out)
    y0, x0 = origin
    ny, nx = shape
    return int(sample(src, y0, x0, ny, nx, positions[0], positions[1], out, squared))


@kernel()
def _is_covered(x: float, y: float, ny: int, nx: int) -> Scalar:
    """Tell whether a position is on the image; NaN is not."""
    return x >= -0.5 and x <= nx - 0.5 and y >= -0.5 and y <= ny - 0.5


@kernel()
def _split(x: float) -> Scalar:
    """Return the whole pixels of a position, and the part of a pixel beyond them."""
    whole = math.floor(x)
    part = x - whole
    if part < SNAP:
        return whole, 0.0
    if part > 1.0 - SNAP:
        return whole + 1, 0.0
    return whole, part


@kernel(*_SAMPLE)
def _nearest(
    src: Image,
    y0: int,
    x0: int,
    ny: int,
    nx: int,
    xs: Floats,
    ys: Floats,
    out: Floats,
    _squared: bool,
) -> Scalar:
    """Sample; see `nearest`."""
    missing = 0
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = xs[j, i]
            y = ys[j, i]
            out[j, i] = np.nan
            if _is_covered(x, y, ny, nx):
                column = min(math.floor(x + 0.5), nx - 1) - x0
                row = min(math.floor(y + 0.5), ny - 1) - y0
                if 0 <= row < src.shape[0] and 0 <= column < src.shape[1]:
                    out[j, i] = src[row, column]
                else:
                    missing += 1
    return missing


@kernel()
def _between(line: Image, column: int, left: float, right: float) -> Scalar:
    """Return the weighted sum of a pixel and the next one, which does not count if weighted 0."""
    if right > 0.0:
        return left * line[column] + right * line[column + 1]
    return left * line[column]


@kernel(*_SAMPLE)
def _bilinear(
    src: Image,
    y0: int,
    x0: int,
    ny: int,
    nx: int,
    xs: Floats,
    ys: Floats,
    out: Floats,
    squared: bool,
) -> Scalar:
    """Sample; see `bilinear`."""
    missing = 0
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = xs[j, i]
            y = ys[j, i]
            out[j, i] = np.nan
            if not _is_covered(x, y, ny, nx):
                continue
            column, right = _split(min(max(x, 0.0), nx - 1.0))
            row, below = _split(min(max(y, 0.0), ny - 1.0))
            column -= x0
            row -= y0
            last_column = column + 1 if right > 0.0 else column
            last_row = row + 1 if below > 0.0 else row
            if row < 0 or column < 0 or last_row >= src.shape[0] or last_column >= src.shape[1]:
                missing += 1
                continue
            left, above = 1.0 - right, 1.0 - below
            if squared:
                left, right, above, below = left**2, right**2, above**2, below**2
            value = above * _between(src[row], column, left, right)
            if below > 0.0:
                value += below * _between(src[row + 1], column, left, right)
            out[j, i] = value
    return missing


@kernel()
def _weigh_lanczos3(x: float, size: int, squared: bool, weights: Floats) -> Scalar:
    """Fill in the weights of six pixels; return the first one, and which count: from, up to.

    The kernel is sin(pi t) sin(pi t / 3) / t**2 at the distances t. The first factor is the same
    for all of the pixels but for its sign, and goes out when they are divided by their sum.
    """
    whole, part = _split(x)
    first = whole - 2
    if part == 0.0:
        weights[2] = 1.0
        return first, 2, 3
    # The second factor: sines of angles that are thirds of pi apart.
    sine, cosine = math.sin(part * _TURN), math.cos(part * _TURN)
    weights[0] = weights[3] = -0.5 * sine + _ROOT * cosine
    weights[1] = weights[4] = -0.5 * sine - _ROOT * cosine
    weights[2] = weights[5] = sine
    total = 0.0
    for tap in range(6):
        distance = part + (2.0 - tap)
        weights[tap] /= distance * distance
        total += weights[tap]
    inverse = 1.0 / total
    for tap in range(6):
        weights[tap] *= inverse
    # Pixels beyond the image give their weights to the outer ones.
    low, high = max(0, -first), min(5, size - 1 - first)
    for tap in range(low):
        weights[low] += weights[tap]
    for tap in range(high + 1, 6):
        weights[high] += weights[tap]
    if squared:
        for tap in range(low, high + 1):
            weights[tap] *= weights[tap]
    return first, low, high + 1


@kernel(inline="always")
def _sum_up(
    src: Image,
    row: int,
    column: int,
    top: int,
    bottom: int,
    left: int,
    right: int,
    down: Floats,
    across: Floats,
) -> Scalar:
    """Return the weighted sum of the pixels that count, in the box's rows and columns."""
    value = 0.0
    for r in range(top, bottom):
        line = 0.0
        for q in range(left, right):
            line += across[q] * src[row + r, column + q]
        value += down[r] * line
    return value


@kernel(*_SAMPLE)
def _lanczos3(
    src: Image,
    y0: int,
    x0: int,
    ny: int,
    nx: int,
    xs: Floats,
    ys: Floats,
    out: Floats,
    squared: bool,
) -> Scalar:
    """Sample; see `lanczos3`."""
    across = np.empty(6)
    down = np.empty(6)
    missing = 0
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            x = xs[j, i]
            y = ys[j, i]
            out[j, i] = np.nan
            if not _is_covered(x, y, ny, nx):
                continue
            column, left, right = _weigh_lanczos3(x, nx, squared, across)
            row, top, bottom = _weigh_lanczos3(y, ny, squared, down)
            column -= x0
            row -= y0
            inside = row + top >= 0 and row + bottom <= src.shape[0]
            if not (inside and column + left >= 0 and column + right <= src.shape[1]):
                missing += 1
                continue
            if top == left == 0 and bottom == right == 6:
                # Nearly everywhere: with numbers that are known the compiler unrolls the loops.
                value = _sum_up(src, row, column, 0, 6, 0, 6, down, across)
            else:
                value = _sum_up(src, row, column, top, bottom, left, right, down, across)
            out[j, i] = value
    return missing
