"""What a file is to hold, and where: known before any pixel is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import dask.array as da
from dask.delayed import Delayed

from dask_fits.format.header import BLOCK
from dask_fits.writing.image_header import HeaderTemplate
from dask_fits.writing.pixels import Target


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What one HDU is to hold."""

    header: HeaderTemplate
    array: da.Array | None
    """The pixels; None if there are none, or if they are at hand."""
    target: Target | None
    """How they are stored; where is set by `FilePlan.of`."""
    data: bytes = b""
    """A data unit that is at hand, without padding."""
    late: Delayed | None = None
    """What computes the data unit that is written instead, of the same length: a table of what
    became of the images."""

    @property
    def data_nbytes(self) -> int:
        """Bytes of the data unit, without padding."""
        return len(self.data) if self.target is None else self.target.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class PlacedHdu:
    """An HDU and its place in the file. All positions are in bytes from the file's start."""

    content: Content
    start: int
    target: Target | None

    @property
    def data_start(self) -> int:
        """Position of the data unit."""
        return self.start + self.content.header.nbytes

    @property
    def data_stop(self) -> int:
        """Position of the padding behind the data unit."""
        return self.data_start + self.content.data_nbytes

    @property
    def stop(self) -> int:
        """Position of the next HDU."""
        return self.data_stop + -self.data_stop % BLOCK


@dataclass(frozen=True, slots=True, eq=False)
class FilePlan:
    """A file that is to be written."""

    hdus: tuple[PlacedHdu, ...]

    @classmethod
    def of(cls, contents: Sequence[Content]) -> FilePlan:
        """Place HDUs one behind the other."""
        hdus: list[PlacedHdu] = []
        start = 0
        for content in contents:
            target = content.target
            if target is not None:
                target = replace(target, start=start + content.header.nbytes)
            hdus.append(PlacedHdu(content, start, target))
            start = hdus[-1].stop
        return cls(tuple(hdus))

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return self.hdus[-1].stop
