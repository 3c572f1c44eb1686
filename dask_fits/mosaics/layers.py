"""Reading one image for a block of a mosaic, and resampling it: its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.mosaics.job import Map, Recipe
from dask_fits.mosaics.placement import Part, Placement
from dask_fits.resampling.kernels import sampling
from dask_fits.resampling.positions import Floats, Patch

ROWS = 256
"""Rows of a patch that are resampled at a time: a task holds the positions of no more."""

_LEAST = 1e-9
"""Part of a pixel that an image has to cover: positions are as exact as that."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """What has been read of an image, from the first pixel of the placement's box on."""

    image: npt.NDArray[Any]
    """NaN where it is not to be used; of integers that are pasted, the weight is 0 there."""
    weights: Floats | None
    variance: Floats | None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What one image has on a rectangle of a block."""

    rows: slice
    columns: slice
    """The rectangle, from the block's first pixel."""
    value: npt.NDArray[Any]
    """NaN where the image has none; of integers that are pasted, the weight is 0 there."""
    weight: Floats
    variance: Floats | None


def read_pixels(placement: Placement, *, as_stored: bool = False) -> Pixels:
    """Read the pixels of a placement's box; masked, and without the image's offset.

    Parameters
    ----------
    placement : Placement
    as_stored : bool
        Whether integers stay integers.

    Raises
    ------
    FitsError
        They cannot be read.
    """
    item = placement.input
    stored = placement.read(item.reader)
    weights = _weights(placement)
    variance = _variance(placement)
    unused = _unused(placement, weights)
    if as_stored:
        given = np.ones(stored.shape) if weights is None else weights
        return Pixels(stored, np.where(unused, 0.0, given), variance)
    dtype = item.dtype
    image = np.ascontiguousarray(stored, dtype)
    if item.offset:
        image = image - item.offset
    if np.any(unused):
        image = np.where(unused, dtype.type(np.nan), image)
    # What does not count in the image counts in none of its maps.
    weights, variance = (
        None if each is None else np.where(np.isnan(image), np.nan, each)
        for each in (weights, variance)
    )
    return Pixels(image, weights, variance)


def _weights(placement: Placement) -> Floats | None:
    """Read the map of weights, if there is one."""
    given = placement.input.weights
    if given is None:
        return None
    values = _pixels_of(placement, given).astype(np.float64)
    with np.errstate(divide="ignore"):
        if given.kind == "error":
            values = 1 / values**2
        elif given.kind == "variance":
            values = 1 / values
    return values


def _variance(placement: Placement) -> Floats | None:
    """Read the map of errors, if there is one, as variances."""
    given = placement.input.errors
    if given is None:
        return None
    values = _pixels_of(placement, given).astype(np.float64)
    # An error that is not known makes that of the result unknown, and does not drop out of it.
    return np.where(np.isnan(values), np.inf, values**2 if given.kind == "error" else values)


def _unused(placement: Placement, weights: Floats | None) -> Any:
    """Return which pixels are not to be used: without a weight, or masked."""
    unused: Any = False
    if weights is not None:
        unused = ~((weights > 0) & np.isfinite(weights))
    mask = placement.input.mask
    if mask is not None:
        flags = _pixels_of(placement, mask)
        if flags.dtype.kind == "f":  # integers with BLANK, of which nothing is known there
            unused = unused | np.isnan(flags)
            flags = np.nan_to_num(flags)
        if mask.bits != -1:
            flags = flags.astype(np.int64) & mask.bits
        unused = unused | (flags != 0)
    return unused


def _pixels_of(placement: Placement, given: Map) -> npt.NDArray[Any]:
    """Return the pixels of a map in a placement's box."""
    if isinstance(given.pixels, np.ndarray):
        (top, bottom), (left, right) = placement.box
        return given.pixels[top:bottom, left:right]
    return placement.read(given.pixels)


def layers(placement: Placement, pixels: Pixels, recipe: Recipe) -> Iterator[Layer]:
    """Resample what was read of an image, rectangle by rectangle."""
    if placement.shift is not None:
        yield _pasted(placement, pixels)
        return
    for part in placement.parts:
        for strip in part.strips(ROWS):
            yield _resampled(_Sampler(placement, strip, recipe), pixels)


def _pasted(placement: Placement, pixels: Pixels) -> Layer:
    """Take pixels as they are."""
    rows, columns = (
        slice(begin - start, end - start)
        for (begin, end), start in zip(placement.box, placement.shift or (), strict=True)
    )
    is_whole = pixels.image.dtype.kind in "iu"
    value = pixels.image if is_whole else pixels.image.astype(np.float64)
    weight = _product(placement.input.weight, value.shape, pixels.weights)
    return Layer(rows, columns, value, weight, pixels.variance)


