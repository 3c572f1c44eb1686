"""The collection: many files as one table of their images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.collections.columns import FIXED, Column, Columns
from dask_fits.collections.display import describe, describe_html
from dask_fits.collections.record import Inspection
from dask_fits.collections.rows import NotedRows, Places, Rows, rows_of
from dask_fits.collections.sources import name_of_hdu
from dask_fits.exceptions import FitsError, error_of, needs
from dask_fits.file.hdu import HDU
from dask_fits.storage.transfer import TransferConfig

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.table import Table
    from astropy.units import Quantity

    from dask_fits.collections.selection import Moment


class Collection:
    """The images of many files, as a table with a row for each.

    It holds what the headers say, and no pixels and no handles. ``len``, slices, lists of indices
    and masks work as for an array and give collections; an integer gives an `HDU`, and iteration
    all of them, without reading their headers again. A file that could not be read, or an image of
    which not all can be, has its row with the error, and is listed in `failures`.

    `dask_fits.cutouts` and `dask_fits.stack` take a collection in the place of files.
    """

    def __init__(
        self,
        columns: Columns,
        places: Places,
        transfer: TransferConfig | None,
        rows: Integers | None = None,
    ) -> None:
        self._columns = columns
        self._places = places
        self._transfer = transfer
        # Rows of the columns, in the order of this collection; None for all, in the order of the
        # collection that was described or written.
        self._rows = rows

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords that were asked for, each a column."""
        return self._columns.keywords

    @property
    def colnames(self) -> tuple[str, ...]:
        """Names of all columns."""
        return (*FIXED, *self.keywords)

    def _known_name(self, name: str) -> str:
        """Return the name of a column as `colnames` has it; raise ValueError if there is none."""
        if name in self.colnames:
            return name
        for known in self.colnames:
            if known.lower() == str(name).lower():
                return known
        raise ValueError(
            f"{name!r}: expected the name of a column, one of {', '.join(self.colnames)}"
        )

    def column(self, name: str) -> Column:
        """Return a column, by a name of `colnames`, in upper or lower case.

        Raises
        ------
        ValueError
            There is no such column.
        """
        return self.columns(name)[0]

    def columns(self, *names: str) -> list[Column]:
        """Return several columns, which are read together where they have to be read."""
        known = tuple(map(self._known_name, names))
        columns = self._columns
        # A copy of the caller's own, or a view through which the collection is not changed.
        if self._rows is not None:
            taken = columns.get_all(known, self._rows)
            return [taken[name] for name in known]
        columns.load(known)
        whole = [columns.get(name, None) for name in known]
        if not columns.is_held:
            order = columns.order()
            return [column[order] for column in whole]
        views = [column.view() for column in whole]
        for view in views:
            view.flags.writeable = False
        return views

    def distinct(self, name: str) -> set[Any]:
        """Return the different values of a column, sooner than `column` returns all of them."""
        if self._rows is None:
            return self._columns.distinct(name)
        return set(self.column(name).tolist())

    @property
    def table(self) -> Table:
        """The collection as an `astropy.table.Table`, a row for each image."""
        from dask_fits.collections.table import make_table

        return make_table(self.column, self.keywords)

    @property
    def failures(self) -> Mapping[str, FitsError]:
        """The first error of each file that has one, by the file's path or URL."""
        errors = self.errors()
        found: dict[str, FitsError] = {}
        if errors:
            urls = self.column("access_url")
            for row, error in errors.items():
                found.setdefault(urls[row], error)
        return found

    def errors(self) -> dict[int, FitsError]:
        """Return the error of each row that has one, by its position."""
        if self.distinct("error_type") <= {""}:
            return {}
        kinds, messages = self.columns("error_type", "error")
        rows = np.flatnonzero(kinds != "").tolist()
        errors = ((row, error_of(kinds[row], messages[row])) for row in rows)
        return {row: error for row, error in errors if error is not None}

    def __len__(self) -> int:
        return len(self._columns) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> HDU: ...
    @overload
    def __getitem__(
        self, key: slice | Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    ) -> Collection: ...
    def __getitem__(self, key: Any) -> HDU | Collection:
        """Return the HDU of a row; or a collection of some rows, by a slice, a list or a mask.

        Raises
        ------
        IndexError
            As NumPy does.
        FitsError
            The row is of a file that could not be read: the error of then.
        """
        if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
            return self.rows(np.array([range(len(self))[key]])).hdu(0)
        if isinstance(key, str):
            raise TypeError(f"{key!r} is no row of a collection: a column is c.column({key!r})")
        # An empty list is one of floats for NumPy.
        listed = np.asarray(key, None if len(key) else int) if isinstance(key, list) else key
        positions = np.arange(len(self))[listed]
        if isinstance(key, (bool, np.bool_)) or positions.ndim != 1:
            raise IndexError(f"expected an index, a slice, a list or a mask of rows, found {key!r}")
        return self.take(positions)

    def __iter__(self) -> Iterator[HDU]:
        rows = self.rows(np.arange(len(self)))
        for row in range(len(self)):
            yield rows.hdu(row)

    def __repr__(self) -> str:
        return describe(self.column, len(self), self.keywords)

    def _repr_html_(self) -> str:
        return describe_html(self.column, len(self), self.keywords)

    def names(self) -> tuple[str, ...]:
        """List names of the rows: path or URL, and the HDU if the file has several rows."""
        urls = self.column("access_url").tolist()
        counts = Counter(urls)
        return tuple(
            name_of_hdu(url, hdu) if counts[url] > 1 else url
            for url, hdu in zip(urls, self.column("hdu").tolist(), strict=True)
        )

    def sources(self) -> list[HDU | FitsError]:
        """List the HDU of each row, or the error that keeps it from being read; reads nothing."""
        rows = self.rows(np.arange(len(self)))
        return [rows.hdu_or_error(row) for row in range(len(self))]

    def _row_numbers(self) -> Integers:
        """Return the rows of the columns, in the order of this collection."""
        return self._columns.order() if self._rows is None else self._rows

    def take(self, positions: Integers) -> Collection:
        """Return the collection of some rows, by their positions in this one."""
        rows = self._row_numbers()[positions]
        return Collection(self._columns, self._places, self._transfer, rows)

    def rows(self, positions: Integers, *, wcs: bool = True) -> Rows:
        """Take what is needed to make HDUs of some rows, by their positions in this collection."""
        rows = self._row_numbers()[positions]
        return rows_of(self._columns, rows, self._places, self._transfer, wcs=wcs)

    def all_rows(self) -> Rows:
        """Take what is needed to read the pixels of all rows."""
        return self.rows(np.arange(len(self)), wcs=False)

    def noted_rows(self) -> NotedRows | None:
        """Return where the rows are, if that is in a file; None if they are in memory."""
        columns = self._columns
        if columns.is_held:
            return None
        positions = range(len(columns)) if self._rows is None else columns.positions(self._rows)
        return NotedRows(columns, self._places, self._transfer, positions)

    def select(
        self,
        position: SkyCoord | tuple[float, float] | None = None,
        radius: Quantity | float | None = None,
        *,
        region: SkyCoord | str | None = None,
        time: Moment | tuple[Moment | None, Moment | None] | None = None,
        shape: tuple[int, ...] | None = None,
        where: str | None = None,
    ) -> Collection:
        """Select images by where on the sky they are, when they were taken, shape, and keywords.

        An image is selected if it meets all of the conditions. One whose place or time is not known
        meets none of these.

        Parameters
        ----------
        position : SkyCoord or (float, float), optional
            Centre of a circle; a pair is ICRS right ascension and declination in degrees.
        radius : Quantity or float, optional
            Its radius, in degrees if it is a number. Images are selected that have a point within
            the circle: by default, with 0, those that show the position.
        region : SkyCoord or str, optional
            Instead of a circle a polygon, by three or more vertices, or ObsCore's text
            (``"CIRCLE ICRS 10 41 0.5"``, ``"POLYGON ICRS ..."``).
        time : Time, str, datetime, float, or a pair of these, optional
            Images are selected whose exposure was in progress then, or at some time between the
            two; None for a pair without a limit there. A number is a modified Julian date in UTC, a
            text a date of ISO 8601.
        shape : tuple of int, optional
            Shape of the images, NumPy order.
        where : str, optional
            A condition on columns, as `pandas.DataFrame.query` takes it:
            ``"FILTER == 'r' and EXPTIME > 100"``. A name that is no name of Python's is written
            between backticks: ``"`DATE-OBS` > '2024-01-01'"``.

        Returns
        -------
        Collection
            In the order of this one.

        Raises
        ------
        ValueError, TypeError
            A condition cannot be understood.
        MissingDriverError
            pandas, which `where` needs, is not installed.
        """
        from dask_fits.collections.selection import (
            select_shape,
            select_sky,
            select_time,
            select_where,
        )
        from dask_fits.wcs.region_text import as_region

        # What costs least first; only what is left is looked for on the sky.
        left = self
        if time is not None:
            left = left[select_time(left, time)]
        if shape is not None:
            left = left[select_shape(left, shape)]
        if where is not None:
            left = left[select_where(left, where)]
        if position is None and region is None and radius is None:
            return left
        return left.take(select_sky(left, as_region(position, radius, region)))

    def to_parquet(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the collection as a Parquet file, which `open_collection` opens.

        Its rows are sorted by where on the sky the images are, so that a selection reads a part of
        the file; `open_collection` restores their order. There are no credentials in it: user,
        password and signature are left out of URLs.

        Parameters
        ----------
        url : path or URL
            Any that fsspec can write. A file that is there is replaced, on a mounted disk in one
            step.
        storage_options : mapping, optional
            Arguments of the fsspec filesystem that it is written to.

        Raises
        ------
        MissingDriverError
            pyarrow is not installed.
        StorageError
            It cannot be written there.
        """
        with needs("pyarrow", extra="collections"):
            from dask_fits.collections.parquet import write_parquet
        write_parquet(self.column, Inspection(None, self.keywords), url, storage_options)
