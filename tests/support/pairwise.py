"""Few cases for many."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Choose from the cross product of the axes: each two values of two axes meet in a case.

    The choice is greedy, and always the same.
    """
    cases = {
        case: set(itertools.combinations(enumerate(case), 2))
        for case in itertools.product(*(range(len(axis)) for axis in axes))
    }
    missing, chosen = set().union(*cases.values()), []
    while missing:
        best = max(cases, key=lambda case: len(missing & cases[case]))
        chosen.append(tuple(axis[n] for axis, n in zip(axes, best, strict=True)))
        missing -= cases[best]
    return chosen
