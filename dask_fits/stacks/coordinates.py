"""What tells the frames of a stack apart, as coordinates along their dimension."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits.collections.collection import Collection
from dask_fits.collections.table import as_typed
from dask_fits.exceptions import FitsError
from dask_fits.format.times import MJD_OF_1970
from dask_fits.storage.place import utf8_name
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.keywords import positional_cards
from dask_fits.wcs.quiet import quiet
from dask_fits.xarray_backend.grid import make_grid, plain_grid

_MJD_UNITS = {"units": "days since 1858-11-17 00:00:00", "calendar": "proleptic_gregorian"}
"""Attributes of modified Julian dates, as the CF conventions have them."""


@dataclass(frozen=True, slots=True, eq=False)
class Coordinate:
    """A value for each frame."""

    name: str
    values: npt.NDArray[Any]
    """(frames,) array."""
    stored: npt.NDArray[Any]
    """The same as it is written: dates as numbers, text of any length."""
    stored_attrs: dict[str, Any] = field(default_factory=dict)
    """Attributes that say what the stored values mean."""


def frame_coordinates(
    collection: Collection, taken: tuple[str, ...] = ()
) -> tuple[str, list[Coordinate]]:
    """Return the name of the dimension of frames, and the coordinates along it.

    Parameters
    ----------
    collection : Collection
        The images, in the order of the frames.
    taken : tuple of str
        Names of the dimensions and coordinates of an image.
    """
    files = np.array([utf8_name(name) for name in collection.names()], object)
    coordinates = [_text("file", files)]
    begin = collection.column("t_min")
    has_times = len(begin) > 0 and bool(np.isfinite(begin).all())
    if np.isfinite(begin).any():
        coordinates.append(Coordinate("time", _to_dates(begin), begin, dict(_MJD_UNITS)))
    coordinates += [_of_keyword(collection, keyword) for keyword in collection.keywords]
    candidates = ("time", "file") if has_times else ("file",)
    dim = next((name for name in candidates if name not in taken), "frame")
    # A keyword, or the file, may have the name of what an image has already.
    renamed = [
        replace(each, name=f"frame_{each.name}") if each.name in taken else each
        for each in coordinates
    ]
    return dim, renamed


def first_image(collection: Collection) -> int:
    """Return the index of the first image, among those whose pixels cannot be read."""
    if None not in collection.distinct("shape"):
        return 0
    return next(row for row, shape in enumerate(collection.column("shape")) if shape is not None)


def shared_wcs(collection: Collection) -> int | None:
    """Return the index of an image whose WCS all frames have; None if there are several."""
    texts = collection.column("wcs")
    known = np.flatnonzero(texts != "")
    if len(known) == 0:
        return None
    distinct = {positional_cards(text) for text in set(texts[known].tolist())}
    return int(known[0]) if len(distinct) == 1 and None not in distinct else None


def image_dims(collection: Collection) -> tuple[str, ...]:
    """Return the names of the axes of an image, by the WCS of the first one."""
    hdu = collection[first_image(collection)]
    try:
        with quiet():
            return make_grid(WcsText.of(hdu.wcs_header()), hdu.where).dims
    except FitsError:  # the keywords make none, or other HDUs that they refer to cannot be read
        return plain_grid(hdu.shape or ()).dims


def _to_dates(mjd: npt.NDArray[np.float64]) -> npt.NDArray[np.datetime64]:
    """Return modified Julian dates as NumPy's, to the microsecond."""
    known = np.isfinite(mjd)
    days = np.floor(np.where(known, mjd, 0))
    microseconds = np.round((np.where(known, mjd, 0) - days) * 86_400e6).astype("timedelta64[us]")
    dates = (days - MJD_OF_1970).astype("datetime64[D]").astype("datetime64[us]") + microseconds
    return np.where(known, dates, np.datetime64("NaT", "us"))


def _of_keyword(collection: Collection, keyword: str) -> Coordinate:
    """Return the values of a keyword as a coordinate."""
    values, missing = as_typed(collection.column(keyword))
    if values.dtype.kind in "OUT":
        return _text(keyword, values.astype(object))
    if missing.any():  # only floats can say so
        values = np.where(missing, np.nan, values.astype(np.float64))
    return Coordinate(keyword, values, values)


def _text(name: str, values: npt.NDArray[np.object_]) -> Coordinate:
    """Return text as a coordinate."""
    return Coordinate(name, values, values.astype(np.dtypes.StringDType()))
