"""Frames of stacks: of arrays, whose stores note what is asked of them, and very many that only have names."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from dask_fits.exceptions import FitsError
from dask_fits.readers.image import ImageReader
from dask_fits.readers.reader import HduReader
from dask_fits.stacks.frames import ReaderFrames
from dask_fits.stacks.reader import StackReader
from tests.support.at_rest import write_at_rest
from tests.support.fits_files import fits_bytes, watched_reader


def stack_of(
    readers: Sequence[HduReader | FitsError], *, dtype: Any = None, fill_value: Any = None
) -> StackReader:
    """A stack of readers of one shape, of their common type."""
    good = [reader for reader in readers if not isinstance(reader, FitsError)]
    common = np.result_type(*(reader.dtype for reader in good)) if dtype is None else dtype
    return StackReader(ReaderFrames(readers), good[0].shape, np.dtype(common), fill_value)


def watched_frames(cube: np.ndarray) -> list[ImageReader]:
    """A reader for each frame of a cube, of a file of its own, that notes what is asked of it."""
    readers = map(watched_reader, cube)
    return [
        replace(reader, store=replace(reader.store, url=f"watched-{number}.fits"))
        for number, reader in enumerate(readers)
    ]


def asked(readers: Sequence[ImageReader]) -> dict[int, int]:
    """How many bytes were asked of each frame since the last time, of those that were asked."""
    found = {}
    for number, reader in enumerate(readers):
        if reader.store.asked:
            found[number] = sum(part.nbytes for part in reader.store.asked)
            reader.store.asked.clear()
    return found


@dataclass(frozen=True)
class NamedFrames:
    """Frames as a table has them: URLs and versions in columns, and what all have in common."""

    urls: np.ndarray
    versions: np.ndarray
    digest: str = "survey"

    @classmethod
    def many(cls, count: int) -> NamedFrames:
        numbers = np.arange(count)
        urls = np.char.add("s3://survey/2026/11/29/calibrated-exposure-", numbers.astype("U7"))
        random = np.random.default_rng(1)
        return cls(np.char.encode(urls), random.integers(0, 1 << 62, count))

    def __len__(self) -> int:
        return len(self.urls)

    def take(self, indices: np.ndarray) -> NamedFrames:
        return NamedFrames(self.urls[indices], self.versions[indices], "part of " + self.digest)

    def readers(self) -> list[HduReader | FitsError]:
        raise AssertionError("nothing is read when a graph is made")

    def __dask_tokenize__(self) -> object:
        return self.digest, len(self), int(self.versions[0]), int(self.versions[-1])


def put_frames(directory: Path, contents: Mapping[str, bytes]) -> list[str]:
    """Write files by their names, none of them a moment ago; their paths."""
    for name, content in contents.items():
        write_at_rest(directory / name, content)
    return [str(directory / name) for name in contents]


def frame(pixels: np.ndarray, **keywords: Any) -> bytes:
    """A file of one image; of the names of keywords, ``_`` stands for ``-``."""
    header = fits.Header({name.replace("_", "-"): value for name, value in keywords.items()})
    return fits_bytes(fits.PrimaryHDU(pixels, header))


def astropys(content: bytes, key: Any = None) -> np.ndarray:
    """What astropy makes of an HDU, by default of the first that has pixels, in native order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(io.BytesIO(content)) as file:
            images = (hdu for hdu in file if hdu.is_image and hdu.shape)
            pixels = np.array((next(images) if key is None else file[key]).data)
    return pixels.astype(pixels.dtype.newbyteorder("="))


def stacked(contents: Iterable[bytes]) -> np.ndarray:
    """NumPy's stack of astropy's arrays."""
    return np.stack([astropys(content) for content in contents])
