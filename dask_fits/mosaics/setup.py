"""The steps between the arguments of `mosaic` and its job."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from dask_fits._typing import Progress
from dask_fits.collections.choice import order_by, rows_of_hdu
from dask_fits.collections.collection import Collection
from dask_fits.collections.columns import FIXED
from dask_fits.collections.opening import as_keywords, describe_files, open_described
from dask_fits.collections.record import Inspection
from dask_fits.exceptions import FitsError, FitsFormatError, FitsWarning, result_or_error
from dask_fits.file.hdu import HduKey
from dask_fits.mosaics.images import Beside, contradicting_unit
from dask_fits.mosaics.job import Combine, Conserve, Input, Recipe, Resampling
from dask_fits.mosaics.outlines import Outlines, find_outlines, outline_by, with_boxes
from dask_fits.mosaics.output import celestial
from dask_fits.storage.transfer import TransferConfig
from dask_fits.wcs.footprints import FootprintMaker
from dask_fits.wcs.header import WcsHeader
from dask_fits.wcs.mapping import Grid, PixelMap, whole_shift
from dask_fits.wcs.sphere import rotation_to_icrs

if TYPE_CHECKING:
    from astropy.wcs import WCS

OnError = Literal["raise", "skip"]
"""What is done about an image that cannot be read."""

KEEPS_VALUES = ("first", "last", "min", "max")
"""Ways of combining that take one of the values as it is."""

_CRVAL = re.compile(r"^CRVAL([12]) *= +([-+]?[0-9.]+(?:[EeDd][-+]?[0-9]+)?) *(?:/|$)", re.MULTILINE)
"""Cards of the reference point, if they are plain."""

_ALIASES = 1.5
"""How much coarser the output may be than an image before samples between its pixels miss some."""

_SAME_AREA = 0.01
"""Difference of the areas of pixels from which it matters what is conserved."""


def check_choices(**given: str) -> None:
    """Raise ValueError if an argument is none of those that can be chosen."""
    choices: dict[str, tuple[str, ...]] = {
        "resampling": get_args(Resampling),
        "combine": get_args(Combine),
        "conserve": get_args(Conserve),
        "on_error": get_args(OnError),
    }
    for name, value in given.items():
        if value not in choices[name]:
            expected = ", ".join(map(repr, choices[name]))
            raise ValueError(f"{name}: expected one of {expected}, found {value!r}")


def check_numbers(bits: object, fill_value: object, match_background: object) -> None:
    """Raise TypeError if an argument is no number of the kind that is needed."""
    if bits is not None and (isinstance(bits, bool) or not hasattr(bits, "__index__")):
        raise TypeError(f"bits: expected an integer, found {bits!r}")
    if isinstance(fill_value, bool) or not isinstance(fill_value, (int, float, np.number)):
        raise TypeError(f"fill_value: expected a number, found {fill_value!r}")
    if not hasattr(match_background, "__index__"):
        raise TypeError(
            f"match_background: expected True, False or the row of an image, found "
            f"{match_background!r}"
        )


def columns_for(given: Beside, sort_by: str | None) -> tuple[str, ...]:
    """Return the keywords that are kept of each image."""
    asked = [name for name in (sort_by, given.weights) if isinstance(name, str)]
    return as_keywords(["BUNIT", *(name for name in asked if name not in FIXED)])


def describe(  # noqa: PLR0913 (those of `mosaic` that say which images)
    files: object,
    hdu: HduKey | None,
    keywords: tuple[str, ...],
    *,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    progress: Progress | None = None,
    skips: bool = False,
) -> Collection:
    """Return the images of files in their order; what cannot be read has a row.

    Raises
    ------
    HduNotFoundError
        A file of a collection has no such HDU, and is not to be left out.
    """
    files, described = open_described(files, storage_options, transfer)
    if described is None:
        inspection = Inspection((hdu,), keywords)
        return describe_files(files, inspection, storage_options, transfer, progress)
    collection, lacking = rows_of_hdu(described, hdu)
    if lacking:
        first = next(iter(lacking.values()))
        if not skips:
            raise first
        others = f", as {len(lacking) - 1} others" if len(lacking) > 1 else ""
        warnings.warn(f"{first}{others}: left out", FitsWarning, stacklevel=4)
    return collection


def sort(
    collection: Collection, made: Sequence[Input | FitsError], sort_by: str | None
) -> tuple[Collection, list[Input | FitsError]]:
    """Put images, and what was made of them, in the order of a column."""
    if sort_by is None:
        return collection, list(made)
    order = order_by(collection, sort_by)
    in_order = (made[row] for row in order.tolist())
    numbered = [
        replace(each, number=row) if isinstance(each, Input) else each
        for row, each in enumerate(in_order)
    ]
    return collection.take(order), numbered


def with_skies(
    made: Sequence[Input | FitsError],
) -> tuple[list[Input | FitsError], list[tuple[WCS, tuple[int, int]]]]:
    """Find the celestial WCS of each image, for a grid that suits them; or why it has none.

    Returns
    -------
    made : list of Input or FitsError
    skies : list of (WCS, shape)
        Those of the inputs among them.
    """
    found: list[Input | FitsError] = []
    skies: list[tuple[WCS, tuple[int, int]]] = []
    for item in made:
        if isinstance(item, FitsError):
            found.append(item)
            continue
        sky = result_or_error(partial(celestial, item.wcs, item.where))
        if isinstance(sky, FitsError):
            found.append(sky)
            continue
        found.append(item)
        skies.append((sky, item.shape))
    return found, skies


def divide(
    made: Sequence[Input | FitsError], *, skips: bool
) -> tuple[list[Input], dict[int, FitsError]]:
    """Divide what became of images into inputs and errors by row; raise the first if so asked."""
    errors = {row: each for row, each in enumerate(made) if isinstance(each, FitsError)}
    inputs = [each for each in made if isinstance(each, Input)]
    if errors and not (skips and inputs):
        raise next(iter(errors.values()))
    if not inputs:
        raise ValueError("files: expected at least one image, found none")
    return inputs, errors


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Images that have a place on the output."""

    inputs: list[Input]
    outlines: Outlines
    pasted: list[bool]
    """Whether the pixels of each are those of the output."""
    errors: dict[int, FitsError]
    """The errors of those that have none, by row."""


