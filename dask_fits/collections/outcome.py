"""What became of each HDU that is wanted of many files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dask_fits.exceptions import FitsError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Generic[T]):
    """What was made of one HDU of one file, or why nothing was.

    The outcomes of many files are one flat sequence, by file and then by slot, so that a file that
    fails is a record among the others.
    """

    file: int
    """Which of the files."""
    slot: int
    """Which of the HDUs that are wanted of each file."""
    value: T | None
    """What was made of it; None if that failed."""
    error: FitsError | None
    """Why it failed; None if it did not."""

    @classmethod
    def of(cls, file: int, slot: int, make: Callable[[], T]) -> Outcome[T]:
        """Make something, and take an error of ours for what became of it."""
        try:
            return cls(file, slot, make(), None)
        except FitsError as error:
            return cls(file, slot, None, error)

    def then(self, make: Callable[[T], R]) -> Outcome[R]:
        """Go on with what was made; an error stays what it is."""
        if self.value is None:
            return Outcome(self.file, self.slot, None, self.error)
        value = self.value
        return Outcome.of(self.file, self.slot, lambda: make(value))

    def failed(self, error: FitsError) -> Outcome[T]:
        """Replace what was made by an error."""
        return Outcome(self.file, self.slot, None, error)


def values(outcomes: Iterable[Outcome[T]]) -> list[T]:
    """List what was made, without what failed."""
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def errors(outcomes: Iterable[Outcome[T]]) -> list[FitsError]:
    """List why the others failed."""
    return [outcome.error for outcome in outcomes if outcome.error is not None]
