"""The columns of a collection: what is noted of each image, as arrays of one length.

Where IVOA's ObsCore data model (version 1.1) has a column, it is that one: `access_url`, `s_ra`,
`t_min` and the like.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.collections.record import Record
from dask_fits.collections.times import to_utc
from dask_fits.storage.redaction import unsigned_url
from dask_fits.wcs.footprints import CORNERS, OUTLINE, Footprints
from dask_fits.wcs.sphere import angles_of

Column = npt.NDArray[Any]
"""Values of all rows: numbers, or objects (text, tuples), of which None is a missing one."""

TEXTS = (
    "access_url", "access_format", "version_kind", "version", "encoding", "packing", "extname",
    "kind", "dtype", "compression", "structure", "wcs", "s_region", "error_type", "error",
)  # fmt: skip
"""Columns of text, empty where there is none."""

COUNTS = (
    "access_estsize", "size", "hdu", "extver", "header_start", "header_stop", "data_start",
    "data_stop", "bitpix", "s_xel1", "s_xel2",
)  # fmt: skip
"""Columns of integers; -1 where there is none."""

NUMBERS = (
    "bscale", "bzero", "s_ra", "s_dec", "s_fov", "s_pixel_scale", "t_min", "t_max", "t_exptime",
)  # fmt: skip
"""Columns of floats, NaN where there is none."""

SHAPES = ("shape", "tile")
"""Columns of shapes, NumPy order; None where there is none."""

OBJECTS = ("blank",)
"""Columns of integers, None where there is none."""

FIXED = (*TEXTS, *COUNTS, *NUMBERS, *SHAPES, *OBJECTS)
"""All columns but those of the keywords that were asked for."""

SHOWN = (
    "access_url", "hdu", "extname", "extver", "kind", "shape", "dtype", "compression",
    "s_ra", "s_dec", "s_fov", "s_pixel_scale", "s_region", "s_xel1", "s_xel2",
    "t_min", "t_max", "t_exptime",
    "access_format", "access_estsize", "size", "version", "packing",
    "data_start", "data_stop", "bitpix", "bscale", "bzero", "blank", "tile", "wcs", "error",
)  # fmt: skip
"""Columns of a collection's table, in this order; those of keywords come before `access_format`."""

UNITS = {
    "s_ra": "deg", "s_dec": "deg", "s_fov": "deg", "s_pixel_scale": "arcsec",
    "t_min": "d", "t_max": "d", "t_exptime": "s", "access_estsize": "kbyte", "size": "byte",
}  # fmt: skip
"""Units of columns."""

_WIDE = np.deg2rad(60)
"""Radius of an image, in radians, from which its corners do not say where it is."""


class Columns(Protocol):
    """The columns of all rows of a collection, in memory or in a file."""

    @property
    def keywords(self) -> tuple[str, ...]:
        """Names of the columns of keywords."""

    @property
    def is_held(self) -> bool:
        """Whether the rows are in memory; else tasks read them where they are."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def get(self, name: str, rows: Integers | None) -> Column:
        """Return a column, or some rows of it; read if need be."""

    def get_all(self, names: tuple[str, ...], rows: Integers) -> dict[str, Column]:
        """Return some rows of several columns."""

    def load(self, names: tuple[str, ...]) -> None:
        """Read several columns together, for `get`."""

    def distinct(self, name: str) -> set[Any]:
        """Return the different values of a column."""

    def order(self) -> Integers:
        """Return all rows in the order of the collection."""

    def positions(self, rows: Integers) -> Integers:
        """Return the positions of rows in the collection."""

    @property
    def token(self) -> tuple[object, ...]:
        """What tells a file of columns from all others; empty if they are in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class HeldColumns:
    """Columns in memory."""

    columns: Mapping[str, Column]
    keywords: tuple[str, ...]

    is_held = True
    """Whether the rows are in memory."""

    def __len__(self) -> int:
        return len(self.columns["hdu"])

    def get(self, name: str, rows: Integers | None) -> Column:
        """Return a column, or some rows of it."""
        column = self.columns[name]
        return column if rows is None else column[rows]

    def get_all(self, names: tuple[str, ...], rows: Integers) -> dict[str, Column]:
        """Return some rows of several columns."""
        return {name: self.columns[name][rows] for name in names}

    def load(self, names: tuple[str, ...]) -> None:
        """Do nothing: they are in memory."""

    def distinct(self, name: str) -> set[Any]:
        """Return the different values of a column."""
        return set(self.columns[name].tolist())

    def order(self) -> Integers:
        """Return all rows, which are in the order of the collection."""
        return np.arange(len(self))

    def positions(self, rows: Integers) -> Integers:
        """Return the positions of rows in the collection: the same."""
        return rows

    @property
    def token(self) -> tuple[object, ...]:
        """Nothing: the columns are in memory."""
        return ()


def concatenate(parts: Sequence[HeldColumns], keywords: tuple[str, ...]) -> HeldColumns:
    """Join columns, one part behind the other."""
    names = (*FIXED, *keywords)
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in names}
    return HeldColumns(columns, keywords)


