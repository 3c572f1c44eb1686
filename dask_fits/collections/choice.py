"""Which images of a collection are stacked or put together, in which order."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from dask_fits._typing import Integers
from dask_fits.collections.collection import Collection
from dask_fits.collections.columns import FIXED
from dask_fits.exceptions import FitsError, HduNotFoundError
from dask_fits.file.hdu import HduKey, is_named

OnError = Literal["raise", "nan", "drop"]
"""What is done about an image that cannot be read."""


def rows_of_hdu(
    collection: Collection, key: HduKey | None
) -> tuple[Collection, dict[str, FitsError]]:
    """Return the row of one HDU of each file, or that of its error; and files without either."""
    if key is None:
        return collection, {}
    index = collection.column("hdu")
    if hasattr(key, "__index__"):
        number = operator.index(key)  # type: ignore[arg-type] # no name has an index
        if number < 0:
            raise ValueError(f"hdu: expected an index from 0 for a collection, found {number}")
        chosen = index == number
    else:
        names, vers = collection.columns("extname", "extver")
        hdus = zip(names.tolist(), vers.tolist(), index.tolist(), strict=True)
        chosen = np.array([is_named(key, *hdu) for hdu in hdus], bool)
    rows: list[int] = []
    lacking: dict[str, FitsError] = {}
    urls = collection.column("access_url")
    for start, stop in _files_of(urls, index):
        own = np.flatnonzero(chosen[start:stop])
        errors = np.flatnonzero(index[start:stop] < 0)
        if len(own) or len(errors):
            rows.append(start + int((own if len(own) else errors)[0]))
        else:
            lacking[urls[start]] = HduNotFoundError(f"{urls[start]}: has no image HDU {key!r}")
    if lacking and not rows:
        raise next(iter(lacking.values()))
    return collection.take(np.array(rows, np.int64)), lacking


def _files_of(urls: Any, index: Integers) -> list[tuple[int, int]]:
    """Return where the rows of each file begin and end: HDUs ascend, and an error is the last."""
    if len(urls) == 0:
        return []
    is_earlier = (index[1:] >= 0) & (index[1:] <= index[:-1])
    begins = (urls[1:] != urls[:-1]) | (index[:-1] < 0) | is_earlier
    return list(itertools.pairwise([0, *(np.flatnonzero(begins) + 1).tolist(), len(urls)]))


def treat_failures(
    collection: Collection, on_error: OnError
) -> tuple[Collection, Mapping[str, FitsError]]:
    """Raise the error of a file that cannot be read, or leave it out, as asked."""
    if on_error == "nan" or collection.distinct("error_type") <= {""}:
        return collection, {}
    failures = collection.failures
    if on_error == "raise":
        raise next(iter(failures.values()))
    is_good = collection.column("error_type") == ""
    return collection.take(np.flatnonzero(is_good)), failures


def order_by(collection: Collection, name: str) -> Integers:
    """Return the order of rows by a column; rows without a value come last."""
    keyword = " ".join(name.upper().split()).removeprefix("HIERARCH ")
    known = keyword in collection.keywords and name not in FIXED
    try:
        values = collection.column(keyword if known else name).tolist()
    except ValueError as error:
        raise ValueError(f"sort_by: {error}") from error
    has_value = [value is not None and value == value for value in values]  # noqa: PLR0124 (NaN)
    ordered = [row for row, known in enumerate(has_value) if known]
    if values and not ordered:
        raise ValueError(f"sort_by: no image has a value of {name}")
    # Numbers are ordered as numbers, and what is mixed with text as text.
    as_text = any(isinstance(values[row], str) for row in ordered)
    ordered.sort(key=lambda row: str(values[row]) if as_text else values[row])
    rest = [row for row, known in enumerate(has_value) if not known]
    return np.array([*ordered, *rest], np.int64)
