"""Outcomes: the result or the error of each HDU of many files, as one flat sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from dask_fits.exceptions import FitsError

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome(Generic[T]):
    """The value made of one HDU of one file, or the error that prevented it.

    The outcomes of many files are one flat sequence, by file and then by slot, so that a file that
    fails is a record among the others.
    """

    file: int
    """Index of the file."""
    slot: int
    """Index of the HDU among those requested of each file."""
    value: T | None
    """The value; None if it failed."""
    error: FitsError | None
    """The reason of the failure; None if there is a value."""

    @classmethod
    def of(cls, file: int, slot: int, make: Callable[[], T]) -> Outcome[T]:
        """Call `make`; return its value, or the FitsError that it raises, as an outcome."""
        try:
            return cls(file, slot, make(), None)
        except FitsError as error:
            return cls(file, slot, None, error)

    def then(self, make: Callable[[T], R]) -> Outcome[R]:
        """Return the outcome of `make` with this value; an error stays as it is."""
        if self.value is None:
            return Outcome(self.file, self.slot, None, self.error)
        value = self.value
        return Outcome.of(self.file, self.slot, lambda: make(value))


def values(outcomes: Iterable[Outcome[T]]) -> list[T]:
    """List the values of the outcomes that have one."""
    return [outcome.value for outcome in outcomes if outcome.value is not None]


def errors(outcomes: Iterable[Outcome[T]]) -> list[FitsError]:
    """List the errors of the outcomes that failed."""
    return [outcome.error for outcome in outcomes if outcome.error is not None]
