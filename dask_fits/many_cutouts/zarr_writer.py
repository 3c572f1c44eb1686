"""Many cutouts into a zarr group; the only importer of zarr."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.errors import ContainsArrayError, ContainsGroupError

from dask_fits.format.selection import Integers
from dask_fits.many_cutouts.stream import Errors
from dask_fits.many_cutouts.tasks import Form, Part, put_together
from dask_fits.storage.filesystem import links, local_path


@dataclass(frozen=True, slots=True, eq=False)
class ZarrWriter:
    """Writes cutouts into a zarr group, each as a chunk of its own; see `Write`."""

    store: str
    storage_options: dict[str, Any] | None
    form: Form

    def create(self, count: int, attributes: dict[str, Any], *, overwrite: bool) -> None:
        """Make the group.

        Raises
        ------
        FileExistsError
            There is one, and it may not be replaced.
        """
        form, mode = self.form, "w" if overwrite else "w-"
        if overwrite and _holds_other_files(self.store):
            raise FileExistsError(f"{self.store}: is no zarr group, and is not replaced by one")
        try:
            group = self._open(mode, attributes=attributes)
        except (ContainsArrayError, ContainsGroupError, FileExistsError) as error:
            raise FileExistsError(
                f"{self.store}: exists, and it was not asked to replace it"
            ) from error
        group.create_array(
            "data",
            shape=(count, *form.row),
            chunks=(1, *form.row),
            dtype=form.dtype,
            fill_value=np.array(form.fill_value).astype(form.dtype)[()],
        )

    def add(self, name: str, values: npt.NDArray[Any], **attributes: Any) -> None:
        """Write a small array as a whole."""
        self._open("r+").create_array(name, data=values, attributes=attributes)

    def __call__(self, rows: Integers, parts: Sequence[Sequence[Part]]) -> Errors:
        """Write the cutouts of some rows."""
        found, errors = put_together(rows, self.form, parts)
        data = self._open("r+")["data"]
        for row, cutout in zip(rows.tolist(), found, strict=True):
            data[row] = cutout
        return errors

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