def place_all(inputs: Sequence[Input], output: Grid, *, skips: bool) -> Placed:
    """Find where images are on the output."""
    headers = [_sky_header(each) for each in inputs]
    footprints = FootprintMaker().make(headers)
    outlines = find_outlines(output, footprints.points, footprints.sides)
    has_no_rotation = output.frame is None or rotation_to_icrs(output.frame) is None
    boxes: dict[int, npt.NDArray[np.float64]] = {}
    pasted: list[bool] = []
    errors: dict[int, FitsError] = {}
    kept: list[int] = []
    for position, item in enumerate(inputs):
        # Most are in a frame of the sky and have a footprint; of the others it has to be seen.
        needs_way = has_no_rotation or bool(np.isnan(footprints.points[position]).all())
        found = result_or_error(partial(_look, item, output, way=needs_way))
        if isinstance(found, FitsError):
            if not skips:
                raise found
            errors[item.number] = found
            continue
        is_pasted, box = found
        if box is not None:
            boxes[len(kept)] = box
        kept.append(position)
        pasted.append(is_pasted)
    if not kept:
        raise next(iter(errors.values()))
    outlines = with_boxes(outlines.take(kept), boxes)
    return Placed([inputs[position] for position in kept], outlines, pasted, errors)


def _sky_header(item: Input) -> tuple[WcsHeader, tuple[int, ...]]:
    return item.wcs.header(item.where), item.reader.shape


def _look(item: Input, output: Grid, *, way: bool) -> tuple[bool, npt.NDArray[np.float64] | None]:
    """Look whether an image is pasted, and where it is if its footprint does not tell."""
    if not way and _is_elsewhere(item, output):
        return False, None
    grid = item.grid()
    if not grid.wcs.has_celestial:
        raise FitsFormatError(f"{item.where}: expected celestial coordinates (CTYPEn), found none")
    shift = whole_shift(output, grid)
    if shift is not None:
        (y, x), (height, width) = shift, item.shape
        return True, np.array([-y, height - 1.0 - y, -x, width - 1.0 - x])
    return False, outline_by(PixelMap(output, grid)) if way else None


