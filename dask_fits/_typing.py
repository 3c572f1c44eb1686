"""Types that many rooms share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
"""Positions and counts, in arrays."""
