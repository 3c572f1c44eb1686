"""How kernels are compiled: the only importer of numba, so only imported where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba.cpython.unsafe import numbers

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("NUMBA_DISABLE_JIT is set, and the kernels are no Python")

leading_zeros: Any = numbers.leading_zeros
"""Within a kernel: how many zero bits an integer begins with."""


def kernel(*signatures: str, inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """Compile a function to machine code that runs without the GIL.

    The signatures are compiled when the module is imported, and kept on disk where a directory can
    be written: a later process loads them in a fraction of the time.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "inline": inline, "error_model": "numpy"}
        try:
            return numba.njit(list(signatures) or None, cache=True, **options)(function)
        except RuntimeError:  # no directory to keep it in: read-only packages and no home
            return numba.njit(list(signatures) or None, **options)(function)

    return compiled
