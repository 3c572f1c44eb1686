"""The HDUs that keep a part of another one's world coordinates."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from dask_fits.exceptions import FitsFormatError, one_line

REFERRING = ("-TAB", "CPDIS", "CQDIS", "D2IMDIS", "AXISCORR")
"""What is found in the text of each header whose WCS refers to other HDUs, and in few others."""


def table_keys(header: fits.Header, key: str) -> set[tuple[str, int]]:
    """Tell which HDUs a header's WCS refers to: EXTNAME, in upper case, and EXTVER.

    Parameters
    ----------
    header : astropy.io.fits.Header
    key : str
        Letter of an alternate WCS; empty for the primary one.
    """
    keys = {
        (_text(header, f"PS{n}_0{key}"), _version(header, f"PV{n}_1{key}"))
        for n in _coordinate_axes(header, key)
    }
    for kind, parameter in (("CPDIS", "DP"), ("CQDIS", "DQ")):
        for n in _numbers(header, kind):
            if _text(header, f"{kind}{n}") == "LOOKUP":
                keys.add(("WCSDVARR", _version(header, f"{parameter}{n}.EXTVER")))
    keys |= {("D2IMARR", _version(header, f"D2IM{n}.EXTVER")) for n in _numbers(header, "D2IMDIS")}
    if "AXISCORR" in header:
        keys.add(("D2IMARR", 1))
    return {(name, version) for name, version in keys if name}


def _numbers(header: fits.Header, stem: str, end: str = "") -> list[int]:
    """List the axes for which a header has a keyword."""
    found = (re.fullmatch(rf"{stem}(\d{{1,2}}){end}", keyword) for keyword in header)
    return sorted({int(match[1]) for match in found if match})


def _coordinate_axes(header: fits.Header, key: str) -> list[int]:
    """List the axes whose coordinates are looked up in a table (-TAB)."""
    axes = _numbers(header, "CTYPE", key)
    return [n for n in axes if _text(header, f"CTYPE{n}{key}").endswith("-TAB")]


def _text(header: fits.Header, keyword: str) -> str:
    return str(_value(header, keyword, "")).strip().upper()


def _version(header: fits.Header, keyword: str) -> int:
    try:
        return int(_value(header, keyword, 1))
    except (TypeError, ValueError, OverflowError):
        return 1


def _value(header: fits.Header, keyword: str, default: Any) -> Any:
    """Value of a keyword; the default also where astropy cannot parse it."""
    try:
        return header.get(keyword, default)
    except (fits.VerifyError, ValueError):
        return default


def check_coordinate_tables(
    header: fits.Header, key: str, tables: fits.HDUList, where: str
) -> None:
    """Raise FitsFormatError where a -TAB table is one that ends the process inside astropy.

    FITS Standard 4.0, section 8.2; Greisen et al. 2006, A&A 446, 747, section 6.
    """
    groups: dict[Any, dict[int, Any]] = defaultdict(dict)
    for n in _coordinate_axes(header, key):
        name = _text(header, f"PS{n}_0{key}"), _version(header, f"PV{n}_1{key}")
        if name in tables:  # else astropy says what is missing
            column, axis = _text(header, f"PS{n}_1{key}"), _value(header, f"PV{n}_3{key}", 1)
            groups[name, column][n] = axis
    for (name, column), axes in groups.items():
        try:
            row = tables[name].data[0]
            shape = np.shape(row[column])
            indices = {n: _index(row, header.get(f"PS{n}_2{key}")) for n in axes}
        except Exception as error:  # astropy raises whatever it stumbles on
            raise FitsFormatError(
                f"{where}: the keywords make no WCS: the table {name[0]} has no row with the "
                f"coordinates {column}: {one_line(error)}"
            ) from error
        if sorted(axes.values()) != [*range(1, len(axes) + 1)] or shape[-1:] != (len(axes),):
            raise FitsFormatError(
                f"{where}: {', '.join(f'PV{n}_3{key} = {axis}' for n, axis in axes.items())}: "
                f"expected each axis of the coordinates {column} in {name[0]} once, found "
                f"coordinates of shape {shape}"
            )
        if len(shape) != len(axes) + 1 or 0 in shape:
            raise FitsFormatError(
                f"{where}: PS{min(axes)}_1{key} = {column!r}: found coordinates of shape {shape} "
                f"in {name[0]}, expected {len(axes) + 1} axes and no empty one"
            )
        for n, index in indices.items():
            _check_index(index, shape[-1 - axes[n]], f"{where}: PS{n}_2{key}", name[0])


def _index(row: Any, column: Any) -> npt.NDArray[np.float64] | None:
    """Read the index of an axis; None where it has none."""
    return np.asarray(row[column], np.float64) if column else None


def _check_index(
    index: npt.NDArray[np.float64] | None, length: int, keyword: str, table: str
) -> None:
    """Raise FitsFormatError where wcslib cannot look something up in an index."""
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


def _is_monotonic(index: npt.NDArray[np.float64]) -> bool:
    steps = np.diff(index.ravel())
    if not steps.size:
        return True
    with np.errstate(invalid="ignore"):
        return bool(((steps >= 0).all() or (steps <= 0).all()) and (steps != 0).any())
