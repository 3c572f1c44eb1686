"""Writing many cutouts as FITS files, and a table of their statuses."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import raise_if_cancelled
from dask_fits.cutout import Mode
from dask_fits.exceptions import FitsError, FitsFormatError, printable
from dask_fits.file.hdu import HDU
from dask_fits.many_cutouts.rows import Rows
from dask_fits.many_cutouts.tasks import Errors, Part
from dask_fits.storage.atomic import check_is_free, write_atomically
from dask_fits.writing.box import Template, boxes_to_fits
from dask_fits.writing.fill import stored_fill

SUMMARY = "cutouts.csv"
"""Name of the table of the statuses of the cutouts."""

_SUMMARY_COLUMNS = ("row", "position", "hdu", "file", "status", "path", "error")

_MAX_NAME = 200
"""Bytes of a position's name: file systems take 255, with the suffixes that are added to it."""

_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""Characters that formulas begin with, in both widths; tabs and line ends are escaped anyway."""


@dataclass(frozen=True, slots=True, eq=False)
class _OutputHdu:
    """An HDU of a file that is written: one cutout."""

    row: int
    slot: int
    image: tuple[int, int]
    """File and slot of the image."""
    origin: tuple[int, ...]
    """Pixel of the image that is the cutout's first."""
    shape: tuple[int, ...]
    filled: bool
    """Whether some of its pixels are off the image."""


@dataclass(frozen=True, slots=True, eq=False)
class FitsWriter:
    """Writes the cutouts of a result, those of each row into one file."""

    result: Rows
    mode: Mode
    paths: tuple[Path, ...]
    """File of each row."""
    fill_value: Fraction | float | None
    """Physical value; None for NaN or BLANK."""
    directory: Path

    @classmethod
    def of(
        cls,
        result: Rows,
        mode: Mode,
        directory: Path,
        names: Sequence[str] | None,
        fill_value: Fraction | float | None,
    ) -> FitsWriter:
        """Return the writer of a result, with a path for each row.

        Raises
        ------
        ValueError
            The names are not one for each position, or not different.
        """
        position_count = int(result.position.max(initial=-1)) + 1
        stems = _file_stems(names, position_count)
        # The file's index follows the name of a position that has cutouts of several files.
        needs_suffix = np.bincount(result.position, minlength=position_count) > 1
        width = len(str(max(len(result.rows_of_file) - 1, 0)))
        paths = []
        for position, file in zip(result.position.tolist(), result.file.tolist(), strict=True):
            suffix = f"_{file:0{width}}" if needs_suffix[position] else ""
            paths.append(directory / f"{stems[position]}{suffix}.fits")
        # Names that differ may make the same path: one with a suffix is like another without.
        if len(set(paths)) < len(paths):
            twice = next(path for row, path in enumerate(paths) if path in paths[:row])
            raise ValueError(f"names: expected different ones for all rows, found {twice} twice")
        return cls(result, mode, tuple(paths), fill_value, directory)

    def prepare(self, *, overwrite: bool) -> None:
        """Make the directory, and remove the files that are to be replaced.

        Raises
        ------
        FileExistsError
            One of the files exists, and `overwrite` is not set.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        paths = (*self.paths, self.directory / SUMMARY)
        for path in paths:
            check_is_free(path, overwrite=overwrite)
        # A cutout that fails now writes no file; an old one would pass for it.
        for path in paths:
            path.unlink(missing_ok=True)

    def block_writer(self, errors: Errors, rows: Integers) -> FitsBlockWriter:
        """Return the writer of a block of rows, without those of which a cutout failed already."""
        failed_rows = {row for row, _ in errors}
        written_rows = [row for row in rows.tolist() if row not in failed_rows]
        outputs = []
        # Each image once, since thousands of cutouts may be of it and the writer is pickled.
        hdus = {}
        for row in written_rows:
            for slot in range(self.result.status.shape[1]):
                located = self.result.locate(row, slot)
                if located is None:
                    continue
                image, box_index = located
                whole = bool(image.placed.whole[box_index])
                if self.mode == "strict" and not whole:
                    continue
                image_key = int(self.result.file[row]), slot
                hdus[image_key] = image.hdu
                origin, shape = image.bounds(box_index, self.mode)
                filled = self.mode == "partial" and not whole
                outputs.append(_OutputHdu(row, slot, image_key, origin, shape, filled))
        paths = {row: self.paths[row] for row in written_rows}
        return FitsBlockWriter(tuple(outputs), hdus, paths, self.fill_value)

    def spread_over_rows(self, errors: Errors) -> Errors:
        """Add errors for the other cutouts of rows of which one failed.

        Such a row is not written at all.
        """
        spread = dict(errors)
        for (row, _), error in errors.items():
            for slot in range(self.result.status.shape[1]):
                if self.result.locate(row, slot):
                    spread.setdefault((row, slot), error)
        return spread

    def summarize(self, result: Rows, files: Sequence[str]) -> None:
        """Write the table of the statuses of the cutouts, as they are after writing."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_SUMMARY_COLUMNS)
        for row, slot in np.ndindex(result.status.shape):
            file = int(result.file[row])
            path = self.paths[row]
            error: object = result.error[row, slot]
            cells = [
                row,
                int(result.position[row]),
                slot,
                _escape_cell(files[file] if file >= 0 else ""),
                result.status[row, slot],
                _escape_cell(path.name if path.exists() else ""),
                _escape_cell("" if error is None else str(error)),
            ]
            table.writerow(cells)
        write_atomically(self.directory / SUMMARY, text.getvalue().encode(), overwrite=True)


