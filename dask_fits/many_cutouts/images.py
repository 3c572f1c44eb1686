"""The images of many files, and the boxes around positions that lie on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.wcs import WCS

from dask_fits._typing import Integers, Size
from dask_fits.collections.outcome import Outcome, errors, values
from dask_fits.collections.sources import Progress, Source, look_at_files
from dask_fits.concurrency.cancellation import result_of
from dask_fits.cutout import Mode, check_axes, check_pixels, is_angular, plane_for, size_in_pixels
from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.many_cutouts.targets import Placed, Targets, place_boxes
from dask_fits.planning.boxes import Boxes
from dask_fits.storage.place import FilePath, Place
from dask_fits.wcs.plane import read_plane, wcs_or_error
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.resampling import moved


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

    def box_index(self, position: int) -> int | None:
        """Find the box around one of the positions; None where it is off the image."""
        positions = self.placed.positions
        found = int(np.searchsorted(positions, position))
        if found == len(positions) or positions[found] != position or not self.placed.on[found]:
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
    size: Size
    hdus: tuple[HduKey | None, ...]
    open: Callable[[FilePath | Place], FitsFile]

    def find(self, number: int, source: Source) -> list[Outcome[HDU]]:
        """Find the HDUs of a file, `number` of all files."""
        try:
            file = source if isinstance(source, FitsFile) else self.open(source)
        except FitsError as error:
            return [Outcome(number, slot, None, error) for slot in range(len(self.hdus))]
        return [
            Outcome.of(number, slot, partial(_hdu, file, key)) for slot, key in enumerate(self.hdus)
        ]

    def box(self, hdu: HDU) -> tuple[int, int]:
        """Resolve the size of the cutouts by an image."""
        with quiet():
            sky = read_plane(hdu.wcs_header(), len(hdu.shape or ())).sky
            with _about(hdu):
                return check_pixels(size_in_pixels(self.size, sky))

    def image(self, hdu: HDU, box: tuple[int, int] | None) -> Image:
        """Place the boxes on an image, whose WCS resolves their size if no `box` gives it.

        Raises
        ------
        FitsError
            It cannot be used.
        """
        with quiet():
            return self._image(hdu, box or self.box(hdu))

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
            placed = place_boxes(self.targets, sky, image, box)
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


def _hdu(file: FitsFile, key: HduKey | None) -> HDU:
    return file.first_image() if key is None else file[key]


def find_images(
    sources: Sequence[Source], search: Search, progress: Progress | None
) -> list[Outcome[Image]]:
    """Look at all files: what became of each HDU of each.

    Raises
    ------
    ValueError
        There is no file.
    """
    sizes = _Sizes(search, len(sources))

    def look(number: int, source: Source) -> list[Outcome[Image]]:
        hdus = search.find(number, source)
        box = sizes.of(number, hdus)
        images = [hdu.then(lambda hdu: search.image(hdu, box)) for hdu in hdus]
        if not isinstance(source, FitsFile):
            for hdu in values(hdus):
                hdu.file.take_less_memory()
        return images

    with filters_kept():
        return look_at_files(sources, look, progress)


class _Sizes:
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

    def of(self, number: int, hdus: Sequence[Outcome[HDU]]) -> tuple[int, int] | None:
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

    def _resolved(self, hdus: Sequence[Outcome[HDU]]) -> tuple[int, int] | None:
        for hdu in values(hdus):
            with suppress(FitsError):
                return self._search.box(hdu)
        return None


def reject_other_shapes(outcomes: Sequence[Outcome[Image]]) -> list[Outcome[Image]]:
    """Take images for failed whose cutouts have another shape than those of the first image.

    Raises
    ------
    FitsError
        There is no image: why the first HDU has none.
    """
    first = next(iter(values(outcomes)), None)
    if first is None:
        raise errors(outcomes)[0]

    def checked(image: Image) -> Image:
        if image.shape != first.shape:
            raise FitsFormatError(
                f"{image.hdu.where}: found cutouts of shape {image.shape}, expected "
                f"{first.shape} as of {first.hdu.where}"
            )
        return image

    return [outcome.then(checked) for outcome in outcomes]
