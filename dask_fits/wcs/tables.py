"""The HDUs to which a WCS refers: their names, and checks of the tables of coordinates.

The coordinates of an axis n can be in a table (-TAB), for which there are these keywords:

    CTYPEn = 'xxxx-TAB'
    PSn_0, PVn_1  ->  EXTNAME, EXTVER of a table of one row
    PSn_1         ->  its column with the coordinates of M axes, of NumPy shape (K_M, ..., K_1, M)
    PVn_3 = m     ->  the axis n is the m-th of these M
    PSn_2         ->  its column with the index of the axis, of length K_m; absent for 1 ... K_m
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS

from dask_fits.exceptions import FitsFormatError, one_line
from dask_fits.wcs.keywords import invalid_wcs

TABLE_MARKERS = ("-TAB", "CPDIS", "CQDIS", "D2IMDIS", "AXISCORR")
"""Strings of which one is in every header whose WCS refers to other HDUs, and in few others."""

TableKey = tuple[str, int]
"""EXTNAME in upper case, and EXTVER."""

Index = npt.NDArray[np.float64]


def has_lookup_tables(wcs: WCS) -> bool:
    """Return whether a WCS has distortions by lookup table (CPDISn, D2IMDISn)."""
    tables = (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)
    return any(table is not None for table in tables)


def table_keys(header: fits.Header, key: str) -> set[TableKey]:
    """Return which HDUs a header's WCS refers to: EXTNAME, in upper case, and EXTVER.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Letter of an alternate WCS; empty for the primary one.
    """
    keys = {_lookup_table(header, n, key) for n in _lookup_axes(header, key)}
    for kind, parameter in (("CPDIS", "DP"), ("CQDIS", "DQ")):
        for n in _keyword_axes(header, kind):
            if _text_value(header, f"{kind}{n}") == "LOOKUP":
                keys.add(("WCSDVARR", _version_value(header, f"{parameter}{n}.EXTVER")))
    for n in _keyword_axes(header, "D2IMDIS"):
        keys.add(("D2IMARR", _version_value(header, f"D2IM{n}.EXTVER")))
    # The old form of a detector's distortion, of one axis.
    if "AXISCORR" in header:
        keys.add(("D2IMARR", 1))
    return {(name, version) for name, version in keys if name}


def _keyword_axes(header: fits.Header, stem: str, end: str = "") -> list[int]:
    """List the axes for which a header has a keyword: `stem`, the axis, `end`."""
    matches = (re.fullmatch(rf"{stem}(\d{{1,2}}){end}", keyword) for keyword in header)
    return sorted({int(match[1]) for match in matches if match})


def _lookup_axes(header: fits.Header, key: str) -> list[int]:
    """List the axes whose coordinates are looked up in a table (-TAB)."""
    axes = _keyword_axes(header, "CTYPE", key)
    return [n for n in axes if _text_value(header, f"CTYPE{n}{key}").endswith("-TAB")]


def _lookup_table(header: fits.Header, n: int, key: str) -> TableKey:
    """Return the table in which the coordinates of an axis are looked up."""
    return _text_value(header, f"PS{n}_0{key}"), _version_value(header, f"PV{n}_1{key}")


def _text_value(header: fits.Header, keyword: str) -> str:
    """Return the value of a keyword as text in upper case; empty if absent."""
    return str(_value_or(header, keyword, "")).strip().upper()


def _version_value(header: fits.Header, keyword: str) -> int:
    """Return the value of a keyword as a whole number; 1 if absent, or if it is no number."""
    try:
        return int(_value_or(header, keyword, 1))
    except (TypeError, ValueError, OverflowError):
        return 1


def _value_or(header: fits.Header, keyword: str, default: str | int) -> Any:
    """Return the value of a keyword; the default also if astropy cannot parse it."""
    try:
        return header.get(keyword, default)
    except (fits.VerifyError, ValueError):
        return default


def check_coordinate_tables(
    header: fits.Header, key: str, tables: fits.HDUList, where: str
) -> None:
    """Raise FitsFormatError if a -TAB table is one that ends the process inside astropy.

    FITS Standard 4.0, section 8.2; Greisen et al. 2006, A&A 446, 747, section 6.
    """
    for lookup in _find_lookups(header, key, tables):
        try:
            row = tables[lookup.table].data[0]
            shape = np.shape(row[lookup.column])
            indices = {n: _read_index(row, header.get(f"PS{n}_2{key}")) for n in lookup.table_axes}
        except Exception as error:  # astropy raises whatever it stumbles on
            raise invalid_wcs(
                where,
                f"the table {lookup.table[0]} has no row with the coordinates {lookup.column}: "
                f"{one_line(error)}",
            ) from error
        _check_coordinates(lookup, shape, key, where)
        for n, index in indices.items():
            # The axes of the array are in the reverse order, behind them the coordinates.
            length = shape[-1 - int(lookup.table_axes[n])]  # PVi_3 may be written as a float
            _check_index(index, length, f"{where}: PS{n}_2{key}", lookup.table[0])


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The axes whose coordinates are in one column of one table."""

    table: TableKey
    column: str
    """Column of the coordinates."""
    table_axes: Mapping[int, int]
    """For each axis of the WCS its number among those of the coordinates, from 1."""


