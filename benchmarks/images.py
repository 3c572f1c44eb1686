"""The large images that are read: made once for a run, block by block."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits

COLUMNS = 8192
BLOCK_ROWS = 512
SMALL = (300, 300)
"""Shape of the extensions: too large for a read of one header to reach the next."""
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A FITS file with one image."""

    name: str
    path: Path
    offset: int
    """Bytes before the first pixel."""
    shape: tuple[int, int]
    stored: np.dtype
    """Type of the pixels in the file."""
    dtype: np.dtype
    """Type of the pixels as read."""

    @property
    def nbytes(self) -> int:
        """Bytes of the image as read."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether reading converts the stored values to physical ones."""
        return self.stored != self.dtype.newbyteorder(">")


def write_images(folder: Path, *, size_mb: int) -> list[ImageFile]:
    """Write a float32 image and a scaled int16 one, each with `size_mb` MiB of stored pixels."""
    scaling = {"BSCALE": 0.1, "BZERO": 1000.0}
    return [
        _write(folder / "float32.fits", "float32", np.dtype(">f4"), size_mb, {}),
        _write(folder / "int16.fits", "scaled int16", np.dtype(">i2"), size_mb, scaling),
    ]


def _write(
    path: Path, name: str, stored: np.dtype, size_mb: int, scaling: dict[str, float]
) -> ImageFile:
    shape = (size_mb * MIB // (COLUMNS * stored.itemsize), COLUMNS)
    cards = {
        "SIMPLE": True,
        "BITPIX": fits.DTYPE2BITPIX[stored.newbyteorder("=").name],
        "NAXIS": 2,
        "NAXIS1": shape[1],
        "NAXIS2": shape[0],
        **scaling,
    }
    header = fits.Header(cards.items()).tostring().encode()
    with path.open("wb") as file:
        file.write(header)
        for block in _pixels(shape, stored):
            file.write(block)
        file.write(bytes(-file.tell() % 2880))
        file.flush()
        os.fsync(file.fileno())  # or its writing back would go on while we measure
    return ImageFile(name, path, len(header), shape, stored, np.dtype(np.float32))


def _pixels(shape: tuple[int, int], stored: np.dtype) -> Iterator[npt.NDArray]:
    rng = np.random.default_rng(0)
    for start in range(0, shape[0], BLOCK_ROWS):
        block = (min(BLOCK_ROWS, shape[0] - start), shape[1])
        if stored.kind == "i":
            yield rng.integers(-30000, 30000, block, np.int16).astype(stored)
        else:
            values = rng.standard_normal(block, np.float32)
            values[0, 0] = np.nan
            yield values.astype(stored)


def write_noise(path: Path, shape: tuple[int, int], *, extensions: int = 0) -> None:
    """Write a float32 image, and small ones as extensions after it."""
    rng = np.random.default_rng(0)
    images = [rng.random(shape, np.float32) for shape in (shape, *[SMALL] * extensions)]
    hdus = [fits.PrimaryHDU(images[0]), *(fits.ImageHDU(image) for image in images[1:])]
    fits.HDUList(hdus).writeto(path)


def sky_image(side: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Make a square image of a sloping sky with stars, and noise of sigma 15 on it."""
    rng = np.random.default_rng(seed)
    along = np.arange(side, dtype=np.float32)
    image = rng.standard_normal((side, side), np.float32)
    image *= 15
    image += 1000 + 0.01 * along + 0.02 * along[:, np.newaxis]
    offsets = np.arange(-12, 13)
    star = np.exp(-(offsets**2 + offsets[:, np.newaxis] ** 2) / 18).astype(np.float32)
    for peak in np.minimum(50 * (1 + rng.pareto(1, side * side // 4000)), 25000):
        y, x = rng.integers(0, side - 25, 2)
        image[y : y + 25, x : x + 25] += peak * star
    return np.minimum(image, 30000)


def mask_image(side: int) -> npt.NDArray[np.int32]:
    """Make a square image of zeros with rectangles of small values."""
    rng = np.random.default_rng(0)
    image = np.zeros((side, side), np.int32)
    for _ in range(side * side // 5600):
        (y, x), (height, width) = rng.integers(0, side - 60, 2), rng.integers(1, 60, 2)
        image[y : y + height, x : x + width] = rng.integers(1, 200)
    return image


def write_tiled(
    path: Path,
    image: npt.NDArray,
    *,
    algorithm: str,
    tile: tuple[int, int],
    header: fits.Header | None = None,
) -> None:
    """Write a tile-compressed image behind an empty primary HDU; floats are dithered."""
    options = {"compression_type": algorithm, "tile_shape": tile, "hcomp_scale": 0}
    hdu = fits.CompImageHDU(image, header, quantize_method=1, dither_seed=42, **options)
    with path.open("wb") as file:
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file)
        file.flush()
        os.fsync(file.fileno())  # as above
