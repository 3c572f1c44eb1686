"""Speed of opening files and listing their HDUs."""

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from astropy.io import fits

import dask_fits
from benchmarks.harness import Row, Table, clock, interleave, ratio

FILES = 1000
PRIMARY_CARDS, EXTENSION_CARDS = 100, 60
EXTENSIONS = 3
STEMS = ("DATE", "EXPT", "FILT", "CRVAL", "CD", "PV", "SEEIN", "BIAS", "ZP", "NCOMB", "GAIN", "A_")
"""Beginnings of keywords, with the initials of real ones."""

Listing = list[tuple[str, int, tuple[int, ...], int | None]]
"""Name, version, shape and BITPIX of each HDU; None where it has no pixels."""

Lister = Callable[[Path], Listing]


def measure_headers(*, rounds: int) -> Table:
    """List the HDUs of a thousand files with small images, and with large ones."""
    table = Table(f"Open and list {FILES} local files", "s")
    for side in (64, 724):
        with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as folder:
            paths = [Path(folder) / f"{index:04}.fits" for index in range(FILES)]
            for index, path in enumerate(paths):
                _write(path, index, side)
            samples = _measure(paths, rounds)
        case = f"{EXTENSIONS} images of {side} x {side}"
        check = ratio(samples, "astropy", "dask_fits", at_least=5)
        table.rows.append(Row(case, samples, [check]))
    return table


def _measure(paths: list[Path], rounds: int) -> dict[str, list[float]]:
    listers: dict[str, Lister] = {"dask_fits": _list_with_ours, "astropy": _list_with_astropy}
    found = [_list_all(lister, paths) for lister in listers.values()]
    if found[0] != found[1]:
        raise AssertionError("the contenders list different HDUs")
    contenders = {
        name: partial(clock, partial(_list_all, lister, paths)) for name, lister in listers.items()
    }
    return interleave(contenders, rounds=rounds)


def _list_all(lister: Lister, paths: list[Path]) -> list[Listing]:
    return [lister(path) for path in paths]


def _list_with_ours(path: Path) -> Listing:
    return [
        (hdu.name, hdu.ver, hdu.shape, fits.DTYPE2BITPIX[hdu.dtype.name] if hdu.dtype else None)
        for hdu in dask_fits.open(path)
    ]


def _list_with_astropy(path: Path) -> Listing:
    with fits.open(path) as hdus:
        # BITPIX as the HDU keeps it: asking its header would cost astropy more.
        return [
            (hdu.name, hdu.ver, hdu.shape, hdu._bitpix if hdu.shape else None)  # noqa: SLF001
            for hdu in hdus
        ]


def _write(path: Path, index: int, side: int) -> None:
    """Write headers, with holes for the pixels between them."""
    with path.open("wb") as file:
        file.write(_header({"SIMPLE": True, "BITPIX": 8, "NAXIS": 0}, PRIMARY_CARDS, index))
        for ver in range(1, EXTENSIONS + 1):
            cards = {"XTENSION": "IMAGE", "BITPIX": 16, "NAXIS": 2, "NAXIS1": side, "NAXIS2": side}
            cards |= {"PCOUNT": 0, "GCOUNT": 1, "EXTNAME": "SCI", "EXTVER": ver}
            file.write(_header(cards, EXTENSION_CARDS, index))
            file.seek(side * side * 2, os.SEEK_CUR)
            file.seek(-file.tell() % 2880, os.SEEK_CUR)
        file.truncate()


def _header(cards: dict[str, Any], count: int, index: int) -> bytes:
    header = fits.Header(cards.items())
    for number in range(len(header), count):
        keyword = f"{STEMS[number % len(STEMS)]}{number}"
        header[keyword] = (index + number / 7, "one of the keywords that fill the header")
    return header.tostring().encode()
