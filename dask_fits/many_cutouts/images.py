"""The images of many files, and the boxes around positions that lie on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from astropy.wcs import WCS

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import result_of, threads
from dask_fits.cutout import Mode, check_axes, check_pixels, is_angular, plane_for, size_in_pixels
from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.many_cutouts.targets import Placed, Targets, place
from dask_fits.planning.boxes import Boxes
from dask_fits.storage.place import FilePath, Place, is_one_file, label_of, places_of
from dask_fits.wcs.plane import read_plane, wcs_or_error
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.resampling import moved

AT_ONCE = 32
"""Files that are looked at at the same time."""

Source = FilePath | Place | FitsFile
"""A file: by its path or URL, by an object that has one, or opened."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One image HDU of one file, and the boxes that are cut out of it."""

    hdu: HDU
    axes: tuple[int, int]
    """Axes that are cut, y and x."""
    shape: tuple[int, ...]
    """Shape of a cutout: of the image, with the box along the axes that are cut."""
    placed: Placed

    def boxes(self, which: Integers) -> tuple[Boxes, Integers]:
        """Give what of some of the boxes is on the image, and how far into the box it begins."""
        lengths = np.array(self.hdu.shape)
        first = np.zeros((len(which), len(lengths)), np.int64)
        stop = np.broadcast_to(lengths, first.shape).copy()
        corner = np.zeros_like(first)
        for n, axis in enumerate(self.axes):
            begin = self.placed.first[which, n]
            first[:, axis] = np.maximum(begin, 0)
            stop[:, axis] = np.minimum(begin + self.shape[axis], lengths[axis])
            corner[:, axis] = first[:, axis] - begin
        return Boxes(first, stop), corner

    def number(self, position: int) -> int | None:
        """Find the box around one of the positions; None where it is off the image."""
        numbers = self.placed.numbers
        found = int(np.searchsorted(numbers, position))
        if found == len(numbers) or numbers[found] != position or not self.placed.on[found]:
            return None
        return found

    def wcs(self, number: int, mode: Mode) -> WCS | FitsError:
        """Make the WCS of one of the cutouts, or tell why the image has none."""
        wcs = wcs_or_error(self.hdu.wcs_header())
        return wcs if isinstance(wcs, FitsError) else moved(wcs, *self.box(number, mode))

    def box(self, number: int, mode: Mode) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Find the first pixel of one of the cutouts on the image, and its shape."""
        origin, shape = [0] * len(self.shape), list(self.shape)
        boxes, _ = self.boxes(np.array([number]))
        for axis, start in zip(self.axes, self.origin(number, mode), strict=True):
            origin[axis] = start
            if mode == "trim":
                shape[axis] = int(boxes.stop[0, axis]) - start
        return tuple(origin), tuple(shape)

    def origin(self, number: int, mode: Mode) -> tuple[int, int]:
        """Find the pixel y, x that is the first of one of the cutouts."""
        y, x = self.placed.first[number].tolist()
        return (max(y, 0), max(x, 0)) if mode == "trim" else (y, x)


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """What is looked for in each file."""

    targets: Targets
    size: Any
    hdus: tuple[HduKey | None, ...]
    open: Callable[[FilePath | Place], FitsFile]

    def find(self, source: Source) -> list[HDU | FitsError]:
        """Find the HDUs of a file, or why there are none."""
        try:
            file = source if isinstance(source, FitsFile) else self.open(source)
        except FitsError as error:
            return [error] * len(self.hdus)
        found: list[HDU | FitsError] = []
        for key in self.hdus:
            try:
                found.append(file.first_image() if key is None else file[key])
            except FitsError as error:
                found.append(error)
        return found

    def box(self, hdu: HDU) -> tuple[int, int]:
        """Resolve the size of the cutouts by an image."""
        with quiet():
            sky = read_plane(hdu.wcs_header(), len(hdu.shape or ())).sky
            with _about(hdu):
                return check_pixels(size_in_pixels(self.size, sky))

    def image(self, hdu: HDU | FitsError, box: tuple[int, int] | None) -> Image | FitsError:
        """Place the boxes on an image; without their size, tell why it does not resolve it."""
        if isinstance(hdu, FitsError):
            return hdu
        try:
            with quiet():
                return self._image(hdu, box or self.box(hdu))
        except FitsError as error:
            return error

    def _image(self, hdu: HDU, box: tuple[int, int]) -> Image:
        whole = hdu.reader().shape
        check_axes(whole, hdu.where)
        angular = is_angular(self.size)
        needs_sky = angular or self.targets.sky is not None
        plane = plane_for(hdu.wcs_header(), len(whole), sky=needs_sky)
        sky = plane.sky if needs_sky else None
        with _about(hdu):
            own = size_in_pixels(self.size, sky) if angular else box
            if max(abs(own[0] - box[0]), abs(own[1] - box[1])) > 1:
                raise ValueError(
                    f"size: found {own[0]} x {own[1]} pixels, expected about as many as the "
                    f"{box[0]} x {box[1]} of the first image"
                )
            axes = plane.axes
            image = whole[axes[0]], whole[axes[1]]
            placed = place(self.targets, sky, image, box)
        shape = list(whole)
        shape[axes[0]], shape[axes[1]] = box
        return Image(hdu, axes, tuple(shape), placed)


@contextmanager
def _about(hdu: HDU) -> Iterator[None]:
    """Name the HDU that an error is about, whatever astropy raises: one file must not end all."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise FitsFormatError(f"{hdu.where}: {one_line(error)}") from error


