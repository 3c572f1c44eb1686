"""From files to the inputs of a mosaic: their images, weights, masks and errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dask_fits.collections.collection import Collection
from dask_fits.concurrency.cancellation import threads
from dask_fits.exceptions import FitsError, FitsFormatError, HduNotFoundError, result_or_error
from dask_fits.file.fits_file import FitsFile, select_image
from dask_fits.file.hdu import HDU
from dask_fits.mosaics.job import Input, Map, MapKind
from dask_fits.wcs.geometry import sky_axes
from dask_fits.wcs.header import WcsText
from dask_fits.wcs.tables import TABLE_MARKERS

READS = 32
"""Files of which more headers are read at the same time."""

_ERRORS = frozenset(
    {"ERR", "ERROR", "ERRORS", "UNCERT", "UNCERTAINTY", "STD", "STDDEV", "SIGMA", "RMS"}
)
"""EXTNAMEs of standard deviations."""

_VARIANCES = frozenset({"VAR", "VARIANCE"})
"""EXTNAMEs of their squares."""

Given = str | Sequence[Any] | npt.NDArray[Any] | None
"""Maps as users give them: the EXTNAME, or an array for each image."""


@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """What belongs to each image besides its pixels, as users gave it."""

    weights: Given
    mask: Given
    bits: int | None
    error: Given


def make_inputs(collection: Collection, beside: Beside) -> list[Input | FitsError]:
    """Make the inputs of the rows of a collection, or the errors that keep them from being read.

    Reads the headers of HDUs of weights, masks and errors, and tables that a WCS refers to.

    Raises
    ------
    ValueError
        What was given beside the images does not fit to them.
    """
    hdus, noted = collection.sources(), collection.errors()
    weights, maps = _weights_of(collection, beside.weights, noted)
    masks = _given_for_each("mask", beside.mask, len(hdus))
    errors = _given_for_each("error", beside.error, len(hdus))
    bits = -1 if beside.bits is None else beside.bits

    def make(number: int) -> Input:
        hdu = hdus[number]
        if isinstance(hdu, FitsError):
            raise hdu
        if number in noted:  # such as that its data are cut short
            raise noted[number]
        file = FitsFile(hdu.store)  # whose headers are read once for all maps
        return Input(
            number,
            hdu.reader(),
            WcsText.of(hdu.wcs_header()),
            _plane(hdu),
            weight=weights[number],
            weights=_map(hdu, file, maps[number], _weight_kind(maps[number])),
            mask=_map(hdu, file, masks[number], "mask", bits),
            errors=_map(hdu, file, errors[number], _error_kind(errors[number])),
        )

    def make_or_error(number: int) -> Input | FitsError:
        return result_or_error(lambda: make(number))

    numbers = range(len(hdus))
    is_more_read = any(isinstance(each, str) for each in (*maps, *masks, *errors))
    if not is_more_read and not _any_tables(collection):
        return list(map(make_or_error, numbers))
    with threads(READS) as run:
        return list(run(make_or_error, numbers))


def _any_tables(collection: Collection) -> bool:
    """Return whether the WCS of an image refers to other HDUs, which have to be read."""
    texts = collection.distinct("wcs")
    return any(marker in text for text in texts for marker in TABLE_MARKERS)


def _plane(hdu: HDU) -> tuple[int, int]:
    """Return the axes of an image that span the sky; all others have to have one pixel."""
    shape = hdu.shape or ()
    if len(shape) < 2:
        raise FitsFormatError(f"{hdu.where}: expected an image of two axes, found shape {shape}")
    y, x = (0, 1) if len(shape) == 2 else sky_axes(hdu.wcs, len(shape))
    others = [length for axis, length in enumerate(shape) if axis not in (y, x)]
    if any(length != 1 for length in others):
        raise FitsFormatError(
            f"{hdu.where}: expected an image of two axes, found shape {shape}: a "
            "mosaic is made of planes, one of each cube in a file of its own"
        )
    return y, x


def _weights_of(
    collection: Collection, given: Given, failed: Mapping[int, FitsError]
) -> tuple[list[float], list[str | npt.NDArray[Any] | None]]:
    """Return the weight of each image, and its map of weights: an EXTNAME, or an array."""
    count = len(collection)
    none: list[str | npt.NDArray[Any] | None] = [None] * count
    if isinstance(given, str):
        values = _keyword(collection, given, failed)
        return ([1.0] * count, [given] * count) if values is None else (values, none)
    if given is None:
        return [1.0] * count, none
    listed = _given_for_each("weights", given, count)
    if all(isinstance(each, np.ndarray) and each.ndim == 0 for each in listed):
        numbers = [float(cast("npt.NDArray[Any]", each)) for each in listed]
        return [_positive(number, "weights") for number in numbers], none
    return [1.0] * count, listed


def _keyword(
    collection: Collection, name: str, failed: Mapping[int, FitsError]
) -> list[float] | None:
    """Return the values of a keyword or of a column of numbers; None if there is no such column."""
    known = {each.lower(): each for each in collection.colnames}
    if name.lower() not in known:
        return None
    values = collection.column(known[name.lower()]).tolist()
    if all(value is None or value != value for value in values):  # noqa: PLR0124 (NaN)
        return None
    names = collection.names()
    weights = []
    for row, value in enumerate(values):
        if row in failed:
            weights.append(1.0)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            weights.append(_positive(float(value), f"weights: {name} of {names[row]}"))
        else:
            raise ValueError(f"weights: {name} of {names[row]}: expected a number, found {value!r}")
    return weights


def _positive(value: float, what: str) -> float:
    if not (value >= 0 and np.isfinite(value)):
        raise ValueError(f"{what}: expected a weight of 0 or more, found {value}")
    return value


def _given_for_each(name: str, given: Given, count: int) -> list[str | npt.NDArray[Any] | None]:
    """Return what was given for each of the images: an EXTNAME, an array, or nothing."""
    if given is None or isinstance(given, str):
        return [given] * count
    if not isinstance(given, Iterable):
        raise TypeError(
            f"{name}: expected a name, or one thing for each image, found {type(given).__name__}"
        )
    listed = [given] if isinstance(given, np.ndarray) and count == 1 and given.ndim else list(given)
    if len(listed) != count:
        raise ValueError(f"{name}: found {len(listed)}, expected one for each of {count} images")
    return [each if isinstance(each, str) or each is None else np.asarray(each) for each in listed]


def _weight_kind(name: str | npt.NDArray[Any] | None) -> MapKind:
    if isinstance(name, str) and name.strip().upper() in _ERRORS:
        return "error"
    if isinstance(name, str) and name.strip().upper() in _VARIANCES:
        return "variance"
    return "weight"


def _error_kind(name: str | npt.NDArray[Any] | None) -> MapKind:
    is_variance = isinstance(name, str) and name.strip().upper() in _VARIANCES
    return "variance" if is_variance else "error"


def _map(
    hdu: HDU,
    file: FitsFile,
    given: str | npt.NDArray[Any] | None,
    kind: MapKind,
    bits: int = -1,
) -> Map | None:
    """Make a map beside an image: of an HDU of its file, or of an array."""
    if given is None:
        return None
    if not isinstance(given, str):
        if given.shape != hdu.shape or given.ndim != 2:
            raise ValueError(
                f"{hdu.where}: found an array of shape {given.shape} for its {kind}, expected "
                f"{hdu.shape}"
            )
        return Map(given, kind, bits)
    beside = _find_beside(file, hdu, given)
    if beside.shape != hdu.shape:
        raise FitsFormatError(
            f"{beside.where}: found an image of shape {beside.shape}, expected {hdu.shape} as of "
            f"{hdu.where}, which it belongs to"
        )
    return Map(beside.reader(), kind, bits)


def _find_beside(file: FitsFile, hdu: HDU, name: str) -> HDU:
    """Find the HDU of a name that belongs to an image: of its EXTVER, if there are several.

    Raises
    ------
    HduNotFoundError
        The file has none; the message names it.
    """
    for key in ((name, hdu.ver), name):
        try:
            return select_image(file, key)
        except HduNotFoundError as error:
            reason = error
    raise reason


def contradicting_unit(
    collection: Collection, conserve: str, rows: Iterable[int]
) -> tuple[str, str] | None:
    """Return the name and BUNIT of the first image whose unit contradicts what is conserved."""
    if "BUNIT" not in collection.keywords:
        return None
    units = collection.column("BUNIT")
    for row in rows:
        if isinstance(units[row], str) and _contradicts(units[row], conserve):
            return collection.names()[row], units[row]
    return None


def _contradicts(unit: str, conserve: str) -> bool:
    """Return whether a BUNIT says that pixels are of the other kind than what is conserved."""
    text = unit.strip().lower().replace(" ", "")
    per_pixel = ("/pix", "pix-1", "pix**-1", "pix^-1", "/pixel")
    per_area = (
        "/sr",
        "sr-1",
        "sr**-1",
        "sr^-1",
        "arcsec2",
        "arcsec**2",
        "arcsec^2",
        "/arcsec",
        "arcsec-2",
    )
    counts = ("adu", "dn", "count", "counts", "electron", "electrons", "ct", "photon", "e-")
    rates = tuple(f"{each}/s" for each in counts) + tuple(f"{each}/sec" for each in counts)
    is_flux = any(mark in text for mark in per_pixel) or text in (*counts, *rates)
    is_brightness = any(mark in text for mark in per_area)
    if conserve == "flux":
        return (is_brightness and not is_flux) or "/beam" in text or "beam-1" in text
    return is_flux and not is_brightness
