"""Many cutouts as FITS files, and a table that tells what became of each."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Integers
from dask_fits.concurrency.cancellation import check_wanted
from dask_fits.cutout import Mode
from dask_fits.exceptions import FitsError, FitsFormatError, printable
from dask_fits.file.hdu import HDU
from dask_fits.many_cutouts.images import Image
from dask_fits.many_cutouts.rows import Rows
from dask_fits.many_cutouts.stream import Errors
from dask_fits.many_cutouts.tasks import Part
from dask_fits.writing.atomic import check_is_free, write_atomically
from dask_fits.writing.box import Template, cut_file
from dask_fits.writing.fill import stored_fill

SUMMARY = "cutouts.csv"
"""Name of the table that tells what became of each cutout."""

_MAX_NAME = 200
"""Bytes of a position's name: file systems take 255, with what is added to it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """An HDU of a file that is written."""

    row: int
    slot: int
    image: tuple[int, int]
    """File and slot of the image."""
    origin: tuple[int, ...]
    shape: tuple[int, ...]
    filled: bool
    """Whether some of its pixels are off the image."""


@dataclass(frozen=True, slots=True, eq=False)
class FitsWriter:
    """Writes the cutouts of a table, those of each row into one file."""

    table: Rows
    mode: Mode
    paths: tuple[Path, ...]
    """File of each row."""
    fill_value: Any
    """Physical value; None for NaN or BLANK."""
    directory: Path

    @classmethod
    def of(
        cls,
        table: Rows,
        mode: Mode,
        directory: Path,
        names: Sequence[str] | None,
        fill_value: Any,
    ) -> FitsWriter:
        """Find a name for each row.

        Raises
        ------
        ValueError
            The names are not one for each position, or not different.
        """
        count = int(table.position.max(initial=-1)) + 1
        if names is None:
            width = len(str(max(count - 1, 0)))
            names = [f"{number:0{width}}" for number in range(count)]
        safe = [re.sub(r"^\.|[^\w.+-]", "_", str(name)) for name in names]
        if "" in safe:
            raise ValueError("names: expected text, found ''")
        if len(safe) != count:
            raise ValueError(f"names: expected {count}, one for each position, found {len(safe)}")
        long = next((name for name in safe if len(name.encode()) > _MAX_NAME), None)
        if long is not None:
            raise ValueError(
                f"names: expected at most {_MAX_NAME} bytes, found {len(long.encode())} in "
                f"{long[:40]}..."
            )
        if len(set(safe)) < count:
            twice = next(name for n, name in enumerate(safe) if name in safe[:n])
            raise ValueError(f"names: expected different ones, found {twice!r} twice")
        several = np.bincount(table.position, minlength=count) > 1
        digits = len(str(max(len(table.rows) - 1, 0)))
        paths = [
            directory / f"{safe[position]}{f'_{file:0{digits}}' if several[position] else ''}.fits"
            for position, file in zip(table.position.tolist(), table.file.tolist(), strict=True)
        ]
        if len(set(paths)) < len(paths):
            same = next(path for n, path in enumerate(paths) if path in paths[:n])
            raise ValueError(f"names: expected different ones for all rows, found {same} twice")
        return cls(table, mode, tuple(paths), fill_value, directory)

    def prepare(self, *, overwrite: bool) -> None:
        """Make the directory.

        Raises
        ------
        FileExistsError
            There is one of the files already.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        paths = (*self.paths, self.directory / SUMMARY)
        for path in paths:
            check_is_free(path, overwrite=overwrite)
        for path in paths:
            path.unlink(missing_ok=True)  # where it fails now, an old one would pass for new

    def block(self, errors: Errors, rows: Integers) -> FitsBlock:
        """Make what writes some rows, without what is known to have failed."""
        pieces, images = [], {}
        for row in rows.tolist():
            for slot in range(self.table.status.shape[1]):
                found = None if (row, slot) in errors else self.table.image(row, slot)
                if found is None or (self.mode == "strict" and not found[0].placed.whole[found[1]]):
                    continue
                place = int(self.table.file[row]), slot
                images[place] = found[0].hdu
                pieces.append(self._piece(row, slot, place, *found))
        paths = {row: self.paths[row] for row in rows.tolist()}
        broken = {row for row, _ in errors}
        return FitsBlock(
            tuple(piece for piece in pieces if piece.row not in broken),
            *(images, paths, self.fill_value),
        )

    def _piece(
        self, row: int, slot: int, place: tuple[int, int], image: Image, number: int
    ) -> _Piece:
        origin, shape = image.box(number, self.mode)
        filled = self.mode == "partial" and not image.placed.whole[number]
        return _Piece(row, slot, place, origin, shape, bool(filled))

    def of_whole_rows(self, errors: Errors) -> Errors:
        """Add the other HDUs of rows of which one failed: they have no file either."""
        found = dict(errors)
        for (row, _), error in errors.items():
            for slot in range(self.table.status.shape[1]):
                if self.table.image(row, slot):
                    found.setdefault((row, slot), error)
        return found

    def summarize(self, table: Rows, files: Sequence[str]) -> None:
        """Write the table that tells what became of each cutout."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["row", "position", "hdu", "file", "status", "path", "error"])
        for row, slot in np.ndindex(table.status.shape):
            file, path = int(table.file[row]), self.paths[row]
            said = "" if table.error[row, slot] is None else str(table.error[row, slot])
            lines.writerow([
                *(row, int(table.position[row]), slot, _cell(files[file] if file >= 0 else "")),
                *(table.status[row, slot], _cell(path.name if path.exists() else ""), _cell(said)),
            ])  # fmt: skip
        write_atomically(self.directory / SUMMARY, text.getvalue().encode(), overwrite=True)


