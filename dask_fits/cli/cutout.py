"""The command that cuts a box out of an image and writes it as a FITS file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from dask_fits._typing import Position, Size
from dask_fits.cli.options import (
    SIZE_HELP,
    Opener,
    ParsedKey,
    fill_value_option,
    hdu_option,
    json_option,
    parse_box_key,
    parse_declination,
    parse_pixel,
    parse_right_ascension,
    parse_size,
    slices_of_key,
    takes_url,
)
from dask_fits.cli.output import (
    plan_record,
    print_json,
    print_plan,
    say,
    show_astropy_warnings,
)
from dask_fits.exceptions import FitsError
from dask_fits.file.fits_file import select_image
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.planning.selection import Selection
from dask_fits.readers.window import WindowReader

if TYPE_CHECKING:
    from dask_fits.cutout import Box, Mode


@dataclass(frozen=True, slots=True)
class _CutoutOptions:
    """The options of the command; None for those that were not given."""

    ra: float | None
    dec: float | None
    x: float | None
    y: float | None
    size: Size
    key: ParsedKey | None
    hdu: HduKey | None
    mode: Mode | None
    fill_value: Fraction | float | None
    output: str | None
    overwrite: bool
    plan: bool
    as_json: bool

    def check(self) -> None:
        """Raise click.UsageError if options are missing or do not go together."""
        pairs = ((self.ra, self.dec), (self.x, self.y))
        positions = [pair for pair in pairs if pair != (None, None)]
        if len(positions) + (self.key is not None) != 1:
            raise click.UsageError("give one of --ra and --dec, --x and --y, or --key")
        if positions and None in positions[0]:
            raise click.UsageError("--ra goes with --dec, and --x with --y")
        if positions and self.size is None:
            raise click.UsageError("--size is missing")
        if not positions and (self.size, self.mode) != (None, None):
            raise click.UsageError("--size and --mode go with a position, not with --key")
        if self.fill_value is not None and self.mode != "partial":
            raise click.UsageError("--fill-value goes with --mode partial")
        if self.output is None and not self.plan:
            raise click.UsageError("-o is missing, the file to write")


@click.command("cutout")
@takes_url
@click.option(
    "--ra",
    type=parse_right_ascension,
    metavar="RA",
    help="Right ascension of the centre, ICRS: degrees, or hours as 16:41:41.6.",
)
@click.option(
    "--dec",
    type=parse_declination,
    metavar="DEC",
    help="Declination of the centre, ICRS: degrees, or as 36:27:36.",
)
@click.option(
    "--x", type=parse_pixel, metavar="X", help="Centre in pixels from 0, instead of --ra."
)
@click.option(
    "--y", type=parse_pixel, metavar="Y", help="Centre in pixels from 0, instead of --dec."
)
@click.option(
    "--size",
    type=parse_size,
    metavar="SIZE",
    help=SIZE_HELP,
)
@click.option(
    "--key",
    type=parse_box_key,
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
    from dask_fits.storage.atomic import check_is_free

    given = _CutoutOptions(**options)
    given.check()
    show_astropy_warnings()
    output = None if given.plan else given.output
    # Before anything is read: a large cutout that cannot be written is costly.
    if output is not None:
        check_is_free(output, overwrite=given.overwrite)
    hdu = select_image(opener(), given.hdu)
    window = _make_window(hdu, given)
    whole_window = Selection.of_box(tuple(range(length) for length in window.shape))
    costs = window.plan(whole_window.indices)
    record = {
        "hdu": hdu.index,
        "origin": window.origin,
        "shape": window.shape,
        **plan_record(costs),
    }
    if output is not None:
        _write_cutout(output, hdu, window, overwrite=given.overwrite)
        record = {"output": output, **record}
    if given.as_json:
        print_json(record)
    elif output is None:
        print_plan(costs)
    else:
        shape = " x ".join(map(str, window.shape))
        say(f"{output}: {shape} pixels; {costs.requests} requests, {costs.bytes} bytes read")


def _write_cutout(output: str, hdu: HDU, window: WindowReader, *, overwrite: bool) -> None:
    """Read the pixels of a window and write them as a FITS file."""
    from dask_fits.storage.atomic import write_atomically
    from dask_fits.writing.box import box_to_fits

    write_atomically(output, box_to_fits(hdu, window[...], window.origin), overwrite=overwrite)


def _make_window(hdu: HDU, given: _CutoutOptions) -> WindowReader:
    """Return a reader of the stored values of the box that the options describe."""
    from dask_fits.writing.fill import stored_fill

    box = _find_box(hdu, given)
    reader = hdu.reader(mask_and_scale=False)
    # Without pixels to fill, an image of integers need not have BLANK.
    if box.lies_on(reader.shape):
        return WindowReader(reader, box.origin, box.shape, fill_value=0)
    try:
        fill = stored_fill(hdu, given.fill_value)
    except FitsError:
        raise
    except ValueError as error:
        raise click.UsageError(f"--fill-value: {error}") from error
    return WindowReader(reader, box.origin, box.shape, fill)


def _find_box(hdu: HDU, given: _CutoutOptions) -> Box:
    """Return the box around a position, or that of a key."""
    from dask_fits.cutout import find_box

    if given.key is not None:
        return _box_from_key(hdu, given.key)
    try:
        return find_box(
            hdu.reader().shape,
            hdu.wcs_header(),
            _position(given),
            given.size,
            mode=given.mode or "trim",
        )
    except FitsError:
        raise
    except ValueError as error:  # the options do not fit the image
        raise click.ClickException(str(error)) from error


def _position(given: _CutoutOptions) -> Position:
    """Return the position in pixels or on the sky; `check` has made sure that there is one."""
    from astropy.coordinates import SkyCoord

    if given.x is not None and given.y is not None:
        return given.x, given.y
    return SkyCoord(given.ra, given.dec, unit="deg")


def _box_from_key(hdu: HDU, key: ParsedKey) -> Box:
    """Return the box of pixels that a key without steps selects."""
    from dask_fits.cutout import Box

    slices = slices_of_key(hdu, key)
    return Box(
        origin=tuple(part.start for part in slices),
        shape=tuple(part.stop - part.start for part in slices),
        slices=slices,
    )
