"""The command that describes the images of many files in one Parquet file."""

from __future__ import annotations

import os
from typing import Any

import click

from dask_fits.cli.options import StorageOptions, hdus_option, json_option, takes_storage_options
from dask_fits.cli.output import print_json, print_reasons, progress_bar, say, show_astropy_warnings
from dask_fits.exceptions import FitsError, needs
from dask_fits.file.hdu import HduKey
from dask_fits.storage.redaction import redact_url


@click.command("index")
@click.argument("files", nargs=-1, required=True)
@takes_storage_options
@click.option(
    "-o", "--output", required=True, metavar="FILE", help="The Parquet file, a path or a URL."
)
@click.option(
    "--keyword",
    "keywords",
    multiple=True,
    metavar="KEYWORD",
    help="Keyword to keep as a column; repeatable.",
)
@hdus_option("all that hold an image")
@click.option("--update", is_flag=True, help="Read only files that are new, changed, or failed.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@json_option
def index_command(  # noqa: PLR0913 (each is an option)
    files: tuple[str, ...],
    storage_options: StorageOptions,
    *,
    output: str,
    keywords: tuple[str, ...],
    hdus: tuple[HduKey, ...],
    update: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Describe the images of many files in one Parquet file, without reading pixels.

    FILES are paths, URLs, quoted patterns with *, or a Parquet table with a column access_url or
    url. The file has a row for each image: where its pixels lie, its place on the sky, its time,
    and the keywords; dask_fits.open_collection opens it. A run that was interrupted goes on where
    it was when it is started again. The exit code is 1 where files could not be read; they have a
    row with the reason.

    \b
    dask-fits index 'night/*.fits' -o night.parquet --keyword FILTER --keyword EXPTIME
    dask-fits index 's3://bucket/tiles/*.fits' --anon -o survey.parquet --update
    """  # noqa: D301 (click wants the character that \b stands for)
    from dask_fits.collections.opening import as_keywords, is_parquet
    from dask_fits.collections.record import Inspection

    show_astropy_warnings()
    options = storage_options(files[0])
    if not is_parquet(output):
        raise click.UsageError(f"-o: expected a name that ends in .parquet, found {output}")
    with needs("pyarrow", extra="collections"):
        from dask_fits.collections.index import build_index, find_index
    # One that is replaced may be damaged, or another table.
    before = find_index(output, options) if update or not overwrite else None
    if before is not None and not update:
        raise click.UsageError(f"{redact_url(output)}: exists; say --update or --overwrite")
    inspection = Inspection(hdus or None, as_keywords(keywords))
    if before is not None:
        # What is left out is as it was.
        asked = before.inspection
        inspection = Inspection(hdus or asked.hdus, inspection.keywords or asked.keywords)
    given: Any = files[0] if len(files) == 1 else files
    with progress_bar("reading headers") as progress:
        try:
            report = build_index(
                given,
                output,
                inspection=inspection,
                storage_options=options,
                progress=progress,
                before=before,
            )
        except FitsError:
            raise
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    counts = {
        "images": report.images,
        "files_read": report.read,
        "files_kept": report.kept,
        "files_gone": report.gone,
        "unreadable_files": len(report.failures),
    }
    if as_json:
        print_json({"output": redact_url(os.fspath(output)), **counts})
    else:
        shown = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
        say(f"{redact_url(output)}: {shown}")
    print_reasons(report.failures.values(), rest="more, which have a row as well")
    if report.failures:
        raise click.exceptions.Exit(1)
