"""The command that cuts a box out of an image and writes it as a FITS file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from dask_fits._typing import Size
from dask_fits.cli.options import (
    SIZE_HELP,
    Opener,
    box_key,
    declination,
    fill_value_option,
    hdu_option,
    image,
    json_option,
    pixel,
    right_ascension,
    size,
    url_command,
)
from dask_fits.cli.output import (
    plan_record,
    print_json,
    print_plan,
    say,
    take_astropys_warnings,
)
from dask_fits.exceptions import FitsError, NoOverlapError
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.planning.selection import Selection, select
from dask_fits.readers.window import WindowReader

if TYPE_CHECKING:
    from dask_fits.cutout import Box, Mode


@dataclass(frozen=True, slots=True)
class _Asked:
    """The options of the command, None where they were not given."""

    ra: float | None
    dec: float | None
    x: float | None
    y: float | None
    size: Size
    key: tuple[Any, ...] | None
    hdu: HduKey | None
    mode: Mode | None
    fill_value: Fraction | float | None
    output: str | None
    overwrite: bool
    plan: bool
    as_json: bool

    def check(self) -> None:
        """Raise click.UsageError where options are missing or do not go together."""
        pairs = ((self.ra, self.dec), (self.x, self.y))
        given = [pair for pair in pairs if pair != (None, None)]
        if len(given) + (self.key is not None) != 1:
            raise click.UsageError("give one of --ra and --dec, --x and --y, or --key")
        if given and None in given[0]:
            raise click.UsageError("--ra goes with --dec, and --x with --y")
        if given and self.size is None:
            raise click.UsageError("--size is missing")
        if not given and (self.size, self.mode) != (None, None):
            raise click.UsageError("--size and --mode go with a position, not with --key")
        if self.fill_value is not None and self.mode != "partial":
            raise click.UsageError("--fill-value goes with --mode partial")
        if self.output is None and not self.plan:
            raise click.UsageError("-o is missing, the file to write")


@click.command("cutout")
@url_command
@click.option(
    "--ra",
    type=right_ascension,
    metavar="RA",
    help="Right ascension of the centre, ICRS: degrees, or hours as 16:41:41.6.",
)
@click.option(
    "--dec",
    type=declination,
    metavar="DEC",
    help="Declination of the centre, ICRS: degrees, or as 36:27:36.",
)
@click.option("--x", type=pixel, metavar="X", help="Centre in pixels from 0, instead of --ra.")
@click.option("--y", type=pixel, metavar="Y", help="Centre in pixels from 0, instead of --dec.")
@click.option(
    "--size",
    type=size,
    metavar="SIZE",
    help=SIZE_HELP,
)
@click.option(
    "--key",
    type=box_key,
    metavar="KEY",
    help="A selection instead, as 10:20,30:50. An integer keeps its axis, with length 1.",
)
@hdu_option
@click.option(
    "--mode",
    type=click.Choice(["trim", "partial", "strict"]),
    help="A box that reaches over the edge is cut off there, filled, or an error.  [default: trim]",
)
@fill_value_option
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="FITS file.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--plan", is_flag=True, help="Tell what the read costs, and do nothing more.")
@json_option
def cutout_command(opener: Opener, **options: Any) -> None:
    """Cut a box out of an image and write it as a FITS file; reads no more than the box needs.

    The pixels stay as they are stored, the keywords as they are; the world coordinates move with
    the pixels. Of a cube the other axes are kept whole. A compressed image becomes a plain one.

    \b
    dask-fits cutout URL --ra 250.42 --dec 36.46 --size 2arcmin -o cut.fits
    dask-fits cutout URL --x 150 --y 100 --size 64x32 --plan
    dask-fits cutout URL --key 0,100:110,200:220 -o cut.fits
    """  # noqa: D301 (click wants the character that \b stands for)
    from dask_fits.writing.atomic import check_is_free

    asked = _Asked(**options)
    asked.check()
    take_astropys_warnings()
    output = None if asked.plan else asked.output
    if output is not None:
        check_is_free(output, overwrite=asked.overwrite)
    hdu = image(opener(), asked.hdu)
    window = _window(hdu, asked)
    selection = Selection.of_box(tuple(range(length) for length in window.shape))
    costs = window.plan(selection.indices)
    record = {"hdu": hdu.index, "origin": window.origin, "shape": window.shape}
    record |= plan_record(costs)
    if output is not None:
        _write(output, hdu, window, overwrite=asked.overwrite)
        record = {"output": output, **record}
    if asked.as_json:
        print_json(record)
    elif output is None:
        print_plan(costs)
    else:
        shape = " x ".join(map(str, window.shape))
        say(f"{output}: {shape} pixels; {costs.requests} requests, {costs.bytes} bytes read")


def _write(output: str, hdu: HDU, window: WindowReader, *, overwrite: bool) -> None:
    from dask_fits.writing.atomic import write_atomically
    from dask_fits.writing.box import cut_fits

    write_atomically(output, cut_fits(hdu, window[...], window.origin), overwrite=overwrite)


def _window(hdu: HDU, asked: _Asked) -> WindowReader:
    """Make the reader of the box that was asked for, with stored values."""
    from dask_fits.writing.fill import stored_fill

    box = _box(hdu, asked)
    reader = hdu.reader(mask_and_scale=False)
    if box.lies_on(reader.shape):
        return WindowReader(reader, box.origin, box.shape, fill_value=0)
    try:
        fill = stored_fill(hdu, asked.fill_value)
    except FitsError:
        raise
    except ValueError as error:
        raise click.UsageError(f"--fill-value: {error}") from error
    return WindowReader(reader, box.origin, box.shape, fill)


def _box(hdu: HDU, asked: _Asked) -> Box:
    """Find the box that was asked for."""
    from dask_fits.cutout import find_box

    if asked.key is not None:
        return _box_of_key(hdu, asked.key)
    try:
        shape, header = hdu.reader().shape, hdu.wcs_header()
        return find_box(shape, header, _position(asked), asked.size, mode=asked.mode or "trim")
    except FitsError:
        raise
    except ValueError as error:  # the image and what was asked of it do not go together
        raise click.ClickException(str(error)) from error


def _position(asked: _Asked) -> Any:
    from astropy.coordinates import SkyCoord

    if asked.ra is None:
        return asked.x, asked.y
    return SkyCoord(asked.ra, asked.dec, unit="deg")


def _box_of_key(hdu: HDU, key: tuple[Any, ...]) -> Box:
    from dask_fits.cutout import Box

    shape = hdu.reader().shape
    try:
        axes = select(key, shape).indices
    except IndexError as error:
        raise click.UsageError(f"--key: {error}") from error
    if any(len(axis) == 0 for axis in axes):
        raise NoOverlapError(
            f"{hdu.where}: --key: no pixel of the image of shape {shape} is selected"
        )
    slices = tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in axes)
    origin = tuple(part.start for part in slices)
    return Box(origin, tuple(len(axis) for axis in axes), slices)
