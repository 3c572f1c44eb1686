"""Mutated files, and everything that the package does with a file, in a process that may die of it.

``python -m tests.support.fuzz_operations FIRST COUNT`` uses the files of the seeds from FIRST on, one after the
other, and prints a line of JSON for each: what it took, and what was raised that must not be.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import dask
import numpy as np
import xarray as xr
from astropy.coordinates import SkyCoord

import dask_fits
from dask_fits import HDU, FitsError, FitsFile
from dask_fits.cli import main as command_line
from tests.support.at_rest import write_at_rest
from tests.support.fuzz_files import mutated
from tests.support.mutations import COMPRESSED

SMALL = 1_000_000
"""Bytes. An image up to this is read whole."""

HDUS = 3
"""HDUs of a file that are used, its first ones."""

# What is done with a file

Operation = Callable[[FitsFile, Path], object]


def _hdus(file: FitsFile) -> Iterator[HDU]:
    for index in range(HDUS):
        try:
            yield file[index]
        except FitsError:
            return


def _each(use: Callable[[HDU], object]) -> Operation:
    """Do something with each HDU; an error of one does not keep it from the others."""

    def operation(file: FitsFile, _: Path) -> None:
        for hdu in _hdus(file):
            with contextlib.suppress(FitsError):
                use(hdu)

    return operation


def _corner(hdu: HDU) -> tuple[slice, ...]:
    return tuple(slice(0, min(2, length)) for length in hdu.shape or ())


def _list(file: FitsFile, _: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        file.info()
    assert len(list(file)) == len(file)


def _repr(file: FitsFile, _: Path) -> None:
    assert repr(file)
    assert file._repr_html_()
    assert all(repr(hdu) and hdu._repr_html_() for hdu in _hdus(file))


def _data(hdu: HDU) -> None:
    array = hdu.data
    if array.nbytes <= SMALL:
        array.compute()


def _cutout(hdu: HDU) -> None:
    if hdu.cutout((1, 1), 2).data.nbytes <= SMALL:
        hdu.cutout((1, 1), 2).data.compute()
    with _no_sky():
        hdu.cutout(SkyCoord(10, 20, unit="deg"), 2)


def _alternate(hdu: HDU) -> None:
    hdu.alternate_wcs("A")


def _astropy(hdu: HDU) -> None:
    found = hdu.to_hdu()
    if found.data is not None and found.data.nbytes <= SMALL:
        found.data.compute()


@contextlib.contextmanager
def _no_sky() -> Iterator[None]:
    """Let the documented ValueError pass: the coordinates are not celestial, or of another frame."""
    try:
        yield
    except FitsError:
        raise
    except ValueError as error:
        if "WCS: " not in str(error):
            raise


def _cutouts(file: FitsFile, path: Path) -> None:
    with contextlib.suppress(FitsError):
        found = dask_fits.cutouts(file, [(1, 1), (3, 2)], 2, fill_value=0)
        if found.data.nbytes <= SMALL:
            found.data.compute()
        with contextlib.suppress(FitsError):
            known = found.wcs[0] is not None or found.wcs.error(0) is not None
            assert known or found.status[0] in ("off", "failed")
    dask_fits.cutouts(str(path), SkyCoord([10.0], [20.0], unit="deg"), 2, fill_value=0)


def _files(file: FitsFile, path: Path) -> None:
    found = dask_fits.cutouts(file, [(1, 1), (3, 2)], 2, mode="trim", fill_value=0)
    if found.data.nbytes <= SMALL:
        found.to_files(path.parent / "cutouts", overwrite=True)


def _command_line(_: FitsFile, path: Path) -> None:
    """What it says of an error is a line, and none is of Python's."""
    for command in ("info", "header", "plan"):
        told, status = io.StringIO(), 0
        show = warnings.showwarning
        with (
            patch.object(sys, "argv", ["dask-fits", command, str(path)]),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(told),
        ):
            try:
                command_line()
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                warnings.showwarning = show
        said = told.getvalue()
        assert not re.search(r"dask-fits: [A-Z]\w+: |Traceback", said), said
        assert said.count("\n") == 1 if status else "dask-fits: error" not in said, said


def _xarray(_: FitsFile, path: Path) -> None:
    found = xr.open_dataset(path, engine="fits", world_coords=True)
    assert repr(found)
    for use in (
        lambda: found.fits.wcs,
        lambda: found.fits.cutout((1, 1), 2),
        lambda: found.fits.sel_sky(SkyCoord(10, 20, unit="deg")),
    ):
        with contextlib.suppress(FitsError, KeyError), _no_sky():
            use()
    for name in list(found.data_vars)[:HDUS]:
        variable = found[name]
        part = variable.isel({dim: slice(0, 2) for dim in variable.dims})
        with contextlib.suppress(FitsError):
            assert part.load().shape == part.shape


OPERATIONS: dict[str, Operation] = {
    "list": _list,
    "repr": _repr,
    "header": _each(lambda hdu: len(hdu.header)),
    "wcs": _each(lambda hdu: hdu.wcs),
    "plan": _each(lambda hdu: hdu.plan()),
    "section": _each(lambda hdu: hdu.section[_corner(hdu)]),
    "data": _each(_data),
    "cutout": _each(_cutout),
    "cutouts": _cutouts,
    "xarray": _xarray,
    "alternate WCS": _each(_alternate),
    "astropy's HDU": _each(_astropy),
}

SELDOM: dict[str, tuple[int, Operation]] = {
    "command line": (10, _command_line),
    "files": (20, _files),
}
"""What is done with every tenth file, and so on, only."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the file of a seed."""

    seed: int
    seconds: float
    """Of the processor's time, of the operation that took longest."""
    slowest: str
    """That operation."""
    megabytes: float
    """By how much the process's memory grew at most."""
    strange: tuple[str, ...]
    """Errors outside the family, with the operation that they are of."""


def use(seed: int, path: Path) -> Outcome:
    """Do everything with the file of a seed."""
    write_at_rest(path, mutated(seed))
    strange = []
    slowest, longest = "", 0.0
    before = _peak(reset=True)
    seldom = {name: use for name, (every, use) in SELDOM.items() if seed % every == 0}
    for name, operation in {"open": None, **OPERATIONS, **seldom}.items():
        start = time.process_time()
        try:
            file = dask_fits.open(path)
            if operation is not None:
                operation(file, path)
        except FitsError:
            if operation is None:
                break
        except Exception as error:  # noqa: BLE001 (that is what is looked for)
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{name}: {type(error).__name__}: {str(error)[:200]}"
            strange.append(f"{said} ({where.filename}:{where.lineno})")
        took = time.process_time() - start
        slowest, longest = (name, took) if took > longest else (slowest, longest)
    return Outcome(seed, longest, slowest, _peak(reset=False) - before, tuple(strange))


def _peak(*, reset: bool) -> float:
    """Most memory of the process since the last reset, in MB; 0 where the system does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def warm_up(path: Path) -> None:
    """Have the decoders compiled, which takes some seconds where that was never done."""
    for content in COMPRESSED.values():
        write_at_rest(path, content)
        for hdu in dask_fits.open(path).images():
            hdu.section[...]


def main() -> None:
    """Use the files of the seeds that the command line names."""
    first, count = map(int, sys.argv[1:])
    dask.config.set(scheduler="synchronous")
    logging.disable()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="ignore"):
        warm_up(Path(folder) / "whole.fits")
        for seed in range(first, first + count):
            print(json.dumps({"begun": seed}), flush=True)  # noqa: T201 (whose reader is a program)
            outcome = use(seed, Path(folder) / "mutated.fits")
            print(json.dumps(asdict(outcome)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
