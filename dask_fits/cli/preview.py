"""A small grey picture of an image HDU."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import KeyItem
from dask_fits.exceptions import NotAnImageError, needs
from dask_fits.file.hdu import HDU
from dask_fits.storage.atomic import write_atomically

with needs("Pillow", extra="cli"):
    from PIL import Image

SIZE = 1024
"""Greatest length of the longer side of a picture, in pixels."""


def preview(hdu: HDU, *, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Draw an image HDU with the ZScale stretch.

    Every n-th pixel of every n-th row is taken, and only those rows are read; of an image with
    more than two axes, the first plane.

    Parameters
    ----------
    hdu : HDU
        An image of at least two axes.
    size : int
        Greatest length of the longer side, in pixels.

    Returns
    -------
    (height, width) uint8 array
        Grey levels, the first row of the image at the bottom; NaN is black.

    Raises
    ------
    NotAnImageError
        The HDU has no pixels, or fewer than two axes.
    """
    reader = hdu.reader()
    if reader.ndim < 2 or 0 in reader.shape:
        raise NotAnImageError(
            f"{hdu.store.name}: HDU {hdu.index}: a picture needs two axes with pixels, "
            f"found shape {reader.shape}"
        )
    step = -(-max(reader.shape[-2:]) // size)
    # A step, and not the mean of pixels: rows that are skipped are not read.
    thinned = slice(None, None, step)
    first_plane: tuple[KeyItem, ...] = (0,) * (reader.ndim - 2)
    pixels = reader[(*first_plane, thinned, thinned)]
    return draw_pixels(pixels)


def draw_pixels(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the grey levels of pixels, (height, width), their first row at the bottom.

    By the ZScale stretch; NaN is black.
    """
    return _stretch(pixels)[::-1]


def write_png(
    picture: npt.NDArray[np.uint8], path: str | os.PathLike[str], *, overwrite: bool = True
) -> None:
    """Write grey levels as a PNG file, whole or not at all."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    write_atomically(path, content.getvalue(), overwrite=overwrite)


def _stretch(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return grey levels of pixels, by astropy's ZScale; NaN is black."""
    from astropy.visualization import ZScaleInterval

    values = pixels.astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    low, high = ZScaleInterval().get_limits(finite)
    span = (high - low) or 1.0  # of a constant image
    brightness = np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    levels: npt.NDArray[np.uint8] = (np.clip(brightness, 0.0, 1.0) * 255).astype(np.uint8)
    return levels
