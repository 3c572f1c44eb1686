"""The command that puts many images on one grid."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np

from dask_fits.cli.options import (
    StorageOptions,
    hdu_option,
    json_option,
    output_options,
    takes_storage_options,
)
from dask_fits.cli.output import (
    plan_record,
    print_json,
    print_plan,
    print_reasons,
    progress_bar,
    say,
    show_astropy_warnings,
)
from dask_fits.exceptions import FitsError
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.fits_file import select_image
from dask_fits.file.hdu import HduKey
from dask_fits.format.listing import text_table
from dask_fits.storage.redaction import redact_url

if TYPE_CHECKING:
    from astropy.table import Table
    from astropy.units import Quantity

    from dask_fits.cli.mosaic_grid import Grid
    from dask_fits.collections.collection import Collection
    from dask_fits.mosaics.images import Beside
    from dask_fits.mosaics.job import Combine, Resampling
    from dask_fits.mosaics.mosaic import Mosaic
    from dask_fits.mosaics.setup import OnError

Decorator = Callable[[Callable[..., None]], Callable[..., None]]
"""Adds an option to a command."""


@dataclass(frozen=True, slots=True)
class _MosaicOptions:
    """The options of the command; None for those that were not given."""

    files: tuple[str, ...]
    output: str | None
    like: str | None
    frame: str | None
    projection: str | None
    resolution: Quantity | None
    rotate: bool
    hdu: HduKey | None
    resampling: Resampling
    combine: Combine
    weights: str | None
    mask: str | None
    bits: int | None
    error: str | None
    conserve: str
    match_background: bool
    sort_by: str | None
    fill_value: float
    on_error: OnError
    overwrite: bool
    output_options: dict[str, Any]
    plan: bool
    as_json: bool

    def check(self) -> None:
        """Raise click.UsageError if options are missing or do not go together."""
        if self.output is None and not self.plan:
            raise click.UsageError(
                "-o is missing, the .fits file, .zarr group or .png picture to write"
            )
        if self.output is not None and _suffix(self.output) not in (".fits", ".zarr", ".png"):
            raise click.UsageError(
                "-o: expected a name that ends in .fits, .zarr or .png, found "
                f"{redact_url(self.output)}"
            )
        if self.like is not None and self.shapes_grid():
            raise click.UsageError(
                "--frame, --projection, --resolution and --rotate do not go with --like, which "
                "says all of the grid"
            )
        if self.bits is not None and self.mask is None:
            raise click.UsageError("--bits goes with --mask")

    def shapes_grid(self) -> bool:
        """Return whether an option says something about the grid that suits the images."""
        return self.rotate or (self.frame, self.projection, self.resolution) != (None, None, None)

    def is_picture(self) -> bool:
        """Return whether the output is a picture."""
        return self.output is not None and _suffix(self.output) == ".png"

    def beside(self) -> Beside:
        """Return what belongs to each image besides its pixels."""
        from dask_fits.mosaics.images import Beside

        return Beside(self.weights, self.mask, self.bits, self.error)


def _suffix(output: str) -> str:
    """Return the end of a name from its last dot on."""
    _, dot, end = output.rstrip("/").rpartition(".")
    return (dot + end).lower()


def _parse_resolution(text: str) -> Quantity:
    """Parse an angle such as ``0.2arcsec``; a plain number is in degrees."""
    from astropy import units

    try:
        value = units.Quantity(text)
        angle = (value * units.deg if value.unit.is_equivalent("") else value).to(units.deg)
    except (ValueError, TypeError):
        angle = units.Quantity(math.nan, units.deg)
    if not (math.isfinite(angle.value) and angle.value > 0):
        raise click.BadParameter(f"{text!r} is no angle such as 0.2arcsec, or degrees such as 1e-4")
    return angle


def _parse_fill(text: str) -> float:
    """Parse a number, which is an int if it is written as one: a mosaic of integers takes those."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _choice(option: str, values: list[str], help_text: str) -> Decorator:
    """Make an option of one of some values, the first by default."""
    return click.option(
        option, type=click.Choice(values), default=values[0], show_default=True, help=help_text
    )


