"""The command line: ``dask-fits``."""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import click

from dask_fits.exceptions import FitsError
from dask_fits.file import HDU, FitsFile, HduKey
from dask_fits.file import open as open_file
from dask_fits.format.chunks import ReadPlan
from dask_fits.format.listing import text_table
from dask_fits.storage.errors import anonymous_options, protocol_of

_PROGRAM = "dask-fits"


def _key(text: str) -> tuple[Any, ...]:
    """Parse a NumPy key of integers, slices and ``...``, such as ``10:20,30:50``."""
    try:
        return tuple(_key_item(item.strip()) for item in text.strip("[] ").split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a key such as 10:20,30:50 or 0,::2,..."
        ) from None


def _key_item(text: str) -> Any:
    if text == "...":
        return Ellipsis
    if ":" not in text:
        return int(text)
    parts = [int(part) if part.strip() else None for part in text.split(":")]
    if len(parts) > 3:
        raise ValueError(text)
    return slice(*parts)


def _hdu_key(text: str) -> HduKey:
    """Parse an HDU's index, name, or ``name,version``."""
    name, comma, version = text.rpartition(",")
    try:
        return (name, int(version)) if comma else int(text)
    except ValueError:
        return text


def _chunks(text: str) -> Any:
    """Parse chunks as Dask takes them: ``auto``, a size, a length, or lengths with commas."""
    try:
        lengths = [part if part == "auto" else int(part) for part in text.split(",")]
    except ValueError:
        return text
    return lengths[0] if len(lengths) == 1 else tuple(lengths)


def _storage_option(text: str) -> tuple[str, Any]:
    """Parse one fsspec option, ``key=value``; the value is JSON, or text where it is no JSON."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter("expected key=value")  # without the text: it may be a secret
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def _file_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the URL of a file and what is needed to open it."""

    @click.argument("url")
    @click.option(
        "--storage-options",
        "options",
        type=_storage_option,
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the fsspec filesystem, such as endpoint_url=… or profile=…; repeatable. "
        "The value may be JSON. On a shared machine keep secrets in the environment: a command "
        "line can be seen by others.",
    )
    @click.option("--anon", is_flag=True, help="Read a public S3 or GCS bucket unsigned.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def command(
        url: str, options: tuple[tuple[str, Any], ...], *, anon: bool, debug: bool, **rest: Any
    ) -> None:
        del debug  # `main` looks for it, since an error may come before the command
        storage_options = dict(options)
        if anon:
            storage_options |= _anonymous(url)
        function(open_file(url, storage_options=storage_options), **rest)

    return command


def _anonymous(url: str) -> dict[str, Any]:
    """Options for unsigned access."""
    option, protocol = anonymous_options(url), protocol_of(url)
    if option is None:
        raise click.UsageError(f"--anon is for s3:// and gs:// URLs, not {protocol}://")
    return {protocol: option} if "::" in url else option


_hdu_option = click.option(
    "--hdu",
    type=_hdu_key,
    metavar="HDU",
    help="Index, name or NAME,VERSION.  [default: the first image]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dask_fits", prog_name=_PROGRAM)
def cli() -> None:
    r"""Look into FITS images anywhere: on disk, http(s)://, s3://, gs:// and more.

    A file's headers are read and, of its pixels, only what a command needs. Chunks have the size
    of Dask's option array.chunk-size (environment: DASK_ARRAY__CHUNK_SIZE=64MiB).

    \b
    dask-fits info    https://example.org/image.fits
    dask-fits plan    s3://bucket/cube.fits --anon --key 0,100:110,100:120
    dask-fits stats   image.fits --hdu SCI
    dask-fits preview image.fits -o image.png
    """


@cli.command()
@_file_command
@_json_option
def info(file: FitsFile, *, as_json: bool) -> None:
    """List the HDUs; reads headers only."""
    records = [_record(hdu) for hdu in file]
    if as_json:
        _print_json(records)
        return
    columns = [name.replace("_", " ") for name in records[0]]
    rows = [["" if value is None else str(value) for value in r.values()] for r in records]
    click.echo(text_table([columns, *rows]))


@cli.command()
@_file_command
@click.option(
    "--hdu",
    type=_hdu_key,
    metavar="HDU",
    default="0",
    show_default=True,
    help="Index, name or NAME,VERSION.",
)
def header(file: FitsFile, *, hdu: HduKey) -> None:
    """Print the header of one HDU."""
    click.echo(repr(file[hdu].header))