def columns_of(
    records: Sequence[Record], footprints: Footprints, keywords: tuple[str, ...]
) -> HeldColumns:
    """Make columns of records, and of the footprints of their images."""
    columns: dict[str, Column] = {
        **_describe_files(records),
        **_describe_hdus(records),
        **_describe_places(footprints),
        **_describe_times(records),
    }
    for number, keyword in enumerate(keywords):
        columns[keyword] = as_objects(
            record.keywords[number] if record.keywords else None for record in records
        )
    return HeldColumns(columns, keywords)


def _describe_files(records: Sequence[Record]) -> dict[str, Column]:
    """Make the columns that say which file an HDU is in."""
    versions = [record.file.version for record in records]
    size = np.array([version.size for version in versions], np.int64)
    return {
        "access_url": as_objects(unsigned_url(record.file.url) for record in records),
        "access_format": as_objects("image/fits" for _ in records),
        "access_estsize": np.where(size < 0, -1, -(-size // 1000)),
        "size": size,
        "version_kind": as_objects(version.kind for version in versions),
        "version": as_objects(version.value for version in versions),
        "encoding": as_objects(version.encoding for version in versions),
        "packing": as_objects(record.file.packing for record in records),
    }


def _describe_hdus(records: Sequence[Record]) -> dict[str, Column]:
    """Make the columns that say what an HDU is."""
    scalings = [record.scaling for record in records]
    return {
        "hdu": _integers(record.hdu for record in records),
        "extname": as_objects(record.name for record in records),
        "extver": _integers(record.ver for record in records),
        "kind": as_objects(record.kind for record in records),
        "shape": as_objects(record.shape for record in records),
        "dtype": as_objects(record.dtype for record in records),
        "compression": as_objects(record.compression for record in records),
        "tile": as_objects(record.tile for record in records),
        "header_start": _integers(record.header.start for record in records),
        "header_stop": _integers(record.header.stop for record in records),
        "data_start": _integers(record.data.start for record in records),
        "data_stop": _integers(record.data.stop for record in records),
        "bitpix": _integers(scaling.bitpix if scaling else 0 for scaling in scalings),
        "bscale": _floats(scaling.bscale if scaling else np.nan for scaling in scalings),
        "bzero": _floats(scaling.bzero if scaling else np.nan for scaling in scalings),
        "blank": as_objects(scaling.blank if scaling else None for scaling in scalings),
        "structure": as_objects(record.structure for record in records),
        "wcs": as_objects(record.wcs for record in records),
        "error_type": as_objects(
            type(record.error).__name__ if record.error else "" for record in records
        ),
        "error": as_objects(str(record.error) if record.error else "" for record in records),
    }


def _describe_places(footprints: Footprints) -> dict[str, Column]:
    """Make the columns that say where on the sky an image is."""
    points = footprints.points
    centre = points[:, 0]
    has_sky = np.isfinite(centre).all(axis=1)
    ra, dec = np.rad2deg(angles_of(centre))
    ra = np.where(has_sky, ra % 360, np.nan)
    ra = np.where(ra == 360, 0, ra)  # a rounding error before 0
    outline = points[:, OUTLINE]
    radius = separation(outline, centre[:, None]).max(axis=1)
    # Where a part of the outline has no sky, the image may show all of it.
    radius = np.where(has_sky & np.isnan(radius), np.pi, radius)
    steps = separation(points[:, 1:3], centre[:, None])
    corners = points[:, CORNERS]
    return {
        "s_ra": ra,
        "s_dec": dec,
        "s_fov": 2 * np.rad2deg(radius),
        "s_pixel_scale": np.rad2deg(np.sqrt(steps.prod(axis=1))) * 3600,
        "s_xel1": footprints.sides[:, 0],
        "s_xel2": footprints.sides[:, 1],
        "s_region": as_objects(map(_region, ra, dec, radius, corners)),
    }


def separation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the angles between unit vectors, in radians; accurate if they are small."""
    chord = np.sqrt(((first - second) ** 2).sum(axis=-1))
    angle: npt.NDArray[np.float64] = 2 * np.arcsin(np.clip(chord / 2, 0, 1))
    return angle


def _region(ra: float, dec: float, radius: float, corners: npt.NDArray[Any]) -> str:
    """Write a footprint as ObsCore's s_region: a polygon, or of a wide image a circle."""
    if np.isnan(ra):
        return ""
    if not radius < _WIDE:
        return f"CIRCLE ICRS {ra:.8g} {dec:.8g} {np.rad2deg(radius):.8g}"
    corner_ra, corner_dec = np.rad2deg(angles_of(corners))
    pairs = zip((corner_ra % 360).tolist(), corner_dec.tolist(), strict=True)
    return "POLYGON ICRS " + " ".join(f"{lon:.7f} {lat:.7f}" for lon, lat in pairs)


def _describe_times(records: Sequence[Record]) -> dict[str, Column]:
    """Make the columns that say when an image was taken."""
    begin = _floats(record.times[0] for record in records)
    end = _floats(record.times[1] for record in records)
    exposure = _floats(record.times[2] for record in records)
    scales = [record.times[3] for record in records]
    return {"t_min": to_utc(begin, scales), "t_max": to_utc(end, scales), "t_exptime": exposure}


def as_objects(values: Iterable[object]) -> Column:
    """Return an array of objects, tuples among them."""
    return np.fromiter(values, object)


def _integers(values: Iterable[int]) -> Column:
    return np.fromiter(values, np.int64)


def _floats(values: Iterable[float]) -> Column:
    return np.fromiter(values, np.float64)
