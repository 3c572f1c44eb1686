"""The frames of a stack as one array-like, which reads several of them at the same time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers, Key
from dask_fits.concurrency.cancellation import Map, raise_if_cancelled, threads
from dask_fits.exceptions import FitsError, FitsFormatError, renew
from dask_fits.planning.chunks import ReadPlan, contiguous_chunk_shape
from dask_fits.planning.selection import Indices, Selection, select
from dask_fits.readers.base import IndexedReader
from dask_fits.readers.reader import HduReader
from dask_fits.stacks.frames import Frames

READS = 16
"""Frames that one read takes at the same time, at most."""

MAX_FRAMES = 1000
"""Frames of an ``"auto"`` chunk, at most: opening as many files takes longer than a task should."""

FillValue = float | np.number[Any] | None
"""Value of the pixels of a frame that cannot be read; None if it is an error."""


@dataclass(frozen=True, slots=True, eq=False)
class StackReader(IndexedReader):
    """The pixels of N frames of one shape, frames first; see `PixelReader`.

    Frames may differ in everything else: pixels are those of the frame, as the stack's type.

    Raises
    ------
    FitsError
        If there is no fill value: that of the first frame that cannot be read.
    """

    frames: Frames
    frame_shape: tuple[int, ...]
    """Shape of each frame, NumPy order."""
    dtype: np.dtype[Any]
    """Type of the pixels, in native byte order."""
    fill_value: FillValue = None
    """Value of all the pixels of a frame that cannot be read; None if its error is raised."""
    picked: tuple[Integers | None, ...] = ()
    """Indices along each axis of the frames, ascending, which the stack has instead of all; None
    for all of the axis. Empty if it has all of all."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape: frames first, then the axes of a frame in NumPy order."""
        picked = self.picked or (None,) * len(self.frame_shape)
        lengths = zip(picked, self.frame_shape, strict=True)
        return (
            len(self.frames),
            *(length if indices is None else len(indices) for indices, length in lengths),
        )

    def take(self, axis: int, indices: Indices) -> StackReader:
        """Take some indices along an axis, ascending: axis 0 are the frames."""
        taken = np.asarray(indices, np.int64)
        if axis == 0:
            return replace(self, frames=self.frames.take(taken))
        picked = list(self.picked or (None,) * len(self.frame_shape))
        before = picked[axis - 1]
        picked[axis - 1] = taken if before is None else before[taken]
        return replace(self, picked=tuple(picked))

    def read(self, selection: Selection) -> Any:
        """Read a selection; see `PixelReader`."""
        pixels, _ = self._read(selection)
        return pixels

    def read_frames(self, key: Key) -> tuple[Any, dict[int, FitsError]]:
        """Read pixels, and tell which frames could not be read.

        Parameters
        ----------
        key : int, slice, Ellipsis, None, 1-D list of int or bool, or a tuple of these
            As for a NumPy array.

        Returns
        -------
        pixels : numpy.ndarray or scalar
            What indexing with the key returns.
        errors : dict
            The error of each frame that is filled, by its index along axis 0.
        """
        return self._read(select(key, self.shape))

    def _read(self, selection: Selection) -> tuple[Any, dict[int, FitsError]]:
        """Read a selection; return the result, and the errors of frames that are filled."""
        pixels = selection.empty(self.dtype)
        slots = pixels.reshape(selection.shape)
        errors: dict[int, FitsError] = {}
        if slots.size:  # else nothing is read
            wanted = selection.indices[0]
            box = self._frame_box(selection.indices)
            slots_of_frames = [_Slot.of(box, slot) for slot in slots]
            jobs = zip(self._readers(wanted), slots_of_frames, strict=True)
            with _in_threads(len(wanted)) as run:
                # In order, so that of several errors the first frame's is raised.
                for frame, error in zip(wanted, run(self._read_frame, jobs), strict=True):
                    if error is not None:
                        errors[int(frame)] = error
        return selection.result(pixels), errors

    def _readers(self, wanted: Indices) -> Sequence[HduReader | FitsError]:
        """Return the readers of some frames."""
        if len(wanted) == len(self.frames):
            return self.frames.readers()
        return self.frames.take(np.asarray(wanted, np.int64)).readers()

    def _frame_box(self, indices: tuple[Indices, ...]) -> tuple[Indices, ...]:
        """Find the indices along the axes of a frame that are wanted of each."""
        if not self.picked:
            return indices[1:]
        return tuple(
            axis if picked is None else picked[axis]
            for picked, axis in zip(self.picked, indices[1:], strict=True)
        )

    def _read_frame(self, job: tuple[HduReader | FitsError, _Slot]) -> FitsError | None:
        """Read a frame into its slot, or fill the slot and return the error."""
        reader, slot = job
        raise_if_cancelled()
        try:
            pixels = self._checked(reader).read(slot)
        except FitsError as error:
            if self.fill_value is None:
                raise
            # All of it, whatever has been read before the error.
            slot.memory[...] = self.fill_value
            # With its traceback, the error would keep the pixels of all frames in memory.
            return error.with_traceback(None)
        if pixels is not slot.memory:
            slot.memory[...] = pixels
        return None

    def _checked(self, reader: HduReader | FitsError) -> HduReader:
        """Return a frame's reader; raise if there is none, or the frame has another shape."""
        if isinstance(reader, FitsError):
            raise renew(reader)
        if reader.shape != self.frame_shape:
            raise FitsFormatError(
                f"{reader.where}: found an image of shape {reader.shape}, expected "
                f"{self.frame_shape} as of the other frames of the stack"
            )
        return reader

    def contiguous_chunk(self, limit: int) -> tuple[int, ...]:
        """Return the shape of a chunk of at most `limit` bytes: whole frames, or a part of one."""
        frames, *frame = contiguous_chunk_shape(
            self.shape, itemsize=self.dtype.itemsize, limit=limit
        )
        return (min(frames, MAX_FRAMES), *frame)

    def check(self, selection: Selection) -> None:
        """Raise if a file cannot hold the wanted pixels; see `PixelReader`."""
        box = Selection.of_box(self._frame_box(selection.indices))
        for reader in self._readable(selection.indices[0]):
            reader.check(box)

    def plan(self, indices: tuple[Indices, ...]) -> ReadPlan:
        """Return the requests of reading a box of pixels; frames that are filled make none."""
        box = self._frame_box(indices)
        return ReadPlan.of_chunks(reader.plan(box) for reader in self._readable(indices[0]))

    def _readable(self, wanted: Indices) -> Iterator[HduReader]:
        """Iterate over the readers of some frames, without those that are filled."""
        for reader in self._readers(wanted):
            try:
                yield self._checked(reader)
            except FitsError:
                if self.fill_value is None:
                    raise

    def __dask_tokenize__(self) -> tuple[object, ...]:
        # As pixels, since there are several ways to write a number, NaN among them.
        fill_value = self.fill_value
        fill = None if fill_value is None else np.array(fill_value).astype(self.dtype).tobytes()
        return (
            "dask_fits.StackReader",
            self.frames.__dask_tokenize__(),
            self.frame_shape,
            self.dtype.str,
            fill,
            self.picked,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Slot(Selection):
    """A box of a frame, which is read into memory that is there already."""

    memory: npt.NDArray[Any]
    """C-contiguous array of the box's shape."""

    @classmethod
    def of(cls, box: tuple[Indices, ...], memory: npt.NDArray[Any]) -> _Slot:
        """Select a box of pixels as it is, to be read into an array."""
        whole = Selection.of_box(box)
        return cls(whole.indices, whole.key, whole.result_shape, whole.listed, memory)

    def empty(self, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return the memory; of another type, new memory, whose pixels have to be copied."""
        return self.memory if dtype == self.memory.dtype else Selection.empty(self, dtype)


def _in_threads(count: int) -> AbstractContextManager[Map]:
    """Return threads for so many calls, at most `READS`; a single one is made in this thread."""
    return threads(min(count, READS)) if count > 1 else nullcontext(map)
