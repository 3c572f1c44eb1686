"""Combining the layers of a block, one image after the other in the order of the inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dask_fits.mosaics.job import Product, Recipe
from dask_fits.mosaics.layers import Layer
from dask_fits.resampling.kernels import combining
from dask_fits.resampling.positions import Booleans, Floats

SIGMA = 3.0
"""Standard deviations from the median beyond which clipping rejects, as astropy's default."""

ITERATIONS = 5
"""Times that clipping is repeated at most, as astropy's default."""

STACK_BYTES = 64 * 1024 * 1024
"""Bytes of layers that are held at a time where all are needed together."""

Products = Mapping[Product, npt.NDArray[Any]]


class Combiner(Protocol):
    """Takes the layers of a block, and makes its pixels."""

    def add(self, position: int, layer: Layer) -> None:
        """Add a rectangle of one image, by the image's position among those of the block."""

    def products(self) -> Products:
        """Make the pixels; NaN where no image has any."""

    def used(self) -> Booleans | None:
        """Return which of the images were used at each pixel, (n, h, w), if that was asked for."""


def combiner_for(
    recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool = False
) -> Combiner:
    """Make the combiner of a block.

    Parameters
    ----------
    recipe : Recipe
    shape : (int, int)
        Height and width of the block.
    depth : int
        Number of images.
    noted : bool
        Whether it is noted which images were used.
    """
    if recipe.combine in ("mean", "sum"):
        return _Sum(recipe, shape, depth, noted=noted)
    if recipe.combine in ("median", "clipped"):
        return _Stack(recipe, shape, depth, noted=noted)
    if recipe.is_whole:
        return _WholeChoice(recipe, shape, depth, noted=noted)
    return _Choice(recipe, shape, depth, noted=noted)


def block_shape(recipe: Recipe, shape: tuple[int, int], depth: int) -> tuple[int, int]:
    """Return the shape of the blocks in which a chunk is made, so that memory is bounded.

    Blocks are square: of bands a turned image would be read in large parts for each.
    """
    if recipe.combine not in ("median", "clipped"):
        return shape
    layers = 2 + recipe.has_errors  # values, weights, and variances
    pixel = max(depth, 1) * layers * 8
    side = max(int((STACK_BYTES / pixel) ** 0.5), 16)
    return min(side, shape[0]), min(side, shape[1])


def _known(errors: Floats) -> Floats:
    """Replace errors that are not known, which have been infinite, by NaN."""
    return np.where(np.isinf(errors), np.nan, errors)


