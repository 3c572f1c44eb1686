"""The group of commands, and how their errors are shown."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from typing import TextIO

import click

from dask_fits.cli.commands import header, index_gz, info, plan, preview, stats
from dask_fits.cli.convert import abandoned_command, convert_command
from dask_fits.cli.cutout import cutout_command
from dask_fits.cli.cutouts import cutouts_command
from dask_fits.cli.index import index_command
from dask_fits.cli.mosaic import mosaic_command
from dask_fits.cli.output import say
from dask_fits.cli.stop import stopped_by_signals, what_stopped
from dask_fits.concurrency.cancellation import CancelScope, exit_promptly
from dask_fits.exceptions import FitsError

_PROGRAM = "dask-fits"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dask_fits", prog_name=_PROGRAM)
def cli() -> None:
    """Look into FITS images anywhere: on disk, http(s)://, s3://, gs:// and more.

    A file's headers are read and, of its pixels, only what a command needs. Chunks have the size
    of Dask's option array.chunk-size (environment: DASK_ARRAY__CHUNK_SIZE=64MiB).

    \b
    dask-fits info    https://example.org/image.fits
    dask-fits plan    s3://bucket/cube.fits --anon --key 0,100:110,100:120
    dask-fits stats   image.fits --hdu SCI
    dask-fits preview image.fits -o image.png
    dask-fits cutout  image.fits --ra 250.42 --dec 36.46 --size 2arcmin -o cut.fits
    dask-fits cutouts 'tiles/*.fits' --catalog stars.csv --size 64 -o stamps
    dask-fits mosaic  'tiles/*.fits' -o sky.fits --match-background
    dask-fits index   'tiles/*.fits' -o survey.parquet --keyword FILTER
    dask-fits index-gz cube.fits.gz
    dask-fits convert image.fits.fz s3://bucket/image.fits
    dask-fits abandoned s3://bucket/image.fits
    """  # noqa: D301 (click wants the character that \b stands for)


for command in (info, header, plan, stats, preview, cutout_command, cutouts_command):
    cli.add_command(command)
for command in (mosaic_command, index_command, index_gz, convert_command, abandoned_command):
    cli.add_command(command)


def main() -> None:
    """Run the command that is given, and exit with its code."""
    warnings.showwarning = _show_warning
    with stopped_by_signals():
        code = _run()
    # After an error they would hide the line that counts.
    if code == 0:
        for message in dict.fromkeys(_deferred_warnings):
            _print_message(f"warning: {message}")
    sys.exit(code)


def _run() -> int:
    """Run the command that ``sys.argv`` names, report its error, and return the exit code."""
    context: click.Context | None = None
    try:
        with CancelScope.within_current(), cli.make_context(_PROGRAM, sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        _print_message(error.format_message())
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        exit_promptly()
        message, code = what_stopped(stop)
        _print_message(message)
        return code
    except BrokenPipeError:  # as in: dask-fits header ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 (any error is one line, unless --debug is given)
        if "--debug" in sys.argv:
            traceback.print_exc()
        # Messages of these stand by themselves; others, as of a KeyError, need the type.
        is_plain = isinstance(error, (FitsError, OSError))
        _print_message(str(error) if is_plain else f"{type(error).__name__}: {error}")
        return 1
    return 0


def _print_message(message: str) -> None:
    """Print an error or a warning in one line, with the name of the program."""
    say(f"{_PROGRAM}: {' '.join(message.split())}", err=True)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print this package's warnings at once, and keep those of libraries for the end."""
    del filename, lineno, file, line
    if category.__module__.startswith("dask_fits.") or "--debug" in sys.argv:
        _print_message(f"warning: {message}")
    else:
        _deferred_warnings.append(str(message))


_deferred_warnings: list[str] = []
"""Warnings of libraries, which are printed at the end unless the command fails."""
