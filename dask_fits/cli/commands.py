"""The commands that look into files: info, header, plan, stats and preview."""

from __future__ import annotations

import math
import sys
import warnings
from typing import Any

import click

from dask_fits._typing import Chunks
from dask_fits.cli.options import (
    ParsedKey,
    hdu_option,
    json_option,
    parse_chunks,
    parse_hdu_key,
    parse_key,
    takes_file,
)
from dask_fits.cli.output import (
    plan_record,
    print_json,
    print_plan,
    progress_bar,
    say,
    show_astropy_warnings,
)
from dask_fits.exceptions import FitsError, FitsWarning, one_line, printable
from dask_fits.file.fits_file import FitsFile, select_image
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.format.header import CARD
from dask_fits.format.listing import text_table


@click.command()
@takes_file
@json_option
def info(file: FitsFile, *, as_json: bool) -> None:
    """List the HDUs; reads headers only."""
    records = [_hdu_record(hdu) for hdu in file]
    if as_json:
        print_json([{**record, **_packing_record(file)} for record in records])
        return
    columns = [name.replace("_", " ") for name in records[0]]
    rows = [
        ["" if value is None else str(value) for value in record.values()] for record in records
    ]
    say(text_table([columns, *rows]))
    if note := file.packing_note():
        say(f"compressed as a whole: {note}")


@click.command("index-gz")
@takes_file
def index_gz(file: FitsFile) -> None:
    """Make the index of a gzip file, by which parts of it are read; reads all of it once."""
    with progress_bar("reading") as progress:
        indexed = file.build_index(progress)
    say(f"{indexed.url}: {indexed.packing_note()}")


@click.command()
@takes_file
@click.option(
    "--hdu",
    type=parse_hdu_key,
    metavar="HDU",
    default="0",
    show_default=True,
    help="Index, name or NAME,VERSION.",
)
def header(file: FitsFile, *, hdu: HduKey) -> None:
    """Print the header of one HDU.

    If a card cannot be understood, all are printed as they are in the file, with a warning.
    """
    selected = file[hdu]
    show_astropy_warnings()
    try:
        cards = [str(card) for card in selected.header.cards]
    except Exception as error:  # noqa: BLE001 (whatever astropy stumbles on, there is the text)
        cards = [selected.header_text.decode("latin-1").rstrip()]
        warnings.warn(
            f"{selected.where}: not all cards can be understood: {one_line(error)}; they are shown "
            "as they are in the file",
            FitsWarning,
            stacklevel=1,
        )
    # A card with CONTINUE has several lines, and so has the text of the whole header.
    for card in cards:
        for start in range(0, len(card), CARD):
            say(printable(card[start : start + CARD]))


@click.command()
@takes_file
@hdu_option
@click.option(
    "--key",
    type=parse_key,
    metavar="KEY",
    default="...",
    help="Selection, as 10:20,30:50.  [default: all]",
)
@click.option(
    "--chunks",
    type=parse_chunks,
    is_flag=False,
    flag_value="auto",
    metavar="[CHUNKS]",
    help="As Dask reads it, a line for each chunk, or band that chunks share: auto (where no value "
    "is given), a size such as 64MiB, or lengths such as 64,-1.",
)
@json_option
def plan(
    file: FitsFile, *, hdu: HduKey | None, key: ParsedKey, chunks: Chunks, as_json: bool
) -> None:
    """Tell what reading a selection costs; reads no pixels.

    The over-read is the bytes that are fetched for each byte that is wanted.
    """
    image = select_image(file, hdu)
    try:
        costs = image.plan(key, chunks=chunks)
    except IndexError as error:
        raise click.UsageError(f"--key: {error}") from error
    except FitsError:
        raise
    except ValueError as error:
        raise click.UsageError(f"--chunks: {error}") from error
    if not as_json:
        print_plan(costs, costs.chunks)
        return
    record = {"hdu": image.index, **plan_record(costs)}
    if costs.chunks:
        record["chunks"] = [plan_record(chunk) for chunk in costs.chunks]
    print_json(record)


@click.command()
@takes_file
@hdu_option
@json_option
def stats(file: FitsFile, *, hdu: HduKey | None, as_json: bool) -> None:
    """Compute minimum, maximum, mean and standard deviation, and count NaN, in one pass."""
    from dask.diagnostics.progress import ProgressBar

    from dask_fits.cli.statistics import compute_statistics

    array = select_image(file, hdu).to_dask()
    with ProgressBar(out=sys.stderr):
        statistics = compute_statistics(array)
    names = ("min", "max", "mean", "std", "nan", "count")
    record = {name: getattr(statistics, name) for name in names}
    if as_json:
        print_json({name: _json_number(value) for name, value in record.items()})
    else:
        say(text_table([(name, str(value)) for name, value in record.items()]))


@click.command()
@takes_file
@hdu_option
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="PNG file.")
def preview(file: FitsFile, *, hdu: HduKey | None, output: str) -> None:
    """Draw an image as a PNG of at most 1024 x 1024 pixels.

    ZScale stretch, origin at the lower left. A larger image is thinned, so that only the rows
    that are drawn are read; of a cube the first plane is drawn.
    """
    from dask_fits.cli.preview import preview as draw
    from dask_fits.cli.preview import write_png

    picture = draw(select_image(file, hdu))
    write_png(picture, output)
    say(f"{output}: {picture.shape[1]} x {picture.shape[0]} pixels")


def _hdu_record(hdu: HDU) -> dict[str, Any]:
    """Return the properties of an HDU that `info` lists; bytes are those of the unpacked file."""
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
        "chunks": hdu.largest_chunk(),
    }


def _packing_record(file: FitsFile) -> dict[str, Any]:
    """Return how a file is compressed as a whole; nothing if it is not."""
    if not file.packing:
        return {}
    return {
        "packing": file.packing,
        "packed_bytes": file.stored_size,
        "has_index": file.has_index,
    }


def _json_number(value: float) -> float | str | None:
    """Return a number that JSON can hold: None for NaN, which is null, and text for infinities."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value
