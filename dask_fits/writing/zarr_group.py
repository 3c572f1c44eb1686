"""A zarr group that is filled by many tasks; the only importer of zarr."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import zarr
from zarr.errors import ContainsArrayError, ContainsGroupError

from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import local_path, split_chain
from dask_fits.storage.redaction import redact_url

INCOMPLETE = "incomplete"
"""Attribute of a group that has not been written to its end: it was interrupted, or still is."""

DATA = "data"
"""Name of the array of pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class ZarrGroup:
    """A zarr group with an array of pixels, ``data``, and small arrays that describe it.

    Each call opens the group anew: it holds no handle, and can be pickled.
    """

    store: str
    storage_options: dict[str, Any] | None
    """They may hold secrets and are shown nowhere."""

    def __repr__(self) -> str:
        return f"ZarrGroup({self.name!r})"

    @property
    def name(self) -> str:
        """The path or URL, with secrets redacted."""
        return redact_url(self.store)

    def create(
        self,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        fill_value: Any,
        attributes: dict[str, Any],
        *,
        overwrite: bool,
        dimension_names: tuple[str, ...] | None = None,
    ) -> None:
        """Create the group, with an empty array for the pixels, and mark it as incomplete.

        Parameters
        ----------
        shape, chunks : tuple of int
            Of the array of pixels.
        fill_value : NumPy scalar
            Its value and its type.
        attributes : dict
            Of the group.
        overwrite : bool
            Replace a group that exists.
        dimension_names : tuple of str, optional
            Names of the axes of the array of pixels.

        Raises
        ------
        FileExistsError
            Something is there, and `overwrite` is not set or it is no zarr group.
        AccessDeniedError, StorageError
            The storage refuses or fails to write.
        """
        if overwrite and _holds_other_files(self.store):
            raise FileExistsError(f"{self.name}: is no zarr group, and is not replaced by one")
        with self.driver_errors():
            try:
                group = self._open_group(
                    "w" if overwrite else "w-", attributes=attributes | {INCOMPLETE: True}
                )
            except (ContainsArrayError, ContainsGroupError, FileExistsError):
                group = None
        # Outside of the block, which would make a StorageError of it.
        if group is None:
            raise FileExistsError(f"{self.name}: exists, and it was not asked to replace it")
        self.add_empty(DATA, shape, chunks, fill_value, dimension_names)

    def pixels(self) -> Any:
        """Open the array of pixels, for writing."""
        return self.array(DATA)

    def array(self, name: str) -> Any:
        """Open an array, for writing."""
        return self._open_group("r+")[name]

    def add_empty(
        self,
        name: str,
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        fill_value: Any,
        dimension_names: tuple[str, ...] | None,
    ) -> None:
        """Add an array that tasks fill; `fill_value` is its value and its type."""
        with self.driver_errors():
            self._open_group("r+").create_array(
                name,
                shape=shape,
                chunks=chunks,
                dtype=fill_value.dtype,
                fill_value=fill_value,
                dimension_names=dimension_names,
            )

    def describe_pixels(self, **attributes: Any) -> None:
        """Set attributes of the array of pixels."""
        self.describe(DATA, **attributes)

    def describe_group(self, **attributes: Any) -> None:
        """Set attributes of the group."""
        with self.driver_errors():
            self._open_group("r+").update_attributes(attributes)

    def describe(self, name: str, **attributes: Any) -> None:
        """Set attributes of an array."""
        with self.driver_errors():
            self.array(name).update_attributes(attributes)

    def add(
        self,
        name: str,
        values: npt.NDArray[Any],
        dimension_names: tuple[str, ...] | None = None,
        **attributes: Any,
    ) -> None:
        """Write a small array as a whole."""
        with self.driver_errors():
            self._open_group("r+").create_array(
                name, data=values, attributes=attributes, dimension_names=dimension_names
            )

    def finish(self) -> None:
        """Remove the mark of an incomplete group."""
        with self.driver_errors():
            del self._open_group("r+").attrs[INCOMPLETE]

    def driver_errors(self) -> AbstractContextManager[None]:
        """Return a context manager that raises a driver's errors as StorageError."""
        return storage_errors(self.store, self.storage_options or {})

    def _open_group(self, mode: Literal["r+", "w", "w-"], **options: Any) -> Any:
        # As a path, since in a text zarr takes :: for a URL.
        store = self.store if "://" in self.store else _local_directory(self.store) or self.store
        return zarr.open_group(store, mode=mode, storage_options=self.storage_options, **options)


def _local_directory(store: str) -> Path | None:
    """Return the directory on disk that a path or URL names; None if it names none."""
    path = local_path(store, {}) if len(split_chain(store)) == 1 else None
    return None if path is None else Path(path)


def _holds_other_files(store: str) -> bool:
    """Whether a path on disk is a file, or a directory that holds files but no zarr group."""
    path = _local_directory(store)
    if path is None:
        return False
    if not path.is_dir():
        return path.exists()
    names = {entry.name for entry in path.iterdir()}
    return bool(names) and names.isdisjoint({"zarr.json", ".zgroup", ".zarray"})
