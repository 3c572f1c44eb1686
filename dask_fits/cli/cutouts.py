"""The command that cuts boxes around the positions of a catalogue out of many files."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from dask_fits._typing import Size
from dask_fits.cli.options import (
    SIZE_HELP,
    StorageOptions,
    fill_value_option,
    hdus_option,
    json_option,
    parse_size,
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
from dask_fits.file.hdu import HduKey
from dask_fits.storage.redaction import redact_url

if TYPE_CHECKING:
    from dask_fits.cutout import Mode
    from dask_fits.many_cutouts.catalog import Catalog
    from dask_fits.many_cutouts.cutouts import Cutouts


@dataclass(frozen=True, slots=True)
class _CutoutsOptions:
    """The options of the command."""

    files: tuple[str, ...]
    catalog: str
    columns: tuple[str, str] | None
    pixels: bool
    names: str | None
    size: Size
    hdus: tuple[HduKey, ...]
    mode: Mode
    fill_value: Fraction | float | None
    output: str | None
    overwrite: bool
    plan: bool
    as_json: bool


@click.command("cutouts")
@click.argument("files", nargs=-1, required=True)
@takes_storage_options
@click.option(
    "--catalog",
    required=True,
    type=click.Path(dir_okay=False),
    help="Table of positions: .csv, .ecsv, .fits, .vot.",
)
@click.option(
    "--columns",
    nargs=2,
    metavar="RA DEC",
    help="Columns of the positions.  [default: those of a usual name, such as ra and dec]",
)
@click.option("--pixels", is_flag=True, help="The columns are pixels x, y from 0, of every file.")
@click.option("--names", metavar="COLUMN", help="Column of names for the files that are written.")
@click.option(
    "--size",
    required=True,
    type=parse_size,
    metavar="SIZE",
    help=SIZE_HELP,
)
@hdus_option("the first image of each file")
@click.option(
    "--mode",
    type=click.Choice(["partial", "trim", "strict"]),
    default="partial",
    show_default=True,
    help="A box that reaches over the edge is filled, cut off there, or not cut out.",
)
@fill_value_option
@click.option(
    "-o", "--output", type=click.Path(), help="Directory for FITS files, or a name ending in .zarr."
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@click.option("--plan", is_flag=True, help="Tell what the reads cost, and do nothing more.")
@json_option
def cutouts_command(storage_options: StorageOptions, **options: Any) -> None:
    """Cut boxes around the positions of a catalogue out of many files, read as one job.

    FILES are paths, URLs, or quoted patterns with *. Each byte is read once, whatever the boxes
    share. A FITS file is written for each position on each file, or one zarr group for all; what is
    off all files or fails is listed, in cutouts.csv or in the group. The exit code is 1 where
    cutouts failed or files could not be read.

    \b
    dask-fits cutouts 'tiles/*.fits' --catalog stars.csv --size 64 -o stamps
    dask-fits cutouts s3://bucket/a.fits s3://bucket/b.fits --anon --catalog t.fits --size 30arcsec -o t.zarr
    dask-fits cutouts 'tiles/*.fits.fz' --catalog stars.ecsv --size 1arcmin --plan
    """  # noqa: D301, E501 (click wants the character that \b stands for)
    options["columns"] = options["columns"] or None
    given = _CutoutsOptions(**options)
    if given.output is None and not given.plan:
        raise click.UsageError("-o is missing, the directory or zarr group to write")
    show_astropy_warnings()
    output = None if given.plan else given.output
    catalog = _read_catalog(given)
    cutouts = _plan_cutouts(given, storage_options, catalog)
    record: dict[str, Any] = {"files": len(cutouts.files), "positions": len(catalog.positions)}
    if output is not None:
        cutouts = _write_cutouts(given, output, cutouts, catalog)
        record = {"output": redact_url(output), **record}
    record |= _count_statuses(cutouts) | plan_record(cutouts.plan)
    if given.as_json:
        print_json(record)
    else:
        if output is None:
            print_plan(cutouts.plan)
        else:
            cost = f"{cutouts.plan.requests} requests, {cutouts.plan.bytes} bytes"
            say(f"{redact_url(output)}: {cost}")
        _print_counts(cutouts)
    if cutouts.failures or (cutouts.status == "failed").any():
        raise click.exceptions.Exit(1)


def _read_catalog(given: _CutoutsOptions) -> Catalog:
    """Read the catalogue; raise click.UsageError if it has no such columns or positions."""
    from dask_fits.many_cutouts.catalog import read_catalog

    try:
        return read_catalog(
            given.catalog, columns=given.columns, pixels=given.pixels, names=given.names
        )
    except ValueError as error:
        raise click.UsageError(f"--catalog: {error}") from error


def _plan_cutouts(
    given: _CutoutsOptions, storage_options: StorageOptions, catalog: Catalog
) -> Cutouts:
    """Read the headers of all files, and plan the cutouts."""
    from dask_fits.many_cutouts.cutouts import cutouts

    # Only a zarr group has one fill value; each FITS file is filled with that of its own image.
    # 0 is a value of every type.
    fill_value = 0.0
    if not given.plan and _is_zarr(str(given.output)):
        fill_value = float("nan") if given.fill_value is None else float(given.fill_value)
    # Several HDUs make an axis of the result, one or none does not.
    hdus: list[HduKey] | HduKey | None = list(given.hdus)
    if len(given.hdus) <= 1:
        hdus = given.hdus[0] if given.hdus else None
    with progress_bar("reading headers") as progress:
        try:
            return cutouts(
                given.files,
                catalog.positions,
                given.size,
                hdus=hdus,
                mode=given.mode,
                fill_value=fill_value,
                # Of the first file: --anon assumes that the others have the same protocol.
                storage_options=storage_options(given.files[0]),
                progress=progress,
            )
        except FitsError:
            raise
        except ValueError as error:
            raise click.ClickException(str(error)) from error


def _write_cutouts(
    given: _CutoutsOptions, output: str, cutouts: Cutouts, catalog: Catalog
) -> Cutouts:
    """Write the cutouts as a zarr group or FITS files; return them with their statuses after it."""
    from dask.diagnostics.progress import ProgressBar

    with ProgressBar(out=sys.stderr) if sys.stderr.isatty() else nullcontext():
        if _is_zarr(output):
            return cutouts.to_zarr(output, overwrite=given.overwrite)
        try:
            return cutouts.to_files(
                output,
                names=catalog.names,
                fill_value=given.fill_value,
                overwrite=given.overwrite,
            )
        except FitsError:
            raise
        except ValueError as error:
            raise click.ClickException(str(error)) from error


def _is_zarr(output: str) -> bool:
    return output.rstrip("/").endswith(".zarr")


def _count_statuses(cutouts: Cutouts) -> dict[str, int]:
    """Return the number of cutouts of each status, and of files that could not be used."""
    from dask_fits.many_cutouts.rows import STATUS

    counts = {status: int((cutouts.status == status).sum()) for status in STATUS}
    return {**counts, "unreadable_files": len(cutouts.failures)}


def _print_counts(cutouts: Cutouts) -> None:
    """Print the number of cutouts of each status, and the reasons of failures, each once."""
    counts = _count_statuses(cutouts)
    say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
    reasons = {str(error) for error in cutouts.error.ravel() if error is not None}
    reasons |= {str(error) for error in cutouts.failures.values()}
    print_reasons(sorted(reasons), rest="more")
