"""What became of each position: the rows of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.exceptions import FitsError
from dask_fits.many_cutouts.images import Image
from dask_fits.many_cutouts.targets import Targets

STATUS = ("ok", "partial", "off", "failed")
"""What may become of a cutout."""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a result: each position on each file that it has a cutout in."""

    position: Integers
    """(n,): which of the positions."""
    file: Integers
    """(n,): which of the files; -1 where it is on none."""
    status: npt.NDArray[np.str_]
    """(n, hdus): ok, partial, off or failed."""
    error: npt.NDArray[np.object_]
    """(n, hdus): why it failed; None where it did not."""
    rows: tuple[Integers, ...]
    """Rows of each file, ascending."""
    images: Sequence[Sequence[Image | FitsError]]
    """The HDUs of each file, or why there are none."""

    def image(self, row: int, slot: int) -> tuple[Image, int] | None:
        """Find the image that a cutout is of, and which of its boxes; None where it is on none."""
        file = int(self.file[row])
        image = self.images[file][slot] if file >= 0 else None
        if not isinstance(image, Image):
            return None
        number = image.number(int(self.position[row]))
        return None if number is None else (image, number)

    @property
    def errors(self) -> dict[tuple[int, int], FitsError]:
        """Why cutouts failed, by row and slot."""
        rows, slots = np.nonzero(self.status == "failed")
        at = zip(rows.tolist(), slots.tolist(), strict=True)
        return {index: self.error[index] for index in at}

    def after(self, errors: Mapping[tuple[int, int], FitsError]) -> Table:
        """Note what turned out to be unreadable, by row and slot."""
        status, why = self.status.copy(), self.error.copy()
        for index, error in errors.items():
            status[index], why[index] = "failed", error
        return replace(self, status=status, error=why)


def tabulate(found: Sequence[Sequence[Image | FitsError]], targets: Targets, slots: int) -> Table:
    """List the cutouts by position, then by file."""
    numbers = [_numbers(images, targets) for images in found]
    lonely = np.ones(len(targets), bool)
    for some in numbers:
        lonely[some] = False
    position = np.concatenate([*numbers, np.flatnonzero(lonely)]).astype(np.int64)
    counts = [*(len(some) for some in numbers), np.count_nonzero(lonely)]
    file = np.repeat(np.array([*range(len(found)), -1]), np.array(counts)).astype(np.int64)
    order = np.lexsort((file, position))
    position, file = position[order], file[order]
    by_file = np.argsort(file, kind="stable")
    bounds = np.searchsorted(file[by_file], np.arange(len(found) + 1))
    rows = tuple(by_file[low:high] for low, high in pairwise(bounds))
    status = np.full((len(file), slots), "off", "<U7")
    error = np.full((len(file), slots), None, object)
    table = Table(position, file, status, error, rows, found)
    for own, images in zip(rows, found, strict=True):
        for slot, image in enumerate(images):
            if isinstance(image, FitsError):
                status[own, slot], error[own, slot] = "failed", image
            else:
                on, whole = image.placed.on, image.placed.whole
                at = own[np.searchsorted(position[own], image.placed.numbers[on])]
                status[at, slot] = np.where(whole[on], "ok", "partial")
    _explain_lonely(table, found, targets)
    return table


def _numbers(images: Sequence[Image | FitsError], targets: Targets) -> Integers:
    """List the positions that have a row for a file."""
    if targets.sky is None:
        return np.flatnonzero(targets.finite)
    placed = [image.placed.numbers for image in images if isinstance(image, Image)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *placed]))


def _explain_lonely(
    table: Table, found: Sequence[Sequence[Image | FitsError]], targets: Targets
) -> None:
    """Tell why positions are on no image, where it is not that they are off all of them."""
    lonely = np.flatnonzero(table.file < 0)
    failed = [image for images in found for image in images if isinstance(image, FitsError)]
    for row in lonely.tolist():
        number = int(table.position[row])
        if not targets.finite[number]:
            said: Exception = ValueError(
                f"position {number}: expected finite coordinates, found {targets.told(number)}"
            )
        elif failed:
            said = FitsError(
                f"position {number}: on none of the images that could be read; "
                f"{len(failed)} could not, the first: {failed[0]}"
            )
        else:
            continue
        table.status[row], table.error[row] = "failed", said