@cli.command()
@_file_command
@_hdu_option
@click.option(
    "--key",
    type=_key,
    metavar="KEY",
    default="...",
    help="Selection, as 10:20,30:50.  [default: all]",
)
@click.option(
    "--chunks",
    type=_chunks,
    is_flag=False,
    flag_value="auto",
    metavar="[CHUNKS]",
    help="As Dask reads it, a line for each chunk: auto (where no value is given), a size such as "
    "64MiB, or lengths such as 64,-1.",
)
@_json_option
def plan(
    file: FitsFile, *, hdu: HduKey | None, key: tuple[Any, ...], chunks: Any, as_json: bool
) -> None:
    """Tell what reading a selection costs; reads no pixels.

    The over-read is the bytes that are fetched for each byte that is wanted.
    """
    found = _image(file, hdu)
    try:
        costs = found.plan(key, chunks=chunks)
    except IndexError as error:
        raise click.UsageError(f"--key: {error}") from error
    except FitsError:
        raise
    except ValueError as error:
        raise click.UsageError(f"--chunks: {error}") from error
    if as_json:
        parts = {"chunks": [_plan_record(part) for part in costs.chunks]} if costs.chunks else {}
        _print_json({"hdu": found.index, **_plan_record(costs), **parts})
        return
    rows = [_plan_row("all", costs)]
    rows += [_plan_row(f"chunk {n}", part) for n, part in enumerate(costs.chunks)]
    click.echo(text_table([("", "requests", "bytes", "useful bytes", "over-read"), *rows]))


@cli.command()
@_file_command
@_hdu_option
@_json_option
def stats(file: FitsFile, *, hdu: HduKey | None, as_json: bool) -> None:
    """Compute minimum, maximum, mean and standard deviation, and count NaN, in one pass."""
    from dask.diagnostics.progress import ProgressBar

    from dask_fits.stats import statistics

    array = _image(file, hdu).data
    with ProgressBar(out=sys.stderr):
        found = statistics(array)
    record = {key: getattr(found, key) for key in ("min", "max", "mean", "std", "nan", "count")}
    if as_json:
        _print_json({key: _finite(value) for key, value in record.items()})
    else:
        click.echo(text_table([(key, str(value)) for key, value in record.items()]))


@cli.command()
@_file_command
@_hdu_option
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="PNG file.")
def preview(file: FitsFile, *, hdu: HduKey | None, output: str) -> None:
    """Draw an image as a PNG of at most 1024 x 1024 pixels.

    ZScale stretch, origin at the lower left. A larger image is thinned, so that only the rows
    that are drawn are read; of a cube the first plane is drawn.
    """
    from dask_fits.preview import preview as draw
    from dask_fits.preview import write_png

    picture = draw(_image(file, hdu))
    write_png(picture, output)
    click.echo(f"{output}: {picture.shape[1]} x {picture.shape[0]} pixels")


def main() -> None:
    """Run the command line; the console script ``dask-fits``."""
    warnings.showwarning = _show_warning
    sys.exit(_run())


def _run() -> int:
    context: click.Context | None = None
    try:
        with cli.make_context(_PROGRAM, sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", 1)
    except BrokenPipeError:  # as in: dask-fits header ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 (whatever happened, one line says it)
        if "--debug" in sys.argv:
            traceback.print_exc()
        ours = isinstance(error, (FitsError, OSError))
        return _complain(str(error) if ours else f"{type(error).__name__}: {error}", 1)
    return 0


def _complain(message: str, code: int) -> int:
    click.echo(f"{_PROGRAM}: {' '.join(message.split())}", err=True)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    _complain(f"warning: {message}", 0)


def _image(file: FitsFile, hdu: HduKey | None) -> HDU:
    return file.first_image() if hdu is None else file[hdu]


def _record(hdu: HDU) -> dict[str, Any]:
    pixels = hdu.layout.image is not None
    return {
        "index": hdu.index,
        "name": hdu.name,
        "ver": hdu.ver,
        "kind": hdu.kind,
        "shape": hdu.shape,
        "dtype": hdu.dtype.name if hdu.dtype is not None else None,
        "data_offset": hdu.data_range.start,
        "data_bytes": hdu.data_range.nbytes,
        "compression": hdu.compression,
        "chunks": tuple(lengths[0] for lengths in hdu.chunks) if pixels else None,
    }


def _plan_record(costs: ReadPlan) -> dict[str, Any]:
    return {
        "requests": costs.requests,
        "bytes": costs.bytes,
        "useful_bytes": costs.useful_bytes,
        "over_read": costs.over_read,
    }


def _plan_row(label: str, costs: ReadPlan) -> tuple[str, ...]:
    return (
        *(label, str(costs.requests), str(costs.bytes), str(costs.useful_bytes)),
        f"{costs.over_read:.2f}",
    )


def _finite(value: float) -> float | str | None:
    """Give a number as JSON has it: NaN is null, an infinity its name."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value


def _print_json(value: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    click.echo(json.dumps(value, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
