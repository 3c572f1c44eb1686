"""What a mosaic is made of, as tasks carry it: images, the grid, and how they are combined."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import cloudpickle
import numpy as np
import numpy.typing as npt
from dask.base import tokenize

from dask_fits._typing import Integers
from dask_fits.mosaics.outlines import Box, Outlines
from dask_fits.readers.reader import HduReader
from dask_fits.wcs.geometry import celestial_of
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.mapping import Grid

Resampling = Literal["nearest", "bilinear", "lanczos3", "exact"]
Combine = Literal["mean", "sum", "median", "clipped", "first", "last", "min", "max"]
Conserve = Literal["surface brightness", "flux"]
Product = Literal["data", "weight", "count", "error"]

MapKind = Literal["weight", "error", "variance", "mask"]
"""What the pixels of a map say of those of an image: how much they count, their standard deviation,
its square, or by bits that they are not to be used."""


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """Pixels beside those of an image: weights, errors, or a mask."""

    pixels: HduReader | npt.NDArray[Any]
    """Of the shape of the image."""
    kind: MapKind
    bits: int = -1
    """Bits of a mask that count; -1 for all."""

    def __dask_tokenize__(self) -> tuple[object, ...]:
        pixels = self.pixels
        held = tokenize(pixels) if isinstance(pixels, np.ndarray) else pixels.__dask_tokenize__()
        return "dask_fits.Map", held, self.kind, self.bits


@dataclass(frozen=True, slots=True, eq=False)
class Input:
    """One image of a mosaic."""

    number: int
    """Its row in the mosaic's table."""
    reader: HduReader
    wcs: WcsText
    axes: tuple[int, int]
    """The two axes of the image that span the sky, y and x; all others have one pixel."""
    weight: float = 1.0
    offset: float = 0.0
    """What is subtracted from its pixels."""
    weights: Map | None = None
    mask: Map | None = None
    errors: Map | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        y, x = self.axes
        return self.reader.shape[y], self.reader.shape[x]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels as they are sampled: float32 if all of them are that to the bit."""
        # A constant is subtracted with all of its digits.
        is_float32 = np.can_cast(self.reader.dtype, np.float32) and not self.offset
        return np.dtype(np.float32 if is_float32 else np.float64)

    @property
    def where(self) -> str:
        """File and HDU, for messages."""
        return self.reader.where

    def grid(self) -> Grid:
        """Make the grid of its pixels, for one thread."""
        return Grid(_celestial(self.wcs, self.where).deepcopy(), self.shape, self.where)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        maps = (self.weights, self.mask, self.errors)
        return (
            "dask_fits.Input",
            self.reader.__dask_tokenize__(),
            self.wcs.cards,
            self.wcs.tables,
            self.weight,
            self.offset,
            [None if each is None else each.__dask_tokenize__() for each in maps],
        )


@lru_cache(maxsize=256)
def _celestial(text: WcsText, where: str) -> Any:
    """Make the celestial WCS of an image; the same images are in many tasks of a process.

    What uses it takes a copy: astropy computes in the memory of a WCS.
    """
    return celestial_of(text.wcs(where))


def output_grid(text: WcsText) -> Grid:
    """Make the grid of an output, for one thread."""
    height, width = text.shape
    return Grid(_celestial(text, "mosaic").deepcopy(), (height, width), "mosaic")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How images are resampled and combined."""

    resampling: Resampling
    combine: Combine
    conserve: Conserve
    dtype: np.dtype[Any]
    """Type of the mosaic's pixels."""
    fill_value: float
    """Of pixels that no image covers."""
    skips: bool
    """Whether an image that cannot be read is left out, instead of its error being raised."""
    has_errors: bool
    """Whether errors of the images are given."""

    @property
    def is_whole(self) -> bool:
        """Whether the pixels are integers, which are taken as they are."""
        return self.dtype.kind in "iu"


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A mosaic that is to be made, or the part of it that a task makes."""

    inputs: tuple[Input, ...]
    """In the order in which they are added."""
    text: WcsText
    """World coordinates of the output."""
    recipe: Recipe
    outlines: Outlines
    """Where the inputs are on the output."""
    digest: str
    """Of all that tells the pixels of the whole mosaic apart."""

    @classmethod
    def of(cls, inputs: Sequence[Input], text: WcsText, recipe: Recipe, outlines: Outlines) -> Job:
        """Make the job of a whole mosaic."""
        tokens = [each.__dask_tokenize__() for each in inputs]
        digest = tokenize(tokens, text.cards, text.tables, repr(recipe))
        return cls(tuple(inputs), text, recipe, outlines, digest)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = self.text.shape
        return height, width

    def grid(self) -> Grid:
        """Make the grid of the output, for one thread."""
        return output_grid(self.text)

    def inputs_of(self, box: Box) -> Integers:
        """Return the positions among `inputs` of those that may reach into a box."""
        return self.outlines.reaching(box, self.grid)

    def take(self, box: Box) -> Job:
        """Return the job of a box, which has the inputs that may reach into it."""
        positions = self.inputs_of(box).tolist()
        inputs = tuple(self.inputs[position] for position in positions)
        return replace(self, inputs=inputs, outlines=self.outlines.take(positions))

    def __repr__(self) -> str:
        return f"<Job: {len(self.inputs)} images>"

    def __dask_tokenize__(self) -> object:
        return "dask_fits.Job", self.digest

    def __reduce__(self) -> tuple[Any, ...]:
        # Images of one survey are much alike.
        state = (self.inputs, self.text, self.recipe, self.outlines, self.digest)
        return _unpack, (zlib.compress(cloudpickle.dumps(state), 1),)


def _unpack(packed: bytes) -> Job:
    return Job(*cloudpickle.loads(zlib.decompress(packed)))
