"""Types that many rooms share: what users give, and arrays of positions and counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity
    from fsspec import AbstractFileSystem

Integers: TypeAlias = npt.NDArray[np.int64]
"""Positions and counts, in arrays."""

Bytes: TypeAlias = npt.NDArray[np.uint8]
"""Bytes of a file, in an array."""

KeyItem: TypeAlias = (
    int
    | np.integer[Any]
    | slice
    | EllipsisType
    | Sequence[int]
    | npt.NDArray[np.integer[Any]]
    | npt.NDArray[np.bool_]
    | None
)
"""What a key says of one axis."""

Key: TypeAlias = KeyItem | tuple[KeyItem, ...]
"""A selection of an array, as NumPy takes it: at most one list."""

AxisChunks: TypeAlias = int | str | tuple[int, ...] | None
"""Along one axis: a length, -1 or None for all of it, ``"auto"``, or the lengths one by one."""

Chunks: TypeAlias = AxisChunks | Sequence[AxisChunks] | Mapping[int, AxisChunks]
"""Chunks as Dask takes them: for all axes, for each, or by axis; a size such as ``"64 MiB"``."""

Position: TypeAlias = "SkyCoord | tuple[float, float]"
"""On the sky, or pixel coordinates (x, y) from 0."""

Size: TypeAlias = "float | Quantity | Sequence[float | Quantity]"
"""Height and width, or one length for both, in pixels or as angles."""

FileSystem: TypeAlias = "AbstractFileSystem"
"""A filesystem of fsspec."""

Progress: TypeAlias = Callable[[int, int], object]
"""A callback that takes how much is done, and of how much."""
