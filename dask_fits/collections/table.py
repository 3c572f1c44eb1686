"""The columns of a collection with their types: as astropy's table, and for other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.table import Column as TableColumn
from astropy.table import MaskedColumn, Table

from dask_fits.collections.columns import COUNTS, SHOWN, UNITS, Column


def make_table(column: Callable[[str], Column], keywords: tuple[str, ...]) -> Table:
    """Make an astropy Table of the columns that people look at."""
    before = SHOWN.index("access_format")
    names = (*SHOWN[:before], *keywords, *SHOWN[before:])
    table = Table()
    for name in names:
        values = column(name)
        if name in COUNTS:
            table[name] = _with_unit(MaskedColumn(values, mask=values == -1), name)
        else:
            table[name] = _with_unit(_as_column(values), name)
    return table


def _with_unit(column: TableColumn, name: str) -> TableColumn:
    column.unit = UNITS.get(name)
    return column


def _as_column(values: Column) -> TableColumn:
    """Make a column of the type that all values have."""
    if values.dtype != object:
        return TableColumn(values)
    typed, missing = as_typed(values)
    if typed.dtype == object:  # tuples
        return TableColumn(typed)
    return MaskedColumn(typed, mask=missing) if missing.any() else TableColumn(typed)


def as_typed(values: Column) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Give a column of objects the type that all of them have.

    Parameters
    ----------
    values : (n,) array of object
        Of which None is a missing one.

    Returns
    -------
    typed : (n,) array
        Booleans, integers, floats or text; text if there are several kinds of values, and objects
        if they are none of these. A missing one has some value.
    missing : (n,) bool array
    """
    listed = values.tolist()
    missing = np.array([value is None for value in listed], bool)
    kinds = {type(value) for value in listed} - {type(None)}
    for allowed, filler, dtype in (
        ({bool}, False, np.dtype(bool)),
        ({int}, 0, np.dtype(np.int64)),
        ({int, float}, np.nan, np.dtype(np.float64)),
    ):
        if kinds and kinds <= allowed:
            filled = [filler if value is None else value for value in listed]
            try:
                return np.array(filled, dtype), missing
            except OverflowError:  # an integer beyond 64 bits
                break
    if kinds & {tuple}:
        return values, missing
    return np.array(["" if value is None else str(value) for value in listed], str), missing