def _is_elsewhere(item: Input, output: Grid) -> bool:
    """Return whether CRVALn alone say that an image's pixels are not those of the output.

    Making the WCS of each image takes a millisecond.
    """
    values = dict(_CRVAL.findall(item.wcs.cards))
    if len(values) < 2:
        return False
    found = [float(values[axis].upper().replace("D", "E")) for axis in "12"]
    return bool(found != output.wcs.wcs.crval.tolist())


def dtype_of(
    recipe: Recipe, placed: Placed, dtype: npt.DTypeLike | None, *, matches: bool
) -> np.dtype[Any]:
    """Return the type of a mosaic's pixels; raise ValueError if they cannot have it.

    `matches` tells whether constants are subtracted from the images.
    """
    types = {each.reader.dtype for each in placed.inputs}
    common = np.result_type(*types)
    keeps = all(placed.pasted) and recipe.combine in KEEPS_VALUES and not matches
    if dtype is None:
        is_whole = isinstance(recipe.fill_value, (int, np.integer)) and common.kind in "iu"
        wanted = common if keeps and is_whole else np.dtype(np.float32)
    else:
        try:
            wanted = np.dtype(dtype).newbyteorder("=")
        except TypeError as error:
            raise TypeError(f"dtype: expected a type of NumPy, found {dtype!r}") from error
    if wanted.kind == "f" and wanted.itemsize >= 4:
        return wanted
    if wanted.kind not in "iu":
        raise ValueError(f"dtype: expected float32, float64 or integers, found {wanted}")
    if not keeps:
        raise ValueError(
            f"dtype: found {wanted}, expected floats: pixels stay integers only if all images have "
            f"the pixels of the grid, combine is one of {', '.join(KEEPS_VALUES)}, and no "
            "background is matched"
        )
    if not np.can_cast(common, wanted, "safe"):
        raise ValueError(f"dtype: {wanted} does not hold all values of images of {common}")
    limits: np.iinfo[Any] = np.iinfo(wanted)
    fill = recipe.fill_value
    if not (limits.min <= fill <= limits.max and fill == int(fill)):
        raise ValueError(
            f"fill_value: found {fill}, expected an integer from {limits.min} to {limits.max} for "
            f"a mosaic of {wanted}"
        )
    return wanted


def warn_of_scales(collection: Collection, placed: Placed, output: Grid, recipe: Recipe) -> None:
    """Warn where units contradict what is conserved, and where sampling would miss pixels."""
    area = abs(np.linalg.det(output.wcs.pixel_scale_matrix))
    rows = [each.number for each in placed.inputs]
    scales = np.asarray(collection.column("s_pixel_scale"), float)[rows] / 3600
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = area / scales**2
        resampled = ~np.array(placed.pasted)
        coarse = resampled & (ratio > _ALIASES**2)
        differ = resampled & (np.abs(ratio - 1) > _SAME_AREA)
    if coarse.any() and recipe.resampling != "exact":
        item = placed.inputs[int(np.flatnonzero(coarse)[0])]
        warnings.warn(
            f"the pixels of the mosaic are {ratio[coarse].max() ** 0.5:.1f} times as wide as those "
            f"of {item.where}: {recipe.resampling} misses pixels between; resampling='exact' does "
            "not",
            FitsWarning,
            stacklevel=4,
        )
    if not differ.any():
        return
    found = contradicting_unit(collection, recipe.conserve, rows)
    if found is not None:
        name, unit = found
        other = "surface brightness" if recipe.conserve == "flux" else "flux"
        warnings.warn(
            f"{name}: BUNIT is {unit!r}, but conserve is {recipe.conserve!r}, and its pixels have "
            f"another area than those of the mosaic: conserve={other!r}?",
            FitsWarning,
            stacklevel=4,
        )


def common_unit(collection: Collection, placed: Placed) -> str:
    """Return the BUNIT that all images have; empty if they differ, or it is not known."""
    if "BUNIT" not in collection.keywords:
        return ""
    units = collection.column("BUNIT")[[each.number for each in placed.inputs]]
    unit = units[0]
    return unit if isinstance(unit, str) and (units == unit).all() else ""