@click.command("mosaic")
@click.argument("files", nargs=-1, required=True)
@takes_storage_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Name ending in .fits, a file, in .zarr, a group, or in .png, a picture.",
)
@click.option(
    "--like",
    metavar="FILE",
    help="File whose first image has the grid.  [default: a grid that fits]",
)
@click.option(
    "--frame", metavar="FRAME", help="Of the grid: icrs, galactic, ….  [default: the first image's]"
)
@click.option("--projection", metavar="CODE", help="Of the grid: TAN, CAR, AIT, ….  [default: TAN]")
@click.option(
    "--resolution",
    type=_parse_resolution,
    metavar="ANGLE",
    help="Side of its pixels: 0.2arcsec, or degrees.  [default: that of the smallest pixels]",
)
@click.option("--rotate", is_flag=True, help="Turn the grid so that its area is the least.")
@hdu_option
@_choice(
    "--resampling",
    ["bilinear", "exact", "nearest", "lanczos3"],
    "How pixels are found between those of an image.",
)
@_choice(
    "--combine",
    ["mean", "sum", "median", "clipped", "first", "last", "min", "max"],
    "How images are combined where several have a value.",
)
@click.option(
    "--weights",
    metavar="NAME",
    help="Keyword with the weight of an image, or EXTNAME of an HDU with weights, errors (ERR) or "
    "variances (VAR).",
)
@click.option("--mask", metavar="EXTNAME", help="HDU of each file: what is not 0 is not used.")
@click.option("--bits", type=int, metavar="BITS", help="Those of the mask that count.")
@click.option("--error", metavar="EXTNAME", help="HDU of each file with errors, or VAR, variances.")
@_choice("--conserve", ["surface-brightness", "flux"], "What a pixel says.")
@click.option(
    "--match-background",
    is_flag=True,
    help="Subtract a constant from each image, so that they agree where they overlap. This reads a "
    "sample of it first, which --plan does not count.",
)
@click.option(
    "--sort-by", metavar="KEYWORD", help="Keyword that orders images, as for --combine first."
)
@click.option(
    "--fill-value",
    type=_parse_fill,
    default="nan",
    show_default=True,
    metavar="VALUE",
    help="Of pixels that no image covers.",
)
@_choice("--on-error", ["raise", "skip"], "Stop at an image that cannot be read, or leave it out.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@output_options
@click.option("--plan", is_flag=True, help="Tell the grid and what it costs; read only headers.")
@json_option
def mosaic_command(storage_options: StorageOptions, **options: Any) -> None:
    """Put many images on one grid, as a FITS file, a zarr group or a picture.

    FILES are paths, URLs, quoted patterns with *, or a Parquet file of `dask-fits index`.

    A file or a group holds data, weight, count, with --error error, and the table of images; it is
    made chunk by chunk, and a file is there whole or not at all. A picture is drawn as `dask-fits
    preview` draws, of at most 2048 x 2048 pixels: those of a larger grid are made 2, 3, ... times
    as wide. The resampling is the one that is asked for: with exact such a pixel is the mean of
    what it covers, the others miss pixels between.

    The exit code is 1 where images were left out because they could not be read.

    \b
    dask-fits mosaic 'tiles/*.fits' -o sky.fits --match-background
    dask-fits mosaic a.fits b.fits -o sky.png --frame galactic --resampling exact
    dask-fits mosaic survey.parquet --resolution 1arcsec --plan
    """  # noqa: D301 (click wants the character that \b stands for)
    given = _MosaicOptions(**options)
    given.check()
    show_astropy_warnings()
    output = None if given.plan else given.output
    if output is not None:
        _check_output(given, output)
    with _plain_errors():
        made = _plan_mosaic(given, storage_options)
        inputs = made.inputs if output is None else _write(given, output, made)
    record = _describe(made, inputs)
    if output is None:
        _print_costs(made, record, as_json=given.as_json)
    elif given.as_json:
        print_json({"output": redact_url(output), **record})
    else:
        height, width = made.shape
        say(f"{redact_url(output)}: {height} x {width} pixels, {_counts(record)}")
    print_reasons(inputs["error"][inputs["status"] == "failed"].tolist(), rest="more")
    if record["failed"]:
        raise click.exceptions.Exit(1)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise a ValueError, which names the argument that cannot be used, as click does."""
    try:
        yield
    except FitsError:
        raise
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _check_output(given: _MosaicOptions, output: str) -> None:
    """Raise an error, before anything is read, if the output could not be written."""
    if _suffix(output) == ".fits":
        from dask_fits.storage.sinks import check_is_writable

        check_is_writable(output, given.output_options, overwrite=given.overwrite)
    elif given.is_picture():
        # It needs Pillow.
        import dask_fits.cli.mosaic_picture  # noqa: F401
        from dask_fits.storage.atomic import check_is_free

        check_is_free(output, overwrite=given.overwrite)
    else:
        from dask_fits.writing.zarr import open_zarr

        open_zarr(output, given.output_options or None)


def _plan_mosaic(given: _MosaicOptions, storage_options: StorageOptions) -> Mosaic:
    """Read the headers of all files, and make the mosaic, which is lazy."""
    from dask_fits.mosaics.mosaic import mosaic
    from dask_fits.mosaics.setup import columns_for, describe

    files = given.files[0] if len(given.files) == 1 else given.files
    # Of the first file: --anon assumes that the others have the same protocol.
    options = storage_options(given.files[0])
    beside = given.beside()
    with progress_bar("reading headers") as progress:
        described = describe(
            files,
            given.hdu,
            columns_for(beside, given.sort_by),
            storage_options=options,
            transfer=None,
            progress=progress,
            skips=given.on_error == "skip",
        )
    grid = _find_grid(given, described, storage_options)
    return mosaic(
        described,
        grid.wcs,
        grid.shape,
        resampling=given.resampling,
        combine=given.combine,
        weights=beside.weights,
        mask=beside.mask,
        bits=beside.bits,
        error=beside.error,
        conserve="flux" if given.conserve == "flux" else "surface brightness",
        # It reads pixels.
        match_background=given.match_background and not given.plan,
        sort_by=given.sort_by,
        chunks=grid.chunks,
        fill_value=given.fill_value,
        on_error=given.on_error,
    )


def _find_grid(given: _MosaicOptions, images: Collection, storage_options: StorageOptions) -> Grid:
    """Find the grid that the options describe; that of a picture is coarser."""
    from dask_fits.cli.mosaic_grid import Grid, coarser, coarser_than

    if given.like is not None:
        like = select_image(
            open_file(given.like, storage_options=storage_options(given.like)), None
        )
        return coarser_than(like) if given.is_picture() else Grid(like)
    if not (given.shapes_grid() or given.is_picture()):
        return Grid()
    from dask_fits.mosaics.images import make_inputs
    from dask_fits.mosaics.optimal import optimal_wcs
    from dask_fits.mosaics.setup import divide, with_skies

    if given.on_error == "skip":
        # Images without their mask, for example, are left out, too.
        made, _ = with_skies(make_inputs(images, given.beside()))
        inputs, _ = divide(made, skips=True)
        images = images.take(np.array([each.number for each in inputs], np.int64))
    wcs, shape = optimal_wcs(
        images,
        frame=given.frame,
        projection=given.projection or "TAN",
        resolution=given.resolution,
        rotate=given.rotate,
    )
    return coarser(wcs, shape) if given.is_picture() else Grid(wcs, shape)


def _write(given: _MosaicOptions, output: str, made: Mosaic) -> Table:
    """Write the mosaic, and return its inputs with their statuses."""
    from dask.diagnostics.progress import ProgressBar

    with ProgressBar(out=sys.stderr) if sys.stderr.isatty() else nullcontext():
        if given.is_picture():
            from dask_fits.cli.mosaic_picture import draw_mosaic

            return draw_mosaic(made, output, overwrite=given.overwrite)
        options = given.output_options or None
        if _suffix(output) == ".fits":
            # It is computed here, so this is a mosaic.
            written = made.to_fits(output, overwrite=given.overwrite, storage_options=options)
            return cast("Mosaic", written).inputs
        return made.to_zarr(output, overwrite=given.overwrite, storage_options=options).inputs


def _describe(made: Mosaic, inputs: Table) -> dict[str, Any]:
    """Return how many images a mosaic has, and its grid."""
    from astropy.wcs.utils import proj_plane_pixel_area

    failed = np.asarray(inputs["status"] == "failed")
    is_empty = (inputs["y_begin"] >= inputs["y_end"]) | (inputs["x_begin"] >= inputs["x_end"])
    off = np.asarray(is_empty) & ~failed
    return {
        "images": int((~failed & ~off).sum()),
        "off_grid": int(off.sum()),
        "failed": int(failed.sum()),
        "shape": made.shape,
        "pixel_scale_arcsec": 3600 * math.sqrt(proj_plane_pixel_area(made.wcs)),
        "header": dict(made.header),
    }


def _counts(record: Mapping[str, Any]) -> str:
    """Tell how many images there are."""
    names = ("images", "off_grid", "failed")
    return ", ".join(f"{record[name]} {name.replace('_', ' ')}" for name in names)


def _print_costs(made: Mosaic, record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the grid of a mosaic, and what it costs to make it."""
    costs = made.plan
    if as_json:
        print_json({**record, **plan_record(costs)})
        return
    height, width = made.shape
    wcs = made.wcs.wcs
    along, across = made.wcs.pixel_scale_matrix[[wcs.lat, wcs.lng], 1]
    angle = math.degrees(math.atan2(across, along)) + 0.0
    rows = [
        ("images", _counts(record)),
        ("height x width", f"{height} x {width} pixels"),
        ("pixel scale", f"{record['pixel_scale_arcsec']:.6g} arcsec"),
        ("projection", " ".join(filter(None, [*wcs.ctype, wcs.radesys]))),
        ("reference point", ", ".join(f"{value:.9g}" for value in wcs.crval) + " degrees"),
        ("y axis", f"{angle:.6g} degrees from north towards increasing longitude"),
    ]
    say(text_table(rows))
    print_plan(costs)
