"""The rows of a result: the positions on files, and the status of the cutouts there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.collections.outcome import Outcome, errors, values
from dask_fits.exceptions import FitsError
from dask_fits.many_cutouts.images import CutImage
from dask_fits.many_cutouts.targets import Targets
from dask_fits.many_cutouts.tasks import Errors

STATUS = ("ok", "partial", "off", "failed")
"""Statuses of a cutout."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The rows of a result: one for each position on each file that it has a cutout in.

    A position that is on no file has a row, too. The rows are sorted by position, then by file.
    """

    position: Integers
    """(rows,): index of the position."""
    file: Integers
    """(rows,): index of the file; -1 if the position is on none."""
    status: npt.NDArray[np.str_]
    """(rows, slots): ok, partial, off or failed."""
    error: npt.NDArray[np.object_]
    """(rows, slots): the exception if the cutout failed, else None."""
    rows_of_file: tuple[Integers, ...]
    """Rows of each file, ascending."""
    outcomes: Sequence[Outcome[CutImage]]
    """Outcome of each HDU of each file, by file and then by slot."""

    def locate(self, row: int, slot: int) -> tuple[CutImage, int] | None:
        """Return the image that a cutout is of, and the box_index there; None if it is on none."""
        file = int(self.file[row])
        slots = self.status.shape[1]
        image = self.outcomes[file * slots + slot].value if file >= 0 else None
        if image is None:
            return None
        box_index = image.box_index(int(self.position[row]))
        return None if box_index is None else (image, box_index)

    @property
    def errors(self) -> Errors:
        """Errors of the cutouts that failed, by row and slot."""
        rows, slots = np.nonzero(self.status == "failed")
        failed = zip(rows.tolist(), slots.tolist(), strict=True)
        return {(row, slot): self.error[row, slot] for row, slot in failed}

    def with_errors(self, errors: Mapping[tuple[int, int], FitsError]) -> Rows:
        """Return the rows with the status ``failed``, and the error, for some of the cutouts."""
        status = self.status.copy()
        error = self.error.copy()
        for row_and_slot, reason in errors.items():
            status[row_and_slot] = "failed"
            error[row_and_slot] = reason
        return replace(self, status=status, error=error)


def tabulate(outcomes: Sequence[Outcome[CutImage]], targets: Targets, slots: int) -> Rows:
    """List the rows of a result, and the status of each cutout.

    Parameters
    ----------
    outcomes : sequence of Outcome
        By file and then by slot; each file has as many.
    targets : Targets
    slots : int
        HDUs requested of each file.
    """
    outcomes_by_file = [outcomes[start : start + slots] for start in range(0, len(outcomes), slots)]
    # What has a row: the positions of each file, and at last those that are on no file.
    positions_by_file = [_positions_on(images, targets) for images in outcomes_by_file]
    lonely = np.ones(len(targets), bool)
    for positions in positions_by_file:
        lonely[positions] = False
    position, file = _sort_rows([*positions_by_file, np.flatnonzero(lonely)])
    rows_of_file = _group_rows(file, len(outcomes_by_file))

    # A cutout is off unless its own image has the box: the row may be due to another HDU.
    status = np.full((len(file), slots), "off", "<U7")
    error = np.full((len(file), slots), None, object)
    for outcome in outcomes:
        rows = rows_of_file[outcome.file]
        if outcome.value is None:
            status[rows, outcome.slot] = "failed"
            error[rows, outcome.slot] = outcome.error
        else:
            # From the boxes on the image to rows; both are ascending by position.
            placed = outcome.value.placed
            with_box = rows[np.searchsorted(position[rows], placed.positions[placed.on])]
            status[with_box, outcome.slot] = np.where(placed.whole[placed.on], "ok", "partial")

    # A position on no file is off, unless it is invalid, or may be on a file that failed.
    lonely_rows = np.flatnonzero(file < 0)
    reasons = _lonely_errors(position[lonely_rows], outcomes, targets)
    for row in lonely_rows.tolist():
        if reason := reasons.get(int(position[row])):
            status[row] = "failed"
            error[row] = reason
    return Rows(position, file, status, error, rows_of_file, outcomes)


def _positions_on(outcomes: Sequence[Outcome[CutImage]], targets: Targets) -> Integers:
    """Return the positions that have a row for a file, ascending."""
    if targets.sky is None:
        return np.flatnonzero(targets.finite)
    positions = [image.placed.positions for image in values(outcomes)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *positions]))


def _sort_rows(positions_by_file: Sequence[Integers]) -> tuple[Integers, Integers]:
    """Return position and file of each row, sorted by these.

    The last of `positions_by_file` are on no file, which is the file -1.
    """
    position = np.concatenate(positions_by_file).astype(np.int64)
    files = np.array([*range(len(positions_by_file) - 1), -1])
    counts = [len(positions) for positions in positions_by_file]
    file = np.repeat(files, counts).astype(np.int64)
    order = np.lexsort((file, position))
    return position[order], file[order]


def _group_rows(file: Integers, file_count: int) -> tuple[Integers, ...]:
    """Return the rows of each file, ascending; `file` is the file of each row."""
    # Sorted by file they lie between two bounds; a stable sort leaves those of a file in order.
    rows_by_file = np.argsort(file, kind="stable")
    bounds = np.searchsorted(file[rows_by_file], np.arange(file_count + 1))
    return tuple(rows_by_file[low:high] for low, high in pairwise(bounds))


def _lonely_errors(
    positions: Integers, outcomes: Sequence[Outcome[CutImage]], targets: Targets
) -> dict[int, Exception]:
    """Return the errors of positions on no image, without those that are off all images."""
    failures = errors(outcomes)
    reasons: dict[int, Exception] = {}
    for position in positions.tolist():
        if not targets.finite[position]:
            coordinates = targets.describe(position)
            reasons[position] = ValueError(
                f"position {position}: expected finite coordinates, found {coordinates}"
            )
        elif failures:
            reasons[position] = FitsError(
                f"position {position}: on none of the images that could be read; "
                f"{len(failures)} could not, the first: {failures[0]}"
            )
    return reasons