def _find_lookups(header: fits.Header, key: str, tables: fits.HDUList) -> list[_Lookup]:
    """Group the axes that are looked up by their coordinates, of the tables that there are."""
    table_axes: dict[tuple[TableKey, str], dict[int, int]] = defaultdict(dict)
    for n in _lookup_axes(header, key):
        table = _lookup_table(header, n, key)
        if table in tables:  # else astropy says what is missing
            column = _text_value(header, f"PS{n}_1{key}")
            table_axes[table, column][n] = _value_or(header, f"PV{n}_3{key}", 1)
    return [_Lookup(table, column, axes) for (table, column), axes in table_axes.items()]


def _check_coordinates(lookup: _Lookup, shape: tuple[int, ...], key: str, where: str) -> None:
    """Raise FitsFormatError unless coordinates have the shape that their axes need."""
    name = lookup.table[0]
    axes = lookup.table_axes
    count = len(axes)
    if sorted(axes.values()) != [*range(1, count + 1)] or shape[-1:] != (count,):
        keywords = ", ".join(f"PV{n}_3{key} = {table_axis}" for n, table_axis in axes.items())
        raise FitsFormatError(
            f"{where}: {keywords}: expected each axis of the coordinates {lookup.column} in "
            f"{name} once, found coordinates of shape {shape}"
        )
    if len(shape) != count + 1 or 0 in shape:
        raise FitsFormatError(
            f"{where}: PS{min(axes)}_1{key} = {lookup.column!r}: found coordinates of shape "
            f"{shape} in {name}, expected {count + 1} axes and no empty one"
        )


def _read_index(row: fits.FITS_record, column: str | None) -> Index | None:
    """Read the index of an axis; None if it has none."""
    return np.asarray(row[column], np.float64) if column else None


def _check_index(index: Index | None, length: int, keyword: str, table: str) -> None:
    """Raise FitsFormatError if wcslib cannot look something up in an index."""
    if index is None:
        return
    if index.shape not in ((length,), ()) or index.size != length:
        raise FitsFormatError(
            f"{keyword}: found an index of shape {index.shape} in {table}, expected {length} values"
        )
    if not _is_monotonic(index):
        raise FitsFormatError(
            f"{keyword}: found an index in {table} that neither rises nor falls throughout, "
            "expected one that does"
        )


def _is_monotonic(index: Index) -> bool:
    """Return whether the values of an index rise or fall, be it with equal neighbours."""
    steps = np.diff(index.ravel())
    if not steps.size:
        return True
    with np.errstate(invalid="ignore"):
        # Nothing can be looked up in equal values, nor in NaN.
        return bool(((steps >= 0).all() or (steps <= 0).all()) and (steps != 0).any())
