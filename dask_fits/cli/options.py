"""Arguments and options that commands share, and the parsers of their values."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import click

from dask_fits._typing import Chunks, Size
from dask_fits.exceptions import NoOverlapError
from dask_fits.file.fits_file import FitsFile
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.planning.selection import select
from dask_fits.storage.errors import anonymous_options, protocol_of

if TYPE_CHECKING:
    from astropy.units import Quantity

Opener = Callable[[], FitsFile]
"""Opens the file whose URL a command was given."""

StorageOptions = Callable[[str], dict[str, Any]]
"""Returns the storage options for a URL."""

ParsedKey = tuple[int | slice | EllipsisType, ...]
"""A NumPy key as it can be written on a command line."""


def parse_key(text: str) -> ParsedKey:
    """Parse a NumPy key of integers, slices and ``...``, such as ``10:20,30:50``."""
    try:
        return tuple(_parse_key_item(item.strip()) for item in text.strip("[] ").split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a key such as 10:20,30:50 or 0,::2,..."
        ) from None


def _parse_key_item(text: str) -> int | slice | EllipsisType:
    if text == "...":
        return Ellipsis
    if ":" not in text:
        return int(text)
    bounds = [int(bound) if bound.strip() else None for bound in text.split(":")]
    if len(bounds) > 3:
        raise ValueError(text)
    return slice(*bounds)


def parse_box_key(text: str) -> ParsedKey:
    """Parse a key of a box without gaps: integers, slices with step 1 and ``...``.

    An integer becomes a slice of length 1, so that its axis stays.
    """
    key: list[slice | EllipsisType] = []
    for item in parse_key(text):
        if isinstance(item, int):
            # -1:0 would be empty: the slice of the last pixel has no end.
            key.append(slice(item, item + 1 or None))
        elif isinstance(item, slice) and item.step not in (None, 1):
            raise click.BadParameter(f"{text!r} has a step of {item.step}; only step 1 can be cut")
        else:
            key.append(item)
    return tuple(key)


def slices_of_key(hdu: HDU, key: ParsedKey) -> tuple[slice, ...]:
    """Return the pixels along each axis that a key without steps selects."""
    shape = hdu.reader().shape
    try:
        indices = select(key, shape).indices
    except IndexError as error:
        raise click.UsageError(f"--key: {error}") from error
    if any(len(axis_indices) == 0 for axis_indices in indices):
        raise NoOverlapError(
            f"{hdu.where}: --key: no pixel of the image of shape {shape} is selected"
        )
    return tuple(slice(int(axis_indices[0]), int(axis_indices[-1]) + 1) for axis_indices in indices)


def parse_hdu_key(text: str) -> HduKey:
    """Parse an HDU's index, name, or ``name,version``."""
    name, comma, version = text.rpartition(",")
    try:
        return (name, int(version)) if comma else int(text)
    except ValueError:
        return text


def parse_chunks(text: str) -> Chunks:
    """Parse chunks as Dask takes them: ``auto``, a size, a length, or lengths with commas."""
    try:
        lengths = [length if length == "auto" else int(length) for length in text.split(",")]
    except ValueError:
        # A size such as 64MiB, or an error that is left to Dask.
        return text
    return lengths[0] if len(lengths) == 1 else tuple(lengths)


def parse_right_ascension(text: str) -> float:
    """Parse a right ascension in degrees, or in hours if it is sexagesimal; return degrees."""
    return _parse_degrees(text, "hourangle")


def parse_declination(text: str) -> float:
    """Parse a declination in degrees, decimal or sexagesimal; return degrees."""
    degrees = _parse_degrees(text, "deg")
    if abs(degrees) > 90:
        raise click.BadParameter(f"{text!r} is not between -90 and 90 degrees")
    return degrees


def _parse_degrees(text: str, sexagesimal_unit: str) -> float:
    """Parse degrees, or an angle in another form that astropy understands; return degrees."""
    from astropy.coordinates import Angle

    # A plain number is degrees whatever the unit: astropy would take 16.5 for hours.
    try:
        degrees = float(text)
    except ValueError:
        try:
            degrees = float(Angle(text, sexagesimal_unit).deg)
        except (ValueError, TypeError):
            degrees = math.nan
    if not math.isfinite(degrees):
        raise click.BadParameter(
            f"{text!r} is no angle in degrees such as 250.42, or sexagesimal such as 16:41:41.6"
        )
    return degrees


def parse_pixel(text: str) -> float:
    """Parse a pixel coordinate."""
    value = float(text)
    if not math.isfinite(value):
        raise click.BadParameter(f"{text!r} is not a finite number")
    return value


def parse_size(text: str) -> Size:
    """Parse one length or two, height and width: pixels (64, 64x32) or angles (30arcsec)."""
    pixels = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text)
    lengths = pixels.groups() if pixels else text.split(",")
    sides = [_parse_side(length.strip(), text) for length in lengths]
    if len(sides) > 2:
        raise click.BadParameter(f"{text!r} has {len(sides)} lengths, expected one or two")
    return sides[0] if len(sides) == 1 else sides


