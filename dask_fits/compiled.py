"""Compilation of kernels. The only importer of numba, so an ImportError without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
from numba.cpython.unsafe import numbers

if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise ImportError("NUMBA_DISABLE_JIT is set, and the kernels are no Python")

Word: TypeAlias = np.uint64
"""In a kernel: 64 bits, unsigned, so that shifts bring zeros in."""

Scalar: TypeAlias = Any
"""In a kernel: a number of the type that numba infers, in most places int64. To the type checker
int and np.int64 are two types, to numba they are one."""

leading_zeros: Any = numbers.leading_zeros
"""In a kernel: count the zero bits that an integer begins with."""


def kernel(*signatures: str, inline: str = "never") -> Callable[[Callable[..., Any]], Any]:
    """Compile a function to machine code that runs without the GIL.

    The signatures are compiled when the module is imported, and kept on disk if a directory can be
    written: a later process loads them in a fraction of the time. Without signatures a kernel is
    compiled for the types with which another one calls it.
    """

    def compile_kernel(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {"nogil": True, "inline": inline, "error_model": "numpy"}
        try:
            return numba.njit(list(signatures) or None, cache=True, **options)(function)
        except RuntimeError:
            # There is no directory to keep it in: the package is read-only, and there is no home.
            return numba.njit(list(signatures) or None, **options)(function)

    return compile_kernel
