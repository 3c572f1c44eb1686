"""The images of a stack, in order: what a task carries of them, and their readers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Protocol

import cloudpickle
from dask.base import tokenize

from dask_fits._typing import Integers
from dask_fits.exceptions import FitsError
from dask_fits.readers.reader import HduReader


class Frames(Protocol):
    """The images of a stack, in order.

    Frames are values: they are pickled with each task, and with the graph, so they are compact
    once pickled, and hold no handle.
    """

    def __len__(self) -> int: ...

    def take(self, indices: Integers) -> Frames:
        """Take some of the frames, in the order of their indices; does no I/O.

        It is called for each task of a graph, maybe by the scheduler of a cluster, and when a part
        of a stack is pickled.

        Parameters
        ----------
        indices : (n,) int64 array
            Ascending, from 0, each once.
        """

    def readers(self) -> Sequence[HduReader | FitsError]:
        """Return each frame's reader, or the error that keeps it from being read.

        Called by the task that reads the frames; may do I/O.

        Raises
        ------
        FitsError
            What tells where the frames are cannot be read.
        """

    def __dask_tokenize__(self) -> object:
        """Return what tells the pixels of the frames apart from all others, in every process alike.

        Called whenever a selection is made, of frames that were taken as well: it takes no time
        that grows with the frames.
        """


class ReaderFrames:
    """Frames whose readers are at hand; see `Frames`."""

    __slots__ = ("_digest", "_readers")

    def __init__(self, readers: Sequence[HduReader | FitsError], digest: str | None = None) -> None:
        """Take the readers of frames.

        Parameters
        ----------
        readers : sequence of HduReader or FitsError
            In the place of a reader, the error that keeps the frame from being read.
        digest : str, optional
            The digest of these readers, if it is known.
        """
        self._readers = tuple(readers)
        self._digest = digest

    def __len__(self) -> int:
        return len(self._readers)

    def take(self, indices: Integers) -> ReaderFrames:
        """Take some of the frames; see `Frames`."""
        return ReaderFrames([self._readers[index] for index in indices.tolist()])

    def readers(self) -> Sequence[HduReader | FitsError]:
        """Return each frame's reader, or the error that keeps it from being read."""
        return self._readers

    def __repr__(self) -> str:
        return f"<ReaderFrames: {len(self)} frames>"

    def __dask_tokenize__(self) -> object:
        if self._digest is None:
            self._digest = tokenize([_token(reader) for reader in self._readers])
        return "dask_fits.ReaderFrames", self._digest

    def __reduce__(self) -> tuple[object, ...]:
        # Readers of the files of one observation are much alike.
        return _unpack, (zlib.compress(cloudpickle.dumps(self._readers), 1), self._digest)


def _token(reader: HduReader | FitsError) -> tuple[object, ...]:
    if isinstance(reader, FitsError):
        return type(reader).__name__, str(reader)
    return reader.__dask_tokenize__()


def _unpack(packed: bytes, digest: str | None) -> ReaderFrames:
    return ReaderFrames(cloudpickle.loads(zlib.decompress(packed)), digest)
