"""The command that cuts boxes around the positions of a catalogue out of many files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dask_fits._typing import Size
from dask_fits.cli.options import (
    SIZE_HELP,
    Access,
    access_command,
    fill_value_option,
    hdu_key,
    json_option,
    size,
)
from dask_fits.cli.output import (
    plan_record,
    print_json,
    print_plan,
    say,
    take_astropys_warnings,
)
from dask_fits.exceptions import FitsError
from dask_fits.file.hdu import HduKey
from dask_fits.storage.redaction import redact_url

if TYPE_CHECKING:
    from dask_fits.cutout import Mode
    from dask_fits.many_cutouts.catalog import Catalog
    from dask_fits.many_cutouts.cutouts import Cutouts


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of the command."""

    files: tuple[str, ...]
    catalog: str
    columns: tuple[str, str] | None
    pixels: bool
    names: str | None
    size: Size
    hdus: tuple[HduKey, ...]
    mode: Mode
    fill_value: Any
    output: str | None
    overwrite: bool
    plan: bool
    as_json: bool


@click.command("cutouts")
@click.argument("files", nargs=-1, required=True)
@access_command
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
    type=size,
    metavar="SIZE",
    help=SIZE_HELP,
)
@click.option(
    "--hdu",
    "hdus",
    type=hdu_key,
    multiple=True,
    metavar="HDU",
    help="Index, name or NAME,VERSION; repeatable.  [default: the first image of each file]",
)
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
def cutouts_command(access: Access, **options: Any) -> None:
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
    asked = _Asked(**options)
    if asked.output is None and not asked.plan:
        raise click.UsageError("-o is missing, the directory or zarr group to write")
    take_astropys_warnings()
    catalog = _catalog(asked)
    found = _find(asked, access, catalog)
    record: dict[str, Any] = {"files": len(found.files), "positions": len(catalog.positions)}
    if asked.plan or asked.output is None:
        record |= _counts(found) | plan_record(found.plan)
        if asked.as_json:
            print_json(record)
        else:
            print_plan(found.plan)
            _print_counts(found)
    else:
        done = _write(asked, asked.output, found, catalog)
        record = {
            "output": redact_url(asked.output),
            **record,
            **_counts(done),
            **plan_record(done.plan),
        }
        if asked.as_json:
            print_json(record)
        else:
            cost = f"{found.plan.requests} requests, {found.plan.bytes} bytes"
            say(f"{redact_url(asked.output)}: {cost}")
            _print_counts(done)
        found = done
    if found.failures or (found.status == "failed").any():
        raise click.exceptions.Exit(1)


def _catalog(asked: _Asked) -> Catalog:
    from dask_fits.many_cutouts.catalog import read_catalog

    try:
        return read_catalog(
            asked.catalog, columns=asked.columns, pixels=asked.pixels, names=asked.names
        )
    except ValueError as error:
        raise click.UsageError(f"--catalog: {error}") from error


def _find(asked: _Asked, access: Access, catalog: Catalog) -> Cutouts:
    from dask_fits.many_cutouts.cutouts import cutouts

    fill = float("nan") if asked.fill_value is None else asked.fill_value
    if asked.plan or not _is_zarr(str(asked.output)):
        fill = 0  # each file is filled with what its own image has for that
    hdus = list(asked.hdus) if len(asked.hdus) > 1 else (asked.hdus or (None,))[0]
    with _progress("reading headers") as progress:
        try:
            return cutouts(
                asked.files,
                *(catalog.positions, asked.size),
                hdus=hdus,
                mode=asked.mode,
                fill_value=float(fill),
                storage_options=access(asked.files[0]),
                progress=progress,
            )
        except FitsError:
            raise
        except ValueError as error:
            raise click.ClickException(str(error)) from error


def _write(asked: _Asked, output: str, found: Cutouts, catalog: Catalog) -> Cutouts:
    from dask.diagnostics.progress import ProgressBar

    with ProgressBar(out=sys.stderr) if sys.stderr.isatty() else nullcontext():
        if _is_zarr(output):
            return found.to_zarr(output, overwrite=asked.overwrite)
        try:
            return found.to_files(
                output,
                names=catalog.names,
                fill_value=asked.fill_value,
                overwrite=asked.overwrite,
            )
        except FitsError:
            raise
        except ValueError as error:
            raise click.ClickException(str(error)) from error


def _is_zarr(output: str) -> bool:
    return output.rstrip("/").endswith(".zarr")


@contextmanager
def _progress(label: str) -> Iterator[Any]:
    """Show a bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def show(done: int, count: int) -> None:
            bar.length = count
            bar.update(done - bar.pos)

        yield show


def _counts(found: Cutouts) -> dict[str, Any]:
    from dask_fits.many_cutouts.rows import STATUS

    counts = {name: int((found.status == name).sum()) for name in STATUS}
    return {**counts, "unreadable_files": len(found.failures)}


def _print_counts(found: Cutouts) -> None:
    """Print what became of the cutouts, and why some failed: each reason once."""
    say(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in _counts(found).items()))
    reasons = {str(error) for error in found.error.ravel() if error is not None}
    reasons |= {str(error) for error in found.failures.values()}
    for reason in sorted(reasons)[:_REASONS]:
        say(f"  {' '.join(reason.split())}", err=True)
    if len(reasons) > _REASONS:
        say(f"  and {len(reasons) - _REASONS} more", err=True)


_REASONS = 20
"""Reasons of failure that are printed."""