def _cell(text: str) -> str:
    """Write text so that no program that opens the table takes it for more than that.

    With an apostrophe before it, a spreadsheet does not take it for a formula.
    """
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What formulas begin with, in both widths; tabs and line ends are escaped."""


@dataclass(frozen=True, slots=True, eq=False)
class FitsBlock:
    """Writes some rows; see `dask_fits.many_cutouts.stream.Write`."""

    pieces: tuple[_Piece, ...]
    images: dict[tuple[int, int], HDU]
    """HDU of each image, by file and slot."""
    paths: dict[int, Path]
    fill_value: Any

    def __call__(self, rows: Integers, parts: Sequence[Sequence[Part]]) -> Errors:
        """Write the cutouts of some rows."""
        errors: Errors = {}
        arrays = {(p.row, p.slot): self._blank(p, errors) for p in self.pieces}
        for some in parts:
            for row, slot, place, pixels in some:
                if isinstance(pixels, FitsError):
                    errors[row, slot] = pixels
                elif (array := arrays.get((row, slot))) is not None:
                    array[place] = pixels
        templates: dict[tuple[int, int], Template] = {}
        for row in rows.tolist():
            check_wanted()
            own = [piece for piece in self.pieces if piece.row == row]
            failed = [errors[row, p.slot] for p in own if (row, p.slot) in errors]
            try:
                if failed:
                    raise failed[0]
                if own:
                    self._write(own, arrays, templates)
            except FitsError as error:
                # Without one of its HDUs a file would pass for a whole one.
                errors |= {(row, p.slot): errors.get((row, p.slot), error) for p in own}
        return errors

    def _blank(self, piece: _Piece, errors: Errors) -> npt.NDArray[Any] | None:
        hdu = self.images[piece.image]
        try:
            fill = stored_fill(hdu, self.fill_value) if piece.filled else 0
        except ValueError as error:
            errors[piece.row, piece.slot] = FitsFormatError(str(error))
            return None
        return np.full(piece.shape, fill, hdu.reader(mask_and_scale=False).dtype)

    def _write(
        self,
        own: Sequence[_Piece],
        arrays: dict[tuple[int, int], npt.NDArray[Any] | None],
        templates: dict[tuple[int, int], Template],
    ) -> None:
        contents = []
        for piece in own:
            if piece.image not in templates:
                templates[piece.image] = Template.of(self.images[piece.image])
            array = arrays[piece.row, piece.slot]
            if array is not None:
                contents.append((templates[piece.image], array, piece.origin))
        write_atomically(self.paths[own[0].row], cut_file(contents), overwrite=True)
