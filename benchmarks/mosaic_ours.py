"""Mosaics as this package makes them, each time as if it were the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy.typing as npt
from astropy.wcs import WCS

import dask_fits
from dask_fits.mosaics.patch_cache import PATCHES


def ours(
    paths: Sequence[Path],
    wcs: WCS,
    shape: tuple[int, int],
    scheduler: Mapping[str, Any],
    **how: Any,
) -> tuple[npt.NDArray, npt.NDArray]:
    """Open, plan and make a mosaic: its pixels and weights."""
    data, weight = dask.compute(*our_arrays(paths, wcs, shape, **how), **scheduler)
    return data, weight


def our_arrays(
    paths: Sequence[Path], wcs: WCS, shape: tuple[int, int], **how: Any
) -> tuple[da.Array, ...]:
    forget_positions()
    m = dask_fits.mosaic(paths, wcs, shape, **how)
    return m.data, m.weight


def forget_positions() -> None:
    """Forget what the rounds before have found: who makes a mosaic once has to find it."""
    PATCHES.clear()
