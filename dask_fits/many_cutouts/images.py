"""The images of many files, and the boxes around positions that lie on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from astropy.wcs import WCS

from dask_fits._typing import Integers, Progress, Size
from dask_fits.collections.outcome import Outcome, errors, values
from dask_fits.collections.sources import Source, inspect_files
from dask_fits.concurrency.cancellation import result_of
from dask_fits.cutout import Mode, check_axes, check_pixels, is_angular, plane_for, size_in_pixels
from dask_fits.exceptions import FitsError, FitsFormatError, one_line
from dask_fits.file.fits_file import FitsFile, select_image
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.many_cutouts.targets import PlacedBoxes, Targets, place_boxes
from dask_fits.planning.boxes import Boxes
from dask_fits.storage.place import FilePath, Place
from dask_fits.wcs.plane import read_plane, wcs_or_error
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.resampling import moved


@dataclass(frozen=True, slots=True, eq=False)
class CutImage:
    """One image HDU of one file, and the boxes that are cut out of it."""

    hdu: HDU
    axes: tuple[int, int]
    """Axes that are cut, y and x."""
    shape: tuple[int, ...]
    """Shape of a cutout: that of the image, but of the box along the axes that are cut."""
    placed: PlacedBoxes

    def clip(self, box_indices: Integers) -> tuple[Boxes, Integers]:
        """Clip some of the boxes to the image.

        Returns
        -------
        boxes : Boxes
            The parts of the boxes that are on the image.
        offsets : (n, ndim) int64 array
            Pixels between the first of each box and the first of its part.
        """
        # Along the axes that are not cut, a box is all of the image.
        lengths = np.array(self.hdu.shape)
        first = np.zeros((len(box_indices), len(lengths)), np.int64)
        stop = np.broadcast_to(lengths, first.shape).copy()
        offsets = np.zeros_like(first)
        for plane_axis, axis in enumerate(self.axes):
            begin = self.placed.first[box_indices, plane_axis]
            first[:, axis] = np.maximum(begin, 0)
            stop[:, axis] = np.minimum(begin + self.shape[axis], lengths[axis])
            offsets[:, axis] = first[:, axis] - begin
        return Boxes(first, stop), offsets

    def box_index(self, position: int) -> int | None:
        """Return the index of the box around a position; None if the box is off the image."""
        positions = self.placed.positions
        index = int(np.searchsorted(positions, position))
        if index == len(positions) or positions[index] != position or not self.placed.on[index]:
            return None
        return index

    def wcs(self, box_index: int, mode: Mode) -> WCS | FitsError:
        """Return the WCS of one cutout, or the reason why the image has none."""
        wcs = wcs_or_error(self.hdu.wcs_header())
        return wcs if isinstance(wcs, FitsError) else moved(wcs, *self.bounds(box_index, mode))

    def bounds(self, box_index: int, mode: Mode) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the first pixel of one cutout on the image, along all axes, and its shape."""
        origin = [0] * len(self.shape)
        shape = list(self.shape)
        clipped, _ = self.clip(np.array([box_index]))
        for axis, start in zip(self.axes, self.origin(box_index, mode), strict=True):
            origin[axis] = start
            if mode == "trim":
                shape[axis] = int(clipped.stop[0, axis]) - start
        return tuple(origin), tuple(shape)

    def origin(self, box_index: int, mode: Mode) -> tuple[int, int]:
        """Return the pixel y, x of the image that is the first of one cutout."""
        y, x = self.placed.first[box_index].tolist()
        return (max(y, 0), max(x, 0)) if mode == "trim" else (y, x)


@dataclass(frozen=True, slots=True, eq=False)
class Search:
    """A search of files for the HDUs and boxes that a job of cutouts needs."""

    targets: Targets
    size: Size
    hdus: tuple[HduKey | None, ...]
    """Keys of the HDUs of each file, by slot; None for the first image."""
    open: Callable[[FilePath | Place], FitsFile]

    def find_hdus(self, file_index: int, source: Source) -> list[Outcome[HDU]]:
        """Open a file; return the outcome of finding the HDU of each slot."""
        if isinstance(source, HDU):
            return [Outcome(file_index, 0, source, None)]
        if isinstance(source, FitsError):
            return [Outcome(file_index, 0, None, source)]
        try:
            file = source if isinstance(source, FitsFile) else self.open(source)
        except FitsError as error:
            return [Outcome(file_index, slot, None, error) for slot in range(len(self.hdus))]
        return [
            Outcome.of(file_index, slot, partial(select_image, file, key))
            for slot, key in enumerate(self.hdus)
        ]

    def box_shape(self, hdu: HDU) -> tuple[int, int]:
        """Resolve the size of the cutouts with the WCS of an image: height and width in pixels."""
        with quiet():
            sky = read_plane(hdu.wcs_header(), len(hdu.shape or ())).sky
            with _raise_about(hdu):
                return check_pixels(size_in_pixels(self.size, sky))

    def place(self, hdu: HDU, box_shape: tuple[int, int] | None) -> CutImage:
        """Place the boxes on an image, whose WCS resolves their size if `box_shape` is None.

        Raises
        ------
        FitsError
            The HDU is no image, has no usable WCS, or resolves the size to another shape.
        """
        with quiet():
            return self._place(hdu, box_shape or self.box_shape(hdu))

    def _place(self, hdu: HDU, box_shape: tuple[int, int]) -> CutImage:
        image_shape = hdu.reader().shape
        check_axes(image_shape, hdu.where)
        # Pixels alone need no WCS, and work on images that have none.
        angular = is_angular(self.size)
        needs_sky = angular or self.targets.sky is not None
        plane = plane_for(hdu.wcs_header, len(image_shape), sky=needs_sky)
        sky = plane.sky if needs_sky else None
        y_axis, x_axis = plane.axes
        with _raise_about(hdu):
            if angular:
                _check_scale(size_in_pixels(self.size, sky), box_shape)
            plane_shape = image_shape[y_axis], image_shape[x_axis]
            placed = place_boxes(self.targets, sky, plane_shape, box_shape)
        shape = list(image_shape)
        shape[y_axis], shape[x_axis] = box_shape
        return CutImage(hdu, plane.axes, tuple(shape), placed)


