"""The commands that copy a file, or a part of one, and that list what was left behind."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from dask_fits.cli.options import (
    Opener,
    ParsedKey,
    StorageOptions,
    hdus_option,
    json_option,
    output_options,
    parse_box_key,
    slices_of_key,
    takes_storage_options,
    takes_url,
)
from dask_fits.cli.output import print_json, say, show_astropy_warnings
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.storage.redaction import redact_url

if TYPE_CHECKING:
    from dask_fits.writing.stored import Box


@dataclass(frozen=True, slots=True)
class _ConvertOptions:
    """The options of the command."""

    output: str
    hdus: tuple[HduKey, ...]
    key: ParsedKey | None
    checksum: bool
    overwrite: bool
    output_options: dict[str, Any]
    as_json: bool


@click.command("convert")
@takes_url
@click.argument("output")
@hdus_option("all")
@click.option(
    "--key",
    type=parse_box_key,
    metavar="KEY",
    help="A box of the image, as 10:20,30:50. An integer keeps its axis, with length 1.",
)
@click.option(
    "--checksum/--no-checksum", default=True, help="Write CHECKSUM and DATASUM.  [default: yes]"
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@output_options
@json_option
def convert_command(opener: Opener, **options: Any) -> None:
    """Copy a FITS file, or some HDUs, or a box of an image, from any URL to any URL.

    Images keep their stored values and keywords; compressed images, and files that are compressed
    as a whole, become plain ones. Tables are copied as they are. It is read and written in parts,
    several at a time, whatever the size, and the output is there whole or not at all.

    \b
    dask-fits convert image.fits.fz image.fits
    dask-fits convert https://example.org/cube.fits s3://bucket/cube.fits
    dask-fits convert cube.fits plane.fits --hdu SCI --key 10,:,:
    """  # noqa: D301 (click wants the character that \b stands for)
    from dask.diagnostics.progress import ProgressBar

    from dask_fits.storage.sinks import sink_of
    from dask_fits.writing.execution import write_file
    from dask_fits.writing.file_plan import FilePlan
    from dask_fits.writing.stored import stored_contents

    given = _ConvertOptions(**options)
    show_astropy_warnings()
    file = opener()
    sink = sink_of(given.output, given.output_options, None, overwrite=given.overwrite)
    hdus, box = _chosen(file, given)
    plan = FilePlan.of(stored_contents(file, hdus, box, checksum=given.checksum))
    with ProgressBar(out=sys.stderr) if sys.stderr.isatty() else nullcontext():
        write_file(plan, sink)
    if given.as_json:
        print_json({"output": sink.name, "hdus": len(plan.hdus), "bytes": plan.size})
    else:
        count = f"{len(plan.hdus)} HDU{'' if len(plan.hdus) == 1 else 's'}"
        say(f"{sink.name}: {count}, {plan.size} bytes")


def _chosen(file: FitsFile, given: _ConvertOptions) -> tuple[list[HDU] | None, Box | None]:
    """Return the HDUs that are wanted, None for all, and the box of an image."""
    if given.key is None:
        return [file[key] for key in dict.fromkeys(given.hdus)] or None, None
    if len(given.hdus) > 1:
        raise click.UsageError("--key goes with one --hdu")
    hdu = file[given.hdus[0]] if given.hdus else file.first_image()
    return [hdu], slices_of_key(hdu, given.key)


@click.command("abandoned")
@click.argument("url")
@takes_storage_options
@click.option("--remove", is_flag=True, help="Remove what is listed.")
@json_option
def abandoned_command(
    url: str, storage_options: StorageOptions, *, remove: bool, as_json: bool
) -> None:
    """List what attempts to write a file have left behind, or are still writing.

    A process that is killed leaves a temporary file beside URL, or an upload, for which an object
    store sends bills. Those of other files, and of other programs, are not listed.

    \b
    dask-fits abandoned s3://bucket/cube.fits --remove
    """  # noqa: D301 (click wants the character that \b stands for)
    from dask_fits.storage.sinks import abandoned

    found = abandoned(url, storage_options=storage_options(url))
    for left in found if remove else []:
        left.remove()
    if as_json:
        print_json(
            [
                {"place": left.place, "started": left.started and left.started.isoformat()}
                for left in found
            ]
        )
        return
    for left in found:
        when = f", begun {left.started:%Y-%m-%d %H:%M:%S} UTC" if left.started else ""
        say(f"{left.place}{when}{': removed' if remove else ''}")
    if not found:
        say(f"{redact_url(url)}: nothing was left")
