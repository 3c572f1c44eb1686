"""Mutated files, and everything that the package does with a file, in a process that may die of it.

``python -m tests.fuzz_operations FIRST COUNT`` uses the files of the seeds from FIRST on, one after the
other, and prints a line of JSON for each: what it took, and what was raised that must not be.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits

import dask_fits
from dask_fits import HDU, FitsError, FitsFile
from tests.fits_files import blocks, card, extension, primary
from tests.test_fuzz import COMPRESSED, EDITS, HOSTILE, MADE, REAL, STRUCTURAL, TILED, TILING, real

SMALL = 1_000_000
"""Bytes. An image up to this is read whole."""

HDUS = 3
"""HDUs of a file that are used, its first ones."""

Edit = tuple[Any, ...]

TAN = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 6.0, "CRPIX2": 4.0, "CRVAL1": 10.0}
TAN |= {"CRVAL2": 20.0, "CDELT1": -1e-3, "CDELT2": 1e-3}

HEADERS: dict[str, dict[str, Any]] = {
    "tan": {**TAN, "RADESYS": "FK5", "EQUINOX": 2000.0, "LONPOLE": 180.0, "DATE-OBS": "2026-11-01"},
    "sip": {
        **TAN,
        "CTYPE1": "RA---TAN-SIP",
        "CTYPE2": "DEC--TAN-SIP",
        "A_ORDER": 3,
        "B_ORDER": 2,
        "A_2_0": 1e-4,
        "A_0_3": 1e-6,
        "B_1_1": -1e-4,
        "AP_ORDER": 1,
        "BP_ORDER": 1,
        "AP_1_0": 1e-6,
        "BP_0_1": 1e-6,
    },
    "pv": {
        **TAN,
        "CTYPE1": "RA---TPV",
        "CTYPE2": "DEC--TPV",
        "PV1_0": 0.0,
        "PV1_1": 1.0,
        "PV1_4": 0.01,
        "PV2_1": 1.0,
        "PV2_7": 0.002,
    },
    "plate": {
        "CTYPE1": "DSS",
        "PLTRAH": 10,
        "PLTRAM": 5,
        "PLTRAS": 1.5,
        "PLTDECSN": "+",
        "PLTDECD": 20,
        "PLTDECM": 1,
        "PLTDECS": 2.0,
        "PLTSCALE": 67.2,
        "XPIXELSZ": 25.2,
        "YPIXELSZ": 25.2,
        "PPO3": 170000.0,
        "PPO6": 170000.0,
        "CNPIX1": 10,
        "CNPIX2": 20,
        "AMDX1": 67.2,
        "AMDX2": 0.01,
        "AMDY1": 67.1,
        "AMDY2": -0.01,
    },
    "tnx": {
        **TAN,
        "CTYPE1": "RA---TNX",
        "CTYPE2": "DEC--TNX",
        "WAT0_001": "system=image",
        "WAT1_001": "wtype=tnx axtype=ra lngcor = '3. 2. 2. 0. 0. 1. 0. 1. 0.1 0.2 0.3'",
        "WAT2_001": "wtype=tnx axtype=dec latcor = '3. 2. 2. 0. 0. 1. 0. 1. 0.1 0.2 0.3'",
    },
    "plate carree": {
        **TAN,
        "CTYPE1": "GLON-CAR",
        "CTYPE2": "GLAT-CAR",
        "CRPIX1": -900.0,
        "CDELT1": -0.3,
        "CDELT2": 0.3,
        "PV1_1": 0.0,
    },
    "solar": {
        **TAN,
        "CTYPE1": "HPLN-TAN",
        "CTYPE2": "HPLT-TAN",
        "CUNIT1": "arcsec",
        "CUNIT2": "arcsec",
        "DSUN_OBS": 1.5e11,
        "HGLN_OBS": 0.0,
        "HGLT_OBS": 5.0,
        "DATE-OBS": "2026-11-01T00:00:00",
        "RSUN_REF": 6.96e8,
    },
    "cube": {
        **TAN,
        "CTYPE3": "FREQ",
        "CRVAL3": 1.4e9,
        "CDELT3": 1e6,
        "CRPIX3": 1.0,
        "CUNIT3": "Hz",
        "RESTFRQ": 1.42e9,
        "SPECSYS": "LSRK",
        "CTYPE4": "STOKES",
        "CRVAL4": 1.0,
        "CDELT4": 1.0,
        "CRPIX4": 1.0,
    },
    "table": {
        **TAN,
        "CTYPE3": "WAVE-TAB",
        "PS3_0": "WCS-TAB",
        "PS3_1": "COORDS",
        "PS3_2": "INDEX",
        "PV3_1": 1,
        "PV3_2": 1,
        "PV3_3": 1,
        "CRPIX3": 1.0,
        "CRVAL3": 1.0,
        "CDELT3": 1.0,
        "CUNIT3": "m",
    },
    "lookup": {
        **TAN,
        "CPDIS1": "LOOKUP",
        "DP1": "EXTVER: 1.0",
        "CPDIS2": "LOOKUP",
        "DP2": "EXTVER: 2.0",
        "D2IMDIS1": "LOOKUP",
        "D2IM1": "EXTVER: 1.0",
    },
}
"""Keywords of world coordinates."""

SKY = sorted({
    *(keyword for header in HEADERS.values() for keyword in header),
    *("CD1_1", "CD1_2", "CD2_2", "PC1_1", "PC1_2", "PC2_1", "CROTA2", "WCSAXES", "WCSNAME", "LATPOLE"),
    *("CTYPE1A", "CRVAL1A", "CRPIX1A", "CUNIT1", "CUNIT2", "PV2_0", "PV2_2", "PV2_3", "PS2_0", "MJD-OBS"),
    *("RADECSYS", "EPOCH", "OBSGEO-X", "OBSGEO-L", "TIMESYS", "MJDREF", "VELREF", "A_DMAX", "B_0_2"),
    *("A_9_9", "PPO1", "AMDX20", "OBJCTRA", "PLTLABEL", "AXISCORR", "CQDIS1", "TELAPSE", "CRDER1"),
})  # fmt: skip

WORDS = [
    *(b"'RA---TAN'", b"'DEC--TAN'", b"'GLON-CAR'", b"'TLON-CAR'", b"'RA---AIT'", b"'RA---HPX'", b"'LINEAR'"),
    *(b"'FREQ-LOG'", b"'WAVE-TAB'", b"'RA---ZPN'", b"'RA---TSC'", b"'HPLN-TAN'", b"'RA---TAN-SIP'", b"'FK4'"),
    *(b"'deg'", b"'arcsec'", b"'Sine Latitude'", b"'Hz'", b"'m/s'", b"'furlong'", b"'LOOKUP'", b"'SIP'"),
    *(b"'EXTVER: 1.0'", b"'NAXES: 99999'", b"'TPD.1: 1'", b"'2026-11-01'", b"'2031-01-01T00:00:00'"),
    *(b"1,0E+01", b"1.0D1", b"1.0d1", b"1000", b"5000", b"1e300", b"-1e300", b"90.0", b"180.0", b"1e-300"),
    *(b"'system=image'", b"'wtype=tnx axtype=ra lngcor = ''3. 9999. 9999. 0.'''", b"'UTC'", b"RA---TAN"),
]  # fmt: skip
"""What a card about world coordinates can say."""


def _world() -> dict[str, bytes]:
    """Files with world coordinates, and the tables that these refer to."""
    files = {}
    for name, keywords in HEADERS.items():
        cube = "CTYPE3" in keywords
        axes = (12, 8, 3, 1)[: 4 if "CTYPE4" in keywords else 3 if cube else 2]
        extra = [card(keyword, value) for keyword, value in keywords.items()]
        pixels = np.arange(math.prod(axes), dtype=">i2").tobytes()
        content = primary(*axes, bitpix=16, extra=extra) + blocks(pixels)
        if name == "table":
            buffer = io.BytesIO()
            columns = [
                fits.Column("COORDS", "3D", array=[[1e-7, 2e-7, 4e-7]], dim="(1,3)"),
                fits.Column("INDEX", "3D", array=[[1.0, 2.0, 3.0]]),
            ]
            table = fits.BinTableHDU.from_columns(columns, name="WCS-TAB", ver=1)
            fits.HDUList([fits.PrimaryHDU(), table]).writeto(buffer)
            content += buffer.getvalue()[2880:]
        if name == "lookup":
            grid = np.full((2, 3), 0.25, ">f4").tobytes()
            for kind, version in (("WCSDVARR", 1), ("WCSDVARR", 2), ("D2IMARR", 1)):
                places = {"EXTNAME": kind, "EXTVER": version, "CRPIX1": 1.0, "CRPIX2": 1.0}
                places |= {"CRVAL1": 1.0, "CRVAL2": 1.0, "CDELT1": 5.0, "CDELT2": 5.0}
                cards = [card(keyword, value) for keyword, value in places.items()]
                content += extension(3, 2, bitpix=-32, extra=cards) + blocks(grid)
        files[name] = content
    return files


WORLD = _world()


def mutated(seed: int) -> bytes:
    """Make the file of a seed: one of the files of the tests with up to four edits."""
    rng = random.Random(seed)
    kinds: list[tuple[dict[str, bytes] | list[str], list[str], list[bytes]]] = [
        (MADE, STRUCTURAL, HOSTILE),
        (COMPRESSED, TILING, [*TILED, *HOSTILE]),
        *[(WORLD, SKY, [*WORDS, *HOSTILE])] * 2,
    ]
    if REAL:
        kinds.append((REAL, [*SKY, *STRUCTURAL], [*WORDS, *HOSTILE]))
    files, keywords, values = rng.choice(kinds)
    name = rng.choice(sorted(files))
    text = bytearray(files[name] if isinstance(files, dict) else real(name))
    for _ in range(rng.randint(1, 4)):
        edit = rng.choice(list(EDITS)) if rng.random() < 0.4 else "set"
        EDITS[edit](text, *_arguments(edit, rng, keywords, values))
    return bytes(text)


def _arguments(edit: str, rng: random.Random, keywords: list[str], values: list[bytes]) -> Edit:
    number, other = rng.randrange(1 << 20), rng.randrange(1 << 20)
    if edit in ("set", "add"):
        return rng.choice(keywords), rng.choice(values), number
    if edit == "respell":
        style = rng.choice(["{:<8}= {}", "{:<8}={}", "{}= {}", " {} = {}", "{} {}"])
        return rng.choice(keywords), rng.choice(values), style, rng.random() < 0.5
    if edit in ("swap cards", "repeat card", "copy card", "swap blocks"):
        return number, other
    if edit == "shift":
        return number, rng.randint(1, 5760)
    if edit == "append":
        return (rng.choice([b"\0", b" ", b"END", bytes(2880), b"XTENSION" * 360, b"junk" * 9]),)
    if edit.startswith(("flip", "overwrite", "insert", "delete")):
        return number, rng.choice([b"\xff", b"\0", b"5", b"'", b"\x80" * 3, rng.randbytes(12)])
    return (number,)


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
    assert all(repr(hdu) for hdu in _hdus(file))


def _data(hdu: HDU) -> None:
    array = hdu.data
    if array.nbytes <= SMALL:
        array.compute()


def _cutout(hdu: HDU) -> None:
    if hdu.cutout((1, 1), 2).data.nbytes <= SMALL:
        hdu.cutout((1, 1), 2).data.compute()
    with _no_sky():
        hdu.cutout(SkyCoord(10, 20, unit="deg"), 2)


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
    dask_fits.cutouts(str(path), SkyCoord([10.0], [20.0], unit="deg"), 2, fill_value=0)


def _xarray(_: FitsFile, path: Path) -> None:
    found = xr.open_dataset(path, engine="fits", world_coords=True)
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
}


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
    path.write_bytes(mutated(seed))
    strange = []
    slowest, longest = "", 0.0
    before = _peak(reset=True)
    for name, operation in {"open": None, **OPERATIONS}.items():
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
        path.write_bytes(content)
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
            print(  # noqa: T201
                json.dumps({
                    "seed": outcome.seed,
                    "seconds": outcome.seconds,
                    "slowest": outcome.slowest,
                    "megabytes": outcome.megabytes,
                    "strange": outcome.strange,
                }),
                flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