def resolved(
    files: Source | Iterable[Source],
    storage_options: Mapping[str, Any] | None,
    filesystem: Any,
) -> Iterator[Source]:
    """List the files, those that match for a path or URL with a ``*``."""
    several = [files] if isinstance(files, FitsFile) or is_one_file(files) else files
    for file in cast("Iterable[Source]", several):
        if isinstance(file, FitsFile):
            yield file
        else:
            yield from places_of(file, storage_options, filesystem)


def label(source: Source) -> str:
    """Name a file as it was given, or as it was found; secrets included."""
    return source[0].store.url if isinstance(source, FitsFile) else label_of(source)


def find_images(
    sources: Sequence[Source], search: Search, progress: Callable[[int, int], object] | None
) -> list[list[Image | FitsError]]:
    """Look at all files, many at the same time: the image or the error of each HDU of each.

    Raises
    ------
    ValueError
        There is no file.
    """
    if not sources:
        raise ValueError("files: expected at least one, found none")
    look = _Look(search, _Box(search, len(sources)))
    found = []
    with filters_kept(), threads(AT_ONCE) as in_threads:
        for images in in_threads(look, enumerate(sources)):
            found.append(images)
            if progress:
                progress(len(found), len(sources))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A look at one file: in one go, so that little of it is held from then on."""

    search: Search
    box: _Box

    def __call__(self, numbered: tuple[int, Source]) -> list[Image | FitsError]:
        number, source = numbered
        hdus = self.search.find(source)
        box = self.box.of(number, hdus)
        images = [self.search.image(hdu, box) for hdu in hdus]
        for hdu in hdus:
            if isinstance(hdu, HDU) and not isinstance(source, FitsFile):
                hdu.file.take_less_memory()
        return images


class _Box:
    """The size of the cutouts in pixels: an angle is resolved by the first image that lets us.

    The first in the order of the files, whichever is opened first.
    """

    def __init__(self, search: Search, count: int) -> None:
        self._search = search
        self._found: Future[tuple[int, int]] = Future()
        self._before: list[Future[tuple[int, int] | None]] = []
        if is_angular(search.size):
            self._before = [Future() for _ in range(count + 1)]
            self._before[0].set_result(None)
        else:
            self._found.set_result(check_pixels(size_in_pixels(search.size, WCS(naxis=2))))

    def of(self, number: int, hdus: Sequence[HDU | FitsError]) -> tuple[int, int] | None:
        """Give the size, once the HDUs of file `number` are known; None if none resolves it yet."""
        if not self._before:
            return self._found.result()
        box = None
        try:
            if self._found.done():
                box = self._found.result()
            elif (box := result_of(self._before[number])) is None:
                box = self._resolved(hdus)
                if box is not None:
                    self._found.set_result(box)
            return box
        finally:
            self._before[number + 1].set_result(box)

    def _resolved(self, hdus: Sequence[HDU | FitsError]) -> tuple[int, int] | None:
        for hdu in hdus:
            if isinstance(hdu, HDU):
                with suppress(FitsError):
                    return self._search.box(hdu)
        return None


def alike(found: list[list[Image | FitsError]]) -> Image:
    """Find the first image, and replace those whose cutouts have another shape by an error."""
    images = [image for some in found for image in some if isinstance(image, Image)]
    if not images:
        raise next(image for some in found for image in some if isinstance(image, FitsError))
    for some in found:
        for slot, image in enumerate(some):
            if isinstance(image, Image) and image.shape != images[0].shape:
                some[slot] = FitsFormatError(
                    f"{image.hdu.where}: found cutouts of shape {image.shape}, expected "
                    f"{images[0].shape} as of {images[0].hdu.where}"
                )
    return images[0]