def _file_stems(names: Sequence[str] | None, position_count: int) -> list[str]:
    """Return a file name without extension for each position, by default its index.

    Raises
    ------
    ValueError
        The names are not one for each position, not different, empty or too long.
    """
    if names is None:
        width = len(str(max(position_count - 1, 0)))
        names = [f"{position:0{width}}" for position in range(position_count)]
    # Nothing that names a directory, hides a file, or that some file system does not take.
    stems = [re.sub(r"^\.|[^\w.+-]", "_", str(name)) for name in names]
    if "" in stems:
        raise ValueError("names: expected text, found ''")
    if len(stems) != position_count:
        raise ValueError(
            f"names: expected {position_count}, one for each position, found {len(stems)}"
        )
    long = next((stem for stem in stems if len(stem.encode()) > _MAX_NAME), None)
    if long is not None:
        raise ValueError(
            f"names: expected at most {_MAX_NAME} bytes, found {len(long.encode())} in "
            f"{long[:40]}..."
        )
    if len(set(stems)) < position_count:
        twice = next(stem for position, stem in enumerate(stems) if stem in stems[:position])
        raise ValueError(f"names: expected different ones, found {twice!r} twice")
    return stems


def _escape_cell(text: str) -> str:
    """Return text that no program which opens the table takes for more than text.

    With an apostrophe before it, a spreadsheet does not take it for a formula.
    """
    escaped = printable(text)
    return f"'{escaped}" if escaped.startswith(_FORMULA) else escaped


@dataclass(frozen=True, slots=True, eq=False)
class FitsBlockWriter:
    """Writes the files of a block of rows; see `dask_fits.many_cutouts.stream.BlockWriter`."""

    outputs: tuple[_OutputHdu, ...]
    """HDUs of all files, by row and then by slot."""
    hdus: dict[tuple[int, int], HDU]
    """HDU of each image, by file and slot."""
    paths: dict[int, Path]
    """File of each row."""
    fill_value: Fraction | float | None

    def __call__(self, rows: Integers, parts_of_bundles: Sequence[Sequence[Part]]) -> Errors:
        """Write the files of some rows; return the errors of their cutouts."""
        arrays, errors = self._assemble(parts_of_bundles)
        # What of an image's header is written with each of its cutouts, made once.
        templates: dict[tuple[int, int], Template] = {}
        for row in rows.tolist():
            raise_if_cancelled()
            outputs = [output for output in self.outputs if output.row == row]
            failed = [errors[row, out.slot] for out in outputs if (row, out.slot) in errors]
            try:
                if failed:
                    raise failed[0]
                if outputs:
                    self._write_file(outputs, arrays, templates)
            except FitsError as error:
                # Without one of its HDUs a file would pass for a whole one: all of them fail.
                errors |= {(row, out.slot): errors.get((row, out.slot), error) for out in outputs}
        return errors

    def _assemble(
        self, parts_of_bundles: Sequence[Sequence[Part]]
    ) -> tuple[dict[tuple[int, int], npt.NDArray[Any]], Errors]:
        """Assemble the stored values of each cutout, by row and slot; or record its error."""
        arrays: dict[tuple[int, int], npt.NDArray[Any]] = {}
        errors: Errors = {}
        # Each has the type and, if it needs one, the fill value of its own image.
        for output in self.outputs:
            hdu = self.hdus[output.image]
            try:
                fill = stored_fill(hdu, self.fill_value) if output.filled else 0
            except ValueError as error:
                errors[output.row, output.slot] = FitsFormatError(str(error))
                continue
            dtype = hdu.reader(mask_and_scale=False).dtype
            arrays[output.row, output.slot] = np.full(output.shape, fill, dtype)
        for parts in parts_of_bundles:
            for row, slot, slices, pixels in parts:
                if isinstance(pixels, FitsError):
                    errors[row, slot] = pixels
                elif (array := arrays.get((row, slot))) is not None:
                    array[slices] = pixels
        return arrays, errors

    def _write_file(
        self,
        outputs: Sequence[_OutputHdu],
        arrays: dict[tuple[int, int], npt.NDArray[Any]],
        templates: dict[tuple[int, int], Template],
    ) -> None:
        """Write the file of one row; templates that it needs first are added to `templates`."""
        contents = []
        for output in outputs:
            if output.image not in templates:
                templates[output.image] = Template.of(self.hdus[output.image])
            array = arrays[output.row, output.slot]
            contents.append((templates[output.image], array, output.origin))
        write_atomically(self.paths[outputs[0].row], boxes_to_fits(contents), overwrite=True)
