"""Many cutouts into a zarr group; the only importer of zarr."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import ContainsArrayError, ContainsGroupError

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import check_wanted
from dask_fits.many_cutouts.stream import Errors
from dask_fits.many_cutouts.tasks import Part, ResultSpec, assemble
from dask_fits.storage.errors import storage_errors
from dask_fits.storage.filesystem import links, local_path
from dask_fits.storage.redaction import redact_url

INCOMPLETE = "incomplete"
"""Attribute of a group that has not been written to its end: it was interrupted, or still is."""


@dataclass(frozen=True, slots=True, eq=False)
class ZarrWriter:
    """Writes cutouts into a zarr group, each as a chunk of its own; see `Write`."""

    store: str
    storage_options: dict[str, Any] | None
    """They may hold secrets and are shown nowhere."""
    spec: ResultSpec

    def __repr__(self) -> str:
        return f"ZarrWriter({self.name!r}, {self.spec})"

    @property
    def name(self) -> str:
        """The path or URL as it may be shown."""
        return redact_url(self.store)

    def create(self, count: int, attributes: dict[str, Any], *, overwrite: bool) -> None:
        """Make the group.

        Raises
        ------
        FileExistsError
            There is one, and it may not be replaced.
        AccessDeniedError, StorageError
            As of whatever else is written.
        """
        spec, mode = self.spec, "w" if overwrite else "w-"
        if overwrite and _holds_other_files(self.store):
            raise FileExistsError(f"{self.name}: is no zarr group, and is not replaced by one")
        with self._errors():
            try:
                group = self._open(mode, attributes=attributes | {INCOMPLETE: True})
            except (ContainsArrayError, ContainsGroupError, FileExistsError):
                group = None
        if group is None:
            raise FileExistsError(f"{self.name}: exists, and it was not asked to replace it")
        with self._errors():
            group.create_array(
                "data",
                shape=(count, *spec.row),
                chunks=(1, *spec.row),
                dtype=spec.dtype,
                fill_value=np.array(spec.fill_value).astype(spec.dtype)[()],
            )

    def add(self, name: str, values: npt.NDArray[Any], **attributes: Any) -> None:
        """Write a small array as a whole."""
        with self._errors():
            self._open("r+").create_array(name, data=values, attributes=attributes)

    def finish(self) -> None:
        """Take away the mark of a group that is being written."""
        with self._errors():
            del self._open("r+").attrs[INCOMPLETE]

    def __call__(self, rows: Integers, parts: Sequence[Sequence[Part]]) -> Errors:
        """Write the cutouts of some rows."""
        found, errors = assemble(rows, self.spec, parts)
        with self._errors():
            data = self._open("r+")["data"]
            for row, cutout in zip(rows.tolist(), found, strict=True):
                check_wanted()
                data[row] = cutout
        return errors

    def _errors(self) -> AbstractContextManager[None]:
        return storage_errors(self.store, self.storage_options or {})

    def _open(self, mode: Any, **options: Any) -> Any:
        # As a path, since in a text zarr takes :: for a URL.
        store = self.store if "://" in self.store else _directory(self.store) or self.store
        return zarr.open_group(store, mode=mode, storage_options=self.storage_options, **options)


def _directory(store: str) -> Path | None:
    """Find the directory on disk that is meant, where it is one."""
    place = local_path(store, {}) if len(links(store)) == 1 else None
    return None if place is None else Path(place)


def _holds_other_files(store: str) -> bool:
    """Whether a directory on disk holds something that is no group of zarr."""
    path = _directory(store)
    if path is None:
        return False
    if not path.is_dir():
        return path.exists()
    names = {entry.name for entry in path.iterdir()}
    return bool(names) and names.isdisjoint({"zarr.json", ".zgroup", ".zarray"})
