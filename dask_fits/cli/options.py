"""What the commands take: arguments, options, and the parsers of their values."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

from dask_fits.file.fits_file import FitsFile
from dask_fits.file.fits_file import open as open_file
from dask_fits.file.hdu import HDU, HduKey
from dask_fits.storage.errors import anonymous_options, protocol_of

Opener = Callable[[], FitsFile]
"""Opens the file that a command was given."""

Access = Callable[[str], dict[str, Any]]
"""Tells the storage options for a URL."""


def key(text: str) -> tuple[Any, ...]:
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


def box_key(text: str) -> tuple[Any, ...]:
    """Parse a key of a box without gaps: integers, slices with step 1 and ``...``.

    An integer becomes a slice of length 1, so that its axis stays.
    """
    return tuple(_box_item(item, text) for item in key(text))


def _box_item(item: Any, text: str) -> Any:
    if isinstance(item, slice):
        if item.step not in (None, 1):
            raise click.BadParameter(f"{text!r} has a step of {item.step}; only step 1 can be cut")
        return item
    return item if item is Ellipsis else slice(item, item + 1 or None)


def hdu_key(text: str) -> HduKey:
    """Parse an HDU's index, name, or ``name,version``."""
    name, comma, version = text.rpartition(",")
    try:
        return (name, int(version)) if comma else int(text)
    except ValueError:
        return text


def chunks(text: str) -> Any:
    """Parse chunks as Dask takes them: ``auto``, a size, a length, or lengths with commas."""
    try:
        lengths = [part if part == "auto" else int(part) for part in text.split(",")]
    except ValueError:
        return text
    return lengths[0] if len(lengths) == 1 else tuple(lengths)


def right_ascension(text: str) -> float:
    """Parse a right ascension: degrees, or hours where it is sexagesimal; gives degrees."""
    return _angle(text, "hourangle")


def declination(text: str) -> float:
    """Parse a declination: degrees, sexagesimal or not; gives degrees."""
    degrees = _angle(text, "deg")
    if abs(degrees) > 90:
        raise click.BadParameter(f"{text!r} is not between -90 and 90 degrees")
    return degrees


def _angle(text: str, unit: str) -> float:
    from astropy.coordinates import Angle

    try:
        degrees = float(text)
    except ValueError:
        try:
            degrees = float(Angle(text, unit).deg)
        except (ValueError, TypeError):
            degrees = math.nan
    if not math.isfinite(degrees):
        raise click.BadParameter(
            f"{text!r} is no angle in degrees such as 250.42, or sexagesimal such as 16:41:41.6"
        )
    return degrees


def pixel(text: str) -> float:
    """Parse a pixel coordinate."""
    value = float(text)
    if not math.isfinite(value):
        raise click.BadParameter(f"{text!r} is not a finite number")
    return value


def size(text: str) -> Any:
    """Parse one length or two, height and width: pixels (64, 64x32) or angles (30arcsec)."""
    pixels = re.fullmatch(r"\s*(\d+)\s*x\s*(\d+)\s*", text)
    sides = [_side(part.strip(), text) for part in (pixels.groups() if pixels else text.split(","))]
    if len(sides) > 2:
        raise click.BadParameter(f"{text!r} has {len(sides)} lengths, expected one or two")
    return sides[0] if len(sides) == 1 else sides


def _side(part: str, text: str) -> Any:
    from astropy import units

    if re.fullmatch(r"\d{1,15}", part) and int(part) > 0:
        return int(part)
    try:
        angle = units.Quantity(part).to(units.deg)
    except (ValueError, TypeError):
        angle = units.Quantity(math.nan, units.deg)
    if not (math.isfinite(angle.value) and angle.value > 0):
        raise click.BadParameter(
            f"{text!r} is no size such as 64, 64x32 (pixels), 30arcsec or 1arcmin,2arcmin"
        )
    return angle


def number(text: str) -> Fraction | float:
    """Parse a number, to the last digit; also ``nan`` and ``inf``."""
    value = float(text)
    return Fraction(text.strip()) if math.isfinite(value) else value


def _storage_option(text: str) -> tuple[str, Any]:
    """Parse one fsspec option, ``key=value``; the value is JSON, or text where it is no JSON."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter("expected key=value")  # without the text: it may be a secret
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def access_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what is needed to reach files, as an `Access`."""

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
        options: tuple[tuple[str, Any], ...], *, anon: bool, debug: bool, **rest: Any
    ) -> None:
        del debug  # `main` looks for it, since an error may come before the command
        given = dict(options)
        function(access=lambda url: given | (_anonymous(url) if anon else {}), **rest)

    return command


def url_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the URL of a file and what is needed to open it, as an `Opener`."""

    @click.argument("url")
    @functools.wraps(function)
    def command(url: str, *, access: Access, **rest: Any) -> None:
        function(lambda: open_file(url, storage_options=access(url)), **rest)

    return access_command(command)


def file_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an open file."""

    @functools.wraps(function)
    def command(opener: Opener, **rest: Any) -> None:
        function(opener(), **rest)

    return url_command(command)


def _anonymous(url: str) -> dict[str, Any]:
    """Options for unsigned access."""
    option, protocol = anonymous_options(url), protocol_of(url)
    if option is None:
        raise click.UsageError(f"--anon is for s3:// and gs:// URLs, not {protocol}://")
    return {protocol: option} if "::" in url else option


hdu_option = click.option(
    "--hdu",
    type=hdu_key,
    metavar="HDU",
    help="Index, name or NAME,VERSION.  [default: the first image]",
)
fill_value_option = click.option(
    "--fill-value",
    type=number,
    metavar="VALUE",
    help="Of pixels off the image.  [default: NaN, or BLANK where the image has it]",
)
SIZE_HELP = "Height and width: pixels, 64 or 64x32; or angles, 30arcsec or 1arcmin,2arcmin."
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def image(file: FitsFile, hdu: HduKey | None) -> HDU:
    """Find the HDU that was asked for; by default the first image."""
    return file.first_image() if hdu is None else file[hdu]
