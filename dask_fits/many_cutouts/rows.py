"""What became of each position: the rows of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.collections.outcome import Outcome, errors, values
from dask_fits.exceptions import FitsError
from dask_fits.many_cutouts.images import Image
from dask_fits.many_cutouts.targets import Targets

STATUS = ("ok", "partial", "off", "failed")
"""What may become of a cutout."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
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
    outcomes: Sequence[Outcome[Image]]
    """What became of each HDU of each file."""

    def image(self, row: int, slot: int) -> tuple[Image, int] | None:
        """Find the image that a cutout is of, and which of its boxes; None where it is on none."""
        file, slots = int(self.file[row]), self.status.shape[1]
        image = self.outcomes[file * slots + slot].value if file >= 0 else None
        if image is None:
            return None
        box = image.box_index(int(self.position[row]))
        return None if box is None else (image, box)

    @property
    def errors(self) -> dict[tuple[int, int], FitsError]:
        """Why cutouts failed, by row and slot."""
        rows, slots = np.nonzero(self.status == "failed")
        at = zip(rows.tolist(), slots.tolist(), strict=True)
        return {index: self.error[index] for index in at}

    def after(self, errors: Mapping[tuple[int, int], FitsError]) -> Rows:
        """Note what turned out to be unreadable, by row and slot."""
        status, why = self.status.copy(), self.error.copy()
        for index, error in errors.items():
            status[index], why[index] = "failed", error
        return replace(self, status=status, error=why)


def tabulate(outcomes: Sequence[Outcome[Image]], targets: Targets, slots: int) -> Rows:
    """List the cutouts by position, then by file.

    Parameters
    ----------
    outcomes : sequence of Outcome
        By file and then by slot, of which each file has as many.
    targets : Targets
    slots : int
        HDUs that are wanted of each file.
    """
    by_file = [outcomes[start : start + slots] for start in range(0, len(outcomes), slots)]
    # The positions of each file, and at last those that are on none.
    positions = [_positions(images, targets) for images in by_file]
    lonely = np.ones(len(targets), bool)
    for own in positions:
        lonely[own] = False
    positions.append(np.flatnonzero(lonely))
    position = np.concatenate(positions).astype(np.int64)
    files = np.array([*range(len(by_file)), -1])
    file = np.repeat(files, [len(own) for own in positions]).astype(np.int64)
    order = np.lexsort((file, position))
    position, file = position[order], file[order]
    # Rows of each file: sorted by file, they lie between these bounds.
    rows_by_file = np.argsort(file, kind="stable")
    bounds = np.searchsorted(file[rows_by_file], np.arange(len(by_file) + 1))
    rows = tuple(rows_by_file[low:high] for low, high in pairwise(bounds))

    status = np.full((len(file), slots), "off", "<U7")
    error = np.full((len(file), slots), None, object)
    for outcome in outcomes:
        own = rows[outcome.file]
        if outcome.value is None:
            status[own, outcome.slot], error[own, outcome.slot] = "failed", outcome.error
        else:
            placed = outcome.value.placed
            at = own[np.searchsorted(position[own], placed.positions[placed.on])]
            status[at, outcome.slot] = np.where(placed.whole[placed.on], "ok", "partial")
    why = _why_lonely(positions[-1], outcomes, targets)
    for row in np.flatnonzero(file < 0).tolist():
        if reason := why.get(int(position[row])):
            status[row], error[row] = "failed", reason
    return Rows(position, file, status, error, rows, outcomes)


def _positions(outcomes: Sequence[Outcome[Image]], targets: Targets) -> Integers:
    """List the positions that have a row for a file."""
    if targets.sky is None:
        return np.flatnonzero(targets.finite)
    placed = [image.placed.positions for image in values(outcomes)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *placed]))


def _why_lonely(
    positions: Integers, outcomes: Sequence[Outcome[Image]], targets: Targets
) -> dict[int, Exception]:
    """Tell why positions are on no image, unless it is that they lie off all of them."""
    failed = errors(outcomes)
    why: dict[int, Exception] = {}
    for position in positions.tolist():
        if not targets.finite[position]:
            why[position] = ValueError(
                f"position {position}: expected finite coordinates, found {targets.told(position)}"
            )
        elif failed:
            why[position] = FitsError(
                f"position {position}: on none of the images that could be read; "
                f"{len(failed)} could not, the first: {failed[0]}"
            )
    return why