def _resampled(sampler: _Sampler, pixels: Pixels) -> Layer:
    """Resample the pixels of one rectangle."""
    part = sampler.part
    value, fraction = sampler.sample(pixels.image)
    if sampler.factor is not None:
        value *= sampler.factor
    given = None if pixels.weights is None else sampler.sample(pixels.weights, flux=False)[0]
    weight = _product(sampler.placement.input.weight, value.shape, fraction, given)
    variance = None
    if pixels.variance is not None:
        variance, _ = sampler.sample(pixels.variance, squared=True)
        if sampler.factor is not None:
            variance *= sampler.factor**2
    return Layer(part.rows, part.columns, value, weight, variance)


def _product(weight: float, shape: tuple[int, ...], *factors: Floats | None) -> Floats:
    """Return the weight of an image at each pixel, in which not all factors may be given."""
    product: Floats = np.broadcast_to(np.float64(weight), shape)
    for factor in factors:
        if factor is not None:
            product = product * factor
    return product


class _Sampler:
    """The positions of one rectangle, at which an image and its maps are sampled."""

    def __init__(self, placement: Placement, part: Part, recipe: Recipe) -> None:
        self.placement = placement
        self.part = part
        self._recipe = recipe
        self._kernels = sampling()
        self._origin = (placement.box[0][0], placement.box[1][0])
        height, width = (along.stop - along.start for along in (part.rows, part.columns))
        self._shape = height, width
        self._is_exact = recipe.resampling == "exact"
        self._points = self._fill(part.patch, int(self._is_exact))
        # With exact areas the kernel multiplies by them itself.
        self.factor: Floats | None = None
        if part.corners is not None:
            self.factor = _areas(self._fill(part.corners, 1))

    def _fill(self, patch: Patch, more: int) -> Floats:
        """Return the positions of its points, of which there may be more than pixels."""
        height, width = self._shape
        points = np.empty((2, height + more, width + more))
        patch.fill(self.part.first, points, self._kernels.interpolate)
        return points

    def sample(
        self, source: npt.NDArray[Any], *, flux: bool | None = None, squared: bool = False
    ) -> tuple[Floats, Floats | None]:
        """Sample one array.

        Parameters
        ----------
        source : (h, w) array
            The box of an image, or of a map of it.
        flux : bool, optional
            Whether exact areas count; by default as the recipe says.
        squared : bool
            Whether the weights of the kernel are squared, as variances are added.

        Returns
        -------
        value : array
            NaN where there is none.
        fraction : array or None
            With exact areas, the part of each pixel that is covered.
        """
        placement = self.placement
        source = np.ascontiguousarray(source)
        value = np.empty(self._shape)
        fraction = None
        if self._is_exact:
            fraction = np.empty(self._shape)
            is_flux = self._recipe.conserve == "flux" if flux is None else flux
            missing = self._kernels.area(
                source,
                self._origin,
                placement.input.shape,
                self._points,
                value,
                fraction,
                flux=is_flux,
                squared=squared,
                turn=placement.turn,
            )
            # What rounding leaves beside an edge is no area, and no polygon has more than itself.
            is_sliver = fraction < _LEAST
            value[is_sliver], fraction[is_sliver] = np.nan, 0.0
            np.minimum(fraction, 1.0, out=fraction)
            if is_flux:
                # The flux of the whole pixel, which images agree on whatever part each covers; the
                # part is in the weight, so that sums conserve the flux.
                with np.errstate(divide="ignore", invalid="ignore"):
                    value /= fraction**2 if squared else fraction
            missing += self._sample_torn(source, value, fraction, is_flux=is_flux, squared=squared)
        else:
            kernel = getattr(self._kernels, self._recipe.resampling)
            missing = kernel(
                source, self._origin, placement.input.shape, self._points, value, squared=squared
            )
        if missing:
            raise RuntimeError(
                f"{placement.input.where}: {missing} pixels that are needed were not read: rows "
                f"and columns {placement.box} were"
            )
        return value, fraction

    def _sample_torn(
        self,
        source: npt.NDArray[Any],
        value: Floats,
        fraction: Floats,
        *,
        is_flux: bool,
        squared: bool,
    ) -> int:
        """Sample pixels on a seam, which have no area within their corners, at their centres."""
        torn = self.part.patch.torn
        torn = None if torn is None else torn.within(self.part.first, self._shape)
        if torn is None or not len(torn.rows):
            return 0
        found = np.empty((1, len(torn.rows)))
        centres = np.ascontiguousarray(torn.centres[:, None])
        shape = self.placement.input.shape
        missing = self._kernels.nearest(source, self._origin, shape, centres, found)
        factor = self.placement.scale if is_flux else 1.0
        value[torn.rows, torn.columns] = found[0] * (factor**2 if squared else factor)
        fraction[torn.rows, torn.columns] = np.isfinite(found[0])
        return int(missing)


def _areas(corners: Floats) -> Floats:
    """Return the areas of (h, w) pixels, in pixels of the image, by (2, h + 1, w + 1) corners."""
    x, y = corners
    x_down, y_down = x[1:, 1:] - x[:-1, :-1], y[1:, 1:] - y[:-1, :-1]
    x_up, y_up = x[:-1, 1:] - x[1:, :-1], y[:-1, 1:] - y[1:, :-1]
    return np.asarray(np.abs(x_down * y_up - y_down * x_up) / 2)
