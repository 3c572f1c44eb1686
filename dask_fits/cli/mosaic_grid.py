"""The grid of a mosaic: as the images need it, or coarser, for a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dask_fits.file.hdu import HDU

if TYPE_CHECKING:
    from astropy.wcs import WCS

PICTURE = 2048
"""Greatest length of the longer side of a picture, in pixels."""

_CHUNK = 1024
"""Pixels of the whole grid that a part of a picture spans, as an ``"auto"`` chunk does."""

_LEAST_CHUNK = 32
"""Pixels of a picture that its parts have along an axis, at least."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The arguments of `dask_fits.mosaic` that tell the grid."""

    wcs: object = None
    shape: tuple[int, int] | None = None
    chunks: int | Literal["auto"] = "auto"


def coarser_than(like: HDU) -> Grid:
    """Return the grid of a picture that shows the grid of an image.

    Raises
    ------
    ValueError
        It has to be coarser, and distortions by tables cannot be.
    """
    from dask_fits.mosaics.output import sky_and_shape
    from dask_fits.wcs.header import WcsText

    text = WcsText.of(like.wcs_header())
    wcs, shape = sky_and_shape(text, like.where)
    if max(shape) <= PICTURE:
        return Grid(like)
    if text.tables:
        raise ValueError(
            f"{like.where}: its WCS has tables, and more than {PICTURE} pixels: no picture is "
            "drawn on it; write a .zarr, or draw it without --like"
        )
    return coarser(wcs, shape)


def coarser(wcs: WCS, shape: tuple[int, int]) -> Grid:
    """Return the grid of a picture, each of whose pixels is one or several of the whole grid."""
    from dask_fits.wcs.resampling import resampled

    step = -(-max(shape) // PICTURE)
    height, width = (-(-length // step) for length in shape)
    # The centre of the first pixel is that of the first `step` x `step` ones.
    centre = (step - 1) / 2
    coarse = resampled(wcs, (centre, centre), (step, step), (height, width))
    # So a task needs no more pixels of the images than one that makes a chunk of the whole grid.
    return Grid(coarse, (height, width), max(_CHUNK // step, _LEAST_CHUNK))
