"""Positions of a catalogue: a table in any format that astropy reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy import units as u
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Column, Table

_RA = (
    "ra",
    "raj2000",
    "ra_icrs",
    "_raj2000",
    "ra_j2000",
    "alpha_j2000",
    "ra_deg",
    "radeg",
)
"""Names of right ascension in catalogues, in lower case, by preference."""

_DEC = (
    "dec",
    "dej2000",
    "decj2000",
    "de_icrs",
    "_dej2000",
    "dec_j2000",
    "delta_j2000",
    "dec_deg",
    "decdeg",
    "dedeg",
    "decl",
)
"""Names of declination, likewise."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """The positions of a catalogue, and their names."""

    positions: SkyCoord | npt.NDArray[np.float64]
    """Positions on the sky, or an (n, 2) array of pixel coordinates x, y."""
    names: tuple[str, ...] | None
    """Names of the positions; None if no column of names was requested."""


def read_catalog(
    path: str | os.PathLike[str],
    *,
    columns: tuple[str, str] | None = None,
    pixels: bool = False,
    names: str | None = None,
) -> Catalog:
    """Read the positions of a catalogue.

    Parameters
    ----------
    path : path
        A table whose format astropy recognizes by its name: CSV, ECSV, FITS, VOTable.
    columns : (str, str), optional
        Columns of right ascension and declination, or of x and y; by default those of a usual name.
        In degrees, unless the column has another unit, or ICRS in hours and degrees as text.
    pixels : bool
        The positions are pixel coordinates from 0.
    names : str, optional
        Column of the positions' names.

    Raises
    ------
    ValueError
        It is no table, a column is missing, or the columns hold no coordinates.
    FileNotFoundError
        There is no such file.
    """
    label = os.fspath(path)
    try:
        table = Table.read(label)
    except FileNotFoundError:
        raise
    except Exception as error:
        # Astropy adds a table of all formats that there are.
        message = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        raise ValueError(f"{label}: cannot be read as a table: {message}") from error
    first_name, second_name = columns or _find_columns(table, label, pixels=pixels)
    first = _get_column(table, first_name, label)
    second = _get_column(table, second_name, label)
    position_names = None if names is None else tuple(map(str, _get_column(table, names, label)))
    try:
        if pixels:
            xy = np.stack([_to_floats(first), _to_floats(second)], axis=1)
            return Catalog(xy, position_names)
        sky = SkyCoord(_to_angles(first, u.hourangle), _to_angles(second, u.deg))
        return Catalog(sky, position_names)
    except (ValueError, TypeError, u.UnitsError) as error:
        raise ValueError(
            f"{label}: {first_name}, {second_name}: expected coordinates, found {error}"
        ) from error


def _find_columns(table: Table, label: str, *, pixels: bool) -> tuple[str, str]:
    """Return the names of the columns of positions, of which one of the usual names is."""
    usual_names = (("x",), ("y",)) if pixels else (_RA, _DEC)
    # Of columns that differ in case alone, the first counts.
    by_lower_case = {name.lower(): name for name in reversed(table.colnames)}
    first, second = (
        next((by_lower_case[name] for name in names if name in by_lower_case), None)
        for names in usual_names
    )
    if first is None or second is None:
        what = "x and y" if pixels else "right ascension and declination"
        raise ValueError(
            f"{label}: expected columns of {what}, found {', '.join(table.colnames) or 'none'}"
        )
    return first, second


def _get_column(table: Table, name: str, label: str) -> Column:
    """Return a column; raise ValueError if there is none of this name."""
    if name not in table.colnames:
        raise ValueError(
            f"{label}: expected a column {name!r}, found {', '.join(table.colnames) or 'none'}"
        )
    return table[name]


def _to_floats(column: Column) -> npt.NDArray[np.float64]:
    """Return the numbers of a column; NaN for those that are masked."""
    values = np.ma.asarray(column)
    if values.ndim != 1:
        raise ValueError(f"{values.shape[1:]} numbers in each row")
    floats: npt.NDArray[np.float64] = np.ma.filled(values.astype(np.float64), np.nan)
    return floats


def _to_angles(column: Column, unit_of_text: u.Unit) -> u.Quantity:
    """Return the angles of a column of numbers, in its unit or degrees, or of text."""
    values: Any = np.ma.asarray(column)
    if values.dtype.kind not in "US":
        unit = getattr(column, "unit", None) or u.deg
        return _to_floats(column) * u.Unit(unit)
    texts = ["nan" if text is np.ma.masked else str(text).strip() for text in values]
    return u.Quantity([_parse_angle(text, unit_of_text) for text in texts], u.deg)


def _parse_angle(text: str, unit: u.Unit) -> u.Quantity:
    """Parse an angle: a number of degrees, or sexagesimal in `unit`; empty text is NaN."""
    try:
        return float(text or "nan") * u.deg
    except ValueError:
        return Angle(text, unit)
