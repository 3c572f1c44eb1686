"""Sampling over areas: pixels weighted by their exact overlap with quadrilaterals. Compiled.

A quadrilateral is an output pixel, as its corners lie among the pixels of the input. A row of
pixels cuts a part from each of its edges. The area of a pixel that is left of a part is the part's
height times the mean of x along it, where x goes from 0 at the pixel's left side to 1 at the right
one, and not beyond. What is left of the edges that go up, less what is left of those that go down,
is the area that the quadrilateral has of the pixel.
"""

from __future__ import annotations

import numpy as np

from dask_fits.compiled import Scalar, kernel
from dask_fits.resampling.areas_numpy import FINE, TINY, Floats, Image, Pair, check_corners

_SIGNATURES = [
    f"int64(Array({image}, 2, 'C', readonly=True), int64, int64, int64, int64,"
    " Array(float64, 2, 'A', readonly=True), Array(float64, 2, 'A', readonly=True),"
    " Array(float64, 2, 'A'), Array(float64, 2, 'A'), boolean, boolean, float64, float64)"
    for image in ("float32", "float64")
]


def area(
    src: Image,
    origin: Pair,
    shape: Pair,
    corners: Floats,
    value: Floats,
    fraction: Floats,
    *,
    flux: bool = False,
    squared: bool = False,
    turn: tuple[float, float] = (0.0, 0.0),
) -> int:
    """Weigh pixels by the areas in which they overlap the quadrilaterals of output pixels.

    Parameters
    ----------
    src, origin, shape
        As for all functions of `dask_fits.resampling.sampling`. Pixels that are NaN have no area.
    corners : (2, h + 1, w + 1) float64 array
        x and y of the corners of output pixels; NaN if there is none. They may go round either way,
        and a quadrilateral may have a corner that points inwards, but edges should not cross.
    value : (h, w) float64 array
        Filled with the mean of the pixels, weighted by their areas of overlap; NaN if there are
        none.
    fraction : (h, w) float64 array
        Filled with the sum of these areas, as a fraction of the quadrilateral's own.
    flux : bool
        Whether the value is the sum of area times pixel, and not the mean.
    squared : bool
        Whether pixels, which are variances, are multiplied by the squares of the areas, and the
        value is the variance of what it is else.
    turn : (float, float)
        x and y of the step after which the input's map repeats itself, if it does. A quadrilateral
        whose corners are more than half of it away from the first one, along it, lies at the map's
        seam. These corners are brought to the first one, and it counts there and a turn to each
        side.

    Returns
    -------
    int
        Pixels of the image that have an area of overlap, but are not in the box, counted once for
        each quadrilateral, whose value is NaN. It is up to the caller that there are none.
    """
    check_corners(corners, value, fraction)
    y0, x0 = origin
    ny, nx = shape
    xs, ys = corners
    tx, ty = turn
    return int(
        _area(src, y0, x0, ny, nx, xs, ys, value, fraction, flux, squared, float(tx), float(ty))
    )


@kernel()
def _size(x: Floats, y: Floats) -> Scalar:
    """Return the area of a quadrilateral; negative if its corners go round the other way."""
    return 0.5 * ((x[2] - x[0]) * (y[3] - y[1]) - (x[3] - x[1]) * (y[2] - y[0]))


@kernel()
def _corners(points: Floats, row: int, column: int, corners: Floats) -> None:
    """Fill in one coordinate of the corners of an output pixel, and of the first one once more."""
    corners[0] = corners[4] = points[row, column]
    corners[1] = points[row, column + 1]
    corners[2] = points[row + 1, column + 1]
    corners[3] = points[row + 1, column]


@kernel()
def _unwrap(x: Floats, y: Floats, tx: float, ty: float) -> Scalar:
    """Bring corners to the turn of the first one; return 1 if there are others, else 0."""
    wrapped = 0
    for corner in range(1, 4):
        along = ((x[corner] - x[0]) * tx + (y[corner] - y[0]) * ty) / (tx * tx + ty * ty)
        turns = np.floor(along + 0.5)
        if turns != 0.0:
            x[corner] -= turns * tx
            y[corner] -= turns * ty
            wrapped = 1
    return wrapped


@kernel()
def _range(x: Floats, size: int) -> Scalar:
    """Return the first pixel that the corners may touch, and the one after the last."""
    low = min(x[0], x[1], x[2], x[3]) + 0.5
    high = max(x[0], x[1], x[2], x[3]) + 0.5
    # In floats: corners may be far beyond what an integer holds.
    first = int(min(max(np.floor(low), 0.0), float(size)))
    return first, int(min(max(np.ceil(high), 0.0), float(size)))


