"""Writing many cutouts into a zarr group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.many_cutouts.tasks import Errors, Part, ResultSpec, assemble
from dask_fits.writing.zarr_group import ZarrGroup


@dataclass(frozen=True, slots=True, eq=False)
class ZarrWriter:
    """Writes cutouts into a zarr group, each as a chunk of its own.

    It is a `dask_fits.many_cutouts.stream.BlockWriter` of any block, and can be pickled.
    """

    group: ZarrGroup
    spec: ResultSpec

    def create(self, row_count: int, attributes: dict[str, Any], *, overwrite: bool) -> None:
        """Create the group; see `ZarrGroup.create`."""
        spec = self.spec
        self.group.create(
            (row_count, *spec.row),
            (1, *spec.row),
            np.array(spec.fill_value).astype(spec.dtype)[()],
            attributes,
            overwrite=overwrite,
        )

    def __call__(self, rows: Integers, parts_of_bundles: Sequence[Sequence[Part]]) -> Errors:
        """Open the group and write the cutouts of some rows; return the errors of cutouts."""
        cutouts, errors = assemble(rows, self.spec, parts_of_bundles)
        with self.group.driver_errors():
            data = self.group.pixels()
            for row, cutout in zip(rows.tolist(), cutouts, strict=True):
                raise_if_cancelled()
                data[row] = cutout
        return errors
