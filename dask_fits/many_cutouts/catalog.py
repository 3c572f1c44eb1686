"""Positions out of a catalogue: a table in any format that astropy reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Column, Table

_RA = ("ra", "raj2000", "ra_icrs", "_raj2000", "ra_j2000", "alpha_j2000", "ra_deg", "radeg")
_DEC = ("dec", "dej2000", "decj2000", "de_icrs", "_dej2000", "dec_j2000", "delta_j2000", "dec_deg")
_DEC_MORE = ("decdeg", "dedeg", "decl")
"""What catalogues call right ascension and declination, in lower case; the first ones first."""


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """The positions of a catalogue, and their names."""

    positions: Any
    """SkyCoord, or an (n, 2) array of pixel coordinates x, y."""
    names: tuple[str, ...] | None
    """Where a column of names was asked for."""


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
        A table that astropy reads and whose format its name tells: CSV, ECSV, FITS, VOTable.
    columns : (str, str), optional
        Of right ascension and declination, or of x and y; by default those of a usual name.
        Degrees, unless the table tells another unit, or ICRS in hours and degrees as text.
    pixels : bool
        They are pixel coordinates from 0.
    names : str, optional
        Column of the positions' names.

    Raises
    ------
    ValueError
        It is no table, a column is missing, or what it holds are no coordinates.
    FileNotFoundError
        There is no such file.
    """
    shown = os.fspath(path)
    try:
        table = Table.read(shown)
    except FileNotFoundError:
        raise
    except Exception as error:
        # Astropy adds a table of all formats that there are.
        said = " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
        raise ValueError(f"{shown}: cannot be read as a table: {said}") from error
    first, second = columns or _usual(table, shown, pixels=pixels)
    wanted = [_column(table, name, shown) for name in (first, second)]
    called = None if names is None else tuple(map(str, _column(table, names, shown)))
    try:
        if pixels:
            return Catalog(np.stack([_numbers(column) for column in wanted], axis=1), called)
        lon, lat = _angle(wanted[0], u.hourangle), _angle(wanted[1], u.deg)
        return Catalog(SkyCoord(lon, lat), called)
    except (ValueError, TypeError, u.UnitsError) as error:
        raise ValueError(
            f"{shown}: {first}, {second}: expected coordinates, found {error}"
        ) from error


def _usual(table: Table, shown: str, *, pixels: bool) -> tuple[str, str]:
    """Find the columns of positions by their names."""
    candidates = (("x",), ("y",)) if pixels else (_RA, _DEC + _DEC_MORE)
    by_name = {name.lower(): name for name in reversed(table.colnames)}
    found = [next((by_name[n] for n in names if n in by_name), None) for names in candidates]
    if found[0] is None or found[1] is None:
        what = "x and y" if pixels else "right ascension and declination"
        raise ValueError(
            f"{shown}: expected columns of {what}, found {', '.join(table.colnames) or 'none'}"
        )
    return found[0], found[1]


def _column(table: Table, name: str, shown: str) -> Column:
    if name not in table.colnames:
        raise ValueError(
            f"{shown}: expected a column {name!r}, found {', '.join(table.colnames) or 'none'}"
        )
    return table[name]


def _numbers(column: Sequence[Any]) -> Any:
    """Take a column's numbers; what is masked is none."""
    values = np.ma.asarray(column)
    if values.ndim != 1:
        raise ValueError(f"{values.shape[1:]} numbers in each row")
    return np.ma.filled(values.astype(np.float64), np.nan)


def _angle(column: Any, unit_of_text: u.Unit) -> u.Quantity:
    values = np.ma.asarray(column)
    if values.dtype.kind not in "US":
        unit = getattr(column, "unit", None) or u.deg
        return _numbers(column) * u.Unit(unit)
    texts = ["nan" if text is np.ma.masked else str(text).strip() for text in values]
    return u.Quantity([_of_text(text, unit_of_text) for text in texts], u.deg)


def _of_text(text: str, unit: u.Unit) -> u.Quantity:
    from astropy.coordinates import Angle

    try:
        return float(text or "nan") * u.deg
    except ValueError:
        return Angle(text, unit)