def _check_scale(own_shape: tuple[int, int], box_shape: tuple[int, int]) -> None:
    """Raise ValueError if an image's pixels are of another size than those of the first image."""
    if max(abs(own_shape[0] - box_shape[0]), abs(own_shape[1] - box_shape[1])) > 1:
        raise ValueError(
            f"size: found {own_shape[0]} x {own_shape[1]} pixels, expected about as many as the "
            f"{box_shape[0]} x {box_shape[1]} of the first image"
        )


@contextmanager
def _raise_about(hdu: HDU) -> Iterator[None]:
    """Raise any error as a FitsFormatError that names the HDU: one file must not end the job."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise FitsFormatError(f"{hdu.where}: {one_line(error)}") from error


def find_images(
    sources: Sequence[Source], search: Search, progress: Progress | None
) -> list[Outcome[CutImage]]:
    """Search all files; return the outcome of each HDU of each file.

    Raises
    ------
    ValueError
        There is no file.
    """
    resolver = _SizeResolver(search, len(sources))

    def inspect(file_index: int, source: Source) -> list[Outcome[CutImage]]:
        hdus = search.find_hdus(file_index, source)
        box_shape = resolver.resolve(file_index, hdus)
        images = [hdu.then(lambda hdu: search.place(hdu, box_shape)) for hdu in hdus]
        # A file that was opened here is seen by nobody else, and there may be ten thousand.
        if not isinstance(source, (FitsFile, HDU)):
            for found in values(hdus):
                found.file.take_less_memory()
        return images

    with filters_kept():
        return inspect_files(sources, inspect, progress)


class _SizeResolver:
    """The shape of the boxes in pixels; an angle is resolved by the first image with a usable WCS.

    The first in the order of the files, though they are opened concurrently and in any order. So
    file ``n`` waits until the files before it have been asked, each of which passes on to the next
    what is known::

        None -> file 0 -> None -> file 1 -> (64, 64) -> file 2 -> (64, 64) -> ...
                no WCS            resolves it           uses it
    """

    def __init__(self, search: Search, file_count: int) -> None:
        self._search = search
        self._box_shape: Future[tuple[int, int]] = Future()
        # Of file n: the shape as the files before it resolve it, or None. Empty for pixels.
        self._shape_before: list[Future[tuple[int, int] | None]] = []
        if is_angular(search.size):
            self._shape_before = [Future() for _ in range(file_count + 1)]
            self._shape_before[0].set_result(None)
        else:
            self._box_shape.set_result(check_pixels(size_in_pixels(search.size, WCS(naxis=2))))

    def resolve(self, file_index: int, hdus: Sequence[Outcome[HDU]]) -> tuple[int, int] | None:
        """Return the shape once the HDUs of a file are known; None if no file resolves it yet."""
        if not self._shape_before:
            return self._box_shape.result()
        box_shape = None
        try:
            # Once a file has resolved it, those after it need not wait for those between.
            if self._box_shape.done():
                box_shape = self._box_shape.result()
            elif (box_shape := result_of(self._shape_before[file_index])) is None:
                box_shape = self._first_shape(hdus)
                if box_shape is not None:
                    self._box_shape.set_result(box_shape)
            return box_shape
        finally:
            # The next file waits for this, even if an error ends the work on this one.
            self._shape_before[file_index + 1].set_result(box_shape)

    def _first_shape(self, hdus: Sequence[Outcome[HDU]]) -> tuple[int, int] | None:
        """Resolve the size with the first HDU whose WCS can; None if there is none."""
        for hdu in values(hdus):
            with suppress(FitsError):
                return self._search.box_shape(hdu)
        return None


def reject_other_shapes(outcomes: Sequence[Outcome[CutImage]]) -> list[Outcome[CutImage]]:
    """Replace images by errors if their cutouts have another shape than those of the first image.

    Raises
    ------
    FitsError
        There is no image: the error of the first HDU.
    """
    first = next(iter(values(outcomes)), None)
    if first is None:
        raise errors(outcomes)[0]

    def check_shape(image: CutImage) -> CutImage:
        if image.shape != first.shape:
            raise FitsFormatError(
                f"{image.hdu.where}: found cutouts of shape {image.shape}, expected "
                f"{first.shape} as of {first.hdu.where}"
            )
        return image

    return [outcome.then(check_shape) for outcome in outcomes]