class _Noting:
    """The part of combiners that notes which images have a value."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool) -> None:
        self._recipe = recipe
        self._shape = shape
        self._used = np.zeros((depth, *shape), bool) if noted else None
        self.count = np.zeros(shape, np.int32)

    def _zeros(self, *, given: bool = True) -> Any:
        return np.zeros(self._shape) if given else None

    def used(self) -> Booleans | None:
        """Return which images were used; see `Combiner`."""
        return self._used


class _Sum(_Noting):
    """Weighted sums, and their means."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool) -> None:
        super().__init__(recipe, shape, depth, noted=noted)
        self._total = self._zeros()
        self._weight = self._zeros()
        self._variance = self._zeros(given=recipe.has_errors)

    def add(self, position: int, layer: Layer) -> None:
        """Add a rectangle; see `Combiner`."""
        at = layer.rows, layer.columns
        variance = None if self._variance is None else self._variance[at]
        combining().add(
            layer.value, layer.weight, layer.variance,
            self._total[at], self._weight[at], self.count[at], variance,
        )  # fmt: skip
        if self._used is not None:
            self._used[position][at] = np.isfinite(layer.value) & (layer.weight > 0)

    def products(self) -> Products:
        """Make the pixels; see `Combiner`."""
        data, error = self._total, None
        if self._variance is not None:
            error = np.sqrt(self._variance, out=self._variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            for sums in (data,) if error is None else (data, error):
                if self._recipe.combine == "mean":
                    np.divide(sums, self._weight, out=sums)
                else:
                    sums[~(self._weight > 0)] = np.nan
        products: dict[Product, npt.NDArray[Any]] = {
            "data": data, "weight": self._weight, "count": self.count
        }  # fmt: skip
        if error is not None:
            products["error"] = _known(error)
        return products


class _Choice(_Noting):
    """One of the values: the first, the last, the least, the greatest."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool) -> None:
        super().__init__(recipe, shape, depth, noted=noted)
        self._best: npt.NDArray[Any] = np.full(shape, np.nan)
        self._weight = self._zeros()
        self._variance = self._zeros(given=recipe.has_errors)

    def add(self, position: int, layer: Layer) -> None:
        """Add a rectangle; see `Combiner`."""
        at = layer.rows, layer.columns
        before = self._best[at].copy() if self._used is not None else None
        earlier = self.count[at].copy() if self._used is not None else None
        combining().choose(
            self._recipe.combine, layer.value, layer.weight, layer.variance,
            self._best[at], self._weight[at], self.count[at],
            None if self._variance is None else self._variance[at],
        )  # fmt: skip
        if self._used is not None and before is not None:
            new = (self.count[at] != earlier) & (
                (self._recipe.combine == "last") | ~(self._best[at] == before)
            )
            self._used[:, layer.rows, layer.columns][:, new] = False
            self._used[position][at] = new

    def products(self) -> Products:
        """Make the pixels; see `Combiner`."""
        products: dict[Product, npt.NDArray[Any]] = {
            "data": self._best, "weight": self._weight, "count": self.count
        }  # fmt: skip
        if self._variance is not None:
            error = np.where(self.count > 0, np.sqrt(self._variance), np.nan)
            products["error"] = _known(error)
        return products


class _WholeChoice(_Choice):
    """One of the values, of integers, none of which is NaN."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool) -> None:
        super().__init__(recipe, shape, depth, noted=noted)
        self._best = np.full(shape, recipe.fill_value, recipe.dtype)

    def add(self, position: int, layer: Layer) -> None:
        """Add a rectangle; see `Combiner`."""
        at = layer.rows, layer.columns
        best, count = self._best[at], self.count[at]
        counts = layer.weight > 0
        is_better = {
            "first": count == 0,
            "last": True,
            "min": (count == 0) | (layer.value < best),
            "max": (count == 0) | (layer.value > best),
        }[self._recipe.combine]
        chosen = counts & is_better
        best[chosen] = layer.value[chosen]
        self._weight[at][chosen] = layer.weight[chosen]
        if self._variance is not None and layer.variance is not None:
            self._variance[at][chosen] = layer.variance[chosen]
        count += counts
        if self._used is not None:
            self._used[:, layer.rows, layer.columns][:, chosen] = False
            self._used[position][at] = chosen


class _Stack(_Noting):
    """What needs all layers together: the median, and the mean of what clipping leaves."""

    def __init__(self, recipe: Recipe, shape: tuple[int, int], depth: int, *, noted: bool) -> None:
        super().__init__(recipe, shape, depth, noted=noted)
        whole = (depth, *shape)
        self._layers = np.full(whole, np.nan)
        self._weights = np.zeros(whole)
        self._variances = np.zeros(whole) if recipe.has_errors else None

    def add(self, position: int, layer: Layer) -> None:
        """Add a rectangle; see `Combiner`."""
        at = layer.rows, layer.columns
        self._layers[position][at] = layer.value
        self._weights[position][at] = layer.weight
        if self._variances is not None and layer.variance is not None:
            self._variances[position][at] = layer.variance

    def products(self) -> Products:
        """Make the pixels; see `Combiner`."""
        data, weight = self._zeros(), self._zeros()
        error = self._zeros(given=self._recipe.has_errors)
        given = self._layers, self._weights, self._variances
        arguments = (*given, data, weight, self.count, error, self._used)
        if self._recipe.combine == "median":
            combining().median(*arguments)
        else:
            combining().clipped(*arguments, SIGMA, ITERATIONS)
        products: dict[Product, npt.NDArray[Any]] = {
            "data": data, "weight": weight, "count": self.count
        }  # fmt: skip
        if error is not None:
            products["error"] = _known(error)
        return products
