"""Selecting images of a collection by where they are on the sky, when, and by columns."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from astropy.time import Time

from dask_fits._typing import Integers
from dask_fits.collections.columns import Column
from dask_fits.collections.rows import Rows
from dask_fits.exceptions import FitsFormatError, needs, one_line
from dask_fits.format.times import MJD_OF_1970
from dask_fits.wcs.header import WcsHeader
from dask_fits.wcs.overlap import overlaps
from dask_fits.wcs.plane import read_plane
from dask_fits.wcs.quiet import filters_kept, quiet
from dask_fits.wcs.regions import Region
from dask_fits.wcs.sphere import angles_from, unit_vectors_of
from dask_fits.wcs.tables import TableKey

Moment: TypeAlias = Time | str | datetime | float
"""A point in time."""

_WIDE = 120.0
"""Diameter of an image, in degrees, from which its outline does not say how far it reaches."""

_BULGE = 1.1
"""Times the distance of its farthest known point that an image reaches, at most: its sides may
bulge between two of them."""


class Selectable(Protocol):
    """A collection, as far as images are selected by it."""

    @property
    def colnames(self) -> tuple[str, ...]:
        """Names of all columns."""

    def column(self, name: str) -> Column:
        """Return a column."""

    def columns(self, *names: str) -> list[Column]:
        """Return several columns."""

    def rows(self, positions: Integers, *, wcs: bool = True) -> Rows:
        """Take what is needed to make HDUs of some rows."""


def select_sky(collection: Selectable, region: Region) -> Integers:
    """Find the images that show a point of a region; return their positions, ascending."""
    ra, dec, field, scale, sides = collection.columns(
        "s_ra", "s_dec", "s_fov", "s_pixel_scale", "s_xel1"
    )
    centre = unit_vectors_of(np.deg2rad(ra), np.deg2rad(dec))
    # A pixel more than the outline, for images of few pixels.
    reach = np.deg2rad(_BULGE * field / 2 + scale / 3600)
    region_centre, radius = region.circle
    # With NaN, of images whose middle has no sky, this is false; a part of them may have one.
    near = angles_from(centre, region_centre) <= reach + radius
    may_be = np.isnan(field) & (sides > 0)
    candidates = np.flatnonzero(near | (field >= _WIDE) | may_be)
    is_within = region.contains(centre[candidates])
    rest = candidates[~is_within]
    exact = _select_exactly(collection, rest, region)
    return np.sort(np.concatenate([candidates[is_within], exact]))


def _select_exactly(collection: Selectable, positions: Integers, region: Region) -> Integers:
    """Find the images, among some, that show a point of a region, by the WCS of each."""
    if not len(positions):
        return positions
    rows = collection.rows(positions)
    shapes = collection.column("shape")[positions]
    with filters_kept(), quiet():
        is_on = [_is_on(rows, row, shapes[row], region) for row in range(len(positions))]
    return positions[is_on]


def _is_on(rows: Rows, row: int, shape: tuple[int, ...], region: Region) -> bool:
    """Return whether an image shows a point of a region; False if its WCS cannot be made now."""
    url = rows.columns["access_url"][row]

    def read_tables(keys: Collection[TableKey]) -> bytes:
        return rows.hdu(row).file.read_tables(keys)

    where = f"{url}: HDU {rows.columns['hdu'][row]}"
    header = WcsHeader(tuple(rows.columns["wcs"][row].split("\n")), where, read_tables)
    try:
        plane = read_plane(header, len(shape))
        y_axis, x_axis = plane.axes
        return overlaps(region, plane.sky, (shape[y_axis], shape[x_axis]))
    except FitsFormatError:  # the keywords make no WCS of the sky
        return False


def select_shape(collection: Selectable, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Tell which images have a shape.

    Raises
    ------
    TypeError
        It is none.
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"shape: expected several lengths, such as (300, 300), found {shape!r}")
    wanted = tuple(shape)
    return np.array([each == wanted for each in collection.column("shape")], bool)


def select_time(
    collection: Selectable, time: Moment | tuple[Moment | None, Moment | None]
) -> npt.NDArray[np.bool_]:
    """Tell which images were exposed at a time, or at some time between two.

    Raises
    ------
    ValueError
        It is no time, or no pair of times in order.
    """
    first, last = time if isinstance(time, tuple) else (time, time)
    low = -np.inf if first is None else _as_mjd(first)
    high = np.inf if last is None else _as_mjd(last)
    if low > high:
        raise ValueError(f"time: expected a beginning before the end, found {time!r}")
    result: npt.NDArray[np.bool_] = (collection.column("t_min") <= high) & (
        collection.column("t_max") >= low
    )
    return result


def _as_mjd(moment: Moment) -> float:
    """Return a point in time as a modified Julian date in UTC.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        if isinstance(moment, datetime):
            # Without a time zone it is UTC, as in FITS.
            aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            mjd = aware.timestamp() / 86_400 + MJD_OF_1970
        elif isinstance(moment, (int, float)) and not isinstance(moment, bool):
            mjd = float(moment)
        else:
            time = moment if isinstance(moment, Time) else Time(moment, scale="utc")
            mjd = float(time.utc.mjd)
    except Exception as error:  # astropy raises whatever it stumbles on
        raise ValueError(
            f"time: expected a Time, a date of ISO 8601, a datetime or an MJD, found {moment!r}"
        ) from error
    if not np.isfinite(mjd):
        raise ValueError(f"time: found {moment!r}, expected a finite time")
    return mjd


def select_where(collection: Selectable, condition: str) -> npt.NDArray[np.bool_]:
    """Tell which rows meet a condition on columns; see `Collection.select`.

    Raises
    ------
    ValueError
        It is none.
    MissingDriverError
        pandas is not installed.
    """
    with needs("pandas", extra="collections"):
        import pandas as pd
    if "@" in condition:
        raise ValueError(f"where: found {condition!r}, expected no @: names are those of columns")
    # Only the columns that the condition may speak of: of a large collection the others are read.
    names = [name for name in collection.colnames if re.search(re.escape(name), condition)]
    columns: dict[str, Any] = {name: collection.column(name) for name in names or ["hdu"]}
    frame = pd.DataFrame(columns).infer_objects()
    try:
        met = frame.eval(condition, engine="python")
    except Exception as error:  # pandas and Python raise whatever they stumble on
        raise ValueError(
            f"where: {condition!r}: {one_line(error)}; the columns are "
            f"{', '.join(collection.colnames)}"
        ) from error
    if not isinstance(met, pd.Series) or met.dtype != np.bool_:
        raise ValueError(
            f"where: {condition!r}: expected a condition on columns, such as \"FILTER == 'r'\""
        )
    return np.asarray(met, bool)