def _parse_side(length: str, text: str) -> int | Quantity:
    """Parse one length; `text` is the whole value, for messages."""
    from astropy import units

    # A longer number is no size; astropy finds that it has no unit.
    if re.fullmatch(r"\d{1,15}", length) and int(length) > 0:
        return int(length)
    try:
        angle = units.Quantity(length).to(units.deg)
    except (ValueError, TypeError):
        angle = units.Quantity(math.nan, units.deg)
    if not (math.isfinite(angle.value) and angle.value > 0):
        raise click.BadParameter(
            f"{text!r} is no size such as 64, 64x32 (pixels), 30arcsec or 1arcmin,2arcmin"
        )
    return angle


def parse_number(text: str) -> Fraction | float:
    """Parse a number exactly, to its last digit; also ``nan`` and ``inf``."""
    value = float(text)
    return Fraction(text.strip()) if math.isfinite(value) else value


def _parse_storage_option(text: str) -> tuple[str, Any]:
    """Parse one fsspec option, ``key=value``; the value is JSON, or text if it is not."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter("expected key=value")  # without the text: it may be a secret
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


# Three decorators, each of which stands on the one before: a command takes the options that reach
# storage, or these and a URL, or the file that they open.


def takes_storage_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that reach storage; the command gets `storage_options`, a function."""

    @click.option(
        "--storage-options",
        "options",
        type=_parse_storage_option,
        multiple=True,
        metavar="KEY=VALUE",
        help="Option of the fsspec filesystem, such as endpoint_url=… or profile=…; repeatable. "
        "The value may be JSON. On a shared machine keep secrets in the environment: a command "
        "line can be seen by others.",
    )
    @click.option("--anon", is_flag=True, help="Read a public S3 or GCS bucket unsigned.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(command)
    def run(options: tuple[tuple[str, Any], ...], *, anon: bool, debug: bool, **rest: Any) -> None:
        del debug  # `main` looks for it, since an error may come before the command
        explicit = dict(options)

        # By URL, since the options for unsigned access depend on the protocol.
        def storage_options(url: str) -> dict[str, Any]:
            return explicit | (_unsigned_options(url) if anon else {})

        command(storage_options=storage_options, **rest)

    return run


def takes_url(command: Callable[..., None]) -> Callable[..., None]:
    """Add the URL of a file and the options that reach it; the command gets an `Opener`.

    It opens the file when it is called, so that the command can check its options before.
    """

    @click.argument("url")
    @click.option(
        "--index",
        default="auto",
        metavar="DIR",
        help="Directory or URL with the indexes of gzip files.  [default: the user's cache]",
    )
    @functools.wraps(command)
    def run(url: str, *, index: str, storage_options: StorageOptions, **rest: Any) -> None:
        command(lambda: open_file(url, storage_options=storage_options(url), index=index), **rest)

    return takes_storage_options(run)


def takes_file(command: Callable[..., None]) -> Callable[..., None]:
    """Add the URL of a file and the options that reach it; the command gets the open file."""

    @functools.wraps(command)
    def run(opener: Opener, **rest: Any) -> None:
        command(opener(), **rest)

    return takes_url(run)


def _unsigned_options(url: str) -> dict[str, Any]:
    """Return the storage options for unsigned access; raise click.UsageError if there are none."""
    protocol = protocol_of(url)
    options = anonymous_options(url)
    if options is None:
        raise click.UsageError(f"--anon is for s3:// and gs:// URLs, not {protocol}://")
    # In a chain of URLs, fsspec takes the options of one protocol under its name.
    return {protocol: options} if "::" in url else options


hdu_option = click.option(
    "--hdu",
    type=parse_hdu_key,
    metavar="HDU",
    help="Index, name or NAME,VERSION.  [default: the first image]",
)


def hdus_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make the option of several HDUs; `default` says which ones are meant without it."""
    return click.option(
        "--hdu",
        "hdus",
        type=parse_hdu_key,
        multiple=True,
        metavar="HDU",
        help=f"Index, name or NAME,VERSION; repeatable.  [default: {default}]",
    )


def _to_dict(
    _context: click.Context, _parameter: click.Parameter, pairs: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    """Return options as a dict."""
    return dict(pairs)


output_options = click.option(
    "--output-options",
    type=_parse_storage_option,
    callback=_to_dict,
    multiple=True,
    metavar="KEY=VALUE",
    help="The same as --storage-options, for the output; repeatable.",
)

fill_value_option = click.option(
    "--fill-value",
    type=parse_number,
    metavar="VALUE",
    help="Of pixels off the image.  [default: NaN, or BLANK where the image has it]",
)
SIZE_HELP = "Height and width: pixels, 64 or 64x32; or angles, 30arcsec or 1arcmin,2arcmin."
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