@kernel(inline="always")
def _cut(x: Floats, y: Floats, slopes: Floats, row: float, sign: float, parts: Floats) -> Scalar:
    """Cut the edges to a row of pixels; return how many parts it has.

    Of a part, `parts` are the lowest and highest x, the height, and 1 by the width.
    """
    count = 0
    for edge in range(4):
        start = min(max(y[edge], row), row + 1.0)
        end = min(max(y[edge + 1], row), row + 1.0)
        if start == end:
            continue
        at_start = x[edge] + (start - y[edge]) * slopes[edge]
        at_end = x[edge] + (end - y[edge]) * slopes[edge]
        low, high = min(at_start, at_end), max(at_start, at_end)
        parts[0, count] = low
        parts[1, count] = high
        parts[2, count] = (end - start) * sign
        parts[3, count] = 1.0 / max(high - low, TINY)
        count += 1
    return count


@kernel(inline="always")
def _share(parts: Floats, count: int, column: float) -> Scalar:
    """Return the area of a pixel that is within the quadrilateral, from the row's parts."""
    total = 0.0
    for part in range(count):
        low = parts[0, part] - column
        high = parts[1, part] - column
        start = min(max(low, 0.0), 1.0)
        inside = min(max(high, 0.0), 1.0) - start
        # The mean of x: a trapezium, and what is right of the pixel, where x is 1.
        beyond = max(high - 1.0, 0.0)
        mean = start + inside * (0.5 * inside + beyond) * parts[3, part]
        total += parts[2, part] * mean
    return total


@kernel()
def _place(x: Floats, shift: float, size: int, fine: float, placed: Floats) -> Scalar:
    """Count a coordinate of shifted corners from the first pixel that they may touch.

    Return this pixel and the one after the last. `fine` is that of `FINE`, or 0.
    """
    for corner in range(5):
        placed[corner] = x[corner] + shift
    first, stop = _range(placed, size)
    for corner in range(5):
        placed[corner] = (((placed[corner] + 0.5) - first) + fine) - fine
    return first, stop


@kernel(inline="always")
def _overlap(
    src: Image,
    y0: int,
    x0: int,
    ny: int,
    nx: int,
    corners: Floats,
    shift: Scalar,
    work: Floats,
    squared: bool,
) -> Scalar:
    """Return sums over the pixels that a quadrilateral overlaps, `shift` beside its corners.

    They are the areas; these, or their squares, times the values; and pixels that are not in the
    box.
    """
    x, y, slopes, parts = work[0], work[1], work[2], work[3:]
    left, right = _place(corners[0], shift[0], nx, 0.0, x)
    top, bottom = _place(corners[1], shift[1], ny, FINE, y)
    overlap = total = 0.0
    missing = 0
    if left >= right:
        return overlap, total, missing
    for edge in range(4):
        rise = y[edge + 1] - y[edge]
        slopes[edge] = (x[edge + 1] - x[edge]) / (rise if rise != 0.0 else 1.0)
    sign = 1.0 if _size(corners[0], corners[1]) > 0.0 else -1.0
    for row in range(top, bottom):
        count = _cut(x, y, slopes, float(row - top), sign, parts)
        for column in range(left, right):
            share = _share(parts, count, float(column - left))
            if not share > 0.0:
                continue
            if not (0 <= row - y0 < src.shape[0] and 0 <= column - x0 < src.shape[1]):
                missing += 1
                continue
            pixel = np.float64(src[row - y0, column - x0])
            if not np.isnan(pixel):
                overlap += share
                total += (share * share if squared else share) * pixel
    return overlap, total, missing


@kernel(*_SIGNATURES)
def _area(
    src: Image,
    y0: int,
    x0: int,
    ny: int,
    nx: int,
    xs: Floats,
    ys: Floats,
    value: Floats,
    fraction: Floats,
    flux: bool,
    squared: bool,
    tx: float,
    ty: float,
) -> Scalar:
    """Weigh pixels by areas; see `area`."""
    turned = tx != 0.0 or ty != 0.0
    corners = np.empty((2, 5))
    work = np.empty((7, 5))
    missing = 0
    for j in range(value.shape[0]):
        for i in range(value.shape[1]):
            value[j, i] = np.nan
            fraction[j, i] = 0.0
            _corners(xs, j, i, corners[0])
            _corners(ys, j, i, corners[1])
            turns = _unwrap(corners[0], corners[1], tx, ty) if turned else 0
            size = abs(_size(corners[0], corners[1]))
            if not 0.0 < size < np.inf:  # NaN is not either
                continue
            overlap = total = 0.0
            beside = 0
            for turn in range(-turns, turns + 1):
                shift = (turn * tx, turn * ty)
                a, t, m = _overlap(src, y0, x0, ny, nx, corners, shift, work, squared)
                overlap += a
                total += t
                beside += m
            missing += beside
            if overlap > 0.0:
                fraction[j, i] = overlap / size
                if not flux:
                    total /= overlap * overlap if squared else overlap
                if beside == 0:
                    value[j, i] = total
    return missing
